//! The words of a file: what every protocol works on, wherever they lie.
#![forbid(unsafe_code)]

use crate::layout::{BLOCK, Cursor, ENTRY, Head, LINE, Layout, PAGE_LIMIT_STEP, PageState, Tail};
use crate::page::Page;
use crate::sync::Ordering::{Acquire, Release};
use crate::sync::{AtomicU32, AtomicU64};

/// Where the parts of a file lie in this process.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Where things lie in the parts.
    pub layout: &'a Layout,
    /// The control part.
    pub control: &'a [AtomicU64],
    /// The wake words.
    pub wake: &'a [AtomicU32],
    /// The pages.
    pub pages: &'a [AtomicU64],
    /// The channel's own number, part of every checksum.
    pub uuid: [u64; 2],
}

/// The words of a file, wherever they lie: what every protocol works on.
///
/// Cheap to copy. In a process that opened a file they are the mapping; in a model they are a
/// vector of loom's atomics.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a>(&'a Parts<'a>);

impl<'a> std::ops::Deref for Memory<'a> {
    type Target = Parts<'a>;

    #[inline]
    fn deref(&self) -> &Parts<'a> {
        self.0
    }
}

impl<'a> Memory<'a> {
    /// The words of these parts.
    #[inline]
    pub fn new(parts: &'a Parts<'a>) -> Self {
        Self(parts)
    }

