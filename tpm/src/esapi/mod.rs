//! The other back end: `tss-esapi` over tpm2-tss, for TCTIs that only that has (`mssim`,
//! `tabrmd`), and as a second opinion on the native one in tests.
//!
//! What version 7.7 of the wrapper has no function for is refused by name: PolicyNV,
//! PolicyAuthorizeNV, the locks of NV indices, the commands against dictionary attacks. It shows
//! its context to nobody, so the C functions cannot fill the gaps. tpm2-tss itself writes what
//! goes wrong to standard error; the environment variable `TSS2_LOG=all+NONE` stops it.

mod convert;
mod nv;
mod objects;
mod policy;

use std::str::FromStr as _;

use luksmith_crypto::SecretBytes;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::{CapabilityType, SessionType};
use tss_esapi::handles::{AuthHandle, KeyHandle, ObjectHandle, PcrHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Auth, CapabilityData, DigestValues, SymmetricDefinition};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::{Context, tcti_ldr};

use self::convert::{Asked, bank_of, buffer, hashing, selection_list};
use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::meaning::lockout_error;
use crate::pcr::{PCRS, PcrSelection, PcrValues};
use crate::policy::Policy;
use crate::tpm::{
    Facts, Lock, Lockout, LockoutRules, NvAuth, NvLock, Sealed, StorageKey, Tpm, told_time_left,
};
use crate::wire::{Name, NvPublic};

/// A TPM over tpm2-tss.
pub struct Esapi {
    context: Context,
    owner: Option<AuthValue>,
    root: Option<Name>,
}

/// Name of this back end.
pub(crate) const ESAPI: &str = "esapi";

/// A mode that this back end cannot do.
fn cannot(what: &'static str) -> TpmError {
    TpmError::BackEnd {
        back_end: ESAPI,
        what,
    }
}

impl Esapi {
    /// Opens a TCTI by its configuration: `device:/dev/tpmrm0`, `swtpm:host=H,port=P`,
    /// `mssim:...`, `tabrmd:...`.
    ///
    /// # Errors
    /// [`TpmError::Unsupported`] for one that is not understood; [`TpmError::NotPresent`].
    pub fn open(tcti: &str) -> Result<Self, TpmError> {
        let configuration: TctiNameConf =
            tcti_ldr::TctiNameConf::from_str(tcti).map_err(|_| TpmError::Unsupported {
                what: format!("TCTI {tcti:?}"),
            })?;
        let context = Context::new(configuration).map_err(|error| TpmError::NotPresent {
            address: tcti.to_owned(),
            source: std::io::Error::other(error),
        })?;
        Ok(Self {
            context,
            owner: None,
            root: None,
        })
    }

    /// Uses this owner authorization instead of an empty one.
    #[must_use]
    pub fn with_owner_auth(mut self, auth: AuthValue) -> Self {
        self.owner = Some(auth);
        self
    }

    /// Accepts only this storage root key.
    #[must_use]
    pub fn with_storage_root(mut self, name: Name) -> Self {
        self.root = Some(name);
        self
    }

    /// Runs `work` and flushes an object then. The first error counts.
    fn flushing<R>(
        &mut self,
        handle: ObjectHandle,
        work: impl FnOnce(&mut Self) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        let done = work(self);
        let flushed = self
            .context
            .flush_context(handle)
            .asked("TPM2_FlushContext");
        let done = done?;
        flushed?;
        Ok(done)
    }

