//! The header store beside the real cryptsetup program, on regular files and, for the locks of
//! block devices, on a loop device: each must wait for the other, and each must understand what
//! the other wrote.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use luksmith_luks2::{AreaBytes, Change, HeaderCopy, Label, Metadata, SeqId};
use luksmith_volume::{
    Access, FileDevice, HeaderStore, LockError, LockMode, MetadataLock, RepairScope,
    RestoreObjection, RestoreRules, StoreError, Wait,
};
use serde_json::json;

const QUICK: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];

/// A directory with passphrase files and a formatted volume with two slots.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for name in ["first", "second", "third"] {
            fs::write(bench.path(name), name).unwrap();
        }
        fs::File::create(bench.image())
            .unwrap()
            .set_len(24 << 20)
            .unwrap();
        bench.ok(&[
            "luksFormat",
            "--type",
            "luks2",
            "--key-size",
            "256",
            "IMG",
            "first",
        ]);
        bench.ok(&["luksAddKey", "--key-file", "first", "IMG", "second"]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.path("IMG")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("cryptsetup");
        command
            .current_dir(self.dir.path())
            .arg("--batch-mode")
            .args(args);
        if ["luksFormat", "luksAddKey"].contains(&args[0]) {
            command.args(QUICK);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args)
            .output()
            .expect("the cryptsetup program is needed")
    }

    fn ok(&self, args: &[&str]) -> Vec<u8> {
        let out = self.run(args);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "cryptsetup {args:?}: {text}");
        out.stdout
    }

    fn opens(&self, key: &str) -> bool {
        self.run(&["open", "--test-passphrase", "--key-file", key, "IMG"])
            .status
            .success()
    }

    fn device(&self, access: Access) -> FileDevice {
        FileDevice::open(self.image(), access).unwrap()
    }

    fn store(&self) -> HeaderStore<FileDevice> {
        HeaderStore::load(self.device(Access::ReadWrite), LockMode::Exclusive).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.ok(&["luksDump", "--dump-json-metadata", "IMG"])).unwrap()
    }

    fn overwrite(&self, offset: u64, bytes: &[u8]) {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(self.image())
            .unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }
}

fn finished(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_some()
}

fn waits_for_our_lock(bench: &Bench, target: &Path) {
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        let held = MetadataLock::take(target, mode, Wait::Fail).unwrap();
        let target = target.to_str().unwrap();
        let mut child = bench
            .command(&["luksAddKey", "--key-file", "first", target, "third"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(700));
        assert!(
            !finished(&mut child),
            "cryptsetup did not wait for our {mode:?} lock"
        );
        drop(held);
        assert!(child.wait().unwrap().success());
    }
}

/// Starts `luksAddKey` and stops it while it holds the metadata lock.
fn stopped_with_lock(bench: &Bench, target: &Path) -> Child {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    for _ in 0..200 {
        let mut child = bench
            .command(&[
                "luksAddKey",
                "--key-file",
                "first",
                target.to_str().unwrap(),
                "third",
            ])
            .spawn()
            .unwrap();
        let needle = format!(" {} ", child.id());
        let holds = || {
            fs::read_to_string("/proc/locks")
                .unwrap()
                .lines()
                .any(|line| {
                    line.contains("FLOCK") && line.contains(" WRITE ") && line.contains(&needle)
                })
        };
        while !finished(&mut child) {
            if holds() {
                let pid = Pid::from_raw(child.id() as i32);
                kill(pid, Signal::SIGSTOP).unwrap();
                std::thread::sleep(Duration::from_millis(20));
                if holds() {
                    return child;
                }
                kill(pid, Signal::SIGCONT).unwrap();
            }
        }
        assert!(child.wait().unwrap().success());
        // It was too fast; take the slot away again, so that there is room for the next try.
        bench.ok(&["luksRemoveKey", target.to_str().unwrap(), "third"]);
    }
    panic!("cryptsetup was never seen with its lock");
}

