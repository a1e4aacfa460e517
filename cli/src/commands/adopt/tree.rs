//! The file tree of a machine: this one, or another below a folder (`--root`).
//!
//! A file is replaced whole or not at all: the new one is written beside it, is on the disk before it
//! gets the name, and the name is on the disk before the next step begins.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
        self.put(file, &mut text.as_bytes(), self.path(file).metadata().ok())
    }

    /// Copies a file over another, with its owner and mode.
    pub(super) fn copy(&self, from: &str, to: &str) -> io::Result<()> {
        let mut source = File::open(self.path(from))?;
        let like = source.metadata()?;
        self.put(to, &mut source, Some(like))
    }

    fn put(
        &self,
        file: &str,
        content: &mut dyn io::Read,
        like: Option<fs::Metadata>,
    ) -> io::Result<()> {
        let path = self.path(file);
        if fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_symlink()) {
            return Err(io::Error::other(
                "it is a symbolic link, which would be replaced by a file",
            ));
        }
        let folder = path.parent().unwrap_or(&self.root).to_path_buf();
        make_folder(&folder)?;
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".luksmith-new");
        let beside = path.with_file_name(name);
        let mut new = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        let written = (|| {
            io::copy(content, &mut new)?;
            if let Some(like) = like {
                fchown(&new, Some(like.uid()), Some(like.gid()))?;
                new.set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))?;
            }
            new.flush()?;
            new.sync_all()?;
            fs::rename(&beside, &path)
        })();
        if let Err(error) = written {
            // What stays of it is in nobody's way; the error is what matters.
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        sync_folder(&folder)
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, file: &str) -> io::Result<()> {
        let path = self.path(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => path.parent().map_or(Ok(()), sync_folder),
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

fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    folder.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path().into());
        tree.replace("/etc/table", "old").unwrap();
        let path = tree.path("/etc/table");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        // As a crash would have left it.
        fs::write(path.with_file_name("table.luksmith-new"), "half").unwrap();
        tree.replace("/etc/table", "new").unwrap();
        assert_eq!(tree.read("/etc/table").unwrap(), "new");
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
        assert_eq!(tree.names("/etc"), ["table"]);
        std::os::unix::fs::symlink("table", tree.path("/etc/link")).unwrap();
        assert!(tree.replace("/etc/link", "x").is_err());
        assert_eq!(tree.read("/etc/table").unwrap(), "new");
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
