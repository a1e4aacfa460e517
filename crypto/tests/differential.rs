//! The sector cipher against OpenSSL and `xts-mode`, two implementations that share nothing
//! with ours but, in one case, the AES rounds.

mod common;

use aes::{Aes128, Aes256, cipher::KeyInit};
use common::{secret, volume_key};
use luksmith_crypto::{
    AllowNull, Arena, CipherSpec, IvSector, Part, SectorCipher, SectorSize, decrypt_parts,
    encrypt_parts,
};
use openssl::symm::{Cipher, Crypter, Mode};
use proptest::prelude::*;
use xts_mode::{Xts128, get_tweak_default};

/// A cipher under a key with these bytes.
fn cipher(key: &[u8], sector: u32) -> SectorCipher {
    let sector = SectorSize::new(sector).expect("a sector size");
    SectorCipher::new(CipherSpec::AesXtsPlain64, &volume_key(key), sector).expect("a cipher")
}

/// Tweak numbers at which a counter of too few bits goes wrong.
const TWEAKS: [u64; 6] = [0, (1 << 32) - 1, 1 << 32, 1 << 55, u64::MAX - 3, u64::MAX];
const SECTORS: [usize; 4] = [512, 1024, 2048, 4096];

fn openssl(mode: Mode, key: &[u8], sector: usize, iv: u64, data: &[u8]) -> Vec<u8> {
    let kind = if key.len() == 32 {
        Cipher::aes_128_xts()
    } else {
        Cipher::aes_256_xts()
    };
    let mut out = Vec::new();
    for (number, sector_data) in (0u64..).zip(data.chunks(sector)) {
        let tweak = iv.wrapping_add(number * (sector as u64 / 512));
        let tweak = u128::from(tweak).to_le_bytes();
        let mut crypter = Crypter::new(kind, mode, key, Some(&tweak)).expect("a crypter");
        let mut sector_out = vec![0; sector + 16];
        let len = crypter
            .update(sector_data, &mut sector_out)
            .expect("OpenSSL encrypts");
        out.extend_from_slice(&sector_out[..len]);
    }
    out
}

fn xts_mode(encrypt: bool, key: &[u8], sector: usize, iv: u64, data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    let (first, second) = key.split_at(key.len() / 2);
    for (number, sector_data) in (0u64..).zip(out.chunks_mut(sector)) {
        let tweak = iv.wrapping_add(number * (sector as u64 / 512));
        let tweak = get_tweak_default(u128::from(tweak));
        let fits = "half a key";
        if key.len() == 32 {
            let xts = Xts128::new(
                Aes128::new_from_slice(first).expect(fits),
                Aes128::new_from_slice(second).expect(fits),
            );
            if encrypt {
                xts.encrypt_sector(sector_data, tweak);
            } else {
                xts.decrypt_sector(sector_data, tweak);
            }
        } else {
            let xts = Xts128::new(
                Aes256::new_from_slice(first).expect(fits),
                Aes256::new_from_slice(second).expect(fits),
            );
            if encrypt {
                xts.encrypt_sector(sector_data, tweak);
            } else {
                xts.decrypt_sector(sector_data, tweak);
            }
        }
    }
    out
}

