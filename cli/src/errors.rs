//! From the errors of the libraries to [`Failure`]s: exit number, whether the disk was written,
//! advice. Kept beside [`crate::hint`], which prints them.

use std::error::Error;
use std::io;
use std::path::Path;

use luksmith_crypto::CryptoError;
use luksmith_keyslot::{
    Attempt, Outcome, PlanError, TokenError, Tried, UnlockError, UnlockErrorKind,
};
use luksmith_luks2::{FormatError, ResolveError};
use luksmith_tpm::TpmError;
use luksmith_ublk_target::UblkError;
use luksmith_volume::{LockError, OpenError, StoreError, VolumeError};

use crate::exit::Exit;
use crate::hint::{Failure, shell};

/// An error with everything that caused it, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The exit number of a failed system call on a device.
pub(crate) fn exit_of_io(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::OutOfMemory => Exit::OutOfMemory,
        io::ErrorKind::ResourceBusy => Exit::Busy,
        _ => Exit::WrongDevice,
    }
}

/// Keys, costs, memory.
pub(crate) fn crypto(error: CryptoError) -> Failure {
    let text = chain(&error);
    match error {
        CryptoError::OutOfMemory { .. } => Failure::new(Exit::OutOfMemory, text)
            .hint("free some memory, or use a keyslot with a smaller --pbkdf-memory"),
        CryptoError::LockedMemory { .. } => Failure::new(Exit::OutOfMemory, text)
            .hint("raise the limit of locked memory for this shell, then try again")
            .command("sudo prlimit --pid $$ --memlock=unlimited"),
        CryptoError::CostTooHigh { .. } => Failure::new(Exit::OutOfMemory, text)
            .hint("open the volume on a machine with more memory, or by another keyslot"),
        CryptoError::Random(_) | CryptoError::SelfTest { .. } => Failure::new(Exit::Failure, text)
            .hint("do not use this machine for encryption before the cause is found"),
        _ => Failure::new(Exit::Failure, text),
    }
}

/// A device that cannot be opened.
pub(crate) fn open(error: OpenError) -> Failure {
    match error {
        OpenError::Busy { path, who } => {
            Failure::new(Exit::Busy, format!("{} is in use by {who}", shell(&path)))
                .hint("see what uses it")
                .command(format!(
                    "lsblk {0}; luksmith list; findmnt {0}",
                    shell(&path)
                ))
        }
        OpenError::WrongKind { path } => Failure::new(
            Exit::WrongDevice,
            format!(
                "{} is neither a regular file nor a block device",
                shell(&path)
            ),
        )
        .hint("see which disks there are")
        .command("lsblk -f"),
        OpenError::Io { path, source } => {
            let exit = exit_of_io(&source);
            let failure = Failure::new(exit, format!("cannot open {}: {source}", shell(&path)));
            match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    failure.hint("only root may use most disks: run the command with sudo")
                }
                io::ErrorKind::NotFound => failure
                    .hint("see which disks there are")
                    .command("lsblk -f"),
                io::ErrorKind::ReadOnlyFilesystem => {
                    failure.hint("it lies on something that cannot be written")
                }
                _ => failure,
            }
        }
    }
}

/// A lock that cannot be had.
pub(crate) fn lock(error: &LockError) -> Failure {
    match error {
        LockError::Busy { .. } => Failure::new(Exit::Busy, chain(error))
            .hint("another cryptsetup or luksmith is at work on it: wait for that to end"),
        LockError::Directory { .. } => Failure::new(Exit::Failure, chain(error))
            .hint("run the command as root; --disable-locks works without the lock"),
        LockError::Io { .. } => Failure::new(Exit::WrongDevice, chain(error)),
    }
}

/// No header.
pub(crate) fn resolve(path: &Path, error: &ResolveError) -> Failure {
    let name = shell(path);
    match error {
        ResolveError::NotLuks2 => {
            Failure::new(Exit::Failure, format!("{name} holds no LUKS2 volume"))
                .hint("see what lies there; a detached header is given with --header")
                .command(format!("lsblk -f {name}"))
        }
        ResolveError::Luks1 => Failure::new(
            Exit::Failure,
            format!("{name} holds a LUKS1 volume, and only LUKS2 volumes are handled"),
        )
        .hint("cryptsetup converts it, while it is closed and after a header backup")
        .command(format!(
            "cryptsetup luksHeaderBackup {name} --header-backup-file luks1-header.bak && \
             cryptsetup convert {name} --type luks2"
        )),
        ResolveError::BothBad { primary, secondary } => Failure::new(
            Exit::Failure,
            format!("both copies of the LUKS2 header on {name} are damaged"),
        )
        .detail(format!("first copy: {primary}"))
        .detail(format!("second copy: {secondary}"))
        .hint("write no more to it; a header backup brings the volume back")
        .command(format!(
            "luksmith header restore {name} --header-backup-file BACKUP"
        )),
        ResolveError::DeviceTooSmall { need, have } => Failure::new(
            Exit::WrongDevice,
            format!("{name} is too small for its own header: {have} of {need} bytes are there"),
        )
        .hint("the disk, partition or file was shortened or copied in part"),
        other => Failure::new(
            Exit::WrongDevice,
            format!("cannot read {name}: {}", chain(other)),
        ),
    }
}

