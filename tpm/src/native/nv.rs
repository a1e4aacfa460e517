//! NV indices: defined, written, read, counted, locked, removed.
//!
//! Contents are secret until somebody says otherwise: they pass the bus encrypted under a session
//! that is salted to the storage root key.

use luksmith_crypto::{CryptoError, SecretBytes};

use super::link::{Answer, Authorization, Command, Subject, Verb};
use super::objects::verb;
use super::session::SessionKind;
use super::{Native, OWNER};
use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::meaning::index_error;
use crate::tpm::{NvAuth, NvLock};
use crate::transport::Transport;
use crate::wire::{NvAttributes, NvPublic, Writer};

const NV_UNDEFINE_SPACE: Verb = verb("TPM2_NV_UndefineSpace", 0x122);
const NV_DEFINE_SPACE: Verb = verb("TPM2_NV_DefineSpace", 0x12A);
const NV_INCREMENT: Verb = verb("TPM2_NV_Increment", 0x134);
const NV_WRITE: Verb = verb("TPM2_NV_Write", 0x137);
const NV_WRITE_LOCK: Verb = verb("TPM2_NV_WriteLock", 0x138);
const NV_READ: Verb = verb("TPM2_NV_Read", 0x14E);
const NV_READ_LOCK: Verb = verb("TPM2_NV_ReadLock", 0x14F);
const NV_READ_PUBLIC: Verb = verb("TPM2_NV_ReadPublic", 0x169);

/// As much as every TPM takes in one command, in bytes.
const CHUNK_BYTES: u16 = 512;

/// What one use of an index sends.
struct Request<'a> {
    verb: Verb,
    secret: Option<&'a SecretBytes>,
    parameters: Writer,
    answer_secret: bool,
}

impl<T: Transport> Native<T> {
    pub(super) fn read_nv_public(&mut self, index: u32) -> Result<NvPublic, TpmError> {
        let command = Command::new(NV_READ_PUBLIC, vec![Subject::plain(index)], Writer::new());
        let answer = self
            .link
            .run(command)
            .map_err(|error| index_error(index, &NvAuth::Index(None), error))?;
        let mut reader = answer.reader();
        let public = NvPublic::parse(reader.sized()?)?;
        let claimed = reader.sized()?;
        reader.end()?;
        if public.index != index || claimed != public.name().as_bytes() {
            return Err(TpmError::Garbage {
                what: "name of an NV index",
            });
        }
        if let Some((handle, name)) = &self.index
            && *handle == index
            && *name != public.name()
        {
            return Err(TpmError::WrongTpm {
                detail: "another NV index has this handle".to_owned(),
            });
        }
        Ok(public)
    }

    pub(super) fn define(
        &mut self,
        public: &NvPublic,
        auth: Option<&AuthValue>,
    ) -> Result<(), TpmError> {
        let index = public.index;
        let auth = auth.map_or(&[][..], AuthValue::expose);
        let secret = SecretBytes::init_with(auth.len(), |bytes| {
            bytes.copy_from_slice(auth);
            Ok::<(), CryptoError>(())
        })?;
        let key = self.root_key()?;
        let owner = self.owner.take();
        let done = self.with_session(SessionKind::Hmac, Some(&key), |native, session| {
            let parameters = Writer::new().sized(&public.to_bytes());
            let command = Command::new(NV_DEFINE_SPACE, vec![Subject::plain(OWNER)], parameters)
                .hiding(&secret)
                .by(Authorization::Session {
                    session,
                    auth: owner.as_ref(),
                    answer_secret: false,
                });
            Ok(native.link.run(command)?.reader().end()?)
        });
        self.owner = owner;
        done.map_err(|error| index_error(index, &NvAuth::Owner, error))
    }

    pub(super) fn undefine(&mut self, index: u32) -> Result<(), TpmError> {
        let public = self.read_nv_public(index)?;
        self.by_owner(None, |native, authorization| {
            let subjects = vec![Subject::plain(OWNER), Subject::named(index, public.name())];
            let command =
                Command::new(NV_UNDEFINE_SPACE, subjects, Writer::new()).by(authorization);
            Ok(native.link.run(command)?.reader().end()?)
        })
        .map_err(|error| index_error(index, &NvAuth::Owner, error))
    }

