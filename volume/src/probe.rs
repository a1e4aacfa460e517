//! Recognises what else may lie on a device: file systems, RAID and volume-manager members,
//! partition tables, swap, other encryption.
//!
//! Two callers need it: automatic repair must not write a LUKS2 primary back over a file system
//! that somebody has made there since, and formatting asks before it overwrites something. A false
//! alarm costs a question, a miss costs data, so a single magic counts without further checks.

use std::io;

use crate::device::BlockDevice;

/// Something recognised on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Its usual name.
    pub name: &'static str,
    /// Where its magic lies, in bytes from the start of the device.
    pub offset: u64,
    /// Length of its magic in bytes: overwriting these takes the signature away.
    pub len: u64,
}

/// All known signatures on the device except LUKS2, in the order of their offsets.
///
/// # Errors
/// A failing read.
pub fn signatures<D: BlockDevice + ?Sized>(device: &D) -> io::Result<Vec<Signature>> {
    let len = device.len();
    let mut found = Vec::new();
    for magic in MAGICS {
        let offset = match magic.at {
            At::Start(offset) => Some(offset),
            At::End(back) => len.checked_sub(back),
            At::EndAligned { back, align } => (len / align * align).checked_sub(back),
        };
        let Some(offset) = offset else { continue };
        if offset + magic.bytes.len() as u64 > len {
            continue;
        }
        let mut bytes = vec![0; magic.bytes.len()];
        device.read_at(offset, &mut bytes)?;
        let signature = Signature {
            name: magic.name,
            offset,
            len: magic.bytes.len() as u64,
        };
        if bytes == magic.bytes && !found.contains(&signature) {
            found.push(signature);
        }
    }
    uberblocks(device, &mut found)?;
    found.sort_by_key(|signature| signature.offset);
    Ok(found)
}

/// A ZFS pool has two labels at each end of the device. Each holds a ring of uberblocks, of which a
/// pool in use may have written any.
fn uberblocks<D: BlockDevice + ?Sized>(device: &D, found: &mut Vec<Signature>) -> io::Result<()> {
    const LABEL: u64 = 256 * KIB;
    let len = device.len() / LABEL * LABEL;
    if len < 4 * LABEL {
        return Ok(());
    }
    for label in [0, LABEL, len - 2 * LABEL, len - LABEL] {
        let mut ring = vec![0; 128 * KIB as usize];
        let at = label + 128 * KIB;
        device.read_at(at, &mut ring)?;
        for (index, block) in ring.chunks(KIB as usize).enumerate() {
            if block.starts_with(b"\x0c\xb1\xba\0\0\0\0\0")
                || block.starts_with(b"\0\0\0\0\0\xba\xb1\x0c")
            {
                found.push(Signature {
                    name: "zfs_member",
                    offset: at + index as u64 * KIB,
                    len: 8,
                });
            }
        }
    }
    Ok(())
}

struct Magic {
    name: &'static str,
    at: At,
    bytes: &'static [u8],
}

enum At {
    /// Bytes from the start.
    Start(u64),
    /// Bytes back from the end.
    End(u64),
    /// Bytes back from the end, after the length was cut to a multiple.
    EndAligned { back: u64, align: u64 },
}

const fn at(offset: u64, name: &'static str, bytes: &'static [u8]) -> Magic {
    Magic {
        name,
        at: At::Start(offset),
        bytes,
    }
}

const KIB: u64 = 1024;

