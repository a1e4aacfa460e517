//! Slots that go, and the order in which the others are tried.

use luksmith_luks2::{Change, Header, Priority};

use crate::error::PlanError;
use crate::policy::{LastSlot, may_change, usable_slots};
use crate::unlock::opens_data;

/// Plans the removal of a slot: out of the header, digests and tokens, and its area overwritten.
///
/// # Errors
/// [`PlanError::LastSlot`] if the slot opens the data and no other does, unless
/// [`LastSlot::Allow`] is said; unbound slots and slots of priority `ignore` do not count as
/// others. [`PlanError::NoSuchSlot`]; a reencryption under way.
pub fn remove(header: &Header, slot: u8, last: LastSlot) -> Result<Change, PlanError> {
    let metadata = header.metadata();
    may_change(metadata)?;
    metadata.keyslot(slot).ok_or(PlanError::NoSuchSlot(slot))?;
    let others = usable_slots(metadata)
        .into_iter()
        .any(|other| other != slot);
    if last == LastSlot::Refuse && opens_data(metadata, slot) && !others {
        return Err(PlanError::LastSlot(slot));
    }
    Ok(Change::remove_slots(header, &[slot])?)
}

/// Plans the removal of several slots, and of the tokens that lead to them and to no other, in one
/// commit.
///
/// # Errors
/// As [`remove`]; [`PlanError::LastSlot`] if none that opens the data would be left.
pub fn remove_all_of(header: &Header, slots: &[u8], last: LastSlot) -> Result<Change, PlanError> {
    let metadata = header.metadata();
    may_change(metadata)?;
    for slot in slots {
        metadata
            .keyslot(*slot)
            .ok_or(PlanError::NoSuchSlot(*slot))?;
    }
    let left = usable_slots(metadata)
        .into_iter()
        .any(|other| !slots.contains(&other));
    let data = slots.iter().find(|slot| opens_data(metadata, **slot));
    if let (LastSlot::Refuse, Some(slot), false) = (last, data, left) {
        return Err(PlanError::LastSlot(*slot));
    }
    let tokens: Vec<u8> = metadata
        .tokens()
        .iter()
        .filter(|(_, token)| {
            let all_go = token.keyslots.iter().all(|slot| slots.contains(slot));
            !token.keyslots.is_empty() && all_go
        })
        .map(|(number, _)| *number)
        .collect();
    Ok(Change::remove_slots_and_tokens(header, slots, &tokens)?)
}

/// Plans the end of all slots: the header stays, nothing opens the data any more.
///
/// # Errors
/// An unknown requirement. A reencryption under way does not stop it: who erases wants the data
/// gone.
pub fn erase(header: &Header) -> Result<Change, PlanError> {
    if let Some(name) = header.metadata().requirements().unknown.first() {
        return Err(PlanError::Requirement(name.clone()));
    }
    Ok(Change::erase(header)?)
}

/// Plans another priority for a slot.
///
/// # Errors
/// [`PlanError::NoSuchSlot`]; the slot holds no key.
pub fn set_priority(header: &Header, slot: u8, priority: Priority) -> Result<Change, PlanError> {
    let metadata = header.metadata();
    may_change(metadata)?;
    metadata.keyslot(slot).ok_or(PlanError::NoSuchSlot(slot))?;
    let after = header.with_metadata(metadata.with_priority(slot, priority)?)?;
    Ok(Change::edit(header, &after)?)
}
