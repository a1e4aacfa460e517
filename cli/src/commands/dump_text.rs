//! The header as text, in the layout of cryptsetup's `luksDump`, because scripts read it.

use std::fmt::Write as _;

use luksmith_keyslot::header_mac;
use luksmith_luks2::{
    Direction, Header, KdfParams, Keyslot, KeyslotKind, Metadata, Priority, ReencryptMode,
    Resilience, SegmentKind, SegmentSize,
};

/// The whole header.
pub(crate) fn header(header: &Header) -> String {
    let mut out = String::new();
    let metadata = header.metadata();
    let or = |text: String, none: &str| {
        if text.is_empty() {
            none.to_string()
        } else {
            text
        }
    };
    line(&mut out, "LUKS header information");
    line(&mut out, "Version:       \t2");
    line(&mut out, &format!("Epoch:         \t{}", header.seqid().0));
    line(
        &mut out,
        &format!("Metadata area: \t{} [bytes]", header.size().bytes()),
    );
    line(
        &mut out,
        &format!(
            "Keyslots area: \t{} [bytes]",
            metadata.config().keyslots_size
        ),
    );
    line(&mut out, &format!("UUID:          \t{}", header.uuid()));
    line(
        &mut out,
        &format!(
            "Label:         \t{}",
            or(header.label().display(), "(no label)")
        ),
    );
    line(
        &mut out,
        &format!(
            "Subsystem:     \t{}",
            or(header.subsystem().display(), "(no subsystem)")
        ),
    );
    let flags = metadata
        .flags()
        .iter()
        .fold(String::new(), |text, f| text + &shown(f) + " ");
    line(
        &mut out,
        &format!("Flags:       \t{}", or(flags, "(no flags)")),
    );
    let requirements = metadata.requirements();
    if !requirements.is_empty() {
        let names = requirements
            .known
            .iter()
            .map(|r| r.name().to_string())
            .chain(requirements.unknown.iter().map(|u| shown(u)))
            .fold(String::new(), |text, name| text + &name + " ");
        line(&mut out, &format!("Requirements:\t{names}"));
    }
    line(&mut out, "");
    segments(&mut out, metadata);
    line(&mut out, "Keyslots:");
    for (number, slot) in metadata.keyslots() {
        keyslot(&mut out, metadata, *number, slot);
    }
    line(&mut out, "Tokens:");
    for (number, token) in metadata.tokens() {
        line(&mut out, &format!("  {number}: {}", shown(&token.kind)));
        if let Some(description) = token.keyring_description() {
            line(
                &mut out,
                &format!("\tKey description: {}", shown(description)),
            );
        }
        if let Ok(Some(mac)) = header_mac::find(metadata)
            && mac.token == *number
        {
            line(&mut out, &format!("\tHeader MAC: epoch {}", mac.epoch));
            if let Some(counter) = &mac.counter {
                line(
                    &mut out,
                    &format!("\tTPM counter: {:#010x}", counter.handle),
                );
            }
        }
        for slot in &token.keyslots {
            line(&mut out, &format!("\tKeyslot:    {slot}"));
        }
    }
    line(&mut out, "Digests:");
    for (number, digest) in metadata.digests() {
        line(&mut out, &format!("  {number}: pbkdf2"));
        line(&mut out, &format!("\tHash:       {}", shown(&digest.hash)));
        line(&mut out, &format!("\tIterations: {}", digest.iterations));
        line(&mut out, &format!("\tSalt:       {}", hex(&digest.salt)));
        line(&mut out, &format!("\tDigest:     {}", hex(&digest.digest)));
    }
    out
}

fn segments(out: &mut String, metadata: &Metadata) {
    line(out, "Data segments:");
    for (number, segment) in metadata.segments() {
        let kind = match &segment.kind {
            SegmentKind::Crypt(_) => "crypt".to_string(),
            SegmentKind::Linear => "linear".to_string(),
            SegmentKind::Opal(_) => "hw-opal".to_string(),
            SegmentKind::OpalCrypt { .. } => "hw-opal-crypt".to_string(),
            SegmentKind::Other(kind) => shown(kind),
        };
        line(out, &format!("  {number}: {kind}"));
        line(out, &format!("\toffset: {} [bytes]", segment.offset));
        match segment.size {
            SegmentSize::Dynamic => line(out, "\tlength: (whole device)"),
            SegmentSize::Fixed(bytes) => line(out, &format!("\tlength: {bytes} [bytes]")),
        }
        if let Some(crypt) = segment.crypt() {
            line(out, &format!("\tcipher: {}", shown(&crypt.encryption)));
            line(out, &format!("\tsector: {} [bytes]", crypt.sector_size));
            if let Some(integrity) = &crypt.integrity {
                line(out, &format!("\tintegrity: {}", shown(&integrity.kind)));
            }
        }
        if !segment.flags.is_empty() {
            let flags: Vec<String> = segment.flags.iter().map(|f| shown(f)).collect();
            line(out, &format!("\tflags : {}", flags.join(", ")));
        }
        line(out, "");
    }
}

