//! What becomes of the program's output: a reader that goes away, and lines about long work.

use std::path::Path;

use luksmith_tests::cli;

/// Runs the program with nobody to read its standard output; its exit status and what it said on
/// standard error.
fn unread(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = cli::command(folder)
        .args(args)
        .stdin(std::process::Stdio::null())
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn a_closed_pipe_ends_every_verb_that_prints_quietly() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    cli::format_small(folder, "disk", "secret");
    let verbs: &[&[&str]] = &[
        &["--help"],
        &["--version"],
        &["format", "--help"],
        &["completion", "bash"],
        &["doctor"],
        &["doctor", "--json"],
        &["list"],
        &["list", "--json"],
        &["dump", "disk"],
        &["dump", "disk", "--json"],
        &["luksDump", "disk"],
        &["luksDump", "disk", "--dump-json-metadata"],
        &["luksUUID", "disk"],
        &["slot", "list", "disk"],
        &["token", "list", "disk"],
        &["header", "info", "disk"],
        &["--verbose", "dump", "disk"],
    ];
    for verb in verbs {
        // what a shell says of a program that SIGPIPE has ended
        assert_eq!(unread(folder, verb), (Some(141), String::new()), "{verb:?}");
    }
}

#[test]
fn a_full_disk_under_the_output_is_still_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let full = std::fs::File::options().write(true).open("/dev/full");
    let output = cli::command(folder.path())
        .arg("list")
        .stdout(full.expect("/dev/full"))
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("standard output"), "{said}");
}

#[test]
fn progress_of_a_large_header_moves() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let disk = std::fs::File::create(folder.join("disk")).expect("a file");
    disk.set_len(160 << 20).expect("its length");
    let mut args = vec!["luksFormat", "disk", "--batch-mode", "--pbkdf", "pbkdf2"];
    args.extend(["--pbkdf-force-iterations", "1000"]);
    args.extend([
        "--luks2-metadata-size",
        "4M",
        "--luks2-keyslots-size",
        "128M",
    ]);
    cli::luksmith(folder, &args, b"secret\n").expect(0, "format");
    let backup = ["--header-backup-file", "backup", "--progress-json"];
    for verb in ["luksHeaderBackup", "luksHeaderRestore"] {
        let mut args = vec![verb, "disk", "--batch-mode"];
        args.extend(backup);
        let ended = cli::luksmith(folder, &args, b"").expect(0, verb);
        let text = String::from_utf8(ended.out).expect("text");
        let done: Vec<u64> = text
            .lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(line["device_size"], (136 << 20).to_string(), "{line}");
                let done = line["device_bytes"].as_str().expect("a number as text");
                done.parse().expect("a number")
            })
            .collect();
        assert!(done.len() >= 8, "{verb}: {done:?}");
        assert!(done.is_sorted_by(|a, b| a < b), "{verb}: {done:?}");
        assert_eq!((done[0], *done.last().expect("lines")), (0, 136 << 20));
    }
}