/// Positions and bytes as each format documents them.
const MAGICS: &[Magic] = &[
    // File systems.
    at(KIB + 0x38, "ext2/3/4", b"\x53\xef"),
    at(0, "xfs", b"XFSB"),
    at(64 * KIB + 0x40, "btrfs", b"_BHRfS_M"),
    at(3, "ntfs", b"NTFS    "),
    at(3, "exfat", b"EXFAT   "),
    at(0x52, "vfat", b"FAT32   "),
    at(0x36, "vfat", b"FAT16   "),
    at(0x36, "vfat", b"FAT12   "),
    at(KIB, "f2fs", b"\x10\x20\xf5\xf2"),
    at(KIB, "erofs", b"\xe2\xe1\xf5\xe0"),
    at(0, "squashfs", b"hsqs"),
    at(32 * KIB + 1, "iso9660", b"CD001"),
    at(32 * KIB + 1, "udf", b"BEA01"),
    at(32 * KIB, "jfs", b"JFS1"),
    at(64 * KIB + 0x34, "reiserfs", b"ReIsErFs"),
    at(64 * KIB + 0x34, "reiserfs", b"ReIsEr2Fs"),
    at(64 * KIB + 0x34, "reiserfs", b"ReIsEr3Fs"),
    at(KIB + 6, "nilfs2", b"\x34\x34"),
    at(KIB, "hfs", b"BD"),
    at(KIB, "hfs+", b"H+"),
    at(KIB, "hfsx", b"HX"),
    at(32, "apfs", b"NXSB"),
    at(KIB + 0x10, "minix", b"\x7f\x13"),
    at(KIB + 0x10, "minix", b"\x8f\x13"),
    at(
        4 * KIB,
        "bcachefs",
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
    at(
        4 * KIB + 24,
        "bcachefs",
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
    at(0x10000 + 0x55c, "ufs", b"\x54\x19\x01\x00"),
    at(8 * KIB + 0x55c, "ufs", b"\x54\x19\x01\x00"),
    // Swap and hibernation, for each page size.
    at(4 * KIB - 10, "swap", b"SWAPSPACE2"),
    at(8 * KIB - 10, "swap", b"SWAPSPACE2"),
    at(16 * KIB - 10, "swap", b"SWAPSPACE2"),
    at(64 * KIB - 10, "swap", b"SWAPSPACE2"),
    at(4 * KIB - 10, "swsuspend", b"S1SUSPEND"),
    at(4 * KIB - 10, "swsuspend", b"LINHIB0001"),
    // Volume managers, RAID, caches.
    at(512, "LVM2_member", b"LABELONE"),
    at(0, "LVM2_member", b"LABELONE"),
    at(1024, "LVM2_member", b"LABELONE"),
    at(1536, "LVM2_member", b"LABELONE"),
    at(4 * KIB, "linux_raid_member", b"\xfc\x4e\x2b\xa9"),
    at(0, "linux_raid_member", b"\xfc\x4e\x2b\xa9"),
    Magic {
        name: "linux_raid_member",
        at: At::EndAligned {
            back: 8 * KIB,
            align: 4 * KIB,
        },
        bytes: b"\xfc\x4e\x2b\xa9",
    },
    Magic {
        name: "linux_raid_member",
        at: At::EndAligned {
            back: 64 * KIB,
            align: 64 * KIB,
        },
        bytes: b"\xfc\x4e\x2b\xa9",
    },
    Magic {
        name: "isw_raid_member",
        at: At::End(1024),
        bytes: b"Intel Raid ISM Cfg Sig. ",
    },
    Magic {
        name: "ddf_raid_member",
        at: At::End(512),
        bytes: b"\xde\x11\xde\x11",
    },
    at(
        4 * KIB + 24,
        "bcache",
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    ),
    at(0, "bluestore", b"bluestore block device"),
    at(512 + 4, "stratis", b"!Stra0tis\x86\xff\x02^\x41rh"),
    at(1024 * KIB, "vmfs_volume_member", b"\x0d\xd0\x01\xc0"),
    at(0, "vdo", b"dmvdo001"),
    // Encryption and integrity.
    at(0, "crypto_LUKS1", b"LUKS\xba\xbe\x00\x01"),
    at(3, "bitlocker", b"-FVE-FS-"),
    at(3, "bitlocker", b"MSWIN4.1"),
    at(0, "dm_integrity", b"integrt\x00"),
    at(0, "dm_verity", b"verity\x00\x00"),
    // Partition tables. The first also ends a boot sector of vfat and ntfs.
    at(510, "dos", b"\x55\xaa"),
    at(512, "gpt", b"EFI PART"),
    at(4 * KIB, "gpt", b"EFI PART"),
    Magic {
        name: "gpt (backup)",
        at: At::End(512),
        bytes: b"EFI PART",
    },
    Magic {
        name: "gpt (backup)",
        at: At::End(4 * KIB),
        bytes: b"EFI PART",
    },
    at(0, "apm", b"ER\x02\x00"),
    at(508, "sun", b"\xda\xbe"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, FileDevice};

    fn probe(bytes: &[u8]) -> Vec<&'static str> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let device = FileDevice::open(file.path(), Access::ReadOnly).unwrap();
        signatures(&device)
            .unwrap()
            .iter()
            .map(|s| s.name)
            .collect()
    }

    #[test]
    fn every_magic_in_the_table_is_found_where_it_belongs() {
        for magic in MAGICS {
            let mut bytes = vec![0; 2 << 20];
            let offset = match magic.at {
                At::Start(offset) => offset,
                At::End(back) | At::EndAligned { back, .. } => bytes.len() as u64 - back,
            } as usize;
            bytes[offset..offset + magic.bytes.len()].copy_from_slice(magic.bytes);
            assert!(probe(&bytes).contains(&magic.name), "{}", magic.name);
        }
    }

    #[test]
    fn a_zfs_pool_is_found_by_any_uberblock_of_any_label() {
        for at in [128 << 10, (128 << 10) + 77 * 1024, (2 << 20) - (128 << 10)] {
            let mut bytes = vec![0; 2 << 20];
            bytes[at..at + 4].copy_from_slice(b"\x0c\xb1\xba\0");
            assert_eq!(probe(&bytes), ["zfs_member"], "{at}");
        }
    }

    #[test]
    fn blank_tiny_and_luks2_devices_have_no_foreign_signature() {
        assert!(probe(&[]).is_empty());
        assert!(probe(&[0; 100]).is_empty());
        assert!(probe(&vec![0; 1 << 20]).is_empty());
        let mut luks2 = vec![0; 1 << 20];
        luks2[..8].copy_from_slice(b"LUKS\xba\xbe\x00\x02");
        assert!(probe(&luks2).is_empty());
    }

    #[test]
    fn what_mkfs_programs_write_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let mut tried = 0;
        for (program, args, name) in [
            ("mkfs.ext4", &["-q", "-F"][..], "ext2/3/4"),
            ("mkswap", &[][..], "swap"),
            ("mkfs.vfat", &[][..], "vfat"),
            ("mkfs.xfs", &["-q", "-f"][..], "xfs"),
            ("mkfs.btrfs", &["-q", "-f"][..], "btrfs"),
        ] {
            let path = dir.path().join(name.replace('/', "-"));
            std::fs::File::create(&path)
                .unwrap()
                .set_len(320 << 20)
                .unwrap();
            let made = std::process::Command::new(program)
                .args(args)
                .arg(&path)
                .output();
            let Ok(made) = made else { continue };
            if !made.status.success() {
                continue;
            }
            tried += 1;
            let device = FileDevice::open(&path, Access::ReadOnly).unwrap();
            let names: Vec<_> = signatures(&device)
                .unwrap()
                .iter()
                .map(|s| s.name)
                .collect();
            assert!(names.contains(&name), "{program}: {names:?}");
        }
        // Which of the programs are installed differs; ext4's and swap's are on every test machine.
        assert!(tried >= 1, "no mkfs program was found");
    }
}
