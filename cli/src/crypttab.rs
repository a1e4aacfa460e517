//! `/etc/crypttab`, as far as it speaks of us: the lines with the option `luksmith`.
//!
//! Fields, options and their meaning are those of crypttab(5) of systemd and of Debian. An option
//! that would change what is read from the disk is refused; one that only tunes dm-crypt is
//! accepted; an unknown one is told and changes nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use luksmith_tpm::IDENTITY_PCR;

use crate::session::Demand;

/// A volume of the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// First field.
    pub name: String,
    /// Second field, as a path.
    pub source: PathBuf,
    /// Third field; none where a passphrase is to be asked for.
    pub key_file: Option<PathBuf>,
    /// `keyfile-offset=`, bytes.
    pub key_offset: u64,
    /// `keyfile-size=`, bytes.
    pub key_size: Option<u64>,
    /// `key-slot=`.
    pub key_slot: Option<u8>,
    /// `header=`.
    pub header: Option<PathBuf>,
    /// `tries=`; 0 asks without end.
    pub tries: u32,
    /// `timeout=`: how long a question waits; none waits without end.
    pub timeout: Option<Duration>,
    /// `x-systemd.device-timeout=`: how long the disk may take to appear.
    pub device_timeout: Duration,
    /// `tpm2-device=`: where the TPM is whose tokens open the volume.
    pub tpm_device: Option<String>,
    /// `tpm2-signature=`.
    pub tpm_signature: Option<PathBuf>,
    /// `tpm2-pcrlock=`.
    pub tpm_pcrlock: Option<PathBuf>,
    /// `fixate-volume-key=`: the volume key has this fingerprint, or the volume is another one.
    pub fingerprint: Option<String>,
    /// `header-mac=`: what the header must have.
    pub header_mac: Demand,
    /// `tpm2-measure-pcr=`: the PCR that the volume key is measured into; outer none: not said.
    pub measure: Option<Option<u8>>,
    /// `token-timeout=`: how long that TPM may take to appear.
    pub token_timeout: Duration,
    /// `headless`: never ask.
    pub headless: bool,
    /// `nofail`: the boot goes on without it.
    pub nofail: bool,
    /// `_netdev`: its disk comes over the network.
    pub netdev: bool,
    /// `x-initrd.attach` or `initramfs`: opened before the root is mounted.
    pub initrd: bool,
    /// `noauto`: only when it is named.
    pub noauto: bool,
    /// `read-only`.
    pub read_only: bool,
    /// `discard`.
    pub discard: bool,
    /// Options that nobody knows.
    pub unknown: Vec<String>,
}

/// Where the table of the system is.
pub(crate) const TABLE: &str = "/etc/crypttab";

/// Where the table of our initramfs is.
pub(crate) const INITRAMFS_TABLE: &str = "/conf/luksmith/crypttab";

/// The names of all volumes of a table, also of those that are not ours.
pub(crate) fn names(table: &str) -> impl Iterator<Item = String> {
    table.lines().filter_map(|line| {
        let name = line.split_ascii_whitespace().next()?;
        (!name.starts_with('#')).then(|| unescape(name))
    })
}

/// What stands in a table: for each line of ours the volume, or its name and why the line cannot be
/// honoured.
pub(crate) fn parse(table: &str) -> Vec<Result<Entry, (String, String)>> {
    table.lines().filter_map(line).collect()
}

/// How long a disk may take to appear, where the line does not say.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a TPM that the line names may take to appear.
pub(crate) const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Options that change nothing here: they tune dm-crypt, repeat what is always so, or are for
/// those who order the boot.
const HARMLESS: &[&str] = &[
    "luks",
    "loud",
    "quiet",
    "same-cpu-crypt",
    "submit-from-crypt-cpus",
    "no-read-workqueue",
    "no-write-workqueue",
    "password-echo",
    "check",
    "checkargs",
    "verify",
    "noearly",
    "auto",
    "fail",
];

