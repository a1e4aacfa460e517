//! `enroll` and `tpm enroll`: a slot for a TPM, for a recovery key, or for a passphrase.
//!
//! `enroll` takes the options of systemd-cryptenroll and does what that does. `tpm enroll` is the
//! guided way: a recovery key first, then the TPM, with a PIN unless something else was said.

use luksmith_crypto::{Passphrase, VolumeKey};
use luksmith_keyslot::{NewSlot, RECOVERY_KIND, Target, has_recovery_key, plan_recovery};
use luksmith_luks2::Metadata;
use luksmith_tpm::token::{Enrolment, KIND as TPM_KIND, NewPin, enrol, plan_slot};
use luksmith_tpm::{HashAlg, PcrList, PcrSelection, Tpm, TpmError};

use crate::args::Args;
use crate::commands::{recovery_key, why, wipe};
use crate::errors;
use crate::hint::{Failure, shell};
use crate::kdf;
use crate::output;
use crate::passphrase::{self, Source};
use crate::progress::Progress;
use crate::prompt;
use crate::session::{Serial, Session, Tokens};
use crate::tpm_device;

/// What a slot is enrolled for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Factor {
    Tpm,
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
    let plan = match factor {
        Some(Factor::Tpm) => Some(TpmPlan::read(args, Default7::WithoutPin)?),
        _ => None,
    };
    let mut session = Session::change(args)?;
    let mut new = None;
    if let Some(factor) = factor {
        let key = existing_key(args, &mut session)?;
        new = Some(match (factor, plan) {
            (Factor::Tpm, Some(plan)) => plan.carry_out(args, &mut session, &key)?,
            (Factor::Password, _) => password(args, &mut session, &key)?,
            _ => recovery(args, &mut session, &key)?,
        });
    }
    match wipe {
        Some(wish) => wish.carry_out(&mut session, new),
        None => Ok(()),
    }
}

/// Runs `tpm enroll`.
pub(crate) fn tpm(args: &Args) -> Result<(), Failure> {
    let plan = TpmPlan::read(args, Default7::Never)?;
    let without_recovery = args.flag("no-recovery-key");
    let mut session = Session::change(args)?;
    let key = existing_key(args, &mut session)?;
    if !without_recovery && !has_recovery_key(session.metadata()) {
        recovery(args, &mut session, &key)?;
    }
    output::note(&format!("{}.", plan.in_a_sentence()));
    plan.carry_out(args, &mut session, &key).map(|_| ())
}

/// At most one thing at a time, as with systemd-cryptenroll.
fn factor(args: &Args) -> Result<Option<Factor>, Failure> {
    let wanted = [
        (args.text("tpm2-device").is_some(), Factor::Tpm),
        (args.flag("recovery-key"), Factor::RecoveryKey),
        (args.flag("password"), Factor::Password),
    ];
    let mut wanted = wanted.iter().filter(|(on, _)| *on).map(|(_, what)| *what);
    let first = wanted.next();
    if wanted.next().is_some() {
        return Err(Failure::usage(
            "one thing at a time: --tpm2-device, --recovery-key and --password exclude each other",
        )
        .no_disk());
    }
    for option in ["tpm2-pcrs", "tpm2-with-pin"] {
        if args.text(option).is_some() && first != Some(Factor::Tpm) {
            return Err(Failure::usage(format!(
                "option --{option} is refused: it needs --tpm2-device"
            ))
            .no_disk());
        }
    }
    Ok(first)
}

fn existing_key(args: &Args, session: &mut Session) -> Result<VolumeKey, Failure> {
    session
        .volume_key(args, None, Target::Data, Tokens::WhenAsked)
        .map(|unlocked| unlocked.key)
}

/// Whether PCR 7 is taken when none is named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Default7 {
    /// As systemd did up to 257, but only where nothing else would protect the slot.
    WithoutPin,
    Never,
}

/// What a TPM slot shall be bound to, read from the options before anything is asked or done.
struct TpmPlan {
    pcrs: PcrList,
    pin: Option<NewPin>,
}

impl TpmPlan {
    fn read(args: &Args, default: Default7) -> Result<Self, Failure> {
        let pcrs = args
            .text("tpm2-pcrs")
            .map(|text| {
                text.parse::<PcrList>()
                    .map_err(|error| Failure::usage(error.to_string()).no_disk())
            })
            .transpose()?;
        let pin = match args.text("tpm2-with-pin").as_deref() {
            Some("no" | "false" | "0") => None,
            Some("direct") => Some(NewPin::Salted),
            Some(_) => Some(NewPin::default()),
            // The guided way: nothing said means the safest.
            None if default == Default7::Never && pcrs.is_none() => Some(NewPin::default()),
            None => None,
        };
        let pcrs = match pcrs {
            Some(pcrs) => pcrs,
            None if pin.is_none() && default == Default7::WithoutPin => PcrList {
                pcrs: vec![7],
                bank: None,
            },
            None => PcrList::default(),
        };
        if pcrs.pcrs.is_empty() && pin.is_none() {
            return Err(Failure::usage(
                "a slot bound to no PCR and no PIN is refused: whoever has the machine would have the key",
            )
            .no_disk()
            .hint("name PCRs with --tpm2-pcrs, or take a PIN with --tpm2-with-pin=yes"));
        }
        Ok(Self { pcrs, pin })
    }

