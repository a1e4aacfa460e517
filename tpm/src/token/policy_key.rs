//! The key that signs policies: an RSA public key in PEM, as systemd takes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::error::TpmError;
use crate::hash::Digest;
use crate::wire::{Public, RsaKey};

/// Longest file of a key that is read, in bytes; one of 4096 bits takes 800.
const MAX_PEM_BYTES: usize = 8 * 1024;
/// Sizes of the modulus in bytes that are neither weak nor too long for a TPM.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;
/// The exponent that nearly every key has.
const USUAL_EXPONENT: u32 = 65537;
/// `rsaEncryption` (RFC 8017, appendix C).
const RSA_ENCRYPTION: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];

/// A public key that signs what PCRs may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyKey {
    pem: Vec<u8>,
    key: RsaKey,
    fingerprint: Digest,
}

impl PolicyKey {
    /// Reads a `SubjectPublicKeyInfo` in PEM ("BEGIN PUBLIC KEY").
    ///
    /// # Errors
    /// [`TpmError::Damaged`]; [`TpmError::Unsupported`] for a key that is not RSA of 2048 to 4096
    /// bits: systemd signs with no other.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TpmError> {
        let der = unarmoured(pem).ok_or(damaged())?;
        let mut outer = Der(&der);
        let mut info = Der(outer.take(SEQUENCE)?);
        outer.end()?;
        let mut algorithm = Der(info.take(SEQUENCE)?);
        if algorithm.take(OBJECT_IDENTIFIER)? != RSA_ENCRYPTION {
            return Err(unsupported());
        }
        algorithm.take(NULL)?;
        algorithm.end()?;
        let bits = info.take(BIT_STRING)?;
        info.end()?;
        let (0, pkcs1) = bits.split_first().ok_or(damaged())? else {
            return Err(damaged());
        };
        Ok(Self {
            key: rsa_public_key(pkcs1)?,
            // Of the bare key: whoever hashes the whole structure gets another value.
            fingerprint: Digest::of(&[pkcs1]),
            pem: pem.to_vec(),
        })
    }

    /// The PEM that it was read from.
    #[must_use]
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }

    /// SHA-256 of the PKCS#1 `RSAPublicKey`, by which files of signatures name it.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }

    /// The public areas that a TPM may have known it by, the right one first: some versions of
    /// systemd around 255 left the exponent zero, which means the same key under another name
    /// (systemd issue 30546).
    pub(super) fn public_areas(&self) -> Result<Vec<Public>, TpmError> {
        let mut exponents = vec![self.key.exponent];
        if self.key.exponent == USUAL_EXPONENT {
            exponents.push(0);
        }
        exponents
            .into_iter()
            .map(|exponent| {
                let key = RsaKey {
                    exponent,
                    ..self.key.clone()
                };
                Public::rsa_verifier(&key).map_err(|_| damaged())
            })
            .collect()
    }
}

/// PKCS#1 `RSAPublicKey`: modulus and exponent.
fn rsa_public_key(der: &[u8]) -> Result<RsaKey, TpmError> {
    let mut outer = Der(der);
    let mut numbers = Der(outer.take(SEQUENCE)?);
    outer.end()?;
    let modulus = numbers.positive()?;
    let exponent = numbers.positive()?;
    numbers.end()?;
    if !MODULUS_BYTES.contains(&modulus.len()) || modulus[0] < 0x80 || exponent.len() > 4 {
        return Err(unsupported());
    }
    let bits = u16::try_from(modulus.len() * 8).expect("at most 4096");
    Ok(RsaKey {
        bits,
        exponent: exponent
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte)),
        modulus: modulus.to_vec(),
    })
}

/// What is between the first and the last line.
fn unarmoured(pem: &[u8]) -> Option<Vec<u8>> {
    if pem.len() > MAX_PEM_BYTES {
        return None;
    }
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
    let (body, _) = rest.split_once("-----END PUBLIC KEY-----")?;
    let body: String = body.split_ascii_whitespace().collect();
    BASE64.decode(body).ok()
}

