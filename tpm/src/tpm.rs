//! What a TPM is asked for: the one trait that both back ends implement.

use std::time::Duration;

use luksmith_crypto::SecretBytes;

use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::pcr::{PcrSelection, PcrValues};
use crate::policy::Policy;
use crate::wire::{Attributes, KeyKind, Name, NvPublic, Public};
use crate::writer::WriterKey;

/// A TPM 2.0, with one owner at a time.
///
/// Every object and session that a method makes is flushed when it returns, whatever happened.
pub trait Tpm {
    /// Name of the back end, for messages.
    fn back_end(&self) -> &'static str;

    /// Maker, firmware and what is set.
    ///
    /// # Errors
    /// Those of talking to the TPM.
    fn facts(&mut self) -> Result<Facts, TpmError>;

    /// How many wrong tries were made, how many may be, and how long until they are forgotten.
    ///
    /// # Errors
    /// Those of talking to the TPM.
    fn lockout(&mut self) -> Result<Lockout, TpmError>;

    /// The banks that have any PCR.
    ///
    /// # Errors
    /// Those of talking to the TPM.
    fn banks(&mut self) -> Result<Vec<HashAlg>, TpmError>;

    /// The values of PCRs, all of the same moment.
    ///
    /// # Errors
    /// [`TpmError::NoSuchBank`] if one of them is not there.
    fn read_pcrs(&mut self, selection: &PcrSelection) -> Result<PcrValues, TpmError>;

    /// Extends a PCR by a digest of its bank's length.
    ///
    /// # Errors
    /// [`TpmError::Misuse`] for a digest of another length.
    fn extend_pcr(&mut self, bank: HashAlg, pcr: u8, digest: &[u8]) -> Result<(), TpmError>;

    /// The storage root key at [`SRK_HANDLE`], made and kept there if there is none.
    ///
    /// # Errors
    /// [`TpmError::HierarchyAuth`] if it has to be made and the owner authorization is not that
    /// of this client; [`TpmError::Unsupported`] for a key of a kind that is not understood.
    fn storage_root(&mut self) -> Result<StorageKey, TpmError>;

    /// Seals a secret of at most [`MAX_SEALED_BYTES`] under a key.
    ///
    /// # Errors
    /// [`TpmError::WrongTpm`] if the key is not here.
    fn seal(
        &mut self,
        under: &StorageKey,
        secret: &SecretBytes,
        lock: &Lock<'_>,
    ) -> Result<Sealed, TpmError>;

    /// Unseals.
    ///
    /// The policy is carried out first and compared with the one that was sealed to; only then is
    ///
    /// # Errors
    /// [`TpmError::PolicyMismatch`], [`TpmError::WrongPin`], [`TpmError::PinNeeded`],
    /// [`TpmError::LockedOut`], [`TpmError::WrongTpm`] and those of talking to the TPM.
    fn unseal(
        &mut self,
        under: &StorageKey,
        sealed: &Sealed,
        policy: &Policy,
        auth: Option<&AuthValue>,
    ) -> Result<SecretBytes, TpmError>;

    /// The digest of a policy by the TPM's own computation (a trial session).
    ///
    /// # Errors
    /// Those of the assertions.
    fn trial(&mut self, policy: &Policy) -> Result<Digest, TpmError>;

    /// What an index is now, with its name computed anew.
    ///
    /// # Errors
    /// [`TpmError::NoSuchIndex`].
    fn nv_public(&mut self, index: u32) -> Result<NvPublic, TpmError>;

    /// Defines an index in the owner's hierarchy.
    ///
    /// # Errors
    /// [`TpmError::Full`]; [`TpmError::IndexRefused`] if it exists.
    fn nv_define(&mut self, public: &NvPublic, auth: Option<&AuthValue>) -> Result<(), TpmError>;

    /// Removes an index, by the owner's right, and what was in it for good.
    ///
    /// # Errors
    /// [`TpmError::NoSuchIndex`].
    fn nv_undefine(&mut self, index: u32) -> Result<(), TpmError>;

