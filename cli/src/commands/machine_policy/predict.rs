//! `tpm predict`: the values that the next boot will measure, let in beside those of this one.

use std::collections::{BTreeMap, BTreeSet};

use luksmith_tpm::log::{Forecast, foresee};
use luksmith_tpm::{HashAlg, IDENTITY_PCR, PcrSelection, Tpm};
use nix::sys::utsname::uname;
use serde_json::json;

use super::boot_files::{Machine, root, waiting_firmware};
use super::update::beside;
use super::{Allowed, MachinePolicy};
use crate::args::Args;
use crate::errors;
use crate::event_log;
use crate::hint::Failure;
use crate::kernels;
use crate::output;
use crate::tpm_device;

/// What the firmware measures of itself, its settings and its drivers (PFP, 3.3.4).
const FIRMWARE_PCRS: std::ops::RangeInclusive<u8> = 0..=3;

/// Runs the verb.
pub(crate) fn predict(args: &Args) -> Result<(), Failure> {
    let mut tpm = tpm_device::connect(args)?;
    let mut machine = MachinePolicy::read(args, &mut tpm)?;
    let outlook = outlook(args, &mut tpm, &machine)?;
    let before = machine.policy.allowed().clone();
    let unsettled = outlook.allowed != before || !machine.settled;
    if unsettled && !args.flag("dry-run") {
        let policy = machine.policy.clone().with_allowed(outlook.allowed.clone());
        machine.put_policy(&mut tpm, policy.map_err(|error| errors::tpm(&error))?)?;
    }
    if args.flag("json") {
        output::json(&outlook.to_json(&before))?;
    } else {
        output::text(&outlook.in_words(&before, args.flag("dry-run")))?;
    }
    outlook.whole()
}

/// What is known of the next boot.
pub(super) struct Outlook {
    /// The policy with the foreseen values in front.
    pub(super) allowed: Allowed,
    /// The kernels that may be started, the likeliest first.
    kernels: Vec<String>,
    unforeseeable: BTreeMap<u8, String>,
    taken_as_it_was: BTreeSet<String>,
}

/// Foresees the next boot, by the newest kernel or the one that runs.
pub(super) fn outlook(
    args: &Args,
    tpm: &mut dyn Tpm,
    machine: &MachinePolicy,
) -> Result<Outlook, Failure> {
    let bank = machine.policy.bank();
    let mut outlook = Outlook {
        allowed: machine.policy.allowed().clone(),
        kernels: Vec::new(),
        unforeseeable: BTreeMap::new(),
        taken_as_it_was: BTreeSet::new(),
    };
    for (kernel, forecast) in next_boots(args, tpm, bank, &machine.pcrs())? {
        outlook.kernels.insert(0, kernel);
        outlook.allowed = beside(forecast.values, &outlook.allowed, &machine.policy)?;
        outlook.unforeseeable.extend(forecast.unforeseeable);
        outlook.taken_as_it_was.extend(forecast.taken_as_it_was);
    }
    Ok(outlook)
}

/// What each kernel that may be started would measure, but for PCR 15, which is the same at each boot
/// before a volume is open. The likeliest comes last; nothing where there is no other PCR.
pub(crate) fn next_boots(
    args: &Args,
    tpm: &mut dyn Tpm,
    bank: HashAlg,
    pcrs: &[u8],
) -> Result<Vec<(String, Forecast)>, Failure> {
    let measured = pcrs.iter().copied().filter(|pcr| *pcr != IDENTITY_PCR);
    let pcrs: Vec<u8> = measured.collect();
    if pcrs.is_empty() {
        return Ok(Vec::new());
    }
    let root = root(args);
    let running = uname()
        .map_err(|error| Failure::usage(format!("uname: {error}")).no_disk())?
        .release()
        .to_string_lossy()
        .into_owned();
    let log = event_log::read(args)?;
    let selection = PcrSelection::new(bank, &pcrs).map_err(|error| errors::tpm(&error))?;
    let now = tpm
        .read_pcrs(&selection)
        .map_err(|error| errors::tpm(&error))?;
    let firmware = waiting_firmware(args);
    let newest = kernels::installed(&root).into_iter().next();
    let newest = args.text("kernel").or(newest);
    let mut kernels = vec![running.clone()];
    kernels.extend(newest.filter(|newest| *newest != running));
    let of = |kernel: String| {
        let mut files = Machine {
            root: root.clone(),
            running: running.clone(),
            next: kernel.clone(),
        };
        let mut forecast = foresee(&log, &now, &mut files)
            .map_err(|error| Failure::usage(error.to_string()).no_disk())?;
        if let Some(update) = &firmware {
            let why = format!("an update of the firmware waits in {}", update.display());
            for pcr in FIRMWARE_PCRS {
                if forecast.values.remove(&pcr).is_some() {
                    forecast.unforeseeable.insert(pcr, why.clone());
                }
            }
        }
        Ok((kernel, forecast))
    };
    kernels.into_iter().map(of).collect()
}

impl Outlook {
    /// How many values of each PCR are new.
    fn new_values(&self, before: &Allowed) -> BTreeMap<u8, usize> {
        let count = |(pcr, values): (&u8, &Vec<Vec<u8>>)| {
            let new = values.iter().filter(|value| !before[pcr].contains(value));
            (*pcr, new.count())
        };
        let foreseen = self.allowed.iter().filter(|(pcr, _)| **pcr != IDENTITY_PCR);
        foreseen.map(count).collect()
    }

    fn in_words(&self, before: &Allowed, only_told: bool) -> String {
        let mut text = String::new();
        for (pcr, new) in self.new_values(before) {
            let what = match (self.unforeseeable.get(&pcr), new) {
                (Some(why), _) => format!("cannot be foreseen: {why}"),
                (None, 0) => "nothing new".to_owned(),
                (None, 1) => "one new value".to_owned(),
                (None, new) => format!("{new} new values"),
            };
            text += &format!("PCR {pcr}: {what}\n");
        }
        for name in &self.taken_as_it_was {
            text += &format!("taken to be as at this boot: {name}\n");
        }
        if self.allowed != *before {
            text += if only_told {
                "The policy was not changed (--dry-run).\n"
            } else {
                "The policy lets them in beside those of this boot.\n"
            };
        }
        text
    }

    fn to_json(&self, before: &Allowed) -> serde_json::Value {
        let rows: Vec<_> = self
            .new_values(before)
            .into_iter()
            .map(|(pcr, new)| {
                json!({ "pcr": pcr, "new_values": new, "unforeseeable": self.unforeseeable.get(&pcr) })
            })
            .collect();
        json!({
            "schema": "luksmith.tpm-predict/1",
            "kernels": self.kernels,
            "pcrs": rows,
            "taken_as_it_was": self.taken_as_it_was,
        })
    }

    /// A failure unless all of it could be foreseen.
    pub(super) fn whole(&self) -> Result<(), Failure> {
        let Some((pcr, why)) = self.unforeseeable.iter().next() else {
            return Ok(());
        };
        Err(Failure::usage(format!(
            "the next boot may ask for a passphrase: PCR {pcr} cannot be foreseen"
        ))
        .detail(why)
        .no_disk()
        .hint("let one boot differ; or type the passphrase then, and take the values of that boot for the policy")
        .command("luksmith tpm grace")
        .command("luksmith tpm update"))
    }
}
