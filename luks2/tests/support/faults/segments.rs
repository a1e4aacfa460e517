//! Segments, and the sizes in `config`.

use luksmith_luks2::Rule;
use serde_json::{Value, json};

use super::super::KEYSLOTS;
use super::{Edit, Expected, drop_member, rename, set};

fn opal(root: &mut Value, kind: &str) {
    let segment = root.pointer_mut("/segments/0").expect("the sample has it");
    segment["type"] = kind.into();
    segment["size"] = "1048576".into();
    segment["opal_segment_number"] = 1.into();
    segment["opal_key_size"] = 32.into();
    segment["opal_segment_size"] = "1048576".into();
}

/// Two regular segments, one after the other.
fn two_segments(root: &mut Value) {
    set(root, "/segments/0/size", json!("1048576"));
    let mut second = root["segments"]["0"].clone();
    second["offset"] = "3145728".into();
    second["size"] = "dynamic".into();
    root["segments"]["1"] = second;
    root["digests"]["0"]["segments"] = json!(["0", "1"]);
}

pub(super) const SEGMENTS_AND_SIZES: &[(&str, Expected, Edit)] = &[
    (
        "segments-empty",
        Expected::Rule(Rule::SegmentNoRegular),
        |r| {
            set(r, "/segments", json!({}));
            set(r, "/digests/0/segments", json!([]));
        },
    ),
    (
        "segment-without-type",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/segments/0", "type"),
    ),
    (
        "segment-without-offset",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/segments/0", "offset"),
    ),
    (
        "segment-without-size",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/segments/0", "size"),
    ),
    (
        "segment-without-tweak",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/segments/0", "iv_tweak"),
    ),
    (
        "segment-without-encryption",
        Expected::Rule(Rule::MemberMissing),
        |r| {
            drop_member(r, "/segments/0", "encryption");
        },
    ),
    (
        "segment-without-sector-size",
        Expected::Rule(Rule::MemberMissing),
        |r| {
            drop_member(r, "/segments/0", "sector_size");
        },
    ),
    (
        "segment-offset-not-on-sector",
        Expected::Rule(Rule::SegmentOffset),
        |r| {
            set(r, "/segments/0/offset", json!("2097153"));
        },
    ),
    (
        "segment-offset-negative",
        Expected::Rule(Rule::Uint64),
        |r| set(r, "/segments/0/offset", json!("-512")),
    ),
    ("segment-size-0", Expected::Rule(Rule::SegmentSize), |r| {
        set(r, "/segments/0/size", json!("0"))
    }),
    (
        "segment-size-not-sectors",
        Expected::Rule(Rule::SegmentSize),
        |r| set(r, "/segments/0/size", json!("513")),
    ),
    ("segment-size-in-words", Expected::Rule(Rule::Uint64), |r| {
        set(r, "/segments/0/size", json!("all"))
    }),
    (
        "segment-size-not-whole-own-sectors",
        Expected::Rule(Rule::SegmentWholeSectors),
        |r| {
            set(r, "/segments/0/size", json!("4608"));
            set(r, "/segments/0/sector_size", json!(4096));
        },
    ),
    (
        "segment-ends-beyond-64-bits",
        Expected::Rule(Rule::SegmentOverflow),
        |r| {
            two_segments(r);
            set(r, "/segments/1/size", json!("18446744073709551104"));
        },
    ),
    (
        "segment-tweak-not-decimal",
        Expected::Rule(Rule::Uint64),
        |r| set(r, "/segments/0/iv_tweak", json!("1e3")),
    ),
    (
        "segment-sector-size-0",
        Expected::Rule(Rule::SegmentSectorSize),
        |r| {
            set(r, "/segments/0/sector_size", json!(0));
        },
    ),
    (
        "segment-sector-size-513",
        Expected::Rule(Rule::SegmentSectorSize),
        |r| {
            set(r, "/segments/0/sector_size", json!(513));
        },
    ),
    (
        "segment-sector-size-1536",
        Expected::Rule(Rule::SegmentSectorSize),
        |r| {
            set(r, "/segments/0/sector_size", json!(1536));
        },
    ),
    (
        "segment-sector-size-8192",
        Expected::Rule(Rule::SegmentSectorSize),
        |r| {
            set(r, "/segments/0/sector_size", json!(8192));
        },
    ),
    (
        "segment-integrity-without-type",
        Expected::Rule(Rule::MemberMissing),
        |r| {
            r["segments"]["0"]["integrity"] =
                json!({"journal_encryption": "none", "journal_integrity": "none"});
        },
    ),
    (
        "segment-integrity-is-string",
        Expected::Rule(Rule::MemberType),
        |r| {
            r["segments"]["0"]["integrity"] = json!("hmac");
        },
    ),
    (
        "segment-flags-hold-number",
        Expected::Rule(Rule::MemberType),
        |r| r["segments"]["0"]["flags"] = json!([1]),
    ),
    ("segment-of-unknown-type", Expected::Fine, |r| {
        set(r, "/segments/0/type", json!("striped"))
    }),
    (
        "segment-without-digest",
        Expected::Rule(Rule::SegmentDigest),
        |r| set(r, "/digests/0/segments", json!([])),
    ),
    ("segments-two", Expected::Fine, two_segments),
    ("segments-with-gap", Expected::Rule(Rule::SegmentGap), |r| {
        two_segments(r);
        rename(r, "/segments", "1", "2");
        set(r, "/digests/0/segments", json!(["0", "2"]));
    }),
    (
        "segments-without-0",
        Expected::Rule(Rule::SegmentGap),
        |r| {
            rename(r, "/segments", "0", "1");
            set(r, "/digests/0/segments", json!(["1"]));
        },
    ),
    (
        "segment-dynamic-before-last",
        Expected::Rule(Rule::SegmentDynamicLast),
        |r| {
            two_segments(r);
            set(r, "/segments/0/size", json!("dynamic"));
        },
    ),
    (
        "segments-overlap",
        Expected::Rule(Rule::SegmentOverlap),
        |r| {
            two_segments(r);
            set(r, "/segments/1/offset", json!("3145216"));
        },
    ),
    (
        "segments-overlap-in-other-order",
        Expected::Rule(Rule::SegmentOverlap),
        |r| {
            two_segments(r);
            set(r, "/segments/1/size", json!("1048576"));
            set(r, "/segments/0/offset", json!("3145728"));
            set(r, "/segments/0/size", json!("dynamic"));
            rename(r, "/segments", "0", "9");
            rename(r, "/segments", "1", "0");
            rename(r, "/segments", "9", "1");
            set(r, "/segments/0/offset", json!("3146240"));
        },
    ),
    (
        "segment-only-backup",
        Expected::Rule(Rule::SegmentNoRegular),
        |r| {
            r["segments"]["0"]["flags"] = json!(["backup-final"]);
        },
    ),
    (
        "segment-regular-after-backup",
        Expected::Rule(Rule::SegmentAfterBackup),
        |r| {
            two_segments(r);
            let mut third = r["segments"]["1"].clone();
            r["segments"]["1"]["flags"] = json!(["backup-final"]);
            third["flags"] = json!([]);
            r["segments"]["2"] = third;
            r["digests"]["0"]["segments"] = json!(["0", "1", "2"]);
        },
    ),
    (
        "segment-backup-after-gap",
        Expected::Rule(Rule::SegmentGap),
        |r| {
            let mut backup = r["segments"]["0"].clone();
            backup["flags"] = json!(["backup-final"]);
            r["segments"]["5"] = backup;
            r["digests"]["0"]["segments"] = json!(["0", "5"]);
        },
    ),
    (
        "segments-two-hot-zones",
        Expected::Rule(Rule::SegmentHotZones),
        |r| {
            two_segments(r);
            r["segments"]["0"]["flags"] = json!(["in-reencryption"]);
            r["segments"]["1"]["flags"] = json!(["in-reencryption"]);
        },
    ),
    ("segment-opal", Expected::Fine, |r| opal(r, "hw-opal")),
    (
        "segment-opal-dynamic",
        Expected::Rule(Rule::SegmentOpal),
        |r| {
            opal(r, "hw-opal");
            set(r, "/segments/0/size", json!("dynamic"));
        },
    ),
    (
        "segment-opal-larger-than-range",
        Expected::Rule(Rule::SegmentOpal),
        |r| {
            opal(r, "hw-opal-crypt");
            set(r, "/segments/0/opal_segment_size", json!("1048064"));
        },
    ),
    (
        "segment-opal-without-range",
        Expected::Rule(Rule::MemberMissing),
        |r| {
            opal(r, "hw-opal-crypt");
            drop_member(r, "/segments/0", "opal_segment_number");
        },
    ),
    // config
    (
        "json-size-of-other-header",
        Expected::Rule(Rule::JsonSize),
        |r| set(r, "/config/json_size", json!("28672")),
    ),
    (
        "json-size-is-number",
        Expected::Rule(Rule::MemberType),
        |r| set(r, "/config/json_size", json!(12288)),
    ),
    (
        "json-size-missing",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/config", "json_size"),
    ),
    (
        "keyslots-size-missing",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/config", "keyslots_size"),
    ),
    (
        "keyslots-size-unaligned",
        Expected::Rule(Rule::KeyslotsSize),
        |r| {
            set(
                r,
                "/config/keyslots_size",
                json!((KEYSLOTS + 512).to_string()),
            );
        },
    ),
    (
        "keyslots-size-over-128-mebibytes",
        Expected::Rule(Rule::KeyslotsSize),
        |r| {
            set(
                r,
                "/config/keyslots_size",
                json!((128 * 1024 * 1024 + 4096).to_string()),
            );
            set(r, "/segments/0/offset", json!("268435456"));
        },
    ),
    (
        "keyslots-size-largest-number",
        Expected::Rule(Rule::KeyslotsSize),
        |r| {
            set(r, "/config/keyslots_size", json!(u64::MAX.to_string()));
        },
    ),
    (
        "keyslots-reach-into-data",
        Expected::Rule(Rule::KeyslotsReachData),
        |r| {
            set(
                r,
                "/segments/0/offset",
                json!((32768 + KEYSLOTS - 512).to_string()),
            );
        },
    ),
    (
        "data-in-header",
        Expected::Rule(Rule::KeyslotsReachData),
        |r| set(r, "/segments/0/offset", json!("4096")),
    ),
    ("data-right-behind-keyslots", Expected::Fine, |r| {
        set(
            r,
            "/segments/0/offset",
            json!((32768 + KEYSLOTS).to_string()),
        );
    }),
    ("data-on-other-device", Expected::Fine, |r| {
        set(r, "/segments/0/offset", json!("0"))
    }),
];
