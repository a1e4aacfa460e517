//! A log in little room, for the boot after this one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::event::{EventKind, EventType};
use super::subject::Subject;
use super::text::printable;
use super::{EventLog, LogError, MAX_EVENTS};
use crate::hash::HashAlg;
use crate::pcr::{PCRS, PcrValues};

/// The only version of the JSON.
const VERSION: u64 = 1;

/// What one boot measured into some PCRs of one bank, and what the TPM then held.
///
/// Two boots compare only if both were looked at in the same place: PCR 11 and others grow while the
/// boot goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remembered {
    pub(super) bank: HashAlg,
    pub(super) values: PcrValues,
    pub(super) events: Vec<Entry>,
}

/// What is left of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The PCR, 0 to 23.
    pub pcr: u8,
    /// What kind of thing it is.
    pub kind: EventKind,
    /// What the PCR was extended by.
    pub digest: Vec<u8>,
    /// What it is about, as [`Event::text`](super::Event::text) has it.
    pub text: String,
}

impl Entry {
    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> Subject {
        Subject::of(self.pcr, &self.kind, &self.text)
    }
}

impl Remembered {
    /// What the log says about the PCRs of `actual`, which is what the TPM holds.
    ///
    /// # Errors
    /// If an event of these PCRs has no digest of that bank, and for no PCR at all.
    pub fn new(log: &EventLog, actual: &PcrValues) -> Result<Self, LogError> {
        let selection = actual.selection().ok_or(LogError::Damaged {
            what: "no PCR to remember",
        })?;
        let bank = selection.bank();
        let events = log
            .events()
            .iter()
            .filter(|event| event.extends() && actual.get(event.pcr).is_some())
            .map(|event| {
                Ok(Entry {
                    pcr: event.pcr,
                    kind: event.kind.clone(),
                    digest: event
                        .digest(bank)
                        .ok_or(LogError::NoSuchBank { bank })?
                        .to_vec(),
                    text: event.text(),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            bank,
            values: actual.clone(),
            events,
        })
    }

    /// The bank.
    #[must_use]
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// What the TPM held.
    #[must_use]
    pub fn values(&self) -> &PcrValues {
        &self.values
    }

    /// The events of these PCRs in their order.
    #[must_use]
    pub fn events(&self) -> &[Entry] {
        &self.events
    }

    /// As JSON: some 100 bytes for each event.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let values: Vec<Value> = (0..PCRS)
            .filter_map(|pcr| Some(json!([pcr, BASE64.encode(self.values.get(pcr)?)])))
            .collect();
        let events: Vec<Value> = self
            .events
            .iter()
            .map(|entry| {
                let kind = match &entry.kind {
                    EventKind::Tcg(kind) => json!(kind.0),
                    EventKind::Userspace(name) => json!(name),
                };
                json!([entry.pcr, kind, BASE64.encode(&entry.digest), entry.text])
            })
            .collect();
        json!({
            "version": VERSION,
            "bank": self.bank.name(),
            "values": values,
            "events": events,
        })
    }

    /// From JSON.
    ///
    /// # Errors
    /// If it is not what [`Remembered::to_json`] gives, or of a later version.
    pub fn from_json(json: &Value) -> Result<Self, LogError> {
        let damaged = |what| LogError::Damaged { what };
        if json["version"].as_u64() != Some(VERSION) {
            return Err(damaged("version"));
        }
        let bank = json["bank"]
            .as_str()
            .and_then(HashAlg::from_name)
            .ok_or(damaged("bank"))?;
        let list = |name: &'static str| json[name].as_array().ok_or(damaged(name));
        let mut values = PcrValues::new(bank);
        for value in list("values")? {
            let read = || {
                let [pcr, value] = value.as_array()?.as_slice() else {
                    return None;
                };
                Some((number(pcr)?, base64(value)?))
            };
            let (pcr, value) = read().ok_or(damaged("values"))?;
            if values.get(pcr).is_some() || values.insert(pcr, &value).is_err() {
                return Err(damaged("values"));
            }
        }
        if values.selection().is_none() {
            return Err(damaged("values"));
        }
        let listed = list("events")?;
        if listed.len() > MAX_EVENTS {
            return Err(LogError::TooLong);
        }
        let events = listed
            .iter()
            .map(|event| {
                entry(event)
                    .filter(|entry| entry.digest.len() == bank.len())
                    .filter(|entry| values.get(entry.pcr).is_some())
                    .ok_or(damaged("events"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            bank,
            values,
            events,
        })
    }
}

fn entry(event: &Value) -> Option<Entry> {
    let [pcr, kind, digest, text] = event.as_array()?.as_slice() else {
        return None;
    };
    // Both may go to a terminal, and the file may have been written by anybody.
    let shown = |text: &str| printable(text) == text;
    let kind = match kind {
        Value::String(name) if shown(name) => EventKind::Userspace(name.clone()),
        kind => EventKind::Tcg(EventType(kind.as_u64()?.try_into().ok()?)),
    };
    let text = text.as_str()?;
    if !shown(text) {
        return None;
    }
    Some(Entry {
        pcr: number(pcr)?,
        kind,
        digest: base64(digest)?,
        text: text.to_owned(),
    })
}

fn number(value: &Value) -> Option<u8> {
    u8::try_from(value.as_u64()?).ok()
}

fn base64(value: &Value) -> Option<Vec<u8>> {
    BASE64.decode(value.as_str()?).ok()
}
