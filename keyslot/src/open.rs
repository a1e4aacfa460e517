//! One slot, one secret: the place where every unlock ends. Step 3 of the unlock path.
//!
//! Cost caps, key derivation, decryption of the key area, merge of its stripes, digest: in this
//! order and nowhere else in the reading half of the crate.

use std::fmt;

use luksmith_crypto::{
    AllowNull, CipherSpec, CryptoError, Hash, Kdf, KdfCaps, KeyDigest, Passphrase, SecretBytes,
    SectorCipher, VerifyError, VolumeKey,
};
use luksmith_luks2::{Digest, Header, Luks2Slot, Metadata, SegmentKind};

use crate::cipher_name;
use crate::error::{SlotError, UnlockError, UnlockErrorKind};
use crate::policy::OpenLimits;
use crate::seal;

/// A key that fitted its digest, and where it came from.
pub struct Unlocked {
    /// The slot that opened; `None` if the volume key itself was given.
    pub slot: Option<u8>,
    /// The digest that the key fits.
    pub digest: u8,
    /// True if the digest covers a data segment; false for the key of an unbound slot.
    pub bound: bool,
    /// The key.
    pub key: VolumeKey,
}

/// Tries one slot with one passphrase.
///
/// `area` is the slot's key area as read from the device, ciphertext; at least [`area_bytes`] of
/// it, more does no harm.
///
/// In this order: the header has no unknown requirement and names no cipher that protects
/// nothing; the slot holds a key whose length fits the data; the costs of its KDF lie within the
/// caps; only then work and memory are spent.
///
/// # Errors
/// [`SlotError::WrongSecret`] if the digest does not fit: a wrong passphrase and a damaged area
/// cannot be told apart. Every other variant means that the passphrase was not judged at all.
pub fn open_slot(
    header: &Header,
    slot: u8,
    area: &[u8],
    passphrase: &Passphrase,
    limits: &OpenLimits,
) -> Result<Unlocked, SlotError> {
    let checked = CheckedSlot::new(header.metadata(), slot, limits)?;
    let needed = area_bytes_for(checked.key_bytes);
    let material = area.get(..needed).ok_or(SlotError::AreaShort {
        slot,
        found: area.len(),
        expected: needed,
    })?;
    let candidate = checked.recover(material, passphrase, limits)?;
    let key = VolumeKey::verified(candidate, &checked.digest_of_key)?;
    Ok(Unlocked {
        slot: Some(slot),
        digest: checked.digest,
        bound: checked.bound,
        key,
    })
}

/// Takes a volume key that somebody kept (`--volume-key-file`) and finds its digest.
///
/// Digests of the data are asked first, then those of unbound keys.
///
/// # Errors
/// [`UnlockErrorKind::WrongVolumeKey`] if it fits no digest of this header; the refusals of
/// [`unlock()`](crate::unlock()) for requirements and null ciphers.
pub fn verify_volume_key(
    header: &Header,
    candidate: SecretBytes,
    limits: &OpenLimits,
) -> Result<Unlocked, UnlockError> {
    let metadata = header.metadata();
    may_open(metadata, limits)?;
    let refused = |error: &dyn fmt::Display| {
        UnlockError::with_detail(UnlockErrorKind::WrongVolumeKey, error.to_string())
    };
    let (number, of_key) = digest_of_key(metadata, &candidate, limits)
        .map_err(|error| refused(&error))?
        .ok_or_else(|| UnlockError::new(UnlockErrorKind::WrongVolumeKey))?;
    let key = VolumeKey::verified(candidate, &of_key).map_err(|error| refused(&error))?;
    Ok(Unlocked {
        slot: None,
        digest: number,
        bound: is_bound(metadata, number),
        key,
    })
}

/// Bytes of a slot's key area that [`open_slot`] needs: the split key, rounded up to whole
/// 512-byte sectors. `None` if the slot is not in use or holds no key.
#[must_use]
pub fn area_bytes(metadata: &Metadata, slot: u8) -> Option<usize> {
    let slot = metadata.keyslot(slot)?.luks2()?;
    Some(area_bytes_for(slot.key_size as usize))
}

pub(crate) fn area_bytes_for(key_bytes: usize) -> usize {
    (key_bytes * seal::STRIPES as usize).next_multiple_of(seal::AREA_SECTOR_BYTES)
}

