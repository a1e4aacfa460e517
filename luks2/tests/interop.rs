//! Headers that the cryptsetup program makes are read without loss, and headers that we write it accepts.
//!
//! Runs on files: no device-mapper needed.

mod support;

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use luksmith_luks2::{
    AreaBytes, Change, ChecksumAlgorithm, Fill, FormatOptions, Header, HeaderCopy, HeaderSize,
    KdfParams, Label, Metadata, NewDigest, NewKeyslot, Priority, Resilience, Step, new_header,
};
use serde_json::{Value, json};
use support::{Bench, CHEAP, cryptsetup, cryptsetup_ok, resolve_file};

const MIB: u64 = 1024 * 1024;

/// JSON of both copies as they lie on disk.
fn json_on_disk(path: &str, size: HeaderSize) -> [Vec<u8>; 2] {
    let file = std::fs::File::open(path).expect("the image is there");
    [0, size.bytes()].map(|at| {
        let mut area = vec![0; usize::try_from(size.json_bytes()).expect("fits")];
        file.read_exact_at(&mut area, at + 4096)
            .expect("the header is whole");
        luksmith_luks2::json::text_of_area(&area)
            .expect("cryptsetup ends its text")
            .to_vec()
    })
}

fn write(path: &str, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("the image is there");
    file.write_all_at(bytes, offset).expect("can write");
}

fn commit(path: &str, header: &Header) {
    for (copy, salt) in [
        (HeaderCopy::Primary, [1; 64]),
        (HeaderCopy::Secondary, [2; 64]),
    ] {
        write(path, copy.offset(header.size()), &header.encode(copy, salt));
    }
}

/// Carries a change out on a file, without regard to crashes.
fn apply(path: &str, change: &Change) {
    for step in change.steps() {
        match step {
            Step::WriteArea { offset, bytes } => write(path, *offset, bytes.as_slice()),
            Step::WipeArea { offset, len, fill } => {
                let byte = if *fill == Fill::Zero { 0 } else { 0xd7 };
                write(
                    path,
                    *offset,
                    &vec![byte; usize::try_from(*len).expect("fits")],
                );
            }
            Step::Barrier => {}
            Step::Commit(header) => commit(path, header),
        }
    }
}

