//! Headers that are valid by every rule of the format and must not be served all the same.
//!
//! The reader of a header is not its author: in a confidential machine the host writes it, on a
//! stolen and returned disk the thief does. He can compute checksums. What he must not reach is
//! that data are written in the clear, or over the header.

use luksmith_crypto::AllowNull;
use luksmith_keyslot::{FormatRequest, Placement, UnlockErrorKind};
use luksmith_luks2::Header;
use luksmith_tests::image::{Image, cheap_slot, passphrase};
use luksmith_volume::{VolumeError, VolumePlan};
use serde_json::{Value, json};

const MIB: u64 = 1024 * 1024;

fn volume() -> Image {
    let image = Image::blank(24 * MIB);
    format(&image, Placement::Attached);
    image
}

fn format(image: &Image, placement: Placement) {
    let one = passphrase(b"one");
    image.format(FormatRequest {
        placement,
        slot: cheap_slot(&one),
        ..FormatRequest::new(&one, image.facts())
    });
}

fn plan(header: &Header) -> Result<VolumePlan, VolumeError> {
    VolumePlan::new(header, 24 * MIB, AllowNull::No)
}

/// The null cipher's trick by another name: a segment that is not encrypted at all, under the
/// digest of the real key, so that the real passphrase opens it.
#[test]
fn a_segment_turned_plain_is_neither_unlocked_nor_served() {
    let image = volume();
    image.forge(|json| {
        let offset = json["segments"]["0"]["offset"].clone();
        json["segments"]["0"] = json!({"type": "linear", "offset": offset, "size": "dynamic"});
    });
    assert_eq!(
        image.open(b"one").err().unwrap().kind,
        UnlockErrorKind::WeakCipher
    );
    assert!(matches!(
        plan(&image.header()),
        Err(VolumeError::Plain { segment: 0 })
    ));
    VolumePlan::new(&image.header(), 24 * MIB, AllowNull::Yes).unwrap();
}

/// Half of the volume plain, half of it encrypted: the encrypted half must not vouch for all.
#[test]
fn a_plain_piece_in_front_of_an_encrypted_one_is_refused() {
    let image = volume();
    image.forge(|json| {
        let mut rest = json["segments"]["0"].clone();
        rest["offset"] = (20 * MIB).to_string().into();
        rest["iv_tweak"] = (4 * MIB / 512).to_string().into();
        json["segments"] = json!({
            "0": {"type": "linear", "offset": (16 * MIB).to_string(), "size": (4 * MIB).to_string()},
            "1": rest,
        });
        json["digests"]["0"]["segments"] = json!(["0", "1"]);
    });
    assert_eq!(
        image.open(b"one").err().unwrap().kind,
        UnlockErrorKind::WeakCipher
    );
    assert!(matches!(
        plan(&image.header()),
        Err(VolumeError::Plain { segment: 0 })
    ));
}

#[test]
fn every_cipher_that_is_not_the_one_we_do_is_refused_by_its_name() {
    for cipher in [
        "cipher_null-ecb",
        "aes-ecb",
        "aes-cbc-essiv:sha256",
        "aes-xts-plain",
        "aes-xts-plain64be",
        "AES-XTS-PLAIN64",
        "aes-xts-plain64 ",
        "capi:xts(aes)-plain64",
        "serpent-xts-plain64",
        "\u{1b}]0;owned\u{7}",
    ] {
        let image = volume();
        image.forge(|json| json["segments"]["0"]["encryption"] = cipher.into());
        let error = plan(&image.header()).err().unwrap();
        assert!(
            matches!(error, VolumeError::Cipher { segment: 0, .. }),
            "{cipher}: {error}"
        );
    }
}

#[test]
fn authenticated_and_drive_encrypted_segments_are_refused_and_not_opened_without_their_half() {
    let edits: [fn(&mut Value); 2] = [
        |json| {
            json["segments"]["0"]["integrity"] = json!({
                "type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none",
            });
        },
        |json| {
            let segment = &mut json["segments"]["0"];
            segment["type"] = "hw-opal-crypt".into();
            segment["size"] = (4 * MIB).to_string().into();
            segment["opal_segment_number"] = json!(1);
            segment["opal_key_size"] = json!(32);
            segment["opal_segment_size"] = (4 * MIB).to_string().into();
            json["config"]["requirements"] = json!({"mandatory": ["opal"]});
        },
    ];
    for edit in edits {
        let image = volume();
        image.forge(edit);
        assert!(plan(&image.header()).is_err());
    }
}

#[test]
fn a_requirement_is_an_error_whether_known_or_not() {
    for name in ["from-the-future", "inline-hw-tags", "offline-reencrypt"] {
        let image = volume();
        image.forge(|json| json["config"]["requirements"] = json!({"mandatory": [name]}));
        assert!(plan(&image.header()).is_err(), "{name}");
    }
}

/// `open HEADER-FILE` in the place of `open --header HEADER-FILE DATA`: the data would begin at
/// byte 0 of the header file, and the first write would be the header's end.
#[test]
fn a_detached_header_is_not_served_as_its_own_data() {
    let image = Image::blank_detached(24 * MIB);
    format(&image, Placement::Detached);
    let header = image.header();
    let served = plan(&header).unwrap();
    let error = served.check_clear_of_header(&header).err().unwrap();
    assert!(
        matches!(
            error,
            VolumeError::InsideHeader {
                segment: 0,
                offset: 0,
                ..
            }
        ),
        "{error}"
    );
    let image = volume();
    plan(&image.header())
        .unwrap()
        .check_clear_of_header(&image.header())
        .unwrap();
}

#[test]
fn a_later_piece_that_lies_in_the_header_is_found_as_well() {
    let image = volume();
    image.forge(|json| {
        let mut first = json["segments"]["0"].clone();
        let mut second = first.clone();
        first["size"] = (4 * MIB).to_string().into();
        second["offset"] = "0".into();
        second["size"] = (4 * MIB).to_string().into();
        json["segments"] = json!({"0": first, "1": second});
        json["digests"]["0"]["segments"] = json!(["0", "1"]);
    });
    let header = image.header();
    let error = plan(&header)
        .unwrap()
        .check_clear_of_header(&header)
        .err()
        .unwrap();
    assert!(
        matches!(error, VolumeError::InsideHeader { segment: 1, .. }),
        "{error}"
    );
}

#[test]
fn a_segment_beyond_the_device_is_refused() {
    for (offset, size) in [
        (16 * MIB, (9 * MIB).to_string()),
        (24 * MIB, "dynamic".to_owned()),
        (u64::MAX / 4096 * 4096, "dynamic".to_owned()),
        (16 * MIB, (u64::MAX / 8192 * 4096).to_string()),
    ] {
        let image = volume();
        image.forge(|json| {
            json["segments"]["0"]["offset"] = offset.to_string().into();
            json["segments"]["0"]["size"] = size.clone().into();
        });
        let error = plan(&image.header()).err().unwrap();
        assert!(
            matches!(error, VolumeError::DeviceTooSmall { .. }),
            "{offset} {size}: {error}"
        );
    }
}
