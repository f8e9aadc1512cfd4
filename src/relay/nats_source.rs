//! The way back: a stream of NATS JetStream fills a channel.
//!
//! A durable pull consumer hands out the messages of the stream. They are sent into the channel in their order, one
//! batch at a time: fetched, sent, synced, acked.
//!
//! **Invariants.**
//! - A message is acked only after a sync that began when it was in the channel.
//! - One filler of a source (a stream, as it was created, and a subject) fills a channel at a time: it holds a locked
//!   file (`mark.rs`), which the kernel lets go when the process dies, and not before.
//! - The *mark* is a sequence of the stream: every message of the source at or below it is in the channel, and synced, or
//!   had been, or has left the stream. It only rises. So what comes at or below it is a double: acked, and not sent.
//! - A message above the mark is sent only if every one below it that is in the stream was sent before. That JetStream
//!   does not promise: what was handed out to a filler that died comes again later, behind newer ones. But each
//!   delivery of a consumer has a number, one higher than that of the delivery before, first or repeated, and the first
//!   deliveries are in the order of the stream. After a break, and whenever a number is missing, the filler asks for
//!   the last number `c` and for the highest sequence `d` that was ever handed out, both of one moment; takes from the
//!   stream itself what is there above the mark up to `d`; and puts the mark to `d`. The delivery `c + 1` is then either
//!   a repeated one, so at or below `d`: a double; or a first one: the next above `d`. By induction so is each behind
//!   it, as long as no number is missing.
//! - What was acked is at or below the mark or was sent by a filler before, and is not looked for in the stream: the
//!   search begins above the ack floor.
//! - Every message in the channel carries its own sequence and the mark when it was sent ([`SOURCE`]). A filler that
//!   begins reads back from the end: the newest of them has the mark, and those above that mark which it finds are
//!   known one by one. So it does not matter if a power loss left some messages of a batch and not others, which
//!   can only be the last batch: those behind a hole are not sent again, and the hole is filled. Before anything is
//!   acked for being there, it is synced.
//! - After any error of the engine everything but the mark is forgotten: connection, consumer, numbers.

mod engine;
mod mark;

use super::AddressError;
use super::address::Address;
use super::backoff::Backoff;
use super::is_stopped;
use crate::headers::WithHeaders;
use crate::{Channel, HeaderError, Headers, SendError, Sender, SyncError, TryReadError};
use engine::{Broken, Delivered, Link, Raw};
use mark::Mark;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, pending};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use thiserror::Error as ThisError;
use tokio::sync::watch;

/// The header that says where a message comes from: `STREAM@CREATED/SUBJECT/SEQUENCE/MARK`, without the subject and its
/// slash if all of the stream is taken. If there are several, the last one counts.
const SOURCE: &str = "Nats-Source";

/// Fills a channel from a stream of NATS JetStream: `nats://HOST:PORT/STREAM/SUBJECT`.
///
/// The subject may hold wildcards; without one, all of the stream is taken. Every message that the stream has, or gets,
/// comes into the channel once and in the order of the stream, with its headers, and one more: `Nats-Source` says which
/// message of which stream it is (`STREAM@CREATED/SUBJECT/SEQUENCE/MARK`; `CREATED` is when the stream was made, in
/// nanoseconds since 1970, as a stream that was deleted and made anew is another one).
///
/// A message is acked when the channel has it on stable storage. So a stream that keeps messages for those who have not
/// had them (work queue, interest) lets go of them then, and not before. Whatever dies and comes back, the filler, the
/// server or the machine, no message is lost and none comes twice, with these limits:
///
/// - How far the source has come is read from the channel. If no message of the source is in the ring any more, since
///   others have sent so many, what had not been acked when the last filler died may come twice. The order of the
///   last batch can change in a power loss.
/// - A stream that loses what it had confirmed (a restored copy, storage in memory) gives its sequences anew. A filler
///   that sees it ends with [`FillError::Rewound`]; it cannot see it if the stream has grown past that before.
/// - The consumer is for one channel. For another subject of the same stream, give it another name.
///
/// Any number can be run, in any processes: one fills, and when it dies another takes over.
///
/// ```no_run
/// use disk_chan::relay::NatsSource;
/// # async fn fill(channel: disk_chan::Channel) -> Result<(), Box<dyn std::error::Error>> {
/// let source = NatsSource::new("nats://localhost:4222/ORDERS/orders.>")?;
/// source.run(&channel, std::future::pending()).await?;
/// # Ok(())
/// # }
/// ```
///
/// It needs a tokio runtime with time and I/O.
#[derive(Clone)]
#[must_use = "a source does nothing before it is run"]
pub struct NatsSource {
    address: Address,
    stream: String,
    subject: Option<String>,
    durable: Option<String>,
    batch: usize,
    first_pause: Duration,
    longest_pause: Duration,
    told: Option<Told>,
}

