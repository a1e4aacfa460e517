//! Operations that ask for durability: when their failure casts doubt on others, and when
//! their success is believed. The rules are those of [`peers`](crate::peers).

use nix::libc;

use super::mutant::{self, Mutant};
use super::steps::Next;
use super::task::Stage;
use super::{Event, Lane};
use crate::errno::is_transient;
use crate::exchange::Tag;
use crate::peers::{Moment, Teller};
use crate::request::Request;

impl Lane {
    /// The operation of a tag is about to be sent.
    pub(super) fn goes_out(&mut self, tag: Tag) {
        let task = &mut self.tags[tag.index()];
        if let Some(kind) = task.teller() {
            task.moment = self.engine.peers().now();
            self.peer.goes_out(kind, task.moment);
        }
    }

    /// The operation of a tag has ended. Its failure is latched before anybody else can
    /// take the operation for one that is back.
    pub(super) fn is_back(&mut self, tag: Tag, result: i32) {
        let task = &self.tags[tag.index()];
        let Some(kind) = task.teller() else {
            return;
        };
        let when = task.moment;
        if result < 0 && self.is_told_of_loss(tag, -result) {
            let forgotten = mutant::is(match kind {
                Teller::Sync => Mutant::ForgetFailedFlush,
                Teller::DurableWrite => Mutant::ForgetFailedDurableWrite,
            });
            if !forgotten {
                self.engine.latch_flush_failure();
            }
        }
        if self.peer.is_oldest(kind, when) {
            let out = self
                .tags
                .iter()
                .filter(|task| task.stage == Stage::InKernel && task.teller() == Some(kind));
            let next = out.map(|task| task.moment).min();
            self.peer.is_back(kind, next.unwrap_or(Moment::NEVER));
            if !mutant::is(Mutant::WakeNobody) {
                self.engine.peers().wake();
            }
        }
        self.believe();
    }

    /// Whether this (positive) error number may speak of data that other requests wrote.
    ///
    /// The page cache gives its errors to whoever syncs first, and they are what the disk
    /// below said: from a stack that ran out of memory that is `ENOMEM`, which as the
    /// answer of a disk would only mean "not now". Without a page cache a full disk refuses the
    /// write itself.
    pub(super) fn is_told_of_loss(&self, tag: Tag, raw: i32) -> bool {
        let Some(kind) = self.tags[tag.index()].teller() else {
            return false;
        };
        if self.direct {
            let full = matches!(raw, libc::ENOSPC | libc::EDQUOT | libc::EFBIG);
            let refused = kind == Teller::DurableWrite && full;
            return !is_transient(raw) && !refused;
        }
        if mutant::is(Mutant::TakeLossForNotNow) {
            return !is_transient(raw);
        }
        // these two come from the call, not from the disk
        !matches!(raw, libc::EINTR | libc::EAGAIN)
    }

    /// A success waits until nothing can be told any more of what was out beside it.
    pub(super) fn withhold(&mut self, tag: Tag) -> Next {
        let task = &mut self.tags[tag.index()];
        task.moment = self.engine.peers().ticket();
        task.stage = Stage::Withheld;
        self.withheld.push(&mut self.links, tag);
        self.believe();
        Next::Wait
    }

    /// Looks again at what is withheld.
    pub(super) fn believe(&mut self) {
        if self.withheld.is_empty() {
            return;
        }
        // before looking: who comes back afterwards sees it
        self.peer.waits(true);
        while let Some(tag) = self.withheld.first() {
            if !self.is_believed(tag) {
                return;
            }
            let _ = self.withheld.pop(&mut self.links);
            self.tags[tag.index()].stage = Stage::Believed;
            self.ready.push(&mut self.links, tag);
        }
        self.peer.waits(false);
    }

    fn is_believed(&self, tag: Tag) -> bool {
        let task = &self.tags[tag.index()];
        let beside: &[Teller] = match task.teller() {
            // A direct write has its own error; only a disk that lost its cache can take it back.
            Some(Teller::DurableWrite) if self.direct => &[Teller::Sync],
            _ => &[Teller::Sync, Teller::DurableWrite],
        };
        mutant::is(Mutant::BelieveAtOnce)
            || self.engine.flush_failed()
            || self.engine.peers().are_back(beside, task.moment)
    }

    /// Answers what was withheld.
    pub(super) fn believed(&mut self, tag: Tag) -> Event {
        let task = &self.tags[tag.index()];
        if task.request == Request::Flush {
            self.end_flush_round(Ok(()));
            return self.finish_flush(tag, Ok(()));
        }
        let whole = task.moved;
        self.finish(tag, Ok(whole))
    }
}
