//! A root that a TPM opens.

use std::path::Path;
use std::process::Command;

use luksmith_tests::boot::{Board, Boot, Image, Machine, with_tpm};
use luksmith_tests::cryptsetup::run;
use luksmith_tests::vm::luksmith;
use luksmith_tpm::Digest;

use super::{JOB, ROOT_UUID, assert_locked};

const DATA_UUID: &str = "7b2e1f0a-5d6c-4c1e-9a51-000000000002";

/// What tells the root from every other volume, as a word for crypttab.
pub(super) fn fingerprint(image: &Image) -> String {
    let mut command = Command::new(luksmith());
    command.arg("fingerprint").arg(image.file("root.luks"));
    command.args(["root", "--key-file"]);
    command.arg(image.file("passphrase"));
    let told = run(&mut command, b"").expect(0, "fingerprint");
    let told = String::from_utf8(told.out).expect("text");
    let hex = told.trim().strip_prefix("fixate-volume-key=");
    hex.expect("a fingerprint").to_owned()
}

/// PCR 15 after these were measured into it, one after the other.
fn pcr_15(measured: &[&str]) -> String {
    let mut value = [0; 32];
    for hex in measured {
        value = Digest::of(&[&value, &hex::decode(hex).expect("hexadecimal")]).0;
    }
    hex::encode_upper(value)
}

/// What follows `mark` on a line of the console.
fn after<'a>(said: &'a str, mark: &str) -> Option<&'a str> {
    said.lines()
        .find_map(|line| Some(line.split_once(mark)?.1.trim()))
}

/// A name at the prompt for a login: whoever shows the prompt takes it and ends.
fn log_in(machine: &mut Machine) {
    // A getty that is started anew has forgotten what was typed.
    while machine.expect_one(&["luksmith-root login: ", LOGS_IN]) == 0 {
        machine.type_in("root\n");
    }
}

const LOGS_IN: &str = "JOB: somebody logs in";

