//! What has changed since a header was blessed: by cryptsetup, by luksmith, by somebody with the disk in hand.

use std::process::Command;

use luksmith_tests::cli::{luksmith, snapshot};
use luksmith_tests::cryptsetup::{CHEAP, run};
use luksmith_tests::project;
use serde_json::Value;

use crate::bench::{Bench, VOLUME, cryptsetup_token};

/// Another program that knows the documentation and nothing else.
#[test]
fn the_mac_is_what_a_few_lines_of_python_compute() {
    let bench = Bench::new();
    let strange = r#"{"type":"strange","keyslots":["0"],"z":[1.5,-3,1e300,null,true,{"b":"\u0001\t\"\\/ä€","a":""}],"ä":18446744073709551615}"#;
    bench.write("strange.json", strange);
    let plain = |args: &[&str]| luksmith(bench.path(), args, b"").expect(0, args[0]);
    plain(&["token", "import", VOLUME, "--json-file", "strange.json"]);
    plain(&[
        "config",
        VOLUME,
        "--label",
        "grün \"1\"",
        "--subsystem",
        "x",
    ]);
    plain(&[
        "dump",
        VOLUME,
        "--dump-volume-key",
        "--volume-key-file",
        "vk",
        "--key-file",
        "first",
    ]);
    let script = project().join("tests/tests/cli_header_mac/header_mac.py");
    let computed = || {
        let mut python = Command::new("python3");
        run(
            python
                .arg(&script)
                .args([&bench.image.data(), &bench.path().join("vk")]),
            b"",
        )
    };
    bench.bless(&[]);
    computed().expect(0, "the MAC, by python");
    bench.slot_add("second");
    computed().expect(0, "and after a change");
    cryptsetup_token(&bench);
    computed().expect(1, "and not after a foreign one");
    // The same of a token with a counter.
    let counted = Bench::with_tpm();
    luksmith(
        counted.path(),
        &[
            "dump",
            VOLUME,
            "--dump-volume-key",
            "--volume-key-file",
            "vk",
            "--key-file",
            "first",
        ],
        b"",
    )
    .expect(0, "dump");
    counted.bless(&[]);
    let mut python = Command::new("python3");
    python
        .arg(&script)
        .args([counted.image.data(), counted.path().join("vk")]);
    run(&mut python, b"").expect(0, "the MAC with a counter, by python");
}

/// The volume stays cryptsetup's, too. What it changes is said, and right again once it is blessed.
#[test]
fn what_cryptsetup_changes_opens_nothing_by_itself_until_it_is_blessed() {
    let bench = Bench::blessed();
    bench.opens();
    let test = ["open", "--test-passphrase", "--key-file", "first"];
    bench.cryptsetup(&test, &[]).expect(0, "cryptsetup open");
    let listed = run(
        Command::new("systemd-cryptenroll").arg(bench.image.data()),
        b"",
    );
    listed.expect(0, "systemd-cryptenroll");
    let mut add = vec!["luksAddKey", "--key-file", "first"];
    add.extend(CHEAP);
    bench.cryptsetup(&add, &["second"]).expect(0, "luksAddKey");

    bench.is_refused("changed since it was blessed: digests, keyslot 1");
    // A pipe is nobody either, and no socket appears.
    let piped = ["open", "--test-passphrase", VOLUME];
    bench.bare(&piped, b"first\n").expect(2, "a pipe");
    bench
        .bare(&["open", "--test-passphrase", "-q", VOLUME], b"first\n")
        .expect(2, "batch mode");
    let serve = ["serve", "--socket", "socket"];
    let refused = bench.run(&serve, &[]).expect(2, "serve");
    assert!(
        refused.err.contains("luksmith header bless"),
        "{}",
        refused.err
    );
    assert!(!bench.path().join("socket").exists());
    let accepted = bench
        .open(&["--accept-changed-header"])
        .expect(0, "in so many words");
    assert!(
        accepted
            .err
            .contains("WARNING: the header of data.img is not as"),
        "{}",
        accepted.err
    );

    // Without a terminal the yes has to be said.
    let before = snapshot(bench.path());
    let told = bench.run(&["header", "bless"], &[]).expect(1, "no yes");
    assert!(told.err.contains("keyslot 1"), "{}", told.err);
    assert_eq!(snapshot(bench.path()), before);
    let told = bench.bless(&["--batch-mode"]);
    assert!(
        told.err
            .contains("changed since it was blessed: digests, keyslot 1"),
        "{}",
        told.err
    );
    bench.opens();

    for (words, more, part) in [
        (
            &["config", "--label", "new"][..],
            &[][..],
            "label, UUID or size",
        ),
        (
            &["luksKillSlot", "--key-file", "first"],
            &["1"],
            "digests, keyslot 1",
        ),
        (
            &["config", "--key-slot", "0", "--priority", "prefer"],
            &[],
            "keyslot 0",
        ),
        (&["token", "add", "--key-description", "x"], &[], "token 1"),
    ] {
        bench.cryptsetup(words, more).expect(0, words[0]);
        bench.is_refused(&format!("changed since it was blessed: {part}"));
        bench.bless(&["--batch-mode"]);
        bench.opens();
    }
    // What it only reads or writes anew changes nothing.
    bench.cryptsetup(&["repair"], &[]).expect(0, "repair");
    bench.opens();
}

