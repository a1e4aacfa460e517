//! Passphrases: typed at a terminal, in no argument list, in no environment, not echoed.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use luksmith_tests::cli::{binary, format_small, luksmith};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

/// The program at a terminal of its own.
struct AtTerminal {
    child: Child,
    master: std::fs::File,
    slave: OwnedFd,
    seen: String,
}

impl AtTerminal {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let pty = openpty(None, None).expect("a terminal");
        let stdio = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        // setsid makes the terminal the controlling one, so that /dev/tty is it and ^C works.
        let child = Command::new("setsid")
            // A test run in the background, or under nohup, ignores signals; that would be inherited.
            .args(["--ctty", "--wait", "env", "--default-signal"])
            .arg(binary())
            .args(args)
            .current_dir(folder)
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .expect("setsid starts");
        Self {
            child,
            master: pty.master.into(),
            slave: pty.slave,
            seen: String::new(),
        }
    }

    /// Reads until `text` was printed since the last time.
    fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.seen.contains(text) {
            assert!(
                Instant::now() < end,
                "never saw {text:?}, only {:?}",
                self.seen
            );
            self.read_some();
        }
        let at = self.seen.find(text).expect("found above") + text.len();
        self.seen.drain(..at);
    }

    fn read_some(&mut self) -> bool {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(200u16)).unwrap_or(0) == 0 {
            return false;
        }
        let mut bytes = [0; 4096];
        match self.master.read(&mut bytes) {
            Ok(n) if n > 0 => {
                self.seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
                true
            }
            _ => false,
        }
    }

    fn type_line(&mut self, text: &str) {
        self.master
            .write_all(format!("{text}\n").as_bytes())
            .expect("typed");
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.slave)
            .expect("a terminal")
            .local_flags
            .contains(LocalFlags::ECHO)
    }

    fn end(mut self) -> (ExitStatus, String) {
        let end = Instant::now() + Duration::from_secs(60);
        let status = loop {
            self.read_some();
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < end, "does not end: {:?}", self.seen);
        };
        while self.read_some() {}
        (status, self.seen.replace('\r', ""))
    }

    /// The program itself: setsid and env become it, as neither leads a process group before.
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_typed_passphrase_is_not_echoed_and_the_terminal_is_put_right() {
    let dir = folder();
    format_small(dir.path(), "vol", "hunter2 hunter2");
    let mut it = AtTerminal::start(dir.path(), &["open", "--test-passphrase", "-v", "vol"]);
    it.wait_for("Passphrase for vol: ");
    assert!(
        !it.echoes(),
        "the terminal echoes while a passphrase is typed"
    );
    it.type_line("hunter2 hunter2");
    it.wait_for("Key slot 0 unlocked.");
    assert!(it.echoes(), "the echo is still off");
    let (status, rest) = it.end();
    assert_eq!(status.code(), Some(0));
    assert!(!rest.contains("hunter2"), "{rest}");
}

#[test]
fn a_wrong_passphrase_may_be_typed_again_as_often_as_tries_says() {
    let dir = folder();
    format_small(dir.path(), "vol", "right");
    let mut it = AtTerminal::start(dir.path(), &["open", "--test-passphrase", "vol"]);
    for _ in 0..2 {
        it.wait_for("Passphrase for vol: ");
        it.type_line("wrong");
        it.wait_for("No keyslot opens with this passphrase.");
    }
    it.wait_for("Passphrase for vol: ");
    it.type_line("right");
    assert_eq!(it.end().0.code(), Some(0), "the third try opens");

    let mut it = AtTerminal::start(dir.path(), &["open", "--test-passphrase", "vol", "-T", "1"]);
    it.wait_for("Passphrase for vol: ");
    it.type_line("wrong");
    let (status, text) = it.end();
    assert_eq!(status.code(), Some(2));
    assert!(text.contains("error: cannot unlock vol"), "{text}");
}

