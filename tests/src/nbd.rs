//! An NBD server of ours as a process of its own, and a small client that sends exactly
//! what a test wants sent.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running `nbd-test-server`; killed when dropped.
pub struct NbdServer {
    child: Child,
    out: BufReader<ChildStdout>,
    socket: PathBuf,
    uri: String,
    warnings: Vec<String>,
}

impl NbdServer {
    /// Serves `data`, whose header lies in `header`; `more` are further arguments of the
    /// server. `program` is its path.
    ///
    /// # Errors
    /// What the server wrote to its standard error, when it did not come up.
    pub fn try_start(
        program: &str,
        data: &Path,
        header: &Path,
        secret: &str,
        socket: &Path,
        more: &[&str],
    ) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.arg("--data").arg(data).arg("--header").arg(header);
        command
            .args(["--passphrase", secret])
            .arg("--socket")
            .arg(socket)
            .args(more);
        Self::from_command(command, socket)
    }

    /// As [`NbdServer::try_start`], with a command that ends in the server's arguments
    /// (to run it under another program).
    ///
    /// # Errors
    /// As [`NbdServer::try_start`].
    pub fn from_command(mut command: Command, socket: &Path) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server program was built");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        // From here on its drop ends the child and waits for it, also when a line below panics.
        let mut server = Self {
            child,
            out,
            socket: socket.to_owned(),
            uri: String::new(),
            warnings: Vec::new(),
        };
        loop {
            let mut line = String::new();
            server.out.read_line(&mut line).expect("a pipe can be read");
            if let Some(warning) = line.strip_prefix("warning ") {
                server.warnings.push(warning.trim_end().to_owned());
            } else if let Some(uri) = line.strip_prefix("ready ") {
                server.uri = uri.trim_end().to_owned();
                return Ok(server);
            } else {
                let mut text = String::new();
                let mut err = server.child.stderr.take().expect("piped");
                err.read_to_string(&mut text).expect("text");
                return Err(text);
            }
        }
    }

    /// For `qemu-img`, `nbdcopy` and others.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// What the server said it could not set up.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A raw connection.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).expect("the server listens")
    }

    /// Sends a signal by name (`TERM`, `KILL`, ...).
    ///
    /// # Panics
    /// If there is no such process.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .expect("kill runs");
        assert!(status.success(), "the server is there");
    }

    /// Waits for the end; returns the status, the counters, and its standard error.
    ///
    /// # Panics
    /// If it does not end within half a minute.
    pub fn wait(mut self) -> (ExitStatus, Option<serde_json::Value>, String) {
        let until = Instant::now() + Duration::from_secs(30);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(Instant::now() < until, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut text = String::new();
        self.out.read_to_string(&mut text).expect("text");
        let served = text
            .lines()
            .find_map(|line| line.strip_prefix("served "))
            .map(|json| serde_json::from_str(json).expect("JSON"));
        let mut err = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut err).expect("text");
        }
        (status, served, err)
    }

    /// Ends it as an administrator would and returns its counters.
    ///
    /// # Panics
    /// If it does not end well.
    pub fn stop(self) -> serde_json::Value {
        self.signal("TERM");
        let (status, served, err) = self.wait();
        assert!(status.success(), "{status}: {err}");
        served.expect("it tells what it served")
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        // it may have ended already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A volume in a file of a folder of its own, formatted by cryptsetup, header in front.
pub struct NbdVolume {
    folder: tempfile::TempDir,
}

impl NbdVolume {
    /// Bytes that the header takes.
    pub const HEADER_BYTES: u64 = 16 << 20;
    /// Opens it.
    pub const SECRET: &str = "pass";

    /// A volume of `bytes` bytes with sectors of `sector` bytes.
    ///
    /// # Panics
    /// If cryptsetup does not format.
    #[must_use]
    pub fn format(bytes: u64, sector: u32) -> Self {
        let volume = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        let file = std::fs::File::create(volume.data()).expect("a file");
        file.set_len(Self::HEADER_BYTES + bytes)
            .expect("its length");
        let sector = sector.to_string();
        let data = volume.data();
        let mut arguments = vec!["luksFormat", "--type", "luks2", "--sector-size", &sector];
        arguments.extend(crate::cryptsetup::CHEAP);
        arguments.push(data.to_str().expect("a path of the test's own"));
        crate::cryptsetup::cryptsetup(&arguments, Self::SECRET.as_bytes()).expect(0, "format");
        volume
    }

    /// The file.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("volume")
    }

    /// Where its server listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// For further files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Serves it by `program`, with these further arguments.
    ///
    /// # Errors
    /// As [`NbdServer::try_start`].
    pub fn try_serve(&self, program: &str, more: &[&str]) -> Result<NbdServer, String> {
        let data = self.data();
        NbdServer::try_start(program, &data, &data, Self::SECRET, &self.socket(), more)
    }
}

