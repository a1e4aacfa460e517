//! NV indices.

use luksmith_tpm::wire::{NvAttributes, NvPublic};
use luksmith_tpm::{Assertion, Native, NvAuth, NvCounter, NvLock, Policy, Tpm, TpmError};

use crate::BackEnd;
use crate::support::{Swtpm, auth, secret};

pub(crate) const INDEX: u32 = 0x0180_0042;

/// An index with these attributes, size and policy.
pub(crate) fn index(attributes: NvAttributes, size_bytes: u16, policy: &[u8]) -> NvPublic {
    NvPublic {
        index: INDEX,
        attributes,
        policy: policy.to_vec(),
        size_bytes,
    }
}

const BY_AUTH: NvAttributes = NvAttributes::AUTH_READ.with(NvAttributes::AUTH_WRITE);

pub(crate) fn contents_are_read_as_they_were_written(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        let pin = auth(b"pin of the index");
        for (by, attributes) in [
            (NvAuth::Index(Some(&pin)), BY_AUTH),
            (
                NvAuth::Owner,
                NvAttributes::OWNER_READ.with(NvAttributes::OWNER_WRITE),
            ),
        ] {
            tpm.nv_define(&index(attributes, 8, &[]), Some(&pin))
                .unwrap();
            tpm.nv_write(INDEX, &by, &secret(b"contents")).unwrap();
            let back = tpm.nv_read(INDEX, &by).unwrap();
            assert_eq!(back.expose(), b"contents");
            tpm.nv_write(INDEX, &by, &secret(b"CON")).unwrap();
            let back = tpm.nv_read(INDEX, &by).unwrap();
            assert_eq!(back.expose(), b"CONtents");
            let there = tpm.nv_public(INDEX).unwrap();
            assert_eq!(there.attributes, attributes.with(NvAttributes::WRITTEN));
            tpm.nv_undefine(INDEX).unwrap();
            let gone = tpm.nv_read(INDEX, &by);
            assert!(matches!(gone, Err(TpmError::NoSuchIndex { index: INDEX })));
        }
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn a_policy_guards_an_index(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        let policy = Policy::new(vec![Assertion::AuthValue]);
        let pin = auth(b"write secret");
        let wrong = auth(b"wrong");
        let digest = policy.digest().unwrap();
        let attributes = NvAttributes::POLICY_WRITE
            .with(NvAttributes::OWNER_READ)
            .with(NvAttributes::NO_DA);
        tpm.nv_define(&index(attributes, 4, &digest.0), Some(&pin))
            .unwrap();
        let by = |auth| NvAuth::Policy {
            policy: &policy,
            auth,
        };
        let told = tpm.nv_write(INDEX, &by(Some(&wrong)), &secret(b"evil"));
        assert!(
            matches!(told, Err(TpmError::WrongPin { counted: false })),
            "{told:?}"
        );
        let told = tpm.nv_write(INDEX, &by(None), &secret(b"evil"));
        assert!(matches!(told, Err(TpmError::PinNeeded)));
        let none = Policy::default();
        let other = NvAuth::Policy {
            policy: &none,
            auth: None,
        };
        let told = tpm.nv_write(INDEX, &other, &secret(b"evil"));
        assert!(matches!(told, Err(TpmError::PolicyMismatch { .. })));
        let told = tpm.nv_write(INDEX, &NvAuth::Owner, &secret(b"evil"));
        assert!(
            matches!(told, Err(TpmError::IndexRefused { .. })),
            "{told:?}"
        );
        tpm.nv_write(INDEX, &by(Some(&pin)), &secret(b"good"))
            .unwrap();
        let back = tpm.nv_read(INDEX, &NvAuth::Owner).unwrap();
        assert_eq!(back.expose(), b"good");
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn a_read_lock_holds_until_the_next_start(back_end: BackEnd) {
    let mut swtpm = back_end.swtpm();
    let policy = Policy::default();
    let by = NvAuth::Policy {
        policy: &policy,
        auth: None,
    };
    {
        let mut tpm = back_end.connect(&swtpm);
        let attributes = NvAttributes::POLICY_READ
            .with(NvAttributes::POLICY_WRITE)
            .with(NvAttributes::READ_STCLEAR);
        let digest = policy.digest().unwrap();
        tpm.nv_define(&index(attributes, 6, &digest.0), None)
            .unwrap();
        tpm.nv_write(INDEX, &by, &secret(b"secret")).unwrap();
        let owner = tpm.nv_read(INDEX, &NvAuth::Owner);
        assert!(
            matches!(owner, Err(TpmError::IndexRefused { .. })),
            "not even for the owner"
        );
        assert_eq!(tpm.nv_read(INDEX, &by).unwrap().expose(), b"secret");
        tpm.nv_lock(INDEX, &by, NvLock::Read).unwrap();
        let locked = tpm.nv_read(INDEX, &by);
        assert!(matches!(locked, Err(TpmError::IndexRefused { .. })));
        let there = tpm.nv_public(INDEX).unwrap();
        assert!(there.attributes.has(NvAttributes::READ_LOCKED));
    }
    assert_eq!(swtpm.left_behind().len(), 0);
    swtpm.restart();
    let back = back_end.connect(&swtpm).nv_read(INDEX, &by).unwrap();
    assert_eq!(back.expose(), b"secret");
}

pub(crate) fn a_write_lock_holds_until_the_next_start(back_end: BackEnd) {
    let mut swtpm = back_end.swtpm();
    let by = NvAuth::Index(None);
    {
        let mut tpm = back_end.connect(&swtpm);
        let attributes = BY_AUTH.with(NvAttributes::WRITE_STCLEAR);
        tpm.nv_define(&index(attributes, 3, &[]), None).unwrap();
        tpm.nv_write(INDEX, &by, &secret(b"one")).unwrap();
        tpm.nv_lock(INDEX, &by, NvLock::Write).unwrap();
        let locked = tpm.nv_write(INDEX, &by, &secret(b"two"));
        assert!(matches!(locked, Err(TpmError::IndexRefused { .. })));
        assert_eq!(tpm.nv_read(INDEX, &by).unwrap().expose(), b"one");
    }
    swtpm.restart();
    let mut tpm = back_end.connect(&swtpm);
    tpm.nv_write(INDEX, &by, &secret(b"two")).unwrap();
    assert_eq!(tpm.nv_read(INDEX, &by).unwrap().expose(), b"two");
}

pub(crate) fn what_is_not_there_or_not_allowed_is_told_apart(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        let by = NvAuth::Index(None);
        let told = tpm.nv_public(INDEX);
        assert!(matches!(told, Err(TpmError::NoSuchIndex { index: INDEX })));
        let told = tpm.nv_undefine(INDEX);
        assert!(matches!(told, Err(TpmError::NoSuchIndex { index: INDEX })));
        let public = index(BY_AUTH, 8, &[]);
        tpm.nv_define(&public, None).unwrap();
        let told = tpm.nv_define(&public, None);
        assert!(matches!(told, Err(TpmError::IndexRefused { .. })), "exists");
        let told = tpm.nv_read(INDEX, &by);
        assert!(
            matches!(told, Err(TpmError::IndexRefused { .. })),
            "never written"
        );
        for len in [0, 9] {
            let told = tpm.nv_write(INDEX, &by, &secret(&vec![1; len]));
            assert!(matches!(told, Err(TpmError::Misuse { .. })));
        }
        let huge = NvPublic {
            index: INDEX + 1,
            size_bytes: 60000,
            ..public
        };
        assert!(tpm.nv_define(&huge, None).is_err());
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn long_contents_go_in_parts(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let mut tpm = back_end.connect(&swtpm);
    tpm.nv_define(&index(BY_AUTH, 1300, &[]), None).unwrap();
    let contents: Vec<u8> = (0..1300_u32)
        .map(|at| at.to_le_bytes()[at as usize % 2])
        .collect();
    let by = NvAuth::Index(None);
    tpm.nv_write(INDEX, &by, &secret(&contents)).unwrap();
    assert_eq!(tpm.nv_read(INDEX, &by).unwrap().expose(), contents);
}

pub(crate) fn a_counter_only_goes_up_and_no_other_index_is_taken_for_it(back_end: BackEnd) {
    let mut swtpm = back_end.swtpm();
    let (counter, first) = NvCounter::define(&mut *back_end.connect(&swtpm)).unwrap();
    {
        let mut tpm = counter.hold(Native::over(swtpm.connect()));
        assert_eq!(counter.value(&mut tpm).unwrap(), first);
        assert_eq!(counter.raise(&mut tpm, first + 2).unwrap(), first + 2);
        assert_eq!(counter.raise(&mut tpm, first).unwrap(), first + 2);
        let far = counter.raise(&mut tpm, first + 1000);
        assert!(matches!(far, Err(TpmError::Misuse { .. })), "{far:?}");
    }
    // It is as good as the TPM's memory, which is taken away and given back here.
    let kept = swtpm.save();
    let value = |swtpm: &Swtpm| counter.value(&mut *back_end.connect(swtpm)).unwrap();
    assert_eq!(value(&swtpm), first + 2);
    counter
        .raise(&mut *back_end.connect(&swtpm), first + 3)
        .unwrap();
    assert_eq!(value(&swtpm), first + 3);
    swtpm.load(&kept);
    assert_eq!(value(&swtpm), first + 2);
    let mut tpm = counter.hold(Native::over(swtpm.connect()));
    // Removed and made again: the same name, and further up.
    let public = tpm.nv_public(counter.handle).unwrap();
    tpm.nv_undefine(counter.handle).unwrap();
    let gone = counter.value(&mut tpm);
    assert!(
        matches!(gone, Err(TpmError::NoSuchIndex { .. })),
        "{gone:?}"
    );
    drop(tpm);
    let mut anybody = back_end.connect(&swtpm);
    let again = NvPublic {
        attributes: NvAttributes(public.attributes.0 & !NvAttributes::WRITTEN.0),
        ..public.clone()
    };
    anybody.nv_define(&again, None).unwrap();
    anybody
        .nv_increment(counter.handle, &NvAuth::Index(None))
        .unwrap();
    assert!(counter.value(&mut *anybody).unwrap() > first + 2);
    // Eight bytes that somebody chose.
    anybody.nv_undefine(counter.handle).unwrap();
    let bytes = NvPublic {
        attributes: NvAttributes(again.attributes.0 & !NvAttributes::COUNTER.0),
        ..again
    };
    anybody.nv_define(&bytes, None).unwrap();
    let old = secret(&first.to_be_bytes());
    anybody
        .nv_write(counter.handle, &NvAuth::Index(None), &old)
        .unwrap();
    let told = counter.value(&mut *anybody);
    assert!(matches!(told, Err(TpmError::WrongTpm { .. })), "{told:?}");
    drop(anybody);
    let told = counter
        .hold(Native::over(swtpm.connect()))
        .nv_read(counter.handle, &NvAuth::Index(None));
    assert!(matches!(told, Err(TpmError::WrongTpm { .. })));
    // The right index on another TPM.
    let other = back_end.swtpm();
    let told = counter.value(&mut *back_end.connect(&other));
    assert!(matches!(told, Err(TpmError::WrongTpm { .. })), "{told:?}");
    assert_eq!(swtpm.left_behind().len(), 0);
}