    pub(super) fn write(
        &mut self,
        index: u32,
        by: &NvAuth<'_>,
        contents: &SecretBytes,
    ) -> Result<(), TpmError> {
        let public = self.read_nv_public(index)?;
        if contents.is_empty() || contents.len() > usize::from(public.size_bytes) {
            return Err(TpmError::Misuse {
                what: "writing nothing, or more than an NV index has room for",
            });
        }
        let whole = public.attributes.has(NvAttributes::WRITE_ALL);
        if whole && contents.len() > usize::from(CHUNK_BYTES) {
            return Err(TpmError::Unsupported {
                what: "an NV index that is written at once and is longer than 512 bytes".to_owned(),
            });
        }
        for (chunk, at) in contents.expose().chunks(CHUNK_BYTES.into()).zip(0_u16..) {
            let chunk = SecretBytes::init_with(chunk.len(), |bytes| {
                bytes.copy_from_slice(chunk);
                Ok::<(), CryptoError>(())
            })?;
            let request = Request {
                verb: NV_WRITE,
                secret: Some(&chunk),
                parameters: Writer::new().u16(at * CHUNK_BYTES),
                answer_secret: false,
            };
            self.use_index(index, by, request)?.reader().end()?;
        }
        Ok(())
    }

    pub(super) fn read(&mut self, index: u32, by: &NvAuth<'_>) -> Result<SecretBytes, TpmError> {
        let public = self.read_nv_public(index)?;
        let mut contents = SecretBytes::zeroed(public.size_bytes.into())?;
        for (chunk, at) in contents
            .expose_mut()
            .chunks_mut(CHUNK_BYTES.into())
            .zip(0_u16..)
        {
            let len = u16::try_from(chunk.len()).expect("a chunk is short");
            let request = Request {
                verb: NV_READ,
                secret: None,
                parameters: Writer::new().u16(len).u16(at * CHUNK_BYTES),
                answer_secret: true,
            };
            let read = self.use_index(index, by, request)?.secret()?;
            if read.len() != chunk.len() {
                return Err(TpmError::Garbage {
                    what: "contents of an NV index",
                });
            }
            chunk.copy_from_slice(read.expose());
        }
        Ok(contents)
    }

    pub(super) fn increment(&mut self, index: u32, by: &NvAuth<'_>) -> Result<(), TpmError> {
        self.use_plainly(index, by, NV_INCREMENT)
    }

    pub(super) fn lock_index(
        &mut self,
        index: u32,
        by: &NvAuth<'_>,
        lock: NvLock,
    ) -> Result<(), TpmError> {
        let verb = match lock {
            NvLock::Read => NV_READ_LOCK,
            NvLock::Write => NV_WRITE_LOCK,
        };
        self.use_plainly(index, by, verb)
    }

    fn use_plainly(&mut self, index: u32, by: &NvAuth<'_>, verb: Verb) -> Result<(), TpmError> {
        let request = Request {
            verb,
            secret: None,
            parameters: Writer::new(),
            answer_secret: false,
        };
        Ok(self.use_index(index, by, request)?.reader().end()?)
    }

    /// One use of an index by somebody's right.
    fn use_index(
        &mut self,
        index: u32,
        by: &NvAuth<'_>,
        request: Request<'_>,
    ) -> Result<Answer, TpmError> {
        let key = self.root_key()?;
        // Read again each time: the first write and each lock change the name.
        let nv = Subject::named(index, self.read_nv_public(index)?.name());
        let owner = self.owner.take();
        let (kind, authority, auth) = match by {
            NvAuth::Owner => (SessionKind::Hmac, Subject::plain(OWNER), owner.as_ref()),
            NvAuth::Index(auth) => (SessionKind::Hmac, nv.clone(), *auth),
            NvAuth::Policy { auth, .. } => (SessionKind::Policy, nv.clone(), *auth),
            NvAuth::Signed(_) => (SessionKind::Policy, nv.clone(), None),
        };
        let done = self.with_session(kind, Some(&key), |native, session| {
            if let NvAuth::Policy { policy, auth } = by {
                native.carry_out(policy, session)?;
                if policy.needs_auth_value() && auth.is_none() {
                    return Err(TpmError::PinNeeded);
                }
            }
            if let NvAuth::Signed(writer) = by {
                native.assert_writer(session, writer)?;
            }
            let mut command = Command::new(request.verb, vec![authority, nv], request.parameters)
                .by(Authorization::Session {
                    session,
                    auth,
                    answer_secret: request.answer_secret,
                });
            command.secret = request.secret;
            native.link.run(command)
        });
        self.owner = owner;
        done.map_err(|error| index_error(index, by, error))
    }
}
