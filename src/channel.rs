//! The handle behind senders and receivers.
#![forbid(unsafe_code)]

use crate::cells::Count;
use crate::dead;
use crate::durability;
use crate::file::OpenFile;
use crate::group::Group;
use crate::layout::{DEAD_LETTER_ROOM, Geometry, Layout, MAX_GROUP_NAME, SlotState};
use crate::lifecycle::NotCreated;
use crate::off_thread;
use crate::opens::OpenId;
use crate::ops::Liveness;
use crate::shared::Root;
use crate::{
    Durability, GroupName, Offset, OpenError, Options, Overflow, ReadError, Reader, Receiver, Record, RecoveryReport,
    RemoveGroupError, Sender, Slice, Start, SubscribeError, SyncError, TryReadError,
};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

/// An open channel: makes senders and receivers, and tells how it stands.
///
/// A `Channel` keeps receivers waiting: as long as one is alive, senders may come.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// let mut billing = channel.blocking_subscribe("billing")?;
/// channel.sender().blocking_send(b"hello")?;
/// assert_eq!(&*billing.blocking_recv()?, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Channel {
    pub(crate) root: Arc<Root>,
}

/// How a group stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStats {
    /// Its name.
    pub name: GroupName,
    /// Messages in the ring that it is not done with.
    pub lag: u64,
    /// Bytes of those messages.
    pub lag_bytes: u64,
    /// When the first of them was sent: now less that is its age.
    pub oldest_unfinished: Option<SystemTime>,
    /// Messages handed out and not done.
    pub held: usize,
    /// Messages given back and not handed out again.
    pub returned: usize,
    /// Messages dropped before it had them.
    pub lagged: u64,
    /// Messages given up before it had them, as they were older than [`Options::max_age`].
    pub expired: u64,
    /// Messages passed over because they did not verify, in pages that were used again since.
    pub damaged: u64,
    /// Messages given back after their page had gone.
    pub gone: u64,
    /// Messages handed out again; wraps at 32 bits.
    pub redelivered: u64,
    /// Messages that are not handed out any more and wait for room among the dead letters.
    pub undeliverable: usize,
    /// Messages that became dead letters.
    pub dead_lettered: u64,
}

/// How a channel stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages in the ring.
    pub len: u64,
    /// Bytes that its records take, their headers and what was skipped included.
    pub bytes: u64,
    /// When the oldest message in the ring was sent: now less that is its age.
    pub oldest: Option<SystemTime>,
    /// Messages in the ring that do not verify, as far as somebody found that.
    pub damaged: u64,
    /// Pages in use.
    pub pages: usize,
    /// Pages that can be written before the oldest is needed.
    pub free_pages: usize,
    /// Times that senders went on to another page.
    pub page_turns: u64,
    /// How often the file is open. Who died is counted until somebody has cleaned up, but not by who only looks.
    pub opens: usize,
    /// Senders and channels, in all opens.
    pub handles: u64,
    /// Times that the file was synced for somebody who asked, or an interval that was over.
    pub syncs: u64,
    /// How long those took together.
    pub sync_time: Duration,
    /// Times that a sender waited for room, until it had it or gave up.
    pub waits_for_room: u64,
    /// How long those took together.
    pub wait_time: Duration,
    /// Every message below this is on stable storage.
    pub durable_offset: Offset,
    /// Whether it was closed.
    pub closed: bool,
    /// The beginning of the oldest page.
    pub first_offset: Offset,
    /// Behind the newest message.
    pub end_offset: Offset,
}

impl Channel {
    pub(crate) fn open(options: &Options, path: &Path) -> Result<Self, OpenError> {
        if let Durability::Interval { every, max_messages } = options.durability
            && (every.is_zero() || max_messages == 0)
        {
            let reason = "an interval needs a time and a number of messages that are not 0".into();
            return Err(OpenError::InvalidOption { option: "durability", value: max_messages, reason });
        }
        let file = OpenFile::open(options, path)?;
        let letters = match file.map.layout().geometry {
            Geometry { max_attempts: 1.., .. } if !file.read_only => Some(open_letters(options, &file)?),
            _ => None,
        };
        Ok(Self::new(Root::new(file, letters, options.durability)))
    }

