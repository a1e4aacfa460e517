//! Add, change, remove, erase, priority: what is planned, and in which order.

use luksmith_crypto::{Argon2Variant, Hash, Kdf};
use luksmith_keyslot::{
    FormatRequest, KdfChoice, LastSlot, NewSlot, PlanError, Target, UnlockErrorKind, Which, add,
    change, erase, plan_format, remove, set_priority, usable_slots,
};
use luksmith_luks2::{Change, FormatError, KdfParams, Priority, Step};
use serde_json::json;

use crate::disk::{Disk, cheap, cheap_argon2, pass, request, slot};
use crate::opening::with_slots;

#[test]
fn an_added_slot_opens_the_same_key_and_the_old_one_still_does() {
    let disk = with_slots(&["one", "two"]);
    let (one, two) = (disk.open("one").unwrap(), disk.open("two").unwrap());
    assert_eq!((one.slot, two.slot), (Some(0), Some(1)));
    assert!(one.key.as_secret().ct_eq(two.key.as_secret()));
}

#[test]
fn material_is_durable_before_the_header_names_it() {
    let disk = Disk::formatted("one");
    let key = disk.open("one").unwrap().key;
    let two = pass("two");
    let added = add(&disk.header, &key, &slot(&two)).unwrap();
    assert_eq!(shape(&added.change), "write barrier commit");
    let changed = change(&disk.header, 0, &key, &slot(&two)).unwrap();
    assert_eq!(shape(&changed), "write barrier commit wipe barrier commit");
    let removed = remove(&disk.header, 0, LastSlot::Allow).unwrap();
    assert_eq!(shape(&removed), "commit wipe barrier commit");
}

#[test]
fn the_number_that_was_asked_for_is_taken_or_the_first_free_one() {
    let mut disk = Disk::formatted("one");
    let key = disk.open("one").unwrap().key;
    let text = pass("x");
    let at = |number| NewSlot {
        slot: Some(number),
        ..slot(&text)
    };
    let added = add(&disk.header, &key, &at(31)).unwrap();
    assert_eq!(added.slot, 31);
    disk.apply(&added.change);
    assert!(matches!(
        add(&disk.header, &key, &at(31)),
        Err(PlanError::SlotInUse(31))
    ));
    assert!(matches!(
        add(&disk.header, &key, &at(32)),
        Err(PlanError::SlotRange(32))
    ));
    assert_eq!(add(&disk.header, &key, &slot(&text)).unwrap().slot, 1);
}

#[test]
fn thirty_two_slots_fit_and_a_thirty_third_does_not() {
    let one = pass("0");
    let request = luksmith_keyslot::FormatRequest {
        slot: slot(&one),
        ..luksmith_keyslot::FormatRequest::new(&one, crate::disk::facts(32 << 20))
    };
    let mut disk = Disk::with(luksmith_keyslot::plan_format(request).unwrap());
    let key = disk.open("0").unwrap().key;
    for number in 1..32 {
        let text = pass(&number.to_string());
        let added = add(&disk.header, &key, &slot(&text)).unwrap();
        assert_eq!(added.slot, number);
        disk.apply(&added.change);
    }
    assert_eq!(disk.open("31").unwrap().slot, Some(31));
    let text = pass("more");
    let error = add(&disk.header, &key, &slot(&text)).err().unwrap();
    assert!(
        matches!(error, PlanError::Format(FormatError::Full { .. })),
        "{error}"
    );
    // Changing needs free room, not a free number.
    let changed = change(&disk.header, 17, &key, &slot(&text)).unwrap();
    disk.apply(&changed);
    assert_eq!(disk.open("more").unwrap().slot, Some(17));
}

#[test]
fn no_room_is_said_before_the_slow_part() {
    // 1 MiB before the data: three slots of 258048 bytes.
    let zero = pass("0");
    let request = FormatRequest {
        offset_sectors: Some(2048),
        ..request(&zero)
    };
    let mut disk = Disk::with(plan_format(request).unwrap());
    let key = disk.open("0").unwrap().key;
    let text = pass("3");
    for _ in 1..3 {
        let more = add(&disk.header, &key, &slot(&text)).unwrap();
        disk.apply(&more.change);
    }
    // Costs of hours: an error that comes at once did not try them.
    let slow = Kdf::Argon2 {
        variant: Argon2Variant::Id,
        time: u32::MAX,
        memory_kib: 4 << 20,
        lanes: 4,
    };
    let slow = NewSlot {
        kdf: KdfChoice::Exact(slow),
        ..slot(&text)
    };
    for result in [
        add(&disk.header, &key, &slow).map(drop),
        change(&disk.header, 0, &key, &slow).map(drop),
    ] {
        let error = result.err().unwrap();
        assert!(
            matches!(error, PlanError::Format(FormatError::NoRoom { .. })),
            "{error}"
        );
    }
}

