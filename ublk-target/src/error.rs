//! What can go wrong between a volume and the kernel's ublk driver.

use std::io;
use std::path::PathBuf;

use crate::status::User;

/// Why a volume could not be served, closed or asked.
///
/// Sorted by whose fault it is: the caller asked for something that cannot be
/// ([`UblkError::Misuse`], [`UblkError::NameTaken`], …), the machine lacks something
/// ([`UblkError::NoDriver`], [`UblkError::KnownBadKernel`], …), or the system failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UblkError {
    /// A name that cannot be used for a volume.
    #[error("{0:?} cannot be the name of a volume: {1}")]
    BadName(String, &'static str),
    /// A volume of this name is already open (or being opened or closed).
    #[error("a volume named {0} is already open")]
    NameTaken(String),
    /// The same volume is already open under another name.
    #[error("this volume is already open as {name} ({device}): {same}")]
    AlreadyOpen {
        /// The name it is open under.
        name: String,
        /// Its block device.
        device: PathBuf,
        /// What is the same: the backing device or the UUID.
        same: &'static str,
    },
    /// No volume of this name is open.
    #[error("no volume named {0} is open")]
    NotOpen(String),
    /// The volume is in use, so it was not closed.
    #[error("{name} is in use{}", crate::status::used_by(.users))]
    InUse {
        /// The volume.
        name: String,
        /// Who uses it, as far as this process may see.
        users: Vec<User>,
    },
    /// The kernel has no ublk driver loaded, or it cannot be reached.
    #[error("the kernel's ublk driver is not available: {0}")]
    NoDriver(String),
    /// The running kernel is known to crash in the ublk driver.
    #[error("kernel {release} is known to fail in its ublk driver: {why}")]
    KnownBadKernel {
        /// `uname -r`.
        release: String,
        /// What happens on it.
        why: &'static str,
    },
    /// The driver lacks a feature that is needed.
    #[error("the kernel's ublk driver lacks {0}")]
    MissingFeature(&'static str),
    /// A command to the driver did not return in time.
    #[error(
        "the kernel did not finish {command} within {seconds} s; some kernels crash in this \
         command ({known_bad}), the process {pid} may then be impossible to end and only a \
         restart of the machine with another kernel helps"
    )]
    Stuck {
        /// The command that hangs.
        command: &'static str,
        /// How long it was waited for.
        seconds: u64,
        /// The process that hangs.
        pid: i32,
        /// Kernels that are known for it.
        known_bad: &'static str,
    },
    /// A request that can never be carried out.
    #[error("{0}")]
    Misuse(String),
    /// The backing cannot be opened, or somebody else has it.
    #[error(transparent)]
    Backing(#[from] luksmith_data_path::BackingError),
    /// The server process reported an error while it started.
    #[error("{0}")]
    Server(String),
    /// The server of this volume does not answer.
    #[error("the server of {name} does not answer: {why}")]
    NoAnswer {
        /// The volume.
        name: String,
        /// What was seen instead.
        why: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path it was done to.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl UblkError {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what: what.into(),
            source: source.into(),
        }
    }

    /// Whether the volume was refused because something uses it.
    pub fn is_busy(&self) -> bool {
        matches!(
            self,
            Self::InUse { .. }
                | Self::NameTaken(_)
                | Self::AlreadyOpen { .. }
                | Self::Backing(luksmith_data_path::BackingError::InUse { .. })
        )
    }
}

/// Adds what was being done to a failed system call.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, UblkError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, UblkError> {
        self.map_err(|source| UblkError::io(what(), source))
    }
}