/// A change that was not planned; planning writes nothing.
pub(crate) fn plan(path: &Path, error: PlanError) -> Failure {
    let name = shell(path);
    let text = chain(&error);
    match error {
        PlanError::Crypto(inner) => crypto(inner),
        PlanError::Format(inner) => format(path, &inner),
        PlanError::LastSlot(slot) => Failure::new(
            Exit::Failure,
            format!("keyslot {slot} is the last one that opens the data on {name}"),
        )
        .hint("add another passphrase first; or destroy the volume on purpose")
        .command(format!("luksmith slot add {name}"))
        .command(format!("luksmith erase {name}")),
        PlanError::SlotInUse(_) | PlanError::NoSuchSlot(_) => {
            Failure::new(Exit::Failure, format!("{name}: {text}"))
                .hint("see which keyslots there are")
                .command(format!("luksmith slot list {name}"))
        }
        PlanError::Reencrypting => Failure::new(Exit::Failure, format!("{name}: {text}"))
            .hint("end the re-encryption first")
            .command(format!("cryptsetup reencrypt --resume-only {name}")),
        PlanError::Option { option, why } => {
            Failure::usage(format!("option --{option} cannot be honoured: {why}"))
        }
        PlanError::DeviceTooSmall { .. } => {
            Failure::new(Exit::Failure, format!("{name} is too small: {text}"))
        }
        _ => Failure::new(Exit::Failure, format!("{name}: {text}")),
    }
}

/// Metadata that would break a rule.
pub(crate) fn format(path: &Path, error: &FormatError) -> Failure {
    let name = shell(path);
    let failure = Failure::new(Exit::Failure, format!("{name}: {error}"));
    match error {
        FormatError::JsonTooBig { .. } => failure
            .hint("remove a token or a keyslot, or format with a larger --luks2-metadata-size"),
        FormatError::UnknownRequirement(_) => {
            failure.hint("a newer program made this volume; use that one")
        }
        FormatError::ReencryptionInProgress => failure
            .hint("end the re-encryption first")
            .command(format!("cryptsetup reencrypt --resume-only {name}")),
        FormatError::Missing { what: "token", .. } => failure
            .hint("see which tokens there are")
            .command(format!("luksmith token list {name}")),
        FormatError::Missing { .. } | FormatError::InUse { .. } => failure
            .hint("see what the header holds")
            .command(format!("luksmith dump {name}")),
        _ => failure,
    }
}

/// No key.
pub(crate) fn unlock(path: &Path, error: &UnlockError) -> Failure {
    let name = shell(path);
    let exit = match error.kind {
        UnlockErrorKind::WrongSecret | UnlockErrorKind::WrongVolumeKey => Exit::NoPermission,
        UnlockErrorKind::PinNeeded => Exit::NoPermission,
        UnlockErrorKind::OutOfMemory => Exit::OutOfMemory,
        UnlockErrorKind::Device => Exit::WrongDevice,
        _ => Exit::Failure,
    };
    let failure = tried(
        Failure::new(exit, format!("cannot unlock {name}: {error}")),
        &error.attempts,
    );
    let by_token = |attempt: &Attempt| matches!(attempt.tried, Tried::Token(_));
    let tokens_only = !error.attempts.is_empty() && error.attempts.iter().all(by_token);
    if tokens_only && error.kind != UnlockErrorKind::Unsupported {
        let what = format!("cannot unlock {name}: no token gives a key");
        return tried(Failure::new(exit, what), &error.attempts)
            .command(format!("luksmith tpm list {name}"));
    }
    match error.kind {
        UnlockErrorKind::WrongSecret => failure
            .hint("check the keyboard layout and caps lock; a key file is used whole, its last newline too"),
        UnlockErrorKind::NoSuchSlot | UnlockErrorKind::NothingToTry => failure
            .hint("see which keyslots there are")
            .command(format!("luksmith slot list {name}")),
        UnlockErrorKind::OutOfMemory => failure
            .hint("free some memory, or open the volume on a larger machine and make the slot cheaper")
            .command(format!("luksmith slot convert {name} --key-slot N --pbkdf-memory 262144")),
        UnlockErrorKind::WeakCipher => failure
            .hint("do not trust what lies on this volume; --allow-null-cipher opens it all the same"),
        UnlockErrorKind::Requirement => failure
            .hint("a newer program made this volume; use that one"),
        UnlockErrorKind::Unsupported => failure
            .hint("see what the header asks for")
            .command(format!("luksmith dump {name}")),
        UnlockErrorKind::Device => failure
            .hint("the disk has read errors or is cut short: make a copy of it before anything else")
            .command("dmesg | tail"),
        _ => failure,
    }
}

