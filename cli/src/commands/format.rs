//! `format`: a new volume. Looks first, asks, then writes.

use std::path::{Path, PathBuf};

use luksmith_crypto::AllowNull;
use luksmith_keyslot::{
    DeviceFacts, FormatRequest, KeySource, NewSlot, Placement, SectorSizeChoice, plan_format,
};
use luksmith_luks2::ResolveError;
use luksmith_volume::{
    Access, BlockDevice, FileDevice, HeaderStore, LockMode, StoreError, Wait, signatures,
};

use crate::args::Args;
use crate::blockinfo::BlockInfo;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::kdf;
use crate::output;
use crate::passphrase::{self, Source};
use crate::progress::Progress;
use crate::prompt;
use crate::session::{Serial, check_type, confirm, open_device};

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    check_type(args)?;
    let wishes = Wishes::read(args)?;
    let data_path = args.device()?;
    let data = open_device(args, &data_path, Access::Exclusive)?;
    let target = Target::find(args, &data_path)?;
    let found = match &target {
        Target::Data => what_lies_there(&data, &data_path)?,
        Target::Header(path) => {
            let device = open_device(args, path, Access::Exclusive)?;
            what_lies_there(&device, path)?
        }
        Target::NewFile(_) => Vec::new(),
    };
    if !matches!(target, Target::Data) {
        // A detached header leaves the data alone, but what it looks like should be known.
        for what in what_lies_there(&data, &data_path)? {
            output::note(&format!("note: {} still holds {what}", shell(&data_path)));
        }
    }
    ask(args, target.path(&data_path), &found)?;

    let source = Source::existing(args, Some("KEYFILE")).verified(args);
    let question = format!("New passphrase for {}", data_path.display());
    let passphrase = source.read(&question)?;
    passphrase::not_empty(args, &passphrase)?;
    let key = match &wishes.key_file {
        None => KeySource::Generate,
        Some(path) => KeySource::Given(passphrase::volume_key_file(
            path,
            wishes.key_bits as usize / 8,
        )?),
    };
    let mut progress = Progress::new(args, &data_path, "format");
    if kdf::measures(&wishes.slot_kdf) {
        progress.stage("measuring the key derivation");
    }
    let serial = Serial::take(args)?;
    let facts = facts(args, &target, &data, &data_path)?;
    let mut request = FormatRequest::new(&passphrase, facts);
    wishes.fill(&mut request);
    request.key = key;
    request.placement = if matches!(target, Target::Data) {
        Placement::Attached
    } else {
        Placement::Detached
    };
    let plan = plan_format(request).map_err(|e| errors::plan(&data_path, e))?;
    drop(serial);
    progress.stage("writing the header");

    let uuid = plan.header.uuid().to_string();
    let header_path = target.path(&data_path).to_path_buf();
    let (device, made) = match target {
        Target::Data => (data, false),
        Target::Header(path) => (open_device(args, &path, Access::Exclusive)?, false),
        Target::NewFile(path) => (
            FileDevice::create_new(&path, plan.header_bytes).map_err(errors::open)?,
            true,
        ),
    };
    let store = HeaderStore::format(device, plan.change, Wait::default()).map_err(|e| {
        if made {
            // The file holds nothing; the error below is what matters.
            let _ = std::fs::remove_file(&header_path);
        }
        format_failed(&header_path, e)
    })?;
    wipe_old_marks(store, &header_path)?;
    if prompt::person_there() || args.flag("verbose") {
        output::note(&format!(
            "{} is a LUKS2 volume now, UUID {uuid}.",
            shell(&data_path)
        ));
    }
    Ok(())
}

fn format_failed(path: &Path, error: StoreError) -> Failure {
    let written = error.disk_was_written();
    let mut failure = errors::store(path, error);
    if written {
        // There is no header to look at now.
        failure.commands.clear();
        return failure.wrote(
            "the device was written in part: what was on it before must be taken for lost, and \
             there is no volume on it yet",
        );
    }
    failure
}

