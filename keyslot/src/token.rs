//! Tokens: ways to a passphrase that need no typing. The seam for TPM, network and hardware keys.
//!
//! This crate knows no kind of token. It knows the order in which tokens are tried and what their
//! failures mean; whoever implements [`TokenUnlock`] knows the rest.

use std::error::Error;
use std::time::Duration;

use luksmith_crypto::Passphrase;
use luksmith_luks2::{Header, Metadata, Priority, Token};

use crate::error::{SlotError, UnlockError, UnlockErrorKind};
use crate::open::{Unlocked, may_open};
use crate::policy::OpenLimits;
use crate::recovery::RECOVERY_KIND;
use crate::unlock::{Attempt, Outcome, ReadArea, Target, Tried, Which, opens_data, read_and_open};

/// Something that turns tokens of some kinds into passphrases.
pub trait TokenUnlock {
    /// Token types that it understands, as they stand in the header (`systemd-tpm2`).
    fn kinds(&self) -> &[&str];

    /// The passphrase that the token leads to.
    ///
    /// `pin` asks a person; it gives `None` when nobody can be asked or nobody answered, and then
    /// [`TokenError::PinNeeded`] is the answer. No try that a device counts is spent without a
    /// PIN that somebody gave.
    ///
    /// # Errors
    /// One [`TokenError`] per meaning. The token is untrusted input.
    fn unlock(
        &self,
        token: &Token,
        pin: &mut dyn FnMut(PinRequest<'_>) -> Option<Passphrase>,
    ) -> Result<Passphrase, TokenError>;
}

/// What a person is asked for.
#[derive(Debug, Clone, Copy)]
pub struct PinRequest<'a> {
    /// The token's kind.
    pub kind: &'a str,
    /// What to ask, in a few words ("PIN of the TPM").
    pub what: &'a str,
    /// Tries left before the device locks itself, where it says so.
    pub tries_left: Option<u32>,
}

/// Why a token gave no passphrase; each means another next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The device is not there (yet): waiting may help.
    #[error("the device is not present")]
    NotPresent,
    /// A PIN is needed and none was given.
    #[error("a PIN is needed")]
    PinNeeded,
    /// The PIN is wrong.
    #[error("wrong PIN")]
    WrongPin,
    /// The state of the machine is not the one that the secret was sealed to. Do not retry.
    #[error("the machine state does not fit the policy: {0}")]
    PolicyMismatch(String),
    /// The device gives the secret only early in a boot. To bind it anew would change nothing.
    #[error("too late in this boot: {0}")]
    TooLate(String),
    /// The device refuses all tries for a while. Do not touch it again.
    #[error("locked out after too many wrong tries")]
    LockedOut {
        /// When it opens again, where the device says so.
        remaining: Option<Duration>,
    },
    /// The secret came, but belongs to something else.
    #[error("the device gave a wrong secret")]
    WrongSecret,
    /// The token's own data make no sense.
    #[error("damaged token: {0}")]
    Damaged(String),
    /// No one here understands this kind of token, or this form of it.
    #[error("unsupported token: {0}")]
    Unsupported(String),
    /// Anything else.
    #[error("{0}")]
    Other(Box<dyn Error + Send + Sync>),
}

impl TokenError {
    pub(crate) fn kind(&self) -> UnlockErrorKind {
        match self {
            Self::PinNeeded => UnlockErrorKind::PinNeeded,
            Self::WrongPin | Self::WrongSecret | Self::PolicyMismatch(_) | Self::TooLate(_) => {
                UnlockErrorKind::WrongSecret
            }
            Self::NotPresent | Self::LockedOut { .. } | Self::Other(_) => UnlockErrorKind::Device,
            Self::Damaged(_) | Self::Unsupported(_) => UnlockErrorKind::Unsupported,
        }
    }
}

