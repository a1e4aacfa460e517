//! Slots, tokens and priorities changed by one side, looked at by the other.

use luksmith_crypto::VolumeKey;
use luksmith_keyslot::{
    DigestCost, FormatRequest, LastSlot, Target, UnlockErrorKind, Which, add, add_unbound, change,
    erase, remove, set_priority,
};
use luksmith_luks2::Priority;
use luksmith_tests::cryptsetup::{CHEAP, dump_json};
use luksmith_tests::image::{Image, cheap_slot, passphrase};

use crate::{their_key, theirs, they_add, they_format, they_open};

const MIB: u64 = 1024 * 1024;

fn our_volume() -> Image {
    let image = Image::blank(24 * MIB);
    let secret = passphrase(b"one");
    let request = FormatRequest {
        slot: cheap_slot(&secret),
        ..FormatRequest::new(&secret, image.facts())
    };
    image.format(request);
    image
}

fn their_volume() -> Image {
    let image = Image::blank(24 * MIB);
    they_format(&image, &[], b"one");
    image
}

#[test]
fn a_passphrase_changed_by_either_side_opens_for_the_other() {
    for image in [our_volume(), their_volume()] {
        let key = image.open(b"one").unwrap().key;
        let two = passphrase(b"two");
        image.change(|header| change(header, 0, &key, &cheap_slot(&two)));
        assert_eq!(they_open(&image, b"two", &["--key-slot", "0"]), 0);
        assert_eq!(they_open(&image, b"one", &[]), 2);

        let (old, new) = (image.file("old", b"two"), image.file("new", b"three"));
        let mut args = vec!["--key-file", old.to_str().unwrap(), new.to_str().unwrap()];
        args.extend(CHEAP);
        theirs("luksChangeKey", &image.header_file(), &args, b"").expect(0, "luksChangeKey");
        let opened = image.open(b"three").unwrap();
        assert_eq!((opened.slot, opened.key.expose()), (Some(0), key.expose()));
        assert_eq!(
            image.open(b"two").err().unwrap().kind,
            UnlockErrorKind::WrongSecret
        );
    }
}

#[test]
fn a_slot_converted_by_either_side_opens_for_the_other() {
    let image = their_volume();
    let args = [
        "--pbkdf",
        "argon2id",
        "--pbkdf-force-iterations",
        "4",
        "--pbkdf-memory",
        "64",
        "--key-file",
        "-",
    ];
    theirs("luksConvertKey", &image.header_file(), &args, b"one").expect(0, "luksConvertKey");
    let opened = image.open(b"one").unwrap();
    // Back to PBKDF2, by us.
    let one = passphrase(b"one");
    image.change(|header| change(header, 0, &opened.key, &cheap_slot(&one)));
    assert_eq!(they_open(&image, b"one", &[]), 0);
    assert_eq!(
        dump_json(&image.header_file())["keyslots"]["0"]["kdf"]["type"],
        "pbkdf2"
    );
}

#[test]
fn slots_removed_by_either_side_are_gone_for_the_other() {
    let image = our_volume();
    for secret in [&b"two"[..], b"three", b"four"] {
        they_add(&image, b"one", secret, &[]).expect(0, "luksAddKey");
    }
    // By number, by passphrase (theirs), by number (ours).
    theirs(
        "luksKillSlot",
        &image.header_file(),
        &["1", "--key-file", "-"],
        b"one",
    )
    .expect(0, "luksKillSlot");
    theirs(
        "luksRemoveKey",
        &image.header_file(),
        &["--key-file", "-"],
        b"three",
    )
    .expect(0, "luksRemoveKey");
    assert_eq!(
        image.open(b"two").err().unwrap().kind,
        UnlockErrorKind::WrongSecret
    );
    assert_eq!(
        image.open(b"three").err().unwrap().kind,
        UnlockErrorKind::WrongSecret
    );
    let four = image.open(b"four").unwrap().slot.unwrap();
    image.change(|header| remove(header, four, LastSlot::Refuse));
    assert_eq!(they_open(&image, b"four", &[]), 2);
    assert_eq!(they_open(&image, b"one", &[]), 0);
    assert!(remove(&image.header(), 0, LastSlot::Refuse).is_err());

    theirs("luksErase", &image.header_file(), &[], b"").expect(0, "luksErase");
    assert_eq!(
        image.open(b"one").err().unwrap().kind,
        UnlockErrorKind::NothingToTry
    );
}

