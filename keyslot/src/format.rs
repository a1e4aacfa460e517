//! A new volume: from what a person asked for to the header, the key and the steps.

use luksmith_crypto::{
    AllowNull, CipherSpec, Hash, Passphrase, SecretBytes, SectorSize, VolumeKey,
};
use luksmith_luks2::area::{ALIGNMENT, MAX_KEYSLOTS_BYTES};
use luksmith_luks2::format::DEFAULT_DATA_ALIGNMENT;
use luksmith_luks2::{
    AreaBytes, Change, FormatOptions, FormatPlan as Layout, Header, HeaderSize, Label, new_header,
};

use crate::add::{NewSlot, new_digest, prepare};
use crate::cipher_name;
use crate::error::PlanError;
use crate::policy::{DigestCost, check_new_hash};
use crate::seal::AreaCipher;

/// Everything that `luksFormat` lets a person say about a LUKS2 volume.
///
/// [`FormatRequest::new`] has the defaults: AES-256-XTS, SHA-256, Argon2id, the device's own
/// sector size, data at 16 MiB. They are those of cryptsetup but for one: the metadata of a copy
/// has 64 KiB instead of 16, so that tokens have room.
pub struct FormatRequest<'a> {
    /// Cipher of the data (`--cipher`).
    pub cipher: String,
    /// Bits of the volume key (`--key-size`): 256 or 512 for AES-XTS.
    pub key_bits: u32,
    /// Hash of the key digest and of the anti-forensic splitter (`--hash`).
    pub hash: Hash,
    /// Encryption sector (`--sector-size`).
    pub sector_size: SectorSizeChoice,
    /// Start of the data in 512-byte sectors (`--offset`).
    pub offset_sectors: Option<u64>,
    /// Alignment of the data in 512-byte sectors (`--align-payload`); on a detached header the
    /// start itself.
    pub align_payload_sectors: Option<u64>,
    /// Bytes of one copy of the metadata (`--luks2-metadata-size`).
    pub metadata_bytes: Option<u64>,
    /// Bytes of the keyslots area (`--luks2-keyslots-size`).
    pub keyslots_bytes: Option<u64>,
    /// UUID (`--uuid`); `None` makes one.
    pub uuid: Option<String>,
    /// Label (`--label`), at most 47 bytes.
    pub label: String,
    /// Second label (`--subsystem`), at most 47 bytes.
    pub subsystem: String,
    /// Whether header and data share a device (`--header`).
    pub placement: Placement,
    /// What is known of the devices.
    pub devices: DeviceFacts,
    /// The first slot (`--key-slot`, `--pbkdf…`, `--keyslot-cipher`, `--keyslot-key-size`). Its
    /// hash is not looked at: [`FormatRequest::hash`] is for all.
    pub slot: NewSlot<'a>,
    /// Cost of the volume key's digest.
    pub digest_cost: DigestCost,
    /// Where the volume key comes from (`--volume-key-file`).
    pub key: KeySource,
    /// Whether a null cipher was asked for in so many words.
    pub allow_null: AllowNull,
}

impl<'a> FormatRequest<'a> {
    /// The defaults.
    #[must_use]
    pub fn new(passphrase: &'a Passphrase, devices: DeviceFacts) -> Self {
        Self {
            cipher: CipherSpec::AesXtsPlain64.name().to_owned(),
            key_bits: 512,
            hash: Hash::Sha256,
            sector_size: SectorSizeChoice::FromDevice,
            offset_sectors: None,
            align_payload_sectors: None,
            metadata_bytes: None,
            keyslots_bytes: None,
            uuid: None,
            label: String::new(),
            subsystem: String::new(),
            placement: Placement::Attached,
            devices,
            slot: NewSlot::new(passphrase),
            digest_cost: DigestCost::Auto,
            key: KeySource::Generate,
            allow_null: AllowNull::No,
        }
    }
}

/// Encryption sector of a new volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectorSizeChoice {
    /// The physical sector of the data device, at most 4096; 512 where the length of the data is
    /// no multiple of it.
    FromDevice,
    /// This many bytes: 512, 1024, 2048 or 4096.
    Bytes(u32),
}

/// Where the header lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// In front of the data.
    Attached,
    /// On a device or in a file of its own.
    Detached,
}

/// What is known of the devices before they are written.
#[derive(Debug, Clone, Copy)]
pub struct DeviceFacts {
    /// Bytes of the device that takes the header; `None` for a file that grows as needed.
    pub header_bytes: Option<u64>,
    /// Bytes of the device that holds the data; the same device when the header is attached.
    pub data_bytes: u64,
    /// Smallest unit that the data device reads and writes, bytes.
    pub logical_block: u32,
    /// Its true sector, bytes; 4096 for a regular file.
    pub physical_block: u32,
    /// Its optimal I/O size, bytes; 0 if it says nothing.
    pub optimal_io: u64,
}

