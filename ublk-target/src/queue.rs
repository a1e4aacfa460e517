//! Serves one queue; each tag is answered exactly once, with its full length or an error.
//!
//! Read: **[`serve`]** → [`request::parse`] → [`Lane::begin`] → the gate, the segment map, a read of the backing through this
//! queue's ring, decryption in place → [`CharDevice`] takes the plaintext → [`QueueRing::commit`].
//!
//! Write: the same with [`CharDevice`] first, which fills the lane's buffer, encryption in place, a write of the
//! backing, then the commit.
//!
//! Everything from the first request on runs without allocating and without a lock shared
//! with the control thread.

use std::fs::File;
use std::io;
use std::sync::{Arc, Barrier};

use luksmith_data_path::alloc_guard::no_alloc;
use luksmith_data_path::process::{Hardening, harden_thread};
use luksmith_data_path::{Engine, Event, Lane, LaneConfig};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::request;
use crate::sys::{CharDevice, QueueRing, Reaped};

/// One queue, before its thread runs.
pub(crate) struct Queue {
    pub(crate) engine: Arc<Engine>,
    pub(crate) char_device: Arc<File>,
    pub(crate) queue: u16,
    pub(crate) depth: u16,
    pub(crate) max_io_bytes: u32,
    /// Processors whose requests arrive here.
    pub(crate) cpus: Vec<usize>,
    /// Where all queues and the control thread meet before the first fetch.
    pub(crate) together: Arc<Barrier>,
}

/// Serves until the device goes. `tell` is called when everything is prepared, and again when every
/// tag waits for a request; or once, with what could not be had.
///
/// Between the two, the queues wait for each other: a driver that was asked by one of them, and not
/// by the next because the process was killed, cannot be handed to another server by kernels before 6.16.
///
/// # Errors
/// Only what makes it impossible to go on: the process must then end, so that the keeper
/// replaces it. A failed request is no error here.
pub(crate) fn serve(queue: Queue, tell: impl Fn(Result<(), String>)) -> io::Result<()> {
    let Queue {
        engine,
        char_device,
        queue,
        depth,
        max_io_bytes,
        cpus,
        together,
    } = queue;
    let prepared = (|| -> Result<_, String> {
        let report = harden_thread(HARDENING);
        if !report.is_complete() {
            return Err(report.to_string());
        }
        stay_on(&cpus);
        let config = LaneConfig::for_depth(depth, max_io_bytes);
        let mut lane = Lane::new(&engine, &config).map_err(|e| format!("buffers: {e}"))?;
        let backing = engine.backing();
        let ring = QueueRing::new(
            &char_device,
            std::os::fd::AsFd::as_fd(backing),
            queue,
            depth,
        );
        let mut ring = ring.map_err(|e| format!("io_uring of queue {queue}: {e}"))?;
        ring.adopt(&mut lane)
            .map_err(|e| format!("register buffers: {e}"))?;
        ring.watch(&lane)
            .map_err(|e| format!("bell of queue {queue}: {e}"))?;
        Ok((lane, ring))
    })();
    let (lane, mut ring) = match prepared {
        Ok(prepared) => {
            tell(Ok(()));
            prepared
        }
        Err(why) => {
            tell(Err(why));
            return Ok(());
        }
    };
    together.wait();
    let fetched = ring.fetch_all();
    tell(match &fetched {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("fetch of queue {queue}: {error}")),
    });
    fetched?;
    serve_tags(lane, ring, CharDevice::new(char_device, queue), depth)
}

/// Serves until each of `tags` tags is gone.
fn serve_tags(
    mut lane: Lane,
    mut ring: QueueRing,
    mut exchange: CharDevice,
    mut tags: u16,
) -> io::Result<()> {
    let limits = *lane.engine().limits();
    let _guard = no_alloc();
    // A tag that is gone gets no more requests; what the lane has begun is still finished.
    while tags > 0 || !lane.is_idle() {
        ring.wait()?;
        while let Some(reaped) = ring.reap() {
            match reaped {
                Reaped::Request(tag) => match request::parse(&limits, ring.descriptor(tag)) {
                    Ok(request) => lane.begin(tag, request),
                    Err(errno) => ring.commit(tag, errno.negative())?,
                },
                Reaped::Gone => tags -= 1,
                Reaped::Backing(completion) => lane.complete(completion),
                Reaped::Bell => {
                    lane.bell_rang();
                    ring.watch(&lane)?;
                }
            }
            while let Some(event) = lane.poll(&mut exchange) {
                match event {
                    Event::Submit(submission) => ring.submit(&submission)?,
                    Event::Done { tag, result } => ring.commit(tag, answer(result))?,
                }
            }
        }
    }
    Ok(())
}

