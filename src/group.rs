//! Groups: named cursors shared by competing receivers; how one comes and goes, and what it lost.
//!
//! **Invariants.**
//! - A group's live state word `{instance 56, phase 8}` decides whether it is there. The instance
//!   rises with every creation under the same number, so a late receiver of an earlier group of
//!   that number knows itself removed. Words of a group in a page are tagged with the lap and with
//!   the instance's *generation*, 8 bits; when a generation value comes round, the words are
//!   cleared first.
//! - A new group becomes ACTIVE before it raises the epoch in `tail`, and starts at the page that
//!   this read-modify-write returned, or later. A turn of that page either came before, or fails at
//!   its CAS on `tail` and looks at the groups again. Its entry, which joiners find it by, is
//!   written last.
//! - Creating and removing happen under the open lock. Joining takes nothing.
//! - Taking a page away closes the group's cursor in it by one read-modify-write: what was not
//!   claimed by then never will be. A closed cursor stays closed for its lap. Only then are the
//!   RETURNED cells of the page freed, and the loss counted.
//! - Exact counters are derived from words that do not change any more and folded once for each
//!   page, by a CAS from a word tagged with another page to one tagged with this. Whoever counts
//!   reads the counter first and the page number last: while that stands, no later page was folded.
#![forbid(unsafe_code)]

use crate::cells::{ClaimCell, ClaimState, ClaimWord, Kind};
use crate::layout::{
    Acks, ENTRY, GroupCursor, Layout, MAX_GROUP_NAME, MAX_PAGE_NUMBER, Memory, SlotState, Tail,
};
use crate::page::Page;
use crate::ring::Ring;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::{GroupName, Offset, Start};
use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use xxhash_rust::xxh3::xxh3_64;

const STATE: usize = 0;
const START: usize = 1;
const AT: usize = 2;
const RETURNS: usize = 3;
const STARVED: usize = 4;
const CELLS_USED: usize = 5;

const LAGGED: usize = 0;
const REPORTED: usize = 1;
const DAMAGED: usize = 2;
const GONE: usize = 3;
const REDELIVERED: usize = 4;
const LAGGED_BEFORE: usize = 5;

const FREE: u64 = 0;
const ACTIVE: u64 = 1;
const REMOVED: u64 = 2;

fn state(instance: u64, phase: u64) -> u64 {
    instance << 8 | phase
}

/// The bits of a page number that tag a counter.
const PAGE_TAG: u64 = 0xff_ffff;

/// A counter that is folded once a page: `{page tag 24, total 40}`.
fn total(word: u64) -> u64 {
    word & ((1 << 40) - 1)
}

fn counted(page: u64, total: u64) -> u64 {
    page << 40 | total
}

/// Why a group could not be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotCreated {
    /// All numbers are in use.
    TooMany,
    /// Its start lies beyond this end.
    BeyondEnd(Offset),
}

/// A group that somebody works with: its number, and which of the groups of that number it is.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// The words.
    pub mem: Memory<'a>,
    number: usize,
    state: u64,
}

impl<'a> Group<'a> {
    /// The group at this number now, active or removed.
    pub fn at(mem: Memory<'a>, number: usize) -> Option<Self> {
        let state = mem.group_lines(number).0[STATE].load(SeqCst); // ORDER[group state]
        (state & 0xff != FREE).then_some(Self { mem, number, state })
    }

    /// The group that a handle was made for.
    #[inline]
    pub fn of(mem: Memory<'a>, number: usize, state: u64) -> Self {
        Self { mem, number, state }
    }

    /// Its number.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Number and instance, for a handle.
    pub fn state(&self) -> u64 {
        self.state
    }

    /// Whether it was being removed when this was read.
    pub fn is_removed(&self) -> bool {
        self.state & 0xff == REMOVED
    }

    fn instance(&self) -> u64 {
        self.state >> 8
    }

