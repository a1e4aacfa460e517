//! Tokens whose PCR values are signed: keys and signatures by OpenSSL, digests computed here from
//! the TPM's specification.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use luksmith_crypto::Passphrase;
use luksmith_keyslot::{PinRequest, TokenError, TokenUnlock};
use luksmith_luks2::Token;
use luksmith_tpm::policy::SignedPolicy;
use luksmith_tpm::token::{
    Enrolled, Enrolment, KIND, NewPin, PolicyFiles, PolicyKey, SignedPcrs, SystemdTpm2, TpmTokens,
    enrol,
};
use luksmith_tpm::wire::{Public, RsaKey};
use luksmith_tpm::{Assertion, HashAlg, Lock, PcrSelection, Policy, Tpm, TpmError};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sha::sha256;
use openssl::sign::Signer;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::BackEnd;
use crate::support::{Swtpm, secret};

/// The PCR that is signed.
const PCR: u8 = 16;

/// Somebody who signs.
pub(crate) struct Vendor(Rsa<Private>);

impl Vendor {
    pub(crate) fn new() -> Self {
        Self(Rsa::generate(2048).unwrap())
    }

    pub(crate) fn key(&self) -> PolicyKey {
        PolicyKey::from_pem(&self.0.public_key_to_pem().unwrap()).unwrap()
    }

    fn pcrs(&self, purpose: Option<&str>) -> SignedPcrs {
        SignedPcrs {
            key: self.key(),
            pcrs: vec![PCR],
            purpose: purpose.map(str::to_owned),
        }
    }

    fn sign(&self, bytes: &[&[u8]]) -> String {
        let key = PKey::from_rsa(self.0.clone()).unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
        for part in bytes {
            signer.update(part).unwrap();
        }
        BASE64.encode(signer.sign_to_vec().unwrap())
    }

    /// An entry for a value of the PCR.
    fn entry(&self, value: &[u8], purpose: Option<&str>) -> Value {
        let policy = pcr_policy(PCR, value);
        let reference = purpose.map_or(Vec::new(), |text| sha256(text.as_bytes()).to_vec());
        let mut entry = json!({
            "pcrs": [PCR],
            "pkfp": hex::encode(sha256(&self.0.public_key_to_der_pkcs1().unwrap())),
            "pol": hex::encode(policy),
            "sig": self.sign(&[&policy, &reference]),
        });
        if let Some(purpose) = purpose {
            entry["ref"] = purpose.into();
        }
        entry
    }

    /// An entry for the value that the PCR has now.
    pub(crate) fn now(&self, tpm: &mut dyn Tpm) -> Value {
        self.entry(&value(tpm, PCR), None)
    }
}

/// `TPM2_PolicyPCR` from nothing, of one PCR of bank SHA-256 (Part 3, 23.7).
pub(crate) fn pcr_policy(pcr: u8, value: &[u8]) -> [u8; 32] {
    let mask = (1_u32 << pcr).to_le_bytes();
    let selection = [&[0, 0, 0, 1, 0, 0x0B, 3], &mask[..3]].concat();
    let code = 0x0000_017F_u32.to_be_bytes();
    sha256(&[&[0; 32][..], &code, &selection, &sha256(value)].concat())
}

pub(crate) fn value(tpm: &mut dyn Tpm, pcr: u8) -> Vec<u8> {
    let selection = PcrSelection::new(HashAlg::Sha256, &[pcr]).unwrap();
    let values = tpm.read_pcrs(&selection).unwrap();
    values.get(pcr).unwrap().to_vec()
}

pub(crate) fn extend(back_end: BackEnd, swtpm: &Swtpm, pcr: u8) {
    let mut tpm = back_end.connect(swtpm);
    tpm.extend_pcr(HashAlg::Sha256, pcr, &[1; 32]).unwrap();
}

/// A folder with a file of signatures, and where it will be if it is not there yet.
pub(crate) struct Files {
    pub(crate) folder: TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn of_signatures(&self) -> std::path::PathBuf {
        self.folder.path().join("signatures")
    }

    pub(crate) fn of_pcrlock(&self) -> std::path::PathBuf {
        self.folder.path().join("pcrlock")
    }

