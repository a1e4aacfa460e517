// UNSAFETY: pushing an operation hands raw addresses to the kernel, and registering
// buffers does the same; the io-uring crate cannot know how long they live.
#![expect(
    unsafe_code,
    reason = "io_uring takes raw addresses; see the SAFETY notes"
)]
//! Operations for the kernel and their results. Step 4 of the read path.
//!
//! A [`Lane`](crate::Lane) makes [`Submission`]s and wants a [`Completion`] for each.
//! What lies between is a ring: [`Ring`] here, for front ends that have none of their
//! own, or the ring that a front end shares with its own commands.

use std::io;
use std::os::fd::RawFd;

use io_uring::types::{self, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use nix::libc;

use crate::exchange::Tag;

/// One operation that a lane wants done; at most one per tag is outstanding.
///
/// Its addresses stay valid until the lane is given the [`Completion`]; a lane that
/// is dropped before leaks its buffers rather than free them under the kernel.
#[derive(Debug)]
#[must_use = "the request stands still until the operation is pushed"]
pub struct Submission {
    pub(crate) tag: Tag,
    pub(crate) target: Target,
    pub(crate) op: Op,
}

/// Which descriptor an operation goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Fd(RawFd),
    /// Index in the ring's table of registered files.
    Fixed(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read {
        at: *mut u8,
        len: u32,
        offset: u64,
        buffer: Option<u16>,
    },
    Write {
        at: *const u8,
        len: u32,
        offset: u64,
        buffer: Option<u16>,
        durable: bool,
    },
    Sync,
    PunchHole {
        offset: u64,
        len: u32,
    },
    BlockDiscard {
        offset: u64,
        len: u32,
    },
    /// Wait before the next try; the index of a [`PAUSES`] entry.
    Pause(usize),
}

impl Submission {
    /// The request it belongs to.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// The ring entry, marked with `user_data`. Building it is harmless; pushing it is
    /// what needs the promise that lane and ring go on until it completes.
    #[must_use]
    pub fn entry(&self, user_data: u64) -> squeue::Entry {
        match self.target {
            Target::Fd(fd) => self.op.entry(types::Fd(fd)),
            Target::Fixed(index) => self.op.entry(types::Fixed(index)),
        }
        .user_data(user_data)
    }
}

impl Op {
    fn entry(self, fd: impl types_target::Any) -> squeue::Entry {
        match self {
            Self::Read {
                at,
                len,
                offset,
                buffer: Some(index),
            } => fd.read_fixed(at, len, index, offset),
            Self::Read {
                at,
                len,
                offset,
                buffer: None,
            } => fd.read(at, len, offset),
            Self::Write {
                at,
                len,
                offset,
                buffer,
                durable,
            } => {
                // FUA on a block device, and on files the least that makes exactly this
                // write durable
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                match buffer {
                    Some(index) => fd.write_fixed(at, len, index, offset, flags),
                    None => fd.write(at, len, offset, flags),
                }
            }
            Self::Sync => fd.datasync(),
            Self::PunchHole { offset, len } => fd.punch_hole(offset, len),
            Self::BlockDiscard { offset, len } => fd.block_discard(offset, len),
            Self::Pause(step) => {
                opcode::Timeout::new(&raw const PAUSES[step.min(PAUSES.len() - 1)]).build()
            }
        }
    }
}

/// The two kinds of descriptor behind one face, because the ring library types them apart.
mod types_target {
    use super::{libc, opcode, squeue, types};

    pub(super) trait Any: Sized {
        fn read(self, at: *mut u8, len: u32, offset: u64) -> squeue::Entry;
        fn read_fixed(self, at: *mut u8, len: u32, index: u16, offset: u64) -> squeue::Entry;
        fn write(self, at: *const u8, len: u32, offset: u64, flags: i32) -> squeue::Entry;
        fn write_fixed(
            self,
            at: *const u8,
            len: u32,
            index: u16,
            offset: u64,
            flags: i32,
        ) -> squeue::Entry;
        fn datasync(self) -> squeue::Entry;
        fn punch_hole(self, offset: u64, len: u32) -> squeue::Entry;
        fn block_discard(self, offset: u64, len: u32) -> squeue::Entry;
    }

    macro_rules! target {
        ($kind:ty) => {
            impl Any for $kind {
                fn read(self, at: *mut u8, len: u32, offset: u64) -> squeue::Entry {
                    opcode::Read::new(self, at, len).offset(offset).build()
                }
                fn read_fixed(
                    self,
                    at: *mut u8,
                    len: u32,
                    index: u16,
                    offset: u64,
                ) -> squeue::Entry {
                    opcode::ReadFixed::new(self, at, len, index)
                        .offset(offset)
                        .build()
                }
                fn write(self, at: *const u8, len: u32, offset: u64, flags: i32) -> squeue::Entry {
                    opcode::Write::new(self, at, len)
                        .offset(offset)
                        .rw_flags(flags)
                        .build()
                }
                fn write_fixed(
                    self,
                    at: *const u8,
                    len: u32,
                    index: u16,
                    offset: u64,
                    flags: i32,
                ) -> squeue::Entry {
                    opcode::WriteFixed::new(self, at, len, index)
                        .offset(offset)
                        .rw_flags(flags)
                        .build()
                }
                fn datasync(self) -> squeue::Entry {
                    opcode::Fsync::new(self)
                        .flags(types::FsyncFlags::DATASYNC)
                        .build()
                }
                fn punch_hole(self, offset: u64, len: u32) -> squeue::Entry {
                    opcode::Fallocate::new(self, u64::from(len))
                        .offset(offset)
                        .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                        .build()
                }
                fn block_discard(self, offset: u64, len: u32) -> squeue::Entry {
                    // the kernel takes the start from `addr` and the length from the
                    // first eight bytes of the command area
                    let mut command = [0; 16];
                    command[..8].copy_from_slice(&u64::from(len).to_ne_bytes());
                    opcode::UringCmd16::new(self, super::BLOCK_URING_CMD_DISCARD)
                        .addr(Some(offset))
                        .cmd(command)
                        .build()
                }
            }
        };
    }

    target!(types::Fd);
    target!(types::Fixed);
}

/// `_IO(0x12, 0)`: discard through the ring, kernel 6.12.
const BLOCK_URING_CMD_DISCARD: u32 = 0x12 << 8;

/// How long to wait before the n-th further try, in milliseconds.
const PAUSES_MS: [u32; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000];

static PAUSES: [Timespec; PAUSES_MS.len()] = {
    let mut pauses = [Timespec::new(); PAUSES_MS.len()];
    let mut n = 0;
    while n < pauses.len() {
        let (sec, ms) = (PAUSES_MS[n] / 1000, PAUSES_MS[n] % 1000);
        pauses[n] = Timespec::new().sec(sec as u64).nsec(ms * 1_000_000);
        n += 1;
    }
    pauses
};

/// Number of different pauses; later tries use the last one.
pub(crate) const PAUSE_STEPS: usize = PAUSES.len();

/// The result of a lane's operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    pub(crate) tag: Tag,
    pub(crate) result: i32,
}

