//! `doctor --next-boot`: whether the TPM would open the volumes of this machine then. Nothing is tried, and no
//! try is spent.

use luksmith_tpm::log::Forecast;
use luksmith_tpm::token::{Fit, PcrlockPolicy, SystemdTpm2};
use luksmith_tpm::{HashAlg, IDENTITY_PCR, PcrValues, Tpm};

use super::{Finding, Weight, finding};
use crate::args::Args;
use crate::commands::machine_policy::{next_boots, waiting_firmware};
use crate::errors;
use crate::hint::Failure;
use crate::tpm_device;

/// What there is to say of one slot.
pub(super) fn of_slot(
    args: &Args,
    tpm: &mut dyn Tpm,
    name: &str,
    path: &str,
    token: &SystemdTpm2,
) -> Finding {
    let name = format!("next boot: {name}");
    let warning = |why: String| finding("next-boot", Weight::Warning, format!("{name} {why}"));
    let policy = match policy_of(args, tpm, token) {
        Ok(policy) => policy,
        Err(failure) => return warning(format!("cannot be told: {}", failure.what)),
    };
    let pcrs: Vec<u8> = match &policy {
        Some(policy) => policy.allowed().keys().copied().collect(),
        None => token.pcrs.clone(),
    };
    let bank = policy
        .as_ref()
        .map_or(token.bank, |policy| Some(policy.bank()));
    let bank = bank.unwrap_or(HashAlg::Sha256);
    let (kernel, forecast) = match likeliest(args, tpm, bank, &pcrs) {
        Ok(next) => next,
        Err(failure) => return warning(format!("cannot be told: {}", failure.what)),
    };
    let update = |found: Finding| match &policy {
        Some(_) => found
            .with("luksmith tpm predict")
            .with("luksmith tpm grace"),
        None => found.with(format!(
            "luksmith tpm reseal {path}     # after that boot, with a passphrase"
        )),
    };
    if let Some((pcr, why)) = forecast.unforeseeable.first_key_value() {
        return update(warning(format!("cannot be told: PCR {pcr}: {why}")));
    }
    let fit = values_of(bank, &forecast, &pcrs).map(|values| token.fit(&values, policy.as_ref()));
    match fit {
        Ok(Ok(Fit::Opens)) => {
            let what = format!("{name} would open{kernel}");
            finding("next-boot", Weight::Good, what)
        }
        Ok(Ok(Fit::Unknown)) => {
            let what =
                format!("{name} opens by signatures that come with the kernel: not looked at");
            finding("next-boot", Weight::Good, what)
        }
        Ok(Ok(Fit::Shut(pcrs))) => {
            let pcrs: Vec<String> = pcrs.iter().map(u8::to_string).collect();
            update(warning(format!(
                "would not open{kernel}: PCR {} changes",
                pcrs.join("+")
            )))
        }
        Ok(Err(error)) => warning(format!("cannot be told: {error}")),
        Err(failure) => warning(format!("cannot be told: {}", failure.what)),
    }
}

/// New firmware that waits on the disk for the next boot measures what nobody can foresee.
pub(super) fn of_firmware(args: &Args) -> Option<Finding> {
    let capsule = waiting_firmware(args)?;
    let what = format!(
        "next boot: an update of the firmware waits in {}; nobody can foresee what it measures",
        capsule.display()
    );
    Some(finding("next-boot", Weight::Warning, what).with("luksmith tpm grace"))
}

/// What the index of a token allows; `None` where it has none.
fn policy_of(
    args: &Args,
    tpm: &mut dyn Tpm,
    token: &SystemdTpm2,
) -> Result<Option<PcrlockPolicy>, Failure> {
    let Some(pcrlock) = &token.pcrlock else {
        return Ok(None);
    };
    if let Some(index) = &pcrlock.index {
        let kept = PcrlockPolicy::kept(tpm, index).map_err(|error| errors::tpm(&error))?;
        if kept.is_some() {
            return Ok(kept);
        }
    }
    let files = tpm_device::policy_files(args);
    files
        .pcrlock()
        .map(Some)
        .map_err(|error| errors::tpm(&error))
}

/// What the kernel that comes first would measure, and its name for a sentence.
fn likeliest(
    args: &Args,
    tpm: &mut dyn Tpm,
    bank: HashAlg,
    pcrs: &[u8],
) -> Result<(String, Forecast), Failure> {
    let Some((kernel, forecast)) = next_boots(args, tpm, bank, pcrs)?.pop() else {
        return Ok((String::new(), Forecast::default()));
    };
    Ok((format!(" with the kernel {kernel}"), forecast))
}

/// The values that were foreseen, and PCR 15 as it is before a volume is open.
fn values_of(bank: HashAlg, forecast: &Forecast, pcrs: &[u8]) -> Result<PcrValues, Failure> {
    let failed = |error| errors::tpm(&error);
    let mut values = PcrValues::new(bank);
    for (pcr, value) in &forecast.values {
        values.insert(*pcr, value).map_err(failed)?;
    }
    if pcrs.contains(&IDENTITY_PCR) {
        values
            .insert(IDENTITY_PCR, &vec![0; bank.len()])
            .map_err(failed)?;
    }
    Ok(values)
}