/// Reads what cryptsetup wrote, checks that nothing is lost and nothing wants repair, writes it back as ours with the
/// next sequence number, and asks cryptsetup.
fn round_trip(bench: &Bench, path: &str) -> Header {
    let resolved = resolve_file(Path::new(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(resolved.repair, None);
    let header = resolved.header;
    for text in json_on_disk(path, header.size()) {
        assert_eq!(
            String::from_utf8_lossy(&header.metadata().to_json_bytes()),
            String::from_utf8_lossy(&text),
            "the text that we write is the text that was read, byte for byte"
        );
    }
    let before: Value =
        serde_json::from_str(&cryptsetup_ok(&["luksDump", "--dump-json-metadata", path]))
            .expect("JSON");
    assert_eq!(&before, header.metadata().as_value());
    commit(
        path,
        Change::edit(&header, &header)
            .expect("an edit of nothing")
            .after(),
    );
    cryptsetup_ok(&["isLuks", "--type", "luks2", path]);
    let after: Value =
        serde_json::from_str(&cryptsetup_ok(&["luksDump", "--dump-json-metadata", path]))
            .expect("JSON");
    assert_eq!(before, after);
    let dump = cryptsetup_ok(&["luksDump", path]);
    assert!(
        dump.contains(&format!("Epoch:         \t{}", header.seqid().0 + 1)),
        "{dump}"
    );
    if header.metadata().reencrypt_slot().is_none() {
        cryptsetup_ok(&["open", "--test-passphrase", "--key-file", bench.key(), path]);
    }
    header
}

#[test]
fn headers_of_all_nine_sizes_come_back_byte_for_byte() {
    let bench = Bench::new();
    for size in HeaderSize::ALL {
        let file = bench.file(&format!("size-{}", size.bytes()), 32 * MIB);
        let bytes = format!("{}k", size.bytes() / 1024);
        bench.format(
            &file,
            &[
                "--luks2-metadata-size",
                &bytes,
                "--luks2-keyslots-size",
                "1m",
            ],
        );
        let header = round_trip(&bench, &file);
        assert_eq!(header.size(), size);
        assert_eq!(header.metadata().keyslots_area().size, MIB);
    }
}

#[test]
fn headers_of_all_kinds_of_volumes_come_back_byte_for_byte() {
    let bench = Bench::new();
    let kinds: &[(&str, &[&str])] = &[
        ("default", &[]),
        ("sector-512", &["--sector-size", "512"]),
        ("key-256", &["--key-size", "256"]),
        (
            "cbc",
            &["--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"],
        ),
        (
            "labels",
            &["--label", "über \"disk\"/\\", "--subsystem", "backup"],
        ),
        ("hash-512", &["--hash", "sha512"]),
        ("hash-1", &["--hash", "sha1"]),
        ("uuid", &["--uuid", "6E1C5A7C-0000-4000-8000-000000000001"]),
        ("offset", &["--offset", "65536"]),
        (
            "keyslot-cipher",
            &[
                "--keyslot-cipher",
                "aes-cbc-plain64",
                "--keyslot-key-size",
                "256",
            ],
        ),
    ];
    for (name, options) in kinds {
        let file = bench.file(name, 48 * MIB);
        bench.format(&file, options);
        round_trip(&bench, &file);
    }
}

#[test]
fn a_detached_header_comes_back_byte_for_byte() {
    let bench = Bench::new();
    for (name, options) in [("zero", &[][..]), ("shifted", &["--offset", "8192"][..])] {
        let (data, header) = (bench.file("data", 8 * MIB), bench.path(name));
        let mut all = vec!["--header", &header];
        all.extend(options);
        bench.format(&data, &all);
        let header = round_trip(&bench, &header);
        let first = &header.metadata().segments()[&0];
        assert_eq!(
            first.offset,
            if options.is_empty() { 0 } else { 8192 * 512 }
        );
    }
}

#[test]
fn tokens_priorities_unbound_slots_and_argon2_come_back_byte_for_byte() {
    let bench = Bench::new();
    let file = bench.file("rich", 32 * MIB);
    bench.format(&file, &[]);
    let other = bench.path("other-key");
    std::fs::write(&other, b"another").expect("can write");
    let argon = [
        "--pbkdf",
        "argon2id",
        "--pbkdf-force-iterations",
        "4",
        "--pbkdf-memory",
        "64",
        "--pbkdf-parallel",
        "1",
    ];
    let add = ["luksAddKey", "-q", "--key-file", bench.key(), &file, &other];
    cryptsetup_ok(&[&argon[..], &add[..]].concat());
    cryptsetup_ok(&[&["--pbkdf", "argon2i"], &argon[2..], &add[..]].concat());
    cryptsetup_ok(
        &[
            &[
                "luksAddKey",
                "--unbound",
                "--key-size",
                "72",
                "--key-slot",
                "9",
            ],
            &CHEAP[..],
            &[&file, &other],
        ]
        .concat(),
    );
    cryptsetup_ok(&["config", "--priority", "prefer", "--key-slot", "1", &file]);
    cryptsetup_ok(&["config", "--priority", "ignore", "--key-slot", "2", &file]);
    let token = bench.path("token.json");
    let foreign = r#"{"type":"clevis","keyslots":["1"],"jwe":{"tag":"a/b","x":[1,-2,3.5,null,true,"\u00e9\n"]},"deep":{"a":{"b":{}}}}"#;
    std::fs::write(&token, foreign).expect("can write");
    cryptsetup_ok(&["token", "import", "--json-file", &token, &file]);
    cryptsetup_ok(&[
        "token",
        "add",
        "--key-description",
        "disk key",
        "--token-id",
        "7",
        "--key-slot",
        "0",
        &file,
    ]);
    let header = round_trip(&bench, &file);
    let metadata = header.metadata();
    assert_eq!(
        metadata.keyslots().keys().copied().collect::<Vec<_>>(),
        [0, 1, 2, 9]
    );
    assert!(matches!(
        metadata.keyslots()[&1].luks2().expect("a key").kdf,
        KdfParams::Argon2 { id: true, .. }
    ));
    assert!(matches!(
        metadata.keyslots()[&2].luks2().expect("a key").kdf,
        KdfParams::Argon2 { id: false, .. }
    ));
    assert_eq!(metadata.keyslots()[&1].priority, Priority::Prefer);
    assert_eq!(metadata.keyslots()[&2].priority, Priority::Ignore);
    assert!(metadata.is_unbound(9) && !metadata.is_unbound(1));
    assert_eq!(
        metadata.tokens()[&7].keyring_description(),
        Some("disk key")
    );
    assert_eq!(
        metadata
            .tokens_of_keyslot(1)
            .map(|(number, _)| number)
            .collect::<Vec<_>>(),
        [0]
    );
}

#[test]
fn flags_that_cryptsetup_made_persistent_are_read() {
    // `refresh --persistent` needs device-mapper; the text is the same.
    let bench = Bench::new();
    let file = bench.file("flags", 32 * MIB);
    bench.format(&file, &[]);
    let header = resolve_file(Path::new(&file)).expect("a header").header;
    let flags = ["allow-discards".to_owned(), "no-read-workqueue".to_owned()];
    let edited = header
        .with_metadata(header.metadata().with_flags(&flags).expect("fits"))
        .expect("same size");
    apply(&file, &Change::edit(&header, &edited).expect("an edit"));
    assert!(cryptsetup_ok(&["luksDump", &file]).contains("allow-discards no-read-workqueue"));
    round_trip(&bench, &file);
}

#[test]
fn volumes_in_reencryption_are_read_for_each_resilience() {
    let bench = Bench::new();
    let plain: &[(&str, &[&str])] = &[
        ("checksum", &["--resilience", "checksum"]),
        ("journal", &["--resilience", "journal"]),
        ("none", &["--resilience", "none"]),
    ];
    let mut seen = Vec::new();
    for (name, options) in plain {
        let file = bench.file(name, 32 * MIB);
        bench.format(&file, &["--sector-size", "512"]);
        let mut args = vec![
            "reencrypt",
            "--init-only",
            "--force-offline-reencrypt",
            "--key-file",
            bench.key(),
        ];
        args.extend(CHEAP);
        args.extend(*options);
        args.push(&file);
        cryptsetup_ok(&args);
        seen.push(round_trip(&bench, &file));
    }
    let shift = bench.file("datashift", 96 * MIB);
    let mut args = vec![
        "reencrypt",
        "--encrypt",
        "--type",
        "luks2",
        "--init-only",
        "--force-offline-reencrypt",
    ];
    args.extend(["--reduce-device-size", "32M", "--key-file", bench.key()]);
    args.extend(CHEAP);
    args.push(&shift);
    cryptsetup_ok(&args);
    seen.push(round_trip(&bench, &shift));
    let export = bench.path("exported-header");
    let file = bench.file("decrypt", 64 * MIB);
    bench.format(&file, &[]);
    let args = [
        "reencrypt",
        "--decrypt",
        "--init-only",
        "--force-offline-reencrypt",
        "-q",
        "--header",
        &export,
        "--key-file",
        bench.key(),
        &file,
    ];
    cryptsetup_ok(&args);
    seen.push(round_trip(&bench, &export));
    for header in &seen {
        assert!(header.metadata().reencryption_in_progress());
        assert_eq!(
            header.metadata().default_segment().1.flags,
            ["backup-final"]
        );
        let slot = Change::remove_slots(header, &[0]);
        assert_eq!(
            slot,
            Err(luksmith_luks2::FormatError::ReencryptionInProgress)
        );
    }
    let resilience: Vec<_> = seen
        .iter()
        .map(|header| {
            match &header
                .metadata()
                .reencrypt_slot()
                .expect("a steering slot")
                .1
                .resilience
            {
                Resilience::None => "none",
                Resilience::Checksum(_) => "checksum",
                Resilience::Journal => "journal",
                Resilience::Datashift { .. } => "datashift",
                Resilience::DatashiftJournal { .. } => "datashift-journal",
                Resilience::DatashiftChecksum { .. } => "datashift-checksum",
                Resilience::Other(_) => "other",
            }
        })
        .collect();
    assert_eq!(
        resilience,
        [
            "checksum",
            "journal",
            "none",
            "datashift",
            "datashift-checksum"
        ]
    );
}

#[test]
fn a_header_converted_from_luks1_is_read() {
    let bench = Bench::new();
    let file = bench.file("converted", 32 * MIB);
    let mut args = vec!["luksFormat", "--type", "luks1", "--key-file", bench.key()];
    args.extend(CHEAP);
    args.push(&file);
    cryptsetup_ok(&args);
    match resolve_file(Path::new(&file)) {
        Err(luksmith_luks2::ResolveError::Luks1) => {}
        other => panic!("{other:?}"),
    }
    cryptsetup_ok(&["convert", "--type", "luks2", "-q", &file]);
    let header = round_trip(&bench, &file);
    assert_eq!(header.metadata().digests()[&0].digest.len(), 20);
}

fn options(len: u64) -> FormatOptions {
    FormatOptions {
        label: Label::new("ours").expect("fits"),
        subsystem: Label::new("").expect("fits"),
        uuid: support::UUID.into(),
        header_size: HeaderSize::SMALLEST,
        keyslots_size: None,
        data_offset: None,
        data_alignment: 0,
        detached: false,
        header_device_len: Some(len),
        data_device_len: Some(len),
        encryption: "aes-xts-plain64".into(),
        sector_size: 512,
        flags: Vec::new(),
    }
}

fn digest() -> NewDigest {
    NewDigest {
        segments: vec![0],
        hash: "sha256".into(),
        iterations: 1000,
        salt: vec![8; 32],
        digest: vec![9; 32],
    }
}

fn new_slot(metadata: &Metadata) -> NewKeyslot {
    let size = luksmith_luks2::area::size_for_key(64).expect("fits");
    NewKeyslot {
        key_size: 64,
        area: luksmith_luks2::area::find_room(metadata, size).expect("there is room"),
        encryption: "aes-xts-plain64".into(),
        area_key_size: 64,
        kdf: KdfParams::Argon2 {
            id: true,
            time: 4,
            memory_kib: 64,
            cpus: 1,
            salt: vec![1; 32],
        },
        af_hash: "sha256".into(),
        priority: Priority::Normal,
    }
}

fn with_slot(header: &Header, number: u8) -> Header {
    let metadata = header.metadata();
    header
        .with_metadata(
            metadata
                .with_keyslot(number, &new_slot(metadata), 0)
                .expect("valid"),
        )
        .expect("same size")
}

#[test]
fn a_new_header_has_the_layout_of_the_reference() {
    let bench = Bench::new();
    type Case = (
        &'static str,
        u64,
        &'static [&'static str],
        fn(&mut FormatOptions),
    );
    let cases: &[Case] = &[
        ("default", 48, &[], |_| {}),
        ("metadata-64k", 48, &["--luks2-metadata-size", "64k"], |o| {
            o.header_size = HeaderSize::new(65536).expect("one")
        }),
        ("metadata-4m", 48, &["--luks2-metadata-size", "4m"], |o| {
            o.header_size = HeaderSize::new(4 << 20).expect("one")
        }),
        ("keyslots-1m", 48, &["--luks2-keyslots-size", "1m"], |o| {
            o.keyslots_size = Some(MIB)
        }),
        (
            "keyslots-odd",
            48,
            &["--luks2-keyslots-size", "1000k"],
            |o| o.keyslots_size = Some(1000 * 1024),
        ),
        ("offset-8m", 48, &["--offset", "16384"], |o| {
            o.data_offset = Some(8 * MIB)
        }),
        ("offset-200m", 300, &["--offset", "409600"], |o| {
            o.data_offset = Some(200 * MIB)
        }),
        (
            "align-4m",
            48,
            &["--luks2-keyslots-size", "1m", "--align-payload", "8192"],
            |o| {
                o.keyslots_size = Some(MIB);
                o.data_alignment = 4 * MIB;
            },
        ),
    ];
    for (name, mib, arguments, wish) in cases {
        let len = mib * MIB;
        let file = bench.file(name, len);
        bench.format(&file, &[&["--sector-size", "512"][..], arguments].concat());
        let theirs = resolve_file(Path::new(&file)).expect("a header").header;
        let mut wishes = options(len);
        wish(&mut wishes);
        let ours = with_slot(&new_header(&wishes, &digest()).expect("valid"), 0);
        assert_eq!(
            ours.metadata().segments(),
            theirs.metadata().segments(),
            "{name}"
        );
        assert_eq!(
            ours.metadata().config(),
            theirs.metadata().config(),
            "{name}"
        );
        assert_eq!(
            ours.metadata().keyslots()[&0].area(),
            theirs.metadata().keyslots()[&0].area(),
            "{name}"
        );
        // Member for member the same names in the same order; the text differs in values only.
        let names = |header: &Header| member_names(header.metadata().as_value());
        if *name == "default" {
            let theirs = names(&theirs).replace("iterations:hash:", "");
            let ours_kdf = names(&ours);
            assert_eq!(theirs.split("kdf{").next(), ours_kdf.split("kdf{").next());
            assert_eq!(
                theirs.split("tokens").nth(1),
                ours_kdf.split("tokens").nth(1)
            );
        }
        // And it is accepted over the other.
        apply(
            &file,
            &Change::format(&ours, vec![(0, AreaBytes::new(vec![5; 256_000]))]).expect("a change"),
        );
        let dump = cryptsetup_ok(&["luksDump", &file]);
        assert!(dump.contains("Label:         \tours"), "{dump}");
        assert_eq!(
            cryptsetup(&[
                "open",
                "--test-passphrase",
                "--key-file",
                bench.key(),
                &file
            ])
            .status
            .code(),
            Some(2)
        );
    }
}

fn member_names(value: &Value) -> String {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| format!("{name}{{{}}}", member_names(value)))
            .collect(),
        _ => String::new(),
    }
}

