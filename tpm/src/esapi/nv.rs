//! NV indices.

use luksmith_crypto::SecretBytes;
use tss_esapi::attributes::NvIndexAttributes;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, ObjectHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth as TssNvAuth, Provision};
use tss_esapi::structures::NvPublic as TssNvPublic;
use tss_esapi::tss2_esys::TPMA_NV;
use tss_esapi::{Context, Result as TssResult};

use super::convert::{Asked, buffer};
use super::{Esapi, auth_of};
use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::meaning::{index_error, owner_error};
use crate::tpm::NvAuth;
use crate::wire::{NvAttributes, NvPublic};

/// As much as every TPM takes in one command, in bytes.
const CHUNK_BYTES: u16 = 512;

impl Esapi {
    /// Runs `work` with an index, whose public area was read and whose name was compared.
    pub(super) fn with_index<R>(
        &mut self,
        index: u32,
        work: impl FnOnce(&mut Self, NvIndexHandle, &NvPublic) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        const WHAT: &str = "TPM2_NV_ReadPublic";
        let handle = TpmHandle::NvIndex(handle(index)?);
        let found = self
            .context
            .tr_from_tpm_public(handle)
            .asked(WHAT)
            .map_err(|error| index_error(index, &NvAuth::Index(None), error))?;
        let nv = NvIndexHandle::from(found);
        let read = self.context.nv_read_public(nv).asked(WHAT);
        let done = read.and_then(|(public, name)| {
            let public = from_tss(&public)?;
            if public.index != index || name.value() != public.name().as_bytes() {
                return Err(TpmError::Garbage {
                    what: "name of an NV index",
                });
            }
            work(self, nv, &public)
        });
        // Gone by itself where `work` removed the index.
        let mut found = found;
        let _ = self.context.tr_close(&mut found);
        done
    }

    pub(super) fn define(
        &mut self,
        public: &NvPublic,
        auth: Option<&AuthValue>,
    ) -> Result<(), TpmError> {
        let (key, _) = self.root_key()?;
        self.tell_owner()?;
        let asked = to_tss(public)?;
        let auth = auth_of(auth)?;
        self.with_session(SessionType::Hmac, Some(key), |esapi, session| {
            let made = esapi
                .context
                .execute_with_session(Some(session), |context| {
                    context.nv_define_space(Provision::Owner, Some(auth), asked)
                })
                .asked("TPM2_NV_DefineSpace")?;
            let mut made = ObjectHandle::from(made);
            esapi.context.tr_close(&mut made).asked("Esys_TR_Close")
        })
        .map_err(|error| index_error(public.index, &NvAuth::Owner, error))
    }

    pub(super) fn undefine(&mut self, index: u32) -> Result<(), TpmError> {
        self.tell_owner()?;
        self.with_index(index, |esapi, nv, _| {
            esapi
                .with_session(SessionType::Hmac, None, |esapi, session| {
                    esapi
                        .context
                        .execute_with_session(Some(session), |context| {
                            context.nv_undefine_space(Provision::Owner, nv)
                        })
                        .asked("TPM2_NV_UndefineSpace")
                })
                .map_err(owner_error)
        })
    }

    pub(super) fn write(
        &mut self,
        index: u32,
        by: &NvAuth<'_>,
        contents: &SecretBytes,
    ) -> Result<(), TpmError> {
        let size = self.with_index(index, |_, _, public| {
            let whole = public.attributes.has(NvAttributes::WRITE_ALL);
            if whole && contents.len() > usize::from(CHUNK_BYTES) {
                return Err(TpmError::Unsupported {
                    what: "an NV index that is written at once and is longer than 512 bytes"
                        .to_owned(),
                });
            }
            Ok(public.size_bytes)
        })?;
        if contents.is_empty() || contents.len() > usize::from(size) {
            return Err(TpmError::Misuse {
                what: "writing nothing, or more than an NV index has room for",
            });
        }
        for (chunk, at) in contents.expose().chunks(CHUNK_BYTES.into()).zip(0_u16..) {
            let data = buffer(chunk)?;
            self.use_index(index, by, "TPM2_NV_Write", |context, auth, nv| {
                context.nv_write(auth, nv, data, at * CHUNK_BYTES)
            })?;
        }
        Ok(())
    }

