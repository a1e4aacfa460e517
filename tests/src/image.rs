//! A volume in regular files, handled by our own crates: format, open, change.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use luksmith_crypto::{Passphrase, SecretBytes};
use luksmith_keyslot::{
    DeviceFacts, FormatPlan, FormatRequest, KdfChoice, NewSlot, OpenLimits, ReadError, Target,
    UnlockError, Unlocked, Which, plan_format, unlock,
};
use luksmith_luks2::{Area, Change, Header, HeaderCopy, Metadata};
use luksmith_volume::{Access, FileDevice, HeaderStore, LockMode, Wait};

/// Files of one volume in a folder of their own, removed at the end.
pub struct Image {
    folder: tempfile::TempDir,
    detached: bool,
}

impl Image {
    /// A sparse data file of this many bytes, nothing on it.
    #[must_use]
    pub fn blank(bytes: u64) -> Self {
        let image = Self {
            folder: tempfile::tempdir().expect("a folder"),
            detached: false,
        };
        File::create(image.data())
            .and_then(|file| file.set_len(bytes))
            .expect("a data file");
        image
    }

    /// The same, and the header goes to a file of its own, which does not exist yet.
    #[must_use]
    pub fn blank_detached(bytes: u64) -> Self {
        Self {
            detached: true,
            ..Self::blank(bytes)
        }
    }

    /// The data file.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data.img")
    }

    /// The file with the header: the data file, unless the header is detached.
    #[must_use]
    pub fn header_file(&self) -> PathBuf {
        if self.detached {
            self.folder.path().join("header.img")
        } else {
            self.data()
        }
    }

    /// A further file in the folder, with this content.
    #[must_use]
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).expect("a file in the test's folder");
        path
    }

    /// Formats by our own crates.
    ///
    /// # Panics
    /// If planning or writing fails.
    pub fn format(&self, request: FormatRequest<'_>) -> luksmith_crypto::VolumeKey {
        let FormatPlan {
            change,
            key,
            header_bytes,
            ..
        } = plan_format(request).expect("a plan");
        let device = if self.detached {
            FileDevice::create_new(self.header_file(), header_bytes)
        } else {
            FileDevice::open(self.header_file(), Access::Exclusive)
        };
        HeaderStore::format(device.expect("a device"), change, Wait::default()).expect("formatted");
        key
    }

    /// What a plan must know about the files.
    #[must_use]
    pub fn facts(&self) -> DeviceFacts {
        let bytes = std::fs::metadata(self.data()).expect("a data file").len();
        DeviceFacts {
            header_bytes: (!self.detached).then_some(bytes),
            data_bytes: bytes,
            logical_block: 512,
            physical_block: 4096,
            optimal_io: 0,
        }
    }

    /// The header as our own crates read it.
    ///
    /// # Panics
    /// If there is no valid header.
    #[must_use]
    pub fn header(&self) -> Header {
        self.store().header().clone()
    }

    /// The header store, for changes.
    ///
    /// # Panics
    /// If there is no valid header.
    #[must_use]
    pub fn store(&self) -> HeaderStore<FileDevice> {
        let device = FileDevice::open(self.header_file(), Access::ReadWrite).expect("a device");
        HeaderStore::load(device, LockMode::Exclusive).expect("a header")
    }

    /// Opens with a passphrase by our own crates: any slot that opens the data.
    ///
    /// # Errors
    /// As [`unlock`].
    pub fn open(&self, secret: &[u8]) -> Result<Unlocked, UnlockError> {
        self.open_as(secret, Which::ByPriority, Target::Data)
    }

    /// Opens with a passphrase by our own crates.
    ///
    /// # Errors
    /// As [`unlock`].
    pub fn open_as(
        &self,
        secret: &[u8],
        which: Which,
        target: Target,
    ) -> Result<Unlocked, UnlockError> {
        self.open_within(secret, which, target, &OpenLimits::default())
    }

    /// Opens with a passphrase by our own crates, within these limits.
    ///
    /// # Errors
    /// As [`unlock`].
    pub fn open_within(
        &self,
        secret: &[u8],
        which: Which,
        target: Target,
        limits: &OpenLimits,
    ) -> Result<Unlocked, UnlockError> {
        let store = self.store();
        let mut read = |area: Area, len: usize| {
            store
                .read_area(area.offset, len as u64)
                .map_err(ReadError::from)
        };
        unlock(
            store.header(),
            which,
            target,
            &passphrase(secret),
            &mut read,
            limits,
        )
    }

    /// Plans a change from the header as it is and carries it out.
    ///
    /// # Panics
    /// If writing fails.
    pub fn change<E: std::fmt::Debug>(&self, plan: impl FnOnce(&Header) -> Result<Change, E>) {
        let mut store = self.store();
        let change = plan(store.header()).expect("a plan");
        store.apply(change).expect("carried out");
    }

    /// Writes other metadata with valid checksums into both copies, as somebody with the disk in
    /// hand could.
    ///
    /// # Panics
    /// If the result breaks a rule of the format, so that no reader would look at it.
    pub fn forge(&self, edit: impl FnOnce(&mut serde_json::Value)) {
        let header = self.header();
        let mut json = header.metadata().as_value().clone();
        edit(&mut json);
        let text = serde_json::to_vec(&json).expect("JSON");
        let metadata = Metadata::parse(&text, &header.metadata().geometry())
            .expect("forged, but within the rules of the format");
        let header = header.with_metadata(metadata).expect("same geometry");
        let file = File::options()
            .write(true)
            .open(self.header_file())
            .expect("the header file");
        for (copy, salt) in [(HeaderCopy::Primary, 1), (HeaderCopy::Secondary, 2)] {
            file.write_all_at(&header.encode(copy, [salt; 64]), copy.offset(header.size()))
                .expect("written");
        }
    }

    /// Makes the folder's path usable as an argument.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A passphrase of these bytes.
///
/// # Panics
/// If locked memory cannot be had.
#[must_use]
pub fn passphrase(bytes: &[u8]) -> Passphrase {
    Passphrase::new(secret(bytes))
}

/// Secret bytes.
///
/// # Panics
/// If locked memory cannot be had.
#[must_use]
pub fn secret(bytes: &[u8]) -> SecretBytes {
    SecretBytes::take_from(&mut bytes.to_vec()).expect("locked memory")
}

/// A new slot with the lowest costs that the format permits.
#[must_use]
pub fn cheap_slot(secret: &Passphrase) -> NewSlot<'_> {
    let kdf = luksmith_crypto::Kdf::Pbkdf2 {
        hash: luksmith_crypto::Hash::Sha256,
        iterations: 1000,
    };
    NewSlot {
        kdf: KdfChoice::Exact(kdf),
        ..NewSlot::new(secret)
    }
}
