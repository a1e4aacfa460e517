//! A volume, its passphrases, and a TPM where one is needed.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use luksmith_tests::cli::{SMALL, command, luksmith, snapshot};
use luksmith_tests::cryptsetup::{CHEAP, Ended, run};
use luksmith_tests::image::Image;
use luksmith_tpm::transport::Transport;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::support::Swtpm;

/// A volume with the passphrase `first`, in a folder with files of passphrases. The TPM is started when it is needed.
pub(crate) struct Bench {
    pub(crate) image: Image,
    pub(crate) swtpm: Option<Swtpm>,
}

pub(crate) const VOLUME: &str = "data.img";

impl Bench {
    pub(crate) fn new() -> Self {
        let image = Image::blank(6 << 20);
        let mut args = vec!["format", VOLUME];
        args.extend(SMALL);
        args.extend(["--luks2-keyslots-size", "4M", "--offset", "10240"]);
        luksmith(image.folder(), &args, b"first\n").expect(0, "format");
        let bench = Self { image, swtpm: None };
        for name in ["first", "second", "third"] {
            bench.write(name, name);
        }
        bench
    }

    pub(crate) fn with_tpm() -> Self {
        Self {
            swtpm: Some(Swtpm::on_tcp()),
            ..Self::new()
        }
    }

    /// One that is blessed.
    pub(crate) fn blessed() -> Self {
        let bench = Self::new();
        bench.bless(&[]);
        bench
    }

    /// One that is blessed, with a counter in the TPM.
    pub(crate) fn counted() -> Self {
        let bench = Self::with_tpm();
        bench.bless(&[]);
        bench
    }

