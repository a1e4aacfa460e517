//! A real TPM for each test: swtpm with a state folder of its own, gone when the test ends.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use luksmith_crypto::SecretBytes;
use tempfile::TempDir;

use luksmith_tpm::AuthValue;
use luksmith_tpm::transport::{Stream, Transport};

/// A running swtpm.
pub(crate) struct Swtpm {
    child: Child,
    folder: TempDir,
    /// Where it listens on TCP instead of its socket.
    port: Option<u16>,
}

const PATIENCE: Duration = Duration::from_secs(30);

impl Swtpm {
    /// A TPM as it leaves the factory, started.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let child = spawn(&folder, None);
        Self {
            child,
            folder,
            port: None,
        }
    }

    /// The same on a TCP port, with its control channel on the next.
    pub(crate) fn on_tcp() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for _ in 0..20 {
            // Free now; should somebody take it before swtpm does, the next one is tried.
            let free = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = free.local_addr().expect("its address").port();
            drop(free);
            if port == u16::MAX || TcpListener::bind(("127.0.0.1", port + 1)).is_err() {
                continue;
            }
            let mut child = spawn(&folder, Some(port));
            let begun = Instant::now();
            while child.try_wait().expect("it can be asked").is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self {
                        child,
                        folder,
                        port: Some(port),
                    };
                }
                assert!(begun.elapsed() < PATIENCE, "swtpm does not listen");
                thread::sleep(Duration::from_millis(2));
            }
        }
        panic!("no port for swtpm");
    }

    /// Where it listens, as a person writes it.
    pub(crate) fn address(&self) -> String {
        match self.port {
            Some(port) => format!("swtpm:host=127.0.0.1,port={port}"),
            None => format!("swtpm:path={}", self.socket().display()),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("tpm")
    }

    /// A connection; swtpm serves one at a time.
    pub(crate) fn connect(&self) -> Stream {
        let begun = Instant::now();
        loop {
            let connected = match self.port {
                Some(port) => Stream::tcp(Ipv4Addr::LOCALHOST.into(), port),
                None => Stream::unix(&self.socket()),
            };
            match connected {
                Ok(stream) => return stream,
                Err(error) if begun.elapsed() > PATIENCE => panic!("swtpm: {error}"),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Power off, in order, and on again. Nobody may be connected.
    pub(crate) fn restart(&mut self) {
        self.off();
        self.on();
    }

    /// Power off. Nobody may be connected.
    pub(crate) fn off(&mut self) {
        // TPM2_Shutdown(CLEAR), without which the TPM counts a wrong try.
        raw(&mut self.connect(), "80010000000c000001450000");
        self.stop();
    }

    /// And on again.
    pub(crate) fn on(&mut self) {
        std::fs::remove_file(self.socket()).ok();
        self.child = spawn(&self.folder, self.port);
        // tpm2-tss does not wait.
        drop(self.connect());
    }

    /// All that the TPM keeps. Nobody may be connected.
    pub(crate) fn save(&mut self) -> Vec<u8> {
        self.off();
        let kept = std::fs::read(self.kept()).expect("the state of swtpm");
        self.on();
        kept
    }

    /// A TPM that forgets what came after it was saved, as no real one does.
    pub(crate) fn load(&mut self, kept: &[u8]) {
        self.off();
        std::fs::write(self.kept(), kept).expect("the state of swtpm");
        self.on();
    }

    fn kept(&self) -> PathBuf {
        self.folder.path().join("tpm2-00.permall")
    }

    /// Handles of objects and sessions that nobody flushed.
    pub(crate) fn left_behind(&self) -> Vec<u32> {
        let mut stream = self.connect();
        let mut found = Vec::new();
        // Transient objects, loaded sessions, saved sessions.
        for first in ["80000000", "02000000", "03000000"] {
            let command = format!("8001000000160000017a00000001{first}000000fe");
            let answer = raw(&mut stream, &command);
            assert_eq!(answer[6..10], [0; 4]);
            found.extend(
                answer[19..]
                    .chunks(4)
                    .map(|handle| u32::from_be_bytes(handle.try_into().expect("four bytes"))),
            );
        }
        found
    }

    fn stop(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &TempDir, port: Option<u16>) -> Child {
    let folder = folder.path().display();
    let server = match port {
        Some(port) => format!("type=tcp,bindaddr=127.0.0.1,port={port}"),
        None => format!("type=unixio,path={folder}/tpm"),
    };
    let mut command = Command::new("swtpm");
    command.arg("socket");
    if let Some(port) = port {
        let control = port + 1;
        command
            .arg("--ctrl")
            .arg(format!("type=tcp,bindaddr=127.0.0.1,port={control}"));
    }
    command
        .args(["--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={folder}"))
        .arg("--server")
        .arg(server)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm is installed")
}

/// Sends a frame given in hexadecimal.
pub(crate) fn raw(transport: &mut dyn Transport, command: &str) -> Vec<u8> {
    let command = hex::decode(command).expect("hexadecimal");
    transport.transact(&command).expect("an answer")
}

pub(crate) fn secret(bytes: &[u8]) -> SecretBytes {
    SecretBytes::take_from(&mut bytes.to_vec()).expect("memory")
}

pub(crate) fn auth(bytes: &[u8]) -> AuthValue {
    AuthValue::new(secret(bytes)).expect("a short value")
}
