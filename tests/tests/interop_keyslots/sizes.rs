//! Sizes and places: all nine header sizes, and the same layout from the same options.

use luksmith_keyslot::{
    FormatRequest, KeySource, Placement, PlanError, SectorSizeChoice, add, plan_format,
};
use luksmith_luks2::HeaderSize;
use luksmith_tests::cryptsetup::{CHEAP, cryptsetup, dump_json};
use luksmith_tests::image::{Image, cheap_slot, passphrase, secret};
use serde_json::Value;

use crate::{their_key, they_add, they_format, they_open};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

#[test]
fn all_nine_metadata_sizes_work_in_both_directions() {
    assert_eq!(HeaderSize::ALL.len(), 9);
    for size in HeaderSize::ALL {
        let bytes = size.bytes();
        let theirs = Image::blank(24 * MIB);
        they_format(
            &theirs,
            &["--luks2-metadata-size", &format!("{}k", bytes / KIB)],
            b"one",
        );
        assert_eq!(theirs.header().size(), size);
        let key = theirs.open(b"one").unwrap().key;
        let two = passphrase(b"two");
        theirs.change(|header| add(header, &key, &cheap_slot(&two)).map(|added| added.change));
        assert_eq!(they_open(&theirs, b"two", &[]), 0, "{bytes}");

        let ours = Image::blank(24 * MIB);
        let one = passphrase(b"one");
        let key = ours.format(FormatRequest {
            metadata_bytes: Some(bytes),
            slot: cheap_slot(&one),
            ..FormatRequest::new(&one, ours.facts())
        });
        assert_eq!(their_key(&ours, b"one", &[]), key.expose(), "{bytes}");
        they_add(&ours, b"one", b"two", &[]).expect(0, "luksAddKey");
        assert_eq!(ours.open(b"two").unwrap().slot, Some(1), "{bytes}");
    }
}

/// What a person says about sizes, as cryptsetup's options.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    metadata_kib: Option<u64>,
    keyslots_kib: Option<u64>,
    offset: Option<u64>,
    align: Option<u64>,
    detached: bool,
    key_bits: Option<u32>,
    sector: Option<u32>,
    slot: Option<u8>,
    keyslot_bits: Option<u32>,
}

#[test]
fn the_same_options_give_the_same_layout_as_cryptsetup() {
    let said = Said::default();
    for said in [
        Said {
            metadata_kib: Some(16),
            ..said
        },
        Said {
            metadata_kib: Some(128),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            key_bits: Some(256),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            keyslots_kib: Some(256),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            keyslots_kib: Some(1024),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            keyslots_kib: Some(1024),
            offset: Some(4096),
            ..said
        },
        Said {
            metadata_kib: Some(1024),
            keyslots_kib: Some(2048),
            ..said
        },
        Said {
            metadata_kib: Some(4096),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            keyslots_kib: Some(32768),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            offset: Some(4096),
            ..said
        },
        Said {
            metadata_kib: Some(64),
            offset: Some(4096),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            offset: Some(40960),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            align: Some(8),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            align: Some(3),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            align: Some(4096),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            keyslots_kib: Some(1024),
            align: Some(64),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            sector: Some(512),
            slot: Some(31),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            key_bits: Some(256),
            keyslot_bits: Some(512),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            detached: true,
            ..said
        },
        Said {
            metadata_kib: Some(16),
            detached: true,
            align: Some(0),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            detached: true,
            keyslots_kib: Some(512),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            detached: true,
            offset: Some(2048),
            sector: Some(512),
            ..said
        },
        Said {
            metadata_kib: Some(16),
            detached: true,
            offset: Some(4096),
            ..said
        },
    ] {
        let (theirs, ours) = (make(&said), make(&said));
        format_by_cryptsetup(&theirs, &said).expect(0, &format!("{said:?}"));
        format_by_us(&ours, &said).unwrap_or_else(|error| panic!("{said:?}: {error}"));
        let (json, our_json) = (
            dump_json(&theirs.header_file()),
            dump_json(&ours.header_file()),
        );
        for pointer in ["/config", "/segments", "/keyslots"] {
            let clean = |json: &Value| without_salts(json.pointer(pointer).expect("is there"));
            assert_eq!(clean(&our_json), clean(&json), "{said:?} {pointer}");
        }
        if !said.detached {
            continue;
        }
        let len = |image: &Image| std::fs::metadata(image.header_file()).unwrap().len();
        assert_eq!(
            len(&ours),
            len(&theirs),
            "{said:?}: length of the header file"
        );
    }
}

#[test]
fn what_cryptsetup_refuses_about_sizes_we_refuse_too() {
    let said = Said::default();
    for said in [
        Said {
            offset: Some(16),
            ..said
        },
        Said {
            offset: Some(100),
            ..said
        },
        Said {
            offset: Some(64),
            ..said
        },
        Said {
            offset: Some(520),
            ..said
        },
        Said {
            metadata_kib: Some(17),
            ..said
        },
        Said {
            metadata_kib: Some(8192),
            ..said
        },
        Said {
            keyslots_kib: Some(200),
            ..said
        },
        Said {
            keyslots_kib: Some(129 * 1024),
            ..said
        },
        Said {
            key_bits: Some(384),
            ..said
        },
        Said {
            key_bits: Some(511),
            ..said
        },
        Said {
            sector: Some(256),
            ..said
        },
        Said {
            sector: Some(8192),
            ..said
        },
        Said {
            offset: Some(4096),
            align: Some(8),
            ..said
        },
        Said {
            detached: true,
            offset: Some(8),
            ..said
        },
        Said {
            slot: Some(32),
            ..said
        },
    ] {
        let image = make(&said);
        assert!(format_by_us(&image, &said).is_err(), "{said:?}");
        assert!(
            !image.header_file().exists() || is_blank(&image),
            "{said:?}: nothing is written"
        );
        let theirs = make(&said);
        assert_ne!(format_by_cryptsetup(&theirs, &said).code, 0, "{said:?}");
    }
}

