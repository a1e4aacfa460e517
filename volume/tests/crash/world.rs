//! A small volume on a simulated disk, and the judge of what a crash left of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use luksmith_luks2::metadata::KdfParams;
use luksmith_luks2::{
    Area, AreaBytes, Change, FormatOptions, Header, HeaderCopy, HeaderSize, Label, Metadata,
    NewDigest, NewKeyslot, area, metadata::Priority, new_header,
};
use luksmith_volume::sim::{Op, Rng, SimDisk};
use luksmith_volume::{HeaderStore, LockMode, Mutant, StoreError, Wait};
use serde_json::json;

pub(crate) const DISK_BYTES: usize = 192 * 1024;
/// Small, so that areas are small; still several physical sectors of either size.
const KEY_BYTES: u32 = 4;
const KEYSLOTS_BYTES: u64 = 96 * 1024;

/// One state that a header may be in, and what its keyslots' areas hold then.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) header: Header,
    pub(crate) material: BTreeMap<u8, Vec<u8>>,
    /// The volume was given up by whoever started the operation: its slots need not open any more.
    pub(crate) given_up: bool,
}

impl Known {
    pub(crate) fn area(&self, slot: u8) -> Area {
        self.header
            .metadata()
            .keyslot(slot)
            .expect("a slot of this volume")
            .area()
    }

    /// The states that a change goes through, given the material that it brings.
    pub(crate) fn through(&self, change: &Change, new: &[(u8, Vec<u8>)]) -> Vec<Self> {
        let mut all = vec![self.clone()];
        for header in change.commits() {
            let mut material = self.material.clone();
            material.extend(new.iter().cloned());
            material.retain(|slot, _| header.metadata().keyslots().contains_key(slot));
            all.push(Self {
                header: header.clone(),
                material,
                given_up: false,
            });
        }
        all
    }

    pub(crate) fn given_up(mut self) -> Self {
        self.given_up = true;
        self
    }
}

pub(crate) fn new_slot(metadata: &Metadata) -> NewKeyslot {
    let size = area::size_for_key(KEY_BYTES).unwrap();
    NewKeyslot {
        key_size: KEY_BYTES,
        area: area::find_room(metadata, size).unwrap(),
        encryption: "aes-xts-plain64".into(),
        area_key_size: 32,
        kdf: KdfParams::Pbkdf2 {
            hash: "sha256".into(),
            iterations: 1000,
            salt: vec![7; 32],
        },
        af_hash: "sha256".into(),
        priority: Priority::Normal,
    }
}

pub(crate) fn material(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 16000];
    Rng::new(seed).fill(&mut bytes);
    bytes
}

/// A header with three slots and two tokens, so that its JSON spans several physical sectors.
pub(crate) fn volume(seed: u64, size: HeaderSize) -> (Known, Change) {
    let options = FormatOptions {
        label: Label::new("crash").unwrap(),
        subsystem: Label::new("").unwrap(),
        uuid: format!("00000000-0000-4000-8000-{seed:012}"),
        header_size: size,
        keyslots_size: Some(KEYSLOTS_BYTES.min(DISK_BYTES as u64 - size.bytes() * 2 - 8192)),
        data_offset: Some(0),
        data_alignment: 0,
        detached: true,
        header_device_len: Some(DISK_BYTES as u64),
        data_device_len: None,
        encryption: "aes-xts-plain64".into(),
        sector_size: 512,
        flags: Vec::new(),
    };
    let digest = NewDigest {
        segments: vec![0],
        hash: "sha256".into(),
        iterations: 1000,
        salt: vec![3; 32],
        digest: vec![5; 32],
    };
    let header = new_header(&options, &digest).unwrap();
    let mut metadata = header.metadata().clone();
    let mut slots = Vec::new();
    let mut kept = BTreeMap::new();
    for number in 0..3 {
        let slot = new_slot(&metadata);
        metadata = metadata.with_keyslot(number, &slot, 0).unwrap();
        let bytes = material(seed * 100 + u64::from(number));
        slots.push((number, AreaBytes::new(bytes.clone())));
        kept.insert(number, bytes);
    }
    for number in 0..2 {
        let token =
            json!({"type": "example", "keyslots": [number.to_string()], "text": "x".repeat(500)});
        metadata = metadata.with_token(number, token).unwrap();
    }
    let header = header.with_metadata(metadata).unwrap();
    let change = Change::format(&header, slots).unwrap();
    let known = Known {
        header: change.after().clone(),
        material: kept,
        given_up: false,
    };
    (known, change)
}

/// A disk image with that volume on it.
pub(crate) fn formatted(seed: u64, size: HeaderSize) -> (Known, Rc<Vec<u8>>) {
    let (known, change) = volume(seed, size);
    let disk = SimDisk::new(Rc::new(vec![0; DISK_BYTES]), 512, seed);
    HeaderStore::format(disk.clone(), change, Wait::Fail).unwrap();
    (known, disk.visible())
}

/// Judges disk contents.
pub(crate) struct Judge {
    known: Vec<Known>,
    /// Whether an operation may leave the disk without any header for a while.
    may_be_none: bool,
    mutant: Option<Mutant>,
    /// Headers seen before: most states differ from another one only in their areas.
    seen: RefCell<HashMap<u64, Result<Headers, String>>>,
}

