//! The rules of the format, by name, and one function for each that concerns more than one object.
//!
//! Rules about a single object are checked where it is parsed ([`crate::parse`]); here every object is right by itself and
//! what they say about each other is checked. At least as strict as the reference everywhere; stricter in sector sizes,
//! numbers of objects, sizes of areas and the shift of `datashift-checksum`.

use std::fmt;

use crate::area::{ALIGNMENT, Area, MAX_KEYSLOTS_BYTES};
use crate::error::FormatError;
use crate::member::broken;
use crate::metadata::{KeyslotKind, Metadata, Requirement};
use crate::segment::{Segment, SegmentKind, SegmentSize};

/// A rule that metadata can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each name is explained by its text below")]
pub enum Rule {
    MemberMissing,
    MemberType,
    EmptyText,
    Uint32,
    Uint64,
    Base64,
    ObjectName,
    ObjectNumber,
    RequirementReencryptions,
    TokenKeyslot,
    DigestType,
    DigestValue,
    DigestKeyslot,
    DigestSegment,
    SegmentOffset,
    SegmentSize,
    SegmentSectorSize,
    SegmentWholeSectors,
    SegmentOpal,
    SegmentDigest,
    SegmentNoRegular,
    SegmentAfterBackup,
    SegmentGap,
    SegmentDynamicLast,
    SegmentOverlap,
    SegmentOverflow,
    SegmentHotZones,
    ReencryptBackups,
    ReencryptSegment,
    KeyslotPriority,
    KeySize,
    KdfMembers,
    KdfSalt,
    KdfCost,
    AfType,
    AfStripes,
    AreaType,
    AreaTooSmall,
    AreaEmpty,
    AreaOutside,
    AreaOverlap,
    KeyslotDigest,
    ReencryptMode,
    ReencryptDirection,
    ReencryptKeySize,
    ReencryptSectorSize,
    ReencryptShift,
    ReencryptSlotMissing,
    ReencryptFlagMissing,
    ReencryptSlots,
    JsonSize,
    KeyslotsSize,
    KeyslotsReachData,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemberMissing => "a member is missing",
            Self::MemberType => "a member is of the wrong type",
            Self::EmptyText => "a text is empty",
            Self::Uint32 => "a number is not of 32 bits",
            Self::Uint64 => "a number is not of 64 bits in decimal digits",
            Self::Base64 => "binary data is not base64",
            Self::ObjectName => "the name of an object is not its number",
            Self::ObjectNumber => "the number of an object is too high",
            Self::RequirementReencryptions => {
                "more than one kind of online re-encryption is required"
            }
            Self::TokenKeyslot => "a token names a keyslot that is not there",
            Self::DigestType => "a digest is of an unknown type",
            Self::DigestValue => "a digest is empty or costs nothing",
            Self::DigestKeyslot => "a digest names a keyslot that is not there",
            Self::DigestSegment => "a digest names a segment that is not there",
            Self::SegmentOffset => "a segment does not start on a sector",
            Self::SegmentSize => "the size of a segment is not a number of sectors",
            Self::SegmentSectorSize => "the sector size of a segment is none of the four",
            Self::SegmentWholeSectors => "a segment does not end on a sector of its own size",
            Self::SegmentOpal => "a segment does not fit the range of its drive",
            Self::SegmentDigest => "an encrypted segment has no digest",
            Self::SegmentNoRegular => "there is no segment that is no backup",
            Self::SegmentAfterBackup => "a segment comes after a backup",
            Self::SegmentGap => "the numbers of segments have a gap",
            Self::SegmentDynamicLast => "a segment of open size is not the last",
            Self::SegmentOverlap => "segments overlap",
            Self::SegmentOverflow => "a segment ends beyond the last number",
            Self::SegmentHotZones => "more than one segment is in re-encryption",
            Self::ReencryptBackups => "a backup segment of the re-encryption is missing",
            Self::ReencryptSegment => {
                "a segment is neither as before nor as after the re-encryption"
            }
            Self::KeyslotPriority => "a priority is none of the three",
            Self::KeySize => "a key size is not possible",
            Self::KdfMembers => "a key derivation has other members than it may have",
            Self::KdfSalt => "the salt of a key derivation is not of 32 bytes",
            Self::KdfCost => "a key derivation costs nothing",
            Self::AfType => "an anti-forensic splitter is of an unknown type",
            Self::AfStripes => "an anti-forensic splitter has another number of stripes than 4000",
            Self::AreaType => "the area of a keyslot is of the wrong type",
            Self::AreaTooSmall => "the area of a keyslot is too small for its key",
            Self::AreaEmpty => "the area of a keyslot is empty",
            Self::AreaOutside => "the area of a keyslot lies outside of the keyslots area",
            Self::AreaOverlap => "the areas of keyslots overlap",
            Self::KeyslotDigest => "a keyslot is not in exactly one digest",
            Self::ReencryptMode => "the mode of a re-encryption is unknown",
            Self::ReencryptDirection => "the direction of a re-encryption is unknown",
            Self::ReencryptKeySize => "the keyslot of a re-encryption has a key",
            Self::ReencryptSectorSize => {
                "the block of re-encryption hashes is no power of two from 512"
            }
            Self::ReencryptShift => "the shift of a re-encryption is 0 or not a number of sectors",
            Self::ReencryptSlotMissing => "a re-encryption is required, but has no keyslot",
            Self::ReencryptFlagMissing => "a re-encryption has a keyslot, but is not required",
            Self::ReencryptSlots => "there is more than one re-encryption keyslot",
            Self::JsonSize => "the size of the JSON area is not that of the header",
            Self::KeyslotsSize => "the size of the keyslots area is not possible",
            Self::KeyslotsReachData => "the keyslots area reaches into the data",
        })
    }
}

