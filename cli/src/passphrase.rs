//! Where passphrases come from, by cryptsetup's rules.
//!
//! * `--key-file F`: the file, whole and binary, a newline counts; at most 8192 KiB.
//! * `--key-file -`, with input from a pipe: standard input, whole and binary, likewise.
//! * no key file, input from a pipe: one line; the newline ends it and is not part of it.
//! * no key file, or `-`, at a terminal: typed without echo, at most 512 bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use luksmith_crypto::{Passphrase, SecretBytes};

use crate::args::Args;
use crate::errors;
use crate::exit::Exit;
use crate::hint::{Failure, shell};
use crate::prompt::Asker;

/// Longest key file, in bytes; cryptsetup's limit.
pub(crate) const FILE_MAX: usize = 8192 * 1024;

/// Where one passphrase is read from.
pub(crate) struct Source {
    file: Option<PathBuf>,
    offset: u64,
    size: Option<u64>,
    timeout: Option<Duration>,
    verify: bool,
    tries: u32,
    asker: Asker,
}

impl Source {
    /// The passphrase that exists: `--key-file`, or the file given as an argument.
    pub(crate) fn existing(args: &Args, positional: Option<&'static str>) -> Self {
        let file = args.path("key-file").or_else(|| {
            positional
                .and_then(|p| args.positional(p))
                .map(PathBuf::from)
        });
        Self {
            file,
            offset: args.number("keyfile-offset").unwrap_or(0),
            size: args.number("keyfile-size").filter(|n| *n > 0),
            timeout: timeout(args),
            verify: args.flag("verify-passphrase"),
            tries: args.small("tries").unwrap_or(3),
            asker: Asker::Terminal,
        }
    }

    /// The passphrase of a new slot: `--new-keyfile`, or the file given as an argument.
    pub(crate) fn new_key(args: &Args, positional: Option<&'static str>) -> Self {
        let file = args.path("new-keyfile").or_else(|| {
            positional
                .and_then(|p| args.positional(p))
                .map(PathBuf::from)
        });
        Self {
            file,
            offset: args.number("new-keyfile-offset").unwrap_or(0),
            size: args.number("new-keyfile-size").filter(|n| *n > 0),
            timeout: timeout(args),
            verify: true,
            tries: 1,
            asker: Asker::Terminal,
        }
    }

    /// A key file that a table names.
    pub(crate) fn key_file(path: PathBuf, offset: u64, size: Option<u64>) -> Self {
        Self {
            file: Some(path),
            offset,
            size,
            ..Self::person(None)
        }
    }

    /// A whole file that holds a secret which nobody typed.
    pub(crate) fn bytes_of(path: &Path) -> Result<SecretBytes, Failure> {
        Self::key_file(path.to_path_buf(), 0, None).read_file(path)
    }

    /// The first line of a file, without its newline: a PIN is typed elsewhere, where no newline is part of it.
    pub(crate) fn line_of(path: &Path) -> Result<Passphrase, Failure> {
        let mut bytes = Self::bytes_of(path)?;
        let end = bytes.expose().iter().position(|byte| *byte == b'\n');
        bytes.truncate(end.unwrap_or(bytes.len()));
        Ok(Passphrase::new(bytes))
    }

    /// A person, at the terminal or through an agent, once; nobody waits longer than `timeout`.
    pub(crate) fn person(timeout: Option<Duration>) -> Self {
        Self {
            file: None,
            offset: 0,
            size: None,
            timeout,
            verify: false,
            tries: 1,
            asker: Asker::TerminalOrAgents,
        }
    }

    /// A typed passphrase is asked for twice, unless `--batch-mode` without
    /// `--verify-passphrase` says otherwise.
    pub(crate) fn verified(mut self, args: &Args) -> Self {
        self.verify = args.flag("verify-passphrase") || !args.flag("batch-mode");
        self
    }

    fn is_stdin(&self) -> bool {
        self.file.as_deref().is_none_or(|f| f == Path::new("-"))
    }

    /// Whether somebody types it.
    pub(crate) fn typed(&self) -> bool {
        self.is_stdin() && self.asker.is_there()
    }

    /// Whether it would come from standard input though nobody sits there.
    pub(crate) fn piped(&self) -> bool {
        self.is_stdin() && !self.asker.is_there()
    }

    /// How often a wrong passphrase may be tried again: only a person can try again.
    pub(crate) fn tries(&self) -> u32 {
        if self.typed() { self.tries } else { 1 }
    }

