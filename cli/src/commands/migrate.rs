//! `tpm migrate`: from a slot that clevis made to one of systemd's form.

use luksmith_keyslot::{LastSlot, Target, Unlocked, Which, has_recovery_key, remove_all_of};
use luksmith_tpm::TpmError;
use luksmith_tpm::token::{CLEVIS_KIND, ClevisTpm2};

use crate::args::Args;
use crate::commands::enroll;
use crate::commands::tpm_plan::{Bound, TpmPlan, Unsaid};
use crate::commands::wipe::NOT_REVOKED;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::passphrase::Source;
use crate::session::Session;

/// A token of clevis, and the one slot that it leads to.
struct Old {
    number: u8,
    slot: u8,
    token: ClevisTpm2,
}

/// Runs the verb. Each step leaves every way in that there was before:
///
/// 1. what the new slot needs is sealed, and unsealed, which writes nothing;
/// 2. a recovery key, unless there is one;
/// 3. the new slot and its token, in one commit;
/// 4. the new slot opened, from the disk;
/// 5. the old slot and its token go, in one commit.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut session = Session::change(args)?;
    let old = the_token(args, &session)?;
    let pcrs: Vec<u8> = old.token.pcrs.iter().flat_map(|it| it.pcrs()).collect();
    let unsaid = match pcrs.as_slice() {
        [] => Unsaid::Pin,
        pcrs => Unsaid::These(pcrs),
    };
    let plan = TpmPlan::read(args, unsaid)?;
    let unlocked = open(args, &mut session, &old)?;
    output::note(&format!("{}.", plan.in_a_sentence()));
    let sealed = plan.prepare(args, &session)?;
    if !args.flag("no-recovery-key") && !has_recovery_key(session.metadata()) {
        enroll::recovery(args, &mut session, &unlocked.key)?;
    }
    let bound = sealed.write(args, &mut session, &unlocked.key)?;
    check(&mut session, &bound)?;
    let slots = [old.slot];
    if !bound.tried && is_needed(&session, &bound, &old) {
        output::note(&format!(
            "Token {} of clevis is still there, until the new one has opened once: luksmith tpm wipe {} --token-id {0}",
            old.number,
            shell(&session.header_path)
        ));
        return Ok(());
    }
    let change = remove_all_of(session.header(), &slots, LastSlot::Refuse)
        .map_err(|error| errors::plan(&session.header_path, error))?;
    session.apply(change)?;
    output::note(&format!(
        "Token {} of clevis and its slot {} are gone.",
        old.number, old.slot
    ));
    output::note(NOT_REVOKED);
    Ok(())
}

/// The volume key, by the token itself or else by a passphrase.
fn open(args: &Args, session: &mut Session, old: &Old) -> Result<Unlocked, Failure> {
    if let Some(unlocked) = session.by_this_token(args, old.number, Target::Data)? {
        return Ok(unlocked);
    }
    let source = Source::existing(args, None);
    let question = format!("Passphrase for {}", session.data_path.display());
    let (unlocked, _) =
        session.unlock(args, &source, Which::ByPriority, Target::Data, &question)?;
    if unlocked.slot == Some(old.slot) {
        return Err(Failure::usage(format!(
            "this passphrase opens slot {}, which would go with token {}",
            old.slot, old.number
        ))
        .hint("take the slot out of the token, or use another passphrase")
        .command(format!(
            "luksmith token unassign {} --token-id {} --key-slot {}",
            shell(&session.header_path),
            old.number,
            old.slot
        )));
    }
    Ok(unlocked)
}

/// Whether what was just written opens, read from the disk.
fn check(session: &mut Session, bound: &Bound) -> Result<(), Failure> {
    let passphrase = bound.enrolled.passphrase();
    let opened = session.try_passphrase(Which::Only(bound.slot), Target::Data, passphrase);
    opened.map(|_| ()).map_err(|error| {
        errors::unlock(&session.header_path, &error)
            .wrote("the new slot was written and does not open; the one of clevis is untouched")
    })
}

/// Whether nobody could get in without the old slot, should the new one not open at the next boot.
fn is_needed(session: &Session, bound: &Bound, old: &Old) -> bool {
    remove_all_of(session.header(), &[old.slot, bound.slot], LastSlot::Refuse).is_err()
}

/// The token that is meant: the one that was named, or the only one.
fn the_token(args: &Args, session: &Session) -> Result<Old, Failure> {
    let name = shell(&session.header_path);
    let wanted = args.index("token-id");
    let wrong = |what: String| {
        Failure::usage(format!("{name}: {what}"))
            .hint("see which tokens there are, and name one with --token-id")
            .command(format!("luksmith tpm list {name}"))
    };
    let mut found = Vec::new();
    let mut others = Vec::new();
    for (number, token) in session.metadata().tokens() {
        if token.kind != CLEVIS_KIND || wanted.is_some_and(|wanted| wanted != *number) {
            continue;
        }
        match ClevisTpm2::parse(token) {
            Ok(read) => found.push((*number, token, read)),
            Err(error) => others.push((*number, error)),
        }
    }
    match found.len() {
        0 => {
            return Err(
                none(&others).map_or_else(|| wrong("there is no slot of clevis".into()), wrong)
            );
        }
        1 => {}
        _ => return Err(wrong("there is more than one slot of clevis".into())),
    }
    let (number, token, read) = found.remove(0);
    let [slot] = *token.keyslots else {
        return Err(wrong(format!(
            "token {number} does not lead to one slot alone"
        )));
    };
    if session.metadata().tokens_of_keyslot(slot).count() > 1 {
        return Err(wrong(format!("slot {slot} belongs to another token, too")));
    }
    Ok(Old {
        number,
        slot,
        token: read,
    })
}

/// Why there is none to migrate, where there are tokens of clevis.
fn none(others: &[(u8, TpmError)]) -> Option<String> {
    let (number, error) = others.first()?;
    Some(format!("token {number} cannot be moved: {error}"))
}
