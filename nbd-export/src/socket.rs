//! The listening socket: only for its owner from the first moment on, and never in the
//! way of another server.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen as listen_on, socket,
};
use nix::sys::stat::{Mode, fchmod};

use crate::server::ServeError;

/// A socket that clients can knock at.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    /// Device and inode number of the file that was made.
    file: (u64, u64),
}

/// Makes the socket with mode 0600 and listens on it.
pub(crate) fn listen(path: &Path) -> Result<Listening, ServeError> {
    clear_the_way(path)?;
    let failed = |source: nix::errno::Errno| ServeError::Socket {
        path: path.to_owned(),
        source: source.into(),
    };
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(failed)?;
    // The mode of the descriptor becomes that of the file when it is bound, so that there
    // is no moment in which others could connect.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path).map_err(failed)?).map_err(failed)?;
    listen_on(&fd, Backlog::new(64).map_err(failed)?).map_err(failed)?;
    let listener = UnixListener::from(fd);
    // The client may be gone when it is its turn; waiting for another one would block.
    let made = listener
        .set_nonblocking(true)
        .and_then(|()| fs::symlink_metadata(path));
    let meta = made.map_err(|source| ServeError::Socket {
        path: path.to_owned(),
        source,
    })?;
    Ok(Listening {
        listener,
        path: path.to_owned(),
        file: (meta.dev(), meta.ino()),
    })
}

/// Removes a socket that nobody listens on; anything else is left alone.
fn clear_the_way(path: &Path) -> Result<(), ServeError> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let failed = |source| ServeError::Socket {
        path: path.to_owned(),
        source,
    };
    if !meta.file_type().is_socket() {
        return Err(failed(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is something that is not a socket",
        )));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(ServeError::SocketInUse {
            path: path.to_owned(),
        }),
        Err(error) => Err(failed(error)),
    }
}

/// Removes our socket, unless somebody has put another in its place.
pub(crate) fn remove(socket: &Listening) {
    let there = fs::symlink_metadata(&socket.path).ok();
    if there.is_some_and(|meta| (meta.dev(), meta.ino()) == socket.file) {
        // if it fails, the next server clears the way
        let _ = fs::remove_file(&socket.path);
    }
}

/// The address in the form that NBD clients take.
pub(crate) fn uri(path: &Path, export: &str) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let socket = escape(&absolute.to_string_lossy());
    format!("nbd+unix:///{}?socket={socket}", escape(export))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_socket_is_for_its_owner_only_and_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("s");
        let first = listen(&path).expect("a new socket");
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(listen(&path), Err(ServeError::SocketInUse { .. })));
        // dropped without being removed, as after a crash
        drop(first);
        let second = listen(&path).expect("a dead socket is in nobody's way");
        remove(&second);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("precious");
        fs::write(&path, b"data").expect("written");
        assert!(matches!(listen(&path), Err(ServeError::Socket { .. })));
        assert_eq!(fs::read(&path).expect("still there"), b"data");
    }

    #[test]
    fn the_address_survives_odd_names() {
        let uri = uri(Path::new("/run/a b/é?.sock"), "my vol");
        assert_eq!(uri, "nbd+unix:///my%20vol?socket=/run/a%20b/%C3%A9%3F.sock");
    }
}
