//! Receiving values.
//!
//! **Invariant.** What is received by reference is decoded where it lies, marked as handed out: if decoding panics it
//! is given back like a message that was forgotten.
#![forbid(unsafe_code)]

use crate::claim::Want;
use crate::codec::{Codec, Postcard};
use crate::typed::{Typed, TypedRecvError, TypedStream, Undecoded};
use crate::{
    IntoLeaseStream, IntoMessageStream, Lease, LeaseStream, Message, MessageStream, OwnedMessage, Receiver, RecvError,
    RecvTimeoutError, TryRecvError,
};
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

impl Receiver {
    /// Receives values of one type, by [`Postcard`]; [`typed_with`](Self::typed_with) chooses another codec.
    ///
    /// The values own what they have. One that borrows from its message is
    /// [decoded](Message::decode) from that.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// let mut rx = channel.blocking_subscribe("billing")?.typed::<(String, u32)>();
    /// channel.sender().typed::<(&str, u32)>().blocking_send(&("coffee", 2))?;
    /// let order = rx.blocking_recv()?;
    /// assert_eq!((order.0.as_str(), order.attempts()), ("coffee", 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn typed<T: DeserializeOwned>(self) -> TypedReceiver<T> {
        self.typed_with()
    }

    /// As [`typed`](Self::typed), by another codec.
    pub fn typed_with<T: DeserializeOwned, C: Codec>(self) -> TypedReceiver<T, C> {
        TypedReceiver { receiver: self, of: PhantomData }
    }
}

/// Receives values of one type: see [`Receiver::typed`].
///
/// Each method is the one of that name of [`Receiver`], with the same guarantees, and the same
/// [cancel safety](Receiver#cancel-safety). A message that does not decode is an error that has it:
/// [`Undecoded`] says what becomes of it.
pub struct TypedReceiver<T, C = Postcard> {
    receiver: Receiver,
    of: PhantomData<fn() -> (T, C)>,
}

/// What was received, or why not.
type Received<'a, T, R> = Result<Typed<T, Message<'a>>, TypedRecvError<OwnedMessage, R>>;
type Leased<T, R> = Result<Typed<T, Lease>, TypedRecvError<Lease, R>>;

