//! The 4096-byte binary header in front of each JSON area, and its checksum.
//!
//! First step of a read, last step of a write. Only the first 512 bytes carry fields; the rest is zero and covered by
//! the checksum. Offsets are those of the LUKS2 on-disk format; both copies hold the same values save magic,
//! `hdr_offset`, salt and checksum.

use sha1::Sha1;
use sha2::{Sha256, Sha512};

use crate::error::FormatError;

/// Bytes of the binary header of one copy.
pub const BINARY_BYTES: usize = 4096;
/// Bytes of the salt, which makes the checksums of equal metadata differ.
pub const SALT_BYTES: usize = 64;

const MAGIC_PRIMARY: [u8; 6] = *b"LUKS\xba\xbe";
const MAGIC_SECONDARY: [u8; 6] = *b"SKUL\xba\xbe";
const VERSION: u16 = 2;

// Field offsets and lengths.
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 6;
const AT_HDR_SIZE: usize = 8;
const AT_SEQID: usize = 16;
const AT_LABEL: usize = 24;
const AT_CSUM_ALG: usize = 72;
const AT_SALT: usize = 104;
const AT_UUID: usize = 168;
const AT_SUBSYSTEM: usize = 208;
const AT_HDR_OFFSET: usize = 256;
const AT_CSUM: usize = 448;
const LABEL_BYTES: usize = 48;
const CSUM_ALG_BYTES: usize = 32;
const UUID_BYTES: usize = 40;
const CSUM_BYTES: usize = 64;

const _: () = assert!(AT_CSUM_ALG == AT_LABEL + LABEL_BYTES);
const _: () = assert!(AT_SALT == AT_CSUM_ALG + CSUM_ALG_BYTES);
const _: () = assert!(AT_UUID == AT_SALT + SALT_BYTES);
const _: () = assert!(AT_SUBSYSTEM == AT_UUID + UUID_BYTES);
const _: () = assert!(AT_HDR_OFFSET == AT_SUBSYSTEM + LABEL_BYTES);
const _: () = assert!(AT_CSUM + CSUM_BYTES == 512);

/// Which of the two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeaderCopy {
    /// The copy at offset 0.
    Primary,
    /// The copy at offset `hdr_size`.
    Secondary,
}

impl HeaderCopy {
    /// Where this copy starts on the header device, in bytes.
    #[must_use]
    pub fn offset(self, size: HeaderSize) -> u64 {
        match self {
            Self::Primary => 0,
            Self::Secondary => size.bytes(),
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }

    /// `primary` or `secondary`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }

    fn magic(self) -> &'static [u8; 6] {
        match self {
            Self::Primary => &MAGIC_PRIMARY,
            Self::Secondary => &MAGIC_SECONDARY,
        }
    }
}

/// Size of one copy of the header: one of nine, 16 KiB to 4 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderSize(u64);

impl HeaderSize {
    /// All nine, ascending. They are also the offsets at which a secondary copy may lie.
    pub const ALL: [Self; 9] = [
        Self(0x4000),
        Self(0x8000),
        Self(0x10000),
        Self(0x20000),
        Self(0x40000),
        Self(0x80000),
        Self(0x10_0000),
        Self(0x20_0000),
        Self(0x40_0000),
    ];

    /// 16 KiB, what cryptsetup makes unless told otherwise.
    pub const SMALLEST: Self = Self(0x4000);

    /// # Errors
    /// [`FormatError::HeaderSize`] unless `bytes` is one of the nine.
    pub fn new(bytes: u64) -> Result<Self, FormatError> {
        if Self::ALL.contains(&Self(bytes)) {
            Ok(Self(bytes))
        } else {
            Err(FormatError::HeaderSize(bytes))
        }
    }

    /// Bytes of one copy: binary header and JSON area.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Bytes of the JSON area of one copy.
    #[must_use]
    pub fn json_bytes(self) -> u64 {
        self.0 - BINARY_BYTES as u64
    }

    /// Where the keyslots area starts: behind both copies.
    #[must_use]
    pub fn keyslots_offset(self) -> u64 {
        2 * self.0
    }
}

/// Sequence number of a header; grows by one with each commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

impl SeqId {
    /// The number of the next commit.
    ///
    /// # Errors
    /// [`FormatError::SeqIdExhausted`] at the end: a wrapped number would make the oldest copy the winner.
    pub fn next(self) -> Result<Self, FormatError> {
        self.0
            .checked_add(1)
            .map(Self)
            .ok_or(FormatError::SeqIdExhausted)
    }
}

/// A label or subsystem name: at most 47 bytes without NUL, not necessarily UTF-8.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Label(Vec<u8>);

