//! The changes, in the order that leaves a machine which boots after each of them.
//!
//! An initramfs holds a table of its own, so a boot is decided by the initramfs alone; the table of the
//! system only says what the next initramfs will be, and what happens once the root is mounted.
//!
//! To us:
//!  1. copy of the initramfs — nothing reads it; without it there would be no second way in
//!  2. entry of GRUB's menu — the default entry stays; before 3, or a new initramfs that does not boot
//!     could be met without it
//!  3. the table — the old initramfs opens the volume with dm-crypt; `attach` then finds it open and leaves
//!     it alone, and the unit of systemd's generator does nothing
//!  4. the initramfs — replaced by one rename, so it is the old one or the new one; the hooks read the
//!     table, so this comes after 3
//!  5. a look into it — if the volume could not be opened, 4 and 3 are taken back
//!
//! Where all this was done before, the copy of 1 stays what it is, the initramfs from before the first time.
//! What 5 puts back is another copy, of the initramfs as this call found it; it goes when the call ends.
//!
//! Back: the same, with one difference. After 3 the old initramfs opens the volume with us while the table
//! does not say so: the generator still sees the volume open and keeps systemd's unit from asking.

use std::io;

use super::fallback::{self, Fallback};
use super::initramfs::{Maker, Opener};
use super::tree::Tree;
use super::{kernels, table};
use crate::crypttab;
use crate::hint::{Failure, shell};

/// The table as it was before the line of this volume was given to us.
pub(super) fn kept_table(name: &str) -> String {
    format!("/var/lib/luksmith/adopt/crypttab-before-{name}")
}

/// What is to be done.
pub(super) struct Change {
    /// The volume.
    pub name: String,
    /// Its line now.
    pub old: String,
    /// Its line afterwards.
    pub new: String,
    /// Who shall open it.
    pub opener: Opener,
    /// It is his by the table already, maybe by a call that came to no end: then the initramfs may be the
    /// new one, and the copy the only one of the old.
    pub goes_on: bool,
    /// The kernels whose initramfs are made anew; those that boot it, the first of all.
    pub versions: Vec<String>,
    /// The second way in; none for a volume that no initramfs opens.
    pub fallback: Option<Fallback>,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Kept,
    Entry,
    Table,
    Made,
    Looked,
}

impl Change {
    /// Carries it out; `done` hears of each step.
    pub(super) fn apply(
        &self,
        tree: &Tree,
        maker: &dyn Maker,
        done: &mut dyn FnMut(Step) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let kept = self.prepare(tree, done).map_err(|failure| {
            failure
                .wrote("the machine boots as before; at most files were added that nothing needs")
        })?;
        self.write_table(tree, &self.old, &self.new)
            .map_err(|failure| {
                failure.wrote("the machine boots as before: crypttab was not changed")
            })?;
        done(Step::Table)?;
        if let Err(failure) = self.make(tree, maker, done) {
            return Err(self.undo(tree, maker, kept.as_deref(), failure));
        }
        // One that stays takes room and no more: the next call drops it, too.
        let _ = fallback::drop_leftovers(tree);
        Ok(())
    }

    /// Steps 1 and 2; where the initramfs of today was copied to.
    fn prepare(
        &self,
        tree: &Tree,
        done: &mut dyn FnMut(Step) -> Result<(), Failure>,
    ) -> Result<Option<String>, Failure> {
        let keep = |fallback: &Fallback| {
            let image = kernels::initramfs(&fallback.version);
            fallback
                .keep(tree, self.goes_on)
                .map_err(|e| cannot(&format!("copy {image}"), &e))
        };
        let kept = self.fallback.as_ref().map(keep).transpose()?;
        if self.opener == Opener::Ours && !self.goes_on {
            tree.copy(crypttab::TABLE, &kept_table(&self.name))
                .map_err(|e| cannot("copy /etc/crypttab", &e))?;
        }
        done(Step::Kept)?;
        if let Some(fallback) = &self.fallback {
            fallback
                .write_entry(tree)
                .map_err(|e| cannot("add the entry to GRUB's menu", &e))?;
        }
        done(Step::Entry)?;
        Ok(kept)
    }

