//! `initramfs-check`: what the hooks that make an initramfs ask before they put volumes into it.
//!
//! What `attach` would refuse at boot ends locked, with nobody told before. So it is refused while the
//! machine still runs and the old initramfs is in its place.

use std::io;

use luksmith_ublk_target::VolumeName;
use luksmith_ublk_target::doctor::known_bad_kernel;

use crate::args::Args;
use crate::commands::attach;
use crate::crypttab::{self, Entry};
use crate::errors;
use crate::hint::Failure;
use crate::output;

/// Runs the verb on the lines at standard input: prints why a kernel must not be asked to serve volumes, and
/// nothing if it may; fails where a line cannot be honoured at boot.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    // A kernel that gets none of our volumes has no use for the lines.
    if let Some(release) = args.text("kernel")
        && let Some(why) = known_bad_kernel(&release)
    {
        return output::text(&format!("kernel {release} is known to be bad: {why}\n"));
    }
    let text = io::read_to_string(io::stdin())
        .map_err(|e| Failure::usage(format!("cannot read standard input: {e}")).no_disk())?;
    let mut bad = Vec::new();
    for line in crypttab::parse(&text) {
        match line {
            Ok(entry) => {
                attach::warn_of_unknown(&entry);
                bad.extend(obstacle(&entry));
            }
            Err((name, why)) => bad.push(format!("{name}: {why}")),
        }
    }
    if !bad.is_empty() {
        let failure = Failure::usage("a line of crypttab would end the boot with locked disks");
        return Err(bad
            .into_iter()
            .fold(failure, Failure::detail)
            .no_disk()
            .hint("correct it, then make the initramfs anew")
            .command(format!("$EDITOR {}", crypttab::TABLE)));
    }
    Ok(())
}

/// Why a line that can be read cannot be honoured.
fn obstacle(entry: &Entry) -> Option<String> {
    let named = VolumeName::new(&entry.name).map_err(errors::ublk).err();
    let failure = named.or_else(|| attach::as_open(entry, true).err())?;
    Some(format!("{}: {}", entry.name, failure.what))
}