/// All rules between objects, in the order of the reference.
pub(crate) fn all(metadata: &Metadata) -> Result<(), FormatError> {
    requirements_name_one_reencryption(metadata)?;
    tokens_name_keyslots(metadata)?;
    digests_name_keyslots_and_segments(metadata)?;
    crypt_segments_have_a_digest(metadata)?;
    segments_are_numbered_without_gap(metadata)?;
    regular_segments_come_first(metadata)?;
    regular_segments_tile(metadata)?;
    one_hot_zone(metadata)?;
    reencryption_segments_match_backups(metadata)?;
    config_fits_the_header(metadata)?;
    keyslots_end_before_data(metadata)?;
    areas_lie_inside_and_apart(metadata)?;
    json_fits(metadata)?;
    keyslots_are_in_one_digest(metadata)?;
    reencryption_has_flag_and_slot(metadata)
}

fn requirements_name_one_reencryption(metadata: &Metadata) -> Result<(), FormatError> {
    let requirements = metadata.requirements();
    let known = requirements
        .known
        .iter()
        .filter(|r| matches!(r, Requirement::OnlineReencrypt(_)))
        .count();
    let unknown = requirements
        .unknown
        .iter()
        .filter(|name| is_online_reencryption(name))
        .count();
    if known + unknown > 1 {
        return broken(
            Rule::RequirementReencryptions,
            format!("{} of them", known + unknown),
        );
    }
    Ok(())
}

/// Also versions that are not known yet.
fn is_online_reencryption(name: &str) -> bool {
    name == "online-reencrypt"
        || name
            .strip_prefix("online-reencrypt-v")
            .is_some_and(|version| {
                !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit())
            })
}

fn tokens_name_keyslots(metadata: &Metadata) -> Result<(), FormatError> {
    for (number, token) in metadata.tokens() {
        if let Some(missing) = token
            .keyslots
            .iter()
            .find(|slot| !metadata.keyslots().contains_key(slot))
        {
            return broken(
                Rule::TokenKeyslot,
                format!("token {number} names keyslot {missing}"),
            );
        }
    }
    Ok(())
}

fn digests_name_keyslots_and_segments(metadata: &Metadata) -> Result<(), FormatError> {
    for (number, digest) in metadata.digests() {
        if let Some(missing) = digest
            .keyslots
            .iter()
            .find(|slot| !metadata.keyslots().contains_key(slot))
        {
            return broken(
                Rule::DigestKeyslot,
                format!("digest {number} names keyslot {missing}"),
            );
        }
        if let Some(missing) = digest
            .segments
            .iter()
            .find(|segment| !metadata.segments().contains_key(segment))
        {
            return broken(
                Rule::DigestSegment,
                format!("digest {number} names segment {missing}"),
            );
        }
    }
    Ok(())
}

