//! All operations that write a header, from the starting points where their order matters.

use std::path::PathBuf;
use std::rc::Rc;

use luksmith_luks2::{AreaBytes, Change, Header, HeaderSize, Label};
use luksmith_volume::sim::SimDisk;
use luksmith_volume::{HeaderStore, LockMode, Mutant, RepairScope, RestoreRules, StoreError, Wait};
use serde_json::json;

use crate::scenario::Scenario;
use crate::world::{DISK_BYTES, Known, formatted, material, new_slot, volume};

const SMALL: HeaderSize = HeaderSize::SMALLEST;

type Plan = fn(&Header) -> Result<Change, luksmith_luks2::FormatError>;

pub(crate) fn all() -> Vec<Scenario> {
    let mut all = vec![
        edit(),
        add(),
        replace(),
        remove(),
        erase(),
        format_blank(),
        format_over_another(),
        settle(),
        edit_with_owed_wipe(),
        wipe_free_room(),
        restore_over_changed(),
        restore_over_nothing(),
        restore_other_layout(),
    ];
    all.extend(edits_with_a_bad_copy());
    all.extend(repairs());
    all
}

/// A scenario of `Change`s on a volume that is whole.
fn changing(name: &'static str, plan: Plan, new: Vec<(u8, Vec<u8>)>) -> Scenario {
    let (known, start) = formatted(1, SMALL);
    let change = plan(&known.header).unwrap();
    let states = known.through(&change, &new);
    let after = states.last().unwrap();
    let gone = known
        .material
        .iter()
        .filter(|(slot, bytes)| after.material.get(slot) != Some(bytes))
        .map(|(slot, bytes)| (known.area(*slot), bytes.clone()))
        .collect();
    Scenario {
        name,
        start,
        known: states,
        may_be_none: false,
        gives_up_old: false,
        gone,
        run: Box::new(move |disk| {
            let mut store = HeaderStore::load(disk, LockMode::Exclusive)?;
            let change = plan(store.header())?;
            store.apply(change)
        }),
    }
}

fn plan_edit(header: &Header) -> Result<Change, luksmith_luks2::FormatError> {
    let token = json!({"type": "another", "keyslots": ["2"], "text": "y".repeat(300)});
    let metadata = header.metadata().with_token(7, token)?;
    let after = header
        .with_metadata(metadata)?
        .with_label(Label::new("edited")?);
    Change::edit(header, &after)
}

fn plan_add(header: &Header) -> Result<Change, luksmith_luks2::FormatError> {
    let slot = new_slot(header.metadata());
    let metadata = header.metadata().with_keyslot(3, &slot, 0)?;
    Change::add_slot(header, metadata, 3, AreaBytes::new(material(7)))
}

fn plan_replace(header: &Header) -> Result<Change, luksmith_luks2::FormatError> {
    let slot = new_slot(header.metadata());
    let metadata = header.metadata().with_keyslot_replaced(1, &slot)?;
    Change::replace_slot(header, metadata, 1, AreaBytes::new(material(8)))
}

fn plan_remove(header: &Header) -> Result<Change, luksmith_luks2::FormatError> {
    Change::remove_slots(header, &[1])
}

fn edit() -> Scenario {
    changing("edit of labels and tokens", plan_edit, Vec::new())
}

fn add() -> Scenario {
    changing("addition of a slot", plan_add, vec![(3, material(7))])
}

fn replace() -> Scenario {
    let mut scenario = changing("replacement of a slot", plan_replace, Vec::new());
    for state in scenario.known.iter_mut().skip(1) {
        state.material.insert(1, material(8));
    }
    let (old, _) = formatted(1, SMALL);
    scenario.gone = vec![(old.area(1), old.material[&1].clone())];
    scenario
}

fn remove() -> Scenario {
    changing("removal of a slot", plan_remove, Vec::new())
}

fn erase() -> Scenario {
    changing("erasure", Change::erase, Vec::new())
}

fn format_blank() -> Scenario {
    let (known, change) = volume(2, SMALL);
    formatting(
        "format of a blank disk",
        Rc::new(vec![0; DISK_BYTES]),
        vec![known],
        change,
    )
}

fn format_over_another() -> Scenario {
    let (old, start) = formatted(1, HeaderSize::new(0x8000).unwrap());
    // The old header has a higher number than the new one will have.
    let (old, start) = edited(old, start);
    let (known, change) = volume(2, SMALL);
    formatting(
        "format over another volume",
        start,
        vec![old.given_up(), known],
        change,
    )
}