    pub(crate) fn new(root: Arc<Root>) -> Self {
        root.add_handle();
        Self { root }
    }

    /// A new sender. It also opens a closed channel for sending again.
    pub fn sender(&self) -> Sender {
        Sender::new(Arc::clone(&self.root))
    }

    /// A receiver of a group, which is created if it is new: then it starts at the oldest message.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, the group may or may not have been created; nothing else remains.
    ///
    /// # Durability
    ///
    /// A new group is on stable storage when the call that created it returns.
    pub async fn subscribe(&self, group: impl Into<GroupName>) -> Result<Receiver, SubscribeError> {
        self.subscribe_from(group, Start::Oldest).await
    }

    /// As [`subscribe`](Self::subscribe), and blocks the thread if the group is new.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn blocking_subscribe(&self, group: impl Into<GroupName>) -> Result<Receiver, SubscribeError> {
        self.blocking_subscribe_from(group, Start::Oldest)
    }

    /// As [`subscribe`](Self::subscribe), with the place where the group starts if it is new.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    ///
    /// # Cancel safety
    ///
    /// As [`subscribe`](Self::subscribe).
    pub async fn subscribe_from(&self, group: impl Into<GroupName>, start: Start) -> Result<Receiver, SubscribeError> {
        subscribe_from(&self.root, group.into(), start).await
    }

    /// As [`subscribe_from`](Self::subscribe_from), and blocks the thread if the group is new.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn blocking_subscribe_from(
        &self,
        group: impl Into<GroupName>,
        start: Start,
    ) -> Result<Receiver, SubscribeError> {
        let name = group.into();
        match join(&self.root, &name)? {
            Some(receiver) => Ok(receiver),
            None => create(&self.root, &name, start),
        }
    }

    /// A receiver of the dead letters: of the one group of the channel that they go to. Its messages are
    /// read by [`DeadLetter::parse`](crate::DeadLetter::parse). It ends when neither this channel nor that
    /// one is open anywhere.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::NoDeadLetters`] if the channel was made without [`Options::max_attempts`]; else
    /// see [`SubscribeError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing remains.
    pub async fn dead_letters(&self) -> Result<Receiver, SubscribeError> {
        self.root.usable()?;
        let letters = self.root.dead_letters.as_ref().ok_or(SubscribeError::NoDeadLetters)?;
        letters.subscribe(dead::GROUP).await
    }

    /// As [`dead_letters`](Self::dead_letters); may block the thread.
    ///
    /// # Errors
    ///
    /// As [`dead_letters`](Self::dead_letters).
    pub fn blocking_dead_letters(&self) -> Result<Receiver, SubscribeError> {
        self.root.usable()?;
        let letters = self.root.dead_letters.as_ref().ok_or(SubscribeError::NoDeadLetters)?;
        letters.blocking_subscribe(dead::GROUP)
    }

    /// The groups, in no order, and how they stand. It looks at every message in the ring.
    pub fn groups(&self) -> Vec<GroupStats> {
        if self.root.is_inherited() {
            return Vec::new();
        }
        self.expire();
        let ring = self.root.ring();
        let stats = Group::all(ring.mem).filter_map(|group| {
            let [held, returned, undeliverable] = group.held_and_returned();
            let lag = group.lag(&ring);
            let time = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
            Some(GroupStats {
                name: group.name()?,
                lag: lag.messages,
                lag_bytes: lag.bytes,
                oldest_unfinished: lag.oldest.map(time),
                held,
                returned,
                lagged: group.lagged(),
                expired: group.expired(),
                damaged: group.damaged(),
                gone: group.count(Count::Gone),
                redelivered: group.count(Count::Redelivered),
                undeliverable,
                dead_lettered: group.count(Count::DeadLettered),
            })
        });
        stats.collect()
    }

    fn expire(&self) {
        if self.root.usable().is_ok() {
            self.root.expire();
        }
    }

    /// Removes a group; its receivers get `GroupRemoved`.
    ///
    /// # Errors
    ///
    /// [`RemoveGroupError::InUse`] if messages of it are handed out, unless `force`; those who hold
    /// them then hear `GroupRemoved` when they finish.
    pub fn remove_group(&self, group: impl Into<GroupName>, force: bool) -> Result<(), RemoveGroupError> {
        self.root.usable()?;
        let name = group.into();
        let (file, ring) = (&self.root.file, self.root.ring());
        let removed = file.with_open_lock(|_| {
            let group = Group::find(ring.mem, &name).ok_or(RemoveGroupError::NotFound)?;
            let [held, ..] = group.held_and_returned();
            if held > 0 && !force {
                return Err(RemoveGroupError::InUse { held });
            }
            // A message that was claimed after it was counted is held still, as if forced.
            Ok(group.remove(&ring, |range| file.sync_range(range))?)
        });
        let removed = removed?.ok_or(RemoveGroupError::Busy)?;
        self.root.wake_everybody();
        #[cfg(feature = "relay")]
        if removed.is_ok() {
            crate::relay::forget(self, &name);
        }
        removed
    }

    /// How the channel stands. It looks at every message in the ring. In the child of a fork that came
    /// after the channel was opened, all of it is 0 and closed.
    pub fn stats(&self) -> Stats {
        if self.root.is_inherited() {
            return Stats { closed: true, ..Stats::default() };
        }
        self.expire();
        let ring = self.root.ring();
        let pages = self.pages();
        let [syncs, sync_time] = ring.mem.syncs().map(|word| word.load(Relaxed));
        let [waits_for_room, wait_time] = ring.mem.waits_for_room().map(|word| word.load(Relaxed));
        // Who only looks cleans up after nobody.
        let is_there = |id: &OpenId| !self.root.file.read_only || !self.root.file.is_dead(id.index);
        let opens = || OpenId::all(ring.mem).filter(is_there);
        Stats {
            len: pages.iter().map(|page| page.len).sum(),
            bytes: pages.iter().map(|page| page.bytes).sum(),
            oldest: pages.iter().find_map(|page| page.oldest),
            damaged: pages.iter().map(|page| page.damaged).sum(),
            pages: pages.len(),
            free_pages: ring.mem.layout.geometry.max_pages.saturating_sub(pages.len()),
            page_turns: ring.mem.page_turns().load(Relaxed),
            opens: opens().count(),
            handles: opens().map(|id| id.handles(ring.mem).load(Relaxed)).fold(0, u64::saturating_add),
            closed: self.is_closed(),
            syncs,
            sync_time: Duration::from_micros(sync_time),
            waits_for_room,
            wait_time: Duration::from_micros(wait_time),
            durable_offset: self.durable_offset(),
            first_offset: ring.first(),
            end_offset: ring.end(),
        }
    }

    /// Reads what is in the ring, without a group; it begins with the oldest message.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.root))
    }

    /// The message at an offset, as a copy; the next one if none is there.
    ///
    /// # Errors
    ///
    /// See [`TryReadError`].
    pub fn get(&self, offset: Offset) -> Result<Record, TryReadError> {
        let mut reader = self.reader();
        reader.seek(Start::At(offset));
        reader.try_read()
    }

    /// Up to `limit` messages from an offset on, as copies, and the offset to ask for next. Fewer are there at the
    /// end, and before what was overwritten meanwhile, which the next call then says.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]; never `Disconnected`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// channel.sender().blocking_send_many(&["a", "b", "c"])?;
    /// let two = channel.read_slice(channel.first_offset(), 2)?;
    /// assert_eq!(two.records.len(), 2);
    /// let rest = channel.read_slice(two.next, 100)?;
    /// assert_eq!(&*rest.records[0], b"c");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_slice(&self, from: Offset, limit: usize) -> Result<Slice, ReadError> {
        let mut reader = self.reader();
        reader.seek(Start::At(from));
        reader.slice(limit)
    }

    /// The offset of the oldest place in the ring.
    pub fn first_offset(&self) -> Offset {
        match self.root.is_inherited() {
            true => Offset::default(),
            false => self.root.ring().first(),
        }
    }

    /// The offset behind the newest place that was given out.
    pub fn end_offset(&self) -> Offset {
        if self.root.is_inherited() { Offset::default() } else { self.root.ring().end() }
    }

    /// Messages in the ring, whoever has had them. It looks at every one.
    pub fn len(&self) -> u64 {
        if self.root.is_inherited() {
            return 0;
        }
        let ring = self.root.ring();
        ring.pages().map(|page| ring.count(page, SlotState::is_committed)).sum()
    }

    /// Whether the ring has no message.
    pub fn is_empty(&self) -> bool {
        let ring = self.root.ring();
        self.root.is_inherited() || ring.pages().all(|page| ring.count(page, SlotState::is_committed) == 0)
    }

    /// Bytes that the ring has for messages and 32 bytes each for their headers.
    pub fn capacity_bytes(&self) -> u64 {
        let layout = self.root.file.map.layout();
        (layout.data_words * 8 * layout.geometry.max_pages) as u64
    }

    /// Longest message in bytes, with its [headers](crate::Headers).
    pub fn max_message_len(&self) -> usize {
        self.root.file.map.layout().max_message_len()
    }

    /// What happens when the ring is full.
    pub fn overflow(&self) -> Overflow {
        self.root.file.map.layout().geometry.overflow
    }

    /// Refuses further sends, in the file and so in every process. Receivers get what was sent
    /// before, and then `Disconnected`. [`sender`](Self::sender) opens the channel again; senders
    /// made before stay closed. Opened read-only, poisoned, or in the child of a fork, it does nothing. A
    /// power loss may undo it; a clean close keeps it.
    pub fn close(&self) {
        if self.root.usable().is_err() {
            return;
        }
        // Busy only while as many sends run as can: each is a few instructions long.
        while self.root.ring().close().is_err() {
            // Or as many died in it.
            self.root.tend_now_and_then();
            std::thread::yield_now();
        }
        self.root.wake_everybody();
    }

    /// Whether the channel was closed.
    pub fn is_closed(&self) -> bool {
        self.root.is_inherited() || self.root.ring().head().closed
    }

    /// Returns when everything sent and acknowledged before, by whichever process, is on stable storage.
    ///
    /// Callers of one open share a sync; who asks while one runs waits for the next, which may be put off by
    /// a quarter of a millisecond for callers that the last one released. It waits for no send that has not
    /// ended, and for no other process.
    ///
    /// # Errors
    ///
    /// See [`SyncError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, the sync may still be made; nothing else remains.
    pub async fn sync(&self) -> Result<(), SyncError> {
        durability::sync(&self.root).await
    }

    /// As [`sync`](Self::sync); blocks the thread.
    ///
    /// # Errors
    ///
    /// See [`SyncError`].
    pub fn blocking_sync(&self) -> Result<(), SyncError> {
        self.root.shared().blocking_sync()
    }

    /// Every message below this offset is on stable storage; those from it on may be, too. It goes up with
    /// every sync of any process, as far as no send is under way.
    pub fn durable_offset(&self) -> Offset {
        if self.root.is_inherited() {
            return Offset::default();
        }
        Offset::from_u64(self.root.memory().durable_end().load(Relaxed))
    }

    /// What was done to the file when it was opened, if it had to be recovered.
    pub fn recovered(&self) -> Option<&RecoveryReport> {
        self.root.file.recovered.as_ref()
    }

    /// The channel's own number, chosen by chance when it was created.
    pub fn uuid(&self) -> u128 {
        let [high, low] = self.root.file.uuid();
        u128::from(high) << 64 | u128::from(low)
    }

    /// When the channel was created.
    pub fn created_at(&self) -> SystemTime {
        self.root.file.created_at()
    }

    /// The path that the channel was opened by.
    pub fn path(&self) -> &Path {
        &self.root.file.path
    }

    /// Whether two handles are of the same channel.
    pub fn same_channel(&self, other: &Self) -> bool {
        self.root.memory().uuid == other.root.memory().uuid
    }
}

