//! The files that the next boot will read, where Debian, Fedora and systemd keep them.

use std::fs;
use std::path::{Path, PathBuf};

use luksmith_tpm::log::BootFiles;

use crate::args::Args;

/// Where the firmware's file system is mounted (`bootctl(1)`, and Debian).
const FIRMWARE_FOLDERS: &[&str] = &["boot/efi", "efi", "boot"];
/// Names of kernels and their initrds, before and after the release.
const KERNELS: &[(&str, &str)] = &[("boot/vmlinuz-", ""), ("usr/lib/modules/", "/vmlinuz")];
const INITRDS: &[(&str, &str)] = &[("boot/initrd.img-", ""), ("boot/initramfs-", ".img")];

/// The files of a machine, for one of its kernels.
pub(super) struct Machine {
    /// `/`, or the folder that stands for it.
    pub(super) root: PathBuf,
    /// The release of the kernel that runs.
    pub(super) running: String,
    /// The release of the kernel that will.
    pub(super) next: String,
}

impl Machine {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.root.join(path)).ok()
    }

    fn of_next(&self, names: &[(&str, &str)]) -> Option<Vec<u8>> {
        names
            .iter()
            .find_map(|(before, after)| self.read(&format!("{before}{}{after}", self.next)))
    }

    fn for_next(&self, text: &str) -> String {
        text.replace(&self.running, &self.next)
    }
}

impl BootFiles for Machine {
    fn by_path(&mut self, path: &str) -> Option<Vec<u8>> {
        let path = self.for_next(path);
        let within_firmware = |path: &str| {
            FIRMWARE_FOLDERS
                .iter()
                .find_map(|folder| self.read(&format!("{folder}{path}")))
        };
        if path.starts_with('\\') {
            return within_firmware(&path.replace('\\', "/"));
        }
        // "(hd0,gpt2)/vmlinuz": GRUB's name of the partition, which may be /boot or /.
        let path = match path.split_once(')') {
            Some((partition, path)) if partition.starts_with('(') => path,
            _ => &path,
        };
        if !path.starts_with('/') {
            return None;
        }
        let found = self.read(&format!("boot{path}"));
        found
            .or_else(|| self.read(&path[1..]))
            .or_else(|| within_firmware(path))
    }

    fn kernel(&mut self) -> Option<Vec<u8>> {
        self.of_next(KERNELS)
    }

    fn initrd(&mut self) -> Option<Vec<u8>> {
        self.of_next(INITRDS)
    }

    fn command_lines(&mut self) -> Option<(String, String)> {
        let line = String::from_utf8(self.read("proc/cmdline")?).ok()?;
        let line = line.trim_end_matches('\n').to_owned();
        let next = self
            .line_of_grub(&line)
            .unwrap_or_else(|| self.for_next(&line));
        Some((line, next))
    }
}

impl Machine {
    /// What GRUB's configuration gives the next kernel, if GRUB started this one. `None` where it is not
    /// there as it will be, but made of variables.
    fn line_of_grub(&self, this: &str) -> Option<String> {
        let kernel = this.strip_prefix("BOOT_IMAGE=")?.split(' ').next()?;
        let kernel = self.for_next(kernel);
        let configuration = ["boot/grub/grub.cfg", "boot/grub2/grub.cfg"];
        let configuration = configuration.iter().find_map(|path| self.read(path))?;
        let configuration = String::from_utf8(configuration).ok()?;
        let words = configuration.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let command = words.next()?;
            (["linux", "linuxefi"].contains(&command) && words.next()? == kernel).then_some(words)
        })?;
        let mut line = format!("BOOT_IMAGE={kernel}");
        for word in words {
            if word.contains(['$', '"', '\'', '\\']) {
                return None;
            }
            line += " ";
            line += word;
        }
        Some(line)
    }
}

/// An update of the firmware that waits for the next boot: where fwupd leaves it for its own loader
/// (`EFI/*/fw/*.cap`), and where the firmware itself looks (UEFI, 8.5.5: `EFI/UpdateCapsule`).
pub(crate) fn waiting_firmware(args: &Args) -> Option<PathBuf> {
    capsule(&root(args))
}

