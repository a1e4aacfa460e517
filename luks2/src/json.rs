//! JSON text ⇄ tree, without loss.
//!
//! Stricter than the parser of the reference: duplicate members, deep nesting, bad UTF-8, comments and numbers that would
//! not come back as the same value are refused instead of changed silently. Members keep their order.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::FormatError;

/// Values may be nested this deep; the outermost object is level 1.
pub const MAX_DEPTH: usize = 32;

/// Takes the text out of a JSON area: it starts with `{` at the first byte, ends with `}`, a NUL follows, and all the
/// rest is zero.
///
/// # Errors
/// [`FormatError::Json`] otherwise.
pub fn text_of_area(area: &[u8]) -> Result<&[u8], FormatError> {
    let Some(end) = area.iter().position(|byte| *byte == 0) else {
        return Err(FormatError::Json(
            "the text does not end inside of the area".into(),
        ));
    };
    let (text, rest) = area.split_at(end);
    if rest.iter().any(|byte| *byte != 0) {
        return Err(FormatError::Json(
            "there is something behind the end of the text".into(),
        ));
    }
    if text.first() != Some(&b'{') || text.last() != Some(&b'}') {
        return Err(FormatError::Json(
            "the text is not one object from its first to its last byte".into(),
        ));
    }
    Ok(text)
}

/// Parses one text.
///
/// # Errors
/// [`FormatError::Json`] for anything that is not JSON, has a duplicate member, is nested deeper than [`MAX_DEPTH`], or
/// holds a number that cannot be kept exactly.
pub fn parse(text: &[u8]) -> Result<Value, FormatError> {
    check_numbers(text)?;
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Node { depth: 1 }
        .deserialize(&mut deserializer)
        .map_err(|error| FormatError::Json(error.to_string()))?;
    deserializer
        .end()
        .map_err(|error| FormatError::Json(error.to_string()))?;
    Ok(value)
}

/// Compact text: no white space, `/` not escaped, members in the order of the tree.
///
/// # Panics
/// Never: a tree of JSON values has a text.
#[must_use]
pub fn write(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON tree has string keys only and no failing writer")
}

/// Depth of a tree that did not come out of [`parse`].
pub(crate) fn check_depth(value: &Value) -> Result<(), FormatError> {
    fn ok(value: &Value, depth: usize) -> bool {
        depth <= MAX_DEPTH
            && match value {
                Value::Array(items) => items.iter().all(|item| ok(item, depth + 1)),
                Value::Object(members) => members.values().all(|member| ok(member, depth + 1)),
                _ => true,
            }
    }
    if ok(value, 1) {
        Ok(())
    } else {
        Err(too_deep())
    }
}

fn too_deep() -> FormatError {
    FormatError::Json(format!("nested deeper than {MAX_DEPTH} levels"))
}

struct Node {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Node {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > MAX_DEPTH {
            return Err(D::Error::custom(format_args!(
                "nested deeper than {MAX_DEPTH} levels"
            )));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number out of range"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(Node {
            depth: self.depth + 1,
        })? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(name) = members.next_key_seed(Name)? {
            if out.contains_key(&name) {
                return Err(A::Error::custom(format_args!(
                    "member {name:?} occurs twice"
                )));
            }
            let value = members.next_value_seed(Node {
                depth: self.depth + 1,
            })?;
            out.insert(name, value);
        }
        Ok(Value::Object(out))
    }
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        String::deserialize(deserializer)
    }
}

/// Numbers beyond 64 bits or with more digits than a double keeps would be rounded by the tree. Nobody writes such; a
/// header that has one is refused rather than altered by the next rewrite.
fn check_numbers(text: &[u8]) -> Result<(), FormatError> {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => at = end_of_string(text, at),
            b'-' | b'0'..=b'9' => {
                let start = at;
                while at < text.len()
                    && matches!(text[at], b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
                {
                    at += 1;
                }
                check_number(&text[start..at])?;
            }
            _ => at += 1,
        }
    }
    Ok(())
}

fn end_of_string(text: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn check_number(token: &[u8]) -> Result<(), FormatError> {
    let text = String::from_utf8_lossy(token);
    let number: Number = match serde_json::from_str(&text) {
        Ok(number) => number,
        Err(_) => {
            return Err(FormatError::Json(
                "a number that is none or is out of range".into(),
            ));
        }
    };
    if decimal(&text) == decimal(&number.to_string()) {
        Ok(())
    } else {
        Err(FormatError::Json(
            "a number with more digits than can be kept".into(),
        ))
    }
}

/// Sign, digits without outer zeros, and the power of ten of the last digit: equal for equal values.
fn decimal(text: &str) -> Option<(bool, String, i64)> {
    let (negative, text) = text
        .strip_prefix('-')
        .map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i64 = exponent.parse().ok()?;
    let digits = format!("{whole}{fraction}");
    let stripped = digits.trim_end_matches('0');
    let mut power = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    power = power.checked_add(i64::try_from(digits.len() - stripped.len()).ok()?)?;
    let stripped = stripped.trim_start_matches('0');
    if stripped.is_empty() {
        Some((false, String::new(), 0))
    } else {
        Some((negative, stripped.to_owned(), power))
    }
}
