//! Stable names for devices: what udev is told, and what is done where udev does not run.
//!
//! The kernel's name `/dev/ublkbN` changes from one start to the next. The rules in `udev/` call
//! `luksmith udev-name ublkbN`, which is [`properties`], and make `/dev/luksmith/NAME` and the
//! links in `/dev/disk/by-id` from the answer. In an initramfs or a container without udev
//! `ensure_link` makes `/dev/luksmith/NAME` itself, so that the path a user types is always there.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::status::VolumeFacts;
use crate::{UblkError, VolumeName, state};

/// Where volumes are found by name.
pub const LINK_FOLDER: &str = "/dev/luksmith";

/// How long udev is given to make the link after the device appeared.
const UDEV_PATIENCE: Duration = Duration::from_secs(5);

/// `/dev/luksmith/NAME`.
pub fn link_path(name: &VolumeName) -> PathBuf {
    Path::new(LINK_FOLDER).join(name.as_str())
}

/// What udev shall know of a device of ours, as `KEY=VALUE` pairs; none if the device is not
/// ours. `device` is `ublkbN`, `/dev/ublkbN`, or the name of a partition of it.
pub fn properties(device: &str) -> Result<Option<Vec<(&'static str, String)>>, UblkError> {
    let Some((id, partition)) = parse(device) else {
        return Ok(None);
    };
    let facts = state::all()?.into_iter().find(|facts| facts.dev_id == id);
    Ok(facts.map(|facts| properties_of(&facts, partition)))
}

fn properties_of(facts: &VolumeFacts, partition: Option<u32>) -> Vec<(&'static str, String)> {
    let part = partition.map(|n| format!("-part{n}")).unwrap_or_default();
    let mut pairs = vec![
        ("LUKSMITH_NAME", facts.name.to_string()),
        ("LUKSMITH_UUID", facts.uuid.clone()),
        ("LUKSMITH_LINK", format!("{}{part}", facts.name)),
        ("LUKSMITH_PART", part),
    ];
    if let Some(partition) = partition {
        pairs.push(("LUKSMITH_PARTITION", partition.to_string()));
    }
    // Values come from headers of unknown disks and end up in file names and in rules.
    pairs.retain(|(_, value)| {
        value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-._:@=#".contains(&b))
    });
    pairs
}

/// N and the partition, if any, of `ublkbN` or `ublkbNpM`.
fn parse(device: &str) -> Option<(u32, Option<u32>)> {
    let number = device
        .strip_prefix("/dev/")
        .unwrap_or(device)
        .strip_prefix("ublkb")?;
    let digits = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    match number.split_once('p') {
        Some((id, partition)) => Some((digits(id)?, Some(digits(partition)?))),
        None => Some((digits(number)?, None)),
    }
}

/// Whether udev runs.
pub(crate) fn running() -> bool {
    Path::new("/run/udev/control").exists()
}

/// Whether our rules are where udev looks.
pub(crate) fn rules_installed() -> bool {
    [
        "/etc/udev/rules.d",
        "/run/udev/rules.d",
        "/usr/lib/udev/rules.d",
        "/lib/udev/rules.d",
    ]
    .iter()
    .any(|folder| Path::new(folder).join(RULES).exists())
}

const RULES: &str = "61-luksmith.rules";

/// Waits for udev to make `/dev/luksmith/NAME`, or makes it where udev does not run or does not
/// have our rules. Returns the path to use: the device itself if there can be no link.
pub(crate) fn ensure_link(facts: &VolumeFacts) -> PathBuf {
    let link = link_path(&facts.name);
    let there = || std::fs::canonicalize(&link).is_ok_and(|target| target == facts.device);
    if running() && rules_installed() {
        let end = Instant::now() + UDEV_PATIENCE;
        while !there() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    if there() || make_link(&link, &facts.device).is_ok() {
        link
    } else {
        facts.device.clone()
    }
}

fn make_link(link: &Path, device: &Path) -> io::Result<()> {
    std::fs::create_dir_all(LINK_FOLDER)?;
    let target = match device.strip_prefix("/dev") {
        Ok(name) => Path::new("..").join(name),
        Err(_) => device.into(),
    };
    match symlink(&target, link) {
        // Left by a volume of this name whose machine or processes died.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_symlink(link) => {
            std::fs::remove_file(link)?;
            symlink(target, link)
        }
        other => other,
    }
}

/// Removes `/dev/luksmith/NAME` after the device has gone; udev may have done it already.
pub(crate) fn remove_link(name: &VolumeName, device: &Path) {
    let link = link_path(name);
    let ours = std::fs::read_link(&link).is_ok_and(|to| to.file_name() == device.file_name());
    if ours {
        let _ = std::fs::remove_file(&link);
        // Goes only when it is empty.
        let _ = std::fs::remove_dir(LINK_FOLDER);
    }
}

fn is_symlink(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_symlink())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::facts;

    #[test]
    fn only_block_devices_of_the_driver_are_recognised() {
        assert_eq!(parse("ublkb0"), Some((0, None)));
        assert_eq!(parse("/dev/ublkb12"), Some((12, None)));
        assert_eq!(parse("ublkb3p14"), Some((3, Some(14))));
        for other in [
            "ublkc0",
            "ublkb",
            "ublkbx",
            "ublkb1p",
            "sda",
            "ublkb-1",
            "ublkb+1",
            "ublkb1p2p3",
            "",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_partition_gets_its_own_link_name() {
        let pairs = properties_of(&facts(), Some(2));
        assert!(pairs.contains(&("LUKSMITH_LINK", "home-part2".into())));
        assert!(pairs.contains(&("LUKSMITH_PART", "-part2".into())));
        let pairs = properties_of(&facts(), None);
        assert!(pairs.contains(&("LUKSMITH_LINK", "home".into())));
    }

    #[test]
    fn a_hostile_uuid_never_reaches_udev() {
        let mut evil = facts();
        evil.uuid = "x\nSYMLINK+=sda".into();
        assert!(
            properties_of(&evil, None)
                .iter()
                .all(|(key, _)| *key != "LUKSMITH_UUID")
        );
        evil.uuid = "../../sda".into();
        assert!(
            properties_of(&evil, None)
                .iter()
                .all(|(key, _)| *key != "LUKSMITH_UUID")
        );
    }
}
