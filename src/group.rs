//! Groups: named cursors shared by competing receivers; what each is done with, and what it lost.
//! How one comes and goes is in `lifecycle.rs`.
//!
//! **Invariants.**
//! - A group's live state word `{instance 56, phase 8}` decides whether it is there. The instance
//!   rises with every creation under the same number, so a late receiver of an earlier group of
//!   that number knows itself removed. Words of a group in a page are tagged with the lap and with
//!   the instance's *generation*, 8 bits; when a generation value comes round, the words are
//!   cleared first.
//! - Taking a page away closes the group's cursor in it by one read-modify-write, which says why: what was
//!   not claimed by then never will be. A closed cursor stays closed for its lap, and stays what it says.
//!   Only then are the RETURNED cells of the page freed, and the loss counted: as that for which the page was
//!   taken away, whoever counts.
//! - Exact counters are derived from words that do not change any more and folded once for each
//!   page, by a CAS from a word tagged with another page to one tagged with this. Whoever counts
//!   reads the counter first, and last that the page is the oldest still: while that stands, no later page
//!   was folded, as only the oldest is ever taken away. (The newest can be taken away and not turned, in a
//!   closed channel: then it is the oldest, too, and stays that until it is turned. The page number does not
//!   tell: the next page may be taken away while the turn of this one has begun and not ended.)
#![forbid(unsafe_code)]

use crate::Offset;
use crate::cells::{ClaimCell, ClaimState, ClaimWord, Count, Kind};
use crate::layout::{Acks, GroupCursor, LINE, Layout, Loss, MAX_PAGE_NUMBER, SlotState};
use crate::memory::Memory;
use crate::page::Page;
use crate::ring::Ring;
use crate::sync::{AtomicU64, Ordering, fence};
use Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use std::cmp::Ordering::{Equal, Greater, Less};
use std::collections::HashSet;

pub(crate) const STATE: usize = 0;
pub(crate) const START: usize = 1;
pub(crate) const AT: usize = 2;
const RETURNS: usize = 3;
const STARVED: usize = 4;
const CELLS_USED: usize = 5;
/// Who holds it, where it is a partition: holder.rs.
pub(crate) const HOLDER: usize = 6;

pub(crate) const LAGGED: usize = 0;
pub(crate) const REPORTED: usize = 1;
pub(crate) const DAMAGED: usize = 2;
pub(crate) const LAGGED_BEFORE: usize = 3;
/// Where the counters of the claim cells stood when the group was created: three, behind each other.
pub(crate) const COUNTED_BEFORE: usize = 4;
pub(crate) const EXPIRED: usize = 7;

pub(crate) const FREE: u64 = 0;
pub(crate) const ACTIVE: u64 = 1;
pub(crate) const REMOVED: u64 = 2;

pub(crate) fn state(instance: u64, phase: u64) -> u64 {
    instance << 8 | phase
}

/// What a group is not done with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the first of them was sent, in unix milliseconds.
    pub oldest: Option<u64>,
}

/// The bits of a counter that count; they wrap, and only differences of them mean anything.
const TOTAL: u64 = (1 << 40) - 1;
/// The bits of a page number that tag a counter.
pub(crate) const PAGE_TAG: u64 = 0xff_ffff;

/// A counter that is folded once a page: `{page tag 24, total 40}`.
pub(crate) fn total(word: u64) -> u64 {
    word & TOTAL
}

pub(crate) fn counted(page: u64, total: u64) -> u64 {
    page << 40 | total & TOTAL
}

/// A group that somebody works with: its number, and which of the groups of that number it is.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// The words.
    pub mem: Memory<'a>,
    pub(crate) number: usize,
    pub(crate) state: u64,
    /// Its line of live words, found once.
    pub(crate) live: &'a [AtomicU64; LINE],
}

impl<'a> Group<'a> {
    /// The group at this number now, active or removed.
    pub fn at(mem: Memory<'a>, number: usize) -> Option<Self> {
        Some(Self::any(mem, number)).filter(|group| group.state & 0xff != FREE)
    }

    /// Whatever is or was at this number.
    pub fn any(mem: Memory<'a>, number: usize) -> Self {
        let live = mem.group_lines(number).0;
        let state = live[STATE].load(SeqCst); // ORDER[group state]
        Self { mem, number, state, live }
    }

