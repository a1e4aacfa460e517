//! Puts a header backup back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use luksmith_luks2::{Fill, Header, HeaderCopy, HeaderSize, ResolveError, Resolved};

use super::backup::{Tell, resolve_file};
use super::commit::copy_name;
use super::{Found, HeaderStore};
use crate::device::MetadataDevice;
use crate::error::{RestoreObjection, StoreError};
use crate::lock::{LockMode, Wait};
use crate::mutant::Mutant;

/// Which objections a person has overruled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreRules {
    /// The device needs to have no LUKS2 header now.
    pub onto_no_header: bool,
    /// The UUIDs may differ.
    pub other_uuid: bool,
    /// Data offset and sizes may differ.
    pub other_layout: bool,
}

impl<D: MetadataDevice> HeaderStore<D> {
    /// Writes a backup onto a device. All checks come first; a refusal writes nothing and names
    /// every objection at once.
    ///
    /// Crash order; each line says what would be lost without it:
    ///
    /// 1. Lock and barrier as in [`apply`](Self::apply).
    /// 2. The first block of each old copy is zeroed, barrier. *The old header would name areas
    ///    that already hold the backup's material, and could win by its higher number.*
    /// 3. The keyslots area of the backup, barrier. *A durable header must not name undurable
    ///    material.*
    /// 4. Primary, barrier, secondary, barrier; all of it is read back.
    ///
    /// So a crash leaves the old volume, no header, or the new one. After "no header" the restore
    /// is simply repeated: the backup file is still there.
    ///
    /// # Errors
    /// [`StoreError::BadBackup`], [`StoreError::RestoreRefused`] and everything that
    /// [`apply`](Self::apply) may meet.
    pub fn restore(
        device: D,
        backup: &Path,
        rules: RestoreRules,
        wait: Wait,
    ) -> Result<Self, StoreError> {
        Self::restore_telling(device, backup, rules, wait, &mut |_, _| {})
    }

