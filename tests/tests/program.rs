//! The program as it is installed: all that an initramfs needs of us is this one small file.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use luksmith_tests::cryptsetup::{CHEAP, run};
use luksmith_tests::vm::luksmith;

/// It was 6.0 MB when this was written, and had been 31 with its debugging information.
const LARGEST: usize = 7_000_000;

/// What the header of a program says of one of its parts (elf(5), `Elf64_Phdr`).
struct Part {
    kind: u32,
    offset: usize,
    bytes: usize,
}

const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;
/// `DT_NEEDED`: a library.
const NEEDED: u64 = 1;

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let field = &bytes[at..at + len];
    field
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn parts(program: &[u8]) -> Vec<Part> {
    assert_eq!(&program[..6], b"\x7fELF\x02\x01", "a 64-bit ELF file");
    let word = |at, len| number(program, at, len) as usize;
    let (table, size, count) = (word(32, 8), word(54, 2), word(56, 2));
    (0..count)
        .map(|part| table + part * size)
        .map(|at| Part {
            kind: word(at, 4) as u32,
            offset: word(at + 8, 8),
            bytes: word(at + 32, 8),
        })
        .collect()
}

#[test]
fn it_is_one_small_file_that_needs_no_other() {
    let program = fs::read(luksmith()).expect("the program");
    let parts = parts(&program);
    assert!(
        parts.iter().all(|part| part.kind != INTERPRETER),
        "it needs a loader"
    );
    for part in parts.iter().filter(|part| part.kind == DYNAMIC) {
        let entries = program[part.offset..part.offset + part.bytes].chunks_exact(16);
        let needed = entries.filter(|entry| number(entry, 0, 8) == NEEDED);
        assert_eq!(needed.count(), 0, "it needs libraries");
    }
    assert!(
        program.len() < LARGEST,
        "{} bytes are more than {LARGEST}",
        program.len()
    );
}

/// As in an initramfs: no other file is in reach.
#[test]
fn it_opens_a_volume_where_nothing_else_is_installed() {
    let root = tempfile::tempdir().expect("a folder");
    let inside = |name: &str| root.path().join(name);
    fs::copy(luksmith(), inside("luksmith")).expect("copied");
    let volume = fs::File::create(inside("volume")).expect("a file");
    volume.set_len(20 << 20).expect("its size");
    fs::write(inside("key"), "a key").expect("a file");
    let alone = || {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.arg("--root").arg(root.path()).arg("--wd=/");
        command.arg("/luksmith");
        command
    };
    let version = run(alone().arg("--version"), b"").expect(0, "--version");
    assert_eq!(
        String::from_utf8_lossy(&version.out).trim(),
        concat!("luksmith ", env!("CARGO_PKG_VERSION"))
    );
    let mut format = alone();
    format.args(["format", "--batch-mode", "--key-file", "/key"]);
    run(format.args(CHEAP).arg("/volume"), b"").expect(0, "format");
    let mut server = alone()
        .args([
            "serve",
            "/volume",
            "--key-file",
            "/key",
            "--socket",
            "/socket",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare starts");
    let mut ready = String::new();
    let mut said = BufReader::new(server.stdout.take().expect("its output"));
    said.read_line(&mut ready).expect("it says where");
    let socket = inside("socket");
    let mut info = Command::new("qemu-img");
    info.args(["info", "--output=json", "--image-opts"]);
    info.arg(format!(
        "driver=nbd,server.type=unix,server.path={}",
        socket.display()
    ));
    let info = run(&mut info, b"");
    server.kill().expect("it can be killed");
    server.wait().expect("it ends");
    let info = info.expect(0, &ready);
    let info: serde_json::Value = serde_json::from_slice(&info.out).expect("JSON");
    assert_eq!(info["virtual-size"], (20 << 20) - (16 << 20));
}
