//! Edits of metadata: each gives a new valid [`Metadata`], or an error and nothing else.
//!
//! An edit changes the JSON tree where it must and nowhere else, so whatever it does not know survives. The result passes
//! the same door as bytes from a disk ([`Metadata::parse`]) and is checked to fit its area before anything is written.
//! New members stand in the order in which the reference writes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::area::Area;
use crate::error::FormatError;
use crate::metadata::{
    AF_STRIPES, KdfParams, MAX_DIGESTS, MAX_KEYSLOTS, MAX_TOKENS, Metadata, Priority, Requirement,
};
use crate::token::MAX_TYPE_BYTES;

/// A keyslot of type `luks2` to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKeyslot {
    /// Bytes of the key that it stores.
    pub key_size: u32,
    /// Where its material goes; from [`crate::area::find_room`].
    pub area: Area,
    /// Cipher of the area, e.g. `aes-xts-plain64`.
    pub encryption: String,
    /// Bytes of the area's key.
    pub area_key_size: u32,
    /// Key derivation.
    pub kdf: KdfParams,
    /// Hash of the splitter, e.g. `sha256`.
    pub af_hash: String,
    /// Order of tries.
    pub priority: Priority,
}

/// A digest to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDigest {
    /// Segments under its key; empty for an unbound key.
    pub segments: Vec<u8>,
    /// Hash name, e.g. `sha256`.
    pub hash: String,
    /// Rounds.
    pub iterations: u32,
    /// Salt, 32 bytes as a rule.
    pub salt: Vec<u8>,
    /// The expected result.
    pub digest: Vec<u8>,
}

impl Metadata {
    /// Adds keyslot `number` under the existing digest `digest`.
    ///
    /// # Errors
    /// The number is taken or the digest missing; the area is not free room; the result breaks a rule or does not fit.
    pub fn with_keyslot(
        &self,
        number: u8,
        slot: &NewKeyslot,
        digest: u8,
    ) -> Result<Self, FormatError> {
        if self.keyslots.contains_key(&number) {
            return Err(FormatError::InUse {
                what: "keyslot",
                number,
            });
        }
        if !self.digests.contains_key(&digest) {
            return Err(FormatError::Missing {
                what: "digest",
                number: digest,
            });
        }
        let mut root = self.root.clone();
        section(&mut root, "keyslots").insert(number.to_string(), slot.to_value()?);
        push_reference(&mut root, "digests", digest, "keyslots", number);
        self.again(root)
    }

    /// Adds digest `number` and, with it, keyslot `slot` that holds its key. For a new volume key: an unbound one if
    /// `digest.segments` is empty.
    ///
    /// # Errors
    /// As [`Metadata::with_keyslot`], and if the digest's number is taken.
    pub fn with_digest_and_keyslot(
        &self,
        number: u8,
        digest: &NewDigest,
        slot: u8,
        keyslot: &NewKeyslot,
    ) -> Result<Self, FormatError> {
        if self.digests.contains_key(&number) {
            return Err(FormatError::InUse {
                what: "digest",
                number,
            });
        }
        if self.keyslots.contains_key(&slot) {
            return Err(FormatError::InUse {
                what: "keyslot",
                number: slot,
            });
        }
        let mut root = self.root.clone();
        section(&mut root, "keyslots").insert(slot.to_string(), keyslot.to_value()?);
        section(&mut root, "digests").insert(number.to_string(), digest.to_value(&[slot]));
        self.again(root)
    }

    /// Adds digest `number` without a keyslot.
    ///
    /// # Errors
    /// The number is taken, or the result breaks a rule or does not fit.
    pub fn with_digest(&self, number: u8, digest: &NewDigest) -> Result<Self, FormatError> {
        if self.digests.contains_key(&number) {
            return Err(FormatError::InUse {
                what: "digest",
                number,
            });
        }
        let mut root = self.root.clone();
        section(&mut root, "digests").insert(number.to_string(), digest.to_value(&[]));
        self.again(root)
    }

