//! The same crash states, read by the real cryptsetup program: it must open with the passphrases of
//! the old or of the new state, as our own reader says, and with nothing else.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

use luksmith_luks2::{AreaBytes, Change, Label, Metadata};
use luksmith_volume::sim::{Rng, SimDisk};
use luksmith_volume::{HeaderStore, LockMode, StoreError};

const PASSPHRASES: [&str; 3] = ["first", "second", "third"];

fn cryptsetup(dir: &Path, args: &[&str]) -> bool {
    let out = Command::new("cryptsetup")
        .current_dir(dir)
        .arg("--batch-mode")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the cryptsetup program is needed");
    out.status.success()
}

/// A detached header that cryptsetup made, with the first two passphrases, and the same one with
/// the third added, from which an addition takes its key material.
fn images(dir: &Path) -> (Vec<u8>, Vec<u8>) {
    const QUICK: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    for name in PASSPHRASES {
        std::fs::write(dir.join(name), name).unwrap();
    }
    for (name, bytes) in [("header", 1 << 20), ("data", 1 << 20)] {
        std::fs::File::create(dir.join(name))
            .unwrap()
            .set_len(bytes)
            .unwrap();
    }
    let mut args = vec![
        "luksFormat",
        "--type",
        "luks2",
        "--key-size",
        "256",
        "--header",
        "header",
    ];
    args.extend(["--luks2-keyslots-size", "512k", "data", "first"]);
    args.extend(QUICK);
    assert!(cryptsetup(dir, &args));
    let add = |key| {
        let mut args = vec!["luksAddKey", "--key-file", "first", "header", key];
        args.extend(QUICK);
        assert!(cryptsetup(dir, &args), "{key}");
        std::fs::read(dir.join("header")).unwrap()
    };
    (add("second"), add("third"))
}

/// Which passphrases cryptsetup takes; it also repairs what it finds, so it gets a copy of its own.
fn opened_by_cryptsetup(dir: &Path, image: &[u8]) -> Vec<&'static str> {
    let path: PathBuf = dir.join("crashed");
    std::fs::write(&path, image).unwrap();
    let opens = |key: &&str| {
        cryptsetup(
            dir,
            &["open", "--test-passphrase", "--key-file", key, "crashed"],
        )
    };
    PASSPHRASES.into_iter().filter(opens).collect()
}

#[test]
fn cryptsetup_opens_the_old_or_the_new_state_after_any_crash() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (two, three) = images(dir);
    let third = {
        let disk = SimDisk::new(Rc::new(three), 512, 0);
        HeaderStore::load(disk, LockMode::Shared).unwrap()
    };
    let area = third.header().metadata().keyslot(2).unwrap().area();
    let bytes = third.read_area(area.offset, area.size).unwrap();
    let metadata: Metadata = third.header().metadata().clone();
    type Plan<'a> = Box<dyn Fn(&luksmith_luks2::Header) -> Result<Change, StoreError> + 'a>;
    let operations: [(&str, &[&str], &[&str], Plan<'_>); 3] = [
        (
            "addition",
            &["first", "second"],
            &["first", "second", "third"],
            Box::new(|header| {
                let bytes = AreaBytes::new(bytes.clone());
                Ok(Change::add_slot(header, metadata.clone(), 2, bytes)?)
            }),
        ),
        (
            "removal",
            &["first", "second"],
            &["first"],
            Box::new(|header| Ok(Change::remove_slots(header, &[1])?)),
        ),
        (
            "edit",
            &["first", "second"],
            &["first", "second"],
            Box::new(|header| {
                let label = Label::new("edited")?;
                Ok(Change::edit(header, &header.with_label(label))?)
            }),
        ),
    ];
    let mut rng = Rng::new(1);
    let mut compared = 0;
    for (name, old, new, plan) in operations {
        let mut seen = std::collections::HashSet::new();
        for unit in [512, 4096] {
            let disk = SimDisk::new(Rc::new(two.clone()), unit, 1);
            disk.record();
            let mut store = HeaderStore::load(disk.clone(), LockMode::Exclusive).unwrap();
            let change = plan(store.header()).unwrap();
            store.apply(change).unwrap();
            let cuts = disk.power_cuts();
            let last = cuts.len() - 1;
            for (number, cut) in cuts.iter().enumerate() {
                let mut states = Vec::new();
                cut.power_cuts(64, &mut rng, |image| states.push(Rc::clone(image)));
                // Starting a program takes a while: a few states of each moment.
                for _ in 0..3.min(states.len()) {
                    let image = states.swap_remove(rng.below(states.len()));
                    let ours = HeaderStore::load(
                        SimDisk::new(Rc::clone(&image), unit, 1).for_reading(),
                        LockMode::Shared,
                    )
                    .unwrap();
                    let slots = ours.header().metadata().keyslots().len();
                    let theirs = opened_by_cryptsetup(dir, &image);
                    let expected = if slots == new.len() { new } else { old };
                    assert_eq!(slots, expected.len(), "{name}, moment {number}");
                    assert_eq!(
                        theirs, expected,
                        "{name}, moment {number}, {unit} byte sectors"
                    );
                    if number == last {
                        assert_eq!(theirs, new, "{name}, acknowledged");
                    }
                    seen.insert(theirs);
                    compared += 1;
                }
            }
        }
        if old != new {
            assert_eq!(seen.len(), 2, "{name}: only one of the two states was met");
        }
    }
    println!("{compared} crash states read by cryptsetup");
}
