//! Values as the bytes of messages: the codecs, and decoding what was received.
//!
//! **Invariants.**
//! - A codec looks at all bytes of a message: bytes that are left over are an error. So what was sent as another type
//!   is seldom taken for this one.
//! - Decoding changes nothing: a message that does not decode is as it was.
#![forbid(unsafe_code)]

use crate::{Lease, Message, Offset, OwnedMessage, Record};
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};
use std::any::type_name;
use std::error::Error;
use thiserror::Error;

/// How values become the bytes of messages, and come back.
///
/// [`Postcard`] and [`Json`] are here; this is how to write another:
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// use disk_chan::Codec;
/// use serde::{Deserialize, Serialize};
///
/// struct PrettyJson;
///
/// impl Codec for PrettyJson {
///     type Error = serde_json::Error;
///
///     fn encode<T: Serialize + ?Sized>(value: &T, buffer: &mut Vec<u8>) -> Result<(), Self::Error> {
///         serde_json::to_writer_pretty(buffer, value)
///     }
///
///     fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Self::Error> {
///         serde_json::from_slice(bytes)
///     }
/// }
///
/// let tx = channel.sender().typed_with::<[u32; 2], PrettyJson>();
/// let mut rx = channel.blocking_subscribe("billing")?.typed_with::<[u32; 2], PrettyJson>();
/// tx.blocking_send(&[1, 2])?;
/// assert_eq!(*rx.blocking_recv()?, [1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Codec {
    /// Why a value could not be encoded or decoded.
    type Error: Error + Send + Sync + 'static;

    /// Appends the bytes of a value. If it fails, what it appended is of no matter.
    ///
    /// # Errors
    ///
    /// The codec's.
    fn encode<T: Serialize + ?Sized>(value: &T, buffer: &mut Vec<u8>) -> Result<(), Self::Error>;

    /// The value whose bytes these are, all of them. It may borrow from them.
    ///
    /// # Errors
    ///
    /// The codec's.
    fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Self::Error>;
}

/// The default codec: [postcard](https://postcard.jamesmunns.com/wire-format), small and fast. A value does not say
/// what it is: sender and receiver need the same type.
#[derive(Clone, Copy, Debug)]
pub enum Postcard {}

/// JSON, without white space: what a shell, or another language, can read.
///
/// A borrowed `&str` is only there of a text without escapes: `Cow<str>` takes any.
#[derive(Clone, Copy, Debug)]
pub enum Json {}

/// Why [`Postcard`] could not encode or decode.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PostcardError {
    /// The library's error.
    #[error(transparent)]
    Postcard(#[from] postcard::Error),
    /// There are bytes behind the value.
    #[error("{0} bytes are left over: it was sent as another type")]
    LeftOver(usize),
}

/// Appends to a buffer.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

impl Codec for Postcard {
    type Error = PostcardError;

    #[inline]
    fn encode<T: Serialize + ?Sized>(value: &T, buffer: &mut Vec<u8>) -> Result<(), PostcardError> {
        Ok(postcard::serialize_with_flavor(value, Append(buffer))?)
    }

    #[inline]
    fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, PostcardError> {
        match postcard::take_from_bytes(bytes)? {
            (value, []) => Ok(value),
            (_, rest) => Err(PostcardError::LeftOver(rest.len())),
        }
    }
}

impl Codec for Json {
    type Error = serde_json::Error;

    #[inline]
    fn encode<T: Serialize + ?Sized>(value: &T, buffer: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(buffer, value)
    }

    #[inline]
    fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// A value could not be encoded; nothing was sent.
#[derive(Debug, Error)]
#[error("a value of type {of} could not be encoded")]
pub struct EncodeError {
    of: &'static str,
    source: Box<dyn Error + Send + Sync>,
}

impl EncodeError {
    #[cold]
    pub(crate) fn new<T: ?Sized>(source: impl Error + Send + Sync + 'static) -> Self {
        Self { of: type_name::<T>(), source: source.into() }
    }

    /// The type of the value.
    pub fn of(&self) -> &'static str {
        self.of
    }
}

/// The bytes of a message are no value of the type that was expected.
#[derive(Debug, Error)]
#[error("the message at {offset}, of {len} bytes, does not decode as {expected}")]
pub struct DecodeError {
    offset: Offset,
    len: usize,
    expected: &'static str,
    source: Box<dyn Error + Send + Sync>,
}

impl DecodeError {
    #[cold]
    pub(crate) fn new<T>(offset: Offset, len: usize, source: impl Error + Send + Sync + 'static) -> Self {
        Self { offset, len, expected: type_name::<T>(), source: source.into() }
    }

    /// The place of the message.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The type that was expected.
    pub fn expected(&self) -> &'static str {
        self.expected
    }
}

macro_rules! decode {
    ($($type:ty)*) => {$(
        impl $type {
            /// Its bytes as a value, by [`Postcard`]; the value may borrow from them.
            ///
            /// # Errors
            ///
            /// [`DecodeError`] if they are none; the message is as it was.
            ///
            /// ```
            /// # let dir = tempfile::tempdir().unwrap();
            /// # let path = dir.path().join("orders.chan");
            /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
            /// # let mut rx = channel.blocking_subscribe("billing")?;
            /// #[derive(serde::Serialize, serde::Deserialize)]
            /// struct Order<'a> {
            ///     item: &'a str,
            ///     count: u32,
            /// }
            /// channel.sender().typed::<Order>().blocking_send(&Order { item: "coffee", count: 2 })?;
            /// let message = rx.blocking_recv()?;
            /// let order: Order = message.decode()?; // its text lies in the file
            /// assert_eq!((order.item, order.count), ("coffee", 2));
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            #[inline]
            pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, DecodeError> {
                self.decode_with::<T, Postcard>()
            }

            /// As [`decode`](Self::decode), by another codec.
            ///
            /// # Errors
            ///
            /// As [`decode`](Self::decode).
            #[inline]
            pub fn decode_with<'a, T: Deserialize<'a>, C: Codec>(&'a self) -> Result<T, DecodeError> {
                C::decode(self).map_err(|source| DecodeError::new::<T>(self.offset(), self.len(), source))
            }
        }
    )*};
}
decode!(Message<'_> OwnedMessage Lease Record);
