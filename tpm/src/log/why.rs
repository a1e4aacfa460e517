//! Why PCRs are not what they were: the first event that differs.

use std::fmt;

use super::LogError;
use super::remembered::{Entry, Remembered};
use super::subject::Subject;

/// Why one PCR has another value. Displayed it is a sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The PCR, 0 to 23.
    pub pcr: u8,
    /// The first event that differs. What comes after it may differ for the same reason.
    pub event: Difference,
    /// What it is about: of the present event, or of the one that is gone. `None` where no event
    /// tells it.
    pub kind: Option<Subject>,
}

/// How events differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// One came instead of another.
    Changed {
        /// The one that was remembered.
        was: Entry,
        /// The one that came.
        now: Entry,
    },
    /// One came that was not there before.
    Added(Entry),
    /// One did not come.
    Missing(Entry),
    /// All events are the same, and the value is not: something was measured that is in no log, or
    /// a log is false.
    Unlogged,
}

/// For each of these PCRs that has another value than remembered, ascending: why.
///
/// # Errors
/// If one of them is missing in either, or the banks differ.
pub fn why(before: &Remembered, now: &Remembered, pcrs: &[u8]) -> Result<Vec<Change>, LogError> {
    let bank = before.bank;
    if now.bank != bank {
        return Err(LogError::OtherBank { bank });
    }
    let mut pcrs = pcrs.to_vec();
    pcrs.sort_unstable();
    pcrs.dedup();
    let mut changes = Vec::new();
    for pcr in pcrs {
        let value = |of: &Remembered| -> Result<Vec<u8>, LogError> {
            let value = of.values.get(pcr).ok_or(LogError::NotRemembered { pcr })?;
            Ok(value.to_vec())
        };
        if value(before)? != value(now)? {
            let event = difference(before, now, pcr);
            let kind = match &event {
                Difference::Changed { now, .. } => Some(now.subject()),
                Difference::Added(entry) | Difference::Missing(entry) => Some(entry.subject()),
                Difference::Unlogged => None,
            };
            changes.push(Change { pcr, event, kind });
        }
    }
    Ok(changes)
}

fn difference(before: &Remembered, now: &Remembered, pcr: u8) -> Difference {
    let of = |log: &Remembered| -> Vec<Entry> {
        let mine = log.events.iter().filter(|entry| entry.pcr == pcr);
        mine.cloned().collect()
    };
    let (before, now) = (of(before), of(now));
    let same = |(was, now): (&Entry, &Entry)| was.digest == now.digest;
    let at = before
        .iter()
        .zip(&now)
        .take_while(|pair| same(*pair))
        .count();
    let later = |entry: &Entry, list: &[Entry]| list[at + 1..].contains(entry);
    match (before.get(at), now.get(at)) {
        (None, None) => Difference::Unlogged,
        (None, Some(entry)) => Difference::Added(entry.clone()),
        (Some(entry), None) => Difference::Missing(entry.clone()),
        (Some(was), Some(is)) => match (later(was, &now), later(is, &before)) {
            // The old one comes after all, only later: this one is new. And the other way round.
            (true, false) => Difference::Added(is.clone()),
            (false, true) => Difference::Missing(was.clone()),
            _ => Difference::Changed {
                was: was.clone(),
                now: is.clone(),
            },
        },
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR {}: {}", self.pcr, self.event)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { was, now } => changed(f, &was.subject(), &now.subject()),
            Self::Added(entry) => match entry.subject() {
                Subject::Separator { error: true } => f.write_str("the firmware met an error"),
                Subject::Phase(name) => write!(f, "the boot has passed a further phase: {name}"),
                Subject::Course(what) => write!(f, "the boot took another course: {what}"),
                subject => write!(f, "new {subject}"),
            },
            Self::Missing(entry) => match entry.subject() {
                Subject::Phase(name) => write!(f, "the boot has not yet passed a phase: {name}"),
                subject => write!(f, "no longer there: {subject}"),
            },
            Self::Unlogged => f.write_str("something was measured that is in no log"),
        }
    }
}

fn changed(f: &mut fmt::Formatter<'_>, was: &Subject, now: &Subject) -> fmt::Result {
    match (was, now) {
        (_, Subject::SecureBoot { on: false }) => f.write_str("Secure Boot was switched off"),
        (Subject::SecureBoot { on: false }, Subject::SecureBoot { on: true }) => {
            f.write_str("Secure Boot was switched on")
        }
        (_, Subject::Separator { error: true }) => f.write_str("the firmware met an error"),
        (Subject::FirmwareVersion(was), Subject::FirmwareVersion(now)) => {
            write!(f, "firmware changed (version \"{now}\", before \"{was}\")")
        }
        (Subject::Course(was), Subject::Course(now)) => {
            write!(f, "the boot took another course: {now} (before: {was})")
        }
        (was, now) => match (was.words(), now.words()) {
            ((before, _), (what, _)) if before != what => write!(f, "{now}, instead of {was}"),
            ((_, before), (what, which)) if before == which || before.is_empty() => {
                write!(f, "{what} changed{}", Detail(which))
            }
            ((_, before), (what, which)) => {
                write!(f, "{what} changed{} (before: {before})", Detail(which))
            }
        },
    }
}

/// What follows the words, if there is anything.
struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            detail => write!(f, ": {detail}"),
        }
    }
}
