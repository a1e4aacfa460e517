//! The second way in: the initramfs from before, and an entry of GRUB's menu that boots it.
//!
//! The copies lie in a folder of their own in /boot, where neither GRUB's nor initramfs-tools' search for
//! kernels looks, so no update touches them.

use std::io;

use super::kernels;
use super::tree::Tree;

/// Where GRUB's menu is.
const MENU: &str = "/boot/grub/grub.cfg";
/// What the menu reads besides, and no program writes.
const CUSTOM: &str = "/boot/grub/custom.cfg";
const FOLDER: &str = "luksmith";
/// How the name of a copy ends that is not the second way in.
const OF_TODAY: &str = ".of-today";
const BEGIN: &str = "### BEGIN luksmith adopt";
const END: &str = "### END luksmith adopt";
const ID: &str = "luksmith-before";

/// The copy of an initramfs.
pub(super) fn copy_of(version: &str) -> String {
    format!("/boot/{FOLDER}/initrd.img-{version}")
}

/// A way to boot what was.
pub(super) struct Fallback {
    /// The kernel.
    pub version: String,
    /// The title in GRUB's menu, and the entry; none where there is no such menu.
    pub entry: Option<(String, String)>,
}

impl Fallback {
    /// How it would be done; `before` ends the title.
    pub(super) fn plan(tree: &Tree, version: &str, before: &str) -> io::Result<Self> {
        let menu = tree.read_if_there(MENU)?;
        let menu = menu.filter(|menu| menu.contains("custom.cfg"));
        Ok(Self {
            version: version.to_string(),
            entry: menu.and_then(|menu| entry(&menu, version, before)),
        })
    }

    /// Copies the initramfs of today, and says where the copy is. If a second way in is there that must
    /// stay, as what is in its place may be ours already, that is a copy for the time of this call.
    pub(super) fn keep(&self, tree: &Tree, second_way_stays: bool) -> io::Result<String> {
        drop_leftovers(tree)?;
        let second_way = copy_of(&self.version);
        let copy = match second_way_stays && tree.has(&second_way) {
            true => format!("{second_way}{OF_TODAY}"),
            false => second_way,
        };
        tree.copy(&kernels::initramfs(&self.version), &copy)?;
        Ok(copy)
    }

    /// Adds the entry, in the place of an older one of ours.
    pub(super) fn write_entry(&self, tree: &Tree) -> io::Result<()> {
        let Some((_, entry)) = &self.entry else {
            return Ok(());
        };
        let others = without_ours(&tree.read_if_there(CUSTOM)?.unwrap_or_default());
        tree.replace(CUSTOM, &format!("{others}{BEGIN}\n{entry}{END}\n"))
    }

    /// Puts a copy back in its place. The second way in stays.
    pub(super) fn put_back(&self, tree: &Tree, copy: &str) -> io::Result<()> {
        tree.copy(copy, &kernels::initramfs(&self.version))
    }

    /// How to boot it, for a person.
    pub(super) fn how(&self) -> String {
        match &self.entry {
            Some((title, _)) => format!("\"{title}\" at the end of GRUB's menu"),
            None => format!(
                "kernel {} with {} as its initramfs, by the editor of the boot menu",
                self.version,
                copy_of(&self.version)
            ),
        }
    }
}

/// Removes the copies that were for the time of one call, also of one that came to no end.
pub(super) fn drop_leftovers(tree: &Tree) -> io::Result<()> {
    let folder = format!("/boot/{FOLDER}");
    tree.names(&folder)
        .iter()
        .filter(|name| name.ends_with(OF_TODAY))
        .try_for_each(|name| tree.remove(&format!("{folder}/{name}")))
}

/// Removes the entry and the copies; the names of the files that are gone.
pub(super) fn forget(tree: &Tree) -> io::Result<Vec<String>> {
    let mut gone = Vec::new();
    if let Some(custom) = tree.read_if_there(CUSTOM)?
        && custom.contains(BEGIN)
    {
        match without_ours(&custom) {
            rest if rest.is_empty() => tree.remove(CUSTOM)?,
            rest => tree.replace(CUSTOM, &rest)?,
        }
        gone.push(format!("the entry in {CUSTOM}"));
    }
    for name in tree.names(&format!("/boot/{FOLDER}")) {
        let file = format!("/boot/{FOLDER}/{name}");
        tree.remove(&file)?;
        gone.push(file);
    }
    // Goes only when it is empty.
    let _ = std::fs::remove_dir(tree.path(format!("/boot/{FOLDER}")));
    Ok(gone)
}

fn without_ours(custom: &str) -> String {
    let mut ours = false;
    let mut rest = String::new();
    for line in custom.split_inclusive('\n') {
        ours |= line.trim_end() == BEGIN;
        if !ours {
            rest.push_str(line);
        }
        ours &= line.trim_end() != END;
    }
    if !rest.is_empty() && !rest.ends_with('\n') {
        rest.push('\n');
    }
    rest
}

