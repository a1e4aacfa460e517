//! The passphrase that a token leads to: the TPM's part in `luksmith_keyslot::unlock_by_tokens`.

use luksmith_crypto::{CryptoError, Passphrase, SecretBytes};
use luksmith_keyslot::{PinRequest, TokenError, TokenUnlock};
use luksmith_luks2::Token;

use super::files::PolicyFiles;
use super::pin::passphrase;
use super::{CLEVIS_KIND, ClevisTpm2, KIND, SystemdTpm2};
use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::policy::Policy;
use crate::tpm::Tpm;

/// Opens tokens with a TPM, which is connected to for each token anew.
pub struct TpmTokens<F> {
    open: F,
    files: PolicyFiles,
}

impl<F: Fn() -> Result<Box<dyn Tpm>, TpmError>> TpmTokens<F> {
    /// `open` connects to the TPM. Files of policies are looked for where systemd has them.
    pub fn new(open: F) -> Self {
        Self {
            open,
            files: PolicyFiles::default(),
        }
    }

    /// Looks for files of policies here.
    #[must_use]
    pub fn with_files(mut self, files: PolicyFiles) -> Self {
        self.files = files;
        self
    }

    fn passphrase(
        &self,
        token: &Token,
        pin: &mut dyn FnMut(PinRequest<'_>) -> Option<Passphrase>,
    ) -> Result<Passphrase, TpmError> {
        if token.kind == CLEVIS_KIND {
            let token = ClevisTpm2::parse(token)?;
            return token.passphrase(&mut *(self.open)()?);
        }
        let token = SystemdTpm2::parse(token)?;
        if let Some(beyond) = token.beyond.first() {
            return Err(TpmError::Unsupported {
                what: format!("token with {beyond}"),
            });
        }
        let mut tpm = (self.open)()?;
        let policies = token.fitting_policies(&mut *tpm, &self.files)?;
        let given = if token.pin.is_needed() {
            let lockout = tpm.lockout()?;
            if lockout.tries_left() == 0 {
                return Err(TpmError::LockedOut {
                    remaining: lockout.remaining(),
                });
            }
            pin(PinRequest {
                kind: KIND,
                what: "PIN of the TPM",
                tries_left: Some(lockout.tries_left()),
            })
        } else {
            None
        };
        let proof = token.pin.prove(given.as_ref())?;
        let auth = proof.as_ref().map(|proof| &proof.auth);
        let secret = token.unseal_by(&mut *tpm, &policies, auth)?;
        Ok(passphrase(&secret, proof.as_ref())?)
    }
}

impl SystemdTpm2 {
    /// All parts of the secret, put together.
    pub(super) fn unseal_by(
        &self,
        tpm: &mut dyn Tpm,
        policies: &[Policy],
        auth: Option<&AuthValue>,
    ) -> Result<SecretBytes, TpmError> {
        let parts = self.sealed.iter().zip(policies);
        let parts = parts.map(|(part, policy)| tpm.unseal(&self.under, part, policy, auth));
        let secret = joined(&parts.collect::<Result<Vec<_>, _>>()?)?;
        for policy in policies {
            policy.use_up(tpm)?;
        }
        Ok(secret)
    }
}

impl<F: Fn() -> Result<Box<dyn Tpm>, TpmError>> TokenUnlock for TpmTokens<F> {
    fn kinds(&self) -> &[&str] {
        &[KIND, CLEVIS_KIND]
    }

    fn unlock(
        &self,
        token: &Token,
        pin: &mut dyn FnMut(PinRequest<'_>) -> Option<Passphrase>,
    ) -> Result<Passphrase, TokenError> {
        Ok(self.passphrase(token, pin)?)
    }
}

impl From<TpmError> for TokenError {
    fn from(error: TpmError) -> Self {
        match error {
            TpmError::NotPresent { .. } => Self::NotPresent,
            TpmError::PinNeeded => Self::PinNeeded,
            TpmError::WrongPin { .. } => Self::WrongPin,
            TpmError::PolicyMismatch { detail } => Self::PolicyMismatch(detail),
            TpmError::TooLate { detail } => Self::TooLate(detail),
            TpmError::LockedOut { remaining } => Self::LockedOut { remaining },
            TpmError::Damaged { what } => Self::Damaged(what),
            TpmError::Unsupported { what } => Self::Unsupported(what),
            other => Self::Other(Box::new(other)),
        }
    }
}

/// All parts, one after the other.
pub(super) fn joined(parts: &[SecretBytes]) -> Result<SecretBytes, CryptoError> {
    let len = parts.iter().map(SecretBytes::len).sum();
    SecretBytes::init_with(len, |mut out| {
        for part in parts {
            let (here, rest) = out.split_at_mut(part.len());
            here.copy_from_slice(part.expose());
            out = rest;
        }
        Ok(())
    })
}
