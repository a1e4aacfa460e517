//! The policy of `systemd-pcrlock`: an NV index holds the digest of what PCRs may be, and a file
//! says what that was computed from.
//!
//! ```text
//! PolicyPCR             all PCRs that may have one value only
//! PolicyPCR, PolicyOR   for each PCR with several, ascending
//! PolicyAuthorizeNV     all this is what the index holds
//! ```

use std::collections::BTreeMap;

use serde_json::Value;

use super::grace::Grace;
use super::json::{Members, damaged, hex, pcr};
use super::policy::too_late;
use super::signatures::numbers;
use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::measure::IDENTITY_PCR;
use crate::pcr::{PcrSelection, PcrValues};
use crate::policy::{Assertion, MAX_BRANCHES, NvReader, Policy};
use crate::tpm::{NvAuth, Tpm};
use crate::wire::{Name, NvAttributes, NvPublic, Reader, WireError, Writer};

/// Kind of a serialised index (`IESYSC_NV_RSRC` of tpm2-tss).
const SERIALISED_INDEX: u32 = 2;

/// The part of a policy that an NV index holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pcrlock {
    /// The index, as it is when it was written; `None` in tokens of early versions, where only the
    /// file says it.
    pub index: Option<NvPublic>,
}

/// What `pcrlock.json` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PcrlockPolicy {
    pub(super) bank: HashAlg,
    /// The values that each PCR may have: 1 to 8.
    pub(super) allowed: BTreeMap<u8, Vec<Vec<u8>>>,
    pub(super) index: Option<NvPublic>,
    /// A boot that may differ; only in policies of ours.
    pub(super) grace: Option<Grace>,
}

impl PcrlockPolicy {
    /// Reads a file.
    ///
    /// # Errors
    /// [`TpmError::Damaged`], also for a PCR with no value and for a policy without a PCR, which
    /// would protect nothing; [`TpmError::Unsupported`] for an unknown bank, and for more than 8
    /// values of a PCR, which no TPM takes.
    pub fn parse(json: &[u8]) -> Result<Self, TpmError> {
        let whole: Value = serde_json::from_slice(json).map_err(|_| damaged("pcrlock policy"))?;
        if !whole.is_object() {
            return Err(damaged("pcrlock policy"));
        }
        let members = Members(&whole);
        let bank = members.text("pcrBank")?.ok_or(damaged("pcrBank"))?;
        let bank = HashAlg::from_name(bank).ok_or_else(|| TpmError::Unsupported {
            what: format!("PCR bank {bank:?}"),
        })?;
        let list = members.needed("pcrValues")?.as_array();
        let mut allowed = BTreeMap::new();
        for entry in list.ok_or(damaged("pcrValues"))? {
            let (pcr, values) = pcr_values(bank, entry)?;
            if allowed.insert(pcr, values).is_some() {
                return Err(damaged("pcrValues (one PCR twice)"));
            }
        }
        if allowed.is_empty() {
            return Err(damaged("pcrValues (no PCR)"));
        }
        let index = members
            .bytes("nvHandle")?
            .map(|bytes| serialised_index(&bytes).map_err(|error| damaged(&error.to_string())))
            .transpose()?;
        let grace = members.get("luksmithGrace").map(grace).transpose()?;
        Ok(Self {
            bank,
            allowed,
            index,
            grace,
        })
    }

    /// The index that it was written to, where the file says so.
    #[must_use]
    pub fn index(&self) -> Option<&NvPublic> {
        self.index.as_ref()
    }

