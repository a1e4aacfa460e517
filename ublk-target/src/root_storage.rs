//! The mark of a process that serves the root file system.
//!
//! systemd ends every process at shutdown, and so would end the server of the disk that it has
//! yet to write the last blocks to. It spares a process of root's whose command line begins with
//! `@`: its convention for storage daemons that were started from an initramfs. Only
//! those may carry it; one that runs from the disk it serves would keep that disk from being
//! unmounted.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

/// Begins the command line of this process, and of those it forks, with `@`.
pub(crate) fn mark() -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let at = arguments_at(&stat).ok_or(io::ErrorKind::InvalidData)?;
    // The command line that others see is this process's own memory.
    OpenOptions::new()
        .write(true)
        .open("/proc/self/mem")?
        .write_all_at(b"@", at)
}

/// Where the kernel says the arguments lie: field 48 (`arg_start`) of proc_pid_stat(5). The
/// name of the program stands in parentheses and may hold blanks; it is field 2.
fn arguments_at(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let at = rest.split_ascii_whitespace().nth(48 - 3)?.parse().ok()?;
    (at != 0).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_process_begins_its_command_line_with_an_at_sign() {
        let before = fs::read("/proc/self/cmdline").unwrap();
        mark().unwrap();
        let after = fs::read("/proc/self/cmdline").unwrap();
        assert_eq!(after.first(), Some(&b'@'));
        assert_eq!(after.get(1..), before.get(1..));
    }

    #[test]
    fn a_blank_or_parenthesis_in_the_name_of_the_program_shifts_nothing() {
        let fields: Vec<String> = (3..=52).map(|n: u32| (n * 1000).to_string()).collect();
        let stat = format!("7 (a ) b) {}", fields.join(" "));
        assert_eq!(arguments_at(&stat), Some(48_000));
        assert_eq!(arguments_at("7 (a) S 1"), None);
    }
}