    pub(crate) fn places(&self) -> PolicyFiles {
        PolicyFiles::default()
            .with_signatures(self.of_signatures())
            .with_pcrlock(self.of_pcrlock())
    }

    pub(crate) fn sign(&self, entries: &[Value]) {
        put(&self.of_signatures(), &json!({ "sha256": entries }));
    }
}

pub(crate) fn put(path: &Path, json: &Value) {
    std::fs::write(path, json.to_string()).unwrap();
}

/// A token as it comes out of a header.
pub(crate) fn token(read: &SystemdTpm2) -> Token {
    Token {
        kind: KIND.to_owned(),
        keyslots: vec![1],
        raw: read.to_json(1).unwrap(),
    }
}

pub(crate) fn open(
    back_end: BackEnd,
    swtpm: &Swtpm,
    token: &Token,
    files: &Files,
    pin: &mut dyn FnMut(PinRequest<'_>) -> Option<Passphrase>,
) -> Result<Passphrase, TokenError> {
    let tokens = TpmTokens::new(|| Ok(back_end.connect(swtpm))).with_files(files.places());
    let done = tokens.unlock(token, pin);
    assert_eq!(swtpm.left_behind().len(), 0);
    done
}

pub(crate) fn nobody(_: PinRequest<'_>) -> Option<Passphrase> {
    panic!("nobody is to be asked")
}

pub(crate) fn pin(text: &str) -> Passphrase {
    Passphrase::new(secret(text.as_bytes()))
}

pub(crate) fn assert_opens(
    back_end: BackEnd,
    swtpm: &Swtpm,
    enrolled: &Enrolled,
    files: &Files,
    given: Option<&str>,
) {
    let mut ask = |_: PinRequest<'_>| given.map(pin);
    let opened = open(back_end, swtpm, &token(enrolled.token()), files, &mut ask).unwrap();
    assert!(opened.ct_eq(enrolled.passphrase()));
}

/// Why it does not open; nobody is asked for a PIN.
pub(crate) fn why(
    back_end: BackEnd,
    swtpm: &Swtpm,
    enrolled: &Enrolled,
    files: &Files,
) -> TokenError {
    let told = open(
        back_end,
        swtpm,
        &token(enrolled.token()),
        files,
        &mut nobody,
    );
    told.err().expect("it does not open")
}

/// The error of this crate within.
pub(crate) fn inner(error: &TokenError) -> &TpmError {
    let TokenError::Other(error) = error else {
        panic!("{error}");
    };
    error.downcast_ref().expect("an error of the TPM")
}

pub(crate) fn what_is_signed_opens_and_nothing_else(back_end: BackEnd) {
    for given in [None, Some("1234")] {
        let swtpm = back_end.swtpm();
        let (vendor, files) = (Vendor::new(), Files::new());
        let enrolled = {
            let mut tpm = back_end.connect(&swtpm);
            files.sign(&[vendor.now(&mut *tpm)]);
            let pin = given.map(pin);
            let enrolment = Enrolment {
                pcrs: &[7],
                pin: pin.as_ref().map(|pin| (pin, NewPin::Salted)),
                signed: Some(vendor.pcrs(None)),
                files: files.places(),
                ..Enrolment::default()
            };
            enrol(&mut *tpm, &enrolment).unwrap()
        };
        assert!(enrolled.untried().is_none());
        assert_opens(back_end, &swtpm, &enrolled, &files, given);
        extend(back_end, &swtpm, PCR);
        let told = why(back_end, &swtpm, &enrolled, &files);
        assert!(
            matches!(&told, TokenError::PolicyMismatch(detail) if detail.contains("no signature")
                && detail.contains("16")),
            "{told}"
        );
        // The next kernel image brings its signature; the token stays as it is.
        let other = vendor.entry(&[9; 32], None);
        let next = vendor.now(&mut *back_end.connect(&swtpm));
        files.sign(&[other, next]);
        assert_opens(back_end, &swtpm, &enrolled, &files, given);
        extend(back_end, &swtpm, 7);
        let told = why(back_end, &swtpm, &enrolled, &files);
        assert!(
            matches!(&told, TokenError::PolicyMismatch(detail) if detail.contains("PCR 7 ")),
            "the literal PCR still counts: {told}"
        );
    }
}

pub(crate) fn what_is_wrong_with_signatures_is_told(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let (vendor, other, files) = (Vendor::new(), Vendor::new(), Files::new());
    let pin = pin("1234");
    let enrolled = {
        let mut tpm = back_end.connect(&swtpm);
        let enrolment = Enrolment {
            pin: Some((&pin, NewPin::Salted)),
            signed: Some(vendor.pcrs(None)),
            files: files.places(),
            ..Enrolment::default()
        };
        enrol(&mut *tpm, &enrolment).unwrap()
    };
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(
        inner(&told),
        TpmError::NoPolicyFile {
            name: "tpm2-pcr-signature.json",
            ..
        }
    ));
    let good = vendor.now(&mut *back_end.connect(&swtpm));
    let with = |member: &str, value: Value| {
        let mut entry = good.clone();
        entry[member] = value;
        entry
    };
    let theirs = other.now(&mut *back_end.connect(&swtpm));

    files.sign(std::slice::from_ref(&theirs));
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(inner(&told), TpmError::NoSignature { .. }));
    files.sign(&[with("pcrs", json!([11]))]);
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(inner(&told), TpmError::NoSignature { .. }));
    put(&files.of_signatures(), &json!({ "sha1": [good] }));
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(inner(&told), TpmError::NoSignature { .. }));

    files.sign(&[with("pol", "22".repeat(32).into())]);
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(told, TokenError::PolicyMismatch(_)), "{told}");

    for sig in [theirs["sig"].clone(), "AAAA".into(), "".into()] {
        files.sign(&[with("sig", sig)]);
        let told = why(back_end, &swtpm, &enrolled, &files);
        assert!(matches!(inner(&told), TpmError::BadSignature), "{told}");
    }
    std::fs::write(files.of_signatures(), "{\"sha256\": [").unwrap();
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(told, TokenError::Damaged(_)));
    files.sign(&[with("sig", theirs["sig"].clone()), good]);
    assert_opens(back_end, &swtpm, &enrolled, &files, Some("1234"));
}

