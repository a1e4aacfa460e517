//! Credentials that systemd hands to the unit of a volume. The table tells a volume key that is not that of
//! the volume, so `attach` ends when it has one, and needs no driver.

#[path = "tpm_bench/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod bench;

use bench::{Bench, err};
use luksmith_tests::cli::command;
use luksmith_tests::cryptsetup::run;

/// What `attach` says with these credentials, to a line with these options more.
fn attach(bench: &Bench, options: &str, credentials: &[(&str, &[u8])]) -> String {
    let volume = bench.path().join("volume");
    let another = "0".repeat(64);
    let line = format!(
        "credentials-test {} none luksmith,headless,fixate-volume-key={another}{options}\n",
        volume.display()
    );
    std::fs::write(bench.path().join("table"), line).expect("a table");
    let folder = bench.path().join("credentials");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).expect("a folder");
    for (name, secret) in credentials {
        std::fs::write(folder.join(name), secret).expect("a credential");
    }
    let mut attach = command(bench.path());
    attach
        .args(["attach", "--crypttab=table"])
        .env("CREDENTIALS_DIRECTORY", &folder);
    err(&run(&mut attach, b"").expect(2, "attach"))
}

const OPENED: &str = "its volume key is another one";
const NOBODY: &str = "headless forbids to ask";

#[test]
fn a_passphrase_that_is_a_credential_opens_with_nobody_there() {
    let bench = Bench::new();
    let with = |secret: &[u8]| attach(&bench, "", &[("cryptsetup.passphrase", secret)]);
    for opens in [&b"first"[..], b"second\0first"] {
        let said = with(opens);
        assert!(said.contains(OPENED), "{said}");
    }
    // A newline is a part of it, as for systemd.
    for wrong in [&b"first\n"[..], b"second"] {
        let said = with(wrong);
        assert!(said.contains(NOBODY), "{said}");
        let told = "credentials-test does not open with the credential cryptsetup.passphrase.";
        assert!(said.contains(told), "{said}");
    }
    let none = attach(&bench, "", &[]);
    assert!(none.contains(NOBODY), "{none}");
    assert!(!none.contains("credential "), "{none}");
}

#[test]
fn a_header_in_doubt_does_not_open_by_a_credential() {
    let bench = Bench::new();
    let first = [("cryptsetup.passphrase", &b"first"[..])];
    let said = attach(&bench, ",header-mac=required", &first);
    assert!(!said.contains(OPENED), "{said}");
    assert!(said.contains("its header has no MAC"), "{said}");
}

#[test]
fn a_pin_that_is_a_credential_is_given_to_the_tpm_once() {
    let bench = Bench::new();
    let enroll = "tpm enroll volume --key-file key --new-pin-file pin --no-recovery-key";
    bench.run(enroll, b"").expect(0, "tpm enroll");
    // A comma of an option stands as its number.
    let tpm = bench.swtpm.address().replace(',', "\\054");
    let with = |pin: &[u8]| {
        attach(
            &bench,
            &format!(",tpm2-device={tpm}"),
            &[("cryptsetup.tpm2-pin", pin)],
        )
    };
    for right in [&b"1234"[..], b"1234\n"] {
        let said = with(right);
        assert!(said.contains(OPENED), "{said}");
    }
    let said = with(b"4321");
    assert!(said.contains(NOBODY), "{said}");
    assert_eq!(said.matches("wrong PIN").count(), 1, "{said}");
    let said = with(b"1234");
    assert!(said.contains(OPENED), "{said}");
}
