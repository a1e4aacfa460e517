//! The order of tokens and what their failures lead to, with a device that is a map of secrets.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use luksmith_crypto::Passphrase;
use luksmith_keyslot::{
    OpenLimits, Outcome, PinRequest, ReadError, Target, TokenError, TokenUnlock, Tried,
    UnlockError, UnlockErrorKind, Unlocked, Which, set_priority, tokens_to_try, unlock_by_tokens,
};
use luksmith_luks2::{Priority, Token};
use serde_json::json;

use crate::disk::{Disk, pass};
use crate::opening::with_slots;

/// Answers by the token's member `says`; with `pin`, only to the PIN "1234".
struct Device {
    secrets: HashMap<&'static str, &'static str>,
    calls: RefCell<Vec<String>>,
}

impl Device {
    fn new() -> Self {
        Self {
            secrets: HashMap::from([("a", "one"), ("b", "two"), ("c", "three")]),
            calls: RefCell::default(),
        }
    }
}

impl TokenUnlock for Device {
    fn kinds(&self) -> &[&str] {
        &["fake"]
    }

    fn unlock(
        &self,
        token: &Token,
        pin: &mut dyn FnMut(PinRequest<'_>) -> Option<Passphrase>,
    ) -> Result<Passphrase, TokenError> {
        let says = token.raw["says"].as_str().unwrap_or_default();
        self.calls.borrow_mut().push(says.to_owned());
        if token.raw.get("pin").is_some() {
            let what = PinRequest {
                kind: "fake",
                what: "PIN",
                tries_left: Some(3),
            };
            let given = pin(what).ok_or(TokenError::PinNeeded)?;
            if given.expose() != b"1234" {
                return Err(TokenError::WrongPin);
            }
        }
        match says {
            "absent" => Err(TokenError::NotPresent),
            "locked" => Err(TokenError::LockedOut {
                remaining: Some(Duration::from_secs(60)),
            }),
            "policy" => Err(TokenError::PolicyMismatch("PCR 7".into())),
            "broken" => Err(TokenError::Damaged("no blob".into())),
            secret => {
                let secret = self.secrets.get(secret).ok_or(TokenError::WrongSecret)?;
                Ok(pass(secret))
            }
        }
    }
}

fn no_pin(_: PinRequest<'_>) -> Option<Passphrase> {
    None
}

fn walk(disk: &Disk, which: Which, device: &Device) -> Result<Unlocked, UnlockError> {
    walk_with(disk, which, None, device, &mut no_pin)
}

fn walk_with(
    disk: &Disk,
    which: Which,
    kind: Option<&str>,
    device: &Device,
    pin: &mut dyn FnMut(PinRequest<'_>) -> Option<Passphrase>,
) -> Result<Unlocked, UnlockError> {
    let mut read = |area, len| Ok::<_, ReadError>(disk.area(area, len));
    let limits = OpenLimits::default();
    unlock_by_tokens(
        &disk.header,
        which,
        kind,
        Target::Data,
        &[device],
        pin,
        &mut read,
        &limits,
    )
}

/// Slots 0 "one", 1 "two", 2 "three"; tokens as given: says, slots.
fn volume(tokens: &[(&str, &[&str])]) -> Disk {
    let mut disk = with_slots(&["one", "two", "three"]);
    disk.forge(|json| {
        for (number, (says, slots)) in tokens.iter().enumerate() {
            json["tokens"][number.to_string()] =
                json!({"type": "fake", "says": says, "keyslots": slots});
        }
    });
    disk
}

#[test]
fn a_token_opens_its_slot() {
    let disk = volume(&[("b", &["1"])]);
    let opened = walk(&disk, Which::ByPriority, &Device::new()).unwrap();
    assert_eq!(opened.slot, Some(1));
}

#[test]
fn tokens_of_preferred_slots_come_first_and_those_of_ignored_ones_only_when_named() {
    let mut disk = volume(&[("a", &["0"]), ("b", &["1"]), ("c", &["2"])]);
    for (slot, priority) in [(0, Priority::Ignore), (2, Priority::Prefer)] {
        let change = set_priority(&disk.header, slot, priority).unwrap();
        disk.apply(&change);
    }
    assert_eq!(
        tokens_to_try(disk.metadata(), Which::ByPriority, Target::Data),
        [2, 1]
    );
    assert_eq!(
        walk(&disk, Which::ByPriority, &Device::new()).unwrap().slot,
        Some(2)
    );
    assert_eq!(
        walk(&disk, Which::Only(0), &Device::new()).unwrap().slot,
        Some(0)
    );
}

#[test]
fn a_token_without_a_slot_is_not_asked() {
    let disk = volume(&[("a", &[]), ("b", &["1"])]);
    let device = Device::new();
    walk(&disk, Which::ByPriority, &device).unwrap();
    assert_eq!(*device.calls.borrow(), ["b"]);
}

#[test]
fn a_token_that_fails_is_reported_and_the_next_one_is_asked() {
    let disk = volume(&[
        ("absent", &["0"]),
        ("policy", &["0"]),
        ("broken", &["0"]),
        ("c", &["2"]),
    ]);
    assert_eq!(
        walk(&disk, Which::ByPriority, &Device::new()).unwrap().slot,
        Some(2)
    );

    let disk = volume(&[("absent", &["0"]), ("policy", &["0"]), ("broken", &["0"])]);
    let error = walk(&disk, Which::ByPriority, &Device::new())
        .err()
        .unwrap();
    let tried: Vec<_> = error.attempts.iter().map(|attempt| attempt.tried).collect();
    assert_eq!(tried, [Tried::Token(0), Tried::Token(1), Tried::Token(2)]);
    assert!(matches!(
        error.attempts[0].outcome,
        Outcome::Token(TokenError::NotPresent)
    ));
    assert!(matches!(
        error.attempts[1].outcome,
        Outcome::Token(TokenError::PolicyMismatch(_))
    ));
    assert!(matches!(
        error.attempts[2].outcome,
        Outcome::Token(TokenError::Damaged(_))
    ));
    assert_eq!(
        error.kind,
        UnlockErrorKind::Device,
        "the device may come yet"
    );
}

/// A try that a device counts is worth something to its owner.
#[test]
fn a_locked_device_is_not_touched_again() {
    let disk = volume(&[("locked", &["0"]), ("b", &["1"]), ("c", &["2"])]);
    let device = Device::new();
    let error = walk(&disk, Which::ByPriority, &device).err().unwrap();
    assert_eq!(*device.calls.borrow(), ["locked"]);
    assert_eq!(error.attempts.len(), 3);
    for attempt in &error.attempts {
        assert!(matches!(
            attempt.outcome,
            Outcome::Token(TokenError::LockedOut { .. })
        ));
    }
}

#[test]
fn a_secret_that_does_not_fit_names_the_token_and_the_slot() {
    let disk = volume(&[("c", &["0", "1"])]);
    let error = walk(&disk, Which::ByPriority, &Device::new())
        .err()
        .unwrap();
    let tried: Vec<_> = error.attempts.iter().map(|attempt| attempt.tried).collect();
    assert_eq!(
        tried,
        [0, 1].map(|slot| Tried::SlotByToken { token: 0, slot }),
        "the secret of token 0 was tried on both of its slots"
    );
    assert_eq!(error.kind, UnlockErrorKind::WrongSecret);
}

#[test]
fn a_pin_is_asked_for_and_its_absence_is_told_from_a_wrong_one() {
    let mut disk = volume(&[]);
    disk.forge(|json| {
        json["tokens"]["0"] = json!({"type": "fake", "says": "a", "pin": true, "keyslots": ["0"]});
    });
    let device = Device::new();
    let ask = |text: &'static str| {
        walk_with(&disk, Which::ByPriority, None, &device, &mut |what| {
            assert_eq!((what.kind, what.tries_left), ("fake", Some(3)));
            Some(pass(text))
        })
    };
    assert_eq!(ask("1234").unwrap().slot, Some(0));
    assert_eq!(
        ask("0000").err().unwrap().kind,
        UnlockErrorKind::WrongSecret
    );
    let error = walk(&disk, Which::ByPriority, &device).err().unwrap();
    assert_eq!(error.kind, UnlockErrorKind::PinNeeded);
}

#[test]
fn kinds_that_nobody_knows_are_reported_and_a_kind_can_be_demanded() {
    let mut disk = volume(&[("a", &["0"])]);
    disk.forge(|json| {
        json["tokens"]["5"] = json!({"type": "clevis", "jwe": {}, "keyslots": ["1"]});
    });
    let device = Device::new();
    let error = walk(&disk, Which::Only(5), &device).err().unwrap();
    assert_eq!(error.kind, UnlockErrorKind::Unsupported);
    let error = walk_with(
        &disk,
        Which::ByPriority,
        Some("clevis"),
        &device,
        &mut no_pin,
    )
    .err()
    .unwrap();
    assert_eq!(
        (error.kind, error.attempts.len()),
        (UnlockErrorKind::Unsupported, 1)
    );
    let error = walk_with(
        &disk,
        Which::ByPriority,
        Some("other"),
        &device,
        &mut no_pin,
    )
    .err()
    .unwrap();
    assert_eq!(
        (error.kind, error.attempts.len()),
        (UnlockErrorKind::NothingToTry, 0)
    );
    let error = walk(&disk, Which::Only(9), &device).err().unwrap();
    assert_eq!(error.kind, UnlockErrorKind::NoSuchSlot);
    assert!(device.calls.borrow().is_empty());
}

#[test]
fn a_hostile_header_is_refused_before_any_token_is_asked() {
    let mut disk = volume(&[("a", &["0"])]);
    disk.forge(|json| json["segments"]["0"]["encryption"] = "cipher_null-ecb".into());
    let device = Device::new();
    let error = walk(&disk, Which::ByPriority, &device).err().unwrap();
    assert_eq!(error.kind, UnlockErrorKind::WeakCipher);
    assert!(device.calls.borrow().is_empty());
}
