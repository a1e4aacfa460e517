//! The MAC over the header: compared before a volume is opened, kept with every change.
//!
//! What it says and how stands in [`luksmith_keyslot::header_mac`].

use luksmith_crypto::VolumeKey;
use luksmith_keyslot::header_mac::{self, Counter, HeaderMac};
use luksmith_keyslot::{Target, Unlocked, Which};
use luksmith_luks2::Change;
use luksmith_tpm::wire::Name;
use luksmith_tpm::{Native, NvCounter, TpmError};

use super::{Session, Tokens, by_token};
use crate::args::Args;
use crate::errors;
use crate::exit::Exit;
use crate::hint::{Failure, shell, step_was_written};
use crate::output;
use crate::passphrase::Source;
use crate::prompt;
use crate::tpm_device::Place;

/// What a header must have to be opened by a machine alone: `--header-mac`, and `header-mac=` in crypttab. The header
/// cannot say it itself: whoever changes it would take that out, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Demand {
    /// The right MAC, if it has one.
    Nothing,
    /// The right MAC.
    Mac,
    /// The right MAC, and an epoch that a counter in a TPM confirms: any that the header names, or this one alone. A
    /// header from before it was tied to another counter names one that stands still for ever.
    Counter(Option<u32>),
}

impl Demand {
    /// By its word: `required`, `counter`, or `counter:` and the handle of the NV index in hexadecimal. The handle is
    /// enough: the name of a counter of ours follows from it (see [`NvCounter`]).
    pub(crate) fn read(word: &str) -> Option<Self> {
        match word {
            "required" => Some(Self::Mac),
            "counter" => Some(Self::Counter(None)),
            _ => {
                let digits = word.strip_prefix("counter:0x")?;
                let plain = digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
                let handle = u32::from_str_radix(digits, 16).ok().filter(|_| plain)?;
                (handle >> 24 == NV_INDICES).then_some(Self::Counter(Some(handle)))
            }
        }
    }

    /// What `--header-mac` demands.
    fn of(args: &Args) -> Result<Self, Failure> {
        let Some(word) = args.text("header-mac") else {
            return Ok(Self::Nothing);
        };
        Self::read(&word).ok_or_else(|| {
            Failure::usage(format!("--header-mac: {word:?} is no demand"))
                .no_disk()
                .hint("required, counter, or the counter: as header bless and fingerprint print it")
        })
    }

    /// The word that demands a counter.
    pub(crate) fn word_for(counter: &Counter) -> String {
        format!("counter:{:#010x}", counter.handle)
    }
}

/// The way out, where a header is tied to another counter than the one that is demanded.
const OTHER_COUNTER: &str = "if you tied it to that counter, name it where header-mac= stands in /etc/crypttab, also in the initramfs";

/// First byte of the handle of an NV index (TPM 2.0 Library, part 2, 7.2).
const NV_INDICES: u32 = 1;

/// Why a header is not taken for what its owner left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Doubt {
    /// A sentence without a beginning.
    what: String,
    /// All is well but for the counter, which is another than the one that was demanded.
    other_counter: bool,
}

impl Session {
    /// The volume key to open a volume with. A header that is in doubt opens only for a person who says so.
    pub(crate) fn key_to_open(
        &mut self,
        args: &Args,
        target: Target,
        asker: prompt::Asker,
    ) -> Result<Unlocked, Failure> {
        let demand = Demand::of(args)?;
        let accept = args.flag("accept-changed-header");
        if let Some(path) = args.path("volume-key-file") {
            let unlocked = self.by_volume_key_file(&path)?;
            return match self.doubt(&unlocked, demand)? {
                Some(doubt) if !accept => Err(self.refusal(&doubt)),
                doubt => self.told(doubt.as_ref(), unlocked),
            };
        }
        if let Some(unlocked) = self.by_token(args, target, Tokens::First(asker))? {
            match self.doubt(&unlocked, demand)? {
                Some(doubt) if !accept && by_token::only(args) => return Err(self.refusal(&doubt)),
                Some(doubt) if !accept => {
                    drop(unlocked);
                    self.tell(&doubt);
                    output::note("No token opens it now; a passphrase that somebody types does.");
                }
                doubt => return self.told(doubt.as_ref(), unlocked),
            }
        }
        let which = args
            .index("key-slot")
            .map_or(Which::ByPriority, Which::Only);
        let source = Source::existing(args, None);
        let question = format!("Passphrase for {}", self.data_path.display());
        let (unlocked, _) = self.unlock(args, &source, which, target, &question)?;
        match self.doubt(&unlocked, demand)? {
            None => Ok(unlocked),
            Some(doubt) if accept => self.told(Some(&doubt), unlocked),
            Some(doubt) if source.typed() && !args.flag("batch-mode") => {
                let lines = [
                    format!("WARNING: {}", self.sentence(&doubt)),
                    "Unless that was you, somebody else had the disk in hand.".to_owned(),
                ];
                if prompt::confirm(&lines)? {
                    Ok(unlocked)
                } else {
                    Err(self.refusal(&doubt))
                }
            }
            Some(doubt) => Err(self.refusal(&doubt)),
        }
    }

