//! What most verbs begin with: find the header, load it, and get the volume key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use luksmith_crypto::{AllowNull, MacKey, Passphrase};
use luksmith_keyslot::{
    OpenLimits, Target, UnlockError, UnlockErrorKind, Unlocked, Which, as_recovery_key,
};
use luksmith_luks2::{Area, Header, Metadata};
use luksmith_volume::{
    Access, BlockDevice, FileDevice, HeaderStore, LockMode, Locking, VolumePlan,
};

use crate::args::Args;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::passphrase::{self, Source};
use crate::prompt;
use crate::tpm_device::{self, Place};

mod blessed;
mod by_token;

pub(crate) use blessed::Demand;
pub(crate) use by_token::Tokens;

/// A volume whose header is loaded.
pub(crate) struct Session {
    /// Where the header lies.
    pub header_path: PathBuf,
    /// Where the data lies.
    pub data_path: PathBuf,
    store: HeaderStore<FileDevice>,
    limits: OpenLimits,
    /// The key for the MAC over the header, once the volume key was known.
    mac_key: Option<MacKey>,
    /// The TPM whose counter the header names.
    tpm: Option<Place>,
    /// Tokens that would open in another state of the machine, and why they did not.
    refused: BTreeMap<u8, String>,
    /// A PIN that is at hand, for the first token that wants one; it is tried once.
    pub pin: Option<Passphrase>,
}

impl Session {
    /// Loads the header to read it.
    pub(crate) fn read(args: &Args) -> Result<Self, Failure> {
        Self::load(args, Access::ReadOnly, LockMode::Shared)
    }

    /// Loads the header to change it.
    pub(crate) fn change(args: &Args) -> Result<Self, Failure> {
        Self::load(args, Access::ReadWrite, LockMode::Exclusive)
    }

    fn load(args: &Args, access: Access, mode: LockMode) -> Result<Self, Failure> {
        check_type(args)?;
        let data_path = args.device()?;
        let header_path = args.path("header").unwrap_or_else(|| data_path.clone());
        let device = open_device(args, &header_path, access)?;
        let store = HeaderStore::load(device, mode).map_err(|e| errors::store(&header_path, e))?;
        if args.flag("debug-json") {
            output::note(&format!("{:#}", store.header().metadata().as_value()));
        }
        if let Some(repair) = &store.resolved().repair {
            output::note(&format!(
                "warning: the {} header copy on {} is stale or damaged and should be rewritten: \
                 luksmith repair {}",
                repair.copy.name(),
                shell(&header_path),
                shell(&header_path),
            ));
        }
        let mut session = Self {
            header_path,
            data_path,
            store,
            limits: limits(args),
            mac_key: None,
            tpm: None,
            refused: BTreeMap::new(),
            pin: None,
        };
        if session.names_counter() {
            session.find_counter_at(args)?;
        }
        Ok(session)
    }

    /// The options say where the TPM is whose counter the header names, or shall name.
    pub(crate) fn find_counter_at(&mut self, args: &Args) -> Result<(), Failure> {
        self.tpm = Some(tpm_device::place(args)?);
        Ok(())
    }

    /// The header in force.
    pub(crate) fn header(&self) -> &Header {
        self.store.header()
    }
    /// Its metadata.
    pub(crate) fn metadata(&self) -> &Metadata {
        self.store.header().metadata()
    }
    /// The tokens that the last [`Session::by_token`] found refused for the state of the machine.
    pub(crate) fn refused(&self) -> &BTreeMap<u8, String> {
        &self.refused
    }
    /// The store itself.
    pub(crate) fn store(&mut self) -> &mut HeaderStore<FileDevice> {
        &mut self.store
    }
    /// Whether the header lies apart from the data.
    pub(crate) fn detached(&self) -> bool {
        !same_device(&self.header_path, &self.data_path)
    }
    /// What the header says about the data, refused where it cannot be opened. To be asked
    /// before anybody is asked for a passphrase.
    pub(crate) fn volume_plan(&self, args: &Args) -> Result<VolumePlan, Failure> {
        let failed = |e| errors::volume(&self.data_path, &e);
        let data = open_device(args, &self.data_path, Access::ReadOnly)?;
        let plan =
            VolumePlan::new(self.header(), data.len(), self.limits.allow_null).map_err(failed)?;
        if !self.detached() {
            plan.check_clear_of_header(self.header()).map_err(failed)?;
        }
        Ok(plan)
    }

