//! What somebody with the machine in hand tries: another TPM in the place of this one, a reset and
//! the same measurements again, a PCR that moves at the right moment.

use luksmith_tpm::transport::{Frame, Recorder, Recording, Stream, Transport};
use luksmith_tpm::{AuthValue, HashAlg, Lock, Native, Sealed, StorageKey, Tpm, TpmError};

use crate::BackEnd;
use crate::sealing::{current, open_policy};
use crate::support::{Swtpm, auth, raw, secret};

const SECRET: &[u8] = b"thirty-two bytes, quite a secret";
const READ_PUBLIC: u32 = 0x173;
const UNSEAL: u32 = 0x15E;
const START_AUTH_SESSION: u32 = 0x176;

/// What the firmware measures at each start.
fn measure(tpm: &mut dyn Tpm) {
    for (pcr, digest) in [(7, [7; 32]), (16, [16; 32])] {
        tpm.extend_pcr(HashAlg::Sha256, pcr, &digest).unwrap();
    }
}

/// A secret of this machine as it is now, with a PIN or without.
fn seal(tpm: &mut dyn Tpm, pin: Option<&AuthValue>) -> (StorageKey, Sealed) {
    let root = tpm.storage_root().unwrap();
    let lock = Lock {
        policy: current(tpm, pin.is_some()).digest().unwrap(),
        auth: pin,
        counts_tries: pin.is_some(),
    };
    let sealed = tpm.seal(&root, &secret(SECRET), &lock).unwrap();
    (root, sealed)
}

fn code_of(command: &[u8]) -> u32 {
    u32::from_be_bytes(command[6..10].try_into().unwrap())
}

fn commands(recording: &Recording) -> Vec<u32> {
    let frames = recording.frames().into_iter();
    frames
        .filter_map(|frame| match frame {
            Frame::Command(bytes) => Some(code_of(&bytes)),
            Frame::Answer(_) => None,
        })
        .collect()
}

#[test]
fn a_tpm_in_the_place_of_ours_is_refused_before_a_pin_is_of_use_to_it() {
    let pin = auth(b"1234");
    let ours = Swtpm::new();
    let (root, sealed) = seal(&mut Native::over(ours.connect()), Some(&pin));

    let other = Swtpm::new();
    let (recorder, recording) = Recorder::new(other.connect());
    let mut tpm = Native::over(recorder);
    let none_there = tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin));
    assert!(matches!(none_there, Err(TpmError::WrongTpm { .. })));
    // It makes a storage root key of its own, at the same place.
    tpm.storage_root().unwrap();
    let before = commands(&recording).len();
    let told = tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin));
    assert!(matches!(told, Err(TpmError::WrongTpm { .. })));
    assert_eq!(commands(&recording)[before..], [READ_PUBLIC]);
}

/// Shows the public area of the real key, which is no secret, and has another TPM answer the rest.
struct Impostor {
    real: Stream,
    own: Stream,
}

impl Transport for Impostor {
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        let stream = match code_of(command) {
            READ_PUBLIC => &mut self.real,
            _ => &mut self.own,
        };
        stream.transact(command)
    }
}

#[test]
fn whoever_shows_our_key_without_having_it_gets_nothing_and_no_pin() {
    let pin = auth(b"1234");
    let (real, fake) = (Swtpm::new(), Swtpm::new());
    let (root, sealed) = seal(&mut Native::over(real.connect()), Some(&pin));
    Native::over(fake.connect()).storage_root().unwrap();

    let impostor = Impostor {
        real: real.connect(),
        own: fake.connect(),
    };
    let (recorder, recording) = Recorder::new(impostor);
    let mut tpm = Native::over(recorder);
    let told = tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin));
    assert!(told.is_err());
    assert!(
        !commands(&recording).contains(&UNSEAL),
        "no proof of the PIN was sent"
    );

    // Nor does it get a new secret to keep: what is created goes to the real key alone.
    let lock = Lock {
        policy: open_policy(true)
            .digest()
            .unwrap_or(luksmith_tpm::Digest::ZERO),
        auth: Some(&pin),
        counts_tries: true,
    };
    let told = tpm.seal(&root, &secret(SECRET), &lock);
    assert!(told.is_err());
    assert!(commands(&recording).contains(&START_AUTH_SESSION));
    for frame in recording.frames() {
        let (Frame::Command(bytes) | Frame::Answer(bytes)) = frame;
        assert!(!bytes.windows(8).any(|part| part == &SECRET[..8]));
    }
}

