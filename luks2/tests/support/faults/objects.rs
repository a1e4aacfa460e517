//! Names of objects, requirements, flags, tokens and digests.

use luksmith_luks2::Rule;
use serde_json::json;

use super::super::{keyslot, salt};
use super::{Edit, Expected, drop_member, rename, set};

pub(super) const OBJECTS: &[(&str, Expected, Edit)] = &[
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
];
