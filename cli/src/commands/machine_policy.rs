//! The policy of this machine: what PCRs may be, in an NV index of the TPM and in a file beside it.
//!
//! Slots that are bound to it (`tpm enroll --auto`) need not change when a PCR does: `tpm update`
//! rewrites 34 bytes in the TPM, and what was foreseen before is over at once, in every copy of every header.
//! The secret that writes lies in a file of the encrypted root, so only the running system can.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use luksmith_crypto::SecretBytes;
use luksmith_tpm::policy::MAX_BRANCHES;
use luksmith_tpm::token::{PcrlockPolicy, define_index};
use luksmith_tpm::{
    AuthValue, FixedValue, HashAlg, IDENTITY_PCR, PcrList, PcrSelection, Tpm, TpmError,
};

use crate::args::Args;
use crate::commands::tpm_plan::listed;
use crate::commands::why::state_folder;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::passphrase::Source;
use crate::tpm_device;

const POLICY: &str = "policy.json";
const SECRET: &str = "policy.key";
const SECRET_BYTES: usize = 32;
/// One byte at the end of this variable says whether Secure Boot is on (UEFI, "Globally Defined Variables").
const SECURE_BOOT: &str =
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// The policy of this machine, made for these PCRs if there is none yet. Gives its file.
pub(super) fn provide(
    args: &Args,
    tpm: &mut dyn Tpm,
    bank: HashAlg,
    pcrs: &PcrList,
) -> Result<PathBuf, Failure> {
    let folder = state_folder(args);
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
    if !args.flag("without-secure-boot") && !secure_boot() {
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
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(failed)?;
    if folder.join(SECRET).exists() {
        return Err(Failure::usage(format!(
            "{} is missing, but the secret of its index is there: slots may still be bound to it",
            shell(&file)
        ))
        .hint("put the file back, or remove the secret if no slot is bound to the policy any more")
        .command(format!("rm {}", shell(folder.join(SECRET)))));
    }
    let secret = SecretBytes::random(SECRET_BYTES).map_err(errors::crypto)?;
    // Before the index: one that nobody can write to would be of no use.
    write(&folder.join(SECRET), secret.expose()).map_err(failed)?;
    let tpm_failed = |error: TpmError| errors::tpm(&error);
    let proof = AuthValue::new(secret).map_err(errors::crypto)?;
    let index = define_index(tpm, &proof).map_err(|error| {
        // Of no index: the next attempt makes its own.
        let _ = fs::remove_file(folder.join(SECRET));
        tpm_failed(error)
    })?;
    let values = present(tpm, bank, &pcrs.pcrs, &pcrs.values)?;
    let values = values.into_iter().map(|(pcr, value)| (pcr, vec![value]));
    let policy = PcrlockPolicy::new(bank, values.collect(), index).map_err(tpm_failed)?;
    put(&file, &policy, tpm, &proof)?;
    Ok(file)
}

/// Runs `tpm update`: the PCRs as they are now, from the next boot on.
pub(crate) fn update(args: &Args) -> Result<(), Failure> {
    let keep = args.flag("keep");
    let folder = state_folder(args);
    let file = folder.join(POLICY);
    let old = read(&file)?;
    let secret = Source::bytes_of(&folder.join(SECRET))?;
    let proof = AuthValue::new(secret).map_err(errors::crypto)?;
    let mut tpm = tpm_device::connect(args)?;
    let pcrs: Vec<u8> = old.allowed().keys().copied().collect();
    // Only before a volume is open does PCR 15 tell anything; now one is.
    let fuse = BTreeMap::from([(IDENTITY_PCR, FixedValue::Zero)]);
    let now = present(&mut tpm, old.bank(), &pcrs, &fuse)?;
    let mut changed = Vec::new();
    let mut allowed = BTreeMap::new();
    for (pcr, value) in now {
        let before = &old.allowed()[&pcr];
        if before.as_slice() != std::slice::from_ref(&value) {
            changed.push(pcr);
        }
        let mut values = vec![value];
        if keep {
            let others = before.iter().filter(|one| **one != values[0]).cloned();
            values.extend(others.collect::<Vec<_>>());
            // No TPM takes more; the oldest goes.
            values.truncate(MAX_BRANCHES);
        }
        allowed.insert(pcr, values);
    }
    let index = old
        .index()
        .cloned()
        .ok_or_else(|| Failure::usage(format!("{} names no NV index", shell(&file))).no_disk())?;
    let policy =
        PcrlockPolicy::new(old.bank(), allowed, index).map_err(|error| errors::tpm(&error))?;
    put(&file, &policy, &mut tpm, &proof)?;
    output::text(&match changed.as_slice() {
        [] => "The policy is as it was.\n".to_owned(),
        changed => format!("The policy has new values of PCR {}.\n", listed(changed)),
    })?;
    output::note(
        "The initramfs has a copy of it, if a volume is opened there: update-initramfs -u",
    );
    Ok(())
}

/// First the file, beside the old one; then the index, from which moment it counts; then in place of
/// the old one. Cut off in between, the next update puts both right.
fn put(
    file: &Path,
    policy: &PcrlockPolicy,
    tpm: &mut dyn Tpm,
    proof: &AuthValue,
) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::usage(format!("cannot write {}: {error}", shell(file)));
    let json = policy.to_json().map_err(|error| errors::tpm(&error))?;
    let unfinished = file.with_extension("new");
    write(&unfinished, json.to_string().as_bytes()).map_err(failed)?;
    policy
        .put_in_force(tpm, proof)
        .map_err(|error| errors::tpm(&error))?;
    fs::rename(&unfinished, file).map_err(failed)?;
    sync_folder(file).map_err(failed)
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

fn secure_boot() -> bool {
    fs::read(SECURE_BOOT).is_ok_and(|bytes| bytes.last() == Some(&1))
}

/// For root alone, whole and on the disk.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    sync_folder(file)
}

fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    fs::File::open(folder)?.sync_all()
}
