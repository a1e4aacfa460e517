//! [`Metadata`]: the JSON of a header as a value that is valid and forgets nothing.
//!
//! The value keeps the JSON tree as it was read, with all members that this program does not know, and typed views of
//! what it does know. The views are made by [`crate::parse`] and checked by [`crate::validate`] before a value exists;
//! edits ([`crate::edit`]) change the tree and go through the same door again.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::area::Area;
use crate::binary::HeaderSize;
use crate::reencrypt::ReencryptSlot;
use crate::segment::Segment;
use crate::token::Token;

/// Keyslots that a header can have, numbered from 0.
pub const MAX_KEYSLOTS: u8 = 32;
/// Tokens that a header can have, numbered from 0.
pub const MAX_TOKENS: u8 = 32;
/// Segments that a header can have, numbered from 0.
pub const MAX_SEGMENTS: u8 = 32;
/// Digests that a header can have, numbered from 0.
pub const MAX_DIGESTS: u8 = 8;
/// Stripes of the anti-forensic splitter; the format knows no other number.
pub const AF_STRIPES: u32 = 4000;
/// Bytes of the salt of a key derivation.
pub const KDF_SALT_BYTES: usize = 32;

/// What the metadata must fit: facts that stand outside of the JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Size of one copy, from the binary header.
    pub header_size: HeaderSize,
}

/// The metadata of a header. A value of this type obeys every rule of [`crate::validate`].
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    pub(crate) root: Value,
    pub(crate) geometry: Geometry,
    pub(crate) keyslots: BTreeMap<u8, Keyslot>,
    pub(crate) tokens: BTreeMap<u8, Token>,
    pub(crate) segments: BTreeMap<u8, Segment>,
    pub(crate) digests: BTreeMap<u8, Digest>,
    pub(crate) config: Config,
}

impl Metadata {
    /// Compact JSON text as it goes to disk, without the closing NUL. Never longer than the JSON area permits.
    #[must_use]
    pub fn to_json_bytes(&self) -> Vec<u8> {
        crate::json::write(&self.root)
    }

    /// The whole tree, for dumps.
    #[must_use]
    pub fn as_value(&self) -> &Value {
        &self.root
    }

    /// Whether both say the same in all but their tokens.
    pub(crate) fn same_but_for_tokens(&self, other: &Self) -> bool {
        let rest = |metadata: &Self| {
            let mut root = metadata.root.clone();
            if let Some(members) = root.as_object_mut() {
                members.shift_remove("tokens");
            }
            root
        };
        rest(self) == rest(other)
    }

    /// What it was checked against.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// All keyslots by number.
    #[must_use]
    pub fn keyslots(&self) -> &BTreeMap<u8, Keyslot> {
        &self.keyslots
    }

    /// One keyslot.
    #[must_use]
    pub fn keyslot(&self, number: u8) -> Option<&Keyslot> {
        self.keyslots.get(&number)
    }

    /// All tokens by number.
    #[must_use]
    pub fn tokens(&self) -> &BTreeMap<u8, Token> {
        &self.tokens
    }

    /// All segments by number; at least one.
    #[must_use]
    pub fn segments(&self) -> &BTreeMap<u8, Segment> {
        &self.segments
    }

    /// The segments that make up the volume, in order: all that are no backups.
    pub fn regular_segments(&self) -> impl Iterator<Item = (u8, &Segment)> {
        self.segments
            .iter()
            .filter(|(_, segment)| !segment.is_backup())
            .map(|(number, segment)| (*number, segment))
    }

    /// The segment that cipher and sector size are taken from: the one flagged `backup-final`, else number 0.
    #[must_use]
    pub fn default_segment(&self) -> (u8, &Segment) {
        self.segments
            .iter()
            .find(|(_, segment)| segment.has_flag("backup-final"))
            .or_else(|| self.segments.iter().next())
            .map(|(number, segment)| (*number, segment))
            .expect("validated metadata has a segment")
    }

    /// All digests by number.
    #[must_use]
    pub fn digests(&self) -> &BTreeMap<u8, Digest> {
        &self.digests
    }

    /// The digest that a keyslot's key must match.
    #[must_use]
    pub fn digest_of_keyslot(&self, slot: u8) -> Option<(u8, &Digest)> {
        self.digests
            .iter()
            .find(|(_, d)| d.keyslots.contains(&slot))
            .map(|(number, d)| (*number, d))
    }

    /// The digests of a segment: one, or two while it is being re-encrypted.
    pub fn digests_of_segment(&self, segment: u8) -> impl Iterator<Item = (u8, &Digest)> {
        self.digests
            .iter()
            .filter(move |(_, d)| d.segments.contains(&segment))
            .map(|(number, d)| (*number, d))
    }

