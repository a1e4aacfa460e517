//! Keys and sealed objects: found, made, loaded, imported, unsealed.

use luksmith_crypto::{CryptoError, SecretBytes};

use super::link::{Authorization, Command, Subject, Verb};
use super::session::{Session, SessionKind};
use super::{Loaded, MAX_PCR_CHANGES, Native, OWNER};
use crate::auth::AuthValue;
use crate::code::Code;
use crate::error::TpmError;
use crate::meaning::{object_error, parent_error, unseal_error};
use crate::policy::Policy;
use crate::template;
use crate::tpm::{Lock, SRK_HANDLE, Sealed, StorageKey, check_made, check_sealable};
use crate::transport::Transport;
use crate::wire::{NULL, Name, Public, Reader, WireError, Writer};

const READ_PUBLIC: Verb = verb("TPM2_ReadPublic", 0x173);
const CREATE_PRIMARY: Verb = verb("TPM2_CreatePrimary", 0x131);
const EVICT_CONTROL: Verb = verb("TPM2_EvictControl", 0x120);
const CREATE: Verb = verb("TPM2_Create", 0x153);
const LOAD: Verb = verb("TPM2_Load", 0x157);
const IMPORT: Verb = verb("TPM2_Import", 0x156);
const UNSEAL: Verb = verb("TPM2_Unseal", 0x15E);

pub(super) const fn verb(name: &'static str, code: u32) -> Verb {
    Verb { name, code }
}

/// Longest private part that is read, in bytes.
const MAX_PRIVATE_BYTES: usize = 1024;

impl<T: Transport> Native<T> {
    /// Runs `work` with a storage key, which is flushed then if it was made for this.
    pub(super) fn with_storage_key<R>(
        &mut self,
        which: &StorageKey,
        work: impl FnOnce(&mut Self, &Loaded) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        match which {
            StorageKey::Persistent { handle, name, .. } => {
                let public = self.read_public(*handle)?.ok_or(TpmError::WrongTpm {
                    detail: format!("no key at {handle:#010x}"),
                })?;
                if public.name() != *name {
                    return Err(TpmError::WrongTpm {
                        detail: format!("another key at {handle:#010x}"),
                    });
                }
                let key = storage_key(*handle, public)?;
                work(self, &key)
            }
            StorageKey::Primary(template) => self.with_primary(&template::primary(*template), work),
        }
    }

    /// The storage root key, made if there is none.
    pub(super) fn root_key(&mut self) -> Result<Loaded, TpmError> {
        let public = match self.read_public(SRK_HANDLE)? {
            Some(public) => public,
            None if self.root.is_some() => {
                return Err(TpmError::WrongTpm {
                    detail: "no storage root key".to_owned(),
                });
            }
            None => self.with_primary(&template::storage_root(), |native, key| {
                native.keep(key)?;
                Ok(key.public.clone())
            })?,
        };
        if self
            .root
            .as_ref()
            .is_some_and(|name| *name != public.name())
        {
            return Err(TpmError::WrongTpm {
                detail: "another storage root key".to_owned(),
            });
        }
        storage_key(SRK_HANDLE, public)
    }

    /// The public area at a handle, `None` if nothing is there.
    fn read_public(&mut self, handle: u32) -> Result<Option<Public>, TpmError> {
        let command = Command::new(READ_PUBLIC, vec![Subject::plain(handle)], Writer::new());
        let answer = match self.link.run(command) {
            Err(error) if error.code() == Some(Code::HANDLE) => return Ok(None),
            answer => answer?,
        };
        let mut reader = answer.reader();
        let public = Public::parse(reader.sized()?)?;
        let claimed = reader.sized()?;
        reader.sized()?; // the qualified name
        reader.end()?;
        if claimed != public.name().as_bytes() {
            return Err(TpmError::Garbage {
                what: "name of a key",
            });
        }
        Ok(Some(public))
    }

