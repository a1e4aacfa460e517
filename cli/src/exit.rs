//! Exit numbers. They are cryptsetup's and never change meaning.

/// How the command ended, as the number that a script sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Exit {
    /// 1: wrong or missing parameters, and every failure that has no number of its own.
    Failure = 1,
    /// 2: no permission, or no slot opened with this passphrase.
    NoPermission = 2,
    /// 3: out of memory.
    OutOfMemory = 3,
    /// 4: wrong device or file, or it cannot be reached.
    WrongDevice = 4,
    /// 5: the device exists already or is busy.
    Busy = 5,
    /// 141: nobody reads standard output any more. What a shell sees of a program that the signal
    /// for it (13) has ended; said without a word.
    ClosedPipe = 141,
}

impl Exit {
    /// What the number means, in a few words; printed by `--verbose` and in the man page.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Failure => "wrong or missing parameters, or a failure without its own number",
            Self::NoPermission => "no permission, or a wrong passphrase",
            Self::OutOfMemory => "out of memory",
            Self::WrongDevice => "wrong device",
            Self::Busy => "the device exists already or is busy",
            Self::ClosedPipe => "nobody reads the output",
        }
    }
}
