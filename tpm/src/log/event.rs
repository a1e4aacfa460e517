//! One measurement.

use std::fmt;

use super::measure::measure;
use super::text;
use crate::hash::HashAlg;

/// What was measured into one PCR at one time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// The PCR, 0 to 23.
    pub pcr: u8,
    /// What kind of thing it is.
    pub kind: EventKind,
    /// What the log says about it. It need not be what was hashed, and nobody vouches for it.
    pub data: Vec<u8>,
    /// Each of the length of its bank.
    pub(super) digests: Vec<(HashAlg, Vec<u8>)>,
}

impl Event {
    /// What the PCR of this bank was extended by.
    #[must_use]
    pub fn digest(&self, bank: HashAlg) -> Option<&[u8]> {
        let (_, digest) = self.digests.iter().find(|(alg, _)| *alg == bank)?;
        Some(digest)
    }

    /// Whether a PCR was extended; otherwise it is a note in the log.
    #[must_use]
    pub fn extends(&self) -> bool {
        self.kind != EventKind::Tcg(EventType::NO_ACTION)
    }

    /// What it is about in one short line of printable text: a path, a name, a command. Empty where
    /// the event has nothing that a person could read. What is longer than
    /// [`MAX_TEXT_CHARS`](super::MAX_TEXT_CHARS) is cut.
    #[must_use]
    pub fn text(&self) -> String {
        text::of(self)
    }

    /// The command or command line that GRUB measured into PCR 8, in full and without what stands
    /// before it in the log ("grub_cmd: "). `None` unless the digests say that it is what was
    /// measured, so that one made from it is of the same kind.
    #[must_use]
    pub fn grub_command(&self) -> Option<&str> {
        if self.pcr != 8 || self.kind != EventKind::Tcg(EventType::IPL) {
            return None;
        }
        let text = str::from_utf8(&self.data).ok()?;
        let (_, command) = text.trim_end_matches('\0').split_once(": ")?;
        let measured =
            |(bank, digest): &(HashAlg, Vec<u8>)| measure(*bank, command.as_bytes()) == *digest;
        (!self.digests.is_empty() && self.digests.iter().all(measured)).then_some(command)
    }
}

/// Who measured, and what.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum EventKind {
    /// By firmware, boot loader or kernel: a type of PFP, 10.4.
    Tcg(EventType),
    /// By systemd after that: its name of it ("phase", "volume-key"), or "" where it has none.
    Userspace(String),
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcg(kind) => kind.fmt(f),
            Self::Userspace(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// Type of an event in the firmware's log (PFP, 10.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EventType(pub u32);

impl fmt::Display for EventType {
    /// Its name in the specification, or its number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "event type {:#010x}", self.0),
        }
    }
}

/// Constants, and their names in the specification.
macro_rules! event_types {
    ($($constant:ident = $number:literal,)*) => {
        #[expect(missing_docs, reason = "the specification's names with its EV_ before them")]
        impl EventType {
            $(pub const $constant: Self = Self($number);)*

            /// Its name in the specification, "EV_SEPARATOR".
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(concat!("EV_", stringify!($constant))),)*
                    _ => None,
                }
            }
        }
    };
}

event_types! {
    PREBOOT_CERT = 0x0000_0000,
    POST_CODE = 0x0000_0001,
    UNUSED = 0x0000_0002,
    NO_ACTION = 0x0000_0003,
    SEPARATOR = 0x0000_0004,
    ACTION = 0x0000_0005,
    EVENT_TAG = 0x0000_0006,
    S_CRTM_CONTENTS = 0x0000_0007,
    S_CRTM_VERSION = 0x0000_0008,
    CPU_MICROCODE = 0x0000_0009,
    PLATFORM_CONFIG_FLAGS = 0x0000_000A,
    TABLE_OF_DEVICES = 0x0000_000B,
    COMPACT_HASH = 0x0000_000C,
    IPL = 0x0000_000D,
    IPL_PARTITION_DATA = 0x0000_000E,
    NONHOST_CODE = 0x0000_000F,
    NONHOST_CONFIG = 0x0000_0010,
    NONHOST_INFO = 0x0000_0011,
    OMIT_BOOT_DEVICE_EVENTS = 0x0000_0012,
    POST_CODE2 = 0x0000_0013,
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001,
    EFI_VARIABLE_BOOT = 0x8000_0002,
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003,
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004,
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005,
    EFI_GPT_EVENT = 0x8000_0006,
    EFI_ACTION = 0x8000_0007,
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008,
    EFI_HANDOFF_TABLES = 0x8000_0009,
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000A,
    EFI_HANDOFF_TABLES2 = 0x8000_000B,
    EFI_VARIABLE_BOOT2 = 0x8000_000C,
    EFI_GPT_EVENT2 = 0x8000_000D,
    EFI_HCRTM_EVENT = 0x8000_0010,
    EFI_VARIABLE_AUTHORITY = 0x8000_00E0,
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00E1,
    EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00E2,
    EFI_SPDM_DEVICE_POLICY = 0x8000_00E3,
    EFI_SPDM_DEVICE_AUTHORITY = 0x8000_00E4,
}