    fn with_primary<R>(
        &mut self,
        template: &[u8],
        work: impl FnOnce(&mut Self, &Loaded) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        let parameters = Writer::new()
            // Neither an authorization value nor data from outside.
            .sized(&[0; 4])
            .sized(template)
            .sized(&[])
            .u32(0);
        let answer = self.by_owner(None, |native, authorization| {
            let command = Command::new(CREATE_PRIMARY, vec![Subject::plain(OWNER)], parameters);
            native.link.run(command.by(authorization).giving_handle())
        })?;
        let handle = answer.handle()?;
        self.flushing(handle, |native| {
            let mut reader = answer.reader();
            let public = Public::parse(reader.sized()?)?;
            creation(&mut reader)?;
            let claimed = reader.sized()?;
            reader.end()?;
            if claimed != public.name().as_bytes() {
                return Err(TpmError::Garbage {
                    what: "name of a key",
                });
            }
            let key = storage_key(handle, public)?;
            work(native, &key)
        })
    }

    /// Keeps a key as the storage root key.
    fn keep(&mut self, key: &Loaded) -> Result<(), TpmError> {
        self.by_owner(Some(key), |native, authorization| {
            let subjects = vec![Subject::plain(OWNER), key.subject()];
            let parameters = Writer::new().u32(SRK_HANDLE);
            let command = Command::new(EVICT_CONTROL, subjects, parameters).by(authorization);
            Ok(native.link.run(command)?.reader().end()?)
        })
    }

    /// Seals `secret` under `key`.
    pub(super) fn create(
        &mut self,
        key: &Loaded,
        secret: &SecretBytes,
        lock: &Lock<'_>,
    ) -> Result<Sealed, TpmError> {
        check_sealable(secret)?;
        let template = template::sealed_here(lock);
        let sensitive = sensitive(lock.auth, secret)?;
        let parameters = Writer::new().sized(template.as_bytes()).sized(&[]).u32(0);
        self.with_session(SessionKind::Hmac, Some(key), |native, session| {
            let authorization = Authorization::Session {
                session,
                auth: None,
                answer_secret: false,
            };
            let command = Command::new(CREATE, vec![key.subject()], parameters)
                .hiding(&sensitive)
                .by(authorization);
            let answer = native.link.run(command).map_err(parent_error)?;
            let mut reader = answer.reader();
            let private = reader.sized_max(MAX_PRIVATE_BYTES)?.to_vec();
            let public = Public::parse(reader.sized()?)?;
            creation(&mut reader)?;
            reader.end()?;
            check_made(&template, &public)?;
            Ok(Sealed {
                private,
                public,
                seed: None,
            })
        })
    }

    /// Unseals under a key that is checked already.
    pub(super) fn unseal_under(
        &mut self,
        key: &Loaded,
        under: &StorageKey,
        sealed: &Sealed,
        policy: &Policy,
        auth: Option<&AuthValue>,
    ) -> Result<SecretBytes, TpmError> {
        let foreign = |error| object_error(under, error);
        let imported = match &sealed.seed {
            Some(seed) => Some(self.import(key, sealed, seed).map_err(foreign)?),
            None => None,
        };
        let private = imported.as_ref().unwrap_or(&sealed.private);
        let handle = self.load(key, private, &sealed.public).map_err(foreign)?;
        self.flushing(handle, |native| {
            for _ in 0..MAX_PCR_CHANGES {
                let done = native.unseal_once(key, handle, sealed, policy, auth);
                match done {
                    Err(error) if error.code() == Some(Code::PCR_CHANGED) => {}
                    done => return done,
                }
            }
            Err(TpmError::PolicyMismatch {
                detail: "the PCRs do not stand still".to_owned(),
            })
        })
    }

    fn unseal_once(
        &mut self,
        key: &Loaded,
        handle: u32,
        sealed: &Sealed,
        policy: &Policy,
        auth: Option<&AuthValue>,
    ) -> Result<SecretBytes, TpmError> {
        let without_policy = sealed.opens_without(policy);
        let kind = if without_policy {
            SessionKind::Hmac
        } else {
            SessionKind::Policy
        };
        self.with_session(kind, Some(key), |native, session| {
            if !without_policy {
                native.fulfil(policy, sealed, session)?;
            }
            if policy.needs_auth_value() && auth.is_none() {
                return Err(TpmError::PinNeeded);
            }
            let authorization = Authorization::Session {
                session,
                auth,
                answer_secret: true,
            };
            let object = Subject::named(handle, sealed.public.name());
            let command = Command::new(UNSEAL, vec![object], Writer::new()).by(authorization);
            native.link.run(command).map_err(unseal_error)?.secret()
        })
    }

