//! No header is valid for us that is not valid for cryptsetup.
//!
//! Every value of a rich header is replaced by every value of a nasty list, every member is left
//! out and every list turned around; checksums are right. What our parser accepts, `cryptsetup
//! luksDump` must accept too. (We may be stricter: that is not looked at here.)

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use luksmith_keyslot::{DigestCost, FormatRequest, PlanError, add, add_unbound};
use luksmith_luks2::binary::{BINARY_BYTES, write_checksum};
use luksmith_luks2::{ChecksumAlgorithm, HeaderCopy, Metadata};
use luksmith_tests::cryptsetup::cryptsetup;
use luksmith_tests::image::{Image, cheap_slot, passphrase};
use serde_json::{Value, json};

const MIB: u64 = 1024 * 1024;

#[test]
fn what_we_accept_cryptsetup_accepts() {
    let image = rich_volume();
    let header = image.header();
    let geometry = header.metadata().geometry();
    let copies =
        [HeaderCopy::Primary, HeaderCopy::Secondary].map(|copy| header.encode(copy, [7; 64]));
    let original = header.metadata().as_value();
    let they_accept = |text: &[u8]| {
        write_json(&image.header_file(), &copies, text);
        cryptsetup(
            &["luksDump".into(), image.header_file().into_os_string()],
            b"",
        )
        .code
            == 0
    };
    let (mut accepted, mut refused, mut refused_by_both) = (0, 0, 0);
    let mut laxer = Vec::new();
    for (what, json) in mutants(original) {
        let text = serde_json::to_vec(&json).expect("JSON");
        if Metadata::parse(&text, &geometry).is_ok() {
            accepted += 1;
            if !they_accept(&text) {
                laxer.push(what);
            }
        } else {
            refused += 1;
            // A sample, to see that their refusals arrive here.
            if refused % 40 == 0 && !they_accept(&text) {
                refused_by_both += 1;
            }
        }
    }
    // A list of mutants that are all fine, or all refused, would show nothing.
    assert!(accepted > 100, "{accepted}");
    assert!(refused > 1000, "{refused}");
    assert!(
        refused_by_both > refused / 80,
        "{refused_by_both} of the sample of {refused}"
    );
    assert!(
        laxer.is_empty(),
        "cryptsetup refuses {} of {accepted}: {laxer:#?}",
        laxer.len()
    );
    // And the harness itself does not break a header.
    assert!(they_accept(&serde_json::to_vec(original).expect("JSON")));
    image.open(b"one").expect("the original opens again");
}

/// Two slots with different KDFs, an unbound one, tokens, flags, a piece of fixed length.
fn rich_volume() -> Image {
    let image = Image::blank(24 * MIB);
    let one = passphrase(b"one");
    let key = image.format(FormatRequest {
        metadata_bytes: Some(16 * 1024),
        offset_sectors: Some(4096),
        slot: cheap_slot(&one),
        ..FormatRequest::new(&one, image.facts())
    });
    let two = passphrase(b"two");
    let mut argon2 = cheap_slot(&two);
    argon2.kdf = luksmith_keyslot::KdfChoice::Exact(luksmith_crypto::Kdf::Argon2 {
        variant: luksmith_crypto::Argon2Variant::Id,
        time: 4,
        memory_kib: 32,
        lanes: 1,
    });
    image.change(|header| add(header, &key, &argon2).map(|added| added.change));
    let unbound = luksmith_crypto::VolumeKey::generate(16).expect("a key");
    image.change(|header| {
        let added = add_unbound(header, &unbound, &cheap_slot(&two), DigestCost::Auto)?;
        Ok::<_, PlanError>(added.change)
    });
    image.forge(|json| {
        json["tokens"]["0"] =
            json!({"type": "luks2-keyring", "keyslots": ["0"], "key_description": "d"});
        json["tokens"]["3"] = json!({"type": "other", "keyslots": ["0", "1"], "more": {"x": [1]}});
        json["config"]["flags"] = json!(["allow-discards", "no-such-flag"]);
        json["keyslots"]["1"]["priority"] = json!(2);
        json["segments"]["0"]["size"] = (4 * MIB).to_string().into();
    });
    image
}

/// The original with one fault each, and what the fault is.
fn mutants(original: &Value) -> Vec<(String, Value)> {
    let nasty = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(-1),
        json!(4000),
        json!(4096),
        json!(1.5),
        json!(u32::MAX),
        json!(u64::from(u32::MAX) + 1),
        json!(""),
        json!("0"),
        json!("1"),
        json!("31"),
        json!("32"),
        json!("4096"),
        json!("-1"),
        json!(" 1"),
        json!("01"),
        json!("0x10"),
        json!("2097152"),
        json!("18446744073709551615"),
        json!("18446744073709551616"),
        json!("18446744073709547520"),
        json!("dynamic"),
        json!("none"),
        json!("raw"),
        json!("A"),
        json!("AAAA"),
        json!("cipher_null-ecb"),
        json!("aes-xts-plain64"),
        json!([]),
        json!(["0"]),
        json!(["1"]),
        json!(["0", "0"]),
        json!([0]),
        json!({}),
    ];
    let mut pointers = Vec::new();
    walk(original, String::new(), &mut pointers);
    let mut mutants = Vec::new();
    for pointer in &pointers {
        let at = |json: &mut Value, change: &dyn Fn(&mut Value)| {
            change(json.pointer_mut(pointer).expect("walked"));
        };
        for value in &nasty {
            let mut json = original.clone();
            at(&mut json, &|place| *place = value.clone());
            mutants.push((format!("{pointer} = {value}"), json));
        }
        let (parent, name) = pointer
            .rsplit_once('/')
            .expect("pointers start with a slash");
        let mut json = original.clone();
        if let Some(Value::Object(object)) = json.pointer_mut(parent) {
            let value = object.shift_remove(name).expect("walked");
            mutants.push((format!("{pointer} left out"), json.clone()));
            for other in ["9", "31", "32", "00", "x", "-1"] {
                let mut json = json.clone();
                if let Some(Value::Object(object)) = json.pointer_mut(parent) {
                    object.insert(other.into(), value.clone());
                    mutants.push((format!("{pointer} renamed to {other}"), json));
                }
            }
        }
        let mut json = original.clone();
        at(&mut json, &|place| {
            if let Value::Object(object) = place {
                object.insert("unheard-of".into(), json!({"of": 1}));
            }
        });
        if json != *original {
            mutants.push((format!("{pointer} with an unknown member"), json));
        }
    }
    mutants
}

fn walk(value: &Value, at: String, found: &mut Vec<String>) {
    if !at.is_empty() {
        found.push(at.clone());
    }
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                walk(value, format!("{at}/{name}"), found);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                walk(value, format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Both copies with this text in the place of their JSON, checksums right.
fn write_json(file: &Path, copies: &[Vec<u8>; 2], text: &[u8]) {
    let file = File::options()
        .write(true)
        .open(file)
        .expect("the header file");
    for copy in copies {
        let mut bytes = copy.clone();
        let area = &mut bytes[BINARY_BYTES..];
        area.fill(0);
        area[..text.len()].copy_from_slice(text);
        write_checksum(&mut bytes, ChecksumAlgorithm::Sha256);
        let at = if copy[0] == b'L' {
            0
        } else {
            copy.len() as u64
        };
        file.write_all_at(&bytes, at).expect("written");
    }
}
