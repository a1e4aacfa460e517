//! One operation on a header, and everything that may happen to it.

use std::collections::HashSet;
use std::rc::Rc;

use luksmith_luks2::{Area, Change, Header, HeaderCopy, Label};
use luksmith_volume::sim::{Fault, Op, Rng, SimDisk, Snapshot};
use luksmith_volume::{HeaderStore, LockMode, Mutant, StoreError};

use crate::world::{Judge, Known, header_print};

/// What an operation does to the disk, through the store.
pub(crate) type Run = Box<dyn Fn(SimDisk) -> Result<(), StoreError>>;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// The disk before, all of it durable.
    pub(crate) start: Rc<Vec<u8>>,
    /// The states that a crash may leave; the last is the one after the operation.
    pub(crate) known: Vec<Known>,
    pub(crate) may_be_none: bool,
    /// Both copies may be in the cache at once: the old header is being given up.
    pub(crate) gives_up_old: bool,
    /// Material that must be overwritten once the operation is acknowledged.
    pub(crate) gone: Vec<(Area, Vec<u8>)>,
    pub(crate) run: Run,
}

/// How hard to look.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Physical sector in bytes.
    pub(crate) unit: usize,
    /// Contents per moment of the operation; all of them if there are no more.
    pub(crate) limit: usize,
    /// Contents per moment of what follows a fault, a death, or a recovery.
    pub(crate) side_limit: usize,
    /// Recoveries per moment that are run and cut themselves.
    pub(crate) recoveries: usize,
    pub(crate) seed: u64,
}

#[derive(Default, Debug, Clone, Copy)]
pub(crate) struct Stats {
    pub(crate) states: usize,
    pub(crate) recoveries: usize,
    pub(crate) deaths: usize,
    pub(crate) faults: usize,
    pub(crate) partial: usize,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.states += other.states;
        self.recoveries += other.recoveries;
        self.deaths += other.deaths;
        self.faults += other.faults;
        self.partial += other.partial;
    }
}

type Verdict<T> = Result<T, String>;

impl Scenario {
    /// Every power cut, every death of the process, every failing operation.
    pub(crate) fn explore(&self, mutant: Option<Mutant>, effort: Effort) -> Verdict<Stats> {
        let mut search = Search {
            scenario: self,
            judge: Judge::new(self.known.clone(), self.may_be_none, mutant),
            recovered: HashSet::new(),
            mutant,
            effort,
            rng: Rng::new(effort.seed),
            stats: Stats::default(),
        };
        let told = |part: &str, e: String| {
            format!("{}, {part}, {} byte sectors: {e}", self.name, effort.unit)
        };
        search.power_cuts().map_err(|e| told("power cut", e))?;
        search
            .deaths()
            .map_err(|e| told("death of the process", e))?;
        search.faults().map_err(|e| told("failing device", e))?;
        Ok(search.stats)
    }
}

struct Search<'a> {
    scenario: &'a Scenario,
    judge: Judge,
    /// Header regions whose recovery was cut before, and to which state it led.
    recovered: HashSet<(u64, usize)>,
    mutant: Option<Mutant>,
    effort: Effort,
    rng: Rng,
    stats: Stats,
}