    /// Tries one passphrase on the keyslots; a recovery key also in its proper form.
    pub(crate) fn try_passphrase(
        &mut self,
        which: Which,
        target: Target,
        passphrase: &Passphrase,
    ) -> Result<Unlocked, UnlockError> {
        let mut typed = self.try_as_typed(which, target, passphrase);
        if let (Err(error), Ok(Some(proper))) = (&typed, as_recovery_key(passphrase))
            && error.kind == UnlockErrorKind::WrongSecret
            && !proper.ct_eq(passphrase)
        {
            typed = self.try_as_typed(which, target, &proper);
        }
        if let Ok(unlocked) = &typed {
            self.remember(unlocked);
        }
        typed
    }

    fn try_as_typed(
        &mut self,
        which: Which,
        target: Target,
        passphrase: &Passphrase,
    ) -> Result<Unlocked, UnlockError> {
        let Self { store, limits, .. } = self;
        let store = &*store;
        let mut areas =
            |area: Area, len: usize| store.read_area(area.offset, len as u64).map_err(Into::into);
        luksmith_keyslot::unlock(
            store.header(),
            which,
            target,
            passphrase,
            &mut areas,
            limits,
        )
    }

    /// Asks for a passphrase until one opens, as often as `source` allows.
    pub(crate) fn unlock(
        &mut self,
        args: &Args,
        source: &Source,
        which: Which,
        target: Target,
        question: &str,
    ) -> Result<(Unlocked, Passphrase), Failure> {
        self.check_slot(which)?;
        let _serial = Serial::take(args)?;
        let mut left = source.tries();
        loop {
            let passphrase = source.read(question)?;
            match self.try_passphrase(which, target, &passphrase) {
                Ok(unlocked) => {
                    said_unlocked(args, &unlocked)?;
                    return Ok((unlocked, passphrase));
                }
                Err(e) if e.kind == UnlockErrorKind::WrongSecret && left > 1 => {
                    left -= 1;
                    output::note("No keyslot opens with this passphrase.");
                }
                Err(e) => return Err(errors::unlock(&self.header_path, &e)),
            }
        }
    }

    /// A slot that was named must be there before anybody is asked for its passphrase.
    fn check_slot(&self, which: Which) -> Result<(), Failure> {
        let Which::Only(slot) = which else {
            return Ok(());
        };
        if self.metadata().keyslot(slot).is_some() {
            return Ok(());
        }
        let name = shell(&self.header_path);
        Err(
            Failure::usage(format!("keyslot {slot} of {name} is not in use"))
                .hint("see which keyslots there are")
                .command(format!("luksmith slot list {name}")),
        )
    }

    /// The volume key by whatever way the options say: volume key file, token, passphrase.
    /// `slot` names the keyslot to use.
    pub(crate) fn volume_key(
        &mut self,
        args: &Args,
        slot: Option<u8>,
        target: Target,
        tokens: Tokens,
    ) -> Result<Unlocked, Failure> {
        if let Some(path) = args.path("volume-key-file") {
            return self.by_volume_key_file(&path);
        }
        if let Some(unlocked) = self.by_token(args, target, tokens)? {
            said_unlocked(args, &unlocked)?;
            return Ok(unlocked);
        }
        let which = slot.map_or(Which::ByPriority, Which::Only);
        let source = Source::existing(args, None);
        let question = format!("Passphrase for {}", self.data_path.display());
        self.unlock(args, &source, which, target, &question)
            .map(|(unlocked, _)| unlocked)
    }

    /// The volume key from a file.
    pub(crate) fn by_volume_key_file(&mut self, path: &Path) -> Result<Unlocked, Failure> {
        let bytes = match key_bytes(self.metadata()) {
            Some(bytes) => bytes,
            None => std::fs::metadata(path)
                .map(|m| usize::try_from(m.len()).unwrap_or(0))
                .map_err(|e| {
                    Failure::usage(format!(
                        "cannot read the volume key file {}: {e}",
                        shell(path)
                    ))
                })?,
        };
        let candidate = passphrase::volume_key_file(path, bytes)?;
        let unlocked = luksmith_keyslot::verify_volume_key(self.header(), candidate, &self.limits)
            .map_err(|e| errors::unlock(&self.header_path, &e))?;
        self.remember(&unlocked);
        Ok(unlocked)
    }
}

