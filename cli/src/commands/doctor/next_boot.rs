//! `doctor --next-boot`: whether the TPM would open the volumes of this machine then. Nothing is tried, and no
//! try is spent.

use std::fs;
use std::path::{Path, PathBuf};

use luksmith_tpm::log::Forecast;
use luksmith_tpm::token::{Fit, PcrlockPolicy, SystemdTpm2};
use luksmith_tpm::{HashAlg, IDENTITY_PCR, PcrValues, Tpm};

use super::{Finding, Weight, finding};
use crate::args::Args;
use crate::commands::machine_policy::next_boots;
use crate::errors;
use crate::hint::Failure;
use crate::tpm_device;

/// Where the firmware's file system is mounted.
const FIRMWARE_FOLDERS: [&str; 3] = ["boot/efi", "efi", "boot"];

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
    let root = args.path("root").unwrap_or_else(|| "/".into());
    let capsule = capsule(&root)?;
    let what = format!(
        "next boot: an update of the firmware waits in {}; nobody can foresee what it measures",
        capsule.display()
    );
    Some(finding("next-boot", Weight::Warning, what).with("luksmith tpm grace"))
}

/// Where fwupd leaves an update for the firmware: `EFI/*/fw/*.cap`.
fn capsule(root: &Path) -> Option<PathBuf> {
    let folders = FIRMWARE_FOLDERS
        .iter()
        .map(|folder| root.join(folder).join("EFI"));
    let vendors = folders
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten();
    let updates = vendors.filter_map(|vendor| fs::read_dir(vendor.path().join("fw")).ok());
    updates
        .flatten()
        .flatten()
        .map(|file| file.path())
        .find(|file| file.extension().is_some_and(|end| end == "cap"))
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
    let pcrs: Vec<u8> = pcrs
        .iter()
        .copied()
        .filter(|pcr| *pcr != IDENTITY_PCR)
        .collect();
    if pcrs.is_empty() {
        return Ok((String::new(), Forecast::default()));
    }
    let next = next_boots(args, tpm, bank, &pcrs)?.pop();
    let (kernel, forecast) = next.expect("the kernel that runs is one");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_of_the_firmware_is_seen_where_it_waits() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("boot/efi/EFI/debian/fw");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("readme"), "").unwrap();
        assert_eq!(capsule(root.path()), None);
        let file = folder.join("fwupd-5ffdbc0d.cap");
        fs::write(&file, "").unwrap();
        assert_eq!(capsule(root.path()), Some(file));
    }
}
