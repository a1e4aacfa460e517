//! `tpm …`: the TPM of the machine, and the slots that it opens.

use std::collections::BTreeMap;

use luksmith_keyslot::{LastSlot, Target, TokenError, remove_all_of};
use luksmith_luks2::Token;
use luksmith_tpm::token::{Enrolment, KIND, NewPin, Pin, PolicyFiles, SystemdTpm2};
use luksmith_tpm::{FixedValue, HashAlg, IDENTITY_PCR, Lockout, Tpm, TpmError};
use serde_json::{Value, json};

use crate::args::Args;
use crate::commands::tpm_plan::{bind, new_pin};
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

fn tries(lockout: &Lockout) -> String {
    let rules = lockout.rules;
    let forget = match rules.forget_one_after_s {
        0 => "none is ever forgotten".to_owned(),
        seconds => format!("one is forgotten every {}", errors::span(seconds.into())),
    };
    match lockout.tries_left() {
        0 => match lockout.remaining() {
            Some(time) => format!("locked, for at most {}", errors::span(time.as_secs())),
            None => "locked".to_owned(),
        },
        left => format!(
            "{} of {}, {left} left; {forget}",
            lockout.wrong_tries, rules.max_tries
        ),
    }
}

/// The TPM slots of a volume, and whether each would open now. No try is spent on it.
pub(crate) fn list(args: &Args) -> Result<(), Failure> {
    let session = Session::read(args)?;
    let mut tpm = tpm_device::connect(args);
    let files = tpm_device::policy_files(args);
    let mut rows = Vec::new();
    for (number, token) in session.metadata().tokens() {
        if token.kind == KIND {
            let tpm = tpm.as_mut().ok().map(|tpm| tpm as &mut dyn Tpm);
            rows.push(Row::of(*number, token, tpm, &files));
        }
    }
    if args.flag("json") {
        let rows: Vec<Value> = rows.iter().map(Row::json).collect();
        return output::json(&json!({
            "schema": "luksmith.tpm-slots/1",
            "device": session.header_path.to_string_lossy(),
            "uuid": session.header().uuid(),
            "tokens": rows,
        }));
    }
    if rows.is_empty() {
        return output::text("No TPM opens this volume.\n");
    }
    let title = ["TOKEN", "SLOT", "PCRS", "BANK", "PIN", "OPENS NOW"];
    let mut table = vec![title.map(String::from).to_vec()];
    table.extend(rows.iter().map(Row::columns));
    output::text(&output::table(&table))
}

/// One TPM token as it is shown.
struct Row {
    number: u8,
    slots: Vec<u8>,
    read: Result<SystemdTpm2, TpmError>,
    /// What stands in the way now, or nothing.
    obstacle: Option<String>,
}

impl Row {
    fn of(number: u8, token: &Token, tpm: Option<&mut dyn Tpm>, files: &PolicyFiles) -> Self {
        let read = SystemdTpm2::parse(token);
        let obstacle = match (&read, tpm) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(_), None) => Some("no TPM".to_owned()),
            (Ok(read), Some(tpm)) => obstacle(read, tpm, files).err().map(|error| match error {
                TpmError::PolicyMismatch { detail } => detail,
                other => other.to_string(),
            }),
        };
        Self {
            number,
            slots: token.keyslots.clone(),
            read,
            obstacle,
        }
    }

    fn columns(&self) -> Vec<String> {
        let listed = |numbers: &[u8]| {
            let words: Vec<String> = numbers.iter().map(u8::to_string).collect();
            if words.is_empty() {
                "-".to_owned()
            } else {
                words.join("+")
            }
        };
        let pin = self.pin();
        let (pcrs, bank) = match &self.read {
            Ok(read) => (listed(&read.pcrs), read.bank.map_or("-", HashAlg::name)),
            Err(_) => ("?".to_owned(), "?"),
        };
        let opens = match (&self.obstacle, pin) {
            (Some(why), _) => format!("no: {why}"),
            (None, "no") => "yes".to_owned(),
            (None, _) => "with the PIN".to_owned(),
        };
        vec![
            self.number.to_string(),
            listed(&self.slots),
            pcrs,
            bank.to_owned(),
            pin.to_owned(),
            opens,
        ]
    }

    fn pin(&self) -> &'static str {
        match self.read.as_ref().map(|read| &read.pin) {
            Err(_) => "?",
            Ok(Pin::None) => "no",
            Ok(Pin::Plain) => "hashed",
            Ok(Pin::Salted { .. }) => "direct",
            Ok(Pin::Argon2id { .. }) => "argon2id",
        }
    }

    fn json(&self) -> Value {
        let read = self.read.as_ref().ok();
        json!({
            "token": self.number,
            "keyslots": self.slots,
            "pcrs": read.map(|read| read.pcrs.clone()),
            "bank": read.and_then(|read| read.bank).map(HashAlg::name),
            "pin": self.pin(),
            "opens_now": self.obstacle.is_none(),
            "obstacle": self.obstacle,
        })
    }
}

/// Whether the machine's state fits, and the TPM takes a try where one is needed.
fn obstacle(token: &SystemdTpm2, tpm: &mut dyn Tpm, files: &PolicyFiles) -> Result<(), TpmError> {
    token.fitting_policies(tpm, files)?;
    if token.pin.is_needed() {
        let lockout = tpm.lockout()?;
        if lockout.tries_left() == 0 {
            return Err(TpmError::LockedOut {
                remaining: lockout.remaining(),
            });
        }
    }
    Ok(())
}

/// Binds a slot anew to the PCRs as they are now.
pub(crate) fn reseal(args: &Args) -> Result<(), Failure> {
    let mut session = Session::change(args)?;
    let (number, slots, token) = the_token(args, &session)?;
    if token.pcrlock.is_some() && token.pcrs.is_empty() {
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
    let bound = bind(args, &mut session, &key, &mut tpm, &enrolment)?;
    if signed_elsewhere && !bound.tried {
        output::note(&format!(
            "Token {number} with its old values is still there, until the new one has opened once."
        ));
        return Ok(());
    }
    // A TPM without a resource manager serves one at a time, and the removal may have to count in it.
    drop(tpm);
    // Not before the new one is on the disk.
    let change = remove_all_of(session.header(), &slots, LastSlot::Refuse)
        .map_err(|error| errors::plan(&session.header_path, error))?;
    session.apply(change)?;
    output::note(&format!("Token {number} with its old values is gone."));
    Ok(())
}

/// PCR 15 is of use to a slot only as it is before a volume was opened; now one is.
fn fuse(pcrs: &[u8]) -> BTreeMap<u8, FixedValue> {
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
    let name = shell(&session.header_path);
    let wanted = args.index("token-id");
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
    let (number, token) = found
        .next()
        .ok_or_else(|| wrong("there is no such TPM slot"))?;
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