impl<T: DeserializeOwned, C: Codec> TypedReceiver<T, C> {
    /// The claim in the hand as a value.
    #[inline]
    fn received<R: std::error::Error>(&mut self, claimed: Result<(), R>) -> Received<'_, T, R> {
        claimed.map_err(TypedRecvError::Recv)?;
        match C::decode(self.receiver.bytes_in_hand()) {
            Ok(value) => Ok(Typed::new(value, self.receiver.message())),
            Err(source) => Err(TypedRecvError::Decode(Undecoded::new::<T>(self.receiver.owned(), source))),
        }
    }

    /// The claim in the hand, of a lease, as a value.
    fn leased<R: std::error::Error>(&mut self, claimed: Result<(), R>) -> Leased<T, R> {
        claimed.map_err(TypedRecvError::Recv)?;
        Typed::of::<C>(self.receiver.lease_in_hand()).map_err(TypedRecvError::Decode)
    }

    /// Receives a value; waits until there is one.
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv`]; [`TypedRecvError::Decode`] if a message does not decode.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::recv`].
    pub async fn recv(&mut self) -> Result<Typed<T, Message<'_>>, TypedRecvError<OwnedMessage>> {
        let claimed = self.receiver.claim(Want::Message).await;
        self.received(claimed)
    }

    /// Receives a value; blocks the thread until there is one.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn blocking_recv(&mut self) -> Result<Typed<T, Message<'_>>, TypedRecvError<OwnedMessage>> {
        let claimed = self.receiver.blocking_claim(Want::Message, None);
        self.received(claimed)
    }

    /// Receives a value if there is one.
    ///
    /// # Errors
    ///
    /// As [`Receiver::try_recv`]; [`TypedRecvError::Decode`] if a message does not decode.
    pub fn try_recv(&mut self) -> Result<Typed<T, Message<'_>>, TypedRecvError<OwnedMessage, TryRecvError>> {
        let claimed = self.receiver.try_claim(Want::Message);
        self.received(claimed)
    }

    /// Receives a value; blocks the thread until there is one, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Receiver::recv_timeout`]; [`TypedRecvError::Decode`] if a message does not decode.
    pub fn recv_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Typed<T, Message<'_>>, TypedRecvError<OwnedMessage, RecvTimeoutError>> {
        let claimed = self.receiver.claim_until(Want::Message, Instant::now().checked_add(timeout));
        self.received(claimed)
    }

    /// As [`recv_timeout`](Self::recv_timeout), up to a moment.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_deadline(
        &mut self,
        deadline: Instant,
    ) -> Result<Typed<T, Message<'_>>, TypedRecvError<OwnedMessage, RecvTimeoutError>> {
        let claimed = self.receiver.claim_until(Want::Message, Some(deadline));
        self.received(claimed)
    }

    /// Leases a value; waits until there is one.
    ///
    /// # Errors
    ///
    /// As [`Receiver::lease`]; [`TypedRecvError::Decode`] if a message does not decode.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::lease`].
    pub async fn lease(&mut self) -> Result<Typed<T, Lease>, TypedRecvError<Lease>> {
        let claimed = self.receiver.claim(Want::Lease).await;
        self.leased(claimed)
    }

    /// Leases a value; blocks the thread until there is one.
    ///
    /// # Errors
    ///
    /// As [`lease`](Self::lease).
    pub fn blocking_lease(&mut self) -> Result<Typed<T, Lease>, TypedRecvError<Lease>> {
        let claimed = self.receiver.blocking_claim(Want::Lease, None);
        self.leased(claimed)
    }

    /// Leases a value if there is one.
    ///
    /// # Errors
    ///
    /// As [`Receiver::try_lease`]; [`TypedRecvError::Decode`] if a message does not decode.
    pub fn try_lease(&mut self) -> Result<Typed<T, Lease>, TypedRecvError<Lease, TryRecvError>> {
        let claimed = self.receiver.try_claim(Want::Lease);
        self.leased(claimed)
    }

    /// Leases a value; blocks the thread until there is one, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Receiver::lease_for`]; [`TypedRecvError::Decode`] if a message does not decode.
    pub fn lease_for(&mut self, timeout: Duration) -> Result<Typed<T, Lease>, TypedRecvError<Lease, RecvTimeoutError>> {
        let claimed = self.receiver.claim_until(Want::Lease, Instant::now().checked_add(timeout));
        self.leased(claimed)
    }

    /// As [`lease_for`](Self::lease_for), up to a moment.
    ///
    /// # Errors
    ///
    /// As [`lease_for`](Self::lease_for).
    pub fn lease_deadline(
        &mut self,
        deadline: Instant,
    ) -> Result<Typed<T, Lease>, TypedRecvError<Lease, RecvTimeoutError>> {
        let claimed = self.receiver.claim_until(Want::Lease, Some(deadline));
        self.leased(claimed)
    }

    /// Leases up to `limit` values; waits until there is one, and takes what else is there.
    ///
    /// # Errors
    ///
    /// As [`Receiver::lease_many`]; one that does not decode is an error in its place.
    ///
    /// # Cancel safety
    ///
    /// As [`Receiver::lease_many`].
    pub async fn lease_many(
        &mut self,
        limit: usize,
    ) -> Result<Vec<Result<Typed<T, Lease>, Undecoded<Lease>>>, RecvError> {
        let leases = self.receiver.lease_many(limit).await?;
        Ok(leases.into_iter().map(Typed::of::<C>).collect())
    }

    /// The values, of copied messages; ends as [`Receiver::iter`].
    pub fn iter(&mut self) -> impl Iterator<Item = Result<Typed<T, OwnedMessage>, Undecoded<OwnedMessage>>> {
        self.receiver.iter().map(Typed::of::<C>)
    }

    /// The values that are there, of copied messages; ends as [`Receiver::try_iter`].
    pub fn try_iter(&mut self) -> impl Iterator<Item = Result<Typed<T, OwnedMessage>, Undecoded<OwnedMessage>>> {
        self.receiver.try_iter().map(Typed::of::<C>)
    }

    /// The values, of copied messages, as a stream: see [`Receiver::stream`].
    pub fn stream(&mut self) -> TypedStream<MessageStream<'_>, T, C> {
        TypedStream::new(self.receiver.stream())
    }

    /// As [`stream`](Self::stream), with the receiver in it.
    pub fn into_stream(self) -> TypedStream<IntoMessageStream, T, C> {
        TypedStream::new(self.receiver.into_stream())
    }

    /// The values, leased, as a stream: see [`Receiver::lease_stream`].
    pub fn lease_stream(&mut self) -> TypedStream<LeaseStream<'_>, T, C> {
        TypedStream::new(self.receiver.lease_stream())
    }

    /// As [`lease_stream`](Self::lease_stream), with the receiver in it.
    pub fn into_lease_stream(self) -> TypedStream<IntoLeaseStream, T, C> {
        TypedStream::new(self.receiver.into_lease_stream())
    }

    /// The untyped receiver.
    pub fn receiver(&mut self) -> &mut Receiver {
        &mut self.receiver
    }

    /// The untyped receiver, alone.
    pub fn into_receiver(self) -> Receiver {
        self.receiver
    }
}

impl<T, C> Clone for TypedReceiver<T, C> {
    fn clone(&self) -> Self {
        Self { receiver: self.receiver.clone(), of: PhantomData }
    }
}

impl<T, C> fmt::Debug for TypedReceiver<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = std::any::type_name::<T>();
        f.debug_struct("TypedReceiver").field("receiver", &self.receiver).field("of", &of).finish()
    }
}
