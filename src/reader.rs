//! Reading without a group: any message that is still in the ring, forward and backward, as a copy.
//!
//! **Invariants.** Those of `read.rs`, and:
//! - A reader stands between two places. Forward it hands out what is behind it, backward what is before it, and
//!   then stands on the other side of that. It does not pass a place that is still being written. What was
//!   overwritten before it came there it tells once, and goes on with the oldest message.
//! - One that waits registers, says where it stands, and looks again (wait.rs). Senders wake all readers of their
//!   process; what a wake that never came would have told, the watcher finds at the lowest of those places.
#![forbid(unsafe_code)]

use crate::layout::HEADERS;
use crate::page::Place;
use crate::read::{Copied, Found, unix_milliseconds};
use crate::shared::Root;
use crate::sleeper::Sleeper;
use crate::{HeadersRef, Offset, ReadError, Start, TryReadError};
use crossbeam_utils::Backoff;
use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::task::coop::consume_budget;

/// Looks that a blocking read makes, with pauses that double, before it sleeps.
const SPINS: u32 = 7;

/// A message that was read, as a copy: no group has it for that.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The header block, and the message behind it.
    region: Vec<u8>,
    block: usize,
    offset: Offset,
    sent_at: u64,
}

impl Record {
    fn new(region: Vec<u8>, offset: Offset, place: &Place) -> Self {
        Self { region, block: place.block(), offset, sent_at: place.sent_at() }
    }

    /// As it is stored, and the flags of its record.
    pub(crate) fn region(&self) -> (&[u8], u32) {
        (&self.region, if self.block > 0 { HEADERS } else { 0 })
    }

    /// Its place in the channel.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// When it was sent, by a clock that ticks every few milliseconds.
    pub fn sent_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.sent_at)
    }

    /// Its headers; a message that was sent without any has none.
    pub fn headers(&self) -> HeadersRef<'_> {
        HeadersRef::new(&self.region, self.block)
    }

    /// The key in its headers, if there is one.
    pub fn key(&self) -> Option<&[u8]> {
        self.headers().key()
    }

    /// The bytes, without the headers.
    pub fn into_vec(mut self) -> Vec<u8> {
        self.region.drain(..self.block);
        self.region
    }
}

impl Deref for Record {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.region[self.block..]
    }
}

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("offset", &self.offset).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Some messages that lie behind each other: see [`Channel::read_slice`](crate::Channel::read_slice).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Slice {
    /// The messages.
    pub records: Vec<Record>,
    /// Where to go on.
    pub next: Offset,
    /// Messages between them that did not verify.
    pub damaged: u64,
}

/// Reads a channel from any place, without a group: what is in the ring still, whoever has had it.
///
/// It holds up nobody, and changes nothing. Under either [`Overflow`](crate::Overflow) messages that it has not
/// read may be overwritten; then it says so, once, and goes on with the oldest. Every message is a verified copy;
/// one that does not verify is passed over and [counted](Self::damaged).
///
/// Where only one reader has a channel open, nothing keeps it from ending: it does not count as somebody who could
/// send. In a [read-only](crate::Options::read_only) open it looks for new messages every 50 milliseconds.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// use disk_chan::{Options, Start};
/// let channel = Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// channel.sender().blocking_send_many(&["a", "b", "c"])?;
/// let mut reader = channel.reader();
/// assert_eq!(&*reader.try_read()?, b"a");
/// reader.seek(Start::Newest);
/// assert_eq!(&*reader.try_read_back()?, b"c");
/// let all: Vec<_> = reader.try_iter().collect::<Result<_, _>>()?;
/// assert_eq!(&*all[0], b"c");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Reader {
    root: Arc<Root>,
    at: Offset,
    damaged: u64,
}

impl Reader {
    /// A reader that stands before the oldest message.
    pub(crate) fn new(root: Arc<Root>) -> Self {
        let mut reader = Self { root, at: Offset::default(), damaged: 0 };
        reader.seek(Start::Oldest);
        reader
    }

    /// Where it stands: before this place.
    pub fn offset(&self) -> Offset {
        self.at
    }

    /// Messages that it passed over because they do not verify.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Goes to another place: at once, except that a time is searched for. An offset without a message is the next
    /// message's; beyond the end it waits until the channel has come there.
    pub fn seek(&mut self, to: Start) {
        if self.root.is_inherited() {
            return;
        }
        let ring = self.root.ring();
        self.at = match to {
            Start::Oldest => ring.first(),
            Start::Newest => ring.end(),
            Start::At(offset) => offset,
            Start::Time(time) => ring.find_time(unix_milliseconds(time)),
        };
    }

    /// The next message, once it is there. Waits as a receiver does.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]. After `Overwritten` the next read goes on with the oldest message.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has read nothing.
    pub async fn read(&mut self) -> Result<Record, ReadError> {
        consume_budget().await;
        let mut sleeper = Sleeper::reader();
        poll_fn(|cx| self.poll_read(cx, &mut sleeper)).await
    }

