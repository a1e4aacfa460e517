//! A counter in the TPM that only goes up: what tells an old copy of something from the present one.
//!
//! Whoever is root may count it up or remove it, which is noticed and opens nothing: a counter that is removed
//! and made again begins above all that the TPM ever counted (Part 1, "NV counters").

use crate::error::TpmError;
use crate::free_index::free_handles;
use crate::native::Native;
use crate::tpm::{NvAuth, StorageKey, Tpm};
use crate::transport::Transport;
use crate::wire::{Name, NvAttributes, NvPublic};

/// Which counter of which TPM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NvCounter {
    /// Handle of the NV index.
    pub handle: u32,
    /// Its name: no other index, of another kind, in its place is taken for it.
    pub name: Name,
    /// Name of the storage root key: no other TPM is taken for this one.
    pub srk: Name,
}

/// A 64-bit number.
const CONTENTS_BYTES: u16 = 8;
/// More than this lies between no two states that are ours.
const MAX_RAISE: u64 = 64;

/// Its own, empty authorization value lets everybody read and count, also where the owner's is set.
const ATTRIBUTES: NvAttributes = NvAttributes::COUNTER
    .with(NvAttributes::AUTH_READ)
    .with(NvAttributes::AUTH_WRITE)
    .with(NvAttributes::OWNER_READ)
    .with(NvAttributes::OWNER_WRITE)
    .with(NvAttributes::NO_DA);

impl NvCounter {
    /// Makes a counter in the TPM. Gives it with its value.
    ///
    /// # Errors
    /// [`TpmError::Full`]; [`TpmError::HierarchyAuth`]; those of talking to the TPM.
    pub fn define(tpm: &mut dyn Tpm) -> Result<(Self, u64), TpmError> {
        let srk = root_name(tpm)?;
        let handle = free_handles(tpm, 1)?;
        define_at(tpm, handle)?;
        let name = counter_at(handle).name();
        let counter = Self { handle, name, srk };
        let value = counter.value(tpm)?;
        Ok((counter, value))
    }

    /// Its value now. `tpm` has to be connected by [`NvCounter::hold`] for the answer to be worth something where
    /// somebody sits between.
    ///
    /// # Errors
    /// [`TpmError::NoSuchIndex`]; [`TpmError::WrongTpm`] for another TPM, or another index in its place; those of
    /// talking to the TPM.
    pub fn value(&self, tpm: &mut dyn Tpm) -> Result<u64, TpmError> {
        if root_name(tpm)? != self.srk {
            return Err(TpmError::WrongTpm {
                detail: "another storage root key".to_owned(),
            });
        }
        // Also where somebody else chose handle and name.
        if self.name != counter_at(self.handle).name() {
            return Err(other_index());
        }
        value_at(tpm, self.handle)
    }

    /// Counts it up to at least `to`. Gives its value then.
    ///
    /// # Errors
    /// As [`NvCounter::value`]; [`TpmError::Misuse`] if it stands far below.
    pub fn raise(&self, tpm: &mut dyn Tpm, to: u64) -> Result<u64, TpmError> {
        let now = self.value(tpm)?;
        if to.saturating_sub(now) > MAX_RAISE {
            return Err(TpmError::Misuse {
                what: "counting up so far",
            });
        }
        for _ in now..to {
            count(tpm, self.handle)?;
        }
        self.value(tpm)
    }

    /// Removes it from the TPM.
    ///
    /// # Errors
    /// As [`NvCounter::value`].
    pub fn remove(&self, tpm: &mut dyn Tpm) -> Result<(), TpmError> {
        self.value(tpm)?;
        tpm.nv_undefine(self.handle)
    }

    /// The connection for this counter: it speaks to its TPM and takes no other index for it, whoever sits between.
    #[must_use]
    pub fn hold<T: Transport>(&self, tpm: Native<T>) -> Native<T> {
        tpm.with_storage_root(self.srk.clone())
            .with_index(self.handle, self.name.clone())
    }
}

/// A counter of ours, as it is when it has a value.
pub(crate) fn counter_at(handle: u32) -> NvPublic {
    NvPublic {
        index: handle,
        attributes: ATTRIBUTES.with(NvAttributes::WRITTEN),
        policy: Vec::new(),
        size_bytes: CONTENTS_BYTES,
    }
}

/// Makes a counter at a free handle, and has it count once: before that it has no value.
pub(crate) fn define_at(tpm: &mut dyn Tpm, handle: u32) -> Result<(), TpmError> {
    let public = NvPublic {
        attributes: ATTRIBUTES,
        ..counter_at(handle)
    };
    tpm.nv_define(&public, None)?;
    count(tpm, handle)
}

/// Counts one up.
pub(crate) fn count(tpm: &mut dyn Tpm, handle: u32) -> Result<(), TpmError> {
    tpm.nv_increment(handle, &NvAuth::Index(None))
}

/// The value of the counter at a handle. [`TpmError::WrongTpm`] for any other index.
pub(crate) fn value_at(tpm: &mut dyn Tpm, handle: u32) -> Result<u64, TpmError> {
    if tpm.nv_public(handle)?.name() != counter_at(handle).name() {
        return Err(other_index());
    }
    let contents = tpm.nv_read(handle, &NvAuth::Index(None))?;
    let bytes = contents.expose().try_into().map_err(|_| other_index())?;
    Ok(u64::from_be_bytes(bytes))
}

fn root_name(tpm: &mut dyn Tpm) -> Result<Name, TpmError> {
    match tpm.storage_root()? {
        StorageKey::Persistent { name, .. } => Ok(name),
        StorageKey::Primary(_) => Err(TpmError::Unsupported {
            what: "a storage root key that is not kept".to_owned(),
        }),
    }
}

fn other_index() -> TpmError {
    TpmError::WrongTpm {
        detail: "another NV index has the counter's handle".to_owned(),
    }
}
