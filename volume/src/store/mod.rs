//! The header of one device: load it, change it, back it up, repair it.
//!
//! A store is read under the shared lock and holds no lock while it lives: a person may think about
//! a passphrase for as long as they like without keeping other programs out. Every change takes the
//! exclusive lock, reads both copies again, and is refused if somebody else was faster.
//!
//! The order of writes stands at [`HeaderStore::apply`]; what may go wrong at each place is tried
//! out exhaustively in the simulator.

mod backup;
mod commit;
mod repair;
mod restore;

use luksmith_luks2::binary::{BINARY_BYTES, SALT_BYTES};
use luksmith_luks2::{
    CopyState, Header, HeaderCopy, Repair, RepairReason, ResolveError, Resolved, resolve,
};

use crate::device::MetadataDevice;
use crate::error::StoreError;
use crate::lock::{LockMode, Wait};
use crate::mutant::Mutant;
use crate::probe::{self, Signature};

pub use backup::Tell;
pub use repair::{RepairReport, RepairScope};
pub use restore::RestoreRules;

/// The header on one device, as it was when it was read.
#[derive(Debug)]
pub struct HeaderStore<D> {
    device: D,
    found: Found,
    /// Set by the first failed write or flush; nothing is written any more then.
    latched: bool,
    /// Whether the operation that is going on has written anything.
    wrote: bool,
    /// Written since the last barrier.
    unproven: Vec<commit::Written>,
}

/// What was read.
#[derive(Debug)]
struct Found {
    resolved: Resolved,
    /// What else lies on the device, looked for only when the primary is gone.
    foreign: Vec<Signature>,
}

impl<D: MetadataDevice> HeaderStore<D> {
    /// Reads the header. [`LockMode::Shared`] writes nothing. [`LockMode::Exclusive`] is for
    /// commands that are going to change the header: a stale or damaged copy is rewritten from the
    /// good one at once, where [`blocked`](Self::blocked) does not speak against it.
    ///
    /// # Errors
    /// [`StoreError::Lock`], [`StoreError::Resolve`], [`StoreError::Device`].
    pub fn load(device: D, mode: LockMode) -> Result<Self, StoreError> {
        Self::load_waiting(device, mode, Wait::default())
    }

    /// [`load`](Self::load) with another patience for the lock.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_waiting(device: D, mode: LockMode, wait: Wait) -> Result<Self, StoreError> {
        let found = {
            let _held = Self::hold(&device, LockMode::Shared, wait)?;
            Found::read(&device)?
        };
        let mut store = Self {
            device,
            found,
            latched: false,
            wrote: false,
            unproven: Vec::new(),
        };
        let repairs =
            mode == LockMode::Exclusive || store.device.switches().lacks(Mutant::ReaderRepairs);
        // Without locks another program might be in the middle of the very commit that we see.
        if repairs
            && store.needs_repair().is_some()
            && store.blocked().is_none()
            && store.device.locks()
        {
            store.repair_automatically(wait)?;
        }
        Ok(store)
    }

    /// The header in force.
    pub fn header(&self) -> &Header {
        &self.found.resolved.header
    }

    /// The header in force and the state of both copies.
    pub fn resolved(&self) -> &Resolved {
        &self.found.resolved
    }

    /// Which copy should be rewritten, if one should.
    pub fn needs_repair(&self) -> Option<&Repair> {
        self.found.resolved.repair.as_ref()
    }

    /// Why nothing is written to this device before [`repair`](Self::repair) was called: a copy
    /// cannot be read, the primary is gone and something else is on the device, the copies
    /// contradict each other, the header has unknown requirements. Also on a read-only device.
    pub fn blocked(&self) -> Option<StoreError> {
        if self.device.read_only() {
            return Some(StoreError::ReadOnly);
        }
        let repair = self.needs_repair()?;
        if let RepairReason::Unreadable(why) = &repair.reason {
            return Some(StoreError::Unreadable {
                copy: repair.copy,
                why: why.clone(),
            });
        }
        if !self.found.foreign.is_empty() {
            return Some(StoreError::Foreign(self.found.foreign.clone()));
        }
        if let Err(unknown) = self.header().metadata().requirements().check_known() {
            return Some(StoreError::Format(unknown));
        }
        (repair.reason == RepairReason::Conflict).then_some(StoreError::Conflict)
    }

    /// Reads `len` bytes of a keyslot's area at `offset` (bytes from the start of the device).
    ///
    /// # Errors
    /// [`StoreError::OutsideKeyslots`], [`StoreError::Device`].
    pub fn read_area(&self, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        let outside = StoreError::OutsideKeyslots { offset, len };
        let whole = self.header().metadata().keyslots_area();
        let (Some(end), Some(whole_end)) = (offset.checked_add(len), whole.end()) else {
            return Err(outside);
        };
        if offset < whole.offset || end > whole_end {
            return Err(outside);
        }
        // At most the keyslots area, which the format bounds to 128 MiB.
        let Ok(len) = usize::try_from(len) else {
            return Err(outside);
        };
        let mut bytes = vec![0; len];
        self.device
            .read_at(offset, &mut bytes)
            .map_err(|source| StoreError::device("read a keyslot area", false, source))?;
        Ok(bytes)
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Gives the device back.
    pub fn into_device(self) -> D {
        self.device
    }

    /// Reads again what the device holds.
    fn look(&self) -> Result<Found, StoreError> {
        Found::read(&self.device).map_err(|error| match error {
            StoreError::Device { action, source, .. } => {
                StoreError::device(action, self.wrote, source)
            }
            StoreError::Resolve(_) if self.wrote => StoreError::ReadBack { what: "header" },
            other => other,
        })
    }

    fn hold(device: &D, mode: LockMode, wait: Wait) -> Result<Option<D::Held>, StoreError> {
        if device.switches().lacks(Mutant::NoLock) {
            return Ok(None);
        }
        Ok(Some(device.lock(mode, wait)?))
    }

    /// The salt of a copy: normal updates keep it, a rebuilt copy gets a new one.
    fn salt_of(&self, copy: HeaderCopy) -> Result<[u8; SALT_BYTES], StoreError> {
        let state = match copy {
            HeaderCopy::Primary => &self.found.resolved.primary,
            HeaderCopy::Secondary => &self.found.resolved.secondary,
        };
        match state {
            CopyState::Good { salt, .. } => Ok(*salt),
            CopyState::Bad(_) | CopyState::Unreadable(_) => self.fresh_salt(),
        }
    }

    fn fresh_salt(&self) -> Result<[u8; SALT_BYTES], StoreError> {
        let mut salt = [0; SALT_BYTES];
        self.device
            .random(&mut salt)
            .map_err(|source| StoreError::device("get random bytes", self.wrote, source))?;
        Ok(salt)
    }
}