/// TPM2_Startup after a reset of the chip alone, while the machine runs, or a machine that boots
/// whatever the thief likes and tells the TPM what ours would have told.
pub(crate) fn a_reset_and_the_same_measurements_open_what_needs_no_pin(back_end: BackEnd) {
    let mut swtpm = back_end.swtpm();
    let pin = auth(b"1234");
    let mut tpm = back_end.connect(&swtpm);
    measure(&mut *tpm);
    let (root, unattended) = seal(&mut *tpm, None);
    let (_, with_pin) = seal(&mut *tpm, Some(&pin));
    drop(tpm);
    swtpm.restart();
    let mut tpm = back_end.connect(&swtpm);
    let told = tpm.unseal(&root, &unattended, &open_policy(false), None);
    assert!(matches!(told, Err(TpmError::PolicyMismatch { .. })));
    measure(&mut *tpm);
    // This is what unattended means; the documentation says so.
    let opened = tpm.unseal(&root, &unattended, &open_policy(false), None);
    assert_eq!(opened.unwrap().expose(), SECRET);
    // A PIN is not among the measurements.
    let told = tpm.unseal(&root, &with_pin, &open_policy(true), None);
    assert!(matches!(told, Err(TpmError::PinNeeded)));
}

pub(crate) fn a_reset_gives_no_tries_back(back_end: BackEnd) {
    let mut swtpm = back_end.swtpm();
    let pin = auth(b"1234");
    let mut tpm = back_end.connect(&swtpm);
    measure(&mut *tpm);
    let (root, sealed) = seal(&mut *tpm, Some(&pin));
    let tries = tpm.lockout().unwrap().tries_left();
    drop(tpm);
    for left in (0..tries).rev() {
        let mut tpm = back_end.connect(&swtpm);
        let wrong = tpm.unseal(&root, &sealed, &open_policy(true), Some(&auth(b"4321")));
        assert!(matches!(wrong, Err(TpmError::WrongPin { counted: true })));
        drop(tpm);
        swtpm.restart();
        let mut tpm = back_end.connect(&swtpm);
        measure(&mut *tpm);
        assert_eq!(tpm.lockout().unwrap().tries_left(), left);
    }
    let mut tpm = back_end.connect(&swtpm);
    let right = tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin));
    assert!(matches!(right, Err(TpmError::LockedOut { .. })));
}

/// Extends a PCR just before the first `times` unseals arrive.
struct Meanwhile {
    inner: Stream,
    pcr: u8,
    times: usize,
}

impl Transport for Meanwhile {
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        if code_of(command) == UNSEAL && self.times > 0 {
            self.times -= 1;
            let digest = "ab".repeat(32);
            // TPM2_PCR_Extend by the empty password, in the bank of SHA-256.
            let extend = format!(
                "80020000004100000182{:08x}0000000940000009000000000000000001000b{digest}",
                self.pcr
            );
            let answer = raw(&mut self.inner, &extend.replace(' ', ""));
            assert_eq!(answer[6..10], [0; 4], "{answer:x?}");
        }
        self.inner.transact(command)
    }
}

fn unseal_while(swtpm: &Swtpm, pcr: u8, times: usize) -> Result<Vec<u8>, TpmError> {
    let pin = auth(b"1234");
    let (root, sealed) = seal(&mut Native::over(swtpm.connect()), Some(&pin));
    let mut tpm = Native::over(Meanwhile {
        inner: swtpm.connect(),
        pcr,
        times,
    });
    let done = tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin));
    assert_eq!(tpm.lockout().unwrap().wrong_tries, 0, "no try was spent");
    done.map(|secret| secret.expose().to_vec())
}

#[test]
fn a_pcr_that_changes_after_the_policy_was_carried_out_closes_the_secret() {
    let swtpm = Swtpm::new();
    let told = unseal_while(&swtpm, 7, 1);
    assert!(
        matches!(told, Err(TpmError::PolicyMismatch { .. })),
        "{told:?}"
    );
    assert_eq!(swtpm.left_behind().len(), 0);
}

/// PCRs 16 and 21 to 23 can be reset by anybody, and no TPM notices when they move.
#[test]
fn a_pcr_for_debugging_may_change_after_the_policy_was_carried_out() {
    let swtpm = Swtpm::new();
    assert_eq!(unseal_while(&swtpm, 16, 1).unwrap(), SECRET);
}

#[test]
fn a_pcr_that_nothing_is_bound_to_may_move_meanwhile() {
    let swtpm = Swtpm::new();
    assert_eq!(unseal_while(&swtpm, 8, 5).unwrap(), SECRET);
    let endless = unseal_while(&swtpm, 8, usize::MAX);
    let Err(TpmError::PolicyMismatch { detail }) = endless else {
        panic!("{endless:?}");
    };
    assert!(detail.contains("do not stand still"), "{detail}");
    assert_eq!(swtpm.left_behind().len(), 0);
}
