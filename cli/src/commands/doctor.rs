//! `doctor`: what stands between this machine and a served volume, each with the next command.

use luksmith_ublk_target::doctor::{Driver, Facts, IoUringState, facts};
use serde_json::{Value, json};

use crate::args::Args;
use crate::hint::Failure;
use crate::output;

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

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let facts = facts();
    let findings = examine(&facts);
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

fn examine(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut say = |id, weight, what: String, commands: Vec<String>| {
        all.push(Finding {
            id,
            weight,
            what,
            commands,
        });
    };
    match &facts.known_bad {
        Some(why) => say(
            "kernel",
            Weight::Blocks,
            format!("kernel {} is known to be bad: {why}", facts.kernel),
            vec!["sudo apt-get update && sudo apt-get dist-upgrade && sudo reboot".into()],
        ),
        None => say(
            "kernel",
            Weight::Good,
            format!(
                "kernel {}: nothing bad is known of its ublk driver",
                facts.kernel
            ),
            vec![],
        ),
    }
    driver(facts, &mut say);
    match &facts.io_uring {
        IoUringState::Allowed => {
            say(
                "io-uring",
                Weight::Good,
                "io_uring may be used".into(),
                vec![],
            );
        }
        IoUringState::DisabledBySysctl(value) => say(
            "io-uring",
            Weight::Blocks,
            format!(
                "io_uring is switched off by the administrator (kernel.io_uring_disabled = {value})"
            ),
            vec!["sudo sysctl kernel.io_uring_disabled=0".into()],
        ),
        IoUringState::Refused(why) => say(
            "io-uring",
            Weight::Blocks,
            format!("io_uring is refused, as many containers do: {why}"),
            vec!["run luksmith on the host, or let the container use io_uring".into()],
        ),
    }
    if facts.may_control {
        say(
            "rights",
            Weight::Good,
            "this user may make block devices".into(),
            vec![],
        );
    } else {
        say(
            "rights",
            Weight::Blocks,
            "only root may make block devices".into(),
            vec!["sudo luksmith doctor".into()],
        );
    }
    memory(facts, &mut say);
    match (facts.udev_running, facts.udev_rules) {
        (true, true) => say("udev", Weight::Good, "udev knows our devices".into(), vec![]),
        (true, false) => say(
            "udev",
            Weight::Warning,
            "the udev rules are not installed: names in /dev/luksmith work, links to file systems may lack"
                .into(),
            vec![
                "sudo cp udev/61-luksmith.rules /etc/udev/rules.d/ && sudo udevadm control --reload"
                    .into(),
            ],
        ),
        (false, _) => say(
            "udev",
            Weight::Warning,
            "udev does not run: names in /dev/luksmith work, links to file systems are not made"
                .into(),
            vec![],
        ),
    }
    all
}

