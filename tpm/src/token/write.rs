//! A token written, so that systemd reads it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::json::to_hex;
use super::read::SERIALISED_KEY;
use super::{KIND, Pin, SystemdTpm2, pcrlock};
use crate::error::TpmError;
use crate::tpm::{PrimaryTemplate, Sealed, StorageKey};
use crate::wire::{KeyKind, Writer};

impl SystemdTpm2 {
    /// The token for a slot.
    ///
    /// # Errors
    /// [`TpmError::Misuse`] for what has no form in a token: factors that are
    /// not understood here, a persistent key whose public area is not known.
    pub fn to_json(&self, slot: u8) -> Result<Value, TpmError> {
        if !self.beyond.is_empty() {
            return Err(TpmError::Misuse {
                what: "writing a token whose policy is not wholly understood",
            });
        }
        let mut token = Map::new();
        let mut set = |name: &str, value: Value| token.insert(name.to_owned(), value);
        set("type", KIND.into());
        set("keyslots", vec![slot.to_string()].into());
        set("tpm2-blob", one_or_all(self.sealed.iter().map(blob)));
        set("tpm2-pcrs", self.pcrs.clone().into());
        if let Some(bank) = self.bank {
            set("tpm2-pcr-bank", bank.name().into());
        }
        let (kind, serialised) = match &self.under {
            StorageKey::Primary(PrimaryTemplate::LegacyEcc) => ("ecc", None),
            StorageKey::Primary(PrimaryTemplate::LegacyRsa) => ("rsa", None),
            StorageKey::Persistent {
                handle,
                name,
                public,
            } => {
                let public = public.as_ref().ok_or(TpmError::Misuse {
                    what: "writing a key whose public area is not known",
                })?;
                let kind = match public.kind {
                    KeyKind::Rsa(_) => "rsa",
                    KeyKind::EccP256(_) | KeyKind::Sealed => "ecc",
                };
                let bytes = Writer::new()
                    .u32(*handle)
                    .sized(name.as_bytes())
                    .u32(SERIALISED_KEY)
                    .sized(public.as_bytes())
                    .done();
                (kind, Some(BASE64.encode(bytes)))
            }
        };
        set("tpm2-primary-alg", kind.into());
        let policies = self.policies.iter().map(|policy| to_hex(&policy.0));
        set("tpm2-policy-hash", one_or_all(policies));
        set("tpm2-pin", self.pin.is_needed().into());
        match &self.pin {
            Pin::None | Pin::Plain => {}
            Pin::Salted { salt } => {
                set("tpm2_salt", BASE64.encode(salt).into());
            }
            Pin::Argon2id {
                salt,
                memory_kib,
                iterations,
                lanes,
            } => {
                set("tpm2_salt", BASE64.encode(salt).into());
                let bytes = u64::from(*memory_kib) * 1024;
                set("tpm2_argon2id_memcost", bytes.into());
                set("tpm2_argon2id_iterations", (*iterations).into());
                set("tpm2_argon2id_lanes", (*lanes).into());
            }
        }
        if let Some(signed) = &self.signed {
            set("tpm2_pubkey_pcrs", signed.pcrs.clone().into());
            set("tpm2_pubkey", BASE64.encode(signed.key.pem()).into());
            if let Some(purpose) = &signed.purpose {
                set("tpm2_pubkey_ref", purpose.clone().into());
            }
        }
        if let Some(pcrlock) = &self.pcrlock {
            set("tpm2_pcrlock", true.into());
            if let Some(index) = &pcrlock.index {
                let bytes = pcrlock::serialise(index);
                set("tpm2_pcrlock_nv", BASE64.encode(bytes).into());
            }
        }
        if let Some(serialised) = serialised {
            set("tpm2_srk", serialised.into());
        }
        Ok(Value::Object(token))
    }
}

fn blob(sealed: &Sealed) -> String {
    let mut bytes = Writer::new()
        .sized(&sealed.private)
        .sized(sealed.public.as_bytes());
    if let Some(seed) = &sealed.seed {
        bytes = bytes.sized(seed);
    }
    BASE64.encode(bytes.done())
}

/// A single text stands alone, as versions before sharding have it.
fn one_or_all(texts: impl Iterator<Item = String>) -> Value {
    let mut texts: Vec<String> = texts.collect();
    match texts.len() {
        1 => texts.remove(0).into(),
        _ => texts.into(),
    }
}
