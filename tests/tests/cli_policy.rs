//! The policy of the machine, by the program itself, against an emulated TPM.

#[expect(dead_code, reason = "other tests use the rest")]
mod tpm_bench;

use std::path::Path;

use luksmith_tests::cli::luksmith;
use luksmith_tpm::log::{Event, EventLog, authenticode_digest, load_options_digest, measure};
use luksmith_tpm::{HashAlg, Native, Tpm};
use tpm_bench::support::Swtpm;
use tpm_bench::{Bench, err, extend, out};

fn measured(swtpm: &Swtpm, pcr: u8, digest: &[u8]) {
    Native::over(swtpm.connect())
        .extend_pcr(HashAlg::Sha256, pcr, digest)
        .expect("an extend");
}

/// The policy of the machine is rewritten, and no header: what was, is over also for copies of the header.
#[test]
fn the_policy_of_the_machine_changes_without_a_touch_of_the_header() {
    let mut bench = Bench::new();
    let enroll =
        "tpm enroll volume --key-file key --auto --no-recovery-key --state-directory=state";
    if !Path::new("/sys/firmware/efi/efivars").exists() {
        let refused = bench.run(enroll, b"").expect(1, "no Secure Boot");
        assert!(
            err(&refused).contains("any kernel could boot"),
            "{}",
            err(&refused)
        );
        assert!(!bench.path().join("state").exists(), "nothing was made");
    }
    bench.extend(15);
    let forced = format!("{enroll} --without-secure-boot");
    bench.run(&forced, b"").expect(0, "tpm enroll --auto");
    let before = std::fs::read(bench.path().join("volume")).expect("the volume");
    let open = "open --test-passphrase volume --token-only";
    let shut = bench.run(open, b"").expect(2, "a volume is open");
    let why = "the slot opens only before that";
    assert!(err(&shut).contains(why), "{}", err(&shut));
    assert!(!err(&shut).contains("bind the TPM anew"), "{}", err(&shut));
    bench.swtpm.restart();
    bench.extend(7);
    bench
        .run(open, b"")
        .expect(0, "the next boot, without a file");

    // An update of the firmware.
    bench.swtpm.restart();
    bench.extend(7);
    bench.extend(7);
    let shut = bench.run(open, b"").expect(2, "another firmware");
    let told = bench.run("tpm why volume", b"").expect(0, "tpm why");
    let says = "bound to a policy in the TPM";
    assert!(out(&told).contains(says), "{}", out(&told));
    assert!(err(&shut).contains("does not foresee"), "{}", err(&shut));
    let old = std::fs::read(bench.path().join("state/policy.json")).expect("the policy");
    bench.extend(15);
    let told = bench
        .run("tpm update --state-directory=state", b"")
        .expect(0, "tpm update");
    assert!(out(&told).contains("new values of PCR 7"), "{}", out(&told));
    bench.swtpm.restart();
    bench.extend(7);
    bench.extend(7);
    bench.run(open, b"").expect(0, "the next boot");
    let after = std::fs::read(bench.path().join("volume")).expect("the volume");
    assert!(before == after, "no header was touched");

    // The old firmware and the old policy, put back: over.
    bench.swtpm.restart();
    bench.extend(7);
    std::fs::write(bench.path().join("old.json"), old).expect("written");
    let open_by_old = "open --test-passphrase volume --token-only --tpm2-pcrlock=old.json";
    let stale = bench.run(open_by_old, b"");
    assert_ne!(stale.code, 0, "the old policy");
    // Unless both were wanted.
    bench
        .run("tpm update --keep --state-directory=state", b"")
        .expect(0, "tpm update --keep");
    bench.run(open, b"").expect(0, "the old firmware");
    bench.extend(7);
    bench.run(open, b"").expect(0, "and the new one");
    bench.extend(7);
    bench.run(open, b"").expect(2, "and no other");
    let reseal = "tpm reseal volume --key-file key --state-directory=state";
    let told = bench
        .run(reseal, b"")
        .expect(1, "it is the policy that is rewritten");
    assert!(err(&told).contains("luksmith tpm update"), "{}", err(&told));
    // This boot was foreseen, and went well: the other value goes, and nothing that was not foreseen comes.
    bench.swtpm.restart();
    bench.extend(7);
    bench.extend(7);
    let drop = "tpm update --only-drop --state-directory=state";
    let told = bench.run(drop, b"").expect(0, "tpm update --only-drop");
    assert!(out(&told).contains("this boot alone"), "{}", out(&told));
    bench.swtpm.restart();
    bench.extend(7);
    bench.run(open, b"").expect(2, "the old firmware");
    let told = bench.run(drop, b"").expect(1, "tpm update --only-drop");
    assert!(
        err(&told).contains("not foreseen (PCR 7)"),
        "{}",
        err(&told)
    );
    bench.extend(7);
    bench.run(open, b"").expect(0, "the new one still");
    // New firmware, which nobody could foresee: one boot by a grace, and what it measured is taken.
    let grace = "tpm grace --batch-mode --state-directory=state";
    let told = bench
        .run("tpm grace --state-directory=state", b"")
        .expect(1, "nobody says yes");
    assert!(err(&told).contains("steals the machine"), "{}", err(&told));
    bench.run(grace, b"").expect(0, "tpm grace");
    bench
        .run("tpm grace --withdraw --state-directory=state", b"")
        .expect(0, "tpm grace --withdraw");
    let new_firmware = |swtpm: &mut Swtpm| {
        swtpm.restart();
        for _ in 0..3 {
            extend(swtpm, 7);
        }
    };
    new_firmware(&mut bench.swtpm);
    bench.run(open, b"").expect(2, "withdrawn");
    bench.run(grace, b"").expect(0, "tpm grace");
    bench.run(open, b"").expect(0, "by the grace");
    bench.run(open, b"").expect(2, "once");
    let told = bench.run(drop, b"").expect(0, "tpm update --only-drop");
    assert!(out(&told).contains("this boot alone"), "{}", out(&told));
    new_firmware(&mut bench.swtpm);
    bench.run(open, b"").expect(0, "as it is from now on");
    bench.run(open, b"").expect(0, "and not once");
    // A write that was cut off when the TPM had it and the file did not is seen, and put right.
    let file = bench.path().join("state/policy.json");
    let before_it = std::fs::read(&file).expect("the policy");
    bench.run(grace, b"").expect(0, "tpm grace");
    std::fs::write(&file, &before_it).expect("put back");
    let told = bench.run("tpm grace --withdraw --state-directory=state", b"");
    let told = told.expect(0, "tpm grace --withdraw");
    assert!(out(&told).contains("is withdrawn"), "{}", out(&told));
    bench.run(grace, b"").expect(0, "tpm grace");
    std::fs::write(&file, &before_it).expect("put back");
    let told = bench.run(drop, b"").expect(0, "tpm update --only-drop");
    assert!(out(&told).contains("this boot alone"), "{}", out(&told));
    bench.swtpm.restart();
    bench.run(open, b"").expect(2, "no grace is left");
    new_firmware(&mut bench.swtpm);
    bench
        .run(open, b"")
        .expect(0, "and the policy is as it was");

    // Its file lost, its key is not overwritten: it is the only way to the index.
    let lost = bench.path().join("state/policy.json");
    let policy = std::fs::read(&lost).expect("the policy");
    std::fs::remove_file(&lost).expect("it was there");
    let refused = bench.run(&forced, b"").expect(1, "the key is there");
    assert!(err(&refused).contains("is missing"), "{}", err(&refused));
    std::fs::write(&lost, policy).expect("put back");

    // Over, also for each copy of the header.
    let refused = bench
        .run("tpm revoke --state-directory=state", b"")
        .expect(1, "nobody says yes");
    assert!(err(&refused).contains("needs a yes"), "{}", err(&refused));
    bench.run(open, b"").expect(0, "nothing was done");
    bench
        .run("tpm revoke --batch-mode --state-directory=state", b"")
        .expect(0, "tpm revoke");
    let shut = bench.run(open, b"");
    assert!(
        err(&shut).contains("there is no NV index"),
        "{}",
        err(&shut)
    );
    assert!(!lost.exists());
    bench.run(&forced, b"").expect(0, "a new policy");
    bench.run(open, b"").expect(0, "by the new slot");
}

