//! `config` and `slot priority`: labels and the order of tries.

use luksmith_luks2::{Change, Label, Priority};

use crate::args::Args;
use crate::commands::{slot_add, slot_remove};
use crate::errors;
use crate::hint::Failure;
use crate::session::Session;

/// Sets labels, or the priority of a keyslot.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let priority = args.text("priority");
    let label = args.text("label");
    let subsystem = args.text("subsystem");
    let slot = args.index("key-slot");
    if priority.is_none() && label.is_none() && subsystem.is_none() {
        return Err(
            Failure::usage("one of --priority, --label or --subsystem must be given").no_disk(),
        );
    }
    if priority.is_some() && slot.is_none() {
        return Err(
            Failure::usage("--priority needs --key-slot: the priority of which slot?").no_disk(),
        );
    }
    if priority.is_none() && slot.is_some() {
        return Err(Failure::usage("option --key-slot is refused: it needs --priority").no_disk());
    }
    let mut session = Session::change(args)?;
    if let (Some(word), Some(slot)) = (&priority, slot) {
        set_priority(&mut session, slot, slot_add::priority(Some(word)))?;
    }
    if label.is_none() && subsystem.is_none() {
        return Ok(());
    }
    let path = session.header_path.clone();
    let failed = |e| errors::format(&path, &e);
    let mut after = session.header().clone();
    if let Some(text) = label {
        after = after.with_label(Label::new(&text).map_err(failed)?);
    }
    if let Some(text) = subsystem {
        after = after.with_subsystem(Label::new(&text).map_err(failed)?);
    }
    let change = Change::edit(session.header(), &after).map_err(failed)?;
    session.apply(change)
}

/// `slot priority DEVICE SLOT PRIORITY`.
pub(crate) fn slot_priority(args: &Args) -> Result<(), Failure> {
    let slot = slot_remove::number(args)?;
    let word = args.required("PRIORITY")?;
    let word = word.to_string_lossy();
    if !["ignore", "normal", "prefer"].contains(&word.as_ref()) {
        return Err(Failure::usage(format!(
            "'{word}' is not a priority: ignore, normal or prefer"
        ))
        .no_disk());
    }
    let mut session = Session::change(args)?;
    set_priority(&mut session, slot, slot_add::priority(Some(&word)))
}

fn set_priority(session: &mut Session, slot: u8, priority: Priority) -> Result<(), Failure> {
    let change = luksmith_keyslot::set_priority(session.header(), slot, priority)
        .map_err(|e| errors::plan(&session.header_path, e))?;
    session.apply(change)
}
