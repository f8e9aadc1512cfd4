//! What is found in a file that nobody has open: whether a channel can have been left so, and what its
//! last users left undone.
//!
//! **Invariants.**
//! - Every number that the protocols use without looking, because no user of a channel could have left
//!   another there, is looked at here, before the first use. What does not [fit](fits) is recovered; what
//!   the dead leave, at any instruction, fits.
//! - Nobody is alive, so what is said of the living is forgotten, whoever says it: entries of opens, op
//!   cells, sleepers. A claim becomes a message given back if there is such a message, that the group has
//!   been given and is not done with, in one cell only; else nothing.
//! - No word of a table is of a lap to come, nor of this lap beyond what was sent: it would come true when
//!   a page is opened or written.
//! - No payload is read. See [`settle`].
#![forbid(unsafe_code)]

use crate::Offset;
use crate::cells::{ClaimState, Seen};
use crate::group::{AT, Group};
use crate::layout::{Acks, GroupCursor, Head, Layout, MAX_INSTANCE, MAX_PAGE_NUMBER, PageState, Slot, SlotState, Tail};
use crate::memory::Memory;
use crate::opens::OpenId;
use crate::page::Page;
use crate::ring::Ring;
use crate::sync::Ordering;
use Ordering::{Acquire, Relaxed};
use std::collections::BTreeSet;

/// Whether everything fits together that the protocols rely on. Nothing is stored.
pub fn fits(mem: Memory<'_>) -> bool {
    let instances = (0..mem.layout.geometry.max_groups).all(|group| Group::any(mem, group).instance() < MAX_INSTANCE);
    instances && pages_fit(mem) && Group::all(mem).all(|group| group.fits())
}

/// Whether head, tail, era, and the numbers and cursors of the pages fit together.
pub fn pages_fit(mem: Memory<'_>) -> bool {
    let layout = mem.layout;
    let head = Head::of(mem.head().load(Acquire)).page;
    let tail = Tail::of(mem.tail().load(Acquire)).page;
    // From the tail, place by place, to the head.
    let mut live = vec![false; layout.geometry.max_pages];
    let mut number = tail;
    loop {
        let seen = Page::new(mem, layout.place(number)).number();
        let jumps = number == tail && seen != tail;
        if seen < number || seen > head || jumps || layout.place(seen) != layout.place(number) {
            return false;
        }
        if std::mem::replace(&mut live[layout.place(seen)], true) {
            return false;
        }
        if seen == head {
            break;
        }
        number = seen + 1;
    }
    let following = mem.following(head);
    // The next place, and over a jump, too.
    if following > MAX_PAGE_NUMBER + 1 || layout.place(following) != layout.place(head + 1) {
        return false;
    }
    (0..layout.geometry.max_pages).all(|place| {
        let page = Page::new(mem, place);
        let (number, cursor) = (page.number(), page.cursor());
        let next = layout.first_at(following, place);
        let is = |state, page| cursor.state == state && cursor.lap == layout.cursor_lap(page);
        // No tag of the page that comes up is one that may be in this page.
        let comes_later = |page| {
            let laps = layout.lap(next) - layout.lap(page);
            laps < 1 << 31
                && Layout::is_later_lap(layout.slot_tag(next), layout.slot_tag(page))
                && layout.cursor_lap(next) != layout.cursor_lap(page)
        };
        if number < following && !comes_later(number) {
            return false;
        }
        match number {
            n if live[place] => n == head && cursor.lap == layout.cursor_lap(n) || is(PageState::Sealed, n),
            n if n == next => is(PageState::Prepared, n),
            // Being turned when its last user died.
            n => n < tail && layout.place(n) == place && (is(PageState::Sealed, n) || is(PageState::Prepared, next)),
        }
    })
}

/// The numbers of the live pages, in no order; the pages fit together.
fn live_pages(mem: Memory<'_>) -> impl Iterator<Item = u64> {
    let head = Head::of(mem.head().load(Acquire)).page;
    let tail = Tail::of(mem.tail().load(Acquire)).page;
    let numbers = (0..mem.layout.geometry.max_pages).map(move |place| Page::new(mem, place).number());
    numbers.filter(move |number| (tail..=head).contains(number))
}

