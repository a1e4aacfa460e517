//! `slot change` and `slot convert`: new material for a slot that stays.

use luksmith_keyslot::{NewSlot, PlanError, Target, Which};

use crate::args::Args;
use crate::errors;
use crate::hint::Failure;
use crate::kdf;
use crate::output;
use crate::passphrase::{self, Source};
use crate::progress::Progress;
use crate::session::{Serial, Session};

/// A new passphrase for the slot that the old one opens.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    renew(args, true)
}

/// New key derivation parameters; the passphrase stays.
pub(crate) fn convert(args: &Args) -> Result<(), Failure> {
    renew(args, false)
}

fn renew(args: &Args, new_passphrase: bool) -> Result<(), Failure> {
    let choice = kdf::choice(args)?;
    let hash = kdf::hash(args)?;
    let area_cipher = kdf::area_cipher(args)?;
    let slot = args.index("key-slot");
    let mut session = Session::change(args)?;
    let which = slot.map_or(Which::ByPriority, Which::Only);
    let source = Source::existing(args, None);
    let question = if new_passphrase {
        "Passphrase to be changed".to_string()
    } else {
        format!(
            "Passphrase of the keyslot to be converted on {}",
            session.header_path.display()
        )
    };
    let (unlocked, old) = session.unlock(args, &source, which, Target::AnyKey, &question)?;
    let Some(slot) = unlocked.slot else {
        return Err(errors::plan(&session.header_path, PlanError::ForeignKey));
    };
    let passphrase = if new_passphrase {
        let new = Source::new_key(args, Some("KEYFILE"))
            .verified(args)
            .read("New passphrase")?;
        passphrase::not_empty(args, &new)?;
        new
    } else {
        old
    };
    let what = if new_passphrase {
        "slot change"
    } else {
        "slot convert"
    };
    let mut progress = Progress::new(args, &session.header_path, what);
    if kdf::measures(&choice) {
        progress.stage("measuring the key derivation");
    }
    let _serial = Serial::take(args)?;
    let mut new = NewSlot::new(&passphrase);
    new.kdf = choice;
    new.hash = hash;
    new.area_cipher = area_cipher;
    let change = luksmith_keyslot::change(session.header(), slot, &unlocked.key, &new)
        .map_err(|e| errors::plan(&session.header_path, e))?;
    session.apply(change)?;
    if args.flag("verbose") {
        output::text(&format!("Key slot {slot} changed.\n"))?;
    }
    Ok(())
}