    /// The assertions whose digest the index holds, with some value for each PCR: whatever the
    /// value, the digest is the same, and it is the same by way of a grace.
    fn foreseen(
        &self,
        value_of: impl Fn(u8) -> usize,
        by_grace: bool,
    ) -> Result<Vec<Assertion>, TpmError> {
        let usual = self.with_values(&value_of, &[])?;
        let (Some(grace), Some(index)) = (&self.grace, &self.index) else {
            return Ok(usual);
        };
        let mut unusual = self.with_values(&value_of, &grace.free)?;
        unusual.push(grace.assertion(index));
        let ways = [&usual, &unusual].map(|way| Policy::new(way.clone()).digest());
        let [one, other] = ways;
        let mut taken = if by_grace { unusual } else { usual };
        taken.push(Assertion::Or(vec![one?, other?]));
        Ok(taken)
    }

    /// That all PCRs but the free ones have one of their values.
    fn with_values(
        &self,
        value_of: &impl Fn(u8) -> usize,
        free: &[u8],
    ) -> Result<Vec<Assertion>, TpmError> {
        let bound = || self.allowed.iter().filter(|(pcr, _)| !free.contains(pcr));
        let mut single = PcrValues::new(self.bank);
        for (pcr, values) in bound() {
            if let [value] = values.as_slice() {
                single.insert(*pcr, value)?;
            }
        }
        let mut assertions = Vec::new();
        if let Some(selection) = single.selection() {
            assertions.push(Assertion::Pcrs {
                selection,
                values: Some(single.digest()),
            });
        }
        for (pcr, values) in bound().filter(|(_, values)| values.len() > 1) {
            let selection = PcrSelection::new(self.bank, &[*pcr])?;
            let mut alternatives = Vec::new();
            let mut branches = Vec::new();
            for value in values {
                let alternative = Assertion::Pcrs {
                    selection,
                    values: Some(Digest::of(&[value])),
                };
                let mut branch = assertions.clone();
                branch.push(alternative.clone());
                branches.push(Policy::new(branch).digest()?);
                alternatives.push(alternative);
            }
            assertions.push(alternatives.swap_remove(value_of(*pcr)));
            assertions.push(Assertion::Or(branches));
        }
        Ok(assertions)
    }

    /// The assertions as the machine fulfils them now.
    ///
    /// # Errors
    /// [`TpmError::StalePolicy`] if the index holds another policy; [`TpmError::PolicyMismatch`]
    /// if a PCR has a value that is not foreseen, or the index is another one than `index`;
    /// [`TpmError::TooLate`] if that is only since a volume is open; [`TpmError::NoSuchIndex`].
    pub(super) fn fulfilled(
        &self,
        tpm: &mut dyn Tpm,
        index: &NvPublic,
    ) -> Result<Vec<Assertion>, TpmError> {
        self.check_index(tpm, index)?;
        let pcrs: Vec<u8> = self.allowed.keys().copied().collect();
        let present = tpm.read_pcrs(&PcrSelection::new(self.bank, &pcrs)?)?;
        let at = |pcr: u8| {
            let value = present.get(pcr)?;
            self.allowed[&pcr].iter().position(|one| one == value)
        };
        let unforeseen: Vec<u8> = pcrs.into_iter().filter(|pcr| at(*pcr).is_none()).collect();
        let value_of = |pcr: u8| at(pcr).unwrap_or_default();
        if let Some(grace) = &self.grace
            && !unforeseen.is_empty()
            && unforeseen.iter().all(|pcr| grace.free.contains(pcr))
            && grace.is_open(tpm, index)?
        {
            return self.foreseen(value_of, true);
        }
        if unforeseen == [IDENTITY_PCR] && self.only_before_a_volume_is_open() {
            return Err(too_late());
        }
        if !unforeseen.is_empty() {
            return Err(TpmError::PolicyMismatch {
                detail: format!(
                    "PCR {} have values that the pcrlock policy does not foresee",
                    numbers(&unforeseen)
                ),
            });
        }
        self.foreseen(value_of, false)
    }

    fn only_before_a_volume_is_open(&self) -> bool {
        let values = &self.allowed[&IDENTITY_PCR];
        values.iter().flatten().all(|byte| *byte == 0)
    }

