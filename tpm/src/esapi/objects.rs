//! Keys and sealed objects.

use luksmith_crypto::SecretBytes;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::resource_handles::{Hierarchy, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::SymmetricDefinitionObject;

use super::convert::{Asked, buffer, from_tss, to_tss};
use super::{Esapi, auth_of};
use crate::auth::AuthValue;
use crate::code::Code;
use crate::error::TpmError;
use crate::meaning::{object_error, owner_error, parent_error, unseal_error};
use crate::policy::Policy;
use crate::template;
use crate::tpm::{Lock, SRK_HANDLE, Sealed, StorageKey, check_made, check_sealable};
use crate::wire::Public;

/// How often a policy is carried out again because a PCR moved meanwhile.
const MAX_PCR_CHANGES: usize = 30;

impl Esapi {
    pub(super) fn with_storage_key<R>(
        &mut self,
        which: &StorageKey,
        work: impl FnOnce(&mut Self, KeyHandle) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        match which {
            StorageKey::Persistent { handle, name, .. } => {
                let (key, public) = self.read_public(*handle)?.ok_or(TpmError::WrongTpm {
                    detail: format!("no key at {handle:#010x}"),
                })?;
                if public.name() != *name {
                    return Err(TpmError::WrongTpm {
                        detail: format!("another key at {handle:#010x}"),
                    });
                }
                let key = storage_key(key, &public)?;
                work(self, key)
            }
            StorageKey::Primary(kind) => {
                self.with_primary(&template::primary(*kind), |esapi, key, _| work(esapi, key))
            }
        }
    }

    pub(super) fn root_key(&mut self) -> Result<(KeyHandle, Public), TpmError> {
        let found = match self.read_public(SRK_HANDLE)? {
            None if self.root.is_none() => {
                self.with_primary(&template::storage_root(), |esapi, key, _| esapi.keep(key))?;
                self.read_public(SRK_HANDLE)?
            }
            found => found,
        };
        let (key, public) = found.ok_or(TpmError::WrongTpm {
            detail: "no storage root key".to_owned(),
        })?;
        if self
            .root
            .as_ref()
            .is_some_and(|name| *name != public.name())
        {
            return Err(TpmError::WrongTpm {
                detail: "another storage root key".to_owned(),
            });
        }
        Ok((storage_key(key, &public)?, public))
    }

    fn read_public(&mut self, handle: u32) -> Result<Option<(KeyHandle, Public)>, TpmError> {
        const WHAT: &str = "TPM2_ReadPublic";
        let handle = TpmHandle::Persistent(persistent(handle)?);
        let found = self.context.tr_from_tpm_public(handle).asked(WHAT);
        let key = match found {
            Err(error) if error.code() == Some(Code::HANDLE) => return Ok(None),
            found => KeyHandle::from(found?),
        };
        let (public, name, _) = self.context.read_public(key).asked(WHAT)?;
        let public = from_tss(&public)?;
        if name.value() != public.name().as_bytes() {
            return Err(TpmError::Garbage {
                what: "name of a key",
            });
        }
        Ok(Some((key, public)))
    }

    fn with_primary<R>(
        &mut self,
        template: &[u8],
        work: impl FnOnce(&mut Self, KeyHandle, &Public) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        self.tell_owner()?;
        let public = to_tss(template)?;
        let made = self.with_session(SessionType::Hmac, None, |esapi, session| {
            esapi
                .context
                .execute_with_session(Some(session), |context| {
                    context.create_primary(Hierarchy::Owner, public, None, None, None, None)
                })
                .asked("TPM2_CreatePrimary")
        });
        let made = made.map_err(owner_error)?;
        self.flushing(made.key_handle.into(), |esapi| {
            let public = from_tss(&made.out_public)?;
            let key = storage_key(made.key_handle, &public)?;
            work(esapi, key, &public)
        })
    }

    fn keep(&mut self, key: KeyHandle) -> Result<(), TpmError> {
        let place = Persistent::Persistent(persistent(SRK_HANDLE)?);
        self.with_session(SessionType::Hmac, None, |esapi, session| {
            let mut kept = esapi
                .context
                .execute_with_session(Some(session), |context| {
                    context.evict_control(Provision::Owner, key.into(), place)
                })
                .asked("TPM2_EvictControl")?;
            esapi.context.tr_close(&mut kept).asked("Esys_TR_Close")
        })
        .map_err(owner_error)
    }

    pub(super) fn create(
        &mut self,
        key: KeyHandle,
        secret: &SecretBytes,
        lock: &Lock<'_>,
    ) -> Result<Sealed, TpmError> {
        check_sealable(secret)?;
        let asked = template::sealed_here(lock);
        let public = to_tss(asked.as_bytes())?;
        let auth = auth_of(lock.auth)?;
        let data = buffer(secret.expose())?;
        let made = self.with_session(SessionType::Hmac, Some(key), |esapi, session| {
            esapi
                .context
                .execute_with_session(Some(session), |context| {
                    context.create(key, public, Some(auth), Some(data), None, None)
                })
                .asked("TPM2_Create")
                .map_err(parent_error)
        })?;
        let public = from_tss(&made.out_public)?;
        check_made(&asked, &public)?;
        Ok(Sealed {
            private: made.out_private.value().to_vec(),
            public,
            seed: None,
        })
    }

    pub(super) fn unseal_under(
        &mut self,
        key: KeyHandle,
        under: &StorageKey,
        sealed: &Sealed,
        policy: &Policy,
        auth: Option<&AuthValue>,
    ) -> Result<SecretBytes, TpmError> {
        let public = to_tss(sealed.public.as_bytes())?;
        let private = self
            .private_of(key, sealed)
            .map_err(|error| object_error(under, error))?;
        let object = self
            .context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.load(key, private, public)
            })
            .asked("TPM2_Load")
            .map_err(|error| object_error(under, error))?;
        self.flushing(object.into(), |esapi| {
            for _ in 0..MAX_PCR_CHANGES {
                match esapi.unseal_once(key, object.into(), sealed, policy, auth) {
                    Err(error) if error.code() == Some(Code::PCR_CHANGED) => {}
                    done => return done,
                }
            }
            Err(TpmError::PolicyMismatch {
                detail: "the PCRs do not stand still".to_owned(),
            })
        })
    }

    /// The private part, imported first if it was made elsewhere.
    fn private_of(
        &mut self,
        key: KeyHandle,
        sealed: &Sealed,
    ) -> Result<tss_esapi::structures::Private, TpmError> {
        let private = buffer(&sealed.private)?;
        let Some(seed) = &sealed.seed else {
            return Ok(private);
        };
        let public = to_tss(sealed.public.as_bytes())?;
        let seed = buffer(seed)?;
        self.context
            .execute_with_session(Some(AuthSession::Password), |context| {
                let plain = SymmetricDefinitionObject::Null;
                context.import(key.into(), None, public, private, seed, plain)
            })
            .asked("TPM2_Import")
    }

    fn unseal_once(
        &mut self,
        key: KeyHandle,
        object: ObjectHandle,
        sealed: &Sealed,
        policy: &Policy,
        auth: Option<&AuthValue>,
    ) -> Result<SecretBytes, TpmError> {
        let without_policy = sealed.opens_without(policy);
        let kind = if without_policy {
            SessionType::Hmac
        } else {
            SessionType::Policy
        };
        self.with_session(kind, Some(key), |esapi, session| {
            if !without_policy {
                esapi.carry_out(policy, session)?;
                if sealed.public.policy != esapi.policy_digest(session)?.0 {
                    return Err(TpmError::PolicyMismatch {
                        detail: "it is not the policy that was sealed to".to_owned(),
                    });
                }
            }
            if policy.needs_auth_value() && auth.is_none() {
                return Err(TpmError::PinNeeded);
            }
            esapi
                .context
                .tr_set_auth(object, auth_of(auth)?)
                .asked("Esys_TR_SetAuth")?;
            let data = esapi
                .context
                .execute_with_session(Some(session), |context| context.unseal(object))
                .asked("TPM2_Unseal")
                .map_err(unseal_error)?;
            SecretBytes::init_with(data.value().len(), |bytes| {
                bytes.copy_from_slice(data.value());
                Ok(())
            })
        })
    }
}

fn persistent(handle: u32) -> Result<PersistentTpmHandle, TpmError> {
    PersistentTpmHandle::new(handle).map_err(|_| TpmError::Damaged {
        what: format!("{handle:#010x} is no handle of a persistent key"),
    })
}

fn storage_key(handle: KeyHandle, public: &Public) -> Result<KeyHandle, TpmError> {
    if public.is_storage_key() {
        Ok(handle)
    } else {
        Err(TpmError::Unsupported {
            what: "a storage key of another kind than AES-128-CFB, restricted, fixed".to_owned(),
        })
    }
}
