//! What a PCR is extended by for a given content.

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::hash::HashAlg;

/// The digest of this content: of a file for GRUB's PCR 9, of a command without its prefix
/// ("grub_cmd: ") for GRUB's PCR 8, of an initrd for the kernel's EFI stub, which measures it into
/// PCR 9.
#[must_use]
pub fn measure(bank: HashAlg, content: &[u8]) -> Vec<u8> {
    of(bank, &[content])
}

/// The digest of a kernel command line as the kernel's EFI stub measures it into PCR 9: as UTF-16
/// with the zero at its end, if its loader gave it one.
#[must_use]
pub fn load_options_digest(bank: HashAlg, command_line: &str) -> Vec<u8> {
    let units = command_line.encode_utf16().chain([0]);
    measure(bank, &units.flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
}

/// The digest of a kernel command line as systemd's boot loader and stub measure it into PCR 12, and the
/// kernel's stub what GRUB gave it into PCR 9: as UTF-16 without a zero at its end.
#[must_use]
pub fn systemd_command_line_digest(bank: HashAlg, command_line: &str) -> Vec<u8> {
    let units = command_line.encode_utf16();
    measure(bank, &units.flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
}

/// The value of a PCR after an extend (Part 1, 17.2).
pub(super) fn extend(bank: HashAlg, value: &[u8], digest: &[u8]) -> Vec<u8> {
    of(bank, &[value, digest])
}

/// Hash of the parts, one after the other.
pub(super) fn of(bank: HashAlg, parts: &[&[u8]]) -> Vec<u8> {
    fn with<H: Digest>(parts: &[&[u8]]) -> Vec<u8> {
        let mut hash = H::new();
        for part in parts {
            hash.update(part);
        }
        hash.finalize().to_vec()
    }
    match bank {
        HashAlg::Sha1 => with::<Sha1>(parts),
        HashAlg::Sha256 => with::<Sha256>(parts),
        HashAlg::Sha384 => with::<Sha384>(parts),
        HashAlg::Sha512 => with::<Sha512>(parts),
    }
}
