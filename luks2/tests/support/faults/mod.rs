//! One broken header per fault, each with nothing else wrong: checksums are right, both copies say the same.

use luksmith_luks2::Rule;
use serde_json::Value;

use super::{copies, reencrypting, sample};

mod keyslots;
mod objects;
mod reencryption;
mod segments;
mod texts;

/// What is expected of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// This rule is broken.
    Rule(Rule),
    /// The text is no JSON that we take.
    Json,
    /// Nothing is wrong, however odd it looks.
    Fine,
}

/// A header with one fault.
pub struct Fault {
    /// The fault in words, fit for a file name.
    pub name: &'static str,
    pub expected: Expected,
    pub text: Vec<u8>,
}

impl Fault {
    /// Both copies.
    pub fn image(&self) -> Vec<u8> {
        copies(&self.text)
    }
}

pub(super) type Edit = fn(&mut Value);

pub(super) fn member(value: &mut Value, pointer: &str) -> serde_json::Map<String, Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_object)
        .expect("the sample has it")
        .clone()
}

pub(super) fn set(value: &mut Value, pointer: &str, new: Value) {
    *value.pointer_mut(pointer).expect("the sample has it") = new;
}

pub(super) fn drop_member(value: &mut Value, pointer: &str, name: &str) {
    let object = value
        .pointer_mut(pointer)
        .and_then(Value::as_object_mut)
        .expect("the sample has it");
    object.shift_remove(name).expect("the sample has it");
}

pub(super) fn rename(value: &mut Value, pointer: &str, from: &str, to: &str) {
    let object = value
        .pointer_mut(pointer)
        .and_then(Value::as_object_mut)
        .expect("the sample has it");
    let moved = object.shift_remove(from).expect("the sample has it");
    object.insert(to.into(), moved);
}

/// All of them.
pub fn all() -> Vec<Fault> {
    let mut all = Vec::new();
    let edited = |base: fn() -> Value, list: &[(&'static str, Expected, Edit)]| {
        list.iter()
            .map(|(name, expected, edit)| {
                let mut root = base();
                edit(&mut root);
                Fault {
                    name,
                    expected: *expected,
                    text: root.to_string().into_bytes(),
                }
            })
            .collect::<Vec<_>>()
    };
    for list in [
        objects::OBJECTS,
        keyslots::KEYSLOTS_AND_AREAS,
        segments::SEGMENTS_AND_SIZES,
    ] {
        all.extend(edited(sample, list));
    }
    all.extend(edited(reencrypting, reencryption::REENCRYPTION));
    all.extend(
        texts::texts()
            .into_iter()
            .map(|(name, expected, text)| Fault {
                name,
                expected,
                text: text.into_bytes(),
            }),
    );
    all
}
