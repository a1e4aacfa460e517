//! How fast the sector cipher is, beside OpenSSL, `xts-mode` and a plain copy.
//!
//! All of them take turns in one run on one thread and are timed by its processor time, so
//! the ratios hold on a busy machine where the absolute figures do not. Run it with
//! `cargo bench -p luksmith-crypto`; `--quick` after `--` takes fewer turns.

use std::{hint::black_box, time::Duration};

use aes::{Aes128, Aes256, cipher::KeyInit};
use luksmith_crypto::{
    Arena, CipherSpec, IoBuf, IvSector, SecretBytes, SectorCipher, SectorSize, VolumeKey,
};
use nix::time::{ClockId, clock_gettime};
use openssl::{cipher::Cipher as OpenSslCipher, cipher_ctx::CipherCtx};
use xts_mode::{Xts128, get_tweak_default};

/// One contender: processes a request of the given bytes once.
type Contender<'a> = (&'static str, Box<dyn FnMut() + 'a>);

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let turns = if quick { 7 } else { 21 };
    println!("AES-XTS, one thread, GB/s (median of {turns} turns) and ratio to OpenSSL\n");
    for key_len in [64, 32] {
        for sector in [4096, 512] {
            for request in [4 << 10, 64 << 10, 1 << 20] {
                compare(key_len, sector, request, turns);
            }
        }
    }
}

fn compare(key_len: usize, sector: u32, request: usize, turns: usize) {
    let key: Vec<u8> = (0..key_len).map(|i| i as u8).collect();
    let sector_bytes = sector as usize;
    let secret = SecretBytes::take_from(&mut key.clone()).expect("locked memory");
    let volume_key = VolumeKey::adopt(secret).expect("a key");
    let size = SectorSize::new(sector).expect("a sector size");
    let ours = SectorCipher::new(CipherSpec::AesXtsPlain64, &volume_key, size).expect("a cipher");
    let arena = Arena::new(1, request).expect("locked memory");
    let blank = arena.take().expect("a free slot");
    let mut plain = Some(
        blank
            .fill_plain(request, |_| Ok::<(), ()>(()))
            .unwrap_or_else(|_| unreachable!()),
    );
    let mut cipher_buf: Option<IoBuf<luksmith_crypto::Cipher>> = None;
    let second_arena = Arena::new(1, request).expect("locked memory");
    cipher_buf.replace(
        second_arena
            .take()
            .expect("a free slot")
            .assume_cipher(request),
    );

    let source = vec![1u8; request];
    let mut copy = vec![2u8; request];
    let mut separate = vec![2u8; request];
    let mut for_xts_mode = vec![3u8; request];
    let mut for_openssl = vec![3u8; request];
    let mut for_openssl_back = vec![3u8; request];
    let mut encrypting = openssl_ctx(&key, true);
    let mut decrypting = openssl_ctx(&key, false);

    let contenders: Vec<Contender<'_>> = vec![
        (
            "memcpy",
            Box::new(|| copy.copy_from_slice(black_box(&source))),
        ),
        (
            "openssl encrypt",
            Box::new(|| openssl_run(&mut encrypting, true, &mut for_openssl, sector_bytes)),
        ),
        (
            "openssl decrypt",
            Box::new(|| openssl_run(&mut decrypting, false, &mut for_openssl_back, sector_bytes)),
        ),
        (
            "xts-mode encrypt",
            xts_mode(&key, &mut for_xts_mode, sector_bytes),
        ),
        (
            "luksmith encrypt",
            Box::new(|| {
                let buf = plain.take().expect("the buffer comes back");
                let done = ours.encrypt(IvSector(8), buf);
                // Back to plaintext without deciphering: only the type changes.
                plain = Some(done.into_linear());
            }),
        ),
        (
            "luksmith decrypt",
            Box::new(|| {
                let buf = cipher_buf.take().expect("the buffer comes back");
                cipher_buf = Some(ours.decrypt(IvSector(8), buf).into_linear());
            }),
        ),
        (
            "luksmith copying",
            Box::new(|| ours.encrypt_bytes(IvSector(8), &mut separate, black_box(&source))),
        ),
    ];
    report(
        key_len,
        sector,
        request,
        &measure(contenders, request, turns),
    );
}

