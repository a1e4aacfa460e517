//! Why a PCR changed, in words.

use luksmith_tpm::log::{
    Change, Difference, EventLog, LogError, MAX_TEXT_CHARS, Remembered, Subject, why,
};
use luksmith_tpm::{HashAlg, PcrValues};

use crate::writer::{
    ACTION, APPLICATION, AUTHORITY, DRIVER, GLOBAL, IPL, Record, SECURITY, SEPARATOR, VARIABLE,
    VARIABLE_BOOT, VERSION, agile, image, load_option, of_content, path, record, userspace,
    variable, wide,
};
use crate::{DIRECT_PCRS, GRUB_PCRS, direct, grub, held, only};

const BANK: HashAlg = HashAlg::Sha256;

fn remembered(log: &EventLog, pcrs: &[u8]) -> Remembered {
    let values = only(&log.replay(BANK).unwrap(), pcrs);
    Remembered::new(log, &values).unwrap()
}

/// What is said of PCR `pcr` when one boot measured `was` and the next one `now`.
fn said(pcr: u8, was: &[Record], now: &[Record]) -> String {
    let of = |records: &[Record]| {
        let log = EventLog::parse(&agile(&[BANK], records)).unwrap();
        // What is remembered comes from a file.
        let json = remembered(&log, &[pcr]).to_json();
        Remembered::from_json(&json).unwrap()
    };
    let changes = why(&of(was), &of(now), &[pcr]).unwrap();
    let [change] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    let said = change.to_string();
    said.strip_prefix(&format!("PCR {pcr}: "))
        .unwrap()
        .to_owned()
}

fn end(pcr: u32) -> Record {
    record(pcr, SEPARATOR, &[0; 4])
}

#[test]
fn secure_boot_and_its_keys() {
    let secure = |value: &[u8]| record(7, VARIABLE, &variable(GLOBAL, "SecureBoot", value));
    let keys = |vendor, name, value: &[u8]| record(7, VARIABLE, &variable(vendor, name, value));
    let cases: [(Record, Record, &str); 6] = [
        (secure(&[1]), secure(&[0]), "Secure Boot was switched off"),
        (secure(&[1]), secure(&[]), "Secure Boot was switched off"),
        (secure(&[0]), secure(&[1]), "Secure Boot was switched on"),
        (
            keys(SECURITY, "db", b"1"),
            keys(SECURITY, "db", b"2"),
            "Secure Boot database (db) changed",
        ),
        (
            keys(SECURITY, "dbx", b"1"),
            keys(SECURITY, "dbx", b"2"),
            "Secure Boot revocation list (dbx) changed",
        ),
        (
            keys(GLOBAL, "PK", b"1"),
            keys(GLOBAL, "PK", b"2"),
            "Secure Boot platform key (PK) changed",
        ),
    ];
    for (was, now, expected) in cases {
        assert_eq!(said(7, &[was, end(7)], &[now, end(7)]), expected);
    }
}

#[test]
fn the_key_that_vouches_is_named_by_its_certificate() {
    let certificate = |name: &str| {
        let mut bytes = vec![0x30, 0x82, 1, 0];
        for name in ["Some Root", name] {
            bytes.extend([0x06, 3, 0x55, 4, 3, 0x13]);
            bytes.push(u8::try_from(name.len()).unwrap());
            bytes.extend(name.as_bytes());
        }
        record(7, AUTHORITY, &variable(SECURITY, "db", &bytes))
    };
    assert_eq!(
        said(
            7,
            &[certificate("UEFI CA 2011")],
            &[certificate("UEFI CA 2023")]
        ),
        "key that vouches for what is started changed: db: UEFI CA 2023 (before: db: UEFI CA 2011)"
    );
    let sbat = |level: &str| {
        let vendor = "50ab5d6046e00043abb63dd810dd8b23";
        record(
            7,
            AUTHORITY,
            &variable(vendor, "SbatLevel", level.as_bytes()),
        )
    };
    assert_eq!(
        said(7, &[sbat("sbat,1,2022\n")], &[sbat("sbat,1,2025\n")]),
        "revocation level of boot loaders (SBAT) changed"
    );
}