/// Where we choose otherwise than cryptsetup, it still opens the result.
#[test]
fn our_own_defaults_open_for_cryptsetup() {
    let image = Image::blank(24 * MIB);
    let one = passphrase(b"one");
    let key = image.format(FormatRequest {
        slot: cheap_slot(&one),
        label: "a label".into(),
        subsystem: "a subsystem".into(),
        uuid: Some("6E1C5A7C-0000-4000-8000-000000000001".into()),
        ..FormatRequest::new(&one, image.facts())
    });
    let header = image.header();
    assert_eq!(header.size().bytes(), 64 * KIB, "room for tokens");
    assert_eq!(
        header.metadata().default_segment().1.offset,
        16 * MIB,
        "data where cryptsetup has them"
    );
    assert_eq!(their_key(&image, b"one", &[]), key.expose());
    let text =
        cryptsetup(&["luksDump".into(), image.data().into_os_string()], b"").expect(0, "dump");
    let text = String::from_utf8(text.out).unwrap();
    for line in [
        "Label:         \ta label",
        "Subsystem:     \ta subsystem",
        "6e1c5a7c-0000-4000-8000-000000000001",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[test]
fn a_volume_key_from_a_file_is_the_key_of_the_volume() {
    let bytes: Vec<u8> = (0..64).collect();
    let image = Image::blank(24 * MIB);
    let one = passphrase(b"one");
    image.format(FormatRequest {
        key: KeySource::Given(secret(&bytes)),
        slot: cheap_slot(&one),
        ..FormatRequest::new(&one, image.facts())
    });
    assert_eq!(their_key(&image, b"one", &[]), bytes);

    for (given, what) in [(vec![7; 64], "equal halves"), (vec![1; 63], "too short")] {
        let request = FormatRequest {
            key: KeySource::Given(secret(&given)),
            slot: cheap_slot(&one),
            ..FormatRequest::new(&one, image.facts())
        };
        assert!(plan_format(request).is_err(), "{what}");
    }
}

fn make(said: &Said) -> Image {
    if said.detached {
        Image::blank_detached(64 * MIB)
    } else {
        Image::blank(64 * MIB)
    }
}

fn format_by_us(image: &Image, said: &Said) -> Result<(), PlanError> {
    let one = passphrase(b"one");
    let mut request = FormatRequest {
        slot: cheap_slot(&one),
        metadata_bytes: said.metadata_kib.map(|kib| kib * KIB),
        keyslots_bytes: said.keyslots_kib.map(|kib| kib * KIB),
        offset_sectors: said.offset,
        align_payload_sectors: said.align,
        placement: if said.detached {
            Placement::Detached
        } else {
            Placement::Attached
        },
        ..FormatRequest::new(&one, image.facts())
    };
    request.slot.slot = said.slot;
    request.slot.area_cipher = said
        .keyslot_bits
        .map(|bits| ("aes-xts-plain64".into(), bits));
    if let Some(bits) = said.key_bits {
        request.key_bits = bits;
    }
    if let Some(sector) = said.sector {
        request.sector_size = SectorSizeChoice::Bytes(sector);
    }
    // Once without writing, so that a refusal is seen as one.
    plan_format(request).map(|plan| {
        use luksmith_volume::{Access, FileDevice, HeaderStore, Wait};
        let device = if said.detached {
            FileDevice::create_new(image.header_file(), plan.header_bytes)
        } else {
            FileDevice::open(image.header_file(), Access::Exclusive)
        };
        HeaderStore::format(device.unwrap(), plan.change, Wait::default()).unwrap();
    })
}

fn format_by_cryptsetup(image: &Image, said: &Said) -> luksmith_tests::cryptsetup::Ended {
    let mut args: Vec<String> = ["luksFormat", "--type", "luks2", "--key-file", "-"]
        .map(String::from)
        .into();
    args.extend(CHEAP.map(String::from));
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            args.extend([format!("--{name}"), value]);
        }
    };
    option(
        "luks2-metadata-size",
        said.metadata_kib.map(|kib| format!("{kib}k")),
    );
    option(
        "luks2-keyslots-size",
        said.keyslots_kib.map(|kib| format!("{kib}k")),
    );
    option("offset", said.offset.map(|n| n.to_string()));
    option("align-payload", said.align.map(|n| n.to_string()));
    option("key-size", said.key_bits.map(|n| n.to_string()));
    option("sector-size", said.sector.map(|n| n.to_string()));
    option("key-slot", said.slot.map(|n| n.to_string()));
    option("keyslot-key-size", said.keyslot_bits.map(|n| n.to_string()));
    option(
        "keyslot-cipher",
        said.keyslot_bits.map(|_| "aes-xts-plain64".into()),
    );
    let header = image.header_file().to_str().unwrap().to_owned();
    option("header", said.detached.then_some(header));
    args.push(image.data().to_str().unwrap().to_owned());
    cryptsetup(&args, b"one")
}

/// What two volumes made alike must have in common: all but salts.
fn without_salts(json: &Value) -> Value {
    let mut json = json.clone();
    if let Some(slots) = json.as_object_mut() {
        for slot in slots.values_mut() {
            if let Some(salt) = slot.pointer_mut("/kdf/salt") {
                *salt = Value::Null;
            }
        }
    }
    json
}

fn is_blank(image: &Image) -> bool {
    std::fs::read(image.header_file()).unwrap()[..16384]
        .iter()
        .all(|byte| *byte == 0)
}
