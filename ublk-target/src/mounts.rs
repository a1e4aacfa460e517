//! A root of its own for keeper and server, with nothing in it but what they need.
//!
//! Two traps are answered here. A process that dies as the last one of a mount namespace unmounts what
//! is mounted there; if its own device were among that, its exit would wait for the dead
//! server. And a namespace that is a copy of the host's would keep every file system of the host mounted that was mounted when the
//! volume was opened, long after the host unmounted it. So the namespace holds `/dev`, `/proc`, `/sys` and `/run/luksmith`
//! and sees no mount that is made later.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};

use crate::state::RUN_FOLDER;

/// What is needed to serve, to look who uses the device, and to talk.
const KEPT: [&str; 4] = ["/dev", "/proc", "/sys", RUN_FOLDER];

const NONE: Option<&str> = None;

/// Leaves the host's mounts. `folder` is a folder in [`RUN_FOLDER`], the place of the new root.
pub(crate) fn leave(folder: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let root = folder.join("root");
    match DirBuilder::new().mode(0o700).create(&root) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let limits = Some("mode=0755,size=64k,nr_inodes=32");
    mount(
        Some("luksmith"),
        &root,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        limits,
    )?;
    for kept in KEPT {
        let place = root.join(kept.trim_start_matches('/'));
        fs::create_dir_all(&place)?;
        mount(Some(kept), &place, NONE, MsFlags::MS_BIND, NONE)?;
    }
    chdir(&root)?;
    match pivot_root(".", ".") {
        // The old root now lies over the new one.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        // In an initramfs the first root cannot be exchanged: there the new one is laid over it, after
        // everything else was let go.
        Err(nix::errno::Errno::EINVAL) => {
            let_go_of_all_but(&root)?;
            mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE)?;
            nix::unistd::chroot(".")?;
        }
        Err(errno) => return Err(errno.into()),
    }
    chdir("/")?;
    // Visible on the host only as an empty folder in ours, which goes with it.
    let _ = fs::remove_dir(&root);
    Ok(())
}

/// Detaches every mount of this namespace except the first root and what lies below `root`.
fn let_go_of_all_but(root: &Path) -> io::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points: Vec<_> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .collect();
    // Later mounts first, so that none is hidden under another. Whatever holds `root` itself stays.
    for point in points.into_iter().rev().map(Path::new) {
        if point != Path::new("/") && !point.starts_with(root) && !root.starts_with(point) {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
    Ok(())
}
