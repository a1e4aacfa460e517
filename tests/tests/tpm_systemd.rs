//! Slots of systemd-cryptenroll open here, and ours open for the token plug-in of systemd: on
//! image files with an emulated TPM, so neither device-mapper nor root is needed.

#[path = "../../tpm/tests/support/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use luksmith_crypto::Passphrase;
use luksmith_keyslot::{
    OpenLimits, PinRequest, ReadError, Target, UnlockError, Unlocked, Which, unlock_by_tokens,
};
use luksmith_tests::cryptsetup::{CHEAP, cryptsetup, run};
use luksmith_tests::image::{Image, passphrase};
use luksmith_tpm::token::{
    Enrolment, NewPin, Pin, PolicyFiles, PolicyKey, SignedPcrs, SystemdTpm2, TpmTokens, enrol,
    plan_slot,
};
use luksmith_tpm::{Digest, HashAlg, Native, Tpm};
use support::Swtpm;

const FIRST: &[u8] = b"first";

/// A volume of cryptsetup with one passphrase.
fn volume() -> Image {
    let image = Image::blank(32 << 20);
    let path = image.data();
    let mut args = vec!["luksFormat", "--type", "luks2", "--key-file", "-"];
    args.extend(CHEAP);
    args.push(path.to_str().expect("a UTF-8 path"));
    cryptsetup(&args, FIRST).expect(0, "luksFormat");
    image
}

/// What systemd calls the TPM.
fn device(swtpm: &Swtpm) -> String {
    swtpm.address()
}

fn connect(swtpm: &Swtpm) -> Native<luksmith_tpm::transport::Stream> {
    Native::over(swtpm.connect())
}

/// A slot of systemd-cryptenroll.
fn cryptenroll(swtpm: &Swtpm, image: &Image, pcrs: &str, pin: Option<&str>) {
    let mut command = Command::new("systemd-cryptenroll");
    command
        .arg(format!("--tpm2-device={}", device(swtpm)))
        .arg(format!("--tpm2-pcrs={pcrs}"))
        // Whatever of the machine it would find by itself.
        .args(["--tpm2-public-key="])
        .env("PASSWORD", "first");
    if let Some(pin) = pin {
        command.arg("--tpm2-with-pin=yes").env("NEWPIN", pin);
    }
    run(command.arg(image.data()), b"").expect(0, "systemd-cryptenroll");
}

fn unlock(swtpm: &Swtpm, image: &Image, pin: Option<&[u8]>) -> Result<Unlocked, UnlockError> {
    unlock_with(swtpm, image, pin, PolicyFiles::default())
}

fn unlock_with(
    swtpm: &Swtpm,
    image: &Image,
    pin: Option<&[u8]>,
    files: PolicyFiles,
) -> Result<Unlocked, UnlockError> {
    let header = image.header();
    let bytes = std::fs::read(image.header_file()).expect("the header");
    let tokens = TpmTokens::new(|| Ok(Box::new(connect(swtpm)) as Box<dyn Tpm>)).with_files(files);
    let mut read = |area: luksmith_luks2::Area, len: usize| {
        let at = usize::try_from(area.offset).expect("fits memory");
        Ok::<_, ReadError>(bytes[at..at + len].to_vec())
    };
    let mut ask = |_: PinRequest<'_>| -> Option<Passphrase> { pin.map(passphrase) };
    unlock_by_tokens(
        &header,
        Which::ByPriority,
        None,
        Target::Data,
        &[&tokens],
        &mut ask,
        &mut read,
        &OpenLimits::default(),
    )
}

#[test]
fn slots_of_systemd_cryptenroll_open_by_pcrs() {
    let swtpm = Swtpm::on_tcp();
    let image = volume();
    connect(&swtpm)
        .extend_pcr(HashAlg::Sha256, 7, &[7; 32])
        .expect("an extend");
    cryptenroll(&swtpm, &image, "7+16", None);
    let token = image.header().metadata().tokens()[&0].clone();
    let read = SystemdTpm2::parse(&token).expect("systemd's token");
    assert_eq!((read.pcrs, read.pin), (vec![7, 16], Pin::None));
    let opened = unlock(&swtpm, &image, None).expect("it opens");
    assert_eq!(opened.slot, Some(1));
    connect(&swtpm)
        .extend_pcr(HashAlg::Sha256, 16, &[1; 32])
        .expect("an extend");
    assert!(unlock(&swtpm, &image, None).is_err());
}

