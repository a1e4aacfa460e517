//! The sector cipher: step 5 of the read path, and its mirror in the write path.
//!
//! [`SectorCipher`] is the one type that turns plaintext into ciphertext and back. It takes
//! whole requests of many consecutive sectors, because a cipher that sees one sector at a
//! time cannot be fast; how it works inside is nobody else's business.

use inout::InOutBuf;

use crate::{
    CryptoError, SecretBytes, VolumeKey,
    buf::{Cipher, IoBuf, Plain},
    lock::LockedBox,
    secret::refuse_equal_halves,
    selftest,
    xts::{Direction, Xts},
};

/// Size of an encryption sector: 512, 1024, 2048 or 4096 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SectorSize(u32);

impl SectorSize {
    /// The size of the sectors in a slot area, and the unit of [`IvSector`].
    pub const S512: Self = Self(512);
    /// The size that new volumes prefer.
    pub const S4096: Self = Self(4096);

    /// Checks a size in bytes.
    ///
    /// # Errors
    /// [`CryptoError::Unsupported`] for any size that LUKS2 does not know.
    pub fn new(bytes: u32) -> Result<Self, CryptoError> {
        match bytes {
            512 | 1024 | 2048 | 4096 => Ok(Self(bytes)),
            _ => Err(CryptoError::Unsupported {
                what: format!("sector size of {bytes} bytes"),
            }),
        }
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// By how much the tweak moves from one sector to the next.
    fn iv_step(self) -> u64 {
        u64::from(self.0 / 512)
    }
}

/// The tweak of a sector: its number in units of **512 bytes**, whatever the sector size is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IvSector(pub u64);

/// Whether a cipher that encrypts nothing is acceptable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllowNull {
    /// Refuse it, as one should: a header with it may be forged to reveal what is written.
    No,
    /// The user said in so many words that it is wanted.
    Yes,
}

/// A cipher as a header names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CipherSpec {
    /// AES in XTS mode, tweak = sector number as 64-bit little endian.
    AesXtsPlain64,
    /// No encryption.
    Null,
}

impl CipherSpec {
    /// Reads a cipher string of a header.
    ///
    /// # Errors
    /// [`CryptoError::Unsupported`] with the name, for everything but `aes-xts-plain64`, and
    /// `cipher_null-ecb` when it is allowed.
    pub fn parse(name: &str, null: AllowNull) -> Result<Self, CryptoError> {
        match (name, null) {
            ("aes-xts-plain64", _) => Ok(Self::AesXtsPlain64),
            ("cipher_null-ecb", AllowNull::Yes) => Ok(Self::Null),
            _ => Err(CryptoError::Unsupported {
                what: format!("cipher {name:?}"),
            }),
        }
    }

    /// The name in a header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AesXtsPlain64 => "aes-xts-plain64",
            Self::Null => "cipher_null-ecb",
        }
    }

    /// Whether a key of `len` bytes fits the cipher.
    #[must_use]
    pub fn accepts_key_len(self, len: usize) -> bool {
        match self {
            Self::AesXtsPlain64 => matches!(len, 32 | 64),
            Self::Null => true,
        }
    }
}

/// A cipher with its key, for sectors of one size. Share it between threads in an `Arc`.
///
/// The expanded keys lie in locked memory that does not survive a fork.
pub struct SectorCipher {
    keys: Option<LockedBox<Xts>>,
    sector: SectorSize,
}

impl SectorCipher {
    /// The cipher for the data of a volume.
    ///
    /// # Errors
    /// A key length that the cipher does not take, equal XTS halves, no locked memory, a failed
    /// self-test.
    pub fn new(spec: CipherSpec, key: &VolumeKey, sector: SectorSize) -> Result<Self, CryptoError> {
        Self::with_key(spec, key.expose(), sector)
    }

    /// The cipher for a slot area (sectors of 512 bytes, counted from 0 at its start), under a
    /// key that was derived for it.
    ///
    /// # Errors
    /// As for [`SectorCipher::new`].
    pub fn for_area(spec: CipherSpec, key: &SecretBytes) -> Result<Self, CryptoError> {
        Self::with_key(spec, key.expose(), SectorSize::S512)
    }

