//! Seals and unseals secrets on a TPM 2.0. No other crate of the project knows a TPM.
//!
//! What is sealed is a random secret that opens a LUKS2 keyslot; a volume key never enters a TPM.
//!
//! # The way of one unseal
//!
//! ```text
//! Tpm::unseal                tpm.rs                the one trait; native.rs is the default back end
//!   storage key              native/objects.rs     by handle and name, its public area checked
//!   Session                  native/session.rs     salted to that key: native/salt.rs, derive.rs
//!   load                     native/objects.rs     under the storage key
//!   carry_out                native/policy.rs      one command per Assertion, then the digest is compared
//!   unseal                   native/objects.rs     answer decrypted into SecretBytes, its HMAC checked
//! each command               native/link.rs        frame, retry, strict reading: wire/, code.rs
//!   Transport                transport/            device, TCP or Unix stream, recorder
//! ```
//!
//! # Two back ends
//!
//! `Native` speaks to the TPM itself, in safe Rust without a C library, so it fits a static
//! binary of an initramfs and its parser is safe against a hostile bus. It can do all that the
//! trait says. `Esapi`, behind the feature `esapi`, goes through tpm2-tss: any TCTI of that, and a
//! second opinion in tests. What it cannot do it refuses by name ([`TpmError::BackEnd`]).
//!
//! # What is trusted
//!
//! Nothing that a TPM says: names are computed here, answers carry an HMAC under a key that only
//! the holder of the storage key can know, and whatever is read is read to its last byte. Which
//! storage key that is, is the caller's to remember: [`StorageKey::Persistent`] carries its name.
#![forbid(unsafe_code)]

// So that tests within and beside the crate share their support.
#[cfg(test)]
extern crate self as luksmith_tpm;

mod address;
mod auth;
mod boxed;
mod code;
mod counter;
mod error;
#[cfg(feature = "esapi")]
mod esapi;
mod free_index;
mod hash;
pub mod log;
mod meaning;
mod measure;
mod native;
mod pcr;
mod pcr_list;
pub mod policy;
mod template;
pub mod token;
mod tpm;
pub mod transport;
pub mod wire;
mod writer;

pub use address::Address;
pub use auth::{AuthValue, MAX_AUTH_BYTES};
pub use code::Code;
pub use counter::NvCounter;
pub use error::TpmError;
#[cfg(feature = "esapi")]
pub use esapi::Esapi;
pub use hash::{Digest, HashAlg};
pub use measure::{IDENTITY_PCR, measure_no_volume, measure_volume_key, volume_key_id};
pub use native::{Native, seal_offline};
pub use pcr::{PCRS, PcrSelection, PcrValues};
pub use pcr_list::{FixedValue, PcrList, pcr_name};
pub use policy::{Assertion, Policy};
pub use tpm::{
    Facts, Lock, Lockout, LockoutRules, MAX_SEALED_BYTES, NvAuth, NvLock, PrimaryTemplate,
    SRK_HANDLE, Sealed, StorageKey, Tpm,
};
pub use writer::WriterKey;
