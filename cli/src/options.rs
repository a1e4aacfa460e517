//! Every option that luksmith or cryptsetup has, in one table.
//!
//! Read by [`crate::args`], which builds the command line from it: an option of cryptsetup
//! either works here, or is harmless to leave out, or is refused by its name with the reason
//! that stands in this table. Nothing else decides about options, so that a script written for
//! cryptsetup never runs with an option that was quietly dropped.

/// What follows an option on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Takes {
    /// Nothing: the option is a switch.
    Nothing,
    /// Any text; the word names it in help texts.
    Text(&'static str),
    /// A path, or `-` for standard input or output where the verb allows it.
    Path,
    /// A whole number between the two bounds, decimal.
    Number(&'static str, u64, u64),
    /// A size in bytes; the suffixes K, M, G, T (powers of 1024), KB, MB, GB, TB (powers of
    /// 1000), KiB, MiB, GiB, TiB and S (512-byte sectors) are known.
    Bytes,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// How luksmith stands to an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// It works with the verbs that list it.
    Works,
    /// It changes nothing here, for the reason given, and every verb takes it.
    Harmless(&'static str),
    /// It cannot be honoured; the reason follows the option's name in the error.
    Refused(&'static str),
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Opt {
    /// Long name without dashes; also the key under which [`crate::args::Args`] knows it.
    pub long: &'static str,
    /// Other long names.
    pub also: &'static [&'static str],
    /// Short name, as in cryptsetup.
    pub short: Option<char>,
    /// What follows it.
    pub takes: Takes,
    /// Whether it works.
    pub standing: Standing,
    /// One sentence for help texts and man pages.
    pub help: &'static str,
    /// Whether cryptsetup (up to 2.8) knows it.
    pub cryptsetup: bool,
    /// Why it is refused where cryptsetup takes it and the verb here does not; empty if there is
    /// no such verb.
    pub elsewhere: &'static str,
}

impl Opt {
    const fn new(long: &'static str, takes: Takes, help: &'static str) -> Self {
        Self {
            long,
            also: &[],
            short: None,
            takes,
            standing: Standing::Works,
            help,
            cryptsetup: true,
            elsewhere: "",
        }
    }
    const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }
    const fn also(mut self, also: &'static [&'static str]) -> Self {
        self.also = also;
        self
    }
    const fn elsewhere(mut self, why: &'static str) -> Self {
        self.elsewhere = why;
        self
    }
    const fn ours(mut self) -> Self {
        self.cryptsetup = false;
        self
    }
    const fn harmless(long: &'static str, takes: Takes, why: &'static str) -> Self {
        let mut opt = Self::new(long, takes, why);
        opt.standing = Standing::Harmless(why);
        opt
    }
    const fn refused(long: &'static str, takes: Takes, why: &'static str) -> Self {
        let mut opt = Self::new(long, takes, "");
        opt.standing = Standing::Refused(why);
        opt
    }
}

/// The row with this long name, under any of its names.
pub(crate) fn find(long: &str) -> Option<&'static Opt> {
    OPTIONS
        .iter()
        .find(|o| o.long == long || o.also.contains(&long))
}

/// The row with this short name.
pub(crate) fn find_short(short: char) -> Option<&'static Opt> {
    OPTIONS.iter().find(|o| o.short == Some(short))
}

use Takes::{Bytes, Nothing, Number, OneOf, Path, Text};

/// Highest number of a keyslot or token in LUKS2.
const LAST: u64 = 31;
const INT: u64 = i32::MAX as u64;

const REENCRYPT: &str =
    "luksmith does not re-encrypt data yet; cryptsetup reencrypt can, while the volume is closed";
const FOREIGN: &str = "only LUKS2 volumes are handled";
const PLAIN: &str = "it belongs to plain mappings, and only LUKS2 volumes are handled";
const INTEGRITY: &str = "volumes with authenticated sectors (dm-integrity) are not supported";
const OPAL: &str = "hardware encryption (OPAL) is not supported";
const KEYRING: &str = "luksmith does not read keys from, or put keys into, a kernel keyring";
const PLUGINS: &str = "luksmith loads no token plug-ins from shared libraries";

