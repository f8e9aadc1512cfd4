//! Sending values.
//!
//! **Invariant.** A value is encoded into the buffer of its thread (buffer.rs), from which it is copied into the ring:
//! there is no other copy, and nothing of it is in the ring before all of it is encoded.
#![forbid(unsafe_code)]

use crate::buffer::Buffer;
use crate::codec::{Codec, EncodeError, Postcard};
use crate::typed::TypedSendError;
use crate::{HeaderError, Headers, Offset, SendTimeoutError, Sender, TrySendError, WithHeaders};
use serde::Serialize;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

impl Sender {
    /// Sends values of one type, by [`Postcard`]; [`typed_with`](Self::typed_with) chooses another codec.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    /// struct Order {
    ///     item: String,
    ///     count: u32,
    /// }
    /// let tx = channel.sender().typed::<Order>();
    /// let mut rx = channel.blocking_subscribe("billing")?.typed::<Order>();
    /// tx.blocking_send(&Order { item: "coffee".into(), count: 2 })?;
    /// assert_eq!(rx.blocking_recv()?.item, "coffee");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn typed<T: Serialize + ?Sized>(self) -> TypedSender<T> {
        self.typed_with()
    }

    /// As [`typed`](Self::typed), by another codec.
    pub fn typed_with<T: Serialize + ?Sized, C: Codec>(self) -> TypedSender<T, C> {
        TypedSender { sender: self, of: PhantomData }
    }
}

/// Sends values of one type: see [`Sender::typed`].
///
/// Each method is the one of that name of [`Sender`], with the same guarantees. A value whose bytes are longer than a
/// message can be is `MessageTooLarge`.
pub struct TypedSender<T: ?Sized, C = Postcard> {
    sender: Sender,
    of: PhantomData<fn(C) -> *const T>,
}

type Sent<S> = Result<Offset, TypedSendError<S>>;

impl<T: Serialize + ?Sized, C: Codec> TypedSender<T, C> {
    #[inline]
    fn encode(value: &T) -> Result<Buffer, EncodeError> {
        let mut buffer = Buffer::new();
        C::encode(value, &mut buffer).map_err(EncodeError::new::<T>)?;
        Ok(buffer)
    }

    #[inline]
    fn with<S: std::error::Error>(value: &T, send: impl FnOnce(&[u8]) -> Result<Offset, S>) -> Sent<S> {
        send(&Self::encode(value).map_err(TypedSendError::Encode)?).map_err(TypedSendError::Send)
    }

    /// Sends a value; waits while the channel is full.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`]; [`TypedSendError::Encode`] if the value cannot be encoded.
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::send`].
    pub async fn send(&self, value: &T) -> Result<Offset, TypedSendError> {
        let buffer = Self::encode(value).map_err(TypedSendError::Encode)?;
        self.sender.send(&buffer[..]).await.map_err(TypedSendError::Send)
    }

    /// Sends a value; blocks the thread while the channel is full.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn blocking_send(&self, value: &T) -> Result<Offset, TypedSendError> {
        Self::with(value, |bytes| self.sender.blocking_send(bytes))
    }

    /// Sends a value if there is room.
    ///
    /// # Errors
    ///
    /// As [`Sender::try_send`]; [`TypedSendError::Encode`] if the value cannot be encoded.
    pub fn try_send(&self, value: &T) -> Result<Offset, TypedSendError<TrySendError>> {
        Self::with(value, |bytes| self.sender.try_send(bytes))
    }

    /// Sends a value; blocks the thread while the channel is full, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Sender::send_timeout`]; [`TypedSendError::Encode`] if the value cannot be encoded.
    pub fn send_timeout(&self, value: &T, timeout: Duration) -> Result<Offset, TypedSendError<SendTimeoutError>> {
        Self::with(value, |bytes| self.sender.send_timeout(bytes, timeout))
    }

    /// Sends a value, and returns when it is on stable storage.
    ///
    /// # Errors
    ///
    /// As [`Sender::send_durable`]; [`TypedSendError::Encode`] if the value cannot be encoded.
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::send_durable`].
    pub async fn send_durable(&self, value: &T) -> Result<Offset, TypedSendError> {
        let buffer = Self::encode(value).map_err(TypedSendError::Encode)?;
        self.sender.send_durable(&buffer[..]).await.map_err(TypedSendError::Send)
    }

    /// As [`send_durable`](Self::send_durable); blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`send_durable`](Self::send_durable).
    pub fn blocking_send_durable(&self, value: &T) -> Result<Offset, TypedSendError> {
        Self::with(value, |bytes| self.sender.blocking_send_durable(bytes))
    }

    /// A value with headers, as a message for the [untyped sender](Self::sender) to send.
    ///
    /// # Errors
    ///
    /// [`TypedSendError::Encode`] if the value cannot be encoded, [`HeaderError`] if the headers cannot be stored.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// use disk_chan::Headers;
    /// let tx = channel.sender().typed::<u32>();
    /// let mut rx = channel.blocking_subscribe("billing")?.typed::<u32>();
    /// tx.sender().blocking_send(tx.message(&Headers::new().key("customer 7"), &42)?)?;
    /// let order = rx.blocking_recv()?;
    /// assert_eq!((*order, order.key()), (42, Some(&b"customer 7"[..])));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn message(&self, headers: &Headers, value: &T) -> Result<WithHeaders, TypedSendError<HeaderError>> {
        let buffer = Self::encode(value).map_err(TypedSendError::Encode)?;
        headers.message(&buffer[..]).map_err(TypedSendError::Send)
    }

    /// The untyped sender.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The untyped sender, alone.
    pub fn into_sender(self) -> Sender {
        self.sender
    }
}

impl<T: ?Sized, C> Clone for TypedSender<T, C> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), of: PhantomData }
    }
}

impl<T: ?Sized, C> fmt::Debug for TypedSender<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = std::any::type_name::<T>();
        f.debug_struct("TypedSender").field("sender", &self.sender).field("of", &of).finish()
    }
}
