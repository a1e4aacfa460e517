//! Replays what a dm-log-writes device recorded onto another device, up to a mark.
//!
//!     replay-log LOG list                 prints each entry: number, flags, sector, length, mark
//!     replay-log LOG TARGET MARK          writes everything before MARK to TARGET
//!     replay-log LOG TARGET flush N       writes everything up to the N-th flush or FUA write
//!
//! dm-log-writes puts a write into its log only when a flush after it has been seen (or the
//! write itself was FUA), so what is replayed is what a disk had to keep if the power failed
//! at that moment. Layout of the log as in the kernel's `drivers/md/dm-log-writes.c`: one
//! sector with magic, version, number of entries and sector size; then per entry one sector
//! with its header and the data of the write.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

/// "jfshwxr" as the kernel spells it, little-endian.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    mark: String,
    /// Byte offset of the data within the log.
    data: u64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replay-log: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (log, rest) = words
        .split_first()
        .ok_or("usage: replay-log LOG list | TARGET MARK | TARGET flush N")?;
    let log = File::open(log)?;
    let (sector_bytes, entries) = read_entries(&log)?;
    match *rest {
        ["list"] => {
            for (number, entry) in entries.iter().enumerate() {
                println!("{number} {}", describe(entry));
            }
            Ok(())
        }
        [target, "flush", number] => {
            let wanted: usize = number.parse()?;
            let end = entries
                .iter()
                .enumerate()
                .filter(|(_, entry)| entry.flags & (FLUSH | FUA) != 0)
                .nth(wanted)
                .ok_or("there are not so many flushes")?
                .0;
            replay(&log, target, sector_bytes, &entries[..=end])
        }
        [target, mark] => {
            let end = entries
                .iter()
                .position(|entry| entry.flags & MARK != 0 && entry.mark == mark)
                .ok_or_else(|| format!("the log has no mark {mark}"))?;
            replay(&log, target, sector_bytes, &entries[..end])
        }
        _ => Err("usage: replay-log LOG list | TARGET MARK | TARGET flush N".into()),
    }
}

fn read_entries(log: &File) -> Result<(u64, Vec<Entry>), Box<dyn Error>> {
    let mut head = [0; 28];
    log.read_exact_at(&mut head, 0)?;
    if word(&head, 0) != MAGIC || word(&head, 8) != 1 {
        return Err("this is no log of dm-log-writes, version 1".into());
    }
    let count = word(&head, 16);
    let sector_bytes = u64::from(u32::from_le_bytes(head[24..28].try_into()?));
    if !sector_bytes.is_power_of_two() || !(512..=4096).contains(&sector_bytes) {
        return Err(format!("sector size {sector_bytes}").into());
    }
    let mut entries = Vec::new();
    let mut at = sector_bytes;
    for _ in 0..count {
        let mut sector = vec![0; usize::try_from(sector_bytes)?];
        log.read_exact_at(&mut sector, at)?;
        let mut entry = Entry {
            sector: word(&sector, 0),
            sectors: word(&sector, 8),
            flags: word(&sector, 16),
            mark: String::new(),
            data: at + sector_bytes,
        };
        if entry.flags & MARK != 0 {
            let length = usize::try_from(word(&sector, 24))?;
            let bytes = sector.get(32..32 + length).ok_or("a mark is too long")?;
            entry.mark = String::from_utf8_lossy(bytes)
                .trim_end_matches('\0')
                .to_owned();
        }
        at += sector_bytes;
        if entry.flags & DISCARD == 0 {
            at += entry.sectors * sector_bytes;
        }
        entries.push(entry);
    }
    Ok((sector_bytes, entries))
}

fn replay(
    log: &File,
    target: &str,
    sector_bytes: u64,
    entries: &[Entry],
) -> Result<(), Box<dyn Error>> {
    let target = OpenOptions::new().write(true).open(target)?;
    let mut written = 0;
    for entry in entries {
        // What is discarded may have any content afterwards; it keeps the old one here.
        if entry.flags & DISCARD != 0 || entry.sectors == 0 {
            continue;
        }
        let mut data = vec![0; usize::try_from(entry.sectors * sector_bytes)?];
        log.read_exact_at(&mut data, entry.data)?;
        target.write_all_at(&data, entry.sector * sector_bytes)?;
        written += entry.sectors;
    }
    target.sync_all()?;
    println!(
        "replayed {} entries, {} KiB",
        entries.len(),
        written * sector_bytes / 1024
    );
    Ok(())
}

fn describe(entry: &Entry) -> String {
    let mut flags = String::new();
    for (bit, letter) in [(FLUSH, 'F'), (FUA, 'U'), (DISCARD, 'D'), (MARK, 'M')] {
        flags.push(if entry.flags & bit != 0 { letter } else { '-' });
    }
    format!("{flags} {} {} {}", entry.sector, entry.sectors, entry.mark)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
