//! What an event is about, in words of people who never heard of a PCR.

use std::fmt;

use super::event::{EventKind, EventType};
use super::text::is_boot_entry;

/// What was measured. Displayed it is a part of a sentence: "the boot order".
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Subject {
    /// The firmware's own version.
    FirmwareVersion(String),
    /// Code of the firmware, or microcode.
    Firmware,
    /// Settings and tables of the firmware.
    FirmwareSettings,
    /// Whether Secure Boot is on.
    SecureBoot {
        /// Whether it is.
        on: bool,
    },
    /// Keys that Secure Boot goes by: PK, KEK, db, dbx.
    SecureBootKeys(String),
    /// Keys of the machine's owner, by shim.
    OwnerKeys(String),
    /// Which key vouched for an image that was started.
    Authority(String),
    /// The oldest boot loaders that shim still starts.
    RevocationLevel,
    /// A driver from an option ROM.
    OptionRom(String),
    /// A driver of the firmware, or one that it loaded.
    Driver(String),
    /// A boot loader or kernel; the path is empty where whoever measured it gave none.
    BootImage(String),
    /// The order in which boot entries are tried.
    BootOrder(String),
    /// A boot entry.
    BootEntry(String),
    /// The partition table of the disk that was booted from.
    PartitionTable,
    /// The course of the boot: a first attempt that failed, a boot menu that was entered.
    Course(String),
    /// The kernel's command line; empty where it is not in the log.
    KernelCommandLine(String),
    /// A command that GRUB ran.
    GrubCommand(String),
    /// Configuration of the boot loader.
    LoaderConfiguration(String),
    /// A kernel that GRUB or systemd's stub read.
    Kernel(String),
    /// The initrd; the path is empty where it is not in the log.
    Initrd(String),
    /// Another file that GRUB read.
    File(String),
    /// A section of a unified kernel image.
    UkiSection(String),
    /// An add-on of a unified kernel image: a device tree, an initrd, microcode.
    UkiAddOn(String),
    /// A phase of the boot as systemd measures it.
    Phase(String),
    /// The machine's identity in `/etc/machine-id`.
    MachineId,
    /// A volume key, which systemd measures when it opens a volume.
    VolumeKey,
    /// A file system, which systemd measures when it mounts it.
    FileSystem,
    /// The mark between firmware and what it starts.
    Separator {
        /// Whether the firmware said so because of an error.
        error: bool,
    },
    /// Something else: the name of its kind, and its text.
    Other(EventKind, String),
}

impl Subject {
    /// By where, as what and with which text it was measured.
    pub(super) fn of(pcr: u8, kind: &EventKind, text: &str) -> Self {
        let owned = || text.to_owned();
        let other = || Self::Other(kind.clone(), owned());
        let kind = match kind {
            EventKind::Tcg(kind) => *kind,
            EventKind::Userspace(name) => {
                return match name.as_str() {
                    "phase" => Self::Phase(owned()),
                    "machine-id" => Self::MachineId,
                    "volume-key" => Self::VolumeKey,
                    "filesystem" => Self::FileSystem,
                    _ => other(),
                };
            }
        };
        match kind {
            EventType::S_CRTM_VERSION => Self::FirmwareVersion(owned()),
            EventType::S_CRTM_CONTENTS
            | EventType::POST_CODE
            | EventType::POST_CODE2
            | EventType::CPU_MICROCODE
            | EventType::EFI_HCRTM_EVENT
            | EventType::EFI_PLATFORM_FIRMWARE_BLOB
            | EventType::EFI_PLATFORM_FIRMWARE_BLOB2
            | EventType::EFI_SPDM_FIRMWARE_BLOB => Self::Firmware,
            EventType::PLATFORM_CONFIG_FLAGS
            | EventType::TABLE_OF_DEVICES
            | EventType::NONHOST_CONFIG
            | EventType::EFI_HANDOFF_TABLES
            | EventType::EFI_HANDOFF_TABLES2
            | EventType::EFI_SPDM_FIRMWARE_CONFIG => Self::FirmwareSettings,
            EventType::NONHOST_CODE => Self::OptionRom(owned()),
            EventType::EFI_BOOT_SERVICES_DRIVER | EventType::EFI_RUNTIME_SERVICES_DRIVER => {
                // PCR 2 is for code that is not of the platform's maker (PFP, 3.3.4.3).
                match pcr {
                    2 => Self::OptionRom(owned()),
                    _ => Self::Driver(owned()),
                }
            }
            EventType::EFI_BOOT_SERVICES_APPLICATION => match pcr {
                2 => Self::OptionRom(owned()),
                _ => Self::BootImage(owned()),
            },
            EventType::EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EFI_VARIABLE_BOOT
            | EventType::EFI_VARIABLE_BOOT2 => variable(text).unwrap_or_else(other),
            EventType::EFI_VARIABLE_AUTHORITY => match text {
                _ if text.starts_with("SbatLevel") => Self::RevocationLevel,
                _ => Self::Authority(owned()),
            },
            EventType::EFI_GPT_EVENT | EventType::EFI_GPT_EVENT2 => Self::PartitionTable,
            EventType::IPL_PARTITION_DATA => Self::PartitionTable,
            EventType::ACTION | EventType::EFI_ACTION | EventType::OMIT_BOOT_DEVICE_EVENTS => {
                Self::Course(owned())
            }
            EventType::SEPARATOR => Self::Separator {
                error: text == "error",
            },
            EventType::IPL | EventType::EVENT_TAG => {
                boot_loader(pcr, kind, text).unwrap_or_else(other)
            }
            _ => other(),
        }
    }
}

