//! The bytes of a key area: how a key gets in, and the cipher both ways.
//!
//! In an area, sectors have 512 bytes and their tweak counts from 0 at the start of the *area*,
//! not of the device, whatever the sector size of the data.

use luksmith_crypto::{
    AllowNull, Argon2Variant, CipherSpec, CryptoError, Hash, IvSector, Kdf, KdfCaps, Passphrase,
    SecretBytes, SectorCipher,
};
use luksmith_luks2::metadata::KDF_SALT_BYTES;
use luksmith_luks2::{KdfParams, Metadata};

use crate::cipher_name;
use crate::error::PlanError;
use crate::open::area_bytes_for;

/// Stripes of the anti-forensic splitter; the format knows no other number.
pub(crate) const STRIPES: u32 = luksmith_luks2::metadata::AF_STRIPES;
/// Encryption sector inside a key area.
pub(crate) const AREA_SECTOR_BYTES: usize = 512;

/// Cipher of a key area and the length of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AreaCipher {
    pub(crate) spec: CipherSpec,
    pub(crate) key_bytes: u32,
}

impl AreaCipher {
    /// The cipher that was asked for: name and key bits.
    ///
    /// # Errors
    /// A cipher that encrypts nothing (even where null data are accepted: a key in clear on the
    /// disk is never wanted), one that is unknown, a key length that it does not take.
    pub(crate) fn new(name: &str, key_bits: u32) -> Result<Self, PlanError> {
        if cipher_name::is_weak(name) {
            return Err(PlanError::WeakCipher(name.to_owned()));
        }
        let spec = CipherSpec::parse(name, AllowNull::No)?;
        let key_bytes = key_bits / 8;
        if !key_bits.is_multiple_of(8) || !spec.accepts_key_len(key_bytes as usize) {
            return Err(PlanError::option(
                "keyslot-key-size",
                format!("{key_bits} bits do not fit {name}"),
            ));
        }
        Ok(Self { spec, key_bytes })
    }

    /// What was asked for, or what the data use, or AES-256-XTS where the data use something that
    /// this program does not write.
    pub(crate) fn choose(
        metadata: &Metadata,
        asked: Option<&(String, u32)>,
        key_bytes: usize,
    ) -> Result<Self, PlanError> {
        if let Some((name, bits)) = asked {
            return Self::new(name, *bits);
        }
        let (_, segment) = metadata.default_segment();
        let of_data = segment
            .crypt()
            .and_then(|crypt| CipherSpec::parse(&crypt.encryption, AllowNull::No).ok())
            .filter(|spec| spec.accepts_key_len(key_bytes));
        Ok(match (of_data, u32::try_from(key_bytes)) {
            (Some(spec), Ok(key_bytes)) => Self { spec, key_bytes },
            _ => Self::strongest(),
        })
    }

    pub(crate) fn strongest() -> Self {
        Self {
            spec: CipherSpec::AesXtsPlain64,
            key_bytes: 64,
        }
    }
}

/// A key, locked into the bytes of an area.
pub(crate) struct Sealed {
    /// Ciphertext, whole sectors.
    pub(crate) area: Vec<u8>,
    /// What the header must say about the passphrase.
    pub(crate) kdf: KdfParams,
}

/// Locks `key` with a passphrase: fresh salt, KDF, split with fresh randomness, encrypt.
///
/// Before it returns, the area is decrypted and merged again and compared with the key, so that
/// a fault of memory or cipher shows here and not at the next boot.
///
/// # Errors
/// Memory, randomness; [`PlanError::ProofFailed`].
pub(crate) fn seal(
    key: &SecretBytes,
    passphrase: &Passphrase,
    kdf: &Kdf,
    cipher: &AreaCipher,
    af_hash: Hash,
) -> Result<Sealed, PlanError> {
    let mut salt = vec![0; KDF_SALT_BYTES];
    luksmith_crypto::random::fill(&mut salt)?;
    let area_key = kdf.derive(passphrase, &salt, cipher.key_bytes as usize, &OWN_COSTS)?;
    let sectors = SectorCipher::for_area(cipher.spec, &area_key)?;

    let stripes = padded(
        luksmith_crypto::af::split(key, STRIPES, af_hash)?,
        area_bytes_for(key.len()),
    )?;
    let mut area = vec![0; stripes.len()];
    sectors.encrypt_bytes(IvSector(0), &mut area, stripes.expose());

    let again = unseal(&sectors, &area, key.len(), af_hash)?;
    if !again.ct_eq(key) {
        return Err(PlanError::ProofFailed);
    }
    Ok(Sealed {
        area,
        kdf: params_of(kdf, salt),
    })
}

/// Decrypts an area of exactly [`area_bytes_for`] the key's length, and merges its stripes.
///
/// # Errors
/// Memory.
pub(crate) fn unseal(
    sectors: &SectorCipher,
    area: &[u8],
    key_bytes: usize,
    af_hash: Hash,
) -> Result<SecretBytes, CryptoError> {
    let mut stripes = SecretBytes::zeroed(area.len())?;
    sectors.decrypt_bytes(IvSector(0), &mut stripes, area);
    luksmith_crypto::af::merge(&stripes, key_bytes, STRIPES, af_hash)
}

/// The KDF that a header names, with its salt.
///
/// # Errors
/// A KDF or hash that is not offered.
pub(crate) fn kdf_from(params: &KdfParams) -> Result<(Kdf, &[u8]), CryptoError> {
    match params {
        KdfParams::Pbkdf2 {
            hash,
            iterations,
            salt,
        } => Ok((
            Kdf::Pbkdf2 {
                hash: Hash::from_name(hash)?,
                iterations: *iterations,
            },
            salt,
        )),
        KdfParams::Argon2 {
            id,
            time,
            memory_kib,
            cpus,
            salt,
        } => {
            let variant = if *id {
                Argon2Variant::Id
            } else {
                Argon2Variant::I
            };
            let kdf = Kdf::Argon2 {
                variant,
                time: *time,
                memory_kib: *memory_kib,
                lanes: *cpus,
            };
            Ok((kdf, salt))
        }
        KdfParams::Other(name) => Err(CryptoError::Unsupported {
            what: format!("key derivation {name:?}"),
        }),
    }
}

fn params_of(kdf: &Kdf, salt: Vec<u8>) -> KdfParams {
    match *kdf {
        Kdf::Pbkdf2 { hash, iterations } => KdfParams::Pbkdf2 {
            hash: hash.name().to_owned(),
            iterations,
            salt,
        },
        Kdf::Argon2 {
            variant,
            time,
            memory_kib,
            lanes,
        } => KdfParams::Argon2 {
            id: variant == Argon2Variant::Id,
            time,
            memory_kib,
            cpus: lanes,
            salt,
        },
    }
}

/// Stripes end where they end; the cipher wants whole sectors. The rest is zeros, as in the
/// reference.
fn padded(stripes: SecretBytes, bytes: usize) -> Result<SecretBytes, CryptoError> {
    if stripes.len() == bytes {
        return Ok(stripes);
    }
    SecretBytes::init_with(bytes, |out| {
        out[..stripes.len()].copy_from_slice(stripes.expose());
        Ok(())
    })
}

/// For costs that we choose ourselves and checked against the floors and ceilings of the format
/// (`policy::check_new_costs`): the caps against a hostile header are not the question here.
pub(crate) const OWN_COSTS: KdfCaps = KdfCaps {
    max_memory_kib: u32::MAX,
    max_time: u32::MAX,
    max_work_kib: u64::MAX,
    max_iterations: u32::MAX,
    max_lanes: u32::MAX,
};