#[test]
fn firmware_and_what_it_starts() {
    let version = |text: &str| record(0, VERSION, &wide(&format!("{text}\0")));
    assert_eq!(
        said(0, &[version("1.2"), end(0)], &[version("1.3"), end(0)]),
        "firmware changed (version \"1.3\", before \"1.2\")"
    );
    let started = |content: &[u8], file| of_content(4, APPLICATION, content, &image(&path(file)));
    let shim = "\\EFI\\debian\\shimx64.efi";
    assert_eq!(
        said(
            4,
            &[end(4), started(b"1", shim)],
            &[end(4), started(b"2", shim)]
        ),
        "boot loader or kernel image changed: \\EFI\\debian\\shimx64.efi"
    );
    assert_eq!(
        said(
            4,
            &[started(b"1", shim)],
            &[started(b"2", "\\EFI\\BOOT\\BOOTX64.EFI")]
        ),
        "boot loader or kernel image changed: \\EFI\\BOOT\\BOOTX64.EFI \
         (before: \\EFI\\debian\\shimx64.efi)"
    );
    // A device path of the network adapter, without a file.
    let rom = of_content(2, DRIVER, b"rom", &image(&path("")));
    assert_eq!(
        said(2, &[end(2)], &[rom.clone(), end(2)]),
        "new EFI driver from an option ROM: PCI device 03.2"
    );
    assert_eq!(
        said(2, &[rom, end(2)], &[end(2)]),
        "no longer there: EFI driver from an option ROM: PCI device 03.2"
    );
    let action = |text: &str| record(4, ACTION, text.as_bytes());
    assert_eq!(
        said(
            4,
            &[action("Calling EFI Application from Boot Option"), end(4)],
            &[
                action("Calling EFI Application from Boot Option"),
                action("Returning from EFI Application from Boot Option"),
                end(4)
            ]
        ),
        "the boot took another course: Returning from EFI Application from Boot Option"
    );
    assert_eq!(
        said(3, &[end(3)], &[record(3, SEPARATOR, &[1, 0, 0, 0])]),
        "the firmware met an error"
    );
}

#[test]
fn the_order_and_the_entries_of_the_boot() {
    let order = |entries: &[u8]| record(1, VARIABLE_BOOT, &variable(GLOBAL, "BootOrder", entries));
    assert_eq!(
        said(1, &[order(&[1, 0, 2, 0])], &[order(&[2, 0, 1, 0])]),
        "boot order changed: 0002,0001 (before: 0001,0002)"
    );
    let entry = |file: &str| {
        let option = load_option("debian", &path(file));
        record(1, VARIABLE_BOOT, &variable(GLOBAL, "Boot0001", &option))
    };
    assert_eq!(
        said(1, &[entry("\\a.efi")], &[entry("\\b.efi")]),
        "boot entry changed: Boot0001 debian \\b.efi (before: Boot0001 debian \\a.efi)"
    );
}

#[test]
fn grub_and_what_it_reads() {
    let command = |text: &str| {
        let shown = format!("grub_cmd: {text}\0");
        of_content(8, IPL, text.as_bytes(), shown.as_bytes())
    };
    let line = |text: &str| {
        let shown = format!("kernel_cmdline: {text}\0");
        of_content(8, IPL, text.as_bytes(), shown.as_bytes())
    };
    assert_eq!(
        said(
            8,
            &[line("/vmlinuz quiet")],
            &[line("/vmlinuz quiet init=/bin/sh")]
        ),
        "kernel command line changed: /vmlinuz quiet init=/bin/sh (before: /vmlinuz quiet)"
    );
    assert_eq!(
        said(
            8,
            &[command("linux /vmlinuz quiet")],
            &[command("linux /vmlinuz")]
        ),
        "kernel command line changed: /vmlinuz (before: /vmlinuz quiet)"
    );
    let (a, b, c) = (command("set a=1"), command("set b=1"), command("boot"));
    assert_eq!(
        said(
            8,
            &[a.clone(), c.clone()],
            &[a.clone(), b.clone(), c.clone()]
        ),
        "new GRUB command: set b=1"
    );
    assert_eq!(
        said(8, &[a.clone(), b.clone(), c.clone()], &[a.clone(), c]),
        "no longer there: GRUB command: set b=1"
    );
    assert_eq!(
        said(8, &[a], &[b]),
        "GRUB command changed: set b=1 (before: set a=1)"
    );

    let file = |path: &str, content: &[u8]| of_content(9, IPL, content, path.as_bytes());
    for (path, expected) in [
        (
            "/boot/initrd.img-6.12",
            "initrd changed: /boot/initrd.img-6.12",
        ),
        ("/boot/vmlinuz-6.12", "kernel changed: /boot/vmlinuz-6.12"),
        (
            "(hd0,gpt2)/grub/grub.cfg",
            "boot loader configuration changed: (hd0,gpt2)/grub/grub.cfg",
        ),
        (
            "/grub/x86_64-efi/ext2.mod",
            "file read by GRUB changed: /grub/x86_64-efi/ext2.mod",
        ),
    ] {
        assert_eq!(said(9, &[file(path, b"1")], &[file(path, b"2")]), expected);
    }
    assert_eq!(
        said(9, &[file("/vmlinuz-1", b"1")], &[file("/vmlinuz-2", b"2")]),
        "kernel changed: /vmlinuz-2 (before: /vmlinuz-1)"
    );
}