/// Forgets the living, and makes what they held messages given back. Under the open lock; nobody else
/// has the file open, and what was found [`fits`].
pub fn settle(ring: &Ring<'_>) {
    let mem = ring.mem;
    OpenId::forget_all(mem);
    mem.page_limit().fetch_min(MAX_PAGE_NUMBER + 1, Relaxed);
    let end = ring.end().max(Offset::new(mem.era().load(Relaxed), 0));
    mem.durable_end().fetch_min(end.as_u64(), Relaxed);
    for place in 0..mem.layout.geometry.max_pages {
        settle_tables(ring, place);
    }
    for number in 0..mem.layout.geometry.max_groups {
        Group::any(mem, number).settle_found(ring);
    }
}

/// Takes out of the tables of a page what no user of the channel can have left there.
fn settle_tables(ring: &Ring<'_>, place: usize) {
    let (mem, layout) = (ring.mem, ring.mem.layout);
    let page = Page::new(mem, place);
    let (number, cursor) = (page.number(), page.cursor());
    // Places that were given out; of a page that comes up none, and one that is being turned is over.
    let head = ring.head().page;
    let sent = if number > head { 0 } else { cursor.count.min(layout.slots) };
    let lap = layout.slot_tag(number);
    let clear = |at: usize, keep: bool| {
        let word = page.word(at);
        if !keep && word.load(Relaxed) != 0 {
            word.store(0, Relaxed);
        }
    };
    for (index, at) in layout.slot_words().enumerate() {
        let tag = Slot::tag(page.word(at).load(Relaxed));
        let earlier = (1..1 << 31).contains(&lap.wrapping_sub(tag));
        clear(at, earlier || tag == lap && index < sent);
        // Where it can still be written a record ends before what was given out.
        if number == head
            && let SlotState::Committed(at) = page.slot(number, index)
            && page.said(at).is_none_or(|(_, end)| end > cursor.units)
        {
            page.word(Layout::PAGE_DAMAGE_SEEN).store(number + 1, Relaxed);
            page.settle(number, index, SlotState::Damaged);
        }
    }
    for group in (0..layout.geometry.max_groups).map(|group| Group::any(mem, group)) {
        let newest = group.tag(number) as u8;
        for at in std::iter::once(layout.group_cursor_at(group.number())).chain(layout.ack_words(group.number())) {
            let word = page.word(at).load(Relaxed);
            let (tag, generation) = ((word >> 40) as u32, (word >> 32) as u8);
            let of_this_lap = tag == lap & 0xff_ffff && number <= head && generation <= newest;
            clear(at, Layout::is_later_lap(lap, tag) || of_this_lap);
        }
        // What is still to be sent is not done.
        for chunk in (sent / 32 * 32..layout.slots).step_by(32) {
            let (word, _) = group.ack_word(&page, chunk);
            let seen = word.load(Relaxed);
            let known = (1u64 << sent.saturating_sub(chunk).min(32)) - 1;
            let bits = Acks::of(seen, group.tag(number));
            if number <= head && u64::from(bits) & !known != 0 {
                word.store(Acks::word(group.tag(number), bits & known as u32), Relaxed);
            }
        }
    }
}

impl<'a> Group<'a> {
    /// Whether its start and its cursors are of live pages, and not beyond what was sent.
    pub(crate) fn fits(self) -> bool {
        let head = Head::of(self.mem.head().load(Acquire)).page;
        let (start, following) = (self.start(), Offset::new(self.mem.following(head), 0));
        let tail = Tail::of(self.mem.tail().load(Acquire)).page;
        // Only the oldest page is taken away, and while it is the newest, too, only in a closed channel, as it
        // has expired: then it is sealed.
        let geometry = &self.mem.layout.geometry;
        let may_be_newest = |page: &Page<'_>| geometry.max_age != 0 && page.cursor().state == PageState::Sealed;
        let may_be_lost =
            |number, page: &Page<'_>| !geometry.pins() && number == tail && (number < head || may_be_newest(page));
        let fits = |number: u64| {
            let (page, word) = self.in_page(number);
            let cursor = self.cursor(number, word.load(Acquire));
            // It may start behind the last message that a recovery found there.
            let end = self.places(&page).max(self.start_index(number));
            cursor.index <= end && (cursor.closed.is_none() || may_be_lost(number, &page))
        };
        // Behind the newest message, where a recovery found less than there was.
        (start.page() <= head || start <= following)
            && live_pages(self.mem).filter(|&number| number >= start.page()).all(fits)
    }

    /// Places given out in a page.
    fn places(&self, page: &Page<'_>) -> usize {
        page.cursor().count.min(self.mem.layout.slots)
    }