/// A variable of the firmware, by the text that is made of it.
fn variable(text: &str) -> Option<Subject> {
    let first = text.split(' ').next().unwrap_or_default();
    Some(match text {
        "SecureBoot=on" => Subject::SecureBoot { on: true },
        "SecureBoot=off" => Subject::SecureBoot { on: false },
        "PK" | "KEK" | "db" | "dbx" | "dbt" | "dbr" => Subject::SecureBootKeys(text.to_owned()),
        _ if text.starts_with("BootOrder=") => {
            Subject::BootOrder(text["BootOrder=".len()..].to_owned())
        }
        _ if is_boot_entry(first) => Subject::BootEntry(text.to_owned()),
        _ => return None,
    })
}

/// What boot loaders and the kernel measure (systemd's `TPM2_PCR_MEASUREMENTS`; GRUB's manual,
/// "Measured Boot"; Linux, `drivers/firmware/efi/libstub`).
fn boot_loader(pcr: u8, kind: EventType, text: &str) -> Option<Subject> {
    let owned = || text.to_owned();
    if kind == EventType::EVENT_TAG {
        return match text {
            "LOADED_IMAGE::LoadOptions" => Some(Subject::KernelCommandLine(String::new())),
            "Linux initrd" => Some(Subject::Initrd(String::new())),
            "loader.conf" => Some(Subject::LoaderConfiguration(owned())),
            _ if text.starts_with("smbios:") => Some(Subject::FirmwareSettings),
            _ if pcr == 12 => Some(Subject::UkiAddOn(owned())),
            _ => None,
        };
    }
    Some(match pcr {
        8 => {
            if let Some(line) = text.strip_prefix("kernel_cmdline: ") {
                Subject::KernelCommandLine(line.to_owned())
            } else if let Some(command) = text.strip_prefix("grub_cmd: ") {
                grub_command(command)
            } else {
                return None;
            }
        }
        9 => file(text),
        // Without firmware that knows UEFI.
        4 => Subject::BootImage(owned()),
        11 if text.starts_with('.') => Subject::UkiSection(owned()),
        // The stub makes initrds of credentials and extensions, and calls them so.
        12 | 13 if text.ends_with(" initrd") => Subject::Initrd(owned()),
        12 => Subject::KernelCommandLine(owned()),
        14 => Subject::OwnerKeys(owned()),
        _ => return None,
    })
}

