//! What a TPM refused although the volume was opened, by a passphrase or in another way.
//!
//! Who types a recovery key at boot sees the reason for a moment only. So it is kept until the slot is bound
//! anew: `status` and `doctor` tell it with the command that does so, and `open` offers it.

use std::fs;
use std::path::{Path, PathBuf};

use luksmith_tpm::token::{CLEVIS_KIND, SystemdTpm2};
use serde_json::{Value, json};

use crate::hint::shell;
use crate::output;
use crate::session::Session;
use crate::whole_file;

/// Beside what is known of open volumes; gone with the next start of the machine.
const FOLDER: &str = "/run/luksmith/.refused";

/// One token that would open in another state of the machine.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// Its number.
    pub token: u8,
    /// Why it does not open.
    pub why: String,
    /// What binds it to the present state.
    pub command: String,
}

impl Refusal {
    pub(crate) fn json(&self) -> Value {
        json!({ "token": self.token, "why": self.why, "command": self.command })
    }

    /// Whether it is the policy of the machine that has to change, not the slot.
    fn is_of_the_policy(&self) -> bool {
        self.command == UPDATE
    }

    /// Whether `tpm reseal` binds the slot anew.
    pub(crate) fn is_of_the_slot(&self) -> bool {
        self.command.starts_with(RESEAL)
    }

    fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
        Some(Self {
            token: value.get("token")?.as_u64()?.try_into().ok()?,
            why: text("why")?,
            command: text("command")?,
        })
    }
}

/// Those of the unlock that a session just made.
pub(crate) fn of(session: &Session) -> Vec<Refusal> {
    let one = |(number, why): (&u8, &String)| Refusal {
        token: *number,
        why: why.clone(),
        command: command(session, *number),
    };
    session.refused().iter().map(one).collect()
}

/// What binds a token to the present state.
fn command(session: &Session, number: u8) -> String {
    let tokens = session.metadata().tokens();
    let read = |number| SystemdTpm2::parse(tokens.get(number)?).ok();
    // Its policy lies in the TPM, not in the header.
    if read(&number).is_some_and(|token| token.pcrlock.is_some() && token.pcrs.is_empty()) {
        return UPDATE.to_owned();
    }
    let name = shell(&session.header_path);
    if tokens
        .get(&number)
        .is_some_and(|token| token.kind == CLEVIS_KIND)
    {
        return format!("luksmith tpm migrate {name}");
    }
    if session.refused().len() > 1 {
        format!("{RESEAL} {name} --token-id {number}")
    } else {
        format!("{RESEAL} {name}")
    }
}

/// What rewrites the policy of this machine.
const UPDATE: &str = "luksmith tpm update";
/// What binds a slot anew.
const RESEAL: &str = "luksmith tpm reseal";

/// Keeps what this session found, in place of what was known before.
pub(crate) fn keep(session: &Session) {
    let uuid = session.header().uuid();
    let refusals = of(session);
    if refusals.is_empty() {
        return forget(uuid);
    }
    let rows: Vec<Value> = refusals.iter().map(Refusal::json).collect();
    if let Err(error) = whole_file::write(&file(uuid), Value::from(rows).to_string().as_bytes()) {
        output::note(&format!(
            "note: 'luksmith status' will not know what the TPM refused: {FOLDER}: {error}"
        ));
    }
}

/// What is known of a volume.
pub(crate) fn recall(uuid: &str) -> Vec<Refusal> {
    read(&file(uuid))
}

/// A slot was bound anew, or all opened well.
pub(crate) fn forget(uuid: &str) {
    let _ = fs::remove_file(file(uuid));
}

/// The policy of this machine was rewritten, to which slots of several volumes may be bound.
pub(crate) fn forget_policy() {
    for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        if read(&entry.path()).iter().all(Refusal::is_of_the_policy) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn read(file: &Path) -> Vec<Refusal> {
    let rows = fs::read(file).ok();
    let rows = rows.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let rows = rows.as_ref().and_then(Value::as_array);
    rows.into_iter()
        .flatten()
        .filter_map(Refusal::parse)
        .collect()
}

fn file(uuid: &str) -> PathBuf {
    // A UUID comes from a disk and must not lead anywhere.
    Path::new(FOLDER).join(format!("{}.json", uuid.replace(['/', '.'], "_")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_read_as_it_was_written() {
        let refusal = Refusal {
            token: 3,
            why: "PCR 7 has another value".into(),
            command: "luksmith tpm reseal '/dev/my disk'".into(),
        };
        assert_eq!(Refusal::parse(&refusal.json()), Some(refusal));
        assert_eq!(
            Refusal::parse(&json!({ "token": 300, "why": "", "command": "" })),
            None
        );
        assert!(file("../../etc/x").starts_with(FOLDER));
        assert!(!file("../../etc/x").to_string_lossy().contains(".."));
    }
}
