//! What typed senders and receivers have in common: a value with its message, and what does not decode.
//!
//! **Invariants.**
//! - A value that was received owns nothing of its message's bytes, and its message is as if it had been received
//!   untyped: it is done, given back or forgotten by the same rules.
//! - A message that does not decode was handed out. It is in the error, and ends with that.
#![forbid(unsafe_code)]

use crate::codec::{Codec, DecodeError, EncodeError};
use crate::{AckError, HeadersRef, Lease, Message, Offset, OwnedMessage, RecvError, RejectError, SendError};
use futures_core::Stream;
use futures_core::stream::FusedStream;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;
use thiserror::Error;

mod sealed {
    use super::{HeadersRef, Offset, SystemTime};

    /// What a receiver hands out.
    pub trait HandOut: AsRef<[u8]> {
        fn offset(&self) -> Offset;
        fn attempts(&self) -> u32;
        fn sent_at(&self) -> SystemTime;
        fn headers(&self) -> HeadersRef<'_>;
        /// Whether it does not decode: what dropping it means.
        fn set_undecoded(&mut self, is: bool);
    }
}
use sealed::HandOut;

macro_rules! hand_out {
    ($type:ty, $set_undecoded:expr) => {
        impl HandOut for $type {
            fn offset(&self) -> Offset {
                self.offset()
            }

            fn attempts(&self) -> u32 {
                self.attempts()
            }

            fn sent_at(&self) -> SystemTime {
                self.sent_at()
            }

            fn headers(&self) -> HeadersRef<'_> {
                self.headers()
            }

            fn set_undecoded(&mut self, is: bool) {
                $set_undecoded(self, is);
            }
        }
    };
}
hand_out!(Message<'_>, |_, _| ());
hand_out!(OwnedMessage, |_, _| ());
hand_out!(Lease, Lease::reject_if_dropped);

/// A value that was received, with its message: a [`Message`], an [`OwnedMessage`] or a [`Lease`].
///
/// Dropping it drops the message: one that was received is done, a lease is given back.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// let mut rx = channel.blocking_subscribe("billing")?.typed::<(String, u32)>();
/// channel.sender().typed::<(&str, u32)>().blocking_send(&("coffee", 2))?;
/// let order = rx.blocking_lease()?;
/// assert_eq!((order.0.as_str(), order.1, order.attempts()), ("coffee", 2, 1));
/// order.ack()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "what is dropped is done, or, if it is leased, given back"]
pub struct Typed<T, M> {
    value: T,
    message: M,
}

impl<T, M: HandOut> Typed<T, M> {
    pub(crate) fn new(value: T, message: M) -> Self {
        Self { value, message }
    }

    /// The value of a message that is the caller's.
    pub(crate) fn of<C: Codec>(message: M) -> Result<Self, Undecoded<M>>
    where
        T: DeserializeOwned,
    {
        match C::decode(message.as_ref()) {
            Ok(value) => Ok(Self { value, message }),
            Err(source) => Err(Undecoded::new::<T>(message, source)),
        }
    }

    /// The message.
    pub fn message(&self) -> &M {
        &self.message
    }

    /// The value and its message, apart.
    pub fn into_parts(self) -> (T, M) {
        (self.value, self.message)
    }

    /// Its place in the channel.
    pub fn offset(&self) -> Offset {
        self.message.offset()
    }

    /// How often the group was given it, this time included.
    pub fn attempts(&self) -> u32 {
        self.message.attempts()
    }

    /// When it was sent, by a clock that ticks every few milliseconds.
    pub fn sent_at(&self) -> SystemTime {
        self.message.sent_at()
    }

    /// Its headers; a message that was sent without any has none.
    pub fn headers(&self) -> HeadersRef<'_> {
        self.message.headers()
    }

    /// The key in its headers, if there is one.
    pub fn key(&self) -> Option<&[u8]> {
        self.headers().key()
    }
}

impl<T> Typed<T, Message<'_>> {
    /// The value; the message is done.
    pub fn into_value(self) -> T {
        self.value
    }
}

impl<T> Typed<T, OwnedMessage> {
    /// The value; the message is done.
    pub fn into_value(self) -> T {
        self.value
    }
}

impl<T> Typed<T, Lease> {
    /// As [`Lease::ack`].
    ///
    /// # Errors
    ///
    /// As [`Lease::ack`].
    pub fn ack(self) -> Result<(), AckError> {
        self.message.ack()
    }

    /// As [`Lease::give_back`].
    ///
    /// # Errors
    ///
    /// As [`Lease::give_back`].
    pub fn give_back(self) -> Result<(), AckError> {
        self.message.give_back()
    }

