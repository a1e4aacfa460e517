//! `systemd-generator`: a unit for each line of `/etc/crypttab` that is ours, as
//! systemd-cryptsetup-generator(8) makes them for the others.
//!
//! systemd calls it early at boot, before anything is mounted, with the folders for the units; it must be
//! quick and write nothing else. The unit runs `luksmith attach NAME`. systemd's own generator does not know
//! our option and makes its unit all the same, which would ask for a passphrase and fail: one of that name
//! that does nothing goes before it.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use luksmith_ublk_target::{UblkError, VolumeName};

use crate::args::Args;
use crate::credential;
use crate::crypttab::{self, Entry};
use crate::hint::{Failure, shell};
use crate::output;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let folder = PathBuf::from(args.required("FOLDER")?);
    // systemd names three folders, by their rank; what is in the second goes before all others.
    let early = args.positional("EARLY").map(PathBuf::from);
    let _ = args.positional("LATE");
    let table = args
        .path("crypttab")
        .unwrap_or_else(|| crypttab::TABLE.into());
    let text = match fs::read_to_string(&table) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(
                Failure::usage(format!("cannot read {}: {error}", shell(&table))).no_disk(),
            );
        }
    };
    let fstab = fs::read_to_string("/etc/fstab").unwrap_or_default();
    let program = std::env::current_exe()
        .map_err(|error| Failure::usage(format!("where am I? {error}")).no_disk())?;
    let initrd = Path::new("/etc/initrd-release").exists();
    // Only the units of systemd itself tell a generator what this systemd knows; the setting came with 254.
    let imports = fs::read_to_string("/usr/lib/systemd/system/systemd-tmpfiles-setup.service")
        .is_ok_and(|unit| unit.contains("\nImportCredential="));
    let failed = |name: &str, error: io::Error| {
        Failure::usage(format!("cannot write the unit of {name}: {error}")).no_disk()
    };
    let lines = crypttab::parse(&text);
    if let Some(early) = &early {
        let ours = |name: &str| {
            lines.iter().any(|line| match line {
                Ok(entry) => entry.name == name,
                Err((bad, _)) => bad == name,
            })
        };
        for name in crypttab::names(&text) {
            // One that is open from the initramfs stays so, also when its line is another's again.
            if ours(&name) || is_open(&name) {
                stand_in(early, &name).map_err(|error| failed(&name, error))?;
            }
        }
    }
    for line in lines {
        match line {
            Ok(entry) => {
                let place = Place {
                    initrd,
                    root: carries_root(&fstab, &entry.name),
                    program: &program,
                    table: &table,
                    imports,
                };
                write(&folder, &entry, &place).map_err(|error| failed(&entry.name, error))?;
            }
            Err((name, why)) => output::note(&format!("{}: {name}: {why}", shell(&table))),
        }
    }
    Ok(())
}

/// Where and for what a unit is made.
struct Place<'a> {
    /// In an initramfs: the server must outlive it.
    initrd: bool,
    /// The volume carries the root, and stays open to the last.
    root: bool,
    program: &'a Path,
    table: &'a Path,
    /// systemd knows `ImportCredential=`, which looks for encrypted ones, too.
    imports: bool,
}

fn write(folder: &Path, entry: &Entry, place: &Place<'_>) -> io::Result<()> {
    let unit = format!("luksmith@{}.service", escape(&entry.name));
    fs::write(folder.join(&unit), unit_text(entry, place))?;
    if !entry.noauto {
        let target = if entry.netdev {
            "remote-cryptsetup.target"
        } else {
            "cryptsetup.target"
        };
        link(folder, &format!("{target}.{}", requires(entry)), &unit)?;
    }
    for place in ["luksmith", "mapper"] {
        let device = format!("dev-{place}-{}.device", escape(&entry.name));
        // Whoever wants the volume, such as a mount of fstab, gets the unit.
        link(folder, &format!("{device}.{}", requires(entry)), &unit)?;
        // A person may take longer to type than a device may take to appear.
        let drop_in = folder.join(format!("{device}.d"));
        fs::create_dir_all(&drop_in)?;
        fs::write(
            drop_in.join("40-luksmith.conf"),
            "[Unit]\nJobTimeoutSec=infinity\n",
        )?;
    }
    Ok(())
}

/// Whether a volume of ours of this name is open, be its server well or not.
fn is_open(name: &str) -> bool {
    VolumeName::new(name).is_ok_and(|name| {
        !matches!(
            luksmith_ublk_target::status(&name),
            Err(UblkError::NotOpen(_))
        )
    })
}

