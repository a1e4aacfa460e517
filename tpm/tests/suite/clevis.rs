//! Tokens that clevis made, with the TPM that it sealed them to.
//!
//! `jwes.json` is what `clevis-encrypt-tpm2` of clevis 19 wrote over tpm2-tools 5.4 to an swtpm 0.7.1, after
//! the bytes 0x08 were extended into PCR 7 of both banks; `tpm2-00.permall` is the state of that swtpm. So no
//! clevis is needed here.

use luksmith_luks2::Token;
use luksmith_tpm::token::{CLEVIS_KIND, ClevisTpm2};
use luksmith_tpm::transport::{Frame, Recorder};
use luksmith_tpm::{HashAlg, Native, TpmError};
use serde_json::{Value, json};

use crate::BackEnd;
use crate::support::Swtpm;

const TPM: &[u8] = include_bytes!("../clevis/tpm2-00.permall");
const JWES: &str = include_str!("../clevis/jwes.json");
const PASSPHRASES: [(&str, &str); 4] = [
    ("by_presence_ecc", "by presence"),
    ("by_presence_rsa", "by presence, RSA"),
    ("by_pcr_sha256", "by PCR 0 and 7"),
    ("by_pcr_sha1", "by PCR 7 of SHA-1"),
];

fn compact(name: &str) -> String {
    let all: Value = serde_json::from_str(JWES).unwrap();
    all[name].as_str().unwrap().to_owned()
}

/// As `clevis luks bind` writes it into a header.
fn flattened(compact: &str) -> Value {
    let parts: Vec<&str> = compact.split('.').collect();
    json!({ "protected": parts[0], "encrypted_key": parts[1], "iv": parts[2],
        "ciphertext": parts[3], "tag": parts[4] })
}

fn token(jwe: Value) -> Token {
    Token {
        kind: CLEVIS_KIND.to_owned(),
        keyslots: vec![1],
        raw: json!({ "type": CLEVIS_KIND, "keyslots": ["1"], "jwe": jwe }),
    }
}

fn read(name: &str) -> ClevisTpm2 {
    ClevisTpm2::parse(&token(compact(name).into())).unwrap()
}

/// The machine that clevis ran on.
fn machine(back_end: BackEnd) -> Swtpm {
    let mut swtpm = back_end.swtpm();
    swtpm.load(TPM);
    let mut tpm = back_end.connect(&swtpm);
    for bank in [HashAlg::Sha1, HashAlg::Sha256] {
        tpm.extend_pcr(bank, 7, &vec![8; bank.len()]).unwrap();
    }
    drop(tpm);
    swtpm
}

