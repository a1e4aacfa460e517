//! The command line: built from the tables of verbs and options, read as cryptsetup reads it.
//!
//! Options may stand before or after the verb (`luksmith -q luksFormat DEV`), the last of two
//! equal options counts, `-h` is `--hash` and help is `--help` or `-?`. An option that the
//! verb does not take is refused by its name, with the reason from [`crate::options`].

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::hint::Failure;
use crate::options::{self, OPTIONS, Opt, Standing, Takes};
use crate::verbs::{self, Verb};

/// What the command line says.
pub(crate) struct Args {
    /// The verb.
    pub verb: &'static Verb,
    /// The verb as it was typed: its own name or cryptsetup's.
    pub typed: String,
    matches: ArgMatches,
    looked_at: RefCell<BTreeSet<&'static str>>,
}

/// What to do with a command line.
pub(crate) enum Parsed {
    /// Run the verb.
    Run(Box<Args>),
    /// Print this on standard output and end with 0: help or version.
    Show(String),
}

/// Reads the command line; the first word is the program's name.
pub(crate) fn parse(words: Vec<OsString>) -> Result<Parsed, Failure> {
    let Ordered { verb, words } = order(words)?;
    match command().try_get_matches_from(words) {
        Ok(top) => {
            let mut matches = top;
            let mut name = String::new();
            while let Some((word, inner)) = matches.remove_subcommand() {
                if !name.is_empty() {
                    name.push(' ');
                }
                name.push_str(&word);
                matches = inner;
            }
            let verb_row = verbs::find(&name).ok_or_else(|| {
                Failure::usage("no verb was given")
                    .no_disk()
                    .command("luksmith --help")
            })?;
            let args = Args {
                verb: verb_row,
                typed: verb.unwrap_or(name),
                matches,
                looked_at: RefCell::default(),
            };
            args.refuse_what_does_not_apply()?;
            Ok(Parsed::Run(Box::new(args)))
        }
        Err(error) => match error.kind() {
            clap::error::ErrorKind::DisplayHelp
            | clap::error::ErrorKind::DisplayVersion
            | clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                if error.exit_code() == 0 =>
            {
                Ok(Parsed::Show(error.render().to_string()))
            }
            _ => Err(usage_failure(&error, verb.as_deref())),
        },
    }
}

fn usage_failure(error: &clap::Error, verb: Option<&str>) -> Failure {
    let known = verb.filter(|v| verbs::find(v).is_some() || verbs::is_group(v));
    if let (Some(verb), None) = (verb, known) {
        return Failure::usage(format!("there is no verb '{verb}'"))
            .no_disk()
            .command("luksmith --help");
    }
    if error.kind() == clap::error::ErrorKind::MissingSubcommand {
        let help = known.map_or("luksmith --help".to_string(), |v| {
            format!("luksmith {v} --help")
        });
        return Failure::usage("no verb was given").no_disk().command(help);
    }
    let text = error.render().to_string();
    let mut lines = text
        .lines()
        .map(str::trim)
        .take_while(|l| !l.starts_with("Usage:"))
        .filter(|l| !l.is_empty() && !l.starts_with("For more information"));
    let first = lines.next().unwrap_or("wrong parameters");
    let mut failure =
        Failure::usage(first.strip_prefix("error: ").unwrap_or(first).to_string()).no_disk();
    for line in lines {
        failure = failure.detail(line);
    }
    match verb {
        Some(verb) => failure.command(format!("luksmith {verb} --help")),
        None => failure.command("luksmith --help"),
    }
}

struct Ordered {
    verb: Option<String>,
    words: Vec<OsString>,
}