#[test]
fn what_we_erase_cryptsetup_finds_without_a_slot() {
    let image = their_volume();
    image.change(erase);
    assert_eq!(they_open(&image, b"one", &[]), 1, "no usable keyslot");
    assert_eq!(
        dump_json(&image.header_file())["keyslots"],
        serde_json::json!({})
    );
}

#[test]
fn thirty_two_slots_made_in_turns_open_for_both() {
    let image = our_volume();
    let key = image.open(b"one").unwrap().key;
    for number in 1..32_u8 {
        let secret = format!("secret {number}");
        if number % 2 == 0 {
            they_add(&image, b"one", secret.as_bytes(), &[]).expect(0, "luksAddKey");
        } else {
            let secret = passphrase(secret.as_bytes());
            image.change(|header| {
                let added = add(header, &key, &cheap_slot(&secret))?;
                assert_eq!(added.slot, number);
                Ok::<_, luksmith_keyslot::PlanError>(added.change)
            });
        }
    }
    for number in 1..32_u8 {
        let secret = format!("secret {number}");
        let slot = number.to_string();
        assert_eq!(
            they_open(&image, secret.as_bytes(), &["--key-slot", &slot]),
            0,
            "{number}"
        );
        let opened = image
            .open_as(secret.as_bytes(), Which::Only(number), Target::Data)
            .unwrap();
        assert_eq!(opened.key.expose(), key.expose());
    }
    // Both say no to one more, and nothing is lost.
    let more = passphrase(b"more");
    assert!(add(&image.header(), &key, &cheap_slot(&more)).is_err());
    assert_ne!(they_add(&image, b"one", b"more", &[]).code, 0);
    // The areas lie side by side: the last slot still opens.
    assert_eq!(image.open(b"secret 31").unwrap().slot, Some(31));
}

#[test]
fn tokens_of_strangers_survive_every_change_of_ours() {
    let image = our_volume();
    they_add(&image, b"one", b"two", &[]).expect(0, "luksAddKey");
    let foreign = r#"{"type":"someone-elses","keyslots":["0","1"],"a":{"b":[1,2,{"c":null}]},"text":"/ \u00e9"}"#;
    for slot in ["0", "7"] {
        theirs("token", &image.header_file(), &[], b"")
            .code
            .to_string();
        let mut args: Vec<std::ffi::OsString> = ["token", "import", "--token-id", slot]
            .map(Into::into)
            .into();
        args.push(image.header_file().into());
        luksmith_tests::cryptsetup::cryptsetup(&args, foreign.as_bytes()).expect(0, "token import");
    }
    let before = dump_json(&image.header_file())["tokens"].clone();
    let key = image.open(b"one").unwrap().key;
    let three = passphrase(b"three");
    image.change(|header| add(header, &key, &cheap_slot(&three)).map(|added| added.change));
    image.change(|header| change(header, 0, &key, &cheap_slot(&three)));
    image.change(|header| set_priority(header, 2, Priority::Prefer));
    assert_eq!(dump_json(&image.header_file())["tokens"], before);
    // A slot that goes is unassigned, everything else stays.
    image.change(|header| remove(header, 1, LastSlot::Refuse));
    let after = dump_json(&image.header_file())["tokens"].clone();
    for number in ["0", "7"] {
        let mut expected = before[number].clone();
        expected["keyslots"] = serde_json::json!(["0"]);
        assert_eq!(after[number], expected);
    }
}