    fn told(&self, doubt: Option<&Doubt>, unlocked: Unlocked) -> Result<Unlocked, Failure> {
        if let Some(doubt) = doubt {
            self.tell(doubt);
        }
        Ok(unlocked)
    }

    /// What speaks against the header, once its volume key is known. Nothing appears before this was asked.
    pub(crate) fn doubt(
        &mut self,
        unlocked: &Unlocked,
        demand: Demand,
    ) -> Result<Option<Doubt>, Failure> {
        if !unlocked.bound {
            return Ok(None);
        }
        let key = header_mac::header_mac_key(&unlocked.key).map_err(errors::crypto)?;
        let doubt = |what: String| {
            Ok(Some(Doubt {
                what,
                other_counter: false,
            }))
        };
        let found = match header_mac::check(self.header(), &key) {
            Err(why) => return doubt(format!("is not as its owner left it: {why}")),
            Ok(None) if demand == Demand::Nothing => return Ok(None),
            Ok(None) => return doubt("has no MAC, and must have one".to_owned()),
            Ok(Some(found)) => found,
        };
        let Some(counter) = &found.counter else {
            return match demand {
                Demand::Counter(_) => doubt("is tied to no counter, and must be".to_owned()),
                _ => Ok(None),
            };
        };
        if let Demand::Counter(Some(handle)) = demand
            && handle != counter.handle
        {
            return Ok(Some(Doubt {
                what: format!(
                    "is tied to the counter {:#010x} of the TPM, and must be to {handle:#010x}",
                    counter.handle
                ),
                other_counter: true,
            }));
        }
        match self.count(counter) {
            Ok(now) if now > found.epoch => doubt(format!(
                "is an old one that was put back: its epoch is {}, and that of the TPM {now}",
                found.epoch
            )),
            Ok(now) => {
                // A crash between header and counter: what the header took away could come back until now.
                if now < found.epoch {
                    self.raise(counter, found.epoch);
                }
                Ok(None)
            }
            Err(why) => doubt(format!(
                "may be an old one, as its epoch {} cannot be compared with the counter of the TPM: {}",
                found.epoch,
                errors::chain(&why)
            )),
        }
    }

    /// Asks for a passphrase where a command needs none, but the header only stays blessed with one. Nobody there: it is
    /// said afterwards that it has to be blessed.
    pub(crate) fn ask_to_keep_blessed(&mut self, args: &Args) -> Result<(), Failure> {
        let source = Source::existing(args, None);
        let asked = source.typed() && !args.flag("batch-mode");
        let given = args.path("key-file").is_some();
        let blessed = matches!(header_mac::find(self.metadata()), Ok(Some(_)));
        if !blessed || self.mac_key.is_some() || !(asked || given) {
            return Ok(());
        }
        let question = format!("Passphrase for {}", self.header_path.display());
        self.unlock(args, &source, Which::ByPriority, Target::Data, &question)
            .map(|_| ())
    }

    /// Whether a TPM is needed to judge the header.
    pub(crate) fn names_counter(&self) -> bool {
        matches!(header_mac::find(self.metadata()), Ok(Some(found)) if found.counter.is_some())
    }

    /// The doubt as a sentence.
    fn sentence(&self, doubt: &Doubt) -> String {
        format!("the header of {} {}.", shell(&self.header_path), doubt.what)
    }

    /// Says it.
    pub(crate) fn tell(&self, doubt: &Doubt) {
        // Whoever types a passphrase has to know it.
        prompt::Asker::TerminalOrAgents.tell(&format!("WARNING: {}", self.sentence(doubt)));
        let name = shell(&self.header_path);
        output::note(&if doubt.other_counter {
            format!("Look at it: luksmith dump {name}; {OTHER_COUNTER}")
        } else {
            format!("If that was you, or cryptsetup for you: luksmith header bless {name}")
        });
    }

    /// The volume stays shut.
    pub(crate) fn refusal(&self, doubt: &Doubt) -> Failure {
        let name = shell(&self.header_path);
        let failure = Failure::new(
            Exit::NoPermission,
            format!("{name} is not opened: its header {}", doubt.what),
        )
        .command(format!("luksmith dump {name}"));
        if doubt.other_counter {
            return failure.hint(format!(
                "{OTHER_COUNTER}; otherwise it is an old one that was put back; --accept-changed-header opens it as it is"
            ));
        }
        failure
            .hint("look at it, and bless it if the change was yours; --accept-changed-header opens it as it is")
            .command(format!("luksmith header bless {name}"))
    }

    /// Remembers the key for the MAC, so that what is changed next stays blessed.
    pub(super) fn remember(&mut self, unlocked: &Unlocked) {
        let default = self.metadata().default_digest().map(|(number, _)| number);
        if unlocked.bound && default == Some(unlocked.digest) {
            self.remember_key(&unlocked.key);
        }
    }

    fn remember_key(&mut self, key: &VolumeKey) {
        // Without it the header is changed all the same, and it is said that it has to be blessed.
        self.mac_key = header_mac::header_mac_key(key).ok();
    }

