//! The volume key by a token of the header: which tokens, whom to ask for a PIN, what is said
//! when none opens.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use luksmith_crypto::{Passphrase, SecretBytes};
use luksmith_keyslot::{
    Outcome, PinRequest, Target, TokenError, TokenUnlock, UnlockError, UnlockErrorKind, Unlocked,
    Which,
};
use luksmith_luks2::{Area, Token};
use luksmith_tpm::token::TpmTokens;

use super::Session;
use crate::args::Args;
use crate::errors;
use crate::exit::Exit;
use crate::hint::Failure;
use crate::output;
use crate::passphrase::Source;
use crate::prompt::Asker;
use crate::refusal;
use crate::tpm_device;

/// When tokens are tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tokens {
    /// First of all, unless a key file was given: to open a volume.
    First(Asker),
    /// Only when an option asks for it: to change one. Whoever may use the machine's TPM need not be
    /// somebody who knows a passphrase.
    WhenAsked,
}

impl Tokens {
    /// Who is asked for a PIN.
    fn asker(self) -> Asker {
        match self {
            Self::First(asker) => asker,
            Self::WhenAsked => Asker::Terminal,
        }
    }
}

/// Options that ask for tokens.
fn asked(args: &Args) -> bool {
    only(args) || args.index("token-id").is_some() || args.text("token-type").is_some()
}

/// Options after which nothing else is tried.
pub(super) fn only(args: &Args) -> bool {
    args.flag("token-only") || args.text("unlock-tpm2-device").is_some()
}

impl Session {
    /// Tries the tokens. `None`: none opened, and a passphrase may be asked for.
    pub(crate) fn by_token(
        &mut self,
        args: &Args,
        target: Target,
        tokens: Tokens,
    ) -> Result<Option<Unlocked>, Failure> {
        let asked = asked(args);
        let elsewhere = args.path("key-file").is_some() || args.index("key-slot").is_some();
        if !asked && (tokens == Tokens::WhenAsked || elsewhere) {
            return Ok(None);
        }
        let which = args
            .index("token-id")
            .map_or(Which::ByPriority, Which::Only);
        self.by_tokens_of(args, target, tokens.asker(), which)
    }

    /// Tries one token, whether or not options ask for it. `None`: it did not open, which was said.
    pub(crate) fn by_this_token(
        &mut self,
        args: &Args,
        number: u8,
        target: Target,
    ) -> Result<Option<Unlocked>, Failure> {
        self.by_tokens_of(args, target, Asker::Terminal, Which::Only(number))
    }

    fn by_tokens_of(
        &mut self,
        args: &Args,
        target: Target,
        asker: Asker,
        which: Which,
    ) -> Result<Option<Unlocked>, Failure> {
        let place = tpm_device::to_unlock(args)?;
        let tpm = TpmTokens::new(|| place.open()).with_files(tpm_device::policy_files(args));
        if which == Which::ByPriority && !asked(args) && !self.has_token_of(&tpm) {
            return Ok(None);
        }
        let source = PinSource::new(args, asker, &self.data_path, self.pin.take());
        let mut tries = source.tries(args);
        loop {
            let witness = Witness::of(&tpm);
            let tried = self.walk_tokens(args, target, which, &witness, &source);
            self.refused = self.numbered(witness);
            let error = match tried {
                Ok(unlocked) => {
                    self.remember(&unlocked);
                    return Ok(Some(unlocked));
                }
                Err(error) => error,
            };
            tries -= 1;
            let wrong_pin = failed_by(&error, |why| matches!(why, TokenError::WrongPin));
            if tries > 0 && wrong_pin && !source.declined.get() {
                asker.tell("The TPM does not take this PIN.");
                continue;
            }
            if only(args) {
                return Err(self.only_tokens(args, &error));
            }
            for line in &errors::unlock(&self.header_path, &error).details {
                output::note(line);
            }
            for refused in refusal::of(self) {
                output::note(&format!(
                    "hint: if the change was yours, bind the TPM anew: {}",
                    refused.command
                ));
            }
            return Ok(None);
        }
    }

    /// The tokens that a witness saw refused, by their numbers.
    fn numbered(&self, witness: Witness<'_>) -> BTreeMap<u8, String> {
        let refused = witness.refused.into_inner();
        let number = |one: &Token| {
            let mut all = self.metadata().tokens().iter();
            all.find(|(_, token)| *token == one)
                .map(|(number, _)| *number)
        };
        refused
            .into_iter()
            .filter_map(|(token, why)| Some((number(&token)?, why)))
            .collect()
    }

    fn has_token_of(&self, handler: &dyn TokenUnlock) -> bool {
        self.metadata()
            .tokens()
            .values()
            .any(|token| handler.kinds().contains(&&*token.kind))
    }