impl Completion {
    /// Wraps the result field of a completion entry.
    ///
    /// # Safety
    /// The kernel has ended the operation of the latest [`Submission`] of `tag` and
    /// this is its result: from here on the lane uses the buffer again.
    #[must_use]
    pub const unsafe fn from_kernel(tag: Tag, result: i32) -> Self {
        Self { tag, result }
    }

    /// The result of an operation that no kernel ever saw: a simulated ring carries
    /// out [`Submission`]s itself, so nobody else holds the buffer.
    #[cfg(test)]
    pub(crate) const fn simulated(tag: Tag, result: i32) -> Self {
        Self { tag, result }
    }
}

/// A ring of our own, with the flags that a queue thread wants: one submitter, work
/// done only when we wait for it, and a batch that does not stop at a bad entry.
///
/// The ring must stay on the thread that made it.
pub struct Ring {
    ring: IoUring,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring for `entries` submissions, with four times as many completions.
    ///
    /// # Errors
    /// The kernel's refusal: `EPERM` when io_uring is switched off by
    /// `kernel.io_uring_disabled` or a filter, `ENOSYS` when it is not built in,
    /// `ENOMEM` when the memlock limit is too low on an old kernel.
    pub fn new(entries: u32) -> io::Result<Self> {
        let completions = entries.saturating_mul(4);
        let best = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            // Without this flag a poll that asks for no event runs no work either, and
            // a loop that polls before it sleeps would spin for ever.
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completions)
            .build(entries);
        let ring = match best {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::builder()
                .setup_coop_taskrun()
                .setup_cqsize(completions)
                .build(entries)
                .or_else(|_| IoUring::builder().setup_cqsize(completions).build(entries))?,
            other => other?,
        };
        Ok(Self { ring })
    }

    /// Registers `fd` as the ring's only fixed file, number 0.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn register_file(&mut self, fd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_files(&[fd])
    }

    /// Registers a lane's buffers and tells the lane, so that its I/O no longer pins
    /// pages per operation. A refusal (memlock limit) leaves the lane as it was: slower,
    /// not wrong.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn register_buffers(&mut self, lane: &mut crate::Lane) -> io::Result<()> {
        let buffers = lane.fixed_buffers();
        // SAFETY: the addresses are the lane's arenas. They outlive every operation: the
        // lane leaks them if it is dropped while the kernel still works on one, and the
        // registration itself pins the pages, whatever becomes of the mapping.
        unsafe { self.ring.submitter().register_buffers(&buffers)? };
        lane.use_fixed_buffers(0);
        Ok(())
    }

    /// Whether the kernel knows every operation that a lane may send.
    ///
    /// # Errors
    /// The kernel's refusal to be asked.
    pub fn knows_all_operations(&self) -> io::Result<bool> {
        let mut probe = Probe::new();
        self.ring.submitter().register_probe(&mut probe)?;
        let wanted = [
            opcode::ReadFixed::CODE,
            opcode::WriteFixed::CODE,
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
            opcode::Timeout::CODE,
            opcode::PollAdd::CODE,
        ];
        Ok(wanted.into_iter().all(|code| probe.is_supported(code)))
    }

    /// Queues a lane's operation. The completion comes back from [`Ring::reap`] with the
    /// tag in the low 16 bits of its user data and [`LANE_MARK`] above.
    ///
    /// # Errors
    /// The kernel's refusal to take what is queued already (the queue was full).
    pub fn push(&mut self, submission: &Submission) -> io::Result<()> {
        self.push_entry(&submission.entry(LANE_MARK | u64::from(submission.tag().0)))
    }

    /// Queues a one-shot wait until `fd` is ready for `events` (`POLLIN`, ...); its
    /// completion carries `user_data`, which must not have [`LANE_MARK`] set.
    ///
    /// # Errors
    /// As for [`Ring::push`].
    pub fn push_poll(&mut self, fd: RawFd, events: u32, user_data: u64) -> io::Result<()> {
        assert_eq!(user_data & LANE_MARK, 0, "the mark belongs to lanes");
        let entry = opcode::PollAdd::new(types::Fd(fd), events)
            .build()
            .user_data(user_data);
        self.push_entry(&entry)
    }

    fn push_entry(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: a lane's submission points into arenas that outlive it (see
            // `Submission`), its pauses and polls point at statics or at nothing.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.submit(0)?;
        }
    }

    /// Hands queued operations to the kernel and waits until at least `want` completions
    /// are there.
    ///
    /// # Errors
    /// The kernel's refusal; interruptions and a full completion queue are not errors.
    pub fn submit(&mut self, want: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(want) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The next completion, if one is there.
    pub fn reap(&mut self) -> Option<Reaped> {
        let entry: cqueue::Entry = self.ring.completion().next()?;
        let user_data = entry.user_data();
        if user_data & LANE_MARK == 0 {
            return Some(Reaped::Other {
                user_data,
                result: entry.result(),
            });
        }
        let tag = Tag((user_data & 0xffff) as u16);
        // SAFETY: only `push` sets the mark, with the tag of a lane's submission, and the
        // kernel answers each entry once.
        Some(Reaped::Lane(unsafe {
            Completion::from_kernel(tag, entry.result())
        }))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel takes a ring apart after its descriptor is closed, at its leisure.
        // Until then registered files stay open, and locks on them stay held.
        let _ = self.ring.submitter().unregister_files();
        let _ = self.ring.submitter().unregister_buffers();
    }
}