    fn with_key(spec: CipherSpec, key: &[u8], sector: SectorSize) -> Result<Self, CryptoError> {
        selftest::power_on()?;
        if !spec.accepts_key_len(key.len()) {
            return Err(CryptoError::Unsupported {
                what: format!("key of {} bits for {}", key.len() * 8, spec.name()),
            });
        }
        let keys = match spec {
            CipherSpec::AesXtsPlain64 => {
                refuse_equal_halves(key)?;
                Some(LockedBox::new_with(|| Xts::new(key))?)
            }
            CipherSpec::Null => None,
        };
        Ok(Self { keys, sector })
    }

    /// The size of the sectors.
    #[must_use]
    pub fn sector_size(&self) -> SectorSize {
        self.sector
    }

    /// Encrypts all sectors of a buffer in place; the first has the tweak `iv`.
    ///
    /// # Panics
    /// If the buffer does not hold whole sectors.
    #[must_use]
    pub fn encrypt(&self, iv: IvSector, mut buf: IoBuf<Plain>) -> IoBuf<Cipher> {
        self.crypt(Direction::Encrypt, iv, buf.bytes_mut().into());
        buf.into_state()
    }

    /// Decrypts all sectors of a buffer in place; the first has the tweak `iv`.
    ///
    /// # Panics
    /// If the buffer does not hold whole sectors.
    #[must_use]
    pub fn decrypt(&self, iv: IvSector, mut buf: IoBuf<Cipher>) -> IoBuf<Plain> {
        self.crypt(Direction::Decrypt, iv, buf.bytes_mut().into());
        buf.into_state()
    }

    /// Encrypts `src` into `dst`, for slot areas.
    ///
    /// # Panics
    /// If the lengths differ or are not whole sectors.
    pub fn encrypt_bytes(&self, iv: IvSector, dst: &mut [u8], src: &[u8]) {
        self.crypt(Direction::Encrypt, iv, pair(dst, src));
    }

    /// Decrypts `src` into `dst`, for slot areas.
    ///
    /// # Panics
    /// If the lengths differ or are not whole sectors.
    pub fn decrypt_bytes(&self, iv: IvSector, dst: &mut SecretBytes, src: &[u8]) {
        self.crypt(Direction::Decrypt, iv, pair(dst.expose_mut(), src));
    }

    /// Encrypts or decrypts whole sectors from one place to another or in place.
    pub(crate) fn crypt(&self, direction: Direction, iv: IvSector, data: InOutBuf<'_, '_, u8>) {
        let sector = self.sector.bytes() as usize;
        assert!(
            data.len().is_multiple_of(sector),
            "requests hold whole sectors"
        );
        match &self.keys {
            Some(keys) => {
                keys.crypt(direction, data, sector, iv.0.into(), self.sector.iv_step());
            }
            None => {
                let _copied = data.into_out_with_copied_in();
            }
        }
    }
}

fn pair<'i, 'o>(dst: &'o mut [u8], src: &'i [u8]) -> InOutBuf<'i, 'o, u8> {
    InOutBuf::new(src, dst).expect("source and destination have the same length")
}

/// A stretch of a request that has one cipher, or none where the volume is not encrypted.
pub struct Part<'a> {
    /// Length in bytes.
    pub len: usize,
    /// The cipher; `None` passes the bytes through (a linear segment).
    pub cipher: Option<&'a SectorCipher>,
    /// The tweak of the first sector.
    pub iv: IvSector,
}

/// Encrypts a buffer in place whose parts may lie in different segments.
///
/// # Panics
/// If the parts do not cover the buffer exactly or do not hold whole sectors.
#[must_use]
pub fn encrypt_parts(mut buf: IoBuf<Plain>, parts: &[Part<'_>]) -> IoBuf<Cipher> {
    crypt_parts(Direction::Encrypt, buf.bytes_mut(), parts);
    buf.into_state()
}

/// Decrypts a buffer in place whose parts may lie in different segments.
///
/// # Panics
/// As [`encrypt_parts`].
#[must_use]
pub fn decrypt_parts(mut buf: IoBuf<Cipher>, parts: &[Part<'_>]) -> IoBuf<Plain> {
    crypt_parts(Direction::Decrypt, buf.bytes_mut(), parts);
    buf.into_state()
}

fn crypt_parts(direction: Direction, mut rest: &mut [u8], parts: &[Part<'_>]) {
    let total = parts.iter().map(|part| part.len).sum::<usize>();
    assert_eq!(total, rest.len(), "the parts cover the whole request");
    for part in parts {
        let (now, later) = rest.split_at_mut(part.len);
        if let Some(cipher) = part.cipher {
            cipher.crypt(direction, part.iv, now.into());
        }
        rest = later;
    }
}
