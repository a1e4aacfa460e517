//! What the tests of this crate share: a sample of metadata, images made of it, and the cryptsetup program.
#![expect(
    dead_code,
    unreachable_pub,
    reason = "each test file includes this module and uses its own part of it"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use luksmith_luks2::binary::BinaryHeader;
use luksmith_luks2::{
    ChecksumAlgorithm, Geometry, Header, HeaderCopy, HeaderSize, Label, Metadata, ResolveError,
    Resolved, SeqId, resolve,
};
use serde_json::{Value, json};

pub mod faults;
pub mod mutate;

pub const UUID: &str = "5d0c8f1e-6b1a-4f0e-9a53-0d6a4a2f7c11";
/// Bytes of the sample's keyslots area: small, so that whole images are small.
pub const KEYSLOTS: u64 = 1024 * 1024;
pub const DATA: u64 = 2 * 1024 * 1024;

/// 32 bytes in base64.
pub fn salt(byte: u8) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode([byte; 32])
}

pub fn keyslot(offset: u64) -> Value {
    json!({
        "type": "luks2", "key_size": 64,
        "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
        "area": {"type": "raw", "offset": offset.to_string(), "size": "258048", "encryption": "aes-xts-plain64", "key_size": 64},
        "kdf": {"type": "argon2id", "time": 4, "memory": 1024, "cpus": 1, "salt": salt(7)},
    })
}

/// Two keyslots, two tokens, one segment, one digest; everything in order.
pub fn sample() -> Value {
    let mut second = keyslot(32768 + 258048);
    second["kdf"] =
        json!({"type": "pbkdf2", "hash": "sha512", "iterations": 1000, "salt": salt(9)});
    json!({
        "keyslots": {"0": keyslot(32768), "1": second},
        "tokens": {
            "0": {"type": "systemd-recovery", "keyslots": ["1"]},
            "3": {"type": "luks2-keyring", "keyslots": ["0"], "key_description": "disk"},
        },
        "segments": {"0": {
            "type": "crypt", "offset": DATA.to_string(), "size": "dynamic", "iv_tweak": "0",
            "encryption": "aes-xts-plain64", "sector_size": 512,
        }},
        "digests": {"0": {
            "type": "pbkdf2", "keyslots": ["0", "1"], "segments": ["0"], "hash": "sha256", "iterations": 1000,
            "salt": salt(3), "digest": salt(4),
        }},
        "config": {"json_size": "12288", "keyslots_size": KEYSLOTS.to_string()},
    })
}

/// The sample in the middle of a re-encryption, as the reference leaves it after `--init-only`.
pub fn reencrypting() -> Value {
    let mut root = sample();
    root["keyslots"]["2"] = json!({
        "type": "reencrypt", "key_size": 1, "mode": "reencrypt", "direction": "forward", "priority": 0,
        "area": {"type": "checksum", "offset": "548864", "size": "499712", "hash": "sha256", "sector_size": 512},
    });
    let crypt = root["segments"]["0"].clone();
    for (number, flag) in [("1", "backup-previous"), ("2", "backup-final")] {
        root["segments"][number] = crypt.clone();
        root["segments"][number]["flags"] = json!([flag]);
    }
    let digest = |keyslots: Value, segments: Value| {
        json!({
            "type": "pbkdf2", "keyslots": keyslots, "segments": segments, "hash": "sha256", "iterations": 1000,
            "salt": salt(3), "digest": salt(5),
        })
    };
    root["digests"] = json!({
        "0": digest(json!(["0"]), json!(["0", "1"])),
        "1": digest(json!(["1"]), json!(["2"])),
        "2": digest(json!(["2"]), json!([])),
    });
    root["config"]["requirements"] = json!({"mandatory": ["online-reencrypt-v2"]});
    root
}

pub fn geometry() -> Geometry {
    Geometry {
        header_size: HeaderSize::SMALLEST,
    }
}

pub fn metadata() -> Metadata {
    Metadata::from_value(sample(), &geometry()).expect("the sample is in order")
}

