//! `enroll` and `tpm …`: slots for a TPM and for a recovery key, by the program itself, against an emulated
//! TPM; systemd-cryptenroll beside it.

#[path = "tpm_bench/mod.rs"]
mod bench;

use std::path::Path;
use std::process::Command;

use bench::support::Swtpm;
use bench::{Bench, err, out};
use luksmith_tests::cli::{SMALL, luksmith, snapshot};
use luksmith_tests::cryptsetup::{cryptsetup, run};
use luksmith_tpm::log::EventLog;
use luksmith_tpm::{Assertion, HashAlg, Native, PcrSelection, Policy, Tpm};
use serde_json::Value;

#[test]
fn the_guided_way_is_a_pin_and_a_recovery_key() {
    let bench = Bench::new();
    let made = bench.run("tpm enroll volume --key-file key --new-pin-file pin", b"");
    let made = made.expect(0, "tpm enroll");
    assert_eq!(bench.factors(), ["password", "recovery", "tpm2"]);
    bench
        .open("--token-only --pin-file pin", b"")
        .expect(0, "the PIN");

    // A wrong PIN opens nothing and is counted; no PIN is no try.
    let wrong = bench.open("--token-only --pin-file wrong", b"");
    let wrong = wrong.expect(2, "a wrong PIN");
    assert!(err(&wrong).contains("wrong PIN"), "{}", err(&wrong));
    let none = bench.open("--token-only", b"");
    let none = none.expect(2, "no PIN");
    assert!(err(&none).contains("a PIN is needed"), "{}", err(&none));
    let told = bench.run("tpm status --json", b"");
    let told: Value = serde_json::from_slice(&told.out).expect("JSON");
    assert_eq!(told["lockout"]["wrong_tries"], 1);

    // The recovery key, as it was shown and as a person may type it.
    let shown = out(&made);
    let recovery = shown.lines().next().expect("a line").to_owned();
    assert_eq!(recovery.len(), 71);
    for typed in [recovery.clone(), recovery.to_uppercase().replace('-', " ")] {
        luksmith(
            bench.path(),
            "open --test-passphrase volume --key-slot 1",
            format!("{typed}\n").as_bytes(),
        )
        .expect(0, "the recovery key");
    }
    assert!(!err(&made).contains(&recovery), "shown once");
    let opened = cryptsetup(
        &[
            "open",
            "--test-passphrase",
            bench.path().join("volume").to_str().expect("a path"),
        ],
        format!("{recovery}\n").as_bytes(),
    );
    opened.expect(0, "the recovery key, for cryptsetup");

    // The second time there is one already.
    bench
        .run("tpm enroll volume --key-file key --new-pin-file pin", b"")
        .expect(0, "tpm enroll again");
    assert_eq!(bench.factors(), ["password", "recovery", "tpm2", "tpm2"]);
}

#[test]
fn a_locked_tpm_is_not_touched_again_and_says_for_how_long() {
    let bench = Bench::new();
    let enroll = "tpm enroll volume --key-file key --new-pin-file pin --no-recovery-key";
    bench.run(enroll, b"").expect(0, "tpm enroll");
    for _ in 0..3 {
        bench
            .open("--token-only --pin-file wrong", b"")
            .expect(2, "a wrong PIN");
    }
    let locked = bench.open("--token-only --pin-file pin", b"");
    let locked = locked.expect(4, "locked out");
    assert!(
        err(&locked).contains("for at most 17 min"),
        "{}",
        err(&locked)
    );
    let listed = bench.run("tpm list volume", b"");
    assert!(
        out(&listed).contains("no: the TPM is locked out"),
        "{}",
        out(&listed)
    );
    bench.open("", b"first\n").expect(0, "the passphrase");
}

