//! `status`: one open volume, for people (in the layout of cryptsetup) and as JSON.

use std::time::{SystemTime, UNIX_EPOCH};

use luksmith_ublk_target::{UblkError, User, VolumeState, VolumeStatus};
use serde_json::{Value, json};

use crate::args::Args;
use crate::commands::close;
use crate::errors;
use crate::exit::Exit;
use crate::hint::Failure;
use crate::output;
use crate::refusal::{self, Refusal};
use crate::session::check_type;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    check_type(args)?;
    close::ignored_header(args);
    let name = close::name(&args.required("NAME")?)?;
    let json = args.flag("json");
    match luksmith_ublk_target::status(&name) {
        Ok(status) if json => output::json(&as_json(&status)),
        Ok(status) => output::text(&text(&status)),
        Err(UblkError::NotOpen(_)) => {
            if json {
                output::json(&json!({
                    "schema": "luksmith.status/1", "name": name.as_str(), "active": false,
                }))?;
            } else {
                output::text(&format!("/dev/luksmith/{name} is inactive.\n"))?;
            }
            Err(
                Failure::new(Exit::WrongDevice, format!("no volume named {name} is open"))
                    .no_disk()
                    .hint("see which volumes are open")
                    .command("luksmith list"),
            )
        }
        Err(e) => Err(errors::ublk(e).no_disk()),
    }
}

/// Everything, as `list --json` gives it too.
pub(crate) fn as_json(status: &VolumeStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("schema".into(), json!("luksmith.status/1"));
        object.insert("active".into(), json!(true));
        object.insert("uptime_s".into(), json!(uptime(status)));
        object.insert("iops_average".into(), json!(iops(status)));
        let refused = recalled(status);
        object.insert(
            "tpm_refused".into(),
            refused.iter().map(Refusal::json).collect(),
        );
        // How the program recognises a backing again; no business of others.
        object.remove("backing_id");
    }
    value
}

fn text(status: &VolumeStatus) -> String {
    let facts = &status.facts;
    let in_use = if status.users.is_empty() {
        ""
    } else {
        " and is in use"
    };
    let mut lines = vec![format!("/dev/luksmith/{} is active{in_use}.", facts.name)];
    let mut say = |name: &str, value: String| lines.push(format!("  {name:<14}{value}"));
    say("type:", "LUKS2".to_string());
    say("cipher:", facts.cipher.clone());
    say("keysize:", format!("{} bits", facts.key_bits));
    say("device:", facts.backing.display().to_string());
    if let Some(header) = &facts.header {
        say("header:", header.display().to_string());
    }
    say("sector size:", facts.sector_size.to_string());
    say(
        "offset:",
        format!("{} sectors", facts.data_offset_bytes / 512),
    );
    say(
        "size:",
        format!(
            "{} sectors ({})",
            facts.size_bytes / 512,
            output::size(facts.size_bytes)
        ),
    );
    say(
        "mode:",
        if facts.read_only {
            "readonly"
        } else {
            "read/write"
        }
        .to_string(),
    );
    if facts.allow_discards {
        say("flags:", "discards".to_string());
    }
    say("uuid:", facts.uuid.clone());
    if let Some(label) = facts.label.as_ref().filter(|l| !l.is_empty()) {
        say("label:", crate::commands::dump_text::shown(label));
    }
    say("block device:", facts.device.display().to_string());
    for user in &status.users {
        say("used by:", user.to_string());
    }
    say("state:", state(status.state).to_string());
    let server = status
        .server_pid
        .map_or("none".to_string(), |pid| format!("process {pid}"));
    say(
        "server:",
        format!(
            "{server}, keeper process {}, replaced {} times",
            facts.keeper_pid, status.recoveries
        ),
    );
    say(
        "queues:",
        format!("{} with {} requests each", facts.queues, facts.depth),
    );
    for refused in recalled(status) {
        say(
            "TPM:",
            format!("token {} did not open it: {}", refused.token, refused.why),
        );
        say("", format!("if the change was yours: {}", refused.command));
    }
    match &status.counters {
        None => say("requests:", "the server does not answer".to_string()),
        Some(counters) => {
            say(
                "read:",
                format!(
                    "{} in {} requests",
                    output::size(counters.read_bytes),
                    counters.reads
                ),
            );
            say(
                "written:",
                format!(
                    "{} in {} requests",
                    output::size(counters.written_bytes),
                    counters.writes
                ),
            );
            say(
                "other:",
                format!(
                    "{} flushes, {} discards",
                    counters.flushes, counters.discards
                ),
            );
            say(
                "average:",
                format!(
                    "{:.1} requests/s in {}",
                    iops(status),
                    duration(uptime(status))
                ),
            );
            say("errors:", counters.errors.to_string());
            if counters.flush_failed {
                say(
                    "WARNING:",
                    "a flush failed; what was written before it may be lost".to_string(),
                );
            }
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// What the TPM refused when it was opened, and was not bound anew since.
fn recalled(status: &VolumeStatus) -> Vec<Refusal> {
    refusal::recall(&status.facts.uuid)
}

/// Seconds since it was opened.
fn uptime(status: &VolumeStatus) -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |t| t.as_secs());
    now.saturating_sub(status.facts.opened_at)
}

/// Requests per second since the present server runs; averaged over the time the volume is open.
pub(crate) fn iops(status: &VolumeStatus) -> f64 {
    let Some(counters) = &status.counters else {
        return 0.0;
    };
    let all = counters.reads + counters.writes + counters.flushes + counters.discards;
    (all as f64 / uptime(status).max(1) as f64 * 10.0).round() / 10.0
}

/// A state in words.
pub(crate) fn state(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Starting => "starting",
        VolumeState::Live => "live",
        VolumeState::ClosePending => "live, closes when its last user is gone",
        VolumeState::Closing => "closing",
        VolumeState::Recovering => "recovering: the server is being replaced, requests wait",
        VolumeState::NoAnswer => "the server does not answer",
    }
}

/// Where it is mounted, or how else it is used, in a few words.
pub(crate) fn used(status: &VolumeStatus) -> String {
    let mut uses: Vec<String> = Vec::new();
    for user in &status.users {
        let one = match user {
            User::Mount { path, .. } => path.display().to_string(),
            User::Swap { .. } => "swap".to_string(),
            User::Holder { holder, .. } => holder.clone(),
            User::Process { command, pid, .. } => format!("{command}[{pid}]"),
            User::Unseen { .. } => "unseen".to_string(),
        };
        if !uses.contains(&one) {
            uses.push(one);
        }
    }
    if uses.is_empty() {
        "-".to_string()
    } else {
        uses.join(",")
    }
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(61), "1 min 1 s");
        assert_eq!(duration(7260), "2 h 1 min");
        assert_eq!(duration(90000), "1 d 1 h");
    }
}