    pub(crate) fn path(&self) -> &Path {
        self.image.folder()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).expect("written");
    }

    pub(crate) fn swtpm(&mut self) -> &mut Swtpm {
        self.swtpm.as_mut().expect("a test with a TPM")
    }

    /// The program, with the address of the TPM if there is one, and the passphrase `first` in a file.
    pub(crate) fn run(&self, words: &[&str], more: &[&str]) -> Ended {
        let mut args = words.to_vec();
        args.extend([VOLUME, "--key-file", "first"]);
        args.extend(more);
        self.bare(&args, b"")
    }

    /// The program, with the address of the TPM if there is one.
    pub(crate) fn bare(&self, args: &[&str], input: &[u8]) -> Ended {
        let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
        if let Some(swtpm) = &self.swtpm {
            args.push(format!("--tpm2-device={}", swtpm.address()));
        }
        luksmith(self.path(), &args, input)
    }

    /// The same as [`Bench::run`], and the machine dies when all is ready to be written to the disk: when it waits for
    /// the lock of the header, which somebody holds who reads.
    pub(crate) fn dies_before_the_write(&self, words: &[&str], more: &[&str]) {
        let before = snapshot(self.path());
        let volume = std::fs::File::open(self.image.data()).expect("the volume");
        let held = Flock::lock(volume, FlockArg::LockShared).expect("a lock");
        let mut command = command(self.path());
        command.args(words).args([VOLUME, "--key-file", "first"]);
        command.args(more).stdin(Stdio::null());
        if let Some(swtpm) = &self.swtpm {
            command.arg(format!("--tpm2-device={}", swtpm.address()));
        }
        let mut child = command.spawn().expect("it starts");
        wait_until_it_waits(child.id());
        assert!(child.try_wait().expect("it can be asked").is_none());
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        drop(held);
        assert_eq!(snapshot(self.path()), before);
    }

    /// The same as [`Bench::run`], and the machine dies when the TPM is about to be told to count. Between program and
    /// TPM stands somebody who passes that on to nobody.
    pub(crate) fn dies_before_it_counts(&self, words: &[&str], more: &[&str]) {
        let swtpm = self.swtpm.as_ref().expect("a test with a TPM");
        let socket = self.path().join("between");
        let listener = UnixListener::bind(&socket).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let mut child = command(self.path())
            .args(words)
            .args([VOLUME, "--key-file", "first"])
            .args(more)
            .arg(format!("--tpm2-device=swtpm:path={}", socket.display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("it starts");
        let waiting = loop {
            if let Ok((client, _)) = listener.accept() {
                client.set_nonblocking(false).expect("a socket");
                if counts(&client, &mut swtpm.connect()) {
                    break client;
                }
            }
            let ended = child.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "it ended and did not count");
            std::thread::sleep(Duration::from_millis(2));
        };
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        drop(waiting);
        std::fs::remove_file(&socket).expect("the socket");
    }

    pub(crate) fn bless(&self, more: &[&str]) -> Ended {
        let blessed = self
            .run(&["header", "bless"], more)
            .expect(0, "header bless");
        assert!(!blessed.err.contains("WARNING"), "{}", blessed.err);
        blessed
    }

    pub(crate) fn open(&self, more: &[&str]) -> Ended {
        self.run(&["open", "--test-passphrase"], more)
    }

    /// Opens, and has nothing to say.
    pub(crate) fn opens(&self) {
        let opened = self.open(&[]).expect(0, "open");
        assert_eq!(opened.err, "");
    }

    /// Does not open with a key file, for this reason, and writes nothing.
    pub(crate) fn is_refused(&self, why: &str) {
        let before = snapshot(self.path());
        let refused = self.open(&[]).expect(2, "open");
        assert!(refused.err.contains(why), "{}", refused.err);
        assert!(
            refused.err.contains("nothing was written"),
            "{}",
            refused.err
        );
        assert_eq!(snapshot(self.path()), before);
    }

    pub(crate) fn slot_add(&self, key: &str) {
        let mut args = vec!["slot", "add", VOLUME, key, "--key-file", "first"];
        args.extend(CHEAP);
        let added = self.bare(&args, b"").expect(0, "slot add");
        assert_eq!(added.err, "");
    }

    pub(crate) fn cryptsetup(&self, words: &[&str], more: &[&str]) -> Ended {
        let volume = self.image.data();
        let mut args: Vec<&str> = words.to_vec();
        args.push(volume.to_str().expect("a path"));
        args.extend(more);
        run(
            Command::new("cryptsetup")
                .arg("--batch-mode")
                .args(args)
                .current_dir(self.path()),
            b"",
        )
    }

    pub(crate) fn token(&self) -> Value {
        let header = self.image.header();
        let of_ours = |token: &&luksmith_luks2::Token| token.kind == "luksmith-header";
        let token = header.metadata().tokens().values().find(of_ours);
        token.expect("a token").raw.clone()
    }

    pub(crate) fn epoch(&self) -> u64 {
        let token = self.token();
        let epoch = token["epoch"].as_str().expect("a text");
        epoch.parse().expect("a number")
    }

    /// Header and keyslots, as somebody would copy them who has the disk in hand.
    pub(crate) fn copy_header(&self) -> Vec<u8> {
        let bytes = std::fs::read(self.image.data()).expect("the volume");
        bytes[..5 << 20].to_vec()
    }

    pub(crate) fn put_back(&self, header: &[u8]) {
        let mut bytes = std::fs::read(self.image.data()).expect("the volume");
        bytes[..header.len()].copy_from_slice(header);
        std::fs::write(self.image.data(), bytes).expect("written");
    }
}

/// A token that is added behind our back.
pub(crate) fn cryptsetup_token(bench: &Bench) {
    let add = ["token", "add", "--key-description", "x", "--key-slot", "0"];
    bench
        .cryptsetup(&add, &[])
        .expect(0, "cryptsetup token add");
}

/// A process that sleeps for so long waits for nobody but a lock.
fn wait_until_it_waits(pid: u32) {
    let mut asleep = 0;
    while asleep < 30 {
        std::thread::sleep(Duration::from_millis(50));
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let (_, state) = stat.rsplit_once(") ").expect("a state");
        asleep = if state.starts_with('S') {
            asleep + 1
        } else {
            0
        };
    }
}

/// `TPM2_NV_Increment` (TPM 2.0 Library, part 2, 6.5.2).
const COUNT: u32 = 0x134;

/// Passes commands on until the client goes away (false), or one comes that counts, which is not passed on.
fn counts(mut client: &UnixStream, tpm: &mut dyn Transport) -> bool {
    let mut command = vec![0; 10];
    while client.read_exact(&mut command).is_ok() {
        let number = |at: usize| {
            let bytes = &command[at..at + 4];
            bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte))
        };
        let (len, code) = (number(2) as usize, number(6));
        if code == COUNT {
            return true;
        }
        command.resize(len, 0);
        client.read_exact(&mut command[10..]).expect("a command");
        let answer = tpm.transact(&command).expect("an answer");
        client.write_all(&answer).expect("it listens");
        command.truncate(10);
    }
    false
}
