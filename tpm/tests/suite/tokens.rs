//! Slots of a LUKS2 volume that a TPM opens, with the volume in memory.

#[path = "../../../keyslot/tests/keyslots/disk.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod disk;

use std::cell::Cell;

use luksmith_crypto::Passphrase;
use luksmith_keyslot::{
    OpenLimits, Outcome, PinRequest, ReadError, Target, TokenError, UnlockError, Unlocked, Which,
    unlock_by_tokens,
};
use luksmith_tpm::token::{Enrolment, KIND, NewPin, SystemdTpm2, TpmTokens, enrol, plan_slot};
use luksmith_tpm::{HashAlg, Tpm, TpmError};

use self::disk::{Disk, pass};
use crate::BackEnd;
use crate::support::Swtpm;

/// As cheap as Argon2id can be.
const CHEAP: NewPin = NewPin::Argon2id {
    memory_kib: 32,
    iterations: 1,
    lanes: 1,
};

/// A volume with the passphrase "first" in slot 0, and a TPM slot.
fn volume(tpm: &mut dyn Tpm, pin: Option<(&Passphrase, NewPin)>, legacy_primary: bool) -> Disk {
    let mut disk = Disk::formatted("first");
    let key = disk.open("first").unwrap().key;
    let enrolment = Enrolment {
        bank: HashAlg::Sha256,
        pcrs: &[16, 7],
        pin,
        legacy_primary,
        ..Enrolment::default()
    };
    let enrolled = enrol(tpm, &enrolment).unwrap();
    let added = plan_slot(&disk.header, &key, &enrolled).unwrap();
    assert_eq!(added.change.commits().count(), 1, "slot and token together");
    disk.apply(&added.change);
    disk
}

/// Opens by tokens alone.
fn unlock(
    back_end: BackEnd,
    swtpm: &Swtpm,
    disk: &Disk,
    pin: &mut dyn FnMut(PinRequest<'_>) -> Option<Passphrase>,
) -> Result<Unlocked, UnlockError> {
    let tokens = TpmTokens::new(|| Ok(back_end.connect(swtpm)));
    let mut read = |area, len| Ok::<_, ReadError>(disk.area(area, len));
    unlock_by_tokens(
        &disk.header,
        Which::ByPriority,
        None,
        Target::Data,
        &[&tokens],
        pin,
        &mut read,
        &OpenLimits::default(),
    )
}

/// Why the only token gave nothing.
fn why(done: Result<Unlocked, UnlockError>) -> TokenError {
    let mut error = done.err().expect("it does not open");
    assert_eq!(error.attempts.len(), 1, "{error:?}");
    match error.attempts.remove(0).outcome {
        Outcome::Token(error) => error,
        other => panic!("{other:?}"),
    }
}

fn nobody(_: PinRequest<'_>) -> Option<Passphrase> {
    panic!("nobody is to be asked")
}

pub(crate) fn a_volume_opens_by_the_state_of_the_machine(back_end: BackEnd) {
    for legacy_primary in [false, true] {
        let swtpm = back_end.swtpm();
        let disk = volume(&mut *back_end.connect(&swtpm), None, legacy_primary);
        let opened = unlock(back_end, &swtpm, &disk, &mut nobody).unwrap();
        assert_eq!(opened.slot, Some(1));
        let extended = back_end
            .connect(&swtpm)
            .extend_pcr(HashAlg::Sha256, 16, &[1; 32]);
        extended.unwrap();
        let told = why(unlock(back_end, &swtpm, &disk, &mut nobody));
        assert!(
            matches!(&told, TokenError::PolicyMismatch(detail) if detail.contains("7+16")),
            "{told}"
        );
        assert_eq!(swtpm.left_behind().len(), 0);
    }
}

pub(crate) fn a_volume_opens_by_a_pin_in_each_of_its_forms(back_end: BackEnd) {
    for how in [CHEAP, NewPin::Salted, NewPin::Plain] {
        let swtpm = back_end.swtpm();
        let pin = pass("1234");
        let disk = volume(&mut *back_end.connect(&swtpm), Some((&pin, how)), false);
        let asked = Cell::new(0);
        let mut right = |request: PinRequest<'_>| {
            asked.set(asked.get() + 1);
            assert_eq!((request.kind, request.tries_left), (KIND, Some(3)));
            Some(pass("1234"))
        };
        let opened = unlock(back_end, &swtpm, &disk, &mut right).unwrap();
        assert_eq!((opened.slot, asked.get()), (Some(1), 1), "{how:?}");
        let none = why(unlock(back_end, &swtpm, &disk, &mut |_| None));
        assert!(matches!(none, TokenError::PinNeeded));
        for left in (1..=3).rev() {
            let wrong = why(unlock(back_end, &swtpm, &disk, &mut |request| {
                assert_eq!(request.tries_left, Some(left));
                Some(pass("4321"))
            }));
            assert!(matches!(wrong, TokenError::WrongPin), "{wrong}");
        }
        let locked = why(unlock(back_end, &swtpm, &disk, &mut nobody));
        assert!(
            matches!(locked, TokenError::LockedOut { remaining: Some(_) }),
            "nobody is asked for a PIN that cannot be tried: {locked}"
        );
        assert_eq!(swtpm.left_behind().len(), 0);
    }
}