fn crypt_segments_have_a_digest(metadata: &Metadata) -> Result<(), FormatError> {
    for (number, segment) in metadata.segments() {
        if segment.crypt().is_some() && metadata.digests_of_segment(*number).next().is_none() {
            return broken(Rule::SegmentDigest, format!("segment {number}"));
        }
    }
    Ok(())
}

fn segments_are_numbered_without_gap(metadata: &Metadata) -> Result<(), FormatError> {
    for (expected, number) in metadata.segments().keys().enumerate() {
        if usize::from(*number) != expected {
            return broken(Rule::SegmentGap, format!("segment {expected} is missing"));
        }
    }
    Ok(())
}

fn regular_segments_come_first(metadata: &Metadata) -> Result<(), FormatError> {
    let mut backup = None;
    for (number, segment) in metadata.segments() {
        match backup {
            None if segment.is_backup() => backup = Some(number),
            Some(first) if !segment.is_backup() => {
                return broken(
                    Rule::SegmentAfterBackup,
                    format!("segment {number} after backup {first}"),
                );
            }
            _ => {}
        }
    }
    match metadata.regular_segments().next() {
        Some(_) => Ok(()),
        None => broken(
            Rule::SegmentNoRegular,
            format!("{} segments", metadata.segments().len()),
        ),
    }
}

fn regular_segments_tile(metadata: &Metadata) -> Result<(), FormatError> {
    let regular: Vec<(u8, &Segment)> = metadata.regular_segments().collect();
    let last = regular.len().saturating_sub(1);
    let mut ranges: Vec<(u64, u64, u8)> = Vec::new();
    for (index, (number, segment)) in regular.iter().enumerate() {
        let end = match segment.size {
            SegmentSize::Dynamic if index != last => {
                return broken(Rule::SegmentDynamicLast, format!("segment {number}"));
            }
            SegmentSize::Dynamic => u64::MAX,
            SegmentSize::Fixed(bytes) => match segment.offset.checked_add(bytes) {
                Some(end) => end,
                None => return broken(Rule::SegmentOverflow, format!("segment {number}")),
            },
        };
        ranges.push((segment.offset, end, *number));
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if pair[1].0 < pair[0].1 {
            return broken(
                Rule::SegmentOverlap,
                format!("segments {} and {}", pair[0].2, pair[1].2),
            );
        }
    }
    Ok(())
}

fn one_hot_zone(metadata: &Metadata) -> Result<(), FormatError> {
    let hot = metadata
        .regular_segments()
        .filter(|(_, segment)| segment.has_flag("in-reencryption"))
        .count();
    if hot > 1 {
        broken(Rule::SegmentHotZones, format!("{hot} of them"))
    } else {
        Ok(())
    }
}

fn reencryption_segments_match_backups(metadata: &Metadata) -> Result<(), FormatError> {
    if !metadata
        .requirements()
        .known
        .iter()
        .any(|r| matches!(r, Requirement::OnlineReencrypt(_)))
    {
        return Ok(());
    }
    // Of several with one flag the reference takes the last.
    let backup = |flag| {
        metadata
            .segments()
            .values()
            .rev()
            .find(|segment| segment.has_flag(flag))
    };
    let (Some(previous), Some(goal)) = (backup("backup-previous"), backup("backup-final")) else {
        return broken(
            Rule::ReencryptBackups,
            "backup-previous and backup-final".into(),
        );
    };
    for (number, segment) in metadata.regular_segments() {
        let hot = segment.has_flag("in-reencryption");
        if !alike(segment, goal) && (hot || !alike(segment, previous)) {
            return broken(Rule::ReencryptSegment, format!("segment {number}"));
        }
    }
    Ok(())
}

