//! Damage in every place: refused, or read as something else, and never a panic.
//!
//! `LUKSMITH_FUZZ_SEED` and `LUKSMITH_FUZZ_ROUNDS` choose other input, as in `smoke.rs`.

use luksmith_tpm::HashAlg;
use luksmith_tpm::log::{EventLog, Remembered};

#[path = "../entries/log.rs"]
mod entries;

use crate::writer::{IPL, VARIABLE, agile, old, record, userspace, variable};
use crate::{DIRECT, GRUB, grub};

/// A short log with one bank, so that every place of it can be damaged.
fn short() -> Vec<u8> {
    let value = variable("61dfe48bca93d211aa0d00e098032b8c", "Boot0001", &[1; 40]);
    agile(
        &[HashAlg::Sha256],
        &[
            record(8, IPL, b"grub_cmd: boot\0"),
            record(1, VARIABLE, &value),
        ],
    )
}

fn remembered() -> Remembered {
    let log = EventLog::parse(&short()).unwrap();
    Remembered::new(&log, &log.replay(HashAlg::Sha256).unwrap()).unwrap()
}

fn short_old() -> Vec<u8> {
    old(&[record(8, IPL, b"text"), record(8, IPL, b"")])
}

#[test]
fn a_log_that_ends_anywhere_is_refused_or_ends_with_a_record() {
    for whole in [short(), short_old(), GRUB.to_vec(), DIRECT.to_vec()] {
        let events = EventLog::parse(&whole).unwrap().events().len();
        let mut read = 0;
        for len in 0..whole.len() {
            if let Ok(log) = EventLog::parse(&whole[..len]) {
                assert!(log.events().len() < events);
                read += 1;
            }
        }
        // After each record, and where the rest of a record is zeros.
        assert!(read < events * 12, "{read} of {}", whole.len());
    }
    let text = userspace(&[(11, "phase", "a")]);
    for len in 1..text.len() {
        let mut log = grub();
        assert!(log.add_userspace(&text[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn any_bit_of_a_log_may_be_wrong() {
    for whole in [short(), short_old()] {
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            entries::any(&bytes);
        }
    }
    let text = userspace(&[(11, "phase", "a")]);
    for bit in 0..text.len() * 8 {
        let mut bytes = text.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        entries::any(&bytes);
    }
    // Of a real one the bits are too many for all that can be done with it.
    for bit in 0..DIRECT.len() * 8 {
        let mut bytes = DIRECT.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(log) = EventLog::parse(&bytes) {
            let events = log.events().iter();
            let _ = events.map(|event| event.text().len()).sum::<usize>();
        }
    }
}

/// Numbers that depend on the seed alone (splitmix64).
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z % limit.max(1) as u64).expect("below a usize")
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn any_bytes_are_refused_or_read() {
    let seed = number("LUKSMITH_FUZZ_SEED", 20_261_122);
    let image = [
        b"MZ".as_slice(),
        &[0; 58],
        &[0x40, 0, 0, 0],
        b"PE\0\0",
        &[2; 400],
    ]
    .concat();
    let systemd = userspace(&[(11, "phase", "a"), (15, "volume-key", "b")]);
    let remembered = remembered().to_json().to_string().into_bytes();
    let seeds = [
        short(),
        short_old(),
        DIRECT.to_vec(),
        GRUB.to_vec(),
        systemd,
        image,
        remembered,
    ];
    for round in 0..number("LUKSMITH_FUZZ_ROUNDS", 3000) {
        let mut random = Seeded(seed ^ round.wrapping_mul(0xd134_2543_de82_ef95));
        // The long ones less often: they take their time.
        let which = [0, 0, 0, 1, 1, 2, 3, 4, 4, 5, 6][random.below(11)];
        let mut bytes = seeds[which].clone();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            match random.below(6) {
                0 => bytes[at] = [0, 0xFF, 0x7F, 0x80, 1][random.below(5)],
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes.truncate(at.max(1)),
                3 => bytes.insert(at, u8::try_from(random.below(256)).unwrap()),
                4 => {
                    let end = (at + random.below(64)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ if bytes.len() > 1 => {
                    bytes.remove(at);
                }
                _ => {}
            }
        }
        let outcome = std::panic::catch_unwind(|| entries::any(&bytes));
        assert!(
            outcome.is_ok(),
            "seed {seed}, round {round}, input {}",
            hex::encode(&bytes)
        );
    }
}
