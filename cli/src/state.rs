//! What this machine keeps of its TPM and its volumes: files for root alone, on the encrypted root.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::args::Args;

const FOLDER: &str = "/var/lib/luksmith";

/// Where the files are.
pub(crate) fn folder(args: &Args) -> PathBuf {
    args.path("state-directory")
        .unwrap_or_else(|| FOLDER.into())
}

/// Makes a folder that nobody else looks into, if it is not there.
pub(crate) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a file whole or not at all; it is on the disk when this is done.
pub(crate) fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    prepare(file, bytes)?;
    put_in_place(file)
}

/// Writes what is to stand in a file beside it, as far as the disk.
pub(crate) fn prepare(file: &Path, bytes: &[u8]) -> io::Result<()> {
    make(parent(file))?;
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(unfinished(file))?;
    out.write_all(bytes)?;
    out.sync_all()
}

/// Puts what was prepared into the place of the file.
pub(crate) fn put_in_place(file: &Path) -> io::Result<()> {
    fs::rename(unfinished(file), file)?;
    File::open(parent(file))?.sync_all()
}

/// Removes a file, as far as the disk.
pub(crate) fn remove(file: &Path) -> io::Result<()> {
    fs::remove_file(file)?;
    File::open(parent(file))?.sync_all()
}

fn unfinished(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn parent(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_for_its_owner_alone_and_changes_at_once() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("state/measured/one.json");
        write(&file, b"first").unwrap();
        prepare(&file, b"second").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"first", "not yet in place");
        put_in_place(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"second");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(parent(&file)), 0o700);
        remove(&file).unwrap();
        assert_eq!(fs::read_dir(parent(&file)).unwrap().count(), 0);
    }
}