/// The unit that stands where systemd's generator puts its own.
fn stand_in(early: &Path, name: &str) -> io::Result<()> {
    fs::write(
        early.join(format!("systemd-cryptsetup@{}.service", escape(name))),
        "# Made from crypttab by luksmith; changes are lost.\n\
         [Unit]\nDescription=Nothing to do for a volume that luksmith opens\n\
         Documentation=man:luksmith(8)\nDefaultDependencies=no\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
    )
}

fn requires(entry: &Entry) -> &'static str {
    if entry.nofail { "wants" } else { "requires" }
}

fn link(folder: &Path, name: &str, unit: &str) -> io::Result<()> {
    let wants = folder.join(name);
    fs::create_dir_all(&wants)?;
    match symlink(Path::new("..").join(unit), wants.join(unit)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn unit_text(entry: &Entry, place: &Place<'_>) -> String {
    let mut lines = vec![
        "# Made from crypttab by luksmith; changes are lost.".to_owned(),
        "[Unit]".to_owned(),
        format!(
            "Description=Encrypted volume {}",
            entry.name.replace('%', "%%")
        ),
        "Documentation=man:luksmith(8) man:crypttab(5)".to_owned(),
        format!("SourcePath={}", place.table.display()),
        "DefaultDependencies=no".to_owned(),
        // Whoever changes to another target does not want his disks closed.
        "IgnoreOnIsolate=yes".to_owned(),
        "After=cryptsetup-pre.target systemd-udevd-kernel.socket modprobe@ublk_drv.service"
            .to_owned(),
        "Wants=modprobe@ublk_drv.service".to_owned(),
    ];
    let target = if entry.netdev {
        lines.push("After=remote-fs-pre.target".to_owned());
        "remote-cryptsetup.target"
    } else {
        "cryptsetup.target"
    };
    if !entry.nofail && !entry.noauto {
        lines.push(format!("Before={target}"));
    }
    for device in [Some(&entry.source), entry.header.as_ref()]
        .into_iter()
        .flatten()
    {
        lines.push(match device.strip_prefix("/dev") {
            Ok(_) => format!("BindsTo={0}\nAfter={0}", device_unit(device)),
            Err(_) => format!("RequiresMountsFor={}", device.display()),
        });
    }
    if let Some(key) = &entry.key_file {
        lines.push(format!("RequiresMountsFor={}", key.display()));
    }
    let stays = place.initrd || place.root || entry.initrd;
    if !stays {
        lines.push("Conflicts=umount.target\nBefore=umount.target".to_owned());
    }
    let name = quoted(&entry.name);
    let program = place.program.display();
    let initramfs = if place.initrd { " --initramfs" } else { "" };
    lines.extend([
        "\n[Service]".to_owned(),
        "Type=oneshot".to_owned(),
        "RemainAfterExit=yes".to_owned(),
        // A person answers when he answers.
        "TimeoutSec=infinity".to_owned(),
        // The server is nobody's to kill: in use it stays, and it ends by the close.
        "KillMode=process".to_owned(),
        format!("ExecStart={program} attach{initramfs} -- {name}"),
    ]);
    if place.imports {
        lines.push("ImportCredential=cryptsetup.*".to_owned());
    } else {
        let each = [credential::PASSPHRASE, credential::PIN];
        lines.extend(each.map(|name| format!("LoadCredential={name}")));
    }
    if !stays {
        lines.push(format!("ExecStop={program} close -- {name}"));
    }
    lines.join("\n") + "\n"
}

/// Whether fstab mounts the volume as the root, by its name.
fn carries_root(fstab: &str, name: &str) -> bool {
    fstab.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (spec, place) = (fields.next(), fields.next());
        let named = ["/dev/luksmith/", "/dev/mapper/"]
            .iter()
            .any(|folder| spec.and_then(|spec| spec.strip_prefix(folder)) == Some(name));
        named && matches!(place, Some("/" | "/usr"))
    })
}

/// A word of a command line of a unit.
fn quoted(word: &str) -> String {
    let word = word
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    format!("\"{word}\"")
}

/// The unit of a device, by its path.
fn device_unit(path: &Path) -> String {
    let words: Vec<String> = path
        .iter()
        .filter(|word| *word != "/")
        .map(|word| escape(&word.to_string_lossy()))
        .collect();
    format!("{}.device", words.join("-"))
}