    fn in_a_sentence(&self) -> String {
        let numbers: Vec<String> = self.pcrs.pcrs.iter().map(u8::to_string).collect();
        let pcrs = match numbers.as_slice() {
            [] => String::new(),
            [one] => format!("PCR {one} as it is now"),
            many => format!("PCRs {} as they are now", many.join(", ")),
        };
        match (pcrs.is_empty(), self.pin) {
            (true, _) => {
                "The volume will open with this TPM and a PIN: the machine alone opens nothing"
                    .into()
            }
            (false, Some(_)) => format!("The volume will open with this TPM, a PIN, and {pcrs}"),
            (false, None) => format!(
                "The volume will open with this TPM and {pcrs}, with nobody there: a stolen disk stays shut, \
                 a stolen machine does not"
            ),
        }
    }

    fn carry_out(
        &self,
        args: &Args,
        session: &mut Session,
        key: &VolumeKey,
    ) -> Result<u8, Failure> {
        let mut tpm = tpm_device::connect(args)?;
        let bank = self.bank(args, &mut tpm)?;
        let pin = match self.pin {
            None => None,
            Some(how) => Some((new_pin(args, &mut tpm)?, how)),
        };
        let enrolment = Enrolment {
            bank,
            pcrs: &self.pcrs.pcrs,
            pin: pin.as_ref().map(|(pin, how)| (pin, *how)),
            legacy_primary: false,
        };
        bind(args, session, key, &mut tpm, &enrolment)
    }

    /// The bank that was named, or the strongest of the usual ones that the TPM has.
    fn bank(&self, args: &Args, tpm: &mut dyn Tpm) -> Result<HashAlg, Failure> {
        let failed = |error| errors::tpm(&error);
        let force = args.flag("allow-untouched-pcrs");
        let bank = match self.pcrs.bank {
            Some(bank) => bank,
            None => {
                let banks = tpm.banks().map_err(failed)?;
                [HashAlg::Sha256, HashAlg::Sha384, HashAlg::Sha512]
                    .into_iter()
                    .find(|bank| banks.contains(bank))
                    .ok_or_else(|| failed(TpmError::NoSuchBank { bank: "sha256" }))?
            }
        };
        if self.pcrs.pcrs.is_empty() || force {
            return Ok(bank);
        }
        let selection = PcrSelection::new(bank, &self.pcrs.pcrs).map_err(failed)?;
        if tpm.read_pcrs(&selection).map_err(failed)?.is_untouched() {
            return Err(Failure::usage(
                "nothing was ever measured into these PCRs, so they tell this boot from no other",
            )
            .hint("the firmware does not measure, or not in this bank: take a PIN (--tpm2-with-pin=yes); \
                   --allow-untouched-pcrs binds to them all the same"));
        }
        Ok(bank)
    }
}

/// Seals, tries, and writes slot and token. Gives the number of the slot.
pub(super) fn bind(
    args: &Args,
    session: &mut Session,
    key: &VolumeKey,
    tpm: &mut dyn Tpm,
    enrolment: &Enrolment<'_>,
) -> Result<u8, Failure> {
    let mut progress = Progress::new(args, &session.header_path, "enroll");
    progress.stage("sealing to the TPM, and opening again");
    let enrolled = enrol(tpm, enrolment).map_err(|error| errors::tpm(&error))?;
    let added = plan_slot(session.header(), key, &enrolled)
        .map_err(|error| errors::plan(&session.header_path, error))?;
    session.apply(added.change)?;
    drop(progress);
    why::remember(
        args,
        session,
        added.slot,
        tpm,
        enrolment.bank,
        enrolment.pcrs,
    );
    output::text(&format!(
        "New TPM2 token enrolled as key slot {}.\n",
        added.slot
    ))?;
    Ok(added.slot)
}

/// A new PIN, after it was said what a wrong one costs.
pub(super) fn new_pin(args: &Args, tpm: &mut dyn Tpm) -> Result<Passphrase, Failure> {
    let rules = tpm.lockout().map_err(|error| errors::tpm(&error))?.rules;
    output::note(&format!(
        "This TPM locks itself after {} wrong PINs and forgets one {}.",
        rules.max_tries,
        match rules.forget_one_after_s {
            0 => "never".to_owned(),
            seconds => format!("every {}", errors::span(u64::from(seconds))),
        }
    ));
    let pin = match args.path("new-pin-file") {
        Some(file) => Source::line_of(&file)?,
        None if prompt::person_there() => {
            let first = prompt::passphrase("New PIN for the TPM (any characters): ", None)?;
            let second = prompt::passphrase("The same again: ", None)?;
            if !first.ct_eq(&second) {
                return Err(Failure::usage("the two PINs differ"));
            }
            Passphrase::new(first)
        }
        None => {
            return Err(
                Failure::usage("a PIN is needed, and there is no terminal to ask at")
                    .hint("--new-pin-file reads it from a file"),
            );
        }
    };
    if pin.is_empty() {
        return Err(Failure::usage("the PIN is empty"));
    }
    Ok(pin)
}

/// A recovery key, shown once.
fn recovery(args: &Args, session: &mut Session, key: &VolumeKey) -> Result<u8, Failure> {
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
