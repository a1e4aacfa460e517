//! What a MAC over a header covers, byte for byte.
//!
//! Programs that rewrite a header may order members anew and space them otherwise; what it says stays the same. So a MAC
//! does not cover the text on the disk but this *canonical text* of it:
//!
//! * members of an object sorted by their names (by their UTF-8 bytes), no white space;
//! * a string as JSON's shortest: `\"`, `\\`, `\b`, `\f`, `\n`, `\r`, `\t`, other bytes below 0x20 as `\u00` and two
//!   lower-case digits, everything else as it is in UTF-8;
//! * a whole number of up to 64 bits in decimal; any other number as `f` and the 16 lower-case hexadecimal digits of its
//!   IEEE 754 double, so that no two programs round it differently;
//! * `null`, `true`, `false`, and arrays in their order.
//!
//! The whole header is the canonical text of
//! `{"binary":{"hdr_size":…,"label":"…","subsystem":"…","uuid":"…","version":2},"metadata":{…}}`: `hdr_size` a number of
//! bytes, both labels in lower-case hexadecimal (they need not be text), `metadata` the JSON of the header without
//!
//! * the member `mac` of every token of type `luksmith-header`, which cannot cover itself, and
//! * the member `luksmith-owed-wipes` of `config`: it comes and goes within one removal, and `repair` settles it without
//!   any key. Who can write it could as well write the ranges that it names; no range in use is ever wiped for it.
//!
//! Not covered are what differs between the copies or with each write (magic, offset, salt, checksum, sequence number).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::edit::OWED_WIPES;
use crate::header::Header;

/// The type of the token that holds a MAC over the header.
pub const HEADER_MAC_TYPE: &str = "luksmith-header";

/// The member of that token which the MAC does not cover.
const MAC_MEMBER: &str = "mac";

impl Header {
    /// The canonical text of the whole header.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let whole = json!({"binary": self.binary_fields(), "metadata": self.covered_metadata()});
        canonical_text(&whole)
    }

    /// The canonical text of each part of the header by the part's name, to tell which of them has changed: `binary`,
    /// `segments`, `digests`, `config`, `keyslots/N`, `tokens/N` but for those of type `luksmith-header`, and `other` for
    /// all members that the format does not know.
    #[must_use]
    pub fn canonical_parts(&self) -> BTreeMap<String, Vec<u8>> {
        let mut parts = BTreeMap::from([("binary".into(), canonical_text(&self.binary_fields()))]);
        let mut other = Map::new();
        for (name, value) in self.covered_metadata() {
            match (&*name, value) {
                ("segments" | "digests" | "config", value) => {
                    parts.insert(name, canonical_text(&value));
                }
                ("keyslots" | "tokens", Value::Object(members)) => {
                    for (number, value) in members {
                        if !is_header_mac(&value) {
                            parts.insert(format!("{name}/{number}"), canonical_text(&value));
                        }
                    }
                }
                (_, value) => drop(other.insert(name, value)),
            }
        }
        if !other.is_empty() {
            parts.insert("other".into(), canonical_text(&Value::Object(other)));
        }
        parts
    }

    fn binary_fields(&self) -> Value {
        json!({
            "hdr_size": self.size().bytes(),
            "label": hex(self.label().as_bytes()),
            "subsystem": hex(self.subsystem().as_bytes()),
            "uuid": self.uuid(),
            "version": 2,
        })
    }

    fn covered_metadata(&self) -> Map<String, Value> {
        let mut root = match self.metadata().as_value() {
            Value::Object(root) => root.clone(),
            _ => unreachable!("validated metadata is an object"),
        };
        if let Some(Value::Object(config)) = root.get_mut("config") {
            config.shift_remove(OWED_WIPES);
        }
        if let Some(Value::Object(tokens)) = root.get_mut("tokens") {
            for token in tokens.values_mut().filter(|token| is_header_mac(token)) {
                if let Value::Object(members) = token {
                    members.shift_remove(MAC_MEMBER);
                }
            }
        }
        root
    }
}

/// The canonical text of any value.
#[must_use]
pub fn canonical_text(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, value);
    out
}

fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Object(members) => {
            let sorted: BTreeMap<&String, &Value> = members.iter().collect();
            out.push(b'{');
            for (at, (name, value)) in sorted.into_iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_text(out, name);
                out.push(b':');
                write(out, value);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(out, item);
            }
            out.push(b']');
        }
        Value::String(text) => write_text(out, text),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            out.extend(number.to_string().bytes());
        }
        Value::Number(number) => {
            let bits = number.as_f64().unwrap_or(f64::NAN).to_bits();
            out.extend(format!("f{bits:016x}").bytes());
        }
        Value::Null | Value::Bool(_) => out.extend(value.to_string().bytes()),
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    out.extend(crate::json::write(&Value::String(text.to_owned())));
}

fn is_header_mac(token: &Value) -> bool {
    token.get("type").and_then(Value::as_str) == Some(HEADER_MAC_TYPE)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        String::from_utf8(canonical_text(
            &crate::json::parse(text.as_bytes()).unwrap(),
        ))
        .unwrap()
    }

    #[test]
    fn order_and_white_space_do_not_matter_and_everything_else_does() {
        let one = of(r#"{"b": [1, 2], "a": {"y": null, "x": true}}"#);
        assert_eq!(one, r#"{"a":{"x":true,"y":null},"b":[1,2]}"#);
        assert_eq!(of(r#"{"a":{"x":true,"y":null},"b":[1,2]}"#), one);
        for other in [
            r#"{"a":{"x":true,"y":null},"b":[2,1]}"#,
            r#"{"a":{"x":true,"y":null},"b":["1",2]}"#,
            r#"{"a":{"x":true},"b":[1,2]}"#,
        ] {
            assert_ne!(of(other), one);
        }
    }

    #[test]
    fn strings_and_numbers_have_one_form() {
        assert_eq!(of(r#""\u00e4\/\u0001\t\"""#), "\"\u{e4}/\\u0001\\t\\\"\"");
        assert_eq!(of("18446744073709551615"), "18446744073709551615");
        assert_eq!(of("-5"), "-5");
        assert_eq!(of("1.5"), "f3ff8000000000000");
        assert_eq!(of("15e-1"), of("1.50"));
    }
}
