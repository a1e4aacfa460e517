//! `attach`: opens the volumes of `/etc/crypttab` that are ours; what runs at boot.
//!
//! Each volume is tried in the order of its line: with the key file, or with the tokens of its header, then with
//! the credentials of the unit and every passphrase that was typed for another volume, then by asking. Nothing here falls back to anything that
//! does not end locked: whoever called decides what a failure means.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use luksmith_crypto::Passphrase;
use luksmith_keyslot::{Target, UnlockErrorKind, Unlocked, Which};
use luksmith_ublk_target::{UblkError, VolumeName, mapper};
use luksmith_volume::VolumePlan;

use crate::args::{self, Args, Parsed};
use crate::commands::wipe::leads_to_tpm;
use crate::commands::{fingerprint, fuse, open};
use crate::credential;
use crate::crypttab::{self, Entry};
use crate::errors;
use crate::exit::Exit;
use crate::hint::{Failure, shell};
use crate::output;
use crate::passphrase::Source;
use crate::prompt::Asker;
use crate::session::{Session, Tokens};

/// Where a key is looked for when the table names none.
const KEY_FOLDERS: [&str; 2] = ["/etc/cryptsetup-keys.d", "/run/cryptsetup-keys.d"];

/// Runs the verb: first every volume is unlocked, then the keys are measured, and only then is a volume served.
/// So what is sealed to the PCR as it was is there for all of them, and for nobody who comes later.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let table = args
        .path("crypttab")
        .unwrap_or_else(|| crypttab::TABLE.into());
    let initramfs = args.flag("initramfs");
    let wanted = args
        .positional("NAME")
        .map(|name| name.to_string_lossy().into_owned());
    let text = std::fs::read_to_string(&table)
        .map_err(|e| Failure::usage(format!("cannot read {}: {e}", shell(&table))).no_disk())?;
    let lines: Vec<_> = crypttab::parse(&text)
        .into_iter()
        .filter(|line| {
            let name = match line {
                Ok(entry) => &entry.name,
                Err((name, _)) => name,
            };
            wanted.as_ref().is_none_or(|wanted| wanted == name)
        })
        .collect();
    if let (Some(name), true) = (&wanted, lines.is_empty()) {
        return Err(Failure::usage(format!(
            "{} has no line for {name} with the option luksmith",
            shell(&table)
        ))
        .no_disk());
    }
    let start = Start {
        initramfs,
        begun: Instant::now(),
    };
    let mut failures = Failures {
        excused: wanted.is_none(),
        first: None,
    };
    let mut at_hand = AtHand {
        credentials: credential::passphrases(),
        typed: Vec::new(),
    };
    let mut ready = Vec::new();
    for line in &lines {
        match line {
            Ok(entry) if entry.noauto && wanted.is_none() => {}
            Ok(entry) => match unlock_entry(entry, start, &mut at_hand) {
                Ok(unlocked) => ready.extend(unlocked),
                Err(failure) => failures.add(failure, entry.nofail),
            },
            Err((name, why)) => failures.add(
                Failure::usage(format!("{}: {name}: {why}", shell(&table))).no_disk(),
                false,
            ),
        }
    }
    fuse::burn(&ready, start)?;
    for one in ready {
        let nofail = one.entry.nofail;
        if let Err(failure) = one.serve() {
            failures.add(failure, nofail);
        }
    }
    failures.first.map_or(Ok(()), Err)
}

/// Where and since when volumes are being opened.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub(super) initramfs: bool,
    pub(super) begun: Instant,
}

/// What opens a volume without a question.
struct AtHand {
    /// Given to the unit.
    credentials: Vec<Passphrase>,
    /// Typed for another volume.
    typed: Vec<Passphrase>,
}

impl AtHand {
    fn all(&self) -> impl Iterator<Item = &Passphrase> {
        self.credentials.iter().chain(&self.typed)
    }
}

/// What went wrong: only one failure can be the command's; the others are told all the same.
struct Failures {
    /// Whether `nofail` counts.
    excused: bool,
    first: Option<Failure>,
}

impl Failures {
    fn add(&mut self, failure: Failure, nofail: bool) {
        if self.first.is_none() && !(nofail && self.excused) {
            self.first = Some(failure);
        } else {
            failure.to_string().lines().for_each(output::note);
        }
    }
}

/// A volume that is unlocked and not served yet.
pub(super) struct Ready<'a> {
    pub(super) entry: &'a Entry,
    pub(super) unlocked: Unlocked,
    pub(super) session: Session,
    name: VolumeName,
    args: Box<Args>,
    volume: VolumePlan,
}

impl Ready<'_> {
    fn serve(self) -> Result<(), Failure> {
        open::serve(
            &self.args,
            &self.session,
            self.name,
            self.volume,
            &self.unlocked,
        )
        .map(|_| ())
    }
}

