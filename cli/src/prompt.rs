//! Asks a person at the terminal, without echo where it is a secret.
//!
//! Signals are held back while the echo is off and taken from a signalfd instead, so that the
//! terminal is always put right before the process ends or stops.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use luksmith_crypto::SecretBytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroize;

use crate::ask_password;
use crate::hint::Failure;
use crate::output;
use crate::plymouth;

/// Longest passphrase that can be typed, in bytes; cryptsetup's limit.
pub(crate) const TYPED_MAX: usize = 512;

/// Whether there is a person to ask: standard input is a terminal.
pub(crate) fn person_there() -> bool {
    io::stdin().is_terminal()
}

/// Who may be asked for a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asker {
    /// Whoever sits at the terminal.
    Terminal,
    /// Or, where there is none or a splash screen hides it, whoever answers for the system.
    TerminalOrAgents,
    /// Nobody.
    Nobody,
}

impl Asker {
    /// Whether somebody could answer.
    pub(crate) fn is_there(self) -> bool {
        match self {
            Self::Terminal => person_there(),
            Self::TerminalOrAgents => person_there() || ask_password::has_agents(),
            Self::Nobody => false,
        }
    }

    /// Asks; `question` without a colon at its end.
    pub(crate) fn secret(
        self,
        question: &str,
        timeout: Option<Duration>,
    ) -> Result<SecretBytes, Failure> {
        if self == Self::TerminalOrAgents && !person_there() {
            return ask_password::ask(question, timeout);
        }
        if self.is_hidden()
            && let Some(answer) = plymouth::ask(question, timeout)?
        {
            return Ok(answer);
        }
        passphrase(&format!("{question}: "), timeout)
    }

    /// Says something, also where a splash screen hides the terminal.
    pub(crate) fn tell(self, what: &str) {
        output::note(what);
        if self.is_hidden() {
            plymouth::say(what);
        }
    }

    fn is_hidden(self) -> bool {
        self == Self::TerminalOrAgents && !ask_password::has_agents() && plymouth::is_there()
    }
}

/// Asks a question that only `YES`, in capital letters, answers with yes.
pub(crate) fn confirm(lines: &[String]) -> Result<bool, Failure> {
    let mut terminal = Terminal::open()?;
    for line in lines {
        terminal.say(&format!("{line}\n"))?;
    }
    terminal.say("Type YES in capital letters to go on: ")?;
    let mut answer = [0u8; 64];
    let got = terminal.read_line(&mut answer, None)?;
    Ok(matches!(got, Line::Read(n) if answer.get(..n) == Some(b"YES".as_slice())))
}

/// Asks a question of less weight: `yes` or `y` is yes, anything else no.
pub(crate) fn yes(question: &str) -> Result<bool, Failure> {
    let mut terminal = Terminal::open()?;
    terminal.say(&format!("{question} (yes/no) "))?;
    let mut answer = [0u8; 64];
    let got = terminal.read_line(&mut answer, None)?;
    let Line::Read(n) = got else {
        return Ok(false);
    };
    let answer = answer.get(..n).unwrap_or_default().trim_ascii();
    Ok([&b"yes"[..], b"y"].contains(&answer.to_ascii_lowercase().as_slice()))
}

/// Asks for a passphrase; `timeout` zero or none waits for ever.
pub(crate) fn passphrase(
    question: &str,
    timeout: Option<Duration>,
) -> Result<SecretBytes, Failure> {
    let mut terminal = Terminal::open()?;
    let mut line = SecretBytes::zeroed(TYPED_MAX + 2).map_err(crate::errors::crypto)?;
    let got = {
        let mut quiet = Quiet::new(&mut terminal, question)?;
        quiet.read(line.expose_mut(), timeout.filter(|t| !t.is_zero()))
    };
    terminal.say("\n")?;
    match got? {
        Line::Read(len) => {
            line.truncate(len);
            Ok(line)
        }
        Line::TooLong => Err(Failure::usage(format!(
            "the passphrase is longer than the {TYPED_MAX} bytes that can be typed"
        ))
        .hint("put it into a file and give that with --key-file")),
        Line::End => Err(Failure::usage("no passphrase was typed: the input ended")),
        Line::TimedOut => Err(Failure::usage(
            "no passphrase was typed: the time given by --timeout is over",
        )),
    }
}

