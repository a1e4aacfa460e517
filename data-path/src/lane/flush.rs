//! Flushes of one lane, gathered into rounds.

use std::mem;

use super::mutant::{self, Mutant};
use super::task::Stage;
use super::{Event, Lane};
use crate::errno::Errno;
use crate::exchange::Tag;
use crate::queue::TagQueue;

/// One flush at a time goes to the backing. Those that arrive meanwhile form the next
/// round, which a single operation answers: it begins after all of them did.
#[derive(Debug, Default)]
pub(super) struct FlushRound {
    running: bool,
    /// Answered together with the one that is running.
    with_it: TagQueue,
    next: TagQueue,
}

impl Lane {
    /// A flush becomes the running one, or waits for the next round.
    pub(super) fn join_flush(&mut self, tag: Tag) -> bool {
        let task = &mut self.tags[tag.index()];
        if self.engine.flush_failed() {
            task.stage = Stage::Answered(Err(Errno::IO));
            return true;
        }
        if self.flush.running {
            task.stage = Stage::InRound;
            if mutant::is(Mutant::JoinTheRunningFlush) {
                self.flush.with_it.push(&mut self.links, tag);
            } else {
                self.flush.next.push(&mut self.links, tag);
            }
            return false;
        }
        self.flush.running = true;
        task.stage = Stage::Send;
        true
    }

    /// Answers those that waited for the running flush, and starts the next round.
    pub(super) fn end_flush_round(&mut self, result: Result<(), Errno>) {
        self.flush.running = false;
        while let Some(member) = self.flush.with_it.pop(&mut self.links) {
            self.tags[member.index()].stage = Stage::Answered(result);
            self.ready.push(&mut self.links, member);
        }
        if let Some(leader) = self.flush.next.pop(&mut self.links) {
            self.flush.with_it = mem::take(&mut self.flush.next);
            // looks at the latch once more on its way
            self.tags[leader.index()].stage = Stage::Enter;
            self.ready.push(&mut self.links, leader);
            if self.engine.flush_failed() {
                self.end_flush_round(Err(Errno::IO));
            }
        }
    }

    pub(super) fn finish_flush(&mut self, tag: Tag, result: Result<(), Errno>) -> Event {
        self.finish(tag, result.map(|()| 0))
    }
}
