//! Keyslots, their key derivation and their areas.

use luksmith_luks2::Rule;
use serde_json::{Value, json};

use super::super::KEYSLOTS;
use super::{Edit, Expected, drop_member, member, set};

pub(super) const KEYSLOTS_AND_AREAS: &[(&str, Expected, Edit)] = &[
    (
        "keyslot-without-type",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/keyslots/0", "type"),
    ),
    ("keyslot-of-unknown-type", Expected::Fine, |r| {
        set(r, "/keyslots/0/type", json!("quantum"));
    }),
    (
        "keyslot-without-key-size",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/keyslots/0", "key_size"),
    ),
    ("keyslot-key-size-0", Expected::Rule(Rule::KeySize), |r| {
        set(r, "/keyslots/0/key_size", json!(0))
    }),
    (
        "keyslot-key-size-negative",
        Expected::Rule(Rule::Uint32),
        |r| set(r, "/keyslots/0/key_size", json!(-1)),
    ),
    (
        "keyslot-key-size-33-bits",
        Expected::Rule(Rule::Uint32),
        |r| {
            set(r, "/keyslots/0/key_size", json!(0x1_0000_0040_u64));
        },
    ),
    (
        "keyslot-key-size-larger-than-area",
        Expected::Rule(Rule::AreaTooSmall),
        |r| {
            set(r, "/keyslots/0/key_size", json!(65));
        },
    ),
    (
        "keyslot-key-size-largest-number",
        Expected::Rule(Rule::AreaTooSmall),
        |r| {
            set(r, "/keyslots/0/key_size", json!(u32::MAX));
        },
    ),
    (
        "keyslot-priority-7",
        Expected::Rule(Rule::KeyslotPriority),
        |r| r["keyslots"]["0"]["priority"] = json!(7),
    ),
    (
        "keyslot-priority-is-string",
        Expected::Rule(Rule::KeyslotPriority),
        |r| {
            r["keyslots"]["0"]["priority"] = json!("1");
        },
    ),
    ("keyslot-priority-ignore", Expected::Fine, |r| {
        r["keyslots"]["0"]["priority"] = json!(0)
    }),
    (
        "keyslot-in-no-digest",
        Expected::Rule(Rule::KeyslotDigest),
        |r| set(r, "/digests/0/keyslots", json!(["0"])),
    ),
    (
        "keyslot-in-two-digests",
        Expected::Rule(Rule::KeyslotDigest),
        |r| {
            let digest = member(r, "/digests/0");
            r["digests"]["1"] = Value::Object(digest);
        },
    ),
    ("keyslot-unbound", Expected::Fine, |r| {
        let digest = member(r, "/digests/0");
        r["digests"]["1"] = Value::Object(digest);
        r["digests"]["1"]["segments"] = json!([]);
        r["digests"]["1"]["keyslots"] = json!(["1"]);
        r["digests"]["0"]["keyslots"] = json!(["0"]);
    }),
    // kdf and af
    ("kdf-missing", Expected::Rule(Rule::MemberMissing), |r| {
        drop_member(r, "/keyslots/0", "kdf")
    }),
    (
        "kdf-argon2-without-cpus",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/keyslots/0/kdf", "cpus"),
    ),
    (
        "kdf-pbkdf2-without-hash",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/keyslots/1/kdf", "hash"),
    ),
    (
        "kdf-argon2-with-foreign-member",
        Expected::Rule(Rule::KdfMembers),
        |r| r["keyslots"]["0"]["kdf"]["x"] = json!(1),
    ),
    (
        "kdf-pbkdf2-with-foreign-member",
        Expected::Rule(Rule::KdfMembers),
        |r| r["keyslots"]["1"]["kdf"]["x"] = json!(1),
    ),
    ("kdf-pbkdf2-with-leftovers-of-argon2", Expected::Fine, |r| {
        r["keyslots"]["1"]["kdf"]["time"] = json!(4);
        r["keyslots"]["1"]["kdf"]["memory"] = json!(1024);
        r["keyslots"]["1"]["kdf"]["cpus"] = json!(4);
    }),
    ("kdf-argon2-with-leftovers-of-pbkdf2", Expected::Fine, |r| {
        r["keyslots"]["0"]["kdf"]["hash"] = json!("sha256");
        r["keyslots"]["0"]["kdf"]["iterations"] = json!(1000);
    }),
    ("kdf-of-unknown-type", Expected::Fine, |r| {
        set(r, "/keyslots/0/kdf", json!({"type": "scrypt", "n": 16384}));
    }),
    ("kdf-salt-16-bytes", Expected::Rule(Rule::KdfSalt), |r| {
        set(r, "/keyslots/0/kdf/salt", json!("AAAAAAAAAAAAAAAAAAAAAA=="));
    }),
    ("kdf-salt-not-base64", Expected::Rule(Rule::Base64), |r| {
        set(r, "/keyslots/0/kdf/salt", json!("!"))
    }),
    ("kdf-time-0", Expected::Rule(Rule::KdfCost), |r| {
        set(r, "/keyslots/0/kdf/time", json!(0))
    }),
    ("kdf-memory-0", Expected::Rule(Rule::KdfCost), |r| {
        set(r, "/keyslots/0/kdf/memory", json!(0))
    }),
    ("kdf-cpus-0", Expected::Rule(Rule::KdfCost), |r| {
        set(r, "/keyslots/0/kdf/cpus", json!(0))
    }),
    ("kdf-memory-33-bits", Expected::Rule(Rule::Uint32), |r| {
        set(r, "/keyslots/0/kdf/memory", json!(0x1_0000_0400_u64));
    }),
    ("kdf-iterations-0", Expected::Rule(Rule::KdfCost), |r| {
        set(r, "/keyslots/1/kdf/iterations", json!(0))
    }),
    ("af-missing", Expected::Rule(Rule::MemberMissing), |r| {
        drop_member(r, "/keyslots/0", "af")
    }),
    ("af-of-unknown-type", Expected::Rule(Rule::AfType), |r| {
        set(r, "/keyslots/0/af/type", json!("luks9"))
    }),
    ("af-stripes-3999", Expected::Rule(Rule::AfStripes), |r| {
        set(r, "/keyslots/0/af/stripes", json!(3999))
    }),
    ("af-stripes-1", Expected::Rule(Rule::AfStripes), |r| {
        set(r, "/keyslots/0/af/stripes", json!(1))
    }),
    (
        "af-without-hash",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/keyslots/0/af", "hash"),
    ),
    // areas
    ("area-missing", Expected::Rule(Rule::MemberMissing), |r| {
        drop_member(r, "/keyslots/0", "area")
    }),
    (
        "area-of-unknown-type",
        Expected::Rule(Rule::AreaType),
        |r| set(r, "/keyslots/0/area/type", json!("cooked")),
    ),
    (
        "area-without-encryption",
        Expected::Rule(Rule::MemberMissing),
        |r| {
            drop_member(r, "/keyslots/0/area", "encryption");
        },
    ),
    ("area-key-size-0", Expected::Rule(Rule::KeySize), |r| {
        set(r, "/keyslots/0/area/key_size", json!(0))
    }),
    ("area-key-size-513", Expected::Rule(Rule::KeySize), |r| {
        set(r, "/keyslots/0/area/key_size", json!(513))
    }),
    (
        "area-offset-is-number",
        Expected::Rule(Rule::MemberType),
        |r| {
            set(r, "/keyslots/0/area/offset", json!(32768));
        },
    ),
    ("area-offset-with-sign", Expected::Rule(Rule::Uint64), |r| {
        set(r, "/keyslots/0/area/offset", json!("+32768"));
    }),
    (
        "area-offset-with-space",
        Expected::Rule(Rule::Uint64),
        |r| {
            set(r, "/keyslots/0/area/offset", json!(" 32768"));
        },
    ),
    (
        "area-offset-hexadecimal",
        Expected::Rule(Rule::Uint64),
        |r| {
            set(r, "/keyslots/0/area/offset", json!("0x8000"));
        },
    ),
    ("area-offset-empty", Expected::Rule(Rule::EmptyText), |r| {
        set(r, "/keyslots/0/area/offset", json!(""))
    }),
    ("area-offset-65-bits", Expected::Rule(Rule::Uint64), |r| {
        set(r, "/keyslots/0/area/offset", json!("18446744073709551616"));
    }),
    (
        "area-wraps-around",
        Expected::Rule(Rule::AreaOutside),
        |r| {
            set(r, "/keyslots/0/area/offset", json!("18446744073709551615"));
        },
    ),
    (
        "area-wraps-onto-keyslots",
        Expected::Rule(Rule::AreaOutside),
        |r| {
            set(r, "/keyslots/0/area/size", json!("18446744073709551615"));
        },
    ),
    (
        "area-in-primary-header",
        Expected::Rule(Rule::AreaOutside),
        |r| {
            set(r, "/keyslots/0/area/offset", json!("0"));
        },
    ),
    (
        "area-in-secondary-header",
        Expected::Rule(Rule::AreaOutside),
        |r| {
            set(r, "/keyslots/0/area/offset", json!("32256"));
        },
    ),
    (
        "area-behind-keyslots",
        Expected::Rule(Rule::AreaOutside),
        |r| {
            set(r, "/keyslots/1/area/offset", json!("1081344"));
        },
    ),
    (
        "area-ends-one-sector-behind-keyslots",
        Expected::Rule(Rule::AreaOutside),
        |r| {
            set(
                r,
                "/keyslots/1/area/offset",
                json!((32768 + KEYSLOTS - 258048 + 512).to_string()),
            );
        },
    ),
    ("area-ends-with-keyslots", Expected::Fine, |r| {
        set(
            r,
            "/keyslots/1/area/offset",
            json!((32768 + KEYSLOTS - 258048).to_string()),
        );
    }),
    (
        "area-overlaps-keyslot-0",
        Expected::Rule(Rule::AreaOverlap),
        |r| {
            set(
                r,
                "/keyslots/1/area/offset",
                json!((32768 + 258048 - 512).to_string()),
            );
        },
    ),
    (
        "area-equals-keyslot-0",
        Expected::Rule(Rule::AreaOverlap),
        |r| {
            set(r, "/keyslots/1/area/offset", json!("32768"));
        },
    ),
    (
        "area-inside-keyslot-0",
        Expected::Rule(Rule::AreaOverlap),
        |r| {
            set(r, "/keyslots/0/area/size", json!("516096"));
        },
    ),
    ("area-size-0", Expected::Rule(Rule::AreaEmpty), |r| {
        r["keyslots"]["2"] = json!({"type": "other", "key_size": 1, "area": {"type": "raw", "offset": "548864", "size": "0"}});
    }),
    ("area-too-small", Expected::Rule(Rule::AreaTooSmall), |r| {
        set(r, "/keyslots/0/area/size", json!("255488"))
    }),
];
