//! Any sequence of changes, against a model that is a map.

use std::collections::BTreeMap;

use luksmith_crypto::VolumeKey;
use luksmith_keyslot::{
    DigestCost, LastSlot, PlanError, Target, Which, add, add_unbound, change, remove, set_priority,
    usable_slots,
};
use luksmith_luks2::{FormatError, Priority};
use proptest::prelude::*;

use crate::disk::{Disk, pass, slot};

/// What the model knows of a slot.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    secret: String,
    priority: Priority,
    unbound: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    AddUnbound(u8),
    Change(u8),
    Remove(u8),
    Prioritise(u8, Priority),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0..6_u8;
    let priority = prop_oneof![
        Just(Priority::Ignore),
        Just(Priority::Normal),
        Just(Priority::Prefer)
    ];
    let step = prop_oneof![
        3 => number.clone().prop_map(Step::Add),
        1 => number.clone().prop_map(Step::AddUnbound),
        2 => number.clone().prop_map(Step::Change),
        3 => number.clone().prop_map(Step::Remove),
        2 => (number, priority).prop_map(|(number, priority)| Step::Prioritise(number, priority)),
    ];
    prop::collection::vec(step, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slots_open_as_a_map_says_after_any_sequence_of_changes(steps in steps()) {
        let mut disk = Disk::formatted("secret 0");
        let key = disk.open("secret 0").unwrap().key;
        let unbound = VolumeKey::generate(21).unwrap();
        let first =
            Known { secret: "secret 0".into(), priority: Priority::Normal, unbound: false };
        let mut model = BTreeMap::from([(0, first)]);
        for (count, step) in steps.iter().enumerate() {
            let text = format!("secret {}", count + 1);
            apply(&mut disk, &mut model, step, &text, &key, &unbound)?;
            check(&disk, &model, &key, &unbound)?;
        }
    }
}

fn apply(
    disk: &mut Disk,
    model: &mut BTreeMap<u8, Known>,
    step: &Step,
    text: &str,
    key: &VolumeKey,
    unbound: &VolumeKey,
) -> Result<(), TestCaseError> {
    let secret = pass(text);
    let in_use = |number: &u8| model.contains_key(number);
    let planned = match step {
        Step::Add(number) => {
            let mut new = slot(&secret);
            new.slot = Some(*number);
            add(&disk.header, key, &new).map(|added| added.change)
        }
        Step::AddUnbound(number) => {
            let mut new = slot(&secret);
            new.slot = Some(*number);
            add_unbound(&disk.header, unbound, &new, DigestCost::Auto).map(|added| added.change)
        }
        Step::Change(number) => {
            let held = if model.get(number).is_some_and(|known| known.unbound) {
                unbound
            } else {
                key
            };
            change(&disk.header, *number, held, &slot(&secret))
        }
        Step::Remove(number) => remove(&disk.header, *number, LastSlot::Refuse),
        Step::Prioritise(number, priority) => set_priority(&disk.header, *number, *priority),
    };
    let planned = match planned {
        Ok(planned) => planned,
        Err(error) => {
            let expected = match (&error, step) {
                (PlanError::SlotInUse(n), Step::Add(number) | Step::AddUnbound(number)) => {
                    n == number && in_use(number)
                }
                (
                    PlanError::NoSuchSlot(n),
                    Step::Change(number) | Step::Remove(number) | Step::Prioritise(number, _),
                ) => n == number && !in_use(number),
                (PlanError::LastSlot(_), Step::Remove(number)) => {
                    !model[number].unbound
                        && !model.iter().any(|(other, known)| {
                            other != number && !known.unbound && known.priority != Priority::Ignore
                        })
                }
                // 2 MiB hold seven areas: six slots and one to change into.
                (PlanError::Format(FormatError::NoRoom { .. }), _) => model.len() >= 6,
                _ => false,
            };
            prop_assert!(expected, "{step:?}: {error:?}, {model:?}");
            return Ok(());
        }
    };
    disk.apply(&planned);
    let known = |unbound| Known {
        secret: text.to_owned(),
        priority: Priority::Normal,
        unbound,
    };
    match step {
        Step::Add(number) => drop(model.insert(*number, known(false))),
        Step::AddUnbound(number) => drop(model.insert(*number, known(true))),
        Step::Change(number) => text.clone_into(&mut model.get_mut(number).unwrap().secret),
        Step::Remove(number) => drop(model.remove(number)),
        Step::Prioritise(number, priority) => model.get_mut(number).unwrap().priority = *priority,
    }
    Ok(())
}

fn check(
    disk: &Disk,
    model: &BTreeMap<u8, Known>,
    key: &VolumeKey,
    unbound: &VolumeKey,
) -> Result<(), TestCaseError> {
    let numbers: Vec<_> = disk.metadata().keyslots().keys().copied().collect();
    prop_assert_eq!(numbers, model.keys().copied().collect::<Vec<_>>());
    let usable: Vec<_> = model
        .iter()
        .filter(|(_, known)| !known.unbound && known.priority != Priority::Ignore)
        .map(|(number, _)| *number)
        .collect();
    prop_assert_eq!(usable_slots(disk.metadata()), usable);
    for (number, known) in model {
        let opened = disk
            .open_as(&known.secret, Which::Only(*number), Target::AnyKey)
            .unwrap();
        let expected = if known.unbound { unbound } else { key };
        prop_assert!(opened.key.as_secret().ct_eq(expected.as_secret()));
        let found = disk.open(&known.secret).ok().and_then(|opened| opened.slot);
        let visible = !known.unbound && known.priority != Priority::Ignore;
        prop_assert_eq!(found, visible.then_some(*number));
    }
    Ok(())
}
