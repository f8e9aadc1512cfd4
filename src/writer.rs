//! Writing a whole channel into a new file, which has its name when it is complete.
//!
//! **Invariants.**
//! - The file has no name until everything is in it and on disk: who dies before leaves nothing.
//! - Messages are sent by the functions that senders use, with the times that are given instead of the clock's: so
//!   pages are as if they had been sent at those times. Where each comes to lie is known before (packing.rs), and
//!   no page is ever turned. Once a message has no room, the others are only counted.
//! - A group is made at its position; what it is done with behind that is acked. What it was given goes into claim
//!   cells that say so, and with it all before it that is not done, as long as there are cells; its cursors stand
//!   behind that.
#![forbid(unsafe_code)]

use crate::cells::{ClaimState, Kind};
use crate::clean;
use crate::create::{Unnamed, publish};
use crate::file::{boot_id, failed};
use crate::group::Group;
use crate::layout::{GroupCursor, Layout, MAX_ATTEMPTS, MAX_GROUP_NAME};
use crate::opens::OpenId;
use crate::ops::Liveness;
use crate::packing::{Moved, Packing};
use crate::page::Record;
use crate::read::unix_milliseconds;
use crate::ring::Ring;
use crate::{GroupName, GroupProgress, Offset, OpenError, Options, Payload, RewriteError, Start};
use std::convert::Infallible;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::SystemTime;

/// Writes a new channel: all its messages, then its groups.
///
/// Offsets are those that messages had elsewhere: they say what groups are done with, and are others in the new
/// channel, which has a number of its own. Dropped before [`finish`](Self::finish), it leaves nothing.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// use disk_chan::{ChannelWriter, GroupProgress, Offset, Options};
/// use std::time::SystemTime;
/// let mut writer = ChannelWriter::new(Options::new().page_size(1 << 20).max_pages(4), &path)?;
/// writer.append(Offset::from_u64(7), "two coffees", SystemTime::now())?;
/// writer.append(Offset::from_u64(9), "one tea", SystemTime::now())?;
/// writer.group(GroupProgress::new("billing", Offset::from_u64(8)))?;
/// writer.finish()?;
///
/// let mut rx = Options::new().blocking_open(&path)?.blocking_subscribe("billing")?;
/// assert_eq!(&*rx.blocking_recv()?, b"one tea");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ChannelWriter {
    path: PathBuf,
    new: Unnamed,
    packing: Packing,
    moved: Moved,
    groups: Vec<GroupProgress>,
    closed: bool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Pages that the messages take.
    pub pages: u64,
    /// Where each group stood, and where it stands now.
    pub groups: Vec<GroupMoved>,
}

/// Where a group stood in one file, and where it stands in the other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMoved {
    /// Its name.
    pub name: GroupName,
    /// The first place that it was not done with.
    pub from: Offset,
    /// The same place in the new file; the end if nothing is left for it.
    pub to: Offset,
    /// Messages that it was given before, of which it is not known any more how often: there were too few claim
    /// cells.
    pub attempts_lost: u64,
}

/// A file that nobody else knows has nobody dead.
struct Alone;

impl Liveness for Alone {
    fn is_dead(&self, _open: usize) -> bool {
        false
    }
}

const ME: OpenId = OpenId { index: 0, incarnation: 1 };

impl ChannelWriter {
    /// Begins a channel that is to lie at `path`, where nothing may be.
    ///
    /// # Errors
    ///
    /// [`RewriteError::Open`].
    pub fn new(options: Options, path: impl AsRef<Path>) -> Result<Self, RewriteError> {
        let path = path.as_ref().to_owned();
        if path.symlink_metadata().is_ok() {
            return Err(OpenError::AlreadyExists { path }.into());
        }
        let options = Options { first_page: 0, ..options };
        let new = Unnamed::new(&options, &path, Layout::new(options.geometry())?)?;
        Ok(Self { path, new, packing: Packing::default(), moved: Moved::default(), groups: Vec::new(), closed: false })
    }

