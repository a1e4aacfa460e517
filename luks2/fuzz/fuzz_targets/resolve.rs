//! Two texts with right checksums: which is in force, and every change of it.
#![no_main]

#[path = "../../tests/entries/mod.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::texts(data));
