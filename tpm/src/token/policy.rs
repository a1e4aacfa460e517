//! The policy of each part of a secret: what the token fixes, and how the machine fulfils it now.
//!
//! ```text
//! head   signed PCR values, or what the index of pcrlock holds, or nothing
//! tail   literal PCRs, then the PIN
//! ```
//!
//! A policy with both heads would hold by either one alone, since each forgets what was asserted
//! before it. So systemd makes two parts of the secret then, one for each head, in this order.

use std::collections::BTreeMap;

use super::files::PolicyFiles;
use super::pcrlock::{Pcrlock, PcrlockPolicy, authorized};
use super::signatures::{SignedPcrs, numbers};
use super::{Pin, SystemdTpm2};
use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::measure::IDENTITY_PCR;
use crate::pcr::{PcrSelection, PcrValues};
use crate::pcr_list::FixedValue;
use crate::policy::{Assertion, Policy, Signature, SignedPolicy};
use crate::tpm::Tpm;
use crate::wire::{NvPublic, Public};

/// What a policy begins with.
pub(super) enum Head<'a> {
    Nothing,
    Signed(&'a SignedPcrs),
    Pcrlock(&'a Pcrlock),
}

/// The heads of the parts of a secret.
pub(super) fn heads<'a>(
    signed: Option<&'a SignedPcrs>,
    pcrlock: Option<&'a Pcrlock>,
) -> Vec<Head<'a>> {
    let signed = signed.map(Head::Signed);
    let heads: Vec<Head<'a>> = signed
        .into_iter()
        .chain(pcrlock.map(Head::Pcrlock))
        .collect();
    if heads.is_empty() {
        vec![Head::Nothing]
    } else {
        heads
    }
}

/// Literal PCRs as they are now, and the PIN if there is one.
pub(super) fn tail(
    tpm: &mut dyn Tpm,
    bank: HashAlg,
    pcrs: &[u8],
    pin: &Pin,
) -> Result<Vec<Assertion>, TpmError> {
    tail_with(tpm, bank, pcrs, &BTreeMap::new(), pin)
}

/// Literal PCRs as was said, or else as they are now, and the PIN if there is one.
pub(super) fn tail_with(
    tpm: &mut dyn Tpm,
    bank: HashAlg,
    pcrs: &[u8],
    said: &BTreeMap<u8, FixedValue>,
    pin: &Pin,
) -> Result<Vec<Assertion>, TpmError> {
    let mut assertions = Vec::new();
    if !pcrs.is_empty() {
        let selection = PcrSelection::new(bank, pcrs)?;
        let mut values = tpm.read_pcrs(&selection)?;
        for (pcr, value) in said.iter().filter(|(pcr, _)| pcrs.contains(pcr)) {
            values.insert(*pcr, &value.in_bank(bank)?)?;
        }
        let values = Some(values.digest());
        assertions.push(Assertion::Pcrs { selection, values });
    }
    if pin.is_needed() {
        assertions.push(Assertion::AuthValue);
    }
    Ok(assertions)
}

/// A head whose digest is known.
pub(super) enum Settled<'a> {
    Nothing,
    Signed(&'a SignedPcrs, Box<Public>),
    Pcrlock(NvPublic),
}

impl<'a> Head<'a> {
    /// The forms that it may have, the one that is made today first.
    pub(super) fn forms(&self, files: &PolicyFiles) -> Result<Vec<Settled<'a>>, TpmError> {
        Ok(match *self {
            Self::Nothing => vec![Settled::Nothing],
            Self::Signed(signed) => {
                let keys = signed.key.public_areas()?.into_iter();
                keys.map(|key| Settled::Signed(signed, Box::new(key)))
                    .collect()
            }
            Self::Pcrlock(pcrlock) => vec![Settled::Pcrlock(index(pcrlock, files)?)],
        })
    }

    /// What is wrong with a token whose digest this head does not lead to, whatever PCRs are.
    fn foreign(&self) -> &'static str {
        match self {
            Self::Nothing => "tpm2-policy-hash is not one of this token's form",
            Self::Signed(_) => "tpm2-policy-hash is not that of tpm2_pubkey",
            Self::Pcrlock(_) => "tpm2-policy-hash is not that of tpm2_pcrlock_nv",
        }
    }
}

/// The index of the token, or of the file where the token does not say it.
fn index(pcrlock: &Pcrlock, files: &PolicyFiles) -> Result<NvPublic, TpmError> {
    if let Some(index) = &pcrlock.index {
        return Ok(index.clone());
    }
    let policy = files.pcrlock()?;
    policy.index().cloned().ok_or_else(|| TpmError::Damaged {
        what: "pcrlock policy without nvHandle".to_owned(),
    })
}

