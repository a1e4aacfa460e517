//! Exhaustive crash tests of the header store in the simulator.
//!
//! For every operation that writes a header: every power cut (any selection of what was not
//! flushed, torn at every physical sector), the recovery from it cut again, the death of the
//! process with the cache left behind, and the failure of every single device operation. Then the
//! tests of the tests: each barrier, check and order rule of the store is removed in turn, and
//! must be missed.

mod scenario;
mod scenarios;
mod world;

use std::time::Instant;

use luksmith_volume::Mutant;
use scenario::{Effort, Stats};

fn effort(unit: usize) -> Effort {
    Effort {
        unit,
        limit: 512,
        side_limit: 48,
        recoveries: 8,
        seed: 1,
    }
}

/// Everything there is; the first violation ends it.
fn suite(mutant: Option<Mutant>) -> Result<Stats, String> {
    let mut stats = Stats::default();
    scenarios::two_programs(mutant)?;
    scenarios::lost_update(mutant)?;
    for unit in [4096, 512] {
        for scenario in scenarios::all() {
            let begun = Instant::now();
            let some = scenario.explore(mutant, effort(unit))?;
            if mutant.is_none() {
                println!(
                    "{unit:5} {:45} {some:?} {:?}",
                    scenario.name,
                    begun.elapsed()
                );
            }
            stats += some;
        }
    }
    scenarios::latch(mutant)?;
    scenarios::foreign(mutant)?;
    Ok(stats)
}

#[test]
fn no_crash_and_no_fault_loses_or_mixes_a_header() {
    let begun = Instant::now();
    let stats = suite(None).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} crash states, {:.0} per second; {} recoveries, {} deaths, {} faults",
        stats.states,
        stats.states as f64 / seconds,
        stats.recoveries,
        stats.deaths,
        stats.faults
    );
    assert!(stats.states > 20_000, "{stats:?}");
}

#[test]
fn every_protection_is_missed_when_it_is_removed() {
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        match suite(Some(mutant)) {
            Err(why) => println!("{mutant:?}: {why}"),
            Ok(_) => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not missed: {survivors:?}");
}
