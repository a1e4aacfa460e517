//! Sealing under PCRs and PINs.

use luksmith_tpm::{
    Assertion, Digest, HashAlg, Lock, PcrSelection, Policy, PrimaryTemplate, SRK_HANDLE, Sealed,
    StorageKey, Tpm, TpmError,
};

use crate::BackEnd;
use crate::support::{auth, secret};

const SECRET: &[u8] = b"thirty-two bytes, quite a secret";

/// PCRs 7 and 16 of the SHA-256 bank.
pub(crate) fn selection() -> PcrSelection {
    PcrSelection::new(HashAlg::Sha256, &[7, 16]).unwrap()
}

/// PCRs as they are now, and the authorization value if `pin`.
pub(crate) fn current(tpm: &mut dyn Tpm, pin: bool) -> Policy {
    let values = tpm.read_pcrs(&selection()).unwrap();
    policy(Some(values.digest()), pin)
}

/// The same without knowing their values, as a token gives it.
pub(crate) fn open_policy(pin: bool) -> Policy {
    policy(None, pin)
}

fn policy(values: Option<Digest>, pin: bool) -> Policy {
    let selection = selection();
    let mut assertions = vec![Assertion::Pcrs { selection, values }];
    if pin {
        assertions.push(Assertion::AuthValue);
    }
    Policy::new(assertions)
}

fn seal(tpm: &mut dyn Tpm, pin: Option<&[u8]>) -> (StorageKey, Sealed) {
    let root = tpm.storage_root().unwrap();
    let policy = current(tpm, pin.is_some()).digest().unwrap();
    let auth = pin.map(auth);
    let lock = Lock {
        policy,
        auth: auth.as_ref(),
        counts_tries: pin.is_some(),
    };
    let sealed = tpm.seal(&root, &secret(SECRET), &lock).unwrap();
    (root, sealed)
}

