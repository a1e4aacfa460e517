//! Secrets that a service manager hands to its unit (systemd.exec(5), "CREDENTIALS"), under the names by
//! which `systemd-cryptsetup` takes them.

use std::path::PathBuf;

use luksmith_crypto::{Passphrase, SecretBytes};

use crate::errors;
use crate::hint::Failure;
use crate::output;
use crate::passphrase::Source;

/// Passphrases and recovery keys; a NUL stands between two.
pub(crate) const PASSPHRASE: &str = "cryptsetup.passphrase";
/// The PIN of a TPM.
pub(crate) const PIN: &str = "cryptsetup.tpm2-pin";

/// What may open a volume before anybody is asked. What cannot be read is told, and is not there.
pub(crate) fn passphrases() -> Vec<Passphrase> {
    told(file(PASSPHRASE).map(|file| {
        let all = Source::bytes_of(&file)?;
        let parts = all.expose().split(|byte| *byte == 0);
        let parts = parts.filter(|part| !part.is_empty());
        parts.map(copy).collect()
    }))
    .unwrap_or_default()
}

/// What the TPM may be given before anybody is asked.
pub(crate) fn pin() -> Option<Passphrase> {
    told(file(PIN).map(|file| Source::line_of(&file)))
}

fn file(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    let file = folder.join(name);
    (folder.is_absolute() && file.exists()).then_some(file)
}

fn copy(part: &[u8]) -> Result<Passphrase, Failure> {
    let mut bytes = SecretBytes::zeroed(part.len()).map_err(errors::crypto)?;
    bytes.expose_mut().copy_from_slice(part);
    Ok(Passphrase::new(bytes))
}

fn told<T>(read: Option<Result<T, Failure>>) -> Option<T> {
    read?
        .inspect_err(|failure| output::note(&failure.what))
        .ok()
}
