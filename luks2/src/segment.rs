//! A piece of the data: what lies there and under which cipher.

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What lies there.
    pub kind: SegmentKind,
    /// First byte on the data device; a multiple of 512.
    pub offset: u64,
    /// Length.
    pub size: SegmentSize,
    /// Flags as written, known or not.
    pub flags: Vec<String>,
}

impl Segment {
    /// True for one that says how the device was or will be, not how it is.
    #[must_use]
    pub fn is_backup(&self) -> bool {
        self.flags.iter().any(|flag| flag.starts_with("backup-"))
    }

    /// True if the flag is set.
    #[must_use]
    pub fn has_flag(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag == name)
    }

    /// Cipher data, if it is encrypted by us and not only by the drive.
    #[must_use]
    pub fn crypt(&self) -> Option<&Crypt> {
        match &self.kind {
            SegmentKind::Crypt(crypt) | SegmentKind::OpalCrypt { crypt, .. } => Some(crypt),
            _ => None,
        }
    }
}

/// Length of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentSize {
    /// That many bytes, a multiple of 512 and of the sector size, not 0.
    Fixed(u64),
    /// Up to the end of the data device.
    Dynamic,
}

impl SegmentSize {
    /// The bytes, if fixed.
    #[must_use]
    pub fn fixed(self) -> Option<u64> {
        match self {
            Self::Fixed(bytes) => Some(bytes),
            Self::Dynamic => None,
        }
    }
}

/// What a segment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentKind {
    /// Encrypted.
    Crypt(Crypt),
    /// Plain data.
    Linear,
    /// Encrypted by the drive.
    Opal(Opal),
    /// Encrypted by the drive and by us.
    OpalCrypt {
        /// Our part.
        crypt: Crypt,
        /// The drive's part.
        opal: Opal,
    },
    /// A kind that this program does not know; kept, never opened.
    Other(String),
}

/// How a segment is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crypt {
    /// Cipher as written, e.g. `aes-xts-plain64`.
    pub encryption: String,
    /// Bytes of an encryption sector: 512, 1024, 2048 or 4096.
    pub sector_size: u32,
    /// Tweak of the first sector, in units of 512 bytes.
    pub iv_tweak: u64,
    /// Authentication of sectors, which this program does not do.
    pub integrity: Option<Integrity>,
}

/// The `integrity` object of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integrity {
    /// Algorithm.
    pub kind: String,
    /// Encryption of the journal.
    pub journal_encryption: String,
    /// Authentication of the journal.
    pub journal_integrity: String,
    /// Bytes of the key, if stated.
    pub key_size: Option<u32>,
}

/// Facts of a self-encrypting drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opal {
    /// Number of the locking range.
    pub segment_number: u32,
    /// Bytes of the key.
    pub key_size: u32,
    /// Bytes of the locking range.
    pub segment_size: u64,
}
