//! `token …`: objects in the header that say how keyslots are opened without typing.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use luksmith_luks2::{Change, Metadata};
use serde_json::{Value, json};

use crate::args::Args;
use crate::commands::{dump_json, dump_text};
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::session::Session;

/// Longest token that is read: more does not fit any header.
const JSON_MAX: u64 = 4 * 1024 * 1024;

/// The tokens in a table.
pub(crate) fn list(args: &Args) -> Result<(), Failure> {
    let session = Session::read(args)?;
    let metadata = session.metadata();
    if args.flag("json") {
        return output::json(&json!({
            "schema": "luksmith.tokens/1",
            "device": session.header_path.to_string_lossy(),
            "uuid": session.header().uuid(),
            "tokens": dump_json::tokens(metadata),
        }));
    }
    if metadata.tokens().is_empty() {
        return output::text("There are no tokens.\n");
    }
    let mut rows = vec![["TOKEN", "TYPE", "KEYSLOTS"].map(String::from).to_vec()];
    for (number, token) in metadata.tokens() {
        let slots: Vec<String> = token.keyslots.iter().map(u8::to_string).collect();
        let slots = if slots.is_empty() {
            "-".to_string()
        } else {
            slots.join(", ")
        };
        rows.push(vec![
            number.to_string(),
            dump_text::shown(&token.kind),
            slots,
        ]);
    }
    output::text(&output::table(&rows))
}

/// A new `luks2-keyring` token.
pub(crate) fn add(args: &Args) -> Result<(), Failure> {
    let description = args
        .text("key-description")
        .ok_or_else(|| Failure::usage("token add needs --key-description").no_disk())?;
    let unbound = args.flag("unbound");
    let slot = args.index("key-slot");
    if unbound && slot.is_some() {
        return Err(Failure::usage("--unbound and --key-slot exclude each other").no_disk());
    }
    let mut session = Session::change(args)?;
    let metadata = session.metadata();
    let slots: Vec<String> = match slot {
        _ if unbound => Vec::new(),
        Some(slot) => vec![slot.to_string()],
        // All slots that hold a key, as cryptsetup does.
        None => metadata
            .keyslots()
            .iter()
            .filter(|(_, s)| s.luks2().is_some())
            .map(|(n, _)| n.to_string())
            .collect(),
    };
    let token = json!({
        "type": "luks2-keyring",
        "keyslots": slots,
        "key_description": description,
    });
    store(args, &mut session, token)
}

/// A token from a JSON document.
pub(crate) fn import(args: &Args) -> Result<(), Failure> {
    let file = args.path("json-file").filter(|f| f != Path::new("-"));
    let slot = args.index("key-slot");
    let mut session = Session::change(args)?;
    let mut text = Vec::new();
    let read = match &file {
        Some(path) => {
            std::fs::File::open(path).and_then(|f| f.take(JSON_MAX + 1).read_to_end(&mut text))
        }
        None => std::io::stdin()
            .lock()
            .take(JSON_MAX + 1)
            .read_to_end(&mut text),
    };
    let name = file.as_deref().map_or("standard input".to_string(), shell);
    read.map_err(|e| Failure::usage(format!("cannot read the token from {name}: {e}")))?;
    if text.len() as u64 > JSON_MAX {
        return Err(Failure::usage(format!(
            "{name} holds more than a token can"
        )));
    }
    let mut token = luksmith_luks2::json::parse(&text)
        .map_err(|e| Failure::usage(format!("{name} holds no token: {e}")))?;
    let Some(object) = token.as_object_mut() else {
        return Err(Failure::usage(format!(
            "{name} holds no token: it is not a JSON object"
        )));
    };
    if let Some(slot) = slot {
        let slots = object.entry("keyslots").or_insert_with(|| json!([]));
        let entry = json!(slot.to_string());
        if let Some(list) = slots.as_array_mut()
            && !list.contains(&entry)
        {
            list.push(entry);
        }
    }
    store(args, &mut session, token)
}