pub(crate) fn a_wrong_state_asks_for_no_pin(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let pin = pass("1234");
    let disk = volume(&mut *back_end.connect(&swtpm), Some((&pin, CHEAP)), false);
    let extended = back_end
        .connect(&swtpm)
        .extend_pcr(HashAlg::Sha256, 16, &[1; 32]);
    extended.unwrap();
    let told = why(unlock(back_end, &swtpm, &disk, &mut nobody));
    assert!(matches!(told, TokenError::PolicyMismatch(_)));
}

pub(crate) fn another_machine_does_not_open_it(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let disk = volume(&mut *back_end.connect(&swtpm), None, false);
    let other = back_end.swtpm();
    back_end.connect(&other).storage_root().unwrap();
    let told = why(unlock(back_end, &other, &disk, &mut nobody));
    let TokenError::Other(error) = told else {
        panic!("{told}");
    };
    assert!(matches!(
        error.downcast_ref(),
        Some(TpmError::WrongTpm { .. })
    ));
}

pub(crate) fn a_token_is_read_as_it_was_written(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let pin = pass("1234");
    for how in [CHEAP, NewPin::Salted, NewPin::Plain] {
        for legacy_primary in [false, true] {
            let mut tpm = back_end.connect(&swtpm);
            let disk = volume(&mut *tpm, Some((&pin, how)), legacy_primary);
            let token = &disk.metadata().tokens()[&0];
            assert_eq!((&*token.kind, &*token.keyslots), (KIND, &[1][..]));
            let read = SystemdTpm2::parse(token).unwrap();
            assert_eq!(read.pcrs, [7, 16]);
            assert_eq!(read.to_json(1).unwrap(), token.raw);
        }
    }
}

pub(crate) fn a_damaged_token_is_told_and_an_unknown_member_is_not_minded(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let pin = pass("1234");
    let whole = volume(&mut *back_end.connect(&swtpm), Some((&pin, CHEAP)), false);
    let mut with_more = Disk::with(plan());
    with_more.bytes.clone_from(&whole.bytes);
    with_more.header = whole.header.clone();
    with_more.forge(|json| json["tokens"]["0"]["tomorrow"] = 1.into());
    let mut right = |_: PinRequest<'_>| Some(pass("1234"));
    unlock(back_end, &swtpm, &with_more, &mut right).unwrap();
    for (member, value, unsupported) in [
        ("tpm2-blob", "AAAA".into(), false),
        ("tpm2-blob", serde_json::Value::Null, false),
        ("tpm2-blob", 7.into(), false),
        ("tpm2-pcrs", serde_json::json!([24]), false),
        ("tpm2-pcrs", serde_json::json!(["7"]), false),
        ("tpm2-policy-hash", "00".repeat(32).into(), false),
        ("tpm2-policy-hash", "0".into(), false),
        ("tpm2_srk", "gQAAAQ==".into(), false),
        ("tpm2_argon2id_lanes", serde_json::Value::Null, false),
        ("tpm2-pcr-bank", "md5".into(), true),
        ("tpm2_pcrlock", 7.into(), false),
        ("tpm2_pubkey_pcrs", serde_json::json!([11]), false),
        ("tpm2_pubkey", "AAAA".into(), false),
        ("tpm2_pubkey_ref", "initrd".into(), false),
        ("fido2-credential", "AAAA".into(), true),
    ] {
        let mut forged = Disk::with(plan());
        forged.header = whole.header.clone();
        forged.forge(|json| json["tokens"]["0"][member] = value.clone());
        let told = why(unlock(back_end, &swtpm, &forged, &mut nobody));
        let as_expected = match told {
            TokenError::Damaged(_) => !unsupported,
            TokenError::Unsupported(_) => unsupported,
            _ => false,
        };
        assert!(as_expected, "{member} {value}: {told}");
    }
}

fn plan() -> luksmith_keyslot::FormatPlan {
    let first = pass("first");
    luksmith_keyslot::plan_format(disk::request(&first)).unwrap()
}

pub(crate) fn nothing_is_enrolled_that_protects_nothing_or_does_not_open(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let mut tpm = back_end.connect(&swtpm);
    let enrolment = |pcrs| Enrolment {
        pcrs,
        ..Enrolment::default()
    };
    let none = enrol(&mut *tpm, &enrolment(&[]));
    assert!(matches!(none, Err(TpmError::Misuse { .. })));
    let beyond = enrol(&mut *tpm, &enrolment(&[24]));
    assert!(matches!(beyond, Err(TpmError::Misuse { .. })));
}
