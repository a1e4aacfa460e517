//! The program against an emulated TPM: a volume, files with PINs, and what it says.

#[path = "../../../tpm/tests/support/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
pub(crate) mod support;

use std::path::Path;

use luksmith_tests::cli::{SMALL, Words, luksmith};
use luksmith_tests::cryptsetup::Ended;
use luksmith_tpm::{HashAlg, Native, Tpm};
use serde_json::Value;
use tempfile::TempDir;

use support::Swtpm;

/// A volume with the passphrase `first`, files with PINs, and a TPM into whose PCR 7 something was measured.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) swtpm: Swtpm,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let volume = folder.path().join("volume");
        let file = std::fs::File::create(volume).expect("a file");
        file.set_len(6 << 20).expect("a file for the volume");
        let mut args = vec!["format", "volume"];
        // Of options that are given twice the last one counts: room for more slots.
        args.extend(SMALL);
        args.extend(["--luks2-keyslots-size", "4M", "--offset", "10240"]);
        luksmith(folder.path(), &args, b"first\n").expect(0, "format");
        for (name, text) in [("key", "first"), ("pin", "1234\n"), ("wrong", "4321\n")] {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        let bench = Self {
            folder,
            swtpm: Swtpm::on_tcp(),
        };
        bench.extend(7);
        bench
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn extend(&self, pcr: u8) {
        extend(&self.swtpm, pcr);
    }

    /// The program, with the address of the TPM.
    pub(crate) fn run<W: Words + ?Sized>(&self, line: &W, input: &[u8]) -> Ended {
        let device = format!("--tpm2-device={}", self.swtpm.address());
        let mut all = line.words();
        all.push(device.as_ref());
        luksmith(self.path(), &all, input)
    }

    /// `open --test-passphrase`.
    pub(crate) fn open<W: Words + ?Sized>(&self, more: &W, input: &[u8]) -> Ended {
        let mut all = "open --test-passphrase volume".words();
        all.extend(more.words());
        self.run(&all, input)
    }

    /// What each slot is for.
    pub(crate) fn enrolled(&self) -> Vec<(u64, String)> {
        let told = luksmith(self.path(), &["enroll", "volume", "--json"], b"");
        let told = told.expect(0, "enroll");
        let told: Value = serde_json::from_slice(&told.out).expect("JSON");
        assert_eq!(told["schema"], "luksmith.enrolled/1");
        let slots = told["slots"].as_array().expect("slots");
        slots
            .iter()
            .map(|slot| {
                let number = slot["slot"].as_u64().expect("a number");
                (number, slot["type"].as_str().expect("a word").to_owned())
            })
            .collect()
    }

    pub(crate) fn factors(&self) -> Vec<String> {
        self.enrolled()
            .into_iter()
            .map(|(_, factor)| factor)
            .collect()
    }
}

/// Measures something, always the same, into a PCR.
pub(crate) fn extend(swtpm: &Swtpm, pcr: u8) {
    Native::over(swtpm.connect())
        .extend_pcr(HashAlg::Sha256, pcr, &[pcr + 1; 32])
        .expect("an extend");
}

pub(crate) fn out(ended: &Ended) -> String {
    String::from_utf8_lossy(&ended.out).into_owned()
}

pub(crate) fn err(ended: &Ended) -> String {
    ended.err.clone()
}
