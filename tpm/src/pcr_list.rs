//! PCRs as a person writes them: `7`, `7+14`, `secure-boot-policy+kernel-boot:sha256`, `15=0`.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::error::TpmError;
use crate::hash::HashAlg;
use crate::pcr::PCRS;

/// Names of PCRs, those of systemd (and of the UAPI group's registry).
const NAMES: &[(&str, u8)] = &[
    ("platform-code", 0),
    ("platform-config", 1),
    ("external-code", 2),
    ("external-config", 3),
    ("boot-loader-code", 4),
    ("boot-loader-config", 5),
    ("host-platform", 6),
    ("secure-boot-policy", 7),
    ("kernel-initrd", 9),
    ("ima", 10),
    ("kernel-boot", 11),
    ("kernel-config", 12),
    ("sysexts", 13),
    ("shim-policy", 14),
    ("system-identity", 15),
    ("debug", 16),
    ("application-support", 23),
];

/// What a PCR is for, in a word; `None` where it has no name.
#[must_use]
pub fn pcr_name(pcr: u8) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|(_, number)| *number == pcr)
        .map(|(name, _)| *name)
}

/// Some PCRs, all of one bank.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PcrList {
    /// Numbers, ascending.
    pub pcrs: Vec<u8>,
    /// The bank, if it was said.
    pub bank: Option<HashAlg>,
    /// Values that were said; the others are meant as they are now.
    pub values: BTreeMap<u8, FixedValue>,
}

/// The value that a PCR shall have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FixedValue {
    /// As after a reset: nothing was measured. Of most PCRs that is all zeroes.
    Zero,
    /// This one.
    Bytes(Vec<u8>),
}

impl FixedValue {
    /// The value in a bank.
    ///
    /// # Errors
    /// [`TpmError::Unsupported`] if it has another length than the bank's.
    pub fn in_bank(&self, bank: HashAlg) -> Result<Vec<u8>, TpmError> {
        match self {
            Self::Zero => Ok(vec![0; bank.len()]),
            Self::Bytes(bytes) if bytes.len() == bank.len() => Ok(bytes.clone()),
            Self::Bytes(_) => Err(TpmError::Unsupported {
                what: format!("PCR value that has not the length of {}", bank.name()),
            }),
        }
    }
}

impl FromStr for PcrList {
    type Err = TpmError;

    /// Numbers or names with `+` or `,` between them, each with or without a bank (`7:sha256`) and
    /// a value in hexadecimal (`15:sha256=…`, or `15=0` for one that nothing was measured into); an
    /// empty text is none.
    fn from_str(text: &str) -> Result<Self, TpmError> {
        let unsupported = |why: &str| TpmError::Unsupported {
            what: format!("list of PCRs {text:?}: {why}"),
        };
        let mut list = Self::default();
        for word in text.split(['+', ',']).filter(|word| !word.is_empty()) {
            let (word, value) = match word.split_once('=') {
                None => (word, None),
                Some((word, value)) => {
                    let value = fixed(value).ok_or_else(|| {
                        unsupported("a value is hexadecimal, or 0 for one as after a reset")
                    })?;
                    (word, Some(value))
                }
            };
            let (pcr, bank) = match word.split_once(':') {
                None => (word, None),
                Some((pcr, bank)) => {
                    let bank = HashAlg::from_name(bank)
                        .ok_or_else(|| unsupported("there is no such bank"))?;
                    (pcr, Some(bank))
                }
            };
            let number = NAMES.iter().find(|(name, _)| *name == pcr);
            let number = match number {
                Some((_, number)) => *number,
                None => pcr
                    .parse()
                    .ok()
                    .filter(|number| *number < PCRS)
                    .ok_or_else(|| unsupported("PCRs are 0 to 23, or have a name"))?,
            };
            if bank.is_some() && list.bank.is_some_and(|before| Some(before) != bank) {
                return Err(unsupported("all must be of one bank"));
            }
            list.bank = list.bank.or(bank);
            list.pcrs.push(number);
            if let Some(value) = value {
                list.values.insert(number, value);
            }
        }
        list.pcrs.sort_unstable();
        list.pcrs.dedup();
        Ok(list)
    }
}

fn fixed(text: &str) -> Option<FixedValue> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits == "0" {
        return Some(FixedValue::Zero);
    }
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    let bytes = (0..digits.len()).step_by(2).map(|at| {
        let pair = digits.get(at..at + 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    bytes.collect::<Option<Vec<u8>>>().map(FixedValue::Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> PcrList {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_and_names_mean_what_they_mean_to_systemd() {
        assert_eq!(list("14+7").pcrs, vec![7, 14]);
        assert_eq!(list("7,7,0").pcrs, [0, 7]);
        assert_eq!(list("secure-boot-policy+kernel-boot").pcrs, [7, 11]);
        assert!(list("").pcrs.is_empty());
        let banked = list("4:sha384+7");
        assert_eq!(
            (banked.pcrs, banked.bank),
            (vec![4, 7], Some(HashAlg::Sha384))
        );
        assert_eq!(
            (pcr_name(7), pcr_name(8)),
            (Some("secure-boot-policy"), None)
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "24",
            "-1",
            "seven",
            "7:md5",
            "7:sha256+8:sha1",
            "7=aab",
            "7=+1",
            "7=",
            "7+ 8",
        ] {
            assert!(text.parse::<PcrList>().is_err(), "{text}");
        }
    }

    #[test]
    fn values_are_taken_as_they_are_written() {
        let list = list("7+15:sha256=0+8=0xAAbb");
        assert_eq!(list.pcrs, vec![7, 8, 15]);
        assert_eq!(list.values.len(), 2);
        assert_eq!(
            list.values[&15].in_bank(HashAlg::Sha256).unwrap(),
            vec![0; 32]
        );
        assert_eq!(list.values[&8], FixedValue::Bytes(vec![0xAA, 0xBB]));
        assert!(list.values[&8].in_bank(HashAlg::Sha256).is_err());
    }
}
