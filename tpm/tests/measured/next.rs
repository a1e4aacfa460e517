//! The values of the next boot, against those of a next boot.

use luksmith_tpm::log::{
    Event, EventLog, LogError, Next, load_options_digest, measure, predict,
    systemd_command_line_digest,
};
use luksmith_tpm::{HashAlg, PcrValues};

use crate::writer::{IPL, agile, of_content};
use crate::{
    DIRECT_NEXT, DIRECT_PCRS, GRUB_KERNEL, GRUB_NEXT, GRUB_PCRS, direct, grub, held, only,
};

/// Of the initrd of the next boot.
const NEXT_INITRD: &str = "b3daaf9b47a953a0fd551ed27386cb1b21eacdd843aad0a3189620c91e2bb5eb";
/// Authenticode digests of the kernel, and of that of another next boot, with the latter's SHA-256.
const KERNEL: &str = "9a7cfc14a8476af91537d2b625fc2044c43e79da01765fd033f8acbc42710b7f";
const NEXT_KERNEL: &str = "eec071b66b42a32e737d8997dd8652e4f61b5e7042d33dc9099ed89b22cdbc8d";
const NEXT_KERNEL_FILE: &str = "2b2358b37674d2505350528875bb17afae2a36522a9e8a9417eaca65a7da0e08";
const NEXT_CFG: &[u8] = b"set timeout=0
linux /vmlinuz console=ttyS0 quiet panic=-1 debug
initrd /initrd
boot
";
const BANK: HashAlg = HashAlg::Sha256;

#[test]
fn a_new_initrd_and_command_line_by_grub_lead_to_what_the_tpm_then_held() {
    let actual = held(GRUB_PCRS, BANK, &[4, 8, 9]);
    let next = predict(&grub(), &actual, |event| {
        let text = event.text();
        let digest = match (event.pcr, text.as_str()) {
            (9, "/initrd") => Some(hex::decode(NEXT_INITRD).unwrap()),
            (9, "(hd0,msdos1)/EFI/debian/grub.cfg") => Some(measure(BANK, NEXT_CFG)),
            (8, text)
                if text.starts_with("grub_cmd: linux ") || text.starts_with("kernel_cmdline: ") =>
            {
                let line = event.grub_command().unwrap();
                Some(measure(BANK, format!("{line} debug").as_bytes()))
            }
            _ => None,
        };
        digest.into()
    });
    assert_eq!(next.unwrap(), held(GRUB_NEXT, BANK, &[4, 8, 9]));
}

#[test]
fn a_new_kernel_by_grub_leads_to_what_the_tpm_then_held() {
    let of = |text| hex::decode(text).unwrap();
    let mut started = 0;
    let actual = held(GRUB_PCRS, BANK, &[4, 8, 9]);
    let next = predict(&grub(), &actual, |event| {
        if event.pcr == 4 && event.digest(BANK) == Some(of(KERNEL).as_slice()) {
            assert_eq!(event.text(), "", "nobody says which file it is");
            started += 1;
            Next::Digest(of(NEXT_KERNEL))
        } else if event.pcr == 9 && event.text() == "/vmlinuz" {
            Next::Digest(of(NEXT_KERNEL_FILE))
        } else {
            Next::Same
        }
    });
    assert_eq!(next.unwrap(), held(GRUB_KERNEL, BANK, &[4, 8, 9]));
    assert_eq!(started, 2, "GRUB asks shim, and both measure");
}

#[test]
fn a_new_initrd_and_command_line_by_the_kernel_alone_lead_to_what_the_tpm_then_held() {
    let actual = held(DIRECT_PCRS, BANK, &[9]);
    let next = predict(&direct(), &actual, |event| {
        match event.text().as_str() {
            "LOADED_IMAGE::LoadOptions" => {
                let line = "console=ttyS0 quiet panic=-1";
                let of = |line: &str| load_options_digest(BANK, line);
                // OVMF adds the last word.
                let now = of(&format!("{line} initrd=initrd"));
                assert_eq!(event.digest(BANK).unwrap(), now);
                Next::Digest(of(&format!("{line} debug initrd=initrd")))
            }
            "Linux initrd" => Next::Digest(hex::decode(NEXT_INITRD).unwrap()),
            _ => Next::Same,
        }
    });
    assert_eq!(next.unwrap(), held(DIRECT_NEXT, BANK, &[9]));
}

