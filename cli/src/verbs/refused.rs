//! What cryptsetup has and luksmith has not.

/// Verbs of cryptsetup that luksmith does not have, each with the reason.
pub(crate) const REFUSED: &[(&str, &str)] = &[
    ("create", PLAIN),
    ("plainOpen", PLAIN),
    ("plainClose", PLAIN),
    ("loopaesOpen", FOREIGN),
    ("loopaesClose", FOREIGN),
    ("tcryptOpen", FOREIGN),
    ("tcryptClose", FOREIGN),
    ("tcryptDump", FOREIGN),
    ("bitlkOpen", FOREIGN),
    ("bitlkClose", FOREIGN),
    ("bitlkDump", FOREIGN),
    ("fvault2Open", FOREIGN),
    ("fvault2Close", FOREIGN),
    ("fvault2Dump", FOREIGN),
    (
        "reencrypt",
        "luksmith does not re-encrypt data yet; cryptsetup reencrypt can, while the volume is closed",
    ),
    (
        "convert",
        "luksmith does not convert between LUKS1 and LUKS2; cryptsetup convert can, while the volume is closed",
    ),
    (
        "resize",
        "an open volume cannot be resized yet; close it and open it again, and it has the size of the disk",
    ),
    (
        "refresh",
        "an open volume cannot be given new parameters yet; close it and open it again",
    ),
    (
        "luksSuspend",
        "an open volume cannot be frozen yet; close it",
    ),
    (
        "luksResume",
        "an open volume cannot be frozen yet, so there is nothing to resume",
    ),
    (
        "benchmark",
        "luksmith measures the key derivation when it formats; it has no benchmark of its own yet",
    ),
];

const PLAIN: &str = "plain mappings have no header; only LUKS2 volumes are handled";
const FOREIGN: &str = "only LUKS2 volumes are handled";
