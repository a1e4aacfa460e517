//! One client: its socket, its thread, its ring, its lane.
//!
//! The loop sends what is ready, takes requests from what has come, moves the lane, and
//! waits in one call of the ring for whatever is next: a result of the backing, the
//! socket, the server's bell (stop), or the lane's (a thaw of the gate, news of other lanes).
//!
//! Nothing in the loop allocates after the negotiation. A client that does not take its
//! replies stops its own requests and nobody else's.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use luksmith_crypto::CryptoError;
use luksmith_data_path::alloc_guard::no_alloc;
use luksmith_data_path::uring::{Reaped, Ring};
use luksmith_data_path::{Engine, Event, Lane, LaneError, Limits, Tag};
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::buffers::{Incoming, Outgoing};
use crate::memory::Share;
use crate::protocol::handshake::{Handshake, Progress};
use crate::protocol::transmission::{Action, Command, REQUEST_BYTES, WireError};
use crate::protocol::{Export, ProtocolError};
use crate::replies::{After, CommandId, Kind, Replies};

/// Why a connection ended otherwise than by the client's goodbye or the server's stop.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("the client does not keep to the protocol")]
    Protocol(#[from] ProtocolError),
    #[error("the client took too long to negotiate")]
    Slow,
    #[error("the socket failed")]
    Socket(#[source] io::Error),
    #[error("the ring failed")]
    Ring(#[source] io::Error),
    #[error("no queue for the client")]
    Lane(#[from] LaneError),
    #[error("no locked memory for the client")]
    Memory(#[from] CryptoError),
}

/// What the server and a connection's thread share.
#[derive(Debug)]
pub(crate) struct Line {
    /// Rung when [`Line::stop`] was set.
    pub(crate) bell: EventFd,
    pub(crate) stop: AtomicBool,
    /// The negotiation is over; until then a stop may cut the client off.
    pub(crate) negotiated: AtomicBool,
    /// The client has been served; its thread is about to end.
    pub(crate) done: AtomicBool,
}

impl Line {
    pub(crate) fn new() -> nix::Result<Arc<Self>> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Arc::new(Self {
            bell: EventFd::from_flags(flags)?,
            stop: AtomicBool::new(false),
            negotiated: AtomicBool::new(false),
            done: AtomicBool::new(false),
        }))
    }

    pub(crate) fn ring_bell(&self) {
        // Fails only when the counter is full, and then it is rung already.
        let _ = self.bell.write(1);
    }
}

/// Serves one client until it leaves or the server stops.
pub(crate) fn serve_client(
    socket: &UnixStream,
    engine: &Arc<Engine>,
    export: &Export,
    share: &Share,
    line: &Line,
) -> Result<(), ConnectionError> {
    let mut incoming = Incoming::new(share.incoming)?;
    let Some(structured) = negotiate(socket, export, &mut incoming)? else {
        return Ok(());
    };
    line.negotiated.store(true, Ordering::SeqCst);
    let mut lane = Lane::new(engine, &share.lane)?;
    let mut ring = Ring::new(u32::from(share.lane.depth) + 8).map_err(ConnectionError::Ring)?;
    if ring.register_file(engine.backing().as_raw_fd()).is_ok() {
        lane.use_fixed_file(0);
    }
    // Both registrations only save time; a limit may forbid them.
    let _ = ring.register_buffers(&mut lane);
    let depth = share.lane.depth;
    let mut replies = Replies::new(incoming, Outgoing::new(share.outgoing)?, depth);
    replies.agree(structured);
    socket
        .set_nonblocking(true)
        .map_err(ConnectionError::Socket)?;
    let mut connection = Connection {
        socket,
        line,
        limits: *engine.limits(),
        max_piece: engine.limits().max_io,
        lane,
        ring,
        replies,
        free_tags: (0..depth).rev().map(Tag).collect(),
        phase: Phase::Header,
        leaving: false,
        broken: false,
        armed: Armed::default(),
        outcome: Ok(()),
    };
    let _no_alloc = no_alloc();
    connection.run()
}

struct Connection<'a> {
    socket: &'a UnixStream,
    line: &'a Line,
    limits: Limits,
    max_piece: u32,
    lane: Lane,
    ring: Ring,
    replies: Replies,
    free_tags: Vec<Tag>,
    phase: Phase,
    /// No further requests are taken; those under way are finished.
    leaving: bool,
    /// Nothing can be sent any more.
    broken: bool,
    armed: Armed,
    outcome: Result<(), ConnectionError>,
}

/// Waits that the ring has.
#[derive(Default)]
struct Armed {
    readable: bool,
    writable: bool,
    bell: bool,
    lane: bool,
}

/// Where the client's stream of bytes stands.
#[derive(Clone, Copy)]
enum Phase {
    /// The next bytes are a request header.
    Header,
    /// The data of a write is coming.
    Write {
        id: CommandId,
        next: u64,
        left: u32,
        fua: bool,
    },
    /// The data of a write that is refused is coming.
    Refused {
        command: Command,
        error: WireError,
        left: u32,
    },
    /// A read has pieces that are not begun; no bytes belong to it.
    Read { id: CommandId, next: u64, left: u32 },
}

impl Connection<'_> {
    fn run(&mut self) -> Result<(), ConnectionError> {
        loop {
            let mut moved = true;
            while moved {
                moved = self.receive();
                moved |= self.take_requests();
                moved |= self.move_lane()?;
                moved |= self.send();
            }
            if self.leaving
                && self.lane.is_idle()
                && (self.broken || self.replies.outgoing.is_empty())
            {
                return std::mem::replace(&mut self.outcome, Ok(()));
            }
            self.wait()?;
        }
    }

    /// Reads what the client sent. Returns whether something came.
    fn receive(&mut self) -> bool {
        if self.leaving || !self.replies.incoming.has_room() || self.armed.readable {
            return false;
        }
        match self.replies.incoming.fill(&mut &*self.socket) {
            Ok(0) => {
                // what it asked for is still done; nobody hears the answers
                self.leaving = true;
                false
            }
            Ok(_) => true,
            Err(error) => {
                match error.kind() {
                    io::ErrorKind::Interrupted => return true,
                    io::ErrorKind::WouldBlock => {}
                    _ => self.lost(error),
                }
                false
            }
        }
    }

    /// Sends what is ready. Returns whether something went.
    fn send(&mut self) -> bool {
        if self.broken || self.armed.writable || !self.replies.outgoing.has_ready() {
            return false;
        }
        match self.replies.outgoing.send(&mut &*self.socket) {
            Ok(sent) => sent > 0,
            Err(error) => {
                match error.kind() {
                    io::ErrorKind::Interrupted => return true,
                    io::ErrorKind::WouldBlock => {}
                    _ => self.lost(error),
                }
                false
            }
        }
    }

    fn lost(&mut self, error: io::Error) {
        self.leaving = true;
        self.broken = true;
        let gone = matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        );
        if !gone {
            self.outcome = Err(ConnectionError::Socket(error));
        }
    }

    /// Begins what the bytes that are there ask for, as far as there is room. Returns
    /// whether anything changed.
    ///
    /// Nothing is begun while a write's data lies at the front (the write waits for a
    /// slot or at the gate): data must never be read as the next request.
    fn take_requests(&mut self) -> bool {
        let mut moved = false;
        while !self.leaving && !self.replies.is_arriving() {
            let went_on = match self.phase {
                Phase::Header => self.take_header(),
                Phase::Write {
                    id,
                    next,
                    left,
                    fua,
                } => self.take_data(id, next, left, fua),
                Phase::Refused {
                    command,
                    error,
                    left,
                } => self.drop_data(command, error, left),
                Phase::Read { id, next, left } => self.begin_read(id, next, left),
            };
            if !went_on {
                break;
            }
            moved = true;
        }
        moved
    }

    fn take_header(&mut self) -> bool {
        let Some(header) = self
            .replies
            .incoming
            .unused()
            .first_chunk::<REQUEST_BYTES>()
        else {
            return false;
        };
        let command = match Command::parse(header, &self.limits) {
            Ok(command) => command,
            Err(error) => {
                self.leaving = true;
                self.outcome = Err(error.into());
                return false;
            }
        };
        let kind = match command.action {
            Ok(Action::Read { start, len }) => Kind::Read { start, len },
            Ok(Action::Trim { fua, .. }) => Kind::Other { then_flush: fua },
            _ => Kind::Other { then_flush: false },
        };
        let action = match self.replies.has_room_for(kind) {
            Some(false) => return false,
            Some(true) => command.action,
            // a read that can never be answered in one simple reply
            None => Err(WireError::INVAL),
        };
        let one_piece = match action {
            Ok(Action::Flush) => Some(self.limits.flush()),
            Ok(Action::Trim { request, .. }) => Some(request),
            _ => None,
        };
        if one_piece.is_some() && self.free_tags.is_empty() || !self.replies.has_room_for_answer() {
            return false;
        }
        self.replies.incoming.consume(REQUEST_BYTES);
        let cookie = command.cookie;
        if let Some(request) = one_piece {
            let id = self.replies.take(cookie, kind);
            let tag = self.free_tags.pop().expect("a free tag was seen");
            self.replies.begin_piece(id, tag, 0, 0);
            self.replies.all_begun(id);
            self.lane.begin(tag, request);
            return true;
        }
        match action {
            Ok(Action::Read { start, len }) => {
                let id = self.replies.take(cookie, kind);
                self.phase = Phase::Read {
                    id,
                    next: start,
                    left: len,
                };
            }
            Ok(Action::Write { start, len, fua }) => {
                let id = self.replies.take(cookie, kind);
                self.phase = Phase::Write {
                    id,
                    next: start,
                    left: len,
                    fua,
                };
            }
            Ok(Action::Disconnect) => self.leaving = true,
            Ok(Action::Nothing | Action::Flush | Action::Trim { .. }) => {
                let read_from = command.is_read.then_some(command.start);
                self.replies.answer(cookie, read_from, None);
            }
            Err(error) => {
                self.phase = Phase::Refused {
                    command,
                    error,
                    left: command.payload,
                };
            }
        }
        true
    }

    /// The next piece of a write, if its data is there and a tag is free.
    fn take_data(&mut self, id: CommandId, next: u64, left: u32, fua: bool) -> bool {
        let len = left.min(self.max_piece);
        if self.replies.incoming.unused().len() < len as usize {
            return false;
        }
        let Some(tag) = self.free_tags.pop() else {
            return false;
        };
        let request = self
            .limits
            .write(next, u64::from(len), fua)
            .expect("a piece of a checked range keeps the bounds");
        self.replies.begin_piece(id, tag, next, len);
        self.replies.arrives(tag);
        self.lane.begin(tag, request);
        self.phase = if left == len {
            self.replies.all_begun(id);
            Phase::Header
        } else {
            Phase::Write {
                id,
                next: next + u64::from(len),
                left: left - len,
                fua,
            }
        };
        true
    }

    fn drop_data(&mut self, command: Command, error: WireError, left: u32) -> bool {
        let here = self.replies.incoming.unused().len().min(left as usize);
        self.replies.incoming.consume(here);
        // at most `left`
        let left = left - here as u32;
        if left > 0 {
            self.phase = Phase::Refused {
                command,
                error,
                left,
            };
            return here > 0;
        }
        if !self.replies.has_room_for_answer() {
            self.phase = Phase::Refused {
                command,
                error,
                left,
            };
            return false;
        }
        let read_from = command.is_read.then_some(command.start);
        self.replies.answer(command.cookie, read_from, Some(error));
        self.phase = Phase::Header;
        true
    }

    fn begin_read(&mut self, id: CommandId, next: u64, left: u32) -> bool {
        let len = left.min(self.max_piece);
        if !self.replies.has_room_for_piece(len) {
            return false;
        }
        let Some(tag) = self.free_tags.pop() else {
            return false;
        };
        let request = self
            .limits
            .read(next, u64::from(len))
            .expect("a piece of a checked range keeps the bounds");
        self.replies.begin_piece(id, tag, next, len);
        self.lane.begin(tag, request);
        self.phase = if left == len {
            self.replies.all_begun(id);
            Phase::Header
        } else {
            Phase::Read {
                id,
                next: next + u64::from(len),
                left: left - len,
            }
        };
        true
    }

    /// Does what the lane wants done, until it waits for the kernel. Returns whether that
    /// made way for further requests: a write has taken its data, or a tag is free.
    fn move_lane(&mut self) -> Result<bool, ConnectionError> {
        let waited = self.replies.is_arriving();
        let mut freed = false;
        while let Some(event) = self.lane.poll(&mut self.replies) {
            match event {
                Event::Submit(submission) => {
                    self.ring.push(&submission).map_err(ConnectionError::Ring)?;
                }
                Event::Done { tag, result } => match self.replies.finish(tag, result) {
                    After::Free => {
                        freed = true;
                        self.free_tags.push(tag);
                    }
                    After::Flush => self.lane.begin(tag, self.limits.flush()),
                },
            }
        }
        Ok(freed || waited && !self.replies.is_arriving())
    }

    fn wait(&mut self) -> Result<(), ConnectionError> {
        let socket = self.socket.as_raw_fd();
        let mut arm = |armed: &mut bool, wanted: bool, fd, events: i16, mark| {
            if wanted && !*armed {
                *armed = true;
                return self.ring.push_poll(fd, events as u32, mark);
            }
            Ok(())
        };
        let wants_input = !self.leaving && self.replies.incoming.has_room();
        let wants_output = !self.broken && self.replies.outgoing.has_ready();
        arm(
            &mut self.armed.readable,
            wants_input,
            socket,
            libc::POLLIN,
            READABLE,
        )
        .and_then(|()| {
            arm(
                &mut self.armed.writable,
                wants_output,
                socket,
                libc::POLLOUT,
                WRITABLE,
            )
        })
        .and_then(|()| {
            let bell = self.line.bell.as_fd().as_raw_fd();
            arm(&mut self.armed.bell, true, bell, libc::POLLIN, BELL)
        })
        .and_then(|()| {
            let bell = self.lane.bell().as_raw_fd();
            arm(&mut self.armed.lane, true, bell, libc::POLLIN, LANE)
        })
        .and_then(|()| self.ring.submit(1))
        .map_err(ConnectionError::Ring)?;
        while let Some(reaped) = self.ring.reap() {
            match reaped {
                Reaped::Lane(completion) => self.lane.complete(completion),
                Reaped::Other {
                    user_data: READABLE,
                    ..
                } => self.armed.readable = false,
                Reaped::Other {
                    user_data: WRITABLE,
                    ..
                } => self.armed.writable = false,
                Reaped::Other {
                    user_data: LANE, ..
                } => {
                    self.armed.lane = false;
                    self.lane.bell_rang();
                }
                Reaped::Other { .. } => {
                    self.armed.bell = false;
                    // the count does not matter, only that it is zero again
                    let _ = self.line.bell.read();
                    self.leaving |= self.line.stop.load(Ordering::SeqCst);
                }
            }
        }
        Ok(())
    }
}