    /// The words of a channel line.
    #[inline]
    fn channel_line(&self, line: usize) -> &'a [AtomicU64] {
        let at = 2 * BLOCK + line * LINE;
        &self.control[at..at + LINE]
    }

    /// The words of the channel lines.
    pub fn channel_words(&self) -> &'a [AtomicU64] {
        &self.control[2 * BLOCK..3 * BLOCK]
    }

    /// The page that senders write: a [`Head`].
    #[inline]
    pub fn head(&self) -> &'a AtomicU64 {
        &self.channel_line(0)[0]
    }

    /// The oldest page: a [`Tail`].
    #[inline]
    pub fn tail(&self) -> &'a AtomicU64 {
        &self.channel_line(1)[0]
    }

    /// Whether a receiver sleeps anywhere, and whether a sender waits for room anywhere: two flag
    /// words on one line, see `wait.rs`.
    #[inline]
    pub fn sleepers(&self) -> [&'a AtomicU64; 2] {
        let line = self.channel_line(2);
        [&line[0], &line[1]]
    }

    /// How often senders went on to another page. The line has room for further counters.
    #[inline]
    pub fn page_turns(&self) -> &'a AtomicU64 {
        &self.channel_line(3)[0]
    }

    /// How often the file was synced for a sender, and how long that took together, in microseconds.
    pub fn syncs(&self) -> [&'a AtomicU64; 2] {
        let line = self.channel_line(3);
        [&line[1], &line[2]]
    }

    /// How often a sender waited for room, and how long that took together, in microseconds.
    pub fn waits_for_room(&self) -> [&'a AtomicU64; 2] {
        let line = self.channel_line(3);
        [&line[3], &line[4]]
    }

    /// The first page number that may not open until the limit is raised and synced.
    #[inline]
    pub fn page_limit(&self) -> &'a AtomicU64 {
        &self.channel_line(4)[0]
    }

    /// The first page number of the era that a recovery began; 0 if there was none. See
    /// [`following`](Self::following).
    #[inline]
    pub fn era(&self) -> &'a AtomicU64 {
        &self.channel_line(4)[3]
    }

    /// The number that comes up after page `number`, once that is the newest: at the next place.
    pub fn following(&self, number: u64) -> u64 {
        (number + 1).max(self.era().load(Acquire)) // the open lock orders it: it is stored at open
    }

    /// The number that comes up at the place of page `number` after it.
    pub fn comes_after(&self, number: u64) -> u64 {
        self.layout.comes_after(self.era().load(Acquire), number) // as above
    }

    /// Whether no turn of page `number` had begun when this was read: it begins with the tail.
    #[inline]
    pub fn is_live(&self, number: u64) -> bool {
        let there = Page::new(*self, self.layout.place(number)).number();
        there == number && Tail::of(self.tail().load(Acquire)).page <= number // ORDER[tail]
    }

    /// Not zero once a sync failed: the error number of the system, plus one. Then what memory says is
    /// not what the disk has, and nothing is done but recovery.
    #[inline]
    pub fn poison(&self) -> &'a AtomicU64 {
        &self.channel_line(4)[4]
    }

    /// Every message below this offset is on stable storage.
    #[inline]
    pub fn durable_end(&self) -> &'a AtomicU64 {
        &self.channel_line(5)[0]
    }

    /// Above every entry of an open that was ever used.
    #[inline]
    pub fn opens_used(&self) -> &'a AtomicU64 {
        &self.channel_line(4)[1]
    }

    /// Above every op cell that was ever used.
    #[inline]
    pub fn op_cells_used(&self) -> &'a AtomicU64 {
        &self.channel_line(4)[2]
    }

    /// The line of an open.
    #[inline]
    pub fn open(&self, open: usize) -> &'a [AtomicU64] {
        let at = self.layout.opens + open * LINE;
        &self.control[at..at + LINE]
    }

    /// The futex word of an open.
    #[inline]
    pub fn wake_word(&self, open: usize) -> &'a AtomicU32 {
        &self.wake[open * LINE * 2]
    }

    /// An op cell: state word, operand.
    #[inline]
    pub fn op_cell(&self, cell: usize) -> (&'a AtomicU64, &'a AtomicU64) {
        let at = self.layout.op_cells + cell * LINE;
        let line = &self.control[at..at + 2];
        (&line[0], &line[1])
    }

    /// A group's live words: the read-mostly line, then the line of counters.
    #[inline]
    pub fn group_lines(&self, group: usize) -> (&'a [AtomicU64; LINE], &'a [AtomicU64; LINE]) {
        let at = self.layout.group_lines + group * 2 * LINE;
        let (lines, _) = self.control[at..at + 2 * LINE].as_chunks();
        (&lines[0], &lines[1])
    }

    /// One copy of a group's entry.
    #[inline]
    pub fn group_entry(&self, group: usize, copy: usize) -> &'a [AtomicU64] {
        let at = self.layout.group_entries + (group * 2 + copy) * ENTRY;
        &self.control[at..at + ENTRY]
    }

    /// The byte range of one copy of a group's entry in the file.
    #[inline]
    pub fn group_entry_bytes(&self, group: usize, copy: usize) -> std::ops::Range<usize> {
        let at = (self.layout.group_entries + (group * 2 + copy) * ENTRY) * 8;
        at..at + ENTRY * 8
    }

    /// A claim cell: state word, offset, time of taking, three counters, extent, what is done.
    #[inline]
    pub fn claim_cell(&self, group: usize, cell: usize) -> &'a [AtomicU64; 8] {
        let at = self.layout.claim_cells + (group * self.layout.geometry.max_held + cell) * LINE;
        self.control[at..].first_chunk().expect("a line has more words than that")
    }

    /// The words of the page at a place, among those of the pages.
    #[inline]
    pub fn page_words(&self, place: usize) -> std::ops::Range<usize> {
        let at = place * self.layout.page_words;
        at..at + self.layout.page_words
    }
}

impl Memory<'_> {
    /// Writes what a new, zeroed channel is not zero in: its pages' numbers and states.
    #[inline]
    pub fn format(&self, first_page: u64) {
        let l = self.layout;
        for number in first_page..first_page + l.geometry.max_pages as u64 {
            let page = Page::new(*self, l.place(number));
            let state = if number == first_page { PageState::Open } else { PageState::Prepared };
            let cursor = Cursor { state, lap: l.cursor_lap(number), count: 0, units: 0 };
            page.number_word().store(number, Release);
            page.cursor_word().store(l.cursor_word(cursor), Release);
        }
        self.head().store(Head { closed: false, epoch: 0, page: first_page }.word(), Release);
        self.tail().store(Tail { epoch: 0, page: first_page }.word(), Release);
        self.page_limit().store(first_page.saturating_add(PAGE_LIMIT_STEP), Release);
        self.durable_end().store(crate::Offset::new(first_page, 0).as_u64(), Release);
    }
}
