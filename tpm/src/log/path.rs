//! Device paths (UEFI, 10.3): the node that a person knows a thing by.

use super::cursor::Cursor;
use super::{LogError, efi};

/// Most nodes of a path; real ones have up to ten.
const MAX_NODES: usize = 64;

const WHAT: &str = "device path";

/// The file path of a device path ("\EFI\debian\shimx64.efi"), else what comes nearest to it: where
/// it is from the network or the firmware itself, or a PCI device. Empty for an empty path.
pub(super) fn text(bytes: &[u8]) -> Result<String, LogError> {
    let mut cursor = Cursor::new(bytes);
    let mut file = String::new();
    let mut nearest = String::new();
    for _ in 0..MAX_NODES {
        if cursor.rest().is_empty() {
            break;
        }
        let (kind, sub) = (cursor.u8(WHAT)?, cursor.u8(WHAT)?);
        let len = usize::from(cursor.u16(WHAT)?);
        let len = len.checked_sub(4).ok_or(cursor.fail(WHAT))?;
        let mut node = Cursor::new(cursor.bytes(len, WHAT)?);
        match (kind, sub) {
            (0x7F, 0xFF) => break,
            (0x01, 0x01) => {
                let (function, device) = (node.u8(WHAT)?, node.u8(WHAT)?);
                nearest = format!("PCI device {device:02x}.{function}");
            }
            (0x03, 0x18) => nearest = String::from_utf8_lossy(node.rest()).into_owned(),
            // A path may stand in several nodes, which are put together (UEFI, 10.3.5.4).
            (0x04, 0x04) => {
                let part = efi::utf16(node.rest());
                if !file.is_empty() && !file.ends_with('\\') && !part.starts_with('\\') {
                    file.push('\\');
                }
                file.push_str(&part);
            }
            (0x04, 0x06) => {
                nearest = format!("firmware file {}", efi::guid(node.bytes(16, WHAT)?));
            }
            _ => {}
        }
    }
    Ok(if file.is_empty() { nearest } else { file })
}
