//! NATS JetStream.
//!
//! **Invariants.**
//! - A message is called `UUID-OFFSET` in the stream (`Nats-Msg-Id`): by that the server itself drops what comes twice
//!   within its duplicate window, and by that the relay finds how far the stream is, however long ago that was.
//! - Each message says what it must follow. The first of a connection names the sequence of the last message of the
//!   subject (`Nats-Expected-Last-Subject-Sequence`), which was read before. Each of the next names the one before it
//!   (`Nats-Expected-Last-Msg-Id`): its sequence is not known yet. (A guess would not do. If it were too low by two, say,
//!   the message behind the next one would fit, and the next one be left out.) So if one is lost with a connection, or
//!   refused, none behind it is stored. And what a connection that was given up, or a relay that was stopped, still has
//!   on its way is stored in its place or not at all: whoever comes second at a place is refused, connects again, and
//!   sees what is there.
//! - The last name is that of the whole stream. So if others publish to it, under other subjects, a message may be
//!   refused though nothing of ours is missing. Then the next ones go one by one, each behind a sequence that is known.
//! - So a message that is stored stands for all that were handed over before it in its connection: they are stored, too.
//!   That is why only the first of a connection and the last of each batch ask for an answer. "Duplicate" is an answer
//!   about that message alone: when it was stored, it may have followed another. Of those that did not ask no error is
//!   told; but then the next that asks does not follow what it names, and the next ones go one by one, and each asks.
//! - A connection is used until its first error, then never again.

use super::nats_headers::headers;
use super::nats_stream::{OurStream, message_id};
use super::{AddressError, Origin, Sink, SinkError};
use crate::relay::address::Address;
use crate::{Lease, Offset};
use async_nats::header::{NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{
    Context as JetStream, CreateStreamErrorKind, GetStreamErrorKind, PublishAckFuture, PublishError, PublishErrorKind,
};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, ServerAddr, client};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::{IntoFuture, pending, poll_fn};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long the server may take for anything.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that go one by one after one that did not follow what it named.
const CAREFUL: usize = 256;

/// Puts messages into a stream of NATS JetStream: `nats://[USER:PASSWORD@]HOST:PORT/STREAM/SUBJECT`, with `tls://` for
/// TLS, and several servers of a cluster with commas between them.
///
/// The stream is created if it is not there at first, with the subject, in files, and no limits; one that is there must
/// have the subject, and is used as it is. If it is deleted later, the relay waits until it is there again. Give each
/// relay a subject of its own, and, for speed, a stream of its own: streams that collect several are the server's business
/// (`sources`).
///
/// A message is stored with its headers, and these:
///
/// | header | value |
/// |---|---|
/// | `Nats-Msg-Id` | the channel's number as 32 hexadecimal digits, `-`, the offset as a decimal number |
/// | `Nats-Expected-Last-Msg-Id` or `Nats-Expected-Last-Subject-Sequence` | the message before it |
/// | `Disk-Chan-Sent` | when it was sent, in unix milliseconds |
/// | `Disk-Chan-Key` | its key, if it has one; what is not a letter, a digit or one of `._~` as `%` and two hexadecimal digits |
/// | `Disk-Chan-Header` | `NAME=VALUE`, encoded likewise, for each header that NATS cannot carry as it is, or would take for its own |
///
/// Each message is in the stream once, and in order, also after breaks that are longer than the stream's duplicate
/// window, as long as the stream keeps the last message of the subject. One that gives its messages away (by age, or once
/// they are consumed) may get again what was in flight during such a break; and of what it gave away by a limit it cannot
/// say whether it had it: that counts as had. What was deleted can be relayed again, by moving the group back, once the
/// duplicate window is over: until then the server knows the names.
///
/// What the server confirmed and then lost is its own business: by default it writes to the disk every two minutes
/// (`sync_interval`), and a stream with one replica is on one machine.
pub struct Nats {
    address: Address,
    stream: String,
    subject: String,
    /// Whether the stream was there once: then it is not created.
    found: bool,
    session: Option<Session>,
    careful: usize,
    options: ConnectOptions,
}

