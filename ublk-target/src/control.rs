//! What the command line and a server say to each other: one JSON line each way, over the
//! socket in the volume's folder.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::UblkError;
use crate::state::Folder;
use crate::status::{VolumeCounters, VolumeState};

/// The longest line that either side reads.
const MAX_LINE: u64 = 64 << 10;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub(crate) enum Ask {
    /// How is it going?
    Status,
    /// Take the device down unless it is in use.
    Close,
    /// Take the device down as soon as nobody uses it.
    CloseDeferred,
    /// Do not take it down after all.
    CancelDeferred,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub(crate) enum Answer {
    /// To [`Ask::Status`].
    Status {
        state: VolumeState,
        server_pid: i32,
        recoveries: u32,
        counters: VolumeCounters,
    },
    /// The device is gone.
    Closed {
        /// The last flush failed with this error: what was written last may be lost.
        flush_error: Option<String>,
    },
    /// The device will be taken down later.
    Pending,
    /// Nothing is pending any more; says whether something was.
    Cancelled { was_pending: bool },
    /// Somebody uses the device.
    Busy,
    /// It could not be done.
    Failed { why: String },
}

/// Asks the server of a volume and waits for its answer.
pub(crate) fn ask(folder: &Folder, ask: Ask, patience: Duration) -> Result<Answer, UblkError> {
    let name = folder
        .path()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let no_answer = |why: String| UblkError::NoAnswer {
        name: name.clone(),
        why,
    };
    let (_folder, path) = folder.socket().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => UblkError::NotOpen(name.clone()),
        _ => UblkError::io(format!("open {}", folder.path().display()), error),
    })?;
    let stream = UnixStream::connect(path).map_err(|error| no_answer(error.to_string()))?;
    let exchange = || -> std::io::Result<Answer> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        write_line(&stream, &ask)?;
        read_line(&stream)
    };
    exchange().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            no_answer(format!("nothing came within {} s", patience.as_secs()))
        }
        _ => no_answer(error.to_string()),
    })
}

pub(crate) fn write_line(mut stream: &UnixStream, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)
}

pub(crate) fn read_line<T: for<'de> Deserialize<'de>>(stream: &UnixStream) -> std::io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            "the connection ended without an answer",
        ));
    }
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_one_readable_line() {
        let (here, there) = UnixStream::pair().unwrap();
        write_line(&here, &Ask::CloseDeferred).unwrap();
        let mut line = String::new();
        BufReader::new(&there).read_line(&mut line).unwrap();
        assert_eq!(line, "{\"do\":\"close-deferred\"}\n");
    }

    #[test]
    fn answers_come_back_as_they_were_sent() {
        for answer in [
            Answer::Busy,
            Answer::Closed {
                flush_error: Some("I/O error".into()),
            },
            Answer::Status {
                state: VolumeState::Live,
                server_pid: 5,
                recoveries: 2,
                counters: VolumeCounters {
                    reads: 9,
                    ..Default::default()
                },
            },
        ] {
            let (here, there) = UnixStream::pair().unwrap();
            write_line(&here, &answer).unwrap();
            assert_eq!(read_line::<Answer>(&there).unwrap(), answer);
        }
    }

    #[test]
    fn a_connection_that_ends_is_not_an_answer() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(read_line::<Answer>(&there).is_err());
        let (here, there) = UnixStream::pair().unwrap();
        (&here).write_all(b"not json\n").unwrap();
        assert!(read_line::<Ask>(&there).is_err());
    }
}
