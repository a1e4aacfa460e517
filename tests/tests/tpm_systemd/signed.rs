//! PCRs whose values somebody signs, as the builder of a unified kernel image does.

use std::path::{Path, PathBuf};
use std::process::Command;

use luksmith_tests::cryptsetup::run;
use luksmith_tests::systemd::Systemd;
use luksmith_tpm::token::{Enrolment, PolicyFiles, PolicyKey, SignedPcrs, enrol, plan_slot};
use luksmith_tpm::{Digest, HashAlg, Tpm};

use crate::support::Swtpm;
use crate::{FIRST, connect, cryptenroll, device, made, unlock_with, volume};

const KERNEL: &[u8] = b"a kernel";

/// Somebody who builds and signs a kernel image.
pub(crate) struct Vendor {
    folder: tempfile::TempDir,
}

impl Vendor {
    pub(crate) fn new() -> Self {
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
    pub(crate) fn sign(&self, swtpm: &Swtpm, phase: &str) -> PathBuf {
        let mut command = Systemd::all()
            .iter()
            .find_map(|systemd| systemd.find("systemd-measure"))
            .expect("some release has it where we look");
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

    /// What systemd-cryptenroll is told.
    pub(crate) fn options(&self, signatures: &Path) -> [String; 3] {
        [
            format!("--tpm2-public-key={}", self.path("public").display()),
            "--tpm2-public-key-pcrs=11".to_owned(),
            format!("--tpm2-signature={}", signatures.display()),
        ]
    }
}

/// Does to PCR 11 what systemd's boot stub does with this kernel image, and then what the initrd
/// does (`systemd-stub(7)`, `systemd-pcrphase.service(8)`).
pub(crate) fn boot(swtpm: &Swtpm) {
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

#[test]
fn slots_of_systemd_cryptenroll_open_by_signed_pcrs() {
    let vendor = Vendor::new();
    for systemd in Systemd::all() {
        for (pcrs, pin) in [("", "no"), ("7", "no"), ("7", "yes")] {
            let (swtpm, image) = (Swtpm::on_tcp(), volume());
            let signatures = vendor.sign(&swtpm, "enter-initrd");
            boot(&swtpm);
            let pcrs = format!("--tpm2-pcrs={pcrs}");
            let pin = format!("--tpm2-with-pin={pin}");
            let [key, of_11, signature] = vendor.options(&signatures);
            cryptenroll(
                systemd,
                &swtpm,
                &image,
                &[&key, &of_11, &signature, &pcrs, &pin],
            );
            let read = made(&image);
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
}

/// systemd computes the policy of the key itself and finds it in our token; and opens it.
#[test]
fn systemd_takes_our_signed_slot_for_one_of_its_own() {
    for systemd in Systemd::all() {
        let (swtpm, vendor, image) = (Swtpm::on_tcp(), Vendor::new(), volume());
        let signatures = vendor.sign(&swtpm, "enter-initrd");
        boot(&swtpm);
        let key = image.open(FIRST).expect("the first slot").key;
        let enrolment = Enrolment {
            pcrs: &[7],
            legacy_primary: systemd.version < 254,
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
        let [by, of_11, signature] = vendor.options(&signatures);
        cryptenroll(
            systemd,
            &swtpm,
            &image,
            &[&by, &of_11, &signature, "--tpm2-pcrs=7"],
        );
        assert_eq!(image.header(), before, "enrolled already");
        let other = Vendor::new();
        let [by, of_11, _] = other.options(&signatures);
        cryptenroll(systemd, &swtpm, &image, &[&by, &of_11, "--tpm2-pcrs=7"]);
        assert_eq!(image.header().metadata().tokens().len(), 2, "another key");
    }
}