    fn ring(&self) -> Ring<'_> {
        Ring { mem: self.new.map.memory(), live: &Alone, me: ME }
    }

    fn layout(&self) -> &Layout {
        self.new.map.layout()
    }

    /// Longest message in bytes, with its headers.
    pub fn max_message_len(&self) -> usize {
        self.layout().max_message_len()
    }

    /// Adds a message behind all others: where it was, and when it was sent. Where it is now.
    ///
    /// # Errors
    ///
    /// [`RewriteError::MessageTooLong`], [`RewriteError::NotInOrder`]. That it does not fit tells
    /// [`finish`](Self::finish), with how many pages all of them need.
    pub fn append<M: Payload>(&mut self, at: Offset, message: M, sent_at: SystemTime) -> Result<Offset, RewriteError> {
        self.append_region(at, message.region(), M::FLAGS, unix_milliseconds(sent_at))
    }

    pub(crate) fn append_region(
        &mut self,
        at: Offset,
        region: &[u8],
        flags: u32,
        sent_at: u64,
    ) -> Result<Offset, RewriteError> {
        if let Some(before) = self.moved.last().filter(|&before| at <= before) {
            return Err(RewriteError::NotInOrder { offset: at, before });
        }
        let (len, max) = (region.len(), self.layout().max_message_len());
        if len > max {
            return Err(RewriteError::MessageTooLong { offset: at, len, max });
        }
        let record = Record::new(region, flags);
        let to = self.packing.place(self.new.map.layout(), record.words());
        if self.fits() {
            let sent = self.ring().send(0, &[record], sent_at);
            let sent = sent.map(|sent| Offset::new(sent.page, sent.index));
            assert_eq!(sent, Ok(to), "an empty ring takes messages as they are packed");
        }
        self.moved.push(at, to);
        Ok(to)
    }

    fn fits(&self) -> bool {
        self.packing.pages() <= self.layout().geometry.max_pages as u64
    }

    /// Adds a group: what it is done with, by the offsets that messages were [appended](Self::append) with.
    ///
    /// # Errors
    ///
    /// See [`RewriteError`].
    pub fn group(&mut self, group: GroupProgress) -> Result<(), RewriteError> {
        let len = group.name.as_str().len();
        if len == 0 || len > MAX_GROUP_NAME {
            return Err(RewriteError::InvalidName { len, max: MAX_GROUP_NAME });
        }
        if self.groups.iter().any(|other| other.name == group.name) {
            return Err(RewriteError::GroupTwice { name: group.name });
        }
        // So that what is done is gone through once, whoever wrote it.
        let starts = group.done.iter().flat_map(|done| [*done.start(), *done.end()]);
        let ranges = starts.collect::<Vec<_>>();
        in_order(ranges.windows(2), |before, offset, n| offset > before || n % 2 == 0 && offset == before)?;
        let given: Vec<Offset> = group.given.iter().map(|&(at, _)| at).collect();
        in_order(given.windows(2), |before, offset, _| offset > before)?;
        self.groups.push(group);
        let (groups, max) = (self.groups.len(), self.layout().geometry.max_groups);
        if groups > max { Err(RewriteError::TooManyGroups { groups, max }) } else { Ok(()) }
    }

    /// The channel is closed: see [`Channel::close`](crate::Channel::close).
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Makes the groups, and gives the file its name: it is on stable storage when this returns.
    ///
    /// # Errors
    ///
    /// [`RewriteError::DoesNotFit`]; [`RewriteError::Open`] with
    /// [`AlreadyExists`](OpenError::AlreadyExists) if somebody made a file of this name meanwhile.
    pub fn finish(self) -> Result<Written, RewriteError> {
        let prepared = self.prepare()?;
        prepared.publish()
    }

    /// All but the name.
    pub(crate) fn prepare(mut self) -> Result<Prepared, RewriteError> {
        let pages = self.packing.pages();
        if !self.fits() {
            return Err(RewriteError::DoesNotFit { needed: pages, pages: self.layout().geometry.max_pages as u64 });
        }
        let groups = self.groups.iter().map(|group| self.make_group(group)).collect();
        let (ring, mem) = (self.ring(), self.new.map.memory());
        if self.closed {
            ring.close().map_err(|_| ()).expect("its only op cell user is this thread");
        }
        OpenId::forget_all(mem);
        mem.durable_end().store(ring.end().as_u64(), Relaxed); // it will be, when it has its name
        let (check, head) = (clean::seal(mem), mem.head().load(Relaxed));
        let path = &*self.path;
        let meta = self.new.file.metadata().map_err(failed(path, "look at it"))?;
        let header = &mut self.new.header;
        (header.check, header.head, header.clean) = (check, head, true);
        (header.boot_id, header.device, header.inode) = (boot_id(path)?, meta.dev(), meta.ino());
        Ok(Prepared { path: self.path, new: self.new, written: Written { pages, groups } })
    }

    fn make_group(&self, progress: &GroupProgress) -> GroupMoved {
        let (ring, mem) = (self.ring(), self.new.map.memory());
        let to = self.moved.from(progress.position).unwrap_or(ring.end());
        let made = Group::create(&ring, &progress.name, Start::At(to), |_| Ok::<_, Infallible>(()));
        let group = made.map_err(|_| ()).expect("there are numbers enough, and it starts where something is");
        for done in &progress.done {
            let behind = Offset::from_u64(done.end().as_u64().saturating_add(1));
            for (_, at) in self.moved.between((*done.start()).max(progress.position)..behind) {
                group.set_done(at.page(), at.index() as usize);
            }
        }
        let attempts_lost = self.make_given(&group, progress);
        debug_assert!(crate::found::fits(mem));
        GroupMoved { name: progress.name.clone(), from: progress.position, to, attempts_lost }
    }

    /// Gives the group what it was given, and takes it back. Of how many there was no cell to say so.
    fn make_given(&self, group: &Group<'_>, progress: &GroupProgress) -> u64 {
        let attempts = |at| progress.given.binary_search_by_key(&at, |&(at, _)| at).map_or(0, |n| progress.given[n].1);
        let was_given = |&&(at, attempts): &&(Offset, u32)| attempts > 0 && at >= progress.position;
        let Some(&(last, _)) = progress.given.iter().rfind(was_given) else { return 0 };
        let behind = Offset::from_u64(last.as_u64().saturating_add(1));
        let open = self.moved.between(progress.position..behind);
        let mut open = open.filter(|(_, at)| !group.is_done(at.page(), at.index() as usize));
        let cells = 0..self.layout().geometry.max_held;
        let mut end = None;
        for (cell, (from, to)) in cells.zip(&mut open) {
            group.give(cell, to, attempts(from));
            end = Some(to);
        }
        if let Some(end) = end {
            self.move_cursors(group, end);
        }
        open.filter(|&(from, _)| attempts(from) > 0).count() as u64
    }

    /// Puts the cursors of a group behind a message.
    fn move_cursors(&self, group: &Group<'_>, last: Offset) {
        for number in group.start().page()..=last.page() {
            let (page, word) = group.in_page(number);
            let end = page.cursor().count.min(self.layout().slots);
            let index = if number == last.page() { last.index() as usize + 1 } else { end };
            word.store(GroupCursor { closed: None, cell: None, index }.word(group.tag(number)), Release);
        }
    }
}

