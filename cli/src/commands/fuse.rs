//! The end of the time in which the TPM gives what is sealed for the initramfs alone.
//!
//! A TPM may appear late, and a volume may open without it. Were the measuring left out then, whatever
//! runs next could load the driver and ask. So an initramfs waits for a TPM that the table names or the
//! firmware announces; where the table names it and it does not come, nothing is served.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use luksmith_tpm::{IDENTITY_PCR, TpmError, measure_no_volume, measure_volume_key};

use crate::commands::attach::{Ready, Start};
use crate::crypttab::{Entry, TOKEN_TIMEOUT};
use crate::errors;
use crate::exit::Exit;
use crate::hint::Failure;
use crate::output;
use crate::tpm_device::{self, Connection, Place};

/// By this table the firmware says that there is a TPM (TCG ACPI Specification 1.4, 7).
const ANNOUNCED: &str = "/sys/firmware/acpi/tables/TPM2";
/// A word of the kernel's command line: the TPM is broken or gone, and its owner knows.
const GIVEN_UP: &str = "luksmith.tpm=missing";

/// Measures the keys of these volumes, in their order; in an initramfs always something, unless
/// the table says of every volume that it shall not be measured.
///
/// # Errors
/// When the TPM does not take it, or is not there though the table names it: the volumes must not be
/// served then, since what comes after could ask the TPM.
pub(super) fn burn(ready: &[Ready<'_>], start: Start) -> Result<(), Failure> {
    let default = start.initramfs.then_some(IDENTITY_PCR);
    let mut burnt = !ready.is_empty() && ready.iter().all(|one| one.entry.measure == Some(None));
    for one in ready {
        let Some(pcr) = one.entry.measure.unwrap_or(default) else {
            continue;
        };
        let Some(mut tpm) = connect(Some(one.entry), start)? else {
            continue;
        };
        let uuid = one.session.header().uuid();
        measure_volume_key(&mut tpm, pcr, &one.unlocked.key, &one.entry.name, uuid)
            .map_err(failed)?;
        burnt |= pcr == IDENTITY_PCR;
    }
    if !start.initramfs || burnt {
        return Ok(());
    }
    match connect(None, start)? {
        Some(mut tpm) => measure_no_volume(&mut tpm, IDENTITY_PCR).map_err(failed)?,
        None if Path::new(ANNOUNCED).exists() => output::note(
            "WARNING: the TPM of this machine did not appear, and nothing was measured: until it is \
             restarted, whoever rules it can ask the TPM for what opens a volume with nobody there",
        ),
        None => {}
    }
    Ok(())
}

/// Waits until the TPM of a line is there, not longer than the line says. What uses it says that it
/// is not there.
pub(super) fn wait_for_tpm(entry: &Entry, start: Start) -> Result<(), Failure> {
    wait(&place(Some(entry))?, start.begun + entry.token_timeout);
    Ok(())
}

/// `None`: there is none, and the table did not ask for one.
fn connect(entry: Option<&Entry>, start: Start) -> Result<Option<Connection>, Failure> {
    let place = place(entry)?;
    let named = entry.is_some_and(|entry| entry.tpm_device.is_some());
    if start.initramfs && (named || Path::new(ANNOUNCED).exists()) {
        let patience = entry.map_or(TOKEN_TIMEOUT, |entry| entry.token_timeout);
        wait(&place, start.begun + patience);
    }
    match place.open() {
        Ok(tpm) => Ok(Some(tpm)),
        Err(error @ TpmError::NotPresent { .. }) if start.initramfs && named && !given_up() => {
            Err(missing(&error))
        }
        Err(TpmError::NotPresent { .. }) => Ok(None),
        Err(other) => Err(failed(other)),
    }
}

fn place(entry: Option<&Entry>) -> Result<Place, Failure> {
    match entry.and_then(|entry| entry.tpm_device.as_deref()) {
        Some(device) => tpm_device::parse(device),
        None => Ok(Place::AUTO),
    }
}

fn wait(place: &Place, until: Instant) {
    let mut told = given_up();
    while let Err(TpmError::NotPresent { .. }) = place.open() {
        if Instant::now() >= until || given_up() {
            break;
        }
        if !told {
            output::note("Waiting for the TPM.");
            told = true;
        }
        sleep(Duration::from_millis(100));
    }
}

fn given_up() -> bool {
    let words = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    words.split_ascii_whitespace().any(|word| word == GIVEN_UP)
}

fn missing(error: &TpmError) -> Failure {
    Failure::new(
        Exit::WrongDevice,
        format!("{error}, and crypttab names it: the volume keys cannot be measured"),
    )
    .detail("no volume is served, as whatever runs next could find the TPM and ask it")
    .hint(format!(
        "if it is broken or was taken out, start once with {GIVEN_UP} on the kernel's command line"
    ))
}

fn failed(error: TpmError) -> Failure {
    errors::tpm(&error).detail(
        "the volume keys could not be measured; no volume is served, as whoever comes next could ask \
         the TPM again",
    )
}