    /// Reads it, or nothing where standard input is no terminal and empty.
    pub(crate) fn read_if_any(&self, question: &str) -> Result<Option<Passphrase>, Failure> {
        if self.piped() && self.file.is_none() {
            let bytes = self.read_stdin_line()?;
            return Ok(bytes.map(Passphrase::new));
        }
        self.read(question).map(Some)
    }

    /// Reads it. `question` is what a person is asked.
    pub(crate) fn read(&self, question: &str) -> Result<Passphrase, Failure> {
        let bytes = match &self.file {
            Some(path) if path != Path::new("-") => self.read_file(path)?,
            _ if self.typed() => return self.ask(question),
            Some(_) => self.read_stdin_whole()?,
            None => self.read_stdin_line()?.ok_or_else(|| {
                Failure::usage("no passphrase was given: standard input is empty")
                    .hint("pipe it in, or name a file with --key-file")
            })?,
        };
        Ok(Passphrase::new(bytes))
    }

    fn ask(&self, question: &str) -> Result<Passphrase, Failure> {
        if self.offset > 0 {
            return Err(Failure::usage(
                "an offset into the key file means nothing for a typed passphrase",
            ));
        }
        let first = self.asker.secret(question, self.timeout)?;
        if self.verify {
            let second = self.asker.secret("The same again", self.timeout)?;
            if !first.ct_eq(&second) {
                return Err(Failure::usage("the two passphrases differ"));
            }
        }
        Ok(Passphrase::new(first))
    }

    fn read_file(&self, path: &Path) -> Result<SecretBytes, Failure> {
        let name = shell(path);
        let failed = |e: &io::Error| {
            let exit = match e.kind() {
                io::ErrorKind::OutOfMemory => Exit::OutOfMemory,
                _ => Exit::Failure,
            };
            Failure::new(exit, format!("cannot read the key file {name}: {e}"))
        };
        let mut file = File::open(path).map_err(|e| failed(&e))?;
        let kind = file.metadata().map_err(|e| failed(&e))?.file_type();
        if kind.is_dir() {
            return Err(Failure::usage(format!(
                "the key file {name} is a directory"
            )));
        }
        if self.offset > 0 {
            if kind.is_file() || kind.is_block_device() {
                file.seek(SeekFrom::Start(self.offset))
                    .map_err(|e| failed(&e))?;
            } else {
                skip(&mut file, self.offset).map_err(|e| failed(&e))?;
            }
        }
        let key = self.collect(&mut file, &format!("the key file {name}"))?;
        // An empty file is the empty passphrase, which image builders put into a slot for the
        // first boot. What only turns out to be empty is a mistake, and so it is for cryptsetup.
        if key.is_empty() && (self.offset > 0 || !kind.is_file()) {
            return Err(nothing_to_read(&format!("the key file {name}")));
        }
        Ok(key)
    }

    fn read_stdin_whole(&self) -> Result<SecretBytes, Failure> {
        let mut input = Unbuffered;
        skip(&mut input, self.offset)
            .map_err(|e| Failure::usage(format!("cannot read the key from standard input: {e}")))?;
        let key = self.collect(&mut input, "standard input")?;
        if key.is_empty() {
            Err(nothing_to_read("standard input"))
        } else {
            Ok(key)
        }
    }

