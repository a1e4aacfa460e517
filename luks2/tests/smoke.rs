//! The fuzzing entry functions on seeded input, so that every test run exercises them.
//!
//! `LUKSMITH_FUZZ_SEED` and `LUKSMITH_FUZZ_ROUNDS` choose other input; both are printed when something breaks.

mod entries;
mod support;

use std::sync::LazyLock;

use support::faults;
use support::mutate::{Seeded, mutate, mutate_tree};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect("a number"))
}

/// Runs `entry` on inputs that `make` yields, and says which one broke it.
fn run(entry: fn(&[u8]), mut make: impl FnMut(&mut Seeded) -> Vec<u8>) {
    let seed = number("LUKSMITH_FUZZ_SEED", 20_261_121);
    for round in 0..number("LUKSMITH_FUZZ_ROUNDS", 3000) {
        let mut random = Seeded(seed ^ round.wrapping_mul(0xd134_2543_de82_ef95));
        let input = make(&mut random);
        let outcome = std::panic::catch_unwind(|| entry(&input));
        assert!(
            outcome.is_ok(),
            "seed {seed}, round {round}, input {}",
            String::from_utf8_lossy(&input)
        );
    }
}

fn text(random: &mut Seeded) -> Vec<u8> {
    static FAULTS: LazyLock<Vec<faults::Fault>> = LazyLock::new(faults::all);
    let mut text = FAULTS[random.below(FAULTS.len())].text.clone();
    if random.below(2) == 0
        && let Ok(mut root) = serde_json::from_slice(&text)
    {
        mutate_tree(random, &mut root);
        return root.to_string().into_bytes();
    }
    mutate(random, &mut text);
    text
}

#[test]
fn any_text_is_refused_or_comes_back_the_same() {
    for fault in faults::all() {
        entries::json(&fault.text);
    }
    run(entries::json, text);
}

#[test]
fn any_two_texts_resolve_or_are_refused() {
    run(entries::texts, |random| {
        let mut input = Vec::new();
        for _ in 0..2 {
            let seqid = [0, 1, 2, u64::MAX, u64::MAX - 1, random.next()][random.below(6)];
            input.extend(seqid.to_be_bytes());
        }
        input.extend(text(random));
        input.push(0);
        input.extend(text(random));
        input
    });
}

#[test]
fn any_image_resolves_or_is_refused() {
    let good = support::copies(support::sample().to_string().as_bytes());
    entries::pair(&good);
    run(entries::image, |random| {
        let mut input = vec![random.next().to_le_bytes()[0]];
        input.extend(&good);
        for _ in 0..random.below(8) {
            let at = [
                random.below(input.len()),
                random.below(600),
                16384 + random.below(600),
                4096 + random.below(2500),
            ][random.below(4)];
            input[at] = random.next().to_le_bytes()[0];
        }
        input
    });
    run(entries::pair, |random| {
        let mut input = good.clone();
        for _ in 0..random.below(6) {
            let at = [random.below(512), 16384 + random.below(512)][random.below(2)];
            input[at] ^= 1 << random.below(8);
        }
        input.truncate([input.len(), 16384, 4096, random.below(40000)][random.below(4)]);
        input
    });
}
