//! `slot remove` and `slot forget`: a keyslot goes, by its number or by its passphrase.

use luksmith_crypto::Passphrase;
use luksmith_keyslot::{LastSlot, PlanError, Target, Which};

use crate::args::Args;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::passphrase::Source;
use crate::prompt;
use crate::session::Session;

/// Removes the slot of this number, after a passphrase of another slot was given.
pub(crate) fn by_number(args: &Args) -> Result<(), Failure> {
    let slot = slot_argument(args)?;
    let mut session = Session::change(args)?;
    if session.metadata().keyslot(slot).is_none() {
        return Err(errors::plan(
            &session.header_path,
            PlanError::NoSuchSlot(slot),
        ));
    }
    let last = is_last(&session, slot);
    let source = Source::existing(args, None);
    let batch = args.flag("batch-mode");
    let others: Vec<u8> = luksmith_keyslot::usable_slots(session.metadata())
        .into_iter()
        .filter(|other| *other != slot)
        .collect();
    let question = if others.is_empty() {
        format!("Passphrase of keyslot {slot}")
    } else {
        "Passphrase of another keyslot".to_string()
    };
    // With --batch-mode a passphrase is used if there is one, and not asked for.
    let first = match batch {
        true if source.typed() => None,
        true => source.read_if_any(&question)?,
        false => Some(source.read(&question)?),
    };
    if let Some(first) = first {
        prove(&mut session, &source, slot, &others, first, &question)?;
    }
    args.flag("last-slot");
    if last {
        confirm_last(args, &session, slot)?;
    }
    remove(args, &mut session, slot, last)
}

/// Somebody must show that the volume opens without the slot, or, where it is the last, that
/// it was theirs.
fn prove(
    session: &mut Session,
    source: &Source,
    slot: u8,
    others: &[u8],
    first: Passphrase,
    question: &str,
) -> Result<(), Failure> {
    let (candidates, target) = match others {
        [] => (vec![slot], Target::AnyKey),
        others => (others.to_vec(), Target::Data),
    };
    let mut passphrase = first;
    let mut left = source.tries();
    loop {
        let mut attempts = Vec::new();
        for candidate in &candidates {
            match session.try_passphrase(Which::Only(*candidate), target, &passphrase) {
                Ok(_) => return Ok(()),
                Err(mut e) => attempts.append(&mut e.attempts),
            }
        }
        left -= 1;
        if left == 0 {
            let failure = errors::attempts(&session.header_path, &attempts);
            return Err(if others.is_empty() {
                failure
            } else {
                failure.detail(format!(
                    "the passphrase must open another keyslot than {slot}, which is to go"
                ))
            });
        }
        output::note("No keyslot opens with this passphrase.");
        passphrase = source.read(question)?;
    }
}

/// Removes the slot that the passphrase opens.
pub(crate) fn by_passphrase(args: &Args) -> Result<(), Failure> {
    let mut session = Session::change(args)?;
    let source = Source::existing(args, Some("KEYFILE"));
    let (unlocked, _) = session.unlock(
        args,
        &source,
        Which::ByPriority,
        Target::AnyKey,
        "Passphrase to be removed",
    )?;
    let slot = unlocked
        .slot
        .ok_or_else(|| errors::plan(&session.header_path, PlanError::ForeignKey))?;
    let last = is_last(&session, slot);
    args.flag("last-slot");
    if last {
        confirm_last(args, &session, slot)?;
    }
    remove(args, &mut session, slot, last)
}

fn remove(args: &Args, session: &mut Session, slot: u8, last: bool) -> Result<(), Failure> {
    let word = if last {
        LastSlot::Allow
    } else {
        LastSlot::Refuse
    };
    let change = luksmith_keyslot::remove(session.header(), slot, word)
        .map_err(|e| errors::plan(&session.header_path, e))?;
    session.apply(change)?;
    if args.flag("verbose") {
        output::text(&format!("Key slot {slot} removed.\n"))?;
    }
    Ok(())
}

fn is_last(session: &Session, slot: u8) -> bool {
    let usable = luksmith_keyslot::usable_slots(session.metadata());
    !session.metadata().is_unbound(slot) && usable.iter().all(|other| *other == slot)
}

/// The last slot needs a word of its own: `--batch-mode` stands in too many scripts to mean it.
fn confirm_last(args: &Args, session: &Session, slot: u8) -> Result<(), Failure> {
    if args.flag("last-slot") {
        return Ok(());
    }
    let name = shell(&session.header_path);
    let lines = [
        format!("WARNING: keyslot {slot} is the last one that opens the data on {name}."),
        "Without it, and without a header backup, the data is lost for ever.".to_string(),
    ];
    if prompt::person_there() && !args.flag("batch-mode") && prompt::confirm(&lines)? {
        return Ok(());
    }
    Err(
        errors::plan(&session.header_path, PlanError::LastSlot(slot)).detail(
            "--last-slot removes it all the same; without a header backup the data is lost",
        ),
    )
}

fn slot_argument(args: &Args) -> Result<u8, Failure> {
    let word = args.required("SLOT")?;
    word.to_str()
        .and_then(|text| text.parse::<u8>().ok())
        .filter(|slot| *slot < luksmith_luks2::metadata::MAX_KEYSLOTS)
        .ok_or_else(|| {
            Failure::usage(format!(
                "'{}' is not the number of a keyslot (0 to 31)",
                word.to_string_lossy()
            ))
            .no_disk()
        })
}

/// The number of a slot as an argument, for other verbs.
pub(crate) fn number(args: &Args) -> Result<u8, Failure> {
    slot_argument(args)
}
