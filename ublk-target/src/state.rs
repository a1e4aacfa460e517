//! `/run/luksmith`: which volumes are open.
//!
//! One folder per volume, for root only. The folder's existence is the claim to the name;
//! its keeper removes it as its last act, so a name is free exactly when its folder is gone.
//! `opening.json` says what is about to be opened, `state.json` appears before the device
//! does, `control.sock` is answered by the server.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::Doing;
use crate::status::{BackingId, VolumeFacts};
use crate::{UblkError, VolumeName};

/// The folder of all volumes.
pub(crate) const RUN_FOLDER: &str = "/run/luksmith";

const STATE: &str = "state.json";
const OPENING: &str = "opening.json";
pub(crate) const SOCKET: &str = "control.sock";

/// What a volume claims before its device exists.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Opening {
    pub(crate) uuid: String,
    pub(crate) backing: PathBuf,
    pub(crate) backing_id: BackingId,
    /// A number nobody else uses, put on the device: it proves later that `/dev/ublkbN` is still the
    /// device of this volume.
    pub(crate) mark: u64,
}

/// The folder of one volume.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    name: VolumeName,
    path: PathBuf,
}

impl Folder {
    pub(crate) fn of(name: &VolumeName) -> Self {
        Self {
            name: name.clone(),
            path: Path::new(RUN_FOLDER).join(name.as_str()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Claims the name, unless it or the backing is taken.
    pub(crate) fn claim(name: &VolumeName, opening: &Opening) -> Result<Self, UblkError> {
        let _lock = lock()?;
        let folder = Self::of(name);
        if folder.path.exists() {
            return Err(UblkError::NameTaken(name.to_string()));
        }
        for other in names()? {
            let other = Self::of(&other);
            if let Ok(theirs) = other.opening()
                && theirs.backing_id == opening.backing_id
            {
                let device = other
                    .facts()
                    .map_or_else(|_| theirs.backing, |facts| facts.device);
                let same = if theirs.uuid == opening.uuid {
                    "it has the same backing and the same UUID"
                } else {
                    "it has the same backing"
                };
                return Err(UblkError::AlreadyOpen {
                    name: other.name.into(),
                    device,
                    same,
                });
            }
        }
        create_private(&folder.path)?;
        folder
            .write(OPENING, opening)
            .inspect_err(|_| folder.remove())?;
        Ok(folder)
    }

    /// Writes the state file; complete or not at all.
    pub(crate) fn publish(&self, facts: &VolumeFacts) -> Result<(), UblkError> {
        self.write(STATE, facts)
    }

    pub(crate) fn facts(&self) -> Result<VolumeFacts, UblkError> {
        self.read(STATE)
    }

    pub(crate) fn opening(&self) -> Result<Opening, UblkError> {
        self.read(OPENING)
    }

    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// A short path to the socket, whatever the length of the name: addresses of sockets
    /// have room for 108 bytes. Good as long as the returned file is open.
    pub(crate) fn socket(&self) -> io::Result<(File, PathBuf)> {
        use std::os::fd::AsRawFd;
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_DIRECTORY | nix::libc::O_PATH)
            .open(&self.path)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()));
        Ok((folder, path))
    }

    /// Gives the name back.
    pub(crate) fn remove(&self) {
        for file in [SOCKET, STATE, OPENING] {
            let _ = fs::remove_file(self.path.join(file));
        }
        let _ = fs::remove_dir(self.path.join("root"));
        let _ = fs::remove_dir(&self.path);
    }

    fn write(&self, file: &str, value: &impl Serialize) -> Result<(), UblkError> {
        let path = self.path.join(file);
        let new = self.path.join(format!("{file}.new"));
        let text = serde_json::to_vec(value).doing(|| format!("write {}", path.display()))?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&new, &path))
            .doing(|| format!("write {}", path.display()))
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, file: &str) -> Result<T, UblkError> {
        let path = self.path.join(file);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).doing(|| format!("read {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(UblkError::NotOpen(self.name.to_string()))
            }
            Err(error) => Err(UblkError::io(format!("read {}", path.display()), error)),
        }
    }
}

/// The facts of every volume whose device exists or is about to.
pub(crate) fn all() -> Result<Vec<VolumeFacts>, UblkError> {
    Ok(names()?
        .iter()
        .filter_map(|name| Folder::of(name).facts().ok())
        .collect())
}

/// Names that are claimed, in order.
pub(crate) fn names() -> Result<Vec<VolumeName>, UblkError> {
    let entries = match fs::read_dir(RUN_FOLDER) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(UblkError::io(format!("read {RUN_FOLDER}"), error)),
    };
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| VolumeName::new(entry.file_name().to_str()?).ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Keeps other programs of ours from claiming at the same time.
fn lock() -> Result<Flock<File>, UblkError> {
    if !Path::new(RUN_FOLDER).exists() {
        match create_private(Path::new(RUN_FOLDER)) {
            // Somebody was faster.
            Err(UblkError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    trusted(Path::new(RUN_FOLDER))?;
    let path = Path::new(RUN_FOLDER).join(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .doing(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| UblkError::io(format!("lock {}", path.display()), errno))
}

fn create_private(path: &Path) -> Result<(), UblkError> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .doing(|| format!("create {}", path.display()))
}

/// Refuses a folder that somebody else could have prepared.
fn trusted(path: &Path) -> Result<(), UblkError> {
    let meta = fs::symlink_metadata(path).doing(|| format!("look at {}", path.display()))?;
    let mine = meta.uid() == nix::unistd::geteuid().as_raw();
    if !meta.is_dir() || !mine || meta.mode() & 0o022 != 0 {
        return Err(UblkError::Misuse(format!(
            "{} is not a folder that only root may write to",
            path.display()
        )));
    }
    Ok(())
}

/// The identity of a backing that is open or about to be.
pub(crate) fn backing_id(meta: &fs::Metadata) -> BackingId {
    use std::os::unix::fs::FileTypeExt;
    if meta.file_type().is_block_device() {
        BackingId::Device(meta.rdev())
    } else {
        BackingId::File(meta.dev(), meta.ino())
    }
}
