//! `man`: the man pages, from the same table as the command line.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::args::{self, Args};
use crate::hint::{Failure, shell};

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let directory = PathBuf::from(args.required("DIRECTORY")?);
    let top = args::command();
    page(&directory, "luksmith", &top)?;
    for verb in top.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = format!("luksmith-{}", verb.get_name());
        page(&directory, &name, verb)?;
        for word in verb.get_subcommands().filter(|c| !c.is_hide_set()) {
            page(&directory, &format!("{name}-{}", word.get_name()), word)?;
        }
    }
    Ok(())
}

fn page(directory: &Path, name: &str, command: &clap::Command) -> Result<(), Failure> {
    let path = directory.join(format!("{name}.8"));
    let failed =
        |e: std::io::Error| Failure::usage(format!("cannot write {}: {e}", shell(&path))).no_disk();
    let typed = name.replace('-', " ");
    let command = command
        .clone()
        .display_name(name)
        .bin_name(typed)
        .version(env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command)
        .title(name)
        .section("8")
        .date("")
        .manual("luksmith");
    let mut text = Vec::new();
    man.render(&mut text).map_err(failed)?;
    text.extend_from_slice(COMMON.as_bytes());
    let mut file = std::fs::File::create(&path).map_err(failed)?;
    file.write_all(&text).map_err(failed)
}

/// What holds for every verb, written by hand.
const COMMON: &str = include_str!("../../man/common.roff");
