//! Pages that hold secrets: locked, left out of core dumps, fenced by guard pages, wiped.
//!
//! Everything secret of this crate lives in [`LockedPages`]. Where the kernel has
//! `memfd_secret` (since 5.14, on by default since 6.5) the pages are taken out of the
//! kernel's own map too, so that no other process, `/proc/PID/mem` or a kernel read
//! primitive sees them; otherwise they are anonymous memory under `mlock`. While pages
//! from `memfd_secret` exist the kernel does not hibernate, which would write them to disk.
//!
//! Such pages do not survive a fork (`MADV_DONTFORK`): a child that touches them dies
//! instead of working with a copy or with zeroes. [`crate::KeyHandover`] is the way across.

// UNSAFETY: mapping, locking and wiping memory has no safe interface; this file wraps it in
// types that own their mapping.
#![expect(
    unsafe_code,
    reason = "memory mappings are made, locked and wiped here and nowhere else"
)]

use std::{
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr::NonNull,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering, compiler_fence},
    },
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    libc,
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{
            MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, mmap_anonymous, mprotect, munmap,
        },
        resource::{RLIM_INFINITY, Resource, getrlimit},
        stat::fstat,
        statfs::{FsType, fstatfs},
    },
    unistd::{SysconfVar, ftruncate, getpid, sysconf},
};

use crate::CryptoError;

/// What kind of memory secrets get on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecretMemory {
    /// `memfd_secret`: unreadable even for the kernel's own map and for root by `/proc`.
    MemfdSecret,
    /// Anonymous memory under `mlock`.
    Mlock,
}

/// Which kind of memory [`crate::SecretBytes`] uses here: asks the kernel once per call.
#[must_use]
pub fn secret_memory() -> SecretMemory {
    match memfd_secret() {
        Some(_) => SecretMemory::MemfdSecret,
        None => SecretMemory::Mlock,
    }
}

/// How a mapping is to be backed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// `memfd_secret` if there is one, else locked anonymous memory. For keys.
    Secret,
    /// Locked anonymous memory, which the kernel can do direct I/O on. For I/O buffers.
    Locked,
    /// Anonymous memory that is locked as far as the limit allows. For the Argon2 matrix,
    /// which is larger than any usual limit.
    BestEffort,
}

/// Own mapping between two guard pages. Zeroed at birth, wiped on drop.
pub(crate) struct LockedPages {
    /// Start of the lower guard page.
    outer: NonNull<libc::c_void>,
    outer_len: usize,
    /// Usable bytes, starting one page after `outer`.
    len: usize,
    is_secret: bool,
    /// Whether the usable part may be read and written yet.
    open: bool,
    owner: nix::unistd::Pid,
}

// SAFETY: the mapping is owned by the value alone, so it may move between threads, and shared
// references only read it.
unsafe impl Send for LockedPages {}
// SAFETY: as above; every write needs `&mut self`.
unsafe impl Sync for LockedPages {}

/// Set by tests that want the fallback on a kernel that has `memfd_secret`.
static WITHOUT_MEMFD_SECRET: AtomicBool = AtomicBool::new(false);

/// Makes this process behave as on a kernel without `memfd_secret`; for tests of the fallback.
#[doc(hidden)]
pub fn pretend_no_memfd_secret(on: bool) {
    WITHOUT_MEMFD_SECRET.store(on, Ordering::SeqCst);
}

impl LockedPages {
    /// Maps at least `len` zeroed bytes.
    pub(crate) fn new(len: usize, backing: Backing) -> Result<Self, CryptoError> {
        let too_large = || CryptoError::OutOfMemory { bytes: len as u64 };
        let page = page_bytes();
        let inner_len = len
            .max(1)
            .checked_next_multiple_of(page)
            .ok_or_else(too_large)?;
        let outer_len = inner_len
            .checked_add(2 * page)
            .filter(|&all| isize::try_from(all).is_ok())
            .ok_or_else(too_large)?;
        let secret = if backing == Backing::Secret {
            memfd_secret()
        } else {
            None
        };
        let pages = match secret {
            Some(fd) => Self::map_secret(&fd, outer_len, len)?,
            None => Self::map_anonymous(outer_len, len)?,
        };
        pages.shield(inner_len, backing)?;
        Ok(pages)
    }

