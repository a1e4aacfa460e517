//! The TPM of this machine, and the slots of its volumes that a TPM opens. No try is spent.

use std::fs;

use luksmith_tpm::token::SystemdTpm2;
use luksmith_tpm::{Facts, HashAlg, IDENTITY_PCR, PcrSelection, Tpm, TpmError};

use super::{Finding, Weight, finding, next_boot};
use crate::args::Args;
use crate::commands::tpm_list::Row;
use crate::commands::{attach, lockout};
use crate::crypttab::{self, Entry};
use crate::hint::shell;
use crate::secure_boot;
use crate::session::Session;
use crate::tpm_device;

/// What the firmware and the boot loader measure into, before a kernel runs.
const FIRMWARE_PCRS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// What there is to say.
pub(super) fn examine(args: &Args) -> Vec<Finding> {
    let volumes = volumes(args);
    let wanted = volumes.iter().any(|volume| volume.has_tpm_token);
    let mut tpm = match tpm_device::connect(args) {
        Ok(tpm) => tpm,
        Err(failure) => {
            let mut all = vec![no_tpm(wanted, failure.what.to_string())];
            all.extend(volumes.into_iter().flat_map(|volume| volume.check(None)));
            return all;
        }
    };
    let mut all = match tpm.facts() {
        Ok(facts) => of_the_tpm(&mut tpm, &facts),
        Err(error) => return vec![no_tpm(wanted, error.to_string())],
    };
    all.push(of_secure_boot(secure_boot::is_on()));
    let next_boot = args.flag("next-boot");
    all.extend(next_boot.then(|| next_boot::of_firmware(args)).flatten());
    for volume in volumes {
        if next_boot {
            all.extend(volume.check_next_boot(args, &mut *tpm));
        }
        all.extend(volume.check(Some(&mut *tpm)));
    }
    all
}

/// Nothing is amiss on a machine where nothing needs a TPM.
fn no_tpm(wanted: bool, why: String) -> Finding {
    if wanted {
        let what =
            format!("no TPM can be asked ({why}), and volumes of this machine have slots for one");
        finding("tpm", Weight::Warning, what).with("ls -l /dev/tpm*; sudo luksmith doctor")
    } else {
        let what = format!("no TPM can be asked ({why}), and no volume of crypttab needs one");
        finding("tpm", Weight::Good, what)
    }
}

fn of_the_tpm(tpm: &mut dyn Tpm, facts: &Facts) -> Vec<Finding> {
    let [high, _] = facts.firmware;
    let version = format!("{}.{}", high >> 16, high & 0xFFFF);
    let mut all = vec![finding(
        "tpm",
        Weight::Good,
        format!(
            "there is a TPM 2.0 by {}, firmware {version}",
            facts.manufacturer
        ),
    )];
    all.extend(known_bad(facts));
    all.push(match bank(tpm) {
        Ok(found) => found,
        Err(error) => finding(
            "tpm-pcrs",
            Weight::Warning,
            format!("PCRs cannot be read: {error}"),
        ),
    });
    all.push(if facts.has_policy_authorize_nv {
        finding(
            "tpm-policy",
            Weight::Good,
            "the TPM can hold the policy of this machine (tpm enroll --auto)",
        )
    } else {
        finding(
            "tpm-policy",
            Weight::Warning,
            "the TPM lacks TPM2_PolicyAuthorizeNV: --auto and pcrlock do not work with it, PINs and PCRs do",
        )
    });
    if facts.owner_auth_set {
        all.push(finding(
            "tpm-owner",
            Weight::Warning,
            "somebody took this TPM into possession: its owner authorization is set, and luksmith needs it empty",
        ));
    }
    all.push(match tpm.lockout() {
        Err(error) => finding(
            "tpm-lockout",
            Weight::Warning,
            format!("the TPM does not say how it counts wrong PINs: {error}"),
        ),
        Ok(now) => match lockout::wrong_with(facts, &now) {
            None => finding(
                "tpm-lockout",
                Weight::Good,
                format!("wrong PINs: {}", lockout::tries(&now)),
            ),
            Some(wrong) => finding(
                "tpm-lockout",
                Weight::Warning,
                format!("with PINs, {wrong}"),
            )
            .with("luksmith tpm lockout --set"),
        },
    });
    all
}

/// Firmware of which it is sure that it is bad for what is done here.
fn known_bad(facts: &Facts) -> Option<Finding> {
    let [high, _] = facts.firmware;
    // CVE-2017-15361 (ROCA). What was made by other vulnerabilities that are known by firmware
    // (TPM-FAIL) are signatures, and none is asked for here.
    let roca = facts.manufacturer == "IFX"
        && matches!((high >> 16, high & 0xFFFF), (5, 0..=61) | (7, 0..=61));
    roca.then(|| {
        finding(
            "tpm-firmware",
            Weight::Warning,
            "this firmware makes RSA keys that can be computed from their public part (CVE-2017-15361): \
             slots under an RSA key do not hide from a listener on the bus; those of luksmith are under an ECC key",
        )
        .with("fwupdmgr get-updates")
    })
}

/// Whether the firmware measures, in the bank that slots are bound to.
fn bank(tpm: &mut dyn Tpm) -> Result<Finding, TpmError> {
    let banks = tpm.banks()?;
    if !banks.contains(&HashAlg::Sha256) {
        let names: Vec<&str> = banks.iter().map(|bank| bank.name()).collect();
        let what = format!(
            "there is no PCR bank sha256, only {}; the firmware can switch it on",
            names.join(", ")
        );
        return Ok(finding("tpm-pcrs", Weight::Warning, what));
    }
    let selection = PcrSelection::new(HashAlg::Sha256, &FIRMWARE_PCRS)?;
    if tpm.read_pcrs(&selection)?.is_untouched() {
        return Ok(finding(
            "tpm-pcrs",
            Weight::Warning,
            "the firmware measured nothing into PCR 0 to 7: they tell no boot from another, so take a PIN",
        )
        .with("luksmith tpm enroll DEVICE --tpm2-with-pin=yes"));
    }
    Ok(finding(
        "tpm-pcrs",
        Weight::Good,
        "the firmware measures into the PCR bank sha256",
    ))
}