#[test]
fn a_new_passphrase_is_asked_for_twice_and_a_question_comes_first() {
    let dir = folder();
    let at = dir.path();
    std::fs::File::create(at.join("disk"))
        .and_then(|f| f.set_len(2 << 20))
        .expect("a file");
    let args = [
        "format",
        "disk",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
        "--luks2-metadata-size",
        "16K",
        "--luks2-keyslots-size",
        "768K",
        "--offset",
        "2048",
    ];
    let before = std::fs::read(at.join("disk")).expect("the file");

    let mut it = AtTerminal::start(at, &args);
    it.wait_for("Type YES in capital letters to go on: ");
    it.type_line("yes");
    let (status, text) = it.end();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("nothing was written to the disk"), "{text}");

    let mut it = AtTerminal::start(at, &args);
    it.wait_for("to go on: ");
    it.type_line("YES");
    it.wait_for("New passphrase for disk: ");
    it.type_line("one");
    it.wait_for("The same again: ");
    it.type_line("two");
    let (status, text) = it.end();
    assert_eq!(status.code(), Some(1), "{text}");
    assert_eq!(
        std::fs::read(at.join("disk")).expect("the file"),
        before,
        "nothing was written"
    );

    let mut it = AtTerminal::start(at, &args);
    it.wait_for("to go on: ");
    it.type_line("YES");
    for question in ["New passphrase for disk: ", "The same again: "] {
        it.wait_for(question);
        it.type_line("one");
    }
    assert_eq!(it.end().0.code(), Some(0));
    luksmith(at, "open --test-passphrase disk", b"one\n").expect(0, "opens");
}

/// A person is told what changed, and decides.
#[test]
fn a_changed_header_opens_only_after_a_yes() {
    let dir = folder();
    let at = dir.path();
    format_small(at, "vol", "one");
    luksmith(at, "header bless vol", b"one\n").expect(0, "header bless");
    let args = ["open", "--test-passphrase", "vol"];
    let open = |answers: &[(&str, &str)]| {
        let mut it = AtTerminal::start(at, &args);
        for (question, answer) in answers {
            it.wait_for(question);
            it.type_line(answer);
        }
        it.end()
    };
    let passphrase = ("Passphrase for vol: ", "one");
    assert_eq!(open(&[passphrase]).0.code(), Some(0));
    luksmith(at, "config vol --label x", b"").expect(0, "config");
    let (status, text) = open(&[passphrase, ("had the disk in hand", "no")]);
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(
        text.contains("vol is not opened: its header is not as"),
        "{text}"
    );
    let question = "changed since it was blessed: label, UUID or size.";
    assert_eq!(open(&[passphrase, (question, "YES")]).0.code(), Some(0));
    // So it is before a blessing, and the passphrase for that keeps the next change blessed.
    let mut it = AtTerminal::start(at, &["header", "bless", "vol"]);
    it.wait_for("Passphrase for vol: ");
    it.type_line("one");
    it.wait_for("is about to be blessed as it is");
    it.type_line("YES");
    let (status, text) = it.end();
    assert_eq!(status.code(), Some(0), "{text}");
    assert_eq!(open(&[passphrase]).0.code(), Some(0));
}

#[test]
fn a_signal_at_the_prompt_puts_the_terminal_right_and_ends_the_program() {
    let dir = folder();
    format_small(dir.path(), "vol", "secret");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut it = AtTerminal::start(dir.path(), &["open", "--test-passphrase", "vol"]);
        it.wait_for("Passphrase for vol: ");
        assert!(!it.echoes());
        kill(it.pid(), signal).expect("the signal is sent");
        let end = Instant::now() + Duration::from_secs(20);
        while !it.echoes() {
            assert!(Instant::now() < end, "{signal}: the echo stays off");
            std::thread::sleep(Duration::from_millis(10));
        }
        let (status, _) = it.end();
        assert!(!status.success(), "{signal}: {status}");
    }
}

#[test]
fn nobody_waits_for_ever_when_a_timeout_is_given() {
    let dir = folder();
    format_small(dir.path(), "vol", "secret");
    let it = AtTerminal::start(dir.path(), &["open", "--test-passphrase", "vol", "-t", "1"]);
    let (status, text) = it.end();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("--timeout"), "{text}");
}

