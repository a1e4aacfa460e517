//! What a process shows of its secrets: memory maps, forks, limits, threads. The tests look at
//! the whole process, so they run one after the other.

// UNSAFETY: what happens to secrets in a forked child can only be seen by forking one.
#![expect(unsafe_code, reason = "fork has no safe form")]

mod common;

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
    process::exit,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::Duration,
};

use common::volume_key;
use luksmith_crypto::{
    Arena, Argon2Variant, CipherSpec, CryptoError, Hash, IvSector, Kdf, KdfCaps, KeyDigest,
    KeyHandover, MacKey, Passphrase, SecretBytes, SecretMemory, SectorCipher, SectorSize,
    VolumeKey, af, hmac, pretend_no_memfd_secret, secret_memory,
};
use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        resource::{Resource, getrlimit, setrlimit},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork},
};

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a claim for both kinds of secret memory (one, where the kernel has only one).
fn for_each_memory(claim: impl Fn(SecretMemory)) {
    let _alone = alone();
    claim(secret_memory());
    pretend_no_memfd_secret(true);
    assert_eq!(secret_memory(), SecretMemory::Mlock);
    claim(SecretMemory::Mlock);
    pretend_no_memfd_secret(false);
}

struct Mapping {
    start: usize,
    end: usize,
    readable: bool,
    flags: Vec<String>,
    locked_kib: u64,
}

impl Mapping {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|have| have == flag)
    }
}

/// The process's memory map with its flags.
fn mappings() -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in fs::read_to_string("/proc/self/smaps")
        .expect("procfs")
        .lines()
    {
        let mut fields = line.split_whitespace();
        let first = fields.next().expect("no empty lines");
        if let Some((start, end)) = first.split_once('-').filter(|_| !first.ends_with(':')) {
            let number = |hex| usize::from_str_radix(hex, 16).expect("an address");
            mappings.push(Mapping {
                start: number(start),
                end: number(end),
                readable: fields.next().is_some_and(|rights| rights.starts_with('r')),
                flags: Vec::new(),
                locked_kib: 0,
            });
        } else if let Some(mapping) = mappings.last_mut() {
            match first {
                "VmFlags:" => mapping.flags = fields.map(str::to_owned).collect(),
                "Locked:" => {
                    mapping.locked_kib = fields
                        .next()
                        .and_then(|kib| kib.parse().ok())
                        .expect("a size");
                }
                _ => {}
            }
        }
    }
    mappings
}

fn mapping_of(at: *const u8) -> Mapping {
    let at = at.addr();
    mappings()
        .into_iter()
        .find(|mapping| (mapping.start..mapping.end).contains(&at))
        .expect("a mapped address")
}

/// Where `needle` (XORed with a mask, lest the scanner find itself) lies in this process, as
/// `/proc/self/mem` shows it. Memory that even the kernel cannot read counts as hidden.
fn find_in_memory(masked: &[u8]) -> Vec<usize> {
    let mut memory = File::open("/proc/self/mem").expect("procfs");
    let mut found = Vec::new();
    let mut chunk = vec![0u8; 1 << 20];
    let own = chunk.as_ptr().addr()..chunk.as_ptr().addr() + chunk.len();
    for mapping in mappings().into_iter().filter(|mapping| mapping.readable) {
        let mut at = mapping.start;
        while at < mapping.end {
            let len = chunk.len().min(mapping.end - at);
            let overlap = masked.len() - 1;
            if memory.seek(SeekFrom::Start(at as u64)).is_err()
                || memory.read_exact(&mut chunk[..len]).is_err()
            {
                break;
            }
            for offset in 0..len.saturating_sub(overlap) {
                let hit = chunk[offset..offset + masked.len()]
                    .iter()
                    .zip(masked)
                    .all(|(byte, masked)| byte ^ MASK == *masked);
                if hit && !own.contains(&(at + offset)) {
                    found.push(at + offset);
                }
            }
            // Overlap, so that a hit across the border of two chunks is seen.
            at += if at + len < mapping.end {
                len - overlap
            } else {
                len
            };
        }
    }
    found
}