/// Moves what stands before the verb behind it, and replaces cryptsetup's verb by ours.
fn order(words: Vec<OsString>) -> Result<Ordered, Failure> {
    let mut words = words.into_iter();
    words.next();
    let mut verb: Vec<String> = Vec::new();
    let mut before: Vec<OsString> = Vec::new();
    let mut rest = words.peekable();
    while let Some(word) = rest.next() {
        if word == "--" {
            before.push(word);
            break;
        }
        if word.as_bytes().starts_with(b"-") && word.len() > 1 {
            let with_value = wants_another_word(&word);
            before.push(word);
            if with_value && let Some(value) = rest.next() {
                before.push(value);
            }
            continue;
        }
        let text = word.to_string_lossy().into_owned();
        let group = verb.is_empty() && verbs::is_group(&text);
        verb.push(text);
        if !group {
            break;
        }
    }
    let typed = verb.join(" ");
    if let Some((_, why)) = verbs::REFUSED.iter().find(|(name, _)| *name == typed) {
        return Err(Failure::usage(format!("'{typed}' is refused: {why}"))
            .no_disk()
            .command("luksmith --help"));
    }
    let mut ordered = vec![OsString::from("luksmith")];
    match verbs::find(&typed) {
        Some(row) => ordered.extend(row.name.split(' ').map(OsString::from)),
        None => ordered.extend(verb.iter().map(OsString::from)),
    }
    ordered.extend(before);
    ordered.extend(rest);
    Ok(Ordered {
        verb: (!typed.is_empty()).then_some(typed),
        words: ordered,
    })
}

/// Whether the value of this option is the next word.
fn wants_another_word(word: &OsStr) -> bool {
    let text = word.to_string_lossy();
    if let Some(long) = text.strip_prefix("--") {
        return !long.contains('=')
            && options::find(long).is_some_and(|o| o.takes != Takes::Nothing);
    }
    let mut letters = text.chars().skip(1);
    while let Some(letter) = letters.next() {
        if options::find_short(letter).is_some_and(|o| o.takes != Takes::Nothing) {
            return letters.next().is_none();
        }
    }
    false
}

/// The whole command line as clap sees it; also the source of completions and man pages.
pub(crate) fn command() -> Command {
    let mut top = Command::new("luksmith")
        .version(env!("CARGO_PKG_VERSION"))
        .about("LUKS2 disk encryption with a ublk data path")
        .after_help(
            "cryptsetup's verbs and options work as well: luksFormat, luksOpen, luksAddKey, …\n\
             Exit status: 0 done, 1 wrong parameters or failed, 2 no permission or wrong \
             passphrase, 3 out of memory, 4 wrong device, 5 device exists or is busy, \
             141 nobody reads the output.",
        )
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(help_arg())
        .arg(
            Arg::new("version")
                .long("version")
                .short('V')
                .action(ArgAction::Version)
                .help("Print the version"),
        );
    let mut groups: Vec<(&str, Command)> = Vec::new();
    for verb in verbs::all() {
        match verb.name.split_once(' ') {
            None => top = top.subcommand(verb_command(verb, verb.name)),
            Some((group, word)) => {
                let child = verb_command(verb, word);
                match groups.iter_mut().find(|(name, _)| *name == group) {
                    Some((_, command)) => *command = command.clone().subcommand(child),
                    None => groups.push((group, group_command(group).subcommand(child))),
                }
            }
        }
    }
    for (_, group) in groups {
        top = top.subcommand(group);
    }
    top
}

fn group_command(group: &'static str) -> Command {
    Command::new(group)
        .about(match group {
            "slot" => "Work with the keyslots",
            "token" => "Work with the tokens",
            "tpm" => "Work with the TPM, and with the slots that it opens",
            _ => "Work with the header as a whole",
        })
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .arg(help_arg())
}

fn help_arg() -> Arg {
    Arg::new("help")
        .long("help")
        .short('?')
        .action(ArgAction::Help)
        .help("Print help")
}

fn verb_command(verb: &'static Verb, name: &'static str) -> Command {
    let mut command = Command::new(name)
        .about(verb.about)
        .hide(verb.hidden)
        .disable_help_flag(true)
        .args_override_self(true)
        .arg(help_arg());
    let mut long = format!("{}.", verb.about);
    if !verb.more.is_empty() {
        long.push_str(&format!("\n\n{}", verb.more));
    }
    if !verb.also.is_empty() {
        long.push_str(&format!(
            "\n\ncryptsetup's name for it: {}.",
            verb.also.join(", ")
        ));
    }
    command = command.long_about(long);
    for (at, positional) in verb.positionals.iter().enumerate() {
        command = command.arg(
            Arg::new(positional.name)
                .index(at + 1)
                .required(positional.required)
                .value_parser(value_parser!(OsString))
                .help(positional.help),
        );
    }
    for opt in OPTIONS {
        command = command.arg(option_arg(opt, verb.takes(opt.long)));
    }
    command
}

