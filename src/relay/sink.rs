//! What a relay needs of an engine.

use crate::{GroupName, Lease, Offset};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::SystemTime;

/// Which channel the messages are of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Origin {
    /// The number of the channel: with an offset, what a message is called wherever it goes.
    pub uuid: u128,
    /// When the channel was created.
    pub created_at: SystemTime,
    /// The group.
    pub group: GroupName,
}

/// Where a relay puts messages: an engine that stores them, and says so.
///
/// Who only implements [`publish`](Self::publish) and [`confirmed`](Self::confirmed) has a sink that gets every message
/// at least once. Who also says in [`connect`](Self::connect) how far the engine has come, and answers
/// [`missing`](Self::missing), has one that gets each once.
pub trait Sink: Send {
    /// What it is called in [`RelayStatus::to`](super::RelayStatus::to): an address, without a password.
    fn to(&self) -> String {
        String::new()
    }

    /// Connects, or connects again: called first, and after each error of any method. Nothing that was handed over
    /// before may be stored after this. Says up to which message of this channel the engine has them all, so that the
    /// relay goes on behind it; `None` if it has none, or cannot tell.
    ///
    /// # Errors
    ///
    /// See [`SinkError`].
    fn connect(&mut self, origin: &Origin) -> impl Future<Output = Result<Option<Offset>, SinkError>> + Send {
        let _ = origin;
        async { Ok(None) }
    }

    /// Hands over messages, behind all that were handed over before, in this order. It may return before the engine
    /// has confirmed them. One that is refused must keep those behind it from being stored.
    ///
    /// # Errors
    ///
    /// See [`SinkError`].
    fn publish(&mut self, batch: &[Lease]) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Waits until the engine has confirmed more of what was handed over, and says up to which message it has all of
    /// it. Called only while something is handed over and not confirmed.
    ///
    /// # Errors
    ///
    /// See [`SinkError`].
    ///
    /// # Cancel safety
    ///
    /// It must be: it is dropped and called again whenever something else comes first.
    fn confirmed(&mut self) -> impl Future<Output = Result<Offset, SinkError>> + Send;

    /// Which of these messages, all at or before what [`connect`](Self::connect) said or what was handed over since, the
    /// engine does not have; they are in order. Asked after the death of a relay about what it had in flight. If it is
    /// not answered, none of them counts as there.
    ///
    /// # Errors
    ///
    /// See [`SinkError`].
    fn missing(&mut self, offsets: &[Offset]) -> impl Future<Output = Result<Vec<Offset>, SinkError>> + Send {
        let missing = offsets.to_vec();
        async { Ok(missing) }
    }
}

/// What went wrong in a sink, and what is to be done about it.
#[derive(Debug)]
pub struct SinkError {
    kind: SinkErrorKind,
    source: Box<dyn Error + Send + Sync>,
}

/// What is to be done about an error of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SinkErrorKind {
    /// Connect again, after a pause: the engine is away, slow, full.
    Retry,
    /// Go on without this message: it is refused for good.
    Refused(Offset),
    /// Give up: nothing will be better next time.
    Fatal,
}

impl SinkError {
    /// Worth trying again.
    pub fn retry(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: SinkErrorKind::Retry, source: source.into() }
    }

    /// This message is refused for good; all before it are stored, and none behind it.
    pub fn refused(offset: Offset, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: SinkErrorKind::Refused(offset), source: source.into() }
    }

    /// Not worth trying again.
    pub fn fatal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: SinkErrorKind::Fatal, source: source.into() }
    }

    /// What is to be done about it.
    pub fn kind(&self) -> SinkErrorKind {
        self.kind
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for SinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}
