//! `serve`: an NBD export on a Unix socket, without root and without a driver.

use luksmith_data_path::{Backing, BackingAccess, BackingCache, BackingError, BackingOptions};
use luksmith_keyslot::Target;
use luksmith_nbd_export::{NbdOptions, OnReady, ServeError};

use crate::args::Args;
use crate::errors;
use crate::exit::Exit;
use crate::hint::{Failure, shell};
use crate::output;
use crate::prompt::Asker;
use crate::session::Session;

/// Runs the verb: returns when the server was told to stop.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let socket = args.path("socket").ok_or_else(|| {
        Failure::usage("serve needs --socket: where shall clients connect?").no_disk()
    })?;
    let read_only = args.flag("readonly");
    let cache = if args.flag("buffered") {
        BackingCache::Buffered
    } else {
        BackingCache::Direct
    };
    let discards = args.flag("allow-discards");
    let mut session = Session::read(args)?;
    let plan = session.volume_plan(args)?;
    let path = session.data_path.clone();
    let unlocked = session.key_to_open(args, Target::Data, Asker::Terminal)?;
    let allow_discards = discards || plan.allow_discards;
    let keys = [(unlocked.digest, unlocked.key)];
    let volume = plan.open(&keys).map_err(|e| errors::volume(&path, &e))?;
    drop(keys);
    drop(session);
    let access = if read_only {
        BackingAccess::ReadOnly
    } else {
        BackingAccess::ReadWrite
    };
    let backing = Backing::open(&path, BackingOptions { access, cache }).map_err(backing_failed)?;
    let mut options = NbdOptions::new(&socket);
    options.read_only = read_only;
    options.allow_discards = allow_discards;
    options.on_ready = Some(OnReady::new(|ready| {
        for warning in &ready.warnings {
            output::note(&format!("warning: {warning}"));
        }
        // Whoever waits for this line may have gone; the export is there all the same.
        let _ = output::text(&format!("ready: {}\n", ready.uri));
    }));
    let summary = luksmith_nbd_export::serve(volume, backing, options)
        .map_err(|e| serve_failed(&path, &e))?;
    if args.flag("verbose") {
        output::note(&format!("{} clients were served.", summary.connections));
    }
    Ok(())
}

/// What to say when the data device cannot be had.
pub(crate) fn backing_failed(error: BackingError) -> Failure {
    let text = errors::chain(&error);
    match error {
        BackingError::Io { source, .. } => Failure::new(errors::exit_of_io(&source), text),
        BackingError::InUse { path, .. } => Failure::new(Exit::Busy, text)
            .hint("see what uses it")
            .command(format!("luksmith list; lsblk {}", shell(&path))),
        BackingError::WrongKind { .. } => Failure::new(Exit::WrongDevice, text),
        BackingError::NoDirectIo { .. } => Failure::new(Exit::WrongDevice, text)
            .hint("--buffered serves it through the page cache"),
    }
}

fn serve_failed(path: &std::path::Path, error: &ServeError) -> Failure {
    let text = format!("cannot serve {}: {}", shell(path), errors::chain(error));
    match error {
        ServeError::SocketInUse { .. } => {
            Failure::new(Exit::Busy, text).hint("stop that server, or give another --socket")
        }
        ServeError::Socket { .. } => Failure::usage(text)
            .hint("the directory of the socket must exist and be writable, the name be free"),
        ServeError::Ring(_) => Failure::usage(text)
            .hint("see whether io_uring may be used here")
            .command("luksmith doctor"),
        ServeError::Memlock { .. } => Failure::new(Exit::OutOfMemory, text)
            .hint("raise the limit of locked memory for this shell, then try again")
            .command("ulimit -l unlimited"),
        ServeError::NotDurable(_) => Failure::new(Exit::WrongDevice, text)
            .wrote("what clients wrote since their last flush may be lost")
            .hint("see what the kernel says about the disk")
            .command("dmesg | tail"),
        ServeError::Engine(_) | ServeError::System { .. } => Failure::new(Exit::Failure, text),
    }
}