const MASK: u8 = 0xa7;

/// A masked pattern that no other part of the process holds; never stored unmasked here.
fn masked_pattern(salt: u8) -> Vec<u8> {
    (0..32u8)
        .map(|i| (i.wrapping_mul(37) ^ salt.wrapping_mul(113)) ^ MASK ^ 0x5c)
        .collect()
}

fn secret_of(masked: &[u8]) -> SecretBytes {
    SecretBytes::init_with(masked.len(), |bytes| {
        for (byte, masked) in bytes.iter_mut().zip(masked) {
            *byte = masked ^ MASK;
        }
        Ok::<(), CryptoError>(())
    })
    .expect("locked memory")
}

#[test]
fn the_scanner_sees_what_lies_in_ordinary_memory() {
    let _alone = alone();
    let masked = masked_pattern(1);
    let ordinary: Vec<u8> = masked.iter().map(|byte| byte ^ MASK).collect();
    let found = find_in_memory(&masked);
    assert!(found.contains(&ordinary.as_ptr().addr()), "{found:x?}");
}

#[test]
fn secrets_live_in_locked_memory_outside_of_dumps_and_children() {
    for_each_memory(|kind| {
        let secret = SecretBytes::random(5000).expect("locked memory");
        let mapping = mapping_of(secret.expose().as_ptr());
        assert!(mapping.has("lo"), "locked: {:?}", mapping.flags);
        assert!(mapping.has("dd"), "not dumped: {:?}", mapping.flags);
        assert!(mapping.has("dc"), "not copied on fork: {:?}", mapping.flags);
        if kind == SecretMemory::Mlock {
            assert!(
                mapping.locked_kib >= 8,
                "{} KiB are locked",
                mapping.locked_kib
            );
        }
        // A page without any right stands on both sides.
        for neighbour in [mapping.start - 1, mapping.end] {
            let guard = mapping_of(std::ptr::without_provenance(neighbour));
            assert!(!guard.readable, "a guard page at {neighbour:x}");
        }
    });
}

#[test]
fn a_live_secret_is_found_nowhere_else_and_a_dropped_one_nowhere() {
    for_each_memory(|kind| {
        let masked = masked_pattern(kind as u8 + 2);
        let secret = secret_of(&masked);
        let at = secret.expose().as_ptr().addr();
        let expected = if kind == SecretMemory::Mlock {
            vec![at]
        } else {
            vec![]
        };
        assert_eq!(
            find_in_memory(&masked),
            expected,
            "{kind:?}: hidden or in its place only"
        );
        drop(secret);
        assert_eq!(find_in_memory(&masked), [], "{kind:?}: after drop");
    });
}

#[test]
fn truncating_and_failing_initialisers_leave_nothing_behind() {
    for_each_memory(|kind| {
        let masked = masked_pattern(kind as u8 + 10);
        let mut secret = secret_of(&masked);
        secret.truncate(4);
        assert_eq!(find_in_memory(&masked), []);
        let failed = SecretBytes::init_with(32, |bytes| {
            for (byte, masked) in bytes.iter_mut().zip(&masked) {
                *byte = masked ^ MASK;
            }
            Err(CryptoError::WeakKey)
        });
        assert!(failed.is_err());
        assert_eq!(find_in_memory(&masked), [], "{kind:?}");
    });
}

/// HMAC keeps its key XORed with either constant (RFC 2104), from which the key is had at once.
#[test]
fn a_mac_leaves_nothing_of_its_key() {
    for_each_memory(|kind| {
        let masked = masked_pattern(kind as u8 + 90);
        let nowhere = |when: &str| {
            for pad in [0, 0x36, 0x5c] {
                let padded: Vec<u8> = masked.iter().map(|byte| byte ^ pad).collect();
                assert_eq!(find_in_memory(&padded), [], "{kind:?}: {pad:#x}, {when}");
            }
        };
        nowhere("before the test");
        let key = VolumeKey::adopt(secret_of(&masked)).expect("a key");
        let mac = MacKey::derive(&key, "a purpose").expect("a key");
        let mut tags = [[0; 64]; 5];
        for (tag, hash) in tags.iter_mut().zip(Hash::ALL) {
            hmac(hash, key.expose(), &[b"words"], &mut tag[..hash.len()]);
        }
        drop((key, mac));
        nowhere("after it");
    });
}

