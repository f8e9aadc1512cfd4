//! Finding messages without a group, by offset and by time, and copying them out.
//!
//! **Invariants.**
//! - Who reads so owns nothing, and stores nothing but that a slot was abandoned (in a read-only open not even
//!   that): it holds up nobody, and any page may be turned while it reads.
//! - So all that it gets is a copy, and that is one message or none: the words, then the page number
//!   (`ORDER[lap]`), then the checksum. What was found in a page counts only if the page number, read after it,
//!   is still that page's (`ORDER[number]`). Where it is not, `tail` was moved before: what is missing is told.
//! - No place is passed that is still being written.
//! - Page headers keep a running maximum of the clock, so a time is searched for by halves in them; then by
//!   halves in one page, by what the headers of its records say. No payload is looked at.
#![forbid(unsafe_code)]

use crate::Offset;
use crate::layout::{Layout, PageState, SlotState};
use crate::page::{Page, Place};
use crate::ring::{Next, Ring};
use crate::sync::Ordering::Relaxed;
use std::time::SystemTime;

/// What lies at a place, or behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A committed message, not verified, and where its record lies.
    Message(Offset, usize),
    /// One that does not verify.
    Damaged(Offset),
    /// Nothing, or nothing yet.
    End(Offset),
    /// The place was overwritten; the ring begins here now.
    Overwritten(Offset),
}

/// A message that was looked at.
#[derive(Clone, Copy, Debug)]
pub enum Copied {
    /// It is in the buffer.
    Whole(Place),
    /// It does not verify.
    Damaged,
    /// Its page has gone.
    Gone,
}

impl<'a> Ring<'a> {
    /// The first message at a place or behind it.
    pub fn find(&self, mut at: Offset) -> Found {
        loop {
            let number = at.page();
            let oldest = self.tail().page;
            if number < oldest {
                return Found::Overwritten(Offset::new(oldest, 0));
            }
            let (page, index) = (self.page(number), at.index() as usize);
            let c = page.cursor();
            let end = c.count.min(self.mem.layout.slots);
            let slot = if index < end { page.slot(number, index) } else { SlotState::Untouched };
            // After the words were read: they are of this page. (Its cursor is turned before its number.)
            if c.lap != self.mem.layout.cursor_lap(number) || page.number() != number {
                if number >= self.tail().page {
                    // A number that no page has, yet or ever.
                    let next = self.live_page_behind(number);
                    if self.tail().page <= number {
                        let Some(next) = next else { return Found::End(at) };
                        at = Offset::new(next, 0);
                    }
                }
                continue;
            }
            match slot {
                SlotState::Committed(place) => return Found::Message(at, place),
                SlotState::Damaged => return Found::Damaged(at),
                SlotState::Skipped => at = at.next(),
                SlotState::Untouched if index < end => {
                    if !self.judge(number, index) {
                        return Found::End(at);
                    }
                    // Who only looks leaves it as it is.
                    if self.only_looks() && page.slot(number, index) == SlotState::Untouched {
                        at = at.next();
                    }
                }
                SlotState::Untouched if c.state != PageState::Sealed => return Found::End(at),
                SlotState::Untouched => match self.next(number) {
                    Next::Page(next) => at = Offset::new(next, 0),
                    Next::None => return Found::End(at),
                    Next::Gone => {}
                },
            }
        }
    }

    /// The last message before a place, and where its record lies; nothing if there is none in the ring.
    pub fn find_back(&self, mut at: Offset) -> Option<(Offset, usize)> {
        loop {
            let number = at.page();
            let (page, before) = (self.page(number), at.index() as usize);
            // A slot that says so in this lap did; whether the record is there still, its copy tells.
            if let Some(found) = self.last_committed(page, number, before) {
                return Some(found);
            }
            at = Offset::new(self.live_page_before(number)?, self.mem.layout.slots);
        }
    }

