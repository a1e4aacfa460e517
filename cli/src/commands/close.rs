//! `close`: the device goes, and every copy of the key with it.

use std::ffi::OsStr;
use std::path::Path;

use luksmith_ublk_target::{Close, Closed, VolumeName};

use crate::args::Args;
use crate::errors;
use crate::exit::Exit;
use crate::hint::Failure;
use crate::output;
use crate::session::check_type;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    check_type(args)?;
    ignored_header(args);
    let name = name(&args.required("NAME")?)?;
    let how = match (args.flag("deferred"), args.flag("cancel-deferred")) {
        (true, true) => {
            return Err(
                Failure::usage("--deferred and --cancel-deferred exclude each other").no_disk(),
            );
        }
        (true, false) => Close::Deferred,
        (false, true) => Close::CancelDeferred,
        (false, false) => Close::Now,
    };
    match luksmith_ublk_target::close(&name, how).map_err(errors::ublk)? {
        Closed::Closed { flush_error: None } => Ok(()),
        Closed::Closed {
            flush_error: Some(why),
        } => Err(Failure::new(
            Exit::WrongDevice,
            format!("{name} is closed, but its last flush failed: {why}"),
        )
        .wrote("what was written last may be lost")
        .hint("check the file system when the volume is open again; see what the kernel says")
        .command("dmesg | tail")),
        Closed::Pending => {
            output::note(&format!("{name} closes when its last user is gone."));
            Ok(())
        }
        Closed::Cancelled { was_pending: true } => Ok(()),
        Closed::Cancelled { was_pending: false } => {
            output::note(&format!("{name}: no deferred close was pending."));
            Ok(())
        }
    }
}

/// A volume by its name or by its path in `/dev/luksmith`.
pub(crate) fn name(word: &OsStr) -> Result<VolumeName, Failure> {
    let path = Path::new(word);
    let name = path
        .strip_prefix(luksmith_ublk_target::udev::LINK_FOLDER)
        .unwrap_or(path);
    VolumeName::new(&name.to_string_lossy()).map_err(|e| errors::ublk(e).no_disk())
}

/// cryptsetup needs to be told of a detached header here; the open volume knows its own.
pub(crate) fn ignored_header(args: &Args) {
    let _ = (args.path("header"), args.flag("disable-locks"));
}