/// The same right after the call: what is called next would write over it, but a fork would not.
#[test]
fn a_mac_leaves_nothing_of_its_key_below_its_caller() {
    use std::os::unix::fs::FileExt as _;
    const DEPTH: usize = 12 * 1024;
    let memory = std::fs::File::open("/proc/self/mem").expect("the memory");
    let masked = masked_pattern(123);
    let key = VolumeKey::adopt(secret_of(&masked)).expect("a key");
    let (mut tag, mut below) = ([0; 64], vec![0; DEPTH]);
    for hash in Hash::ALL {
        hmac(hash, key.expose(), &[b"words"], &mut tag[..hash.len()]);
        let here = std::ptr::from_ref(&tag).addr();
        memory
            .read_exact_at(&mut below, (here - DEPTH) as u64)
            .expect("the stack");
        let plain = key.expose();
        for pad in [0, 0x36, 0x5c_u8] {
            let padded: Vec<u8> = plain[..16].iter().map(|byte| byte ^ pad).collect();
            let found = below.windows(16).any(|bytes| bytes == padded);
            assert!(!found, "{hash:?}: {pad:#x}");
        }
    }
}

/// Everything an unlock does with a key, then the whole process searched for the raw key, its
/// halves and their first round keys (which for AES are the raw halves again).
#[test]
fn after_an_unlock_and_a_close_no_key_is_left_in_the_process() {
    for_each_memory(|kind| {
        let halves = [
            masked_pattern(kind as u8 + 20),
            masked_pattern(kind as u8 + 30),
        ];
        let whole: Vec<u8> = halves.concat();
        let nowhere = |when: &str| {
            for (half, masked) in halves.iter().enumerate() {
                assert_eq!(find_in_memory(masked), [], "{kind:?}: half {half} {when}");
                // The first 16 bytes are the first round key of either direction's schedule.
                assert_eq!(
                    find_in_memory(&masked[..16]),
                    [],
                    "{kind:?}: start {half} {when}"
                );
            }
        };
        nowhere("before the test");
        {
            let split = af::split(&secret_of(&whole), 40, Hash::Sha256).expect("a split");
            let merged = af::merge(&split, 64, 40, Hash::Sha256).expect("a merge");
            let key = VolumeKey::verified(merged, &digest_of_masked(&whole)).expect("the key");
            let cipher = SectorCipher::new(CipherSpec::AesXtsPlain64, &key, SectorSize::S4096)
                .expect("a cipher");
            let arena = Arena::new(1, 8192).expect("locked memory");
            let Ok(buf) = arena
                .take()
                .expect("a free slot")
                .fill_plain(8192, |_| Ok::<(), CryptoError>(()))
            else {
                panic!("the filling succeeds")
            };
            let buf = cipher.encrypt(IvSector(8), buf);
            let _plain = cipher.decrypt(IvSector(8), buf);
            for masked in &halves {
                for at in find_in_memory(masked) {
                    let mapping = mapping_of(std::ptr::without_provenance(at));
                    assert!(
                        mapping.has("lo") && mapping.has("dd"),
                        "{kind:?}: a live key at {at:x} outside of locked memory"
                    );
                }
            }
        }
        nowhere("after drop");
    });
}

