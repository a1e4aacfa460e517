//! What the running kernel was built with, and which packages this machine knows that bring the
//! driver. Asks the machine's own package database; where it has no answer, nothing is named.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What was found out about a kernel without the driver.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kernel_packaged: Option<bool>,
    pub(crate) missing_options: Option<Vec<String>>,
    pub(crate) module_package: Option<String>,
    pub(crate) kernel_package: Option<String>,
}

/// Looks at this machine.
pub(crate) fn look(distribution: Option<&(String, String)>, release: &str) -> Found {
    let config = config_of(release);
    find(&Machine {
        distribution,
        release,
        architecture: std::env::consts::ARCH,
        packaged: packaged(release),
        config: config.as_deref(),
        knows: &knows,
    })
}

/// What there is to find, for tests without a machine.
struct Machine<'a> {
    /// `ID` and `VERSION_ID`.
    distribution: Option<&'a (String, String)>,
    release: &'a str,
    architecture: &'a str,
    /// Whether the kernel belongs to a package; none if there is nobody to ask.
    packaged: Option<bool>,
    config: Option<&'a str>,
    /// Whether a package, of a suite or of any, can be installed.
    knows: &'a dyn Fn(&str, Option<&str>) -> bool,
}

fn find(machine: &Machine<'_>) -> Found {
    let missing_options = machine.config.map(missing_options);
    let complete = missing_options.as_ref().is_none_or(Vec::is_empty);
    // A kernel of somebody's own, or one without the driver, has no package with its module.
    let of_this_kernel = match complete && machine.packaged == Some(true) {
        true => module_packages(machine),
        false => Vec::new(),
    };
    let first_known = |packages: Vec<String>| {
        packages
            .into_iter()
            .find(|package| match package.split_once(FROM) {
                Some((package, suite)) => (machine.knows)(package, Some(suite)),
                None => (machine.knows)(package, None),
            })
    };
    Found {
        kernel_packaged: machine.packaged,
        module_package: first_known(of_this_kernel),
        kernel_package: first_known(kernel_packages(machine)),
        missing_options,
    }
}

/// Between a package and the suite that it must come from.
const FROM: &str = " from ";

/// Packages that may hold the module of the running kernel.
fn module_packages(machine: &Machine<'_>) -> Vec<String> {
    let release = machine.release;
    match machine.distribution.map(|(id, _)| id.as_str()) {
        Some("debian") => vec![format!("linux-image-{release}")],
        Some("ubuntu") => vec![
            format!("linux-modules-extra-{release}"),
            format!("linux-modules-{release}"),
        ],
        Some("fedora") => vec![format!("kernel-modules-{release}")],
        _ => Vec::new(),
    }
}

/// Packages that bring a kernel with the driver, best first.
fn kernel_packages(machine: &Machine<'_>) -> Vec<String> {
    let architecture = match machine.architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let Some((id, version)) = machine.distribution else {
        return Vec::new();
    };
    match id.as_str() {
        // Debian 12's own kernel was built without the driver.
        "debian" if version == "12" => {
            vec![format!(
                "linux-image-{architecture}{FROM}bookworm-backports"
            )]
        }
        "debian" => vec![format!("linux-image-{architecture}")],
        "ubuntu" => vec![
            format!("linux-generic-hwe-{version}"),
            "linux-generic".into(),
        ],
        "fedora" => vec!["kernel".into()],
        _ => Vec::new(),
    }
}

/// What a kernel needs, as its configuration writes it; the driver may be built in as well.
const OPTIONS: [(&str, char); 2] = [("CONFIG_IO_URING", 'y'), ("CONFIG_BLK_DEV_UBLK", 'm')];

fn missing_options(config: &str) -> Vec<String> {
    let value = |name: &str| {
        let set = |line: &'_ str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        config.lines().find_map(set)
    };
    OPTIONS
        .iter()
        .filter(|(name, _)| !matches!(value(name).as_deref(), Some("y" | "m")))
        .map(|(name, wanted)| format!("{name}={wanted}"))
        .collect()
}

/// The configuration of a kernel, from wherever this system keeps it.
fn config_of(release: &str) -> Option<String> {
    let running = Path::new("/proc/config.gz");
    if let Some(text) = running
        .exists()
        .then(|| answer("gzip", &["-dc", "/proc/config.gz"]))
        .flatten()
    {
        return Some(text);
    }
    [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
        format!("/lib/modules/{release}/build/.config"),
    ]
    .iter()
    .find_map(|path| fs::read_to_string(path).ok())
}

/// Whether the kernel of this release belongs to a package.
fn packaged(release: &str) -> Option<bool> {
    let places = [
        format!("/boot/vmlinuz-{release}"),
        format!("/lib/modules/{release}/kernel"),
        format!("/usr/lib/modules/{release}/kernel"),
    ];
    let owned = |program: &str, how: &str| {
        let mut owned = places.iter().map(|place| answer(program, &[how, place]));
        owned.any(|owner| owner.is_some())
    };
    if Path::new("/var/lib/dpkg/status").exists() {
        return Some(owned("dpkg-query", "-S"));
    }
    Path::new("/var/lib/rpm")
        .exists()
        .then(|| owned("rpm", "-qf"))
}