fn said_unlocked(args: &Args, unlocked: &Unlocked) -> Result<(), Failure> {
    match unlocked.slot {
        Some(slot) if args.flag("verbose") => output::text(&format!("Key slot {slot} unlocked.\n")),
        _ => Ok(()),
    }
}

/// Whether two paths lead to one device or file. A header that is reached by another name than
/// the data still lies in front of them, or worse, where they are to be written.
fn same_device(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let identity = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        let block = meta.file_type().is_block_device();
        Some(if block {
            (true, meta.rdev(), 0)
        } else {
            (false, meta.dev(), meta.ino())
        })
    };
    one == other || matches!((identity(one), identity(other)), (Some(a), Some(b)) if a == b)
}

/// Refuses types of volumes that are not handled.
pub(crate) fn check_type(args: &Args) -> Result<(), Failure> {
    match args.text("type").as_deref() {
        None | Some("luks" | "luks2") => Ok(()),
        Some(other) => Err(Failure::usage(format!(
            "option --type {other} is refused: only LUKS2 volumes are handled"
        ))
        .no_disk()),
    }
}

/// Opens the device that holds a header, with the locks that were asked for.
pub(crate) fn open_device(args: &Args, path: &Path, access: Access) -> Result<FileDevice, Failure> {
    let locking = if args.flag("disable-locks") {
        Locking::Disabled
    } else {
        Locking::Shared
    };
    Ok(FileDevice::open(path, access)
        .map_err(errors::open)?
        .with_locking(locking))
}

/// What a header may ask for.
pub(crate) fn limits(args: &Args) -> OpenLimits {
    let allow_null = if args.flag("allow-null-cipher") {
        AllowNull::Yes
    } else {
        AllowNull::No
    };
    OpenLimits {
        allow_null,
        ..OpenLimits::default()
    }
}

/// Length of the volume key as the keyslots of the data say, if there are any.
pub(crate) fn key_bytes(metadata: &Metadata) -> Option<usize> {
    let (_, digest) = metadata.default_digest()?;
    let slot = metadata.keyslot(*digest.keyslots.first()?)?.luks2()?;
    usize::try_from(slot.key_size).ok()
}

/// Asks before something is lost. `--batch-mode` answers yes; without a terminal and without it
/// the answer is no.
pub(crate) fn confirm(args: &Args, lines: &[String]) -> Result<(), Failure> {
    if args.flag("batch-mode") {
        return Ok(());
    }
    let refused = if prompt::person_there() {
        if prompt::confirm(lines)? {
            return Ok(());
        }
        Failure::usage("stopped: the answer was not YES")
    } else {
        let mut failure =
            Failure::usage("stopped: this needs a yes, and there is no terminal to ask at");
        for line in lines {
            failure = failure.detail(line);
        }
        failure.hint("--batch-mode answers yes")
    };
    Err(refused)
}

/// The lock by which memory-hard key derivations on one machine take turns
/// (`--serialize-memory-hard-pbkdf`); the same that cryptsetup takes.
pub(crate) struct Serial {
    _lock: Option<nix::fcntl::Flock<std::fs::File>>,
}

impl Serial {
    /// Waits for the turn, if turns were asked for.
    pub(crate) fn take(args: &Args) -> Result<Self, Failure> {
        use nix::fcntl::{Flock, FlockArg};
        if !args.flag("serialize-memory-hard-pbkdf") {
            return Ok(Self { _lock: None });
        }
        let path = Path::new(luksmith_volume::LOCK_DIRECTORY).join("LN_memory-hard-access");
        let failed = |e: std::io::Error| {
            Failure::usage(format!("cannot take turns by {}: {e}", path.display()))
                .hint("leave out --serialize-memory-hard-pbkdf, or run the command as root")
        };
        make_lock_directory().map_err(failed)?;
        let file = open_lock_file(&path).map_err(failed)?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| failed(e.into()))?;
        Ok(Self { _lock: Some(lock) })
    }
}

fn make_lock_directory() -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new()
        .mode(0o700)
        .create(luksmith_volume::LOCK_DIRECTORY)
    {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn open_lock_file(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path)
}

/// A duration in whole milliseconds.
pub(crate) fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
