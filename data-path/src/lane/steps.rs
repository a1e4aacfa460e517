//! What happens to a request from the gate to the answer, one function per step.

use std::mem;

use luksmith_crypto::{Part, decrypt_parts, encrypt_parts};
use nix::libc;

use super::mutant::{self, Mutant};
use super::task::{Buffer, Piece, Stage};
use super::{Event, Lane, Slots};
use crate::alloc_guard::may_allocate;
use crate::counters::add;
use crate::engine::DiscardBy;
use crate::errno::{Errno, is_transient};
use crate::exchange::{Exchange, Tag};
use crate::request::Request;
use crate::uring::{Op, PAUSE_STEPS, Submission};

impl Lane {
    pub(super) fn step(&mut self, tag: Tag, exchange: &mut impl Exchange) -> Option<Event> {
        loop {
            let go_on = match self.tags[tag.index()].stage {
                Stage::Enter => self.enter(tag),
                Stage::WantsSlot => self.take_slot(tag),
                Stage::NextPiece => match self.next_piece(tag, exchange) {
                    Ok(()) => true,
                    Err(errno) => return Some(self.finish(tag, Err(errno))),
                },
                Stage::Send => return Some(self.send(tag)),
                Stage::Arrived(result) => match self.arrived(tag, result, exchange) {
                    Next::GoOn => true,
                    Next::Wait => false,
                    Next::Event(event) => return Some(event),
                },
                Stage::Believed => return Some(self.believed(tag)),
                Stage::Answered(result) => return Some(self.finish(tag, result.map(|()| 0))),
                // these are never in the ready queue
                Stage::Idle
                | Stage::AtGate
                | Stage::InKernel
                | Stage::Paused
                | Stage::Withheld
                | Stage::InRound => unreachable!("a tag that waits is not ready"),
            };
            if !go_on {
                return None;
            }
        }
    }

    /// Step 1: through the gate. Returns whether the task can go on.
    fn enter(&mut self, tag: Tag) -> bool {
        let task = &mut self.tags[tag.index()];
        let range = match task.request {
            Request::Read(range) | Request::Write { range, .. } | Request::Discard(range) => range,
            Request::Flush => return self.join_flush(tag),
        };
        let end = range.start() + u64::from(range.len());
        // The first request after a change of the map copies what the gate says now.
        let Some(guard) = may_allocate(|| self.gate.try_enter(range.start()..end)) else {
            task.stage = Stage::AtGate;
            add(&self.counters.gate_waits, 1);
            self.waiting_at_gate.push(&mut self.links, tag);
            return false;
        };
        task.guard = Some(guard);
        task.stage = match task.request {
            Request::Discard(_) => Stage::NextPiece,
            _ => Stage::WantsSlot,
        };
        true
    }

    /// Step 2: a slot, or a place in the line for one.
    fn take_slot(&mut self, tag: Tag) -> bool {
        let class = self.class_of(tag);
        if self.waiting_for_slot[class].is_empty()
            && let Some(Slots(arena)) = &self.slots[class]
            && let Some(blank) = arena.take()
        {
            let task = &mut self.tags[tag.index()];
            task.buffer = Buffer::Blank(blank);
            task.stage = Stage::NextPiece;
            return true;
        }
        add(&self.counters.slot_waits, 1);
        self.waiting_for_slot[class].push(&mut self.links, tag);
        false
    }

    /// Step 3: the next piece of the request; a write's plaintext comes in and becomes
    /// ciphertext here.
    fn next_piece(&mut self, tag: Tag, exchange: &mut impl Exchange) -> Result<(), Errno> {
        let task = &mut self.tags[tag.index()];
        let extent = task.extent();
        // A request is shorter than 4 GiB, so is every piece of it.
        let len = extent.len as u32;
        task.piece = Piece {
            len,
            backing_offset: extent.backing_offset,
            done: 0,
            by_block_command: false,
        };
        if let Request::Write { .. } = task.request {
            let Buffer::Blank(blank) = mem::replace(&mut task.buffer, Buffer::None) else {
                unreachable!("a piece begins with a blank buffer")
            };
            let moved = task.moved;
            let filled = blank.fill_plain(len as usize, |into| exchange.copy_in(tag, moved, into));
            let extent = task.extent();
            match filled {
                Ok(plain) => {
                    let part = Part {
                        len: plain.len(),
                        cipher: extent.cipher,
                        iv: extent.iv,
                    };
                    task.buffer = Buffer::Cipher(encrypt_parts(plain, &[part]));
                }
                Err((blank, _)) => {
                    task.buffer = Buffer::Blank(blank);
                    return Err(Errno::IO);
                }
            }
        }
        task.tries = 0;
        task.stage = Stage::Send;
        Ok(())
    }