/// Where the volume key comes from.
pub enum KeySource {
    /// From the kernel's random generator.
    Generate,
    /// From its owner, who keeps it somewhere; its length must be the key size.
    Given(SecretBytes),
}

/// A planned volume.
#[must_use = "nothing is formatted before the change is carried out"]
pub struct FormatPlan {
    /// The header as it will be.
    pub header: Header,
    /// What to carry out on the header device.
    pub change: Change,
    /// The volume key.
    pub key: VolumeKey,
    /// Number of the first slot.
    pub slot: u8,
    /// Bytes that the header device needs: both copies and the keyslots area. A detached header
    /// file is made this long.
    pub header_bytes: u64,
}

impl std::fmt::Debug for FormatPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FormatPlan")
            .field("change", &self.change)
            .field("slot", &self.slot)
            .field("header_bytes", &self.header_bytes)
            .finish_non_exhaustive()
    }
}

/// Plans a new volume with one slot.
///
/// All that can be refused is refused before the slow key derivation begins.
///
/// # Errors
/// [`PlanError::Option`] names the option at fault; [`PlanError::DeviceTooSmall`];
/// [`PlanError::WeakCipher`] unless null ciphers are allowed.
pub fn plan_format(request: FormatRequest<'_>) -> Result<FormatPlan, PlanError> {
    let cipher = cipher_of(&request)?;
    check_new_hash(request.hash)?;
    request.slot.kdf.check(request.slot.passphrase)?;
    if let Some((name, bits)) = &request.slot.area_cipher {
        AreaCipher::new(name, *bits)?;
    }
    let mut options = layout_wishes(&request, cipher)?;
    let layout = Layout::new(&options)?;
    options.sector_size = sector_size(&request, layout.data_offset)?.bytes();
    // Once more, now that the sector is known: the whole options are checked before any work.
    Layout::new(&options)?;

    let key_bytes = (request.key_bits / 8) as usize;
    let key = match request.key {
        KeySource::Generate => VolumeKey::generate(key_bytes)?,
        KeySource::Given(bytes) if bytes.len() != key_bytes => {
            return Err(PlanError::option(
                "volume-key-file",
                format!("holds {} bytes, the key size is {key_bytes}", bytes.len()),
            ));
        }
        KeySource::Given(bytes) => VolumeKey::adopt(bytes)?,
    };
    let slot_number = request.slot.slot.unwrap_or(0);
    let new = NewSlot {
        hash: request.hash,
        ..request.slot
    };
    let digest = new_digest(&key, new.hash, request.digest_cost, &new.kdf, vec![0])?;
    let empty = new_header(&options, &digest)?;
    let (keyslot, sealed) = prepare(empty.metadata(), &key, &new)?;
    let metadata = empty.metadata().with_keyslot(slot_number, &keyslot, 0)?;
    let header = empty.with_metadata(metadata)?;
    let change = Change::format(&header, vec![(slot_number, AreaBytes::new(sealed.area))])?;
    Ok(FormatPlan {
        header: change.after().clone(),
        change,
        key,
        slot: slot_number,
        header_bytes: layout.total_bytes(),
    })
}

fn cipher_of(request: &FormatRequest<'_>) -> Result<CipherSpec, PlanError> {
    if request.allow_null == AllowNull::No && cipher_name::is_weak(&request.cipher) {
        return Err(PlanError::WeakCipher(request.cipher.clone()));
    }
    let cipher = CipherSpec::parse(&request.cipher, request.allow_null)?;
    let key_bytes = (request.key_bits / 8) as usize;
    if !request.key_bits.is_multiple_of(8) || key_bytes == 0 || !cipher.accepts_key_len(key_bytes) {
        return Err(PlanError::option(
            "key-size",
            format!("{} bits do not fit {}", request.key_bits, request.cipher),
        ));
    }
    Ok(cipher)
}

