//! A change can only be built in an order that survives a crash.

#[expect(dead_code, reason = "the fuzzing entries use the rest")]
mod entries;
mod support;

use entries::in_order;
use luksmith_luks2::{
    Area, AreaBytes, Change, Fill, FormatError, Header, KdfParams, Label, NewDigest, NewKeyslot,
    Priority, SeqId, Step, area,
};
use serde_json::json;
use support::header;

fn slot_at(area: Area) -> NewKeyslot {
    NewKeyslot {
        key_size: 64,
        area,
        encryption: "aes-xts-plain64".into(),
        area_key_size: 64,
        kdf: KdfParams::Pbkdf2 {
            hash: "sha256".into(),
            iterations: 1000,
            salt: vec![1; 32],
        },
        af_hash: "sha256".into(),
        priority: Priority::Normal,
    }
}

fn new_slot(header: &Header) -> NewKeyslot {
    let size = area::size_for_key(64).expect("fits");
    slot_at(area::find_room(header.metadata(), size).expect("there is room"))
}

fn material() -> AreaBytes {
    AreaBytes::new(vec![0x77; 256_000])
}

/// The steps in letters: Write, wipe(X), Barrier, Commit.
fn letters(change: &Change) -> String {
    change
        .steps()
        .iter()
        .map(|step| match step {
            Step::WriteArea { .. } => 'W',
            Step::WipeArea { .. } => 'X',
            Step::Barrier => 'B',
            Step::Commit(_) => 'C',
        })
        .collect()
}

fn add(before: &Header, number: u8) -> Change {
    let after = before
        .metadata()
        .with_keyslot(number, &new_slot(before), 0)
        .expect("valid");
    Change::add_slot(before, after, number, material()).expect("a change")
}

#[test]
fn an_addition_writes_material_before_the_header_names_it() {
    let before = header();
    let change = add(&before, 2);
    assert_eq!(letters(&change), "WBC");
    assert_eq!(change.before(), Some(before.seqid()));
    assert_eq!(change.after().seqid(), SeqId(before.seqid().0 + 1));
    assert!(change.after().metadata().keyslot(2).is_some());
    in_order(&before, &change, &before.metadata().keyslots_area());
}

#[test]
fn a_removal_wipes_after_the_header_forgot_and_ends_without_a_note() {
    let before = header();
    let area = before.metadata().keyslots()[&1].area();
    let change = Change::remove_slots(&before, &[1]).expect("a change");
    assert_eq!(letters(&change), "CXBC");
    let commits: Vec<_> = change.commits().collect();
    assert_eq!(
        commits[0].metadata().owed_wipes(),
        [area],
        "a crash now is noticed"
    );
    assert!(commits[1].metadata().owed_wipes().is_empty());
    assert!(
        matches!(&change.steps()[1], Step::WipeArea { offset, len, fill: Fill::Random }
        if *offset == area.offset && *len == area.size)
    );
    let after = change.after().metadata();
    assert_eq!(after.digests()[&0].keyslots, [0]);
    assert!(after.tokens()[&0].keyslots.is_empty() && after.tokens()[&3].keyslots == [0]);
    in_order(&before, &change, &before.metadata().keyslots_area());
}

#[test]
fn a_replacement_names_the_new_before_it_wipes_the_old() {
    let before = header();
    let old = before.metadata().keyslots()[&0].area();
    let after = before
        .metadata()
        .with_keyslot_replaced(0, &new_slot(&before))
        .expect("valid");
    let change = Change::replace_slot(&before, after, 0, material()).expect("a change");
    assert_eq!(letters(&change), "WBCXBC");
    assert_eq!(
        change
            .commits()
            .next()
            .expect("commits")
            .metadata()
            .owed_wipes(),
        [old]
    );
    assert_eq!(
        change.after().metadata().tokens()[&3].keyslots,
        [0],
        "tokens stay assigned"
    );
    in_order(&before, &change, &before.metadata().keyslots_area());
}