    /// Maps a file of secret memory and closes its first and last page.
    fn map_secret(fd: &OwnedFd, outer_len: usize, len: usize) -> Result<Self, CryptoError> {
        let page = page_bytes();
        let size = libc::off_t::try_from(outer_len)
            .map_err(|_| CryptoError::OutOfMemory { bytes: len as u64 })?;
        ftruncate(fd, size).map_err(|e| memory_file("size the secret memory", e))?;
        // SAFETY: a mapping at an address of the kernel's choice touches nothing that exists.
        let outer = unsafe {
            mmap(
                None,
                nonzero(outer_len),
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                fd,
                0,
            )
        }
        .map_err(|e| not_locked(outer_len, e))?;
        // From here on `pages` owns the mapping and unmaps it on every way out.
        let pages = Self {
            outer,
            outer_len,
            len,
            is_secret: true,
            open: true,
            owner: getpid(),
        };
        let upper = pages
            .base()
            .cast::<u8>()
            .as_ptr()
            .wrapping_add(outer_len - 2 * page);
        for guard in [outer, nonnull(upper.cast())] {
            // SAFETY: both pages belong to the mapping just made and hold nothing.
            unsafe { mprotect(guard, page, ProtFlags::PROT_NONE) }
                .map_err(|e| memory_file("close the guard pages", e))?;
        }
        Ok(pages)
    }

    /// Reserves a closed range and opens all but its first and last page.
    fn map_anonymous(outer_len: usize, len: usize) -> Result<Self, CryptoError> {
        let out_of_memory = |_| CryptoError::OutOfMemory { bytes: len as u64 };
        let page = page_bytes();
        // SAFETY: a mapping at an address of the kernel's choice touches nothing that exists.
        let outer = unsafe {
            mmap_anonymous(
                None,
                nonzero(outer_len),
                ProtFlags::PROT_NONE,
                MapFlags::MAP_PRIVATE,
            )
        }
        .map_err(out_of_memory)?;
        // From here on `pages` owns the mapping and unmaps it on every way out.
        let mut pages = Self {
            outer,
            outer_len,
            len,
            is_secret: false,
            open: false,
            owner: getpid(),
        };
        // SAFETY: the range lies inside the mapping just made.
        unsafe {
            mprotect(
                pages.base().cast(),
                outer_len - 2 * page,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            )
        }
        .map_err(out_of_memory)?;
        pages.open = true;
        Ok(pages)
    }

