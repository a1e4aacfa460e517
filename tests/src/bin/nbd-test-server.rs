//! Serves a volume over NBD for the tests: what `luksmith serve` does, plus the check
//! that no I/O thread allocates, and counters at the end.
//!
//! Arguments: `--data F --header F --passphrase P --socket S`, then any of `--read-only`,
//! `--discard`, `--buffered`, `--connections N`, `--max-io N`, `--depth N`.
//! Writes `ready URI` when clients can connect, and `served JSON` when it ends.

use std::path::PathBuf;
use std::process::ExitCode;

use luksmith_crypto::AllowNull;
use luksmith_data_path::alloc_guard::GuardedAllocator;
use luksmith_data_path::{Backing, BackingAccess, BackingCache, BackingOptions};
use luksmith_nbd_export::{NbdOptions, OnReady, serve};
use luksmith_tests::open::open_volume;

#[global_allocator]
static ALLOCATOR: GuardedAllocator = GuardedAllocator;

fn main() -> ExitCode {
    // Why a client was cut off is on its standard error, which a failing test shows.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text.push_str(&format!(": {error}"));
                cause = error.source();
            }
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (mut data, mut header, mut passphrase) = (PathBuf::new(), None, String::new());
    let mut options = NbdOptions::new("");
    let mut cache = BackingCache::Direct;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or("an option without its value");
        match argument.as_str() {
            "--data" => data = value()?.into(),
            "--header" => header = Some(PathBuf::from(value()?)),
            "--passphrase" => passphrase = value()?,
            "--socket" => options.socket = value()?.into(),
            "--connections" => options.max_connections = value()?.parse()?,
            "--max-io" => options.max_io = value()?.parse()?,
            "--depth" => options.depth = value()?.parse()?,
            "--read-only" => options.read_only = true,
            "--discard" => options.allow_discards = true,
            "--buffered" => cache = BackingCache::Buffered,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let access = if options.read_only {
        BackingAccess::ReadOnly
    } else {
        BackingAccess::ReadWrite
    };
    let backing = Backing::open(&data, BackingOptions { access, cache })?;
    let header = header.unwrap_or(data);
    let volume = open_volume(&header, backing.len(), passphrase.as_bytes(), AllowNull::No)?;
    options.on_ready = Some(OnReady::new(|ready| {
        for warning in &ready.warnings {
            println!("warning {warning}");
        }
        println!("ready {}", ready.uri);
    }));
    let summary = serve(volume, backing, options)?;
    println!("served {}", serde_json::to_string(&summary.counters)?);
    Ok(())
}
