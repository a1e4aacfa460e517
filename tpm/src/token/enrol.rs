//! A new slot that a TPM opens.

use std::collections::BTreeMap;

use luksmith_crypto::{Hash, Passphrase, SecretBytes, VolumeKey, random};
use luksmith_keyslot::{Added, KdfChoice, NewSlot, PlanError, add_with};
use luksmith_luks2::Header;
use serde_json::Value;

use super::files::PolicyFiles;
use super::json::ascending;
use super::pcrlock::Pcrlock;
use super::pin::passphrase;
use super::policy::{heads, tail, tail_with};
use super::signatures::SignedPcrs;
use super::unlock::joined;
use super::{Pin, SystemdTpm2};
use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::hash::HashAlg;
use crate::pcr_list::FixedValue;
use crate::policy::{Assertion, Policy};
use crate::tpm::{Lock, PrimaryTemplate, StorageKey, Tpm};

/// Bytes of each part of what is sealed: as much as a key of 256 bits.
const SECRET_BYTES: usize = 32;
/// Bytes of the salt of a PIN.
const SALT_BYTES: usize = 32;

/// What the slot shall be bound to.
pub struct Enrolment<'a> {
    /// Bank of the PCRs.
    pub bank: HashAlg,
    /// Literal PCRs, to the values that they have now.
    pub pcrs: &'a [u8],
    /// Values that some of them will have instead when the slot is to open.
    pub values: BTreeMap<u8, FixedValue>,
    /// The PIN, and how it is used.
    pub pin: Option<(&'a Passphrase, NewPin)>,
    /// Seal under a primary key as systemd 252 knows it, instead of the storage root key.
    pub legacy_primary: bool,
    /// PCRs whose values have to be signed, of the same bank.
    pub signed: Option<SignedPcrs>,
    /// Whether PCRs have to be what pcrlock foresees, as its file and its NV index say.
    pub pcrlock: bool,
    /// Where signatures and the policy of pcrlock lie.
    pub files: PolicyFiles,
}

impl Default for Enrolment<'_> {
    /// Bound to nothing yet, which [`enrol`] refuses; bank SHA-256.
    fn default() -> Self {
        Self {
            bank: HashAlg::Sha256,
            pcrs: &[],
            values: BTreeMap::new(),
            pin: None,
            legacy_primary: false,
            signed: None,
            pcrlock: false,
            files: PolicyFiles::default(),
        }
    }
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

/// What was sealed, tried if it could be, and can be put into a header.
pub struct Enrolled {
    passphrase: Passphrase,
    token: SystemdTpm2,
    /// The token as it is written, but for the number of its slot.
    json: Value,
    untried: Option<TpmError>,
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

    /// Why it was not unsealed once: the machine is not in a state that somebody signed, that
    /// pcrlock foresees, or that was said, so that nobody knows yet whether it will open. `None` if it was tried.
    #[must_use]
    pub fn untried(&self) -> Option<&TpmError> {
        self.untried.as_ref()
    }
}

