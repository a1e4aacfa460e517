//! Finds the costs of a new slot that take a wanted time on this machine.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::{
    CryptoError, Hash, Kdf, KdfKind,
    kdf::{
        Argon2Variant, FORMAT_MAX_LANES, FORMAT_MAX_MEMORY_KIB, FORMAT_MIN_ITERATIONS,
        FORMAT_MIN_MEMORY_KIB,
    },
    machine::Machine,
    selftest,
};

/// Fewest Argon2 passes of a calibrated slot.
const MIN_TIME: u32 = 4;
/// Where the search for memory begins: 64 MiB.
const START_MEMORY_KIB: u32 = 64 * 1024;
/// A run shorter than this says little about longer ones.
const TELLING: Duration = Duration::from_millis(250);
/// Runs after which the best so far is good enough.
const MAX_RUNS: u32 = 16;

/// Finds costs of `kind` that take `target` here.
///
/// PBKDF2 is timed by the thread's processor time. Argon2 is timed by the clock on the wall,
/// with the lanes that it will have: at most `max_lanes`, four, and the processors. Memory
/// grows first, up to `max_memory_kib`, 4 GiB and half of the RAM (of what is free, on a small
/// machine without swap), then the passes, which are never fewer than four. What takes 95 to
/// 110 per cent of the target is taken.
///
/// # Errors
/// A target of zero, a failed self-test, no memory.
pub fn calibrate(
    target: Duration,
    kind: KdfKind,
    max_memory_kib: u32,
    max_lanes: u32,
) -> Result<Kdf, CryptoError> {
    selftest::power_on()?;
    if target.is_zero() {
        return Err(CryptoError::Length {
            what: "time of a key derivation in seconds",
            is: 0,
        });
    }
    match kind {
        KdfKind::Pbkdf2(hash) => {
            let iterations =
                search_pbkdf2(target, &mut |iterations| time_pbkdf2(hash, iterations))?;
            Ok(Kdf::Pbkdf2 { hash, iterations })
        }
        KdfKind::Argon2(variant) => {
            let machine = Machine::here();
            let limits = Limits::new(&machine, max_memory_kib, max_lanes);
            let costs = search_argon2(target, limits, &mut |costs| {
                time_argon2(costs.with(variant, limits.lanes))
            })?;
            Ok(costs.with(variant, limits.lanes))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Costs {
    time: u32,
    memory_kib: u32,
}

impl Costs {
    fn with(self, variant: Argon2Variant, lanes: u32) -> Kdf {
        Kdf::Argon2 {
            variant,
            time: self.time,
            memory_kib: self.memory_kib,
            lanes,
        }
    }

    fn work(self) -> u128 {
        u128::from(self.time) * u128::from(self.memory_kib)
    }
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    min_memory_kib: u32,
    max_memory_kib: u32,
    lanes: u32,
}

impl Limits {
    fn new(machine: &Machine, max_memory_kib: u32, max_lanes: u32) -> Self {
        let lanes = max_lanes.min(FORMAT_MAX_LANES).min(machine.cpus).max(1);
        let min_memory_kib = FORMAT_MIN_MEMORY_KIB.max(8 * lanes);
        let ceiling = u32::try_from(machine.derivation_ceiling_kib()).unwrap_or(u32::MAX);
        let max_memory_kib = max_memory_kib
            .min(FORMAT_MAX_MEMORY_KIB)
            .min(ceiling)
            .max(min_memory_kib);
        Self {
            min_memory_kib,
            max_memory_kib,
            lanes,
        }
    }
}

type Timed<'a, T> = &'a mut dyn FnMut(T) -> Result<Duration, CryptoError>;

/// Memory first, then passes; see [`calibrate`].
fn search_argon2(
    target: Duration,
    limits: Limits,
    timed: Timed<'_, Costs>,
) -> Result<Costs, CryptoError> {
    let mut costs = Costs {
        time: MIN_TIME,
        memory_kib: START_MEMORY_KIB.min(limits.max_memory_kib),
    };
    let mut best: Option<(Costs, Duration)> = None;
    for _ in 0..MAX_RUNS {
        let took = timed(costs)?;
        let closer = best.is_none_or(|(_, before)| took.abs_diff(target) < before.abs_diff(target));
        if closer {
            best = Some((costs, took));
        }
        if fits(took, target) {
            return Ok(costs);
        }
        // A short run is mostly start-up: only step towards a telling one from it.
        let aim = if took < TELLING {
            target.min(TELLING.mul_f64(1.2))
        } else {
            target
        };
        let next = scaled(costs, limits, took, aim);
        if next == costs {
            break;
        }
        costs = next;
    }
    Ok(best.map_or(costs, |(costs, _)| costs))
}

/// The costs that should take `target` when `costs` took `took`.
fn scaled(costs: Costs, limits: Limits, took: Duration, target: Duration) -> Costs {
    let took = took.as_nanos().max(1);
    let work = costs.work().saturating_mul(target.as_nanos()) / took;
    let at = |time: u128| work / time.max(1);
    if target.as_nanos() > took {
        // More is wanted: memory up to the ceiling, then passes.
        let memory = at(costs.time.into()).min(limits.max_memory_kib.into());
        let memory_kib = clamp_memory(memory, limits);
        let time = (work / u128::from(memory_kib)).max(costs.time.into());
        let time = if memory_kib < limits.max_memory_kib {
            costs.time.into()
        } else {
            time
        };
        Costs {
            time: u32::try_from(time).unwrap_or(u32::MAX),
            memory_kib,
        }
    } else {
        // Less is wanted: passes down to the fewest, then memory.
        let time = (work / u128::from(costs.memory_kib)).max(MIN_TIME.into());
        let time = u32::try_from(time).unwrap_or(u32::MAX);
        let memory_kib = if time > MIN_TIME {
            costs.memory_kib
        } else {
            clamp_memory(at(MIN_TIME.into()).min(costs.memory_kib.into()), limits)
        };
        Costs { time, memory_kib }
    }
}

fn clamp_memory(memory_kib: u128, limits: Limits) -> u32 {
    u32::try_from(memory_kib)
        .unwrap_or(u32::MAX)
        .clamp(limits.min_memory_kib, limits.max_memory_kib)
}

/// 95 to 110 per cent of the target.
fn fits(took: Duration, target: Duration) -> bool {
    took.as_nanos() * 100 >= target.as_nanos() * 95
        && took.as_nanos() * 100 <= target.as_nanos() * 110
}

/// Doubles until a run tells something, then scales.
fn search_pbkdf2(target: Duration, timed: Timed<'_, u32>) -> Result<u32, CryptoError> {
    let mut iterations: u32 = 1 << 15;
    loop {
        let took = timed(iterations)?;
        if took >= TELLING.min(target) || iterations >= 1 << 30 {
            let scaled = u128::from(iterations) * target.as_nanos() / took.as_nanos().max(1);
            let most = u128::from(u32::MAX);
            return Ok(u32::try_from(scaled.min(most))
                .unwrap_or(u32::MAX)
                .max(FORMAT_MIN_ITERATIONS));
        }
        iterations *= 2;
    }
}

fn time_pbkdf2(hash: Hash, iterations: u32) -> Result<Duration, CryptoError> {
    let before = thread_time()?;
    Kdf::Pbkdf2 { hash, iterations }.derive_unchecked(b"foobarfo", &[0x5a; 32], hash.len())?;
    Ok(thread_time()?.saturating_sub(before))
}

fn time_argon2(kdf: Kdf) -> Result<Duration, CryptoError> {
    let before = Instant::now();
    kdf.derive_unchecked(b"foobarfo", &[0x5a; 32], 64)?;
    Ok(before.elapsed())
}

fn thread_time() -> Result<Duration, CryptoError> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .map_err(|e| CryptoError::Unsupported {
            what: format!("thread clock: {e}"),
        })
}