#[test]
fn a_slot_bound_to_pcrs_opens_alone_until_they_change_and_is_bound_anew() {
    let bench = Bench::new();
    let device = format!("--tpm2-device={}", bench.swtpm.address());
    let enroll = |more: &[&str]| {
        let mut args = vec!["enroll", "volume", "--unlock-key-file", "key", &device];
        args.extend(more);
        luksmith(bench.path(), &args, b"")
    };
    enroll(&["--tpm2-pcrs", "7+debug"]).expect(0, "enroll");
    bench.open("--token-only", b"").expect(0, "the TPM");
    // By default too, with nobody and nothing there.
    bench.open("", b"").expect(0, "the TPM");
    let listed = bench.run("tpm list volume --json", b"");
    let listed: Value = serde_json::from_slice(&listed.out).expect("JSON");
    assert_eq!(listed["tokens"][0]["pcrs"], serde_json::json!([7, 16]));
    assert_eq!(listed["tokens"][0]["opens_now"], true);

    bench.extend(16);
    let shut = bench.open("--token-only", b"");
    let shut = shut.expect(2, "a changed PCR");
    assert!(
        err(&shut).contains("PCR 7+16 have other values"),
        "{}",
        err(&shut)
    );
    // Said also where a passphrase opens in its place.
    let other = bench.open("", b"first\n");
    let other = other.expect(0, "the passphrase");
    assert!(
        err(&other).contains("token 0: the machine state"),
        "{}",
        err(&other)
    );
    // A key file is what it is: the TPM is not asked.
    let quiet = "open --test-passphrase volume --key-file key";
    let quiet = luksmith(bench.path(), quiet, b"");
    let quiet = quiet.expect(0, "the key file");
    assert_eq!(err(&quiet), "");

    bench
        .run("tpm reseal volume --key-file key", b"")
        .expect(0, "tpm reseal");
    bench.open("--token-only", b"").expect(0, "the TPM again");
    assert_eq!(bench.factors(), ["password", "tpm2"]);
}

#[test]
fn who_has_no_passphrase_adds_no_slot_by_the_tpm_unless_he_says_so() {
    let bench = Bench::new();
    bench
        .run("enroll volume --unlock-key-file key", b"")
        .expect(0, "enroll, PCR 7");
    let before = snapshot(bench.path());
    luksmith(bench.path(), "enroll volume --recovery-key", b"").expect(1, "no passphrase");
    assert_eq!(snapshot(bench.path()), before);
    let unlock = format!("--unlock-tpm2-device={}", bench.swtpm.address());
    luksmith(
        bench.path(),
        &["enroll", "volume", "--recovery-key", &unlock],
        b"",
    )
    .expect(0, "by the TPM");
    assert_eq!(bench.factors(), ["password", "tpm2", "recovery"]);
    bench.extend(7);
    let shut = luksmith(
        bench.path(),
        &["enroll", "volume", "--recovery-key", &unlock],
        b"first\n",
    );
    shut.expect(2, "nothing else is tried");
}

#[test]
fn what_protects_nothing_is_refused() {
    let bench = Bench::new();
    let before = snapshot(bench.path());
    let enroll = |more: &[&str]| {
        let mut args = vec!["enroll", "volume", "--unlock-key-file", "key"];
        args.extend(more);
        bench.run(&args, b"")
    };
    let untouched = enroll(&["--tpm2-pcrs", "16"]);
    let untouched = untouched.expect(1, "PCR 16 is zero");
    assert!(
        err(&untouched).contains("nothing was ever measured"),
        "{}",
        err(&untouched)
    );
    let nothing = enroll(&["--tpm2-pcrs", ""]);
    let nothing = nothing.expect(1, "no PCR and no PIN");
    assert!(
        err(&nothing).contains("no PCR and no PIN"),
        "{}",
        err(&nothing)
    );
    enroll(&["--tpm2-pcrs", "24"]).expect(1, "no such PCR");
    enroll(&["--tpm2-pcrs", "7", "--recovery-key"]).expect(1, "one thing at a time");
    enroll(&["--tpm2-with-pin", "yes"]).expect(1, "nobody to ask for the PIN");
    assert_eq!(snapshot(bench.path()), before, "nothing was written");
    enroll(&["--tpm2-pcrs", "16", "--allow-untouched-pcrs"]).expect(0, "in so many words");
}

/// What cannot work is found out before somebody has written a recovery key down.
#[test]
fn a_recovery_key_is_not_shown_before_all_else_is_sure() {
    let mut bench = Bench::new();
    let before = snapshot(bench.path());
    let refused = |bench: &Bench, more: &str| {
        let told = bench.run(&format!("tpm enroll volume --key-file key {more}"), b"");
        assert_ne!(told.code, 0, "{more}");
        assert_eq!(out(&told), "", "{more}");
        assert!(
            err(&told).contains("nothing was written to the disk"),
            "{}",
            err(&told)
        );
        assert_eq!(snapshot(bench.path()), before, "{more}");
    };
    refused(&bench, ""); // nobody to ask for a PIN
    refused(&bench, "--new-pin-file missing");
    refused(&bench, "--tpm2-pcrs 16"); // nothing was measured into it
    bench.swtpm.off();
    refused(&bench, "--tpm2-with-pin=no");
    // The slots that shall go, before one is made.
    let wipe = "enroll volume --unlock-key-file key --recovery-key --wipe-slot=9";
    let told = luksmith::<str>(bench.path(), wipe, b"").expect(1, "no such slot");
    assert_eq!(out(&told), "");
    assert_eq!(snapshot(bench.path()), before);
}