#[test]
fn an_erasure_leaves_nothing_of_the_keyslots_area_as_it_was() {
    let before = header();
    let change = Change::erase(&before).expect("a change");
    assert_eq!(letters(&change), "CXBC");
    assert!(change.after().metadata().keyslots().is_empty());
    let whole = before.metadata().keyslots_area();
    assert!(change.steps().contains(&Step::WipeArea {
        offset: whole.offset,
        len: whole.size,
        fill: Fill::Random
    }));
    in_order(&before, &change, &whole);
}

#[test]
fn an_erasure_in_the_middle_of_a_reencryption_keeps_its_steering_slot() {
    let image = support::copies(support::reencrypting().to_string().as_bytes());
    let before = support::resolve_image(&image, support::DATA * 2)
        .expect("in order")
        .header;
    let change = Change::erase(&before).expect("a change");
    assert_eq!(
        change
            .after()
            .metadata()
            .keyslots()
            .keys()
            .copied()
            .collect::<Vec<_>>(),
        [2]
    );
    in_order(&before, &change, &before.metadata().keyslots_area());
    for refused in [
        Change::remove_slots(&before, &[0]),
        Change::add_slot(&before, before.metadata().clone(), 9, material()),
        Change::replace_slot(&before, before.metadata().clone(), 0, material()),
    ] {
        assert_eq!(refused, Err(FormatError::ReencryptionInProgress));
    }
}

/// A header on which a removal of slot 1 was cut short.
fn cut_short() -> (Header, Area) {
    let before = header();
    let area = before.metadata().keyslots()[&1].area();
    let change = Change::remove_slots(&before, &[1]).expect("a change");
    let left = change.commits().next().expect("commits").clone();
    (left, area)
}

#[test]
fn what_a_cut_short_removal_owes_is_wiped_first_by_whatever_comes_next() {
    let (left, area) = cut_short();
    let owed = Step::WipeArea {
        offset: area.offset,
        len: area.size,
        fill: Fill::Random,
    };
    let label = left.with_label(Label::new("x").expect("fits"));
    let changes = [
        Change::edit(&left, &label).expect("an edit"),
        Change::settle(&left)
            .expect("valid")
            .expect("something is owed"),
        add(&left, 5),
        Change::remove_slots(&left, &[0]).expect("a change"),
    ];
    for change in &changes {
        assert_eq!(change.steps()[..2], [owed.clone(), Step::Barrier]);
        assert!(change.after().metadata().owed_wipes().is_empty());
        in_order(&left, change, &left.metadata().keyslots_area());
    }
    assert_eq!(
        Change::settle(changes[1].after()).expect("valid"),
        None,
        "once is enough"
    );
    // New material never goes where a wipe is owed.
    assert!(!new_slot(&left).area.overlaps(&area));
}

#[test]
fn a_range_that_is_named_again_is_not_wiped() {
    let (left, area) = cut_short();
    // Another program has put a slot into the middle of it.
    let inner = Area {
        offset: area.offset,
        size: area.size,
    };
    let metadata = left
        .metadata()
        .with_keyslot(7, &slot_at(inner), 0)
        .expect("valid");
    let taken = left.with_metadata(metadata).expect("same size");
    assert!(taken.metadata().owed_wipes().is_empty());
    assert_eq!(
        letters(
            &Change::settle(&taken)
                .expect("valid")
                .expect("the note goes")
        ),
        "C"
    );
}

#[test]
fn a_forged_note_cannot_have_anything_wiped_but_free_room() {
    for (offset, size) in [
        ("0", "18446744073709551615"),
        ("0", "1"),
        ("18446744073709551615", "18446744073709551615"),
        ("32768", "1048576"),
        ("4096", "40960"),
        ("1081344", "4096"),
    ] {
        let mut root = support::sample();
        root["config"]["luksmith-owed-wipes"] =
            json!([{"offset": offset, "size": size}, 5, {"offset": 1}]);
        let image = support::copies(root.to_string().as_bytes());
        let before = support::resolve_image(&image, support::DATA * 2)
            .expect("in order")
            .header;
        let change = Change::settle(&before).expect("valid");
        if let Some(change) = change {
            in_order(&before, &change, &before.metadata().keyslots_area());
        }
    }
}

