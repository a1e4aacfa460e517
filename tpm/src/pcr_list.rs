//! PCRs as a person writes them: `7`, `7+14`, `secure-boot-policy+kernel-boot:sha256`.

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
}

impl FromStr for PcrList {
    type Err = TpmError;

    /// Numbers or names with `+` or `,` between them, each with or without a bank (`7:sha256`);
    /// an empty text is none.
    fn from_str(text: &str) -> Result<Self, TpmError> {
        let unsupported = |why: &str| TpmError::Unsupported {
            what: format!("list of PCRs {text:?}: {why}"),
        };
        let mut list = Self::default();
        for word in text.split(['+', ',']).filter(|word| !word.is_empty()) {
            if word.contains('=') {
                return Err(unsupported(
                    "values cannot be given, those of this boot are taken",
                ));
            }
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
        }
        list.pcrs.sort_unstable();
        list.pcrs.dedup();
        Ok(list)
    }
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
            "7=aabb",
            "7+ 8",
        ] {
            assert!(text.parse::<PcrList>().is_err(), "{text}");
        }
    }
}
