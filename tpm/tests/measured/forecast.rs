//! The next boot by its files: foreseen from the log of one boot, it has to be what the log of the next
//! amounts to.

use std::collections::BTreeMap;

use luksmith_tpm::log::{
    BootFiles, EventLog, Forecast, authenticode_digest, foresee, measure,
    systemd_command_line_digest,
};
use luksmith_tpm::{HashAlg, PcrValues};

use crate::writer::{APPLICATION, IPL, agile, image, path, pe, record, wide};
use crate::{GRUB_PCRS, grub, held, only};

const BANK: HashAlg = HashAlg::Sha256;
const TAG: u32 = 6;
const UNIFIED: &str = "\\EFI\\Linux\\debian.efi";
const LOADER: &str = "\\EFI\\debian\\grubx64.efi";

/// What lies on the disk at one time.
#[derive(Clone, Default)]
struct Disk {
    files: BTreeMap<String, Vec<u8>>,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    command_line: String,
    next_command_line: Option<String>,
}

impl BootFiles for Disk {
    fn by_path(&mut self, path: &str) -> Option<Vec<u8>> {
        self.files.get(path).cloned()
    }
    fn kernel(&mut self) -> Option<Vec<u8>> {
        (!self.kernel.is_empty()).then(|| self.kernel.clone())
    }
    fn initrd(&mut self) -> Option<Vec<u8>> {
        (!self.initrd.is_empty()).then(|| self.initrd.clone())
    }
    fn command_lines(&mut self) -> Option<(String, String)> {
        let next = self.next_command_line.as_ref()?;
        Some((self.command_line.clone(), next.clone()))
    }
}

/// A record of something whose digest is not that of its bytes.
struct Measured {
    pcr: u32,
    kind: u32,
    digest: Vec<u8>,
    data: Vec<u8>,
}

fn log(measured: &[Measured]) -> EventLog {
    let mut bytes = agile(&[BANK], &[]);
    for one in measured {
        let record = record(one.pcr, one.kind, &one.data);
        let digests = [(BANK.id(), one.digest.clone())];
        bytes.extend(crate::writer::agile_record(&record, &digests));
    }
    EventLog::parse(&bytes).unwrap()
}

fn started(name: &str, pe: &[u8]) -> Measured {
    Measured {
        pcr: 4,
        kind: APPLICATION,
        digest: authenticode_digest(BANK, pe).unwrap(),
        data: image(&if name.is_empty() {
            Vec::new()
        } else {
            path(name)
        }),
    }
}

fn content(pcr: u32, text: &str, content: &[u8]) -> Measured {
    Measured {
        pcr,
        kind: IPL,
        digest: measure(BANK, content),
        data: [text.as_bytes(), &[0]].concat(),
    }
}

fn tagged(text: &str, digest: Vec<u8>) -> Measured {
    let len = u32::try_from(text.len()).unwrap().to_le_bytes();
    Measured {
        pcr: 9,
        kind: TAG,
        digest,
        data: [&[1, 2, 3, 4], &len[..], text.as_bytes()].concat(),
    }
}

/// What a boot of the disk by GRUB measures.
fn by_grub(disk: &Disk) -> EventLog {
    log(&[
        started(LOADER, &disk.files[LOADER]),
        content(8, "grub_cmd: linux /vmlinuz", b"linux /vmlinuz"),
        content(
            9,
            "(hd0,gpt2)/grub/grub.cfg",
            &disk.files["(hd0,gpt2)/grub/grub.cfg"],
        ),
        content(9, "(hd0,gpt2)/vmlinuz", &disk.files["(hd0,gpt2)/vmlinuz"]),
        started("", &disk.kernel),
        tagged(
            "LOADED_IMAGE::LoadOptions",
            systemd_command_line_digest(BANK, &disk.command_line),
        ),
        tagged("Linux initrd", measure(BANK, &disk.initrd)),
    ])
}