/// Tries tokens in the order of [`tokens_to_try`] until one of their slots opens.
///
/// A handler that reported [`TokenError::LockedOut`] is not called again in this walk: each call
/// could cost its owner a try.
///
/// # Errors
/// [`UnlockError`] with one [`Attempt`] per token, and per slot that a token's secret was tried
/// on.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a different thing the caller decides"
)]
pub fn unlock_by_tokens(
    header: &Header,
    which: Which,
    kind: Option<&str>,
    target: Target,
    handlers: &[&dyn TokenUnlock],
    pin: &mut dyn FnMut(PinRequest<'_>) -> Option<Passphrase>,
    areas: &mut dyn ReadArea,
    limits: &OpenLimits,
) -> Result<Unlocked, UnlockError> {
    let metadata = &header.metadata();
    may_open(metadata, limits)?;
    if let Which::Only(number) = which
        && !metadata.tokens().contains_key(&number)
    {
        return Err(UnlockError::with_detail(
            UnlockErrorKind::NoSuchSlot,
            format!("token {number}"),
        ));
    }
    let mut attempts = Vec::new();
    let mut locked_out = vec![false; handlers.len()];
    for number in tokens_to_try(metadata, which, target) {
        let Some(token) = metadata.tokens().get(&number) else {
            continue;
        };
        if kind.is_some_and(|kind| kind != token.kind) {
            continue;
        }
        // It only says what its slot is for.
        if token.kind == RECOVERY_KIND && which == Which::ByPriority {
            continue;
        }
        let handler = handlers
            .iter()
            .position(|handler| handler.kinds().contains(&&*token.kind));
        let answer = match handler {
            None => Err(TokenError::Unsupported(token.kind.clone())),
            Some(index) if locked_out[index] => Err(TokenError::LockedOut { remaining: None }),
            Some(index) => {
                let answer = handlers[index].unlock(token, pin);
                locked_out[index] |= matches!(answer, Err(TokenError::LockedOut { .. }));
                answer
            }
        };
        let secret = match answer {
            Ok(secret) => secret,
            Err(error) => {
                attempts.push(Attempt {
                    tried: Tried::Token(number),
                    outcome: Outcome::Token(error),
                });
                continue;
            }
        };
        for slot in slots_of_token(metadata, token, which, target) {
            match read_and_open(header, slot, target, &secret, areas, limits) {
                Ok(unlocked) => return Ok(unlocked),
                Err(error) => attempts.push(Attempt {
                    tried: Tried::SlotByToken {
                        token: number,
                        slot,
                    },
                    outcome: Outcome::Slot(error),
                }),
            }
        }
    }
    Err(UnlockError::from_attempts(attempts))
}

/// The tokens in the order in which they are tried: those with a slot of priority `prefer`, then
/// those with one of `normal`. A token all of whose slots are `ignore`, or that has no slot, is
/// tried only when named.
#[must_use]
pub fn tokens_to_try(metadata: &Metadata, which: Which, target: Target) -> Vec<u8> {
    if let Which::Only(token) = which {
        return vec![token];
    }
    let best = |token: &Token| {
        token
            .keyslots
            .iter()
            .filter(|slot| target == Target::AnyKey || opens_data(metadata, **slot))
            .filter_map(|slot| Some(metadata.keyslot(*slot)?.priority))
            .max()
    };
    let with = |priority| {
        metadata
            .tokens()
            .iter()
            .filter(move |(_, token)| best(token) == Some(priority))
            .map(|(number, _)| *number)
    };
    with(Priority::Prefer)
        .chain(with(Priority::Normal))
        .collect()
}

/// The slots that a token's secret is tried on, best priority first; `ignore` only if the token
/// was named.
fn slots_of_token(metadata: &Metadata, token: &Token, which: Which, target: Target) -> Vec<u8> {
    let mut slots: Vec<(Priority, u8)> = token
        .keyslots
        .iter()
        .filter(|slot| target == Target::AnyKey || opens_data(metadata, **slot))
        .filter_map(|slot| {
            let keyslot = metadata.keyslot(*slot)?;
            keyslot.luks2()?;
            Some((keyslot.priority, *slot))
        })
        .filter(|(priority, _)| *priority != Priority::Ignore || matches!(which, Which::Only(_)))
        .collect();
    slots.sort_by_key(|(priority, slot)| (std::cmp::Reverse(*priority), *slot));
    slots.into_iter().map(|(_, slot)| slot).collect()
}

/// For callers that print a report: the error of a slot tried by a token.
impl From<SlotError> for Outcome {
    fn from(error: SlotError) -> Self {
        Self::Slot(error)
    }
}
