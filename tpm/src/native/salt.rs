//! A secret that only a key within the TPM can read: for salts of sessions and seeds of objects
//! that come from outside (TPM 2.0 Library, Part 1, Annexes B.10 and C.6: secret sharing).

use luksmith_crypto::{CryptoError, SecretBytes};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::{PublicKey, Sec1Point, SecretKey, ecdh::diffie_hellman};

use super::derive::{DIGEST_BYTES, kdf_e};
use super::rsa;
use crate::error::TpmError;
use crate::wire::{EccPoint, KeyKind, Public, Writer};

/// A secret, and the form in which it is told to the TPM.
pub(crate) struct SharedSecret {
    /// The secret, 32 bytes.
    pub(crate) secret: SecretBytes,
    /// The contents of a `TPM2B_ENCRYPTED_SECRET`.
    pub(crate) encrypted: Vec<u8>,
}

/// Makes a secret for `key`; `label` says what it is for ("SECRET", "DUPLICATE").
pub(crate) fn share(key: &Public, label: &str) -> Result<SharedSecret, TpmError> {
    match &key.kind {
        KeyKind::EccP256(point) => share_by_ecdh(point, label),
        KeyKind::Rsa(key) => rsa::share(key, label),
        KeyKind::Sealed => Err(TpmError::Misuse {
            what: "sealed data as the key of a session",
        }),
    }
}

fn share_by_ecdh(point: &EccPoint, label: &str) -> Result<SharedSecret, TpmError> {
    // `PublicKey` refuses what is not on the curve: such a point would leak bits of our key.
    let theirs = public_key(point)?;
    let ours = ephemeral()?;
    let shared = diffie_hellman(ours.to_nonzero_scalar(), theirs.as_affine());
    let sent = ours.public_key().to_sec1_point(false);
    let theirs = theirs.to_sec1_point(false);
    let (x, y) = coordinates(&sent);
    let (their_x, _) = coordinates(&theirs);
    let secret = kdf_e(shared.raw_secret_bytes(), label, x, their_x, DIGEST_BYTES)?;
    let encrypted = Writer::new().sized(x).sized(y).done();
    Ok(SharedSecret { secret, encrypted })
}

fn public_key(point: &EccPoint) -> Result<PublicKey, TpmError> {
    let garbage = TpmError::Garbage {
        what: "point of a key",
    };
    let (Some(x), Some(y)) = (padded(&point.x), padded(&point.y)) else {
        return Err(garbage);
    };
    let encoded = [&[4], &x[..], &y[..]].concat();
    PublicKey::from_sec1_bytes(&encoded).map_err(|_| garbage)
}

/// A coordinate with the zero bytes that a TPM may leave off in front.
fn padded(coordinate: &[u8]) -> Option<[u8; 32]> {
    let mut whole = [0; 32];
    let start = whole.len().checked_sub(coordinate.len())?;
    whole[start..].copy_from_slice(coordinate);
    Some(whole)
}

fn coordinates(point: &Sec1Point) -> (&[u8], &[u8]) {
    let bytes = &point.as_bytes()[1..];
    bytes.split_at(bytes.len() / 2)
}

fn ephemeral() -> Result<SecretKey, CryptoError> {
    loop {
        // Refused only for zero and beyond the order: about once in 2^32.
        let candidate = SecretBytes::random(32)?;
        if let Ok(key) = SecretKey::from_slice(candidate.expose()) {
            return Ok(key);
        }
    }
}