impl Settled<'_> {
    /// The policy by which something is sealed.
    pub(super) fn sealed_to(&self, tail: &[Assertion]) -> Policy {
        let head = match self {
            Self::Nothing => None,
            Self::Signed(signed, key) => Some(approved(signed, key, None)),
            Self::Pcrlock(index) => Some(authorized(index)),
        };
        Policy::new(head.into_iter().chain(tail.iter().cloned()).collect())
    }

    /// The policy by which it is unsealed now. What the TPM has to say to the head is asked here,
    /// so that nobody is asked for a PIN in vain.
    ///
    /// # Errors
    /// Those of reading the files; [`TpmError::NoSignature`]; [`TpmError::BadSignature`];
    /// [`TpmError::StalePolicy`]; [`TpmError::PolicyMismatch`]; [`TpmError::NoSuchIndex`].
    pub(super) fn fulfilled(
        &self,
        tpm: &mut dyn Tpm,
        files: &PolicyFiles,
        bank: HashAlg,
        tail: &[Assertion],
    ) -> Result<Policy, TpmError> {
        match self {
            Self::Nothing => Ok(self.sealed_to(tail)),
            Self::Signed(signed, key) => {
                let signatures = files.signatures()?;
                let present = signed.present(tpm, bank)?;
                for signature in signatures.fitting(signed, bank, &present)? {
                    let approval = approved(signed, key, Some(signature));
                    let policy = Policy::new([&[present.clone(), approval], tail].concat());
                    match tpm.trial(&policy) {
                        Ok(_) => return Ok(policy),
                        // Anybody can write one down that is not right; the next may be.
                        Err(TpmError::BadSignature) => {}
                        Err(other) => return Err(other),
                    }
                }
                Err(TpmError::BadSignature)
            }
            Self::Pcrlock(index) => {
                // What the TPM keeps is as new as its digest; a file in an initramfs may be old.
                let foreseen = match PcrlockPolicy::kept(tpm, index)? {
                    Some(policy) => policy,
                    None => files.pcrlock_in(index)?,
                };
                let mut assertions = foreseen.fulfilled(tpm, index)?;
                assertions.push(authorized(index));
                assertions.extend_from_slice(tail);
                let policy = Policy::new(assertions);
                tpm.trial(&policy)?;
                Ok(policy)
            }
        }
    }
}

fn approved(signed: &SignedPcrs, key: &Public, signature: Option<&[u8]>) -> Assertion {
    Assertion::Signed(Box::new(SignedPolicy {
        key: key.clone(),
        policy_ref: signed.policy_ref(),
        signature: signature.map(|bytes| Signature::RsaSsa(bytes.to_vec())),
    }))
}

/// Whether a token would open with values that PCRs do not have yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fit {
    /// It would, with its PIN if it takes one.
    Opens,
    /// It would not: these PCRs have other values than the token, or its policy, wants. Which of several
    /// literal PCRs it is, a token does not tell.
    Shut(Vec<u8>),
    /// By its signatures, which come with the kernel.
    Unknown,
}

impl SystemdTpm2 {
    /// Whether it would open with these values. `policy` is what its index allows, if it has one.
    ///
    /// # Errors
    /// [`TpmError::Misuse`] if one of its PCRs has no value here; those of the bank.
    pub fn fit(&self, values: &PcrValues, policy: Option<&PcrlockPolicy>) -> Result<Fit, TpmError> {
        if self.signed.is_some() {
            return Ok(Fit::Unknown);
        }
        if let Some(policy) = policy.filter(|_| self.pcrlock.is_some()) {
            let allowed = policy.allowed().iter();
            let shut = allowed.filter(|(pcr, allowed)| {
                !values
                    .get(**pcr)
                    .is_some_and(|value| allowed.iter().any(|one| one == value))
            });
            let shut: Vec<u8> = shut.map(|(pcr, _)| *pcr).collect();
            return Ok(if shut.is_empty() {
                Fit::Opens
            } else {
                Fit::Shut(shut)
            });
        }
        if self.pcrlock.is_some() {
            return Ok(Fit::Unknown);
        }
        if self.pcrs.is_empty() {
            return Ok(Fit::Opens);
        }
        let bank = self.bank.unwrap_or(HashAlg::Sha256);
        let mut wanted = PcrValues::new(bank);
        for pcr in &self.pcrs {
            let value = values.get(*pcr).ok_or(TpmError::Misuse {
                what: "whether a token fits, without a value of its PCR",
            })?;
            wanted.insert(*pcr, value)?;
        }
        let mut assertions = vec![Assertion::Pcrs {
            selection: PcrSelection::new(bank, &self.pcrs)?,
            values: Some(wanted.digest()),
        }];
        if self.pin.is_needed() {
            assertions.push(Assertion::AuthValue);
        }
        let digest = Policy::new(assertions).digest()?;
        Ok(if self.policies.iter().all(|policy| *policy == digest) {
            Fit::Opens
        } else {
            Fit::Shut(self.pcrs.clone())
        })
    }

