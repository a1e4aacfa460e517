//! The right to write an NV index, proved by a signature.
//!
//! An authorization value of the index would not do: whoever has the owner's right, which is mostly
//! nobody's secret, can remove the index and make one of the same name with a value of his own. A
//! policy that asks for a signature by this key (`TPM2_PolicySigned`, Part 3, 23.3) is part of that
//! name, so an index made anew stays unwritten. The signature covers the nonce of its session: one
//! that was overheard is worth nothing.

use luksmith_crypto::SecretBytes;
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use p256::elliptic_curve::sec1::ToSec1Point as _;

use crate::error::TpmError;
use crate::hash::Digest;
use crate::policy::Signature;
use crate::wire::{EccPoint, Public};

/// Bytes of the private half.
const WRITER_KEY_BYTES: usize = 32;

const POLICY_SIGNED: u32 = 0x0000_0160;

/// A key pair on P-256. Its private half stays with the system that writes.
pub struct WriterKey {
    secret: SecretBytes,
    public: Public,
}

impl WriterKey {
    /// A new one.
    ///
    /// # Errors
    /// Without random numbers or locked memory.
    pub fn generate() -> Result<Self, TpmError> {
        loop {
            // Refused only for zero and beyond the order: about once in 2^32.
            let secret = SecretBytes::random(WRITER_KEY_BYTES)?;
            if SigningKey::from_slice(secret.expose()).is_ok() {
                return Self::from_secret(secret);
            }
        }
    }

    /// The one with this private half.
    ///
    /// # Errors
    /// [`TpmError::Damaged`] if it is none.
    pub fn from_secret(secret: SecretBytes) -> Result<Self, TpmError> {
        let key = signing_key(&secret)?;
        let point = key.verifying_key().as_affine().to_sec1_point(false);
        let (x, y) = point.as_bytes()[1..].split_at(WRITER_KEY_BYTES);
        let public = Public::ecc_verifier(&EccPoint {
            x: x.to_vec(),
            y: y.to_vec(),
        })?;
        Ok(Self { secret, public })
    }

    /// The private half, to be kept.
    #[must_use]
    pub fn secret(&self) -> &SecretBytes {
        &self.secret
    }

    pub(crate) fn public(&self) -> &Public {
        &self.public
    }

    /// The policy of an index that only this key writes.
    pub(crate) fn policy(&self) -> Digest {
        let named = Digest::of(&[
            &Digest::ZERO.0,
            &POLICY_SIGNED.to_be_bytes(),
            self.public.name().as_bytes(),
        ]);
        // Then the reference, of which there is none.
        Digest::of(&[&named.0])
    }

    /// For a session with this nonce, without a time at which it ends, for whatever command.
    pub(crate) fn sign(&self, nonce_tpm: &[u8]) -> Result<Signature, TpmError> {
        let expiration = 0_i32.to_be_bytes();
        let signed = Digest::of(&[nonce_tpm, &expiration]);
        let signature: p256::ecdsa::Signature = signing_key(&self.secret)?
            .sign_prehash(&signed.0)
            .expect("32 bytes are a digest");
        let (r, s) = signature.split_bytes();
        Ok(Signature::EcDsa {
            r: r.to_vec(),
            s: s.to_vec(),
        })
    }
}

fn signing_key(secret: &SecretBytes) -> Result<SigningKey, TpmError> {
    SigningKey::from_slice(secret.expose()).map_err(|_| TpmError::Damaged {
        what: "private key of the policy's index".to_owned(),
    })
}