    /// Copies and verifies the message at an offset, whose record lies at a word of its page.
    pub fn copy(&self, at: Offset, record: usize, into: &mut Vec<u8>) -> Copied {
        let page = self.page(at.page());
        let mut place = Place::unread(record);
        if page.copy(self.mem.uuid, at.as_u64(), &mut place, into) {
            Copied::Whole(place)
        } else if page.number() == at.page() {
            Copied::Damaged
        } else {
            Copied::Gone
        }
    }

    /// The place of the first message that was sent at a time, in unix milliseconds, or later. Where the clock
    /// was set back, or senders' clocks do not agree, one of the places with that on either side of it.
    pub fn find_time(&self, ms: u64) -> Offset {
        loop {
            let (tail, head) = (self.tail().page, self.head().page);
            let found = self.find_time_between(tail, head, ms);
            // What was looked at was these pages, unless one of them was turned.
            if self.tail().page == tail {
                return found;
            }
        }
    }

    fn find_time_between(&self, tail: u64, head: u64, ms: u64) -> Offset {
        let pages = self.mem.layout.geometry.max_pages;
        let live = (self.mem.layout.place(head) + pages - self.mem.layout.place(tail)) % pages + 1;
        // The pages lie in their order, also where numbers were left out.
        let nth = |n: usize| self.page(tail + n as u64);
        // Relaxed: what was read of a page that is turned meanwhile is thrown away.
        let opened_before = |n: usize| nth(n).word(Layout::PAGE_OPENED_AT).load(Relaxed) < ms;
        let mut n = partition_point(live, opened_before).saturating_sub(1);
        // Who opened the page behind it may have read the clock before its last message was sent.
        while n > 0 && self.newest_in(nth(n - 1)).is_some_and(|newest| newest >= ms) {
            n -= 1;
        }
        let page = nth(n);
        let number = page.number();
        let end = page.cursor().count.min(self.mem.layout.slots);
        // A place without a message counts as the next one.
        let is_earlier = |index: usize| {
            let record = (index..end).find_map(|i| match page.slot(number, i) {
                SlotState::Committed(record) => page.sent_at(record, Offset::new(number, i)),
                SlotState::Untouched | SlotState::Skipped | SlotState::Damaged => None,
            });
            record.is_some_and(|sent| sent < ms)
        };
        Offset::new(number, partition_point(end, is_earlier))
    }

    /// When the last message of a page was sent, in unix milliseconds.
    fn newest_in(&self, page: Page<'a>) -> Option<u64> {
        let number = page.number();
        let (offset, record) = self.last_committed(page, number, self.mem.layout.slots)?;
        page.sent_at(record, offset)
    }

    /// The last message of a page before an index.
    fn last_committed(&self, page: Page<'a>, number: u64, before: usize) -> Option<(Offset, usize)> {
        let end = page.cursor().count.min(self.mem.layout.slots).min(before);
        (0..end).rev().find_map(|index| match page.slot(number, index) {
            SlotState::Committed(record) => Some((Offset::new(number, index), record)),
            SlotState::Untouched | SlotState::Skipped | SlotState::Damaged => None,
        })
    }

    /// The oldest live page behind a number that is no live page's.
    fn live_page_behind(&self, number: u64) -> Option<u64> {
        let places = 0..self.mem.layout.geometry.max_pages;
        let behind = number + 1..=self.head().page;
        places.map(|place| Page::new(self.mem, place).number()).filter(|page| behind.contains(page)).min()
    }

    /// The newest live page before a number.
    fn live_page_before(&self, number: u64) -> Option<u64> {
        let head = self.head().page;
        if number > head {
            return Some(head);
        }
        // The pages lie in their order, also where numbers were left out.
        let before = self.page(number + self.mem.layout.geometry.max_pages as u64 - 1).number();
        let live = self.tail().page..number;
        if live.contains(&before) {
            return Some(before);
        }
        // Before a number that no page has there may be one anywhere.
        let places = 0..self.mem.layout.geometry.max_pages;
        places.map(|place| Page::new(self.mem, place).number()).filter(|page| live.contains(page)).max()
    }
}

/// A time in unix milliseconds; 0 before 1970.
pub fn unix_milliseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The first number below `end` of which something is not true, which is true of those before.
fn partition_point(end: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}
