//! `tpm grace`: one boot may measure what nobody could foresee.

use luksmith_tpm::IDENTITY_PCR;

use super::MachinePolicy;
use crate::args::Args;
use crate::commands::tpm_plan::{listed, parse_pcrs};
use crate::errors;
use crate::hint::Failure;
use crate::output;
use crate::session::confirm;
use crate::tpm_device;

/// Runs the verb.
pub(crate) fn grace(args: &Args) -> Result<(), Failure> {
    let mut tpm = tpm_device::connect(args)?;
    let mut machine = MachinePolicy::read(args, &mut tpm)?;
    if args.flag("withdraw") {
        return match machine.policy.grace() {
            None if machine.settled => output::text("There is no grace.\n"),
            _ => {
                let allowed = machine.policy.allowed().clone();
                machine.put(&mut tpm, allowed)?;
                output::text("The grace is withdrawn.\n")
            }
        };
    }
    let free = match args.text("tpm2-pcrs") {
        Some(text) => parse_pcrs(&text)?.pcrs,
        // PCR 15 tells nothing of a boot, but whether a volume is open already.
        None => machine
            .pcrs()
            .into_iter()
            .filter(|pcr| *pcr != IDENTITY_PCR)
            .collect(),
    };
    confirm(
        args,
        &[
            format!(
                "One boot may open a volume of this machine with any value of PCR {}.",
                listed(&free)
            ),
            "Until then whoever steals the machine can have it boot what he likes, and open one."
                .to_owned(),
        ],
    )?;
    let policy = machine
        .policy
        .clone()
        .with_grace(&mut tpm, &free)
        .map_err(|error| errors::tpm(&error))?;
    machine.put_policy(&mut tpm, policy)?;
    output::text(&format!(
        "The next boot may differ in PCR {}, once.\n",
        listed(&free)
    ))?;
    output::note(
        "Nothing opens by it any more once it was used, or by: luksmith tpm grace --withdraw",
    );
    Ok(())
}