#[test]
fn the_kernel_and_a_unified_image() {
    let tagged = |id: u32, text: &str, content: &[u8]| {
        let mut data = id.to_le_bytes().to_vec();
        data.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        data.extend(text.as_bytes());
        of_content(9, 6, content, &data)
    };
    let initrd = |content: &[u8]| tagged(0x8F3B_22EC, "Linux initrd\0", content);
    assert_eq!(said(9, &[initrd(b"1")], &[initrd(b"2")]), "initrd changed");
    let options = |content: &[u8]| tagged(0x8F3B_22ED, "LOADED_IMAGE::LoadOptions\0", content);
    assert_eq!(
        said(
            9,
            &[options(b"1"), initrd(b"1")],
            &[options(b"2"), initrd(b"1")]
        ),
        "kernel command line changed"
    );
    let section =
        |name: &str, content: &[u8]| of_content(11, IPL, content, &wide(&format!("{name}\0")));
    for (name, expected) in [
        (".linux", "kernel in the unified kernel image changed"),
        (".initrd", "initrd in the unified kernel image changed"),
        (
            ".cmdline",
            "kernel command line in the unified kernel image changed",
        ),
        (
            ".pcrpkey",
            "section of the unified kernel image changed: .pcrpkey",
        ),
    ] {
        let boot = |content: &[u8]| [section(name, name.as_bytes()), section(name, content)];
        assert_eq!(said(11, &boot(b"1"), &boot(b"2")), expected);
    }
    let add_on = |content: &[u8]| {
        let mut data = [0x0F_u8, 0xFE, 0xDF, 0x49, 12, 0, 0, 0].to_vec();
        data.extend(wide("a.efi\0"));
        of_content(12, 6, content, &data)
    };
    assert_eq!(
        said(12, &[add_on(b"1")], &[add_on(b"2")]),
        "add-on of the unified kernel image changed: a.efi"
    );
    let line = |text: &str| record(12, IPL, &wide(&format!("{text}\0")));
    assert_eq!(
        said(12, &[line("quiet")], &[line("quiet single")]),
        "kernel command line changed: quiet single (before: quiet)"
    );
}

#[test]
fn phases_and_the_rest_of_systemd() {
    type Records<'a> = &'a [(u8, &'a str, &'a str)];
    let of = |pcr: u8, records: Records<'_>| {
        let mut log = EventLog::parse(&agile(&[BANK], &[])).unwrap();
        log.add_userspace(&userspace(records)).unwrap();
        remembered(&log, &[pcr])
    };
    let said = |pcr: u8, was: Records<'_>, now: Records<'_>| {
        let changes = why(&of(pcr, was), &of(pcr, now), &[pcr]).unwrap();
        changes[0].to_string()
    };
    let initrd = (11, "phase", "enter-initrd");
    let left = (11, "phase", "leave-initrd");
    assert_eq!(
        said(11, &[initrd], &[initrd, left]),
        "PCR 11: the boot has passed a further phase: leave-initrd"
    );
    assert_eq!(
        said(11, &[initrd, left], &[initrd]),
        "PCR 11: the boot has not yet passed a phase: leave-initrd"
    );
    assert_eq!(
        said(15, &[], &[(15, "volume-key", "cryptsetup:root:1")]),
        "PCR 15: new key of an encrypted volume"
    );
    assert_eq!(
        said(15, &[(15, "machine-id", "a")], &[(15, "machine-id", "b")]),
        "PCR 15: machine ID changed"
    );
}

#[test]
fn a_measurement_that_is_in_no_log_is_told() {
    let log = grub();
    let before = remembered(&log, &[7, 9]);
    let mut values = only(before.values(), &[7, 9]);
    values.insert(9, &[1; 32]).unwrap();
    let now = Remembered::new(&log, &values).unwrap();
    let changes = why(&before, &now, &[9, 7, 9]).unwrap();
    let [change] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    assert_eq!((change.pcr, &change.event), (9, &Difference::Unlogged));
    assert_eq!(change.kind, None);
    assert_eq!(
        change.to_string(),
        "PCR 9: something was measured that is in no log"
    );
}

#[test]
fn two_real_boots_are_told_apart() {
    let pcrs = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let of = |log: &EventLog, text| Remembered::new(log, &held(text, BANK, &pcrs)).unwrap();
    let (before, now) = (of(&grub(), GRUB_PCRS), of(&direct(), DIRECT_PCRS));
    let changes = why(&before, &now, &pcrs).unwrap();
    let told: Vec<String> = changes.iter().map(Change::to_string).collect();
    assert_eq!(
        told,
        [
            "PCR 0: firmware changed",
            "PCR 1: boot order changed: 0000 (before: 0001,0000,0002)",
            "PCR 4: new boot loader or kernel image: kernel",
            "PCR 7: Secure Boot was switched off",
            "PCR 8: no longer there: GRUB command: [ -z (hd0,msdos1)/EFI/debian -o ! -e (hd0,msdos1)/EFI/debian ]",
            "PCR 9: kernel command line, instead of boot loader configuration: (hd0,msdos1)/EFI/debian/grub.cfg"
        ]
    );
    assert_eq!(why(&before, &before, &pcrs), Ok(vec![]));
    let off = changes.iter().find(|change| change.pcr == 7).unwrap();
    assert_eq!(off.kind, Some(Subject::SecureBoot { on: false }));
}