impl Clone for Channel {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.root))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.root.drop_handle();
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// The channel of the dead letters, beside a channel and as large: a message of any length fits there.
fn open_letters(options: &Options, file: &OpenFile) -> Result<Channel, OpenError> {
    let letters = letters_options(&file.map.layout().geometry, options.trust_file_system);
    Channel::open(&letters, &letters_path(&file.path))
}

/// Where the dead letters of a channel lie.
pub(crate) fn letters_path(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".dead");
    name.into()
}

/// How the channel of the dead letters is made, beside one of this geometry.
pub(crate) fn letters_options(g: &Geometry, trust_file_system: bool) -> Options {
    let longest = |g: Geometry| Layout::new(g).map_or(0, |layout| layout.max_message_len());
    let needed = longest(*g) + DEAD_LETTER_ROOM;
    let options = |max_groups| Options {
        page_size: Some(g.page_size),
        max_pages: Some(g.max_pages),
        typical_message_len: Some(g.typical_message_len),
        max_groups: Some(max_groups),
        max_opens: Some(g.max_opens),
        max_op_cells: Some(g.max_op_cells),
        max_held: Some(g.max_held),
        overflow: Some(Overflow::Block),
        max_attempts: Some(0),
        trust_file_system,
        ..Options::default()
    };
    // It has one group. Tables of more are there only where every message fits then: fewer groups are more slots,
    // which seldom leave shorter records.
    let one = options(1);
    if longest(one.geometry()) >= needed { one } else { options(g.max_groups) }
}