#[test]
fn slots_of_systemd_cryptenroll_open_by_a_pin() {
    let swtpm = Swtpm::on_tcp();
    let image = volume();
    cryptenroll(&swtpm, &image, "16", Some("1234"));
    let token = image.header().metadata().tokens()[&0].clone();
    let read = SystemdTpm2::parse(&token).expect("systemd's token");
    assert!(read.pin.is_needed());
    assert!(unlock(&swtpm, &image, Some(b"4321")).is_err());
    let opened = unlock(&swtpm, &image, Some(b"1234")).expect("it opens");
    assert_eq!(opened.slot, Some(1));
}

/// The version of systemd on this machine.
fn systemd_version() -> u32 {
    let told = run(Command::new("systemd-cryptenroll").arg("--version"), b"");
    let text = String::from_utf8_lossy(&told.out).into_owned();
    text.split_whitespace()
        .nth(1)
        .and_then(|word| word.split('.').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no version in {text:?}"))
}

/// A volume with a TPM slot of ours, bound to PCR 7.
fn ours(swtpm: &Swtpm, pin: Option<(&Passphrase, NewPin)>, legacy_primary: bool) -> Image {
    let image = volume();
    let key = image.open(FIRST).expect("the first slot").key;
    let enrolment = Enrolment {
        bank: HashAlg::Sha256,
        pcrs: &[7],
        pin,
        legacy_primary,
        ..Enrolment::default()
    };
    let enrolled = enrol(&mut connect(swtpm), &enrolment).expect("enrolled");
    image.change(|header| plan_slot(header, &key, &enrolled).map(|added| added.change));
    let opened = unlock(swtpm, &image, Some(b"1234")).expect("it opens here");
    assert_eq!(opened.slot, Some(1));
    image
}

/// systemd computes the policy of the PCRs itself and finds it in our token, so that it has
/// nothing to do.
#[test]
fn systemd_takes_our_slot_for_one_of_its_own() {
    let swtpm = Swtpm::on_tcp();
    let image = ours(&swtpm, None, systemd_version() < 254);
    let before = image.header();
    cryptenroll(&swtpm, &image, "7", None);
    assert_eq!(image.header(), before, "enrolled already");
    cryptenroll(&swtpm, &image, "7+16", None);
    assert_eq!(image.header().metadata().tokens().len(), 2, "another set");
}

/// Only since 256 can systemd be told to open a slot where there is no device-mapper.
#[test]
fn our_slots_open_for_systemd() {
    let version = systemd_version();
    if version < 256 {
        eprintln!("not tested: systemd {version} cannot be asked");
        return;
    }
    let swtpm = Swtpm::on_tcp();
    let pin = passphrase(b"1234");
    let mut forms = vec![None, Some((&pin, NewPin::Salted))];
    if version >= 262 {
        forms.push(Some((&pin, NewPin::default())));
    }
    for pin in forms {
        let image = ours(&swtpm, pin, false);
        let mut command = Command::new("systemd-cryptenroll");
        command
            .arg(format!("--unlock-tpm2-device={}", device(&swtpm)))
            .arg("--recovery-key")
            .env("PIN", "1234")
            .arg(image.data());
        run(&mut command, b"").expect(0, "systemd-cryptenroll by our slot");
        assert_eq!(image.header().metadata().keyslots().len(), 3);
    }
}

/// Where systemd keeps what it does not put into the path.
const MEASURE: &str = "/usr/lib/systemd/systemd-measure";

const KERNEL: &[u8] = b"a kernel";

/// Somebody who builds and signs a kernel image.
struct Vendor {
    folder: tempfile::TempDir,
}

impl Vendor {
    fn new() -> Self {
        let vendor = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        let [private, public] = ["private", "public"].map(|name| vendor.path(name));
        let mut command = Command::new("openssl");
        command
            .args(["genpkey", "-algorithm", "RSA", "-out"])
            .arg(&private);
        run(&mut command, b"").expect(0, "openssl genpkey");
        let mut command = Command::new("openssl");
        command.args(["pkey", "-pubout", "-in"]).arg(&private);
        run(command.arg("-out").arg(&public), b"").expect(0, "openssl pkey");
        std::fs::write(vendor.path("linux"), KERNEL).expect("written");
        vendor
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn key(&self) -> PolicyKey {
        let pem = std::fs::read(self.path("public")).expect("the key");
        PolicyKey::from_pem(&pem).expect("a key")
    }

    /// Lets systemd sign what PCR 11 will be in a phase of the boot, into a file.
    fn sign(&self, swtpm: &Swtpm, phase: &str) -> PathBuf {
        let mut command = Command::new(MEASURE);
        command
            .args(["sign", "--bank=sha256"])
            .arg(format!("--phase={phase}"))
            .arg(format!("--tpm2-device={}", device(swtpm)));
        for (option, name) in [
            ("linux", "linux"),
            ("private-key", "private"),
            ("public-key", "public"),
        ] {
            command.arg(format!("--{option}={}", self.path(name).display()));
        }
        let done = run(&mut command, b"");
        let json = done.out.clone();
        done.expect(0, "systemd-measure");
        let file = self.path("signatures");
        std::fs::write(&file, json).expect("written");
        file
    }
}

/// Does to PCR 11 what systemd's boot stub does with this kernel image, and then what the initrd
/// does (`systemd-stub(7)`, `systemd-pcrphase.service(8)`).
fn boot(swtpm: &Swtpm) {
    for measured in [b".linux\0", KERNEL, b"enter-initrd"] {
        measure(swtpm, measured);
    }
}

fn measure(swtpm: &Swtpm, measured: &[u8]) {
    let digest = Digest::of(&[measured]);
    connect(swtpm)
        .extend_pcr(HashAlg::Sha256, 11, &digest.0)
        .expect("an extend");
}

/// Whether systemd can sign here; it is in a package of its own since 255.
fn can_sign() -> bool {
    let there = Path::new(MEASURE).exists();
    if !there {
        eprintln!("not tested: no {MEASURE}");
    }
    there
}

fn cryptenroll_signed(swtpm: &Swtpm, image: &Image, vendor: &Vendor, more: &[&str]) {
    let mut command = Command::new("systemd-cryptenroll");
    command
        .arg(format!("--tpm2-device={}", device(swtpm)))
        .arg(format!(
            "--tpm2-public-key={}",
            vendor.path("public").display()
        ))
        .args(["--tpm2-public-key-pcrs=11"])
        .args(more)
        .env("PASSWORD", "first")
        .env("NEWPIN", "1234");
    run(command.arg(image.data()), b"").expect(0, "systemd-cryptenroll");
}

#[test]
fn slots_of_systemd_cryptenroll_open_by_signed_pcrs() {
    if !can_sign() {
        return;
    }
    let vendor = Vendor::new();
    for (pcrs, pin) in [("", "no"), ("7", "no"), ("7", "yes")] {
        let swtpm = Swtpm::on_tcp();
        let image = volume();
        let signatures = vendor.sign(&swtpm, "enter-initrd");
        boot(&swtpm);
        let signature = format!("--tpm2-signature={}", signatures.display());
        let pcrs = format!("--tpm2-pcrs={pcrs}");
        let pin = format!("--tpm2-with-pin={pin}");
        cryptenroll_signed(&swtpm, &image, &vendor, &[&signature, &pcrs, &pin]);
        let token = image.header().metadata().tokens()[&0].clone();
        let read = SystemdTpm2::parse(&token).expect("systemd's token");
        let signed = read.signed.as_ref().expect("a signed policy");
        assert_eq!((&signed.pcrs, &signed.key), (&vec![11], &vendor.key()));
        let files = || PolicyFiles::default().with_signatures(&signatures);
        let opened = unlock_with(&swtpm, &image, Some(b"1234"), files()).expect("it opens");
        assert_eq!(opened.slot, Some(1));
        measure(&swtpm, b"leave-initrd");
        let told = unlock_with(&swtpm, &image, Some(b"1234"), files());
        assert!(told.is_err(), "only in the initrd");
        vendor.sign(&swtpm, "enter-initrd:leave-initrd");
        unlock_with(&swtpm, &image, Some(b"1234"), files()).expect("signed for later, too");
    }
}

/// systemd computes the policy of the key itself and finds it in our token.
#[test]
fn systemd_takes_our_signed_slot_for_one_of_its_own() {
    if !can_sign() {
        return;
    }
    let (swtpm, vendor, image) = (Swtpm::on_tcp(), Vendor::new(), volume());
    let signatures = vendor.sign(&swtpm, "enter-initrd");
    boot(&swtpm);
    let key = image.open(FIRST).expect("the first slot").key;
    let enrolment = Enrolment {
        pcrs: &[7],
        legacy_primary: systemd_version() < 254,
        signed: Some(SignedPcrs {
            key: vendor.key(),
            pcrs: vec![11],
            purpose: None,
        }),
        files: PolicyFiles::default().with_signatures(&signatures),
        ..Enrolment::default()
    };
    let enrolled = enrol(&mut connect(&swtpm), &enrolment).expect("enrolled");
    assert!(enrolled.untried().is_none());
    image.change(|header| plan_slot(header, &key, &enrolled).map(|added| added.change));
    let before = image.header();
    let signature = format!("--tpm2-signature={}", signatures.display());
    cryptenroll_signed(&swtpm, &image, &vendor, &[&signature, "--tpm2-pcrs=7"]);
    assert_eq!(image.header(), before, "enrolled already");
    cryptenroll_signed(&swtpm, &image, &Vendor::new(), &["--tpm2-pcrs=7"]);
    assert_eq!(image.header().metadata().tokens().len(), 2, "another key");
}