fn formatting(
    name: &'static str,
    start: Rc<Vec<u8>>,
    known: Vec<Known>,
    change: Change,
) -> Scenario {
    Scenario {
        name,
        start,
        known,
        may_be_none: true,
        gives_up_old: true,
        gone: Vec::new(),
        run: Box::new(move |disk| {
            HeaderStore::format(disk, change.clone(), Wait::Fail).map(|_| ())
        }),
    }
}

/// The volume after a removal whose process died between the first commit and the wipe.
fn owing() -> (Known, Rc<Vec<u8>>, (luksmith_luks2::Area, Vec<u8>)) {
    let (known, start) = formatted(1, SMALL);
    let change = plan_remove(&known.header).unwrap();
    let between = known.through(&change, &[])[1].clone();
    let image = with_both_copies(&start, &between.header);
    let gone = (known.area(1), known.material[&1].clone());
    (between, image, gone)
}

fn settle() -> Scenario {
    let (known, start, gone) = owing();
    let change = Change::settle(&known.header).unwrap().unwrap();
    Scenario {
        name: "repair that pays an owed wipe",
        start,
        known: known.through(&change, &[]),
        may_be_none: false,
        gives_up_old: false,
        gone: vec![gone],
        run: Box::new(|disk| {
            HeaderStore::load(disk, LockMode::Exclusive)?
                .repair(RepairScope::Header, Wait::Fail)
                .map(|_| ())
        }),
    }
}

fn edit_with_owed_wipe() -> Scenario {
    let (known, start, gone) = owing();
    let change = plan_edit(&known.header).unwrap();
    let mut scenario = changing("edit that pays an owed wipe", plan_edit, Vec::new());
    scenario.start = start;
    scenario.known = known.through(&change, &[]);
    scenario.gone = vec![gone];
    scenario
}

fn wipe_free_room() -> Scenario {
    let (known, start) = formatted(1, SMALL);
    // What an addition left whose commit never came.
    let free = new_slot(known.header.metadata()).area;
    let leftover = material(9);
    let mut image = start.to_vec();
    let at = free.offset as usize;
    image[at..at + leftover.len()].copy_from_slice(&leftover);
    let change = Change::wipe_free_room(&known.header).unwrap();
    Scenario {
        name: "wipe of free room",
        start: Rc::new(image),
        known: known.through(&change, &[]),
        may_be_none: false,
        gives_up_old: false,
        gone: vec![(free, leftover)],
        run: Box::new(|disk| {
            HeaderStore::load(disk, LockMode::Exclusive)?
                .repair(RepairScope::HeaderAndFreeRoom, Wait::Fail)
                .map(|_| ())
        }),
    }
}

/// Changes that begin with one copy stale or damaged: it must be whole before the other is touched.
fn edits_with_a_bad_copy() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (name, stale, at) in [
        ("edit with a damaged primary", false, 0),
        ("edit with a damaged secondary", false, 0x4000),
        ("edit with a stale primary", true, 0),
        ("edit with a stale secondary", true, 0x4000),
    ] {
        let (old, before) = formatted(1, SMALL);
        let (known, now) = edited(old, Rc::clone(&before));
        let mut image = now.to_vec();
        if stale {
            image[at..at + 0x4000].copy_from_slice(&before[at..at + 0x4000]);
        } else {
            image[at + 4100] ^= 0x40;
        }
        let change = plan_edit(&known.header).unwrap();
        let mut states = known.through(&change, &[]);
        if stale {
            // Still on the disk, but never to come back into force.
            let (old, _) = formatted(1, SMALL);
            states.insert(0, old);
        }
        all.push(Scenario {
            name,
            start: Rc::new(image),
            known: states,
            may_be_none: false,
            gives_up_old: false,
            gone: Vec::new(),
            // Without the repair of loading, so that the one of applying is what counts.
            run: Box::new(|disk| {
                let mut store = HeaderStore::load(disk, LockMode::Shared)?;
                let change = plan_edit(store.header())?;
                store.apply(change)
            }),
        });
    }
    all
}

fn repairs() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (name, at) in [
        ("repair of the primary", 0),
        ("repair of the secondary", 0x4000),
    ] {
        let (known, start) = formatted(1, SMALL);
        let mut image = start.to_vec();
        image[at..at + 0x4000].fill(0);
        // Something else was written there; only `repair` may go over it.
        image[at + 1024 + 0x38..at + 1024 + 0x3a].copy_from_slice(b"\x53\xef");
        all.push(Scenario {
            name,
            start: Rc::new(image),
            known: vec![known],
            may_be_none: false,
            gives_up_old: false,
            gone: Vec::new(),
            run: Box::new(|disk| {
                HeaderStore::load(disk, LockMode::Shared)?
                    .repair(RepairScope::Header, Wait::Fail)
                    .map(|_| ())
            }),
        });
    }
    all
}

