//! The pages in order: send, advance from a full page, turn the oldest, close.
//!
//! **Invariants.**
//! - Pages come up in the order of their numbers, without gaps but at the beginning of an era, where a
//!   recovery jumps over numbers by whole laps; page `n` lies at place `n` mod max_pages. The
//!   live pages are those from `tail` to `head`. A place holds a live page, or the next one,
//!   PREPARED.
//! - A page opens only after its predecessor was sealed and `head` names it. So at most one page is
//!   open, and the order of offsets is the order of the messages.
//! - A page may be turned when it is SEALED, every slot below its count is resolved, every group is
//!   done with it (or has lost it, counted: under `DropOldest`, or as it is too old), and no message of a
//!   removed group is held in it. The CAS on `tail` decides; a group that was created meanwhile has changed
//!   `tail`, and the check is made again.
//! - Only the oldest page is taken away from groups, by who saw it be `tail`; the one behind it only after
//!   `tail` has moved on, which is after the first was taken away from all of them and what they lost was
//!   counted. A page counts as gone once `tail` has, also if its number is still there.
//! - A turn is: `tail` CAS, cursor CAS {SEALED, L} -> {PREPARED, L'}, page number CAS, `head` CAS,
//!   PREPARED -> OPEN. Each step can be completed by anyone; none is a store.
//! - **Expiry.** A page is as old as its youngest message, and not older than its opening. The oldest page
//!   is given up when it is `max_age` old: turned early, so that its place holds the next one, PREPARED, as
//!   all places but the first did at the beginning. If the head is in it, it is sealed first, and only from
//!   the very cursor word that was judged, so that a younger message cannot have come; then the head moves
//!   on, as for senders. An empty page that is open has no age. In a closed channel the head stays where it
//!   is: that page is taken away from the groups, and turned when the ring needs its place, or the channel is
//!   open again.
//! - Who swaps a cursor word says TURNING first and reads the words again. The lap in that word has
//!   few bits; a turn that brings them to 0 or half their range waits until nobody alive is TURNING
//!   an earlier page of that place. So a late swap never meets the same bits again.
#![forbid(unsafe_code)]

use crate::group::Group;
use crate::layout::{Acks, CLEAR_EVERY_LAPS, Cursor, Head, Layout, Loss, MAX_PAGE_NUMBER, PageState, SlotState, Tail};
use crate::memory::Memory;
use crate::opens::OpenId;
use crate::ops::{Liveness, OpCell, OpCells};
use crate::options::Overflow;
use crate::page::{Page, Place, Record};
use crate::sync::Ordering;
use Ordering::{AcqRel, Acquire, Relaxed};

/// Why a page could not be turned, or nothing be reserved, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// This group is not done with the oldest page.
    Group(usize),
    /// Under `Block`, no group reads.
    NoGroup,
    /// A reserved slot is neither written nor provably abandoned.
    UnfinishedSend,
    /// A message of a removed group is held.
    HeldMessage,
    /// No op cell is free.
    TooManySending,
    /// The next page number is not safe to use yet.
    PageLimit,
}

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The channel is closed, or was since this sender was made.
    Closed,
    /// There is no room.
    Full(Blocked),
}

/// What was sent with one add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The page.
    pub page: u64,
    /// The first index.
    pub index: usize,
    /// How many messages, with rising indexes.
    pub count: usize,
}

/// What follows a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This page.
    Page(u64),
    /// Nothing: it is the page that senders write.
    None,
    /// Nobody can tell: the page itself was turned.
    Gone,
}

/// The ring, as one open of it sees it.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    /// The words.
    pub mem: Memory<'a>,
    /// Who is alive.
    pub live: &'a dyn Liveness,
    /// This open.
    pub me: OpenId,
}

impl std::fmt::Debug for Ring<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("head", &self.head()).field("tail", &self.tail()).finish_non_exhaustive()
    }
}

