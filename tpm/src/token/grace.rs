//! A grace: one boot may measure what nobody could foresee, such as that of new firmware.
//!
//! It is a second way within the policy of the machine, open while a counter of the TPM stands where it stood.
//! Whoever unseals by it moves the counter before anything else is done with the secret, so there is no
//! second time. Everybody may move the counter: that shuts the way and opens none. Made anew it begins
//! beyond all that the TPM ever counted (Part 1, 37.2.4).

use super::pcrlock::PcrlockPolicy;
use crate::counter::{self, counter_at};
use crate::error::TpmError;
use crate::policy::{Assertion, Comparison, NvReader, Policy};
use crate::tpm::Tpm;
use crate::wire::NvPublic;

/// Behind the index of the digest and the places of the policy.
pub(super) const BEHIND: u32 = 1 + super::kept::PLACES;

/// One boot that may differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grace {
    /// Where the counter stands until it was used.
    pub count: u64,
    /// The PCRs that may have any value; all others have to be as foreseen.
    pub free: Vec<u8>,
}

impl Grace {
    /// "The counter stands where it stood".
    pub(super) fn assertion(&self, index: &NvPublic) -> Assertion {
        Assertion::Nv {
            index: counter_at(handle(index)),
            reader: NvReader::Owner,
            operand: self.count.to_be_bytes().to_vec(),
            comparison: Comparison::Equal,
        }
    }

    /// Whether it was not used yet.
    ///
    /// # Errors
    /// Those of talking to the TPM. Of a counter that is gone or another one it is not.
    pub fn is_open(&self, tpm: &mut dyn Tpm, index: &NvPublic) -> Result<bool, TpmError> {
        Ok(standing(tpm, index)? == Some(self.count))
    }

    /// Whether it was used: nothing else moves the counter by one.
    ///
    /// # Errors
    /// As [`Grace::is_open`].
    pub fn was_used(&self, tpm: &mut dyn Tpm, index: &NvPublic) -> Result<bool, TpmError> {
        let next = self.count.checked_add(1);
        Ok(next.is_some() && standing(tpm, index)? == next)
    }
}

impl PcrlockPolicy {
    /// The grace that it grants.
    #[must_use]
    pub fn grace(&self) -> Option<&Grace> {
        self.grace.as_ref()
    }

    /// The same policy with a grace for these PCRs, whose counter is made if it is not there.
    /// [`PcrlockPolicy::put_in_force`] grants it.
    ///
    /// # Errors
    /// [`TpmError::Misuse`] for a PCR that the policy does not know; [`TpmError::Full`]; those of talking
    /// to the TPM.
    pub fn with_grace(mut self, tpm: &mut dyn Tpm, free: &[u8]) -> Result<Self, TpmError> {
        let index = self.index.as_ref().ok_or(super::index::NO_INDEX)?;
        if free.is_empty() || !free.iter().all(|pcr| self.allowed.contains_key(pcr)) {
            return Err(TpmError::Misuse {
                what: "a grace for no PCR, or for one that the policy does not know",
            });
        }
        let counter = handle(index);
        if matches!(tpm.nv_public(counter), Err(TpmError::NoSuchIndex { .. })) {
            counter::define_at(tpm, counter)?;
        }
        self.grace = Some(Grace {
            count: counter::value_at(tpm, counter)?,
            free: free.to_vec(),
        });
        Ok(self)
    }
}

impl Policy {
    /// Shuts the way by which something was just unsealed, if it was one that opens once.
    ///
    /// # Errors
    /// Those of the counter. The secret must not be used then.
    pub(super) fn use_up(&self, tpm: &mut dyn Tpm) -> Result<(), TpmError> {
        for assertion in self.assertions() {
            if let Assertion::Nv { index, .. } = assertion {
                counter::count(tpm, index.index)?;
            }
        }
        Ok(())
    }
}

/// Where the counter of a policy is: beside its index.
pub(super) fn handle(index: &NvPublic) -> u32 {
    index.index + BEHIND
}

/// Where the counter stands; `None` if it is gone, or another index has its place.
fn standing(tpm: &mut dyn Tpm, index: &NvPublic) -> Result<Option<u64>, TpmError> {
    match counter::value_at(tpm, handle(index)) {
        Ok(value) => Ok(Some(value)),
        Err(
            TpmError::NoSuchIndex { .. }
            | TpmError::IndexRefused { .. }
            | TpmError::WrongTpm { .. },
        ) => Ok(None),
        Err(other) => Err(other),
    }
}
