//! Tokens: JSON objects that say how keyslots can be opened without a person typing.
//!
//! The format knows `type` and `keyslots`; all the rest belongs to whoever wrote the token and is kept as it is.

use serde_json::Value;

/// Longest type of a token that is written, in bytes.
pub const MAX_TYPE_BYTES: usize = 64;

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// The `type`, e.g. `systemd-tpm2`, `clevis`, `luks2-keyring`.
    pub kind: String,
    /// Keyslots that it opens, ascending; may be empty.
    pub keyslots: Vec<u8>,
    /// The whole object, `type` and `keyslots` included.
    pub raw: Value,
}

impl Token {
    /// True for a type that the format keeps for itself.
    #[must_use]
    pub fn is_builtin(&self) -> bool {
        self.kind.starts_with("luks2-")
    }

    /// The key description of a `luks2-keyring` token. `None` for any other, also for one that has other members than
    /// the three that it may have: it is kept, but not used.
    #[must_use]
    pub fn keyring_description(&self) -> Option<&str> {
        let members = self.raw.as_object()?;
        if self.kind != "luks2-keyring" || members.len() != 3 {
            return None;
        }
        members
            .get("key_description")?
            .as_str()
            .filter(|text| !text.is_empty())
    }
}
