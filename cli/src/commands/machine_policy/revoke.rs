//! `tpm revoke`: an end to all that the policy of this machine opens.

use std::io;

use luksmith_tpm::TpmError;

use super::{MachinePolicy, POLICY, WRITER};
use crate::args::Args;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::output;
use crate::session::confirm;
use crate::tpm_device;
use crate::whole_file;

/// Runs the verb. The index goes before the files: cut off in between, the next attempt finds them still.
pub(crate) fn revoke(args: &Args) -> Result<(), Failure> {
    let mut tpm = tpm_device::connect(args)?;
    let machine = MachinePolicy::read(args, &mut tpm)?;
    confirm(
        args,
        &[
            "No slot that is bound to the policy of this machine will open any more, on whatever disk, nor"
                .to_owned(),
            "by a copy of its header. This cannot be undone. Passphrases and recovery keys are not touched."
                .to_owned(),
        ],
    )?;
    match machine.policy.revoke(&mut tpm) {
        // By an attempt that was cut off, or with the whole TPM.
        Ok(()) | Err(TpmError::NoSuchIndex { .. }) => {}
        Err(other) => return Err(errors::tpm(&other)),
    }
    for name in [POLICY, WRITER] {
        let file = machine.folder.join(name);
        match whole_file::remove(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::usage(format!(
                    "the policy is revoked, but {} could not be removed: {error}",
                    shell(&file)
                )));
            }
            _ => {}
        }
    }
    output::text("The policy of this machine is revoked.\n")?;
    output::note(
        "Slots that were bound to it are of no use any more: luksmith tpm list DEVICE, tpm wipe DEVICE",
    );
    Ok(())
}
