//! From a PIN to an authorization value, and from what was unsealed to a passphrase.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use luksmith_crypto::{Argon2Variant, CryptoError, Hash, Kdf, KdfCaps, Passphrase, SecretBytes};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Pin;
use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::native::hmac;

/// Rounds of PBKDF2 that systemd takes.
const ROUNDS: u32 = 10_000;
/// What Argon2id gives: one half for the key, one for the TPM.
const BOTH_HALVES: usize = 64;
/// Label of the key that a PIN and the unsealed bytes give together.
const LABEL: &[u8] = b"systemd-tpm2-argon2id-lock";

/// What a PIN leads to.
pub(super) struct Proof {
    /// For the TPM.
    pub(super) auth: AuthValue,
    /// For the key, where the PIN has a part in it.
    key_half: Option<SecretBytes>,
}

impl Pin {
    /// Derives what this PIN leads to; `None` where there is no PIN.
    ///
    /// # Errors
    /// [`TpmError::PinNeeded`] if one is needed and not given; costs above the caps.
    pub(super) fn prove(&self, given: Option<&Passphrase>) -> Result<Option<Proof>, TpmError> {
        let whole = |auth| {
            Ok(Some(Proof {
                auth,
                key_half: None,
            }))
        };
        let given = match (self, given) {
            (Self::None, _) => return Ok(None),
            (_, None) => return Err(TpmError::PinNeeded),
            (_, Some(given)) => given,
        };
        let caps = KdfCaps::default();
        match self {
            Self::None => Ok(None),
            Self::Plain => whole(hashed(given.expose())?),
            Self::Salted { salt } => {
                let kdf = Kdf::Pbkdf2 {
                    hash: Hash::Sha256,
                    iterations: ROUNDS,
                };
                let stretched = kdf.derive(given, salt, 32, &caps)?;
                whole(hashed(text(&stretched)?.expose())?)
            }
            Self::Argon2id {
                salt,
                memory_kib,
                iterations,
                lanes,
            } => {
                let kdf = Kdf::Argon2 {
                    variant: Argon2Variant::Id,
                    time: *iterations,
                    memory_kib: *memory_kib,
                    lanes: *lanes,
                };
                let mut both = kdf.derive(given, salt, BOTH_HALVES, &caps)?;
                let tpm_half = SecretBytes::take_from(&mut both.expose_mut()[32..])?;
                both.truncate(32);
                Ok(Some(Proof {
                    auth: hashed(text(&tpm_half)?.expose())?,
                    key_half: Some(both),
                }))
            }
        }
    }
}

/// The passphrase of the slot.
pub(super) fn passphrase(
    unsealed: &SecretBytes,
    proof: Option<&Proof>,
) -> Result<Passphrase, CryptoError> {
    match proof.and_then(|proof| proof.key_half.as_ref()) {
        None => Ok(Passphrase::new(text(unsealed)?)),
        Some(half) => {
            // HKDF-SHA256 (RFC 5869) of one block.
            let extracted = Zeroizing::new(hmac(unsealed.expose(), &[half.expose()]));
            let mut key = hmac(&*extracted, &[LABEL, &[1]]);
            Ok(Passphrase::new(text(&SecretBytes::take_from(&mut key)?)?))
        }
    }
}

/// Base64 with padding.
fn text(secret: &SecretBytes) -> Result<SecretBytes, CryptoError> {
    let len = secret.len().div_ceil(3) * 4;
    SecretBytes::init_with(len, |out| {
        let written = BASE64.encode_slice(secret.expose(), out);
        assert_eq!(written.ok(), Some(len), "the length is exact");
        Ok(())
    })
}

fn hashed(bytes: &[u8]) -> Result<AuthValue, CryptoError> {
    let mut hash: [u8; 32] = Sha256::digest(bytes).into();
    AuthValue::new(SecretBytes::take_from(&mut hash)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(text: &str) -> Passphrase {
        Passphrase::new(SecretBytes::take_from(&mut text.as_bytes().to_vec()).unwrap())
    }

    /// A salt and the value that systemd 257 made of it and the PIN 1234.
    #[test]
    fn a_salted_pin_is_that_of_systemd() {
        let pin = Pin::Salted {
            salt: BASE64
                .decode("BTnETt9+VYBkdwzOR564YGQRbTdzxDwseMOB45HsiC4=")
                .unwrap(),
        };
        let proof = pin.prove(Some(&pass("1234"))).unwrap().unwrap();
        assert_eq!(
            hex::encode(proof.auth.expose()),
            "4bd9f281734a0ba5170cd8ac23c4909caa3ce86cdd09f010962cb537d6b8774c"
        );
        let secret = SecretBytes::take_from(&mut [7; 32]).unwrap();
        let plain = passphrase(&secret, Some(&proof)).unwrap();
        assert_eq!(plain.expose(), BASE64.encode([7; 32]).as_bytes());
    }

    #[test]
    fn argon2id_gives_the_pin_a_part_in_the_key() {
        let pin = Pin::Argon2id {
            salt: vec![3; 32],
            memory_kib: 64,
            iterations: 1,
            lanes: 1,
        };
        let secret = SecretBytes::take_from(&mut [7; 32]).unwrap();
        let of = |text: &str| {
            let proof = pin.prove(Some(&pass(text))).unwrap();
            passphrase(&secret, proof.as_ref()).unwrap()
        };
        assert!(of("1234").ct_eq(&of("1234")));
        assert!(!of("1234").ct_eq(&of("4321")));
        assert_eq!(of("1234").len(), 44);
        assert!(matches!(pin.prove(None), Err(TpmError::PinNeeded)));
    }

    #[test]
    fn costs_beyond_the_caps_are_refused() {
        let pin = Pin::Argon2id {
            salt: vec![3; 32],
            memory_kib: u32::MAX,
            iterations: 1,
            lanes: 1,
        };
        let told = pin.prove(Some(&pass("1234")));
        assert!(matches!(
            told.err(),
            Some(TpmError::Crypto(CryptoError::CostTooHigh { .. }))
        ));
    }
}
