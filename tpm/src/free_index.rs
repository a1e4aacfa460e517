//! Handles for NV indices that nobody uses.

use luksmith_crypto::random;

use crate::error::TpmError;
use crate::tpm::Tpm;

/// Where indices of an owner's programs lie (TCG registry of reserved handles), first and number.
const FIRST: u32 = 0x0180_0000;
const HANDLES: u32 = 0x0040_0000;
/// How many places are looked at; that so many are taken does not happen.
const TRIES: usize = 16;

/// The first of `count` free handles that follow one another, at a place by chance.
///
/// # Errors
/// [`TpmError::Unsupported`] if none was found; those of talking to the TPM, and of random numbers.
pub(crate) fn free_handles(tpm: &mut dyn Tpm, count: u32) -> Result<u32, TpmError> {
    for _ in 0..TRIES {
        let mut number = [0; 4];
        random::fill(&mut number)?;
        let first = FIRST + u32::from_be_bytes(number) % (HANDLES - count + 1);
        let mut is_free =
            |handle| matches!(tpm.nv_public(handle), Err(TpmError::NoSuchIndex { .. }));
        if (first..first + count).all(&mut is_free) {
            return Ok(first);
        }
    }
    Err(TpmError::Unsupported {
        what: "no free NV index".to_owned(),
    })
}
