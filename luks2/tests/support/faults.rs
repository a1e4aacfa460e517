//! One broken header per fault, each with nothing else wrong: checksums are right, both copies say the same.

use luksmith_luks2::Rule;
use serde_json::{Value, json};

use super::{copies, keyslot, reencrypting, salt, sample};

/// What is expected of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// This rule is broken.
    Rule(Rule),
    /// The text is no JSON that we take.
    Json,
    /// Nothing is wrong, however odd it looks.
    Fine,
}

/// A header with one fault.
pub struct Fault {
    /// The fault in words, fit for a file name.
    pub name: &'static str,
    pub expected: Expected,
    pub text: Vec<u8>,
}

impl Fault {
    /// Both copies.
    pub fn image(&self) -> Vec<u8> {
        copies(&self.text)
    }
}

type Edit = fn(&mut Value);

fn member(value: &mut Value, pointer: &str) -> serde_json::Map<String, Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_object)
        .expect("the sample has it")
        .clone()
}

fn set(value: &mut Value, pointer: &str, new: Value) {
    *value.pointer_mut(pointer).expect("the sample has it") = new;
}

fn drop_member(value: &mut Value, pointer: &str, name: &str) {
    let object = value
        .pointer_mut(pointer)
        .and_then(Value::as_object_mut)
        .expect("the sample has it");
    object.shift_remove(name).expect("the sample has it");
}

fn rename(value: &mut Value, pointer: &str, from: &str, to: &str) {
    let object = value
        .pointer_mut(pointer)
        .and_then(Value::as_object_mut)
        .expect("the sample has it");
    let moved = object.shift_remove(from).expect("the sample has it");
    object.insert(to.into(), moved);
}

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

