//! Public areas of keys, sealed objects and NV indices, and the names computed from them.
//!
//! A name is the hash of a public area (TPM 2.0 Library, Part 1, "Names"). It is always computed
//! here and never taken from a TPM's word.

use sha2::{Digest as _, Sha256};

use super::{Reader, WireError, Writer};
use crate::hash::HashAlg;

/// "No algorithm" (`TPM_ALG_NULL`).
pub(crate) const NULL: u16 = 0x0010;
/// NIST P-256 (`TPM_ECC_NIST_P256`).
const CURVE_P256: u16 = 0x0003;

const RSA: u16 = 0x0001;
const KEYEDHASH: u16 = 0x0008;
const ECC: u16 = 0x0023;
const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;
const RSAES: u16 = 0x0015;
const ECDAA: u16 = 0x001A;

/// Longest RSA modulus that is read, in bytes.
const MAX_RSA_BYTES: usize = 512;
/// Longest coordinate of a point that is read (P-521), in bytes.
const MAX_COORDINATE_BYTES: usize = 66;

/// The name of an entity: algorithm and hash of its public area, or a handle.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Name(Vec<u8>);

impl Name {
    /// SHA-256 name of a public area as marshalled (without its length).
    #[must_use]
    pub fn of(public_area: &[u8]) -> Self {
        let digest = Sha256::digest(public_area);
        Self(
            Writer::new()
                .u16(HashAlg::Sha256.id())
                .bytes(&digest)
                .done(),
        )
    }

    /// The name of what has no public area (hierarchies, PCRs, sessions): its handle.
    #[must_use]
    pub fn of_handle(handle: u32) -> Self {
        Self(handle.to_be_bytes().to_vec())
    }

    /// A name as it stands in a token: SHA-256, 34 bytes.
    ///
    /// # Errors
    /// For any other form.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("name", bytes);
        if reader.u16()? != HashAlg::Sha256.id() {
            return Err(reader.fail());
        }
        reader.bytes(HashAlg::Sha256.len())?;
        reader.end()?;
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What an object may be used for (`TPMA_OBJECT`, Part 2, 8.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attributes(pub u32);

impl Attributes {
    /// Never leaves this TPM.
    pub const FIXED_TPM: Self = Self(1 << 1);
    /// Never gets another parent.
    pub const FIXED_PARENT: Self = Self(1 << 4);
    /// The TPM made its secret part.
    pub const SENSITIVE_DATA_ORIGIN: Self = Self(1 << 5);
    /// May be used by its authorization value alone.
    pub const USER_WITH_AUTH: Self = Self(1 << 6);
    /// Wrong tries do not count, and a lockout does not close it.
    pub const NO_DA: Self = Self(1 << 10);
    /// Uses only what the TPM itself made.
    pub const RESTRICTED: Self = Self(1 << 16);
    /// Decrypts; with `RESTRICTED`, is a parent of others.
    pub const DECRYPT: Self = Self(1 << 17);
    /// Signs.
    pub const SIGN: Self = Self(1 << 18);

    /// Both together.
    #[must_use]
    pub const fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Whether all of `these` are set.
    #[must_use]
    pub const fn has(self, these: Self) -> bool {
        self.0 & these.0 == these.0
    }
}

/// A point on a curve, each coordinate big-endian.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EccPoint {
    /// First coordinate.
    pub x: Vec<u8>,
    /// Second coordinate.
    pub y: Vec<u8>,
}

/// An RSA public key as a TPM has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RsaKey {
    /// Size of the modulus in bits.
    pub bits: u16,
    /// The exponent; zero stands for 65537.
    pub exponent: u32,
    /// The modulus, big-endian.
    pub modulus: Vec<u8>,
}

/// The kinds of public areas that are understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// Sealed data.
    Sealed,
    /// A key on P-256.
    EccP256(EccPoint),
    /// An RSA key.
    Rsa(RsaKey),
}