/// Waits, in a job, for [`log_in`]. The getty hands over to login, or ends where there is none.
const LOGIN: &str = "
until pidof login >/dev/null || [ \"$(systemctl show -P NRestarts serial-getty@ttyS0.service)\" != 0 ]; do
	sleep 0.2
done
echo 'JOB: somebody logs in'
";

/// A command of a job that believes a person to be there, and what that person types.
const AT_A_TERMINAL: &str = "
mkfifo /run/typing
at_a_terminal() {
	script -qefc \"$1\" /run/typed </run/typing >/dev/null &
	exec 5>/run/typing
}
answer() {
	until grep -q \"$1\" /run/typed; do sleep 0.2; done
	printf '%s\\n' \"$2\" >&5
}
";

#[test]
fn the_tpm_opens_the_root_of_this_machine_and_of_no_other() {
    let image = Image::build();
    let tpm = tempfile::tempdir().expect("a folder for the TPM");
    let passphrase = image.passphrase();
    let fingerprint = fingerprint(&image);
    let initrd = image.initrd_with(&format!(
        "root UUID={ROOT_UUID} none luksmith,tpm2-device=auto,fixate-volume-key={fingerprint}\n"
    ));
    // The firmware measures the kernel, its command line and the initramfs: all stays the same here.
    let boot = |job, append| {
        image.boot(&Boot {
            job,
            append,
            initrd: Some(&initrd),
            tpm: Some(tpm.path()),
            board: Board::Uefi,
            ..Boot::default()
        })
    };
    let disk = "/dev/disk/by-id/virtio-root";
    let data = "/dev/disk/by-id/virtio-data";

    // Enrolled in the running system, by its own TPM.
    let enroll = format!(
        "{JOB}
printf %s {passphrase:?} >/run/passphrase
luksmith tpm enroll {disk} --key-file /run/passphrase --tpm2-pcrs=4+7+9+15=0 2>&1 | sed 's/^/JOB: /'
luksmith tpm enroll {data} --key-file /run/passphrase --tpm2-pcrs=9 --no-recovery-key
systemctl --no-block poweroff
"
    );
    let mut machine = boot(&enroll, "");
    machine.expect("Passphrase for root");
    machine.type_in(&format!("{passphrase}\n"));
    let said = machine.until_off();
    assert!(said.contains("New TPM2 token enrolled"), "{said}");
    let recovery_key = said
        .split_ascii_whitespace()
        .find(|word| word.len() == 71 && word.split('-').count() == 8)
        .unwrap_or_else(|| panic!("no recovery key: {said}"));

    // With nobody there, until the prompt for a login; the key is measured before the system runs.
    let alone = format!(
        "{JOB}
[ -b /dev/luksmith/root ] && echo 'JOB: alone'
cat /sys/class/tpm/tpm*/pcr-sha256/15 | sed 's/^/JOB: PCR 15 /'
luksmith open --test-passphrase --token-only {disk} || echo 'JOB: too late for the TPM'
{LOGIN}
systemctl --no-block reboot
"
    );
    let mut machine = boot(&alone, "");
    log_in(&mut machine);
    let said = machine.until_off();
    assert!(said.contains("JOB: alone"), "{said}");
    assert!(!said.contains("Passphrase for"), "{said}");
    let measured = format!("JOB: PCR 15 {}", pcr_15(&[&fingerprint]));
    assert!(said.contains(&measured), "{measured}: {said}");
    assert!(said.contains("too late in this boot"), "{said}");
    assert!(said.contains("JOB: too late for the TPM"), "{said}");
    assert!(said.contains("reboot: Restarting system"), "{said}");
    super::assert_clean(&image);

    // Another command line: it asks, and says what changed; then the change is accepted.
    let accept = format!(
        "{JOB}
printf %s {passphrase:?} >/run/passphrase
luksmith tpm why {disk} | sed 's/^/JOB: /'
luksmith status root | sed -n 's/^ *TPM: */JOB: root: /p'
luksmith doctor | grep -A2 'did not open root' | sed 's/^/JOB: /'
luksmith tpm reseal {disk} --key-file /run/passphrase && echo 'JOB: resealed'
luksmith status root | sed -n 's/^ *TPM: */JOB: still: /p'
{AT_A_TERMINAL}
at_a_terminal 'luksmith open {data} data'
answer 'Passphrase for' {passphrase:?}
answer '(yes/no)' yes
wait && sed 's/^/JOB: /' /run/typed
luksmith status data | sed -n 's/^ *TPM: */JOB: still: /p'
systemctl --no-block poweroff
"
    );
    let changed = "init=/sbin/init";
    let mut machine = boot(&accept, changed);
    machine.expect("PCR 4+7+9+15 have other values");
    machine.expect("Passphrase for root");
    machine.type_in(&format!("{recovery_key}\n"));
    let said = machine.until_off();
    assert_eq!(
        after(&said, "JOB: PCR "),
        Some("9: kernel command line changed"),
        "{said}"
    );
    let reseal = format!("luksmith tpm reseal /dev/disk/by-uuid/{ROOT_UUID}");
    for line in [
        "JOB: root: token 1 did not open it: PCR 4+7+9+15 have other values",
        "JOB: warn  the TPM did not open root and will not at the next boot",
        &format!("JOB:         sudo {reseal}"),
        "JOB: resealed",
        "JOB: The TPM refused token 0: PCR 9 have other values.",
        "JOB: Token 0 with its old values is gone.",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("JOB: still"), "{said}");

    let again = format!(
        "{JOB}
echo 'JOB: alone again'
luksmith open {data} data </dev/null && echo 'JOB: data as well'
luksmith status root | sed -n 's/^ *TPM: */JOB: still: /p'
systemctl --no-block poweroff
"
    );
    let said = boot(&again, changed).until_off();
    for line in ["JOB: alone again", "JOB: data as well"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("JOB: still"), "{said}");
}

/// Has the TPM open volumes of an image, without a boot: where no PCR counts but the fuse.
fn enrol(image: &Image, tpm: &Path, slots: &[(&str, &str)]) {
    with_tpm(tpm, |address| {
        for (volume, how) in slots {
            let mut command = Command::new(luksmith());
            command.args(["tpm", "enroll", "--no-recovery-key", how, "--key-file"]);
            command.arg(image.file("passphrase"));
            command.arg(image.file(volume));
            command.arg(format!("--tpm2-device={address}"));
            run(&mut command, b"").expect(0, "tpm enroll");
        }
    });
}

/// The driver of the TPM lets go of it at the start; for good, unless it is told to come back.
pub(super) const HIDE: &str = "echo MSFT0101:00 >/sys/bus/platform/drivers/tpm_tis/unbind\n";
const COME_BACK: &str = "
{
	until grep -qs luksmith /proc/[0-9]*/comm; do sleep 1; done
	sleep 3
	echo MSFT0101:00 >/sys/bus/platform/drivers/tpm_tis/bind
} >/dev/null 2>&1 &
";

#[test]
fn a_pin_opens_the_root_and_another_disk_in_its_place_is_refused() {
    let image = Image::build();
    let tpm = tempfile::tempdir().expect("a folder for the TPM");
    let pin = image.file("pin");
    std::fs::write(&pin, "1234\n").expect("a file");
    let pin = format!("--new-pin-file={}", pin.display());
    let slots = [("root.luks", &*pin), ("data.luks", "--tpm2-pcrs=15=0")];
    enrol(&image, tpm.path(), &slots);
    let fingerprint = fingerprint(&image);
    let boot = |append, files: &[(&str, &str)], job: &str| {
        image.boot(&Boot {
            job,
            append,
            initrd: Some(&image.initrd_over("initrd", files)),
            tpm: Some(tpm.path()),
            ..Boot::default()
        })
    };
    let job = format!(
        "{JOB}
ls /dev/luksmith | sed 's/^/JOB: volume /'
cat /sys/class/tpm/tpm*/pcr-sha256/15 | sed 's/^/JOB: PCR 15 /'
systemctl --no-block poweroff
"
    );

    // A TPM that appears late, and is waited for although the table does not name it.
    let table = format!(
        "root UUID={ROOT_UUID} none luksmith,fixate-volume-key={fingerprint}\n\
         data UUID={DATA_UUID} none luksmith,tpm2-measure-pcr=no\n"
    );
    let late = format!("{HIDE}{COME_BACK}");
    let files = [
        ("conf/luksmith/crypttab", &*table),
        ("conf/conf.d/late", &*late),
    ];
    let mut machine = boot("", &files, &job);
    machine.expect("Waiting for the TPM");
    machine.expect("PIN of the TPM for");
    machine.expect("tries left)");
    machine.type_in("4321\n");
    machine.expect("The TPM does not take this PIN");
    machine.expect("PIN of the TPM for");
    machine.type_in("1234\n");
    let said = machine.until_off();
    // The other one by the TPM alone: both were unlocked before a key was measured.
    for volume in ["root", "data"] {
        assert!(said.contains(&format!("JOB: volume {volume}")), "{said}");
    }
    assert!(!said.contains("Passphrase for"), "{said}");
    let measured = format!("JOB: PCR 15 {}", pcr_15(&[&fingerprint]));
    assert!(said.contains(&measured), "{measured}: {said}");

    // Another disk in the place of the root, whose passphrase somebody knows.
    let real = image.file("root.luks");
    std::fs::rename(&real, image.file("root.real")).expect("renamed");
    let swapped = std::fs::File::create(&real).expect("a file");
    swapped.set_len(32 << 20).expect("a file");
    let mut format = Command::new(luksmith());
    format
        .args(["format", "--batch-mode", "--uuid", ROOT_UUID])
        .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"])
        .arg(&real);
    run(&mut format, b"known\n").expect(0, "format");
    let mut machine = boot("panic=1", &[("conf/luksmith/crypttab", &table)], &job);
    machine.expect("Passphrase for root");
    machine.type_in("known\n");
    machine.expect("is not the volume that crypttab means");
    assert_locked(&machine.until_off());

    // The same where the table knows no fingerprint, and the TPM is hidden so that it could be asked
    // by what runs next.
    let table = format!("root UUID={ROOT_UUID} none luksmith,tpm2-device=auto,token-timeout=2\n");
    let files = [
        ("conf/luksmith/crypttab", &*table),
        ("conf/conf.d/hidden", HIDE),
    ];
    let mut machine = boot("panic=1", &files, &job);
    machine.expect("Passphrase for root");
    machine.type_in("known\n");
    machine.expect("the volume keys cannot be measured");
    assert_locked(&machine.until_off());
}