type Say<'a> = &'a mut dyn FnMut(&'static str, Weight, String, Vec<String>);

fn driver(facts: &Facts, say: Say<'_>) {
    match &facts.driver {
        Driver::Ready => match &facts.missing_feature {
            Some(missing) => say(
                "driver",
                Weight::Blocks,
                format!(
                    "the ublk driver of this kernel lacks {missing}; Linux 6.12 or newer has it"
                ),
                vec!["sudo apt-get install linux-image-amd64 && sudo reboot".into()],
            ),
            None => {
                let mask = facts
                    .features
                    .map_or(String::new(), |f| format!(" (features {f:#x})"));
                say(
                    "driver",
                    Weight::Good,
                    format!("the ublk driver answers{mask}"),
                    vec![],
                );
            }
        },
        Driver::Fails(why) => say(
            "driver",
            Weight::Blocks,
            format!("the ublk driver is there but fails: {why}"),
            vec!["sudo dmesg | tail".into()],
        ),
        Driver::NotLoaded => say(
            "driver",
            Weight::Blocks,
            "the ublk driver is installed but not loaded".into(),
            vec![
                "sudo modprobe ublk_drv".into(),
                "echo ublk_drv | sudo tee /etc/modules-load.d/ublk_drv.conf".into(),
            ],
        ),
        Driver::NotInstalled => {
            let commands = match &facts.module_package {
                Some(package) => vec![install(facts, package), "sudo modprobe ublk_drv".into()],
                None => Vec::new(),
            };
            say(
                "driver",
                Weight::Blocks,
                format!("there is no ublk driver for kernel {}", facts.kernel),
                commands,
            );
        }
    }
}

/// The command that installs a package on this distribution.
fn install(facts: &Facts, package: &str) -> String {
    let id = facts
        .distribution
        .as_ref()
        .map_or("", |(id, _)| id.as_str());
    match (id, package.split_once(" from ")) {
        ("fedora", _) => format!("sudo dnf install {package}"),
        (_, Some((package, suite))) => {
            format!("sudo apt-get install -t {suite} {package} && sudo reboot")
        }
        _ => format!("sudo apt-get install {package}"),
    }
}

fn memory(facts: &Facts, say: Say<'_>) {
    // Two queues with their buffers; see the options of `open`.
    const ENOUGH: u64 = 64 << 20;
    match facts.memlock_bytes {
        None => say(
            "memlock",
            Weight::Good,
            "memory may be locked without a limit".into(),
            vec![],
        ),
        Some(_) if facts.may_lock_memory => {
            say(
                "memlock",
                Weight::Good,
                "memory may be locked beyond the limit".into(),
                vec![],
            );
        }
        Some(limit) if limit >= ENOUGH => say(
            "memlock",
            Weight::Good,
            format!("{} of memory may be locked", output::size(limit)),
            vec![],
        ),
        Some(limit) => say(
            "memlock",
            Weight::Warning,
            format!(
                "only {} of memory may be locked against swapping",
                output::size(limit)
            ),
            vec!["ulimit -l unlimited".into()],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            kernel: "6.12.0".into(),
            known_bad: None,
            driver: Driver::Ready,
            features: Some(0x1ff),
            missing_feature: None,
            safe_stop: Some(true),
            io_uring: IoUringState::Allowed,
            memlock_bytes: None,
            may_lock_memory: true,
            may_control: true,
            may_flush_io: true,
            udev_running: true,
            udev_rules: true,
            distribution: Some(("debian".into(), "12".into())),
            module_package: None,
        }
    }

    fn commands_of(facts: &Facts, id: &str) -> Vec<String> {
        let finding = examine(facts)
            .into_iter()
            .find(|f| f.id == id)
            .expect("a finding");
        assert_ne!(finding.weight, Weight::Good);
        finding.commands
    }

    #[test]
    fn a_good_machine_has_no_finding_to_act_on() {
        assert!(examine(&good()).iter().all(|f| f.weight == Weight::Good));
    }

    #[test]
    fn each_finding_comes_with_the_exact_next_command() {
        let facts = Facts {
            driver: Driver::NotLoaded,
            ..good()
        };
        assert_eq!(
            commands_of(&facts, "driver").first().unwrap(),
            "sudo modprobe ublk_drv"
        );
        let facts = Facts {
            driver: Driver::NotInstalled,
            module_package: Some("linux-image-amd64 from bookworm-backports".into()),
            ..good()
        };
        assert_eq!(
            commands_of(&facts, "driver").first().unwrap(),
            "sudo apt-get install -t bookworm-backports linux-image-amd64 && sudo reboot"
        );
        let facts = Facts {
            io_uring: IoUringState::DisabledBySysctl(2),
            ..good()
        };
        assert_eq!(
            commands_of(&facts, "io-uring"),
            ["sudo sysctl kernel.io_uring_disabled=0"]
        );
        let facts = Facts {
            memlock_bytes: Some(8 << 20),
            may_lock_memory: false,
            ..good()
        };
        assert_eq!(commands_of(&facts, "memlock"), ["ulimit -l unlimited"]);
        let facts = Facts {
            may_control: false,
            ..good()
        };
        assert_eq!(commands_of(&facts, "rights"), ["sudo luksmith doctor"]);
    }
}