impl Label {
    /// # Errors
    /// [`FormatError::Label`] if longer than 47 bytes or if there is a NUL in it.
    pub fn new(text: &str) -> Result<Self, FormatError> {
        Self::from_bytes(text.as_bytes())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() >= LABEL_BYTES || bytes.contains(&0) {
            return Err(FormatError::Label);
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes as on disk, without the NUL.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// True when no label is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For people: bytes that are no UTF-8 become replacement characters, and control characters are escaped so that a
    /// label from a foreign disk cannot steer a terminal.
    #[must_use]
    pub fn display(&self) -> String {
        let mut out = String::new();
        for c in String::from_utf8_lossy(&self.0).chars() {
            if c.is_control() {
                out.extend(c.escape_default())
            } else {
                out.push(c)
            }
        }
        out
    }
}

impl std::fmt::Debug for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Label({:?})", self.display())
    }
}

/// The hash of a header's checksum. It detects accidents; it has no key, so it stops no attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    /// Read and kept where it is found; not for new headers.
    Sha1,
    /// What every known writer uses.
    Sha256,
    /// 64 bytes, the whole field.
    Sha512,
}

impl ChecksumAlgorithm {
    /// By the name in the header. Letters of either case, as the hash libraries take them.
    ///
    /// # Errors
    /// [`FormatError::UnknownChecksum`] for any other name.
    pub fn from_name(name: &str) -> Result<Self, FormatError> {
        match name.to_ascii_lowercase().as_str() {
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(FormatError::UnknownChecksum(
                name.chars().take(CSUM_ALG_BYTES).collect(),
            )),
        }
    }

    /// The name as it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn sum(self, parts: [&[u8]; 2]) -> Vec<u8> {
        fn over<D: sha2::Digest>(parts: [&[u8]; 2]) -> Vec<u8> {
            let mut hash = D::new();
            for part in parts {
                hash.update(part);
            }
            hash.finalize().to_vec()
        }
        match self {
            Self::Sha1 => over::<Sha1>(parts),
            Self::Sha256 => over::<Sha256>(parts),
            Self::Sha512 => over::<Sha512>(parts),
        }
    }
}

/// The fields of a binary header that carry meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinaryHeader {
    /// Size of one copy.
    pub size: HeaderSize,
    /// Number of the commit that wrote it.
    pub seqid: SeqId,
    /// Volume label.
    pub label: Label,
    /// Second free label.
    pub subsystem: Label,
    /// Text of the UUID as written.
    pub uuid: String,
    /// Hash of the checksum.
    pub checksum: ChecksumAlgorithm,
    /// Random bytes of this copy.
    pub salt: [u8; SALT_BYTES],
}

impl BinaryHeader {
    /// Reads the fields of `copy`, which was found at `found_at` bytes. Does not look at the checksum, which needs the
    /// JSON area as well: [`verify_checksum`].
    ///
    /// # Errors
    /// Too few bytes, another magic, version, size or offset than the place demands, an unknown checksum, no UUID.
    pub fn decode(bytes: &[u8], copy: HeaderCopy, found_at: u64) -> Result<Self, FormatError> {
        if bytes.len() < BINARY_BYTES {
            return Err(FormatError::TooShort {
                what: "binary header",
                have: bytes.len(),
                need: BINARY_BYTES,
            });
        }
        if &bytes[AT_MAGIC..AT_MAGIC + 6] != copy.magic() {
            return Err(FormatError::NoMagic);
        }
        let version = u16::from_be_bytes([bytes[AT_VERSION], bytes[AT_VERSION + 1]]);
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let size = HeaderSize::new(read_u64(bytes, AT_HDR_SIZE))?;
        let stated = read_u64(bytes, AT_HDR_OFFSET);
        if stated != found_at || found_at != copy.offset(size) {
            return Err(FormatError::HeaderOffset {
                stated,
                found: found_at,
            });
        }
        let uuid = uuid_text(field(bytes, AT_UUID, UUID_BYTES)?)?;
        let name = field(bytes, AT_CSUM_ALG, CSUM_ALG_BYTES)?;
        let checksum = ChecksumAlgorithm::from_name(&String::from_utf8_lossy(name))?;
        let mut salt = [0; SALT_BYTES];
        salt.copy_from_slice(&bytes[AT_SALT..AT_SALT + SALT_BYTES]);
        Ok(Self {
            size,
            seqid: SeqId(read_u64(bytes, AT_SEQID)),
            label: Label::from_bytes(field(bytes, AT_LABEL, LABEL_BYTES)?)?,
            subsystem: Label::from_bytes(field(bytes, AT_SUBSYSTEM, LABEL_BYTES)?)?,
            uuid,
            checksum,
            salt,
        })
    }

