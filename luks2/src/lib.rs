//! Says what is on disk: LUKS2 bytes and JSON as values that cannot be invalid.
//!
//! The crate reads and writes nothing itself, knows no secret and no cipher. Bytes come in, values go out:
//!
//! * read: [`mod@resolve`] → [`binary`] (4096-byte header, checksum) → [`json`] (text, duplicates and depth refused)
//!   → [`Metadata::parse`] → one function per rule in [`validate`] → [`Resolved`];
//! * write: an edit of [`Metadata`] or [`Header`] gives a new valid value or an error → [`Change`] puts the steps
//!   in the only order that survives a crash → whoever owns the device carries them out → [`Header::encode`].
//!
//! Layout of a header device (all numbers big-endian):
//!
//! ```text
//! 0                  size                2*size               2*size + keyslots_size
//! | binary | JSON ...| binary | JSON ... | keyslots area ...  | (padding) data segments ...
//! |<--- primary ---->|<--- secondary --->|
//! ```
//!
//! Sizes here are bytes unless a name says otherwise.

pub mod area;
pub mod binary;
pub mod canonical;
pub mod change;
pub mod edit;
pub mod error;
pub mod format;
pub mod header;
pub mod json;
mod member;
pub mod metadata;
pub mod parse;
pub mod reencrypt;
pub mod resolve;
pub mod segment;
pub mod token;
pub mod validate;

pub use area::Area;
pub use binary::{ChecksumAlgorithm, HeaderCopy, HeaderSize, Label, SeqId};
pub use canonical::HEADER_MAC_TYPE;
pub use change::{AreaBytes, Change, Fill, Step};
pub use edit::{NewDigest, NewKeyslot};
pub use error::FormatError;
pub use format::{FormatOptions, FormatPlan, new_header};
pub use header::Header;
pub use metadata::{
    AfParams, Config, Digest, Geometry, KdfParams, Keyslot, KeyslotKind, Luks2Slot, Metadata,
    Priority, Requirement, Requirements,
};
pub use reencrypt::{Direction, ReencryptMode, ReencryptSlot, Resilience};
pub use resolve::{CopyState, Repair, RepairReason, ResolveError, Resolved, resolve};
pub use segment::{Crypt, Segment, SegmentKind, SegmentSize};
pub use token::Token;
pub use validate::Rule;