/// The whole table.
pub(crate) const OPTIONS: &[Opt] = &[
    // ---- everywhere
    Opt::new(
        "verbose",
        Nothing,
        "Say more: which slot opened, and how the command ended",
    )
    .short('v'),
    Opt::new(
        "debug",
        Nothing,
        "Say much more, on standard error; never any secret",
    ),
    Opt::new(
        "debug-json",
        Nothing,
        "As --debug, and print the metadata that was read",
    ),
    Opt::new(
        "batch-mode",
        Nothing,
        "Ask no confirming questions; the answer is yes",
    )
    .short('q'),
    Opt::new(
        "json",
        Nothing,
        "Print the answer as JSON, whose schema is documented in JSON.md",
    )
    .ours(),
    Opt::new("test-args", Nothing, "Check the arguments, do nothing"),
    // ---- passphrases and key files
    Opt::new(
        "key-file",
        Path,
        "Read the existing passphrase from this file, whole and binary; - is standard input",
    )
    .also(&["unlock-key-file"])
    .short('d'),
    Opt::new(
        "keyfile-offset",
        Number("BYTES", 0, u64::MAX),
        "Skip so many bytes of the key file",
    ),
    Opt::new(
        "keyfile-size",
        Number("BYTES", 0, u64::MAX),
        "Read so many bytes of the key file",
    )
    .short('l'),
    Opt::new(
        "new-keyfile",
        Path,
        "Read the new passphrase from this file, whole and binary; - is standard input",
    ),
    Opt::new(
        "new-keyfile-offset",
        Number("BYTES", 0, u64::MAX),
        "Skip so many bytes of the new key file",
    ),
    Opt::new(
        "new-keyfile-size",
        Number("BYTES", 0, u64::MAX),
        "Read so many bytes of the new key file",
    ),
    Opt::new(
        "verify-passphrase",
        Nothing,
        "Ask twice for a typed passphrase",
    )
    .short('y'),
    Opt::new("force-password", Nothing, "Take an empty new passphrase"),
    Opt::new(
        "tries",
        Number("N", 1, INT),
        "How often a typed passphrase may be wrong [default: 3]",
    )
    .short('T'),
    Opt::new(
        "timeout",
        Number("SECONDS", 0, INT),
        "How long to wait for a typed passphrase; 0 waits for ever",
    )
    .short('t'),
    Opt::new(
        "test-passphrase",
        Nothing,
        "Open no device, only check the passphrase",
    ),
    Opt::new(
        "volume-key-file",
        Path,
        "Take the volume key from this file, or write it there",
    )
    .also(&["master-key-file"]),
    Opt::new(
        "dump-volume-key",
        Nothing,
        "Show the volume key, after asking",
    )
    .also(&["dump-master-key"]),
    Opt::new("token-id", Number("N", 0, LAST), "Use this token"),
    Opt::new(
        "token-only",
        Nothing,
        "Do not ask for a passphrase when no token opens the volume",
    ),
    Opt::new("token-type", Text("TYPE"), "Use tokens of this type only"),
    // ---- keyslots
    Opt::new("key-slot", Number("N", 0, LAST), "Use this keyslot").short('S'),
    Opt::new(
        "new-key-slot",
        Number("N", 0, LAST),
        "Put the new key into this keyslot",
    ),
    Opt::new(
        "unbound",
        Nothing,
        "A keyslot with its own key that opens no data, or a token without a keyslot",
    ),
    Opt::new(
        "priority",
        OneOf(&["ignore", "normal", "prefer"]),
        "Priority of the keyslot",
    ),
    Opt::new(
        "last-slot",
        Nothing,
        "Remove the keyslot even if nothing else opens the data",
    )
    .ours(),
    Opt::new(
        "keyslot-cipher",
        Text("CIPHER"),
        "Cipher of the keyslot area",
    ),
    Opt::new(
        "keyslot-key-size",
        Number("BITS", 0, INT),
        "Key size of the keyslot area's cipher",
    ),
    Opt::new(
        "pbkdf",
        OneOf(&["argon2id", "argon2i", "pbkdf2"]),
        "Key derivation of the new keyslot [default: argon2id]",
    ),
    Opt::new(
        "pbkdf-memory",
        Number("KIB", 0, 4 * 1024 * 1024),
        "Most memory the key derivation may take [default: 1048576]",
    ),
    Opt::new(
        "pbkdf-parallel",
        Number("THREADS", 1, 4),
        "Most threads the key derivation may take [default: 4]",
    ),
    Opt::new(
        "pbkdf-force-iterations",
        Number("N", 1, u32::MAX as u64),
        "Exact cost of the key derivation; nothing is measured",
    ),
    Opt::new(
        "iter-time",
        Number("MS", 1, INT),
        "How long the key derivation shall take [default: 2000]",
    )
    .short('i'),
    Opt::new(
        "serialize-memory-hard-pbkdf",
        Nothing,
        "One memory-hard key derivation at a time on this machine",
    ),
    // ---- format
    Opt::new("type", Text("TYPE"), "Type of the volume: luks or luks2").short('M'),
    Opt::new(
        "cipher",
        Text("CIPHER"),
        "Cipher of the data [default: aes-xts-plain64]",
    )
    .short('c'),
    Opt::new(
        "key-size",
        Number("BITS", 0, INT),
        "Size of the volume key: 256 or 512 [default: 512]",
    )
    .short('s'),
    Opt::new(
        "hash",
        OneOf(&["sha256", "sha512", "sha384", "sha224"]),
        "Hash of the key derivation, the splitter and the key digest [default: sha256]",
    )
    .short('h'),
    Opt::new(
        "sector-size",
        Number("BYTES", 0, INT),
        "Encryption sector: 512, 1024, 2048 or 4096 [default: the disk's physical sector]",
    ),
    Opt::new(
        "offset",
        Number("SECTORS", 0, u64::MAX >> 9),
        "Where the data begins, in 512-byte sectors",
    )
    .short('o')
    .elsewhere(PLAIN),
    Opt::new(
        "align-payload",
        Number("SECTORS", 0, u32::MAX as u64),
        "Align the beginning of the data to so many 512-byte sectors",
    ),
    Opt::new("uuid", Text("UUID"), "UUID of the volume"),
    Opt::new(
        "label",
        Text("LABEL"),
        "Label of the volume, at most 47 bytes",
    ),
    Opt::new(
        "subsystem",
        Text("TEXT"),
        "Second label of the volume, at most 47 bytes",
    ),
    Opt::new(
        "luks2-metadata-size",
        Bytes,
        "Size of one header copy: 16K to 4M, a power of two [default: 64K]",
    ),
    Opt::new("luks2-keyslots-size", Bytes, "Size of the keyslots area"),
    Opt::new(
        "allow-null-cipher",
        Nothing,
        "Accept the null cipher, which encrypts nothing",
    )
    .ours(),
    // ---- header
    Opt::new(
        "header",
        Path,
        "The header lies in this file or device, apart from the data",
    ),
    Opt::new(
        "header-backup-file",
        Path,
        "The file that holds, or shall hold, the copy of the header",
    ),
    Opt::new(
        "dump-json-metadata",
        Nothing,
        "Print the metadata as it lies on the disk, as JSON",
    ),
    Opt::new("disable-locks", Nothing, "Take no lock on the metadata"),
    // ---- open and serve
    Opt::new("readonly", Nothing, "Let nothing be written to the volume")
        .short('r')
        .also(&["read-only"]),
    Opt::new(
        "allow-discards",
        Nothing,
        "Pass discards (TRIM) to the disk",
    ),
    Opt::new(
        "initramfs",
        Nothing,
        "The server outlives the change to the real root and all other processes at shutdown; \
         only for an initramfs",
    )
    .ours(),
    Opt::new(
        "header-mac",
        Text("WORD"),
        "Open only a header with the right MAC (required), also tied to this counter of the TPM \
         (counter:0x01…), or to any (counter), which takes an old header of an earlier counter, too; see header bless",
    )
    .ours(),
    Opt::new(
        "accept-changed-header",
        Nothing,
        "Open though the header was changed, or put back, since it was blessed",
    )
    .ours(),
    Opt::new("remove", Nothing, "Take the MAC out of the header").ours(),
    Opt::new("root", Path, "The machine whose files lie below this folder").ours(),
    Opt::new("dry-run", Nothing, "Tell the plan, and change nothing").ours(),
    Opt::new(
        "hand-back",
        Nothing,
        "Have dm-crypt open the volume again",
    )
    .ours(),
    Opt::new(
        "forget",
        Nothing,
        "Remove the second way in, when the machine boots well",
    )
    .ours(),
    Opt::new("crypttab", Path, "Read this table [default: /etc/crypttab]").ours(),
    Opt::new(
        "persistent",
        Nothing,
        "Store the activation flags in the header",
    ),
    Opt::new(
        "perf-same_cpu_crypt",
        Nothing,
        "With --persistent: store the flag for dm-crypt",
    ),
    Opt::new(
        "perf-submit_from_crypt_cpus",
        Nothing,
        "With --persistent: store the flag for dm-crypt",
    ),
    Opt::new(
        "perf-no_read_workqueue",
        Nothing,
        "With --persistent: store the flag for dm-crypt",
    ),
    Opt::new(
        "perf-no_write_workqueue",
        Nothing,
        "With --persistent: store the flag for dm-crypt",
    ),
    Opt::new(
        "perf-high_priority",
        Nothing,
        "With --persistent: store the flag for dm-crypt",
    ),
    Opt::new("socket", Path, "Serve NBD on this Unix socket").ours(),
    Opt::new(
        "queues",
        Number("N", 1, 64),
        "Number of I/O queues [default: one per CPU, at most 4]",
    )
    .ours(),
    Opt::new(
        "queue-depth",
        Number("N", 1, 1024),
        "Requests in flight per queue [default: 64]",
    )
    .ours(),
    Opt::new(
        "buffered",
        Nothing,
        "Use the page cache, for files on a file system without direct I/O",
    )
    .ours(),
    // ---- close
    Opt::new(
        "deferred",
        Nothing,
        "Close the volume as soon as its last user is gone",
    ),
    Opt::new(
        "cancel-deferred",
        Nothing,
        "Take back an earlier --deferred",
    ),
    // ---- tokens
    Opt::new(
        "json-file",
        Path,
        "Read or write the token's JSON here; - is standard input or output",
    ),
    Opt::new(
        "key-description",
        Text("TEXT"),
        "Description of the key in the kernel keyring, for token add",
    )
    .elsewhere(KEYRING),
    Opt::new(
        "token-replace",
        Nothing,
        "Replace the token that has this number",
    ),
    // ---- TPM and recovery key; the names are those of systemd-cryptenroll
    Opt::new(
        "tpm2-device",
        Text("TPM"),
        "Where the TPM is: auto, a device, swtpm:host=H,port=P or swtpm:path=SOCKET, or with tcti: in \
         front whatever tpm2-tss knows [default: auto]",
    )
    .ours(),
    Opt::new(
        "tpm2-backend",
        OneOf(&["native", "esapi"]),
        "Who speaks to the TPM: luksmith itself, or tpm2-tss (needs the feature esapi) [default: native]",
    )
    .ours(),
    Opt::new(
        "unlock-tpm2-device",
        Text("TPM"),
        "Take the volume key by the token of this TPM, and by nothing else",
    )
    .ours(),
    Opt::new(
        "tpm2-pcrs",
        Text("PCRS"),
        "Bind to these PCRs as they are now: numbers or names with + between, as in 7+11 or \
         secure-boot-policy:sha256; 15=0 is one that nothing was measured into",
    )
    .ours(),
    Opt::new(
        "tpm2-with-pin",
        OneOf(&["yes", "no", "true", "false", "1", "0", "argon2id", "direct"]),
        "Ask for a PIN; direct makes one that systemd older than 262 can use, too",
    )
    .ours(),
    Opt::new(
        "tpm2-public-key",
        Path,
        "Bind to PCR values that are signed by this key (PEM), or by that of the boot stub: auto",
    )
    .ours(),
    Opt::new(
        "tpm2-public-key-pcrs",
        Text("PCRS"),
        "The PCRs whose values have to be signed [default: 11]",
    )
    .ours(),
    Opt::new(
        "tpm2-signature",
        Path,
        "Take signatures of PCR values from this file [default: where systemd has them]",
    )
    .ours(),
    Opt::new(
        "tpm2-pcrlock",
        Path,
        "Take the policy of pcrlock from this file, or from where systemd has it: auto; to enroll, bind to it",
    )
    .ours(),
    Opt::new(
        "auto",
        Nothing,
        "Bind to the policy of this machine, which tpm update rewrites without a touch of the header",
    )
    .ours(),
    Opt::new(
        "without-secure-boot",
        Nothing,
        "With --auto: bind though any kernel may boot on this machine, and open the volume",
    )
    .ours(),
    Opt::new(
        "kernel",
        Text("RELEASE"),
        "The kernel that will be started [default: the newest in /boot, or the one that runs]",
    )
    .ours(),
    Opt::new("next-boot", Nothing, "Say also whether the TPM would open the volumes at the next boot").ours(),
    Opt::new("withdraw", Nothing, "Take a grace back that was not used").ours(),
    Opt::new(
        "only-drop",
        Nothing,
        "Only drop values that did not come at this boot; take none that was not foreseen",
    )
    .ours(),
    Opt::new(
        "keep",
        Nothing,
        "Let the values so far count as well, up to 8 of a PCR",
    )
    .ours(),
    Opt::new(
        "pin-file",
        Path,
        "Read the PIN from the first line of this file",
    )
    .ours(),
    Opt::new(
        "new-pin-file",
        Path,
        "Read the new PIN from the first line of this file",
    )
    .ours(),
    Opt::new(
        "allow-untouched-pcrs",
        Nothing,
        "Bind to PCRs into which nothing was ever measured, which protects nothing",
    )
    .ours(),
    Opt::new(
        "event-log",
        Path,
        "Read the firmware's log here [default: that of the kernel, for tpm0]",
    )
    .ours(),
    Opt::new(
        "state-directory",
        Path,
        "Where this machine keeps what was measured [default: /var/lib/luksmith]",
    )
    .ours(),
    Opt::new(
        "set",
        Nothing,
        "Set the rules, and a lockout authorization if there is none",
    )
    .ours(),
    Opt::new("reset", Nothing, "Have the TPM forget all wrong PINs").ours(),
    Opt::new(
        "max-tries",
        Number("TRIES", 1, 1000),
        "So many wrong PINs lock the TPM [default: 32]",
    )
    .ours(),
    Opt::new(
        "recovery-time",
        Number("SECONDS", 1, INT),
        "One wrong PIN is forgotten after so long [default: 600]",
    )
    .ours(),
    Opt::new(
        "lockout-recovery-time",
        Number("SECONDS", 0, INT),
        "A wrong lockout authorization closes its use for so long; 0: until the next start [default: 86400]",
    )
    .ours(),
    Opt::new(
        "auth-file",
        Path,
        "Take the lockout authorization from the first line of this file, and keep it nowhere else",
    )
    .ours(),
    Opt::new(
        "ask-auth",
        Nothing,
        "Ask for the lockout authorization, and keep it nowhere",
    )
    .ours(),
    Opt::new("recovery-key", Nothing, "Make a recovery key").ours(),
    Opt::new(
        "no-recovery-key",
        Nothing,
        "Make no recovery key; without one, a broken TPM or a forgotten PIN may cost the data",
    )
    .ours(),
    Opt::new("password", Nothing, "Add a passphrase").ours(),
    Opt::new(
        "wipe-slot",
        Text("SLOTS"),
        "Remove these slots: numbers, or all, empty, password, recovery, tpm2, fido2, pkcs11, \
         with commas between",
    )
    .ours(),
    // ---- progress
    Opt::new("progress-json", Nothing, "Print progress as JSON lines"),
    Opt::new(
        "progress-frequency",
        Number("SECONDS", 0, INT),
        "How often progress is printed",
    ),
    // ---- harmless: they change nothing here
    Opt::harmless(
        "disable-keyring",
        Nothing,
        "the volume key is never put into a kernel keyring here",
    ),
    Opt::harmless(
        "disable-external-tokens",
        Nothing,
        "no token plug-ins are loaded here",
    ),
    Opt::harmless(
        "use-random",
        Nothing,
        "keys always come from the kernel's generator, once it is seeded",
    ),
    Opt::harmless(
        "use-urandom",
        Nothing,
        "keys always come from the kernel's generator, once it is seeded",
    ),
    Opt::harmless(
        "disable-veracrypt",
        Nothing,
        "VeraCrypt volumes are never looked for",
    ),
    // ---- refused
    Opt::refused(
        "disable-blkid",
        Nothing,
        "what lies on a disk is always looked at before it is overwritten; --batch-mode overwrites it without a question",
    ),
    Opt::refused(
        "new-token-id",
        Number("N", 0, LAST),
        "a new passphrase cannot be taken from a token",
    ),
    Opt::refused("new-key-size", Number("BITS", 0, INT), REENCRYPT),
    Opt::refused("new-key-description", Text("TEXT"), KEYRING),
    Opt::refused("volume-key-keyring", Text("KEY"), KEYRING),
    Opt::refused("new-volume-key-keyring", Text("KEY"), KEYRING),
    Opt::refused("new-volume-key-file", Path, REENCRYPT),
    Opt::refused("link-vk-to-keyring", Text("KEY"), KEYRING),
    Opt::refused("external-tokens-path", Path, PLUGINS),
    Opt::refused("keep-key", Nothing, REENCRYPT),
    Opt::refused("active-name", Text("NAME"), REENCRYPT),
    Opt::refused("encrypt", Nothing, REENCRYPT)
        .also(&["new"])
        .short('N'),
    Opt::refused("decrypt", Nothing, REENCRYPT),
    Opt::refused("init-only", Nothing, REENCRYPT),
    Opt::refused("resume-only", Nothing, REENCRYPT),
    Opt::refused("resilience", Text("KIND"), REENCRYPT),
    Opt::refused("resilience-hash", Text("HASH"), REENCRYPT),
    Opt::refused("hotzone-size", Bytes, REENCRYPT),
    Opt::refused("reduce-device-size", Bytes, REENCRYPT),
    Opt::refused("force-offline-reencrypt", Nothing, REENCRYPT),
    Opt::refused("force-no-keyslots", Nothing, REENCRYPT),
    Opt::refused("block-size", Number("MIB", 0, INT), REENCRYPT).short('B'),
    Opt::refused("use-directio", Nothing, REENCRYPT),
    Opt::refused("use-fsync", Nothing, REENCRYPT),
    Opt::refused("write-log", Nothing, REENCRYPT),
    Opt::refused(
        "device-size",
        Bytes,
        "the size of the volume is what the header and the disk say",
    ),
    Opt::refused(
        "size",
        Number("SECTORS", 0, u64::MAX >> 9),
        "the size of the volume is what the header and the disk say",
    )
    .short('b'),
    Opt::refused("skip", Number("SECTORS", 0, u64::MAX >> 9), PLAIN).short('p'),
    Opt::refused("shared", Nothing, PLAIN),
    Opt::refused("iv-large-sectors", Nothing, PLAIN),
    Opt::refused(
        "refresh",
        Nothing,
        "a volume that is open cannot be given new parameters yet; close it and open it again",
    ),
    Opt::refused("integrity", Text("KIND"), INTEGRITY).short('I'),
    Opt::refused("integrity-no-journal", Nothing, INTEGRITY),
    Opt::refused("integrity-no-wipe", Nothing, INTEGRITY),
    Opt::refused("integrity-legacy-padding", Nothing, INTEGRITY),
    Opt::refused("integrity-key-size", Number("BITS", 0, INT), INTEGRITY),
    Opt::refused("integrity-inline", Nothing, INTEGRITY),
    Opt::refused("hw-opal", Nothing, OPAL),
    Opt::refused("hw-opal-only", Nothing, OPAL),
    Opt::refused("hw-opal-factory-reset", Nothing, OPAL),
    Opt::refused("disable-sum", Nothing, OPAL),
    Opt::refused("veracrypt", Nothing, FOREIGN),
    Opt::refused("veracrypt-pim", Number("N", 0, INT), FOREIGN),
    Opt::refused("veracrypt-query-pim", Nothing, FOREIGN),
    Opt::refused("tcrypt-hidden", Nothing, FOREIGN),
    Opt::refused("tcrypt-system", Nothing, FOREIGN),
    Opt::refused("tcrypt-backup", Nothing, FOREIGN),
];