/// Bytes that differ everywhere, the same for the same seed; `len` is a multiple of 8.
#[must_use]
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect()
}

/// A client that has come through the negotiation.
pub struct NbdClient {
    stream: UnixStream,
    /// Size of the export in bytes.
    pub size: u64,
    /// Flags of the transmission phase.
    pub flags: u16,
    /// Whether reads come as structured replies.
    pub structured: bool,
    next_cookie: u64,
}

/// A reply: the error number (0: none), and the data of a read.
#[derive(Debug, PartialEq, Eq)]
pub struct NbdReply {
    /// As the request had it.
    pub cookie: u64,
    /// 0 or an error number of the wire.
    pub error: u32,
    /// What was read, with its place in the export.
    pub data: Vec<(u64, Vec<u8>)>,
}

/// Request numbers of the wire.
#[expect(missing_docs, reason = "the names of the protocol")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NbdKind {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
}

impl NbdClient {
    /// Negotiates by export name (an old client), or with go and structured replies.
    ///
    /// # Panics
    /// If the server does not keep to the protocol.
    #[must_use]
    pub fn new(mut stream: UnixStream, structured: bool) -> Self {
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout");
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        let mut hello = 3u32.to_be_bytes().to_vec();
        if structured {
            hello.extend(Self::option(8, &[]));
            hello.extend(Self::option(7, &[0; 6]));
        } else {
            hello.extend(Self::option(1, &[]));
        }
        stream.write_all(&hello).expect("sent");
        let (mut size, mut flags) = (0, 0);
        if structured {
            loop {
                let mut head = [0; 20];
                stream.read_exact(&mut head).expect("a reply");
                let kind = u32::from_be_bytes(head[12..16].try_into().expect("4"));
                let len = u32::from_be_bytes(head[16..].try_into().expect("4"));
                let mut data = vec![0; len as usize];
                stream.read_exact(&mut data).expect("its data");
                assert_eq!(kind >> 31, 0, "the server refused");
                if kind == 3 && data[..2] == [0, 0] {
                    size = u64::from_be_bytes(data[2..10].try_into().expect("8"));
                    flags = u16::from_be_bytes(data[10..12].try_into().expect("2"));
                }
                if kind == 1 && head[11] == 7 {
                    break;
                }
            }
        } else {
            let mut answer = [0; 10];
            stream.read_exact(&mut answer).expect("size and flags");
            size = u64::from_be_bytes(answer[..8].try_into().expect("8"));
            flags = u16::from_be_bytes(answer[8..].try_into().expect("2"));
        }
        Self {
            stream,
            size,
            flags,
            structured,
            next_cookie: 1,
        }
    }

