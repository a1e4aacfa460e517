//! Messages into the kernel's log, the one place a server can write to without waiting for any
//! disk, also the one it serves itself.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

/// The kernel's log, if there is one to write to.
#[derive(Debug)]
pub(crate) struct Log(Option<File>);

/// How urgent a message is, as syslog counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {
    Critical = 2,
    Warning = 4,
    Notice = 5,
}

impl Log {
    pub(crate) fn open() -> Self {
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        Self(
            OpenOptions::new()
                .write(true)
                .custom_flags(flags)
                .open("/dev/kmsg")
                .ok(),
        )
    }

    /// Writes one line. Allocates nothing and never waits; a message that cannot be
    /// written is lost.
    pub(crate) fn say(&self, level: Level, name: &dyn fmt::Display, text: fmt::Arguments<'_>) {
        // The kernel drops what is written too fast, counted for each opening of the file: what must not be
        // lost is written through one of its own.
        let fresh = match level {
            Level::Critical => Self::open(),
            Level::Warning | Level::Notice => Self(None),
        };
        let Some(mut file) = fresh.0.as_ref().or(self.0.as_ref()) else {
            return;
        };
        let mut line = Line {
            bytes: [0; 512],
            used: 0,
        };
        let _ = writeln!(line, "<{}>luksmith: {name}: {text}", 3 << 3 | level as u8);
        let _ = file.write(&line.bytes[..line.used]);
    }
}

/// A line of bounded length; what is too long is cut.
struct Line {
    bytes: [u8; 512],
    used: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let n = text.len().min(self.bytes.len() - self.used);
        self.bytes[self.used..self.used + n].copy_from_slice(&text.as_bytes()[..n]);
        self.used += n;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_and_not_lost() {
        let mut line = Line {
            bytes: [0; 512],
            used: 0,
        };
        write!(line, "{}", "x".repeat(600)).unwrap();
        assert_eq!(line.used, 512);
        write!(line, "more").unwrap();
        assert_eq!(line.used, 512);
    }
}