/// A backup file of the volume with this seed, and the volume.
fn backup() -> (Known, Rc<Vec<u8>>, PathBuf, Rc<tempfile::TempDir>) {
    let (known, start) = formatted(1, SMALL);
    let dir = Rc::new(tempfile::tempdir().unwrap());
    let path = dir.path().join("backup");
    let disk = SimDisk::new(Rc::clone(&start), 512, 0);
    HeaderStore::load(disk, LockMode::Shared)
        .unwrap()
        .backup_to(&path, Wait::Fail)
        .unwrap();
    (known, start, path, dir)
}

fn restoring(
    name: &'static str,
    start: Rc<Vec<u8>>,
    known: Vec<Known>,
    rules: RestoreRules,
    (path, dir): (PathBuf, Rc<tempfile::TempDir>),
) -> Scenario {
    Scenario {
        name,
        start,
        known,
        may_be_none: true,
        gives_up_old: true,
        gone: Vec::new(),
        run: Box::new(move |disk| {
            let _kept = &dir;
            HeaderStore::restore(disk, &path, rules, Wait::Fail).map(|_| ())
        }),
    }
}

fn restore_over_changed() -> Scenario {
    let (known, start, path, dir) = backup();
    // Since the backup slot 1 was removed and slot 3 added: most areas differ.
    let disk = SimDisk::new(start, 512, 3);
    let mut store = HeaderStore::load(disk.clone(), LockMode::Exclusive).unwrap();
    let removal = plan_remove(store.header()).unwrap();
    let mut now = known.through(&removal, &[]).pop().unwrap();
    store.apply(removal).unwrap();
    let addition = plan_add(store.header()).unwrap();
    now = now.through(&addition, &[(3, material(7))]).pop().unwrap();
    store.apply(addition).unwrap();
    let rules = RestoreRules::default();
    restoring(
        "restore over a changed header",
        disk.visible(),
        vec![now, known],
        rules,
        (path, dir),
    )
}

fn restore_over_nothing() -> Scenario {
    let (known, _, path, dir) = backup();
    let mut image = vec![0; DISK_BYTES];
    luksmith_volume::sim::Rng::new(4).fill(&mut image);
    let rules = RestoreRules {
        onto_no_header: true,
        ..RestoreRules::default()
    };
    restoring(
        "restore onto a disk without header",
        Rc::new(image),
        vec![known],
        rules,
        (path, dir),
    )
}

fn restore_other_layout() -> Scenario {
    let (known, _, path, dir) = backup();
    let (old, start) = formatted(5, HeaderSize::new(0x8000).unwrap());
    let (old, start) = edited(old, start);
    let rules = RestoreRules {
        other_uuid: true,
        other_layout: true,
        ..RestoreRules::default()
    };
    restoring(
        "restore over another volume of another layout",
        start,
        vec![old, known],
        rules,
        (path, dir),
    )
}

/// After some edits, so that numbers are above those of a new header.
fn edited(known: Known, image: Rc<Vec<u8>>) -> (Known, Rc<Vec<u8>>) {
    let disk = SimDisk::new(image, 512, 11);
    let mut store = HeaderStore::load(disk.clone(), LockMode::Exclusive).unwrap();
    let mut known = known;
    for round in 0..3 {
        let label = Label::new(&format!("round {round}")).unwrap();
        let after = store.header().with_label(label);
        let change = Change::edit(store.header(), &after).unwrap();
        known = known.through(&change, &[]).pop().unwrap();
        store.apply(change).unwrap();
    }
    (known, disk.visible())
}

