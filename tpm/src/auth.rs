//! Authorization values: what proves to a TPM that somebody may use an object.

use luksmith_crypto::{CryptoError, SecretBytes};

/// An authorization value, without the zero bytes at its end, which a TPM does not keep.
pub struct AuthValue(SecretBytes);

/// The longest value that an object named by SHA-256 can have, in bytes.
pub const MAX_AUTH_BYTES: usize = 32;

impl AuthValue {
    /// Takes at most [`MAX_AUTH_BYTES`] bytes.
    ///
    /// # Errors
    /// For a longer one.
    pub fn new(mut bytes: SecretBytes) -> Result<Self, CryptoError> {
        if bytes.len() > MAX_AUTH_BYTES {
            return Err(CryptoError::Length {
                what: "authorization value in bytes",
                is: bytes.len() as u64,
            });
        }
        let zeros = bytes.expose().iter().rev().take_while(|byte| **byte == 0);
        let len = bytes.len() - zeros.count();
        bytes.truncate(len);
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    /// Whether there are none, which a TPM takes as "no authorization value".
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_bytes_at_the_end_are_dropped_and_those_within_are_not() {
        let value = |bytes: &[u8]| {
            AuthValue::new(SecretBytes::take_from(&mut bytes.to_vec()).unwrap()).unwrap()
        };
        assert_eq!(value(&[0, 7, 0, 9, 0, 0]).expose(), [0, 7, 0, 9]);
        assert!(value(&[0, 0]).is_empty());
        let long = SecretBytes::zeroed(33).unwrap();
        assert!(AuthValue::new(long).is_err());
    }
}
