//! A re-encryption in progress.

use luksmith_luks2::Rule;
use serde_json::json;

use super::{Edit, Expected, drop_member, set};

pub(super) const REENCRYPTION: &[(&str, Expected, Edit)] = &[
    ("reencryption-nothing-is-wrong", Expected::Fine, |_| {}),
    (
        "reencryption-flag-missing",
        Expected::Rule(Rule::ReencryptFlagMissing),
        |r| {
            drop_member(r, "/config", "requirements");
        },
    ),
    (
        "reencryption-slot-missing",
        Expected::Rule(Rule::ReencryptSlotMissing),
        |r| {
            drop_member(r, "/keyslots", "2");
            drop_member(r, "/digests", "2");
        },
    ),
    (
        "reencryption-two-slots",
        Expected::Rule(Rule::ReencryptSlots),
        |r| {
            let mut second = r["keyslots"]["2"].clone();
            set(r, "/keyslots/2/area/size", json!("4096"));
            second["area"]["offset"] = "552960".into();
            second["area"]["size"] = "4096".into();
            r["keyslots"]["3"] = second;
        },
    ),
    (
        "reencryption-two-flags",
        Expected::Rule(Rule::RequirementReencryptions),
        |r| {
            set(
                r,
                "/config/requirements/mandatory",
                json!(["online-reencrypt-v2", "online-reencrypt-v3"]),
            );
        },
    ),
    (
        "reencryption-flag-and-unknown-version",
        Expected::Rule(Rule::RequirementReencryptions),
        |r| {
            set(
                r,
                "/config/requirements/mandatory",
                json!(["online-reencrypt-v2", "online-reencrypt-v77"]),
            );
        },
    ),
    ("reencryption-unknown-version", Expected::Fine, |r| {
        set(
            r,
            "/config/requirements/mandatory",
            json!(["online-reencrypt-v77"]),
        );
    }),
    (
        "reencryption-key-size-64",
        Expected::Rule(Rule::ReencryptKeySize),
        |r| {
            set(r, "/keyslots/2/key_size", json!(64));
        },
    ),
    (
        "reencryption-mode-unknown",
        Expected::Rule(Rule::ReencryptMode),
        |r| {
            set(r, "/keyslots/2/mode", json!("transcrypt"));
        },
    ),
    (
        "reencryption-direction-unknown",
        Expected::Rule(Rule::ReencryptDirection),
        |r| {
            set(r, "/keyslots/2/direction", json!("sideways"));
        },
    ),
    (
        "reencryption-checksum-without-hash",
        Expected::Rule(Rule::MemberMissing),
        |r| {
            drop_member(r, "/keyslots/2/area", "hash");
        },
    ),
    (
        "reencryption-sector-size-513",
        Expected::Rule(Rule::ReencryptSectorSize),
        |r| {
            set(r, "/keyslots/2/area/sector_size", json!(513));
        },
    ),
    (
        "reencryption-sector-size-256",
        Expected::Rule(Rule::ReencryptSectorSize),
        |r| {
            set(r, "/keyslots/2/area/sector_size", json!(256));
        },
    ),
    (
        "reencryption-datashift-without-shift",
        Expected::Rule(Rule::MemberMissing),
        |r| {
            set(r, "/keyslots/2/area/type", json!("datashift"));
        },
    ),
    (
        "reencryption-datashift-by-0",
        Expected::Rule(Rule::ReencryptShift),
        |r| {
            set(r, "/keyslots/2/area/type", json!("datashift-journal"));
            r["keyslots"]["2"]["area"]["shift_size"] = json!("0");
        },
    ),
    (
        "reencryption-datashift-by-1000",
        Expected::Rule(Rule::ReencryptShift),
        |r| {
            set(r, "/keyslots/2/area/type", json!("datashift"));
            r["keyslots"]["2"]["area"]["shift_size"] = json!("1000");
        },
    ),
    (
        "reencryption-datashift-checksum-by-1000",
        Expected::Rule(Rule::ReencryptShift),
        |r| {
            set(r, "/keyslots/2/area/type", json!("datashift-checksum"));
            r["keyslots"]["2"]["area"]["shift_size"] = json!("1000");
        },
    ),
    ("reencryption-datashift-checksum", Expected::Fine, |r| {
        set(r, "/keyslots/2/area/type", json!("datashift-checksum"));
        r["keyslots"]["2"]["area"]["shift_size"] = json!("1048576");
    }),
    ("reencryption-journal", Expected::Fine, |r| {
        set(r, "/keyslots/2/area/type", json!("journal"))
    }),
    (
        "reencryption-without-backup-final",
        Expected::Rule(Rule::ReencryptBackups),
        |r| {
            set(r, "/segments/2/flags", json!(["backup-other"]));
        },
    ),
    (
        "reencryption-without-backup-previous",
        Expected::Rule(Rule::ReencryptBackups),
        |r| {
            set(r, "/segments/1/flags", json!(["backup-other"]));
        },
    ),
    (
        "reencryption-segment-of-third-cipher",
        Expected::Rule(Rule::ReencryptSegment),
        |r| {
            set(r, "/segments/0/encryption", json!("aes-cbc-essiv:sha256"));
        },
    ),
    (
        "reencryption-segment-of-third-sector-size",
        Expected::Rule(Rule::ReencryptSegment),
        |r| {
            set(r, "/segments/0/sector_size", json!(1024));
        },
    ),
    (
        "reencryption-hot-zone-not-as-goal",
        Expected::Rule(Rule::ReencryptSegment),
        |r| {
            set(r, "/segments/2/sector_size", json!(4096));
            r["segments"]["0"]["flags"] = json!(["in-reencryption"]);
        },
    ),
    (
        "reencryption-area-overlaps-keyslot-1",
        Expected::Rule(Rule::AreaOverlap),
        |r| {
            set(r, "/keyslots/2/area/offset", json!("544768"));
        },
    ),
];
