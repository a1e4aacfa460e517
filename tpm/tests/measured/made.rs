//! The formats, strictly.

use luksmith_tpm::HashAlg;
use luksmith_tpm::log::{EventKind, EventLog, EventType, LogError, measure};

use crate::writer::{
    IPL, NO_ACTION, SEPARATOR, VERSION, agile, agile_record, header, old, record, userspace,
};
use crate::{GRUB, grub};

const BOTH: [HashAlg; 2] = [HashAlg::Sha1, HashAlg::Sha256];

fn fails(bytes: &[u8], expected: &str) {
    match EventLog::parse(bytes) {
        Err(LogError::Malformed { what, .. }) => assert_eq!(what, expected),
        other => panic!("{other:?}"),
    }
}

fn extend(bank: HashAlg, value: &[u8], content: &[u8]) -> Vec<u8> {
    measure(bank, &[value, &measure(bank, content)].concat())
}

#[test]
fn an_old_log_has_the_bank_of_sha1() {
    let log = EventLog::parse(&old(&[
        record(0, VERSION, b"1"),
        record(4, SEPARATOR, &[0; 4]),
    ]));
    let log = log.unwrap();
    assert_eq!(log.banks(), [HashAlg::Sha1]);
    let replayed = log.replay(HashAlg::Sha1).unwrap();
    let expected = extend(HashAlg::Sha1, &[0; 20], &[0; 4]);
    assert_eq!(replayed.get(4), Some(expected.as_slice()));
    let bank = HashAlg::Sha256;
    assert_eq!(log.replay(bank), Err(LogError::NoSuchBank { bank }));
}

#[test]
fn pcr_0_starts_with_the_locality_of_the_startup() {
    let log = agile(
        &BOTH,
        &[
            record(0, NO_ACTION, b"StartupLocality\0\x03"),
            record(0, VERSION, b"1"),
        ],
    );
    let replayed = EventLog::parse(&log).unwrap().replay(HashAlg::Sha256);
    let mut start = [0; 32];
    start[31] = 3;
    let expected = extend(HashAlg::Sha256, &start, b"1");
    assert_eq!(replayed.unwrap().get(0), Some(expected.as_slice()));

    let five = record(0, NO_ACTION, b"StartupLocality\0\x05");
    fails(&agile(&BOTH, &[five]), "startup locality");
    let long = record(0, NO_ACTION, b"StartupLocality\0\x03\0");
    fails(&agile(&BOTH, &[long]), "startup locality");
    let three = record(0, NO_ACTION, b"StartupLocality\0\x03");
    let four = record(0, NO_ACTION, b"StartupLocality\0\x04");
    fails(&agile(&BOTH, &[three, four]), "startup locality");
}

#[test]
fn zeros_behind_the_last_record_are_not_minded_and_nothing_else_is_let_pass() {
    for zeros in [1, 3, 32, 4096] {
        let padded = [GRUB, &vec![0; zeros]].concat();
        assert_eq!(EventLog::parse(&padded).unwrap(), grub());
    }
    fails(&[GRUB, &[0, 0, 1]].concat(), "PCR number");
    fails(&[GRUB, &[0; 64], &[1]].concat(), "number of digests");
    fails(b"", "PCR number");
    assert_eq!(EventLog::parse(&vec![0; 9 << 20]), Err(LogError::TooLong));
}

#[test]
fn a_note_extends_nothing_and_may_name_another_place_than_a_pcr() {
    let note = record(0x01C1_0001, NO_ACTION, b"NvIndexInstance\0");
    let log = EventLog::parse(&agile(&BOTH, &[note])).unwrap();
    assert_eq!(log.events(), []);
    let log = EventLog::parse(&agile(&BOTH, &[record(7, NO_ACTION, b"note")])).unwrap();
    assert!(!log.events()[0].extends());
    let replayed = log.replay(HashAlg::Sha256).unwrap();
    assert_eq!(replayed.get(7), Some(&[0; 32][..]));
    fails(&agile(&BOTH, &[record(24, IPL, b"x")]), "PCR number");
}

