//! `--wipe-slot` of `enroll`, and `tpm wipe`: slots go for what they were enrolled for.

use luksmith_crypto::{Passphrase, SecretBytes};
use luksmith_keyslot::{LastSlot, Target, Which, remove_all_of};
use luksmith_luks2::Token;
use luksmith_tpm::token::{ClevisTpm2, KIND as TPM_KIND};

use crate::args::Args;
use crate::commands::enroll::factor_of;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::session::{Session, confirm};

/// What stays possible after a TPM slot is gone; nobody shall believe more.
pub(super) const NOT_REVOKED: &str = "Whoever copied the old header can still open it with this TPM (and its \
                           PIN): only a new volume key or a cleared TPM ends that.";

/// The slots that shall go, as `--wipe-slot` says it.
pub(crate) struct Wish(Vec<Word>);

enum Word {
    All,
    Empty,
    Number(u8),
    Factor(String),
}

impl Wish {
    /// `None` without the option.
    pub(crate) fn read(args: &Args) -> Result<Option<Self>, Failure> {
        let Some(text) = args.text("wipe-slot") else {
            return Ok(None);
        };
        let mut words = Vec::new();
        for word in text.split(',') {
            words.push(match word {
                "all" => Word::All,
                "empty" => Word::Empty,
                "password" | "recovery" | "tpm2" | "fido2" | "pkcs11" => {
                    Word::Factor(word.to_owned())
                }
                _ => word.parse().ok().filter(|slot| *slot < 32).map(Word::Number).ok_or_else(
                    || {
                        Failure::usage(format!("--wipe-slot: {word:?} is no slot"))
                            .no_disk()
                            .hint("a number, all, empty, password, recovery, tpm2, fido2 or pkcs11; several with commas")
                    },
                )?,
            });
        }
        Ok(Some(Self(words)))
    }

    /// A slot that is named must be there before another one is made.
    pub(crate) fn check(&self, session: &Session) -> Result<(), Failure> {
        let missing = self.0.iter().find_map(|word| match word {
            Word::Number(slot) if session.metadata().keyslot(*slot).is_none() => Some(*slot),
            _ => None,
        });
        match missing {
            None => Ok(()),
            Some(slot) => Err(errors::plan(
                &session.header_path,
                luksmith_keyslot::PlanError::NoSuchSlot(slot),
            )),
        }
    }

    /// Removes them, but for the one that was just made.
    pub(crate) fn carry_out(
        &self,
        args: &Args,
        session: &mut Session,
        new: Option<u8>,
    ) -> Result<(), Failure> {
        let mut slots = Vec::new();
        let all: Vec<u8> = session.metadata().keyslots().keys().copied().collect();
        for slot in all {
            if Some(slot) != new && self.means(session, slot)? {
                slots.push(slot);
            }
        }
        if slots.is_empty() {
            output::note("No slot had to be wiped.");
            return Ok(());
        }
        session.ask_to_keep_blessed(args)?;
        wipe(session, &slots)
    }

    fn means(&self, session: &mut Session, slot: u8) -> Result<bool, Failure> {
        for word in &self.0 {
            let meant = match word {
                Word::All => true,
                Word::Number(number) => *number == slot,
                Word::Factor(factor) => factor_of(session.metadata(), slot) == *factor,
                Word::Empty => {
                    let nothing = Passphrase::new(SecretBytes::zeroed(0).map_err(errors::crypto)?);
                    session
                        .try_passphrase(Which::Only(slot), Target::AnyKey, &nothing)
                        .is_ok()
                }
            };
            if meant {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Runs `tpm wipe`.
pub(crate) fn tpm(args: &Args) -> Result<(), Failure> {
    let only = args.index("token-id");
    let mut session = Session::change(args)?;
    let name = shell(&session.header_path);
    let slots: Vec<u8> = session
        .metadata()
        .tokens()
        .iter()
        .filter(|(number, token)| leads_to_tpm(token) && only.is_none_or(|only| only == **number))
        .flat_map(|(_, token)| token.keyslots.clone())
        .collect();
    if slots.is_empty() {
        let what = match only {
            None => format!("{name} has no TPM slot"),
            Some(token) => format!("token {token} of {name} leads to no TPM slot"),
        };
        return Err(Failure::usage(what)
            .hint("see which tokens there are")
            .command(format!("luksmith tpm list {name}")));
    }
    let numbers: Vec<String> = slots.iter().map(u8::to_string).collect();
    confirm(
        args,
        &[format!(
            "The TPM will no longer open {name}: slot {} goes.",
            numbers.join(", ")
        )],
    )?;
    session.ask_to_keep_blessed(args)?;
    wipe(&mut session, &slots)
}

/// Whether a TPM opens what this token leads to, by systemd's form or that of clevis.
pub(super) fn leads_to_tpm(token: &Token) -> bool {
    token.kind == TPM_KIND || ClevisTpm2::parse(token).is_ok()
}

/// Removes slots, and the tokens that lead to nothing else.
fn wipe(session: &mut Session, slots: &[u8]) -> Result<(), Failure> {
    let of_tpm = slots
        .iter()
        .flat_map(|slot| session.metadata().tokens_of_keyslot(*slot))
        .any(|(_, token)| leads_to_tpm(token));
    let change = remove_all_of(session.header(), slots, LastSlot::Refuse)
        .map_err(|error| errors::plan(&session.header_path, error))?;
    session.apply(change)?;
    for slot in slots {
        output::text(&format!("Wiped slot {slot}.\n"))?;
    }
    if of_tpm {
        output::note(NOT_REVOKED);
    }
    Ok(())
}