/// A public area (`TPMT_PUBLIC`, Part 2, 12.2.4), read whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Public {
    /// What it is, with the public key.
    pub kind: KeyKind,
    /// What it may do.
    pub attributes: Attributes,
    /// Digest of the policy, or nothing.
    pub policy: Vec<u8>,
    /// Whether its children are protected by AES-128-CFB, so that it can be a parent here.
    protects_by_aes_128: bool,
    bytes: Vec<u8>,
}

impl Public {
    /// Reads a public area to its last byte.
    ///
    /// # Errors
    /// For anything malformed and for any algorithm that is not understood.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("public area", bytes);
        let kind = reader.u16()?;
        if reader.u16()? != HashAlg::Sha256.id() {
            return Err(WireError {
                what: "public area (its name is not SHA-256)",
            });
        }
        let attributes = Attributes(reader.u32()?);
        let policy = reader.sized_max(64)?.to_vec();
        let mut protects_by_aes_128 = false;
        let kind = match kind {
            KEYEDHASH => {
                if reader.u16()? != NULL {
                    return Err(reader.fail());
                }
                reader.sized_max(64)?;
                KeyKind::Sealed
            }
            ECC => {
                protects_by_aes_128 = symmetric(&mut reader)?;
                scheme(&mut reader)?;
                if reader.u16()? != CURVE_P256 {
                    return Err(WireError {
                        what: "public area (its curve is not P-256)",
                    });
                }
                if reader.u16()? != NULL {
                    reader.u16()?; // hash of a KDF that no TPM uses
                }
                let x = reader.sized_max(MAX_COORDINATE_BYTES)?.to_vec();
                let y = reader.sized_max(MAX_COORDINATE_BYTES)?.to_vec();
                KeyKind::EccP256(EccPoint { x, y })
            }
            RSA => {
                protects_by_aes_128 = symmetric(&mut reader)?;
                scheme(&mut reader)?;
                let bits = reader.u16()?;
                let exponent = reader.u32()?;
                let modulus = reader.sized_max(MAX_RSA_BYTES)?.to_vec();
                KeyKind::Rsa(RsaKey {
                    bits,
                    exponent,
                    modulus,
                })
            }
            _ => return Err(reader.fail()),
        };
        reader.end()?;
        Ok(Self {
            kind,
            attributes,
            policy,
            protects_by_aes_128,
            bytes: bytes.to_vec(),
        })
    }

    /// The template of sealed data; `unique` is empty where the TPM computes it.
    #[must_use]
    pub(crate) fn sealed(attributes: Attributes, policy: &[u8], unique: &[u8]) -> Self {
        let bytes = Writer::new()
            .u16(KEYEDHASH)
            .u16(HashAlg::Sha256.id())
            .u32(attributes.0)
            .sized(policy)
            .u16(NULL)
            .sized(unique)
            .done();
        Self {
            kind: KeyKind::Sealed,
            attributes,
            policy: policy.to_vec(),
            protects_by_aes_128: false,
            bytes,
        }
    }

    /// The template of an ECC P-256 storage key without a policy, with an empty unique part.
    #[must_use]
    pub(crate) fn ecc_storage_template(attributes: Attributes) -> Vec<u8> {
        Writer::new()
            .u16(ECC)
            .u16(HashAlg::Sha256.id())
            .u32(attributes.0)
            .sized(&[])
            .u16(AES)
            .u16(128)
            .u16(CFB)
            .u16(NULL)
            .u16(CURVE_P256)
            .u16(NULL)
            .sized(&[])
            .sized(&[])
            .done()
    }

    /// The template of an RSA-2048 storage key without a policy, with an empty unique part.
    #[must_use]
    pub(crate) fn rsa_storage_template(attributes: Attributes) -> Vec<u8> {
        Writer::new()
            .u16(RSA)
            .u16(HashAlg::Sha256.id())
            .u32(attributes.0)
            .sized(&[])
            .u16(AES)
            .u16(128)
            .u16(CFB)
            .u16(NULL)
            .u16(2048)
            .u32(0)
            .sized(&[])
            .done()
    }

    /// The public area of a key that only verifies signatures of policies, as systemd writes it:
    /// user auth, decrypt and sign, no policy, no scheme.
    ///
    /// # Errors
    /// For a modulus that is too long.
    pub fn rsa_verifier(key: &RsaKey) -> Result<Self, WireError> {
        let attributes = Attributes::USER_WITH_AUTH
            .with(Attributes::DECRYPT)
            .with(Attributes::SIGN);
        if key.modulus.len() > MAX_RSA_BYTES {
            return Err(WireError { what: "RSA key" });
        }
        let bytes = Writer::new()
            .u16(RSA)
            .u16(HashAlg::Sha256.id())
            .u32(attributes.0)
            .sized(&[])
            .u16(NULL)
            .u16(NULL)
            .u16(key.bits)
            .u32(key.exponent)
            .sized(&key.modulus)
            .done();
        Self::parse(&bytes)
    }

    /// The same for a key on P-256.
    ///
    /// # Errors
    /// For coordinates that are too long.
    pub fn ecc_verifier(point: &EccPoint) -> Result<Self, WireError> {
        let attributes = Attributes::USER_WITH_AUTH
            .with(Attributes::DECRYPT)
            .with(Attributes::SIGN);
        if point.x.len().max(point.y.len()) > MAX_COORDINATE_BYTES {
            return Err(WireError { what: "ECC key" });
        }
        let bytes = Writer::new()
            .u16(ECC)
            .u16(HashAlg::Sha256.id())
            .u32(attributes.0)
            .sized(&[])
            .u16(NULL)
            .u16(NULL)
            .u16(CURVE_P256)
            .u16(NULL)
            .sized(&point.x)
            .sized(&point.y)
            .done();
        Self::parse(&bytes)
    }

    /// As marshalled, without the length.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> Name {
        Name::of(&self.bytes)
    }

    /// Whether a secret may be entrusted to it: a storage key that never left its TPM and
    /// decrypts only what the TPM made for it. A key that anybody may use to decrypt would give
    /// the salt of a session to anybody.
    #[must_use]
    pub fn is_storage_key(&self) -> bool {
        let needed = Attributes::FIXED_TPM
            .with(Attributes::FIXED_PARENT)
            .with(Attributes::RESTRICTED)
            .with(Attributes::DECRYPT);
        self.attributes.has(needed)
            && !self.attributes.has(Attributes::SIGN)
            && self.protects_by_aes_128
    }
}

