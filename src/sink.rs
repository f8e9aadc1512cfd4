//! Sending through a sink.
//!
//! **Invariants.**
//! - A sink keeps a message for which there was no room when it came, and is ready for another when that has been
//!   placed; so messages keep their order. (Given one without being ready, it keeps that behind the others.)
//! - A flush under `Durability::Always` waits for a sync that began after the last message was placed: who places
//!   another one forgets the sync that it waited for.
#![forbid(unsafe_code)]

use crate::durability::Wait;
use crate::sender::first;
use crate::sleeper::Sleeper;
use crate::{Offset, Payload, SendError, Sender};
use futures_sink::Sink;
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::task::coop::poll_proceed;

impl Sender {
    /// A sink for messages of one type, over a clone of this sender.
    ///
    /// A message is sent at once when there is room, also if nobody flushes; else the sink waits for room until it
    /// takes the next. Closing it flushes it and drops its sender; other senders go on.
    ///
    /// # Errors
    ///
    /// The sink's are those of [`send`](Self::send). A message that met one was not sent, and is gone; the sink can be
    /// used again. One that was closed says [`SendError::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Nothing that the sink took is lost as long as the sink is there: what was not sent when a flush was dropped is
    /// sent by the next poll of the sink. Dropped, it may take one message with it, for which there was no room; who
    /// has flushed it has sent all.
    ///
    /// # Durability
    ///
    /// Under [`Durability::Always`](crate::Durability::Always) a flush returns when all is on stable storage that the
    /// sink has sent; it may fail with [`SendError::NotDurable`] and the offset of the last message. Between flushes
    /// the sink does not wait for the disk, so many messages share a sync. It blocks the thread only
    /// where the system has no thread for the syncs.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// # let mut rx = channel.blocking_subscribe("billing")?;
    /// use futures::{SinkExt, StreamExt, stream};
    /// let tx = channel.sender();
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// let lines = stream::iter(["a", "b", "c"]);
    /// lines.map(Ok).forward(tx.sink()).await?;
    ///
    /// let mut sink = tx.into_sink();
    /// sink.send("d").await?;
    /// # Ok::<(), disk_chan::SendError>(())
    /// # })?;
    /// assert_eq!(rx.try_iter().count(), 4);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sink<M: Payload>(&self) -> MessageSink<M> {
        self.clone().into_sink()
    }

    /// As [`sink`](Self::sink), with this sender in it.
    pub fn into_sink<M: Payload>(self) -> MessageSink<M> {
        let (sleeper, sync) = (Sleeper::sender(), Wait::default());
        MessageSink { sender: Some(self), waiting: VecDeque::new(), sleeper, last: None, sync }
    }
}

/// Sends messages: see [`Sender::sink`].
#[must_use = "sinks do nothing unless polled"]
pub struct MessageSink<M> {
    /// None once it was closed.
    sender: Option<Sender>,
    /// What there was no room for.
    waiting: VecDeque<M>,
    sleeper: Sleeper,
    /// The last message that was placed since the last flush, where sends are to be durable.
    last: Option<Offset>,
    sync: Wait,
}

/// Its message lies where it lies between polls; nothing refers to it.
impl<M> Unpin for MessageSink<M> {}

impl<M: Payload> MessageSink<M> {
    /// Ready when what waits is in the ring, or one of it cannot be.
    fn poll_place(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        while let (Some(message), Some(sender)) = (self.waiting.front(), &self.sender) {
            let placed = match sender.record(message) {
                Ok(record) => ready!(sender.poll_place(cx, &mut self.sleeper, &[record])),
                Err(error) => Err(error),
            };
            self.sleeper.done();
            self.waiting.pop_front();
            self.placed(first(placed?));
        }
        Poll::Ready(Ok(()))
    }

    /// After a message was placed.
    fn placed(&mut self, offset: Offset) {
        if self.sender.as_ref().is_some_and(|sender| sender.root.syncs_always()) {
            (self.last, self.sync) = (Some(offset), Wait::default());
        }
    }

    fn poll_sync(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let (Some(offset), Some(sender)) = (self.last, &self.sender) else { return Poll::Ready(Ok(())) };
        let synced = ready!(self.sync.poll(&sender.root, cx));
        (self.last, self.sync) = (None, Wait::default());
        Poll::Ready(synced.map_err(|_| SendError::NotDurable { offset }))
    }
}

impl<M: Payload> Sink<M> for MessageSink<M> {
    type Error = SendError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let this = self.get_mut();
        if this.sender.is_none() {
            return Poll::Ready(Err(SendError::Closed));
        }
        let progress = ready!(poll_proceed(cx));
        let placed = ready!(this.poll_place(cx));
        progress.made_progress();
        Poll::Ready(placed)
    }

    fn start_send(self: Pin<&mut Self>, message: M) -> Result<(), SendError> {
        let this = self.get_mut();
        let Some(sender) = &this.sender else { return Err(SendError::Closed) };
        let record = sender.record(&message)?;
        match if this.waiting.is_empty() { sender.place_now(record)? } else { None } {
            Some(offset) => this.placed(offset),
            None => this.waiting.push_back(message),
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let this = self.get_mut();
        ready!(this.poll_place(cx))?;
        this.poll_sync(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.sender = None;
        Poll::Ready(Ok(()))
    }
}

impl<M> fmt::Debug for MessageSink<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageSink").field("sender", &self.sender).finish_non_exhaustive()
    }
}