#[test]
fn a_changed_slot_keeps_number_priority_tokens_and_digest() {
    let mut disk = with_slots(&["one", "two"]);
    let prefer = set_priority(&disk.header, 1, Priority::Prefer).unwrap();
    disk.apply(&prefer);
    disk.forge(|json| {
        json["tokens"]["4"] = json!({"type": "clevis", "keyslots": ["1"], "jwe": {"x": 1}});
    });
    let key = disk.open("two").unwrap().key;
    let new = pass("new");
    let changed = change(&disk.header, 1, &key, &slot(&new)).unwrap();
    disk.apply(&changed);
    let unlocked = disk.open("new").unwrap();
    assert_eq!(unlocked.slot, Some(1));
    assert!(unlocked.key.as_secret().ct_eq(key.as_secret()));
    assert_eq!(
        disk.open("two").err().unwrap().kind,
        UnlockErrorKind::WrongSecret
    );
    assert_eq!(disk.open("one").unwrap().slot, Some(0));
    assert_eq!(
        disk.metadata().keyslot(1).unwrap().priority,
        Priority::Prefer
    );
    assert_eq!(disk.metadata().tokens()[&4].keyslots, [1]);
    assert_eq!(disk.metadata().tokens()[&4].raw["jwe"]["x"], 1);
}

#[test]
fn converting_is_changing_to_the_same_passphrase_with_another_kdf() {
    let mut disk = Disk::formatted("one");
    let key = disk.open("one").unwrap().key;
    let one = pass("one");
    let new = NewSlot {
        kdf: cheap_argon2(Argon2Variant::Id),
        area_cipher: Some(("aes-xts-plain64".into(), 256)),
        hash: Hash::Sha512,
        ..NewSlot::new(&one)
    };
    let changed = change(&disk.header, 0, &key, &new).unwrap();
    disk.apply(&changed);
    let slot = disk.metadata().keyslot(0).unwrap().luks2().unwrap();
    assert!(matches!(
        slot.kdf,
        KdfParams::Argon2 {
            id: true,
            time: 4,
            memory_kib: 32,
            ..
        }
    ));
    assert_eq!(
        (slot.area_key_size, slot.key_size, slot.af.hash.as_str()),
        (32, 64, "sha512")
    );
    assert_eq!(disk.open("one").unwrap().slot, Some(0));
}

#[test]
fn the_old_material_is_gone_after_a_change_and_after_a_removal() {
    let mut disk = with_slots(&["one", "two"]);
    let key = disk.open("one").unwrap().key;
    for number in [0, 1] {
        let old_header = disk.header.clone();
        let new = pass("new");
        let planned = if number == 0 {
            change(&disk.header, 0, &key, &slot(&new)).unwrap()
        } else {
            remove(&disk.header, 1, LastSlot::Refuse).unwrap()
        };
        disk.apply(&planned);
        // Even with the old header in hand, the old passphrase is worth nothing.
        let now = std::mem::replace(&mut disk.header, old_header);
        let text = ["one", "two"][usize::from(number)];
        let error = disk
            .open_as(text, Which::Only(number), Target::Data)
            .err()
            .unwrap();
        assert_eq!(error.kind, UnlockErrorKind::WrongSecret);
        disk.header = now;
    }
}

#[test]
fn a_slot_is_not_changed_to_the_key_of_another_digest() {
    let mut disk = Disk::formatted("one");
    let unbound = luksmith_crypto::VolumeKey::generate(64).unwrap();
    let u = pass("u");
    let added = luksmith_keyslot::add_unbound(
        &disk.header,
        &unbound,
        &slot(&u),
        luksmith_keyslot::DigestCost::Auto,
    );
    disk.apply(&added.unwrap().change);
    assert!(matches!(
        change(&disk.header, 0, &unbound, &slot(&u)),
        Err(PlanError::ForeignKey)
    ));
    assert!(matches!(
        change(&disk.header, 9, &unbound, &slot(&u)),
        Err(PlanError::NoSuchSlot(9))
    ));
    change(&disk.header, 1, &unbound, &slot(&u)).unwrap();
}

