//! The program beside the cryptsetup program on the same files: same words, same answers.

use std::path::Path;

use luksmith_tests::cli::{SMALL, format_small, luksmith};
use luksmith_tests::cryptsetup::{CHEAP, Ended, cryptsetup, run};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn zeros(folder: &Path, name: &str, bytes: u64) {
    std::fs::File::create(folder.join(name))
        .and_then(|file| file.set_len(bytes))
        .expect("a file");
}

fn theirs(folder: &Path, args: &[&str], input: &str) -> Ended {
    run(
        std::process::Command::new("cryptsetup")
            .current_dir(folder)
            .args(args),
        input.as_bytes(),
    )
}

fn ours(folder: &Path, args: &[&str], input: &str) -> Ended {
    luksmith(folder, args, input.as_bytes())
}

#[test]
fn dump_prints_what_luks_dump_prints() {
    let dir = folder();
    let at = dir.path();
    zeros(at, "a", 32 << 20);
    let mut format = vec!["luksFormat", "-q", "a", "--label", "L", "--subsystem", "S"];
    format.extend([
        "--pbkdf",
        "argon2id",
        "--pbkdf-force-iterations",
        "4",
        "--pbkdf-memory",
        "64",
    ]);
    format.extend(["--pbkdf-parallel", "1"]);
    theirs(at, &format, "one\n").expect(0, "luksFormat");
    let compare = |what: &str| {
        let (them, us) = (
            theirs(at, &["luksDump", "a"], ""),
            ours(at, &["luksDump", "a"], ""),
        );
        let text = |e: &Ended| String::from_utf8_lossy(&e.out).into_owned();
        assert_eq!(text(&us), text(&them), "{what}");
        let json =
            |e: Ended| -> serde_json::Value { serde_json::from_slice(&e.out).expect("JSON") };
        let args = ["luksDump", "--dump-json-metadata", "a"];
        assert_eq!(
            json(ours(at, &args, "")),
            json(theirs(at, &args, "")),
            "{what}"
        );
    };
    compare("fresh");
    let mut add = vec!["luksAddKey", "-q", "a"];
    add.extend(CHEAP);
    theirs(at, &add, "one\ntwo\n").expect(0, "luksAddKey");
    let mut unbound = vec!["luksAddKey", "-q", "a", "--unbound", "--key-size", "256"];
    unbound.extend(CHEAP);
    theirs(at, &unbound, "three\n").expect(0, "luksAddKey --unbound");
    theirs(at, &["token", "add", "--key-description", "d", "a"], "").expect(0, "token add");
    theirs(at, &["config", "a", "--priority", "prefer", "-S", "1"], "").expect(0, "config");
    theirs(at, &["config", "a", "--priority", "ignore", "-S", "0"], "").expect(0, "config");
    compare("slots, tokens, priorities");
    theirs(
        at,
        &["reencrypt", "--init-only", "-q", "a", "-S", "1"],
        "two\n",
    );
    compare("a re-encryption that has begun");
}

#[test]
fn what_one_program_makes_the_other_opens_changes_and_restores() {
    let dir = folder();
    let at = dir.path();
    format_small(at, "vol", "first");
    theirs(at, &["open", "--test-passphrase", "vol"], "first\n").expect(0, "they open ours");
    let mut add = vec!["luksAddKey", "-q", "vol"];
    add.extend(CHEAP);
    theirs(at, &add, "first\nsecond\n").expect(0, "they add to ours");
    ours(at, &["open", "--test-passphrase", "vol"], "second\n").expect(0, "we open theirs");
    let mut change = vec!["luksChangeKey", "-q", "vol"];
    change.extend(CHEAP);
    ours(at, &change, "second\nthird\n").expect(0, "we change theirs");
    theirs(at, &["open", "--test-passphrase", "vol"], "third\n").expect(0, "they open the change");
    theirs(at, &["open", "--test-passphrase", "vol"], "second\n").expect(2, "the old one is gone");
    ours(
        at,
        &["luksHeaderBackup", "vol", "--header-backup-file", "bak"],
        "",
    )
    .expect(0, "backup");
    ours(at, &["-q", "luksErase", "vol"], "").expect(0, "erase");
    theirs(at, &["open", "--test-passphrase", "vol"], "third\n").expect(1, "nothing opens");
    theirs(
        at,
        &[
            "luksHeaderRestore",
            "-q",
            "vol",
            "--header-backup-file",
            "bak",
        ],
        "",
    )
    .expect(0, "they restore our backup");
    ours(at, &["open", "--test-passphrase", "vol"], "third\n").expect(0, "all is back");
    theirs(
        at,
        &["luksHeaderBackup", "vol", "--header-backup-file", "bak2"],
        "",
    )
    .expect(0, "backup");
    ours(
        at,
        &[
            "-q",
            "luksHeaderRestore",
            "vol",
            "--header-backup-file",
            "bak2",
        ],
        "",
    )
    .expect(0, "we restore their backup");
}

