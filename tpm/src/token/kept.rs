//! A policy kept in the TPM itself, beside the index that holds its digest: whoever opens a volume
//! needs no file then, and an initramfs that was made before the policy changed knows the change.
//!
//! There are two places, each an NV index behind that of the digest. A new policy goes to the one that is
//! not in force, then its digest into force: cut off anywhere, the other place still says what the
//! digest is of. Nothing in a place is believed; it counts only if the digest says so.
//!
//! ```text
//! version (1)            1 byte
//! bank                   2 bytes, TPM_ALG_ID, big-endian
//! how many PCRs          1 byte, then for each of them
//!   PCR                  1 byte
//!   how many values      1 byte, then the values, each as long as the bank's digests
//! whether a grace        1 byte (0 or 1); then the count of its counter, 8 bytes, and its PCRs, 4 bytes, a bit each
//! ```

use std::collections::BTreeMap;

use luksmith_crypto::SecretBytes;

use super::grace::Grace;
use super::pcrlock::PcrlockPolicy;
use crate::counter::counter_at;
use crate::error::TpmError;
use crate::hash::HashAlg;
use crate::policy::MAX_BRANCHES;
use crate::tpm::{NvAuth, Tpm};
use crate::wire::{NvAttributes, NvPublic, Reader, WireError, Writer};
use crate::writer::WriterKey;

/// How many places there are.
pub(super) const PLACES: u32 = 2;
/// Room of a place, in bytes: 15 values of SHA-256, and no more than goes in one command.
const PLACE_BYTES: u16 = 512;
const VERSION: u8 = 1;
const LARGEST_PCR: u8 = 23;

/// Whether a policy that is in force is kept in the TPM as well.
#[derive(Debug)]
pub enum Kept {
    /// It is.
    InTpm,
    /// Only its digest is, and the policy in its file: why.
    OnlyInFile(TpmError),
}

impl PcrlockPolicy {
    /// Whether it is short enough to be kept in a TPM.
    #[must_use]
    pub fn fits_in_tpm(&self) -> bool {
        self.to_kept().len() <= usize::from(PLACE_BYTES)
    }

    fn to_kept(&self) -> Vec<u8> {
        let count = |n: usize| u8::try_from(n).expect("24 PCRs and 8 values at most");
        let mut out = Writer::new().u8(VERSION).u16(self.bank.id());
        out = out.u8(count(self.allowed.len()));
        for (pcr, values) in &self.allowed {
            out = out.u8(*pcr).u8(count(values.len()));
            out = values.iter().fold(out, |out, value| out.bytes(value));
        }
        match &self.grace {
            None => out.u8(0).done(),
            Some(grace) => {
                let free = grace.free.iter().fold(0_u32, |free, pcr| free | 1 << pcr);
                out.u8(1).bytes(&grace.count.to_be_bytes()).u32(free).done()
            }
        }
    }

    /// Reads what a place holds; what stands behind it is of an older and longer policy.
    fn from_kept(bytes: &[u8], index: &NvPublic) -> Result<Self, WireError> {
        let mut reader = Reader::new("policy kept in the TPM", bytes);
        if reader.u8()? != VERSION {
            return Err(reader.fail());
        }
        let bank = HashAlg::from_id(reader.u16()?).ok_or_else(|| reader.fail())?;
        let mut allowed = BTreeMap::new();
        for _ in 0..reader.u8()? {
            let pcr = reader.u8()?;
            let count = usize::from(reader.u8()?);
            if pcr > LARGEST_PCR || !(1..=MAX_BRANCHES).contains(&count) {
                return Err(reader.fail());
            }
            let values = (0..count).map(|_| Ok(reader.bytes(bank.len())?.to_vec()));
            let values = values.collect::<Result<Vec<_>, WireError>>()?;
            if allowed.insert(pcr, values).is_some() {
                return Err(reader.fail());
            }
        }
        if allowed.is_empty() {
            return Err(reader.fail());
        }
        let grace = match reader.u8()? {
            0 => None,
            1 => {
                let count = reader.bytes(8)?.try_into().expect("8 bytes were read");
                let free = reader.u32()?;
                Some(Grace {
                    count: u64::from_be_bytes(count),
                    free: (0..=LARGEST_PCR)
                        .filter(|pcr| free & 1 << pcr != 0)
                        .collect(),
                })
            }
            _ => return Err(reader.fail()),
        };
        Ok(Self {
            bank,
            allowed,
            index: Some(index.clone()),
            grace,
        })
    }

    /// The policy that this index has in force, as the TPM keeps it. `None` if it keeps none: it may be
    /// one of `systemd-pcrlock`, or there was no room.
    ///
    /// # Errors
    /// Those of talking to the TPM, and of reading the index.
    pub fn kept(tpm: &mut dyn Tpm, index: &NvPublic) -> Result<Option<Self>, TpmError> {
        Ok(in_force(tpm, index)?.map(|(_, policy)| policy))
    }

