//! The simulated disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use super::rng::Rng;
use super::snapshot::{Pending, Snapshot, Versions};
use crate::device::{BlockDevice, MetadataDevice, check_range};
use crate::lock::{LockError, LockMode, Wait};
use crate::mutant::{Mutant, Switches};

/// A handle of a simulated disk; clones are handles of the same disk, like several programs that
/// opened one device.
#[derive(Clone)]
pub struct SimDisk {
    state: Rc<RefCell<State>>,
    switches: Switches,
    read_only: bool,
}

/// One operation as the disk saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A read of this range of bytes.
    Read(Range<u64>),
    /// A write of this range of bytes.
    Write(Range<u64>),
    /// A flush.
    Flush,
}

/// How an operation goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails. A write has then reached any selection of its sectors; a flush has made nothing
    /// durable.
    Error,
    /// A flush fails, and what was unflushed is lost for ever although it stays visible.
    ErrorAndLoss,
    /// A write is acknowledged and never done.
    Lost,
}

struct State {
    unit: usize,
    visible: Rc<Vec<u8>>,
    durable: Rc<Vec<u8>>,
    pending: BTreeMap<usize, Versions>,
    ops: Vec<Op>,
    failed_at: Option<usize>,
    faults: BTreeMap<usize, Fault>,
    unreadable: Vec<usize>,
    snapshots: Option<Vec<Snapshot>>,
    deaths: Option<Vec<Snapshot>>,
    rng: Rng,
    shared: usize,
    exclusive: bool,
    hook: Option<Hook>,
}

type Hook = Box<dyn FnMut(usize)>;

impl SimDisk {
    /// A disk with this content, all of it durable, and physical sectors of `unit` bytes.
    pub fn new(image: Rc<Vec<u8>>, unit: usize, seed: u64) -> Self {
        assert!(
            unit.is_power_of_two() && unit >= 512,
            "sectors of {unit} bytes"
        );
        Self::from_state(Rc::clone(&image), image, BTreeMap::new(), unit, seed)
    }

    /// The disk of a snapshot after only the process died: what was not durable still is not.
    pub fn after_death(snapshot: &Snapshot, seed: u64) -> Self {
        let pending = snapshot
            .pending
            .iter()
            .map(|p| (p.unit, p.versions.clone()))
            .collect();
        Self::from_state(
            Rc::clone(&snapshot.visible),
            Rc::clone(&snapshot.durable),
            pending,
            snapshot.unit,
            seed,
        )
    }

    fn from_state(
        visible: Rc<Vec<u8>>,
        durable: Rc<Vec<u8>>,
        pending: BTreeMap<usize, Versions>,
        unit: usize,
        seed: u64,
    ) -> Self {
        Self {
            state: Rc::new(RefCell::new(State {
                unit,
                visible,
                durable,
                pending,
                ops: Vec::new(),
                failed_at: None,
                faults: BTreeMap::new(),
                unreadable: Vec::new(),
                snapshots: None,
                deaths: None,
                rng: Rng::new(seed),
                shared: 0,
                exclusive: false,
                hook: None,
            })),
            switches: Switches::default(),
            read_only: false,
        }
    }

    /// A handle through which the header store lacks one protection.
    #[must_use]
    pub fn without(mut self, mutant: Option<Mutant>) -> Self {
        self.switches = mutant.map_or_else(Switches::default, Switches::without);
        self
    }

