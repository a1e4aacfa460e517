//! A TPM behind a byte stream: swtpm over TCP or a Unix socket, frames one after the other.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::Transport;
use crate::error::TpmError;
use crate::wire::MAX_FRAME_BYTES;

/// A connected stream.
pub struct Stream {
    stream: Box<dyn ReadWrite>,
    /// A frame was cut off, so nothing that comes after it can be told apart.
    broken: bool,
}

trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

/// Longest wait for an answer: a slow chip may search for an RSA key for a minute.
const PATIENCE: Duration = Duration::from_secs(180);
/// Tag, length and code.
const HEADER_BYTES: usize = 10;

impl Stream {
    /// Connects over TCP.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn tcp(host: IpAddr, port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((host, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }

    fn over(stream: impl ReadWrite + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            broken: false,
        }
    }

    fn exchange(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.stream
            .write_all(command)
            .map_err(TpmError::Transport)?;
        let mut header = [0; HEADER_BYTES];
        self.stream
            .read_exact(&mut header)
            .map_err(TpmError::Transport)?;
        let len = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if !(HEADER_BYTES..=MAX_FRAME_BYTES).contains(&len) {
            return Err(TpmError::Garbage {
                what: "length of an answer",
            });
        }
        let mut answer = vec![0; len];
        answer[..HEADER_BYTES].copy_from_slice(&header);
        self.stream
            .read_exact(&mut answer[HEADER_BYTES..])
            .map_err(TpmError::Transport)?;
        Ok(answer)
    }
}

impl Transport for Stream {
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        if self.broken {
            return Err(TpmError::Transport(io::ErrorKind::BrokenPipe.into()));
        }
        self.exchange(command).inspect_err(|_| self.broken = true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Answers one command with `answer`.
    fn other_end(answer: &'static [u8]) -> Stream {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut command = [0; 10];
            theirs.read_exact(&mut command).unwrap();
            theirs.write_all(answer).unwrap();
        });
        Stream::over(ours)
    }

    #[test]
    fn a_length_that_cannot_be_is_refused_and_ends_the_stream() {
        for answer in [
            b"\x80\x01\xFF\xFF\xFF\xFF\0\0\0\0",
            b"\x80\x01\0\0\0\x09\0\0\0\0",
            b"\x80\x01\0\0\x10\x01\0\0\0\0",
        ] {
            let mut stream = other_end(answer);
            let first = stream.transact(&[0; 10]);
            assert!(matches!(first, Err(TpmError::Garbage { .. })));
            let second = stream.transact(&[0; 10]);
            assert!(matches!(second, Err(TpmError::Transport(_))));
        }
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        let mut stream = other_end(b"\x80\x01\0\0\0\x0C\0\0\0\0\x01");
        assert!(matches!(
            stream.transact(&[0; 10]),
            Err(TpmError::Transport(_))
        ));
    }
}
