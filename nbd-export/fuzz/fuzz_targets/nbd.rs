//! The whole stream of an NBD client: negotiation, then requests.
#![no_main]

#[path = "../../tests/entries/mod.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::conversation(data));
