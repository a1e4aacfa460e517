//! A grace: one boot may measure what nobody could foresee, such as that of new firmware.
//!
//! It is a second way within the policy of the machine, open while a counter of the TPM stands where it stood.
//! Whoever unseals by it moves the counter before anything else is done with the secret, so there is no
//! second time. Everybody may move the counter: that shuts the way and opens none. Made anew it begins
//! beyond all that the TPM ever counted (Part 1, 37.2.4).

use super::pcrlock::PcrlockPolicy;
use crate::error::TpmError;
use crate::policy::{Assertion, Comparison, NvReader, Policy};
use crate::tpm::{NvAuth, Tpm};
use crate::wire::{NvAttributes, NvPublic};

/// Behind the index of the digest and the places of the policy.
pub(super) const BEHIND: u32 = 1 + super::kept::PLACES;
const COUNTER_BYTES: u16 = 8;

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
            index: counter(index),
            reader: NvReader::Owner,
            operand: self.count.to_be_bytes().to_vec(),
            comparison: Comparison::Equal,
        }
    }

    /// Whether it was not used yet.
    ///
    /// # Errors
    /// Those of reading the counter, but for one that is gone: then nothing opens by it.
    pub fn is_open(&self, tpm: &mut dyn Tpm, index: &NvPublic) -> Result<bool, TpmError> {
        match count(tpm, index) {
            Ok(now) => Ok(now == self.count),
            Err(TpmError::NoSuchIndex { .. } | TpmError::IndexRefused { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Whether it was used: nothing else moves the counter by one.
    ///
    /// # Errors
    /// As [`Grace::is_open`].
    pub fn was_used(&self, tpm: &mut dyn Tpm, index: &NvPublic) -> Result<bool, TpmError> {
        match count(tpm, index) {
            Ok(now) => Ok(self.count.checked_add(1) == Some(now)),
            Err(TpmError::NoSuchIndex { .. } | TpmError::IndexRefused { .. }) => Ok(false),
            Err(other) => Err(other),
        }
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
        let counter = counter(index);
        match tpm.nv_public(counter.index) {
            Ok(_) => {}
            Err(TpmError::NoSuchIndex { .. }) => {
                let attributes = counter.attributes.0 & !NvAttributes::WRITTEN.0;
                let fresh = NvPublic {
                    attributes: NvAttributes(attributes),
                    ..counter.clone()
                };
                tpm.nv_define(&fresh, None)?;
                tpm.nv_increment(counter.index, &NvAuth::Index(None))?;
            }
            Err(other) => return Err(other),
        }
        self.grace = Some(Grace {
            count: count(tpm, index)?,
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
                tpm.nv_increment(index.index, &NvAuth::Index(None))?;
            }
        }
        Ok(())
    }
}

/// The counter beside an index, as it is when it has counted.
pub(super) fn counter(index: &NvPublic) -> NvPublic {
    NvPublic {
        index: index.index + BEHIND,
        attributes: NvAttributes::COUNTER
            .with(NvAttributes::AUTH_WRITE)
            .with(NvAttributes::OWNER_READ)
            .with(NvAttributes::NO_DA)
            .with(NvAttributes::WRITTEN),
        policy: Vec::new(),
        size_bytes: COUNTER_BYTES,
    }
}

fn count(tpm: &mut dyn Tpm, index: &NvPublic) -> Result<u64, TpmError> {
    let counter = counter(index);
    if tpm.nv_public(counter.index)?.name() != counter.name() {
        return Err(TpmError::PolicyMismatch {
            detail: format!("NV index {:#010x} is another one", counter.index),
        });
    }
    let bytes = tpm.nv_read(counter.index, &NvAuth::Owner)?;
    let bytes = bytes.expose().try_into().map_err(|_| TpmError::Garbage {
        what: "contents of a counter",
    })?;
    Ok(u64::from_be_bytes(bytes))
}