    /// A handle for reading only.
    #[must_use]
    pub fn for_reading(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// From now on takes a snapshot before each flush, where a power cut has the most to choose
    /// from, and after each write, where the death of the process leaves something new.
    pub fn record(&self) {
        let mut state = self.state.borrow_mut();
        state.snapshots = Some(Vec::new());
        state.deaths = Some(Vec::new());
    }

    /// The snapshots before each flush so far, and one of now.
    pub fn power_cuts(&self) -> Vec<Snapshot> {
        let mut state = self.state.borrow_mut();
        let now = state.snapshot();
        let mut snapshots = state.snapshots.take().unwrap_or_default();
        snapshots.push(now);
        snapshots
    }

    /// The snapshots in the middle of and after each write so far.
    pub fn deaths(&self) -> Vec<Snapshot> {
        self.state.borrow_mut().deaths.take().unwrap_or_default()
    }

    /// This moment.
    pub fn snapshot(&self) -> Snapshot {
        self.state.borrow().snapshot()
    }

    /// The content as reads see it.
    pub fn visible(&self) -> Rc<Vec<u8>> {
        Rc::clone(&self.state.borrow().visible)
    }

    /// What has been asked of the disk so far.
    pub fn ops(&self) -> Vec<Op> {
        self.state.borrow().ops.clone()
    }

    /// The number of the first operation that failed.
    pub fn failed_at(&self) -> Option<usize> {
        self.state.borrow().failed_at
    }

    /// Lets operation number `op` (counted over reads, writes and flushes) go wrong.
    pub fn fail(&self, op: usize, fault: Fault) {
        self.state.borrow_mut().faults.insert(op, fault);
    }

    /// Makes the physical sector at this byte unreadable until it is written, as a worn medium does.
    pub fn wear_out(&self, offset: u64) {
        let mut state = self.state.borrow_mut();
        let unit = offset as usize / state.unit;
        state.unreadable.push(unit);
    }

    /// Calls `hook` with the number of each operation before it is done. The hook may use other
    /// handles of the disk; it is not called for what it does itself.
    pub fn on_each_op(&self, hook: impl FnMut(usize) + 'static) {
        self.state.borrow_mut().hook = Some(Box::new(hook));
    }

    /// Counts the operation, calls the hook, says what goes wrong.
    fn begin(&self, op: Op) -> Option<Fault> {
        let (number, hook) = {
            let mut state = self.state.borrow_mut();
            state.ops.push(op);
            (state.ops.len() - 1, state.hook.take())
        };
        if let Some(mut hook) = hook {
            hook(number);
            self.state.borrow_mut().hook.get_or_insert(hook);
        }
        let mut state = self.state.borrow_mut();
        let fault = state.faults.remove(&number);
        if fault.is_some() {
            state.failed_at.get_or_insert(number);
        }
        fault
    }
}

impl State {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            at: self.ops.len(),
            unit: self.unit,
            durable: Rc::clone(&self.durable),
            visible: Rc::clone(&self.visible),
            pending: self
                .pending
                .iter()
                .map(|(unit, versions)| Pending {
                    unit: *unit,
                    versions: versions.clone(),
                })
                .collect(),
        }
    }

    /// Brings the sectors of a write that `which` selects into the cache.
    fn write(&mut self, offset: u64, from: &[u8], mut which: impl FnMut(usize) -> bool) {
        let (start, end) = (offset as usize, offset as usize + from.len());
        let write = self.ops.len();
        let len = self.visible.len();
        let (first, last) = (start / self.unit, end.div_ceil(self.unit));
        let half = first + (last - first) / 2;
        for unit in first..last {
            if unit == half && unit > first {
                self.die_here();
            }
            if !which(unit) {
                continue;
            }
            self.unreadable.retain(|bad| *bad != unit);
            let sector = unit * self.unit..((unit + 1) * self.unit).min(len);
            let part = start.max(sector.start)..end.min(sector.end);
            let visible = Rc::make_mut(&mut self.visible);
            visible[part.clone()].copy_from_slice(&from[part.start - start..part.end - start]);
            let version = Rc::from(&visible[sector]);
            self.pending.entry(unit).or_default().push((write, version));
        }
        self.die_here();
    }

    fn die_here(&mut self) {
        if self.deaths.is_some() {
            let now = self.snapshot();
            self.deaths.get_or_insert_default().push(now);
        }
    }

    fn flush(&mut self) {
        let (unit, len) = (self.unit, self.durable.len());
        let durable = Rc::make_mut(&mut self.durable);
        for (number, versions) in std::mem::take(&mut self.pending) {
            if let Some((_, bytes)) = versions.last() {
                let at = number * unit;
                durable[at..(at + unit).min(len)].copy_from_slice(bytes);
            }
        }
    }
}

impl BlockDevice for SimDisk {
    fn len(&self) -> u64 {
        self.state.borrow().visible.len() as u64
    }

    fn logical_block(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        check_range(offset, into.len(), self.len())?;
        let fault = self.begin(Op::Read(offset..offset + into.len() as u64));
        if fault.is_some() {
            return Err(broken("read"));
        }
        let state = self.state.borrow();
        let start = offset as usize;
        let units = start / state.unit..(start + into.len()).div_ceil(state.unit);
        if state.unreadable.iter().any(|unit| units.contains(unit)) {
            return Err(broken("read"));
        }
        into.copy_from_slice(&state.visible[start..start + into.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        check_range(offset, from.len(), self.len())?;
        assert!(!self.read_only, "a write through a handle for reading");
        let fault = self.begin(Op::Write(offset..offset + from.len() as u64));
        let mut state = self.state.borrow_mut();
        match fault {
            None => {
                state.write(offset, from, |_| true);
                Ok(())
            }
            Some(Fault::Lost) => Ok(()),
            Some(_) => {
                let mut rng = state.rng.clone();
                state.rng.next_u64();
                state.write(offset, from, |_| rng.one_in(2));
                Err(broken("write"))
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        let fault = self.begin(Op::Flush);
        let mut state = self.state.borrow_mut();
        if state.snapshots.is_some() {
            let now = state.snapshot();
            state.snapshots.get_or_insert_default().push(now);
        }
        match fault {
            None => {
                state.flush();
                Ok(())
            }
            Some(Fault::ErrorAndLoss) => {
                state.pending.clear();
                Err(broken("flush"))
            }
            Some(_) => Err(broken("flush")),
        }
    }
}

/// A held lock of a simulated disk.
pub struct Held {
    state: Rc<RefCell<State>>,
    mode: LockMode,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        match self.mode {
            LockMode::Shared => state.shared -= 1,
            LockMode::Exclusive => state.exclusive = false,
        }
    }
}

impl MetadataDevice for SimDisk {
    type Held = Held;

    /// Never waits: in a simulation nobody would release the lock meanwhile.
    fn lock(&self, mode: LockMode, _wait: Wait) -> Result<Held, LockError> {
        let mut state = self.state.borrow_mut();
        if state.exclusive || (mode == LockMode::Exclusive && state.shared > 0) {
            return Err(LockError::Busy {
                path: PathBuf::from("simulated disk"),
            });
        }
        match mode {
            LockMode::Shared => state.shared += 1,
            LockMode::Exclusive => state.exclusive = true,
        }
        Ok(Held {
            state: Rc::clone(&self.state),
            mode,
        })
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn random(&self, into: &mut [u8]) -> io::Result<()> {
        self.state.borrow_mut().rng.fill(into);
        Ok(())
    }

    fn switches(&self) -> Switches {
        self.switches
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow();
        f.debug_struct("SimDisk")
            .field("len", &state.visible.len())
            .field("unit", &state.unit)
            .field("ops", &state.ops.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

fn broken(what: &str) -> io::Error {
    // EIO, as a kernel would say it.
    io::Error::other(format!("simulated failure of a {what}"))
}