/// There is room for two slots: the recovery key is on the disk, and the TPM's slot finds no place.
#[test]
fn a_failure_after_the_recovery_key_does_not_say_that_nothing_was_written() {
    let bench = Bench::new();
    let args = [
        &["format", "volume"][..],
        SMALL,
        &["--luks2-keyslots-size", "512K"],
    ];
    luksmith(bench.path(), &args.concat(), b"first\n").expect(0, "format");
    let line = "tpm enroll volume --key-file key --tpm2-with-pin=no";
    let told = bench.run(line, b"").expect(1, "no room");
    let said = err(&told);
    assert!(
        said.contains("New recovery key enrolled as key slot 1."),
        "{said}"
    );
    assert!(!said.contains("nothing was written"), "{said}");
    let counts = "what is said above to be done was written to the disk and counts";
    assert!(said.contains(counts), "{said}");
    assert_eq!(bench.factors(), ["password", "recovery"]);
    let shown = out(&told);
    luksmith(
        bench.path(),
        "open --test-passphrase volume --key-slot 1",
        shown.as_bytes(),
    )
    .expect(0, "the recovery key");
}

#[test]
fn slots_go_for_what_they_were_made_for_and_never_the_last() {
    let bench = Bench::new();
    let plain = |line| luksmith::<str>(bench.path(), line, b"");
    bench
        .run("enroll volume --unlock-key-file key", b"")
        .expect(0, "enroll");
    plain("enroll volume --unlock-key-file key --recovery-key").expect(0, "enroll");
    assert_eq!(bench.factors(), ["password", "tpm2", "recovery"]);
    // The new one replaces all of its kind, after it is there.
    plain("enroll volume --unlock-key-file key --recovery-key --wipe-slot=recovery")
        .expect(0, "a new recovery key");
    assert_eq!(bench.factors(), ["password", "tpm2", "recovery"]);
    plain("enroll volume --wipe-slot=password,recovery").expect(0, "wipe");
    assert_eq!(bench.factors(), ["tpm2"]);
    let before = snapshot(bench.path());
    let last = plain("enroll volume --wipe-slot=all");
    let last = last.expect(1, "the last slot");
    assert!(
        err(&last).contains("the last one that opens the data"),
        "{}",
        err(&last)
    );
    plain("tpm wipe volume --batch-mode").expect(1, "the last slot");
    plain("enroll volume --wipe-slot=9").expect(1, "no such slot");
    plain("enroll volume --wipe-slot=some").expect(1, "no such word");
    assert_eq!(snapshot(bench.path()), before);
}

#[test]
fn what_a_tpm_slot_leaves_behind_is_nothing() {
    let bench = Bench::new();
    let header = |bench: &Bench| {
        let told = luksmith(bench.path(), "dump volume --dump-json-metadata", b"");
        out(&told)
    };
    let before = header(&bench);
    bench
        .run("enroll volume --unlock-key-file key", b"")
        .expect(0, "enroll");
    assert_ne!(header(&bench), before);
    let wiped = luksmith(bench.path(), "tpm wipe volume --batch-mode", b"");
    let wiped = wiped.expect(0, "tpm wipe");
    assert!(
        err(&wiped).contains("copied the old header"),
        "{}",
        err(&wiped)
    );
    assert_eq!(header(&bench), before);
}

