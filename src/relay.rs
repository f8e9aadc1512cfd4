//! Carrying a channel into an engine that is distributed: the channel stays the spool next to the program, and a relay
//! takes its messages to NATS, to Redis, or to wherever a [`Sink`] of your own puts them.
//!
//! A relay is an ordinary receiver of an ordinary group. It leases messages in their order, hands them to the sink, up
//! to a window of messages that the engine has not confirmed, and is done with each when the engine has confirmed it.
//! If the engine is away, slow or full it tries again, with pauses that grow; the messages wait in the channel, and
//! senders notice nothing until the ring is full. Then [`Overflow`](crate::Overflow) says what happens, as with any
//! slow group.
//!
//! # What it promises
//!
//! - **Nothing is lost between the two.** A message is done in the group only after the engine has confirmed it, or
//!   after it became a dead letter because the engine refused it for good. What the group itself did not get
//!   (`Lagged`, `gone`, ...) the engine does not get either. What an engine does to messages that it confirmed is its own
//!   business.
//! - **In order.** What the engine has is in the order of the offsets. The sinks of this crate make the engine check
//!   that: nothing is stored but behind what it was meant to follow, whatever happens to connections in between, and
//!   also if a process that was stopped goes on in the middle of a batch.
//! - **Once.** After a break the sinks of this crate first ask the engine how far it has come, and go on behind that.
//!   With a sink that cannot ask ([`Sink::connect`] says `None`) what was not confirmed comes again: at least once.
//! - **One at a time.** Any number of relays can be run for a group, in any processes: one is active, and when it dies
//!   another takes over, within a second. The group should have no other receivers.
//!
//! # When the engine refuses a message
//!
//! If it does so for good ([`SinkError::refused`]: too long, for example), the message becomes a dead letter of the
//! channel, as by [`Lease::reject`](crate::Lease::reject), and the relay goes on behind it. That needs a channel that was made with
//! [`Options::max_attempts`](crate::Options::max_attempts): in another the relay ends, with [`RelayError::Refused`],
//! and the message stays where it is. Each death of a relay counts as an attempt of what it had in flight, so give a
//! channel for relays many. Give it no [`Options::lease_timeout`](crate::Options::lease_timeout): each time that the engine
//! takes longer counts as an attempt, too.
//!
//! # A sink of your own
//!
//! ```
//! use disk_chan::relay::{Relay, Sink, SinkError};
//! use disk_chan::{Lease, Offset, Options};
//! use std::io::Write;
//!
//! /// Appends each message to a file, as a line.
//! struct Lines(std::fs::File, Offset);
//!
//! impl Sink for Lines {
//!     async fn publish(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
//!         for message in batch {
//!             let line = [message, &b"\n"[..]].concat();
//!             self.0.write_all(&line).map_err(SinkError::retry)?;
//!             self.1 = message.offset();
//!         }
//!         self.0.sync_data().map_err(SinkError::retry)
//!     }
//!
//!     async fn confirmed(&mut self) -> Result<Offset, SinkError> {
//!         Ok(self.1)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let (path, out) = (dir.path().join("orders.chan"), dir.path().join("orders.txt"));
//! let channel = Options::new().page_size(1 << 20).max_pages(4).open(&path).await?;
//! channel.sender().send_many(&["two coffees", "one tea"]).await?;
//! channel.close(); // else the relay waits for more
//! let sink = Lines(std::fs::File::create(&out)?, Offset::default());
//! Relay::new(&channel, "to-file").run(sink, std::future::pending()).await?;
//! assert_eq!(std::fs::read(&out)?, b"two coffees\none tea\n");
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! **Invariants.**
//! - Only who holds the group (`hold.rs`: the holder word that partitions use, too) receives from it. That is looked at
//!   after each lease, so what is handed to the sink was leased while it was held.
//! - `held` has the leases in the order of their offsets; the first `published` of them were handed to the engine in
//!   this connection, and none of them is confirmed.
//! - What is leased at or before what the engine has is never handed to it: the order would be broken. It was published
//!   by somebody who did not live to be done with it, and the engine says so ([`Sink::missing`]); or it was with another
//!   receiver of the group meanwhile, and is refused.
//! - After an error of the sink nothing is handed over before it has connected again, and said how far the engine is. The
//!   same if something is leased that should not come any more: the group may have been moved back as the engine has
//!   lost what it had.
#![forbid(unsafe_code)]

#[cfg(any(feature = "relay-nats", feature = "relay-redis"))]
mod address;
mod backoff;
mod hold;
#[cfg(feature = "relay-nats")]
mod nats;
#[cfg(feature = "relay-nats")]
mod nats_headers;
#[cfg(feature = "relay-nats")]
mod nats_session;
#[cfg(feature = "relay-nats")]
mod nats_source;
#[cfg(feature = "relay-nats")]
mod nats_stream;
#[cfg(feature = "relay-redis")]
mod redis;
mod sink;
mod status;
mod turn;

use crate::{Channel, GroupName, Offset, RecvError, SubscribeError};
use backoff::Backoff;
use hold::Hold;
use status::{Reporter, Told};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use turn::{Ended, Turn};

#[cfg(any(feature = "relay-nats", feature = "relay-redis"))]
pub use address::AddressError;
#[cfg(feature = "relay-redis")]
pub use redis::Redis;
pub use sink::{Origin, Sink, SinkError, SinkErrorKind};
pub use status::RelayStatus;
pub(crate) use status::forget;
#[cfg(feature = "relay-nats")]
pub use {
    nats::Nats,
    nats_source::{FillError, Filled, NatsSource},
};

