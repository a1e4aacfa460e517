//! Random bytes from the kernel. A failure is an error; no weaker source ever steps in.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::CryptoError;

/// Fills `bytes` from the kernel's random generator (getrandom, blocking until it is seeded).
/// By the system call itself, as the C library of a static program can leave others to look for a file.
///
/// # Errors
/// [`CryptoError::Random`]; `bytes` then holds nothing that may be used.
pub fn fill(bytes: &mut [u8]) -> Result<(), CryptoError> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match getrandom(rest, GetRandomFlags::empty()) {
            Ok(some) => filled += some,
            Err(Errno::INTR) => {}
            Err(error) => return Err(CryptoError::Random(error.to_string())),
        }
    }
    Ok(())
}