/// systemd-escape(1).
fn escape(text: &str) -> String {
    let mut out = String::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'/' => out.push('-'),
            b'.' if at > 0 => out.push('.'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(line: &str) -> String {
        unit_of(line, false)
    }

    fn unit_of(line: &str, imports: bool) -> String {
        let entry = crypttab::parse(line).remove(0).unwrap();
        let place = Place {
            initrd: false,
            root: carries_root("/dev/luksmith/root / ext4 x 0 1", &entry.name),
            program: Path::new("/usr/bin/luksmith"),
            table: Path::new("/etc/crypttab"),
            imports,
        };
        unit_text(&entry, &place)
    }

    /// The forms are those that systemd-escape(1) prints.
    #[test]
    fn names_of_units_are_systemds() {
        assert_eq!(escape("my data-1"), "my\\x20data\\x2d1");
        assert_eq!(escape(".a.b"), "\\x2ea.b");
        assert_eq!(
            device_unit(Path::new("/dev/disk/by-uuid/12-ab")),
            "dev-disk-by\\x2duuid-12\\x2dab.device"
        );
    }

    #[test]
    fn a_volume_is_closed_after_what_uses_it_and_the_root_never() {
        let data = unit("data UUID=12-ab /etc/keys/data luksmith,nofail");
        for line in [
            "BindsTo=dev-disk-by\\x2duuid-12\\x2dab.device",
            "RequiresMountsFor=/etc/keys/data",
            "Conflicts=umount.target",
            "ExecStart=/usr/bin/luksmith attach -- \"data\"",
            "ExecStop=/usr/bin/luksmith close -- \"data\"",
        ] {
            assert!(data.lines().any(|one| one == line), "{line}: {data}");
        }
        assert!(!data.contains("Before=cryptsetup.target"), "nofail: {data}");
        for line in [
            "root /dev/vda none luksmith",
            "other /dev/vdb none luksmith,x-initrd.attach",
        ] {
            let unit = unit(line);
            assert!(!unit.contains("ExecStop"), "{unit}");
            assert!(!unit.contains("umount.target"), "{unit}");
            assert!(unit.contains("Before=cryptsetup.target"), "{unit}");
        }
    }

    #[test]
    fn a_unit_gets_its_credentials_in_the_words_that_its_systemd_knows() {
        let line = "data /dev/vdb none luksmith";
        let load = "LoadCredential=cryptsetup.passphrase\nLoadCredential=cryptsetup.tpm2-pin\n";
        let import = "ImportCredential=cryptsetup.*\n";
        for (imports, words, others) in [(false, load, import), (true, import, load)] {
            let unit = unit_of(line, imports);
            assert!(unit.contains(words) && !unit.contains(others), "{unit}");
        }
    }

    #[test]
    fn the_unit_of_systemd_does_nothing_for_our_volumes_and_is_left_alone_for_others() {
        let home = tempfile::tempdir().unwrap();
        let folders = ["normal", "early"].map(|name| home.path().join(name));
        folders.iter().for_each(|f| fs::create_dir(f).unwrap());
        let table = home.path().join("crypttab");
        fs::write(
            &table,
            "# a\nvda5_crypt UUID=1 none luks,luksmith,initramfs\nother UUID=2 none luks\n\
             bad UUID=3 none luksmith,swap\n",
        )
        .unwrap();
        let words = ["luksmith", "systemd-generator"].map(Into::into);
        let paths = folders.iter().map(|f| f.clone().into_os_string());
        let option = ["--crypttab".into(), table.into_os_string()];
        let words = words.into_iter().chain(paths).chain(option).collect();
        let crate::args::Parsed::Run(args) = crate::args::parse(words).unwrap() else {
            panic!("no verb");
        };
        run(&args).unwrap();
        let early: std::collections::BTreeSet<_> = fs::read_dir(&folders[1])
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let expected = ["bad", "vda5_crypt"].map(|n| format!("systemd-cryptsetup@{n}.service"));
        assert_eq!(early, expected.into());
        let wanted = "dev-mapper-vda5_crypt.device.requires/luksmith@vda5_crypt.service";
        assert!(folders[0].join(wanted).is_symlink());
    }

    #[test]
    fn no_name_breaks_out_of_its_unit() {
        assert_eq!(quoted("a\"b\\c%d$e"), "\"a\\\"b\\\\c%%d$$e\"");
    }
}
