//! The server: makes the device or takes it over, serves it with one thread per queue, and answers
//! questions on the control socket meanwhile.
//!
//! Order of a start, and what would be lost otherwise:
//! 1. memory locked, marked as I/O flusher, signals blocked: before any thread, because threads inherit it;
//! 2. ADD_DEV: only now, in the process that will serve, because the kernel ties the device to it;
//! 3. state file: before START_DEV, from within which udev asks for the name;
//! 4. parameters, then every tag fetched by its thread;
//! 5. START_DEV: the kernel looks for partitions at once, so everything must already serve.
//!
//! A takeover has the same order with START_USER_RECOVERY and END_USER_RECOVERY, and writes no file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use luksmith_crypto::{CryptoError, VolumeKey};
use luksmith_data_path::process::{Hardening, harden_process};
use luksmith_data_path::{Engine, EngineOptions};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::abi::{DeviceInfo, DeviceState, Features, Geometry, Params};
use crate::control::{Answer, Ask, read_line, write_line};
use crate::control_ring::ControlRing;
use crate::error::Doing;
use crate::keeper::{Board, Kept, Phase, leave_process};
use crate::kmsg::{Level, Log};
use crate::open::{Progress, ServeOptions, Step};
use crate::state::Folder;
use crate::status::{User, VolumeCounters, VolumeFacts, VolumeState};
use crate::{UblkError, VolumeName, queue, udev, users};

/// How a server comes to its device.
pub(crate) enum Mode {
    /// It makes it. Carries what the keeper could not do for its own safety.
    Create { warnings: Vec<String> },
    /// It takes it over from a server that died.
    Recover,
}

/// `/dev/ublkbN`.
pub(crate) fn block_device(id: u32) -> PathBuf {
    format!("/dev/ublkb{id}").into()
}

/// How long the driver may take to notice that the old server is dead.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(120);

/// How long the queues may take to set up, and the node of the char device to appear.
const SETUP_PATIENCE: Duration = Duration::from_secs(20);

/// How long a device may look used because something only looks at it (udev after a change).
const PASSING_USER: Duration = Duration::from_secs(2);

/// How much longer udev alone is waited for: on a busy machine it takes its time to look.
const UDEV_PATIENCE: Duration = Duration::from_secs(60);

/// How much longer somebody is waited for whom nobody can see.
const UNSEEN_PATIENCE: Duration = Duration::from_secs(8);

/// When a request is overdue, in milliseconds.
const OVERDUE_MS: &str = "1000";

/// How often a volume whose closing is pending is looked at.
const PENDING_INTERVAL: Duration = Duration::from_millis(250);

/// How long a client may take with its question.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);

/// How long the queues may take to end after the device was stopped.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// Stack of a queue thread. Locked into memory as a whole, so not larger than needed.
const STACK_BYTES: usize = 256 << 10;

/// Serves until the device is gone, then ends the process: with 0 if everything is cleaned up.
pub(crate) fn run(kept: Kept, mode: Mode, report: Option<OwnedFd>, log: Log) -> ! {
    die_on_panic();
    let _ = nix::sys::prctl::set_name(c"luksmith-server");
    let mut reporter = Reporter(report.map(File::from));
    let name = kept.name.clone();
    match Server::start(kept, mode, &mut reporter, &log).and_then(Server::serve) {
        Ok(()) => leave_process(0),
        Err(error) => {
            log.say(Level::Critical, &name, format_args!("{error}"));
            reporter.tell(&Progress::Failed(error.to_string()));
            leave_process(1)
        }
    }
}

/// A panic ends the process at once, so that the keeper starts another: half a server
/// would leave requests unanswered. The message goes where nothing can block it.
fn die_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let log = Log::open();
        match panic.location() {
            Some(place) => {
                log.say(
                    Level::Critical,
                    &"server",
                    format_args!("panic in {}:{}", place.file(), place.line()),
                );
            }
            None => log.say(Level::Critical, &"server", format_args!("panic")),
        }
        std::process::abort();
    }));
}

