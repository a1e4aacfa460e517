//! JSON Web Encryption (RFC 7516) as far as clevis uses it for the pin `tpm2`: one recipient, the key
//! given directly, AES-256-GCM.

use aes_gcm::aead::{AeadInOut as _, KeyInit as _, inout::InOutBuf};
use aes_gcm::{Aes256Gcm, Key};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use luksmith_crypto::{CryptoError, Passphrase, SecretBytes};
use serde::Deserialize;
use serde_json::Value;

use super::super::json::{MAX_BASE64, Members, damaged};
use super::unsupported;
use crate::error::TpmError;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// What is encrypted, and what was authenticated with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Jwe {
    /// As it was written: the tag is about these letters.
    protected: String,
    nonce: [u8; NONCE_BYTES],
    ciphertext: Vec<u8>,
    tag: [u8; TAG_BYTES],
}

impl Jwe {
    /// Reads the flattened form, an object, or the compact one, a text.
    pub(super) fn parse(jwe: &Value) -> Result<Self, TpmError> {
        let [protected, encrypted_key, iv, ciphertext, tag] = match jwe {
            Value::String(compact) => compact_parts(compact)?,
            Value::Object(_) => flattened_parts(&Members(jwe))?,
            _ => return Err(damaged("jwe")),
        };
        if !encrypted_key.is_empty() {
            return Err(TpmError::Unsupported {
                what: "clevis token with an encrypted key".to_owned(),
            });
        }
        // Decoded only where it is used, but bounded like the rest.
        if protected.len() > MAX_BASE64 {
            return Err(damaged("protected"));
        }
        Ok(Self {
            protected: protected.to_owned(),
            nonce: fixed("iv", iv)?,
            ciphertext: base64url("ciphertext", ciphertext)?,
            tag: fixed("tag", tag)?,
        })
    }

    /// The protected header.
    pub(super) fn header(&self) -> Result<Value, TpmError> {
        let bytes = base64url("protected", &self.protected)?;
        serde_json::from_slice(&bytes).map_err(|_| damaged("protected"))
    }

    /// The plaintext, by the JWK that holds the key.
    pub(super) fn open(&self, jwk: &SecretBytes) -> Result<Passphrase, TpmError> {
        let key = key_of(jwk)?;
        let key: &Key<Aes256Gcm> = key.expose().try_into().map_err(|_| not_a_key())?;
        let mut text = SecretBytes::init_with(self.ciphertext.len(), |text| {
            text.copy_from_slice(&self.ciphertext);
            Ok::<(), CryptoError>(())
        })?;
        Aes256Gcm::new(key)
            .decrypt_inout_detached(
                &self.nonce.into(),
                self.protected.as_bytes(),
                InOutBuf::from(text.expose_mut()),
                &self.tag.into(),
            )
            .map_err(|_| damaged("what the TPM sealed is not the key of this JWE"))?;
        Ok(Passphrase::new(text))
    }
}

/// Refuses every way of encrypting but the one that is understood.
pub(super) fn check_algorithms(header: &Members<'_>) -> Result<(), TpmError> {
    for (member, only) in [("alg", "dir"), ("enc", "A256GCM")] {
        match header.text(member)?.ok_or(damaged(member))? {
            known if known == only => {}
            other => return Err(unsupported("JWE algorithm", other)),
        }
    }
    for member in ["zip", "crit"] {
        if header.get(member).is_some() {
            return Err(unsupported("JWE with", member));
        }
    }
    Ok(())
}

/// What a needed text in base64url says.
pub(super) fn base64url_of(members: &Members<'_>, name: &'static str) -> Result<Vec<u8>, TpmError> {
    base64url(name, members.text(name)?.ok_or(damaged(name))?)
}

fn base64url(what: &'static str, text: &str) -> Result<Vec<u8>, TpmError> {
    if text.len() > MAX_BASE64 {
        return Err(damaged(what));
    }
    BASE64URL.decode(text).map_err(|_| damaged(what))
}

fn fixed<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], TpmError> {
    base64url(what, text)?.try_into().map_err(|_| damaged(what))
}

/// Header, encrypted key, nonce, ciphertext and tag, with points between.
fn compact_parts(compact: &str) -> Result<[&str; 5], TpmError> {
    let mut parts = compact.splitn(6, '.');
    let mut next = || parts.next().ok_or(damaged("jwe"));
    let five = [next()?, next()?, next()?, next()?, next()?];
    match parts.next() {
        None => Ok(five),
        Some(_) => Err(damaged("jwe")),
    }
}

fn flattened_parts<'a>(jwe: &Members<'a>) -> Result<[&'a str; 5], TpmError> {
    for member in ["aad", "recipients"] {
        if jwe.get(member).is_some() {
            return Err(unsupported("JWE with", member));
        }
    }
    let needed = |name: &'static str| jwe.text(name)?.ok_or(damaged(name));
    Ok([
        needed("protected")?,
        jwe.text("encrypted_key")?.unwrap_or_default(),
        needed("iv")?,
        needed("ciphertext")?,
        needed("tag")?,
    ])
}

