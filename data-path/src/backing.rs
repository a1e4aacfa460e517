//! The device or file that holds the ciphertext: opened for direct I/O, claimed for
//! ourselves, and asked for its geometry. Below step 4 of the read path.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno as SysErrno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::in_use;

/// What the served volume may do to the backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackingAccess {
    /// Reads only; several readers may share a regular file.
    ReadOnly,
    /// Reads and writes; nobody else may have it.
    ReadWrite,
}

/// Whether the kernel's page cache stands between us and the backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackingCache {
    /// `O_DIRECT`: no second copy in memory, and no dirty pages of ours that memory
    /// reclaim would have to write through us. Refused where the file system cannot.
    Direct,
    /// Through the page cache. Only for files, only when asked for: under memory
    /// pressure it can stall a volume that the same machine has mounted.
    Buffered,
}

/// How to open a backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackingOptions {
    /// Reads only, or writes as well.
    pub access: BackingAccess,
    /// Direct I/O, or through the page cache.
    pub cache: BackingCache,
}

/// Why a backing could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The path cannot be opened or asked about.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// The path as it was given.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("{path} is in use{}", in_use::by(.holders))]
    InUse {
        /// The path as it was given.
        path: PathBuf,
        /// Who, as far as it could be found out; may be empty.
        holders: Vec<String>,
    },
    /// Neither a block device nor a regular file.
    #[error("{path} is neither a block device nor a regular file")]
    WrongKind {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The file system has no direct I/O.
    #[error("{path} lies on a file system without direct I/O")]
    NoDirectIo {
        /// The path as it was given.
        path: PathBuf,
    },
}

/// What kind of thing the backing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackingKind {
    /// A block device.
    BlockDevice,
    /// A regular file.
    RegularFile,
}

/// What the backing says about itself; all sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackingGeometry {
    /// Offsets and lengths of direct I/O are multiples of this.
    pub offset_align: u32,
    /// Addresses of direct I/O are multiples of this.
    pub memory_align: u32,
    /// Smallest unit that is written without a read-modify-write.
    pub physical_block: u32,
    /// Preferred smallest I/O.
    pub io_min: u32,
    /// Preferred I/O; 0 if nothing is said.
    pub io_opt: u32,
    /// Unit of discard; 0 if the backing has none.
    pub discard_granularity: u32,
    /// Seeks cost time.
    pub rotational: bool,
}

/// An open backing, claimed for as long as the value lives.
#[derive(Debug)]
pub struct Backing {
    file: File,
    path: PathBuf,
    kind: BackingKind,
    access: BackingAccess,
    direct: bool,
    len: u64,
    geometry: BackingGeometry,
}

impl Backing {
    /// Opens `path`, claims it and asks for its geometry.
    ///
    /// A block device is claimed with `O_EXCL`, which mounts, device-mapper, MD and
    /// every other claimer honour. On a regular file that flag says nothing; there
    /// an open-file-description lock over the whole file keeps out a second server
    /// (and qemu): exclusive for writers, shared for readers.
    ///
    /// A claim can outlast its process for a moment: the kernel takes the rings of a
    /// killed server apart after it is gone. So a claim that nobody seems to hold is
    /// waited for, [`CLAIM_WAIT`] at most.
    ///
    /// # Errors
    /// [`BackingError::InUse`] names who is in the way, as far as it can be seen;
    /// [`BackingError::NoDirectIo`] if direct I/O was asked for and is not to be had.
    pub fn open(path: &Path, options: BackingOptions) -> Result<Self, BackingError> {
        let began = Instant::now();
        loop {
            match Self::try_open(path, options) {
                Err(BackingError::InUse { holders, .. })
                    if began.elapsed()
                        < if holders.is_empty() {
                            CLAIM_WAIT
                        } else {
                            CLAIM_WAIT / 10
                        } =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    fn try_open(path: &Path, options: BackingOptions) -> Result<Self, BackingError> {
        let failed = |doing| {
            let path = path.to_owned();
            move |source| BackingError::Io {
                doing,
                path,
                source,
            }
        };
        // The kind is looked at before opening, because the flags depend on it, and
        // again afterwards on what was really opened.
        let before = fs::metadata(path).map_err(failed("look at"))?;
        let is_block = before.file_type().is_block_device();
        if !is_block && !before.is_file() {
            return Err(BackingError::WrongKind {
                path: path.to_owned(),
            });
        }
        let direct = is_block || options.cache == BackingCache::Direct;
        let mut flags = libc::O_CLOEXEC;
        if direct {
            flags |= libc::O_DIRECT;
        }
        if is_block {
            flags |= libc::O_EXCL;
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(options.access == BackingAccess::ReadWrite)
            .custom_flags(flags)
            .open(path);
        let mut file = opened.map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) if is_block => BackingError::InUse {
                path: path.to_owned(),
                holders: in_use::holders_of_block_device(before.rdev()),
            },
            Some(libc::EINVAL) if direct => BackingError::NoDirectIo {
                path: path.to_owned(),
            },
            _ => BackingError::Io {
                doing: "open",
                path: path.to_owned(),
                source,
            },
        })?;
        let after = file.metadata().map_err(failed("look at"))?;
        if (after.dev(), after.ino(), after.rdev()) != (before.dev(), before.ino(), before.rdev()) {
            let source = io::Error::other("it was replaced while it was being opened");
            return Err(BackingError::Io {
                doing: "open",
                path: path.to_owned(),
                source,
            });
        }
        if !is_block {
            lock_file(&file, path, &after, options.access)?;
        }
        let len = file.seek(SeekFrom::End(0)).map_err(failed("measure"))?;
        let kind = if is_block {
            BackingKind::BlockDevice
        } else {
            BackingKind::RegularFile
        };
        let geometry = match kind {
            BackingKind::BlockDevice => block_geometry(after.rdev()),
            BackingKind::RegularFile => file_geometry(&file, &after, direct)
                .map_err(failed("ask for the alignment of"))?
                .ok_or_else(|| BackingError::NoDirectIo {
                    path: path.to_owned(),
                })?,
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            kind,
            access: options.access,
            direct,
            len,
            geometry,
        })
    }