    /// Step 4: the operation for what is left of the piece.
    fn send(&mut self, tag: Tag) -> Event {
        let class = self.class_of(tag);
        let buffer = self.buffer_index(class);
        let task = &mut self.tags[tag.index()];
        let Piece {
            len,
            backing_offset,
            done,
            ..
        } = task.piece;
        let rest = len - done;
        let offset = backing_offset + u64::from(done);
        let op = match (task.request, &mut task.buffer) {
            (Request::Read(_), Buffer::Blank(blank)) => {
                let at = blank.as_mut_ptr().wrapping_add(done as usize);
                Op::Read {
                    at,
                    len: rest,
                    offset,
                    buffer,
                }
            }
            (Request::Write { fua, .. }, Buffer::Cipher(cipher)) => {
                let at = cipher.as_ptr().wrapping_add(done as usize);
                Op::Write {
                    at,
                    len: rest,
                    offset,
                    buffer,
                    durable: fua && !mutant::is(Mutant::NoFua),
                }
            }
            (Request::Discard(_), _) => {
                task.piece.by_block_command = self.engine.discard_by() == DiscardBy::BlockCommand;
                if task.piece.by_block_command {
                    Op::BlockDiscard { offset, len: rest }
                } else {
                    Op::PunchHole { offset, len: rest }
                }
            }
            (Request::Flush, _) => {
                add(&self.counters.syncs_sent, 1);
                Op::Sync
            }
            (Request::Read(_) | Request::Write { .. }, _) => {
                unreachable!("a read sends a blank buffer, a write a full one")
            }
        };
        task.stage = Stage::InKernel;
        self.in_kernel += 1;
        self.goes_out(tag);
        Event::Submit(Submission {
            tag,
            target: self.target,
            op,
        })
    }

    /// Step 5: what the kernel said.
    fn arrived(&mut self, tag: Tag, result: i32, exchange: &mut impl Exchange) -> Next {
        self.is_back(tag, result);
        let task = &mut self.tags[tag.index()];
        if result < 0 {
            return self.refused(tag, -result);
        }
        match task.request {
            Request::Flush => self.withhold(tag),
            Request::Discard(_) => self.piece_done(tag),
            Request::Read(_) | Request::Write { .. } => {
                let rest = task.piece.len - task.piece.done;
                let moved = result as u32;
                // Nothing moved: the end of the backing, or a device that does not work.
                // More than asked is no answer that can be built on.
                if (moved == 0 && !mutant::is(Mutant::NothingIsEnough)) || moved > rest {
                    return Next::Event(self.finish(tag, Err(Errno::IO)));
                }
                if moved < rest && !mutant::is(Mutant::ShortIsWhole) {
                    return self.short(tag, moved);
                }
                if let Request::Read(_) = task.request
                    && self.hand_out(tag, exchange).is_err()
                {
                    return Next::Event(self.finish(tag, Err(Errno::IO)));
                }
                self.piece_done(tag)
            }
        }
    }

    /// The backing moved less than asked: goes on from the last whole block.
    fn short(&mut self, tag: Tag, moved: u32) -> Next {
        add(&self.counters.short, 1);
        let whole = if mutant::is(Mutant::NoRounding) {
            moved
        } else {
            moved & !self.align_mask
        };
        if whole == 0 {
            // no progress: as good as "not now"
            return self.try_again(tag, Errno::IO);
        }
        let task = &mut self.tags[tag.index()];
        task.piece.done += whole;
        task.tries = 0;
        task.stage = Stage::Send;
        Next::GoOn
    }

    /// The operation failed with this (positive) number.
    fn refused(&mut self, tag: Tag, raw: i32) -> Next {
        if is_transient(raw) && !self.is_told_of_loss(tag, raw) {
            return self.try_again(tag, Errno::IO);
        }
        let task = &mut self.tags[tag.index()];
        match task.request {
            Request::Flush => {
                let failed = Err(Errno::upward(raw));
                self.end_flush_round(failed);
                Next::Event(self.finish_flush(tag, failed))
            }
            Request::Discard(_)
                if task.piece.by_block_command
                    && matches!(raw, libc::EOPNOTSUPP | libc::EINVAL | libc::ENOTTY) =>
            {
                // a kernel that does not know the command: the other way, from now on
                self.engine.block_command_is_unknown();
                task.stage = Stage::Send;
                Next::GoOn
            }
            Request::Write { .. } if mutant::is(Mutant::IgnoreError) => self.piece_done(tag),
            _ => Next::Event(self.finish(tag, Err(Errno::upward(raw)))),
        }
    }

