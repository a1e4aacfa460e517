//! [`Header`]: one committed state of a LUKS2 header, that is, binary fields and metadata.

use crate::binary::{
    BinaryHeader, ChecksumAlgorithm, HeaderCopy, HeaderSize, Label, SALT_BYTES, SeqId,
};
use crate::error::FormatError;
use crate::metadata::{Geometry, Metadata};

/// One state of a header. Both copies on disk say the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    pub(crate) size: HeaderSize,
    pub(crate) seqid: SeqId,
    pub(crate) label: Label,
    pub(crate) subsystem: Label,
    pub(crate) uuid: String,
    pub(crate) checksum: ChecksumAlgorithm,
    pub(crate) metadata: Metadata,
}

impl Header {
    /// Size of one copy.
    #[must_use]
    pub fn size(&self) -> HeaderSize {
        self.size
    }
    /// Number of the commit.
    #[must_use]
    pub fn seqid(&self) -> SeqId {
        self.seqid
    }
    /// Volume label.
    #[must_use]
    pub fn label(&self) -> &Label {
        &self.label
    }
    /// Second free label.
    #[must_use]
    pub fn subsystem(&self) -> &Label {
        &self.subsystem
    }
    /// Text of the UUID as written; always 36 characters.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.uuid
    }
    /// Hash of the checksums.
    #[must_use]
    pub fn checksum(&self) -> ChecksumAlgorithm {
        self.checksum
    }
    /// The JSON part.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Bytes of one copy, `size().bytes()` of them, ready to be written at [`HeaderCopy::offset`]. `salt` should be
    /// random and differ between the copies.
    ///
    /// # Panics
    /// Never: metadata of this type fits its area.
    #[must_use]
    pub fn encode(&self, copy: HeaderCopy, salt: [u8; SALT_BYTES]) -> Vec<u8> {
        let binary = BinaryHeader {
            size: self.size,
            seqid: self.seqid,
            label: self.label.clone(),
            subsystem: self.subsystem.clone(),
            uuid: self.uuid.clone(),
            checksum: self.checksum,
            salt,
        };
        binary
            .encode(copy, &self.metadata.to_json_bytes())
            .expect("metadata was checked against the size of its area")
    }

    /// Reads one whole copy: fields, checksum, JSON, rules.
    ///
    /// # Errors
    /// Whatever is wrong with it first.
    pub fn decode(
        bytes: &[u8],
        copy: HeaderCopy,
        found_at: u64,
    ) -> Result<(Self, [u8; SALT_BYTES]), FormatError> {
        let binary = BinaryHeader::decode(bytes, copy, found_at)?;
        let need = usize::try_from(binary.size.bytes())
            .map_err(|_| FormatError::HeaderSize(binary.size.bytes()))?;
        let Some(bytes) = bytes.get(..need) else {
            return Err(FormatError::TooShort {
                what: "header copy",
                have: bytes.len(),
                need,
            });
        };
        crate::binary::verify_checksum(bytes, binary.checksum)?;
        let geometry = Geometry {
            header_size: binary.size,
        };
        let text = crate::json::text_of_area(&bytes[crate::binary::BINARY_BYTES..])?;
        let metadata = Metadata::parse(text, &geometry)?;
        let header = Self {
            size: binary.size,
            seqid: binary.seqid,
            label: binary.label,
            subsystem: binary.subsystem,
            uuid: binary.uuid,
            checksum: binary.checksum,
            metadata,
        };
        Ok((header, binary.salt))
    }

    /// The same with other metadata; the sequence number stays, a [`crate::Change`] counts it up.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] if the metadata was made for another header size.
    pub fn with_metadata(&self, metadata: Metadata) -> Result<Self, FormatError> {
        if metadata.geometry.header_size != self.size {
            return Err(FormatError::Misuse("metadata of another header size"));
        }
        Ok(Self {
            metadata,
            ..self.clone()
        })
    }

    /// The same with another volume label.
    #[must_use]
    pub fn with_label(&self, label: Label) -> Self {
        Self {
            label,
            ..self.clone()
        }
    }

    /// The same with another subsystem label.
    #[must_use]
    pub fn with_subsystem(&self, subsystem: Label) -> Self {
        Self {
            subsystem,
            ..self.clone()
        }
    }

    /// The same with another UUID.
    ///
    /// # Errors
    /// [`FormatError::Uuid`] unless it is the 36-character text of a UUID.
    pub fn with_uuid(&self, uuid: &str) -> Result<Self, FormatError> {
        crate::binary::check_uuid(uuid)?;
        Ok(Self {
            uuid: uuid.to_owned(),
            ..self.clone()
        })
    }

    /// True when both say the same, whatever their sequence numbers.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        Self {
            seqid: other.seqid,
            ..self.clone()
        } == *other
    }
}
