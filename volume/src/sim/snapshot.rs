//! What a power cut may leave of a disk.

use std::rc::Rc;

use super::rng::Rng;

/// One moment of a disk: what is durable, and what is not yet.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Number of device operations before this moment.
    pub at: usize,
    pub(super) unit: usize,
    pub(super) durable: Rc<Vec<u8>>,
    pub(super) visible: Rc<Vec<u8>>,
    pub(super) pending: Vec<Pending>,
}

/// The versions of one physical sector that a power cut may leave beside the durable one.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) unit: usize,
    pub(super) versions: Versions,
}

/// Number of the write and the bytes that it left in the sector, in order.
pub(super) type Versions = Vec<(usize, Rc<[u8]>)>;

/// How much was enumerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Number of distinct contents.
    pub states: usize,
    /// Whether these were all.
    pub exhaustive: bool,
}

impl Snapshot {
    /// The content as reads see it, and as it stays if only the process dies.
    pub fn visible(&self) -> &Rc<Vec<u8>> {
        &self.visible
    }

    /// Whether a power cut now would lose nothing.
    pub fn is_durable(&self) -> bool {
        self.choices().is_empty()
    }

    /// How many contents the medium may have after a power cut; `None` if that has no number.
    pub fn outcomes(&self) -> Option<usize> {
        outcomes(&self.choices())
    }

    /// Calls `each` with every content that the medium may have after a power cut, if there are at
    /// most `limit`. Else with about `limit` of them: first what single faults make (each
    /// combination of whole writes; each sector missing, alone, first, last or of another version,
    /// evenly chosen if they are many), then seeded random selections.
    pub fn power_cuts(&self, limit: usize, rng: &mut Rng, each: impl FnMut(&Rc<Vec<u8>>)) -> Cut {
        let choices = self.choices();
        let total = outcomes(&choices).filter(|total| *total <= limit);
        let mut states = States {
            snapshot: self,
            choices: &choices,
            image: Rc::new(self.durable.to_vec()),
            each,
            count: 0,
        };
        match total {
            Some(total) => states.exhaust(total),
            None => {
                states.single_faults(limit);
                states.random(limit, rng);
            }
        }
        Cut {
            states: states.count,
            exhaustive: total.is_some(),
        }
    }

    /// Pending versions that differ from the durable content and from each other.
    fn choices(&self) -> Vec<Pending> {
        self.pending
            .iter()
            .filter_map(|pending| {
                let at = pending.unit * self.unit;
                let durable = &self.durable[at..(at + self.unit).min(self.durable.len())];
                let mut versions = Versions::new();
                for (write, bytes) in &pending.versions {
                    if **bytes != *durable && versions.iter().all(|(_, seen)| seen != bytes) {
                        versions.push((*write, Rc::clone(bytes)));
                    }
                }
                (!versions.is_empty()).then_some(Pending {
                    unit: pending.unit,
                    versions,
                })
            })
            .collect()
    }
}

fn outcomes(choices: &[Pending]) -> Option<usize> {
    choices
        .iter()
        .try_fold(1usize, |n, choice| n.checked_mul(choice.versions.len() + 1))
}

/// Puts contents together. A selection says for each choice which version survives: 0 for the
/// durable one, else the number of a version.
struct States<'a, F> {
    snapshot: &'a Snapshot,
    choices: &'a [Pending],
    image: Rc<Vec<u8>>,
    each: F,
    count: usize,
}

impl<F: FnMut(&Rc<Vec<u8>>)> States<'_, F> {
    fn put(&mut self, select: impl Fn(usize) -> usize) {
        let (unit, durable) = (self.snapshot.unit, &self.snapshot.durable);
        let bytes = Rc::make_mut(&mut self.image);
        for (index, choice) in self.choices.iter().enumerate() {
            let at = choice.unit * unit;
            let from: &[u8] = match select(index) {
                0 => &durable[at..(at + unit).min(durable.len())],
                n => &choice.versions[n - 1].1,
            };
            bytes[at..at + from.len()].copy_from_slice(from);
        }
        self.count += 1;
        (self.each)(&self.image);
    }

    fn last(&self, index: usize) -> usize {
        self.choices[index].versions.len()
    }

    fn exhaust(&mut self, total: usize) {
        let choices = self.choices;
        let mut digits = vec![0; choices.len()];
        for _ in 0..total {
            self.put(|index| digits[index]);
            for (digit, choice) in digits.iter_mut().zip(choices) {
                *digit += 1;
                if *digit <= choice.versions.len() {
                    break;
                }
                *digit = 0;
            }
        }
    }

    fn single_faults(&mut self, limit: usize) {
        let choices = self.choices;
        let last = |index: usize| choices[index].versions.len();
        let mut writes: Vec<usize> = choices
            .iter()
            .flat_map(|choice| choice.versions.iter().map(|(write, _)| *write))
            .collect();
        writes.sort_unstable();
        writes.dedup();
        // The newest version of a sector that comes from one of the chosen writes.
        let of_writes = |mask: usize, index: usize| {
            let chosen = |write: &usize| {
                writes
                    .iter()
                    .position(|w| w == write)
                    .is_some_and(|bit| mask >> bit & 1 == 1)
            };
            let newest = choices[index]
                .versions
                .iter()
                .rposition(|(write, _)| chosen(write));
            newest.map_or(0, |at| at + 1)
        };
        // Of more writes than five, the later ones come in the random part.
        let masks = 1usize << writes.len().min(5);
        for mask in 0..masks {
            self.put(|index| of_writes(mask, index));
        }
        let stride = (choices.len() * (4 + masks)).div_ceil(limit).max(1);
        for one in (0..choices.len()).step_by(stride) {
            self.put(|index| if index == one { last(index) } else { 0 });
            self.put(|index| if index == one { 0 } else { last(index) });
            self.put(|index| if index <= one { last(index) } else { 0 });
            self.put(|index| if index >= one { last(index) } else { 0 });
            for mask in 1..masks - 1 {
                // Whole writes, and one sector that went the other way.
                self.put(|index| match (index == one, of_writes(mask, index)) {
                    (false, version) => version,
                    (true, 0) => last(index),
                    (true, _) => 0,
                });
            }
        }
    }

    fn random(&mut self, limit: usize, rng: &mut Rng) {
        while self.count < limit {
            // Mostly one kind of outcome with a few exceptions, sometimes an even mixture.
            let few = 1 + rng.below(8);
            let keep = rng.one_in(2);
            let picks: Vec<usize> = (0..self.choices.len())
                .map(|index| match rng.one_in(few) {
                    true => rng.below(self.last(index) + 1),
                    false if keep => self.last(index),
                    false => 0,
                })
                .collect();
            self.put(|index| picks[index]);
        }
    }
}
