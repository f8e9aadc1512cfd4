//! NATS JetStream.
//!
//! **Invariants.**
//! - A message is called `UUID-OFFSET` in the stream (`Nats-Msg-Id`): by that the server itself drops what comes twice
//!   within its duplicate window, and by that the relay finds how far the stream is, however long ago that was.
//! - A connection is used until its first error, then never again. What is handed over in it, and what the answers prove,
//!   is in `nats_session.rs`.

use super::nats_session::Session;
use super::nats_stream::OurStream;
use super::{AddressError, Origin, Sink, SinkError};
use crate::relay::address::Address;
use crate::{Lease, Offset};
use async_nats::jetstream::context::{Context as JetStream, CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use std::fmt;
use std::time::Duration;
use tokio::sync::watch;

/// Puts messages into a stream of NATS JetStream: `nats://[USER:PASSWORD@]HOST:PORT/STREAM/SUBJECT`, with `tls://` for
/// TLS, and several servers of a cluster with commas between them.
///
/// The stream is created if it is not there at first, with the subject, in files, and no limits; one that is there must
/// have the subject, and is used as it is. If it is deleted later, the relay waits until it is there again. Give each
/// relay a stream of its own: streams that collect several are the server's business (`sources`). Two relays of one
/// channel must not have the same stream, under whatever subjects: their messages have the same names there, and the
/// server drops those of the second.
///
/// A stream with one replica that keeps its messages gets them in batches. To one with several replicas, or that gives
/// messages away once they are consumed (work queue, interest), they go one by one, each when the one before it is stored:
/// a round trip for each. So stop the relay while you change the number of replicas.
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
/// A stream that is full (`discard: new`) is waited for, also if a message alone is larger than its `max_bytes`. One that
/// is larger than a message may be becomes a dead letter.
///
/// Some servers store what is behind a message that the account's limit refused. It cannot be put in its place then, and
/// becomes a dead letter.
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
    /// How many go one by one in the next connection.
    careful: usize,
    timeout: Duration,
    options: ConnectOptions,
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
        let parts = address
            .path
            .split_once('/')
            .filter(|(stream, subject)| !stream.is_empty() && subject.split('.').all(is_token));
        let Some((stream, subject)) = parts else {
            return Err(AddressError { address: address.to_string(), example });
        };
        let (stream, subject) = (stream.to_owned(), subject.to_owned());
        let (timeout, options) = (Duration::from_secs(5), ConnectOptions::new());
        Ok(Self { address, stream, subject, found: false, session: None, careful: 0, timeout, options })
    }

    /// How long it waits for a connection, and for each answer, before it connects again: 5 s, if not said otherwise. It
    /// must be enough for the longest message to get to the server.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
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
            .connection_timeout(self.timeout)
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
            .timeout(self.timeout)
            .ack_timeout(self.timeout)
            .max_ack_inflight(1 << 20)
            .build(client);
        let config = self.check_stream(&context).await?;
        let stream = context.get_stream_no_info(&self.stream).await.map_err(SinkError::fatal)?;
        let stream = OurStream::new(stream, self.subject.as_str().into(), origin.uuid);
        let (last, newest) = stream.newest().await?;
        Ok((Session::new(context, broken, stream, &config, last, self.careful), newest))
    }

    /// Sees that the stream is there, and is one that can be relayed to.
    async fn check_stream(&mut self, context: &JetStream) -> Result<Config, SinkError> {
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
        can_be_relayed_to(config, &self.subject).map_err(SinkError::fatal)?;
        self.found = true;
        Ok(config.clone())
    }
}

/// Whether that can be between the dots of a subject, and is no wildcard.
fn is_token(token: &str) -> bool {
    !token.is_empty() && token != "*" && token != ">" && !token.contains(char::is_whitespace)
}

/// What is wrong with a stream, if anything is.
fn can_be_relayed_to(config: &Config, subject: &str) -> Result<(), String> {
    let (name, subjects) = (&config.name, &config.subjects);
    if !subjects.iter().any(|pattern| matches(pattern, subject)) {
        return Err(format!("the stream {name} is for {subjects:?}, not for {subject}"));
    }
    if config.no_ack {
        return Err(format!("the stream {name} confirms nothing: it has no_ack set"));
    }
    // Under another subject the last message would not be found.
    if config.subject_transform.is_some() {
        return Err(format!("the stream {name} changes subjects: it has subject_transform set"));
    }
    Ok(())
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
        if let Some(session) = self.session.take() {
            self.careful = session.careful();
        }
        let (session, newest) = self.open(origin).await?;
        self.session = Some(session);
        Ok(newest)
    }

    async fn publish(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
        let session = self.session.as_mut().ok_or_else(not_connected)?;
        session.publish(batch).await;
        Ok(())
    }

    async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        let session = self.session.as_mut().ok_or_else(not_connected)?;
        session.confirmed().await
    }

    async fn missing(&mut self, offsets: &[Offset]) -> Result<Vec<Offset>, SinkError> {
        let session = self.session.as_ref().ok_or_else(not_connected)?;
        session.stream().missing(offsets).await
    }
}

fn not_connected() -> SinkError {
    SinkError::retry("not connected")
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
    use async_nats::jetstream::stream::SubjectTransform;

    #[test]
    fn a_stream_is_looked_at_before_it_is_used() {
        let stream = || Config { name: "S".into(), subjects: vec!["a".into(), "b.>".into()], ..Config::default() };
        let wrong = |config, subject| can_be_relayed_to(&config, subject).err().unwrap_or_default();
        assert_eq!(wrong(stream(), "a"), "");
        assert_eq!(wrong(stream(), "b.c"), "");
        assert!(wrong(stream(), "c").contains("not for c"));
        assert!(wrong(Config { no_ack: true, ..stream() }, "a").contains("no_ack"));
        let subject_transform = Some(SubjectTransform { source: ">".into(), destination: "x.>".into() });
        assert!(wrong(Config { subject_transform, ..stream() }, "a").contains("subject_transform"));
    }

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
        for wrong in
            ["/ORDERS", "/ORDERS/", "//orders", "/ORDERS/orders.>", "/ORDERS/*", "/ORDERS/a..b", "/ORDERS/a b", "/"]
        {
            assert!(Nats::new(&format!("nats://localhost:4222{wrong}")).is_err(), "{wrong}");
        }
    }
}
