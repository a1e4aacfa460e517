//! From a header file and a passphrase to an open volume, by our own crates.

use std::error::Error;
use std::path::Path;

use luksmith_crypto::AllowNull;
use luksmith_keyslot::{OpenLimits, ReadError, Target, Which, unlock};
use luksmith_luks2::Area;
use luksmith_volume::{Access, FileDevice, HeaderStore, LockMode, OpenVolume};

use crate::image::passphrase;

/// Opens the volume whose header lies in `header`, on a data device of `data_len` bytes.
///
/// # Errors
/// Whatever keeps it closed.
pub fn open_volume(
    header: &Path,
    data_len: u64,
    secret: &[u8],
    allow_null: AllowNull,
) -> Result<OpenVolume, Box<dyn Error>> {
    let store = HeaderStore::load(
        FileDevice::open(header, Access::ReadOnly)?,
        LockMode::Shared,
    )?;
    let mut read = |area: Area, len: usize| {
        store
            .read_area(area.offset, len as u64)
            .map_err(ReadError::from)
    };
    let unlocked = unlock(
        store.header(),
        Which::ByPriority,
        Target::Data,
        &passphrase(secret),
        &mut read,
        &OpenLimits::default(),
    )?;
    let keys = [(unlocked.digest, unlocked.key)];
    Ok(OpenVolume::new(
        store.header(),
        &keys,
        data_len,
        allow_null,
    )?)
}
