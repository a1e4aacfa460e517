//! A new header: where everything goes, and the metadata without keyslots that slots are then added to.
//!
//! Sizes follow the reference, so that what it would make from the same wishes has the same layout.

use serde_json::{Map, Value, json};

use crate::area::{ALIGNMENT, MAX_KEYSLOTS_BYTES};
use crate::binary::{ChecksumAlgorithm, HeaderSize, Label, SeqId};
use crate::edit::NewDigest;
use crate::error::FormatError;
use crate::header::Header;
use crate::metadata::{Geometry, Metadata};

/// Header and keyslots of a new volume take this many bytes together, unless told otherwise.
pub const DEFAULT_TOTAL_BYTES: u64 = 16 * 1024 * 1024;
/// Data starts at a multiple of this many bytes, unless told otherwise.
pub const DEFAULT_DATA_ALIGNMENT: u64 = 1024 * 1024;

/// Wishes for a new header. `None` leaves the choice to the rules of the reference.
#[derive(Debug, Clone)]
pub struct FormatOptions {
    /// Volume label.
    pub label: Label,
    /// Second free label.
    pub subsystem: Label,
    /// Text of the UUID, 36 characters.
    pub uuid: String,
    /// Size of one copy. cryptsetup takes [`HeaderSize::SMALLEST`].
    pub header_size: HeaderSize,
    /// Bytes of the keyslots area; cut to a multiple of 4096 and to 128 MiB.
    pub keyslots_size: Option<u64>,
    /// Where the data starts on its device, in bytes; a multiple of 4096.
    pub data_offset: Option<u64>,
    /// The start of the data is rounded up to this, in bytes, when `data_offset` is left open; 0 for the default.
    pub data_alignment: u64,
    /// True when the header lies on a device of its own.
    pub detached: bool,
    /// Bytes of the header device. A detached header in a file that grows as needed has no length yet: `None`.
    pub header_device_len: Option<u64>,
    /// Bytes of the data device; `None` if it is not at hand (detached).
    pub data_device_len: Option<u64>,
    /// Cipher of the data, e.g. `aes-xts-plain64`.
    pub encryption: String,
    /// Bytes of an encryption sector: 512, 1024, 2048 or 4096.
    pub sector_size: u32,
    /// Persistent activation flags.
    pub flags: Vec<String>,
}

/// Where everything goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatPlan {
    /// Size of one copy.
    pub header_size: HeaderSize,
    /// Bytes of the keyslots area.
    pub keyslots_size: u64,
    /// First byte of the data on its device.
    pub data_offset: u64,
}

impl FormatPlan {
    /// Applies the rules.
    ///
    /// # Errors
    /// [`FormatError::Geometry`], saying which wish cannot be met.
    pub fn new(options: &FormatOptions) -> Result<Self, FormatError> {
        let both = options.header_size.keyslots_offset();
        let attached_offset = if options.detached {
            None
        } else {
            options.data_offset
        };
        if let Some(offset) = options.data_offset.filter(|offset| offset % ALIGNMENT != 0) {
            return geometry(format!(
                "data offset {offset} is not a multiple of {ALIGNMENT}"
            ));
        }
        if let Some(offset) = attached_offset.filter(|offset| *offset < both) {
            return geometry(format!(
                "data offset {offset} lies inside of the {both} bytes of header"
            ));
        }
        let wish = match (options.keyslots_size, attached_offset) {
            (Some(size), _) => size,
            (None, Some(offset)) => offset - both,
            (None, None) => DEFAULT_TOTAL_BYTES - both,
        };
        let mut keyslots_size = wish.min(MAX_KEYSLOTS_BYTES) / ALIGNMENT * ALIGNMENT;
        if options.detached && options.keyslots_size.is_none() {
            // A header device that is too small for the usual area gets the area that fits it.
            if let Some(len) = options.header_device_len {
                keyslots_size = keyslots_size.min(len.saturating_sub(both) / ALIGNMENT * ALIGNMENT);
            }
        }
        let total = both + keyslots_size;
        let data_offset = match (options.data_offset, options.detached) {
            (Some(offset), _) => offset,
            (None, true) => 0,
            (None, false) => align(total, options.data_alignment)?,
        };
        if data_offset != 0 && data_offset < total {
            if options.keyslots_size.is_some() {
                return geometry(format!(
                    "header and keyslots take {total} bytes, data starts at {data_offset}"
                ));
            }
            if data_offset < both {
                return geometry(format!(
                    "data offset {data_offset} is not 0 and lies inside of {both} bytes"
                ));
            }
            keyslots_size = (data_offset - both) / ALIGNMENT * ALIGNMENT;
        }
        let plan = Self {
            header_size: options.header_size,
            keyslots_size,
            data_offset,
        };
        plan.check_devices(options)?;
        Ok(plan)
    }

