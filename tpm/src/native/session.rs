//! Sessions: who asks is proved by an HMAC, who answers too, and what is secret is encrypted.
//!
//! A session is salted to a storage key, so that nobody who only listens can know its key, and
//! each answer's HMAC shows that whoever answered could read the salt. TPM 2.0 Library, Part 1,
//! "Session-Based Authorizations" and "Session-Based Encryption".

use luksmith_crypto::{CryptoError, SecretBytes, random};
use subtle::ConstantTimeEq as _;

use super::derive::{ParameterKey, hmac};
use crate::auth::AuthValue;
use crate::hash::Digest;
use crate::wire::{Name, Reader, WireError, Writer};

/// Bytes of each nonce of ours.
pub(crate) const NONCE_BYTES: usize = 32;

/// What kind of session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SessionKind {
    /// Proves knowledge of an authorization value.
    Hmac,
    /// Collects assertions of a policy.
    Policy,
    /// Computes the digest of a policy and permits nothing.
    Trial,
}

impl SessionKind {
    pub(crate) fn id(self) -> u8 {
        match self {
            Self::Hmac => 0x00,
            Self::Policy => 0x01,
            Self::Trial => 0x03,
        }
    }
}

/// An open session. Whoever opened it flushes it.
pub(crate) struct Session {
    pub(crate) handle: u32,
    kind: SessionKind,
    /// Empty for a session without a salt.
    key: SecretBytes,
    nonce_tpm: Vec<u8>,
    /// Whether the policy so far contains the authorization value.
    pub(crate) proves_auth_value: bool,
    /// Only in tests: the same session without parameter encryption, to show what it is for.
    #[cfg(test)]
    pub(crate) in_the_clear: bool,
}

/// One use of a session by one command.
pub(crate) struct Use<'a> {
    session: &'a mut Session,
    /// Authorization value of the entity that is used.
    auth: Option<&'a AuthValue>,
    nonce_caller: Vec<u8>,
    attributes: u8,
}

const CONTINUE: u8 = 1 << 0;
const DECRYPT: u8 = 1 << 5;
const ENCRYPT: u8 = 1 << 6;

impl Session {
    pub(crate) fn new(
        handle: u32,
        kind: SessionKind,
        key: SecretBytes,
        nonce_tpm: Vec<u8>,
    ) -> Self {
        Self {
            handle,
            kind,
            key,
            nonce_tpm,
            proves_auth_value: false,
            #[cfg(test)]
            in_the_clear: false,
        }
    }

    /// What the TPM said last in this session.
    pub(crate) fn nonce_tpm(&self) -> &[u8] {
        &self.nonce_tpm
    }

    fn encrypts(&self) -> bool {
        #[cfg(test)]
        if self.in_the_clear {
            return false;
        }
        true
    }

    /// Begins a use: `command_secret` if the first parameter is to be hidden, `answer_secret` if
    /// that of the answer is.
    pub(crate) fn begin<'a>(
        &'a mut self,
        auth: Option<&'a AuthValue>,
        command_secret: bool,
        answer_secret: bool,
    ) -> Result<Use<'a>, CryptoError> {
        let mut nonce_caller = vec![0; NONCE_BYTES];
        random::fill(&mut nonce_caller)?;
        let mut attributes = CONTINUE;
        if self.encrypts() {
            attributes |= if command_secret { DECRYPT } else { 0 };
            attributes |= if answer_secret { ENCRYPT } else { 0 };
        }
        Ok(Use {
            session: self,
            auth,
            nonce_caller,
            attributes,
        })
    }
}

impl<'a> Use<'a> {
    /// The same use, whose answer is authorized by another value if there is one (Part 3,
    /// "TPM2_HierarchyChangeAuth").
    pub(crate) fn answered_by(mut self, new: Option<&'a AuthValue>) -> Self {
        if new.is_some() {
            self.auth = new;
        }
        self
    }

    /// The first parameter as it goes over the bus.
    pub(crate) fn hide(&self, secret: &SecretBytes) -> Result<Vec<u8>, CryptoError> {
        if self.attributes & DECRYPT == 0 {
            return Ok(secret.expose().to_vec());
        }
        let key = ParameterKey::derive(
            &self.value(true)?,
            &self.nonce_caller,
            &self.session.nonce_tpm,
        )?;
        let mut hidden = SecretBytes::init_with(secret.len(), |bytes| {
            bytes.copy_from_slice(secret.expose());
            Ok::<(), CryptoError>(())
        })?;
        key.encrypt(hidden.expose_mut());
        Ok(hidden.expose().to_vec())
    }

