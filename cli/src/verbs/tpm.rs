//! The verbs about the TPM and the slots that it opens.

use super::{BINDING, COUNTER, HEADER, HEADER_DEVICE, JSON, KEY, TOKEN, Verb};
use crate::commands as c;

pub(super) const VERBS: &[Verb] = &[
    Verb {
        name: "tpm enroll",
        also: &[],
        about: "Have the TPM open the volume: with a PIN, or bound to PCRs",
        more: "With --tpm2-with-pin=no, and no PCRs named, it opens with nobody there: bound to PCR 7 \
               (Secure Boot) and to PCR 15 as it is until an initramfs of ours has opened a volume. \
               With --auto it is bound to the policy of this machine, in an NV index of the TPM: \
               after an update that changed PCRs, tpm update rewrites that. \
               Makes a recovery key first, unless there is one, and shows it once. What is sealed \
               is unsealed again before anything is written. The token is systemd's own: \
               systemd-cryptsetup opens it, too.",
        positionals: &[HEADER_DEVICE],
        options: &[
            HEADER,
            KEY,
            TOKEN,
            BINDING,
            &[
                "volume-key-file",
                "allow-null-cipher",
                "unlock-tpm2-device",
                "no-recovery-key",
                "auto",
                "without-secure-boot",
                "progress-json",
                "progress-frequency",
            ],
        ],
        hidden: false,
        run: c::enroll::tpm,
    },
    Verb {
        name: "tpm list",
        also: &[],
        about: "List the slots that a TPM opens, and whether each would open now",
        more: "No PIN is asked for and no try is spent. Tokens that clevis made with its pin tpm2 are \
               listed, too; of its other pins (tang, sss) it is said that nothing here opens them.",
        positionals: &[HEADER_DEVICE],
        options: &[
            HEADER,
            JSON,
            &[
                "tpm2-device",
                "tpm2-backend",
                "tpm2-signature",
                "tpm2-pcrlock",
            ],
        ],
        hidden: false,
        run: c::tpm_list::run,
    },
    Verb {
        name: "tpm why",
        also: &[],
        about: "Say what changed since a slot was bound to PCRs, in words",
        more: "Reads the event log of the firmware and what was kept when the slot was bound.",
        positionals: &[HEADER_DEVICE],
        options: &[
            HEADER,
            JSON,
            &[
                "token-id",
                "tpm2-device",
                "tpm2-backend",
                "event-log",
                "state-directory",
            ],
        ],
        hidden: false,
        run: c::why::run,
    },
    Verb {
        name: "tpm wipe",
        also: &[],
        about: "Remove the slots that a TPM opens, or the one of --token-id",
        more: "",
        positionals: &[HEADER_DEVICE],
        options: &[HEADER, KEY, COUNTER, &["token-id"]],
        hidden: false,
        run: c::wipe::tpm,
    },
    Verb {
        name: "tpm reseal",
        also: &[],
        about: "Bind a TPM slot to the PCRs as they are now, after an update changed them",
        more: "A passphrase or the recovery key opens the volume for it. The old slot goes when \
               the new one is on the disk. A PIN is set anew.",
        positionals: &[HEADER_DEVICE],
        options: &[
            HEADER,
            KEY,
            TOKEN,
            &[
                "volume-key-file",
                "allow-null-cipher",
                "new-pin-file",
                "event-log",
                "state-directory",
                "progress-json",
                "progress-frequency",
            ],
        ],
        hidden: false,
        run: c::tpm::reseal,
    },
    Verb {
        name: "tpm predict",
        also: &[],
        about: "Let the values in that the next boot will measure, after an update of kernel, initramfs or loader",
        more: "Reads the event log of this boot and the files that the next one will read. The values of \
               this boot stay, until tpm update --only-drop drops them after the next. What depends on more \
               than files (a changed GRUB menu, firmware, the keys of Secure Boot) cannot be foreseen; then \
               the command says so and fails, and what could be foreseen is let in all the same. Hooks of \
               the package managers and of the kernel's packages run it by themselves.",
        positionals: &[],
        options: &[
            JSON,
            &[
                "tpm2-device",
                "tpm2-backend",
                "state-directory",
                "event-log",
                "kernel",
                "root",
                "dry-run",
            ],
        ],
        hidden: false,
        run: c::machine_policy::predict,
    },
    Verb {
        name: "tpm migrate",
        also: &[],
        about: "Put a TPM slot of ours, and of systemd's form, in the place of one that clevis made",
        more: "The slot of clevis opens the volume for it; if it does not, a passphrase is asked for. \
               The new one is bound to the same PCRs, with what --tpm2-with-pin and the other \
               options of tpm enroll add or say instead; where clevis was bound to none, to a PIN. \
               Makes a recovery key first, unless there is one. The slot of clevis goes when the \
               new one is on the disk and has opened; until then, both are there.",
        positionals: &[HEADER_DEVICE],
        options: &[
            HEADER,
            KEY,
            BINDING,
            &[
                "token-id",
                "tpm2-device",
                "tpm2-backend",
                "tpm2-signature",
                "tpm2-pcrlock",
                "allow-null-cipher",
                "no-recovery-key",
                "auto",
                "without-secure-boot",
                "progress-json",
                "progress-frequency",
            ],
        ],
        hidden: false,
        run: c::migrate::run,
    },
    Verb {
        name: "tpm update",
        also: &[],
        about: "Rewrite the policy of this machine: the PCRs as they are now",
        more: "No header is touched, and slots that are bound to it (tpm enroll --auto) open by the \
               new values; by the old ones nothing opens any more, not even an old copy of a header.",
        positionals: &[],
        options: &[&[
            "tpm2-device",
            "tpm2-backend",
            "state-directory",
            "event-log",
            "keep",
            "only-drop",
        ]],
        hidden: false,
        run: c::machine_policy::update,
    },
    Verb {
        name: "tpm grace",
        also: &[],
        about: "Let one boot differ from what the policy of this machine foresees: before new firmware",
        more: "The TPM opens one volume by it, once, with any value of the PCRs that are named with --tpm2-pcrs \
               (all of the policy, unless told otherwise), and never again; for others the next boot asks. \
               Whoever steals the machine before that can use it. After that boot tpm update --only-drop, which a service runs, takes its values.",
        positionals: &[],
        options: &[&[
            "tpm2-device",
            "tpm2-backend",
            "state-directory",
            "tpm2-pcrs",
            "withdraw",
        ]],
        hidden: false,
        run: c::machine_policy::grace,
    },
    Verb {
        name: "tpm revoke",
        also: &[],
        about: "End the policy of this machine: no slot bound to it opens any more, for good",
        more: "A slot that is wiped lives on in copies of the header; by this its copies are dead, too. \
               Passphrases, recovery keys and slots with a PIN or PCRs of their own are not touched.",
        positionals: &[],
        options: &[&["tpm2-device", "tpm2-backend", "state-directory"]],
        hidden: false,
        run: c::machine_policy::revoke,
    },
    Verb {
        name: "tpm status",
        also: &[],
        about: "Show the TPM: maker, PCR banks, wrong PINs so far and when it forgets them",
        more: "",
        positionals: &[],
        options: &[JSON, &["tpm2-device", "tpm2-backend"]],
        hidden: false,
        run: c::tpm::status,
    },
    Verb {
        name: "tpm lockout",
        also: &[],
        about: "Show or set how many wrong PINs the TPM takes, and who may reset them",
        more: "--set takes the rules of Windows, unless others are given, and sets a lockout \
               authorization: without one, any system that boots on the machine can reset the count. \
               It is kept in lockout.key of the state directory, for root alone, or given with \
               --auth-file or --ask-auth. One that is set already is never changed.",
        positionals: &[],
        options: &[
            JSON,
            &[
                "set",
                "reset",
                "max-tries",
                "recovery-time",
                "lockout-recovery-time",
                "auth-file",
                "ask-auth",
                "tpm2-device",
                "tpm2-backend",
                "state-directory",
            ],
        ],
        hidden: false,
        run: c::lockout::run,
    },
];
