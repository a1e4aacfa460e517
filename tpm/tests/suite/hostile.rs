//! A bus that lies, and a TPM that fails: nothing is believed, nothing is left behind.

use luksmith_tpm::transport::{Stream, Transport};
use luksmith_tpm::{AuthValue, Native, Policy, Sealed, StorageKey, Tpm, TpmError};

use crate::sealing::{current, open_policy};
use crate::support::{Swtpm, auth, secret};

const SECRET: &[u8] = b"thirty-two bytes, quite a secret";

/// Changes the `at`-th exchange.
struct Interposer<F> {
    inner: Stream,
    at: usize,
    count: usize,
    change: F,
}

/// What becomes of one exchange: the TPM, the command.
trait Change: FnMut(&mut Stream, &[u8]) -> Result<Vec<u8>, TpmError> + Send {}
impl<F: FnMut(&mut Stream, &[u8]) -> Result<Vec<u8>, TpmError> + Send> Change for F {}

impl<F: Change> Transport for Interposer<F> {
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.count += 1;
        if self.count == self.at {
            (self.change)(&mut self.inner, command)
        } else {
            self.inner.transact(command)
        }
    }
}

fn between<F: Change>(swtpm: &Swtpm, at: usize, change: F) -> Native<Interposer<F>> {
    Native::over(Interposer {
        inner: swtpm.connect(),
        at,
        count: 0,
        change,
    })
}

fn sealed(swtpm: &Swtpm) -> (StorageKey, Sealed, AuthValue) {
    let mut tpm = Native::over(swtpm.connect());
    let root = tpm.storage_root().unwrap();
    let pin = auth(b"1234");
    let lock = luksmith_tpm::Lock {
        policy: current(&mut tpm, true).digest().unwrap(),
        auth: Some(&pin),
        counts_tries: true,
    };
    let sealed = tpm.seal(&root, &secret(SECRET), &lock).unwrap();
    (root, sealed, pin)
}

/// Exchanges of one unseal with PCRs and a PIN. The first one in the life of a TPM does not count:
/// swtpm answers its first use of a PIN by "again".
fn exchanges(swtpm: &Swtpm) -> usize {
    let (root, sealed, pin) = self::sealed(swtpm);
    let (recorder, recording) = luksmith_tpm::transport::Recorder::new(swtpm.connect());
    let mut tpm = Native::over(recorder);
    let mut before = 0;
    for _ in 0..2 {
        before = recording.frames().len();
        tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin))
            .unwrap();
    }
    (recording.frames().len() - before) / 2
}

const FAILURE: &[u8] = b"\x80\x01\0\0\0\x0A\0\0\x01\x01";

#[test]
fn whatever_command_fails_nothing_is_left_in_the_tpm() {
    let swtpm = Swtpm::new();
    let count = exchanges(&swtpm);
    let (root, sealed, pin) = sealed(&swtpm);
    let policy: Policy = open_policy(true);
    let mut flushes = 0;
    for at in 1..=count {
        let mut flush = false;
        let mut tpm = between(&swtpm, at, |stream: &mut Stream, command: &[u8]| {
            if command[6..10] == [0, 0, 0x01, 0x65] {
                // A flush that fails cannot be made good; it is carried out and then denied.
                flush = true;
                stream.transact(command)?;
            }
            Ok(FAILURE.to_vec())
        });
        let told = tpm.unseal(&root, &sealed, &policy, Some(&pin));
        assert!(told.is_err(), "exchange {at} of {count} failed unnoticed");
        drop(tpm);
        flushes += usize::from(flush);
        assert_eq!(swtpm.left_behind().len(), 0, "after exchange {at} failed");
    }
    assert_eq!(flushes, 2, "of the object and of the session");
}

#[test]
fn a_broken_transport_is_an_error_everywhere() {
    let swtpm = Swtpm::new();
    let count = exchanges(&swtpm);
    let (root, sealed, pin) = sealed(&swtpm);
    for at in 1..=count {
        let mut tpm = between(&swtpm, at, |_: &mut Stream, _: &[u8]| {
            Err(TpmError::Transport(std::io::ErrorKind::BrokenPipe.into()))
        });
        let told = tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin));
        assert!(matches!(told, Err(TpmError::Transport(_))), "exchange {at}");
    }
}

