//! What a TPM slot shall be bound to: read from the options, said in a sentence, carried out.

use luksmith_crypto::{Passphrase, VolumeKey};
use luksmith_tpm::token::{Enrolled, Enrolment, NewPin, PolicyFiles, SignedPcrs, enrol, plan_slot};
use luksmith_tpm::{HashAlg, PcrList, PcrSelection, Tpm, TpmError};

use crate::args::Args;
use crate::commands::lockout::{advice, tries};
use crate::commands::tpm::fuse;
use crate::commands::{machine_policy, why};
use crate::errors;
use crate::hint::Failure;
use crate::output;
use crate::passphrase::Source;
use crate::progress::Progress;
use crate::prompt;
use crate::refusal;
use crate::session::Session;
use crate::tpm_device::{self, Connection};

/// What a slot is bound to that opens with nobody there: the state of Secure Boot, and only until the
/// first volume was opened, so that whatever boots from another disk gets nothing.
const UNATTENDED: &str = "7+15=0";

/// What is taken when neither PCRs nor a PIN were named.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsaid<'a> {
    /// PCR 7, as systemd did up to 257.
    Pcr7,
    /// A PIN; if none is wanted, [`UNATTENDED`].
    Pin,
    /// These PCRs, besides a PIN that is wanted, too.
    These(&'a [u8]),
}

/// What a TPM slot shall be bound to, read from the options before anything is asked or done.
pub(super) struct TpmPlan {
    pcrs: PcrList,
    pin: Option<NewPin>,
    signed: Option<SignedPcrs>,
    pcrlock: bool,
    /// The PCRs of the policy of this machine, where the slot is bound to that.
    machine: Option<PcrList>,
    files: PolicyFiles,
}

impl TpmPlan {
    pub(super) fn read(args: &Args, unsaid: Unsaid<'_>) -> Result<Self, Failure> {
        let pcrs = args
            .text("tpm2-pcrs")
            .map(|text| parse_pcrs(&text))
            .transpose()?;
        let files = tpm_device::policy_files(args);
        let auto = args.flag("auto");
        if auto && args.path("tpm2-pcrlock").is_some() {
            return Err(Failure::usage(
                "one policy is enough: --auto and --tpm2-pcrlock exclude each other",
            )
            .no_disk());
        }
        let (machine, pcrs) = match (auto, pcrs) {
            (true, Some(pcrs)) if !pcrs.pcrs.is_empty() => (Some(pcrs), None),
            (true, _) => (Some(parse_pcrs(UNATTENDED)?), None),
            (false, pcrs) => (None, pcrs),
        };
        let pcrlock = auto || args.path("tpm2-pcrlock").is_some();
        let signed = args
            .path("tpm2-public-key")
            .is_some()
            .then(|| signed(args, &files))
            .transpose()?;
        let bound = pcrs.is_some() || signed.is_some() || pcrlock;
        let pin = match args.text("tpm2-with-pin").as_deref() {
            Some("no" | "false" | "0") => None,
            Some("direct") => Some(NewPin::Salted),
            Some(_) => Some(NewPin::default()),
            // The guided way: nothing said means the safest.
            None if unsaid == Unsaid::Pin && !bound => Some(NewPin::default()),
            None => None,
        };
        let pcrs = match (pcrs, unsaid) {
            (Some(pcrs), _) => pcrs,
            (None, Unsaid::These(pcrs)) if !bound => PcrList {
                pcrs: pcrs.to_vec(),
                bank: None,
                values: fuse(pcrs),
            },
            (None, _) if bound || pin.is_some() => PcrList::default(),
            (None, Unsaid::Pcr7) => parse_pcrs("7")?,
            (None, Unsaid::Pin | Unsaid::These(_)) => parse_pcrs(UNATTENDED)?,
        };
        if pcrs.pcrs.is_empty() && signed.is_none() && !pcrlock && pin.is_none() {
            return Err(Failure::usage(
                "a slot bound to no PCR and no PIN is refused: whoever has the machine would have the key",
            )
            .no_disk()
            .hint("name PCRs with --tpm2-pcrs, or take a PIN with --tpm2-with-pin=yes"));
        }
        Ok(Self {
            pcrs,
            pin,
            signed,
            pcrlock,
            machine,
            files,
        })
    }