/// Faults of the sample.
const SAMPLE: &[(&str, Expected, Edit)] = &[
    ("nothing-is-wrong", Expected::Fine, |_| {}),
    (
        "keyslots-missing",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "", "keyslots"),
    ),
    ("tokens-missing", Expected::Rule(Rule::MemberMissing), |r| {
        drop_member(r, "", "tokens")
    }),
    (
        "segments-missing",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "", "segments"),
    ),
    (
        "digests-missing",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "", "digests"),
    ),
    ("config-missing", Expected::Rule(Rule::MemberMissing), |r| {
        drop_member(r, "", "config")
    }),
    ("keyslots-is-array", Expected::Rule(Rule::MemberType), |r| {
        set(r, "/keyslots", json!([]))
    }),
    ("keyslot-is-string", Expected::Rule(Rule::MemberType), |r| {
        set(r, "/keyslots/1", json!("x"))
    }),
    (
        "keyslot-name-not-decimal",
        Expected::Rule(Rule::ObjectName),
        |r| {
            set(r, "/tokens", json!({}));
            set(r, "/digests/0/keyslots", json!(["0"]));
            rename(r, "/keyslots", "1", "one");
        },
    ),
    (
        "keyslot-name-hexadecimal",
        Expected::Rule(Rule::ObjectName),
        |r| {
            r["keyslots"]["0x2"] = keyslot(548864);
        },
    ),
    (
        "keyslot-name-negative",
        Expected::Rule(Rule::ObjectName),
        |r| r["keyslots"]["-1"] = keyslot(548864),
    ),
    (
        "keyslot-name-empty",
        Expected::Rule(Rule::ObjectName),
        |r| r["keyslots"][""] = keyslot(548864),
    ),
    (
        "keyslot-name-leading-zero",
        Expected::Rule(Rule::ObjectName),
        |r| {
            r["keyslots"]["02"] = keyslot(548864);
        },
    ),
    (
        "keyslot-name-of-300-digits",
        Expected::Rule(Rule::ObjectName),
        |r| {
            r["keyslots"][&"9".repeat(300)] = keyslot(548864);
        },
    ),
    (
        "keyslot-number-32",
        Expected::Rule(Rule::ObjectNumber),
        |r| {
            r["keyslots"]["32"] = keyslot(548864);
            r["digests"]["0"]["keyslots"] = json!(["0", "1", "32"]);
        },
    ),
    ("token-number-32", Expected::Rule(Rule::ObjectNumber), |r| {
        rename(r, "/tokens", "0", "32")
    }),
    (
        "token-name-not-decimal",
        Expected::Rule(Rule::ObjectName),
        |r| rename(r, "/tokens", "0", "zero"),
    ),
    ("digest-number-8", Expected::Rule(Rule::ObjectNumber), |r| {
        rename(r, "/digests", "0", "8")
    }),
    (
        "digest-name-not-decimal",
        Expected::Rule(Rule::ObjectName),
        |r| rename(r, "/digests", "0", "first"),
    ),
    (
        "segment-name-not-decimal",
        Expected::Rule(Rule::ObjectName),
        |r| {
            set(r, "/digests/0/segments", json!([]));
            rename(r, "/segments", "0", "root");
        },
    ),
    // requirements and flags
    (
        "requirements-is-array",
        Expected::Rule(Rule::MemberType),
        |r| r["config"]["requirements"] = json!(["opal"]),
    ),
    (
        "requirements-mandatory-is-object",
        Expected::Rule(Rule::MemberType),
        |r| {
            r["config"]["requirements"] = json!({"mandatory": {}});
        },
    ),
    (
        "requirements-mandatory-holds-number",
        Expected::Rule(Rule::MemberType),
        |r| {
            r["config"]["requirements"] = json!({"mandatory": [1]});
        },
    ),
    ("requirement-unknown", Expected::Fine, |r| {
        r["config"]["requirements"] = json!({"mandatory": ["warp-drive"]})
    }),
    ("requirement-without-mandatory", Expected::Fine, |r| {
        r["config"]["requirements"] = json!({"optional": []})
    }),
    ("flags-is-string", Expected::Rule(Rule::MemberType), |r| {
        r["config"]["flags"] = json!("allow-discards")
    }),
    (
        "flags-holds-number",
        Expected::Rule(Rule::MemberType),
        |r| r["config"]["flags"] = json!([3]),
    ),
    ("flag-unknown", Expected::Fine, |r| {
        r["config"]["flags"] = json!(["allow-discards", "warp-drive"])
    }),
    ("config-unknown-member", Expected::Fine, |r| {
        r["config"]["x-other"] = json!({"deep": [1, "2", null, 0.5]})
    }),
    ("top-level-unknown-member", Expected::Fine, |r| {
        r["x-other"] = json!([true])
    }),
    // tokens
    (
        "token-without-type",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/tokens/0", "type"),
    ),
    ("token-type-empty", Expected::Rule(Rule::EmptyText), |r| {
        set(r, "/tokens/0/type", json!(""))
    }),
    (
        "token-type-is-number",
        Expected::Rule(Rule::MemberType),
        |r| set(r, "/tokens/0/type", json!(5)),
    ),
    (
        "token-without-keyslots",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/tokens/0", "keyslots"),
    ),
    (
        "token-names-missing-keyslot",
        Expected::Rule(Rule::TokenKeyslot),
        |r| {
            set(r, "/tokens/0/keyslots", json!(["7"]));
        },
    ),
    (
        "token-names-keyslot-by-number",
        Expected::Rule(Rule::MemberType),
        |r| set(r, "/tokens/0/keyslots", json!([1])),
    ),
    (
        "token-names-keyslot-with-sign",
        Expected::Rule(Rule::TokenKeyslot),
        |r| {
            set(r, "/tokens/0/keyslots", json!(["+1"]));
        },
    ),
    ("token-unassigned", Expected::Fine, |r| {
        set(r, "/tokens/0/keyslots", json!([]))
    }),
    ("token-of-unknown-type", Expected::Fine, |r| {
        r["tokens"]["9"] = json!({"type": "x", "keyslots": [], "y": 1})
    }),
    ("token-keyring-with-fourth-member", Expected::Fine, |r| {
        r["tokens"]["3"]["x"] = json!(1)
    }),
    // digests
    (
        "digest-without-type",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/digests/0", "type"),
    ),
    (
        "digest-of-unknown-type",
        Expected::Rule(Rule::DigestType),
        |r| set(r, "/digests/0/type", json!("crc32")),
    ),
    (
        "digest-names-missing-keyslot",
        Expected::Rule(Rule::DigestKeyslot),
        |r| {
            set(r, "/digests/0/keyslots", json!(["0", "1", "2"]));
        },
    ),
    (
        "digest-names-missing-segment",
        Expected::Rule(Rule::DigestSegment),
        |r| {
            set(r, "/digests/0/segments", json!(["0", "1"]));
        },
    ),
    (
        "digest-names-segment-by-number",
        Expected::Rule(Rule::MemberType),
        |r| set(r, "/digests/0/segments", json!([0])),
    ),
    (
        "digest-without-keyslots",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/digests/0", "keyslots"),
    ),
    (
        "digest-without-salt",
        Expected::Rule(Rule::MemberMissing),
        |r| drop_member(r, "/digests/0", "salt"),
    ),
    (
        "digest-salt-empty-bytes",
        Expected::Rule(Rule::EmptyText),
        |r| set(r, "/digests/0/salt", json!("")),
    ),
    ("digest-not-base64", Expected::Rule(Rule::Base64), |r| {
        set(r, "/digests/0/digest", json!("***"))
    }),
    (
        "digest-base64-with-line-break",
        Expected::Rule(Rule::Base64),
        |r| {
            set(r, "/digests/0/digest", json!(format!("{}\n", salt(4))));
        },
    ),
    (
        "digest-base64-without-padding",
        Expected::Rule(Rule::Base64),
        |r| {
            set(r, "/digests/0/digest", json!(salt(4).trim_end_matches('=')));
        },
    ),
    (
        "digest-iterations-0",
        Expected::Rule(Rule::DigestValue),
        |r| set(r, "/digests/0/iterations", json!(0)),
    ),
    (
        "digest-iterations-negative",
        Expected::Rule(Rule::Uint32),
        |r| set(r, "/digests/0/iterations", json!(-5)),
    ),
    (
        "digest-iterations-too-big",
        Expected::Rule(Rule::Uint32),
        |r| {
            set(r, "/digests/0/iterations", json!(4_294_967_296_u64));
        },
    ),
    (
        "digest-iterations-with-fraction",
        Expected::Rule(Rule::Uint32),
        |r| {
            set(r, "/digests/0/iterations", json!(1000.5));
        },
    ),
    (
        "digest-iterations-is-string",
        Expected::Rule(Rule::MemberType),
        |r| {
            set(r, "/digests/0/iterations", json!("1000"));
        },
    ),
    // keyslots
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
                json!((32768 + super::KEYSLOTS - 258048 + 512).to_string()),
            );
        },
    ),
    ("area-ends-with-keyslots", Expected::Fine, |r| {
        set(
            r,
            "/keyslots/1/area/offset",
            json!((32768 + super::KEYSLOTS - 258048).to_string()),
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
    // segments
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
                json!((super::KEYSLOTS + 512).to_string()),
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
                json!((32768 + super::KEYSLOTS - 512).to_string()),
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
            json!((32768 + super::KEYSLOTS).to_string()),
        );
    }),
    ("data-on-other-device", Expected::Fine, |r| {
        set(r, "/segments/0/offset", json!("0"))
    }),
];

