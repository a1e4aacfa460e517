//! A system whose root lies on a volume of ours, from its initramfs to the power off.

use std::time::Duration;

use luksmith_tests::boot::{Boot, Image};
use luksmith_tests::cryptsetup::cryptsetup;

#[path = "vm_boot/tpm.rs"]
mod tpm;
#[path = "vm_boot/update.rs"]
mod update;

/// Tables for the initramfs in which the passphrase of the root must be typed.
const TYPED: &str = "\
root UUID=7b2e1f0a-5d6c-4c1e-9a51-000000000001 none luksmith,discard,tries=4,tpm2-device=auto
data UUID=7b2e1f0a-5d6c-4c1e-9a51-000000000002 none luksmith
";
const ROOT_BY_KEY: &str =
    "root UUID=7b2e1f0a-5d6c-4c1e-9a51-000000000001 /conf/luksmith/keys/root.key luksmith\n";
const HUNDRED: &str = "root UUID=7b2e1f0a-5d6c-4c1e-9a51-000000000001 none luksmith,tries=100\n";

/// Begins each job: to the console, and what a server looks like to others.
const JOB: &str = "\
exec </dev/null >/dev/console 2>&1
set -u
servers() {
	local pid
	for pid in /proc/[0-9]*; do
		case $(cat \"$pid/comm\" 2>/dev/null) in
		\"$1\") echo \"${pid#/proc/} $(tr '\\0' ' ' <\"$pid/cmdline\")\" ;;
		esac
	done
}
";

/// What a shell of the initramfs would show, and what a mounted root would.
fn assert_locked(console: &str) {
    for forbidden in [
        "(initramfs)",
        "can't access tty",
        "BusyBox v",
        "systemd[1]",
        "JOB:",
    ] {
        assert!(!console.contains(forbidden), "{forbidden}: {console}");
    }
    assert!(console.contains("The disks stay locked"), "{console}");
}

fn assert_clean(image: &Image) {
    let super_block = image.file_system("root.luks");
    assert!(
        super_block.contains("Filesystem state:         clean"),
        "{super_block}"
    );
    assert!(!super_block.contains("needs_recovery"), "{super_block}");
}

#[test]
fn a_root_volume_serves_from_the_initramfs_to_the_power_off() {
    let image = Image::build();

    // The key file is in the initramfs; the second volume has none.
    let first = JOB.to_owned()
        + "
for role in keeper server; do servers luksmith-$role | sed \"s/^/JOB: $role /\"; done
grep -q '^/dev/[a-z0-9/]* / ext4 rw' /proc/mounts && [ -b /dev/luksmith/root ] && echo 'JOB: root is ours'
killed=$(servers luksmith-server | sort -n | head -n 1 | cut -d' ' -f1)
kill -9 \"$killed\"
echo lives >/survived && sync && echo 3 >/proc/sys/vm/drop_caches
[ \"$(cat /survived)\" = lives ] && echo \"JOB: lives on\"
luksmith status root | sed 's/^/JOB: /'
# From now on the second volume is systemd's to open.
sed -i 's/,x-initrd.attach//' /etc/crypttab && mkdir /data
echo '/dev/luksmith/data /data ext4 defaults 0 2' >>/etc/fstab
systemctl --no-block poweroff
";
    let mut machine = image.boot(&Boot {
        job: &first,
        ..Boot::default()
    });
    machine.expect("Passphrase for data");
    machine.type_in(&format!("{}\n", image.passphrase()));
    let said = machine.until_off();
    for line in ["JOB: root is ours", "JOB: lives on"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    // The mark by which systemd spares them, on the keeper and on what it forks.
    for role in ["keeper", "server"] {
        let marked = said
            .lines()
            // The prompt for a login may stand on the same line.
            .filter_map(|line| Some(line.split_once(&format!("JOB: {role} "))?.1))
            .filter(|line| {
                line.split(' ')
                    .nth(1)
                    .is_some_and(|word| word.starts_with('@'))
            })
            .count();
        assert_eq!(marked, 2, "{said}");
    }
    assert_clean(&image);

    // Typed this time; what opened the root opens the second volume unasked. The TPM that the table and
    // the firmware name has no driver, and its owner says that he knows.
    let typed = image.initrd_over(
        "initrd",
        &[
            ("conf/luksmith/crypttab", TYPED),
            ("conf/conf.d/hidden", tpm::HIDE),
        ],
    );
    let broken = tempfile::tempdir().expect("a folder for the TPM");
    let second = JOB.to_owned()
        + "
cat /survived | sed 's/^/JOB: /'
ls /dev/luksmith | sed 's/^/JOB: volume /'
echo \"JOB: journal recoveries $(dmesg | grep -c 'recovery complete')\"
systemctl --no-block reboot
";
    let mut machine = image.boot(&Boot {
        job: &second,
        append: "luksmith.tpm=missing",
        initrd: Some(&typed),
        tpm: Some(broken.path()),
        ..Boot::default()
    });
    for passphrase in ["wrong", "", &image.passphrase()] {
        machine.expect("Passphrase for root");
        machine.type_in(&format!("{passphrase}\n"));
    }
    let said = machine.until_off();
    assert!(!said.contains("Passphrase for data"), "{said}");
    assert!(!said.contains("Waiting for the TPM"), "{said}");
    let warning = "WARNING: the TPM of this machine did not appear, and nothing was measured";
    assert!(said.contains(warning), "{said}");
    for line in [
        "lives",
        "volume root",
        "volume data",
        "journal recoveries 0",
    ] {
        assert!(said.contains(&format!("JOB: {line}\n")), "{line}: {said}");
    }
    assert_clean(&image);

    // The second volume after the root, by a unit made from crypttab; systemd asks on the console.
    let root_only = image.initrd_with(ROOT_BY_KEY);
    // Then closed, and opened once more by a credential, with nobody there.
    let third = format!(
        "{JOB}
systemctl is-active luksmith@data.service data.mount | sed 's/^/JOB: unit /'
echo here >/data/file && echo 'JOB: written'
systemctl stop data.mount luksmith@data.service
[ -e /dev/luksmith/data ] || echo 'JOB: closed in between'
mkdir -m 700 /run/credstore
printf %s {:?} >/run/credstore/cryptsetup.passphrase
systemctl start data.mount
cat /data/file | sed 's/^/JOB: by a credential /'
systemctl --no-block poweroff
",
        image.passphrase()
    );
    let mut machine = image.boot(&Boot {
        job: &third,
        append: "loglevel=6",
        initrd: Some(&root_only),
        ..Boot::default()
    });
    machine.expect("Passphrase for data");
    machine.type_in("wrong\n");
    machine.expect("Passphrase for data");
    machine.type_in(&format!("{}\n", image.passphrase()));
    let said = machine.until_off();
    assert_eq!(said.matches("JOB: unit active").count(), 2, "{said}");
    for line in ["written", "closed in between", "by a credential here"] {
        assert!(said.contains(&format!("JOB: {line}\n")), "{line}: {said}");
    }
    assert!(said.contains("luksmith: data: closed"), "{said}");
    assert_clean(&image);
    let super_block = image.file_system("data.luks");
    assert!(
        super_block.contains("Filesystem state:         clean"),
        "{super_block}"
    );
}

#[test]
fn every_failure_of_the_boot_ends_locked() {
    let image = Image::build();
    let hundred = image.initrd_with(HUNDRED);
    let panic = |append, initrd| Boot {
        job: "echo JOB: ran",
        append,
        initrd,
        ..Boot::default()
    };

    let mut machine = image.boot(&panic("panic=1", Some(&hundred)));
    for n in 0..100 {
        machine.expect("Passphrase for root");
        machine.type_in(&format!("wrong {n}\n"));
    }
    assert_locked(&machine.until_off());

    // No panic= on the command line, so that the initramfs would give a shell: the end of input (^D).
    let mut machine = image.boot(&panic("panic=", Some(&hundred)));
    machine.expect("Passphrase for root");
    machine.type_in("\u{4}");
    machine.expect("The disks stay locked");
    machine.expect("starts again in 60 s");
    machine.type_in("\u{3}\u{1a}\u{1c}id\n");
    assert_locked(&machine.until_off());

    // The volume opens, and then there is no file system to mount on it, or a shell is asked for.
    for append in [
        "panic= rootfstype=xfs",
        "panic= break=bottom",
        "panic= init=/nothing break=init",
    ] {
        let mut machine = image.boot(&panic(append, None));
        machine.expect("Passphrase for data");
        machine.type_in(&format!("{}\n", image.passphrase()));
        machine.expect("The disks stay locked");
        machine.expect("starts again in 60 s");
        machine.type_in("id\n");
        assert_locked(&machine.says_within(Duration::from_secs(5)));
    }
}

const ROOT_UUID: &str = "7b2e1f0a-5d6c-4c1e-9a51-000000000001";

/// The MAC over the header and its epoch, where they count most: with nobody there.
#[test]
fn a_changed_header_waits_for_a_person_and_locks_nobody_out() {
    let image = Image::build();
    let tpm = tempfile::tempdir().expect("a folder for the TPM");
    let tpm = Some(tpm.path());
    let passphrase = image.passphrase();
    let enroll = format!(
        "{JOB}
disk=/dev/disk/by-id/virtio-root
printf %s {passphrase:?} >/run/passphrase
luksmith tpm enroll $disk --key-file /run/passphrase --tpm2-with-pin=no && echo 'JOB: enrolled'
luksmith header bless $disk --key-file /run/passphrase --tpm2-device=auto | sed 's/^/JOB: /'
luksmith fingerprint $disk root --key-file /run/passphrase | sed 's/^/JOB: /'
systemctl --no-block poweroff
"
    );
    let mut machine = image.boot(&Boot {
        job: &enroll,
        tpm,
        ..Boot::default()
    });
    machine.expect("Passphrase for data");
    machine.type_in(&format!("{passphrase}\n"));
    let said = machine.until_off();
    assert!(said.contains("is blessed: epoch"), "{said}");
    let options = said
        .lines()
        .find_map(|line| Some(line.split_once("JOB: fixate-volume-key=")?.1.trim()))
        .unwrap_or_else(|| panic!("no fingerprint: {said}"));
    assert!(
        options.contains(",header-mac=counter:0x01"),
        "the counter is named: {options}"
    );
    let table = format!(
        "root UUID={ROOT_UUID} none luksmith,tpm2-device=auto,fixate-volume-key={options}\n"
    );
    let initrd = image.initrd_with(&table);
    let job = format!(
        "{JOB}
[ -b /dev/luksmith/root ] && echo 'JOB: open'
systemctl --no-block poweroff
"
    );
    let boot = Boot {
        job: &job,
        initrd: Some(&initrd),
        tpm,
        ..Boot::default()
    };
    let said = image.boot(&boot).until_off();
    assert!(said.contains("JOB: open"), "{said}");
    assert!(!said.contains("Passphrase for"), "{said}");

    // Somebody had the disk in hand; it may as well have been its owner.
    let root = image.file("root.luks");
    let root = root.to_str().expect("a path");
    let label = ["config", "--label", "changed", root];
    cryptsetup(&label, b"").expect(0, "cryptsetup config");
    let mut machine = image.boot(&boot);
    machine.expect("is not as its owner left it: changed since it was blessed: label");
    machine.expect("Passphrase for root");
    machine.type_in(&format!("{passphrase}\n"));
    let said = machine.until_off();
    assert!(said.contains("JOB: open"), "{said}");
}