#[test]
fn a_typed_passphrase_has_at_most_512_bytes() {
    let dir = folder();
    format_small(dir.path(), "vol", &"z".repeat(512));
    let mut it = AtTerminal::start(dir.path(), &["open", "--test-passphrase", "vol"]);
    it.wait_for("Passphrase for vol: ");
    it.type_line(&"z".repeat(512));
    assert_eq!(it.end().0.code(), Some(0), "512 bytes are taken");
    let mut it = AtTerminal::start(dir.path(), &["open", "--test-passphrase", "vol"]);
    it.wait_for("Passphrase for vol: ");
    it.type_line(&"z".repeat(600));
    let (status, text) = it.end();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("512 bytes"), "{text}");
}

#[test]
fn a_passphrase_stands_in_no_argument_list_no_environment_and_no_core() {
    let dir = folder();
    let at = dir.path();
    let secret = "correct-horse-battery-staple";
    format_small(at, "vol", secret);
    let mut child = Command::new(binary())
        .args(["serve", "vol", "--socket", "sock"])
        .current_dir(at)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut input = child.stdin.take().expect("a pipe");
    input
        .write_all(format!("{secret}\n").as_bytes())
        .expect("written");
    drop(input);
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .expect("a pipe")
        .read_exact(&mut ready)
        .expect("it gets ready");
    assert_eq!(&ready, b"ready:");
    let read =
        |name: &str| std::fs::read(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
    let command_line = read("cmdline");
    assert!(
        command_line.starts_with(binary().as_os_str().as_encoded_bytes()),
        "a live process"
    );
    assert!(!holds(&command_line));
    assert!(!holds(&read("environ")));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("the signal is sent");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(
        ended.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    assert!(!holds(&ended.stderr) && !holds(&ended.stdout));
}

#[test]
fn closed_standard_streams_and_a_full_disk_below_them_are_errors_not_panics() {
    let dir = folder();
    format_small(dir.path(), "vol", "secret");
    let shell = |line: &str| {
        let line = line.replace("luksmith", &binary().to_string_lossy());
        let out = Command::new("sh")
            .args(["-c", &line])
            .current_dir(dir.path())
            .output();
        let out = out.expect("a shell");
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    let (code, text) = shell("luksmith dump vol >/dev/full");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cannot write to standard output"), "{text}");
    let (code, text) = shell("luksmith open --test-passphrase vol <&-");
    assert_eq!(code, Some(1), "{text}");
    let (code, text) = shell("luksmith dump vol >&-");
    assert!(code == Some(1) || code == Some(0), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let (code, text) = shell("luksmith dump missing 2>&-");
    assert_eq!(code, Some(4), "{text}");
    let (_, text) = shell("luksmith dump vol | true; luksmith dump vol | head -c 1 >/dev/null");
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_full_or_read_only_file_system_is_told_and_leaves_no_half_backup() {
    let dir = folder();
    format_small(dir.path(), "vol", "secret");
    // In a mount namespace of its own: a file system with less room than a header takes.
    let script = r#"
        mkdir small && mount -t tmpfs -o size=300k tmpfs small || exit 99
        luksmith header backup vol --header-backup-file small/bak; echo backup $?
        ls small
        truncate -s 2M small/vol
        echo secret | luksmith format small/vol -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
            --luks2-keyslots-size 768K --offset 2048; echo format $?
        mount -o remount,ro small
        luksmith config small/vol --label x; echo config $?
    "#;
    let out = Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            &script.replace("luksmith", &binary().to_string_lossy()),
        ])
        .current_dir(dir.path())
        .output()
        .expect("unshare starts");
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(text.trim(), "backup 1\nformat 4\nconfig 4", "{errors}");
    assert!(errors.contains("No space left on device"), "{errors}");
    assert!(
        errors.contains("nothing was written to the disk"),
        "{errors}"
    );
    assert!(
        errors.contains("the device was written in part"),
        "{errors}"
    );
    assert!(errors.contains("Read-only file system"), "{errors}");
}