/// No keyslot of several opened with one passphrase.
pub(crate) fn attempts(path: &Path, attempts: &[Attempt]) -> Failure {
    let what = format!(
        "cannot unlock {}: no keyslot opens with this passphrase",
        shell(path)
    );
    tried(Failure::new(Exit::NoPermission, what), attempts)
}

fn tried(mut failure: Failure, attempts: &[Attempt]) -> Failure {
    for attempt in attempts {
        let who = match attempt.tried {
            Tried::Slot(slot) => format!("slot {slot}"),
            Tried::Token(token) => format!("token {token}"),
            Tried::SlotByToken { token, slot } => format!("slot {slot} (by token {token})"),
        };
        let how = match &attempt.outcome {
            Outcome::Opened => "opened".to_string(),
            Outcome::Slot(error) => chain(error),
            Outcome::Token(TokenError::LockedOut {
                remaining: Some(time),
            }) => format!(
                "locked out after too many wrong tries, for at most {}",
                span(time.as_secs())
            ),
            Outcome::Token(error) => chain(error),
        };
        failure = failure.detail(format!("tried: {who}: {how}"));
    }
    failure
}

/// A span of time in the unit that a person would take.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

/// A TPM.
pub(crate) fn tpm(error: &TpmError) -> Failure {
    let exit = match error {
        TpmError::NotPresent { .. } | TpmError::Transport(_) => Exit::WrongDevice,
        TpmError::WrongPin { .. }
        | TpmError::PinNeeded
        | TpmError::LockedOut { .. }
        | TpmError::PolicyMismatch { .. }
        | TpmError::TooLate { .. }
        | TpmError::HierarchyAuth { .. } => Exit::NoPermission,
        TpmError::Busy { .. } => Exit::Busy,
        _ => Exit::Failure,
    };
    let failure = Failure::new(exit, chain(error));
    match error {
        TpmError::NotPresent { .. } => failure
            .hint("see whether the firmware has it switched on, or name it with --tpm2-device")
            .command("ls /dev/tpm*"),
        TpmError::Transport(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            failure.hint("run the command as root, or as a member of the group tss")
        }
        TpmError::LockedOut { remaining } => match remaining {
            Some(time) => failure.hint(format!(
                "wait {} with the machine on; a recovery key or passphrase opens the volume meanwhile",
                span(time.as_secs())
            )),
            None => failure.hint("a recovery key or passphrase opens the volume meanwhile"),
        },
        TpmError::HierarchyAuth { what } if what.starts_with("lockout") => failure
            .hint("a wrong one closes all use of it for a while; see for how long")
            .command("luksmith tpm lockout"),
        TpmError::HierarchyAuth { .. } => failure
            .hint("somebody took this TPM into possession; luksmith needs its owner authorization to be empty"),
        TpmError::BackEnd { .. } => failure
            .hint("the other back end can, where it reaches this TPM: --tpm2-backend=native"),
        TpmError::Full { .. } => failure
            .hint("free a persistent handle or an index that nothing uses any more")
            .command("tpm2_getcap handles-persistent"),
        _ => failure.command("luksmith tpm status"),
    }
}

