//! `repair`: make both header copies whole again.

use luksmith_volume::{Access, HeaderStore, LockMode, RepairScope, StoreError, Wait};

use crate::args::Args;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::session::{check_type, confirm, open_device};

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    check_type(args)?;
    let path = args.path("header").map_or_else(|| args.device(), Ok)?;
    let name = shell(&path);
    let device = open_device(args, &path, Access::ReadWrite)?;
    // Loaded as for reading, so that nothing is repaired before somebody was asked.
    let mut store =
        HeaderStore::load(device, LockMode::Shared).map_err(|e| errors::store(&path, e))?;
    if let Some(objection @ (StoreError::Foreign(_) | StoreError::Conflict)) = store.blocked() {
        confirm(
            args,
            &[
                format!("WARNING: {name}: {objection}."),
                "Repairing overwrites it with the LUKS2 header.".to_string(),
            ],
        )?;
    }
    let report = store
        .repair(RepairScope::Header, Wait::default())
        .map_err(|e| errors::store(&path, e))?;
    let mut lines = Vec::new();
    if let Some((copy, _)) = &report.rewritten {
        lines.push(format!(
            "{name}: the {} header was rewritten from the other one.",
            copy.name()
        ));
    }
    if report.wiped > 0 {
        lines.push(format!(
            "{name}: left-over key material of removed keyslots was overwritten ({} ranges).",
            report.wiped
        ));
    }
    if lines.is_empty() {
        lines.push(format!("{name}: nothing to repair."));
    }
    lines.push(String::new());
    output::text(&lines.join("\n"))
}
