//! Slots of systemd-cryptenroll open here, and ours open for systemd: of several releases, on image files with
//! an emulated TPM, so neither device-mapper nor root is needed.

mod offline;
mod pcrlock;
mod signed;
#[path = "../../../tpm/tests/support/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::process::Command;

use luksmith_crypto::Passphrase;
use luksmith_keyslot::{
    OpenLimits, PinRequest, ReadError, Target, UnlockError, Unlocked, Which, unlock_by_tokens,
};
use luksmith_tests::cryptsetup::{CHEAP, cryptsetup, run};
use luksmith_tests::image::{Image, passphrase};
use luksmith_tests::systemd::Systemd;
use luksmith_tpm::token::{
    Enrolment, NewPin, Pin, PolicyFiles, SystemdTpm2, TpmTokens, enrol, plan_slot,
};
use luksmith_tpm::{HashAlg, Native, Tpm};
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

/// A slot of systemd-cryptenroll, for the TPM.
fn cryptenroll(systemd: &Systemd, swtpm: &Swtpm, image: &Image, more: &[&str]) {
    let device = format!("--tpm2-device={}", device(swtpm));
    let mut all = vec![device.as_str()];
    all.extend(more);
    cryptenroll_by(systemd, image, &all);
}

/// The same, for what these options name. The new PIN is 1234.
fn cryptenroll_by(systemd: &Systemd, image: &Image, more: &[&str]) {
    let mut command = systemd.program("systemd-cryptenroll");
    // Whatever of the machine it would find by itself.
    if !more
        .iter()
        .any(|word| word.starts_with("--tpm2-public-key="))
    {
        command.arg("--tpm2-public-key=");
    }
    command.args(more).arg(image.data());
    command.env("PASSWORD", "first").env("NEWPIN", "1234");
    let what = format!("systemd-cryptenroll {}", systemd.version);
    run(&mut command, b"").expect(0, &what);
}

/// The token that it made, and nothing else did.
fn made(image: &Image) -> SystemdTpm2 {
    let header = image.header();
    assert_eq!(header.metadata().tokens().len(), 1);
    SystemdTpm2::parse(&header.metadata().tokens()[&0]).expect("systemd's token")
}

fn extend(swtpm: &Swtpm, pcr: u8) {
    connect(swtpm)
        .extend_pcr(HashAlg::Sha256, pcr, &[pcr + 1; 32])
        .expect("an extend");
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
    for systemd in Systemd::all() {
        let (swtpm, image) = (Swtpm::on_tcp(), volume());
        extend(&swtpm, 7);
        cryptenroll(systemd, &swtpm, &image, &["--tpm2-pcrs=7+16"]);
        let read = made(&image);
        assert_eq!((read.pcrs, read.pin), (vec![7, 16], Pin::None));
        let opened = unlock(&swtpm, &image, None).expect("it opens");
        assert_eq!(opened.slot, Some(1));
        extend(&swtpm, 16);
        assert!(unlock(&swtpm, &image, None).is_err());
    }
}

#[test]
fn slots_of_systemd_cryptenroll_open_by_a_pin() {
    for systemd in Systemd::all() {
        let mut forms = vec!["yes"];
        if systemd.version >= 262 {
            forms.push("direct");
        }
        for form in forms {
            let (swtpm, image) = (Swtpm::on_tcp(), volume());
            let with_pin = format!("--tpm2-with-pin={form}");
            cryptenroll(systemd, &swtpm, &image, &["--tpm2-pcrs=16", &with_pin]);
            let as_known = match made(&image).pin {
                Pin::None => false,
                Pin::Plain => systemd.version < 253,
                Pin::Salted { .. } => (253..262).contains(&systemd.version) || form == "direct",
                Pin::Argon2id { .. } => systemd.version >= 262 && form == "yes",
            };
            assert!(as_known, "{} of systemd {}", form, systemd.version);
            assert!(unlock(&swtpm, &image, Some(b"4321")).is_err());
            let opened = unlock(&swtpm, &image, Some(b"1234")).expect("it opens");
            assert_eq!(opened.slot, Some(1));
        }
    }
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
    for systemd in Systemd::all() {
        let swtpm = Swtpm::on_tcp();
        let image = ours(&swtpm, None, systemd.version < 254);
        let before = image.header();
        cryptenroll(systemd, &swtpm, &image, &["--tpm2-pcrs=7"]);
        assert_eq!(image.header(), before, "enrolled already");
        cryptenroll(systemd, &swtpm, &image, &["--tpm2-pcrs=7+16"]);
        assert_eq!(image.header().metadata().tokens().len(), 2, "another set");
    }
}

/// Opens by the TPM and nothing else, to make a recovery key: all that systemd does with a slot of the TPM where
/// there is no device-mapper, since 256.
fn opens_for(systemd: &Systemd, swtpm: &Swtpm, image: &Image) {
    opens_for_by(
        systemd.program("systemd-cryptenroll"),
        systemd,
        swtpm,
        image,
    );
}

fn opens_for_by(mut program: Command, systemd: &Systemd, swtpm: &Swtpm, image: &Image) {
    program
        .arg(format!("--unlock-tpm2-device={}", device(swtpm)))
        .arg("--recovery-key")
        .env("PIN", "1234")
        .arg(image.data());
    let before = image.header().metadata().keyslots().len();
    let what = format!("systemd-cryptenroll {} by our slot", systemd.version);
    run(&mut program, b"").expect(0, &what);
    assert_eq!(image.header().metadata().keyslots().len(), before + 1);
}

#[test]
fn our_slots_open_for_systemd() {
    for systemd in Systemd::since(256) {
        let swtpm = Swtpm::on_tcp();
        let pin = passphrase(b"1234");
        let mut forms = vec![None, Some((&pin, NewPin::Salted))];
        if systemd.version >= 262 {
            forms.push(Some((&pin, NewPin::default())));
        }
        for pin in forms {
            opens_for(systemd, &swtpm, &ours(&swtpm, pin, false));
        }
    }
}
