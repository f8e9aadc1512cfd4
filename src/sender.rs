//! Sending.
#![forbid(unsafe_code)]

use crate::channel::{self, Channel};
use crate::durability;
use crate::file::now;
use crate::layout::MAX_RUN;
use crate::page::Record;
use crate::ring::{Blocked, Refused, Ring, Sent};
use crate::shared::Root;
use crate::sleeper::Sleeper;
use crate::{
    GroupName, Offset, Payload, Receiver, SendError, SendManyError, SendTimeoutError, Start, SubscribeError, SyncError,
    TrySendError,
};
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::task::coop::consume_budget;

/// Sends messages into a channel. All methods take `&self`; a clone costs nothing that can run out.
///
/// # Durability
///
/// A message whose send returned `Ok` survives the death of the process. A power loss may cost it, until
/// it was synced: by [`send_durable`](Self::send_durable), a [`sync`](Self::sync) that began after it was
/// sent, or as [`Options::durability`](crate::Options::durability) says.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// let tx = channel.sender();
/// let first = tx.blocking_send(b"one")?;
/// let second = tx.blocking_send("two")?;
/// assert!(first < second);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sender {
    pub(crate) root: Arc<Root>,
    epoch: u32,
}

/// Why nothing was sent.
enum Stop {
    /// It may work later.
    Full(Blocked),
    /// It will not.
    Never(SendError),
}

impl Sender {
    pub(crate) fn new(root: Arc<Root>) -> Self {
        root.add_handle();
        // What cannot be used says so when it sends.
        let epoch = if root.usable().is_ok() { root.ring().open_for_sending() } else { 0 };
        Self { root, epoch }
    }

