//! Volumes that clevis bound to a TPM: opened, listed and moved by the program; clevis, tpm2-tools and jose
//! are those of the distribution.

#[path = "tpm_bench/mod.rs"]
mod bench;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use bench::{Bench, err, out};
use luksmith_tests::cli::{command, luksmith, snapshot};
use luksmith_tests::cryptsetup::{Ended, cryptsetup, run};
use luksmith_tpm::{HashAlg, Native, Tpm};
use serde_json::{Value, json};

/// A slot of clevis.
fn bind(bench: &Bench, configuration: &str) {
    // tpm2-tools names the same server without our word for its socket.
    let mut clevis = Command::new("clevis");
    clevis
        .args(["luks", "bind", "-y", "-k", "key", "-d", "volume", "tpm2"])
        .arg(configuration)
        .env("TPM2TOOLS_TCTI", bench.swtpm.address())
        .current_dir(bench.path());
    run(&mut clevis, b"").expect(0, "clevis luks bind");
}

fn extend_sha1(bench: &Bench, pcr: u8) {
    Native::over(bench.swtpm.connect())
        .extend_pcr(HashAlg::Sha1, pcr, &[1; 20])
        .expect("an extend");
}

fn listed(bench: &Bench) -> Vec<Value> {
    let told = bench.run("tpm list volume --json", b"");
    let told: Value = serde_json::from_slice(&told.expect(0, "tpm list").out).expect("JSON");
    told["tokens"].as_array().expect("tokens").clone()
}

/// A token that somebody else would understand.
fn import(bench: &Bench, token: &Value) {
    let text = token.to_string();
    let args = "token import volume --json-file -";
    luksmith(bench.path(), args, text.as_bytes()).expect(0, "token import");
}

fn migrate(bench: &Bench, more: &str) -> Ended {
    bench.run(&format!("tpm migrate volume {more}"), b"")
}

#[test]
fn what_clevis_bound_opens_in_both_banks_and_with_both_keys() {
    for configuration in [
        "{}",
        r#"{"key":"rsa"}"#,
        r#"{"pcr_bank":"sha256","pcr_ids":"7"}"#,
        r#"{"pcr_bank":"sha1","pcr_ids":"0,7"}"#,
    ] {
        let bench = Bench::new();
        extend_sha1(&bench, 7);
        bind(&bench, configuration);
        bench.open("--token-only", b"").expect(0, configuration);
        bench.open("", b"").expect(0, "first of all");
        let row = &listed(&bench)[0];
        assert_eq!(
            (&row["type"], &row["pin"]),
            (&json!("clevis"), &json!("no"))
        );
        assert_eq!(row["opens_now"], true, "{row}");
        let bound = configuration.contains("pcr_ids");
        assert_eq!(row["by_presence"], !bound, "{row}");

        bench.extend(7);
        extend_sha1(&bench, 7);
        let shut = bench.open("--token-only", b"");
        let shut = shut.expect(if bound { 2 } else { 0 }, configuration);
        assert_eq!(
            err(&shut).contains("have other values"),
            bound,
            "{}",
            err(&shut)
        );
        let told = out(&bench.run("tpm list volume", b""));
        let says = if bound {
            "have other values"
        } else {
            "yes, on this machine alone"
        };
        assert!(told.contains(says), "{told}");
    }
}

#[test]
fn that_presence_alone_opens_is_said_with_the_way_out() {
    let bench = Bench::new();
    bind(&bench, "{}");
    let told = bench.run("tpm list volume", b"").expect(0, "tpm list");
    let warning = "warning: token 0 is bound to no PCR and no PIN: whoever has this machine has the \
                   key. Bind it to more: luksmith tpm migrate volume --token-id 0\n";
    assert_eq!(err(&told), warning);
}

