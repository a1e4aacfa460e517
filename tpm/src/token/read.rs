//! A token read.

use luksmith_luks2::Token;
use serde_json::Value;

use super::json::{Members, base64, damaged, hex, pcrs};
use super::pcrlock::{Pcrlock, serialised_index};
use super::policy_key::PolicyKey;
use super::signatures::SignedPcrs;
use super::{KIND, Pin, SystemdTpm2};
use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::tpm::{PrimaryTemplate, Sealed, StorageKey};
use crate::wire::{KeyKind, Name, Public, Reader, WireError};

/// Most parts of a secret; systemd makes two.
const MAX_PARTS: usize = 4;
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
                hex(part, 32)
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
        let signed = signed(&members)?;
        let pcrlock = pcrlock(&members)?;
        if signed.is_some() && pcrlock.is_some() && sealed.len() != 2 {
            return Err(damaged("tpm2-blob has not one part for each policy"));
        }
        Ok(Self {
            sealed,
            pcrs: pcrs("tpm2-pcrs", members.needed("tpm2-pcrs")?)?,
            bank: bank(&members)?,
            policies,
            under: under(&members)?,
            pin: pin(&members)?,
            signed,
            pcrlock,
            beyond: beyond(&members),
        })
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
    if let Some(bytes) = members.bytes("tpm2_srk")? {
        return serialised_key(&bytes).map_err(|error| damaged(&error.to_string()));
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
    let salt = members.bytes("tpm2_salt")?;
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

/// The signed PCR policy, which is there if it names a PCR.
fn signed(members: &Members<'_>) -> Result<Option<SignedPcrs>, TpmError> {
    let pcrs = match members.get("tpm2_pubkey_pcrs") {
        Some(value) => pcrs("tpm2_pubkey_pcrs", value)?,
        None => Vec::new(),
    };
    let pem = members.bytes("tpm2_pubkey")?;
    let purpose = members.text("tpm2_pubkey_ref")?.map(str::to_owned);
    match (pem, pcrs.is_empty()) {
        (Some(pem), false) => Ok(Some(SignedPcrs {
            key: PolicyKey::from_pem(&pem)?,
            pcrs,
            purpose,
        })),
        (None, true) if purpose.is_none() => Ok(None),
        _ => Err(damaged(
            "tpm2_pubkey and tpm2_pubkey_pcrs do not go together",
        )),
    }
}

fn pcrlock(members: &Members<'_>) -> Result<Option<Pcrlock>, TpmError> {
    if !members.flag("tpm2_pcrlock")? {
        return Ok(None);
    }
    let index = members
        .bytes("tpm2_pcrlock_nv")?
        .map(|bytes| serialised_index(&bytes).map_err(|error| damaged(&error.to_string())))
        .transpose()?;
    Ok(Some(Pcrlock { index }))
}

/// Factors that are not known: an unknown one means "cannot open", never "not needed".
fn beyond(members: &Members<'_>) -> Vec<&'static str> {
    let object = members.0.as_object();
    let second = object.is_some_and(|all| all.keys().any(|name| name.starts_with("fido2")));
    second.then_some("a second factor").into_iter().collect()
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
