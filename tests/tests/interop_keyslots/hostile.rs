//! Headers that somebody with the disk in hand wrote: valid checksums, valid by the rules of the
//! format, and still not to be trusted.

use std::time::{Duration, Instant};

use luksmith_crypto::{AllowNull, CryptoError, KdfCaps};
use luksmith_keyslot::{
    FormatRequest, LastSlot, OpenLimits, Outcome, PlanError, SlotError, Target, UnlockErrorKind,
    Which, erase, plan_format, remove, verify_volume_key,
};
use luksmith_tests::image::{Image, cheap_slot, passphrase, secret};
use serde_json::{Value, json};

use crate::{they_add, they_format, they_open};

const MIB: u64 = 1024 * 1024;

fn volume() -> Image {
    let image = Image::blank(24 * MIB);
    they_format(&image, &["--luks2-metadata-size", "16k"], b"one");
    image
}

/// CVE-2025-59054, CVE-2025-58356: a header that makes a confidential machine "encrypt" in the
/// clear. With any valid passphrase cryptsetup 2.6.1 opens it.
#[test]
fn a_null_or_ecb_data_segment_is_refused_even_with_the_right_passphrase() {
    for cipher in [
        "cipher_null-ecb",
        "cipher_null-plain",
        "aes-ecb",
        "capi:ecb(aes)-plain64",
    ] {
        let image = volume();
        let key = image.open(b"one").unwrap().key;
        image.forge(|json| json["segments"]["0"]["encryption"] = cipher.into());
        if cipher == "cipher_null-ecb" {
            assert_eq!(
                they_open(&image, b"one", &[]),
                0,
                "what this guards against"
            );
        }
        let error = image.open(b"one").err().unwrap();
        assert_eq!(error.kind, UnlockErrorKind::WeakCipher, "{cipher}");
        assert!(error.to_string().contains(cipher), "{error}");
        assert!(
            error.attempts.is_empty(),
            "refused before any slot is tried"
        );
        let error = image
            .open_as(b"one", Which::Only(0), Target::AnyKey)
            .err()
            .unwrap();
        assert_eq!(error.kind, UnlockErrorKind::WeakCipher, "{cipher}");
        // Nor by the volume key itself.
        let given = secret(key.expose());
        let error = verify_volume_key(&image.header(), given, &OpenLimits::default())
            .err()
            .unwrap();
        assert_eq!(error.kind, UnlockErrorKind::WeakCipher, "{cipher}");
    }
}

#[test]
fn a_null_or_ecb_keyslot_is_refused() {
    for cipher in ["cipher_null-ecb", "aes-ecb"] {
        let image = volume();
        image.forge(|json| json["keyslots"]["0"]["area"]["encryption"] = cipher.into());
        let error = image.open(b"one").err().unwrap();
        assert_eq!(error.kind, UnlockErrorKind::WeakCipher, "{cipher}");
        assert_ne!(
            they_open(&image, b"one", &[]),
            0,
            "cryptsetup refuses it as well"
        );
    }
}

/// An area in the clear "fits" every passphrase, so with the switch only the empty one does.
#[test]
fn with_the_switch_a_null_keyslot_opens_for_the_empty_passphrase_only() {
    let image = volume();
    let key = image.open(b"one").unwrap().key;
    // The attacker knows a key of his own: stripes in the clear, and its digest.
    let stripes =
        luksmith_crypto::af::split(key.as_secret(), 4000, luksmith_crypto::Hash::Sha256).unwrap();
    let area = image.header().metadata().keyslot(0).unwrap().area();
    let file = std::fs::File::options()
        .write(true)
        .open(image.header_file())
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, stripes.expose(), area.offset).unwrap();
    image.forge(|json| {
        json["keyslots"]["0"]["area"]["encryption"] = "cipher_null-ecb".into();
    });
    let allowed = OpenLimits {
        allow_null: AllowNull::Yes,
        ..OpenLimits::default()
    };
    let open = |secret: &[u8], limits: &OpenLimits| {
        image.open_within(secret, Which::ByPriority, Target::Data, limits)
    };
    assert_eq!(open(b"", &allowed).unwrap().slot, Some(0));
    assert_eq!(
        open(b"one", &allowed).err().unwrap().kind,
        UnlockErrorKind::WrongSecret
    );
    for secret in [&b""[..], b"one"] {
        let error = open(secret, &OpenLimits::default()).err().unwrap();
        assert_eq!(error.kind, UnlockErrorKind::WeakCipher);
    }
}

#[test]
fn a_volume_with_a_null_cipher_is_not_made() {
    let image = Image::blank(24 * MIB);
    let one = passphrase(b"one");
    for cipher in ["cipher_null-ecb", "null", "aes-ecb"] {
        let request = FormatRequest {
            cipher: cipher.into(),
            slot: cheap_slot(&one),
            ..FormatRequest::new(&one, image.facts())
        };
        let error = plan_format(request).err().unwrap();
        assert!(matches!(error, PlanError::WeakCipher(_)), "{error}");
    }
}

