//! The fuse between an initramfs and what comes after it: what a volume's key leaves in a PCR.
//!
//! A machine that unlocks by itself asks the TPM in its initramfs. Whatever runs later must not be able to
//! ask again: a disk with the UUID of the root, brought by somebody who knows its passphrase, would boot,
//! and the TPM could not tell it from the real one. So the key of every volume is measured into PCR 15
//! before the volume is used, and a slot that is bound to PCR 15 as it is after a reset opens only
//! before that.
//!
//! The bytes are those of systemd-cryptsetup (`tpm2-measure-pcr=`), so that a policy made for one fits the other:
//! HMAC under the volume key, with the hash of the bank, of `cryptsetup:NAME:UUID`.

use std::fmt::Write as _;

use luksmith_crypto::{Hash, VolumeKey, hmac};

use crate::error::TpmError;
use crate::hash::HashAlg;
use crate::tpm::Tpm;

/// The PCR that stands for who the system is ("system-identity").
pub const IDENTITY_PCR: u8 = 15;

/// What is measured where no volume was opened.
const NO_VOLUME: &[u8] = b"luksmith:leave-initramfs";

/// What tells the volume key from every other without giving it away, for one name.
///
/// With SHA-256, in hexadecimal, it is the value of crypttab's `fixate-volume-key=`.
#[must_use]
pub fn volume_key_id(bank: HashAlg, key: &VolumeKey, name: &str, uuid: &str) -> Vec<u8> {
    let words = format!("cryptsetup:{}:{uuid}", escaped(name));
    keyed(bank, key.expose(), words.as_bytes())
}

/// Measures a volume key into a PCR, in every bank.
///
/// # Errors
/// Those of talking to the TPM. What was sealed to the PCR may then still open: do not go on.
pub fn measure_volume_key(
    tpm: &mut dyn Tpm,
    pcr: u8,
    key: &VolumeKey,
    name: &str,
    uuid: &str,
) -> Result<(), TpmError> {
    for bank in tpm.banks()? {
        tpm.extend_pcr(bank, pcr, &volume_key_id(bank, key, name, uuid))?;
    }
    Ok(())
}

/// Measures that no volume was opened, so that the fuse is burnt all the same.
///
/// # Errors
/// As [`measure_volume_key`].
pub fn measure_no_volume(tpm: &mut dyn Tpm, pcr: u8) -> Result<(), TpmError> {
    for bank in tpm.banks()? {
        tpm.extend_pcr(bank, pcr, &keyed(bank, &[], NO_VOLUME))?;
    }
    Ok(())
}

fn keyed(bank: HashAlg, key: &[u8], words: &[u8]) -> Vec<u8> {
    let hash = match bank {
        HashAlg::Sha1 => Hash::Sha1,
        HashAlg::Sha256 => Hash::Sha256,
        HashAlg::Sha384 => Hash::Sha384,
        HashAlg::Sha512 => Hash::Sha512,
    };
    let mut tag = vec![0; hash.len()];
    hmac(hash, key, &[words], &mut tag);
    tag
}

/// The colon parts the words, so none may stand in a name.
fn escaped(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b':' | b'\\' | 0..b' ' | 127.. => {
                write!(out, "\\x{byte:02x}").expect("a String takes what it gets");
            }
            _ => out.push(char::from(byte)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use luksmith_crypto::SecretBytes;

    use super::*;

    /// By `printf 'cryptsetup:root:UUID' | openssl dgst -sha256 -mac hmac -macopt hexkey:…`.
    #[test]
    fn an_id_is_what_openssl_says() {
        let mut bytes: Vec<u8> = (0..64).collect();
        let key = VolumeKey::adopt(SecretBytes::take_from(&mut bytes).unwrap()).unwrap();
        let uuid = "7b2e1f0a-5d6c-4c1e-9a51-000000000001";
        let id = |bank, name| hex::encode(volume_key_id(bank, &key, name, uuid));
        assert_eq!(
            id(HashAlg::Sha256, "root"),
            "59319e186d12ec9c9f8dc558b2a0636d3e942c7244b507d3d19537bf7a071b25"
        );
        assert_eq!(
            id(HashAlg::Sha1, "root"),
            "e177c7c77025096a5a2b1345b87d8e9782e6739a"
        );
        assert_ne!(id(HashAlg::Sha256, "root"), id(HashAlg::Sha256, "data"));
    }

    #[test]
    fn a_name_cannot_pass_for_another() {
        assert_eq!(escaped("a:b\\c\u{e9}"), "a\\x3ab\\x5cc\\xc3\\xa9");
    }
}
