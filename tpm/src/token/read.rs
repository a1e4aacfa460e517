//! A token read, strictly where it matters and past what is unknown: members that nobody here
//! knows are left alone, as the format asks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use luksmith_luks2::Token;
use serde_json::Value;

use super::{KIND, Pin, SystemdTpm2};
use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::pcr::PCRS;
use crate::tpm::{PrimaryTemplate, Sealed, StorageKey};
use crate::wire::{KeyKind, Name, Public, Reader, WireError};

/// Most parts of a secret; systemd makes two.
const MAX_PARTS: usize = 4;
/// Longest member in base64 that is decoded, in characters.
const MAX_BASE64: usize = 16 * 1024;
/// Kind of a serialised key (`IESYSC_KEY_RSRC` of tpm2-tss).
pub(super) const SERIALISED_KEY: u32 = 1;

impl SystemdTpm2 {
    /// Reads a token.
    ///
    /// # Errors
    /// [`TpmError::Damaged`] for one that makes no sense; [`TpmError::Unsupported`] for a form
    /// that is not understood.
    pub fn parse(token: &Token) -> Result<Self, TpmError> {
        if token.kind != KIND {
            return Err(TpmError::Unsupported {
                what: format!("token of type {:?}", token.kind),
            });
        }
        let members = Members(&token.raw);
        let sealed = parts(members.needed("tpm2-blob")?)
            .ok_or(damaged("tpm2-blob"))?
            .into_iter()
            .map(|part| sealed(&base64("tpm2-blob", part)?))
            .collect::<Result<Vec<_>, _>>()?;
        let policies = parts(members.needed("tpm2-policy-hash")?)
            .ok_or(damaged("tpm2-policy-hash"))?
            .into_iter()
            .map(|part| {
                hex(part)
                    .and_then(|bytes| Digest::from_slice(&bytes))
                    .ok_or(damaged("tpm2-policy-hash"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let fitting = sealed.len() == policies.len()
            && sealed
                .iter()
                .zip(&policies)
                .all(|(part, policy)| part.public.policy == policy.0);
        if !fitting {
            return Err(damaged("tpm2-policy-hash is not that of tpm2-blob"));
        }
        Ok(Self {
            sealed,
            pcrs: pcrs(members.needed("tpm2-pcrs")?)?,
            bank: bank(&members)?,
            policies,
            under: under(&members)?,
            pin: pin(&members)?,
            beyond: beyond(&members)?,
        })
    }
}

/// The members of a token.
struct Members<'a>(&'a Value);

impl<'a> Members<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn needed(&self, name: &'static str) -> Result<&'a Value, TpmError> {
        self.get(name).ok_or(damaged(name))
    }

    fn text(&self, name: &'static str) -> Result<Option<&'a str>, TpmError> {
        self.get(name)
            .map(|value| value.as_str().ok_or(damaged(name)))
            .transpose()
    }

    fn flag(&self, name: &'static str) -> Result<bool, TpmError> {
        self.get(name)
            .map_or(Ok(false), |value| value.as_bool().ok_or(damaged(name)))
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, TpmError> {
        self.get(name)
            .map(|value| value.as_u64().ok_or(damaged(name)))
            .transpose()
    }
}

fn damaged(what: &str) -> TpmError {
    TpmError::Damaged {
        what: what.to_owned(),
    }
}

/// One text, or an array of some.
fn parts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(one) => Some(vec![one]),
        Value::Array(several) if (1..=MAX_PARTS).contains(&several.len()) => {
            several.iter().map(Value::as_str).collect()
        }
        _ => None,
    }
}