#[test]
fn the_last_usable_slot_stays_unless_somebody_says_so() {
    let mut disk = with_slots(&["a", "b", "c"]);
    let unbound = luksmith_crypto::VolumeKey::generate(64).unwrap();
    let u = pass("u");
    let added = luksmith_keyslot::add_unbound(
        &disk.header,
        &unbound,
        &slot(&u),
        luksmith_keyslot::DigestCost::Auto,
    );
    disk.apply(&added.unwrap().change);
    let ignore = set_priority(&disk.header, 1, Priority::Ignore).unwrap();
    disk.apply(&ignore);
    assert_eq!(usable_slots(disk.metadata()), [0, 2]);

    let gone = remove(&disk.header, 2, LastSlot::Refuse).unwrap();
    disk.apply(&gone);
    // Left: 0 usable, 1 ignored, 3 unbound.
    assert_eq!(usable_slots(disk.metadata()), [0]);
    assert!(matches!(
        remove(&disk.header, 0, LastSlot::Refuse),
        Err(PlanError::LastSlot(0))
    ));
    // The unbound one opens no data, so it may go.
    let gone = remove(&disk.header, 3, LastSlot::Refuse).unwrap();
    disk.apply(&gone);
    // And the ignored one may, as slot 0 remains.
    remove(&disk.header, 1, LastSlot::Refuse).unwrap();

    let gone = remove(&disk.header, 0, LastSlot::Allow).unwrap();
    disk.apply(&gone);
    // Now the ignored one is the last way in, if a hidden one.
    assert!(matches!(
        remove(&disk.header, 1, LastSlot::Refuse),
        Err(PlanError::LastSlot(1))
    ));
    assert_eq!(
        disk.open_as("b", Which::Only(1), Target::Data)
            .unwrap()
            .slot,
        Some(1)
    );
    assert!(matches!(
        remove(&disk.header, 9, LastSlot::Allow),
        Err(PlanError::NoSuchSlot(9))
    ));
}

#[test]
fn erase_leaves_no_slot_and_no_material() {
    let mut disk = with_slots(&["a", "b"]);
    disk.forge(|json| json["tokens"]["0"] = json!({"type": "mine", "keyslots": ["0", "1"]}));
    let old: Vec<_> = [0, 1]
        .map(|number| {
            (
                disk.metadata().keyslot(number).unwrap().area(),
                disk.area_of(number),
            )
        })
        .into();
    let planned = erase(&disk.header).unwrap();
    disk.apply(&planned);
    assert!(disk.metadata().keyslots().is_empty());
    assert_eq!(disk.metadata().tokens()[&0].keyslots, [0_u8; 0]);
    for (area, material) in old {
        assert_ne!(disk.area(area, material.len()), material);
    }
}

#[test]
fn costs_outside_of_the_format_are_not_written() {
    let disk = Disk::formatted("one");
    let key = disk.open("one").unwrap().key;
    let text = pass("x");
    let argon2 = |time, memory_kib, lanes| Kdf::Argon2 {
        variant: Argon2Variant::Id,
        time,
        memory_kib,
        lanes,
    };
    for (kdf, option) in [
        (
            Kdf::Pbkdf2 {
                hash: Hash::Sha256,
                iterations: 999,
            },
            "pbkdf-force-iterations",
        ),
        (
            Kdf::Pbkdf2 {
                hash: Hash::Sha1,
                iterations: 1000,
            },
            "hash",
        ),
        (argon2(3, 32, 1), "pbkdf-force-iterations"),
        (argon2(4, 31, 1), "pbkdf-memory"),
        (argon2(4, (4 << 20) + 1, 1), "pbkdf-memory"),
        (argon2(4, 32, 0), "pbkdf-parallel"),
        (argon2(4, 64, 5), "pbkdf-parallel"),
    ] {
        let new = NewSlot {
            kdf: KdfChoice::Exact(kdf),
            ..NewSlot::new(&text)
        };
        match add(&disk.header, &key, &new) {
            Err(PlanError::Option { option: found, .. }) => assert_eq!(found, option, "{kdf:?}"),
            other => panic!("{kdf:?}: {other:?}"),
        }
    }
    let new = NewSlot {
        hash: Hash::Sha1,
        ..slot(&text)
    };
    assert!(matches!(
        add(&disk.header, &key, &new),
        Err(PlanError::Option { option: "hash", .. })
    ));
}