/// Options that ask for something else than opening a LUKS2 volume that is there.
const REFUSED: &[&str] = &[
    "plain",
    "swap",
    "tmp",
    "tcrypt",
    "tcrypt-hidden",
    "tcrypt-system",
    "tcrypt-veracrypt",
    "veracrypt",
    "bitlk",
    "cipher",
    "size",
    "hash",
    "offset",
    "skip",
    "sector-size",
    "precheck",
    "keyscript",
    "keyfile-erase",
    "integrity",
];

fn line(text: &str) -> Option<Result<Entry, (String, String)>> {
    let text = text.trim();
    if text.starts_with('#') {
        return None;
    }
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let &[name, source, key, options, ..] = fields.as_slice() else {
        return None;
    };
    let options: Vec<&str> = options.split(',').collect();
    if !options.contains(&"luksmith") {
        return None;
    }
    let name = unescape(name);
    Some(entry(&name, source, key, &options).map_err(|why| (name, why)))
}

fn entry(name: &str, source: &str, key: &str, options: &[&str]) -> Result<Entry, String> {
    let mut entry = Entry {
        name: name.to_string(),
        source: device(&unescape(source)),
        key_file: match key {
            "none" | "-" => None,
            path => Some(PathBuf::from(unescape(path))),
        },
        key_offset: 0,
        key_size: None,
        key_slot: None,
        header: None,
        tries: 3,
        timeout: None,
        device_timeout: DEVICE_TIMEOUT,
        tpm_device: None,
        tpm_signature: None,
        tpm_pcrlock: None,
        fingerprint: None,
        header_mac: Demand::Nothing,
        measure: None,
        token_timeout: TOKEN_TIMEOUT,
        headless: false,
        nofail: false,
        netdev: false,
        initrd: false,
        noauto: false,
        read_only: false,
        discard: false,
        unknown: Vec::new(),
    };
    if entry.key_file.as_ref().is_some_and(|f| !f.is_absolute()) {
        return Err(format!("the key file {key} is no absolute path"));
    }
    for option in options {
        let (word, value) = match option.split_once('=') {
            Some((word, value)) => (word, unescape(value)),
            None => (*option, String::new()),
        };
        let wrong = || format!("the option {option} cannot be understood");
        match word {
            "" | "luksmith" => {}
            "tries" => entry.tries = value.parse().map_err(|_| wrong())?,
            "timeout" => entry.timeout = span(&value).ok_or_else(wrong)?,
            "x-systemd.device-timeout" => {
                // 0 is "without end" there; a disk that never comes must not keep a boot for ever.
                entry.device_timeout = span(&value).ok_or_else(wrong)?.unwrap_or(DEVICE_TIMEOUT);
            }
            "tpm2-device" => entry.tpm_device = Some(value),
            "tpm2-signature" => entry.tpm_signature = Some(value.into()),
            "tpm2-pcrlock" => entry.tpm_pcrlock = Some(value.into()),
            "fixate-volume-key" => {
                let hex = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
                entry.fingerprint =
                    Some(hex.then(|| value.to_ascii_lowercase()).ok_or_else(wrong)?);
            }
            "header-mac" => {
                entry.header_mac = Demand::read(&value).ok_or_else(wrong)?;
            }
            "tpm2-measure-pcr" => {
                entry.measure = Some(match (flag(&value), value.parse()) {
                    // A number is a PCR, also 0 and 1.
                    (_, Ok(pcr)) if pcr < 24 => Some(pcr),
                    (Some(true), _) => Some(IDENTITY_PCR),
                    (Some(false), _) => None,
                    _ => return Err(wrong()),
                });
            }
            "token-timeout" => {
                entry.token_timeout = span(&value).ok_or_else(wrong)?.unwrap_or(TOKEN_TIMEOUT);
            }
            "keyfile-offset" => entry.key_offset = value.parse().map_err(|_| wrong())?,
            "keyfile-size" => {
                entry.key_size = Some(value.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?);
            }
            "key-slot" | "keyslot" => {
                entry.key_slot = Some(value.parse().ok().filter(|n| *n < 32).ok_or_else(wrong)?);
            }
            "header" => entry.header = Some(device(&value)),
            "headless" => entry.headless = flag(&value).ok_or_else(wrong)?,
            "_netdev" => entry.netdev = true,
            "x-initrd.attach" | "initramfs" => entry.initrd = true,
            "nofail" => entry.nofail = true,
            "noauto" => entry.noauto = true,
            "read-only" | "readonly" => entry.read_only = true,
            "discard" => entry.discard = true,
            word if REFUSED.contains(&word) => {
                return Err(format!(
                    "the option {word} means nothing for a LUKS2 volume, or is not supported"
                ));
            }
            word if HARMLESS.contains(&word) || word.starts_with("x-") => {}
            _ => entry.unknown.push((*option).to_string()),
        }
    }
    Ok(entry)
}

