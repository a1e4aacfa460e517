//! Which TPM, and through what: `--tpm2-device`, `--tpm2-backend`.

use std::path::Path;

use luksmith_tpm::token::PolicyFiles;
use luksmith_tpm::{Address, Native, Tpm, TpmError};

use crate::args::Args;
use crate::errors;
use crate::hint::Failure;

/// The connection of this program to a TPM.
pub(crate) type Connection = Box<dyn Tpm>;

/// Where a TPM is, and which back end speaks to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Our own client.
    Native(Address),
    /// tpm2-tss, with the configuration of a TCTI in its own words.
    Esapi(String),
}

/// Where the kernel has a TPM behind its resource manager.
const KERNEL_TCTI: &str = "device:/dev/tpmrm0";
/// TCTIs that no other back end has, by the names that systemd takes.
const ONLY_ESAPI: [&str; 2] = ["mssim:", "tabrmd:"];

impl Place {
    /// The one TPM of the machine.
    pub(crate) const AUTO: Self = Self::Native(Address::Auto);

    fn read(text: &str, back_end: Option<&str>) -> Result<Self, String> {
        let tcti = text.strip_prefix("tcti:");
        match (back_end, tcti) {
            (Some("native"), Some(_)) => {
                Err("tcti:… is for tpm2-tss, which --tpm2-backend=native excludes".to_owned())
            }
            (_, Some(tcti)) => Ok(Self::Esapi(tcti.to_owned())),
            (Some("esapi"), None) => match text.parse() {
                Ok(Address::Auto) => Ok(Self::Esapi(KERNEL_TCTI.to_owned())),
                // tpm2-tss would take no notice of the path and go to a port.
                Ok(Address::Unix(_)) => {
                    Err("esapi reaches no swtpm by the path of a socket".to_owned())
                }
                Ok(address) => Ok(Self::Esapi(address.to_string())),
                Err(_) if text.contains(':') => Ok(Self::Esapi(text.to_owned())),
                Err(error) => Err(error.to_string()),
            },
            (None, None) if ONLY_ESAPI.iter().any(|name| text.starts_with(name)) => {
                Ok(Self::Esapi(text.to_owned()))
            }
            _ => text
                .parse()
                .map(Self::Native)
                .map_err(|error: TpmError| error.to_string()),
        }
    }

    /// Connects.
    pub(crate) fn open(&self) -> Result<Connection, TpmError> {
        match self {
            Self::Native(address) => Ok(Box::new(Native::open(address)?)),
            #[cfg(feature = "esapi")]
            Self::Esapi(tcti) => Ok(Box::new(luksmith_tpm::Esapi::open(tcti)?)),
            #[cfg(not(feature = "esapi"))]
            Self::Esapi(tcti) => Err(TpmError::Unsupported {
                what: format!("TCTI {tcti:?}, as this program was built without its feature esapi"),
            }),
        }
    }
}

/// Where the options say that it is; `auto` without one.
pub(crate) fn place(args: &Args) -> Result<Place, Failure> {
    of_option(args, args.text("tpm2-device"))
}

/// The TPM to unlock with, where another one is to be enrolled.
pub(crate) fn to_unlock(args: &Args) -> Result<Place, Failure> {
    match args.text("unlock-tpm2-device") {
        None => place(args),
        named => of_option(args, named),
    }
}

fn of_option(args: &Args, device: Option<String>) -> Result<Place, Failure> {
    let back_end = args.text("tpm2-backend");
    read(device.as_deref().unwrap_or("auto"), back_end.as_deref())
}

/// A place in one of systemd's forms.
pub(crate) fn parse(text: &str) -> Result<Place, Failure> {
    read(text, None)
}

fn read(text: &str, back_end: Option<&str>) -> Result<Place, Failure> {
    Place::read(text, back_end).map_err(|why| {
        Failure::usage(why).no_disk().hint(
            "auto, a device such as /dev/tpmrm0, swtpm:host=…,port=… or swtpm:path=…; \
             tcti:… for what only tpm2-tss knows",
        )
    })
}

/// Where signatures of PCRs and the policy of pcrlock lie.
pub(crate) fn policy_files(args: &Args) -> PolicyFiles {
    let mut files = PolicyFiles::default();
    if let Some(path) = args.path("tpm2-signature") {
        files = files.with_signatures(path);
    }
    if let Some(path) = args
        .path("tpm2-pcrlock")
        .filter(|path| *path != Path::new("auto"))
    {
        files = files.with_pcrlock(path);
    }
    if let Some(path) = args
        .path("tpm2-public-key")
        .filter(|path| *path != Path::new("auto"))
    {
        files = files.with_key(path);
    }
    files
}

/// Connects.
pub(crate) fn connect(args: &Args) -> Result<Connection, Failure> {
    place(args)?.open().map_err(|error| errors::tpm(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn esapi(tcti: &str) -> Result<Place, String> {
        Ok(Place::Esapi(tcti.to_owned()))
    }

    #[test]
    fn who_speaks_is_as_it_was_said_or_as_it_must_be() {
        let native = |text: &str| Ok(Place::Native(text.parse().unwrap()));
        for text in [
            "auto",
            "/dev/tpmrm0",
            "swtpm:host=::1,port=1",
            "swtpm:path=/s",
        ] {
            assert_eq!(Place::read(text, None), native(text));
            assert_eq!(Place::read(text, Some("native")), native(text));
        }
        assert_eq!(
            Place::read("auto", Some("esapi")),
            esapi("device:/dev/tpmrm0")
        );
        assert_eq!(
            Place::read("/dev/tpm0", Some("esapi")),
            esapi("device:/dev/tpm0")
        );
        let port = "swtpm:host=::1,port=1";
        assert_eq!(Place::read(port, Some("esapi")), esapi(port));
        for tcti in ["mssim:host=h,port=1", "tabrmd:bus_type=session"] {
            assert_eq!(Place::read(tcti, None), esapi(tcti));
            assert_eq!(Place::read(tcti, Some("esapi")), esapi(tcti));
            assert!(Place::read(tcti, Some("native")).is_err(), "{tcti}");
        }
        assert_eq!(
            Place::read("tcti:swtpm:port=1", None),
            esapi("swtpm:port=1")
        );
        assert!(Place::read("tcti:swtpm:port=1", Some("native")).is_err());
        assert!(Place::read("swtpm:path=/s", Some("esapi")).is_err());
        assert!(Place::read("nonsense", None).is_err());
        assert!(Place::read("nonsense", Some("esapi")).is_err());
    }

    #[cfg(not(feature = "esapi"))]
    #[test]
    fn a_program_without_the_other_back_end_says_so() {
        let told = Place::Esapi("device:/dev/tpmrm0".to_owned()).open();
        let told = told.err().unwrap().to_string();
        assert!(told.contains("without its feature esapi"), "{told}");
    }
}
