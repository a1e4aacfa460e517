//! A counter in the TPM that only goes up: what tells an old copy of something from the present one.
//!
//! Whoever is root may count it up or remove it, which is noticed and opens nothing: a counter that is removed
//! and made again begins above all that the TPM ever counted (Part 1, "NV counters").

use luksmith_crypto::random;

use crate::error::TpmError;
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

/// Where indices of an owner's programs lie (TCG registry of reserved handles), first and number.
const FIRST: u32 = 0x0180_0000;
const HANDLES: u32 = 0x0040_0000;
/// How many handles are tried; that so many are taken does not happen.
const TRIES: usize = 16;
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
        for _ in 0..TRIES {
            let mut number = [0; 4];
            random::fill(&mut number)?;
            let handle = FIRST + u32::from_be_bytes(number) % HANDLES;
            if !matches!(tpm.nv_public(handle), Err(TpmError::NoSuchIndex { .. })) {
                continue;
            }
            let public = NvPublic {
                index: handle,
                attributes: ATTRIBUTES,
                policy: Vec::new(),
                size_bytes: CONTENTS_BYTES,
            };
            tpm.nv_define(&public, None)?;
            // Without a first count it has no value.
            tpm.nv_increment(handle, &NvAuth::Index(None))?;
            let name = name_at(handle);
            let counter = Self { handle, name, srk };
            let value = counter.value(tpm)?;
            return Ok((counter, value));
        }
        Err(TpmError::Unsupported {
            what: "no free NV index".to_owned(),
        })
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
        if self.name != name_at(self.handle) || tpm.nv_public(self.handle)?.name() != self.name {
            return Err(other_index());
        }
        let contents = tpm.nv_read(self.handle, &NvAuth::Index(None))?;
        let bytes = contents.expose().try_into().map_err(|_| other_index())?;
        Ok(u64::from_be_bytes(bytes))
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
            tpm.nv_increment(self.handle, &NvAuth::Index(None))?;
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

/// The name of a counter of ours that has a value.
fn name_at(handle: u32) -> Name {
    NvPublic {
        index: handle,
        attributes: ATTRIBUTES.with(NvAttributes::WRITTEN),
        policy: Vec::new(),
        size_bytes: CONTENTS_BYTES,
    }
    .name()
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
