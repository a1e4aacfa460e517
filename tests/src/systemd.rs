//! systemd of several releases, as the other side of interoperability tests: its programs run from a folder
//! of unpacked packages with their own libraries, so neither root nor a container is needed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::cryptsetup::run;

/// systemd of one release.
#[derive(Debug)]
pub struct Systemd {
    tree: PathBuf,
    /// The main version.
    pub version: u32,
}

impl Systemd {
    /// All that `vm-images/systemd` brings, oldest first.
    ///
    /// # Panics
    /// If it brings none.
    pub fn all() -> &'static [Self] {
        static ALL: OnceLock<Vec<Systemd>> = OnceLock::new();
        ALL.get_or_init(|| {
            let script = crate::project().join("vm-images/systemd");
            let told = run(&mut Command::new(script), b"").expect(0, "vm-images/systemd");
            let trees = String::from_utf8(told.out).expect("names of folders");
            let all: Vec<Self> = trees.lines().map(|tree| Self::of(tree.into())).collect();
            assert!(!all.is_empty(), "vm-images/systemd brings nothing");
            all
        })
    }

    /// Those from this version on.
    ///
    /// # Panics
    /// If there is none: a test that tests nothing has failed.
    pub fn since(version: u32) -> impl Iterator<Item = &'static Self> {
        let mut all = Self::all().iter().peekable();
        while all.next_if(|one| one.version < version).is_some() {}
        assert!(all.peek().is_some(), "no systemd {version} or newer here");
        all
    }

    fn of(tree: PathBuf) -> Self {
        let mut systemd = Self { tree, version: 0 };
        let mut ask = systemd.program("systemd-cryptenroll");
        let told = run(ask.arg("--version"), b"").expect(0, "systemd-cryptenroll");
        let text = String::from_utf8_lossy(&told.out).into_owned();
        systemd.version = text
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.split('.').next()?.parse().ok())
            .unwrap_or_else(|| panic!("no version in {text:?}"));
        systemd
    }

    /// A command for one of its programs.
    ///
    /// # Panics
    /// If it has none of this name.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        self.find(name)
            .unwrap_or_else(|| panic!("{} has no {name}", self.tree.display()))
    }

    /// A command for one of its programs, if this release has it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Command> {
        let folders = ["usr/bin", "usr/lib/systemd", "lib/systemd"];
        let mut programs = folders
            .iter()
            .map(|folder| self.tree.join(folder).join(name));
        let program = programs.find(|program| program.is_file())?;
        if self.tree == Path::new("/") {
            return Some(Command::new(program));
        }
        let folders = ["lib", "usr/lib"].map(|lib| self.tree.join(lib).join("x86_64-linux-gnu"));
        let loader = folders
            .iter()
            .map(|folder| folder.join("ld-linux-x86-64.so.2"))
            .find(|loader| loader.is_file())
            .expect("the loader of the C library");
        let private = folders[1].join("systemd");
        let libraries =
            [&folders[0], &folders[1], &private].map(|folder| folder.display().to_string());
        let mut command = Command::new(loader);
        // A plug-in of another release does not know the tokens of this one.
        command.env(
            "SYSTEMD_CRYPTSETUP_TOKEN_PATH",
            folders[1].join("cryptsetup"),
        );
        command
            .arg("--library-path")
            .arg(libraries.join(":"))
            .arg(program);
        Some(command)
    }
}