    /// Reads to the end, or exactly as much as was asked for.
    fn collect(&self, from: &mut dyn Read, name: &str) -> Result<SecretBytes, Failure> {
        let failed = |e: &io::Error| Failure::usage(format!("cannot read {name}: {e}"));
        if self.size.is_some_and(|size| size > FILE_MAX as u64) {
            return Err(Failure::usage(format!(
                "a key file holds at most {} KiB, and more was asked for",
                FILE_MAX / 1024
            )));
        }
        let want = self.size.map(|size| size as usize);
        // One byte more than allowed tells a file that is too long from one that just fits.
        let mut room = want.unwrap_or(64 * 1024);
        let mut bytes = SecretBytes::zeroed(room).map_err(errors::crypto)?;
        let mut filled = 0;
        loop {
            if filled == room {
                if want.is_some() {
                    break;
                }
                if room > FILE_MAX {
                    return Err(Failure::usage(format!(
                        "{name} holds more than {} KiB, the most that a key may have",
                        FILE_MAX / 1024
                    ))
                    .hint(
                        "give the part that is the key with --keyfile-offset and --keyfile-size",
                    ));
                }
                room = (room * 8).min(FILE_MAX + 1);
                let mut larger = SecretBytes::zeroed(room).map_err(errors::crypto)?;
                if let Some(head) = larger.expose_mut().get_mut(..filled) {
                    head.copy_from_slice(bytes.expose().get(..filled).unwrap_or_default());
                }
                bytes = larger;
            }
            let free = bytes.expose_mut().get_mut(filled..).unwrap_or_default();
            match from.read(free) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(&e)),
            }
        }
        if want.is_some_and(|want| filled < want) {
            return Err(Failure::usage(format!(
                "{name} is too short: {filled} bytes where {} were asked for",
                want.unwrap_or(0)
            )));
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Reads one line byte by byte, so that the next passphrase can follow in the next line.
    /// `None` at the end of the input.
    fn read_stdin_line(&self) -> Result<Option<SecretBytes>, Failure> {
        let mut input = Unbuffered;
        let failed = |e: &io::Error| {
            Failure::usage(format!(
                "cannot read the passphrase from standard input: {e}"
            ))
        };
        skip(&mut input, self.offset).map_err(|e| failed(&e))?;
        let most = self
            .size
            .map_or(FILE_MAX, |n| n.min(FILE_MAX as u64) as usize);
        let mut room = 4096.min(most);
        let mut bytes = SecretBytes::zeroed(room).map_err(errors::crypto)?;
        let mut filled = 0;
        let mut ended = false;
        while filled < most {
            if filled == room {
                room = (room * 8).min(most);
                let mut larger = SecretBytes::zeroed(room).map_err(errors::crypto)?;
                if let Some(head) = larger.expose_mut().get_mut(..filled) {
                    head.copy_from_slice(bytes.expose().get(..filled).unwrap_or_default());
                }
                bytes = larger;
            }
            let one = bytes
                .expose_mut()
                .get_mut(filled..filled + 1)
                .unwrap_or_default();
            match input.read(one) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(_) if one == b"\n" => break,
                Ok(_) => filled += 1,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(&e)),
            }
        }
        if filled == 0 && ended {
            return Ok(None);
        }
        if filled == most && self.size.is_none() {
            return Err(Failure::usage(format!(
                "the passphrase on standard input is longer than {} KiB",
                FILE_MAX / 1024
            )));
        }
        bytes.truncate(filled);
        Ok(Some(bytes))
    }
}

/// The time a person has, by `--timeout`.
fn timeout(args: &Args) -> Option<Duration> {
    args.number("timeout").map(Duration::from_secs)
}

fn skip(from: &mut dyn Read, count: u64) -> io::Result<()> {
    let mut left = count;
    let mut waste = zeroize::Zeroizing::new([0u8; 4096]);
    while left > 0 {
        let step = left.min(waste.len() as u64) as usize;
        let got = from.read(waste.get_mut(..step).unwrap_or_default())?;
        if got == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it ends before the offset {count}"),
            ));
        }
        left -= got as u64;
    }
    Ok(())
}

/// Standard input without a buffer: a buffer would keep a copy of the passphrase and swallow
/// the line after it.
struct Unbuffered;

impl Read for Unbuffered {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        nix::unistd::read(io::stdin(), into).map_err(io::Error::from)
    }
}

/// Reads a volume key from a file: exactly `bytes` of them, binary.
pub(crate) fn volume_key_file(path: &Path, bytes: usize) -> Result<SecretBytes, Failure> {
    let source = Source::key_file(path.to_path_buf(), 0, Some(bytes as u64));
    source.read_file(path).map_err(|mut f| {
        f.what = f
            .what
            .replace("key file", "volume key file")
            .into_boxed_str();
        f
    })
}

fn nothing_to_read(name: &str) -> Failure {
    Failure::usage(format!("there is nothing to read in {name}"))
}

/// Refuses a new passphrase that is empty, unless `--force-password` is given.
pub(crate) fn not_empty(args: &Args, passphrase: &Passphrase) -> Result<(), Failure> {
    let force = args.flag("force-password");
    if passphrase.expose().is_empty() && !force {
        return Err(
            Failure::usage("the new passphrase is empty, which protects nothing")
                .hint("--force-password takes an empty passphrase all the same"),
        );
    }
    Ok(())
}