    /// What an index holds in which this policy is in force.
    pub(super) fn contents(&self) -> Result<Vec<u8>, TpmError> {
        let digest = Policy::new(self.foreseen(|_| 0, false)?).digest()?;
        Ok([&HashAlg::Sha256.id().to_be_bytes()[..], &digest.0].concat())
    }

    /// Whether it is what its index has in force.
    ///
    /// # Errors
    /// [`TpmError::Misuse`] for a policy without an index; [`TpmError::NoSuchIndex`]; [`TpmError::PolicyMismatch`]
    /// if the index is another one; [`TpmError::IndexRefused`] if nothing was written to it yet; those of talking
    /// to the TPM.
    pub fn is_in_force(&self, tpm: &mut dyn Tpm) -> Result<bool, TpmError> {
        let index = self.index.as_ref().ok_or(super::index::NO_INDEX)?;
        match self.check_index(tpm, index) {
            Ok(()) => Ok(true),
            Err(TpmError::StalePolicy { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Whether the index is the one, and holds this policy.
    pub(super) fn check_index(&self, tpm: &mut dyn Tpm, index: &NvPublic) -> Result<(), TpmError> {
        let handle = index.index;
        if tpm.nv_public(handle)?.name() != index.name() {
            return Err(TpmError::PolicyMismatch {
                detail: format!("NV index {handle:#010x} is another one"),
            });
        }
        let contents = tpm.nv_read(handle, &NvAuth::Owner)?;
        if contents.expose() != self.contents()? {
            return Err(TpmError::StalePolicy { index: handle });
        }
        Ok(())
    }
}

/// "What was asserted is what the index holds", read by the owner's right as systemd does.
pub(super) fn authorized(index: &NvPublic) -> Assertion {
    Assertion::AuthorizedByNv {
        index: index.clone(),
        reader: NvReader::Owner,
    }
}

/// What [`PcrlockPolicy::to_json`] wrote of a grace.
fn grace(value: &Value) -> Result<Grace, TpmError> {
    let wrong = || damaged("luksmithGrace");
    let free = value.get("pcrs").and_then(Value::as_array);
    let free = free.ok_or_else(wrong)?.iter().map(pcr);
    Ok(Grace {
        count: value
            .get("count")
            .and_then(Value::as_u64)
            .ok_or_else(wrong)?,
        free: free.collect::<Option<Vec<u8>>>().ok_or_else(wrong)?,
    })
}

/// One PCR and the values that it may have, each once.
fn pcr_values(bank: HashAlg, entry: &Value) -> Result<(u8, Vec<Vec<u8>>), TpmError> {
    let wrong = || damaged("pcrValues");
    let pcr = entry.get("pcr").and_then(pcr).ok_or_else(wrong)?;
    let list = entry.get("values").and_then(Value::as_array);
    let mut values: Vec<Vec<u8>> = Vec::new();
    for value in list.ok_or_else(wrong)? {
        let value = value.as_str().and_then(|text| hex(text, bank.len()));
        let value = value.ok_or_else(wrong)?;
        if !values.contains(&value) {
            values.push(value);
        }
        if values.len() > MAX_BRANCHES {
            return Err(TpmError::Unsupported {
                what: format!("pcrlock policy with more than {MAX_BRANCHES} values of PCR {pcr}"),
            });
        }
    }
    if values.is_empty() {
        return Err(wrong());
    }
    Ok((pcr, values))
}

/// An index as tpm2-tss serialises it: handle, name, kind, public area. It comes back as it is
/// when it was written, which is how policies name it.
pub(super) fn serialised_index(bytes: &[u8]) -> Result<NvPublic, WireError> {
    let mut reader = Reader::new("tpm2_pcrlock_nv", bytes);
    let handle = reader.u32()?;
    let name = Name::parse(reader.sized()?)?;
    if reader.u32()? != SERIALISED_INDEX {
        return Err(reader.fail());
    }
    let found = NvPublic::parse(reader.sized()?)?;
    let written = NvPublic {
        attributes: found.attributes.with(NvAttributes::WRITTEN),
        ..found.clone()
    };
    let its_name = name == found.name() || name == written.name();
    if found.index != handle || !its_name {
        return Err(reader.fail());
    }
    reader.end()?;
    Ok(written)
}

/// The same, written.
pub(super) fn serialise(index: &NvPublic) -> Vec<u8> {
    Writer::new()
        .u32(index.index)
        .sized(index.name().as_bytes())
        .u32(SERIALISED_INDEX)
        .sized(&index.to_bytes())
        .done()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(whole: &Value) -> Result<PcrlockPolicy, TpmError> {
        PcrlockPolicy::parse(whole.to_string().as_bytes())
    }

    fn value(byte: u8) -> String {
        hex::encode([byte; 32])
    }

    #[test]
    fn one_value_or_several_make_one_digest_whichever_is_present() {
        let policy = parse(&json!({
            "pcrBank": "sha256",
            "pcrValues": [
                { "pcr": 7, "values": [value(1), value(2)] },
                { "pcr": 0, "values": [value(3), value(3)] },
                { "pcr": 4, "values": [value(4)] },
            ],
        }))
        .unwrap();
        let first = policy.foreseen(|_| 0, false).unwrap();
        let second = policy.foreseen(|_| 1, false).unwrap();
        assert_eq!(first.len(), 3, "0 and 4 together, 7 and its OR");
        assert_ne!(first, second);
        assert_eq!(
            Policy::new(first).digest().unwrap(),
            Policy::new(second).digest().unwrap()
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let nine: Vec<String> = (0..9).map(value).collect();
        for (values, unsupported) in [
            (json!([]), false),
            (json!(7), false),
            (json!([7]), false),
            (json!([{ "pcr": 24, "values": [value(1)] }]), false),
            (json!([{ "pcr": 7, "values": [] }]), false),
            (json!([{ "pcr": 7, "values": ["00"] }]), false),
            (json!([{ "pcr": 7, "values": [value(1), null] }]), false),
            (json!([{ "pcr": 7, "values": nine }]), true),
            (
                json!([{ "pcr": 7, "values": [value(1)] }, { "pcr": 7, "values": [value(2)] }]),
                false,
            ),
        ] {
            let told = parse(&json!({ "pcrBank": "sha256", "pcrValues": values }));
            match told {
                Err(TpmError::Damaged { .. }) => assert!(!unsupported, "{values}"),
                Err(TpmError::Unsupported { .. }) => assert!(unsupported, "{values}"),
                other => panic!("{values}: {other:?}"),
            }
        }
        let good = json!([{ "pcr": 7, "values": [value(1)] }]);
        let told = parse(&json!({ "pcrBank": "md5", "pcrValues": good }));
        assert!(matches!(told, Err(TpmError::Unsupported { .. })));
        let told = parse(&json!({ "pcrBank": "sha256", "pcrValues": good, "nvHandle": "AAAA" }));
        assert!(matches!(told, Err(TpmError::Damaged { .. })));
        assert!(parse(&json!([])).is_err());
        assert!(PcrlockPolicy::parse(b"{").is_err());
    }

    #[test]
    fn a_serialised_index_is_read_to_its_last_bit() {
        let index = NvPublic {
            index: 0x0180_0042,
            attributes: NvAttributes::POLICY_WRITE.with(NvAttributes::OWNER_READ),
            policy: vec![7; 32],
            size_bytes: 34,
        };
        let unwritten = serialise(&index);
        let read = serialised_index(&unwritten).unwrap();
        assert!(read.attributes.has(NvAttributes::WRITTEN));
        let bytes = serialise(&read);
        assert_eq!(serialised_index(&bytes).unwrap(), read);
        for len in 0..bytes.len() {
            assert!(serialised_index(&bytes[..len]).is_err(), "{len} bytes");
        }
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(serialised_index(&other).is_err(), "byte {at}");
        }
    }
}
