//! What a refusal means, by what was asked: both back ends give the same errors.

use crate::code::Code;
use crate::error::TpmError;
use crate::tpm::{NvAuth, StorageKey};

/// A wrong authorization where the owner's was used.
pub(crate) fn owner_error(error: TpmError) -> TpmError {
    match error.code() {
        Some(Code::AUTH_FAIL | Code::BAD_AUTH) => TpmError::HierarchyAuth {
            what: "owner authorization",
        },
        _ => error,
    }
}

/// A wrong authorization where that over dictionary attacks was used.
pub(crate) fn lockout_error(error: TpmError) -> TpmError {
    match error.code() {
        Some(Code::AUTH_FAIL | Code::BAD_AUTH) => TpmError::HierarchyAuth {
            what: "lockout authorization",
        },
        _ => error,
    }
}

/// A wrong authorization where that of a storage key was used.
pub(crate) fn parent_error(error: TpmError) -> TpmError {
    match error.code() {
        Some(Code::AUTH_FAIL | Code::BAD_AUTH) => TpmError::HierarchyAuth {
            what: "storage key's authorization",
        },
        _ => error,
    }
}

/// Why an object could not be loaded or imported under a key.
pub(crate) fn object_error(under: &StorageKey, error: TpmError) -> TpmError {
    match (error.code(), under) {
        // The name of a persistent key was compared before, so it is the object.
        (Some(Code::INTEGRITY), StorageKey::Primary(_)) => TpmError::WrongTpm {
            detail: "it did not seal this secret".to_owned(),
        },
        (Some(Code::AUTH_FAIL | Code::BAD_AUTH), _) => parent_error(error),
        // Any other complaint about a parameter is about what was in the token.
        (Some(code), _) if code & 0x80 != 0 => TpmError::Damaged {
            what: format!("sealed secret ({error})"),
        },
        _ => error,
    }
}

/// Why an object was not unsealed.
pub(crate) fn unseal_error(error: TpmError) -> TpmError {
    match error.code() {
        Some(Code::AUTH_FAIL) => TpmError::WrongPin { counted: true },
        Some(Code::BAD_AUTH) => TpmError::WrongPin { counted: false },
        Some(Code::POLICY_FAIL | Code::POLICY) => TpmError::PolicyMismatch {
            detail: "the TPM says so".to_owned(),
        },
        _ => error,
    }
}

/// Gives the refusal of an assertion its meaning.
pub(crate) fn mismatch(error: TpmError, detail: impl FnOnce() -> String) -> TpmError {
    match error.code() {
        Some(Code::VALUE | Code::POLICY | Code::POLICY_FAIL) => {
            TpmError::PolicyMismatch { detail: detail() }
        }
        _ => error,
    }
}

/// Why a signature was not accepted.
pub(crate) fn signature_error(error: TpmError) -> TpmError {
    match error.code() {
        Some(Code::SIGNATURE | Code::VALUE | Code::SIZE) => TpmError::BadSignature,
        _ => error,
    }
}

/// What a refusal means where an index is used.
pub(crate) fn index_error(index: u32, by: &NvAuth<'_>, error: TpmError) -> TpmError {
    let TpmError::Refused { code, .. } = error else {
        return error;
    };
    match code.base() {
        Code::HANDLE => TpmError::NoSuchIndex { index },
        Code::NV_LOCKED
        | Code::NV_AUTHORIZATION
        | Code::NV_UNINITIALIZED
        | Code::NV_DEFINED
        | Code::AUTH_UNAVAILABLE
        | Code::ATTRIBUTES => TpmError::IndexRefused { index, code },
        Code::POLICY_FAIL | Code::POLICY => TpmError::PolicyMismatch {
            detail: format!("of NV index {index:#010x}"),
        },
        Code::AUTH_FAIL | Code::BAD_AUTH => match by {
            NvAuth::Owner => TpmError::HierarchyAuth {
                what: "owner authorization",
            },
            _ => TpmError::WrongPin {
                counted: code.base() == Code::AUTH_FAIL,
            },
        },
        _ => error,
    }
}
