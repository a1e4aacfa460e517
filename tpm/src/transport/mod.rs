//! How a command gets to a TPM and its answer back: whole frames, nothing of their meaning.

mod device;
mod recorder;
mod stream;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use device::Device;
pub use recorder::{Frame, Recorder, Recording};
pub use stream::Stream;

use crate::address::Address;
use crate::error::TpmError;

/// A way to one TPM.
pub trait Transport: Send {
    /// Sends one command and gives the answer as it came, of at most
    /// [`MAX_FRAME_BYTES`](crate::wire::MAX_FRAME_BYTES) bytes.
    ///
    /// # Errors
    /// [`TpmError::Transport`]; the way may be broken for good then. [`TpmError::Garbage`] for an
    /// answer whose length cannot be.
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError>;
}

impl Transport for Box<dyn Transport> {
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        (**self).transact(command)
    }
}

/// Opens the way to a TPM.
///
/// # Errors
/// [`TpmError::NotPresent`] if nothing is there; [`TpmError::Unsupported`] for `auto` on a machine
/// with several TPMs, where somebody has to name one.
pub fn open(address: &Address) -> Result<Box<dyn Transport>, TpmError> {
    let opened = match address {
        Address::Auto => Device::open(&the_only_device(Path::new("/dev"))?).map(boxed),
        Address::Device(path) => Device::open(path).map(boxed),
        Address::Tcp { host, port } => Stream::tcp(*host, *port).map(boxed),
        Address::Unix(path) => Stream::unix(path).map(boxed),
    };
    opened.map_err(|source| not_present(address.to_string(), source))
}

fn boxed(transport: impl Transport + 'static) -> Box<dyn Transport> {
    Box::new(transport)
}

/// The device of the resource manager of the only TPM below `folder`.
fn the_only_device(folder: &Path) -> Result<PathBuf, TpmError> {
    let missing = |source| not_present("auto".to_owned(), source);
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(missing)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(|name| name.strip_prefix("tpmrm"))
                .is_some_and(|number| number.parse::<u16>().is_ok())
        })
        .collect();
    found.sort();
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        (Some(_), false) => Err(TpmError::Unsupported {
            what: "more than one TPM: name one".to_owned(),
        }),
        (None, _) => Err(missing(io::ErrorKind::NotFound.into())),
    }
}

fn not_present(address: String, source: io::Error) -> TpmError {
    match source.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::NotConnected
        | io::ErrorKind::AddrNotAvailable => TpmError::NotPresent { address, source },
        // ENXIO and ENODEV: the name is there, the chip is not.
        _ if matches!(source.raw_os_error(), Some(6 | 19)) => {
            TpmError::NotPresent { address, source }
        }
        _ => TpmError::Transport(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_the_only_device_and_never_guesses_between_two() {
        let folder = tempfile::tempdir().unwrap();
        let none = the_only_device(folder.path());
        assert!(matches!(none, Err(TpmError::NotPresent { .. })));
        for other in ["tpm0", "tpmrm", "tpmrmx", "null"] {
            fs::write(folder.path().join(other), "").unwrap();
        }
        let none = the_only_device(folder.path());
        assert!(matches!(none, Err(TpmError::NotPresent { .. })));
        fs::write(folder.path().join("tpmrm1"), "").unwrap();
        assert_eq!(
            the_only_device(folder.path()).unwrap(),
            folder.path().join("tpmrm1")
        );
        fs::write(folder.path().join("tpmrm0"), "").unwrap();
        let two = the_only_device(folder.path());
        assert!(matches!(two, Err(TpmError::Unsupported { .. })));
    }

    #[test]
    fn what_is_not_there_is_not_present() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = folder.path().join("nothing");
        for address in [Address::Device(nothing.clone()), Address::Unix(nothing)] {
            let opened = open(&address);
            assert!(matches!(opened, Err(TpmError::NotPresent { .. })));
        }
    }
}
