//! Random bytes from the kernel. A failure is an error; no weaker source ever steps in.

use crate::CryptoError;

/// Fills `bytes` from the kernel's random generator (getrandom, blocking until it is seeded).
///
/// # Errors
/// [`CryptoError::Random`]; `bytes` then holds nothing that may be used.
pub fn fill(bytes: &mut [u8]) -> Result<(), CryptoError> {
    getrandom::fill(bytes).map_err(|e| CryptoError::Random(e.to_string()))
}
