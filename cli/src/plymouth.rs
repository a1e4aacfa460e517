//! Asks by the splash screen of an initramfs without systemd, which hides the console and takes what is typed.
//! With systemd, Plymouth is one of its agents.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use luksmith_crypto::SecretBytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use crate::hint::Failure;
use crate::prompt::{TYPED_MAX, time_left};

/// Whether there is a splash screen, shown or about to be.
pub(crate) fn is_there() -> bool {
    let asked = plymouth(&["--ping"]).stdout(Stdio::null()).status();
    asked.is_ok_and(|ended| ended.success())
}

/// Says something below the splash.
pub(crate) fn say(text: &str) {
    let text = format!("--text={text}");
    // It stands on the console, too.
    let _ = plymouth(&["display-message", &text])
        .stdout(Stdio::null())
        .status();
}

/// Asks; `timeout` zero or none waits for ever. `None`: the splash screen has gone without an answer.
pub(crate) fn ask(
    question: &str,
    timeout: Option<Duration>,
) -> Result<Option<SecretBytes>, Failure> {
    let failed =
        |error: &io::Error| Failure::usage(format!("cannot ask on the splash screen: {error}"));
    let end = timeout
        .filter(|time| !time.is_zero())
        .map(|time| Instant::now() + time);
    let prompt = format!("--prompt={question}");
    let mut child = plymouth(&["ask-for-password", &prompt])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    let answer = answer(&mut child, end);
    if !matches!(answer, Ok(Some(_))) {
        let _ = child.kill();
    }
    let ended = child.wait().map_err(|error| failed(&error))?;
    let Some(answer) = answer.map_err(|error| failed(&error))? else {
        return Err(Failure::usage(
            "no passphrase was given: the time for it is over",
        ));
    };
    if answer.len() > TYPED_MAX {
        return Err(Failure::usage(format!(
            "the passphrase is longer than the {TYPED_MAX} bytes that can be typed"
        )));
    }
    if ended.success() {
        return Ok(Some(answer));
    }
    if is_there() {
        return Err(Failure::usage("no passphrase was given: it was cancelled"));
    }
    Ok(None)
}

fn plymouth(args: &[&str]) -> Command {
    let mut command = Command::new("plymouth");
    command
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// All that it prints, up to a byte too many; `None` when the time is over.
fn answer(child: &mut Child, end: Option<Instant>) -> io::Result<Option<SecretBytes>> {
    let mut out = child.stdout.take().ok_or(Errno::EBADF)?;
    let mut answer = SecretBytes::zeroed(TYPED_MAX + 1).map_err(io::Error::other)?;
    let mut filled = 0;
    loop {
        let Some(limit) = time_left(end) else {
            return Ok(None);
        };
        match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let room = answer.expose_mut().get_mut(filled..).unwrap_or_default();
        match out.read(room)? {
            0 => break,
            some => filled += some,
        }
    }
    answer.truncate(filled);
    Ok(Some(answer))
}