/// The digest that a key fits: those of the data first, then those of unbound keys.
///
/// # Errors
/// Only what stops every check: a failed self-test.
pub(crate) fn digest_of_key(
    metadata: &Metadata,
    candidate: &SecretBytes,
    limits: &OpenLimits,
) -> Result<Option<(u8, KeyDigest)>, CryptoError> {
    let mut digests: Vec<_> = metadata.digests().iter().collect();
    digests.sort_by_key(|(_, digest)| digest.segments.is_empty());
    for (number, digest) in digests {
        if !lengths_of_key(metadata, digest, limits.allow_null).any_of(candidate.len()) {
            continue;
        }
        // A digest with an unknown hash or an excessive cost cannot be judged, others can.
        let Ok(of_key) = key_digest(digest, candidate.len(), &limits.caps) else {
            continue;
        };
        if of_key.matches(candidate)? {
            return Ok(Some((*number, of_key)));
        }
    }
    Ok(None)
}

/// Refuses a header as a whole, before any slot of it is looked at.
pub(crate) fn may_open(metadata: &Metadata, limits: &OpenLimits) -> Result<(), UnlockError> {
    if let Some(name) = metadata.requirements().unknown.first() {
        return Err(UnlockError::with_detail(
            UnlockErrorKind::Requirement,
            name.clone(),
        ));
    }
    if let (AllowNull::No, Some((segment, cipher))) =
        (limits.allow_null, cipher_name::weak_segment(metadata))
    {
        return Err(UnlockError::with_detail(
            UnlockErrorKind::WeakCipher,
            format!("segment {segment}: {cipher:?}"),
        ));
    }
    Ok(())
}

/// All refusals of [`open_slot`] that need no passphrase and no area.
pub(crate) fn check_slot(
    metadata: &Metadata,
    slot: u8,
    limits: &OpenLimits,
) -> Result<(), SlotError> {
    CheckedSlot::new(metadata, slot, limits).map(drop)
}

/// True if the digest covers a data segment.
pub(crate) fn is_bound(metadata: &Metadata, digest: u8) -> bool {
    metadata
        .digests()
        .get(&digest)
        .is_some_and(|digest| !digest.segments.is_empty())
}

/// Everything about a slot that is settled before the passphrase costs anything.
struct CheckedSlot {
    digest: u8,
    bound: bool,
    key_bytes: usize,
    digest_of_key: KeyDigest,
    kdf: Kdf,
    salt: Vec<u8>,
    cipher: CipherSpec,
    area_key_bytes: usize,
    af_hash: Hash,
}

impl CheckedSlot {
    fn new(metadata: &Metadata, number: u8, limits: &OpenLimits) -> Result<Self, SlotError> {
        if let Some(name) = metadata.requirements().unknown.first() {
            return Err(SlotError::Requirement(name.clone()));
        }
        let keyslot = metadata
            .keyslot(number)
            .ok_or(SlotError::NoSuchSlot(number))?;
        let slot = keyslot.luks2().ok_or(SlotError::NotAKey(number))?;
        let (digest_number, digest) = metadata
            .digest_of_keyslot(number)
            .ok_or(SlotError::NotAKey(number))?;
        refuse_weak_ciphers(metadata, number, slot, limits.allow_null)?;

        let key_bytes = slot.key_size as usize;
        if !cipher_takes(metadata, digest, key_bytes, limits.allow_null) {
            return Err(SlotError::KeyLength {
                slot: number,
                found: key_bytes,
            });
        }
        let (kdf, salt) = seal::kdf_from(&slot.kdf)?;
        kdf.check(&limits.caps)?;
        let cipher = CipherSpec::parse(&slot.encryption, limits.allow_null)?;
        let area_key_bytes = slot.area_key_size as usize;
        if !cipher.accepts_key_len(area_key_bytes) {
            return Err(SlotError::Crypto(CryptoError::Unsupported {
                what: format!("area key of {area_key_bytes} bytes for {}", cipher.name()),
            }));
        }
        Ok(Self {
            digest: digest_number,
            bound: !digest.segments.is_empty(),
            key_bytes,
            digest_of_key: key_digest(digest, key_bytes, &limits.caps)?,
            kdf,
            salt: salt.to_vec(),
            cipher,
            area_key_bytes,
            af_hash: Hash::from_name(&slot.af.hash)?,
        })
    }

