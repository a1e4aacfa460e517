//! What firmware logs with its events: variables, boot entries, images, named blobs.

use std::fmt::Write as _;

use super::cursor::Cursor;
use super::{LogError, path};

/// `UEFI_VARIABLE_DATA` (PFP, 10.4.2.6).
pub(super) struct Variable<'a> {
    /// Its vendor, as people write it.
    pub(super) vendor: String,
    pub(super) name: String,
    pub(super) data: &'a [u8],
}

impl<'a> Variable<'a> {
    pub(super) fn read(data: &'a [u8]) -> Result<Self, LogError> {
        const WHAT: &str = "EFI variable";
        let mut cursor = Cursor::new(data);
        let vendor = guid(cursor.bytes(16, WHAT)?);
        let name_units = cursor.u64(WHAT)?;
        let data_len = cursor.u64(WHAT)?;
        let name_len = name_units.checked_mul(2).ok_or(cursor.fail(WHAT))?;
        let name = utf16(cursor.long(name_len, WHAT)?);
        let data = cursor.long(data_len, WHAT)?;
        cursor.end(WHAT)?;
        Ok(Self { vendor, name, data })
    }
}

/// Description and file of an `EFI_LOAD_OPTION`, the value of a variable such as Boot0001 (UEFI,
/// 3.1.3).
pub(super) fn load_option(data: &[u8]) -> Result<(String, String), LogError> {
    const WHAT: &str = "boot entry";
    let mut cursor = Cursor::new(data);
    cursor.u32(WHAT)?;
    let path_len = cursor.u16(WHAT)?;
    let (units, _) = cursor.rest().as_chunks::<2>();
    let len = units
        .iter()
        .position(|unit| *unit == [0, 0])
        .ok_or(cursor.fail(WHAT))?;
    let description = utf16(cursor.bytes(2 * len + 2, WHAT)?);
    let path = path::text(cursor.bytes(path_len.into(), WHAT)?)?;
    Ok((description, path))
}

/// The path of a `UEFI_IMAGE_LOAD_EVENT` (PFP, 10.4.2.3).
pub(super) fn image(data: &[u8]) -> Result<String, LogError> {
    const WHAT: &str = "image load event";
    let mut cursor = Cursor::new(data);
    // Where it was loaded, how long it was and where it wanted to be.
    cursor.bytes(24, WHAT)?;
    let len = cursor.u64(WHAT)?;
    let path = path::text(cursor.long(len, WHAT)?)?;
    cursor.end(WHAT)?;
    Ok(path)
}

/// The name of a `UEFI_PLATFORM_FIRMWARE_BLOB2` or `UEFI_HANDOFF_TABLE_POINTERS2` (PFP, 10.4.2.4 and
/// 10.4.2.5).
pub(super) fn named(data: &[u8]) -> Result<String, LogError> {
    const WHAT: &str = "name";
    let mut cursor = Cursor::new(data);
    let len = cursor.u8(WHAT)?;
    let name = cursor.bytes(len.into(), WHAT)?;
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The content of a `TCG_PCClientTaggedEvent`, without its number (PFP, 10.4.2.1).
pub(super) fn tagged(data: &[u8]) -> Result<&[u8], LogError> {
    const WHAT: &str = "tagged event";
    let mut cursor = Cursor::new(data);
    cursor.u32(WHAT)?;
    let len = cursor.u32(WHAT)?;
    let content = cursor.long(len.into(), WHAT)?;
    cursor.end(WHAT)?;
    Ok(content)
}

/// The name of the one whom a certificate is for, found without reading the certificate: its second
/// common name, as the issuer's stands first (RFC 5280, 4.1).
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
    let mut names = certificate
        .windows(COMMON_NAME.len())
        .enumerate()
        .filter(|(_, window)| *window == COMMON_NAME)
        .filter_map(|(at, _)| {
            let [tag, len, rest @ ..] = certificate.get(at + COMMON_NAME.len()..)? else {
                return None;
            };
            let value = rest.get(..usize::from(*len))?;
            // UTF8String, PrintableString, TeletexString.
            [0x0C, 0x13, 0x14]
                .contains(tag)
                .then(|| String::from_utf8_lossy(value).into_owned())
        });
    let issuer = names.next()?;
    Some(names.next().unwrap_or(issuer))
}

/// Text as firmware has it, as far as its zero.
pub(super) fn utf16(bytes: &[u8]) -> String {
    let (units, _) = bytes.as_chunks::<2>();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// A GUID of 16 bytes as people write it: its first three fields are little-endian (UEFI, appendix A).
pub(super) fn guid(bytes: &[u8]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (place, at) in ORDER.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&place) {
            text.push('-');
        }
        write!(text, "{:02x}", bytes[at]).expect("a String takes what it gets");
    }
    text
}
