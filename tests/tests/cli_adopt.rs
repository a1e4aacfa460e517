//! `adopt` on the file tree of a machine: what it says, what it refuses, and that it changes nothing then.
//! The boots themselves are in `vm_adopt`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use luksmith_tests::cli;
use luksmith_tests::cryptsetup::Ended;
use tempfile::TempDir;

const V: &str = "6.12.41+deb13-amd64";
const TABLE: &str = "# <target name> <source device> <key file> <options>\n\
                     vda5_crypt /disk none luks,discard\n";

/// A Debian that could be adopted, as far as files tell; the disk is a file of it.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().expect("a folder"));
        cli::format_small(machine.0.path(), "disk", "secret");
        let empty = [
            format!("/boot/vmlinuz-{V}"),
            format!("/lib/modules/{V}/kernel/drivers/block/ublk_drv.ko.xz"),
            format!("/lib/modules/{V}/kernel/drivers/md/dm-crypt.ko.xz"),
            "/usr/share/initramfs-tools/hooks/luksmith".into(),
            "/usr/share/initramfs-tools/hooks/cryptroot".into(),
            "/usr/share/initramfs-tools/scripts/local-top/luksmith".into(),
            "/usr/local/bin/luksmith".into(),
            "/usr/sbin/update-initramfs".into(),
            "/usr/bin/unmkinitramfs".into(),
            "/etc/udev/rules.d/61-luksmith.rules".into(),
            "/usr/lib/systemd/system-generators/systemd-cryptsetup-generator".into(),
            "/usr/lib/systemd/system-generators/luksmith-generator".into(),
        ];
        for file in empty {
            machine.write(&file, "");
        }
        machine.write(&format!("/boot/initrd.img-{V}"), "opens it with dm-crypt");
        machine.write("/etc/crypttab", TABLE);
        machine.write(
            "/etc/fstab",
            "/dev/mapper/vg-root / ext4 errors=remount-ro 0 1\n",
        );
        machine.write(
            "/boot/grub/grub.cfg",
            &format!(
                "menuentry 'Debian GNU/Linux' $menuentry_id_option 'gnulinux-simple' {{\n\
                 \tinitrd\t/initrd.img-{V}\n}}\nsource ${{config_directory}}/custom.cfg\n"
            ),
        );
        machine
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file.trim_start_matches('/'))
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("the file is written");
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).expect("the file")
    }

    fn adopt(&self, options: &[&str], passphrase: &str) -> Ended {
        let root = self.0.path().to_str().expect("a UTF-8 path").to_owned();
        let mut words = vec!["adopt", "--root", &root];
        words.extend(options);
        cli::luksmith(self.0.path(), &words, passphrase.as_bytes())
    }

    /// Everything that must not change.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = cli::snapshot(&self.path("/etc"));
        all.extend(cli::snapshot(&self.path("/boot")));
        all
    }
}