/// Unlocks one volume, unless it is open.
fn unlock_entry<'a>(
    entry: &'a Entry,
    start: Start,
    at_hand: &mut AtHand,
) -> Result<Option<Ready<'a>>, Failure> {
    let name = VolumeName::new(&entry.name).map_err(errors::ublk)?;
    match luksmith_ublk_target::status(&name) {
        Ok(_) => return Ok(None),
        Err(UblkError::NotOpen(_)) => {}
        Err(other) => return Err(errors::ublk(other)),
    }
    warn_of_unknown(entry);
    wait_for(&entry.source, entry.device_timeout)?;
    if let Some(header) = &entry.header {
        wait_for(header, entry.device_timeout)?;
    }
    let args = as_open(entry, start.initramfs)?;
    let mut session = Session::read(&args)?;
    if let Some(other) = mapper::opened_as(session.header().uuid()) {
        // An initramfs from before the line was ours: the machine runs, and two must not write.
        output::note(&format!(
            "{name} is open already, by dm-crypt as /dev/mapper/{other}; it is left alone"
        ));
        return Ok(None);
    }
    let volume = session.volume_plan(&args)?;
    let unlocked = unlock(entry, &args, &mut session, start, at_hand)?;
    check_fingerprint(entry, &session, &unlocked)?;
    Ok(Some(Ready {
        entry,
        unlocked,
        session,
        name,
        args,
        volume,
    }))
}

/// A mistyped word is no reason to keep a volume shut, and one to look.
pub(super) fn warn_of_unknown(entry: &Entry) {
    for option in &entry.unknown {
        output::note(&format!(
            "warning: crypttab: {}: the option {option} is unknown and changes nothing",
            entry.name
        ));
    }
}

/// Somebody may have put another volume in the place of this one.
fn check_fingerprint(entry: &Entry, session: &Session, unlocked: &Unlocked) -> Result<(), Failure> {
    let Some(expected) = &entry.fingerprint else {
        return Ok(());
    };
    let uuid = session.header().uuid();
    if *expected == fingerprint::of(&unlocked.key, &entry.name, uuid) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::NoPermission,
        format!(
            "{} on {} is not the volume that crypttab means: its volume key is another one",
            entry.name,
            shell(&entry.source)
        ),
    )
    .hint("somebody may have put another disk in its place; if it was you, take its fingerprint")
    .command(format!(
        "luksmith fingerprint {} {}",
        shell(&entry.source),
        entry.name
    )))
}

/// The line as a command line of `open`, so that it is opened just as that verb would.
pub(super) fn as_open(entry: &Entry, initramfs: bool) -> Result<Box<Args>, Failure> {
    let mut words: Vec<OsString> = vec!["luksmith".into(), "open".into()];
    let switches = [
        (entry.read_only, "--readonly"),
        (entry.discard, "--allow-discards"),
        (initramfs, "--initramfs"),
    ];
    words.extend(switches.iter().filter(|(on, _)| *on).map(|(_, s)| s.into()));
    if let Some(header) = &entry.header {
        words.extend(["--header".into(), header.into()]);
    }
    if let Some(tpm) = &entry.tpm_device {
        words.extend(["--tpm2-device".into(), tpm.into()]);
    }
    let files = [
        ("--tpm2-signature", &entry.tpm_signature),
        ("--tpm2-pcrlock", &entry.tpm_pcrlock),
    ];
    for (option, file) in files {
        if let Some(file) = file {
            words.extend([option.into(), file.into()]);
        }
    }
    if entry.tries > 0 {
        words.extend(["--tries".into(), entry.tries.to_string().into()]);
    }
    words.extend([
        "--".into(),
        entry.source.clone().into(),
        entry.name.clone().into(),
    ]);
    match args::parse(words)? {
        Parsed::Run(args) => Ok(args),
        Parsed::Show(_) => Err(Failure::usage("the line of crypttab cannot be understood")),
    }
}

