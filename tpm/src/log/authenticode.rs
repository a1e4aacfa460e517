//! The digest of an EFI image, as firmware measures it into PCR 4 and as its signature covers it.
//!
//! Source: "Windows Authenticode Portable Executable Signature Format", 1.0, "Calculating the PE
//! Image Hash", in the way of EDK2's `HashPeImage`: everything but the checksum, the entry of the
//! certificate table, and the certificates, sections in the order in which they stand in the file.

use super::LogError;
use super::cursor::Cursor;
use super::measure;
use crate::hash::HashAlg;

/// Longest image that is read, in bytes: one with a kernel and an initrd has some 100 MiB.
const MAX_IMAGE_BYTES: usize = 1 << 30;

/// Most sections (the loader of EDK2 takes as many as fit; real images have 4 to 20).
const MAX_SECTIONS: u16 = 96;

/// Place of the checksum in the optional header, and its length, in bytes.
const CHECKSUM: usize = 64;
const CHECKSUM_BYTES: usize = 4;

/// The data directory of certificates, and the size of an entry in bytes.
const CERTIFICATES: u32 = 4;
const DIRECTORY_BYTES: usize = 8;

/// The Authenticode digest of a PE image. Its certificates do not count; programs that sign fill an
/// image up to a multiple of eight bytes before, and these bytes do.
///
/// # Errors
/// [`LogError::NotAnImage`] if it is not one to its last byte: sections that overlap, or lie outside
/// of the file, could be hashed in more than one way.
pub fn authenticode_digest(bank: HashAlg, image: &[u8]) -> Result<Vec<u8>, LogError> {
    let layout = Layout::read(image)?;
    let mut parts = vec![
        part(image, 0, layout.checksum)?,
        part(image, layout.checksum + CHECKSUM_BYTES, layout.directory)?,
        part(
            image,
            layout.directory + layout.directory_len,
            layout.headers_end,
        )?,
    ];
    let mut end = layout.headers_end;
    for Section { begin, len, .. } in &layout.sections {
        if *begin < end {
            return Err(fail("overlapping sections"));
        }
        // What lies between is in no section, so no signature covers it.
        let section_end = begin.checked_add(*len).ok_or(fail("section"))?;
        parts.push(part(image, *begin, section_end)?);
        end = section_end;
    }
    // What follows the sections counts, as far as the certificates. EDK2 finds its begin by the sum
    // of what was hashed, so after a gap between sections some bytes count twice.
    let hashed: usize = layout
        .sections
        .iter()
        .fold(layout.headers_end, |sum, section| sum + section.len);
    let unsigned_end = image
        .len()
        .checked_sub(layout.certificates_len)
        .ok_or(fail("certificates"))?;
    if end > unsigned_end {
        return Err(fail("certificates"));
    }
    parts.push(part(image, hashed, unsigned_end)?);
    Ok(measure::of(bank, &parts))
}

/// Where the parts are, in bytes from the start of the file.
struct Layout {
    checksum: usize,
    /// Of the certificates' entry. Its length is none in an image without one.
    directory: usize,
    directory_len: usize,
    headers_end: usize,
    /// What each section has in the file, in that order.
    sections: Vec<Section>,
    certificates_len: usize,
}

/// A part of an image with a name. Sorted by where it begins in the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Section {
    begin: usize,
    len: usize,
    /// How long it is in memory; what a file has beyond that is filling.
    used: usize,
    name: [u8; 8],
}

/// The content of a section (".linux") of a unified kernel image, as systemd's stub measures it. `None`
/// if the image has no such section.
///
/// # Errors
/// [`LogError::NotAnImage`].
pub fn image_section<'a>(image: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, LogError> {
    let layout = Layout::read(image)?;
    let is_it = |section: &&Section| {
        let end = section.name.iter().position(|byte| *byte == 0);
        section.name[..end.unwrap_or(section.name.len())] == *name.as_bytes()
    };
    let found = layout.sections.iter().find(is_it);
    found
        .map(|section| {
            part(
                image,
                section.begin,
                section.begin + section.used.min(section.len),
            )
        })
        .transpose()
}

