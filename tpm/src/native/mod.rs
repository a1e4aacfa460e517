//! The default back end: speaks to the TPM itself, in safe Rust.
//!
//! What it opens it closes: each object and session lives within a closure
//! ([`Native::flushing`]), and is flushed when that returns, however it returns. Without a resource
//! manager a TPM has room for three of each.

mod derive;
mod link;
mod nv;
mod objects;
mod offline;
mod policy;
mod rsa;
mod salt;
mod session;
mod state;

pub(crate) use self::derive::hmac;
pub use self::offline::seal_offline;

use luksmith_crypto::{SecretBytes, random};

use self::derive::kdf_a;
use self::link::{Authorization, Command, Link, Subject, Verb};
use self::session::{NONCE_BYTES, Session, SessionKind};
use crate::address::Address;
use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::meaning::owner_error;
use crate::pcr::{PcrSelection, PcrValues};
use crate::policy::Policy;
use crate::tpm::{
    Facts, Lock, Lockout, LockoutRules, NvAuth, NvLock, Sealed, StorageKey, Tpm, told_time_left,
};
use crate::transport::{self, Transport};
use crate::wire::{Name, NvPublic, Public, Writer};

/// A TPM over a transport of ours.
pub struct Native<T = Box<dyn Transport>> {
    link: Link<T>,
    /// The owner authorization, where one is set.
    owner: Option<AuthValue>,
    /// The only storage root key that is accepted, where it is known.
    root: Option<Name>,
    /// An NV index whose name is known.
    index: Option<(u32, Name)>,
    #[cfg(test)]
    in_the_clear: bool,
}

/// A key that is in the TPM and whose public area was checked.
pub(crate) struct Loaded {
    handle: u32,
    public: Public,
}

impl Loaded {
    fn subject(&self) -> Subject {
        Subject::named(self.handle, self.public.name())
    }
}

/// The owner's hierarchy (`TPM_RH_OWNER`).
const OWNER: u32 = 0x4000_0001;
/// No hierarchy, no key (`TPM_RH_NULL`).
const NONE: u32 = 0x4000_0007;
/// The authority over dictionary attacks (`TPM_RH_LOCKOUT`).
const LOCKOUT: u32 = 0x4000_000A;

const START_AUTH_SESSION: Verb = Verb {
    name: "TPM2_StartAuthSession",
    code: 0x176,
};
const FLUSH_CONTEXT: Verb = Verb {
    name: "TPM2_FlushContext",
    code: 0x165,
};

/// How often a policy is carried out again because a PCR moved meanwhile.
const MAX_PCR_CHANGES: usize = 30;

impl Native {
    /// Opens the way to a TPM. Nothing is sent yet.
    ///
    /// # Errors
    /// [`TpmError::NotPresent`] and those of [`transport::open`].
    pub fn open(address: &Address) -> Result<Self, TpmError> {
        Ok(Self::over(transport::open(address)?))
    }
}

impl<T: Transport> Native<T> {
    /// Speaks over this transport.
    pub fn over(transport: T) -> Self {
        Self {
            link: Link::new(transport),
            owner: None,
            root: None,
            index: None,
            #[cfg(test)]
            in_the_clear: false,
        }
    }

    /// Uses this owner authorization instead of an empty one.
    #[must_use]
    pub fn with_owner_auth(mut self, auth: AuthValue) -> Self {
        self.owner = Some(auth);
        self
    }

    /// Accepts only this storage root key, so that sessions of NV commands, too, are salted to
    /// the TPM that was there at enrolment.
    #[must_use]
    pub fn with_storage_root(mut self, name: Name) -> Self {
        self.root = Some(name);
        self
    }

    /// Accepts no other NV index at this handle than the one of this name. The name is part of what is authorised, so
    /// that nothing but that index can answer.
    #[must_use]
    pub fn with_index(mut self, handle: u32, name: Name) -> Self {
        self.index = Some((handle, name));
        self
    }

    /// Runs `work` and flushes `handle` then. The first error counts.
    fn flushing<R>(
        &mut self,
        handle: u32,
        work: impl FnOnce(&mut Self) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        let done = work(self);
        // The handle is a parameter of this command, not a handle of it (Part 3, 28.4).
        let flush = Command::new(FLUSH_CONTEXT, Vec::new(), Writer::new().u32(handle));
        let flushed = self.link.run(flush);
        let done = done?;
        flushed?.reader().end()?;
        Ok(done)
    }

    /// Runs `work` with a session, salted to `salt` if there is one.
    fn with_session<R>(
        &mut self,
        kind: SessionKind,
        salt: Option<&Loaded>,
        work: impl FnOnce(&mut Self, &mut Session) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        let shared = match salt {
            Some(key) => Some(salt::share(&key.public, "SECRET")?),
            None => None,
        };
        let mut nonce_caller = vec![0; NONCE_BYTES];
        random::fill(&mut nonce_caller)?;
        let encrypted = shared.as_ref().map_or(&[][..], |shared| &shared.encrypted);
        let parameters = Writer::new()
            .sized(&nonce_caller)
            .sized(encrypted)
            .u8(kind.id())
            // AES-128-CFB
            .u16(0x0006)
            .u16(128)
            .u16(0x0043)
            .u16(HashAlg::Sha256.id());
        let subjects = vec![
            Subject::plain(salt.map_or(NONE, |key| key.handle)),
            Subject::plain(NONE),
        ];
        let start = Command::new(START_AUTH_SESSION, subjects, parameters).giving_handle();
        let answer = self.link.run(start)?;
        let handle = answer.handle()?;
        self.flushing(handle, |native| {
            let mut reader = answer.reader();
            let nonce_tpm = reader.sized_max(64)?.to_vec();
            reader.end()?;
            if nonce_tpm.len() < 16 {
                // A short nonce would make answers repeatable.
                return Err(TpmError::Garbage {
                    what: "nonce of a session",
                });
            }
            let key = match shared {
                Some(shared) => {
                    kdf_a(shared.secret.expose(), "ATH", &nonce_tpm, &nonce_caller, 32)?
                }
                None => SecretBytes::zeroed(0)?,
            };
            let mut session = Session::new(handle, kind, key, nonce_tpm);
            #[cfg(test)]
            {
                session.in_the_clear = native.in_the_clear;
            }
            work(native, &mut session)
        })
    }