fn unlock(
    entry: &Entry,
    args: &Args,
    session: &mut Session,
    start: Start,
    at_hand: &mut AtHand,
) -> Result<Unlocked, Failure> {
    let which = entry.key_slot.map_or(Which::ByPriority, Which::Only);
    let path = session.header_path.clone();
    if session.names_counter() {
        fuse::wait_for_tpm(entry, start)?;
    }
    let mut doubt = None;
    if let Some(file) = key_file(entry) {
        let source = Source::key_file(file.clone(), entry.key_offset, entry.key_size);
        let opened = source.read("").and_then(|passphrase| {
            session
                .try_passphrase(which, Target::Data, &passphrase)
                .map_err(|e| errors::unlock(&path, &e))
        });
        match opened {
            Ok(unlocked) => {
                doubt = session.doubt(&unlocked, entry.header_mac)?;
                if doubt.is_none() {
                    return Ok(unlocked);
                }
            }
            Err(failure) if entry.headless => return Err(failure),
            Err(failure) => output::note(&format!(
                "{} does not open with the key file {}: {}",
                entry.name,
                shell(&file),
                failure.what
            )),
        }
    }
    if doubt.is_none()
        && entry.key_slot.is_none()
        && let Some(unlocked) = by_token(entry, args, session, start)?
    {
        doubt = session.doubt(&unlocked, entry.header_mac)?;
        if doubt.is_none() {
            return Ok(unlocked);
        }
    }
    let unasked = at_hand.all().filter(|_| doubt.is_none());
    for passphrase in unasked {
        match session.try_passphrase(which, Target::Data, passphrase) {
            Ok(unlocked) => {
                // Whoever typed it for another volume, or left it as a credential, knows nothing of this header.
                doubt = session.doubt(&unlocked, entry.header_mac)?;
                if doubt.is_none() {
                    return Ok(unlocked);
                }
                break;
            }
            Err(e) if e.kind == UnlockErrorKind::WrongSecret => {}
            Err(e) => return Err(errors::unlock(&path, &e)),
        }
    }
    if doubt.is_none() && !at_hand.credentials.is_empty() {
        output::note(&format!(
            "{} does not open with the credential {}.",
            entry.name,
            credential::PASSPHRASE
        ));
    }
    if let Some(doubt) = &doubt {
        if entry.headless {
            return Err(session.refusal(doubt));
        }
        session.tell(doubt);
        output::note(
            "So it does not open by itself now; a passphrase that somebody types opens it.",
        );
    }
    if entry.headless {
        return Err(Failure::new(
            Exit::NoPermission,
            format!("{} has no key, and headless forbids to ask", entry.name),
        ));
    }
    let unlocked = ask(entry, session, which, &mut at_hand.typed)?;
    // Whoever typed a passphrase opens it, or a change by another program would shut out everybody.
    if doubt.is_none()
        && let Some(doubt) = session.doubt(&unlocked, entry.header_mac)?
    {
        session.tell(&doubt);
    }
    Ok(unlocked)
}

/// Tries the tokens; of each that does not open it is said why.
fn by_token(
    entry: &Entry,
    args: &Args,
    session: &mut Session,
    start: Start,
) -> Result<Option<Unlocked>, Failure> {
    let mut tokens = session.metadata().tokens().values();
    let wanted = tokens.any(leads_to_tpm);
    if entry.tpm_device.is_some() || (start.initramfs && wanted) {
        fuse::wait_for_tpm(entry, start)?;
    }
    let asker = if entry.headless {
        Asker::Nobody
    } else {
        Asker::TerminalOrAgents
    };
    session.pin = credential::pin();
    session.by_token(args, Target::Data, Tokens::First(asker))
}

/// Asks until a passphrase opens, as often as the line allows.
fn ask(
    entry: &Entry,
    session: &mut Session,
    which: Which,
    typed: &mut Vec<Passphrase>,
) -> Result<Unlocked, Failure> {
    let path = session.header_path.clone();
    let source = Source::person(entry.timeout);
    let question = format!("Passphrase for {} ({})", entry.name, entry.source.display());
    let mut tried = 0_u32;
    loop {
        let passphrase = source.read(&question)?;
        match session.try_passphrase(which, Target::Data, &passphrase) {
            Ok(unlocked) => {
                typed.push(passphrase);
                return Ok(unlocked);
            }
            Err(e) if e.kind == UnlockErrorKind::WrongSecret => {
                tried = tried.saturating_add(1);
                if tried == entry.tries {
                    return Err(errors::unlock(&path, &e));
                }
                Asker::TerminalOrAgents.tell("No keyslot opens with this passphrase.");
            }
            Err(e) => return Err(errors::unlock(&path, &e)),
        }
    }
}

/// The key file of the line, or the one that lies where keys of this name lie.
fn key_file(entry: &Entry) -> Option<PathBuf> {
    entry.key_file.clone().or_else(|| {
        KEY_FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(format!("{}.key", entry.name)))
            .find(|file| file.exists())
    })
}

/// Waits until a disk is there.
fn wait_for(device: &Path, patience: Duration) -> Result<(), Failure> {
    let end = Instant::now() + patience;
    while !device.exists() {
        if Instant::now() >= end {
            return Err(Failure::new(
                Exit::WrongDevice,
                format!(
                    "{} did not appear within {} s",
                    shell(device),
                    patience.as_secs()
                ),
            ));
        }
        sleep(Duration::from_millis(100));
    }
    Ok(())
}
