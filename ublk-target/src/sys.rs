//! The ring of one queue: ublk commands and backing I/O go through the same io_uring.
//!
//! That they share it matters for recovery: a new server can only take over when the char
//! device is released, which happens when this ring is gone, and so no write of a dead server can land after
//! the new one has begun.
// UNSAFETY: maps the kernel's descriptors, pushes io_uring entries, and vouches for their results.
#![expect(unsafe_code, reason = "io_uring entries and shared kernel memory")]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};
use libublk::sys;
use luksmith_data_path::{Completion, Exchange, Lane, Submission, Tag};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::request::Descriptor;

/// Marks an entry that came from the lane; the others are ublk commands.
const FROM_LANE: u64 = 1 << 63;

/// Marks the wait for the lane's bell.
const FROM_BELL: u64 = 1 << 62;

const CHAR_DEVICE: u32 = 0;
const BACKING: u32 = 1;

/// What came back from the kernel.
pub(crate) enum Reaped {
    /// A request has arrived under this tag.
    Request(Tag),
    /// The device is going: one tag gets no more requests.
    Gone,
    /// Backing I/O has ended.
    Backing(Completion),
    /// The lane's bell has rung; the ring no longer listens to it.
    Bell,
}

/// One queue's ring, with the descriptors the kernel writes.
pub(crate) struct QueueRing {
    ring: IoUring,
    descriptors: Descriptors,
    queue: u16,
    depth: u16,
}

impl QueueRing {
    /// Makes the ring. To be called by the thread that will serve the queue: the driver
    /// and the ring both tie themselves to it.
    pub(crate) fn new(
        char_device: &File,
        backing: BorrowedFd<'_>,
        queue: u16,
        depth: u16,
    ) -> io::Result<Self> {
        let descriptors = Descriptors::map(char_device, queue, depth)?;
        let ring = build(u32::from(depth))?;
        ring.submitter()
            .register_files(&[char_device.as_raw_fd(), backing.as_raw_fd()])?;
        Ok(Self {
            ring,
            descriptors,
            queue,
            depth,
        })
    }

    /// Registers the buffers and the backing of a lane, which saves the kernel from looking them
    /// up in each request.
    pub(crate) fn adopt(&mut self, lane: &mut Lane) -> io::Result<()> {
        let buffers = lane.fixed_buffers();
        // SAFETY: the buffers belong to the lane's arena. The lane lives in the same function as this ring
        // and leaks its arena rather than freeing it while operations are in the kernel.
        unsafe { self.ring.submitter().register_buffers(&buffers) }?;
        lane.use_fixed_buffers(0);
        lane.use_fixed_file(BACKING);
        Ok(())
    }

    /// Asks for a first request under each tag; the kernel has taken all when this returns. All of them in one
    /// call: a kernel before 6.16 does not let go of a process that is killed after a part of them.
    pub(crate) fn fetch_all(&mut self) -> io::Result<()> {
        for tag in 0..self.depth {
            self.command(sys::UBLK_U_IO_FETCH_REQ, Tag(tag), 0)?;
        }
        while !self.ring.submission().is_empty() {
            self.ring.submit()?;
        }
        Ok(())
    }

    /// Answers a tag, and asks for its next request.
    pub(crate) fn commit(&mut self, tag: Tag, result: i32) -> io::Result<()> {
        self.command(sys::UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, result)
    }

    /// Sends backing I/O of the lane.
    pub(crate) fn submit(&mut self, submission: &Submission) -> io::Result<()> {
        let entry = submission.entry(FROM_LANE | u64::from(submission.tag().0));
        // SAFETY: the lane keeps the buffer of a submission until it is told of its completion, and leaks it
        // if it is dropped before.
        unsafe { self.push(&entry) }
    }

