//! The file tree of a machine: this one, or another below a folder (`--root`).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::whole_file;

/// A machine's files.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree below a folder.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Whether it is that of the running machine.
    pub(super) fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where a file of the tree is.
    pub(super) fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        let file = file.as_ref();
        self.root.join(file.strip_prefix("/").unwrap_or(file))
    }

    /// Where a disk or volume is: devices are the running kernel's, files are the tree's.
    pub(super) fn disk(&self, path: &Path) -> PathBuf {
        if path.starts_with("/dev") {
            path.to_path_buf()
        } else {
            self.path(path)
        }
    }

    /// Whether a file is there.
    pub(super) fn has(&self, file: &str) -> bool {
        self.path(file).exists()
    }

    /// The text of a file.
    pub(super) fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.path(file))
    }

    /// The text of a file; none where it is not there.
    pub(super) fn read_if_there(&self, file: &str) -> io::Result<Option<String>> {
        match self.read(file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of the files in a folder; none where it is not there.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    /// Puts a text in the place of a file, with its owner and mode, or makes a new one for root alone.
    pub(super) fn replace(&self, file: &str, text: &str) -> io::Result<()> {
        let path = self.path(file);
        let like = path.metadata().ok();
        whole_file::replace(&path, &mut text.as_bytes(), like.as_ref())
    }

    /// Copies a file over another, with its owner and mode.
    pub(super) fn copy(&self, from: &str, to: &str) -> io::Result<()> {
        let mut source = File::open(self.path(from))?;
        let like = source.metadata()?;
        whole_file::replace(&self.path(to), &mut source, Some(&like))
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, file: &str) -> io::Result<()> {
        match whole_file::remove(&self.path(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Runs a program of the tree, and lets it speak; its words go to standard error.
    pub(super) fn run(&self, program: &str, words: &[&OsStr]) -> io::Result<()> {
        let mut command = if self.is_this_machine() {
            Command::new(program)
        } else {
            let mut command = Command::new("chroot");
            command.arg(&self.root).arg(program);
            command
        };
        let status = command
            .args(words)
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .stdin(Stdio::null())
            .stdout(io::stderr())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("{program} ended with {status}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path().into());
        tree.replace("/etc/table", "old").unwrap();
        let path = tree.path("/etc/table");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        tree.replace("/etc/table", "new").unwrap();
        assert_eq!(tree.read("/etc/table").unwrap(), "new");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o640);
        assert_eq!(tree.names("/etc"), ["table"]);
        tree.copy("/etc/table", "/var/lib/luksmith/adopt/table")
            .unwrap();
        assert_eq!(mode(&tree.path("/var/lib/luksmith/adopt/table")), 0o640);
        // What else lies there later is root's alone, whichever verb made the folder.
        assert_eq!(mode(&tree.path("/var/lib/luksmith")), 0o700);
    }

    #[test]
    fn disks_are_the_kernels_and_files_the_trees() {
        let tree = Tree::new("/mnt".into());
        assert_eq!(tree.disk(Path::new("/dev/vda5")), Path::new("/dev/vda5"));
        assert_eq!(
            tree.disk(Path::new("/disk.img")),
            Path::new("/mnt/disk.img")
        );
    }
}
