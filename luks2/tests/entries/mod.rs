//! The functions that fuzzing calls; `cargo test` calls the same with seeded input (see `smoke.rs`).
//!
//! Each takes arbitrary bytes and panics only if a promise of the crate is broken.

use luksmith_luks2::binary::{self, BinaryHeader};
use luksmith_luks2::{
    Area, AreaBytes, Change, ChecksumAlgorithm, Geometry, Header, HeaderCopy, HeaderSize, Metadata,
    Priority, Resolved, Step, resolve,
};

/// Bytes of an image as they come.
pub(crate) fn pair(data: &[u8]) {
    look_at(data);
}

/// Bytes of an image whose magics, offsets, sizes and checksums are put right first, so that the rest is reached.
pub(crate) fn image(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    let size = HeaderSize::ALL[usize::from(choice & 1)];
    let one = usize::try_from(size.bytes()).expect("small");
    let mut image = rest.to_vec();
    image.resize(2 * one, 0);
    for (copy, at) in [(HeaderCopy::Primary, 0), (HeaderCopy::Secondary, one)] {
        if choice & (2 << u8::from(copy == HeaderCopy::Secondary)) != 0 {
            continue;
        }
        let bytes = &mut image[at..at + one];
        bytes[..6].copy_from_slice(if copy == HeaderCopy::Primary {
            b"LUKS\xba\xbe"
        } else {
            b"SKUL\xba\xbe"
        });
        bytes[6..8].copy_from_slice(&[0, 2]);
        bytes[8..16].copy_from_slice(&size.bytes().to_be_bytes());
        bytes[72..79].copy_from_slice(b"sha256\0");
        bytes[256..264].copy_from_slice(&(at as u64).to_be_bytes());
        if choice & 16 == 0 {
            bytes[168..205].copy_from_slice(b"5d0c8f1e-6b1a-4f0e-9a53-0d6a4a2f7c11\0");
        }
        binary::write_checksum(bytes, ChecksumAlgorithm::Sha256);
    }
    look_at(&image);
}

/// Two texts, divided by a NUL, as the metadata of both copies; the first 16 bytes are the sequence numbers.
pub(crate) fn texts(data: &[u8]) {
    if data.len() < 16 {
        return;
    }
    let (numbers, texts) = data.split_at(16);
    let mut texts = texts.splitn(2, |byte| *byte == 0);
    let (first, second) = (texts.next().unwrap_or_default(), texts.next());
    let number = |at: usize| u64::from_be_bytes(numbers[at..at + 8].try_into().expect("8 bytes"));
    let fields = |seqid| BinaryHeader {
        size: HeaderSize::SMALLEST,
        seqid: luksmith_luks2::SeqId(seqid),
        label: luksmith_luks2::Label::default(),
        subsystem: luksmith_luks2::Label::default(),
        uuid: "5d0c8f1e-6b1a-4f0e-9a53-0d6a4a2f7c11".into(),
        checksum: ChecksumAlgorithm::Sha1,
        salt: [0; 64],
    };
    let Ok(mut image) = fields(number(0)).encode(HeaderCopy::Primary, first) else {
        return;
    };
    if let Ok(other) = fields(number(8)).encode(HeaderCopy::Secondary, second.unwrap_or(first)) {
        image.extend(other);
    }
    look_at(&image);
}

/// A JSON text: what is taken comes back the same, and survives every edit or is refused by it.
pub(crate) fn json(text: &[u8]) {
    for size in [HeaderSize::ALL[0], HeaderSize::ALL[3]] {
        let geometry = Geometry { header_size: size };
        if let Ok(metadata) = Metadata::parse(text, &geometry) {
            let written = metadata.to_json_bytes();
            assert!((written.len() as u64) < size.json_bytes());
            let again = Metadata::parse(&written, &geometry).expect("what we write we read");
            assert_eq!(again, metadata);
            assert_eq!(again.to_json_bytes(), written);
            edit(&metadata);
        }
    }
}

fn look_at(image: &[u8]) {
    const LEN: u64 = 1 << 40;
    let resolved = resolve(
        &mut |offset, len| {
            assert!(len <= 4 << 20, "reads are bounded");
            let start = usize::try_from(offset).map_or(image.len(), |at| at.min(image.len()));
            let mut bytes = image[start..start.saturating_add(len).min(image.len())].to_vec();
            bytes.resize(len, 0);
            Ok(bytes)
        },
        LEN,
    );
    if let Ok(resolved) = resolved {
        written_again(&resolved, image);
        change(&resolved.header);
        json(&resolved.header.metadata().to_json_bytes());
    }
}