    /// Carries a policy out, and sees whether it is the one that was sealed to.
    fn fulfil(
        &mut self,
        policy: &Policy,
        sealed: &Sealed,
        session: &mut Session,
    ) -> Result<(), TpmError> {
        self.carry_out(policy, session)?;
        let digest = self.policy_digest(session)?;
        if sealed.public.policy == digest.0 {
            Ok(())
        } else {
            Err(TpmError::PolicyMismatch {
                detail: "it is not the policy that was sealed to".to_owned(),
            })
        }
    }

    /// Loads an object; whoever calls flushes it. The parent is authorized by its empty value:
    /// nothing here is secret, and the name of the object is checked by what uses it.
    fn load(&mut self, key: &Loaded, private: &[u8], public: &Public) -> Result<u32, TpmError> {
        let parameters = Writer::new().sized(private).sized(public.as_bytes());
        let command = Command::new(LOAD, vec![key.subject()], parameters)
            .by(Authorization::Empty)
            .giving_handle();
        let answer = self.link.run(command)?;
        let handle = answer.handle()?;
        let read = named(answer.reader(), &public.name());
        match read {
            Ok(()) => Ok(handle),
            Err(error) => self.flushing(handle, |_| Err(error)),
        }
    }

    /// Turns what was sealed without the TPM into what it can load.
    fn import(&mut self, key: &Loaded, sealed: &Sealed, seed: &[u8]) -> Result<Vec<u8>, TpmError> {
        let parameters = Writer::new()
            .sized(&[])
            .sized(sealed.public.as_bytes())
            .sized(&sealed.private)
            .sized(seed)
            .u16(NULL);
        let command =
            Command::new(IMPORT, vec![key.subject()], parameters).by(Authorization::Empty);
        let answer = self.link.run(command)?;
        let mut reader = answer.reader();
        let private = reader.sized_max(MAX_PRIVATE_BYTES)?.to_vec();
        reader.end()?;
        Ok(private)
    }
}

fn storage_key(handle: u32, public: Public) -> Result<Loaded, TpmError> {
    if public.is_storage_key() {
        Ok(Loaded { handle, public })
    } else {
        Err(TpmError::Unsupported {
            what: "a storage key of another kind than AES-128-CFB, restricted, fixed".to_owned(),
        })
    }
}

/// The contents of a `TPM2B_SENSITIVE_CREATE`: authorization value and data.
fn sensitive(auth: Option<&AuthValue>, data: &SecretBytes) -> Result<SecretBytes, CryptoError> {
    let auth = auth.map_or(&[][..], AuthValue::expose);
    SecretBytes::init_with(4 + auth.len() + data.len(), |mut out| {
        for part in [auth, data.expose()] {
            let len = u16::try_from(part.len()).expect("both are bounded");
            let (head, rest) = out.split_at_mut(2);
            head.copy_from_slice(&len.to_be_bytes());
            let (body, rest) = rest.split_at_mut(part.len());
            body.copy_from_slice(part);
            out = rest;
        }
        Ok(())
    })
}

/// Reads past what a TPM says of how an object came to be.
fn creation(reader: &mut Reader<'_>) -> Result<(), WireError> {
    reader.sized()?; // data
    reader.sized()?; // hash
    ticket(reader)
}

/// Reads past a ticket: tag, hierarchy, digest.
pub(super) fn ticket(reader: &mut Reader<'_>) -> Result<(), WireError> {
    reader.u16()?;
    reader.u32()?;
    reader.sized_max(64)?;
    Ok(())
}

/// Reads an answer that is nothing but a name.
pub(super) fn named(mut reader: Reader<'_>, expected: &Name) -> Result<(), TpmError> {
    let claimed = reader.sized()?;
    reader.end()?;
    if claimed == expected.as_bytes() {
        Ok(())
    } else {
        Err(TpmError::Garbage {
            what: "name of a loaded object",
        })
    }
}