/// Where the header goes.
enum Target {
    /// In front of the data.
    Data,
    /// Onto this existing device or file.
    Header(PathBuf),
    /// Into this file, which does not exist yet.
    NewFile(PathBuf),
}

impl Target {
    fn find(args: &Args, data: &Path) -> Result<Self, Failure> {
        let Some(path) = args.path("header") else {
            return Ok(Self::Data);
        };
        if path == data {
            return Ok(Self::Data);
        }
        match std::fs::metadata(&path) {
            // A new, empty file is filled like one that does not exist.
            Ok(_) => Ok(Self::Header(path)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::NewFile(path)),
            Err(e) => Err(Failure::new(
                errors::exit_of_io(&e),
                format!("cannot look at {}: {e}", shell(&path)),
            )),
        }
    }

    fn path<'a>(&'a self, data: &'a Path) -> &'a Path {
        match self {
            Self::Data => data,
            Self::Header(path) | Self::NewFile(path) => path,
        }
    }
}

/// Names of what is on a device, LUKS first.
fn what_lies_there(device: &FileDevice, path: &Path) -> Result<Vec<String>, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(
            errors::exit_of_io(&e),
            format!("cannot read {}: {e}", shell(path)),
        )
    };
    let mut found = Vec::new();
    match HeaderStore::load(device, LockMode::Shared) {
        Ok(store) => {
            let header = store.header();
            let label = header.label().display();
            let label = if label.is_empty() {
                String::new()
            } else {
                format!(", label {label}")
            };
            found.push(format!("a LUKS2 volume (UUID {}{label})", header.uuid()));
        }
        Err(StoreError::Resolve(ResolveError::NotLuks2)) => {}
        Err(StoreError::Resolve(ResolveError::Luks1)) => found.push("a LUKS1 volume".to_string()),
        Err(StoreError::Resolve(_)) => found.push("a damaged LUKS2 volume".to_string()),
        Err(e) => return Err(errors::store(path, e)),
    }
    for signature in signatures(device).map_err(failed)? {
        let name = signature.name.to_string();
        // LUKS is told above, and better.
        if !found.contains(&name) && !name.starts_with("crypto_LUKS") {
            found.push(name);
        }
    }
    Ok(found)
}

/// Asks when something is lost: always at a terminal, and wherever something was recognised.
fn ask(args: &Args, path: &Path, found: &[String]) -> Result<(), Failure> {
    let name = shell(path);
    let new_file = !path.exists();
    if new_file || (found.is_empty() && !prompt::person_there()) {
        return Ok(());
    }
    let mut lines: Vec<String> = found
        .iter()
        .map(|what| format!("WARNING: {name} holds {what}."))
        .collect();
    lines.push(format!(
        "Everything on {name} is about to be lost for ever."
    ));
    confirm(args, &lines)
}

/// Overwrites the marks of what was there before, where the new header did not.
fn wipe_old_marks(store: HeaderStore<FileDevice>, path: &Path) -> Result<(), Failure> {
    let ours = store.header().metadata().total_bytes();
    let detached = store
        .header()
        .metadata()
        .segments()
        .values()
        .all(|s| s.offset == 0);
    let device = store.into_device();
    let failed = |e: std::io::Error| {
        Failure::new(
            errors::exit_of_io(&e),
            format!(
                "cannot wipe the marks of what was on {} before: {e}",
                shell(path)
            ),
        )
        .wrote("the volume was made and is good; only old marks are left behind the header")
        .command(format!("wipefs {}", shell(path)))
    };
    let zeros = [0; 1024];
    let mut wiped = false;
    // A pool or table can leave many marks, one found after the other is gone.
    for _ in 0..4096 {
        let next = signatures(&device)
            .map_err(failed)?
            .into_iter()
            .find(|s| s.offset >= ours);
        let Some(mark) = next else { break };
        if detached && mark.offset < ours {
            break;
        }
        let start = (mark.offset & !511).max(ours);
        let len = (device.len() - start).min(zeros.len() as u64) as usize;
        device
            .write_at(start, zeros.get(..len).unwrap_or_default())
            .map_err(failed)?;
        wiped = true;
    }
    if wiped {
        device.flush().map_err(failed)
    } else {
        Ok(())
    }
}