/// Reads a symmetric definition; true for AES-128-CFB.
fn symmetric(reader: &mut Reader<'_>) -> Result<bool, WireError> {
    let algorithm = reader.u16()?;
    if algorithm == NULL {
        return Ok(false);
    }
    let bits = reader.u16()?;
    let mode = reader.u16()?;
    Ok((algorithm, bits, mode) == (AES, 128, CFB))
}

/// Reads an asymmetric scheme, of which nothing is needed.
fn scheme(reader: &mut Reader<'_>) -> Result<(), WireError> {
    match reader.u16()? {
        NULL | RSAES => {}
        ECDAA => {
            reader.u32()?;
        }
        _ => {
            reader.u16()?;
        }
    }
    Ok(())
}

/// What an NV index is and allows (`TPMA_NV`, Part 2, 13.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NvAttributes(pub u32);

impl NvAttributes {
    /// The owner may write.
    pub const OWNER_WRITE: Self = Self(1 << 1);
    /// Its own authorization value allows writing.
    pub const AUTH_WRITE: Self = Self(1 << 2);
    /// Its policy allows writing.
    pub const POLICY_WRITE: Self = Self(1 << 3);
    /// Its type: a counter instead of ordinary bytes.
    pub const COUNTER: Self = Self(1 << 4);
    /// Can be write-locked for good.
    pub const WRITE_DEFINE: Self = Self(1 << 13);
    /// Only writes of the whole contents.
    pub const WRITE_ALL: Self = Self(1 << 12);
    /// Can be write-locked until the next start.
    pub const WRITE_STCLEAR: Self = Self(1 << 14);
    /// The owner may read.
    pub const OWNER_READ: Self = Self(1 << 17);
    /// Its own authorization value allows reading.
    pub const AUTH_READ: Self = Self(1 << 18);
    /// Its policy allows reading.
    pub const POLICY_READ: Self = Self(1 << 19);
    /// Wrong tries do not count.
    pub const NO_DA: Self = Self(1 << 25);
    /// Is read-locked now.
    pub const READ_LOCKED: Self = Self(1 << 28);
    /// Is write-locked now.
    pub const WRITE_LOCKED: Self = Self(1 << 11);
    /// Was written.
    pub const WRITTEN: Self = Self(1 << 29);
    /// Can be read-locked until the next start.
    pub const READ_STCLEAR: Self = Self(1 << 31);

