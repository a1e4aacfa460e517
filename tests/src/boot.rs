//! Boots the disk image of `vm-images/root-image` and talks to it over the serial console.
//!
//! The image is built once for each state of the program and of the recipe; an [`Image`] is a copy of it,
//! a [`Machine`] one boot. The disks of an image keep what a boot wrote, as a real machine's do.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The disks, kernel and initramfs of a small Debian with an encrypted root.
#[derive(Debug)]
pub struct Image {
    folder: TempDir,
    /// At most one other machine runs beside those of this image.
    _turn: [File; 2],
}

impl Image {
    /// Builds it, unless it is there.
    ///
    /// # Panics
    /// If the recipe fails.
    #[must_use]
    pub fn build() -> Self {
        let turn = crate::vm::half_a_turn();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let copied = Command::new("cp")
            .args(["--recursive", "--sparse=always", "--no-target-directory"])
            .arg(built())
            .arg(folder.path())
            .status()
            .expect("cp starts");
        assert!(copied.success(), "the image cannot be copied");
        Self {
            folder,
            _turn: turn,
        }
    }

    /// A file of the image.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The passphrase that opens both volumes.
    ///
    /// # Panics
    /// If the image has none.
    #[must_use]
    pub fn passphrase(&self) -> String {
        fs::read_to_string(self.file("passphrase")).expect("the passphrase of the image")
    }

    /// The initramfs with another table of volumes than the image's own.
    #[must_use]
    pub fn initrd_with(&self, crypttab: &str) -> PathBuf {
        self.initrd_over(&[("conf/luksmith/crypttab", crypttab)])
    }

    /// The initramfs with files laid over it: archives that follow one another are unpacked one
    /// over the other. There is one such initramfs of an image at a time.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn initrd_over(&self, files: &[(&str, &str)]) -> PathBuf {
        let over = tempfile::tempdir().expect("a temporary folder");
        for (name, content) in files {
            let file = over.path().join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(file, content).expect("the file is written");
        }
        let packed = Command::new("sh")
            .args(["-c", "find . -mindepth 1 | cpio -o -H newc --quiet"])
            .current_dir(over.path())
            .output()
            .expect("cpio starts");
        assert!(packed.status.success());
        let initrd = self.file("initrd-other");
        fs::copy(self.file("initrd"), &initrd).expect("the initramfs is copied");
        let mut file = File::options()
            .append(true)
            .open(&initrd)
            .expect("it opens");
        let at = file.metadata().expect("its length").len();
        let padding = at.next_multiple_of(512) - at;
        file.write_all(&vec![0; padding as usize]).expect("padding");
        file.write_all(&packed.stdout)
            .expect("the archive is added");
        initrd
    }

    /// What `dumpe2fs -h` says of the file system on a volume.
    ///
    /// # Panics
    /// If the volume does not open.
    #[must_use]
    pub fn file_system(&self, volume: &str) -> String {
        // Read through our own server: the machine that runs the tests may have no driver.
        let script = r#"
            set -eu
            PATH=$PATH:/usr/sbin:/sbin
            cd "$2"
            "$1" serve "$3" --readonly --key-file passphrase --socket "$2/nbd" >ready &
            until [ -s ready ]; do kill -0 $!; sleep 0.1; done
            nbdcopy "nbd+unix:///?socket=$2/nbd" plain
            kill $!
            rm ready
            dumpe2fs -h plain 2>&1
            rm plain"#;
        let done = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(crate::vm::luksmith())
            .arg(self.folder.path())
            .arg(volume)
            .output()
            .expect("sh starts");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
        said
    }

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
        qemu.args(
            "-accel tcg -cpu max -smp 1 -m 768 -nodefaults -display none -no-reboot".split(' '),
        )
        .args("-nic none -serial stdio -device virtio-rng-pci".split(' '))
        .arg("-kernel")
        .arg(self.file("vmlinuz"))
        .arg("-initrd")
        .arg(
            boot.initrd
                .map_or_else(|| self.file("initrd"), Path::to_owned),
        )
        .args(["-append", &append]);
        for (disk, more) in [
            ("root.luks", ""),
            ("data.luks", ""),
            ("job", ",readonly=on"),
        ] {
            let id = disk.split('.').next().unwrap_or(disk);
            let file = self.file(disk);
            qemu.arg("-drive")
                .arg(format!(
                    "file={},format=raw,if=none,id={id},cache=unsafe{more}",
                    file.display()
                ))
                .arg("-device")
                .arg(format!("virtio-blk-pci,drive={id},serial={id}"));
        }
        let swtpm = boot.tpm.map(|state| start_swtpm(state, &mut qemu));
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

/// The folder with the image of this program and this recipe, which is built if it is not there.
fn built() -> PathBuf {
    let images = crate::vm::target().join("boot-images");
    fs::create_dir_all(&images).expect("a folder for the images");
    let lock = File::create(images.join("lock")).expect("the lock file");
    lock.lock().expect("the lock");
    let image = images.join(state());
    if image.exists() {
        return image;
    }
    // Those of other states are of no use any more.
    for old in fs::read_dir(&images).expect("the folder").flatten() {
        let _ = fs::remove_dir_all(old.path());
    }
    let unfinished = images.join("unfinished");
    let done = Command::new(crate::project().join("vm-images/root-image"))
        .arg("--bin")
        .arg(crate::vm::luksmith())
        .arg("--out")
        .arg(&unfinished)
        .output()
        .expect("vm-images/root-image starts");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "vm-images/root-image: {said}");
    fs::rename(&unfinished, &image).expect("the image is finished");
    image
}

/// A digest of all that the image is made of, but for the packages.
fn state() -> String {
    let script = r#"
        { sha256sum <"$1"
          find vm-images/root-image vm-images/root-tree vm-images/manifest vm-images/cache/*/lock boot udev -type f |
              LC_ALL=C sort | xargs sha256sum; } | sha256sum | cut -c1-16"#;
    let done = Command::new("sh")
        .args(["-euc", script, "sh"])
        .arg(crate::vm::luksmith())
        .current_dir(crate::project())
        .output()
        .expect("sh starts");
    assert!(done.status.success(), "no digest of the image");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// How a machine is booted.
#[derive(Debug, Default)]
pub struct Boot<'a> {
    /// Run by the system with bash once it is up.
    pub job: &'a str,
    /// More for the kernel's command line.
    pub append: &'a str,
    /// Another initramfs than the image's.
    pub initrd: Option<&'a Path>,
    /// A folder with the state of a TPM, which the machine has; a new one in an empty folder.
    pub tpm: Option<&'a Path>,
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
fn start_swtpm(state: &Path, qemu: &mut Command) -> Swtpm {
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
    let end = Instant::now() + PATIENCE;
    while !socket.exists() {
        assert!(Instant::now() < end, "swtpm does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    qemu.arg("-chardev")
        .arg(format!("socket,id=tpm,path={}", socket.display()))
        .args(["-tpmdev", "emulator,id=tpm0,chardev=tpm"])
        .args(["-device", "tpm-tis,tpmdev=tpm0"]);
    child
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
        let end = Instant::now() + PATIENCE;
        loop {
            let rest = &self.console[self.looked_at..];
            if let Some(at) = rest.windows(what.len()).position(|w| w == what.as_bytes()) {
                self.looked_at += at + what.len();
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(more) => self.console.extend(more),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("\"{what}\" was not said:\n{}", self.console())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without \"{what}\":\n{}", self.console())
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
