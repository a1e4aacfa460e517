//! `adopt`: a volume that dm-crypt opens at boot is opened by us from now on, and back.
//!
//! Everything is looked at first, then the plan is told, then asked, then done. What the changes are, and
//! why in their order, stands in [`steps`]; what could stand in the way in [`checks`]. `root=`, fstab and
//! GRUB's configuration stay as they are: `/dev/mapper/NAME` leads to our device, too (see the udev rules).

use std::path::PathBuf;

use luksmith_keyslot::{Target, Unlocked, Which};
use luksmith_ublk_target::VolumeName;

use crate::args::Args;
use crate::commands::{attach, fingerprint};
use crate::crypttab::{self, Entry};
use crate::errors;
use crate::exit::Exit;
use crate::hint::{Failure, shell};
use crate::output;
use crate::passphrase::Source;
use crate::session::{Session, confirm};

mod checks;
mod fallback;
mod initramfs;
mod kernels;
mod stack;
mod steps;
mod table;
mod tree;

use fallback::Fallback;
use initramfs::{InitramfsTools, Opener};
use steps::{Change, Step};
use table::Line;
use tree::Tree;

/// What help texts say of it.
pub(crate) const MORE: &str = "For a Debian with LUKS2 below its root, with or without LVM, and initramfs-tools. Without NAME \
    it is the volume of /etc/crypttab that carries the root. Looks at everything first and tells \
    the plan: the line of crypttab gets the options luksmith and initramfs, and the initramfs is \
    made anew and looked into. The old one is kept in /boot/luksmith, with an entry in GRUB's menu \
    that boots it; when the machine boots well, --forget removes both. The volume, /etc/fstab and \
    root= are not touched: /dev/mapper/NAME leads to the volume whoever opens it. --hand-back does \
    the same the other way round. With --tpm2-device the line gets that option, so that the boot waits for \
    the TPM, and fixate-volume-key=, so that no other disk is taken for this one.";

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let tree = Tree::new(args.path("root").unwrap_or_else(|| PathBuf::from("/")));
    let back = args.flag("hand-back");
    if args.flag("forget") {
        if back {
            return Err(Failure::usage("--forget and --hand-back are two commands").no_disk());
        }
        return forget(&tree);
    }
    let text = tree.read(crypttab::TABLE).map_err(|error| {
        Failure::usage(format!("cannot read {}: {error}", crypttab::TABLE)).no_disk()
    })?;
    let lines = table::lines(&text);
    let line = choose(args, &tree, &lines)?;
    // Where it is not, an earlier call may have come to no end: it is carried to its end.
    if back && !line.is_ours() && !tree.has(&steps::kept_table(&line.name)) {
        return Err(Failure::usage(format!(
            "there is nothing to hand back: the line of {} is not luksmith's",
            line.name
        ))
        .detail(&line.text));
    }
    let early = is_early(&tree, line);
    let tpm = args
        .text("tpm2-device")
        .map(|tpm| format!("tpm2-device={tpm}"));
    let entry = entry(&tree, &line.given(early, tpm.as_slice()))?;
    let mut more: Vec<String> = tpm.into_iter().collect();
    if !more.is_empty() {
        more.push("fixate-volume-key=…".to_string());
    }
    let mut plan = Plan::new(&tree, line, line.given(early, &more), &entry, back)?;
    // What is wrong with the volume is said before anything is asked.
    let open = attach::as_open(&entry, false)?;
    let mut session = Session::read(&open)?;
    session.volume_plan(&open)?;
    output::text(&plan.text(&tree, &entry))?;
    if args.flag("dry-run") {
        return Ok(());
    }
    confirm(args, &["This changes how the machine boots.".to_string()])?;
    let unlocked = unlock(args, &entry, &mut session)?;
    if let Some(fixate) = more.last_mut().filter(|_| !back) {
        // A TPM that opens with nobody there must not open what somebody put in the place of the disk.
        let fingerprint = fingerprint::of(&unlocked.key, &entry.name, session.header().uuid());
        *fixate = format!("fixate-volume-key={fingerprint}");
        plan.change.new = line.given(early, &more);
    }
    drop((unlocked, session));
    plan.change.apply(&tree, &InitramfsTools, &mut |step| {
        plan.told(step);
        Ok(())
    })?;
    output::text(&plan.done(&entry))
}

fn forget(tree: &Tree) -> Result<(), Failure> {
    let gone = fallback::forget(tree).map_err(|error| {
        Failure::usage(format!("cannot remove the second way in: {error}"))
            .wrote("the machine boots as before")
    })?;
    match gone.is_empty() {
        true => output::text("There is no second way in to remove.\n"),
        false => output::text(&format!("Removed: {}.\n", gone.join(", "))),
    }
}

