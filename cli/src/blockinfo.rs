//! What the kernel says about a block device in `/sys`.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Sizes that matter for the layout of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BlockInfo {
    /// The true sector in bytes.
    pub physical_block: u32,
    /// The size of I/O that the device likes best, in bytes; 0 if it says nothing.
    pub optimal_io: u64,
}

impl BlockInfo {
    /// Looks at a device. A regular file, or a device that the kernel says nothing about, gets
    /// the sizes of a disk with 4096-byte sectors.
    pub(crate) fn of(path: &Path) -> Self {
        let usual = Self {
            physical_block: 4096,
            optimal_io: 0,
        };
        let Some(queue) = queue_directory(path) else {
            return usual;
        };
        let number = |name: &str| -> Option<u64> {
            std::fs::read_to_string(queue.join(name))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        Self {
            physical_block: number("physical_block_size")
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(usual.physical_block),
            optimal_io: number("optimal_io_size").unwrap_or(0),
        }
    }
}

/// The directory with the facts of the disk: the device's own, or its disk's if it is a
/// partition.
fn queue_directory(path: &Path) -> Option<PathBuf> {
    let meta = std::fs::metadata(path).ok()?;
    if !meta.file_type().is_block_device() {
        return None;
    }
    let (major, minor) = (
        nix::sys::stat::major(meta.rdev()),
        nix::sys::stat::minor(meta.rdev()),
    );
    let device = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    [Some(device.as_path()), device.parent()]
        .into_iter()
        .flatten()
        .map(|d| d.join("queue"))
        .find(|d| d.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_counts_as_a_disk_with_4096_byte_sectors() {
        let info = BlockInfo::of(Path::new("/etc/os-release"));
        assert_eq!(
            info,
            BlockInfo {
                physical_block: 4096,
                optimal_io: 0
            }
        );
    }
}
