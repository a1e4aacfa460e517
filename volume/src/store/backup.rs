//! A header backup: both copies and the keyslots area, byte for byte, in a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use luksmith_luks2::{HeaderCopy, resolve};

use super::HeaderStore;
use crate::device::MetadataDevice;
use crate::error::StoreError;
use crate::file::sync_directory_of;
use crate::lock::{LockMode, Wait};

impl<D: MetadataDevice> HeaderStore<D> {
    /// Writes a backup to a new file that only its owner may read. The file and its name are
    /// durable, and the file was read again and found good, when this returns; on failure there is
    /// no file.
    ///
    /// A stale or damaged copy on the device is replaced in the backup by the one in force, so a
    /// backup is always whole. Nothing is written to the device.
    ///
    /// The backup opens with every passphrase that is good now, for ever: whoever removes a
    /// passphrase later must destroy the backup, too.
    ///
    /// # Errors
    /// [`StoreError::Backup`] if the file exists or cannot be written; [`StoreError::Lock`],
    /// [`StoreError::Resolve`], [`StoreError::Device`].
    pub fn backup_to(&mut self, path: &Path, wait: Wait) -> Result<(), StoreError> {
        self.backup_telling(path, wait, &mut |_, _| {})
    }

    /// [`backup_to`](Self::backup_to), with word of how far it is.
    ///
    /// # Errors
    /// As [`backup_to`](Self::backup_to).
    pub fn backup_telling(
        &mut self,
        path: &Path,
        wait: Wait,
        tell: Tell<'_>,
    ) -> Result<(), StoreError> {
        self.wrote = false;
        let _held = Self::hold(&self.device, LockMode::Shared, wait)?;
        self.found = self.look()?;
        let fail = |action| {
            move |source| StoreError::Backup {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(path)
            .map_err(fail("create"))?;
        let made = self
            .copy_header_to(&mut file, path, tell)
            .and_then(|()| file.sync_all().map_err(fail("write")))
            .and_then(|()| self.check_backup(&file, path))
            .and_then(|()| sync_directory_of(path).map_err(fail("write")));
        if made.is_err() {
            // Half a backup is worse than none. Nothing better can be done if this fails, too.
            let _ = std::fs::remove_file(path);
        }
        made.inspect(|()| {
            let all = self.header().metadata().total_bytes();
            tell(all, all);
        })
    }

    fn copy_header_to(
        &self,
        file: &mut File,
        path: &Path,
        tell: Tell<'_>,
    ) -> Result<(), StoreError> {
        let header = self.header();
        let all = header.metadata().total_bytes();
        let mut copied = 0;
        let mut put = |bytes: &[u8]| -> Result<(), StoreError> {
            file.write_all(bytes).map_err(|source| StoreError::Backup {
                action: "write",
                path: path.to_owned(),
                source,
            })?;
            copied += bytes.len() as u64;
            // the last word comes when it is durable
            if copied < all {
                tell(copied, all);
            }
            Ok(())
        };
        for copy in [HeaderCopy::Primary, HeaderCopy::Secondary] {
            let bad = self
                .needs_repair()
                .is_some_and(|repair| repair.copy == copy);
            let bytes = match bad {
                true => header.encode(copy, self.fresh_salt()?),
                false => self.read(
                    "read the header",
                    copy.offset(header.size()),
                    header.size().bytes(),
                )?,
            };
            put(&bytes)?;
        }
        let area = header.metadata().keyslots_area();
        let mut done = 0;
        while done < area.size {
            let part = (area.size - done).min(BLOCK);
            put(&self.read("read the keyslot areas", area.offset + done, part)?)?;
            done += part;
        }
        Ok(())
    }

    fn check_backup(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        let bad = |source| StoreError::BadBackup {
            path: path.to_owned(),
            source,
        };
        let resolved = resolve_file(file).map_err(bad)?;
        match resolved.repair.is_none() && &resolved.header == self.header() {
            true => Ok(()),
            false => Err(StoreError::Backup {
                action: "verify",
                path: path.to_owned(),
                source: io::Error::other("the file does not hold what was written to it"),
            }),
        }
    }

    pub(super) fn read(
        &self,
        action: &'static str,
        offset: u64,
        len: u64,
    ) -> Result<Vec<u8>, StoreError> {
        let len = usize::try_from(len).map_err(|_| StoreError::OutsideKeyslots { offset, len })?;
        let mut bytes = vec![0; len];
        self.device
            .read_at(offset, &mut bytes)
            .map_err(|source| StoreError::device(action, self.wrote, source))?;
        Ok(bytes)
    }
}

/// Is told how many bytes of how many are done; all of them only when that is durable.
pub type Tell<'a> = &'a mut dyn FnMut(u64, u64);

/// The header in a backup file.
pub(super) fn resolve_file(
    file: &File,
) -> Result<luksmith_luks2::Resolved, luksmith_luks2::ResolveError> {
    use std::os::unix::fs::FileExt;
    let len = file
        .metadata()
        .map_err(|source| luksmith_luks2::ResolveError::Read {
            offset: 0,
            len: 0,
            source,
        })?
        .len();
    let mut read = |offset: u64, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    };
    resolve(&mut read, len)
}

const BLOCK: u64 = 1 << 20;