/// Both programs see the same slots, and each other's recovery keys open for both.
#[test]
fn systemd_cryptenroll_sees_the_same() {
    let bench = Bench::new();
    bench
        .run("enroll volume --unlock-key-file key", b"")
        .expect(0, "enroll");
    luksmith(
        bench.path(),
        "enroll volume --unlock-key-file key --recovery-key",
        b"",
    )
    .expect(0, "enroll");
    let made = run(
        Command::new("systemd-cryptenroll")
            .args(["--recovery-key", "volume"])
            .env("PASSWORD", "first")
            .current_dir(bench.path()),
        b"",
    );
    let made = made.expect(0, "systemd's recovery key");
    let theirs = out(&made).trim().to_owned();
    luksmith(
        bench.path(),
        "open --test-passphrase volume --key-slot 3",
        format!("{}\n", theirs.to_uppercase()).as_bytes(),
    )
    .expect(0, "systemd's recovery key, here");
    let listed = run(
        Command::new("systemd-cryptenroll")
            .arg("volume")
            .current_dir(bench.path()),
        b"",
    );
    let listed = listed.expect(0, "systemd-cryptenroll");
    let theirs: Vec<(u64, String)> = out(&listed)
        .lines()
        .skip(1)
        .map(|line| {
            let mut words = line.split_whitespace();
            let slot = words.next().and_then(|word| word.parse().ok());
            (
                slot.expect("a slot"),
                words.next().expect("a type").to_owned(),
            )
        })
        .collect();
    assert_eq!(theirs, bench.enrolled());
}

/// A slot for a boot with nobody there opens only before the first volume is open: PCR 15 is the fuse.
#[test]
fn an_unattended_slot_opens_only_before_a_volume_is_open() {
    let mut bench = Bench::new();
    // The system runs, its volumes are open.
    bench.extend(15);
    let enroll = "tpm enroll volume --key-file key --tpm2-with-pin=no --no-recovery-key";
    let made = bench.run(enroll, b"").expect(0, "tpm enroll");
    assert!(
        err(&made).contains("a stolen machine does not"),
        "{}",
        err(&made)
    );
    assert!(
        err(&made).contains("could not be tried as it will be used"),
        "{}",
        err(&made)
    );
    let open = "open --test-passphrase volume --token-only";
    bench.run(open, b"").expect(2, "a volume is open");
    // A boot.
    bench.swtpm.restart();
    bench.extend(7);
    bench.run(open, b"").expect(0, "in the initramfs");
    bench.extend(15);
    bench.run(open, b"").expect(2, "a volume is open");
    // Bound anew in the running system, it is for the next initramfs again.
    bench.extend(7);
    bench
        .run(&["tpm", "reseal", "volume", "--key-file", "key"], b"")
        .expect(0, "tpm reseal");
    bench.swtpm.restart();
    bench.extend(7);
    bench.extend(7);
    bench.run(open, b"").expect(0, "in the next initramfs");
}

/// By a key that signs, as systemd-measure has it; PCR 11 is what the boot stub measures a kernel into.
#[test]
fn a_slot_with_signed_values_opens_where_they_are_signed() {
    let bench = Bench::new();
    bench.extend(11);
    let sh = |script: &str| {
        run(
            Command::new("sh")
                .args(["-euc", script])
                .current_dir(bench.path()),
            b"",
        )
    };
    sh(
        "openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out private.pem
        openssl pkey -in private.pem -pubout -out public.pem",
    )
    .expect(0, "a key");
    let enroll = |more: &[&str]| {
        let mut args = vec![
            "enroll",
            "volume",
            "--unlock-key-file",
            "key",
            "--tpm2-public-key",
            "public.pem",
        ];
        args.extend(more);
        bench.run(&args, b"")
    };
    // Nothing is signed yet: enrolled all the same, and said.
    let untried = enroll(&["--tpm2-signature", "none.json"]).expect(0, "enroll");
    assert!(
        err(&untried).contains("could not be tried"),
        "{}",
        err(&untried)
    );
    assert!(
        err(&untried).contains("signed by the key"),
        "{}",
        err(&untried)
    );
    let shut = bench.open("--token-only --tpm2-signature none.json", b"");
    assert_ne!(shut.code, 0);
    let why = "there is no tpm2-pcr-signature.json";
    assert!(err(&shut).contains(why), "{}", err(&shut));

    sign_pcr_11(&bench);
    bench
        .open("--token-only --tpm2-signature signed.json", b"")
        .expect(0, "signed");
    let listed = bench.run("tpm list volume --tpm2-signature signed.json", b"");
    assert!(out(&listed).contains("yes"), "{}", out(&listed));
    enroll(&["--tpm2-signature", "signed.json"]).expect(0, "enroll, tried");
    // A kernel that nobody signed.
    bench.extend(11);
    let shut = bench.open("--token-only --tpm2-signature signed.json", b"");
    shut.expect(2, "not signed");
}

