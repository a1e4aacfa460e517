//! How much locked memory a connection gets. Plaintext lies in all of it, so it is
//! locked; a user without privileges may lock a few MiB in all, which is divided among
//! the connections before the first one comes.

use luksmith_data_path::{LaneConfig, SlotClass};
use nix::sys::resource::{Resource, getrlimit};

/// Sizes for one connection; all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Longest piece that is read or written at once.
    pub(crate) max_io: u32,
    pub(crate) lane: LaneConfig,
    pub(crate) incoming: usize,
    pub(crate) outgoing: usize,
}

impl Share {
    fn full(depth: u16, max_io: u32) -> Self {
        Self {
            max_io,
            lane: LaneConfig::for_depth(depth, max_io),
            incoming: max_io as usize + INCOMING_SPARE,
            outgoing: (4 * max_io as usize).max(OUTGOING_FULL) + OUTGOING_SPARE,
        }
    }

    fn lean(depth: u16, max_io: u32) -> Self {
        let small = SlotClass {
            count: depth.min(4),
            bytes: (max_io / 4).clamp(4096, 16 << 10),
        };
        Self {
            max_io,
            lane: LaneConfig {
                depth,
                small,
                large: SlotClass {
                    count: 2,
                    bytes: max_io,
                },
            },
            incoming: max_io as usize + INCOMING_LEAN,
            outgoing: 2 * max_io as usize + OUTGOING_SPARE,
        }
    }

    /// Locked bytes, pages that only guard included.
    fn bytes(&self) -> u64 {
        self.lane.locked_bytes() + (self.incoming + self.outgoing) as u64 + 8 * 4096
    }
}

/// Divides `budget` (`None`: as much as is wanted) among `connections`. Takes less than
/// `max_io` at a time if it must; `None` if even the least does not fit.
pub(crate) fn divide(
    budget: Option<u64>,
    connections: u16,
    depth: u16,
    max_io: u32,
    block: u32,
) -> Option<Share> {
    let Some(budget) = budget else {
        return Some(Share::full(depth, max_io));
    };
    let each = budget.saturating_sub(RESERVE) / u64::from(connections.max(1));
    let full = Share::full(depth, max_io);
    if full.bytes() <= each {
        return Some(full);
    }
    let mut max_io = max_io;
    while max_io >= LEAST_MAX_IO.max(block) {
        let lean = Share::lean(depth, max_io);
        if lean.bytes() <= each {
            return Some(lean);
        }
        max_io /= 2;
    }
    None
}

/// Bytes that this process may lock; `None` if there is no limit for it.
pub(crate) fn budget() -> Option<u64> {
    if may_lock_without_limit() {
        return None;
    }
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft == nix::sys::resource::RLIM_INFINITY => None,
        Ok((soft, _)) => Some(soft),
        // without an answer the kernel's own default is the best guess
        Err(_) => Some(8 << 20),
    }
}

/// Whether the limit does not bind this process: CAP_IPC_LOCK is in force.
pub(crate) fn may_lock_without_limit() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| effective_capabilities(&status))
        .is_some_and(|capabilities| capabilities & CAP_IPC_LOCK != 0)
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let hex = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

const CAP_IPC_LOCK: u64 = 1 << 14;
/// For keys, cipher tables and what the allocator of locked pages rounds up.
const RESERVE: u64 = 256 << 10;
/// Below this a connection would mostly split requests.
const LEAST_MAX_IO: u32 = 16 << 10;
const INCOMING_SPARE: usize = 64 << 10;
const INCOMING_LEAN: usize = 12 << 10;
const OUTGOING_FULL: usize = 2 << 20;
const OUTGOING_SPARE: usize = 8 << 10;

// The negotiation's longest message must fit too.
const _: () =
    assert!(LEAST_MAX_IO as usize + INCOMING_LEAN > crate::protocol::handshake::MAX_MESSAGE_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_connections_fit_into_the_usual_limit_of_eight_mebibytes() {
        let share = divide(Some(8 << 20), 16, 64, 256 << 10, 4096).expect("it fits");
        assert!(share.bytes() * 16 + RESERVE <= 8 << 20, "{share:?}");
        assert!(share.max_io >= 64 << 10, "{share:?}");
    }

    #[test]
    fn without_a_limit_everybody_gets_the_full_size() {
        let share = divide(None, 16, 64, 256 << 10, 4096).expect("no limit");
        assert_eq!(share, Share::full(64, 256 << 10));
    }

    #[test]
    fn a_limit_that_is_too_small_is_said() {
        assert_eq!(divide(Some(64 << 10), 1, 64, 256 << 10, 4096), None);
        assert_eq!(divide(Some(0), 1, 64, 256 << 10, 4096), None);
    }

    #[test]
    fn any_share_can_take_its_own_largest_piece() {
        for budget in (0..40).map(|n| n * (512 << 10)) {
            for connections in [1, 4, 16] {
                if let Some(share) = divide(Some(budget), connections, 64, 1 << 20, 4096) {
                    assert!(share.incoming > share.max_io as usize);
                    assert!(share.outgoing > share.max_io as usize + 1024);
                    assert!(share.bytes() * u64::from(connections) <= budget);
                }
            }
        }
    }

    #[test]
    fn the_capability_is_read_from_the_status_text() {
        let text = "Name:\tx\nCapPrm:\t0\nCapEff:\t0000000000004000\n";
        assert_eq!(effective_capabilities(text), Some(CAP_IPC_LOCK));
        assert_eq!(effective_capabilities("nothing"), None);
    }
}
