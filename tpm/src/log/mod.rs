//! What was measured into PCRs at this boot, as the firmware and systemd wrote it down.
//!
//! A PCR tells that something changed, the log tells what. It is not trusted: whoever owns the
//! running system can write any log. Only [`EventLog::explain`] ties it to what the TPM holds, and
//! [`predict()`] refuses where that fails.
//!
//! ```text
//! EventLog::parse          binary.rs        TCG's two formats; add_userspace: userspace.rs
//!   Event                  event.rs         its PCR, kind, digests, data
//!   Event::text            text.rs          data in a short text: efi.rs, path.rs
//!   EventLog::replay       replay.rs        the PCRs that the log amounts to; explain: against a TPM
//!   Remembered             remembered.rs    a log in little room, for the boot after this one
//!     why                  why.rs           the first event that differs, by subject.rs in plain words
//!   predict                predict.rs       the values of the next boot; authenticode.rs, measure.rs
//!     foresee              forecast.rs      which event becomes what, by the files that the next boot reads
//! ```
//!
//! Sources: "TCG PC Client Platform Firmware Profile Specification", 1.06 ("PFP" below) for the
//! log and its events; the UEFI specification 2.10 for variables and device paths; systemd's
//! `TPM2_PCR_MEASUREMENTS` for what it measures; and logs of virtual machines, see
//! `tests/logs/README.md`.

mod authenticode;
mod binary;
mod cursor;
mod efi;
mod event;
mod forecast;
mod measure;
mod path;
mod predict;
mod remembered;
mod replay;
mod subject;
mod text;
mod userspace;
mod why;

use crate::hash::HashAlg;

pub use authenticode::{authenticode_digest, image_section};
pub use event::{Event, EventKind, EventType};
pub use forecast::{BootFiles, Forecast, foresee};
pub use measure::{load_options_digest, measure, systemd_command_line_digest};
pub use predict::{Next, predict, when_unlocked};
pub use remembered::{Entry, Remembered};
pub use replay::Standing;
pub use subject::Subject;
pub use text::MAX_TEXT_CHARS;
pub use why::{Change, Difference, why};

/// Longest log that is read, in bytes. Real ones have 20 to 200 KiB.
pub const MAX_LOG_BYTES: usize = 8 << 20;

/// Most events of one log. Real ones have 50 to 500.
pub const MAX_EVENTS: usize = 20_000;

/// Events in the order in which they were measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventLog {
    banks: Vec<HashAlg>,
    /// The locality from which the TPM was started, part of the first value of PCR 0.
    startup_locality: u8,
    events: Vec<Event>,
}

impl EventLog {
    /// The firmware's log as in `/sys/kernel/security/tpm0/binary_bios_measurements`, in either of
    /// its formats. Zero bytes behind the last record are not minded.
    ///
    /// # Errors
    /// If it is not such a log to its last byte, or has no bank that is known here.
    pub fn parse(bytes: &[u8]) -> Result<Self, LogError> {
        binary::parse(bytes)
    }

    /// Adds systemd's log (`/run/log/systemd/tpm2-measure.log`), whose events come after all of the
    /// firmware. Its sticky bit is set while somebody writes; the caller minds that.
    ///
    /// # Errors
    /// If it is not such a log to its last byte; then nothing is added.
    pub fn add_userspace(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let more = userspace::parse(bytes)?;
        if self.events.len() + more.len() > MAX_EVENTS {
            return Err(LogError::TooLong);
        }
        self.events.extend(more);
        Ok(())
    }

    /// The banks that the firmware measured into, as far as they are known here.
    #[must_use]
    pub fn banks(&self) -> &[HashAlg] {
        &self.banks
    }

    /// All events, first things first.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}

/// A log, an image or a remembered log that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The bytes are not a log.
    #[error("malformed event log: {what} at byte {at}")]
    Malformed {
        /// What could not be read.
        what: &'static str,
        /// Where, in bytes from the start of this log.
        at: usize,
    },
    /// More than a real one has: see [`MAX_LOG_BYTES`] and [`MAX_EVENTS`].
    #[error("the event log is too long")]
    TooLong,
    /// The log, or one of its events, has no digest of this bank.
    #[error("the event log has no digests of the bank {}", bank.name())]
    NoSuchBank {
        /// The bank.
        bank: HashAlg,
    },
    /// The log does not lead to the value that the TPM holds, so nothing can be said from it.
    #[error("the event log does not explain PCR {pcr}")]
    Unexplained {
        /// The PCR.
        pcr: u8,
    },
    /// This PCR was not remembered.
    #[error("PCR {pcr} was not remembered")]
    NotRemembered {
        /// The PCR.
        pcr: u8,
    },
    /// A digest of another length than its bank's, or logs of two banks.
    #[error("digests of another bank than {}", bank.name())]
    OtherBank {
        /// The bank that was expected.
        bank: HashAlg,
    },
    /// What was remembered cannot be read.
    #[error("damaged remembered event log: {what}")]
    Damaged {
        /// What could not be read.
        what: &'static str,
    },
    /// The file is not an EFI image.
    #[error("not an EFI image: {what}")]
    NotAnImage {
        /// What could not be read.
        what: &'static str,
    },
}