#[test]
fn a_changed_machine_asks_for_the_passphrase_and_says_how_to_bind_it_anew() {
    let bench = Bench::new();
    bind(&bench, r#"{"pcr_bank":"sha256","pcr_ids":"7"}"#);
    bench.extend(7);
    let opened = bench.open("", b"first\n").expect(0, "the passphrase");
    assert!(
        err(&opened).contains("PCR 7 have other values"),
        "{}",
        err(&opened)
    );
    assert!(
        err(&opened).contains("luksmith tpm migrate volume"),
        "{}",
        err(&opened)
    );
}

#[test]
fn other_pins_are_named_and_stop_nothing() {
    use luksmith_tpm::token::CLEVIS_KIND;
    let bench = Bench::new();
    for (slot, pin) in [("0", "tang"), ("0", "sss")] {
        let header = json!({ "alg": "ECDH-ES", "enc": "A256GCM", "clevis": { "pin": pin } });
        let mut jose = Command::new("jose");
        jose.args(["b64", "enc", "-I-"]);
        let protected = out(&run(&mut jose, header.to_string().as_bytes()));
        let jwe = json!({ "protected": protected.trim(), "encrypted_key": "",
            "iv": "AAAAAAAAAAAAAAAA", "ciphertext": "AAAA", "tag": "AAAAAAAAAAAAAAAAAAAAAA" });
        import(
            &bench,
            &json!({ "type": CLEVIS_KIND, "keyslots": [slot], "jwe": jwe }),
        );
    }
    import(&bench, &json!({ "type": CLEVIS_KIND, "keyslots": ["0"] }));
    let asked = bench.open("", b"first\n").expect(0, "the passphrase");
    for said in [
        "token 0: unsupported token: clevis pin \"tang\"",
        "clevis pin \"sss\"",
        "token 2: damaged token: jwe",
    ] {
        assert!(err(&asked).contains(said), "{}", err(&asked));
    }
    bind(&bench, "{}");
    let opened = bench.open("--token-only", b"").expect(0, "the pin tpm2");
    assert_eq!(err(&opened), "");
    let told = out(&bench.run("tpm list volume", b""));
    assert!(
        told.contains("no: unsupported: clevis pin \"tang\""),
        "{told}"
    );
    let refused = migrate(&bench, "--token-id 0").expect(1, "no way to move that");
    assert!(
        err(&refused).contains("token 0 cannot be moved: unsupported: clevis pin"),
        "{}",
        err(&refused)
    );
}

#[test]
fn a_volume_that_clevis_bound_is_served() {
    let bench = Bench::new();
    bind(&bench, "{}");
    let device = format!("--tpm2-device={}", bench.swtpm.address());
    let mut server = command(bench.path())
        .args(["serve", "volume", "--socket", "nbd", "--buffered", &device])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let told = BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line);
    server.kill().expect("it can be killed");
    server.wait().expect("it ends");
    told.expect("a line");
    assert!(line.starts_with("ready: nbd+unix:"), "{line:?}");
}

/// The table names no TPM, and there is none yet.
#[test]
fn an_initramfs_waits_for_the_tpm_of_clevis_and_for_no_other_pin() {
    let bench = Bench::new();
    let waits = || {
        let volume = bench.path().join("volume");
        let another = "0".repeat(64);
        let line = format!(
            "clevis-test {} none luksmith,headless,token-timeout=1s,fixate-volume-key={another}\n",
            volume.display()
        );
        std::fs::write(bench.path().join("table"), line).expect("a table");
        let attach = "attach --initramfs --crypttab=table";
        let told = luksmith(bench.path(), attach, b"").expect(2, "attach");
        let said = err(&told);
        assert!(said.contains("headless forbids to ask"), "{said}");
        said.contains("Waiting for the TPM.")
    };
    import(&bench, &json!({ "type": "clevis", "keyslots": ["0"] }));
    assert!(!waits(), "of this one nobody knows what it wants");
    bind(&bench, "{}");
    assert!(waits());
}

