//! Closing and asking: what other processes do with a volume that is open.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::control::{Answer, Ask, ask};
use crate::keeper;
use crate::state::{self, Folder};
use crate::status::{User, VolumeFacts, VolumeState, VolumeStatus};
use crate::{UblkError, VolumeName, users};

/// How to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// Now, or not at all if somebody uses it.
    Now,
    /// When the last user has gone.
    Deferred,
    /// Take back an earlier [`Close::Deferred`].
    CancelDeferred,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
pub enum Closed {
    /// The device is gone, and with it every copy of the key.
    Closed {
        /// The last flush failed: what was written last may be lost.
        flush_error: Option<String>,
    },
    /// It closes when its last user has gone.
    Pending,
    /// Nothing is pending any more.
    Cancelled {
        /// Whether something was.
        was_pending: bool,
    },
}

/// How long a question may take; a server is busy with other questions at most this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long closing may take: what is in flight is finished first.
const CLOSE_PATIENCE: Duration = Duration::from_secs(120);

/// How long the keeper may take to wipe the key and leave.
const LEAVE_PATIENCE: Duration = Duration::from_secs(15);

/// Closes a volume. When this returns [`Closed::Closed`], the device, the processes, the claim to the
/// backing and every copy of the key are gone.
///
/// # Errors
/// [`UblkError::InUse`] with the users that can be seen; [`UblkError::NotOpen`].
pub fn close(name: &VolumeName, how: Close) -> Result<Closed, UblkError> {
    let folder = Folder::of(name);
    let question = match how {
        Close::Now => Ask::Close,
        Close::Deferred => Ask::CloseDeferred,
        Close::CancelDeferred => Ask::CancelDeferred,
    };
    let answer = match ask(&folder, question, CLOSE_PATIENCE) {
        Err(UblkError::NoAnswer { .. }) if how == Close::Now && abandoned(&folder) => {
            return close_abandoned(name, &folder);
        }
        other => other?,
    };
    match answer {
        Answer::Closed { flush_error } => {
            wait_until_gone(name, &folder)?;
            Ok(Closed::Closed { flush_error })
        }
        Answer::Pending => Ok(Closed::Pending),
        Answer::Cancelled { was_pending } => Ok(Closed::Cancelled { was_pending }),
        Answer::Busy => {
            let device = folder.facts().map(|facts| facts.device);
            Err(UblkError::InUse {
                name: name.to_string(),
                users: device.map_or_else(|_| Vec::new(), |device| users_or_unseen(&device)),
            })
        }
        Answer::Failed { why } => Err(UblkError::Server(why)),
        Answer::Status { .. } => Err(UblkError::NoAnswer {
            name: name.to_string(),
            why: "it answered another question".into(),
        }),
    }
}

/// Every volume that is open or half open, by name.
///
/// # Errors
/// When the folder of open volumes cannot be read, for instance by an ordinary user.
pub fn list() -> Result<Vec<VolumeStatus>, UblkError> {
    let mut all = Vec::new();
    for name in state::names()? {
        match status(&name) {
            Ok(status) => all.push(status),
            // It was closed meanwhile, or its device does not exist yet.
            Err(UblkError::NotOpen(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Everything about one open volume. A volume whose server does not answer is told as such.
///
/// # Errors
/// [`UblkError::NotOpen`].
pub fn status(name: &VolumeName) -> Result<VolumeStatus, UblkError> {
    let folder = Folder::of(name);
    let facts = folder.facts()?;
    let users = users::of(&disk_name(&facts), -1);
    Ok(match ask(&folder, Ask::Status, PATIENCE) {
        Ok(Answer::Status {
            state,
            server_pid,
            recoveries,
            counters,
        }) => VolumeStatus {
            users: users
                .into_iter()
                .filter(|user| !is_process(user, server_pid))
                .collect(),
            facts,
            state,
            server_pid: Some(server_pid),
            recoveries,
            counters: Some(counters),
        },
        Err(UblkError::NotOpen(name)) => return Err(UblkError::NotOpen(name)),
        _ => VolumeStatus {
            state: if abandoned(&folder) {
                VolumeState::NoAnswer
            } else {
                VolumeState::Recovering
            },
            facts,
            server_pid: None,
            recoveries: 0,
            counters: None,
            users,
        },
    })
}

fn is_process(user: &User, of: i32) -> bool {
    matches!(user, User::Process { pid, .. } if *pid == of)
}

fn disk_name(facts: &VolumeFacts) -> String {
    format!("ublkb{}", facts.dev_id)
}

fn users_or_unseen(device: &std::path::Path) -> Vec<User> {
    let disk = device.file_name().unwrap_or_default().to_string_lossy();
    let mut users = users::of(&disk, -1);
    if users.is_empty() {
        users.push(User::Unseen {
            device: device.display().to_string(),
        });
    }
    users
}

/// Whether neither keeper nor server of a volume lives: nobody listens on its socket, which the
/// keeper holds open as long as it lives.
fn abandoned(folder: &Folder) -> bool {
    let Ok((_folder, path)) = folder.socket() else {
        return false;
    };
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => false,
        Err(error) => {
            matches!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound
            )
        }
    }
}

/// Takes down what a killed keeper left: a device without a server.
fn close_abandoned(name: &VolumeName, folder: &Folder) -> Result<Closed, UblkError> {
    let facts = folder.facts().ok();
    if let Some(facts) = &facts {
        match users::claim(&facts.device) {
            Err(error) if users::is_busy(&error) => {
                return Err(UblkError::InUse {
                    name: name.to_string(),
                    users: users_or_unseen(&facts.device),
                });
            }
            // Not there any more, or free: either way it may go.
            _ => {}
        }
        keeper::take_down(facts.dev_id, folder.opening()?.mark)?;
        crate::udev::remove_link(name, &facts.device);
    }
    folder.remove();
    Ok(Closed::Closed {
        flush_error: Some("its server had died; what it had not yet written is lost".into()),
    })
}

fn wait_until_gone(name: &VolumeName, folder: &Folder) -> Result<(), UblkError> {
    let end = Instant::now() + LEAVE_PATIENCE;
    while folder.exists() {
        if Instant::now() > end {
            return Err(UblkError::NoAnswer {
                name: name.to_string(),
                why: "the device is gone, but its keeper has not left".into(),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
