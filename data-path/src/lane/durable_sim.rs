//! Several lanes on one open file that tells of lost data once: a simulated page cache, or
//! a simulated disk with a cache of its own. What was lost is known here, so a flush or a
//! durable write that claims otherwise is noticed, whatever was told to whom in which order.
#![cfg(test)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use luksmith_volume::OpenVolume;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::mutant::{self, Mutant};
use super::sim::{self, Dice};
use super::{Event, Lane, LaneConfig, SlotClass};
use crate::Engine;
use crate::errno::Errno;
use crate::exchange::{Exchange, Tag};
use crate::request::Request;
use crate::uring::{Completion, Op, Reaped, Ring};

const DEPTH: u16 = 6;

/// Plaintext is of no interest here.
struct Zeroes;

impl Exchange for Zeroes {
    fn copy_in(&mut self, _: Tag, _: u32, into: &mut [u8]) -> io::Result<()> {
        into.fill(0);
        Ok(())
    }

    fn copy_out(&mut self, _: Tag, _: u32, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fn lanes(volume: &Arc<OpenVolume>, count: usize, direct: bool) -> Vec<Lane> {
    let engine = sim::engine_of(Arc::clone(volume));
    let slots = |count, bytes| SlotClass { count, bytes };
    let config = LaneConfig {
        depth: DEPTH,
        small: slots(DEPTH, 4096),
        large: slots(1, engine.limits().max_io),
    };
    let new = |engine: &Arc<Engine>| {
        let mut lane = Lane::new(engine, &config).expect("locked memory and a bell");
        lane.direct = direct;
        lane
    };
    (0..count).map(|_| new(&engine)).collect()
}

fn rings(lane: &Lane) -> bool {
    let mut bell = [PollFd::new(lane.bell(), PollFlags::POLLIN)];
    poll(&mut bell, PollTimeout::ZERO).expect("an event can be polled") > 0
}

/// Where a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Cached,
    OnDisk,
    Lost,
}

struct Client {
    lane: usize,
    tag: Tag,
    request: Request,
    /// Writes that were answered before this request began.
    covers: Vec<usize>,
    /// What a write's data is known as, once the device has it.
    data: Option<usize>,
}

struct World {
    dice: Dice,
    lanes: Vec<Lane>,
    direct: bool,
    clients: Vec<Client>,
    /// Sent, and not yet carried out.
    sent: Vec<(usize, Tag, Op)>,
    /// Carried out, and not yet read.
    results: Vec<(usize, Tag, i32)>,
    data: Vec<Fate>,
    answered: Vec<usize>,
    /// What the page cache will tell the first who asks.
    untold: Option<i32>,
    /// One write-back in this many fails.
    failures: u64,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    durable: u64,
    lost: u64,
    withheld: u64,
}

impl World {
    fn new(seed: u64, volume: &Arc<OpenVolume>) -> Self {
        let mut dice = Dice(seed);
        let direct = dice.one_in(3);
        let lanes = lanes(volume, 1 + dice.below(3) as usize, direct);
        let failures = [1 << 40, 30, 8][dice.below(3) as usize];
        Self {
            dice,
            lanes,
            direct,
            clients: Vec::new(),
            sent: Vec::new(),
            results: Vec::new(),
            data: Vec::new(),
            answered: Vec::new(),
            untold: None,
            failures,
            seen: Seen::default(),
        }
    }

    fn begin(&mut self) {
        let lane = self.dice.below(self.lanes.len() as u64) as usize;
        let taken = |tag: &u16| {
            let mut clients = self.clients.iter();
            clients.any(|client| client.lane == lane && client.tag == Tag(*tag))
        };
        let Some(tag) = (0..DEPTH).find(|tag| !taken(tag)).map(Tag) else {
            return;
        };
        let limits = *self.lanes[lane].engine().limits();
        let request = match self.dice.below(4) {
            0 => limits.flush(),
            1 => limits.write(0, 512, true).expect("in bounds"),
            _ => limits.write(0, 512, false).expect("in bounds"),
        };
        self.clients.push(Client {
            lane,
            tag,
            request,
            covers: self.answered.clone(),
            data: None,
        });
        self.lanes[lane].begin(tag, request);
        self.drive(lane);
    }

    fn drive(&mut self, lane: usize) {
        while let Some(event) = self.lanes[lane].poll(&mut Zeroes) {
            match event {
                Event::Submit(submission) => self.sent.push((lane, submission.tag, submission.op)),
                Event::Done { tag, result } => self.done(lane, tag, result),
            }
        }
        self.seen.withheld += u64::from(!self.lanes[lane].withheld.is_empty());
    }

    fn client(&mut self, lane: usize, tag: Tag) -> usize {
        let mut clients = self.clients.iter();
        let found = clients.position(|client| client.lane == lane && client.tag == tag);
        found.expect("the tag is under way")
    }

