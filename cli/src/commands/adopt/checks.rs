//! What stands in the way of a machine that shall boot with us, or again without us.

use std::path::Path;

use luksmith_ublk_target::doctor::{self, Driver, IoUringState};

use super::kernels;
use super::tree::Tree;
use crate::crypttab::Entry;
use crate::exit::Exit;
use crate::hint::Failure;

/// One reason not to begin, and what would remove it.
#[derive(Debug)]
pub(super) struct Obstacle {
    what: String,
    command: String,
}

/// Where the programs of a hook are looked for.
const PROGRAM_FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Programs that unlock a root by the scripts of cryptsetup-initramfs, which would wait for a question that
/// is not asked any more; or that would hide ours.
const HOOKS_IN_THE_WAY: [(&str, &str, &str); 3] = [
    (
        "dropbear",
        "the disk is unlocked over the network (dropbear-initramfs), which luksmith cannot do yet",
        "apt-get remove dropbear-initramfs",
    ),
    (
        "clevis",
        "clevis-initramfs answers the questions of cryptsetup, and not those of luksmith",
        "apt-get remove clevis-initramfs",
    ),
    (
        "plymouth",
        "plymouth would hide the question for the passphrase in the initramfs",
        "apt-get remove plymouth",
    ),
];

/// All that stands in the way, said at once.
pub(super) fn refuse(what: &str, obstacles: Vec<Obstacle>) -> Result<(), Failure> {
    if obstacles.is_empty() {
        return Ok(());
    }
    let mut failure =
        Failure::new(Exit::Failure, what).hint("these would help; then call luksmith adopt again");
    for obstacle in obstacles {
        failure = failure.detail(obstacle.what);
        if !failure.commands.contains(&obstacle.command) {
            failure = failure.command(obstacle.command);
        }
    }
    Err(failure)
}

/// What of the line itself cannot be honoured.
pub(super) fn of_line(entry: &Entry, early: bool) -> Vec<Obstacle> {
    let mut all = Obstacles::default();
    let edit = "$EDITOR /etc/crypttab";
    for option in &entry.unknown {
        all.add(
            format!("luksmith does not know the option {option} of the line of crypttab"),
            edit,
        );
    }
    if early
        && let Some(header) = &entry.header
        && !header.starts_with("/dev")
    {
        let header = header.display();
        all.add(
            format!("the header {header} would not be in the initramfs"),
            edit,
        );
    }
    all.0
}

/// What the system lacks to open a volume in the initramfs of a kernel.
pub(super) fn of_system(tree: &Tree, version: &str) -> Vec<Obstacle> {
    let mut all = Obstacles::default();
    if let Some(why) = kernels::lacks_driver(tree, version) {
        all.add(why, "luksmith doctor");
    }
    let installed = [
        (
            "/usr/share/initramfs-tools/hooks/luksmith",
            "the hook of luksmith",
        ),
        (
            "/usr/share/initramfs-tools/scripts/local-top/luksmith",
            "the script of luksmith",
        ),
    ];
    for (file, what) in installed {
        if !tree.has(file) {
            all.add(format!("{what} is not installed ({file})"), "./x install");
        }
    }
    if !PROGRAM_FOLDERS
        .iter()
        .any(|folder| tree.has(&format!("{folder}/luksmith")))
    {
        all.add(
            "the program luksmith is not installed".to_string(),
            "./x install",
        );
    }
    let rules = ["/etc/udev/rules.d", "/usr/lib/udev/rules.d"];
    if !rules
        .iter()
        .any(|folder| tree.has(&format!("{folder}/61-luksmith.rules")))
    {
        all.add(
            "the udev rules are not installed".to_string(),
            "./x install",
        );
    }
    let generators = "/usr/lib/systemd/system-generators";
    if tree.has(&format!("{generators}/systemd-cryptsetup-generator"))
        && !tree.has(&format!("{generators}/luksmith-generator"))
    {
        all.add(
            "without the generator of luksmith, systemd would ask for the passphrase again"
                .to_string(),
            "./x install",
        );
    }
    for (hook, what, command) in HOOKS_IN_THE_WAY {
        if tree.has(&format!("/usr/share/initramfs-tools/hooks/{hook}")) {
            all.add(what.to_string(), command);
        }
    }
    lvm(tree, &mut all);
    command_line(tree, &mut all);
    initramfs_tools(tree, version, &mut all);
    if tree.is_this_machine() {
        running_kernel(&mut all);
    }
    all.0
}

/// What the system lacks to open a volume with cryptsetup again.
pub(super) fn of_hand_back(tree: &Tree, version: &str) -> Vec<Obstacle> {
    let mut all = Obstacles::default();
    if !tree.has("/usr/share/initramfs-tools/hooks/cryptroot") {
        all.add(
            "the hook of cryptsetup is not installed".to_string(),
            "apt-get install cryptsetup-initramfs",
        );
    }
    if !kernels::has_module(tree, version, "dm_crypt") {
        all.add(
            format!("kernel {version} has no dm-crypt"),
            "modinfo dm-crypt",
        );
    }
    initramfs_tools(tree, version, &mut all);
    all.0
}

