//! Writes logs, without the code that reads them.

use luksmith_tpm::HashAlg;
use luksmith_tpm::log::measure;

/// A record before it is written.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) pcr: u32,
    pub(crate) kind: u32,
    /// What is hashed.
    pub(crate) content: Vec<u8>,
    /// What is logged.
    pub(crate) data: Vec<u8>,
}

pub(crate) const NO_ACTION: u32 = 3;
pub(crate) const SEPARATOR: u32 = 4;
pub(crate) const VERSION: u32 = 8;
pub(crate) const IPL: u32 = 0x0D;
pub(crate) const VARIABLE: u32 = 0x8000_0001;
pub(crate) const VARIABLE_BOOT: u32 = 0x8000_0002;
pub(crate) const APPLICATION: u32 = 0x8000_0003;
pub(crate) const DRIVER: u32 = 0x8000_0004;
pub(crate) const ACTION: u32 = 0x8000_0007;
pub(crate) const AUTHORITY: u32 = 0x8000_00E0;

/// What is hashed is what is logged.
pub(crate) fn record(pcr: u32, kind: u32, data: &[u8]) -> Record {
    of_content(pcr, kind, data, data)
}

pub(crate) fn of_content(pcr: u32, kind: u32, content: &[u8], data: &[u8]) -> Record {
    Record {
        pcr,
        kind,
        content: content.to_vec(),
        data: data.to_vec(),
    }
}

impl Record {
    /// Notes have zeros instead of a digest.
    pub(crate) fn digest(&self, bank: HashAlg) -> Vec<u8> {
        match self.kind {
            NO_ACTION => vec![0; bank.len()],
            _ => measure(bank, &self.content),
        }
    }
}

/// A log with these banks.
pub(crate) fn agile(banks: &[HashAlg], records: &[Record]) -> Vec<u8> {
    let sizes: Vec<(u16, u16)> = banks
        .iter()
        .map(|bank| (bank.id(), u16::try_from(bank.len()).unwrap()))
        .collect();
    let mut log = header(&sizes);
    for record in records {
        let digests: Vec<(u16, Vec<u8>)> = banks
            .iter()
            .map(|bank| (bank.id(), record.digest(*bank)))
            .collect();
        log.extend(agile_record(record, &digests));
    }
    log
}

pub(crate) fn agile_record(record: &Record, digests: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(record.pcr.to_le_bytes());
    bytes.extend(record.kind.to_le_bytes());
    bytes.extend(len(digests.len()));
    for (alg, digest) in digests {
        bytes.extend(alg.to_le_bytes());
        bytes.extend(digest);
    }
    bytes.extend(len(record.data.len()));
    bytes.extend(&record.data);
    bytes
}

pub(crate) fn header(sizes: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    data.extend(len(sizes.len()));
    for (alg, size) in sizes {
        data.extend(alg.to_le_bytes());
        data.extend(size.to_le_bytes());
    }
    data.push(0);
    old(&[record(0, NO_ACTION, &data)])
}

/// A log of the old format.
pub(crate) fn old(records: &[Record]) -> Vec<u8> {
    let mut log = Vec::new();
    for record in records {
        log.extend(record.pcr.to_le_bytes());
        log.extend(record.kind.to_le_bytes());
        log.extend(record.digest(HashAlg::Sha1));
        log.extend(len(record.data.len()));
        log.extend(&record.data);
    }
    log
}

fn len(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap().to_le_bytes()
}

pub(crate) fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

pub(crate) const GLOBAL: &str = "61dfe48bca93d211aa0d00e098032b8c";
pub(crate) const SECURITY: &str = "cbb219d73a3d9645a3bcdad00e67656f";

/// `UEFI_VARIABLE_DATA`.
pub(crate) fn variable(vendor: &str, name: &str, value: &[u8]) -> Vec<u8> {
    let mut data = hex::decode(vendor).unwrap();
    data.extend((wide(name).len() as u64 / 2).to_le_bytes());
    data.extend((value.len() as u64).to_le_bytes());
    data.extend(wide(name));
    data.extend(value);
    data
}

/// A path of a PCI device, and a file if there is one.
pub(crate) fn path(file: &str) -> Vec<u8> {
    let mut path = vec![1, 1, 6, 0, 2, 3];
    if !file.is_empty() {
        let name = [wide(file), vec![0, 0]].concat();
        path.extend([4, 4]);
        path.extend(u16::try_from(4 + name.len()).unwrap().to_le_bytes());
        path.extend(name);
    }
    path.extend([0x7F, 0xFF, 4, 0]);
    path
}

/// `UEFI_IMAGE_LOAD_EVENT`.
pub(crate) fn image(path: &[u8]) -> Vec<u8> {
    let mut data = vec![0x11; 24];
    data.extend((path.len() as u64).to_le_bytes());
    data.extend(path);
    data
}

/// `EFI_LOAD_OPTION`.
pub(crate) fn load_option(description: &str, path: &[u8]) -> Vec<u8> {
    let mut data = vec![1, 0, 0, 0];
    data.extend(u16::try_from(path.len()).unwrap().to_le_bytes());
    data.extend(wide(description));
    data.extend([0, 0]);
    data.extend(path);
    data
}

/// systemd's log of one bank: PCR, type, text.
pub(crate) fn userspace(records: &[(u8, &str, &str)]) -> Vec<u8> {
    let one = |(pcr, kind, text): &(u8, &str, &str)| {
        let digest = hex::encode(measure(HashAlg::Sha256, text.as_bytes()));
        format!(
            "\u{1e}{{\"pcr\":{pcr},\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{digest}\"}}],\
             \"content_type\":\"systemd\",\"content\":{{\"eventType\":\"{kind}\",\"string\":\"{text}\",\
             \"bootId\":\"5fad8bb84a0e48f981d2e6608987aa40\",\"timestamp\":12345}}}}\n"
        )
    };
    records.iter().map(one).collect::<String>().into_bytes()
}

/// A PE image with these sections, each filled up to 512 bytes; not signed.
pub(crate) fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    const PE: usize = 0x40;
    const OPTIONAL: usize = PE + 24;
    const TABLE: usize = OPTIONAL + 240;
    let mut image = vec![0; 1024];
    image[..2].copy_from_slice(b"MZ");
    image[0x3C] = 0x40;
    image[PE..PE + 4].copy_from_slice(b"PE\0\0");
    image[PE + 6] = u8::try_from(sections.len()).unwrap();
    image[PE + 20] = 240;
    image[OPTIONAL..OPTIONAL + 2].copy_from_slice(&0x020B_u16.to_le_bytes());
    image[OPTIONAL + 60..OPTIONAL + 64].copy_from_slice(&1024_u32.to_le_bytes());
    image[OPTIONAL + 108] = 16;
    for (at, (name, content)) in sections.iter().enumerate() {
        let filled = content.len().next_multiple_of(512);
        let header = TABLE + 40 * at;
        image[header..header + name.len()].copy_from_slice(name.as_bytes());
        let begin = len(image.len());
        image[header + 8..header + 12].copy_from_slice(&len(content.len()));
        image[header + 16..header + 20].copy_from_slice(&len(filled));
        image[header + 20..header + 24].copy_from_slice(&begin);
        image.extend_from_slice(content);
        image.resize(image.len() + filled - content.len(), 0);
    }
    image
}
