//! Slots for a TPM that is not there, by its public storage key, as a builder of images makes them.

use std::process::Command;

use luksmith_tests::cryptsetup::run;
use luksmith_tests::systemd::Systemd;
use luksmith_tpm::Tpm;

use crate::support::Swtpm;
use crate::{connect, cryptenroll_by, device, extend, made, unlock, volume};

#[test]
fn slots_of_systemd_cryptenroll_open_that_were_made_without_the_tpm() {
    for systemd in Systemd::since(255) {
        let (swtpm, image) = (Swtpm::on_tcp(), volume());
        connect(&swtpm).storage_root().expect("a storage key");
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("srk.tpm2b_public");
        let mut read = Command::new("tpm2_readpublic");
        read.args(["-Q", "-c", "0x81000001", "-f", "tss", "-o"])
            .arg(&key)
            .env("TPM2TOOLS_TCTI", device(&swtpm));
        run(&mut read, b"").expect(0, "tpm2_readpublic");

        let key = format!("--tpm2-device-key={}", key.display());
        let zero = format!("--tpm2-pcrs=16:sha256={}", "0".repeat(64));
        cryptenroll_by(systemd, &image, &[&key, &zero]);
        assert!(made(&image).sealed[0].seed.is_some(), "to be imported");
        let opened = unlock(&swtpm, &image, None).expect("it opens");
        assert_eq!(opened.slot, Some(1));
        let other = Swtpm::on_tcp();
        assert!(unlock(&other, &image, None).is_err(), "another machine");
        extend(&swtpm, 16);
        assert!(unlock(&swtpm, &image, None).is_err());
    }
}
