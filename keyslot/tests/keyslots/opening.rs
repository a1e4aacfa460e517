//! One slot, many slots, the volume key itself.

use luksmith_crypto::{Argon2Variant, Hash, Kdf, VolumeKey};
use luksmith_keyslot::{
    DigestCost, KdfChoice, LastSlot, NewSlot, OpenLimits, Outcome, PlanError, ReadError, SlotError,
    Target, Tried, UnlockErrorKind, Which, add, add_unbound, erase, open_slot, remove,
    set_priority, slots_to_try, unlock, verify_volume_key,
};
use luksmith_luks2::Priority;

use crate::disk::{Disk, cheap, cheap_argon2, pass, request, secret, slot};

#[test]
fn the_right_passphrase_opens_and_gives_the_key_of_the_format() {
    let one = pass("one");
    let plan = luksmith_keyslot::plan_format(request(&one)).unwrap();
    let key = plan.key.duplicate().unwrap();
    let disk = Disk::with(plan);
    let unlocked = disk.open("one").unwrap();
    assert!(unlocked.key.as_secret().ct_eq(key.as_secret()));
    assert_eq!(
        (unlocked.slot, unlocked.digest, unlocked.bound),
        (Some(0), 0, true)
    );
}

#[test]
fn a_wrong_passphrase_is_told_from_everything_else() {
    let disk = Disk::formatted("one");
    for wrong in ["", "on", "one\n", "One"] {
        let error = disk.open(wrong).err().unwrap();
        assert_eq!(error.kind, UnlockErrorKind::WrongSecret, "{wrong:?}");
        assert_eq!(error.attempts.len(), 1);
        assert!(matches!(
            error.attempts[0].outcome,
            Outcome::Slot(SlotError::WrongSecret)
        ));
    }
}

#[test]
fn an_empty_and_a_binary_passphrase_are_passphrases_like_others() {
    for bytes in [&b""[..], b"\0", b"line\nline\0\xff"] {
        let given = luksmith_crypto::Passphrase::new(secret(bytes));
        let disk = Disk::with(luksmith_keyslot::plan_format(request(&given)).unwrap());
        let unlocked = open_slot(
            &disk.header,
            0,
            &disk.area_of(0),
            &given,
            &OpenLimits::default(),
        )
        .unwrap();
        assert_eq!(unlocked.slot, Some(0));
        assert!(disk.open("other").is_err());
    }
}

#[test]
fn one_changed_bit_in_the_key_area_closes_the_slot() {
    let disk = Disk::formatted("one");
    let area = disk.area_of(0);
    for at in [0, 1000, 128_000, 255_999] {
        let mut damaged = area.clone();
        damaged[at] ^= 0x10;
        let error = open_slot(
            &disk.header,
            0,
            &damaged,
            &pass("one"),
            &OpenLimits::default(),
        )
        .err()
        .unwrap();
        assert!(matches!(error, SlotError::WrongSecret), "{at}: {error}");
    }
    // Behind the stripes lies nothing.
    let mut padded = area.clone();
    padded[256_000] ^= 0x10;
    open_slot(
        &disk.header,
        0,
        &padded,
        &pass("one"),
        &OpenLimits::default(),
    )
    .unwrap();
    let cut = &area[..255_999];
    let error = open_slot(&disk.header, 0, cut, &pass("one"), &OpenLimits::default())
        .err()
        .unwrap();
    assert!(matches!(
        error,
        SlotError::AreaShort {
            found: 255_999,
            expected: 256_000,
            ..
        }
    ));
}

#[test]
fn prefer_comes_before_normal_and_ignore_only_when_named() {
    let mut disk = with_slots(&["a", "b", "c", "d"]);
    for (number, priority) in [
        (1, Priority::Ignore),
        (2, Priority::Prefer),
        (3, Priority::Prefer),
    ] {
        let change = set_priority(&disk.header, number, priority).unwrap();
        disk.apply(&change);
    }
    assert_eq!(
        slots_to_try(disk.metadata(), Which::ByPriority, Target::Data),
        [2, 3, 0]
    );

    let error = disk.open("b").err().unwrap();
    let tried: Vec<_> = error.attempts.iter().map(|attempt| attempt.tried).collect();
    assert_eq!(tried, [Tried::Slot(2), Tried::Slot(3), Tried::Slot(0)]);
    let named = disk.open_as("b", Which::Only(1), Target::Data).unwrap();
    assert_eq!(named.slot, Some(1));

    let change = set_priority(&disk.header, 1, Priority::Normal).unwrap();
    disk.apply(&change);
    assert_eq!(disk.open("b").unwrap().slot, Some(1));
}

