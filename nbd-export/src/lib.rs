//! Serves an open volume over NBD on a Unix socket: no driver, no root.
//!
//! The way of a read: socket → [`protocol::transmission`] says what is asked →
//! the connection cuts it into pieces → [`Lane`](luksmith_data_path::Lane) (gate, backing,
//! cipher; the same as for the kernel's block device) → reply → socket.
//!
//! Each client has a thread, a ring and a lane of its own. Several connections of one
//! client see one another's writes, and a flush on one covers what was answered on any.

mod buffers;
mod connection;
mod memory;
pub mod protocol;
mod replies;
mod server;
mod socket;

pub use server::{NbdOptions, OnReady, Ready, ServeError, ServeSummary, StopHandle, serve};
