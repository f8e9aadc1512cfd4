//! How a channel is made and opened.
#![forbid(unsafe_code)]

use crate::RecoveryProgress;
#[cfg(not(disk_chan_loom))]
use crate::layout::Geometry;
#[cfg(not(disk_chan_loom))]
use crate::{Channel, OpenError, off_thread};
use std::fmt;
#[cfg(not(disk_chan_loom))]
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Who is told how far a recovery has come.
#[derive(Clone, Default)]
pub(crate) struct Progress(Option<Arc<dyn Fn(RecoveryProgress) + Send + Sync>>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "told" } else { "not told" })
    }
}

/// When what was sent and acknowledged reaches stable storage, beyond what the kernel does by itself,
/// which is within half a minute or so. Chosen for each open; not stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When somebody asks: `send_durable`, `sync`, and the last close.
    #[default]
    Buffered,
    /// Also `every` so often, and soon after `max_messages` were sent through this open since; by a thread
    /// of its own. A power loss costs what came since the last sync that ended.
    Interval {
        /// The longest that something stays unsynced, but for the time that the sync takes.
        every: Duration,
        /// Messages after which a sync begins at once.
        max_messages: u64,
    },
    /// Each send through this open returns when its message is on stable storage, as `send_durable` does;
    /// `try_send`, too, waits for the disk. Acks are not waited for; the next sync covers them.
    Always,
}

/// What happens to a send when the ring is full. Stored in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It waits until every group is done with the oldest page.
    #[default]
    Block,
    /// The oldest page goes; each group that had not read it gets one
    /// [`RecvError::Lagged`](crate::RecvError::Lagged). Every hand-out is a verified copy.
    DropOldest,
}

/// Whether a channel may be created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Create {
    /// Opened if it is there, else created.
    #[default]
    OpenOrCreate,
    /// Created; an existing file is an error.
    CreateNew,
    /// Opened; a missing file is an error.
    OpenExisting,
}

/// Where reading begins: of a new group, where it counts only when the group is created; of a
/// [`Reader`](crate::Reader) that seeks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the oldest message in the ring.
    #[default]
    Oldest,
    /// Behind the newest message.
    Newest,
    /// At this offset, or the next message if it lies in a gap. For a group it is the oldest message if it is
    /// below the ring, and an error if it is beyond the end.
    At(crate::Offset),
    /// At the first message that was sent at this time or later.
    Time(SystemTime),
}

/// How a channel is made and opened.
///
/// What is set here is stored in a new file; opening an existing file with another value is
/// [`OpenError::Mismatch`]. What is not set takes its default in a new
/// file and accepts what an existing file has.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// assert!(channel.capacity_bytes() <= 4 << 20);
/// # Ok::<(), disk_chan::OpenError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Options {
    pub(crate) page_size: Option<usize>,
    pub(crate) max_pages: Option<usize>,
    pub(crate) typical_message_len: Option<usize>,
    pub(crate) max_groups: Option<usize>,
    pub(crate) max_opens: Option<usize>,
    pub(crate) max_op_cells: Option<usize>,
    pub(crate) max_held: Option<usize>,
    pub(crate) overflow: Option<Overflow>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) lease_timeout: Option<Duration>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) read_only: bool,
    pub(crate) create: Create,
    pub(crate) trust_file_system: bool,
    pub(crate) first_page: u64,
    pub(crate) durability: Durability,
    pub(crate) on_recovery: Progress,
}

#[cfg(not(disk_chan_loom))]
impl Options {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of a page: a multiple of 4096 from 64 KiB to 1 GiB; 16 MiB if not set.
    pub fn page_size(mut self, bytes: usize) -> Self {
        self.page_size = Some(bytes);
        self
    }

    /// Pages of the ring: 2 to 65,536; 16 if not set.
    pub fn max_pages(mut self, pages: usize) -> Self {
        self.max_pages = Some(pages);
        self
    }

    /// Bytes of a usual message; 64 if not set. It only sizes the slot table: where messages are
    /// much shorter, pages end before their bytes are used up.
    pub fn typical_message_len(mut self, bytes: usize) -> Self {
        self.typical_message_len = Some(bytes);
        self
    }

    /// Groups that the channel can have at once: 1 to 4096; 64 if not set.
    pub fn max_groups(mut self, groups: usize) -> Self {
        self.max_groups = Some(groups);
        self
    }

    /// How often the file can be open at once: 1 to 4096; 256 if not set.
    pub fn max_opens(mut self, opens: usize) -> Self {
        self.max_opens = Some(opens);
        self
    }

    /// Sends that can run at the same moment, in all processes: 1 to 16,384; 1024 if not set.
    pub fn max_op_cells(mut self, cells: usize) -> Self {
        self.max_op_cells = Some(cells);
        self
    }

    /// Messages of one group that can be handed out and not done: 1 to 2047; 256 if not set. From 64 on
    /// `recv_many` is faster.
    pub fn max_held(mut self, messages: usize) -> Self {
        self.max_held = Some(messages);
        self
    }

