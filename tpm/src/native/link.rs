//! One command and its answer: the frame put together, sent, sent again while the TPM is busy,
//! and the answer read to its last byte.

use std::thread;
use std::time::{Duration, Instant};

use luksmith_crypto::SecretBytes;

use super::session::{Opened, Session, Use};
use crate::auth::AuthValue;
use crate::code::Code;
use crate::error::{TpmError, refused};
use crate::transport::Transport;
use crate::wire::{MAX_FRAME_BYTES, Name, Reader, Writer};

/// A command of the TPM by name and number (`TPM_CC`, Part 2, 6.5.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    pub(crate) code: u32,
}

/// One handle of a command, with the name that its authorization covers.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    handle: u32,
    name: Name,
}

impl Subject {
    /// An object or an NV index.
    pub(crate) fn named(handle: u32, name: Name) -> Self {
        Self { handle, name }
    }

    /// A hierarchy, a PCR or a session: its name is its handle.
    pub(crate) fn plain(handle: u32) -> Self {
        Self::named(handle, Name::of_handle(handle))
    }
}

/// Who asks.
pub(crate) enum Authorization<'a> {
    /// Nobody needs to.
    None,
    /// The empty password: for PCRs, and for hierarchies without an authorization value.
    Empty,
    /// A session.
    Session {
        session: &'a mut Session,
        /// Authorization value of the first handle.
        auth: Option<&'a AuthValue>,
        /// Whether the first parameter of the answer is a secret.
        answer_secret: bool,
    },
}

/// What is sent.
pub(crate) struct Command<'a> {
    pub(crate) verb: Verb,
    pub(crate) subjects: Vec<Subject>,
    pub(crate) authorization: Authorization<'a>,
    /// Contents of the first parameter, a TPM2B, where it is a secret.
    pub(crate) secret: Option<&'a SecretBytes>,
    /// All other parameters.
    pub(crate) parameters: Vec<u8>,
    /// Whether the answer begins with a handle.
    pub(crate) gives_handle: bool,
    /// The authorization value that the command gives to what it is authorized by.
    pub(crate) new_auth: Option<&'a AuthValue>,
}

impl<'a> Command<'a> {
    pub(crate) fn new(verb: Verb, subjects: Vec<Subject>, parameters: Writer) -> Self {
        Self {
            verb,
            subjects,
            authorization: Authorization::None,
            secret: None,
            parameters: parameters.done(),
            gives_handle: false,
            new_auth: None,
        }
    }

    pub(crate) fn by(mut self, authorization: Authorization<'a>) -> Self {
        self.authorization = authorization;
        self
    }

    pub(crate) fn hiding(mut self, secret: &'a SecretBytes) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Whoever answers proves to know the new value already.
    pub(crate) fn giving_auth(mut self, new: &'a AuthValue) -> Self {
        self.new_auth = Some(new);
        self
    }

    pub(crate) fn giving_handle(mut self) -> Self {
        self.gives_handle = true;
        self
    }
}

/// What came back, authentic if a session was used.
pub(crate) struct Answer {
    what: &'static str,
    pub(crate) handle: Option<u32>,
    parameters: Vec<u8>,
    opened: Option<Opened>,
}

impl Answer {
    /// The parameters, to be read to their end.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader::new(self.what, &self.parameters)
    }

    /// The one parameter, a secret TPM2B.
    pub(crate) fn secret(&self) -> Result<SecretBytes, TpmError> {
        let mut reader = self.reader();
        let opened = self.opened.as_ref().ok_or(TpmError::Misuse {
            what: "a secret without a session",
        })?;
        let secret = opened.secret(&mut reader)?;
        reader.end()?;
        Ok(secret)
    }

    /// The handle that the command was to give.
    pub(crate) fn handle(&self) -> Result<u32, TpmError> {
        self.handle.ok_or(TpmError::Garbage { what: self.what })
    }
}

const TAG_PLAIN: u16 = 0x8001;
const TAG_SESSIONS: u16 = 0x8002;
/// Tag with which a TPM 1.2 answers.
const TAG_OLD: u16 = 0x00C4;
/// The session of passwords (`TPM_RS_PW`).
const PASSWORD: u32 = 0x4000_0009;
/// How long a TPM may be busy with itself; a self-test of everything takes some seconds.
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// A transport that speaks commands.
pub(crate) struct Link<T> {
    transport: T,
}

impl<T: Transport> Link<T> {
    pub(crate) fn new(transport: T) -> Self {
        Self { transport }
    }