/// The digest of a masked key, without a copy of the key in ordinary memory.
fn digest_of_masked(masked: &[u8]) -> KeyDigest {
    let digest_secret = secret_of(masked);
    // Any key without equal halves makes a digest; this one goes through OpenSSL's own
    // buffers, so it is derived by us instead, which the other tests hold against OpenSSL.
    let kdf = Kdf::Pbkdf2 {
        hash: Hash::Sha256,
        iterations: 1000,
    };
    let passphrase = Passphrase::new(digest_secret);
    let digest = kdf
        .derive(&passphrase, b"a salt", 32, &KdfCaps::default())
        .expect("a digest")
        .expose()
        .to_vec();
    let caps = KdfCaps::default();
    KeyDigest::from_parts(
        Hash::Sha256,
        b"a salt".to_vec(),
        1000,
        digest,
        Some(64),
        &caps,
    )
    .expect("a digest")
}

#[test]
fn a_passphrase_and_its_derived_key_leave_nothing_behind() {
    for_each_memory(|kind| {
        let masked = masked_pattern(kind as u8 + 40);
        for kdf in [
            Kdf::Pbkdf2 {
                hash: Hash::Sha256,
                iterations: 1000,
            },
            Kdf::Pbkdf2 {
                hash: Hash::Sha512,
                iterations: 1000,
            },
            Kdf::Argon2 {
                variant: Argon2Variant::Id,
                time: 2,
                memory_kib: 512,
                lanes: 2,
            },
        ] {
            let passphrase = Passphrase::new(secret_of(&masked));
            let derived = kdf
                .derive(&passphrase, &[4; 32], 32, &KdfCaps::default())
                .expect("a key");
            let masked_key: Vec<u8> = derived.expose().iter().map(|byte| byte ^ MASK).collect();
            drop((passphrase, derived));
            assert_eq!(
                find_in_memory(&masked),
                [],
                "{kind:?}: passphrase of {kdf:?}"
            );
            assert_eq!(find_in_memory(&masked_key), [], "{kind:?}: key of {kdf:?}");
        }
    });
}

#[test]
fn a_lock_limit_that_is_too_small_is_a_clear_error() {
    for_each_memory(|kind| {
        let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).expect("a limit");
        // Root may lock without limit; a child without that right tells what users see.
        let outcome = in_child(|| {
            if nix::unistd::geteuid().is_root() {
                let nobody = nix::unistd::Uid::from_raw(65534);
                nix::unistd::setresuid(nobody, nobody, nobody).expect("root may change its user");
            }
            setrlimit(Resource::RLIMIT_MEMLOCK, 64 << 10, hard).expect("a lower limit");
            let small = SecretBytes::zeroed(100).is_ok();
            let text = match SecretBytes::zeroed(1 << 20) {
                Err(
                    e @ CryptoError::LockedMemory {
                        limit: Some(65536), ..
                    },
                ) => e.to_string(),
                _ => return 1,
            };
            let arena = matches!(
                Arena::new(16, 65536),
                Err(CryptoError::LockedMemory {
                    limit: Some(65536),
                    bytes: 1_048_576,
                    ..
                })
            );
            let clear = text.contains("65536 bytes") && text.contains("lock");
            if small && arena && clear { 0 } else { 2 }
        });
        assert!(succeeded(outcome), "{kind:?}: {outcome:?}");
        assert_eq!(
            getrlimit(Resource::RLIMIT_MEMLOCK).expect("a limit"),
            (soft, hard)
        );
    });
}

#[test]
fn a_forked_child_cannot_touch_a_secret_and_may_drop_it() {
    for_each_memory(|kind| {
        let secret = SecretBytes::random(32).expect("locked memory");
        let cipher = SectorCipher::for_area(
            CipherSpec::AesXtsPlain64,
            &SecretBytes::random(64).expect("random bytes"),
        )
        .expect("a cipher");
        let touched = in_child(|| i32::from(secret.expose()[0]) & 1);
        assert!(
            matches!(
                touched,
                WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGSEGV, _)
            ),
            "{kind:?}: {touched:?}"
        );
        // The child owns copies of the handles, not of the memory.
        let mut both = Some((secret, cipher));
        let dropped = in_child(|| {
            drop(both.take());
            let new = SecretBytes::random(32).expect("locked memory");
            i32::from(new.expose().iter().all(|&byte| byte == 0))
        });
        assert!(succeeded(dropped), "{kind:?}: {dropped:?}");
        let (secret, _cipher) = both.expect("the parent still has them");
        assert!(
            secret.expose().iter().any(|&byte| byte != 0),
            "the parent's secret lives"
        );
    });
}