#[test]
fn our_changes_of_a_foreign_header_are_accepted_and_its_passphrase_still_opens() {
    let bench = Bench::new();
    let file = bench.file("changes", 32 * MIB);
    bench.format(&file, &[]);
    let load = || resolve_file(Path::new(&file)).expect("a header").header;
    let test = || {
        drop(cryptsetup_ok(&[
            "open",
            "--test-passphrase",
            "--key-file",
            bench.key(),
            &file,
        ]))
    };
    let material = || AreaBytes::new(vec![0x11; 256_000]);

    let before = load();
    let after = with_slot(&before, 3);
    apply(
        &file,
        &Change::add_slot(&before, after.metadata().clone(), 3, material()).expect("a change"),
    );
    test();
    assert!(cryptsetup_ok(&["luksDump", &file]).contains("  3: luks2"));

    let before = load();
    let token =
        json!({"type": "x-foreign", "keyslots": ["3"], "data": {"n": 12345678901234567u64}});
    let with_token = before.metadata().with_token(0, token).expect("valid");
    let edited = before
        .with_metadata(with_token)
        .expect("same size")
        .with_label(Label::new("new name").expect("fits"));
    apply(&file, &Change::edit(&before, &edited).expect("an edit"));
    test();
    let dump = cryptsetup_ok(&["luksDump", &file]);
    assert!(
        dump.contains("new name") && dump.contains("x-foreign"),
        "{dump}"
    );

    let before = load();
    let replacement = NewKeyslot {
        priority: Priority::Prefer,
        ..new_slot(before.metadata())
    };
    let replaced = before
        .metadata()
        .with_keyslot_replaced(3, &replacement)
        .expect("valid");
    apply(
        &file,
        &Change::replace_slot(&before, replaced, 3, material()).expect("a change"),
    );
    test();

    let before = load();
    apply(
        &file,
        &Change::remove_slots(&before, &[3]).expect("a change"),
    );
    test();
    let after = load();
    assert!(after.metadata().tokens()[&0].keyslots.is_empty());
    assert!(after.metadata().owed_wipes().is_empty());
    assert_eq!(
        after
            .metadata()
            .as_value()
            .pointer("/config/luksmith-owed-wipes"),
        None
    );

    apply(&file, &Change::erase(&after).expect("a change"));
    assert!(load().metadata().keyslots().is_empty());
    cryptsetup_ok(&["isLuks", "--type", "luks2", &file]);
    assert_ne!(
        cryptsetup(&[
            "open",
            "--test-passphrase",
            "--key-file",
            bench.key(),
            &file
        ])
        .status
        .code(),
        Some(0)
    );
}