fn with_both_copies(image: &[u8], header: &Header) -> Rc<Vec<u8>> {
    use luksmith_luks2::HeaderCopy;
    let mut image = image.to_vec();
    for (copy, salt) in [(HeaderCopy::Primary, 1), (HeaderCopy::Secondary, 2)] {
        let bytes = header.encode(copy, [salt; 64]);
        let at = copy.offset(header.size()) as usize;
        image[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    Rc::new(image)
}

/// H9: two programs at once, one of them coming in at each operation of the other.
pub(crate) fn two_programs(mutant: Option<Mutant>) -> Result<(), String> {
    let (_, start) = formatted(1, SMALL);
    let token = |number: u8, disk: SimDisk| -> Result<(), StoreError> {
        let mut store = HeaderStore::load(disk, LockMode::Exclusive)?;
        let token = json!({"type": "mine", "keyslots": [], "number": number});
        let metadata = store.header().metadata().with_token(number, token)?;
        let after = store.header().with_metadata(metadata)?;
        store.apply(Change::edit(store.header(), &after)?)
    };
    let probe = SimDisk::new(Rc::clone(&start), 512, 0).without(mutant);
    token(10, probe.clone()).map_err(|e| e.to_string())?;
    for at in 0..probe.ops().len() {
        let disk = SimDisk::new(Rc::clone(&start), 512, 0).without(mutant);
        let other = disk.clone();
        let answer = Rc::new(std::cell::RefCell::new(None));
        let told = Rc::clone(&answer);
        disk.on_each_op(move |number| {
            if number == at && told.borrow().is_none() {
                let before = other.visible();
                let result = token(11, other.clone());
                let untouched = before == other.visible();
                *told.borrow_mut() = Some((result, untouched));
            }
        });
        let first = token(10, disk.clone());
        let (second, untouched) = answer.borrow_mut().take().ok_or("the other never ran")?;
        if let Err(StoreError::Lock(_)) = &second
            && !untouched
        {
            return Err("it was kept out and wrote all the same".into());
        }
        let last = HeaderStore::load(disk, LockMode::Shared).map_err(|e| e.to_string())?;
        let tokens = last.header().metadata().tokens();
        for (number, result) in [(10, &first), (11, &second)] {
            if result.is_ok() != tokens.contains_key(&number) {
                return Err(format!(
                    "two programs, at operation {at}: token {number} was answered {result:?}, \
                     the header says otherwise"
                ));
            }
        }
        if last.needs_repair().is_some() {
            return Err(format!(
                "two programs, at operation {at}: the copies differ"
            ));
        }
    }
    Ok(())
}

/// H9: what somebody else changed since a program read the header is not overwritten.
pub(crate) fn lost_update(mutant: Option<Mutant>) -> Result<(), String> {
    let (known, start) = formatted(1, SMALL);
    let disk = SimDisk::new(start, 512, 0).without(mutant);
    let mut slow = HeaderStore::load(disk.clone(), LockMode::Shared).map_err(|e| e.to_string())?;
    let mut fast = HeaderStore::load(disk.clone(), LockMode::Shared).map_err(|e| e.to_string())?;
    fast.apply(plan_add(&known.header).unwrap())
        .map_err(|e| e.to_string())?;
    let before = disk.visible();
    let late = slow.apply(plan_edit(&known.header).unwrap());
    if late.is_ok() || disk.visible() != before {
        return Err("a change made for an older header was carried out".into());
    }
    Ok(())
}

/// After a failed write or flush a store does not touch the device again.
pub(crate) fn latch(mutant: Option<Mutant>) -> Result<(), String> {
    let (known, start) = formatted(1, SMALL);
    let clean = SimDisk::new(Rc::clone(&start), 512, 0).without(mutant);
    let mut store =
        HeaderStore::load(clean.clone(), LockMode::Exclusive).map_err(|e| e.to_string())?;
    store
        .apply(plan_add(&known.header).unwrap())
        .map_err(|e| e.to_string())?;
    for (number, op) in clean.ops().iter().enumerate() {
        if matches!(op, luksmith_volume::sim::Op::Read(_)) {
            continue;
        }
        let disk = SimDisk::new(Rc::clone(&start), 512, 0).without(mutant);
        disk.fail(number, luksmith_volume::sim::Fault::Error);
        let mut store =
            HeaderStore::load(disk.clone(), LockMode::Exclusive).map_err(|e| e.to_string())?;
        let first = store.apply(plan_add(&known.header).unwrap());
        let ops = disk.ops().len();
        let second = store.apply(plan_add(&known.header).unwrap());
        if first.is_ok() || !matches!(second, Err(StoreError::Latched)) || disk.ops().len() != ops {
            return Err(format!(
                "operation {number} failed, and the store went on: {second:?}"
            ));
        }
    }
    Ok(())
}

/// A file system over the primary is not repaired away, by reading, by loading for a change, or by
/// a change.
pub(crate) fn foreign(mutant: Option<Mutant>) -> Result<(), String> {
    let (known, start) = formatted(1, SMALL);
    let mut image = start.to_vec();
    image[..4096].fill(0);
    image[1024 + 0x38..1024 + 0x3a].copy_from_slice(b"\x53\xef");
    let image = Rc::new(image);
    let disk = SimDisk::new(Rc::clone(&image), 512, 0).without(mutant);
    let mut store =
        HeaderStore::load(disk.clone(), LockMode::Exclusive).map_err(|e| e.to_string())?;
    let refused = store.apply(plan_edit(&known.header).unwrap());
    if disk.visible() != image || !matches!(refused, Err(StoreError::Foreign(_))) {
        return Err(format!(
            "a primary under a file system was written: {refused:?}"
        ));
    }
    Ok(())
}
