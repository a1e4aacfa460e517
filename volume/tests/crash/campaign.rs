//! Long histories from a seed: several programs after each other work on one header, and between
//! and inside their changes the power fails, processes die, the device fails, copies are damaged.
//!
//! After each event a sample of the contents that the medium may have is judged; one of them is
//! what the next program finds.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use luksmith_luks2::{AreaBytes, Change, HeaderSize, Label};
use luksmith_volume::sim::{Fault, Op, Rng, SimDisk, Snapshot};
use luksmith_volume::{HeaderStore, LockMode, Mutant, RepairScope, RestoreRules, StoreError, Wait};
use serde_json::json;

use crate::world::{Judge, Known, formatted, material, new_slot};

/// Contents judged per event.
const SAMPLE: usize = 24;

/// One history. The error tells the seed and everything that was drawn from it.
pub(crate) fn history(seed: u64, mutant: Option<Mutant>) -> Result<usize, String> {
    let mut rng = Rng::new(seed);
    let unit = [512, 4096][rng.below(2)];
    let size = HeaderSize::new([0x4000, 0x8000][rng.below(2)]).unwrap();
    let (known, image) = formatted(1 + seed % 7, size);
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut history = History {
        mutant,
        unit,
        disk: SimDisk::new(Rc::clone(&image), unit, seed).without(mutant),
        known: vec![known],
        stale: 0,
        now: Some(0),
        settled: true,
        backup: None,
        backups: 0,
        dir: dir.path().to_owned(),
        told: vec![format!(
            "seed {seed}, {unit} byte sectors, header of {} bytes",
            size.bytes()
        )],
        judged: 0,
        rng,
    };
    for _ in 0..2 + history.rng.below(6) {
        history
            .step()
            .map_err(|e| format!("{}\n  => {e}", history.told.join("\n  ")))?;
    }
    Ok(history.judged)
}

struct History {
    rng: Rng,
    mutant: Option<Mutant>,
    unit: usize,
    disk: SimDisk,
    /// The states that may come back: those since everything was durable the last time.
    known: Vec<Known>,
    /// The first of them are only still there in a stale copy and must not come into force again.
    stale: usize,
    /// What is in force as programs see it.
    now: Option<usize>,
    /// Everything is durable and both copies are good.
    settled: bool,
    backup: Option<(Known, PathBuf)>,
    backups: usize,
    dir: PathBuf,
    told: Vec<String>,
    judged: usize,
}

type Run = Box<dyn FnOnce(SimDisk) -> Result<(), StoreError>>;

impl History {
    fn step(&mut self) -> Result<(), String> {
        if self.settled && self.rng.one_in(6) {
            self.damage();
        }
        if self.settled && self.now.is_some() && self.rng.one_in(4) {
            self.make_backup()?;
        }
        let (name, states, run) = self.operation();
        self.known.extend(states);
        self.disk.record();
        let before = self.disk.ops().len();
        let fault = self.rng.one_in(4).then(|| {
            // Most operations take fewer than 40 device operations.
            let at = before + self.rng.below(40);
            let kind = [Fault::Error, Fault::ErrorAndLoss, Fault::Lost][self.rng.below(3)];
            self.disk.fail(at, kind);
            (at, kind)
        });
        let result = run(self.disk.clone());
        let failed = self.disk.failed_at().is_some_and(|at| at >= before);
        self.told.push(format!(
            "{name}; fault {fault:?} {}; {}",
            if failed { "hit" } else { "missed" },
            match &result {
                Ok(()) => "done".to_owned(),
                Err(e) => e.to_string(),
            }
        ));
        if !failed && result.is_err() {
            return Err("it failed without a fault".into());
        }
        let deaths = self.disk.deaths();
        let cuts = self.disk.power_cuts();
        let event = self.rng.below(4);
        let last = self.known.len() - 1;
        match (&result, event) {
            (Ok(()), 0 | 1) => {
                self.told
                    .push("  acknowledged, and the power fails later".to_owned());
                let end = cuts.last().ok_or("no snapshot")?.clone();
                // From here on only the new state may come back.
                let only = self.known[last].clone();
                (self.known, self.stale) = (vec![only], 0);
                self.power_fails(&end)
            }
            (_, 2) if !deaths.is_empty() && !failed => {
                let death = deaths[self.rng.below(deaths.len())].clone();
                self.told
                    .push(format!("  the process dies before operation {}", death.at));
                self.disk = SimDisk::after_death(&death, self.rng.next_u64()).without(self.mutant);
                self.settled = false;
                self.look()
            }
            _ => {
                // In the middle of it, or at the end of a change that failed.
                let pick = match failed {
                    true => cuts.len() - 1,
                    false => self.rng.below(cuts.len()),
                };
                let cut = cuts[pick].clone();
                self.told
                    .push(format!("  the power fails before operation {}", cut.at));
                if result.is_ok() && pick == cuts.len() - 1 {
                    let only = self.known[last].clone();
                    (self.known, self.stale) = (vec![only], 0);
                }
                self.power_fails(&cut)
            }
        }
    }