    /// The policies, one for each part, as the machine fulfils them now.
    ///
    /// # Errors
    /// [`TpmError::PolicyMismatch`] or [`TpmError::TooLate`] if it does not: nothing was tried then, and no
    /// PIN needs to be asked for. The same goes for [`TpmError::NoPolicyFile`] and [`TpmError::NoSignature`]
    /// (a signed policy), [`TpmError::StalePolicy`] and [`TpmError::NoSuchIndex`] (pcrlock), and
    /// [`TpmError::BackEnd`] for a policy that this back end cannot carry out.
    pub fn fitting_policies(
        &self,
        tpm: &mut dyn Tpm,
        files: &PolicyFiles,
    ) -> Result<Vec<Policy>, TpmError> {
        if let Some(bank) = self.bank {
            return self.fitting_in(tpm, files, bank);
        }
        // Left open by old versions, which take SHA-256 where it is live.
        match self.fitting_in(tpm, files, HashAlg::Sha256) {
            Err(error @ (TpmError::PolicyMismatch { .. } | TpmError::NoSuchBank { .. })) => self
                .fitting_in(tpm, files, HashAlg::Sha1)
                .map_err(|other| match other {
                    TpmError::NoSuchBank { .. } => error,
                    other => other,
                }),
            done => done,
        }
    }

    fn fitting_in(
        &self,
        tpm: &mut dyn Tpm,
        files: &PolicyFiles,
        bank: HashAlg,
    ) -> Result<Vec<Policy>, TpmError> {
        let tail = tail(tpm, bank, &self.pcrs, &self.pin)?;
        let heads = heads(self.signed.as_ref(), self.pcrlock.as_ref());
        // More parts than heads: all are sealed alike.
        let mut settled = Vec::new();
        for (part, expected) in self.policies.iter().enumerate() {
            let head = &heads[part.min(heads.len() - 1)];
            match self.settled(head, files, &tail, expected) {
                Err(TpmError::PolicyMismatch { .. }) if self.fitted_before(tpm, files, bank)? => {
                    return Err(too_late());
                }
                done => settled.push(done?),
            }
        }
        settled
            .iter()
            .map(|head| head.fulfilled(tpm, files, bank, &tail))
            .collect()
    }

    /// Whether the token would fit if nothing had been measured into PCR 15 yet.
    fn fitted_before(
        &self,
        tpm: &mut dyn Tpm,
        files: &PolicyFiles,
        bank: HashAlg,
    ) -> Result<bool, TpmError> {
        if !self.pcrs.contains(&IDENTITY_PCR) {
            return Ok(false);
        }
        let fuse = BTreeMap::from([(IDENTITY_PCR, FixedValue::Zero)]);
        let before = tail_with(tpm, bank, &self.pcrs, &fuse, &self.pin)?;
        let heads = heads(self.signed.as_ref(), self.pcrlock.as_ref());
        let fits = |(part, expected): (usize, &Digest)| {
            let head = &heads[part.min(heads.len() - 1)];
            self.settled(head, files, &before, expected).is_ok()
        };
        Ok(self.policies.iter().enumerate().all(fits))
    }

    /// The form of a head that leads to the digest of the token.
    fn settled<'a>(
        &self,
        head: &Head<'a>,
        files: &PolicyFiles,
        tail: &[Assertion],
        expected: &Digest,
    ) -> Result<Settled<'a>, TpmError> {
        for form in head.forms(files)? {
            if form.sealed_to(tail).digest()? == *expected {
                return Ok(form);
            }
        }
        if self.pcrs.is_empty() {
            return Err(TpmError::Damaged {
                what: head.foreign().to_owned(),
            });
        }
        Err(TpmError::PolicyMismatch {
            detail: format!("PCR {} have other values", numbers(&self.pcrs)),
        })
    }
}

pub(super) fn too_late() -> TpmError {
    TpmError::TooLate {
        detail: format!(
            "a volume key was measured into PCR {IDENTITY_PCR}, and the slot opens only before that"
        ),
    }
}