    /// Sends again: the first time at once, then after growing pauses, and at last not
    /// any more.
    fn try_again(&mut self, tag: Tag, or: Errno) -> Next {
        let task = &mut self.tags[tag.index()];
        let try_number = task.tries;
        if try_number == MAX_TRIES {
            if task.request == Request::Flush {
                self.engine.latch_flush_failure();
                self.end_flush_round(Err(or));
                return Next::Event(self.finish_flush(tag, Err(or)));
            }
            return Next::Event(self.finish(tag, Err(or)));
        }
        task.tries += 1;
        add(&self.counters.retries, 1);
        if try_number == 0 {
            task.stage = Stage::Send;
            return Next::GoOn;
        }
        task.stage = Stage::Paused;
        self.in_kernel += 1;
        let op = Op::Pause(usize::from(try_number - 1));
        Next::Event(Event::Submit(Submission {
            tag,
            target: self.target,
            op,
        }))
    }

    /// Step 6 of a read: ciphertext becomes plaintext and leaves.
    fn hand_out(&mut self, tag: Tag, exchange: &mut impl Exchange) -> std::io::Result<()> {
        let task = &mut self.tags[tag.index()];
        let Buffer::Blank(blank) = mem::replace(&mut task.buffer, Buffer::None) else {
            unreachable!("a read fills a blank buffer")
        };
        let extent = task.extent();
        let cipher = blank.assume_cipher(task.piece.len as usize);
        let part = Part {
            len: cipher.len(),
            cipher: extent.cipher,
            iv: extent.iv,
        };
        let plain = decrypt_parts(cipher, &[part]);
        let taken = exchange.copy_out(tag, task.moved, plain.as_plain());
        task.buffer = Buffer::Blank(plain.recycle());
        taken
    }

    fn piece_done(&mut self, tag: Tag) -> Next {
        let task = &mut self.tags[tag.index()];
        task.buffer = match mem::replace(&mut task.buffer, Buffer::None) {
            Buffer::Cipher(sent) => Buffer::Blank(sent.recycle()),
            other => other,
        };
        task.moved += task.piece.len;
        if task.moved < task.len() {
            task.stage = Stage::NextPiece;
            return Next::GoOn;
        }
        if task.teller().is_some() {
            return self.withhold(tag);
        }
        let whole = task.moved;
        Next::Event(self.finish(tag, Ok(whole)))
    }

    /// The last step: counts, frees, and passes the slot on.
    pub(super) fn finish(&mut self, tag: Tag, result: Result<u32, Errno>) -> Event {
        let class = self.class_of(tag);
        let task = &mut self.tags[tag.index()];
        // What succeeded beside a failure may have been told nothing of data that is lost.
        let result = match result {
            Ok(_) if task.teller().is_some() && self.engine.flush_failed() => Err(Errno::IO),
            result => result,
        };
        task.stage = Stage::Idle;
        task.guard = None;
        let counters = &self.counters;
        let bytes = result.map_or(0, u64::from);
        match task.request {
            Request::Read(_) => {
                add(&counters.reads, 1);
                add(&counters.bytes_read, bytes);
            }
            Request::Write { fua, .. } => {
                add(&counters.writes, 1);
                add(&counters.fua_writes, u64::from(fua));
                add(&counters.bytes_written, bytes);
            }
            Request::Flush => add(&counters.flushes, 1),
            Request::Discard(_) => add(&counters.discards, 1),
        }
        if result.is_err() {
            add(&counters.errors, 1);
        }
        counters.record_latency(task.began.elapsed());
        self.under_way -= 1;
        let blank = match mem::replace(&mut task.buffer, Buffer::None) {
            Buffer::None => None,
            Buffer::Blank(blank) => Some(blank),
            Buffer::Cipher(cipher) => Some(cipher.recycle()),
        };
        if let Some(blank) = blank
            && let Some(first) = self.waiting_for_slot[class].pop(&mut self.links)
        {
            let waiting = &mut self.tags[first.index()];
            waiting.buffer = Buffer::Blank(blank);
            waiting.stage = Stage::NextPiece;
            self.ready.push(&mut self.links, first);
        }
        Event::Done { tag, result }
    }
}

pub(super) enum Next {
    GoOn,
    /// The tag waits, or is in the ready queue.
    Wait,
    Event(Event),
}

/// One try at once and then with pauses: about half a minute in all.
pub(super) const MAX_TRIES: u16 = 1 + PAUSE_STEPS as u16 + 29;
