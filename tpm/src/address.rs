//! Where a TPM is: parsed once, from what a person or a configuration file wrote.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::TpmError;

/// Where a TPM is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// The one TPM of the machine, behind the kernel's resource manager.
    Auto,
    /// A character device.
    Device(PathBuf),
    /// A byte stream over TCP, as swtpm serves it.
    Tcp {
        /// Number of the host; to look up a name takes more of the C library than a static program has.
        host: IpAddr,
        /// Port.
        port: u16,
    },
    /// A byte stream over a Unix socket, as swtpm serves it.
    Unix(PathBuf),
}

/// The port at which swtpm listens by custom.
const DEFAULT_PORT: u16 = 2321;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl FromStr for Address {
    type Err = TpmError;

    /// `auto`, an absolute path, `device:PATH`, `swtpm:host=H,port=P`, `swtpm:path=SOCKET`.
    fn from_str(text: &str) -> Result<Self, TpmError> {
        let unsupported = || TpmError::Unsupported {
            what: format!("TPM address {text:?}"),
        };
        let path = |path: &str| {
            if path.starts_with('/') {
                Ok(PathBuf::from(path))
            } else {
                Err(unsupported())
            }
        };
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if text.starts_with('/') {
            return Ok(Self::Device(text.into()));
        }
        match text.split_once(':').ok_or_else(unsupported)? {
            ("device", rest) => Ok(Self::Device(path(rest)?)),
            ("swtpm", rest) => {
                let (mut host, mut port, mut socket) = (None, None, None);
                for option in rest.split(',').filter(|option| !option.is_empty()) {
                    match option.split_once('=').ok_or_else(unsupported)? {
                        ("host", "localhost") if host.is_none() => host = Some(HERE),
                        ("host", value) if host.is_none() => {
                            host = Some(value.parse().map_err(|_| unsupported())?);
                        }
                        ("port", value) if port.is_none() => {
                            port = Some(value.parse().map_err(|_| unsupported())?);
                        }
                        ("path", value) if socket.is_none() => socket = Some(path(value)?),
                        _ => return Err(unsupported()),
                    }
                }
                match (host, port, socket) {
                    (None, None, Some(socket)) => Ok(Self::Unix(socket)),
                    (host, port, None) => Ok(Self::Tcp {
                        host: host.unwrap_or(HERE),
                        port: port.unwrap_or(DEFAULT_PORT),
                    }),
                    _ => Err(unsupported()),
                }
            }
            _ => Err(unsupported()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Device(path) => write!(f, "device:{}", path.display()),
            Self::Tcp { host, port } => write!(f, "swtpm:host={host},port={port}"),
            Self::Unix(path) => write!(f, "swtpm:path={}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read() {
        for text in [
            "auto",
            "device:/dev/tpmrm0",
            "swtpm:host=127.0.0.1,port=4711",
            "swtpm:path=/run/tpm.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!(
            "/dev/tpm0".parse::<Address>().unwrap(),
            Address::Device("/dev/tpm0".into())
        );
        assert_eq!(
            "swtpm:".parse::<Address>().unwrap().to_string(),
            "swtpm:host=127.0.0.1,port=2321"
        );
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for text in [
            "",
            "tpm0",
            "device:tpm0",
            "mssim:host=a",
            "swtpm:port=none",
            "swtpm:port=1,port=2",
            "swtpm:path=/a,port=1",
            "swtpm:path=relative",
            "swtpm:colour=red",
            "swtpm:host=,port=1",
            "swtpm:host=example.org,port=1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
