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
    consts::U16, typenum::Unsigned,
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
        let width = B::ParBlocksSize::USIZE;
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
            debug_assert!(len < width, "chunks take all whole batches");
            self.masks.next(&mut masks[..len]);
            let mut batch = ParBlocks::<B>::default();
            batch[..len].copy_from_slice(tail.get_in());
            xor(&mut batch[..len], &masks[..len]);
            rounds(&mut batch);
            xor(&mut batch[..len], &masks[..len]);
            tail.get_out().copy_from_slice(&batch[..len]);
        }
    }
}

#[inline(always)]
fn xor(data: &mut [Block], masks: &[Block]) {
    let data = Array::slice_as_flattened_mut(data);
    let masks = Array::slice_as_flattened(masks);
    for (word, mask) in data.chunks_exact_mut(8).zip(masks.chunks_exact(8)) {
        let mixed = word_of(word) ^ word_of(mask);
        word.copy_from_slice(&mixed.to_ne_bytes());
    }
}

#[inline(always)]
fn word_of(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(bytes.try_into().expect("chunks of eight bytes"))
}

/// The masks of consecutive blocks: in each sector the encrypted tweak times 1, x, x^2 and so
/// on in GF(2^128), then the same from the next sector's tweak.
struct Masks<'t> {
    tweaks: std::slice::Iter<'t, Block>,
    per_sector: usize,
    /// Blocks of the current sector that have no mask yet.
    left: usize,
    mask: u128,
}

impl<'t> Masks<'t> {
    fn new(tweaks: &'t [Block], per_sector: usize) -> Self {
        Self {
            tweaks: tweaks.iter(),
            per_sector,
            left: 0,
            mask: 0,
        }
    }

    #[inline(always)]
    fn next(&mut self, mut out: &mut [Block]) {
        while !out.is_empty() {
            if self.left == 0 {
                let tweak = self
                    .tweaks
                    .next()
                    .expect("there is a tweak for each sector");
                self.mask = u128::from_le_bytes(tweak.0);
                self.left = self.per_sector;
            }
            let (run, later) = out.split_at_mut(self.left.min(out.len()));
            self.left -= run.len();
            for block in run {
                block.0 = self.mask.to_le_bytes();
                self.mask = doubled(self.mask);
            }
            out = later;
        }
    }
}

/// Times x in GF(2^128), modulo x^128 + x^7 + x^2 + x + 1; no branch on the secret.
#[inline(always)]
fn doubled(mask: u128) -> u128 {
    (mask << 1) ^ (0x87 & 0u128.wrapping_sub(mask >> 127))
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

    #[test]
    fn doubling_reduces_by_the_polynomial() {
        assert_eq!(doubled(1), 2);
        assert_eq!(doubled(1 << 127), 0x87);
        assert_eq!(doubled(3 << 126), (1 << 127) ^ 0x87);
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