    /// The path as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Block device or regular file.
    #[must_use]
    pub const fn kind(&self) -> BackingKind {
        self.kind
    }

    /// What it was opened for.
    #[must_use]
    pub const fn access(&self) -> BackingAccess {
        self.access
    }

    /// Whether I/O goes past the page cache.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.direct
    }

    /// Length in bytes when it was opened.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a size in bytes, not a collection"
    )]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// What it says about itself.
    #[must_use]
    pub const fn geometry(&self) -> &BackingGeometry {
        &self.geometry
    }

    /// `fdatasync`, for the end of a service: makes what was answered durable.
    ///
    /// # Errors
    /// The system's; what was not durable before must be taken as lost then.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl AsFd for Backing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Backing {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn lock_file(
    file: &File,
    path: &Path,
    meta: &fs::Metadata,
    access: BackingAccess,
) -> Result<(), BackingError> {
    let kind = match access {
        BackingAccess::ReadOnly => libc::F_RDLCK,
        BackingAccess::ReadWrite => libc::F_WRLCK,
    };
    let whole_file = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file)) {
        Ok(_) => Ok(()),
        Err(SysErrno::EAGAIN | SysErrno::EACCES) => Err(BackingError::InUse {
            path: path.to_owned(),
            holders: in_use::processes_with_open_file(meta.dev(), meta.ino()),
        }),
        Err(errno) => Err(BackingError::Io {
            doing: "lock",
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Geometry of a block device from sysfs. What is missing there gets the value that
/// is right for every device: 512-byte blocks are never assumed.
fn block_geometry(rdev: u64) -> BackingGeometry {
    let device = in_use::sysfs_of(rdev);
    // a partition has no queue directory, the disk it lies on has
    let queue = [device.join("queue"), device.join("../queue")]
        .into_iter()
        .find(|queue| queue.is_dir())
        .unwrap_or_else(|| device.join("queue"));
    let number = |name: &str| -> Option<u32> {
        fs::read_to_string(queue.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let logical = number("logical_block_size").unwrap_or(SAFE_ALIGN);
    let physical = number("physical_block_size").unwrap_or(logical);
    BackingGeometry {
        offset_align: logical,
        memory_align: number("dma_alignment").map_or(SAFE_ALIGN, |mask| mask.saturating_add(1)),
        physical_block: physical,
        io_min: number("minimum_io_size").unwrap_or(physical),
        io_opt: number("optimal_io_size").unwrap_or(0),
        discard_granularity: number("discard_granularity").unwrap_or(0),
        rotational: number("rotational").unwrap_or(0) != 0,
    }
}

/// Geometry of a regular file; `None` if direct I/O was asked for and the file says
/// that it has none.
fn file_geometry(
    file: &File,
    meta: &fs::Metadata,
    direct: bool,
) -> io::Result<Option<BackingGeometry>> {
    use rustix::fs::{AtFlags, StatxFlags};
    let below = block_geometry(meta.dev());
    let block = u32::try_from(meta.blksize())
        .unwrap_or(SAFE_ALIGN)
        .clamp(512, 1 << 20);
    let (offset_align, memory_align) = if direct {
        let asked = StatxFlags::DIOALIGN;
        let answer = match rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, asked) {
            Ok(answer) => Some(answer),
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => None,
            Err(errno) => return Err(errno.into()),
        };
        match answer.filter(|answer| answer.stx_mask & asked.bits() != 0) {
            // an alignment of 0 is how the kernel says "no direct I/O on this file"
            Some(answer) if answer.stx_dio_offset_align == 0 => return Ok(None),
            Some(answer) => (answer.stx_dio_offset_align, answer.stx_dio_mem_align.max(1)),
            // Not said (kernel before 6.1, or a file system that does not tell): tmpfs
            // takes any alignment, every other one takes pages.
            None if is_tmpfs(file)? => (512, 1),
            None => (SAFE_ALIGN, SAFE_ALIGN),
        }
    } else {
        (1, 1)
    };
    Ok(Some(BackingGeometry {
        offset_align,
        memory_align,
        physical_block: block.next_power_of_two(),
        io_min: block.next_power_of_two(),
        io_opt: 0,
        discard_granularity: block.next_power_of_two(),
        rotational: below.rotational,
    }))
}

fn is_tmpfs(file: &File) -> io::Result<bool> {
    Ok(nix::sys::statfs::fstatfs(file)?.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
}

/// How long a claim is waited for that no living process seems to hold; a tenth of it if
/// one does, which may be about to end.
pub const CLAIM_WAIT: Duration = Duration::from_secs(2);

/// Alignment that holds on every device and file system with direct I/O.
const SAFE_ALIGN: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECT: BackingOptions = BackingOptions {
        access: BackingAccess::ReadWrite,
        cache: BackingCache::Direct,
    };
    const BUFFERED: BackingOptions = BackingOptions {
        cache: BackingCache::Buffered,
        ..DIRECT
    };
    const READER: BackingOptions = BackingOptions {
        access: BackingAccess::ReadOnly,
        ..BUFFERED
    };

    fn file(len: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        file.as_file().set_len(len).expect("length");
        file
    }

    #[test]
    fn a_second_writer_is_told_who_is_in_the_way() {
        let image = file(1 << 20);
        let first = Backing::open(image.path(), BUFFERED).expect("first opener");
        assert_eq!(first.len(), 1 << 20);
        assert_eq!(first.kind(), BackingKind::RegularFile);
        for options in [BUFFERED, READER] {
            match Backing::open(image.path(), options) {
                Err(BackingError::InUse { holders, .. }) => {
                    let me = format!("process {}", std::process::id());
                    assert!(
                        holders.iter().any(|holder| holder.starts_with(&me)),
                        "{holders:?}"
                    );
                }
                other => panic!("expected InUse, got {other:?}"),
            }
        }
        drop(first);
        Backing::open(image.path(), BUFFERED).expect("free again once the first is dropped");
    }

    #[test]
    fn readers_share_a_file_and_keep_writers_out() {
        let image = file(4096);
        let _one = Backing::open(image.path(), READER).expect("first reader");
        let _two = Backing::open(image.path(), READER).expect("second reader");
        assert!(matches!(
            Backing::open(image.path(), BUFFERED),
            Err(BackingError::InUse { .. })
        ));
    }

    #[test]
    fn a_directory_a_socket_and_a_missing_path_are_refused_by_name() {
        let dir = tempfile::tempdir().expect("directory");
        assert!(matches!(
            Backing::open(dir.path(), DIRECT),
            Err(BackingError::WrongKind { path }) if path == dir.path()
        ));
        let missing = dir.path().join("missing");
        let error = Backing::open(&missing, DIRECT).expect_err("missing");
        assert!(error.to_string().contains("missing"), "{error}");
        assert!(matches!(
            Backing::open(Path::new("/dev/null"), DIRECT),
            Err(BackingError::WrongKind { .. })
        ));
    }

    #[test]
    fn a_file_system_without_direct_io_is_refused_unless_buffered_is_asked_for() {
        // procfs is everywhere, has regular files, and cannot do direct I/O
        let path = Path::new("/proc/self/status");
        let direct = BackingOptions {
            access: BackingAccess::ReadOnly,
            ..DIRECT
        };
        assert!(matches!(
            Backing::open(path, direct),
            Err(BackingError::NoDirectIo { .. })
        ));
    }

    #[test]
    fn direct_geometry_is_a_power_of_two_no_larger_than_a_page() {
        let image = file(1 << 20);
        match Backing::open(image.path(), DIRECT) {
            Ok(backing) => {
                assert!(backing.is_direct());
                let geometry = backing.geometry();
                assert!(geometry.offset_align.is_power_of_two(), "{geometry:?}");
                assert!(geometry.offset_align <= 4096, "{geometry:?}");
                assert!(geometry.memory_align <= 4096, "{geometry:?}");
            }
            // the temporary directory may lie where direct I/O does not exist
            Err(BackingError::NoDirectIo { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}
