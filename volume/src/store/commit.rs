//! Carries a change out, in an order that a crash cannot hurt.

use luksmith_luks2::{Change, Fill, FormatError, Header, HeaderCopy, Step};

use super::HeaderStore;
use crate::device::MetadataDevice;
use crate::error::StoreError;
use crate::lock::{LockMode, Wait};
use crate::mutant::Mutant;

impl<D: MetadataDevice> HeaderStore<D> {
    /// Carries out a change that was made for the header of this store.
    ///
    /// Crash order; each line says what would be lost without it:
    ///
    /// 1. Exclusive lock, until the end. *Two programs would interleave their writes.*
    /// 2. Barrier. *A program that was killed may have left its second copy in the cache; our first
    ///    write would then leave both copies undurable at once.*
    /// 3. Read both copies again, compare with what the change was made for. *Somebody else's
    ///    change since then would vanish.*
    /// 4. Rewrite a stale or damaged copy, barrier. *The next write would tear the only good one.*
    /// 5. The steps of the change; a commit is: primary, barrier, secondary, barrier. *With one
    ///    barrier for both, a power cut may tear both. Without the last one, an acknowledged change
    ///    may vanish when the one durable copy is damaged.*
    /// 6. Behind each barrier everything written before it is read back and compared. *A disk that
    ///    loses a write and reports success would be believed.*
    ///
    /// The first failing write or flush ends the change and latches the store: what the disk holds
    /// is not known then, and a later flush that succeeds would prove nothing.
    ///
    /// # Errors
    /// Before anything was written: [`StoreError::Lock`], [`StoreError::Concurrent`],
    /// [`StoreError::Latched`], [`StoreError::ReadOnly`], [`StoreError::Resolve`], whatever
    /// [`blocked`](HeaderStore::blocked) says. After that: [`StoreError::Device`],
    /// [`StoreError::ReadBack`]; the header on disk is then the old one or the new one.
    pub fn apply(&mut self, change: Change) -> Result<(), StoreError> {
        self.apply_waiting(change, Wait::default())
    }

