//! Runs shell scripts as root under a stock kernel with ublk and dm-crypt.
//!
//! [`Vm`] is one boot with one script. A [`Suite`] is many checks in one boot, because a
//! boot without hardware virtualisation takes ten seconds: every check is a file of
//! `tests/tests/vm/SUITE/`, reports under its own name and fails on its own.
//!
//! Nothing here is ever skipped: a machine without QEMU fails the tests with the command
//! that installs it. The kernels come from `vm-images/`, which says how.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// A kernel of `vm-images/manifest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// What the current stable release boots (Debian: 6.12).
    Stable,
    /// The newest that the archive has (Debian: 7.x of the backports).
    Newest,
}

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Newest => "newest",
        }
    }
}

/// A virtual machine to be booted for one script.
#[derive(Debug)]
pub struct Vm {
    kernel: Kernel,
    timeout: Duration,
    options: Vec<String>,
}

/// What the script left behind.
#[derive(Debug)]
pub struct Output {
    /// Exit status of the script; 124 if it did not end in time, 125 if the machine did not boot.
    pub status: i32,
    /// Standard output of the script.
    pub stdout: String,
    /// Standard error of the script and, if it did not end, the end of the console.
    pub stderr: String,
}

impl Vm {
    /// A machine with 2 processors, 3 GiB and two empty disks `/dev/vda` and `/dev/vdb`.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            timeout: Duration::from_secs(300),
            options: Vec::new(),
        }
    }

    /// How long the script may take, with the boot (default: five minutes).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// One more option of `vm-images/boot`, with its value.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Boots, runs `script` with bash as root, and waits for the end.
    ///
    /// # Panics
    /// If QEMU or a file of the project is missing: a test that cannot run has failed.
    #[must_use]
    pub fn run(&self, script: &str) -> Output {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let job = folder.path().join("job.sh");
        fs::write(&job, script).expect("the script is written");
        let _turn = half_a_turn();
        self.boot(&job, &folder.path().join("out"))
    }

    fn boot(&self, job: &Path, out: &Path) -> Output {
        assert!(
            which("qemu-system-x86_64"),
            "qemu-system-x86_64 is missing; the tests need it: apt-get install qemu-system-x86 (or ./x test, which does it)"
        );
        let done = Command::new(crate::project().join("vm-images/boot"))
            .args(["--kernel", self.kernel.name()])
            .args(["--timeout", &self.timeout.as_secs().to_string()])
            .arg("--bin")
            .arg(luksmith())
            .args(&self.options)
            .arg("--job")
            .arg(job)
            .arg("--out")
            .arg(out)
            .output()
            .expect("vm-images/boot starts");
        Output {
            status: done.status.code().unwrap_or(125),
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }
}

/// Many checks in one boot. Made by [`vm_suite!`](crate::vm_suite).
#[derive(Debug)]
pub struct Suite {
    /// Folder below `tests/tests/vm/`.
    pub name: &'static str,
    /// The checks that are declared; each is a file `NAME.sh` of that folder.
    pub checks: &'static [&'static str],
    /// Helper programs for `/usr/bin` of the machine, besides luksmith itself.
    pub programs: &'static [&'static str],
}

impl Suite {
    /// Fails unless `check` succeeded on `kernel`; the first caller of a run boots.
    ///
    /// `LUKSMITH_VM_ONLY="a b"` runs these checks only (the others then fail: nothing is
    /// skipped in silence).
    ///
    /// # Panics
    /// If the check failed, with all that it printed.
    pub fn check(&self, kernel: Kernel, check: &str) {
        let out = self.results(kernel);
        let read = |end: &str| {
            fs::read_to_string(out.join(format!("checks/{check}.{end}"))).unwrap_or_default()
        };
        let status = read("status");
        if status.trim() == "0" {
            return;
        }
        let mut story = String::new();
        match status.trim() {
            "" => {
                story += "it did not come to its end: the machine stopped before\n";
                story += &fs::read_to_string(out.join("boot")).unwrap_or_default();
            }
            other => {
                let _ = writeln!(story, "status {other}");
            }
        }
        for (what, text) in [("output", read("out")), ("kernel messages", read("dmesg"))] {
            let _ = writeln!(story, "--- {what} of {check}:\n{}", tail(&text, 150));
        }
        panic!(
            "{}/{check} on the {} kernel: {story}",
            self.name,
            kernel.name()
        );
    }

    /// Fails if a script of the folder is not declared, or the other way round.
    ///
    /// # Panics
    /// See above.
    pub fn no_script_is_forgotten(&self) {
        let mut found: Vec<String> = fs::read_dir(self.folder())
            .expect("the folder of the suite")
            .map(|entry| entry.expect("an entry").file_name())
            .filter_map(|name| {
                let name = name.into_string().expect("a UTF-8 name");
                name.strip_suffix(".sh").map(str::to_owned)
            })
            .collect();
        found.sort_unstable();
        let mut declared = self.checks.to_vec();
        declared.sort_unstable();
        assert_eq!(found, declared);
    }

    fn folder(&self) -> PathBuf {
        crate::project().join("tests/tests/vm").join(self.name)
    }

    /// Boots once per test run, both kernels side by side, and returns the folder with the
    /// results of `kernel`: a guest without hardware virtualisation keeps one processor busy.
    fn results(&self, kernel: Kernel) -> PathBuf {
        // cargo-nextest gives every test its own process, cargo test one to all.
        let run = std::env::var("NEXTEST_RUN_ID")
            .unwrap_or_else(|_| format!("process-{}", std::process::id()));
        let runs = target().join("vm");
        let out = |kernel: Kernel| {
            runs.join(&run)
                .join(format!("{}-{}", self.name, kernel.name()))
        };
        let _turn = turn();
        if !out(kernel).join("boot").exists() {
            forget_old_runs(&runs);
            std::thread::scope(|threads| {
                for each in [Kernel::Stable, Kernel::Newest] {
                    let folder = out(each);
                    threads.spawn(move || self.run_all(each, &folder));
                }
            });
        }
        out(kernel)
    }