#[test]
fn the_note_of_an_owed_wipe_is_kept_by_cryptsetup_and_settled_by_us() {
    let bench = Bench::new();
    let file = bench.file("note", 32 * MIB);
    bench.format(&file, &[]);
    let load = || resolve_file(Path::new(&file)).expect("a header").header;
    let before = load();
    let with = with_slot(&before, 1);
    apply(
        &file,
        &Change::add_slot(
            &before,
            with.metadata().clone(),
            1,
            AreaBytes::new(vec![7; 256_000]),
        )
        .expect("a change"),
    );
    // The removal is cut short after its first commit.
    let before = load();
    let area = before.metadata().keyslots()[&1].area();
    let removal = Change::remove_slots(&before, &[1]).expect("a change");
    commit(&file, removal.commits().next().expect("commits first"));
    assert_eq!(load().metadata().owed_wipes(), [area]);
    // cryptsetup writes a header of its own on top.
    cryptsetup_ok(&["config", "--label", "theirs", &file]);
    cryptsetup_ok(&[
        "open",
        "--test-passphrase",
        "--key-file",
        bench.key(),
        &file,
    ]);
    let left = load();
    assert_eq!(
        left.metadata().owed_wipes(),
        [area],
        "the note survived a foreign rewrite"
    );
    // It adds a slot, into the very range: that is in use now and must not be wiped.
    cryptsetup_ok(
        &[
            &["luksAddKey", "--key-file", bench.key()],
            &CHEAP[..],
            &[&file, bench.key()],
        ]
        .concat(),
    );
    let taken = load();
    assert_eq!(taken.metadata().keyslots()[&1].area(), area);
    assert!(taken.metadata().owed_wipes().is_empty());
    let settle = Change::settle(&taken)
        .expect("valid")
        .expect("the note goes");
    assert!(
        settle
            .steps()
            .iter()
            .all(|step| matches!(step, Step::Commit(_)))
    );
    apply(&file, &settle);
    cryptsetup_ok(&[
        "open",
        "--test-passphrase",
        "--key-slot",
        "1",
        "--key-file",
        bench.key(),
        &file,
    ]);
    // And the other end: without the foreign slot the range is wiped.
    commit(&file, &left);
    apply(
        &file,
        &Change::settle(&load())
            .expect("valid")
            .expect("something is owed"),
    );
    assert!(load().metadata().owed_wipes().is_empty());
    let bytes = std::fs::File::open(&file).and_then(|f| {
        let mut bytes = vec![0; 256_000];
        f.read_exact_at(&mut bytes, area.offset).map(|()| bytes)
    });
    assert!(
        bytes.expect("can read").iter().all(|byte| *byte == 0xd7),
        "overwritten"
    );
}