    /// What the next program does.
    fn operation(&mut self) -> (&'static str, Vec<Known>, Run) {
        let Some(now) = self.now else {
            return self.restore();
        };
        let known = self.known[now].clone();
        let header = known.header.clone();
        let metadata = header.metadata();
        let slots: Vec<u8> = metadata.keyslots().keys().copied().collect();
        let salt = self.rng.next_u64();
        let mut new = Vec::new();
        let planned = match self.rng.below(8) {
            0 if self.backup.is_some() => return self.restore(),
            0 | 1 => {
                let label = Label::new(&format!("label {}", salt % 1000)).unwrap();
                ("edit", Change::edit(&header, &header.with_label(label)))
            }
            2 if metadata.tokens().len() < 6 => {
                let text = "z".repeat((salt % 900) as usize);
                let token = json!({"type": "grown", "keyslots": [], "text": text});
                let number = metadata.free_token().unwrap();
                let after = metadata.with_token(number, token).unwrap();
                (
                    "token",
                    Change::edit(&header, &header.with_metadata(after).unwrap()),
                )
            }
            3 | 4 if slots.len() < 4 => {
                let slot = new_slot(metadata);
                let number = metadata.free_keyslot().unwrap();
                let digest = 0;
                let after = metadata.with_keyslot(number, &slot, digest).unwrap();
                let bytes = material(salt);
                new.push((number, bytes.clone()));
                (
                    "add",
                    Change::add_slot(&header, after, number, AreaBytes::new(bytes)),
                )
            }
            5 if !slots.is_empty() && slots.len() < 5 => {
                let number = slots[self.rng.below(slots.len())];
                let after = metadata
                    .with_keyslot_replaced(number, &new_slot(metadata))
                    .unwrap();
                let bytes = material(salt);
                new.push((number, bytes.clone()));
                (
                    "replace",
                    Change::replace_slot(&header, after, number, AreaBytes::new(bytes)),
                )
            }
            6 if !slots.is_empty() => {
                let number = slots[self.rng.below(slots.len())];
                ("remove", Change::remove_slots(&header, &[number]))
            }
            _ => ("wipe free room", Change::wipe_free_room(&header)),
        };
        let (name, change) = (planned.0, planned.1.unwrap());
        let mut states = known.through(&change, &new);
        states.remove(0);
        let run: Run = match name {
            "wipe free room" => Box::new(|disk| {
                HeaderStore::load(disk, LockMode::Exclusive)?
                    .repair(RepairScope::HeaderAndFreeRoom, Wait::Fail)
                    .map(|_| ())
            }),
            _ => {
                let mode = [LockMode::Shared, LockMode::Exclusive][self.rng.below(2)];
                Box::new(move |disk| HeaderStore::load(disk, mode)?.apply(change))
            }
        };
        (name, states, run)
    }