    #[inline(always)]
    pub(crate) fn record<'m, M: Payload>(&self, message: &'m M) -> Result<Record<'m>, SendError> {
        let region = message.region();
        let (len, max) = (region.len(), self.max_message_len());
        if len > max {
            return Err(SendError::MessageTooLarge { len, max });
        }
        Ok(Record::new(region, M::FLAGS))
    }

    /// The ring that it sends to.
    pub(crate) fn ring(&self) -> Ring<'_> {
        self.root.ring()
    }

    #[inline]
    fn try_place(&self, records: &[Record<'_>]) -> Result<Sent, Stop> {
        self.root.usable().map_err(|why| Stop::Never(why.into()))?;
        match self.root.ring().send(self.epoch, records, now()) {
            Ok(sent) => {
                self.root.after_send(sent.count);
                if sent.index == 0 {
                    self.root.mind_page_limit();
                }
                Ok(sent)
            }
            Err(Refused::Closed) => Err(Stop::Never(SendError::Closed)),
            Err(Refused::Full(blocked)) => {
                match blocked {
                    Blocked::PageLimit => self.root.mind_page_limit(),
                    _ => self.root.tend_now_and_then(),
                }
                Err(Stop::Full(blocked))
            }
        }
    }

    #[inline]
    async fn place(&self, records: &[Record<'_>]) -> Result<Sent, SendError> {
        consume_budget().await;
        // Without a sleeper first, as most often there is room.
        match self.try_place(records) {
            Ok(sent) => return Ok(sent),
            Err(Stop::Never(error)) => return Err(error),
            Err(Stop::Full(_)) => {}
        }
        let mut sleeper = Sleeper::sender();
        poll_fn(|cx| self.poll_place(cx, &mut sleeper, records)).await
    }

    pub(crate) fn poll_place(
        &self,
        cx: &mut Context<'_>,
        sleeper: &mut Sleeper,
        records: &[Record<'_>],
    ) -> Poll<Result<Sent, SendError>> {
        for again in [false, true] {
            match self.try_place(records) {
                Ok(sent) => {
                    if sleeper.done() {
                        // Room for one is room for others: the turn of a page is one event.
                        self.root.wake_senders();
                    }
                    return Poll::Ready(Ok(sent));
                }
                Err(Stop::Never(error)) => return Poll::Ready(Err(error)),
                Err(Stop::Full(_)) if again => {}
                Err(Stop::Full(_)) => sleeper.register(&self.root, cx.waker()),
            }
        }
        Poll::Pending
    }

    /// Sends a message; waits while the channel is full.
    ///
    /// # Errors
    ///
    /// [`SendError::MessageTooLarge`] before anything is reserved; [`SendError::Closed`];
    /// [`SendError::Poisoned`]; under [`Durability::Always`](crate::Durability::Always)
    /// [`SendError::NotDurable`] if it was sent and then the sync failed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has sent nothing; under
    /// [`Durability::Always`](crate::Durability::Always) it may have sent the message.
    pub async fn send(&self, message: impl Payload) -> Result<Offset, SendError> {
        let record = [self.record(&message)?];
        let offset = first(self.place(&record).await?);
        if self.root.syncs_always() { self.make_durable(offset).await } else { Ok(offset) }
    }

    /// Sends a message, and returns when it is on stable storage.
    ///
    /// Callers of one open share a sync: who asks while one runs waits for the next.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); [`SendError::NotDurable`] with the offset of the message if it was sent,
    /// and then the sync failed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it may have sent the message: then that is there, and not known to be
    /// on stable storage.
    pub async fn send_durable(&self, message: impl Payload) -> Result<Offset, SendError> {
        let offset = self.send(message).await?;
        if self.root.syncs_always() { Ok(offset) } else { self.make_durable(offset).await }
    }

    /// As [`send_durable`](Self::send_durable); blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`send_durable`](Self::send_durable).
    pub fn blocking_send_durable(&self, message: impl Payload) -> Result<Offset, SendError> {
        let offset = self.blocking_send(message)?;
        if self.root.syncs_always() { Ok(offset) } else { self.wait_durable(offset) }
    }

    async fn make_durable(&self, offset: Offset) -> Result<Offset, SendError> {
        durability::sync(&self.root).await.map(|()| offset).map_err(|_| SendError::NotDurable { offset })
    }

    fn wait_durable(&self, offset: Offset) -> Result<Offset, SendError> {
        self.root.shared().blocking_sync().map(|()| offset).map_err(|_| SendError::NotDurable { offset })
    }

    /// After a blocking send: as the durability of this open says.
    #[inline]
    fn settle(&self, sent: Sent) -> Result<Offset, SendError> {
        if self.root.syncs_always() { self.wait_durable(first(sent)) } else { Ok(first(sent)) }
    }

    /// As [`Channel::sync`].
    ///
    /// # Errors
    ///
    /// See [`SyncError`].
    ///
    /// # Cancel safety
    ///
    /// As [`Channel::sync`].
    pub async fn sync(&self) -> Result<(), SyncError> {
        durability::sync(&self.root).await
    }

    /// As [`Channel::blocking_sync`].
    ///
    /// # Errors
    ///
    /// See [`SyncError`].
    pub fn blocking_sync(&self) -> Result<(), SyncError> {
        self.root.shared().blocking_sync()
    }

    /// Sends a message; blocks the thread while the channel is full.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn blocking_send(&self, message: impl Payload) -> Result<Offset, SendError> {
        let record = [self.record(&message)?];
        self.settle(self.place_blocking::<SendError>(&record, None)?)
    }

    /// With a deadline goes the error if it passes.
    #[inline]
    fn place_blocking<E: From<SendError>>(
        &self,
        records: &[Record<'_>],
        deadline: Option<(Instant, E)>,
    ) -> Result<Sent, E> {
        match self.try_place(records) {
            Ok(sent) => Ok(sent),
            Err(Stop::Never(error)) => Err(error.into()),
            Err(Stop::Full(_)) => {
                let deadline = deadline.map(|(at, late)| (at, Err(late)));
                let poll = |sleeper: &mut Sleeper, cx: &mut Context<'_>| self.poll_place(cx, sleeper, records);
                Sleeper::sender().block_on(&self.root, deadline, |sleeper, cx| poll(sleeper, cx).map_err(E::from))
            }
        }
    }

    /// Sends a message if there is room.
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] with the reason; else as [`send`](Self::send).
    pub fn try_send(&self, message: impl Payload) -> Result<Offset, TrySendError> {
        let record = [self.record(&message)?];
        match self.try_place(&record) {
            Ok(sent) => Ok(self.settle(sent)?),
            Err(Stop::Never(error)) => Err(error.into()),
            Err(Stop::Full(blocked)) => Err(TrySendError::Full(self.root.full(blocked))),
        }
    }

    /// Places a record if there is room, without waiting for the disk: its offset.
    pub(crate) fn place_now(&self, record: Record<'_>) -> Result<Option<Offset>, SendError> {
        match self.try_place(&[record]) {
            Ok(sent) => Ok(Some(first(sent))),
            Err(Stop::Never(error)) => Err(error),
            Err(Stop::Full(_)) => Ok(None),
        }
    }

    /// Sends a message; blocks the thread while the channel is full, but not longer than `timeout`. (Under
    /// [`Durability::Always`](crate::Durability::Always) the sync comes on top of that.)
    ///
    /// # Errors
    ///
    /// [`SendTimeoutError::Timeout`] with the reason; else as [`send`](Self::send).
    pub fn send_timeout(&self, message: impl Payload, timeout: Duration) -> Result<Offset, SendTimeoutError> {
        let record = [self.record(&message)?];
        let deadline = Instant::now().checked_add(timeout);
        match self.place_blocking(&record, deadline.map(|at| (at, None))) {
            Ok(sent) => Ok(self.settle(sent)?),
            Err(Some(error)) => Err(error.into()),
            // One more look, which also tells the reason.
            Err(None) => match self.try_place(&record) {
                Ok(sent) => Ok(self.settle(sent)?),
                Err(Stop::Never(error)) => Err(error.into()),
                Err(Stop::Full(blocked)) => Err(SendTimeoutError::Timeout(self.root.full(blocked))),
            },
        }
    }

    /// Sends several messages, in their order; waits while the channel is full. Not atomic: others'
    /// messages may come between them, and they become visible one by one.
    ///
    /// # Errors
    ///
    /// [`SendManyError`] tells which were sent and why the next was not; with all of them and
    /// [`SendError::Poisoned`], they were sent and [`Durability::Always`](crate::Durability::Always) could not
    /// be kept.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it may have sent the first few.
    pub async fn send_many<M: Payload>(&self, messages: &[M]) -> Result<Vec<Offset>, SendManyError> {
        let mut many = Many::new(self, messages);
        let done = self.place_many(&mut many).await;
        // Those that were sent, also if the next was not.
        if self.root.syncs_always() && !many.offsets.is_empty() && durability::sync(&self.root).await.is_err() {
            return Err(many.failed(SendError::Poisoned));
        }
        many.ended(done)
    }

    /// As [`send_many`](Self::send_many); blocks the thread while the channel is full.
    ///
    /// # Errors
    ///
    /// As [`send_many`](Self::send_many).
    pub fn blocking_send_many<M: Payload>(&self, messages: &[M]) -> Result<Vec<Offset>, SendManyError> {
        let mut many = Many::new(self, messages);
        let done = self.place_many_blocking(&mut many);
        if self.root.syncs_always() && !many.offsets.is_empty() && self.blocking_sync().is_err() {
            return Err(many.failed(SendError::Poisoned));
        }
        many.ended(done)
    }

    async fn place_many<M: Payload>(&self, many: &mut Many<'_, M>) -> Result<(), SendError> {
        while let Some(run) = many.next_run()? {
            many.sent(self.place(&run).await?);
        }
        Ok(())
    }

    fn place_many_blocking<M: Payload>(&self, many: &mut Many<'_, M>) -> Result<(), SendError> {
        while let Some(run) = many.next_run()? {
            many.sent(self.place_blocking::<SendError>(&run, None)?);
        }
        Ok(())
    }

    /// As [`Channel::subscribe`].
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    ///
    /// # Cancel safety
    ///
    /// As [`Channel::subscribe`].
    pub async fn subscribe(&self, group: impl Into<GroupName>) -> Result<Receiver, SubscribeError> {
        channel::subscribe_from(&self.root, group.into(), Start::Oldest).await
    }

    /// As [`Channel::blocking_subscribe`].
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn blocking_subscribe(&self, group: impl Into<GroupName>) -> Result<Receiver, SubscribeError> {
        self.channel().blocking_subscribe(group)
    }

    /// The channel.
    pub fn channel(&self) -> Channel {
        Channel::new(Arc::clone(&self.root))
    }

    /// Longest message in bytes, with its headers.
    #[inline]
    pub fn max_message_len(&self) -> usize {
        self.root.file.map.layout().max_message_len()
    }
}

pub(crate) fn first(sent: Sent) -> Offset {
    Offset::new(sent.page, sent.index)
}

/// Several messages on their way.
struct Many<'a, M> {
    sender: &'a Sender,
    rest: &'a [M],
    offsets: Vec<Offset>,
}

