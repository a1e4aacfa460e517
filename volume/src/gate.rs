//! Keeps requests out of a range whose key is being changed. Step 2 of the read path.
//!
//! A request enters with its whole range and gets a [`Guard`]; the guard carries the map that is
//! right for that range as long as the guard lives. Whoever wants to change the map freezes a
//! range first: new requests on it are held back, what is inside drains, and only then
//! [`IoGate::freeze`] returns. After the change [`Frozen::thaw`] publishes the new map and lets the
//! waiting requests in. The map changes only inside the frozen range, so requests elsewhere keep a
//! valid snapshot and never wait.
//!
//! # Cost and correctness
//! Every queue has its own [`Lane`]. Entering counts the request in a counter that only this lane
//! writes and then reads one shared word, the *generation*; nothing else is touched while it has
//! not moved. Freezing moves the generation first and reads the counters afterwards. Both sides
//! use sequentially consistent operations, so either the request sees the new generation (and
//! looks again), or the freezer sees the request in the counter (and waits for it). The tests at
//! the end run this under a scheduler that explores interleavings, and with each half of the
//! argument removed.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use sync::{AtomicU64, Condvar, Mutex, MutexGuard, Ordering};

/// The gate of one open volume. `M` is the map that is right for a range.
pub struct IoGate<M> {
    /// Moves with every freeze and every thaw.
    generation: AtomicU64,
    state: Mutex<State<M>>,
    drained: Condvar,
    thawed: Condvar,
}

struct State<M> {
    map: Arc<M>,
    frozen: Option<Range<u64>>,
    /// The counters of all lanes, of every generation that may still have requests inside.
    snapshots: Vec<Arc<Snapshot<M>>>,
    wakers: Vec<Arc<dyn Fn() + Send + Sync>>,
}

/// What one lane knows of one generation.
struct Snapshot<M> {
    generation: u64,
    map: Arc<M>,
    frozen: Option<Range<u64>>,
    in_flight: AtomicU64,
}

impl<M> IoGate<M> {
    /// A gate with nothing frozen.
    pub fn new(map: Arc<M>) -> Arc<Self> {
        Arc::new(Self {
            generation: AtomicU64::new(0),
            state: Mutex::new(State {
                map,
                frozen: None,
                snapshots: Vec::new(),
                wakers: Vec::new(),
            }),
            drained: Condvar::new(),
            thawed: Condvar::new(),
        })
    }

    /// An entrance for one queue thread.
    pub fn lane(self: &Arc<Self>) -> Lane<M> {
        let now = self.snapshot();
        Lane {
            gate: Arc::clone(self),
            now,
        }
    }

    /// Calls `wake` after every thaw, from the thread that thaws. A queue that keeps requests
    /// which could not enter looks at them again then; `wake` must not block.
    pub fn on_thaw(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.lock().wakers.push(Arc::new(wake));
    }

