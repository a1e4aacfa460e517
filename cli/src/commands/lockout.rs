//! `tpm lockout`: how many wrong PINs the TPM takes, when it forgets them, and who may say so.
//!
//! Whoever knows the lockout authorization resets wrong PINs and changes the rules. Where none is set,
//! that is every system that boots on the machine. So one is set here, once: kept in a file of the
//! encrypted root, or typed. One that is set already may be another system's and is left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use luksmith_crypto::{CryptoError, Passphrase, SecretBytes};
use luksmith_tpm::{AuthValue, Facts, Lockout, LockoutRules, MAX_AUTH_BYTES, Tpm, TpmError};
use serde_json::json;

use crate::args::Args;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::passphrase::Source;
use crate::prompt;
use crate::state;
use crate::tpm_device;
use crate::whole_file;

/// The file with the authorization, in the folder of the state.
const KEPT: &str = "lockout.key";
/// Random bytes of an authorization, written as twice as many letters: all that every TPM takes.
const KEPT_BYTES: usize = MAX_AUTH_BYTES / 2;
/// Those of Windows: room for a bad day, and for less than 150 guesses on every other.
const RULES: LockoutRules = LockoutRules {
    max_tries: 32,
    forget_one_after_s: 600,
    recovery_s: 86_400,
};
/// Fewer lock out their owner.
const FEW_TRIES: u32 = 5;
/// More are for somebody who guesses.
const MANY_TRIES: u32 = 100;
/// Forgotten sooner, and too many can be tried in a day, in seconds.
const SOON_S: u32 = 300;
/// Forgotten later, and a locked TPM stays so for too long, in seconds.
const LATE_S: u32 = 86_400;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let (set, reset) = (args.flag("set"), args.flag("reset"));
    if set && reset {
        return Err(
            Failure::usage("one thing at a time: --set and --reset exclude each other").no_disk(),
        );
    }
    let rules = ["max-tries", "recovery-time", "lockout-recovery-time"];
    if let Some(option) = rules.iter().find(|one| args.number(one).is_some())
        && !set
    {
        return Err(
            Failure::usage(format!("option --{option} is refused: it needs --set")).no_disk(),
        );
    }
    let mut tpm = tpm_device::connect(args)?;
    let facts = tpm.facts().map_err(failed)?;
    if set {
        change(args, &mut tpm, &facts)
    } else if reset {
        let auth = known(args, &facts)?;
        tpm.reset_lockout(auth.as_ref()).map_err(failed)?;
        output::text("All wrong PINs are forgotten.\n")
    } else {
        show(args, &mut tpm, &facts)
    }
}

fn failed(error: TpmError) -> Failure {
    errors::tpm(&error).no_disk()
}

/// What is wrong with the rules, in a few words; `None` where there is nothing to say.
pub(super) fn too_much_or_too_little(rules: &LockoutRules) -> Option<String> {
    let LockoutRules {
        max_tries,
        forget_one_after_s,
        ..
    } = *rules;
    if forget_one_after_s == 0 {
        Some("wrong PINs are not counted: whoever has the machine can try them all".to_owned())
    } else if max_tries < FEW_TRIES {
        Some(format!("the TPM locks itself after {max_tries} wrong PINs"))
    } else if max_tries > MANY_TRIES || forget_one_after_s < SOON_S {
        let a_day = 86_400 / forget_one_after_s;
        Some(format!(
            "the TPM lets somebody try {max_tries} PINs at once and {a_day} more each day"
        ))
    } else if forget_one_after_s > LATE_S {
        let time = errors::span(forget_one_after_s.into());
        Some(format!("a locked TPM takes the next PIN after {time} only"))
    } else {
        None
    }
}

/// What should be done before PINs are entrusted to this TPM, in one sentence; `None` if all is well.
pub(super) fn advice(facts: &Facts, lockout: &Lockout) -> Option<String> {
    wrong_with(facts, lockout).map(|wrong| format!("{wrong}; better: luksmith tpm lockout --set"))
}

/// What speaks against entrusting PINs to this TPM.
pub(super) fn wrong_with(facts: &Facts, lockout: &Lockout) -> Option<String> {
    let open = (!facts.lockout_auth_set)
        .then(|| "any system that boots on this machine can reset the count of wrong PINs".into());
    let wrong: Vec<String> = too_much_or_too_little(&lockout.rules)
        .into_iter()
        .chain(open)
        .collect();
    (!wrong.is_empty()).then(|| wrong.join(", and "))
}

