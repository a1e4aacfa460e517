//! The public areas that are asked for.

use crate::tpm::{Lock, PrimaryTemplate};
use crate::wire::{Attributes, Public};

/// A storage key without a policy whose secret part the TPM makes.
const STORAGE: Attributes = Attributes::FIXED_TPM
    .with(Attributes::FIXED_PARENT)
    .with(Attributes::SENSITIVE_DATA_ORIGIN)
    .with(Attributes::USER_WITH_AUTH)
    .with(Attributes::RESTRICTED)
    .with(Attributes::DECRYPT);

/// The storage root key of the TCG's provisioning guidance, on P-256.
pub(crate) fn storage_root() -> Vec<u8> {
    Public::ecc_storage_template(STORAGE.with(Attributes::NO_DA))
}

/// A key that is made anew each time.
pub(crate) fn primary(template: PrimaryTemplate) -> Vec<u8> {
    match template {
        PrimaryTemplate::LegacyEcc => Public::ecc_storage_template(STORAGE),
        PrimaryTemplate::LegacyRsa => Public::rsa_storage_template(STORAGE),
    }
}

/// Sealed data.
pub(crate) fn sealed(attributes: Attributes, lock: &Lock<'_>, unique: &[u8]) -> Public {
    let attributes = if lock.counts_tries {
        attributes
    } else {
        attributes.with(Attributes::NO_DA)
    };
    Public::sealed(attributes, &lock.policy.0, unique)
}

/// Sealed data of this TPM alone.
pub(crate) fn sealed_here(lock: &Lock<'_>) -> Public {
    let fixed = Attributes::FIXED_TPM.with(Attributes::FIXED_PARENT);
    sealed(fixed, lock, &[])
}