    /// Holds back new requests on `range` and waits until none is inside. One range at a time:
    /// a second freeze waits for the thaw of the first.
    ///
    /// The calling thread must hold no [`Guard`], else it waits for itself.
    pub fn freeze(&self, range: Range<u64>) -> Frozen<'_, M> {
        let mut state = self.lock();
        while state.frozen.is_some() {
            state = wait(&self.thawed, state);
        }
        state.frozen = Some(range.clone());
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        if !mutant::is(Mutant::NoDrain) {
            while state
                .snapshots
                .iter()
                .any(|s| s.generation < generation && s.in_flight.load(Ordering::SeqCst) > 0)
            {
                state = wait(&self.drained, state);
            }
        }
        Frozen { gate: self, range }
    }

    /// A fresh counter for a lane, with what is true now.
    fn snapshot(&self) -> Arc<Snapshot<M>> {
        let mut state = self.lock();
        // Moved only under this lock, so it fits what is copied beside it.
        let generation = self.generation.load(Ordering::SeqCst);
        let fresh = Arc::new(Snapshot {
            generation,
            map: Arc::clone(&state.map),
            frozen: state.frozen.clone(),
            in_flight: AtomicU64::new(0),
        });
        // An old counter at zero stays at zero: its lane has moved on, or is gone.
        state
            .snapshots
            .retain(|s| Arc::strong_count(s) > 1 || s.in_flight.load(Ordering::SeqCst) > 0);
        state.snapshots.push(Arc::clone(&fresh));
        fresh
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // Nothing in here can panic half way, so a poisoned lock holds good state.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One queue's entrance to the gate.
pub struct Lane<M> {
    gate: Arc<IoGate<M>>,
    now: Arc<Snapshot<M>>,
}

impl<M> Lane<M> {
    /// Lets a request on `range` (bytes of the volume) in, or returns `None` while part of the
    /// range is frozen; [`IoGate::on_thaw`] tells when to try again. Never blocks on the fast
    /// path, and allocates only in the first call after a freeze or a thaw.
    pub fn try_enter(&mut self, range: Range<u64>) -> Option<Guard<M>> {
        loop {
            if !mutant::is(Mutant::CountAfterLook) {
                self.now.in_flight.fetch_add(1, Ordering::SeqCst);
            }
            let unmoved = self.gate.generation.load(Ordering::SeqCst) == self.now.generation;
            if mutant::is(Mutant::CountAfterLook) {
                self.now.in_flight.fetch_add(1, Ordering::SeqCst);
            }
            let guard = Guard {
                gate: Arc::clone(&self.gate),
                at: Arc::clone(&self.now),
            };
            if unmoved {
                return match &self.now.frozen {
                    Some(frozen) if overlap(frozen, &range) => None,
                    _ => Some(guard),
                };
            }
            drop(guard);
            self.now = self.gate.snapshot();
        }
    }

    /// Lets a request on `range` in, waiting for as long as part of it is frozen.
    pub fn enter(&mut self, range: Range<u64>) -> Guard<M> {
        loop {
            if let Some(guard) = self.try_enter(range.clone()) {
                return guard;
            }
            let mut state = self.gate.lock();
            while state
                .frozen
                .as_ref()
                .is_some_and(|frozen| overlap(frozen, &range))
            {
                state = wait(&self.gate.thawed, state);
            }
        }
    }
}

/// A request that is inside. No overlapping range is frozen while it lives.
#[must_use = "the request counts as finished when its guard is dropped"]
pub struct Guard<M> {
    gate: Arc<IoGate<M>>,
    at: Arc<Snapshot<M>>,
}

impl<M> Guard<M> {
    /// The map that is right for the range of this request.
    pub fn map(&self) -> &M {
        &self.at.map
    }
}

impl<M> Drop for Guard<M> {
    fn drop(&mut self) {
        self.at.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.gate.generation.load(Ordering::SeqCst) != self.at.generation {
            // Somebody may be waiting for us. The lock makes sure that it either has not looked
            // at the counter yet or already sleeps.
            drop(self.gate.lock());
            self.gate.drained.notify_all();
        }
    }
}

/// A range that nobody is inside of.
///
/// Dropping it without [`thaw`](Self::thaw) leaves the range frozen: after a change that failed
/// half way no map is right for it, and waiting is better than reading with the wrong key.
#[must_use = "requests on the range wait until it is thawed"]
pub struct Frozen<'a, M> {
    gate: &'a IoGate<M>,
    range: Range<u64>,
}

impl<M> Frozen<'_, M> {
    /// The frozen range, in bytes of the volume.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Publishes `map`, if there is a new one, and lets requests in again. The new map may differ
    /// from the old one only inside the frozen range.
    pub fn thaw(self, map: Option<Arc<M>>) {
        let mut state = self.gate.lock();
        if let Some(map) = map
            && !mutant::is(Mutant::OldMapAfterThaw)
        {
            state.map = map;
        }
        state.frozen = None;
        self.gate.generation.fetch_add(1, Ordering::SeqCst);
        let wakers = state.wakers.clone();
        drop(state);
        self.gate.thawed.notify_all();
        for wake in wakers {
            wake();
        }
    }
}