/// The line to whoever opened the volume; gone after the first server serves.
struct Reporter(Option<File>);

impl Reporter {
    fn tell(&mut self, progress: &Progress) {
        if let (Some(pipe), Ok(mut line)) = (&mut self.0, serde_json::to_vec(progress)) {
            line.push(b'\n');
            // Whoever opened it may have been killed; the volume is served all the same.
            let _ = pipe.write_all(&line);
        }
    }
}

/// A device that is served.
struct Server<'a> {
    name: VolumeName,
    folder: Folder,
    listener: UnixListener,
    board: Board,
    keeper: Pid,
    engine: Arc<Engine>,
    ring: ControlRing,
    queues: Queues,
    signals: SignalFd,
    id: u32,
    safe_stop: bool,
    log: &'a Log,
}

/// The threads of a device and what ends with them.
struct Queues {
    char_device: Arc<File>,
    threads: Vec<JoinHandle<()>>,
    /// Hangs up when the last thread has ended.
    ended: OwnedFd,
}

impl<'a> Server<'a> {
    fn start(
        kept: Kept,
        mode: Mode,
        reporter: &mut Reporter,
        log: &'a Log,
    ) -> Result<Self, UblkError> {
        let keeper = nix::unistd::getppid();
        let mut warnings = match &mode {
            Mode::Create { warnings } => warnings.clone(),
            Mode::Recover => Vec::new(),
        };
        // The lock on memory is not inherited; the rest is, and is set again at no cost.
        let hardening = Hardening {
            mount_namespace: false,
            ..Hardening::BLOCK_DEVICE
        };
        let hardened = harden_process(hardening);
        if !hardened.is_complete() && warnings.is_empty() {
            warnings.push(hardened.to_string());
        }
        let signals = SignalFd::with_flags(
            &SigSet::all(),
            SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
        )
        .doing(|| "take signals".into())?;
        let Kept {
            name,
            volume,
            keys,
            header,
            queues,
            options,
            opening,
            folder,
            ..
        } = kept;
        let keys = keys
            .iter()
            .map(|(digest, key)| Ok((*digest, key.open()?)))
            .collect::<Result<Vec<(u8, VolumeKey)>, CryptoError>>()
            .map_err(|error| UblkError::Server(format!("take over the volume key: {error}")))?;
        let open = volume
            .open(&keys)
            .map_err(|error| UblkError::Server(error.to_string()))?;
        // From here on the key exists only inside the ciphers, and in the keeper's memory file.
        drop(keys);
        let key_bits = open.key_bits() as u32;
        let engine_options = EngineOptions {
            read_only: options.read_only,
            allow_discards: options.allow_discards,
            max_io: options.max_io_bytes,
        };
        let backing_path = kept.backing.path().to_owned();
        let engine = Engine::new(Arc::new(open), kept.backing, engine_options)
            .map_err(|error| UblkError::Server(error.to_string()))?;

        let mut ring = ControlRing::open().doing(|| "open the ublk driver".into())?;
        let pid = nix::unistd::getpid();
        let info = match mode {
            Mode::Create { .. } => {
                reporter.tell(&Progress::Step(Step::Add));
                let depth = options.depth;
                let wanted = DeviceInfo::new(
                    queues,
                    depth,
                    options.max_io_bytes,
                    pid.as_raw(),
                    opening.mark,
                );
                let info = ring.add(&wanted).doing(|| "add a ublk device".into())?;
                kept.board.set_dev_id(Some(info.dev_id()));
                reporter.tell(&Progress::Step(Step::Prepare));
                info
            }
            Mode::Recover => {
                let id = kept.board.dev_id().unwrap_or(u32::MAX);
                if kept.board.fetching() && !kept.features.has(Features::PER_IO_DAEMON) {
                    return Err(UblkError::Server(format!(
                        "the driver of this kernel cannot hand over device {id}: the server died while \
                         its queues asked for their first requests"
                    )));
                }
                ring.start_recovery(id, RECOVERY_PATIENCE)
                    .doing(|| format!("take over device {id}"))?;
                ring.info(id).doing(|| format!("ask for device {id}"))?
            }
        };
        let id = info.dev_id();
        let needed = Features::of_our_devices();
        if info.mark() != opening.mark || !info.features().has(needed) {
            return Err(UblkError::Server(format!(
                "device {id} is not what was asked for"
            )));
        }
        let geometry = device_geometry(&engine, &options, info.max_io_bytes());
        let facts = VolumeFacts {
            uuid: volume.uuid.clone(),
            label: (!volume.label.is_empty()).then(|| volume.label.clone()),
            dev_id: id,
            device: block_device(id),
            backing: backing_path,
            header,
            backing_id: opening.backing_id,
            data_offset_bytes: volume.data_offset(),
            size_bytes: geometry.size_bytes,
            cipher: volume.encryption.clone(),
            key_bits,
            sector_size: volume.sector_size,
            logical_block: geometry.logical_block,
            read_only: options.read_only,
            allow_discards: options.allow_discards,
            queues: info.queues(),
            depth: info.depth(),
            max_io_bytes: info.max_io_bytes(),
            keeper_pid: keeper.as_raw(),
            opened_at: kept.opened_at,
            name: name.clone(),
        };
        if matches!(mode, Mode::Create { .. }) {
            folder.publish(&facts)?;
            ring.set_params(id, &Params::new(&geometry))
                .doing(|| format!("set the geometry of device {id}"))?;
        }
        let queues = start_queues(&mut ring, &engine, &info, &kept.board)?;
        match mode {
            Mode::Create { .. } => {
                reporter.tell(&Progress::Step(Step::Start));
                ring.start(id, pid.as_raw())
                    .doing(|| format!("start device {id}"))?;
                if let Err(error) = notice_dead_servers_soon(id) {
                    warnings.push(format!(
                        "a server that dies may be noticed only after 30 seconds: {error}"
                    ));
                }
            }
            Mode::Recover => ring
                .end_recovery(id, pid.as_raw())
                .doing(|| format!("go on with device {id}"))?,
        }
        kept.board.enter(Phase::Live);
        log.say(
            Level::Notice,
            &name,
            format_args!("ublkb{id} is served by process {pid}"),
        );
        reporter.tell(&Progress::Ready {
            facts: Box::new(facts),
            warnings,
        });
        reporter.0 = None;
        Ok(Self {
            name,
            folder,
            listener: kept.listener,
            board: kept.board,
            keeper,
            engine,
            ring,
            queues,
            signals,
            id,
            safe_stop: kept.features.has(Features::SAFE_STOP_DEV),
            log,
        })
    }