/// Median time per request of each contender, taking turns.
fn measure(
    mut contenders: Vec<Contender<'_>>,
    request: usize,
    turns: usize,
) -> Vec<(&'static str, f64)> {
    let mut seconds: Vec<Vec<f64>> = contenders.iter().map(|_| Vec::new()).collect();
    for turn in 0..=turns {
        for ((_, run), seconds) in contenders.iter_mut().zip(&mut seconds) {
            let mut requests = 0u32;
            let start = thread_time();
            let spent = loop {
                for _ in 0..(256 << 10) / request.min(256 << 10) {
                    run();
                    requests += 1;
                }
                let spent = thread_time() - start;
                if spent > Duration::from_micros(1500) {
                    break spent;
                }
            };
            // The first turn warms caches and frequency up.
            if turn > 0 {
                seconds.push(spent.as_secs_f64() / f64::from(requests));
            }
        }
    }
    contenders
        .iter()
        .zip(seconds)
        .map(|((name, _), mut seconds)| {
            seconds.sort_by(f64::total_cmp);
            (*name, seconds[seconds.len() / 2])
        })
        .collect()
}

fn report(key_len: usize, sector: u32, request: usize, medians: &[(&'static str, f64)]) {
    let of = |name: &str| {
        medians
            .iter()
            .find(|(have, _)| *have == name)
            .map(|(_, time)| *time)
            .expect("a median")
    };
    println!(
        "AES-{} sectors of {sector} B, requests of {} KiB",
        key_len * 4,
        request >> 10
    );
    for (name, time) in medians {
        let peer = if name.ends_with("decrypt") {
            "openssl decrypt"
        } else {
            "openssl encrypt"
        };
        println!(
            "  {name:<18} {:>7.2} GB/s   {:>6.2} x OpenSSL   1/{:.1} of memcpy",
            request as f64 / time / 1e9,
            of(peer) / time,
            time / of("memcpy"),
        );
    }
}

fn openssl_ctx(key: &[u8], encrypt: bool) -> CipherCtx {
    let kind = if key.len() == 32 {
        OpenSslCipher::aes_128_xts()
    } else {
        OpenSslCipher::aes_256_xts()
    };
    let mut ctx = CipherCtx::new().expect("a context");
    let tweak = Some(&[0; 16][..]);
    if encrypt {
        ctx.encrypt_init(Some(kind), Some(key), tweak)
            .expect("a key");
    } else {
        ctx.decrypt_init(Some(kind), Some(key), tweak)
            .expect("a key");
    }
    ctx
}

fn openssl_run(ctx: &mut CipherCtx, encrypt: bool, data: &mut [u8], sector: usize) {
    for (number, sector_data) in (0u128..).zip(data.chunks_mut(sector)) {
        let tweak = (8 + number * (sector as u128 / 512)).to_le_bytes();
        if encrypt {
            ctx.encrypt_init(None, None, Some(&tweak)).expect("a tweak");
        } else {
            ctx.decrypt_init(None, None, Some(&tweak)).expect("a tweak");
        }
        ctx.cipher_update_inplace(sector_data, sector)
            .expect("OpenSSL works");
    }
}

fn xts_mode<'a>(key: &[u8], data: &'a mut [u8], sector: usize) -> Box<dyn FnMut() + 'a> {
    let (first, second) = key.split_at(key.len() / 2);
    let fits = "half a key";
    if key.len() == 32 {
        let xts = Xts128::new(
            Aes128::new_from_slice(first).expect(fits),
            Aes128::new_from_slice(second).expect(fits),
        );
        Box::new(move || {
            xts.encrypt_area(data, sector, 8, get_tweak_default);
        })
    } else {
        let xts = Xts128::new(
            Aes256::new_from_slice(first).expect(fits),
            Aes256::new_from_slice(second).expect(fits),
        );
        Box::new(move || {
            xts.encrypt_area(data, sector, 8, get_tweak_default);
        })
    }
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("Linux has the clock")
        .into()
}
