//! Listens, gives each client a thread, and ends cleanly.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use luksmith_data_path::process::{Hardening, harden_process, harden_thread};
use luksmith_data_path::uring::Ring;
use luksmith_data_path::{
    Backing, CountersSnapshot, DEFAULT_MAX_IO, Engine, EngineError, EngineOptions,
};
use luksmith_volume::OpenVolume;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::connection::{Line, serve_client};
use crate::memory::{self, Share};
use crate::protocol::Export;
use crate::socket;

/// How to export a volume.
#[derive(Debug)]
pub struct NbdOptions {
    /// Where the socket is made; it must not exist, or belong to a server that is gone.
    pub socket: PathBuf,
    /// Name of the export. Clients that name none get it too.
    pub export_name: String,
    /// Writes are refused.
    pub read_only: bool,
    /// Trims reach the backing.
    pub allow_discards: bool,
    /// Clients at a time; further ones wait. At least 1.
    pub max_connections: u16,
    /// Requests under way per connection.
    pub depth: u16,
    /// Longest piece in bytes that is read or written at once (a power of two from 4 KiB
    /// to 1 MiB); less when the memlock limit demands it.
    pub max_io: u32,
    /// What is set for the process. Signals that end the server are taken only if they
    /// are masked.
    pub hardening: Hardening,
    /// Ends the server from another thread.
    pub stop: Option<StopHandle>,
    /// Called once, when clients can connect.
    pub on_ready: Option<OnReady>,
}

/// See [`NbdOptions::on_ready`].
pub struct OnReady(Box<dyn FnOnce(&Ready) + Send>);

impl OnReady {
    /// Wraps what is to be called.
    pub fn new(call: impl FnOnce(&Ready) + Send + 'static) -> Self {
        Self(Box::new(call))
    }
}

impl fmt::Debug for OnReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnReady")
    }
}

/// What is true when clients can connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// For `qemu-img`, `nbdcopy` and others.
    pub uri: String,
    /// Size in bytes.
    pub size: u64,
    /// Clients at a time that the memlock limit allows.
    pub max_connections: u16,
    /// What could not be set up as wanted, in sentences; nothing that makes it unsafe to
    /// go on, but somebody should read it.
    pub warnings: Vec<String>,
}

impl NbdOptions {
    /// Read-write, without discards, 16 clients of 64 requests.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            export_name: String::new(),
            read_only: false,
            allow_discards: false,
            max_connections: 16,
            depth: 64,
            max_io: DEFAULT_MAX_IO,
            hardening: Hardening {
                mount_namespace: false,
                ..Hardening::BLOCK_DEVICE
            },
            stop: None,
            on_ready: None,
        }
    }
}

/// What was served, for the last message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeSummary {
    /// Clients that connected.
    pub connections: u64,
    /// Requests of all of them.
    pub counters: CountersSnapshot,
}

