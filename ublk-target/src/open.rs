//! Opening: everything that can refuse does so here, in the caller's process, before a device
//! exists; then the keeper is forked and the caller waits until the device answers.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use luksmith_crypto::KeyHandover;
use luksmith_data_path::{Backing, BackingAccess, BackingCache, BackingOptions};
use luksmith_volume::VolumePlan;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde::{Deserialize, Serialize};

use crate::abi::Features;
use crate::error::Doing;
use crate::keeper::{self, Board, Kept};
use crate::state::{self, Folder, Opening};
use crate::status::VolumeFacts;
use crate::{UblkError, VolumeName, doctor, udev};

/// A volume that was unlocked, and how it shall be served.
pub struct ServePlan {
    /// Name in `/dev/luksmith`.
    pub name: VolumeName,
    /// What the header says about the data.
    pub volume: VolumePlan,
    /// The volume key of each digest that [`VolumePlan::digests`] names.
    pub keys: Vec<(u8, KeyHandover)>,
    /// The device or file with the encrypted data.
    pub backing: PathBuf,
    /// The device or file with the header, if it is another one; only told, never opened.
    pub header: Option<PathBuf>,
    /// The rest.
    pub options: ServeOptions,
}

/// How a volume is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeOptions {
    /// Refuse writes.
    pub read_only: bool,
    /// Pass discards on. Tells an observer of the backing which sectors are unused.
    pub allow_discards: bool,
    /// Queues, each with a thread, an io_uring and locked buffers; none: one per processor, at
    /// most [`ServeOptions::DEFAULT_MAX_QUEUES`].
    pub queues: Option<u16>,
    /// Requests in flight per queue, 1 to 4096.
    pub depth: u16,
    /// The largest request in bytes, a power of two from 4 KiB to 1 MiB.
    pub max_io_bytes: u32,
    /// Use the page cache for a backing file whose file system knows no direct I/O. Its memory use may
    /// stall a machine under memory pressure.
    pub buffered_backing: bool,
    /// The caller is an initramfs: the server goes on through the change to the real root and, at
    /// shutdown, past the end of all other processes.
    pub root_storage: bool,
}

impl ServeOptions {
    /// Queues that a machine with many processors gets by default.
    pub const DEFAULT_MAX_QUEUES: u16 = 4;

    fn queue_count(&self) -> u16 {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let default = || processors.min(usize::from(Self::DEFAULT_MAX_QUEUES)) as u16;
        self.queues.unwrap_or_else(default)
    }

    fn check(&self) -> Result<(), UblkError> {
        let misuse = |text: &str| Err(UblkError::Misuse(text.into()));
        if self.queues.is_some_and(|n| n == 0 || n > 256) {
            return misuse("the number of queues must be 1 to 256");
        }
        if self.depth == 0 || self.depth > 4096 {
            return misuse("the queue depth must be 1 to 4096");
        }
        if !self.max_io_bytes.is_power_of_two()
            || !luksmith_data_path::MAX_IO_RANGE.contains(&self.max_io_bytes)
        {
            return misuse("the largest request must be a power of two from 4 KiB to 1 MiB");
        }
        Ok(())
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_discards: false,
            queues: None,
            depth: 64,
            max_io_bytes: 128 << 10,
            buffered_backing: false,
            root_storage: false,
        }
    }
}

/// A volume that is being served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// What is known of it.
    pub facts: VolumeFacts,
    /// The path to use: `/dev/luksmith/NAME`, or the device if there could be no link.
    pub path: PathBuf,
    /// What could not be done for its safety, in words.
    pub warnings: Vec<String>,
}

/// What the server tells the caller while it starts, one JSON line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Progress {
    /// It is about to send this command to the driver.
    Step(Step),
    /// It serves.
    Ready {
        facts: Box<VolumeFacts>,
        warnings: Vec<String>,
    },
    /// It gave up.
    Failed(String),
}

/// Commands that are known to hang on some kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    Prepare,
    Add,
    Start,
}

impl Step {
    fn command(self) -> &'static str {
        match self {
            Self::Prepare => "the preparation of the server",
            Self::Add => "ADD_DEV",
            Self::Start => "START_DEV",
        }
    }
}

