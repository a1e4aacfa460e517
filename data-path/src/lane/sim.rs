//! Runs lanes against a simulated ring and device: every result at every point, in any
//! order, from a seed. A model of the volume knows what each read may return, and what a
//! flush or a durable write has promised.
//!
//! `LUKSMITH_SIM_SEEDS=N` runs N seeds instead of the usual number, `LUKSMITH_SIM_FROM=S`
//! begins at seed S. A failure names its seed.
#![cfg(test)]

use std::io;
use std::sync::Arc;

use luksmith_crypto::{AllowNull, Hash, KeyDigest, VolumeKey};
use luksmith_luks2::{FormatOptions, Header, HeaderSize, Label, Metadata, NewDigest, new_header};
use luksmith_volume::OpenVolume;
use nix::libc;
use serde_json::json;

use super::mutant::{self, Mutant};
use super::task::Buffer;
use super::{Event, Lane, LaneConfig, SlotClass};
use crate::alloc_guard::may_allocate;
use crate::errno::Errno;
use crate::exchange::{Exchange, Tag};
use crate::request::Request;
use crate::uring::{Completion, Op};
use crate::{Backing, BackingAccess, BackingCache, BackingOptions, Engine, EngineOptions};

const SECTOR: usize = 512;
const DEPTH: u16 = 24;
const MAX_IO: u32 = 16 << 10;
/// Under one key, under another, under the first again: (place on the device, length).
const SEGMENTS: [(u64, u64); 3] = [
    (16 << 20, 64 << 10),
    (18 << 20, 32 << 10),
    (19 << 20, 96 << 10),
];
const DEVICE: u64 = 20 << 20;
const VOLUME: u64 = SEGMENTS[0].1 + SEGMENTS[1].1 + SEGMENTS[2].1;
const SECTORS: usize = VOLUME as usize / SECTOR;

/// Small, good enough, and the same everywhere.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

pub(super) fn open_volume() -> OpenVolume {
    let key = |fill: u8| {
        // Random keys: no decision of a run depends on what the ciphertext looks like.
        let key = VolumeKey::generate(64).expect("a key");
        let digest = KeyDigest::compute(&key, Hash::Sha256, &[fill; 32], 1000).expect("digest");
        let stated = NewDigest {
            segments: vec![],
            hash: "sha256".into(),
            iterations: 1000,
            salt: digest.salt().to_vec(),
            digest: digest.digest().to_vec(),
        };
        (key, stated)
    };
    let ((key_a, digest_a), (key_b, digest_b)) = (key(0xa0), key(0xb0));
    let options = FormatOptions {
        label: Label::default(),
        subsystem: Label::default(),
        uuid: "d6a4ff0a-0f48-4bd8-9ac6-2f3a2f0a0b0c".into(),
        header_size: HeaderSize::SMALLEST,
        keyslots_size: None,
        data_offset: Some(SEGMENTS[0].0),
        data_alignment: 0,
        detached: true,
        header_device_len: None,
        data_device_len: Some(DEVICE),
        encryption: "aes-xts-plain64".into(),
        sector_size: SECTOR as u32,
        flags: vec![],
    };
    let header = new_header(&options, &digest_a).expect("a header");
    let mut tree = header.metadata().as_value().clone();
    let segment = |number: usize, tweak: u64| {
        let (offset, size) = SEGMENTS[number];
        json!({
            "type": "crypt",
            "offset": offset.to_string(),
            "size": size.to_string(),
            "iv_tweak": tweak.to_string(),
            "encryption": "aes-xts-plain64",
            "sector_size": SECTOR,
        })
    };
    tree["segments"] = json!({ "0": segment(0, 0), "1": segment(1, 5), "2": segment(2, 77) });
    tree["digests"]["0"]["segments"] = json!(["0", "2"]);
    let mut second = tree["digests"]["0"].clone();
    let other = {
        let options = FormatOptions { ..options.clone() };
        let header = new_header(&options, &digest_b).expect("a header");
        header.metadata().as_value()["digests"]["0"].clone()
    };
    second["salt"] = other["salt"].clone();
    second["digest"] = other["digest"].clone();
    second["segments"] = json!(["1"]);
    tree["digests"]["1"] = second;
    let text = serde_json::to_vec(&tree).expect("JSON");
    let metadata = Metadata::parse(&text, &header.metadata().geometry()).expect("valid metadata");
    let header: Header = header.with_metadata(metadata).expect("it fits");
    OpenVolume::new(&header, &[(0, key_a), (1, key_b)], DEVICE, AllowNull::No).expect("it opens")
}

