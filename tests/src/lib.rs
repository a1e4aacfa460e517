//! Tests that need more than one crate: layers, interop, transcripts, virtual machines.
//!
//! Virtual machines: [`vm`], and [`boot`] where the boot itself is tested. The other side of interoperability: [`cryptsetup`], [`systemd`]; ours: [`image`], [`open`], [`nbd`]. The tests themselves lie in `tests/tests/`.

use std::path::{Path, PathBuf};

pub mod boot;
pub mod cli;
pub mod cryptsetup;
pub mod image;
pub mod nbd;
pub mod open;
pub mod systemd;
pub mod vm;

/// Folder of the workspace.
#[must_use]
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests package lies in the workspace")
        .to_path_buf()
}
