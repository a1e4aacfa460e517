//! AES-XTS over whole requests (IEEE 1619, data units of whole blocks).
//!
//! The rounds are those of the `aes` crate; this is the mode around them. What makes it fast
//! is that it never works sector by sector: the tweaks of up to [`GROUP`] sectors are
//! encrypted in one go, and the data goes through the cipher in batches as wide as the
//! processor's AES unit, across the borders of sectors.

use aes::{Aes128, Aes128Enc, Aes256, Aes256Enc, Block};
use cipher::{
    BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockCipherEncBackend,
    BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, KeyInit, ParBlocks, array::Array,
    consts::U16,
};
use inout::InOutBuf;

use crate::lock;

/// Sectors whose tweaks are encrypted together: as many blocks as the widest backend takes.
const GROUP: usize = 64;

/// Bytes of a cipher block.
const BLOCK: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Encrypt,
    Decrypt,
}

/// Expanded keys of AES-XTS. Lives in locked memory only.
pub(crate) enum Xts {
    Aes128 { data: Aes128, tweak: Aes128Enc },
    Aes256 { data: Aes256, tweak: Aes256Enc },
}

impl Xts {
    /// Expands a key of 32 (AES-128) or 64 (AES-256) bytes; the second half is for the tweak.
    ///
    /// # Panics
    /// For any other length.
    pub(crate) fn new(key: &[u8]) -> Self {
        let (data, tweak) = key.split_at(key.len() / 2);
        let fits = "the caller checked the key length";
        match key.len() {
            32 => Self::Aes128 {
                data: Aes128::new_from_slice(data).expect(fits),
                tweak: Aes128Enc::new_from_slice(tweak).expect(fits),
            },
            64 => Self::Aes256 {
                data: Aes256::new_from_slice(data).expect(fits),
                tweak: Aes256Enc::new_from_slice(tweak).expect(fits),
            },
            len => panic!("an XTS key has 32 or 64 bytes, not {len}"),
        }
    }

    /// Encrypts or decrypts sectors of `sector` bytes, the first with the tweak `first` (little
    /// endian), each further one with `step` more in its lower 64 bits (counting wraps there,
    /// as the kernel's does for plain64).
    ///
    /// # Panics
    /// If `data` is not whole sectors, or a sector not whole blocks.
    pub(crate) fn crypt(
        &self,
        direction: Direction,
        data: InOutBuf<'_, '_, u8>,
        sector: usize,
        first: u128,
        step: u64,
    ) {
        assert!(
            sector > 0 && sector.is_multiple_of(BLOCK),
            "a sector is whole blocks"
        );
        assert!(
            data.len().is_multiple_of(sector),
            "a request is whole sectors"
        );
        self.crypt_checked(direction, data, sector, first, step);
        lock::wipe_cipher_stack();
    }

    /// Its own stack frame, so that what it leaves behind can be wiped.
    #[inline(never)]
    fn crypt_checked(
        &self,
        direction: Direction,
        data: InOutBuf<'_, '_, u8>,
        sector: usize,
        first: u128,
        step: u64,
    ) {
        match self {
            Self::Aes128 {
                data: cipher,
                tweak,
            } => {
                run(cipher, tweak, direction, data, sector, first, step);
            }
            Self::Aes256 {
                data: cipher,
                tweak,
            } => {
                run(cipher, tweak, direction, data, sector, first, step);
            }
        }
    }
}

fn run<C, T>(
    cipher: &C,
    tweak: &T,
    direction: Direction,
    data: InOutBuf<'_, '_, u8>,
    sector: usize,
    first: u128,
    step: u64,
) where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>,
    T: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>,
{
    let (mut rest, odd) = data.into_chunks::<U16>();
    debug_assert!(odd.is_empty(), "whole sectors are whole blocks");
    let per_sector = sector / BLOCK;
    let (upper, mut iv) = (first & !u128::from(u64::MAX), first as u64);
    let mut tweaks = [Block::default(); GROUP];
    while !rest.is_empty() {
        let sectors = (rest.len() / per_sector).min(GROUP);
        let tweaks = &mut tweaks[..sectors];
        for block in &mut *tweaks {
            *block = Array((upper | u128::from(iv)).to_le_bytes());
            iv = iv.wrapping_add(step);
        }
        tweak.encrypt_blocks(tweaks);
        let (blocks, later) = rest.split_at(sectors * per_sector);
        let group = Group {
            blocks,
            masks: Masks::new(tweaks, per_sector),
        };
        match direction {
            Direction::Encrypt => cipher.encrypt_with_backend(group),
            Direction::Decrypt => cipher.decrypt_with_backend(group),
        }
        rest = later;
    }
}

/// The data of up to [`GROUP`] sectors with their encrypted tweaks.
struct Group<'i, 'o, 't> {
    blocks: InOutBuf<'i, 'o, Block>,
    masks: Masks<'t>,
}

impl BlockSizeUser for Group<'_, '_, '_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Group<'_, '_, '_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        self.each_batch::<B>(|batch| backend.encrypt_par_blocks_inplace(batch));
    }
}

