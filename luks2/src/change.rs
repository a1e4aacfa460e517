//! [`Change`]: what is to happen to a header and its keyslots area, in the one order that survives a crash.
//!
//! There is no way to build a `Change` step by step. Each constructor checks what it is given against the header that
//! the change starts from, and puts the steps in order itself:
//!
//! * **Adding or replacing** ([`Change::add_slot`], [`Change::replace_slot`]): write the area, barrier, commit. *Key
//!   material is durable before a durable header names it*; without the barrier a crash could leave a slot that does not
//!   open. A crash before the commit leaves material in free room that nothing names.
//! * **Removing** ([`Change::remove_slots`], the old area of a replacement, [`Change::erase`]): commit the header without
//!   the slot and *with a note of the ranges that are owed a wipe*, wipe them, barrier, commit again without the note.
//!   *An area is overwritten only when neither durable copy names it*: wiping first would, on a crash between wipe and
//!   commit, leave a header that promises a slot which cannot be opened, and if the removal then failed or was
//!   withdrawn, that could be the last one. The price of committing first is a moment in which material lies unnamed on
//!   the disk; the note is what makes sure that it is not forgotten. The change is complete, and may be acknowledged,
//!   only after its last step.
//! * **Editing** ([`Change::edit`]): commit.
//!
//! A note left by a crash is settled by the next change of any kind: its first steps wipe what is owed and its commit
//! drops the note. [`Change::settle`] does only that and [`Change::wipe_free_room`] wipes all that no slot names, notes
//! or not, also what an addition that was cut short left behind; both are for `repair`. The note is a member of `config`
//! that other programs keep and ignore; ranges that another program has given to a new slot since are never wiped.
//!
//! Each [`Step::Commit`] stands for: primary, barrier, secondary, barrier. Whoever carries a change out must first have
//! brought both copies to the state that the change starts from (rewritten a stale or damaged one), and must stop for
//! good at the first step that fails.

use crate::area::Area;
use crate::binary::{HeaderSize, SeqId};
use crate::error::FormatError;
use crate::header::Header;
use crate::metadata::{Keyslot, KeyslotKind, Metadata};

/// Ciphertext for a keyslot's area. Nothing secret, but of no use in a log either: it prints as its length.
#[derive(Clone, PartialEq, Eq)]
pub struct AreaBytes(Vec<u8>);

impl AreaBytes {
    /// Takes the encrypted key material.
    #[must_use]
    pub fn new(ciphertext: Vec<u8>) -> Self {
        Self(ciphertext)
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for AreaBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AreaBytes({} bytes)", self.0.len())
    }
}

/// What a range is overwritten with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Random bytes: where key material is or was.
    Random,
    /// Zeros: where old headers are.
    Zero,
}

/// One step of a change. Offsets are bytes from the start of the header device.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Write key material into free room.
    WriteArea {
        /// Where.
        offset: u64,
        /// What.
        bytes: AreaBytes,
    },
    /// Overwrite a range that no durable copy names.
    WipeArea {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// With what.
        fill: Fill,
    },
    /// All writes so far are durable before anything that follows is written.
    Barrier,
    /// Both copies become this header: primary, barrier, secondary, barrier.
    Commit(Box<Header>),
}

/// A change of a header and its keyslots area.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    before: Option<SeqId>,
    steps: Vec<Step>,
    after: Header,
}

impl Change {
    /// Sequence number of the header that it starts from; if the disk has another one, somebody else was faster. `None`
    /// for a new header.
    #[must_use]
    pub fn before(&self) -> Option<SeqId> {
        self.before
    }

    /// The steps, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The header at the end.
    #[must_use]
    pub fn after(&self) -> &Header {
        &self.after
    }

    /// All states of the header that a crash may leave, beside the one before: those of its commits, in order.
    pub fn commits(&self) -> impl Iterator<Item = &Header> {
        self.steps.iter().filter_map(|step| match step {
            Step::Commit(header) => Some(&**header),
            _ => None,
        })
    }

