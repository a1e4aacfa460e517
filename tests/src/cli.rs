//! The program itself, run as its users run it: with arguments, standard input, files, a terminal.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::cryptsetup::{Ended, run};

/// The debug build of the program (it checks itself more than a release) with all its features, made
/// once per process unless `LUKSMITH_DEBUG_BIN` names one.
///
/// # Panics
/// If it does not build.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("LUKSMITH_DEBUG_BIN") {
            return given.into();
        }
        let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "build",
                "--quiet",
                "--all-features",
                "--package",
                "luksmith",
                "--bin",
                "luksmith",
            ])
            .current_dir(crate::project())
            .stdin(Stdio::null())
            .status()
            .expect("cargo starts");
        assert!(built.success(), "the build of luksmith failed");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || crate::project().join("target"),
            |dir| crate::project().join(dir),
        );
        target.join("debug/luksmith")
    })
}

/// A command that runs the program in `folder`, with nothing of the caller's environment that
/// could change what it prints.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(binary());
    command
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Runs the program to its end; `input` is its standard input.
pub fn luksmith<W: Words + ?Sized>(folder: &Path, line: &W, input: &[u8]) -> Ended {
    run(command(folder).args(line.words()), input)
}

/// A command line: one text, where no word has a blank in it, or word by word.
pub trait Words {
    /// Its words.
    fn words(&self) -> Vec<&OsStr>;
}

impl Words for str {
    fn words(&self) -> Vec<&OsStr> {
        self.split_ascii_whitespace().map(OsStr::new).collect()
    }
}

impl Words for String {
    fn words(&self) -> Vec<&OsStr> {
        self.as_str().words()
    }
}

impl<S: AsRef<OsStr>> Words for [S] {
    fn words(&self) -> Vec<&OsStr> {
        self.iter().map(AsRef::as_ref).collect()
    }
}

impl<S: AsRef<OsStr>, const N: usize> Words for [S; N] {
    fn words(&self) -> Vec<&OsStr> {
        self.as_slice().words()
    }
}

impl<S: AsRef<OsStr>> Words for Vec<S> {
    fn words(&self) -> Vec<&OsStr> {
        self.as_slice().words()
    }
}

/// Every file below a folder with its content; for "nothing was written".
///
/// # Panics
/// If one cannot be read.
#[must_use]
pub fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the entry can be read").path();
        let kind = std::fs::symlink_metadata(&path)
            .expect("the file is there")
            .file_type();
        if kind.is_file() {
            let content = std::fs::read(&path).expect("the file can be read");
            files.insert(path, content);
        }
    }
    files
}

/// Options for a small volume that formats and opens at once: header 16 KiB, keyslots 768 KiB, data
/// at 1 MiB, the cheapest key derivation.
pub const SMALL: &[&str] = &[
    "--batch-mode",
    "--pbkdf",
    "pbkdf2",
    "--pbkdf-force-iterations",
    "1000",
    "--luks2-metadata-size",
    "16K",
    "--luks2-keyslots-size",
    "768K",
    "--offset",
    "2048",
];

/// The UUID of volumes made by [`format_small`].
pub const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// Makes `name` in `folder`: a volume of 2 MiB with one passphrase.
///
/// # Panics
/// If it cannot be made.
pub fn format_small(folder: &Path, name: &str, passphrase: &str) {
    let path = folder.join(name);
    std::fs::File::create(&path)
        .and_then(|file| file.set_len(2 << 20))
        .expect("a file for the volume");
    let mut args = vec!["format", name, "--uuid", UUID];
    args.extend(SMALL);
    luksmith(folder, &args, format!("{passphrase}\n").as_bytes()).expect(0, "format");
}
