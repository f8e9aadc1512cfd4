//! Several messages that go out together: one claim over up to as many as an ack word has bits, and what
//! becomes of it when its owner dies or gives back what it is not done with.
//!
//! **Invariants.**
//! - A claim over several messages stands in the first cell of a *row* of claim cells, and keeps the others:
//!   all of them until it is known how far it goes, then as many as there are messages to be done, less one.
//!   Nobody else uses those, so no more than `max_held` messages are out. Who takes the first cell with its
//!   row looks at the others after that; who takes one of the others looks at the first after that; who finds
//!   the other there gives way.
//! - It is extended once, and sealed by that.
//! - Being done with one is one bit of the cell's word for done; the last sets the ack bits and frees the
//!   cell.
//! - A cell that says SEVERAL is nobody's and keeps no row. What is left in it is what its owner was not done
//!   with, less what was taken out of it: the lowest is taken first, by any receiver, into a claim cell of its
//!   own. There comes to be one: the cells before the rows are never SEVERAL.
//! - It is taken by one CAS of the SEVERAL word, which names the taker's cell and the message, and has a
//!   new epoch. The taker's cell says INTENT of that message since before. So an INTENT is a claim if the
//!   group's cursor names it (cells.rs), or a SEVERAL word does.
//! - Whoever changes the word next, or frees the cell, first makes that INTENT HELD and notes the message as
//!   taken out. So no claim is anonymous, and none is made twice. (In a removed group there are no claims: there
//!   the cell is freed as it is.)
//! - What is taken out need not be done when the cell is free. So the cursor is moved behind all of it before,
//!   if it names the cell still.
//! - What is taken out was delivered once before. So nothing goes out together where a message may be
//!   delivered only once.
#![forbid(unsafe_code)]

use crate::Offset;
use crate::cells::{ClaimCell, ClaimState, ClaimWord, Extent, Seen, is_claim};
use crate::claim::{Claim, Hand, Want};
use crate::group::Group;
use crate::layout::{Acks, GroupCursor, ROW, SlotState};
use crate::page::Place;
use crate::sync::{
    Ordering::{Acquire, Relaxed, SeqCst},
    full_fence_after_rmw,
};

impl<'a> Group<'a> {
    /// Takes the first cell of a row that nobody uses.
    #[inline]
    pub(crate) fn take_row(&self, hand: &mut Hand) -> Option<(usize, ClaimWord)> {
        let (rows, cells) = (self.mem.layout.rows(), self.mem.layout.geometry.max_held);
        let all = (rows..cells).step_by(ROW);
        // From the one that it had last.
        let last = hand.row;
        let all = all.clone().filter(|&row| row >= last).chain(all.take_while(|&row| row < last));
        all.into_iter().find_map(|row| {
            self.use_cell(row);
            let word = self.cell(row).take_with_row(hand.owner)?;
            full_fence_after_rmw(); // ORDER[row]: with the fence in is_kept
            hand.row = row;
            if (row + 1..row + ROW).all(|cell| self.cell(cell).load().state() == ClaimState::Free) {
                return Some((row, word));
            }
            self.cell(row).free(word);
            None
        })
    }

    /// Whether a cell that was just taken is in a row that somebody keeps.
    #[inline]
    pub(crate) fn is_kept(&self, cell: usize) -> bool {
        let Some(place) = cell.checked_sub(self.mem.layout.rows()).map(|place| place % ROW).filter(|&place| place > 0)
        else {
            return false;
        };
        full_fence_after_rmw(); // ORDER[row]: with the fence in take_row
        let first = self.cell(cell - place).seen();
        first.word.keeps_row()
            && match first.word.state() {
                ClaimState::Free => false,
                ClaimState::Taken => true,
                _ => !first.extent.is_sealed() || place < first.undone().count_ones() as usize,
            }
    }

    /// Extends a claim that keeps its row over what else is there, up to `most` messages, which go out
    /// together with the one before: how far it goes now. Nothing if it goes no further.
    #[inline]
    pub fn extend_over(&self, claim: &Claim, most: usize) -> Option<Extent> {
        let (number, next) = (claim.offset.page(), claim.offset.index() as usize + 1);
        let cell = self.cell(claim.cell as usize);
        let (page, tag) = (self.page(number), self.tag(number));
        let end = next.next_multiple_of(32).min(self.mem.layout.slots).min(next.saturating_add(most.min(ROW - 1)));
        // All are in one ack word.
        let acked = Acks::of(self.ack_word(&page, claim.offset.index() as usize).0.load(Acquire), tag); // ORDER[ack]
        let is_there = |&index: &usize| {
            matches!(page.slot(number, index), SlotState::Committed(_)) && acked >> (index % 32) & 1 == 0
        };
        let more = (next..end).take_while(is_there).count();
        if cell.load() != claim.word {
            return None;
        }
        let extent = cell.extend_and_seal(claim.extent, more)?;
        if more == 0 {
            return None;
        }
        full_fence_after_rmw(); // ORDER[group state]: with the fence in holds_message_in
        self.is_current().then_some(extent)
    }