/// Same kind, and for encrypted ones the same cipher and sector size.
fn alike(one: &Segment, other: &Segment) -> bool {
    match (&one.kind, &other.kind) {
        (SegmentKind::Crypt(a), SegmentKind::Crypt(b)) => {
            a.encryption == b.encryption && a.sector_size == b.sector_size
        }
        (SegmentKind::Other(a), SegmentKind::Other(b)) => a == b,
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

fn config_fits_the_header(metadata: &Metadata) -> Result<(), FormatError> {
    let config = metadata.config();
    let expected = metadata.geometry().header_size.json_bytes();
    if config.json_size != expected {
        return broken(
            Rule::JsonSize,
            format!("config.json_size is {}, not {expected}", config.json_size),
        );
    }
    if !config.keyslots_size.is_multiple_of(ALIGNMENT) || config.keyslots_size > MAX_KEYSLOTS_BYTES
    {
        return broken(
            Rule::KeyslotsSize,
            format!("config.keyslots_size is {}", config.keyslots_size),
        );
    }
    Ok(())
}

/// A segment that starts at 0 says that the data is on a device of its own.
fn keyslots_end_before_data(metadata: &Metadata) -> Result<(), FormatError> {
    let first = metadata
        .regular_segments()
        .map(|(_, segment)| segment.offset)
        .min()
        .unwrap_or(0);
    let end = metadata.total_bytes();
    if first != 0 && first < end {
        return broken(
            Rule::KeyslotsReachData,
            format!("keyslots end at {end}, data starts at {first}"),
        );
    }
    Ok(())
}

fn areas_lie_inside_and_apart(metadata: &Metadata) -> Result<(), FormatError> {
    let whole = metadata.keyslots_area();
    let whole_end = whole.offset + whole.size;
    let mut areas: Vec<(Area, u8)> = Vec::new();
    for (number, slot) in metadata.keyslots() {
        let area = slot.area();
        if area.size == 0 {
            return broken(Rule::AreaEmpty, format!("keyslot {number}"));
        }
        if area.offset < whole.offset || area.end().is_none_or(|end| end > whole_end) {
            return broken(
                Rule::AreaOutside,
                format!("keyslot {number}: {} bytes at {}", area.size, area.offset),
            );
        }
        areas.push((area, *number));
    }
    areas.sort_unstable();
    for pair in areas.windows(2) {
        if pair[0].0.overlaps(&pair[1].0) {
            return broken(
                Rule::AreaOverlap,
                format!("keyslots {} and {}", pair[0].1, pair[1].1),
            );
        }
    }
    Ok(())
}

/// As it will be written, which may be longer than it was read.
fn json_fits(metadata: &Metadata) -> Result<(), FormatError> {
    let need = metadata.to_json_bytes().len() as u64 + 1;
    let have = metadata.geometry().header_size.json_bytes();
    if need > have {
        Err(FormatError::JsonTooBig { need, have })
    } else {
        Ok(())
    }
}

fn keyslots_are_in_one_digest(metadata: &Metadata) -> Result<(), FormatError> {
    for (number, slot) in metadata.keyslots() {
        let digests = metadata
            .digests()
            .values()
            .filter(|digest| digest.keyslots.contains(number))
            .count();
        if slot.luks2().is_some() && digests != 1 {
            return broken(
                Rule::KeyslotDigest,
                format!("keyslot {number} is in {digests}"),
            );
        }
    }
    Ok(())
}

fn reencryption_has_flag_and_slot(metadata: &Metadata) -> Result<(), FormatError> {
    let slots = metadata
        .keyslots()
        .values()
        .filter(|slot| matches!(slot.kind, KeyslotKind::Reencrypt(_)))
        .count();
    let requirements = metadata.requirements();
    let known = requirements
        .known
        .iter()
        .any(|r| matches!(r, Requirement::OnlineReencrypt(_)));
    let unknown = requirements
        .unknown
        .iter()
        .any(|name| is_online_reencryption(name));
    if known && slots == 0 {
        return broken(
            Rule::ReencryptSlotMissing,
            "no keyslot of type reencrypt".into(),
        );
    }
    if slots > 0 && !known && !unknown {
        return broken(
            Rule::ReencryptFlagMissing,
            "no requirement of that name".into(),
        );
    }
    if slots > 1 {
        return broken(Rule::ReencryptSlots, format!("{slots} of them"));
    }
    Ok(())
}