    /// The same change, with other metadata in each header that it commits: `remade` is called with each in turn. For a token
    /// that says something about the very header in which it stands.
    ///
    /// # Errors
    /// Those of `remade`; metadata that differ in more than their tokens ([`FormatError::Misuse`]).
    pub fn with_tokens_remade(
        mut self,
        remade: &mut dyn FnMut(&Header) -> Result<Metadata, FormatError>,
    ) -> Result<Self, FormatError> {
        for step in &mut self.steps {
            let Step::Commit(header) = step else {
                continue;
            };
            let metadata = remade(header)?;
            if !metadata.same_but_for_tokens(&header.metadata) {
                return Err(FormatError::Misuse("tokens remade that change more"));
            }
            **header = header.with_metadata(metadata)?;
            self.after = (**header).clone();
        }
        Ok(self)
    }

    /// Labels, UUID, tokens, priorities, flags, requirements: what leaves keys and data where they are.
    ///
    /// # Errors
    /// `after` is of another size, or changes more of a keyslot than its priority, a digest or a segment
    /// ([`FormatError::Misuse`]); an unknown requirement.
    pub fn edit(before: &Header, after: &Header) -> Result<Self, FormatError> {
        let kinds = |m: &Metadata| {
            m.keyslots()
                .iter()
                .map(|(n, slot)| (*n, slot.kind.clone()))
                .collect::<Vec<_>>()
        };
        let (old, new) = (&before.metadata, &after.metadata);
        if kinds(old) != kinds(new) {
            return Err(FormatError::Misuse("an edit that changes a keyslot"));
        }
        if old.digests() != new.digests() || old.segments() != new.segments() {
            return Err(FormatError::Misuse(
                "an edit that changes a digest or a segment",
            ));
        }
        if old.config.keyslots_size != new.config.keyslots_size || before.size != after.size {
            return Err(FormatError::Misuse("an edit that changes the geometry"));
        }
        let mut plan = Plan::begin(before)?;
        plan.commit(after, &[])?;
        Ok(plan.end())
    }

    /// Puts a new keyslot in place: `after` is the metadata before with keyslot `slot` added, `bytes` its material.
    ///
    /// # Errors
    /// `after` differs in other keyslots, or the area is not free room ([`FormatError::Misuse`]); the material is larger
    /// than the area; an unknown requirement; a re-encryption is going on.
    pub fn add_slot(
        before: &Header,
        after: Metadata,
        slot: u8,
        bytes: AreaBytes,
    ) -> Result<Self, FormatError> {
        not_in_reencryption(before)?;
        if before.metadata.keyslots().contains_key(&slot) {
            return Err(FormatError::InUse {
                what: "keyslot",
                number: slot,
            });
        }
        let mut others = after.keyslots().clone();
        let added = others.remove(&slot).ok_or(FormatError::Missing {
            what: "keyslot",
            number: slot,
        })?;
        if &others != before.metadata.keyslots() {
            return Err(FormatError::Misuse(
                "an addition that changes other keyslots",
            ));
        }
        let mut plan = Plan::begin(before)?;
        plan.write(before, &added, bytes)?;
        plan.commit(&before.with_metadata(after)?, &[])?;
        Ok(plan.end())
    }

    /// Puts another keyslot in the place of `slot`: `after` comes from [`Metadata::with_keyslot_replaced`] with an area
    /// in free room. The old area is wiped once nothing names it.
    ///
    /// # Errors
    /// As [`Change::add_slot`].
    pub fn replace_slot(
        before: &Header,
        after: Metadata,
        slot: u8,
        bytes: AreaBytes,
    ) -> Result<Self, FormatError> {
        not_in_reencryption(before)?;
        let missing = FormatError::Missing {
            what: "keyslot",
            number: slot,
        };
        let (mut old, mut new) = (before.metadata.keyslots().clone(), after.keyslots().clone());
        let gone = old.remove(&slot).ok_or(missing.clone())?;
        let added = new.remove(&slot).ok_or(missing)?;
        if old != new {
            return Err(FormatError::Misuse(
                "a replacement that changes other keyslots",
            ));
        }
        let mut plan = Plan::begin(before)?;
        plan.write(before, &added, bytes)?;
        plan.forget(&before.with_metadata(after)?, vec![gone.area()])?;
        Ok(plan.end())
    }

    /// Removes keyslots, also out of digests and tokens, and wipes their areas. Whether one may be removed is for the
    /// caller to say; here even the last goes.
    ///
    /// # Errors
    /// A slot is missing or steers a re-encryption; an unknown requirement.
    pub fn remove_slots(before: &Header, slots: &[u8]) -> Result<Self, FormatError> {
        Self::remove_slots_and_tokens(before, slots, &[])
    }

