//! From an error to what a person reads: what happened, whether the disk was written, and the
//! next command. The one place where advice is given; every failing path of the command ends
//! in a [`Failure`].

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::Exit;

/// What a failed command did to the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    /// Not a byte.
    Nothing,
    /// An earlier step of the command, and nothing after it.
    Before,
    /// The sentence says what was written, or what may have been.
    Something(Box<str>),
    /// The command writes to no disk, so there is nothing to say.
    NotAsked,
}

/// Whether a step of this command was written. For the whole process, as whatever fails after that step, however far from
/// it, must not say that nothing was written: somebody would throw away a recovery key that counts.
static STEP_WRITTEN: AtomicBool = AtomicBool::new(false);

/// From now on no failure says that nothing was written.
pub(crate) fn step_was_written() {
    STEP_WRITTEN.store(true, Ordering::Relaxed);
}

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit number.
    pub exit: Exit,
    /// One line: what could not be done, and why.
    pub what: Box<str>,
    /// More lines, one fact each.
    pub details: Vec<String>,
    /// Whether the disk was written.
    pub written: Written,
    /// What to do next, in words.
    pub hint: Option<Box<str>>,
    /// What to type next.
    pub commands: Vec<String>,
    /// Printed only with `--verbose`: the exit number is the answer.
    pub quiet: bool,
}

impl Failure {
    /// A failure that wrote nothing.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into().into_boxed_str(),
            details: Vec::new(),
            written: if STEP_WRITTEN.load(Ordering::Relaxed) {
                Written::Before
            } else {
                Written::Nothing
            },
            hint: None,
            commands: Vec::new(),
            quiet: false,
        }
    }
    /// Wrong or missing parameters (1).
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Failure, what)
    }
    /// Adds a fact.
    pub(crate) fn detail(mut self, line: impl fmt::Display) -> Self {
        self.details.push(line.to_string());
        self
    }
    /// Says what was written.
    pub(crate) fn wrote(mut self, what: impl Into<String>) -> Self {
        self.written = Written::Something(what.into().into_boxed_str());
        self
    }
    /// Says nothing about disks: the command had none to write to, unless an earlier step of it had.
    pub(crate) fn no_disk(mut self) -> Self {
        if self.written != Written::Before {
            self.written = Written::NotAsked;
        }
        self
    }
    /// The exit number is the answer; the words come with `--verbose` only.
    pub(crate) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }
    /// Adds advice.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into().into_boxed_str());
        self
    }
    /// Adds a command that helps.
    pub(crate) fn command(mut self, command: impl Into<String>) -> Self {
        self.commands.push(command.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.what)?;
        for line in &self.details {
            writeln!(f, "  {line}")?;
        }
        match &self.written {
            Written::Nothing => writeln!(f, "  nothing was written to the disk")?,
            Written::Before => writeln!(
                f,
                "  what is said above to be done was written to the disk and counts; nothing else was"
            )?,
            Written::Something(what) => writeln!(f, "  {what}")?,
            Written::NotAsked => {}
        }
        match (&self.hint, self.commands.is_empty()) {
            (Some(hint), true) => writeln!(f, "hint: {hint}")?,
            (Some(hint), false) => writeln!(f, "hint: {hint}:")?,
            (None, false) => writeln!(f, "hint: the next command:")?,
            (None, true) => {}
        }
        for command in &self.commands {
            writeln!(f, "        {command}")?;
        }
        Ok(())
    }
}

/// Quotes a word for a POSIX shell when it needs it, so that a suggested command can be pasted.
pub(crate) fn shell(word: impl AsRef<std::path::Path>) -> String {
    let text = word.as_ref().to_string_lossy().into_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_happened_what_was_written_and_what_to_type() {
        let failure = Failure::new(Exit::NoPermission, "cannot unlock a.img: wrong passphrase")
            .detail("slot 0: does not open")
            .hint("look at the slots")
            .command("luksmith slot list a.img");
        assert_eq!(
            failure.to_string(),
            "error: cannot unlock a.img: wrong passphrase\n  slot 0: does not open\n  \
             nothing was written to the disk\nhint: look at the slots:\n        \
             luksmith slot list a.img\n"
        );
    }

    #[test]
    fn a_suggested_command_is_quoted_for_the_shell() {
        assert_eq!(shell("/dev/sda1"), "/dev/sda1");
        assert_eq!(shell("my disk"), "'my disk'");
        assert_eq!(shell("it's"), r"'it'\''s'");
    }
}
