//! Names of volumes: one path component in `/dev/luksmith` and in `/run/luksmith`.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::UblkError;

/// The name under which a volume is open.
///
/// It becomes a file name in `/run/luksmith` and `/dev/luksmith` and a word in udev
/// rules, so only letters, digits and `+ - . _ : @ = #` are taken, at most 127 of them, and
/// not a dot or a dash at the start.
///
/// Names are ordered as people count: `v2` comes before `v10`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

impl VolumeName {
    /// The longest name, in bytes: what the names of device-mapper devices may have.
    pub const MAX_BYTES: usize = 127;

    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, UblkError> {
        let refuse = |why| Err(UblkError::BadName(name.into(), why));
        if name.is_empty() {
            return refuse("it is empty");
        }
        if name.len() > Self::MAX_BYTES {
            return refuse("it is longer than 127 bytes");
        }
        if name.starts_with(['.', '-']) {
            return refuse("it starts with a dot or a dash");
        }
        if !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-._:@=#".contains(&b))
        {
            return refuse("only letters, digits and + - . _ : @ = # are allowed");
        }
        if name == "control" {
            return refuse("it is taken by the kernel's mapper directory");
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Ord for VolumeName {
    fn cmp(&self, other: &Self) -> Ordering {
        // Names that count the same (`v1`, `v01`) still are different names.
        natural(&self.0, &other.0).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for VolumeName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares runs of digits as numbers of any length, all else byte by byte.
fn natural(mut one: &str, mut other: &str) -> Ordering {
    loop {
        let (number, number_too) = (leading_digits(one), leading_digits(other));
        let order = if number.is_empty() || number_too.is_empty() {
            let (Some(a), Some(b)) = (one.chars().next(), other.chars().next()) else {
                return one.len().cmp(&other.len());
            };
            one = &one[a.len_utf8()..];
            other = &other[b.len_utf8()..];
            a.cmp(&b)
        } else {
            one = &one[number.len()..];
            other = &other[number_too.len()..];
            let value = |digits: &'_ str| digits.trim_start_matches('0').len();
            let (a, b) = (value(number), value(number_too));
            let digits = number[number.len() - a..].cmp(&number_too[number_too.len() - b..]);
            a.cmp(&b).then(digits)
        };
        if order.is_ne() {
            return order;
        }
    }
}

fn leading_digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit());
    &text[..end.unwrap_or(text.len())]
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for VolumeName {
    type Error = UblkError;
    fn try_from(name: String) -> Result<Self, UblkError> {
        Self::new(&name)
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_as_people_count() {
        let in_order = [
            "a",
            "a-1",
            "a-2b",
            "a-10",
            "a-10-9",
            "a-10-10",
            "b01",
            "b1",
            "b02",
            "b2",
            "b10",
            "b99999999999999999999",
            "b100000000000000000000",
            "bb",
        ];
        let names = in_order.map(|name| VolumeName::new(name).unwrap());
        for (at, name) in names.iter().enumerate() {
            for (other_at, other) in names.iter().enumerate() {
                assert_eq!(name.cmp(other), at.cmp(&other_at), "{name} and {other}");
            }
        }
    }

    #[test]
    fn a_name_is_one_harmless_path_component() {
        for good in [
            "root",
            "a",
            "home-2",
            "luks-1b2c",
            "x.y",
            "a:b@c=d#e+f_g",
            &"n".repeat(127),
        ] {
            assert!(VolumeName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".hidden",
            "-n",
            "a/b",
            "a b",
            "a\n",
            "a\0b",
            "ä",
            "a\\b",
            "a\"b",
            "a$b",
            "control",
            &"n".repeat(128),
        ] {
            assert!(VolumeName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_stored_name_is_checked_again_when_it_is_read() {
        assert!(serde_json::from_str::<VolumeName>("\"home\"").is_ok());
        assert!(serde_json::from_str::<VolumeName>("\"../home\"").is_err());
    }
}
