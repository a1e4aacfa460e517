//! Every pair of hash, KDF, key size, sector size and placement, in both directions.

use luksmith_crypto::{Argon2Variant, Hash, Kdf};
use luksmith_keyslot::{
    FormatRequest, KdfChoice, NewSlot, Placement, SectorSizeChoice, UnlockErrorKind, add,
};
use luksmith_tests::cryptsetup::dump_json;
use luksmith_tests::image::{Image, cheap_slot, passphrase};

use crate::{their_key, they_add, they_format, they_open};

const MIB: u64 = 1024 * 1024;
const SECRET: &[u8] = b"correct horse battery staple";
const OTHER: &[u8] = b"second \xff\0 secret\n";

/// One value of each dimension, as an index.
type Case = [usize; 5];
const HASHES: [&str; 3] = ["sha256", "sha512", "sha1"];
const KDFS: [&str; 3] = ["pbkdf2", "argon2i", "argon2id"];
const KEY_BITS: [u32; 2] = [512, 256];
const SECTORS: [u32; 4] = [512, 1024, 2048, 4096];
const PLACES: [&str; 4] = ["attached", "detached", "offset", "detached with offset"];

fn dimensions(hashes: usize) -> Case {
    [
        hashes,
        KDFS.len(),
        KEY_BITS.len(),
        SECTORS.len(),
        PLACES.len(),
    ]
}

#[test]
fn the_cases_hold_every_pair_of_values() {
    for hashes in [2, 3] {
        let sizes = dimensions(hashes);
        let cases = pairwise(sizes);
        assert!((16..=24).contains(&cases.len()), "{}", cases.len());
        for a in 0..5 {
            for b in a + 1..5 {
                for (x, y) in (0..sizes[a]).flat_map(|x| (0..sizes[b]).map(move |y| (x, y))) {
                    assert!(cases.iter().any(|case| case[a] == x && case[b] == y));
                }
            }
        }
    }
}

#[test]
fn we_open_what_cryptsetup_formats() {
    for case in pairwise(dimensions(HASHES.len())) {
        let what = describe(case);
        let [hash, kdf, key, sector, place] = case;
        let image = blank(place);
        let (bits, sector) = (KEY_BITS[key].to_string(), SECTORS[sector].to_string());
        let mut args = vec![
            "--hash",
            HASHES[hash],
            "--key-size",
            &bits,
            "--sector-size",
            &sector,
        ];
        args.extend(["--pbkdf", KDFS[kdf], "--pbkdf-force-iterations"]);
        if KDFS[kdf] == "pbkdf2" {
            args.push("1000");
        } else {
            args.extend(["4", "--pbkdf-memory", "64", "--pbkdf-parallel", "2"]);
        }
        if let Some(sectors) = offset_sectors(place) {
            args.extend(["--offset", if sectors == 8192 { "8192" } else { "16384" }]);
        }
        they_format(&image, &args, SECRET);

        let opened = image
            .open(SECRET)
            .unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(
            opened.key.expose(),
            their_key(&image, SECRET, &[]),
            "{what}"
        );
        let wrong = image.open(b"wrong").err().expect(&what);
        assert_eq!(wrong.kind, UnlockErrorKind::WrongSecret, "{what}");

        // And back: our slot beside theirs opens for cryptsetup.
        let other = passphrase(OTHER);
        image.change(|header| add(header, &opened.key, &cheap_slot(&other)).map(|new| new.change));
        assert_eq!(they_open(&image, OTHER, &["--key-slot", "1"]), 0, "{what}");
        assert_eq!(they_open(&image, SECRET, &["--key-slot", "0"]), 0, "{what}");
        assert_eq!(their_key(&image, OTHER, &[]), opened.key.expose(), "{what}");
    }
}

