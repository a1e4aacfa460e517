//! Serves an open volume as `/dev/ublkbN`.
//!
//! [`open()`] forks a *keeper*, which holds the volume key in sealed memory and forks the
//! *server*, which answers the kernel's requests. A server that dies is forked again; the device
//! waits meanwhile and no request is lost. [`close`], [`list`] and [`status()`] talk to the server over a
//! socket in `/run/luksmith/NAME`.
//!
//! | to change | open |
//! |---|---|
//! | what happens to one request | `queue.rs` |
//! | how a device is made, recovered, taken down | `server.rs` |
//! | who keeps the key and replaces a dead server | `keeper.rs` |
//! | commands of the driver, kernel structures | `control_ring.rs`, `abi.rs` |
//! | what `close` takes for "in use" | `users.rs` |
//! | names and udev | `udev.rs`, the rules in `udev/` |
//! | what dm-crypt has open | [`mapper`] |
//! | what is said about this machine | [`doctor`] |

mod abi;
mod client;
mod control;
mod control_ring;
pub mod doctor;
mod error;
mod keeper;
mod kmsg;
pub mod mapper;
mod mounts;
mod name;
mod open;
mod packages;
mod queue;
mod request;
mod root_storage;
mod server;
mod state;
mod status;
mod sys;
pub mod udev;
mod users;

pub use client::{Close, Closed, close, list, status};
pub use error::UblkError;
pub use name::VolumeName;
pub use open::{Opened, ServeOptions, ServePlan, open};
pub use status::{BackingId, User, VolumeCounters, VolumeFacts, VolumeState, VolumeStatus};
