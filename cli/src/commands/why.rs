//! `tpm why`: what changed since a slot was bound to PCRs, and the memory that this needs.
//!
//! A policy holds a digest of PCR values and tells nothing of what went into them. So whoever binds a slot
//! also keeps what was measured until then, in a file beside the state of the system. Nothing in it is secret, and
//! nothing is decided by it: a lost or forged one makes the explanation wrong and no more.

use std::fs;
use std::path::{Path, PathBuf};

use luksmith_tpm::log::{Remembered, why};
use luksmith_tpm::token::SystemdTpm2;
use luksmith_tpm::{HashAlg, PcrSelection, Tpm};
use serde_json::json;

use crate::args::Args;
use crate::commands::tpm::the_token;
use crate::errors;
use crate::event_log;
use crate::hint::{Failure, shell};
use crate::output;
use crate::session::Session;
use crate::state;
use crate::tpm_device;
use crate::whole_file;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let session = Session::read(args)?;
    let (number, slots, token) = the_token(args, &session)?;
    let bank = token.bank.unwrap_or(HashAlg::Sha256);
    if token.pcrs.is_empty() {
        return output::text(&bound_otherwise(&token, &session));
    }
    let file = memory(args, &session, slots.first().copied().unwrap_or(number));
    let before = recall(&file)?;
    let mut tpm = tpm_device::connect(args)?;
    let now = measured(args, &mut tpm, bank, &token.pcrs)?;
    let changes = why(&before, &now, &token.pcrs)
        .map_err(|error| Failure::usage(error.to_string()).no_disk())?;
    if args.flag("json") {
        let rows: Vec<_> = changes
            .iter()
            .map(|change| json!({ "pcr": change.pcr, "what": change.to_string() }))
            .collect();
        return output::json(&json!({
            "schema": "luksmith.tpm-why/1",
            "device": session.header_path.to_string_lossy(),
            "uuid": session.header().uuid(),
            "token": number,
            "pcrs": token.pcrs,
            "changes": rows,
        }));
    }
    if changes.is_empty() {
        return output::text("Nothing that the slot is bound to has changed since.\n");
    }
    for change in changes {
        output::text(&format!("{change}\n"))?;
    }
    Ok(())
}

/// Of a slot that has no values of PCRs in its token.
fn bound_otherwise(token: &SystemdTpm2, session: &Session) -> String {
    let to = match (&token.pcrlock, &token.signed) {
        (None, None) => {
            return "The slot is bound to no PCR; no measurement can shut it.\n".to_owned();
        }
        (Some(_), _) => "a policy in the TPM, which says what PCRs may be",
        (None, Some(_)) => "PCRs whose values somebody signs",
    };
    format!(
        "The slot is bound to {to}; what stands in the way now says: luksmith tpm list {}\n",
        shell(&session.header_path)
    )
}

/// Keeps what was measured until now, for a slot that was just bound to it. It is not worth the
/// failure of a command that has done its work: what stands in the way is told.
pub(super) fn remember(
    args: &Args,
    session: &Session,
    slot: u8,
    tpm: &mut dyn Tpm,
    bank: HashAlg,
    pcrs: &[u8],
) {
    if pcrs.is_empty() {
        return;
    }
    let file = memory(args, session, slot);
    let kept = measured(args, tpm, bank, pcrs).and_then(|now| {
        whole_file::write(&file, now.to_json().to_string().as_bytes())
            .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))
    });
    if let Err(failure) = kept {
        output::note(&format!(
            "note: should a PCR change, 'luksmith tpm why' will not know what did it: {}",
            failure.what
        ));
    }
}

fn memory(args: &Args, session: &Session, slot: u8) -> PathBuf {
    let uuid = session.header().uuid();
    state::folder(args)
        .join("measured")
        // A UUID comes from a disk and must not lead anywhere.
        .join(format!("{}-{slot}.json", uuid.replace(['/', '.'], "_")))
}

fn recall(file: &Path) -> Result<Remembered, Failure> {
    let name = shell(file);
    let text = fs::read(file).map_err(|error| {
        Failure::usage(format!(
            "what was measured when the slot was bound is not known: {name}: {error}"
        ))
        .no_disk()
        .hint("it is kept by the machine that binds a slot, from now on also by")
        .command("luksmith tpm reseal DEVICE")
    })?;
    let broken = |why: &dyn std::fmt::Display| Failure::usage(format!("{name}: {why}")).no_disk();
    let value = serde_json::from_slice(&text).map_err(|error| broken(&error))?;
    Remembered::from_json(&value).map_err(|error| broken(&error))
}

/// The present values, and the events that led to them.
fn measured(
    args: &Args,
    tpm: &mut dyn Tpm,
    bank: HashAlg,
    pcrs: &[u8],
) -> Result<Remembered, Failure> {
    let log = event_log::read(args)?;
    let selection = PcrSelection::new(bank, pcrs).map_err(|error| errors::tpm(&error))?;
    let values = tpm
        .read_pcrs(&selection)
        .map_err(|error| errors::tpm(&error))?;
    Remembered::new(&log, &values).map_err(|error| Failure::usage(error.to_string()).no_disk())
}
