//! What this machine keeps of its TPM and its volumes: files for root alone, on the encrypted root.

use std::path::PathBuf;

use crate::args::Args;

const FOLDER: &str = "/var/lib/luksmith";

/// Where the files are.
pub(crate) fn folder(args: &Args) -> PathBuf {
    args.path("state-directory")
        .unwrap_or_else(|| FOLDER.into())
}
