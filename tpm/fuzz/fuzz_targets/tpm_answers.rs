//! Answers of a hostile bus: refused, and no secret is ever believed.
#![no_main]

#[path = "../../tests/entries/mod.rs"]
#[expect(dead_code, reason = "the other targets use the rest")]
mod entries;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entries::answers(data));
