//! Messages that are filled in before they are sent.
#![forbid(unsafe_code)]

use crate::buffer::Buffer;
use crate::{Offset, SendError, SendManyError, Sender, TrySendError};
use std::fmt;
use std::ops::{Deref, DerefMut, Index, IndexMut};

impl Sender {
    /// A buffer of `len` bytes, zeroed, to be filled and sent. It is private: the place in the ring
    /// is taken when it is committed, so holding, forgetting or dropping it holds up nobody. Of up to 64 KiB it is
    /// one that its thread uses again.
    ///
    /// # Errors
    ///
    /// [`SendError::MessageTooLarge`].
    pub fn reserve(&self, len: usize) -> Result<Reservation, SendError> {
        self.check_len(len)?;
        Ok(Reservation { buffer: Buffer::zeroed(len), sender: self.clone() })
    }

    /// A buffer for each of several messages, which are sent together, in their order, as by
    /// [`send_many`](Self::send_many).
    ///
    /// # Errors
    ///
    /// [`SendError::MessageTooLarge`] if one of them is.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// let tx = channel.sender();
    /// let mut messages = tx.reserve_many([5, 3])?;
    /// messages[0].copy_from_slice(b"hello");
    /// messages[1].copy_from_slice(b"you");
    /// assert_eq!(messages.blocking_commit()?.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reserve_many(&self, lens: impl IntoIterator<Item = usize>) -> Result<Reservations, SendError> {
        let buffer = |len| self.check_len(len).map(|()| vec![0; len]);
        let buffers = lens.into_iter().map(buffer).collect::<Result<_, _>>()?;
        Ok(Reservations { buffers, sender: self.clone() })
    }

    fn check_len(&self, len: usize) -> Result<(), SendError> {
        let max = self.max_message_len();
        if len > max { Err(SendError::MessageTooLarge { len, max }) } else { Ok(()) }
    }
}

/// A message being filled in: bytes that only this handle sees.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// let tx = channel.sender();
/// let mut message = tx.reserve(5)?;
/// message.copy_from_slice(b"hello");
/// message.blocking_commit()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reservation {
    sender: Sender,
    buffer: Buffer,
}

impl Reservation {
    /// Sends it; waits while the channel is full.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::send`]; and the bytes are gone.
    pub async fn commit(self) -> Result<Offset, SendError> {
        self.sender.send(&self.buffer[..]).await
    }

    /// Sends it; blocks the thread while the channel is full.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`].
    pub fn blocking_commit(self) -> Result<Offset, SendError> {
        self.sender.blocking_send(&self.buffer[..])
    }

    /// Sends it if there is room; else gives it back beside the reason. (With
    /// [`TrySendError::NotDurable`] it was sent.)
    ///
    /// # Errors
    ///
    /// As [`Sender::try_send`].
    pub fn try_commit(self) -> Result<Offset, (Self, TrySendError)> {
        match self.sender.try_send(&self.buffer[..]) {
            Ok(offset) => Ok(offset),
            Err(error) => Err((self, error)),
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("len", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl Deref for Reservation {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer
    }
}

impl DerefMut for Reservation {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

/// Several messages being filled in, of which only this handle sees the bytes: see [`Sender::reserve_many`].
pub struct Reservations {
    sender: Sender,
    buffers: Vec<Vec<u8>>,
}

impl Reservations {
    /// How many messages they are.
    pub fn len(&self) -> usize {
        self.buffers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// The messages.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [u8]> {
        self.buffers.iter_mut().map(Vec::as_mut_slice)
    }

    /// Sends them; waits while the channel is full.
    ///
    /// # Errors
    ///
    /// As [`Sender::send_many`].
    ///
    /// # Cancel safety
    ///
    /// As [`Sender::send_many`]; and the bytes of the others are gone.
    pub async fn commit(self) -> Result<Vec<Offset>, SendManyError> {
        self.sender.send_many(&self.buffers).await
    }

    /// Sends them; blocks the thread while the channel is full.
    ///
    /// # Errors
    ///
    /// As [`Sender::send_many`].
    pub fn blocking_commit(self) -> Result<Vec<Offset>, SendManyError> {
        self.sender.blocking_send_many(&self.buffers)
    }
}

impl Index<usize> for Reservations {
    type Output = [u8];

    fn index(&self, message: usize) -> &[u8] {
        &self.buffers[message]
    }
}

impl IndexMut<usize> for Reservations {
    fn index_mut(&mut self, message: usize) -> &mut [u8] {
        &mut self.buffers[message]
    }
}

impl fmt::Debug for Reservations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservations").field("len", &self.len()).finish_non_exhaustive()
    }
}
