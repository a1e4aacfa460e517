//! The initramfs of a kernel: made anew by the distribution's own program, and looked into.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::kernels;
use super::table;
use super::tree::Tree;
use crate::crypttab;

/// Who opens a volume in an initramfs, and what lacks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opener {
    /// We do, with all that it takes.
    Ours,
    /// cryptsetup does, with all that it takes.
    Cryptsetup,
    /// Nobody could; the words say why.
    Nobody(String),
}

/// What makes and reads initramfs; the tests have one of their own.
pub(super) trait Maker {
    /// Makes the initramfs of a kernel anew. The old one stays if that fails.
    fn make(&self, tree: &Tree, version: &str) -> io::Result<()>;
    /// Who would open the volume in it.
    fn opener(&self, tree: &Tree, version: &str, name: &str) -> io::Result<Opener>;
}

/// initramfs-tools.
pub(super) struct InitramfsTools;

impl Maker for InitramfsTools {
    fn make(&self, tree: &Tree, version: &str) -> io::Result<()> {
        let words = ["-u", "-k", version].map(OsStr::new);
        tree.run("update-initramfs", &words)
    }

    fn opener(&self, tree: &Tree, version: &str, name: &str) -> io::Result<Opener> {
        let unpacked = Unpacked::new(tree, version)?;
        Ok(unpacked.opener(tree, version, name))
    }
}

/// An initramfs, unpacked into a folder that only root may read and that goes away with this value.
struct Unpacked {
    folder: PathBuf,
}

impl Unpacked {
    fn new(tree: &Tree, version: &str) -> io::Result<Self> {
        let place = format!("/var/tmp/luksmith-{}", std::process::id());
        let folder = tree.path(&place);
        fs::create_dir_all(folder.parent().unwrap_or(Path::new("/")))?;
        DirBuilder::new().mode(0o700).create(&folder)?;
        let unpacked = Self { folder };
        let file = kernels::initramfs(version);
        tree.run("unmkinitramfs", &[file.as_ref(), place.as_ref()])?;
        Ok(unpacked)
    }

    /// A file, in whichever part of the initramfs.
    fn find(&self, file: &str) -> Option<PathBuf> {
        ["main", ""]
            .iter()
            .map(|part| self.folder.join(part).join(file))
            .find(|path| path.exists())
    }

    fn names(&self, table: &str, name: &str) -> bool {
        let text = self
            .find(table)
            .and_then(|path| fs::read_to_string(path).ok());
        text.is_some_and(|text| table::lines(&text).iter().any(|line| line.name == name))
    }

    fn has_module(&self, tree: &Tree, version: &str, module: &str) -> bool {
        let folder = self.find(&format!("usr/lib/modules/{version}"));
        let folder = folder.or_else(|| self.find(&format!("lib/modules/{version}")));
        folder.is_some_and(|folder| kernels::has_file(&folder, module))
            || kernels::built_in(tree, version, module)
    }

    fn opener(&self, tree: &Tree, version: &str, name: &str) -> Opener {
        let ours = self.names(crypttab::INITRAMFS_TABLE.trim_start_matches('/'), name);
        let theirs = self.names("cryptroot/crypttab", name);
        let file = |path: &'static str| (path, self.find(path).is_some());
        let module = |module: &'static str| (module, self.has_module(tree, version, module));
        let (opener, needed) = match (ours, theirs) {
            (true, true) => return Opener::Nobody("both would open it".to_string()),
            (false, false) => return Opener::Nobody("no table in it names the volume".to_string()),
            (true, false) => (
                Opener::Ours,
                vec![
                    file("usr/bin/luksmith"),
                    file("scripts/local-top/luksmith"),
                    file("usr/lib/udev/rules.d/61-luksmith.rules"),
                    module("ublk_drv"),
                ],
            ),
            (false, true) => (
                Opener::Cryptsetup,
                vec![
                    (
                        "cryptsetup",
                        self.find("usr/sbin/cryptsetup").is_some()
                            || self.find("sbin/cryptsetup").is_some(),
                    ),
                    file("scripts/local-top/cryptroot"),
                    module("dm_crypt"),
                ],
            ),
        };
        let lacks: Vec<&str> = needed
            .into_iter()
            .filter_map(|(what, there)| (!there).then_some(what))
            .collect();
        match lacks.is_empty() {
            true => opener,
            false => Opener::Nobody(format!("it lacks {}", lacks.join(", "))),
        }
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // A folder that stays is only untidy.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(files: &[(&str, &str)]) -> Opener {
        let home = tempfile::tempdir().unwrap();
        let tree = Tree::new(home.path().join("tree"));
        let unpacked = Unpacked {
            folder: home.path().join("unpacked"),
        };
        for (file, text) in files {
            let path = unpacked.folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        unpacked.opener(&tree, "6.12", "root")
    }

    const OURS: [(&str, &str); 5] = [
        ("main/conf/luksmith/crypttab", "root UUID=1 none luksmith\n"),
        ("main/usr/bin/luksmith", ""),
        ("main/scripts/local-top/luksmith", ""),
        ("main/usr/lib/udev/rules.d/61-luksmith.rules", ""),
        ("main/usr/lib/modules/6.12/kernel/ublk_drv.ko.xz", ""),
    ];

    #[test]
    fn all_that_opens_the_volume_must_be_in_and_only_once() {
        assert_eq!(judged(&OURS), Opener::Ours);
        for (left_out, (file, _)) in OURS.iter().enumerate().skip(1) {
            let mut files = OURS.to_vec();
            files.remove(left_out);
            let Opener::Nobody(why) = judged(&files) else {
                panic!("nothing lacks without {file}");
            };
            assert!(why.contains("lacks"), "{file}: {why}");
        }
        let theirs = [
            ("cryptroot/crypttab", "root UUID=1 none luks\n"),
            ("sbin/cryptsetup", ""),
            ("scripts/local-top/cryptroot", ""),
            ("lib/modules/6.12/kernel/dm-crypt.ko", ""),
        ];
        assert_eq!(judged(&theirs), Opener::Cryptsetup);
        assert!(matches!(judged(&theirs[..3]), Opener::Nobody(_)));
        let both = [
            OURS.as_slice(),
            &[("main/cryptroot/crypttab", "root UUID=1 none luks\n")],
        ];
        assert_eq!(
            judged(&both.concat()),
            Opener::Nobody("both would open it".into())
        );
        assert!(matches!(judged(&[]), Opener::Nobody(_)));
    }
}
