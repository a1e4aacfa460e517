//! A Debian as its installer leaves it, taken over and handed back.

use std::process::Command;

/// Five boots: `tests/boot/adopt` says what each of them shows.
#[test]
#[ignore = "takes ten minutes without hardware virtualisation: ./x test --boot"]
fn a_debian_of_the_installer_is_adopted_unlocked_by_its_tpm_and_handed_back() {
    let status = Command::new(luksmith_tests::project().join("tests/boot/adopt"))
        .arg(luksmith_tests::vm::luksmith())
        .status()
        .expect("bash starts");
    assert!(status.success(), "see above");
}