    pub(super) fn read(&mut self, index: u32, by: &NvAuth<'_>) -> Result<SecretBytes, TpmError> {
        let size = self.with_index(index, |_, _, public| Ok(public.size_bytes))?;
        let mut contents = SecretBytes::zeroed(size.into())?;
        let chunks = contents.expose_mut().chunks_mut(CHUNK_BYTES.into());
        for (chunk, at) in chunks.zip(0_u16..) {
            let len = u16::try_from(chunk.len()).expect("a chunk is short");
            let read = self.use_index(index, by, "TPM2_NV_Read", |context, auth, nv| {
                context.nv_read(auth, nv, len, at * CHUNK_BYTES)
            })?;
            if read.value().len() != chunk.len() {
                return Err(TpmError::Garbage {
                    what: "contents of an NV index",
                });
            }
            chunk.copy_from_slice(read.value());
        }
        Ok(contents)
    }

    pub(super) fn increment(&mut self, index: u32, by: &NvAuth<'_>) -> Result<(), TpmError> {
        self.use_index(index, by, "TPM2_NV_Increment", |context, auth, nv| {
            context.nv_increment(auth, nv)
        })
    }

    fn use_index<R>(
        &mut self,
        index: u32,
        by: &NvAuth<'_>,
        command: &'static str,
        work: impl FnOnce(&mut Context, TssNvAuth, NvIndexHandle) -> TssResult<R>,
    ) -> Result<R, TpmError> {
        let (key, _) = self.root_key()?;
        self.tell_owner()?;
        self.with_index(index, |esapi, nv, _| {
            let (kind, authority, auth) = match by {
                NvAuth::Owner => (SessionType::Hmac, TssNvAuth::Owner, None),
                NvAuth::Index(auth) => (SessionType::Hmac, TssNvAuth::NvIndex(nv), *auth),
                NvAuth::Policy { auth, .. } => (SessionType::Policy, TssNvAuth::NvIndex(nv), *auth),
                NvAuth::Signed(_) => {
                    // Its library does not tell the nonce that would have to be signed.
                    return Err(super::cannot("TPM2_PolicySigned"));
                }
            };
            esapi.with_session(kind, Some(key), |esapi, session| {
                if let NvAuth::Policy { policy, auth } = by {
                    esapi.carry_out(policy, session)?;
                    if policy.needs_auth_value() && auth.is_none() {
                        return Err(TpmError::PinNeeded);
                    }
                }
                esapi
                    .context
                    .tr_set_auth(nv.into(), auth_of(auth)?)
                    .asked("Esys_TR_SetAuth")?;
                esapi
                    .context
                    .execute_with_session(Some(session), |context| work(context, authority, nv))
                    .asked(command)
            })
        })
        .map_err(|error| index_error(index, by, error))
    }
}

fn handle(index: u32) -> Result<NvIndexTpmHandle, TpmError> {
    NvIndexTpmHandle::new(index).map_err(|_| TpmError::Misuse {
        what: "a handle that is not that of an NV index",
    })
}

fn to_tss(public: &NvPublic) -> Result<TssNvPublic, TpmError> {
    let impossible = |_| TpmError::Misuse {
        what: "attributes that no NV index can have",
    };
    TssNvPublic::builder()
        .with_nv_index(handle(public.index)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(
            NvIndexAttributes::try_from(public.attributes.0).map_err(impossible)?,
        )
        .with_index_auth_policy(buffer(&public.policy)?)
        .with_data_area_size(public.size_bytes.into())
        .build()
        .map_err(impossible)
}

fn from_tss(public: &TssNvPublic) -> Result<NvPublic, TpmError> {
    const WHAT: &str = "TPM2_NV_ReadPublic";
    let attributes = TPMA_NV::try_from(public.attributes()).asked(WHAT)?;
    Ok(NvPublic {
        index: public.nv_index().into(),
        attributes: NvAttributes(attributes),
        policy: public.authorization_policy().value().to_vec(),
        size_bytes: u16::try_from(public.data_size())
            .map_err(|_| TpmError::Garbage { what: WHAT })?,
    })
}