    /// Bytes of both copies and the keyslots area.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.header_size.keyslots_offset() + self.keyslots_size
    }

    fn check_devices(&self, options: &FormatOptions) -> Result<(), FormatError> {
        let total = self.total_bytes();
        if let Some(len) = options.header_device_len.filter(|len| *len < total) {
            return geometry(format!(
                "header and keyslots take {total} bytes, the device has {len}"
            ));
        }
        let Some(len) = options.data_device_len else {
            return Ok(());
        };
        let sector = u64::from(options.sector_size);
        let data = len.saturating_sub(self.data_offset);
        if data == 0 || (sector > 0 && data < sector) {
            return geometry(format!(
                "no room for data: it starts at {}, the device has {len} bytes",
                self.data_offset
            ));
        }
        if sector > 0 && data % sector != 0 {
            return geometry(format!(
                "{data} bytes of data are no multiple of the sector size {sector}"
            ));
        }
        Ok(())
    }
}

/// The header of a new volume, with the digest of its volume key and no keyslots yet; sequence number 1. Add the first
/// slots by [`Metadata::with_keyslot`] under digest 0, put the result in by [`Header::with_metadata`], and write it by
/// [`crate::Change::format`].
///
/// # Errors
/// [`FormatError::Geometry`] and [`FormatError::Uuid`]; a rule that an option breaks, such as the sector size.
pub fn new_header(options: &FormatOptions, digest: &NewDigest) -> Result<Header, FormatError> {
    crate::binary::check_uuid(&options.uuid)?;
    let plan = FormatPlan::new(options)?;
    let mut config = Map::new();
    config.insert(
        "json_size".into(),
        plan.header_size.json_bytes().to_string().into(),
    );
    config.insert(
        "keyslots_size".into(),
        plan.keyslots_size.to_string().into(),
    );
    if !options.flags.is_empty() {
        config.insert("flags".into(), options.flags.clone().into());
    }
    let digest = NewDigest {
        segments: vec![0],
        ..digest.clone()
    };
    let root = json!({
        "keyslots": {},
        "tokens": {},
        "segments": {"0": {
            "type": "crypt",
            "offset": plan.data_offset.to_string(),
            "size": "dynamic",
            "iv_tweak": "0",
            "encryption": options.encryption,
            "sector_size": options.sector_size,
        }},
        "digests": {"0": digest.to_value(&[])},
        "config": Value::Object(config),
    });
    let metadata = Metadata::from_value(
        root,
        &Geometry {
            header_size: plan.header_size,
        },
    )?;
    Ok(Header {
        size: plan.header_size,
        seqid: SeqId(1),
        label: options.label.clone(),
        subsystem: options.subsystem.clone(),
        uuid: options.uuid.clone(),
        checksum: ChecksumAlgorithm::Sha256,
        metadata,
    })
}

fn align(bytes: u64, alignment: u64) -> Result<u64, FormatError> {
    let alignment = if alignment == 0 {
        DEFAULT_DATA_ALIGNMENT
    } else {
        alignment
    };
    if alignment % 512 != 0 {
        return geometry(format!(
            "data alignment {alignment} is not a multiple of 512"
        ));
    }
    match bytes.checked_next_multiple_of(alignment) {
        Some(aligned) => Ok(aligned),
        None => geometry(format!("data alignment {alignment} is too large")),
    }
}

fn geometry<T>(text: String) -> Result<T, FormatError> {
    Err(FormatError::Geometry(text))
}
