//! From a passphrase to the key of a slot area: Argon2 or PBKDF2, with caps on the cost.
//!
//! Second step of the unlock path, after the header was parsed and before a slot area is
//! decrypted. The costs come from a header that anybody may have written, so they are held
//! against [`KdfCaps`] before the first byte is allocated.

use argon2::{Algorithm, Argon2, Block, Params, Version};

use crate::{
    CryptoError, Hash, Passphrase, SecretBytes,
    lock::{Backing, LockedPages, wipe_stack},
    machine::Machine,
    selftest,
};

/// Which Argon2: both of version 1.3, without secret and associated data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Argon2Variant {
    /// Data-independent addressing.
    I,
    /// The default: half of the first pass independent, the rest dependent.
    Id,
}

/// A key derivation with its costs, as a slot states it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kdf {
    /// PBKDF2-HMAC (RFC 8018).
    Pbkdf2 {
        /// Hash of the HMAC.
        hash: Hash,
        /// Number of iterations.
        iterations: u32,
    },
    /// Argon2 (RFC 9106).
    Argon2 {
        /// Which of the family.
        variant: Argon2Variant,
        /// Passes over the memory.
        time: u32,
        /// Memory in KiB.
        memory_kib: u32,
        /// Lanes, also the most threads that are used.
        lanes: u32,
    },
}

/// A family of derivations, without costs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KdfKind {
    /// PBKDF2-HMAC.
    Pbkdf2(Hash),
    /// Argon2.
    Argon2(Argon2Variant),
}

/// The highest costs that are accepted from a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KdfCaps {
    /// Argon2 memory in KiB.
    pub max_memory_kib: u32,
    /// Argon2 passes.
    pub max_time: u32,
    /// Argon2 passes times memory in KiB, which is what the time to wait grows with.
    pub max_work_kib: u64,
    /// PBKDF2 iterations.
    pub max_iterations: u32,
    /// Argon2 lanes.
    pub max_lanes: u32,
}

impl Default for KdfCaps {
    /// At most the machine's RAM and 4 GiB; work of some minutes; 2^30 iterations; 16 lanes.
    fn default() -> Self {
        let ram_kib = u32::try_from(Machine::here().ram_kib).unwrap_or(u32::MAX);
        Self {
            max_memory_kib: ram_kib.min(FORMAT_MAX_MEMORY_KIB),
            max_time: 1 << 24,
            max_work_kib: 1 << 29,
            max_iterations: 1 << 30,
            max_lanes: 16,
        }
    }
}

/// The most memory that the reference gives a slot (4 GiB).
pub(crate) const FORMAT_MAX_MEMORY_KIB: u32 = 4 * 1024 * 1024;
/// The least memory that the reference gives a slot.
pub(crate) const FORMAT_MIN_MEMORY_KIB: u32 = 32;
/// The most lanes that the reference gives a slot.
pub(crate) const FORMAT_MAX_LANES: u32 = 4;
/// The fewest PBKDF2 iterations of a new slot.
pub(crate) const FORMAT_MIN_ITERATIONS: u32 = 1000;

/// The longest output of a derivation in bytes; far above any cipher key.
const MAX_OUTPUT: usize = 4096;

impl Kdf {
    /// Whether the costs lie within `caps` and within what the algorithm can do at all.
    ///
    /// # Errors
    /// [`CryptoError::CostTooHigh`] or [`CryptoError::CostTooLow`] for the first that does not.
    pub fn check(&self, caps: &KdfCaps) -> Result<(), CryptoError> {
        match *self {
            Self::Pbkdf2 { iterations, .. } => {
                at_least("PBKDF2 iterations", iterations.into(), 1)?;
                at_most(
                    "PBKDF2 iterations",
                    iterations.into(),
                    caps.max_iterations.into(),
                )
            }
            Self::Argon2 {
                time,
                memory_kib,
                lanes,
                ..
            } => {
                at_least("Argon2 lanes", lanes.into(), 1)?;
                at_most("Argon2 lanes", lanes.into(), caps.max_lanes.into())?;
                at_least("Argon2 passes", time.into(), 1)?;
                at_most("Argon2 passes", time.into(), caps.max_time.into())?;
                at_least(
                    "Argon2 memory in KiB",
                    memory_kib.into(),
                    u64::from(lanes) * 8,
                )?;
                at_most(
                    "Argon2 memory in KiB",
                    memory_kib.into(),
                    caps.max_memory_kib.into(),
                )?;
                let work = u64::from(time) * u64::from(memory_kib);
                at_most("Argon2 passes times memory in KiB", work, caps.max_work_kib)
            }
        }
    }

