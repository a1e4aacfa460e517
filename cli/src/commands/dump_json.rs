//! The header as JSON for programs; the schema stands in `cli/JSON.md`.

use std::path::Path;

use luksmith_keyslot::header_mac;
use luksmith_luks2::{
    Header, KdfParams, Keyslot, KeyslotKind, Metadata, Priority, SegmentKind, SegmentSize,
};
use serde_json::{Value, json};

/// The whole header.
pub(crate) fn header(device: &Path, header: &Header) -> Value {
    let metadata = header.metadata();
    json!({
        "schema": "luksmith.dump/1",
        "device": device.to_string_lossy(),
        "type": "luks2",
        "uuid": header.uuid(),
        "label": header.label().display(),
        "subsystem": header.subsystem().display(),
        "epoch": header.seqid().0,
        "header_bytes": header.size().bytes(),
        "keyslots_bytes": metadata.config().keyslots_size,
        "flags": metadata.flags(),
        "requirements": requirements(metadata),
        "segments": segments(metadata),
        "keyslots": keyslots(metadata),
        "tokens": tokens(metadata),
        "header_mac": header_mac(metadata),
        "digests": metadata.digests().iter().map(|(number, d)| json!({
            "number": number,
            "type": "pbkdf2",
            "hash": d.hash,
            "iterations": d.iterations,
            "keyslots": d.keyslots,
            "segments": d.segments,
        })).collect::<Vec<_>>(),
    })
}

/// What its token says, unproven: only who has the volume key knows whether the MAC fits.
fn header_mac(metadata: &Metadata) -> Value {
    match header_mac::find(metadata) {
        Ok(None) => Value::Null,
        Ok(Some(mac)) => json!({
            "token": mac.token,
            "epoch": mac.epoch,
            "tpm2_counter": mac.counter.map(|counter| counter.handle),
            "why": Value::Null,
        }),
        Err(why) => json!({
            "token": Value::Null,
            "epoch": Value::Null,
            "tpm2_counter": Value::Null,
            "why": why.to_string(),
        }),
    }
}

fn requirements(metadata: &Metadata) -> Vec<Value> {
    let all = metadata.requirements();
    all.known
        .iter()
        .map(|r| json!({ "name": r.name(), "known": true }))
        .chain(
            all.unknown
                .iter()
                .map(|u| json!({ "name": u, "known": false })),
        )
        .collect()
}

fn segments(metadata: &Metadata) -> Vec<Value> {
    let one = |number: &u8, segment: &luksmith_luks2::Segment| {
        let kind = match &segment.kind {
            SegmentKind::Crypt(_) => "crypt",
            SegmentKind::Linear => "linear",
            SegmentKind::Opal(_) => "hw-opal",
            SegmentKind::OpalCrypt { .. } => "hw-opal-crypt",
            SegmentKind::Other(kind) => kind,
        };
        let crypt = segment.crypt();
        json!({
            "number": number,
            "type": kind,
            "offset_bytes": segment.offset,
            "size_bytes": match segment.size {
                SegmentSize::Fixed(bytes) => json!(bytes),
                SegmentSize::Dynamic => Value::Null,
            },
            "cipher": crypt.map(|c| &c.encryption),
            "sector_size": crypt.map(|c| c.sector_size),
            "iv_tweak": crypt.map(|c| c.iv_tweak),
            "integrity": crypt.and_then(|c| c.integrity.as_ref()).map(|i| &i.kind),
            "flags": segment.flags,
        })
    };
    metadata
        .segments()
        .iter()
        .map(|(number, segment)| one(number, segment))
        .collect()
}

/// The keyslots, as `slot list --json` gives them too.
pub(crate) fn keyslots(metadata: &Metadata) -> Vec<Value> {
    metadata
        .keyslots()
        .iter()
        .map(|(number, slot)| keyslot(metadata, *number, slot))
        .collect()
}

fn keyslot(metadata: &Metadata, number: u8, slot: &Keyslot) -> Value {
    let area = slot.area();
    let mut value = json!({
        "number": number,
        "type": kind(slot),
        "bound": !metadata.is_unbound(number),
        "priority": priority(slot.priority),
        "digest": metadata.digest_of_keyslot(number).map(|(digest, _)| digest),
        "tokens": metadata.tokens_of_keyslot(number).map(|(token, _)| token).collect::<Vec<_>>(),
        "area_offset_bytes": area.offset,
        "area_bytes": area.size,
    });
    if let (Some(key), Some(object)) = (slot.luks2(), value.as_object_mut()) {
        object.insert("key_bits".into(), json!(u64::from(key.key_size) * 8));
        object.insert("cipher".into(), json!(key.encryption));
        object.insert(
            "cipher_key_bits".into(),
            json!(u64::from(key.area_key_size) * 8),
        );
        object.insert("af_hash".into(), json!(key.af.hash));
        object.insert("kdf".into(), kdf(&key.kdf));
    }
    value
}

fn kdf(kdf: &KdfParams) -> Value {
    match kdf {
        KdfParams::Pbkdf2 {
            hash, iterations, ..
        } => {
            json!({ "type": "pbkdf2", "hash": hash, "iterations": iterations })
        }
        KdfParams::Argon2 {
            id,
            time,
            memory_kib,
            cpus,
            ..
        } => json!({
            "type": if *id { "argon2id" } else { "argon2i" },
            "time": time,
            "memory_kib": memory_kib,
            "threads": cpus,
        }),
        KdfParams::Other(kind) => json!({ "type": kind }),
    }
}

/// The tokens, as `token list --json` gives them too.
pub(crate) fn tokens(metadata: &Metadata) -> Vec<Value> {
    metadata
        .tokens()
        .iter()
        .map(|(number, token)| {
            json!({ "number": number, "type": token.kind, "keyslots": token.keyslots })
        })
        .collect()
}

/// What kind of slot it is, as written in the header.
pub(crate) fn kind(slot: &Keyslot) -> &str {
    match &slot.kind {
        KeyslotKind::Luks2(_) => "luks2",
        KeyslotKind::Reencrypt(_) => "reencrypt",
        KeyslotKind::Other { kind, .. } => kind,
    }
}

/// A priority as `--priority` takes it.
pub(crate) fn priority(priority: Priority) -> &'static str {
    match priority {
        Priority::Ignore => "ignore",
        Priority::Normal => "normal",
        Priority::Prefer => "prefer",
    }
}