/// The title and the text of an entry like the first of the menu that boots this kernel.
fn entry(menu: &str, version: &str, before: &str) -> Option<(String, String)> {
    let image = format!("initrd.img-{version}");
    let mut block: Vec<&str> = Vec::new();
    for line in menu.lines() {
        if line.trim_start().starts_with("menuentry ") {
            block = vec![line];
        } else if !block.is_empty() {
            block.push(line);
            if line.trim() == "}" {
                let boots = |line: &&str| {
                    line.trim_start().starts_with("initrd")
                        && line
                            .split_ascii_whitespace()
                            .any(|word| word.ends_with(&image))
                };
                if block.iter().any(boots) {
                    break;
                }
                block.clear();
            }
        }
    }
    let (head, body) = block.split_first()?;
    let (start, title, rest) = quoted(head)?;
    // The title ends a word of the shell: what it holds must stay inside.
    let title = format!("{title}, as before {before}").replace('\'', "");
    let rest = match rest.split_once("$menuentry_id_option") {
        Some((options, id)) => {
            let (blank, _, rest) = quoted(id)?;
            format!("{options}$menuentry_id_option{blank}'{ID}'{rest}")
        }
        None => rest.to_string(),
    };
    let mut text = format!("{}'{title}'{rest}\n", start.trim_start());
    for line in body {
        let kept = match line.trim_start().starts_with("initrd") {
            true => line.replace(&image, &format!("{FOLDER}/{image}")),
            false => (*line).to_string(),
        };
        text.push_str(kept.strip_prefix('\t').unwrap_or(&kept));
        text.push('\n');
    }
    Some((title, text))
}

/// What stands before the first quoted word, the word, and what stands after it.
fn quoted(text: &str) -> Option<(&str, &str, &str)> {
    let quote = text.find(['\'', '"'])?;
    let mark = text.get(quote..)?.chars().next()?;
    let (before, rest) = (text.get(..quote)?, text.get(quote + 1..)?);
    let (word, after) = rest.split_once(mark)?;
    Some((before, word, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As grub-mkconfig of Debian 13 writes it, shortened.
    const MENU_TEXT: &str = "\
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'gnulinux-simple-1' {
\tload_video
\tif [ x$grub_platform = xxen ]; then insmod xzio; fi
\tsearch --no-floppy --fs-uuid --set=root 12-ab
\tlinux\t/vmlinuz-6.12.1-amd64 root=/dev/mapper/vg-root ro  quiet
\tinitrd\t/initrd.img-6.12.1-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1' {
\tmenuentry 'Debian GNU/Linux, with Linux 6.1.0-9-amd64' $menuentry_id_option 'gnulinux-6.1.0-9-amd64-advanced-1' {
\t\tlinux\t/vmlinuz-6.1.0-9-amd64 root=/dev/mapper/vg-root ro  quiet
\t\tinitrd\t/initrd.img-6.1.0-9-amd64
\t}
}
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
fi
";

    #[test]
    fn the_entry_boots_what_the_menu_boots_with_the_copy() {
        let (title, text) = entry(MENU_TEXT, "6.12.1-amd64", "luksmith").unwrap();
        assert_eq!(title, "Debian GNU/Linux, as before luksmith");
        assert_eq!(
            text,
            "\
menuentry 'Debian GNU/Linux, as before luksmith' --class debian --class os $menuentry_id_option 'luksmith-before' {
load_video
if [ x$grub_platform = xxen ]; then insmod xzio; fi
search --no-floppy --fs-uuid --set=root 12-ab
linux\t/vmlinuz-6.12.1-amd64 root=/dev/mapper/vg-root ro  quiet
initrd\t/luksmith/initrd.img-6.12.1-amd64
}
"
        );
        let (title, text) = entry(MENU_TEXT, "6.1.0-9-amd64", "luksmith").unwrap();
        assert!(title.starts_with("Debian GNU/Linux, with Linux 6.1.0-9-amd64"));
        assert!(
            text.ends_with("\tinitrd\t/luksmith/initrd.img-6.1.0-9-amd64\n}\n"),
            "{text}"
        );
        assert_eq!(entry(MENU_TEXT, "6.1", "x"), None);
    }

    #[test]
    fn the_entry_comes_and_goes_and_those_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path().into());
        let version = "6.12.1-amd64";
        tree.replace(&kernels::initramfs(version), "old").unwrap();
        tree.replace(MENU, MENU_TEXT).unwrap();
        tree.replace(CUSTOM, "menuentry 'mine' {\n}").unwrap();
        let fallback = Fallback::plan(&tree, version, "luksmith").unwrap();
        for _ in 0..2 {
            fallback.keep(&tree, false).unwrap();
            fallback.write_entry(&tree).unwrap();
        }
        let custom = tree.read(CUSTOM).unwrap();
        assert_eq!(custom.matches("menuentry '").count(), 2, "{custom}");
        tree.replace(&kernels::initramfs(version), "new").unwrap();
        fallback.put_back(&tree, &copy_of(version)).unwrap();
        assert_eq!(tree.read(&kernels::initramfs(version)).unwrap(), "old");
        assert_eq!(forget(&tree).unwrap().len(), 2);
        assert_eq!(tree.read(CUSTOM).unwrap(), "menuentry 'mine' {\n}\n");
        assert!(!tree.has("/boot/luksmith"));
        assert_eq!(forget(&tree).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn without_a_menu_that_can_be_added_to_only_the_copy_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path().into());
        let plan = || Fallback::plan(&tree, "6.12.1-amd64", "luksmith").unwrap();
        assert!(
            plan()
                .how()
                .contains("/boot/luksmith/initrd.img-6.12.1-amd64")
        );
        tree.replace(MENU, &MENU_TEXT.replace("custom.cfg", "none"))
            .unwrap();
        assert!(plan().entry.is_none());
    }
}
