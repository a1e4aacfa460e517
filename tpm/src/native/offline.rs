//! Sealing without the TPM, for a machine that is elsewhere: only the public area of its storage
//! key is needed, and only that key can import what comes out (TPM 2.0 Library, Part 1,
//! "Protected Storage", outer duplication wrapper).

use luksmith_crypto::{CryptoError, SecretBytes};
use sha2::{Digest as _, Sha256};

use super::derive::{DIGEST_BYTES, ParameterKey, hmac, kdf_a};
use super::salt::share;
use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::template;
use crate::tpm::{Lock, Sealed, check_sealable};
use crate::wire::{Attributes, Public, Writer};

/// Type of the sensitive area of sealed data (`TPM_ALG_KEYEDHASH`).
const KEYEDHASH: u16 = 0x0008;

/// Seals `secret` for the TPM whose storage key has this public area.
///
/// What comes out is not fixed to a TPM by its attributes, as nothing is that comes from outside;
/// but nobody else has the key that it is encrypted to.
///
/// # Errors
/// [`TpmError::Unsupported`] for a key that is no storage key;
/// [`TpmError::Misuse`] for no secret or one of more than [`MAX_SEALED_BYTES`](crate::tpm::MAX_SEALED_BYTES).
pub fn seal_offline(
    key: &Public,
    secret: &SecretBytes,
    lock: &Lock<'_>,
) -> Result<Sealed, TpmError> {
    if !key.is_storage_key() {
        return Err(TpmError::Unsupported {
            what: "a device key that is no storage key".to_owned(),
        });
    }
    check_sealable(secret)?;
    let blinding = SecretBytes::random(DIGEST_BYTES)?;
    let unique = Sha256::new()
        .chain_update(blinding.expose())
        .chain_update(secret.expose())
        .finalize();
    let public = template::sealed(Attributes(0), lock, &unique);
    let seed = share(key, "DUPLICATE")?;
    let name = public.name();
    let encrypted = {
        let mut sensitive = sensitive(lock.auth, &blinding, secret)?;
        let key = kdf_a(seed.secret.expose(), "STORAGE", name.as_bytes(), &[], 16)?;
        ParameterKey::of_object(&key)?.encrypt(sensitive.expose_mut());
        sensitive.expose().to_vec()
    };
    let key = kdf_a(seed.secret.expose(), "INTEGRITY", &[], &[], DIGEST_BYTES)?;
    let integrity = hmac(key.expose(), &[&encrypted, name.as_bytes()]);
    Ok(Sealed {
        private: Writer::new().sized(&integrity).bytes(&encrypted).done(),
        public,
        seed: Some(seed.encrypted),
    })
}

/// A `TPM2B_SENSITIVE`: type, authorization value, blinding, data.
fn sensitive(
    auth: Option<&AuthValue>,
    blinding: &SecretBytes,
    data: &SecretBytes,
) -> Result<SecretBytes, CryptoError> {
    let auth = auth.map_or(&[][..], AuthValue::expose);
    let parts = [auth, blinding.expose(), data.expose()];
    let inner = 2 + parts.iter().map(|part| 2 + part.len()).sum::<usize>();
    let number = |len: usize| u16::try_from(len).expect("all are bounded").to_be_bytes();
    SecretBytes::init_with(2 + inner, |out| {
        out[..2].copy_from_slice(&number(inner));
        out[2..4].copy_from_slice(&KEYEDHASH.to_be_bytes());
        let mut at = 4;
        for part in parts {
            out[at..at + 2].copy_from_slice(&number(part.len()));
            out[at + 2..at + 2 + part.len()].copy_from_slice(part);
            at += 2 + part.len();
        }
        Ok(())
    })
}