fn show(args: &Args, tpm: &mut dyn Tpm, facts: &Facts) -> Result<(), Failure> {
    let lockout = tpm.lockout().map_err(failed)?;
    let rules = lockout.rules;
    let kept = file(args);
    if args.flag("json") {
        return output::json(&json!({
            "schema": "luksmith.tpm-lockout/1",
            "locked": lockout.locked,
            "wrong_tries": lockout.wrong_tries,
            "tries_left": lockout.tries_left(),
            "max_tries": rules.max_tries,
            "forget_one_after_s": rules.forget_one_after_s,
            "recovery_s": rules.recovery_s,
            "authorization_set": facts.lockout_auth_set,
            "authorization_file": kept.exists().then(|| kept.to_string_lossy()),
            "advice": advice(facts, &lockout),
        }));
    }
    let who = match (facts.lockout_auth_set, kept.exists()) {
        (true, true) => format!("set; kept in {}", shell(&kept)),
        (true, false) => "set, and not kept by this system".to_owned(),
        (false, _) => "not set".to_owned(),
    };
    let after_wrong = match rules.recovery_s {
        0 => "until the next start".to_owned(),
        seconds => format!("for {}", errors::span(seconds.into())),
    };
    output::text(&format!(
        "Wrong PINs:     {}\nLockout auth:   {who}; a wrong one closes it {after_wrong}\n",
        tries(&lockout)
    ))?;
    if let Some(advice) = advice(facts, &lockout) {
        output::note(&format!("note: {advice}"));
    }
    Ok(())
}

/// Where things stand, in words.
pub(super) fn tries(lockout: &Lockout) -> String {
    let rules = lockout.rules;
    if rules.forget_one_after_s == 0 {
        return "not counted".to_owned();
    }
    let forget = errors::span(rules.forget_one_after_s.into());
    match lockout.tries_left() {
        0 => match lockout.remaining() {
            Some(time) => format!("locked, for at most {}", errors::span(time.as_secs())),
            None => "locked".to_owned(),
        },
        left => format!(
            "{} of {}, {left} left; one is forgotten every {forget}",
            lockout.wrong_tries, rules.max_tries
        ),
    }
}

/// Sets the rules, and the authorization where there is none.
fn change(args: &Args, tpm: &mut dyn Tpm, facts: &Facts) -> Result<(), Failure> {
    let said = |name, default| args.small(name).unwrap_or(default);
    let rules = LockoutRules {
        max_tries: said("max-tries", RULES.max_tries),
        forget_one_after_s: said("recovery-time", RULES.forget_one_after_s),
        recovery_s: said("lockout-recovery-time", RULES.recovery_s),
    };
    if facts.lockout_auth_set {
        let auth = known(args, facts)?;
        tpm.set_lockout_rules(&rules, auth.as_ref())
            .map_err(failed)?;
    } else {
        let (auth, kept) = new(args)?;
        tpm.set_lockout_rules(&rules, None).map_err(failed)?;
        if let Err(error) = tpm.set_lockout_auth(&auth, None) {
            // Whatever did not answer may have done it, and then this is the only copy.
            let unsure = matches!(error, TpmError::Transport(_) | TpmError::Tampered { .. });
            if let (Some(kept), false) = (&kept, unsure) {
                let _ = fs::remove_file(kept);
            }
            return Err(failed(error));
        }
        if let Some(kept) = &kept {
            output::note(&format!(
                "The lockout authorization is kept in {}: leave it on an encrypted disk.",
                shell(kept)
            ));
        }
        output::note(
            "Without it nobody resets wrong PINs: the TPM forgets them with time, or is cleared by the firmware.",
        );
    }
    let now = tpm.lockout().map_err(failed)?;
    output::text(&format!("Wrong PINs:     {}\n", tries(&now)))
}

fn file(args: &Args) -> PathBuf {
    state::folder(args).join(KEPT)
}

/// The authorization that is set, if one is.
fn known(args: &Args, facts: &Facts) -> Result<Option<AuthValue>, Failure> {
    if !facts.lockout_auth_set {
        return Ok(None);
    }
    let kept = file(args);
    let typed = if let Some(path) = args.path("auth-file") {
        Source::line_of(&path)?
    } else if args.flag("ask-auth") {
        Passphrase::new(prompt::passphrase(
            "Lockout authorization of the TPM: ",
            None,
        )?)
    } else if kept.exists() {
        Source::line_of(&kept)?
    } else {
        return Err(Failure::usage(
            "the lockout authorization of this TPM is set, and not by this system: it is left as it is",
        )
        .no_disk()
        .hint("another system on this machine may know it: give it with --auth-file or --ask-auth"));
    };
    value(&typed).map(Some)
}

