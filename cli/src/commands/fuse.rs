//! The end of the time in which the TPM gives what is sealed for the initramfs alone.

use luksmith_tpm::{IDENTITY_PCR, TpmError, measure_no_volume, measure_volume_key};

use crate::commands::attach::Ready;
use crate::errors;
use crate::hint::Failure;
use crate::tpm_device::{self, Connection, Place};

/// Measures the keys of these volumes, in their order; in an initramfs always something, unless
/// the table says of every volume that it shall not be measured.
///
/// # Errors
/// When the TPM does not take it: the volumes must not be served then, since what comes after could
/// ask the TPM again.
pub(super) fn burn(ready: &[Ready<'_>], initramfs: bool) -> Result<(), Failure> {
    let default = initramfs.then_some(IDENTITY_PCR);
    let mut burnt = !ready.is_empty() && ready.iter().all(|one| one.entry.measure == Some(None));
    for one in ready {
        let Some(pcr) = one.entry.measure.unwrap_or(default) else {
            continue;
        };
        let place = match &one.entry.tpm_device {
            Some(device) => tpm_device::parse(device)?,
            None => Place::AUTO,
        };
        let Some(mut tpm) = connect(&place)? else {
            continue;
        };
        let uuid = one.session.header().uuid();
        measure_volume_key(&mut tpm, pcr, &one.unlocked.key, &one.entry.name, uuid)
            .map_err(failed)?;
        burnt |= pcr == IDENTITY_PCR;
    }
    if initramfs
        && !burnt
        && let Some(mut tpm) = connect(&Place::AUTO)?
    {
        measure_no_volume(&mut tpm, IDENTITY_PCR).map_err(failed)?;
    }
    Ok(())
}

/// `None`: this machine has no TPM, so there is nothing to keep from anybody.
fn connect(place: &Place) -> Result<Option<Connection>, Failure> {
    match place.open() {
        Ok(tpm) => Ok(Some(tpm)),
        Err(TpmError::NotPresent { .. }) => Ok(None),
        Err(other) => Err(failed(other)),
    }
}

fn failed(error: TpmError) -> Failure {
    errors::tpm(&error).detail(
        "the volume keys could not be measured; no volume is served, as whoever comes next could ask \
         the TPM again",
    )
}
