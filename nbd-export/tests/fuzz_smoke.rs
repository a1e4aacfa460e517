//! The fuzz targets for a second with seeded input: mutated conversations of real clients.

#[path = "entries/mod.rs"]
mod entries;

/// Small, good enough, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn request(kind: u16, start: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(0u16.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(start.wrapping_mul(7).to_be_bytes());
    bytes.extend(start.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    if kind == 1 {
        bytes.resize(bytes.len() + len as usize, 0xda);
    }
    bytes
}

/// Something that a client says, more or less.
fn conversation(dice: &mut Dice) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..4).map(|_| dice.below(256) as u8).collect();
    bytes.extend((dice.below(4) as u32).to_be_bytes());
    for _ in 0..dice.below(5) {
        let data: Vec<u8> = (0..dice.below(40)).map(|_| dice.below(256) as u8).collect();
        bytes.extend(option(
            [2, 3, 5, 6, 7, 8, 9, 10, 99][1 + dice.below(8)],
            &data,
        ));
    }
    if dice.below(2) == 0 {
        bytes.extend(option(8, &[]));
        bytes.extend(option(7, &[0, 0, 0, 3, b'v', b'o', b'l', 0, 1, 0, 3]));
    } else {
        bytes.extend(option(1, b""));
    }
    for _ in 0..dice.below(20) {
        let len = [0, 512, 4096, 8192, 513][dice.below(5)];
        let start = [0, 512, 4096, 1 << 20, u64::MAX - 511][dice.below(5)];
        bytes.extend(request(dice.below(9) as u16, start, len));
    }
    bytes
}

#[test]
fn any_client_gets_answers_that_keep_the_protocol() {
    let mut dice = Dice(0x6e62_6430);
    println!("seed {:#x}", dice.0);
    for round in 0..20_000 {
        let mut bytes = conversation(&mut dice);
        for _ in 0..dice.below(4) {
            let at = dice.below(bytes.len());
            match dice.below(4) {
                0 => bytes[at] = dice.below(256) as u8,
                1 => bytes.truncate(at.max(4)),
                2 => bytes[at] ^= 1 << dice.below(8),
                _ => drop(bytes.remove(at)),
            }
        }
        let run = std::panic::catch_unwind(|| entries::conversation(&bytes));
        assert!(
            run.is_ok(),
            "round {round}: {}",
            hex::encode(&bytes[..bytes.len().min(400)])
        );
    }
}

#[test]
fn real_conversations_reach_the_requests() {
    // else the mutations above would only ever knock at the door
    let limits = luksmith_data_path::Limits {
        len: 1 << 20,
        block: 512,
        max_io: 256 << 10,
        read_only: false,
        discard: true,
    };
    let mut dice = Dice(1);
    let mut reached = 0;
    for _ in 0..200 {
        let bytes = conversation(&mut dice);
        let magic = 0x2560_9513u32.to_be_bytes();
        if let Some(at) = bytes.windows(4).position(|window| window == magic) {
            entries::requests(&bytes[at..], &limits);
            reached += 1;
        }
    }
    assert!(reached > 100, "{reached}");
}