    /// The digest of the volume key in normal use: that of the default segment.
    #[must_use]
    pub fn default_digest(&self) -> Option<(u8, &Digest)> {
        let (segment, _) = self.default_segment();
        self.digests_of_segment(segment).next()
    }

    /// True for a keyslot whose key opens no segment.
    #[must_use]
    pub fn is_unbound(&self, slot: u8) -> bool {
        self.digest_of_keyslot(slot)
            .is_some_and(|(_, d)| d.segments.is_empty())
    }

    /// Tokens that name a keyslot.
    pub fn tokens_of_keyslot(&self, slot: u8) -> impl Iterator<Item = (u8, &Token)> {
        self.tokens
            .iter()
            .filter(move |(_, t)| t.keyslots.contains(&slot))
            .map(|(number, t)| (*number, t))
    }

    /// Sizes, flags and requirements.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Persistent activation flags as written, known or not.
    #[must_use]
    pub fn flags(&self) -> &[String] {
        &self.config.flags
    }

    /// What a program must know to use this header.
    #[must_use]
    pub fn requirements(&self) -> &Requirements {
        &self.config.requirements
    }

    /// The slot that steers a re-encryption, if one is going on.
    #[must_use]
    pub fn reencrypt_slot(&self) -> Option<(u8, &ReencryptSlot)> {
        self.keyslots
            .iter()
            .find_map(|(number, slot)| match &slot.kind {
                KeyslotKind::Reencrypt(reencrypt) => Some((*number, reencrypt)),
                _ => None,
            })
    }

    /// True while a re-encryption has begun and not ended, in whatever flavour.
    #[must_use]
    pub fn reencryption_in_progress(&self) -> bool {
        self.reencrypt_slot().is_some()
            || self
                .requirements()
                .known
                .iter()
                .any(|requirement| requirement.is_reencryption())
    }

    /// The range of the header device that belongs to keyslots.
    #[must_use]
    pub fn keyslots_area(&self) -> Area {
        Area {
            offset: self.geometry.header_size.keyslots_offset(),
            size: self.config.keyslots_size,
        }
    }

    /// Bytes of both copies and the keyslots area: what a header backup holds.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.geometry.header_size.keyslots_offset() + self.config.keyslots_size
    }

    /// Ranges of the keyslots area that a removed slot used and that may still hold its material, because the removal
    /// was cut short; see [`crate::change`]. Never a range that a keyslot names.
    #[must_use]
    pub fn owed_wipes(&self) -> Vec<Area> {
        let whole = self.keyslots_area();
        let mut owed = Vec::new();
        for wipe in &self.config.owed_wipes {
            let Some(wipe) = wipe.clipped_to(&whole) else {
                continue;
            };
            let named = self
                .keyslots
                .values()
                .map(Keyslot::area)
                .filter(|area| area.overlaps(&wipe))
                .collect();
            owed.extend(crate::area::free_of(wipe, named));
        }
        owed
    }
}

/// One keyslot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyslot {
    /// What it is and holds.
    pub kind: KeyslotKind,
    /// Order of tries.
    pub priority: Priority,
}

impl Keyslot {
    /// Its range of the keyslots area.
    #[must_use]
    pub fn area(&self) -> Area {
        match &self.kind {
            KeyslotKind::Luks2(slot) => slot.area,
            KeyslotKind::Reencrypt(slot) => slot.area,
            KeyslotKind::Other { area, .. } => *area,
        }
    }

    /// The slot's data if it holds a key.
    #[must_use]
    pub fn luks2(&self) -> Option<&Luks2Slot> {
        match &self.kind {
            KeyslotKind::Luks2(slot) => Some(slot),
            _ => None,
        }
    }
}

/// Kinds of keyslots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyslotKind {
    /// A key behind a passphrase.
    Luks2(Luks2Slot),
    /// Steers a re-encryption; holds no key.
    Reencrypt(ReencryptSlot),
    /// A kind that this program does not know. Kept, and its area kept free; nothing else.
    Other {
        /// The `type` as written.
        kind: String,
        /// Its range of the keyslots area.
        area: Area,
    },
}

/// A keyslot of type `luks2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks2Slot {
    /// Bytes of the key that it stores.
    pub key_size: u32,
    /// Where the encrypted key material lies.
    pub area: Area,
    /// Cipher of the area, as written, e.g. `aes-xts-plain64`.
    pub encryption: String,
    /// Bytes of the area's key, which the key derivation yields.
    pub area_key_size: u32,
    /// How a passphrase becomes the area's key.
    pub kdf: KdfParams,
    /// Splitter of the key material.
    pub af: AfParams,
}