    fn restore(&mut self) -> (&'static str, Vec<Known>, Run) {
        // Without a header there was a restore before, so there is a backup.
        let (known, path) = self.backup.clone().expect("a backup from before");
        let rules = RestoreRules {
            onto_no_header: true,
            ..RestoreRules::default()
        };
        let run: Run =
            Box::new(move |disk| HeaderStore::restore(disk, &path, rules, Wait::Fail).map(|_| ()));
        ("restore", vec![known], run)
    }

    fn make_backup(&mut self) -> Result<(), String> {
        let now = self.now.ok_or("no header")?;
        self.backups += 1;
        let path = self.dir.join(self.backups.to_string());
        HeaderStore::load(self.disk.clone().for_reading(), LockMode::Shared)
            .and_then(|mut store| store.backup_to(Path::new(&path), Wait::Fail))
            .map_err(|e| format!("backup: {e}"))?;
        self.told.push("a backup".to_owned());
        self.backup = Some((self.known[now].clone(), path));
        Ok(())
    }

    /// Damages one copy on a disk on which both are good.
    fn damage(&mut self) {
        let Some(now) = self.now else { return };
        let size = self.known[now].header.size().bytes() as usize;
        let mut image = self.disk.visible().to_vec();
        let copy = self.rng.below(2) * size;
        let at = copy + self.rng.below(6000);
        let bit = 1 << self.rng.below(8);
        image[at] ^= bit;
        self.told.push(format!("bit flip at byte {at}"));
        let seed = self.rng.next_u64();
        self.disk = SimDisk::new(Rc::new(image), self.unit, seed).without(self.mutant);
        self.settled = false;
    }

    /// Judges a sample of what the medium may hold; goes on with one of it.
    fn power_fails(&mut self, at: &Snapshot) -> Result<(), String> {
        let judge = Judge::new(self.known.clone(), self.may_be_none(), self.mutant);
        let mut rng = Rng::new(self.rng.next_u64());
        let mut states = Vec::new();
        let mut outcome = Ok(());
        at.power_cuts(SAMPLE, &mut rng, |image| {
            if outcome.is_ok() {
                match judge.check(image) {
                    Ok(Some(state)) if state < self.stale => {
                        outcome = Err("a stale copy came into force".to_owned());
                    }
                    Ok(state) => states.push((Rc::clone(image), state)),
                    Err(e) => outcome = Err(e),
                }
            }
        });
        outcome?;
        self.judged += states.len();
        let (image, state) = states.swap_remove(self.rng.below(states.len()));
        let seed = self.rng.next_u64();
        self.disk = SimDisk::new(image, self.unit, seed).without(self.mutant);
        // The other copy may still hold an older state; the one in force comes last.
        let mut copies = judge.good_copies(&self.disk.visible());
        copies.retain(|copy| Some(*copy) != state);
        let stale = copies.len();
        copies.extend(state);
        self.known = copies
            .into_iter()
            .map(|copy| self.known[copy].clone())
            .collect();
        self.stale = stale;
        self.now = state.map(|_| stale);
        self.recovered()
    }

    /// What programs see after a death.
    fn look(&mut self) -> Result<(), String> {
        let judge = Judge::new(self.known.clone(), self.may_be_none(), self.mutant);
        self.now = judge.check(&self.disk.visible())?;
        self.judged += 1;
        match self.now.is_some_and(|now| now < self.stale) {
            true => Err("a stale copy came into force".to_owned()),
            false => Ok(()),
        }
    }

    /// Half of the time the next program repairs at once.
    fn recovered(&mut self) -> Result<(), String> {
        self.settled = false;
        if self.now.is_none() || self.rng.one_in(2) {
            return Ok(());
        }
        let store = HeaderStore::load(self.disk.clone(), LockMode::Exclusive)
            .map_err(|e| format!("recovery: {e}"))?;
        self.settled = store.needs_repair().is_none();
        if self.settled {
            self.known.drain(..self.stale);
            (self.stale, self.now) = (0, Some(0));
        }
        let ops = self.disk.ops();
        self.told.push(format!(
            "  recovery, {} writes",
            ops.iter().filter(|op| matches!(op, Op::Write(_))).count()
        ));
        Ok(())
    }

    fn may_be_none(&self) -> bool {
        self.backup.is_some()
    }
}