    /// Both together.
    #[must_use]
    pub const fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Whether all of `these` are set.
    #[must_use]
    pub const fn has(self, these: Self) -> bool {
        self.0 & these.0 == these.0
    }
}

/// The public area of an NV index (`TPMS_NV_PUBLIC`, Part 2, 13.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NvPublic {
    /// Handle, 0x01......
    pub index: u32,
    /// What it allows.
    pub attributes: NvAttributes,
    /// Digest of its policy, or nothing.
    pub policy: Vec<u8>,
    /// Size of its contents in bytes.
    pub size_bytes: u16,
}

impl NvPublic {
    /// Reads it to its last byte.
    ///
    /// # Errors
    /// For anything malformed, a handle of something else, or a name that is not SHA-256.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("NV public area", bytes);
        let index = reader.u32()?;
        if index >> 24 != 0x01 || reader.u16()? != HashAlg::Sha256.id() {
            return Err(reader.fail());
        }
        let attributes = NvAttributes(reader.u32()?);
        let policy = reader.sized_max(64)?.to_vec();
        let size_bytes = reader.u16()?;
        reader.end()?;
        Ok(Self {
            index,
            attributes,
            policy,
            size_bytes,
        })
    }

    /// As marshalled, without the length.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        Writer::new()
            .u32(self.index)
            .u16(HashAlg::Sha256.id())
            .u32(self.attributes.0)
            .sized(&self.policy)
            .u16(self.size_bytes)
            .done()
    }

    /// The name, which changes when the index is first written or locked.
    #[must_use]
    pub fn name(&self) -> Name {
        Name::of(&self.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_read_back_and_keeps_its_bytes() {
        let template = Public::ecc_storage_template(Attributes(0x0003_0472));
        let public = Public::parse(&template).unwrap();
        assert!(public.is_storage_key());
        assert_eq!(public.as_bytes(), template);
        assert_eq!(public.name().as_bytes().len(), 34);
    }

    #[test]
    fn a_key_that_decrypts_for_anybody_is_no_storage_key() {
        let open = Attributes(0x0003_0472 & !Attributes::RESTRICTED.0);
        let public = Public::parse(&Public::ecc_storage_template(open)).unwrap();
        assert!(!public.is_storage_key());
        let moving = Attributes(0x0003_0472 & !Attributes::FIXED_TPM.0);
        let public = Public::parse(&Public::ecc_storage_template(moving)).unwrap();
        assert!(!public.is_storage_key());
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let template = Public::ecc_storage_template(Attributes(0x0003_0472));
        for len in 0..template.len() {
            assert!(Public::parse(&template[..len]).is_err(), "{len} bytes");
        }
        let mut longer = template;
        longer.push(0);
        assert!(Public::parse(&longer).is_err());
    }
}