#[test]
fn what_luksmith_changes_with_a_key_stays_blessed_and_without_one_is_said() {
    let bench = Bench::blessed();
    bench.slot_add("second");
    bench.opens();
    let quiet = |args: &[&str]| {
        let done = bench.bare(args, b"").expect(0, args[0]);
        assert!(!done.err.contains("bless"), "{}", done.err);
        bench.opens();
    };
    let cheap = |args: &[&'static str]| {
        let mut args = args.to_vec();
        args.extend(CHEAP);
        args
    };
    quiet(&cheap(&[
        "slot",
        "change",
        VOLUME,
        "third",
        "--key-file",
        "second",
    ]));
    quiet(&cheap(&["slot", "convert", VOLUME, "--key-file", "third"]));
    quiet(&[
        "enroll",
        VOLUME,
        "--unlock-key-file",
        "first",
        "--recovery-key",
    ]);
    quiet(&["slot", "remove", VOLUME, "1", "--key-file", "first"]);
    quiet(&["repair", VOLUME]);
    assert_eq!(
        bench.epoch(),
        4,
        "one for each slot that went or was made anew"
    );

    let unbound = [
        "slot",
        "add",
        VOLUME,
        "third",
        "--unbound",
        "--key-size",
        "512",
    ];
    for (args, input) in [
        (&["config", VOLUME, "--label", "new"][..], &b""[..]),
        (&["token", "add", VOLUME, "--key-description", "x"], b""),
        (&["slot", "priority", VOLUME, "0", "prefer"], b""),
        (&["slot", "remove", VOLUME, "2", "--batch-mode"], b""),
        (&cheap(&unbound), b""),
    ] {
        let done = bench.bare(args, input).expect(0, args[0]);
        assert!(
            done.err.contains("luksmith header bless data.img"),
            "{}",
            done.err
        );
        bench.is_refused("changed since it was blessed");
        bench.bless(&["--batch-mode"]);
        bench.opens();
    }
    // What somebody else changed is not blessed by the way.
    bench
        .cryptsetup(&["config", "--label", "x"], &[])
        .expect(0, "config");
    let add = cheap(&["slot", "add", VOLUME, "third", "--key-file", "first"]);
    let added = bench.bare(&add, b"").expect(0, "slot add");
    assert!(
        added.err.contains("has changed since it was blessed"),
        "{}",
        added.err
    );
    bench.is_refused("label, UUID or size");
}