    /// Runs `work` with a session, salted if there is a key, which encrypts the first parameters
    /// of a command and of its answer.
    fn with_session<R>(
        &mut self,
        kind: SessionType,
        salt: Option<KeyHandle>,
        work: impl FnOnce(&mut Self, AuthSession) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        const START: &str = "TPM2_StartAuthSession";
        let session = self
            .context
            .start_auth_session(
                salt,
                None,
                None,
                kind,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .asked(START)?
            .ok_or(TpmError::Garbage { what: START })?;
        let handle = SessionHandle::from(session).into();
        self.flushing(handle, |esapi| {
            if salt.is_some() {
                let (attributes, mask) = SessionAttributesBuilder::new()
                    .with_decrypt(true)
                    .with_encrypt(true)
                    .build();
                esapi
                    .context
                    .tr_sess_set_attributes(session, attributes, mask)
                    .asked(START)?;
            }
            work(esapi, session)
        })
    }

    /// Makes the owner authorization known to the context.
    fn tell_owner(&mut self) -> Result<(), TpmError> {
        let auth = auth_of(self.owner.as_ref())?;
        self.context
            .tr_set_auth(ObjectHandle::Owner, auth)
            .asked("Esys_TR_SetAuth")
    }

    fn property(&mut self, number: u32) -> Result<u32, TpmError> {
        const WHAT: &str = "TPM2_GetCapability";
        // Not `get_tpm_property`, which remembers what it was told before a wrong try.
        let (data, _) = self
            .context
            .get_capability(CapabilityType::TpmProperties, number, 1)
            .asked(WHAT)?;
        let CapabilityData::TpmProperties(properties) = data else {
            return Err(TpmError::Garbage { what: WHAT });
        };
        properties
            .into_iter()
            .find(|one| u32::from(one.property()) == number)
            .map(|one| one.value())
            .ok_or(TpmError::Garbage { what: WHAT })
    }
}

/// An authorization value as the wrapper has it, which wipes it, too.
fn auth_of(auth: Option<&AuthValue>) -> Result<Auth, TpmError> {
    buffer(auth.map_or(&[], AuthValue::expose))
}

impl Tpm for Esapi {
    fn back_end(&self) -> &'static str {
        ESAPI
    }

    fn facts(&mut self) -> Result<Facts, TpmError> {
        let letters = self.property(0x105)?.to_be_bytes();
        let permanent = self.property(0x200)?;
        let firmware = [self.property(0x10B)?, self.property(0x10C)?];
        let (data, _) = self
            .context
            .get_capability(CapabilityType::Command, 0x192, 1)
            .asked("TPM2_GetCapability")?;
        let CapabilityData::Commands(commands) = data else {
            return Err(TpmError::Garbage {
                what: "TPM2_GetCapability",
            });
        };
        Ok(Facts {
            manufacturer: letters
                .iter()
                .filter(|letter| letter.is_ascii_graphic())
                .map(|letter| char::from(*letter))
                .collect(),
            firmware,
            owner_auth_set: permanent & 1 != 0,
            lockout_auth_set: permanent & 4 != 0,
            has_policy_authorize_nv: commands.iter().any(|one| one.command_index() == 0x192),
        })
    }

    fn lockout(&mut self) -> Result<Lockout, TpmError> {
        Ok(Lockout {
            wrong_tries: self.property(0x20E)?,
            rules: LockoutRules {
                max_tries: self.property(0x20F)?,
                forget_one_after_s: self.property(0x210)?,
                recovery_s: self.property(0x211)?,
            },
            locked: self.property(0x200)? & (1 << 9) != 0,
        })
    }

    fn banks(&mut self) -> Result<Vec<HashAlg>, TpmError> {
        let (data, _) = self
            .context
            .get_capability(CapabilityType::AssignedPcr, 0, 1)
            .asked("TPM2_GetCapability")?;
        let CapabilityData::AssignedPcr(banks) = data else {
            return Err(TpmError::Garbage {
                what: "TPM2_GetCapability",
            });
        };
        Ok(banks
            .get_selections()
            .iter()
            .filter(|bank| !bank.is_empty())
            .filter_map(|bank| bank_of(bank.hashing_algorithm()))
            .collect())
    }

    fn read_pcrs(&mut self, selection: &PcrSelection) -> Result<PcrValues, TpmError> {
        let bank = selection.bank();
        let mut values = PcrValues::new(bank);
        while let Some(rest) = selection.without(&values) {
            let (_, read, digests) = self
                .context
                .pcr_read(selection_list(&rest)?)
                .asked("TPM2_PCR_Read")?;
            let slots: Vec<u8> = read
                .get_selections()
                .iter()
                .filter(|one| bank_of(one.hashing_algorithm()) == Some(bank))
                .flat_map(|one| one.selected())
                .map(|slot| u32::from(slot).trailing_zeros().to_le_bytes()[0])
                .collect();
            if slots.is_empty() {
                return Err(TpmError::NoSuchBank { bank: bank.name() });
            }
            if slots.len() != digests.len() || slots.iter().any(|pcr| values.get(*pcr).is_some()) {
                return Err(TpmError::Garbage {
                    what: "TPM2_PCR_Read",
                });
            }
            for (pcr, digest) in slots.iter().zip(digests.value()) {
                values.insert(*pcr, digest.value())?;
            }
        }
        Ok(values)
    }