impl Group<'_> {
    /// Has a free claim cell say that a message was given back, after so many deliveries.
    fn give(&self, cell: usize, at: Offset, attempts: u32) {
        self.use_cell(cell);
        let cell = self.cell(cell);
        let attempts = u64::from(attempts.min(MAX_ATTEMPTS));
        let taken = cell.take(ME.index, Kind::Lease, attempts).expect("nobody else has the file");
        let (intent, _) = cell.intend(taken, at.as_u64(), 0, true);
        cell.hold(intent);
        cell.put_back(intent.to(ClaimState::Held));
    }
}

/// A channel that is complete but for its name.
#[derive(Debug)]
pub(crate) struct Prepared {
    path: PathBuf,
    new: Unnamed,
    written: Written,
}

impl Prepared {
    /// Gives it its name.
    pub(crate) fn publish(self) -> Result<Written, RewriteError> {
        let Self { path, new: Unnamed { map, header, file }, written } = self;
        map.sync(0..map.layout().file_bytes() as usize).map_err(failed(&path, "sync it"))?;
        drop(map);
        match publish(&path, &file, &header)? {
            true => Ok(written),
            false => Err(OpenError::AlreadyExists { path }.into()),
        }
    }
}

/// The first of these pairs that is not as it should be is an error.
fn in_order<'a>(
    pairs: impl Iterator<Item = &'a [Offset]>,
    is_right: impl Fn(Offset, Offset, usize) -> bool,
) -> Result<(), RewriteError> {
    let wrong = pairs.enumerate().find(|(n, pair)| !is_right(pair[0], pair[1], *n));
    wrong.map_or(Ok(()), |(_, pair)| Err(RewriteError::NotInOrder { offset: pair[1], before: pair[0] }))
}
