//! The passphrase that a token leads to: the TPM's part in `luksmith_keyslot::unlock_by_tokens`.

use luksmith_crypto::{CryptoError, Passphrase, SecretBytes};
use luksmith_keyslot::{PinRequest, TokenError, TokenUnlock};
use luksmith_luks2::Token;

use super::enrol::policy_now;
use super::pin::passphrase;
use super::{KIND, SystemdTpm2};
use crate::error::TpmError;
use crate::hash::HashAlg;
use crate::policy::Policy;
use crate::tpm::Tpm;

/// Opens tokens with a TPM, which is connected to for each token anew.
pub struct TpmTokens<F> {
    open: F,
}

impl<F: Fn() -> Result<Box<dyn Tpm>, TpmError>> TpmTokens<F> {
    /// `open` connects to the TPM.
    pub fn new(open: F) -> Self {
        Self { open }
    }

    fn passphrase(
        &self,
        token: &Token,
        pin: &mut dyn FnMut(PinRequest<'_>) -> Option<Passphrase>,
    ) -> Result<Passphrase, TpmError> {
        let token = SystemdTpm2::parse(token)?;
        if let Some(beyond) = token.beyond.first() {
            return Err(TpmError::Unsupported {
                what: format!("token with {beyond}"),
            });
        }
        let mut tpm = (self.open)()?;
        let policy = token.fitting_policy(&mut *tpm)?;
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
        let mut parts = Vec::new();
        for sealed in &token.sealed {
            parts.push(tpm.unseal(&token.under, sealed, &policy, auth)?);
        }
        Ok(passphrase(&joined(&parts)?, proof.as_ref())?)
    }
}

impl SystemdTpm2 {
    /// The policy that the machine fulfils now, if it is the token's.
    ///
    /// # Errors
    /// [`TpmError::PolicyMismatch`]: nothing was tried then, and no PIN needs to be asked for.
    pub fn fitting_policy(&self, tpm: &mut dyn Tpm) -> Result<Policy, TpmError> {
        let banks = match self.bank {
            Some(bank) => vec![bank],
            // Left open by old versions, which take SHA-256 where it is live.
            None => vec![HashAlg::Sha256, HashAlg::Sha1],
        };
        for bank in banks {
            let policy = match policy_now(tpm, bank, &self.pcrs, &self.pin) {
                Err(TpmError::NoSuchBank { .. }) if self.bank.is_none() => continue,
                policy => policy?,
            };
            let digest = policy.digest()?;
            if self.policies.iter().all(|one| *one == digest) {
                return Ok(policy);
            }
        }
        let pcrs: Vec<String> = self.pcrs.iter().map(u8::to_string).collect();
        Err(TpmError::PolicyMismatch {
            detail: if pcrs.is_empty() {
                "it is not the one of this token's form".to_owned()
            } else {
                format!("PCR {} have other values", pcrs.join("+"))
            },
        })
    }
}

impl<F: Fn() -> Result<Box<dyn Tpm>, TpmError>> TokenUnlock for TpmTokens<F> {
    fn kinds(&self) -> &[&str] {
        &[KIND]
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
            TpmError::LockedOut { remaining } => Self::LockedOut { remaining },
            TpmError::Damaged { what } => Self::Damaged(what),
            TpmError::Unsupported { what } => Self::Unsupported(what),
            other => Self::Other(Box::new(other)),
        }
    }
}

/// All parts, one after the other.
fn joined(parts: &[SecretBytes]) -> Result<SecretBytes, CryptoError> {
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