/// Why an export could not be made, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The volume cannot be served from this backing.
    #[error("the volume cannot be served")]
    Engine(#[from] EngineError),
    /// Somebody serves on that socket.
    #[error("another server listens on {path}")]
    SocketInUse {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot make the socket {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses io_uring (`kernel.io_uring_disabled`, a container's filter) or
    /// does not know an operation.
    #[error("io_uring cannot be used")]
    Ring(#[source] io::Error),
    /// The memlock limit leaves too little for one connection.
    #[error("the memlock limit of {limit} bytes is too low for one connection")]
    Memlock {
        /// The limit in bytes.
        limit: u64,
    },
    /// A system call that cannot fail did.
    #[error("cannot {doing}")]
    System {
        /// What was tried, as a verb.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The backing did not confirm that everything is durable: what clients wrote since
    /// their last flush that succeeded may be lost.
    #[error("the last flush of the backing failed")]
    NotDurable(#[source] io::Error),
}

/// Ends a server from another thread; clones end the same server.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    event: EventFd,
    stop: AtomicBool,
}

impl StopHandle {
    /// A handle to put into [`NbdOptions::stop`].
    ///
    /// # Errors
    /// The system's, when it has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_flags(flags)?;
        Ok(Self(Arc::new(Bell {
            event,
            stop: AtomicBool::new(false),
        })))
    }

    /// No new clients; requests under way are finished, then everything is made durable.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::SeqCst);
        self.ring();
    }

    fn ring(&self) {
        // fails only when it is rung already
        let _ = self.0.event.write(1);
    }
}

/// Serves `volume` on a Unix socket until SIGTERM, SIGINT or SIGHUP comes or
/// [`NbdOptions::stop`] is used; then finishes what is under way and flushes.
///
/// To be called before the process has other threads: the process is hardened first, and
/// threads that run already would not be.
///
/// # Errors
/// [`ServeError`]. [`ServeError::NotDurable`] is the only one after clients were served.
pub fn serve(
    volume: OpenVolume,
    backing: Backing,
    mut options: NbdOptions,
) -> Result<ServeSummary, ServeError> {
    let mut warnings = harden(&mut options.hardening);
    let ring = Ring::new(8).map_err(ServeError::Ring)?;
    if !ring.knows_all_operations().map_err(ServeError::Ring)? {
        return Err(ServeError::Ring(io::ErrorKind::Unsupported.into()));
    }
    drop(ring);
    let block = volume.sector_size().max(backing.geometry().offset_align);
    let (share, connections) = divide_memory(&options, block, &mut warnings)?;
    let engine = Engine::new(
        Arc::new(volume),
        backing,
        EngineOptions {
            read_only: options.read_only,
            allow_discards: options.allow_discards,
            max_io: share.max_io,
        },
    )?;
    let export = describe(&engine, &options.export_name, &share);
    let system = |doing| {
        move |errno: Errno| ServeError::System {
            doing,
            source: errno.into(),
        }
    };
    let signals = options
        .hardening
        .mask_signals
        .then(|| SignalFd::with_flags(&ending_signals(), SfdFlags::SFD_CLOEXEC))
        .transpose()
        .map_err(system("take signals"))?;
    let stop = match options.stop.take() {
        Some(stop) => stop,
        None => StopHandle::new().map_err(|source| ServeError::System {
            doing: "make an event",
            source,
        })?,
    };
    let socket = socket::listen(&options.socket)?;
    let server = Server {
        engine,
        export: Arc::new(export),
        share,
        hardening: options.hardening,
        stop,
        clients: Vec::new(),
        connections: 0,
    };
    if let Some(OnReady(call)) = options.on_ready.take() {
        call(&Ready {
            uri: socket::uri(&options.socket, &options.export_name),
            size: server.export.size,
            max_connections: connections,
            warnings,
        });
    }
    let (server, listened) = server.listen(&socket.listener, signals.as_ref(), connections);
    socket::remove(&socket);
    drop(socket);
    let finished = server.finish();
    listened?;
    finished
}

struct Server {
    engine: Arc<Engine>,
    export: Arc<Export>,
    share: Share,
    hardening: Hardening,
    stop: StopHandle,
    clients: Vec<Client>,
    connections: u64,
}

struct Client {
    thread: JoinHandle<()>,
    /// For cutting it off.
    socket: Arc<UnixStream>,
    line: Arc<Line>,
}

impl Server {
    /// Takes clients until it is told to stop.
    fn listen(
        mut self,
        listener: &UnixListener,
        signals: Option<&SignalFd>,
        connections: u16,
    ) -> (Self, Result<(), ServeError>) {
        loop {
            let full = self.clients.len() >= usize::from(connections);
            let mut waits = vec![PollFd::new(self.stop.0.event.as_fd(), PollFlags::POLLIN)];
            waits.extend(signals.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            let bells = waits.len();
            if !full {
                waits.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut waits, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    let error = ServeError::System {
                        doing: "wait for clients",
                        source: errno.into(),
                    };
                    return (self, Err(error));
                }
            }
            let is_ready = |wait: &PollFd| wait.any().unwrap_or(false);
            let signalled = signals.is_some() && is_ready(&waits[1]);
            let knocked = !full && is_ready(&waits[bells]);
            let rung = is_ready(&waits[0]);
            drop(waits);
            if rung {
                // the number of rings does not matter
                let _ = self.stop.0.event.read();
            }
            if signalled || self.stop.0.stop.load(Ordering::SeqCst) {
                return (self, Ok(()));
            }
            self.forget_the_gone();
            if knocked {
                self.welcome(listener);
            }
        }
    }

    fn forget_the_gone(&mut self) {
        let (gone, here) = std::mem::take(&mut self.clients)
            .into_iter()
            .partition(|c| c.line.done.load(Ordering::SeqCst));
        self.clients = here;
        let gone: Vec<Client> = gone;
        for client in gone {
            // a panic ends the process (release) or is shown by the test harness
            let _ = client.thread.join();
        }
    }

    fn welcome(&mut self, listener: &UnixListener) {
        let taken = listener.accept().and_then(|(socket, _)| {
            let line = Line::new()?;
            Ok((Arc::new(socket), line))
        });
        let (socket, line) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "a client could not be taken");
                // Out of descriptors, most likely: without a pause the same knock would
                // be seen again at once.
                std::thread::sleep(Duration::from_millis(50));
                return;
            }
        };
        let (engine, export, share) = (
            Arc::clone(&self.engine),
            Arc::clone(&self.export),
            self.share,
        );
        let hardening = self.hardening;
        let own = Departure {
            line: Arc::clone(&line),
            socket: Arc::clone(&socket),
            bell: self.stop.clone(),
        };
        let body = move || {
            let report = harden_thread(hardening);
            if !report.is_complete() {
                tracing::debug!(%report, "a client's thread is not hardened");
            }
            if let Err(error) = serve_client(&own.socket, &engine, &export, &share, &own.line) {
                tracing::warn!(error = %Chain(&error), "a client was cut off");
            }
        };
        let thread = std::thread::Builder::new()
            .name("nbd-client".into())
            .stack_size(STACK_BYTES)
            .spawn(body);
        match thread {
            Ok(thread) => {
                self.connections += 1;
                self.clients.push(Client {
                    thread,
                    socket,
                    line,
                });
            }
            Err(error) => tracing::warn!(%error, "no thread for a client"),
        }
    }

    /// Lets clients finish, cuts off those that do not, and flushes.
    fn finish(mut self) -> Result<ServeSummary, ServeError> {
        for client in &self.clients {
            client.line.stop.store(true, Ordering::SeqCst);
            client.line.ring_bell();
            if !client.line.negotiated.load(Ordering::SeqCst) {
                let _ = client.socket.shutdown(Shutdown::Both);
            }
        }
        let until = Instant::now() + GRACE;
        while self.clients.iter().any(|c| !c.thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        for client in self.clients.drain(..) {
            // One that does not take its replies, or negotiated while we looked. Its
            // requests are finished all the same.
            let _ = client.socket.shutdown(Shutdown::Both);
            let _ = client.thread.join();
        }
        self.engine.sync().map_err(ServeError::NotDurable)?;
        Ok(ServeSummary {
            connections: self.connections,
            counters: self.engine.counters(),
        })
    }
}

/// What happens when a client's thread ends, however it ends.
struct Departure {
    line: Arc<Line>,
    socket: Arc<UnixStream>,
    bell: StopHandle,
}

impl Drop for Departure {
    fn drop(&mut self) {
        // An end of stream for the client, although the server still has the socket.
        let _ = self.socket.shutdown(Shutdown::Both);
        // so that the place becomes free
        self.line.done.store(true, Ordering::SeqCst);
        self.bell.ring();
    }
}

fn harden(hardening: &mut Hardening) -> Vec<String> {
    // A limited user would lose: every later mapping, thread stacks too, would count
    // against the limit that the buffers need.
    let limited = hardening.lock_memory && !memory::may_lock_without_limit();
    hardening.lock_memory &= !limited;
    let report = harden_process(*hardening);
    let mut warnings: Vec<String> = report
        .missing()
        .iter()
        .map(|(step, errno)| format!("could not {step}: {}", errno.desc()))
        .collect();
    if limited {
        warnings.push(
            "only keys and buffers are locked into memory, the program is not (that needs CAP_IPC_LOCK)"
                .into(),
        );
    }
    warnings
}

fn divide_memory(
    options: &NbdOptions,
    block: u32,
    warnings: &mut Vec<String>,
) -> Result<(Share, u16), ServeError> {
    let budget = memory::budget();
    let mut connections = options.max_connections.max(1);
    loop {
        if let Some(share) = memory::divide(
            budget,
            connections,
            options.depth.max(1),
            options.max_io,
            block,
        ) {
            if connections < options.max_connections {
                warnings.push(format!(
                    "the memlock limit allows {connections} clients at a time, not {}",
                    options.max_connections
                ));
            }
            return Ok((share, connections));
        }
        if connections == 1 {
            return Err(ServeError::Memlock {
                limit: budget.unwrap_or(0),
            });
        }
        connections /= 2;
    }
}

fn describe(engine: &Engine, name: &str, share: &Share) -> Export {
    let (limits, geometry) = (engine.limits(), engine.geometry());
    // Every reply of this size fits, in whatever form.
    let longest = u32::try_from(share.outgoing).unwrap_or(u32::MAX);
    let block_max = 1 << (longest.max(2) - 1).ilog2();
    Export {
        name: name.to_owned(),
        size: limits.len,
        read_only: limits.read_only,
        trim: limits.discard,
        rotational: geometry.rotational,
        block_min: limits.block,
        block_preferred: geometry.io_min.max(4096).min(limits.max_io),
        block_max,
    }
}

fn ending_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect()
}

/// An error with its causes.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// The deepest thing on a client's stack is a cipher's scratch memory.
const STACK_BYTES: usize = 256 << 10;
/// How long a client may take to fetch its last replies when the server stops.
const GRACE: Duration = Duration::from_secs(5);
