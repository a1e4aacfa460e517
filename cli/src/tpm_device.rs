//! Which TPM: `--tpm2-device`.

use std::path::Path;

use luksmith_tpm::token::PolicyFiles;
use luksmith_tpm::{Address, Native, TpmError};

use crate::args::Args;
use crate::errors;
use crate::hint::Failure;

/// The connection of this program to a TPM.
pub(crate) type Connection = Native<Box<dyn luksmith_tpm::transport::Transport>>;

/// Where the options say that it is; `auto` without one.
pub(crate) fn address(args: &Args) -> Result<Address, Failure> {
    match args.text("tpm2-device") {
        None => Ok(Address::Auto),
        Some(text) => parse(&text),
    }
}

/// The TPM to unlock with, where another one is to be enrolled.
pub(crate) fn to_unlock(args: &Args) -> Result<Address, Failure> {
    match args.text("unlock-tpm2-device") {
        None => address(args),
        Some(text) => parse(&text),
    }
}

/// An address in one of systemd's forms.
pub(crate) fn parse(text: &str) -> Result<Address, Failure> {
    text.parse().map_err(|error: TpmError| {
        Failure::usage(error.to_string())
            .no_disk()
            .hint("auto, a device such as /dev/tpmrm0, swtpm:host=…,port=… or swtpm:path=…")
    })
}

/// Where signatures of PCRs and the policy of pcrlock lie.
pub(crate) fn policy_files(args: &Args) -> PolicyFiles {
    let mut files = PolicyFiles::default();
    if let Some(path) = args.path("tpm2-signature") {
        files = files.with_signatures(path);
    }
    if let Some(path) = args
        .path("tpm2-pcrlock")
        .filter(|path| *path != Path::new("auto"))
    {
        files = files.with_pcrlock(path);
    }
    if let Some(path) = args
        .path("tpm2-public-key")
        .filter(|path| *path != Path::new("auto"))
    {
        files = files.with_key(path);
    }
    files
}

/// Connects.
pub(crate) fn connect(args: &Args) -> Result<Connection, Failure> {
    Native::open(&address(args)?).map_err(|error| errors::tpm(&error))
}
