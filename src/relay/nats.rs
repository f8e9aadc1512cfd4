//! NATS JetStream.
//!
//! **Invariants.**
//! - A message is called `UUID-OFFSET` in the stream (`Nats-Msg-Id`): by that the server itself drops what comes twice
//!   within its duplicate window, and by that the relay finds how far the stream is, however long ago that was.
//! - Each message asks for an answer, and counts as stored by its own alone. That one behind it was stored does not prove
//!   it, though that one named it: some servers take the name of a message that a limit refused for the last one.
//! - Each message says what it must follow. The first of a connection names the sequence of the last message of the
//!   subject (`Nats-Expected-Last-Subject-Sequence`), which was read before. Each of the next names the one before it
//!   (`Nats-Expected-Last-Msg-Id`): its sequence is not known yet. (A guess would not do. If it were too low by two, say,
//!   the message behind the next one would fit, and the next one be left out.) So if one is lost with a connection, or
//!   refused, none behind it is stored. And what a connection that was given up, or a relay that was stopped, still has
//!   on its way is stored in its place or not at all: whoever comes second at a place is refused, connects again, and
//!   sees what is there.
//! - The last name is that of the whole stream. So if others publish to it, under other subjects, a message may be
//!   refused though nothing of ours is missing. Then the next ones go one by one, each behind a sequence that is known.
//! - A connection is used until its first error, then never again.

use super::nats_headers::headers;
use super::nats_stream::{OurStream, message_id};
use super::{AddressError, Origin, Sink, SinkError};
use crate::relay::address::Address;
use crate::{Lease, Offset};
use async_nats::jetstream::context::{
    Context as JetStream, CreateStreamErrorKind, GetStreamErrorKind, PublishAckFuture, PublishError, PublishErrorKind,
};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::{IntoFuture, pending, poll_fn};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;

/// How long the server may take for anything.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that go one by one after one that did not follow what it named.
const CAREFUL: usize = 256;

/// Puts messages into a stream of NATS JetStream: `nats://[USER:PASSWORD@]HOST:PORT/STREAM/SUBJECT`, with `tls://` for
/// TLS, and several servers of a cluster with commas between them.
///
/// The stream is created if it is not there at first, with the subject, in files, and no limits; one that is there must
/// have the subject, and is used as it is. If it is deleted later, the relay waits until it is there again. Give each
/// relay a stream of its own: streams that collect several are the server's business (`sources`). Two relays of one
/// channel must not have the same stream, under whatever subjects: their messages have the same names there, and the
/// server drops those of the second.
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
    stream: OurStream,
    /// Turns true when the connection broke.
    broken: watch::Receiver<bool>,
    /// What the next message is to follow.
    last: Last,
    /// What is not confirmed, in order.
    acks: VecDeque<(Offset, Ack)>,
    /// The last that is confirmed, if that was not told.
    confirmed: Option<Offset>,
}

/// The last message of the subject.
enum Last {
    /// That is stored, by its sequence; 0 is none.
    Stored(u64),
    /// That was handed over, by its name.
    Named(String),
}

/// What the server says of a message.
enum Ack {
    Awaited(<PublishAckFuture as IntoFuture>::IntoFuture),
    There(Result<PublishAck, PublishError>),
}

impl Ack {
    /// Whether it is there.
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        if let Self::Awaited(ack) = self
            && let Poll::Ready(answer) = ack.as_mut().poll(cx)
        {
            *self = Self::There(answer);
        }
        matches!(self, Self::There(_))
    }
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
            .build(client);
        self.check_stream(&context).await?;
        let stream = context.get_stream_no_info(&self.stream).await.map_err(SinkError::fatal)?;
        let stream = OurStream::new(stream, self.subject.clone(), origin.uuid);
        let (last, newest) = stream.newest().await?;
        let last = Last::Stored(last);
        Ok((Session { context, stream, broken, last, acks: VecDeque::new(), confirmed: None }, newest))
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
        self.session = None;
        let (session, newest) = self.open(origin).await?;
        self.session = Some(session);
        Ok(newest)
    }

    async fn publish(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
        let session = self.session.as_mut().ok_or_else(not_connected)?;
        for lease in batch {
            session.publish(&self.subject, lease).await?;
            if self.careful > 0 {
                session.wait_for_all().await?;
                self.careful -= 1;
            }
        }
        Ok(())
    }

    async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        let session = self.session.as_mut().ok_or_else(not_connected)?;
        let confirmed = session.wait_for_some().await;
        if confirmed.as_ref().is_err_and(does_not_follow) {
            self.careful = CAREFUL;
        }
        confirmed
    }

    async fn missing(&mut self, offsets: &[Offset]) -> Result<Vec<Offset>, SinkError> {
        let session = self.session.as_ref().ok_or_else(not_connected)?;
        session.stream.missing(offsets).await
    }
}

