//! A new keyslot: planned here, carried out by whoever owns the device.

use luksmith_crypto::{Hash, KeyDigest, Passphrase, VolumeKey};
use luksmith_luks2::metadata::{KDF_SALT_BYTES, MAX_KEYSLOTS};
use luksmith_luks2::{
    Area, AreaBytes, Change, FormatError, Header, Metadata, NewDigest, NewKeyslot, Priority, area,
};

use crate::error::PlanError;
use crate::open::digest_of_key;
use crate::policy::{DigestCost, KdfChoice, OpenLimits, check_new_hash, may_change};
use crate::seal::{AreaCipher, Sealed, seal};

/// What a new slot shall be.
pub struct NewSlot<'a> {
    /// What will open it.
    pub passphrase: &'a Passphrase,
    /// What a try costs.
    pub kdf: KdfChoice,
    /// Hash of the anti-forensic splitter, and of the digest of an unbound key.
    pub hash: Hash,
    /// Cipher of the key area and bits of its key (`--keyslot-cipher`, `--keyslot-key-size`);
    /// `None` takes those of the data.
    pub area_cipher: Option<(String, u32)>,
    /// Number; `None` takes the first that is free.
    pub slot: Option<u8>,
    /// Order of tries.
    pub priority: Priority,
}

impl<'a> NewSlot<'a> {
    /// Argon2id measured to two seconds, SHA-256, area cipher of the data, first free number.
    #[must_use]
    pub fn new(passphrase: &'a Passphrase) -> Self {
        Self {
            passphrase,
            kdf: KdfChoice::default(),
            hash: Hash::Sha256,
            area_cipher: None,
            slot: None,
            priority: Priority::Normal,
        }
    }
}

/// A planned slot: what to carry out, and the number that the slot will have.
#[derive(Debug)]
#[must_use = "nothing is added before the change is carried out"]
pub struct Added {
    /// What to carry out.
    pub change: Change,
    /// Number of the new slot.
    pub slot: u8,
}

/// Plans one more slot for a key of this volume.
///
/// The key is compared with the header's digests again, so a key of another volume is never
/// written here, and the slot joins the digest that the key fits.
///
/// # Errors
/// [`PlanError::ForeignKey`]; no free number; no room in the keyslots area; metadata that do not
/// fit their area; a reencryption under way.
pub fn add(header: &Header, key: &VolumeKey, new: &NewSlot<'_>) -> Result<Added, PlanError> {
    add_with(header, key, new, |metadata, _| Ok(metadata))
}

/// [`add`] together with another change of the metadata, such as the token that leads to the slot:
/// both come in one commit, so a power cut never leaves one without the other.
///
/// `also` gets the metadata with the slot and the slot's number.
///
/// # Errors
/// As [`add`], and those of `also`.
pub fn add_with(
    header: &Header,
    key: &VolumeKey,
    new: &NewSlot<'_>,
    also: impl FnOnce(Metadata, u8) -> Result<Metadata, FormatError>,
) -> Result<Added, PlanError> {
    let metadata = header.metadata();
    may_change(metadata)?;
    let (digest, _) = digest_of_key(metadata, key.as_secret(), &OpenLimits::own_key())?
        .ok_or(PlanError::ForeignKey)?;
    let slot = free_slot(metadata, new.slot)?;
    let (keyslot, sealed) = prepare(metadata, key, new)?;
    let after = also(metadata.with_keyslot(slot, &keyslot, digest)?, slot)?;
    let change = Change::add_slot(header, after, slot, AreaBytes::new(sealed.area))?;
    Ok(Added { change, slot })
}

/// Plans a slot for a key that opens no data (`--unbound`), of any size.
///
/// If the header already has this key unbound, the new slot joins its digest; else it brings a
/// digest of its own, of which a header can have eight.
///
/// # Errors
/// As [`add`].
pub fn add_unbound(
    header: &Header,
    key: &VolumeKey,
    new: &NewSlot<'_>,
    digest_cost: DigestCost,
) -> Result<Added, PlanError> {
    let metadata = header.metadata();
    may_change(metadata)?;
    let slot = free_slot(metadata, new.slot)?;
    let known = digest_of_key(metadata, key.as_secret(), &OpenLimits::own_key())?
        .filter(|(number, _)| !crate::open::is_bound(metadata, *number));
    let (keyslot, sealed) = prepare(metadata, key, new)?;
    let after = match known {
        Some((digest, _)) => metadata.with_keyslot(slot, &keyslot, digest)?,
        None => {
            let digest = new_digest(key, new.hash, digest_cost, &new.kdf, Vec::new())?;
            metadata.with_digest_and_keyslot(metadata.free_digest()?, &digest, slot, &keyslot)?
        }
    };
    let change = Change::add_slot(header, after, slot, AreaBytes::new(sealed.area))?;
    Ok(Added { change, slot })
}

/// The digest of a key, computed with fresh salt.
pub(crate) fn new_digest(
    key: &VolumeKey,
    hash: Hash,
    cost: DigestCost,
    kdf: &KdfChoice,
    segments: Vec<u8>,
) -> Result<NewDigest, PlanError> {
    check_new_hash(hash)?;
    let mut salt = vec![0; KDF_SALT_BYTES];
    luksmith_crypto::random::fill(&mut salt)?;
    let digest = KeyDigest::compute(key, hash, &salt, cost.settle(hash, kdf)?)?;
    Ok(NewDigest {
        segments,
        hash: hash.name().to_owned(),
        iterations: digest.iterations(),
        salt,
        digest: digest.digest().to_vec(),
    })
}

/// Finds room and locks the key into bytes for it.
pub(crate) fn prepare(
    metadata: &Metadata,
    key: &VolumeKey,
    new: &NewSlot<'_>,
) -> Result<(NewKeyslot, Sealed), PlanError> {
    check_new_hash(new.hash)?;
    let cipher = AreaCipher::choose(metadata, new.area_cipher.as_ref(), key.len())?;
    // Room first: a slow key derivation for nothing would be a bad joke.
    let area = room_for(metadata, key.len())?;
    let kdf = new.kdf.settle(new.passphrase)?;
    let sealed = seal(key.as_secret(), new.passphrase, &kdf, &cipher, new.hash)?;
    let keyslot = NewKeyslot {
        key_size: key_size(key)?,
        area,
        encryption: cipher.spec.name().to_owned(),
        area_key_size: cipher.key_bytes,
        kdf: sealed.kdf.clone(),
        af_hash: new.hash.name().to_owned(),
        priority: new.priority,
    };
    Ok((keyslot, sealed))
}

fn room_for(metadata: &Metadata, key_bytes: usize) -> Result<Area, PlanError> {
    let key_bytes = u32::try_from(key_bytes)
        .map_err(|_| PlanError::option("key-size", "the key is too long"))?;
    Ok(area::find_room(metadata, area::size_for_key(key_bytes)?)?)
}

fn key_size(key: &VolumeKey) -> Result<u32, PlanError> {
    u32::try_from(key.len()).map_err(|_| PlanError::option("key-size", "the key is too long"))
}

fn free_slot(metadata: &Metadata, wanted: Option<u8>) -> Result<u8, PlanError> {
    match wanted {
        None => Ok(metadata.free_keyslot()?),
        Some(slot) if slot >= MAX_KEYSLOTS => Err(PlanError::SlotRange(slot)),
        Some(slot) if metadata.keyslot(slot).is_some() => Err(PlanError::SlotInUse(slot)),
        Some(slot) => Ok(slot),
    }
}
