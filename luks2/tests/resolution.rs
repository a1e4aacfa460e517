//! Which copy is in force, and what is said about the other.

mod support;

use std::io;

use luksmith_luks2::binary::{BinaryHeader, write_checksum};
use luksmith_luks2::{
    ChecksumAlgorithm, CopyState, FormatError, Header, HeaderCopy, HeaderSize, Label, Metadata,
    Repair, RepairReason, ResolveError, Resolved, SeqId, resolve,
};
use serde_json::json;
use support::{DATA, copies_of, fields, header, resolve_image, sample};

const LEN: u64 = DATA * 2;
const ONE: usize = 16384;

fn image() -> Vec<u8> {
    copies_of(
        &fields(HeaderSize::SMALLEST, 4),
        sample().to_string().as_bytes(),
    )
}

/// Primary of one image, secondary of another.
fn mixed(first: &[u8], second: &[u8]) -> Vec<u8> {
    [&first[..ONE], &second[ONE..]].concat()
}

fn reason(image: &[u8]) -> (HeaderCopy, Option<Repair>) {
    let resolved = resolve_image(image, LEN).expect("one copy is good");
    (resolved.in_force, resolved.repair)
}

#[test]
fn two_equal_copies_need_no_repair() {
    let resolved = resolve_image(&image(), LEN).expect("in order");
    assert_eq!(
        (resolved.in_force, resolved.repair),
        (HeaderCopy::Primary, None)
    );
    assert_eq!(
        resolved.primary,
        CopyState::Good {
            seqid: SeqId(4),
            salt: [0x5a; 64]
        }
    );
    assert_eq!(
        resolved.secondary,
        CopyState::Good {
            seqid: SeqId(4),
            salt: [0xa5; 64]
        }
    );
}

#[test]
fn the_higher_sequence_number_wins_whichever_copy_has_it() {
    let text = sample().to_string();
    let newer = copies_of(&fields(HeaderSize::SMALLEST, 5), text.as_bytes());
    let stale = |copy| {
        Some(Repair {
            copy,
            reason: RepairReason::Stale { seqid: SeqId(4) },
        })
    };
    assert_eq!(
        reason(&mixed(&newer, &image())),
        (HeaderCopy::Primary, stale(HeaderCopy::Secondary))
    );
    assert_eq!(
        reason(&mixed(&image(), &newer)),
        (HeaderCopy::Secondary, stale(HeaderCopy::Primary))
    );
    let last = copies_of(&fields(HeaderSize::SMALLEST, u64::MAX), text.as_bytes());
    assert_eq!(reason(&mixed(&image(), &last)).0, HeaderCopy::Secondary);
}

#[test]
fn equal_numbers_with_other_content_are_a_conflict_and_the_primary_wins() {
    let mut other = sample();
    other["config"]["flags"] = json!(["allow-discards"]);
    let other = copies_of(
        &fields(HeaderSize::SMALLEST, 4),
        other.to_string().as_bytes(),
    );
    let conflict = Some(Repair {
        copy: HeaderCopy::Secondary,
        reason: RepairReason::Conflict,
    });
    for (first, second, flags) in [(&image(), &other, 0), (&other, &image(), 1)] {
        let resolved = resolve_image(&mixed(first, second), LEN).expect("both are good");
        assert_eq!(
            (resolved.in_force, resolved.repair),
            (HeaderCopy::Primary, conflict.clone())
        );
        assert_eq!(resolved.header.metadata().flags().len(), flags);
    }
    // Also when only the label differs.
    let labelled = BinaryHeader {
        label: Label::new("x").expect("fits"),
        ..fields(HeaderSize::SMALLEST, 4)
    };
    let labelled = copies_of(&labelled, sample().to_string().as_bytes());
    assert_eq!(
        reason(&mixed(&image(), &labelled)),
        (HeaderCopy::Primary, conflict)
    );
}