/// Bytes that differ everywhere and come from nothing but `seed`.
fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(seed ^ (seed >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Our cipher both ways, in place and not, against the two others.
fn all_agree(key: &[u8], sector: usize, iv: u64, plain: &[u8]) {
    let ours = cipher(key, u32::try_from(sector).expect("a sector size"));
    let mut encrypted = vec![0; plain.len()];
    ours.encrypt_bytes(IvSector(iv), &mut encrypted, plain);
    let where_ = format!(
        "{} bits, {sector} B, {} B, iv {iv}",
        key.len() * 4,
        plain.len()
    );
    assert!(
        encrypted == openssl(Mode::Encrypt, key, sector, iv, plain),
        "OpenSSL: {where_}"
    );
    assert!(
        encrypted == xts_mode(true, key, sector, iv, plain),
        "xts-mode: {where_}"
    );

    let mut decrypted = secret(&vec![0; plain.len()]);
    ours.decrypt_bytes(IvSector(iv), &mut decrypted, &encrypted);
    assert!(decrypted.expose() == plain, "back: {where_}");
    // Decryption of what nobody encrypted: the other direction is an independent claim.
    ours.decrypt_bytes(IvSector(iv), &mut decrypted, plain);
    assert!(
        decrypted.expose() == openssl(Mode::Decrypt, key, sector, iv, plain),
        "OpenSSL decrypts: {where_}"
    );
    assert!(
        decrypted.expose() == xts_mode(false, key, sector, iv, plain),
        "xts-mode decrypts: {where_}"
    );
}

#[test]
fn every_number_of_sectors_up_to_130_agrees_for_each_size_and_key_length() {
    for key_len in [32, 64] {
        let key = noise(key_len, 99);
        for sector in SECTORS {
            for count in 1..=130 {
                // All counts at the smallest size, the ends of batches and groups at others.
                let at_an_edge = count <= 4 || (62..=67).contains(&count) || count >= 127;
                if sector == 512 || at_an_edge {
                    let iv = TWEAKS[count % TWEAKS.len()];
                    all_agree(&key, sector, iv, &noise(sector * count, count as u64));
                }
            }
        }
    }
}

#[test]
fn every_tweak_edge_agrees_for_each_size_and_key_length() {
    for key_len in [32, 64] {
        let key = noise(key_len, 5);
        for sector in SECTORS {
            for iv in TWEAKS {
                all_agree(&key, sector, iv, &noise(sector * 9, iv));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_requests_agree(
        key in proptest::collection::vec(any::<u8>(), 64),
        short in any::<bool>(),
        size in 0usize..4,
        count in 1usize..40,
        iv in any::<u64>(),
        seed in any::<u64>(),
    ) {
        let key = if short { &key[..32] } else { &key[..] };
        prop_assume!(key[..key.len() / 2] != key[key.len() / 2..]);
        all_agree(key, SECTORS[size], iv, &noise(SECTORS[size] * count, seed));
    }
}

#[test]
fn iv_counts_512_byte_units_whatever_the_sector_size() {
    let key: Vec<u8> = (0..64).collect();
    let zeroes = [0; 4096];
    let mut out = [0; 4096];
    cipher(&key, 512).encrypt_bytes(IvSector(0), &mut out[..1024], &zeroes[..1024]);
    assert_eq!(hex::encode(&out[..16]), "cd6b103236fbd87dba93e9001e29bc3d");
    assert_eq!(
        hex::encode(&out[512..528]),
        "0c22ed7e2168a8500b30154c2ec00d26"
    );
    cipher(&key, 4096).encrypt_bytes(IvSector(8), &mut out, &zeroes);
    assert_eq!(hex::encode(&out[..16]), "32557c9efcea00dfdf521bbc053d1a7b");
    assert_eq!(
        hex::encode(&out[4080..]),
        "71a7067d8ea1ed093bd92eaedb652033"
    );
    // The second sector of a request follows by eight units.
    let mut two = [0; 8192];
    cipher(&key, 4096).encrypt_bytes(IvSector(0), &mut two, &[0; 8192]);
    assert_eq!(two[4096..], out);
}

#[test]
fn an_empty_request_is_nothing_to_do() {
    cipher(&noise(64, 1), 4096).encrypt_bytes(IvSector(3), &mut [], &[]);
}

#[test]
#[should_panic(expected = "whole sectors")]
fn part_of_a_sector_is_a_mistake_of_the_caller() {
    cipher(&noise(64, 1), 1024).encrypt_bytes(IvSector(0), &mut [0; 512], &[0; 512]);
}

#[test]
fn buffers_are_encrypted_in_place_and_come_back() {
    let ours = cipher(&noise(64, 1), 4096);
    let arena = Arena::new(1, 65536).expect("locked memory");
    let plain = noise(65536, 7);
    let blank = arena.take().expect("a free slot");
    let Ok(buf) = blank.fill_plain(65536, |bytes| {
        bytes.copy_from_slice(&plain);
        Ok::<(), ()>(())
    }) else {
        panic!("the filling succeeds")
    };
    let at = buf.as_plain().as_ptr();
    let buf = ours.encrypt(IvSector(40), buf);
    assert_eq!(buf.as_cipher().as_ptr(), at, "nothing was copied");
    let key = noise(64, 1);
    assert!(buf.as_cipher() == openssl(Mode::Encrypt, &key, 4096, 40, &plain));
    let buf = ours.decrypt(IvSector(40), buf);
    assert!(buf.as_plain() == plain);
}

#[test]
fn a_request_over_two_segments_uses_each_cipher_for_its_part() {
    let (first, second) = (cipher(&noise(64, 1), 512), cipher(&noise(32, 2), 512));
    let arena = Arena::new(1, 4096).expect("locked memory");
    let plain = noise(4096, 3);
    let parts = [
        Part {
            len: 1024,
            cipher: Some(&first),
            iv: IvSector(100),
        },
        Part {
            len: 512,
            cipher: None,
            iv: IvSector(0),
        },
        Part {
            len: 2560,
            cipher: Some(&second),
            iv: IvSector(5),
        },
    ];
    let Ok(buf) = arena
        .take()
        .expect("a free slot")
        .fill_plain(4096, |bytes| {
            bytes.copy_from_slice(&plain);
            Ok::<(), ()>(())
        })
    else {
        panic!("the filling succeeds")
    };
    let buf = encrypt_parts(buf, &parts);
    let mut expected = openssl(Mode::Encrypt, &noise(64, 1), 512, 100, &plain[..1024]);
    expected.extend_from_slice(&plain[1024..1536]);
    expected.extend(openssl(
        Mode::Encrypt,
        &noise(32, 2),
        512,
        5,
        &plain[1536..],
    ));
    assert!(buf.as_cipher() == expected);
    assert!(decrypt_parts(buf, &parts).as_plain() == plain);
}

#[test]
fn ciphers_are_known_by_name_and_null_only_when_it_is_allowed() {
    use AllowNull::{No, Yes};
    let xts = CipherSpec::parse("aes-xts-plain64", No).expect("the cipher of LUKS2");
    assert_eq!(xts.name(), "aes-xts-plain64");
    for name in [
        "cipher_null-ecb",
        "null",
        "aes-ecb",
        "aes-cbc-essiv:sha256",
        "aes-xts-plain",
        "aes-xts-plain64be",
        "serpent-xts-plain64",
        "capi:xts(aes)-plain64",
        "AES-XTS-PLAIN64",
        "",
    ] {
        let refusal = CipherSpec::parse(name, No)
            .expect_err("refused")
            .to_string();
        assert!(
            refusal.contains("unsupported") && refusal.contains(name),
            "{refusal}"
        );
    }
    assert_eq!(
        CipherSpec::parse("cipher_null-ecb", Yes).expect("allowed"),
        CipherSpec::Null
    );
    assert!(
        CipherSpec::parse("aes-ecb", Yes).is_err(),
        "ECB stays refused"
    );
}

#[test]
fn the_null_cipher_copies() {
    let ours = SectorCipher::for_area(CipherSpec::Null, &secret(&[1; 32])).expect("a cipher");
    let mut out = [0; 512];
    ours.encrypt_bytes(IvSector(0), &mut out, &noise(512, 4));
    assert_eq!(out[..], noise(512, 4));
}

#[test]
fn keys_with_equal_halves_and_odd_lengths_make_no_cipher() {
    let weak = SectorCipher::for_area(CipherSpec::AesXtsPlain64, &secret(&[7; 64])).err();
    assert!(
        matches!(weak, Some(luksmith_crypto::CryptoError::WeakKey)),
        "{weak:?}"
    );
    for len in [0, 16, 31, 48, 63, 65, 128] {
        let key = secret(&noise(len, 1));
        assert!(
            SectorCipher::for_area(CipherSpec::AesXtsPlain64, &key).is_err(),
            "{len}"
        );
    }
    for bytes in [0, 1, 256, 513, 8192, u32::MAX] {
        assert!(SectorSize::new(bytes).is_err(), "{bytes}");
    }
}