    fn walk_tokens(
        &mut self,
        args: &Args,
        target: Target,
        which: Which,
        tpm: &dyn TokenUnlock,
        pins: &PinSource,
    ) -> Result<Unlocked, UnlockError> {
        let Self { store, limits, .. } = self;
        let store = &*store;
        let mut areas =
            |area: Area, len: usize| store.read_area(area.offset, len as u64).map_err(Into::into);
        luksmith_keyslot::unlock_by_tokens(
            store.header(),
            which,
            args.text("token-type").as_deref(),
            target,
            &[tpm],
            &mut |request| pins.read(&request),
            &mut areas,
            limits,
        )
    }

    /// Nothing else may be tried.
    fn only_tokens(&self, args: &Args, error: &UnlockError) -> Failure {
        let mut failure = errors::unlock(&self.header_path, error);
        if error.kind == UnlockErrorKind::NoSuchSlot {
            return failure;
        }
        if matches!(
            error.kind,
            UnlockErrorKind::NothingToTry | UnlockErrorKind::Unsupported
        ) {
            failure.exit = Exit::Failure;
        }
        failure.commands.clear();
        if args.flag("token-only") {
            failure.hint("leave out --token-only to be asked for a passphrase")
        } else {
            failure.hint("leave out --unlock-tpm2-device to be asked for a passphrase")
        }
    }
}

/// Listens to what tokens answer, since of a walk that ends well nothing else is told.
struct Witness<'a> {
    inner: &'a dyn TokenUnlock,
    /// Those that would open in another state of the machine, and why they do not now.
    refused: RefCell<Vec<(Token, String)>>,
}

impl<'a> Witness<'a> {
    fn of(inner: &'a dyn TokenUnlock) -> Self {
        Self {
            inner,
            refused: RefCell::new(Vec::new()),
        }
    }
}

impl TokenUnlock for Witness<'_> {
    fn kinds(&self) -> &[&str] {
        self.inner.kinds()
    }

    fn unlock(
        &self,
        token: &Token,
        pin: &mut dyn FnMut(PinRequest<'_>) -> Option<Passphrase>,
    ) -> Result<Passphrase, TokenError> {
        let answer = self.inner.unlock(token, pin);
        if let Err(TokenError::PolicyMismatch(why)) = &answer {
            self.refused.borrow_mut().push((token.clone(), why.clone()));
        }
        answer
    }
}

/// Whether a token failed for this reason.
fn failed_by(error: &UnlockError, reason: impl Fn(&TokenError) -> bool) -> bool {
    error
        .attempts
        .iter()
        .any(|attempt| matches!(&attempt.outcome, Outcome::Token(why) if reason(why)))
}

/// Who is asked for a PIN: a file, or the person at the terminal, or nobody.
struct PinSource {
    /// First, and once.
    at_hand: RefCell<Option<Passphrase>>,
    file: Option<PathBuf>,
    asker: Asker,
    volume: String,
    /// Somebody answered with an empty line: a passphrase it shall be.
    declined: Cell<bool>,
}

impl PinSource {
    fn new(args: &Args, asker: Asker, volume: &Path, at_hand: Option<Passphrase>) -> Self {
        Self {
            at_hand: RefCell::new(at_hand),
            file: args.path("pin-file"),
            asker,
            volume: volume.display().to_string(),
            declined: Cell::new(false),
        }
    }

    /// A PIN in a file is the same the next time, and each time costs a try.
    fn tries(&self, args: &Args) -> u32 {
        let at_hand = u32::from(self.at_hand.borrow().is_some());
        match &self.file {
            None if self.asker.is_there() => args.small("tries").unwrap_or(3) + at_hand,
            _ => 1,
        }
    }

    fn read(&self, request: &PinRequest<'_>) -> Option<Passphrase> {
        if let Some(pin) = self.at_hand.take() {
            return Some(pin);
        }
        if let Some(file) = &self.file {
            return match Source::line_of(file) {
                Ok(pin) => Some(pin),
                Err(failure) => {
                    output::note(&failure.what);
                    None
                }
            };
        }
        if !self.asker.is_there() || self.declined.get() {
            return None;
        }
        let left = match request.tries_left {
            None => String::new(),
            Some(1) => " (the last try before it locks itself)".to_owned(),
            Some(n) => format!(" ({n} tries left)"),
        };
        let question = format!("{} for {}{left}", request.what, self.volume);
        let typed = self.asker.secret(&question, None).ok();
        let typed = typed.filter(|typed: &SecretBytes| !typed.is_empty());
        self.declined.set(typed.is_none());
        typed.map(Passphrase::new)
    }
}
