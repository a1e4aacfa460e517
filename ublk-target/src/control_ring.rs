//! Commands to the ublk driver: add, start, stop, recover, delete.
//!
//! Takes from libublk what the kernel fixes (command numbers, structures, feature bits) and
//! sends the commands through a ring of its own, one command at a time. libublk's own control
//! object is not used: it deletes the device when it is dropped, sends a command twice when a signal
//! interrupts the wait, keeps files in a directory that every user may write to, refuses feature bits it does not know
//! and has no form of the stop command that respects users.
// UNSAFETY: pushes io_uring entries whose buffers the kernel reads and writes while the call waits.
#![expect(unsafe_code, reason = "io_uring entries carry raw addresses")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use libublk::sys;
use nix::errno::Errno;
use nix::libc;

use crate::abi::{DeviceInfo, DeviceState, Features, Params};

/// The node through which every command goes.
pub(crate) const CONTROL_NODE: &str = "/dev/ublk-control";

/// An open control node. Commands block until the kernel has answered.
pub(crate) struct ControlRing {
    node: File,
    /// Gone after a command that could not even be handed over, so that its entry, whose
    /// buffer is gone too, can never be sent later.
    ring: Option<IoUring<squeue::Entry128, cqueue::Entry>>,
}

#[repr(C)]
union CommandBytes {
    command: sys::ublksrv_ctrl_cmd,
    bytes: [u8; 80],
}

/// A plain value that the kernel reads or fills while a command waits.
trait Wire: Copy {}
impl Wire for u64 {}
impl Wire for [u8; CPU_MASK_BYTES] {}
impl Wire for sys::ublksrv_ctrl_dev_info {}
impl Wire for sys::ublk_params {}

/// Room for the CPUs of a queue: 1024 of them.
const CPU_MASK_BYTES: usize = 128;

/// For commands without a value.
const NOTHING: Option<&mut u64> = None;

impl ControlRing {
    /// Opens the control node.
    pub(crate) fn open() -> io::Result<Self> {
        Self::with_node(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(CONTROL_NODE)?,
        )
    }

    /// Uses a control node that another process of ours opened before.
    pub(crate) fn with_node(node: File) -> io::Result<Self> {
        Ok(Self {
            node,
            ring: Some(IoUring::builder().build(4)?),
        })
    }

    /// Bits of what the driver can do.
    pub(crate) fn features(&mut self) -> io::Result<Features> {
        let mut bits = 0_u64;
        self.command(sys::UBLK_U_CMD_GET_FEATURES, u32::MAX, 0, Some(&mut bits))?;
        Ok(Features(bits))
    }

    /// Creates a device; `info` comes back with what the kernel made of it (its number, fewer
    /// queues, a smaller largest request).
    pub(crate) fn add(&mut self, info: &DeviceInfo) -> io::Result<DeviceInfo> {
        let mut info = *info;
        let id = info.dev_id();
        self.command(sys::UBLK_U_CMD_ADD_DEV, id, 0, Some(&mut info.0))?;
        Ok(info)
    }

    /// What the kernel knows of a device.
    pub(crate) fn info(&mut self, id: u32) -> io::Result<DeviceInfo> {
        let mut info = DeviceInfo::default();
        self.command(sys::UBLK_U_CMD_GET_DEV_INFO, id, 0, Some(&mut info.0))?;
        Ok(info)
    }

    /// Sets the geometry and limits of a device that was not started yet.
    pub(crate) fn set_params(&mut self, id: u32, params: &Params) -> io::Result<()> {
        let mut params = params.0;
        self.command(sys::UBLK_U_CMD_SET_PARAMS, id, 0, Some(&mut params))
            .map(drop)
    }

    /// CPUs whose requests arrive at a queue.
    pub(crate) fn queue_cpus(&mut self, id: u32, queue: u16) -> io::Result<Vec<usize>> {
        let mut mask = [0_u8; CPU_MASK_BYTES];
        let op = sys::UBLK_U_CMD_GET_QUEUE_AFFINITY;
        self.command(op, id, u64::from(queue), Some(&mut mask))?;
        Ok((0..mask.len() * 8)
            .filter(|cpu| mask[cpu / 8] >> (cpu % 8) & 1 == 1)
            .collect())
    }

