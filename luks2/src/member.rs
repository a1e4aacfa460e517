//! Reading the members of one JSON object, each with the type and the range that the format gives it.
//!
//! Used by [`crate::parse`] only. A message names the object by its path, never the whole value.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::error::FormatError;
use crate::validate::Rule;

pub(crate) type Object = Map<String, Value>;

/// One object and its name for messages.
pub(crate) struct At<'a> {
    pub(crate) name: String,
    pub(crate) object: &'a Object,
}

impl<'a> At<'a> {
    pub(crate) fn new(name: impl Into<String>, value: &'a Value) -> Result<Self, FormatError> {
        let name = name.into();
        match value.as_object() {
            Some(object) => Ok(Self { name, object }),
            None => broken(Rule::MemberType, format!("{name} is not an object")),
        }
    }

    pub(crate) fn value(&self, member: &str) -> Result<&'a Value, FormatError> {
        match self.object.get(member) {
            Some(value) => Ok(value),
            None => broken(
                Rule::MemberMissing,
                format!("{} has no {member}", self.name),
            ),
        }
    }

    pub(crate) fn object(&self, member: &str) -> Result<At<'a>, FormatError> {
        Self::new(format!("{}.{member}", self.name), self.value(member)?)
    }

    pub(crate) fn text(&self, member: &str) -> Result<&'a str, FormatError> {
        match self.value(member)?.as_str() {
            Some("") => broken(Rule::EmptyText, format!("{}.{member} is empty", self.name)),
            Some(text) => Ok(text),
            None => broken(
                Rule::MemberType,
                format!("{}.{member} is not a string", self.name),
            ),
        }
    }

    pub(crate) fn u32(&self, member: &str) -> Result<u32, FormatError> {
        let value = self.value(member)?;
        match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) => Ok(number),
            None if value.is_number() => broken(
                Rule::Uint32,
                format!("{}.{member} is {value}, not a 32-bit number", self.name),
            ),
            None => broken(
                Rule::MemberType,
                format!("{}.{member} is not a number", self.name),
            ),
        }
    }

    pub(crate) fn u64(&self, member: &str) -> Result<u64, FormatError> {
        let text = self.text(member)?;
        match decimal(text) {
            Some(number) => Ok(number),
            None => broken(
                Rule::Uint64,
                format!(
                    "{}.{member} is {}, not a decimal 64-bit number",
                    self.name,
                    show(text)
                ),
            ),
        }
    }

    pub(crate) fn base64(&self, member: &str) -> Result<Vec<u8>, FormatError> {
        match STANDARD.decode(self.text(member)?) {
            Ok(bytes) => Ok(bytes),
            Err(_) => broken(
                Rule::Base64,
                format!("{}.{member} is not base64", self.name),
            ),
        }
    }

    pub(crate) fn array(&self, member: &str) -> Result<&'a [Value], FormatError> {
        match self.value(member)?.as_array() {
            Some(items) => Ok(items),
            None => broken(
                Rule::MemberType,
                format!("{}.{member} is not an array", self.name),
            ),
        }
    }

    pub(crate) fn texts(&self, member: &str) -> Result<Vec<String>, FormatError> {
        let mut texts = Vec::new();
        for item in self.array(member)? {
            match item.as_str() {
                Some(text) => texts.push(text.to_owned()),
                None => {
                    return broken(
                        Rule::MemberType,
                        format!("{}.{member} holds no string", self.name),
                    );
                }
            }
        }
        Ok(texts)
    }

    pub(crate) fn optional_texts(&self, member: &str) -> Result<Vec<String>, FormatError> {
        if self.object.contains_key(member) {
            self.texts(member)
        } else {
            Ok(Vec::new())
        }
    }

    /// Numbers of other objects, ascending, each once.
    pub(crate) fn references(&self, member: &str, rule: Rule) -> Result<Vec<u8>, FormatError> {
        let mut numbers = Vec::new();
        for text in self.texts(member)? {
            match small_number(&text) {
                Some(number) => numbers.push(number),
                None => {
                    return broken(
                        rule,
                        format!("{}.{member} names {}", self.name, show(&text)),
                    );
                }
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }
}

pub(crate) fn broken<T>(rule: Rule, detail: String) -> Result<T, FormatError> {
    Err(FormatError::Rule { rule, detail })
}

/// Foreign text for a message: quoted, escaped, cut.
pub(crate) fn show(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

/// A 64-bit number in digits only; no sign, no white space, no overflow.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// The number of an object: canonical, so that two names never mean one object.
pub(crate) fn small_number(text: &str) -> Option<u8> {
    let number = u8::try_from(decimal(text)?).ok()?;
    (number.to_string() == text).then_some(number)
}
