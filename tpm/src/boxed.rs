//! A TPM behind a pointer, where it is known only at run time which back end it is.

use luksmith_crypto::SecretBytes;

use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::pcr::{PcrSelection, PcrValues};
use crate::policy::Policy;
use crate::tpm::{Facts, Lock, Lockout, LockoutRules, NvAuth, NvLock, Sealed, StorageKey, Tpm};
use crate::wire::NvPublic;

/// Forwards each method.
macro_rules! forwarded {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&mut self, $($argument: $kind),*) -> $answer {
            (**self).$name($($argument),*)
        })*
    };
}

impl<T: Tpm + ?Sized> Tpm for Box<T> {
    fn back_end(&self) -> &'static str {
        (**self).back_end()
    }

    forwarded! {
        facts() -> Result<Facts, TpmError>;
        lockout() -> Result<Lockout, TpmError>;
        banks() -> Result<Vec<HashAlg>, TpmError>;
        read_pcrs(selection: &PcrSelection) -> Result<PcrValues, TpmError>;
        extend_pcr(bank: HashAlg, pcr: u8, digest: &[u8]) -> Result<(), TpmError>;
        storage_root() -> Result<StorageKey, TpmError>;
        seal(under: &StorageKey, secret: &SecretBytes, lock: &Lock<'_>) -> Result<Sealed, TpmError>;
        unseal(
            under: &StorageKey,
            sealed: &Sealed,
            policy: &Policy,
            auth: Option<&AuthValue>
        ) -> Result<SecretBytes, TpmError>;
        trial(policy: &Policy) -> Result<Digest, TpmError>;
        nv_public(index: u32) -> Result<NvPublic, TpmError>;
        nv_define(public: &NvPublic, auth: Option<&AuthValue>) -> Result<(), TpmError>;
        nv_undefine(index: u32) -> Result<(), TpmError>;
        nv_write(index: u32, by: &NvAuth<'_>, contents: &SecretBytes) -> Result<(), TpmError>;
        nv_read(index: u32, by: &NvAuth<'_>) -> Result<SecretBytes, TpmError>;
        nv_increment(index: u32, by: &NvAuth<'_>) -> Result<(), TpmError>;
        nv_lock(index: u32, by: &NvAuth<'_>, lock: NvLock) -> Result<(), TpmError>;
        reset_lockout(auth: Option<&AuthValue>) -> Result<(), TpmError>;
        set_lockout_rules(rules: &LockoutRules, auth: Option<&AuthValue>) -> Result<(), TpmError>;
        set_lockout_auth(new: &AuthValue, old: Option<&AuthValue>) -> Result<(), TpmError>;
    }
}