    pub(super) fn in_a_sentence(&self) -> String {
        let mut conditions: Vec<String> = Vec::new();
        if self.pin.is_some() {
            conditions.push("a PIN".into());
        }
        let (said, now): (Vec<u8>, Vec<u8>) = self
            .pcrs
            .pcrs
            .iter()
            .partition(|pcr| self.pcrs.values.contains_key(pcr));
        if !now.is_empty() {
            conditions.push(format!("PCR {} as now", listed(&now)));
        }
        if !said.is_empty() {
            conditions.push(format!("PCR {} as it shall be", listed(&said)));
        }
        if let Some(signed) = &self.signed {
            conditions.push(format!("signed values of PCR {}", listed(&signed.pcrs)));
        }
        match &self.machine {
            Some(_) => conditions.push("the policy of this machine".into()),
            None if self.pcrlock => conditions.push("what pcrlock foresees".into()),
            None => {}
        }
        let end = if self.pin.is_some() {
            "the machine alone opens nothing"
        } else {
            "nobody needs to be there; a stolen disk stays shut, a stolen machine does not"
        };
        format!(
            "The volume will open with this TPM and {}: {end}",
            conditions.join(", ")
        )
    }

    /// All that can fail before anything is written to the volume: the TPM is there, has the PCRs, knows the policy and the
    /// PIN, has sealed and opened again. A recovery key that somebody writes down comes after this.
    pub(super) fn prepare(&self, args: &Args, session: &Session) -> Result<Sealed, Failure> {
        let mut tpm = tpm_device::connect(args)?;
        let bank = self.bank(args, &mut tpm)?;
        let mut files = self.files.clone();
        if let Some(pcrs) = &self.machine {
            files = files.with_pcrlock(machine_policy::provide(args, &mut tpm, bank, pcrs)?);
        }
        let pin = match self.pin {
            None => None,
            Some(how) => Some((new_pin(args, &mut tpm)?, how)),
        };
        let enrolment = Enrolment {
            bank,
            pcrs: &self.pcrs.pcrs,
            values: self.pcrs.values.clone(),
            pin: pin.as_ref().map(|(pin, how)| (pin, *how)),
            legacy_primary: false,
            signed: self.signed.clone(),
            pcrlock: self.pcrlock,
            files,
        };
        seal(args, session, tpm, &enrolment)
    }

