//! Between our values and those of the wrapper.

use tss_esapi::Error;
use tss_esapi::constants::response_code::Tss2ResponseCode;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{PcrSelectionList, PcrSlot, Public as TssPublic};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};

use crate::code::Code;
use crate::error::{TpmError, refused};
use crate::hash::HashAlg;
use crate::pcr::PcrSelection;
use crate::wire::Public;

/// Gives an error of the wrapper the meaning that it has here.
pub(super) trait Asked<R> {
    /// `command` is what the TPM was asked.
    fn asked(self, command: &'static str) -> Result<R, TpmError>;
}

impl<R> Asked<R> for Result<R, Error> {
    fn asked(self, command: &'static str) -> Result<R, TpmError> {
        self.map_err(|error| match error {
            Error::Tss2Error(code) => {
                let code = number(code);
                // Layers of tpm2-tss from 1 on, but for the resource managers, which speak as
                // the TPM does.
                match code >> 16 {
                    0 | 0x0B | 0x0C => refused(command, Code::new(code)),
                    // ESYS, of an answer whose HMAC is wrong.
                    0x07 if code & 0xFFFF == 0x0026 => TpmError::Tampered { command },
                    // ESYS, of an answer that failed one of its other checks.
                    0x06..=0x09 => TpmError::Garbage { what: command },
                    _ => TpmError::Transport(std::io::Error::other(error)),
                }
            }
            Error::WrapperError(_) => TpmError::Garbage { what: command },
        })
    }
}

/// The whole number of a response code. The wrapper gives it out in its text alone.
fn number(code: Tss2ResponseCode) -> u32 {
    let text = match code {
        Tss2ResponseCode::Success => return 0,
        Tss2ResponseCode::FormatZero(code) => code.to_string(),
        Tss2ResponseCode::FormatOne(code) => code.to_string(),
    };
    text.rsplit_once("0x")
        .and_then(|(_, digits)| u32::from_str_radix(digits, 16).ok())
        .unwrap_or(Code::FAILURE)
}

/// A sized buffer of the wrapper.
pub(super) fn buffer<'a, B: TryFrom<&'a [u8]>>(bytes: &'a [u8]) -> Result<B, TpmError> {
    B::try_from(bytes).map_err(|_| TpmError::Misuse {
        what: "more bytes than the TPM's structure can have",
    })
}

pub(super) fn hashing(bank: HashAlg) -> HashingAlgorithm {
    match bank {
        HashAlg::Sha1 => HashingAlgorithm::Sha1,
        HashAlg::Sha256 => HashingAlgorithm::Sha256,
        HashAlg::Sha384 => HashingAlgorithm::Sha384,
        HashAlg::Sha512 => HashingAlgorithm::Sha512,
    }
}

pub(super) fn bank_of(hashing: HashingAlgorithm) -> Option<HashAlg> {
    HashAlg::from_id(hashing.into())
}

pub(super) fn selection_list(selection: &PcrSelection) -> Result<PcrSelectionList, TpmError> {
    let impossible = |_| TpmError::Misuse {
        what: "a PCR that does not exist",
    };
    let slots: Vec<PcrSlot> = selection
        .pcrs()
        .map(|pcr| PcrSlot::try_from(1_u32 << pcr))
        .collect::<Result<_, _>>()
        .map_err(impossible)?;
    PcrSelectionList::builder()
        .with_selection(hashing(selection.bank()), &slots)
        .build()
        .map_err(impossible)
}

/// Our public area as the wrapper's.
pub(super) fn to_tss(public: &[u8]) -> Result<TssPublic, TpmError> {
    TssPublic::unmarshall(public).map_err(|_| TpmError::Damaged {
        what: "public area".to_owned(),
    })
}

/// The wrapper's public area as ours.
pub(super) fn from_tss(public: &TssPublic) -> Result<Public, TpmError> {
    let bytes = public.marshall().asked("public area")?;
    Ok(Public::parse(&bytes)?)
}
