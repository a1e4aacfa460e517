//! The function that fuzzing of event logs calls; `cargo test` calls the same with damaged logs (see
//! `measured/damaged.rs`).

use luksmith_tpm::HashAlg;
use luksmith_tpm::log::{
    EventLog, MAX_TEXT_CHARS, Next, Remembered, authenticode_digest, predict, why,
};

/// Any bytes as each of the things that are read. Panics only if a promise of the crate is broken.
pub(crate) fn any(data: &[u8]) {
    if let Ok(mut log) = EventLog::parse(data) {
        let _ = log.add_userspace(data);
        read(&log);
    }
    let mut log = EventLog::parse(EMPTY).expect("a log");
    if log.add_userspace(data).is_ok() {
        read(&log);
    }
    let _ = authenticode_digest(HashAlg::Sha256, data);
    if let Ok(json) = serde_json::from_slice(data)
        && let Ok(remembered) = Remembered::from_json(&json)
    {
        comes_back(&remembered);
    }
}

/// A header with the bank of SHA-256, and no event.
const EMPTY: &[u8] = b"\0\0\0\0\x03\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x21\0\0\0\
    Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0b\0\x20\0\0";

/// All that can be done with a log, with what must hold of it.
fn read(log: &EventLog) {
    assert!(!log.banks().is_empty());
    for event in log.events() {
        let text = event.text();
        assert!(text.chars().count() <= MAX_TEXT_CHARS);
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    for bank in log.banks() {
        let Ok(values) = log.replay(*bank) else {
            continue;
        };
        assert_eq!(
            predict(log, &values, |_| Next::Same).as_ref(),
            Ok(&values),
            "a log explains its own replay"
        );
        comes_back(&Remembered::new(log, &values).expect("all PCRs"));
    }
}

fn comes_back(remembered: &Remembered) {
    let read = Remembered::from_json(&remembered.to_json());
    assert_eq!(read.as_ref(), Ok(remembered));
    let pcrs: Vec<u8> = (0..24)
        .filter(|pcr| remembered.values().get(*pcr).is_some())
        .collect();
    assert_eq!(why(remembered, remembered, &pcrs), Ok(vec![]));
    // All else than nothing.
    let nothing = EventLog::parse(EMPTY).expect("a log");
    let zero = nothing.replay(HashAlg::Sha256).expect("its bank");
    let nothing = Remembered::new(&nothing, &zero).expect("all PCRs");
    for (was, now) in [(&nothing, remembered), (remembered, &nothing)] {
        for change in why(was, now, &pcrs).unwrap_or_default() {
            assert!(!change.to_string().chars().any(char::is_control));
        }
    }
}