/// Sizes and places, as asked for; the rules are in [`luksmith_luks2::format`]. What is decided
/// here: the size of the metadata, and the alignment.
fn layout_wishes(
    request: &FormatRequest<'_>,
    cipher: CipherSpec,
) -> Result<FormatOptions, PlanError> {
    if request.offset_sectors.is_some() && request.align_payload_sectors.is_some() {
        return Err(PlanError::option(
            "align-payload",
            "cannot be combined with offset",
        ));
    }
    let bytes = |option, sectors: Option<u64>| match sectors.map(|sectors| sectors.checked_mul(512))
    {
        Some(None) => Err(PlanError::option(option, "is too large")),
        Some(bytes) => Ok(bytes),
        None => Ok(None),
    };
    let offset = bytes("offset", request.offset_sectors)?;
    let alignment = bytes("align-payload", request.align_payload_sectors)?;
    let detached = request.placement == Placement::Detached;
    // On a detached header, align-payload is the start of the data itself.
    let data_offset = if detached {
        offset.or(alignment)
    } else {
        offset
    };
    let header_size = match request.metadata_bytes {
        Some(bytes) => HeaderSize::new(bytes).map_err(|_| {
            PlanError::option(
                "luks2-metadata-size",
                "must be 16, 32, 64, 128, 256 or 512 KiB, or 1, 2 or 4 MiB",
            )
        })?,
        None => default_metadata(data_offset, request),
    };
    if let Some(size) = request.keyslots_bytes
        && (size == 0 || size % ALIGNMENT != 0 || size > MAX_KEYSLOTS_BYTES)
    {
        return Err(PlanError::option(
            "luks2-keyslots-size",
            "must be a multiple of 4096 bytes and at most 128 MiB",
        ));
    }
    Ok(FormatOptions {
        label: label("label", &request.label)?,
        subsystem: label("subsystem", &request.subsystem)?,
        uuid: uuid_of(request)?,
        header_size,
        keyslots_size: request.keyslots_bytes,
        data_offset,
        data_alignment: match alignment {
            None | Some(0) => device_alignment(request.devices.optimal_io),
            Some(bytes) => bytes,
        },
        detached,
        header_device_len: request.devices.header_bytes,
        data_device_len: Some(request.devices.data_bytes),
        encryption: cipher.name().to_owned(),
        sector_size: 512,
        flags: Vec::new(),
    })
}

/// 64 KiB a copy, where cryptsetup takes 16: tokens of TPM and network keys have 1 to 4 kB each,
/// 16 KiB hold about ten of them, and no header can grow later. Where little room was left for
/// the header, 16 KiB, so that slots have room.
fn default_metadata(data_offset: Option<u64>, request: &FormatRequest<'_>) -> HeaderSize {
    let given = data_offset.filter(|offset| *offset != 0);
    let room = [given, request.devices.header_bytes, request.keyslots_bytes]
        .into_iter()
        .flatten();
    let bytes = match room.min() {
        Some(room) if room < ROOMY_BYTES => 16 * 1024,
        _ => 64 * 1024,
    };
    HeaderSize::new(bytes).expect("both are sizes of the format")
}

/// A drive's own figure counts if it is a whole multiple of 1 MiB; some drives report nonsense
/// such as 33553920 bytes.
fn device_alignment(optimal_io: u64) -> u64 {
    let sane = optimal_io > 0 && optimal_io.is_multiple_of(DEFAULT_DATA_ALIGNMENT);
    if sane {
        optimal_io
    } else {
        DEFAULT_DATA_ALIGNMENT
    }
}

fn label(option: &'static str, text: &str) -> Result<Label, PlanError> {
    Label::new(text).map_err(|error| PlanError::option(option, error.to_string()))
}

fn uuid_of(request: &FormatRequest<'_>) -> Result<String, PlanError> {
    let Some(text) = &request.uuid else {
        let mut random = [0; 16];
        luksmith_crypto::random::fill(&mut random)?;
        let uuid = uuid::Builder::from_random_bytes(random).into_uuid();
        return Ok(uuid.hyphenated().to_string());
    };
    let uuid = uuid::Uuid::try_parse(text)
        .map_err(|_| PlanError::option("uuid", format!("{text:?} is not a UUID")))?;
    Ok(uuid.hyphenated().to_string())
}

fn sector_size(request: &FormatRequest<'_>, data_offset: u64) -> Result<SectorSize, PlanError> {
    let data = request.devices.data_bytes.saturating_sub(data_offset);
    let chosen = match request.sector_size {
        SectorSizeChoice::Bytes(bytes) => {
            let size = SectorSize::new(bytes).map_err(|_| {
                PlanError::option("sector-size", "must be 512, 1024, 2048 or 4096 bytes")
            })?;
            if !data.is_multiple_of(u64::from(bytes)) {
                return Err(PlanError::option(
                    "sector-size",
                    format!("the data of {data} bytes are no multiple of {bytes}"),
                ));
            }
            size
        }
        SectorSizeChoice::FromDevice => {
            let size = SectorSize::new(request.devices.physical_block.min(4096))
                .unwrap_or(SectorSize::S512);
            if data.is_multiple_of(u64::from(size.bytes())) {
                size
            } else {
                SectorSize::S512
            }
        }
    };
    if chosen.bytes() < request.devices.logical_block {
        return Err(PlanError::option(
            "sector-size",
            format!(
                "the device reads and writes {} bytes at least",
                request.devices.logical_block
            ),
        ));
    }
    Ok(chosen)
}

/// Below this, the metadata stay small.
const ROOMY_BYTES: u64 = 4 * 1024 * 1024;