fn engine() -> Arc<Engine> {
    engine_of(Arc::new(open_volume()))
}

pub(super) fn engine_of(volume: Arc<OpenVolume>) -> Arc<Engine> {
    // Only its length and alignment matter: the bytes go to the simulated device.
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(DEVICE).expect("its length");
    let options = BackingOptions {
        access: BackingAccess::ReadWrite,
        cache: BackingCache::Buffered,
    };
    let backing = Backing::open(file.path(), options).expect("the file opens");
    let options = EngineOptions {
        read_only: false,
        allow_discards: true,
        max_io: MAX_IO,
    };
    Engine::new(volume, backing, options).expect("it fits")
}

fn lane(engine: &Arc<Engine>) -> Lane {
    let config = LaneConfig {
        depth: DEPTH,
        small: SlotClass {
            count: 3,
            bytes: 4096,
        },
        large: SlotClass {
            count: 2,
            bytes: MAX_IO,
        },
    };
    let mut lane = Lane::new(engine, &config).expect("locked memory");
    // as on a device with 512-byte blocks; a buffered file would allow anything
    lane.align_mask = SECTOR as u32 - 1;
    lane.direct = true;
    lane
}

/// What is known of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Nothing: never written, or a write failed, or it was discarded.
    Anything,
    /// What [`plaintext`] gives for this version.
    Version(u32),
}

/// Each sector of each version has bytes of its own.
fn plaintext(sector: usize, version: u32, at: usize) -> u8 {
    let mix = (sector as u64) << 32 ^ u64::from(version) << 9 ^ (at as u64 / 8);
    let mix = mix.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mix >> (8 * (at % 8))) as u8 ^ version as u8
}

#[derive(Clone, Debug)]
struct Client {
    request: Request,
    version: u32,
    began: u64,
    /// Bytes handed out so far.
    out: u32,
    /// The worst that the device said to this request.
    fault: Option<Errno>,
    /// Consecutive refusals of the latest operation that mean "again".
    again: u32,
}

struct InKernel {
    tag: Tag,
    op: Op,
    sent: u64,
}

/// The front end and the device in one.
struct World {
    dice: Dice,
    device: Vec<u8>,
    model: Vec<Content>,
    /// Readers (positive) or one writer (-1) per sector.
    users: Vec<i32>,
    clients: Vec<Option<Client>>,
    in_kernel: Vec<InKernel>,
    now: u64,
    /// Sent and completed times of the syncs that worked.
    syncs: Vec<(u64, u64)>,
    sync_failed: bool,
    /// The lane knows of a failure, so that it promises nothing any more.
    doubtful: bool,
    faults: Faults,
    next_version: u32,
    exchange_fails: bool,
    /// What happened, for the tests of the simulation itself.
    seen: Seen,
}

/// How hostile this run is; drawn from the seed.
#[derive(Clone, Copy, Debug)]
struct Faults {
    /// One in this many results is a permanent error.
    permanent: u64,
    /// One in this many means "again".
    again: u64,
    /// One in this many moves only a part.
    short: u64,
    /// One in this many flushes fails.
    sync: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    ok: u64,
    failed: u64,
    short: u64,
    again: u64,
    gate_waits: u64,
    crossing: u64,
}