    /// Verifies a message that a claim was extended over, where it lies; one that does not is left behind.
    #[inline]
    pub fn look_at(&self, claim: &mut Claim) -> bool {
        let page = self.page(claim.offset.page());
        let SlotState::Committed(at) = page.slot(claim.offset.page(), claim.offset.index() as usize) else {
            return false;
        };
        claim.record = Place::unread(at);
        let good = page.verify(self.mem.uuid, claim.offset.as_u64(), &mut claim.record);
        if !good {
            self.mark_damaged(claim.offset);
        }
        good
    }

    /// Being done with one of the messages that went out together. Whether their page may be finished by
    /// that; nothing as long as others are out.
    #[inline]
    pub fn finish_one(&self, claim: &Claim) -> Option<bool> {
        let (cell, index) = (self.cell(claim.cell as usize), claim.offset.index() as usize);
        let done = cell.say_one_done(1 << (index % 32));
        (done & claim.together == claim.together).then(|| {
            let last = index - index % 32 + claim.together.ilog2() as usize;
            let may_be_finished = self.set_all_done(claim.offset.page(), last, done);
            cell.free(claim.word);
            may_be_finished
        })
    }

    /// What nobody is done with, and nobody has taken out, of the messages of a claim, by their bits in the ack
    /// word. One that did not verify is no message.
    pub(crate) fn left(&self, seen: &Seen) -> u32 {
        let (offset, page) = (seen.offset(), self.page(seen.offset().page()));
        let is_gone = seen.word.state() == ClaimState::Several && page.number() != offset.page();
        if is_gone || offset.index() as usize >= self.mem.layout.slots {
            return 0;
        }
        let (word, _) = self.ack_word(&page, offset.index() as usize);
        let taken = match seen.word.state() {
            ClaimState::Several => seen.word.taken().map_or(0, |(_, bit)| 1 << bit),
            _ => 0,
        };
        let left = seen.undone() & !Acks::of(word.load(Acquire), self.tag(offset.page())) & !taken; // ORDER[ack]
        let is_damaged =
            |bit: u32| page.slot(offset.page(), seen.offset_at(bit).index() as usize) == SlotState::Damaged;
        Acks::bits(left).filter(|&bit| !is_damaged(bit)).fold(0, |left, bit| left | 1 << bit)
    }

    /// The lowest message left in a SEVERAL cell.
    pub(crate) fn lowest_left(&self, seen: &Seen) -> Option<Offset> {
        let left = self.left(seen);
        (left != 0).then(|| seen.offset_at(left.trailing_zeros()))
    }

    /// Completes the last taking out of a SEVERAL cell. False if the taker's cell changed meanwhile.
    fn complete_taking(&self, cell: ClaimCell<'a>, seen: &Seen) -> bool {
        let Some((taker, bit)) = seen.word.taken() else { return true };
        if taker < self.mem.layout.geometry.max_held {
            let taker = self.cell(taker);
            let Some(taken) = taker.read() else { return false };
            // After the cells were read: they are this group's.
            if taken.word.state() == ClaimState::Intent && taken.first == seen.offset_at(bit) && self.is_here() {
                taker.change(taken.word, taken.word.to(ClaimState::Held));
            }
        }
        cell.say_taken_out(seen.extent, 1 << bit);
        true
    }

    /// Whether an INTENT is of a message that was taken out of a SEVERAL cell.
    pub(crate) fn was_taken_out(&self, taker: usize, first: Offset) -> bool {
        self.cells().map(ClaimCell::seen).any(|seen| {
            seen.word.state() == ClaimState::Several
                && seen.word.taken().is_some_and(|(cell, bit)| cell == taker && seen.offset_at(bit) == first)
        })
    }