    fn done(&mut self, lane: usize, tag: Tag, result: Result<u32, Errno>) {
        let at = self.client(lane, tag);
        let client = self.clients.swap_remove(at);
        if result.is_err() {
            return;
        }
        let durable = match client.request {
            Request::Flush => client.covers,
            Request::Write { fua, .. } => {
                let data = client.data.expect("the device has it");
                self.answered.push(data);
                if fua { vec![data] } else { vec![] }
            }
            _ => vec![],
        };
        for data in &durable {
            assert_eq!(self.data[*data], Fate::OnDisk, "{:?}", client.request);
        }
        self.seen.durable += u64::from(!durable.is_empty());
    }

    /// The caches are written back, or what is in them is lost.
    fn write_back(&mut self) -> Result<(), i32> {
        let lost = self.dice.one_in(self.failures);
        let fate = if lost { Fate::Lost } else { Fate::OnDisk };
        let cached = |fate: &&mut Fate| **fate == Fate::Cached;
        let mut moved = 0;
        for data in self.data.iter_mut().filter(cached) {
            *data = fate;
            moved += 1;
        }
        if !lost || moved == 0 {
            return Ok(());
        }
        self.seen.lost += 1;
        let errors = [libc::EIO, libc::ENOSPC, libc::ENOMEM];
        let error = if self.direct {
            libc::EIO
        } else {
            errors[self.dice.below(3) as usize]
        };
        Err(error)
    }

    /// What a sync says: a page cache what it has not told yet, a disk what it has just met.
    fn sync(&mut self) -> i32 {
        match self.write_back() {
            Err(error) if self.direct => return -error,
            Err(error) => self.untold = Some(error),
            Ok(()) => {}
        }
        -self.untold.take().unwrap_or(0)
    }

    /// The device carries out one operation.
    fn carry_out(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let which = self.dice.below(self.sent.len() as u64) as usize;
        let (lane, tag, op) = self.sent.swap_remove(which);
        let result = match op {
            Op::Pause(_) => -libc::ETIME,
            Op::Sync if self.dice.one_in(20) => -libc::EINTR,
            Op::Sync => self.sync(),
            Op::Write { len, durable, .. } => {
                let at = self.client(lane, tag);
                self.data.push(Fate::Cached);
                let data = self.data.len() - 1;
                self.clients[at].data = Some(data);
                match durable {
                    false => len as i32,
                    // past the disk's cache
                    true if self.direct => {
                        self.data[data] = Fate::OnDisk;
                        len as i32
                    }
                    true => match self.sync() {
                        0 => len as i32,
                        error => error,
                    },
                }
            }
            op => panic!("{op:?} was not asked for"),
        };
        self.results.push((lane, tag, result));
    }

    /// A lane reads one result.
    fn read_result(&mut self) {
        if self.results.is_empty() {
            return;
        }
        let which = self.dice.below(self.results.len() as u64) as usize;
        let (lane, tag, result) = self.results.swap_remove(which);
        self.lanes[lane].complete(Completion::simulated(tag, result));
        self.drive(lane);
    }

    fn hear_bell(&mut self, lane: usize) -> bool {
        let rings = rings(&self.lanes[lane]);
        if rings {
            self.lanes[lane].bell_rang();
            self.drive(lane);
        }
        rings
    }

