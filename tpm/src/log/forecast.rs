//! What the next boot will measure, by the files that it will read.
//!
//! [`predict()`] wants to know what becomes of each event. Here it is told, for boots by shim and GRUB,
//! by systemd's loader and unified kernel images, and of a kernel that the firmware starts. What depends
//! on more than files is not guessed: such a PCR is named, with the reason.

use std::collections::{BTreeMap, BTreeSet};

use super::authenticode::{authenticode_digest, image_section};
use super::event::Event;
use super::measure::{load_options_digest, measure, systemd_command_line_digest};
use super::predict::{Next, is_later_phase, predict};
use super::replay::Standing;
use super::subject::Subject;
use super::{EventLog, LogError};
use crate::hash::HashAlg;
use crate::pcr::PcrValues;

/// The sections that systemd's stub measures (`systemd-stub(7)`), and where to.
const MEASURED_SECTIONS: &[&str] = &[
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat",
    ".pcrpkey", ".profile", ".dtbauto", ".hwids",
];
const UNIFIED_PCR: u8 = 11;

/// How a command line is measured.
type Way = fn(HashAlg, &str) -> Vec<u8>;

/// The files of the next boot, as its loaders would find them.
pub trait BootFiles {
    /// A file by the path that is in the log: the firmware's (`\EFI\debian\shimx64.efi`) or GRUB's
    /// (`(hd0,gpt2)/grub/grub.cfg`). `None` if there is none.
    fn by_path(&mut self, path: &str) -> Option<Vec<u8>>;
    /// The kernel that will be started, where the log does not say by which path.
    fn kernel(&mut self) -> Option<Vec<u8>>;
    /// Its initrd.
    fn initrd(&mut self) -> Option<Vec<u8>>;
    /// The kernel's command line at this boot, and at the next.
    fn command_lines(&mut self) -> Option<(String, String)>;
}

/// What is known of the PCRs of the next boot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forecast {
    /// The values that can be foreseen.
    pub values: BTreeMap<u8, Vec<u8>>,
    /// The PCRs that cannot, and why.
    pub unforeseeable: BTreeMap<u8, String>,
    /// What was not found among the files, and is taken to be as at this boot.
    pub taken_as_it_was: BTreeSet<String>,
}

/// Foresees the values of the PCRs of `actual`, which is what the TPM holds now.
///
/// # Errors
/// [`LogError::NoSuchBank`] if the log has no digests of that bank.
pub fn foresee(
    log: &EventLog,
    actual: &PcrValues,
    files: &mut dyn BootFiles,
) -> Result<Forecast, LogError> {
    let mut forecast = Forecast::default();
    let Some(selection) = actual.selection() else {
        return Ok(forecast);
    };
    let bank = selection.bank();
    let mut explained = PcrValues::new(bank);
    for (pcr, standing) in log.explain(actual)? {
        if standing == Standing::Unexplained {
            let why = "the event log does not lead to its present value";
            forecast.unforeseeable.insert(pcr, why.to_owned());
        } else {
            let value = actual.get(pcr).expect("it was explained");
            explained.insert(pcr, value).expect("a PCR of its bank");
        }
    }
    let wanted: BTreeSet<u8> = selection.pcrs().collect();
    let mut course = Course {
        bank,
        files,
        wanted,
        unified: None,
        sections: BTreeSet::new(),
        unforeseeable: BTreeMap::new(),
        taken_as_it_was: BTreeSet::new(),
    };
    let values = predict(log, &explained, |event| course.next(event))?;
    course.end();
    for pcr in explained.selection().iter().flat_map(|these| these.pcrs()) {
        let value = values.get(pcr).expect("it was asked for");
        forecast.values.insert(pcr, value.to_vec());
    }
    for (pcr, why) in course.unforeseeable {
        if forecast.values.remove(&pcr).is_some() {
            forecast.unforeseeable.insert(pcr, why);
        }
    }
    forecast.taken_as_it_was = course.taken_as_it_was;
    Ok(forecast)
}

/// The next boot, as far as it went.
struct Course<'a> {
    bank: HashAlg,
    files: &'a mut dyn BootFiles,
    /// Other PCRs are looked at only for what they tell about these.
    wanted: BTreeSet<u8>,
    /// The unified kernel image that was started last.
    unified: Option<Vec<u8>>,
    /// Those of its sections that were measured.
    sections: BTreeSet<String>,
    unforeseeable: BTreeMap<u8, String>,
    taken_as_it_was: BTreeSet<String>,
}