    /// [`restore`](Self::restore), with word of how far it is.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn restore_telling(
        device: D,
        backup: &Path,
        rules: RestoreRules,
        wait: Wait,
        tell: Tell<'_>,
    ) -> Result<Self, StoreError> {
        if device.read_only() {
            return Err(StoreError::ReadOnly);
        }
        let failed = |source| StoreError::Backup {
            action: "read",
            path: backup.to_owned(),
            source,
        };
        let (file, image) = read_backup(backup)?;
        let held = Self::hold(&device, LockMode::Exclusive, wait)?;
        let present = present_header(&device)?;
        let objections = object(&image.header, present.as_ref(), device.len(), rules);
        if !objections.is_empty() {
            return Err(StoreError::RestoreRefused(objections));
        }

        // Everything that the file must give is read before the device loses anything.
        let area = image.header.metadata().keyslots_area();
        let mut areas = vec![
            0;
            usize::try_from(area.size).map_err(|_| {
                StoreError::OutsideKeyslots {
                    offset: area.offset,
                    len: area.size,
                }
            })?
        ];
        file.read_exact_at(&mut areas, area.offset)
            .map_err(failed)?;
        let mut store = Self::blank(device, image.header.clone())?;
        let copies = [HeaderCopy::Primary, HeaderCopy::Secondary]
            .map(|copy| store.copy_of(&file, &image, copy));
        let [primary, secondary] = copies;
        let (primary, secondary) = (primary.map_err(failed)?, secondary.map_err(failed)?);
        let all = (areas.len() + primary.len() + secondary.len()) as u64;

        store.first_barrier()?;
        let switches = store.device.switches();
        if !switches.lacks(Mutant::RestoreOverOldHeader) {
            if let Some(present) = &present {
                store.clear_copies(present.size())?;
            }
            store.clear_old_secondaries(image.header.metadata().total_bytes())?;
        }
        let mut put = |done: u64| tell(done, all);
        if !switches.lacks(Mutant::RestoreHeaderFirst) {
            store.put_areas(area.offset, &areas, &mut put)?;
        }
        for (copy, bytes) in [
            (HeaderCopy::Primary, &primary),
            (HeaderCopy::Secondary, &secondary),
        ] {
            let offset = copy.offset(image.header.size());
            store.write(copy_name(copy), offset, bytes)?;
            if copy == HeaderCopy::Secondary || !switches.lacks(Mutant::NoBarrierBetweenCopies) {
                store.barrier()?;
            }
        }
        if switches.lacks(Mutant::RestoreHeaderFirst) {
            store.put_areas(area.offset, &areas, &mut put)?;
        }
        store.found = store.look()?;
        drop(held);
        tell(all, all);
        Ok(store)
    }

    /// What [`restore`](Self::restore) would object to with no rule overruled, so that a person
    /// can be asked once about all of it. Writes nothing.
    ///
    /// # Errors
    /// [`StoreError::BadBackup`], [`StoreError::Backup`], [`StoreError::Lock`],
    /// [`StoreError::Device`].
    pub fn objections_to_restore(
        device: &D,
        backup: &Path,
        wait: Wait,
    ) -> Result<Vec<RestoreObjection>, StoreError> {
        let (_, image) = read_backup(backup)?;
        let _held = Self::hold(device, LockMode::Shared, wait)?;
        let present = present_header(device)?;
        Ok(object(
            &image.header,
            present.as_ref(),
            device.len(),
            RestoreRules::default(),
        ))
    }

    /// A store of a device whose content is about to be replaced.
    pub(super) fn blank(device: D, header: Header) -> Result<Self, StoreError> {
        let mut store = Self {
            device,
            found: Found {
                resolved: Resolved {
                    primary: luksmith_luks2::CopyState::Bad(luksmith_luks2::FormatError::NoMagic),
                    secondary: luksmith_luks2::CopyState::Bad(luksmith_luks2::FormatError::NoMagic),
                    in_force: HeaderCopy::Primary,
                    repair: None,
                    header,
                },
                foreign: Vec::new(),
            },
            latched: false,
            wrote: false,
            unproven: Vec::new(),
        };
        let seqid = store.header().seqid();
        for copy in [HeaderCopy::Primary, HeaderCopy::Secondary] {
            let good = luksmith_luks2::CopyState::Good {
                seqid,
                salt: store.fresh_salt()?,
            };
            match copy {
                HeaderCopy::Primary => store.found.resolved.primary = good,
                HeaderCopy::Secondary => store.found.resolved.secondary = good,
            }
        }
        Ok(store)
    }

    /// Zeroes the first block of both copies, primary first; durable when this returns.
    fn clear_copies(&mut self, size: HeaderSize) -> Result<(), StoreError> {
        // The secondary alone still is a whole header: there is no state in between.
        for copy in [HeaderCopy::Primary, HeaderCopy::Secondary] {
            self.wipe(copy.offset(size), FIRST_BLOCK, Fill::Zero)?;
        }
        self.barrier()
    }

    /// Zeroes the first block of every other secondary that lies behind `new_end` and could be
    /// found there some day when the new primary is damaged. Only what bears the magic of a
    /// secondary is touched.
    pub(super) fn clear_old_secondaries(&mut self, new_end: u64) -> Result<(), StoreError> {
        let mut cleared = false;
        for size in HeaderSize::ALL {
            let place = size.bytes();
            if place < new_end || place + FIRST_BLOCK > self.device.len() {
                continue;
            }
            let bytes = self.read("look for old headers", place, FIRST_BLOCK)?;
            let old =
                luksmith_luks2::binary::BinaryHeader::decode(&bytes, HeaderCopy::Secondary, place);
            if old.is_ok() {
                self.wipe(place, FIRST_BLOCK, Fill::Zero)?;
                cleared = true;
            }
        }
        match cleared {
            true => self.barrier(),
            false => Ok(()),
        }
    }

    fn put_areas(
        &mut self,
        offset: u64,
        bytes: &[u8],
        put: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        for (index, block) in bytes.chunks(BLOCK).enumerate() {
            self.write("keyslot areas", offset + (index * BLOCK) as u64, block)?;
            put((index * BLOCK + block.len()) as u64);
        }
        if !self.device.switches().lacks(Mutant::NoStepBarrier) {
            self.barrier()?;
        }
        Ok(())
    }

    /// The bytes of one copy: those of the backup, or made from its good copy.
    fn copy_of(&self, file: &File, image: &Resolved, copy: HeaderCopy) -> std::io::Result<Vec<u8>> {
        if image
            .repair
            .as_ref()
            .is_some_and(|repair| repair.copy == copy)
        {
            let mut salt = [0; luksmith_luks2::binary::SALT_BYTES];
            self.device.random(&mut salt)?;
            return Ok(image.header.encode(copy, salt));
        }
        let size = image.header.size();
        // At most 4 MiB.
        let mut bytes = vec![0; size.bytes() as usize];
        file.read_exact_at(&mut bytes, copy.offset(size))?;
        Ok(bytes)
    }
}