    /// Carries a change out. A blessed header stays so, if it was still as it was blessed and the volume key is known.
    ///
    /// A keyslot that goes must not come back with an old header. Order, where a counter holds the epoch:
    ///
    /// 1. the header without the slot, with its epoch one higher, in one commit with everything else. A header whose epoch
    ///    is above the counter counts, so a crash here shuts nobody out; the old header counts as well, until whoever
    ///    opens or changes the volume next raises the counter (see [`Session::doubt`]);
    /// 2. the counter. From here on the old header is refused. The other way round, a crash in between would have
    ///    left a header that is below the counter, and a machine that does not open its root.
    pub(crate) fn apply(&mut self, change: Change) -> Result<(), Failure> {
        let after = change.after().metadata();
        let blessed = |metadata| !matches!(header_mac::find(metadata), Ok(None));
        if !blessed(self.metadata()) {
            return self.apply_as_it_is(change);
        }
        let name = shell(&self.header_path);
        if !blessed(after) {
            self.apply_as_it_is(change)?;
            output::note(&format!("The header of {name} is blessed no longer."));
            return Ok(());
        }
        let Some(found) = self.still_blessed() else {
            let revokes = header_mac::revokes(&change, self.header());
            self.apply_as_it_is(change)?;
            output::note(&format!(
                "The header of {name} has changed since it was blessed. Until it is blessed anew no TPM and no key file \
                 opens it: luksmith header bless {name}"
            ));
            if revokes && self.names_counter() {
                output::note(
                    "Until then old copies of it count, which still hold what was removed.",
                );
            }
            return Ok(());
        };
        let mut epoch = found.epoch;
        let mut raised = None;
        let mut unraised = None;
        if header_mac::revokes(&change, self.header()) {
            match found.counter.as_ref().map(|counter| self.count(counter)) {
                None => epoch += 1,
                Some(Ok(now)) if now > epoch => {
                    self.apply_as_it_is(change)?;
                    output::note(&format!(
                        "WARNING: the header of {name} was an old one that had been put back. Look at what it \
                         holds before you bless it: luksmith dump {name}"
                    ));
                    return Ok(());
                }
                Some(Ok(_)) => {
                    epoch += 1;
                    raised.clone_from(&found.counter);
                }
                Some(Err(why)) => unraised = Some(why),
            }
        }
        let change = match &self.mac_key {
            Some(key) => header_mac::keep_blessed(change, key, epoch, found.counter.as_ref())
                .map_err(|error| errors::plan(&self.header_path, error))?,
            None => change,
        };
        self.apply_as_it_is(change)?;
        if let Some(counter) = raised {
            self.raise(&counter, epoch);
        }
        if let Some(why) = unraised {
            self.say_unraised(&why);
        }
        Ok(())
    }

    /// The token, if the volume key is known and the header is as it was blessed.
    fn still_blessed(&self) -> Option<HeaderMac> {
        let key = self.mac_key.as_ref()?;
        header_mac::check(self.header(), key).ok().flatten()
    }

    /// Carries a change out and nothing more.
    pub(crate) fn apply_as_it_is(&mut self, change: Change) -> Result<(), Failure> {
        let path = self.header_path.clone();
        self.store
            .apply(change)
            .map_err(|error| errors::store(&path, error))?;
        step_was_written();
        Ok(())
    }

    /// Where the counter stands.
    pub(crate) fn count(&self, counter: &Counter) -> Result<u64, TpmError> {
        let (counter, mut tpm) = self.hold(counter)?;
        counter.value(&mut tpm)
    }

    /// Raises the counter to the epoch of the header on the disk; if it cannot be, it is said what that means.
    pub(crate) fn raise(&self, counter: &Counter, epoch: u64) {
        let raised = self
            .hold(counter)
            .and_then(|(counter, mut tpm)| counter.raise(&mut tpm, epoch));
        if let Err(why) = raised {
            self.say_unraised(&why);
        }
    }

    fn say_unraised(&self, why: &TpmError) {
        let name = shell(&self.header_path);
        output::note(&format!(
            "WARNING: the counter of the TPM could not be raised: {}. Old copies of the header of {name} count until \
             it is: luksmith header bless {name}",
            errors::chain(why)
        ));
    }

    /// A connection that takes nothing else for the counter.
    pub(crate) fn hold(&self, counter: &Counter) -> Result<(NvCounter, Native), TpmError> {
        let damaged = |what: &str| TpmError::Damaged {
            what: format!("{what} of the counter"),
        };
        let counter = NvCounter {
            handle: counter.handle,
            name: Name::parse(&counter.name).map_err(|_| damaged("name"))?,
            srk: Name::parse(&counter.srk).map_err(|_| damaged("storage root key"))?,
        };
        let Place::Native(address) = self.tpm.clone().unwrap_or(Place::AUTO) else {
            return Err(TpmError::BackEnd {
                back_end: "esapi",
                what: "what it takes to take nothing else for a counter",
            });
        };
        let tpm = counter.hold(Native::open(&address)?);
        Ok((counter, tpm))
    }
}
