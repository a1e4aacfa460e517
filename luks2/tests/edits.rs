//! Edits change what they name and nothing else, and never give metadata that breaks a rule.

mod support;

use luksmith_luks2::metadata::Requirement;
use luksmith_luks2::{Area, FormatError, KdfParams, Metadata, NewKeyslot, Priority, Rule, area};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use support::{geometry, metadata};

fn slot(metadata: &Metadata) -> NewKeyslot {
    NewKeyslot {
        key_size: 64,
        area: area::find_room(metadata, 258_048).expect("there is room"),
        encryption: "aes-xts-plain64".into(),
        area_key_size: 64,
        kdf: KdfParams::Argon2 {
            id: true,
            time: 4,
            memory_kib: 65536,
            cpus: 4,
            salt: vec![6; 32],
        },
        af_hash: "sha256".into(),
        priority: Priority::Normal,
    }
}

/// Names that no rule speaks of.
fn foreign_name() -> impl Strategy<Value = String> {
    "x-[a-z\\\\\"/é\u{1}]{1,8}"
}

fn foreign_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON has no other numbers", |n| n.is_finite())
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((foreign_name(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Places where a foreign member may stand.
const PLACES: [&str; 9] = [
    "",
    "/config",
    "/tokens/0",
    "/tokens/3",
    "/segments/0",
    "/digests/0",
    "/keyslots/0",
    "/keyslots/0/area",
    "/keyslots/1/af",
];

#[derive(Debug, Clone)]
enum Edit {
    AddSlot(u8),
    RemoveSlot(u8),
    ReplaceSlot(u8),
    AddToken(u8, Value),
    RemoveToken(u8),
    Assign(u8, u8, bool),
    Priority(u8, u8),
    Flags(Vec<String>),
    Requirement(bool),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        (0..8_u8).prop_map(Edit::AddSlot),
        (0..8_u8).prop_map(Edit::RemoveSlot),
        (0..8_u8).prop_map(Edit::ReplaceSlot),
        (0..8_u8, foreign_value()).prop_map(|(number, value)| Edit::AddToken(number, value)),
        (4..8_u8).prop_map(Edit::RemoveToken),
        (0..8_u8, 0..8_u8, any::<bool>())
            .prop_map(|(token, slot, assigned)| Edit::Assign(token, slot, assigned)),
        (0..8_u8, 0..3_u8).prop_map(|(slot, priority)| Edit::Priority(slot, priority)),
        prop::collection::vec("[a-z-]{1,12}", 0..3).prop_map(Edit::Flags),
        any::<bool>().prop_map(Edit::Requirement),
    ];
    prop::collection::vec(edit, 1..12)
}

fn apply(metadata: &Metadata, edit: &Edit) -> Result<Metadata, FormatError> {
    match edit {
        Edit::AddSlot(number) => {
            area::find_room(metadata, 258_048)?;
            metadata.with_keyslot(*number, &slot(metadata), 0)
        }
        Edit::RemoveSlot(number) => metadata.without_keyslot(*number),
        Edit::ReplaceSlot(number) => {
            area::find_room(metadata, 258_048)?;
            metadata.with_keyslot_replaced(*number, &slot(metadata))
        }
        Edit::AddToken(number, value) => {
            metadata.with_token(*number, json!({"type": "x", "keyslots": [], "v": value}))
        }
        Edit::RemoveToken(number) => metadata.without_token(*number),
        Edit::Assign(token, slot, assigned) => {
            metadata.with_token_assigned(*token, *slot, *assigned)
        }
        Edit::Priority(slot, priority) => metadata.with_priority(
            *slot,
            [Priority::Ignore, Priority::Normal, Priority::Prefer][usize::from(*priority)],
        ),
        Edit::Flags(flags) => metadata.with_flags(flags),
        Edit::Requirement(required) => metadata.with_requirement(Requirement::Opal(1), *required),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn unknown_members_tokens_flags_and_requirements_survive_every_rewrite(
        members in prop::collection::vec((0..PLACES.len(), foreign_name(), foreign_value()), 1..6),
        edits in edits(),
    ) {
        let mut root = support::sample();
        root["tokens"]["30"] = json!({"type": "unknown-kind", "keyslots": ["0"], "payload": [1, {"a": "b"}]});
        root["config"]["requirements"] = json!({"mandatory": ["opal-v2", "warp-drive"], "optional": ["y"]});
        root["segments"]["0"]["flags"] = json!(["x-flag"]);
        for (place, name, value) in &members {
            root.pointer_mut(PLACES[*place]).expect("the sample has it")[name] = value.clone();
        }
        let Ok(mut metadata) = Metadata::from_value(root.clone(), &geometry()) else {
            // Too much for the area; nothing else can be wrong.
            return Ok(());
        };
        let mut replaced = std::collections::BTreeSet::new();
        for edit in &edits {
            if let Ok(next) = apply(&metadata, edit) {
                if let Edit::RemoveSlot(number) | Edit::ReplaceSlot(number) = edit {
                    replaced.insert(*number);
                }
                metadata = Metadata::parse(&next.to_json_bytes(), &geometry()).expect("what we write we read");
                prop_assert_eq!(&metadata, &next);
            }
        }
        let value = metadata.as_value();
        for (place, name, _) in &members {
            let of_slot = |n: u8| PLACES[*place].starts_with(&format!("/keyslots/{n}")) && replaced.contains(&n);
            if !of_slot(0) && !of_slot(1) {
                let (now, before) = (value.pointer(PLACES[*place]), root.pointer(PLACES[*place]));
                prop_assert_eq!(&now.expect("still there")[name], &before.expect("was there")[name]);
            }
        }
        prop_assert_eq!(&value["tokens"]["30"]["payload"], &root["tokens"]["30"]["payload"]);
        prop_assert_eq!(&value["segments"], &root["segments"]);
        prop_assert_eq!(&value["config"]["requirements"]["optional"], &root["config"]["requirements"]["optional"]);
        prop_assert_eq!(&metadata.requirements().unknown, &["warp-drive"]);
    }

    #[test]
    fn a_text_comes_back_the_same_byte_for_byte(value in foreign_value()) {
        let text = value.to_string();
        if let Ok(tree) = luksmith_luks2::json::parse(text.as_bytes()) {
            prop_assert_eq!(luksmith_luks2::json::write(&tree), text.as_bytes());
        } else {
            // Only numbers that a double rounds are refused.
            prop_assert!(text.contains('.') || text.contains('e'), "{}", text);
        }
    }

    #[test]
    fn room_is_found_where_there_is_room_and_only_there(sizes in prop::collection::vec(1..300_000_u64, 1..30)) {
        let mut metadata = metadata();
        for size in sizes {
            let number = metadata.free_keyslot().expect("fewer than 32");
            match area::find_room(&metadata, size) {
                Ok(room) => {
                    prop_assert_eq!((room.offset % 4096, room.size), (0, size.next_multiple_of(4096)));
                    let mut root = metadata.as_value().clone();
                    root["keyslots"][number.to_string()] = json!({
                        "type": "x", "key_size": 1,
                        "area": {"type": "raw", "offset": room.offset.to_string(), "size": room.size.to_string()},
                    });
                    metadata = Metadata::from_value(root, &geometry()).expect("a found room breaks no rule");
                }
                Err(error) => {
                    let need = size.next_multiple_of(4096);
                    prop_assert_eq!(error, FormatError::NoRoom { need });
                    let largest = area::gaps(&metadata).into_iter().map(|gap| gap.size).max().unwrap_or(0);
                    prop_assert!(largest < need);
                }
            }
        }
    }
}

#[test]
fn sizes_of_areas_are_those_of_the_reference() {
    for (key, bytes) in [(32, 131_072), (64, 258_048), (96, 385_024), (1, 4096)] {
        assert_eq!(area::size_for_key(key), Ok(bytes));
    }
    assert!(matches!(
        area::size_for_key(u32::MAX),
        Err(FormatError::NoRoom { .. })
    ));
    assert!(matches!(
        area::find_room(&metadata(), 0),
        Err(FormatError::NoRoom { .. })
    ));
    assert!(matches!(
        area::find_room(&metadata(), u64::MAX),
        Err(FormatError::NoRoom { .. })
    ));
}

#[test]
fn the_first_gap_that_fits_is_taken() {
    let metadata = metadata().without_keyslot(0).expect("valid");
    assert_eq!(
        area::find_room(&metadata, 131_072),
        Ok(Area {
            offset: 32768,
            size: 131_072
        })
    );
    assert_eq!(
        area::find_room(&metadata, 300_000),
        Ok(Area {
            offset: 548_864,
            size: 303_104
        })
    );
}

#[test]
fn an_edit_that_breaks_a_rule_is_an_error() {
    let metadata = metadata();
    let rule = |result: Result<Metadata, FormatError>| result.expect_err("a rule is broken").rule();
    let overlapping = NewKeyslot {
        area: Area {
            offset: 32768 + 4096,
            size: 258_048,
        },
        ..slot(&metadata)
    };
    assert_eq!(
        rule(metadata.with_keyslot(2, &overlapping, 0)),
        Some(Rule::AreaOverlap)
    );
    let small = NewKeyslot {
        area: Area {
            offset: 548_864,
            size: 4096,
        },
        ..slot(&metadata)
    };
    assert_eq!(
        rule(metadata.with_keyslot(2, &small, 0)),
        Some(Rule::AreaTooSmall)
    );
    assert_eq!(
        rule(metadata.with_keyslot(32, &slot(&metadata), 0)),
        Some(Rule::ObjectNumber)
    );
    assert_eq!(
        rule(metadata.with_token(1, json!({"type": "x", "keyslots": ["9"]}))),
        Some(Rule::TokenKeyslot)
    );
    assert_eq!(
        rule(metadata.with_token(1, json!([]))),
        Some(Rule::MemberType)
    );
    assert_eq!(
        metadata.with_keyslot(0, &slot(&metadata), 0),
        Err(FormatError::InUse {
            what: "keyslot",
            number: 0
        })
    );
    assert_eq!(
        metadata.with_keyslot(2, &slot(&metadata), 5),
        Err(FormatError::Missing {
            what: "digest",
            number: 5
        })
    );
    assert_eq!(
        metadata.without_keyslot(9),
        Err(FormatError::Missing {
            what: "keyslot",
            number: 9
        })
    );
    assert_eq!(
        metadata.without_token(9),
        Err(FormatError::Missing {
            what: "token",
            number: 9
        })
    );
}

#[test]
fn metadata_that_does_not_fit_is_an_error_before_anything_is_written() {
    let token = json!({"type": "x", "keyslots": [], "payload": "p".repeat(3000)});
    let mut metadata = metadata();
    let mut number = 4;
    let error = loop {
        match metadata.with_token(number, token.clone()) {
            Ok(next) => (metadata, number) = (next, number + 1),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, FormatError::JsonTooBig { have: 12288, .. }),
        "{error}"
    );
    assert!(number > 5, "some fitted");
}

#[test]
fn depth_of_an_edit_is_bounded_like_that_of_a_text() {
    let mut deep = json!(1);
    for _ in 0..40 {
        deep = json!([deep]);
    }
    assert!(matches!(
        metadata().with_token(4, json!({"type": "x", "keyslots": [], "d": deep})),
        Err(FormatError::Json(_))
    ));
}

#[test]
fn a_text_is_32_levels_deep_at_most() {
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    assert!(luksmith_luks2::json::parse(nested(32).as_bytes()).is_ok());
    for levels in [33, 34, 100, 1_000_000] {
        assert!(
            luksmith_luks2::json::parse(nested(levels).as_bytes()).is_err(),
            "{levels}"
        );
    }
}

#[test]
fn what_stays_stays_in_its_order() {
    let mut metadata = metadata();
    for number in [9, 5, 7] {
        metadata = metadata
            .with_token(number, json!({"type": "x", "keyslots": []}))
            .expect("fits");
    }
    let names = |metadata: &Metadata, section: &str| {
        let object = metadata.as_value()[section]
            .as_object()
            .expect("a section")
            .clone();
        object.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(
        names(&metadata, "tokens"),
        ["0", "3", "9", "5", "7"],
        "new ones last, as the reference"
    );
    let less = metadata.without_token(0).expect("there");
    assert_eq!(names(&less, "tokens"), ["3", "9", "5", "7"]);
    let two = metadata
        .with_keyslot(2, &slot(&metadata), 0)
        .expect("valid");
    assert_eq!(
        names(&two.without_keyslot(0).expect("there"), "keyslots"),
        ["1", "2"]
    );
    let replaced = two.with_keyslot_replaced(0, &slot(&two)).expect("valid");
    assert_eq!(names(&replaced, "keyslots"), ["0", "1", "2"]);
    let preferred = two
        .with_priority(0, Priority::Ignore)
        .expect("valid")
        .with_priority(0, Priority::Normal);
    assert_eq!(
        preferred.expect("valid").to_json_bytes(),
        two.to_json_bytes()
    );
    let flagged = two
        .with_flags(&["a".into()])
        .expect("fits")
        .with_flags(&[])
        .expect("fits");
    assert_eq!(flagged.to_json_bytes(), two.to_json_bytes());
}

#[test]
fn a_token_type_of_more_than_64_bytes_is_not_written() {
    let token = |bytes: usize| json!({"type": "t".repeat(bytes), "keyslots": []});
    assert!(metadata().with_token(4, token(64)).is_ok());
    assert!(matches!(
        metadata().with_token(4, token(65)),
        Err(FormatError::Misuse(_))
    ));
    assert!(matches!(
        metadata().with_token_replaced(0, token(65)),
        Err(FormatError::Misuse(_))
    ));
}

#[test]
fn numbers_run_out_by_name() {
    let mut metadata = metadata();
    for _ in 0..30 {
        metadata = metadata
            .with_token(
                metadata.free_token().expect("free"),
                json!({"type": "x", "keyslots": []}),
            )
            .expect("fits");
    }
    assert_eq!(
        metadata.free_token(),
        Err(FormatError::Full {
            what: "tokens",
            limit: 32
        })
    );
}

#[test]
fn leftovers_of_an_old_bug_are_dropped_and_what_is_left_is_written() {
    let mut root = support::sample();
    root["keyslots"]["1"]["kdf"]["memory"] = json!(1024);
    root["keyslots"]["1"]["kdf"]["time"] = json!(4);
    let metadata = Metadata::from_value(root, &geometry()).expect("repaired");
    assert_eq!(metadata.as_value(), &support::sample());
}

#[test]
fn priority_1_is_not_written() {
    let metadata = metadata()
        .with_priority(0, Priority::Prefer)
        .expect("valid");
    assert_eq!(metadata.as_value()["keyslots"]["0"]["priority"], json!(2));
    let metadata = metadata.with_priority(0, Priority::Normal).expect("valid");
    assert_eq!(metadata.as_value(), &support::sample());
}

#[test]
fn an_empty_requirements_object_goes() {
    let metadata = metadata()
        .with_requirement(Requirement::OfflineReencrypt, true)
        .expect("valid");
    assert!(metadata.reencryption_in_progress());
    let metadata = metadata
        .with_requirement(Requirement::OfflineReencrypt, false)
        .expect("valid");
    assert_eq!(metadata.as_value(), &support::sample());
}
