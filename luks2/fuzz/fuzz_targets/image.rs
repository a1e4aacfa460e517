//! A whole image whose checksums are put right first.
#![no_main]

#[path = "../../tests/entries/mod.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::image(data));
