//! `open`: unlock, then serve as a block device; or only check the passphrase.

use luksmith_crypto::{KeyHandover, VolumeKey};
use luksmith_keyslot::{Target, Unlocked};
use luksmith_luks2::Change;
use luksmith_ublk_target::{Opened, ServeOptions, ServePlan, VolumeName};
use luksmith_volume::VolumePlan;

use crate::args::Args;
use crate::commands::tpm;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::prompt::{self, Asker};
use crate::refusal;
use crate::session::Session;

/// Options that set a persistent flag, and the flag's name in the header.
const FLAGS: [(&str, &str); 6] = [
    ("allow-discards", "allow-discards"),
    ("perf-same_cpu_crypt", "same-cpu-crypt"),
    ("perf-submit_from_crypt_cpus", "submit-from-crypt-cpus"),
    ("perf-no_read_workqueue", "no-read-workqueue"),
    ("perf-no_write_workqueue", "no-write-workqueue"),
    ("perf-high_priority", "high_priority"),
];

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let unbound = args.flag("unbound");
    if args.flag("test-passphrase") {
        return test_passphrase(args, unbound);
    }
    if unbound {
        return Err(Failure::usage(
            "--unbound needs --test-passphrase: an unbound key opens no data",
        )
        .no_disk());
    }
    let name = args
        .positional("NAME")
        .ok_or_else(|| Failure::usage("the name of the open volume is missing").no_disk())?;
    let name = VolumeName::new(&name.to_string_lossy()).map_err(errors::ublk)?;
    let persistent = args.flag("persistent");
    let flags = flags(args, persistent)?;
    let mut session = if persistent {
        Session::change(args)?
    } else {
        Session::read(args)?
    };
    // What cannot be opened is said before anybody is asked for a passphrase.
    let volume = session.volume_plan(args)?;
    let unlocked = session.key_to_open(args, Target::Data, Asker::Terminal)?;
    let opened = serve(args, &session, name, volume, &unlocked)?;
    if persistent {
        store_flags(&mut session, &flags).map_err(|failure| {
            failure.detail(format!(
                "the volume is open as {}; only the flags were not stored",
                opened.path.display()
            ))
        })?;
    }
    offer_to_reseal(args, session, &unlocked.key).map_err(|failure| {
        failure.detail(format!(
            "the volume is open as {}; only the TPM was not bound anew",
            opened.path.display()
        ))
    })
}

/// The TPM refused, and somebody at the terminal had another way in: he knows whether the change
/// was his.
fn offer_to_reseal(args: &Args, session: Session, key: &VolumeKey) -> Result<(), Failure> {
    let refused = refusal::of(&session);
    drop(session);
    if args.flag("batch-mode") || !prompt::person_there() {
        return Ok(());
    }
    for one in refused {
        if !one.is_of_the_slot() {
            continue;
        }
        output::note(&format!(
            "The TPM refused token {}: {}.",
            one.token, one.why
        ));
        if !prompt::yes("Was the change yours? Bind the TPM to the present state now?")? {
            output::note(&format!("Later: {}", one.command));
            continue;
        }
        let mut session = Session::change(args)?;
        let token = tpm::token_of(&session, Some(one.token))?;
        tpm::reseal_with(args, &mut session, token, key)?;
    }
    Ok(())
}

/// Serves a volume that was unlocked, as the options of `open` say.
pub(crate) fn serve(
    args: &Args,
    session: &Session,
    name: VolumeName,
    volume: VolumePlan,
    unlocked: &Unlocked,
) -> Result<Opened, Failure> {
    let handover = KeyHandover::from_key(&unlocked.key).map_err(errors::crypto)?;
    let options = ServeOptions {
        read_only: args.flag("readonly"),
        allow_discards: args.flag("allow-discards") || volume.allow_discards,
        queues: args.number("queues").map(|n| n as u16),
        depth: args
            .number("queue-depth")
            .map_or(ServeOptions::default().depth, |n| n as u16),
        buffered_backing: args.flag("buffered"),
        root_storage: args.flag("initramfs"),
        ..ServeOptions::default()
    };
    let opened = luksmith_ublk_target::open(ServePlan {
        name,
        volume,
        keys: vec![(unlocked.digest, handover)],
        backing: session.data_path.clone(),
        header: session.detached().then(|| session.header_path.clone()),
        options,
    })
    .map_err(errors::ublk)?;
    refusal::keep(session);
    for warning in &opened.warnings {
        output::note(&format!("warning: {warning}"));
    }
    if prompt::person_there() || args.flag("verbose") {
        output::note(&format!(
            "{} is open as {} ({}).",
            shell(&session.data_path),
            opened.path.display(),
            opened.facts.device.display(),
        ));
    }
    Ok(opened)
}

fn test_passphrase(args: &Args, unbound: bool) -> Result<(), Failure> {
    for (option, _) in FLAGS {
        if args.flag(option) {
            return Err(not_with_test(option));
        }
    }
    // A test is read-only anyway.
    let _ = args.flag("readonly");
    for option in ["persistent", "buffered", "initramfs"] {
        if args.flag(option) {
            return Err(not_with_test(option));
        }
    }
    for option in ["queues", "queue-depth"] {
        if args.number(option).is_some() {
            return Err(not_with_test(option));
        }
    }
    // A name is taken and not used, as with cryptsetup.
    let _ = args.positional("NAME");
    let mut session = Session::read(args)?;
    let target = if unbound {
        Target::AnyKey
    } else {
        Target::Data
    };
    session
        .key_to_open(args, target, Asker::Terminal)
        .map(|_| ())
}

fn not_with_test(option: &str) -> Failure {
    Failure::usage(format!(
        "option --{option} is refused: it means nothing with --test-passphrase"
    ))
    .no_disk()
}

fn flags(args: &Args, persistent: bool) -> Result<Vec<&'static str>, Failure> {
    let mut names = Vec::new();
    for (option, flag) in FLAGS {
        if !args.flag(option) {
            continue;
        }
        names.push(flag);
        if !persistent && option != "allow-discards" {
            output::note(&format!(
                "note: --{option} tunes dm-crypt; here requests are always encrypted on the \
                 thread that serves them"
            ));
        }
    }
    Ok(names)
}

/// Replaces the flags that are known by those given; unknown ones stay.
fn store_flags(session: &mut Session, flags: &[&str]) -> Result<(), Failure> {
    let path = session.header_path.clone();
    let failed = |e| errors::format(&path, &e);
    let known = |name: &str| FLAGS.iter().any(|(_, flag)| *flag == name);
    let mut all: Vec<String> = session
        .metadata()
        .flags()
        .iter()
        .filter(|f| !known(f))
        .cloned()
        .collect();
    all.extend(flags.iter().map(|f| (*f).to_string()));
    let metadata = session.metadata().with_flags(&all).map_err(failed)?;
    let after = session.header().with_metadata(metadata).map_err(failed)?;
    let change = Change::edit(session.header(), &after).map_err(failed)?;
    session.apply(change)
}
