//! The MAC over a header: what it covers, and that every header that a change commits has the one that fits.

use luksmith_crypto::MacKey;
use luksmith_keyslot::header_mac::{
    HeaderMacError, bless, check, find, header_mac_key, keep_blessed, revokes, unbless,
};
use luksmith_keyslot::{LastSlot, add, change, remove, set_priority};
use luksmith_luks2::{Change, FormatError, Label, Priority};
use serde_json::json;

use crate::disk::{Disk, pass, slot};
use crate::opening::with_slots;

fn blessed(disk: &mut Disk) -> MacKey {
    let key = header_mac_key(&disk.open("one").unwrap().key).unwrap();
    let change = bless(&disk.header, &key, 7, None).unwrap();
    disk.apply(&change);
    key
}

#[test]
fn every_state_that_a_crash_leaves_has_its_mac() {
    let mut disk = with_slots(&["one", "two"]);
    let key = blessed(&mut disk);
    let volume_key = disk.open("one").unwrap().key;
    let three = pass("three");
    let changes = [
        (remove(&disk.header, 1, LastSlot::Refuse).unwrap(), true),
        (
            change(&disk.header, 1, &volume_key, &slot(&three)).unwrap(),
            true,
        ),
        (
            add(&disk.header, &volume_key, &slot(&three))
                .unwrap()
                .change,
            false,
        ),
        (
            set_priority(&disk.header, 1, Priority::Prefer).unwrap(),
            false,
        ),
    ];
    for (change, takes_away) in changes {
        assert_eq!(revokes(&change, &disk.header), takes_away);
        for header in change.commits() {
            assert!(check(header, &key).is_err(), "without anything done for it");
        }
        let change = keep_blessed(change, &key, 8, None).unwrap();
        let mut states: Vec<_> = change.commits().collect();
        states.push(change.after());
        for header in states {
            assert_eq!(check(header, &key).unwrap().unwrap().epoch, 8);
        }
    }
}

/// `repair` wipes what a removal still owes, and has no key.
#[test]
fn a_removal_that_was_cut_short_is_settled_without_the_key() {
    let mut disk = with_slots(&["one", "two"]);
    let key = blessed(&mut disk);
    let removal = remove(&disk.header, 1, LastSlot::Refuse).unwrap();
    let removal = keep_blessed(removal, &key, 8, None).unwrap();
    let cut_short = removal.commits().next().unwrap();
    assert!(!cut_short.metadata().owed_wipes().is_empty());
    let settled = Change::settle(cut_short).unwrap().unwrap();
    assert!(settled.after().metadata().owed_wipes().is_empty());
    check(settled.after(), &key).unwrap().unwrap();
}

#[test]
fn whatever_changes_is_named_and_the_token_is_kept_in_its_place() {
    let mut disk = with_slots(&["one", "two"]);
    assert_eq!(find(disk.metadata()), Ok(None));
    let key = blessed(&mut disk);
    let told = |disk: &Disk| match check(&disk.header, &key) {
        Err(HeaderMacError::Changed(parts)) => parts,
        other => panic!("{other:?}"),
    };
    disk.header = disk.header.with_label(Label::new("x").unwrap());
    disk.forge(|json| json["keyslots"]["1"]["priority"] = 2.into());
    disk.forge(|json| json["tokens"]["5"] = json!({"type": "x", "keyslots": []}));
    assert_eq!(told(&disk), ["binary", "keyslots/1", "tokens/5"]);
    disk.apply(&bless(&disk.header, &key, 9, None).unwrap());
    let found = check(&disk.header, &key).unwrap().unwrap();
    assert_eq!((found.token, found.epoch), (0, 9));
    // Under another volume key nothing fits.
    let mut other = Disk::formatted("one");
    let other = blessed(&mut other);
    assert!(check(&disk.header, &other).is_err());
    disk.apply(&unbless(&disk.header).unwrap());
    assert_eq!(check(&disk.header, &key), Ok(None));
}

/// Parts that were blessed, each at its time, do not make a header that is.
#[test]
fn parts_of_two_blessed_headers_do_not_make_a_third() {
    let mut disk = with_slots(&["one", "two"]);
    let key = blessed(&mut disk);
    let old = disk.metadata().as_value().clone();
    let priority = set_priority(&disk.header, 1, Priority::Prefer).unwrap();
    disk.apply(&keep_blessed(priority, &key, 8, None).unwrap());
    disk.forge(|json| {
        json["keyslots"]["1"] = old["keyslots"]["1"].clone();
        json["tokens"]["0"]["parts"] = old["tokens"]["0"]["parts"].clone();
    });
    assert_eq!(
        check(&disk.header, &key),
        Err(HeaderMacError::Changed(Vec::new()))
    );
}

#[test]
fn nothing_but_tokens_is_made_anew_in_a_change() {
    let disk = with_slots(&["one", "two"]);
    let change = set_priority(&disk.header, 1, Priority::Prefer).unwrap();
    let told = change.with_tokens_remade(&mut |header| header.metadata().with_flags(&["x".into()]));
    assert!(matches!(told, Err(FormatError::Misuse(_))), "{told:?}");
}
