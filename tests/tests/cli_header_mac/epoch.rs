//! Old headers put back, and the counter of the TPM that tells.

use luksmith_tests::cli::luksmith;
use luksmith_tpm::{HashAlg, Native, Tpm};
use serde_json::Value;

use crate::bench::{Bench, VOLUME, cryptsetup_token};
use crate::support::Swtpm;

/// The header of before a slot went, put back with the slot's material: every MAC in it is right.
#[test]
fn an_old_header_put_back_is_refused() {
    let bench = Bench::counted();
    bench.slot_add("second");
    let old = bench.copy_header();
    let first = bench.epoch();
    bench
        .run(&["slot", "remove"], &["1"])
        .expect(0, "slot remove");
    assert_eq!(bench.epoch(), first + 1);
    bench.opens();
    let present = bench.copy_header();

    bench.put_back(&old);
    let why = format!("its epoch is {first}, and that of the TPM {}", first + 1);
    bench.is_refused(&why);
    // Neither is it helped up by a change, nor by one that removes something.
    for words in [&["slot", "remove"][..], &["slot", "remove"]] {
        bench.slot_add("third");
        let slot = bench.image.header().metadata().keyslots().len() - 1;
        let told = bench
            .run(words, &[&slot.to_string()])
            .expect(0, "slot remove");
        assert!(
            told.err.contains("an old one that had been put back"),
            "{}",
            told.err
        );
        let told = bench.open(&[]).expect(2, "open");
        assert!(told.err.contains("header"), "{}", told.err);
        bench.put_back(&old);
    }
    bench.put_back(&present);
    bench.opens();
    // Whoever looked at it and wants it so blesses it: then it is the other one that is old.
    bench.put_back(&old);
    let told = bench.bless(&["--batch-mode"]);
    assert!(
        told.err.contains("is an old one that was put back"),
        "{}",
        told.err
    );
    bench.opens();
    bench.put_back(&present);
    bench.is_refused("is an old one that was put back");
}

/// First the header, then the counter: killed at each point at which the machine may die.
#[test]
fn a_crash_between_header_and_counter_shuts_nobody_out() {
    let bench = Bench::counted();
    bench.slot_add("second");
    let old = bench.copy_header();
    // Dead before the header was written: all is as it was, the counter, too.
    bench.dies_before_the_write(&["slot", "remove"], &["1"]);
    bench.opens();
    bench.dies_before_the_write(&["header", "bless"], &[]);
    bench.opens();
    // Dead after the header and before the counter: the new one counts, the old one still does.
    let epoch = bench.epoch();
    bench.dies_before_it_counts(&["slot", "remove"], &["1"]);
    assert_eq!(bench.epoch(), epoch + 1);
    let new = bench.copy_header();
    bench.put_back(&old);
    bench.opens();
    bench.put_back(&new);
    // And whoever opens next ends what was begun.
    bench.opens();
    bench.put_back(&old);
    bench.is_refused("is an old one that was put back");
    bench.put_back(&new);
    bench.opens();
    // The same by the next change in place of the next one who opens.
    bench.slot_add("second");
    bench.dies_before_it_counts(&["slot", "remove"], &["1"]);
    let new = bench.copy_header();
    bench.slot_add("third");
    bench
        .run(&["slot", "remove"], &["1"])
        .expect(0, "slot remove");
    bench.opens();
    bench.put_back(&new);
    bench.is_refused("is an old one that was put back");

    // The other order, had it been taken: a counter that is ahead of the only header that there is.
    let mut bench = Bench::counted();
    let header = bench.copy_header();
    bench.bless(&[]);
    bench.put_back(&header);
    bench.is_refused("is an old one that was put back");
    // The wrong way out of there: without the TPM.
    bench.swtpm().off();
    bench.is_refused("cannot be compared with the counter");
}

#[test]
fn without_its_counter_a_header_is_in_doubt_and_can_be_tied_to_another() {
    let mut bench = Bench::counted();
    bench.slot_add("second");
    let old = bench.copy_header();
    let before = bench.epoch();
    // Slots can go while the TPM is away; that old headers count is said.
    bench.swtpm().off();
    bench.is_refused("cannot be compared with the counter");
    let told = bench
        .run(&["slot", "remove"], &["1"])
        .expect(0, "slot remove");
    assert!(told.err.contains("could not be raised"), "{}", told.err);
    assert_eq!(bench.epoch(), before);
    bench
        .open(&["--accept-changed-header"])
        .expect(0, "in so many words");
    // Once it is back, blessing ends that.
    bench.swtpm().on();
    bench.opens();
    bench.bless(&[]);
    bench.put_back(&old);
    bench.is_refused("is an old one that was put back");
    bench.bless(&["--batch-mode"]);

    // The counter is removed, or the TPM cleared: refused, and tied anew by who says so.
    let handle = bench.token()["tpm2-counter"]["handle"]
        .as_u64()
        .expect("a handle");
    let handle = u32::try_from(handle).expect("a handle");
    let swtpm = bench.swtpm.as_ref().expect("a TPM");
    Native::over(swtpm.connect())
        .nv_undefine(handle)
        .expect("removed");
    bench.is_refused("there is no NV index");
    bench.bless(&[]);
    assert_ne!(bench.token()["tpm2-counter"]["handle"], handle);
    bench.opens();
    // Another TPM.
    bench.swtpm = Some(Swtpm::on_tcp());
    bench.is_refused("no storage root key");
}

