//! From a header and its keys to a volume that can be served.
//!
//! [`VolumePlan`] is everything about a volume that is not secret: plain data that may be kept,
//! printed and carried across a fork. [`OpenVolume`] is the plan with its ciphers. A server that has
//! to start again builds it from the plan and the handed-over keys, without reading the header.

use std::fmt;
use std::sync::Arc;

use luksmith_crypto::{AllowNull, CipherSpec, CryptoError, SectorCipher, SectorSize, VolumeKey};
use luksmith_luks2::{Header, SegmentKind, SegmentSize};

use crate::gate::{IoGate, Lane};
use crate::map::{Part, SegmentMap};

/// Why a header does not make a volume that this program may open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// The header demands something that this program does not know.
    #[error("the header requires {}, which this program does not know", .0.join(", "))]
    UnknownRequirement(Vec<String>),
    /// The header demands something that this program knows and does not support.
    #[error("the header requires {0}, which is not supported")]
    UnsupportedRequirement(&'static str),
    /// A re-encryption has begun and not ended.
    #[error("a re-encryption of this volume is not finished")]
    ReencryptionInProgress,
    /// A segment of a kind that cannot be opened.
    #[error("segment {segment} is {what}, which is not supported")]
    UnsupportedSegment {
        /// Its number.
        segment: u8,
        /// What it is.
        what: String,
    },
    /// No key was given for a segment.
    #[error("no volume key for digest {digest}, which segment {segment} is under")]
    MissingKey {
        /// The segment.
        segment: u8,
        /// The digest whose key is missing.
        digest: u8,
    },
    /// A segment is in no digest, or in more than one.
    #[error("segment {segment} is under {digests} volume keys, one is needed")]
    AmbiguousKey {
        /// The segment.
        segment: u8,
        /// Number of digests that list it.
        digests: usize,
    },
    /// A segment that is not encrypted, without a re-encryption that would explain it.
    #[error("segment {segment} is not encrypted")]
    Plain {
        /// The segment.
        segment: u8,
    },
    /// Header and data share a device, and the data would overwrite the header.
    #[error("segment {segment} begins at byte {offset}, inside the {header_len} bytes of header")]
    InsideHeader {
        /// The segment.
        segment: u8,
        /// Its first byte.
        offset: u64,
        /// Bytes of both header copies and the keyslots area.
        header_len: u64,
    },
    /// The data does not fit the data device.
    #[error("segment {segment} ends at byte {end}, the data device has {device_len}")]
    DeviceTooSmall {
        /// The segment.
        segment: u8,
        /// First byte behind it, or behind its first sector if its length is dynamic.
        end: u64,
        /// Length of the data device.
        device_len: u64,
    },
    /// The cipher cannot be used, or not with this key.
    #[error("segment {segment}: {encryption} cannot be used")]
    Cipher {
        /// The segment.
        segment: u8,
        /// Cipher as written in the header.
        encryption: String,
        /// Why.
        #[source]
        source: CryptoError,
    },
}

