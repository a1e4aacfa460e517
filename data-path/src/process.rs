// UNSAFETY: two prctl options have no safe wrapper in the libraries we use.
#![expect(
    unsafe_code,
    reason = "prctl(PR_SET_IO_FLUSHER) and its read-back have no safe wrapper"
)]
//! Makes a process fit to serve a disk that it may itself depend on.
//!
//! The kernel may have to write to *our* device to free memory. A server that waits
//! for memory then waits for itself. So every thread is marked as an I/O flusher
//! (its allocations start no I/O), everything is locked into memory, and the process
//! lives in a mount namespace of its own: when it dies as the last member of a
//! namespace in which its own device is mounted, the exit would unmount, and wait for
//! the dead server. Keys must not reach a core file either.
//!
//! Nothing here fails hard: each step that could not be done is in the
//! [`HardeningReport`], and the front end decides which of them it can live without.

use std::fmt;

use nix::errno::Errno;
use nix::libc;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::mman::MlockAllFlags;
use nix::sys::resource::Resource;
use nix::sys::signal::SigSet;

/// What to set; see [`harden_process`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardening {
    /// Mark this thread, and by inheritance all that it starts, as I/O flushers.
    pub io_flusher: bool,
    /// Lock all present and future pages.
    pub lock_memory: bool,
    /// No core file, no `ptrace` by other processes of the same user.
    pub no_dumps: bool,
    /// A mount namespace of our own that still sees the host's mounts appear and go.
    pub mount_namespace: bool,
    /// Block every signal in this thread and in those it starts, so that none
    /// interrupts a queue; the control thread takes them from a signalfd.
    pub mask_signals: bool,
}

impl Hardening {
    /// Everything: what a server of a kernel block device needs.
    pub const BLOCK_DEVICE: Self = Self {
        io_flusher: true,
        lock_memory: true,
        no_dumps: true,
        mount_namespace: true,
        mask_signals: true,
    };
}

/// One thing that [`harden_process`] sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `PR_SET_IO_FLUSHER`, read back.
    IoFlusher,
    /// `mlockall`.
    LockMemory,
    /// `RLIMIT_CORE` 0.
    NoCoreFile,
    /// `PR_SET_DUMPABLE` 0, read back.
    NotDumpable,
    /// `unshare(CLONE_NEWNS)` and slave propagation.
    MountNamespace,
    /// Signal mask.
    MaskSignals,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoFlusher => "mark the threads as I/O flushers (needs CAP_SYS_RESOURCE)",
            Self::LockMemory => {
                "lock the process into memory (needs CAP_IPC_LOCK or a higher memlock limit)"
            }
            Self::NoCoreFile => "forbid core files",
            Self::NotDumpable => "make the process non-dumpable",
            Self::MountNamespace => "enter a mount namespace of its own (needs CAP_SYS_ADMIN)",
            Self::MaskSignals => "mask signals",
        })
    }
}

/// What could not be set, and why. Empty when all is well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HardeningReport {
    missing: Vec<(Step, Errno)>,
}

impl HardeningReport {
    /// The steps that failed, each with the system's reason.
    #[must_use]
    pub fn missing(&self) -> &[(Step, Errno)] {
        &self.missing
    }

    /// Whether everything asked for is in force.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    fn note(&mut self, step: Step, result: Result<(), Errno>) {
        if let Err(errno) = result {
            self.missing.push((step, errno));
        }
    }
}

impl fmt::Display for HardeningReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (step, errno)) in self.missing.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}could not {step}: {}", errno.desc())?;
        }
        Ok(())
    }
}

/// Sets what `wanted` names for the whole process. To be called once, before other
/// threads start: the I/O-flusher mark, the signal mask and the namespace are
/// inherited by threads started later, not given to those that run already.
pub fn harden_process(wanted: Hardening) -> HardeningReport {
    let mut report = HardeningReport::default();
    if wanted.no_dumps {
        report.note(Step::NoCoreFile, no_core_file());
        report.note(Step::NotDumpable, not_dumpable());
    }
    if wanted.mask_signals {
        report.note(Step::MaskSignals, SigSet::all().thread_block());
    }
    if wanted.io_flusher {
        report.note(Step::IoFlusher, set_io_flusher());
    }
    if wanted.mount_namespace {
        report.note(Step::MountNamespace, own_mount_namespace());
    }
    if wanted.lock_memory {
        report.note(Step::LockMemory, lock_memory());
    }
    report
}