#[test]
fn every_damaged_byte_of_one_copy_leaves_the_other_in_force() {
    let good = image();
    let used = 4096 + sample().to_string().len() + 1;
    // Every byte of the fields and each 7th of the rest: all are under the checksum.
    for at in (0..512).chain((512..used).step_by(7)).chain([ONE - 1]) {
        for (start, bad) in [(0, HeaderCopy::Primary), (ONE, HeaderCopy::Secondary)] {
            let mut damaged = good.clone();
            damaged[start + at] ^= 0x20;
            let (in_force, repair) = reason(&damaged);
            assert_eq!(
                (in_force, repair.map(|r| r.copy)),
                (bad.other(), Some(bad)),
                "byte {at} of the {}",
                bad.name()
            );
        }
    }
}

#[test]
fn without_a_primary_the_secondary_is_found_at_all_nine_places() {
    for size in HeaderSize::ALL {
        let mut root = sample();
        root["config"]["json_size"] = size.json_bytes().to_string().into();
        root["segments"]["0"]["offset"] = "33554432".into();
        for slot in ["0", "1"] {
            let old: u64 = root["keyslots"][slot]["area"]["offset"]
                .as_str()
                .expect("text")
                .parse()
                .expect("a number");
            root["keyslots"][slot]["area"]["offset"] =
                (old - 32768 + size.keyslots_offset()).to_string().into();
        }
        let mut image = copies_of(&fields(size, 9), root.to_string().as_bytes());
        let one = usize::try_from(size.bytes()).expect("small");
        image[..one].fill(0);
        let resolved = resolve_image(&image, 64 << 20)
            .unwrap_or_else(|error| panic!("{}: {error}", size.bytes()));
        assert_eq!(
            (resolved.in_force, resolved.header.size()),
            (HeaderCopy::Secondary, size)
        );
        let repair = resolved.repair.expect("the primary is gone");
        assert!(repair.reason.is_primary_gone(), "{repair:?}");
        // A good primary of the same image needs no probing and reads nothing else.
        image[..one].copy_from_slice(&resolved.header.encode(HeaderCopy::Primary, [1; 64]));
        assert_eq!(resolve_image(&image, 64 << 20).expect("whole").repair, None);
    }
}

#[test]
fn of_two_secondaries_the_one_nearest_to_the_start_is_taken() {
    // The farther one may lie in somebody's data.
    let mut image = image();
    image[..ONE].fill(0);
    let mut root = sample();
    root["config"]["json_size"] = "61440".into();
    root["keyslots"]["0"]["area"]["offset"] = "131072".into();
    root["keyslots"]["1"]["area"]["offset"] = "524288".into();
    let far = copies_of(
        &fields(HeaderSize::new(65536).expect("one of nine"), 77),
        root.to_string().as_bytes(),
    );
    image.resize(65536, 0);
    image.extend(&far[65536..]);
    let resolved = resolve_image(&image, LEN).expect("a secondary is good");
    assert_eq!(resolved.header.seqid(), SeqId(4));
}

#[test]
fn a_copy_that_lies_about_its_place_is_no_copy() {
    let good = image();
    // The secondary, copied over the primary with the primary's magic but its own offset.
    let mut moved = good.clone();
    let second = good[ONE..].to_vec();
    moved[..ONE].copy_from_slice(&second);
    moved[..6].copy_from_slice(b"LUKS\xba\xbe");
    write_checksum(&mut moved[..ONE], ChecksumAlgorithm::Sha256);
    let resolved = resolve_image(&moved, LEN).expect("the secondary is good");
    assert_eq!(
        resolved.primary,
        CopyState::Bad(FormatError::HeaderOffset {
            stated: 16384,
            found: 0
        })
    );
}

#[test]
fn a_secondary_of_another_size_than_the_primary_says_is_no_copy() {
    let good = image();
    let mut other = good[ONE..].to_vec();
    other[8..16].copy_from_slice(&32768_u64.to_be_bytes());
    write_checksum(&mut other, ChecksumAlgorithm::Sha256);
    let image = [&good[..ONE], &other].concat();
    let resolved = resolve_image(&image, LEN).expect("the primary is good");
    assert!(
        matches!(
            resolved.secondary,
            CopyState::Bad(FormatError::HeaderOffset { .. })
        ),
        "{:?}",
        resolved.secondary
    );
}

