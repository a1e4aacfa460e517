//! Serves requests on an open volume through io_uring, whatever front end they come from.
//!
//! The way of a read: [`Limits::read`] checks it → [`Lane::begin`] takes it through the
//! gate and to a slot → the front end's ring (or [`uring::Ring`]) reads the ciphertext from
//! the [`Backing`] → [`Lane::complete`] decrypts in place → [`Exchange::copy_out`] → answer.
//!
//! Two front ends stand on this: the ublk target and the NBD export. What differs between
//! them is how plaintext comes and goes ([`Exchange`]) and who owns the ring.

pub mod alloc_guard;
pub mod backing;
pub mod counters;
mod engine;
mod errno;
mod exchange;
mod in_use;
mod lane;
mod peers;
pub mod process;
mod queue;
mod request;
pub mod uring;

pub use backing::{Backing, BackingAccess, BackingCache, BackingError, BackingOptions};
pub use counters::{CountersSnapshot, QueueCounters};
pub use engine::{DEFAULT_MAX_IO, Engine, EngineError, EngineOptions, Geometry, MAX_IO_RANGE};
pub use errno::Errno;
pub use exchange::{Exchange, Tag};
pub use lane::{Event, Lane, LaneConfig, LaneError, SlotClass};
pub use request::{ByteRange, Limits, MAX_DISCARD_BYTES, Refusal, Request};
pub use uring::{Completion, Submission};

// The unit tests prove on the way that no step of a lane allocates.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: alloc_guard::GuardedAllocator = alloc_guard::GuardedAllocator;