#[test]
fn free_room_is_all_that_no_slot_names() {
    let before = header();
    let change = Change::wipe_free_room(&before).expect("a change");
    let wiped: u64 = change
        .steps()
        .iter()
        .map(|step| {
            if let Step::WipeArea { len, .. } = step {
                *len
            } else {
                0
            }
        })
        .sum();
    assert_eq!(wiped, support::KEYSLOTS - 2 * 258_048);
    in_order(&before, &change, &before.metadata().keyslots_area());
}

#[test]
fn an_edit_that_is_more_than_an_edit_is_refused() {
    let before = header();
    let more = before
        .metadata()
        .with_keyslot(2, &new_slot(&before), 0)
        .expect("valid");
    let less = before.metadata().without_keyslot(1).expect("valid");
    let moved = before
        .metadata()
        .with_keyslot_replaced(1, &new_slot(&before))
        .expect("valid");
    for metadata in [more.clone(), less, moved.clone()] {
        let after = before.with_metadata(metadata).expect("same size");
        assert!(matches!(
            Change::edit(&before, &after),
            Err(FormatError::Misuse(_))
        ));
    }
    // The same area with another salt would open nothing any more; other digests and segments neither.
    let edited = |pointer: &str, value: serde_json::Value| {
        let mut root = before.metadata().as_value().clone();
        *root.pointer_mut(pointer).expect("the sample has it") = value;
        let metadata = luksmith_luks2::Metadata::from_value(root, &support::geometry())
            .expect("no rule is broken");
        Change::edit(&before, &before.with_metadata(metadata).expect("same size"))
    };
    for (pointer, value) in [
        ("/keyslots/0/kdf/salt", json!(support::salt(1))),
        ("/keyslots/0/af/hash", json!("sha1")),
        ("/digests/0/iterations", json!(2000)),
        ("/digests/0/segments", json!(["0", "0"])),
        ("/segments/0/iv_tweak", json!("8")),
        ("/segments/0/sector_size", json!(4096)),
    ] {
        let fine = pointer == "/digests/0/segments";
        assert_eq!(edited(pointer, value).is_ok(), fine, "{pointer}");
    }
    // Nor does an addition change others, or write over what is named.
    let two = more
        .with_keyslot_replaced(1, &slot_at(area::find_room(&more, 258_048).expect("room")))
        .expect("valid");
    assert!(matches!(
        Change::add_slot(&before, two, 2, material()),
        Err(FormatError::Misuse(_))
    ));
    assert!(matches!(
        Change::add_slot(&before, moved.clone(), 1, material()),
        Err(FormatError::InUse { .. })
    ));
    assert!(matches!(
        Change::add_slot(&before, before.metadata().clone(), 2, material()),
        Err(FormatError::Missing { .. })
    ));
    let in_place = before
        .metadata()
        .with_keyslot_replaced(1, &slot_at(before.metadata().keyslots()[&1].area()))
        .expect("valid");
    assert!(matches!(
        Change::replace_slot(&before, in_place, 1, material()),
        Err(FormatError::Misuse(_))
    ));
    // Nor with material that does not fit.
    for bytes in [0, 258_049] {
        let material = AreaBytes::new(vec![0; bytes]);
        assert!(matches!(
            Change::replace_slot(&before, moved.clone(), 1, material),
            Err(FormatError::Misuse(_))
        ));
    }
}

