//! `dump`: what the header says. Also the volume key, if somebody insists.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use luksmith_keyslot::{Target, Unlocked, Which};

use crate::args::Args;
use crate::commands::{dump_json, dump_text};
use crate::hint::{Failure, shell};
use crate::output;
use crate::passphrase::Source;
use crate::session::{Session, confirm};

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let dump_key = args.flag("dump-volume-key");
    let unbound = args.flag("unbound");
    let slot = args.index("key-slot");
    if unbound && slot.is_none() {
        return Err(
            Failure::usage("--unbound needs --key-slot: which key is to be shown?").no_disk(),
        );
    }
    if !dump_key && !unbound {
        for (name, given) in [
            ("key-slot", slot.is_some()),
            ("volume-key-file", args.path("volume-key-file").is_some()),
        ] {
            if given {
                return Err(Failure::usage(format!(
                    "option --{name} is refused: it needs --dump-volume-key or --unbound"
                ))
                .no_disk());
            }
        }
    }
    let mut session = Session::read(args)?;
    if dump_key || unbound {
        if args.flag("json") || args.flag("dump-json-metadata") {
            return Err(
                Failure::usage("a key is not shown as JSON; leave out the JSON option").no_disk(),
            );
        }
        return key(args, &mut session, slot, unbound);
    }
    if args.flag("dump-json-metadata") {
        return output::json(session.metadata().as_value());
    }
    if args.flag("json") {
        return output::json(&dump_json::header(&session.header_path, session.header()));
    }
    output::text(&dump_text::header(session.header()))
}

fn key(args: &Args, session: &mut Session, slot: Option<u8>, unbound: bool) -> Result<(), Failure> {
    let name = session.header_path.display().to_string();
    // Whoever pipes the passphrase in has decided already, as with cryptsetup.
    if crate::prompt::person_there() {
        confirm(
            args,
            &[
                format!(
                    "WARNING: the volume key of {name} is about to be shown or written to a file."
                ),
                "Whoever has it can read the data without any passphrase, for ever.".to_string(),
            ],
        )?;
    }
    let which = slot.map_or(Which::ByPriority, Which::Only);
    let target = if unbound {
        Target::AnyKey
    } else {
        Target::Data
    };
    let source = Source::existing(args, None);
    let question = format!("Passphrase for {name}");
    let (unlocked, _) = session.unlock(args, &source, which, target, &question)?;
    if unbound && unlocked.bound {
        return Err(Failure::usage(format!(
            "keyslot {} is not unbound: its key is the volume key",
            unlocked.slot.unwrap_or(0)
        ))
        .hint("--dump-volume-key shows the volume key"));
    }
    match args.path("volume-key-file") {
        Some(path) => write_key(&path, &unlocked),
        None => show_key(session, &unlocked, unbound),
    }
}

fn write_key(path: &Path, unlocked: &Unlocked) -> Result<(), Failure> {
    let failed = |e: std::io::Error| {
        Failure::usage(format!("cannot write the key to {}: {e}", shell(path))).no_disk()
    };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(path)
        .map_err(failed)?;
    file.write_all(unlocked.key.expose())
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    output::text(&format!("Key stored to file {}.\n", shell(path)))
}

fn show_key(session: &Session, unlocked: &Unlocked, unbound: bool) -> Result<(), Failure> {
    let header = session.header();
    let bits = unlocked.key.len() * 8;
    let mut text = format!(
        "LUKS header information for {}\n",
        dump_text::shown(&session.header_path.to_string_lossy())
    );
    if unbound {
        text.push_str(&format!("UUID:    \t{}\n", header.uuid()));
        text.push_str(&format!("Keyslot: \t{}\n", unlocked.slot.unwrap_or(0)));
        text.push_str(&format!("Key bits:\t{bits}\n"));
        text.push_str("Unbound Key:\t");
    } else {
        let (_, segment) = header.metadata().default_segment();
        let cipher = segment.crypt().map_or("", |c| c.encryption.as_str());
        let (cipher, mode) = cipher.split_once('-').unwrap_or((cipher, ""));
        text.push_str(&format!("Cipher name:   \t{}\n", dump_text::shown(cipher)));
        text.push_str(&format!("Cipher mode:   \t{}\n", dump_text::shown(mode)));
        text.push_str(&format!("Payload offset:\t{}\n", segment.offset / 512));
        text.push_str(&format!("UUID:          \t{}\n", header.uuid()));
        text.push_str(&format!("MK bits:       \t{bits}\n"));
        text.push_str("MK dump:\t");
    }
    output::text(&text)?;
    // The key itself never goes through memory that is not wiped.
    let mut line = zeroize::Zeroizing::new(Vec::with_capacity(8 * unlocked.key.len()));
    for (at, byte) in unlocked.key.expose().iter().enumerate() {
        if at > 0 && at % 16 == 0 {
            line.extend_from_slice(b"\n\t\t");
        }
        line.extend_from_slice(&[digit(byte >> 4), digit(byte & 15), b' ']);
    }
    line.push(b'\n');
    output::bytes(&line)
}

fn digit(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + (nibble - 10),
    }
}