/// Seals a random secret and unseals it again, so that nothing is enrolled that does not open.
///
/// A policy with signed PCRs or pcrlock may be meant for a later boot. Where the machine does not
/// fulfil it now, [`Enrolled::untried`] says so; a caller should tell.
///
/// # Errors
/// [`TpmError::Misuse`] for neither a PCR nor a PIN: then whoever has the machine has the key;
/// [`TpmError::NoSuchBank`]; those of [`Tpm::seal`] and [`Tpm::unseal`]. With pcrlock also
/// [`TpmError::NoPolicyFile`], and [`TpmError::StalePolicy`] if file and index do not fit.
pub fn enrol(tpm: &mut dyn Tpm, enrolment: &Enrolment<'_>) -> Result<Enrolled, TpmError> {
    let bound_to_pcrs =
        !enrolment.pcrs.is_empty() || enrolment.signed.is_some() || enrolment.pcrlock;
    if !bound_to_pcrs && enrolment.pin.is_none() {
        return Err(TpmError::Misuse {
            what: "a slot that is bound to no PCR and no PIN",
        });
    }
    let signed = enrolment.signed.clone().map(checked).transpose()?;
    let pcrlock = enrolment
        .pcrlock
        .then(|| pcrlock_now(tpm, &enrolment.files))
        .transpose()?;
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
    let auth = proof.as_ref().map(|proof| &proof.auth);
    let (bank, pcrs) = (enrolment.bank, enrolment.pcrs);
    let tail = tail_with(tpm, bank, pcrs, &enrolment.values, &pin)?;
    let mut token = SystemdTpm2 {
        sealed: Vec::new(),
        pcrs: ascending(enrolment.pcrs.to_vec()),
        bank: Some(enrolment.bank),
        policies: Vec::new(),
        under,
        pin,
        signed,
        pcrlock,
        beyond: Vec::new(),
    };
    let mut parts = Vec::new();
    for head in heads(token.signed.as_ref(), token.pcrlock.as_ref()) {
        let forms = head.forms(&enrolment.files)?;
        let policy = forms[0].sealed_to(&tail).digest()?;
        let lock = Lock {
            policy,
            auth,
            counts_tries: token.pin.is_needed(),
        };
        let part = SecretBytes::random(SECRET_BYTES)?;
        token.sealed.push(tpm.seal(&token.under, &part, &lock)?);
        token.policies.push(policy);
        parts.push(part);
    }
    let secret = joined(&parts)?;
    let untried = match token.fitting_policies(tpm, &enrolment.files) {
        Ok(policies) => {
            let back = token.unseal_by(tpm, &policies, auth)?;
            if !back.ct_eq(&secret) {
                return Err(TpmError::Garbage {
                    what: "what was sealed",
                });
            }
            None
        }
        Err(error @ (TpmError::PolicyMismatch { .. } | TpmError::TooLate { .. }))
            if !enrolment.values.is_empty() =>
        {
            rehearse(tpm, &token, &tail, auth)?;
            Some(error)
        }
        // Literal PCRs were read just now, so this is about signed ones or pcrlock.
        Err(
            error @ (TpmError::NoPolicyFile { .. }
            | TpmError::NoSignature { .. }
            | TpmError::PolicyMismatch { .. }
            | TpmError::TooLate { .. }),
        ) if token.signed.is_some() || token.pcrlock.is_some() => Some(error),
        Err(error) => return Err(error),
    };
    Ok(Enrolled {
        passphrase: passphrase(&secret, proof.as_ref())?,
        json: token.to_json(0)?,
        token,
        untried,
    })
}

/// What can be tried of a slot for values that PCRs do not have now: the TPM computes the same digest of
/// the policy, and gives back what is sealed to the values that they have.
fn rehearse(
    tpm: &mut dyn Tpm,
    token: &SystemdTpm2,
    later: &[Assertion],
    auth: Option<&AuthValue>,
) -> Result<(), TpmError> {
    let later = Policy::new(later.to_vec());
    if tpm.trial(&later)? != later.digest()? {
        return Err(TpmError::Garbage {
            what: "digest of a policy",
        });
    }
    let bank = token.bank.unwrap_or(HashAlg::Sha256);
    let now = Policy::new(tail(tpm, bank, &token.pcrs, &token.pin)?);
    let lock = Lock {
        policy: now.digest()?,
        auth,
        counts_tries: token.pin.is_needed(),
    };
    let secret = SecretBytes::random(SECRET_BYTES)?;
    let sealed = tpm.seal(&token.under, &secret, &lock)?;
    let back = tpm.unseal(&token.under, &sealed, &now, auth)?;
    if back.ct_eq(&secret) {
        Ok(())
    } else {
        Err(TpmError::Garbage {
            what: "what was sealed",
        })
    }
}

/// Signed PCRs that a token can hold.
fn checked(mut signed: SignedPcrs) -> Result<SignedPcrs, TpmError> {
    signed.pcrs = ascending(signed.pcrs);
    if signed.pcrs.is_empty() {
        return Err(TpmError::Misuse {
            what: "signed values of no PCR",
        });
    }
    Ok(signed)
}

/// What pcrlock made, if file and index fit: a slot that was sealed to anything else would never
/// open.
fn pcrlock_now(tpm: &mut dyn Tpm, files: &PolicyFiles) -> Result<Pcrlock, TpmError> {
    let policy = files.pcrlock()?;
    let index = policy.index().ok_or_else(|| TpmError::Damaged {
        what: "pcrlock policy without nvHandle".to_owned(),
    })?;
    policy.check_index(tpm, index)?;
    Ok(Pcrlock {
        index: Some(index.clone()),
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
