//! An update that is foreseen: what measures it is the firmware, what foresees it a hook of update-initramfs.

use luksmith_tests::boot::{Board, Boot, Image};

use super::tpm::fingerprint;
use super::{JOB, ROOT_UUID};

#[test]
fn an_initramfs_made_anew_is_foreseen_and_the_machine_boots_alone() {
    let image = Image::build();
    let tpm = tempfile::tempdir().expect("a folder for the TPM");
    let passphrase = image.passphrase();
    let line = format!(
        "root UUID={ROOT_UUID} none luksmith,tpm2-device=auto,fixate-volume-key={}",
        fingerprint(&image)
    );
    let first = image.initrd_with(&format!("{line}\n"));
    let boot = |job: &str, initrd| {
        image.boot(&Boot {
            job,
            initrd: Some(initrd),
            tpm: Some(tpm.path()),
            board: Board::Uefi,
            ..Boot::default()
        })
    };

    // Bound to the policy of the machine; then the initramfs changes, and its own hook does the rest.
    let update = format!(
        "{JOB}
printf %s {passphrase:?} >/run/passphrase
luksmith tpm enroll /dev/disk/by-id/virtio-root --key-file /run/passphrase --auto --without-secure-boot \\
	--tpm2-pcrs=7+9+15=0 --no-recovery-key
luksmith tpm update --only-drop | sed 's/^/JOB: before: /'
echo '{line}' >/etc/crypttab
mount -t tmpfs tmp /var/tmp
update-initramfs -c -k $(uname -r) || echo 'JOB: no initramfs'
initrd=/boot/initrd.img-$(uname -r)
stat -c 'JOB: length %s' $initrd
cat $initrd >/dev/disk/by-id/virtio-data && sync
luksmith tpm predict | sed 's/^/JOB: /'
systemctl --no-block poweroff
"
    );
    let mut machine = boot(&update, &first);
    machine.expect("Passphrase for root");
    machine.type_in(&format!("{passphrase}\n"));
    let said = machine.until_off();
    assert!(
        said.contains("JOB: before: The policy has no other values"),
        "{said}"
    );
    // The hook has let it in already.
    assert!(said.contains("JOB: PCR 9: nothing new"), "{said}");
    assert!(!said.contains("taken to be"), "{said}");
    let length: usize = said
        .lines()
        .find_map(|line| line.split_once("JOB: length ")?.1.trim().parse().ok())
        .unwrap_or_else(|| panic!("no initramfs: {said}"));
    let disk = std::fs::read(image.file("data.luks")).expect("what was written");
    let second = image.file("initrd-second");
    std::fs::write(&second, &disk[..length]).expect("a file");
    let before = std::fs::read(&first).expect("the first one");
    assert!(before != disk[..length], "it is another one");

    // Alone; and a service drops what is over.
    let after = format!(
        "{JOB}
echo 'JOB: alone'
until systemctl is-active luksmith-good-boot.service; do
	systemctl is-failed luksmith-good-boot.service && break
	sleep 1
done
luksmith tpm update --only-drop | sed 's/^/JOB: after: /'
systemctl --no-block poweroff
"
    );
    let said = boot(&after, &second).until_off();
    assert!(said.contains("JOB: alone"), "{said}");
    assert!(
        said.contains("JOB: after: The policy has no other values"),
        "{said}"
    );
}
