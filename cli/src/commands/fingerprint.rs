//! `fingerprint`: what tells the key of a volume from every other, for crypttab.

use std::fmt::Write as _;

use luksmith_crypto::VolumeKey;
use luksmith_keyslot::{Target, header_mac};
use luksmith_tpm::{HashAlg, volume_key_id};

use crate::args::Args;
use crate::hint::Failure;
use crate::output;
use crate::prompt::Asker;
use crate::session::{Demand, Session, Tokens};

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let name = args.required("NAME")?.to_string_lossy().into_owned();
    let mut session = Session::read(args)?;
    let unlocked = session.volume_key(
        args,
        args.index("key-slot"),
        Target::Data,
        Tokens::First(Asker::Terminal),
    )?;
    let fingerprint = of(&unlocked.key, &name, session.header().uuid());
    let mac = match header_mac::find(session.metadata()) {
        Ok(None) => String::new(),
        Ok(Some(found)) => {
            let word = found.counter.as_ref().map(Demand::word_for);
            format!(",header-mac={}", word.as_deref().unwrap_or("required"))
        }
        Err(_) => ",header-mac=counter".to_owned(),
    };
    if let Some(doubt) = session.doubt(&unlocked, Demand::Nothing)? {
        session.tell(&doubt);
    }
    output::text(&format!("fixate-volume-key={fingerprint}{mac}\n"))
}

/// The value of `fixate-volume-key=`.
pub(super) fn of(key: &VolumeKey, name: &str, uuid: &str) -> String {
    let mut text = String::new();
    for byte in volume_key_id(HashAlg::Sha256, key, name, uuid) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
