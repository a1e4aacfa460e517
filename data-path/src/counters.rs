//! What a queue has done so far, readable from another thread without a lock.
//!
//! Each counter has one writer, the queue's own thread, so adding is a load and a
//! store and never a locked instruction. A snapshot is not one instant: counters
//! read a moment apart may differ by the requests of that moment.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Number of latency classes; see [`latency_class`].
pub const LATENCY_CLASSES: usize = 24;

/// Counters of one queue. One thread adds, any thread reads.
#[derive(Debug, Default)]
pub struct QueueCounters {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) fua_writes: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) discards: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) short: AtomicU64,
    pub(crate) gate_waits: AtomicU64,
    pub(crate) slot_waits: AtomicU64,
    pub(crate) syncs_sent: AtomicU64,
    latency: [AtomicU64; LATENCY_CLASSES],
}

/// A copy of the counters of one queue, or the sum over several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountersSnapshot {
    /// Reads answered, failed ones included.
    pub reads: u64,
    /// Writes answered, failed ones included.
    pub writes: u64,
    /// Those of the writes that asked to be durable when answered.
    pub fua_writes: u64,
    /// Flushes answered, failed ones included.
    pub flushes: u64,
    /// Discards answered, failed ones included.
    pub discards: u64,
    /// Plaintext bytes of the reads that succeeded.
    pub bytes_read: u64,
    /// Plaintext bytes of the writes that succeeded.
    pub bytes_written: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Operations sent again because the kernel said "not now".
    pub retries: u64,
    /// Operations that moved less than asked and were continued.
    pub short: u64,
    /// Requests that waited at the gate.
    pub gate_waits: u64,
    /// Requests that waited for a buffer.
    pub slot_waits: u64,
    /// `fdatasync` operations sent to the backing (one may answer several flushes).
    pub syncs_sent: u64,
    /// Requests by time from begin to answer: class 0 is under 1 µs, class `n` is
    /// from 2^(n-1) µs to under 2^n µs, the last class has no upper end.
    pub latency: [u64; LATENCY_CLASSES],
}

/// Adds to a counter that only this thread writes.
pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// The class of a latency: 0 under one microsecond, then one per power of two.
#[must_use]
pub fn latency_class(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    let class = (u64::BITS - micros.leading_zeros()) as usize;
    class.min(LATENCY_CLASSES - 1)
}

impl QueueCounters {
    pub(crate) fn record_latency(&self, latency: Duration) {
        add(&self.latency[latency_class(latency)], 1);
    }

    /// The counters as they are now.
    #[must_use]
    pub fn snapshot(&self) -> CountersSnapshot {
        CountersSnapshot {
            reads: self.reads.load(Relaxed),
            writes: self.writes.load(Relaxed),
            fua_writes: self.fua_writes.load(Relaxed),
            flushes: self.flushes.load(Relaxed),
            discards: self.discards.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            errors: self.errors.load(Relaxed),
            retries: self.retries.load(Relaxed),
            short: self.short.load(Relaxed),
            gate_waits: self.gate_waits.load(Relaxed),
            slot_waits: self.slot_waits.load(Relaxed),
            syncs_sent: self.syncs_sent.load(Relaxed),
            latency: std::array::from_fn(|class| self.latency[class].load(Relaxed)),
        }
    }
}

impl CountersSnapshot {
    /// Adds the counters of another queue.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            reads,
            writes,
            fua_writes,
            flushes,
            discards,
            bytes_read,
            bytes_written,
            errors,
            retries,
            short,
            gate_waits,
            slot_waits,
            syncs_sent,
            latency,
        } = self;
        *reads += other.reads;
        *writes += other.writes;
        *fua_writes += other.fua_writes;
        *flushes += other.flushes;
        *discards += other.discards;
        *bytes_read += other.bytes_read;
        *bytes_written += other.bytes_written;
        *errors += other.errors;
        *retries += other.retries;
        *short += other.short;
        *gate_waits += other.gate_waits;
        *slot_waits += other.slot_waits;
        *syncs_sent += other.syncs_sent;
        for (mine, theirs) in latency.iter_mut().zip(other.latency) {
            *mine += theirs;
        }
    }

    /// Requests of every kind.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.reads + self.writes + self.flushes + self.discards
    }

    /// The time under which `share` (0 to 1) of the requests were answered: the upper
    /// end of the class in which that request lies. `None` without requests.
    #[must_use]
    pub fn latency_below(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.latency.iter().sum();
        if total == 0 {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank among counted requests; rounding by one does not matter"
        )]
        let rank = ((total as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (class, count) in self.latency.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(Duration::from_micros(1 << class));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_classes_are_powers_of_two_microseconds() {
        assert_eq!(latency_class(Duration::from_nanos(999)), 0);
        assert_eq!(latency_class(Duration::from_micros(1)), 1);
        assert_eq!(latency_class(Duration::from_micros(2)), 2);
        assert_eq!(latency_class(Duration::from_micros(3)), 2);
        assert_eq!(latency_class(Duration::from_micros(4)), 3);
        assert_eq!(
            latency_class(Duration::from_secs(1 << 40)),
            LATENCY_CLASSES - 1
        );
    }

    #[test]
    fn the_median_lies_in_the_class_of_the_middle_request() {
        let counters = QueueCounters::default();
        for micros in [1, 1, 5, 100, 100_000] {
            counters.record_latency(Duration::from_micros(micros));
        }
        let snapshot = counters.snapshot();
        assert_eq!(snapshot.latency_below(0.5), Some(Duration::from_micros(8)));
        assert_eq!(
            snapshot.latency_below(1.0),
            Some(Duration::from_micros(131_072))
        );
        assert_eq!(CountersSnapshot::default().latency_below(0.5), None);
    }

    #[test]
    fn merging_adds_every_field() {
        let counters = QueueCounters::default();
        for counter in [
            &counters.reads,
            &counters.writes,
            &counters.fua_writes,
            &counters.flushes,
            &counters.discards,
            &counters.bytes_read,
            &counters.bytes_written,
            &counters.errors,
            &counters.retries,
            &counters.short,
            &counters.gate_waits,
            &counters.slot_waits,
            &counters.syncs_sent,
        ] {
            add(counter, 3);
        }
        counters.record_latency(Duration::from_micros(7));
        let once = counters.snapshot();
        let mut twice = once.clone();
        twice.merge(&once);
        let json = |s: &CountersSnapshot| format!("{s:?}");
        assert_eq!(
            json(&twice),
            json(&once).replace(": 3", ": 6").replace("1, ", "2, ")
        );
    }
}
