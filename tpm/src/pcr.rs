//! PCRs: which of them, in which bank, and their values.

use std::collections::BTreeMap;

use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::wire::{Reader, WireError, Writer};

/// PCRs of one bank, each by its number from 0 to 23.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PcrSelection {
    bank: HashAlg,
    mask: u32,
}

/// How many PCRs a PC has.
pub const PCRS: u8 = 24;

impl PcrSelection {
    /// These PCRs of this bank.
    ///
    /// # Errors
    /// For a number above 23, and for none at all: that would be a policy that anything fulfils.
    pub fn new(bank: HashAlg, pcrs: &[u8]) -> Result<Self, TpmError> {
        let mut mask = 0;
        for pcr in pcrs {
            if *pcr >= PCRS {
                return Err(TpmError::Misuse {
                    what: "a PCR above 23",
                });
            }
            mask |= 1 << pcr;
        }
        if mask == 0 {
            return Err(TpmError::Misuse { what: "no PCR" });
        }
        Ok(Self { bank, mask })
    }

    /// The bank.
    #[must_use]
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// The numbers, ascending.
    pub fn pcrs(&self) -> impl Iterator<Item = u8> + '_ {
        (0..PCRS).filter(|pcr| self.mask & (1 << pcr) != 0)
    }

    /// As a `TPML_PCR_SELECTION` (Part 2, 10.9.7).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let [a, b, c, _] = self.mask.to_le_bytes();
        Writer::new()
            .u32(1)
            .u16(self.bank.id())
            .u8(3)
            .bytes(&[a, b, c])
            .done()
    }

    /// Those of `self` that are not in `taken`; `None` when none is left.
    pub(crate) fn without(&self, taken: &PcrValues) -> Option<Self> {
        let rest = self.pcrs().filter(|pcr| !taken.values.contains_key(pcr));
        let mask = rest.fold(0, |mask, pcr| mask | 1 << pcr);
        (mask != 0).then_some(Self {
            bank: self.bank,
            mask,
        })
    }
}

/// Reads a selection list as a TPM gives it: several banks, some empty.
pub(crate) fn read_selections(
    reader: &mut Reader<'_>,
) -> Result<BTreeMap<u16, Vec<u8>>, WireError> {
    let count = reader.u32()?;
    let mut found = BTreeMap::new();
    for _ in 0..count {
        let bank = reader.u16()?;
        let len = reader.u8()?;
        let bitmap = reader.bytes(len.into())?;
        let pcrs = bitmap
            .iter()
            .zip(0_u8..)
            .flat_map(|(byte, at)| {
                (0..8)
                    .filter(move |bit| byte & (1 << bit) != 0)
                    .map(move |bit| at.saturating_mul(8).saturating_add(bit))
            })
            .collect();
        if found.insert(bank, pcrs).is_some() {
            return Err(reader.fail());
        }
    }
    Ok(found)
}

/// Values of PCRs of one bank.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PcrValues {
    bank: HashAlg,
    values: BTreeMap<u8, Vec<u8>>,
}

impl PcrValues {
    /// No values yet.
    #[must_use]
    pub fn new(bank: HashAlg) -> Self {
        Self {
            bank,
            values: BTreeMap::new(),
        }
    }

    /// Sets one value.
    ///
    /// # Errors
    /// For a number above 23 or a length that is not the bank's.
    pub fn insert(&mut self, pcr: u8, value: &[u8]) -> Result<(), TpmError> {
        if pcr >= PCRS || value.len() != self.bank.len() {
            return Err(TpmError::Misuse {
                what: "a PCR value that its bank cannot have",
            });
        }
        self.values.insert(pcr, value.to_vec());
        Ok(())
    }

    /// One value.
    #[must_use]
    pub fn get(&self, pcr: u8) -> Option<&[u8]> {
        self.values.get(&pcr).map(Vec::as_slice)
    }

    /// Whether no PCR of these was ever extended: all zero bytes or all ones.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.values
            .values()
            .all(|value| value.iter().all(|byte| *byte == 0) || value.iter().all(|b| *b == 0xFF))
    }

    /// The selection, `None` if there is no value.
    #[must_use]
    pub fn selection(&self) -> Option<PcrSelection> {
        let mask = self.values.keys().fold(0, |mask, pcr| mask | 1 << pcr);
        (mask != 0).then_some(PcrSelection {
            bank: self.bank,
            mask,
        })
    }

    /// SHA-256 over the values in ascending order, as a policy holds it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let parts: Vec<&[u8]> = self.values.values().map(Vec::as_slice).collect();
        Digest::of(&parts)
    }
}
