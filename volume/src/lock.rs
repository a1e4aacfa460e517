//! The metadata lock, the same one that cryptsetup and systemd take, so that programs on one host
//! exclude each other.
//!
//! * Header in a regular file: `flock` on the file itself.
//! * Header on a block device: `flock` on `/run/cryptsetup/L_<major>:<minor>`. The file may be
//!   unlinked by the holder before us, so after the lock is ours the path must still name the inode
//!   that we locked; else somebody else may hold a lock on the new file, and we try again. On
//!   release the file is unlinked if nobody else holds it.
//!
//! `flock` knows no time limit, so a limited [`Wait`] asks again at growing intervals.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat, major, minor};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How much of the header the holder wants to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Others may read.
    Shared,
    /// Nobody else reads or writes.
    Exclusive,
}

/// What to do while somebody else holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Give up at once.
    Fail,
    /// Give up after this time.
    UpTo(Duration),
    /// Wait as long as it takes.
    Forever,
}

impl Default for Wait {
    /// Half a minute: longer than any header update, shorter than a person's patience.
    fn default() -> Self {
        Self::UpTo(Duration::from_secs(30))
    }
}

/// Why the metadata lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another program holds the lock.
    #[error("another program holds the metadata lock of {}", path.display())]
    Busy {
        /// The locked file.
        path: PathBuf,
    },
    /// The directory of lock files cannot be used.
    #[error("the lock directory {} cannot be used: {reason}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The file to be locked.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Where the locks of block devices live; fixed by what other programs use.
pub const LOCK_DIRECTORY: &str = "/run/cryptsetup";

/// A held metadata lock; dropping it releases the lock.
#[derive(Debug)]
pub struct MetadataLock {
    file: Option<Flock<File>>,
    /// Directory and name of the lock file of a block device.
    named: Option<(OwnedFd, String)>,
}

impl MetadataLock {
    /// Locks the header in or on `path`, which is a regular file or a block device.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(path: &Path, mode: LockMode, wait: Wait) -> Result<Self, LockError> {
        Self::take_in(Path::new(LOCK_DIRECTORY), path, mode, wait)
    }

    fn take_in(
        directory: &Path,
        path: &Path,
        mode: LockMode,
        wait: Wait,
    ) -> Result<Self, LockError> {
        let meta = std::fs::metadata(path).map_err(|e| failed(path, e))?;
        if meta.file_type().is_block_device() {
            let name = format!("L_{}:{}", major(meta.rdev()), minor(meta.rdev()));
            Self::take_named(directory, name, mode, wait)
        } else if meta.is_file() {
            Self::take_file(path, mode, wait)
        } else {
            Err(failed(
                path,
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "neither a regular file nor a block device",
                ),
            ))
        }
    }

    fn take_file(path: &Path, mode: LockMode, wait: Wait) -> Result<Self, LockError> {
        // A lock of its own open file, so that it does not depend on how the data is opened.
        let file = File::open(path).map_err(|e| failed(path, e))?;
        let file = acquire(file, path, mode, deadline(wait))?;
        Ok(Self {
            file: Some(file),
            named: None,
        })
    }

    fn take_named(
        directory: &Path,
        name: String,
        mode: LockMode,
        wait: Wait,
    ) -> Result<Self, LockError> {
        let deadline = deadline(wait);
        let dir = open_directory(directory)?;
        let path = directory.join(&name);
        loop {
            let fd = openat(
                &dir,
                name.as_str(),
                OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_RDWR | OFlag::O_CLOEXEC,
                Mode::S_IRUSR | Mode::S_IWUSR,
            )
            .map_err(|e| failed(&path, e.into()))?;
            let file = acquire(File::from(fd), &path, mode, deadline)?;
            if still_named(&dir, &name, &file) {
                return Ok(Self {
                    file: Some(file),
                    named: Some((dir, name)),
                });
            }
            // The previous holder unlinked the file between our open and our lock.
        }
    }
}

impl MetadataLock {
    /// Whether the locked file is `file` (only meaningful for headers in regular files).
    pub(crate) fn is_on(&self, file: &File) -> bool {
        let Some(held) = &self.file else { return false };
        match (held.metadata(), file.metadata()) {
            (Ok(held), Ok(file)) => held.ino() == file.ino() && held.dev() == file.dev(),
            _ => false,
        }
    }
}

