//! From the JSON tree to typed views; the door through which every [`Metadata`] comes.
//!
//! This module checks each object by itself (members there, right type, in range). What objects say about each other is
//! checked by [`crate::validate`] afterwards.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::area::Area;
use crate::edit::OWED_WIPES;
use crate::error::FormatError;
use crate::member::{At, broken, decimal, show, small_number};
use crate::metadata::{
    AF_STRIPES, AfParams, Config, Digest, Geometry, KDF_SALT_BYTES, KdfParams, Keyslot,
    KeyslotKind, Luks2Slot, MAX_DIGESTS, MAX_KEYSLOTS, MAX_SEGMENTS, MAX_TOKENS, Metadata,
    Priority, Requirement, Requirements,
};
use crate::reencrypt::{Checksum, Direction, ReencryptMode, ReencryptSlot, Resilience};
use crate::segment::{Crypt, Integrity, Opal, Segment, SegmentKind, SegmentSize};
use crate::token::Token;
use crate::validate::{self, Rule};

/// Bytes of an area's key at most; no cipher has more.
const MAX_AREA_KEY_BYTES: u32 = 512;
/// Notes of owed wipes that are looked at; this program never writes as many.
const MAX_OWED_WIPES: usize = 64;

impl Metadata {
    /// From the text of a JSON area (without its NUL).
    ///
    /// # Errors
    /// [`FormatError::Json`], [`FormatError::Rule`] with the first rule that is broken, or [`FormatError::JsonTooBig`].
    pub fn parse(text: &[u8], geometry: &Geometry) -> Result<Self, FormatError> {
        Self::from_value(crate::json::parse(text)?, geometry)
    }

    /// From a tree. Left-overs that old versions of cryptsetup made in `kdf` objects are dropped.
    ///
    /// # Errors
    /// As [`Metadata::parse`].
    pub fn from_value(mut root: Value, geometry: &Geometry) -> Result<Self, FormatError> {
        crate::json::check_depth(&root)?;
        drop_kdf_leftovers(&mut root);
        let top = At::new("header", &root)?;
        let requirements = requirements(&top)?;
        let tokens = numbered(&top, "tokens", MAX_TOKENS, token)?;
        let digests = numbered(&top, "digests", MAX_DIGESTS, digest)?;
        let segments = numbered(&top, "segments", MAX_SEGMENTS, segment)?;
        let keyslots = numbered(&top, "keyslots", MAX_KEYSLOTS, keyslot)?;
        let config = config(&top, requirements)?;
        let metadata = Self {
            geometry: *geometry,
            keyslots,
            tokens,
            segments,
            digests,
            config,
            root,
        };
        validate::all(&metadata)?;
        Ok(metadata)
    }
}