    fn option(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(kind.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        bytes
    }

    /// Sends a request and returns its cookie.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn send(
        &mut self,
        kind: NbdKind,
        fua: bool,
        start: u64,
        len: u32,
        payload: &[u8],
    ) -> io::Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
        bytes.extend(u16::from(fua).to_be_bytes());
        bytes.extend((kind as u16).to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(start.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(payload);
        self.stream.write_all(&bytes)?;
        Ok(cookie)
    }

    /// Takes the next whole reply. `read_len` tells how much data a simple reply to this
    /// cookie has when there is no error.
    ///
    /// # Errors
    /// When the server is gone.
    pub fn receive(&mut self, read_len: impl Fn(u64) -> usize) -> io::Result<NbdReply> {
        let mut reply: Option<NbdReply> = None;
        loop {
            let mut head = [0; 16];
            self.stream.read_exact(&mut head)?;
            let cookie = u64::from_be_bytes(head[8..].try_into().expect("8"));
            if head[..4] == 0x6744_6698u32.to_be_bytes() {
                let error = u32::from_be_bytes(head[4..8].try_into().expect("4"));
                let mut data = vec![0; if error == 0 { read_len(cookie) } else { 0 }];
                self.stream.read_exact(&mut data)?;
                let data = if data.is_empty() {
                    Vec::new()
                } else {
                    vec![(0, data)]
                };
                return Ok(NbdReply {
                    cookie,
                    error,
                    data,
                });
            }
            assert_eq!(
                head[..4],
                0x668e_33efu32.to_be_bytes(),
                "neither kind of reply"
            );
            let flags = u16::from_be_bytes(head[4..6].try_into().expect("2"));
            let kind = u16::from_be_bytes(head[6..8].try_into().expect("2"));
            let mut len = [0; 4];
            self.stream.read_exact(&mut len)?;
            let mut body = vec![0; u32::from_be_bytes(len) as usize];
            self.stream.read_exact(&mut body)?;
            let reply = reply.get_or_insert(NbdReply {
                cookie,
                error: 0,
                data: Vec::new(),
            });
            assert_eq!(
                reply.cookie, cookie,
                "this client reads with one request at a time"
            );
            match kind {
                0 => assert!(body.is_empty()),
                1 => {
                    let data = body.split_off(8);
                    reply
                        .data
                        .push((u64::from_be_bytes(body.try_into().expect("8")), data));
                }
                0x8001 | 0x8002 => {
                    reply.error = u32::from_be_bytes(body[..4].try_into().expect("4"));
                }
                other => panic!("chunk of unknown kind {other}"),
            }
            if flags & 1 != 0 {
                let mut whole = NbdReply {
                    cookie,
                    error: reply.error,
                    data: Vec::new(),
                };
                std::mem::swap(&mut whole.data, &mut reply.data);
                return Ok(whole);
            }
        }
    }

    /// Sends a request and takes its reply: data of a read in order, or the error number.
    ///
    /// # Errors
    /// The error number of the wire.
    ///
    /// # Panics
    /// When the server is gone, or answers something else.
    pub fn ask(
        &mut self,
        kind: NbdKind,
        fua: bool,
        start: u64,
        len: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, u32> {
        let cookie = self.send(kind, fua, start, len, payload).expect("sent");
        let is_read = kind == NbdKind::Read;
        let reply = self
            .receive(|_| if is_read { len as usize } else { 0 })
            .expect("the server answers");
        assert_eq!(reply.cookie, cookie);
        if reply.error != 0 {
            return Err(reply.error);
        }
        let mut pieces = reply.data;
        pieces.sort_by_key(|(start, _)| *start);
        let data: Vec<u8> = pieces.into_iter().flat_map(|(_, data)| data).collect();
        assert_eq!(data.len(), if is_read { len as usize } else { 0 });
        Ok(data)
    }

    /// Reads.
    ///
    /// # Errors
    /// As [`NbdClient::ask`].
    pub fn read(&mut self, start: u64, len: u32) -> Result<Vec<u8>, u32> {
        self.ask(NbdKind::Read, false, start, len, &[])
    }

    /// Writes.
    ///
    /// # Errors
    /// As [`NbdClient::ask`].
    pub fn write(&mut self, start: u64, data: &[u8], fua: bool) -> Result<(), u32> {
        self.ask(NbdKind::Write, fua, start, data.len() as u32, data)
            .map(drop)
    }

    /// Flushes.
    ///
    /// # Errors
    /// As [`NbdClient::ask`].
    pub fn flush(&mut self) -> Result<(), u32> {
        self.ask(NbdKind::Flush, false, 0, 0, &[]).map(drop)
    }

    /// The socket, for what this client cannot do.
    pub fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }
}