    /// Puts another keyslot in the place of `number`: same digest, same tokens, other material.
    ///
    /// # Errors
    /// There is no such keyslot, or it is no `luks2` keyslot; the result breaks a rule (so the new area must not touch
    /// the old one's neighbours) or does not fit.
    pub fn with_keyslot_replaced(
        &self,
        number: u8,
        slot: &NewKeyslot,
    ) -> Result<Self, FormatError> {
        let old = self.keyslots.get(&number).ok_or(FormatError::Missing {
            what: "keyslot",
            number,
        })?;
        if old.luks2().is_none() {
            return Err(FormatError::Misuse(
                "only a keyslot that holds a key can be replaced",
            ));
        }
        let mut root = self.root.clone();
        section(&mut root, "keyslots").insert(number.to_string(), slot.to_value()?);
        self.again(root)
    }

    /// Removes a keyslot, also out of digests and tokens. A digest that then names neither keyslots nor segments goes
    /// too; tokens stay, unassigned.
    ///
    /// # Errors
    /// There is no such keyslot; it steers a re-encryption.
    pub fn without_keyslot(&self, number: u8) -> Result<Self, FormatError> {
        let slot = self.keyslots.get(&number).ok_or(FormatError::Missing {
            what: "keyslot",
            number,
        })?;
        if matches!(slot.kind, crate::metadata::KeyslotKind::Reencrypt(_)) {
            return Err(FormatError::ReencryptionInProgress);
        }
        let mut root = self.root.clone();
        remove_keyslot(&mut root, number);
        self.again(root)
    }

    /// Adds token `number`, a whole JSON object with `type` and `keyslots`.
    ///
    /// # Errors
    /// The number is taken, or the result breaks a rule or does not fit.
    pub fn with_token(&self, number: u8, token: Value) -> Result<Self, FormatError> {
        if self.tokens.contains_key(&number) {
            return Err(FormatError::InUse {
                what: "token",
                number,
            });
        }
        check_token_type(&token)?;
        let mut root = self.root.clone();
        section(&mut root, "tokens").insert(number.to_string(), token);
        self.again(root)
    }

    /// Puts another token in the place of `number`.
    ///
    /// # Errors
    /// There is no such token, or the result breaks a rule or does not fit.
    pub fn with_token_replaced(&self, number: u8, token: Value) -> Result<Self, FormatError> {
        if !self.tokens.contains_key(&number) {
            return Err(FormatError::Missing {
                what: "token",
                number,
            });
        }
        check_token_type(&token)?;
        let mut root = self.root.clone();
        section(&mut root, "tokens").insert(number.to_string(), token);
        self.again(root)
    }

    /// Removes a token. The keyslots that it opened stay.
    ///
    /// # Errors
    /// There is no such token.
    pub fn without_token(&self, number: u8) -> Result<Self, FormatError> {
        if !self.tokens.contains_key(&number) {
            return Err(FormatError::Missing {
                what: "token",
                number,
            });
        }
        let mut root = self.root.clone();
        section(&mut root, "tokens").shift_remove(&number.to_string());
        self.again(root)
    }

    /// Assigns a token to a keyslot, or takes it away. Nothing changes if it is so already.
    ///
    /// # Errors
    /// There is no such token or keyslot.
    pub fn with_token_assigned(
        &self,
        token: u8,
        slot: u8,
        assigned: bool,
    ) -> Result<Self, FormatError> {
        let old = self.tokens.get(&token).ok_or(FormatError::Missing {
            what: "token",
            number: token,
        })?;
        if !self.keyslots.contains_key(&slot) {
            return Err(FormatError::Missing {
                what: "keyslot",
                number: slot,
            });
        }
        if old.keyslots.contains(&slot) == assigned {
            return Ok(self.clone());
        }
        let mut root = self.root.clone();
        if assigned {
            push_reference(&mut root, "tokens", token, "keyslots", slot);
        } else if let Some(object) = section(&mut root, "tokens").get_mut(&token.to_string()) {
            drop_reference(object, "keyslots", slot);
        }
        self.again(root)
    }

