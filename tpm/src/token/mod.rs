//! LUKS2 tokens of type `systemd-tpm2`, as systemd 252 to 262 write and read them; those of clevis
//! are read, too ([`ClevisTpm2`]).
//!
//! A token is read once, into a [`SystemdTpm2`] that cannot be half right, and written from one.
//! What it holds leads to a passphrase: the unsealed bytes in base64, or with
//! [`Pin::Argon2id`] a key from both the PIN and those bytes.
//!
//! ```text
//! enrol        enrol.rs     random secret -> sealed -> unsealed once -> token and passphrase
//! plan_slot    enrol.rs     passphrase and token -> one change of the header
//! TpmTokens    unlock.rs    token -> machine state compared -> PIN -> unsealed -> passphrase
//! ```
//!
//! # Three kinds of policies
//!
//! Literal PCRs have to be what they were at enrolment. Signed ones ([`SignedPcrs`]) may be
//! anything that a key has signed: the signatures come with a kernel image, in a file. With
//! pcrlock ([`Pcrlock`]) they may be what an NV index of the TPM says, which a file spells out.
//! [`PolicyFiles`] says where those files lie; `policy.rs` puts all together.

mod clevis;
mod enrol;
mod files;
mod grace;
mod index;
mod json;
mod kept;
mod pcrlock;
mod pin;
mod policy;
mod policy_key;
mod read;
mod signatures;
mod unlock;
mod write;

pub use clevis::{CLEVIS_KIND, ClevisTpm2};
pub use enrol::{Enrolled, Enrolment, NewPin, enrol, plan_slot};
pub use files::{MACHINE_POLICY, PolicyFiles};
pub use grace::Grace;
pub use index::define_index;
pub use kept::Kept;
pub use pcrlock::{Pcrlock, PcrlockPolicy};
pub use policy::Fit;
pub use policy_key::PolicyKey;
pub use signatures::{PcrSignatures, SignedPcrs};
pub use unlock::TpmTokens;

use crate::hash::{Digest, HashAlg};
use crate::tpm::{Sealed, StorageKey};

/// The type of these tokens.
pub const KIND: &str = "systemd-tpm2";

/// What one token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SystemdTpm2 {
    /// What is sealed: one secret, or parts that make one when put together.
    pub sealed: Vec<Sealed>,
    /// Literal PCRs, ascending; may be none.
    pub pcrs: Vec<u8>,
    /// Their bank; `None` where an old version left it to be guessed.
    pub bank: Option<HashAlg>,
    /// Digest of the policy of each part.
    pub policies: Vec<Digest>,
    /// What the parts are sealed under.
    pub under: StorageKey,
    /// How the PIN is used.
    pub pin: Pin,
    /// PCRs whose values have to be signed. Together with `pcrlock` the first of two parts is
    /// sealed to these, the second to that.
    pub signed: Option<SignedPcrs>,
    /// PCRs whose values an NV index has to hold.
    pub pcrlock: Option<Pcrlock>,
    /// What else it takes that is not understood here: such a token cannot be opened.
    pub beyond: Vec<&'static str>,
}

/// How a PIN becomes an authorization value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pin {
    /// There is none.
    None,
    /// Hashed, up to systemd 252.
    Plain,
    /// Stretched by PBKDF2 with a salt, since 253.
    Salted {
        /// The salt.
        salt: Vec<u8>,
    },
    /// Stretched by Argon2id, one half to the TPM and one into the key, since 262: who has broken
    /// the TPM still has to guess.
    Argon2id {
        /// The salt.
        salt: Vec<u8>,
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes.
        iterations: u32,
        /// Lanes.
        lanes: u32,
    },
}

impl Pin {
    /// Whether there is one.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        *self != Self::None
    }
}
