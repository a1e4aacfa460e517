//! A file is replaced whole or not at all: the new one is written beside it, is on the disk before it gets the
//! name, and the name is on the disk before the next step begins.
//!
//! What is made for it is its owner's alone, folders too. Nothing is written through a link or into what
//! lies there from before.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Writes a file that nobody but its owner reads.
pub(crate) fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(file, &mut &*bytes, None)
}

/// Writes a file, with the owner and the mode of another one.
pub(crate) fn replace(
    file: &Path,
    content: &mut dyn Read,
    like: Option<&Metadata>,
) -> io::Result<()> {
    fill(file, content, like)?;
    put_in_place(file).inspect_err(|_| drop_unfinished(file))
}

/// Writes what is to stand in a file beside it, as far as the disk.
pub(crate) fn prepare(file: &Path, bytes: &[u8]) -> io::Result<()> {
    fill(file, &mut &*bytes, None)
}

/// Puts what was prepared into the place of the file.
pub(crate) fn put_in_place(file: &Path) -> io::Result<()> {
    fs::rename(unfinished(file), file)?;
    sync_folder(parent(file))
}

/// Removes a file, as far as the disk.
pub(crate) fn remove(file: &Path) -> io::Result<()> {
    fs::remove_file(file)?;
    sync_folder(parent(file))
}

/// Makes a folder that nobody else looks into, and those that lead there, where they lack.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = parent(folder);
    make_folder(above)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        // Another call was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made,
    }?;
    sync_folder(above)
}

fn fill(file: &Path, content: &mut dyn Read, like: Option<&Metadata>) -> io::Result<()> {
    if fs::symlink_metadata(file).is_ok_and(|there| there.file_type().is_symlink()) {
        return Err(io::Error::other(
            "it is a symbolic link, which would be replaced by a file",
        ));
    }
    make_folder(parent(file))?;
    // As a call that came to no end left it, or as somebody put it there to read along.
    drop_unfinished(file);
    let mut new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(unfinished(file))?;
    let written = (|| {
        io::copy(content, &mut new)?;
        if let Some(like) = like {
            fchown(&new, Some(like.uid()), Some(like.gid()))?;
            new.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
        }
        new.sync_all()
    })();
    written.inspect_err(|_| drop_unfinished(file))
}

/// What stays of it is in nobody's way; the error that led here is what matters.
fn drop_unfinished(file: &Path) {
    let _ = fs::remove_file(unfinished(file));
}

fn unfinished(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".luksmith-new");
    name.into()
}

fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => Path::new("/"),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn a_file_and_its_folders_are_their_owners_alone_and_it_changes_at_once() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("state/measured/one.json");
        write(&file, b"first").unwrap();
        prepare(&file, b"second").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"first", "not yet in place");
        put_in_place(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"second");
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(parent(&file)), 0o700);
        assert_eq!(mode(&root.path().join("state")), 0o700);
        remove(&file).unwrap();
        assert!(names(parent(&file)).is_empty());
        assert_eq!(parent(Path::new("file")), Path::new("."));
    }

    #[test]
    fn nothing_is_written_through_a_link_or_into_what_lies_there_from_before() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let others = folder.path().join("others");
        fs::write(&others, "").unwrap();
        symlink(&others, unfinished(&file)).unwrap();
        write(&file, b"one").unwrap();
        assert_eq!(fs::read(&others).unwrap(), b"");
        // As a crash would have left it, or somebody who wants to read along.
        fs::write(unfinished(&file), "half").unwrap();
        fs::set_permissions(unfinished(&file), Permissions::from_mode(0o644)).unwrap();
        write(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(mode(&file), 0o600);
        let link = folder.path().join("link");
        symlink(&file, &link).unwrap();
        assert!(write(&link, b"three").is_err());
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(names(folder.path()).len(), 3, "the file, the link, others");
    }

    #[test]
    fn a_file_that_cannot_be_put_in_place_leaves_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("taken");
        fs::create_dir(&file).unwrap();
        assert!(write(&file, b"one").is_err());
        assert_eq!(names(root.path()), ["taken"]);
    }
}
