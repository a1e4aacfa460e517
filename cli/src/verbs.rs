//! Every verb: its names, what it takes, and the function that does it.
//!
//! [`crate::args`] builds the command line from this table and [`crate::options`]; `main` only
//! looks up the row and calls its function.

mod refused;
mod tpm;

pub(crate) use refused::REFUSED;

use crate::args::Args;
use crate::commands as c;
use crate::hint::Failure;

/// An argument without a name.
#[derive(Debug)]
pub(crate) struct Positional {
    /// How the help text calls it, and the key under which [`Args`] knows it.
    pub name: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// One sentence.
    pub help: &'static str,
}

const fn must(name: &'static str, help: &'static str) -> Positional {
    Positional {
        name,
        required: true,
        help,
    }
}
const fn may(name: &'static str, help: &'static str) -> Positional {
    Positional {
        name,
        required: false,
        help,
    }
}

/// One row.
pub(crate) struct Verb {
    /// The name, one or two words.
    pub name: &'static str,
    /// cryptsetup's names for it.
    pub also: &'static [&'static str],
    /// One sentence.
    pub about: &'static str,
    /// More, for `--help` and the man page.
    pub more: &'static str,
    /// Arguments without a name, in order.
    pub positionals: &'static [Positional],
    /// Long names of the options it takes, besides those that every verb takes.
    pub options: &'static [&'static [&'static str]],
    /// Left out of the help texts.
    pub hidden: bool,
    /// Does it.
    pub run: fn(&Args) -> Result<(), Failure>,
}

impl Verb {
    /// Whether the verb takes this option (long name).
    pub(crate) fn takes(&self, long: &str) -> bool {
        ALWAYS.contains(&long) || self.options.iter().any(|group| group.contains(&long))
    }
}

/// Options of every verb.
pub(crate) const ALWAYS: &[&str] = &["verbose", "debug", "debug-json", "batch-mode", "test-args"];

const JSON: &[&str] = &["json"];
const HEADER: &[&str] = &["header", "disable-locks", "type"];
const KEY: &[&str] = &[
    "key-file",
    "keyfile-offset",
    "keyfile-size",
    "timeout",
    "verify-passphrase",
    "tries",
];
const NEW_KEY: &[&str] = &[
    "new-keyfile",
    "new-keyfile-offset",
    "new-keyfile-size",
    "force-password",
];
const KDF: &[&str] = &[
    "pbkdf",
    "pbkdf-memory",
    "pbkdf-parallel",
    "pbkdf-force-iterations",
    "iter-time",
    "hash",
    "keyslot-cipher",
    "keyslot-key-size",
    "serialize-memory-hard-pbkdf",
    "progress-json",
    "progress-frequency",
];
const TOKEN: &[&str] = &[
    "token-id",
    "token-only",
    "token-type",
    "tpm2-device",
    "tpm2-backend",
    "tpm2-signature",
    "tpm2-pcrlock",
    "pin-file",
];
const BINDING: &[&str] = &[
    "tpm2-pcrs",
    "tpm2-with-pin",
    "tpm2-public-key",
    "tpm2-public-key-pcrs",
    "new-pin-file",
    "allow-untouched-pcrs",
    "event-log",
    "state-directory",
];
const UNLOCK: &[&str] = &["key-slot", "volume-key-file", "allow-null-cipher"];
const PERF: &[&str] = &[
    "perf-same_cpu_crypt",
    "perf-submit_from_crypt_cpus",
    "perf-no_read_workqueue",
    "perf-no_write_workqueue",
    "perf-high_priority",
];
const TRUST: &[&str] = &["header-mac", "accept-changed-header"];
/// Where the counter is that is raised when a slot goes.
const COUNTER: &[&str] = &["tpm2-device", "tpm2-backend"];
const COPY: &[&str] = &["header-backup-file", "progress-json", "progress-frequency"];

const DEVICE: Positional = must("DEVICE", "The block device or file that holds the volume");
const HEADER_DEVICE: Positional = must(
    "DEVICE",
    "The block device or file that holds the header of the volume",
);
const NAME: Positional = must(
    "NAME",
    "The name of the open volume, as in /dev/luksmith/NAME",
);