impl Search<'_> {
    fn disk(&self, image: &Rc<Vec<u8>>) -> SimDisk {
        SimDisk::new(Rc::clone(image), self.effort.unit, self.effort.seed).without(self.mutant)
    }

    fn last(&self) -> usize {
        self.judge.known().len() - 1
    }

    fn power_cuts(&mut self) -> Verdict<()> {
        let disk = self.disk(&self.scenario.start);
        disk.record();
        (self.scenario.run)(disk.clone()).map_err(|e| format!("it failed without a fault: {e}"))?;
        self.one_copy_at_a_time(&disk.ops())?;
        let mut snapshots = disk.power_cuts();
        let end = snapshots.pop().ok_or("no snapshot")?;
        for snapshot in &snapshots {
            self.cut(snapshot, None, self.effort.limit, 2)?;
        }
        self.acknowledged(&end)
    }

    /// H6: between two flushes only one copy has unsynced writes.
    fn one_copy_at_a_time(&self, ops: &[Op]) -> Verdict<()> {
        if self.scenario.gives_up_old {
            return Ok(());
        }
        let size = self.scenario.known[0].header.size().bytes();
        let mut touched = [false; 2];
        for op in ops {
            match op {
                Op::Flush => touched = [false; 2],
                Op::Write(range) => {
                    touched[0] |= range.start < size;
                    touched[1] |= range.start < 2 * size && range.end > size;
                    if touched == [true; 2] {
                        return Err("both copies were written between two flushes".into());
                    }
                }
                Op::Read(_) => {}
            }
        }
        Ok(())
    }

    /// Every content after a power cut at this moment; then the recovery of it, itself cut.
    fn cut(
        &mut self,
        at: &Snapshot,
        allowed: Option<usize>,
        limit: usize,
        depth: usize,
    ) -> Verdict<()> {
        let mut rng = self.rng.clone();
        self.rng.next_u64();
        let mut outcome = Ok(());
        let mut number = 0;
        let states = at.outcomes().unwrap_or(limit).min(limit);
        // Fewer the deeper, and other ones each time.
        let wanted = (self.effort.recoveries >> (2 - depth.min(2))).max(1);
        let every = (states / wanted).max(1);
        let first = self.rng.below(every);
        let cut = at.power_cuts(limit, &mut rng, |image| {
            if outcome.is_err() {
                return;
            }
            number += 1;
            outcome = self.judge_state(image, allowed).and_then(|state| {
                let deeper = depth > 0 && number % every == first;
                match (state, deeper) {
                    (Some(state), true) => self.recover(image, state, depth - 1),
                    _ => Ok(()),
                }
            });
        });
        self.stats.states += cut.states;
        self.stats.partial += usize::from(!cut.exhaustive);
        outcome.map_err(|e| format!("cut before operation {}: {e}", at.at))
    }

    fn judge_state(&self, image: &Rc<Vec<u8>>, allowed: Option<usize>) -> Verdict<Option<usize>> {
        let state = self.judge.check(image)?;
        match allowed {
            Some(only) if state != Some(only) => {
                Err(format!("state {state:?} came back, only {only} may"))
            }
            _ => Ok(state),
        }
    }

    /// H3: recovery ends in the state that was in force, may crash itself, and has nothing left to
    /// do the second time.
    fn recover(&mut self, image: &Rc<Vec<u8>>, state: usize, depth: usize) -> Verdict<()> {
        if !self.recovered.insert((header_print(image), state)) {
            return Ok(());
        }
        self.stats.recoveries += 1;
        let disk = self.disk(image);
        disk.record();
        let store = HeaderStore::load(disk.clone(), LockMode::Exclusive)
            .map_err(|e| format!("recovery failed: {e}"))?;
        if store.header() != &self.judge.known()[state].header {
            return Err("recovery changed the state".into());
        }
        if store.needs_repair().is_some() && store.blocked().is_none() {
            return Err("recovery left a bad copy".into());
        }
        self.one_copy_at_a_time(&disk.ops())?;
        for snapshot in disk.power_cuts() {
            if !snapshot.is_durable() {
                self.cut(&snapshot, Some(state), self.effort.side_limit, depth)?;
            }
        }
        let again = self.disk(&disk.visible());
        HeaderStore::load(again.clone(), LockMode::Exclusive)
            .map_err(|e| format!("the second recovery failed: {e}"))?;
        match again.ops().iter().any(|op| matches!(op, Op::Write(_))) {
            true => Err("the second recovery wrote again".into()),
            false => Ok(()),
        }
    }

    /// H2 and the second half of H5: after the acknowledgement only the new state can be reached,
    /// also with either copy destroyed, and what had to go is overwritten.
    fn acknowledged(&mut self, end: &Snapshot) -> Verdict<()> {
        let last = self.last();
        self.cut(end, Some(last), self.effort.limit, 0)?;
        let mut rng = Rng::new(self.effort.seed);
        let mut outcome = Ok(());
        let size = self.judge.known()[last].header.size();
        end.power_cuts(self.effort.side_limit, &mut rng, |image| {
            for copy in [HeaderCopy::Primary, HeaderCopy::Secondary] {
                let mut damaged = image.to_vec();
                let at = copy.offset(size) as usize;
                damaged[at..at + 4096].fill(0xee);
                if outcome.is_ok() {
                    outcome = self
                        .judge_state(&Rc::new(damaged), Some(last))
                        .map(|_| ())
                        .map_err(|e| {
                            format!("acknowledged, then the {} damaged: {e}", copy.name())
                        });
                }
            }
            for (area, old) in &self.scenario.gone {
                let at = area.offset as usize;
                let still = old
                    .chunks(512)
                    .zip(image[at..].chunks(512))
                    .any(|(old, now)| now.starts_with(old));
                if still && outcome.is_ok() {
                    outcome = Err("acknowledged, but old key material is still there".into());
                }
            }
        });
        outcome
    }

    /// The process dies at any point, the cache of the disk lives on, another program goes to work
    /// on what it sees, and only then the power fails.
    fn deaths(&mut self) -> Verdict<()> {
        let disk = self.disk(&self.scenario.start);
        disk.record();
        (self.scenario.run)(disk.clone()).map_err(|e| format!("it failed without a fault: {e}"))?;
        for death in disk.deaths() {
            self.stats.deaths += 1;
            let seen = match self.judge.check(death.visible())? {
                Some(seen) => seen,
                None => continue,
            };
            let disk = SimDisk::after_death(&death, self.effort.seed).without(self.mutant);
            disk.record();
            let mut store = HeaderStore::load(disk.clone(), LockMode::Exclusive)
                .map_err(|e| format!("recovery after operation {}: {e}", death.at))?;
            if store.header() != &self.judge.known()[seen].header {
                return Err("recovery changed the state".into());
            }
            let (change, states) = edit(&self.judge.known()[seen]);
            let owed = store.header().metadata().owed_wipes();
            store
                .apply(change)
                .map_err(|e| format!("a change after operation {}: {e}", death.at))?;
            // The next change also pays the wipes that this one owed.
            let known = self.judge.known().to_vec();
            self.judge
                .set_known(known.iter().cloned().chain(states).collect());
            let outcome = (|| {
                let mut snapshots = disk.power_cuts();
                let end = snapshots.pop().ok_or("no snapshot")?;
                for snapshot in &snapshots {
                    self.cut(snapshot, None, self.effort.side_limit, 0)?;
                }
                self.cut(&end, Some(self.last()), self.effort.side_limit, 0)
            })();
            self.judge.set_known(known);
            outcome.map_err(|e| {
                format!(
                    "died after operation {}, {} wipes owed: {e}",
                    death.at,
                    owed.len()
                )
            })?;
        }
        Ok(())
    }

    /// H8: each operation of the device fails once, in each way.
    fn faults(&mut self) -> Verdict<()> {
        let disk = self.disk(&self.scenario.start);
        (self.scenario.run)(disk.clone()).map_err(|e| format!("it failed without a fault: {e}"))?;
        for (number, op) in disk.ops().iter().enumerate() {
            let kinds: &[Fault] = match op {
                Op::Read(_) => &[Fault::Error],
                Op::Write(_) => &[Fault::Error, Fault::Lost],
                Op::Flush => &[Fault::Error, Fault::ErrorAndLoss],
            };
            for kind in kinds {
                self.stats.faults += 1;
                self.fault(number, op, *kind)
                    .map_err(|e| format!("operation {number} ({op:?}), {kind:?}: {e}"))?;
            }
        }
        Ok(())
    }

    fn fault(&mut self, number: usize, op: &Op, kind: Fault) -> Verdict<()> {
        let disk = self.disk(&self.scenario.start);
        disk.fail(number, kind);
        let result = (self.scenario.run)(disk.clone());
        let later = disk.ops();
        let wrote_later = later[number + 1..]
            .iter()
            .any(|op| !matches!(op, Op::Read(_)));
        // A read that fails once may be answered by the other copy or by reading again; a write or
        // a flush that fails ends everything.
        if kind != Fault::Lost && !matches!(op, Op::Read(_)) {
            if result.is_ok() {
                return Err("it was reported as done".into());
            }
            if wrote_later {
                return Err("the device was written to after it had failed".into());
            }
        }
        if let Err(error) = &result
            && !error.disk_was_written()
            && disk.visible() != self.scenario.start
        {
            return Err(format!(
                "the disk was written, the error says it was not: {error}"
            ));
        }
        let allowed = result.is_ok().then(|| self.last());
        self.cut(&disk.snapshot(), allowed, self.effort.side_limit, 1)?;
        if result.is_ok() {
            self.acknowledged(&disk.snapshot())?;
        }
        Ok(())
    }
}

/// Some further change, as another program might make it.
pub(crate) fn edit(known: &Known) -> (Change, Vec<Known>) {
    let before: &Header = &known.header;
    let after = before.with_label(Label::new("the next one").unwrap());
    let change = Change::edit(before, &after).unwrap();
    let mut states = known.through(&change, &[]);
    states.remove(0);
    (change, states)
}