pub(crate) fn a_signature_for_another_purpose_does_not_count(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let (vendor, files) = (Vendor::new(), Files::new());
    let present = value(&mut *back_end.connect(&swtpm), PCR);
    let (any, initrd) = (
        vendor.entry(&present, None),
        vendor.entry(&present, Some("initrd")),
    );
    files.sign(&[any.clone(), initrd]);
    let enrolled = {
        let enrolment = Enrolment {
            signed: Some(vendor.pcrs(Some("initrd"))),
            files: files.places(),
            ..Enrolment::default()
        };
        enrol(&mut *back_end.connect(&swtpm), &enrolment).unwrap()
    };
    assert!(enrolled.untried().is_none());
    assert_eq!(token(enrolled.token()).raw["tpm2_pubkey_ref"], "initrd");
    assert_opens(back_end, &swtpm, &enrolled, &files, None);
    files.sign(std::slice::from_ref(&any));
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(
        matches!(
            inner(&told),
            TpmError::NoSignature {
                purpose: Some(_),
                ..
            }
        ),
        "{told}"
    );
    let mut pretended = any;
    pretended["ref"] = "initrd".into();
    files.sign(&[pretended]);
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(inner(&told), TpmError::BadSignature), "{told}");
}

pub(crate) fn what_could_not_be_tried_says_so_and_opens_when_signed(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let (vendor, other, files) = (Vendor::new(), Vendor::new(), Files::new());
    let enrol = || {
        let enrolment = Enrolment {
            signed: Some(vendor.pcrs(None)),
            files: files.places(),
            ..Enrolment::default()
        };
        enrol(&mut *back_end.connect(&swtpm), &enrolment)
    };
    let enrolled = enrol().unwrap();
    assert!(matches!(
        enrolled.untried(),
        Some(TpmError::NoPolicyFile { .. })
    ));
    files.sign(&[other.now(&mut *back_end.connect(&swtpm))]);
    let of_other = enrol().unwrap();
    assert!(matches!(
        of_other.untried(),
        Some(TpmError::NoSignature { .. })
    ));
    files.sign(&[vendor.entry(&[9; 32], None)]);
    let of_another_boot = enrol().unwrap();
    assert!(matches!(
        of_another_boot.untried(),
        Some(TpmError::PolicyMismatch { .. })
    ));
    let mut forged = vendor.now(&mut *back_end.connect(&swtpm));
    forged["sig"] = other.sign(&[b"anything"]).into();
    files.sign(&[forged]);
    assert!(
        matches!(enrol(), Err(TpmError::BadSignature)),
        "a signature that cannot be right is an error"
    );
    files.sign(&[vendor.now(&mut *back_end.connect(&swtpm))]);
    for enrolled in [enrolled, of_other, of_another_boot] {
        assert_opens(back_end, &swtpm, &enrolled, &files, None);
    }
}