    /// Derives `out_len` bytes from the passphrase.
    ///
    /// Argon2 fills its own memory, which is wiped afterwards and locked as far as the limit
    /// of the process goes, with as many threads as there are lanes and processors; they
    /// have ended when this returns, so the caller may fork.
    ///
    /// # Errors
    /// Costs beyond `caps`, no memory, a failed self-test, a salt or length that the
    /// algorithm refuses.
    pub fn derive(
        &self,
        passphrase: &Passphrase,
        salt: &[u8],
        out_len: usize,
        caps: &KdfCaps,
    ) -> Result<SecretBytes, CryptoError> {
        selftest::power_on()?;
        self.check(caps)?;
        self.derive_unchecked(passphrase.expose(), salt, out_len)
    }

    /// [`Kdf::derive`] for the self-test and the calibration.
    pub(crate) fn derive_unchecked(
        &self,
        password: &[u8],
        salt: &[u8],
        out_len: usize,
    ) -> Result<SecretBytes, CryptoError> {
        if out_len == 0 || out_len > MAX_OUTPUT {
            return Err(CryptoError::Length {
                what: "derived key in bytes",
                is: out_len as u64,
            });
        }
        SecretBytes::init_with(out_len, |out| match *self {
            Self::Pbkdf2 { hash, iterations } => {
                hash.pbkdf2(password, salt, iterations, out);
                Ok(())
            }
            Self::Argon2 {
                variant,
                time,
                memory_kib,
                lanes,
            } => argon2(variant, [memory_kib, time, lanes], password, salt, out),
        })
    }
}

fn argon2(
    variant: Argon2Variant,
    [memory_kib, time, lanes]: [u32; 3],
    password: &[u8],
    salt: &[u8],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    let algorithm = match variant {
        Argon2Variant::I => Algorithm::Argon2i,
        Argon2Variant::Id => Algorithm::Argon2id,
    };
    let unsupported = |e: argon2::Error| CryptoError::Unsupported {
        what: format!("Argon2 parameters: {e}"),
    };
    let params = Params::new(memory_kib, time, lanes, Some(out.len())).map_err(unsupported)?;
    let matrix_bytes =
        params
            .block_count()
            .checked_mul(Block::SIZE)
            .ok_or(CryptoError::OutOfMemory {
                bytes: u64::from(memory_kib) * 1024,
            })?;
    let mut matrix = LockedPages::new(matrix_bytes, Backing::BestEffort)?;
    let argon = Argon2::new(algorithm, Version::V0x13, params);
    let threads = Machine::here().cpus.min(lanes) as usize;
    let mut run = || {
        let done =
            argon.hash_password_into_with_memory(password, salt, out, matrix.as_argon2_blocks());
        wipe_stack();
        done
    };
    let mut workers = Vec::new();
    let pool = rayon_core::ThreadPoolBuilder::new()
        .num_threads(threads)
        .spawn_handler(|thread| {
            let work = move || {
                thread.run();
                wipe_stack();
            };
            let worker = std::thread::Builder::new().name("luksmith-kdf".to_owned());
            workers.push(worker.spawn(work)?);
            Ok(())
        })
        .build();
    let done = pool.as_ref().map(|pool| pool.install(&mut run));
    let no_threads = |_: &_| CryptoError::OutOfMemory {
        bytes: threads as u64 * (2 << 20),
    };
    let done = done.map_err(no_threads);
    drop(pool);
    // None may be left, not even one that is about to end: a caller may fork, or hold back
    // signals, which the kernel would then give to that thread.
    for worker in workers {
        // A worker that panicked has made `install` panic before.
        let _ = worker.join();
    }
    done?.map_err(unsupported)
}

pub(crate) fn at_most(what: &'static str, asked: u64, limit: u64) -> Result<(), CryptoError> {
    if asked > limit {
        Err(CryptoError::CostTooHigh { what, asked, limit })
    } else {
        Ok(())
    }
}

pub(crate) fn at_least(what: &'static str, asked: u64, least: u64) -> Result<(), CryptoError> {
    if asked < least {
        Err(CryptoError::CostTooLow { what, asked, least })
    } else {
        Ok(())
    }
}
