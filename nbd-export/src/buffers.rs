//! The bytes between socket and lane. Plaintext lies in them, so they are locked, kept
//! out of dumps, and wiped when the connection ends; they are made once per connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};

use luksmith_crypto::{CryptoError, SecretBytes};

/// What has come from the client and is not used yet.
pub(crate) struct Incoming {
    bytes: SecretBytes,
    from: usize,
    to: usize,
}

impl Incoming {
    pub(crate) fn new(capacity: usize) -> Result<Self, CryptoError> {
        Ok(Self {
            bytes: SecretBytes::zeroed(capacity)?,
            from: 0,
            to: 0,
        })
    }

    /// The unused bytes.
    pub(crate) fn unused(&self) -> &[u8] {
        &self.bytes.expose()[self.from..self.to]
    }

    /// The first `len` unused bytes are used.
    pub(crate) fn consume(&mut self, len: usize) {
        assert!(len <= self.to - self.from, "more used than there is");
        self.from += len;
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        }
    }

    /// Whether bytes could be added.
    pub(crate) fn has_room(&self) -> bool {
        self.to - self.from < self.bytes.len()
    }

    /// Reads once from `source`; `Ok(0)` is its end.
    pub(crate) fn fill(&mut self, source: &mut impl Read) -> io::Result<usize> {
        if self.to == self.bytes.len() {
            self.bytes.expose_mut().copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        let got = source.read(&mut self.bytes.expose_mut()[self.to..])?;
        self.to += got;
        Ok(got)
    }
}

/// Replies on their way to the client: a ring of bytes, divided into regions that are
/// sent in order. A region may be claimed before its bytes are there; those behind it
/// wait for it.
pub(crate) struct Outgoing {
    bytes: SecretBytes,
    /// Positions count all bytes ever; the place is the remainder by the capacity.
    sent: u64,
    end: u64,
    regions: VecDeque<Region>,
    /// Number of the first region in the queue, counted from the beginning.
    first: u64,
}

struct Region {
    /// Bytes it takes in the ring.
    len: u64,
    /// Bytes of it to be sent; less than `len` if its data came to nothing.
    send: u64,
    ready: bool,
}

/// A region that is claimed and not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    number: u64,
    start: u64,
}

impl Outgoing {
    pub(crate) fn new(capacity: usize) -> Result<Self, CryptoError> {
        Ok(Self {
            bytes: SecretBytes::zeroed(capacity)?,
            sent: 0,
            end: 0,
            // A ready region merges with a ready one before it, so that between two
            // claims lies at most one, and a claim has a least size: the queue never
            // grows beyond this.
            regions: VecDeque::with_capacity(2 * (capacity / MIN_CLAIM) + 4),
            first: 0,
        })
    }

    /// Whether `len` more bytes fit now.
    pub(crate) fn fits(&self, len: usize) -> bool {
        self.used() + len <= self.capacity()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that wait or are claimed.
    pub(crate) fn used(&self) -> usize {
        // at most the capacity
        (self.end - self.sent) as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Whether something can be sent now.
    pub(crate) fn has_ready(&self) -> bool {
        self.regions.front().is_some_and(|region| region.ready)
    }

    /// Appends bytes that are ready.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let len = bytes.len() as u64;
        self.put(self.end, bytes);
        self.grow(len);
        match self.regions.back_mut() {
            Some(last) if last.ready && last.send == last.len => {
                last.len += len;
                last.send += len;
            }
            _ => self.regions.push_back(Region {
                len,
                send: len,
                ready: true,
            }),
        }
    }

    /// Claims room that is filled later.
    pub(crate) fn claim(&mut self, len: usize) -> Claim {
        let claim = Claim {
            number: self.first + self.regions.len() as u64,
            start: self.end,
        };
        self.grow(len as u64);
        self.regions.push_back(Region {
            len: len as u64,
            send: len as u64,
            ready: false,
        });
        claim
    }

    /// Writes into a claim.
    pub(crate) fn fill(&mut self, claim: Claim, at: usize, bytes: &[u8]) {
        let region = &self.regions[(claim.number - self.first) as usize];
        assert!(
            !region.ready && (at + bytes.len()) as u64 <= region.len,
            "outside of the claim"
        );
        self.put(claim.start + at as u64, bytes);
    }

    /// The first `send` bytes of the claim are to be sent, the others never existed.
    pub(crate) fn ready(&mut self, claim: Claim, send: usize) {
        let region = &mut self.regions[(claim.number - self.first) as usize];
        assert!(
            !region.ready && send as u64 <= region.len,
            "a claim becomes ready once"
        );
        region.ready = true;
        region.send = send as u64;
    }

    /// Sends what is ready, in one call. Returns the number of bytes.
    pub(crate) fn send(&mut self, to: &mut impl Write) -> io::Result<usize> {
        let Some(region) = self.regions.front() else {
            return Ok(0);
        };
        let (left, right) = self.places(self.sent, region.send as usize);
        let bytes = self.bytes.expose();
        let parts = [IoSlice::new(&bytes[left]), IoSlice::new(&bytes[right])];
        let sent = to.write_vectored(&parts)?;
        let Some(region) = self.regions.front_mut() else {
            return Ok(0);
        };
        region.send -= sent as u64;
        region.len -= sent as u64;
        self.sent += sent as u64;
        if region.send == 0 {
            self.sent += region.len;
            self.regions.pop_front();
            self.first += 1;
        }
        Ok(sent)
    }

    #[cfg(test)]
    pub(crate) fn region_room(&self) -> usize {
        self.regions.capacity()
    }

    fn grow(&mut self, len: u64) {
        self.end += len;
        assert!(
            self.used() <= self.capacity(),
            "replies are admitted only when they fit"
        );
    }

    fn put(&mut self, position: u64, bytes: &[u8]) {
        let (left, right) = self.places(position, bytes.len());
        let (head, tail) = bytes.split_at(left.len());
        let ring = self.bytes.expose_mut();
        ring[left].copy_from_slice(head);
        ring[right].copy_from_slice(tail);
    }

    /// Where `len` bytes from `position` lie: up to the end of the memory, and from its
    /// start.
    fn places(
        &self,
        position: u64,
        len: usize,
    ) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let capacity = self.capacity();
        let start = (position % capacity as u64) as usize;
        let left = len.min(capacity - start);
        (start..start + left, 0..len - left)
    }
}

