//! An update that is foreseen: what measures it are the firmware with Secure Boot, shim, GRUB and the kernel,
//! as the distribution signed them; what foresees it are the hooks that the packages call.

use luksmith_tests::boot::{Board, Boot, Image};

use super::tpm::fingerprint;
use super::{JOB, ROOT_UUID};

#[test]
fn a_new_kernel_is_foreseen_and_the_machine_boots_alone_and_the_old_one_is_over() {
    let image = Image::build();
    let tpm = tempfile::tempdir().expect("a folder for the TPM");
    let passphrase = image.passphrase();
    let line = format!(
        "root UUID={ROOT_UUID} none luksmith,tpm2-device=auto,fixate-volume-key={}",
        fingerprint(&image)
    );
    let disk = image.boot_disk(&image.initrd_with(&format!("{line}\n")));
    let length = image.put_newer_kernel();
    let old = image.release();
    let boot = |job: &str| {
        image.boot(&Boot {
            job,
            from_disk: Some(&disk),
            tpm: Some(tpm.path()),
            board: Board::SecureBoot,
            ..Boot::default()
        })
    };

    // Bound to loader, kernel and initramfs; then a package is installed, and its hooks do the rest.
    let update = format!(
        "{JOB}
mount /boot && mount /boot/efi && mount -t tmpfs tmp /var/tmp
cp /boot/grub/grub.cfg /boot/grub/before.cfg
printf %s {passphrase:?} >/run/passphrase
luksmith tpm enroll /dev/disk/by-id/virtio-root --key-file /run/passphrase --auto --tpm2-pcrs=4+7+9+15=0 \\
	--no-recovery-key
luksmith tpm update --only-drop | sed 's/^/JOB: before: /'
echo '{line}' >/etc/crypttab
head -c {length} /dev/disk/by-id/virtio-data >/run/kernel.deb
dpkg -i /run/kernel.deb || echo 'JOB: not installed'
luksmith tpm predict | sed 's/^/JOB: /'
systemctl --no-block poweroff
"
    );
    let mut machine = boot(&update);
    machine.expect("Passphrase for root");
    machine.type_in(&format!("{passphrase}\n"));
    let said = machine.until_off();
    // The hook has let all of it in already.
    for line in [
        "JOB: before: The policy has no other values",
        "JOB: PCR 4: nothing new",
        "JOB: PCR 7: nothing new",
        "JOB: PCR 9: nothing new",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    for line in ["JOB: not installed", "taken to be", "cannot be foreseen"] {
        assert!(!said.contains(line), "{line}: {said}");
    }

    // Alone, by the new kernel; and a service drops what is over. Then somebody who has the disk puts the old
    // kernel and initramfs back, as signed as ever.
    let after = format!(
        "{JOB}
echo \"JOB: alone, by $(uname -r)\"
until systemctl is-active luksmith-good-boot.service; do
	systemctl is-failed luksmith-good-boot.service && break
	sleep 1
done
luksmith tpm update --only-drop | sed 's/^/JOB: after: /'
mount /boot && mv /boot/grub/before.cfg /boot/grub/grub.cfg
systemctl --no-block poweroff
"
    );
    let said = boot(&after).until_off();
    assert!(said.contains("JOB: alone, by "), "{said}");
    assert!(!said.contains(&format!("JOB: alone, by {old}")), "{said}");
    assert!(
        said.contains("JOB: after: The policy has no other values"),
        "{said}"
    );

    // Which opened the machine before, and nobody foresaw.
    let mut machine = boot("");
    machine.expect("PCR 4+9 have values that the pcrlock policy does not foresee");
    machine.expect("Passphrase for root");
}