#[test]
fn an_ignored_slot_is_skipped_by_both_and_a_preferred_one_is_first() {
    let image = our_volume();
    they_add(&image, b"one", b"two", &[]).expect(0, "luksAddKey");
    let config = |slot, priority| {
        theirs(
            "config",
            &image.header_file(),
            &["--key-slot", slot, "--priority", priority],
            b"",
        )
        .expect(0, "config");
    };
    config("1", "ignore");
    assert_eq!(
        image.open(b"two").err().unwrap().kind,
        UnlockErrorKind::WrongSecret
    );
    assert_eq!(
        image
            .open_as(b"two", Which::Only(1), Target::Data)
            .unwrap()
            .slot,
        Some(1)
    );
    config("1", "prefer");
    let error = image.open(b"none").err().unwrap();
    let tried: Vec<_> = error.attempts.iter().map(|attempt| attempt.tried).collect();
    assert_eq!(
        tried,
        [
            luksmith_keyslot::Tried::Slot(1),
            luksmith_keyslot::Tried::Slot(0)
        ]
    );

    image.change(|header| set_priority(header, 0, Priority::Ignore));
    assert_eq!(they_open(&image, b"one", &[]), 2);
    assert_eq!(they_open(&image, b"one", &["--key-slot", "0"]), 0);
    image.change(|header| set_priority(header, 0, Priority::Normal));
    assert_eq!(they_open(&image, b"one", &[]), 0);
    assert_eq!(
        dump_json(&image.header_file())["keyslots"]["0"].get("priority"),
        None
    );
}

#[test]
fn unbound_keys_of_either_side_open_for_the_other() {
    let image = their_volume();
    // Theirs: 136 bits, no length that any cipher takes.
    let new = image.file("unbound", b"unbound secret");
    let mut args = vec!["--unbound", "--key-size", "136", new.to_str().unwrap()];
    args.extend(CHEAP);
    theirs("luksAddKey", &image.header_file(), &args, b"").expect(0, "luksAddKey --unbound");
    let opened = image
        .open_as(b"unbound secret", Which::ByPriority, Target::AnyKey)
        .unwrap();
    assert_eq!(
        (opened.slot, opened.bound, opened.key.len()),
        (Some(1), false, 17)
    );
    let they_found = their_key_of_unbound(&image, b"unbound secret", "1");
    assert_eq!(opened.key.expose(), they_found);
    assert!(image.open(b"unbound secret").is_err());

    // Ours.
    for (bytes, slot) in [(5, "2"), (64, "3"), (100, "4")] {
        let key = VolumeKey::generate(bytes).unwrap();
        let secret = passphrase(slot.as_bytes());
        image.change(|header| {
            add_unbound(header, &key, &cheap_slot(&secret), DigestCost::Auto)
                .map(|added| added.change)
        });
        assert_eq!(
            their_key_of_unbound(&image, slot.as_bytes(), slot),
            key.expose()
        );
        assert_ne!(they_open(&image, slot.as_bytes(), &[]), 0, "opens no data");
    }
    assert_eq!(
        their_key(&image, b"one", &[]),
        image.open(b"one").unwrap().key.expose()
    );
}

fn their_key_of_unbound(image: &Image, secret: &[u8], slot: &str) -> Vec<u8> {
    let file = image.folder().join("unbound.key");
    let _ = std::fs::remove_file(&file);
    let args = [
        "--unbound",
        "--key-slot",
        slot,
        "--volume-key-file",
        file.to_str().unwrap(),
        "--key-file",
        "-",
    ];
    theirs("luksDump", &image.header_file(), &args, secret).expect(0, "luksDump --unbound");
    std::fs::read(file).unwrap()
}

#[test]
fn a_slot_added_by_volume_key_alone_opens() {
    let image = their_volume();
    let key = image.file("volume.key", &their_key(&image, b"one", &[]));
    image.change(erase);
    // All slots are gone; whoever kept the key gets in.
    let kept = luksmith_tests::image::secret(&std::fs::read(&key).unwrap());
    let header = image.header();
    let limits = luksmith_keyslot::OpenLimits::default();
    let opened = luksmith_keyslot::verify_volume_key(&header, kept, &limits).unwrap();
    assert_eq!((opened.slot, opened.bound), (None, true));
    let two = passphrase(b"two");
    image.change(|header| add(header, &opened.key, &cheap_slot(&two)).map(|added| added.change));
    assert_eq!(they_open(&image, b"two", &[]), 0);
    // The other way: they add by volume key.
    let new = image.file("three", b"three");
    let mut args = vec![
        "--volume-key-file",
        key.to_str().unwrap(),
        new.to_str().unwrap(),
    ];
    args.extend(CHEAP);
    theirs("luksAddKey", &image.header_file(), &args, b"")
        .expect(0, "luksAddKey --volume-key-file");
    assert_eq!(
        image.open(b"three").unwrap().key.expose(),
        opened.key.expose()
    );
}
