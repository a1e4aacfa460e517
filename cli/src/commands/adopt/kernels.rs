//! The kernels of a machine: which can boot it, and whether they have the driver.

use std::path::Path;

use super::tree::Tree;
use crate::kernels;

/// Where the initramfs of a kernel is.
pub(super) fn initramfs(version: &str) -> String {
    format!("/boot/initrd.img-{version}")
}

/// The kernels with an initramfs, the newest first: that one GRUB and update-initramfs take.
pub(super) fn versions(tree: &Tree) -> Vec<String> {
    let mut versions = kernels::installed(&tree.path("/"));
    versions.retain(|version| tree.has(&initramfs(version)));
    versions
}

/// Why this kernel cannot serve volumes, as far as files tell.
pub(super) fn lacks_driver(tree: &Tree, version: &str) -> Option<String> {
    if kernels::by_number(version, "6.5").is_lt() {
        return Some(format!(
            "kernel {version} is too old: its ublk driver lacks what came with Linux 6.5"
        ));
    }
    if let Some(why) = luksmith_ublk_target::doctor::known_bad_kernel(version) {
        return Some(format!("kernel {version} is known to be bad: {why}"));
    }
    let there = has_module(tree, version, "ublk_drv");
    (!there).then(|| format!("kernel {version} has no ublk driver"))
}

/// Whether a kernel has a module, or has it built in.
pub(super) fn has_module(tree: &Tree, version: &str, module: &str) -> bool {
    let folder = format!("/lib/modules/{version}");
    has_file(&tree.path(&folder), module) || built_in(tree, version, module)
}

/// Whether a kernel has a module built in.
pub(super) fn built_in(tree: &Tree, version: &str, module: &str) -> bool {
    let list = tree.read(&format!("/lib/modules/{version}/modules.builtin"));
    list.is_ok_and(|list| {
        let files = list.lines().filter_map(|line| line.rsplit('/').next());
        files.into_iter().any(|file| is_module(file, module))
    })
}

/// Whether a folder, or one below it, holds the module.
pub(super) fn has_file(folder: &Path, module: &str) -> bool {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => has_file(&entry.path(), module),
            Ok(_) => entry
                .file_name()
                .to_str()
                .is_some_and(|file| is_module(file, module)),
            Err(_) => false,
        })
}

/// Whether a file is the module, packed or not; dashes and underscores are the same.
fn is_module(file: &str, module: &str) -> bool {
    file.split_once(".ko")
        .is_some_and(|(name, _)| name.replace('-', "_") == module)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tree: &Tree, name: &str, text: &str) {
        tree.replace(name, text).unwrap();
    }

    #[test]
    fn the_newest_kernel_is_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path().into());
        for version in [
            "6.9.1-amd64",
            "6.12.41+deb13-amd64",
            "6.1.0-9-amd64",
            "6.1.0-10-amd64",
        ] {
            file(&tree, &initramfs(version), "");
            file(&tree, &format!("/boot/vmlinuz-{version}"), "");
        }
        file(&tree, "/boot/initrd.img-7.0.old", "");
        assert_eq!(
            versions(&tree),
            [
                "6.12.41+deb13-amd64",
                "6.9.1-amd64",
                "6.1.0-10-amd64",
                "6.1.0-9-amd64"
            ]
        );
    }

    #[test]
    fn the_driver_is_a_module_or_built_in_and_of_a_kernel_that_is_new_enough() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path().into());
        let lacks = |version: &str| lacks_driver(&tree, version).unwrap_or_default();
        assert!(lacks("6.12.1").contains("no ublk driver"));
        file(
            &tree,
            "/lib/modules/6.12.1/kernel/drivers/block/ublk_drv.ko.xz",
            "",
        );
        assert_eq!(lacks("6.12.1"), "");
        file(
            &tree,
            "/lib/modules/6.1.9/kernel/drivers/block/ublk_drv.ko",
            "",
        );
        assert!(lacks("6.1.9").contains("too old"));
        file(
            &tree,
            "/lib/modules/6.18.4/modules.builtin",
            "kernel/drivers/block/ublk_drv.ko\n",
        );
        assert!(lacks("6.18.4").contains("known to be bad"));
        file(
            &tree,
            "/lib/modules/7.0/modules.builtin",
            "kernel/a.ko\nkernel/b/ublk_drv.ko\n",
        );
        assert_eq!(lacks("7.0"), "");
        assert!(has_module(&tree, "7.0", "a") && !has_module(&tree, "7.0", "ublk"));
    }
}
