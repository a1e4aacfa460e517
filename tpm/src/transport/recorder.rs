//! A transport that keeps what passes, as somebody on the bus would see it.

use std::sync::{Arc, Mutex, PoisonError};

use super::Transport;
use crate::error::TpmError;

/// One frame on the bus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// To the TPM.
    Command(Vec<u8>),
    /// From the TPM.
    Answer(Vec<u8>),
}

impl Frame {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Command(bytes) | Self::Answer(bytes) => bytes,
        }
    }
}

/// What passed so far; shared with the [`Recorder`].
#[derive(Clone, Default)]
pub struct Recording(Arc<Mutex<Vec<Frame>>>);

impl Recording {
    /// Everything so far.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether these bytes passed within one frame.
    #[must_use]
    pub fn shows(&self, bytes: &[u8]) -> bool {
        self.frames().iter().any(|frame| {
            frame
                .as_bytes()
                .windows(bytes.len().max(1))
                .any(|window| window == bytes)
        })
    }

    fn push(&self, frame: Frame) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(frame);
    }
}

/// Passes frames on and keeps a copy of each.
pub struct Recorder<T> {
    inner: T,
    recording: Recording,
}

impl<T: Transport> Recorder<T> {
    /// Records what passes through `inner`.
    pub fn new(inner: T) -> (Self, Recording) {
        let recording = Recording::default();
        let shared = recording.clone();
        (Self { inner, recording }, shared)
    }
}

impl<T: Transport> Transport for Recorder<T> {
    fn transact(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.recording.push(Frame::Command(command.to_vec()));
        let answer = self.inner.transact(command)?;
        self.recording.push(Frame::Answer(answer.clone()));
        Ok(answer)
    }
}
