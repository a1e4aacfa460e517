//! `enroll` and `tpm enroll`: a slot for a TPM, for a recovery key, or for a passphrase.
//!
//! `enroll` takes the options of systemd-cryptenroll and does what that does. `tpm enroll` is the
//! guided way: a recovery key first, then the TPM, with a PIN unless something else was said.

use luksmith_crypto::VolumeKey;
use luksmith_keyslot::{NewSlot, RECOVERY_KIND, Target, has_recovery_key, plan_recovery};
use luksmith_luks2::Metadata;
use luksmith_tpm::token::KIND as TPM_KIND;

use crate::args::Args;
use crate::commands::tpm_plan::{TpmPlan, Unsaid};
use crate::commands::{recovery_key, wipe};
use crate::errors;
use crate::hint::{Failure, shell};
use crate::kdf;
use crate::output;
use crate::passphrase::{self, Source};
use crate::progress::Progress;
use crate::session::{Serial, Session, Tokens};

/// What a slot is enrolled for.
enum Factor {
    Tpm(Box<TpmPlan>),
    RecoveryKey,
    Password,
}

/// Runs `enroll`.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let factor = factor(args)?;
    let wipe = wipe::Wish::read(args)?;
    if factor.is_none() && wipe.is_none() {
        return list(args);
    }
    let mut session = Session::change(args)?;
    if let Some(wish) = &wipe {
        wish.check(&session)?;
    }
    let mut new = None;
    if let Some(factor) = factor {
        let key = existing_key(args, &mut session)?;
        new = Some(match factor {
            Factor::Tpm(plan) => {
                let sealed = plan.prepare(args, &session)?;
                sealed.write(args, &mut session, &key)?.slot
            }
            Factor::RecoveryKey => recovery(args, &mut session, &key)?,
            Factor::Password => password(args, &mut session, &key)?,
        });
    }
    match wipe {
        Some(wish) => wish.carry_out(args, &mut session, new),
        None => Ok(()),
    }
}

/// Runs `tpm enroll`.
pub(crate) fn tpm(args: &Args) -> Result<(), Failure> {
    let plan = TpmPlan::read(args, Unsaid::Pin)?;
    let without_recovery = args.flag("no-recovery-key");
    let mut session = Session::change(args)?;
    let key = existing_key(args, &mut session)?;
    output::note(&format!("{}.", plan.in_a_sentence()));
    let sealed = plan.prepare(args, &session)?;
    if !without_recovery && !has_recovery_key(session.metadata()) {
        recovery(args, &mut session, &key)?;
    }
    sealed.write(args, &mut session, &key).map(|_| ())
}

/// At most one thing at a time, as with systemd-cryptenroll.
fn factor(args: &Args) -> Result<Option<Factor>, Failure> {
    let by_tpm = args.text("tpm2-device").is_some();
    let wanted = [by_tpm, args.flag("recovery-key"), args.flag("password")];
    if wanted.iter().filter(|on| **on).count() > 1 {
        return Err(Failure::usage(
            "one thing at a time: --tpm2-device, --recovery-key and --password exclude each other",
        )
        .no_disk());
    }
    for option in ["tpm2-pcrs", "tpm2-with-pin", "tpm2-public-key-pcrs"] {
        if args.text(option).is_some() && !by_tpm {
            return Err(Failure::usage(format!(
                "option --{option} is refused: it needs --tpm2-device"
            ))
            .no_disk());
        }
    }
    Ok(match wanted {
        [true, ..] => Some(Factor::Tpm(Box::new(TpmPlan::read(args, Unsaid::Pcr7)?))),
        [_, true, _] => Some(Factor::RecoveryKey),
        [_, _, true] => Some(Factor::Password),
        _ => None,
    })
}

fn existing_key(args: &Args, session: &mut Session) -> Result<VolumeKey, Failure> {
    session
        .volume_key(args, None, Target::Data, Tokens::WhenAsked)
        .map(|unlocked| unlocked.key)
}

/// A recovery key, shown once.
pub(super) fn recovery(args: &Args, session: &mut Session, key: &VolumeKey) -> Result<u8, Failure> {
    let recovery_key = luksmith_keyslot::new_recovery_key().map_err(errors::crypto)?;
    let added = plan_recovery(session.header(), key, &recovery_key)
        .map_err(|error| errors::plan(&session.header_path, error))?;
    recovery_key::show(args, &session.data_path, &recovery_key)?;
    session.apply(added.change)?;
    output::note(&format!(
        "New recovery key enrolled as key slot {}.",
        added.slot
    ));
    Ok(added.slot)
}

/// One more passphrase.
fn password(args: &Args, session: &mut Session, key: &VolumeKey) -> Result<u8, Failure> {
    let source = Source::new_key(args, None).verified(args);
    let typed = source.read("New passphrase")?;
    passphrase::not_empty(args, &typed)?;
    let _serial = Serial::take(args)?;
    let mut new = NewSlot::new(&typed);
    new.kdf = kdf::choice(args)?;
    let mut progress = Progress::new(args, &session.header_path, "enroll");
    progress.stage("measuring the key derivation");
    let added = luksmith_keyslot::add(session.header(), key, &new)
        .map_err(|error| errors::plan(&session.header_path, error))?;
    session.apply(added.change)?;
    drop(progress);
    output::text(&format!(
        "New password enrolled as key slot {}.\n",
        added.slot
    ))?;
    Ok(added.slot)
}

/// Slots and what they are for.
fn list(args: &Args) -> Result<(), Failure> {
    let session = Session::read(args)?;
    let metadata = session.metadata();
    let slots: Vec<u8> = metadata
        .keyslots()
        .iter()
        .filter(|(_, slot)| slot.luks2().is_some())
        .map(|(number, _)| *number)
        .collect();
    if args.flag("json") {
        let rows: Vec<serde_json::Value> = slots
            .iter()
            .map(|slot| serde_json::json!({ "slot": slot, "type": factor_of(metadata, *slot) }))
            .collect();
        return output::json(&serde_json::json!({
            "schema": "luksmith.enrolled/1",
            "device": session.header_path.to_string_lossy(),
            "uuid": session.header().uuid(),
            "slots": rows,
        }));
    }
    if slots.is_empty() {
        return output::text(&format!(
            "{} has no keyslot: nothing opens it.\n",
            shell(&session.header_path)
        ));
    }
    let mut rows = vec![vec!["SLOT".to_owned(), "TYPE".to_owned()]];
    for slot in slots {
        rows.push(vec![slot.to_string(), factor_of(metadata, slot)]);
    }
    output::text(&output::table(&rows))
}

/// What a slot is for, in the word of systemd-cryptenroll.
pub(super) fn factor_of(metadata: &Metadata, slot: u8) -> String {
    let kind = metadata
        .tokens_of_keyslot(slot)
        .map(|(_, token)| &*token.kind)
        .next();
    match kind {
        None => "password".to_owned(),
        Some(RECOVERY_KIND) => "recovery".to_owned(),
        Some(TPM_KIND) => "tpm2".to_owned(),
        Some("systemd-fido2") => "fido2".to_owned(),
        Some("systemd-pkcs11") => "pkcs11".to_owned(),
        Some(other) => crate::commands::dump_text::shown(other),
    }
}