/// Signs the present value of PCR 11 with `private.pem` into `signed.json`.
fn sign_pcr_11(bench: &Bench) {
    let selection = PcrSelection::new(HashAlg::Sha256, &[11]).expect("a PCR");
    let values = Native::over(bench.swtpm.connect())
        .read_pcrs(&selection)
        .expect("its value");
    let present = Assertion::Pcrs {
        selection,
        values: Some(values.digest()),
    };
    let digest = Policy::new(vec![present]).digest().expect("a digest");
    std::fs::write(bench.path().join("policy"), digest.0).expect("written");
    let script = r#"
        openssl dgst -sha256 -sign private.pem -out signature policy
        openssl rsa -quiet -pubin -in public.pem -RSAPublicKey_out -outform DER -out key.der 2>/dev/null \
            || openssl rsa -pubin -in public.pem -RSAPublicKey_out -outform DER -out key.der
        printf '{"sha256":[{"pcrs":[11],"pkfp":"%s","pol":"%s","sig":"%s"}]}' \
            "$(openssl dgst -sha256 -r key.der | cut -d' ' -f1)" "$1" "$(base64 -w0 signature)" >signed.json"#;
    run(
        Command::new("sh")
            .args(["-euc", script, "sh", &hex::encode(digest.0)])
            .current_dir(bench.path()),
        b"",
    )
    .expect(0, "signed");
}

/// The same measurements into the TPM as a machine made whose log this is.
fn boot_as(swtpm: &Swtpm, log: &Path) {
    let log = EventLog::parse(&std::fs::read(log).expect("a log")).expect("it can be read");
    let mut tpm = Native::over(swtpm.connect());
    for event in log.events().iter().filter(|event| event.extends()) {
        let digest = event.digest(HashAlg::Sha256).expect("a digest");
        tpm.extend_pcr(HashAlg::Sha256, event.pcr, digest)
            .expect("an extend");
    }
}

/// With the logs of two real boots: one with Secure Boot, through a boot loader, and one without either.
#[test]
fn it_is_said_in_words_what_changed() {
    let logs = luksmith_tests::project().join("tpm/tests/logs");
    let Bench { folder, mut swtpm } = Bench::new();
    swtpm.restart();
    boot_as(&swtpm, &logs.join("grub.log"));
    let device = format!("--tpm2-device={}", swtpm.address());
    let with = |verb: &[&str], log: &str| {
        let log = format!("--event-log={}", logs.join(log).display());
        let mut args = verb.to_vec();
        args.extend(["volume", &device, &log, "--state-directory=state"]);
        luksmith(folder.path(), &args, b"")
    };
    with(
        &["enroll", "--unlock-key-file", "key", "--tpm2-pcrs=4+7"],
        "grub.log",
    )
    .expect(0, "enroll");
    let same = with(&["tpm", "why"], "grub.log").expect(0, "tpm why");
    assert!(out(&same).contains("Nothing"), "{}", out(&same));

    swtpm.restart();
    boot_as(&swtpm, &logs.join("direct.log"));
    let told = out(&with(&["tpm", "why"], "direct.log").expect(0, "tpm why"));
    assert!(
        told.contains("PCR 7: Secure Boot was switched off"),
        "{told}"
    );
    assert!(told.contains("PCR 4: "), "{told}");
    let told = with(&["tpm", "why", "--json"], "direct.log").expect(0, "tpm why");
    let told: Value = serde_json::from_slice(&told.out).expect("JSON");
    assert_eq!(told["schema"], "luksmith.tpm-why/1");
    assert_eq!(told["changes"][1]["pcr"], 7);

    // Bound by a machine that keeps nothing: that is said, and nothing is made up.
    std::fs::remove_dir_all(folder.path().join("state")).expect("it is there");
    let unknown = with(&["tpm", "why"], "direct.log").expect(1, "tpm why");
    assert!(err(&unknown).contains("is not known"), "{}", err(&unknown));
}

#[test]
fn without_a_tpm_the_passphrase_is_asked_for() {
    let bench = Bench::new();
    bench
        .run("enroll volume --unlock-key-file key", b"")
        .expect(0, "enroll");
    let gone = "open --test-passphrase volume --tpm2-device=swtpm:path=/nowhere/tpm";
    let opened = luksmith(bench.path(), gone, b"first\n");
    let opened = opened.expect(0, "the passphrase");
    assert!(
        err(&opened).contains("token 0: the device is not present"),
        "{}",
        err(&opened)
    );
    let only = format!("{gone} --token-only");
    luksmith(bench.path(), &only, b"first\n").expect(4, "no TPM");
}
