//! What cryptsetup writes we open, what we write it opens: headers and keyslots, on files.
//!
//! The judge of our side is the cryptsetup program, not a second opinion of our own: a volume that
//! we made counts as good when `cryptsetup open --test-passphrase` says so and its
//! `--dump-volume-key` gives the key that we meant. The data themselves are compared elsewhere.

#[path = "interop_keyslots/changing.rs"]
mod changing;
#[path = "interop_keyslots/formatting.rs"]
mod formatting;
#[path = "interop_keyslots/hostile.rs"]
mod hostile;
#[path = "interop_keyslots/secrets.rs"]
mod secrets;
#[path = "interop_keyslots/sizes.rs"]
mod sizes;

use std::ffi::OsString;
use std::path::Path;

use luksmith_tests::cryptsetup::{CHEAP, Ended, cryptsetup};
use luksmith_tests::image::Image;

/// `cryptsetup VERB HEADER ARGS…`
fn theirs(verb: &str, header: &Path, args: &[&str], input: &[u8]) -> Ended {
    let mut all: Vec<OsString> = vec![verb.into(), header.into()];
    all.extend(args.iter().map(OsString::from));
    cryptsetup(&all, input)
}

/// Formats by cryptsetup with the passphrase on its standard input, read as a key file.
fn they_format(image: &Image, args: &[&str], passphrase: &[u8]) {
    let header = image.header_file();
    let mut all: Vec<OsString> = ["luksFormat", "--type", "luks2", "--key-file", "-"]
        .map(OsString::from)
        .into();
    if header != image.data() {
        all.extend(["--header".into(), header.into_os_string()]);
    }
    if !args.contains(&"--pbkdf") {
        all.extend(CHEAP.map(OsString::from));
    }
    all.extend(args.iter().map(OsString::from));
    all.push(image.data().into());
    cryptsetup(&all, passphrase).expect(0, "luksFormat");
}

/// Status of `open --test-passphrase` by cryptsetup: 0 if it opens, 2 if not.
fn they_open(image: &Image, passphrase: &[u8], more: &[&str]) -> i32 {
    let mut args = vec!["--test-passphrase", "--key-file", "-"];
    args.extend(more);
    theirs("open", &image.header_file(), &args, passphrase).code
}

/// The volume key as cryptsetup finds it.
fn their_key(image: &Image, passphrase: &[u8], more: &[&str]) -> Vec<u8> {
    let file = image.folder().join("their.key");
    // A stale file would be taken for an answer.
    let _ = std::fs::remove_file(&file);
    let file_arg = file.to_str().expect("a plain path");
    let mut args = vec![
        "--dump-volume-key",
        "--volume-key-file",
        file_arg,
        "--key-file",
        "-",
    ];
    args.extend(more);
    theirs("luksDump", &image.header_file(), &args, passphrase).expect(0, "--dump-volume-key");
    std::fs::read(file).expect("cryptsetup wrote the key")
}

/// `cryptsetup luksAddKey`: opens with one secret, adds another.
fn they_add(image: &Image, existing: &[u8], new: &[u8], args: &[&str]) -> Ended {
    let existing = image.file("existing.key", existing);
    let new = image.file("new.key", new);
    let mut all = vec!["--key-file", existing.to_str().expect("a plain path")];
    if !args.contains(&"--pbkdf") {
        all.extend(CHEAP);
    }
    all.extend(args);
    all.push(new.to_str().expect("a plain path"));
    theirs("luksAddKey", &image.header_file(), &all, b"")
}
