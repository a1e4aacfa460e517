//! `tpm update`: the policy by what this boot measured.

use std::collections::BTreeMap;

use luksmith_tpm::log::{LogError, when_unlocked};
use luksmith_tpm::policy::MAX_BRANCHES;
use luksmith_tpm::token::PcrlockPolicy;
use luksmith_tpm::{FixedValue, HashAlg, IDENTITY_PCR, PcrSelection, Tpm};

use super::{Allowed, MachinePolicy, present};
use crate::args::Args;
use crate::commands::tpm_plan::listed;
use crate::errors;
use crate::event_log;
use crate::hint::Failure;
use crate::output;
use crate::refusal;
use crate::tpm_device;

/// The PCR that systemd measures the phases of a boot into, so that it moves on after the unlock.
const PHASES_PCR: u8 = 11;

/// Runs the verb.
pub(crate) fn update(args: &Args) -> Result<(), Failure> {
    let mut tpm = tpm_device::connect(args)?;
    let mut machine = MachinePolicy::read(args, &mut tpm)?;
    let now = at_unlock(args, &mut tpm, machine.policy.bank(), &machine.pcrs())?;
    let before = machine.policy.allowed();
    let unforeseen: Vec<u8> = now
        .iter()
        .filter(|(pcr, value)| !before[pcr].contains(value))
        .map(|(pcr, _)| *pcr)
        .collect();
    if args.flag("only-drop") {
        // That this boot may differ was said before, and by whom may write the policy.
        let by_grace = by_grace(&machine, &mut tpm, &unforeseen)?;
        if !unforeseen.is_empty() && !by_grace {
            return Err(Failure::usage(format!(
                "the policy is left as it is: this boot was not foreseen (PCR {})",
                listed(&unforeseen)
            ))
            .no_disk()
            .hint("if the change was yours, take this boot for the policy")
            .command("luksmith tpm update"));
        }
        let alone = machine.settled && before.values().all(|values| values.len() == 1);
        if alone && unforeseen.is_empty() && machine.policy.grace().is_none() {
            return output::text("The policy has no other values than those of this boot.\n");
        }
        machine.put(&mut tpm, only(now))?;
        return output::text("The policy has the values of this boot alone now.\n");
    }
    let allowed = if args.flag("keep") {
        beside(now, before, &machine.policy)?
    } else {
        only(now)
    };
    let changed: Vec<u8> = allowed
        .iter()
        .filter(|(pcr, values)| before[pcr] != **values)
        .map(|(pcr, _)| *pcr)
        .collect();
    machine.put(&mut tpm, allowed)?;
    refusal::forget_policy();
    output::text(&match changed.as_slice() {
        [] => "The policy is as it was.\n".to_owned(),
        changed => format!("The policy has new values of PCR {}.\n", listed(changed)),
    })
}

/// Whether what nobody foresaw came by a grace for just these PCRs.
fn by_grace(
    machine: &MachinePolicy,
    tpm: &mut dyn Tpm,
    unforeseen: &[u8],
) -> Result<bool, Failure> {
    let (Some(grace), Some(index)) = (machine.policy.grace(), machine.policy.index()) else {
        return Ok(false);
    };
    let granted = unforeseen.iter().all(|pcr| grace.free.contains(pcr));
    let used = grace.was_used(tpm, index);
    Ok(granted && used.map_err(|error| errors::tpm(&error))?)
}

/// The values of PCRs when this boot opened its volumes.
pub(super) fn at_unlock(
    args: &Args,
    tpm: &mut dyn Tpm,
    bank: HashAlg,
    pcrs: &[u8],
) -> Result<BTreeMap<u8, Vec<u8>>, Failure> {
    // Only before a volume is open does PCR 15 tell anything; now one is.
    let fuse = BTreeMap::from([(IDENTITY_PCR, FixedValue::Zero)]);
    let mut values = present(tpm, bank, pcrs, &fuse)?;
    if pcrs.contains(&PHASES_PCR) {
        let log = event_log::read(args)?;
        let selection =
            PcrSelection::new(bank, &[PHASES_PCR]).map_err(|error| errors::tpm(&error))?;
        let now = tpm
            .read_pcrs(&selection)
            .map_err(|error| errors::tpm(&error))?;
        let then = when_unlocked(&log, &now).map_err(|error| unclear(&error))?;
        let then = then.get(PHASES_PCR).expect("it was asked for");
        values.insert(PHASES_PCR, then.to_vec());
    }
    Ok(values)
}

fn unclear(error: &LogError) -> Failure {
    Failure::usage(format!(
        "what PCR {PHASES_PCR} was when the volume was opened cannot be told: {error}"
    ))
    .no_disk()
}

fn only(now: BTreeMap<u8, Vec<u8>>) -> Allowed {
    now.into_iter()
        .map(|(pcr, value)| (pcr, vec![value]))
        .collect()
}

/// New values first, then those so far, as many as a TPM takes and keeps; the oldest go.
pub(super) fn beside(
    new: BTreeMap<u8, Vec<u8>>,
    before: &Allowed,
    policy: &PcrlockPolicy,
) -> Result<Allowed, Failure> {
    let mut allowed = before.clone();
    for (pcr, value) in new {
        let values = allowed.entry(pcr).or_default();
        values.retain(|one| *one != value);
        values.insert(0, value);
        values.truncate(MAX_BRANCHES);
    }
    loop {
        let wanted = policy.clone().with_allowed(allowed.clone());
        let wanted = wanted.map_err(|error| errors::tpm(&error))?;
        let longest = allowed.values_mut().max_by_key(|values| values.len());
        match longest {
            Some(values) if values.len() > 2 && !wanted.fits_in_tpm() => {
                values.pop();
            }
            _ => return Ok(allowed),
        }
    }
}
