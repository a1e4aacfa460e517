//! A header device in a regular file or on a real block device, for the offline verbs (format,
//! keyslot changes, backup, restore, repair). Served volumes do their data transfers elsewhere.
//!
//! Aligned transfers bypass the page cache where the file system allows it, so that reading back
//! what was written asks the disk and not our own memory. The rest goes through a second, buffered
//! descriptor of the same file; the kernel keeps the two coherent.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, OFlag, fcntl};
use nix::sys::stat::{major, minor};

use crate::device::{BlockDevice, MetadataDevice, check_range};
use crate::lock::{self, LockError, LockMode, MetadataLock, Wait};

/// What a [`FileDevice`] is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading; every write fails.
    ReadOnly,
    /// Reading and changing the header, also while the volume is open elsewhere.
    ReadWrite,
    /// Reading and writing, and nobody else may use the device: it is not mounted, not a part of
    /// a mapping, not served. For formatting.
    Exclusive,
}

/// Whether metadata locks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locking {
    /// Take the locks that cryptsetup and systemd take as well.
    #[default]
    Shared,
    /// Take none. Nothing is repaired automatically then.
    Disabled,
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else uses the device.
    #[error("{} is in use by {who}", path.display())]
    Busy {
        /// The device.
        path: PathBuf,
        /// What is known of the user.
        who: &'static str,
    },
    /// Neither a regular file nor a block device.
    #[error("{} is neither a regular file nor a block device", path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot open {}", path.display())]
    Io {
        /// The device.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// A regular file or a block device that holds a header.
#[derive(Debug)]
pub struct FileDevice {
    path: PathBuf,
    buffered: File,
    /// Bypasses the page cache; absent where that is not possible.
    direct: Option<File>,
    len: u64,
    logical_block: u32,
    is_block: bool,
    access: Access,
    locking: Locking,
    /// Keeps udev from probing the disk while it is being formatted.
    _whole_disk: Option<Flock<File>>,
}

impl FileDevice {
    /// Opens `path`.
    ///
    /// # Errors
    /// See [`OpenError`]; [`OpenError::Busy`] only for [`Access::Exclusive`].
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let fail = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let kind = std::fs::metadata(path).map_err(fail)?.file_type();
        let is_block = kind.is_block_device();
        if !is_block && !kind.is_file() {
            return Err(OpenError::WrongKind {
                path: path.to_owned(),
            });
        }
        let exclusive = access == Access::Exclusive;
        let flags = if exclusive && is_block {
            OFlag::O_EXCL
        } else {
            OFlag::empty()
        };
        let busy = |who| OpenError::Busy {
            path: path.to_owned(),
            who,
        };
        let buffered = options(access, flags).open(path).map_err(|e| {
            match e.raw_os_error() == Some(Errno::EBUSY as i32) {
                true => busy("a mount, a mapping or another program"),
                false => fail(e),
            }
        })?;
        Self::from_file(path, buffered, access, is_block)
    }

    /// Makes a new regular file of `len` zero bytes, readable by its owner only, for a detached
    /// header. The file is durable in its directory when this returns.
    ///
    /// # Errors
    /// [`OpenError::Io`], also when the file exists.
    pub fn create_new(path: impl AsRef<Path>, len: u64) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let fail = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(fail)?;
        let made = file
            .set_len(len)
            .and_then(|()| file.sync_all())
            .and_then(|()| sync_directory_of(path));
        if let Err(error) = made {
            let _ = std::fs::remove_file(path);
            return Err(fail(error));
        }
        Self::from_file(path, file, Access::Exclusive, false)
    }

    fn from_file(
        path: &Path,
        mut buffered: File,
        access: Access,
        is_block: bool,
    ) -> Result<Self, OpenError> {
        let fail = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let busy = |who| OpenError::Busy {
            path: path.to_owned(),
            who,
        };
        let meta = buffered.metadata().map_err(fail)?;
        let mut whole_disk = None;
        if access == Access::Exclusive {
            if is_block {
                whole_disk = lock_whole_disk(meta.rdev()).map_err(|e| match e {
                    LockError::Busy { .. } => busy("a program that probes or partitions the disk"),
                    LockError::Io { source, .. } => fail(source),
                    LockError::Directory { reason, .. } => fail(io::Error::other(reason)),
                })?;
            } else if !claim(&buffered).map_err(fail)? {
                return Err(busy("a program that serves or formats it"));
            }
        }
        let len = if is_block {
            buffered.seek(SeekFrom::End(0)).map_err(fail)?
        } else {
            meta.len()
        };
        let logical_block = if is_block {
            logical_block_of(meta.rdev()).unwrap_or(DEFAULT_BLOCK)
        } else {
            DEFAULT_BLOCK
        };
        // Without O_EXCL: the claim above already holds the device for this process, and a second
        // claim would collide with it.
        let direct = options(access, OFlag::O_DIRECT)
            .open(path)
            .ok()
            .filter(|direct| same_file(direct, &buffered));
        Ok(Self {
            path: path.to_owned(),
            buffered,
            direct,
            len,
            logical_block,
            is_block,
            access,
            locking: Locking::Shared,
            _whole_disk: whole_disk,
        })
    }

    /// The same device with another rule about metadata locks.
    #[must_use]
    pub fn with_locking(mut self, locking: Locking) -> Self {
        self.locking = locking;
        self
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a block device (else a regular file).
    pub fn is_block(&self) -> bool {
        self.is_block
    }

    /// Whether aligned transfers bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// The descriptor to bypass the page cache with, if the range permits it.
    fn direct_for(&self, offset: u64, len: usize) -> Option<&File> {
        let aligned = offset.is_multiple_of(DIRECT_ALIGN as u64)
            && len.is_multiple_of(DIRECT_ALIGN)
            && len > 0;
        self.direct.as_ref().filter(|_| aligned)
    }
}