#[test]
fn a_key_reaches_a_forked_child_by_handover_only_and_outlives_its_maker() {
    for_each_memory(|kind| {
        let key = volume_key(&(0..64).collect::<Vec<u8>>());
        let mut handover = KeyHandover::from_key(&key).expect("a memory file");
        let same = |opened: Result<VolumeKey, CryptoError>| {
            opened.is_ok_and(|key| key.expose().iter().copied().eq(0..64))
        };
        assert!(same(handover.open()), "{kind:?}");
        let child = in_child(|| {
            handover.hold().expect("locked memory");
            if !same(handover.open()) {
                return 1;
            }
            // A grandchild, as the server is of the program that opened the volume.
            let again = in_child(|| i32::from(!same(handover.open())));
            match again {
                WaitStatus::Exited(_, code) => code,
                _ => 2,
            }
        });
        assert!(succeeded(child), "{kind:?}: {child:?}");
        // A second handle of the same file, as if received over a socket.
        let received = handover.as_fd().try_clone_to_owned().expect("a descriptor");
        let second = KeyHandover::from_fd(received).expect("a memory file");
        drop(handover);
        assert!(
            same(second.open()),
            "{kind:?}: dropping one handle does not wipe"
        );
        let third = KeyHandover::from_fd(second.as_fd().try_clone_to_owned().expect("a copy"))
            .expect("a memory file");
        second.wipe().expect("a mapping");
        assert!(third.open().is_err(), "{kind:?}: wiped for all");
    });
}

#[test]
fn a_handover_keeps_its_size_and_is_closed_on_exec() {
    for_each_memory(|kind| {
        let key = volume_key(&(0..32).collect::<Vec<u8>>());
        let handover = KeyHandover::from_key(&key).expect("a memory file");
        let fd = handover.as_fd();
        assert!(
            nix::unistd::ftruncate(fd, 0).is_err(),
            "{kind:?}: cannot shrink"
        );
        assert!(
            nix::unistd::ftruncate(fd, 1 << 20).is_err(),
            "{kind:?}: cannot grow"
        );
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).expect("flags");
        assert_ne!(flags & nix::libc::FD_CLOEXEC, 0, "{kind:?}");
        // Neither a device, nor a file on a disk, nor a memory file that may shrink.
        let on_disk = File::open(std::env::current_exe().expect("a path")).expect("a file");
        let name = c"unsealed";
        let unsealed = memfd_create(name, MFdFlags::MFD_ALLOW_SEALING).expect("a memory file");
        nix::unistd::ftruncate(&unsealed, 64).expect("a size");
        let null = File::open("/dev/null").expect("a file");
        for other in [null.into(), on_disk.into(), unsealed] {
            assert!(
                KeyHandover::from_fd(other).is_err(),
                "{kind:?}: no handover"
            );
        }
    });
}

#[test]
fn no_thread_is_left_after_a_derivation() {
    let _alone = alone();
    let ours = || {
        fs::read_dir("/proc/self/task")
            .expect("procfs")
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .filter(|name| name.starts_with("luksmith-kdf"))
            .count()
    };
    let kdf = Kdf::Argon2 {
        variant: Argon2Variant::Id,
        time: 2,
        memory_kib: 1024,
        lanes: 4,
    };
    let passphrase = Passphrase::new(SecretBytes::random(8).expect("random bytes"));
    for _ in 0..20 {
        kdf.derive(&passphrase, &[3; 32], 64, &KdfCaps::default())
            .expect("a key");
        // A thread that was joined may be listed for a moment more.
        let gone = (0..200).any(|_| {
            let none = ours() == 0;
            if !none {
                sleep(Duration::from_millis(5));
            }
            none
        });
        assert!(gone, "{} threads are left", ours());
    }
}

