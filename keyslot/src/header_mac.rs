//! The MAC over a header: who holds the volume key says that a header is as it should be.
//!
//! Everything in a header can be changed by whoever has the disk in hand, with a valid checksum: the cipher, where the data
//! begin, which slots there are; or a whole older header can be put back. The token of type `luksmith-header` makes both
//! visible to the next one who opens the volume. Other programs keep the token and ignore it, and when they change the
//! header, the MAC no longer fits: then a person has to say that it is well ([`bless`]).
//!
//! # The token
//!
//! | member | value |
//! |---|---|
//! | `type` | `luksmith-header` |
//! | `keyslots` | empty |
//! | `version` | the number 1 |
//! | `epoch` | decimal 64-bit number as a string, as all such of the format; grows when a keyslot goes |
//! | `tpm2-counter` | optional: `{handle, name, srk}`, an NV counter of a TPM that no epoch in force is below |
//! | `parts` | by the name of each part: base64 of the first 8 bytes of its tag |
//! | `mac` | base64 of the 32 bytes of the tag of the whole header |
//!
//! `handle` is a number, `name` the name of the NV index (algorithm and digest), `srk` that of the storage root key by which the
//! TPM is told from others; both in lower-case hexadecimal. A header that was tied to another counter before is told by
//! none of this: its own counter no longer moves, so its epoch is in force for ever. Only who demands this one counter,
//! from outside of the header, notices that one (`header-mac=counter:HANDLE`; plain `header-mac=counter` does not).
//! Members that are not in this table are kept out of new tokens
//! and are covered by the MAC where they stand.
//!
//! # The tags
//!
//! The key is [`MacKey::derive`] of the volume key of the data, with the purpose `luksmith header mac 1`. The tag of the whole
//! header is that of `header`, a zero byte, and [`Header::canonical`]. The tag of a part is that of `part`, a zero byte, its
//! name, a zero byte, and its text in [`Header::canonical_parts`]; the part `counter` is the canonical text of
//! `tpm2-counter`, or nothing. Parts only help to say what has changed: what counts is the MAC, which covers
//! them, too.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use luksmith_crypto::{CryptoError, MacKey, TAG_BYTES, VolumeKey};
use luksmith_luks2::canonical::canonical_text;
use luksmith_luks2::{Change, FormatError, HEADER_MAC_TYPE, Header, Keyslot, Metadata, Token};
use serde_json::{Map, Value, json};

use crate::error::PlanError;

const PURPOSE: &str = "luksmith header mac 1";
const VERSION: u64 = 1;
const PART_TAG_BYTES: usize = 8;
const COUNTER: &str = "tpm2-counter";

/// The key for the MAC over the headers of a volume, from its volume key.
///
/// # Errors
/// When memory cannot be had.
pub fn header_mac_key(key: &VolumeKey) -> Result<MacKey, CryptoError> {
    MacKey::derive(key, PURPOSE)
}

/// What the token says. Only [`check`] knows whether it is true.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderMac {
    /// Number of the token.
    pub token: u8,
    /// Grows when a keyslot goes.
    pub epoch: u64,
    /// What tells an old header from the present one.
    pub counter: Option<Counter>,
    parts: BTreeMap<String, Vec<u8>>,
    mac: Vec<u8>,
}

/// An NV counter of a TPM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counter {
    /// Handle of the NV index.
    pub handle: u32,
    /// Name of the NV index.
    pub name: Vec<u8>,
    /// Name of the TPM's storage root key.
    pub srk: Vec<u8>,
}

/// Why a header is not taken for what its owner left.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderMacError {
    /// More than one token claims to be the one.
    #[error("it has more than one token of type luksmith-header")]
    Several,
    /// The token is not one, or of a version to come.
    #[error("its token of type luksmith-header cannot be read: {0}")]
    Unreadable(&'static str),
    /// The MAC does not fit. With the parts that have changed, came or went; none if each was blessed once, but not together.
    #[error("{}", changed(.0))]
    Changed(Vec<String>),
}