    /// What a send does when the ring is full; [`Overflow::Block`] if not set.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = Some(overflow);
        self
    }

    /// How long messages are kept for groups that have not read them: 1 millisecond to a hundred years; as
    /// long as there is room if not set.
    ///
    /// A page is given up as a whole, the oldest first, when its youngest message is that old: so a message
    /// can come that is older, but none is given up that is younger. (A page is as old as its last message
    /// says. A sender that was stopped between reading the clock and sending makes it seem older by that; one
    /// that is stopped while it writes keeps its page, and those behind it, until it goes on.) What is given
    /// up is handed out no more, also if it was given back; its place in the ring is free, also under
    /// [`Overflow::Block`]; and each group counts what it had not been given as
    /// [`expired`](crate::GroupStats::expired). Nothing has to run for that: whoever receives looks first.
    /// What is handed out already stays its holder's, who can finish it, but not give it back.
    ///
    /// Every hand-out is a verified copy then, as under [`Overflow::DropOldest`]. To who reads the ring without a
    /// group, what was given up is overwritten.
    ///
    /// The time is the system's, that of [`Message::sent_at`](crate::Message::sent_at): it ticks every few
    /// milliseconds. If it is set back, messages stay for as much longer; if forward, they go as much earlier.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// How long a lease is its holder's: 1 millisecond to 12 days; for ever if not set.
    ///
    /// After that it can be handed out again, though its holder is alive; that one's
    /// [`ack`](crate::Lease::ack) is then [`AckError::Taken`](crate::AckError::Taken). It happens within
    /// a tick of 50 milliseconds wherever somebody waits for the channel or polls it. The time is the
    /// monotonic clock's, in whole milliseconds, rounded up.
    pub fn lease_timeout(mut self, timeout: Duration) -> Self {
        self.lease_timeout = Some(timeout);
        self
    }

    /// How often a message is handed out to a group before it becomes a dead letter: 1 to 4000; without
    /// limit if not set, or 0.
    ///
    /// A message that was given back that often, by its holders, their deaths or `lease_timeout`, goes
    /// to a channel of its own beside this one, with the name of this file and `.dead` behind it: see
    /// [`Channel::dead_letters`]. That channel has the size of this one, and is created with it. Who makes a
    /// letter of a message waits until it is on stable storage.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Opens the channel only to look at it, with a file that cannot be written, too. Not stored.
    ///
    /// Nothing is written, not even that somebody looks, and the channel may be in use, or in need of
    /// recovery: then a recovered copy of it, as large as the file, is made in memory of this process. Messages
    /// can be read without a group, and statistics are there; sending, subscribing and changing groups are
    /// errors that say `ReadOnly`. It is never created.
    pub fn read_only(mut self, yes: bool) -> Self {
        self.read_only = yes;
        self
    }

    /// Whether the channel may be created. Not stored.
    pub fn create(mut self, create: Create) -> Self {
        self.create = create;
        self
    }

    /// Accepts any file system, not only ext4, xfs and tmpfs. Not stored.
    ///
    /// On others the promises may not hold: a full disk can be a fatal signal where blocks are
    /// copied on write, and a network file system shows other machines different bytes.
    pub fn trust_file_system(mut self, yes: bool) -> Self {
        self.trust_file_system = yes;
        self
    }

    /// When what is sent and acknowledged through this open reaches stable storage;
    /// [`Durability::Buffered`] if not set. Not stored.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Who is told how far a recovery has come, should opening need one: after every page, on the thread
    /// that opens. Not stored. What was done is [`Channel::recovered`].
    pub fn on_recovery(mut self, told: impl Fn(RecoveryProgress) + Send + Sync + 'static) -> Self {
        self.on_recovery = Progress(Some(Arc::new(told)));
        self
    }

    pub(crate) fn report_progress(&self, path: &Path, at: RecoveryProgress) {
        event!(debug, "recovering", path = path.display(), pages = at.pages, of = at.of, messages = at.messages);
        if let Some(told) = &self.on_recovery.0 {
            told(at);
        }
    }

    /// The page number that a new channel starts with, for tests of numbers near their end.
    #[doc(hidden)]
    pub fn first_page(mut self, number: u64) -> Self {
        self.first_page = number;
        self
    }

    /// Opens or creates the channel, off the executor's threads.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, the file may or may not have been created; nothing else remains.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<Channel, OpenError> {
        let path = path.as_ref().to_owned();
        off_thread::off_thread(move || self.blocking_open(path)).await
    }

    /// Opens or creates the channel.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn blocking_open(self, path: impl AsRef<Path>) -> Result<Channel, OpenError> {
        Channel::open(&self, path.as_ref())
    }

    pub(crate) fn geometry(&self) -> Geometry {
        Geometry {
            page_size: self.page_size.unwrap_or(16 << 20),
            max_pages: self.max_pages.unwrap_or(16),
            typical_message_len: self.typical_message_len.unwrap_or(64),
            max_groups: self.max_groups.unwrap_or(64),
            max_opens: self.max_opens.unwrap_or(256),
            max_op_cells: self.max_op_cells.unwrap_or(1024),
            max_held: self.max_held.unwrap_or(256),
            overflow: self.overflow.unwrap_or_default(),
            max_age: self.max_age.map_or(0, long_milliseconds),
            lease_timeout: self.lease_timeout.map_or(0, milliseconds),
            max_attempts: self.max_attempts.unwrap_or(0),
        }
    }
}

/// Whole milliseconds, rounded up; what is set is not nothing.
#[cfg(not(disk_chan_loom))]
pub(crate) fn milliseconds(time: Duration) -> u32 {
    u32::try_from(long_milliseconds(time)).unwrap_or(u32::MAX)
}

/// The same of a time that may be long.
#[cfg(not(disk_chan_loom))]
pub(crate) fn long_milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000).max(1)).unwrap_or(u64::MAX)
}
