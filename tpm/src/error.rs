//! What can go wrong with a TPM: one error for each thing that leads to another next step.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use luksmith_crypto::CryptoError;

use crate::code::Code;

/// An error of this crate. No variant ever carries secret bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// There is no TPM (yet): waiting may help.
    #[error("no TPM at {address}")]
    NotPresent {
        /// Where it was looked for.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The way to the TPM broke.
    #[error("cannot talk to the TPM")]
    Transport(#[source] io::Error),
    /// The machine's state, or another assertion of the policy, is not what was sealed to. Asking
    /// again gives the same answer.
    #[error("the policy does not match: {detail}")]
    PolicyMismatch {
        /// Which part, as far as it is known.
        detail: String,
    },
    /// The machine's state would fit, were it not for PCR 15: a volume key was measured into it in this
    /// boot. To bind the secret anew would change nothing; the next boot does.
    #[error("too late in this boot: {detail}")]
    TooLate {
        /// What is over.
        detail: String,
    },
    /// The object needs an authorization value and none was given. The TPM was not asked.
    #[error("a PIN is needed")]
    PinNeeded,
    /// The authorization value is wrong.
    #[error("wrong PIN")]
    WrongPin {
        /// Whether the TPM counts this try.
        counted: bool,
    },
    /// Too many wrong tries. Do not touch what is protected again before it is over.
    #[error("the TPM is locked out after too many wrong tries")]
    LockedOut {
        /// Time after which at the latest one try is open again, if the TPM stays powered.
        remaining: Option<Duration>,
    },
    /// Another TPM, a cleared one, or one that somebody put between.
    #[error("another TPM than the one that was sealed to: {detail}")]
    WrongTpm {
        /// How it was told.
        detail: String,
    },
    /// The hierarchy or index needs an authorization value that was not given, or another one.
    #[error("the TPM's {what} is set, and was not given or is wrong")]
    HierarchyAuth {
        /// "owner authorization", "lockout authorization".
        what: &'static str,
    },
    /// There is no such NV index.
    #[error("there is no NV index {index:#010x}")]
    NoSuchIndex {
        /// Its handle.
        index: u32,
    },
    /// The NV index is locked until the next start, or was never written, or does not allow this.
    #[error("NV index {index:#010x} does not permit this: {code}")]
    IndexRefused {
        /// Its handle.
        index: u32,
        /// What the TPM said.
        code: Code,
    },
    /// The PCR bank is not there or not in use.
    #[error("the TPM has no live PCR bank {bank}")]
    NoSuchBank {
        /// Its hash.
        bank: &'static str,
    },
    /// A signature over a policy does not verify.
    #[error("the signature of the policy is not valid")]
    BadSignature,
    /// A token needs a file beside the TPM, and there is none.
    #[error("there is no {name}")]
    NoPolicyFile {
        /// Its name: `tpm2-pcr-signature.json`, `tpm2-pcr-public-key.pem` or `pcrlock.json`.
        name: &'static str,
        /// Where it was looked for.
        paths: Vec<PathBuf>,
    },
    /// Such a file cannot be read.
    #[error("cannot read {}", path.display())]
    PolicyFile {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No signature is by the key of the token and for its purpose, whatever the values: the file
    /// belongs to another kernel image or the key was changed.
    #[error("nothing is signed by this token's key about PCR {pcrs} of bank {bank}{}",
        purpose.as_ref().map_or_else(String::new, |purpose| format!(" for {purpose:?}")))]
    NoSignature {
        /// The PCRs, "7+11".
        pcrs: String,
        /// Their bank.
        bank: &'static str,
        /// What it would have to be signed for, if it matters.
        purpose: Option<String>,
    },
    /// The file of the policy is not the one that the NV index holds: one of them was made anew
    /// without the other.
    #[error("the pcrlock policy is stale: NV index {index:#010x} holds another one")]
    StalePolicy {
        /// Handle of the index.
        index: u32,
    },
    /// The TPM was busy until patience ended.
    #[error("the TPM stayed busy ({code})")]
    Busy {
        /// What it said last.
        code: Code,
    },
    /// The TPM has no room for an object, a session or an index.
    #[error("the TPM is full ({code})")]
    Full {
        /// What it said.
        code: Code,
    },
    /// The TPM refused for a reason that has no meaning of its own here.
    #[error("the TPM refused {command}: {code}")]
    Refused {
        /// The command.
        command: &'static str,
        /// What it said.
        code: Code,
    },
    /// The answer is not one that a TPM gives.
    #[error("the TPM's answer makes no sense: {what}")]
    Garbage {
        /// What could not be read.
        what: &'static str,
    },
    /// The answer was changed on its way, or comes from something that does not know the key of
    /// the session.
    #[error("the TPM's answer to {command} is not authentic")]
    Tampered {
        /// The command.
        command: &'static str,
    },
    /// The token or blob makes no sense.
    #[error("damaged: {what}")]
    Damaged {
        /// What could not be read.
        what: String,
    },
    /// A back end cannot do it; the other one can.
    #[error("the back end {back_end} cannot do {what}")]
    BackEnd {
        /// Its name.
        back_end: &'static str,
        /// The command or mode.
        what: &'static str,
    },
    /// Neither back end, or this TPM, can do it.
    #[error("unsupported: {what}")]
    Unsupported {
        /// What.
        what: String,
    },
    /// The caller asked for something that cannot be.
    #[error("cannot be asked of a TPM: {what}")]
    Misuse {
        /// What.
        what: &'static str,
    },
    /// Secret memory, random numbers or a derivation failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// A response code without the context that gives it a meaning of its own.
pub(crate) fn refused(command: &'static str, code: Code) -> TpmError {
    match code.base() {
        Code::LOCKOUT => TpmError::LockedOut { remaining: None },
        Code::NV_SPACE => TpmError::Full { code },
        Code::COMMAND_CODE => TpmError::Unsupported {
            what: format!("this TPM has no {command}"),
        },
        _ if code.is_out_of_room() => TpmError::Full { code },
        _ if code.is_retry() => TpmError::Busy { code },
        _ => TpmError::Refused { command, code },
    }
}

impl TpmError {
    /// The response code of a refusal that has no meaning of its own yet.
    #[must_use]
    pub(crate) fn code(&self) -> Option<u32> {
        match self {
            Self::Refused { code, .. } => Some(code.base()),
            _ => None,
        }
    }
}
