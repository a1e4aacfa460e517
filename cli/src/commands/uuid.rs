//! `uuid`: show or set the UUID.

use luksmith_luks2::Change;
use serde_json::json;

use crate::args::Args;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::session::{Session, confirm};

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(uuid) = args.text("uuid") {
        return set(args, &uuid);
    }
    let session = Session::read(args)?;
    let uuid = session.header().uuid();
    if args.flag("json") {
        return output::json(&json!({
            "schema": "luksmith.uuid/1",
            "device": session.header_path.to_string_lossy(),
            "uuid": uuid,
        }));
    }
    output::text(&format!("{uuid}\n"))
}

fn set(args: &Args, uuid: &str) -> Result<(), Failure> {
    let mut session = Session::change(args)?;
    let path = session.header_path.clone();
    let failed = |e| errors::format(&path, &e);
    let after = session.header().with_uuid(uuid).map_err(failed)?;
    if crate::prompt::person_there() {
        confirm(
            args,
            &[format!(
                "The UUID of {} is about to change from {} to {uuid}; crypttab and boot loaders \
                 may name the old one.",
                shell(&path),
                session.header().uuid(),
            )],
        )?;
    }
    let change = Change::edit(session.header(), &after).map_err(failed)?;
    session.apply(change)
}