impl Session {
    /// Hands a message over.
    async fn publish(&mut self, subject: &str, lease: &Lease) -> Result<(), SinkError> {
        let (offset, id) = (lease.offset(), message_id(self.stream.uuid, lease.offset()));
        let message = PublishMessage::build().headers(headers(lease)).message_id(&id).payload(lease.to_vec().into());
        let message = match &self.last {
            Last::Stored(sequence) => message.expected_last_subject_sequence(*sequence),
            Last::Named(id) => message.expected_last_message_id(id),
        };
        let sent = tokio::select! {
            biased;
            sent = self.context.send_publish(subject.to_owned(), message) => sent,
            () = is_broken(&mut self.broken) => return Err(SinkError::retry("the connection broke")),
        };
        match sent {
            Ok(ack) => self.acks.push_back((offset, Ack::Awaited(ack.into_future()))),
            // What is before it has to be stored before it can be refused.
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                self.wait_for_all().await?;
                return Err(SinkError::refused(offset, error));
            }
            Err(error) => return Err(SinkError::retry(error)),
        }
        self.last = Last::Named(id);
        Ok(())
    }

    /// Waits until some are confirmed: one half of what is in flight, so that it is not woken for each.
    async fn wait_for_some(&mut self) -> Result<Offset, SinkError> {
        for at in [self.acks.len() / 2, 0] {
            if self.confirmed.is_none() {
                self.wait_for(at).await?;
                poll_fn(|cx| Poll::Ready(self.take_answers(cx))).await?;
            }
        }
        match self.confirmed.take() {
            Some(confirmed) => Ok(confirmed),
            None => pending().await, // nothing was handed over
        }
    }

    async fn wait_for_all(&mut self) -> Result<(), SinkError> {
        let mut last = self.confirmed.take();
        while !self.acks.is_empty() {
            self.wait_for(0).await?;
            poll_fn(|cx| Poll::Ready(self.take_answers(cx))).await?;
            last = self.confirmed.take().or(last);
        }
        self.confirmed = last;
        Ok(())
    }

    /// Waits for what the server says of one. It answers in order.
    async fn wait_for(&mut self, at: usize) -> Result<(), SinkError> {
        let Some((_, ack)) = self.acks.get_mut(at) else { return Ok(()) };
        let there = poll_fn(|cx| if ack.poll(cx) { Poll::Ready(()) } else { Poll::Pending });
        tokio::select! {
            biased;
            () = there => Ok(()),
            () = is_broken(&mut self.broken) => Err(SinkError::retry("the connection broke")),
        }
    }

    /// Takes the answers that are there, up to the first that is not.
    fn take_answers(&mut self, cx: &mut Context<'_>) -> Result<(), SinkError> {
        while let Some((offset, ack)) = self.acks.front_mut()
            && ack.poll(cx)
        {
            let offset = *offset;
            match ack {
                // First what is confirmed.
                Ack::There(Err(_)) if self.confirmed.is_some() => break,
                Ack::Awaited(_) => break,
                Ack::There(_) => {}
            }
            let Some((_, Ack::There(answer))) = self.acks.pop_front() else { break };
            let stored = answer.map_err(|error| refusal(offset, error))?;
            self.confirmed = Some(offset);
            if self.acks.is_empty() {
                self.last = Last::Stored(stored.sequence);
            }
        }
        Ok(())
    }
}

/// What the server says when it has not stored a message.
fn refusal(offset: Offset, error: PublishError) -> SinkError {
    let said = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    match said.map(jetstream::Error::error_code) {
        Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM) => {
            SinkError::refused(offset, error)
        }
        Some(ErrorCode::STREAM_SEALED) => SinkError::fatal(error),
        _ => SinkError::retry(error),
    }
}

fn does_not_follow(error: &SinkError) -> bool {
    error.cause::<PublishError>().is_some_and(|error| error.kind() == PublishErrorKind::WrongLastMessageId)
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