/// Speaks until the transmission phase; `None` if the client left before. What came
/// after the last option stays in `incoming`.
fn negotiate(
    mut socket: &UnixStream,
    export: &Export,
    incoming: &mut Incoming,
) -> Result<Option<bool>, ConnectionError> {
    use io::Write;
    let until = Instant::now() + NEGOTIATION;
    let mut out = Vec::new();
    let mut handshake = Handshake::new(export, &mut out);
    loop {
        let step = handshake.advance(incoming.unused(), &mut out);
        socket.write_all(&out).map_err(ConnectionError::Socket)?;
        out.clear();
        let (used, progress) = step?;
        incoming.consume(used);
        match progress {
            Progress::Transmission { structured } => return Ok(Some(structured)),
            Progress::Close => return Ok(None),
            Progress::NeedMore if used > 0 => continue,
            Progress::NeedMore => {}
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ConnectionError::Slow);
        }
        socket
            .set_read_timeout(Some(left))
            .map_err(ConnectionError::Socket)?;
        match incoming.fill(&mut socket) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    return Err(ConnectionError::Slow);
                }
                io::ErrorKind::ConnectionReset => return Ok(None),
                _ => return Err(ConnectionError::Socket(error)),
            },
        }
    }
}

/// A client that has not negotiated by then holds a place that others want.
const NEGOTIATION: Duration = Duration::from_secs(30);

const READABLE: u64 = 1;
const WRITABLE: u64 = 2;
const BELL: u64 = 3;
const LANE: u64 = 4;
