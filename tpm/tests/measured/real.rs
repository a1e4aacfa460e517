//! Logs of real boots lead to what the TPM held, and say what happened.

use luksmith_tpm::log::{Event, EventKind, Standing};
use luksmith_tpm::{HashAlg, PCRS, PcrValues};

use crate::{DIRECT_PCRS, GRUB_PCRS, direct, grub, held};

fn all() -> Vec<u8> {
    (0..PCRS).collect()
}

#[test]
fn a_replay_gives_what_the_tpm_held() {
    for (log, pcrs) in [(grub(), GRUB_PCRS), (direct(), DIRECT_PCRS)] {
        assert_eq!(log.banks(), HashAlg::ALL);
        for bank in [HashAlg::Sha1, HashAlg::Sha256] {
            let actual = held(pcrs, bank, &all());
            let replayed = log.replay(bank).unwrap();
            for pcr in (0..PCRS).filter(|pcr| *pcr != 10) {
                assert_eq!(replayed.get(pcr), actual.get(pcr), "PCR {pcr}");
            }
        }
    }
}

#[test]
fn it_is_told_which_pcrs_the_log_explains() {
    let actual = held(GRUB_PCRS, HashAlg::Sha256, &all());
    let standing = grub().explain(&actual).unwrap();
    for (pcr, standing) in standing {
        let expected = match pcr {
            0..=9 | 14 => Standing::Explained,
            // The kernel's own measurements, which have another log.
            10 => Standing::Unexplained,
            _ => Standing::Untouched,
        };
        assert_eq!(standing, expected, "PCR {pcr}");
    }
}

#[test]
fn a_value_that_nobody_logged_is_not_explained() {
    let mut actual = PcrValues::new(HashAlg::Sha256);
    actual.insert(7, &[1; 32]).unwrap();
    actual.insert(16, &[1; 32]).unwrap();
    // Ones are a start for PCRs 17 to 22 only.
    actual.insert(23, &[0xFF; 32]).unwrap();
    let standing = grub().explain(&actual).unwrap();
    assert!(standing.values().all(|one| *one == Standing::Unexplained));
}

fn lines(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| format!("{} {} {}", event.pcr, event.kind, event.text());
    events.iter().map(line).collect()
}

#[test]
fn the_events_of_a_boot_through_grub_can_be_read() {
    let log = grub();
    assert_eq!(
        lines(log.events()),
        [
            "0 EV_S_CRTM_VERSION ",
            "0 EV_EFI_PLATFORM_FIRMWARE_BLOB ",
            "0 EV_EFI_PLATFORM_FIRMWARE_BLOB ",
            "7 EV_EFI_VARIABLE_DRIVER_CONFIG SecureBoot=on",
            "7 EV_EFI_VARIABLE_DRIVER_CONFIG PK",
            "7 EV_EFI_VARIABLE_DRIVER_CONFIG KEK",
            "7 EV_EFI_VARIABLE_DRIVER_CONFIG db",
            "7 EV_EFI_VARIABLE_DRIVER_CONFIG dbx",
            "7 EV_SEPARATOR ",
            "1 EV_EFI_VARIABLE_BOOT BootOrder=0001,0000,0002",
            "1 EV_EFI_VARIABLE_BOOT Boot0001 UEFI Misc Device PCI device 01.0",
            "1 EV_EFI_VARIABLE_BOOT Boot0000 UiApp firmware file 462caa21-7614-4503-836e-8ab6f4662331",
            "1 EV_EFI_VARIABLE_BOOT Boot0002 EFI Internal Shell firmware file 7c04a583-9e3e-4f1c-ad65-e05268d0b4d1",
            "4 EV_EFI_ACTION Calling EFI Application from Boot Option",
            "0 EV_SEPARATOR ",
            "1 EV_SEPARATOR ",
            "2 EV_SEPARATOR ",
            "3 EV_SEPARATOR ",
            "4 EV_SEPARATOR ",
            "5 EV_SEPARATOR ",
            "6 EV_SEPARATOR ",
            "7 EV_EFI_VARIABLE_AUTHORITY db: Microsoft Corporation UEFI CA 2011",
            "4 EV_EFI_BOOT_SERVICES_APPLICATION \\EFI\\BOOT\\BOOTX64.EFI",
            "14 EV_IPL MokList",
            "14 EV_IPL MokListX",
            "7 EV_EFI_VARIABLE_AUTHORITY SbatLevel: sbat,1,2025021800 shim,4 grub,5",
            "14 EV_IPL MokListTrusted",
            "7 EV_EFI_VARIABLE_AUTHORITY MokListRT: Debian Secure Boot CA",
            "4 EV_EFI_BOOT_SERVICES_APPLICATION \\EFI\\BOOT\\grubx64.efi",
            "8 EV_IPL grub_cmd: [ -z (hd0,msdos1)/EFI/debian -o ! -e (hd0,msdos1)/EFI/debian ]",
            "8 EV_IPL grub_cmd: [ -e (hd0,msdos1)/EFI/debian/x86_64-efi/grub.cfg ]",
            "8 EV_IPL grub_cmd: [ -e (hd0,msdos1)/EFI/debian/grub.cfg ]",
            "8 EV_IPL grub_cmd: source (hd0,msdos1)/EFI/debian/grub.cfg",
            "9 EV_IPL (hd0,msdos1)/EFI/debian/grub.cfg",
            "8 EV_IPL grub_cmd: set timeout=0",
            "8 EV_IPL grub_cmd: linux /vmlinuz console=ttyS0 quiet panic=-1",
            "9 EV_IPL /vmlinuz",
            "4 EV_EFI_BOOT_SERVICES_APPLICATION ",
            "4 EV_EFI_BOOT_SERVICES_APPLICATION ",
            "8 EV_IPL kernel_cmdline: /vmlinuz console=ttyS0 quiet panic=-1",
            "8 EV_IPL grub_cmd: initrd /initrd",
            "9 EV_IPL /initrd",
            "8 EV_IPL grub_cmd: boot",
            "5 EV_EFI_ACTION Exit Boot Services Invocation",
            "5 EV_EFI_ACTION Exit Boot Services Returned with Success"
        ]
    );
}

#[test]
fn the_events_of_a_boot_of_the_kernel_alone_can_be_read() {
    let log = direct();
    let told: Vec<String> = lines(log.events())
        .into_iter()
        .filter(|line| line.starts_with("4 ") || line.starts_with("9 "))
        .collect();
    assert_eq!(
        told,
        [
            "4 EV_EFI_BOOT_SERVICES_APPLICATION kernel",
            "4 EV_EFI_ACTION Calling EFI Application from Boot Option",
            "4 EV_SEPARATOR ",
            "9 EV_EVENT_TAG LOADED_IMAGE::LoadOptions",
            "9 EV_EVENT_TAG Linux initrd"
        ]
    );
    assert!(
        log.events()
            .iter()
            .all(|event| matches!(event.kind, EventKind::Tcg(_)))
    );
}
