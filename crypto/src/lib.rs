//! Holds key bytes and turns sectors into ciphertext and back.
//!
//! The smallest crate to audit: it knows no format and no device and depends on nothing else
//! of the project.
//!
//! * Unlock path: [`Kdf::derive`] → [`SectorCipher::for_area`] → [`af::merge`] →
//!   [`VolumeKey::verified`].
//! * Read path, step 5: [`SectorCipher::decrypt`] turns an [`IoBuf<Cipher>`] into an
//!   [`IoBuf<Plain>`]; the write path goes the other way.
//! * Before either: [`selftest::power_on`], which every entry calls by itself.
//!
//! What is secret lives in [`SecretBytes`]: locked, out of core dumps, wiped on drop. What may
//! go to a disk is an [`IoBuf<Cipher>`]. Wrong use of either does not compile.

pub mod af;
pub mod buf;
mod calibrate;
mod digest;
mod error;
mod hash;
mod kdf;
mod lock;
mod mac;
mod machine;
pub mod random;
mod secret;
mod sector;
pub mod selftest;
mod xts;

pub use buf::{Arena, Blank, Cipher, IoBuf, Plain};
pub use calibrate::calibrate;
pub use digest::KeyDigest;
pub use error::{CryptoError, VerifyError};
pub use hash::Hash;
pub use kdf::{Argon2Variant, Kdf, KdfCaps, KdfKind};
#[doc(hidden)]
pub use lock::pretend_no_memfd_secret;
pub use lock::{SecretMemory, secret_memory};
pub use mac::{MacKey, TAG_BYTES, hmac};
pub use secret::{KeyHandover, Passphrase, SecretBytes, VolumeKey};
pub use sector::{
    AllowNull, CipherSpec, IvSector, Part, SectorCipher, SectorSize, decrypt_parts, encrypt_parts,
};

/// Whether the processor has AES instructions. Without them the cipher is bitsliced software:
/// as safe, but slow.
#[must_use]
pub fn aes_is_accelerated() -> bool {
    aes::hardware_accelerated()
}