impl Found {
    fn read<D: MetadataDevice>(device: &D) -> Result<Self, StoreError> {
        let switches = device.switches();
        let mut read = |offset: u64, len: usize| {
            let mut bytes = vec![0; len];
            device.read_at(offset, &mut bytes)?;
            if switches.lacks(Mutant::SkipChecksum) {
                mend_checksum(&mut bytes);
            }
            Ok(bytes)
        };
        let resolved = resolve(&mut read, device.len()).map_err(|error| match error {
            ResolveError::Read { source, .. } => {
                StoreError::device("read the header", false, source)
            }
            other => other.into(),
        })?;
        let resolved = match switches.lacks(Mutant::AcceptLowerSequence) {
            true => lower_sequence(device, resolved),
            false => resolved,
        };
        let primary_gone = resolved.repair.as_ref().is_some_and(|repair| {
            repair.copy == HeaderCopy::Primary && repair.reason.is_primary_gone()
        });
        let mut foreign = Vec::new();
        if primary_gone && !switches.lacks(Mutant::RepairOverForeign) {
            foreign = probe::signatures(device)
                .map_err(|source| StoreError::device("look for other signatures", false, source))?;
        }
        Ok(Self { resolved, foreign })
    }
}

/// What a reader without the checksum rule would see ([`Mutant::SkipChecksum`]).
fn mend_checksum(bytes: &mut [u8]) {
    use luksmith_luks2::binary::write_checksum;
    if bytes.len() > BINARY_BYTES {
        write_checksum(bytes, luksmith_luks2::ChecksumAlgorithm::Sha256);
    }
}

/// What a reader with the wrong sense of order would take ([`Mutant::AcceptLowerSequence`]).
fn lower_sequence<D: MetadataDevice>(device: &D, found: Resolved) -> Resolved {
    let Some(Repair {
        copy,
        reason: RepairReason::Stale { .. },
    }) = &found.repair
    else {
        return found;
    };
    let winner = copy.other().offset(found.header.size());
    let mut read = |offset: u64, len: usize| {
        let mut bytes = vec![0; len];
        if offset != winner {
            device.read_at(offset, &mut bytes)?;
        }
        Ok(bytes)
    };
    resolve(&mut read, device.len()).unwrap_or(found)
}