/// No single changed bit of any answer gives another secret, and none makes a panic.
#[test]
fn a_changed_answer_never_gives_another_secret() {
    let swtpm = Swtpm::new();
    let count = exchanges(&swtpm);
    let (root, sealed, pin) = sealed(&swtpm);
    let mut refused = 0;
    for at in 1..=count {
        for position in [
            0_usize,
            1,
            5,
            9,
            11,
            13,
            15,
            17,
            30,
            45,
            47,
            60,
            80,
            usize::MAX,
        ] {
            let mut tpm = between(&swtpm, at, |stream: &mut Stream, command: &[u8]| {
                let mut answer = stream.transact(command)?;
                let last = answer.len() - 1;
                answer[position.min(last)] ^= 0x10;
                Ok(answer)
            });
            match tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin)) {
                Ok(secret) => assert_eq!(secret.expose(), SECRET, "{at} {position}"),
                Err(_) => refused += 1,
            }
            // What a changed handle leaves behind is not ours to know: off and on again.
            drop(tpm);
            for handle in swtpm.left_behind() {
                let flush = format!("80010000000e00000165{handle:08x}");
                crate::support::raw(&mut swtpm.connect(), &flush);
            }
        }
    }
    assert!(refused > count * 4, "{refused}");
}

#[test]
fn an_answer_to_unseal_is_authentic_or_refused() {
    let swtpm = Swtpm::new();
    let count = exchanges(&swtpm);
    let (root, sealed, pin) = sealed(&swtpm);
    let unseal = (1..=count)
        .find(|at| {
            let mut found = false;
            let mut tpm = between(&swtpm, *at, |stream: &mut Stream, command: &[u8]| {
                found = command[6..10] == [0, 0, 0x01, 0x5E];
                stream.transact(command)
            });
            tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin))
                .unwrap();
            drop(tpm);
            found
        })
        .expect("there is an unseal");
    // Behind header, parameter size and size of the secret: each byte of it, nonce and HMAC.
    for position in 16..110 {
        let mut tpm = between(&swtpm, unseal, |stream: &mut Stream, command: &[u8]| {
            let mut answer = stream.transact(command)?;
            assert!(answer.len() > 110);
            answer[position] ^= 1;
            Ok(answer)
        });
        let told = tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin));
        assert!(
            matches!(
                told,
                Err(TpmError::Tampered { .. } | TpmError::Garbage { .. })
            ),
            "byte {position}: {:?}",
            told.err()
        );
    }
}

/// `TPM2_Unseal` without a session would be answered in the clear: an interposer that takes the
/// session out, or its wish for encryption, is refused by the TPM.
#[test]
fn a_session_cannot_be_taken_out_of_a_command() {
    let swtpm = Swtpm::new();
    let count = exchanges(&swtpm);
    let (root, sealed, pin) = sealed(&swtpm);
    let mut tried = false;
    for at in 1..=count {
        let mut tpm = between(&swtpm, at, |stream: &mut Stream, command: &[u8]| {
            let mut command = command.to_vec();
            if command[6..10] == [0, 0, 0x01, 0x5E] {
                // header, handle, size of the area, session, nonce: then the attributes.
                let attributes = 10 + 4 + 4 + 4 + 2 + 32;
                assert_eq!(command[attributes], 0x41);
                command[attributes] = 0x01;
                tried = true;
            }
            stream.transact(&command)
        });
        let done = tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin));
        drop(tpm);
        assert_eq!(done.is_err(), tried, "exchange {at}");
        if tried {
            return;
        }
    }
    panic!("no unseal was sent");
}

#[test]
fn a_busy_tpm_gets_the_same_frame_again() {
    let swtpm = Swtpm::new();
    let count = exchanges(&swtpm);
    let (root, sealed, pin) = sealed(&swtpm);
    for at in 1..=count {
        let mut first: Option<Vec<u8>> = None;
        let mut tpm = between(&swtpm, at, |_: &mut Stream, command: &[u8]| {
            first = Some(command.to_vec());
            Ok(b"\x80\x01\0\0\0\x0A\0\0\x09\x22".to_vec())
        });
        let back = tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin));
        assert_eq!(back.unwrap().expose(), SECRET);
        drop(tpm);
        assert!(first.is_some());
    }
}

#[test]
fn an_old_tpm_is_named_as_such() {
    let swtpm = Swtpm::new();
    let mut tpm = between(&swtpm, 1, |_: &mut Stream, _: &[u8]| {
        Ok(b"\x00\xC4\0\0\0\x0A\0\0\0\x1E".to_vec())
    });
    let told = tpm.storage_root().err().unwrap();
    assert!(told.to_string().contains("1.2"), "{told}");
}
