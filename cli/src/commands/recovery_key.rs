//! A recovery key on the screen: once, as letters and as a picture for a telephone's camera.

use std::io::IsTerminal;
use std::path::Path;

use luksmith_crypto::Passphrase;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use zeroize::Zeroizing;

use crate::args::Args;
use crate::hint::{Failure, shell};
use crate::output;
use crate::prompt;

/// How often the last letters may be typed wrong.
const TRIES: u32 = 3;

/// Shows the key, and where somebody sits there, has the end of it typed in: a key that nobody
/// wrote down is worth nothing. Nothing may be written before this returns.
pub(super) fn show(args: &Args, volume: &Path, key: &Passphrase) -> Result<(), Failure> {
    output::note(&format!(
        "This recovery key opens {} by itself. It is shown only now: write it down, and keep it \
         away from this machine.",
        shell(volume)
    ));
    output::bytes(key.expose())?;
    output::text("\n")?;
    if std::io::stdout().is_terminal() {
        picture(key)?;
    }
    if args.flag("batch-mode") || !prompt::person_there() {
        return Ok(());
    }
    for _ in 0..TRIES {
        let typed =
            prompt::passphrase("Its last eight letters, to show that you have them: ", None)?;
        if typed.len() == 8 && key.expose().ends_with(typed.expose()) {
            return Ok(());
        }
        output::note("That is not the end of the key above.");
    }
    Err(
        Failure::usage("stopped: the recovery key was not typed back, and is void")
            .hint("--batch-mode asks for nothing"),
    )
}

fn picture(key: &Passphrase) -> Result<(), Failure> {
    let Ok(code) = QrCode::new(key.expose()) else {
        return Ok(());
    };
    let lines = Zeroizing::new(
        code.render::<Dense1x2>()
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark)
            .build(),
    );
    output::bytes(lines.as_bytes())?;
    output::text("\n")
}