#[test]
fn only_a_long_machine_made_secret_gets_a_cheap_kdf() {
    let mut disk = Disk::formatted("one");
    let key = disk.open("one").unwrap().key;
    let short = pass(&"x".repeat(31));
    let kdf = KdfChoice::MachineSecret(Hash::Sha512);
    let new = NewSlot {
        kdf: kdf.clone(),
        ..NewSlot::new(&short)
    };
    assert!(matches!(
        add(&disk.header, &key, &new),
        Err(PlanError::Option {
            option: "pbkdf",
            ..
        })
    ));
    let text = "x".repeat(32);
    let long = pass(&text);
    let added = add(
        &disk.header,
        &key,
        &NewSlot {
            kdf,
            ..NewSlot::new(&long)
        },
    )
    .unwrap();
    disk.apply(&added.change);
    let slot = disk.metadata().keyslot(1).unwrap().luks2().unwrap();
    assert!(
        matches!(&slot.kdf, KdfParams::Pbkdf2 { hash, iterations: 1000, .. } if hash == "sha512")
    );
    assert_eq!(disk.open(&text).unwrap().slot, Some(1));
}

#[test]
fn a_key_area_never_gets_a_null_cipher() {
    let disk = Disk::formatted("one");
    let key = disk.open("one").unwrap().key;
    let text = pass("x");
    for name in ["cipher_null-ecb", "null", "aes-ecb"] {
        let new = NewSlot {
            area_cipher: Some((name.into(), 256)),
            ..slot(&text)
        };
        let error = add(&disk.header, &key, &new).err().unwrap();
        assert!(matches!(error, PlanError::WeakCipher(_)), "{error}");
    }
    for (name, bits) in [
        ("serpent-xts-plain64", 512),
        ("aes-xts-plain64", 384),
        ("aes-xts-plain64", 7),
    ] {
        let new = NewSlot {
            area_cipher: Some((name.into(), bits)),
            ..slot(&text)
        };
        assert!(add(&disk.header, &key, &new).is_err(), "{name} {bits}");
    }
}

#[test]
fn a_header_in_reencryption_or_with_an_unknown_requirement_is_not_changed() {
    for (requirement, opens) in [("online-reencrypt-v2", true), ("from-the-future", false)] {
        let mut disk = with_slots(&["one", "two"]);
        let key = disk.open("one").unwrap().key;
        disk.forge(|json| {
            json["config"]["requirements"] = json!({"mandatory": [requirement]});
            if opens {
                // What `cryptsetup reencrypt --init-only` writes: a slot that steers, and how the
                // volume was and will be.
                json["keyslots"]["5"] = json!({
                    "type": "reencrypt", "key_size": 1, "mode": "reencrypt", "direction": "forward",
                    "priority": 0,
                    "area": {"type": "none", "offset": "983040", "size": "4096"},
                });
                let mut digest = json["digests"]["0"].clone();
                digest["keyslots"] = json!(["5"]);
                digest["segments"] = json!([]);
                json["digests"]["1"] = digest;
                for (number, flag) in [("1", "backup-previous"), ("2", "backup-final")] {
                    json["segments"][number] = json["segments"]["0"].clone();
                    json["segments"][number]["flags"] = json!([flag]);
                }
                json["digests"]["0"]["segments"] = json!(["0", "1", "2"]);
            }
        });
        let text = pass("x");
        let results = [
            add(&disk.header, &key, &slot(&text)).map(drop),
            change(&disk.header, 0, &key, &slot(&text)).map(drop),
            remove(&disk.header, 0, LastSlot::Allow).map(drop),
            set_priority(&disk.header, 0, Priority::Prefer).map(drop),
        ];
        for result in results {
            let error = result.err().unwrap();
            if opens {
                assert!(matches!(error, PlanError::Reencrypting), "{error}");
            } else {
                assert!(matches!(&error, PlanError::Requirement(name) if name == requirement));
            }
        }
        if opens {
            disk.open("one").unwrap();
        } else {
            assert_eq!(
                disk.open("one").err().unwrap().kind,
                UnlockErrorKind::Requirement
            );
            assert!(matches!(
                erase(&disk.header),
                Err(PlanError::Requirement(_))
            ));
        }
    }
}

#[test]
fn cheap_is_what_was_asked_for() {
    let disk = Disk::formatted("one");
    assert!(matches!(cheap(), KdfChoice::Exact(_)));
    let slot = disk.metadata().keyslot(0).unwrap().luks2().unwrap();
    assert!(matches!(
        slot.kdf,
        KdfParams::Pbkdf2 {
            iterations: 1000,
            ..
        }
    ));
    assert_eq!(disk.metadata().digests()[&0].iterations, 1000);
}

fn shape(change: &Change) -> String {
    let words: Vec<_> = change
        .steps()
        .iter()
        .map(|step| match step {
            Step::WriteArea { .. } => "write",
            Step::WipeArea { .. } => "wipe",
            Step::Barrier => "barrier",
            Step::Commit(_) => "commit",
        })
        .collect();
    words.join(" ")
}
