//! A policy of this machine, which the TPM keeps itself.

use std::collections::BTreeMap;

use luksmith_keyslot::TokenError;
use luksmith_tpm::token::{Enrolled, Enrolment, Grace, Kept, PcrlockPolicy, define_index, enrol};
use luksmith_tpm::wire::{NvAttributes, NvPublic};
use luksmith_tpm::{Assertion, HashAlg, NvAuth, Policy, Tpm, TpmError, WriterKey};

use crate::BackEnd;
use crate::signed::{Files, assert_opens, extend, inner, put, value, why};
use crate::support::{Swtpm, auth, secret};

/// PCR 16 has to be one of these.
fn policy(index: &NvPublic, values: &[Vec<u8>]) -> PcrlockPolicy {
    let allowed = BTreeMap::from([(16, values.to_vec())]);
    PcrlockPolicy::new(HashAlg::Sha256, allowed, index.clone()).unwrap()
}

/// A slot bound to PCR 16 as it is, and no file any more.
struct Bound {
    back_end: BackEnd,
    swtpm: Swtpm,
    files: Files,
    writer: WriterKey,
    index: NvPublic,
    enrolled: Enrolled,
}

impl Bound {
    fn connect(&self) -> Box<dyn Tpm> {
        self.back_end.connect(&self.swtpm)
    }

    fn extend(&self, pcr: u8) {
        extend(self.back_end, &self.swtpm, pcr);
    }

    fn opens(&self) {
        assert_opens(
            self.back_end,
            &self.swtpm,
            &self.enrolled,
            &self.files,
            None,
        );
    }

    /// Why it does not open.
    fn why(&self) -> TokenError {
        why(self.back_end, &self.swtpm, &self.enrolled, &self.files)
    }
}

fn bound(back_end: BackEnd) -> Bound {
    let swtpm = back_end.swtpm();
    let files = Files::new();
    let mut tpm = back_end.connect(&swtpm);
    let writer = WriterKey::generate().unwrap();
    let index = define_index(&mut *tpm, &writer).unwrap();
    let now = value(&mut *tpm, 16);
    let first = policy(&index, &[now]);
    let kept = first.put_in_force(&mut *tpm, &writer).unwrap();
    assert!(matches!(kept, Kept::InTpm));
    put(&files.of_pcrlock(), &first.to_json().unwrap());
    let enrolment = Enrolment {
        pcrlock: true,
        files: files.places(),
        ..Enrolment::default()
    };
    let enrolled = enrol(&mut *tpm, &enrolment).unwrap();
    drop(tpm);
    std::fs::remove_file(files.of_pcrlock()).unwrap();
    Bound {
        back_end,
        swtpm,
        files,
        writer,
        index,
        enrolled,
    }
}

pub(crate) fn no_file_is_needed_whatever_comes_after(back_end: BackEnd) {
    let bound = bound(back_end);
    bound.opens();
    // More often than there are places.
    for _ in 0..3 {
        bound.extend(16);
        let told = bound.why();
        assert!(matches!(told, TokenError::PolicyMismatch(_)), "{told}");
        let mut tpm = bound.connect();
        let now = value(&mut *tpm, 16);
        let next = policy(&bound.index, &[now, vec![7; 32]]);
        let kept = next.put_in_force(&mut *tpm, &bound.writer).unwrap();
        assert!(matches!(kept, Kept::InTpm));
        assert_eq!(
            PcrlockPolicy::kept(&mut *tpm, &bound.index)
                .unwrap()
                .as_ref(),
            Some(&next)
        );
        drop(tpm);
        bound.opens();
    }
    assert_eq!(bound.swtpm.left_behind().len(), 0);
}

/// The policy is there and its digest is not: as after a power cut in between.
pub(crate) fn what_is_not_yet_in_force_costs_nothing(back_end: BackEnd) {
    let bound = bound(back_end);
    {
        let mut tpm = bound.connect();
        let before = tpm.nv_read(bound.index.index, &NvAuth::Owner).unwrap();
        let next = policy(&bound.index, &[vec![7; 32]]);
        next.put_in_force(&mut *tpm, &bound.writer).unwrap();
        tpm.nv_write(bound.index.index, &NvAuth::Signed(&bound.writer), &before)
            .unwrap();
    }
    bound.opens();
    // And the next attempt does not spoil it either.
    let mut tpm = bound.connect();
    let now = value(&mut *tpm, 16);
    let next = policy(&bound.index, &[now, vec![9; 32]]);
    next.put_in_force(&mut *tpm, &bound.writer).unwrap();
    drop(tpm);
    bound.opens();
}

