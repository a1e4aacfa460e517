//! A disk that does everything that a disk may do: it keeps what was not flushed or not, in any
//! selection, tears a write at any physical sector, fails, and lies.
//!
//! [`SimDisk`] is a second implementation of [`MetadataDevice`](crate::MetadataDevice), so the
//! header store that runs on it is the production code, without a difference. While an operation
//! runs, the disk takes a [`Snapshot`] wherever a power cut or the death of the process would leave
//! something else than before; [`Snapshot::power_cuts`] enumerates every content that the medium
//! may have afterwards.
//!
//! What is modelled, and what a test may conclude:
//! * *Completed is not durable.* A write that returned is visible to reads and may be lost until a
//!   flush that was issued after it returned. Of several versions of one physical sector any one
//!   since the last durable may survive.
//! * *Sectors are atomic, writes are not.* A physical sector (512 or 4096 bytes) is never torn; a
//!   longer write is torn at every sector border, in any selection.
//! * *Failed flush*: the unflushed versions may be lost for ever, although they stay visible, and
//!   the next flush succeeds without them.
//! * *Lost write*: acknowledged, never done.

mod disk;
mod rng;
mod snapshot;

pub use disk::{Fault, Held, Op, SimDisk};
pub use rng::Rng;
pub use snapshot::{Cut, Snapshot};