#[test]
fn cryptsetup_opens_what_we_format() {
    // SHA-1 is read and never written.
    for case in pairwise(dimensions(2)) {
        let what = describe(case);
        let [hash, kdf, key, sector, place] = case;
        let image = blank(place);
        let secret = passphrase(SECRET);
        let hash = Hash::from_name(HASHES[hash]).expect("one of ours");
        let argon2 = |variant| Kdf::Argon2 {
            variant,
            time: 4,
            memory_kib: 64,
            lanes: 2,
        };
        let kdf = match KDFS[kdf] {
            "pbkdf2" => Kdf::Pbkdf2 {
                hash,
                iterations: 1000,
            },
            "argon2i" => argon2(Argon2Variant::I),
            _ => argon2(Argon2Variant::Id),
        };
        let volume_key = image.format(FormatRequest {
            hash,
            key_bits: KEY_BITS[key],
            sector_size: SectorSizeChoice::Bytes(SECTORS[sector]),
            offset_sectors: offset_sectors(place),
            placement: if place.is_multiple_of(2) {
                Placement::Attached
            } else {
                Placement::Detached
            },
            slot: NewSlot {
                kdf: KdfChoice::Exact(kdf),
                ..NewSlot::new(&secret)
            },
            ..FormatRequest::new(&secret, image.facts())
        });

        assert_eq!(they_open(&image, SECRET, &[]), 0, "{what}");
        assert_eq!(they_open(&image, b"wrong", &[]), 2, "{what}");
        assert_eq!(
            their_key(&image, SECRET, &[]),
            volume_key.expose(),
            "{what}"
        );
        // They read in it what we read in it.
        let header = image.header();
        assert_eq!(
            &dump_json(&image.header_file()),
            header.metadata().as_value(),
            "{what}"
        );
        let (_, segment) = header.metadata().default_segment();
        assert_eq!(
            segment.crypt().expect("encrypted").sector_size,
            SECTORS[sector],
            "{what}"
        );

        // And back: their slot beside ours opens for us.
        they_add(&image, SECRET, OTHER, &[]).expect(0, &what);
        let opened = image
            .open(OTHER)
            .unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(opened.slot, Some(1), "{what}");
        assert_eq!(opened.key.expose(), volume_key.expose(), "{what}");
    }
}

/// One volume at the costs that people get: argon2id, measured.
#[test]
fn a_measured_argon2id_slot_opens_for_cryptsetup() {
    let image = Image::blank(24 * MIB);
    let secret = passphrase(SECRET);
    let aim = luksmith_keyslot::Calibration {
        target: std::time::Duration::from_millis(300),
        max_memory_kib: 256 * 1024,
        ..luksmith_keyslot::Calibration::default()
    };
    image.format(FormatRequest {
        slot: NewSlot {
            kdf: KdfChoice::Calibrate(aim),
            ..NewSlot::new(&secret)
        },
        ..FormatRequest::new(&secret, image.facts())
    });
    let header = image.header();
    let slot = header
        .metadata()
        .keyslot(0)
        .and_then(|slot| slot.luks2())
        .expect("slot 0");
    match &slot.kdf {
        luksmith_luks2::KdfParams::Argon2 {
            id: true,
            time,
            memory_kib,
            ..
        } => {
            assert!(
                *time >= 4 && *memory_kib >= 1024,
                "{time} passes, {memory_kib} KiB"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(header.metadata().digests()[&0].iterations > 1000);
    assert_eq!(they_open(&image, SECRET, &[]), 0);
    assert_eq!(they_open(&image, b"wrong", &[]), 2);
}

fn blank(place: usize) -> Image {
    if place.is_multiple_of(2) {
        Image::blank(32 * MIB)
    } else {
        Image::blank_detached(32 * MIB)
    }
}

/// 4 MiB before attached data, 8 MiB before those of a detached header.
fn offset_sectors(place: usize) -> Option<u64> {
    match PLACES[place] {
        "offset" => Some(8192),
        "detached with offset" => Some(16384),
        _ => None,
    }
}

fn describe([hash, kdf, key, sector, place]: Case) -> String {
    format!(
        "{} {} {} bits, sectors of {}, {}",
        HASHES[hash], KDFS[kdf], KEY_BITS[key], SECTORS[sector], PLACES[place]
    )
}

/// A small list of cases in which every two values of different dimensions meet: greedy, each
/// time the case that brings the most new pairs.
fn pairwise(sizes: Case) -> Vec<Case> {
    let all: Vec<Case> = (0..sizes.iter().product())
        .map(|mut number: usize| {
            sizes.map(|size| {
                let value = number % size;
                number /= size;
                value
            })
        })
        .collect();
    let pairs = |case: &Case| {
        let case = *case;
        (0..5).flat_map(move |a| (a + 1..5).map(move |b| (a, case[a], b, case[b])))
    };
    let mut met = std::collections::HashSet::new();
    let mut chosen = Vec::new();
    loop {
        let news = |case: &Case| pairs(case).filter(|pair| !met.contains(pair)).count();
        let best = all
            .iter()
            .max_by_key(|case| news(case))
            .expect("there are cases");
        if news(best) == 0 {
            return chosen;
        }
        chosen.push(*best);
        met.extend(pairs(best));
    }
}
