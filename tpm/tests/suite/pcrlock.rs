//! Tokens of `systemd-pcrlock`. Its tool is not on every machine, so index, file and digest are
//! made here by hand: `tpm2-util.c` of systemd 257 says how ("super PCR" policies).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use luksmith_keyslot::TokenError;
use luksmith_tpm::token::{Enrolled, Enrolment, NewPin, SystemdTpm2, enrol};
use luksmith_tpm::wire::{NvAttributes, NvPublic};
use luksmith_tpm::{Assertion, HashAlg, NvAuth, Policy, Tpm, TpmError};
use openssl::sha::sha256;
use serde_json::{Value, json};

use crate::BackEnd;
use crate::nv::{INDEX, index};
use crate::signed::{
    Files, Vendor, assert_opens, extend, inner, nobody, open, pin, put, token, value, why,
};
use crate::support::{Swtpm, auth, secret};

/// What each PCR may be, ascending.
type Allowed = Vec<(u8, Vec<Vec<u8>>)>;

/// `TPM2_PolicyPCR` after `before`, of PCRs of bank SHA-256.
fn then_pcrs(before: [u8; 32], pcrs: &[(u8, &[u8])]) -> [u8; 32] {
    let mask = pcrs.iter().fold(0_u32, |mask, (pcr, _)| mask | 1 << pcr);
    let selection = [&[0, 0, 0, 1, 0, 0x0B, 3], &mask.to_le_bytes()[..3]].concat();
    let values: Vec<&[u8]> = pcrs.iter().map(|(_, value)| *value).collect();
    let values = sha256(&values.concat());
    let code = 0x0000_017F_u32.to_be_bytes();
    sha256(&[&before[..], &code, &selection, &values].concat())
}

/// What the index holds for these values.
fn digest(allowed: &Allowed) -> [u8; 32] {
    let single: Vec<(u8, &[u8])> = allowed
        .iter()
        .filter(|(_, values)| values.len() == 1)
        .map(|(pcr, values)| (*pcr, &values[0][..]))
        .collect();
    let mut digest = [0; 32];
    if !single.is_empty() {
        digest = then_pcrs(digest, &single);
    }
    for (pcr, values) in allowed.iter().filter(|(_, values)| values.len() > 1) {
        let mut all = [&[0; 32][..], &0x0000_0171_u32.to_be_bytes()].concat();
        for value in values {
            all.extend(then_pcrs(digest, &[(*pcr, value)]));
        }
        digest = sha256(&all);
    }
    digest
}

const WRITE_SECRET: &[u8] = b"recovery pin";

/// The index as systemd defines it.
fn empty_index() -> NvPublic {
    let attributes = NvAttributes::POLICY_WRITE
        .with(NvAttributes::WRITE_ALL)
        .with(NvAttributes::OWNER_READ);
    let policy = Policy::new(vec![Assertion::AuthValue]);
    index(attributes, 34, &policy.digest().unwrap().0)
}

fn define(tpm: &mut dyn Tpm) {
    tpm.nv_define(&empty_index(), Some(&auth(WRITE_SECRET)))
        .unwrap();
}

fn write(tpm: &mut dyn Tpm, digest: &[u8; 32]) {
    let policy = Policy::new(vec![Assertion::AuthValue]);
    let proof = auth(WRITE_SECRET);
    let by = NvAuth::Policy {
        policy: &policy,
        auth: Some(&proof),
    };
    let contents = [&[0, 0x0B], &digest[..]].concat();
    tpm.nv_write(INDEX, &by, &secret(&contents)).unwrap();
}

/// The index as tpm2-tss serialises it after it was written.
fn handle() -> String {
    let public = empty_index();
    let attributes = public.attributes.0 | 1 << 29;
    let area = [
        &INDEX.to_be_bytes()[..],
        &[0, 0x0B],
        &attributes.to_be_bytes(),
        &[0, 32],
        &public.policy,
        &[0, 34],
    ]
    .concat();
    let name = [&[0, 0x0B][..], &sha256(&area)].concat();
    let len = u16::try_from(area.len()).unwrap();
    let whole = [
        &INDEX.to_be_bytes()[..],
        &[0, 34],
        &name,
        &2_u32.to_be_bytes(),
        &len.to_be_bytes(),
        &area,
    ];
    BASE64.encode(whole.concat())
}

