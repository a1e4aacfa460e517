//! What `plan_format` refuses, and what it decides.

use luksmith_crypto::{AllowNull, CryptoError, Hash};
use luksmith_keyslot::{
    DeviceFacts, FormatRequest, KdfChoice, KeySource, NewSlot, Placement, PlanError,
    SectorSizeChoice, plan_format,
};
use luksmith_luks2::Step;

use crate::disk::{Disk, facts, pass, request, secret, slot};

#[test]
fn the_sector_is_that_of_the_device_where_the_data_are_whole_sectors() {
    let one = pass("one");
    for (physical_block, more, expected) in [
        (512, 0, 512),
        (4096, 0, 4096),
        (4096, 512, 512),
        (2048, 0, 2048),
        (16384, 0, 4096),
        (520, 0, 512),
    ] {
        let devices = DeviceFacts {
            physical_block,
            ..facts((16 << 20) + more)
        };
        let plan = plan_format(FormatRequest {
            devices,
            ..request(&one)
        })
        .unwrap();
        let (_, segment) = plan.header.metadata().default_segment();
        assert_eq!(
            segment.crypt().unwrap().sector_size,
            expected,
            "{physical_block} {more}"
        );
    }
}

#[test]
fn a_sector_that_the_device_or_the_data_cannot_have_is_refused_by_name() {
    let one = pass("one");
    for (bytes, logical_block, more) in [
        (513, 512, 0),
        (8192, 512, 0),
        (0, 512, 0),
        (512, 4096, 0),
        (4096, 512, 512),
    ] {
        let devices = DeviceFacts {
            logical_block,
            ..facts((16 << 20) + more)
        };
        let sector_size = SectorSizeChoice::Bytes(bytes);
        let error = plan_format(FormatRequest {
            devices,
            sector_size,
            ..request(&one)
        })
        .err()
        .unwrap();
        assert!(
            matches!(
                error,
                PlanError::Option {
                    option: "sector-size",
                    ..
                }
            ),
            "{bytes}: {error}"
        );
    }
}

#[test]
fn the_data_begin_at_the_optimal_io_size_where_it_makes_sense() {
    let one = pass("one");
    for (optimal_io, expected) in [
        (0, 16 << 20),
        (512 * 1024, 16 << 20),
        (1 << 20, 16 << 20),
        (3 << 20, 18 << 20),
        (33_553_920, 16 << 20),
    ] {
        let devices = DeviceFacts {
            optimal_io,
            ..facts(64 << 20)
        };
        let request = FormatRequest {
            slot: slot(&one),
            ..FormatRequest::new(&one, devices)
        };
        let plan = plan_format(request).unwrap();
        assert_eq!(
            plan.header.metadata().default_segment().1.offset,
            expected,
            "{optimal_io}"
        );
    }
}

#[test]
fn a_device_without_room_is_refused() {
    let one = pass("one");
    for bytes in [0, 512, 32 * 1024, 16 << 20] {
        let request = FormatRequest {
            slot: slot(&one),
            ..FormatRequest::new(&one, facts(bytes))
        };
        assert!(plan_format(request).is_err(), "{bytes}");
    }
    let request = FormatRequest {
        slot: slot(&one),
        ..FormatRequest::new(&one, facts((16 << 20) + 512))
    };
    let plan = plan_format(request).unwrap();
    let (_, segment) = plan.header.metadata().default_segment();
    assert_eq!(segment.crypt().unwrap().sector_size, 512);
}