    /// [`remove_slots`](Self::remove_slots), and tokens in the same commit: those that lead nowhere without
    /// the slots.
    ///
    /// # Errors
    /// As there; a token is missing.
    pub fn remove_slots_and_tokens(
        before: &Header,
        slots: &[u8],
        tokens: &[u8],
    ) -> Result<Self, FormatError> {
        not_in_reencryption(before)?;
        let mut metadata = before.metadata.clone();
        let mut areas = Vec::new();
        for number in slots {
            let slot = metadata.keyslots().get(number);
            areas.push(
                slot.ok_or(FormatError::Missing {
                    what: "keyslot",
                    number: *number,
                })?
                .area(),
            );
            metadata = metadata.without_keyslot(*number)?;
        }
        for token in tokens {
            metadata = metadata.without_token(*token)?;
        }
        let mut plan = Plan::begin(before)?;
        plan.forget(&before.with_metadata(metadata)?, areas)?;
        Ok(plan.end())
    }

    /// Removes every keyslot that holds a key and wipes all of the keyslots area that is not in use then. The header
    /// itself stays. Also possible in the middle of a re-encryption, whose steering slot stays.
    ///
    /// # Errors
    /// An unknown requirement.
    pub fn erase(before: &Header) -> Result<Self, FormatError> {
        let mut metadata = before.metadata.clone();
        for (number, slot) in before.metadata.keyslots() {
            if !matches!(slot.kind, KeyslotKind::Reencrypt(_)) {
                metadata = metadata.without_keyslot(*number)?;
            }
        }
        let free = unnamed(&metadata);
        let mut plan = Plan::begin(before)?;
        plan.forget(&before.with_metadata(metadata)?, free)?;
        Ok(plan.end())
    }

    /// Wipes what a removal that was cut short still owes. `None` if nothing is owed.
    ///
    /// # Errors
    /// An unknown requirement; the sequence number is at its end.
    pub fn settle(before: &Header) -> Result<Option<Self>, FormatError> {
        if before.metadata.config.owed_wipes.is_empty() {
            return Ok(None);
        }
        let mut plan = Plan::begin(before)?;
        plan.commit(before, &[])?;
        Ok(Some(plan.end()))
    }

    /// Wipes all of the keyslots area that no keyslot names.
    ///
    /// # Errors
    /// As [`Change::settle`].
    pub fn wipe_free_room(before: &Header) -> Result<Self, FormatError> {
        let mut plan = Plan::begin(before)?;
        plan.steps.clear();
        plan.wipe(&unnamed(&before.metadata));
        plan.commit(before, &[])?;
        Ok(plan.end())
    }

    /// A new header on a device whose content is given up: `header` with its keyslots, and the material of each.
    ///
    /// Order: zeros over all places in front of the data where a copy of an old header can lie, and random bytes over the
    /// keyslots area; barrier; material; barrier; commit. The first barrier comes before anything new is written, so a
    /// crash leaves either the old header's remains, no header, or the new one, never a mixture that opens.
    ///
    /// # Errors
    /// `slots` are not exactly the keyslots of the header, or material is larger than its area.
    pub fn format(header: &Header, slots: Vec<(u8, AreaBytes)>) -> Result<Self, FormatError> {
        let metadata = &header.metadata;
        if slots.len() != metadata.keyslots().len() {
            return Err(FormatError::Misuse(
                "a new header needs the material of each of its keyslots",
            ));
        }
        let area = metadata.keyslots_area();
        let mut steps = vec![Step::WipeArea {
            offset: 0,
            len: area.offset,
            fill: Fill::Zero,
        }];
        if area.size > 0 {
            steps.push(Step::WipeArea {
                offset: area.offset,
                len: area.size,
                fill: Fill::Random,
            });
        }
        // Places of an old secondary between the keyslots and the data. What lies in the data is not ours to touch.
        let data = metadata
            .segments()
            .values()
            .map(|segment| segment.offset)
            .min()
            .unwrap_or(0);
        for place in HeaderSize::ALL {
            let end = place.bytes() + crate::binary::BINARY_BYTES as u64;
            if place.bytes() >= metadata.total_bytes() && end <= data {
                let len = crate::binary::BINARY_BYTES as u64;
                steps.push(Step::WipeArea {
                    offset: place.bytes(),
                    len,
                    fill: Fill::Zero,
                });
            }
        }
        steps.push(Step::Barrier);
        let mut plan = Plan {
            before: None,
            last: header.clone(),
            next: header.seqid,
            steps,
        };
        let mut written = std::collections::BTreeSet::new();
        for (number, bytes) in slots {
            let slot = metadata.keyslot(number).ok_or(FormatError::Missing {
                what: "keyslot",
                number,
            })?;
            if !written.insert(number) {
                return Err(FormatError::InUse {
                    what: "keyslot",
                    number,
                });
            }
            plan.write_area(slot, bytes)?;
        }
        if !written.is_empty() {
            plan.steps.push(Step::Barrier);
        }
        plan.commit(header, &[])?;
        Ok(plan.end())
    }
}

