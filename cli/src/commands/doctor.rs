//! `doctor`: what stands between this machine and a served volume, each with the next command.
//!
//! ```text
//! driver.rs     kernel, ublk, io_uring, rights: without them no volume is served
//! tpm.rs        the TPM, and the slots that it opens: without them a passphrase is asked for
//! next_boot.rs  whether these slots would open then
//! ```

mod driver;
mod next_boot;
mod tpm;

use luksmith_ublk_target::doctor::facts;
use serde_json::{Value, json};

use crate::args::Args;
use crate::hint::{Failure, shell};
use crate::output;
use crate::refusal;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weight {
    Good,
    /// Works, but not as well as it could.
    Warning,
    /// Volumes cannot be opened.
    Blocks,
}

/// One line of the report.
struct Finding {
    id: &'static str,
    weight: Weight,
    what: String,
    commands: Vec<String>,
}

fn finding(id: &'static str, weight: Weight, what: impl Into<String>) -> Finding {
    Finding {
        id,
        weight,
        what: what.into(),
        commands: Vec::new(),
    }
}

impl Finding {
    fn with(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let facts = facts();
    let mut findings = driver::examine(&facts);
    findings.extend(tpm::examine(args));
    findings.extend(refused());
    let blocked = findings.iter().any(|f| f.weight == Weight::Blocks);
    if args.flag("json") {
        output::json(&json!({
            "schema": "luksmith.doctor/1",
            "ready": !blocked,
            "findings": findings.iter().map(as_json).collect::<Vec<_>>(),
            "facts": serde_json::to_value(&facts).unwrap_or_default(),
        }))?;
    } else {
        output::text(&text(&findings, blocked))?;
    }
    if blocked {
        let what = "this machine cannot open volumes as block devices yet";
        return Err(Failure::usage(what).no_disk().quiet());
    }
    Ok(())
}

fn as_json(finding: &Finding) -> Value {
    json!({
        "id": finding.id,
        "severity": match finding.weight {
            Weight::Good => "good",
            Weight::Warning => "warning",
            Weight::Blocks => "blocks",
        },
        "what": finding.what,
        "commands": finding.commands,
    })
}

fn text(findings: &[Finding], blocked: bool) -> String {
    let mut out = String::new();
    for finding in findings {
        let mark = match finding.weight {
            Weight::Good => "ok   ",
            Weight::Warning => "warn ",
            Weight::Blocks => "STOP ",
        };
        out.push_str(&format!("{mark} {}\n", finding.what));
        for command in &finding.commands {
            out.push_str(&format!("        {command}\n"));
        }
    }
    out.push_str(if blocked {
        "\nVolumes cannot be opened as block devices here yet; the lines marked STOP say what to do.\n\
         'luksmith serve' exports a volume over NBD without any of it.\n"
    } else {
        "\nVolumes can be opened as block devices here.\n"
    });
    out
}

/// Open volumes that their TPM did not open, and will not open at the next boot.
fn refused() -> Vec<Finding> {
    let open = luksmith_ublk_target::list().unwrap_or_default();
    let mut all = Vec::new();
    for volume in &open {
        for one in refusal::recall(&volume.facts.uuid) {
            let device = volume
                .facts
                .header
                .as_ref()
                .unwrap_or(&volume.facts.backing);
            let mut commands = vec![format!("sudo {}", one.command)];
            if one.is_of_the_slot() {
                commands.insert(0, format!("sudo luksmith tpm why {}", shell(device)));
            }
            all.push(Finding {
                id: "tpm",
                weight: Weight::Warning,
                what: format!(
                    "the TPM did not open {} and will not at the next boot: token {}: {}",
                    volume.facts.name, one.token, one.why
                ),
                commands,
            });
        }
    }
    all
}
