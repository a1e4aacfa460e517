//! Volumes that dm-crypt has open, which must be left to it.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether a device-mapper device of this name is there: then `/dev/mapper/NAME` is its own.
pub fn has_name(name: &str) -> bool {
    devices(Path::new(SYSFS)).any(|device| device.name == name)
}

/// The name under which dm-crypt has the LUKS2 volume with this UUID open, if it has.
pub fn opened_as(uuid: &str) -> Option<String> {
    opened_as_in(Path::new(SYSFS), uuid)
}

const SYSFS: &str = "/sys/class/block";

/// One device of the mapper.
struct Device {
    name: String,
    uuid: String,
}

fn devices(sysfs: &Path) -> impl Iterator<Item = Device> {
    let read = |file: PathBuf| fs::read_to_string(file).map(|text| text.trim_end().to_owned());
    fs::read_dir(sysfs)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(move |entry| {
            Some(Device {
                name: read(entry.path().join("dm/name")).ok()?,
                uuid: read(entry.path().join("dm/uuid")).ok()?,
            })
        })
}

/// cryptsetup writes `CRYPT-LUKS2-` and the UUID without its dashes before the name.
fn opened_as_in(sysfs: &Path, uuid: &str) -> Option<String> {
    let start = format!("CRYPT-LUKS2-{}-", uuid.replace('-', ""));
    devices(sysfs)
        .find(|device| device.uuid.starts_with(&start))
        .map(|device| device.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_known_by_the_uuid_of_its_header() {
        let sysfs = tempfile::tempdir().unwrap();
        for (kernel, name, uuid) in [
            (
                "dm-0",
                "vda5_crypt",
                "CRYPT-LUKS2-0011223344556677-vda5_crypt",
            ),
            ("dm-1", "vg-root", "LVM-abc"),
        ] {
            let dm = sysfs.path().join(kernel).join("dm");
            fs::create_dir_all(&dm).unwrap();
            fs::write(dm.join("name"), format!("{name}\n")).unwrap();
            fs::write(dm.join("uuid"), format!("{uuid}\n")).unwrap();
        }
        fs::create_dir(sysfs.path().join("vda")).unwrap();
        let opened = |uuid| opened_as_in(sysfs.path(), uuid);
        assert_eq!(opened("00112233-4455-6677").as_deref(), Some("vda5_crypt"));
        assert_eq!(opened("00112233-4455"), None, "not a part of a UUID");
        assert_eq!(opened(""), None);
    }
}
