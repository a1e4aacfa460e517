//! `header bless`: whoever has a key says that the header is as it should be.

use luksmith_crypto::MacKey;
use luksmith_keyslot::Target;
use luksmith_keyslot::header_mac::{self, Counter, HeaderMac, HeaderMacError};
use luksmith_tpm::{NvCounter, TpmError};

use crate::args::Args;
use crate::errors;
use crate::hint::{Failure, Written, shell};
use crate::output;
use crate::session::{Demand, Session, Tokens, confirm};
use crate::tpm_device;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.flag("remove") {
        return remove(args);
    }
    let tie = args.text("tpm2-device").is_some();
    let mut session = Session::change(args)?;
    session.find_counter_at(args)?;
    let unlocked = session.volume_key(
        args,
        args.index("key-slot"),
        Target::Data,
        Tokens::WhenAsked,
    )?;
    let key = header_mac::header_mac_key(&unlocked.key).map_err(errors::crypto)?;
    drop(unlocked);
    let state = header_mac::check(session.header(), &key);
    let named = header_mac::find(session.metadata())
        .ok()
        .flatten()
        .and_then(|found| found.counter)
        .map(|counter| counter.handle);
    let mark = mark(args, &session, &state, tie)?;
    let blessed =
        say_changes(args, &session, &state, &mark).and_then(|()| write(&mut session, &key, &mark));
    if let Err(failure) = blessed {
        // A counter that no header names is of no use to anybody.
        if mark.new
            && failure.written == Written::Nothing
            && let Some(counter) = &mark.counter
            && let Ok((counter, mut tpm)) = session.hold(counter)
        {
            let _ = counter.remove(&mut tpm);
        }
        return Err(failure);
    }
    let name = shell(&session.header_path);
    let (how, word) = match &mark.counter {
        None => (String::new(), "required".to_owned()),
        Some(counter) => (
            format!(", held by counter {:#010x} of the TPM", counter.handle),
            Demand::word_for(counter),
        ),
    };
    output::text(&format!(
        "The header of {name} is blessed: epoch {}{how}.\n",
        mark.epoch
    ))?;
    if !matches!(state, Ok(Some(_))) || mark.new {
        output::note(&format!(
            "In /etc/crypttab, header-mac={word} demands it; without, who takes the token out is not noticed."
        ));
    }
    if mark.new {
        // Also where no token says so: somebody may have taken it out to have a second counter made.
        let before = match named {
            Some(handle) => format!("It was tied to the counter {handle:#010x} before:"),
            None => "If it was tied to another counter before,".to_owned(),
        };
        output::note(&format!(
            "{before} change the line in /etc/crypttab, also in the initramfs. Where header-mac= names that counter, or \
             none, old headers of that counter open by themselves."
        ));
    }
    Ok(())
}

/// What the new token shall say.
struct Mark {
    epoch: u64,
    counter: Option<Counter>,
    /// Whether the counter was made just now.
    new: bool,
    /// Where the counter stood before.
    count: u64,
}

fn mark(
    args: &Args,
    session: &Session,
    state: &Result<Option<HeaderMac>, HeaderMacError>,
    tie: bool,
) -> Result<Mark, Failure> {
    let epoch = match state {
        Ok(Some(found)) => found.epoch,
        _ => 0,
    };
    let Some(counter) = counter_of(session, state) else {
        return if tie {
            new_counter(args)
        } else {
            Ok(Mark {
                epoch: epoch.max(1),
                counter: None,
                new: false,
                count: 0,
            })
        };
    };
    match session.count(&counter) {
        // What was blessed before must not come back, whoever changed the header since.
        Ok(count) => Ok(Mark {
            epoch: epoch.max(count) + 1,
            counter: Some(counter),
            new: false,
            count,
        }),
        Err(TpmError::NoSuchIndex { .. } | TpmError::WrongTpm { .. }) if tie => new_counter(args),
        Err(error) => Err(errors::tpm(&error)
            .detail("the header is tied to a counter of a TPM, which cannot be raised")
            .hint("tie it to a new counter with --tpm2-device=auto; or take the protection away first, and bless it without")
            .command(format!("luksmith header bless --remove {}", shell(&session.header_path)))),
    }
}