    /// Listens for the lane's bell, until it rings once.
    pub(crate) fn watch(&mut self, lane: &Lane) -> io::Result<()> {
        let bell = types::Fd(lane.bell().as_raw_fd());
        let entry = opcode::PollAdd::new(bell, PollFlags::POLLIN.bits() as u32)
            .build()
            .user_data(FROM_BELL);
        // SAFETY: the wait points to no memory of ours, and the kernel holds the bell itself.
        unsafe { self.push(&entry) }
    }

    /// Hands over what was pushed and waits for at least one answer.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            // A signal, or answers that must be read before more is taken: both mean "look".
            Err(error)
                if matches!(
                    error.raw_os_error().map(Errno::from_raw),
                    Some(Errno::EINTR | Errno::EBUSY | Errno::EAGAIN)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The next answer, if there is one.
    pub(crate) fn reap(&mut self) -> Option<Reaped> {
        let answer = self.ring.completion().next()?;
        let tag = Tag(answer.user_data() as u16);
        let result = answer.result();
        Some(if answer.user_data() & FROM_LANE != 0 {
            // SAFETY: the entry was pushed by `submit` with the tag of its submission, and the kernel
            // answers each entry once.
            Reaped::Backing(unsafe { Completion::from_kernel(tag, result) })
        } else if answer.user_data() == FROM_BELL {
            Reaped::Bell
        } else if result == sys::UBLK_IO_RES_OK as i32 {
            Reaped::Request(tag)
        } else {
            Reaped::Gone
        })
    }

    /// What the kernel wants under a tag whose request has just arrived.
    pub(crate) fn descriptor(&self, tag: Tag) -> Descriptor {
        self.descriptors.read(tag)
    }

    fn command(&mut self, op: u32, tag: Tag, result: i32) -> io::Result<()> {
        let mut bytes = [0; 16];
        bytes[0..2].copy_from_slice(&self.queue.to_ne_bytes());
        bytes[2..4].copy_from_slice(&tag.0.to_ne_bytes());
        bytes[4..8].copy_from_slice(&result.to_ne_bytes());
        // The last eight bytes, a buffer address, stay zero: data moves by read and write calls.
        let entry = opcode::UringCmd16::new(types::Fixed(CHAR_DEVICE), op)
            .cmd(bytes)
            .build()
            .user_data(u64::from(tag.0));
        // SAFETY: the command carries its data inside and points to no memory of ours.
        unsafe { self.push(&entry) }
    }

    /// # Safety
    /// Memory that the entry points to must live until the kernel has answered it.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

// The command's layout is written out in `command` above.
const _: () = assert!(size_of::<sys::ublksrv_io_cmd>() == 16);
const _: () = assert!(std::mem::offset_of!(sys::ublksrv_io_cmd, tag) == 2);
const _: () = assert!(std::mem::offset_of!(sys::ublksrv_io_cmd, result) == 4);

/// A ring whose completions are run only by the thread that owns it; a plainer one on kernels
/// before 6.1. The taskrun flag makes each wait look for answers that the kernel
/// has ready but not yet posted. There is room for four answers per tag, so the ring cannot overflow: a tag has
/// one command and at most one backing operation out, and the bell one wait.
fn build(depth: u32) -> io::Result<IoUring> {
    let entries = (2 * depth).next_power_of_two();
    let mut builder = IoUring::builder();
    builder
        .setup_cqsize(2 * entries)
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    match builder.build(entries) {
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => IoUring::builder()
            .setup_cqsize(2 * entries)
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .build(entries),
        other => other,
    }
}

/// The kernel's descriptors of one queue, mapped read-only.
struct Descriptors {
    first: NonNull<sys::ublksrv_io_desc>,
    bytes: NonZeroUsize,
    depth: u16,
}

impl Descriptors {
    fn map(char_device: &File, queue: u16, depth: u16) -> io::Result<Self> {
        let page = 4096;
        let size =
            |depth: usize| (depth * size_of::<sys::ublksrv_io_desc>()).next_multiple_of(page);
        let bytes = NonZeroUsize::new(size(usize::from(depth)))
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        // Each queue has its place as if all queues were as deep as can be.
        let offset = sys::UBLKSRV_CMD_BUF_OFFSET as usize
            + usize::from(queue) * size(sys::UBLK_MAX_QUEUE_DEPTH as usize);
        // SAFETY: a fresh mapping of a length the driver checks; nothing of ours is replaced.
        let first = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE,
                char_device,
                offset as i64,
            )
        }?;
        Ok(Self {
            first: first.cast(),
            bytes,
            depth,
        })
    }