    /// The bank that was named, or the strongest of the usual ones that the TPM has.
    fn bank(&self, args: &Args, tpm: &mut dyn Tpm) -> Result<HashAlg, Failure> {
        let failed = |error| errors::tpm(&error);
        let force = args.flag("allow-untouched-pcrs");
        let pcrs = self.machine.as_ref().unwrap_or(&self.pcrs);
        let bank = match pcrs.bank {
            Some(bank) => bank,
            None => {
                let banks = tpm.banks().map_err(failed)?;
                [HashAlg::Sha256, HashAlg::Sha384, HashAlg::Sha512]
                    .into_iter()
                    .find(|bank| banks.contains(bank))
                    .ok_or_else(|| failed(TpmError::NoSuchBank { bank: "sha256" }))?
            }
        };
        // One that shall be as after a reset is a fuse, and tells no boot from another.
        let now: Vec<u8> = pcrs
            .pcrs
            .iter()
            .copied()
            .filter(|pcr| !pcrs.values.contains_key(pcr))
            .collect();
        if now.is_empty() || force {
            return Ok(bank);
        }
        let selection = PcrSelection::new(bank, &now).map_err(failed)?;
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

/// Numbers as a person reads them.
pub(super) fn listed(pcrs: &[u8]) -> String {
    let words: Vec<String> = pcrs.iter().map(u8::to_string).collect();
    words.join("+")
}

pub(super) fn parse_pcrs(text: &str) -> Result<PcrList, Failure> {
    text.parse()
        .map_err(|error: TpmError| Failure::usage(error.to_string()).no_disk())
}

/// `--tpm2-public-key` and its PCRs. The key is believed, so it is said which one it is.
fn signed(args: &Args, files: &PolicyFiles) -> Result<SignedPcrs, Failure> {
    let key = files.key().map_err(|error| errors::tpm(&error).no_disk())?;
    let pcrs = parse_pcrs(args.text("tpm2-public-key-pcrs").as_deref().unwrap_or("11"))?.pcrs;
    let fingerprint: String = key
        .fingerprint()
        .0
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    output::note(&format!(
        "Values of PCR {} count that are signed by the key {fingerprint}.",
        listed(&pcrs)
    ));
    Ok(SignedPcrs {
        key,
        pcrs,
        purpose: None,
    })
}

/// A slot that was bound.
pub(super) struct Bound {
    pub(super) slot: u8,
    /// Whether it was unsealed as it will be when it is used.
    pub(super) tried: bool,
    /// What was sealed, which opens the slot.
    pub(super) enrolled: Enrolled,
}

/// What a TPM sealed, and no header holds yet.
pub(super) struct Sealed {
    tpm: Connection,
    enrolled: Enrolled,
    bank: HashAlg,
    pcrs: Vec<u8>,
}

/// Seals, and opens again.
pub(super) fn seal(
    args: &Args,
    session: &Session,
    mut tpm: Connection,
    enrolment: &Enrolment<'_>,
) -> Result<Sealed, Failure> {
    let mut progress = Progress::new(args, &session.header_path, "enroll");
    progress.stage("sealing to the TPM, and opening again");
    let enrolled = enrol(&mut tpm, enrolment).map_err(|error| errors::tpm(&error))?;
    drop(progress);
    if let Some(why) = enrolled.untried() {
        output::note(&format!(
            "note: it could not be tried as it will be used, as the machine is in another state now: {why}"
        ));
    }
    Ok(Sealed {
        tpm,
        enrolled,
        bank: enrolment.bank,
        pcrs: enrolment.pcrs.to_vec(),
    })
}

impl Sealed {
    /// Writes slot and token. The TPM is let go: one without a resource manager serves one at a time, and what comes next
    /// may have to count in it.
    pub(super) fn write(
        mut self,
        args: &Args,
        session: &mut Session,
        key: &VolumeKey,
    ) -> Result<Bound, Failure> {
        let added = plan_slot(session.header(), key, &self.enrolled)
            .map_err(|error| errors::plan(&session.header_path, error))?;
        session.apply(added.change)?;
        refusal::forget(session.header().uuid());
        why::remember(
            args,
            session,
            added.slot,
            &mut self.tpm,
            self.bank,
            &self.pcrs,
        );
        output::text(&format!(
            "New TPM2 token enrolled as key slot {}.\n",
            added.slot
        ))?;
        Ok(Bound {
            slot: added.slot,
            tried: self.enrolled.untried().is_none(),
            enrolled: self.enrolled,
        })
    }
}

/// A new PIN, after it was said what a wrong one costs.
pub(super) fn new_pin(args: &Args, tpm: &mut dyn Tpm) -> Result<Passphrase, Failure> {
    let failed = |error| errors::tpm(&error);
    let lockout = tpm.lockout().map_err(failed)?;
    let facts = tpm.facts().map_err(failed)?;
    output::note(&format!("Wrong PINs of this TPM: {}.", tries(&lockout)));
    if let Some(advice) = advice(&facts, &lockout) {
        output::note(&format!("warning: {advice}"));
    }
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
