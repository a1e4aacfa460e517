//! Key files: any bytes, a part of a file, a newline at the end.

use luksmith_keyslot::{FormatRequest, UnlockErrorKind};
use luksmith_tests::image::{Image, cheap_slot, passphrase};

use crate::{theirs, they_format, they_open};

const MIB: u64 = 1024 * 1024;

#[test]
fn the_bytes_of_a_key_file_are_the_passphrase_whatever_they_are() {
    let long: Vec<u8> = (0..100_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    for secret in [
        &b"text\n"[..],
        b"\n",
        b"\0\0\0",
        b"a\0b\nc\xff\xfe",
        &long,
        b"x",
    ] {
        let theirs = Image::blank(24 * MIB);
        they_format(&theirs, &[], secret);
        theirs.open(secret).unwrap();
        let mut other = secret.to_vec();
        other.push(b'\n');
        assert_eq!(
            theirs.open(&other).err().unwrap().kind,
            UnlockErrorKind::WrongSecret
        );

        let ours = Image::blank(24 * MIB);
        let given = passphrase(secret);
        ours.format(FormatRequest {
            slot: cheap_slot(&given),
            ..FormatRequest::new(&given, ours.facts())
        });
        assert_eq!(they_open(&ours, secret, &[]), 0);
        assert_eq!(they_open(&ours, &other, &[]), 2);
    }
}

#[test]
fn a_part_of_a_key_file_is_a_passphrase() {
    let image = Image::blank(24 * MIB);
    let file = image.file("key", b"skip me|the secret|and the rest\n");
    let path = file.to_str().unwrap();
    let args = ["--keyfile-offset", "8", "--keyfile-size", "10"];
    let mut all = vec!["--type", "luks2", "--key-file", path];
    all.extend(args);
    all.extend(luksmith_tests::cryptsetup::CHEAP);
    theirs("luksFormat", &image.data(), &all, b"").expect(0, "luksFormat");
    image.open(b"the secret").unwrap();
    assert!(image.open(b"skip me|the secret|and the rest\n").is_err());
}

/// A passphrase that is typed or piped ends at the newline; the same bytes as a key file do not.
#[test]
fn a_piped_passphrase_ends_at_the_newline() {
    let image = Image::blank(24 * MIB);
    let mut args = vec!["--type", "luks2"];
    args.extend(luksmith_tests::cryptsetup::CHEAP);
    theirs("luksFormat", &image.data(), &args, b"typed\nmore").expect(0, "luksFormat");
    image.open(b"typed").unwrap();
    assert!(image.open(b"typed\nmore").is_err());
}
