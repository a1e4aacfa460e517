//! The functions that fuzzing calls; `cargo test` calls the same with seeded input (see
//! `smoke.rs`).
//!
//! Each takes arbitrary bytes and panics only if a promise of the crate is broken.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use luksmith_crypto::SecretBytes;
use luksmith_luks2::Token;
use luksmith_tpm::token::{
    CLEVIS_KIND, ClevisTpm2, KIND, PcrSignatures, PcrlockPolicy, PolicyKey, SystemdTpm2,
};
use luksmith_tpm::transport::Transport;
use luksmith_tpm::wire::{Name, NvAttributes, NvPublic, Public};
use luksmith_tpm::{
    Address, Assertion, AuthValue, Digest, HashAlg, Lock, Native, NvAuth, PcrSelection, Policy,
    PrimaryTemplate, Sealed, StorageKey, Tpm, TpmError,
};

/// A TPM whose answers are given, one after the other.
struct Script<'a>(&'a [u8]);

/// Most answers of one script: each could say "again", which takes time.
const MAX_ANSWERS: usize = 12;

/// Cuts the next answer off: two bytes of length, then that many. The highest bit of the length
/// asks for a right header around the rest, with sessions if the next bit is set.
fn cut(data: &mut &[u8]) -> Option<Vec<u8>> {
    let (head, rest) = data.split_first_chunk::<2>()?;
    let head = u16::from_be_bytes(*head);
    let len = usize::from(head & 0x0FFF).min(rest.len());
    let (body, rest) = rest.split_at(len);
    *data = rest;
    if head & 0x8000 == 0 {
        return Some(body.to_vec());
    }
    let tag = if head & 0x4000 == 0 { 1 } else { 2 };
    let whole = u32::try_from(10 + len).expect("short");
    Some([&[0x80, tag][..], &whole.to_be_bytes(), &[0; 4], body].concat())
}

struct Answers {
    left: std::vec::IntoIter<Vec<u8>>,
}

impl Transport for Answers {
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        let len = u32::from_be_bytes(command[2..6].try_into().expect("a header"));
        assert_eq!(len as usize, command.len(), "our own frames are right");
        self.left
            .next()
            .ok_or_else(|| TpmError::Transport(io::ErrorKind::UnexpectedEof.into()))
    }
}

impl Script<'_> {
    fn answers(mut self) -> Answers {
        let answers: Vec<Vec<u8>> = std::iter::from_fn(|| cut(&mut self.0))
            .take(MAX_ANSWERS)
            .collect();
        Answers {
            left: answers.into_iter(),
        }
    }
}

fn secret(bytes: &[u8]) -> SecretBytes {
    SecretBytes::take_from(&mut bytes.to_vec()).expect("memory")
}

/// Answers to every command that there is. The first byte chooses which.
pub(crate) fn answers(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    let mut tpm = Native::over(Script(rest).answers());
    let pcrs = PcrSelection::new(HashAlg::Sha256, &[0, 7, 23]).expect("PCRs");
    let index = NvPublic {
        index: 0x0180_0001,
        attributes: NvAttributes::AUTH_READ,
        policy: Vec::new(),
        size_bytes: 8,
    };
    let key = StorageKey::Primary(PrimaryTemplate::LegacyEcc);
    match choice % 8 {
        0 => {
            let _ = tpm.facts();
        }
        1 => {
            let _ = tpm.lockout();
            let _ = tpm.banks();
        }
        2 => {
            if let Ok(values) = tpm.read_pcrs(&pcrs) {
                assert_eq!(values.selection(), Some(pcrs), "all that was asked for");
            }
        }
        3 => {
            let _ = tpm.storage_root();
        }
        4 => {
            let lock = Lock {
                policy: Digest::ZERO,
                auth: None,
                counts_tries: true,
            };
            let sealed = tpm.seal(&key, &secret(b"secret"), &lock);
            assert!(sealed.is_err(), "nobody knows the salt");
        }
        5 => {
            let policy = Policy::new(vec![
                Assertion::Pcrs {
                    selection: pcrs,
                    values: None,
                },
                Assertion::AuthValue,
            ]);
            let unsealed = tpm.unseal(&key, &sealed(), &policy, Some(&auth()));
            assert!(unsealed.is_err(), "nobody knows the salt");
        }
        6 => {
            let _ = tpm.nv_public(index.index);
            let read = tpm.nv_read(index.index, &NvAuth::Index(None));
            assert!(read.is_err(), "nobody knows the salt");
        }
        _ => {
            let _ = tpm.nv_define(&index, None);
            let _ = tpm.trial(&Policy::new(vec![Assertion::AuthValue]));
        }
    }
}