    /// One whole copy: binary header with its checksum, then the JSON text padded with zeros.
    ///
    /// # Errors
    /// [`FormatError::JsonTooBig`] if the text and its closing NUL do not fit.
    pub fn encode(&self, copy: HeaderCopy, json: &[u8]) -> Result<Vec<u8>, FormatError> {
        let need = json.len() as u64 + 1;
        if need > self.size.json_bytes() {
            return Err(FormatError::JsonTooBig {
                need,
                have: self.size.json_bytes(),
            });
        }
        let total = usize::try_from(self.size.bytes())
            .map_err(|_| FormatError::HeaderSize(self.size.bytes()))?;
        let mut out = vec![0; total];
        out[AT_MAGIC..AT_MAGIC + 6].copy_from_slice(copy.magic());
        out[AT_VERSION..AT_VERSION + 2].copy_from_slice(&VERSION.to_be_bytes());
        write_u64(&mut out, AT_HDR_SIZE, self.size.bytes());
        write_u64(&mut out, AT_SEQID, self.seqid.0);
        put(&mut out, AT_LABEL, self.label.as_bytes());
        put(&mut out, AT_CSUM_ALG, self.checksum.name().as_bytes());
        put(&mut out, AT_SALT, &self.salt);
        put(&mut out, AT_UUID, self.uuid.as_bytes());
        put(&mut out, AT_SUBSYSTEM, self.subsystem.as_bytes());
        write_u64(&mut out, AT_HDR_OFFSET, copy.offset(self.size));
        put(&mut out, BINARY_BYTES, json);
        write_checksum(&mut out, self.checksum);
        Ok(out)
    }
}

/// Compares the checksum of one whole copy (binary header and JSON area).
///
/// # Errors
/// [`FormatError::Checksum`] if it does not match, [`FormatError::TooShort`] for less than a binary header.
pub fn verify_checksum(copy: &[u8], algorithm: ChecksumAlgorithm) -> Result<(), FormatError> {
    if copy.len() < BINARY_BYTES {
        return Err(FormatError::TooShort {
            what: "header copy",
            have: copy.len(),
            need: BINARY_BYTES,
        });
    }
    // The unused rest of the field is zero: no byte of a copy is outside of the check.
    let mut field = checksum_of(copy, algorithm);
    field.resize(CSUM_BYTES, 0);
    if copy[AT_CSUM..AT_CSUM + CSUM_BYTES] == field[..] {
        Ok(())
    } else {
        Err(FormatError::Checksum {
            algorithm: algorithm.name().to_owned(),
        })
    }
}

/// Puts the right checksum into one whole copy, whatever else is in it. For fuzzing and for making broken images whose
/// fault is not the checksum.
///
/// # Panics
/// If `copy` is shorter than a binary header.
pub fn write_checksum(copy: &mut [u8], algorithm: ChecksumAlgorithm) {
    let sum = checksum_of(copy, algorithm);
    copy[AT_CSUM..AT_CSUM + CSUM_BYTES].fill(0);
    put(copy, AT_CSUM, &sum);
}

fn checksum_of(copy: &[u8], algorithm: ChecksumAlgorithm) -> Vec<u8> {
    let mut binary = [0; BINARY_BYTES];
    binary.copy_from_slice(&copy[..BINARY_BYTES]);
    binary[AT_CSUM..AT_CSUM + CSUM_BYTES].fill(0);
    algorithm.sum([&binary, &copy[BINARY_BYTES..]])
}

/// A text field up to its NUL. Like the reference, a field without one ends at its last byte but one.
fn field(bytes: &[u8], at: usize, len: usize) -> Result<&[u8], FormatError> {
    let field = &bytes[at..at + len - 1];
    Ok(field.split(|byte| *byte == 0).next().unwrap_or_default())
}

fn uuid_text(field: &[u8]) -> Result<String, FormatError> {
    let text = std::str::from_utf8(field).map_err(|_| FormatError::Uuid)?;
    check_uuid(text)?;
    Ok(text.to_owned())
}

/// The UUID goes into names of links, locks and state directories, hence nothing but its canonical form is let in.
pub(crate) fn check_uuid(text: &str) -> Result<(), FormatError> {
    if text.len() != 36 {
        return Err(FormatError::Uuid);
    }
    uuid::Uuid::try_parse(text)
        .map(|_| ())
        .map_err(|_| FormatError::Uuid)
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(value)
}

fn write_u64(bytes: &mut [u8], at: usize, value: u64) {
    put(bytes, at, &value.to_be_bytes());
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