#[test]
fn nothing_is_no_header_and_luks1_is_said_to_be_luks1() {
    for len in [0, 1, 511, 4095, 4096, 16384, LEN] {
        match resolve_image(&[], len) {
            Err(ResolveError::NotLuks2) => {}
            other => panic!("{len}: {other:?}"),
        }
    }
    assert!(matches!(
        resolve_image(b"LUKS\xba\xbe\0\x01", LEN),
        Err(ResolveError::Luks1)
    ));
    let Err(ResolveError::BothBad { primary, .. }) = resolve_image(b"LUKS\xba\xbe\0\x03", LEN)
    else {
        panic!("version 3 is a LUKS of some kind");
    };
    assert_eq!(primary, FormatError::Version(3));
}

#[test]
fn a_device_cut_short_is_refused_at_every_length() {
    let good = image();
    let need = header().metadata().total_bytes();
    for len in [
        0,
        100,
        4095,
        4096,
        4097,
        16383,
        16384,
        20480,
        32767,
        32768,
        need - 1,
    ] {
        let cut = &good[..good.len().min(usize::try_from(len).expect("small"))];
        assert!(resolve_image(cut, len).is_err(), "{len} bytes");
    }
    assert!(matches!(
        resolve_image(&good, need - 1),
        Err(ResolveError::DeviceTooSmall { .. })
    ));
    assert!(resolve_image(&good, need).is_ok());
}

/// Resolves a whole image of which reads that touch these bytes fail.
fn with_bad_sectors(image: &[u8], bad: &[u64]) -> Result<Resolved, ResolveError> {
    let mut read = |offset: u64, len: usize| {
        if bad
            .iter()
            .any(|at| (offset..offset + len as u64).contains(at))
        {
            Err(io::Error::other("medium error"))
        } else {
            Ok(support::read_sparse(image, offset, len))
        }
    };
    resolve(&mut read, LEN)
}

#[test]
fn an_unreadable_copy_leaves_the_other_in_force_and_is_said_to_be_unreadable() {
    // In the fields, in the JSON text, and in the unused end of the area.
    for at in [0, 4096, 16383] {
        for (start, bad) in [(0, HeaderCopy::Primary), (16384, HeaderCopy::Secondary)] {
            let resolved = with_bad_sectors(&image(), &[start + at]).expect("the other is good");
            assert_eq!(resolved.in_force, bad.other());
            let reason = RepairReason::Unreadable("medium error".into());
            assert_eq!(resolved.repair, Some(Repair { copy: bad, reason }));
            let state = if bad == HeaderCopy::Primary {
                resolved.primary
            } else {
                resolved.secondary
            };
            assert_eq!(state, CopyState::Unreadable("medium error".into()));
        }
    }
}

#[test]
fn without_a_readable_good_copy_the_read_error_is_the_error() {
    match with_bad_sectors(&image(), &[0, 16384]) {
        Err(ResolveError::Read {
            offset: 0, source, ..
        }) => assert_eq!(source.to_string(), "medium error"),
        other => panic!("{other:?}"),
    }
    // Half a disk: one copy bad, the other not to be read.
    for (damaged, unreadable) in [(5000, 16384), (16384 + 5000, 0)] {
        let mut image = image();
        image[damaged] ^= 1;
        assert!(matches!(
            with_bad_sectors(&image, &[unreadable]),
            Err(ResolveError::Read { .. })
        ));
    }
    // A place among the nine that cannot be read does not hide a good copy at another.
    let mut gone = image();
    gone[..ONE].fill(0);
    assert!(with_bad_sectors(&gone, &[65536, 131_072]).is_ok());
    // A short read is an unreadable copy, too.
    let mut short = |offset, len: usize| Ok(support::read_sparse(&gone, offset, len - 1));
    assert!(matches!(
        resolve(&mut short, LEN),
        Err(ResolveError::Read { .. })
    ));
}

