//! The files in which the part of a policy lies that changes from boot to boot.
//!
//! Nothing in them is believed when a token is opened: a signature counts only if the TPM verifies
//! it, and what pcrlock foresees only if the TPM's index holds its digest. So it matters little who
//! can write them then.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::json::damaged;
use super::pcrlock::PcrlockPolicy;
use super::policy_key::PolicyKey;
use super::signatures::PcrSignatures;
use crate::error::TpmError;
use crate::wire::NvPublic;

/// Longest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
const SIGNATURES: &str = "tpm2-pcr-signature.json";
const KEY: &str = "tpm2-pcr-public-key.pem";
const PCRLOCK: &str = "pcrlock.json";
/// Where systemd looks for configuration, and last where its boot stub leaves what came with a
/// kernel image (`systemd-stub(7)`).
const SIGNED_FOLDERS: &[&str] = &[
    "/etc/systemd",
    "/run/systemd",
    "/usr/local/lib/systemd",
    "/usr/lib/systemd",
    "/.extra",
];
const PCRLOCK_FOLDERS: &[&str] = &["/run/systemd", "/var/lib/systemd"];
/// The policy that luksmith makes for this machine, in the same form.
pub const MACHINE_POLICY: &str = "/var/lib/luksmith/policy.json";

/// Where signatures over PCR values, their key and the policy of `systemd-pcrlock` are looked for:
/// the first file that is there counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyFiles {
    signatures: Vec<PathBuf>,
    key: Vec<PathBuf>,
    pcrlock: Vec<PathBuf>,
}

impl Default for PolicyFiles {
    /// systemd's places: `tpm2-pcr-signature.json` and `tpm2-pcr-public-key.pem` in
    /// `/etc/systemd`, `/run/systemd`, `/usr/local/lib/systemd`, `/usr/lib/systemd` and `/.extra`;
    /// `pcrlock.json` in `/run/systemd` and `/var/lib/systemd`; then [`MACHINE_POLICY`].
    fn default() -> Self {
        let within = |folders: &[&str], name| {
            let paths = folders.iter().map(|folder| Path::new(folder).join(name));
            paths.collect()
        };
        Self {
            signatures: within(SIGNED_FOLDERS, SIGNATURES),
            key: within(SIGNED_FOLDERS, KEY),
            pcrlock: {
                let mut paths = within(PCRLOCK_FOLDERS, PCRLOCK);
                paths.push(MACHINE_POLICY.into());
                paths
            },
        }
    }
}

impl PolicyFiles {
    /// Takes signatures from this file and no other.
    #[must_use]
    pub fn with_signatures(mut self, path: impl Into<PathBuf>) -> Self {
        self.signatures = vec![path.into()];
        self
    }

    /// Takes the key that signs from this file and no other.
    #[must_use]
    pub fn with_key(mut self, path: impl Into<PathBuf>) -> Self {
        self.key = vec![path.into()];
        self
    }

    /// Takes the policy of pcrlock from this file and no other.
    #[must_use]
    pub fn with_pcrlock(mut self, path: impl Into<PathBuf>) -> Self {
        self.pcrlock = vec![path.into()];
        self
    }

    /// Reads the signatures.
    ///
    /// # Errors
    /// [`TpmError::NoPolicyFile`]; [`TpmError::PolicyFile`]; [`TpmError::Damaged`].
    pub fn signatures(&self) -> Result<PcrSignatures, TpmError> {
        PcrSignatures::parse(&first(SIGNATURES, &self.signatures)?)
    }

    /// Reads the key that signs, for enrolment: a token holds its own. Unlike what else lies in
    /// these files it is believed, so a program should show whose key it takes.
    ///
    /// # Errors
    /// Those of [`PolicyFiles::signatures`]; [`TpmError::Unsupported`] for a key of another kind.
    pub fn key(&self) -> Result<PolicyKey, TpmError> {
        PolicyKey::from_pem(&first(KEY, &self.key)?)
    }

    /// Reads the policy of pcrlock.
    ///
    /// # Errors
    /// Those of [`PolicyFiles::signatures`].
    pub fn pcrlock(&self) -> Result<PcrlockPolicy, TpmError> {
        PcrlockPolicy::parse(&first(PCRLOCK, &self.pcrlock)?)
    }

    /// Reads the policy that was made for this index: several programs may have made one.
    pub(super) fn pcrlock_in(&self, index: &NvPublic) -> Result<PcrlockPolicy, TpmError> {
        for path in &self.pcrlock {
            let only = std::slice::from_ref(path);
            match first(PCRLOCK, only).and_then(|bytes| PcrlockPolicy::parse(&bytes)) {
                Ok(policy) if policy.index() == Some(index) => return Ok(policy),
                // What is wrong with it is told by the reading below, if no other fits.
                Ok(_) | Err(_) => {}
            }
        }
        self.pcrlock()
    }
}

/// The contents of the first file that is there.
fn first(name: &'static str, paths: &[PathBuf]) -> Result<Vec<u8>, TpmError> {
    for path in paths {
        match read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(TpmError::PolicyFile {
                    path: path.clone(),
                    source,
                });
            }
            Ok(bytes) if bytes.len() as u64 > MAX_FILE_BYTES => {
                return Err(damaged(&format!("{name} (longer than 1 MiB)")));
            }
            Ok(bytes) => return Ok(bytes),
        }
    }
    Err(TpmError::NoPolicyFile {
        name,
        paths: paths.to_vec(),
    })
}

/// One byte more than is allowed, at most.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_counts_and_none_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| folder.path().join(name));
        let told = first(PCRLOCK, &paths);
        assert!(
            matches!(told, Err(TpmError::NoPolicyFile { name: PCRLOCK, paths: tried })
                if tried == paths)
        );
        std::fs::write(&paths[2], "third").unwrap();
        std::fs::write(&paths[1], "second").unwrap();
        assert_eq!(first(PCRLOCK, &paths).unwrap(), b"second");
        std::fs::create_dir(&paths[0]).unwrap();
        let told = first(PCRLOCK, &paths);
        assert!(matches!(told, Err(TpmError::PolicyFile { path, .. }) if path == paths[0]));
        std::fs::write(&paths[1], vec![b' '; (1 << 20) + 1]).unwrap();
        let told = first(PCRLOCK, &paths[1..]);
        assert!(matches!(told, Err(TpmError::Damaged { .. })));
    }
}
