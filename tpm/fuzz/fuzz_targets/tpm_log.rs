//! An event log, an image, a remembered log: refused, or read and replayed.
#![no_main]

#[path = "../../tests/entries/log.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::any(data));
