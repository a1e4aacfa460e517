//! A header device in memory, and shorthand for the tests.

use luksmith_crypto::{Argon2Variant, Hash, Kdf, Passphrase, SecretBytes};
use luksmith_keyslot::{
    DeviceFacts, FormatPlan, FormatRequest, KdfChoice, NewSlot, OpenLimits, ReadError, Target,
    UnlockError, Unlocked, Which, plan_format, unlock,
};
use luksmith_luks2::{Area, Change, Fill, Header, HeaderCopy, Metadata, Step, resolve};

/// Bytes of a header device, and the header that lies there.
pub(crate) struct Disk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) header: Header,
}

impl Disk {
    /// A fresh volume, slot 0 with this passphrase.
    pub(crate) fn formatted(text: &str) -> Self {
        let secret = pass(text);
        Self::with(plan_format(request(&secret)).expect("a plain request is fine"))
    }

    /// The volume that a plan makes.
    pub(crate) fn with(plan: FormatPlan) -> Self {
        let len = usize::try_from(plan.header_bytes).expect("fits memory");
        let mut disk = Self {
            bytes: vec![0xA5; len],
            header: plan.header,
        };
        disk.apply(&plan.change);
        disk
    }

    /// Carries a change out, step by step as it is written.
    pub(crate) fn apply(&mut self, change: &Change) {
        for step in change.steps() {
            match step {
                Step::WriteArea { offset, bytes } => self.put(*offset, bytes.as_slice()),
                Step::WipeArea { offset, len, fill } => {
                    let byte = match fill {
                        Fill::Zero => 0,
                        Fill::Random => 0x77,
                    };
                    self.put(
                        *offset,
                        &vec![byte; usize::try_from(*len).expect("fits memory")],
                    );
                }
                Step::Barrier => {}
                Step::Commit(header) => {
                    for (copy, salt) in [(HeaderCopy::Primary, 1), (HeaderCopy::Secondary, 2)] {
                        let at = copy.offset(header.size());
                        self.put(at, &header.encode(copy, [salt; 64]));
                    }
                }
            }
        }
        // What counts is what lies there, not what the change says.
        self.header = self.read_header();
        assert_eq!(&self.header, change.after());
    }

    pub(crate) fn read_header(&self) -> Header {
        let bytes = &self.bytes;
        resolve(
            &mut |offset, len| {
                let at = usize::try_from(offset).expect("fits memory");
                bytes
                    .get(at..at + len)
                    .map(<[u8]>::to_vec)
                    .ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
            },
            bytes.len() as u64,
        )
        .expect("a valid header")
        .header
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        self.header.metadata()
    }

    /// Replaces the metadata by an edited JSON text, as an attacker with the disk in hand would.
    pub(crate) fn forge(&mut self, edit: impl FnOnce(&mut serde_json::Value)) {
        let mut json = self.metadata().as_value().clone();
        edit(&mut json);
        let text = serde_json::to_vec(&json).expect("JSON");
        let metadata = Metadata::parse(&text, &self.metadata().geometry())
            .expect("forged, but within the rules of the format");
        self.header = self.header.with_metadata(metadata).expect("same geometry");
    }

    pub(crate) fn area(&self, area: Area, len: usize) -> Vec<u8> {
        let at = usize::try_from(area.offset).expect("fits memory");
        self.bytes[at..at + len].to_vec()
    }

    pub(crate) fn area_of(&self, slot: u8) -> Vec<u8> {
        let area = self.metadata().keyslot(slot).expect("slot in use").area();
        self.area(area, usize::try_from(area.size).expect("fits memory"))
    }

    pub(crate) fn open(&self, text: &str) -> Result<Unlocked, UnlockError> {
        self.open_as(text, Which::ByPriority, Target::Data)
    }

    pub(crate) fn open_as(
        &self,
        text: &str,
        which: Which,
        target: Target,
    ) -> Result<Unlocked, UnlockError> {
        let limits = OpenLimits::default();
        let mut read = |area, len| Ok::<_, ReadError>(self.area(area, len));
        unlock(&self.header, which, target, &pass(text), &mut read, &limits)
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let at = usize::try_from(offset).expect("fits memory");
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

pub(crate) fn pass(text: &str) -> Passphrase {
    Passphrase::new(secret(text.as_bytes()))
}

pub(crate) fn secret(bytes: &[u8]) -> SecretBytes {
    SecretBytes::take_from(&mut bytes.to_vec()).expect("locked memory")
}

/// As cheap as the format permits.
pub(crate) fn cheap() -> KdfChoice {
    KdfChoice::Exact(Kdf::Pbkdf2 {
        hash: Hash::Sha256,
        iterations: 1000,
    })
}

/// As cheap as the format permits, memory-hard.
pub(crate) fn cheap_argon2(variant: Argon2Variant) -> KdfChoice {
    KdfChoice::Exact(Kdf::Argon2 {
        variant,
        time: 4,
        memory_kib: 32,
        lanes: 1,
    })
}

pub(crate) fn slot(secret: &Passphrase) -> NewSlot<'_> {
    NewSlot {
        kdf: cheap(),
        ..NewSlot::new(secret)
    }
}

/// A small volume: 2 MiB in front of 14 MiB of data.
pub(crate) fn request(secret: &Passphrase) -> FormatRequest<'_> {
    FormatRequest {
        slot: slot(secret),
        offset_sectors: Some(4096),
        ..FormatRequest::new(secret, facts(16 << 20))
    }
}

pub(crate) fn facts(bytes: u64) -> DeviceFacts {
    DeviceFacts {
        header_bytes: Some(bytes),
        data_bytes: bytes,
        logical_block: 512,
        physical_block: 4096,
        optimal_io: 0,
    }
}