/// Somebody who has the disk in hand copies the header and takes the MAC out. Its owner blesses it anew, by which a second
/// counter is made: the first one stands still, and its header has the right MAC and the right epoch for ever.
#[test]
fn a_header_of_an_earlier_counter_is_refused_where_the_counter_is_named() {
    let mut bench = Bench::counted();
    bench.slot_add("second");
    let old = bench.copy_header();
    let handle = |bench: &Bench| {
        let handle = &bench.token()["tpm2-counter"]["handle"];
        format!("{:#010x}", handle.as_u64().expect("a handle"))
    };
    let first = handle(&bench);
    bench
        .cryptsetup(&["token", "remove", "--token-id", "0"], &[])
        .expect(0, "token remove");
    let told = bench.bless(&[]).err;
    let second = handle(&bench);
    assert_ne!(first, second);
    for said in [
        &format!("header-mac=counter:{second} demands it"),
        "If it was tied to another counter before, change the line in /etc/crypttab",
    ] {
        assert!(told.contains(said), "{told}");
    }
    bench
        .run(&["slot", "remove"], &["1"])
        .expect(0, "slot remove");
    let demand = |bench: &Bench, word: &str| bench.open(&[&format!("--header-mac={word}")]);
    let named = format!("counter:{second}");
    demand(&bench, &named).expect(0, "the present header");
    let present = bench.copy_header();

    bench.put_back(&old);
    let why = format!("is tied to the counter {first} of the TPM, and must be to {second}");
    let refused = demand(&bench, &named).expect(2, "the old header");
    assert!(refused.err.contains(&why), "{}", refused.err);
    assert!(
        refused.err.contains("/etc/crypttab") && !refused.err.contains("header bless"),
        "{}",
        refused.err
    );
    // That any counter will do is what this word says, and what its documentation says.
    demand(&bench, "counter").expect(0, "any counter");
    // At boot.
    let tpm = bench.swtpm().address().replace(',', "\\054");
    let table = |options: &str| {
        let line = format!(
            "v {} {} luksmith,headless,tpm2-device={tpm},{options}\n",
            bench.image.data().display(),
            bench.path().join("first").display()
        );
        bench.write("crypttab", &line);
        luksmith(bench.path(), "attach --crypttab crypttab", b"").err
    };
    let told = table(&format!("header-mac={named}"));
    assert!(told.contains(&why), "{told}");
    bench.put_back(&present);
    let fingerprint = ["fingerprint", VOLUME, "v", "--key-file", "first"];
    let told = bench.bare(&fingerprint, b"").expect(0, "fingerprint");
    let line = String::from_utf8_lossy(&told.out).trim().to_owned();
    assert!(line.ends_with(&format!(",header-mac={named}")), "{line}");
    let told = table(&line);
    assert!(!told.contains("header of"), "{told}");
    assert!(!told.contains("its header"), "{told}");

    // The counter is gone, and the header still names it.
    let swtpm = bench.swtpm.as_ref().expect("a TPM");
    let number = u32::from_str_radix(&second[2..], 16).expect("a handle");
    Native::over(swtpm.connect())
        .nv_undefine(number)
        .expect("removed");
    let told = bench.bless(&[]).err;
    assert!(
        told.contains(&format!("It was tied to the counter {second} before")),
        "{told}"
    );
}

