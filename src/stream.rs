//! Receiving as a stream: of copied messages, and of leases.
//!
//! **Invariants.**
//! - What a stream yields is claimed in the poll that yields it. So a stream that is dropped, or not polled any more,
//!   holds nothing.
//! - A stream of leases waits while as many messages are held as `max_held` allows, and goes on when one of them ends.
#![forbid(unsafe_code)]

use crate::claim::Want;
use crate::sleeper::Sleeper;
use crate::{Lease, OwnedMessage, Receiver, RecvError};
use futures_core::Stream;
use futures_core::stream::FusedStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::task::coop::poll_proceed;

impl Receiver {
    /// The messages, as copies, as a stream; ends as [`iter`](Self::iter).
    pub fn stream(&mut self) -> MessageStream<'_> {
        let state = State::new(self);
        MessageStream { receiver: self, state }
    }

    /// As [`stream`](Self::stream), with the receiver in it.
    pub fn into_stream(self) -> IntoMessageStream {
        let state = State::new(&self);
        IntoMessageStream { receiver: self, state }
    }

    /// The messages, leased, as a stream; ends as [`iter`](Self::iter).
    ///
    /// As many leases as [`max_held`](crate::Options::max_held) allows can be out at once, of all receivers of the
    /// group together: then it waits until one of them is done or given back. A lease that was given back comes
    /// again, but not in a stream that has ended: when nobody is left to send it ends as soon as there is nothing to
    /// hand out, though leases are out still. What was dropped before the group had it (`Lagged`) is passed over, and counted in
    /// [`GroupStats`](crate::GroupStats).
    ///
    /// # Cancel safety
    ///
    /// Dropped at any time, nothing is lost; leases that it yielded are the caller's still.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// use futures::StreamExt;
    /// let mut rx = channel.blocking_subscribe("billing")?;
    /// let tx = channel.sender();
    /// tx.blocking_send_many(&["a", "b", "c"])?;
    /// channel.close(); // after these the stream ends
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// rx.lease_stream()
    ///     .for_each_concurrent(2, |order| async move {
    ///         // ... work on it ...
    ///         order.ack().expect("it was not taken away");
    ///     })
    ///     .await;
    /// # });
    /// assert_eq!(channel.groups()[0].lag, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lease_stream(&mut self) -> LeaseStream<'_> {
        let state = State::new(self);
        LeaseStream { receiver: self, state }
    }

    /// As [`lease_stream`](Self::lease_stream), with the receiver in it.
    pub fn into_lease_stream(self) -> IntoLeaseStream {
        let state = State::new(&self);
        IntoLeaseStream { receiver: self, state }
    }
}

/// What a stream knows between polls.
#[derive(Debug)]
struct State {
    sleeper: Sleeper,
    ended: bool,
}

impl State {
    fn new(receiver: &Receiver) -> Self {
        Self { sleeper: Sleeper::receiver(receiver.at.group), ended: false }
    }

    /// Polls for a claim, which is in the receiver's hand then. False at the end.
    fn poll_claim(&mut self, receiver: &mut Receiver, want: Want, cx: &mut Context<'_>) -> Poll<bool> {
        if self.ended {
            return Poll::Ready(false);
        }
        let Receiver { root, at } = receiver;
        at.take_loans_back(root);
        ready!(poll_proceed(cx)).made_progress();
        let claimed = loop {
            match ready!(at.poll(root, want, &mut self.sleeper, cx)) {
                Err(RecvError::Lagged(_)) => {}
                claimed => break claimed.is_ok(),
            }
        };
        self.ended = !claimed;
        Poll::Ready(claimed)
    }
}

/// The messages as a stream: see [`Receiver::stream`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct MessageStream<'a> {
    receiver: &'a mut Receiver,
    state: State,
}

/// The messages as a stream, with the receiver in it: see [`Receiver::into_stream`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct IntoMessageStream {
    receiver: Receiver,
    state: State,
}

/// The messages, leased, as a stream: see [`Receiver::lease_stream`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct LeaseStream<'a> {
    receiver: &'a mut Receiver,
    state: State,
}

/// The messages, leased, as a stream, with the receiver in it: see [`Receiver::into_lease_stream`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct IntoLeaseStream {
    receiver: Receiver,
    state: State,
}

macro_rules! stream {
    ($type:ty, $item:ident, $want:ident, $take:ident) => {
        impl Stream for $type {
            type Item = $item;

            fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<$item>> {
                let Self { receiver, state } = self.get_mut();
                let claimed = ready!(state.poll_claim(receiver, Want::$want, cx));
                Poll::Ready(claimed.then(|| receiver.$take()))
            }
        }

        impl FusedStream for $type {
            fn is_terminated(&self) -> bool {
                self.state.ended
            }
        }
    };
}
stream!(MessageStream<'_>, OwnedMessage, Owned, owned);
stream!(IntoMessageStream, OwnedMessage, Owned, owned);
stream!(LeaseStream<'_>, Lease, Lease, lease_in_hand);
stream!(IntoLeaseStream, Lease, Lease, lease_in_hand);