fn changed(parts: &[String]) -> String {
    if parts.is_empty() {
        "it was put together from parts of older headers".to_owned()
    } else {
        let words: Vec<String> = parts.iter().map(|name| in_words(name)).collect();
        format!("changed since it was blessed: {}", words.join(", "))
    }
}

fn in_words(part: &str) -> String {
    match part {
        "binary" => "label, UUID or size".to_owned(),
        "segments" => "segments (where the data lie, and their cipher)".to_owned(),
        "config" => "flags or sizes (config)".to_owned(),
        "other" => "members that are unknown here".to_owned(),
        numbered => numbered.replace("s/", " "),
    }
}

/// The token of a header, if there is one.
///
/// # Errors
/// [`HeaderMacError::Several`], [`HeaderMacError::Unreadable`].
pub fn find(metadata: &Metadata) -> Result<Option<HeaderMac>, HeaderMacError> {
    let mut tokens = tokens(metadata);
    match (tokens.next(), tokens.next()) {
        (None, _) => Ok(None),
        (Some((number, token)), None) => HeaderMac::read(number, &token.raw).map(Some),
        _ => Err(HeaderMacError::Several),
    }
}

/// Whether the header is as it was when it was blessed. `None`: it never was, or the token was taken out.
///
/// # Errors
/// [`HeaderMacError`].
pub fn check(header: &Header, key: &MacKey) -> Result<Option<HeaderMac>, HeaderMacError> {
    let Some(found) = find(header.metadata())? else {
        return Ok(None);
    };
    if found.mac.len() == TAG_BYTES && key.accepts(&whole(header), &found.mac) {
        return Ok(Some(found));
    }
    let now = parts_of(header, found.counter.as_ref());
    let names: BTreeSet<&String> = now.keys().chain(found.parts.keys()).collect();
    let changed = names
        .into_iter()
        .filter(|name| match (now.get(*name), found.parts.get(*name)) {
            (Some(text), Some(tag)) => {
                tag.len() != PART_TAG_BYTES || !key.accepts(&part(name, text), tag)
            }
            _ => true,
        })
        .cloned()
        .collect();
    Err(HeaderMacError::Changed(changed))
}

/// The metadata with the token that fits the header, in the place of whatever token of its type is there.
///
/// # Errors
/// The token does not fit the header, or 32 others are there.
pub fn blessed(
    header: &Header,
    key: &MacKey,
    epoch: u64,
    counter: Option<&Counter>,
) -> Result<Metadata, FormatError> {
    let old = tokens(header.metadata()).map(|(number, _)| number).next();
    let bare = without(header.metadata())?;
    let number = match old {
        Some(number) => number,
        None => bare.free_token()?,
    };
    let bare = header.with_metadata(bare)?;
    let parts: Map<String, Value> = parts_of(&bare, counter)
        .into_iter()
        .map(|(name, text)| {
            let tag = key.tag(&part(&name, &text));
            let tag = BASE64.encode(&tag[..PART_TAG_BYTES]);
            (name, tag.into())
        })
        .collect();
    let mut token = json!({
        "type": HEADER_MAC_TYPE,
        "keyslots": [],
        "version": VERSION,
        "epoch": epoch.to_string(),
        "parts": parts,
        "mac": "",
    });
    if let Some(counter) = counter {
        token[COUNTER] = counter.to_value();
    }
    let unsigned = bare.with_metadata(bare.metadata().with_token(number, token.clone())?)?;
    token["mac"] = BASE64.encode(key.tag(&whole(&unsigned))).into();
    bare.metadata().with_token(number, token)
}

/// Plans the blessing of a header as it is.
///
/// # Errors
/// As [`blessed`]; an unknown requirement.
pub fn bless(
    header: &Header,
    key: &MacKey,
    epoch: u64,
    counter: Option<&Counter>,
) -> Result<Change, PlanError> {
    let after = header.with_metadata(blessed(header, key, epoch, counter)?)?;
    Ok(Change::edit(header, &after)?)
}

/// Plans the end of the protection: the token goes.
///
/// # Errors
/// An unknown requirement.
pub fn unbless(header: &Header) -> Result<Change, PlanError> {
    let after = header.with_metadata(without(header.metadata())?)?;
    Ok(Change::edit(header, &after)?)
}