/// A connection, as long as nothing went wrong.
struct Session {
    context: JetStream,
    client: Client,
    stream: OurStream,
    /// Turns true when the connection broke.
    broken: watch::Receiver<bool>,
    /// What the next message is to follow.
    last: Last,
    /// What asked and is not confirmed, in order.
    asked: VecDeque<Asked>,
    /// Whether a message was handed over that did not ask, behind the last that did.
    unasked: bool,
    /// The last that is confirmed, if that was not told.
    confirmed: Option<Offset>,
    /// What was said of the one behind that.
    failed: Option<SinkError>,
    /// Whether the next connection has to find out what was wrong with one.
    one_by_one: bool,
}

/// The last message of the subject.
enum Last {
    /// That is stored, by its sequence; 0 is none.
    Stored(u64),
    /// That was handed over, by its name.
    Named(String),
}

/// A message whose answer is awaited.
struct Asked {
    offset: Offset,
    /// Whether there are some before it that did not ask.
    for_others: bool,
    answer: <PublishAckFuture as IntoFuture>::IntoFuture,
}

impl Nats {
    /// A sink for this address.
    ///
    /// # Errors
    ///
    /// [`AddressError`] if it is none, or the subject has a wildcard.
    pub fn new(address: &str) -> Result<Self, AddressError> {
        let example = "nats://localhost:4222/STREAM/subject";
        let address = Address::parse(address, &["nats", "tls"], example)?;
        let parts = address.path.split_once('/').filter(|(stream, subject)| {
            !stream.is_empty() && subject.split('.').all(|token| !token.is_empty() && token != "*" && token != ">")
        });
        let Some((stream, subject)) = parts else {
            return Err(AddressError { address: address.to_string(), example });
        };
        let (stream, subject) = (stream.to_owned(), subject.to_owned());
        Ok(Self { address, stream, subject, found: false, session: None, careful: 0, options: ConnectOptions::new() })
    }

    /// How to connect: credentials, certificates. What becomes of a connection that breaks stays the relay's affair.
    pub fn options(mut self, options: ConnectOptions) -> Self {
        self.options = options;
        self
    }

    async fn open(&mut self, origin: &Origin) -> Result<(Session, Option<Offset>), SinkError> {
        let (tell, broken) = watch::channel(false);
        let servers = self.address.servers().map(|server| server.parse::<ServerAddr>());
        let servers = servers.collect::<Result<Vec<_>, _>>().map_err(SinkError::fatal)?;
        let options = self.options.clone();
        let options = options
            .name("disk-chan relay")
            .connection_timeout(PATIENCE)
            // As many as it has to try. One that broke is given up, whatever becomes of this.
            .max_reconnects(servers.len())
            .event_callback(move |event| {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    tell.send_replace(true);
                }
                async {}
            });
        let client = options.connect(servers).await.map_err(|error| match error.kind() {
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Authentication
            | ConnectErrorKind::AuthorizationViolation => SinkError::fatal(error),
            _ => SinkError::retry(error),
        })?;
        let context = jetstream::ContextBuilder::new()
            .timeout(PATIENCE)
            .ack_timeout(PATIENCE)
            .max_ack_inflight(1 << 20)
            .build(client.clone());
        self.check_stream(&context).await?;
        let stream = context.get_stream_no_info(&self.stream).await.map_err(SinkError::fatal)?;
        let stream = OurStream::new(stream, self.subject.clone(), origin.uuid);
        let (last, newest) = stream.newest().await?;
        let last = Last::Stored(last);
        let session = Session {
            context,
            client,
            stream,
            broken,
            last,
            asked: VecDeque::new(),
            unasked: false,
            confirmed: None,
            failed: None,
            one_by_one: false,
        };
        Ok((session, newest))
    }

    /// Sees that the stream is there, and is one that can be relayed to.
    async fn check_stream(&mut self, context: &JetStream) -> Result<(), SinkError> {
        let name = &self.stream;
        let found = match context.get_stream(name).await {
            Ok(found) => found,
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    if self.found {
                        return Err(SinkError::retry(format!("the stream {name} is gone")));
                    }
                    create_stream(context, name, &self.subject).await?
                }
                GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => {
                    return Err(SinkError::fatal(error));
                }
                _ => return Err(SinkError::retry(error)),
            },
        };
        let config = &found.cached_info().config;
        if !config.subjects.iter().any(|pattern| matches(pattern, &self.subject)) {
            let what = format!("the stream {name} is for {:?}, not for {}", config.subjects, self.subject);
            return Err(SinkError::fatal(what));
        }
        if config.no_ack {
            return Err(SinkError::fatal(format!("the stream {name} confirms nothing: it has no_ack set")));
        }
        self.found = true;
        Ok(())
    }
}