impl BlockDevice for FileDevice {
    fn len(&self) -> u64 {
        self.len
    }

    fn logical_block(&self) -> u32 {
        self.logical_block
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        check_range(offset, into.len(), self.len)?;
        if let Some(direct) = self.direct_for(offset, into.len()) {
            let mut bounce = Aligned::new(into.len());
            match direct.read_exact_at(bounce.bytes_mut(), offset) {
                Ok(()) => {
                    into.copy_from_slice(bounce.bytes());
                    return Ok(());
                }
                // Some file systems accept the open and refuse the transfer.
                Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => {}
                Err(e) => return Err(e),
            }
        }
        self.buffered.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        check_range(offset, from.len(), self.len)?;
        if self.access == Access::ReadOnly {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if let Some(direct) = self.direct_for(offset, from.len()) {
            let mut bounce = Aligned::new(from.len());
            bounce.bytes_mut().copy_from_slice(from);
            match direct.write_all_at(bounce.bytes(), offset) {
                Ok(()) => return Ok(()),
                Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => {}
                Err(e) => return Err(e),
            }
        }
        self.buffered.write_all_at(from, offset)
    }

    fn flush(&self) -> io::Result<()> {
        // Writes back the page cache of this file or device and then empties the volatile cache
        // of the disk below it, and says so if either fails.
        self.buffered.sync_data()
    }
}

impl MetadataDevice for FileDevice {
    type Held = Option<MetadataLock>;

    fn lock(&self, mode: LockMode, wait: Wait) -> Result<Self::Held, LockError> {
        if self.locking == Locking::Disabled {
            return Ok(None);
        }
        let held = MetadataLock::take(&self.path, mode, wait)?;
        if !self.is_block && !held.is_on(&self.buffered) {
            return Err(LockError::Io {
                path: self.path.clone(),
                source: io::Error::other("the path names another file than the one opened"),
            });
        }
        Ok(Some(held))
    }

    fn locks(&self) -> bool {
        self.locking == Locking::Shared
    }

    fn read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    fn random(&self, into: &mut [u8]) -> io::Result<()> {
        luksmith_crypto::random::fill(into).map_err(io::Error::other)
    }
}

/// Makes the entry of a new file durable in its directory.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

fn options(access: Access, flags: OFlag) -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(access != Access::ReadOnly)
        .custom_flags(flags.bits());
    options
}