#[test]
fn a_dry_run_tells_the_whole_plan_and_changes_nothing() {
    let machine = Machine::new();
    let before = machine.files();
    let ended = machine.adopt(&["--dry-run", "--tpm2-device=auto"], "");
    let said = String::from_utf8_lossy(&ended.expect(0, "a dry run").out).into_owned();
    for line in [
        "vda5_crypt will be opened by luksmith from the next boot on. The plan:",
        "ask for the passphrase of",
        &format!("keep the initramfs of today as /boot/luksmith/initrd.img-{V}"),
        "add \"Debian GNU/Linux, as before luksmith\" to GRUB's menu",
        "       vda5_crypt /disk none luks,discard\n",
        "       vda5_crypt /disk none luks,discard,luksmith,initramfs,tpm2-device=auto,\
         fixate-volume-key=…\n",
        &format!("make the initramfs of kernel {V} anew"),
        "The volume itself, /etc/fstab and root= stay as they are.",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(machine.files(), before);
    assert!(!machine.path("/boot/luksmith").exists());
    assert!(!machine.path("/var").exists());
}

#[test]
fn whatever_would_keep_the_machine_from_booting_is_said_before_anything_is_asked() {
    let cases: &[(&str, &str, &str)] = &[
        (
            "/etc/crypttab",
            "vda5_crypt /disk none luks,keyscript=/x\n",
            "keyscript",
        ),
        (
            "/etc/crypttab",
            "vda5_crypt /disk none luks,some-new-thing\n",
            "some-new-thing",
        ),
        (
            "/etc/crypttab",
            "vda5_crypt /disk none luks,header=/boot/header\n",
            "would not be in the initramfs",
        ),
        (
            "/etc/crypttab",
            "a /disk none luks\nb /other none luks\n",
            "which volume",
        ),
        ("/etc/crypttab", "", "which volume"),
        (
            "/etc/lvm/lvm.conf",
            "devices {\n\tglobal_filter = [ \"a|sda|\", \"r|.*|\" ]\n}\n",
            "has a filter",
        ),
        (
            "/etc/lvm/devices/system.devices",
            "VERSION=1.1.1\n",
            "LVM takes only the devices",
        ),
        (
            "/etc/default/grub",
            "GRUB_CMDLINE_LINUX=\"cryptopts=source=/dev/x\"\n",
            "cryptopts=",
        ),
        (
            "/etc/default/grub.d/x.cfg",
            "GRUB_DISABLE_LINUX_UUID=\"true\"\n",
            "number changes",
        ),
        (
            "/etc/initramfs-tools/conf.d/driver-policy",
            "MODULES=dep\n",
            "MODULES=dep",
        ),
        (
            "/etc/initramfs-tools/update-initramfs.conf",
            "update_initramfs=no\n",
            "forbids a new initramfs",
        ),
        (
            "/usr/share/initramfs-tools/hooks/dropbear",
            "",
            "over the network",
        ),
        ("/usr/share/initramfs-tools/hooks/clevis", "", "clevis"),
        ("/usr/share/initramfs-tools/hooks/plymouth", "", "plymouth"),
        ("/disk", "no volume at all", "LUKS"),
    ];
    for (file, text, expected) in cases {
        let machine = Machine::new();
        machine.write(file, text);
        let before = machine.files();
        let ended = machine.adopt(&["--batch-mode"], "secret\n");
        assert!(ended.code != 0, "{expected}");
        assert!(ended.err.contains(expected), "{expected}: {}", ended.err);
        assert_eq!(machine.files(), before, "{expected}");
    }
    for (file, expected) in [
        (
            format!("/lib/modules/{V}/kernel/drivers/block/ublk_drv.ko.xz"),
            "no ublk driver",
        ),
        (
            "/usr/share/initramfs-tools/hooks/luksmith".into(),
            "hook of luksmith is not installed",
        ),
        (
            "/usr/local/bin/luksmith".into(),
            "program luksmith is not installed",
        ),
        (
            "/etc/udev/rules.d/61-luksmith.rules".into(),
            "udev rules are not installed",
        ),
        (
            "/usr/lib/systemd/system-generators/luksmith-generator".into(),
            "ask for the passphrase again",
        ),
        ("/usr/sbin/update-initramfs".into(), "no initramfs-tools"),
        (format!("/boot/vmlinuz-{V}"), "no initramfs in /boot"),
    ] {
        let machine = Machine::new();
        fs::remove_file(machine.path(&file)).expect("the file");
        let ended = machine.adopt(&["--batch-mode"], "secret\n");
        assert_eq!(ended.code, 1, "{expected}");
        assert!(ended.err.contains(expected), "{expected}: {}", ended.err);
        assert_eq!(machine.read("/etc/crypttab"), TABLE);
    }
}

#[test]
fn all_obstacles_are_told_at_once_each_with_a_command() {
    let machine = Machine::new();
    machine.write("/usr/share/initramfs-tools/hooks/plymouth", "");
    machine.write("/usr/share/initramfs-tools/hooks/dropbear", "");
    let ended = machine.adopt(&["--dry-run"], "");
    for said in [
        "error: vda5_crypt cannot be adopted",
        "apt-get remove dropbear-initramfs",
        "apt-get remove plymouth",
        "nothing was written",
    ] {
        assert!(ended.err.contains(said), "{said}: {}", ended.err);
    }
}

#[test]
fn without_a_yes_or_with_a_wrong_passphrase_nothing_changes() {
    let machine = Machine::new();
    let before = machine.files();
    let ended = machine.adopt(&[], "secret\n");
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("--batch-mode"), "{}", ended.err);
    let ended = machine.adopt(&["--batch-mode"], "wrong\n");
    assert_eq!(ended.code, 2, "{}", ended.err);
    assert_eq!(machine.files(), before);
    let ended = machine.adopt(&["--hand-back", "--batch-mode"], "secret\n");
    assert!(ended.err.contains("nothing to hand back"), "{}", ended.err);
    assert_eq!(machine.files(), before);
}

/// In this tree no program runs, so no initramfs can be made.
#[test]
fn when_no_initramfs_can_be_made_all_is_taken_back() {
    let machine = Machine::new();
    let before = machine.files();
    let ended = machine.adopt(&["--batch-mode"], "secret\n");
    assert_eq!(ended.code, 1);
    for said in [
        "crypttab is changed",
        "cannot make /boot/initrd.img",
        "the machine boots as before",
    ] {
        assert!(ended.err.contains(said), "{said}: {}", ended.err);
    }
    for (file, content) in before {
        assert_eq!(
            fs::read(&file).expect("the file"),
            content,
            "{}",
            file.display()
        );
    }
    machine.adopt(&["--forget"], "").expect(0, "forget");
    assert!(!machine.path("/boot/luksmith").exists());
    assert!(!machine.path("/boot/grub/custom.cfg").exists());
}

/// Only crypttab says who opens it, once the system runs.
#[test]
fn a_volume_that_no_initramfs_opens_changes_hands_by_its_line_alone() {
    let machine = Machine::new();
    machine.write(
        "/etc/fstab",
        "/dev/vda1 / ext4 x 0 1\n/dev/mapper/vda5_crypt /srv ext4 x 0 2\n",
    );
    fs::remove_file(machine.path(&format!("/boot/vmlinuz-{V}"))).expect("the file");
    machine
        .adopt(&["--batch-mode", "vda5_crypt"], "secret\n")
        .expect(0, "adopt");
    let adopted = TABLE.replace("discard", "discard,luksmith");
    assert_eq!(machine.read("/etc/crypttab"), adopted);
    machine
        .adopt(&["--batch-mode", "--hand-back", "vda5_crypt"], "secret\n")
        .expect(0, "hand back");
    assert_eq!(machine.read("/etc/crypttab"), TABLE);
    assert!(!Path::new(&machine.path("/boot/luksmith")).exists());
}
