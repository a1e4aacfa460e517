//! JSON that somebody else wrote: tokens, and the files that lie beside them.
//!
//! Strict where it matters and past what is unknown: members that nobody here knows are left
//! alone, as these formats ask.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::error::TpmError;
use crate::pcr::PCRS;

/// Longest text in base64 that is decoded, in characters.
pub(super) const MAX_BASE64: usize = 16 * 1024;

/// The members of an object.
pub(super) struct Members<'a>(pub(super) &'a Value);

impl<'a> Members<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn needed(&self, name: &'static str) -> Result<&'a Value, TpmError> {
        self.get(name).ok_or(damaged(name))
    }

    pub(super) fn text(&self, name: &'static str) -> Result<Option<&'a str>, TpmError> {
        self.get(name)
            .map(|value| value.as_str().ok_or(damaged(name)))
            .transpose()
    }

    /// What a text in base64 says.
    pub(super) fn bytes(&self, name: &'static str) -> Result<Option<Vec<u8>>, TpmError> {
        self.text(name)?.map(|text| base64(name, text)).transpose()
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<bool, TpmError> {
        self.get(name)
            .map_or(Ok(false), |value| value.as_bool().ok_or(damaged(name)))
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>, TpmError> {
        self.get(name)
            .map(|value| value.as_u64().ok_or(damaged(name)))
            .transpose()
    }
}

pub(super) fn damaged(what: &str) -> TpmError {
    TpmError::Damaged {
        what: what.to_owned(),
    }
}

pub(super) fn base64(what: &'static str, text: &str) -> Result<Vec<u8>, TpmError> {
    if text.len() > MAX_BASE64 {
        return Err(damaged(what));
    }
    BASE64.decode(text).map_err(|_| damaged(what))
}

/// Exactly `len` bytes from hexadecimal digits.
pub(super) fn hex(text: &str, len: usize) -> Option<Vec<u8>> {
    if text.len() != 2 * len || !text.bytes().all(|letter| letter.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

/// Hexadecimal digits.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes what it gets");
        text
    })
}

/// A PCR's number.
pub(super) fn pcr(value: &Value) -> Option<u8> {
    let pcr = value.as_u64().and_then(|pcr| u8::try_from(pcr).ok());
    pcr.filter(|pcr| *pcr < PCRS)
}

/// Numbers of PCRs, ascending, each once.
pub(super) fn pcrs(what: &'static str, value: &Value) -> Result<Vec<u8>, TpmError> {
    let all = value.as_array().ok_or(damaged(what))?;
    let pcrs: Option<Vec<u8>> = all.iter().map(pcr).collect();
    Ok(ascending(pcrs.ok_or(damaged(what))?))
}

/// In ascending order, each once.
pub(super) fn ascending(mut pcrs: Vec<u8>) -> Vec<u8> {
    pcrs.sort_unstable();
    pcrs.dedup();
    pcrs
}
