//! The firmware's log as bytes (PFP, 10.2).

use super::cursor::Cursor;
use super::event::{Event, EventKind, EventType};
use super::{EventLog, LogError, MAX_EVENTS, MAX_LOG_BYTES};
use crate::hash::HashAlg;
use crate::pcr::PCRS;

/// Most banks that a header may name: a TPM has two or three.
const MAX_BANKS: u32 = 16;

/// The first record of a log that has several banks (PFP, 10.4.5.1).
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";

/// A note of the locality from which the TPM was started (PFP, 10.4.5.3).
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

pub(super) fn parse(bytes: &[u8]) -> Result<EventLog, LogError> {
    if bytes.len() > MAX_LOG_BYTES {
        return Err(LogError::TooLong);
    }
    let mut cursor = Cursor::new(bytes);
    let mut ahead = cursor.clone();
    let first = read_sha1(&mut ahead)?;
    let sizes = if is_note(&first, SPEC_ID) {
        cursor = ahead;
        Some(header(&first.data)?)
    } else {
        None
    };
    let mut log = EventLog {
        banks: match &sizes {
            Some(sizes) => sizes.iter().filter_map(|(alg, _)| bank(*alg)).collect(),
            None => vec![HashAlg::Sha1],
        },
        startup_locality: 0,
        events: Vec::new(),
    };
    let mut locality = None;
    // Zeros are no record: it would be a certificate of no bytes, in no bank.
    let padding = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    while cursor.at() < padding {
        if log.events.len() == MAX_EVENTS {
            return Err(LogError::TooLong);
        }
        let place = cursor.clone();
        let record = match &sizes {
            Some(sizes) => read_agile(&mut cursor, sizes)?,
            None => read_sha1(&mut cursor)?,
        };
        if is_note(&record, STARTUP_LOCALITY) {
            let [said @ 0..=4] = record.data[STARTUP_LOCALITY.len()..] else {
                return Err(place.fail("startup locality"));
            };
            if locality.replace(said).is_some_and(|before| before != said) {
                return Err(place.fail("startup locality"));
            }
        }
        let note = record.kind == EventType::NO_ACTION;
        match u8::try_from(record.pcr) {
            Ok(pcr) if pcr < PCRS => log.events.push(Event {
                pcr,
                kind: EventKind::Tcg(record.kind),
                data: record.data,
                digests: record.digests,
            }),
            // Notes about NV indices and about the platform have other numbers there.
            _ if note => {}
            _ => return Err(place.fail("PCR number")),
        }
    }
    log.startup_locality = locality.unwrap_or(0);
    Ok(log)
}

/// A record before its PCR is known to be one.
struct Record {
    pcr: u32,
    kind: EventType,
    digests: Vec<(HashAlg, Vec<u8>)>,
    data: Vec<u8>,
}

fn is_note(record: &Record, signature: &[u8; 16]) -> bool {
    record.kind == EventType::NO_ACTION && record.pcr == 0 && record.data.starts_with(signature)
}

fn bank(alg: u16) -> Option<HashAlg> {
    HashAlg::from_id(alg)
}

/// `TCG_PCR_EVENT`: the first record of every log, and every record of an old one.
fn read_sha1(cursor: &mut Cursor<'_>) -> Result<Record, LogError> {
    let pcr = cursor.u32("PCR number")?;
    let kind = EventType(cursor.u32("event type")?);
    let digest = cursor.bytes(HashAlg::Sha1.len(), "digest")?.to_vec();
    let len = cursor.u32("event length")?;
    let data = cursor.long(len.into(), "event")?.to_vec();
    Ok(Record {
        pcr,
        kind,
        digests: vec![(HashAlg::Sha1, digest)],
        data,
    })
}

/// `TCG_PCR_EVENT2`: digests of several banks, whose sizes the header gave.
fn read_agile(cursor: &mut Cursor<'_>, sizes: &[(u16, usize)]) -> Result<Record, LogError> {
    let pcr = cursor.u32("PCR number")?;
    let kind = EventType(cursor.u32("event type")?);
    let count = cursor.u32("number of digests")?;
    if usize::try_from(count).map_or(true, |count| count == 0 || count > sizes.len()) {
        return Err(cursor.fail("number of digests"));
    }
    let mut seen = Vec::new();
    let mut digests = Vec::new();
    for _ in 0..count {
        let alg = cursor.u16("digest")?;
        let known = sizes.iter().find(|(known, _)| *known == alg);
        let Some((_, size)) = known.filter(|_| !seen.contains(&alg)) else {
            return Err(cursor.fail("digest"));
        };
        seen.push(alg);
        let digest = cursor.bytes(*size, "digest")?;
        if let Some(bank) = bank(alg) {
            digests.push((bank, digest.to_vec()));
        }
    }
    let len = cursor.u32("event length")?;
    let data = cursor.long(len.into(), "event")?.to_vec();
    Ok(Record {
        pcr,
        kind,
        digests,
        data,
    })
}

/// `TCG_EfiSpecIDEvent`: the algorithms with the sizes of their digests in bytes.
fn header(data: &[u8]) -> Result<Vec<(u16, usize)>, LogError> {
    const WHAT: &str = "header";
    let mut cursor = Cursor::new(data);
    cursor.bytes(SPEC_ID.len(), WHAT)?;
    // The platform's class, the version of the specification with its errata, the size of a
    // pointer: no other version with this signature has another layout.
    cursor.bytes(8, WHAT)?;
    let count = cursor.u32(WHAT)?;
    if count == 0 || count > MAX_BANKS {
        return Err(cursor.fail(WHAT));
    }
    let mut sizes: Vec<(u16, usize)> = Vec::new();
    for _ in 0..count {
        let alg = cursor.u16(WHAT)?;
        let size = usize::from(cursor.u16(WHAT)?);
        let right = bank(alg).map_or((1..=64).contains(&size), |bank| bank.len() == size);
        if !right || sizes.iter().any(|(known, _)| *known == alg) {
            return Err(cursor.fail(WHAT));
        }
        sizes.push((alg, size));
    }
    let vendor = cursor.u8(WHAT)?;
    cursor.bytes(vendor.into(), WHAT)?;
    cursor.end(WHAT)?;
    if sizes.iter().all(|(alg, _)| bank(*alg).is_none()) {
        return Err(LogError::Malformed {
            what: "header without a known bank",
            at: 0,
        });
    }
    Ok(sizes)
}