pub fn fields(size: HeaderSize, seqid: u64) -> BinaryHeader {
    BinaryHeader {
        size,
        seqid: SeqId(seqid),
        label: Label::new("sample").expect("fits"),
        subsystem: Label::default(),
        uuid: UUID.into(),
        checksum: ChecksumAlgorithm::Sha256,
        salt: [0x5a; 64],
    }
}

/// Both copies with right checksums around whatever text.
pub fn copies(json: &[u8]) -> Vec<u8> {
    copies_of(&fields(HeaderSize::SMALLEST, 4), json)
}

pub fn copies_of(fields: &BinaryHeader, json: &[u8]) -> Vec<u8> {
    let mut image = fields.encode(HeaderCopy::Primary, json).expect("fits");
    let mut second = fields.clone();
    second.salt = [0xa5; 64];
    image.extend(second.encode(HeaderCopy::Secondary, json).expect("fits"));
    image
}

pub fn header() -> Header {
    resolve_image(&copies(&luksmith_luks2::json::write(&sample())), DATA * 2)
        .expect("the sample is in order")
        .header
}

/// Resolves an image whose bytes beyond its end are zero up to `len`.
pub fn resolve_image(image: &[u8], len: u64) -> Result<Resolved, ResolveError> {
    resolve(
        &mut |offset, bytes| Ok(read_sparse(image, offset, bytes)),
        len,
    )
}

pub fn read_sparse(image: &[u8], offset: u64, len: usize) -> Vec<u8> {
    let start = usize::try_from(offset).map_or(image.len(), |offset| offset.min(image.len()));
    let end = start.saturating_add(len).min(image.len());
    let mut out = image[start..end].to_vec();
    out.resize(len, 0);
    out
}

/// Resolves a file.
pub fn resolve_file(path: &Path) -> Result<Resolved, ResolveError> {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::open(path).expect("the image is there");
    let len = file.metadata().expect("has a length").len();
    let mut read = |offset, len| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset).map(|()| bytes)
    };
    resolve(&mut read, len)
}

/// Writes `image` into a sparse file of `len` bytes.
pub fn write_image(path: &Path, image: &[u8], len: u64) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).expect("can create");
    file.write_all(image).expect("can write");
    file.set_len(len).expect("can grow");
}

/// Runs cryptsetup; as root through sudo if we are not.
pub fn cryptsetup(args: &[&str]) -> Output {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    let root = id.stdout == b"0\n";
    let mut command = if root {
        Command::new("cryptsetup")
    } else {
        Command::new("sudo")
    };
    if !root {
        command.args(["-n", "cryptsetup"]);
    }
    command
        .args(args)
        .output()
        .expect("these tests need the cryptsetup program (Debian: cryptsetup-bin)")
}

/// Runs cryptsetup and demands success.
pub fn cryptsetup_ok(args: &[&str]) -> String {
    let output = cryptsetup(args);
    assert!(
        output.status.success(),
        "cryptsetup {} failed: {}{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Cheap key derivation for volumes that cryptsetup makes.
pub const CHEAP: [&str; 5] = [
    "--pbkdf",
    "pbkdf2",
    "--pbkdf-force-iterations",
    "1000",
    "-q",
];

/// A directory with a key file.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub key: PathBuf,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let key = dir.path().join("key");
        std::fs::write(&key, b"correct horse").expect("can write");
        Self { dir, key }
    }

    pub fn key(&self) -> &str {
        self.key.to_str().expect("UTF-8")
    }

    pub fn path(&self, name: &str) -> String {
        self.dir
            .path()
            .join(name)
            .to_str()
            .expect("UTF-8")
            .to_owned()
    }

    /// An empty sparse file.
    pub fn file(&self, name: &str, len: u64) -> String {
        let path = self.path(name);
        write_image(Path::new(&path), &[], len);
        path
    }

    /// `luksFormat` with cheap costs and further options.
    pub fn format(&self, file: &str, options: &[&str]) {
        let mut args = vec!["luksFormat", "--type", "luks2", "--key-file", self.key()];
        args.extend(CHEAP);
        args.extend(options);
        args.push(file);
        cryptsetup_ok(&args);
    }
}