/// Makes the calling thread fit for I/O: masks its signals and makes sure that it is
/// marked as an I/O flusher (set again and read back, since a mark that was cleared
/// on the way would show only under memory pressure).
pub fn harden_thread(wanted: Hardening) -> HardeningReport {
    let mut report = HardeningReport::default();
    if wanted.mask_signals {
        report.note(Step::MaskSignals, SigSet::all().thread_block());
    }
    if wanted.io_flusher {
        report.note(Step::IoFlusher, set_io_flusher());
    }
    report
}

/// Whether the calling thread is marked as an I/O flusher.
///
/// # Errors
/// The system's refusal, `EPERM` without `CAP_SYS_RESOURCE`.
pub fn is_io_flusher() -> Result<bool, Errno> {
    // SAFETY: the option takes four zero arguments and touches no memory of ours.
    let value = unsafe { libc::prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) };
    Errno::result(value).map(|value| value == 1)
}

fn set_io_flusher() -> Result<(), Errno> {
    // SAFETY: the option takes the value 1 and three zeroes and touches no memory of ours.
    Errno::result(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) })?;
    if is_io_flusher()? {
        Ok(())
    } else {
        Err(Errno::ENOTSUP)
    }
}

fn no_core_file() -> Result<(), Errno> {
    nix::sys::resource::setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

fn not_dumpable() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(false)?;
    if nix::sys::prctl::get_dumpable()? {
        Err(Errno::ENOTSUP)
    } else {
        Ok(())
    }
}

fn lock_memory() -> Result<(), Errno> {
    nix::sys::mman::mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
}

fn own_mount_namespace() -> Result<(), Errno> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    // Slave, not private: an unmount on the host must still reach our copy of the
    // tree, or we would pin every file system that was mounted when we started.
    nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
}

const PR_SET_IO_FLUSHER: libc::c_int = 57;
const PR_GET_IO_FLUSHER: libc::c_int = 58;

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread of its own, so that the marks do not reach the test runner's threads.
    fn on_own_thread<R: Send>(f: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| scope.spawn(f).join().expect("the thread ends"))
    }

    #[test]
    fn io_flusher_is_read_back_and_inherited_by_threads_started_later() {
        on_own_thread(|| {
            let report = harden_thread(Hardening {
                io_flusher: true,
                ..NOTHING
            });
            if report.is_complete() {
                assert!(is_io_flusher().expect("readable once it could be set"));
                assert!(on_own_thread(
                    || is_io_flusher().expect("readable in the child thread")
                ));
            } else {
                // without the capability the report must say so rather than be silent
                assert_eq!(report.missing(), &[(Step::IoFlusher, Errno::EPERM)]);
                assert!(report.to_string().contains("CAP_SYS_RESOURCE"));
            }
        });
    }

    #[test]
    fn every_signal_that_can_be_masked_is_masked_in_a_hardened_thread() {
        on_own_thread(|| {
            assert!(
                harden_thread(Hardening {
                    mask_signals: true,
                    ..NOTHING
                })
                .is_complete()
            );
            let mask = SigSet::thread_get_mask().expect("mask is readable");
            for signal in nix::sys::signal::Signal::iterator() {
                use nix::sys::signal::Signal::{SIGKILL, SIGSTOP};
                if signal != SIGKILL && signal != SIGSTOP {
                    assert!(mask.contains(signal), "{signal} is not masked");
                }
            }
        });
    }

    const NOTHING: Hardening = Hardening {
        io_flusher: false,
        lock_memory: false,
        no_dumps: false,
        mount_namespace: false,
        mask_signals: false,
    };
}
