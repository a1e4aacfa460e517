//! Test-only switches, each of which removes one barrier, check or order rule of the header store.
//!
//! For each of them the simulator must find a run in which something is lost; a protection whose
//! absence no test can see might as well not be there. Without the feature `sim` no switch can be
//! set and every question below is answered `false` at compile time.

/// One protection of the header store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// Steps that say "barrier" do nothing.
    NoStepBarrier,
    /// The second copy is written before the first is durable.
    NoBarrierBetweenCopies,
    /// A commit is acknowledged before its second copy is durable.
    NoBarrierAfterCommit,
    /// What an earlier program left in the cache of the disk is not made durable first.
    NoFirstBarrier,
    /// A bad or stale copy is not rewritten before a change begins.
    NoRepairFirst,
    /// Areas are wiped before the header that no longer names them is committed.
    WipeBeforeCommit,
    /// Only the primary is written.
    OneCopy,
    /// A copy counts as good whatever its checksum.
    SkipChecksum,
    /// Of two good copies the one with the lower sequence number is taken.
    AcceptLowerSequence,
    /// A failed flush is taken for a good one.
    IgnoreFlushError,
    /// A failed write is taken for a good one.
    IgnoreWriteError,
    /// The header is not read again under the lock.
    NoReread,
    /// No lock is taken.
    NoLock,
    /// What was written is not read back.
    NoReadBack,
    /// A store goes on after a failed write or flush.
    NoLatch,
    /// Loading for reading repairs, too.
    ReaderRepairs,
    /// Automatic repair does not look for a foreign signature.
    RepairOverForeign,
    /// Restore leaves the old header in force while it writes the slot areas.
    RestoreOverOldHeader,
    /// Restore writes the header before the slot areas.
    RestoreHeaderFirst,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::NoStepBarrier,
        Self::NoBarrierBetweenCopies,
        Self::NoBarrierAfterCommit,
        Self::NoFirstBarrier,
        Self::NoRepairFirst,
        Self::WipeBeforeCommit,
        Self::OneCopy,
        Self::SkipChecksum,
        Self::AcceptLowerSequence,
        Self::IgnoreFlushError,
        Self::IgnoreWriteError,
        Self::NoReread,
        Self::NoLock,
        Self::NoReadBack,
        Self::NoLatch,
        Self::ReaderRepairs,
        Self::RepairOverForeign,
        Self::RestoreOverOldHeader,
        Self::RestoreHeaderFirst,
    ];
}

/// Which protection is removed; none, except in the simulator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches {
    #[cfg(feature = "sim")]
    removed: Option<Mutant>,
}

impl Switches {
    /// All protections but one.
    #[cfg(feature = "sim")]
    pub fn without(mutant: Mutant) -> Self {
        Self {
            removed: Some(mutant),
        }
    }

    /// Whether this protection is removed.
    pub(crate) fn lacks(self, mutant: Mutant) -> bool {
        #[cfg(feature = "sim")]
        return self.removed == Some(mutant);
        #[cfg(not(feature = "sim"))]
        {
            let _ = mutant;
            false
        }
    }
}