impl Course<'_> {
    fn next(&mut self, event: &Event) -> Next {
        if is_later_phase(event) {
            return Next::Absent;
        }
        let text = event.text();
        match Subject::of(event.pcr, &event.kind, &text) {
            Subject::BootImage(path) if event.pcr == 4 => self.image(&path),
            Subject::Kernel(path)
            | Subject::File(path)
            | Subject::Initrd(path)
            | Subject::LoaderConfiguration(path)
                if event.pcr == 9 && !path.is_empty() =>
            {
                self.read_by_grub(event, &path)
            }
            Subject::Initrd(_) if event.pcr == 9 => self.initrd(),
            Subject::KernelCommandLine(_) if event.pcr == 9 => self.command_line(event),
            Subject::UkiSection(name) => self.section(event, &name),
            _ => Next::Same,
        }
    }

    /// Measured before it was started: a loader, a kernel, a kernel within a unified image.
    fn image(&mut self, path: &str) -> Next {
        if ![4, 9, 11].iter().any(|pcr| self.wanted.contains(pcr)) {
            return Next::Same;
        }
        let image = if let Some(unified) = self.unified.take().filter(|_| path.is_empty()) {
            let kernel = image_section(&unified, ".linux").ok().flatten();
            let digest = kernel.map(|kernel| authenticode_digest(self.bank, kernel));
            let next = self.known(
                4,
                digest.and_then(Result::ok),
                "the kernel in the unified image",
            );
            self.unified = Some(unified);
            return next;
        } else if path.starts_with('\\') {
            self.files.by_path(path)
        } else {
            self.files.kernel()
        };
        let digest = image
            .as_deref()
            .and_then(|image| authenticode_digest(self.bank, image).ok());
        self.unified = image.filter(|image| matches!(image_section(image, ".linux"), Ok(Some(_))));
        let name = if path.starts_with('\\') {
            path
        } else {
            "the kernel"
        };
        self.known(4, digest, name)
    }

    fn read_by_grub(&mut self, event: &Event, path: &str) -> Next {
        if !(self.wanted.contains(&9) || self.wanted.contains(&8) && path.ends_with(".cfg")) {
            return Next::Same;
        }
        let digest = self
            .files
            .by_path(path)
            .map(|content| measure(self.bank, &content));
        let changed = digest
            .as_deref()
            .is_some_and(|new| Some(new) != event.digest(self.bank));
        if changed && path.ends_with(".cfg") {
            let why = "GRUB's configuration changed, and GRUB measures what it executes";
            self.unforeseeable.insert(8, why.to_owned());
        }
        // The configuration counts for what is executed, too.
        let pcr = if self.wanted.contains(&9) { 9 } else { 8 };
        self.known(pcr, digest, path)
    }

    /// Measured by the kernel, of what its loader gave it.
    fn initrd(&mut self) -> Next {
        if !self.wanted.contains(&9) {
            return Next::Same;
        }
        if self.unified.is_some() {
            let why = "the stub of a unified image puts more into the initrd than the image has";
            self.unforeseeable.insert(9, why.to_owned());
            return Next::Same;
        }
        let digest = self
            .files
            .initrd()
            .map(|content| measure(self.bank, &content));
        self.known(9, digest, "the initrd")
    }

    fn command_line(&mut self, event: &Event) -> Next {
        // Firmware gives the kernel a line with a zero at its end; that of GRUB has none.
        let ways: [Way; 2] = [load_options_digest, systemd_command_line_digest];
        let digest = self.files.command_lines().and_then(|(this, next)| {
            let is_it = |way: &&Way| event.digest(self.bank) == Some(&way(self.bank, &this));
            Some(ways.iter().find(is_it)?(self.bank, &next))
        });
        self.known(9, digest, "the kernel's command line")
    }

    /// Each section is measured twice: its name, then what is in it.
    fn section(&mut self, event: &Event, name: &str) -> Next {
        let its_name = [name.as_bytes(), &[0]].concat();
        if event.digest(self.bank) == Some(&measure(self.bank, &its_name)) {
            return Next::Same;
        }
        let Some(unified) = &self.unified else {
            return self.known(UNIFIED_PCR, None, "the unified kernel image");
        };
        self.sections.insert(name.to_owned());
        match image_section(unified, name) {
            Ok(Some(content)) => Next::Digest(measure(self.bank, content)),
            _ => {
                let why = format!("the unified kernel image has no {name} any more");
                self.unforeseeable.insert(event.pcr, why);
                Next::Same
            }
        }
    }

    /// A section that is new will be measured, too, and nothing says after which.
    fn end(&mut self) {
        let Some(unified) = self.unified.take().filter(|_| !self.sections.is_empty()) else {
            return;
        };
        for name in MEASURED_SECTIONS {
            let is_there = matches!(image_section(&unified, name), Ok(Some(_)));
            if is_there && !self.sections.contains(*name) {
                let why = format!("the unified kernel image has a {name} now");
                self.unforeseeable.insert(UNIFIED_PCR, why);
            }
        }
    }

    fn known(&mut self, pcr: u8, digest: Option<Vec<u8>>, name: &str) -> Next {
        if digest.is_none() && self.wanted.contains(&pcr) {
            self.taken_as_it_was.insert(name.to_owned());
        }
        digest.into()
    }
}
