//! Copying a channel into a new file: of another geometry, or what is whole of a damaged one.
//!
//! **Invariants.**
//! - The old file is not in use and stays as it is: see `offline.rs`. The new one has its name when it is complete:
//!   see `writer.rs`.
//! - What is read is what the next user of the old file would find. Every message is verified; those that do not
//!   verify are left out, and counted.
//! - Dead letters go along, where the new channel has any: theirs is the first of the two names, so that no channel
//!   is there without its letters.
#![forbid(unsafe_code)]

use crate::channel::{letters_options, letters_path};
use crate::layout::{Geometry, Layout};
use crate::offline;
use crate::packing::Packing;
use crate::page::Record;
use crate::read::unix_milliseconds;
use crate::shared::Root;
use crate::writer::Prepared;
use crate::{
    Channel, ChannelWriter, Durability, GroupMoved, GroupProgress, Offset, OpenError, Options, Reader, RecoveryReport,
    RewriteError, Start,
};
use std::path::Path;
use std::time::Duration;

/// Copies a channel that nobody has open into a new file. It has another number there, and messages have other
/// offsets; all else stays: their order, headers and times, what each group is done with, also out of order, and how
/// often it was given what it is not done with. (A message that was on its way to the dead letters when its mover died
/// may become a letter twice.)
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let (path, larger) = (dir.path().join("orders.chan"), dir.path().join("larger.chan"));
/// use disk_chan::{Options, Rewrite};
/// let channel = Options::new().page_size(64 << 10).max_pages(2).max_groups(4).blocking_open(&path)?;
/// channel.sender().blocking_send("two coffees")?;
/// drop(channel);
///
/// let done = Rewrite::new().options(Options::new().max_pages(8)).write(&path, &larger, |_, _| {})?;
/// assert_eq!(done.messages, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Rewrite {
    options: Options,
    all: bool,
    salvage: bool,
}

/// What was copied, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewritten {
    /// Messages in the new file.
    pub messages: u64,
    /// Their bytes, with headers.
    pub bytes: u64,
    /// Messages that every group is done with, left out as there is no room for them.
    pub left_out: u64,
    /// Messages left out as they do not verify.
    pub damaged: u64,
    /// Pages of the new file that they take.
    pub pages: u64,
    /// Where each group stood, and stands now. Before it is written: what it is done with, and where it would stand
    /// is not known.
    pub groups: Vec<GroupMoved>,
    /// What had to be recovered in the old file, as the next to open it would have to.
    pub recovered: Option<RecoveryReport>,
    /// The dead letters, if there are any and they go along.
    pub letters: Option<Box<Rewritten>>,
}

/// What there is to be copied.
struct Source {
    channel: Channel,
    options: Options,
    layout: Layout,
    groups: Vec<GroupProgress>,
    /// Where to begin.
    from: Offset,
    plan: Rewritten,
}

/// What is in the ring from a place on.
#[derive(Default)]
struct Scan {
    messages: u64,
    bytes: u64,
    damaged: u64,
    pages: u64,
    too_long: Option<(Offset, usize)>,
}

impl Rewrite {
    /// Everything as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is to be another in the new file. A `max_age` or a `lease_timeout` of zero takes it away.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// All messages have to go along. Else those that every group is done with stay behind if there is no room for
    /// them. (Without any group all have to.)
    pub fn all(mut self, yes: bool) -> Self {
        self.all = yes;
        self
    }

    /// Also reads a file that was cut short: what was cut off is lost.
    pub fn salvage(mut self, yes: bool) -> Self {
        self.salvage = yes;
        self
    }

