//! The hook that puts us into an initramfs, on a file tree: what it puts in, what it refuses, and what
//! it leaves to cryptsetup. The boots themselves are in `vm_boot`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use luksmith_tests::cryptsetup::{Ended, run};
use luksmith_tests::{cli, project};
use tempfile::TempDir;

const V: &str = "6.12.41+deb13-amd64";
const ROOT: &str = "root UUID=1 none luks,luksmith,x-initrd.attach";

/// A system with our scripts, whose paths lead into a folder; what they call of others does nothing.
struct System(TempDir);

impl System {
    fn new(crypttab: &str) -> Self {
        let system = Self(tempfile::tempdir().expect("a folder"));
        for folder in ["usr/local/bin", "new/conf", "new/cryptroot"] {
            fs::create_dir_all(system.path(folder)).expect("a folder");
        }
        system.write("etc/crypttab", crypttab);
        system.write("etc/fstab", "/dev/mapper/vg-root / ext4 x 0 1\n");
        system.write(
            "new/cryptroot/crypttab",
            &format!("{ROOT}\nother x none luks\n"),
        );
        system.write("usr/local/bin/modprobe", "#!/bin/sh\n");
        fs::set_permissions(
            system.path("usr/local/bin/modprobe"),
            fs::Permissions::from_mode(0o755),
        )
        .expect("it is a program");
        symlink(cli::binary(), system.path("usr/local/bin/luksmith")).expect("a link");
        system.script("initramfs-tools/hooks/luksmith", "hook");
        system.write(
            "usr/share/initramfs-tools/hook-functions",
            "copy_exec() { :; }\nmanual_add_modules() { :; }\n",
        );
        system
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("the file is written");
    }

    fn script(&self, name: &str, place: &str) {
        let mut text = fs::read_to_string(project().join("boot").join(name)).expect("our script");
        for folder in ["/etc/", "/usr/share/", "/usr/local/"] {
            let ours = format!("{}{folder}", self.0.path().display());
            text = text.replace(folder, &ours);
        }
        self.write(place, &text);
    }

    /// As update-initramfs runs the hook.
    fn hook(&self, kernel: &str) -> Ended {
        run(
            Command::new("sh")
                .arg(self.path("hook"))
                .env("version", kernel)
                .env("DESTDIR", self.path("new")),
            b"",
        )
    }

    /// The lines that we open in the new initramfs; none where it has nothing of ours.
    fn ours(&self) -> Option<String> {
        fs::read_to_string(self.path("new/conf/luksmith/crypttab")).ok()
    }

    /// Whether cryptsetup opens the root in it.
    fn is_cryptsetups(&self) -> bool {
        let theirs = fs::read_to_string(self.path("new/cryptroot/crypttab")).expect("a table");
        assert!(theirs.contains("other x none luks\n"), "{theirs}");
        theirs.contains("root")
    }
}

#[test]
fn a_line_that_opens_at_boot_is_ours_and_no_longer_cryptsetups() {
    // An editor may leave the last line without an end; attach reads it all the same.
    for end in ["\n", ""] {
        let system = System::new(&format!("# a note\n{ROOT}{end}"));
        system.hook(V).expect(0, "the hook");
        assert_eq!(system.ours(), Some(format!("{ROOT}\n")));
        assert!(!system.is_cryptsetups());
    }
}

/// A word mistyped by hand would only be met at the next boot, which would end locked again and again.
#[test]
fn a_line_that_attach_would_refuse_at_boot_fails_the_update() {
    for (line, wrong) in [
        (
            format!("{ROOT},fixate-volume-key=12"),
            "fixate-volume-key=12",
        ),
        (format!("{ROOT},header-mac=yes"), "header-mac=yes"),
        (format!("{ROOT},plain"), "plain"),
        (format!("{ROOT},nofail,tries=some"), "tries=some"),
        (ROOT.replacen("root", "a/b", 1), "a/b"),
    ] {
        // One that is well does not hide it.
        let table = format!("{}\n{line}\n", ROOT.replacen("root", "well", 1));
        let system = System::new(&table);
        let ended = system.hook(V);
        assert_ne!(ended.code, 0, "{line}: {}", ended.err);
        for said in [
            wrong,
            "would end the boot with locked disks",
            "/etc/crypttab",
        ] {
            assert!(ended.err.contains(said), "{said}: {}", ended.err);
        }
        assert_eq!(system.ours(), None, "{line}");
        assert!(system.is_cryptsetups(), "{line}");
    }
}

#[test]
fn a_kernel_that_cannot_serve_volumes_is_left_to_cryptsetup() {
    for (kernel, why) in [
        ("6.18.4", "kernel 6.18.4 is known to be bad"),
        ("6.17.0-1012-azure", "is known to be bad"),
        ("6.1.0-40-amd64", "no ublk driver"),
    ] {
        // Whatever else is wrong: nobody reads these lines.
        for line in [ROOT.to_owned(), format!("{ROOT},header-mac=yes")] {
            let system = System::new(&format!("{line}\n"));
            let ended = system.hook(kernel);
            assert_eq!(ended.code, 0, "{}", ended.err);
            for said in [why, "cryptsetup is left to do it"] {
                assert!(ended.err.contains(said), "{said}: {}", ended.err);
            }
            assert_eq!(system.ours(), None, "{kernel}");
            assert!(system.is_cryptsetups(), "{kernel}");
        }
    }
}

#[test]
fn an_option_that_nobody_knows_is_told_when_the_initramfs_is_made() {
    let system = System::new(&format!("{ROOT},fixate-volume-kye=12\n"));
    let ended = system.hook(V);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(
        ended.err.contains("fixate-volume-kye=12 is unknown"),
        "{}",
        ended.err
    );
    assert!(system.ours().is_some());
}
