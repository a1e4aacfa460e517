//! One word changed: the same command lines for `cryptsetup` and for `luksmith`.
//!
//! What one program writes the other opens, through their command lines; and where both say no,
//! they say it with the same exit number. Files and, where there are some, loop devices only: nothing
//! here needs a driver for encryption.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use luksmith_tests::cryptsetup::{CHEAP, Ended, run};
use luksmith_tests::vm::luksmith;

const MIB: u64 = 1024 * 1024;

/// One of the two programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tool {
    Cryptsetup,
    Luksmith,
}

const BOTH: [Tool; 2] = [Tool::Cryptsetup, Tool::Luksmith];

impl Tool {
    fn other(self) -> Self {
        if self == Self::Cryptsetup {
            Self::Luksmith
        } else {
            Self::Cryptsetup
        }
    }

    /// Runs it in batch mode inside of this folder, so that names of files are plain words.
    fn run(self, folder: &Path, args: &[&str], input: &[u8]) -> Ended {
        let mut command = match self {
            Self::Cryptsetup => Command::new("cryptsetup"),
            Self::Luksmith => Command::new(program()),
        };
        run(
            command.current_dir(folder).arg("--batch-mode").args(args),
            input,
        )
    }

    fn good(self, folder: &Path, args: &[&str], input: &[u8]) -> Ended {
        let ended = self.run(folder, args, input);
        ended.expect(0, &format!("{self:?} {args:?}"))
    }
}

/// The program as built, looked for once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(luksmith)
}

/// A folder with a blank disk and some key files.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &[u8]| {
        std::fs::write(folder.path().join(name), content).expect("a file");
    };
    std::fs::File::create(folder.path().join("disk"))
        .and_then(|disk| disk.set_len(24 * MIB))
        .expect("a disk");
    file("one", b"the first secret");
    file("two", b"second\0secret\nwith everything\xff");
    file("three", b"xxxxthirdyyyy");
    file("wrong", b"wrong");
    file("empty", b"");
    file("garbage", &[0x5A; 1 << 20]);
    file(
        "token.json",
        br#"{"type":"someones","keyslots":["0"],"data":{"a":[1,null]}}"#,
    );
    folder
}

fn format_args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["luksFormat", "--type", "luks2", "disk", "--key-file", "one"];
    args.extend(CHEAP);
    args.extend(more);
    args
}