/// How long one command of the driver may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves a volume; returns when `/dev/ublkbN` answers requests.
///
/// The caller's process must not depend on threads of its own in the forked children: they
/// run only code of this crate and never return here.
///
/// # Errors
/// Nothing is left behind on an error: no device, no process, no claim to the name, except after
/// [`UblkError::Stuck`], where a process hangs in the kernel.
pub fn open(plan: ServePlan) -> Result<Opened, UblkError> {
    plan.options.check()?;
    let features = doctor::ready_to_serve()?;
    let meta =
        std::fs::metadata(&plan.backing).doing(|| format!("look at {}", plan.backing.display()))?;
    let opening = Opening {
        uuid: plan.volume.uuid.clone(),
        backing: plan.backing.clone(),
        backing_id: state::backing_id(&meta),
        mark: random_mark()?,
    };
    let folder = Folder::claim(&plan.name, &opening)?;
    let started = start_claimed(plan, opening, &folder, features);
    let (progress, board) = started.inspect_err(|_| folder.remove())?;
    // From here on the name is the keeper's to give back.
    wait_until_ready(progress, &board, PATIENCE).inspect_err(|error| {
        if !matches!(error, UblkError::Stuck { .. }) {
            let end = std::time::Instant::now() + PATIENCE;
            while folder.exists() && std::time::Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    })
}

/// Starts the keeper; returns where the server reports.
fn start_claimed(
    plan: ServePlan,
    opening: Opening,
    folder: &Folder,
    features: Features,
) -> Result<(OwnedFd, Board), UblkError> {
    let access = match plan.options.read_only {
        true => BackingAccess::ReadOnly,
        false => BackingAccess::ReadWrite,
    };
    let cache = match plan.options.buffered_backing {
        true => BackingCache::Buffered,
        false => BackingCache::Direct,
    };
    let backing = Backing::open(&plan.backing, BackingOptions { access, cache })?;
    let listener = {
        let (_folder, path) = folder.socket().doing(|| "open the control socket".into())?;
        UnixListener::bind(path).doing(|| "make the control socket".into())?
    };
    let (progress, report) = nix::unistd::pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe".into())?;
    let board = Board::new().doing(|| "share memory with the keeper".into())?;
    let kept = Kept {
        name: plan.name,
        volume: plan.volume,
        keys: plan.keys,
        header: plan.header,
        queues: plan.options.queue_count(),
        options: plan.options,
        opening,
        folder: folder.clone(),
        features,
        backing,
        listener,
        board,
        opened_at: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| t.as_secs()),
    };
    Ok((progress, keeper::start(kept, report)?))
}

/// Reads what the server reports until it serves or fails, or says nothing for as long as `patience`.
fn wait_until_ready(
    progress: OwnedFd,
    board: &Board,
    patience: Duration,
) -> Result<Opened, UblkError> {
    let mut step = Step::Prepare;
    let mut lines = BufReader::new(File::from(progress));
    loop {
        if lines.buffer().is_empty() && !readable(lines.get_ref().as_fd(), patience)? {
            return Err(UblkError::Stuck {
                command: step.command(),
                seconds: patience.as_secs(),
                pid: board.server_pid(),
                known_bad: doctor::KNOWN_BAD,
            });
        }
        let mut line = String::new();
        let n = lines
            .read_line(&mut line)
            .doing(|| "hear from the server".into())?;
        if n == 0 {
            return Err(UblkError::Server(format!(
                "the server process died during {}",
                step.command()
            )));
        }
        match serde_json::from_str(&line).doing(|| "understand the server".into())? {
            Progress::Step(next) => step = next,
            Progress::Failed(why) => return Err(UblkError::Server(why)),
            Progress::Ready { facts, warnings } => {
                let facts = *facts;
                let path = udev::ensure_link(&facts);
                return Ok(Opened {
                    facts,
                    path,
                    warnings,
                });
            }
        }
    }
}

fn readable(fd: std::os::fd::BorrowedFd<'_>, patience: Duration) -> Result<bool, UblkError> {
    let end = std::time::Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(n) => return Ok(n > 0),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(UblkError::io("wait for the server", errno)),
        }
    }
}

/// A number that no other device carries.
fn random_mark() -> Result<u64, UblkError> {
    let mut bytes = [0; 8];
    luksmith_crypto::random::fill(&mut bytes)
        .map_err(|error| UblkError::Server(error.to_string()))?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_sizes_are_refused_before_anything_happens() {
        let good = ServeOptions::default();
        assert!(good.check().is_ok());
        for bad in [
            ServeOptions {
                queues: Some(0),
                ..good
            },
            ServeOptions { depth: 0, ..good },
            ServeOptions {
                depth: 4097,
                ..good
            },
            ServeOptions {
                max_io_bytes: 5000,
                ..good
            },
            ServeOptions {
                max_io_bytes: 2 << 20,
                ..good
            },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_server_that_dies_silently_is_an_error_that_names_the_step() {
        let (progress, report) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        let mut report = File::from(report);
        use std::io::Write;
        writeln!(
            report,
            "{}",
            serde_json::to_string(&Progress::Step(Step::Add)).unwrap()
        )
        .unwrap();
        drop(report);
        let error = wait_until_ready(progress, &Board::new().unwrap(), PATIENCE).unwrap_err();
        assert!(error.to_string().contains("ADD_DEV"), "{error}");
    }

    /// Some kernels never return from ADD_DEV: the server hangs, and whoever opens the volume must
    /// not hang with it.
    #[test]
    fn a_server_that_hangs_in_a_command_is_not_waited_for_without_end() {
        use std::io::Write;
        for (steps, command) in [
            (&[][..], "the preparation"),
            (&[Step::Add], "ADD_DEV"),
            (&[Step::Add, Step::Prepare, Step::Start], "START_DEV"),
        ] {
            let (progress, report) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
            let mut report = File::from(report);
            for step in steps {
                let line = serde_json::to_string(&Progress::Step(*step)).unwrap();
                writeln!(report, "{line}").unwrap();
            }
            let board = Board::new().unwrap();
            let patience = Duration::from_millis(50);
            let error = wait_until_ready(progress, &board, patience).unwrap_err();
            assert!(matches!(error, UblkError::Stuck { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains(command), "{said}");
            // the pipe is open all the time: it is no death that was noticed
            drop(report);
        }
    }
}
