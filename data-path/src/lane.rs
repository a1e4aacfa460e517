//! Carries the requests of one queue through gate, backing and cipher. The middle of
//! the read path.
//!
//! Read: [`Lane::begin`] → [gate](luksmith_volume::IoGate) → slot of the arena →
//! [`Submission`] (the ciphertext comes) → [`Lane::complete`] → decrypt in place →
//! [`Exchange::copy_out`] → [`Event::Done`].
//! Write: slot → [`Exchange::copy_in`] → encrypt in place → [`Submission`] → `Done`.
//!
//! A lane knows no ring, no socket and no thread: it is given requests and results and
//! says through [`Lane::poll`] what is to be done next. Everything it needs is made in
//! [`Lane::new`]; afterwards each step takes the same time and allocates nothing.
//!
//! # Promises
//! - Each tag that was begun gets exactly one [`Event::Done`], with its whole length or
//!   an error; a backing that moves less than asked is asked again, one that moves
//!   nothing has failed.
//! - An answer comes after its promise holds: a write after the backing took it, one
//!   with `fua` after that write is durable, a flush after a `fdatasync` that began
//!   after the flush did, and neither of them before everything is known that was told to
//!   other operations meanwhile, on any lane of the engine.
//! - A failed flush stays: see [`Engine::flush_failed`].
//! - Nothing leaves through [`Exchange::copy_out`] but bytes that were read in full.
//! - "Not now" (`EAGAIN`, `EINTR`, `ENOMEM`, `EBUSY`) is tried again for about half a
//!   minute and then becomes an I/O error.
//! - Requests that wait for a slot get one in the order in which they came, and whoever
//!   has a slot waits for nothing but the backing: so all of them end.

use std::mem::{self, ManuallyDrop};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use luksmith_crypto::Arena;
use luksmith_volume::{Lane as Entrance, SegmentMap};
use nix::libc;

use self::flush::FlushRound;
use self::task::{Buffer, Piece, Stage, Task};
use crate::alloc_guard::no_alloc;
use crate::counters::QueueCounters;
use crate::engine::Engine;
use crate::errno::Errno;
use crate::exchange::{Exchange, Tag};
use crate::peers::{Moment, Peer};
use crate::queue::{Links, TagQueue};
use crate::request::Request;
use crate::uring::{Completion, Submission, Target};

pub use self::config::{LaneConfig, LaneError, SlotClass};

mod config;
mod durable;
mod durable_sim;
mod flush;
mod mutant;
mod sim;
mod steps;
mod task;

/// What a lane wants from its front end.
#[derive(Debug)]
#[must_use = "an event is told once"]
pub enum Event {
    /// Push this to the ring.
    Submit(Submission),
    /// Answer the client: the number of bytes of the request, or the error.
    Done {
        /// The request; its tag is free again.
        tag: Tag,
        /// Whole length (0 for a flush), or what went wrong.
        result: Result<u32, Errno>,
    },
}

/// One queue of requests on an open volume. See the module.
#[derive(Debug)]
pub struct Lane {
    engine: Arc<Engine>,
    gate: Entrance<SegmentMap>,
    tags: ManuallyDrop<Box<[Task]>>,
    links: Links,
    ready: TagQueue,
    waiting_at_gate: TagQueue,
    waiting_for_slot: [TagQueue; CLASSES],
    flush: FlushRound,
    /// Successes that are not yet believed, oldest first.
    withheld: TagQueue,
    slots: ManuallyDrop<[Option<Slots>; CLASSES]>,
    /// Operations that the kernel has, pauses included.
    in_kernel: usize,
    /// Tags that were begun and not yet answered.
    under_way: usize,
    /// Part of the unit that a direct I/O must begin and end on, less one.
    align_mask: u32,
    /// The backing has no page cache of its own between us and the disk.
    direct: bool,
    target: Target,
    first_buffer: Option<u16>,
    peer: Arc<Peer>,
    counters: Arc<QueueCounters>,
}

struct Slots(Arena);

impl Lane {
    /// Makes a lane with everything it will ever need.
    ///
    /// # Errors
    /// [`LaneError::Memory`] when the memlock limit is too low, [`LaneError::Bell`] when no
    /// descriptor is left.
    pub fn new(engine: &Arc<Engine>, config: &LaneConfig) -> Result<Self, LaneError> {
        let max_io = engine.limits().max_io;
        if config.depth == 0 || config.large.count == 0 || config.large.bytes < max_io {
            let LaneConfig {
                depth,
                large: SlotClass { bytes: large, .. },
                ..
            } = *config;
            return Err(LaneError::Config {
                depth,
                large,
                max_io,
            });
        }
        let arena = |class: SlotClass| {
            (class.count > 0)
                .then(|| Arena::new(usize::from(class.count), class.bytes as usize).map(Slots))
                .transpose()
                .map_err(LaneError::Memory)
        };
        let geometry = engine.backing().geometry();
        let idle = || Task {
            stage: Stage::Idle,
            request: Request::Flush,
            guard: None,
            buffer: Buffer::None,
            moved: 0,
            piece: Piece::default(),
            tries: 0,
            moment: Moment::NEVER,
            began: Instant::now(),
        };
        let (small, large) = (arena(config.small)?, arena(config.large)?);
        let joined = engine.peers().join();
        let peer = joined.map_err(|errno| LaneError::Bell(errno.into()))?;
        Ok(Self {
            gate: engine.volume().lane(),
            tags: ManuallyDrop::new((0..config.depth).map(|_| idle()).collect()),
            links: Links::new(config.depth),
            ready: TagQueue::default(),
            waiting_at_gate: TagQueue::default(),
            waiting_for_slot: [TagQueue::default(), TagQueue::default()],
            flush: FlushRound::default(),
            withheld: TagQueue::default(),
            slots: ManuallyDrop::new([small, large]),
            in_kernel: 0,
            under_way: 0,
            align_mask: geometry.offset_align.max(geometry.memory_align).max(1) - 1,
            direct: engine.backing().is_direct(),
            target: Target::Fd(engine.raw_fd()),
            first_buffer: None,
            peer,
            counters: engine.new_queue(),
            engine: Arc::clone(engine),
        })
    }