impl Layout {
    fn read(image: &[u8]) -> Result<Self, LogError> {
        if image.len() > MAX_IMAGE_BYTES {
            return Err(fail("too long"));
        }
        let mut dos = Cursor::new(image);
        expect(&mut dos, b"MZ", "no MZ at its begin")?;
        skip(&mut dos, 58)?;
        let pe = usize_of(take_u32(&mut dos)?);
        let mut cursor = Cursor::new(image.get(pe..).ok_or(fail("PE header"))?);
        expect(&mut cursor, b"PE\0\0", "no PE header")?;
        skip(&mut cursor, 2)?;
        let sections = take_u16(&mut cursor)?;
        skip(&mut cursor, 12)?;
        let optional_len = usize::from(take_u16(&mut cursor)?);
        skip(&mut cursor, 2)?;
        if sections > MAX_SECTIONS {
            return Err(fail("number of sections"));
        }

        let optional_at = pe + 24;
        let optional = cursor
            .bytes(optional_len, "")
            .map_err(|_| fail("optional header"))?;
        let mut inside = Cursor::new(optional);
        // PE32 and PE32+ differ in the size of some fields before the directories.
        let directories_at = match take_u16(&mut inside)? {
            0x010B => 96,
            0x020B => 112,
            _ => return Err(fail("kind of optional header")),
        };
        skip(&mut inside, 58)?;
        let headers_end = usize_of(take_u32(&mut inside)?);
        skip(&mut inside, directories_at - 4 - 64)?;
        let directories = take_u32(&mut inside)?;
        let (directory, directory_len, table) = if directories > CERTIFICATES {
            skip(&mut inside, usize_of(CERTIFICATES) * DIRECTORY_BYTES)?;
            let begin = usize_of(take_u32(&mut inside)?);
            let len = usize_of(take_u32(&mut inside)?);
            let place = directories_at + usize_of(CERTIFICATES) * DIRECTORY_BYTES;
            (optional_at + place, DIRECTORY_BYTES, (begin, len))
        } else {
            let place = directories_at.min(optional_len);
            (optional_at + place, 0, (0, 0))
        };
        // They are at the end of the file, or the digest would leave other bytes out.
        let (begin, certificates_len) = table;
        if certificates_len != 0 && begin.checked_add(certificates_len) != Some(image.len()) {
            return Err(fail("certificates are not at its end"));
        }

        let mut found = Vec::new();
        for _ in 0..sections {
            let name = cursor.bytes(8, "").map_err(|_| fail("header"))?;
            let name = name.try_into().expect("8 bytes were read");
            let used = usize_of(take_u32(&mut cursor)?);
            skip(&mut cursor, 4)?;
            let len = usize_of(take_u32(&mut cursor)?);
            let begin = usize_of(take_u32(&mut cursor)?);
            skip(&mut cursor, 16)?;
            if len != 0 {
                found.push(Section {
                    begin,
                    len,
                    used,
                    name,
                });
            }
        }
        found.sort_unstable();
        let read = image.len() - cursor.rest().len();
        if headers_end < read || headers_end > image.len() {
            return Err(fail("size of headers"));
        }
        Ok(Self {
            checksum: optional_at + CHECKSUM,
            directory,
            directory_len,
            headers_end,
            sections: found,
            certificates_len,
        })
    }
}

fn part(image: &[u8], begin: usize, end: usize) -> Result<&[u8], LogError> {
    image.get(begin..end).ok_or(fail("section"))
}

fn fail(what: &'static str) -> LogError {
    LogError::NotAnImage { what }
}

fn expect(cursor: &mut Cursor<'_>, word: &[u8], what: &'static str) -> Result<(), LogError> {
    match cursor.bytes(word.len(), "") {
        Ok(found) if found == word => Ok(()),
        _ => Err(fail(what)),
    }
}

fn skip(cursor: &mut Cursor<'_>, len: usize) -> Result<(), LogError> {
    cursor.bytes(len, "").map_err(|_| fail("header"))?;
    Ok(())
}

fn take_u16(cursor: &mut Cursor<'_>) -> Result<u16, LogError> {
    cursor.u16("").map_err(|_| fail("header"))
}

fn take_u32(cursor: &mut Cursor<'_>) -> Result<u32, LogError> {
    cursor.u32("").map_err(|_| fail("header"))
}

fn usize_of(number: u32) -> usize {
    usize::try_from(number).expect("at least 32 bits")
}
