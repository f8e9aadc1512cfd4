//! Receiving by iterating: iterators and streams of copied messages.
#![forbid(unsafe_code)]

use crate::claim::Want;
use crate::sleeper::Sleeper;
use crate::{OwnedMessage, Receiver, RecvError, TryRecvError};
use futures_core::Stream;
use futures_core::stream::FusedStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::task::coop::poll_proceed;

impl Receiver {
    /// The messages that are there, as copies; ends when there is none at the moment.
    pub fn try_iter(&mut self) -> TryIter<'_> {
        TryIter { receiver: self }
    }

    /// The messages, as copies; blocks the thread for each, and ends when nobody is left to send, or receiving
    /// is another error than `Lagged`.
    ///
    /// What was dropped before the group had it (`Lagged`) is passed over; the group's statistics
    /// count it.
    pub fn iter(&mut self) -> Iter<'_> {
        Iter { receiver: self, ended: false }
    }

    /// The messages, as copies, as a stream; ends as [`iter`](Self::iter).
    pub fn stream(&mut self) -> MessageStream<'_> {
        let sleeper = Sleeper::receiver(self.at.group);
        MessageStream { receiver: self, sleeper, ended: false }
    }

    /// As [`stream`](Self::stream), with the receiver in it.
    pub fn into_stream(self) -> IntoMessageStream {
        let sleeper = Sleeper::receiver(self.at.group);
        IntoMessageStream { receiver: self, sleeper, ended: false }
    }

    fn next_owned(&mut self) -> Option<OwnedMessage> {
        loop {
            match self.blocking_claim(Want::Owned, None) {
                Ok(()) => return Some(self.owned()),
                Err(RecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
    }

    fn poll_next_owned(&mut self, sleeper: &mut Sleeper, cx: &mut Context<'_>) -> Poll<Option<OwnedMessage>> {
        let Self { root, at } = &mut *self;
        at.take_loans_back(root);
        ready!(poll_proceed(cx)).made_progress();
        let claimed = loop {
            match ready!(at.poll(root, Want::Owned, sleeper, cx)) {
                Err(RecvError::Lagged(_)) => {}
                claimed => break claimed,
            }
        };
        Poll::Ready(claimed.ok().map(|()| self.owned()))
    }
}

impl IntoIterator for Receiver {
    type Item = OwnedMessage;
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter { receiver: self, ended: false }
    }
}

impl<'a> IntoIterator for &'a mut Receiver {
    type Item = OwnedMessage;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The messages that are there: see [`Receiver::try_iter`].
#[derive(Debug)]
pub struct TryIter<'a> {
    receiver: &'a mut Receiver,
}

impl Iterator for TryIter<'_> {
    type Item = OwnedMessage;

    fn next(&mut self) -> Option<OwnedMessage> {
        loop {
            match self.receiver.try_claim(Want::Owned) {
                Ok(()) => return Some(self.receiver.owned()),
                Err(TryRecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
    }
}

/// The messages: see [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a> {
    receiver: &'a mut Receiver,
    ended: bool,
}

/// The messages, with the receiver in it: see [`Receiver::iter`].
#[derive(Debug)]
pub struct IntoIter {
    receiver: Receiver,
    ended: bool,
}

/// The messages as a stream: see [`Receiver::stream`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct MessageStream<'a> {
    receiver: &'a mut Receiver,
    sleeper: Sleeper,
    ended: bool,
}

/// The messages as a stream, with the receiver in it: see [`Receiver::into_stream`].
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct IntoMessageStream {
    receiver: Receiver,
    sleeper: Sleeper,
    ended: bool,
}

macro_rules! iterator {
    ($type:ty) => {
        impl Iterator for $type {
            type Item = OwnedMessage;

            fn next(&mut self) -> Option<OwnedMessage> {
                if self.ended {
                    return None;
                }
                let next = self.receiver.next_owned();
                self.ended = next.is_none();
                next
            }
        }

        impl std::iter::FusedIterator for $type {}
    };
}
iterator!(Iter<'_>);
iterator!(IntoIter);

macro_rules! stream {
    ($type:ty) => {
        impl Stream for $type {
            type Item = OwnedMessage;

            fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<OwnedMessage>> {
                let this = self.get_mut();
                if this.ended {
                    return Poll::Ready(None);
                }
                let next = ready!(this.receiver.poll_next_owned(&mut this.sleeper, cx));
                this.ended = next.is_none();
                Poll::Ready(next)
            }
        }

        impl FusedStream for $type {
            fn is_terminated(&self) -> bool {
                self.ended
            }
        }
    };
}
stream!(MessageStream<'_>);
stream!(IntoMessageStream);
