//! Power-on self-test: known answers, once, before the first cipher or key derivation.
//!
//! Everything that computes with a key calls [`power_on`] first. A failure is sticky: nothing
//! of this crate works in the process any more, as FIPS 140-3 asks of a module.

use std::sync::{Mutex, OnceLock, PoisonError};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    Argon2Variant, CryptoError, Hash, Kdf, af, random,
    secret::SecretBytes,
    xts::{Direction, Xts},
};

/// Runs the self-test at the first call and answers from memory at every further one.
///
/// # Errors
/// [`CryptoError::SelfTest`] with the name of the first test that gave a wrong answer, for good.
/// A test that could not be done, for want of memory or of locked memory, says that and nothing
/// about the machine's arithmetic: the next call tries again.
pub fn power_on() -> Result<(), CryptoError> {
    static OUTCOME: OnceLock<Result<(), &'static str>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let answer =
        |outcome: &Result<(), &'static str>| outcome.map_err(|what| CryptoError::SelfTest { what });
    if let Some(outcome) = OUTCOME.get() {
        return answer(outcome);
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(outcome) = OUTCOME.get() {
        return answer(outcome);
    }
    let fault = *FAULT.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = match run(fault) {
        Ok(()) => Ok(()),
        Err(Failure::Wrong(test)) => Err(test),
        Err(Failure::NotDone(error)) => return Err(error),
    };
    answer(OUTCOME.get_or_init(|| outcome))
}

/// The names of all self-tests, in their order.
pub const TESTS: [&str; 14] = [
    "AES-128-XTS encryption",
    "AES-128-XTS decryption",
    "AES-256-XTS encryption",
    "AES-256-XTS decryption",
    "PBKDF2-HMAC-SHA-1",
    "PBKDF2-HMAC-SHA-224",
    "PBKDF2-HMAC-SHA-256",
    "PBKDF2-HMAC-SHA-384",
    "PBKDF2-HMAC-SHA-512",
    "Argon2i",
    "Argon2id",
    "AF splitter",
    "constant-time comparison",
    "random generator",
];

static FAULT: Mutex<Option<&'static str>> = Mutex::new(None);

/// Makes the self-test of that name see a flipped bit, if it has not run yet. It can only
/// make this crate refuse, never accept; it exists to prove that it would.
#[doc(hidden)]
pub fn flip_a_bit_in(test: &'static str) {
    *FAULT.lock().unwrap_or_else(PoisonError::into_inner) = Some(test);
}

type Outcome = Result<(), Failure>;

/// Why the self-test did not pass.
#[derive(Debug)]
enum Failure {
    /// The test of this name gave a wrong answer.
    Wrong(&'static str),
    /// A test could not be done.
    NotDone(CryptoError),
}

impl From<CryptoError> for Failure {
    fn from(error: CryptoError) -> Self {
        Self::NotDone(error)
    }
}

fn run(fault: Option<&'static str>) -> Outcome {
    let check = Check { fault };
    check.xts(TESTS[0], TESTS[1], 32, &XTS_128_SHA256)?;
    check.xts(TESTS[2], TESTS[3], 64, &XTS_256_SHA256)?;
    for ((test, hash), expected) in TESTS[4..9].iter().zip(Hash::ALL).zip(&PBKDF2) {
        let mut seen = [0; 20];
        hash.pbkdf2(b"password", b"salt", 2, &mut seen);
        check.same(test, &mut seen, expected)?;
    }
    check.argon2(TESTS[9], Argon2Variant::I, &ARGON2I)?;
    check.argon2(TESTS[10], Argon2Variant::Id, &ARGON2ID)?;
    check.af(TESTS[11])?;
    check.comparison(TESTS[12])?;
    check.random(TESTS[13])
}

struct Check {
    fault: Option<&'static str>,
}

impl Check {
    /// Compares a computed value, into which the fault is put if it is this test's.
    fn same(&self, test: &'static str, seen: &mut [u8], expected: &[u8]) -> Outcome {
        if self.fault == Some(test) {
            seen[0] ^= 1;
        }
        if seen == expected {
            Ok(())
        } else {
            Err(Failure::Wrong(test))
        }
    }

    /// A request of 67 sectors that crosses the 32-bit border of the tweak: every width of the
    /// cipher, whole and partial batches, more than one group. Its ciphertext is known by its
    /// hash (made with OpenSSL).
    fn xts(
        &self,
        encryption: &'static str,
        decryption: &'static str,
        key_len: u8,
        expected: &[u8; 32],
    ) -> Outcome {
        const SECTOR: usize = 512;
        const FIRST: u128 = 0xffff_fffe;
        let key: Vec<u8> = (0..key_len).collect();
        let plain: Vec<u8> = (0..=250).cycle().take(67 * SECTOR).collect();
        let xts = Xts::new(&key);
        let mut data = plain.clone();
        xts.crypt(
            Direction::Encrypt,
            data.as_mut_slice().into(),
            SECTOR,
            FIRST,
            1,
        );
        self.same(encryption, &mut Sha256::digest(&data), expected)?;
        xts.crypt(
            Direction::Decrypt,
            data.as_mut_slice().into(),
            SECTOR,
            FIRST,
            1,
        );
        self.same(decryption, &mut data, &plain)
    }

    /// RFC 9106 parameters of the examples, without secret and associated data.
    fn argon2(&self, test: &'static str, variant: Argon2Variant, expected: &[u8; 32]) -> Outcome {
        let kdf = Kdf::Argon2 {
            variant,
            time: 3,
            memory_kib: 32,
            lanes: 4,
        };
        let mut seen = kdf.derive_unchecked(&[1; 32], &[2; 16], 32)?;
        self.same(test, seen.expose_mut(), expected)
    }

    fn af(&self, test: &'static str) -> Outcome {
        let mut diffused = [0; 40];
        af::diffuse(&[0x22; 40], &mut diffused, Hash::Sha256);
        self.same(test, &mut diffused, &DIFFUSED)?;
        let key = || {
            SecretBytes::init_with(64, |key| {
                for (byte, value) in key.iter_mut().zip(0..) {
                    *byte = value;
                }
                Ok::<(), CryptoError>(())
            })
        };
        let round_trip = || {
            let split = af::split_with(&key()?, 3, Hash::Sha512, random::fill)?;
            Ok::<_, CryptoError>((key()?, af::merge_untested(&split, 64, 3, Hash::Sha512)?))
        };
        let (key, merged) = round_trip()?;
        if key.ct_eq(&merged) {
            Ok(())
        } else {
            Err(Failure::Wrong(test))
        }
    }

    fn comparison(&self, test: &'static str) -> Outcome {
        let mut seen = [
            [1, 2, 3].ct_eq(&[1, 2, 3]).unwrap_u8(),
            [1, 2, 3].ct_eq(&[1, 2, 4]).unwrap_u8(),
            [0, 2, 3].ct_eq(&[1, 2, 3]).unwrap_u8(),
        ];
        self.same(test, &mut seen, &[1, 0, 0])
    }

    /// A generator that is stuck gives the same bytes twice, or zeroes.
    fn random(&self, test: &'static str) -> Outcome {
        let mut draws = [[0; 32]; 2];
        for draw in &mut draws {
            random::fill(draw)?;
        }
        let mut healthy = [u8::from(
            draws[0] != draws[1] && draws.iter().all(|draw| draw != &[0; 32]),
        )];
        self.same(test, &mut healthy, &[1])
    }
}

/// SHA-256 of 67 sectors of 512 bytes under the key 00, 01, … 1f.
const XTS_128_SHA256: [u8; 32] =
    hex32(b"1892eb36bcf465e7bafbc2f610099ba142ebedb24ea793f86364ecfd451cac23");
/// The same under the key 00, 01, … 3f.
const XTS_256_SHA256: [u8; 32] =
    hex32(b"a414eaaf81241af1875647dd2dc600bfafccea96969bc5439cb7b14661455aa8");

/// PBKDF2 of "password", "salt", 2 iterations, 20 bytes (RFC 6070 case 2 and its analogues).
const PBKDF2: [[u8; 20]; 5] = [
    hex20(b"ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957"),
    hex20(b"93200ffa96c5776d38fa10abdf8f5bfc0054b971"),
    hex20(b"ae4d0c95af6b46d32d0adff928f06dd02a303f8e"),
    hex20(b"54f775c6d790f21930459162fc535dbf04a93918"),
    hex20(b"e1d9c16aa681708a45f5c7c4e215ceb66e011a2e"),
];

const ARGON2I: [u8; 32] =
    hex32(b"a9a7510e6db4d588ba3414cd0e094d480d683f97b9ccb612a544fe8ef65ba8e0");
const ARGON2ID: [u8; 32] =
    hex32(b"03aab965c12001c9d7d0d2de33192c0494b684bb148196d73c1df1acaf6d0c2e");

/// AF diffusion with SHA-256 of 40 bytes 22: the last block is short.
const DIFFUSED: [u8; 40] =
    hex40(b"4cd0c917a55d35b7679365c1c9523bbf6a88ad8807f68971bfce5f015d235be03f5e1623bb0223b0");

macro_rules! hex_constant {
    ($name:ident, $len:literal) => {
        const fn $name(digits: &[u8; 2 * $len]) -> [u8; $len] {
            let mut bytes = [0; $len];
            let mut at = 0;
            while at < $len {
                bytes[at] = nibble(digits[2 * at]) << 4 | nibble(digits[2 * at + 1]);
                at += 1;
            }
            bytes
        }
    };
}

hex_constant!(hex20, 20);
hex_constant!(hex32, 32);
hex_constant!(hex40, 40);

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => panic!("lower-case hexadecimal digits"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_self_test_passes() {
        run(None).unwrap();
    }

    #[test]
    fn a_flipped_bit_in_any_self_test_is_seen_by_that_test() {
        for test in TESTS {
            assert!(matches!(run(Some(test)), Err(Failure::Wrong(seen)) if seen == test));
        }
    }
}