    /// Answers questions until the device is gone.
    fn serve(mut self) -> Result<(), UblkError> {
        loop {
            let pending = self.board.close_pending();
            let timeout = match pending {
                true => PollTimeout::try_from(PENDING_INTERVAL).unwrap_or(PollTimeout::ZERO),
                false => PollTimeout::NONE,
            };
            let mut events = [
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.queues.ended.as_fd(), PollFlags::empty()),
            ];
            match poll(&mut events, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(UblkError::io("wait for questions", errno)),
            }
            let happened = events.map(|e| e.revents().is_some_and(|flags| !flags.is_empty()));
            let [asked, signalled, ended] = happened;
            if ended {
                return self.queues_ended();
            }
            if signalled && let Some(outcome) = self.signal() {
                return self.finish(outcome, None);
            }
            if asked {
                match self.question() {
                    Next::Go => {}
                    Next::Finish(outcome, client) => return self.finish(outcome, Some(client)),
                }
            }
            if pending && let Ok(outcome) = self.stop_if_unused(Duration::ZERO) {
                return self.finish(outcome, None);
            }
        }
    }

    /// A signal asks for the end, as a service manager does at shutdown. In use, the device
    /// stays: taking it away would lose what its users have not written yet.
    fn signal(&mut self) -> Option<Stopped> {
        if !self.take_signals() {
            return None;
        }
        match self.stop_if_unused(PASSING_USER) {
            Ok(stopped) => Some(stopped),
            Err(why) => {
                // Those that came while it waited are answered by this, too.
                self.take_signals();
                self.log.say(
                    Level::Warning,
                    &self.name,
                    format_args!("asked to end, but {why}; still serving"),
                );
                None
            }
        }
    }

    /// Takes the signals that are pending; whether one of them asks for the end.
    fn take_signals(&mut self) -> bool {
        let mut wants_end = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = signal.ssi_signo as i32;
            wants_end |= [libc::SIGTERM, libc::SIGINT, libc::SIGHUP].contains(&number);
        }
        wants_end
    }

    fn question(&mut self) -> Next {
        let Ok((client, _)) = self.listener.accept() else {
            return Next::Go;
        };
        let patience = Some(CLIENT_PATIENCE);
        if client
            .set_read_timeout(patience)
            .and(client.set_write_timeout(patience))
            .is_err()
        {
            return Next::Go;
        }
        let Ok(ask) = read_line::<Ask>(&client) else {
            return Next::Go;
        };
        let answer = match ask {
            Ask::Status => self.status(),
            Ask::Close => match self.stop_if_unused(PASSING_USER) {
                Ok(stopped) => return Next::Finish(stopped, client),
                Err(NotStopped::InUse) => Answer::Busy,
                Err(why) => Answer::Failed {
                    why: why.to_string(),
                },
            },
            Ask::CloseDeferred => match self.stop_if_unused(Duration::ZERO) {
                Ok(stopped) => return Next::Finish(stopped, client),
                Err(NotStopped::InUse) => {
                    self.board.set_close_pending(true);
                    Answer::Pending
                }
                Err(why) => Answer::Failed {
                    why: why.to_string(),
                },
            },
            Ask::CancelDeferred => Answer::Cancelled {
                was_pending: self.board.set_close_pending(false),
            },
        };
        // A client that went away needs no answer.
        let _ = write_line(&client, &answer);
        Next::Go
    }

    fn status(&self) -> Answer {
        let counters = self.engine.counters();
        Answer::Status {
            state: match self.board.close_pending() {
                true => VolumeState::ClosePending,
                false => VolumeState::Live,
            },
            server_pid: nix::unistd::getpid().as_raw(),
            recoveries: self.board.recoveries(),
            counters: VolumeCounters {
                reads: counters.reads,
                writes: counters.writes,
                flushes: counters.flushes,
                discards: counters.discards,
                errors: counters.errors,
                read_bytes: counters.bytes_read,
                written_bytes: counters.bytes_written,
                flush_failed: self.engine.flush_failed(),
            },
        }
    }

    /// Stops the device unless somebody uses it; `patience` is for users that only pass by.
    ///
    /// 1. claim it, so that nobody can begin to use it;
    /// 2. flush what the page cache holds: after the stop it could not be written any more;
    /// 3. stop. Where the driver has a stop that looks for openers, that one is the judge.
    fn stop_if_unused(&mut self, patience: Duration) -> Result<Stopped, NotStopped> {
        let end = Instant::now() + patience;
        let mut more = Duration::ZERO;
        loop {
            match self.try_to_stop() {
                Err(NotStopped::InUse) if !patience.is_zero() => {
                    if Instant::now() > end {
                        // udev comes and goes: once seen, it counts also while it is away.
                        more = self
                            .more_patience()
                            .map_or(Duration::ZERO, |now| more.max(now));
                        if Instant::now() > end + more {
                            return Err(NotStopped::InUse);
                        }
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    /// How much longer to wait for those who can be seen now; `None`: one of them is there to
    /// stay. Workers of udev never stay. If nobody is seen, the user has just left, or is one
    /// of another mount name space.
    fn more_patience(&self) -> Option<Duration> {
        let me = nix::unistd::getpid().as_raw();
        let seen = users::of(&format!("ublkb{}", self.id), me);
        let is_udev = |user: &User| match user {
            User::Process { command, .. } => command.contains("udev"),
            _ => false,
        };
        match &seen[..] {
            [] => Some(UNSEEN_PATIENCE),
            users if users.iter().all(is_udev) => Some(UDEV_PATIENCE),
            _ => None,
        }
    }

    fn try_to_stop(&mut self) -> Result<Stopped, NotStopped> {
        let device = block_device(self.id);
        let claim = users::claim(&device).map_err(|error| match users::is_busy(&error) {
            true => NotStopped::InUse,
            false => NotStopped::Failed(error),
        })?;
        let flush_error = claim.sync_all().err().map(|error| error.to_string());
        let stopped = if self.safe_stop {
            drop(claim);
            self.board.enter(Phase::Stopping);
            self.ring.try_stop(self.id)
        } else {
            // Those who have it open without a claim.
            let me = nix::unistd::getpid().as_raw();
            let opened = |user: &User| matches!(user, User::Process { .. });
            if users::of(&format!("ublkb{}", self.id), me)
                .iter()
                .any(opened)
            {
                return Err(NotStopped::InUse);
            }
            self.board.enter(Phase::Stopping);
            let stopped = self.ring.stop(self.id);
            drop(claim);
            stopped
        };
        stopped.map_err(|error| {
            self.board.enter(Phase::Live);
            match users::is_busy(&error) {
                true => NotStopped::InUse,
                false => NotStopped::Failed(error),
            }
        })?;
        Ok(Stopped { flush_error })
    }

    /// All threads have ended without our doing: another program stopped the device, or the
    /// threads failed.
    fn queues_ended(mut self) -> Result<(), UblkError> {
        match self.ring.info(self.id).map(|info| info.state()) {
            Ok(DeviceState::Dead) | Err(_) => {
                self.log.say(
                    Level::Warning,
                    &self.name,
                    format_args!("ublkb{} was stopped by another program", self.id),
                );
                self.board.enter(Phase::Stopping);
                self.finish(Stopped { flush_error: None }, None)
            }
            Ok(_) => Err(UblkError::Server("the queue threads have ended".into())),
        }
    }

    /// After the stop: threads, char device, device, links; then the answer.
    fn finish(self, stopped: Stopped, client: Option<UnixStream>) -> Result<(), UblkError> {
        let Self {
            name,
            folder,
            listener,
            board,
            keeper,
            engine,
            mut ring,
            queues,
            id,
            log,
            ..
        } = self;
        let Queues {
            char_device,
            threads,
            ended,
        } = queues;
        let mut waited = [PollFd::new(ended.as_fd(), PollFlags::empty())];
        let timeout = PollTimeout::try_from(DRAIN_PATIENCE).unwrap_or(PollTimeout::MAX);
        if poll(&mut waited, timeout) == Ok(0) {
            return Err(UblkError::Server("the queue threads do not end".into()));
        }
        for thread in threads {
            let _ = thread.join();
        }
        drop(char_device);
        ring.delete(id).doing(|| format!("delete device {id}"))?;
        board.set_dev_id(None);
        drop((listener, engine));
        udev::remove_link(&name, &block_device(id));
        if let Some(client) = client {
            let _ = write_line(
                &client,
                &Answer::Closed {
                    flush_error: stopped.flush_error,
                },
            );
        } else if let Some(error) = stopped.flush_error {
            log.say(
                Level::Critical,
                &name,
                format_args!("the last flush failed: {error}"),
            );
        }
        if nix::unistd::getppid() != keeper {
            // The keeper was killed; its last duty falls to us.
            folder.remove();
        }
        Ok(())
    }
}

/// What follows a question.
enum Next {
    Go,
    Finish(Stopped, UnixStream),
}

/// The device takes no more requests.
struct Stopped {
    flush_error: Option<String>,
}

/// Why it still does.
#[derive(Debug, thiserror::Error)]
enum NotStopped {
    #[error("it is in use")]
    InUse,
    #[error("it could not be stopped: {0}")]
    Failed(io::Error),
}

/// Starts a thread per queue and waits until each has fetched all its tags: the kernel's start
/// command waits for that without end.
fn start_queues(
    ring: &mut ControlRing,
    engine: &Arc<Engine>,
    info: &DeviceInfo,
    board: &Board,
) -> Result<Queues, UblkError> {
    let id = info.dev_id();
    let char_device = Arc::new(open_char_device(id)?);
    let (ended, running) = nix::unistd::pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe".into())?;
    let running = Arc::new(running);
    let (tell, told) = mpsc::channel();
    let together = Arc::new(Barrier::new(usize::from(info.queues()) + 1));
    let mut threads = Vec::with_capacity(usize::from(info.queues()));
    for number in 0..info.queues() {
        let queue = queue::Queue {
            engine: engine.clone(),
            char_device: char_device.clone(),
            queue: number,
            depth: info.depth(),
            max_io_bytes: info.max_io_bytes(),
            cpus: ring.queue_cpus(id, number).unwrap_or_default(),
            together: together.clone(),
        };
        let (tell, running) = (tell.clone(), running.clone());
        let thread = std::thread::Builder::new()
            .name(format!("luksmith-q{number}"))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                if queue::serve(queue, |how| drop(tell.send(how))).is_err() {
                    // Requests would wait for ever: better no server than half a one.
                    std::process::abort();
                }
                drop(running);
            })
            .doing(|| "start a thread".into())?;
        threads.push(thread);
    }
    let end = Instant::now() + SETUP_PATIENCE;
    let all_queues = || {
        for _ in 0..info.queues() {
            match told.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return Err(UblkError::Server(why)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(UblkError::Server("the queue threads do not start".into()));
                }
            }
        }
        Ok(())
    };
    all_queues()?;
    board.set_fetching(true);
    together.wait();
    all_queues()?;
    board.set_fetching(false);
    Ok(Queues {
        char_device,
        threads,
        ended,
    })
}

/// Opens `/dev/ublkcN`, whose node appears a moment after the device.
fn open_char_device(id: u32) -> Result<File, UblkError> {
    let path = format!("/dev/ublkc{id}");
    let end = Instant::now() + SETUP_PATIENCE;
    loop {
        match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::PermissionDenied
                        // A server that was killed while it took over, and is not quite gone.
                        | io::ErrorKind::ResourceBusy
                ) && Instant::now() < end =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other.doing(|| format!("open {path}")),
        }
    }
}

/// Kernels before 6.15 look for a dead server only when a request is overdue, if the server had all
/// tags of a queue in hand. While the server lives, being overdue means nothing to the driver.
fn notice_dead_servers_soon(id: u32) -> io::Result<()> {
    let attribute = format!("/sys/block/ublkb{id}/queue/io_timeout");
    std::fs::write(attribute, OVERDUE_MS)
}

fn device_geometry(engine: &Engine, options: &ServeOptions, max_io_bytes: u32) -> Geometry {
    let below = engine.geometry();
    Geometry {
        size_bytes: engine.limits().len,
        logical_block: below.logical_block,
        physical_block: below.physical_block,
        io_min: below.io_min,
        io_opt: below.io_opt,
        rotational: below.rotational,
        read_only: options.read_only,
        max_io_bytes: max_io_bytes.min(engine.limits().max_io),
        discard_granularity: engine.limits().discard.then_some(below.discard_granularity),
    }
}