/// Valid by every rule and with valid checksums: only the MAC tells.
#[test]
fn a_header_that_somebody_rewrote_is_refused() {
    type Edit = fn(&mut Value);
    let hostile: [(&str, Edit); 8] = [
        ("segments", |json| {
            json["segments"]["0"]["encryption"] = "aes-cbc-essiv:sha256".into();
        }),
        ("segments", |json| {
            json["segments"]["0"]["sector_size"] = 512.into()
        }),
        ("segments", |json| {
            json["segments"]["0"]["iv_tweak"] = "8".into()
        }),
        ("segments", |json| {
            json["segments"]["0"]["offset"] = "5246976".into()
        }),
        ("keyslot 0", |json| json["keyslots"]["0"]["x"] = 1.5.into()),
        ("flags", |json| {
            json["config"]["flags"] = vec!["allow-discards"].into()
        }),
        ("members that are unknown here", |json| {
            json["more"] = Value::Null
        }),
        ("put together from parts", |json| {
            json["tokens"]["0"]["x"] = 1.into()
        }),
    ];
    for (part, edit) in hostile {
        let bench = Bench::blessed();
        let sectors = bench.image.header();
        let sectors = &sectors.metadata().as_value()["segments"]["0"]["sector_size"];
        assert_ne!(*sectors, 512);
        bench.image.forge(edit);
        bench.is_refused(part);
    }
    // A cipher that is none is refused whatever the MAC says.
    let bench = Bench::blessed();
    bench
        .image
        .forge(|json| json["segments"]["0"]["encryption"] = "cipher_null-ecb".into());
    bench
        .open(&["--accept-changed-header"])
        .expect(1, "the null cipher");

    // The token itself: not readable, twice, or with a member of the attacker's.
    let tokens: [(&str, Edit); 4] = [
        ("its version is not 1", |token| token["version"] = 2.into()),
        ("cannot be read: mac", |token| token["mac"] = 7.into()),
        ("cannot be read: parts", |token| {
            token["parts"]["\u{1b}[2J"] = "AAAA".into()
        }),
        ("changed since it was blessed: counter", |token| {
            token["tpm2-counter"] = serde_json::json!({"handle": 1, "name": "00", "srk": "00"});
        }),
    ];
    for (why, edit) in tokens {
        let bench = Bench::blessed();
        bench.image.forge(|json| edit(&mut json["tokens"]["0"]));
        bench.is_refused(why);
    }
    let bench = Bench::blessed();
    bench
        .image
        .forge(|json| json["tokens"]["1"] = json["tokens"]["0"].clone());
    bench.is_refused("more than one token");
    bench.bless(&["--batch-mode"]);
    bench.opens();
}

/// Whoever changes the header takes the token out: the header cannot say that it had one.
#[test]
fn a_header_without_its_mac_is_refused_where_one_is_demanded() {
    let bench = Bench::blessed();
    let demand = |word: &str| bench.open(&[&format!("--header-mac={word}")]);
    demand("required").expect(0, "it has one");
    let told = demand("counter").expect(2, "and no counter");
    assert!(told.err.contains("is tied to no counter"), "{}", told.err);
    bench
        .cryptsetup(&["token", "remove", "--token-id", "0"], &[])
        .expect(0, "token remove");
    bench.opens();
    let told = demand("required").expect(2, "it has none");
    assert!(
        told.err.contains("has no MAC, and must have one"),
        "{}",
        told.err
    );
    for wrong in ["some", "", "counter:", "counter:0x81000001"] {
        let told = demand(wrong).expect(1, "no such demand");
        assert!(told.err.contains("is no demand"), "{}", told.err);
    }

    // At boot the table demands it.
    let table = |options: &str| {
        let line = format!(
            "v {} {} luksmith,headless,{options}\n",
            bench.image.data().display(),
            bench.path().join("first").display()
        );
        bench.write("crypttab", &line);
        luksmith(bench.path(), "attach --crypttab crypttab", b"")
    };
    let told = table("header-mac=required");
    assert_ne!(told.code, 0);
    assert!(
        told.err.contains("has no MAC, and must have one"),
        "{}",
        told.err
    );
    // The line for it comes from the program.
    bench.bless(&[]);
    let told = bench.bare(&["fingerprint", VOLUME, "v", "--key-file", "first"], b"");
    let told = told.expect(0, "fingerprint");
    let line = String::from_utf8_lossy(&told.out).trim().to_owned();
    assert!(line.ends_with(",header-mac=required"), "{line}");
    let told = table(&line);
    assert!(
        !told.err.contains("header of"),
        "the driver is all that may lack: {}",
        told.err
    );
    cryptsetup_token(&bench);
    let told = table(&line);
    assert_ne!(told.code, 0);
    assert!(
        told.err.contains("changed since it was blessed: token 1"),
        "{}",
        told.err
    );
}