    /// The next message, once it is there; blocks the thread until then.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn blocking_read(&mut self) -> Result<Record, ReadError> {
        let backoff = Backoff::new();
        for _ in 0..SPINS {
            if let Some(record) = self.next_before(END)? {
                return Ok(record);
            }
            backoff.spin();
        }
        let root = Arc::clone(&self.root);
        Sleeper::reader().block_on(&root, None, |sleeper, cx| self.poll_read(cx, sleeper))
    }

    /// The next message, if it is there.
    ///
    /// # Errors
    ///
    /// See [`TryReadError`]. After `Overwritten` the next read goes on with the oldest message.
    pub fn try_read(&mut self) -> Result<Record, TryReadError> {
        if let Some(record) = self.next_before(END)? {
            return Ok(record);
        }
        // ORDER[disconnect] First that nobody is left, then once more that nothing is there: who sent and went in
        // between has left the message.
        if self.root.closed() || !self.root.has_handles() {
            return self.next_before(END)?.ok_or(TryReadError::Disconnected);
        }
        if !self.root.file.read_only {
            self.root.tend_now_and_then();
        }
        Err(TryReadError::Empty)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, sleeper: &mut Sleeper) -> Poll<Result<Record, ReadError>> {
        for again in [false, true] {
            let read = match self.try_read() {
                Ok(record) => Ok(record),
                Err(TryReadError::Empty) => {
                    if !again {
                        sleeper.register(&self.root, cx.waker());
                        self.root.reader_waits_at(self.at);
                    }
                    continue;
                }
                Err(TryReadError::Disconnected) => Err(ReadError::Disconnected),
                Err(TryReadError::Overwritten(oldest)) => Err(ReadError::Overwritten(oldest)),
                Err(TryReadError::Poisoned) => Err(ReadError::Poisoned),
                Err(TryReadError::Forked) => Err(ReadError::Forked),
            };
            sleeper.done();
            return Poll::Ready(read);
        }
        Poll::Pending
    }

    /// The next message below an offset, if it is there.
    pub(crate) fn next_before(&mut self, end: Offset) -> Result<Option<Record>, ReadError> {
        self.root.readable()?;
        let ring = self.root.ring();
        loop {
            let at = match ring.find(self.at) {
                Found::Message(at, _) | Found::Damaged(at) | Found::End(at) if at >= end => return Ok(None),
                Found::Message(at, record) => {
                    let mut region = Vec::new();
                    match ring.copy(at, record, &mut region) {
                        Copied::Whole(place) => {
                            self.at = at.next();
                            return Ok(Some(Record::new(region, at, &place)));
                        }
                        Copied::Damaged => at,
                        Copied::Gone => continue,
                    }
                }
                Found::Damaged(at) => at,
                Found::End(at) => {
                    self.at = at;
                    return Ok(None);
                }
                Found::Overwritten(oldest) => {
                    self.at = oldest;
                    return Err(ReadError::Overwritten(oldest));
                }
            };
            self.damaged += 1;
            self.at = at.next();
        }
    }

    /// The message before: the one that [`try_read`](Self::try_read) would return after this.
    ///
    /// # Errors
    ///
    /// `Empty` at the oldest message, also where older ones were overwritten; see [`TryReadError`].
    pub fn try_read_back(&mut self) -> Result<Record, TryReadError> {
        self.root.readable()?;
        let ring = self.root.ring();
        while let Some((at, record)) = ring.find_back(self.at) {
            self.at = at;
            let mut region = Vec::new();
            match ring.copy(at, record, &mut region) {
                Copied::Whole(place) => return Ok(Record::new(region, at, &place)),
                Copied::Damaged => self.damaged += 1,
                Copied::Gone => {}
            }
        }
        Err(TryReadError::Empty)
    }

    /// The messages from here to the end as it is when it is reached. An [`Overwritten`](ReadError::Overwritten)
    /// among them is told, and the next one comes after it.
    pub fn try_iter(&mut self) -> TryRecords<'_> {
        TryRecords { reader: self, ended: false }
    }

    /// What [`Channel::read_slice`](crate::Channel::read_slice) returns.
    pub(crate) fn slice(&mut self, limit: usize) -> Result<Slice, ReadError> {
        let mut records = Vec::new();
        while records.len() < limit {
            match self.next_before(END) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                // The next slice begins with that.
                Err(ReadError::Overwritten(_)) if let Some(last) = records.last() => {
                    self.at = last.offset.next();
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Slice { records, next: self.at, damaged: self.damaged })
    }
}

/// Above every offset.
const END: Offset = Offset::from_u64(u64::MAX);

/// The messages that are there: see [`Reader::try_iter`].
#[derive(Debug)]
pub struct TryRecords<'a> {
    reader: &'a mut Reader,
    /// By an error that would come again and again.
    ended: bool,
}

impl Iterator for TryRecords<'_> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.reader.next_before(END);
        self.ended = !matches!(next, Ok(_) | Err(ReadError::Overwritten(_)));
        next.transpose()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("path", &self.root.file.path).field("offset", &self.at).finish_non_exhaustive()
    }
}