    /// The memory of the slots, to be registered with the ring in this order.
    #[must_use]
    pub fn fixed_buffers(&self) -> Vec<libc::iovec> {
        let arenas = self.slots.iter().flatten();
        arenas
            .map(|Slots(arena)| libc::iovec {
                iov_base: arena.base_ptr().cast(),
                iov_len: arena.len(),
            })
            .collect()
    }

    /// From now on uses registered buffers: those of [`Lane::fixed_buffers`], the first of
    /// which has index `first` in the ring's table.
    pub fn use_fixed_buffers(&mut self, first: u16) {
        self.first_buffer = Some(first);
    }

    /// From now on names the backing by its index in the ring's table of files.
    pub fn use_fixed_file(&mut self, index: u32) {
        self.target = Target::Fixed(index);
    }

    /// Takes a request. The front end calls [`Lane::poll`] until it returns `None` afterwards.
    ///
    /// # Panics
    /// If the tag is not below the depth, or still under way.
    pub fn begin(&mut self, tag: Tag, request: Request) {
        let task = &mut self.tags[tag.index()];
        assert_eq!(task.stage, Stage::Idle, "tag {} is still under way", tag.0);
        task.request = request;
        task.moved = 0;
        task.tries = 0;
        task.piece = Piece::default();
        task.began = Instant::now();
        task.stage = Stage::Enter;
        self.under_way += 1;
        self.ready.push(&mut self.links, tag);
    }

    /// Takes the result of a [`Submission`]. [`Lane::poll`] as after [`Lane::begin`].
    ///
    /// # Panics
    /// If nothing of this tag was in the kernel.
    pub fn complete(&mut self, completion: Completion) {
        let Completion { tag, result } = completion;
        let task = &mut self.tags[tag.index()];
        task.stage = match task.stage {
            Stage::InKernel => Stage::Arrived(result),
            // however the pause ended (ETIME in the normal case), it is over
            Stage::Paused => Stage::Send,
            other => panic!("tag {} was not in the kernel but {other:?}", tag.0),
        };
        self.in_kernel -= 1;
        self.ready.push(&mut self.links, tag);
    }

    /// Becomes readable when [`Lane::bell_rang`] is to be called: the gate was thawed, or
    /// another lane knows what this one waits for. Lives as long as the lane.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.peer.bell()
    }

    /// Silences the bell and looks again at all that waits for something outside of this
    /// lane. [`Lane::poll`] as after [`Lane::begin`].
    pub fn bell_rang(&mut self) {
        self.peer.silence();
        self.gate_opened();
        self.believe();
    }

    /// Looks again at the requests that wait at the gate.
    fn gate_opened(&mut self) {
        while let Some(tag) = self.waiting_at_gate.pop(&mut self.links) {
            self.tags[tag.index()].stage = Stage::Enter;
            self.ready.push(&mut self.links, tag);
        }
    }

    /// The next thing to do; `None` when all requests wait for the kernel, the gate or
    /// other lanes.
    pub fn poll(&mut self, exchange: &mut impl Exchange) -> Option<Event> {
        let _no_alloc = no_alloc();
        while let Some(tag) = self.ready.pop(&mut self.links) {
            if let Some(event) = self.step(tag, exchange) {
                return Some(event);
            }
        }
        None
    }

    /// Operations (and pauses) that the kernel has.
    #[must_use]
    pub const fn in_kernel(&self) -> usize {
        self.in_kernel
    }

    /// Requests begun and not yet answered.
    #[must_use]
    pub const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether every request was answered.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// What this queue has done so far.
    #[must_use]
    pub const fn counters(&self) -> &Arc<QueueCounters> {
        &self.counters
    }

    /// The engine behind this lane.
    #[must_use]
    pub const fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn class_of(&self, tag: Tag) -> usize {
        self.class_for(self.tags[tag.index()].len())
    }

    fn class_for(&self, len: u32) -> usize {
        match &self.slots[SMALL] {
            Some(Slots(small)) if len as usize <= small.slot_bytes() => SMALL,
            _ => LARGE,
        }
    }

    fn buffer_index(&self, class: usize) -> Option<u16> {
        // without small slots the large ones are the first
        let place = if self.slots[SMALL].is_none() {
            0
        } else {
            class as u16
        };
        self.first_buffer.map(|first| first + place)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let is_out = |task: &Task| task.stage == Stage::InKernel && task.teller().is_some();
        if self.tags.iter().any(is_out) {
            // Nobody will ever know what it was told.
            self.engine.latch_flush_failure();
        }
        self.engine.peers().leave(&self.peer);
        if self.in_kernel > 0 {
            // The kernel may still read or write the slots. Memory that is never freed is
            // the lesser evil than memory that changes under its next owner.
            return;
        }
        drop(mem::take(&mut *self.tags));
        for slots in self.slots.iter_mut() {
            drop(slots.take());
        }
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} slots of {} bytes",
            self.0.slots(),
            self.0.slot_bytes()
        )
    }
}

const CLASSES: usize = 2;
const SMALL: usize = 0;
const LARGE: usize = 1;
