//! `slot add`: one more passphrase.

use luksmith_crypto::VolumeKey;
use luksmith_keyslot::{DigestCost, NewSlot, Target};
use luksmith_luks2::Priority;

use crate::args::Args;
use crate::errors;
use crate::hint::Failure;
use crate::kdf;
use crate::output;
use crate::passphrase::{self, Source};
use crate::progress::Progress;
use crate::session::{Serial, Session, Tokens};

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let unbound = args.flag("unbound");
    let (unlock_slot, new_slot) = slots(args);
    let choice = kdf::choice(args)?;
    let hash = kdf::hash(args)?;
    let area_cipher = kdf::area_cipher(args)?;
    let priority = priority(args.text("priority").as_deref());
    if !unbound && args.small("key-size").is_some() {
        return Err(Failure::usage(
            "option --key-size is refused: without --unbound the slot holds the volume key",
        )
        .no_disk());
    }
    let mut session = Session::change(args)?;
    if let Some(slot) = new_slot
        && session.metadata().keyslot(slot).is_some()
    {
        return Err(errors::plan(
            &session.header_path,
            luksmith_keyslot::PlanError::SlotInUse(slot),
        ));
    }
    let key = if unbound {
        unbound_key(args)?
    } else {
        existing_key(args, &mut session, unlock_slot)?
    };
    let source = Source::new_key(args, Some("KEYFILE")).verified(args);
    let passphrase = source.read("New passphrase")?;
    passphrase::not_empty(args, &passphrase)?;
    let mut progress = Progress::new(args, &session.header_path, "slot add");
    if kdf::measures(&choice) {
        progress.stage("measuring the key derivation");
    }
    let _serial = Serial::take(args)?;
    let mut new = NewSlot::new(&passphrase);
    new.kdf = choice;
    new.hash = hash;
    new.area_cipher = area_cipher;
    new.slot = new_slot;
    new.priority = priority;
    let planned = if unbound {
        luksmith_keyslot::add_unbound(session.header(), &key, &new, DigestCost::Auto)
    } else {
        luksmith_keyslot::add(session.header(), &key, &new)
    };
    let added = planned.map_err(|e| errors::plan(&session.header_path, e))?;
    session.apply(added.change)?;
    if args.flag("verbose") {
        output::text(&format!("Key slot {} created.\n", added.slot))?;
    }
    Ok(())
}

/// Which slot unlocks and which is new: `--key-slot` names the new one, unless
/// `--new-key-slot` does; as with cryptsetup.
fn slots(args: &Args) -> (Option<u8>, Option<u8>) {
    match (args.index("key-slot"), args.index("new-key-slot")) {
        (old, Some(new)) => (old, Some(new)),
        (old, None) => (None, old),
    }
}

fn existing_key(
    args: &Args,
    session: &mut Session,
    slot: Option<u8>,
) -> Result<VolumeKey, Failure> {
    session
        .volume_key(args, slot, Target::Data, Tokens::WhenAsked)
        .map(|unlocked| unlocked.key)
}

/// The key of an unbound slot: from a file, or new.
fn unbound_key(args: &Args) -> Result<VolumeKey, Failure> {
    if args.path("key-file").is_some() {
        return Err(Failure::usage(
            "option --key-file is refused: an unbound slot needs no existing passphrase",
        )
        .no_disk());
    }
    let bits = args.small("key-size");
    if bits.is_some_and(|b| b == 0 || b % 8 != 0) {
        return Err(Failure::usage("--key-size must be a multiple of 8 bits").no_disk());
    }
    match (args.path("volume-key-file"), bits) {
        (_, None) => {
            Err(Failure::usage("--unbound needs --key-size: how long is the key?").no_disk())
        }
        (None, Some(bits)) => VolumeKey::generate(bits as usize / 8).map_err(errors::crypto),
        (Some(path), Some(bits)) => {
            let bytes = passphrase::volume_key_file(&path, bits as usize / 8)?;
            VolumeKey::adopt(bytes).map_err(errors::crypto)
        }
    }
}

/// `--priority`, already checked by the table of options.
pub(crate) fn priority(word: Option<&str>) -> Priority {
    match word {
        Some("ignore") => Priority::Ignore,
        Some("prefer") => Priority::Prefer,
        _ => Priority::Normal,
    }
}