fn facts(
    args: &Args,
    target: &Target,
    data: &FileDevice,
    data_path: &Path,
) -> Result<DeviceFacts, Failure> {
    let header_bytes = match target {
        Target::Data => Some(data.len()),
        Target::NewFile(_) => None,
        Target::Header(path) => Some(open_device(args, path, Access::ReadOnly)?.len()),
    };
    let info = BlockInfo::of(data_path);
    Ok(DeviceFacts {
        header_bytes,
        data_bytes: data.len(),
        logical_block: data.logical_block(),
        physical_block: info.physical_block,
        optimal_io: info.optimal_io,
    })
}

/// What the options ask for, checked before anything is opened.
struct Wishes {
    cipher: String,
    key_bits: u32,
    hash: luksmith_crypto::Hash,
    sector_size: SectorSizeChoice,
    offset: Option<u64>,
    align: Option<u64>,
    metadata: Option<u64>,
    keyslots: Option<u64>,
    uuid: Option<String>,
    label: String,
    subsystem: String,
    slot: Option<u8>,
    slot_kdf: luksmith_keyslot::KdfChoice,
    area_cipher: Option<(String, u32)>,
    key_file: Option<PathBuf>,
    allow_null: AllowNull,
}

impl Wishes {
    fn read(args: &Args) -> Result<Self, Failure> {
        let key_bits = args.small("key-size").unwrap_or(512);
        if key_bits == 0 || !key_bits.is_multiple_of(8) {
            return Err(Failure::usage("--key-size must be a multiple of 8 bits").no_disk());
        }
        let allow_null = args.flag("allow-null-cipher");
        Ok(Self {
            cipher: args
                .text("cipher")
                .unwrap_or_else(|| "aes-xts-plain64".to_string()),
            key_bits,
            hash: kdf::hash(args)?,
            sector_size: args
                .small("sector-size")
                .map_or(SectorSizeChoice::FromDevice, SectorSizeChoice::Bytes),
            offset: args.number("offset"),
            align: args.number("align-payload"),
            metadata: args.number("luks2-metadata-size"),
            keyslots: args.number("luks2-keyslots-size"),
            uuid: args.text("uuid"),
            label: args.text("label").unwrap_or_default(),
            subsystem: args.text("subsystem").unwrap_or_default(),
            slot: args.index("key-slot"),
            slot_kdf: kdf::choice(args)?,
            area_cipher: kdf::area_cipher(args)?,
            key_file: args.path("volume-key-file"),
            allow_null: if allow_null {
                AllowNull::Yes
            } else {
                AllowNull::No
            },
        })
    }

    fn fill<'a>(&self, request: &mut FormatRequest<'a>) {
        request.cipher = self.cipher.clone();
        request.key_bits = self.key_bits;
        request.hash = self.hash;
        request.sector_size = self.sector_size;
        request.offset_sectors = self.offset;
        request.align_payload_sectors = self.align;
        request.metadata_bytes = self.metadata;
        request.keyslots_bytes = self.keyslots;
        request.uuid = self.uuid.clone();
        request.label = self.label.clone();
        request.subsystem = self.subsystem.clone();
        request.allow_null = self.allow_null;
        let mut slot = NewSlot::new(request.slot.passphrase);
        slot.slot = self.slot;
        slot.kdf = self.slot_kdf.clone();
        slot.hash = self.hash;
        slot.area_cipher = self.area_cipher.clone();
        request.slot = slot;
    }
}
