//! Another passphrase, or another KDF, for a slot that stays where it is.

use luksmith_crypto::VolumeKey;
use luksmith_luks2::{AreaBytes, Change, Header};

use crate::add::{NewSlot, prepare};
use crate::error::PlanError;
use crate::open::digest_of_key;
use crate::policy::{OpenLimits, may_change};

/// Plans new material for slot `slot`, which holds `key` (`luksChangeKey`, `luksConvertKey`).
///
/// Number, digest, tokens and priority of the slot stay; `new.slot` and `new.priority` are not
/// looked at. The caller opened this very slot before, so `key` is what it holds; that it is a
/// key of the slot's digest is checked again.
///
/// The order, enforced by [`Change::replace_slot`]:
///
/// 1. new material into free room of the keyslots area, durable — else a crash after 2 would
///    leave a slot whose material is missing;
/// 2. the header names the new area in the place of the old, durable in both copies — from here
///    on the new passphrase opens and the old does not, and at no moment neither does;
/// 3. the old area is overwritten — else the old passphrase would still open an old copy of the
///    header.
///
/// The reference needs a free slot number for this order and overwrites in place when there is
/// none; here only free room is needed, and without room nothing is done.
///
/// # Errors
/// [`PlanError::NoSuchSlot`], [`PlanError::ForeignKey`] if the slot holds another key, no room, a
/// reencryption under way.
pub fn change(
    header: &Header,
    slot: u8,
    key: &VolumeKey,
    new: &NewSlot<'_>,
) -> Result<Change, PlanError> {
    let metadata = header.metadata();
    may_change(metadata)?;
    let old = metadata.keyslot(slot).ok_or(PlanError::NoSuchSlot(slot))?;
    let (digest, _) = metadata
        .digest_of_keyslot(slot)
        .ok_or(PlanError::NotAKey(slot))?;
    let fits = digest_of_key(metadata, key.as_secret(), &OpenLimits::own_key())?;
    if fits.is_none_or(|(number, _)| number != digest) {
        return Err(PlanError::ForeignKey);
    }
    let (mut keyslot, sealed) = prepare(metadata, key, new)?;
    keyslot.priority = old.priority;
    let after = metadata.with_keyslot_replaced(slot, &keyslot)?;
    Ok(Change::replace_slot(
        header,
        after,
        slot,
        AreaBytes::new(sealed.area),
    )?)
}