fn we_wait_for_its_lock(bench: &Bench, target: &Path) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let mut child = stopped_with_lock(bench, target);
    let begun = Instant::now();
    let limit = Duration::from_millis(300);
    for (mode, wait) in [
        (LockMode::Shared, Wait::Fail),
        (LockMode::Exclusive, Wait::UpTo(limit)),
    ] {
        let device = FileDevice::open(target, Access::ReadWrite).unwrap();
        let refused = HeaderStore::load_waiting(device, mode, wait).unwrap_err();
        assert!(
            matches!(refused, StoreError::Lock(LockError::Busy { .. })),
            "{refused}"
        );
        assert!(!refused.disk_was_written());
        if wait == Wait::Fail {
            assert!(begun.elapsed() < limit);
        }
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGCONT).unwrap();
    let device = FileDevice::open(target, Access::ReadWrite).unwrap();
    let patient = Wait::UpTo(Duration::from_secs(60));
    HeaderStore::load_waiting(device, LockMode::Shared, patient).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn cryptsetup_and_we_wait_for_each_other_on_a_file() {
    let bench = Bench::new();
    waits_for_our_lock(&bench, &bench.image());
    we_wait_for_its_lock(&bench, &bench.image());
}

/// A loop device over the image, detached when dropped.
struct Loop(PathBuf);