    /// Exchanges the line in the table as it is now, whoever changed the rest of it.
    fn write_table(&self, tree: &Tree, old: &str, new: &str) -> Result<(), Failure> {
        let table = crypttab::TABLE;
        let text = tree
            .read(table)
            .map_err(|e| cannot(&format!("read {table}"), &e))?;
        let text = table::exchange(&text, old, new).ok_or_else(|| {
            Failure::usage(format!(
                "the line of {} in {table} was changed by somebody meanwhile",
                self.name
            ))
        })?;
        tree.replace(table, &text)
            .map_err(|e| cannot(&format!("write {table}"), &e))
    }

    fn make(
        &self,
        tree: &Tree,
        maker: &dyn Maker,
        done: &mut dyn FnMut(Step) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for version in &self.versions {
            let image = kernels::initramfs(version);
            maker
                .make(tree, version)
                .map_err(|e| cannot(&format!("make {image}"), &e))?;
            done(Step::Made)?;
            let opener = maker
                .opener(tree, version, &self.name)
                .map_err(|e| cannot(&format!("look into {image}"), &e))?;
            if opener != self.opener {
                let why = match opener {
                    Opener::Nobody(why) => why,
                    Opener::Ours => "luksmith would open it".to_string(),
                    Opener::Cryptsetup => "cryptsetup would open it".to_string(),
                };
                return Err(Failure::usage(format!(
                    "{} would not be opened as it should by the new {image}: {why}",
                    self.name
                )));
            }
            done(Step::Looked)?;
        }
        Ok(())
    }

    /// Takes the table and the initramfs back, in the order in which they were not changed.
    fn undo(
        &self,
        tree: &Tree,
        maker: &dyn Maker,
        kept: Option<&str>,
        failure: Failure,
    ) -> Failure {
        let (Some(fallback), Some(kept)) = (&self.fallback, kept) else {
            return failure;
        };
        let mut wrong = Vec::new();
        // Of this kernel there is a copy; it goes first, as the boot is decided by it.
        match fallback.put_back(tree, kept) {
            // As above: the next call drops it, too.
            Ok(()) => drop(fallback::drop_leftovers(tree)),
            Err(error) => wrong.push(format!("{kept} could not be copied back: {error}")),
        }
        if let Err(other) = self.write_table(tree, &self.new, &self.old) {
            wrong.push(other.what.to_string());
        } else {
            for version in self.versions.iter().filter(|v| **v != fallback.version) {
                if let Err(error) = maker.make(tree, version) {
                    let image = kernels::initramfs(version);
                    wrong.push(format!("{image} could not be made anew: {error}"));
                }
            }
        }
        if wrong.is_empty() {
            return failure
                .wrote("crypttab and the initramfs are as they were: the machine boots as before");
        }
        let failure = wrong.into_iter().fold(failure, Failure::detail);
        failure
            .wrote(format!(
                "not everything could be taken back; before the next boot, or else by {}",
                fallback.how()
            ))
            .hint("put the old files back by hand")
            .command(format!("$EDITOR {}    # {}", crypttab::TABLE, self.old))
            .command(format!(
                "cp {} {}",
                shell(kept),
                shell(kernels::initramfs(&fallback.version))
            ))
    }
}