/// The whole table, in the order of the help text.
const VERBS: &[Verb] = &[
    Verb {
        name: "format",
        also: &["luksFormat"],
        about: "Make a new LUKS2 volume on a device; what lies there is lost",
        more: "Asks before it overwrites anything, and says what it found on the device. \
               The passphrase is asked for twice, or read from --key-file or the second argument.",
        positionals: &[DEVICE, may("KEYFILE", "Take the passphrase from this file")],
        options: &[
            HEADER,
            KEY,
            KDF,
            &[
                "force-password",
                "cipher",
                "key-size",
                "sector-size",
                "offset",
                "align-payload",
                "uuid",
                "label",
                "subsystem",
                "luks2-metadata-size",
                "luks2-keyslots-size",
                "key-slot",
                "volume-key-file",
                "allow-null-cipher",
            ],
        ],
        hidden: false,
        run: c::format::run,
    },
    Verb {
        name: "open",
        also: &["luksOpen"],
        about: "Unlock a volume and serve it as /dev/luksmith/NAME",
        more: "With --test-passphrase nothing is opened and NAME is left out.",
        positionals: &[DEVICE, may("NAME", "The name of the open volume")],
        options: &[
            HEADER,
            KEY,
            TOKEN,
            UNLOCK,
            PERF,
            TRUST,
            &[
                "test-passphrase",
                "readonly",
                "allow-discards",
                "persistent",
                "serialize-memory-hard-pbkdf",
                "queues",
                "queue-depth",
                "buffered",
                "unbound",
                "initramfs",
            ],
        ],
        hidden: false,
        run: c::open::run,
    },
    Verb {
        name: "attach",
        also: &[],
        about: "Open the volumes that /etc/crypttab names with the option luksmith",
        more: "Volumes that are open already are left alone. A passphrase that was typed once is \
               tried on all volumes. Without NAME, lines with noauto are left out, and a line with \
               nofail does not fail the command. Before anybody is asked, the credentials \
               cryptsetup.passphrase and cryptsetup.tpm2-pin of the unit are tried \
               (systemd-creds(1)), which mean what they mean to systemd-cryptsetup(8). This is \
               what opens volumes at boot.",
        positionals: &[may("NAME", "Only the volume of this name")],
        options: &[&["crypttab", "initramfs"]],
        hidden: false,
        run: c::attach::run,
    },
    Verb {
        name: "adopt",
        also: &[],
        about: "Take over a volume that dm-crypt opens at boot, or hand it back",
        more: c::adopt::MORE,
        positionals: &[may("NAME", "The volume, by the first field of its line")],
        options: &[
            KEY,
            &["tpm2-device", "dry-run", "hand-back", "forget", "root"],
        ],
        hidden: false,
        run: c::adopt::run,
    },
    Verb {
        name: "close",
        also: &["luksClose", "remove"],
        about: "Close an open volume and forget its key",
        more: "Refused while the volume is in use; --deferred closes it when the last user is gone.",
        positionals: &[NAME],
        options: &[HEADER, &["deferred", "cancel-deferred"]],
        hidden: false,
        run: c::close::run,
    },
    Verb {
        name: "status",
        also: &[],
        about: "Show one open volume: size, cipher, disk, mounts, server, requests so far",
        more: "Ends with 4 when no volume of that name is open.",
        positionals: &[NAME],
        options: &[HEADER, JSON],
        hidden: false,
        run: c::status::run,
    },
    Verb {
        name: "list",
        also: &[],
        about: "List the open volumes",
        more: "",
        positionals: &[],
        options: &[JSON],
        hidden: false,
        run: c::list::run,
    },
    Verb {
        name: "dump",
        also: &["luksDump"],
        about: "Show what the header says: segments, keyslots, tokens, digests",
        more: "No passphrase is needed, and no secret is shown, except with --dump-volume-key.",
        positionals: &[HEADER_DEVICE],
        options: &[
            HEADER,
            KEY,
            UNLOCK,
            JSON,
            &["dump-json-metadata", "dump-volume-key", "unbound"],
        ],
        hidden: false,
        run: c::dump::run,
    },
    Verb {
        name: "slot list",
        also: &[],
        about: "List the keyslots",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, JSON],
        hidden: false,
        run: c::slot_list::run,
    },
    Verb {
        name: "slot add",
        also: &["luksAddKey"],
        about: "Add a passphrase",
        more: "An existing passphrase, or the volume key, is needed, except with --unbound.",
        positionals: &[
            HEADER_DEVICE,
            may("KEYFILE", "Take the new passphrase from this file"),
        ],
        options: &[
            HEADER,
            KEY,
            NEW_KEY,
            KDF,
            TOKEN,
            UNLOCK,
            &["new-key-slot", "unbound", "key-size", "priority"],
        ],
        hidden: false,
        run: c::slot_add::run,
    },
    Verb {
        name: "slot change",
        also: &["luksChangeKey"],
        about: "Change a passphrase",
        more: "The slot of the old passphrase stays usable until the new one is on the disk.",
        positionals: &[
            HEADER_DEVICE,
            may("KEYFILE", "Take the new passphrase from this file"),
        ],
        options: &[
            HEADER,
            KEY,
            NEW_KEY,
            KDF,
            COUNTER,
            &["key-slot", "allow-null-cipher"],
        ],
        hidden: false,
        run: c::slot_change::run,
    },
    Verb {
        name: "slot remove",
        also: &["luksKillSlot"],
        about: "Remove a keyslot by its number",
        more: "Asks for the passphrase of another slot, so that nobody locks himself out; with \
               --batch-mode and no passphrase at hand it is removed at once. The last slot that \
               opens the data goes only after a YES at the terminal or with --last-slot.",
        positionals: &[HEADER_DEVICE, must("SLOT", "The number of the keyslot")],
        options: &[HEADER, KEY, COUNTER, &["allow-null-cipher", "last-slot"]],
        hidden: false,
        run: c::slot_remove::by_number,
    },
    Verb {
        name: "slot forget",
        also: &["luksRemoveKey"],
        about: "Remove the keyslot that a passphrase opens",
        more: "",
        positionals: &[
            HEADER_DEVICE,
            may("KEYFILE", "Take the passphrase from this file"),
        ],
        options: &[HEADER, KEY, COUNTER, &["allow-null-cipher", "last-slot"]],
        hidden: false,
        run: c::slot_remove::by_passphrase,
    },
    Verb {
        name: "slot convert",
        also: &["luksConvertKey"],
        about: "Give a keyslot new key derivation parameters; the passphrase stays",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[
            HEADER,
            KEY,
            KDF,
            COUNTER,
            &["key-slot", "allow-null-cipher"],
        ],
        hidden: false,
        run: c::slot_change::convert,
    },
    Verb {
        name: "slot priority",
        also: &[],
        about: "Say whether a keyslot is preferred, normal, or only used when named",
        more: "",
        positionals: &[
            HEADER_DEVICE,
            must("SLOT", "The number of the keyslot"),
            must("PRIORITY", "ignore, normal or prefer"),
        ],
        options: &[HEADER],
        hidden: false,
        run: c::config::slot_priority,
    },
    Verb {
        name: "token list",
        also: &[],
        about: "List the tokens",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, JSON],
        hidden: false,
        run: c::token::list,
    },
    Verb {
        name: "token add",
        also: &[],
        about: "Add a token that names a key in the kernel keyring (luks2-keyring)",
        more: "luksmith itself does not unlock by such a token; cryptsetup does.",
        positionals: &[HEADER_DEVICE],
        options: &[
            HEADER,
            &[
                "token-id",
                "key-slot",
                "key-description",
                "token-replace",
                "unbound",
            ],
        ],
        hidden: false,
        run: c::token::add,
    },
    Verb {
        name: "token import",
        also: &[],
        about: "Store a token's JSON in the header",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[
            HEADER,
            &["token-id", "key-slot", "json-file", "token-replace"],
        ],
        hidden: false,
        run: c::token::import,
    },
    Verb {
        name: "token export",
        also: &[],
        about: "Write a token's JSON to a file or to standard output",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, &["token-id", "json-file"]],
        hidden: false,
        run: c::token::export,
    },
    Verb {
        name: "token remove",
        also: &[],
        about: "Remove a token; its keyslot stays",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, &["token-id"]],
        hidden: false,
        run: c::token::remove,
    },
    Verb {
        name: "token unassign",
        also: &[],
        about: "Take a keyslot out of a token",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, &["token-id", "key-slot"]],
        hidden: false,
        run: c::token::unassign,
    },
    Verb {
        name: "enroll",
        also: &[],
        about: "Add a slot for a TPM, a recovery key or a password, or wipe slots; as systemd-cryptenroll",
        more: "Without an option it lists the slots and what they are for. --wipe-slot wipes after \
               the new slot is on the disk, and never the last one that opens the data.",
        positionals: &[HEADER_DEVICE],
        options: &[
            HEADER,
            KEY,
            KDF,
            TOKEN,
            BINDING,
            JSON,
            &[
                "volume-key-file",
                "allow-null-cipher",
                "unlock-tpm2-device",
                "recovery-key",
                "password",
                "wipe-slot",
                "new-keyfile",
                "new-keyfile-offset",
                "new-keyfile-size",
                "force-password",
            ],
        ],
        hidden: false,
        run: c::enroll::run,
    },
    Verb {
        name: "fingerprint",
        also: &[],
        about: "Print crypttab's fixate-volume-key= for a volume: with it, no other volume is taken for it",
        more: "The fingerprint is no secret. NAME is the name in crypttab, which is part of it.",
        positionals: &[DEVICE, must("NAME", "The name of the volume in crypttab")],
        options: &[HEADER, KEY, TOKEN, UNLOCK],
        hidden: false,
        run: c::fingerprint::run,
    },
    Verb {
        name: "config",
        also: &[],
        about: "Set the label, the subsystem, or the priority of a keyslot",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, &["priority", "label", "subsystem", "key-slot"]],
        hidden: false,
        run: c::config::run,
    },
    Verb {
        name: "uuid",
        also: &["luksUUID"],
        about: "Show the UUID of a volume, or set it with --uuid",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, JSON, &["uuid"]],
        hidden: false,
        run: c::uuid::run,
    },
    Verb {
        name: "is-luks",
        also: &["isLuks"],
        about: "End with 0 when the device holds a LUKS2 volume, else with 1",
        more: "Says nothing, except with --verbose or --json.",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, JSON],
        hidden: false,
        run: c::is_luks::run,
    },
    Verb {
        name: "header info",
        also: &[],
        about: "Show the state of both header copies and which one is in force",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, JSON],
        hidden: false,
        run: c::header::info,
    },
    Verb {
        name: "header bless",
        also: &[],
        about: "Put a MAC over the header, by the volume key: who changes it afterwards is noticed",
        more: "Before a volume is opened the MAC is compared. If the header was changed by somebody else, \
               cryptsetup included, no TPM, key file or pipe opens it, but a passphrase that somebody \
               types; this command says what has changed and makes it right. Every change by luksmith keeps \
               it right. With --tpm2-device an older header, put back after a keyslot was removed, is noticed, \
               too: by a counter in the TPM. Other programs ignore the token. Whoever takes it out is \
               noticed where --header-mac, or header-mac= in crypttab, demands it: required (a MAC), counter:0x01… \
               (tied to the counter with this handle) or counter (to any: an old header is not noticed that names \
               an earlier counter, as there is after the token was taken out and the header blessed anew).",
        positionals: &[HEADER_DEVICE],
        options: &[
            HEADER,
            KEY,
            TOKEN,
            UNLOCK,
            &["unlock-tpm2-device", "remove"],
        ],
        hidden: false,
        run: c::bless::run,
    },
    Verb {
        name: "header backup",
        also: &["luksHeaderBackup"],
        about: "Copy the header and the keyslots into a new file",
        more: "Whoever has the copy and a passphrase of today can read the volume for ever, even \
               when the passphrase is changed later.",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, COPY],
        hidden: false,
        run: c::header::backup,
    },
    Verb {
        name: "header restore",
        also: &["luksHeaderRestore"],
        about: "Write a copy of the header back; the keyslots on the disk are lost",
        more: "The copy is checked first; nothing is written when it does not fit.",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, COPY],
        hidden: false,
        run: c::header::restore,
    },
    Verb {
        name: "repair",
        also: &[],
        about: "Write the damaged header copy anew from the good one",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, KEY, &["key-slot"]],
        hidden: false,
        run: c::repair::run,
    },
    Verb {
        name: "erase",
        also: &["luksErase"],
        about: "Destroy all keyslots; without a header backup the data is lost for ever",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER],
        hidden: false,
        run: c::erase::run,
    },
    Verb {
        name: "serve",
        also: &[],
        about: "Unlock a volume and export it over NBD on a Unix socket; needs no root",
        more: "Runs until it is told to stop (SIGTERM or Ctrl-C). Once the socket takes \
               connections, one line says so on standard output.",
        positionals: &[DEVICE],
        options: &[
            HEADER,
            KEY,
            TOKEN,
            UNLOCK,
            TRUST,
            &["socket", "readonly", "allow-discards", "buffered"],
        ],
        hidden: false,
        run: c::serve::run,
    },
    Verb {
        name: "doctor",
        also: &[],
        about: "Say whether this machine can serve volumes, and what to do if not",
        more: "Ends with 1 when something stands in the way. The TPM, and the slots of the volumes of \
               crypttab that one opens, are looked at, too; no PIN is asked for and no try is spent. With \
               --next-boot it foresees what the next boot will measure, as tpm predict does, and says of each \
               slot whether it would open then.",
        positionals: &[],
        options: &[
            JSON,
            &["tpm2-device", "tpm2-backend", "crypttab", "next-boot"],
            &["event-log", "kernel", "root", "tpm2-pcrlock"],
        ],
        hidden: false,
        run: c::doctor::run,
    },
    Verb {
        name: "completion",
        also: &[],
        about: "Print the completion script for a shell",
        more: "",
        positionals: &[must("SHELL", "bash, elvish, fish, powershell or zsh")],
        options: &[],
        hidden: false,
        run: c::completion::run,
    },
    Verb {
        name: "man",
        also: &[],
        about: "Write the man pages into a directory",
        more: "",
        positionals: &[must("DIRECTORY", "An existing directory")],
        options: &[],
        hidden: true,
        run: c::man::run,
    },
    Verb {
        name: "initramfs-check",
        also: &[],
        about: "Say whether an initramfs with these lines of a crypttab would open the volumes",
        more: "The lines are read from standard input.",
        positionals: &[],
        options: &[&["kernel"]],
        hidden: true,
        run: c::initramfs_check::run,
    },
    Verb {
        name: "systemd-generator",
        also: &[],
        about: "Make the units for the lines of /etc/crypttab that are ours",
        more: "",
        positionals: &[
            must("FOLDER", "Where the units go"),
            may("EARLY", "Not used"),
            may("LATE", "Not used"),
        ],
        options: &[&["crypttab"]],
        hidden: true,
        run: c::generator::run,
    },
    Verb {
        name: "udev-name",
        also: &[],
        about: "Print the properties of a block device for udev",
        more: "",
        positionals: &[must(
            "KERNEL-NAME",
            "The kernel's name of the device, as in ublkb0",
        )],
        options: &[],
        hidden: true,
        run: c::udev_name::run,
    },
];

/// Every verb, in the order in which help texts show them.
pub(crate) fn all() -> impl Iterator<Item = &'static Verb> {
    VERBS.iter().chain(tpm::VERBS)
}

/// Finds a verb by its name or by cryptsetup's.
pub(crate) fn find(name: &str) -> Option<&'static Verb> {
    all().find(|v| v.name == name || v.also.contains(&name))
}

/// Whether `word` is the first of a two-word verb, as in `slot add`.
pub(crate) fn is_group(word: &str) -> bool {
    all().any(|v| {
        v.name
            .split_once(' ')
            .is_some_and(|(first, _)| first == word)
    })
}
