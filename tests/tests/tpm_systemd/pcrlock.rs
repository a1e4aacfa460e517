//! PCRs whose values an NV index allows, as systemd-pcrlock predicts them; with its own program.

use std::path::PathBuf;
use std::process::Command;

use luksmith_tests::cryptsetup::run;
use luksmith_tests::systemd::Systemd;
use luksmith_tpm::token::{Enrolment, PolicyFiles, enrol, plan_slot};

use crate::signed::{Vendor, boot};
use crate::support::Swtpm;
use crate::{FIRST, connect, cryptenroll, device, extend, made, opens_for_by, unlock_with, volume};

/// A policy for PCR 16 as it is, and the file that tells of it.
struct Policy {
    folder: tempfile::TempDir,
    systemd: &'static Systemd,
}

impl Policy {
    fn of_now(swtpm: &Swtpm) -> Self {
        let policy = Self {
            folder: tempfile::tempdir().expect("a folder"),
            systemd: Systemd::since(257)
                .find(|systemd| systemd.find("systemd-pcrlock").is_some())
                .expect("some release has it where we look"),
        };
        policy.make(swtpm);
        policy
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("pcrlock.json")
    }

    /// Makes it, or writes it anew.
    fn make(&self, swtpm: &Swtpm) {
        let nothing = self.folder.path().join("nothing");
        std::fs::write(&nothing, "").expect("written");
        let mut command = self.systemd.program("systemd-pcrlock");
        command
            .args(["make-policy", "--pcr=16"])
            .arg(format!("--policy={}", self.file().display()))
            .env("SYSTEMD_TPM2_DEVICE", device(swtpm))
            .env("SYSTEMD_MEASURE_LOG_FIRMWARE", &nothing)
            .env("SYSTEMD_MEASURE_LOG_USERSPACE", &nothing);
        run(&mut command, b"").expect(0, "systemd-pcrlock make-policy");
    }

    /// This program, and the file where it looks for it: in a /run that nobody else sees.
    fn in_its_place(&self, program: &Command) -> Command {
        let script =
            r#"mount -t tmpfs run /run && mkdir /run/systemd && cp "$0" /run/systemd && exec "$@""#;
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c", script])
            .arg(self.file())
            .arg(program.get_program())
            .args(program.get_args());
        for (name, value) in program.get_envs() {
            command.env(name, value.expect("only set, never removed"));
        }
        command
    }

    fn option(&self) -> String {
        format!("--tpm2-pcrlock={}", self.file().display())
    }

    fn files(&self) -> PolicyFiles {
        PolicyFiles::default().with_pcrlock(self.file())
    }
}

#[test]
fn slots_of_systemd_cryptenroll_open_by_pcrlock() {
    for systemd in Systemd::since(257) {
        for pin in ["no", "yes"] {
            let (swtpm, image) = (Swtpm::on_tcp(), volume());
            let policy = Policy::of_now(&swtpm);
            let pin = format!("--tpm2-with-pin={pin}");
            cryptenroll(
                systemd,
                &swtpm,
                &image,
                &[&policy.option(), &pin, "--tpm2-pcrs="],
            );
            assert!(made(&image).pcrlock.is_some());
            let open = || unlock_with(&swtpm, &image, Some(b"1234"), policy.files());
            assert_eq!(open().expect("it opens").slot, Some(1));
            extend(&swtpm, 16);
            assert!(open().is_err(), "not what was predicted");
        }
    }
}

/// What is sealed has two parts, of which one takes a signature and the other the index.
#[test]
fn slots_of_systemd_cryptenroll_open_by_a_signature_and_pcrlock() {
    let vendor = Vendor::new();
    for systemd in Systemd::since(257) {
        let (swtpm, image) = (Swtpm::on_tcp(), volume());
        let signatures = vendor.sign(&swtpm, "enter-initrd");
        boot(&swtpm);
        let policy = Policy::of_now(&swtpm);
        let [key, of_11, signature] = vendor.options(&signatures);
        let pcrlock = policy.option();
        cryptenroll(
            systemd,
            &swtpm,
            &image,
            &[&key, &of_11, &signature, &pcrlock, "--tpm2-pcrs="],
        );
        assert_eq!(made(&image).sealed.len(), 2);
        let files = || policy.files().with_signatures(&signatures);
        let opened = unlock_with(&swtpm, &image, None, files()).expect("it opens");
        assert_eq!(opened.slot, Some(1));
        for one in [
            policy.files(),
            PolicyFiles::default().with_signatures(&signatures),
        ] {
            assert!(
                unlock_with(&swtpm, &image, None, one).is_err(),
                "both are needed"
            );
        }
    }
}

#[test]
fn our_slots_by_pcrlock_open_for_systemd() {
    for systemd in Systemd::since(257) {
        let (swtpm, image) = (Swtpm::on_tcp(), volume());
        let policy = Policy::of_now(&swtpm);
        let key = image.open(FIRST).expect("the first slot").key;
        let enrolment = Enrolment {
            pcrlock: true,
            files: policy.files(),
            ..Enrolment::default()
        };
        let enrolled = enrol(&mut connect(&swtpm), &enrolment).expect("enrolled");
        image.change(|header| plan_slot(header, &key, &enrolled).map(|added| added.change));
        let program = policy.in_its_place(&systemd.program("systemd-cryptenroll"));
        opens_for_by(program, systemd, &swtpm, &image);
    }
}