    /// As [`Lease::reject`].
    ///
    /// # Errors
    ///
    /// As [`Lease::reject`].
    pub fn reject(self) -> Result<(), RejectError> {
        self.message.reject()
    }
}

impl<T, M> Deref for Typed<T, M> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T, M> DerefMut for Typed<T, M> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug, M: fmt::Debug> fmt::Debug for Typed<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").field("value", &self.value).field("message", &self.message).finish()
    }
}

/// A message that does not decode, which was handed out with this error. The next receive goes on behind it.
///
/// Dropped, it ends without holding up its group: one that was *received* is done, as any that is received. One that
/// was *leased* is [rejected](Lease::reject), that is, a dead letter at once, for which the thread may wait for the
/// disk; where the channel has no dead letters it is given back, and comes again before any new message until somebody
/// acks it. So let a channel of leased values have [`max_attempts`](crate::Options::max_attempts).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// use disk_chan::{Json, Options, TypedRecvError};
/// let channel = Options::new().page_size(1 << 20).max_pages(4).max_attempts(3).blocking_open(&path)?;
/// let mut rx = channel.blocking_subscribe("billing")?.typed_with::<Vec<u32>, Json>();
/// channel.sender().blocking_send("[1, 2")?;
/// match rx.blocking_lease() {
///     Ok(order) => order.ack()?,
///     Err(TypedRecvError::Decode(undecoded)) => {
///         assert_eq!(&**undecoded.message(), b"[1, 2");
///         undecoded.into_message().reject()?; // as dropping it does; or ack(), or give_back()
///     }
///     Err(TypedRecvError::Recv(error)) => return Err(error.into()),
/// }
/// assert_eq!(channel.blocking_dead_letters()?.try_iter().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Undecoded<M>(Box<(M, DecodeError)>);

impl<M: HandOut> Undecoded<M> {
    #[cold]
    pub(crate) fn new<T>(mut message: M, source: impl Error + Send + Sync + 'static) -> Self {
        let error = DecodeError::new::<T>(message.offset(), message.as_ref().len(), source);
        message.set_undecoded(true);
        Self(Box::new((message, error)))
    }

    /// What is wrong.
    pub fn error(&self) -> &DecodeError {
        &self.0.1
    }

    /// The place of the message.
    pub fn offset(&self) -> Offset {
        self.error().offset()
    }

    /// The message.
    pub fn message(&self) -> &M {
        &self.0.0
    }

    /// The message, which is from now on as if it had been received untyped.
    pub fn into_message(self) -> M {
        let (mut message, _) = *self.0;
        message.set_undecoded(false);
        message
    }
}

impl<M> fmt::Display for Undecoded<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.1.fmt(f)
    }
}

impl<M: fmt::Debug> fmt::Debug for Undecoded<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undecoded").field("message", &self.0.0).field("error", &self.0.1).finish()
    }
}

impl<M: fmt::Debug> Error for Undecoded<M> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.1.source()
    }
}

/// Why there is no value: of a receive whose error is `R`, as of an untyped one.
#[derive(Debug, Error)]
pub enum TypedRecvError<M: fmt::Debug, R: Error + 'static = RecvError> {
    /// There is a message, which does not decode.
    #[error(transparent)]
    Decode(Undecoded<M>),
    /// There is no message.
    #[error(transparent)]
    Recv(R),
}

/// Why a value was not sent: of a send whose error is `S`, as of an untyped one.
#[derive(Debug, Error)]
pub enum TypedSendError<S: Error + 'static = SendError> {
    /// It could not be encoded.
    #[error(transparent)]
    Encode(EncodeError),
    /// Its message was not sent; or, as `NotDurable`, was sent, and then a sync failed.
    #[error(transparent)]
    Send(S),
}

/// A stream of values: see [`TypedReceiver::stream`](crate::TypedReceiver::stream).
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct TypedStream<S, T, C> {
    messages: S,
    of: PhantomData<fn() -> (T, C)>,
}

impl<S, T, C> TypedStream<S, T, C> {
    pub(crate) fn new(messages: S) -> Self {
        Self { messages, of: PhantomData }
    }
}

impl<S, T, C> Stream for TypedStream<S, T, C>
where
    S: Stream<Item: HandOut> + Unpin,
    T: DeserializeOwned,
    C: Codec,
{
    type Item = Result<Typed<T, S::Item>, Undecoded<S::Item>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.messages).poll_next(cx).map(|message| message.map(Typed::of::<C>))
    }
}

impl<S, T, C> FusedStream for TypedStream<S, T, C>
where
    S: FusedStream<Item: HandOut> + Unpin,
    T: DeserializeOwned,
    C: Codec,
{
    fn is_terminated(&self) -> bool {
        self.messages.is_terminated()
    }
}