#[test]
fn a_named_slot_is_the_only_one_tried() {
    let disk = with_slots(&["a", "b"]);
    assert_eq!(
        disk.open_as("b", Which::Only(1), Target::Data)
            .unwrap()
            .slot,
        Some(1)
    );
    let error = disk
        .open_as("b", Which::Only(0), Target::Data)
        .err()
        .unwrap();
    assert_eq!(
        (error.kind, error.attempts.len()),
        (UnlockErrorKind::WrongSecret, 1)
    );
    let error = disk
        .open_as("b", Which::Only(7), Target::Data)
        .err()
        .unwrap();
    assert_eq!(
        (error.kind, error.attempts.len()),
        (UnlockErrorKind::NoSuchSlot, 0)
    );
}

#[test]
fn a_slot_that_cannot_be_read_does_not_end_the_walk() {
    let disk = with_slots(&["a", "b"]);
    let bad = disk.metadata().keyslot(0).unwrap().area();
    let mut read = |area: luksmith_luks2::Area, len| {
        if area == bad {
            Err(ReadError::from("a bad sector"))
        } else {
            Ok(disk.area(area, len))
        }
    };
    let limits = OpenLimits::default();
    let mut walk = |text: &str| {
        unlock(
            &disk.header,
            Which::ByPriority,
            Target::Data,
            &pass(text),
            &mut read,
            &limits,
        )
    };
    assert_eq!(walk("b").unwrap().slot, Some(1));
    // The right passphrase may have been given, so this is not "wrong passphrase".
    let error = walk("a").err().unwrap();
    assert_eq!(
        (error.kind, error.attempts.len()),
        (UnlockErrorKind::Device, 2)
    );
}

#[test]
fn every_kdf_and_hash_opens_again() {
    let kdfs = [
        cheap(),
        KdfChoice::Exact(Kdf::Pbkdf2 {
            hash: Hash::Sha512,
            iterations: 1001,
        }),
        cheap_argon2(Argon2Variant::I),
        cheap_argon2(Argon2Variant::Id),
        KdfChoice::Exact(Kdf::Argon2 {
            variant: Argon2Variant::Id,
            time: 4,
            memory_kib: 64,
            lanes: 4,
        }),
    ];
    for kdf in kdfs {
        for hash in [Hash::Sha224, Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            for key_bits in [256, 512] {
                let one = pass("one");
                let mut request = request(&one);
                request.slot.kdf = kdf.clone();
                request.hash = hash;
                request.key_bits = key_bits;
                let disk = Disk::with(luksmith_keyslot::plan_format(request).unwrap());
                let what = format!("{kdf:?} {hash:?} {key_bits}");
                assert_eq!(
                    disk.open("one").expect(&what).key.len() * 8,
                    key_bits as usize
                );
                assert!(disk.open("two").is_err(), "{what}");
            }
        }
    }
}

#[test]
fn the_volume_key_itself_opens_and_a_wrong_one_does_not() {
    let disk = Disk::formatted("one");
    let key = disk.open("one").unwrap().key;
    let limits = OpenLimits::default();
    let unlocked = verify_volume_key(&disk.header, secret(key.expose()), &limits).unwrap();
    assert_eq!(
        (unlocked.slot, unlocked.digest, unlocked.bound),
        (None, 0, true)
    );

    let mut wrong = key.expose().to_vec();
    wrong[63] ^= 1;
    for candidate in [wrong, vec![0; 64], key.expose()[..32].to_vec(), Vec::new()] {
        let error = verify_volume_key(&disk.header, secret(&candidate), &limits)
            .err()
            .unwrap();
        assert_eq!(
            error.kind,
            UnlockErrorKind::WrongVolumeKey,
            "{}",
            candidate.len()
        );
    }
}

