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
    let Bench { folder, mut swtpm } = Bench::new();
    let device = format!("--tpm2-device={}", swtpm.address());
    let run = |args: &[&str]| {
        let mut all = args.to_vec();
        all.push(&device);
        luksmith(folder.path(), &all, b"")
    };
    let state = "--state-directory=state";
    let enroll = [
        "tpm",
        "enroll",
        "volume",
        "--key-file",
        "key",
        "--auto",
        "--no-recovery-key",
        state,
    ];
    if !Path::new("/sys/firmware/efi/efivars").exists() {
        let refused = run(&enroll).expect(1, "no Secure Boot");
        assert!(
            err(&refused).contains("any kernel could boot"),
            "{}",
            err(&refused)
        );
        assert!(!folder.path().join("state").exists(), "nothing was made");
    }
    extend(&swtpm, 15);
    let mut forced = enroll.to_vec();
    forced.push("--without-secure-boot");
    run(&forced).expect(0, "tpm enroll --auto");
    let before = std::fs::read(folder.path().join("volume")).expect("the volume");
    let open = ["open", "--test-passphrase", "volume", "--token-only"];
    run(&open).expect(2, "a volume is open");
    swtpm.restart();
    extend(&swtpm, 7);
    run(&open).expect(0, "the next boot, without a file");

    // An update of the firmware.
    swtpm.restart();
    extend(&swtpm, 7);
    extend(&swtpm, 7);
    let shut = run(&open).expect(2, "another firmware");
    assert!(err(&shut).contains("does not foresee"), "{}", err(&shut));
    let old = std::fs::read(folder.path().join("state/policy.json")).expect("the policy");
    extend(&swtpm, 15);
    let told = run(&["tpm", "update", state]).expect(0, "tpm update");
    assert!(out(&told).contains("new values of PCR 7"), "{}", out(&told));
    swtpm.restart();
    extend(&swtpm, 7);
    extend(&swtpm, 7);
    run(&open).expect(0, "the next boot");
    let after = std::fs::read(folder.path().join("volume")).expect("the volume");
    assert!(before == after, "no header was touched");

    // The old firmware and the old policy, put back: over.
    swtpm.restart();
    extend(&swtpm, 7);
    std::fs::write(folder.path().join("old.json"), old).expect("written");
    let open_by_old = [
        "open",
        "--test-passphrase",
        "volume",
        "--token-only",
        "--tpm2-pcrlock=old.json",
    ];
    let stale = run(&open_by_old);
    assert_ne!(stale.code, 0, "the old policy");
    // Unless both were wanted.
    run(&["tpm", "update", "--keep", state]).expect(0, "tpm update --keep");
    run(&open).expect(0, "the old firmware");
    extend(&swtpm, 7);
    run(&open).expect(0, "and the new one");
    extend(&swtpm, 7);
    run(&open).expect(2, "and no other");
    let reseal = ["tpm", "reseal", "volume", "--key-file", "key", state];
    let told = run(&reseal).expect(1, "it is the policy that is rewritten");
    assert!(err(&told).contains("luksmith tpm update"), "{}", err(&told));
    // This boot was foreseen, and went well: the other value goes, and nothing that was not foreseen comes.
    swtpm.restart();
    extend(&swtpm, 7);
    extend(&swtpm, 7);
    let drop = ["tpm", "update", "--only-drop", state];
    let told = run(&drop).expect(0, "tpm update --only-drop");
    assert!(out(&told).contains("this boot alone"), "{}", out(&told));
    swtpm.restart();
    extend(&swtpm, 7);
    run(&open).expect(2, "the old firmware");
    let told = run(&drop).expect(1, "tpm update --only-drop");
    assert!(
        err(&told).contains("not foreseen (PCR 7)"),
        "{}",
        err(&told)
    );
    extend(&swtpm, 7);
    run(&open).expect(0, "the new one still");
    // New firmware, which nobody could foresee: one boot by a grace, and what it measured is taken.
    let grace = ["tpm", "grace", "--batch-mode", state];
    let told = run(&["tpm", "grace", state]).expect(1, "nobody says yes");
    assert!(err(&told).contains("steals the machine"), "{}", err(&told));
    run(&grace).expect(0, "tpm grace");
    run(&["tpm", "grace", "--withdraw", state]).expect(0, "tpm grace --withdraw");
    let new_firmware = |swtpm: &mut Swtpm| {
        swtpm.restart();
        extend(swtpm, 7);
        extend(swtpm, 7);
        extend(swtpm, 7);
    };
    new_firmware(&mut swtpm);
    run(&open).expect(2, "withdrawn");
    run(&grace).expect(0, "tpm grace");
    run(&open).expect(0, "by the grace");
    run(&open).expect(2, "once");
    let told = run(&drop).expect(0, "tpm update --only-drop");
    assert!(out(&told).contains("this boot alone"), "{}", out(&told));
    new_firmware(&mut swtpm);
    run(&open).expect(0, "as it is from now on");
    run(&open).expect(0, "and not once");
    // Its file lost, its key is not overwritten: it is the only way to the index.
    let lost = folder.path().join("state/policy.json");
    let policy = std::fs::read(&lost).expect("the policy");
    std::fs::remove_file(&lost).expect("it was there");
    let refused = run(&forced).expect(1, "the key is there");
    assert!(err(&refused).contains("is missing"), "{}", err(&refused));
    std::fs::write(&lost, policy).expect("put back");

    // Over, also for each copy of the header.
    let refused = run(&["tpm", "revoke", state]).expect(1, "nobody says yes");
    assert!(err(&refused).contains("needs a yes"), "{}", err(&refused));
    run(&open).expect(0, "nothing was done");
    run(&["tpm", "revoke", "--batch-mode", state]).expect(0, "tpm revoke");
    let shut = run(&open);
    assert!(
        err(&shut).contains("there is no NV index"),
        "{}",
        err(&shut)
    );
    assert!(!lost.exists());
    run(&forced).expect(0, "a new policy");
    run(&open).expect(0, "by the new slot");
}