/// A boot of a kernel by the firmware alone, whose log and files are there; then a new kernel and a new initrd.
#[test]
fn the_next_boot_is_foreseen_from_its_files() {
    const LOG: &[u8] = include_bytes!("../../tpm/tests/logs/direct.log");
    const BANK: HashAlg = HashAlg::Sha256;
    let mut bench = Bench::new();
    let write = |name: &str, bytes: &[u8]| {
        let file = bench.path().join(name);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(file, bytes).expect("a file");
    };
    let log = EventLog::parse(LOG).expect("a log");
    write("log", LOG);
    // A boot measures the events of the log, but for what `next` says.
    let boot = |swtpm: &Swtpm, next: &dyn Fn(&Event) -> Option<Vec<u8>>| {
        for event in log.events().iter().filter(|event| event.extends()) {
            let was = event.digest(BANK).expect("a digest").to_vec();
            measured(swtpm, event.pcr, &next(event).unwrap_or(was));
        }
    };
    boot(&bench.swtpm, &|_| None);
    let enroll = "tpm enroll volume --key-file key --auto --without-secure-boot --tpm2-pcrs=4+9+15=0 \
                  --no-recovery-key --state-directory=state";
    bench.run(enroll, b"").expect(0, "tpm enroll --auto");
    let open = "open --test-passphrase volume --token-only";
    bench.run(open, b"").expect(0, "this boot");

    // Nothing is new. What is not found is named.
    let predict = "tpm predict --event-log=log --root=root --state-directory=state";
    let predict_next = |bench: &Bench, more: &str| bench.run(&format!("{predict} {more}"), b"");
    let line = "console=ttyS0 quiet panic=-1 initrd=initrd";
    write("root/proc/cmdline", format!("{line}\n").as_bytes());
    let told = predict_next(&bench, "--kernel=next").expect(0, "tpm predict");
    assert!(out(&told).contains("PCR 4: nothing new"), "{}", out(&told));
    for name in ["the kernel", "the initrd"] {
        let named = format!("taken to be as at this boot: {name}\n");
        assert!(out(&told).contains(&named), "{}", out(&told));
    }

    let kernel = pe(b"another kernel");
    write("root/boot/vmlinuz-next", &kernel);
    write("root/boot/initrd.img-next", b"another initrd");
    let after = |event: &Event| match (event.pcr, event.text().as_str()) {
        (4, "kernel") => authenticode_digest(BANK, &kernel).ok(),
        (9, "Linux initrd") => Some(measure(BANK, b"another initrd")),
        (9, "LOADED_IMAGE::LoadOptions") => Some(load_options_digest(BANK, line)),
        _ => None,
    };
    // It is told beforehand, also of a slot with PCRs of its own.
    let literal = "tpm enroll volume --key-file key --tpm2-pcrs=9";
    bench
        .run(&format!("{literal} --no-recovery-key"), b"")
        .expect(0, "tpm enroll");
    let volume = bench.path().join("volume");
    write(
        "table",
        format!("root {} none luksmith\n", volume.display()).as_bytes(),
    );
    let next_boot = |bench: &Bench| {
        let args = "doctor --next-boot --crypttab=table --event-log=log --root=root --kernel=next";
        let told = bench.run(args, b"");
        let told = out(&told);
        let lines = told.lines().filter(|line| line.contains("next boot: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let told = next_boot(&bench);
    let shut = "would not open with the kernel next: PCR";
    assert!(
        told[0].contains(&format!("root: token 0 {shut} 4+9")),
        "{told:?}"
    );
    assert!(
        told[1].contains(&format!("root: token 1 {shut} 9")),
        "{told:?}"
    );
    let told = predict_next(&bench, "--kernel=next --dry-run").expect(0, "--dry-run");
    assert!(out(&told).contains("was not changed"), "{}", out(&told));
    bench.swtpm.restart();
    boot(&bench.swtpm, &after);
    bench.run(open, b"").expect(2, "nothing was let in");
    bench.swtpm.restart();
    boot(&bench.swtpm, &|_| None);
    let told = predict_next(&bench, "--kernel=next").expect(0, "tpm predict");
    for pcr in [4, 9] {
        let new = format!("PCR {pcr}: one new value\n");
        assert!(out(&told).contains(&new), "{}", out(&told));
    }
    // As the hooks of several packages do.
    let told = predict_next(&bench, "--kernel=next --json").expect(0, "tpm predict");
    let json: serde_json::Value = serde_json::from_slice(&told.out).expect("JSON");
    assert_eq!(json["schema"], "luksmith.tpm-predict/1");
    assert_eq!(json["kernels"][0], "next");
    let new = json["pcrs"].as_array().expect("PCRs").iter();
    assert!(new.clone().all(|row| row["new_values"] == 0), "{json}");

    let told = next_boot(&bench);
    assert!(
        told[0].contains("root: token 0 would open with the kernel next"),
        "{told:?}"
    );
    assert!(told[1].contains(shut), "{told:?}");
    luksmith(
        bench.path(),
        "tpm wipe --batch-mode volume --token-id=1",
        b"",
    )
    .expect(0, "tpm wipe");
    bench.run(open, b"").expect(0, "this boot still");
    bench.swtpm.restart();
    boot(&bench.swtpm, &after);
    bench.run(open, b"").expect(0, "the foreseen boot");
    bench
        .run("tpm update --only-drop --state-directory=state", b"")
        .expect(0, "it went well");
    bench.swtpm.restart();
    boot(&bench.swtpm, &|_| None);
    bench.run(open, b"").expect(2, "the old kernel");

    // The firmware measured something that is not in its log: said, and not guessed.
    measured(&bench.swtpm, 4, &[1; 32]);
    let told = predict_next(&bench, "--kernel=next").expect(1, "tpm predict");
    assert!(
        err(&told).contains("PCR 4 cannot be foreseen"),
        "{}",
        err(&told)
    );
    assert!(err(&told).contains("luksmith tpm update"), "{}", err(&told));
}

#[test]
fn what_new_firmware_measures_is_not_guessed() {
    let bench = Bench::new();
    let log = include_bytes!("../../tpm/tests/logs/direct.log");
    std::fs::write(bench.path().join("log"), log).expect("a file");
    let log = EventLog::parse(log).expect("a log");
    for event in log.events().iter().filter(|event| event.extends()) {
        let digest = event.digest(HashAlg::Sha256).expect("a digest");
        measured(&bench.swtpm, event.pcr, digest);
    }
    let enroll = "tpm enroll volume --key-file key --auto --without-secure-boot --tpm2-pcrs=0+4+15=0 \
                  --no-recovery-key --state-directory=state";
    bench.run(enroll, b"").expect(0, "tpm enroll --auto");
    let predict = "tpm predict --event-log=log --root=root --state-directory=state";
    bench.run(predict, b"").expect(0, "all stays as it is");

    // As fwupd leaves it.
    let folder = bench.path().join("root/boot/efi/EFI/debian/fw");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("fwupd-1.cap"), "new").expect("a file");
    let told = bench.run(predict, b"").expect(1, "it changes");
    for part in [
        "PCR 0 cannot be foreseen",
        "an update of the firmware waits in root/boot/efi/EFI/debian/fw/fwupd-1.cap",
        "luksmith tpm grace",
    ] {
        assert!(err(&told).contains(part), "{part}: {}", err(&told));
    }
    assert!(out(&told).contains("PCR 4: nothing new"), "{}", out(&told));
}

/// A PE image with one section.
fn pe(content: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3C, &[0x40]);
    put(0x40, b"PE\0\0");
    put(0x46, &[1]);
    put(0x54, &[240]);
    put(0x58, &0x020B_u16.to_le_bytes());
    put(0x58 + 60, &1024_u32.to_le_bytes());
    put(0x58 + 108, &[16]);
    let section = 0x58 + 240;
    put(section + 8, &[14]);
    put(section + 16, &512_u32.to_le_bytes());
    put(section + 20, &1024_u32.to_le_bytes());
    image.extend_from_slice(content);
    image.resize(1536, 0);
    image
}