#[test]
fn what_is_remembered_is_small_and_comes_back() {
    let log = grub();
    let all = remembered(&log, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14]);
    let text = all.to_json().to_string();
    assert!(text.len() < 6000, "{} bytes", text.len());
    let read = serde_json::from_str(&text).unwrap();
    assert_eq!(Remembered::from_json(&read), Ok(all.clone()));
    assert_eq!(all.bank(), BANK);
    let some = remembered(&log, &[7]);
    assert!(some.events().iter().all(|entry| entry.pcr == 7));
    let missing = Err(LogError::NotRemembered { pcr: 4 });
    assert_eq!(why(&some, &all, &[4]), missing);
    assert_eq!(why(&all, &some, &[4]), missing);
    assert!(Remembered::new(&log, &PcrValues::new(BANK)).is_err());
}

#[test]
fn what_was_remembered_elsewhere_or_otherwise_is_refused() {
    let log = grub();
    let good = remembered(&log, &[4]).to_json();
    let refused = |pointer: &str, value: serde_json::Value| {
        let mut json = good.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        assert!(Remembered::from_json(&json).is_err(), "{json}");
    };
    refused("/version", 2.into());
    refused("/bank", "sha1".into());
    refused("/bank", "md5".into());
    refused("/values", serde_json::json!([]));
    refused("/values", serde_json::json!([[24, ""]]));
    refused("/values/0/1", "!".into());
    refused("/events", "x".into());
    refused("/events/0", serde_json::json!([4, 5]));
    refused("/events/0/0", 5.into());
    refused("/events/0/1", (1_u64 << 32).into());
    refused("/events/0/1", "\u{1b}[2J".into());
    refused("/events/0/2", "AAAA".into());
    refused("/events/0/3", "\u{1b}[2J".into());
    refused("/events/0/3", "x".repeat(MAX_TEXT_CHARS + 1).into());
    let sha1 = log.replay(HashAlg::Sha1).unwrap();
    let sha1 = Remembered::new(&log, &sha1).unwrap();
    let sha256 = remembered(&log, &[4]);
    let other = Err(LogError::OtherBank { bank: BANK });
    assert_eq!(why(&sha256, &sha1, &[4]), other);
}

#[test]
fn a_text_obeys_nobody_and_has_an_end() {
    let shown = |data: &[u8]| {
        let log = EventLog::parse(&agile(&[BANK], &[record(8, IPL, data)])).unwrap();
        log.events()[0].text()
    };
    assert_eq!(shown(b"a\x1b[2Jb\nc\0"), "a?[2Jb c");
    assert_eq!(shown("a\u{202e}b".as_bytes()), "a?b");
    assert_eq!(shown(&wide("W\u{1b}ide\0")), "W?ide");
    assert_eq!(shown(b""), "");
    let mut log = EventLog::parse(&agile(&[BANK], &[])).unwrap();
    log.add_userspace(&userspace(&[(11, "a\\u001b[2J", "")]))
        .unwrap();
    assert_eq!(log.events()[0].kind.to_string(), "systemd:a?[2J");
    assert_eq!(shown(&[b'x'; 1000]).chars().count(), MAX_TEXT_CHARS);
    let long = wide(&"x".repeat(1000));
    assert_eq!(shown(&long).chars().count(), MAX_TEXT_CHARS);
    assert_eq!(shown(&[0xFF, 0xFE]), "\u{fffd}\u{fffd}");
}

#[test]
fn a_path_in_several_nodes_is_one() {
    let shown = |parts: &[&str]| {
        let mut nodes = Vec::new();
        for part in parts {
            let one = path(part);
            // Without the PCI device before it and the end after it.
            nodes.extend(&one[6..one.len() - 4]);
        }
        let event = record(4, APPLICATION, &image(&nodes));
        let log = EventLog::parse(&agile(&[BANK], &[event])).unwrap();
        log.events()[0].text()
    };
    assert_eq!(shown(&["\\EFI", "debian", "a.efi"]), "\\EFI\\debian\\a.efi");
    assert_eq!(shown(&["\\EFI\\", "a.efi"]), "\\EFI\\a.efi");
    assert_eq!(shown(&["\\EFI", "\\a.efi"]), "\\EFI\\a.efi");
    assert_eq!(shown(&[]), "");
}