#[test]
fn digests_are_those_of_the_header_each_once() {
    let one = record(8, IPL, b"x");
    let sha1 = (4, vec![1; 20]);
    let sha256 = (11, vec![2; 32]);
    let sm3 = (0x12, vec![3; 32]);
    let start = header(&[(4, 20), (11, 32), (0x12, 32)]);
    let with = |digests: &[(u16, Vec<u8>)]| [start.clone(), agile_record(&one, digests)].concat();

    let log = EventLog::parse(&with(&[sha1.clone(), sha256.clone(), sm3.clone()])).unwrap();
    assert_eq!(log.banks(), BOTH, "the third is not known here");
    let event = &log.events()[0];
    assert_eq!(event.digest(HashAlg::Sha256), Some(&[2; 32][..]));
    assert_eq!(event.digest(HashAlg::Sha384), None);
    assert_eq!(event.kind, EventKind::Tcg(EventType::IPL));
    assert_eq!(event.kind.to_string(), "EV_IPL");

    // A bank that the firmware left out of one event cannot be replayed.
    let log = EventLog::parse(&with(std::slice::from_ref(&sha256))).unwrap();
    assert!(log.replay(HashAlg::Sha256).is_ok());
    let bank = HashAlg::Sha1;
    assert_eq!(log.replay(bank), Err(LogError::NoSuchBank { bank }));

    fails(&with(&[]), "number of digests");
    fails(&with(&[sha1.clone(), sha1.clone()]), "digest");
    fails(&with(&[(12, vec![0; 48])]), "digest");
    let four = [sha1.clone(), sha256, sm3, sha1];
    fails(&with(&four), "number of digests");
}

#[test]
fn a_header_that_cannot_be_is_refused() {
    fails(&header(&[]), "header");
    fails(&header(&[(11, 20)]), "header");
    fails(&header(&[(11, 32), (11, 32)]), "header");
    fails(&header(&[(0x12, 65)]), "header");
    fails(&header(&[(0x12, 32)]), "header without a known bank");
    fails(&header(&[(0x12, 32); 17]), "header");
}

#[test]
fn what_systemd_measured_comes_after_the_firmware() {
    let mut log = grub();
    let before = log.events().len();
    let text = userspace(&[(11, "phase", "enter-initrd"), (15, "machine-id", "m")]);
    log.add_userspace(&text).unwrap();
    let added = &log.events()[before..];
    assert_eq!(added.len(), 2);
    assert_eq!(added[0].kind, EventKind::Userspace("phase".to_owned()));
    assert_eq!(added[0].text(), "enter-initrd");
    let replayed = log.replay(HashAlg::Sha256).unwrap();
    let expected = extend(HashAlg::Sha256, &[0; 32], b"enter-initrd");
    assert_eq!(replayed.get(11), Some(expected.as_slice()));
    // It has only the banks that systemd measured into.
    let bank = HashAlg::Sha1;
    assert_eq!(log.replay(bank), Err(LogError::NoSuchBank { bank }));
}

#[test]
fn a_damaged_log_of_systemd_is_refused_and_adds_nothing() {
    let good = userspace(&[(11, "phase", "a"), (11, "phase", "b")]);
    let digest = "00".repeat(32);
    let one = |text: &str| format!("\u{1e}{text}\n").into_bytes();
    let sha256 = format!("{{\"hashAlg\":\"sha256\",\"digest\":\"{digest}\"}}");
    let bad = [
        good[1..].to_vec(),
        [b" ", &good[1..]].concat(),
        good[..good.len() - 1].to_vec(),
        [good.as_slice(), b"\n"].concat(),
        one("[]"),
        one("{\"pcr\":24,\"digests\":[]}"),
        one("{\"pcr\":-1,\"digests\":[]}"),
        one("{\"pcr\":11}"),
        one("{\"pcr\":11,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\"00\"}]}"),
        one("{\"pcr\":11,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\"0g\"}]}"),
        one(&format!("{{\"pcr\":11,\"digests\":[{sha256},{sha256}]}}")),
    ];
    for bad in bad {
        let mut log = grub();
        let refused = log.add_userspace(&bad);
        assert!(
            matches!(refused, Err(LogError::Malformed { .. })),
            "{refused:?} {}",
            String::from_utf8_lossy(&bad)
        );
        assert_eq!(log, grub());
    }
    let mut log = grub();
    log.add_userspace(b"").unwrap();
    // One for an NV index, and one of a bank that is not known here.
    log.add_userspace(&one("{\"nv_index\":1}")).unwrap();
    assert_eq!(log, grub());
    log.add_userspace(&one(
        "{\"pcr\":11,\"digests\":[{\"hashAlg\":\"sm3\",\"digest\":\"00\"}]}",
    ))
    .unwrap();
    assert!(log.replay(HashAlg::Sha256).is_err());
}