fn capsule(root: &Path) -> Option<PathBuf> {
    let files_in = |folder: PathBuf| {
        let entries = fs::read_dir(folder).ok();
        let paths = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|file| file.path());
        paths.filter(|path| path.is_file())
    };
    let folders = FIRMWARE_FOLDERS
        .iter()
        .map(|folder| root.join(folder).join("EFI"));
    folders
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .find_map(|vendor| {
            let to_the_firmware = vendor.file_name().eq_ignore_ascii_case("UpdateCapsule");
            let mut of_fwupd = files_in(vendor.path().join("fw"));
            let of_fwupd = of_fwupd.find(|file| file.extension().is_some_and(|end| end == "cap"));
            of_fwupd.or_else(|| files_in(vendor.path()).next().filter(|_| to_the_firmware))
        })
}

/// The folder below which the machine's files are.
pub(super) fn root(args: &Args) -> PathBuf {
    args.path("root").unwrap_or_else(|| "/".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        let machine = Machine {
            root: folder.path().to_owned(),
            running: "6.12.9-amd64".to_owned(),
            next: "6.12.38-amd64".to_owned(),
        };
        (folder, machine)
    }

    #[test]
    fn files_are_found_where_firmware_and_grub_have_them() {
        let (_folder, mut machine) = machine(&[
            ("boot/efi/EFI/debian/shimx64.efi", "shim"),
            ("boot/grub/grub.cfg", "configuration"),
            ("boot/vmlinuz-6.12.38-amd64", "kernel"),
            ("boot/initrd.img-6.12.38-amd64", "initrd"),
            ("usr/share/grub/font", "font"),
            ("proc/cmdline", "BOOT_IMAGE=/vmlinuz-6.12.9-amd64 ro\n"),
        ]);
        for (path, content) in [
            ("\\EFI\\debian\\shimx64.efi", Some("shim")),
            ("(hd0,gpt2)/grub/grub.cfg", Some("configuration")),
            ("/usr/share/grub/font", Some("font")),
            ("/vmlinuz-6.12.9-amd64", Some("kernel")),
            ("(hd0,gpt1)/EFI/debian/shimx64.efi", Some("shim")),
            ("/vmlinuz-6.1.0", None),
            ("relative", None),
        ] {
            let found = machine.by_path(path);
            assert_eq!(found.as_deref(), content.map(str::as_bytes), "{path}");
        }
        assert_eq!(machine.kernel().unwrap(), b"kernel");
        assert_eq!(machine.initrd().unwrap(), b"initrd");
        let (this, next) = machine.command_lines().unwrap();
        assert_eq!(this, "BOOT_IMAGE=/vmlinuz-6.12.9-amd64 ro");
        assert_eq!(next, "BOOT_IMAGE=/vmlinuz-6.12.38-amd64 ro");
    }

    #[test]
    fn the_next_command_line_is_that_of_grubs_configuration() {
        let next = |configuration: &str| {
            let (_folder, mut machine) = machine(&[
                ("boot/grub/grub.cfg", configuration),
                ("proc/cmdline", "BOOT_IMAGE=/vmlinuz-6.12.9-amd64 ro\n"),
            ]);
            machine.command_lines().unwrap().1
        };
        // The first that starts this kernel; GRUB puts one space between words.
        let entries = "\tlinux /vmlinuz-6.12.9-amd64 old\n\
                       \tlinux\t/vmlinuz-6.12.38-amd64 root=/dev/vg/root ro  quiet \n\
                       \tlinux /vmlinuz-6.12.38-amd64 ro single\n";
        let line = "BOOT_IMAGE=/vmlinuz-6.12.38-amd64 root=/dev/vg/root ro quiet";
        assert_eq!(next(entries), line);
        // As it was, where only GRUB knows.
        for unknown in ["", "linux /vmlinuz-6.12.38-amd64 root=$root quiet\n"] {
            assert_eq!(next(unknown), "BOOT_IMAGE=/vmlinuz-6.12.38-amd64 ro");
        }
    }

    #[test]
    fn an_update_of_the_firmware_is_seen_where_it_waits() {
        const PLACE: &str = "boot/efi/EFI/debian/fw/fwupd-5ffdbc0d.cap";
        let (folder, _machine) = machine(&[("boot/efi/EFI/debian/fw/readme", "")]);
        assert_eq!(capsule(folder.path()), None);
        for place in [PLACE, "boot/efi/EFI/UpdateCapsule/fwupd-5ffdbc0d.cap"] {
            let (folder, _machine) = machine(&[(place, "")]);
            assert_eq!(capsule(folder.path()), Some(folder.path().join(place)));
        }
    }
}
