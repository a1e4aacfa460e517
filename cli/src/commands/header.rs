//! `header …`: the header as a whole: its copies, a backup, the way back.

use std::path::Path;

use luksmith_keyslot::header_mac;
use luksmith_luks2::{CopyState, HeaderCopy};
use luksmith_volume::{
    Access, HeaderStore, LockMode, RestoreObjection, RestoreRules, StoreError, Wait,
};
use serde_json::json;

use crate::args::Args;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::progress::Progress;
use crate::session::{Session, check_type, confirm, open_device};

/// The state of both copies.
pub(crate) fn info(args: &Args) -> Result<(), Failure> {
    let json = args.flag("json");
    let mut session = Session::read(args)?;
    let path = session.header_path.clone();
    let store = session.store();
    let header = store.header();
    let resolved = store.resolved();
    let copies = [
        (HeaderCopy::Primary, &resolved.primary),
        (HeaderCopy::Secondary, &resolved.secondary),
    ];
    let repair = store.needs_repair();
    let total = header.metadata().total_bytes();
    if json {
        let copies: Vec<_> = copies
            .iter()
            .map(|(copy, state)| {
                let (good, epoch, why) = match state {
                    CopyState::Good { seqid, .. } => (true, Some(seqid.0), None),
                    CopyState::Bad(error) => (false, None, Some(error.to_string())),
                    CopyState::Unreadable(why) => (false, None, Some(why.to_string())),
                };
                json!({
                    "copy": copy.name(),
                    "offset_bytes": copy.offset(header.size()),
                    "good": good,
                    "epoch": epoch,
                    "why": why,
                    "in_force": *copy == resolved.in_force,
                })
            })
            .collect();
        return output::json(&json!({
            "schema": "luksmith.header-info/1",
            "device": path.to_string_lossy(),
            "uuid": header.uuid(),
            "epoch": header.seqid().0,
            "header_bytes": header.size().bytes(),
            "total_bytes": total,
            "copies": copies,
            "repair": repair.map(|r| r.copy.name()),
            "automatic_repair": repair.is_some() && store.blocked().is_none(),
        }));
    }
    let mut rows = vec![
        ["COPY", "OFFSET", "EPOCH", "STATE"]
            .map(String::from)
            .to_vec(),
    ];
    for (copy, state) in copies {
        let (epoch, what) = match state {
            CopyState::Good { seqid, .. } => (seqid.0.to_string(), "good".to_string()),
            CopyState::Bad(error) => ("-".to_string(), error.to_string()),
            CopyState::Unreadable(why) => ("-".to_string(), why.to_string()),
        };
        let force = if copy == resolved.in_force {
            ", in force"
        } else {
            ""
        };
        rows.push(vec![
            copy.name().to_string(),
            copy.offset(header.size()).to_string(),
            epoch,
            format!("{what}{force}"),
        ]);
    }
    let mut text = output::table(&rows);
    text.push_str(&format!(
        "header and keyslots take {}\n",
        output::size(total)
    ));
    if repair.is_some() {
        text.push_str(&format!(
            "to make both copies whole: luksmith repair {}\n",
            shell(&path)
        ));
    }
    output::text(&text)
}

fn backup_file(args: &Args) -> Result<std::path::PathBuf, Failure> {
    args.path("header-backup-file").ok_or_else(|| {
        Failure::usage("--header-backup-file must be given")
            .no_disk()
            .command(format!(
                "luksmith {} DEVICE --header-backup-file FILE",
                args.typed
            ))
    })
}