/// Order in which slots are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Only if named.
    Ignore,
    /// As a rule; not written to disk.
    #[default]
    Normal,
    /// Before the others.
    Prefer,
}

impl Priority {
    /// The number on disk.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Ignore => 0,
            Self::Normal => 1,
            Self::Prefer => 2,
        }
    }
}

/// How a passphrase becomes the key of a keyslot's area. Costs are those of the header: unchecked, to be capped before use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KdfParams {
    /// PBKDF2 with HMAC.
    Pbkdf2 {
        /// Hash name as written.
        hash: String,
        /// Rounds.
        iterations: u32,
        /// 32 bytes.
        salt: Vec<u8>,
    },
    /// Argon2i or Argon2id, version 1.3.
    Argon2 {
        /// True for Argon2id.
        id: bool,
        /// Passes.
        time: u32,
        /// KiB.
        memory_kib: u32,
        /// Lanes, used as threads too.
        cpus: u32,
        /// 32 bytes.
        salt: Vec<u8>,
    },
    /// A kind that this program does not know; the slot is kept and cannot be opened.
    Other(String),
}

/// Anti-forensic splitter of the key material.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AfParams {
    /// Always [`AF_STRIPES`].
    pub stripes: u32,
    /// Hash name as written.
    pub hash: String,
}

/// A PBKDF2 digest: says whether a key is the right one. One digest is one volume key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// Keyslots that hold this key, ascending.
    pub keyslots: Vec<u8>,
    /// Segments under this key, ascending. Empty for an unbound key.
    pub segments: Vec<u8>,
    /// Salt, at least one byte.
    pub salt: Vec<u8>,
    /// Hash name as written.
    pub hash: String,
    /// Rounds.
    pub iterations: u32,
    /// The expected result.
    pub digest: Vec<u8>,
}

/// The `config` object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of the JSON area of one copy.
    pub json_size: u64,
    /// Bytes of the keyslots area.
    pub keyslots_size: u64,
    /// Persistent activation flags as written.
    pub flags: Vec<String>,
    /// What a program must know to use this header.
    pub requirements: Requirements,
    /// Ranges that a removal still owes a wipe; raw, see [`Metadata::owed_wipes`].
    pub(crate) owed_wipes: Vec<Area>,
}

/// Mandatory requirements of a header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requirements {
    /// Those that this program knows, which does not mean that it can do them all.
    pub known: Vec<Requirement>,
    /// Those that it does not know: such a header is neither opened nor changed.
    pub unknown: Vec<String>,
}

impl Requirements {
    /// # Errors
    /// [`crate::FormatError::UnknownRequirement`] if there is one that this program does not know.
    pub fn check_known(&self) -> Result<(), crate::FormatError> {
        if self.unknown.is_empty() {
            Ok(())
        } else {
            Err(crate::FormatError::UnknownRequirement(self.unknown.clone()))
        }
    }

    /// True when nothing is required.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && self.unknown.is_empty()
    }
}

/// A requirement that this program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// The old tool's offline re-encryption is going on.
    OfflineReencrypt,
    /// Online re-encryption, version 1 (not authenticated), 2 or 3, is going on.
    OnlineReencrypt(u8),
    /// Integrity tags kept by the hardware.
    InlineHwTags,
    /// A self-encrypting drive, version 1 or 2 of the rules.
    Opal(u8),
}

impl Requirement {
    /// By its name in the header.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "offline-reencrypt" => Some(Self::OfflineReencrypt),
            "online-reencrypt" => Some(Self::OnlineReencrypt(1)),
            "online-reencrypt-v2" => Some(Self::OnlineReencrypt(2)),
            "online-reencrypt-v3" => Some(Self::OnlineReencrypt(3)),
            "inline-hw-tags" => Some(Self::InlineHwTags),
            "opal" => Some(Self::Opal(1)),
            "opal-v2" => Some(Self::Opal(2)),
            _ => None,
        }
    }

    /// The name in the header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OfflineReencrypt => "offline-reencrypt",
            Self::OnlineReencrypt(1) => "online-reencrypt",
            Self::OnlineReencrypt(2) => "online-reencrypt-v2",
            Self::OnlineReencrypt(_) => "online-reencrypt-v3",
            Self::InlineHwTags => "inline-hw-tags",
            Self::Opal(1) => "opal",
            Self::Opal(_) => "opal-v2",
        }
    }

    /// True for those that say that a re-encryption is going on.
    #[must_use]
    pub fn is_reencryption(self) -> bool {
        matches!(self, Self::OfflineReencrypt | Self::OnlineReencrypt(_))
    }
}
