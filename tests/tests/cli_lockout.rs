//! `tpm lockout`: rules, authorization and wrong PINs, by the program, against an emulated TPM.

#[path = "tpm_bench/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod bench;

use std::os::unix::fs::PermissionsExt as _;

use bench::{Bench, err, out};
use luksmith_tests::cryptsetup::Ended;
use serde_json::{Value, json};

const STATE: &str = "--state-directory=state";

fn lockout(bench: &Bench, more: &str) -> Ended {
    bench.run(&format!("tpm lockout {more}"), b"")
}

/// The same, where the authorization is kept for the next time.
fn kept(bench: &Bench, more: &str) -> Ended {
    lockout(bench, &format!("{STATE} {more}"))
}

fn shown(bench: &Bench) -> Value {
    let told = kept(bench, "--json").expect(0, "tpm lockout");
    serde_json::from_slice(&told.out).expect("JSON")
}

/// A slot with the PIN 1234. What was said of the TPM.
fn enroll_pin(bench: &Bench) -> String {
    let line = "tpm enroll volume --key-file key --new-pin-file pin --no-recovery-key";
    err(&bench
        .run(&format!("{line} {STATE}"), b"")
        .expect(0, "tpm enroll"))
}

fn open_with(bench: &Bench, pin: &str) -> Ended {
    bench.open(&["--token-only", "--pin-file", pin], b"")
}

#[test]
fn rules_and_authorization_are_set_once_and_a_pin_is_then_enrolled_without_a_warning() {
    let bench = Bench::new();
    let said = enroll_pin(&bench);
    let warning = "warning: the TPM locks itself after 3 wrong PINs, and any system that boots on \
                   this machine can reset the count of wrong PINs; better: luksmith tpm lockout --set";
    assert!(said.contains(&format!("{warning}\n")), "{said}");
    let now = shown(&bench);
    assert_eq!(now["authorization_set"], false);
    // What to do is said once, wherever it is said.
    assert_eq!(now["advice"], warning["warning: ".len()..]);
    let told = err(&kept(&bench, "").expect(0, "tpm lockout"));
    assert_eq!(told, warning.replacen("warning", "note", 1) + "\n");

    let set = kept(&bench, "--set").expect(0, "--set");
    assert!(
        out(&set).contains("0 of 32, 32 left; one is forgotten every 10 min"),
        "{}",
        out(&set)
    );
    let now = shown(&bench);
    assert_eq!(now["max_tries"], 32);
    assert_eq!(now["forget_one_after_s"], 600);
    assert_eq!(now["recovery_s"], 86400);
    assert_eq!(now["authorization_set"], true);
    assert_eq!(now["advice"], Value::Null);
    let file = bench.path().join("state/lockout.key");
    let mode = std::fs::metadata(&file)
        .expect("it is file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let key = std::fs::read_to_string(&file).expect("it is file");
    assert!(!err(&set).contains(key.trim()) && !out(&set).contains(key.trim()));

    let said = enroll_pin(&bench);
    assert!(!said.contains("warning"), "{said}");

    // With the authorization of before, which stays.
    kept(&bench, "--set --max-tries 10 --recovery-time 7200").expect(0, "other rules");
    assert_eq!(shown(&bench)["max_tries"], 10);
    assert_eq!(std::fs::read_to_string(&file).expect("it is file"), key);
}

#[test]
fn wrong_pins_lock_the_tpm_and_only_who_knows_the_authorization_opens_it() {
    let bench = Bench::new();
    kept(&bench, "--set --max-tries 5").expect(0, "--set");
    enroll_pin(&bench);
    for wrong in 1..=5 {
        open_with(&bench, "wrong").expect(2, "a wrong PIN");
        assert_eq!(shown(&bench)["wrong_tries"], wrong);
    }
    open_with(&bench, "pin").expect(4, "locked, also for the right one");

    // Another system on the same machine: it has no file.
    let other = lockout(&bench, "--reset --state-directory=other").expect(1, "--reset");
    assert!(
        err(&other).contains("it is left as it is"),
        "{}",
        err(&other)
    );
    // It has one of its own.
    std::fs::write(bench.path().join("guess"), "guess\n").expect("a file");
    let guess = lockout(&bench, "--reset --auth-file guess").expect(2, "--reset");
    assert!(
        err(&guess).contains("lockout authorization is set"),
        "{}",
        err(&guess)
    );
    open_with(&bench, "pin").expect(4, "still locked");
    assert_eq!(shown(&bench)["tries_left"], 0);
}

#[test]
fn who_knows_the_authorization_resets_wrong_pins() {
    let bench = Bench::new();
    kept(&bench, "--set --max-tries 5").expect(0, "--set");
    enroll_pin(&bench);
    for _ in 0..5 {
        open_with(&bench, "wrong").expect(2, "a wrong PIN");
    }
    kept(&bench, "--reset").expect(0, "--reset");
    assert_eq!(shown(&bench)["tries_left"], 5);
    open_with(&bench, "pin").expect(0, "the PIN");
}

/// As the TPM is sold: whoever boots anything on the machine has as many tries as he likes.
#[test]
fn without_an_authorization_anybody_resets_wrong_pins() {
    let bench = Bench::new();
    enroll_pin(&bench);
    for _ in 0..3 {
        open_with(&bench, "wrong").expect(2, "a wrong PIN");
    }
    open_with(&bench, "pin").expect(4, "locked");
    lockout(&bench, "--reset --state-directory=nothing").expect(0, "--reset");
    open_with(&bench, "pin").expect(0, "the PIN");
}

#[test]
fn the_authorization_of_another_system_is_left_alone() {
    let bench = Bench::new();
    std::fs::write(bench.path().join("theirs"), "theirs\n").expect("a file");
    kept(&bench, "--set --auth-file theirs").expect(0, "the other system sets it");
    assert!(!bench.path().join("state").exists(), "it is kept nowhere");
    let before = shown(&bench);
    let refused = kept(&bench, "--set --max-tries 7").expect(1, "--set");
    assert!(
        err(&refused).contains("not by this system"),
        "{}",
        err(&refused)
    );
    assert_eq!(shown(&bench), before);
    assert_eq!(before["authorization_file"], json!(null));
    // Somebody who knows it may change the rules.
    lockout(&bench, "--set --max-tries 7 --auth-file theirs").expect(0, "--set");
    assert_eq!(shown(&bench)["max_tries"], 7);
}

#[test]
fn a_run_that_was_cut_off_is_ended_with_the_authorization_that_it_kept() {
    let bench = Bench::new();
    let state = bench.path().join("state");
    std::fs::create_dir(&state).expect("a folder");
    std::fs::write(state.join("lockout.key"), "kept before\n").expect("a file");
    kept(&bench, "--set").expect(0, "--set");
    kept(&bench, "--reset").expect(0, "--reset");
    std::fs::write(bench.path().join("same"), "kept before\n").expect("a file");
    lockout(&bench, "--reset --auth-file same").expect(0, "--reset");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let bench = Bench::new();
    lockout(&bench, "--set --reset").expect(1, "both");
    lockout(&bench, "--max-tries 5").expect(1, "without --set");
    lockout(&bench, "--set --max-tries 0").expect(1, "none");
    for (name, text) in [
        ("empty", ""),
        ("long", "123456789 123456789 123456789 123\n"),
    ] {
        std::fs::write(bench.path().join(name), text).expect("a file");
        lockout(&bench, &format!("--set --auth-file {name}")).expect(1, name);
    }
    assert_eq!(shown(&bench)["max_tries"], 3, "nothing was set");
}