    fn settle_found(self, ring: &Ring<'a>) {
        let cells = (0..self.mem.layout.geometry.max_held).map(|cell| self.cell(cell));
        if self.is_removed() {
            for cell in cells.filter(|cell| cell.load().state() != ClaimState::Free) {
                cell.free(cell.load());
            }
            return;
        }
        let unused = cells.rev().take_while(|cell| cell.is_new()).count();
        self.cells_used().store((self.mem.layout.geometry.max_held - unused) as u64, Relaxed);
        self.starved().store(0, Relaxed);
        let tail = ring.tail().page;
        self.live[AT].store(self.hint(tail), Relaxed);
        self.reap_all();
        live_pages(self.mem).for_each(|number| self.settle_cursor(number));
        let mut back = BTreeSet::new();
        for (number, cell) in self.cells().enumerate() {
            if cell.load().state() == ClaimState::Returned {
                // Its message is not; only who takes it next can say so.
                cell.forget_done();
            }
            if let Some(seen) = cell.read()
                && seen.word.state() != ClaimState::Free
                && !(seen.offset().page() >= tail
                    && self
                        .returned_in(number, &seen)
                        .is_some_and(|mut all| all.all(|o| self.was_given(o) && back.insert(o))))
            {
                cell.free(seen.word);
            }
        }
    }

    /// The messages that a cell has, if it was given back.
    fn returned_in(&self, cell: usize, seen: &Seen) -> Option<impl Iterator<Item = Offset> + use<>> {
        let bits = match seen.word.state() {
            ClaimState::Returned => 1 << (seen.offset().index() % 32),
            ClaimState::Several if self.pins() && self.mem.layout.begins_row(cell) => self.left(seen),
            _ => 0,
        };
        let seen = *seen;
        (bits != 0).then(|| Acks::bits(bits).map(move |bit| seen.offset_at(bit)))
    }

    /// Moves the cursor behind what the last claim was extended over.
    fn settle_cursor(&self, number: u64) {
        let (page, word) = self.in_page(number);
        let cursor = self.cursor(number, word.load(Relaxed));
        if let Some(index) = self.claimed_to(number, &page, cursor).filter(|_| cursor.cell.is_some()) {
            word.store(GroupCursor { cell: None, index, ..cursor }.word(self.tag(number)), Relaxed);
        }
    }

    /// Where the claims in a page end, what the last one was extended over included; nothing if its cell is torn.
    fn claimed_to(&self, number: u64, page: &Page<'_>, cursor: GroupCursor) -> Option<usize> {
        let frontier = self.frontier(number, cursor)?;
        Some(frontier.index.min(self.places(page)).max(cursor.index))
    }

    /// Whether the group was given this message of a live page, and is not done with it.
    pub(crate) fn was_given(&self, offset: Offset) -> bool {
        let (number, index) = (offset.page(), offset.index() as usize);
        let (page, word) = self.in_page(number);
        let cursor = self.cursor(number, word.load(Acquire));
        page.number() == number
            && self.start() <= offset
            && index < self.claimed_to(number, &page, cursor).unwrap_or(cursor.index)
            && matches!(page.slot(number, index), SlotState::Committed(_))
            && !self.is_done(number, index)
    }
}

#[cfg(all(test, not(disk_chan_loom)))]
mod tests {
    use super::*;
    use crate::Options;
    use crate::cells::ClaimCell;

    /// A file may say that a message which was given back is done. Whoever has it then still has it.
    #[test]
    fn what_was_given_back_is_not_done() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().page_size(64 << 10).max_pages(2).max_groups(2).max_held(4);
        let channel = options.blocking_open(dir.path().join("test.chan")).unwrap();
        channel.sender().blocking_send("once more").unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        drop(rx.try_lease().unwrap());
        let (mem, ring) = (channel.root.memory(), channel.root.ring());
        let cell = (0..4).find(|&cell| ClaimCell::new(mem, 0, cell).load().state() == ClaimState::Returned);
        let done = &mem.claim_cell(0, cell.expect("it was given back"))[7];
        done.store(done.load(Relaxed) | u64::from(u32::MAX), Relaxed);
        settle(&ring);
        let message = rx.try_recv().unwrap();
        Group::all(mem).for_each(Group::settle);
        assert_eq!((&*message, channel.groups()[0].lag), (&b"once more"[..], 1));
    }
}