/// A path, or what leads to one: `UUID=`, `LABEL=` and their kin, each a folder of udev's.
fn device(field: &str) -> PathBuf {
    const TAGS: [(&str, &str); 5] = [
        ("UUID=", "by-uuid"),
        ("LABEL=", "by-label"),
        ("PARTUUID=", "by-partuuid"),
        ("PARTLABEL=", "by-partlabel"),
        ("ID=", "by-id"),
    ];
    for (tag, folder) in TAGS {
        if let Some(value) = field.strip_prefix(tag) {
            let value = value.trim_matches('"');
            let value = match tag {
                "UUID=" | "PARTUUID=" => value.to_ascii_lowercase(),
                _ => value.replace('/', "\\x2f").replace(' ', "\\x20"),
            };
            return Path::new("/dev/disk").join(folder).join(value);
        }
    }
    PathBuf::from(field)
}

/// `\040` and the like, by which a field holds a blank or a comma.
fn unescape(field: &str) -> String {
    let mut out = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|d| u8::from_str_radix(d, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                out.push(char::from(code));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out + rest
}

/// A span of time such as `30`, `90s`, `2min`, `1min 30s`: outer none if it is none, inner none
/// for 0, which means "without end".
fn span(text: &str) -> Option<Option<Duration>> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(digits)?;
        let number: u32 = number.parse().ok()?;
        let after = after.trim_start();
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters)?;
        let one = match unit {
            "us" => Duration::from_micros(1),
            "ms" => Duration::from_millis(1),
            "" | "s" | "sec" | "second" | "seconds" => Duration::from_secs(1),
            "m" | "min" | "minute" | "minutes" => Duration::from_secs(60),
            "h" | "hr" | "hour" | "hours" => Duration::from_secs(3600),
            "d" | "day" | "days" => Duration::from_secs(86400),
            _ => return None,
        };
        total = total.checked_add(one.checked_mul(number)?)?;
        rest = after.trim_start();
    }
    Some((!total.is_zero()).then_some(total))
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "" | "1" | "yes" | "true" | "on" => Some(true),
        "0" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Entry {
        let mut all = parse(line);
        assert_eq!(all.len(), 1, "{line}");
        all.remove(0).unwrap()
    }

    fn refused(line: &str) -> String {
        parse(line).remove(0).unwrap_err().1
    }

    #[test]
    fn lines_without_our_option_belong_to_somebody_else() {
        let table = "# comment luksmith\n\nroot UUID=1 none luks,discard\nshort /dev/x\nx /dev/x none\n\
                     #off /dev/x none luksmith\n";
        assert_eq!(parse(table), Vec::new());
    }

    #[test]
    fn a_line_means_what_it_means_to_others() {
        let entry = one("root UUID=AB-c /etc/k\\040ey luksmith,luks,tries=0,timeout=1min 30s");
        // a blank ends the field, as everywhere
        assert_eq!(entry.timeout, Some(Duration::from_secs(60)));
        assert_eq!(entry.source, Path::new("/dev/disk/by-uuid/ab-c"));
        assert_eq!(entry.key_file.as_deref(), Some(Path::new("/etc/k ey")));
        assert_eq!(entry.tries, 0);
        let entry = one(
            "home /dev/sda2 none discard,luksmith,read-only,nofail,noauto,headless,key-slot=3,\
             keyfile-size=32,keyfile-offset=8,header=LABEL=hdr,x-initrd.attach,timeout=0,new-thing=1,\
             tpm2-device=auto,token-timeout=2min",
        );
        assert_eq!(entry.tpm_device.as_deref(), Some("auto"));
        assert_eq!(entry.token_timeout, Duration::from_secs(120));
        assert!(entry.discard && entry.read_only && entry.nofail && entry.noauto && entry.headless);
        assert_eq!((entry.key_slot, entry.key_size), (Some(3), Some(32)));
        assert_eq!((entry.key_offset, entry.tries), (8, 3));
        assert_eq!(
            entry.header.as_deref(),
            Some(Path::new("/dev/disk/by-label/hdr"))
        );
        assert_eq!((entry.timeout, entry.key_file), (None, None));
        assert_eq!(entry.unknown, ["new-thing=1"]);
    }

    #[test]
    fn a_volume_is_told_from_others_by_its_key() {
        let hex = "0123456789ABCDEF".repeat(4);
        let entry = one(&format!(
            "a /dev/x none luksmith,fixate-volume-key={hex},tpm2-measure-pcr=yes"
        ));
        assert_eq!(entry.fingerprint, Some(hex.to_ascii_lowercase()));
        assert_eq!(entry.measure, Some(Some(15)));
        let measure =
            |value| one(&format!("a /dev/x none luksmith,tpm2-measure-pcr={value}")).measure;
        assert_eq!((measure("no"), measure("11")), (Some(None), Some(Some(11))));
        let demand = |value| one(&format!("a /dev/x none luksmith{value}")).header_mac;
        assert_eq!(demand(""), Demand::Nothing);
        assert_eq!(demand(",header-mac=required"), Demand::Mac);
        assert_eq!(demand(",header-mac=counter"), Demand::Counter(None));
        assert_eq!(
            demand(",header-mac=counter:0x01c00002"),
            Demand::Counter(Some(0x01c0_0002))
        );
        for wrong in [
            "fixate-volume-key=12",
            "tpm2-measure-pcr=24",
            "tpm2-measure-pcr=some",
            "header-mac=no",
            "header-mac",
            "header-mac=counter:",
            "header-mac=counter:01c00002",
            "header-mac=counter:0x+1c00002",
            "header-mac=counter:0x81000001",
        ] {
            assert!(refused(&format!("a /dev/x none luksmith,{wrong}")).contains("understood"));
        }
    }

    #[test]
    fn what_would_read_the_disk_in_another_way_is_refused() {
        for option in [
            "plain",
            "swap",
            "cipher=aes-cbc-plain",
            "offset=8",
            "tcrypt",
        ] {
            let line = format!("a /dev/x none luksmith,{option}");
            assert!(refused(&line).contains("means nothing"), "{line}");
        }
        for option in ["tries=x", "timeout=soon", "key-slot=32", "keyfile-size=0"] {
            let line = format!("a /dev/x none luksmith,{option}");
            assert!(refused(&line).contains("understood"), "{line}");
        }
        assert!(refused("a /dev/x key luksmith").contains("absolute"));
    }

    #[test]
    fn spans_of_time_are_systemds() {
        let seconds = |n| Some(Some(Duration::from_secs(n)));
        assert_eq!(span("30"), seconds(30));
        assert_eq!(span("1min 30s"), seconds(90));
        assert_eq!(span("2h"), seconds(7200));
        assert_eq!(span("0"), Some(None));
        for bad in ["", "s", "-1", "1x", "99999999999999"] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }
}