    /// Makes the block device appear. Every tag must have been fetched before: the kernel
    /// looks for partitions at once. `pid` is the process that opened the char device.
    pub(crate) fn start(&mut self, id: u32, pid: i32) -> io::Result<()> {
        self.command(sys::UBLK_U_CMD_START_DEV, id, pid as u64, NOTHING)
            .map(drop)
    }

    /// Takes the block device down, whoever uses it. What is in flight is served first.
    pub(crate) fn stop(&mut self, id: u32) -> io::Result<()> {
        self.command(sys::UBLK_U_CMD_STOP_DEV, id, 0, NOTHING)
            .map(drop)
    }

    /// Takes the block device down unless somebody has it open (`EBUSY`). Linux 7.0.
    pub(crate) fn try_stop(&mut self, id: u32) -> io::Result<()> {
        self.command(sys::UBLK_U_CMD_TRY_STOP_DEV, id, 0, NOTHING)
            .map(drop)
    }

    /// Removes a stopped device; waits until its last reference is gone.
    pub(crate) fn delete(&mut self, id: u32) -> io::Result<()> {
        self.command(sys::UBLK_U_CMD_DEL_DEV, id, 0, NOTHING)
            .map(drop)
    }

    /// Announces a new server for a device whose server died. The driver refuses with
    /// `EBUSY` until the dead one is gone for good, so this asks again until `patience` is over.
    pub(crate) fn start_recovery(&mut self, id: u32, patience: Duration) -> io::Result<()> {
        let end = Instant::now() + patience;
        loop {
            let started = self.command(sys::UBLK_U_CMD_START_USER_RECOVERY, id, 0, NOTHING);
            match started.as_ref().map_err(io::Error::raw_os_error) {
                Err(Some(libc::EBUSY)) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                // Kernels before 6.15 say this if no queue has a server: one died after it sent this
                // command and before it could serve, and what it asked for is done.
                Err(Some(libc::EINVAL)) if self.info(id)?.state() == DeviceState::Quiesced => {
                    return Ok(());
                }
                _ => return started.map(drop),
            }
        }
    }

    /// Hands the device to the new server: requests flow again, those in flight first.
    pub(crate) fn end_recovery(&mut self, id: u32, pid: i32) -> io::Result<()> {
        self.command(sys::UBLK_U_CMD_END_USER_RECOVERY, id, pid as u64, NOTHING)
            .map(drop)
    }

    /// Sends one command and waits for its answer, through signals too: a command that was
    /// sent is never sent again.
    fn command<T: Wire>(
        &mut self,
        op: u32,
        id: u32,
        data: u64,
        mut buffer: Option<&mut T>,
    ) -> io::Result<i32> {
        let mut command = CommandBytes { bytes: [0; 80] };
        command.command = sys::ublksrv_ctrl_cmd {
            dev_id: id,
            queue_id: u16::MAX,
            len: buffer.as_ref().map_or(0, |_| size_of::<T>() as u16),
            addr: buffer
                .as_mut()
                .map_or(0, |value| std::ptr::from_mut::<T>(value) as u64),
            data: [data],
            ..Default::default()
        };
        // SAFETY: every byte of the union was written: 80 zeroes, then the structure over them.
        let bytes = unsafe { command.bytes };
        let entry = opcode::UringCmd80::new(types::Fd(self.node.as_raw_fd()), op)
            .cmd(bytes)
            .build();
        let mut ring = self
            .ring
            .take()
            .ok_or_else(|| io::Error::other("the control ring broke"))?;
        // SAFETY: `buffer` outlives the loop below, which ends only when the kernel has answered or
        // never took the entry; the node is open as long as `self` is.
        unsafe { ring.submission().push(&entry) }
            .map_err(|_| io::Error::other("the control ring is full"))?;
        loop {
            if let Err(error) = ring.submit_and_wait(1)
                && error.raw_os_error() != Some(Errno::EINTR as i32)
                && !ring.submission().is_empty()
            {
                return Err(error);
            }
            let answer = ring.completion().next();
            if let Some(answer) = answer {
                self.ring = Some(ring);
                return match answer.result() {
                    error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
                    value => Ok(value),
                };
            }
        }
    }
}