    fn run(mut self) -> Seen {
        for _ in 0..200 {
            match self.dice.below(8) {
                0..3 => self.begin(),
                3 | 4 => self.carry_out(),
                5 | 6 => self.read_result(),
                _ => {
                    let lane = self.dice.below(self.lanes.len() as u64) as usize;
                    self.hear_bell(lane);
                    if !self.direct
                        && self.dice.one_in(3)
                        && let Err(error) = self.write_back()
                    {
                        self.untold = Some(error);
                    }
                }
            }
        }
        while !self.lanes.iter().all(Lane::is_idle) {
            let heard = (0..self.lanes.len()).any(|lane| self.hear_bell(lane));
            assert!(
                heard || !self.sent.is_empty() || !self.results.is_empty(),
                "requests wait for nothing"
            );
            self.carry_out();
            self.read_result();
        }
        self.seen
    }
}

fn first_violation(volume: &Arc<OpenVolume>, seeds: u64, mutant: Option<Mutant>) -> Option<u64> {
    mutant::ACTIVE.set(mutant);
    let run = |seed| std::panic::catch_unwind(|| World::new(seed, volume).run());
    let found = (0..seeds).find(|seed| run(*seed).is_err());
    mutant::ACTIVE.set(None);
    found
}

#[test]
fn no_order_of_results_hides_lost_data() {
    let volume = Arc::new(sim::open_volume());
    let mut all = Seen::default();
    for seed in sim::seeds(300) {
        let seen = std::panic::catch_unwind(|| World::new(seed, &volume).run())
            .unwrap_or_else(|_| panic!("seed {seed} breaks a promise (see above)"));
        all.durable += seen.durable;
        all.lost += seen.lost;
        all.withheld += seen.withheld;
    }
    println!("{all:?}");
    for (what, count) in [
        ("promises", all.durable),
        ("losses", all.lost),
        ("withheld answers", all.withheld),
    ] {
        assert!(count > 50, "the runs had only {count} {what}");
    }
}

#[test]
fn every_rule_of_durable_operations_is_missed_when_it_is_removed() {
    let volume = Arc::new(sim::open_volume());
    sim::without_panic_messages_of_this_thread();
    for mutant in [
        Mutant::BelieveAtOnce,
        Mutant::ForgetFailedFlush,
        Mutant::ForgetFailedDurableWrite,
        Mutant::TakeLossForNotNow,
        Mutant::WakeNobody,
    ] {
        let seed = first_violation(&volume, 300, Some(mutant));
        assert!(seed.is_some(), "{mutant:?} was not noticed in 300 runs");
    }
}

/// Two queues flush; the kernel gives the error to the one and success to the other, and
/// the success is read first.
#[test]
fn a_flush_that_succeeds_beside_one_that_fails_on_another_queue_fails_too() {
    for direct in [false, true] {
        let mut lanes = lanes(&Arc::new(sim::open_volume()), 2, direct);
        let flush = lanes[0].engine().limits().flush();
        for lane in &mut lanes {
            lane.begin(Tag(0), flush);
            assert!(matches!(lane.poll(&mut Zeroes), Some(Event::Submit(_))));
        }
        lanes[1].complete(Completion::simulated(Tag(0), 0));
        assert!(lanes[1].poll(&mut Zeroes).is_none(), "it cannot know yet");
        assert!(!rings(&lanes[1]));
        lanes[0].complete(Completion::simulated(Tag(0), -libc::EIO));
        let failed = |event: Option<Event>| matches!(event, Some(Event::Done { result, .. }) if result == Err(Errno::IO));
        assert!(failed(lanes[0].poll(&mut Zeroes)));
        assert!(rings(&lanes[1]), "it is told to look again");
        lanes[1].bell_rang();
        assert!(failed(lanes[1].poll(&mut Zeroes)));
        assert!(!rings(&lanes[1]));
    }
}

/// A lane that ends with an operation out will never know what that was told.
#[test]
fn a_lane_that_ends_with_a_flush_out_makes_flushes_fail_and_not_wait() {
    let mut lanes = lanes(&Arc::new(sim::open_volume()), 2, true);
    let flush = lanes[0].engine().limits().flush();
    for lane in &mut lanes {
        lane.begin(Tag(0), flush);
        assert!(matches!(lane.poll(&mut Zeroes), Some(Event::Submit(_))));
    }
    lanes[0].complete(Completion::simulated(Tag(0), 0));
    assert!(lanes[0].poll(&mut Zeroes).is_none());
    drop(lanes.pop());
    assert!(rings(&lanes[0]));
    lanes[0].bell_rang();
    let answer = lanes[0].poll(&mut Zeroes);
    assert!(matches!(answer, Some(Event::Done { result: Err(errno), .. }) if errno == Errno::IO));
}

/// Answers `count` flushes and durable writes through a ring of its own, several at a time.
fn serve_for_real(mut lane: Lane, count: u32) {
    const BELL: u64 = 1;
    let limits = *lane.engine().limits();
    let mut ring = Ring::new(32).expect("a ring");
    let (mut begun, mut answered) = (0, 0);
    let mut free: Vec<Tag> = (0..DEPTH).map(Tag).collect();
    let mut listens = false;
    while answered < count {
        while begun < count
            && let Some(tag) = free.pop()
        {
            let write = limits.write(u64::from(tag.0) * 512, 512, true);
            let request = match begun % 3 {
                0 => limits.flush(),
                _ => write.expect("in bounds"),
            };
            lane.begin(tag, request);
            begun += 1;
        }
        while let Some(event) = lane.poll(&mut Zeroes) {
            match event {
                Event::Submit(submission) => ring.push(&submission).expect("pushed"),
                Event::Done { tag, result } => {
                    result.expect("nothing fails here");
                    answered += 1;
                    free.push(tag);
                }
            }
        }
        if answered == count || begun < count && !free.is_empty() {
            continue;
        }
        if !listens {
            let bell = lane.bell().as_raw_fd();
            ring.push_poll(bell, libc::POLLIN as u32, BELL)
                .expect("pushed");
            listens = true;
        }
        ring.submit(1).expect("submitted");
        while let Some(reaped) = ring.reap() {
            match reaped {
                Reaped::Lane(completion) => lane.complete(completion),
                Reaped::Other { .. } => {
                    listens = false;
                    lane.bell_rang();
                }
            }
        }
    }
}

/// The order in which lanes say and look is what the simulation, with its one thread, cannot see.
#[test]
fn lanes_on_threads_of_their_own_never_wait_for_ever() {
    let volume = Arc::new(sim::open_volume());
    for direct in [false, true] {
        let (tell, told) = mpsc::channel();
        let lanes = lanes(&volume, 3, direct);
        let engine = Arc::clone(lanes[0].engine());
        for lane in lanes {
            let tell = tell.clone();
            std::thread::spawn(move || {
                serve_for_real(lane, 600);
                tell.send(()).expect("the test waits");
            });
        }
        for _ in 0..3 {
            let patience = Duration::from_secs(60);
            told.recv_timeout(patience).expect("every lane ends");
        }
        assert_eq!(engine.counters().requests(), 3 * 600);
    }
}