/// What came of reading a line.
enum Line {
    /// So many bytes, without the newline.
    Read(usize),
    /// The line does not fit.
    TooLong,
    /// End of input.
    End,
    /// Nobody typed in time.
    TimedOut,
}

/// The terminal of the process: `/dev/tty`, or standard input and error where that is missing.
struct Terminal {
    tty: Option<File>,
}

impl Terminal {
    fn open() -> Result<Self, Failure> {
        Ok(Self {
            tty: OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/tty")
                .ok(),
        })
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        let done = match &mut self.tty {
            Some(tty) => tty.write_all(text.as_bytes()),
            None => io::stderr().write_all(text.as_bytes()),
        };
        done.map_err(|e| terminal_failed(&e))
    }

    fn input(&self) -> BorrowedFd<'_> {
        // Standard input lives as long as the process.
        match &self.tty {
            Some(tty) => tty.as_fd(),
            None => nix_stdin(),
        }
    }

    /// Reads one line into `into`, a byte of which is kept for the newline.
    fn read_line(&mut self, into: &mut [u8], wake: Option<&SignalFd>) -> Result<Line, Failure> {
        self.read_line_until(into, wake, None, &mut |_| Ok(()))
    }

    fn read_line_until(
        &mut self,
        into: &mut [u8],
        wake: Option<&SignalFd>,
        end: Option<Instant>,
        signalled: &mut dyn FnMut(Signal) -> Result<(), Failure>,
    ) -> Result<Line, Failure> {
        let mut filled = 0;
        let mut too_long = false;
        loop {
            if let Some(ready) = wait(self.input(), wake, end)? {
                match ready {
                    Ready::Signal(signal) => {
                        signalled(signal)?;
                        continue;
                    }
                    Ready::Input => {}
                }
            } else {
                into.zeroize();
                return Ok(Line::TimedOut);
            }
            let Some(room) = into.get_mut(filled..).filter(|room| !room.is_empty()) else {
                return Ok(Line::TooLong);
            };
            let got = match &mut self.tty {
                Some(tty) => tty.read(room),
                None => nix::unistd::read(io::stdin().as_fd(), room).map_err(io::Error::from),
            };
            let got = match got {
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(terminal_failed(&e)),
            };
            if got == 0 {
                return Ok(if filled == 0 {
                    Line::End
                } else {
                    Line::Read(filled)
                });
            }
            let read = into.get(filled..filled + got).unwrap_or_default();
            if let Some(newline) = read.iter().position(|b| *b == b'\n') {
                let len = filled + newline;
                return Ok(if too_long {
                    Line::TooLong
                } else {
                    Line::Read(len)
                });
            }
            filled += got;
            if filled >= into.len() {
                // The rest of the line must not be taken for the next answer.
                too_long = true;
                into.zeroize();
                filled = 0;
            }
        }
    }
}

fn nix_stdin() -> BorrowedFd<'static> {
    static STDIN: std::sync::OnceLock<io::Stdin> = std::sync::OnceLock::new();
    STDIN.get_or_init(io::stdin).as_fd()
}

fn terminal_failed(e: &io::Error) -> Failure {
    Failure::usage(format!("cannot talk to the terminal: {e}"))
}

enum Ready {
    Input,
    Signal(Signal),
}

/// How long one poll may wait; `None`: the time is over.
pub(crate) fn time_left(end: Option<Instant>) -> Option<PollTimeout> {
    let Some(end) = end else {
        return Some(PollTimeout::NONE);
    };
    let left = end.saturating_duration_since(Instant::now());
    let most = left.min(Duration::from_secs(3600));
    (!left.is_zero()).then(|| PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX))
}

