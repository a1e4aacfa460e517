//! The values of the next boot.

use super::event::{Event, EventKind};
use super::replay::Standing;
use super::{EventLog, LogError};
use crate::pcr::PcrValues;

/// What becomes of an event at the next boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// It comes again as it was.
    Same,
    /// It comes with this digest: of a new kernel, initrd, command line.
    Digest(Vec<u8>),
    /// It does not come: a command that was dropped from GRUB's configuration, or what is measured
    /// only after the volume was opened.
    Absent,
}

impl From<Option<Vec<u8>>> for Next {
    /// A new digest, or none.
    fn from(digest: Option<Vec<u8>>) -> Self {
        digest.map_or(Self::Same, Self::Digest)
    }
}

/// The values that PCRs had when this boot opened its first volume: without the phases that systemd
/// measures later.
///
/// # Errors
/// Those of [`predict()`].
pub fn when_unlocked(log: &EventLog, actual: &PcrValues) -> Result<PcrValues, LogError> {
    predict(log, actual, |event| {
        if is_later_phase(event) {
            Next::Absent
        } else {
            Next::Same
        }
    })
}

/// A phase after that in which volumes are opened (`systemd-pcrphase(8)`).
pub(super) fn is_later_phase(event: &Event) -> bool {
    event.kind == EventKind::Userspace("phase".to_owned()) && event.text() != "enter-initrd"
}

/// The values of the PCRs of `actual` at the next boot, if it goes like this one but for what `next`
/// says of each event. `actual` is what the TPM holds now.
///
/// Which event is which, a caller tells by [`Event::text`] and by its digest:
///
/// * PCR 4: an image, by its path, else by the [`authenticode_digest`](super::authenticode_digest)
///   of the present file: GRUB and shim log the kernel without a path, and twice.
/// * PCR 8: a command of GRUB ("grub_cmd: linux /vmlinuz …") and the command line
///   ("kernel_cmdline: /vmlinuz …"): [`measure`](super::measure()) of what is to stand for
///   [`Event::grub_command`]. Both change when the command line does.
/// * PCR 9: a file that GRUB read, by its path: [`measure`](super::measure()) of its content. Without
///   GRUB "LOADED_IMAGE::LoadOptions", by
///   [`load_options_digest`](super::load_options_digest), and "Linux initrd", by its content.
/// * PCR 11: sections of a unified kernel image, each twice: first its name with a zero at its end,
///   then its content, both with the name as text. [`measure`](super::measure()) of either.
/// * PCR 12: the command line that was typed or configured, which is its own text:
///   [`systemd_command_line_digest`](super::systemd_command_line_digest).
///
/// # Errors
/// [`LogError::Unexplained`] if the log does not lead to the present value of one of the PCRs: then
/// it does not tell how the next one comes about. [`LogError::OtherBank`] for a digest that is not of
/// the bank of `actual`, [`LogError::NoSuchBank`] if the log is not.
pub fn predict(
    log: &EventLog,
    actual: &PcrValues,
    mut next: impl FnMut(&Event) -> Next,
) -> Result<PcrValues, LogError> {
    for (pcr, standing) in log.explain(actual)? {
        if standing == Standing::Unexplained {
            return Err(LogError::Unexplained { pcr });
        }
    }
    let Some(selection) = actual.selection() else {
        return Ok(actual.clone());
    };
    let bank = selection.bank();
    let all = log.replay_with(bank, &mut next)?;
    let mut predicted = PcrValues::new(bank);
    for pcr in selection.pcrs() {
        // Untouched PCRs keep what they have: zero or ones, as the platform has it.
        let touched = log
            .events()
            .iter()
            .any(|event| event.pcr == pcr && event.extends());
        let value = if touched {
            all.get(pcr)
        } else {
            actual.get(pcr)
        };
        predicted
            .insert(pcr, value.expect("every PCR has a value"))
            .expect("a PCR, and a value of its bank");
    }
    Ok(predicted)
}