/// The command that loads a kernel has the kernel's command line, and comes before the event that
/// has nothing else.
fn grub_command(command: &str) -> Subject {
    let line = ["linux ", "linuxefi ", "linux16 "]
        .iter()
        .find_map(|name| command.strip_prefix(name));
    match line {
        Some(line) => Subject::KernelCommandLine(line.to_owned()),
        None => Subject::GrubCommand(command.to_owned()),
    }
}

/// A file that GRUB read, by what files are called.
fn file(path: &str) -> Subject {
    let name = path.rsplit('/').next().unwrap_or_default();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if has(&["initrd", "initramfs", "ucode"]) {
        Subject::Initrd(path.to_owned())
    } else if has(&["vmlinuz", "vmlinux", "bzImage"]) {
        Subject::Kernel(path.to_owned())
    } else if name.ends_with(".cfg") || name == "grubenv" {
        Subject::LoaderConfiguration(path.to_owned())
    } else {
        Subject::File(path.to_owned())
    }
}

impl Subject {
    /// What it is, and which: a name, a path, a text; "" where there is only one.
    pub(super) fn words(&self) -> (String, &str) {
        let (what, which) = match self {
            Self::FirmwareVersion(version) => ("firmware version", version.as_str()),
            Self::Firmware => ("firmware", ""),
            Self::FirmwareSettings => ("firmware settings or hardware tables", ""),
            Self::SecureBoot { .. } => ("state of Secure Boot", ""),
            Self::SecureBootKeys(name) => match name.as_str() {
                "db" => ("Secure Boot database (db)", ""),
                "dbx" => ("Secure Boot revocation list (dbx)", ""),
                "PK" => ("Secure Boot platform key (PK)", ""),
                "KEK" => ("Secure Boot key exchange keys (KEK)", ""),
                name => ("Secure Boot keys", name),
            },
            Self::OwnerKeys(name) => ("machine owner's keys", name.as_str()),
            Self::Authority(who) => ("key that vouches for what is started", who.as_str()),
            Self::RevocationLevel => ("revocation level of boot loaders (SBAT)", ""),
            Self::OptionRom(path) => ("EFI driver from an option ROM", path.as_str()),
            Self::Driver(path) => ("EFI driver", path.as_str()),
            Self::BootImage(path) => ("boot loader or kernel image", path.as_str()),
            Self::BootOrder(order) => ("boot order", order.as_str()),
            Self::BootEntry(entry) => ("boot entry", entry.as_str()),
            Self::PartitionTable => ("partition table of the boot disk", ""),
            Self::Course(action) => ("course of the boot", action.as_str()),
            Self::KernelCommandLine(line) => ("kernel command line", line.as_str()),
            Self::GrubCommand(command) => ("GRUB command", command.as_str()),
            Self::LoaderConfiguration(path) => ("boot loader configuration", path.as_str()),
            Self::Kernel(path) => ("kernel", path.as_str()),
            Self::Initrd(path) => ("initrd", path.as_str()),
            Self::File(path) => ("file read by GRUB", path.as_str()),
            Self::UkiSection(name) => match name.as_str() {
                ".linux" => ("kernel in the unified kernel image", ""),
                ".initrd" => ("initrd in the unified kernel image", ""),
                ".cmdline" => ("kernel command line in the unified kernel image", ""),
                ".osrel" => ("os-release in the unified kernel image", ""),
                ".uname" => ("kernel version in the unified kernel image", ""),
                name => ("section of the unified kernel image", name),
            },
            Self::UkiAddOn(name) => ("add-on of the unified kernel image", name.as_str()),
            Self::Phase(name) => ("phase of the boot", name.as_str()),
            Self::MachineId => ("machine ID", ""),
            Self::VolumeKey => ("key of an encrypted volume", ""),
            Self::FileSystem => ("identity of a file system", ""),
            Self::Separator { error: false } => ("end of the firmware's measurements", ""),
            Self::Separator { error: true } => ("error that the firmware met", ""),
            Self::Other(kind, text) => return (kind.to_string(), text),
        };
        (what.to_owned(), which)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            (what, "") => f.write_str(&what),
            (what, which) => write!(f, "{what}: {which}"),
        }
    }
}
