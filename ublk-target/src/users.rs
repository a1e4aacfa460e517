//! Who uses a block device: mounts, swap, devices on top, processes.
//!
//! What is seen depends on where one looks from (mounts of other containers are
//! invisible), so these lists are for people. Whether a device may be taken down is the
//! kernel's word: [`claim`], or the driver's own safe stop.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;

use crate::status::User;

/// One block device node: the disk or one of its partitions.
#[derive(Debug)]
struct Node {
    name: String,
    number: u64,
    folder: PathBuf,
}

impl Node {
    fn device(&self) -> String {
        format!("/dev/{}", self.name)
    }
}

/// Mounts, swap areas, stacked devices and processes that use `/dev/DISK` or a partition of it.
/// `but_not` is a process to leave out: the caller itself.
pub(crate) fn of(disk: &str, but_not: i32) -> Vec<User> {
    let nodes = nodes(disk);
    let mut users = Vec::new();
    if let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") {
        mounts_in(&mounts, &nodes, &mut users);
    }
    if let Ok(swaps) = fs::read_to_string("/proc/swaps") {
        for area in swaps
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
        {
            let number = fs::metadata(unescape(area)).map(|m| m.rdev()).ok();
            for node in nodes.iter().filter(|node| Some(node.number) == number) {
                users.push(User::Swap {
                    device: node.device(),
                });
            }
        }
    }
    for node in &nodes {
        for holder in names_in(&node.folder.join("holders")) {
            users.push(User::Holder {
                device: node.device(),
                holder,
            });
        }
    }
    processes(&nodes, but_not, &mut users);
    users
}

/// Claims the whole disk exclusively, as a mount would: refused while it or one of its partitions
/// is mounted, swapped to or stacked upon, from whatever name space. While the
/// returned file lives nobody else can claim it. Read-only, so closing it is no event for udev.
pub(crate) fn claim(device: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_CLOEXEC)
        .open(device)
}

/// Whether an error of [`claim`] says that somebody else has the device.
pub(crate) fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EBUSY as i32)
}

fn nodes(disk: &str) -> Vec<Node> {
    let root = Path::new("/sys/class/block").join(disk);
    let mut nodes = Vec::new();
    let mut add = |name: String, folder: PathBuf| {
        if let Some(number) = fs::read_to_string(folder.join("dev"))
            .ok()
            .and_then(|t| parse_dev(&t))
        {
            nodes.push(Node {
                name,
                number,
                folder,
            });
        }
    };
    for name in names_in(&root) {
        if name.starts_with(disk) {
            add(name.clone(), root.join(&name));
        }
    }
    add(disk.into(), root);
    nodes
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// `MAJOR:MINOR` as a device number.
fn parse_dev(text: &str) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Mounts of these devices. A file system with an anonymous device number (btrfs) is
/// recognised by the device it names as its source.
fn mounts_in(mountinfo: &str, nodes: &[Node], users: &mut Vec<User>) {
    for line in mountinfo.lines() {
        let mut fields = line.split(' ');
        let number = fields.by_ref().nth(2).and_then(parse_dev);
        let Some(path) = fields.nth(1) else { continue };
        let source = line
            .split_once(" - ")
            .and_then(|(_, rest)| rest.split(' ').nth(1));
        let source_number = || {
            let source = source.filter(|s| s.starts_with("/dev/"))?;
            fs::metadata(unescape(source)).map(|m| m.rdev()).ok()
        };
        let anonymous = number.is_some_and(|n| libc::major(n) == 0);
        for node in nodes {
            if number == Some(node.number) || anonymous && source_number() == Some(node.number) {
                users.push(User::Mount {
                    device: node.device(),
                    path: PathBuf::from(unescape(path)),
                });
            }
        }
    }
}

fn processes(nodes: &[Node], but_not: i32, users: &mut Vec<User>) {
    let pids = names_in(Path::new("/proc"))
        .into_iter()
        .filter_map(|name| name.parse::<i32>().ok());
    for pid in pids.filter(|pid| *pid != but_not) {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let mut seen: Vec<u64> = Vec::new();
        for descriptor in names_in(&folder.join("fd")) {
            // Following the link asks the open file itself; it opens nothing.
            let Ok(file) = fs::metadata(folder.join("fd").join(descriptor)) else {
                continue;
            };
            if !file.file_type().is_block_device() || seen.contains(&file.rdev()) {
                continue;
            }
            if let Some(node) = nodes.iter().find(|node| node.number == file.rdev()) {
                seen.push(node.number);
                let command = fs::read_to_string(folder.join("comm")).unwrap_or_default();
                users.push(User::Process {
                    device: node.device(),
                    pid,
                    command: command.trim_end().into(),
                });
            }
        }
    }
}

/// Undoes the octal escapes of the kernel's tables (`\040` for a blank).
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|digits| bytes[at] == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)))
            .map(|digits| {
                digits
                    .iter()
                    .fold(0_u32, |n, d| n * 8 + u32::from(d - b'0'))
            });
        if let Some(value) = octal.and_then(|value| u8::try_from(value).ok()) {
            out.push(value);
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_disk_and_its_partitions_are_found() {
        let nodes = vec![
            Node {
                name: "ublkb0".into(),
                number: libc::makedev(259, 3),
                folder: "/".into(),
            },
            Node {
                name: "ublkb0p1".into(),
                number: libc::makedev(259, 4),
                folder: "/".into(),
            },
        ];
        let text = "22 28 0:21 / /proc rw,nosuid shared:13 - proc proc rw\n\
                    40 28 259:3 / /mnt/a\\040b rw,relatime shared:1 - ext4 /dev/ublkb0 rw\n\
                    41 28 259:4 /sub /mnt/c rw,relatime - xfs /dev/ublkb0p1 rw\n\
                    42 28 259:5 / /mnt/other rw - xfs /dev/sda rw\n\
                    broken line\n";
        let mut users = Vec::new();
        mounts_in(text, &nodes, &mut users);
        assert_eq!(
            users,
            [
                User::Mount {
                    device: "/dev/ublkb0".into(),
                    path: "/mnt/a b".into()
                },
                User::Mount {
                    device: "/dev/ublkb0p1".into(),
                    path: "/mnt/c".into()
                },
            ]
        );
    }

    #[test]
    fn escapes_are_undone_only_where_they_are_escapes() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/a\\9x\\04"), "/a\\9x\\04");
        assert_eq!(unescape("\\777"), "\\777");
    }

    #[test]
    fn a_process_that_holds_a_device_is_seen() {
        // Any block device that the machine lets us open will do; most build machines have none.
        let Some(device) = names_in(Path::new("/sys/class/block"))
            .into_iter()
            .find(|name| File::open(Path::new("/dev").join(name)).is_ok())
        else {
            return;
        };
        let _held = File::open(Path::new("/dev").join(&device)).unwrap();
        let me = std::process::id() as i32;
        let is_me = |user: &User| matches!(user, User::Process { pid, .. } if *pid == me);
        assert!(of(&device, -1).iter().any(is_me));
        assert!(!of(&device, me).iter().any(is_me));
    }
}