/// Whether the package database knows a package that can be installed.
fn knows(package: &str, suite: Option<&str>) -> bool {
    if !Path::new("/var/lib/dpkg/status").exists() {
        // The other database answers only over the network; its names are built by rule.
        return Path::new("/var/lib/rpm").exists();
    }
    let listed = |text: String| match suite {
        Some(suite) => text
            .split(|c: char| c.is_whitespace() || c == '/' || c == ',')
            .any(|word| word == suite),
        None => text
            .lines()
            .any(|line| line.trim_start().starts_with("Candidate:") && !line.contains("(none)")),
    };
    answer("apt-cache", &["policy", package]).is_some_and(listed)
}

/// What a program prints, if it is there and succeeds with words.
fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let path = ["/usr/bin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())?;
    let output = Command::new(path)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success() && !text.trim().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH: &str = "CONFIG_IO_URING=y\nCONFIG_BLK_DEV_UBLK=m\nCONFIG_BLKDEV_UBLK_LEGACY=y\n";
    const WITHOUT: &str = "CONFIG_IO_URING=y\n# CONFIG_BLK_DEV_UBLK is not set\n";

    /// Asks about a machine whose database knows `known`.
    fn ask(
        distribution: (&str, &str),
        release: &str,
        packaged: Option<bool>,
        config: Option<&str>,
        known: &[&str],
    ) -> Found {
        let distribution = (distribution.0.to_owned(), distribution.1.to_owned());
        let knows = |package: &str, suite: Option<&str>| {
            let whole = suite.map_or(package.to_owned(), |suite| {
                format!("{package}{FROM}{suite}")
            });
            known.contains(&whole.as_str())
        };
        find(&Machine {
            distribution: Some(&distribution),
            release,
            architecture: "x86_64",
            packaged,
            config,
            knows: &knows,
        })
    }

    #[test]
    fn a_kernel_of_ones_own_has_missing_options_and_no_package() {
        let known = ["linux-image-amd64", "linux-image-6.18.5"];
        let found = ask(
            ("debian", "13"),
            "6.18.5",
            Some(false),
            Some(WITHOUT),
            &known,
        );
        let missing = found.missing_options.expect("the configuration is known");
        assert_eq!(missing, ["CONFIG_BLK_DEV_UBLK=m"]);
        assert_eq!(found.module_package, None);
        assert_eq!(found.kernel_package.as_deref(), Some("linux-image-amd64"));
        let found = ask(("debian", "13"), "6.18.5", Some(false), None, &known);
        assert_eq!((found.missing_options, found.module_package), (None, None));
    }

    #[test]
    fn a_package_is_named_only_if_the_machine_knows_it() {
        let release = "6.8.0-60-generic";
        let extra = "linux-modules-extra-6.8.0-60-generic";
        let of = |known: &[&str]| ask(("ubuntu", "24.04"), release, Some(true), Some(WITH), known);
        assert_eq!(of(&[extra]).module_package.as_deref(), Some(extra));
        assert_eq!(of(&[extra]).kernel_package, None);
        assert_eq!(of(&[]).module_package, None);
        assert_eq!(
            of(&["linux-generic"]).kernel_package.as_deref(),
            Some("linux-generic")
        );
    }

    #[test]
    fn the_first_debian_with_the_driver_needs_its_backports() {
        let backports = "linux-image-amd64 from bookworm-backports";
        let of = |known: &[&str]| {
            let kernel = "6.1.0-37-amd64";
            ask(("debian", "12"), kernel, Some(true), Some(WITHOUT), known)
        };
        let found = of(&["linux-image-amd64", backports]);
        assert_eq!(found.kernel_package.as_deref(), Some(backports));
        assert_eq!(found.module_package, None);
        assert_eq!(of(&["linux-image-amd64"]).kernel_package, None);
    }

    #[test]
    fn options_are_read_as_a_configuration_writes_them() {
        assert!(missing_options(WITH).is_empty());
        assert!(missing_options("CONFIG_IO_URING=y\nCONFIG_BLK_DEV_UBLK=y\n").is_empty());
        let all = ["CONFIG_IO_URING=y", "CONFIG_BLK_DEV_UBLK=m"];
        assert_eq!(missing_options("CONFIG_BLK_DEV_UBLK=n\n"), all);
        assert_eq!(missing_options("CONFIG_IO_URING_CMD=y\n"), all);
    }

    #[test]
    fn an_unknown_distribution_has_no_package() {
        let found = ask(("plan9", "4"), "4", None, None, &["linux-image-4"]);
        assert_eq!(found, Found::default());
    }

    #[test]
    fn the_database_of_this_machine_is_asked_without_harm() {
        assert!(!knows("no-such-package-anywhere", None));
        assert!(!knows("no-such-package-anywhere", Some("no-such-suite")));
        assert_ne!(packaged("0.0.0-of-nobody"), Some(true));
        assert_eq!(
            config_of("0.0.0-of-nobody").is_some(),
            Path::new("/proc/config.gz").exists()
        );
        assert_eq!(answer("no-such-program", &[]), None);
    }
}
