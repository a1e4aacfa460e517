//! A TPM that is extended by what a log says holds what a replay gives.

use luksmith_tpm::log::{EventLog, Standing};
use luksmith_tpm::{HashAlg, Native, PCRS, PcrSelection, Tpm};

use crate::grub;
use crate::support::{Swtpm, raw};
use crate::writer::{ACTION, IPL, SEPARATOR, VERSION, agile, record, userspace};

/// `TPM2_PCR_Extend` in all banks that the event has.
fn extend(swtpm: &Swtpm, log: &EventLog) {
    let mut stream = swtpm.connect();
    for event in log.events().iter().filter(|event| event.extends()) {
        let digests: Vec<String> = HashAlg::ALL
            .into_iter()
            .filter_map(|bank| {
                let digest = hex::encode(event.digest(bank)?);
                Some(format!("{:04x}{digest}", bank.id()))
            })
            .collect();
        // The handle, an empty password, and the digests.
        let body = format!(
            "{:08x}00000009400000090000000000{:08x}{}",
            event.pcr,
            digests.len(),
            digests.concat()
        );
        let len = 10 + body.len() / 2;
        let answer = raw(&mut stream, &format!("8002{len:08x}00000182{body}"));
        assert_eq!(answer[6..10], [0; 4]);
    }
}

fn compare(log: &EventLog, banks: &[HashAlg]) {
    let swtpm = Swtpm::new();
    extend(&swtpm, log);
    let mut tpm = Native::over(swtpm.connect());
    let all: Vec<u8> = (0..PCRS).collect();
    for bank in banks {
        let selection = PcrSelection::new(*bank, &all).unwrap();
        let actual = tpm.read_pcrs(&selection).unwrap();
        assert_eq!(log.replay(*bank).unwrap(), actual, "{}", bank.name());
        let standing = log.explain(&actual).unwrap();
        assert!(standing.values().all(|one| *one != Standing::Unexplained));
    }
}

#[test]
fn a_tpm_with_the_events_of_a_real_boot_holds_what_the_replay_gives() {
    let banks = Native::over(Swtpm::new().connect()).banks().unwrap();
    assert!(banks.contains(&HashAlg::Sha256));
    compare(&grub(), &banks);
}

#[test]
fn a_tpm_with_made_events_of_firmware_and_systemd_does_too() {
    let banks = [HashAlg::Sha256];
    let mut log = EventLog::parse(&agile(
        &banks,
        &[
            record(0, VERSION, b"1.0"),
            record(4, ACTION, b"Calling EFI Application from Boot Option"),
            record(4, SEPARATOR, &[0; 4]),
            record(8, IPL, b"grub_cmd: boot"),
            record(23, IPL, b"ours"),
        ],
    ))
    .unwrap();
    log.add_userspace(&userspace(&[
        (11, "phase", "enter-initrd"),
        (15, "volume-key", "cryptsetup:root:uuid"),
    ]))
    .unwrap();
    compare(&log, &banks);
}