/// The counter that the header names, unless somebody changed that.
fn counter_of(
    session: &Session,
    state: &Result<Option<HeaderMac>, HeaderMacError>,
) -> Option<Counter> {
    match state {
        Ok(Some(found)) => found.counter.clone(),
        Err(HeaderMacError::Changed(parts)) if !parts.iter().any(|part| part == "counter") => {
            header_mac::find(session.metadata()).ok()??.counter
        }
        _ => None,
    }
}

/// Made before the header names it; a crash in between leaves an index that nothing uses, and the header as it was.
fn new_counter(args: &Args) -> Result<Mark, Failure> {
    let mut tpm = tpm_device::connect(args)?;
    let (counter, epoch) = NvCounter::define(&mut tpm).map_err(|error| errors::tpm(&error))?;
    let counter = Counter {
        handle: counter.handle,
        name: counter.name.as_bytes().to_vec(),
        srk: counter.srk.as_bytes().to_vec(),
    };
    Ok(Mark {
        epoch,
        counter: Some(counter),
        new: true,
        count: epoch,
    })
}

/// What is about to be blessed, if that is not what was blessed before.
fn say_changes(
    args: &Args,
    session: &Session,
    state: &Result<Option<HeaderMac>, HeaderMacError>,
    mark: &Mark,
) -> Result<(), Failure> {
    let name = shell(&session.header_path);
    let what = match state {
        Ok(None) => return Ok(()),
        Ok(Some(found)) if mark.new || found.epoch >= mark.count => return Ok(()),
        Ok(Some(found)) => format!(
            "is an old one that was put back: its epoch is {}, and that of the TPM {}",
            found.epoch, mark.count
        ),
        Err(why) => why.to_string(),
    };
    if args.flag("batch-mode") {
        output::note(&format!("The header of {name}: {what}."));
    }
    confirm(
        args,
        &[
            format!("WARNING: {name} is about to be blessed as it is; the header: {what}."),
            format!("If that was not you, look first at what it holds: luksmith dump {name}"),
        ],
    )
}

/// The header first, then the counter; why, stands at [`Session::apply`].
fn write(session: &mut Session, key: &MacKey, mark: &Mark) -> Result<(), Failure> {
    let change = header_mac::bless(session.header(), key, mark.epoch, mark.counter.as_ref())
        .map_err(|error| errors::plan(&session.header_path, error))?;
    session.apply_as_it_is(change)?;
    if let Some(counter) = &mark.counter {
        session.raise(counter, mark.epoch);
    }
    Ok(())
}

/// Takes the protection away.
fn remove(args: &Args) -> Result<(), Failure> {
    let mut session = Session::change(args)?;
    let name = shell(&session.header_path);
    let found = header_mac::find(session.metadata());
    if let Ok(None) = found {
        return Err(Failure::usage(format!(
            "the header of {name} is not blessed"
        )));
    }
    confirm(
        args,
        &[format!(
            "WARNING: nobody will notice any more when somebody changes the header of {name}. A machine \
             whose crypttab demands a MAC (header-mac=) will not open it by itself."
        )],
    )?;
    let change = header_mac::unbless(session.header())
        .map_err(|error| errors::plan(&session.header_path, error))?;
    session.apply_as_it_is(change)?;
    output::text(&format!("The header of {name} is blessed no longer.\n"))?;
    // After the header, which must not name a counter that is gone.
    if let Ok(Some(HeaderMac {
        counter: Some(counter),
        ..
    })) = found
    {
        let removed = session
            .hold(&counter)
            .and_then(|(counter, mut tpm)| counter.remove(&mut tpm));
        if let Err(why) = removed {
            output::note(&format!(
                "WARNING: its counter {0:#010x} could not be removed from the TPM: {1}. As long as it is there, old \
                 copies of the header count: tpm2_nvundefine {0:#010x}",
                counter.handle,
                errors::chain(&why)
            ));
        }
    }
    Ok(())
}
