//! The NV index that a policy lies in, and the policy in its file: made and rewritten here, so that
//! what is foreseen can change without a touch of any header.
//!
//! The form is that of `systemd-pcrlock`, but for who may write: a key has to sign for it (see
//! [`WriterKey`]). Whoever reads needs the owner's right. With each write, what was foreseen before is
//! over at once, in every copy.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use luksmith_crypto::SecretBytes;
use serde_json::{Value, json};

use super::grace::BEHIND;
use super::json::to_hex;
use super::kept::Kept;
use super::pcrlock::{PcrlockPolicy, serialise};
use crate::error::TpmError;
use crate::free_index::free_handles;
use crate::hash::HashAlg;
use crate::policy::MAX_BRANCHES;
use crate::tpm::{NvAuth, Tpm};
use crate::wire::{NvAttributes, NvPublic};
use crate::writer::WriterKey;

/// A hash algorithm and a digest.
const CONTENTS_BYTES: u16 = 34;
/// Written by who can sign, read by the owner.
pub(super) const ATTRIBUTES: NvAttributes = NvAttributes::POLICY_WRITE
    .with(NvAttributes::OWNER_READ)
    .with(NvAttributes::NO_DA);

/// Makes an index that nothing was written to yet, with room behind it for the policy itself. Only
/// `writer` writes it.
///
/// # Errors
/// [`TpmError::Full`]; [`TpmError::HierarchyAuth`]; those of talking to the TPM.
pub fn define_index(tpm: &mut dyn Tpm, writer: &WriterKey) -> Result<NvPublic, TpmError> {
    let attributes = ATTRIBUTES.with(NvAttributes::WRITE_ALL);
    let policy = writer.policy().0.to_vec();
    let public = NvPublic {
        index: free_handles(tpm, 1 + BEHIND)?,
        attributes,
        policy,
        size_bytes: CONTENTS_BYTES,
    };
    tpm.nv_define(&public, None)?;
    Ok(NvPublic {
        attributes: attributes.with(NvAttributes::WRITTEN),
        ..public
    })
}

impl PcrlockPolicy {
    /// A policy for these values, 1 to 8 of each PCR, in this index.
    ///
    /// # Errors
    /// [`TpmError::Misuse`] for no PCR, no value, too many, or one that the bank cannot have.
    pub fn new(
        bank: HashAlg,
        allowed: BTreeMap<u8, Vec<Vec<u8>>>,
        index: NvPublic,
    ) -> Result<Self, TpmError> {
        let fits = |values: &Vec<Vec<u8>>| {
            (1..=MAX_BRANCHES).contains(&values.len())
                && values.iter().all(|value| value.len() == bank.len())
        };
        if allowed.is_empty() || !allowed.values().all(fits) {
            return Err(TpmError::Misuse {
                what: "a policy without PCRs, or with more than 8 values of one",
            });
        }
        Ok(Self {
            bank,
            allowed,
            index: Some(index),
            grace: None,
        })
    }

    /// The same policy with other values, and its grace.
    ///
    /// # Errors
    /// Those of [`PcrlockPolicy::new`].
    pub fn with_allowed(self, allowed: BTreeMap<u8, Vec<Vec<u8>>>) -> Result<Self, TpmError> {
        let index = self.index.ok_or(NO_INDEX)?;
        Ok(Self {
            grace: self.grace,
            ..Self::new(self.bank, allowed, index)?
        })
    }

    /// The bank of its PCRs.
    #[must_use]
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// The values that each PCR may have.
    #[must_use]
    pub fn allowed(&self) -> &BTreeMap<u8, Vec<Vec<u8>>> {
        &self.allowed
    }

    /// The file.
    ///
    /// # Errors
    /// [`TpmError::Misuse`] for a policy without an index.
    pub fn to_json(&self) -> Result<Value, TpmError> {
        let index = self.index.as_ref().ok_or(NO_INDEX)?;
        let values: Vec<Value> = self
            .allowed
            .iter()
            .map(|(pcr, values)| {
                let values: Vec<String> = values.iter().map(|value| to_hex(value)).collect();
                json!({ "pcr": pcr, "values": values })
            })
            .collect();
        let mut whole = json!({
            "pcrBank": self.bank.name(),
            "pcrValues": values,
            "nvIndex": index.index,
            "nvHandle": BASE64.encode(serialise(index)),
        });
        if let Some(grace) = &self.grace {
            whole["luksmithGrace"] = json!({ "count": grace.count, "pcrs": grace.free });
        }
        Ok(whole)
    }

    /// Writes the policy into the TPM, then its digest into the index: from now on it is in force, and no
    /// other. Where the TPM has no room for the policy itself, its file has to be at hand when a volume is
    /// opened.
    ///
    /// # Errors
    /// [`TpmError::PolicyMismatch`] for another key than that of the index; [`TpmError::NoSuchIndex`];
    /// those of talking to the TPM.
    pub fn put_in_force(&self, tpm: &mut dyn Tpm, writer: &WriterKey) -> Result<Kept, TpmError> {
        let index = self.index.as_ref().ok_or(NO_INDEX)?;
        let kept = if self.fits_in_tpm() {
            match self.keep(tpm, writer) {
                Ok(()) => Kept::InTpm,
                Err(why @ (TpmError::Full { .. } | TpmError::Unsupported { .. })) => {
                    Kept::OnlyInFile(why)
                }
                Err(other) => return Err(other),
            }
        } else {
            Kept::OnlyInFile(TpmError::Unsupported {
                what: "that many values of PCRs".to_owned(),
            })
        };
        let contents = SecretBytes::take_from(&mut self.contents()?)?;
        tpm.nv_write(index.index, &NvAuth::Signed(writer), &contents)?;
        // An index that somebody made anew with a value of his own takes what we send for something else.
        if !contents.ct_eq(&tpm.nv_read(index.index, &NvAuth::Owner)?) {
            return Err(TpmError::PolicyMismatch {
                detail: format!("NV index {:#010x} was made anew by somebody", index.index),
            });
        }
        Ok(kept)
    }

    /// Removes the index: nothing that is bound to it opens any more, not even by a copy of a header made
    /// before. This cannot be undone.
    ///
    /// # Errors
    /// [`TpmError::NoSuchIndex`] if it is gone already; [`TpmError::PolicyMismatch`] if another one
    /// stands in its place, which is left alone; those of talking to the TPM.
    pub fn revoke(&self, tpm: &mut dyn Tpm) -> Result<(), TpmError> {
        let index = self.index.as_ref().ok_or(NO_INDEX)?;
        match tpm.nv_public(index.index) {
            Ok(found) if found.name() == index.name() => {}
            Ok(_) => {
                return Err(TpmError::PolicyMismatch {
                    detail: format!("NV index {:#010x} is another one", index.index),
                });
            }
            // By an attempt that may have been cut off after that.
            Err(gone @ TpmError::NoSuchIndex { .. }) => {
                super::kept::clear(tpm, index)?;
                return Err(gone);
            }
            Err(other) => return Err(other),
        }
        // The one that counts goes first.
        tpm.nv_undefine(index.index)?;
        super::kept::clear(tpm, index)
    }
}

pub(super) const NO_INDEX: TpmError = TpmError::Misuse {
    what: "a policy without an index",
};
