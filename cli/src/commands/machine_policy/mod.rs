//! The policy of this machine: what PCRs may be, in NV indices of the TPM and in a file.
//!
//! Slots that are bound to it (`tpm enroll --auto`) need not change when a PCR does: the policy is
//! rewritten, and what was foreseen before is over at once, in every copy of every header. The key that
//! writes lies in a file of the encrypted root, so only the running system can.
//!
//! ```text
//! provide    made when the first slot is bound to it
//! predict    predict.rs   the values of the next boot, beside those of this one
//! update     update.rs    the values of this boot, after it went well
//! grace      grace.rs     one boot may measure what nobody could foresee
//! revoke     revoke.rs    nothing opens any more
//! ```

mod boot_files;
mod grace;
mod predict;
mod revoke;
mod update;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use luksmith_tpm::token::{Kept, PcrlockPolicy, define_index};
use luksmith_tpm::{FixedValue, HashAlg, PcrList, PcrSelection, Tpm, TpmError, WriterKey};
use nix::fcntl::{Flock, FlockArg};

use crate::args::Args;
use crate::commands::tpm_plan::listed;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::passphrase::Source;
use crate::{secure_boot, state, whole_file};

pub(crate) use boot_files::waiting_firmware;
pub(crate) use grace::grace;
pub(crate) use predict::{next_boots, predict};
pub(crate) use revoke::revoke;
pub(crate) use update::update;

const POLICY: &str = "policy.json";
const WRITER: &str = "policy.key";

/// The values that each PCR may have, the one that counts most first.
type Allowed = BTreeMap<u8, Vec<Vec<u8>>>;

/// The policy, and the right to change it.
struct MachinePolicy {
    folder: PathBuf,
    /// What the TPM has in force; else what the file says.
    policy: PcrlockPolicy,
    /// Whether the file says what is in force. A write may have been cut off between the TPM and the file, or the
    /// root put back from a copy; then something may be in force that nobody knows of.
    settled: bool,
    writer: WriterKey,
    /// Hooks of several packages may run at the same time.
    _lock: Flock<File>,
}

impl MachinePolicy {
    fn read(args: &Args, tpm: &mut dyn Tpm) -> Result<Self, Failure> {
        let folder = state::folder(args);
        let file = folder.join(POLICY);
        // Says what is missing, where there is not even a folder to lock.
        if !folder.exists() {
            read(&file)?;
        }
        let lock = lock(&folder)?;
        let said = read(&file)?;
        let Some(index) = said.index().cloned() else {
            let what = format!("{} names no NV index", shell(&file));
            return Err(Failure::usage(what).no_disk());
        };
        let secret = Source::bytes_of(&folder.join(WRITER))?;
        let writer = WriterKey::from_secret(secret).map_err(|error| errors::tpm(&error))?;
        let settled = said.is_in_force(tpm);
        let kept = PcrlockPolicy::kept(tpm, &index);
        let (settled, policy) = match (settled, kept) {
            (Ok(false), Ok(Some(kept))) => (false, kept),
            (Ok(settled), Ok(_)) => (settled, said),
            // What was to be done with the index says what is wrong with it.
            (
                Err(
                    TpmError::NoSuchIndex { .. }
                    | TpmError::IndexRefused { .. }
                    | TpmError::PolicyMismatch { .. },
                ),
                _,
            ) => (false, said),
            (Err(error), _) | (_, Err(error)) => return Err(errors::tpm(&error)),
        };
        Ok(Self {
            folder,
            policy,
            settled,
            writer,
            _lock: lock,
        })
    }

    fn pcrs(&self) -> Vec<u8> {
        self.policy.allowed().keys().copied().collect()
    }

    /// Puts these values into force, and no grace.
    fn put(&mut self, tpm: &mut dyn Tpm, allowed: Allowed) -> Result<(), Failure> {
        let index = self.policy.index().cloned().expect("read() looked");
        let policy = PcrlockPolicy::new(self.policy.bank(), allowed, index)
            .map_err(|error| errors::tpm(&error))?;
        self.put_policy(tpm, policy)
    }

    fn put_policy(&mut self, tpm: &mut dyn Tpm, policy: PcrlockPolicy) -> Result<(), Failure> {
        put(&self.folder.join(POLICY), &policy, tpm, &self.writer)?;
        self.policy = policy;
        self.settled = true;
        Ok(())
    }
}