impl BlockCipherDecClosure for Group<'_, '_, '_> {
    #[inline(always)]
    fn call<B: BlockCipherDecBackend<BlockSize = U16>>(self, backend: &B) {
        self.each_batch::<B>(|batch| backend.decrypt_par_blocks_inplace(batch));
    }
}

impl Group<'_, '_, '_> {
    /// XOR, rounds, XOR over batches of the backend's width. Inlined into the backend's
    /// function, so that the loops here use the instructions that the rounds use.
    #[inline(always)]
    fn each_batch<B: cipher::ParBlocksSizeUser<BlockSize = U16>>(
        mut self,
        rounds: impl Fn(&mut ParBlocks<B>),
    ) {
        let mut masks = ParBlocks::<B>::default();
        let (chunks, mut tail) = self.blocks.into_chunks::<B::ParBlocksSize>();
        for mut chunk in chunks {
            self.masks.next(&mut masks);
            let mut batch = chunk.clone_in();
            xor(&mut batch, &masks);
            rounds(&mut batch);
            xor(&mut batch, &masks);
            *chunk.get_out() = batch;
        }
        // The last sectors may fill less than a batch: a batch that is partly idle is still
        // faster than blocks one by one.
        let len = tail.len();
        if len > 0 {
            let mut batch = ParBlocks::<B>::default();
            batch[..len].copy_from_slice(tail.get_in());
            self.masks.next(&mut masks[..len]);
            xor(&mut batch, &masks);
            rounds(&mut batch);
            xor(&mut batch, &masks);
            tail.get_out().copy_from_slice(&batch[..len]);
        }
    }
}

#[inline(always)]
fn xor(data: &mut [Block], masks: &[Block]) {
    let data = Array::slice_as_flattened_mut(data).chunks_exact_mut(8);
    let masks = Array::slice_as_flattened(masks).chunks_exact(8);
    for (word, mask) in data.zip(masks) {
        let mixed = word_of(word) ^ word_of(mask);
        word.copy_from_slice(&mixed.to_ne_bytes());
    }
}

#[inline(always)]
fn word_of(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(bytes.try_into().expect("chunks of eight bytes"))
}

/// Masks that are computed side by side: every sector of LUKS2 is a multiple of them.
const LANES: usize = 16;

/// The masks of consecutive blocks: in each sector the encrypted tweak times 1, x, x^2 and so
/// on in GF(2^128), then the same from the next sector's tweak.
///
/// Each mask is `LANES` doublings away from the one as many places before it, so that a vector
/// unit can take all lanes at once instead of waiting for each doubling.
struct Masks<'t> {
    tweaks: std::slice::Iter<'t, Block>,
    per_sector: usize,
    /// Blocks of the current sector that have got no mask yet.
    left: usize,
    /// The lower and upper halves of the current masks.
    lower: [u64; LANES],
    upper: [u64; LANES],
    /// The first of them that was not handed out yet.
    lane: usize,
}

impl<'t> Masks<'t> {
    fn new(tweaks: &'t [Block], per_sector: usize) -> Self {
        Self {
            tweaks: tweaks.iter(),
            per_sector,
            left: 0,
            lower: [0; LANES],
            upper: [0; LANES],
            lane: 0,
        }
    }

    #[inline(always)]
    fn next(&mut self, out: &mut [Block]) {
        let mut groups = out.chunks_exact_mut(LANES);
        if self.lane == 0
            && self.left.is_multiple_of(LANES)
            && self.per_sector.is_multiple_of(LANES)
        {
            for group in &mut groups {
                self.prepare();
                for (block, (lower, upper)) in
                    group.iter_mut().zip(self.lower.iter().zip(&self.upper))
                {
                    block.0[..8].copy_from_slice(&lower.to_le_bytes());
                    block.0[8..].copy_from_slice(&upper.to_le_bytes());
                }
                self.left -= LANES;
            }
            let rest = groups.into_remainder();
            if !rest.is_empty() {
                self.one_by_one(rest);
            }
        } else {
            self.one_by_one(out);
        }
    }

    /// For batches that are no multiple of the lanes.
    fn one_by_one(&mut self, out: &mut [Block]) {
        for block in out {
            if self.lane == 0 || self.left == 0 {
                self.prepare();
                self.lane = 0;
            }
            block.0[..8].copy_from_slice(&self.lower[self.lane].to_le_bytes());
            block.0[8..].copy_from_slice(&self.upper[self.lane].to_le_bytes());
            self.lane = (self.lane + 1) % LANES;
            self.left -= 1;
        }
    }