    /// Writes the contents from the beginning.
    ///
    /// # Errors
    /// [`TpmError::NoSuchIndex`]; [`TpmError::IndexRefused`]; those of the authorization.
    fn nv_write(
        &mut self,
        index: u32,
        by: &NvAuth<'_>,
        contents: &SecretBytes,
    ) -> Result<(), TpmError>;

    /// Reads the whole contents.
    ///
    /// # Errors
    /// [`TpmError::NoSuchIndex`]; [`TpmError::IndexRefused`], also while it is locked; those of
    /// the authorization.
    fn nv_read(&mut self, index: u32, by: &NvAuth<'_>) -> Result<SecretBytes, TpmError>;

    /// Adds one to a counter.
    ///
    /// # Errors
    /// Those of [`Tpm::nv_write`].
    fn nv_increment(&mut self, index: u32, by: &NvAuth<'_>) -> Result<(), TpmError>;

    /// Forbids reading, or writing, until the next start of the TPM (for an index defined so).
    ///
    /// # Errors
    /// Those of [`Tpm::nv_read`].
    fn nv_lock(&mut self, index: u32, by: &NvAuth<'_>, lock: NvLock) -> Result<(), TpmError>;

    /// Forgets all wrong tries. `auth` is the lockout authorization, if one is set; a wrong one
    /// closes this command itself for the recovery time.
    ///
    /// # Errors
    /// [`TpmError::HierarchyAuth`]; [`TpmError::LockedOut`].
    fn reset_lockout(&mut self, auth: Option<&AuthValue>) -> Result<(), TpmError>;

    /// Sets how many wrong tries there are and when they are forgotten.
    ///
    /// # Errors
    /// Those of [`Tpm::reset_lockout`].
    fn set_lockout_rules(
        &mut self,
        rules: &LockoutRules,
        auth: Option<&AuthValue>,
    ) -> Result<(), TpmError>;

    /// Sets the lockout authorization, without which nobody resets wrong tries or changes the
    /// rules; an empty one takes it away. `old` is the one that is set, if one is.
    ///
    /// # Errors
    /// Those of [`Tpm::reset_lockout`].
    fn set_lockout_auth(
        &mut self,
        new: &AuthValue,
        old: Option<&AuthValue>,
    ) -> Result<(), TpmError>;
}

/// Where the storage root key is, by the TCG's provisioning guidance.
pub const SRK_HANDLE: u32 = 0x8100_0001;

/// The most that can be sealed, in bytes (`MAX_SYM_DATA`).
pub const MAX_SEALED_BYTES: usize = 128;

/// Refuses what no TPM could seal.
pub(crate) fn check_sealable(secret: &SecretBytes) -> Result<(), TpmError> {
    if secret.is_empty() || secret.len() > MAX_SEALED_BYTES {
        return Err(TpmError::Misuse {
            what: "sealing nothing, or more than 128 bytes",
        });
    }
    Ok(())
}

/// Whether a TPM sealed what it was asked to: an answer that opens more easily would not be noticed
/// otherwise.
pub(crate) fn check_made(asked: &Public, made: &Public) -> Result<(), TpmError> {
    let as_asked = made.kind == KeyKind::Sealed
        && made.attributes == asked.attributes
        && made.policy == asked.policy;
    if !as_asked {
        return Err(TpmError::Garbage {
            what: "public area of what was sealed",
        });
    }
    Ok(())
}

/// Adds the time left to a lockout.
pub(crate) fn told_time_left<R>(
    tpm: &mut impl Tpm,
    done: Result<R, TpmError>,
) -> Result<R, TpmError> {
    match done {
        Err(TpmError::LockedOut { remaining: None }) => {
            let remaining = tpm.lockout().ok().and_then(|it| it.remaining());
            Err(TpmError::LockedOut { remaining })
        }
        done => done,
    }
}

/// A key that others are protected by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StorageKey {
    /// A key that is kept in the TPM.
    Persistent {
        /// Where.
        handle: u32,
        /// Its name; a key of another name there is not this one.
        name: Name,
        /// Its public area, where the caller knows it.
        public: Option<Public>,
    },
    /// A key that is made anew each time from the owner's seed.
    Primary(PrimaryTemplate),
}

/// The two kinds of keys that systemd before version 254, and tpm2-tools, make anew each time:
/// as the storage root key, but with wrong tries counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PrimaryTemplate {
    /// ECC P-256.
    LegacyEcc,
    /// RSA-2048.
    LegacyRsa,
}

/// What protects a sealed secret besides the TPM itself.
pub struct Lock<'a> {
    /// Digest of the policy.
    pub policy: Digest,
    /// Authorization value, for a policy that contains it.
    pub auth: Option<&'a AuthValue>,
    /// Whether wrong tries count and a lockout closes it: right for a PIN, wrong without one.
    pub counts_tries: bool,
}