async fn create_stream(context: &JetStream, name: &str, subject: &str) -> Result<Stream, SinkError> {
    let (name, subjects) = (name.to_owned(), vec![subject.to_owned()]);
    let created = context.create_stream(Config { name, subjects, ..Default::default() }).await;
    created.map_err(|error| match error.kind() {
        CreateStreamErrorKind::InvalidStreamName => SinkError::fatal(error),
        // From 500 on it is the server's trouble, which passes.
        CreateStreamErrorKind::JetStream(said) if said.code() < 500 => SinkError::fatal(error),
        _ => SinkError::retry(error),
    })
}

impl Sink for Nats {
    fn to(&self) -> String {
        self.address.to_string()
    }

    async fn connect(&mut self, origin: &Origin) -> Result<Option<Offset>, SinkError> {
        if self.session.take().is_some_and(|session| session.one_by_one) {
            self.careful = CAREFUL;
        }
        let (session, newest) = self.open(origin).await?;
        self.session = Some(session);
        Ok(newest)
    }

    async fn publish(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
        let session = self.session.as_mut().ok_or_else(not_connected)?;
        for (n, lease) in batch.iter().enumerate() {
            let careful = self.careful > 0;
            let asks = careful || n + 1 == batch.len();
            session.publish(&self.subject, lease, asks).await?;
            if careful {
                session.wait_for_all().await?;
                self.careful -= 1;
            }
        }
        Ok(())
    }

    async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        let session = self.session.as_mut().ok_or_else(not_connected)?;
        session.wait_for_some().await
    }

    async fn missing(&mut self, offsets: &[Offset]) -> Result<Vec<Offset>, SinkError> {
        let session = self.session.as_ref().ok_or_else(not_connected)?;
        session.stream.missing(offsets).await
    }
}