    /// Computes the next masks of all lanes.
    #[inline(always)]
    fn prepare(&mut self) {
        if self.left == 0 {
            let tweak = self
                .tweaks
                .next()
                .expect("there is a tweak for each sector");
            let tweak = u128::from_le_bytes(tweak.0);
            let (lower, upper) = (tweak as u64, (tweak >> 64) as u64);
            for lane in 0..LANES {
                let by = lane as u32;
                // In two steps, as nothing can be shifted by 64.
                let over = (upper >> 1).wrapping_shr(63 - by);
                self.lower[lane] = lower.wrapping_shl(by) ^ reduced(over);
                self.upper[lane] = upper.wrapping_shl(by) | (lower >> 1).wrapping_shr(63 - by);
            }
            self.left = self.per_sector;
        } else {
            for (lower, upper) in self.lower.iter_mut().zip(&mut self.upper) {
                let over = *upper >> (64 - LANES);
                *upper = *upper << LANES | *lower >> (64 - LANES);
                *lower = *lower << LANES ^ reduced(over);
            }
        }
    }
}

/// What fell out of the upper end comes back below: x^128 = x^7 + x^2 + x + 1. Shifts and XOR
/// only, so no time depends on the secret.
#[inline(always)]
fn reduced(over: u64) -> u64 {
    over ^ (over << 1) ^ (over << 2) ^ (over << 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crypt(direction: Direction, key: &[u8], tweak: u128, data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; data.len()];
        let pair = InOutBuf::new(data, &mut out).expect("same length");
        Xts::new(key).crypt(direction, pair, data.len(), tweak, 1);
        let mut in_place = data.to_vec();
        Xts::new(key).crypt(
            direction,
            in_place.as_mut_slice().into(),
            data.len(),
            tweak,
            1,
        );
        assert_eq!(out, in_place, "in place and from one place to another");
        out
    }

    /// Runs a file of known answers, each in the direction it states and back; returns how
    /// many there were.
    fn known_answers(file: &str) -> usize {
        let mut count = 0;
        for line in file.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split(' ').collect();
            let [direction, key, tweak, plain, cipher] = fields[..] else {
                panic!("five fields in {line:?}");
            };
            assert!(matches!(direction, "encrypt" | "decrypt"), "{line}");
            let [key, tweak, plain, cipher] =
                [key, tweak, plain, cipher].map(|field| hex::decode(field).expect("hex"));
            let tweak = u128::from_le_bytes(tweak.try_into().expect("a tweak has 16 bytes"));
            assert_eq!(
                crypt(Direction::Encrypt, &key, tweak, &plain),
                cipher,
                "{line}"
            );
            assert_eq!(
                crypt(Direction::Decrypt, &key, tweak, &cipher),
                plain,
                "{line}"
            );
            count += 1;
        }
        count
    }

    #[test]
    fn xts_gives_the_answers_of_the_nist_validation_program() {
        assert_eq!(
            known_answers(include_str!("../tests/data/xts-cavp.txt")),
            320
        );
    }

    #[test]
    fn xts_gives_the_answers_of_wycheproof() {
        assert_eq!(
            known_answers(include_str!("../tests/data/xts-wycheproof.txt")),
            42
        );
    }

    #[test]
    fn xts_gives_the_answers_of_ieee_1619() {
        assert_eq!(
            known_answers(include_str!("../tests/data/xts-ieee1619.txt")),
            6
        );
    }

    /// Times x in GF(2^128), as the standard writes it.
    fn doubled(mask: u128) -> u128 {
        (mask << 1) ^ (0x87 * (mask >> 127))
    }

    #[test]
    fn masks_are_doublings_of_the_tweak_whatever_the_batches() {
        let tweaks: Vec<Block> = (1..=3u128)
            .map(|n| Array((n << 120 | 0xfedc_ba98_7654_3210 << 3).to_le_bytes()))
            .collect();
        for per_sector in [1, 2, 3, 8, 16, 24, 32, 64, 256] {
            let mut expected = Vec::new();
            for tweak in &tweaks {
                let mut mask = u128::from_le_bytes(tweak.0);
                for _ in 0..per_sector {
                    expected.push(mask);
                    mask = doubled(mask);
                }
            }
            for batch in [1, 4, 8, 16, 30, 32, 64] {
                let mut masks = Masks::new(&tweaks, per_sector);
                let mut seen = vec![Block::default(); expected.len()];
                for batch in seen.chunks_mut(batch) {
                    masks.next(batch);
                }
                let seen: Vec<u128> = seen
                    .iter()
                    .map(|mask| u128::from_le_bytes(mask.0))
                    .collect();
                assert!(
                    seen == expected,
                    "{per_sector} per sector, batches of {batch}"
                );
            }
        }
    }

    #[test]
    fn numbering_of_sectors_wraps_at_64_bits_and_leaves_the_upper_half_alone() {
        let key: Vec<u8> = (0..64).collect();
        let data = [7; 32];
        let mut both = [0; 32];
        let xts = Xts::new(&key);
        let first = (5u128 << 64) | u128::from(u64::MAX);
        xts.crypt(
            Direction::Encrypt,
            InOutBuf::new(&data, &mut both).expect("same length"),
            16,
            first,
            1,
        );
        assert_eq!(
            both[..16],
            crypt(Direction::Encrypt, &key, first, &data[..16])
        );
        assert_eq!(
            both[16..],
            crypt(Direction::Encrypt, &key, 5 << 64, &data[..16])
        );
    }
}