/// The backup file and the header in it.
fn read_backup(backup: &Path) -> Result<(File, Resolved), StoreError> {
    let file = File::open(backup).map_err(|source| StoreError::Backup {
        action: "read",
        path: backup.to_owned(),
        source,
    })?;
    let image = resolve_file(&file).map_err(|source| StoreError::BadBackup {
        path: backup.to_owned(),
        source,
    })?;
    Ok((file, image))
}

/// The header that is on the device now, if there is a usable one.
fn present_header<D: MetadataDevice>(device: &D) -> Result<Option<Header>, StoreError> {
    match Found::read(device) {
        Ok(found) => Ok(Some(found.resolved.header)),
        Err(StoreError::Resolve(
            ResolveError::NotLuks2
            | ResolveError::BothBad { .. }
            | ResolveError::DeviceTooSmall { .. },
        ))
        // A header that cannot be read is a reason to restore one.
        | Err(StoreError::Device { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Everything that speaks against it and was not overruled.
fn object(
    backup: &Header,
    present: Option<&Header>,
    device_len: u64,
    rules: RestoreRules,
) -> Vec<RestoreObjection> {
    let mut objections = Vec::new();
    let mut blocked = |header: &Header, which: &'static str| {
        if header.metadata().reencryption_in_progress() {
            objections.push(RestoreObjection::Reencryption(which));
        } else if !header.metadata().requirements().is_empty() {
            objections.push(RestoreObjection::Requirements(which));
        }
    };
    blocked(backup, "backup");
    if let Some(present) = present {
        blocked(present, "device");
    }
    let need = backup.metadata().total_bytes();
    if need > device_len {
        objections.push(RestoreObjection::TooSmall {
            need,
            have: device_len,
        });
    }
    match present {
        None => {
            if !rules.onto_no_header {
                objections.push(RestoreObjection::NoHeader);
            }
        }
        Some(present) => {
            if present.uuid() != backup.uuid() && !rules.other_uuid {
                objections.push(RestoreObjection::OtherUuid {
                    present: present.uuid().to_owned(),
                    backup: backup.uuid().to_owned(),
                });
            }
            let layout = |header: &Header| {
                let data = header
                    .metadata()
                    .regular_segments()
                    .map(|(_, s)| s.offset)
                    .min();
                (data.unwrap_or(0), header.metadata().total_bytes())
            };
            let (here, there) = (layout(present), layout(backup));
            if here != there && !rules.other_layout {
                objections.push(RestoreObjection::OtherLayout {
                    present_data: here.0,
                    present_total: here.1,
                    backup_data: there.0,
                    backup_total: there.1,
                });
            }
        }
    }
    objections
}

const FIRST_BLOCK: u64 = 4096;
const BLOCK: usize = 1 << 20;
