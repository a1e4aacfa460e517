//! A TPM behind a character device of the kernel, by preference `/dev/tpmrmN`, where each open
//! file has its own objects and sessions and the kernel flushes them when it is closed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use super::Transport;
use crate::error::TpmError;
use crate::wire::MAX_FRAME_BYTES;

/// An open device.
pub struct Device {
    file: File,
}

impl Device {
    /// Opens it; the kernel lets only one in at a `/dev/tpmN`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file })
    }
}

impl Transport for Device {
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        // The driver takes a command in one write and gives the answer in one read; a second
        // write before the read is refused, so neither is cut in parts here.
        let written = retried(|| self.file.write(command)).map_err(TpmError::Transport)?;
        if written != command.len() {
            return Err(TpmError::Transport(io::ErrorKind::WriteZero.into()));
        }
        let mut answer = vec![0; MAX_FRAME_BYTES];
        let len = retried(|| self.file.read(&mut answer)).map_err(TpmError::Transport)?;
        answer.truncate(len);
        Ok(answer)
    }
}

/// Repeats a call that a signal interrupted before it did anything.
fn retried(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
