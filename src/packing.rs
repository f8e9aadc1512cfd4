//! Where messages come to lie that are written into an empty channel, one behind the other.
//!
//! **Invariants.**
//! - As with `Page::reserve` and `Page::write` for one sender: a page takes a message as long as it has a slot and
//!   the words for it; else the next page does.
//! - Where each message was and where it is now are kept as runs in which both rise by one: as many as there are
//!   pages and holes, not messages.
#![forbid(unsafe_code)]

use crate::Offset;
use crate::layout::Layout;
use std::ops::Range;

/// Where the next message goes.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    page: u64,
    count: usize,
    units: usize,
}

impl Packing {
    /// Places a message whose record has so many words.
    pub fn place(&mut self, layout: &Layout, words: usize) -> Offset {
        if self.count >= layout.slots || self.units + words > layout.data_words {
            *self = Self { page: self.page + 1, count: 0, units: 0 };
        }
        let at = Offset::new(self.page, self.count);
        (self.count, self.units) = (self.count + 1, self.units + words);
        at
    }

    /// Pages that are needed so far.
    pub fn pages(&self) -> u64 {
        self.page + 1
    }
}

#[derive(Clone, Debug)]
struct Run {
    old: u64,
    new: u64,
    len: u64,
}

/// Where messages were, and where they are now.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    runs: Vec<Run>,
}

impl Moved {
    /// A message more, behind all others.
    pub fn push(&mut self, old: Offset, new: Offset) {
        let (old, new) = (old.as_u64(), new.as_u64());
        match self.runs.last_mut() {
            Some(run) if old - run.old == run.len && new - run.new == run.len => run.len += 1,
            _ => self.runs.push(Run { old, new, len: 1 }),
        }
    }

    /// The last message, where it was.
    pub fn last(&self) -> Option<Offset> {
        self.runs.last().map(|run| Offset::from_u64(run.old + (run.len - 1)))
    }

    /// Where the first message is now that was at an offset or behind it; nothing if there is none.
    pub fn from(&self, old: Offset) -> Option<Offset> {
        self.between(old..Offset::from_u64(u64::MAX)).next().map(|(_, new)| new)
    }

    /// The messages that were at these offsets, and where they are now.
    pub fn between(&self, old: Range<Offset>) -> impl Iterator<Item = (Offset, Offset)> {
        let (from, to) = (old.start.as_u64(), old.end.as_u64());
        let first = self.runs.partition_point(|run| run.old.saturating_add(run.len) <= from);
        let runs = self.runs[first..].iter().take_while(move |run| run.old < to);
        runs.flat_map(move |run| {
            let range = from.saturating_sub(run.old)..run.len.min(to - run.old);
            range.map(|n| (Offset::from_u64(run.old + n), Offset::from_u64(run.new + n)))
        })
    }
}