fn of_secure_boot(is_on: Option<bool>) -> Finding {
    match is_on {
        Some(true) => finding("secure-boot", Weight::Good, "Secure Boot is on"),
        Some(false) => finding(
            "secure-boot",
            Weight::Warning,
            "Secure Boot is off: PCR 7 stays the same whatever boots, so slots need a PIN",
        ),
        None => finding(
            "secure-boot",
            Weight::Warning,
            "Secure Boot cannot be seen: this machine did not boot by UEFI, or hides its variables",
        ),
    }
}

/// A volume of crypttab, its header read.
struct Volume {
    name: String,
    has_tpm_token: bool,
    read: Result<(Box<Args>, Session), String>,
}

/// Those of ours in the table; none where there is no table.
fn volumes(args: &Args) -> Vec<Volume> {
    let table = args
        .path("crypttab")
        .unwrap_or_else(|| crypttab::TABLE.into());
    let text = fs::read_to_string(table).unwrap_or_default();
    crypttab::parse(&text)
        .into_iter()
        .map(|line| match line {
            Ok(entry) => Volume::of(&entry),
            Err((name, why)) => Volume {
                name,
                has_tpm_token: false,
                read: Err(why),
            },
        })
        .collect()
}

impl Volume {
    fn of(entry: &Entry) -> Self {
        let read = attach::as_open(entry, false)
            .and_then(|args| Session::read(&args).map(|session| (args, session)))
            .map_err(|failure| failure.what.to_string());
        let has_tpm_token = read.as_ref().is_ok_and(|(args, session)| {
            let files = tpm_device::policy_files(args);
            let mut tokens = session.metadata().tokens().iter();
            tokens.any(|(number, token)| Row::of(*number, token, None, &files).is_some())
        });
        Self {
            name: entry.name.clone(),
            has_tpm_token,
            read,
        }
    }

    /// What to say of its slots at the next boot.
    fn check_next_boot(&self, args: &Args, tpm: &mut dyn Tpm) -> Vec<Finding> {
        let Ok((_, session)) = &self.read else {
            return Vec::new();
        };
        let path = shell(&session.header_path);
        let tokens = session.metadata().tokens().iter();
        let ours = tokens.filter_map(|(number, token)| {
            let token = SystemdTpm2::parse(token).ok()?;
            Some((format!("{}: token {number}", self.name), token))
        });
        ours.map(|(name, token)| next_boot::of_slot(args, tpm, &name, &path, &token))
            .collect()
    }

    /// What to say of its slots; nothing where a TPM opens none.
    fn check(self, mut tpm: Option<&mut dyn Tpm>) -> Vec<Finding> {
        let (args, session) = match self.read {
            Ok(read) => read,
            Err(why) => {
                let what = format!("crypttab: {}: {why}", self.name);
                return vec![finding("tpm-slots", Weight::Warning, what)];
            }
        };
        let files = tpm_device::policy_files(&args);
        let path = shell(&session.header_path);
        let mut all = Vec::new();
        for (number, token) in session.metadata().tokens() {
            let tpm = tpm.as_mut().map(|tpm| &mut **tpm as &mut dyn Tpm);
            if let Some(row) = Row::of(*number, token, tpm, &files) {
                all.push(of_slot(&self.name, &path, &row));
            }
        }
        all
    }
}

fn of_slot(name: &str, path: &str, row: &Row) -> Finding {
    let token = format!("{name}: token {}", row.number);
    match &row.obstacle {
        // As it has to be, once a volume was opened; only the next boot can tell.
        Some(_) if row.too_late => finding(
            "tpm-slots",
            Weight::Good,
            format!(
                "{token} is bound to PCR {IDENTITY_PCR} as it is before a volume is open: it cannot be tried now"
            ),
        ),
        Some(why) => finding(
            "tpm-slots",
            Weight::Warning,
            format!("{token} would not open now: {why}"),
        )
        .with(format!("luksmith tpm list {path}")),
        None if row.by_presence() => finding(
            "tpm-slots",
            Weight::Warning,
            format!("{token} is bound to no PCR and no PIN: whoever has this machine has the key"),
        )
        .with(row.way_out(path)),
        None => finding("tpm-slots", Weight::Good, format!("{token} would open now")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_by(manufacturer: &str, high: u32) -> Facts {
        Facts {
            manufacturer: manufacturer.to_owned(),
            firmware: [high, 0],
            owner_auth_set: false,
            lockout_auth_set: true,
            has_policy_authorize_nv: true,
        }
    }

    #[test]
    fn firmware_that_makes_weak_rsa_keys_is_told_and_its_successor_is_not() {
        for (high, bad) in [
            (0x0005_003D, true),
            (0x0005_003E, false),
            (0x0007_0000, true),
            (0x0007_003D, true),
            (0x0007_003E, false),
            (0x000D_0000, false),
        ] {
            assert_eq!(known_bad(&made_by("IFX", high)).is_some(), bad, "{high:#x}");
        }
        assert!(known_bad(&made_by("STM", 0x0005_0001)).is_none());
    }

    #[test]
    fn a_missing_tpm_is_a_warning_only_where_one_is_needed() {
        assert_eq!(no_tpm(false, "why".into()).weight, Weight::Good);
        assert_eq!(no_tpm(true, "why".into()).weight, Weight::Warning);
    }
}
