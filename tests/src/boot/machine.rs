//! One boot of a machine, and what can be said to it.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::Image;

/// How a machine is booted.
#[derive(Debug, Default)]
pub struct Boot<'a> {
    /// Run by the system with bash once it is up.
    pub job: &'a str,
    /// More for the kernel's command line.
    pub append: &'a str,
    /// Another initramfs than the image's.
    pub initrd: Option<&'a Path>,
    /// A disk that the firmware starts the machine from ([`Image::boot_disk`]): kernel, initramfs and command
    /// line are what is on it.
    pub from_disk: Option<&'a Path>,
    /// A folder with the state of a TPM, which the machine has; a new one in an empty folder.
    pub tpm: Option<&'a Path>,
    /// What the machine is built on.
    pub board: Board,
}

/// What a machine is built on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// A PC whose firmware measures nothing; its TPM is a `tpm-tis`. Starts at once.
    #[default]
    Pc,
    /// A q35 with OVMF, which measures itself, the kernel, the initramfs and the command line; its
    /// TPM is a `tpm-crb`. Ten seconds more.
    Uefi,
    /// The same with Secure Boot, and the keys of a machine as it is sold.
    SecureBoot,
}

impl Board {
    /// Options of QEMU. The variables of the firmware are kept from boot to boot in `folder`.
    fn firmware(self, folder: &Path) -> Vec<String> {
        if self == Self::Pc {
            return Vec::new();
        }
        let (code, vars) = match self {
            Self::SecureBoot => (".secboot", ".ms"),
            _ => ("", ""),
        };
        // Newer releases have the larger one only.
        let (code, empty) = ["_4M", ""]
            .map(|size| {
                [
                    format!("/usr/share/OVMF/OVMF_CODE{size}{code}.fd"),
                    format!("/usr/share/OVMF/OVMF_VARS{size}{vars}.fd"),
                ]
            })
            .map(|[code, vars]| (code, vars))
            .into_iter()
            .find(|(code, vars)| Path::new(code).exists() && Path::new(vars).exists())
            .expect("OVMF is missing: apt-get install ovmf (or ./x test, which does it)");
        let vars = folder.join("uefi-variables");
        if !vars.exists() {
            fs::copy(empty, &vars).expect("the variables are copied");
        }
        let mut options = vec!["-machine".to_owned()];
        if self == Self::SecureBoot {
            // Only the firmware itself may write its variables.
            options.push("q35,smm=on".to_owned());
            options.push("-global".to_owned());
            options.push("driver=cfi.pflash01,property=secure,value=on".to_owned());
        } else {
            options.push("q35".to_owned());
        }
        options.extend([
            "-drive".to_owned(),
            format!("if=pflash,format=raw,readonly=on,file={code}"),
            "-drive".to_owned(),
            format!("if=pflash,format=raw,file={}", vars.display()),
        ]);
        options
    }

    fn tpm(self) -> &'static str {
        match self {
            Self::Pc => "tpm-tis",
            Self::Uefi | Self::SecureBoot => "tpm-crb",
        }
    }
}