    fn live(&self) -> &'a [AtomicU64] {
        self.mem.group_lines(self.number).0
    }

    fn counters(&self) -> &'a [AtomicU64] {
        self.mem.group_lines(self.number).1
    }

    /// Whether it is still there, as itself.
    #[inline]
    pub fn is_current(&self) -> bool {
        // ORDER[group state] SeqCst: after a claim, see claim.rs.
        self.live()[STATE].load(SeqCst) == self.state
    }

    /// The tag of its words in a page.
    #[inline]
    pub fn tag(&self, page: u64) -> u32 {
        self.mem.layout.group_tag(page, 1 + (self.instance() % 255) as u8)
    }

    /// Its first offset.
    pub fn start(&self) -> Offset {
        Offset::from_u64(self.live()[START].load(Acquire))
    }

    /// Its first index in a page.
    #[inline]
    pub fn start_index(&self, page: u64) -> usize {
        let start = self.start();
        if start.page() == page { start.index() as usize } else { 0 }
    }

    /// A page where its next message may be: not later than that. `{instance 20, page number 44}`.
    pub fn page_hint(&self) -> u64 {
        self.live()[AT].load(Acquire) & MAX_PAGE_NUMBER
    }

    /// Raises the hint, if it still is this group's.
    pub fn raise_page_hint(&self, page: u64) {
        let hint = &self.live()[AT];
        let mut seen = hint.load(Acquire);
        while seen >> 44 == self.hint(0) >> 44 && seen & MAX_PAGE_NUMBER < page {
            match hint.compare_exchange(seen, self.hint(page), AcqRel, Acquire) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    fn hint(&self, page: u64) -> u64 {
        self.instance() << 44 | page
    }

    /// Changes whenever a message was given back.
    #[inline]
    pub fn returns(&self) -> &'a AtomicU64 {
        &self.live()[RETURNS]
    }

    /// Not zero while somebody waits for a claim cell.
    pub fn starved(&self) -> &'a AtomicU64 {
        &self.live()[STARVED]
    }

    /// Above every claim cell that was ever used.
    #[inline]
    pub fn cells_used(&self) -> &'a AtomicU64 {
        &self.live()[CELLS_USED]
    }

    /// Messages that were given back and handed out again.
    pub fn redelivered(&self) -> &'a AtomicU64 {
        &self.counters()[REDELIVERED]
    }

    /// Messages given back after their page had gone.
    pub fn gone(&self) -> &'a AtomicU64 {
        &self.counters()[GONE]
    }

    /// A claim cell.
    #[inline]
    pub fn cell(&self, cell: usize) -> ClaimCell<'a> {
        ClaimCell::new(self.mem, self.number, cell)
    }

    /// The claim cells that may be in use.
    pub fn cells(self) -> impl Iterator<Item = ClaimCell<'a>> {
        let used = self.cells_used().load(Acquire) as usize;
        (0..used.min(self.mem.layout.geometry.max_held)).map(move |c| self.cell(c))
    }

    /// Claim cells whose message is out, and whose message was given back.
    pub fn held_and_returned(self) -> (usize, usize) {
        self.cells().fold((0, 0), |(held, returned), cell| match cell.load().state {
            ClaimState::Held | ClaimState::Intent | ClaimState::Done => (held + 1, returned),
            ClaimState::Returned => (held, returned + 1),
            ClaimState::Free | ClaimState::Taken => (held, returned),
        })
    }

    /// The page at the place of `number`, and the group's cursor word in it.
    #[inline]
    pub fn in_page(&self, number: u64) -> (Page<'a>, &'a AtomicU64) {
        let page = Page::new(self.mem, self.mem.layout.place(number));
        (page, page.word(self.mem.layout.group_cursor_at(self.number)))
    }

    /// The group's cursor in page `number`.
    #[inline]
    pub fn cursor(&self, number: u64, word: u64) -> GroupCursor {
        GroupCursor::of(word, self.tag(number), self.start_index(number))
    }

    /// The ack word of an index, and the bit in it.
    #[inline]
    pub fn ack_word(&self, page: &Page<'a>, index: usize) -> (&'a AtomicU64, u32) {
        (page.word(self.mem.layout.ack_word_at(self.number, index)), 1 << (index % 32))
    }

    /// Whether the group is done with an index of page `number`.
    pub fn is_done(&self, number: u64, index: usize) -> bool {
        if index >= self.mem.layout.slots {
            return true; // an offset that never was
        }
        let page = self.in_page(number).0;
        let (word, bit) = self.ack_word(&page, index);
        Acks::of(word.load(Acquire), self.tag(number)) & bit != 0 // ORDER[ack]
    }

    /// Sets the ack bit of an index, unless the page or the group has gone.
    #[inline]
    pub fn set_done(&self, number: u64, index: usize) {
        if index >= self.mem.layout.slots {
            return;
        }
        let page = self.in_page(number).0;
        let (word, bit) = self.ack_word(&page, index);
        let tag = self.tag(number);
        let mut seen = word.load(Acquire);
        while page.number() == number && self.is_current() {
            let to = Acks::word(tag, Acks::of(seen, tag) | bit);
            // ORDER[ack] Release: the holder's reading of the bytes comes before the turn.
            // SeqCst: before the look for senders that wait for room, ORDER[sleep].
            match word.compare_exchange(seen, to, SeqCst, Acquire) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    /// The last index of page `number` that keeps the group from being done with it. The last, as
    /// groups finish in order: while one is still reading, the answer is found at once.
    pub fn last_unfinished(&self, number: u64) -> Option<usize> {
        let page = self.in_page(number).0;
        let c = page.cursor();
        let first = self.start_index(number);
        let end = c.count.min(self.mem.layout.slots);
        if c.lap != self.mem.layout.cursor_lap(number) || self.start().page() > number {
            return None;
        }
        let tag = self.tag(number);
        for chunk in (first / 32..end.div_ceil(32)).rev() {
            let word = page.word(self.mem.layout.ack_word_at(self.number, chunk * 32));
            let low = first.saturating_sub(chunk * 32).min(32);
            let high = (end - chunk * 32).min(32);
            let wanted = ((1u64 << high) - 1) as u32 & !(((1u64 << low) - 1) as u32);
            let mut open = wanted & !Acks::of(word.load(Acquire), tag); // ORDER[ack]
            while open != 0 {
                let bit = 31 - open.leading_zeros();
                let index = chunk * 32 + bit as usize;
                match page.slot(number, index) {
                    SlotState::Skipped | SlotState::Damaged => open &= !(1 << bit),
                    SlotState::Untouched | SlotState::Committed(_) => return Some(index),
                }
            }
        }
        None
    }

    /// Turns DONE cells into ack bits, for holders that were stopped in between.
    pub fn settle_done_cells(self) {
        for cell in self.cells() {
            if let Some((word, offset)) = cell.read()
                && word.state == ClaimState::Done
            {
                let offset = Offset::from_u64(offset);
                self.set_done(offset.page(), offset.index() as usize);
                // The cell was this group's when it was read, if the group is there still.
                if self.is_current() {
                    cell.free(word);
                }
            }
        }
    }

    /// Whether a message of this removed group may still be in use where it lies in page `number`.
    pub fn holds_message_in(self, number: u64) -> bool {
        // ORDER[group state] SeqCst, with the fence after a claim: either the claimer sees the
        // group removed and lets go, or its INTENT is seen here.
        fence(SeqCst);
        self.cells().any(|cell| match cell.read() {
            None => true,
            Some((word, offset)) => {
                word.kind == Kind::Message
                    && matches!(word.state, ClaimState::Intent | ClaimState::Held)
                    && Offset::from_u64(offset).page() == number
            }
        })
    }

    /// Closes the group's cursor in page `number`.
    fn close_in(&self, number: u64) {
        let (page, word) = self.in_page(number);
        loop {
            let seen = word.load(Acquire); // ORDER[claim]
            let cursor = self.cursor(number, seen);
            if cursor.closed || page.number() != number || !self.is_here() {
                return;
            }
            self.complete_last(number, cursor);
            let closed = GroupCursor { closed: true, cell: None, ..cursor };
            // SeqCst: against a message being given back, see `lose_returned`.
            let _ = word.compare_exchange(seen, closed.word(self.tag(number)), SeqCst, Relaxed);
        }
    }

    /// Makes the claim that the cursor names HELD, as everybody does before moving it.
    #[inline]
    pub fn complete_last(&self, number: u64, cursor: GroupCursor) {
        if let Some(cell) = cursor.cell.filter(|&c| c < self.mem.layout.geometry.max_held) {
            self.cell(cell).complete(number, cursor);
        }
    }

    /// Whether the group lost page `number`, or it was turned.
    pub fn has_lost(&self, number: u64) -> bool {
        let (page, word) = self.in_page(number);
        let cursor = self.cursor(number, word.load(SeqCst)); // after a give back: see `close_in`
        cursor.closed || page.number() != number
    }

    /// Frees a RETURNED cell whose page has gone, and counts it. The cell was read before the group
    /// was last seen to be there.
    pub fn lose_returned(&self, cell: ClaimCell<'a>, word: ClaimWord) {
        if cell.free(word) {
            self.gone().fetch_add(1, Relaxed); // a statistic
        }
    }

    /// Whether the number is still this group's: active, or removed and not yet given to another.
    fn is_here(&self) -> bool {
        self.live()[STATE].load(SeqCst) >> 8 == self.instance() // ORDER[group state]
    }

    /// Takes page `number` away from the group, and counts what it had not been given. Every slot
    /// of the page is resolved.
    pub fn take_page_away(self, number: u64) {
        if self.start().page() > number {
            return;
        }
        self.close_in(number);
        for cell in self.cells() {
            if let Some((word, offset)) = cell.read()
                && word.state == ClaimState::Returned
                && Offset::from_u64(offset).page() == number
                && self.is_here()
            {
                self.lose_returned(cell, word);
            }
        }
        self.fold(LAGGED, number, |page, index| {
            matches!(page.slot(number, index), SlotState::Committed(_)) && !self.is_done(number, index)
        });
        self.fold_damage(number);
    }

    /// Counts the damaged messages of page `number`, before it is turned.
    pub fn fold_damage(&self, number: u64) {
        let page = self.in_page(number).0;
        if page.word(Layout::PAGE_DAMAGE_SEEN).load(Acquire) == number + 1 {
            self.fold(DAMAGED, number, |page, index| {
                page.slot(number, index) == SlotState::Damaged && !self.is_done(number, index)
            });
        }
    }

    /// Adds to a counter, once for page `number`, the indexes that `counts`: of what was lost, from
    /// the group's closed cursor on; of what was damaged, all.
    fn fold(&self, counter: usize, number: u64, counts: impl Fn(&Page<'a>, usize) -> bool) {
        let (page, word) = self.in_page(number);
        let total_word = &self.counters()[counter];
        loop {
            let before = total_word.load(Acquire); // ORDER[fold]
            if before >> 40 == number & PAGE_TAG || self.start().page() > number || !self.is_here() {
                return;
            }
            let cursor = self.cursor(number, word.load(Acquire));
            let first = if counter == LAGGED { cursor.index } else { self.start_index(number) };
            let end = page.cursor().count.min(self.mem.layout.slots);
            let n = (first..end).filter(|&i| counts(&page, i)).count() as u64;
            fence(Acquire);
            if page.number() != number {
                return;
            }
            let after = counted(number, total(before) + n);
            if total_word.compare_exchange(before, after, AcqRel, Relaxed).is_ok() {
                return; // ORDER[fold]
            }
        }
    }

    /// The messages lost since this was last asked; the one who is told is the only one.
    #[inline]
    pub fn unreported_loss(&self) -> Option<u64> {
        let counters = self.counters();
        let reported = counters[REPORTED].load(Acquire);
        let lost = total(counters[LAGGED].load(Acquire)); // ORDER[fold]
        // The totals go on over all groups of a number: a late receiver of an earlier one fails here,
        // as the group after it began by raising what is reported.
        let told = lost > reported
            && self.is_current()
            && counters[REPORTED].compare_exchange(reported, lost, AcqRel, Relaxed).is_ok();
        told.then(|| lost - reported)
    }

    /// Messages lost because their page was dropped.
    pub fn lagged(&self) -> u64 {
        let before = self.counters()[LAGGED_BEFORE].load(Acquire);
        total(self.counters()[LAGGED].load(Acquire)).saturating_sub(before)
    }

    /// Messages passed over because they did not verify, in pages that were turned.
    pub fn damaged(&self) -> u64 {
        total(self.counters()[DAMAGED].load(Acquire))
    }

    /// Committed messages that the group is not done with, and places between its first
    /// unfinished one and the end.
    pub fn lag(&self, ring: &Ring<'a>) -> u64 {
        ring.pages().filter(|&n| n >= self.start().page()).map(|n| self.lag_in(n)).sum()
    }

    fn lag_in(&self, number: u64) -> u64 {
        let page = self.in_page(number).0;
        let end = page.cursor().count.min(self.mem.layout.slots);
        let open = (self.start_index(number)..end)
            .filter(|&i| matches!(page.slot(number, i), SlotState::Committed(_)) && !self.is_done(number, i));
        let open = open.count() as u64;
        if page.number() == number { open } else { 0 }
    }

    /// Places between the group's cursor and the end: messages not yet handed out, and places
    /// skipped. Cheap.
    pub fn behind(&self, ring: &Ring<'a>) -> u64 {
        let first = self.start();
        let pages = ring.pages().filter(|&n| n >= first.page());
        let behind = pages.map(|n| {
            let (page, word) = self.in_page(n);
            let end = page.cursor().count.min(self.mem.layout.slots);
            end.saturating_sub(self.cursor(n, word.load(Acquire)).index) as u64
        });
        behind.sum()
    }

    // What follows happens under the open lock, except `find`.

    fn entry_name(mem: Memory<'a>, number: usize, instance: u64) -> Option<GroupName> {
        (0..2).find_map(|copy| {
            let words = mem.group_entry(number, copy);
            let words: [u64; ENTRY] = std::array::from_fn(|i| words[i].load(Acquire));
            let bytes: Vec<u8> = words[..ENTRY - 1].iter().flat_map(|w| w.to_le_bytes()).collect();
            let len = words[1] as usize;
            let good = xxh3_64(&bytes) == words[ENTRY - 1] && words[0] == instance;
            let name = (good && len <= MAX_GROUP_NAME).then(|| &bytes[24..24 + len])?;
            std::str::from_utf8(name).ok().map(GroupName::from)
        })
    }

    fn write_entry(mem: Memory<'a>, number: usize, instance: u64, name: &str, start: Offset) {
        let mut bytes = [0; ENTRY * 8];
        bytes[..8].copy_from_slice(&instance.to_le_bytes());
        bytes[8..16].copy_from_slice(&(name.len() as u64).to_le_bytes());
        bytes[16..24].copy_from_slice(&start.as_u64().to_le_bytes());
        bytes[24..24 + name.len()].copy_from_slice(name.as_bytes());
        let check = xxh3_64(&bytes[..ENTRY * 8 - 8]);
        bytes[ENTRY * 8 - 8..].copy_from_slice(&check.to_le_bytes());
        for copy in 0..2 {
            for (word, bytes) in mem.group_entry(number, copy).iter().zip(bytes.as_chunks::<8>().0) {
                word.store(u64::from_le_bytes(*bytes), Release);
            }
        }
    }

    /// Its name.
    pub fn name(&self) -> Option<GroupName> {
        Self::entry_name(self.mem, self.number, self.instance())
    }

    /// The active groups.
    pub fn all(mem: Memory<'a>) -> impl Iterator<Item = Self> {
        (0..mem.layout.geometry.max_groups).filter_map(move |g| Self::at(mem, g)).filter(|g| !g.is_removed())
    }

    /// The active group of that name.
    pub fn find(mem: Memory<'a>, name: &GroupName) -> Option<Self> {
        Self::all(mem).find(|g| g.name().as_ref() == Some(name) && g.is_current())
    }

    /// Creates a group; its entry still has to be synced.
    pub fn create(ring: &Ring<'a>, name: &GroupName, start: Start) -> Result<Self, NotCreated> {
        let mem = ring.mem;
        let number = (0..mem.layout.geometry.max_groups).find(|&g| Self::is_vacant(mem, g));
        let number = number.ok_or(NotCreated::TooMany)?;
        let group = Self::activate(ring, number)?;
        let oldest = group.start();
        let first = match start {
            Start::Oldest => oldest,
            Start::Newest => ring.end(),
            Start::At(offset) => offset.max(oldest),
        };
        if first > ring.end() {
            group.live()[STATE].store(state(group.instance(), FREE), SeqCst);
            return Err(NotCreated::BeyondEnd(ring.end()));
        }
        group.settle_start(ring, first);
        Self::write_entry(mem, number, group.instance(), name.as_str(), group.start());
        Ok(group)
    }

    /// Makes a number that is not in use a group, which starts at the oldest page and has no name.
    pub fn activate(ring: &Ring<'a>, number: usize) -> Result<Self, NotCreated> {
        let mem = ring.mem;
        let live = mem.group_lines(number).0;
        let instance = (live[STATE].load(SeqCst) >> 8) + 1;
        if instance.is_multiple_of(255) {
            Self::clear_words(mem, number);
        }
        let group = Self { mem, number, state: state(instance, ACTIVE) };
        live[START].store(Offset::new(ring.tail().page, 0).as_u64(), Release);
        live[AT].store(group.hint(ring.tail().page), Release);
        for counter in [GONE, REDELIVERED] {
            group.counters()[counter].store(0, Relaxed); // ORDER[group state] publishes them
        }
        group.starved().store(0, Relaxed);
        live[STATE].store(group.state, SeqCst); // ORDER[group state]
        // ORDER[tail] SeqCst: after ACTIVE, before the start is settled.
        let oldest = Tail::of(mem.tail().fetch_add(Tail::EPOCH_STEP, SeqCst)).page;
        group.settle_start(ring, Offset::new(oldest, 0));
        Ok(group)
    }

    /// Settles where a group starts that nobody has joined yet: at `first`, or at the first page
    /// behind it that is not taken away meanwhile. What was counted as lost so far is not its loss.
    fn settle_start(&self, ring: &Ring<'a>, mut first: Offset) {
        let counters = self.counters();
        loop {
            self.live()[START].store(first.as_u64(), Release);
            let lagged = counters[LAGGED].load(Acquire);
            if lagged >> 40 == first.page() & PAGE_TAG && ring.tail().page <= first.page() && self.is_closed_in(first) {
                first = Offset::new(first.page() + 1, 0);
                continue;
            }
            // ORDER[fold] Another word than any before, so that a fold that has not seen the new
            // start fails.
            let lost = total(lagged) + 1;
            let before = counted(first.page().wrapping_sub(1), lost);
            if counters[LAGGED].compare_exchange(lagged, before, AcqRel, Relaxed).is_err() {
                continue;
            }
            counters[REPORTED].store(lost, Release);
            counters[LAGGED_BEFORE].store(lost, Release);
            counters[DAMAGED].store(counted(first.page().wrapping_sub(1), 0), Release);
            let tail = ring.tail().page;
            if tail <= first.page() {
                break;
            }
            first = Offset::new(tail, 0);
        }
        self.live()[AT].store(self.hint(first.page()), Release);
    }

    fn is_closed_in(&self, first: Offset) -> bool {
        let word = self.in_page(first.page()).1;
        self.cursor(first.page(), word.load(Acquire)).closed
    }

    fn is_vacant(mem: Memory<'a>, number: usize) -> bool {
        Self::at(mem, number).is_none_or(|g| g.is_removed() && g.cells().all(|c| c.load().state == ClaimState::Free))
    }

    fn clear_words(mem: Memory<'a>, number: usize) {
        for place in 0..mem.layout.geometry.max_pages {
            let page = Page::new(mem, place);
            for at in mem.layout.group_words(number) {
                page.word(at).store(0, SeqCst); // nobody works with this number: no group has it
            }
        }
    }

    /// Removes the group; its entry still has to be synced. Its cells are free when those who hold
    /// messages let go of them.
    pub fn remove(self, ring: &Ring<'a>) {
        self.deactivate(ring);
        Self::write_entry(self.mem, self.number, 0, "", Offset::new(0, 0));
        self.vacate();
    }

    /// Frees the number of a removed group that nobody holds anything of.
    fn vacate(self) {
        if self.cells().all(|c| c.load().state == ClaimState::Free) {
            self.live()[STATE].store(state(self.instance(), FREE), SeqCst);
        }
    }

    fn free_returned(self) {
        for cell in self.cells() {
            if let word @ ClaimWord { state: ClaimState::Returned, .. } = cell.load() {
                cell.free(word);
            }
        }
    }

    /// Finishes what one began who died while it created or removed a group.
    pub fn repair(ring: &Ring<'a>) {
        for group in (0..ring.mem.layout.geometry.max_groups).filter_map(|g| Self::at(ring.mem, g)) {
            if group.name().is_none() {
                group.deactivate(ring);
                group.free_returned();
                group.vacate();
            }
        }
    }

    /// Takes everything away from the group that nobody holds.
    pub fn deactivate(self, ring: &Ring<'a>) {
        let removed = state(self.instance(), REMOVED);
        // ORDER[group state] SeqCst: before the cursors are closed.
        self.live()[STATE].store(removed, SeqCst);
        for number in ring.pages() {
            self.close_in(number);
        }
        self.free_returned();
    }
}
