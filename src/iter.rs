//! Receiving by iterating: iterators of copied messages.
#![forbid(unsafe_code)]

use crate::claim::Want;
use crate::{OwnedMessage, Receiver, RecvError, TryRecvError};

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

    fn next_owned(&mut self) -> Option<OwnedMessage> {
        loop {
            match self.blocking_claim(Want::Owned, None) {
                Ok(()) => return Some(self.owned()),
                Err(RecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
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
