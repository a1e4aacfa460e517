//! The program through each of its two back ends, against one emulated TPM.

#[path = "tpm_bench/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod bench;

use bench::{Bench, err, out};
use luksmith_tests::cli::{Words as _, command, snapshot};
use luksmith_tests::cryptsetup::{Ended, run};
use serde_json::Value;

/// The program, with the TPM named in these words.
fn by(bench: &Bench, words: &str, line: &str) -> Ended {
    let mut command = command(bench.path());
    // tpm2-tss writes by itself what it did not expect.
    command.env("TSS2_LOG", "all+NONE");
    command.args(line.words()).args(words.words());
    run(&mut command, b"")
}

fn native(bench: &Bench) -> String {
    let address = bench.swtpm.address();
    format!("--tpm2-device={address} --tpm2-backend=native")
}

fn esapi(bench: &Bench) -> String {
    let address = bench.swtpm.address();
    format!("--tpm2-device={address} --tpm2-backend=esapi")
}

/// A TCTI, in the words of tpm2-tss.
fn tcti(bench: &Bench) -> String {
    format!("--tpm2-device=tcti:{}", bench.swtpm.address())
}

const OPEN: &str = "open --test-passphrase volume --token-only";

#[test]
fn each_back_end_opens_what_each_enrolled() {
    let ways = [native, esapi, tcti];
    for enrolled_by in ways {
        let bench = Bench::new();
        let words = enrolled_by(&bench);
        let pcr = "enroll volume --unlock-key-file key --tpm2-pcrs 7";
        by(&bench, &words, pcr).expect(0, "enroll, PCR 7");
        for opened_by in ways {
            by(&bench, &opened_by(&bench), OPEN).expect(0, "the TPM");
        }
        bench.extend(7);
        for opened_by in ways {
            let shut = by(&bench, &opened_by(&bench), OPEN).expect(2, "a changed PCR");
            assert!(
                err(&shut).contains("PCR 7 have other values"),
                "{}",
                err(&shut)
            );
        }
    }
}

#[test]
fn a_pin_and_its_tries_are_the_same_through_both() {
    let bench = Bench::new();
    let pin = "tpm enroll volume --key-file key --new-pin-file pin --no-recovery-key";
    by(&bench, &esapi(&bench), pin).expect(0, "tpm enroll");
    let with = |file: &str| format!("{OPEN} --pin-file {file}");
    for (tried, words) in [native(&bench), esapi(&bench)].iter().enumerate() {
        by(&bench, words, &with("pin")).expect(0, "the PIN");
        let wrong = by(&bench, words, &with("wrong")).expect(2, "a wrong PIN");
        assert!(err(&wrong).contains("wrong PIN"), "{}", err(&wrong));
        for words in [native(&bench), esapi(&bench)] {
            let told = by(&bench, &words, "tpm status --json");
            let told: Value = serde_json::from_slice(&told.out).expect("JSON");
            assert_eq!(told["lockout"]["wrong_tries"], tried + 1);
        }
    }
    let told = by(&bench, &esapi(&bench), "tpm list volume");
    assert!(out(&told).contains("with the PIN"), "{}", out(&told));
}

#[test]
fn what_the_back_end_cannot_do_it_refuses_by_name() {
    let bench = Bench::new();
    let before = snapshot(bench.path());
    let refused = [
        (
            "tpm lockout --set --state-directory=state",
            "the back end esapi cannot do TPM2_DictionaryAttackParameters",
        ),
        (
            "tpm lockout --reset",
            "the back end esapi cannot do TPM2_DictionaryAttackLockReset",
        ),
    ];
    for (args, says) in refused {
        let told = by(&bench, &esapi(&bench), args).expect(1, says);
        assert!(err(&told).contains(says), "{}", err(&told));
        assert!(
            err(&told).contains("--tpm2-backend=native"),
            "{}",
            err(&told)
        );
    }
    let enroll = "tpm enroll volume --key-file key --no-recovery-key --auto --without-secure-boot \
                  --state-directory=state";
    let told = by(&bench, &esapi(&bench), enroll).expect(1, "--auto");
    assert!(
        err(&told).contains("the back end esapi cannot do"),
        "{}",
        err(&told)
    );
    assert_eq!(snapshot(bench.path()), before, "no header was written");
}

#[test]
fn words_that_go_to_neither_are_refused() {
    let bench = Bench::new();
    for words in [
        "--tpm2-device=tcti:device:/dev/tpm0 --tpm2-backend=native",
        "--tpm2-device=swtpm:path=/nothing --tpm2-backend=esapi",
        "--tpm2-device=nonsense --tpm2-backend=esapi",
        "--tpm2-device=auto --tpm2-backend=other",
    ] {
        by(&bench, words, "tpm status").expect(1, words);
    }
}