/// What the protection is for: a machine that opens its volume by itself.
#[test]
fn a_tpm_opens_no_changed_header_and_no_old_one() {
    let bench = Bench::counted();
    let swtpm = bench.swtpm.as_ref().expect("a TPM");
    Native::over(swtpm.connect())
        .extend_pcr(HashAlg::Sha256, 7, &[7; 32])
        .expect("an extend");
    let key = ["--unlock-key-file", "first", VOLUME];
    let enroll = |more: &[&str]| {
        let args = [&["enroll"], &key[..], more].concat();
        let done = bench.bare(&args, b"").expect(0, "enroll");
        assert!(!done.err.contains("bless"), "{}", done.err);
    };
    let alone = || bench.bare(&["open", "--test-passphrase", "--token-only", VOLUME], b"");
    enroll(&[]);
    alone().expect(0, "the TPM");
    let old = bench.copy_header();
    let before = bench.epoch();

    // Another program changes the header: the TPM waits, and says why; so does whoever pipes a passphrase in.
    cryptsetup_token(&bench);
    let shut = alone().expect(2, "a changed header");
    assert!(
        shut.err.contains("changed since it was blessed: token"),
        "{}",
        shut.err
    );
    let piped = bench.bare(&["open", "--test-passphrase", VOLUME], b"first\n");
    let piped = piped.expect(2, "a pipe is nobody");
    assert!(piped.err.contains("No token opens it now"), "{}", piped.err);
    bench.bless(&["--batch-mode"]);
    alone().expect(0, "the TPM");
    assert_eq!(bench.epoch(), before + 1);

    // Bound anew: the slot that was, and its header, are over.
    bench.run(&["tpm", "reseal"], &[]).expect(0, "tpm reseal");
    alone().expect(0, "the TPM");
    assert_eq!(bench.epoch(), before + 2);
    let present = bench.copy_header();
    bench.put_back(&old);
    let shut = alone().expect(2, "an old header");
    assert!(
        shut.err.contains("an old one that was put back"),
        "{}",
        shut.err
    );
    bench.put_back(&present);

    // Wiped with a passphrase at hand; without one, that is said.
    bench.run(&["tpm", "wipe"], &["-q"]).expect(0, "tpm wipe");
    bench.opens();
    bench.put_back(&present);
    alone().expect(2, "the header from before the wipe");
    bench.bless(&["--batch-mode"]);
    let wiped = bench
        .bare(&["tpm", "wipe", "-q", VOLUME], b"")
        .expect(0, "tpm wipe");
    assert!(
        wiped.err.contains("Until then old copies of it count"),
        "{}",
        wiped.err
    );
}

#[test]
fn a_backup_says_what_it_is_worth() {
    let bench = Bench::counted();
    bench.slot_add("second");
    let backup = ["header", "backup", VOLUME, "--header-backup-file", "backup"];
    let made = luksmith(bench.path(), &backup, b"").expect(0, "header backup");
    assert!(made.err.contains("Once a slot is removed"), "{}", made.err);
    bench
        .run(&["slot", "remove"], &["1"])
        .expect(0, "slot remove");
    let restore = [
        "header",
        "restore",
        VOLUME,
        "-q",
        "--header-backup-file",
        "backup",
    ];
    let restored = luksmith(bench.path(), &restore, b"").expect(0, "header restore");
    assert!(
        restored
            .err
            .contains("slots went in between, which come back"),
        "{}",
        restored.err
    );
    bench.is_refused("is an old one that was put back");
    bench.bless(&["--batch-mode"]);
    bench.opens();
}

#[test]
fn the_protection_can_be_taken_away_and_is_shown() {
    let bench = Bench::counted();
    let dump = || luksmith(bench.path(), &["dump", VOLUME], b"");
    let told = String::from_utf8_lossy(&dump().out).into_owned();
    assert!(
        told.contains("luksmith-header\n\tHeader MAC: epoch "),
        "{told}"
    );
    assert!(told.contains("\tTPM counter: 0x01"), "{told}");
    let json = luksmith(bench.path(), &["dump", VOLUME, "--json"], b"");
    let json: Value = serde_json::from_slice(&json.out).expect("JSON");
    assert_eq!(json["header_mac"]["epoch"], bench.epoch());
    let handle = json["header_mac"]["tpm2_counter"]
        .as_u64()
        .expect("a handle");
    let handle = u32::try_from(handle).expect("a handle");
    let swtpm = bench.swtpm.as_ref().expect("a TPM");
    Native::over(swtpm.connect())
        .nv_public(handle)
        .expect("it is there");

    bench
        .bare(&["header", "bless", "--remove", VOLUME], b"")
        .expect(1, "no yes");
    let removed = bench.bare(&["header", "bless", "--remove", "-q", VOLUME], b"");
    removed.expect(0, "header bless --remove");
    Native::over(swtpm.connect())
        .nv_public(handle)
        .expect_err("it is gone");
    assert!(!String::from_utf8_lossy(&dump().out).contains("luksmith-header"));
    bench.open(&[]).expect(0, "open");
    let json = luksmith(bench.path(), &["dump", VOLUME, "--json"], b"");
    let json: Value = serde_json::from_slice(&json.out).expect("JSON");
    assert_eq!(json["header_mac"], Value::Null);
    bench
        .bare(&["header", "bless", "--remove", "-q", VOLUME], b"")
        .expect(1, "twice");

    // A counter that stays keeps what names it alive.
    let mut bench = Bench::counted();
    bench.swtpm().off();
    let removed = bench.bare(&["header", "bless", "--remove", "-q", VOLUME], b"");
    let told = removed.expect(0, "header bless --remove").err;
    for said in [
        "could not be removed from the TPM",
        "As long as it is there, old copies of the header count: tpm2_nvundefine 0x01",
    ] {
        assert!(told.contains(said), "{told}");
    }
}
