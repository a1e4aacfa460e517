//! `is-luks`: a yes or no in the exit number.

use luksmith_luks2::ResolveError;
use luksmith_volume::{Access, HeaderStore, LockMode, StoreError};
use serde_json::json;

use crate::args::Args;
use crate::errors;
use crate::exit::Exit;
use crate::hint::{Failure, shell};
use crate::output;
use crate::session::open_device;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let device_path = args.device()?;
    let path = args.path("header").unwrap_or(device_path);
    let wanted = args.text("type");
    let json = args.flag("json");
    let device = open_device(args, &path, Access::ReadOnly)?;
    let (version, why) = match HeaderStore::load(device, LockMode::Shared) {
        Ok(_) => (Some(2), None),
        Err(StoreError::Resolve(ResolveError::Luks1)) => (Some(1), None),
        Err(StoreError::Resolve(e)) => (None, Some(e.to_string())),
        Err(e) => return Err(errors::store(&path, e)),
    };
    let yes = match wanted.as_deref() {
        None | Some("luks") => version == Some(2),
        Some("luks2") => version == Some(2),
        Some("luks1") => version == Some(1),
        Some(_) => false,
    };
    if json {
        output::json(&json!({
            "schema": "luksmith.is-luks/1",
            "device": path.to_string_lossy(),
            "luks2": version == Some(2),
            "luks_version": version,
            "why": why,
        }))?;
    }
    if yes {
        return Ok(());
    }
    let what = match version {
        Some(1) => "a LUKS1 volume".to_string(),
        _ => why.unwrap_or_else(|| "not what was asked for".to_string()),
    };
    Err(
        Failure::new(Exit::Failure, format!("{}: {what}", shell(&path)))
            .no_disk()
            .quiet(),
    )
}