pub(crate) fn what_clevis_made_opens_in_both_forms(back_end: BackEnd) {
    let swtpm = machine(back_end);
    let mut tpm = back_end.connect(&swtpm);
    for (name, passphrase) in PASSPHRASES {
        let compact = compact(name);
        for jwe in [flattened(&compact), compact.into()] {
            let read = ClevisTpm2::parse(&token(jwe)).unwrap();
            assert_eq!(read.pcrs.is_none(), name.starts_with("by_presence"));
            let opened = read.passphrase(&mut *tpm).unwrap();
            assert_eq!(opened.expose(), passphrase.as_bytes(), "{name}");
        }
    }
    drop(tpm);
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn a_changed_pcr_is_told_before_anything_is_unsealed(back_end: BackEnd) {
    let swtpm = machine(back_end);
    let mut tpm = back_end.connect(&swtpm);
    let read = read("by_pcr_sha256");
    read.fitting_policy(&mut *tpm).unwrap();
    tpm.extend_pcr(HashAlg::Sha256, 0, &[1; 32]).unwrap();
    for told in [
        read.fitting_policy(&mut *tpm).err(),
        read.passphrase(&mut *tpm).err(),
    ] {
        let Some(TpmError::PolicyMismatch { detail }) = told else {
            panic!("{told:?}");
        };
        assert_eq!(detail, "PCR 0+7 have other values");
    }
}

pub(crate) fn what_another_tpm_sealed_does_not_open(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let mut tpm = back_end.connect(&swtpm);
    let told = read("by_presence_ecc").passphrase(&mut *tpm).err();
    assert!(matches!(told, Some(TpmError::WrongTpm { .. })), "{told:?}");
}

pub(crate) fn the_key_that_clevis_sends_in_the_clear_is_not_seen_on_the_bus(back_end: BackEnd) {
    let swtpm = machine(back_end);
    for name in ["by_presence_ecc", "by_pcr_sha256"] {
        let (recorder, recording) = Recorder::new(swtpm.connect());
        let mut tpm = Native::over(recorder);
        read(name).passphrase(&mut tpm).unwrap();
        let frames = recording.frames();
        assert!(frames.len() > 8, "the bus was listened to");
        for frame in frames {
            let (Frame::Command(bytes) | Frame::Answer(bytes)) = frame;
            // A part of the JSON around the key.
            let seen = bytes.windows(7).any(|part| part == b"A256GCM");
            assert!(!seen, "{name}");
        }
    }
}

#[test]
fn other_pins_and_forms_are_refused_by_name() {
    let with = |header: Value| {
        use base64::Engine as _;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
        let protected = BASE64URL.encode(header.to_string());
        let jwe = format!("{protected}..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA");
        ClevisTpm2::parse(&token(jwe.into()))
            .unwrap_err()
            .to_string()
    };
    let pin = |pin: &str| json!({ "alg": "ECDH-ES", "enc": "A256GCM", "clevis": { "pin": pin } });
    assert_eq!(with(pin("tang")), "unsupported: clevis pin \"tang\"");
    assert_eq!(with(pin("sss")), "unsupported: clevis pin \"sss\"");
    let long = with(pin(&"x\u{1b}".repeat(5000)));
    assert!(long.len() < 200 && !long.contains('\u{1b}'), "{long}");
    let header = |member: &str, value: Value| {
        let mut header = json!({ "alg": "dir", "enc": "A256GCM", "clevis": { "pin": "tpm2",
            "tpm2": { "hash": "sha256", "key": "ecc", "jwk_pub": "AAAA", "jwk_priv": "AAAA" } } });
        match member {
            "alg" | "enc" | "zip" | "crit" => header[member] = value,
            _ => header["clevis"]["tpm2"][member] = value,
        }
        with(header)
    };
    assert!(header("alg", "RSA-OAEP".into()).contains("JWE algorithm \"RSA-OAEP\""));
    assert!(header("enc", "A128CBC-HS256".into()).contains("A128CBC-HS256"));
    assert!(header("zip", "DEF".into()).contains("zip"));
    assert!(header("crit", json!(["b64"])).contains("crit"));
    assert!(header("hash", "sha1".into()).contains("names by \"sha1\""));
    assert!(header("key", "ecc384".into()).contains("ecc384"));
    assert!(header("hash", json!(7)).contains("damaged"));
    assert!(header("jwk_pub", "AAAA".into()).contains("damaged"));
    let told = ClevisTpm2::parse(&token(compact("another_hash").into()));
    assert!(
        matches!(told, Err(TpmError::Unsupported { .. })),
        "{told:?}"
    );
}

/// Whoever has the disk could take the PCRs out of a token; the TPM would not open what is sealed to
/// them, and it is said that the token makes no sense.
#[test]
fn a_token_that_hides_its_pcrs_is_refused() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
    let compact = compact("by_pcr_sha256");
    let (protected, rest) = compact.split_once('.').unwrap();
    let mut header: Value = serde_json::from_slice(&BASE64URL.decode(protected).unwrap()).unwrap();
    let members = header["clevis"]["tpm2"].as_object_mut().unwrap();
    members.remove("pcr_ids").unwrap();
    let protected = BASE64URL.encode(header.to_string());
    let told = ClevisTpm2::parse(&token(format!("{protected}.{rest}").into()));
    assert!(matches!(told, Err(TpmError::Damaged { .. })), "{told:?}");
}
