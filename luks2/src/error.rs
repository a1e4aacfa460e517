//! What can be wrong with a header, an edit of it, or a change that was asked for.

use crate::validate::Rule;

/// Why bytes are not a header, or why an edit does not lead to one.
///
/// Kinds to match on; the texts say what was seen, never what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Fewer bytes than the structure needs.
    #[error("{what}: {have} bytes, {need} needed")]
    TooShort {
        /// Which structure.
        what: &'static str,
        /// Bytes at hand.
        have: usize,
        /// Bytes that it needs.
        need: usize,
    },
    /// The first six bytes are not those of this copy of a LUKS2 header.
    #[error("no LUKS2 magic")]
    NoMagic,
    /// A LUKS header, but not version 2.
    #[error("LUKS version {0}, only version 2 is known")]
    Version(u16),
    /// `hdr_size` is none of the nine sizes.
    #[error("header size {0} is none of the nine permitted sizes")]
    HeaderSize(u64),
    /// `hdr_offset` does not say where the copy was found.
    #[error("header says that it lies at {stated}, it was found at {found}")]
    HeaderOffset {
        /// What the field says.
        stated: u64,
        /// Where the copy was read.
        found: u64,
    },
    /// The checksum does not fit the bytes.
    #[error("checksum ({algorithm}) does not match")]
    Checksum {
        /// Name of the hash in the header.
        algorithm: String,
    },
    /// The checksum's hash is not one that this program computes.
    #[error("checksum algorithm {0:?} is not known")]
    UnknownChecksum(String),
    /// The UUID field is not the text of a UUID.
    #[error("the UUID field is not a UUID")]
    Uuid,
    /// A label that does not fit: at most 47 bytes and no NUL.
    #[error("a label has at most 47 bytes and no NUL")]
    Label,
    /// The JSON area is not one JSON text followed by zeros.
    #[error("JSON area: {0}")]
    Json(String),
    /// The JSON is well-formed, but breaks a rule of the format.
    #[error("{rule}: {detail}")]
    Rule {
        /// Which rule.
        rule: Rule,
        /// Where and with which value.
        detail: String,
    },
    /// The sequence number is at its end; it is never wrapped.
    #[error("the header's sequence number is at its maximum")]
    SeqIdExhausted,
    /// The metadata does not fit its JSON area. Nothing was written.
    #[error("metadata needs {need} bytes, its area holds {have}")]
    JsonTooBig {
        /// Bytes of the text with its closing NUL.
        need: u64,
        /// Bytes of the JSON area.
        have: u64,
    },
    /// The keyslots area has no gap of this size.
    #[error("no gap of {need} bytes in the keyslots area")]
    NoRoom {
        /// Bytes that were asked for.
        need: u64,
    },
    /// All numbers of this kind of object are taken.
    #[error("all {limit} {what} are in use")]
    Full {
        /// Plural name of the objects.
        what: &'static str,
        /// How many there may be.
        limit: u8,
    },
    /// The number is taken.
    #[error("{what} {number} is in use")]
    InUse {
        /// Name of the object.
        what: &'static str,
        /// Its number.
        number: u8,
    },
    /// There is no object of this number.
    #[error("there is no {what} {number}")]
    Missing {
        /// Name of the object.
        what: &'static str,
        /// Its number.
        number: u8,
    },
    /// The header demands what this program does not know: it is neither opened nor changed.
    #[error("the header requires {}, which this program does not know", .0.join(", "))]
    UnknownRequirement(Vec<String>),
    /// The header is in the middle of a re-encryption, which this edit must not touch.
    #[error("a re-encryption of this device is not finished")]
    ReencryptionInProgress,
    /// The options of a new header contradict each other or the format.
    #[error("{0}")]
    Geometry(String),
    /// The caller asked for a change that its constructor does not permit.
    #[error("not a permitted change: {0}")]
    Misuse(&'static str),
}

impl FormatError {
    /// The broken rule, when the error is one.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        match self {
            Self::Rule { rule, .. } => Some(*rule),
            _ => None,
        }
    }
}