impl Session {
    /// Hands a message over.
    async fn publish(&mut self, subject: &str, lease: &Lease, asks: bool) -> Result<(), SinkError> {
        let id = message_id(self.stream.uuid, lease.offset());
        let mut headers = headers(lease);
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        let asks = match &self.last {
            Last::Stored(sequence) => {
                headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
                true
            }
            Last::Named(id) => {
                headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, id.as_str());
                asks
            }
        };
        let mut broken = self.broken.clone();
        tokio::select! {
            biased;
            sent = self.send(subject.to_owned(), headers, lease, asks) => sent?,
            () = is_broken(&mut broken) => return Err(SinkError::retry("the connection broke")),
        }
        self.last = Last::Named(id);
        Ok(())
    }

    async fn send(&mut self, subject: String, headers: HeaderMap, lease: &Lease, asks: bool) -> Result<(), SinkError> {
        let (offset, payload) = (lease.offset(), lease.to_vec().into());
        if asks {
            let message = PublishMessage::build().headers(headers).payload(payload);
            let answer = match self.context.send_publish(subject, message).await {
                Ok(answer) => answer.into_future(),
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    return Err(self.too_long(offset, error).await);
                }
                Err(error) => return Err(SinkError::retry(error)),
            };
            let for_others = std::mem::take(&mut self.unasked);
            self.asked.push_back(Asked { offset, for_others, answer });
        } else {
            let sent = self.client.publish_with_headers(subject, headers, payload);
            match timeout(PATIENCE, sent).await {
                Ok(Ok(())) => self.unasked = true,
                Ok(Err(error)) if error.kind() == client::PublishErrorKind::MaxPayloadExceeded => {
                    return Err(self.too_long(offset, error).await);
                }
                Ok(Err(error)) => return Err(SinkError::retry(error)),
                Err(error) => return Err(SinkError::retry(error)),
            }
        }
        Ok(())
    }

    /// What to do about a message that the connection does not take: what is before it has to be stored before it can be
    /// refused.
    async fn too_long(&mut self, offset: Offset, error: impl Error + Send + Sync + 'static) -> SinkError {
        if self.unasked {
            self.one_by_one = true;
            return SinkError::retry(error);
        }
        match self.wait_for_all().await {
            Ok(()) => SinkError::refused(offset, error),
            Err(error) => error,
        }
    }

    /// Waits until some are confirmed.
    async fn wait_for_some(&mut self) -> Result<Offset, SinkError> {
        loop {
            match (self.confirmed.take(), self.failed.take()) {
                (Some(confirmed), failed) => {
                    self.failed = failed; // next time
                    return Ok(confirmed);
                }
                (None, Some(failed)) => return Err(failed),
                (None, None) if self.asked.is_empty() => pending().await, // nothing was handed over
                (None, None) => self.wait_for_answers().await?,
            }
        }
    }

    async fn wait_for_all(&mut self) -> Result<(), SinkError> {
        while self.failed.is_none() && !self.asked.is_empty() {
            self.wait_for_answers().await?;
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Waits for the next answer, and takes those that came with it.
    async fn wait_for_answers(&mut self) -> Result<(), SinkError> {
        let mut broken = self.broken.clone();
        tokio::select! {
            biased;
            () = poll_fn(|cx| self.poll_answers(cx)) => Ok(()),
            () = is_broken(&mut broken) => Err(SinkError::retry("the connection broke")),
        }
    }

    /// Takes the answers that are there, up to the first that is not, or is a refusal. The server answers in order.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut taken = Poll::Pending;
        while self.failed.is_none()
            && let Some(Asked { offset, for_others, answer }) = self.asked.front_mut()
            && let Poll::Ready(answer) = answer.as_mut().poll(cx)
        {
            let (offset, for_others) = (*offset, *for_others);
            self.asked.pop_front();
            match self.stored(offset, for_others, answer) {
                Ok(sequence) => {
                    self.confirmed = Some(offset);
                    if self.asked.is_empty() && !self.unasked {
                        self.last = Last::Stored(sequence);
                    }
                }
                Err(error) => self.failed = Some(error),
            }
            taken = Poll::Ready(());
        }
        taken
    }

    /// What an answer means: the sequence of a message that is stored, as all before it are.
    fn stored(
        &mut self,
        offset: Offset,
        for_others: bool,
        answer: Result<PublishAck, PublishError>,
    ) -> Result<u64, SinkError> {
        let error = match answer {
            Ok(ack) if for_others && ack.duplicate => {
                self.one_by_one = true;
                return Err(SinkError::retry("a message was there before those that it follows"));
            }
            Ok(ack) => return Ok(ack.sequence),
            Err(error) => error,
        };
        let said = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
        let code = said.map(jetstream::Error::error_code);
        if code == Some(ErrorCode::STREAM_WRONG_LAST_MESSAGE_ID) || for_others && said.is_some() {
            self.one_by_one = true;
            return Err(SinkError::retry(error));
        }
        Err(match code {
            Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM) => {
                SinkError::refused(offset, error)
            }
            Some(ErrorCode::STREAM_SEALED) => SinkError::fatal(error),
            _ => SinkError::retry(error),
        })
    }
}

fn not_connected() -> SinkError {
    SinkError::retry("not connected")
}

async fn is_broken(broken: &mut watch::Receiver<bool>) {
    // An error: the client is gone, and the connection with it.
    let _ = broken.wait_for(|broken| *broken).await;
}

/// Whether a subject is one of a pattern's: `*` stands for one token, `>` for all that follow.
fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(p), Some(s)) if p == "*" || p == s => {}
            _ => return false,
        }
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_match_patterns() {
        for (pattern, subject, does) in [
            ("orders", "orders", true),
            ("orders", "orders.eu", false),
            ("orders.*", "orders.eu", true),
            ("orders.*", "orders", false),
            ("orders.*", "orders.eu.1", false),
            ("orders.>", "orders.eu.1", true),
            ("orders.>", "orders", false),
            (">", "orders", true),
            ("*.eu", "orders.eu", true),
        ] {
            assert_eq!(matches(pattern, subject), does, "{pattern} {subject}");
        }
    }

    #[test]
    fn an_address_has_a_stream_and_a_subject_without_wildcards() {
        assert!(Nats::new("nats://localhost:4222/ORDERS/orders.eu").is_ok());
        for wrong in ["/ORDERS", "/ORDERS/", "//orders", "/ORDERS/orders.>", "/ORDERS/*", "/ORDERS/a..b", "/"] {
            assert!(Nats::new(&format!("nats://localhost:4222{wrong}")).is_err(), "{wrong}");
        }
    }
}
