//! A JSON text: refused, or it comes back the same and survives every edit.
#![no_main]

#[path = "../../tests/entries/mod.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::json(data));
