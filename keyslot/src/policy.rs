//! Rules that are a choice and not a fact of the format: which slots count as usable, what a new
//! key costs, what may be opened and changed.

use std::time::Duration;

use luksmith_crypto::{
    AllowNull, Argon2Variant, Hash, Kdf, KdfCaps, KdfKind, KeyDigest, Passphrase,
};
use luksmith_luks2::{Metadata, Priority};

use crate::error::PlanError;
use crate::seal::OWN_COSTS;
use crate::unlock::opens_data;

/// What a header may ask for when it is opened.
#[derive(Debug, Clone)]
pub struct OpenLimits {
    /// Highest KDF costs; checked before any work and any allocation.
    pub caps: KdfCaps,
    /// Whether a cipher that does not encrypt is accepted. Say `Yes` only when a person did.
    pub allow_null: AllowNull,
}

impl Default for OpenLimits {
    /// Caps from the memory of this machine, no null ciphers.
    fn default() -> Self {
        Self {
            caps: KdfCaps::default(),
            allow_null: AllowNull::No,
        }
    }
}

impl OpenLimits {
    /// For comparing a key that somebody already opened with the digests of its own header.
    pub(crate) fn own_key() -> Self {
        Self {
            caps: OWN_COSTS,
            allow_null: AllowNull::Yes,
        }
    }
}

/// Whether the last slot that opens the data may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastSlot {
    /// Refuse with [`PlanError::LastSlot`].
    Refuse,
    /// A person said in so many words that the data may become unreadable.
    Allow,
}

/// What a new slot's passphrase costs to try.
#[derive(Debug, Clone)]
pub enum KdfChoice {
    /// These costs and no measuring (`--pbkdf-force-iterations`).
    Exact(Kdf),
    /// Measure on this machine (`--iter-time`); takes about the target time, once.
    Calibrate(Calibration),
    /// The cheapest KDF: PBKDF2, 1000 rounds. Only for secrets of at least 256 random bits made by
    /// a machine (TPM, recovery key, network key): there is nothing to guess there, and a boot
    /// with little memory stays possible. A shorter secret is refused.
    MachineSecret(Hash),
}

impl Default for KdfChoice {
    fn default() -> Self {
        Self::Calibrate(Calibration::default())
    }
}

/// What calibration aims at.
#[derive(Debug, Clone, Copy)]
pub struct Calibration {
    /// Argon2id, Argon2i, or PBKDF2 with its hash.
    pub kind: KdfKind,
    /// Time of one try. The default is two seconds.
    pub target: Duration,
    /// Memory ceiling in KiB; the machine's size lowers it further. The default is 1 GiB.
    pub max_memory_kib: u32,
    /// Most threads. The default is 4.
    pub max_lanes: u32,
}

impl Default for Calibration {
    /// Argon2id, 2 s, 1 GiB, 4 lanes: the values of cryptsetup.
    fn default() -> Self {
        Self {
            kind: KdfKind::Argon2(Argon2Variant::Id),
            target: Duration::from_millis(2000),
            max_memory_kib: 1024 * 1024,
            max_lanes: ARGON2_MAX_LANES,
        }
    }
}

impl KdfChoice {
    /// Checks what can be checked without measuring, so that a wrong option shows before anything
    /// slow or destructive begins.
    ///
    /// # Errors
    /// Costs below the floor or above the ceiling of the format, SHA-1, a machine secret that is
    /// too short.
    pub fn check(&self, passphrase: &Passphrase) -> Result<(), PlanError> {
        match self {
            Self::Exact(kdf) => check_new_costs(kdf),
            Self::Calibrate(aim) => {
                if let KdfKind::Pbkdf2(hash) = aim.kind {
                    return check_new_hash(hash);
                }
                if !(ARGON2_MIN_MEMORY_KIB..=ARGON2_MAX_MEMORY_KIB).contains(&aim.max_memory_kib) {
                    return Err(PlanError::option("pbkdf-memory", MEMORY_RANGE));
                }
                if !(1..=ARGON2_MAX_LANES).contains(&aim.max_lanes) {
                    return Err(PlanError::option("pbkdf-parallel", LANES_RANGE));
                }
                Ok(())
            }
            Self::MachineSecret(hash) => {
                check_new_hash(*hash)?;
                if passphrase.len() < MACHINE_SECRET_BYTES {
                    return Err(PlanError::option(
                        "pbkdf",
                        "a secret of less than 256 bits needs a slow key derivation",
                    ));
                }
                Ok(())
            }
        }
    }

    /// The costs to write into the slot.
    ///
    /// # Errors
    /// As [`KdfChoice::check`], and what measuring may meet.
    pub(crate) fn settle(&self, passphrase: &Passphrase) -> Result<Kdf, PlanError> {
        self.check(passphrase)?;
        let kdf = match self {
            Self::Exact(kdf) => *kdf,
            Self::Calibrate(aim) => {
                luksmith_crypto::calibrate(aim.target, aim.kind, aim.max_memory_kib, aim.max_lanes)?
            }
            Self::MachineSecret(hash) => Kdf::Pbkdf2 {
                hash: *hash,
                iterations: PBKDF2_MIN_ITERATIONS,
            },
        };
        check_new_costs(&kdf)?;
        Ok(kdf)
    }
}