pub(crate) fn without_room_the_file_is_needed(back_end: BackEnd) {
    let bound = bound(back_end);
    let mut tpm = bound.connect();
    let now = value(&mut *tpm, 16);
    // Somebody else's, where the next one would go.
    let theirs = NvPublic {
        index: bound.index.index + 2,
        attributes: NvAttributes::OWNER_READ.with(NvAttributes::OWNER_WRITE),
        policy: Vec::new(),
        size_bytes: 8,
    };
    tpm.nv_define(&theirs, None).unwrap();
    tpm.nv_write(theirs.index, &NvAuth::Owner, &secret(b"contents"))
        .unwrap();
    let next = policy(&bound.index, &[now, vec![7; 32]]);
    let kept = next.put_in_force(&mut *tpm, &bound.writer).unwrap();
    assert!(matches!(kept, Kept::OnlyInFile(_)));
    drop(tpm);
    let told = bound.why();
    assert!(
        matches!(inner(&told), TpmError::NoPolicyFile { .. }),
        "{told}"
    );
    put(&bound.files.of_pcrlock(), &next.to_json().unwrap());
    bound.opens();
    // Removed with the policy, but for what is not ours.
    let mut tpm = bound.connect();
    next.revoke(&mut *tpm).unwrap();
    let left = tpm.nv_read(theirs.index, &NvAuth::Owner).unwrap();
    assert_eq!(left.expose(), b"contents");
}

pub(crate) fn what_is_revoked_opens_nowhere(back_end: BackEnd) {
    let bound = bound(back_end);
    let mut tpm = bound.connect();
    let policy = PcrlockPolicy::kept(&mut *tpm, &bound.index)
        .unwrap()
        .unwrap();
    // Cut off after the index; the next attempt removes what lies behind it.
    tpm.nv_undefine(bound.index.index).unwrap();
    assert!(tpm.nv_public(bound.index.index + 1).is_ok());
    let gone = policy.revoke(&mut *tpm);
    assert!(matches!(gone, Err(TpmError::NoSuchIndex { .. })));
    for handle in bound.index.index..=bound.index.index + 3 {
        let gone = tpm.nv_public(handle);
        assert!(matches!(gone, Err(TpmError::NoSuchIndex { .. })));
    }
    drop(tpm);
    put(&bound.files.of_pcrlock(), &policy.to_json().unwrap());
    let told = bound.why();
    assert!(
        matches!(inner(&told), TpmError::NoSuchIndex { .. }),
        "{told}"
    );
}

/// Whoever boots the machine by a system of his own has the owner's right, and so can put an index of
/// the same name in the place of ours.
pub(crate) fn an_index_made_anew_is_written_by_nobody_else(back_end: BackEnd) {
    let bound = bound(back_end);
    bound.extend(16);
    let mut tpm = bound.connect();
    let now = value(&mut *tpm, 16);
    let theirs = policy(&bound.index, &[now]);
    let own = WriterKey::generate().unwrap();
    let refused = theirs.put_in_force(&mut *tpm, &own);
    assert!(
        matches!(refused, Err(TpmError::PolicyMismatch { .. })),
        "{refused:?}"
    );
    tpm.nv_undefine(bound.index.index).unwrap();
    let empty = NvPublic {
        attributes: NvAttributes(bound.index.attributes.0 & !NvAttributes::WRITTEN.0),
        ..bound.index.clone()
    };
    tpm.nv_define(&empty, Some(&auth(b"theirs"))).unwrap();
    let proof = auth(b"theirs");
    let by_value = Policy::new(vec![Assertion::AuthValue]);
    let contents = [7; 34];
    for by in [
        NvAuth::Signed(&own),
        NvAuth::Owner,
        NvAuth::Index(Some(&proof)),
        NvAuth::Policy {
            policy: &by_value,
            auth: Some(&proof),
        },
    ] {
        assert!(
            tpm.nv_write(bound.index.index, &by, &secret(&contents))
                .is_err()
        );
    }
    drop(tpm);
    put(&bound.files.of_pcrlock(), &theirs.to_json().unwrap());
    // Never written: that is what the TPM says of it.
    let told = bound.why();
    assert!(
        matches!(inner(&told), TpmError::IndexRefused { .. }),
        "{told}"
    );
    // Their value is in the way of the right key, too; which is noticed.
    let mut tpm = bound.connect();
    let told = theirs.put_in_force(&mut *tpm, &bound.writer);
    assert!(
        matches!(told, Err(TpmError::PolicyMismatch { .. })),
        "{told:?}"
    );
    tpm.nv_undefine(bound.index.index).unwrap();
    tpm.nv_define(&empty, None).unwrap();
    theirs.put_in_force(&mut *tpm, &bound.writer).unwrap();
    drop(tpm);
    bound.opens();
    assert_eq!(bound.swtpm.left_behind().len(), 0);
}