/// Ranges of the keyslots area that no keyslot names, to the byte.
fn unnamed(metadata: &Metadata) -> Vec<Area> {
    let named = metadata.keyslots().values().map(Keyslot::area).collect();
    crate::area::free_of(metadata.keyslots_area(), named)
}

fn not_in_reencryption(header: &Header) -> Result<(), FormatError> {
    if header.metadata.reencryption_in_progress() {
        Err(FormatError::ReencryptionInProgress)
    } else {
        Ok(())
    }
}

/// A change in the making. Only this module can make one.
struct Plan {
    before: Option<SeqId>,
    last: Header,
    next: SeqId,
    steps: Vec<Step>,
}

impl Plan {
    /// Starts from a header; its owed wipes come first.
    fn begin(before: &Header) -> Result<Self, FormatError> {
        before.metadata.requirements().check_known()?;
        let next = before.seqid.next()?;
        let mut plan = Self {
            before: Some(before.seqid),
            last: before.clone(),
            next,
            steps: Vec::new(),
        };
        plan.wipe(&before.metadata.owed_wipes());
        Ok(plan)
    }

    fn wipe(&mut self, areas: &[Area]) {
        for area in areas.iter().filter(|area| area.size > 0) {
            self.steps.push(Step::WipeArea {
                offset: area.offset,
                len: area.size,
                fill: Fill::Random,
            });
        }
        if !areas.is_empty() {
            self.steps.push(Step::Barrier);
        }
    }

    /// Material into an area that nothing names, then a barrier.
    fn write(
        &mut self,
        before: &Header,
        slot: &Keyslot,
        bytes: AreaBytes,
    ) -> Result<(), FormatError> {
        if before
            .metadata
            .keyslots()
            .values()
            .any(|old| old.area().overlaps(&slot.area()))
        {
            return Err(FormatError::Misuse(
                "key material over an area that is in use",
            ));
        }
        self.write_area(slot, bytes)?;
        self.steps.push(Step::Barrier);
        Ok(())
    }

    fn write_area(&mut self, slot: &Keyslot, bytes: AreaBytes) -> Result<(), FormatError> {
        let area = slot.area();
        if bytes.as_slice().is_empty() || bytes.as_slice().len() as u64 > area.size {
            return Err(FormatError::Misuse(
                "key material that does not fit its area",
            ));
        }
        self.steps.push(Step::WriteArea {
            offset: area.offset,
            bytes,
        });
        Ok(())
    }

    /// Both copies become `after` with the next sequence number and this note of owed wipes.
    fn commit(&mut self, after: &Header, owed: &[Area]) -> Result<(), FormatError> {
        let metadata = after.metadata.with_owed_wipes(owed)?;
        let header = Header {
            seqid: self.next,
            metadata,
            ..after.clone()
        };
        self.next = self.next.next()?;
        self.last = header.clone();
        self.steps.push(Step::Commit(Box::new(header)));
        Ok(())
    }

    /// Commits `after`, which no longer names `areas`, then wipes them, then commits without the note.
    fn forget(&mut self, after: &Header, areas: Vec<Area>) -> Result<(), FormatError> {
        self.commit(after, &areas)?;
        self.wipe(&areas);
        self.commit(after, &[])
    }

    fn end(self) -> Change {
        Change {
            before: self.before,
            steps: self.steps,
            after: self.last,
        }
    }
}