    /// KDF, decrypt, merge. The result is a candidate, not yet a key.
    fn recover(
        &self,
        material: &[u8],
        passphrase: &Passphrase,
        limits: &OpenLimits,
    ) -> Result<SecretBytes, SlotError> {
        // Nothing in an unencrypted area depends on the passphrase, so any would "fit". Like the
        // reference since 2.8.1, only the empty one is let through.
        if self.cipher == CipherSpec::Null && !passphrase.is_empty() {
            return Err(SlotError::WrongSecret);
        }
        let area_key =
            self.kdf
                .derive(passphrase, &self.salt, self.area_key_bytes, &limits.caps)?;
        let sectors = SectorCipher::for_area(self.cipher, &area_key)?;
        Ok(seal::unseal(
            &sectors,
            material,
            self.key_bytes,
            self.af_hash,
        )?)
    }
}

impl From<VerifyError> for SlotError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Crypto(error) => Self::Crypto(error),
            _ => Self::WrongSecret,
        }
    }
}

fn refuse_weak_ciphers(
    metadata: &Metadata,
    number: u8,
    slot: &Luks2Slot,
    allow_null: AllowNull,
) -> Result<(), SlotError> {
    if allow_null == AllowNull::Yes {
        return Ok(());
    }
    if cipher_name::is_weak(&slot.encryption) {
        return Err(SlotError::WeakCipher {
            place: format!("keyslot {number}"),
            cipher: slot.encryption.clone(),
        });
    }
    if let Some((segment, cipher)) = cipher_name::weak_segment(metadata) {
        return Err(SlotError::WeakCipher {
            place: format!("segment {segment}"),
            cipher,
        });
    }
    Ok(())
}

/// True unless a segment of this digest is AES-XTS, which takes 32 or 64 bytes, and the key has
/// another length.
///
/// HMAC pads short keys with zeros, so a digest alone does not tell a key from the same key with
/// zeros behind it: the length must come from somewhere else.
fn cipher_takes(
    metadata: &Metadata,
    digest: &Digest,
    key_bytes: usize,
    allow_null: AllowNull,
) -> bool {
    segment_ciphers(metadata, digest, allow_null)
        .all(|cipher| cipher != CipherSpec::AesXtsPlain64 || XTS_KEY_BYTES.contains(&key_bytes))
}

/// Ciphers of the segments of a digest, as far as they are known here. Segments that a drive
/// encrypts too are left out: their key is longer by that of the drive.
fn segment_ciphers(
    metadata: &Metadata,
    digest: &Digest,
    allow_null: AllowNull,
) -> impl Iterator<Item = CipherSpec> {
    digest
        .segments
        .iter()
        .filter_map(|number| metadata.segments().get(number))
        .filter_map(|segment| match &segment.kind {
            SegmentKind::Crypt(crypt) => Some(crypt),
            _ => None,
        })
        .filter_map(move |crypt| CipherSpec::parse(&crypt.encryption, allow_null).ok())
}

/// Lengths that a key of this digest can have.
enum Lengths {
    /// These and no other.
    OneOf(Vec<usize>),
    /// Nothing in the header says.
    Unknown,
}

impl Lengths {
    fn any_of(&self, bytes: usize) -> bool {
        match self {
            Self::OneOf(lengths) => lengths.contains(&bytes),
            Self::Unknown => true,
        }
    }
}

fn lengths_of_key(metadata: &Metadata, digest: &Digest, allow_null: AllowNull) -> Lengths {
    let slots: Vec<usize> = digest
        .keyslots
        .iter()
        .filter_map(|number| metadata.keyslot(*number)?.luks2())
        .map(|slot| slot.key_size as usize)
        .collect();
    if !slots.is_empty() {
        return Lengths::OneOf(slots);
    }
    if segment_ciphers(metadata, digest, allow_null)
        .any(|cipher| cipher == CipherSpec::AesXtsPlain64)
    {
        return Lengths::OneOf(XTS_KEY_BYTES.to_vec());
    }
    if digest.segments.is_empty() {
        // The digest of a reencryption's parameters looks like one of a key and is none.
        return Lengths::OneOf(Vec::new());
    }
    Lengths::Unknown
}

fn key_digest(digest: &Digest, key_bytes: usize, caps: &KdfCaps) -> Result<KeyDigest, CryptoError> {
    KeyDigest::from_parts(
        Hash::from_name(&digest.hash)?,
        digest.salt.clone(),
        digest.iterations,
        digest.digest.clone(),
        Some(key_bytes),
        caps,
    )
}

/// AES-128 and AES-256 in XTS mode: two keys each.
const XTS_KEY_BYTES: [usize; 2] = [32, 64];
