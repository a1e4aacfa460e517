//! `completion`: the script by which a shell completes verbs and options.

use clap_complete::Shell;

use crate::args::{self, Args};
use crate::hint::Failure;
use crate::output;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let word = args.required("SHELL")?;
    let shell: Shell = word.to_string_lossy().parse().map_err(|_| {
        Failure::usage(format!(
            "'{}' is no shell that is known: bash, elvish, fish, powershell or zsh",
            word.to_string_lossy()
        ))
        .no_disk()
    })?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "luksmith", &mut script);
    output::bytes(&script)
}