impl Drop for MetadataLock {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        let Some((dir, name)) = &self.named else {
            return; // the lock goes with the file descriptor
        };
        // Only the last one out removes the file; one that cannot become the sole holder leaves
        // it to the others.
        if file.relock(FlockArg::LockExclusiveNonblock).is_ok() && still_named(dir, name, &file) {
            let _ = unlinkat(dir, name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

pub(crate) fn deadline(wait: Wait) -> Option<Instant> {
    match wait {
        Wait::Fail => Some(Instant::now()),
        Wait::UpTo(limit) => Some(Instant::now() + limit),
        Wait::Forever => None,
    }
}

pub(crate) fn acquire(
    mut file: File,
    path: &Path,
    mode: LockMode,
    deadline: Option<Instant>,
) -> Result<Flock<File>, LockError> {
    let (blocking, polling) = match mode {
        LockMode::Shared => (FlockArg::LockShared, FlockArg::LockSharedNonblock),
        LockMode::Exclusive => (FlockArg::LockExclusive, FlockArg::LockExclusiveNonblock),
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let how = if deadline.is_some() {
            polling
        } else {
            blocking
        };
        match Flock::lock(file, how) {
            Ok(held) => return Ok(held),
            Err((back, Errno::EINTR)) => file = back,
            Err((back, Errno::EWOULDBLOCK)) => {
                let now = Instant::now();
                match deadline {
                    Some(limit) if now < limit => {
                        std::thread::sleep(pause.min(limit - now));
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    _ => {
                        return Err(LockError::Busy {
                            path: path.to_owned(),
                        });
                    }
                }
                file = back;
            }
            Err((_, errno)) => return Err(failed(path, errno.into())),
        }
    }
}

/// Opens the directory of lock files, making it if this is the first program to need it.
fn open_directory(path: &Path) -> Result<OwnedFd, LockError> {
    let refuse = |reason: String| LockError::Directory {
        path: path.to_owned(),
        reason,
    };
    let open = || {
        nix::fcntl::open(
            path,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
    };
    let dir = match open() {
        Err(Errno::ENOENT) => {
            match nix::unistd::mkdir(path, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(e) => return Err(refuse(format!("cannot be made: {e}"))),
            }
            open()
        }
        other => other,
    }
    .map_err(|e| refuse(e.to_string()))?;
    let meta = fstat(&dir).map_err(|e| refuse(e.to_string()))?;
    // Whoever may write there could take our locks away or hold them for ever.
    if meta.st_uid != 0 {
        return Err(refuse(format!("it belongs to user {}", meta.st_uid)));
    }
    if meta.st_mode & 0o022 != 0 {
        return Err(refuse("others than its owner may write to it".to_owned()));
    }
    Ok(dir)
}

/// Whether `name` still is the file that we hold.
fn still_named(dir: &OwnedFd, name: &str, file: &File) -> bool {
    match (
        fstat(file),
        fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW),
    ) {
        (Ok(ours), Ok(there)) => ours.st_ino == there.st_ino && ours.st_dev == there.st_dev,
        _ => false,
    }
}

fn failed(path: &Path, source: io::Error) -> LockError {
    LockError::Io {
        path: path.to_owned(),
        source,
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_second_exclusive_lock_on_a_file_fails_at_once_or_after_its_limit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let held = MetadataLock::take(file.path(), LockMode::Exclusive, Wait::Fail).unwrap();
        assert!(matches!(
            MetadataLock::take(file.path(), LockMode::Shared, Wait::Fail),
            Err(LockError::Busy { .. })
        ));
        let started = Instant::now();
        let limit = Duration::from_millis(60);
        assert!(matches!(
            MetadataLock::take(file.path(), LockMode::Exclusive, Wait::UpTo(limit)),
            Err(LockError::Busy { .. })
        ));
        assert!(started.elapsed() >= limit);
        drop(held);
        MetadataLock::take(file.path(), LockMode::Exclusive, Wait::Fail).unwrap();
    }

    #[test]
    fn readers_share_and_a_writer_waits_for_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let one = MetadataLock::take(file.path(), LockMode::Shared, Wait::Fail).unwrap();
        let two = MetadataLock::take(file.path(), LockMode::Shared, Wait::Fail).unwrap();
        drop(one);
        assert!(MetadataLock::take(file.path(), LockMode::Exclusive, Wait::Fail).is_err());
        drop(two);
        MetadataLock::take(file.path(), LockMode::Exclusive, Wait::Fail).unwrap();
    }

    #[test]
    fn named_locks_exclude_each_other_although_each_release_unlinks_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..50 {
                        // Waiting for ever and polling meet the unlinked inode at other places.
                        let wait = if round % 2 == 0 {
                            Wait::Forever
                        } else {
                            Wait::UpTo(Duration::from_secs(60))
                        };
                        let held = MetadataLock::take_named(
                            &path,
                            "L_1:2".to_owned(),
                            LockMode::Exclusive,
                            wait,
                        )
                        .unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_directory_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            MetadataLock::take_named(dir.path(), "L_1:2".into(), LockMode::Shared, Wait::Fail),
            Err(LockError::Directory { .. })
        ));
    }

    #[test]
    fn a_symbolic_link_in_place_of_the_lock_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        drop(open_directory(&path).unwrap());
        let victim = dir.path().join("victim");
        std::os::unix::fs::symlink(&victim, path.join("L_1:2")).unwrap();
        assert!(
            MetadataLock::take_named(&path, "L_1:2".into(), LockMode::Exclusive, Wait::Fail)
                .is_err()
        );
        assert!(!victim.exists());
    }
}
