//! systemd's log: a sequence of JSON texts (RFC 7464), in the members of the TCG's Canonical Event
//! Log, as its `tpm2-util.c` writes them.

use serde_json::Value;

use super::event::{Event, EventKind};
use super::text::printable;
use super::{LogError, MAX_EVENTS, MAX_LOG_BYTES};
use crate::hash::HashAlg;
use crate::pcr::PCRS;

/// What begins each text; a line feed ends it.
const RECORD_SEPARATOR: u8 = 0x1E;

pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Event>, LogError> {
    if bytes.len() > MAX_LOG_BYTES {
        return Err(LogError::TooLong);
    }
    let mut events = Vec::new();
    let mut at = 0;
    for text in bytes.split_inclusive(|byte| *byte == b'\n') {
        let fail = |what| LogError::Malformed { what, at };
        let text_of = |text: &'_ [u8]| -> Option<Value> {
            let (first, text) = text.split_first()?;
            let (last, text) = text.split_last()?;
            if (*first, *last) != (RECORD_SEPARATOR, b'\n') {
                return None;
            }
            serde_json::from_slice(text).ok()
        };
        let record = text_of(text).ok_or(fail("JSON text"))?;
        if let Some(event) = event(&record).map_err(fail)? {
            if events.len() == MAX_EVENTS {
                return Err(LogError::TooLong);
            }
            events.push(event);
        }
        at += text.len();
    }
    Ok(events)
}

/// One record; `None` for one that extends no PCR, such as those of NV indices.
fn event(record: &Value) -> Result<Option<Event>, &'static str> {
    let members = record.as_object().ok_or("record")?;
    let Some(pcr) = members.get("pcr") else {
        return Ok(None);
    };
    let pcr = pcr
        .as_u64()
        .and_then(|pcr| u8::try_from(pcr).ok())
        .filter(|pcr| *pcr < PCRS)
        .ok_or("PCR number")?;
    let mut digests: Vec<(HashAlg, Vec<u8>)> = Vec::new();
    for one in members
        .get("digests")
        .and_then(Value::as_array)
        .ok_or("digests")?
    {
        let name = one["hashAlg"].as_str().ok_or("digest")?;
        let digest = one["digest"].as_str().and_then(hex).ok_or("digest")?;
        let Some(bank) = HashAlg::from_name(name) else {
            continue;
        };
        if digest.len() != bank.len() || digests.iter().any(|(known, _)| *known == bank) {
            return Err("digest");
        }
        digests.push((bank, digest));
    }
    let content = &record["content"];
    let word = |member: &str| content[member].as_str().unwrap_or_default();
    Ok(Some(Event {
        pcr,
        // It is shown to people, like the text.
        kind: EventKind::Userspace(printable(word("eventType"))),
        data: word("string").as_bytes().to_vec(),
        digests,
    }))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |letter: u8| char::from(letter).to_digit(16);
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok())
        .collect()
}