/// The line of the volume that was named, or that carries the root.
fn choose<'a>(args: &Args, tree: &Tree, lines: &'a [Line]) -> Result<&'a Line, Failure> {
    let wanted = args.positional("NAME");
    let names = match &wanted {
        Some(name) => vec![name.to_string_lossy().into_owned()],
        None if tree.is_this_machine() => stack::carriers("/"),
        None => root_by_files(tree, lines),
    };
    let found: Vec<&Line> = lines
        .iter()
        .filter(|line| names.contains(&line.name))
        .collect();
    let table = crypttab::TABLE;
    match (found.as_slice(), wanted) {
        ([line], _) => Ok(line),
        ([], Some(name)) => Err(Failure::usage(format!(
            "{table} has no line for {}",
            name.to_string_lossy()
        ))
        .no_disk()),
        (_, Some(name)) => Err(Failure::usage(format!(
            "{table} has more than one line for {}",
            name.to_string_lossy()
        ))
        .no_disk()),
        (_, None) => Err(Failure::usage(format!(
            "it cannot be seen which volume of {table} carries the root"
        ))
        .no_disk()
        .hint("give its name, the first field of its line")
        .command("luksmith adopt NAME")),
    }
}

/// What carries the root, by what the files say.
fn root_by_files(tree: &Tree, lines: &[Line]) -> Vec<String> {
    let fstab = tree.read("/etc/fstab").unwrap_or_default();
    let mounted = |line: &&Line| {
        mounted_at(&fstab, &line.name).is_some_and(|place| matches!(place, "/" | "/usr"))
    };
    match lines.iter().find(mounted) {
        Some(line) => vec![line.name.clone()],
        // Below LVM no file says it; a single one it must be.
        None => lines
            .iter()
            .filter(|line| line.lasts())
            .map(|line| line.name.clone())
            .collect(),
    }
}

/// Where fstab mounts the volume itself.
fn mounted_at<'a>(fstab: &'a str, name: &str) -> Option<&'a str> {
    fstab.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (device, place) = (fields.next()?, fields.next()?);
        let ours = ["/dev/mapper/", "/dev/luksmith/"]
            .iter()
            .any(|folder| device.strip_prefix(folder) == Some(name));
        ours.then_some(place)
    })
}

/// Whether the volume has to be open before the root is mounted.
fn is_early(tree: &Tree, line: &Line) -> bool {
    let said = |option: &String| matches!(option.as_str(), "initramfs" | "x-initrd.attach");
    if line.options.iter().any(said) {
        return true;
    }
    if tree.is_this_machine() {
        return ["/", "/usr"]
            .iter()
            .any(|place| stack::carriers(place).contains(&line.name));
    }
    let fstab = tree.read("/etc/fstab").unwrap_or_default();
    mounted_at(&fstab, &line.name).is_none_or(|place| matches!(place, "/" | "/usr"))
}

/// The line as we understand it, with its disk where this tree has it.
fn entry(tree: &Tree, line: &str) -> Result<Entry, Failure> {
    let refused = |why: String| {
        Failure::usage(format!(
            "the line of {} cannot be ours: {why}",
            crypttab::TABLE
        ))
        .detail(line)
        .no_disk()
    };
    let mut entry = match crypttab::parse(line).pop() {
        Some(Ok(entry)) => entry,
        Some(Err((_, why))) => return Err(refused(why)),
        None => return Err(refused("it names no volume".to_string())),
    };
    VolumeName::new(&entry.name).map_err(errors::ublk)?;
    entry.source = tree.disk(&entry.source);
    entry.header = entry.header.map(|header| tree.disk(&header));
    entry.key_file = entry.key_file.map(|key| tree.disk(&key));
    Ok(entry)
}

/// The passphrase of every boot must open the volume with our code, before anything is changed.
fn unlock(args: &Args, entry: &Entry, session: &mut Session) -> Result<Unlocked, Failure> {
    let which = entry.key_slot.map_or(Which::ByPriority, Which::Only);
    let named = args.path("key-file").is_none();
    let source = match &entry.key_file {
        Some(key) if named => Source::key_file(key.clone(), entry.key_offset, entry.key_size),
        _ => Source::existing(args, None),
    };
    let question = format!("Passphrase for {} ({})", entry.name, entry.source.display());
    session
        .unlock(args, &source, which, Target::Data, &question)
        .map(|(unlocked, _)| unlocked)
}

/// What is to be done, and the words for it.
struct Plan {
    back: bool,
    change: Change,
    others: Vec<String>,
}