    /// [`apply`](Self::apply) with another patience for the lock.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_waiting(&mut self, change: Change, wait: Wait) -> Result<(), StoreError> {
        let Some(before) = change.before() else {
            let why = "a new header is not a change of the present one";
            return Err(FormatError::Misuse(why).into());
        };
        let _held = self.begin(wait)?;
        let now = self.header().seqid();
        if before != now && !self.device.switches().lacks(Mutant::NoReread) {
            return Err(StoreError::Concurrent {
                expected: before,
                found: now,
            });
        }
        self.carry_out(&change)
    }

    /// Computes a change from the header as it is under the lock, and carries it out. Unlike
    /// [`apply`](Self::apply) it cannot meet a concurrent change, but `plan` keeps everybody else
    /// waiting: no questions, no slow key derivation in it.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), and those of `plan`.
    pub fn update<E: From<StoreError>>(
        &mut self,
        wait: Wait,
        plan: impl FnOnce(&Header) -> Result<Change, E>,
    ) -> Result<(), E> {
        self.check_usable()?;
        self.wrote = false;
        let _held = Self::hold(&self.device, LockMode::Exclusive, wait)?;
        self.first_barrier()?;
        self.found = self.look()?;
        self.mend_other_copy()?;
        let change = plan(self.header())?;
        Ok(self.carry_out(&change)?)
    }

    /// Makes a new header on `device`; whatever was there is given up. The change comes from
    /// [`Change::format`].
    ///
    /// # Errors
    /// As [`apply`](Self::apply); [`StoreError::Format`] if the header does not fit the device.
    pub fn format(device: D, change: Change, wait: Wait) -> Result<Self, StoreError> {
        if device.read_only() {
            return Err(StoreError::ReadOnly);
        }
        let need = change.after().metadata().total_bytes();
        if need > device.len() {
            return Err(StoreError::Resolve(
                luksmith_luks2::ResolveError::DeviceTooSmall {
                    need,
                    have: device.len(),
                },
            ));
        }
        let held = Self::hold(&device, LockMode::Exclusive, wait)?;
        let mut store = Self::blank(device, change.after().clone())?;
        store.first_barrier()?;
        store.clear_old_secondaries(need)?;
        store.carry_out(&change)?;
        drop(held);
        Ok(store)
    }

    /// Steps 1 to 4 of [`apply`](Self::apply).
    fn begin(&mut self, wait: Wait) -> Result<Option<D::Held>, StoreError> {
        self.check_usable()?;
        self.wrote = false;
        let held = Self::hold(&self.device, LockMode::Exclusive, wait)?;
        self.first_barrier()?;
        self.reread()?;
        if !self.device.switches().lacks(Mutant::NoRepairFirst) {
            self.mend_other_copy()?;
        }
        Ok(held)
    }

    pub(super) fn check_usable(&self) -> Result<(), StoreError> {
        if self.latched && !self.device.switches().lacks(Mutant::NoLatch) {
            return Err(StoreError::Latched);
        }
        if self.device.read_only() {
            return Err(StoreError::ReadOnly);
        }
        Ok(())
    }

    pub(super) fn first_barrier(&mut self) -> Result<(), StoreError> {
        if self.device.switches().lacks(Mutant::NoFirstBarrier) {
            return Ok(());
        }
        self.barrier()
    }

    /// Reads again and compares with what this store knew.
    pub(super) fn reread(&mut self) -> Result<(), StoreError> {
        if self.device.switches().lacks(Mutant::NoReread) {
            return Ok(());
        }
        let now = self.look()?;
        let known = self.header().clone();
        if now.resolved.header != known {
            let found = now.resolved.header.seqid();
            return Err(StoreError::Concurrent {
                expected: known.seqid(),
                found,
            });
        }
        self.found = now;
        Ok(())
    }

    /// Rewrites the copy that is not in force, if it is stale or damaged and nothing forbids it.
    pub(super) fn mend_other_copy(&mut self) -> Result<(), StoreError> {
        if let Some(reason) = self.blocked() {
            return Err(reason);
        }
        match self.needs_repair().map(|repair| repair.copy) {
            Some(copy) => self.rebuild(copy),
            None => Ok(()),
        }
    }

    /// Writes `copy` from the header in force, with a new salt; durable when this returns.
    pub(super) fn rebuild(&mut self, copy: HeaderCopy) -> Result<(), StoreError> {
        let header = self.header().clone();
        let bytes = header.encode(copy, self.fresh_salt()?);
        let offset = copy.offset(header.size());
        self.write(copy_name(copy), offset, &bytes)?;
        self.barrier()?;
        self.found = self.look()?;
        Ok(())
    }

    /// Steps 5 and 6 of [`apply`](Self::apply).
    pub(super) fn carry_out(&mut self, change: &Change) -> Result<(), StoreError> {
        let switches = self.device.switches();
        let mut steps: Vec<&Step> = change.steps().iter().collect();
        if switches.lacks(Mutant::WipeBeforeCommit) {
            steps.sort_by_key(|step| !matches!(step, Step::WipeArea { .. }));
        }
        for step in steps {
            match step {
                Step::WriteArea { offset, bytes } => {
                    self.write("keyslot area", *offset, bytes.as_slice())?;
                }
                Step::WipeArea { offset, len, fill } => self.wipe(*offset, *len, *fill)?,
                Step::Barrier if switches.lacks(Mutant::NoStepBarrier) => {}
                Step::Barrier => self.barrier()?,
                Step::Commit(header) => self.commit(header)?,
            }
        }
        self.found = self.look()?;
        if &self.found.resolved.header != change.after() {
            self.latched = true;
            return Err(StoreError::ReadBack { what: "header" });
        }
        Ok(())
    }

    /// Primary, barrier, secondary, barrier.
    fn commit(&mut self, header: &Header) -> Result<(), StoreError> {
        let switches = self.device.switches();
        for copy in [HeaderCopy::Primary, HeaderCopy::Secondary] {
            if copy == HeaderCopy::Secondary && switches.lacks(Mutant::OneCopy) {
                continue;
            }
            let bytes = header.encode(copy, self.salt_of(copy)?);
            let offset = copy.offset(header.size());
            self.write(copy_name(copy), offset, &bytes)?;
            let omitted = match copy {
                HeaderCopy::Primary => Mutant::NoBarrierBetweenCopies,
                HeaderCopy::Secondary => Mutant::NoBarrierAfterCommit,
            };
            if !switches.lacks(omitted) {
                self.barrier()?;
            }
        }
        Ok(())
    }

    pub(super) fn wipe(&mut self, offset: u64, len: u64, fill: Fill) -> Result<(), StoreError> {
        let mut block = vec![0; WIPE_BLOCK.min(usize::try_from(len).unwrap_or(WIPE_BLOCK))];
        let mut done = 0;
        while done < len {
            let part = (block.len() as u64).min(len - done) as usize;
            let block = &mut block[..part];
            if fill == Fill::Random {
                self.device
                    .random(block)
                    .map_err(|source| StoreError::device("get random bytes", self.wrote, source))?;
            }
            let place = offset
                .checked_add(done)
                .ok_or(StoreError::OutsideKeyslots { offset, len })?;
            self.write("wiped area", place, block)?;
            done += part as u64;
        }
        Ok(())
    }

    /// The only place of the store that writes.
    pub(super) fn write(
        &mut self,
        what: &'static str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        self.check_usable()?;
        self.wrote = true;
        match self.device.write_at(offset, bytes) {
            Err(source) if !self.device.switches().lacks(Mutant::IgnoreWriteError) => {
                self.latched = true;
                return Err(StoreError::device(
                    "write to the header device",
                    true,
                    source,
                ));
            }
            _ => {}
        }
        let written = Written::new(what, offset, bytes);
        self.unproven.retain(|older| !older.overlaps(&written));
        self.unproven.push(written);
        Ok(())
    }

    /// The only place of the store that flushes; what was written before is read back and compared
    /// afterwards.
    pub(super) fn barrier(&mut self) -> Result<(), StoreError> {
        match self.device.flush() {
            Err(source) if !self.device.switches().lacks(Mutant::IgnoreFlushError) => {
                self.latched = true;
                return Err(StoreError::device(
                    "flush the header device",
                    self.wrote,
                    source,
                ));
            }
            _ => {}
        }
        let unproven = std::mem::take(&mut self.unproven);
        if self.device.switches().lacks(Mutant::NoReadBack) {
            return Ok(());
        }
        let proven = unproven
            .iter()
            .try_for_each(|written| written.prove(&self.device));
        self.latched |= proven.is_err();
        proven
    }
}

