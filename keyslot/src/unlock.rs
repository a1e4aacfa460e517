//! Which slots are tried, in which order, and what became of each.

use std::error::Error;

use luksmith_crypto::Passphrase;
use luksmith_luks2::{Area, Header, Metadata, Priority};

use crate::error::{SlotError, UnlockError, UnlockErrorKind};
use crate::open::{Unlocked, area_bytes, check_slot, may_open, open_slot};
use crate::policy::OpenLimits;
use crate::token::TokenError;

/// Which slots (or tokens) may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All by priority; those of priority `ignore` are left out.
    ByPriority,
    /// This one and no other, whatever its priority.
    Only(u8),
}

/// What the key is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The data: only slots whose key opens the default segment.
    Data,
    /// Any key, also that of an unbound slot.
    AnyKey,
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// A keyslot with the passphrase.
    Slot(u8),
    /// A token.
    Token(u8),
    /// A keyslot with the secret that a token gave.
    SlotByToken {
        /// Number of the token.
        token: u8,
        /// Number of the slot.
        slot: u8,
    },
}

/// How a try ended.
#[derive(Debug)]
pub enum Outcome {
    /// It opened.
    Opened,
    /// The slot did not.
    Slot(SlotError),
    /// The token gave no secret.
    Token(TokenError),
}

/// One line of the report: what was tried and how it ended.
#[derive(Debug)]
pub struct Attempt {
    /// What.
    pub tried: Tried,
    /// How.
    pub outcome: Outcome,
}

/// Whatever the device said when a key area was read.
pub type ReadError = Box<dyn Error + Send + Sync>;

/// Reads bytes of a key area, ciphertext, from the header device.
pub trait ReadArea {
    /// The first `len` bytes of the area.
    ///
    /// # Errors
    /// Whatever the device says; the slot counts as unreadable, the next is tried.
    fn read_area(&mut self, area: Area, len: usize) -> Result<Vec<u8>, ReadError>;
}

impl<F: FnMut(Area, usize) -> Result<Vec<u8>, ReadError>> ReadArea for F {
    fn read_area(&mut self, area: Area, len: usize) -> Result<Vec<u8>, ReadError> {
        self(area, len)
    }
}

/// Tries a passphrase on the slots, in the order of [`slots_to_try`], until one opens.
///
/// A slot that cannot be judged (too costly, unreadable, unknown cipher) does not end the walk.
///
/// # Errors
/// [`UnlockError`] with one [`Attempt`] per slot tried. Nothing was written: nothing here writes.
pub fn unlock(
    header: &Header,
    which: Which,
    target: Target,
    passphrase: &Passphrase,
    areas: &mut dyn ReadArea,
    limits: &OpenLimits,
) -> Result<Unlocked, UnlockError> {
    let metadata = &header.metadata();
    may_open(metadata, limits)?;
    if let Which::Only(slot) = which
        && metadata.keyslot(slot).is_none()
    {
        return Err(UnlockError::with_detail(
            UnlockErrorKind::NoSuchSlot,
            format!("keyslot {slot}"),
        ));
    }
    let mut attempts = Vec::new();
    for slot in slots_to_try(metadata, which, target) {
        match read_and_open(header, slot, target, passphrase, areas, limits) {
            Ok(unlocked) => return Ok(unlocked),
            Err(error) => {
                attempts.push(Attempt {
                    tried: Tried::Slot(slot),
                    outcome: Outcome::Slot(error),
                });
            }
        }
    }
    Err(UnlockError::from_attempts(attempts))
}

/// The slots in the order in which they are tried: priority `prefer` by number, then `normal` by
/// number. `ignore` is tried only when named.
///
/// With [`Target::Data`], slots whose key does not open the data are left out, unless named: then
/// the try says why it is in vain.
#[must_use]
pub fn slots_to_try(metadata: &Metadata, which: Which, target: Target) -> Vec<u8> {
    if let Which::Only(slot) = which {
        return vec![slot];
    }
    let with = |priority| {
        metadata
            .keyslots()
            .iter()
            .filter_map(move |(number, slot)| {
                let wanted = slot.luks2().is_some()
                    && slot.priority == priority
                    && (target == Target::AnyKey || opens_data(metadata, *number));
                wanted.then_some(*number)
            })
    };
    with(Priority::Prefer)
        .chain(with(Priority::Normal))
        .collect()
}

/// True if the slot's key is that of the default segment.
pub(crate) fn opens_data(metadata: &Metadata, slot: u8) -> bool {
    let (segment, _) = metadata.default_segment();
    metadata
        .digest_of_keyslot(slot)
        .is_some_and(|(_, digest)| digest.segments.contains(&segment))
}

/// Reads the area of one slot and tries it.
pub(crate) fn read_and_open(
    header: &Header,
    slot: u8,
    target: Target,
    passphrase: &Passphrase,
    areas: &mut dyn ReadArea,
    limits: &OpenLimits,
) -> Result<Unlocked, SlotError> {
    let metadata = &header.metadata();
    let keyslot = metadata.keyslot(slot).ok_or(SlotError::NoSuchSlot(slot))?;
    let len = area_bytes(metadata, slot).ok_or(SlotError::NotAKey(slot))?;
    if target == Target::Data && !opens_data(metadata, slot) {
        return Err(SlotError::Unbound(slot));
    }
    // `open_slot` checks the same again; here it spares the reading, and a header whose area is
    // huge costs nothing before it is known to be usable.
    check_slot(metadata, slot, limits)?;
    let area = areas
        .read_area(keyslot.area(), len)
        .map_err(|source| SlotError::Read { slot, source })?;
    open_slot(header, slot, &area, passphrase, limits)
}