/// A new authorization, and where it is kept if it was not given.
fn new(args: &Args) -> Result<(AuthValue, Option<PathBuf>), Failure> {
    if let Some(path) = args.path("auth-file") {
        return Ok((not_empty(&Source::line_of(&path)?)?, None));
    }
    if args.flag("ask-auth") {
        let first = prompt::passphrase("New lockout authorization of the TPM: ", None)?;
        let second = prompt::passphrase("The same again: ", None)?;
        if !first.ct_eq(&second) {
            return Err(Failure::usage("the two differ").no_disk());
        }
        return Ok((not_empty(&Passphrase::new(first))?, None));
    }
    let path = file(args);
    if !path.exists() {
        keep(&path, &random_letters().map_err(errors::crypto)?).map_err(|error| {
            let what = format!("cannot keep the authorization in {}: {error}", shell(&path));
            Failure::usage(what).no_disk()
        })?;
    }
    // Also one of a run that was cut off, or of a TPM that was cleared since.
    Ok((not_empty(&Source::line_of(&path)?)?, Some(path)))
}

fn not_empty(given: &Passphrase) -> Result<AuthValue, Failure> {
    if given.is_empty() {
        return Err(Failure::usage("the lockout authorization is empty").no_disk());
    }
    value(given)
}

fn value(given: &Passphrase) -> Result<AuthValue, Failure> {
    if given.len() > MAX_AUTH_BYTES {
        return Err(Failure::usage(format!(
            "a lockout authorization has at most {MAX_AUTH_BYTES} bytes"
        ))
        .no_disk());
    }
    SecretBytes::init_with(given.len(), |bytes| {
        bytes.copy_from_slice(given.expose());
        Ok::<(), CryptoError>(())
    })
    .and_then(AuthValue::new)
    .map_err(errors::crypto)
}

/// Letters, so that other programs and people can use it, too.
fn random_letters() -> Result<SecretBytes, CryptoError> {
    let random = SecretBytes::random(KEPT_BYTES)?;
    SecretBytes::init_with(2 * KEPT_BYTES, |letters| {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        for (two, byte) in letters.chunks_mut(2).zip(random.expose()) {
            two[0] = HEX[usize::from(byte >> 4)];
            two[1] = HEX[usize::from(byte & 15)];
        }
        Ok(())
    })
}

/// Before the TPM knows it.
fn keep(path: &Path, letters: &SecretBytes) -> io::Result<()> {
    let line = SecretBytes::init_with(letters.len() + 1, |line| {
        let (all, newline) = line.split_at_mut(letters.len());
        all.copy_from_slice(letters.expose());
        newline.copy_from_slice(b"\n");
        Ok::<(), CryptoError>(())
    })
    .map_err(io::Error::other)?;
    whole_file::write(path, line.expose())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(max_tries: u32, forget_one_after_s: u32) -> LockoutRules {
        LockoutRules {
            max_tries,
            forget_one_after_s,
            recovery_s: 0,
        }
    }

    #[test]
    fn rules_that_help_neither_side_are_told_and_good_ones_are_not() {
        assert_eq!(too_much_or_too_little(&RULES), None);
        // Those of many a machine as it is sold.
        assert_eq!(too_much_or_too_little(&rules(32, 7200)), None);
        for (rules, says) in [
            (rules(32, 0), "not counted"),
            (rules(3, 1000), "after 3 wrong PINs"),
            (rules(0, 600), "after 0 wrong PINs"),
            (rules(32, 1), "86400 more each day"),
            (rules(u32::MAX, 600), "144 more each day"),
            (rules(32, 100_000), "after 28 h only"),
        ] {
            let told = too_much_or_too_little(&rules).expect("something to say");
            assert!(told.contains(says), "{told}");
        }
    }

    #[test]
    fn what_is_kept_is_for_root_alone_and_as_long_as_a_tpm_takes() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/lockout.key");
        keep(&path, &random_letters().unwrap()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), MAX_AUTH_BYTES + 1);
        assert!(text.trim_end().bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(value(&Source::line_of(&path).unwrap()).is_ok());
    }
}
