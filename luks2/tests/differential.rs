//! Whatever the cryptsetup program refuses, we refuse.
//!
//! The other direction is not asked for: in numbers, names, sizes and texts we are stricter (see `support/faults/`).

mod support;

use std::path::Path;

use support::faults::{self, Expected};
use support::mutate::{Seeded, mutate, mutate_tree};
use support::{Bench, DATA, copies, cryptsetup, resolve_image, write_image};

const LEN: u64 = DATA * 2;

/// True if cryptsetup can show the header.
fn reference_takes(bench: &Bench, image: &[u8]) -> bool {
    let path = bench.path("image");
    write_image(Path::new(&path), image, LEN);
    let output = cryptsetup(&["luksDump", &path]);
    // A program that crashes has not judged.
    assert!(
        output.status.code().is_some(),
        "cryptsetup died of a signal"
    );
    output.status.success()
}

#[test]
fn each_fault_that_cryptsetup_refuses_we_refuse_and_what_we_take_it_takes() {
    let bench = Bench::new();
    let (mut laxer, mut stricter) = (Vec::new(), Vec::new());
    for fault in faults::all() {
        let takes = reference_takes(&bench, &fault.image());
        match (takes, fault.expected == Expected::Fine) {
            (false, true) => laxer.push(fault.name),
            (true, false) => stricter.push(fault.name),
            _ => {}
        }
    }
    println!(
        "stricter than this cryptsetup in {}: {}",
        stricter.len(),
        stricter.join(" ")
    );
    assert!(
        laxer.is_empty(),
        "cryptsetup refuses what we take: {laxer:?}"
    );
}

#[test]
fn random_damage_that_cryptsetup_refuses_we_refuse() {
    let bench = Bench::new();
    let rounds = std::env::var("LUKSMITH_DIFFERENTIAL_ROUNDS")
        .ok()
        .map_or(250, |text| text.parse().expect("a number"));
    let (mut both, mut neither, mut stricter) = (0, 0, 0);
    for round in 0..rounds {
        let mut random = Seeded(0x1a2b_3c4d ^ (round as u64) << 20);
        let mut root = [support::sample(), support::reencrypting()][random.below(2)].clone();
        mutate_tree(&mut random, &mut root);
        let mut text = root.to_string().into_bytes();
        if round % 8 == 0 {
            mutate(&mut random, &mut text);
        }
        let image = copies(&text);
        let (takes, we_take) = (
            reference_takes(&bench, &image),
            resolve_image(&image, LEN).is_ok(),
        );
        match (takes, we_take) {
            (true, true) => both += 1,
            (false, false) => neither += 1,
            (true, false) => stricter += 1,
            (false, true) => panic!(
                "round {round}: cryptsetup refuses, we take {}",
                String::from_utf8_lossy(&text)
            ),
        }
    }
    println!("{rounds} rounds: both take {both}, neither {neither}, only cryptsetup {stricter}");
    assert!(
        rounds < 100 || (both > 0 && neither > 0),
        "the damage is not of both kinds"
    );
}

#[test]
fn of_two_copies_both_programs_choose_the_same() {
    let bench = Bench::new();
    let text = |label: &str| {
        let mut root = support::sample();
        root["config"]["x-label"] = label.into();
        root.to_string()
    };
    let copy = |seqid, label: &str| {
        support::copies_of(
            &support::fields(luksmith_luks2::HeaderSize::SMALLEST, seqid),
            text(label).as_bytes(),
        )
    };
    let damaged = |mut image: Vec<u8>| {
        image[5000] ^= 1;
        image[16384 + 5000] ^= 1;
        image
    };
    let gone = vec![0; 32768];
    let cases = [
        ("equal", copy(4, "a"), copy(4, "a")),
        ("primary newer", copy(5, "a"), copy(4, "b")),
        ("secondary newer", copy(4, "a"), copy(5, "b")),
        ("primary damaged", damaged(copy(5, "a")), copy(4, "b")),
        ("secondary damaged", copy(4, "a"), damaged(copy(5, "b"))),
        ("primary gone", gone.clone(), copy(4, "b")),
        ("secondary gone", copy(4, "a"), gone.clone()),
        ("both damaged", damaged(copy(4, "a")), damaged(copy(4, "a"))),
        ("both gone", gone.clone(), gone),
    ];
    for (name, first, second) in cases {
        let image = [&first[..16384], &second[16384..]].concat();
        let ours = resolve_image(&image, LEN)
            .ok()
            .map(|r| r.header.metadata().as_value()["config"]["x-label"].clone());
        let path = bench.path("image");
        write_image(Path::new(&path), &image, LEN);
        let output = cryptsetup(&["luksDump", "--dump-json-metadata", &path]);
        let theirs = output.status.success().then(|| {
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            json["config"]["x-label"].clone()
        });
        assert_eq!(ours, theirs, "{name}");
    }
}