fn same_file(a: &File, b: &File) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Claims a regular file for as long as it is open: a write lock on all of it that belongs to the
/// open file. A served volume holds the same one. `false` if somebody else has it.
fn claim(file: &File) -> io::Result<bool> {
    let whole = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Takes the lock on the node of the whole disk that makes udev leave it (and its partitions)
/// alone while it is being rewritten.
fn lock_whole_disk(rdev: u64) -> Result<Option<Flock<File>>, LockError> {
    let own = format!("/sys/dev/block/{}:{}", major(rdev), minor(rdev));
    let number = if Path::new(&own).join("partition").exists() {
        std::fs::canonicalize(&own)
            .ok()
            .and_then(|dir| std::fs::read_to_string(dir.parent()?.join("dev")).ok())
    } else {
        Some(format!("{}:{}", major(rdev), minor(rdev)))
    };
    let Some(number) = number else {
        return Ok(None);
    };
    let path = PathBuf::from(format!("/dev/block/{}", number.trim()));
    let file = match File::open(&path) {
        Ok(file) => file,
        // A machine without udev has no such links, and nobody who would probe.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LockError::Io { path, source }),
    };
    lock::acquire(
        file,
        &path,
        LockMode::Exclusive,
        lock::deadline(Wait::UpTo(PROBE_TIME)),
    )
    .map(Some)
}

fn logical_block_of(rdev: u64) -> Option<u32> {
    let own = PathBuf::from(format!("/sys/dev/block/{}:{}", major(rdev), minor(rdev)));
    // A partition has the queue of its disk, one directory up.
    ["queue/logical_block_size", "../queue/logical_block_size"]
        .iter()
        .find_map(|name| std::fs::read_to_string(own.join(name)).ok())
        .and_then(|text| text.trim().parse().ok())
        .filter(|block: &u32| block.is_power_of_two() && *block >= DEFAULT_BLOCK)
}

/// Heap bytes at an address that direct transfers accept.
struct Aligned {
    store: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let store = vec![0; len + DIRECT_ALIGN];
        let start = store.as_ptr().align_offset(DIRECT_ALIGN);
        Self { store, start, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.store[self.start..self.start + self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.store[self.start..self.start + self.len]
    }
}

/// Covers every block size in use; header copies and slot areas are multiples of it.
const DIRECT_ALIGN: usize = 4096;
const DEFAULT_BLOCK: u32 = 512;
/// udev probes a disk in less.
const PROBE_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(len: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(len).unwrap();
        file
    }

    #[test]
    fn aligned_and_unaligned_transfers_see_each_other() {
        let file = file_of(64 * 1024 + 100);
        let device = FileDevice::open(file.path(), Access::ReadWrite).unwrap();
        device.write_at(4096, &[1; 8192]).unwrap();
        device.write_at(5000, &[2; 10]).unwrap();
        device.write_at(64 * 1024 + 90, &[3; 10]).unwrap();
        device.flush().unwrap();
        let mut all = vec![0; 64 * 1024 + 100];
        device.read_at(0, &mut all).unwrap();
        let mut aligned = vec![0; 8192];
        device.read_at(4096, &mut aligned).unwrap();
        assert_eq!(all[4096..12288], aligned[..]);
        assert_eq!(aligned[903..915], [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]);
        assert_eq!(all[64 * 1024 + 88..][..4], [0, 0, 3, 3]);
    }

    #[test]
    fn a_range_behind_the_end_is_an_error_and_writes_nothing() {
        let file = file_of(8192);
        let device = FileDevice::open(file.path(), Access::ReadWrite).unwrap();
        for (offset, len) in [
            (8192, 1),
            (4096, 4097),
            (u64::MAX, 1),
            (u64::MAX - 4095, 4096),
        ] {
            let error = device.write_at(offset, &vec![9; len]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset}+{len}");
            assert!(device.read_at(offset, &mut vec![0; len]).is_err());
        }
        assert_eq!(std::fs::read(file.path()).unwrap(), vec![0; 8192]);
    }

    #[test]
    fn a_device_opened_for_reading_refuses_writes() {
        let file = file_of(8192);
        let device = FileDevice::open(file.path(), Access::ReadOnly).unwrap();
        assert!(device.write_at(0, &[1; 4096]).is_err());
        assert!(device.write_at(7, &[1; 3]).is_err());
        assert_eq!(std::fs::read(file.path()).unwrap(), vec![0; 8192]);
    }

    #[test]
    fn two_exclusive_users_of_one_file_exclude_each_other() {
        let file = file_of(8192);
        let first = FileDevice::open(file.path(), Access::Exclusive).unwrap();
        assert!(matches!(
            FileDevice::open(file.path(), Access::Exclusive),
            Err(OpenError::Busy { .. })
        ));
        FileDevice::open(file.path(), Access::ReadWrite).unwrap();
        drop(first);
        FileDevice::open(file.path(), Access::Exclusive).unwrap();
    }

    #[test]
    fn a_directory_or_a_character_device_is_not_a_disk() {
        for path in ["/", "/dev/null"] {
            assert!(matches!(
                FileDevice::open(path, Access::ReadOnly),
                Err(OpenError::WrongKind { .. })
            ));
        }
    }

    #[test]
    fn a_new_file_is_private_and_never_replaces_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("header");
        let device = FileDevice::create_new(&path, 1 << 20).unwrap();
        assert_eq!(device.len(), 1 << 20);
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(FileDevice::create_new(&path, 1 << 20).is_err());
    }
}