/// What a boot of its unified image measures, in two phases.
fn unified(disk: &Disk) -> EventLog {
    let whole = &disk.files[UNIFIED];
    let mut all = vec![started(UNIFIED, whole)];
    for name in [".linux", ".cmdline"] {
        let inside = luksmith_tpm::log::image_section(whole, name)
            .unwrap()
            .unwrap();
        all.push(content(11, name, &[name.as_bytes(), &[0]].concat()));
        all.push(content(11, name, inside));
    }
    let kernel = luksmith_tpm::log::image_section(whole, ".linux")
        .unwrap()
        .unwrap();
    all.push(started("", kernel));
    all.push(tagged("Linux initrd", measure(BANK, b"initrd and more")));
    log(&all)
}

fn values(log: &EventLog, pcrs: &[u8]) -> PcrValues {
    only(&log.replay(BANK).unwrap(), pcrs)
}

fn foreseen(log: &EventLog, pcrs: &[u8], disk: &Disk) -> Forecast {
    foresee(log, &values(log, pcrs), &mut disk.clone()).unwrap()
}

fn assert_comes(forecast: &Forecast, next: &EventLog, pcrs: &[u8]) {
    let next = values(next, pcrs);
    for pcr in pcrs {
        let value = forecast.values.get(pcr).map(Vec::as_slice);
        assert_eq!(value, next.get(*pcr), "PCR {pcr}: {forecast:?}");
    }
}

fn kernel(text: &str) -> Vec<u8> {
    pe(&[(".text", text.as_bytes())])
}

fn with_grub() -> Disk {
    Disk {
        files: BTreeMap::from([
            (LOADER.to_owned(), kernel("loader")),
            (
                "(hd0,gpt2)/grub/grub.cfg".to_owned(),
                b"linux /vmlinuz".to_vec(),
            ),
            ("(hd0,gpt2)/vmlinuz".to_owned(), kernel("kernel")),
        ]),
        kernel: kernel("kernel"),
        initrd: b"initrd".to_vec(),
        command_line: "ro quiet".to_owned(),
        next_command_line: Some("ro quiet".to_owned()),
    }
}

#[test]
fn a_new_kernel_initrd_loader_and_command_line_are_foreseen() {
    let before = with_grub();
    let this = by_grub(&before);
    let same = foreseen(&this, &[4, 8, 9], &before);
    assert_comes(&same, &this, &[4, 8, 9]);
    assert!(same.taken_as_it_was.is_empty(), "{same:?}");

    let mut after = before.clone();
    after.kernel = kernel("another");
    after
        .files
        .insert("(hd0,gpt2)/vmlinuz".to_owned(), kernel("another"));
    after
        .files
        .insert(LOADER.to_owned(), kernel("another loader"));
    after.initrd = b"another initrd".to_vec();
    after.next_command_line = Some("ro quiet debug".to_owned());
    let forecast = foreseen(&this, &[4, 8, 9], &after);
    after.command_line = "ro quiet debug".to_owned();
    let next = by_grub(&after);
    assert_ne!(values(&next, &[4, 9]), values(&this, &[4, 9]));
    assert_comes(&forecast, &next, &[4, 8, 9]);
    assert!(forecast.unforeseeable.is_empty(), "{forecast:?}");
}

#[test]
fn what_grub_executes_is_not_guessed() {
    let before = with_grub();
    let this = by_grub(&before);
    let mut after = before.clone();
    after.files.insert(
        "(hd0,gpt2)/grub/grub.cfg".to_owned(),
        b"linux /other".to_vec(),
    );
    for pcrs in [&[8, 9][..], &[8]] {
        let forecast = foreseen(&this, pcrs, &after);
        assert!(
            forecast.unforeseeable[&8].contains("GRUB's configuration"),
            "{forecast:?}"
        );
        assert!(!forecast.values.contains_key(&8));
    }
    let forecast = foreseen(&this, &[9], &after);
    assert_comes(&forecast, &by_grub(&after), &[9]);
}