/// A receiver of a group that exists.
fn join(root: &Arc<Root>, name: &GroupName) -> Result<Option<Receiver>, SubscribeError> {
    root.usable()?;
    let len = name.as_str().len();
    if len == 0 || len > MAX_GROUP_NAME {
        return Err(SubscribeError::InvalidName { len, max: MAX_GROUP_NAME });
    }
    let found = Group::find_with_origin(root.memory(), name);
    let receiver = |(group, origin): (Group<'_>, u64)| {
        Receiver::new(Arc::clone(root), name.clone(), (group.number(), group.state(), origin))
    };
    Ok(found.map(receiver))
}

fn create(root: &Arc<Root>, name: &GroupName, start: Start) -> Result<Receiver, SubscribeError> {
    let (file, ring) = (&root.file, root.ring());
    let made = file.with_open_lock(|_| {
        if let Some(receiver) = join(root, name)? {
            return Ok(receiver);
        }
        // What is too old is not the loss of a new group.
        root.expire();
        let group = Group::create(&ring, name, start, |range| file.sync_range(range)).map_err(|e| match e {
            NotCreated::NotSynced(error) => SubscribeError::Io(error),
            NotCreated::TooMany => SubscribeError::TooManyGroups { max: ring.mem.layout.geometry.max_groups },
            NotCreated::BeyondEnd { start, end } => SubscribeError::StartBeyondEnd { start, end },
        })?;
        // Nobody can move it as long as this has the lock.
        Ok(Receiver::new(Arc::clone(root), name.clone(), (group.number(), group.state(), group.origin())))
    });
    let made = made?.ok_or(SubscribeError::Busy)?;
    // Senders that waited for a first group can see what it says.
    root.wake_senders();
    made
}