    fn read(&self, tag: Tag) -> Descriptor {
        assert!(
            tag.0 < self.depth,
            "the kernel named a tag outside the queue"
        );
        // SAFETY: the tag is inside the mapping, and the kernel does not write the descriptor of
        // a tag between announcing its request and our answer.
        let raw = unsafe { self.first.add(tag.index()).read_volatile() };
        Descriptor {
            op_flags: raw.op_flags,
            nr_sectors: raw.nr_sectors,
            start_sector: raw.start_sector,
        }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length and not handed out.
        let _ = unsafe { munmap(self.first.cast(), self.bytes.get()) };
    }
}

/// Moves plaintext of requests by read and write calls on the char device.
pub(crate) struct CharDevice {
    file: Arc<File>,
    queue: u16,
}

impl CharDevice {
    pub(crate) fn new(file: Arc<File>, queue: u16) -> Self {
        Self { file, queue }
    }

    /// Where byte `at` of the request under `tag` lies in the char device.
    fn place(&self, tag: Tag, at: u32) -> i64 {
        assert!(
            at <= sys::UBLK_IO_BUF_BITS_MASK,
            "a request is at most 32 MiB"
        );
        let place = u64::from(sys::UBLKSRV_IO_BUF_OFFSET)
            + (u64::from(self.queue) << sys::UBLK_QID_OFF
                | u64::from(tag.0) << sys::UBLK_TAG_OFF
                | u64::from(at));
        place as i64
    }
}

impl Exchange for CharDevice {
    fn copy_in(&mut self, tag: Tag, at: u32, into: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < into.len() {
            let place = self.place(tag, at + done as u32);
            match nix::sys::uio::pread(self.file.as_fd(), &mut into[done..], place) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn copy_out(&mut self, tag: Tag, at: u32, from: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < from.len() {
            let place = self.place(tag, at + done as u32);
            match nix::sys::uio::pwrite(self.file.as_fd(), &from[done..], place) {
                // Whoever waits for this read would get memory that nobody wrote.
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_different_requests_never_meet() {
        let file = Arc::new(File::open("/dev/null").unwrap());
        let at = |queue, tag, at| CharDevice::new(file.clone(), queue).place(Tag(tag), at) as u64;
        assert_eq!(at(0, 0, 0), 0x8000_0000);
        assert_eq!(at(0, 1, 0) - at(0, 0, 0), 32 << 20);
        assert_eq!(at(1, 0, 0) - at(0, 0, 0), 1 << 41);
        assert_eq!(at(3, 5, 7), libublk_place(3, 5, 7));
    }

    fn libublk_place(queue: u16, tag: u16, at: u32) -> u64 {
        libublk::io::UblkIOCtx::ublk_user_copy_pos(queue, tag, at)
    }

    #[test]
    fn a_device_that_gives_or_takes_nothing_is_an_error() {
        let null = Arc::new(
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .unwrap(),
        );
        let mut exchange = CharDevice::new(null, 0);
        assert!(exchange.copy_in(Tag(0), 0, &mut [0; 512]).is_err());
        let full = Arc::new(File::options().write(true).open("/dev/full").unwrap());
        assert!(
            CharDevice::new(full, 0)
                .copy_out(Tag(0), 0, &[0; 512])
                .is_err()
        );
    }

    #[test]
    fn a_ring_has_room_for_four_answers_per_tag() {
        let Ok(ring) = build(64) else { return };
        assert!(ring.params().cq_entries() >= 4 * 64);
    }
}
