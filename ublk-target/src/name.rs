//! Names of volumes: one path component in `/dev/luksmith` and in `/run/luksmith`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::UblkError;

/// The name under which a volume is open.
///
/// It becomes a file name in `/run/luksmith` and `/dev/luksmith` and a word in udev
/// rules, so only letters, digits and `+ - . _ : @ = #` are taken, at most 127 of them, and
/// not a dot or a dash at the start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