impl Image {
    /// Starts a machine with the disks of this image.
    ///
    /// # Panics
    /// If QEMU does not start.
    #[must_use]
    pub fn boot(&self, boot: &Boot<'_>) -> Machine {
        let job = self.file("job");
        let mut script = boot.job.to_owned();
        // A disk is made of whole sectors.
        script += &"\n".repeat(script.len().next_multiple_of(512) - script.len());
        fs::write(&job, script).expect("the job is written");
        let append = format!(
            "console=ttyS0 quiet loglevel=4 root=/dev/luksmith/root ro mitigations=off \
             random.trust_cpu=on {}",
            boot.append
        );
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(boot.board.firmware(self.folder.path()))
            .args(
                "-accel tcg -cpu max -smp 1 -m 768 -nodefaults -display none -no-reboot".split(' '),
            )
            .args("-nic none -serial stdio -device virtio-rng-pci".split(' '));
        if let Some(disk) = boot.from_disk {
            add_disk(&mut qemu, "boot", disk, "");
        } else {
            let initrd = boot
                .initrd
                .map_or_else(|| self.file("initrd"), Path::to_owned);
            qemu.arg("-kernel").arg(self.file("vmlinuz"));
            qemu.arg("-initrd").arg(initrd).args(["-append", &append]);
        }
        for (disk, more) in [
            ("root.luks", ""),
            ("data.luks", ""),
            ("job", ",readonly=on"),
        ] {
            let id = disk.split('.').next().unwrap_or(disk);
            add_disk(&mut qemu, id, &self.file(disk), more);
        }
        let swtpm = boot
            .tpm
            .map(|state| start_swtpm(state, boot.board, &mut qemu));
        let mut child = qemu
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("qemu-system-x86_64 starts");
        let mut console = child.stdout.take().expect("the console");
        let (tell, said) = channel();
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(n @ 1..) = console.read(&mut some) {
                if tell.send(some[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Machine {
            child,
            _swtpm: swtpm,
            said,
            console: Vec::new(),
            looked_at: 0,
        }
    }
}

fn add_disk(qemu: &mut Command, id: &str, file: &Path, more: &str) {
    qemu.arg("-drive")
        .arg(format!(
            "file={},format=raw,if=none,id={id},cache=unsafe{more}",
            file.display()
        ))
        .arg("-device")
        .arg(format!("virtio-blk-pci,drive={id},serial={id}"));
}

/// A TPM of a machine, switched off when it is dropped.
#[derive(Debug)]
struct Swtpm(Child);

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the TPM; it waits for the machine.
fn start_swtpm(state: &Path, board: Board, qemu: &mut Command) -> Swtpm {
    let socket = state.join("control");
    let _ = fs::remove_file(&socket);
    let child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", socket.display()))
        .stdin(Stdio::null())
        .spawn()
        .expect("swtpm starts");
    let child = Swtpm(child);
    wait_for(&socket);
    qemu.arg("-chardev")
        .arg(format!("socket,id=tpm,path={}", socket.display()))
        .args(["-tpmdev", "emulator,id=tpm0,chardev=tpm"])
        .arg("-device")
        .arg(format!("{},tpmdev=tpm0", board.tpm()));
    child
}

/// Runs `work` with the address of a TPM that no machine has at that time.
///
/// # Panics
/// If swtpm does not start.
pub fn with_tpm(state: &Path, work: impl FnOnce(&str)) {
    let socket = state.join("server");
    let _ = fs::remove_file(&socket);
    let child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", state.display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", socket.display()))
        .stdin(Stdio::null())
        .spawn()
        .expect("swtpm starts");
    let _child = Swtpm(child);
    wait_for(&socket);
    work(&format!("swtpm:path={}", socket.display()));
}

fn wait_for(socket: &Path) {
    let end = Instant::now() + PATIENCE;
    while !socket.exists() {
        assert!(Instant::now() < end, "swtpm does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A machine that runs; switched off when it is dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    _swtpm: Option<Swtpm>,
    said: Receiver<Vec<u8>>,
    console: Vec<u8>,
    looked_at: usize,
}

impl Machine {
    /// Waits until the console says `what`, after what was waited for before.
    ///
    /// # Panics
    /// If the machine ends or five minutes pass before.
    pub fn expect(&mut self, what: &str) {
        self.expect_one(&[what]);
    }

    /// Waits until one of these is said, and returns which.
    ///
    /// # Panics
    /// As [`Machine::expect`].
    pub fn expect_one(&mut self, what: &[&str]) -> usize {
        let end = Instant::now() + PATIENCE;
        loop {
            let rest = &self.console[self.looked_at..];
            let at = |what: &&str| rest.windows(what.len()).position(|w| w == what.as_bytes());
            let found = what.iter().enumerate();
            let found = found.filter_map(|(which, what)| Some((at(what)? + what.len(), which)));
            if let Some((past, which)) = found.min() {
                self.looked_at += past;
                return which;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(more) => self.console.extend(more),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{what:?} was not said:\n{}", self.console())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without {what:?}:\n{}", self.console())
                }
            }
        }
    }

    /// Types at the console.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn type_in(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("the console");
        stdin
            .write_all(text.as_bytes())
            .expect("it takes what is typed");
        stdin.flush().expect("it takes what is typed");
    }

    /// Waits until the machine is off or starts again, and returns all that was said.
    ///
    /// # Panics
    /// If that takes more than five minutes.
    #[must_use]
    pub fn until_off(mut self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            match self
                .said
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(more) => self.console.extend(more),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it is not off:\n{}", self.console()),
            }
        }
        self.console()
    }

    /// Listens for so long, and returns all that was said.
    #[must_use]
    pub fn says_within(mut self, time: Duration) -> String {
        let end = Instant::now() + time;
        while let Ok(more) = self
            .said
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            self.console.extend(more);
        }
        self.console()
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&self.console).replace('\r', "")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PATIENCE: Duration = Duration::from_secs(300);