    /// Takes the lowest message out of a SEVERAL cell; false if there is none any more, nothing without a
    /// free cell to take it into.
    pub(crate) fn take_out(&self, number: usize, hand: &mut Hand, want: Want) -> Option<bool> {
        let cell = self.cell(number);
        let mut mine: Option<(usize, ClaimWord)> = None;
        let taken = loop {
            let seen = cell.seen();
            // After the cell was read: it is this group's.
            if seen.word.state() != ClaimState::Several || !self.is_current() {
                break Some(false);
            }
            if !self.complete_taking(cell, &seen) {
                continue;
            }
            let Some(offset) = self.lowest_left(&seen) else { break Some(false) };
            let Some((taker, word)) = mine else {
                let Some(own) = self.take_cell(hand, want.kind(), 1) else { break None };
                mine = Some(own);
                // Again, now that it has the cell: that may have been the one named last.
                continue;
            };
            let (own, bit) = (self.cell(taker), (offset.index() % 32) as u32);
            let (intent, extent) = own.intend(word, offset.as_u64(), hand.now, true);
            if !cell.change(seen.word, seen.word.several(Some((taker, bit)))) {
                mine = Some((taker, intent));
                continue;
            }
            full_fence_after_rmw(); // ORDER[group state]: with the fence in holds_message_in
            if !self.is_current() {
                mine = Some((taker, intent));
                break Some(false);
            }
            mine = None;
            let held = own.hold(intent);
            cell.say_taken_out(seen.extent, 1 << bit);
            self.settle_several(number, cell, &cell.seen());
            if !held {
                continue; // a lease that was taken away at once
            }
            let word = intent.to(ClaimState::Held);
            self.count_redelivery(own, word);
            let at = match self.page(offset.page()).slot(offset.page(), offset.index() as usize) {
                SlotState::Committed(at) => at,
                _ => self.mem.layout.data_words,
            };
            let (group, state, cell, record) = (self.number() as u32, self.state(), taker as u32, Place::unread(at));
            hand.claim = Claim { group, state, cell, word, offset, record, extent, goes_on: false, together: 0 };
            return Some(true);
        };
        if let Some((taker, word)) = mine {
            // A helper may have made the INTENT of a claim in a removed group HELD.
            let _ = self.cell(taker).free(word) || self.cell(taker).free(word.to(ClaimState::Held));
        }
        taken
    }

    /// Frees a SEVERAL cell that has nothing left.
    pub(crate) fn settle_several(&self, number: usize, cell: ClaimCell<'a>, seen: &Seen) {
        let is_over = seen.word.state() == ClaimState::Several && self.left(seen) == 0;
        if is_over && self.complete_taking(cell, seen) && self.is_current() {
            self.move_cursor_behind(number, seen);
            cell.free(seen.word);
        }
    }

    /// Moves the cursor behind a claim, if it names its cell still.
    fn move_cursor_behind(&self, cell: usize, seen: &Seen) {
        let (number, behind) = (seen.first.page(), seen.offset().index() as usize + 1);
        let (page, word) = self.in_page(number);
        loop {
            let at = word.load(Acquire);
            let cursor = self.cursor(number, at);
            let names = cursor.cell == Some(cell) && is_claim(seen.first, number, cursor);
            if page.number() != number || !names {
                return;
            }
            // Only in a damaged file it goes further than what was sent.
            let index = behind.min(page.cursor().count).max(cursor.index);
            let cursor = GroupCursor { cell: None, index, ..cursor };
            if word.compare_exchange(at, cursor.word(self.tag(number)), SeqCst, Relaxed).is_ok() {
                return;
            }
        }
    }

    /// Gives back what is not done of messages that went out together. Whether there was any.
    pub fn leave(&self, claim: &Claim) -> bool {
        let cell = self.cell(claim.cell as usize);
        while cell.load() == claim.word {
            let Some(seen) = cell.read().filter(|seen| seen.word == claim.word) else { continue };
            self.ack_extent(&seen);
            let several = claim.word.several(None);
            if cell.change(claim.word, several) {
                self.free_if_gone(cell, several, claim.offset);
                self.returns().fetch_add(1, SeqCst);
                return true;
            }
        }
        false
    }

    /// After a cell became SEVERAL: it is free if nobody can have its messages any more.
    pub(crate) fn free_if_gone(&self, cell: ClaimCell<'a>, several: ClaimWord, offset: Offset) {
        full_fence_after_rmw(); // as `lose_if_gone`
        if !self.is_current() || self.has_lost(offset.page()) {
            cell.free(several);
        }
    }
}