#[test]
fn absurd_numbers_are_refused_and_never_a_panic() {
    let one = pass("one");
    for number in [
        1,
        7,
        u64::MAX,
        u64::MAX / 512,
        u64::MAX / 512 + 1,
        1 << 54,
        1 << 55,
    ] {
        let requests: [fn(&mut FormatRequest<'_>, u64); 4] = [
            |request, number| request.offset_sectors = Some(number),
            |request, number| request.metadata_bytes = Some(number),
            |request, number| request.keyslots_bytes = Some(number),
            |request, number| {
                request.placement = Placement::Detached;
                request.align_payload_sectors = Some(number);
                request.offset_sectors = None;
            },
        ];
        for (index, set) in requests.into_iter().enumerate() {
            let mut request = request(&one);
            set(&mut request, number);
            assert!(plan_format(request).is_err(), "{index} {number}");
        }
        for devices in [
            DeviceFacts {
                data_bytes: number,
                header_bytes: None,
                ..facts(0)
            },
            DeviceFacts {
                optimal_io: number,
                ..facts(16 << 20)
            },
        ] {
            // No claim but this: it returns.
            let _ = plan_format(FormatRequest {
                devices,
                ..request(&one)
            });
        }
    }
    for bits in [0, 1, 8, 255, 257, 384, 1024, u32::MAX] {
        let error = plan_format(FormatRequest {
            key_bits: bits,
            ..request(&one)
        })
        .err()
        .unwrap();
        assert!(
            matches!(
                error,
                PlanError::Option {
                    option: "key-size",
                    ..
                }
            ),
            "{bits}: {error}"
        );
    }
}

#[test]
fn texts_that_do_not_fit_are_refused_by_name() {
    let one = pass("one");
    let long = "x".repeat(48);
    for (option, request) in [
        (
            "label",
            FormatRequest {
                label: long.clone(),
                ..request(&one)
            },
        ),
        (
            "label",
            FormatRequest {
                label: "a\0b".into(),
                ..request(&one)
            },
        ),
        (
            "subsystem",
            FormatRequest {
                subsystem: long,
                ..request(&one)
            },
        ),
        (
            "uuid",
            FormatRequest {
                uuid: Some("not one".into()),
                ..request(&one)
            },
        ),
        (
            "uuid",
            FormatRequest {
                uuid: Some(String::new()),
                ..request(&one)
            },
        ),
    ] {
        match plan_format(request) {
            Err(PlanError::Option { option: found, .. }) => assert_eq!(found, option),
            other => panic!("{option}: {other:?}"),
        }
    }
}

#[test]
fn a_null_cipher_needs_the_switch_and_its_key_area_is_encrypted_all_the_same() {
    let one = pass("one");
    let null = |allow_null| FormatRequest {
        cipher: "cipher_null-ecb".into(),
        allow_null,
        ..request(&one)
    };
    assert!(matches!(
        plan_format(null(AllowNull::No)),
        Err(PlanError::WeakCipher(_))
    ));
    let disk = Disk::with(plan_format(null(AllowNull::Yes)).unwrap());
    let slot = disk.metadata().keyslot(0).unwrap().luks2().unwrap();
    assert_eq!(
        (slot.encryption.as_str(), slot.area_key_size),
        ("aes-xts-plain64", 64)
    );
}

#[test]
fn a_given_key_must_have_the_length_and_two_different_halves() {
    let one = pass("one");
    for (bytes, weak) in [
        (vec![5; 64], true),
        ((0..63).collect(), false),
        ((0..65).collect(), false),
    ] {
        let error = plan_format(FormatRequest {
            key: KeySource::Given(secret(&bytes)),
            ..request(&one)
        })
        .err()
        .unwrap();
        if weak {
            assert!(
                matches!(error, PlanError::Crypto(CryptoError::WeakKey)),
                "{error}"
            );
        } else {
            assert!(
                matches!(
                    error,
                    PlanError::Option {
                        option: "volume-key-file",
                        ..
                    }
                ),
                "{error}"
            );
        }
    }
}

#[test]
fn two_volumes_share_nothing() {
    let one = pass("one");
    let (a, b) = (
        plan_format(request(&one)).unwrap(),
        plan_format(request(&one)).unwrap(),
    );
    assert!(!a.key.as_secret().ct_eq(b.key.as_secret()));
    assert_ne!(a.header.uuid(), b.header.uuid());
    let digest =
        |plan: &luksmith_keyslot::FormatPlan| plan.header.metadata().digests()[&0].salt.clone();
    assert_ne!(digest(&a), digest(&b));
    assert_ne!(
        format!("{:?}", a.header.metadata().keyslot(0)),
        format!("{:?}", b.header.metadata().keyslot(0))
    );
}

#[test]
fn sha1_is_never_written() {
    let one = pass("one");
    assert!(
        plan_format(FormatRequest {
            hash: Hash::Sha1,
            ..request(&one)
        })
        .is_err()
    );
    let kdf = KdfChoice::Exact(luksmith_crypto::Kdf::Pbkdf2 {
        hash: Hash::Sha1,
        iterations: 1000,
    });
    let request = FormatRequest {
        slot: NewSlot {
            kdf,
            ..NewSlot::new(&one)
        },
        ..request(&one)
    };
    assert!(plan_format(request).is_err());
}

#[test]
fn old_remains_are_overwritten_and_durable_before_anything_new_is_written() {
    let one = pass("one");
    let plan = plan_format(request(&one)).unwrap();
    let steps = plan.change.steps();
    let barrier = steps
        .iter()
        .position(|step| matches!(step, Step::Barrier))
        .unwrap();
    let write = steps
        .iter()
        .position(|step| matches!(step, Step::WriteArea { .. }))
        .unwrap();
    assert!(
        steps[..barrier]
            .iter()
            .all(|step| matches!(step, Step::WipeArea { .. }))
    );
    assert!(barrier < write);
    assert!(matches!(steps.last(), Some(Step::Commit(_))));
}

#[test]
fn nothing_that_prints_holds_the_key() {
    let one = pass("a very secret passphrase");
    let plan = plan_format(request(&one)).unwrap();
    let text = format!("{plan:?}");
    assert!(!text.contains("a very secret"));
    let key = plan.key.expose();
    let as_list: Vec<_> = key[..8].iter().map(u8::to_string).collect();
    assert!(!text.contains(&as_list.join(", ")));
}