/// Puts a token into the header, under `--token-id` or the first free number.
fn store(args: &Args, session: &mut Session, token: Value) -> Result<(), Failure> {
    let path = session.header_path.clone();
    let failed = |e| errors::format(&path, &e);
    let replace = args.flag("token-replace");
    let id = args.index("token-id");
    if replace && id.is_none() {
        return Err(Failure::usage("--token-replace needs --token-id").no_disk());
    }
    let metadata = session.metadata();
    let (number, after) = match id {
        Some(id) if metadata.tokens().contains_key(&id) && replace => {
            (id, metadata.with_token_replaced(id, token))
        }
        Some(id) if metadata.tokens().contains_key(&id) => {
            return Err(
                Failure::usage(format!("token {id} of {} is in use", shell(&path)))
                    .hint("--token-replace replaces it"),
            );
        }
        Some(id) => (id, metadata.with_token(id, token)),
        None => {
            let free = metadata.free_token().map_err(failed)?;
            (free, metadata.with_token(free, token))
        }
    };
    commit(session, after.map_err(failed)?)?;
    if args.flag("verbose") {
        output::text(&format!("Token {number} stored.\n"))?;
    }
    Ok(())
}

/// A token as a JSON document.
pub(crate) fn export(args: &Args) -> Result<(), Failure> {
    let id = id(args)?;
    let file = args.path("json-file").filter(|f| f != Path::new("-"));
    let session = Session::read(args)?;
    let token = find(&session, id)?;
    let Some(path) = file else {
        return output::text(&format!("{token}\n"));
    };
    let failed = |e: std::io::Error| {
        Failure::usage(format!("cannot write the token to {}: {e}", shell(&path))).no_disk()
    };
    let mut out = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    out.write_all(token.to_string().as_bytes())
        .and_then(|()| out.sync_all())
        .map_err(failed)
}

/// A token goes; its keyslots stay.
pub(crate) fn remove(args: &Args) -> Result<(), Failure> {
    let id = id(args)?;
    let mut session = Session::change(args)?;
    find(&session, id)?;
    let after = session.metadata().without_token(id);
    let after = after.map_err(|e| errors::format(&session.header_path, &e))?;
    commit(&mut session, after)
}

/// A keyslot goes out of a token.
pub(crate) fn unassign(args: &Args) -> Result<(), Failure> {
    let id = id(args)?;
    let slot = args
        .index("key-slot")
        .ok_or_else(|| Failure::usage("token unassign needs --key-slot").no_disk())?;
    let mut session = Session::change(args)?;
    find(&session, id)?;
    let assigned = session
        .metadata()
        .tokens()
        .get(&id)
        .is_some_and(|t| t.keyslots.contains(&slot));
    if !assigned {
        return Err(
            Failure::usage(format!("token {id} is not assigned to keyslot {slot}")).command(
                format!("luksmith token list {}", shell(&session.header_path)),
            ),
        );
    }
    let after = session.metadata().with_token_assigned(id, slot, false);
    let after = after.map_err(|e| errors::format(&session.header_path, &e))?;
    commit(&mut session, after)
}

fn id(args: &Args) -> Result<u8, Failure> {
    args.index("token-id")
        .ok_or_else(|| Failure::usage("--token-id must be given: which token?").no_disk())
}

fn find(session: &Session, id: u8) -> Result<Value, Failure> {
    let name = shell(&session.header_path);
    session
        .metadata()
        .tokens()
        .get(&id)
        .map(|t| t.raw.clone())
        .ok_or_else(|| {
            Failure::usage(format!("token {id} of {name} is not in use"))
                .hint("see which tokens there are")
                .command(format!("luksmith token list {name}"))
        })
}

fn commit(session: &mut Session, after: Metadata) -> Result<(), Failure> {
    let path = session.header_path.clone();
    let failed = |e| errors::format(&path, &e);
    let header = session.header().with_metadata(after).map_err(failed)?;
    let change = Change::edit(session.header(), &header).map_err(failed)?;
    session.apply(change)
}