fn option_arg(opt: &'static Opt, shown: bool) -> Arg {
    let mut arg = Arg::new(opt.long)
        .long(opt.long)
        .aliases(opt.also.iter().copied())
        .help(opt.help)
        .hide(!shown || opt.standing != Standing::Works);
    if let Some(short) = opt.short {
        arg = arg.short(short);
    }
    // An option that is refused anyway takes any text, so that the error is about the option
    // and not about its value.
    if !shown && opt.takes != Takes::Nothing {
        return arg
            .value_name("VALUE")
            .value_parser(value_parser!(OsString));
    }
    match opt.takes {
        Takes::Nothing => arg.action(ArgAction::SetTrue),
        Takes::Text(name) => arg.value_name(name).value_parser(value_parser!(String)),
        Takes::Path => arg.value_name("FILE").value_parser(value_parser!(PathBuf)),
        Takes::Number(name, low, high) => arg
            .value_name(name)
            .value_parser(value_parser!(u64).range(low..=high)),
        Takes::Bytes => arg.value_name("BYTES").value_parser(size),
        Takes::OneOf(words) => {
            arg.value_name("WORD")
                .value_parser(clap::builder::PossibleValuesParser::new(
                    words.iter().copied(),
                ))
        }
    }
}

/// Reads a size with an optional unit.
fn size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "not a size".to_string())?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" => 1,
        "s" => 512,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("'{unit}' is not a unit of size")),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| "the size is too large".to_string())
}

impl Args {
    fn refuse_what_does_not_apply(&self) -> Result<(), Failure> {
        for opt in OPTIONS {
            let given =
                self.matches.value_source(opt.long) == Some(clap::parser::ValueSource::CommandLine);
            if !given {
                continue;
            }
            let verb = &self.typed;
            let failure = match opt.standing {
                Standing::Harmless(_) => continue,
                Standing::Works if self.verb.takes(opt.long) => continue,
                Standing::Refused(why) => {
                    Failure::usage(format!("option --{} is refused: {why}", opt.long))
                }
                Standing::Works if !opt.elsewhere.is_empty() => Failure::usage(format!(
                    "option --{} is refused: {}",
                    opt.long, opt.elsewhere
                )),
                Standing::Works => {
                    let takers: Vec<&str> = verbs::all()
                        .filter(|v| !v.hidden && v.takes(opt.long))
                        .map(|v| v.name)
                        .collect();
                    Failure::usage(format!(
                        "option --{} is refused: it means nothing for '{verb}'",
                        opt.long
                    ))
                    .detail(format!("it belongs to: {}", takers.join(", ")))
                }
            };
            return Err(failure.no_disk().command(format!("luksmith {verb} --help")));
        }
        Ok(())
    }

    fn look(&self, name: &'static str) {
        debug_assert!(
            options::find(name).is_some() || self.verb.positionals.iter().any(|p| p.name == name),
            "no option or argument is called {name}"
        );
        self.looked_at.borrow_mut().insert(name);
    }