/// Carries the messages of a group to a [`Sink`]: see the [module](self).
///
/// It needs a tokio runtime with time.
#[derive(Clone)]
#[must_use = "a relay does nothing before it is run"]
pub struct Relay {
    channel: Channel,
    group: GroupName,
    batch: usize,
    window: usize,
    first_pause: Duration,
    longest_pause: Duration,
    grace: Duration,
    told: Option<Told>,
}

/// Why a relay ended before it was told to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The group could not be joined.
    #[error("cannot join the group")]
    Subscribe(#[from] SubscribeError),
    /// Nothing can be received any more.
    #[error("cannot receive")]
    Recv(#[source] RecvError),
    /// The sink says that trying again is of no use.
    #[error("the sink gives up")]
    Sink(#[source] SinkError),
    /// The engine does not want a message, and there are no dead letters to put it to. It is there still, and comes
    /// first when a relay is run again.
    #[error(
        "the engine refuses the message at {offset}, and the channel was made without max_attempts, so has no dead letters"
    )]
    Refused {
        /// Where the message is.
        offset: Offset,
        /// What the engine said.
        source: SinkError,
    },
    /// More relays, and receivers of partitions, than one open of a channel can number.
    #[error("too many relays in this process")]
    TooMany,
}

impl Relay {
    /// A relay of a group. If the group is new, it is made when the relay is run, and begins with the oldest message in
    /// the ring.
    pub fn new(channel: &Channel, group: impl Into<GroupName>) -> Self {
        Self {
            channel: channel.clone(),
            group: group.into(),
            batch: 64,
            window: 256,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
            grace: Duration::from_secs(10),
            told: None,
        }
    }

    /// Most messages that the sink is handed at once: 64, if not said otherwise. It is never more than a quarter of the
    /// [`window`](Self::window), so that the engine has something to do meanwhile.
    pub fn batch(mut self, messages: usize) -> Self {
        self.batch = messages.max(1);
        self
    }

    /// Most messages that are handed over and not confirmed: 256, if not said otherwise. It is never more than
    /// [`Options::max_held`](crate::Options::max_held) of the channel.
    pub fn window(mut self, messages: usize) -> Self {
        self.window = messages.max(1);
        self
    }

    /// How long it pauses before it tries again: the first time about this long, then twice as long each time, up to
    /// the longest. The pauses vary by chance, from half of that to all of it, so that relays do not come back all at
    /// once. 50 ms and 5 s, if not said otherwise.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_pause, self.longest_pause) = (first, longest);
        self
    }

    /// How long it waits for what is in flight when it is told to stop: 10 s, if not said otherwise.
    pub fn grace(mut self, time: Duration) -> Self {
        self.grace = time;
        self
    }

    /// Calls `told` with how the relay stands: when it becomes the active one, about once a second while it is, and at
    /// each error. Not while it waits for another to go.
    pub fn on_status(mut self, told: impl Fn(&RelayStatus) + Send + Sync + 'static) -> Self {
        self.told = Some(Arc::new(told));
        self
    }

    /// Relays until `stop` is ready: then it takes no new messages, waits for the engine to confirm what is in flight,
    /// and ends; what is not confirmed in time is given back, at once if the sink is not connected. It also ends when the
    /// channel is [closed](Channel::close) and the engine has everything.
    ///
    /// # Errors
    ///
    /// See [`RelayError`]. An engine that is away is none: the relay waits for it.
    ///
    /// # Cancel safety
    ///
    /// Dropped at any time, nothing is lost; what was in flight is given back.
    pub async fn run(&self, mut sink: impl Sink, stop: impl Future<Output = ()>) -> Result<RelayStatus, RelayError> {
        let reporter = Reporter::new(&self.channel, &self.group, sink.to(), self.told.clone());
        let (stopping, stopped) = watch::channel(false);
        let last_words = async {
            stop.await;
            stopping.send_replace(true);
            tokio::time::sleep(self.grace).await;
        };
        // Dropped, it gives back what is in flight.
        let ran = tokio::select! {
            ran = self.take_turns(&mut sink, &reporter, stopped) => ran,
            () = last_words => Ok(()),
        };
        reporter.ended(ran.as_ref().err()).await;
        ran.map(|()| reporter.status())
    }

    async fn take_turns(
        &self,
        sink: &mut impl Sink,
        reporter: &Reporter,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), RelayError> {
        let mut receiver = self.channel.subscribe(self.group.clone()).await?;
        // Where the group is moved to, another relay may hold it: that is looked at first.
        receiver.at.follows = false;
        let mut backoff = Backoff::new(self.first_pause, self.longest_pause);
        loop {
            let hold = tokio::select! {
                hold = Hold::take(&mut receiver) => hold?,
                () = is_stopped(&mut stopped) => return Ok(()),
            };
            reporter.began().await;
            let mut turn = Turn::new(self, &mut receiver, hold, sink, reporter, &mut stopped);
            match turn.run(&mut backoff).await? {
                Ended::Over => return Ok(()),
                // The group was moved: once more from where it is, unless another relay is the first there.
                Ended::Lost => reporter.ended(None).await,
            }
        }
    }
}

/// Waits until the relay is told to stop.
async fn is_stopped(stopped: &mut watch::Receiver<bool>) {
    // An error: who would tell has gone, together with this.
    if stopped.wait_for(|stopped| *stopped).await.is_err() {
        std::future::pending().await
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("channel", &self.channel)
            .field("group", &self.group)
            .field("batch", &self.batch)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
