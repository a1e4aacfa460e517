//! Event logs: those of real boots, made ones, damaged ones.

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../support/mod.rs"]
mod support;

mod damaged;
mod forecast;
mod images;
mod made;
mod next;
mod real;
mod reasons;
mod swtpm;
mod writer;

use luksmith_tpm::log::EventLog;
use luksmith_tpm::{HashAlg, PcrValues};

const GRUB: &[u8] = include_bytes!("../logs/grub.log");
const GRUB_PCRS: &str = include_str!("../logs/grub.pcrs");
const GRUB_NEXT: &str = include_str!("../logs/grub-next.pcrs");
const GRUB_KERNEL: &str = include_str!("../logs/grub-kernel.pcrs");
const DIRECT: &[u8] = include_bytes!("../logs/direct.log");
const DIRECT_PCRS: &str = include_str!("../logs/direct.pcrs");
const DIRECT_NEXT: &str = include_str!("../logs/direct-next.pcrs");

/// The log of a boot through shim and GRUB with Secure Boot.
fn grub() -> EventLog {
    EventLog::parse(GRUB).unwrap()
}

/// The log of a boot without boot loader and Secure Boot.
fn direct() -> EventLog {
    EventLog::parse(DIRECT).unwrap()
}

/// What a TPM held, as far as one of these is asked for.
fn held(text: &str, bank: HashAlg, pcrs: &[u8]) -> PcrValues {
    let mut values = PcrValues::new(bank);
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let pcr = words[1].parse().unwrap();
        if words[0] == bank.name() && pcrs.contains(&pcr) {
            values.insert(pcr, &hex::decode(words[2]).unwrap()).unwrap();
        }
    }
    assert_eq!(values.selection().unwrap().pcrs().count(), pcrs.len());
    values
}

/// The same values, fewer PCRs.
fn only(values: &PcrValues, pcrs: &[u8]) -> PcrValues {
    let mut some = PcrValues::new(values.selection().unwrap().bank());
    for pcr in pcrs {
        some.insert(*pcr, values.get(*pcr).unwrap()).unwrap();
    }
    some
}