impl Loop {
    fn over(image: &Path) -> Option<Self> {
        let out = Command::new("losetup")
            .args(["-f", "--show"])
            .arg(image)
            .output()
            .ok()?;
        let name = String::from_utf8(out.stdout).ok()?;
        (out.status.success() && !name.is_empty()).then(|| Self(name.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn cryptsetup_and_we_wait_for_each_other_on_a_block_device() {
    let bench = Bench::new();
    let Some(device) = Loop::over(&bench.image()) else {
        // No loop devices in this container; the same locks are covered in the virtual machine.
        let _ = writeln!(
            std::io::stderr(),
            "no loop device to be had, locks of block devices not tried"
        );
        return;
    };
    waits_for_our_lock(&bench, &device.0);
    we_wait_for_its_lock(&bench, &device.0);
    let opened = FileDevice::open(&device.0, Access::Exclusive).unwrap();
    assert!(opened.is_block());
    let size = fs::metadata(bench.image()).unwrap().len();
    assert_eq!(luksmith_volume::BlockDevice::len(&opened), size);
}

#[test]
fn cryptsetup_reads_what_we_commit() {
    let bench = Bench::new();
    let mut store = bench.store();
    let before = store.header().clone();
    let token = json!({"type": "example", "keyslots": ["1"], "unknown": {"kept": [1, 2, 3]}});
    let metadata = before.metadata().with_token(0, token.clone()).unwrap();
    let after = before
        .with_metadata(metadata)
        .unwrap()
        .with_label(Label::new("our label").unwrap());
    store.apply(Change::edit(&before, &after).unwrap()).unwrap();
    assert_eq!(store.header().seqid(), SeqId(before.seqid().0 + 1));
    assert_eq!(bench.json()["tokens"]["0"], token);
    let dump = String::from_utf8(bench.ok(&["luksDump", "IMG"])).unwrap();
    assert!(dump.contains("our label"), "{dump}");
    assert!(bench.opens("first") && bench.opens("second"));
    assert!(store.resolved().repair.is_none());
}

#[test]
fn a_slot_that_we_remove_is_gone_for_cryptsetup_and_its_area_overwritten() {
    let bench = Bench::new();
    let mut store = bench.store();
    let area = store.header().metadata().keyslot(1).unwrap().area();
    let old = store.read_area(area.offset, area.size).unwrap();
    store
        .apply(Change::remove_slots(store.header(), &[1]).unwrap())
        .unwrap();
    let new = store.read_area(area.offset, area.size).unwrap();
    let same = old.iter().zip(&new).filter(|(a, b)| a == b).count();
    assert!(
        same < old.len() / 100,
        "{same} of {} bytes are as before",
        old.len()
    );
    assert!(bench.opens("first") && !bench.opens("second"));
}

#[test]
fn a_slot_that_we_add_opens_in_cryptsetup() {
    // The key material is what cryptsetup itself wrote for the second passphrase.
    let donor = Bench::new();
    let bench = Bench::new();
    fs::copy(donor.image(), bench.image()).unwrap();
    bench.ok(&["luksRemoveKey", "IMG", "second"]);
    assert!(!bench.opens("second"));
    let (with, mut store) = (donor.store(), bench.store());
    let area = with.header().metadata().keyslot(1).unwrap().area();
    let bytes = with.read_area(area.offset, area.size).unwrap();
    let before = store.header().clone();
    let after = Metadata::parse(
        &with.header().metadata().to_json_bytes(),
        &with.header().metadata().geometry(),
    )
    .unwrap();
    let change = Change::add_slot(&before, after, 1, AreaBytes::new(bytes)).unwrap();
    store.apply(change).unwrap();
    assert!(bench.opens("first") && bench.opens("second"));
}

#[test]
fn a_change_of_cryptsetup_in_between_is_not_lost() {
    let bench = Bench::new();
    let mut store = bench.store();
    let change = Change::remove_slots(store.header(), &[1]).unwrap();
    bench.ok(&["luksAddKey", "--key-file", "first", "IMG", "third"]);
    let before = fs::read(bench.image()).unwrap();
    let refused = store.apply(change.clone()).unwrap_err();
    assert!(
        matches!(refused, StoreError::Concurrent { .. }),
        "{refused}"
    );
    assert!(!refused.disk_was_written());
    assert!(fs::read(bench.image()).unwrap() == before);
    // Made anew from what is there now, it goes through and keeps the other's slot.
    let mut store = bench.store();
    store
        .update(Wait::default(), |now| {
            Change::remove_slots(now, &[1]).map_err(StoreError::from)
        })
        .unwrap();
    assert!(bench.opens("third") && !bench.opens("second"));
}

#[test]
fn a_damaged_copy_is_rewritten_for_a_change_and_never_for_reading() {
    for (copy, offset) in [
        (HeaderCopy::Primary, 5000),
        (HeaderCopy::Secondary, 16384 + 5000),
    ] {
        let bench = Bench::new();
        bench.overwrite(offset, b"damage");
        let damaged = fs::read(bench.image()).unwrap();
        let changed = fs::metadata(bench.image()).unwrap().mtime_nsec();
        let reader = HeaderStore::load(bench.device(Access::ReadWrite), LockMode::Shared).unwrap();
        assert_eq!(reader.needs_repair().unwrap().copy, copy);
        assert!(fs::read(bench.image()).unwrap() == damaged);
        assert_eq!(fs::metadata(bench.image()).unwrap().mtime_nsec(), changed);

        let writer = bench.store();
        assert_eq!(writer.needs_repair(), None);
        // The other copy alone must carry the volume now.
        let other = copy.other().offset(writer.header().size());
        bench.overwrite(other, &[0; 16384]);
        assert!(bench.opens("first") && bench.opens("second"));
    }
}

#[test]
fn a_file_system_over_the_primary_is_not_repaired_away() {
    let bench = Bench::new();
    bench.overwrite(0, &[0; 4096]);
    bench.overwrite(1024 + 0x38, b"\x53\xef");
    let before = fs::read(bench.image()).unwrap();
    let mut store = bench.store();
    assert!(matches!(store.blocked(), Some(StoreError::Foreign(_))));
    let change = Change::remove_slots(store.header(), &[1]).unwrap();
    assert!(matches!(store.apply(change), Err(StoreError::Foreign(_))));
    assert!(fs::read(bench.image()).unwrap() == before);
    // Asked for in so many words, it is.
    let report = store.repair(RepairScope::Header, Wait::default()).unwrap();
    assert_eq!(report.rewritten.unwrap().0, HeaderCopy::Primary);
    assert!(bench.opens("first") && bench.opens("second"));
}

#[test]
fn backups_are_those_of_cryptsetup_and_go_back_both_ways() {
    let bench = Bench::new();
    bench.ok(&["luksHeaderBackup", "IMG", "--header-backup-file", "theirs"]);
    bench
        .store()
        .backup_to(&bench.path("ours"), Wait::default())
        .unwrap();
    assert!(fs::read(bench.path("ours")).unwrap() == fs::read(bench.path("theirs")).unwrap());
    let mode = fs::metadata(bench.path("ours")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o400);
    let again = bench
        .store()
        .backup_to(&bench.path("ours"), Wait::default());
    assert!(matches!(
        again,
        Err(StoreError::Backup {
            action: "create",
            ..
        })
    ));

    for theirs in [false, true] {
        bench.ok(&["luksRemoveKey", "IMG", "second"]);
        assert!(!bench.opens("second"));
        if theirs {
            bench.ok(&["luksHeaderRestore", "IMG", "--header-backup-file", "ours"]);
        } else {
            let device = bench.device(Access::ReadWrite);
            let file = bench.path("theirs");
            HeaderStore::restore(device, &file, RestoreRules::default(), Wait::default()).unwrap();
        }
        assert!(bench.opens("first") && bench.opens("second"));
    }
}

#[test]
fn a_backup_and_the_way_back_tell_how_far_they_are() {
    let bench = Bench::new();
    let total = bench.store().header().metadata().total_bytes();
    let check = |told: &[(u64, u64)]| {
        assert!(told.len() > 3, "{told:?}");
        assert!(told.is_sorted_by(|a, b| a.0 < b.0), "{told:?}");
        assert!(told.iter().all(|(_, all)| *all == total), "{told:?}");
        assert_eq!(told.last(), Some(&(total, total)));
    };
    let file = bench.path("backup");
    let mut told = Vec::new();
    bench
        .store()
        .backup_telling(&file, Wait::default(), &mut |done, all| {
            told.push((done, all));
        })
        .unwrap();
    check(&told);
    told.clear();
    let device = bench.device(Access::ReadWrite);
    let rules = RestoreRules::default();
    HeaderStore::restore_telling(device, &file, rules, Wait::default(), &mut |done, all| {
        told.push((done, all));
    })
    .unwrap();
    check(&told);
}

#[test]
fn restoring_the_header_of_another_volume_is_refused_and_writes_nothing() {
    let (bench, other) = (Bench::new(), Bench::new());
    other
        .store()
        .backup_to(&bench.path("backup"), Wait::default())
        .unwrap();
    let before = fs::read(bench.image()).unwrap();
    let restore = |rules| {
        let device = bench.device(Access::ReadWrite);
        HeaderStore::restore(device, &bench.path("backup"), rules, Wait::default())
    };
    let refused = restore(RestoreRules::default()).unwrap_err();
    assert!(
        matches!(&refused, StoreError::RestoreRefused(why)
            if matches!(why[..], [RestoreObjection::OtherUuid { .. }])),
        "{refused}"
    );
    assert!(fs::read(bench.image()).unwrap() == before);
    let rules = RestoreRules {
        other_uuid: true,
        ..RestoreRules::default()
    };
    let store = restore(rules).unwrap();
    assert_eq!(store.header(), other.store().header());
    assert!(bench.opens("first") && bench.opens("second"));
}

#[test]
fn a_damaged_backup_is_refused_and_half_a_backup_made_whole() {
    let bench = Bench::new();
    bench
        .store()
        .backup_to(&bench.path("backup"), Wait::default())
        .unwrap();
    let whole = fs::read(bench.path("backup")).unwrap();
    let restore = |bytes: &[u8]| {
        fs::write(bench.path("damaged"), bytes).unwrap();
        let device = bench.device(Access::ReadWrite);
        let rules = RestoreRules::default();
        HeaderStore::restore(device, &bench.path("damaged"), rules, Wait::default())
    };
    let before = fs::read(bench.image()).unwrap();
    let mut both = whole.clone();
    both[5000] ^= 1;
    both[16384 + 5000] ^= 1;
    assert!(matches!(restore(&both), Err(StoreError::BadBackup { .. })));
    for cut in [0, 100, 4096, 32768, whole.len() - 1] {
        assert!(
            matches!(restore(&whole[..cut]), Err(StoreError::BadBackup { .. })),
            "{cut}"
        );
    }
    assert!(fs::read(bench.image()).unwrap() == before);
    let mut one = whole.clone();
    one[5000] ^= 1;
    let store = restore(&one).unwrap();
    assert_eq!(store.needs_repair(), None);
    assert!(bench.opens("first") && bench.opens("second"));
}
