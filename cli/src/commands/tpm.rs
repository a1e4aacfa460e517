//! `tpm …`: the TPM of the machine, and the slots that it opens.

use std::collections::BTreeMap;

use luksmith_crypto::VolumeKey;
use luksmith_keyslot::{LastSlot, Target, TokenError, remove_all_of};
use luksmith_tpm::token::{CLEVIS_KIND, Enrolment, KIND, NewPin, Pin, SystemdTpm2};
use luksmith_tpm::{FixedValue, HashAlg, IDENTITY_PCR, Tpm};
use serde_json::json;

use crate::args::Args;
use crate::commands::lockout::tries;
use crate::commands::tpm_plan::{new_pin, seal};
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::session::{Session, Tokens};
use crate::tpm_device;

/// The TPM: who made it, and how many wrong PINs it still takes.
pub(crate) fn status(args: &Args) -> Result<(), Failure> {
    let failed = |error| errors::tpm(&error);
    let mut tpm = tpm_device::connect(args)?;
    let facts = tpm.facts().map_err(failed)?;
    let lockout = tpm.lockout().map_err(failed)?;
    let banks: Vec<&str> = tpm
        .banks()
        .map_err(failed)?
        .iter()
        .map(|b| b.name())
        .collect();
    let [high, low] = facts.firmware;
    if args.flag("json") {
        return output::json(&json!({
            "schema": "luksmith.tpm/1",
            "manufacturer": facts.manufacturer,
            "firmware": facts.firmware,
            "banks": banks,
            "owner_authorization_set": facts.owner_auth_set,
            "lockout_authorization_set": facts.lockout_auth_set,
            "policy_authorize_nv": facts.has_policy_authorize_nv,
            "lockout": {
                "locked": lockout.locked,
                "wrong_tries": lockout.wrong_tries,
                "max_tries": lockout.rules.max_tries,
                "tries_left": lockout.tries_left(),
                "forget_one_after_s": lockout.rules.forget_one_after_s,
            },
        }));
    }
    output::text(&format!(
        "Maker:          {}\nFirmware:       {high:#010x} {low:#010x}\nPCR banks:      {}\n\
         Wrong PINs:     {}\nOwner auth:     {}\nLockout auth:   {}\n",
        facts.manufacturer,
        banks.join(", "),
        tries(&lockout),
        set(facts.owner_auth_set),
        set(facts.lockout_auth_set),
    ))
}

fn set(is: bool) -> &'static str {
    if is { "set" } else { "not set" }
}

/// Binds a slot anew to the PCRs as they are now.
pub(crate) fn reseal(args: &Args) -> Result<(), Failure> {
    let mut session = Session::change(args)?;
    let bound = the_token(args, &session)?;
    if bound.2.pcrlock.is_some() && bound.2.pcrs.is_empty() {
        return Err(Failure::usage(
            "the slot is bound to a policy in the TPM: that is rewritten, and the slot stays as it is",
        )
        .hint("by the program that made it, this one or systemd's")
        .command("luksmith tpm update")
        .command("systemd-pcrlock make-policy"));
    }
    let key = session
        .volume_key(args, None, Target::Data, Tokens::WhenAsked)?
        .key;
    reseal_with(args, &mut session, bound, &key)
}

/// The same with a key that is there, for this token.
pub(super) fn reseal_with(
    args: &Args,
    session: &mut Session,
    (number, slots, token): (u8, Vec<u8>, SystemdTpm2),
    key: &VolumeKey,
) -> Result<(), Failure> {
    let mut tpm = tpm_device::connect(args)?;
    let how = match token.pin {
        Pin::None => None,
        Pin::Argon2id { .. } => Some(NewPin::default()),
        Pin::Plain | Pin::Salted { .. } => Some(NewPin::Salted),
    };
    let pin = match how {
        None => None,
        Some(how) => Some((new_pin(args, &mut tpm)?, how)),
    };
    let enrolment = Enrolment {
        bank: token.bank.unwrap_or(HashAlg::Sha256),
        pcrs: &token.pcrs,
        values: fuse(&token.pcrs),
        pin: pin.as_ref().map(|(pin, how)| (pin, *how)),
        legacy_primary: false,
        signed: token.signed,
        pcrlock: token.pcrlock.is_some(),
        files: tpm_device::policy_files(args),
    };
    let signed_elsewhere = enrolment.signed.is_some() || enrolment.pcrlock;
    let bound = seal(args, session, tpm, &enrolment)?.write(args, session, key)?;
    if signed_elsewhere && !bound.tried {
        output::note(&format!(
            "Token {number} with its old values is still there, until the new one has opened once."
        ));
        return Ok(());
    }
    // Not before the new one is on the disk.
    let change = remove_all_of(session.header(), &slots, LastSlot::Refuse)
        .map_err(|error| errors::plan(&session.header_path, error))?;
    session.apply(change)?;
    output::note(&format!("Token {number} with its old values is gone."));
    Ok(())
}

/// PCR 15 is of use to a slot only as it is before a volume was opened; now one is.
pub(super) fn fuse(pcrs: &[u8]) -> BTreeMap<u8, FixedValue> {
    pcrs.iter()
        .filter(|pcr| **pcr == IDENTITY_PCR)
        .map(|pcr| (*pcr, FixedValue::Zero))
        .collect()
}

/// The token that is meant: the one that was named, or the only one.
pub(super) fn the_token(
    args: &Args,
    session: &Session,
) -> Result<(u8, Vec<u8>, SystemdTpm2), Failure> {
    token_of(session, args.index("token-id"))
}

/// The token of this number, or the only one.
pub(super) fn token_of(
    session: &Session,
    wanted: Option<u8>,
) -> Result<(u8, Vec<u8>, SystemdTpm2), Failure> {
    let name = shell(&session.header_path);
    let mut found = session
        .metadata()
        .tokens()
        .iter()
        .filter(|(number, token)| token.kind == KIND && wanted.is_none_or(|one| one == **number));
    let wrong = |what: &str| {
        Failure::usage(format!("{name}: {what}"))
            .hint("see which tokens there are, and name one with --token-id")
            .command(format!("luksmith tpm list {name}"))
    };
    let Some((number, token)) = found.next() else {
        return Err(clevis(session, wanted).unwrap_or_else(|| wrong("there is no such TPM slot")));
    };
    if found.next().is_some() {
        return Err(wrong("there is more than one TPM slot"));
    }
    let read = SystemdTpm2::parse(token)
        .map_err(|error| errors::tpm(&error).detail(format!("token {number} of {name}")))?;
    if let Some(beyond) = read.beyond.first() {
        let error = TokenError::Unsupported(format!("token with {beyond}"));
        return Err(wrong(&error.to_string()));
    }
    Ok((*number, token.keyslots.clone(), read))
}

/// What is said of a slot that somebody else's program bound.
fn clevis(session: &Session, wanted: Option<u8>) -> Option<Failure> {
    let name = shell(&session.header_path);
    let mut tokens = session.metadata().tokens().iter();
    let (number, _) = tokens.find(|(number, token)| {
        token.kind == CLEVIS_KIND && wanted.is_none_or(|one| one == **number)
    })?;
    Some(
        Failure::usage(format!(
            "{name}: token {number} is one of clevis: it is opened as it is, and neither bound anew nor explained"
        ))
        .hint("move it to a slot that is")
        .command(format!("luksmith tpm migrate {name} --token-id {number}")),
    )
}
