//! An event in one short line: what is remembered of it, shown to people and compared.
//!
//! The data is written by anybody who can measure, so what comes out is bounded and printable: it
//! may go to a terminal.

use super::efi::{self, Variable};
use super::event::{Event, EventKind, EventType};

/// Longest text of an event, in characters.
pub const MAX_TEXT_CHARS: usize = 160;

/// Vendors whose variables go by their bare names: everybody knows them by these.
const WELL_KNOWN: [&str; 4] = [
    // EFI_GLOBAL_VARIABLE: SecureBoot, PK, KEK, BootOrder, Boot0001.
    "8be4df61-93ca-11d2-aa0d-00e098032b8c",
    // EFI_IMAGE_SECURITY_DATABASE: db, dbx, dbt, dbr.
    "d719b2cb-3d3a-4596-a3bc-dad00e67656f",
    // shim: MokList, SbatLevel.
    "605dab50-e046-4300-abb6-3dd810dd8b23",
    // systemd's loader.
    "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
];

pub(super) fn of(event: &Event) -> String {
    let data = event.data.as_slice();
    let text = match &event.kind {
        EventKind::Userspace(_) => plain(data),
        EventKind::Tcg(kind) => match *kind {
            EventType::EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EFI_VARIABLE_BOOT
            | EventType::EFI_VARIABLE_BOOT2 => variable(data),
            EventType::EFI_VARIABLE_AUTHORITY => authority(data),
            EventType::EFI_BOOT_SERVICES_APPLICATION
            | EventType::EFI_BOOT_SERVICES_DRIVER
            | EventType::EFI_RUNTIME_SERVICES_DRIVER => efi::image(data).unwrap_or_default(),
            EventType::EFI_PLATFORM_FIRMWARE_BLOB2
            | EventType::EFI_HANDOFF_TABLES2
            | EventType::POST_CODE2 => efi::named(data).unwrap_or_default(),
            EventType::EVENT_TAG => efi::tagged(data).map(plain).unwrap_or_default(),
            EventType::S_CRTM_VERSION => version(data),
            EventType::SEPARATOR => separator(data),
            EventType::NO_ACTION
            | EventType::IPL
            | EventType::ACTION
            | EventType::EFI_ACTION
            | EventType::EFI_HCRTM_EVENT
            | EventType::POST_CODE
            | EventType::COMPACT_HASH
            | EventType::OMIT_BOOT_DEVICE_EVENTS
            | EventType::S_CRTM_CONTENTS => plain(data),
            // Addresses, tables and microcode: nothing to read.
            _ => String::new(),
        },
    };
    printable(&text)
}

/// What fits, and nothing that a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    let shown = |letter: char| {
        if matches!(letter, '\n' | '\r' | '\t') {
            ' '
        } else if letter.is_control() || is_invisible(letter) {
            '?'
        } else {
            letter
        }
    };
    text.chars().take(MAX_TEXT_CHARS).map(shown).collect()
}

/// Marks that turn the direction of writing, so that a text looks like another one.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

/// "db", "SecureBoot=on", "BootOrder=0001,0002", "Boot0001 debian \EFI\debian\shimx64.efi".
fn variable(data: &[u8]) -> String {
    let Ok(variable) = Variable::read(data) else {
        return String::new();
    };
    let name = variable.name.as_str();
    if !WELL_KNOWN.contains(&variable.vendor.as_str()) {
        return format!("{name} of {}", variable.vendor);
    }
    match (name, variable.data) {
        ("SecureBoot" | "DeployedMode" | "AuditMode" | "SetupMode", data) => {
            // Firmware without Secure Boot measures the variable as empty.
            let on = matches!(data, [1]);
            format!("{name}={}", if on { "on" } else { "off" })
        }
        ("BootOrder", data) => {
            let (entries, _) = data.as_chunks::<2>();
            let entries: Vec<String> = entries
                .iter()
                .map(|entry| format!("{:04X}", u16::from_le_bytes(*entry)))
                .collect();
            format!("BootOrder={}", entries.join(","))
        }
        (name, data) if is_boot_entry(name) => match efi::load_option(data) {
            Ok((description, path)) => format!("{name} {description} {path}").trim_end().to_owned(),
            Err(_) => name.to_owned(),
        },
        (name, _) => name.to_owned(),
    }
}

/// "Boot0001".
pub(super) fn is_boot_entry(name: &str) -> bool {
    name.strip_prefix("Boot").is_some_and(|number| {
        number.len() == 4 && number.bytes().all(|letter| letter.is_ascii_hexdigit())
    })
}

/// "db: Microsoft Corporation UEFI CA 2011": the variable and the certificate in it that vouched.
fn authority(data: &[u8]) -> String {
    let Ok(variable) = Variable::read(data) else {
        return String::new();
    };
    let name = variable.name;
    if let Some(who) = efi::common_name(variable.data) {
        return format!("{name}: {who}");
    }
    match plain(variable.data) {
        text if name == "SbatLevel" => format!("{name}: {}", text.trim_end()),
        _ => name,
    }
}

/// A version: text in either form, or a GUID.
fn version(data: &[u8]) -> String {
    let text = plain(data);
    let readable = |letter: char| !letter.is_control() && letter != char::REPLACEMENT_CHARACTER;
    if data.len() == 16 && !text.chars().all(readable) {
        return efi::guid(data);
    }
    text
}

/// An error is measured instead of zeros or ones (PFP, 10.4.1).
fn separator(data: &[u8]) -> String {
    match data {
        [0, 0, 0, 0] | [0xFF, 0xFF, 0xFF, 0xFF] => String::new(),
        [1, 0, 0, 0] => "error".to_owned(),
        _ => plain(data),
    }
}

/// Text of unknown width: firmware and systemd's stub write UTF-16, all others one byte.
fn plain(data: &[u8]) -> String {
    let (units, odd) = data.as_chunks::<2>();
    let wide = odd.is_empty()
        && units
            .first()
            .is_some_and(|[low, high]| *low != 0 && *high == 0);
    if wide && data.len() > 2 {
        return efi::utf16(data);
    }
    let end = data.iter().rposition(|byte| *byte != 0);
    let text = String::from_utf8_lossy(&data[..end.map_or(0, |last| last + 1)]);
    // More than fits is not looked at: a blob may have been logged in full.
    text.chars().take(MAX_TEXT_CHARS).collect()
}
