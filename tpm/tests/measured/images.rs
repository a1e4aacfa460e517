//! The digest of an EFI image.

use luksmith_tpm::HashAlg;
use luksmith_tpm::log::{LogError, authenticode_digest, measure};

const BANK: HashAlg = HashAlg::Sha256;
const PE: usize = 0x40;
const OPTIONAL: usize = PE + 24;
const CHECKSUM: usize = OPTIONAL + 64;
const ENTRY: usize = OPTIONAL + 112 + 32;
const SECTIONS: usize = OPTIONAL + 240;

fn put(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// An image with two sections, the second one first in the file; 512 bytes of headers.
fn image() -> Vec<u8> {
    let mut image: Vec<u8> = (0..1024_u32).map(|at| (at % 251) as u8).collect();
    image[..0x40].fill(0);
    image[..2].copy_from_slice(b"MZ");
    put(&mut image, 0x3C, 0x40);
    image[PE..PE + 4].copy_from_slice(b"PE\0\0");
    image[PE + 6..PE + 8].copy_from_slice(&2_u16.to_le_bytes());
    image[PE + 20..PE + 22].copy_from_slice(&240_u16.to_le_bytes());
    image[OPTIONAL..OPTIONAL + 2].copy_from_slice(&0x020B_u16.to_le_bytes());
    put(&mut image, OPTIONAL + 60, 512);
    put(&mut image, OPTIONAL + 108, 16);
    put(&mut image, ENTRY, 0);
    put(&mut image, ENTRY + 4, 0);
    for (at, begin, len) in [(0, 768, 256), (1, 512, 256)] {
        put(&mut image, SECTIONS + 40 * at + 16, len);
        put(&mut image, SECTIONS + 40 * at + 20, begin);
    }
    image
}

/// The same with certificates at its end.
fn signed(len: usize) -> Vec<u8> {
    let mut image = image();
    put(&mut image, ENTRY, 1024);
    put(&mut image, ENTRY + 4, u32::try_from(len).unwrap());
    image.extend(vec![0xCE; len]);
    image
}

fn digest(image: &[u8]) -> Result<Vec<u8>, LogError> {
    authenticode_digest(BANK, image)
}

#[test]
fn everything_counts_but_checksum_certificates_and_where_these_are() {
    let image = image();
    let parts = [
        &image[..CHECKSUM],
        &image[CHECKSUM + 4..ENTRY],
        &image[ENTRY + 8..],
    ];
    let expected = measure(BANK, &parts.concat());
    assert_eq!(digest(&image).unwrap(), expected);
    for len in [8, 1472] {
        assert_eq!(digest(&signed(len)).unwrap(), expected);
    }
    for at in 0..image.len() {
        let mut changed = image.clone();
        changed[at] ^= 1;
        let ignored = (CHECKSUM..CHECKSUM + 4).contains(&at) || (ENTRY..ENTRY + 4).contains(&at);
        match digest(&changed) {
            Ok(digest) => assert_eq!(digest == expected, ignored, "byte {at}"),
            Err(error) => assert!(!ignored, "byte {at}: {error}"),
        }
    }
}

#[test]
fn what_follows_the_sections_counts_as_far_as_the_certificates() {
    let mut image = image();
    image.extend([7; 24]);
    let parts = [
        &image[..CHECKSUM],
        &image[CHECKSUM + 4..ENTRY],
        &image[ENTRY + 8..],
    ];
    assert_eq!(digest(&image).unwrap(), measure(BANK, &parts.concat()));
    assert_eq!(
        authenticode_digest(HashAlg::Sha384, &image).unwrap(),
        measure(HashAlg::Sha384, &parts.concat())
    );
}

#[test]
fn an_image_that_could_be_read_in_two_ways_is_refused() {
    let refused = |change: &dyn Fn(&mut Vec<u8>), expected: &'static str| {
        let mut image = signed(64);
        change(&mut image);
        let what = expected;
        assert_eq!(digest(&image), Err(LogError::NotAnImage { what }));
    };
    refused(&|image| image[0] = b'Z', "no MZ at its begin");
    refused(&|image| put(image, 0x3C, 0xFFFF_FFF0), "PE header");
    refused(&|image| image[PE] = b'Q', "no PE header");
    refused(&|image| image[OPTIONAL] = 0x0C, "kind of optional header");
    refused(&|image| put(image, OPTIONAL + 60, 100), "size of headers");
    refused(&|image| put(image, OPTIONAL + 60, 9999), "size of headers");
    refused(
        &|image| put(image, SECTIONS + 20, 700),
        "overlapping sections",
    );
    refused(&|image| put(image, SECTIONS + 16, 9999), "section");
    refused(&|image| put(image, SECTIONS + 16, u32::MAX), "section");
    refused(&|image| put(image, SECTIONS + 16, 300), "certificates");
    let elsewhere = "certificates are not at its end";
    refused(&|image| put(image, ENTRY, 1000), elsewhere);
    refused(&|image| put(image, ENTRY + 4, u32::MAX), elsewhere);
    refused(&|image| image.push(0), elsewhere);
    refused(
        &|image| image[PE + 6..PE + 8].copy_from_slice(&u16::MAX.to_le_bytes()),
        "number of sections",
    );
}

#[test]
fn no_truncated_image_is_one() {
    let image = signed(64);
    for len in 0..image.len() {
        assert!(digest(&image[..len]).is_err(), "{len} bytes");
    }
}
