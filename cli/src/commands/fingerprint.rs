//! `fingerprint`: what tells the key of a volume from every other, for crypttab.

use std::fmt::Write as _;

use luksmith_crypto::VolumeKey;
use luksmith_keyslot::Target;
use luksmith_tpm::{HashAlg, volume_key_id};

use crate::args::Args;
use crate::hint::Failure;
use crate::output;
use crate::prompt::Asker;
use crate::session::{Session, Tokens};

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
    output::text(&format!("fixate-volume-key={fingerprint}\n"))
}

/// The value of `fixate-volume-key=`.
pub(super) fn of(key: &VolumeKey, name: &str, uuid: &str) -> String {
    let mut text = String::new();
    for byte in volume_key_id(HashAlg::Sha256, key, name, uuid) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