/// A sealed secret as it may lie anywhere: only its TPM can read it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// Contents of the `TPM2B_PRIVATE`.
    pub private: Vec<u8>,
    /// The public area.
    pub public: Public,
    /// Contents of the `TPM2B_ENCRYPTED_SECRET` of a secret that was sealed without the TPM, to
    /// be imported before use.
    pub seed: Option<Vec<u8>>,
}

impl Sealed {
    /// Whether an authorization value may be needed: wrong tries would count.
    #[must_use]
    pub fn counts_tries(&self) -> bool {
        !self.public.attributes.has(Attributes::NO_DA)
    }

    /// Whether it was sealed without a policy, and opens by its authorization value.
    pub(crate) fn opens_without(&self, policy: &Policy) -> bool {
        policy.assertions().is_empty()
            && self.public.policy.is_empty()
            && self.public.attributes.has(Attributes::USER_WITH_AUTH)
    }
}

/// By whose right an NV index is used.
pub enum NvAuth<'a> {
    /// The owner's, with the owner authorization of the client.
    Owner,
    /// Its own authorization value.
    Index(Option<&'a AuthValue>),
    /// Its policy, with its authorization value if that is part of it.
    Policy {
        /// What is asserted.
        policy: &'a Policy,
        /// The authorization value of the index.
        auth: Option<&'a AuthValue>,
    },
    /// Its policy, which asks for a signature by this key.
    Signed(&'a WriterKey),
}

/// What is forbidden until the next start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NvLock {
    /// Reading.
    Read,
    /// Writing.
    Write,
}

/// When wrong tries close the TPM, and when it opens again (Part 1, "Dictionary Attack Protection").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockoutRules {
    /// So many wrong tries close it.
    pub max_tries: u32,
    /// One wrong try is forgotten after so many seconds; zero means that none is counted.
    pub forget_one_after_s: u32,
    /// After a wrong lockout authorization, that is closed for so many seconds.
    pub recovery_s: u32,
}

/// The rules and where things stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lockout {
    /// Wrong tries that are not forgotten.
    pub wrong_tries: u32,
    /// The rules.
    pub rules: LockoutRules,
    /// Whether the TPM is closed now.
    pub locked: bool,
}

impl Lockout {
    /// How many wrong tries it still takes.
    #[must_use]
    pub fn tries_left(&self) -> u32 {
        if self.locked {
            0
        } else {
            self.rules.max_tries.saturating_sub(self.wrong_tries)
        }
    }

    /// Time until one try is open again, at most, while the TPM has power; `None` if it is open.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        if self.tries_left() > 0 || self.rules.forget_one_after_s == 0 {
            return None;
        }
        let beyond = self.wrong_tries.saturating_sub(self.rules.max_tries);
        let seconds = u64::from(self.rules.forget_one_after_s) * (u64::from(beyond) + 1);
        Some(Duration::from_secs(seconds))
    }
}

/// What a TPM says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The maker's four letters ("IBM", "INTC").
    pub manufacturer: String,
    /// Both numbers of the firmware version.
    pub firmware: [u32; 2],
    /// Whether an owner authorization is set.
    pub owner_auth_set: bool,
    /// Whether a lockout authorization is set.
    pub lockout_auth_set: bool,
    /// Whether `TPM2_PolicyAuthorizeNV` is known.
    pub has_policy_authorize_nv: bool,
}