/// What is known of a volume without its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePlan {
    /// Text of the UUID.
    pub uuid: String,
    /// Label; empty if there is none.
    pub label: String,
    /// Cipher as written in the header.
    pub encryption: String,
    /// Bytes of an encryption sector: the smallest unit that the volume can be read in.
    pub sector_size: u32,
    /// Length in bytes.
    pub len: u64,
    /// The header says that discards may be passed on.
    pub allow_discards: bool,
    segments: Vec<PlannedSegment>,
    allow_null: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PlannedSegment {
    number: u8,
    backing_offset: u64,
    len: u64,
    /// `None` for plain data.
    crypt: Option<PlannedCrypt>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PlannedCrypt {
    encryption: String,
    sector_size: u32,
    iv_tweak: u64,
    digest: u8,
}

impl VolumePlan {
    /// Checks that the header describes a volume that can be opened, on a data device of
    /// `device_len` bytes.
    ///
    /// # Errors
    /// See [`VolumeError`]; whatever is not understood is refused by its name.
    pub fn new(
        header: &Header,
        device_len: u64,
        allow_null: AllowNull,
    ) -> Result<Self, VolumeError> {
        let metadata = header.metadata();
        let requirements = metadata.requirements();
        if !requirements.unknown.is_empty() {
            return Err(VolumeError::UnknownRequirement(
                requirements.unknown.clone(),
            ));
        }
        if metadata.reencryption_in_progress() {
            return Err(VolumeError::ReencryptionInProgress);
        }
        if let Some(requirement) = requirements.known.first() {
            return Err(VolumeError::UnsupportedRequirement(requirement.name()));
        }
        let mut segments = Vec::new();
        for (number, segment) in metadata.regular_segments() {
            let unsupported = |what: &str| VolumeError::UnsupportedSegment {
                segment: number,
                what: what.to_owned(),
            };
            let crypt = match &segment.kind {
                // Plain segments belong to a re-encryption. In a header at rest, somebody with the
                // disk in hand put it there, so that what is written lies in the clear: the same
                // trick as a null cipher, behind the same switch.
                SegmentKind::Linear if allow_null == AllowNull::No => {
                    return Err(VolumeError::Plain { segment: number });
                }
                SegmentKind::Linear => None,
                SegmentKind::Crypt(crypt) => {
                    if let Some(integrity) = &crypt.integrity {
                        return Err(unsupported(&format!("authenticated ({})", integrity.kind)));
                    }
                    check_cipher(number, &crypt.encryption, crypt.sector_size, allow_null)?;
                    let digests: Vec<u8> = metadata
                        .digests_of_segment(number)
                        .map(|(digest, _)| digest)
                        .collect();
                    let [digest] = digests[..] else {
                        return Err(VolumeError::AmbiguousKey {
                            segment: number,
                            digests: digests.len(),
                        });
                    };
                    Some(PlannedCrypt {
                        encryption: crypt.encryption.clone(),
                        sector_size: crypt.sector_size,
                        iv_tweak: crypt.iv_tweak,
                        digest,
                    })
                }
                SegmentKind::Opal(_) | SegmentKind::OpalCrypt { .. } => {
                    return Err(unsupported("encrypted by the drive (OPAL)"));
                }
                SegmentKind::Other(kind) => {
                    return Err(unsupported(&format!("of unknown type {kind:?}")));
                }
            };
            let unit = u64::from(crypt.as_ref().map_or(512, |c| c.sector_size));
            let len = match segment.size {
                SegmentSize::Fixed(len) => len,
                // A last piece that is smaller than a sector cannot be encrypted.
                SegmentSize::Dynamic => device_len.saturating_sub(segment.offset) / unit * unit,
            };
            let end = segment.offset.checked_add(len.max(unit));
            if len == 0 || end.is_none_or(|end| end > device_len) {
                return Err(VolumeError::DeviceTooSmall {
                    segment: number,
                    end: end.unwrap_or(u64::MAX),
                    device_len,
                });
            }
            segments.push(PlannedSegment {
                number,
                backing_offset: segment.offset,
                len,
                crypt,
            });
        }
        let crypts = || segments.iter().filter_map(|s| s.crypt.as_ref());
        Ok(Self {
            uuid: header.uuid().to_owned(),
            label: header.label().display(),
            encryption: crypts()
                .next()
                .map_or_else(|| "none".to_owned(), |c| c.encryption.clone()),
            sector_size: crypts().map(|c| c.sector_size).max().unwrap_or(512),
            len: segments.iter().map(|s| s.len).sum(),
            allow_discards: metadata.flags().iter().any(|flag| flag == "allow-discards"),
            segments,
            allow_null: allow_null == AllowNull::Yes,
        })
    }

    /// For a header that lies on the data device itself: none of the data may lie where the header
    /// does. A detached header used without its data device is such a case (its data begin at
    /// byte 0), and so is a forged one.
    ///
    /// # Errors
    /// [`VolumeError::InsideHeader`].
    pub fn check_clear_of_header(&self, header: &Header) -> Result<(), VolumeError> {
        let header_len = header.metadata().total_bytes();
        match self.segments.iter().find(|s| s.backing_offset < header_len) {
            None => Ok(()),
            Some(segment) => Err(VolumeError::InsideHeader {
                segment: segment.number,
                offset: segment.backing_offset,
                header_len,
            }),
        }
    }

    /// The digests whose keys [`open`](Self::open) needs, each once.
    pub fn digests(&self) -> Vec<u8> {
        let mut digests: Vec<u8> = self
            .segments
            .iter()
            .filter_map(|s| s.crypt.as_ref().map(|c| c.digest))
            .collect();
        digests.sort_unstable();
        digests.dedup();
        digests
    }

    /// Whether all of the volume lies in one piece from this byte of the data device on.
    pub fn data_offset(&self) -> u64 {
        self.segments.first().map_or(0, |s| s.backing_offset)
    }

    /// Makes the ciphers. `keys` pairs each digest's number with its volume key.
    ///
    /// # Errors
    /// A missing key, or one that the cipher cannot take.
    pub fn open(&self, keys: &[(u8, VolumeKey)]) -> Result<OpenVolume, VolumeError> {
        let allow_null = match self.allow_null {
            true => AllowNull::Yes,
            false => AllowNull::No,
        };
        let mut parts = Vec::with_capacity(self.segments.len());
        let mut key_bits = 0;
        for segment in &self.segments {
            let mut cipher = None;
            if let Some(crypt) = &segment.crypt {
                let key = keys.iter().find(|(digest, _)| *digest == crypt.digest);
                let Some((_, key)) = key else {
                    return Err(VolumeError::MissingKey {
                        segment: segment.number,
                        digest: crypt.digest,
                    });
                };
                let (spec, sector_size) = check_cipher(
                    segment.number,
                    &crypt.encryption,
                    crypt.sector_size,
                    allow_null,
                )?;
                let made = SectorCipher::new(spec, key, sector_size)
                    .map_err(|source| refused(segment.number, &crypt.encryption, source))?;
                key_bits = key_bits.max(key.len() * 8);
                cipher = Some(Arc::new(made));
            }
            parts.push(Part {
                len: segment.len,
                backing_offset: segment.backing_offset,
                iv_tweak: segment.crypt.as_ref().map_or(0, |c| c.iv_tweak),
                cipher,
            });
        }
        Ok(OpenVolume {
            plan: self.clone(),
            key_bits,
            gate: IoGate::new(Arc::new(SegmentMap::new(parts))),
        })
    }
}

/// A volume with its ciphers, ready to be served.
pub struct OpenVolume {
    plan: VolumePlan,
    key_bits: usize,
    gate: Arc<IoGate<SegmentMap>>,
}

impl OpenVolume {
    /// [`VolumePlan::new`] and [`VolumePlan::open`] in one.
    ///
    /// # Errors
    /// See [`VolumeError`].
    pub fn new(
        header: &Header,
        keys: &[(u8, VolumeKey)],
        device_len: u64,
        allow_null: AllowNull,
    ) -> Result<Self, VolumeError> {
        VolumePlan::new(header, device_len, allow_null)?.open(keys)
    }

    /// What is not secret.
    pub fn plan(&self) -> &VolumePlan {
        &self.plan
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.plan.len
    }

    /// Whether the volume has no bytes; never true.
    pub fn is_empty(&self) -> bool {
        self.plan.len == 0
    }

    /// Bytes of an encryption sector.
    pub fn sector_size(&self) -> u32 {
        self.plan.sector_size
    }

    /// Bits of the volume key, as other programs count them (both halves of XTS).
    pub fn key_bits(&self) -> usize {
        self.key_bits
    }

    /// The gate that every request passes.
    pub fn gate(&self) -> &Arc<IoGate<SegmentMap>> {
        &self.gate
    }

    /// An entrance to the gate for one queue thread.
    pub fn lane(&self) -> Lane<SegmentMap> {
        self.gate.lane()
    }
}

impl fmt::Debug for OpenVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenVolume")
            .field("plan", &self.plan)
            .field("key_bits", &self.key_bits)
            .finish_non_exhaustive()
    }
}

fn check_cipher(
    segment: u8,
    encryption: &str,
    sector_size: u32,
    allow_null: AllowNull,
) -> Result<(CipherSpec, SectorSize), VolumeError> {
    let spec = CipherSpec::parse(encryption, allow_null)
        .map_err(|source| refused(segment, encryption, source))?;
    let size =
        SectorSize::new(sector_size).map_err(|source| refused(segment, encryption, source))?;
    Ok((spec, size))
}

fn refused(segment: u8, encryption: &str, source: CryptoError) -> VolumeError {
    VolumeError::Cipher {
        segment,
        encryption: encryption.to_owned(),
        source,
    }
}