impl<M> fmt::Debug for IoGate<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoGate").finish_non_exhaustive()
    }
}

impl<M> fmt::Debug for Lane<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl<M> fmt::Debug for Guard<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl<M> fmt::Debug for Frozen<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frozen")
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn wait<'a, T>(on: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    on.wait(guard)
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The standard library's primitives, or in this crate's unit tests those of a scheduler that
/// explores interleavings.
mod sync {
    #[cfg(test)]
    pub(super) use shuttle::sync::atomic::{AtomicU64, Ordering};
    #[cfg(test)]
    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    #[cfg(not(test))]
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
    #[cfg(not(test))]
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

/// The halves of the argument above, to be removed one at a time by the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    NoDrain,
    CountAfterLook,
    OldMapAfterThaw,
}

mod mutant {
    #[cfg(test)]
    thread_local! {
        pub(super) static ACTIVE: std::cell::Cell<Option<super::Mutant>> =
            const { std::cell::Cell::new(None) };
    }

    #[cfg(test)]
    pub(super) fn is(mutant: super::Mutant) -> bool {
        ACTIVE.with(|active| active.get() == Some(mutant))
    }

    #[cfg(not(test))]
    pub(super) const fn is(_: super::Mutant) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shuttle::thread;

    /// The "disk" is one cell per byte of the volume that says under which key its data is; a
    /// request reads its cells and must find the key that its map names for them.
    struct KeyMap([u8; 4]);

    fn rotate_under_load() {
        let gate = IoGate::new(Arc::new(KeyMap([0; 4])));
        let disk: Arc<Vec<AtomicU64>> = Arc::new((0..4).map(|_| AtomicU64::new(0)).collect());
        let users: Vec<_> = (0..2)
            .map(|user: u64| {
                let mut lane = gate.lane();
                let disk = Arc::clone(&disk);
                thread::spawn(move || {
                    for round in 0..3 {
                        // Across the border of the frozen range, inside it, and outside.
                        let range = match (user + round) % 3 {
                            0 => 1..3,
                            1 => 2..4,
                            _ => 0..1,
                        };
                        let guard = if user == 0 {
                            lane.enter(range.clone())
                        } else {
                            match lane.try_enter(range.clone()) {
                                Some(guard) => guard,
                                None => continue,
                            }
                        };
                        for at in range {
                            let key = disk[at as usize].load(Ordering::SeqCst);
                            assert_eq!(key, u64::from(guard.map().0[at as usize]), "wrong key");
                        }
                    }
                })
            })
            .collect();
        for frozen in [2..4u64, 0..2] {
            let zone = gate.freeze(frozen.clone());
            let mut map = KeyMap([0; 4]);
            for at in 0..4 {
                if zone.range().contains(&at) {
                    disk[at as usize].store(1, Ordering::SeqCst);
                }
                map.0[at as usize] = disk[at as usize].load(Ordering::SeqCst) as u8;
            }
            zone.thaw(Some(Arc::new(map)));
        }
        for user in users {
            user.join().unwrap();
        }
    }

    /// Runs the scenario under `schedules` seeded schedules with one half of the gate removed.
    fn found_with(mutant: Option<Mutant>, schedules: usize) -> bool {
        let run = move || {
            mutant::ACTIVE.with(|active| active.set(mutant));
            rotate_under_load();
        };
        std::panic::catch_unwind(|| shuttle::check_random(run, schedules)).is_err()
    }

    #[test]
    fn no_request_sees_a_key_that_its_map_does_not_name() {
        assert!(!found_with(None, 5_000));
    }

    #[test]
    fn every_half_of_the_argument_is_needed() {
        for mutant in [
            Mutant::NoDrain,
            Mutant::CountAfterLook,
            Mutant::OldMapAfterThaw,
        ] {
            assert!(found_with(Some(mutant), 5_000), "{mutant:?} was not caught");
        }
    }
}
