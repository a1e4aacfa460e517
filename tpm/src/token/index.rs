//! The NV index that a policy lies in, and the policy in its file: made and rewritten here, so that
//! what is foreseen can change without a touch of any header.
//!
//! The form is that of `systemd-pcrlock`: whoever writes needs a secret (`PolicyAuthValue`), whoever reads
//! needs the owner's right. With each write, what was foreseen before is over at once, in every copy.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use luksmith_crypto::{SecretBytes, random};
use serde_json::{Value, json};

use super::json::to_hex;
use super::pcrlock::{PcrlockPolicy, serialise};
use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::hash::HashAlg;
use crate::policy::{Assertion, MAX_BRANCHES, Policy};
use crate::tpm::{NvAuth, Tpm};
use crate::wire::{NvAttributes, NvPublic};

/// Where indices of an owner's programs lie (TCG registry of reserved handles), first and number.
const FIRST: u32 = 0x0180_0000;
const HANDLES: u32 = 0x0040_0000;
/// How many handles are tried; that so many are taken does not happen.
const TRIES: usize = 16;
/// A hash algorithm and a digest.
const CONTENTS_BYTES: u16 = 34;

/// Makes an index that nothing was written to yet. `secret` is asked of whoever writes.
///
/// # Errors
/// [`TpmError::Full`]; [`TpmError::HierarchyAuth`]; those of talking to the TPM.
pub fn define_index(tpm: &mut dyn Tpm, secret: &AuthValue) -> Result<NvPublic, TpmError> {
    let attributes = NvAttributes::POLICY_WRITE
        .with(NvAttributes::WRITE_ALL)
        .with(NvAttributes::OWNER_READ)
        .with(NvAttributes::NO_DA);
    let policy = by_secret().digest()?.0.to_vec();
    for _ in 0..TRIES {
        let mut number = [0; 4];
        random::fill(&mut number)?;
        let index = FIRST + u32::from_be_bytes(number) % HANDLES;
        if !matches!(tpm.nv_public(index), Err(TpmError::NoSuchIndex { .. })) {
            continue;
        }
        let public = NvPublic {
            index,
            attributes,
            policy: policy.clone(),
            size_bytes: CONTENTS_BYTES,
        };
        tpm.nv_define(&public, Some(secret))?;
        return Ok(NvPublic {
            attributes: attributes.with(NvAttributes::WRITTEN),
            ..public
        });
    }
    Err(TpmError::Unsupported {
        what: "no free NV index".to_owned(),
    })
}

/// What has to hold for a write.
fn by_secret() -> Policy {
    Policy::new(vec![Assertion::AuthValue])
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
        Ok(json!({
            "pcrBank": self.bank.name(),
            "pcrValues": values,
            "nvIndex": index.index,
            "nvHandle": BASE64.encode(serialise(index)),
        }))
    }

    /// Writes the policy into its index: from now on it is in force, and no other.
    ///
    /// # Errors
    /// [`TpmError::WrongPin`] for another secret than that of the index; [`TpmError::NoSuchIndex`];
    /// those of talking to the TPM.
    pub fn put_in_force(&self, tpm: &mut dyn Tpm, secret: &AuthValue) -> Result<(), TpmError> {
        let index = self.index.as_ref().ok_or(NO_INDEX)?;
        let by = NvAuth::Policy {
            policy: &by_secret(),
            auth: Some(secret),
        };
        let mut contents = self.contents()?;
        tpm.nv_write(index.index, &by, &SecretBytes::take_from(&mut contents)?)
    }
}

const NO_INDEX: TpmError = TpmError::Misuse {
    what: "a policy without an index",
};
