// UNSAFETY: a global allocator can only be written with unsafe methods; this one
// forwards every call unchanged to the system's.
#![expect(
    unsafe_code,
    reason = "GlobalAlloc is an unsafe trait; each method forwards to System"
)]
//! Proves that the I/O path does not allocate.
//!
//! An allocation can make the kernel reclaim memory, reclaim can wait for a write to
//! the very volume this thread serves, and nobody gets out of that. So the loop of a
//! queue thread holds a [`NoAlloc`], and in a binary whose allocator is
//! [`GuardedAllocator`] any allocation (or release) meanwhile on that thread ends the
//! process with a message. Release builds compile the check out unless the feature
//! `alloc-guard` is on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::marker::PhantomData;

/// Whether this build checks.
pub const ACTIVE: bool = cfg!(any(debug_assertions, feature = "alloc-guard"));

thread_local! {
    static FORBIDDEN: Cell<u32> = const { Cell::new(0) };
}

/// The system allocator plus the check. A binary turns the check on with
/// `#[global_allocator] static A: GuardedAllocator = GuardedAllocator;`.
#[derive(Debug, Default, Clone, Copy)]
pub struct GuardedAllocator;

/// While it lives, this thread must not allocate or free. Nests; [`may_allocate`] lifts it.
#[derive(Debug)]
#[must_use = "the section ends when the guard is dropped"]
pub struct NoAlloc {
    // the count is the thread's own, so the guard must stay on its thread
    not_send: PhantomData<*const ()>,
}

/// Begins a section without allocations on this thread.
pub fn no_alloc() -> NoAlloc {
    FORBIDDEN.set(FORBIDDEN.get() + 1);
    NoAlloc {
        not_send: PhantomData,
    }
}

/// Runs `f` outside of all sections of this thread, for the rare step that may
/// allocate: the first request after the map changed, the end of a connection.
pub fn may_allocate<R>(f: impl FnOnce() -> R) -> R {
    let depth = FORBIDDEN.replace(0);
    let result = f();
    FORBIDDEN.set(depth);
    result
}

impl Drop for NoAlloc {
    fn drop(&mut self) {
        FORBIDDEN.set(FORBIDDEN.get() - 1);
    }
}

#[inline]
fn check() {
    // A thread that is being torn down has no thread-local any more: not an I/O loop.
    // One that panics shall be able to say why.
    if ACTIVE && FORBIDDEN.try_with(Cell::get).unwrap_or(0) > 0 && !std::thread::panicking() {
        refuse();
    }
}

#[cold]
fn refuse() -> ! {
    FORBIDDEN.set(0);
    // Formatting allocates; a fixed text and a raw write do not.
    let text = b"luksmith: an I/O thread allocated inside its no-allocation section\n";
    let _ = nix::unistd::write(std::io::stderr(), text);
    std::process::abort();
}

// SAFETY: every method hands its arguments unchanged to `System`, which keeps the
// promises of `GlobalAlloc`; the check before touches no memory of the allocation.
unsafe impl GlobalAlloc for GuardedAllocator {
    /// # Safety
    /// What the trait asks of this method's callers.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller keeps GlobalAlloc's promises for `layout`.
        unsafe { System.alloc(layout) }
    }

    /// # Safety
    /// What the trait asks of this method's callers.
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        check();
        // SAFETY: `ptr` came from `System` through this allocator, with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }

    /// # Safety
    /// What the trait asks of this method's callers.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    /// # Safety
    /// What the trait asks of this method's callers.
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        check();
        // SAFETY: `ptr` came from `System` through this allocator, with this layout.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}