/// What the driver is told: a full length or a negative error.
fn answer(result: Result<u32, luksmith_data_path::Errno>) -> i32 {
    match result {
        Ok(bytes) => i32::try_from(bytes).unwrap_or(i32::MAX),
        Err(errno) => errno.negative(),
    }
}

/// Signals stay with the control thread; the mark is inherited, but a mark that was lost would show only
/// under memory pressure.
const HARDENING: Hardening = Hardening {
    mount_namespace: false,
    lock_memory: false,
    no_dumps: false,
    ..Hardening::BLOCK_DEVICE
};

/// Keeps this thread near the processors that send it requests. Being elsewhere is slower, not wrong.
fn stay_on(cpus: &[usize]) {
    let mut set = CpuSet::new();
    for cpu in cpus {
        let _ = set.set(*cpu);
    }
    if !cpus.is_empty() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use luksmith_crypto::{AllowNull, Hash, KeyDigest, VolumeKey};
    use luksmith_data_path::{
        Backing, BackingAccess, BackingCache, BackingOptions, EngineOptions, Tag,
    };
    use luksmith_luks2::{FormatOptions, HeaderSize, Label, NewDigest, new_header};
    use luksmith_volume::OpenVolume;

    use super::*;

    const DATA: u64 = 16 << 20;
    const LEN: u64 = 1 << 20;

    fn engine() -> Arc<Engine> {
        let key = VolumeKey::generate(64).unwrap();
        let digest = KeyDigest::compute(&key, Hash::Sha256, &[1; 32], 1000).unwrap();
        let stated = NewDigest {
            segments: vec![],
            hash: "sha256".into(),
            iterations: 1000,
            salt: digest.salt().to_vec(),
            digest: digest.digest().to_vec(),
        };
        let options = FormatOptions {
            label: Label::default(),
            subsystem: Label::default(),
            uuid: "d6a4ff0a-0f48-4bd8-9ac6-2f3a2f0a0b0c".into(),
            header_size: HeaderSize::SMALLEST,
            keyslots_size: None,
            data_offset: Some(DATA),
            data_alignment: 0,
            detached: true,
            header_device_len: None,
            data_device_len: Some(DATA + LEN),
            encryption: "aes-xts-plain64".into(),
            sector_size: 512,
            flags: vec![],
        };
        let header = new_header(&options, &stated).unwrap();
        let volume = OpenVolume::new(&header, &[(0, key)], DATA + LEN, AllowNull::No).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(DATA + LEN).unwrap();
        let options = BackingOptions {
            access: BackingAccess::ReadWrite,
            cache: BackingCache::Buffered,
        };
        let backing = Backing::open(file.path(), options).unwrap();
        Engine::new(Arc::new(volume), backing, EngineOptions::default()).unwrap()
    }

    /// `/dev/zero` stands for the char device: it can be mapped, gives and takes data, and says of
    /// each command that it does not know it, as a device that goes does at the end.
    #[test]
    fn a_thaw_wakes_a_queue_that_sleeps_before_a_frozen_range() {
        let engine = engine();
        let frozen = engine.volume().gate().freeze(0..LEN);
        let (tell, told) = mpsc::channel();
        let served = engine.clone();
        std::thread::spawn(move || {
            let zero = File::options().read(true).write(true).open("/dev/zero");
            let zero = Arc::new(zero.unwrap());
            let depth = 1;
            let config = LaneConfig::for_depth(depth, served.limits().max_io);
            let mut lane = Lane::new(&served, &config).unwrap();
            let backing = std::os::fd::AsFd::as_fd(served.backing());
            let mut ring = QueueRing::new(&zero, backing, 0, depth).unwrap();
            ring.adopt(&mut lane).unwrap();
            ring.watch(&lane).unwrap();
            let mut exchange = CharDevice::new(zero, 0);
            lane.begin(Tag(0), served.limits().read(0, 4096).unwrap());
            assert!(lane.poll(&mut exchange).is_none(), "the range is frozen");
            tell.send(()).unwrap();
            serve_tags(lane, ring, exchange, depth).unwrap();
            tell.send(()).unwrap();
        });
        let patience = Duration::from_secs(20);
        told.recv_timeout(patience).expect("the request waits");
        assert!(told.recv_timeout(Duration::from_millis(100)).is_err());
        frozen.thaw(None);
        told.recv_timeout(patience)
            .expect("the thaw wakes the queue");
        assert_eq!(engine.counters().bytes_read, 4096);
    }
}
