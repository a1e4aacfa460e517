//! The cryptsetup program as the other side of interoperability tests, on regular files: no
//! device-mapper, no loop device, no kernel crypto is needed for anything done here.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// How a call ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status: 0 fine, 1 wrong parameters, 2 no permission (bad passphrase), 3 out of memory,
    /// 4 wrong device, 5 device exists or busy.
    pub code: i32,
    /// What it wrote to its standard output.
    pub out: Vec<u8>,
    /// What it wrote to its standard error.
    pub err: String,
}

impl Ended {
    /// Panics with all that is known unless the call ended with this status.
    pub fn expect(self, code: i32, what: &str) -> Self {
        assert_eq!(
            self.code,
            code,
            "{what}: {}{}",
            String::from_utf8_lossy(&self.out),
            self.err
        );
        self
    }
}

/// Costs as low as the format permits: a test is about agreement, not about time.
pub const CHEAP: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];

/// Runs cryptsetup with these arguments in batch mode; `input` goes to its standard input.
///
/// # Panics
/// If the program cannot be started: without it, nothing can be said about interoperability.
pub fn cryptsetup<S: AsRef<OsStr>>(args: &[S], input: &[u8]) -> Ended {
    run(
        Command::new("cryptsetup").arg("--batch-mode").args(args),
        input,
    )
}

/// Runs any command to its end; `input` goes to its standard input.
///
/// # Panics
/// If the program cannot be started.
pub fn run(command: &mut Command, input: &[u8]) -> Ended {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    // A program that ends without reading its input closes the pipe: not a failure of the test.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child
        .wait_with_output()
        .expect("a child that was started ends");
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The metadata as cryptsetup reads them.
///
/// # Panics
/// If cryptsetup refuses the header.
#[must_use]
pub fn dump_json(header: &Path) -> serde_json::Value {
    let dump = cryptsetup(
        &[
            "luksDump".as_ref(),
            "--dump-json-metadata".as_ref(),
            header.as_os_str(),
        ],
        b"",
    )
    .expect(0, "luksDump");
    serde_json::from_slice(&dump.out).expect("cryptsetup prints JSON")
}