const BIT_STRING: u8 = 0x03;
const INTEGER: u8 = 0x02;
const NULL: u8 = 0x05;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// Takes DER apart from the front (X.690): one form for each value, any other is refused.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The contents of the next value, which has this tag.
    fn take(&mut self, tag: u8) -> Result<&'a [u8], TpmError> {
        let (len, rest) = match self.0 {
            [found, len @ 0..=0x7F, rest @ ..] if *found == tag => (usize::from(*len), rest),
            [found, 0x81, len @ 0x80..=0xFF, rest @ ..] if *found == tag => {
                (usize::from(*len), rest)
            }
            [found, 0x82, high @ 1..=0xFF, low, rest @ ..] if *found == tag => {
                (usize::from(u16::from_be_bytes([*high, *low])), rest)
            }
            _ => return Err(damaged()),
        };
        let (contents, rest) = rest.split_at_checked(len).ok_or(damaged())?;
        self.0 = rest;
        Ok(contents)
    }

    /// A number above zero, without the zero byte that keeps it from being negative.
    fn positive(&mut self) -> Result<&'a [u8], TpmError> {
        match self.take(INTEGER)? {
            [0, rest @ ..] if rest.first().is_some_and(|first| *first >= 0x80) => Ok(rest),
            number @ [1..=0x7F, ..] => Ok(number),
            _ => Err(damaged()),
        }
    }

    fn end(self) -> Result<(), TpmError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(damaged())
        }
    }
}

fn damaged() -> TpmError {
    TpmError::Damaged {
        what: "public key in PEM".to_owned(),
    }
}

fn unsupported() -> TpmError {
    TpmError::Unsupported {
        what: "a policy key other than RSA of 2048 to 4096 bits".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use openssl::ec::{EcGroup, EcKey};
    use openssl::nid::Nid;
    use openssl::rsa::Rsa;

    use super::*;

    #[test]
    fn keys_of_openssl_are_read() {
        for bits in [2048, 3072] {
            let theirs = Rsa::generate(bits).unwrap();
            let ours = PolicyKey::from_pem(&theirs.public_key_to_pem().unwrap()).unwrap();
            assert_eq!(ours.key.modulus, theirs.n().to_vec());
            assert_eq!((ours.key.bits.into(), ours.key.exponent), (bits, 65537));
            let bare = theirs.public_key_to_der_pkcs1().unwrap();
            assert_eq!(ours.fingerprint().0, openssl::sha::sha256(&bare));
            let names = ours.public_areas().unwrap();
            assert_eq!(names.len(), 2);
            assert_ne!(names[0].name(), names[1].name());
        }
    }

    #[test]
    fn other_keys_are_refused_by_their_kind() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let ecc = EcKey::generate(&group).unwrap();
        let small = Rsa::generate(1024).unwrap();
        for pem in [
            ecc.public_key_to_pem().unwrap(),
            small.public_key_to_pem().unwrap(),
        ] {
            let told = PolicyKey::from_pem(&pem);
            assert!(matches!(told, Err(TpmError::Unsupported { .. })));
        }
        let other = Rsa::generate(2048).unwrap().public_key_to_pem_pkcs1();
        let told = PolicyKey::from_pem(&other.unwrap());
        assert!(matches!(told, Err(TpmError::Damaged { .. })));
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let whole = Rsa::generate(2048).unwrap().public_key_to_der().unwrap();
        let armoured = |der: &[u8]| {
            let body = BASE64.encode(der);
            format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
        };
        assert!(PolicyKey::from_pem(armoured(&whole).as_bytes()).is_ok());
        for len in 0..whole.len() {
            let told = PolicyKey::from_pem(armoured(&whole[..len]).as_bytes());
            assert!(told.is_err(), "{len} bytes");
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(PolicyKey::from_pem(armoured(&longer).as_bytes()).is_err());
    }
}