type Told = Arc<dyn Fn(&Filled) + Send + Sync>;

/// What a source has done since it was run.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Filled {
    /// Messages that were sent into the channel, and synced.
    pub messages: u64,
    /// Messages that came and were in the channel already.
    pub doubles: u64,
    /// Up to which sequence the channel has all of the source, as far as it is known.
    pub sequence: Option<u64>,
    /// The last thing that went wrong, and when.
    pub last_error: Option<(SystemTime, String)>,
}

/// Why a source ended before it was told to.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum FillError {
    /// Nothing can be sent any more.
    #[error("cannot send")]
    Send(#[source] SendError),
    /// What was sent could not be brought to stable storage.
    #[error("cannot sync the channel")]
    Sync(#[source] SyncError),
    /// The channel could not be searched for what it has of the stream.
    #[error("cannot read the channel")]
    Read(#[source] TryReadError),
    /// The file could not be locked that keeps others from filling the channel at the same time.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A message does not fit in the channel. All before it are there; it stays in the stream.
    #[error(
        "the message {sequence} of the stream {stream} has {len} bytes with its headers; the longest in the channel is \
         {max}: delete it from the stream, or make a channel with longer pages"
    )]
    TooLong {
        /// The stream.
        stream: String,
        /// The message.
        sequence: u64,
        /// Its bytes, with its headers.
        len: usize,
        /// Most bytes of a message in the channel.
        max: usize,
    },
    /// The headers of a message cannot be stored. All before it are there; it stays in the stream.
    #[error("the message {sequence} of the stream {stream} cannot be stored: delete it from the stream")]
    Headers {
        /// The stream.
        stream: String,
        /// The message.
        sequence: u64,
        /// Why.
        source: HeaderError,
    },
    /// The channel has a message that the stream has not come to yet: the stream has lost its end, and what it gets next
    /// would be taken for what it had.
    #[error(
        "the stream {stream} ends at {last}, and the channel has its message {had}: the stream has lost messages; make it \
         anew"
    )]
    Rewound {
        /// The stream.
        stream: String,
        /// Where it ends.
        last: u64,
        /// The last that the channel has of it.
        had: u64,
    },
    /// The engine says what will be no better next time: that it knows no such user or stream, for example.
    #[error("cannot take messages from {from}")]
    Engine {
        /// The address, without a password.
        from: String,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl NatsSource {
    /// A source at this address.
    ///
    /// # Errors
    ///
    /// [`AddressError`] if it is none.
    pub fn new(address: &str) -> Result<Self, AddressError> {
        const EXAMPLE: &str = "nats://localhost:4222/STREAM/subject";
        let address = Address::parse(address, &["nats", "tls"], EXAMPLE)?;
        let (stream, subject) = match address.path.split_once('/') {
            Some((stream, subject)) => (stream, Some(subject)),
            None => (&*address.path, None),
        };
        let bad = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
        let bad_token = |token: &str| token.is_empty() || token.chars().any(|c| c.is_whitespace() || c.is_control());
        if stream.is_empty() || stream.contains(bad) || subject.is_some_and(|s| s.split('.').any(bad_token)) {
            return Err(AddressError { address: address.to_string(), example: EXAMPLE });
        }
        let (stream, subject) = (stream.to_owned(), subject.map(str::to_owned));
        Ok(Self {
            address,
            stream,
            subject,
            durable: None,
            batch: 256,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
            told: None,
        })
    }

    /// The name of the consumer: `disk_chan-` and the number of the channel, if not said otherwise. One that exists is
    /// used as it is, if it hands out each message of the subject until that is acked.
    pub fn durable(mut self, name: impl Into<String>) -> Self {
        self.durable = Some(name.into());
        self
    }

    /// Most messages that are fetched, sent and synced at once: 256, if not said otherwise, and no more than the consumer
    /// allows (`max_ack_pending`, `max_batch`).
    pub fn batch(mut self, messages: usize) -> Self {
        self.batch = messages.max(1);
        self
    }

    /// How long it pauses before it tries again, as [`Relay::backoff`](super::Relay::backoff): 50 ms and 5 s, if not said
    /// otherwise.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_pause, self.longest_pause) = (first, longest);
        self
    }

    /// Calls `told` with what was done: after each batch, and at each error.
    pub fn on_progress(mut self, told: impl Fn(&Filled) + Send + Sync + 'static) -> Self {
        self.told = Some(Arc::new(told));
        self
    }

    /// Fills the channel until `stop` is ready; what is fetched by then is still sent, synced and acked. If the channel
    /// is full, it waits for room.
    ///
    /// # Errors
    ///
    /// See [`FillError`]. An engine that is away is none: it is tried again.
    ///
    /// # Cancel safety
    ///
    /// Dropped at any time, nothing is lost, and nothing comes twice.
    pub async fn run(&self, channel: &Channel, stop: impl Future<Output = ()>) -> Result<Filled, FillError> {
        let (stopping, stopped) = watch::channel(false);
        // A new sender would open it again.
        if channel.is_closed() {
            return Err(FillError::Send(SendError::Closed));
        }
        let sender = channel.sender();
        let mut filler =
            Filler { source: self, channel, sender, stopped, mark: Mark::default(), filled: Filled::default() };
        let hear = async {
            stop.await;
            stopping.send_replace(true);
            pending::<Infallible>().await
        };
        tokio::select! {
            ran = filler.run() => ran?,
            never = hear => match never {},
        }
        Ok(filler.filled)
    }
}