/// A boot of a kernel by the firmware alone, whose log and files are there; then a new kernel and a new initrd.
#[test]
fn the_next_boot_is_foreseen_from_its_files() {
    const LOG: &[u8] = include_bytes!("../../tpm/tests/logs/direct.log");
    const BANK: HashAlg = HashAlg::Sha256;
    let Bench { folder, mut swtpm } = Bench::new();
    let device = format!("--tpm2-device={}", swtpm.address());
    let run = |args: &[&str]| {
        let mut all = args.to_vec();
        all.push(&device);
        luksmith(folder.path(), &all, b"")
    };
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
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
    boot(&swtpm, &|_| None);
    let state = "--state-directory=state";
    let enroll = [
        "tpm",
        "enroll",
        "volume",
        "--key-file",
        "key",
        "--auto",
        "--without-secure-boot",
        "--tpm2-pcrs=4+9+15=0",
        "--no-recovery-key",
        state,
    ];
    run(&enroll).expect(0, "tpm enroll --auto");
    let open = ["open", "--test-passphrase", "volume", "--token-only"];
    run(&open).expect(0, "this boot");

    // Nothing is new. What is not found is named.
    let predict_next = |more: &[&str]| {
        let mut args = vec!["tpm", "predict", "--event-log=log", "--root=root", state];
        args.extend(more);
        run(&args)
    };
    let line = "console=ttyS0 quiet panic=-1 initrd=initrd";
    write("root/proc/cmdline", format!("{line}\n").as_bytes());
    let told = predict_next(&["--kernel=next"]).expect(0, "tpm predict");
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
    let literal = [
        "tpm",
        "enroll",
        "volume",
        "--key-file",
        "key",
        "--tpm2-pcrs=9",
    ];
    run(&[&literal[..], &["--no-recovery-key"]].concat()).expect(0, "tpm enroll");
    let volume = folder.path().join("volume");
    write(
        "table",
        format!("root {} none luksmith\n", volume.display()).as_bytes(),
    );
    let next_boot = || {
        let args = [
            "doctor",
            "--next-boot",
            "--crypttab=table",
            "--event-log=log",
            "--root=root",
            "--kernel=next",
        ];
        let told = run(&args);
        let told = out(&told);
        let lines = told.lines().filter(|line| line.contains("next boot: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let told = next_boot();
    let shut = "would not open with the kernel next: PCR";
    assert!(
        told[0].contains(&format!("root: token 0 {shut} 4+9")),
        "{told:?}"
    );
    assert!(
        told[1].contains(&format!("root: token 1 {shut} 9")),
        "{told:?}"
    );
    let told = predict_next(&["--kernel=next", "--dry-run"]).expect(0, "--dry-run");
    assert!(out(&told).contains("was not changed"), "{}", out(&told));
    swtpm.restart();
    boot(&swtpm, &after);
    run(&open).expect(2, "nothing was let in");
    swtpm.restart();
    boot(&swtpm, &|_| None);
    let told = predict_next(&["--kernel=next"]).expect(0, "tpm predict");
    for pcr in [4, 9] {
        let new = format!("PCR {pcr}: one new value\n");
        assert!(out(&told).contains(&new), "{}", out(&told));
    }
    // As the hooks of several packages do.
    let told = predict_next(&["--kernel=next", "--json"]).expect(0, "tpm predict");
    let json: serde_json::Value = serde_json::from_slice(&told.out).expect("JSON");
    assert_eq!(json["schema"], "luksmith.tpm-predict/1");
    assert_eq!(json["kernels"][0], "next");
    let new = json["pcrs"].as_array().expect("PCRs").iter();
    assert!(new.clone().all(|row| row["new_values"] == 0), "{json}");

    let told = next_boot();
    assert!(
        told[0].contains("root: token 0 would open with the kernel next"),
        "{told:?}"
    );
    assert!(told[1].contains(shut), "{told:?}");
    luksmith(
        folder.path(),
        &["tpm", "wipe", "--batch-mode", "volume", "--token-id=1"],
        b"",
    )
    .expect(0, "tpm wipe");
    run(&open).expect(0, "this boot still");
    swtpm.restart();
    boot(&swtpm, &after);
    run(&open).expect(0, "the foreseen boot");
    run(&["tpm", "update", "--only-drop", state]).expect(0, "it went well");
    swtpm.restart();
    boot(&swtpm, &|_| None);
    run(&open).expect(2, "the old kernel");

    // The firmware measured something that is not in its log: said, and not guessed.
    measured(&swtpm, 4, &[1; 32]);
    let told = predict_next(&["--kernel=next"]).expect(1, "tpm predict");
    assert!(
        err(&told).contains("PCR 4 cannot be foreseen"),
        "{}",
        err(&told)
    );
    assert!(err(&told).contains("luksmith tpm update"), "{}", err(&told));
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
