//! Seeded damage to texts and trees.

use serde_json::{Value, json};

/// A small generator whose numbers depend on the seed alone (splitmix64).
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).expect("below a usize")
    }
}

/// Pieces that matter to the format, to be thrown into text.
const PIECES: &[&str] = &[
    "0",
    "1",
    "-1",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "\"dynamic\"",
    "\"0\"",
    "\"512\"",
    "\"18446744073709551104\"",
    "{}",
    "[]",
    "null",
    "true",
    "1e400",
    "\"\"",
    "\"crypt\"",
    "\"linear\"",
    "\"backup-final\"",
    "\"flags\":[\"backup-previous\"],",
    "\"online-reencrypt-v2\"",
    "\"reencrypt\"",
    "\"luksmith-owed-wipes\":[{\"offset\":\"40960\",\"size\":\"4096\"}],",
    "\"priority\":0,",
    "\"\\u0000\"",
    "\u{0}",
    "é",
    "\\",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
];

/// Changes a text in one to five places.
pub fn mutate(random: &mut Seeded, text: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(text.len() + 1);
        match random.below(7) {
            0 if at < text.len() => text[at] = random.next().to_le_bytes()[0],
            1 => drop(text.splice(at..at, PIECES[random.below(PIECES.len())].bytes())),
            2 => drop(text.drain(at..(at + random.below(40)).min(text.len()))),
            3 => {
                let end = (at + random.below(200)).min(text.len());
                let piece = text[at..end].to_vec();
                let to = random.below(text.len() + 1);
                text.splice(to..to, piece);
            }
            4 => {
                // Another digit for a digit: numbers, names and references.
                let digits: Vec<usize> = (0..text.len())
                    .filter(|at| text[*at].is_ascii_digit())
                    .collect();
                if !digits.is_empty() {
                    text[digits[random.below(digits.len())]] =
                        b'0' + random.next().to_le_bytes()[0] % 10;
                }
            }
            5 => {
                // One whole value by another.
                let colons: Vec<usize> = (0..text.len()).filter(|at| text[*at] == b':').collect();
                if !colons.is_empty() {
                    let from = colons[random.below(colons.len())] + 1;
                    let end = text[from..]
                        .iter()
                        .position(|b| matches!(b, b',' | b'}'))
                        .map_or(text.len(), |n| from + n);
                    text.splice(from..end, PIECES[random.below(PIECES.len())].bytes());
                }
            }
            _ if at < text.len() => text[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
}

/// Values that matter to the format.
fn piece(random: &mut Seeded) -> Value {
    let pieces = [
        json!("0"),
        json!("1"),
        json!("2"),
        json!("512"),
        json!("4096"),
        json!("32768"),
        json!("290816"),
        json!("548864"),
        json!("1048576"),
        json!("2097152"),
        json!("18446744073709551615"),
        json!("18446744073709551104"),
        json!("dynamic"),
        json!("crypt"),
        json!("linear"),
        json!("luks2"),
        json!("reencrypt"),
        json!("none"),
        json!("journal"),
        json!("datashift"),
        json!("checksum"),
        json!("datashift-checksum"),
        json!("pbkdf2"),
        json!("argon2i"),
        json!("sha256"),
        json!(""),
        json!(0),
        json!(1),
        json!(2),
        json!(64),
        json!(512),
        json!(4000),
        json!(4096),
        json!(4_294_967_295_u32),
        json!(4_294_967_296_u64),
        json!(-1),
        json!(1.5),
        json!(null),
        json!(true),
        json!({}),
        json!([]),
        json!(["0"]),
        json!(["1"]),
        json!(["0", "1"]),
        json!([0]),
        json!(["backup-final"]),
        json!(["backup-previous"]),
        json!(["in-reencryption"]),
        json!("encrypt"),
        json!("backward"),
        json!({"mandatory": []}),
        json!({"mandatory": ["online-reencrypt-v2"]}),
        json!({"mandatory": ["x"]}),
    ];
    pieces[random.below(pieces.len())].clone()
}

/// Changes a tree in one or two places; the result is well-formed JSON.
pub fn mutate_tree(random: &mut Seeded, root: &mut Value) {
    for _ in 0..=random.below(2) {
        let mut pointers = Vec::new();
        collect(root, String::new(), &mut pointers);
        if pointers.is_empty() {
            return;
        }
        let pointer = pointers[random.below(pointers.len())].clone();
        let copied = root
            .pointer(&pointers[random.below(pointers.len())])
            .cloned()
            .expect("collected");
        let Some((parent, name)) = pointer.rsplit_once('/') else {
            continue;
        };
        match (
            random.below(6),
            root.pointer_mut(parent).expect("collected"),
        ) {
            (0, Value::Object(members)) => drop(members.shift_remove(name)),
            (1, Value::Object(members)) => {
                let value = members.shift_remove(name).expect("collected");
                members.insert(
                    ["0", "1", "2", "3", "x", "type", "size", "offset", "flags"][random.below(9)]
                        .into(),
                    value,
                );
            }
            (2, Value::Object(members)) => {
                let value = members[name].clone();
                members.insert(
                    ["0", "1", "2", "3", "4", "flags"][random.below(6)].into(),
                    value,
                );
            }
            (3, parent) => *child(parent, name) = copied,
            (_, parent) => *child(parent, name) = piece(random),
        }
    }
}

fn child<'a>(parent: &'a mut Value, name: &str) -> &'a mut Value {
    match parent {
        Value::Array(items) => &mut items[name.parse::<usize>().expect("an index")],
        other => &mut other[name],
    }
}

fn collect(value: &Value, at: String, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => members
            .iter()
            .for_each(|(name, member)| collect(member, format!("{at}/{name}"), into)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(n, item)| collect(item, format!("{at}/{n}"), into)),
        _ => {}
    }
    if !at.is_empty() {
        into.push(at);
    }
}
