//! The keeper: a process that does nothing but hold the key and replace a dead server.
//!
//! ```text
//! caller ── fork ──► (leaves) ── fork ──► keeper ── fork ──► server
//!                                           └── fork again, when it died: recovery
//! ```
//!
//! A recovery needs nothing but memory: no program is executed, no file of a disk is read, nobody
//! is asked. The key lies in a sealed memory file, the backing and the control socket are open, and everything
//! else is in the keeper's own locked pages, which a fork copies. The keeper does no I/O on the volume, so a
//! volume that hangs cannot hang it.
//!
//! Its one other duty is the end: wipe the key, let go of the backing, give the name back.
// UNSAFETY: forks, and shares one page of counters between the processes.
#![expect(unsafe_code, reason = "fork and a shared page")]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use luksmith_crypto::KeyHandover;
use luksmith_data_path::Backing;
use luksmith_data_path::process::{Hardening, harden_process};
use luksmith_volume::VolumePlan;
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setsid};

use crate::abi::Features;
use crate::control_ring::ControlRing;
use crate::error::Doing;
use crate::kmsg::{Level, Log};
use crate::open::ServeOptions;
use crate::server::{self, Mode};
use crate::state::{Folder, Opening};
use crate::{UblkError, VolumeName, mounts, root_storage, udev};

/// Everything a server needs. The keeper has it in memory and each fork copies it.
pub(crate) struct Kept {
    pub(crate) name: VolumeName,
    pub(crate) volume: VolumePlan,
    pub(crate) keys: Vec<(u8, KeyHandover)>,
    pub(crate) header: Option<std::path::PathBuf>,
    pub(crate) queues: u16,
    pub(crate) options: ServeOptions,
    pub(crate) opening: Opening,
    pub(crate) folder: Folder,
    pub(crate) features: Features,
    /// Open once, in the caller: the claim to the backing holds while servers come and go.
    pub(crate) backing: Backing,
    /// Bound once: who asks while the server is replaced waits in its queue.
    pub(crate) listener: UnixListener,
    pub(crate) board: Board,
    pub(crate) opened_at: u64,
}

/// Where a volume is in its life; tells the keeper what to do about a dead server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub(crate) enum Phase {
    /// No device yet, or none that anybody saw.
    Setup = 0,
    /// The device serves; a dead server is replaced.
    Live = 1,
    /// A stop was asked of the kernel; a dead server is not replaced, its work is finished.
    Stopping = 2,
}

/// What caller, keeper and server know together: a page they share. It outlives each of them.
#[derive(Debug, Clone)]
pub(crate) struct Board(NonNull<Cells>);

#[derive(Debug)]
struct Cells {
    phase: AtomicU32,
    /// The number of the device plus one; 0: none.
    device: AtomicU32,
    server: AtomicI32,
    recoveries: AtomicU32,
    close_pending: AtomicU32,
    fetching: AtomicU32,
}

// SAFETY: the page is never unmapped, and every cell in it is atomic.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    pub(crate) fn new() -> io::Result<Self> {
        let bytes = NonZeroUsize::new(size_of::<Cells>()).ok_or(io::ErrorKind::InvalidInput)?;
        let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping that replaces nothing.
        let page = unsafe { mmap_anonymous(None, bytes, rw, MapFlags::MAP_SHARED) }?;
        Ok(Self(page.cast()))
    }

    fn cells(&self) -> &Cells {
        // SAFETY: the mapping lives as long as the process, is large enough, page-aligned, and a
        // page of zeroes is a valid value.
        unsafe { self.0.as_ref() }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.cells().phase.load(SeqCst) {
            0 => Phase::Setup,
            1 => Phase::Live,
            _ => Phase::Stopping,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.cells().phase.store(phase as u32, SeqCst);
    }

    pub(crate) fn dev_id(&self) -> Option<u32> {
        self.cells().device.load(SeqCst).checked_sub(1)
    }

    pub(crate) fn set_dev_id(&self, id: Option<u32>) {
        self.cells().device.store(id.map_or(0, |id| id + 1), SeqCst);
    }

    pub(crate) fn server_pid(&self) -> i32 {
        self.cells().server.load(SeqCst)
    }

    pub(crate) fn recoveries(&self) -> u32 {
        self.cells().recoveries.load(SeqCst)
    }

    /// Whether the queues of the last server were about to fetch when it was heard of last.
    pub(crate) fn fetching(&self) -> bool {
        self.cells().fetching.load(SeqCst) != 0
    }

    pub(crate) fn set_fetching(&self, fetching: bool) {
        self.cells().fetching.store(u32::from(fetching), SeqCst);
    }

    pub(crate) fn close_pending(&self) -> bool {
        self.cells().close_pending.load(SeqCst) != 0
    }

    /// Sets whether the volume closes when it is unused; tells what was set before. Survives
    /// the server.
    pub(crate) fn set_close_pending(&self, pending: bool) -> bool {
        self.cells().close_pending.swap(u32::from(pending), SeqCst) != 0
    }
}

/// Servers that may be started within [`WINDOW`] before the keeper gives up.
const MAX_RESTARTS: usize = 16;
const WINDOW: Duration = Duration::from_secs(60);