/// What was written and has to be found again behind the next barrier.
#[derive(Debug)]
pub(super) struct Written {
    what: &'static str,
    offset: u64,
    len: usize,
    /// Against a device that lost or mangled a write, not against an attacker.
    fingerprint: u64,
}

impl Written {
    fn new(what: &'static str, offset: u64, bytes: &[u8]) -> Self {
        Self {
            what,
            offset,
            len: bytes.len(),
            fingerprint: fingerprint(bytes),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.offset + other.len as u64
            && other.offset < self.offset + self.len as u64
    }

    fn prove<D: MetadataDevice>(&self, device: &D) -> Result<(), StoreError> {
        let mut bytes = vec![0; self.len];
        device
            .read_at(self.offset, &mut bytes)
            .map_err(|source| StoreError::device("read back what was written", true, source))?;
        match fingerprint(&bytes) == self.fingerprint {
            true => Ok(()),
            false => Err(StoreError::ReadBack { what: self.what }),
        }
    }
}

fn fingerprint(bytes: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

pub(super) fn copy_name(copy: HeaderCopy) -> &'static str {
    match copy {
        HeaderCopy::Primary => "primary header",
        HeaderCopy::Secondary => "secondary header",
    }
}

const WIPE_BLOCK: usize = 1 << 20;