fn numbered<T>(
    top: &At<'_>,
    section: &str,
    limit: u8,
    make: impl Fn(&At<'_>) -> Result<T, FormatError>,
) -> Result<BTreeMap<u8, T>, FormatError> {
    let mut all = BTreeMap::new();
    for (name, value) in top.object(section)?.object {
        let Some(number) = small_number(name) else {
            return broken(
                Rule::ObjectName,
                format!("{section}.{} is not a number", show(name)),
            );
        };
        if number >= limit {
            return broken(
                Rule::ObjectNumber,
                format!("{section}.{number}: numbers end at {}", limit - 1),
            );
        }
        all.insert(
            number,
            make(&At::new(format!("{section}.{number}"), value)?)?,
        );
    }
    Ok(all)
}

fn requirements(top: &At<'_>) -> Result<Requirements, FormatError> {
    let config = top.object("config")?;
    let mut found = Requirements::default();
    if !config.object.contains_key("requirements") {
        return Ok(found);
    }
    for name in config.object("requirements")?.optional_texts("mandatory")? {
        match Requirement::from_name(&name) {
            Some(requirement) => found.known.push(requirement),
            None => found.unknown.push(name),
        }
    }
    Ok(found)
}

fn token(at: &At<'_>) -> Result<Token, FormatError> {
    let kind = at.text("type")?.to_owned();
    let keyslots = at.references("keyslots", Rule::TokenKeyslot)?;
    Ok(Token {
        kind,
        keyslots,
        raw: Value::Object(at.object.clone()),
    })
}

fn digest(at: &At<'_>) -> Result<Digest, FormatError> {
    let kind = at.text("type")?;
    let keyslots = at.references("keyslots", Rule::DigestKeyslot)?;
    let segments = at.references("segments", Rule::DigestSegment)?;
    if kind != "pbkdf2" {
        return broken(
            Rule::DigestType,
            format!("{} is of type {}", at.name, show(kind)),
        );
    }
    let iterations = at.u32("iterations")?;
    if iterations == 0 {
        return broken(Rule::DigestValue, format!("{}.iterations is 0", at.name));
    }
    let (salt, digest) = (at.base64("salt")?, at.base64("digest")?);
    if salt.is_empty() || digest.is_empty() {
        return broken(
            Rule::DigestValue,
            format!("{} has an empty salt or digest", at.name),
        );
    }
    Ok(Digest {
        keyslots,
        segments,
        salt,
        hash: at.text("hash")?.to_owned(),
        iterations,
        digest,
    })
}

fn segment(at: &At<'_>) -> Result<Segment, FormatError> {
    let kind = at.text("type")?;
    let offset = at.u64("offset")?;
    let size = match at.text("size")? {
        "dynamic" => SegmentSize::Dynamic,
        _ => SegmentSize::Fixed(at.u64("size")?),
    };
    if offset % 512 != 0 {
        return broken(
            Rule::SegmentOffset,
            format!("{}.offset {offset} is no multiple of 512", at.name),
        );
    }
    if let SegmentSize::Fixed(bytes) = size
        && (bytes == 0 || bytes % 512 != 0)
    {
        return broken(
            Rule::SegmentSize,
            format!("{}.size {bytes} is 0 or no multiple of 512", at.name),
        );
    }
    let flags = at.optional_texts("flags")?;
    let kind = match kind {
        "crypt" => SegmentKind::Crypt(crypt(at, size)?),
        "linear" => SegmentKind::Linear,
        "hw-opal" => SegmentKind::Opal(opal(at, size)?),
        "hw-opal-crypt" => SegmentKind::OpalCrypt {
            crypt: crypt(at, size)?,
            opal: opal(at, size)?,
        },
        // The reference applies the rules of OPAL to whatever begins like it.
        other if other.starts_with("hw-opal") => {
            opal(at, size)?;
            SegmentKind::Other(other.to_owned())
        }
        other => SegmentKind::Other(other.to_owned()),
    };
    Ok(Segment {
        kind,
        offset,
        size,
        flags,
    })
}

fn crypt(at: &At<'_>, size: SegmentSize) -> Result<Crypt, FormatError> {
    let iv_tweak = at.u64("iv_tweak")?;
    let encryption = at.text("encryption")?.to_owned();
    let sector_size = at.u32("sector_size")?;
    if !matches!(sector_size, 512 | 1024 | 2048 | 4096) {
        return broken(
            Rule::SegmentSectorSize,
            format!("{}.sector_size is {sector_size}", at.name),
        );
    }
    if let SegmentSize::Fixed(bytes) = size
        && bytes % u64::from(sector_size) != 0
    {
        let detail = format!(
            "{}.size {bytes} is no multiple of its sector size {sector_size}",
            at.name
        );
        return broken(Rule::SegmentWholeSectors, detail);
    }
    let integrity = if at.object.contains_key("integrity") {
        Some(integrity(&at.object("integrity")?)?)
    } else {
        None
    };
    Ok(Crypt {
        encryption,
        sector_size,
        iv_tweak,
        integrity,
    })
}

fn integrity(at: &At<'_>) -> Result<Integrity, FormatError> {
    Ok(Integrity {
        kind: at.text("type")?.to_owned(),
        journal_encryption: at.text("journal_encryption")?.to_owned(),
        journal_integrity: at.text("journal_integrity")?.to_owned(),
        key_size: if at.object.contains_key("key_size") {
            Some(at.u32("key_size")?)
        } else {
            None
        },
    })
}

fn opal(at: &At<'_>, size: SegmentSize) -> Result<Opal, FormatError> {
    let opal = Opal {
        segment_number: at.u32("opal_segment_number")?,
        key_size: at.u32("opal_key_size")?,
        segment_size: at.u64("opal_segment_size")?,
    };
    match size.fixed() {
        Some(bytes) if bytes <= opal.segment_size => Ok(opal),
        _ => broken(
            Rule::SegmentOpal,
            format!("{}: size is dynamic or beyond the drive's range", at.name),
        ),
    }
}

fn keyslot(at: &At<'_>) -> Result<Keyslot, FormatError> {
    let kind = at.text("type")?;
    let key_size = at.u32("key_size")?;
    let priority = match at.object.get("priority").map(Value::as_u64) {
        None | Some(Some(1)) => Priority::Normal,
        Some(Some(0)) => Priority::Ignore,
        Some(Some(2)) => Priority::Prefer,
        Some(_) => {
            return broken(
                Rule::KeyslotPriority,
                format!("{}.priority is none of 0, 1, 2", at.name),
            );
        }
    };
    let area_at = at.object("area")?;
    area_at.text("type")?;
    let area = Area {
        offset: area_at.u64("offset")?,
        size: area_at.u64("size")?,
    };
    let kind = match kind {
        "luks2" => KeyslotKind::Luks2(luks2_slot(at, &area_at, key_size, area)?),
        "reencrypt" => KeyslotKind::Reencrypt(reencrypt_slot(at, &area_at, key_size, area)?),
        other => KeyslotKind::Other {
            kind: other.to_owned(),
            area,
        },
    };
    Ok(Keyslot { kind, priority })
}

fn luks2_slot(
    at: &At<'_>,
    area_at: &At<'_>,
    key_size: u32,
    area: Area,
) -> Result<Luks2Slot, FormatError> {
    let kdf = kdf(&at.object("kdf")?)?;
    let af = af(&at.object("af")?)?;
    if area_at.text("type")? != "raw" {
        return broken(Rule::AreaType, format!("{}.type is not raw", area_at.name));
    }
    let encryption = area_at.text("encryption")?.to_owned();
    let area_key_size = area_at.u32("key_size")?;
    if area_key_size == 0 || area_key_size > MAX_AREA_KEY_BYTES {
        return broken(
            Rule::KeySize,
            format!("{}.key_size is {area_key_size}", area_at.name),
        );
    }
    if key_size == 0 {
        return broken(Rule::KeySize, format!("{}.key_size is 0", at.name));
    }
    let material = u64::from(key_size) * u64::from(AF_STRIPES);
    if material.next_multiple_of(512) > area.size {
        let detail = format!(
            "{}.size {} is less than the key material takes",
            area_at.name, area.size
        );
        return broken(Rule::AreaTooSmall, detail);
    }
    Ok(Luks2Slot {
        key_size,
        area,
        encryption,
        area_key_size,
        kdf,
        af,
    })
}

fn kdf(at: &At<'_>) -> Result<KdfParams, FormatError> {
    let members = |count: usize| {
        if at.object.len() == count {
            Ok(())
        } else {
            broken(
                Rule::KdfMembers,
                format!("{} has {} members, not {count}", at.name, at.object.len()),
            )
        }
    };
    let cost = |member: &str| match at.u32(member)? {
        0 => broken(Rule::KdfCost, format!("{}.{member} is 0", at.name)),
        cost => Ok(cost),
    };
    let salt = || {
        let salt = at.base64("salt")?;
        if salt.len() == KDF_SALT_BYTES {
            Ok(salt)
        } else {
            broken(
                Rule::KdfSalt,
                format!(
                    "{}.salt has {} bytes, not {KDF_SALT_BYTES}",
                    at.name,
                    salt.len()
                ),
            )
        }
    };
    match at.text("type")? {
        "pbkdf2" => {
            let kdf = KdfParams::Pbkdf2 {
                hash: at.text("hash")?.to_owned(),
                iterations: cost("iterations")?,
                salt: salt()?,
            };
            members(4)?;
            Ok(kdf)
        }
        kind @ ("argon2i" | "argon2id") => {
            let kdf = KdfParams::Argon2 {
                id: kind == "argon2id",
                time: cost("time")?,
                memory_kib: cost("memory")?,
                cpus: cost("cpus")?,
                salt: salt()?,
            };
            members(5)?;
            Ok(kdf)
        }
        other => Ok(KdfParams::Other(other.to_owned())),
    }
}

fn af(at: &At<'_>) -> Result<AfParams, FormatError> {
    if at.text("type")? != "luks1" {
        return broken(Rule::AfType, format!("{}.type is not luks1", at.name));
    }
    let hash = at.text("hash")?.to_owned();
    let stripes = at.u32("stripes")?;
    if stripes != AF_STRIPES {
        return broken(
            Rule::AfStripes,
            format!("{}.stripes is {stripes}, not {AF_STRIPES}", at.name),
        );
    }
    Ok(AfParams { stripes, hash })
}

fn reencrypt_slot(
    at: &At<'_>,
    area_at: &At<'_>,
    key_size: u32,
    area: Area,
) -> Result<ReencryptSlot, FormatError> {
    let mode = match at.text("mode")? {
        "reencrypt" => ReencryptMode::Reencrypt,
        "encrypt" => ReencryptMode::Encrypt,
        "decrypt" => ReencryptMode::Decrypt,
        other => {
            return broken(
                Rule::ReencryptMode,
                format!("{}.mode is {}", at.name, show(other)),
            );
        }
    };
    let direction = match at.text("direction")? {
        "forward" => Direction::Forward,
        "backward" => Direction::Backward,
        other => {
            return broken(
                Rule::ReencryptDirection,
                format!("{}.direction is {}", at.name, show(other)),
            );
        }
    };
    if key_size != 1 {
        return broken(
            Rule::ReencryptKeySize,
            format!("{}.key_size is {key_size}, not 1", at.name),
        );
    }
    let checksum = || {
        let sector_size = area_at.u32("sector_size")?;
        if sector_size < 512 || !sector_size.is_power_of_two() {
            return broken(
                Rule::ReencryptSectorSize,
                format!("{}.sector_size is {sector_size}", area_at.name),
            );
        }
        Ok(Checksum {
            hash: area_at.text("hash")?.to_owned(),
            sector_size,
        })
    };
    let shift = || {
        let shift = area_at.u64("shift_size")?;
        if shift == 0 || shift % 512 != 0 {
            return broken(
                Rule::ReencryptShift,
                format!("{}.shift_size is {shift}", area_at.name),
            );
        }
        Ok(shift)
    };
    let resilience = match area_at.text("type")? {
        "none" => Resilience::None,
        "journal" => Resilience::Journal,
        "checksum" => Resilience::Checksum(checksum()?),
        "datashift" => Resilience::Datashift {
            shift_size: shift()?,
        },
        "datashift-journal" => Resilience::DatashiftJournal {
            shift_size: shift()?,
        },
        "datashift-checksum" => Resilience::DatashiftChecksum {
            checksum: checksum()?,
            shift_size: shift()?,
        },
        other => Resilience::Other(other.to_owned()),
    };
    Ok(ReencryptSlot {
        mode,
        direction,
        area,
        resilience,
    })
}

fn config(top: &At<'_>, requirements: Requirements) -> Result<Config, FormatError> {
    let at = top.object("config")?;
    Ok(Config {
        json_size: at.u64("json_size")?,
        keyslots_size: at.u64("keyslots_size")?,
        flags: at.optional_texts("flags")?,
        requirements,
        owed_wipes: owed_wipes(&at),
    })
}

/// Our own note. Whatever in it is not well-formed is not ours and no reason to refuse a header.
fn owed_wipes(config: &At<'_>) -> Vec<Area> {
    let Some(Value::Array(list)) = config.object.get(OWED_WIPES) else {
        return Vec::new();
    };
    let number = |value: &Value, member: &str| decimal(value.get(member)?.as_str()?);
    list.iter()
        .take(MAX_OWED_WIPES)
        .filter_map(|item| {
            Some(Area {
                offset: number(item, "offset")?,
                size: number(item, "size")?,
            })
        })
        .collect()
}

/// Old versions of cryptsetup left members of another key derivation behind when they changed it; the reference drops
/// them, and so do we. Other members than those are no left-overs and break [`Rule::KdfMembers`].
fn drop_kdf_leftovers(root: &mut Value) {
    let Some(Value::Object(keyslots)) = root.get_mut("keyslots") else {
        return;
    };
    for slot in keyslots.values_mut() {
        if slot.get("type").and_then(Value::as_str) != Some("luks2") {
            continue;
        }
        let Some(Value::Object(kdf)) = slot.get_mut("kdf") else {
            continue;
        };
        let leftovers: &[&str] = match kdf.get("type").and_then(Value::as_str) {
            Some("pbkdf2") => &["time", "memory", "cpus"],
            Some("argon2i" | "argon2id") => &["hash", "iterations"],
            _ => continue,
        };
        kdf.retain(|member, _| !leftovers.contains(&member.as_str()));
    }
}
