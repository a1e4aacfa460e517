//! Finds out who is in the way when a backing is taken, so that the message can say it.
//! Best effort: what this process may not see stays unsaid.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

/// The sysfs directory of the block device with this number.
pub(crate) fn sysfs_of(rdev: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}:{}", major(rdev), minor(rdev)))
}

/// Mounts, swap areas, stacked devices and processes that hold a block device.
pub(crate) fn holders_of_block_device(rdev: u64) -> Vec<String> {
    let mut found = Vec::new();
    let number = format!("{}:{}", major(rdev), minor(rdev));
    if let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") {
        found.extend(mounts_of(&mounts, &number).map(|at| format!("mounted on {at}")));
    }
    if let Ok(swaps) = fs::read_to_string("/proc/swaps") {
        for path in swaps
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
        {
            if fs::metadata(path).is_ok_and(|meta| meta.rdev() == rdev) {
                found.push("used as swap".to_owned());
            }
        }
    }
    if let Ok(holders) = fs::read_dir(sysfs_of(rdev).join("holders")) {
        for holder in holders.flatten() {
            found.push(format!("part of {}", holder.file_name().to_string_lossy()));
        }
    }
    // Not this process: what it has open here is no claim that could stand in its own way.
    found.extend(processes(usize::MAX, |meta| meta.rdev() == rdev));
    found.truncate(MOST_HOLDERS);
    found
}

/// Processes that have the file with this device and inode number open, one handle of the
/// caller's own aside.
pub(crate) fn processes_with_open_file(dev: u64, ino: u64) -> Vec<String> {
    processes(1, |meta| meta.dev() == dev && meta.ino() == ino)
}

/// The end of the sentence "... is in use".
pub(crate) fn by(holders: &[String]) -> String {
    match holders {
        [] => " by somebody this process cannot see".to_owned(),
        holders => format!(": {}", holders.join(", ")),
    }
}

fn mounts_of<'a>(mountinfo: &'a str, number: &'a str) -> impl Iterator<Item = &'a str> {
    mountinfo.lines().filter_map(move |line| {
        let mut fields = line.split(' ');
        (fields.nth(2)? == number).then(|| fields.nth(1)).flatten()
    })
}

fn processes(asking: usize, same: impl Fn(&fs::Metadata) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(all) = fs::read_dir("/proc") else {
        return found;
    };
    for process in all.flatten() {
        let name = process.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        let Ok(open) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        // This process has the file open once more than it holds it, for asking.
        let own = if pid.parse() == Ok(std::process::id()) {
            asking
        } else {
            0
        };
        let mut handles = open
            .flatten()
            .filter(|fd| fs::metadata(fd.path()).is_ok_and(|meta| same(&meta)));
        if handles.nth(own).is_some() {
            found.push(format!("process {pid}{}", command_of(&process.path())));
        }
        if found.len() == MOST_HOLDERS {
            break;
        }
    }
    found
}

fn command_of(process: &Path) -> String {
    match fs::read_to_string(process.join("comm")) {
        Ok(comm) => format!(" ({})", comm.trim_end()),
        Err(_) => String::new(),
    }
}

/// More names than these help nobody.
const MOST_HOLDERS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_device_number() {
        let text = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
                    36 22 0:5 / /dev rw - devtmpfs none rw\n\
                    40 22 254:0 /sub /mnt/sub rw shared:1 - ext4 /dev/vda rw\n";
        assert_eq!(
            mounts_of(text, "254:0").collect::<Vec<_>>(),
            ["/", "/mnt/sub"]
        );
        assert_eq!(mounts_of(text, "8:1").count(), 0);
    }

    #[test]
    fn an_unknown_holder_is_said_to_be_unknown() {
        assert_eq!(by(&[]), " by somebody this process cannot see");
        assert_eq!(by(&["process 7 (qemu)".into()]), ": process 7 (qemu)");
    }
}