fn file(allowed: &Allowed) -> Value {
    let values: Vec<Value> = allowed
        .iter()
        .map(|(pcr, values)| {
            let values: Vec<String> = values.iter().map(hex::encode).collect();
            json!({ "pcr": pcr, "values": values })
        })
        .collect();
    json!({
        "pcrBank": "sha256",
        "pcrValues": values,
        "nvIndex": INDEX,
        "nvHandle": handle(),
        "nvPublic": "not needed",
    })
}

/// Writes both.
fn make_policy(tpm: &mut dyn Tpm, files: &Files, allowed: &Allowed) {
    write(tpm, &digest(allowed));
    put(&files.of_pcrlock(), &file(allowed));
}

/// PCR 7 as it is, PCR 16 as it is and as it is after an extend, PCR 23 one of eight.
fn foreseen(tpm: &mut dyn Tpm) -> Allowed {
    let (fixed, moving, last) = (value(tpm, 7), value(tpm, 16), value(tpm, 23));
    let moved = sha256(&[&moving[..], &[1; 32]].concat()).to_vec();
    let mut eight: Vec<Vec<u8>> = (1..8).map(|byte| vec![byte; 32]).collect();
    eight.push(last);
    vec![(7, vec![fixed]), (16, vec![moving, moved]), (23, eight)]
}

fn enrolment<'a>(files: &Files) -> Enrolment<'a> {
    Enrolment {
        pcrlock: true,
        files: files.places(),
        ..Enrolment::default()
    }
}

/// A TPM with index, file, and a slot.
fn enrolled<'a>(
    back_end: BackEnd,
    more: impl FnOnce(&mut Enrolment<'a>),
) -> (Swtpm, Files, Enrolled) {
    let swtpm = back_end.swtpm();
    let files = Files::new();
    let enrolled = {
        let mut tpm = back_end.connect(&swtpm);
        define(&mut *tpm);
        let allowed = foreseen(&mut *tpm);
        make_policy(&mut *tpm, &files, &allowed);
        let mut enrolment = enrolment(&files);
        more(&mut enrolment);
        enrol(&mut *tpm, &enrolment).unwrap()
    };
    (swtpm, files, enrolled)
}

pub(crate) fn what_is_foreseen_opens_and_nothing_else(back_end: BackEnd) {
    let (swtpm, files, enrolled) = enrolled(back_end, |_| {});
    assert!(enrolled.untried().is_none());
    let written = token(enrolled.token());
    assert_eq!(written.raw["tpm2_pcrlock"], true);
    assert_eq!(written.raw["tpm2_pcrlock_nv"], handle());
    assert_eq!(&SystemdTpm2::parse(&written).unwrap(), enrolled.token());
    assert_opens(back_end, &swtpm, &enrolled, &files, None);
    extend(back_end, &swtpm, 16);
    assert_opens(back_end, &swtpm, &enrolled, &files, None);
    extend(back_end, &swtpm, 16);
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(
        matches!(&told, TokenError::PolicyMismatch(detail) if detail.contains("PCR 16 ")),
        "{told}"
    );
    // A new policy in index and file: the token stays as it is.
    {
        let mut tpm = back_end.connect(&swtpm);
        let allowed = foreseen(&mut *tpm);
        make_policy(&mut *tpm, &files, &allowed);
    }
    assert_opens(back_end, &swtpm, &enrolled, &files, None);
}

pub(crate) fn literal_pcrs_and_a_pin_count_too(back_end: BackEnd) {
    let given = pin("1234");
    let (swtpm, files, enrolled) = enrolled(back_end, |enrolment| {
        enrolment.pcrs = &[8];
        enrolment.pin = Some((&given, NewPin::Salted));
    });
    assert_opens(back_end, &swtpm, &enrolled, &files, Some("1234"));
    let told = open(
        back_end,
        &swtpm,
        &token(enrolled.token()),
        &files,
        &mut |_| Some(pin("4321")),
    );
    assert!(matches!(told, Err(TokenError::WrongPin)));
    extend(back_end, &swtpm, 8);
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(
        matches!(&told, TokenError::PolicyMismatch(detail) if detail.contains("PCR 8 ")),
        "{told}"
    );
}

