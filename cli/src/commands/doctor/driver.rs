//! What a server of volumes needs of this machine: kernel, driver, io_uring, rights, memory, udev.

use luksmith_ublk_target::doctor::{Driver, Facts, IoUringState};

use super::{Finding, Weight};
use crate::output;

type Say<'a> = &'a mut dyn FnMut(&'static str, Weight, String, Vec<String>);

/// What there is to say.
pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
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

fn driver(facts: &Facts, say: Say<'_>) {
    match &facts.driver {
        Driver::Ready => match &facts.missing_feature {
            Some(missing) => say(
                "driver",
                Weight::Blocks,
                format!(
                    "the ublk driver of this kernel lacks {missing}; Linux 6.12 or newer has it"
                ),
                another_kernel(facts),
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
            let (what, commands) = not_installed(facts);
            say("driver", Weight::Blocks, what, commands);
        }
    }
}

/// Why there is no driver, and what brings it.
fn not_installed(facts: &Facts) -> (String, Vec<String>) {
    let own = match facts.kernel_packaged {
        Some(false) => ", which belongs to no package of this system",
        _ => "",
    };
    let kernel = format!("kernel {}{own}", facts.kernel);
    let comma = if own.is_empty() { "" } else { "," };
    let missing = facts.missing_options.as_deref();
    let what = match missing {
        Some([]) => {
            format!("{kernel}{comma} has the ublk driver as a module that is not installed")
        }
        Some(missing) => format!(
            "{kernel}{comma} was built without the ublk driver; it lacks {}",
            missing.join(" and ")
        ),
        None => format!(
            "there is no ublk driver for {kernel} (CONFIG_BLK_DEV_UBLK=m; it needs CONFIG_IO_URING=y, too)"
        ),
    };
    if let Some(package) = &facts.module_package {
        let commands = vec![install(facts, package), "sudo modprobe ublk_drv".into()];
        return (what, commands);
    }
    let mut commands = another_kernel(facts);
    if facts.kernel_packaged == Some(false) {
        // to be typed where that kernel was built
        commands.push(match missing {
            Some([]) => "sudo make modules_install".into(),
            _ => "scripts/config --enable IO_URING --module BLK_DEV_UBLK && make olddefconfig && make"
                .into(),
        });
    }
    (what, commands)
}

/// The command that brings a kernel of the distribution with the driver, if there is one.
fn another_kernel(facts: &Facts) -> Vec<String> {
    let reboot = |package: &String| match install(facts, package) {
        command if command.ends_with("reboot") => command,
        command => format!("{command} && sudo reboot"),
    };
    facts.kernel_package.iter().map(reboot).collect()
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
            kernel_packaged: None,
            missing_options: None,
            module_package: None,
            kernel_package: None,
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
            kernel_package: Some("linux-image-amd64 from bookworm-backports".into()),
            ..good()
        };
        assert_eq!(
            commands_of(&facts, "driver").first().unwrap(),
            "sudo apt-get install -t bookworm-backports linux-image-amd64 && sudo reboot"
        );
        let facts = Facts {
            driver: Driver::NotInstalled,
            module_package: Some("linux-modules-extra-6.8.0-60-generic".into()),
            kernel_package: Some("linux-generic".into()),
            ..good()
        };
        assert_eq!(
            commands_of(&facts, "driver"),
            [
                "sudo apt-get install linux-modules-extra-6.8.0-60-generic",
                "sudo modprobe ublk_drv"
            ]
        );
        let facts = Facts {
            missing_feature: Some("user copy".into()),
            kernel_package: Some("linux-image-amd64".into()),
            ..good()
        };
        assert_eq!(
            commands_of(&facts, "driver"),
            ["sudo apt-get install linux-image-amd64 && sudo reboot"]
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

    #[test]
    fn a_kernel_of_ones_own_is_told_its_options_and_no_package_of_its_name() {
        let own = |missing: Option<Vec<String>>| Facts {
            kernel: "6.18.0-mine".into(),
            driver: Driver::NotInstalled,
            kernel_packaged: Some(false),
            missing_options: missing,
            ..good()
        };
        let said = |facts: &Facts| {
            let all = examine(facts);
            let finding = all.into_iter().find(|f| f.id == "driver");
            finding.expect("a finding").what
        };
        let lacks = own(Some(vec!["CONFIG_BLK_DEV_UBLK=m".into()]));
        assert_eq!(
            said(&lacks),
            "kernel 6.18.0-mine, which belongs to no package of this system, was built without the \
             ublk driver; it lacks CONFIG_BLK_DEV_UBLK=m"
        );
        let unknown = own(None);
        assert!(said(&unknown).contains("CONFIG_BLK_DEV_UBLK=m"));
        assert!(said(&own(Some(vec![]))).contains("not installed"));
        for facts in [&lacks, &unknown] {
            let commands = commands_of(facts, "driver");
            assert!(
                commands.iter().all(|c| !c.contains("apt-get")),
                "{commands:?}"
            );
            assert!(commands.concat().contains("BLK_DEV_UBLK"), "{commands:?}");
        }
    }
}