/// Rounds of the PBKDF2 that guards the digest of a volume key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestCost {
    /// Measure to about 125 ms; 1000 rounds where the slot's own costs are forced, as the
    /// reference does. (The key is random: the digest needs no slowness against guessing.)
    Auto,
    /// This many, at least 1000.
    Iterations(u32),
}

impl DigestCost {
    pub(crate) fn settle(self, hash: Hash, slot: &KdfChoice) -> Result<u32, PlanError> {
        match (self, slot) {
            (Self::Iterations(n), _) if n < KeyDigest::MIN_ITERATIONS => Err(PlanError::option(
                "pbkdf-force-iterations",
                format!("at least {}", KeyDigest::MIN_ITERATIONS),
            )),
            (Self::Iterations(n), _) => Ok(n),
            (Self::Auto, KdfChoice::Exact(_)) => Ok(KeyDigest::MIN_ITERATIONS),
            (Self::Auto, _) => {
                let kind = KdfKind::Pbkdf2(hash);
                match luksmith_crypto::calibrate(DIGEST_TIME, kind, ARGON2_MIN_MEMORY_KIB, 1)? {
                    Kdf::Pbkdf2 { iterations, .. } => Ok(iterations.max(KeyDigest::MIN_ITERATIONS)),
                    Kdf::Argon2 { .. } => Ok(KeyDigest::MIN_ITERATIONS),
                }
            }
        }
    }
}

/// Slots that open the data without being named: bound to the data, not `ignore`.
///
/// These are the ones that the last-slot rule counts. Unbound slots open no data; `ignore` slots
/// are skipped by every tool that does not name them, so a volume with only such slots looks dead
/// to its owner.
#[must_use]
pub fn usable_slots(metadata: &Metadata) -> Vec<u8> {
    metadata
        .keyslots()
        .iter()
        .filter(|(number, slot)| {
            slot.luks2().is_some()
                && slot.priority != Priority::Ignore
                && opens_data(metadata, **number)
        })
        .map(|(number, _)| *number)
        .collect()
}

/// Refuses to plan a change for a header that demands what we do not know, or is in the middle of
/// a reencryption.
pub(crate) fn may_change(metadata: &Metadata) -> Result<(), PlanError> {
    if let Some(name) = metadata.requirements().unknown.first() {
        return Err(PlanError::Requirement(name.clone()));
    }
    if metadata.reencryption_in_progress() {
        return Err(PlanError::Reencrypting);
    }
    Ok(())
}

/// Floors and ceilings for what we write; what we read is bounded by [`OpenLimits::caps`].
pub(crate) fn check_new_costs(kdf: &Kdf) -> Result<(), PlanError> {
    match kdf {
        Kdf::Pbkdf2 { hash, iterations } => {
            check_new_hash(*hash)?;
            if *iterations < PBKDF2_MIN_ITERATIONS {
                return Err(PlanError::option(
                    "pbkdf-force-iterations",
                    format!("pbkdf2 needs at least {PBKDF2_MIN_ITERATIONS}"),
                ));
            }
        }
        Kdf::Argon2 {
            time,
            memory_kib,
            lanes,
            ..
        } => {
            if *time < ARGON2_MIN_TIME {
                return Err(PlanError::option(
                    "pbkdf-force-iterations",
                    format!("argon2 needs at least {ARGON2_MIN_TIME}"),
                ));
            }
            if !(ARGON2_MIN_MEMORY_KIB..=ARGON2_MAX_MEMORY_KIB).contains(memory_kib) {
                return Err(PlanError::option("pbkdf-memory", MEMORY_RANGE));
            }
            if !(1..=ARGON2_MAX_LANES).contains(lanes) {
                return Err(PlanError::option("pbkdf-parallel", LANES_RANGE));
            }
        }
    }
    Ok(())
}

/// SHA-1 opens old headers and is never written again.
pub(crate) fn check_new_hash(hash: Hash) -> Result<(), PlanError> {
    if hash.allowed_for_new() {
        return Ok(());
    }
    Err(PlanError::option(
        "hash",
        format!("{} is not used for new keys", hash.name()),
    ))
}

const PBKDF2_MIN_ITERATIONS: u32 = 1000;
const ARGON2_MIN_TIME: u32 = 4;
const ARGON2_MIN_MEMORY_KIB: u32 = 32;
const ARGON2_MAX_MEMORY_KIB: u32 = 4 * 1024 * 1024;
const MEMORY_RANGE: &str = "must be 32 to 4194304 KiB";
const ARGON2_MAX_LANES: u32 = 4;
const LANES_RANGE: &str = "must be 1 to 4";
// Argon2 wants 8 KiB a lane: the smallest memory with the most lanes is just enough.
const _: () = assert!(ARGON2_MIN_MEMORY_KIB >= 8 * ARGON2_MAX_LANES);
/// 256 bits.
const MACHINE_SECRET_BYTES: usize = 32;
const DIGEST_TIME: Duration = Duration::from_millis(125);