/// A copy of header and keyslots in a new file.
pub(crate) fn backup(args: &Args) -> Result<(), Failure> {
    let file = backup_file(args)?;
    let mut session = Session::read(args)?;
    let path = session.header_path.clone();
    let total = session.metadata().total_bytes();
    let mut progress = Progress::new(args, &path, "header backup");
    progress.bytes(0, total);
    session
        .store()
        .backup_telling(&file, Wait::default(), &mut |done, all| {
            progress.bytes(done, all);
        })
        .map_err(|e| errors::store(&path, e))?;
    drop(progress);
    if let Ok(Some(mac)) = header_mac::find(session.metadata()) {
        output::note(&match mac.counter {
            None => {
                "The copy keeps the MAC over the header; put back, it counts as the header does now.".to_owned()
            }
            Some(_) => format!(
                "The copy keeps the MAC over the header, of epoch {}. Once a slot is removed, it counts as an old one: put \
                 back, it has to be blessed again.",
                mac.epoch
            ),
        });
    }
    if args.flag("verbose") {
        output::note(&format!(
            "{} holds the header of {} now.",
            shell(&file),
            shell(&path)
        ));
    }
    Ok(())
}

/// The way back.
pub(crate) fn restore(args: &Args) -> Result<(), Failure> {
    check_type(args)?;
    let file = backup_file(args)?;
    let path = args.path("header").map_or_else(|| args.device(), Ok)?;
    let name = shell(&path);
    // All objections at once, nothing written; the question then names those that may be overruled.
    let device = open_device(args, &path, Access::ReadWrite)?;
    let objections = HeaderStore::objections_to_restore(&device, &file, Wait::default())
        .map_err(|e| errors::store(&path, e))?;
    if !objections.iter().all(RestoreObjection::may_be_overruled) {
        return Err(errors::store(&path, StoreError::RestoreRefused(objections)));
    }
    let mut lines: Vec<String> = objections
        .iter()
        .map(|o| format!("WARNING: {o}."))
        .collect();
    lines.push(format!(
        "The header and all keyslots of {name} are about to be replaced."
    ));
    if let Some(line) = epochs(args, &path, &file) {
        if args.flag("batch-mode") {
            output::note(&line);
        }
        lines.push(line);
    }
    confirm(args, &lines)?;
    let has = |wanted: fn(&RestoreObjection) -> bool| objections.iter().any(wanted);
    let rules = RestoreRules {
        onto_no_header: has(|o| matches!(o, RestoreObjection::NoHeader)),
        other_uuid: has(|o| matches!(o, RestoreObjection::OtherUuid { .. })),
        other_layout: has(|o| matches!(o, RestoreObjection::OtherLayout { .. })),
    };
    let mut progress = Progress::new(args, &path, "header restore");
    let total = std::fs::metadata(&file).map_or(0, |m| m.len());
    progress.bytes(0, total);
    let mut tell = |done, all| progress.bytes(done, all);
    HeaderStore::restore_telling(device, &file, rules, Wait::default(), &mut tell)
        .map_err(|e| restore_failed(&path, &file, e))?;
    Ok(())
}

/// What the MAC will say of the copy, as far as that can be known without a key.
fn epochs(args: &Args, path: &Path, file: &Path) -> Option<String> {
    let read = |path: &Path| {
        let device = open_device(args, path, Access::ReadOnly).ok()?;
        let store = HeaderStore::load(device, LockMode::Shared).ok()?;
        header_mac::find(store.header().metadata()).ok()?
    };
    let command = format!("luksmith header bless {}", shell(path));
    match (read(path), read(file)) {
        (Some(now), Some(then)) if then.counter.is_some() && then.epoch < now.epoch => {
            Some(format!(
                "The copy is of epoch {}, the header of {}: slots went in between, which come back. It has to be blessed \
             before it opens by itself: {command}",
                then.epoch, now.epoch
            ))
        }
        (Some(_), None) => Some(format!(
            "The header is blessed, the copy is not: nobody will notice changes until it is: {command}"
        )),
        _ => None,
    }
}

fn restore_failed(path: &Path, file: &Path, error: StoreError) -> Failure {
    let written = error.disk_was_written();
    let failure = errors::store(path, error);
    if !written {
        return failure;
    }
    let mut failure = failure
        .wrote("the header on the device may be unusable now; the backup and the data are whole")
        .hint("restore again, when the cause is gone");
    failure.commands = vec![format!(
        "luksmith header restore {} --header-backup-file {}",
        shell(path),
        shell(file)
    )];
    failure
}
