//! What is told about an open volume: plain values for `list`, `status` and the state file.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::VolumeName;

/// What stays true of a volume as long as it is open. Written to
/// `/run/luksmith/NAME/state.json` before the device starts, because the kernel announces the
/// device from within the start command and udev then asks for the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFacts {
    /// The name it was opened under.
    pub name: VolumeName,
    /// The UUID in the LUKS2 header.
    pub uuid: String,
    /// The label in the LUKS2 header, if it has one.
    pub label: Option<String>,
    /// N of `/dev/ublkbN`.
    pub dev_id: u32,
    /// The block device: `/dev/ublkbN`.
    pub device: PathBuf,
    /// The device or file that holds the encrypted data.
    pub backing: PathBuf,
    /// The device that holds the header, if it is another one.
    pub header: Option<PathBuf>,
    /// Device number (block device) or device and inode number (file) of the backing.
    pub backing_id: BackingId,
    /// Where the data begins on the backing, in bytes.
    pub data_offset_bytes: u64,
    /// Size of the plaintext device, in bytes.
    pub size_bytes: u64,
    /// Cipher as LUKS2 names it, such as `aes-xts-plain64`.
    pub cipher: String,
    /// Length of the volume key in bits.
    pub key_bits: u32,
    /// Encryption sector, in bytes.
    pub sector_size: u32,
    /// Logical block of the device, in bytes.
    pub logical_block: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether discards go down to the backing.
    pub allow_discards: bool,
    /// Queues, each with its own thread and io_uring.
    pub queues: u16,
    /// Requests in flight per queue.
    pub depth: u16,
    /// Largest single request, in bytes.
    pub max_io_bytes: u32,
    /// The process that keeps the key and replaces a dead server.
    pub keeper_pid: i32,
    /// When the volume was opened, in seconds since 1970.
    pub opened_at: u64,
}

/// Tells whether two paths lead to the same backing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackingId {
    /// A block device by its number.
    Device(u64),
    /// A file by file system and inode.
    File(u64, u64),
}

/// What an open volume is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// The device is being set up.
    Starting,
    /// Requests are served.
    Live,
    /// Requests are served, and the volume closes when its last user has gone.
    ClosePending,
    /// The device is being taken down.
    Closing,
    /// The server died and is being replaced; requests wait.
    Recovering,
    /// The server does not answer.
    NoAnswer,
}

/// What a volume has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeCounters {
    /// Read requests answered.
    pub reads: u64,
    /// Write requests answered.
    pub writes: u64,
    /// Flush requests answered.
    pub flushes: u64,
    /// Discard requests answered.
    pub discards: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Whether a flush failed: what was written before it may be lost, and no later flush
    /// is reported as done.
    pub flush_failed: bool,
}

/// Everything that is known about an open volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// What does not change while it is open.
    #[serde(flatten)]
    pub facts: VolumeFacts,
    /// What it is doing.
    pub state: VolumeState,
    /// The serving process; none while it is being replaced.
    pub server_pid: Option<i32>,
    /// How often a dead server was replaced.
    pub recoveries: u32,
    /// What the present server has done so far; none if it did not answer.
    pub counters: Option<VolumeCounters>,
    /// Mounts, swap areas, stacked devices and processes that use it.
    pub users: Vec<User>,
}

/// One user of a block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum User {
    /// A mounted file system.
    Mount {
        /// What is mounted: the device or one of its partitions.
        device: String,
        /// Where.
        path: PathBuf,
    },
    /// A swap area.
    Swap {
        /// The device.
        device: String,
    },
    /// A device stacked on it (device-mapper, RAID).
    Holder {
        /// The device.
        device: String,
        /// The device on top of it.
        holder: String,
    },
    /// A process that has it open.
    Process {
        /// The device.
        device: String,
        /// The process.
        pid: i32,
        /// Its name.
        command: String,
    },
    /// Something that cannot be seen from here, such as a mount in another container.
    Unseen {
        /// The device.
        device: String,
    },
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mount { device, path } => write!(f, "{device} is mounted at {}", path.display()),
            Self::Swap { device } => write!(f, "{device} is used as swap"),
            Self::Holder { device, holder } => write!(f, "{device} carries {holder}"),
            Self::Process {
                device,
                pid,
                command,
            } => {
                write!(f, "{device} is open in process {pid} ({command})")
            }
            Self::Unseen { device } => write!(f, "{device} is claimed by a user out of sight"),
        }
    }
}

/// `: a; b`, or nothing.
pub(crate) fn used_by(users: &[User]) -> String {
    let mut text = String::new();
    for (i, user) in users.iter().enumerate() {
        let _ = write!(text, "{} {user}", if i == 0 { ":" } else { ";" });
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn facts() -> VolumeFacts {
        VolumeFacts {
            name: VolumeName::new("home").unwrap(),
            uuid: "11111111-2222-3333-4444-555555555555".into(),
            label: None,
            dev_id: 7,
            device: "/dev/ublkb7".into(),
            backing: "/dev/sda2".into(),
            header: None,
            backing_id: BackingId::Device(2050),
            data_offset_bytes: 16 << 20,
            size_bytes: 1 << 30,
            cipher: "aes-xts-plain64".into(),
            key_bits: 512,
            sector_size: 4096,
            logical_block: 4096,
            read_only: false,
            allow_discards: false,
            queues: 2,
            depth: 64,
            max_io_bytes: 1 << 17,
            keeper_pid: 100,
            opened_at: 1,
        }
    }

    #[test]
    fn a_status_survives_json_and_keeps_its_facts_on_the_top_level() {
        let status = VolumeStatus {
            facts: facts(),
            state: VolumeState::ClosePending,
            server_pid: Some(101),
            recoveries: 3,
            counters: Some(VolumeCounters::default()),
            users: vec![User::Mount {
                device: "/dev/ublkb7p1".into(),
                path: "/mnt".into(),
            }],
        };
        let value = serde_json::to_value(&status).unwrap();
        assert_eq!(value["name"], "home");
        assert_eq!(value["state"], "close-pending");
        assert_eq!(value["users"][0]["kind"], "mount");
        assert_eq!(
            serde_json::from_value::<VolumeStatus>(value).unwrap(),
            status
        );
    }

    #[test]
    fn users_are_named_in_the_error() {
        let error = crate::UblkError::InUse {
            name: "home".into(),
            users: vec![
                User::Swap {
                    device: "/dev/ublkb7p2".into(),
                },
                User::Process {
                    device: "/dev/ublkb7".into(),
                    pid: 9,
                    command: "dd".into(),
                },
            ],
        };
        assert_eq!(
            error.to_string(),
            "home is in use: /dev/ublkb7p2 is used as swap; /dev/ublkb7 is open in process 9 (dd)"
        );
    }
}