/// Some versions of systemd named the key as if its exponent were zero.
pub(crate) fn a_token_with_the_other_name_of_the_key_opens(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let (vendor, files) = (Vendor::new(), Files::new());
    let sealed_bytes = [5; 32];
    let token = {
        let mut tpm = back_end.connect(&swtpm);
        files.sign(&[vendor.now(&mut *tpm)]);
        let enrolment = Enrolment {
            signed: Some(vendor.pcrs(None)),
            files: files.places(),
            ..Enrolment::default()
        };
        let mut made = enrol(&mut *tpm, &enrolment).unwrap().token().clone();
        let key = Public::rsa_verifier(&RsaKey {
            bits: 2048,
            exponent: 0,
            modulus: vendor.0.n().to_vec(),
        });
        let policy = Policy::new(vec![Assertion::Signed(Box::new(SignedPolicy {
            key: key.unwrap(),
            policy_ref: Vec::new(),
            signature: None,
        }))]);
        let lock = Lock {
            policy: policy.digest().unwrap(),
            auth: None,
            counts_tries: false,
        };
        assert_ne!(made.policies, [lock.policy]);
        let sealed = tpm.seal(&made.under, &secret(&sealed_bytes), &lock);
        made.sealed = vec![sealed.unwrap()];
        made.policies = vec![lock.policy];
        made
    };
    let raw = self::token(&token);
    let opened = open(back_end, &swtpm, &raw, &files, &mut nobody).unwrap();
    assert_eq!(opened.expose(), BASE64.encode(sealed_bytes).as_bytes());
    let mut foreign = token;
    foreign.signed.as_mut().unwrap().key = Vendor::new().key();
    let raw = self::token(&foreign);
    let told = open(back_end, &swtpm, &raw, &files, &mut nobody);
    assert!(matches!(told, Err(TokenError::Damaged(_))));
}

pub(crate) fn a_signed_token_is_read_as_it_was_written(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let (vendor, files) = (Vendor::new(), Files::new());
    let signed = SignedPcrs {
        pcrs: vec![16, 11, 16],
        ..vendor.pcrs(None)
    };
    let enrolment = Enrolment {
        signed: Some(signed.clone()),
        files: files.places(),
        ..Enrolment::default()
    };
    let mut tpm = back_end.connect(&swtpm);
    let enrolled = enrol(&mut *tpm, &enrolment).unwrap();
    let written = token(enrolled.token());
    assert_eq!(&SystemdTpm2::parse(&written).unwrap(), enrolled.token());
    assert_eq!(written.raw["tpm2_pubkey_pcrs"], json!([11, 16]));
    let pem = vendor.0.public_key_to_pem().unwrap();
    let beside = files.folder.path().join("key");
    std::fs::write(&beside, &pem).unwrap();
    let found = files.places().with_key(beside).key().unwrap();
    assert_eq!(found, signed.key);
    assert_eq!(written.raw["tpm2_pubkey"], BASE64.encode(pem));
    assert_eq!(written.raw["tpm2-pcrs"], json!([]));
    let nothing = Enrolment {
        signed: Some(SignedPcrs {
            pcrs: Vec::new(),
            ..signed
        }),
        ..Enrolment::default()
    };
    let told = enrol(&mut *tpm, &nothing);
    assert!(matches!(told, Err(TpmError::Misuse { .. })));
}
