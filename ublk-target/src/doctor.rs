//! Facts about this machine that decide whether a volume can be served.
//!
//! Nothing here changes the machine, and nothing advises: the command line turns facts into
//! the next command to type.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::abi::Features;
use crate::control_ring::{CONTROL_NODE, ControlRing};
use crate::{UblkError, packages};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// Why this kernel must not be used, if it is known to be bad.
    pub known_bad: Option<String>,
    /// State of the driver.
    pub driver: Driver,
    /// Feature bits of the driver, if it answered.
    pub features: Option<u64>,
    /// The first needed feature that is missing.
    pub missing_feature: Option<String>,
    /// Whether the driver can refuse to stop a device that is in use (Linux 7.0).
    pub safe_stop: Option<bool>,
    /// State of io_uring.
    pub io_uring: IoUringState,
    /// The soft limit of locked memory in bytes; none: no limit.
    pub memlock_bytes: Option<u64>,
    /// Whether this process may lock memory beyond the limit (`CAP_IPC_LOCK`).
    pub may_lock_memory: bool,
    /// Whether this process may control devices (`CAP_SYS_ADMIN`).
    pub may_control: bool,
    /// Whether this process may mark itself as part of the I/O path (`CAP_SYS_RESOURCE`).
    pub may_flush_io: bool,
    /// Whether udev runs.
    pub udev_running: bool,
    /// Whether our udev rules are installed.
    pub udev_rules: bool,
    /// The distribution, from `os-release`: its `ID` and `VERSION_ID`.
    pub distribution: Option<(String, String)>,
    /// Whether the running kernel belongs to a package; none if that could not be found out, or the
    /// driver is there.
    pub kernel_packaged: Option<bool>,
    /// Options that the running kernel would have to be built with; none if its configuration could
    /// not be read, or the driver is there.
    pub missing_options: Option<Vec<String>>,
    /// A package with the driver's module for the running kernel that can be installed here.
    pub module_package: Option<String>,
    /// A package with another kernel that has the driver and can be installed here.
    pub kernel_package: Option<String>,
}

/// State of the ublk driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum Driver {
    /// It answered.
    Ready,
    /// Its control node is there but gave an error.
    Fails(String),
    /// The module is installed but not loaded: `modprobe ublk_drv` will do.
    NotLoaded,
    /// There is no module for the running kernel.
    NotInstalled,
}

/// Whether io_uring may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum IoUringState {
    /// A ring was made.
    Allowed,
    /// `kernel.io_uring_disabled` has this value: 1 shuts out ordinary users, 2 everybody.
    DisabledBySysctl(u8),
    /// The kernel or a filter of this container refuses.
    Refused(String),
}

/// Kernels on which a command of the driver crashes, for messages.
pub const KNOWN_BAD: &str = "Linux 6.18.4 and 6.18.5; Ubuntu's 6.17.0-1015-azure, \
                             6.17.0-1018-azure and 6.17.0-1017-aws";

/// Why a kernel of this release must not be asked to add a device, if so.
///
/// On these the add command dereferences a null pointer; it then never returns, the calling process cannot be
/// killed, and the driver is unusable until the machine restarts.
pub fn known_bad_kernel(release: &str) -> Option<&'static str> {
    const WHY: &str =
        "adding a device crashes in the kernel and cannot be undone without a restart";
    let (version, rest) = release.split_at(
        release
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(release.len()),
    );
    let ubuntu_cloud = version == "6.17.0"
        && rest.strip_prefix('-').is_some_and(|rest| {
            let (number, flavour) = rest.split_once('-').unwrap_or((rest, ""));
            number
                .parse::<u32>()
                .is_ok_and(|n| (1010..=1018).contains(&n))
                && (flavour.starts_with("azure") || flavour.starts_with("aws"))
        });
    (matches!(version, "6.18.4" | "6.18.5") || ubuntu_cloud).then_some(WHY)
}

/// Looks at the machine.
pub fn facts() -> Facts {
    let kernel = kernel_release();
    let features = ControlRing::open().and_then(|mut ring| ring.features());
    let driver = match &features {
        Ok(_) => Driver::Ready,
        Err(_) if !Path::new(CONTROL_NODE).exists() => {
            if module_installed(&kernel) {
                Driver::NotLoaded
            } else {
                Driver::NotInstalled
            }
        }
        Err(error) => Driver::Fails(error.to_string()),
    };
    let features = features.ok();
    let missing_feature = features.and_then(Features::missing);
    let distribution = distribution(&fs::read_to_string("/etc/os-release").unwrap_or_default());
    // Other programs are asked only where the answer is needed.
    let found = match driver == Driver::NotInstalled || missing_feature.is_some() {
        true => packages::look(distribution.as_ref(), &kernel),
        false => packages::Found::default(),
    };
    Facts {
        known_bad: known_bad_kernel(&kernel).map(Into::into),
        kernel_packaged: found.kernel_packaged,
        missing_options: found.missing_options,
        module_package: found.module_package,
        kernel_package: found.kernel_package,
        driver,
        features: features.map(|f| f.0),
        missing_feature: missing_feature.map(Into::into),
        safe_stop: features.map(|f| f.has(Features::SAFE_STOP_DEV)),
        io_uring: io_uring_state(),
        memlock_bytes: memlock_limit(),
        may_lock_memory: capability(14),
        may_control: capability(21),
        may_flush_io: capability(24),
        udev_running: crate::udev::running(),
        udev_rules: crate::udev::rules_installed(),
        distribution,
        kernel,
    }
}