/// How long to wait before a server is replaced that could not take over by itself: what it
/// lacked may be there soon. Doubled each time, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// How long taking a device down may take before the keeper leaves it behind.
const TAKE_DOWN_PATIENCE: Duration = Duration::from_secs(60);

/// Forks the keeper; it reports through `report`. From here on it owns the claim to the name.
///
/// # Errors
/// When there can be no process; then nothing was started.
pub(crate) fn start(kept: Kept, report: OwnedFd) -> Result<Board, UblkError> {
    let board = kept.board.clone();
    // SAFETY: the child runs only `become_keeper`, which never returns; memory of the C library is usable
    // after a fork, other threads' locks are not taken.
    match unsafe { fork() }.doing(|| "start the keeper".into())? {
        ForkResult::Parent { child } => {
            // Not ours any more: closing the descriptors here leaves the keeper's open.
            drop((kept, report));
            loop {
                match waitpid(child, None) {
                    Err(Errno::EINTR) => {}
                    Ok(WaitStatus::Exited(_, 0)) => return Ok(board),
                    other => {
                        return Err(UblkError::Server(format!(
                            "the keeper did not start: {other:?}"
                        )));
                    }
                }
            }
        }
        ForkResult::Child => {
            let _ = setsid();
            // SAFETY: as above; this process has one thread.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => keep(kept, report),
                Ok(ForkResult::Parent { .. }) => leave_process(0),
                Err(_) => leave_process(1),
            }
        }
    }
}

/// The keeper's life.
fn keep(mut kept: Kept, report: OwnedFd) -> ! {
    let mut warnings = become_keeper(&mut kept, &report);
    // Not before: `become_keeper` closes every descriptor that it does not know.
    let log = Log::open();
    if let Err(error) = mounts::leave(kept.folder.path()) {
        warnings.push(format!("could not leave the host's mounts: {error}"));
    }
    let mut report = Some(report);
    let mut mode = Mode::Create { warnings };
    let mut restarts = VecDeque::new();
    let mut pause = FIRST_PAUSE;
    loop {
        // SAFETY: the keeper has one thread, so the child is a whole copy of it.
        let server = match unsafe { fork() } {
            Ok(ForkResult::Child) => server::run(kept, mode, report, log),
            Ok(ForkResult::Parent { child }) => child,
            Err(errno) => {
                log.say(
                    Level::Critical,
                    &kept.name,
                    format_args!("no process for a server: {errno}"),
                );
                break;
            }
        };
        report = None;
        kept.board.cells().server.store(server.as_raw(), SeqCst);
        let end = wait_for(server);
        kept.board.cells().server.store(0, SeqCst);
        if end == WaitStatus::Exited(server, 0) {
            break;
        }
        match kept.board.phase() {
            Phase::Setup => break,
            Phase::Stopping => {
                log.say(
                    Level::Warning,
                    &kept.name,
                    format_args!("server died while closing: {end:?}"),
                );
                break;
            }
            Phase::Live => {}
        }
        if !may_restart(&mut restarts, Instant::now()) {
            log.say(
                Level::Critical,
                &kept.name,
                format_args!(
                    "the server died {MAX_RESTARTS} times within {} s; the device is taken down, \
                     its users get I/O errors",
                    WINDOW.as_secs()
                ),
            );
            break;
        }
        kept.board.cells().recoveries.fetch_add(1, SeqCst);
        log.say(
            Level::Warning,
            &kept.name,
            format_args!("server died ({end:?}), starting another"),
        );
        if matches!(end, WaitStatus::Exited(..)) {
            std::thread::sleep(pause);
            pause = (2 * pause).min(LONGEST_PAUSE);
        } else {
            pause = FIRST_PAUSE;
        }
        mode = Mode::Recover;
    }
    finish(kept, &log)
}

/// Whether one more server may be started; remembers that it was.
fn may_restart(restarts: &mut VecDeque<Instant>, now: Instant) -> bool {
    while restarts
        .front()
        .is_some_and(|then| now.duration_since(*then) > WINDOW)
    {
        restarts.pop_front();
    }
    restarts.push_back(now);
    restarts.len() <= MAX_RESTARTS
}

/// Cuts what ties this process to the caller, and locks it into memory. Returns what failed.
fn become_keeper(kept: &mut Kept, report: &OwnedFd) -> Vec<String> {
    let mut warnings = Vec::new();
    let _ = nix::sys::prctl::set_name(c"luksmith-keeper");
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(null.as_fd());
        let _ = nix::unistd::dup2_stdout(null.as_fd());
        let _ = nix::unistd::dup2_stderr(null.as_fd());
    }
    let mut keep: Vec<i32> = kept
        .keys
        .iter()
        .map(|(_, key)| key.as_fd().as_raw_fd())
        .collect();
    keep.extend([
        kept.backing.as_fd().as_raw_fd(),
        kept.listener.as_raw_fd(),
        report.as_raw_fd(),
    ]);
    close_all_but(keep);
    // Out of reach for the killer of processes when memory runs out: it would kill what could free memory.
    if std::fs::write("/proc/self/oom_score_adj", "-1000").is_err() {
        warnings.push("could not exempt the server from the out-of-memory killer".into());
    }
    if kept.options.root_storage
        && let Err(error) = root_storage::mark()
    {
        warnings.push(format!(
            "could not mark the server as the root's; a shutdown will kill it too early: {error}"
        ));
    }
    let hardening = Hardening {
        mount_namespace: false,
        ..Hardening::BLOCK_DEVICE
    };
    let hardened = harden_process(hardening);
    if !hardened.is_complete() {
        warnings.push(hardened.to_string());
    }
    for (_, key) in &mut kept.keys {
        if let Err(error) = key.hold() {
            warnings.push(format!("could not lock the key: {error}"));
        }
    }
    warnings
}