    /// Says what would be copied, and makes no file.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn plan(&self, from: impl AsRef<Path>) -> Result<Rewritten, RewriteError> {
        let from = from.as_ref();
        let source = self.source(from)?;
        let letters = self.letters(from, &source)?;
        let groups = source.groups.iter().map(GroupMoved::planned).collect();
        let letters = letters.map(|letters| Box::new(letters.plan));
        Ok(Rewritten { groups, letters, ..source.plan })
    }

    /// Copies it; `told` is told how many messages have been copied, and of how many.
    ///
    /// # Errors
    ///
    /// See [`RewriteError`]. Then there is no new file, and nothing was written if it is known that the messages do
    /// not fit.
    ///
    /// # Durability
    ///
    /// The new file is on stable storage when this returns. A death or a power loss before leaves no file of its
    /// name.
    pub fn write(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        mut told: impl FnMut(u64, u64),
    ) -> Result<Rewritten, RewriteError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let source = self.source(from)?;
        let letters = self.letters(from, &source)?;
        let new = source.copy(to, &mut told)?;
        let letters = match letters {
            Some(letters) => Some((letters.copy(&letters_path(to), &mut told)?, letters.plan)),
            None => None,
        };
        // Letters without their channel would be the next one's; they are not taken away again, as they may be by then.
        if to.symlink_metadata().is_ok() {
            return Err(OpenError::AlreadyExists { path: to.into() }.into());
        }
        let publish = |new: Prepared, plan: Rewritten| {
            new.publish().map(|written| Rewritten { groups: written.groups, pages: written.pages, ..plan })
        };
        let letters = letters.map(|(new, plan)| publish(new, plan)).transpose()?.map(Box::new);
        Ok(Rewritten { letters, ..publish(new, source.plan)? })
    }

    fn source(&self, path: &Path) -> Result<Source, RewriteError> {
        let file = offline::open(path, self.salvage)?;
        let recovered = file.recovered.clone();
        let channel = Channel::new(Root::new(file, None, Durability::default()));
        let options = self.options.clone().or(&channel.root.memory().layout.geometry);
        let layout = Layout::new(options.geometry())?;
        let (groups, max) = (channel.group_progress(), layout.geometry.max_groups);
        if groups.len() > max {
            return Err(RewriteError::TooManyGroups { groups: groups.len(), max });
        }
        let pages = layout.geometry.max_pages as u64;
        let (mut from, mut left_out) = (channel.first_offset(), 0);
        let mut scan = Scan::of(&channel, from, &layout)?;
        let undelivered = groups.iter().map(|group| group.position).min().unwrap_or(from);
        if !self.all && undelivered > from && (scan.pages > pages || scan.too_long.is_some()) {
            let rest = Scan::of(&channel, undelivered, &layout)?;
            (from, left_out, scan) = (undelivered, scan.messages - rest.messages, rest);
        }
        if let Some((offset, len)) = scan.too_long {
            return Err(RewriteError::MessageTooLong { offset, len, max: layout.max_message_len() });
        }
        if scan.pages > pages {
            return Err(RewriteError::DoesNotFit { needed: scan.pages, pages });
        }
        let Scan { messages, bytes, damaged, pages, .. } = scan;
        let plan = Rewritten { messages, bytes, left_out, damaged, pages, recovered, ..Rewritten::default() };
        Ok(Source { channel, options, layout, groups, from, plan })
    }

    /// The dead letters of a channel, if they go along.
    fn letters(&self, from: &Path, source: &Source) -> Result<Option<Source>, RewriteError> {
        let path = letters_path(from);
        let g = &source.layout.geometry;
        if g.max_attempts == 0 || !path.exists() {
            return Ok(None);
        }
        let options = letters_options(g, source.options.trust_file_system);
        Self { options, ..self.clone() }.source(&path).map(Some)
    }
}

impl Source {
    fn copy(&self, to: &Path, told: &mut impl FnMut(u64, u64)) -> Result<Prepared, RewriteError> {
        let mut writer = ChannelWriter::new(self.options.clone(), to)?;
        let mut done = 0;
        each(&self.channel, self.from, |record| {
            let (region, flags) = record.region();
            writer.append_region(record.offset(), region, flags, unix_milliseconds(record.sent_at()))?;
            done += 1;
            told(done, self.plan.messages);
            Ok(())
        })?;
        self.groups.iter().try_for_each(|group| writer.group(group.clone()))?;
        if self.channel.is_closed() {
            writer.close();
        }
        writer.prepare()
    }
}

impl Scan {
    fn of(channel: &Channel, from: Offset, layout: &Layout) -> Result<Self, RewriteError> {
        let (mut scan, mut packing) = (Self::default(), Packing::default());
        let reader = each(channel, from, |record| {
            let (region, flags) = record.region();
            if region.len() > layout.max_message_len() {
                scan.too_long.get_or_insert((record.offset(), region.len()));
            }
            packing.place(layout, Record::new(region, flags).words());
            scan.messages += 1;
            scan.bytes += region.len() as u64;
            Ok(())
        })?;
        scan.damaged = reader.damaged();
        scan.pages = packing.pages();
        Ok(scan)
    }
}

/// Reads every message from a place on. Nobody changes the channel.
fn each(
    channel: &Channel,
    from: Offset,
    mut f: impl FnMut(&crate::Record) -> Result<(), RewriteError>,
) -> Result<Reader, RewriteError> {
    let mut reader = channel.reader();
    reader.seek(Start::At(from));
    while let Some(record) = reader.next_before(Offset::from_u64(u64::MAX))? {
        f(&record)?;
    }
    Ok(reader)
}

impl GroupMoved {
    fn planned(group: &GroupProgress) -> Self {
        Self { name: group.name.clone(), from: group.position, to: group.position, attempts_lost: 0 }
    }
}

impl Options {
    /// What is not set is as in a file.
    fn or(self, g: &Geometry) -> Self {
        let time = |asked: Option<Duration>, found: u64| match asked {
            Some(asked) => Some(asked).filter(|asked| !asked.is_zero()),
            None => (found != 0).then(|| Duration::from_millis(found)),
        };
        Self {
            page_size: self.page_size.or(Some(g.page_size)),
            max_pages: self.max_pages.or(Some(g.max_pages)),
            typical_message_len: self.typical_message_len.or(Some(g.typical_message_len)),
            max_groups: self.max_groups.or(Some(g.max_groups)),
            max_opens: self.max_opens.or(Some(g.max_opens)),
            max_op_cells: self.max_op_cells.or(Some(g.max_op_cells)),
            max_held: self.max_held.or(Some(g.max_held)),
            overflow: self.overflow.or(Some(g.overflow)),
            max_age: time(self.max_age, g.max_age),
            lease_timeout: time(self.lease_timeout, g.lease_timeout.into()),
            max_attempts: self.max_attempts.or(Some(g.max_attempts)),
            ..self
        }
    }
}