/// A key of a JSON Web Key, the text of which stays where it is.
#[derive(Deserialize)]
struct Jwk<'a> {
    #[serde(borrow)]
    k: &'a str,
}

fn not_a_key() -> TpmError {
    damaged("what the TPM sealed is no key of AES-256")
}

fn key_of(jwk: &SecretBytes) -> Result<SecretBytes, TpmError> {
    // The error of a parser could quote what it read.
    let jwk: Jwk<'_> = serde_json::from_slice(jwk.expose()).map_err(|_| not_a_key())?;
    // The decoder wants room for whole groups of four letters.
    let mut key = SecretBytes::zeroed(KEY_BYTES + 3)?;
    let written = BASE64URL.decode_slice(jwk.k, key.expose_mut());
    if written.ok() != Some(KEY_BYTES) {
        return Err(not_a_key());
    }
    key.truncate(KEY_BYTES);
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretBytes {
        SecretBytes::take_from(&mut text.as_bytes().to_vec()).unwrap()
    }

    /// RFC 7516, Appendix A.1; the key, which is wrapped there, is given here.
    #[test]
    fn the_example_of_the_standard_decrypts() {
        let jwe = serde_json::json!({
            "protected": "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ",
            "iv": "48V1_ALb6US04U3b",
            "ciphertext": "5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8iB7j6ji\
                           SdiwkIr3ajwQzaBtQD_A",
            "tag": "XFBoMYUZodetZdvTiFvSkQ",
        });
        let key = [
            177, 161, 244, 128, 84, 143, 225, 115, 63, 180, 3, 255, 107, 154, 212, 246, 138, 7,
            110, 91, 112, 46, 34, 105, 47, 130, 203, 46, 122, 234, 64, 252,
        ];
        let jwk = format!(r#"{{"kty":"oct","k":"{}"}}"#, BASE64URL.encode(key));
        let read = Jwe::parse(&jwe).unwrap();
        assert_eq!(
            read.open(&secret(&jwk)).unwrap().expose(),
            b"The true sign of intelligence is not knowledge but imagination."
        );
        for (member, first) in [
            ("iv", "5"),
            ("ciphertext", "6"),
            ("tag", "Y"),
            ("protected", "f"),
        ] {
            let mut other = jwe.clone();
            let text = other[member].as_str().unwrap();
            other[member] = format!("{first}{}", &text[1..]).into();
            let told = Jwe::parse(&other).unwrap().open(&secret(&jwk));
            assert!(
                matches!(told.err(), Some(TpmError::Damaged { .. })),
                "{member}"
            );
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_a_word_of_it() {
        let jwe = serde_json::json!({ "protected": "", "iv": "48V1_ALb6US04U3b",
            "ciphertext": "", "tag": "XFBoMYUZodetZdvTiFvSkQ" });
        let read = Jwe::parse(&jwe).unwrap();
        for jwk in [
            "secret",
            r#""secret""#,
            r#"{"k":7}"#,
            r#"{"k":"c2VjcmV0"}"#,
            r#"{"k":"not base64!"}"#,
            r#"{"kty":"oct"}"#,
        ] {
            let told = read.open(&secret(jwk)).err().unwrap().to_string();
            assert!(told.contains("no key of AES-256"), "{jwk}: {told}");
            assert!(!told.contains("secret") && !told.contains("c2Vj"), "{told}");
        }
        let longer = format!(r#"{{"k":"{}"}}"#, BASE64URL.encode([1; 35]));
        assert!(read.open(&secret(&longer)).is_err(), "35 bytes");
    }

    #[test]
    fn both_forms_are_read_and_no_third() {
        let object = serde_json::json!({ "protected": "AA", "encrypted_key": "",
            "iv": "48V1_ALb6US04U3b", "ciphertext": "5eym", "tag": "XFBoMYUZodetZdvTiFvSkQ" });
        let compact = Value::from("AA..48V1_ALb6US04U3b.5eym.XFBoMYUZodetZdvTiFvSkQ");
        assert_eq!(Jwe::parse(&object).unwrap(), Jwe::parse(&compact).unwrap());
        for wrong in [
            serde_json::json!(7),
            serde_json::json!(null),
            serde_json::json!("AA..48V1_ALb6US04U3b.5eym"),
            serde_json::json!("AA..48V1_ALb6US04U3b.5eym.XFBoMYUZodetZdvTiFvSkQ."),
            serde_json::json!("AA.AA.48V1_ALb6US04U3b.5eym.XFBoMYUZodetZdvTiFvSkQ"),
            serde_json::json!("AA..48V1_ALb6US04.5eym.XFBoMYUZodetZdvTiFvSkQ"),
            serde_json::json!("AA..48V1_ALb6US04U3b.5+ym.XFBoMYUZodetZdvTiFvSkQ"),
        ] {
            assert!(Jwe::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