    /// Boots `kernel` once and runs every check.
    fn run_all(&self, kernel: Kernel, out: &Path) {
        let checks = out.join("checks");
        fs::create_dir_all(&checks).expect("a folder for the results");
        let only = std::env::var("LUKSMITH_VM_ONLY").unwrap_or_default();
        let mut seconds = 120;
        for check in self.checks {
            if !only.is_empty() && !only.split_whitespace().any(|wanted| wanted == *check) {
                continue;
            }
            let script = fs::read_to_string(self.folder().join(format!("{check}.sh")))
                .unwrap_or_else(|error| panic!("{check}.sh: {error}"));
            seconds += limit_seconds(&script) + 30;
            fs::write(checks.join(format!("{check}.sh")), script).expect("the check is written");
        }
        fs::write(out.join("prelude.sh"), PRELUDE).expect("the prelude is written");
        let job = out.join("runner.sh");
        fs::write(&job, RUNNER).expect("the runner is written");
        let rules = crate::project().join("udev");
        let mut vm = Vm::new(kernel)
            .timeout(Duration::from_secs(seconds))
            .option("--udev", rules.to_str().expect("a UTF-8 path"));
        for program in self.programs {
            vm = vm.option("--bin", program);
        }
        let output = vm.boot(&job, out);
        fs::write(
            out.join("boot"),
            format!(
                "status {}\n{}\n{}",
                output.status, output.stdout, output.stderr
            ),
        )
        .expect("the result of the boot is written");
    }
}

/// Declares the checks of a suite as tests, one per check and kernel.
///
/// ```ignore
/// luksmith_tests::vm_suite! { "ublk": opens_and_serves, survives_kill }
/// ```
/// runs `tests/tests/vm/ublk/opens_and_serves.sh` and `survives_kill.sh` on both kernels.
/// A script is bash with `-euo pipefail` and the functions of `tests/src/vm/prelude.sh`;
/// it succeeds when it comes to its end. Its first line says the claim; a line
/// `# limit: 300` gives it more than the usual 120 seconds, `# processors: 2` more than
/// the usual one. Helper programs are named as
/// `"ublk" with (env!("CARGO_BIN_EXE_helper")): …`.
#[macro_export]
macro_rules! vm_suite {
    ($suite:literal $(with ($program:expr))*: $($check:ident),+ $(,)?) => {
        static SUITE: $crate::vm::Suite = $crate::vm::Suite {
            name: $suite,
            checks: &[$(stringify!($check)),+],
            programs: &[$($program),*],
        };

        #[test]
        fn no_script_is_forgotten() {
            SUITE.no_script_is_forgotten();
        }

        mod on_the_stable_kernel {
            $(
                #[test]
                fn $check() {
                    super::SUITE.check($crate::vm::Kernel::Stable, stringify!($check));
                }
            )+
        }

        mod on_the_newest_kernel {
            $(
                #[test]
                fn $check() {
                    super::SUITE.check($crate::vm::Kernel::Newest, stringify!($check));
                }
            )+
        }
    };
}

/// The program as it is installed, made now unless `LUKSMITH_BIN` names one.
///
/// # Panics
/// If it does not build.
#[must_use]
pub fn luksmith() -> PathBuf {
    if let Some(given) = std::env::var_os("LUKSMITH_BIN") {
        return given.into();
    }
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .arg("program")
        .env("CARGO_TERM_QUIET", "true")
        .current_dir(crate::project())
        .status()
        .expect("cargo starts");
    assert!(built.success(), "the release build of luksmith failed");
    target().join("release/luksmith")
}

/// Waits until no other virtual machine runs for this checkout: two would starve each
/// other on a small machine, and time limits would mean nothing.
pub(crate) fn turn() -> File {
    let runs = target().join("vm");
    fs::create_dir_all(&runs).expect("a folder for the results");
    let file = File::create(runs.join("turn")).expect("the lock file");
    file.lock().expect("the lock");
    file
}

/// Waits until at most one other machine with one script runs, and no suite on two kernels.
pub(crate) fn half_a_turn() -> [File; 2] {
    let runs = target().join("vm");
    fs::create_dir_all(&runs).expect("a folder for the results");
    let all = File::create(runs.join("turn")).expect("the lock file");
    all.lock_shared().expect("the lock");
    loop {
        for half in ["half-1", "half-2"] {
            let file = File::create(runs.join(half)).expect("the lock file");
            if file.try_lock().is_ok() {
                return [all, file];
            }
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || crate::project().join("target"),
        |folder| crate::project().join(folder),
    )
}

fn which(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn limit_seconds(script: &str) -> u64 {
    script
        .lines()
        .find_map(|line| line.strip_prefix("# limit:"))
        .map_or(120, |value| {
            value
                .trim()
                .parse()
                .expect("`# limit:` is a number of seconds")
        })
}

fn forget_old_runs(runs: &Path) {
    let Ok(entries) = fs::read_dir(runs) else {
        return;
    };
    for entry in entries.flatten() {
        let old = entry
            .metadata()
            .and_then(|data| data.modified())
            .is_ok_and(|time| {
                SystemTime::now()
                    .duration_since(time)
                    .is_ok_and(|age| age > Duration::from_secs(6 * 3600))
            });
        if old && entry.path().is_dir() {
            // Only tidiness: an old run that stays harms nobody.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

const PRELUDE: &str = include_str!("vm/prelude.sh");
const RUNNER: &str = include_str!("vm/runner.sh");