impl std::fmt::Debug for NatsSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsSource")
            .field("address", &self.address)
            .field("durable", &self.durable)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

/// A source that is run.
struct Filler<'a> {
    source: &'a NatsSource,
    channel: &'a Channel,
    sender: Sender,
    stopped: watch::Receiver<bool>,
    /// Of no source before it has been connected.
    mark: Mark,
    filled: Filled,
}

/// A message that came: its sequence, and what is to be sent, if it can be.
type Item = (u64, Result<WithHeaders, FillError>);

impl Filler<'_> {
    async fn run(&mut self) -> Result<(), FillError> {
        let mut backoff = Backoff::new(self.source.first_pause, self.source.longest_pause);
        loop {
            match self.connect_and_fill(&mut backoff).await {
                Ok(()) => return Ok(()),
                Err(Broken::Fill(error)) => {
                    self.failed(&error);
                    return Err(error);
                }
                Err(Broken::Engine(error)) => self.failed(&*error),
            }
            let pause = backoff.pause();
            if self.unless_stopped(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
        }
    }

    fn failed(&mut self, error: &dyn Error) {
        event!(warn, "filling failed", error = error);
        self.filled.last_error = Some((SystemTime::now(), error.to_string()));
        self.tell();
    }

    fn tell(&self) {
        if let Some(told) = &self.source.told {
            told(&self.filled);
        }
    }

    /// What something comes to, or nothing if it is told to stop.
    async fn unless_stopped<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = is_stopped(&mut self.stopped) => None,
            out = what => Some(out),
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Until it is told to stop, or something breaks.
    async fn connect_and_fill(&mut self, backoff: &mut Backoff) -> Result<(), Broken> {
        let source = self.source;
        let Some(link) = self.unless_stopped(Link::open(source, self.channel.uuid())).await else { return Ok(()) };
        let mut link = link?;
        let filled = self.fill(&mut link, backoff).await;
        link.flush().await;
        filled
    }

    async fn fill(&mut self, link: &mut Link, backoff: &mut Backoff) -> Result<(), Broken> {
        self.take_mark(link).await?;
        // The number of the next delivery; nothing if some are missing.
        let mut next = None;
        while !self.is_stopping() {
            if self.channel.is_closed() {
                return Err(FillError::Send(SendError::Closed).into());
            }
            let Some(number) = next else {
                next = self.catch_up(link).await?;
                continue;
            };
            let mut fetched = link.fetch().await?;
            if fetched.is_empty() {
                let Some(one) = self.unless_stopped(link.wait()).await else { return Ok(()) };
                fetched.extend(one?);
            }
            backoff.reset();
            next = self.take(number, fetched).await?;
        }
        Ok(())
    }

    /// Holds the source, and finds out how far it has come, if that is not so already.
    async fn take_mark(&mut self, link: &Link) -> Result<(), Broken> {
        let prefix = link.prefix();
        if self.mark.prefix != prefix {
            self.mark = Mark::default(); // lets the other source go
            let channel = self.channel;
            let Some(mark) = self.unless_stopped(Mark::take(channel, prefix)).await else { return Ok(()) };
            self.mark = mark?;
        }
        // Not before: another may have filled the channel while this one waited.
        let (last, had) = (link.last_sequence().await?, self.mark.newest());
        if last < had {
            return Err(FillError::Rewound { stream: self.source.stream.clone(), last, had }.into());
        }
        Ok(())
    }

    /// Takes from the stream itself what was ever handed out and is not in the channel: then every message up to the
    /// last delivery is there. The number of the next delivery; nothing if it is told to stop before.
    async fn catch_up(&mut self, link: &Link) -> Result<Option<u64>, Broken> {
        let state = link.state().await?;
        let mut from = self.mark.last.max(state.ack_floor) + 1;
        while from <= state.delivered {
            if self.is_stopping() {
                return Ok(None);
            }
            let raw = link.stored(from..=state.delivered, self.source.batch).await?;
            let Some(last) = raw.last() else { break };
            from = last.sequence + 1;
            let items = raw.iter().map(|raw| self.item(raw)).collect();
            self.put(items).await.1?;
        }
        self.mark.settle(state.delivered);
        Ok(Some(state.number + 1))
    }

    /// Sends what was delivered, and acks it. The number of the next delivery; nothing if one is missing.
    async fn take(&mut self, mut number: u64, mut fetched: Vec<Delivered>) -> Result<Option<u64>, Broken> {
        let missing = fetched.iter().zip(number..).position(|(one, number)| one.number != number);
        // Those behind it are found in the stream, and come again.
        fetched.truncate(missing.unwrap_or(fetched.len()));
        number += fetched.len() as u64;
        let items = fetched.iter().map(|one| self.item(&one.raw)).collect();
        let (done, put) = self.put(items).await;
        for one in &fetched[..done] {
            one.ack().await?;
        }
        put?;
        Ok(missing.is_none().then_some(number))
    }

    /// What is to be sent of a message.
    fn item(&self, raw: &Raw) -> Item {
        let (stream, sequence) = (self.source.stream.clone(), raw.sequence);
        let headers = raw.headers.iter().fold(Headers::new(), |headers, (name, value)| headers.with(name, value));
        let message = headers.with(SOURCE, self.mark.value(sequence)).message(&raw.payload);
        let message = message.map_err(|source| FillError::Headers { stream: stream.clone(), sequence, source });
        let fits = message.and_then(|message| match self.sender.record(&message) {
            Err(SendError::MessageTooLarge { len, max }) => Err(FillError::TooLong { stream, sequence, len, max }),
            _ => Ok(message),
        });
        (sequence, fits)
    }

    /// Sends those that are not in the channel, in order, up to one that cannot be, and syncs: how many of the first are
    /// there now, and what became of the next.
    async fn put(&mut self, items: Vec<Item>) -> (usize, Result<(), FillError>) {
        let mut last = self.mark.last;
        let (mut done, mut doubles, mut new, mut ended) = (0, 0, Vec::new(), Ok(()));
        for (sequence, message) in items {
            if sequence <= last || self.mark.has(sequence) {
                doubles += 1;
            } else {
                match message {
                    Ok(message) => new.push(message),
                    Err(error) => {
                        ended = Err(error);
                        break;
                    }
                }
            }
            last = last.max(sequence);
            done += 1;
        }
        if !new.is_empty() {
            if let Err(error) = self.sender.send_many(&new).await {
                return (0, Err(FillError::Send(error.error)));
            }
            if let Err(error) = self.channel.sync().await {
                return (0, Err(FillError::Sync(error)));
            }
        }
        self.mark.settle(last);
        self.filled.messages += new.len() as u64;
        self.filled.doubles += doubles;
        self.filled.sequence = Some(self.mark.last);
        if done > 0 {
            self.tell();
        }
        (done, ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_stream_and_perhaps_a_subject() {
        let parse = |text| NatsSource::new(text).map(|source| (source.stream, source.subject));
        let of = |stream: &str, subject: Option<&str>| Ok((stream.to_owned(), subject.map(str::to_owned)));
        assert_eq!(parse("nats://h:1/ORDERS"), of("ORDERS", None));
        assert_eq!(parse("nats://u:p@h:1/ORDERS/orders.*.>"), of("ORDERS", Some("orders.*.>")));
        assert_eq!(parse("tls://h/ORDERS/a/b"), of("ORDERS", Some("a/b")));
        for wrong in ["nats://h", "nats://h/", "nats://h/A.B/c", "nats://h/A/", "nats://h/A/b c", "nats://h/A/b..c"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