#[test]
fn hostile_costs_are_refused_at_once_and_without_the_memory() {
    let argon2 = |time: u64, memory: u64, cpus: u64| json!({"type": "argon2id", "time": time, "memory": memory, "cpus": cpus});
    let max = u64::from(u32::MAX);
    // 4 GiB fit this machine perhaps, but not the caps that are given.
    let limits = OpenLimits {
        caps: KdfCaps {
            max_memory_kib: 1024 * 1024,
            ..KdfCaps::default()
        },
        ..OpenLimits::default()
    };
    let before = peak_kib();
    for kdf in [
        argon2(4, 4 * 1024 * 1024, 4),
        argon2(4, max, 1),
        argon2(max, 1024, 1),
        argon2(1 << 20, 1024 * 1024, 4),
        argon2(4, 1024 * 1024, 4000),
        json!({"type": "pbkdf2", "hash": "sha256", "iterations": max}),
    ] {
        let image = volume();
        image.forge(|json| {
            let mut kdf = kdf.clone();
            kdf["salt"] = json["keyslots"]["0"]["kdf"]["salt"].clone();
            json["keyslots"]["0"]["kdf"] = kdf;
        });
        let start = Instant::now();
        let error = image
            .open_within(b"one", Which::ByPriority, Target::Data, &limits)
            .err()
            .unwrap();
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{kdf}: {:?}",
            start.elapsed()
        );
        assert_eq!(error.kind, UnlockErrorKind::OutOfMemory, "{kdf}: {error:?}");
        assert!(matches!(
            error.attempts[0].outcome,
            Outcome::Slot(SlotError::Crypto(CryptoError::CostTooHigh { .. }))
        ));
    }
    let grown = peak_kib() - before;
    assert!(grown < 512 * 1024, "the peak grew by {grown} KiB");
}

#[test]
fn a_hostile_digest_cost_is_refused_at_once() {
    let image = volume();
    let key = image.open(b"one").unwrap().key;
    image.forge(|json| json["digests"]["0"]["iterations"] = json!(u32::MAX));
    let start = Instant::now();
    let error = image.open(b"one").err().unwrap();
    assert_eq!(error.kind, UnlockErrorKind::OutOfMemory);
    let given = secret(key.expose());
    assert!(verify_volume_key(&image.header(), given, &OpenLimits::default()).is_err());
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn one_hostile_slot_does_not_close_the_others() {
    let image = volume();
    they_add(&image, b"one", b"two", &[]).expect(0, "luksAddKey");
    image.forge(|json| {
        let salt = json["keyslots"]["0"]["kdf"]["salt"].clone();
        json["keyslots"]["0"]["kdf"] =
            json!({"type": "argon2id", "time": 4, "memory": u32::MAX, "cpus": 4, "salt": salt});
        json["keyslots"]["0"]["priority"] = json!(2);
    });
    let opened = image.open(b"two").unwrap();
    assert_eq!(opened.slot, Some(1));
    // And the right passphrase of the hostile slot is not called wrong.
    assert_eq!(
        image.open(b"one").err().unwrap().kind,
        UnlockErrorKind::OutOfMemory
    );
}

#[test]
fn lengths_that_do_not_fit_are_refused_by_name_and_never_a_panic() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 7] = [
        ("key of one byte", |json| {
            json["keyslots"]["0"]["key_size"] = json!(1)
        }),
        ("key of 33 bytes", |json| {
            json["keyslots"]["0"]["key_size"] = json!(33)
        }),
        ("area key of one byte", |json| {
            json["keyslots"]["0"]["area"]["key_size"] = json!(1)
        }),
        ("area key of 512 bytes", |json| {
            json["keyslots"]["0"]["area"]["key_size"] = json!(512);
        }),
        ("unknown hash", |json| {
            json["keyslots"]["0"]["af"]["hash"] = "whirlpool".into()
        }),
        ("unknown digest hash", |json| {
            json["digests"]["0"]["hash"] = "md5".into()
        }),
        ("unknown cipher", |json| {
            json["keyslots"]["0"]["area"]["encryption"] = "serpent-xts-plain64".into();
        }),
    ];
    for (what, edit) in edits {
        let image = volume();
        image.forge(edit);
        let error = image.open(b"one").err().unwrap();
        assert_eq!(
            error.kind,
            UnlockErrorKind::Unsupported,
            "{what}: {error:?}"
        );
    }
}

/// A shorter key than the data need, whose digest an attacker made to fit: with AES-128 in the
/// place of AES-256 he has a key that somebody else once used.
#[test]
fn a_slot_with_a_key_of_another_length_than_its_siblings_opens_nothing_by_length_tricks() {
    let image = volume();
    image.forge(|json| json["keyslots"]["0"]["key_size"] = json!(32));
    // 32 bytes are a length of AES-XTS, so the slot is tried; the digest is that of the long key.
    assert_eq!(
        image.open(b"one").err().unwrap().kind,
        UnlockErrorKind::WrongSecret
    );
}

#[test]
fn an_unknown_requirement_closes_the_volume_and_keeps_it_unchanged() {
    let image = volume();
    image.forge(|json| {
        json["config"]["requirements"] = json!({"mandatory": ["from-the-future"]});
    });
    let error = image.open(b"one").err().unwrap();
    assert_eq!(error.kind, UnlockErrorKind::Requirement);
    assert!(error.to_string().contains("from-the-future"), "{error}");
    let header = image.header();
    let planned = remove(&header, 0, LastSlot::Allow).map(drop);
    assert!(matches!(planned, Err(PlanError::Requirement(_))));
    assert!(matches!(erase(&header), Err(PlanError::Requirement(_))));
    // cryptsetup 2.6.1 tests passphrases of such a header, but does not change it either.
    assert_ne!(they_add(&image, b"one", b"two", &[]).code, 0);
}

/// Largest resident memory so far, of this process.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