#[test]
fn checksums_by_other_hashes_are_accepted_both_ways() {
    let bench = Bench::new();
    let file = bench.file("sums", 32 * MIB);
    bench.format(&file, &[]);
    let header = resolve_file(Path::new(&file)).expect("a header").header;
    for algorithm in [
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
        ChecksumAlgorithm::Sha512,
    ] {
        for copy in [HeaderCopy::Primary, HeaderCopy::Secondary] {
            let fields = luksmith_luks2::binary::BinaryHeader {
                checksum: algorithm,
                seqid: header.seqid().next().expect("not at its end"),
                ..fields_of(&header)
            };
            let bytes = fields
                .encode(copy, &header.metadata().to_json_bytes())
                .expect("fits");
            write(&file, copy.offset(header.size()), &bytes);
        }
        cryptsetup_ok(&[
            "open",
            "--test-passphrase",
            "--key-file",
            bench.key(),
            &file,
        ]);
        cryptsetup_ok(&["config", "--label", algorithm.name(), &file]);
        let resolved = resolve_file(Path::new(&file)).expect("a header");
        assert_eq!(
            (resolved.header.checksum(), resolved.repair),
            (algorithm, None)
        );
        assert_eq!(
            resolved.header.label().as_bytes(),
            algorithm.name().as_bytes()
        );
        commit(&file, &header);
    }
}

fn fields_of(header: &Header) -> luksmith_luks2::binary::BinaryHeader {
    luksmith_luks2::binary::BinaryHeader {
        size: header.size(),
        seqid: header.seqid(),
        label: header.label().clone(),
        subsystem: header.subsystem().clone(),
        uuid: header.uuid().to_owned(),
        checksum: header.checksum(),
        salt: [3; 64],
    }
}
