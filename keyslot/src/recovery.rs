//! Recovery keys: 256 random bits in a form that a person can write down and type.
//!
//! Form and token are those of systemd (`systemd-recovery`), so either program makes, lists and
//! takes them: 64 letters in 8 groups, joined by dashes, of an alphabet whose keys lie at the same place on most
//! keyboards ("modhex").

use luksmith_crypto::{CryptoError, Hash, Passphrase, SecretBytes, VolumeKey};
use luksmith_luks2::{Header, Metadata};
use serde_json::json;

use crate::add::{Added, NewSlot, add_with};
use crate::error::PlanError;
use crate::policy::KdfChoice;

/// The type of the token that marks a slot as one for a recovery key. It leads to no secret.
pub const RECOVERY_KIND: &str = "systemd-recovery";

/// Sixteen letters, by their value.
const LETTERS: &[u8; 16] = b"cbdefghijklnrtuv";
const KEY_BYTES: usize = 32;
const GROUP: usize = 8;
/// 64 letters and 7 dashes.
const TEXT_BYTES: usize = 2 * KEY_BYTES + 2 * KEY_BYTES / GROUP - 1;

/// A new recovery key, as it is written down and typed.
///
/// # Errors
/// No random numbers, or no locked memory.
pub fn new_recovery_key() -> Result<Passphrase, CryptoError> {
    let key = SecretBytes::random(KEY_BYTES)?;
    written(key.expose().iter().flat_map(|byte| [byte >> 4, byte & 15]))
}

/// What was typed, as it must be to open its slot: capital letters, blanks and missing dashes are
/// forgiven. `None`: it is no recovery key.
///
/// # Errors
/// No locked memory.
pub fn as_recovery_key(typed: &Passphrase) -> Result<Option<Passphrase>, CryptoError> {
    let letters = || {
        typed
            .expose()
            .iter()
            .filter(|byte| !matches!(byte, b'-' | b' '))
            .map(|byte| {
                let byte = byte.to_ascii_lowercase();
                LETTERS.iter().position(|letter| *letter == byte)
            })
    };
    if letters().count() != 2 * KEY_BYTES || letters().any(|value| value.is_none()) {
        return Ok(None);
    }
    // Sixteen letters: the value fits four bits.
    written(letters().flatten().map(|value| value as u8)).map(Some)
}

/// Plans a slot for a recovery key, with its token, in one commit.
///
/// # Errors
/// Those of [`add()`](crate::add()); no room for a token.
pub fn plan_recovery(
    header: &Header,
    key: &VolumeKey,
    recovery_key: &Passphrase,
) -> Result<Added, PlanError> {
    let new = NewSlot {
        kdf: KdfChoice::MachineSecret(Hash::Sha512),
        ..NewSlot::new(recovery_key)
    };
    add_with(header, key, &new, |metadata, slot| {
        let token = json!({ "type": RECOVERY_KIND, "keyslots": [slot.to_string()] });
        metadata.with_token(metadata.free_token()?, token)
    })
}

/// Whether a recovery key was enrolled: a slot for one that opens the data.
#[must_use]
pub fn has_recovery_key(metadata: &Metadata) -> bool {
    metadata.tokens().values().any(|token| {
        token.kind == RECOVERY_KIND
            && token
                .keyslots
                .iter()
                .any(|slot| crate::unlock::opens_data(metadata, *slot))
    })
}

fn written(values: impl Iterator<Item = u8>) -> Result<Passphrase, CryptoError> {
    let mut text = SecretBytes::zeroed(TEXT_BYTES)?;
    let mut places = text.expose_mut().iter_mut();
    for (at, value) in values.enumerate() {
        let dash = (at > 0 && at % GROUP == 0).then_some(b'-');
        let letter = LETTERS[usize::from(value & 15)];
        for byte in dash.into_iter().chain([letter]) {
            if let Some(place) = places.next() {
                *place = byte;
            }
        }
    }
    Ok(Passphrase::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &[u8]) -> Passphrase {
        Passphrase::new(SecretBytes::take_from(&mut text.to_vec()).unwrap())
    }

    #[test]
    fn a_new_key_has_the_form_that_systemd_gives_it() {
        let key = new_recovery_key().unwrap();
        let text = std::str::from_utf8(key.expose()).unwrap();
        let groups: Vec<&str> = text.split('-').collect();
        assert_eq!((text.len(), groups.len()), (71, 8));
        for group in groups {
            assert_eq!(group.len(), 8);
            assert!(group.bytes().all(|byte| LETTERS.contains(&byte)), "{text}");
        }
        assert!(!key.ct_eq(&new_recovery_key().unwrap()));
    }

    /// Each letter at both places of a byte, by a table written down apart from the code.
    #[test]
    fn letters_stand_for_halves_of_bytes() {
        let all: Vec<u8> = (0..16)
            .flat_map(|n| [n, 15 - n])
            .chain(0..16)
            .chain(0..16)
            .collect();
        let key = written(all.into_iter()).unwrap();
        assert_eq!(
            key.expose(),
            b"cvbudter-fnglhkij-jikhlgnf-retdubvc-cbdefghi-jklnrtuv-cbdefghi-jklnrtuv"
        );
    }

    #[test]
    fn what_a_person_types_is_forgiven() {
        let key = new_recovery_key().unwrap();
        let text = String::from_utf8(key.expose().to_vec()).unwrap();
        for form in [
            text.clone(),
            text.to_uppercase(),
            text.replace('-', ""),
            text.replace('-', " "),
            format!(" {text} "),
        ] {
            let read = as_recovery_key(&typed(form.as_bytes())).unwrap();
            assert!(read.is_some_and(|read| read.ct_eq(&key)), "{form}");
        }
        for none in [&text[1..], "", "passphrase", &text.replace(&text[..1], "a")] {
            assert!(as_recovery_key(&typed(none.as_bytes())).unwrap().is_none());
        }
    }
}
