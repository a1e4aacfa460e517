//! The values that a log amounts to.

use std::collections::BTreeMap;

use super::event::Event;
use super::measure::extend;
use super::predict::Next;
use super::{EventLog, LogError};
use crate::hash::HashAlg;
use crate::pcr::{PCRS, PcrValues};

/// What the log says about the value of a PCR.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// The events lead to exactly this value.
    Explained,
    /// There is no event, and the value is the one that the PCR starts with.
    Untouched,
    /// The value comes from something else: a measurement that nobody logged, or a false log.
    Unexplained,
}

impl EventLog {
    /// Values of all PCRs after every event.
    ///
    /// # Errors
    /// If an event has no digest of this bank.
    pub fn replay(&self, bank: HashAlg) -> Result<PcrValues, LogError> {
        self.replay_with(bank, &mut |_| Next::Same)
    }

    /// Compares with what the TPM holds.
    ///
    /// # Errors
    /// If an event has no digest of that bank.
    pub fn explain(&self, actual: &PcrValues) -> Result<BTreeMap<u8, Standing>, LogError> {
        let Some(selection) = actual.selection() else {
            return Ok(BTreeMap::new());
        };
        let replayed = self.replay(selection.bank())?;
        let standing = |pcr| {
            let touched = self
                .events
                .iter()
                .any(|event| event.pcr == pcr && event.extends());
            let value = actual.get(pcr);
            if touched && value == replayed.get(pcr) {
                Standing::Explained
            } else if !touched && value.is_some_and(|value| is_start(pcr, value)) {
                Standing::Untouched
            } else {
                Standing::Unexplained
            }
        };
        Ok(selection.pcrs().map(|pcr| (pcr, standing(pcr))).collect())
    }

    /// Values of all PCRs if the next boot differs from this one in what `next` says.
    pub(super) fn replay_with(
        &self,
        bank: HashAlg,
        next: &mut dyn FnMut(&Event) -> Next,
    ) -> Result<PcrValues, LogError> {
        if !self.banks.contains(&bank) {
            return Err(LogError::NoSuchBank { bank });
        }
        let mut values = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.extends()) {
            let was = event.digest(bank).ok_or(LogError::NoSuchBank { bank })?;
            let digest = match next(event) {
                Next::Same => was.to_vec(),
                Next::Digest(digest) if digest.len() == bank.len() => digest,
                Next::Digest(_) => return Err(LogError::OtherBank { bank }),
                Next::Absent => continue,
            };
            // PCRs 17 to 22 are all ones until a measured launch sets them to zero and extends them.
            let value = values
                .entry(event.pcr)
                .or_insert_with(|| self.start(bank, event.pcr));
            *value = extend(bank, value, &digest);
        }
        let mut replayed = PcrValues::new(bank);
        for pcr in 0..PCRS {
            let value = values.remove(&pcr).unwrap_or_else(|| match pcr {
                17..=22 => vec![0xFF; bank.len()],
                _ => self.start(bank, pcr),
            });
            replayed
                .insert(pcr, &value)
                .expect("a PCR, and a digest of its bank");
        }
        Ok(replayed)
    }

    /// What the first extend finds: zero, and for PCR 0 the locality of TPM2_Startup in the last
    /// byte (Part 1, 34.3; PFP, 10.4.5.3).
    fn start(&self, bank: HashAlg, pcr: u8) -> Vec<u8> {
        let mut value = vec![0; bank.len()];
        if pcr == 0 {
            value[bank.len() - 1] = self.startup_locality;
        }
        value
    }
}

fn is_start(pcr: u8, value: &[u8]) -> bool {
    let all = |byte: u8| value.iter().all(|one| *one == byte);
    all(0) || ((17..=22).contains(&pcr) && all(0xFF))
}