/// A loop device over a file, detached when dropped; none where there are no loop devices.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Option<Self> {
        let out = Command::new("losetup")
            .args(["-f", "--show"])
            .arg(file)
            .output()
            .ok()?;
        let name = String::from_utf8(out.stdout).ok()?;
        (out.status.success() && !name.is_empty()).then(|| Self(name.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn a_disk_that_somebody_claims_is_busy_for_both() {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = folder();
    let folder = folder.path();
    let Some(disk) = Loop::over(&folder.join("disk")) else {
        eprintln!("no loop device to be had, a claimed disk not tried");
        return;
    };
    let mut format = format_args(&[]);
    format[3] = &disk.0;
    let claim = std::fs::File::options()
        .read(true)
        .custom_flags(nix::libc::O_EXCL)
        .open(&disk.0)
        .expect("the disk is ours");
    for tool in BOTH {
        let ended = tool.run(folder, &format, b"");
        assert_eq!(ended.code, 5, "{tool:?}: {}", ended.err);
        assert_eq!(tool.run(folder, &["isLuks", &disk.0], b"").code, 1);
    }
    drop(claim);
    for tool in BOTH {
        tool.good(folder, &format, b"");
    }
}

fn opens(tool: Tool, folder: &Path, more: &[&str]) -> i32 {
    let mut args = vec!["open", "--test-passphrase", "disk"];
    args.extend(more);
    tool.run(folder, &args, b"").code
}

#[test]
fn each_opens_what_the_other_formats() {
    let variants: [&[&str]; 6] = [
        &[],
        &[
            "--key-size",
            "256",
            "--sector-size",
            "512",
            "--hash",
            "sha512",
        ],
        &[
            "--sector-size",
            "2048",
            "--offset",
            "8192",
            "--label",
            "a label",
            "--subsystem",
            "s",
        ],
        &["--header", "header"],
        &[
            "--luks2-metadata-size",
            "128k",
            "--luks2-keyslots-size",
            "2m",
            "--key-slot",
            "7",
        ],
        &[
            "--uuid",
            "6e1c5a7c-0000-4000-8000-000000000001",
            "--keyslot-cipher",
            "aes-xts-plain64",
            "--keyslot-key-size",
            "256",
        ],
    ];
    for maker in BOTH {
        for variant in variants {
            let folder = folder();
            let folder = folder.path();
            maker.good(folder, &format_args(variant), b"");
            let header = if variant.first() == Some(&"--header") {
                variant
            } else {
                &[]
            };
            for tool in BOTH {
                let with = |key: &str| {
                    let mut more = vec!["--key-file", key];
                    more.extend(header);
                    opens(tool, folder, &more)
                };
                assert_eq!(with("one"), 0, "{maker:?} made {variant:?}, {tool:?} opens");
                assert_eq!(
                    with("wrong"),
                    2,
                    "{maker:?} made {variant:?}, {tool:?} is wrong"
                );
            }
            assert_eq!(
                volume_key(maker, folder, header),
                volume_key(maker.other(), folder, header),
                "{variant:?}"
            );
        }
    }
}

#[test]
fn the_same_memory_hard_costs_open_for_both() {
    for maker in BOTH {
        for kdf in ["argon2i", "argon2id"] {
            let folder = folder();
            let args = [
                "luksFormat",
                "--type",
                "luks2",
                "disk",
                "one",
                "--pbkdf",
                kdf,
                "--pbkdf-force-iterations",
                "4",
                "--pbkdf-memory",
                "64",
                "--pbkdf-parallel",
                "2",
            ];
            maker.good(folder.path(), &args, b"");
            assert_eq!(
                opens(maker.other(), folder.path(), &["--key-file", "one"]),
                0
            );
        }
    }
}

#[test]
fn passphrases_typed_into_a_pipe_and_parts_of_key_files_mean_the_same() {
    for maker in BOTH {
        let other = maker.other();
        let folder = folder();
        let folder = folder.path();
        // Piped: up to the newline. As a key file: all of it.
        let mut args = vec!["luksFormat", "--type", "luks2", "disk"];
        args.extend(CHEAP);
        maker.good(folder, &args, b"typed\nand more");
        let test = ["open", "--test-passphrase", "disk"];
        assert_eq!(other.run(folder, &test, b"typed").code, 0, "{maker:?}");
        assert_eq!(other.run(folder, &test, b"typed\n").code, 0);
        assert_eq!(other.run(folder, &test, b"typed\nother").code, 0);
        assert_eq!(other.run(folder, &test, b"typed and").code, 2);
        let whole = ["open", "--test-passphrase", "disk", "--key-file", "-"];
        assert_eq!(other.run(folder, &whole, b"typed").code, 0);
        assert_eq!(other.run(folder, &whole, b"typed\n").code, 2);
        let whole = ["open", "--test-passphrase", "disk", "--key-file=-"];
        assert_eq!(other.run(folder, &whole, b"typed").code, 0);

        // A part of a file.
        std::fs::write(folder.join("typed"), b"typed").unwrap();
        let mut args = vec!["luksAddKey", "disk", "three", "--key-file", "typed"];
        args.extend(["--new-keyfile-offset", "4", "--new-keyfile-size", "5"]);
        args.extend(CHEAP);
        maker.good(folder, &args, b"");
        assert_eq!(other.run(folder, &whole, b"third").code, 0, "{maker:?}");
        let part = [
            "--key-file",
            "three",
            "--keyfile-offset",
            "4",
            "--keyfile-size",
            "5",
        ];
        assert_eq!(opens(other, folder, &part), 0);
        assert_eq!(opens(other, folder, &part[..4]), 2);
    }
}

/// Image builders leave a slot with the empty passphrase behind, for an empty key file to open.
#[test]
fn the_empty_passphrase_opens_a_slot_that_has_it() {
    let folder = folder();
    let folder = folder.path();
    Tool::Cryptsetup.good(folder, &format_args(&[]), b"");
    let mut add = vec!["luksAddKey", "disk", "empty", "--key-file", "one"];
    add.extend(CHEAP);
    Tool::Cryptsetup.good(folder, &add, b"");
    for tool in BOTH {
        assert_eq!(opens(tool, folder, &["--key-file", "empty"]), 0, "{tool:?}");
        assert_eq!(
            opens(tool, folder, &["--key-file", "empty", "--key-slot", "0"]),
            2,
            "{tool:?}"
        );
    }
}

#[test]
fn keys_added_changed_converted_and_removed_by_one_are_so_for_the_other() {
    for tool in BOTH {
        let other = tool.other();
        let folder = folder();
        let folder = folder.path();
        let cheap = |args: &[&'static str]| {
            let mut args = args.to_vec();
            args.extend(CHEAP);
            args
        };
        other.good(folder, &format_args(&[]), b"");

        tool.good(
            folder,
            &cheap(&["luksAddKey", "disk", "two", "--key-file", "one"]),
            b"",
        );
        assert_eq!(
            opens(other, folder, &["--key-file", "two", "--key-slot", "1"]),
            0
        );
        let at_nine = cheap(&[
            "luksAddKey",
            "disk",
            "three",
            "--key-file",
            "two",
            "--new-key-slot",
            "9",
        ]);
        // 2.6.1 knows the option; older ones take --key-slot.
        tool.good(folder, &at_nine, b"");
        assert_eq!(
            opens(other, folder, &["--key-file", "three", "--key-slot", "9"]),
            0
        );

        tool.good(
            folder,
            &cheap(&["luksChangeKey", "disk", "wrong", "--key-file", "two"]),
            b"",
        );
        assert_eq!(opens(other, folder, &["--key-file", "two"]), 2);
        assert_eq!(
            opens(other, folder, &["--key-file", "wrong", "--key-slot", "1"]),
            0
        );

        let convert = [
            "luksConvertKey",
            "disk",
            "--key-file",
            "wrong",
            "--key-slot",
            "1",
            "--pbkdf",
            "argon2id",
            "--pbkdf-force-iterations",
            "4",
            "--pbkdf-memory",
            "64",
            "--pbkdf-parallel",
            "1",
        ];
        tool.good(folder, &convert, b"");
        assert_eq!(
            opens(other, folder, &["--key-file", "wrong", "--key-slot", "1"]),
            0
        );
        assert_eq!(
            json(other, folder)["keyslots"]["1"]["kdf"]["type"],
            "argon2id"
        );

        tool.good(
            folder,
            &["luksKillSlot", "disk", "9", "--key-file", "one"],
            b"",
        );
        assert_eq!(opens(other, folder, &["--key-file", "three"]), 2);
        tool.good(folder, &["luksRemoveKey", "disk", "wrong"], b"");
        assert_eq!(opens(other, folder, &["--key-file", "wrong"]), 2);
        assert_eq!(opens(other, folder, &["--key-file", "one"]), 0);
    }
}

#[test]
fn tokens_priorities_labels_and_backups_of_one_are_those_of_the_other() {
    for tool in BOTH {
        let other = tool.other();
        let folder = folder();
        let folder = folder.path();
        other.good(folder, &format_args(&[]), b"");
        tool.good(
            folder,
            &[
                "token",
                "import",
                "disk",
                "--json-file",
                "token.json",
                "--token-id",
                "3",
            ],
            b"",
        );
        let exported = other.good(folder, &["token", "export", "disk", "--token-id", "3"], b"");
        let exported: serde_json::Value = serde_json::from_slice(&exported.out).unwrap();
        let original = std::fs::read(folder.join("token.json")).unwrap();
        assert_eq!(
            exported,
            serde_json::from_slice::<serde_json::Value>(&original).unwrap()
        );

        tool.good(
            folder,
            &[
                "config",
                "disk",
                "--label",
                "new label",
                "--subsystem",
                "sub",
            ],
            b"",
        );
        tool.good(
            folder,
            &["config", "disk", "--priority", "ignore", "--key-slot", "0"],
            b"",
        );
        assert_eq!(json(other, folder)["keyslots"]["0"]["priority"], 0);
        assert_ne!(opens(other, folder, &["--key-file", "one"]), 0);
        assert_eq!(
            opens(other, folder, &["--key-file", "one", "--key-slot", "0"]),
            0
        );

        tool.good(
            folder,
            &["luksHeaderBackup", "disk", "--header-backup-file", "backup"],
            b"",
        );
        other.good(folder, &["luksErase", "disk"], b"");
        assert_ne!(
            opens(tool, folder, &["--key-file", "one", "--key-slot", "0"]),
            0
        );
        other.good(
            folder,
            &[
                "luksHeaderRestore",
                "disk",
                "--header-backup-file",
                "backup",
            ],
            b"",
        );
        assert_eq!(
            opens(tool, folder, &["--key-file", "one", "--key-slot", "0"]),
            0
        );
        tool.good(folder, &["token", "remove", "disk", "--token-id", "3"], b"");
        assert_eq!(json(other, folder)["tokens"], serde_json::json!({}));
    }
}

#[test]
fn both_read_the_same_uuid_and_the_same_metadata() {
    for maker in BOTH {
        let folder = folder();
        let folder = folder.path();
        maker.good(folder, &format_args(&["--label", "x"]), b"");
        assert_eq!(json(Tool::Cryptsetup, folder), json(Tool::Luksmith, folder));
        let uuid = |tool: Tool| tool.good(folder, &["luksUUID", "disk"], b"").out;
        assert_eq!(uuid(Tool::Cryptsetup), uuid(Tool::Luksmith));
        maker.good(
            folder,
            &[
                "luksUUID",
                "disk",
                "--uuid",
                "6e1c5a7c-0000-4000-8000-00000000000a",
            ],
            b"",
        );
        assert_eq!(
            uuid(maker.other()),
            b"6e1c5a7c-0000-4000-8000-00000000000a\n"
        );
    }
}

/// The data of a detached header begin at byte 0: served from the header file itself, the first
/// write would destroy the header.
#[test]
fn a_detached_header_is_not_served_as_its_own_data_under_any_name() {
    let folder = folder();
    let folder = folder.path();
    Tool::Cryptsetup.good(folder, &format_args(&["--header", "header"]), b"");
    std::os::unix::fs::symlink("header", folder.join("link")).unwrap();
    std::fs::hard_link(folder.join("header"), folder.join("twin")).unwrap();
    let before = std::fs::read(folder.join("header")).unwrap();
    let lines: [&[&str]; 5] = [
        &["header"],
        &["./header"],
        &["link", "--header", "header"],
        &["twin", "--header", "header"],
        &["header", "--header", "link"],
    ];
    for line in lines {
        // Serving goes on until it is ended: a fault of ours must not hang the test.
        let mut command = Command::new("timeout");
        command
            .current_dir(folder)
            .arg("20")
            .arg(program())
            .arg("serve")
            .args(line);
        command.args(["--socket", "socket", "--key-file", "one"]);
        let ended = run(&mut command, b"");
        assert_eq!(ended.code, 1, "{line:?}: {}", ended.err);
        assert!(ended.err.contains("nothing was written"), "{}", ended.err);
    }
    assert!(std::fs::read(folder.join("header")).unwrap() == before);
    // cryptsetup says the same number, before it needs a kernel driver.
    let args = ["open", "header", "name", "--key-file", "one"];
    assert_eq!(Tool::Cryptsetup.run(folder, &args, b"").code, 1);
}

/// Without room for locked memory nothing can be opened, and the machine is not at fault.
#[test]
fn too_little_locked_memory_is_called_so() {
    let folder = folder();
    let folder = folder.path();
    Tool::Cryptsetup.good(folder, &format_args(&[]), b"");
    let program = program().display();
    for kib in [0, 16, 64, 128] {
        // Root is not bound by the limit, so the capability that lifts it is dropped.
        let line = format!(
            "ulimit -l {kib}; exec setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock -- \
             {program} open --test-passphrase disk --key-file one"
        );
        let ended = run(
            Command::new("bash").current_dir(folder).args(["-c", &line]),
            b"",
        );
        assert_eq!(ended.code, 3, "{kib} KiB: {}", ended.err);
        assert!(
            ended.err.contains("cannot lock"),
            "{kib} KiB: {}",
            ended.err
        );
        assert!(!ended.err.contains("self-test"), "{kib} KiB: {}", ended.err);
    }
}

/// Command lines on a fresh volume: slot 0 "one", slot 1 "two". Each runs on a volume of its own.
const SAME_EXIT: &[&str] = &[
    // open
    "open --test-passphrase disk --key-file one",
    "open --test-passphrase disk --key-file wrong",
    "open --test-passphrase disk --key-file empty",
    "open --test-passphrase disk --key-file one --key-slot 0",
    "open --test-passphrase disk --key-file one --key-slot 1",
    "open --test-passphrase disk --key-file one --key-slot 5",
    "open --test-passphrase disk --key-file one --key-slot 32",
    "open --test-passphrase disk --key-file one --key-slot x",
    "open --test-passphrase disk --key-file no-such-file",
    "open --test-passphrase no-such-disk --key-file one",
    "open --test-passphrase garbage --key-file one",
    "open --test-passphrase empty --key-file one",
    "open --test-passphrase . --key-file one",
    "open --test-passphrase disk --key-file one --header garbage",
    "open --test-passphrase disk --key-file one --header no-such-file",
    "open --test-passphrase disk --volume-key-file one",
    "open --test-passphrase disk --token-only",
    "open --test-passphrase disk --token-only --token-id 3",
    "open --test-passphrase disk --key-file one --keyfile-offset 1000",
    "open --test-passphrase disk --key-file one --keyfile-size 1000",
    "open --test-passphrase disk --key-file one --keyfile-size 3",
    "open --test-passphrase",
    "open",
    // what there is
    "isLuks disk",
    "isLuks garbage",
    "isLuks empty",
    "isLuks no-such-disk",
    "isLuks",
    "luksUUID disk",
    "luksUUID garbage",
    "luksUUID no-such-disk",
    "luksDump disk",
    "luksDump garbage",
    "luksDump no-such-disk",
    "luksDump disk --dump-volume-key --key-file wrong",
    "luksDump disk --dump-volume-key --key-file one",
    // keys
    "luksAddKey disk three --key-file one",
    "luksAddKey disk three --key-file wrong",
    "luksAddKey disk three --key-file one --key-slot 1",
    "luksAddKey disk no-such-file --key-file one",
    "luksAddKey garbage three --key-file one",
    "luksAddKey no-such-disk three --key-file one",
    "luksChangeKey disk three --key-file one",
    "luksChangeKey disk three --key-file wrong",
    "luksChangeKey disk three --key-file one --key-slot 1",
    "luksConvertKey disk --key-file wrong",
    "luksRemoveKey disk one",
    "luksRemoveKey disk wrong",
    "luksRemoveKey disk no-such-file",
    "luksKillSlot disk 1 --key-file one",
    "luksKillSlot disk 1 --key-file wrong",
    "luksKillSlot disk 1 --key-file two",
    "luksKillSlot disk 5 --key-file one",
    "luksKillSlot disk 32 --key-file one",
    "luksKillSlot disk x --key-file one",
    "luksKillSlot disk",
    "luksErase disk",
    "luksErase garbage",
    // format
    "luksFormat --type luks2 disk no-such-file",
    "luksFormat --type luks2 no-such-disk one",
    "luksFormat --type luks2 disk one --sector-size 999",
    "luksFormat --type luks2 disk one --sector-size 8192",
    "luksFormat --type luks2 disk one --key-size 7",
    "luksFormat --type luks2 disk one --key-size x",
    "luksFormat --type luks2 disk one --hash no-such-hash",
    "luksFormat --type luks2 disk one --pbkdf no-such-kdf",
    "luksFormat --type luks2 disk one --pbkdf-force-iterations 1",
    "luksFormat --type luks2 disk one --offset 7",
    "luksFormat --type luks2 disk one --offset 8 --align-payload 8",
    "luksFormat --type luks2 disk one --luks2-metadata-size 17k",
    "luksFormat --type luks2 disk one --luks2-keyslots-size 1",
    "luksFormat --type luks2 disk one --uuid nonsense",
    "luksFormat --type nonsense disk one",
    "luksFormat --type luks2 disk one --key-slot 32",
    "luksFormat --type luks2 disk one --volume-key-file no-such-file",
    "luksFormat --type luks2 disk one --volume-key-file one",
    "luksFormat",
    // header
    "luksHeaderBackup disk --header-backup-file backup",
    "luksHeaderBackup disk --header-backup-file garbage",
    "luksHeaderBackup garbage --header-backup-file backup",
    "luksHeaderBackup disk",
    "luksHeaderRestore disk --header-backup-file garbage",
    "luksHeaderRestore disk --header-backup-file no-such-file",
    "repair disk",
    "repair garbage",
    // tokens and settings
    "token import disk --json-file token.json",
    "token import disk --json-file garbage",
    "token import disk --json-file no-such-file",
    "token export disk --token-id 0",
    "token export disk --token-id 32",
    "token export disk",
    "token remove disk --token-id 0",
    "token nonsense disk",
    "config disk",
    "config disk --priority nonsense --key-slot 0",
    "config disk --priority prefer",
    "config disk --priority prefer --key-slot 5",
    "config disk --label x",
    // neither verb nor option
    "no-such-verb disk",
    "open disk --no-such-option",
    "luksUUID disk --test-passphrase",
    "",
];

/// Where we say another number on purpose, and why.
const OTHER_EXIT: &[(&str, &str)] = &[(
    "luksKillSlot disk x --key-file one",
    "cryptsetup reads a word that is no number as slot 0, and would remove that one",
)];

#[test]
fn both_end_with_the_same_number_for_the_same_command_line() {
    let template = folder();
    Tool::Cryptsetup.good(template.path(), &format_args(&[]), b"");
    let mut add = vec!["luksAddKey", "disk", "two", "--key-file", "one"];
    add.extend(CHEAP);
    Tool::Cryptsetup.good(template.path(), &add, b"");

    let mut different = Vec::new();
    for line in SAME_EXIT {
        let [theirs, ours] = BOTH.map(|tool| {
            let folder = copy(template.path());
            let mut args: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).collect();
            // Costs are not the question here, and two seconds for each would be.
            if matches!(
                args.first(),
                Some(&"luksAddKey" | &"luksChangeKey" | &"luksConvertKey")
            ) {
                args.extend(CHEAP);
            }
            if args.first() == Some(&"luksFormat")
                && !args.iter().any(|arg| arg.starts_with("--pbkdf"))
            {
                args.extend(CHEAP);
            }
            tool.run(folder.path(), &args, b"")
        });
        assert!(
            (0..=5).contains(&ours.code),
            "{line}: {} {}",
            ours.code,
            ours.err
        );
        if theirs.code != ours.code && !OTHER_EXIT.iter().any(|(other, _)| other == line) {
            different.push(format!(
                "{}: cryptsetup {} ({}), luksmith {} ({})",
                line,
                theirs.code,
                theirs.err.trim(),
                ours.code,
                ours.err.lines().next().unwrap_or_default()
            ));
        }
    }
    assert!(
        different.is_empty(),
        "{} of {}:\n{}",
        different.len(),
        SAME_EXIT.len(),
        different.join("\n")
    );
}

#[test]
fn a_command_that_ends_badly_leaves_the_disk_as_it_was() {
    let template = folder();
    Tool::Cryptsetup.good(template.path(), &format_args(&[]), b"");
    let before = std::fs::read(template.path().join("disk")).unwrap();
    for line in SAME_EXIT {
        let args: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let folder = copy(template.path());
        let ended = Tool::Luksmith.run(folder.path(), &args, b"");
        if ended.code == 0 {
            continue;
        }
        let after = std::fs::read(folder.path().join("disk")).unwrap();
        assert!(
            before == after,
            "{line} ended with {} and wrote: {}",
            ended.code,
            ended.err
        );
    }
}

fn volume_key(tool: Tool, folder: &Path, header: &[&str]) -> Vec<u8> {
    let _ = std::fs::remove_file(folder.join("volume.key"));
    let mut args = vec![
        "luksDump",
        "disk",
        "--dump-volume-key",
        "--volume-key-file",
        "volume.key",
    ];
    args.extend(["--key-file", "one"]);
    args.extend(header);
    tool.good(folder, &args, b"");
    std::fs::read(folder.join("volume.key")).expect("the key was written")
}

fn json(tool: Tool, folder: &Path) -> serde_json::Value {
    let dump = tool.good(folder, &["luksDump", "disk", "--dump-json-metadata"], b"");
    serde_json::from_slice(&dump.out).expect("JSON")
}

/// A copy of the folder; holes stay holes.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a folder");
    let mut all: PathBuf = from.to_path_buf();
    all.push(".");
    let args: [OsString; 4] = [
        "-a".into(),
        "--sparse=always".into(),
        all.into(),
        to.path().into(),
    ];
    run(Command::new("cp").args(args), b"").expect(0, "cp");
    to
}
