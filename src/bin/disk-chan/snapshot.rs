//! How a channel stands at a moment, for `info` and `top`; and keeping a file in sight while it is recovered,
//! replaced, or away for a while.
//!
//! Only places and counters are looked at, no message; and what relays say of themselves.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use disk_chan::relay::RelayStatus;
use disk_chan::{Channel, Geometry, GroupStats, Offset, PageInfo, RecoveryReport, Start, Stats};

use crate::Outcome;
use crate::face::{self, NotFound};

/// What a rate is taken over, as far as the ring goes back.
const RECENTLY: Duration = Duration::from_secs(10);
/// Looking takes at most this part of the time: so many times what it took is waited before it is done again.
pub const SELDOM: u32 = 10;
/// A file that somebody else has to recover is opened again not before.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// How a channel stood.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was looked at.
    pub at: Instant,
    /// The same by the clock that messages have.
    pub time: SystemTime,
    pub geometry: Geometry,
    pub max_message_len: usize,
    pub stats: Stats,
    /// In the order of their names.
    pub groups: Vec<GroupNow>,
    /// Oldest first.
    pub pages: Vec<PageInfo>,
    /// What a recovery would do, if the file wants one.
    pub recovered: Option<RecoveryReport>,
    /// Messages that were sent lately.
    pub recent: u64,
    /// How long it took to send them.
    pub recent_time: Duration,
}

/// How a group stood.
#[derive(Clone, Debug)]
pub struct GroupNow {
    pub stats: GroupStats,
    /// The first place that it was not done with.
    pub position: Offset,
    /// How its relay stands, if it has had one.
    pub relay: Option<RelayStatus>,
}

impl Snapshot {
    pub fn take(channel: &Channel) -> Self {
        let (at, time) = (Instant::now(), SystemTime::now());
        let mut groups = channel.groups();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        let positions = channel.group_positions();
        let relays = channel.relays();
        let group = |stats: GroupStats| {
            let position = positions.iter().find(|(name, _)| *name == stats.name)?.1;
            let relay = relays.iter().find(|relay| relay.group == stats.name).cloned();
            Some(GroupNow { stats, position, relay })
        };
        let mut now = Self {
            at,
            time,
            geometry: channel.geometry(),
            max_message_len: channel.max_message_len(),
            stats: channel.stats(),
            groups: groups.into_iter().filter_map(group).collect(),
            pages: channel.pages(),
            recovered: channel.recovered().cloned(),
            recent: 0,
            recent_time: RECENTLY,
        };
        let mut reader = channel.reader();
        reader.seek(Start::Time(time.checked_sub(RECENTLY).unwrap_or(SystemTime::UNIX_EPOCH)));
        now.count_recent(reader.offset());
        now
    }

    fn count_recent(&mut self, from: Offset) {
        self.recent = self.behind(from);
        // A ring that has turned once may not go back so far.
        let Some(oldest) = self.pages.iter().find_map(|page| page.oldest) else { return };
        if self.recent == self.messages() && self.stats.page_turns >= self.geometry.max_pages as u64 {
            let since = self.time.duration_since(oldest).unwrap_or_default();
            self.recent_time = since.clamp(Duration::from_millis(10), RECENTLY);
        }
    }

    /// Messages at a place and behind it, but for places skipped.
    fn behind(&self, from: Offset) -> u64 {
        let pages = self.pages.iter().filter(|page| page.number >= from.page());
        let of_page = |page: &PageInfo| match page.number == from.page() {
            true => page.len.saturating_sub(from.index()),
            false => page.len,
        };
        pages.map(of_page).sum()
    }

    /// Messages in the ring.
    pub fn messages(&self) -> u64 {
        self.pages.iter().map(|page| page.len).sum()
    }

    /// Bytes of their records.
    pub fn bytes(&self) -> u64 {
        self.pages.iter().map(|page| page.bytes).sum()
    }

    /// Messages sent a second, lately.
    pub fn rate(&self) -> f64 {
        self.recent as f64 / self.recent_time.as_secs_f64()
    }

    /// How long ago something was; nothing if that is still to come.
    pub fn age(&self, time: SystemTime) -> Duration {
        self.time.duration_since(time).unwrap_or_default()
    }

    /// How much of the ring the slowest group has before it, from 0 to 1. Where a full ring blocks senders, they wait
    /// at 1. Without a group nobody has read anything.
    pub fn unread(&self) -> f64 {
        let slowest = self.groups.iter().map(|group| group.position).min().unwrap_or_default();
        let unread = |page: &PageInfo| {
            // Nothing more comes to a page that is sealed.
            let used = if page.sealed { 1.0 } else { self.page_fill(page) };
            match page.number == slowest.page() {
                true => used * (1.0 - (slowest.index() as f64 / page.len.max(1) as f64).min(1.0)),
                false => used,
            }
        };
        let pages = self.pages.iter().filter(|page| page.number >= slowest.page());
        pages.map(unread).sum::<f64>() / self.geometry.max_pages as f64
    }

    /// How full a page is, from 0 to 1.
    pub fn page_fill(&self, page: &PageInfo) -> f64 {
        let part = |used: u64, of: u64| (used as f64 / of.max(1) as f64).min(1.0);
        part(page.bytes, self.geometry.page_bytes).max(part(page.len, self.geometry.page_messages))
    }

    /// How the channel is, in a few words.
    pub fn state(&self) -> String {
        let opens = match self.stats.opens {
            0 => "not open".into(),
            1 => "open once".into(),
            2 => "open twice".into(),
            n => format!("open {n} times"),
        };
        let closed = if self.stats.closed { ", closed" } else { "" };
        let recovery = if self.recovered.is_some() { ", wants recovery" } else { "" };
        format!("{opens}{closed}{recovery}")
    }
}

/// A file that is looked at again and again.
pub struct Watched {
    path: PathBuf,
    open: Option<Open>,
}

struct Open {
    channel: Channel,
    file: Metadata,
    /// When it was opened, and how long that took.
    at: Instant,
    took: Duration,
}

impl Watched {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    /// The channel that is there now, and whether it was opened for this: it can be another one then.
    ///
    /// One that wants recovery is looked at in memory, where nothing changes: it is opened again now and then.
    pub fn look(&mut self) -> Outcome<(&Channel, bool)> {
        let file = match fs::symlink_metadata(&self.path) {
            Ok(file) => file,
            Err(error) => {
                self.open = None;
                return Err(match error.kind() {
                    std::io::ErrorKind::NotFound => NotFound(format!("{}: is not there", self.path.display())).into(),
                    _ => format!("{}: {error}", self.path.display()).into(),
                });
            }
        };
        // What was cut short must not be looked at through the old map.
        let (open, is_new) = match self.open.take().filter(|open| !open.is_outdated(&file)) {
            Some(open) => (open, false),
            None => {
                let at = Instant::now();
                let channel = face::look_at(&self.path)?;
                (Open { channel, file, took: at.elapsed(), at: Instant::now() }, true)
            }
        };
        Ok((&self.open.insert(open).channel, is_new))
    }
}

impl Open {
    fn is_outdated(&self, file: &Metadata) -> bool {
        let is_other = (file.dev(), file.ino()) != (self.file.dev(), self.file.ino()) || file.len() < self.file.len();
        let wait = (self.took * SELDOM).max(REOPEN_AFTER);
        is_other || self.channel.recovered().is_some() && self.at.elapsed() > wait
    }
}