/// Closes every descriptor but the standard ones and these: locks and files of the caller must not
/// live as long as the volume.
fn close_all_but(mut keep: Vec<i32>) {
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.into_iter().chain([i32::MAX]) {
        if fd > from {
            // SAFETY: descriptors of objects that belong to the caller's code, which never runs in
            // this process. Nothing here uses them.
            unsafe { libc::syscall(libc::SYS_close_range, from as u32, (fd - 1) as u32, 0_u32) };
        }
        from = from.max(fd.saturating_add(1));
    }
}

/// Waits until the server ends. Signals to the keeper are handed on: the server knows whether
/// it may stop.
fn wait_for(server: Pid) -> WaitStatus {
    let signals = SigSet::all();
    loop {
        match waitpid(server, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
            Ok(end) => return end,
            Err(_) => return WaitStatus::Exited(server, 1),
        }
        if let Ok(signal @ (Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP)) = signals.wait() {
            let _ = kill(server, signal);
        }
    }
}

/// The end: whatever is left of the device goes, then key, backing and name.
fn finish(kept: Kept, log: &Log) -> ! {
    let Kept {
        name,
        keys,
        folder,
        board,
        backing,
        listener,
        opening,
        ..
    } = kept;
    // A server that ended well has taken the number off the board.
    if let Some(id) = board.dev_id() {
        // SAFETY: one thread; the child only takes the device down. It is a process of its own
        // because a driver that hangs must not keep the key in memory.
        if let Ok(child) = unsafe { fork() } {
            match child {
                ForkResult::Child => leave_process(take_down(id, opening.mark).is_err().into()),
                ForkResult::Parent { child } => {
                    let end = Instant::now() + TAKE_DOWN_PATIENCE;
                    while waitpid(child, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
                        if Instant::now() > end {
                            log.say(
                                Level::Critical,
                                &name,
                                format_args!("the driver does not let go of ublkb{id}"),
                            );
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            }
        }
        udev::remove_link(&name, &server::block_device(id));
    }
    for (_, key) in keys {
        if let Err(error) = key.wipe() {
            log.say(
                Level::Critical,
                &name,
                format_args!("could not wipe the key: {error}"),
            );
        }
    }
    drop((backing, listener));
    folder.remove();
    log.say(Level::Notice, &name, format_args!("closed"));
    leave_process(0)
}

/// Stops and removes a device, if it is still the one that carries this mark. Whoever uses it gets errors.
pub(crate) fn take_down(id: u32, mark: u64) -> Result<(), UblkError> {
    let mut ring = ControlRing::open().doing(|| "open the ublk driver".into())?;
    match ring.info(id) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        Err(error) => return Err(UblkError::io(format!("ask for device {id}"), error)),
        // Its number was given to somebody else's device since.
        Ok(info) if info.mark() != mark => return Ok(()),
        Ok(_) => {}
    }
    ring.stop(id).doing(|| format!("stop device {id}"))?;
    ring.delete(id).doing(|| format!("delete device {id}"))
}

/// Ends this process without running what the caller's program does at its end.
pub(crate) fn leave_process(status: i32) -> ! {
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_is_shared_with_forked_processes() {
        let board = Board::new().unwrap();
        assert_eq!((board.phase(), board.dev_id()), (Phase::Setup, None));
        // SAFETY: the child touches only the shared page and leaves.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                board.set_dev_id(Some(0));
                board.enter(Phase::Live);
                leave_process(0)
            }
            ForkResult::Parent { child } => {
                waitpid(child, None).unwrap();
                assert_eq!((board.phase(), board.dev_id()), (Phase::Live, Some(0)));
            }
        }
    }

    #[test]
    fn servers_that_die_too_often_are_not_replaced_for_ever() {
        let mut restarts = VecDeque::new();
        let start = Instant::now();
        for i in 0..MAX_RESTARTS {
            assert!(may_restart(
                &mut restarts,
                start + Duration::from_millis(i as u64)
            ));
        }
        assert!(!may_restart(&mut restarts, start + Duration::from_secs(1)));
        assert!(may_restart(&mut restarts, start + 2 * WINDOW));
    }

    #[test]
    fn a_server_killed_now_and_then_is_always_replaced() {
        let mut restarts = VecDeque::new();
        let start = Instant::now();
        for i in 0..1000 {
            assert!(may_restart(
                &mut restarts,
                start + Duration::from_secs(5 * i)
            ));
        }
    }
}
