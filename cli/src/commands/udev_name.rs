//! `udev-name`: what udev shall know of a device, asked by our rules.

use crate::args::Args;
use crate::errors;
use crate::hint::Failure;
use crate::output;

/// Runs the verb: `KEY=VALUE` lines, or exit number 1 for a device that is not ours.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let device = args.required("KERNEL-NAME")?;
    let device = device.to_string_lossy();
    let found =
        luksmith_ublk_target::udev::properties(&device).map_err(|e| errors::ublk(e).no_disk())?;
    let Some(pairs) = found else {
        let what = format!("{device} is no volume of ours");
        return Err(Failure::usage(what).no_disk().quiet());
    };
    let lines: String = pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect();
    output::text(&lines)
}