#[test]
fn what_is_not_found_is_named() {
    let before = with_grub();
    let this = by_grub(&before);
    let mut other_line = before.clone();
    other_line.command_line = "not what was measured".to_owned();
    let forecast = foreseen(&this, &[9], &other_line);
    assert!(
        forecast
            .taken_as_it_was
            .contains("the kernel's command line")
    );
    let forecast = foreseen(&this, &[4, 9], &Disk::default());
    assert_comes(&forecast, &this, &[4, 9]);
    let names: Vec<&str> = forecast
        .taken_as_it_was
        .iter()
        .map(String::as_str)
        .collect();
    let expected = [
        "(hd0,gpt2)/grub/grub.cfg",
        "(hd0,gpt2)/vmlinuz",
        LOADER,
        "the initrd",
        "the kernel",
        "the kernel's command line",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_new_unified_image_is_foreseen_and_phases_of_this_boot_are_not_carried_over() {
    let disk = |sections: &[(&str, &[u8])]| Disk {
        files: BTreeMap::from([(UNIFIED.to_owned(), pe(sections))]),
        ..Disk::default()
    };
    let before = disk(&[(".linux", &kernel("first")), (".cmdline", b"quiet")]);
    let mut this = unified(&before);
    let phases = crate::writer::userspace(&[(11, "phase", "enter-initrd"), (11, "phase", "ready")]);
    this.add_userspace(&phases).unwrap();
    let after = disk(&[
        (".linux", &kernel("second one")),
        (".cmdline", b"quiet debug"),
    ]);
    let mut next = unified(&after);
    let unlocked = crate::writer::userspace(&[(11, "phase", "enter-initrd")]);
    next.add_userspace(&unlocked).unwrap();
    let forecast = foreseen(&this, &[4, 9, 11], &after);
    assert_comes(&forecast, &next, &[4, 11]);
    assert!(forecast.unforeseeable[&9].contains("stub"), "{forecast:?}");

    for (sections, why) in [
        (
            &[(".linux", &kernel("first")[..])][..],
            "no .cmdline any more",
        ),
        (
            &[
                (".linux", &kernel("first")[..]),
                (".cmdline", b"quiet"),
                (".ucode", b"new"),
            ][..],
            "has a .ucode now",
        ),
    ] {
        let forecast = foreseen(&this, &[11], &disk(sections));
        assert!(forecast.unforeseeable[&11].contains(why), "{forecast:?}");
    }
}

#[test]
fn a_log_that_does_not_explain_a_pcr_foresees_the_others() {
    let mut actual = held(GRUB_PCRS, BANK, &[7, 10]);
    let forecast = foresee(&grub(), &actual, &mut Disk::default()).unwrap();
    assert!(
        forecast.unforeseeable[&10].contains("does not lead"),
        "{forecast:?}"
    );
    assert_eq!(forecast.values[&7], actual.get(7).unwrap());
    actual.insert(7, &[1; 32]).unwrap();
    let forecast = foresee(&grub(), &actual, &mut Disk::default()).unwrap();
    assert!(forecast.values.is_empty());
}

/// A real boot with the file that its GRUB read, and with another one in its place.
#[test]
fn the_configuration_of_a_real_boot_is_compared_with_the_file() {
    const PATH: &str = "(hd0,msdos1)/EFI/debian/grub.cfg";
    let actual = held(GRUB_PCRS, BANK, &[8]);
    let cfg = "set timeout=0\nlinux /vmlinuz console=ttyS0 quiet panic=-1\ninitrd /initrd\nboot\n";
    let mut disk = Disk::default();
    disk.files.insert(PATH.to_owned(), cfg.as_bytes().to_vec());
    let forecast = foresee(&grub(), &actual, &mut disk).unwrap();
    assert_eq!(forecast.values[&8], actual.get(8).unwrap(), "{forecast:?}");
    disk.files.insert(PATH.to_owned(), wide(cfg));
    let forecast = foresee(&grub(), &actual, &mut disk).unwrap();
    assert!(forecast.unforeseeable.contains_key(&8), "{forecast:?}");
}
