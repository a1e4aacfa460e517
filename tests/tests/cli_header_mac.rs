//! The MAC over the header and its epoch, by the program itself: on plain files, with cryptsetup beside it and, for the
//! epoch, with an emulated TPM.

#[path = "../../tpm/tests/support/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::path::Path;
use std::process::Command;

use luksmith_tests::cli::{SMALL, luksmith, snapshot};
use luksmith_tests::cryptsetup::{CHEAP, Ended, run};
use luksmith_tests::image::Image;
use luksmith_tests::project;
use luksmith_tpm::{Native, Tpm};
use serde_json::Value;
use support::Swtpm;

/// A volume with the passphrase `first`, in a folder with files of passphrases. The TPM is started when it is needed.
struct Bench {
    image: Image,
    swtpm: Option<Swtpm>,
}

const VOLUME: &str = "data.img";

impl Bench {
    fn new() -> Self {
        let image = Image::blank(6 << 20);
        let mut args = vec!["format", VOLUME];
        args.extend(SMALL);
        args.extend(["--luks2-keyslots-size", "4M", "--offset", "10240"]);
        luksmith(image.folder(), &args, b"first\n").expect(0, "format");
        let bench = Self { image, swtpm: None };
        for name in ["first", "second", "third"] {
            bench.write(name, name);
        }
        bench
    }

    fn with_tpm() -> Self {
        Self {
            swtpm: Some(Swtpm::on_tcp()),
            ..Self::new()
        }
    }

    /// One that is blessed.
    fn blessed() -> Self {
        let bench = Self::new();
        bench.bless(&[]);
        bench
    }

    /// One that is blessed, with a counter in the TPM.
    fn counted() -> Self {
        let bench = Self::with_tpm();
        bench.bless(&[]);
        bench
    }

    fn path(&self) -> &Path {
        self.image.folder()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).expect("written");
    }

    fn swtpm(&mut self) -> &mut Swtpm {
        self.swtpm.as_mut().expect("a test with a TPM")
    }

    /// The program, with the address of the TPM if there is one, and the passphrase `first` in a file.
    fn run(&self, words: &[&str], more: &[&str]) -> Ended {
        let mut args = words.to_vec();
        args.extend([VOLUME, "--key-file", "first"]);
        args.extend(more);
        self.bare(&args, b"")
    }

    /// The program, with the address of the TPM if there is one.
    fn bare(&self, args: &[&str], input: &[u8]) -> Ended {
        let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
        if let Some(swtpm) = &self.swtpm {
            args.push(format!("--tpm2-device={}", swtpm.address()));
        }
        luksmith(self.path(), &args, input)
    }

    fn bless(&self, more: &[&str]) -> Ended {
        self.run(&["header", "bless"], more)
            .expect(0, "header bless")
    }

    fn open(&self, more: &[&str]) -> Ended {
        self.run(&["open", "--test-passphrase"], more)
    }

    /// Opens, and has nothing to say.
    fn opens(&self) {
        let opened = self.open(&[]).expect(0, "open");
        assert_eq!(opened.err, "");
    }

    /// Does not open with a key file, for this reason, and writes nothing.
    fn is_refused(&self, why: &str) {
        let before = snapshot(self.path());
        let refused = self.open(&[]).expect(2, "open");
        assert!(refused.err.contains(why), "{}", refused.err);
        assert!(
            refused.err.contains("nothing was written"),
            "{}",
            refused.err
        );
        assert_eq!(snapshot(self.path()), before);
    }

    fn slot_add(&self, key: &str) {
        let mut args = vec!["slot", "add", VOLUME, key, "--key-file", "first"];
        args.extend(CHEAP);
        let added = self.bare(&args, b"").expect(0, "slot add");
        assert_eq!(added.err, "");
    }

    fn cryptsetup(&self, words: &[&str], more: &[&str]) -> Ended {
        let volume = self.image.data();
        let mut args: Vec<&str> = words.to_vec();
        args.push(volume.to_str().expect("a path"));
        args.extend(more);
        run(
            Command::new("cryptsetup")
                .arg("--batch-mode")
                .args(args)
                .current_dir(self.path()),
            b"",
        )
    }

    fn token(&self) -> Value {
        let header = self.image.header();
        let of_ours = |token: &&luksmith_luks2::Token| token.kind == "luksmith-header";
        let token = header.metadata().tokens().values().find(of_ours);
        token.expect("a token").raw.clone()
    }

    fn epoch(&self) -> u64 {
        let token = self.token();
        let epoch = token["epoch"].as_str().expect("a text");
        epoch.parse().expect("a number")
    }

    /// Header and keyslots, as somebody would copy them who has the disk in hand.
    fn copy_header(&self) -> Vec<u8> {
        let bytes = std::fs::read(self.image.data()).expect("the volume");
        bytes[..5 << 20].to_vec()
    }

    fn put_back(&self, header: &[u8]) {
        let mut bytes = std::fs::read(self.image.data()).expect("the volume");
        bytes[..header.len()].copy_from_slice(header);
        std::fs::write(self.image.data(), bytes).expect("written");
    }
}

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
    let script = project().join("tests/tests/header_mac.py");
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

fn cryptsetup_token(bench: &Bench) {
    let add = ["token", "add", "--key-description", "x", "--key-slot", "0"];
    bench
        .cryptsetup(&add, &[])
        .expect(0, "cryptsetup token add");
}

/// The volume stays cryptsetup's, too. What it changes is said, and right again once it is blessed.
#[test]
fn what_cryptsetup_changes_opens_nothing_by_itself_until_it_is_blessed() {
    let bench = Bench::blessed();
    bench.opens();
    let test = ["open", "--test-passphrase", "--key-file", "first"];
    bench.cryptsetup(&test, &[]).expect(0, "cryptsetup open");
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
    let hostile: [(&str, Edit); 7] = [
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
    demand("some").expect(1, "no such demand");

    // At boot the table demands it.
    let table = |options: &str| {
        let line = format!(
            "v {} {} luksmith,headless,{options}\n",
            bench.image.data().display(),
            bench.path().join("first").display()
        );
        bench.write("crypttab", &line);
        luksmith(bench.path(), &["attach", "--crypttab", "crypttab"], b"")
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
}

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

/// First the header, then the counter. Each point at which the machine may die, made by a TPM that forgot what came after.
#[test]
fn a_crash_between_header_and_counter_shuts_nobody_out() {
    let mut bench = Bench::counted();
    bench.slot_add("second");
    let old = bench.copy_header();
    // Dead before the header was written: all is as it was.
    bench.opens();
    let before = bench.swtpm().save();
    bench
        .run(&["slot", "remove"], &["1"])
        .expect(0, "slot remove");
    let new = bench.copy_header();
    // Dead after the header and before the counter: the new one counts, the old one still does.
    bench.swtpm().load(&before);
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
    bench.swtpm().load(&before);
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