/// HMAC pads a short key with zeros, so the digest of a 32-byte key also fits the same key with
/// zeros behind it: the length has to be looked at.
#[test]
fn a_key_with_zeros_behind_it_is_another_key_although_its_digest_fits() {
    let one = pass("one");
    let mut request = request(&one);
    request.key_bits = 256;
    let mut disk = Disk::with(luksmith_keyslot::plan_format(request).unwrap());
    let key = disk.open("one").unwrap().key;
    let mut longer = key.expose().to_vec();
    longer.resize(64, 0);
    let limits = OpenLimits::default();
    let error = verify_volume_key(&disk.header, secret(&longer), &limits)
        .err()
        .unwrap();
    assert_eq!(error.kind, UnlockErrorKind::WrongVolumeKey);
    verify_volume_key(&disk.header, secret(key.expose()), &limits).unwrap();

    // With all slots gone nothing but the cipher says how long the key is: 32 or 64 bytes. A
    // longer one with zeros is still refused.
    let change = erase(&disk.header).unwrap();
    disk.apply(&change);
    longer.resize(96, 0);
    let error = verify_volume_key(&disk.header, secret(&longer), &limits)
        .err()
        .unwrap();
    assert_eq!(error.kind, UnlockErrorKind::WrongVolumeKey);
    verify_volume_key(&disk.header, secret(key.expose()), &limits).unwrap();
}

#[test]
fn an_unbound_key_of_any_size_opens_only_when_any_key_is_wanted() {
    let mut disk = Disk::formatted("one");
    for (bytes, text) in [(1, "tiny"), (17, "odd"), (32, "as aes"), (128, "long")] {
        let key = VolumeKey::generate(bytes).unwrap();
        let given = pass(text);
        let added = add_unbound(&disk.header, &key, &slot(&given), DigestCost::Auto).unwrap();
        disk.apply(&added.change);
        let error = disk.open(text).err().unwrap();
        assert_eq!(
            error.kind,
            UnlockErrorKind::WrongSecret,
            "{text}: only slot 0 was asked"
        );
        assert_eq!(error.attempts.len(), 1);
        let error = disk
            .open_as(text, Which::Only(added.slot), Target::Data)
            .err()
            .unwrap();
        assert!(matches!(
            error.attempts[0].outcome,
            Outcome::Slot(SlotError::Unbound(_))
        ));
        let unlocked = disk
            .open_as(text, Which::ByPriority, Target::AnyKey)
            .unwrap();
        assert_eq!((unlocked.slot, unlocked.bound), (Some(added.slot), false));
        assert!(unlocked.key.as_secret().ct_eq(key.as_secret()));
    }
    assert_eq!(disk.open("one").unwrap().slot, Some(0));
    assert!(disk.metadata().is_unbound(1));
}

#[test]
fn a_second_slot_of_an_unbound_key_joins_its_digest() {
    let mut disk = Disk::formatted("one");
    let key = VolumeKey::generate(40).unwrap();
    for text in ["u1", "u2", "u3"] {
        let given = pass(text);
        let added = add_unbound(&disk.header, &key, &slot(&given), DigestCost::Auto).unwrap();
        disk.apply(&added.change);
    }
    assert_eq!(disk.metadata().digests().len(), 2);
    assert_eq!(disk.metadata().digests()[&1].keyslots, [1, 2, 3]);
    // The digest goes with its last slot.
    for number in [1, 2, 3] {
        let change = remove(&disk.header, number, LastSlot::Refuse).unwrap();
        disk.apply(&change);
    }
    assert_eq!(disk.metadata().digests().len(), 1);
}

#[test]
fn nothing_to_try_is_not_a_wrong_passphrase() {
    let mut disk = Disk::formatted("one");
    let change = set_priority(&disk.header, 0, Priority::Ignore).unwrap();
    disk.apply(&change);
    assert_eq!(
        disk.open("one").err().unwrap().kind,
        UnlockErrorKind::NothingToTry
    );
    let change = erase(&disk.header).unwrap();
    disk.apply(&change);
    assert_eq!(
        disk.open("one").err().unwrap().kind,
        UnlockErrorKind::NothingToTry
    );
}

#[test]
fn a_key_of_another_volume_is_not_written_into_a_slot() {
    let disk = Disk::formatted("one");
    let other = Disk::formatted("one").open("one").unwrap().key;
    let two = pass("two");
    assert!(matches!(
        add(&disk.header, &other, &slot(&two)),
        Err(PlanError::ForeignKey)
    ));
}

/// A volume whose slot N opens with the N-th of these.
pub(crate) fn with_slots(texts: &[&str]) -> Disk {
    let mut disk = Disk::formatted(texts[0]);
    let key = disk.open(texts[0]).unwrap().key;
    for text in &texts[1..] {
        let given = pass(text);
        let added = add(
            &disk.header,
            &key,
            &NewSlot {
                kdf: cheap(),
                ..NewSlot::new(&given)
            },
        );
        let added = added.unwrap();
        disk.apply(&added.change);
    }
    disk
}
