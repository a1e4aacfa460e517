//! `erase`: all keyslots go; the data with them.

use crate::args::Args;
use crate::errors;
use crate::hint::{Failure, shell};
use crate::session::{Session, confirm};

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut session = Session::change(args)?;
    let name = shell(&session.header_path);
    confirm(
        args,
        &[
            format!("WARNING: all keyslots of {name} are about to be destroyed."),
            "Without a header backup the data is lost for ever.".to_string(),
        ],
    )?;
    let change = luksmith_keyslot::erase(session.header())
        .map_err(|e| errors::plan(&session.header_path, e))?;
    session.apply_as_it_is(change)
}
