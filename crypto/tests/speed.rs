//! The cipher keeps its speed: it stands and falls with what the compiler inlines, which a new
//! version of the compiler or of `aes` may change without a word.

mod common;

use std::time::Duration;

use aes::{Aes256, cipher::KeyInit};
use common::volume_key;
use luksmith_crypto::{CipherSpec, IvSector, SectorCipher, SectorSize, aes_is_accelerated};
use nix::time::{ClockId, clock_gettime};
use xts_mode::{Xts128, get_tweak_default};

/// Processor time of the fastest of many runs, which a busy machine hardly disturbs.
fn fastest(mut run: impl FnMut()) -> Duration {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock"));
    (0..60)
        .map(|_| {
            let start = now();
            run();
            now() - start
        })
        .min()
        .expect("there were runs")
}

/// One block per call is what the same AES rounds give without our batches: some ten times
/// slower in any build. Three times is far from noise on both sides.
#[test]
fn whole_requests_are_at_least_three_times_as_fast_as_one_block_per_call() {
    if !aes_is_accelerated() {
        // Bitsliced software takes its time for the rounds, whoever calls them.
        return;
    }
    let key: Vec<u8> = (0..64).collect();
    let ours = SectorCipher::new(
        CipherSpec::AesXtsPlain64,
        &volume_key(&key),
        SectorSize::S512,
    )
    .expect("a cipher");
    let (data, tweak) = key.split_at(32);
    let theirs = Xts128::new(
        Aes256::new_from_slice(data).expect("half a key"),
        Aes256::new_from_slice(tweak).expect("half a key"),
    );
    let source = vec![7; 64 << 10];
    let mut one = source.clone();
    let mut other = source.clone();
    let batched = fastest(|| ours.encrypt_bytes(IvSector(5), &mut one, &source));
    let single = fastest(|| {
        other.copy_from_slice(&source);
        theirs.encrypt_area(&mut other, 512, 5, get_tweak_default);
    });
    assert!(one == other, "both did the same work");
    assert!(
        batched * 3 < single,
        "{batched:?} for a request, {single:?} block by block"
    );
}