fn base64(what: &'static str, text: &str) -> Result<Vec<u8>, TpmError> {
    if text.len() > MAX_BASE64 {
        return Err(damaged(what));
    }
    BASE64.decode(text).map_err(|_| damaged(what))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|letter| letter.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

/// Private part, public part, and where it was sealed elsewhere the encrypted seed.
fn sealed(blob: &[u8]) -> Result<Sealed, TpmError> {
    let read = || -> Result<Sealed, WireError> {
        let mut reader = Reader::new("tpm2-blob", blob);
        let private = reader.sized()?.to_vec();
        let public = Public::parse(reader.sized()?)?;
        let seed = if reader.is_at_end() {
            None
        } else {
            Some(reader.sized()?.to_vec())
        };
        if private.is_empty() || public.kind != KeyKind::Sealed {
            return Err(reader.fail());
        }
        reader.end()?;
        Ok(Sealed {
            private,
            public,
            seed,
        })
    };
    read().map_err(|error| damaged(&error.to_string()))
}

fn pcrs(value: &Value) -> Result<Vec<u8>, TpmError> {
    let wrong = || damaged("tpm2-pcrs");
    let mut pcrs = value
        .as_array()
        .ok_or_else(wrong)?
        .iter()
        .map(|pcr| {
            let pcr = pcr.as_u64().and_then(|pcr| u8::try_from(pcr).ok());
            pcr.filter(|pcr| *pcr < PCRS).ok_or_else(wrong)
        })
        .collect::<Result<Vec<u8>, _>>()?;
    pcrs.sort_unstable();
    pcrs.dedup();
    Ok(pcrs)
}

fn bank(members: &Members<'_>) -> Result<Option<HashAlg>, TpmError> {
    members
        .text("tpm2-pcr-bank")?
        .map(|name| {
            HashAlg::from_name(name).ok_or_else(|| TpmError::Unsupported {
                what: format!("PCR bank {name:?}"),
            })
        })
        .transpose()
}

/// The key that the token names, or the one that old versions made anew.
fn under(members: &Members<'_>) -> Result<StorageKey, TpmError> {
    if let Some(text) = members.text("tpm2_srk")? {
        return serialised_key(&base64("tpm2_srk", text)?)
            .map_err(|error| damaged(&error.to_string()));
    }
    match members.text("tpm2-primary-alg")?.unwrap_or("ecc") {
        "ecc" => Ok(StorageKey::Primary(PrimaryTemplate::LegacyEcc)),
        "rsa" => Ok(StorageKey::Primary(PrimaryTemplate::LegacyRsa)),
        other => Err(TpmError::Unsupported {
            what: format!("primary key of type {other:?}"),
        }),
    }
}

/// A key as tpm2-tss serialises it: handle, name, kind, public area.
fn serialised_key(bytes: &[u8]) -> Result<StorageKey, WireError> {
    let mut reader = Reader::new("tpm2_srk", bytes);
    let handle = reader.u32()?;
    let name = Name::parse(reader.sized()?)?;
    if reader.u32()? != SERIALISED_KEY || handle >> 24 != 0x81 {
        return Err(reader.fail());
    }
    let public = Public::parse(reader.sized()?)?;
    if public.name() != name {
        return Err(reader.fail());
    }
    reader.end()?;
    Ok(StorageKey::Persistent {
        handle,
        name,
        public: Some(public),
    })
}

fn pin(members: &Members<'_>) -> Result<Pin, TpmError> {
    let salt = members
        .text("tpm2_salt")?
        .map(|text| base64("tpm2_salt", text))
        .transpose()?;
    let costs = [
        members.number("tpm2_argon2id_memcost")?,
        members.number("tpm2_argon2id_iterations")?,
        members.number("tpm2_argon2id_lanes")?,
    ];
    if !members.flag("tpm2-pin")? {
        return Ok(Pin::None);
    }
    let wrong = || damaged("costs of the PIN");
    match (salt, costs) {
        (None, [None, None, None]) => Ok(Pin::Plain),
        (Some(salt), [None, None, None]) => Ok(Pin::Salted { salt }),
        (Some(salt), [Some(bytes), Some(iterations), Some(lanes)]) => Ok(Pin::Argon2id {
            salt,
            memory_kib: u32::try_from(bytes / 1024).map_err(|_| wrong())?,
            iterations: u32::try_from(iterations).map_err(|_| wrong())?,
            lanes: u32::try_from(lanes).map_err(|_| wrong())?,
        }),
        _ => Err(wrong()),
    }
}

/// Parts of the policy that are known and not carried out yet, and factors that are not known.
fn beyond(members: &Members<'_>) -> Result<Vec<&'static str>, TpmError> {
    let mut beyond = Vec::new();
    let signed = members
        .get("tpm2_pubkey_pcrs")
        .is_some_and(|pcrs| pcrs.as_array().is_none_or(|pcrs| !pcrs.is_empty()));
    if signed || members.get("tpm2_pubkey").is_some() {
        beyond.push("a signed PCR policy");
    }
    if members.flag("tpm2_pcrlock")? {
        beyond.push("a pcrlock policy");
    }
    let object = members.0.as_object();
    if object.is_some_and(|all| all.keys().any(|name| name.starts_with("fido2"))) {
        // An unknown factor means "cannot open", never "not needed".
        beyond.push("a second factor");
    }
    Ok(beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A storage root key as `tpm2_readpublic -t` of tpm2-tools 5.4 over tpm2-tss 3.2.1 wrote it.
    const SERIALISED: &str = "810000010022000ba6cf0622f30580b12c9afdea2e4326eb98433e50eb019d6e\
        d8303bed6bdb371b00000001005a0023000b0003047200000006008000430010\
        0003001000205689d2ae4b44c9a617dcf529332735300b13f9b5466232e621f993820e42158a0020\
        b9b6487e0193295b7cf2f0e195b0e3fa61f037a5f2bce5023ec0c71a30ac63f6";

    #[test]
    fn a_key_that_tpm2_tss_serialised_is_read() {
        let bytes = ::hex::decode(SERIALISED).unwrap();
        let key = serialised_key(&bytes).unwrap();
        let StorageKey::Persistent {
            handle,
            name,
            public,
        } = key
        else {
            panic!("a persistent key");
        };
        assert_eq!(handle, 0x8100_0001);
        assert_eq!(name.as_bytes(), &bytes[6..40]);
        assert!(public.unwrap().is_storage_key());
        for len in 0..bytes.len() {
            assert!(serialised_key(&bytes[..len]).is_err(), "{len} bytes");
        }
        for at in 4..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(serialised_key(&other).is_err(), "byte {at}");
        }
    }
}
