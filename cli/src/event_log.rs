//! What was measured at this boot, as the kernel and systemd wrote it down: `--event-log`.

use std::fs;
use std::io;

use luksmith_tpm::log::EventLog;

use crate::args::Args;
use crate::hint::{Failure, shell};

/// The log of the firmware and the boot loader.
const FIRMWARE: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// systemd's own, of what comes after.
const USERSPACE: &str = "/run/log/systemd/tpm2-measure.log";

/// Reads both, or the one that the options name.
pub(crate) fn read(args: &Args) -> Result<EventLog, Failure> {
    let named = args.path("event-log");
    let path = named.clone().unwrap_or_else(|| FIRMWARE.into());
    let failed = |path: &dyn std::fmt::Display, why: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot read the event log {path}: {why}")).no_disk()
    };
    let bytes = fs::read(&path).map_err(|error| failed(&shell(&path), &error))?;
    let mut log = EventLog::parse(&bytes).map_err(|error| failed(&shell(&path), &error))?;
    if named.is_none() {
        match fs::read(USERSPACE) {
            Ok(bytes) => log
                .add_userspace(&bytes)
                .map_err(|error| failed(&USERSPACE, &error))?,
            // Not every system has one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&USERSPACE, &error)),
        }
    }
    Ok(log)
}