    /// Sets the order of tries of a keyslot.
    ///
    /// # Errors
    /// There is no such keyslot, or it holds no key.
    pub fn with_priority(&self, number: u8, priority: Priority) -> Result<Self, FormatError> {
        let slot = self.keyslots.get(&number).ok_or(FormatError::Missing {
            what: "keyslot",
            number,
        })?;
        if slot.luks2().is_none() {
            return Err(FormatError::Misuse(
                "only a keyslot that holds a key has a priority",
            ));
        }
        let mut root = self.root.clone();
        if let Some(Value::Object(object)) =
            section(&mut root, "keyslots").get_mut(&number.to_string())
        {
            match priority {
                Priority::Normal => drop(object.shift_remove("priority")),
                other => drop(object.insert("priority".into(), other.number().into())),
            }
        }
        self.again(root)
    }

    /// Sets the persistent activation flags; unknown ones are for the caller to keep or drop.
    ///
    /// # Errors
    /// The result does not fit.
    pub fn with_flags(&self, flags: &[String]) -> Result<Self, FormatError> {
        let mut root = self.root.clone();
        let config = section(&mut root, "config");
        if flags.is_empty() {
            config.shift_remove("flags");
        } else {
            config.insert("flags".into(), flags.to_vec().into());
        }
        self.again(root)
    }

    /// Adds or removes a requirement that this program knows; unknown ones stay.
    ///
    /// # Errors
    /// The result breaks a rule or does not fit.
    pub fn with_requirement(
        &self,
        requirement: Requirement,
        required: bool,
    ) -> Result<Self, FormatError> {
        let mut names: Vec<String> = self.mandatory_names();
        names.retain(|name| name != requirement.name());
        if required {
            names.push(requirement.name().to_owned());
        }
        let mut root = self.root.clone();
        let config = section(&mut root, "config");
        let mut object = match config.get("requirements") {
            Some(Value::Object(object)) => object.clone(),
            _ => Map::new(),
        };
        if names.is_empty() {
            object.shift_remove("mandatory");
        } else {
            object.insert("mandatory".into(), names.into());
        }
        if object.is_empty() {
            config.shift_remove("requirements");
        } else {
            config.insert("requirements".into(), Value::Object(object));
        }
        self.again(root)
    }

    /// Lowest free keyslot number.
    ///
    /// # Errors
    /// [`FormatError::Full`].
    pub fn free_keyslot(&self) -> Result<u8, FormatError> {
        free_number(MAX_KEYSLOTS, "keyslots", |number| {
            self.keyslots.contains_key(&number)
        })
    }

    /// Lowest free token number.
    ///
    /// # Errors
    /// [`FormatError::Full`].
    pub fn free_token(&self) -> Result<u8, FormatError> {
        free_number(MAX_TOKENS, "tokens", |number| {
            self.tokens.contains_key(&number)
        })
    }

    /// Lowest free digest number.
    ///
    /// # Errors
    /// [`FormatError::Full`].
    pub fn free_digest(&self) -> Result<u8, FormatError> {
        free_number(MAX_DIGESTS, "digests", |number| {
            self.digests.contains_key(&number)
        })
    }

    /// Sets the ranges that a removal owes a wipe; see [`crate::change`].
    pub(crate) fn with_owed_wipes(&self, owed: &[Area]) -> Result<Self, FormatError> {
        let mut root = self.root.clone();
        let config = section(&mut root, "config");
        if owed.is_empty() {
            config.shift_remove(OWED_WIPES);
        } else {
            let list: Vec<Value> = owed
                .iter()
                .map(|area| json!({"offset": area.offset.to_string(), "size": area.size.to_string()}))
                .collect();
            config.insert(OWED_WIPES.into(), Value::Array(list));
        }
        self.again(root)
    }

    fn mandatory_names(&self) -> Vec<String> {
        self.root
            .pointer("/config/requirements/mandatory")
            .and_then(Value::as_array)
            .map(|names| {
                names
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect()
            })
            .unwrap_or_default()
    }

    fn again(&self, root: Value) -> Result<Self, FormatError> {
        Self::from_value(root, &self.geometry)
    }
}

/// Member of `config` that lists ranges which a removal still owes a wipe. Other programs keep and ignore it.
pub(crate) const OWED_WIPES: &str = "luksmith-owed-wipes";

