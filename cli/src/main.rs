//! The luksmith command: reads the command line, calls the verb, says how it ended.
//!
//! [`verbs`] lists what it can do, [`options`] with which options; a file per verb stands in
//! [`commands`]. Errors become words in [`errors`] and [`hint`], numbers in [`exit`].

mod args;
mod ask_password;
mod blockinfo;
mod commands;
mod credential;
mod crypttab;
mod errors;
mod event_log;
mod exit;
mod hint;
mod kdf;
mod kernels;
mod options;
mod output;
mod passphrase;
mod plymouth;
mod progress;
mod prompt;
mod refusal;
mod secure_boot;
mod session;
mod state;
mod tpm_device;
mod verbs;
mod whole_file;

use std::process::ExitCode;

use args::Parsed;
use exit::Exit;
use hint::Failure;

/// Debug builds end the process when an I/O thread allocates.
#[global_allocator]
static ALLOCATOR: luksmith_data_path::alloc_guard::GuardedAllocator =
    luksmith_data_path::alloc_guard::GuardedAllocator;

fn main() -> ExitCode {
    let mut verbose = false;
    match run(&mut verbose) {
        Ok(()) => {
            if verbose {
                output::note("Command successful.");
            }
            ExitCode::SUCCESS
        }
        Err(failure) if failure.exit == Exit::ClosedPipe => ExitCode::from(failure.exit as u8),
        Err(failure) => {
            if verbose || !failure.quiet {
                for line in failure.to_string().lines() {
                    output::note(line);
                }
            }
            if verbose {
                let (code, meaning) = (failure.exit as u8, failure.exit.meaning());
                output::note(&format!("Command failed with code {code} ({meaning})."));
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(verbose: &mut bool) -> Result<(), Failure> {
    let args = match args::parse(std::env::args_os().collect())? {
        Parsed::Show(text) => return output::text(&text),
        Parsed::Run(args) => args,
    };
    let debug = args.flag("debug") || args.flag("debug-json");
    *verbose = args.flag("verbose") || debug;
    if debug {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG)
            .init();
    }
    args.flag("batch-mode");
    if args.flag("test-args") {
        return Ok(());
    }
    luksmith_crypto::selftest::power_on().map_err(errors::crypto)?;
    (args.verb.run)(&args).map_err(|failure| {
        match failure.hint.is_none() && failure.commands.is_empty() {
            true if !failure.quiet => failure.command(format!("luksmith {} --help", args.typed)),
            _ => failure,
        }
    })?;
    for option in args.never_looked_at() {
        output::note(&format!("note: option --{option} changed nothing here"));
    }
    Ok(())
}
