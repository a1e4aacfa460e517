//! Which volume carries a file system of the running machine, through LVM and whatever else is between.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The names of the volumes below what is mounted at `place`, dm-crypt's and ours.
pub(super) fn carriers(place: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let Some(device) = mounted_at(&mounts, place) else {
        return Vec::new();
    };
    let Ok(found) = fs::metadata(device) else {
        return Vec::new();
    };
    let number = found.rdev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let Ok(device) = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")) else {
        return Vec::new();
    };
    let mut all = BTreeSet::new();
    descend(&device, &mut all);
    let ours = luksmith_ublk_target::list().unwrap_or_default();
    all.iter()
        .flat_map(|device| {
            let kernel = device.file_name().unwrap_or_default();
            let mapped = fs::read_to_string(device.join("dm/name"))
                .ok()
                .map(|name| name.trim_end().to_string());
            let served = ours
                .iter()
                .filter(|volume| volume.facts.device.file_name() == Some(kernel))
                .map(|volume| volume.facts.name.to_string());
            mapped.into_iter().chain(served).collect::<Vec<_>>()
        })
        .collect()
}

/// The device of the last mount at a place.
fn mounted_at<'a>(mounts: &'a str, place: &str) -> Option<&'a str> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (device, at) = (fields.next()?, fields.next()?);
            (at == place && device.starts_with('/')).then_some(device)
        })
        .next_back()
}

/// A device and all below it; of a partition the disk, too.
fn descend(device: &Path, all: &mut BTreeSet<PathBuf>) {
    if !all.insert(device.to_path_buf()) {
        return;
    }
    for below in fs::read_dir(device.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if let Ok(below) = fs::canonicalize(below.path()) {
            descend(&below, all);
        }
    }
    if device.join("partition").exists()
        && let Some(disk) = device.parent()
    {
        descend(disk, all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_at_a_place_counts_and_only_of_a_device() {
        let mounts = "rootfs / rootfs rw 0 0\n/dev/mapper/vg-root / ext4 rw 0 0\n\
                      proc /proc proc rw 0 0\n/dev/vda1 /boot ext4 rw 0 0\n";
        assert_eq!(mounted_at(mounts, "/"), Some("/dev/mapper/vg-root"));
        assert_eq!(mounted_at(mounts, "/proc"), None);
        assert_eq!(mounted_at(mounts, "/usr"), None);
    }

    #[test]
    fn all_devices_below_are_found_once() {
        let sysfs = tempfile::tempdir().unwrap();
        let at = |name: &str| sysfs.path().join(name);
        for folder in ["dm-1/slaves", "dm-0/slaves", "vda/vda5/slaves"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::write(at("vda/vda5/partition"), "5").unwrap();
        std::os::unix::fs::symlink(at("dm-0"), at("dm-1/slaves/dm-0")).unwrap();
        std::os::unix::fs::symlink(at("vda/vda5"), at("dm-0/slaves/vda5")).unwrap();
        let mut all = BTreeSet::new();
        descend(&at("dm-1"), &mut all);
        assert_eq!(all, ["dm-0", "dm-1", "vda", "vda/vda5"].map(at).into());
    }
}
