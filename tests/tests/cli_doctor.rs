//! `doctor` on the TPM and on the slots of crypttab's volumes; whether this machine could serve them is
//! another question, so its exit number is not looked at.

#[path = "tpm_bench/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod bench;

use bench::{Bench, out};
use luksmith_tests::cli::luksmith;
use serde_json::Value;

/// What it says under this name, each as severity and sentence.
fn findings(bench: &Bench, id: &str) -> Vec<(String, String)> {
    let table = bench.path().join("table");
    let volume = bench.path().join("volume");
    let line = format!("root {} none luksmith\n", volume.display());
    std::fs::write(table, line).expect("a table");
    let told = bench.run("doctor --json --crypttab table", b"");
    told_of(&out(&told), id)
}

fn told_of(json: &str, id: &str) -> Vec<(String, String)> {
    let told: Value = serde_json::from_str(json).expect("JSON");
    let all = told["findings"].as_array().expect("findings").iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    all.filter(|one| one["id"] == id)
        .map(|one| (text(&one["severity"]), text(&one["what"])))
        .collect()
}

fn one(bench: &Bench, id: &str) -> (String, String) {
    let mut found = findings(bench, id);
    assert_eq!(found.len(), 1, "{id}: {found:?}");
    found.remove(0)
}

#[test]
fn the_tpm_is_examined() {
    let bench = Bench::new();
    let (severity, what) = one(&bench, "tpm");
    assert_eq!(severity, "good");
    assert!(what.starts_with("there is a TPM 2.0 by IBM"), "{what}");
    assert_eq!(one(&bench, "tpm-pcrs").0, "good");
    assert_eq!(one(&bench, "tpm-policy").0, "good");
    let (severity, what) = one(&bench, "tpm-lockout");
    assert_eq!(severity, "warning");
    assert!(what.contains("after 3 wrong PINs"), "{what}");
    bench
        .run("tpm lockout --set --state-directory=state", b"")
        .expect(0, "tpm lockout --set");
    assert_eq!(one(&bench, "tpm-lockout").0, "good");
}

#[test]
fn slots_that_would_not_open_are_told_and_no_try_is_spent() {
    let bench = Bench::new();
    assert_eq!(findings(&bench, "tpm-slots"), []);
    let by_pcr = "enroll volume --unlock-key-file key --tpm2-pcrs 7";
    bench.run(by_pcr, b"").expect(0, "enroll");
    let by_pin =
        "enroll volume --unlock-key-file key --tpm2-pcrs= --tpm2-with-pin=yes --new-pin-file pin";
    bench.run(by_pin, b"").expect(0, "enroll");
    let good = |token| {
        (
            "good".to_owned(),
            format!("root: token {token} would open now"),
        )
    };
    assert_eq!(findings(&bench, "tpm-slots"), [good(0), good(1)]);
    bench.extend(7);
    let found = findings(&bench, "tpm-slots");
    let says = "root: token 0 would not open now: PCR 7 have other values";
    assert_eq!(found, [("warning".to_owned(), says.to_owned()), good(1)]);
    let told = bench.run("tpm status --json", b"");
    let told: Value = serde_json::from_slice(&told.out).expect("JSON");
    assert_eq!(told["lockout"]["wrong_tries"], 0);
}

#[test]
fn a_slot_that_only_the_next_boot_can_try_is_no_warning() {
    let bench = Bench::new();
    let unattended = "tpm enroll volume --key-file key --tpm2-with-pin=no --no-recovery-key";
    bench.run(unattended, b"").expect(0, "tpm enroll");
    bench.extend(15);
    let (severity, what) = one(&bench, "tpm-slots");
    assert_eq!(severity, "good");
    assert!(what.contains("cannot be tried now"), "{what}");
}

#[test]
fn a_missing_tpm_is_a_warning_where_a_volume_needs_it() {
    let bench = Bench::new();
    let by_pcr = "enroll volume --unlock-key-file key --tpm2-pcrs 7";
    bench.run(by_pcr, b"").expect(0, "enroll");
    assert_eq!(one(&bench, "tpm").0, "good");
    let nowhere = "doctor --json --crypttab table --tpm2-device=/dev/nothing";
    let told = out(&luksmith(bench.path(), nowhere, b""));
    assert_eq!(told_of(&told, "tpm")[0].0, "warning", "{told}");
    assert!(
        told_of(&told, "tpm-slots")[0].1.contains("no TPM"),
        "{told}"
    );
    let without_volumes = "doctor --json --crypttab=/nonexistent --tpm2-device=/dev/nothing";
    let told = out(&luksmith(bench.path(), without_volumes, b""));
    assert_eq!(told_of(&told, "tpm")[0].0, "good", "{told}");
}
