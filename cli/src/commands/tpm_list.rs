//! `tpm list`: the tokens that a TPM opens, and whether each would open now. No try is spent on it.

use luksmith_luks2::Token;
use luksmith_tpm::token::{CLEVIS_KIND, ClevisTpm2, KIND, Pin, PolicyFiles, SystemdTpm2};
use luksmith_tpm::{HashAlg, Tpm, TpmError};
use serde_json::{Value, json};

use crate::args::Args;
use crate::hint::{Failure, shell};
use crate::output;
use crate::session::Session;
use crate::tpm_device;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let session = Session::read(args)?;
    let mut tpm = tpm_device::connect(args);
    let files = tpm_device::policy_files(args);
    let mut rows = Vec::new();
    for (number, token) in session.metadata().tokens() {
        let tpm = tpm.as_mut().ok().map(|tpm| tpm as &mut dyn Tpm);
        rows.extend(Row::of(*number, token, tpm, &files));
    }
    if args.flag("json") {
        let rows: Vec<Value> = rows.iter().map(Row::json).collect();
        return output::json(&json!({
            "schema": "luksmith.tpm-slots/1",
            "device": session.header_path.to_string_lossy(),
            "uuid": session.header().uuid(),
            "tokens": rows,
        }));
    }
    if rows.is_empty() {
        return output::text("No TPM opens this volume.\n");
    }
    let title = ["TOKEN", "TYPE", "SLOT", "PCRS", "BANK", "PIN", "OPENS NOW"];
    let mut table = vec![title.map(String::from).to_vec()];
    table.extend(rows.iter().map(Row::columns));
    output::text(&output::table(&table))?;
    for row in rows.iter().filter(|row| row.by_presence()) {
        output::note(&format!(
            "warning: token {0} is bound to no PCR and no PIN: whoever has this machine has the key. {1}",
            row.number,
            row.way_out(&shell(&session.header_path))
        ));
    }
    Ok(())
}

/// One token as it is shown.
pub(super) struct Row {
    pub(super) number: u8,
    kind: String,
    slots: Vec<u8>,
    read: Result<Form, TpmError>,
    /// What stands in the way now, or nothing.
    pub(super) obstacle: Option<String>,
    /// That it is only because a volume is open already.
    pub(super) too_late: bool,
}

/// What a token says, in either form.
enum Form {
    Systemd(SystemdTpm2),
    Clevis(ClevisTpm2),
}

impl Form {
    fn pcrs(&self) -> Vec<u8> {
        match self {
            Self::Systemd(token) => token.pcrs.clone(),
            Self::Clevis(token) => token.pcrs.iter().flat_map(|it| it.pcrs()).collect(),
        }
    }

    fn bank(&self) -> Option<HashAlg> {
        match self {
            Self::Systemd(token) => token.bank,
            Self::Clevis(token) => token.pcrs.map(|selection| selection.bank()),
        }
    }

    fn pin(&self) -> &'static str {
        match self {
            Self::Clevis(_) => "no",
            Self::Systemd(token) => match token.pin {
                Pin::None => "no",
                Pin::Plain => "hashed",
                Pin::Salted { .. } => "direct",
                Pin::Argon2id { .. } => "argon2id",
            },
        }
    }

    /// Whether nothing but the TPM itself is needed.
    fn by_presence(&self) -> bool {
        match self {
            Self::Clevis(token) => token.pcrs.is_none(),
            Self::Systemd(token) => {
                let bound = token.signed.is_some() || token.pcrlock.is_some();
                token.pcrs.is_empty() && !bound && !token.pin.is_needed()
            }
        }
    }

    /// Whether the machine's state fits, and the TPM takes a try where one is needed.
    fn check(&self, tpm: &mut dyn Tpm, files: &PolicyFiles) -> Result<(), TpmError> {
        match self {
            Self::Clevis(token) => token.fitting_policy(tpm).map(|_| ()),
            Self::Systemd(token) => {
                token.fitting_policies(tpm, files)?;
                if token.pin.is_needed() {
                    let lockout = tpm.lockout()?;
                    if lockout.tries_left() == 0 {
                        return Err(TpmError::LockedOut {
                            remaining: lockout.remaining(),
                        });
                    }
                }
                Ok(())
            }
        }
    }
}

impl Row {
    /// `None` for a token of another kind. Each pin of clevis has a row: one that is not understood
    /// here may lead to a TPM all the same.
    pub(super) fn of(
        number: u8,
        token: &Token,
        tpm: Option<&mut dyn Tpm>,
        files: &PolicyFiles,
    ) -> Option<Self> {
        let read = match &*token.kind {
            KIND => SystemdTpm2::parse(token).map(Form::Systemd),
            CLEVIS_KIND => ClevisTpm2::parse(token).map(Form::Clevis),
            _ => return None,
        };
        let mut too_late = false;
        let obstacle = match (&read, tpm) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(_), None) => Some("no TPM".to_owned()),
            (Ok(read), Some(tpm)) => read.check(tpm, files).err().map(|error| match error {
                TpmError::PolicyMismatch { detail } => detail,
                TpmError::TooLate { .. } => {
                    too_late = true;
                    error.to_string()
                }
                other => other.to_string(),
            }),
        };
        Some(Self {
            number,
            kind: token.kind.clone(),
            slots: token.keyslots.clone(),
            read,
            obstacle,
            too_late,
        })
    }

    pub(super) fn by_presence(&self) -> bool {
        self.read.as_ref().is_ok_and(Form::by_presence)
    }

    /// What to do about a slot that opens too easily.
    pub(super) fn way_out(&self, name: &str) -> String {
        match self.read {
            Ok(Form::Clevis(_)) => format!(
                "Bind it to more: luksmith tpm migrate {name} --token-id {}",
                self.number
            ),
            _ => format!(
                "Make a better one, then remove it: luksmith tpm enroll {name} && \
                 luksmith tpm wipe {name} --token-id {}",
                self.number
            ),
        }
    }

    fn columns(&self) -> Vec<String> {
        let listed = |numbers: &[u8]| {
            let words: Vec<String> = numbers.iter().map(u8::to_string).collect();
            if words.is_empty() {
                "-".to_owned()
            } else {
                words.join("+")
            }
        };
        let pin = self.pin();
        let (pcrs, bank) = match &self.read {
            Ok(read) => (listed(&read.pcrs()), read.bank().map_or("-", HashAlg::name)),
            Err(_) => ("?".to_owned(), "?"),
        };
        let opens = match (&self.obstacle, pin) {
            (Some(why), _) => format!("no: {why}"),
            (None, "no") if self.by_presence() => "yes, on this machine alone".to_owned(),
            (None, "no") => "yes".to_owned(),
            (None, _) => "with the PIN".to_owned(),
        };
        vec![
            self.number.to_string(),
            self.kind.clone(),
            listed(&self.slots),
            pcrs,
            bank.to_owned(),
            pin.to_owned(),
            opens,
        ]
    }

    fn pin(&self) -> &'static str {
        self.read.as_ref().map_or("?", Form::pin)
    }

    fn json(&self) -> Value {
        let read = self.read.as_ref().ok();
        json!({
            "token": self.number,
            "type": self.kind,
            "keyslots": self.slots,
            "pcrs": read.map(Form::pcrs),
            "bank": read.and_then(Form::bank).map(HashAlg::name),
            "pin": self.pin(),
            "by_presence": read.map(Form::by_presence),
            "opens_now": self.obstacle.is_none(),
            "obstacle": self.obstacle,
        })
    }
}