impl<'a> Ring<'a> {
    #[inline]
    fn layout(&self) -> &'a Layout {
        self.mem.layout
    }

    /// Whether nothing may be stored.
    pub fn only_looks(&self) -> bool {
        self.me == OpenId::NOBODY
    }

    /// The head word.
    #[inline]
    pub fn head(&self) -> Head {
        Head::of(self.mem.head().load(Acquire)) // ORDER[head]
    }

    /// The tail word.
    pub fn tail(&self) -> Tail {
        Tail::of(self.mem.tail().load(Acquire)) // ORDER[tail]
    }

    /// The page at the place of this number, whichever it is now.
    #[inline]
    pub fn page(&self, number: u64) -> Page<'a> {
        Page::new(self.mem, self.layout().place(number))
    }

    #[inline]
    fn op_cells(&self) -> OpCells<'a> {
        OpCells::new(self.mem, self.live)
    }

    /// The live page that follows `number`.
    #[inline]
    pub fn next(&self, number: u64) -> Next {
        let next = self.page(number + 1).number();
        let head = self.head().page;
        // Pages are turned in their order: while this one is there, what was read is its successor.
        if !self.mem.is_live(number) {
            return Next::Gone;
        }
        if next > number && next <= head { Next::Page(next) } else { Next::None }
    }

    /// Sends as many of `records` as one add can place: at least one, or says why not. They are
    /// not empty, at most [`MAX_RUN`](crate::layout::MAX_RUN), and together no longer than the
    /// longest record.
    ///
    /// `epoch` is the send epoch of the handle; `now` the time in unix milliseconds.
    #[inline]
    pub fn send(&self, epoch: u32, records: &[Record<'_>], now: u64) -> Result<Sent, Refused> {
        let units = records.iter().map(Record::words).sum();
        loop {
            let head = self.head();
            if head.closed || head.epoch != epoch {
                return Err(Refused::Closed);
            }
            let place = self.layout().place(head.page);
            let page = Page::new(self.mem, place);
            let Some(mut cell) = OpCell::reserving(self.mem, self.me, place) else {
                return Err(Refused::Full(Blocked::TooManySending));
            };
            if let Some(reserved) = page.reserve(records.len(), units) {
                let number = page.number();
                cell.holds(crate::Offset::new(number, reserved.index).as_u64(), records.len());
                let count = page.write(self.mem.uuid, number, reserved, records, now);
                drop(cell);
                if count > 0 {
                    return Ok(Sent { page: number, index: reserved.index, count });
                }
            } else {
                drop(cell);
            }
            self.advance(head.page, now).map_err(Refused::Full)?;
        }
    }

    /// Moves the head on from page `from`, if that is open and full, or sealed. When it returns Ok
    /// the caller looks at the head again.
    pub fn advance(&self, from: u64, now: u64) -> Result<(), Blocked> {
        let Some(mut cell) = OpCell::taken(self.mem, self.me) else {
            return Err(Blocked::TooManySending);
        };
        let head = self.head();
        if head.page != from || head.closed {
            return Ok(());
        }
        if self.open(&mut cell, from, now) {
            return Ok(());
        }
        if !self.seal(&mut cell, from, |page, c| page.is_full(c)) {
            return Ok(());
        }
        self.move_on(&mut cell, head, now)
    }

    /// Moves the head on from its page, which is sealed.
    fn move_on(&self, cell: &mut OpCell<'_>, head: Head, now: u64) -> Result<(), Blocked> {
        let from = head.page;
        let following = self.mem.following(from);
        let place = self.layout().place(following);
        let mut next = Page::new(self.mem, place).number();
        if next <= from {
            if following > MAX_PAGE_NUMBER {
                return Err(Blocked::PageLimit);
            }
            let expired = self.expired(next, now).is_some();
            self.turn(cell, next, following, expired)?;
            next = Page::new(self.mem, place).number();
        }
        if next <= from || next >= self.mem.page_limit().load(Acquire) {
            return Err(Blocked::PageLimit);
        }
        // ORDER[head] AcqRel: who finds the page by this finds it turned. Only from exactly the
        // word read: closed, or moved by somebody else, it fails.
        let moved = Head { page: next, ..head };
        if self.mem.head().compare_exchange(head.word(), moved.word(), AcqRel, Relaxed).is_ok() {
            self.mem.page_turns().fetch_add(1, Relaxed); // a statistic
            self.open(cell, next, now);
        }
        Ok(())
    }

    /// Gives up what is older than the channel allows. True if there is room by that.
    #[inline]
    pub fn expire(&self, now: u64) -> bool {
        if self.layout().geometry.max_age == 0 {
            return false;
        }
        let oldest = self.tail().page;
        self.expired(oldest, now).is_some_and(|judged| self.expire_pages(oldest, judged, now))
    }

    #[cold]
    fn expire_pages(&self, first: u64, judged: Cursor, now: u64) -> bool {
        // Without a cell later: each is in use for a few instructions.
        let Some(mut cell) = OpCell::taken(self.mem, self.me) else { return false };
        let (mut oldest, mut judged) = (first, judged);
        while self.expire_page(&mut cell, oldest, judged, now) {
            oldest = self.tail().page;
            match self.expired(oldest, now) {
                Some(next) => judged = next,
                None => break,
            }
        }
        oldest != first
    }

    /// One step of giving up the oldest page, which was judged expired. True if it may be the next one's turn.
    fn expire_page(&self, cell: &mut OpCell<'_>, oldest: u64, judged: Cursor, now: u64) -> bool {
        let head = self.head();
        if judged.state != PageState::Sealed {
            // A message that came meanwhile has changed the cursor: then the page is not that old.
            return self.seal(cell, oldest, |_, c| c == judged);
        }
        if oldest < head.page {
            // Also if it could not be turned at once, or somebody else did it.
            let _ = self.turn(cell, oldest, self.mem.comes_after(oldest), true);
            return self.tail().page > oldest;
        }
        if head.closed {
            Group::all(self.mem).for_each(|group| group.take_page_away(oldest, Loss::Expired));
            return false;
        }
        self.move_on(cell, head, now).is_ok()
    }

    /// The cursor of page `number`, if all its messages are older than the channel allows, and there will be
    /// no other as long as that is its cursor, or once it is sealed.
    fn expired(&self, number: u64, now: u64) -> Option<Cursor> {
        let (page, layout) = (self.page(number), self.layout());
        let max_age = layout.geometry.max_age;
        let is_old = |time: u64| time.saturating_add(max_age) <= now;
        let c = page.cursor(); // ORDER[open] with its opening, ORDER[reserve] with its messages
        if max_age == 0 || c.state == PageState::Prepared || !is_old(page.word(Layout::PAGE_OPENED_AT).load(Relaxed)) {
            return None;
        }
        let end = c.count.min(layout.slots);
        if page.number() != number || c.lap != layout.cursor_lap(number) || c.state == PageState::Open && end == 0 {
            return None;
        }
        let mut copy = Vec::new();
        let mut is_young = || {
            let committed = (0..end).rev().filter_map(|index| match page.slot(number, index) {
                SlotState::Committed(at) => Some((index, at)),
                SlotState::Untouched | SlotState::Skipped | SlotState::Damaged => None,
            });
            let mut times = committed.filter_map(|(index, at)| {
                // Believed, it keeps the page for less than `max_age`. Else only if the record verifies.
                let said = page.said_sent_at(at).filter(|&time| time <= now && !is_old(time));
                let (mut place, offset) = (Place::unread(at), crate::Offset::new(number, index).as_u64());
                let verified = || page.copy(self.mem.uuid, offset, &mut place, &mut copy).then(|| place.sent_at());
                said.or_else(verified)
            });
            times.next().is_some_and(|time| !is_old(time))
        };
        // First as it is, as most often that tells; then, once nothing is on its way, all that there is.
        let is_expired = !is_young() && self.all_resolved(number).is_ok() && !is_young() && page.number() == number;
        is_expired.then_some(c)
    }

    /// Swaps the cursor word of page `number` as long as `next` says to what; returns the last
    /// word seen, or nothing if the page has gone.
    fn swap_cursor(
        &self,
        cell: &mut OpCell<'_>,
        number: u64,
        next: impl Fn(Cursor) -> Option<Cursor>,
    ) -> Option<Cursor> {
        let page = self.page(number);
        let (mut said, lap) = (false, self.layout().cursor_lap(number));
        loop {
            let word = page.cursor_word().load(Acquire); // ORDER[seal]
            let seen = self.layout().cursor(word);
            if page.number() != number || seen.lap != lap {
                return None;
            }
            let Some(to) = next(seen) else { return Some(seen) };
            if !said {
                cell.turning(number);
                said = true;
                continue;
            }
            // ORDER[open] Release: the page number and the cleared tables before the first add that
            // comes back OPEN. ORDER[seal] AcqRel: every earlier add before who sees SEALED.
            let to = self.layout().cursor_word(to);
            let _ = page.cursor_word().compare_exchange(word, to, AcqRel, Relaxed);
        }
    }

    /// PREPARED -> OPEN, for the page that the head names. True if the page is open and has room.
    fn open(&self, cell: &mut OpCell<'_>, number: u64, now: u64) -> bool {
        let page = self.page(number);
        // Before it is seen to be PREPARED: then it is the time of the page before, and no later one's.
        let before = self.layout().place(number + self.layout().geometry.max_pages as u64 - 1);
        let before = Page::new(self.mem, before).word(Layout::PAGE_OPENED_AT).load(Acquire); // ORDER[open]
        if page.number() == number && page.cursor().state == PageState::Prepared {
            let lap = self.layout().lap(number);
            if lap != 0 && lap.is_multiple_of(CLEAR_EVERY_LAPS) {
                self.clear_tables(number);
            }
            // Relaxed: a time; ORDER[open] publishes it, as it did that of the page before. Who is late, and
            // finds the page opened by somebody else, or even turned, read the clock before that: what it
            // adds is not later than when that page was opened, and so makes nothing younger than it is.
            page.word(Layout::PAGE_OPENED_AT).fetch_max(now.max(before), Relaxed);
        }
        let open = |c: Cursor| (c.state == PageState::Prepared).then_some(Cursor { state: PageState::Open, ..c });
        let seen = self.swap_cursor(cell, number, open);
        seen.is_some_and(|c| c.state == PageState::Open && !page.is_full(c))
    }

    /// Takes what an earlier round of the tags left out of a page that is about to open: words with
    /// this lap's tag are not from an earlier round, and stay. An ack word is not emptied but brought to
    /// this lap: on disk it may stand beside slots of an earlier one, whose messages it says are done.
    fn clear_tables(&self, number: u64) {
        let page = self.page(number);
        let layout = self.layout();
        let lap = layout.slot_tag(number);
        let groups = lap & 0xff_ffff;
        let slots = layout.slot_words();
        for at in layout.tables() {
            let word = page.word(at);
            let seen = word.load(Acquire); // ORDER[commit]: as any change of such a word
            let tag = (seen >> 32) as u32;
            let current = if at >= slots.start { tag == lap } else { tag >> 8 == groups };
            if seen == 0 || current {
                continue;
            }
            let to = match layout.is_ack_word(at) {
                true => Acks::word(groups << 8 | tag & 0xff, 0),
                false => 0,
            };
            if page.number() == number {
                let _ = word.compare_exchange(seen, to, AcqRel, Relaxed);
            }
        }
    }

    /// -> SEALED, if `due`. True if the page is sealed now.
    fn seal(&self, cell: &mut OpCell<'_>, number: u64, due: impl Fn(&Page<'_>, Cursor) -> bool) -> bool {
        let page = self.page(number);
        let seen = self.swap_cursor(cell, number, |c| {
            let due = c.state != PageState::Sealed && due(&page, c);
            due.then_some(Cursor { state: PageState::Sealed, ..c })
        });
        seen.is_some_and(|c| c.state == PageState::Sealed)
    }

    /// Turns the place of page `old`, the oldest, to page `new`. If it is sealed and `expired` it stays that.
    fn turn(&self, cell: &mut OpCell<'_>, old: u64, new: u64, expired: bool) -> Result<(), Blocked> {
        loop {
            let tail = self.tail();
            if tail.page > old {
                break;
            }
            if tail.page < old {
                return Err(Blocked::UnfinishedSend);
            }
            self.may_turn(old, expired)?;
            let next = match self.next(old) {
                Next::Page(next) => next,
                Next::None => return Err(Blocked::UnfinishedSend),
                Next::Gone => continue,
            };
            let moved = Tail { page: next, ..tail };
            // ORDER[tail] AcqRel: what was seen of the groups before; fails if one was created.
            if self.mem.tail().compare_exchange(tail.word(), moved.word(), AcqRel, Relaxed).is_ok() {
                break;
            }
        }
        let place = self.layout().place(old);
        if self.layout().cursor_lap_comes_round(new) && self.op_cells().turning_before(place, old) {
            return Err(Blocked::UnfinishedSend);
        }
        let lap = self.layout().cursor_lap(new);
        let turned = Cursor { state: PageState::Prepared, lap, count: 0, units: 0 };
        // The lap bits of `old` and `new` differ, also over the jump of an era (recovery.rs), so this ends
        // after one swap, whoever made it.
        self.swap_cursor(cell, old, |c| (c.state == PageState::Sealed).then_some(turned));
        // ORDER[number] AcqRel: the turned cursor before the number, for who reads it by that.
        let number = self.page(old).number_word();
        let _ = number.compare_exchange(old, new, AcqRel, Relaxed);
        Ok(())
    }

    /// Whether everything about page `old` allows its turn; under `DropOldest`, and if it has `expired`, after
    /// taking it away from the groups that are not done.
    fn may_turn(&self, old: u64, expired: bool) -> Result<(), Blocked> {
        let geometry = &self.layout().geometry;
        let why = match geometry.overflow {
            _ if expired => Some(Loss::Expired),
            Overflow::DropOldest => self.all_resolved(old).map(|()| Some(Loss::Dropped))?,
            Overflow::Block => None,
        };
        let mut groups = 0;
        for number in 0..self.layout().geometry.max_groups {
            match Group::at(self.mem, number) {
                None => {}
                Some(group) if group.is_removed() && geometry.pins() && group.holds_message_in(old) => {
                    return Err(Blocked::HeldMessage);
                }
                Some(group) if group.is_removed() => {}
                Some(group) => {
                    groups += 1;
                    match why {
                        Some(why) => group.take_page_away(old, why),
                        // In a closed channel, as it seemed to have expired.
                        None if !geometry.pins() && group.has_lost(old) => group.take_page_away(old, Loss::Expired),
                        None => {
                            self.done_with(group, old)?;
                            group.fold_damage(old);
                        }
                    }
                }
            }
        }
        if groups == 0 && why.is_none() { Err(Blocked::NoGroup) } else { Ok(()) }
    }

    /// Whether `group` is done with page `number`, resolving abandoned slots on the way.
    fn done_with(&self, group: Group<'a>, number: u64) -> Result<(), Blocked> {
        let mut settled = false;
        while let Some(index) = group.last_unfinished(number) {
            if self.page(number).slot(number, index) == SlotState::Untouched {
                if !self.judge(number, index) {
                    return Err(Blocked::UnfinishedSend);
                }
            } else if settled {
                return Err(Blocked::Group(group.number()));
            } else {
                group.settle();
                settled = true;
            }
        }
        Ok(())
    }

    fn all_resolved(&self, number: u64) -> Result<(), Blocked> {
        let page = self.page(number);
        let count = page.cursor().count.min(self.layout().slots);
        for index in 0..count {
            let resolved = page.slot(number, index) != SlotState::Untouched || self.judge(number, index);
            if !resolved {
                return Err(Blocked::UnfinishedSend);
            }
        }
        Ok(())
    }

    /// Resolves a slot that was reserved and not written, if it can be proved that it never will
    /// be. True if it is resolved, or its page has gone; who only looks leaves it, as it will stay.
    pub fn judge(&self, number: u64, index: usize) -> bool {
        let page = self.page(number);
        // ORDER[reserve] Acquire: the count first, so that the reserver's announcement is seen.
        let c = page.cursor();
        if page.number() != number || c.lap != self.layout().cursor_lap(number) {
            return true;
        }
        if index >= c.count {
            return false;
        }
        let word = page.slot_word(index);
        let seen = word.load(Acquire); // ORDER[commit]
        let tag = self.layout().slot_tag(number);
        if crate::layout::Slot::of(seen, tag) != SlotState::Untouched {
            return true;
        }
        let offset = crate::Offset::new(number, index).as_u64();
        if !self.op_cells().nobody_holds(self.layout().place(number), offset) {
            return false;
        }
        if self.only_looks() {
            return true;
        }
        // From exactly the word first read, so that a commit in between makes it fail.
        let skipped = crate::layout::Slot::word(tag, SlotState::Skipped);
        if page.number() == number {
            let _ = word.compare_exchange(seen, skipped, AcqRel, Relaxed);
        }
        true
    }

    /// Refuses further sends, in the file: after this no add comes back open until the channel is
    /// opened for sending again.
    pub fn close(&self) -> Result<(), Blocked> {
        let Some(mut cell) = OpCell::taken(self.mem, self.me) else {
            return Err(Blocked::TooManySending);
        };
        loop {
            let head = self.head();
            let closed = Head { closed: true, ..head };
            // ORDER[head]
            if head.closed || self.mem.head().compare_exchange(head.word(), closed.word(), AcqRel, Relaxed).is_ok() {
                self.seal(&mut cell, head.page, |_, _| true);
                return Ok(());
            }
        }
    }

    /// Lifts a close; returns the send epoch for a new handle.
    pub fn open_for_sending(&self) -> u32 {
        loop {
            let head = self.head();
            if !head.closed {
                return head.epoch;
            }
            let open = Head { closed: false, epoch: head.epoch.wrapping_add(1), ..head };
            let _ = self.mem.head().compare_exchange(head.word(), open.word(), AcqRel, Relaxed);
        }
    }

    /// The first place of the ring.
    pub fn first(&self) -> crate::Offset {
        crate::Offset::new(self.tail().page, 0)
    }

    /// Offset behind the last place given out.
    pub fn end(&self) -> crate::Offset {
        loop {
            let head = self.head().page;
            let page = self.page(head);
            let c = page.cursor();
            if page.number() == head && c.lap == self.layout().cursor_lap(head) {
                return crate::Offset::new(head, c.count.min(self.layout().slots));
            }
        }
    }

    /// The live pages, oldest first, as they were a moment ago.
    pub fn pages(self) -> impl Iterator<Item = u64> + 'a {
        std::iter::successors(Some(self.tail().page), move |&page| match self.next(page) {
            Next::Page(next) => Some(next),
            Next::None => None,
            Next::Gone => Some(self.tail().page.max(page + 1)).filter(|&next| next <= self.head().page),
        })
    }

    /// The slots of page `number` that are such.
    pub fn count(&self, number: u64, is_such: impl Fn(SlotState) -> bool) -> u64 {
        let page = self.page(number);
        let c = page.cursor();
        if c.lap != self.layout().cursor_lap(number) {
            return 0;
        }
        let count = (0..c.count.min(self.layout().slots)).filter(|&i| is_such(page.slot(number, i))).count();
        if page.number() == number { count as u64 } else { 0 }
    }
}