impl<'a, M: Payload> Many<'a, M> {
    fn new(sender: &'a Sender, rest: &'a [M]) -> Self {
        Self { sender, rest, offsets: Vec::with_capacity(rest.len()) }
    }

    /// The next messages that one add can place: together no longer than the longest record.
    fn next_run(&mut self) -> Result<Option<Vec<Record<'a>>>, SendError> {
        let room = self.sender.root.file.map.layout().max_record_words;
        let mut words = 0;
        let mut run = Vec::new();
        for message in self.rest.iter().take(MAX_RUN) {
            match self.sender.record(message) {
                Ok(record) if words + record.words() <= room => {
                    words += record.words();
                    run.push(record);
                }
                Err(error) if run.is_empty() => return Err(error),
                Ok(_) | Err(_) => break,
            }
        }
        Ok((!run.is_empty()).then_some(run))
    }

    fn sent(&mut self, sent: Sent) {
        self.offsets.extend((0..sent.count).map(|i| Offset::new(sent.page, sent.index + i)));
        self.rest = &self.rest[sent.count..];
    }

    fn ended(self, done: Result<(), SendError>) -> Result<Vec<Offset>, SendManyError> {
        match done {
            Ok(()) => Ok(self.offsets),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(self, error: SendError) -> SendManyError {
        SendManyError { sent: self.offsets, error }
    }
}

impl Clone for Sender {
    fn clone(&self) -> Self {
        self.root.add_handle();
        Self { root: Arc::clone(&self.root), epoch: self.epoch }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.root.drop_handle();
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("path", &self.root.file.path).finish_non_exhaustive()
    }
}
