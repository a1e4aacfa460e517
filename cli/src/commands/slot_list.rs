//! `slot list`: the keyslots in a table.

use luksmith_luks2::{KdfParams, Keyslot};
use serde_json::json;

use crate::args::Args;
use crate::commands::{dump_json, dump_text};
use crate::hint::Failure;
use crate::output;
use crate::session::Session;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let session = Session::read(args)?;
    let metadata = session.metadata();
    if args.flag("json") {
        return output::json(&json!({
            "schema": "luksmith.slots/1",
            "device": session.header_path.to_string_lossy(),
            "uuid": session.header().uuid(),
            "keyslots": dump_json::keyslots(metadata),
        }));
    }
    if metadata.keyslots().is_empty() {
        return output::text("No keyslot is in use: nothing opens this volume.\n");
    }
    let title = ["SLOT", "OPENS", "PRIORITY", "KEY DERIVATION", "TOKENS"];
    let mut rows = vec![title.map(String::from).to_vec()];
    for (number, slot) in metadata.keyslots() {
        let tokens: Vec<String> = metadata
            .tokens_of_keyslot(*number)
            .map(|(n, t)| format!("{n} ({})", dump_text::shown(&t.kind)))
            .collect();
        let opens = match dump_json::kind(slot) {
            "luks2" if metadata.is_unbound(*number) => "nothing (unbound)".to_string(),
            "luks2" => "the data".to_string(),
            other => format!("nothing ({})", dump_text::shown(other)),
        };
        rows.push(vec![
            number.to_string(),
            opens,
            dump_json::priority(slot.priority).to_string(),
            kdf(slot),
            if tokens.is_empty() {
                "-".to_string()
            } else {
                tokens.join(", ")
            },
        ]);
    }
    output::text(&output::table(&rows))
}

fn kdf(slot: &Keyslot) -> String {
    match slot.luks2().map(|s| &s.kdf) {
        None => "-".to_string(),
        Some(KdfParams::Pbkdf2 {
            hash, iterations, ..
        }) => {
            format!("pbkdf2-{}, {iterations} rounds", dump_text::shown(hash))
        }
        Some(KdfParams::Argon2 {
            id,
            time,
            memory_kib,
            cpus,
            ..
        }) => format!(
            "{}, {} rounds, {}, {cpus} threads",
            if *id { "argon2id" } else { "argon2i" },
            time,
            output::size(u64::from(*memory_kib) * 1024),
        ),
        Some(KdfParams::Other(kind)) => dump_text::shown(kind),
    }
}