/// The header store.
pub(crate) fn store(path: &Path, error: StoreError) -> Failure {
    let name = shell(path);
    let written = error.disk_was_written();
    let text = format!("{name}: {}", chain(&error));
    let mut failure = match error {
        StoreError::Lock(inner) => return lock(&inner),
        StoreError::Resolve(inner) => return resolve(path, &inner),
        StoreError::Format(inner) => return format(path, &inner),
        StoreError::Concurrent { .. } => Failure::new(Exit::Busy, text)
            .hint("another program changed the header meanwhile: look at it, then try again")
            .command(format!("luksmith dump {name}")),
        StoreError::ReadOnly => {
            Failure::new(Exit::NoPermission, text).hint("the device or file is write-protected")
        }
        StoreError::Device { source, .. } => {
            let exit = exit_of_io(&source);
            let failure = Failure::new(exit, text);
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    failure.hint("make room on the file system that holds the file")
                }
                _ => failure
                    .hint("the disk has errors: copy the volume to another one, then look at it")
                    .command("dmesg | tail"),
            }
        }
        StoreError::ReadBack { .. } => Failure::new(Exit::WrongDevice, text)
            .hint("the disk lies about what it wrote: copy the volume to another one"),
        StoreError::Foreign(_) => Failure::new(Exit::Failure, text)
            .hint("if the volume is still meant to be there, repair it in so many words")
            .command(format!("luksmith repair {name}")),
        StoreError::Unreadable { .. } | StoreError::Conflict => Failure::new(Exit::Failure, text)
            .hint("make a header backup, then repair")
            .command(format!(
                "luksmith header backup {name} --header-backup-file header.bak"
            ))
            .command(format!("luksmith repair {name}")),
        StoreError::BadBackup { .. } => Failure::new(Exit::Failure, text)
            .hint("give the file that 'luksmith header backup' wrote"),
        StoreError::Backup { source, .. } => {
            let failure = Failure::new(Exit::Failure, text);
            match source.kind() {
                io::ErrorKind::AlreadyExists => {
                    failure.hint("no file is overwritten: give another name")
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    failure.hint("there is no room for the backup; give a file elsewhere")
                }
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                    failure.hint("see whether the file and its folder are there and may be used")
                }
                _ => failure,
            }
        }
        StoreError::RestoreRefused(objections) => {
            let mut failure = Failure::new(Exit::Failure, format!("{name}: not restored"));
            for objection in &objections {
                failure = failure.detail(objection);
            }
            failure
        }
        _ => Failure::new(Exit::Failure, text),
    };
    if written {
        failure = failure.wrote(
            "the header may have been written in part; the data was not touched, and one copy \
             of the header is whole",
        );
        if failure.commands.is_empty() {
            failure = failure.command(format!("luksmith header info {name}"));
        }
    }
    failure
}

/// A header that does not make a volume.
pub(crate) fn volume(path: &Path, error: &VolumeError) -> Failure {
    let name = shell(path);
    let failure = Failure::new(
        Exit::Failure,
        format!("{name} cannot be opened: {}", chain(error)),
    );
    match error {
        VolumeError::ReencryptionInProgress => failure
            .hint("end the re-encryption first")
            .command(format!("cryptsetup reencrypt --resume-only {name}")),
        VolumeError::DeviceTooSmall { .. } => {
            let mut failure = failure.hint("the disk, partition or file was shortened");
            failure.exit = Exit::WrongDevice;
            failure
        }
        VolumeError::UnknownRequirement(_) => {
            failure.hint("a newer program made this volume; use that one")
        }
        VolumeError::InsideHeader { .. } => failure
            .hint("a header that lies apart from its data is given with --header")
            .command(format!("luksmith open DATA-DEVICE NAME --header {name}")),
        VolumeError::Plain { .. } => {
            failure.hint("do not trust what lies on it; --allow-null-cipher opens it all the same")
        }
        VolumeError::UnsupportedRequirement(_) | VolumeError::UnsupportedSegment { .. } => {
            failure.hint("cryptsetup may be able to open it")
        }
        VolumeError::Cipher {
            source: CryptoError::Unsupported { .. },
            ..
        } => failure
            .hint("aes-xts-plain64 is the only cipher so far; cryptsetup may be able to open it"),
        _ => failure,
    }
}

/// Serving over ublk.
pub(crate) fn ublk(error: UblkError) -> Failure {
    let text = error.to_string();
    match error {
        UblkError::NoDriver(_)
        | UblkError::KnownBadKernel { .. }
        | UblkError::MissingFeature(_) => Failure::new(Exit::Failure, text)
            .hint("see what this machine lacks; without ublk a volume can be served over NBD")
            .command("luksmith doctor")
            .command("luksmith serve DEVICE --socket /run/volume.sock"),
        UblkError::BadName(..) => Failure::usage(text),
        UblkError::NameTaken(name) => Failure::new(Exit::Busy, text)
            .hint("see it, or take another name")
            .command(format!("luksmith status {name}")),
        UblkError::AlreadyOpen { name, .. } => Failure::new(Exit::Busy, text)
            .hint("use it there, or close it first")
            .command(format!("luksmith close {name}")),
        UblkError::NotOpen(_) => Failure::new(Exit::WrongDevice, text)
            .hint("see which volumes are open")
            .command("luksmith list"),
        UblkError::InUse { name, users } => {
            let mut failure = Failure::new(Exit::Busy, format!("{name} is in use"));
            for user in &users {
                failure = failure.detail(user);
            }
            failure
                .hint("end what uses it; or let it close by itself when the last user is gone")
                .command(format!("luksmith close {name} --deferred"))
        }
        UblkError::Io { ref source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::NoPermission, text).hint("run the command as root")
        }
        UblkError::NoAnswer { .. } => Failure::new(Exit::Busy, text)
            .hint("its server hangs or is gone: see what the kernel says")
            .command("dmesg | tail"),
        UblkError::Stuck { .. } => Failure::new(Exit::Busy, text),
        UblkError::Backing(error) => crate::commands::serve::backing_failed(error),
        _ => Failure::new(Exit::Failure, text),
    }
}