impl Exchange for World {
    fn copy_in(&mut self, tag: Tag, at: u32, into: &mut [u8]) -> io::Result<()> {
        let client = self.clients[tag.index()]
            .as_mut()
            .expect("the tag is under way");
        let Request::Write { range, .. } = client.request else {
            panic!("only writes give data")
        };
        if self.exchange_fails && self.dice.one_in(40) {
            client.fault = Some(Errno::IO);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let first = range.start() as usize + at as usize;
        for (n, byte) in into.iter_mut().enumerate() {
            let place = first + n;
            *byte = plaintext(place / SECTOR, client.version, place % SECTOR);
        }
        Ok(())
    }

    fn copy_out(&mut self, tag: Tag, at: u32, from: &[u8]) -> io::Result<()> {
        let client = self.clients[tag.index()]
            .as_mut()
            .expect("the tag is under way");
        let Request::Read(range) = client.request else {
            panic!("only reads take data")
        };
        assert_eq!(client.out, at, "data comes in order and once");
        client.out += from.len() as u32;
        if client.out < range.len() {
            self.seen.crossing += 1;
        }
        let first = range.start() as usize + at as usize;
        for (n, byte) in from.iter().enumerate() {
            let place = first + n;
            if let Content::Version(version) = self.model[place / SECTOR] {
                let right = plaintext(place / SECTOR, version, place % SECTOR);
                assert!(*byte == right, "wrong data in sector {}", place / SECTOR);
            }
        }
        if self.exchange_fails && self.dice.one_in(40) {
            client.fault = Some(Errno::IO);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let rate = |dice: &mut Dice, rates: &[u64]| rates[dice.below(rates.len() as u64) as usize];
        let faults = Faults {
            permanent: rate(&mut dice, &[1 << 40, 100, 20]),
            again: rate(&mut dice, &[1 << 40, 10, 2]),
            short: rate(&mut dice, &[1 << 40, 8, 2]),
            sync: rate(&mut dice, &[1 << 40, 1 << 40, 15]),
        };
        let exchange_fails = dice.one_in(4);
        let mut device = vec![0; DEVICE as usize];
        // never-written places hold noise, as a real disk does
        for (offset, len) in SEGMENTS {
            for byte in &mut device[offset as usize..(offset + len) as usize] {
                *byte = dice.0 as u8;
                dice.0 = dice
                    .0
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
            }
        }
        Self {
            dice,
            device,
            model: vec![Content::Anything; SECTORS],
            users: vec![0; SECTORS],
            clients: vec![None; usize::from(DEPTH)],
            in_kernel: Vec::new(),
            now: 0,
            syncs: Vec::new(),
            sync_failed: false,
            doubtful: false,
            faults,
            next_version: 1,
            exchange_fails,
            seen: Seen::default(),
        }
    }

    /// A random request that does not overlap what is under way, except reads with reads.
    fn draw(&mut self, lane: &Lane) -> Option<Request> {
        let limits = lane.engine().limits();
        let kind = self.dice.below(10);
        if kind == 0 {
            return Some(limits.flush());
        }
        let most = if self.dice.one_in(2) {
            4
        } else {
            MAX_IO as usize / SECTOR
        };
        let count = 1 + self.dice.below(most as u64) as usize;
        let first = self.dice.below((SECTORS - count + 1) as u64) as usize;
        let sectors = first..first + count;
        let (start, len) = ((first * SECTOR) as u64, (count * SECTOR) as u64);
        if kind < 5 {
            let free = self.users[sectors.clone()].iter().all(|users| *users >= 0);
            self.users[sectors]
                .iter_mut()
                .for_each(|users| *users += i32::from(free));
            return free.then(|| limits.read(start, len).expect("in bounds"));
        }
        if self.users[sectors.clone()].iter().any(|users| *users != 0) {
            return None;
        }
        self.users[sectors].fill(-1);
        Some(match kind {
            9 => limits.discard(start, len).expect("in bounds"),
            kind => limits.write(start, len, kind == 8).expect("in bounds"),
        })
    }

    fn begin(&mut self, lane: &mut Lane) {
        let Some(free) = self.clients.iter().position(Option::is_none) else {
            return;
        };
        let Some(request) = self.draw(lane) else {
            return;
        };
        let tag = Tag(free as u16);
        self.now += 1;
        let version = self.next_version;
        self.next_version += 1;
        if let Request::Write { range, .. } | Request::Discard(range) = request {
            // until it is answered, either is possible
            self.model[sectors_of(range.start(), range.len())].fill(Content::Anything);
        }
        self.clients[free] = Some(Client {
            request,
            version,
            began: self.now,
            out: 0,
            fault: None,
            again: 0,
        });
        lane.begin(tag, request);
    }

    /// Lets the lane go on until it waits.
    fn drive(&mut self, lane: &mut Lane) {
        while let Some(event) = lane.poll(self) {
            self.doubtful = lane.engine().flush_failed();
            self.now += 1;
            match event {
                Event::Submit(submission) => {
                    let (tag, op) = (submission.tag, submission.op);
                    let sent = self.now;
                    self.check_submission(tag, op);
                    assert!(
                        self.in_kernel.iter().all(|other| other.tag != tag),
                        "one operation per tag"
                    );
                    self.in_kernel.push(InKernel { tag, op, sent });
                }
                Event::Done { tag, result } => self.done(tag, result),
            }
        }
        assert_eq!(lane.in_kernel(), self.in_kernel.len());
    }

    fn check_submission(&self, tag: Tag, op: Op) {
        let client = self.clients[tag.index()]
            .as_ref()
            .expect("the tag is under way");
        match (client.request, op) {
            (_, Op::Pause(_)) => assert!(client.again > 1, "the first try again comes at once"),
            (Request::Read(_), Op::Read { len, offset, .. })
            | (Request::Write { .. }, Op::Write { len, offset, .. }) => {
                let aligned = |n: u64| n.is_multiple_of(SECTOR as u64);
                assert!(
                    aligned(u64::from(len)) && aligned(offset),
                    "direct I/O is aligned"
                );
                if let (Request::Write { fua, .. }, Op::Write { durable, .. }) =
                    (client.request, op)
                {
                    assert_eq!(durable, fua, "durable exactly when asked for");
                }
            }
            (Request::Flush, Op::Sync) | (Request::Discard(_), Op::PunchHole { .. }) => {}
            (request, op) => panic!("{op:?} for {request:?}"),
        }
    }

    fn done(&mut self, tag: Tag, result: Result<u32, Errno>) {
        let client = self.clients[tag.index()].take().expect("answered once");
        match result {
            Ok(_) => self.seen.ok += 1,
            Err(_) => self.seen.failed += 1,
        }
        match client.request {
            Request::Flush => {
                if result.is_ok() {
                    let covered = self.syncs.iter().any(|(sent, _)| *sent > client.began);
                    assert!(covered, "a flush is answered by a sync that began after it");
                    assert!(!self.sync_failed, "after a failed flush none succeeds");
                }
            }
            Request::Read(range) => {
                let users = &mut self.users[sectors_of(range.start(), range.len())];
                users.iter_mut().for_each(|users| *users -= 1);
                if result.is_ok() {
                    assert_eq!(
                        client.out,
                        range.len(),
                        "a read that succeeded was handed out"
                    );
                }
                self.check_result(&client, result, range.len());
            }
            Request::Write { range, .. } => {
                let sectors = sectors_of(range.start(), range.len());
                self.users[sectors.clone()].fill(0);
                if result.is_ok() {
                    self.model[sectors].fill(Content::Version(client.version));
                }
                self.check_result(&client, result, range.len());
            }
            Request::Discard(range) => {
                self.users[sectors_of(range.start(), range.len())].fill(0);
                self.check_result(&client, result, range.len());
            }
        }
    }

    fn check_result(&self, client: &Client, result: Result<u32, Errno>, len: u32) {
        match (client.fault, result) {
            (None, Ok(moved)) => assert_eq!(moved, len, "the whole length or an error"),
            (None, Err(_)) => assert!(
                client.again > u32::from(super::steps::MAX_TRIES)
                    || self.doubtful && matches!(client.request, Request::Write { fua: true, .. }),
                "an error without a cause: {client:?}"
            ),
            (Some(fault), Err(errno)) => assert_eq!(fault, errno, "the error that happened"),
            (Some(fault), Ok(_)) => panic!("{fault:?} was swallowed: {client:?}"),
        }
    }

    /// Ends one operation of the kernel, any of them, somehow.
    fn complete_one(&mut self, lane: &mut Lane) {
        if self.in_kernel.is_empty() {
            return;
        }
        let which = self.dice.below(self.in_kernel.len() as u64) as usize;
        let InKernel { tag, op, sent } = self.in_kernel.swap_remove(which);
        self.now += 1;
        let result = match op {
            Op::Pause(_) => -libc::ETIME,
            Op::Sync => self.sync(tag, sent),
            Op::PunchHole { offset, len } => self.punch_hole(tag, offset, len),
            Op::Read { len, offset, .. } | Op::Write { len, offset, .. } => {
                self.transfer(lane, tag, op, offset, len)
            }
            Op::BlockDiscard { .. } => panic!("the backing is a file"),
        };
        lane.complete(Completion::simulated(tag, result));
    }

    fn sync(&mut self, tag: Tag, sent: u64) -> i32 {
        if let Some(again) = self.maybe_again(tag) {
            return again;
        }
        if self.dice.one_in(self.faults.sync) {
            self.sync_failed = true;
            return -libc::EIO;
        }
        self.syncs.push((sent, self.now));
        0
    }

    fn punch_hole(&mut self, tag: Tag, offset: u64, len: u32) -> i32 {
        if let Some(again) = self.maybe_again(tag) {
            return again;
        }
        if self.dice.one_in(self.faults.permanent) {
            self.fault(tag, Errno::OPNOTSUPP);
            return -libc::EOPNOTSUPP;
        }
        self.device[offset as usize..][..len as usize].fill(0);
        0
    }

    fn transfer(&mut self, lane: &mut Lane, tag: Tag, op: Op, offset: u64, len: u32) -> i32 {
        if let Some(again) = self.maybe_again(tag) {
            return again;
        }
        if self.dice.one_in(self.faults.permanent) {
            let (raw, errno) = match self.dice.below(5) {
                0 => (-libc::EIO, Errno::IO),
                1 => (-libc::ENOSPC, Errno::NOSPC),
                2 => (-libc::EINVAL, Errno::IO),
                3 => (0, Errno::IO),
                _ => (len as i32 + 1, Errno::IO),
            };
            // some of it may have happened all the same
            let some = self.dice.below(u64::from(len) + 1) as usize;
            self.move_bytes(lane, tag, op, offset, some);
            self.fault(tag, errno);
            return raw;
        }
        let mut moved = len;
        if self.dice.one_in(self.faults.short) {
            moved = 1 + self.dice.below(u64::from(len)) as u32;
            self.seen.short += u64::from(moved < len);
        }
        self.move_bytes(lane, tag, op, offset, moved as usize);
        let client = self.clients[tag.index()]
            .as_mut()
            .expect("the tag is under way");
        if moved as usize >= SECTOR || moved == len {
            client.again = 0;
        } else {
            // less than a block is no progress, and is tried again
            client.again += 1;
        }
        moved as i32
    }

    fn move_bytes(&mut self, lane: &mut Lane, tag: Tag, op: Op, offset: u64, len: usize) {
        let task = &mut lane.tags[tag.index()];
        let done = task.piece.done as usize;
        match (op, std::mem::replace(&mut task.buffer, Buffer::None)) {
            (Op::Read { at, .. }, Buffer::Blank(mut blank)) => {
                assert_eq!(at, blank.as_mut_ptr().wrapping_add(done), "the right place");
                let from = &self.device[offset as usize..][..len];
                let filled = blank.read_cipher(done + len, |bytes| {
                    bytes[done..].copy_from_slice(from);
                    Ok::<(), ()>(())
                });
                let Ok(cipher) = filled else {
                    unreachable!("copying does not fail")
                };
                task.buffer = Buffer::Blank(cipher.recycle());
            }
            (Op::Write { at, .. }, Buffer::Cipher(cipher)) => {
                assert_eq!(at, cipher.as_ptr().wrapping_add(done), "the right place");
                let from = &cipher.as_cipher()[done..][..len];
                self.device[offset as usize..][..len].copy_from_slice(from);
                task.buffer = Buffer::Cipher(cipher);
            }
            (op, _) => panic!("{op:?} without its buffer"),
        }
    }

    fn maybe_again(&mut self, tag: Tag) -> Option<i32> {
        if !self.dice.one_in(self.faults.again) {
            return None;
        }
        self.seen.again += 1;
        let client = self.clients[tag.index()]
            .as_mut()
            .expect("the tag is under way");
        client.again += 1;
        let all = [libc::EAGAIN, libc::EINTR, libc::ENOMEM, libc::EBUSY];
        Some(-all[self.dice.below(4) as usize])
    }

    fn fault(&mut self, tag: Tag, errno: Errno) {
        let client = self.clients[tag.index()]
            .as_mut()
            .expect("the tag is under way");
        client.fault.get_or_insert(errno);
    }

    /// Answers everything that is under way.
    fn drain(&mut self, lane: &mut Lane) {
        for _ in 0..1_000_000 {
            self.drive(lane);
            if lane.is_idle() {
                return;
            }
            assert!(
                !self.in_kernel.is_empty(),
                "requests wait for nothing: {lane:?}"
            );
            self.complete_one(lane);
        }
        panic!("requests do not end");
    }
}

fn sectors_of(start: u64, len: u32) -> std::ops::Range<usize> {
    let first = start as usize / SECTOR;
    first..first + len as usize / SECTOR
}

/// One run; panics when a promise is broken.
fn run(seed: u64) -> Seen {
    let engine = engine();
    let mut lane = lane(&engine);
    let mut world = World::new(seed);
    let gate = Arc::clone(engine.volume().gate());
    for _ in 0..4 {
        for _ in 0..150 {
            match world.dice.below(3) {
                0 => world.complete_one(&mut lane),
                _ => world.begin(&mut lane),
            }
            if world.dice.one_in(3) {
                world.drive(&mut lane);
            }
        }
        world.drain(&mut lane);
        // The gate closes for a while on a part of the volume, as a rotation closes it.
        let start = world.dice.below(SECTORS as u64) * SECTOR as u64;
        let frozen = gate.freeze(start..VOLUME.min(start + (32 << 10)));
        for _ in 0..20 {
            world.begin(&mut lane);
            may_allocate(|| world.drive(&mut lane));
            world.complete_one(&mut lane);
        }
        frozen.thaw(None);
        lane.bell_rang();
        world.drain(&mut lane);
    }
    world.seen.gate_waits = lane.counters().snapshot().gate_waits;
    // At last everything that is known is read without faults.
    world.faults = Faults {
        permanent: 1 << 60,
        again: 1 << 60,
        short: 1 << 60,
        sync: 1 << 60,
    };
    world.exchange_fails = false;
    for first in (0..SECTORS).step_by(8) {
        let (start, len) = ((first * SECTOR) as u64, (8 * SECTOR) as u64);
        let request = lane.engine().limits().read(start, len).expect("in bounds");
        world.users[first..first + 8].fill(1);
        world.clients[0] = Some(Client {
            request,
            version: 0,
            began: 0,
            out: 0,
            fault: None,
            again: 0,
        });
        lane.begin(Tag(0), request);
        world.drain(&mut lane);
    }
    for slots in lane.slots.iter().flatten() {
        let all: Vec<_> = std::iter::from_fn(|| slots.0.take()).collect();
        assert_eq!(all.len(), slots.0.slots(), "every slot came back");
    }
    let counters = engine.counters();
    assert_eq!(counters.requests(), world.seen.ok + world.seen.failed);
    assert_eq!(counters.errors, world.seen.failed);
    assert_eq!(counters.latency.iter().sum::<u64>(), counters.requests());
    world.seen
}

pub(super) fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let from = number("LUKSMITH_SIM_FROM").unwrap_or(0);
    from..from + number("LUKSMITH_SIM_SEEDS").unwrap_or(usual)
}

/// The seed of the first run in which a promise is broken.
fn first_violation(seeds: std::ops::Range<u64>, mutant: Option<Mutant>) -> Option<u64> {
    mutant::ACTIVE.set(mutant);
    let found = seeds
        .into_iter()
        .find(|seed| std::panic::catch_unwind(|| run(*seed)).is_err());
    mutant::ACTIVE.set(None);
    found
}

#[test]
fn every_result_at_every_point_keeps_every_promise() {
    let mut all = Seen::default();
    let range = seeds(60);
    println!("seeds {range:?}");
    for seed in range {
        let seen = std::panic::catch_unwind(|| run(seed))
            .unwrap_or_else(|_| panic!("seed {seed} breaks a promise (see above)"));
        all.ok += seen.ok;
        all.failed += seen.failed;
        all.short += seen.short;
        all.again += seen.again;
        all.gate_waits += seen.gate_waits;
        all.crossing += seen.crossing;
    }
    println!("{all:?}");
    // a simulation that never meets what it is for proves nothing
    for (what, count) in [
        ("answers", all.ok),
        ("errors", all.failed),
        ("short operations", all.short),
        ("refusals", all.again),
        ("waits at the gate", all.gate_waits),
        ("requests across a border", all.crossing),
    ] {
        assert!(count > 10, "the runs had only {count} {what}");
    }
}

/// Where panics are expected they would only fill the screen.
pub(super) fn without_panic_messages_of_this_thread() {
    let loud = std::panic::take_hook();
    let this = std::thread::current().id();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() != this {
            loud(panic);
        }
    }));
}

#[test]
fn a_broken_rule_is_noticed() {
    without_panic_messages_of_this_thread();
    assert_eq!(
        first_violation(0..5, None),
        None,
        "the unbroken lane keeps its promises"
    );
    let found: Vec<_> = [
        Mutant::NoFua,
        Mutant::NothingIsEnough,
        Mutant::ShortIsWhole,
        Mutant::NoRounding,
        Mutant::JoinTheRunningFlush,
        Mutant::ForgetFailedFlush,
        Mutant::IgnoreError,
    ]
    .into_iter()
    .map(|mutant| (mutant, first_violation(0..60, Some(mutant))))
    .collect();
    for (mutant, seed) in found {
        assert!(seed.is_some(), "{mutant:?} was not noticed in 60 runs");
    }
}