#[test]
fn nothing_new_gives_what_is_there() {
    let pcrs: Vec<u8> = (0..24).filter(|pcr| *pcr != 10).collect();
    let actual = held(GRUB_PCRS, BANK, &pcrs);
    let next = predict(&grub(), &actual, |_| Next::Same).unwrap();
    assert_eq!(next, actual);
}

#[test]
fn an_event_that_does_not_come_is_left_out() {
    let log = grub();
    let mut more = log.clone();
    let phases = crate::writer::userspace(&[(11, "phase", "enter-initrd"), (11, "phase", "ready")]);
    more.add_userspace(&phases).unwrap();
    let actual = only(&more.replay(BANK).unwrap(), &[11]);
    let after_initrd = |event: &Event| match event.text().as_str() {
        "ready" => Next::Absent,
        _ => Next::Same,
    };
    let mut until = log;
    let phases = crate::writer::userspace(&[(11, "phase", "enter-initrd")]);
    until.add_userspace(&phases).unwrap();
    assert_eq!(
        predict(&more, &actual, after_initrd).unwrap(),
        only(&until.replay(BANK).unwrap(), &[11])
    );
}

#[test]
fn nothing_is_predicted_from_a_log_that_does_not_explain_the_present() {
    let same = |log: &EventLog, actual: &PcrValues| predict(log, actual, |_| Next::Same);
    let actual = held(GRUB_PCRS, BANK, &[7, 10]);
    assert_eq!(
        same(&grub(), &actual),
        Err(LogError::Unexplained { pcr: 10 })
    );
    let mut actual = held(GRUB_PCRS, BANK, &[7]);
    actual.insert(7, &[1; 32]).unwrap();
    assert_eq!(
        same(&grub(), &actual),
        Err(LogError::Unexplained { pcr: 7 })
    );
}

#[test]
fn an_untouched_pcr_stays_as_its_platform_has_it() {
    for value in [[0; 32], [0xFF; 32]] {
        let mut actual = PcrValues::new(BANK);
        actual.insert(17, &value).unwrap();
        let next = predict(&grub(), &actual, |_| Next::Same);
        assert_eq!(next.unwrap(), actual);
    }
}

#[test]
fn a_digest_of_another_bank_is_refused() {
    let actual = held(GRUB_PCRS, BANK, &[9]);
    let next = predict(&grub(), &actual, |_| Next::Digest(vec![0; 20]));
    assert_eq!(next, Err(LogError::OtherBank { bank: BANK }));
}

#[test]
fn a_command_line_by_systemd_has_no_zero_at_its_end() {
    let wide = crate::writer::wide("quiet");
    assert_eq!(
        systemd_command_line_digest(BANK, "quiet"),
        measure(BANK, &wide)
    );
    let with_zero = [wide, vec![0, 0]].concat();
    assert_eq!(
        load_options_digest(BANK, "quiet"),
        measure(BANK, &with_zero)
    );
}

#[test]
fn a_command_of_grub_is_given_in_full_and_only_if_it_was_measured() {
    let log = grub();
    let commands = log.events().iter().filter(|event| event.pcr == 8);
    assert!(commands.clone().all(|event| event.grub_command().is_some()));
    let others = log.events().iter().filter(|event| event.pcr != 8);
    assert!(others.clone().all(|event| event.grub_command().is_none()));

    let line = "x".repeat(1000);
    let shown = format!("kernel_cmdline: {line}\0");
    let of = |content: &str| of_content(8, IPL, content.as_bytes(), shown.as_bytes());
    let log = EventLog::parse(&agile(&[BANK], &[of(&line), of("other")])).unwrap();
    assert_eq!(log.events()[0].grub_command(), Some(line.as_str()));
    assert_eq!(log.events()[1].grub_command(), None);
}
