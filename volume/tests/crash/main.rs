//! Exhaustive crash tests of the header store in the simulator.
//!
//! For every operation that writes a header: every power cut (any selection of what was not
//! flushed, torn at every physical sector), the recovery from it cut again, the death of the
//! process with the cache left behind, and the failure of every single device operation. Then the
//! tests of the tests: each barrier, check and order rule of the store is removed in turn, and
//! must be missed.

mod campaign;
mod cryptsetup;
mod scenario;
mod scenarios;
mod world;

use std::rc::Rc;
use std::time::{Duration, Instant};

use luksmith_luks2::binary::write_checksum;
use luksmith_luks2::{Change, ChecksumAlgorithm, FormatError, HeaderCopy, HeaderSize, Label};
use luksmith_volume::sim::SimDisk;
use luksmith_volume::{HeaderStore, LockMode, Mutant, RepairScope, StoreError, Wait};
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

/// Runs histories from `first` on until `enough` says so; the first that loses something ends it.
fn histories(
    first: u64,
    mutant: Option<Mutant>,
    mut enough: impl FnMut(u64) -> bool,
) -> Result<(u64, usize), String> {
    let (mut seeds, mut judged) = (0, 0);
    while !enough(seeds) {
        judged += campaign::history(first + seeds, mutant)?;
        seeds += 1;
    }
    Ok((seeds, judged))
}

/// `LUKSMITH_CAMPAIGN_SECONDS` makes it longer and starts at a seed of the clock, which is printed;
/// `LUKSMITH_CAMPAIGN_SEED` repeats one.
#[test]
fn no_history_of_changes_and_crashes_loses_a_header() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let begun = Instant::now();
    let (first, result) = match (
        number("LUKSMITH_CAMPAIGN_SEED"),
        number("LUKSMITH_CAMPAIGN_SECONDS"),
    ) {
        (Some(seed), _) => (seed, histories(seed, None, |seeds| seeds == 1)),
        (None, Some(seconds)) => {
            let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() << 20;
            let end = Duration::from_secs(seconds);
            println!("campaign of {seconds} s from seed {clock}");
            (clock, histories(clock, None, |_| begun.elapsed() > end))
        }
        (None, None) => (1, histories(1, None, |seeds| seeds == 300)),
    };
    let (seeds, judged) = result.unwrap_or_else(|lost| panic!("{lost}"));
    let rate = judged as f64 / begun.elapsed().as_secs_f64();
    println!("{seeds} histories from seed {first}, {judged} crash states, {rate:.0} per second");
}

#[test]
fn histories_miss_the_protections_whose_absence_loses_something() {
    let mut survivors = Vec::new();
    for mutant in [
        Mutant::NoStepBarrier,
        Mutant::NoBarrierBetweenCopies,
        Mutant::NoBarrierAfterCommit,
        Mutant::NoFirstBarrier,
        Mutant::NoRepairFirst,
        Mutant::WipeBeforeCommit,
        Mutant::SkipChecksum,
        Mutant::RestoreOverOldHeader,
        Mutant::RestoreHeaderFirst,
    ] {
        match histories(1, Some(mutant), |seeds| seeds == 3000) {
            Err(why) => println!("{mutant:?}: {why}"),
            Ok(_) => survivors.push(mutant),
        }
    }
    assert!(survivors.is_empty(), "not missed: {survivors:?}");
}

/// H7: a number that cannot grow is refused before anything is written.
#[test]
fn a_sequence_number_at_its_end_is_refused() {
    let (_, image) = world::formatted(1, HeaderSize::SMALLEST);
    let mut image = image.to_vec();
    for at in [0, 0x4000] {
        image[at + 16..at + 24].fill(0xff);
        write_checksum(&mut image[at..at + 0x4000], ChecksumAlgorithm::Sha256);
    }
    let image = Rc::new(image);
    let disk = SimDisk::new(Rc::clone(&image), 512, 0);
    let mut store = HeaderStore::load(disk.clone(), LockMode::Exclusive).unwrap();
    assert_eq!(store.header().seqid().0, u64::MAX);
    let refused = store.update(Wait::Fail, |header| {
        Change::edit(header, header).map_err(StoreError::from)
    });
    assert!(matches!(
        refused,
        Err(StoreError::Format(FormatError::SeqIdExhausted))
    ));
    assert!(disk.visible() == image);
}

/// H7: two good copies of one number that differ are a choice that is always the same, said
/// loudly, and changed by nobody but `repair`.
#[test]
fn copies_that_contradict_each_other_are_not_touched_before_a_repair() {
    let (known, image) = world::formatted(1, HeaderSize::SMALLEST);
    let other = known.header.with_label(Label::new("another").unwrap());
    let mut image = image.to_vec();
    image[0x4000..0x8000].copy_from_slice(&other.encode(HeaderCopy::Secondary, [1; 64]));
    let image = Rc::new(image);
    let disk = SimDisk::new(Rc::clone(&image), 512, 0);
    let mut store = HeaderStore::load(disk.clone(), LockMode::Exclusive).unwrap();
    assert_eq!(store.header(), &known.header);
    assert!(matches!(store.blocked(), Some(StoreError::Conflict)));
    let (change, _) = scenario::edit(&known);
    assert!(matches!(store.apply(change), Err(StoreError::Conflict)));
    assert!(disk.visible() == image);
    store.repair(RepairScope::Header, Wait::Fail).unwrap();
    assert!(store.needs_repair().is_none() && store.header() == &known.header);
}

/// A worn medium: one copy cannot be read. The other one opens the volume, nothing is written until
/// somebody asks for a repair, and that heals it.
#[test]
fn a_copy_that_cannot_be_read_hides_nothing_and_is_healed_only_by_a_repair() {
    for at in [0, 2048, 0x4000, 0x4000 + 5000] {
        let (known, image) = world::formatted(1, HeaderSize::SMALLEST);
        let disk = SimDisk::new(Rc::clone(&image), 512, 0);
        disk.wear_out(at);
        let mut store = HeaderStore::load(disk.clone(), LockMode::Exclusive).unwrap();
        assert_eq!(store.header(), &known.header);
        assert!(
            matches!(store.blocked(), Some(StoreError::Unreadable { .. })),
            "{at}"
        );
        let (change, _) = scenario::edit(&known);
        let refused = store.apply(change.clone()).unwrap_err();
        assert!(
            matches!(refused, StoreError::Unreadable { .. }),
            "{refused}"
        );
        assert!(!refused.disk_was_written() && disk.visible() == image);
        store.repair(RepairScope::Header, Wait::Fail).unwrap();
        assert!(store.needs_repair().is_none());
        store.apply(change).unwrap();
    }
}