#[test]
fn a_header_with_an_unknown_requirement_is_not_changed_at_all() {
    let mut root = support::sample();
    root["config"]["requirements"] = json!({"mandatory": ["opal", "warp-drive"]});
    let image = support::copies(root.to_string().as_bytes());
    let before = support::resolve_image(&image, support::DATA * 2)
        .expect("it may be shown")
        .header;
    let unknown = FormatError::UnknownRequirement(vec!["warp-drive".into()]);
    let after = before
        .metadata()
        .with_keyslot(2, &new_slot(&before), 0)
        .expect("valid");
    for refused in [
        Change::edit(&before, &before.with_label(Label::default())),
        Change::add_slot(&before, after, 2, material()),
        Change::remove_slots(&before, &[0]),
        Change::erase(&before),
        Change::wipe_free_room(&before),
    ] {
        assert_eq!(refused, Err(unknown.clone()));
    }
    assert_eq!(before.metadata().requirements().known.len(), 1);
}

#[test]
fn at_the_end_of_the_sequence_nothing_is_changed() {
    let fields = support::fields(luksmith_luks2::HeaderSize::SMALLEST, u64::MAX);
    let image = support::copies_of(&fields, support::sample().to_string().as_bytes());
    let before = support::resolve_image(&image, support::DATA * 2)
        .expect("in order")
        .header;
    assert_eq!(
        Change::edit(&before, &before),
        Err(FormatError::SeqIdExhausted)
    );
    assert_eq!(Change::erase(&before), Err(FormatError::SeqIdExhausted));
}

#[test]
fn a_new_header_wipes_then_writes_then_commits() {
    let header = header();
    let change = Change::format(&header, vec![(0, material()), (1, material())]).expect("a change");
    assert_eq!(
        letters(&change),
        "XXBWWBC",
        "header, keyslots; material; header"
    );
    assert_eq!(change.before(), None);
    let wiped = |at: u64| {
        change.steps().iter().any(
            |step| matches!(step, Step::WipeArea { offset, len, .. } if *offset <= at && at < offset + len),
        )
    };
    for size in luksmith_luks2::HeaderSize::ALL
        .into_iter()
        .filter(|size| size.bytes() < support::DATA)
    {
        assert!(
            wiped(size.bytes()),
            "an old secondary at {} is gone",
            size.bytes()
        );
    }
    assert!(!wiped(support::DATA), "the data is not touched");
    assert!(
        Change::format(&header, vec![(0, material())]).is_err(),
        "each slot needs its material"
    );
    assert!(Change::format(&header, vec![(0, material()), (0, material())]).is_err());
}

#[test]
fn a_new_header_wipes_old_secondaries_between_its_keyslots_and_its_data() {
    let mut root = support::sample();
    root["segments"]["0"]["offset"] = "3145728".into();
    let image = support::copies(root.to_string().as_bytes());
    let header = support::resolve_image(&image, support::DATA * 2)
        .expect("in order")
        .header;
    let change = Change::format(&header, vec![(0, material()), (1, material())]).expect("a change");
    assert_eq!(letters(&change), "XXXBWWBC");
    let place = Step::WipeArea {
        offset: 2 << 20,
        len: 4096,
        fill: Fill::Zero,
    };
    assert_eq!(change.steps()[2], place);
}

#[test]
fn an_unbound_slot_comes_and_goes_with_its_digest() {
    let before = header();
    let digest = NewDigest {
        segments: vec![],
        hash: "sha256".into(),
        iterations: 1000,
        salt: vec![2; 32],
        digest: vec![3; 32],
    };
    let after = before
        .metadata()
        .with_digest_and_keyslot(1, &digest, 2, &new_slot(&before))
        .expect("valid");
    assert!(after.is_unbound(2));
    let change = Change::add_slot(&before, after, 2, material()).expect("a change");
    let gone = Change::remove_slots(change.after(), &[2]).expect("a change");
    assert_eq!(
        gone.after()
            .metadata()
            .digests()
            .keys()
            .copied()
            .collect::<Vec<_>>(),
        [0]
    );
}

#[test]
fn material_prints_as_its_length() {
    assert_eq!(format!("{:?}", material()), "AreaBytes(256000 bytes)");
}
