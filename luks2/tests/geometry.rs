//! Where everything of a new header goes, and which wishes are refused.

use luksmith_luks2::{
    FormatError, FormatOptions, FormatPlan, HeaderSize, Label, NewDigest, Rule, new_header,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

fn options() -> FormatOptions {
    FormatOptions {
        label: Label::default(),
        subsystem: Label::default(),
        uuid: "5d0c8f1e-6b1a-4f0e-9a53-0d6a4a2f7c11".into(),
        header_size: HeaderSize::SMALLEST,
        keyslots_size: None,
        data_offset: None,
        data_alignment: 0,
        detached: false,
        header_device_len: None,
        data_device_len: None,
        encryption: "aes-xts-plain64".into(),
        sector_size: 512,
        flags: Vec::new(),
    }
}

fn digest() -> NewDigest {
    NewDigest {
        segments: vec![0],
        hash: "sha256".into(),
        iterations: 1000,
        salt: vec![8; 32],
        digest: vec![9; 32],
    }
}

fn plan(wish: impl FnOnce(&mut FormatOptions)) -> Result<(u64, u64), FormatError> {
    let mut options = options();
    wish(&mut options);
    let plan = FormatPlan::new(&options)?;
    let header = new_header(&options, &digest())?;
    assert_eq!(header.metadata().total_bytes(), plan.total_bytes());
    assert_eq!(header.metadata().segments()[&0].offset, plan.data_offset);
    Ok((plan.keyslots_size, plan.data_offset))
}

#[track_caller]
fn refused(wish: impl FnOnce(&mut FormatOptions), words: &str) {
    match plan(wish) {
        Err(FormatError::Geometry(text)) => assert!(text.contains(words), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_default_ends_at_16_mebibytes_for_every_header_size() {
    for size in HeaderSize::ALL {
        let expected = 16 * MIB - 2 * size.bytes();
        assert_eq!(plan(|o| o.header_size = size), Ok((expected, 16 * MIB)));
        let detached = plan(|o| {
            o.header_size = size;
            o.detached = true;
        });
        assert_eq!(detached, Ok((expected, 0)));
    }
}

#[test]
fn a_data_offset_gives_its_room_to_the_keyslots_up_to_128_mebibytes() {
    assert_eq!(
        plan(|o| o.data_offset = Some(8 * MIB)),
        Ok((8 * MIB - 32 * KIB, 8 * MIB))
    );
    assert_eq!(
        plan(|o| o.data_offset = Some(36 * KIB)),
        Ok((4 * KIB, 36 * KIB))
    );
    assert_eq!(plan(|o| o.data_offset = Some(32 * KIB)), Ok((0, 32 * KIB)));
    assert_eq!(
        plan(|o| o.data_offset = Some(1 << 40)),
        Ok((128 * MIB, 1 << 40))
    );
    let last = u64::MAX / 4096 * 4096;
    assert_eq!(plan(|o| o.data_offset = Some(last)), Ok((128 * MIB, last)));
}

#[test]
fn wishes_for_keyslots_are_cut_to_whole_pages() {
    assert_eq!(
        plan(|o| o.keyslots_size = Some(MIB + 4095)),
        Ok((MIB, 2 * MIB))
    );
    assert_eq!(
        plan(|o| o.keyslots_size = Some(u64::MAX)),
        Ok((128 * MIB, 129 * MIB))
    );
}

#[test]
fn the_start_of_the_data_is_aligned() {
    let aligned = |alignment| {
        plan(move |o| {
            o.keyslots_size = Some(MIB);
            o.data_alignment = alignment;
        })
    };
    assert_eq!(aligned(0), Ok((MIB, 2 * MIB)));
    assert_eq!(aligned(512), Ok((MIB, MIB + 32 * KIB)));
    assert_eq!(aligned(3 * MIB), Ok((MIB, 3 * MIB)));
    assert_eq!(aligned(1 << 63), Ok((MIB, 1 << 63)));
    for bad in [1, 511, 513, u64::MAX] {
        refused(|o| o.data_alignment = bad, "multiple of 512");
    }
    refused(
        |o| {
            o.header_size = HeaderSize::ALL[8];
            o.data_alignment = u64::MAX / 512 * 512;
            o.data_device_len = Some(MIB);
        },
        "no room for data",
    );
}

#[test]
fn contradictions_are_refused_by_name() {
    refused(|o| o.data_offset = Some(4096 + 512), "multiple of 4096");
    refused(|o| o.data_offset = Some(0), "inside of the");
    refused(|o| o.data_offset = Some(28 * KIB), "inside of the");
    refused(
        |o| {
            o.data_offset = Some(MIB);
            o.keyslots_size = Some(MIB);
        },
        "data starts at 1048576",
    );
    refused(
        |o| {
            o.detached = true;
            o.data_offset = Some(4096);
        },
        "inside of",
    );
}

#[test]
fn devices_that_are_too_small_are_refused_by_name() {
    refused(
        |o| o.header_device_len = Some(16 * MIB - 1),
        "the device has 16777215",
    );
    refused(|o| o.data_device_len = Some(16 * MIB), "no room for data");
    refused(
        |o| o.data_device_len = Some(16 * MIB + 511),
        "no room for data",
    );
    refused(|o| o.data_device_len = Some(0), "no room for data");
    assert!(plan(|o| o.data_device_len = Some(16 * MIB + 512)).is_ok());
    refused(
        |o| {
            o.sector_size = 4096;
            o.data_device_len = Some(16 * MIB + 4096 + 512);
        },
        "no multiple of the sector size",
    );
    assert!(plan(|o| o.data_device_len = Some(u64::MAX / 512 * 512)).is_ok());
}

#[test]
fn a_small_device_for_a_detached_header_gets_the_keyslots_that_fit() {
    let on = |len| {
        plan(move |o| {
            o.detached = true;
            o.header_device_len = Some(len);
        })
    };
    assert_eq!(on(MIB), Ok((MIB - 32 * KIB, 0)));
    assert_eq!(on(MIB + 100), Ok((MIB - 32 * KIB, 0)));
    assert_eq!(on(32 * KIB), Ok((0, 0)));
    assert!(on(32 * KIB - 1).is_err());
}

#[test]
fn options_that_break_a_rule_are_refused_by_that_rule() {
    for sector in [0, 256, 513, 8192] {
        assert_eq!(
            plan(|o| o.sector_size = sector)
                .expect_err("no such size")
                .rule(),
            Some(Rule::SegmentSectorSize)
        );
    }
    assert_eq!(
        plan(|o| o.encryption.clear()).expect_err("empty").rule(),
        Some(Rule::EmptyText)
    );
    assert_eq!(plan(|o| o.uuid = "x".into()), Err(FormatError::Uuid));
    let too_many = plan(|o| o.flags = vec!["f".repeat(20); 1000]);
    assert!(matches!(too_many, Err(FormatError::JsonTooBig { .. })));
}