/// What scripts depend on: the exit numbers of the same calls, each program on its own copy.
#[test]
fn exit_numbers_are_those_of_cryptsetup() {
    let dir = folder();
    let at = dir.path();
    let them = at.join("them");
    let us = at.join("us");
    for place in [&them, &us] {
        std::fs::create_dir(place).expect("a folder");
        format_small(place, "vol", "secret");
        zeros(place, "zeros", 1 << 20);
        std::fs::write(place.join("key"), "secret").expect("a key file");
        std::fs::write(place.join("key-newline"), "secret\n").expect("a key file");
        std::fs::write(place.join("long"), vec![b'x'; 8192 * 1024]).expect("a key file");
        std::fs::write(place.join("too-long"), vec![b'x'; 8192 * 1024 + 1]).expect("a key file");
        std::fs::write(place.join("nothing"), "").expect("a key file");
    }
    let cases: &[(&str, &str)] = &[
        ("isLuks vol", ""),
        ("isLuks zeros", ""),
        ("isLuks missing", ""),
        ("luksUUID vol", ""),
        ("luksUUID zeros", ""),
        ("luksUUID missing", ""),
        ("luksDump zeros", ""),
        ("luksDump missing", ""),
        ("luksDump vol", ""),
        ("luksDump", ""),
        ("open --test-passphrase vol", "secret\n"),
        ("open --test-passphrase vol", "secret\nmore"),
        ("open --test-passphrase vol", "secret"),
        ("open --test-passphrase vol", "wrong\n"),
        ("open --test-passphrase vol", "\n"),
        ("open --test-passphrase vol", ""),
        ("open --test-passphrase vol -S 0", "secret\n"),
        ("open --test-passphrase vol -S 3", "secret\n"),
        ("open --test-passphrase vol -S 33", "secret\n"),
        ("open --test-passphrase vol -d key", ""),
        ("open --test-passphrase vol -d key-newline", ""),
        ("open --test-passphrase vol -d key-newline -l 6", ""),
        ("open --test-passphrase vol -d key-newline -l 60", ""),
        ("open --test-passphrase vol -d key --keyfile-offset 2", ""),
        ("open --test-passphrase vol -d -", "secret"),
        ("open --test-passphrase vol -d -", "secret\n"),
        ("open --test-passphrase vol -d missing", ""),
        ("open --test-passphrase vol -d .", ""),
        ("open --test-passphrase vol -d nothing", ""),
        ("open --test-passphrase vol -d long", ""),
        ("open --test-passphrase vol -d too-long", ""),
        ("open --test-passphrase --token-only vol", ""),
        ("open --test-passphrase --token-id 5 --token-only vol", ""),
        ("open --test-passphrase missing", ""),
        ("open --test-passphrase zeros", ""),
        ("open --test-passphrase --frobnicate vol", ""),
        ("open --test-passphrase --size 7 vol", ""),
        ("frobnicate vol", ""),
        ("luksKillSlot -q vol 7", ""),
        ("luksKillSlot vol 0", "wrong\n"),
        ("luksRemoveKey vol", "wrong\n"),
        (
            "luksAddKey vol --pbkdf pbkdf2 --pbkdf-force-iterations 1000",
            "wrong\nnew\n",
        ),
        (
            "luksAddKey vol -S 0 --pbkdf pbkdf2 --pbkdf-force-iterations 1000",
            "secret\nnew\n",
        ),
        (
            "luksAddKey vol --pbkdf pbkdf2 --pbkdf-force-iterations 1000",
            "secret\nnew\n",
        ),
        ("open --test-passphrase vol", "new\n"),
        ("luksKillSlot vol 0", "secret\n"),
        ("luksKillSlot vol 0", "new\n"),
        ("config vol", ""),
        ("config vol --priority often -S 1", ""),
        ("config vol --label L", ""),
        ("token export vol --token-id 3", ""),
        ("token remove vol --token-id 3", ""),
        ("luksHeaderBackup vol", ""),
        ("luksHeaderBackup vol --header-backup-file key", ""),
        ("luksHeaderRestore -q vol --header-backup-file missing", ""),
        ("luksHeaderRestore -q vol --header-backup-file key", ""),
        ("luksFormat -q zeros --key-size 100", "x\n"),
        ("luksFormat -q zeros --cipher none-such", "x\n"),
        ("luksFormat -q zeros --pbkdf none-such", "x\n"),
        ("luksFormat -q missing", "x\n"),
        ("luksFormat -q .", "x\n"),
    ];
    let mut wrong = Vec::new();
    for (line, input) in cases {
        let args: Vec<&str> = line.split(' ').collect();
        let theirs = theirs(&them, &args, input);
        let ours = ours(&us, &args, input);
        if theirs.code != ours.code {
            wrong.push(format!(
                "{line} <{input:?}: theirs {} ({}), ours {} ({})",
                theirs.code,
                theirs.err.lines().next_back().unwrap_or_default(),
                ours.code,
                ours.err.lines().next().unwrap_or_default()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A passphrase of 600 bytes from a pipe is used whole by cryptsetup (only what is typed is limited
/// to 512); a volume that has one must open here.
#[test]
fn a_long_piped_passphrase_is_used_whole() {
    let dir = folder();
    let at = dir.path();
    let long = "y".repeat(600);
    format_small(at, "vol", &long);
    theirs(
        at,
        &["open", "--test-passphrase", "vol"],
        &format!("{long}\n"),
    )
    .expect(0, "theirs");
    ours(
        at,
        &["open", "--test-passphrase", "vol"],
        &format!("{long}\n"),
    )
    .expect(0, "ours");
    ours(
        at,
        &["open", "--test-passphrase", "vol"],
        &format!("{}\n", &long[..512]),
    )
    .expect(2, "cut short");
}

#[test]
fn every_long_option_that_cryptsetup_knows_is_known() {
    let help = cryptsetup(&["--help"], b"");
    let text = String::from_utf8_lossy(&help.out).into_owned();
    let options: Vec<&str> = text
        .lines()
        .filter_map(|line| {
            line.trim_start()
                .trim_start_matches(|c: char| c != '-')
                .split_once("--")
        })
        .map(|(_, rest)| rest.split([' ', '=']).next().unwrap_or_default())
        .filter(|name| !name.is_empty() && !["help", "usage", "version"].contains(name))
        .collect();
    assert!(
        options.len() > 90,
        "the help text of cryptsetup was not understood: {options:?}"
    );
    let dir = folder();
    for option in options {
        let flag = format!("--{option}");
        let ended = luksmith(
            dir.path(),
            &["luksDump", "x", "--test-args", &flag, "1"],
            b"",
        );
        assert!(
            !ended.err.contains("unexpected argument '--"),
            "--{option}: {}",
            ended.err
        );
    }
}

#[test]
fn the_volume_key_can_be_taken_out_and_used() {
    let dir = folder();
    let at = dir.path();
    format_small(at, "vol", "secret");
    let args = ["luksDump", "vol", "--dump-volume-key"];
    let (them, us) = (
        theirs(at, &[&args[..], &["-q"]].concat(), "secret\n"),
        ours(at, &args, "secret\n"),
    );
    assert_eq!(
        String::from_utf8_lossy(&us.out),
        String::from_utf8_lossy(&them.out)
    );
    ours(
        at,
        &[
            "luksDump",
            "vol",
            "--dump-volume-key",
            "--volume-key-file",
            "vk",
        ],
        "secret\n",
    )
    .expect(0, "written to a file");
    assert_eq!(
        std::fs::metadata(at.join("vk")).expect("the file").len(),
        64
    );
    ours(
        at,
        &[
            "open",
            "--test-passphrase",
            "vol",
            "--volume-key-file",
            "vk",
        ],
        "",
    )
    .expect(0, "opens");
    let mut add = vec!["luksAddKey", "vol", "--volume-key-file", "vk"];
    add.extend(CHEAP);
    ours(at, &add, "by the key\n").expect(0, "adds a slot");
    theirs(at, &["open", "--test-passphrase", "vol"], "by the key\n").expect(0, "they open it");
    std::fs::write(at.join("bad"), [7; 64]).expect("a file");
    ours(
        at,
        &[
            "open",
            "--test-passphrase",
            "vol",
            "--volume-key-file",
            "bad",
        ],
        "",
    )
    .expect(2, "refused");
    let mut again = vec!["format", "copy", "--volume-key-file", "vk"];
    again.extend(SMALL);
    zeros(at, "copy", 2 << 20);
    ours(at, &again, "x\n").expect(0, "a volume with the same key");
    ours(
        at,
        &[
            "open",
            "--test-passphrase",
            "copy",
            "--volume-key-file",
            "vk",
        ],
        "",
    )
    .expect(0, "opens");
}
