//! Signatures over policies of PCR values, as `systemd-measure` writes them beside a kernel image:
//! an object by bank of lists of `{pcrs, pkfp, ref, pol, sig}`, of which `ref` came with systemd 262.
//!
//! The list names what is signed by its digest, so the signature that fits the machine as it is
//! now is found without asking the TPM.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::json::{Members, base64, damaged, hex, pcrs};
use super::policy_key::PolicyKey;
use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::pcr::PcrSelection;
use crate::policy::{Assertion, Policy};
use crate::tpm::Tpm;

/// Most signatures of one file; systemd writes one for each bank, phase and key.
const MAX_SIGNATURES: usize = 4096;

/// Longest signature in bytes, by a key of 4096 bits.
const MAX_SIGNATURE_BYTES: usize = 512;

/// The part of a policy that asks for signed PCR values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedPcrs {
    /// By which key.
    pub key: PolicyKey,
    /// Which PCRs, ascending and at least one; their bank is that of the token.
    pub pcrs: Vec<u8>,
    /// What the signatures are for, where they are not for anything: "initrd", since systemd 262.
    pub purpose: Option<String>,
}

impl SignedPcrs {
    /// What is signed besides the digest of the PCRs: nothing, or the hash of the purpose.
    pub(super) fn policy_ref(&self) -> Vec<u8> {
        self.purpose.as_ref().map_or_else(Vec::new, |purpose| {
            Sha256::digest(purpose.as_bytes()).to_vec()
        })
    }

    /// The PCRs as they are now, of which somebody has to have approved.
    pub(super) fn present(&self, tpm: &mut dyn Tpm, bank: HashAlg) -> Result<Assertion, TpmError> {
        let selection = PcrSelection::new(bank, &self.pcrs)?;
        let values = Some(tpm.read_pcrs(&selection)?.digest());
        Ok(Assertion::Pcrs { selection, values })
    }
}

/// The signatures of one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PcrSignatures(Vec<Entry>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    bank: HashAlg,
    pcrs: Vec<u8>,
    key: Digest,
    purpose: Option<String>,
    policy: Digest,
    signature: Vec<u8>,
}

impl PcrSignatures {
    /// Reads a file. Banks that nobody here knows and entries that lack a member are passed over.
    ///
    /// # Errors
    /// [`TpmError::Damaged`].
    pub fn parse(json: &[u8]) -> Result<Self, TpmError> {
        let not_an_object = || damaged("signatures of PCR values");
        let whole: Value = serde_json::from_slice(json).map_err(|_| not_an_object())?;
        let mut entries = Vec::new();
        for (name, list) in whole.as_object().ok_or_else(not_an_object)? {
            let Some(bank) = HashAlg::from_name(name) else {
                continue;
            };
            let list = list
                .as_array()
                .ok_or(damaged("bank of signatures of PCR values"))?;
            for entry in list {
                entries.extend(self::entry(bank, entry)?);
            }
        }
        if entries.len() > MAX_SIGNATURES {
            return Err(damaged("signatures of PCR values (too many)"));
        }
        Ok(Self(entries))
    }

    /// The signatures that may fit: by this key and for this purpose, over these PCRs with the
    /// values that they have now. Only the TPM tells whether they are right.
    ///
    /// # Errors
    /// [`TpmError::NoSignature`] if the key signed nothing about these PCRs;
    /// [`TpmError::PolicyMismatch`] if it signed only other values.
    pub(super) fn fitting(
        &self,
        signed: &SignedPcrs,
        bank: HashAlg,
        present: &Assertion,
    ) -> Result<Vec<&[u8]>, TpmError> {
        let state = Policy::new(vec![present.clone()]).digest()?;
        let key = signed.key.fingerprint();
        let of_key: Vec<&Entry> = self
            .0
            .iter()
            .filter(|one| one.key == key && one.purpose == signed.purpose)
            .filter(|one| one.bank == bank && one.pcrs == signed.pcrs)
            .collect();
        if of_key.is_empty() {
            return Err(TpmError::NoSignature {
                pcrs: numbers(&signed.pcrs),
                bank: bank.name(),
                purpose: signed.purpose.clone(),
            });
        }
        let fitting: Vec<&[u8]> = of_key
            .into_iter()
            .filter(|one| one.policy == state)
            .map(|one| one.signature.as_slice())
            .collect();
        if fitting.is_empty() {
            return Err(TpmError::PolicyMismatch {
                detail: format!(
                    "no signature is for the present values of PCR {}",
                    numbers(&signed.pcrs)
                ),
            });
        }
        Ok(fitting)
    }
}

fn entry(bank: HashAlg, value: &Value) -> Result<Option<Entry>, TpmError> {
    if !value.is_object() {
        return Err(damaged("entry of signatures of PCR values"));
    }
    let members = Members(value);
    let digest = |name: &'static str, text: &str| {
        let bytes = hex(text, 32).ok_or(damaged(name))?;
        Digest::from_slice(&bytes).ok_or(damaged(name))
    };
    let (Some(numbers), Some(key), Some(policy), Some(signature)) = (
        members.get("pcrs"),
        members.text("pkfp")?,
        members.text("pol")?,
        members.text("sig")?,
    ) else {
        return Ok(None);
    };
    let signature = base64("sig", signature)?;
    if signature.len() > MAX_SIGNATURE_BYTES {
        return Err(damaged("sig"));
    }
    Ok(Some(Entry {
        bank,
        pcrs: pcrs("pcrs", numbers)?,
        key: digest("pkfp", key)?,
        purpose: members.text("ref")?.map(str::to_owned),
        policy: digest("pol", policy)?,
        signature,
    }))
}

/// "7+11".
pub(super) fn numbers(pcrs: &[u8]) -> String {
    let pcrs: Vec<String> = pcrs.iter().map(u8::to_string).collect();
    pcrs.join("+")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({ "pcrs": [11], "pkfp": "11".repeat(32), "pol": "22".repeat(32), "sig": "AAAA" })
    }

    fn parse(whole: &Value) -> Result<PcrSignatures, TpmError> {
        PcrSignatures::parse(whole.to_string().as_bytes())
    }

    #[test]
    fn what_is_unknown_is_passed_over() {
        let mut lacking = good();
        lacking.as_object_mut().unwrap().remove("sig");
        let whole = json!({
            "sha256": [good(), lacking],
            "sha1": [],
            "sm3_256": "of another world",
            "tomorrow": 7,
        });
        assert_eq!(parse(&whole).unwrap().0.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (member, value) in [
            ("pcrs", json!([24])),
            ("pcrs", json!(11)),
            ("pkfp", json!("11")),
            ("pkfp", json!(["11"])),
            ("pol", json!("2g".repeat(32))),
            ("pol", json!("é".repeat(32))),
            ("ref", json!(7)),
            ("sig", json!("*")),
            ("sig", json!(7)),
        ] {
            let mut bad = good();
            bad[member] = value;
            let told = parse(&json!({ "sha256": [good(), bad] }));
            assert!(matches!(told, Err(TpmError::Damaged { .. })), "{member}");
        }
        for whole in [json!([]), json!({ "sha256": {} }), json!({ "sha256": [7] })] {
            assert!(matches!(parse(&whole), Err(TpmError::Damaged { .. })));
        }
        let told = PcrSignatures::parse(b"{\"sha256\": [");
        assert!(matches!(told, Err(TpmError::Damaged { .. })));
        let many = vec![good(); MAX_SIGNATURES + 1];
        assert!(parse(&json!({ "sha256": many })).is_err());
    }
}