/// The policy of this machine, made for these PCRs if there is none yet. Gives its file.
pub(super) fn provide(
    args: &Args,
    tpm: &mut dyn Tpm,
    bank: HashAlg,
    pcrs: &PcrList,
) -> Result<PathBuf, Failure> {
    let folder = state::folder(args);
    let file = folder.join(POLICY);
    if file.exists() {
        let policy = read(&file)?;
        let (have, want): (Vec<u8>, _) = (policy.allowed().keys().copied().collect(), &pcrs.pcrs);
        if have != *want || policy.bank() != bank {
            output::note(&format!(
                "This machine has a policy for PCR {} of {} already; the slot is bound to that.",
                listed(&have),
                policy.bank().name()
            ));
        }
        return Ok(file);
    }
    if !args.flag("without-secure-boot") && secure_boot::is_on() != Some(true) {
        return Err(Failure::usage(
            "Secure Boot is off or cannot be seen: any kernel could boot and have the TPM unlock the volume",
        )
        .hint("switch it on, or take a PIN (leave out --auto); --without-secure-boot does it all the same"));
    }
    let failed = |error: io::Error| {
        Failure::usage(format!(
            "cannot keep the policy in {}: {error}",
            shell(&folder)
        ))
    };
    whole_file::make_folder(&folder).map_err(failed)?;
    let _lock = lock(&folder)?;
    if folder.join(WRITER).exists() {
        return Err(Failure::usage(format!(
            "{} is missing, but the key that writes it is there: slots may still be bound to it",
            shell(&file)
        ))
        .hint("put the file back, or remove the key if no slot is bound to the policy any more")
        .command(format!("rm {}", shell(folder.join(WRITER)))));
    }
    let tpm_failed = |error: TpmError| errors::tpm(&error);
    let writer = WriterKey::generate().map_err(tpm_failed)?;
    // Before the index: one that nobody can write to would be of no use.
    whole_file::write(&folder.join(WRITER), writer.secret().expose()).map_err(failed)?;
    let index = define_index(tpm, &writer).map_err(|error| {
        // Of no index: the next attempt makes its own.
        let _ = fs::remove_file(folder.join(WRITER));
        tpm_failed(error)
    })?;
    let values = present(tpm, bank, &pcrs.pcrs, &pcrs.values)?;
    let values = values.into_iter().map(|(pcr, value)| (pcr, vec![value]));
    let policy = PcrlockPolicy::new(bank, values.collect(), index).map_err(tpm_failed)?;
    put(&file, &policy, tpm, &writer)?;
    Ok(file)
}

/// First the file, beside the old one; then the TPM, from which moment it counts; then in place of
/// the old one. Cut off in between, [`MachinePolicy::read`] sees it and the next verb puts both right.
fn put(
    file: &Path,
    policy: &PcrlockPolicy,
    tpm: &mut dyn Tpm,
    writer: &WriterKey,
) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::usage(format!("cannot write {}: {error}", shell(file)));
    let json = policy.to_json().map_err(|error| errors::tpm(&error))?;
    whole_file::prepare(file, json.to_string().as_bytes()).map_err(failed)?;
    let kept = policy
        .put_in_force(tpm, writer)
        .map_err(|error| errors::tpm(&error))?;
    whole_file::put_in_place(file).map_err(failed)?;
    if let Kept::OnlyInFile(why) = kept {
        output::note(&format!(
            "The TPM cannot keep the policy itself ({why}). If a volume is opened in the initramfs, that needs \
             the new file: update-initramfs -u"
        ));
    }
    Ok(())
}

fn read(file: &Path) -> Result<PcrlockPolicy, Failure> {
    let bytes = fs::read(file).map_err(|error| {
        Failure::usage(format!("cannot read the policy {}: {error}", shell(file)))
            .no_disk()
            .hint("a machine has one after a slot was bound to it")
            .command("luksmith tpm enroll DEVICE --auto")
    })?;
    PcrlockPolicy::parse(&bytes)
        .map_err(|error| Failure::usage(format!("{}: {error}", shell(file))).no_disk())
}

/// What PCRs are now, but for those of which it was said what they shall be.
fn present(
    tpm: &mut dyn Tpm,
    bank: HashAlg,
    pcrs: &[u8],
    said: &BTreeMap<u8, FixedValue>,
) -> Result<BTreeMap<u8, Vec<u8>>, Failure> {
    let failed = |error: TpmError| errors::tpm(&error);
    let selection = PcrSelection::new(bank, pcrs).map_err(failed)?;
    let values = tpm.read_pcrs(&selection).map_err(failed)?;
    let mut all = BTreeMap::new();
    for pcr in pcrs {
        let value = match said.get(pcr) {
            Some(said) => said.in_bank(bank).map_err(failed)?,
            None => values.get(*pcr).unwrap_or_default().to_vec(),
        };
        all.insert(*pcr, value);
    }
    Ok(all)
}

/// One change of the policy at a time.
fn lock(folder: &Path) -> Result<Flock<File>, Failure> {
    let failed = |error: io::Error| {
        Failure::usage(format!("cannot lock {}: {error}", shell(folder))).no_disk()
    };
    let folder = File::open(folder).map_err(failed)?;
    Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))
}