/// What the header copies of a disk say.
#[derive(Clone)]
struct Headers {
    /// The good copies, by name and known state.
    good: Vec<(&'static str, usize)>,
    in_force: Option<usize>,
}

impl Judge {
    pub(crate) fn new(known: Vec<Known>, may_be_none: bool, mutant: Option<Mutant>) -> Self {
        Self {
            known,
            may_be_none,
            mutant,
            seen: RefCell::default(),
        }
    }

    pub(crate) fn known(&self) -> &[Known] {
        &self.known
    }

    pub(crate) fn set_known(&mut self, known: Vec<Known>) {
        self.known = known;
        self.seen.borrow_mut().clear();
    }

    /// Which known state is in force; `None`: no header.
    ///
    /// Rules, each judged without the code under test where it can be:
    /// every copy that is good, in force or not, is one of the known states and names only slots
    /// whose material is whole (H1, H4, H5); the store finds the one with the higher number; it
    /// does so without writing or flushing (H10).
    pub(crate) fn check(&self, image: &Rc<Vec<u8>>) -> Result<Option<usize>, String> {
        let key = header_print(image);
        let known = self.seen.borrow().get(&key).cloned();
        let headers = match known {
            Some(headers) => headers?,
            None => {
                let headers = self.headers(image);
                self.seen.borrow_mut().insert(key, headers.clone());
                headers?
            }
        };
        for (name, index) in &headers.good {
            self.check_material(name, &self.known[*index], image)?;
        }
        if headers.in_force.is_none() && !self.may_be_none {
            return Err("no header is left".into());
        }
        Ok(headers.in_force)
    }

    /// The states that the good copies of a disk are in that was judged before.
    pub(crate) fn good_copies(&self, image: &[u8]) -> Vec<usize> {
        let seen = self.seen.borrow();
        let mut copies: Vec<usize> = match seen.get(&header_print(image)) {
            Some(Ok(headers)) => headers.good.iter().map(|(_, state)| *state).collect(),
            _ => Vec::new(),
        };
        copies.dedup();
        copies
    }

    fn headers(&self, image: &Rc<Vec<u8>>) -> Result<Headers, String> {
        let copy_at = |copy, place: usize| {
            let bytes = image.get(place..)?;
            Header::decode(bytes, copy, place as u64)
                .ok()
                .map(|(header, _)| header)
        };
        let primary = copy_at(HeaderCopy::Primary, 0);
        let secondary = match &primary {
            Some(header) => copy_at(HeaderCopy::Secondary, header.size().bytes() as usize),
            None => HeaderSize::ALL
                .iter()
                .find_map(|size| copy_at(HeaderCopy::Secondary, size.bytes() as usize)),
        };
        let mut best: Option<(u64, usize)> = None;
        let mut good = Vec::new();
        for (name, header) in [("primary", &primary), ("secondary", &secondary)] {
            let Some(header) = header else { continue };
            let Some(index) = self.known.iter().rposition(|known| &known.header == header) else {
                return Err(format!(
                    "the {name} is none of the states of this operation"
                ));
            };
            good.push((name, index));
            let seqid = header.seqid().0;
            if best.is_none_or(|(other, _)| seqid > other) {
                best = Some((seqid, index));
            }
        }
        let expected = best.map(|(_, index)| index);
        let disk = SimDisk::new(Rc::clone(image), 512, 0).without(self.mutant);
        let found = match HeaderStore::load(disk.clone(), LockMode::Shared) {
            Ok(store) => {
                let header = store.header().clone();
                let index = self.known.iter().rposition(|known| known.header == header);
                Some(index.ok_or("the store reads a header that is none of the known states")?)
            }
            Err(StoreError::Resolve(_)) => None,
            Err(other) => return Err(format!("loading failed: {other}")),
        };
        if disk.ops().iter().any(|op| !matches!(op, Op::Read(_))) {
            return Err("loading for reading wrote or flushed".into());
        }
        if found != expected {
            return Err(format!(
                "the store takes state {found:?}, in force is {expected:?}"
            ));
        }
        Ok(Headers {
            good,
            in_force: found,
        })
    }

    fn check_material(&self, name: &str, known: &Known, image: &[u8]) -> Result<(), String> {
        if known.given_up {
            return Ok(());
        }
        for (number, slot) in known.header.metadata().keyslots() {
            let at = slot.area().offset as usize;
            let Some(expected) = known.material.get(number) else {
                return Err(format!(
                    "the {name} names slot {number}, which nobody wrote"
                ));
            };
            if image[at..at + expected.len()] != expected[..] {
                return Err(format!(
                    "the {name} names slot {number}, whose material is not whole"
                ));
            }
        }
        Ok(())
    }
}

/// Tells header regions apart: all places where the volumes of these tests have a copy.
pub(crate) fn header_print(image: &[u8]) -> u64 {
    let mut print = 0x1234_5678_9abc_def1u64;
    for word in image[..image.len().min(64 * 1024)].as_chunks::<8>().0 {
        print = (print ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        print ^= print >> 29;
    }
    print
}