/// Claims are for reads that come in several pieces: two blocks at least.
const MIN_CLAIM: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn everything(out: &mut Outgoing) -> Vec<u8> {
        let mut sent = Vec::new();
        while out.has_ready() {
            out.send(&mut sent).expect("a vector takes everything");
        }
        sent
    }

    #[test]
    fn replies_behind_a_claim_wait_for_it() {
        let mut out = Outgoing::new(64).expect("memory");
        out.push(b"one");
        let claim = out.claim(8);
        out.push(b"three");
        assert_eq!(everything(&mut out), b"one");
        out.fill(claim, 4, b"DATA");
        out.fill(claim, 0, b"head");
        assert!(!out.has_ready());
        out.ready(claim, 8);
        assert_eq!(everything(&mut out), b"headDATAthree");
        assert!(out.is_empty() && out.used() == 0);
    }

    #[test]
    fn a_claim_whose_data_came_to_nothing_shrinks_to_its_head() {
        let mut out = Outgoing::new(16).expect("memory");
        for round in 0..20u8 {
            let claim = out.claim(10);
            out.push(&[round; 3]);
            out.fill(claim, 0, b"err");
            out.ready(claim, 3);
            assert_eq!(
                everything(&mut out),
                [b'e', b'r', b'r', round, round, round]
            );
            assert_eq!(out.used(), 0);
        }
    }

    #[test]
    fn the_queue_of_regions_never_grows() {
        let mut out = Outgoing::new(64 << 10).expect("memory");
        let room = out.region_room();
        while out.fits(MIN_CLAIM + 1) {
            let claim = out.claim(MIN_CLAIM);
            out.ready(claim, 16);
            out.push(b"x");
        }
        assert_eq!(out.region_room(), room);
    }

    proptest! {
        #[test]
        fn bytes_leave_in_order_however_they_wrap(
            sizes in prop::collection::vec((0usize..9, 1usize..9), 1..200),
        ) {
            let mut out = Outgoing::new(20).expect("memory");
            let (mut expected, mut got, mut next) = (Vec::new(), Vec::new(), 0u8);
            for (push, send) in sizes {
                if out.used() + push <= out.capacity() && push > 0 {
                    let bytes: Vec<u8> = (0..push).map(|_| { next = next.wrapping_add(1); next }).collect();
                    out.push(&bytes);
                    expected.extend(bytes);
                }
                // a socket that takes a few bytes at a time
                let mut window = vec![0; send];
                let mut socket = &mut window[..];
                let taken = out.send(&mut socket).expect("a slice takes what fits");
                got.extend(&window[..taken]);
            }
            got.extend(everything(&mut out));
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn what_is_received_is_what_was_sent(
            steps in prop::collection::vec((1usize..40, 0usize..40), 1..100),
        ) {
            let mut incoming = Incoming::new(32).expect("memory");
            let (mut written, mut read) = (0u8, 0u8);
            for (offered, used) in steps {
                if incoming.has_room() {
                    let chunk: Vec<u8> = (0..offered).map(|n| written.wrapping_add(n as u8)).collect();
                    let got = incoming.fill(&mut &chunk[..]).expect("a slice gives what it has");
                    prop_assert!(got > 0);
                    written = written.wrapping_add(got as u8);
                }
                let used = used.min(incoming.unused().len());
                for byte in &incoming.unused()[..used] {
                    prop_assert_eq!(*byte, read);
                    read = read.wrapping_add(1);
                }
                incoming.consume(used);
            }
        }
    }
}
