//! Boots the disk image of `vm-images/root-image` and talks to it over the serial console.
//!
//! The image is built once for each state of the program and of the recipe; an [`Image`] is a copy of it,
//! a [`Machine`] one boot. The disks of an image keep what a boot wrote, as a real machine's do.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

mod machine;

pub use machine::{Board, Boot, Machine, with_tpm};

/// The disks, kernel and initramfs of a small Debian with an encrypted root.
#[derive(Debug)]
pub struct Image {
    folder: TempDir,
    /// At most one other machine runs beside those of this image.
    _turn: [File; 2],
}

impl Image {
    /// Builds it, unless it is there.
    ///
    /// # Panics
    /// If the recipe fails.
    #[must_use]
    pub fn build() -> Self {
        let turn = crate::vm::half_a_turn();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let copied = Command::new("cp")
            .args(["--recursive", "--sparse=always", "--no-target-directory"])
            .arg(built())
            .arg(folder.path())
            .status()
            .expect("cp starts");
        assert!(copied.success(), "the image cannot be copied");
        Self {
            folder,
            _turn: turn,
        }
    }

    /// A file of the image.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The passphrase that opens both volumes.
    ///
    /// # Panics
    /// If the image has none.
    #[must_use]
    pub fn passphrase(&self) -> String {
        fs::read_to_string(self.file("passphrase")).expect("the passphrase of the image")
    }

    /// The initramfs with another table of volumes than the image's own.
    #[must_use]
    pub fn initrd_with(&self, crypttab: &str) -> PathBuf {
        self.initrd_over("initrd", &[("conf/luksmith/crypttab", crypttab)])
    }

    /// An initramfs of the image with files laid over it: archives that
    /// follow one another are unpacked one over the other. There is one such initramfs of an image at a time.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn initrd_over(&self, base: &str, files: &[(&str, &str)]) -> PathBuf {
        let over = tempfile::tempdir().expect("a temporary folder");
        for (name, content) in files {
            let file = over.path().join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(file, content).expect("the file is written");
        }
        let packed = Command::new("sh")
            .args(["-c", "find . -mindepth 1 | cpio -o -H newc --quiet"])
            .current_dir(over.path())
            .output()
            .expect("cpio starts");
        assert!(packed.status.success());
        let initrd = self.file("initrd-other");
        fs::copy(self.file(base), &initrd).expect("the initramfs is copied");
        let mut file = File::options()
            .append(true)
            .open(&initrd)
            .expect("it opens");
        let at = file.metadata().expect("its length").len();
        let padding = at.next_multiple_of(512) - at;
        file.write_all(&vec![0; padding as usize]).expect("padding");
        file.write_all(&packed.stdout)
            .expect("the archive is added");
        initrd
    }

    /// A disk with an EFI system partition, shim, GRUB, and a `/boot` with the image's kernel and this
    /// initramfs.
    ///
    /// # Panics
    /// If the recipe fails.
    #[must_use]
    pub fn boot_disk(&self, initrd: &Path) -> PathBuf {
        let disk = self.file("boot.img");
        let parts = [self.folder.path(), initrd, &disk];
        recipe("vm-images/boot-disk", parts);
        disk
    }

    /// The release of its kernel.
    ///
    /// # Panics
    /// If the image does not say it.
    #[must_use]
    pub fn release(&self) -> String {
        let release = fs::read_to_string(self.file("release")).expect("the release of the kernel");
        release.trim().to_owned()
    }

    /// Puts a package of the newest kernel on the disk of the second volume, in its place. Gives its length.
    ///
    /// # Panics
    /// If the recipe fails.
    #[must_use]
    pub fn put_newer_kernel(&self) -> usize {
        let package = self.file("kernel.deb");
        recipe("vm-images/kernel-package", [Path::new("newest"), &package]);
        let mut package = fs::read(package).expect("the package");
        let length = package.len();
        // A disk is made of whole sectors.
        package.resize(length.next_multiple_of(512), 0);
        fs::write(self.file("data.luks"), package).expect("the package is on the disk");
        length
    }

    /// What `dumpe2fs -h` says of the file system on a volume.
    ///
    /// # Panics
    /// If the volume does not open.
    #[must_use]
    pub fn file_system(&self, volume: &str) -> String {
        // Read through our own server: the machine that runs the tests may have no driver.
        let script = r#"
            set -eu
            PATH=$PATH:/usr/sbin:/sbin
            cd "$2"
            "$1" serve "$3" --readonly --key-file passphrase --socket "$2/nbd" >ready &
            until [ -s ready ]; do kill -0 $!; sleep 0.1; done
            nbdcopy --synchronous "nbd+unix:///?socket=$2/nbd" plain
            kill $!
            rm ready
            dumpe2fs -h plain 2>&1
            rm plain"#;
        let done = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(crate::vm::luksmith())
            .arg(self.folder.path())
            .arg(volume)
            .output()
            .expect("sh starts");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
        said
    }
}

/// Runs a script of the project.
fn recipe<const N: usize>(script: &str, arguments: [&Path; N]) {
    let done = Command::new(crate::project().join(script))
        .args(arguments)
        .output()
        .expect("the script starts");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{script}: {said}");
}

/// The folder with the image of this program and this recipe, which is built if it is not there.
fn built() -> PathBuf {
    let images = crate::vm::target().join("boot-images");
    fs::create_dir_all(&images).expect("a folder for the images");
    let lock = File::create(images.join("lock")).expect("the lock file");
    lock.lock().expect("the lock");
    let image = images.join(state());
    if image.exists() {
        return image;
    }
    // Those of other states are of no use any more.
    for old in fs::read_dir(&images).expect("the folder").flatten() {
        let _ = fs::remove_dir_all(old.path());
    }
    let unfinished = images.join("unfinished");
    let done = Command::new(crate::project().join("vm-images/root-image"))
        .arg("--bin")
        .arg(crate::vm::luksmith())
        .arg("--out")
        .arg(&unfinished)
        .output()
        .expect("vm-images/root-image starts");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "vm-images/root-image: {said}");
    fs::rename(&unfinished, &image).expect("the image is finished");
    image
}

/// A digest of all that the image is made of, but for the packages.
fn state() -> String {
    let script = r#"
        { sha256sum <"$1"
          find vm-images/root-image vm-images/root-tree vm-images/few-modules vm-images/manifest vm-images/cache/*/lock boot udev -type f |
              LC_ALL=C sort | xargs sha256sum; } | sha256sum | cut -c1-16"#;
    let done = Command::new("sh")
        .args(["-euc", script, "sh"])
        .arg(crate::vm::luksmith())
        .current_dir(crate::project())
        .output()
        .expect("sh starts");
    assert!(done.status.success(), "no digest of the image");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}