fn auth() -> AuthValue {
    AuthValue::new(secret(b"1234")).expect("short")
}

fn sealed() -> Sealed {
    let area = [
        &[0, 8, 0, 0x0B, 0, 0, 0, 0x12, 0, 32][..],
        &[1; 32],
        &[0, 0x10, 0, 32],
        &[2; 32],
    ];
    Sealed {
        private: vec![1; 100],
        public: Public::parse(&area.concat()).expect("a public area"),
        seed: None,
    }
}

/// A token of any JSON.
pub(crate) fn token(data: &[u8]) {
    let Ok(raw) = serde_json::from_slice::<serde_json::Value>(data) else {
        return;
    };
    let token = Token {
        kind: KIND.to_owned(),
        keyslots: vec![1],
        raw,
    };
    let Ok(read) = SystemdTpm2::parse(&token) else {
        return;
    };
    assert_eq!(read.sealed.len(), read.policies.len());
    if read.beyond.is_empty() {
        let raw = read.to_json(1).expect("what was read has a form");
        let again = Token {
            kind: KIND.to_owned(),
            keyslots: vec![1],
            raw,
        };
        assert_eq!(SystemdTpm2::parse(&again).ok(), Some(read));
    }
}

/// A token of clevis: the JWE as a text in its compact form, or any JSON. The first byte chooses, and the
/// second whether the bytes are the protected header of a JWE.
pub(crate) fn clevis(data: &[u8]) {
    let Some(([form, header], rest)) = data.split_first_chunk() else {
        return;
    };
    let jwe: serde_json::Value = if form % 2 == 0 {
        let text = if header % 2 == 0 {
            String::from_utf8_lossy(rest).into_owned()
        } else {
            let protected = BASE64URL.encode(rest);
            format!("{protected}..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA")
        };
        text.into()
    } else {
        serde_json::from_slice(rest).unwrap_or_default()
    };
    let token = Token {
        kind: CLEVIS_KIND.to_owned(),
        keyslots: vec![1],
        raw: serde_json::json!({ "type": CLEVIS_KIND, "keyslots": ["1"], "jwe": jwe }),
    };
    if let Ok(read) = ClevisTpm2::parse(&token) {
        let bound = !read.sealed.public.policy.is_empty();
        assert_eq!(read.pcrs.is_some(), bound, "PCRs are those of the policy");
    }
}

/// What lies beside a token, and the key within it.
pub(crate) fn policy_files(data: &[u8]) {
    let _ = PcrSignatures::parse(data);
    if let Ok(policy) = PcrlockPolicy::parse(data)
        && let Some(index) = policy.index()
    {
        let written = index.attributes.has(NvAttributes::WRITTEN);
        assert!(
            written,
            "policies name an index as it is when it was written"
        );
    }
    if let Ok(key) = PolicyKey::from_pem(data) {
        assert_eq!(key.pem(), data);
    }
}

/// Public areas, names and addresses as they may stand in a token.
pub(crate) fn structures(data: &[u8]) {
    if let Ok(public) = Public::parse(data) {
        assert_eq!(public.as_bytes(), data);
        assert_eq!(Name::parse(public.name().as_bytes()), Ok(public.name()));
    }
    if let Ok(public) = NvPublic::parse(data) {
        assert_eq!(public.to_bytes(), data);
    }
    if let Ok(name) = Name::parse(data) {
        assert_eq!(name.as_bytes(), data);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(address) = text.parse::<Address>()
    {
        let again = address.to_string().parse::<Address>();
        assert_eq!(again.ok(), Some(address));
    }
}
