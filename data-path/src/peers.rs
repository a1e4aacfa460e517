//! What the lanes of one engine must know of each other: whose operations may just now be
//! told of lost data, and whom to wake.
//!
//! All lanes share one open file, and Linux tells a write that was lost in the page cache
//! once per open file; a disk that fails to flush its cache fails once, too. So of two
//! operations that ask for durability beside each other, the first may be given the error
//! and the second success, for the same lost data, and the results may be read in the
//! other order. Success therefore counts only when nothing that was out beside it can have
//! been given the error:
//!
//! 1. before an operation is sent, its lane says that it is out ([`Peer::goes_out`]);
//! 2. its failure is latched ([`Engine`](crate::Engine)) before the lane says that it is
//!    back ([`Peer::is_back`]), else the others would go on knowing nothing of it;
//! 3. its success takes a ticket ([`Peers::ticket`]), which is later than everything that
//!    was sent before, and is believed when all of that is back ([`Peers::are_back`]) and
//!    no failure is latched;
//! 4. whoever comes back wakes those that wait ([`Peers::wake`]), else they wait for ever.
//!
//! What is sent after the ticket was taken never delays anybody, so no wait is endless.
//! Both sides of each pair (say and look) are sequentially consistent: either the ticket's
//! owner sees the operation out, or that operation was sent after the ticket's success.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Operations that can be told of lost data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Teller {
    /// `fdatasync`.
    Sync = 0,
    /// A write that ends with a sync of its own.
    DurableWrite = 1,
}

/// A point in the order of an engine's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Later than every other.
    pub(crate) const NEVER: Self = Self(u64::MAX);
}

/// All lanes of an engine.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    now: AtomicU64,
    /// Written only when a lane comes or goes.
    all: RwLock<Vec<Arc<Peer>>>,
}

/// One lane as the others see it.
#[derive(Debug)]
pub(crate) struct Peer {
    /// When the oldest operation of each kind was sent that is still out.
    oldest: [AtomicU64; 2],
    /// It has answers that wait for others.
    waits: AtomicBool,
    bell: EventFd,
}

impl Peers {
    /// A new lane.
    pub(crate) fn join(&self) -> nix::Result<Arc<Peer>> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let peer = Arc::new(Peer {
            oldest: [const { AtomicU64::new(u64::MAX) }; 2],
            waits: AtomicBool::new(false),
            bell: EventFd::from_flags(flags)?,
        });
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&peer));
        Ok(peer)
    }

    /// A lane ends; nobody waits for it any more.
    pub(crate) fn leave(&self, peer: &Arc<Peer>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| !Arc::ptr_eq(other, peer));
        drop(all);
        self.wake();
    }

    /// The time of an operation that is about to be sent.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.now.load(Ordering::SeqCst))
    }

    /// For a success that has just been read.
    pub(crate) fn ticket(&self) -> Moment {
        Moment(self.now.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Whether all operations of these kinds that were sent before `ticket` are back.
    pub(crate) fn are_back(&self, kinds: &[Teller], ticket: Moment) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().all(|peer| {
            let back = |kind: &Teller| peer.oldest[*kind as usize].load(Ordering::SeqCst);
            kinds.iter().all(|kind| back(kind) >= ticket.0)
        })
    }

    /// Rings for the lanes that wait for others.
    pub(crate) fn wake(&self) {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .filter(|peer| peer.waits.load(Ordering::SeqCst))
            .for_each(|peer| peer.ring());
    }

    /// Rings for all lanes.
    pub(crate) fn wake_all(&self) {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().for_each(|peer| peer.ring());
    }
}

impl Peer {
    /// From now on an operation of this kind is out that is sent at `when`, or others that
    /// were sent before.
    pub(crate) fn goes_out(&self, kind: Teller, when: Moment) {
        self.oldest[kind as usize].fetch_min(when.0, Ordering::SeqCst);
    }

    /// Whether nothing of this kind was sent before `when` and is still out.
    pub(crate) fn is_oldest(&self, kind: Teller, when: Moment) -> bool {
        self.oldest[kind as usize].load(Ordering::SeqCst) >= when.0
    }

    /// The operation that was the oldest is back; `next` is when the oldest of the others was sent.
    pub(crate) fn is_back(&self, kind: Teller, next: Moment) {
        self.oldest[kind as usize].store(next.0, Ordering::SeqCst);
    }

    /// To be said before looking at the others, and taken back when nothing waits.
    pub(crate) fn waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::SeqCst);
    }

    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The bell is silent afterwards.
    pub(crate) fn silence(&self) {
        // fails only when it is silent already
        let _ = self.bell.read();
    }

    fn ring(&self) {
        // fails only when the counter is full, and then it is rung already
        let _ = self.bell.write(1);
    }
}