    fn extend_pcr(&mut self, bank: HashAlg, pcr: u8, digest: &[u8]) -> Result<(), TpmError> {
        if digest.len() != bank.len() || pcr >= PCRS {
            return Err(TpmError::Misuse {
                what: "a digest that the PCR's bank cannot take",
            });
        }
        let mut digests = DigestValues::new();
        digests.set(hashing(bank), buffer(digest)?);
        let handle = PcrHandle::try_from(u32::from(pcr)).map_err(|_| TpmError::Misuse {
            what: "a PCR that does not exist",
        })?;
        self.context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.pcr_extend(handle, digests)
            })
            .asked("TPM2_PCR_Extend")
    }

    fn storage_root(&mut self) -> Result<StorageKey, TpmError> {
        let (handle, public) = self.root_key()?;
        let mut handle = ObjectHandle::from(handle);
        self.context.tr_close(&mut handle).asked("Esys_TR_Close")?;
        Ok(StorageKey::Persistent {
            handle: crate::tpm::SRK_HANDLE,
            name: public.name(),
            public: Some(public),
        })
    }

    fn seal(
        &mut self,
        under: &StorageKey,
        secret: &SecretBytes,
        lock: &Lock<'_>,
    ) -> Result<Sealed, TpmError> {
        let done = self.with_storage_key(under, |esapi, key| esapi.create(key, secret, lock));
        told_time_left(self, done)
    }

    fn unseal(
        &mut self,
        under: &StorageKey,
        sealed: &Sealed,
        policy: &Policy,
        auth: Option<&AuthValue>,
    ) -> Result<SecretBytes, TpmError> {
        let done = self.with_storage_key(under, |esapi, key| {
            esapi.unseal_under(key, under, sealed, policy, auth)
        });
        told_time_left(self, done)
    }

    fn trial(&mut self, policy: &Policy) -> Result<Digest, TpmError> {
        self.with_session(SessionType::Trial, None, |esapi, session| {
            esapi.carry_out(policy, session)?;
            esapi.policy_digest(session)
        })
    }

    fn nv_public(&mut self, index: u32) -> Result<NvPublic, TpmError> {
        self.with_index(index, |_, _, public| Ok(public.clone()))
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

    fn nv_lock(&mut self, _index: u32, _by: &NvAuth<'_>, lock: NvLock) -> Result<(), TpmError> {
        Err(cannot(match lock {
            NvLock::Read => "TPM2_NV_ReadLock",
            NvLock::Write => "TPM2_NV_WriteLock",
        }))
    }

    fn reset_lockout(&mut self, _auth: Option<&AuthValue>) -> Result<(), TpmError> {
        Err(cannot("TPM2_DictionaryAttackLockReset"))
    }

    fn set_lockout_rules(
        &mut self,
        _rules: &LockoutRules,
        _auth: Option<&AuthValue>,
    ) -> Result<(), TpmError> {
        Err(cannot("TPM2_DictionaryAttackParameters"))
    }

    fn set_lockout_auth(
        &mut self,
        new: &AuthValue,
        old: Option<&AuthValue>,
    ) -> Result<(), TpmError> {
        let (old, new) = (auth_of(old)?, auth_of(Some(new))?);
        let (key, _) = self.root_key()?;
        self.context
            .tr_set_auth(ObjectHandle::Lockout, old)
            .asked("Esys_TR_SetAuth")?;
        self.with_session(SessionType::Hmac, Some(key), |esapi, session| {
            esapi
                .context
                .execute_with_session(Some(session), |context| {
                    context.hierarchy_change_auth(AuthHandle::Lockout, new)
                })
                .asked("TPM2_HierarchyChangeAuth")
        })
        .map_err(lockout_error)
    }
}
