//! Whether Secure Boot is on: the last byte of a variable of the firmware (UEFI, "Globally Defined
//! Variables"), behind the four of its attributes.

use std::fs;

const VARIABLE: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Whether it is; `None` where it cannot be seen.
pub(crate) fn is_on() -> Option<bool> {
    fs::read(VARIABLE).ok().and_then(|bytes| read(&bytes))
}

fn read(variable: &[u8]) -> Option<bool> {
    variable.last().map(|byte| *byte == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_off_or_unknown() {
        assert_eq!(read(&[6, 0, 0, 0, 1]), Some(true));
        assert_eq!(read(&[6, 0, 0, 0, 0]), Some(false));
        assert_eq!(read(&[]), None);
    }
}