/// Refuses what cannot work, before anything is done; loads the module if it is not there.
pub(crate) fn ready_to_serve() -> Result<Features, UblkError> {
    let release = kernel_release();
    if let Some(why) = known_bad_kernel(&release) {
        return Err(UblkError::KnownBadKernel { release, why });
    }
    if !Path::new(CONTROL_NODE).exists() {
        load_module();
    }
    let mut ring = ControlRing::open().map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::NotFound if module_installed(&release) => {
                "its module is installed but could not be loaded".into()
            }
            std::io::ErrorKind::NotFound => {
                format!("there is no ublk_drv module for kernel {release}")
            }
            _ => match io_uring_state() {
                IoUringState::Allowed => format!("{CONTROL_NODE}: {error}"),
                IoUringState::DisabledBySysctl(n) => {
                    format!("io_uring is switched off (kernel.io_uring_disabled = {n})")
                }
                IoUringState::Refused(why) => format!("io_uring is refused here: {why}"),
            },
        };
        UblkError::NoDriver(why)
    })?;
    let features = ring
        .features()
        .map_err(|error| UblkError::NoDriver(format!("it does not tell its features: {error}")))?;
    match features.missing() {
        Some(missing) => Err(UblkError::MissingFeature(missing)),
        None => Ok(features),
    }
}

fn load_module() {
    for modprobe in ["/usr/sbin/modprobe", "/sbin/modprobe"] {
        if Path::new(modprobe).exists() {
            // Its outcome shows in whether the control node is there afterwards.
            let _ = std::process::Command::new(modprobe)
                .args(["-q", "ublk_drv"])
                .status();
            break;
        }
    }
    // The node appears a moment after the module.
    for _ in 0..100 {
        if Path::new(CONTROL_NODE).exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn module_installed(kernel: &str) -> bool {
    let folder = Path::new("/lib/modules").join(kernel);
    ["modules.dep", "modules.builtin"].iter().any(|index| {
        fs::read_to_string(folder.join(index)).is_ok_and(|text| text.contains("/ublk_drv.ko"))
    })
}

fn io_uring_state() -> IoUringState {
    match io_uring::IoUring::new(2) {
        Ok(_) => IoUringState::Allowed,
        Err(error) => match fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .ok()
            .and_then(|text| text.trim().parse().ok())
        {
            Some(value @ 1..) => IoUringState::DisabledBySysctl(value),
            _ => IoUringState::Refused(error.to_string()),
        },
    }
}

fn memlock_limit() -> Option<u64> {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

/// Whether this process has the capability of this number.
fn capability(number: u32) -> bool {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let mask = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(mask.trim(), 16).ok()
        })
        .is_some_and(|mask| mask >> number & 1 == 1)
}

fn distribution(os_release: &str) -> Option<(String, String)> {
    let field = |key: &str| {
        os_release.lines().find_map(|line| {
            Some(
                line.strip_prefix(key)?
                    .strip_prefix('=')?
                    .trim_matches(['"', '\''])
                    .to_owned(),
            )
        })
    };
    Some((field("ID")?, field("VERSION_ID").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_crash_are_known_and_their_neighbours_are_not() {
        for bad in [
            "6.18.4",
            "6.18.5-arch1-1",
            "6.17.0-1015-azure",
            "6.17.0-1017-aws",
            "6.18.4+deb14-amd64",
        ] {
            assert!(known_bad_kernel(bad).is_some(), "{bad}");
        }
        for good in [
            "6.18.3",
            "6.18.6",
            "6.18.40",
            "6.18.12+deb13-amd64",
            "6.17.0-14-generic",
            "6.12.107+deb13-amd64",
            "7.3.4+deb13-amd64",
            "6.17.0-1019-azure",
            "6.1.0-37-amd64",
            "",
        ] {
            assert!(known_bad_kernel(good).is_none(), "{good}");
        }
    }

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
        let text = "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"13\"\nID=debian\n";
        assert_eq!(distribution(text), Some(("debian".into(), "13".into())));
        assert_eq!(distribution(""), None);
    }

    #[test]
    fn looking_at_this_machine_never_fails() {
        let facts = facts();
        assert!(!facts.kernel.is_empty());
        serde_json::to_string(&facts).unwrap();
    }
}