fn cannot(what: &str, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const TABLE: &str = "vda5_crypt UUID=1 none luks,discard\nswap UUID=2 /dev/urandom swap\n";
    const V: &str = "6.12.1-amd64";

    /// Makes initramfs as the two hooks do, of one line: who opens the volume.
    struct Hooks {
        fails: Option<&'static str>,
        made: RefCell<Vec<String>>,
    }

    impl Maker for Hooks {
        fn make(&self, tree: &Tree, version: &str) -> io::Result<()> {
            if self.fails == Some("make") {
                return Err(io::Error::other("no space"));
            }
            let table = tree.read(crypttab::TABLE)?;
            let root = &table::lines(&table)[0];
            let opener = match root.is_ours() && self.fails != Some("look") {
                true => "luksmith",
                false => "cryptsetup",
            };
            self.made.borrow_mut().push(version.to_string());
            tree.replace(&kernels::initramfs(version), opener)
        }
        fn opener(&self, tree: &Tree, version: &str, _: &str) -> io::Result<Opener> {
            match tree.read(&kernels::initramfs(version))?.as_str() {
                "luksmith" => Ok(Opener::Ours),
                "cryptsetup" => Ok(Opener::Cryptsetup),
                other => Ok(Opener::Nobody(other.to_string())),
            }
        }
    }

    struct World {
        _folder: tempfile::TempDir,
        tree: Tree,
    }

    fn world(table: &str, initramfs: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path().into());
        tree.replace(crypttab::TABLE, table).unwrap();
        tree.replace(&kernels::initramfs(V), initramfs).unwrap();
        World {
            _folder: folder,
            tree,
        }
    }

    fn hooks(fails: Option<&'static str>) -> Hooks {
        Hooks {
            fails,
            made: RefCell::default(),
        }
    }

    fn to_us(world: &World) -> Change {
        let table = world.tree.read(crypttab::TABLE).unwrap();
        let line = table::lines(&table).remove(0);
        Change {
            name: line.name.clone(),
            old: line.text.clone(),
            new: line.given(true, &[]),
            opener: Opener::Ours,
            goes_on: line.is_ours(),
            versions: vec![V.into()],
            fallback: Some(Fallback::plan(&world.tree, V, "luksmith").unwrap()),
        }
    }

    fn back(world: &World) -> Change {
        let mut change = to_us(world);
        let table = world.tree.read(crypttab::TABLE).unwrap();
        change.new = table::lines(&table)[0].given_back(true, None);
        change.opener = Opener::Cryptsetup;
        change.goes_on = !change.goes_on;
        change
    }

    /// The volume is opened by one of the two, whatever boots; and the copy, once it is there, is whole.
    fn boots(world: &World) {
        let initramfs = world.tree.read(&kernels::initramfs(V)).unwrap();
        assert!(
            ["luksmith", "cryptsetup"].contains(&initramfs.as_str()),
            "{initramfs}"
        );
        let table = world.tree.read(crypttab::TABLE).unwrap();
        assert!(
            table.ends_with("swap UUID=2 /dev/urandom swap\n"),
            "{table}"
        );
        if let Ok(copy) = world.tree.read(&fallback::copy_of(V)) {
            assert!(
                ["luksmith", "cryptsetup"].contains(&copy.as_str()),
                "{copy}"
            );
        }
    }

    const ALL: [Step; 5] = [
        Step::Kept,
        Step::Entry,
        Step::Table,
        Step::Made,
        Step::Looked,
    ];

    #[test]
    fn the_machine_boots_after_an_end_at_any_step_and_the_next_call_goes_on() {
        for (there, stop) in [true, false].into_iter().flat_map(|d| ALL.map(|s| (d, s))) {
            let world = match there {
                true => world(TABLE, "cryptsetup"),
                false => world(
                    &TABLE.replacen("discard", "discard,luksmith,initramfs", 1),
                    "luksmith",
                ),
            };
            let plan = |world: &World| if there { to_us(world) } else { back(world) };
            // As a power cut: nothing of ours runs after it.
            let change = plan(&world);
            let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                change.apply(&world.tree, &hooks(None), &mut |step| {
                    assert!(step != stop, "cut");
                    Ok(())
                })
            }));
            assert!(cut.is_err());
            boots(&world);
            let mut again = plan(&world);
            again.new = match there {
                true => again.new,
                false => again.old.replacen(",luksmith", "", 1),
            };
            again
                .apply(&world.tree, &hooks(None), &mut |_| Ok(()))
                .unwrap();
            boots(&world);
            let expected = if there { "luksmith" } else { "cryptsetup" };
            assert_eq!(world.tree.read(&kernels::initramfs(V)).unwrap(), expected);
            let before = if there { "cryptsetup" } else { "luksmith" };
            let copy = world.tree.read(&fallback::copy_of(V)).unwrap();
            assert_eq!(copy, before, "the second way in, after an end at {stop:?}");
            assert_eq!(world.tree.names("/boot/luksmith").len(), 1, "{stop:?}");
            let table = world.tree.read(crypttab::TABLE).unwrap();
            assert_eq!(table.contains("luksmith"), there, "{table}");
        }
    }

    #[test]
    fn an_initramfs_that_cannot_be_made_or_would_not_boot_changes_nothing() {
        for fails in ["make", "look"] {
            let world = world(TABLE, "cryptsetup of before");
            let failure = to_us(&world)
                .apply(&world.tree, &hooks(Some(fails)), &mut |_| Ok(()))
                .unwrap_err();
            assert!(
                failure.to_string().contains("the machine boots as before"),
                "{failure}"
            );
            assert_eq!(world.tree.read(crypttab::TABLE).unwrap(), TABLE);
            let initramfs = world.tree.read(&kernels::initramfs(V)).unwrap();
            assert_eq!(initramfs, "cryptsetup of before", "{fails}");
        }
    }

    /// Adopted long ago, and the machine boots well; `adopt` again, for another option, finds no room
    /// in /boot. The initramfs that boots it is not the one from before the first time.
    #[test]
    fn a_second_call_that_fails_puts_back_the_initramfs_that_it_found() {
        for (there, fails) in [true, false]
            .into_iter()
            .flat_map(|t| ["make", "look"].map(|f| (t, f)))
        {
            let world = match there {
                true => world(TABLE, "cryptsetup"),
                false => world(
                    &TABLE.replacen("discard", "discard,luksmith", 1),
                    "luksmith",
                ),
            };
            let plan = |world: &World| if there { to_us(world) } else { back(world) };
            plan(&world)
                .apply(&world.tree, &hooks(None), &mut |_| Ok(()))
                .unwrap();
            let second_way = world.tree.read(&fallback::copy_of(V)).unwrap();
            let table = world.tree.read(crypttab::TABLE).unwrap();
            let image = kernels::initramfs(V);
            world.tree.replace(&image, "what boots today").unwrap();
            let mut again = plan(&world);
            again.goes_on = true;
            again.new = format!("{},tries=5", again.old);
            // The other one would open it, as far as the look tells.
            again.opener = match fails {
                "look" => Opener::Nobody("as it should be".into()),
                _ => again.opener,
            };
            let fails = Some(fails).filter(|f| *f == "make");
            let failure = again
                .apply(&world.tree, &hooks(fails), &mut |_| Ok(()))
                .unwrap_err();
            assert!(failure.to_string().contains("are as they were"));
            assert_eq!(world.tree.read(&image).unwrap(), "what boots today");
            assert_eq!(world.tree.read(crypttab::TABLE).unwrap(), table);
            let kept = world.tree.read(&fallback::copy_of(V)).unwrap();
            assert_eq!(kept, second_way, "the second way in");
            assert_eq!(world.tree.names("/boot/luksmith").len(), 1);
        }
    }

    #[test]
    fn a_line_that_somebody_changed_meanwhile_is_left_to_him() {
        let world = world(TABLE, "cryptsetup");
        let change = to_us(&world);
        world
            .tree
            .replace(crypttab::TABLE, &TABLE.replace("UUID=1", "UUID=9"))
            .unwrap();
        let made = hooks(None);
        let failure = change
            .apply(&world.tree, &made, &mut |_| Ok(()))
            .unwrap_err();
        assert!(failure.what.contains("meanwhile"), "{failure}");
        assert!(made.made.borrow().is_empty());
    }

    #[test]
    fn what_else_changed_in_the_table_since_stays_after_the_hand_back() {
        let world = world(TABLE, "cryptsetup");
        let apply = |change: Change| change.apply(&world.tree, &hooks(None), &mut |_| Ok(()));
        apply(to_us(&world)).unwrap();
        let table = world.tree.read(crypttab::TABLE).unwrap();
        let edited = format!("# a note\n{}", table.replace("discard", "discard,tries=5"));
        world.tree.replace(crypttab::TABLE, &edited).unwrap();
        apply(back(&world)).unwrap();
        assert_eq!(
            world.tree.read(crypttab::TABLE).unwrap(),
            "# a note\nvda5_crypt UUID=1 none luks,discard,tries=5,initramfs\n\
             swap UUID=2 /dev/urandom swap\n"
        );
        assert_eq!(world.tree.read(&kept_table("vda5_crypt")).unwrap(), TABLE);
    }
}