/// What came out of a [`Ring`].
#[derive(Clone, Copy, Debug)]
pub enum Reaped {
    /// The result of a lane's operation.
    Lane(Completion),
    /// The result of a front end's own operation.
    Other {
        /// As given when it was queued.
        user_data: u64,
        /// As the kernel says it: negative error number, or the operation's value.
        result: i32,
    },
}

/// Set in the user data of every lane operation that goes through [`Ring::push`].
pub const LANE_MARK: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel finds in the queue, as it prints it itself.
    fn queued(ring: &Ring) -> Vec<String> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fdinfo/{}", ring.ring.as_raw_fd());
        let text = std::fs::read_to_string(path).expect("the kernel tells about its rings");
        text.lines()
            .filter(|line| line.contains("opcode:"))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_kernel_sees_a_durable_write_as_dsync_and_a_flush_as_datasync() {
        let mut bytes = [0; 512];
        let at = bytes.as_mut_ptr();
        let (len, offset) = (512, 4096);
        for (op, expected) in [
            (
                Op::Write {
                    at,
                    len,
                    offset,
                    buffer: None,
                    durable: true,
                },
                &["opcode:WRITE,", "rw_flags:0x2,", "off:4096"][..],
            ),
            (
                Op::Write {
                    at,
                    len,
                    offset,
                    buffer: None,
                    durable: false,
                },
                &["opcode:WRITE,", "rw_flags:0x0,", "off:4096"],
            ),
            (
                Op::Write {
                    at,
                    len,
                    offset,
                    buffer: Some(0),
                    durable: true,
                },
                &["opcode:WRITE_FIXED,", "rw_flags:0x2,"],
            ),
            (Op::Sync, &["opcode:FSYNC,", "rw_flags:0x1,"]),
            (
                Op::Read {
                    at,
                    len,
                    offset,
                    buffer: None,
                },
                &["opcode:READ,", "rw_flags:0x0,"],
            ),
            (
                Op::PunchHole { offset, len },
                &["opcode:FALLOCATE,", "off:4096"],
            ),
            (
                Op::BlockDiscard { offset, len },
                &["opcode:URING_CMD,", "addr:0x1000,"],
            ),
        ] {
            // queued and never submitted
            let mut ring = Ring::new(8).expect("io_uring is allowed on this machine");
            for target in [Target::Fd(7), Target::Fixed(7)] {
                ring.push(&Submission {
                    tag: Tag(1),
                    target,
                    op,
                })
                .expect("queued");
            }
            let lines = queued(&ring);
            assert_eq!(lines.len(), 2, "{lines:?}");
            for line in &lines {
                for part in expected {
                    assert!(line.contains(part), "{op:?} is seen as {line}");
                }
                assert!(line.contains("fd:7,"), "{line}");
            }
            assert_ne!(lines[0], lines[1], "one names a registered file");
        }
    }

    #[test]
    fn a_ring_of_ours_runs_a_pause_and_a_poll() {
        let mut ring = Ring::new(8).expect("io_uring is allowed on this machine");
        assert!(
            ring.knows_all_operations()
                .expect("the kernel answers a probe")
        );
        let (reader, writer) = nix::unistd::pipe().expect("pipe");
        use std::os::fd::AsRawFd;
        ring.push_poll(reader.as_raw_fd(), libc::POLLIN as u32, 7)
            .expect("queued");
        let pause = Submission {
            tag: Tag(3),
            target: Target::Fd(-1),
            op: Op::Pause(0),
        };
        ring.push(&pause).expect("queued");
        ring.submit(1).expect("submitted");
        match ring.reap() {
            Some(Reaped::Lane(completion)) => {
                assert_eq!(
                    completion,
                    Completion {
                        tag: Tag(3),
                        result: -libc::ETIME
                    }
                );
            }
            other => panic!("expected the pause to end first, got {other:?}"),
        }
        nix::unistd::write(&writer, b"x").expect("written");
        ring.submit(1).expect("submitted");
        assert!(matches!(ring.reap(), Some(Reaped::Other { user_data: 7, result }) if result > 0));
        assert!(ring.reap().is_none());
    }
}
