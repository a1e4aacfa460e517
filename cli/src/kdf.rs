//! The options of key derivation, as one choice.

use luksmith_crypto::{Argon2Variant, Hash, Kdf, KdfCaps, KdfKind};
use luksmith_keyslot::{Calibration, KdfChoice};

use crate::args::Args;
use crate::errors;
use crate::hint::Failure;
use crate::session::millis;

/// `--hash`, or SHA-256.
pub(crate) fn hash(args: &Args) -> Result<Hash, Failure> {
    match args.text("hash") {
        None => Ok(Hash::Sha256),
        Some(name) => Hash::from_name(&name).map_err(errors::crypto),
    }
}

/// `--pbkdf`, `--iter-time` and the rest.
pub(crate) fn choice(args: &Args) -> Result<KdfChoice, Failure> {
    let kind = match args.text("pbkdf").as_deref() {
        Some("pbkdf2") => KdfKind::Pbkdf2(hash(args)?),
        Some("argon2i") => KdfKind::Argon2(Argon2Variant::I),
        _ => KdfKind::Argon2(Argon2Variant::Id),
    };
    let memory = args.small("pbkdf-memory");
    let threads = args.small("pbkdf-parallel");
    let time = args.number("iter-time");
    if matches!(kind, KdfKind::Pbkdf2(_)) {
        for (given, name) in [(memory, "pbkdf-memory"), (threads, "pbkdf-parallel")] {
            if given.is_some() {
                return Err(Failure::usage(format!(
                    "option --{name} is refused: it means nothing for --pbkdf pbkdf2"
                ))
                .no_disk());
            }
        }
    }
    let Some(cost) = args.small("pbkdf-force-iterations") else {
        let usual = Calibration::default();
        return Ok(KdfChoice::Calibrate(Calibration {
            kind,
            target: time.map_or(usual.target, millis),
            max_memory_kib: memory.unwrap_or(usual.max_memory_kib),
            max_lanes: threads.unwrap_or(usual.max_lanes),
        }));
    };
    if time.is_some() {
        return Err(Failure::usage(
            "options --iter-time and --pbkdf-force-iterations exclude each other",
        )
        .no_disk());
    }
    let argon2 = |variant| {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let usual = Calibration::default();
        let most = KdfCaps::default().max_memory_kib;
        Kdf::Argon2 {
            variant,
            time: cost,
            memory_kib: memory.unwrap_or_else(|| usual.max_memory_kib.min(most)),
            lanes: threads.unwrap_or_else(|| usual.max_lanes.min(cpus)),
        }
    };
    Ok(KdfChoice::Exact(match kind {
        KdfKind::Pbkdf2(hash) => Kdf::Pbkdf2 {
            hash,
            iterations: cost,
        },
        KdfKind::Argon2(Argon2Variant::I) => argon2(Argon2Variant::I),
        KdfKind::Argon2(Argon2Variant::Id) => argon2(Argon2Variant::Id),
    }))
}

/// `--keyslot-cipher` and `--keyslot-key-size`: cipher and key bits of the keyslot's area.
pub(crate) fn area_cipher(args: &Args) -> Result<Option<(String, u32)>, Failure> {
    match (args.text("keyslot-cipher"), args.small("keyslot-key-size")) {
        (None, None) => Ok(None),
        (Some(cipher), Some(bits)) => Ok(Some((cipher, bits))),
        _ => Err(Failure::usage(
            "options --keyslot-cipher and --keyslot-key-size belong together: give both",
        )
        .no_disk()),
    }
}

/// Whether something is going to be measured, which takes seconds.
pub(crate) fn measures(choice: &KdfChoice) -> bool {
    matches!(choice, KdfChoice::Calibrate(_))
}