    /// The authorization area of the command (without its length).
    pub(crate) fn area(
        &self,
        code: u32,
        names: &[Name],
        parameters: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let code = code.to_be_bytes();
        let mut hashed: Vec<&[u8]> = vec![&code];
        hashed.extend(names.iter().map(Name::as_bytes));
        hashed.push(parameters);
        let mac = self.mac(
            Digest::of(&hashed),
            &self.nonce_caller,
            &self.session.nonce_tpm,
            self.attributes,
        )?;
        Ok(Writer::new()
            .u32(self.session.handle)
            .sized(&self.nonce_caller)
            .u8(self.attributes)
            .sized(&mac)
            .done())
    }

    /// Checks the authorization area of the answer to a command that succeeded.
    ///
    /// `None` if it does not come from the TPM of this session.
    pub(crate) fn check(
        self,
        code: u32,
        parameters: &[u8],
        area: &mut Reader<'_>,
    ) -> Result<Option<Opened>, Failure> {
        let nonce_tpm = area.sized_max(64)?.to_vec();
        let attributes = area.u8()?;
        let claimed = area.sized_max(64)?;
        let answer = Digest::of(&[&0_u32.to_be_bytes(), &code.to_be_bytes(), parameters]);
        let expected = self.mac(answer, &nonce_tpm, &self.nonce_caller, attributes)?;
        let same: bool = expected.ct_eq(claimed).into();
        if !same || (attributes ^ self.attributes) & ENCRYPT != 0 {
            return Ok(None);
        }
        let key = if attributes & ENCRYPT == 0 {
            None
        } else {
            Some(ParameterKey::derive(
                &self.value(true)?,
                &nonce_tpm,
                &self.nonce_caller,
            )?)
        };
        self.session.nonce_tpm = nonce_tpm;
        Ok(Some(Opened(key)))
    }

    fn mac(
        &self,
        digest: Digest,
        newer: &[u8],
        older: &[u8],
        attributes: u8,
    ) -> Result<Vec<u8>, CryptoError> {
        let with_auth = self.session.kind == SessionKind::Hmac || self.session.proves_auth_value;
        let key = self.value(with_auth)?;
        if key.is_empty() && self.session.kind == SessionKind::Policy {
            return Ok(Vec::new());
        }
        Ok(hmac(key.expose(), &[&digest.0, newer, older, &[attributes]]).to_vec())
    }

    /// The key of the session, followed by the authorization value of what is used.
    fn value(&self, with_auth: bool) -> Result<SecretBytes, CryptoError> {
        let key = self.session.key.expose();
        let auth = match self.auth {
            Some(auth) if with_auth => auth.expose(),
            _ => &[],
        };
        SecretBytes::init_with(key.len() + auth.len(), |both| {
            both[..key.len()].copy_from_slice(key);
            both[key.len()..].copy_from_slice(auth);
            Ok(())
        })
    }
}

/// How the first parameter of an authentic answer is read.
pub(crate) struct Opened(Option<ParameterKey>);

impl Opened {
    /// The contents of the first parameter, a TPM2B, in locked memory.
    pub(crate) fn secret(&self, parameters: &mut Reader<'_>) -> Result<SecretBytes, Failure> {
        let bytes = parameters.sized_max(MAX_SECRET_BYTES)?;
        let mut secret = SecretBytes::init_with(bytes.len(), |copy| {
            copy.copy_from_slice(bytes);
            Ok::<(), CryptoError>(())
        })?;
        if let Some(key) = &self.0 {
            key.decrypt(secret.expose_mut());
        }
        Ok(secret)
    }
}

/// The longest contents of an answer that are secret: an NV buffer.
const MAX_SECRET_BYTES: usize = 2048;

/// Why an authorization area could not be judged.
pub(crate) enum Failure {
    Wire(WireError),
    Crypto(CryptoError),
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<CryptoError> for Failure {
    fn from(error: CryptoError) -> Self {
        Self::Crypto(error)
    }
}

impl From<Failure> for crate::error::TpmError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Wire(error) => error.into(),
            Failure::Crypto(error) => error.into(),
        }
    }
}