#[test]
fn nothing_is_read_beyond_the_device_and_no_read_is_larger_than_a_header() {
    for image in [
        image(),
        vec![0; 40000],
        b"LUKS\xba\xbe\0\x02\0\0\0\0\0\x40\0\0".to_vec(),
    ] {
        for len in [0_u64, 4096, 5000, 16384, 40000, LEN] {
            let mut read = |offset: u64, bytes: usize| {
                assert!(
                    offset + bytes as u64 <= len,
                    "{bytes} bytes at {offset} of {len}"
                );
                assert!(bytes <= 4 << 20);
                Ok(support::read_sparse(&image, offset, bytes))
            };
            let _ = resolve(&mut read, len);
        }
    }
}

#[test]
fn the_sequence_number_is_never_wrapped() {
    assert_eq!(SeqId(u64::MAX).next(), Err(FormatError::SeqIdExhausted));
    assert_eq!(SeqId(6).next(), Ok(SeqId(7)));
}

#[test]
fn labels_are_bytes_and_print_safely() {
    let text = sample().to_string();
    let mut image = copies_of(&fields(HeaderSize::SMALLEST, 4), text.as_bytes());
    for start in [0, ONE] {
        image[start + 24..start + 24 + 48].fill(0xff);
        image[start + 208..start + 213].copy_from_slice(b"\x1b[31m");
        write_checksum(&mut image[start..start + ONE], ChecksumAlgorithm::Sha256);
    }
    let header = resolve_image(&image, LEN).expect("in order").header;
    assert_eq!(
        header.label().as_bytes(),
        [0xff; 47],
        "a field without NUL ends one byte before its end"
    );
    assert_eq!(header.subsystem().display(), "\\u{1b}[31m");
    let again = header.encode(HeaderCopy::Primary, [0; 64]);
    assert_eq!(
        Header::decode(&again, HeaderCopy::Primary, 0)
            .expect("ours")
            .0,
        header
    );
    assert_eq!(Label::new(&"x".repeat(48)), Err(FormatError::Label));
    assert_eq!(Label::new("a\0b"), Err(FormatError::Label));
    assert!(Label::new(&"x".repeat(47)).is_ok());
}

#[test]
fn a_uuid_that_could_climb_out_of_a_directory_is_refused() {
    for uuid in [
        "",
        "../../../../../../etc/passwd",
        "5d0c8f1e-6b1a-4f0e-9a53-0d6a4a2f7c1",
        "{5d0c8f1e-6b1a-4f0e-9a53-0d6a4a2f7c}",
    ] {
        let bad = BinaryHeader {
            uuid: uuid.into(),
            ..fields(HeaderSize::SMALLEST, 4)
        };
        let image = copies_of(&bad, sample().to_string().as_bytes());
        let Err(ResolveError::BothBad { primary, .. }) = resolve_image(&image, LEN) else {
            panic!("{uuid}")
        };
        assert_eq!(primary, FormatError::Uuid);
        assert_eq!(header().with_uuid(uuid), Err(FormatError::Uuid));
    }
}

#[test]
fn unknown_checksums_are_named() {
    let mut image = image();
    for start in [0, ONE] {
        image[start + 72..start + 79].copy_from_slice(b"crc-32\0");
    }
    let Err(ResolveError::BothBad { primary, .. }) = resolve_image(&image, LEN) else {
        panic!("refused")
    };
    assert_eq!(primary, FormatError::UnknownChecksum("crc-32".into()));
}

#[test]
fn a_text_that_fills_its_area_to_the_last_byte_fits_and_one_more_does_not() {
    let geometry = support::geometry();
    let padded = |extra: usize| {
        let mut root = sample();
        root["config"]["x"] = "y".into();
        let now = root.to_string().len();
        root["config"]["x"] = "y".repeat(12288 - 1 - now + 1 + extra).into();
        root.to_string()
    };
    let full = padded(0);
    assert_eq!(full.len(), 12287);
    let image = copies_of(&fields(HeaderSize::SMALLEST, 4), full.as_bytes());
    assert_eq!(
        resolve_image(&image, LEN)
            .expect("fits")
            .header
            .metadata()
            .to_json_bytes(),
        full.as_bytes()
    );
    let too_big = Metadata::parse(padded(1).as_bytes(), &geometry);
    assert_eq!(
        too_big,
        Err(FormatError::JsonTooBig {
            need: 12289,
            have: 12288
        })
    );
}