impl NewKeyslot {
    fn to_value(&self) -> Result<Value, FormatError> {
        let mut kdf = Map::new();
        let salt = match &self.kdf {
            KdfParams::Pbkdf2 {
                hash,
                iterations,
                salt,
            } => {
                kdf.insert("type".into(), "pbkdf2".into());
                kdf.insert("hash".into(), hash.as_str().into());
                kdf.insert("iterations".into(), (*iterations).into());
                salt
            }
            KdfParams::Argon2 {
                id,
                time,
                memory_kib,
                cpus,
                salt,
            } => {
                kdf.insert(
                    "type".into(),
                    if *id { "argon2id" } else { "argon2i" }.into(),
                );
                kdf.insert("time".into(), (*time).into());
                kdf.insert("memory".into(), (*memory_kib).into());
                kdf.insert("cpus".into(), (*cpus).into());
                salt
            }
            KdfParams::Other(_) => {
                return Err(FormatError::Misuse(
                    "a new keyslot with an unknown key derivation",
                ));
            }
        };
        kdf.insert("salt".into(), STANDARD.encode(salt).into());
        let mut slot = Map::new();
        slot.insert("type".into(), "luks2".into());
        slot.insert("key_size".into(), self.key_size.into());
        if self.priority != Priority::Normal {
            slot.insert("priority".into(), self.priority.number().into());
        }
        slot.insert(
            "af".into(),
            json!({"type": "luks1", "stripes": AF_STRIPES, "hash": self.af_hash}),
        );
        slot.insert(
            "area".into(),
            json!({
                "type": "raw",
                "offset": self.area.offset.to_string(),
                "size": self.area.size.to_string(),
                "encryption": self.encryption,
                "key_size": self.area_key_size,
            }),
        );
        slot.insert("kdf".into(), Value::Object(kdf));
        Ok(Value::Object(slot))
    }
}

impl NewDigest {
    pub(crate) fn to_value(&self, keyslots: &[u8]) -> Value {
        json!({
            "type": "pbkdf2",
            "keyslots": references(keyslots),
            "segments": references(&self.segments),
            "hash": self.hash,
            "iterations": self.iterations,
            "salt": STANDARD.encode(&self.salt),
            "digest": STANDARD.encode(&self.digest),
        })
    }
}

/// A longer type is read and kept, but other programs cannot work with it.
fn check_token_type(token: &Value) -> Result<(), FormatError> {
    match token.get("type").and_then(Value::as_str) {
        Some(kind) if kind.len() > MAX_TYPE_BYTES => {
            Err(FormatError::Misuse("a token type of more than 64 bytes"))
        }
        _ => Ok(()),
    }
}

fn references(numbers: &[u8]) -> Vec<String> {
    numbers.iter().map(u8::to_string).collect()
}

/// Lowest number under `limit` that is not taken.
fn free_number(
    limit: u8,
    what: &'static str,
    taken: impl Fn(u8) -> bool,
) -> Result<u8, FormatError> {
    (0..limit)
        .find(|number| !taken(*number))
        .ok_or(FormatError::Full { what, limit })
}

fn section<'a>(root: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    root.get_mut(name)
        .and_then(Value::as_object_mut)
        .expect("validated metadata has its five objects")
}

fn push_reference(root: &mut Value, section_name: &str, number: u8, member: &str, reference: u8) {
    if let Some(Value::Array(list)) = section(root, section_name)
        .get_mut(&number.to_string())
        .and_then(|object| object.get_mut(member))
    {
        list.push(reference.to_string().into());
    }
}

fn drop_reference(object: &mut Value, member: &str, reference: u8) {
    if let Some(Value::Array(list)) = object.get_mut(member) {
        let reference = reference.to_string();
        list.retain(|item| item.as_str() != Some(&reference));
    }
}

fn remove_keyslot(root: &mut Value, number: u8) {
    section(root, "keyslots").shift_remove(&number.to_string());
    for token in section(root, "tokens").values_mut() {
        drop_reference(token, "keyslots", number);
    }
    for digest in section(root, "digests").values_mut() {
        drop_reference(digest, "keyslots", number);
    }
    section(root, "digests").retain(|_, digest| {
        let used = |member| {
            digest
                .get(member)
                .and_then(Value::as_array)
                .is_some_and(|list| !list.is_empty())
        };
        used("keyslots") || used("segments")
    });
}
