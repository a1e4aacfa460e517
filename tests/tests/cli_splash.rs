//! Plymouth, where there is no systemd whose agent it is: it hides the console, so it has to ask. The one of the
//! distribution runs on a terminal, in a mount namespace in which it looks installed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use luksmith_tests::cli::{binary, format_small};
use luksmith_tests::cryptsetup::run;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::unistd::{geteuid, ttyname};

/// As an initramfs has it: no systemd, the splash, and then the volumes.
const BOOT: &str = r#"
set -eu
mount -t overlay none -o lowerdir="$1/usr:/usr" /usr
mount -t tmpfs none /run
plymouthd --no-daemon --no-boot-log --mode=boot --tty="$2" \
	--kernel-command-line='splash plymouth.ignore-udev plymouth.ignore-serial-consoles' &
until plymouth --ping; do sleep 0.1; done
plymouth show-splash
status=0
"$3" attach --crypttab=table || status=$?
plymouth quit
wait
exit "$status"
"#;

/// A terminal, and what was printed on it.
struct Terminal {
    master: File,
    slave: OwnedFd,
    seen: String,
    looked_at: usize,
}

impl Terminal {
    fn new() -> Self {
        let pty = openpty(None, None).expect("a terminal");
        Self {
            master: pty.master.into(),
            slave: pty.slave,
            seen: String::new(),
            looked_at: 0,
        }
    }

    /// Takes what was printed by now.
    fn look(&mut self) {
        let there = |master: &File| {
            let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(50u16)).unwrap_or(0) > 0
        };
        if there(&self.master) {
            let mut bytes = [0; 4096];
            let some = self.master.read(&mut bytes).unwrap_or(0);
            self.seen += &String::from_utf8_lossy(&bytes[..some]);
        }
    }

    /// Waits for this after what was waited for before.
    fn expect(&mut self, text: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.seen[self.looked_at..].find(text) {
                self.looked_at += at + text.len();
                return;
            }
            assert!(Instant::now() < end, "{text:?} is not in {:?}", self.seen);
            self.look();
        }
    }

    fn type_line(&mut self, text: &str) {
        let typed = self.master.write_all(format!("{text}\n").as_bytes());
        typed.expect("it takes what is typed");
    }
}

#[test]
fn a_splash_screen_that_hides_the_console_asks() {
    let project = luksmith_tests::project();
    let tree = run(&mut Command::new(project.join("vm-images/plymouth")), b"");
    let tree = String::from_utf8(tree.expect(0, "vm-images/plymouth").out).expect("a path");
    let folder = tempfile::tempdir().expect("a folder");
    format_small(folder.path(), "volume", "first");
    // Another volume key than this one's: it ends before a driver is needed.
    let line = format!(
        "splash-test {} none luksmith,header-mac=required,fixate-volume-key={}\n",
        folder.path().join("volume").display(),
        "0".repeat(64)
    );
    std::fs::write(folder.path().join("table"), line).expect("a table");
    let (mut screen, mut console) = (Terminal::new(), Terminal::new());
    let on_console = || Stdio::from(console.slave.try_clone().expect("a descriptor"));
    let mut boot = Command::new("setsid");
    boot.args(["--ctty", "--wait", "unshare", "--mount", "--net"]);
    if !geteuid().is_root() {
        boot.args(["--user", "--map-root-user"]);
    }
    boot.args(["bash", "-c", BOOT, "boot", tree.trim()])
        .arg(ttyname(&screen.slave).expect("its name"))
        .arg(binary())
        .current_dir(folder.path())
        .stdin(on_console())
        .stdout(on_console())
        .stderr(on_console());
    let mut boot = boot.spawn().expect("setsid starts");

    let told = "No keyslot opens with this passphrase.";
    screen.expect("Passphrase for splash-test");
    screen.type_line("wrong");
    screen.expect(told);
    screen.expect("Passphrase for splash-test");
    screen.type_line("first");
    // What else whoever sits there has to know: also on the screen.
    let doubt = "has no MAC, and must have one";
    screen.expect(doubt);
    console.expect(told);
    console.expect(doubt);
    console.expect("its volume key is another one");
    let asked = console.seen.contains("Passphrase");
    assert!(!asked, "on the console, too: {:?}", console.seen);
    assert_eq!(boot.wait().expect("it ends").code(), Some(2));
}