/// Faults of the sample in re-encryption.
const REENCRYPTING: &[(&str, Expected, Edit)] = &[
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

/// Faults of the text itself.
fn texts() -> Vec<(&'static str, Expected, String)> {
    let good = sample().to_string();
    let insert = |text: &str| format!("{{{text},{}", &good[1..]);
    let nested = |levels: usize| {
        insert(&format!(
            "\"x\":{}1{}",
            "[".repeat(levels),
            "]".repeat(levels)
        ))
    };
    vec![
        ("text-empty", Expected::Json, String::new()),
        ("text-is-array", Expected::Json, "[]".into()),
        (
            "text-is-empty-object",
            Expected::Rule(Rule::MemberMissing),
            "{}".into(),
        ),
        (
            "text-cut-short",
            Expected::Json,
            good[..good.len() - 1].into(),
        ),
        (
            "text-with-white-space-behind",
            Expected::Json,
            format!("{good} "),
        ),
        (
            "text-with-white-space-before",
            Expected::Json,
            format!(" {good}"),
        ),
        ("text-twice", Expected::Json, format!("{good}{good}")),
        (
            "text-with-white-space-inside",
            Expected::Fine,
            good.replace(':', " :\n\t"),
        ),
        (
            "text-with-comment",
            Expected::Json,
            insert("/* hello */ \"x\":1"),
        ),
        (
            "text-with-trailing-comma",
            Expected::Json,
            format!("{},}}", &good[..good.len() - 1]),
        ),
        ("text-with-single-quotes", Expected::Json, insert("'x':1")),
        ("text-with-nan", Expected::Json, insert("\"x\":NaN")),
        (
            "text-with-infinity",
            Expected::Json,
            insert("\"x\":-Infinity"),
        ),
        (
            "text-with-leading-zero",
            Expected::Json,
            insert("\"x\":007"),
        ),
        (
            "text-with-tab-in-string",
            Expected::Json,
            insert("\"x\":\"a\tb\""),
        ),
        (
            "text-with-lone-surrogate",
            Expected::Json,
            insert("\"x\":\"\\ud800\""),
        ),
        (
            "text-with-duplicate-member",
            Expected::Json,
            insert("\"x\":1,\"x\":2"),
        ),
        (
            "text-with-duplicate-section",
            Expected::Json,
            insert("\"tokens\":{}"),
        ),
        (
            "text-with-duplicate-by-escape",
            Expected::Json,
            insert("\"x\":1,\"\\u0078\":2"),
        ),
        (
            "text-with-duplicate-keyslot",
            Expected::Json,
            good.replacen("\"1\":{", "\"0\":{", 1),
        ),
        ("text-31-levels-deep", Expected::Fine, nested(30)),
        ("text-32-levels-deep", Expected::Json, nested(32)),
        ("text-3000-levels-deep", Expected::Json, nested(3000)),
        (
            "text-with-number-of-65-bits",
            Expected::Json,
            insert("\"x\":18446744073709551616"),
        ),
        (
            "text-with-number-of-64-bits",
            Expected::Fine,
            insert("\"x\":18446744073709551615"),
        ),
        (
            "text-with-number-out-of-range",
            Expected::Json,
            insert("\"x\":1e999"),
        ),
        (
            "text-with-escaped-slash",
            Expected::Fine,
            insert("\"x\":\"a\\/b\""),
        ),
    ]
}

/// All of them.
pub fn all() -> Vec<Fault> {
    let mut all = Vec::new();
    let edited = |base: fn() -> Value, list: &[(&'static str, Expected, Edit)]| {
        list.iter()
            .map(|(name, expected, edit)| {
                let mut root = base();
                edit(&mut root);
                Fault {
                    name,
                    expected: *expected,
                    text: root.to_string().into_bytes(),
                }
            })
            .collect::<Vec<_>>()
    };
    all.extend(edited(sample, SAMPLE));
    all.extend(edited(reencrypting, REENCRYPTING));
    all.extend(texts().into_iter().map(|(name, expected, text)| Fault {
        name,
        expected,
        text: text.into_bytes(),
    }));
    all
}