pub(crate) fn a_stale_policy_is_told_and_not_enrolled(back_end: BackEnd) {
    let given = pin("1234");
    let (swtpm, files, enrolled) = enrolled(back_end, |enrolment| {
        enrolment.pin = Some((&given, NewPin::Salted));
    });
    write(&mut *back_end.connect(&swtpm), &[7; 32]);
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(
        matches!(inner(&told), TpmError::StalePolicy { index: INDEX }),
        "{told}"
    );
    let told = enrol(&mut *back_end.connect(&swtpm), &enrolment(&files));
    assert!(matches!(told, Err(TpmError::StalePolicy { index: INDEX })));
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn what_is_wrong_with_index_or_file_is_told(back_end: BackEnd) {
    let (swtpm, files, enrolled) = enrolled(back_end, |_| {});
    let good: Value = serde_json::from_slice(&std::fs::read(files.of_pcrlock()).unwrap()).unwrap();
    std::fs::remove_file(files.of_pcrlock()).unwrap();
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(
        inner(&told),
        TpmError::NoPolicyFile {
            name: "pcrlock.json",
            ..
        }
    ));
    std::fs::write(files.of_pcrlock(), "[").unwrap();
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(told, TokenError::Damaged(_)), "{told}");
    let mut nine = good.clone();
    let values = nine["pcrValues"][2]["values"].as_array_mut().unwrap();
    values.push("99".repeat(32).into());
    put(&files.of_pcrlock(), &nine);
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(told, TokenError::Unsupported(_)), "{told}");
    put(&files.of_pcrlock(), &good);
    assert_opens(back_end, &swtpm, &enrolled, &files, None);

    back_end.connect(&swtpm).nv_undefine(INDEX).unwrap();
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(
        inner(&told),
        TpmError::NoSuchIndex { index: INDEX }
    ));
    {
        // Made again, so that somebody else may write it.
        let mut tpm = back_end.connect(&swtpm);
        let mut other = empty_index();
        other.attributes = other.attributes.with(NvAttributes::OWNER_WRITE);
        tpm.nv_define(&other, Some(&auth(WRITE_SECRET))).unwrap();
        let allowed = foreseen(&mut *tpm);
        make_policy(&mut *tpm, &files, &allowed);
    }
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(
        matches!(&told, TokenError::PolicyMismatch(detail) if detail.contains("another one")),
        "{told}"
    );
}

/// A weakness of this form, so that nobody takes it for more than it is: the name of the index says
/// that a value guards it, and not which. Ours asks for a signature (`kept.rs`).
pub(crate) fn with_the_owners_right_the_index_is_made_anew(back_end: BackEnd) {
    let (swtpm, files, enrolled) = enrolled(back_end, |_| {});
    for _ in 0..2 {
        extend(back_end, &swtpm, 16);
    }
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(told, TokenError::PolicyMismatch(_)), "{told}");
    {
        let mut tpm = back_end.connect(&swtpm);
        tpm.nv_undefine(INDEX).unwrap();
        let theirs = auth(b"theirs");
        tpm.nv_define(&empty_index(), Some(&theirs)).unwrap();
        let allowed = foreseen(&mut *tpm);
        let policy = Policy::new(vec![Assertion::AuthValue]);
        let by = NvAuth::Policy {
            policy: &policy,
            auth: Some(&theirs),
        };
        let contents = [&[0, 0x0B], &digest(&allowed)[..]].concat();
        tpm.nv_write(INDEX, &by, &secret(&contents)).unwrap();
        put(&files.of_pcrlock(), &file(&allowed));
    }
    assert_opens(back_end, &swtpm, &enrolled, &files, None);
}

/// Early versions wrote no index into the token.
pub(crate) fn the_file_says_the_index_where_the_token_does_not(back_end: BackEnd) {
    let (swtpm, files, enrolled) = enrolled(back_end, |_| {});
    let mut early = token(enrolled.token());
    let members = early.raw.as_object_mut().unwrap();
    members.remove("tpm2_pcrlock_nv").unwrap();
    let opened = open(back_end, &swtpm, &early, &files, &mut nobody).unwrap();
    assert!(opened.ct_eq(enrolled.passphrase()));
    let mut without: Value =
        serde_json::from_slice(&std::fs::read(files.of_pcrlock()).unwrap()).unwrap();
    without.as_object_mut().unwrap().remove("nvHandle");
    put(&files.of_pcrlock(), &without);
    let told = open(back_end, &swtpm, &early, &files, &mut nobody);
    assert!(matches!(told, Err(TokenError::Damaged(_))));
}