    fn get<T: Clone + Send + Sync + 'static>(&self, name: &'static str) -> Option<T> {
        self.look(name);
        self.matches.try_get_one::<T>(name).ok().flatten().cloned()
    }

    /// Whether the switch is set.
    pub(crate) fn flag(&self, name: &'static str) -> bool {
        self.get::<bool>(name).unwrap_or(false)
    }
    /// A number.
    pub(crate) fn number(&self, name: &'static str) -> Option<u64> {
        self.get(name)
    }
    /// A number that fits 32 bits because its row in the table says so.
    pub(crate) fn small(&self, name: &'static str) -> Option<u32> {
        self.number(name).and_then(|n| u32::try_from(n).ok())
    }
    /// The number of a slot or token.
    pub(crate) fn index(&self, name: &'static str) -> Option<u8> {
        self.number(name).and_then(|n| u8::try_from(n).ok())
    }
    /// A text or word.
    pub(crate) fn text(&self, name: &'static str) -> Option<String> {
        self.get(name)
    }
    /// A path.
    pub(crate) fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.get(name)
    }
    /// An argument without a name.
    pub(crate) fn positional(&self, name: &'static str) -> Option<OsString> {
        self.get(name)
    }
    /// An argument without a name that the verb must have; clap saw to it.
    pub(crate) fn required(&self, name: &'static str) -> Result<OsString, Failure> {
        self.positional(name)
            .ok_or_else(|| Failure::usage(format!("{name} is missing")).no_disk())
    }
    /// The device.
    pub(crate) fn device(&self) -> Result<PathBuf, Failure> {
        self.required("DEVICE").map(PathBuf::from)
    }

    /// Options that were given and that the verb had no reason to look at, such as a key file
    /// beside a volume key. They are told, so that none is dropped silently.
    pub(crate) fn never_looked_at(&self) -> Vec<&'static str> {
        let seen = self.looked_at.borrow();
        OPTIONS
            .iter()
            .filter(|o| o.standing == Standing::Works)
            .map(|o| o.long)
            .filter(|name| {
                self.matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine)
                    && !seen.contains(name)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        std::iter::once("luksmith")
            .chain(text.split(' '))
            .map(OsString::from)
            .collect()
    }

    fn parsed(text: &str) -> Result<Box<Args>, Failure> {
        match parse(words(text))? {
            Parsed::Run(args) => Ok(args),
            Parsed::Show(text) => Err(Failure::usage(text)),
        }
    }

    /// Each action of cryptsetup with the arguments that it needs, and the options that its own
    /// manual (2.6 to 2.8) says it takes with LUKS2.
    const ACTIONS: &[(&str, &str)] = &[
        (
            "open DEV NAME",
            "key-file keyfile-offset keyfile-size readonly test-passphrase allow-discards header \
             key-slot volume-key-file token-id token-only token-type disable-external-tokens \
             disable-keyring disable-locks type refresh timeout verify-passphrase tries \
             persistent unbound serialize-memory-hard-pbkdf perf-same_cpu_crypt \
             perf-submit_from_crypt_cpus perf-no_read_workqueue perf-no_write_workqueue \
             perf-high_priority integrity-no-journal key-description volume-key-keyring \
             link-vk-to-keyring external-tokens-path shared size device-size offset skip \
             iv-large-sectors master-key-file",
        ),
        (
            "close NAME",
            "deferred cancel-deferred header disable-locks",
        ),
        ("status NAME", "header disable-locks"),
        (
            "luksDump DEV",
            "dump-volume-key dump-master-key dump-json-metadata key-file keyfile-offset \
             keyfile-size header disable-locks volume-key-file type unbound key-slot timeout \
             external-tokens-path",
        ),
        (
            "luksFormat DEV",
            "hash cipher verify-passphrase key-size key-slot key-file keyfile-offset \
             keyfile-size use-random use-urandom uuid volume-key-file iter-time header \
             pbkdf-force-iterations force-password disable-locks timeout type offset \
             align-payload integrity integrity-no-wipe sector-size label subsystem pbkdf \
             pbkdf-memory pbkdf-parallel disable-keyring luks2-metadata-size \
             luks2-keyslots-size keyslot-cipher keyslot-key-size integrity-legacy-padding \
             integrity-key-size integrity-inline hw-opal hw-opal-only progress-frequency \
             progress-json disable-blkid",
        ),
        (
            "luksAddKey DEV",
            "key-file keyfile-offset keyfile-size new-keyfile new-keyfile-offset \
             new-keyfile-size key-slot new-key-slot volume-key-file force-password hash header \
             disable-locks iter-time pbkdf pbkdf-force-iterations pbkdf-memory pbkdf-parallel \
             unbound type keyslot-cipher keyslot-key-size key-size timeout token-id token-type \
             token-only new-token-id verify-passphrase new-key-description key-description",
        ),
        (
            "luksRemoveKey DEV",
            "key-file keyfile-offset keyfile-size header disable-locks type timeout \
             verify-passphrase",
        ),
        (
            "luksChangeKey DEV",
            "key-file keyfile-offset keyfile-size new-keyfile-offset iter-time pbkdf \
             pbkdf-force-iterations pbkdf-memory pbkdf-parallel new-keyfile-size key-slot \
             force-password hash header disable-locks type keyslot-cipher keyslot-key-size \
             timeout verify-passphrase",
        ),
        (
            "luksConvertKey DEV",
            "key-file keyfile-offset keyfile-size key-slot hash header disable-locks iter-time \
             pbkdf pbkdf-force-iterations pbkdf-memory pbkdf-parallel keyslot-cipher \
             keyslot-key-size timeout verify-passphrase",
        ),
        (
            "luksKillSlot DEV 1",
            "key-file keyfile-offset keyfile-size header disable-locks type verify-passphrase \
             timeout",
        ),
        ("luksUUID DEV", "header uuid type disable-locks"),
        ("isLuks DEV", "header type disable-locks"),
        (
            "luksHeaderBackup DEV",
            "header header-backup-file disable-locks",
        ),
        (
            "luksHeaderRestore DEV",
            "header header-backup-file disable-locks",
        ),
        (
            "luksErase DEV",
            "header disable-locks hw-opal-factory-reset",
        ),
        (
            "config DEV",
            "priority label subsystem key-slot header disable-locks",
        ),
        (
            "token add DEV",
            "header token-id key-slot key-description disable-external-tokens disable-locks \
             disable-keyring token-replace unbound",
        ),
        (
            "token import DEV",
            "header token-id key-slot disable-external-tokens disable-locks disable-keyring \
             json-file token-replace",
        ),
        (
            "token export DEV",
            "header token-id disable-external-tokens disable-locks disable-keyring json-file",
        ),
        (
            "token remove DEV",
            "header token-id disable-external-tokens disable-locks",
        ),
        (
            "token unassign DEV",
            "header token-id key-slot disable-locks",
        ),
        (
            "repair DEV",
            "timeout verify-passphrase disable-locks type header key-file keyfile-size \
             keyfile-offset key-slot",
        ),
    ];

    fn with(action: &str, opt: &Opt, long: &str) -> String {
        let value = match opt.takes {
            Takes::Nothing => return format!("{action} --{long}"),
            Takes::OneOf(words) => words.first().copied().unwrap_or_default(),
            Takes::Number(..) | Takes::Bytes => "1",
            Takes::Text(_) | Takes::Path => "luks2",
        };
        format!("{action} --{long} {value}")
    }

    #[test]
    fn every_option_of_cryptsetup_works_or_is_refused_by_its_name_with_a_reason() {
        for (action, options) in ACTIONS {
            for long in options
                .split_whitespace()
                .chain(["batch-mode", "verbose", "debug"])
            {
                let opt = find_option(long);
                let line = with(action, opt, long);
                match (opt.standing, parsed(&line)) {
                    (Standing::Works | Standing::Harmless(_), Ok(_)) => {}
                    (Standing::Works, Err(failure))
                        if !opt.elsewhere.is_empty() && failure.what.contains(opt.elsewhere) => {}
                    (Standing::Refused(why), Err(failure)) => {
                        assert!(failure.what.contains(opt.long), "{line}: {}", failure.what);
                        assert!(failure.what.contains(why), "{line}: {}", failure.what);
                        assert!(why.split(' ').count() >= 4, "{long}: no reason");
                    }
                    (standing, Ok(_)) => panic!("{line}: accepted though {standing:?}"),
                    (standing, Err(failure)) => panic!("{line}: {standing:?}: {}", failure.what),
                }
            }
        }
    }

    fn find_option(long: &str) -> &'static Opt {
        options::find(long).unwrap_or_else(|| panic!("--{long} is not in the table"))
    }

    #[test]
    fn each_option_is_accepted_by_a_verb_or_refused_by_every_verb() {
        for (action, _) in ACTIONS {
            for opt in OPTIONS
                .iter()
                .filter(|o| o.takes == Takes::Nothing || o.standing != Standing::Works)
            {
                let line = with(action, opt, opt.long);
                if let Err(failure) = parsed(&line) {
                    assert!(
                        failure.what.contains(&format!("--{}", opt.long)),
                        "{line}: refused, but not by its name: {}",
                        failure.what
                    );
                }
            }
        }
        for opt in OPTIONS.iter().filter(|o| o.standing == Standing::Works) {
            assert!(
                verbs::all().any(|v| v.takes(opt.long)),
                "--{} is for no verb",
                opt.long
            );
        }
    }

    #[test]
    fn an_option_is_in_the_table_once_and_short_names_are_unique() {
        for (at, opt) in OPTIONS.iter().enumerate() {
            for other in OPTIONS.iter().skip(at + 1) {
                assert_ne!(opt.long, other.long);
                assert!(
                    opt.short.is_none() || opt.short != other.short,
                    "-{:?}",
                    opt.short
                );
            }
        }
        for verb in verbs::all() {
            for name in verb.options.iter().copied().flatten() {
                assert!(options::find(name).is_some(), "{}: --{name}", verb.name);
            }
        }
    }

    #[test]
    fn short_options_are_those_of_cryptsetup() {
        for (short, long) in [
            ('q', "batch-mode"),
            ('v', "verbose"),
            ('d', "key-file"),
            ('s', "key-size"),
            ('c', "cipher"),
            ('h', "hash"),
            ('i', "iter-time"),
            ('l', "keyfile-size"),
            ('S', "key-slot"),
            ('y', "verify-passphrase"),
            ('t', "timeout"),
            ('T', "tries"),
            ('r', "readonly"),
            ('M', "type"),
            ('o', "offset"),
            ('b', "size"),
            ('p', "skip"),
            ('I', "integrity"),
        ] {
            assert_eq!(options::find_short(short).map(|o| o.long), Some(long));
        }
    }

    #[test]
    fn options_may_stand_before_the_verb_and_the_last_of_two_counts() {
        let args = parsed("-q -d one --key-slot 3 luksOpen DEV -d two NAME -S4")
            .ok()
            .unwrap();
        assert_eq!(args.verb.name, "open");
        assert_eq!(args.typed, "luksOpen");
        assert!(args.flag("batch-mode"));
        assert_eq!(args.path("key-file"), Some(PathBuf::from("two")));
        assert_eq!(args.index("key-slot"), Some(4));
        assert_eq!(args.positional("NAME"), Some(OsString::from("NAME")));
        let args = parsed("token -v import --token-id=1 DEV").ok().unwrap();
        assert_eq!(args.verb.name, "token import");
        // A verb's name as the value of an option is a value.
        let args = parsed("--key-file open luksAddKey DEV").ok().unwrap();
        assert_eq!(args.verb.name, "slot add");
        assert_eq!(args.path("key-file"), Some(PathBuf::from("open")));
    }

    #[test]
    fn every_verb_of_cryptsetup_is_there_or_refused_with_a_reason() {
        for verb in "open close status luksFormat luksOpen luksClose luksDump luksUUID isLuks \
                     luksAddKey luksRemoveKey luksChangeKey luksKillSlot luksConvertKey \
                     luksHeaderBackup luksHeaderRestore luksErase erase config repair remove"
            .split_whitespace()
        {
            assert!(verbs::find(verb).is_some(), "{verb}");
        }
        for verb in "create plainOpen loopaesOpen tcryptOpen bitlkOpen fvault2Open plainClose \
                     loopaesClose tcryptClose bitlkClose fvault2Close resize refresh convert \
                     reencrypt luksSuspend luksResume benchmark tcryptDump bitlkDump fvault2Dump"
            .split_whitespace()
        {
            let failure = parsed(&format!("{verb} X")).err().expect(verb);
            assert!(
                failure.what.starts_with(&format!("'{verb}' is refused: ")),
                "{verb}"
            );
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("1"), Ok(1));
        assert_eq!(size("2S"), Ok(1024));
        assert_eq!(size("16K"), Ok(16384));
        assert_eq!(size("16KiB"), Ok(16384));
        assert_eq!(size("16KB"), Ok(16000));
        assert_eq!(size("1T"), Ok(1 << 40));
        for bad in ["", "K", "-1", "1.5M", "1Q", "99999999999T", "0x10"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn clap_finds_no_fault_with_the_tables() {
        command().debug_assert();
    }
}