    /// Runs `work` with the owner's right: the empty password, or a session that proves the owner
    /// authorization without showing it.
    fn by_owner<R>(
        &mut self,
        salt: Option<&Loaded>,
        work: impl FnOnce(&mut Self, Authorization<'_>) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        let Some(owner) = self.owner.take() else {
            return work(self, Authorization::Empty).map_err(owner_error);
        };
        let done = self.with_session(SessionKind::Hmac, salt, |native, session| {
            let authorization = Authorization::Session {
                session,
                auth: Some(&owner),
                answer_secret: false,
            };
            work(native, authorization)
        });
        self.owner = Some(owner);
        done.map_err(owner_error)
    }
}

impl<T: Transport> Tpm for Native<T> {
    fn back_end(&self) -> &'static str {
        "native"
    }

    fn facts(&mut self) -> Result<Facts, TpmError> {
        self.read_facts()
    }

    fn lockout(&mut self) -> Result<Lockout, TpmError> {
        self.lockout_state()
    }

    fn banks(&mut self) -> Result<Vec<HashAlg>, TpmError> {
        self.live_banks()
    }

    fn read_pcrs(&mut self, selection: &PcrSelection) -> Result<PcrValues, TpmError> {
        self.pcr_values(selection)
    }

    fn extend_pcr(&mut self, bank: HashAlg, pcr: u8, digest: &[u8]) -> Result<(), TpmError> {
        self.extend(bank, pcr, digest)
    }

    fn storage_root(&mut self) -> Result<StorageKey, TpmError> {
        let root = self.root_key()?;
        Ok(StorageKey::Persistent {
            handle: root.handle,
            name: root.public.name(),
            public: Some(root.public),
        })
    }

    fn seal(
        &mut self,
        under: &StorageKey,
        secret: &SecretBytes,
        lock: &Lock<'_>,
    ) -> Result<Sealed, TpmError> {
        let done = self.with_storage_key(under, |native, key| native.create(key, secret, lock));
        told_time_left(self, done)
    }

    fn unseal(
        &mut self,
        under: &StorageKey,
        sealed: &Sealed,
        policy: &Policy,
        auth: Option<&AuthValue>,
    ) -> Result<SecretBytes, TpmError> {
        let done = self.with_storage_key(under, |native, key| {
            native.unseal_under(key, under, sealed, policy, auth)
        });
        told_time_left(self, done)
    }

    fn trial(&mut self, policy: &Policy) -> Result<Digest, TpmError> {
        self.with_session(SessionKind::Trial, None, |native, session| {
            native.carry_out(policy, session)?;
            native.policy_digest(session)
        })
    }

    fn nv_public(&mut self, index: u32) -> Result<NvPublic, TpmError> {
        self.read_nv_public(index)
    }

    fn nv_define(&mut self, public: &NvPublic, auth: Option<&AuthValue>) -> Result<(), TpmError> {
        let done = self.define(public, auth);
        told_time_left(self, done)
    }

    fn nv_undefine(&mut self, index: u32) -> Result<(), TpmError> {
        let done = self.undefine(index);
        told_time_left(self, done)
    }

    fn nv_write(
        &mut self,
        index: u32,
        by: &NvAuth<'_>,
        contents: &SecretBytes,
    ) -> Result<(), TpmError> {
        let done = self.write(index, by, contents);
        told_time_left(self, done)
    }

    fn nv_read(&mut self, index: u32, by: &NvAuth<'_>) -> Result<SecretBytes, TpmError> {
        let done = self.read(index, by);
        told_time_left(self, done)
    }

    fn nv_increment(&mut self, index: u32, by: &NvAuth<'_>) -> Result<(), TpmError> {
        let done = self.increment(index, by);
        told_time_left(self, done)
    }

    fn nv_lock(&mut self, index: u32, by: &NvAuth<'_>, lock: NvLock) -> Result<(), TpmError> {
        let done = self.lock_index(index, by, lock);
        told_time_left(self, done)
    }

    fn reset_lockout(&mut self, auth: Option<&AuthValue>) -> Result<(), TpmError> {
        self.reset_tries(auth)
    }

    fn set_lockout_rules(
        &mut self,
        rules: &LockoutRules,
        auth: Option<&AuthValue>,
    ) -> Result<(), TpmError> {
        self.set_rules(rules, auth)
    }

    fn set_lockout_auth(
        &mut self,
        new: &AuthValue,
        old: Option<&AuthValue>,
    ) -> Result<(), TpmError> {
        self.change_lockout_auth(new, old)
    }
}

#[cfg(test)]
#[path = "../../tests/support/mod.rs"]
#[expect(dead_code, reason = "the suite uses the rest")]
mod support;

#[cfg(test)]
mod secrecy;