pub(crate) fn with_signed_pcrs_it_takes_both(back_end: BackEnd) {
    let vendor = Vendor::new();
    let (swtpm, files, enrolled) = enrolled(back_end, |enrolment| {
        enrolment.signed = Some(luksmith_tpm::token::SignedPcrs {
            key: vendor.key(),
            pcrs: vec![16],
            purpose: None,
        });
    });
    assert!(matches!(
        enrolled.untried(),
        Some(TpmError::NoPolicyFile { .. })
    ));
    let written = token(enrolled.token());
    for parts in ["tpm2-blob", "tpm2-policy-hash"] {
        assert_eq!(written.raw[parts].as_array().unwrap().len(), 2);
    }
    assert_eq!(enrolled.passphrase().len(), 88, "64 bytes in base64");
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(inner(&told), TpmError::NoPolicyFile { .. }));
    files.sign(&[vendor.now(&mut *back_end.connect(&swtpm))]);
    assert_opens(back_end, &swtpm, &enrolled, &files, None);
    // The one moves on, and so must the other.
    extend(back_end, &swtpm, 16);
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(told, TokenError::PolicyMismatch(_)), "{told}");
    files.sign(&[vendor.now(&mut *back_end.connect(&swtpm))]);
    assert_opens(back_end, &swtpm, &enrolled, &files, None);
    write(&mut *back_end.connect(&swtpm), &[7; 32]);
    let told = why(back_end, &swtpm, &enrolled, &files);
    assert!(matches!(inner(&told), TpmError::StalePolicy { .. }));

    let mut one = written;
    let blob = one.raw["tpm2-blob"][0].clone();
    let policy = one.raw["tpm2-policy-hash"][0].clone();
    one.raw["tpm2-blob"] = blob;
    one.raw["tpm2-policy-hash"] = policy;
    let told = open(back_end, &swtpm, &one, &files, &mut nobody);
    assert!(
        matches!(told, Err(TokenError::Damaged(_))),
        "a part was taken away"
    );
}

/// tss-esapi 7 has no `TPM2_PolicyAuthorizeNV`: it says so before anybody is asked for a PIN.
#[cfg(feature = "esapi")]
#[test]
fn the_other_back_end_refuses_by_name() {
    let given = pin("1234");
    let native = BackEnd {
        swtpm: Swtpm::on_tcp,
        ..crate::NATIVE
    };
    let (swtpm, files, enrolled) = enrolled(native, |enrolment| {
        enrolment.pin = Some((&given, NewPin::Salted));
    });
    let told = why(crate::ESAPI, &swtpm, &enrolled, &files);
    assert!(
        matches!(
            inner(&told),
            TpmError::BackEnd {
                what: "TPM2_PolicyAuthorizeNV",
                ..
            }
        ),
        "{told}"
    );
    let told = enrol(&mut *crate::ESAPI.connect(&swtpm), &enrolment(&files));
    assert!(matches!(told, Err(TpmError::BackEnd { .. })));
    assert_opens(native, &swtpm, &enrolled, &files, Some("1234"));
}

/// The digest that the TPM computes for the policy that was made by hand.
pub(crate) fn digests_by_hand_are_those_of_the_tpm(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let mut tpm = back_end.connect(&swtpm);
    let allowed = vec![
        (16, vec![value(&mut *tpm, 16)]),
        (7, vec![value(&mut *tpm, 7)]),
    ];
    let mut ascending = allowed;
    ascending.sort();
    let selection = luksmith_tpm::PcrSelection::new(HashAlg::Sha256, &[7, 16]).unwrap();
    let policy = Policy::new(vec![Assertion::Pcrs {
        selection,
        values: None,
    }]);
    assert_eq!(tpm.trial(&policy).unwrap().0, digest(&ascending));
}
