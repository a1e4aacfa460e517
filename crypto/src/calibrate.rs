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
        let time = nearest(work, memory_kib).max(costs.time.into());
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
        let time = nearest(work, costs.memory_kib).max(MIN_TIME.into());
        let time = u32::try_from(time).unwrap_or(u32::MAX);
        let memory_kib = if time > MIN_TIME {
            costs.memory_kib
        } else {
            clamp_memory(at(MIN_TIME.into()).min(costs.memory_kib.into()), limits)
        };
        Costs { time, memory_kib }
    }
}

/// Passes that come nearest to `work`: cutting off could miss the 95 per cent for good.
fn nearest(work: u128, memory_kib: u32) -> u128 {
    let memory = u128::from(memory_kib);
    (work + memory / 2) / memory
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        min_memory_kib: 32,
        max_memory_kib: 1 << 20,
        lanes: 4,
    };

    /// A machine that needs `ns` nanoseconds per pass and KiB, and a start-up time.
    fn machine(ns: u64, start_up_us: u64) -> impl FnMut(Costs) -> Result<Duration, CryptoError> {
        move |costs| {
            let work = u64::try_from(costs.work()).expect("a sane amount of work");
            Ok(Duration::from_micros(start_up_us) + Duration::from_nanos(ns * work))
        }
    }

    fn search(target_ms: u64, limits: Limits, ns: u64) -> (Costs, Duration) {
        let mut timed = machine(ns, 200);
        let costs = search_argon2(Duration::from_millis(target_ms), limits, &mut timed)
            .expect("a fake machine does not fail");
        (costs, timed(costs).expect("a fake machine does not fail"))
    }

    fn hits(took: Duration, target_ms: u64) {
        assert!(
            fits(took, Duration::from_millis(target_ms)),
            "{took:?} for {target_ms} ms"
        );
    }

    #[test]
    fn memory_grows_to_the_ceiling_before_passes_do() {
        // 1 GiB and four passes take 4.2 s here: the target is met below the ceiling.
        let (costs, took) = search(2000, LIMITS, 1000);
        assert_eq!(costs.time, MIN_TIME);
        assert!(costs.memory_kib > 300_000 && costs.memory_kib < LIMITS.max_memory_kib);
        hits(took, 2000);
        // A machine five times as fast: memory is at its ceiling, passes give the rest.
        let (costs, took) = search(2000, LIMITS, 200);
        assert_eq!(costs.memory_kib, LIMITS.max_memory_kib);
        assert!(costs.time > MIN_TIME);
        hits(took, 2000);
    }

    #[test]
    fn a_slow_machine_lowers_memory_and_never_the_passes_below_four() {
        let (costs, took) = search(2000, LIMITS, 50_000);
        assert_eq!(costs.time, MIN_TIME);
        assert!(costs.memory_kib < START_MEMORY_KIB);
        hits(took, 2000);
        let (costs, _) = search(1, LIMITS, 1_000_000_000 / 32);
        assert_eq!(
            (costs.time, costs.memory_kib),
            (MIN_TIME, 32),
            "the least there is"
        );
    }

    #[test]
    fn a_low_ceiling_is_never_exceeded() {
        let limits = Limits {
            max_memory_kib: 4096,
            ..LIMITS
        };
        let mut most = 0;
        let mut timed = machine(500, 100);
        let costs = search_argon2(Duration::from_millis(2000), limits, &mut |costs| {
            most = most.max(costs.memory_kib);
            timed(costs)
        })
        .expect("a fake machine does not fail");
        assert_eq!((costs.memory_kib, most), (4096, 4096));
        hits(timed(costs).expect("a fake machine does not fail"), 2000);
    }

    #[test]
    fn a_machine_whose_times_jump_ends_the_search_near_the_target() {
        let mut run = 0u64;
        let mut times = Vec::new();
        let mut timed = machine(700, 0);
        search_argon2(Duration::from_millis(2000), LIMITS, &mut |costs| {
            run += 1;
            let took = timed(costs)?.mul_f64(if run.is_multiple_of(2) { 1.3 } else { 0.8 });
            times.push(took);
            Ok(took)
        })
        .expect("a fake machine does not fail");
        assert!(times.len() <= MAX_RUNS as usize);
    }

    #[test]
    fn the_first_run_is_small_and_steps_lead_from_short_runs_to_telling_ones() {
        let mut seen = Vec::new();
        let mut timed = machine(10, 0);
        search_argon2(Duration::from_millis(2000), LIMITS, &mut |costs| {
            seen.push(costs);
            timed(costs)
        })
        .expect("a fake machine does not fail");
        assert_eq!(
            seen[0],
            Costs {
                time: MIN_TIME,
                memory_kib: START_MEMORY_KIB
            }
        );
        assert!(seen.len() <= 6, "{seen:?}");
    }

    #[test]
    fn lanes_and_memory_keep_to_the_machine() {
        let machine = Machine {
            ram_kib: 1 << 20,
            free_kib: 1 << 19,
            swap_kib: 1,
            cpus: 2,
        };
        let limits = Limits::new(&machine, u32::MAX, u32::MAX);
        assert_eq!(limits.lanes, 2, "no more lanes than processors");
        assert_eq!(limits.max_memory_kib, 1 << 19, "half of the RAM");
        let big = Machine {
            ram_kib: 1 << 30,
            cpus: 64,
            ..machine
        };
        let limits = Limits::new(&big, u32::MAX, u32::MAX);
        assert_eq!(
            (limits.lanes, limits.max_memory_kib),
            (4, FORMAT_MAX_MEMORY_KIB)
        );
        assert_eq!(Limits::new(&big, 65536, 1).max_memory_kib, 65536);
        assert_eq!(
            Limits::new(&big, 0, 0).max_memory_kib,
            32,
            "never below the least"
        );
    }

    #[test]
    fn pbkdf2_is_scaled_from_a_telling_run() {
        let target = Duration::from_secs(2);
        let mut runs = 0;
        let iterations = search_pbkdf2(target, &mut |iterations| {
            runs += 1;
            Ok(Duration::from_nanos(u64::from(iterations) * 400))
        })
        .expect("a fake machine does not fail");
        assert_eq!(iterations, 5_000_000);
        assert!(runs < 8, "{runs} runs");
        let few = search_pbkdf2(target, &mut |_| Ok(Duration::from_secs(3600)));
        assert_eq!(
            few.expect("a fake machine does not fail"),
            FORMAT_MIN_ITERATIONS
        );
    }
}
