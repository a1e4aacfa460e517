//! Repairs what a crash or damage left of a header.

use luksmith_luks2::{Change, HeaderCopy, RepairReason, Step};

use super::HeaderStore;
use crate::device::MetadataDevice;
use crate::error::StoreError;
use crate::lock::{LockMode, Wait};

/// How much [`HeaderStore::repair`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairScope {
    /// Rewrites a stale or damaged copy and finishes removals that were cut short.
    Header,
    /// That, and overwrites all of the keyslots area that no keyslot names: also what an addition
    /// left behind that was cut short.
    HeaderAndFreeRoom,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq)]
pub struct RepairReport {
    /// The copy that was rewritten, and why.
    pub rewritten: Option<(HeaderCopy, RepairReason)>,
    /// Ranges of left-over key material that were overwritten.
    pub wiped: usize,
}

impl<D: MetadataDevice> HeaderStore<D> {
    /// Rewrites a bad copy from the good one even where [`blocked`](Self::blocked) speaks against
    /// doing so automatically, and overwrites key material that no keyslot names any more.
    /// Repairing what is whole writes nothing.
    ///
    /// Crash order: lock and barrier as in [`apply`](Self::apply); the bad copy, barrier; then the
    /// wipes as an ordinary change.
    ///
    /// # Errors
    /// [`StoreError::Lock`], [`StoreError::Resolve`], [`StoreError::ReadOnly`],
    /// [`StoreError::Latched`], [`StoreError::Format`]; after something was written
    /// [`StoreError::Device`], [`StoreError::ReadBack`].
    pub fn repair(&mut self, scope: RepairScope, wait: Wait) -> Result<RepairReport, StoreError> {
        self.check_usable()?;
        self.wrote = false;
        let _held = Self::hold(&self.device, LockMode::Exclusive, wait)?;
        self.first_barrier()?;
        self.found = self.look()?;
        // Planned before anything is written, so that a refusal writes nothing.
        let known = self
            .header()
            .metadata()
            .requirements()
            .check_known()
            .is_ok();
        let wipes = match scope {
            // A copy may be rewritten as it is; more must not be done to what is not understood.
            _ if !known => None,
            RepairScope::Header => Change::settle(self.header())?,
            RepairScope::HeaderAndFreeRoom => Some(Change::wipe_free_room(self.header())?),
        };
        let mut report = RepairReport {
            rewritten: None,
            wiped: 0,
        };
        if let Some(bad) = self.needs_repair().cloned() {
            self.rebuild(bad.copy)?;
            report.rewritten = Some((bad.copy, bad.reason));
        }
        if let Some(change) = wipes {
            let wiped = |step: &&Step| matches!(step, Step::WipeArea { .. });
            report.wiped = change.steps().iter().filter(wiped).count();
            self.carry_out(&change)?;
        }
        Ok(report)
    }

    /// The automatic part of loading for a change.
    pub(super) fn repair_automatically(&mut self, wait: Wait) -> Result<(), StoreError> {
        let _held = Self::hold(&self.device, LockMode::Exclusive, wait)?;
        self.first_barrier()?;
        // Whoever held the lock may have repaired or changed it meanwhile.
        self.found = self.look()?;
        if self.blocked().is_none() {
            self.mend_other_copy()?;
        }
        Ok(())
    }
}
