//! `list`: the open volumes in a table.

use serde_json::json;

use crate::args::Args;
use crate::commands::status;
use crate::errors;
use crate::hint::Failure;
use crate::output;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let json = args.flag("json");
    let volumes = luksmith_ublk_target::list().map_err(|e| errors::ublk(e).no_disk())?;
    if json {
        return output::json(&json!({
            "schema": "luksmith.list/1",
            "volumes": volumes.iter().map(status::as_json).collect::<Vec<_>>(),
        }));
    }
    if volumes.is_empty() {
        return output::text("No volume is open.\n");
    }
    let title = [
        "NAME", "DEVICE", "SIZE", "CIPHER", "DISK", "USED BY", "IO/S", "READ", "WRITTEN", "STATE",
    ];
    let mut rows = vec![title.map(String::from).to_vec()];
    for volume in &volumes {
        let facts = &volume.facts;
        let moved = |bytes: fn(&luksmith_ublk_target::VolumeCounters) -> u64| {
            volume
                .counters
                .as_ref()
                .map_or("-".to_string(), |c| output::size(bytes(c)))
        };
        rows.push(vec![
            facts.name.to_string(),
            facts.device.display().to_string(),
            output::size(facts.size_bytes),
            format!("{}/{}", facts.cipher, facts.key_bits),
            facts.backing.display().to_string(),
            status::used(volume),
            format!("{:.1}", status::iops(volume)),
            moved(|c| c.read_bytes),
            moved(|c| c.written_bytes),
            status::state(volume.state)
                .split([',', ':'])
                .next()
                .unwrap_or_default()
                .to_string(),
        ]);
    }
    output::text(&output::table(&rows))
}