    /// Keeps the usable part out of dumps, children and swap.
    fn shield(&self, inner_len: usize, backing: Backing) -> Result<(), CryptoError> {
        let inner = self.base().cast();
        for advice in [MmapAdvise::MADV_DONTDUMP, MmapAdvise::MADV_DONTFORK] {
            // SAFETY: the range is our own mapping; neither advice changes its contents.
            unsafe { madvise(inner, inner_len, advice) }
                .map_err(|e| memory_file("keep secret memory out of dumps and children", e))?;
        }
        match backing {
            // Secret memory is locked by nature and refuses to be asked again.
            Backing::Secret if self.is_secret => {}
            Backing::Secret | Backing::Locked => {
                // SAFETY: the range is our own mapping; locking does not change its contents.
                unsafe { mlock(inner, inner_len) }.map_err(|e| not_locked(inner_len, e))?;
            }
            Backing::BestEffort => {
                // SAFETY: the range is our own mapping; the call changes only how the kernel
                // treats its pages once they are touched. A refusal leaves them as they are,
                // which is what best effort means.
                let _ = unsafe {
                    libc::mlock2(
                        inner.as_ptr(),
                        inner_len,
                        libc::MLOCK_ONFAULT as libc::c_uint,
                    )
                };
            }
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// First usable byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        // SAFETY: the reservation holds a guard page below the usable part, so one page up is
        // still inside the same mapping.
        unsafe { self.outer.cast::<u8>().add(page_bytes()) }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes from `base` are mapped, initialised (zero at birth) and owned;
        // `&self` keeps writers out.
        unsafe { std::slice::from_raw_parts(self.base().as_ptr(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as for `as_slice`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.base().as_ptr(), self.len) }
    }

    /// The memory as Argon2 blocks.
    pub(crate) fn as_argon2_blocks(&mut self) -> &mut [argon2::Block] {
        let count = self.len / size_of::<argon2::Block>();
        // SAFETY: the base is page-aligned, which is more than a block needs; a block is plain
        // 64-bit words, so every byte pattern is one; `count` blocks fit into `len`; `&mut
        // self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.base().cast().as_ptr(), count) }
    }

    fn wipe(&mut self) {
        wipe(self.as_mut_slice());
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        // A forked child has this value but, by MADV_DONTFORK, not the memory: its address may
        // already belong to another mapping of the child.
        if getpid() != self.owner {
            return;
        }
        if self.open {
            self.wipe();
        }
        // SAFETY: the whole reservation is ours and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.outer, self.outer_len) };
        debug_assert!(unmapped.is_ok(), "our own mapping can be unmapped");
    }
}

/// Overwrites `bytes` with zeroes in a way that is not optimised away.
pub(crate) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // The compiler must assume that somebody reads what lies behind an escaped pointer, so
    // the stores above have to happen before the memory is given up.
    std::hint::black_box(bytes.as_mut_ptr());
    compiler_fence(Ordering::SeqCst);
}

/// Overwrites the part of the stack that a call just left, where round keys, hash states and
/// plaintext of called code may still lie. For calls that are rare or go deep.
#[inline(never)]
pub(crate) fn wipe_stack() {
    let mut below = [0u8; 16 * 1024];
    wipe(&mut below);
}

/// [`wipe_stack`] for the sector cipher, which runs once per request: as deep as its batches
/// and the copies of round keys that the widest AES backend makes, and no deeper.
#[inline(never)]
pub(crate) fn wipe_cipher_stack() {
    /// Less is inlined where assertions are on, so calls go deeper there.
    const DEPTH: usize = if cfg!(debug_assertions) { 32 } else { 8 } * 1024;
    let mut below = [0u8; DEPTH];
    wipe(&mut below);
}

/// A value that lives in [`LockedPages`] from birth on. Its drop runs before the wipe.
pub(crate) struct LockedBox<T> {
    pages: LockedPages,
    value: NonNull<T>,
}

// SAFETY: the box owns its value as `Box` does, so it is as sendable as the value.
unsafe impl<T: Send> Send for LockedBox<T> {}
// SAFETY: shared access gives `&T` only.
unsafe impl<T: Sync> Sync for LockedBox<T> {}

impl<T> LockedBox<T> {
    /// Builds the value in locked memory. What `make` leaves on the stack is overwritten.
    pub(crate) fn new_with(make: impl FnOnce() -> T) -> Result<Self, CryptoError> {
        assert!(
            align_of::<T>() <= page_bytes(),
            "a page is aligned for every type we box"
        );
        let pages = LockedPages::new(size_of::<T>(), Backing::Secret)?;
        let value = pages.base().cast::<T>();
        write_there(value, make);
        wipe_stack();
        Ok(Self { pages, value })
    }
}

/// Its own stack frame, so that [`wipe_stack`] can reach what it leaves behind.
#[inline(never)]
fn write_there<T>(value: NonNull<T>, make: impl FnOnce() -> T) {
    // SAFETY: `value` points to fresh pages of at least `size_of::<T>()` bytes, aligned to a
    // page, that nobody else refers to.
    unsafe { value.write(make()) };
}

impl<T> Deref for LockedBox<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: written in `new_with`, dropped only in `drop`; `&self` keeps writers out.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for LockedBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`, and `&mut self` makes this the only reference.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for LockedBox<T> {
    fn drop(&mut self) {
        if getpid() == self.pages.owner {
            // SAFETY: the value was written in `new_with` and is not used afterwards; the
            // pages, dropped next, wipe what is left. (In a forked child there is no value.)
            unsafe { self.value.drop_in_place() };
        }
    }
}

/// A memory file that holds one secret and survives a fork, unlike [`LockedPages`].
pub(crate) struct SecretFile {
    fd: OwnedFd,
    len: usize,
}

impl SecretFile {
    /// Makes a file of `bytes`; of secret memory where the kernel has it.
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, CryptoError> {
        let len = bytes.len();
        let size = libc::off_t::try_from(len)
            .map_err(|_| CryptoError::OutOfMemory { bytes: len as u64 })?;
        let (fd, sealable) = match memfd_secret() {
            Some(fd) => (fd, false),
            None => {
                let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
                let fd = memfd_create(c"luksmith-key", flags)
                    .map_err(|e| memory_file("make a memory file", e))?;
                (fd, true)
            }
        };
        ftruncate(&fd, size).map_err(|e| memory_file("size a memory file", e))?;
        let file = Self { fd, len };
        file.with_mapping(|there| there.copy_from_slice(bytes))?;
        if sealable {
            let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
            fcntl(&file.fd, FcntlArg::F_ADD_SEALS(seals))
                .map_err(|e| memory_file("seal a memory file", e))?;
        }
        Ok(file)
    }

    /// Takes over a file made by [`SecretFile::new`] in another process. Any other file is
    /// refused: it might shrink under our mapping, or write the key to a disk.
    pub(crate) fn from_fd(fd: OwnedFd) -> Result<Self, CryptoError> {
        if !is_secret_memory(&fd)? {
            let seals = fcntl(&fd, FcntlArg::F_GET_SEALS)
                .map_err(|e| memory_file("take over what is no memory file", e))?;
            if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
                let unsealed = Errno::EPERM;
                return Err(memory_file(
                    "take over a memory file that may shrink",
                    unsealed,
                ));
            }
        }
        let size = fstat(&fd)
            .map_err(|e| memory_file("look at a memory file", e))?
            .st_size;
        let len = usize::try_from(size).map_err(|_| CryptoError::Length {
            what: "memory file in bytes",
            is: 0,
        })?;
        Ok(Self { fd, len })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Runs `f` on the bytes, which are mapped and locked for that long.
    pub(crate) fn with_mapping<R>(&self, f: impl FnOnce(&mut [u8]) -> R) -> Result<R, CryptoError> {
        let map = SharedMap::new(&self.fd, self.len)?;
        // SAFETY: `map` keeps `len` bytes mapped for the time of the call, the file has that
        // size and cannot shrink (sealed, or secret memory, which is sized once). Processes
        // that share the file change it only by wiping it, byte by byte, which at worst makes
        // `f` see zeroes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(map.at.as_ptr().cast(), self.len) };
        Ok(f(bytes))
    }

    /// Keeps the file's pages locked in this process for as long as the result lives.
    pub(crate) fn hold(&self) -> Result<SharedMap, CryptoError> {
        SharedMap::new(&self.fd, self.len)
    }
}

/// A locked mapping of a [`SecretFile`]. It never wipes: others may share the file.
pub(crate) struct SharedMap {
    at: NonNull<libc::c_void>,
    len: usize,
    owner: nix::unistd::Pid,
}

// SAFETY: the mapping is owned by the value; its bytes are reached only through SecretFile.
unsafe impl Send for SharedMap {}
// SAFETY: as above.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    fn new(fd: &OwnedFd, len: usize) -> Result<Self, CryptoError> {
        let Some(map_len) = NonZeroUsize::new(len) else {
            return Err(CryptoError::Length {
                what: "memory file in bytes",
                is: 0,
            });
        };
        // SAFETY: a mapping at an address of the kernel's choice touches nothing that exists.
        let at = unsafe {
            mmap(
                None,
                map_len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                fd,
                0,
            )
        }
        .map_err(|e| not_locked(len, e))?;
        let map = Self {
            at,
            len,
            owner: getpid(),
        };
        for advice in [MmapAdvise::MADV_DONTDUMP, MmapAdvise::MADV_DONTFORK] {
            // SAFETY: the range is our own mapping; neither advice changes its contents.
            unsafe { madvise(at, len, advice) }
                .map_err(|e| memory_file("keep a memory file out of dumps and children", e))?;
        }
        if !is_secret_memory(fd)? {
            // SAFETY: the range is our own mapping; locking does not change its contents.
            unsafe { mlock(at, len) }.map_err(|e| not_locked(len, e))?;
        }
        Ok(map)
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        if getpid() != self.owner {
            return;
        }
        // SAFETY: the mapping is ours and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.at, self.len) };
        debug_assert!(unmapped.is_ok(), "our own mapping can be unmapped");
    }
}

/// Secret memory has a file system of its own.
fn is_secret_memory(fd: &OwnedFd) -> Result<bool, CryptoError> {
    let kind = fstatfs(fd).map_err(|e| memory_file("look at a memory file", e))?;
    Ok(kind.filesystem_type() == SECRETMEM)
}

/// `SECRETMEM_MAGIC` of the kernel's `magic.h`.
const SECRETMEM: FsType = FsType(0x5345_434d);

/// A new file of secret memory; `None` where the kernel has none or does not allow it.
fn memfd_secret() -> Option<OwnedFd> {
    if WITHOUT_MEMFD_SECRET.load(Ordering::Relaxed) {
        return None;
    }
    // SAFETY: the call takes one integer and returns a new descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let fd = RawFd::try_from(fd).ok().filter(|&fd| fd >= 0)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn page_bytes() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        sysconf(SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .and_then(|bytes| usize::try_from(bytes).ok())
            .expect("every Linux names its page size")
    })
}

fn nonzero(len: usize) -> NonZeroUsize {
    NonZeroUsize::new(len).expect("a mapping has at least its guard pages")
}

fn nonnull(at: *mut libc::c_void) -> NonNull<libc::c_void> {
    NonNull::new(at).expect("an address inside a mapping is not zero")
}

fn memory_file(what: &'static str, errno: Errno) -> CryptoError {
    CryptoError::MemoryFile {
        what,
        source: errno.into(),
    }
}

fn not_locked(bytes: usize, errno: Errno) -> CryptoError {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK)
        .ok()
        .map(|(soft, _)| soft)
        .filter(|&soft| soft != RLIM_INFINITY);
    CryptoError::LockedMemory {
        bytes: bytes as u64,
        limit,
        source: errno.into(),
    }
}