fn keyslot(out: &mut String, metadata: &Metadata, number: u8, slot: &Keyslot) {
    // As cryptsetup has it: no segment that holds data now is under the slot's key.
    let bound = metadata
        .digest_of_keyslot(number)
        .is_some_and(|(_, digest)| {
            metadata
                .regular_segments()
                .any(|(segment, _)| digest.segments.contains(&segment))
        });
    let unbound = if bound { "" } else { " (unbound)" };
    let priority = match slot.priority {
        Priority::Ignore => "ignored",
        Priority::Normal => "normal",
        Priority::Prefer => "preferred",
    };
    match &slot.kind {
        KeyslotKind::Luks2(key) => {
            line(out, &format!("  {number}: luks2{unbound}"));
            line(
                out,
                &format!("\tKey:        {} bits", u64::from(key.key_size) * 8),
            );
            line(out, &format!("\tPriority:   {priority}"));
            line(out, &format!("\tCipher:     {}", shown(&key.encryption)));
            line(
                out,
                &format!("\tCipher key: {} bits", u64::from(key.area_key_size) * 8),
            );
            kdf(out, &key.kdf);
            line(out, &format!("\tAF stripes: {}", key.af.stripes));
            line(out, &format!("\tAF hash:    {}", shown(&key.af.hash)));
        }
        KeyslotKind::Reencrypt(reencrypt) => {
            line(out, &format!("  {number}: reencrypt{unbound}"));
            line(out, "\tKey:        8 bits");
            line(out, &format!("\tPriority:   {priority}"));
            let mode = match reencrypt.mode {
                ReencryptMode::Reencrypt => "reencrypt",
                ReencryptMode::Encrypt => "encrypt",
                ReencryptMode::Decrypt => "decrypt",
            };
            line(out, &format!("\tMode:       {mode}"));
            let direction = match reencrypt.direction {
                Direction::Forward => "forward",
                Direction::Backward => "backward",
            };
            line(out, &format!("\tDirection:  {direction}"));
            let (name, checksum, shift) = match &reencrypt.resilience {
                Resilience::None => ("none", None, None),
                Resilience::Checksum(checksum) => ("checksum", Some(checksum), None),
                Resilience::Journal => ("journal", None, None),
                Resilience::Datashift { shift_size } => ("datashift", None, Some(shift_size)),
                Resilience::DatashiftJournal { shift_size } => {
                    ("datashift-journal", None, Some(shift_size))
                }
                Resilience::DatashiftChecksum {
                    checksum,
                    shift_size,
                } => ("datashift-checksum", Some(checksum), Some(shift_size)),
                Resilience::Other(kind) => (kind.as_str(), None, None),
            };
            line(out, &format!("\tResilience: {}", shown(name)));
            if let Some(checksum) = checksum {
                line(out, &format!("\tHash:       {}", shown(&checksum.hash)));
                line(
                    out,
                    &format!("\tHash data:  {} [bytes]", checksum.sector_size),
                );
            }
            if let Some(shift) = shift {
                line(out, &format!("\tShift size: {shift} [bytes]"));
            }
        }
        KeyslotKind::Other { kind, .. } => {
            line(out, &format!("  {number}: {}{unbound}", shown(kind)));
            line(out, &format!("\tPriority:   {priority}"));
        }
    }
    let area = slot.area();
    line(out, &format!("\tArea offset:{} [bytes]", area.offset));
    line(out, &format!("\tArea length:{} [bytes]", area.size));
    if let Some((digest, _)) = metadata.digest_of_keyslot(number) {
        line(out, &format!("\tDigest ID:  {digest}"));
    }
}

fn kdf(out: &mut String, kdf: &KdfParams) {
    match kdf {
        KdfParams::Pbkdf2 {
            hash,
            iterations,
            salt,
        } => {
            line(out, "\tPBKDF:      pbkdf2");
            line(out, &format!("\tHash:       {}", shown(hash)));
            line(out, &format!("\tIterations: {iterations}"));
            line(out, &format!("\tSalt:       {}", hex(salt)));
        }
        KdfParams::Argon2 {
            id,
            time,
            memory_kib,
            cpus,
            salt,
        } => {
            line(
                out,
                &format!("\tPBKDF:      {}", if *id { "argon2id" } else { "argon2i" }),
            );
            line(out, &format!("\tTime cost:  {time}"));
            line(out, &format!("\tMemory:     {memory_kib}"));
            line(out, &format!("\tThreads:    {cpus}"));
            line(out, &format!("\tSalt:       {}", hex(salt)));
        }
        KdfParams::Other(kind) => line(out, &format!("\tPBKDF:      {}", shown(kind))),
    }
}

/// Text from a header for a terminal: control characters are shown, not sent.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        })
        .collect()
}

/// Bytes as hexadecimal, sixteen in a line, further lines under the first.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 && at % 16 == 0 {
            out.push_str("\n\t            ");
        }
        let _ = write!(out, "{byte:02x} ");
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}