pub(crate) async fn subscribe_from(
    root: &Arc<Root>,
    name: GroupName,
    start: Start,
) -> Result<Receiver, SubscribeError> {
    if let Some(receiver) = join(root, &name)? {
        return Ok(receiver);
    }
    let root = Arc::clone(root);
    off_thread::off_thread(move || create(&root, &name, start)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_fits_among_the_dead_letters() {
        let mut tried = 0;
        for page_size in [64 << 10, 68 << 10, 1 << 20, 16 << 20, 100 << 20, 128 << 20, 256 << 20, 512 << 20, 1 << 30] {
            for max_groups in [1, 2, 3, 7, 64, 500] {
                for typical_message_len in [0, 8, 64, 100, 127, 1000, 1 << 20] {
                    for max_op_cells in [1, 100, 1024, 1 << 14] {
                        let options = Options::new()
                            .page_size(page_size)
                            .max_groups(max_groups)
                            .typical_message_len(typical_message_len)
                            .max_op_cells(max_op_cells)
                            .max_attempts(1);
                        let Ok(layout) = Layout::new(options.geometry()) else { continue };
                        let letters = letters_options(&layout.geometry, false);
                        let room = Layout::new(letters.geometry()).unwrap().max_message_len();
                        assert!(room >= layout.max_message_len() + DEAD_LETTER_ROOM, "{:?}", layout.geometry);
                        tried += 1;
                    }
                }
            }
        }
        assert!(tried > 500, "{tried}");
    }
}