#[test]
fn a_slot_of_clevis_moves_with_its_pcrs() {
    let bench = Bench::new();
    bind(&bench, r#"{"pcr_bank":"sha1","pcr_ids":"7"}"#);
    let before = out(&run(
        Command::new("clevis")
            .args(["luks", "pass", "-d", "volume", "-s", "1"])
            .env("TPM2TOOLS_TCTI", bench.swtpm.address())
            .current_dir(bench.path()),
        b"",
    ));
    assert!(before.len() > 20, "the passphrase of the slot");
    assert_eq!(bench.factors(), ["password", "clevis"]);
    let moved = migrate(&bench, "").expect(0, "tpm migrate");
    assert_eq!(bench.factors(), ["password", "recovery", "tpm2"]);
    assert!(
        err(&moved).contains("its slot 1 are gone"),
        "{}",
        err(&moved)
    );
    let row = &listed(&bench)[0];
    // The same PCRs, in the stronger bank.
    assert_eq!(
        (&row["pcrs"], &row["bank"]),
        (&json!([7]), &json!("sha256"))
    );
    bench.open("--token-only", b"").expect(0, "the TPM");
    let volume = bench.path().join("volume");
    let args = [
        "open",
        "--test-passphrase",
        volume.to_str().expect("a path"),
    ];
    cryptsetup(&args, before.as_bytes()).expect(2, "what clevis had opens nothing any more");
    bench.extend(7);
    bench.open("--token-only", b"").expect(2, "it is bound");
}

#[test]
fn a_slot_that_presence_opened_moves_to_a_pin() {
    let bench = Bench::new();
    bind(&bench, "{}");
    let before = snapshot(bench.path());
    let refused = migrate(&bench, "--no-recovery-key").expect(1, "nobody to ask for a PIN");
    assert!(
        err(&refused).contains("a PIN is needed"),
        "{}",
        err(&refused)
    );
    assert_eq!(snapshot(bench.path()), before);
    bench.open("--token-only", b"").expect(0, "as before");
    migrate(&bench, "--no-recovery-key --new-pin-file pin").expect(0, "tpm migrate");
    assert_eq!(bench.factors(), ["password", "tpm2"]);
    bench
        .open("--token-only", b"")
        .expect(2, "not without the PIN");
    let with_pin = "--token-only --pin-file pin";
    bench.open(with_pin, b"").expect(0, "the PIN");
}

/// Cut off after the new slot was written, both open; the next run ends it.
#[test]
fn a_move_that_was_cut_off_is_ended_by_the_next() {
    let bench = Bench::new();
    bind(&bench, r#"{"pcr_bank":"sha256","pcr_ids":"7"}"#);
    let first_half = "enroll volume --unlock-key-file key --tpm2-pcrs 7";
    bench.run(first_half, b"").expect(0, "the first half");
    assert_eq!(bench.factors(), ["password", "clevis", "tpm2"]);
    for token in ["0", "1"] {
        let one = ["--token-only", "--token-id", token];
        bench.open(&one, b"").expect(0, "each of both");
    }
    migrate(&bench, "--no-recovery-key").expect(0, "tpm migrate");
    assert!(!bench.factors().contains(&"clevis".to_owned()));
    bench.open("--token-only", b"").expect(0, "the TPM");
}

/// By the passphrase, as after an update that changed a PCR.
#[test]
fn a_slot_of_clevis_that_no_longer_opens_moves_by_the_passphrase() {
    let bench = Bench::new();
    bind(&bench, r#"{"pcr_bank":"sha256","pcr_ids":"7"}"#);
    bench.extend(7);
    migrate(&bench, "--no-recovery-key --key-file wrong").expect(2, "a wrong key");
    assert_eq!(bench.factors(), ["password", "clevis"]);
    migrate(&bench, "--no-recovery-key --key-file key").expect(0, "tpm migrate");
    assert_eq!(bench.factors(), ["password", "tpm2"]);
    bench.open("--token-only", b"").expect(0, "the TPM");
}

/// Nobody saw the new slot open as it will have to, and there is no other way in.
#[test]
fn the_last_way_in_stays_until_the_new_one_has_opened() {
    let bench = Bench::new();
    bind(&bench, "{}");
    let remove = "slot remove volume 0 --batch-mode";
    luksmith(bench.path(), remove, b"").expect(0, "only clevis is left");
    // As after a volume was opened: PCR 15 is not what it has to be.
    bench.extend(15);
    let unattended = "--no-recovery-key --tpm2-with-pin=no";
    let moved = migrate(&bench, unattended).expect(0, "tpm migrate");
    assert!(err(&moved).contains("still there"), "{}", err(&moved));
    assert_eq!(bench.factors(), ["tpm2", "clevis"]);
    bench.open("--token-only", b"").expect(0, "a way in");
    let wipe = "tpm wipe volume --token-id 0 --batch-mode";
    luksmith(bench.path(), wipe, b"").expect(0, "tpm wipe");
    assert_eq!(bench.factors(), ["tpm2"]);
}

#[test]
fn a_token_that_takes_more_with_it_is_not_moved() {
    let bench = Bench::new();
    bind(&bench, "{}");
    let mut token: Value = {
        let args = "token export volume --token-id 0";
        let told = luksmith(bench.path(), args, b"").expect(0, "token export");
        serde_json::from_slice(&told.out).expect("JSON")
    };
    token["keyslots"] = json!(["0", "1"]);
    let replace = "token import volume --json-file - --token-id 0 --token-replace";
    luksmith(bench.path(), replace, token.to_string().as_bytes()).expect(0, "token import");
    let before = snapshot(bench.path());
    let refused = migrate(&bench, "--new-pin-file pin").expect(1, "two slots");
    assert!(
        err(&refused).contains("does not lead to one slot alone"),
        "{}",
        err(&refused)
    );
    assert_eq!(snapshot(bench.path()), before);
    // The slot of the passphrase.
    token["keyslots"] = json!(["0"]);
    luksmith(bench.path(), replace, token.to_string().as_bytes()).expect(0, "token import");
    let before = snapshot(bench.path());
    let refused = migrate(&bench, "--new-pin-file pin --key-file key");
    let refused = refused.expect(1, "the slot of the passphrase");
    assert!(
        err(&refused).contains("this passphrase opens slot 0"),
        "{}",
        err(&refused)
    );
    assert_eq!(snapshot(bench.path()), before);
    bench.open("", b"first\n").expect(0, "the passphrase");
}

#[test]
fn what_clevis_has_no_answer_for_names_the_way_out() {
    let bench = Bench::new();
    let none = err(&bench.run("tpm why volume", b"").expect(1, "tpm why"));
    assert!(none.contains("there is no such TPM slot"), "{none}");
    bind(&bench, r#"{"pcr_bank":"sha256","pcr_ids":"7"}"#);
    let before = snapshot(bench.path());
    for line in [
        "tpm why volume",
        "tpm why volume --token-id=0",
        "tpm reseal volume",
        "tpm reseal volume --token-id=0",
    ] {
        let refused = err(&bench.run(line, b"").expect(1, line));
        for said in [
            "token 0 is one of clevis",
            "luksmith tpm migrate volume --token-id 0",
        ] {
            assert!(refused.contains(said), "{refused}");
        }
    }
    assert_eq!(snapshot(bench.path()), before);
}

/// By the token and by a passphrase: either gives the key that the header is blessed with.
#[test]
fn a_blessed_header_is_still_blessed_after_the_move() {
    for (shut, how) in [
        (false, "--no-recovery-key"),
        (true, "--no-recovery-key --key-file key"),
    ] {
        let bench = Bench::new();
        bind(&bench, r#"{"pcr_bank":"sha256","pcr_ids":"7"}"#);
        // With a counter in the TPM.
        let bless = "header bless volume --key-file key";
        bench.run(bless, b"").expect(0, "header bless");
        let old = std::fs::read(bench.path().join("volume")).expect("the volume");
        if shut {
            bench.extend(7);
        }
        let moved = err(&migrate(&bench, how).expect(0, "tpm migrate"));
        assert!(!moved.contains("bless"), "{moved}");
        let opened = bench.open("--token-only", b"").expect(0, "the TPM");
        assert_eq!(err(&opened), "");
        // A slot went: the header with the slot of clevis is an old one.
        std::fs::write(bench.path().join("volume"), old).expect("put back");
        let refused = bench.open("--key-file key", b"");
        let refused = err(&refused.expect(2, "an old header"));
        assert!(
            refused.contains("an old one that was put back"),
            "{refused}"
        );
    }
}
