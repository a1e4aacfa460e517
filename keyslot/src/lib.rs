//! What opens a volume, and how that may change: keyslots, unlock order, format.
//!
//! The crate does no I/O. It takes a [`Header`](luksmith_luks2::Header) that was parsed and
//! validated, bytes of key areas that somebody else read, and secrets in their own locked memory;
//! it gives back a [`VolumeKey`](luksmith_crypto::VolumeKey), or a
//! [`Change`](luksmith_luks2::Change) that `luksmith-volume` carries out in the order written in
//! it. So every rule below is tested without a device.
//!
//! # The way of one unlock
//!
//! ```text
//! HeaderStore::load          (luksmith-volume: lock, both copies, the newest valid one)
//!   → unlock                 which slots, in which order, one report line per try
//!     → open_slot            one slot: cost caps → KDF → decrypt area → AF merge → digest
//!       → VolumeKey::verified   (luksmith-crypto: nothing is a volume key before its digest fits)
//! ```
//!
//! * **[`unlock()`]** walks the slots: `prefer` first, then `normal`; `ignore` only when named.
//! * **[`unlock_by_tokens`]** does the same for tokens, through the trait [`TokenUnlock`].
//! * **[`verify_volume_key`]** takes the volume key itself (`--volume-key-file`).
//! * **[`open_slot`]** is one try; every other way ends here.
//!
//! # The way of one change
//!
//! | verb | function | order on the disk |
//! |---|---|---|
//! | add a key | [`add()`], [`add_with`], [`add_unbound`], [`plan_recovery`] | key area, barrier, header |
//! | new passphrase or new KDF for a slot | [`change()`] | new key area, barrier, header, wipe of the old area |
//! | remove slots | [`remove()`], [`remove_all_of`] | header without the slot, wipe of its area |
//! | remove all | [`erase`] | the same for every slot |
//! | priority | [`set_priority`] | header |
//! | new volume | [`plan_format`] | wipe, key area, barrier, header |
//! | a MAC over the header | [`header_mac::bless`], [`header_mac::keep_blessed`] for every other change | header |
//!
//! The order itself is not written here: the constructors of `Change` enforce it, once for all
//! callers.
//!
//! # What is refused
//!
//! * A null or ECB cipher in a key area *or* in a data segment, unless the caller says
//!   [`AllowNull::Yes`](luksmith_crypto::AllowNull): a header is written by whoever had the disk
//!   in hand, and a null cipher is how he makes a machine "encrypt" in the clear.
//! * KDF costs of the header above the caller's caps, before a byte is allocated for them.
//! * A header with a requirement that we do not know; a change while a reencryption is under way.
//! * Removing the last slot that opens the data, unless [`LastSlot::Allow`] is said.

mod add;
mod change;
mod cipher_name;
mod error;
mod format;
pub mod header_mac;
mod open;
mod policy;
mod recovery;
mod remove;
mod seal;
mod token;
mod unlock;

pub use add::{Added, NewSlot, add, add_unbound, add_with};
pub use change::change;
pub use error::{PlanError, SlotError, UnlockError, UnlockErrorKind};
pub use format::{
    DeviceFacts, FormatPlan, FormatRequest, KeySource, Placement, SectorSizeChoice, plan_format,
};
pub use open::{Unlocked, area_bytes, open_slot, verify_volume_key};
pub use policy::{Calibration, DigestCost, KdfChoice, LastSlot, OpenLimits, usable_slots};
pub use recovery::{
    RECOVERY_KIND, as_recovery_key, has_recovery_key, new_recovery_key, plan_recovery,
};
pub use remove::{erase, remove, remove_all_of, set_priority};
pub use token::{PinRequest, TokenError, TokenUnlock, tokens_to_try, unlock_by_tokens};
pub use unlock::{
    Attempt, Outcome, ReadArea, ReadError, Target, Tried, Which, slots_to_try, unlock,
};
