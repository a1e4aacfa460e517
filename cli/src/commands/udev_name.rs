//! `udev-name`: what udev shall know of a device, asked by our rules.

use luksmith_ublk_target::mapper;

use crate::args::Args;
use crate::crypttab;
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
    let mut lines: String = pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect();
    if let Some((_, name)) = pairs.iter().find(|(key, _)| *key == "LUKSMITH_LINK")
        && in_a_table(name)
        && !mapper::has_name(name)
    {
        lines.push_str(&format!("LUKSMITH_MAPPER={name}\n"));
    }
    output::text(&lines)
}

/// Whether a table names this volume, with our option or, after a hand-back, without it. A partition
/// has another name than its volume.
fn in_a_table(name: &str) -> bool {
    [crypttab::TABLE, crypttab::INITRAMFS_TABLE]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .any(|text| crypttab::names(&text).any(|one| one == name))
}