/// The same change, each of its commits blessed: whatever a crash leaves, the header that counts then has the MAC that fits.
///
/// # Errors
/// As [`blessed`].
pub fn keep_blessed(
    change: Change,
    key: &MacKey,
    epoch: u64,
    counter: Option<&Counter>,
) -> Result<Change, PlanError> {
    let mut remade = |header: &Header| blessed(header, key, epoch, counter);
    Ok(change.with_tokens_remade(&mut remade)?)
}

/// Whether a change takes something away that could open the volume: a keyslot goes or gets new material. An old header
/// must not come back then.
#[must_use]
pub fn revokes(change: &Change, before: &Header) -> bool {
    let after = change.after().metadata().keyslots();
    let material = |slot: &Keyslot| slot.kind.clone();
    before
        .metadata()
        .keyslots()
        .iter()
        .any(|(number, slot)| after.get(number).map(material) != Some(material(slot)))
}

impl HeaderMac {
    fn read(token: u8, raw: &Value) -> Result<Self, HeaderMacError> {
        let wrong = HeaderMacError::Unreadable;
        if raw.get("version").and_then(Value::as_u64) != Some(VERSION) {
            return Err(wrong("its version is not 1"));
        }
        let epoch = text(raw, "epoch").and_then(|text| text.parse().ok());
        let counter = match raw.get(COUNTER) {
            None => None,
            Some(value) => Some(Counter::read(value).ok_or(wrong("tpm2-counter"))?),
        };
        let mut parts = BTreeMap::new();
        let listed = raw.get("parts").and_then(Value::as_object);
        for (name, tag) in listed.ok_or(wrong("parts"))? {
            // The names are shown to people.
            let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'/';
            let tag = tag.as_str().and_then(|text| BASE64.decode(text).ok());
            let tag = tag.filter(|_| name.len() <= 16 && name.bytes().all(plain));
            parts.insert(name.clone(), tag.ok_or(wrong("parts"))?);
        }
        let mac = text(raw, "mac").and_then(|text| BASE64.decode(text).ok());
        Ok(Self {
            token,
            epoch: epoch.ok_or(wrong("epoch"))?,
            counter,
            parts,
            mac: mac.ok_or(wrong("mac"))?,
        })
    }
}

impl Counter {
    fn read(value: &Value) -> Option<Self> {
        Some(Self {
            handle: u32::try_from(value.get("handle")?.as_u64()?).ok()?,
            name: from_hex(text(value, "name")?)?,
            srk: from_hex(text(value, "srk")?)?,
        })
    }

    fn to_value(&self) -> Value {
        json!({"handle": self.handle, "name": to_hex(&self.name), "srk": to_hex(&self.srk)})
    }
}

fn tokens(metadata: &Metadata) -> impl Iterator<Item = (u8, &Token)> {
    let all = metadata.tokens().iter();
    all.filter(|(_, token)| token.kind == HEADER_MAC_TYPE)
        .map(|(number, token)| (*number, token))
}

fn without(metadata: &Metadata) -> Result<Metadata, FormatError> {
    let mut bare = metadata.clone();
    for (number, _) in tokens(metadata) {
        bare = bare.without_token(number)?;
    }
    Ok(bare)
}

/// What the MAC is computed over.
fn whole(header: &Header) -> Vec<u8> {
    [b"header\0".as_slice(), &header.canonical()].concat()
}

/// What the tag of a part is computed over.
fn part(name: &str, text: &[u8]) -> Vec<u8> {
    [b"part\0".as_slice(), name.as_bytes(), b"\0", text].concat()
}

fn parts_of(header: &Header, counter: Option<&Counter>) -> BTreeMap<String, Vec<u8>> {
    let mut parts = header.canonical_parts();
    let counter = counter.map_or_else(Vec::new, |counter| canonical_text(&counter.to_value()));
    parts.insert("counter".into(), counter);
    parts
}

fn text<'a>(value: &'a Value, member: &str) -> Option<&'a str> {
    value.get(member)?.as_str()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).ok();
    digits.chunks(2).map(byte).collect()
}