impl Plan {
    fn new(
        tree: &Tree,
        line: &Line,
        given: String,
        entry: &Entry,
        back: bool,
    ) -> Result<Self, Failure> {
        let refused = match back {
            true => format!("{} cannot be handed back", line.name),
            false => format!("{} cannot be adopted", line.name),
        };
        let early = entry.initrd;
        if !back {
            checks::refuse(&refused, checks::of_line(entry, early))?;
        }
        let mut versions = Vec::new();
        let mut others = Vec::new();
        let mut fallback = None;
        if early {
            let mut all = kernels::versions(tree);
            if all.is_empty() {
                return Err(Failure::new(Exit::Failure, refused)
                    .detail("there is no initramfs in /boot (initrd.img-VERSION beside vmlinuz-VERSION)")
                    .hint("is /boot mounted?")
                    .command("mount /boot"));
            }
            let newest = all.remove(0);
            let obstacles = match back {
                true => checks::of_hand_back(tree, &newest),
                false => checks::of_system(tree, &newest),
            };
            checks::refuse(&refused, obstacles)?;
            let before = if back { "the hand-back" } else { "luksmith" };
            fallback = Some(Fallback::plan(tree, &newest, before).map_err(|error| {
                Failure::usage(format!("cannot read GRUB's menu: {error}")).no_disk()
            })?);
            versions.push(newest);
            match back {
                // One that was made anew since may be ours, too.
                true => versions.append(&mut all),
                false => others = all,
            }
        }
        Ok(Self {
            back,
            change: Change {
                name: line.name.clone(),
                old: line.text.clone(),
                new: if back {
                    let kept = tree
                        .read(&steps::kept_table(&line.name))
                        .unwrap_or_default();
                    let before = table::lines(&kept);
                    let before = before.iter().find(|before| before.name == line.name);
                    line.given_back(early, before)
                } else {
                    given
                },
                opener: if back {
                    Opener::Cryptsetup
                } else {
                    Opener::Ours
                },
                goes_on: line.is_ours() != back,
                versions,
                fallback,
            },
            others,
        })
    }

    fn text(&self, tree: &Tree, entry: &Entry) -> String {
        let change = &self.change;
        let who = if self.back { "dm-crypt" } else { "luksmith" };
        let mut steps = vec![format!(
            "ask for the passphrase of {}, and see that it opens",
            shell(&entry.source)
        )];
        if let Some(fallback) = &change.fallback {
            let copy = fallback::copy_of(&fallback.version);
            steps.push(match change.goes_on && tree.has(&copy) {
                true => format!("leave {copy} as it is, the initramfs from before the first time"),
                false => format!("keep the initramfs of today as {copy}"),
            });
            if let Some((title, _)) = &fallback.entry {
                steps.push(format!(
                    "add \"{title}\" to GRUB's menu, which boots with it"
                ));
            }
        }
        steps.push(match change.old == change.new {
            true => format!(
                "leave the line of {} as it is: {}",
                crypttab::TABLE,
                change.old
            ),
            false => format!(
                "change the line of {}\n       {}\n     to\n       {}",
                crypttab::TABLE,
                change.old,
                change.new
            ),
        });
        if !change.versions.is_empty() {
            steps.push(format!(
                "make the initramfs of {} anew, and look whether {who} can open the volume in it",
                kernel_names(&change.versions)
            ));
        }
        let mut text = format!(
            "{} will be opened by {who} from the next boot on. The plan:\n",
            change.name
        );
        for (number, step) in steps.iter().enumerate() {
            text.push_str(&format!("  {}. {step}\n", number + 1));
        }
        text.push_str("The volume itself, /etc/fstab and root= stay as they are.\n");
        for note in self.notes(tree) {
            text.push_str(&format!("note: {note}\n"));
        }
        text
    }

    fn notes(&self, tree: &Tree) -> Vec<String> {
        let mut notes = Vec::new();
        if self.back {
            notes.push(
                "tokens of a TPM are not tried by cryptsetup's initramfs: it asks".to_string(),
            );
            return notes;
        }
        if !self.others.is_empty() {
            notes.push(format!(
                "{} boots with dm-crypt as before, until an update makes its initramfs anew",
                kernel_names(&self.others)
            ));
        }
        let resume = tree
            .names("/etc/initramfs-tools/conf.d")
            .iter()
            .any(|name| {
                let text = tree
                    .read(&format!("/etc/initramfs-tools/conf.d/{name}"))
                    .unwrap_or_default();
                text.lines()
                    .any(|line| line.starts_with("RESUME=") && line != "RESUME=none")
            });
        if resume {
            notes.push(
                "the machine cannot hibernate to a swap that luksmith serves: systemctl mask hibernate.target"
                    .to_string(),
            );
        }
        notes
    }

    fn told(&self, step: Step) {
        let text = match step {
            Step::Kept if self.change.fallback.is_some() => "the initramfs of today is kept",
            Step::Table => "crypttab is changed",
            Step::Looked => "the new initramfs can open the volume",
            Step::Kept | Step::Entry | Step::Made => return,
        };
        output::note(text);
    }

    fn done(&self, entry: &Entry) -> String {
        let name = &self.change.name;
        let who = if self.back { "dm-crypt" } else { "luksmith" };
        let mut text = format!("Done. From the next boot on {who} opens {name}.\n");
        if let Some(fallback) = &self.change.fallback {
            text.push_str(&format!(
                "Should that fail, boot {}.\nWhen all is well: luksmith adopt --forget\n",
                fallback.how()
            ));
        }
        let check = match self.back {
            true => format!("cryptsetup status {name}"),
            false => format!(
                "luksmith status {name}; luksmith tpm enroll {}",
                shell(&entry.source)
            ),
        };
        text.push_str(&format!("After the reboot: {check}\n"));
        text
    }
}

fn kernel_names(versions: &[String]) -> String {
    format!("kernel {}", versions.join(", "))
}
