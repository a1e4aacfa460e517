//! An open volume over any block device: the header store, the segment map, the gate.
//!
//! * [`BlockDevice`], [`MetadataDevice`]: what is asked of a disk; [`FileDevice`] is the real one.
//! * [`HeaderStore`]: reads a header, changes it in an order that a crash cannot hurt, repairs it,
//!   backs it up and restores it, all under [`MetadataLock`], which other programs on the host
//!   honour too.
//! * [`VolumePlan`], [`OpenVolume`]: a header and its keys become a volume that can be served.
//! * [`IoGate`] and [`SegmentMap`]: steps 2 and 3 of the read path.
//! * [`signatures`]: what else may lie on a device.
//!
//! The feature `sim` adds a disk that loses power, tears writes and fails at any point, as a second
//! implementation of [`MetadataDevice`]; the crash tests run the production code on it.

mod device;
mod error;
mod file;
mod gate;
mod lock;
mod map;
mod mutant;
mod open;
mod probe;
#[cfg(feature = "sim")]
pub mod sim;
mod store;

pub use device::{BlockDevice, MetadataDevice};
pub use error::{RestoreObjection, StoreError};
pub use file::{Access, FileDevice, Locking, OpenError};
pub use gate::{Frozen, Guard, IoGate, Lane};
pub use lock::{LOCK_DIRECTORY, LockError, LockMode, MetadataLock, Wait};
pub use map::{Extent, Extents, OutOfRange, SegmentMap};
#[doc(hidden)]
pub use mutant::{Mutant, Switches};
pub use open::{OpenVolume, VolumeError, VolumePlan};
pub use probe::{Signature, signatures};
pub use store::{HeaderStore, RepairReport, RepairScope, RestoreRules, Tell};