    /// Carries out one command.
    pub(crate) fn run(&mut self, command: Command<'_>) -> Result<Answer, TpmError> {
        let Command {
            verb,
            subjects,
            authorization,
            secret,
            parameters,
            gives_handle,
            new_auth,
        } = command;
        let used = match authorization {
            Authorization::None => None,
            Authorization::Empty => Some(None),
            Authorization::Session {
                session,
                auth,
                answer_secret,
            } => Some(Some(session.begin(
                auth,
                secret.is_some(),
                answer_secret,
            )?)),
        };
        let parameters = match (secret, &used) {
            (None, _) => parameters,
            (Some(secret), Some(Some(used))) => Writer::new()
                .sized(&used.hide(secret)?)
                .bytes(&parameters)
                .done(),
            (Some(_), _) => {
                return Err(TpmError::Misuse {
                    what: "a secret without a session",
                });
            }
        };
        let frame = frame(verb, &subjects, used.as_ref(), &parameters)?;
        let answer = self.send(verb, &frame)?;
        let used = used.map(|used| used.map(|used| used.answered_by(new_auth)));
        parse(verb, &answer, used, gives_handle)
    }

    /// Sends a frame until the TPM has something to say about it.
    fn send(&mut self, verb: Verb, frame: &[u8]) -> Result<Vec<u8>, TpmError> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = self.transport.transact(frame)?;
            match code_of(&answer)? {
                Some(code) if code.is_retry() && begun.elapsed() < PATIENCE => {
                    thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Some(code) => return Err(refused(verb.name, code)),
                None => return Ok(answer),
            }
        }
    }
}

/// The whole frame of a command.
fn frame(
    verb: Verb,
    subjects: &[Subject],
    used: Option<&Option<Use<'_>>>,
    parameters: &[u8],
) -> Result<Vec<u8>, TpmError> {
    let mut body = Writer::new();
    for subject in subjects {
        body = body.u32(subject.handle);
    }
    if let Some(used) = used {
        let area = match used {
            None => Writer::new()
                .u32(PASSWORD)
                .sized(&[])
                .u8(1)
                .sized(&[])
                .done(),
            Some(used) => {
                let names: Vec<Name> = subjects.iter().map(|one| one.name.clone()).collect();
                used.area(verb.code, &names, parameters)?
            }
        };
        let len = u32::try_from(area.len()).expect("an authorization area is short");
        body = body.u32(len).bytes(&area);
    }
    let body = body.bytes(parameters).done();
    let tag = if used.is_some() {
        TAG_SESSIONS
    } else {
        TAG_PLAIN
    };
    let len = 10 + body.len();
    if len > MAX_FRAME_BYTES {
        return Err(TpmError::Misuse {
            what: "a command longer than a frame",
        });
    }
    let len = u32::try_from(len).expect("within a frame");
    Ok(Writer::new()
        .u16(tag)
        .u32(len)
        .u32(verb.code)
        .bytes(&body)
        .done())
}

/// The response code, if it is not success; the frame's length is checked on the way.
fn code_of(answer: &[u8]) -> Result<Option<Code>, TpmError> {
    let mut reader = Reader::new("header of an answer", answer);
    let tag = reader.u16()?;
    let len = reader.u32()?;
    let code = reader.u32()?;
    if usize::try_from(len) != Ok(answer.len()) {
        return Err(reader.fail().into());
    }
    match (tag, code) {
        (TAG_OLD, _) => Err(TpmError::Unsupported {
            what: "a TPM 1.2".to_owned(),
        }),
        (TAG_PLAIN | TAG_SESSIONS, 0) => Ok(None),
        // A refusal is nothing but its header.
        (TAG_PLAIN, code) if reader.is_at_end() => Ok(Some(Code::new(code))),
        _ => Err(reader.fail().into()),
    }
}

/// Takes the answer of a command that succeeded apart.
fn parse(
    verb: Verb,
    answer: &[u8],
    used: Option<Option<Use<'_>>>,
    gives_handle: bool,
) -> Result<Answer, TpmError> {
    let mut reader = Reader::new(verb.name, answer);
    let tag = reader.u16()?;
    reader.bytes(8)?;
    if (tag == TAG_SESSIONS) != used.is_some() {
        return Err(reader.fail().into());
    }
    let handle = if gives_handle {
        Some(reader.u32()?)
    } else {
        None
    };
    let mut opened = None;
    let parameters = match used {
        None => reader.rest().to_vec(),
        Some(used) => {
            let len = usize::try_from(reader.u32()?).map_err(|_| reader.fail())?;
            let parameters = reader.bytes(len)?;
            match used {
                None => {
                    // Of a password there is nothing to check but the form.
                    reader.sized_max(64)?;
                    reader.u8()?;
                    reader.sized_max(64)?;
                }
                Some(used) => {
                    let authentic = used.check(verb.code, parameters, &mut reader)?;
                    let command = verb.name;
                    opened = Some(authentic.ok_or(TpmError::Tampered { command })?);
                }
            }
            reader.end()?;
            parameters.to_vec()
        }
    };
    Ok(Answer {
        what: verb.name,
        handle,
        parameters,
        opened,
    })
}