#[test]
fn memory_that_cannot_be_had_is_an_error_and_not_an_abort() {
    let _alone = alone();
    let kdf = Kdf::Argon2 {
        variant: Argon2Variant::Id,
        time: 1,
        memory_kib: 4 << 20,
        lanes: 1,
    };
    let caps = KdfCaps {
        max_memory_kib: u32::MAX,
        max_work_kib: u64::MAX,
        ..KdfCaps::default()
    };
    let passphrase = Passphrase::new(SecretBytes::random(8).expect("random bytes"));
    let outcome = in_child(|| {
        setrlimit(Resource::RLIMIT_AS, 1 << 30, 1 << 30).expect("a lower limit");
        let passphrase = Passphrase::new(SecretBytes::random(8).expect("random bytes"));
        match kdf.derive(&passphrase, &[0; 32], 32, &caps) {
            Err(CryptoError::OutOfMemory { bytes }) if bytes >= 4 << 30 => 0,
            _ => 1,
        }
    });
    assert!(succeeded(outcome), "{outcome:?}");
    drop(passphrase);
}

#[test]
fn an_arena_gives_each_slot_once_and_takes_it_back() {
    let _alone = alone();
    let arena = Arena::new(130, 4096).expect("locked memory");
    assert_eq!(
        (arena.slots(), arena.slot_bytes(), arena.len()),
        (130, 4096, 130 * 4096)
    );
    let mapping = mapping_of(arena.base_ptr());
    assert!(
        mapping.has("lo") && mapping.has("dd") && mapping.has("dc"),
        "{:?}",
        mapping.flags
    );
    let mut all: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
    let mut seen: Vec<usize> = all.iter().map(luksmith_crypto::IoBuf::index).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..130), "each slot once");
    for buf in &mut all {
        let expected = arena.base_ptr().addr() + buf.index() * 4096;
        assert_eq!(buf.as_mut_ptr().addr(), expected);
        assert_eq!(expected % 4096, 0);
    }
    all.remove(77);
    assert!(
        arena.take().is_some() && arena.take().is_some(),
        "taken and dropped at once"
    );
    drop(all);
    assert_eq!(std::iter::from_fn(|| arena.take()).take(130).count(), 130);
    for (slots, bytes) in [(0, 4096), (1, 0), (1, 512), (1, 4097), (usize::MAX, 4096)] {
        assert!(Arena::new(slots, bytes).is_err(), "{slots} x {bytes}");
    }
}

#[test]
fn slots_are_handed_between_threads_without_being_shared() {
    let _alone = alone();
    let arena = Arena::new(3, 4096).expect("locked memory");
    std::thread::scope(|scope| {
        for mark in 1..=4u8 {
            let arena = &arena;
            scope.spawn(move || {
                for _ in 0..2000 {
                    let Some(buf) = arena.take() else {
                        std::thread::yield_now();
                        continue;
                    };
                    let Ok(buf) = buf.fill_plain(64, |bytes| {
                        bytes.fill(mark);
                        Ok::<(), ()>(())
                    }) else {
                        panic!("the filling succeeds")
                    };
                    assert_eq!(buf.as_plain(), [mark; 64], "nobody else wrote here");
                }
            });
        }
    });
}

/// Runs `body` in a forked child and returns how that ended.
fn in_child(body: impl FnOnce() -> i32) -> WaitStatus {
    // SAFETY: the child runs only `body`, which relies on no other thread of this process
    // (memory allocation is put in order by the C library), and then exits.
    match unsafe { fork() }.expect("a child") {
        ForkResult::Child => {
            let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
            #[expect(
                clippy::disallowed_methods,
                reason = "a child must not return into the harness"
            )]
            exit(code)
        }
        ForkResult::Parent { child } => waitpid(child, None).expect("our child"),
    }
}

fn succeeded(status: WaitStatus) -> bool {
    matches!(status, WaitStatus::Exited(_, 0))
}