/// Waits for input, a signal, or the end of the time (`None`).
fn wait(
    input: BorrowedFd<'_>,
    wake: Option<&SignalFd>,
    end: Option<Instant>,
) -> Result<Option<Ready>, Failure> {
    loop {
        let Some(limit) = time_left(end) else {
            return Ok(None);
        };
        let mut fds = vec![PollFd::new(input, PollFlags::POLLIN)];
        if let Some(wake) = wake {
            fds.push(PollFd::new(wake.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, limit) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(terminal_failed(&e.into())),
        }
        let any = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        if any(1)
            && let Some(wake) = wake
            && let Ok(Some(info)) = wake.read_signal()
            && let Ok(signal) = Signal::try_from(info.ssi_signo as i32)
        {
            return Ok(Some(Ready::Signal(signal)));
        }
        if any(0) {
            return Ok(Some(Ready::Input));
        }
    }
}

/// A terminal with the echo off and the signals held back; both are put right on drop.
struct Quiet<'a> {
    terminal: &'a mut Terminal,
    question: &'a str,
    before: Termios,
    mask: SigSet,
    held: SigSet,
    signals: SignalFd,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a mut Terminal, question: &'a str) -> Result<Self, Failure> {
        let failed = |e: nix::errno::Errno| terminal_failed(&e.into());
        let mut held = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGALRM,
            Signal::SIGTSTP,
        ] {
            held.add(signal);
        }
        let before = tcgetattr(terminal.input()).map_err(failed)?;
        let mask = SigSet::thread_get_mask().map_err(failed)?;
        let signals = SignalFd::with_flags(&held, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(failed)?;
        held.thread_block().map_err(failed)?;
        let quiet = Self {
            terminal,
            question,
            before,
            mask,
            held,
            signals,
        };
        quiet.echo_off()?;
        quiet.terminal.say(question)?;
        Ok(quiet)
    }

    fn echo_off(&self) -> Result<(), Failure> {
        let mut off = self.before.clone();
        off.local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ECHONL);
        off.local_flags
            .insert(LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(self.terminal.input(), SetArg::TCSAFLUSH, &off)
            .map_err(|e| terminal_failed(&e.into()))
    }

    fn read(&mut self, into: &mut [u8], timeout: Option<Duration>) -> Result<Line, Failure> {
        let end = timeout.map(|t| Instant::now() + t);
        let Self {
            terminal,
            question,
            before,
            mask,
            held,
            signals,
        } = self;
        let tty = terminal
            .input()
            .try_clone_to_owned()
            .map_err(|e| terminal_failed(&e))?;
        let mut off = before.clone();
        off.local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ECHONL);
        off.local_flags
            .insert(LocalFlags::ICANON | LocalFlags::ISIG);
        let mut signalled = |signal: Signal| -> Result<(), Failure> {
            let failed = |e: nix::errno::Errno| terminal_failed(&e.into());
            tcsetattr(&tty, SetArg::TCSAFLUSH, before).map_err(failed)?;
            mask.thread_set_mask().map_err(failed)?;
            // Ends the process, or stops it until it is continued.
            raise(signal).map_err(failed)?;
            held.thread_block().map_err(failed)?;
            tcsetattr(&tty, SetArg::TCSAFLUSH, &off).map_err(failed)?;
            let mut again = File::from(tty.try_clone().map_err(|e| terminal_failed(&e))?);
            again
                .write_all(question.as_bytes())
                .map_err(|e| terminal_failed(&e))
        };
        terminal.read_line_until(into, Some(signals), end, &mut signalled)
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // Nothing better can be done about a terminal that is gone.
        let _ = tcsetattr(self.terminal.input(), SetArg::TCSAFLUSH, &self.before);
        let _ = self.mask.thread_set_mask();
    }
}