pub(crate) fn what_is_sealed_comes_back(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        let facts = tpm.facts().unwrap();
        assert_eq!(facts.manufacturer, "IBM");
        assert!(!facts.owner_auth_set && !facts.lockout_auth_set);
        assert!(facts.has_policy_authorize_nv);
        assert!(tpm.banks().unwrap().contains(&HashAlg::Sha256));
        let (root, sealed) = seal(&mut *tpm, None);
        assert!(!sealed.counts_tries());
        for policy in [current(&mut *tpm, false), open_policy(false)] {
            let back = tpm.unseal(&root, &sealed, &policy, None).unwrap();
            assert_eq!(back.expose(), SECRET);
        }
        let longest = secret(&[7; 128]);
        let lock = Lock {
            policy: Policy::default().digest().unwrap(),
            auth: None,
            counts_tries: false,
        };
        let sealed = tpm.seal(&root, &longest, &lock).unwrap();
        let back = tpm.unseal(&root, &sealed, &Policy::default(), None);
        assert_eq!(back.unwrap().expose(), [7; 128]);
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn the_storage_root_is_made_once_and_stays(back_end: BackEnd) {
    let mut swtpm = back_end.swtpm();
    let first = back_end.connect(&swtpm).storage_root().unwrap();
    let again = back_end.connect(&swtpm).storage_root().unwrap();
    assert_eq!(first, again);
    let StorageKey::Persistent { handle, public, .. } = &first else {
        panic!("the storage root is persistent");
    };
    assert_eq!(*handle, SRK_HANDLE);
    let public = public.as_ref().expect("its public area was read");
    assert_eq!(public.attributes.0, 0x0003_0472, "the template of the TCG");
    swtpm.restart();
    assert_eq!(back_end.connect(&swtpm).storage_root().unwrap(), first);
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn a_changed_pcr_closes_it_and_tells_why(back_end: BackEnd) {
    let mut swtpm = back_end.swtpm();
    let (root, sealed, before) = {
        let mut tpm = back_end.connect(&swtpm);
        let (root, sealed) = seal(&mut *tpm, None);
        let before = current(&mut *tpm, false);
        tpm.extend_pcr(HashAlg::Sha256, 16, &[1; 32]).unwrap();
        let told = tpm.unseal(&root, &sealed, &before, None).err().unwrap();
        assert!(
            matches!(&told, TpmError::PolicyMismatch { detail } if detail.contains("PCR 7+16")),
            "{told}"
        );
        let told = tpm.unseal(&root, &sealed, &open_policy(false), None);
        assert!(matches!(told, Err(TpmError::PolicyMismatch { .. })));
        (root, sealed, before)
    };
    assert_eq!(swtpm.left_behind().len(), 0);
    swtpm.restart();
    let mut tpm = back_end.connect(&swtpm);
    let back = tpm.unseal(&root, &sealed, &before, None);
    assert_eq!(back.unwrap().expose(), SECRET, "after a restart");
}

pub(crate) fn a_pin_opens_and_wrong_ones_count(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        let (root, sealed) = seal(&mut *tpm, Some(b"1234"));
        assert!(sealed.counts_tries());
        let policy = open_policy(true);
        let right = tpm.unseal(&root, &sealed, &policy, Some(&auth(b"1234")));
        assert_eq!(right.unwrap().expose(), SECRET);
        let none = tpm.unseal(&root, &sealed, &policy, None);
        assert!(matches!(none, Err(TpmError::PinNeeded)));
        assert_eq!(tpm.lockout().unwrap().wrong_tries, 0);
        let wrong = tpm.unseal(&root, &sealed, &policy, Some(&auth(b"4321")));
        assert!(matches!(wrong, Err(TpmError::WrongPin { counted: true })));
        assert_eq!(tpm.lockout().unwrap().wrong_tries, 1);
        let right = tpm.unseal(&root, &sealed, &policy, Some(&auth(b"1234\0\0")));
        assert_eq!(right.unwrap().expose(), SECRET, "zero bytes at the end");
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn a_lockout_tells_its_time_and_leaves_slots_without_pin_open(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        let (root, with_pin) = seal(&mut *tpm, Some(b"1234"));
        let (_, without) = seal(&mut *tpm, None);
        let rules = tpm.lockout().unwrap().rules;
        for left in (0..rules.max_tries).rev() {
            let wrong = tpm.unseal(&root, &with_pin, &open_policy(true), Some(&auth(b"no")));
            assert!(matches!(wrong, Err(TpmError::WrongPin { counted: true })));
            assert_eq!(tpm.lockout().unwrap().tries_left(), left);
        }
        let right = tpm.unseal(&root, &with_pin, &open_policy(true), Some(&auth(b"1234")));
        let Err(TpmError::LockedOut {
            remaining: Some(time),
        }) = right
        else {
            panic!("{:?}", right.err());
        };
        assert_eq!(time.as_secs(), u64::from(rules.forget_one_after_s));
        let back = tpm.unseal(&root, &without, &open_policy(false), None);
        assert_eq!(back.unwrap().expose(), SECRET);
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn a_wrong_machine_state_costs_no_try(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let mut tpm = back_end.connect(&swtpm);
    let (root, sealed) = seal(&mut *tpm, Some(b"1234"));
    tpm.extend_pcr(HashAlg::Sha256, 16, &[1; 32]).unwrap();
    for pin in [&b"1234"[..], b"4321"] {
        let told = tpm.unseal(&root, &sealed, &open_policy(true), Some(&auth(pin)));
        assert!(matches!(told, Err(TpmError::PolicyMismatch { .. })));
    }
    let told = tpm.unseal(&root, &sealed, &open_policy(true), None);
    assert!(
        matches!(told, Err(TpmError::PolicyMismatch { .. })),
        "nobody is asked for a PIN in vain"
    );
    assert_eq!(tpm.lockout().unwrap().wrong_tries, 0);
}

pub(crate) fn a_policy_that_is_not_that_of_the_secret_is_refused_before_the_pin_is_used(
    back_end: BackEnd,
) {
    let swtpm = back_end.swtpm();
    let mut tpm = back_end.connect(&swtpm);
    let (root, sealed) = seal(&mut *tpm, Some(b"1234"));
    for policy in [
        Policy::default(),
        open_policy(false),
        Policy::new(vec![Assertion::AuthValue]),
    ] {
        let told = tpm.unseal(&root, &sealed, &policy, Some(&auth(b"1234")));
        assert!(matches!(told, Err(TpmError::PolicyMismatch { .. })));
    }
    assert_eq!(tpm.lockout().unwrap().wrong_tries, 0);
}

pub(crate) fn another_tpm_is_told_from_a_damaged_secret(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let (root, sealed) = seal(&mut *back_end.connect(&swtpm), None);
    let other = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&other);
        let told = tpm.unseal(&root, &sealed, &open_policy(false), None);
        assert!(matches!(told, Err(TpmError::WrongTpm { .. })), "no key");
        tpm.storage_root().unwrap();
        let told = tpm.unseal(&root, &sealed, &open_policy(false), None);
        assert!(matches!(told, Err(TpmError::WrongTpm { .. })), "other key");
        let own = tpm.storage_root().unwrap();
        let told = tpm.unseal(&own, &sealed, &open_policy(false), None);
        assert!(
            matches!(told, Err(TpmError::Damaged { .. })),
            "other parent"
        );
    }
    assert_eq!(other.left_behind().len(), 0);
    let mut tpm = back_end.connect(&swtpm);
    for at in 0..sealed.private.len() {
        if at % 16 != 0 {
            continue;
        }
        let mut damaged = sealed.clone();
        damaged.private[at] ^= 1;
        let told = tpm.unseal(&root, &damaged, &open_policy(false), None);
        assert!(matches!(told, Err(TpmError::Damaged { .. })), "byte {at}");
    }
    drop(tpm);
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn legacy_primaries_are_made_anew_each_time(back_end: BackEnd) {
    for template in [PrimaryTemplate::LegacyEcc, PrimaryTemplate::LegacyRsa] {
        a_legacy_primary_is_made_anew_each_time(back_end, template);
    }
}

fn a_legacy_primary_is_made_anew_each_time(back_end: BackEnd, template: PrimaryTemplate) {
    let swtpm = back_end.swtpm();
    let key = StorageKey::Primary(template);
    let sealed = {
        let mut tpm = back_end.connect(&swtpm);
        let lock = Lock {
            policy: current(&mut *tpm, false).digest().unwrap(),
            auth: None,
            counts_tries: true,
        };
        tpm.seal(&key, &secret(SECRET), &lock).unwrap()
    };
    assert_eq!(swtpm.left_behind().len(), 0);
    let mut tpm = back_end.connect(&swtpm);
    let back = tpm.unseal(&key, &sealed, &open_policy(false), None);
    assert_eq!(back.unwrap().expose(), SECRET);
    drop(tpm);
    let other = back_end.swtpm();
    let told = back_end
        .connect(&other)
        .unseal(&key, &sealed, &open_policy(false), None);
    assert!(matches!(told, Err(TpmError::WrongTpm { .. })));
    assert_eq!(other.left_behind().len(), 0);
}

pub(crate) fn nonsense_is_refused(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let mut tpm = back_end.connect(&swtpm);
    let root = tpm.storage_root().unwrap();
    let lock = Lock {
        policy: Digest::ZERO,
        auth: None,
        counts_tries: false,
    };
    for len in [0, 129] {
        let told = tpm.seal(&root, &secret(&vec![1; len]), &lock);
        assert!(matches!(told, Err(TpmError::Misuse { .. })));
    }
    let short = tpm.extend_pcr(HashAlg::Sha256, 16, &[1; 20]);
    assert!(matches!(short, Err(TpmError::Misuse { .. })));
    let sha512 = PcrSelection::new(HashAlg::Sha512, &[7]).unwrap();
    if !tpm.banks().unwrap().contains(&HashAlg::Sha512) {
        let told = tpm.read_pcrs(&sha512);
        assert!(matches!(told, Err(TpmError::NoSuchBank { bank: "sha512" })));
    }
    let all: Vec<u8> = (0..24).collect();
    let all = PcrSelection::new(HashAlg::Sha256, &all).unwrap();
    let values = tpm.read_pcrs(&all).unwrap();
    assert!(all.pcrs().all(|pcr| values.get(pcr).is_some()));
}
