//! The rules of the lane that a test can switch off, to see that the simulation notices.
//! Constant `false` outside of this crate's tests.

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// A write that must be durable is sent like any other.
    NoFua,
    /// A backing that moved nothing has succeeded.
    NothingIsEnough,
    /// A backing that moved less than asked has moved everything.
    ShortIsWhole,
    /// The rest of a short operation begins in the middle of a block.
    NoRounding,
    /// A flush is answered by an operation that began before it.
    JoinTheRunningFlush,
    /// A failed flush is forgotten.
    ForgetFailedFlush,
    /// A failed durable write is no reason to doubt other writes.
    ForgetFailedDurableWrite,
    /// Success counts whatever others are told meanwhile.
    BelieveAtOnce,
    /// A lane that comes back wakes nobody.
    WakeNobody,
    /// An error of the page cache that sounds like "not now" is taken for that.
    TakeLossForNotNow,
    /// A failed piece does not end the request.
    IgnoreError,
}

#[cfg(test)]
thread_local! {
    pub(super) static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
pub(super) fn is(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}

#[cfg(not(test))]
pub(super) const fn is(_: Mutant) -> bool {
    false
}
