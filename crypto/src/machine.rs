//! What the machine has: memory and processors, which bound the cost of a key derivation.

use std::thread::available_parallelism;

use nix::sys::sysinfo::sysinfo;

/// Memory in KiB and usable processors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) ram_kib: u64,
    pub(crate) free_kib: u64,
    pub(crate) swap_kib: u64,
    pub(crate) cpus: u32,
}

impl Machine {
    /// This machine; a machine that does not answer counts as tiny.
    pub(crate) fn here() -> Self {
        let cpus =
            available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        match sysinfo() {
            Ok(info) => Self {
                ram_kib: info.ram_total() / 1024,
                free_kib: info.ram_unused() / 1024,
                swap_kib: info.swap_total() / 1024,
                cpus,
            },
            Err(_) => Self {
                ram_kib: 128 * 1024,
                free_kib: 64 * 1024,
                swap_kib: 0,
                cpus,
            },
        }
    }

    /// The most memory in KiB that a new slot may need: half of the RAM; on a machine with
    /// less than 4 GiB and no swap half of what is free, if that is more than 64 MiB.
    pub(crate) fn derivation_ceiling_kib(&self) -> u64 {
        const SMALL_RAM_KIB: u64 = 4 * 1024 * 1024;
        const USEFUL_KIB: u64 = 64 * 1024;
        let half = self.ram_kib / 2;
        let half_free = self.free_kib / 2;
        if self.ram_kib < SMALL_RAM_KIB && self.swap_kib == 0 && half_free > USEFUL_KIB {
            half.min(half_free)
        } else {
            half
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * 1024;

    #[test]
    fn a_new_slot_may_need_half_of_the_ram() {
        let big = Machine {
            ram_kib: 16 * GIB,
            free_kib: GIB,
            swap_kib: 0,
            cpus: 8,
        };
        assert_eq!(big.derivation_ceiling_kib(), 8 * GIB);
        let swapping = Machine {
            ram_kib: 2 * GIB,
            free_kib: GIB,
            swap_kib: 1,
            cpus: 8,
        };
        assert_eq!(swapping.derivation_ceiling_kib(), GIB);
    }

    #[test]
    fn a_small_machine_without_swap_gives_half_of_what_is_free() {
        let small = Machine {
            ram_kib: 2 * GIB,
            free_kib: GIB / 2,
            swap_kib: 0,
            cpus: 1,
        };
        assert_eq!(small.derivation_ceiling_kib(), GIB / 4);
        let full = Machine {
            ram_kib: 2 * GIB,
            free_kib: 100 * 1024,
            swap_kib: 0,
            cpus: 1,
        };
        assert_eq!(
            full.derivation_ceiling_kib(),
            GIB,
            "too little is free to be a measure"
        );
    }

    #[test]
    fn this_machine_answers() {
        let here = Machine::here();
        assert!(here.ram_kib > 64 * 1024 && here.cpus >= 1, "{here:?}");
    }
}