/// Whatever is in force, written to both places, is in force again with nothing to repair.
fn written_again(resolved: &Resolved, image: &[u8]) {
    let header = &resolved.header;
    let mut again = image.to_vec();
    let one = usize::try_from(header.size().bytes()).expect("at most 4 MiB");
    again.resize(again.len().max(2 * one), 0);
    for (copy, at) in [(HeaderCopy::Primary, 0), (HeaderCopy::Secondary, one)] {
        let bytes = header.encode(copy, [7; 64]);
        assert_eq!(
            Header::decode(&bytes, copy, at as u64)
                .expect("what we write we read")
                .0,
            *header
        );
        again[at..at + one].copy_from_slice(&bytes);
    }
}

fn edit(metadata: &Metadata) {
    let whole = metadata.keyslots_area();
    for area in luksmith_luks2::area::gaps(metadata) {
        inside(&area, &whole);
    }
    for number in metadata.keyslots().keys() {
        if let Ok(less) = metadata.without_keyslot(*number) {
            assert!(less.keyslots().get(number).is_none());
            assert!(
                less.tokens()
                    .values()
                    .all(|token| !token.keyslots.contains(number))
            );
        }
        for priority in [Priority::Ignore, Priority::Normal, Priority::Prefer] {
            if let Ok(edited) = metadata.with_priority(*number, priority) {
                assert_eq!(edited.keyslots()[number].priority, priority);
            }
        }
    }
    for number in metadata.tokens().keys() {
        assert!(
            metadata
                .without_token(*number)
                .expect("a token can go")
                .tokens()
                .get(number)
                .is_none()
        );
    }
    let _ = metadata.default_segment();
    let _ = metadata.default_digest();
}

fn change(header: &Header) {
    let whole = header.metadata().keyslots_area();
    let slots: Vec<u8> = header.metadata().keyslots().keys().copied().collect();
    for change in [
        Change::remove_slots(header, &slots),
        Change::erase(header),
        Change::wipe_free_room(header),
    ]
    .into_iter()
    .flatten()
    .chain(Change::settle(header).ok().flatten())
    {
        in_order(header, &change, &whole);
    }
    let material: Vec<(u8, AreaBytes)> = slots
        .iter()
        .map(|slot| (*slot, AreaBytes::new(vec![0; 512])))
        .collect();
    let _ = Change::format(header, material);
}

/// At each step: what is overwritten is named neither by the state on disk nor by the one before it.
pub(crate) fn in_order(before: &Header, change: &Change, whole: &Area) {
    let mut named = before.clone();
    let mut unsynced = false;
    for step in change.steps() {
        match step {
            Step::WipeArea { offset, len, .. } => {
                let area = Area {
                    offset: *offset,
                    size: *len,
                };
                inside(&area, whole);
                let slots = named.metadata().keyslots().values();
                assert!(
                    slots.clone().all(|slot| !slot.area().overlaps(&area)),
                    "a wipe of what is named"
                );
                unsynced = true;
            }
            Step::WriteArea { offset, bytes } => {
                let area = Area {
                    offset: *offset,
                    size: bytes.as_slice().len() as u64,
                };
                inside(&area, whole);
                let slots = named.metadata().keyslots().values();
                assert!(
                    slots.clone().all(|slot| !slot.area().overlaps(&area)),
                    "a write over what is named"
                );
                unsynced = true;
            }
            Step::Barrier => unsynced = false,
            Step::Commit(header) => {
                assert!(!unsynced, "a commit without a barrier before it");
                assert_eq!(header.seqid().0, named.seqid().0 + 1);
                named = (**header).clone();
            }
        }
    }
    assert!(!unsynced, "a change that ends without a barrier");
    assert_eq!(&named, change.after());
    assert!(named.metadata().owed_wipes().is_empty());
}

fn inside(area: &Area, whole: &Area) {
    let end = area.end().expect("no overflow");
    assert!(
        area.size > 0 && area.offset >= whole.offset && end <= whole.offset + whole.size,
        "{area:?} in {whole:?}"
    );
}