    /// The group that a handle was made for.
    #[inline]
    pub fn of(mem: Memory<'a>, number: usize, state: u64) -> Self {
        Self { mem, number, state, live: mem.group_lines(number).0 }
    }

    /// Its number.
    #[inline]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Number and instance, for a handle.
    #[inline]
    pub fn state(&self) -> u64 {
        self.state
    }

    /// Whether it was removed when this was read.
    pub fn is_removed(&self) -> bool {
        self.state & 0xff != ACTIVE
    }

    #[inline]
    pub(crate) fn instance(&self) -> u64 {
        self.state >> 8
    }

    #[inline]
    pub(crate) fn counters(&self) -> &'a [AtomicU64; LINE] {
        self.mem.group_lines(self.number).1
    }

    /// Whether it is still there, as itself.
    #[inline]
    pub fn is_current(&self) -> bool {
        // ORDER[group state] SeqCst: after a claim, see claim.rs.
        self.live[STATE].load(SeqCst) == self.state
    }

    /// The tag of its words in a page.
    #[inline]
    pub fn tag(&self, page: u64) -> u32 {
        self.mem.layout.group_tag(page, 1 + (self.instance() % 255) as u8)
    }

    /// Its first offset.
    #[inline]
    pub fn start(&self) -> Offset {
        Offset::from_u64(self.live[START].load(Acquire))
    }

    /// Its first index in a page: in one before its start, behind the last. (A recovery begins at the oldest
    /// page that is there, wherever the group started.)
    #[inline]
    pub fn start_index(&self, page: u64) -> usize {
        let start = self.start();
        match start.page().cmp(&page) {
            Less => 0,
            Equal => start.index() as usize,
            Greater => self.mem.layout.slots,
        }
    }

    /// A page where its next message may be: not later than that. `{instance 20, page number 44}`.
    #[inline]
    pub fn page_hint(&self) -> u64 {
        self.live[AT].load(Acquire) & MAX_PAGE_NUMBER
    }

    /// Raises the hint, if it still is this group's.
    pub fn raise_page_hint(&self, page: u64) {
        let hint = &self.live[AT];
        let mut seen = hint.load(Acquire);
        while seen >> 44 == self.hint(0) >> 44 && seen & MAX_PAGE_NUMBER < page {
            match hint.compare_exchange(seen, self.hint(page), AcqRel, Acquire) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    pub(crate) fn hint(&self, page: u64) -> u64 {
        self.instance() << 44 | page
    }

    /// Changes whenever a message was given back.
    #[inline]
    pub fn returns(&self) -> &'a AtomicU64 {
        &self.live[RETURNS]
    }

    /// Not zero while somebody waits for a claim cell.
    #[inline]
    pub fn starved(&self) -> &'a AtomicU64 {
        &self.live[STARVED]
    }

    /// Above every claim cell that was ever used.
    #[inline]
    pub fn cells_used(&self) -> &'a AtomicU64 {
        &self.live[CELLS_USED]
    }

    /// What the claim cells counted since the group was created.
    pub fn count(&self, what: Count) -> u64 {
        let before = self.counters()[COUNTED_BEFORE + what.index()].load(Acquire);
        self.count_all(what).wrapping_sub(before) & u64::from(u32::MAX)
    }

    /// What the claim cells of this number ever counted; wraps at 32 bits.
    pub(crate) fn count_all(&self, what: Count) -> u64 {
        self.cells().map(|cell| u64::from(cell.counted(what))).sum()
    }

    /// Whether a message has been handed out as often as the channel allows.
    pub fn is_undeliverable(&self, word: ClaimWord) -> bool {
        let max = self.mem.layout.geometry.max_attempts;
        max != 0 && word.attempts() >= max
    }

    /// Whether a cell has a message for any receiver of the group.
    pub fn is_deliverable(&self, word: ClaimWord) -> bool {
        word.state() == ClaimState::Returned && !self.is_undeliverable(word)
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

    /// Claim cells whose message is out, whose message was given back and will be handed out again, and
    /// whose message is to become a dead letter.
    pub fn held_and_returned(self) -> [usize; 3] {
        self.cells().fold([0; 3], |mut counts, cell| {
            // One that changes while it is read is in use.
            let Some(seen) = cell.read() else {
                counts[0] += 1;
                return counts;
            };
            let word = seen.word;
            match word.state() {
                ClaimState::Held => counts[0] += self.left(&seen).count_ones() as usize,
                ClaimState::Intent | ClaimState::Done => counts[0] += 1,
                ClaimState::Several => counts[1] += self.left(&seen).count_ones() as usize,
                ClaimState::Returned if self.is_deliverable(word) => counts[1] += 1,
                ClaimState::Returned => counts[2] += 1,
                ClaimState::Free | ClaimState::Taken | ClaimState::Gone => {}
            }
            counts
        })
    }

    /// The page at the place of `number`.
    #[inline]
    pub fn page(&self, number: u64) -> Page<'a> {
        Page::new(self.mem, self.mem.layout.place(number))
    }

    /// The page at the place of `number`, and the group's cursor word in it.
    #[inline]
    pub fn in_page(&self, number: u64) -> (Page<'a>, &'a AtomicU64) {
        let page = self.page(number);
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
    #[inline]
    pub fn is_done(&self, number: u64, index: usize) -> bool {
        if index >= self.mem.layout.slots {
            return true; // an offset that never was
        }
        self.has_acked(&self.page(number), self.tag(number), index)
    }

    /// The same of a page, by the group's tag there.
    #[inline]
    pub fn has_acked(&self, page: &Page<'a>, tag: u32, index: usize) -> bool {
        let (word, bit) = self.ack_word(page, index);
        Acks::of(word.load(Acquire), tag) & bit != 0 // ORDER[ack]
    }

    /// Sets the ack bit of an index, unless the page or the group has gone. True if the page may be
    /// finished by that: if the bits of the word are all set, or it is the last word of the page. (In
    /// a word with a slot that was skipped for a dead sender, the watcher's tick tells it.)
    #[inline]
    pub fn set_done(&self, number: u64, index: usize) -> bool {
        self.set_all_done(number, index, 1 << (index % 32))
    }

    /// The same of several in the ack word of `index`, the last of them.
    #[inline]
    pub fn set_all_done(&self, number: u64, index: usize, all: u32) -> bool {
        if index >= self.mem.layout.slots {
            return false;
        }
        let page = self.page(number);
        let (word, _) = self.ack_word(&page, index);
        let tag = self.tag(number);
        let mut seen = word.load(Acquire);
        while page.number() == number && self.is_current() {
            let bits = Acks::of(seen, tag) | all;
            // ORDER[ack] Release: the holder's reading of the bytes comes before the turn.
            // SeqCst: before the look for senders that wait for room, ORDER[sleep].
            match word.compare_exchange(seen, Acks::word(tag, bits), SeqCst, Acquire) {
                Ok(_) => return bits == u32::MAX || index / 32 >= page.cursor().count.saturating_sub(1) / 32,
                Err(other) => seen = other,
            }
        }
        true
    }

    /// The indexes of page `number` that keep the group from being done with it: committed and not
    /// done, or not resolved. None if the page has gone.
    pub fn unfinished(self, number: u64) -> impl DoubleEndedIterator<Item = usize> + 'a {
        let page = self.page(number);
        let (c, tag) = (page.cursor(), self.tag(number));
        let is_here = c.lap == self.mem.layout.cursor_lap(number) && self.start().page() <= number;
        let end = if is_here { c.count.min(self.mem.layout.slots) } else { 0 };
        let first = self.start_index(number).min(end);
        let open = move |chunk: usize| {
            let word = page.word(self.mem.layout.ack_word_at(self.number, chunk * 32));
            let low = first.saturating_sub(chunk * 32).min(32);
            let high = (end - chunk * 32).min(32);
            let wanted = ((1u64 << high) - 1) as u32 & !(((1u64 << low) - 1) as u32);
            let open = wanted & !Acks::of(word.load(Acquire), tag); // ORDER[ack]
            (open != 0).then_some((chunk * 32, open))
        };
        let bits = |(at, open): (usize, u32)| (0..32).filter(move |b| open >> b & 1 == 1).map(move |b| at + b);
        let indexes = (first / 32..end.div_ceil(32)).filter_map(open).flat_map(bits);
        indexes.filter(move |&i| !matches!(page.slot(number, i), SlotState::Skipped | SlotState::Damaged))
    }

    /// The last of the [`unfinished`](Self::unfinished): groups finish in order, so that while one is
    /// still reading this is found at once.
    pub fn last_unfinished(self, number: u64) -> Option<usize> {
        self.unfinished(number).next_back()
    }

    /// Whether a message of this removed group may still be in use where it lies in page `number`.
    pub fn holds_message_in(self, number: u64) -> bool {
        // ORDER[group state] SeqCst, with the fence after a claim: either the claimer sees the
        // group removed and lets go, or its INTENT is seen here.
        fence(SeqCst);
        self.cells().any(|cell| match cell.read() {
            None => true,
            Some(seen) => seen.word.kind() == Kind::Message && seen.is_in_use() && seen.offset().page() == number,
        })
    }

    /// Whether a claim keeps its page from being turned.
    #[inline]
    pub(crate) fn pins(&self) -> bool {
        self.mem.layout.geometry.pins()
    }

    /// Closes the group's cursor in page `number`, for good.
    pub(crate) fn close_in(&self, number: u64, why: Loss) {
        let (page, word) = self.in_page(number);
        loop {
            let seen = word.load(Acquire); // ORDER[claim]
            let cursor = self.cursor(number, seen);
            if cursor.closed.is_some() || page.number() != number || !self.is_here() {
                return;
            }
            let Some(frontier) = self.frontier(number, cursor).filter(|frontier| self.end_at(frontier)) else {
                continue;
            };
            let closed = GroupCursor { closed: Some(why), cell: None, index: frontier.index };
            // SeqCst: against a message being given back, see `lose_if_gone`.
            let _ = word.compare_exchange(seen, closed.word(self.tag(number)), SeqCst, Relaxed);
        }
    }

    /// Whether the group lost page `number`, or it was turned.
    pub fn has_lost(&self, number: u64) -> bool {
        let (page, word) = self.in_page(number);
        let cursor = self.cursor(number, word.load(SeqCst)); // after a give back: see `close_in`
        cursor.closed.is_some() || page.number() != number
    }

    /// Whether the number is still this group's: active, or removed and not yet given to another.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.live[STATE].load(SeqCst) >> 8 == self.instance() // ORDER[group state]
    }

    /// Takes page `number`, the oldest, away from the group, and counts what it had not been given. Every slot
    /// of the page is resolved.
    pub fn take_page_away(self, number: u64, why: Loss) {
        if self.start().page() <= number {
            self.close_in(number, why);
            self.count_lost_page(number);
        }
    }

    /// Counts what the group had not been given of page `number`, if it was taken away: whoever did that may
    /// have died over it.
    pub fn count_lost_page(self, number: u64) {
        let cursor = self.cursor(number, self.in_page(number).1.load(Acquire)); // ORDER[claim]
        let counter = match cursor.closed {
            None => return,
            Some(Loss::Dropped) => LAGGED,
            Some(Loss::Expired) => EXPIRED,
        };
        // With the fence in `lose_if_gone`: either RETURNED is seen here, or the closed cursor there.
        fence(SeqCst);
        for cell in self.cells() {
            if let Some(seen) = cell.read()
                && seen.word.state() == ClaimState::Returned
                && seen.offset().page() == number
                && self.is_here()
            {
                cell.lose(seen.word);
            }
        }
        // Damaged ones, too: until a moment ago they may have been taken for good.
        self.fold(counter, number, |slot| matches!(slot, SlotState::Committed(_) | SlotState::Damaged));
        self.fold_damage(number);
    }

    /// Counts the damaged messages of page `number`, before it is turned.
    pub fn fold_damage(&self, number: u64) {
        let page = self.page(number);
        if page.word(Layout::PAGE_DAMAGE_SEEN).load(Acquire) == number + 1 {
            self.fold(DAMAGED, number, |slot| slot == SlotState::Damaged);
        }
    }

    /// Adds to a counter, once for page `number`, the messages that the group is not done with and
    /// whose slot `counts`: of what was lost, those from the group's closed cursor on; of what was
    /// damaged, those before it, or all.
    fn fold(&self, counter: usize, number: u64, counts: impl Fn(SlotState) -> bool) {
        let (page, word) = self.in_page(number);
        let total_word = &self.counters()[counter];
        loop {
            let before = total_word.load(Acquire); // ORDER[fold]
            if before >> 40 == number & PAGE_TAG || self.start().page() > number || !self.is_here() {
                return;
            }
            let cursor = self.cursor(number, word.load(Acquire));
            let end = page.cursor().count.min(self.mem.layout.slots);
            let lost = if cursor.closed.is_some() { cursor.index.min(end) } else { end };
            let range = if counter == DAMAGED { 0..lost } else { lost..end };
            // A cursor that was closed before the start was settled may stand before it.
            let range = range.start.max(self.start_index(number))..range.end;
            let n = range.filter(|&i| counts(page.slot(number, i)) && !self.is_done(number, i)).count() as u64;
            fence(Acquire);
            // ORDER[fold] After the counter: who folded a later page had seen the tail move on.
            if !self.mem.is_live(number) {
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
        let told = lost != reported
            && self.is_current()
            && counters[REPORTED].compare_exchange(reported, lost, AcqRel, Relaxed).is_ok();
        told.then(|| total(lost.wrapping_sub(reported)))
    }

    /// Messages lost because their page was dropped.
    pub fn lagged(&self) -> u64 {
        let before = self.counters()[LAGGED_BEFORE].load(Acquire);
        total(self.counters()[LAGGED].load(Acquire).wrapping_sub(before))
    }

    /// Messages given up because they were too old.
    pub fn expired(&self) -> u64 {
        total(self.counters()[EXPIRED].load(Acquire))
    }

    /// Messages passed over because they did not verify, in pages that were turned.
    pub fn damaged(&self) -> u64 {
        total(self.counters()[DAMAGED].load(Acquire))
    }

    /// The committed messages that the group is not done with.
    pub fn lag(&self, ring: &Ring<'a>) -> Lag {
        let done: HashSet<Offset> = self.done_and_not_acked().collect();
        let pages = ring.pages().filter(|&number| number >= self.start().page());
        pages.fold(Lag::default(), |lag, number| {
            let with = self.lag_in(number, &done, lag);
            // After the words were read: they are of this page.
            if self.mem.is_live(number) { with } else { lag }
        })
    }

    fn lag_in(&self, number: u64, done: &HashSet<Offset>, mut lag: Lag) -> Lag {
        let (page, word) = self.in_page(number);
        if self.cursor(number, word.load(Acquire)).closed.is_some() {
            // It was taken away: only what is out is not done.
            let is_out =
                |cell: ClaimCell<'a>| cell.read().is_some_and(|s| s.is_in_use() && s.offset().page() == number);
            lag.messages += self.cells().filter(|&cell| is_out(cell)).count() as u64;
            return lag;
        }
        let end = page.cursor().count.min(self.mem.layout.slots);
        for index in self.start_index(number)..end {
            let offset = Offset::new(number, index);
            if let SlotState::Committed(at) = page.slot(number, index)
                && !self.is_done(number, index)
                && !done.contains(&offset)
            {
                let (len, sent_at) = page.len_and_time(at, offset).unwrap_or_default();
                lag.messages += 1;
                lag.bytes += len as u64;
                lag.oldest.get_or_insert(sent_at);
            }
        }
        lag
    }

    /// The first place that the group is not done with.
    pub fn position(self, ring: &Ring<'a>) -> Offset {
        self.places_not_done(ring, Offset::default()).next().unwrap_or(ring.end()).max(self.start())
    }

    /// The places from an offset on that the group is not done with, in their order.
    pub fn places_not_done(self, ring: &Ring<'a>, from: Offset) -> impl Iterator<Item = Offset> {
        let done: HashSet<Offset> = self.done_and_not_acked().collect();
        let of_page = move |number| self.unfinished(number).map(move |index| Offset::new(number, index));
        // What was taken away is not to come.
        let pages = ring.pages().filter(move |&number| number >= from.page() && !self.has_lost(number));
        pages.flat_map(of_page).filter(move |at| *at >= from && !done.contains(at))
    }

    /// Places between the group's first unfinished message and the end: messages, done or not, and
    /// places skipped. Cheaper than the lag, as only ack words are looked through.
    pub fn behind(self, ring: &Ring<'a>) -> u64 {
        let mut behind = 0;
        for number in ring.pages() {
            let end = self.page(number).cursor().count.min(self.mem.layout.slots);
            let first = match behind {
                0 => self.unfinished(number).next().unwrap_or(end),
                _ => 0,
            };
            behind += (end.saturating_sub(first)) as u64;
        }
        behind
    }
}