/// Of one boot that nobody could foresee.
pub(crate) fn a_grace_opens_once_and_only_where_it_was_granted(back_end: BackEnd) {
    let bound = bound(back_end);
    let grant = |free: &[u8]| {
        let mut tpm = bound.connect();
        let (first, second) = (value(&mut *tpm, 16), value(&mut *tpm, 23));
        let allowed = BTreeMap::from([(16, vec![first]), (23, vec![second, vec![7; 32]])]);
        let policy = PcrlockPolicy::new(HashAlg::Sha256, allowed, bound.index.clone()).unwrap();
        let policy = policy.with_grace(&mut *tpm, free).unwrap();
        let kept = policy.put_in_force(&mut *tpm, &bound.writer).unwrap();
        assert!(matches!(kept, Kept::InTpm));
        let read = PcrlockPolicy::kept(&mut *tpm, &bound.index).unwrap();
        assert_eq!(read.as_ref(), Some(&policy));
        let json = policy.to_json().unwrap().to_string();
        assert_eq!(PcrlockPolicy::parse(json.as_bytes()).unwrap(), policy);
        policy.grace().cloned().unwrap()
    };
    let grace = grant(&[16]);
    // The usual way does not use it up.
    bound.opens();
    let used = |grace: &Grace| {
        let mut tpm = bound.connect();
        let is_open = grace.is_open(&mut *tpm, &bound.index).unwrap();
        let was_used = grace.was_used(&mut *tpm, &bound.index).unwrap();
        assert_ne!(is_open, was_used);
        was_used
    };
    assert!(!used(&grace));
    bound.extend(16);
    bound.opens();
    assert!(used(&grace));
    let told = bound.why();
    assert!(matches!(told, TokenError::PolicyMismatch(_)), "{told}");

    // Another PCR than was granted.
    let grace = grant(&[16]);
    bound.extend(23);
    let told = bound.why();
    assert!(
        matches!(&told, TokenError::PolicyMismatch(detail) if detail.contains("PCR 23 ")),
        "{told}"
    );
    assert!(!used(&grace));

    // Both; and then its counter is made anew, by somebody who wants another go.
    let grace = grant(&[16, 23]);
    bound.extend(23);
    bound.opens();
    let mut tpm = bound.connect();
    let counter = bound.index.index + 3;
    let public = tpm.nv_public(counter).unwrap();
    tpm.nv_undefine(counter).unwrap();
    let empty = NvPublic {
        attributes: NvAttributes(public.attributes.0 & !NvAttributes::WRITTEN.0),
        ..public
    };
    tpm.nv_define(&empty, None).unwrap();
    tpm.nv_increment(counter, &NvAuth::Index(None)).unwrap();
    assert!(!grace.is_open(&mut *tpm, &bound.index).unwrap());
    drop(tpm);
    let told = bound.why();
    assert!(matches!(told, TokenError::PolicyMismatch(_)), "{told}");
    assert_eq!(bound.swtpm.left_behind().len(), 0);
}
