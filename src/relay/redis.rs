//! Redis Streams.
//!
//! **Invariants.**
//! - The id of an entry is `{created}-{offset}`: when the channel was created, in unix milliseconds, and the offset of the
//!   message. A stream only takes ids that rise, so what is in it is in the order of the offsets, each once, whoever
//!   adds it and when; and a channel that is created anew under the same key goes on above the one before.
//! - Messages go in transactions, and the next one is sent when the answer to the last one is there. A transaction is
//!   stored as a whole or not at all: of two in flight the first could be refused (no memory) and the second stored, and
//!   the first could never be added again, as ids rise.
//! - A transaction of an old connection, or of a relay that was stopped and goes on, may be executed at any later time.
//!   What of it lies behind what is stored by then is what was to come, in order; the ids of the rest are refused.
//! - An id that is refused counts as stored only if an entry with that id and the number of this channel was seen there.
//!   Nothing else counts as confirmed but what the server said it added.

mod stream;

use super::{AddressError, Origin, Sink, SinkError};
use crate::relay::address::Address;
use crate::{Lease, Offset};
use ::redis::{Client, IntoConnectionInfo};
use std::fmt;
use std::time::Duration;
use stream::{Stream, size};

/// Most bytes in a transaction: the server holds all of it in memory. A longer message has one of its own.
const TRANSACTION: usize = 1 << 20;

/// Puts messages into a stream of Redis (5 or newer): `redis://HOST:PORT/KEY`, or `redis://USER:PASSWORD@HOST:PORT/KEY`.
///
/// Whatever is behind the slash is the key. User and password are percent-encoded where they have other characters than
/// a URL allows. A user with rights that are limited needs `MULTI`, `EXEC`, `XADD`, `XRANGE` and `XINFO` for the key.
///
/// # Entries
///
/// The id of an entry is `{created}-{offset}`: when the channel was created, in unix milliseconds, and
/// [`Offset::as_u64`] of the message. Its fields:
///
/// | field | what it is |
/// |---|---|
/// | `channel` | [`Origin::uuid`], as 32 hexadecimal digits |
/// | `sent` | when the message was sent, in unix milliseconds |
/// | `key` | the key, if the message has one |
/// | `header:NAME` | a value of its headers, as often as it has one of that name |
/// | `message` | the message |
///
/// # The key belongs to one channel
///
/// Whatever else adds entries to it (`XADD` with `*` makes ids from the clock, which are higher) keeps the channel from
/// adding its own: the relay ends then, with [`RelayError::Sink`](super::RelayError::Sink), and what was not confirmed
/// stays in the channel. A channel that is created anew goes on in the same key, above the entries of the one before.
///
/// Entries may be deleted, or trimmed: by consumers, or with `XTRIM`. If that happens to some that a relay had in flight
/// when it died, the next relay cannot know that they were stored, and they become dead letters.
///
/// # What is confirmed
///
/// A message is done when the server has said that it was added. What the server loses after that is its own business:
/// with `appendonly yes` and `appendfsync always` it has the message on its disk when it says so, and only then; with
/// `appendfsync everysec` the last second can be lost, and so can what was not copied yet when a replica takes over.
///
/// A message that the server can never take becomes a dead letter: one of more bytes than `proto-max-bulk-len`, or than
/// `client-query-buffer-limit` with its headers. They are asked for with `CONFIG GET`; where that is not allowed, they
/// count as 512 MiB and 1 GiB. A server that is full (`maxmemory`), read-only or loading is waited for.
pub struct Redis {
    address: Address,
    client: Client,
    timeout: Duration,
    /// Of this connection only: gone before the next is made.
    stream: Option<Stream>,
    /// The last that was added in this connection.
    last: Option<Offset>,
}

impl Redis {
    /// A sink for this address.
    ///
    /// # Errors
    ///
    /// [`AddressError`] if it is none.
    pub fn new(address: &str) -> Result<Self, AddressError> {
        const EXAMPLE: &str = "redis://localhost:6379/orders";
        let address = Address::parse(address, &["redis"], EXAMPLE)?;
        let wrong = |_| AddressError { address: address.to_string(), example: EXAMPLE };
        let info = address.server.as_str().into_connection_info().map_err(wrong)?;
        let client = Client::open(info).map_err(wrong)?;
        Ok(Self { address, client, timeout: Duration::from_secs(5), stream: None, last: None })
    }

    /// How long it waits for a connection, and for each answer, before it connects again: 5 s, if not said otherwise.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    fn stream(&mut self) -> Result<&mut Stream, SinkError> {
        self.stream.as_mut().ok_or_else(|| SinkError::retry("not connected"))
    }
}

impl Sink for Redis {
    fn to(&self) -> String {
        self.address.to_string()
    }

    async fn connect(&mut self, origin: &Origin) -> Result<Option<Offset>, SinkError> {
        (self.stream, self.last) = (None, None);
        let mut stream = Stream::open(&self.client, &self.address.path, origin, self.timeout).await?;
        let last = stream.last().await?;
        self.stream = Some(stream);
        Ok(last)
    }

    async fn publish(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
        let stream = self.stream()?;
        let too_long = batch.iter().enumerate().find_map(|(at, lease)| Some((at, stream.too_long(lease)?)));
        let mut rest = too_long.as_ref().map_or(batch, |(at, _)| &batch[..*at]);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(first_transaction(rest));
            self.stream()?.add(now).await?;
            (self.last, rest) = (now.last().map(Lease::offset), later);
        }
        too_long.map_or(Ok(()), |(at, why)| Err(SinkError::refused(batch[at].offset(), why)))
    }

    async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        // All that was handed over is.
        self.last.ok_or_else(|| SinkError::retry("nothing was handed over"))
    }

    async fn missing(&mut self, offsets: &[Offset]) -> Result<Vec<Offset>, SinkError> {
        self.stream()?.missing(offsets).await
    }
}

/// How many of these messages fit into a transaction: at least one, if there are any.
fn first_transaction(batch: &[Lease]) -> usize {
    let mut bytes = 0;
    let fits = |lease: &&Lease| {
        bytes += size(lease);
        bytes <= TRANSACTION
    };
    batch.iter().take_while(fits).count().max(1).min(batch.len())
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("address", &self.address).finish_non_exhaustive()
    }
}
