//! A new slot that a TPM opens.

use luksmith_crypto::{Hash, Passphrase, SecretBytes, VolumeKey, random};
use luksmith_keyslot::{Added, KdfChoice, NewSlot, PlanError, add_with};
use luksmith_luks2::Header;
use serde_json::Value;

use super::pin::passphrase;
use super::{Pin, SystemdTpm2};
use crate::error::TpmError;
use crate::hash::HashAlg;
use crate::pcr::PcrSelection;
use crate::policy::{Assertion, Policy};
use crate::tpm::{Lock, PrimaryTemplate, StorageKey, Tpm};

/// Bytes of what is sealed: as much as a key of 256 bits.
const SECRET_BYTES: usize = 32;
/// Bytes of the salt of a PIN.
const SALT_BYTES: usize = 32;

/// What the slot shall be bound to.
pub struct Enrolment<'a> {
    /// Bank of the PCRs.
    pub bank: HashAlg,
    /// Literal PCRs, to the values that they have now.
    pub pcrs: &'a [u8],
    /// The PIN, and how it is used.
    pub pin: Option<(&'a Passphrase, NewPin)>,
    /// Seal under a primary key as systemd 252 knows it, instead of the storage root key.
    pub legacy_primary: bool,
}

/// How a new PIN is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewPin {
    /// With a part in the key: systemd 262 and newer can use it.
    Argon2id {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes.
        iterations: u32,
        /// Lanes.
        lanes: u32,
    },
    /// By PBKDF2, to the TPM alone: systemd 253 and newer.
    Salted,
    /// Hashed only: systemd 252, too.
    Plain,
}

impl Default for NewPin {
    /// The costs of systemd 262.
    fn default() -> Self {
        Self::Argon2id {
            memory_kib: 64 * 1024,
            iterations: 8,
            lanes: 4,
        }
    }
}

/// What was sealed, tried, and can be put into a header.
pub struct Enrolled {
    passphrase: Passphrase,
    token: SystemdTpm2,
    /// The token as it is written, but for the number of its slot.
    json: Value,
}

impl Enrolled {
    /// What the slot is to be opened by.
    #[must_use]
    pub fn passphrase(&self) -> &Passphrase {
        &self.passphrase
    }

    /// The token that leads to it.
    #[must_use]
    pub fn token(&self) -> &SystemdTpm2 {
        &self.token
    }
}

/// Seals a random secret and unseals it again, so that nothing is enrolled that does not open.
///
/// # Errors
/// [`TpmError::Misuse`] for neither a PCR nor a PIN: then whoever has the machine has the key;
/// [`TpmError::NoSuchBank`]; those of [`Tpm::seal`] and [`Tpm::unseal`].
pub fn enrol(tpm: &mut dyn Tpm, enrolment: &Enrolment<'_>) -> Result<Enrolled, TpmError> {
    if enrolment.pcrs.is_empty() && enrolment.pin.is_none() {
        return Err(TpmError::Misuse {
            what: "a slot that is bound to no PCR and no PIN",
        });
    }
    let under = if enrolment.legacy_primary {
        StorageKey::Primary(PrimaryTemplate::LegacyEcc)
    } else {
        tpm.storage_root()?
    };
    let pin = match &enrolment.pin {
        None => Pin::None,
        Some((_, how)) => new_pin(*how)?,
    };
    let proof = pin.prove(enrolment.pin.map(|(pin, _)| pin))?;
    let policy = policy_now(tpm, enrolment.bank, enrolment.pcrs, &pin)?;
    let digest = policy.digest()?;
    let lock = Lock {
        policy: digest,
        auth: proof.as_ref().map(|proof| &proof.auth),
        counts_tries: pin.is_needed(),
    };
    let secret = SecretBytes::random(SECRET_BYTES)?;
    let sealed = tpm.seal(&under, &secret, &lock)?;
    let back = tpm.unseal(&under, &sealed, &policy, lock.auth)?;
    if !back.ct_eq(&secret) {
        return Err(TpmError::Garbage {
            what: "what was sealed",
        });
    }
    let mut pcrs = enrolment.pcrs.to_vec();
    pcrs.sort_unstable();
    pcrs.dedup();
    let token = SystemdTpm2 {
        sealed: vec![sealed],
        pcrs,
        bank: Some(enrolment.bank),
        policies: vec![digest],
        under,
        pin,
        beyond: Vec::new(),
    };
    Ok(Enrolled {
        passphrase: passphrase(&secret, proof.as_ref())?,
        json: token.to_json(0)?,
        token,
    })
}

/// Plans the slot and its token, in one commit.
///
/// # Errors
/// Those of [`luksmith_keyslot::add`]; no room for a token.
pub fn plan_slot(
    header: &Header,
    key: &VolumeKey,
    enrolled: &Enrolled,
) -> Result<Added, PlanError> {
    let new = NewSlot {
        // The passphrase is 256 random bits: there is nothing to guess.
        kdf: KdfChoice::MachineSecret(Hash::Sha512),
        ..NewSlot::new(enrolled.passphrase())
    };
    add_with(header, key, &new, |metadata, slot| {
        let mut token = enrolled.json.clone();
        token["keyslots"] = vec![slot.to_string()].into();
        metadata.with_token(metadata.free_token()?, token)
    })
}

/// The policy for PCRs as they are, and a PIN if there is one.
pub(super) fn policy_now(
    tpm: &mut dyn Tpm,
    bank: HashAlg,
    pcrs: &[u8],
    pin: &Pin,
) -> Result<Policy, TpmError> {
    let mut assertions = Vec::new();
    if !pcrs.is_empty() {
        let selection = PcrSelection::new(bank, pcrs)?;
        let values = Some(tpm.read_pcrs(&selection)?.digest());
        assertions.push(Assertion::Pcrs { selection, values });
    }
    if pin.is_needed() {
        assertions.push(Assertion::AuthValue);
    }
    Ok(Policy::new(assertions))
}

fn new_pin(how: NewPin) -> Result<Pin, TpmError> {
    let mut salt = vec![0; SALT_BYTES];
    random::fill(&mut salt)?;
    Ok(match how {
        NewPin::Plain => Pin::Plain,
        NewPin::Salted => Pin::Salted { salt },
        NewPin::Argon2id {
            memory_kib,
            iterations,
            lanes,
        } => Pin::Argon2id {
            salt,
            memory_kib,
            iterations,
            lanes,
        },
    })
}
