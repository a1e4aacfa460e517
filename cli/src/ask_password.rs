//! Asks whoever answers for the system: the console, Plymouth, an agent of a desktop.
//!
//! The protocol is systemd's (<https://systemd.io/PASSWORD_AGENTS>): a file `ask.*` says what is
//! wanted, a datagram to the socket that it names is the answer. Answers count only from root.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use luksmith_crypto::SecretBytes;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials,
    bind, recvmsg, setsockopt, socket, sockopt,
};
use nix::time::{ClockId, clock_gettime};

use crate::hint::Failure;
use crate::prompt::{TYPED_MAX, time_left};

/// Where agents look for questions.
const FOLDER: &str = "/run/systemd/ask-password";

/// Whether there is a system that has agents.
pub(crate) fn has_agents() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Asks; `timeout` zero or none waits for ever.
pub(crate) fn ask(question: &str, timeout: Option<Duration>) -> Result<SecretBytes, Failure> {
    let end = timeout
        .filter(|time| !time.is_zero())
        .map(|time| Instant::now() + time);
    let asked =
        Question::put(Path::new(FOLDER), question, timeout).map_err(|error| failed(&error))?;
    loop {
        if !asked.answered(end).map_err(|error| failed(&error))? {
            return Err(Failure::usage(
                "no passphrase was given: the time for it is over",
            ));
        }
        match asked.answer().map_err(|error| failed(&error))? {
            Answer::Passphrase(bytes) => return Ok(bytes),
            Answer::Cancelled => {
                return Err(Failure::usage("no passphrase was given: it was cancelled"));
            }
            Answer::NotFromRoot => {}
        }
    }
}

fn failed(error: &io::Error) -> Failure {
    Failure::usage(format!("cannot ask for a passphrase by {FOLDER}: {error}"))
}

/// A question that stands, until it is dropped.
struct Question {
    socket: OwnedFd,
    socket_path: PathBuf,
    ask_path: PathBuf,
}

enum Answer {
    Passphrase(SecretBytes),
    Cancelled,
    NotFromRoot,
}

impl Question {
    fn put(folder: &Path, question: &str, timeout: Option<Duration>) -> io::Result<Self> {
        match DirBuilder::new().recursive(true).mode(0o755).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let pid = std::process::id();
        let unique = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos();
        let name = format!("luksmith-{pid}-{unique:x}");
        let socket_path = folder.join(format!("sck.{name}"));
        let ask_path = folder.join(format!("ask.{name}"));
        let socket = socket(
            AddressFamily::Unix,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        bind(socket.as_raw_fd(), &UnixAddr::new(&socket_path)?)?;
        let asked = Self {
            socket,
            socket_path,
            ask_path,
        };
        setsockopt(&asked.socket, sockopt::PassCred, &true)?;
        let text = format!(
            "[Ask]\nPID={pid}\nSocket={}\nAcceptCached=0\nEcho=0\nNotAfter={}\nMessage={}\n\
             Icon=drive-harddisk\nId=luksmith:{}\n",
            asked.socket_path.display(),
            not_after(timeout)?,
            one_line(question),
            one_line(question),
        );
        // An agent must never see half of it.
        let unfinished = folder.join(format!("tmp.{name}"));
        let mut file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&unfinished, &asked.ask_path)?;
        Ok(asked)
    }

    /// Waits for an answer; `false`: it is too late.
    fn answered(&self, end: Option<Instant>) -> io::Result<bool> {
        loop {
            let Some(limit) = time_left(end) else {
                return Ok(false);
            };
            match poll(
                &mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)],
                limit,
            ) {
                Ok(1..) => return Ok(true),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn answer(&self) -> io::Result<Answer> {
        // A mark, the passphrase, and one byte more that tells one that is too long.
        let mut bytes = SecretBytes::zeroed(TYPED_MAX + 2).map_err(io::Error::other)?;
        let mut control = cmsg_space!(UnixCredentials);
        let (len, from_root) = {
            let mut parts = [IoSliceMut::new(bytes.expose_mut())];
            let got = recvmsg::<UnixAddr>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::empty(),
            )?;
            let from_root = got.cmsgs()?.any(|message| {
                matches!(message, ControlMessageOwned::ScmCredentials(sender) if sender.uid() == 0)
            });
            (got.bytes, from_root)
        };
        bytes.truncate(len);
        Ok(match bytes.expose() {
            _ if !from_root => Answer::NotFromRoot,
            [b'+', rest @ ..] => {
                // Cached passphrases would follow after a zero byte; none were asked for.
                let len = rest
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(rest.len());
                let answer = SecretBytes::init_with(len, |out| {
                    out.copy_from_slice(&rest[..len]);
                    Ok::<(), luksmith_crypto::CryptoError>(())
                });
                Answer::Passphrase(answer.map_err(io::Error::other)?)
            }
            [b'-', ..] => Answer::Cancelled,
            _ => Answer::NotFromRoot,
        })
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.ask_path);
        let _ = fs::remove_file(&self.socket_path);
    }
}

/// Microseconds of the monotonic clock; 0 is never.
fn not_after(timeout: Option<Duration>) -> io::Result<u128> {
    let Some(timeout) = timeout.filter(|time| !time.is_zero()) else {
        return Ok(0);
    };
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok((now + timeout).as_micros())
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// As an agent does it: reads the question, answers to its socket.
    fn answer(folder: &Path, datagram: &[u8]) -> (String, Answer) {
        let asked = Question::put(folder, "Passphrase\nfor data", None).unwrap();
        let text = fs::read_to_string(&asked.ask_path).unwrap();
        let socket = text
            .lines()
            .find_map(|line| line.strip_prefix("Socket="))
            .unwrap();
        let agent = UnixDatagram::unbound().unwrap();
        agent.send_to(datagram, socket).unwrap();
        assert!(asked.answered(None).unwrap());
        (text.clone(), asked.answer().unwrap())
    }

    #[test]
    fn an_agent_finds_the_question_and_its_answer_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let (text, given) = answer(folder.path(), b"+secret\0older");
        assert!(text.contains("\nMessage=Passphrase for data\n"), "{text}");
        match given {
            Answer::Passphrase(bytes) => assert_eq!(bytes.expose(), b"secret"),
            // Whoever is not root cannot play an agent.
            Answer::NotFromRoot => assert!(!nix::unistd::geteuid().is_root()),
            Answer::Cancelled => panic!("cancelled"),
        }
        let (_, none) = answer(folder.path(), b"-");
        assert!(!matches!(none, Answer::Passphrase(_)));
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn nobody_waits_longer_than_was_said() {
        let folder = tempfile::tempdir().unwrap();
        let soon = Some(Duration::from_millis(1));
        let asked = Question::put(folder.path(), "Passphrase", soon).unwrap();
        let text = fs::read_to_string(&asked.ask_path).unwrap();
        assert!(!text.contains("NotAfter=0\n"), "{text}");
        assert!(!asked.answered(Some(Instant::now())).unwrap());
    }
}