/// LVM takes our devices as they come, unless it was told which ones to take.
fn lvm(tree: &Tree, all: &mut Obstacles) {
    let devices = "/etc/lvm/devices/system.devices";
    if tree.has(devices) {
        all.add(
            format!("LVM takes only the devices of {devices}, and ours is not among them"),
            "lvmdevices",
        );
    }
    for file in ["/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf"] {
        let text = tree.read(file).unwrap_or_default();
        let filters = text.lines().map(str::trim_start).any(|line| {
            let word = line.split(['=', ' ', '\t']).next();
            matches!(word, Some("filter" | "global_filter"))
        });
        if filters {
            all.add(
                format!("{file} has a filter, which may keep LVM from a device of ours"),
                &format!("$EDITOR {file}"),
            );
        }
    }
}

/// The kernel's command line can have cryptsetup's script open a volume whatever its table says.
fn command_line(tree: &Tree, all: &mut Obstacles) {
    let mut files = vec![
        "/etc/default/grub".to_string(),
        "/etc/kernel/cmdline".to_string(),
    ];
    let drop_ins = tree.names("/etc/default/grub.d");
    files.extend(
        drop_ins
            .iter()
            .map(|name| format!("/etc/default/grub.d/{name}")),
    );
    if tree.is_this_machine() {
        files.push("/proc/cmdline".to_string());
    }
    for file in files {
        if setting(tree, &file, "GRUB_DISABLE_LINUX_UUID").as_deref() == Some("true") {
            all.add(
                format!(
                    "GRUB_DISABLE_LINUX_UUID in {file} has GRUB name a device whose number changes"
                ),
                "$EDITOR /etc/default/grub && update-grub",
            );
        }
        let text = tree.read(&file).unwrap_or_default();
        let said = |line: &str| !line.trim_start().starts_with('#') && line.contains("cryptopts=");
        if text.lines().any(said) {
            all.add(
                format!("cryptopts= in {file} has cryptsetup open the root"),
                "$EDITOR /etc/default/grub && update-grub",
            );
        }
    }
}

fn initramfs_tools(tree: &Tree, version: &str, all: &mut Obstacles) {
    let there = |program: &str| {
        PROGRAM_FOLDERS
            .iter()
            .any(|folder| tree.has(&format!("{folder}/{program}")))
    };
    if !there("update-initramfs") || !there("unmkinitramfs") {
        let dracut = if there("dracut") {
            ", and dracut is not supported yet"
        } else {
            ""
        };
        all.add(
            format!("there is no initramfs-tools{dracut}"),
            "apt-get install initramfs-tools",
        );
        return;
    }
    let folder = "/etc/initramfs-tools";
    let mut files = vec![format!("{folder}/initramfs.conf")];
    let drop_ins = tree.names(&format!("{folder}/conf.d"));
    files.extend(
        drop_ins
            .iter()
            .map(|name| format!("{folder}/conf.d/{name}")),
    );
    let mut modules = files
        .iter()
        .filter_map(|file| setting(tree, file, "MODULES"));
    if modules.next_back().as_deref() == Some("dep") {
        all.add(
            "MODULES=dep takes the drivers of what runs now, and another one is needed".to_string(),
            "echo MODULES=most > /etc/initramfs-tools/conf.d/zz-modules",
        );
    }
    let update = format!("{folder}/update-initramfs.conf");
    if setting(tree, &update, "update_initramfs").as_deref() == Some("no") {
        all.add(
            format!("update_initramfs=no in {update} forbids a new initramfs"),
            &format!("$EDITOR {update}"),
        );
    }
    space(tree, version, all);
}

/// The value of the last `WORD=VALUE` in a file of the shell.
fn setting(tree: &Tree, file: &str, word: &str) -> Option<String> {
    let text = tree.read(file).ok()?;
    let value = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(word)?.strip_prefix('='))
        .next_back()?;
    Some(value.trim_matches(['"', '\'']).to_string())
}

/// The old initramfs stays beside the new one, which is somewhat larger.
fn space(tree: &Tree, version: &str, all: &mut Obstacles) {
    const PROGRAM_BYTES: u64 = 40 << 20;
    let image = tree.path(kernels::initramfs(version));
    let (Ok(image), Ok(room)) = (
        std::fs::metadata(&image),
        nix::sys::statvfs::statvfs(&tree.path(Path::new("/boot"))),
    ) else {
        return;
    };
    let free = room.blocks_available() * room.fragment_size();
    let needed = 2 * image.len() + PROGRAM_BYTES;
    if free < needed {
        all.add(
            format!(
                "/boot has {} free, and {} are needed for the new initramfs beside the old one",
                crate::output::size(free),
                crate::output::size(needed)
            ),
            "apt-get autoremove --purge",
        );
    }
}

/// What only the running kernel can tell.
fn running_kernel(all: &mut Obstacles) {
    let facts = doctor::facts();
    if let (Driver::Ready, Some(missing)) = (&facts.driver, &facts.missing_feature) {
        all.add(
            format!("the ublk driver lacks {missing}"),
            "luksmith doctor",
        );
    }
    if let Driver::Fails(why) = &facts.driver {
        all.add(format!("the ublk driver fails: {why}"), "luksmith doctor");
    }
    if let IoUringState::DisabledBySysctl(_) | IoUringState::Refused(_) = facts.io_uring {
        all.add("io_uring may not be used".to_string(), "luksmith doctor");
    }
}

#[derive(Default)]
struct Obstacles(Vec<Obstacle>);

impl Obstacles {
    fn add(&mut self, what: String, command: &str) {
        self.0.push(Obstacle {
            what,
            command: command.to_string(),
        });
    }
}