    /// Writes it to the place that is not in force.
    pub(super) fn keep(&self, tpm: &mut dyn Tpm, writer: &WriterKey) -> Result<(), TpmError> {
        let index = self.index.as_ref().ok_or(super::index::NO_INDEX)?;
        // An index that was never written has nothing in force yet.
        let taken = match in_force(tpm, index) {
            Ok(found) => found.map(|(place, _)| place),
            Err(TpmError::IndexRefused { .. }) => None,
            Err(other) => return Err(other),
        };
        let free = if taken == Some(0) { 1 } else { 0 };
        let place = place(index, free);
        match tpm.nv_public(place.index) {
            Ok(found) if written(&found) == written(&place) => {}
            Ok(_) => {
                return Err(TpmError::Unsupported {
                    what: format!("NV index {:#010x} belongs to somebody else", place.index),
                });
            }
            Err(TpmError::NoSuchIndex { .. }) => tpm.nv_define(&place, None)?,
            Err(other) => return Err(other),
        }
        let mut bytes = self.to_kept();
        let contents = SecretBytes::take_from(&mut bytes)?;
        tpm.nv_write(place.index, &NvAuth::Signed(writer), &contents)
    }
}

/// The place whose policy has the digest that the index holds.
fn in_force(tpm: &mut dyn Tpm, index: &NvPublic) -> Result<Option<(u32, PcrlockPolicy)>, TpmError> {
    // Of one that is gone nothing else needs to be said.
    tpm.nv_public(index.index)?;
    let mut digest = None;
    for number in 0..PLACES {
        let place = place(index, number);
        match tpm.nv_public(place.index) {
            Ok(found) if found == written(&place) => {}
            // None, an empty one, or somebody else's.
            Ok(_) | Err(TpmError::NoSuchIndex { .. }) => continue,
            Err(other) => return Err(other),
        }
        let bytes = tpm.nv_read(place.index, &NvAuth::Owner)?;
        let Ok(policy) = PcrlockPolicy::from_kept(bytes.expose(), index) else {
            continue;
        };
        let digest = match &digest {
            Some(known) => known,
            None => digest.insert(tpm.nv_read(index.index, &NvAuth::Owner)?),
        };
        if policy.contents()? == digest.expose() {
            return Ok(Some((number, policy)));
        }
    }
    Ok(None)
}

/// Removes what is kept behind an index.
pub(super) fn clear(tpm: &mut dyn Tpm, index: &NvPublic) -> Result<(), TpmError> {
    for number in 0..PLACES {
        let place = place(index, number);
        match tpm.nv_public(place.index) {
            Ok(found) if written(&found) == written(&place) => tpm.nv_undefine(place.index)?,
            Ok(_) | Err(TpmError::NoSuchIndex { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    let counter = counter_at(super::grace::handle(index));
    match tpm.nv_public(counter.index) {
        Ok(found) if written(&found) == counter => tpm.nv_undefine(counter.index),
        Ok(_) | Err(TpmError::NoSuchIndex { .. }) => Ok(()),
        Err(other) => Err(other),
    }
}

/// A place as it is defined: with the rights of the index of the digest.
pub(super) fn place(index: &NvPublic, number: u32) -> NvPublic {
    NvPublic {
        index: index.index + 1 + number,
        attributes: super::index::ATTRIBUTES,
        policy: index.policy.clone(),
        size_bytes: PLACE_BYTES,
    }
}

fn written(index: &NvPublic) -> NvPublic {
    NvPublic {
        attributes: index.attributes.with(NvAttributes::WRITTEN),
        ..index.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> NvPublic {
        NvPublic {
            index: 0x0180_0042,
            attributes: super::super::index::ATTRIBUTES,
            policy: vec![7; 32],
            size_bytes: 34,
        }
    }

    fn policy(values: usize) -> PcrlockPolicy {
        let of = |pcr: u8, n: usize| (pcr, (0..n).map(|i| vec![pcr ^ i as u8; 32]).collect());
        let allowed = BTreeMap::from([of(4, values), of(7, 1), of(15, 1)]);
        PcrlockPolicy::new(HashAlg::Sha256, allowed, index()).unwrap()
    }

    #[test]
    fn what_is_kept_comes_back_and_nothing_else_is_taken_for_it() {
        let policy = policy(3);
        let bytes = policy.to_kept();
        assert_eq!(PcrlockPolicy::from_kept(&bytes, &index()).unwrap(), policy);
        let longer = [&bytes[..], &[0xFF; 9]].concat();
        assert_eq!(PcrlockPolicy::from_kept(&longer, &index()).unwrap(), policy);
        for len in 0..bytes.len() {
            assert!(PcrlockPolicy::from_kept(&bytes[..len], &index()).is_err());
        }
        // Version, bank, number of PCRs, PCR, number of values; the last one also twice the same PCR.
        for (at, byte) in [(0, 2), (1, 0x7F), (3, 0), (4, 24), (5, 0), (5, 9)] {
            let mut other = bytes.clone();
            other[at] = byte;
            assert!(
                PcrlockPolicy::from_kept(&other, &index()).is_err(),
                "byte {at} as {byte}"
            );
        }
    }

    #[test]
    fn a_place_has_room_for_a_few_boots() {
        assert!(policy(8).fits_in_tpm());
        let many = (0..8).map(|i| vec![i; 32]).collect::<Vec<_>>();
        let allowed = BTreeMap::from([(4, many.clone()), (9, many)]);
        let long = PcrlockPolicy::new(HashAlg::Sha256, allowed, index()).unwrap();
        assert!(!long.fits_in_tpm());
    }
}
