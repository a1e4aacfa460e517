//! The kernels that are installed on a machine.

use std::cmp::Ordering;
use std::fs;
use std::path::Path;

/// Those below a root folder, the newest first: loaders start that unless they are told otherwise.
pub(crate) fn installed(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root.join("boot")).into_iter().flatten();
    let mut versions: Vec<String> = names
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_prefix("vmlinuz-")?.to_owned())
        })
        .collect();
    versions.sort_by(|one, other| by_number(other, one));
    versions
}

/// "6.12.9" is older than "6.12.38": runs of digits by their value, all else byte by byte.
pub(crate) fn by_number(one: &str, other: &str) -> Ordering {
    parts(one).cmp(&parts(other))
}

fn parts(version: &str) -> Vec<(u64, &str)> {
    let mut parts = Vec::new();
    let mut rest = version;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit());
        let (number, after) = rest.split_at(digits.unwrap_or(rest.len()));
        let word = after.find(|c: char| c.is_ascii_digit());
        let (word, after) = after.split_at(word.unwrap_or(after.len()));
        parts.push((number.parse().unwrap_or(0), word));
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_that_of_the_highest_number() {
        let root = tempfile::tempdir().unwrap();
        let boot = root.path().join("boot");
        fs::create_dir(&boot).unwrap();
        for name in [
            "vmlinuz-6.12.9-amd64",
            "vmlinuz-6.12.38+deb13-amd64",
            "vmlinuz-6.1.0-9-amd64",
            "vmlinuz-6.1.0-10-amd64",
            "initrd.img-7.0",
        ] {
            fs::write(boot.join(name), "").unwrap();
        }
        assert_eq!(
            installed(root.path()),
            [
                "6.12.38+deb13-amd64",
                "6.12.9-amd64",
                "6.1.0-10-amd64",
                "6.1.0-9-amd64"
            ]
        );
    }
}
