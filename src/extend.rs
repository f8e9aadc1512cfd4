//! A claim that goes on: a receiver that is done with a message extends its claim to the next, instead of
//! finishing one claim and making another. Nobody else is told until somebody else claims, so a receiver
//! that is alone in its group writes to lines of its own.
//!
//! **Extent** `{epoch 32, sealed 1, messages behind the first 5}`: how far the claim goes. **Done**
//! `{epoch 32, bits 32}`: with what of that its owner is done.
//!
//! **Invariants.**
//! - Only the owner extends, by one CAS of the extent, over committed messages, and hands out at once what
//!   it extends to: one when it is done with all before it, or several together (several.rs). So nothing is
//!   claimed that is not handed out. All messages of a claim are in one ack word.
//! - The group's cursor stays right behind the first of them. The next message is behind the extent of the
//!   claim that the cursor names ([`Group::frontier`]). Who moves the cursor on seals that extent first, by
//!   a CAS from exactly the extent that it saw; who finds it sealed extends no more. So every message is
//!   claimed once, and in their order. The cell of a claim that is over tells its extent until it is used
//!   again, and by then the acks tell it; where they do not, the cursor was moved behind it (several.rs).
//! - Ack bits are set when the claim ends. Until then whoever needs them sets them for the owner
//!   ([`Group::settle`]), and ends a claim that only waits to be extended. A cell leaves a claim only after
//!   the ack bits of what its owner is done with are set.
//! - A receiver that waits has ended its claim before. Who is done with a message looks for those who wait
//!   for its page or its cell, but without a fence after its store: one who begins to wait at that moment
//!   finds it when this receiver receives again, or at the watcher's next tick.
//! - Where messages do not pin their page, and of leases, no claim is extended.
#![forbid(unsafe_code)]

use crate::Offset;
use crate::cells::{ClaimCell, ClaimState, Kind, Seen, is_claim};
use crate::claim::{Claim, Hand};
use crate::group::Group;
use crate::layout::{Acks, GroupCursor, SlotState};
use crate::page::Place;
use crate::sync::full_fence_after_rmw;

/// Where the claims in a page end, as somebody saw it.
#[derive(Clone, Copy, Debug)]
pub struct Frontier<'a> {
    /// The next index to be claimed.
    pub index: usize,
    /// The last claim, as long as its cell tells of it.
    last: Option<(ClaimCell<'a>, Seen)>,
}

/// What became of the attempt to extend a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// The next message is in the hand, verified.
    Claimed,
    /// Nothing is there yet.
    NotYet,
    /// The claim has to end.
    Over,
}

impl<'a> Group<'a> {
    /// Where the claims in page `number` end, whose cursor was read as `cursor`. Nothing if the last claim
    /// changed meanwhile: then the cursor is read again.
    #[inline]
    pub fn frontier(&self, number: u64, cursor: GroupCursor) -> Option<Frontier<'a>> {
        let named = cursor.cell.filter(|&cell| cell < self.mem.layout.geometry.max_held);
        if let Some(cell) = named {
            let cell = self.cell(cell);
            let seen = cell.read()?;
            if is_claim(seen.first, number, cursor) {
                return Some(Frontier { index: seen.offset().index() as usize + 1, last: Some((cell, seen)) });
            }
        }
        Some(Frontier { index: cursor.index, last: None })
    }

    /// Makes the last claim HELD and extended no further, as everybody does before moving the cursor. False
    /// if it was extended: then the cursor is read again.
    #[inline]
    pub fn end_at(&self, frontier: &Frontier<'a>) -> bool {
        match frontier.last {
            Some((cell, Seen { word, extent, .. }))
                if matches!(word.state(), ClaimState::Intent | ClaimState::Held)
                // After the cell was read: it is this group's.
                && self.is_here() =>
            {
                if word.state() == ClaimState::Intent {
                    cell.change(word, word.to(ClaimState::Held));
                }
                cell.seal(extent)
            }
            _ => true,
        }
    }

    /// Whether a claim of this message can be extended.
    #[inline]
    pub(crate) fn can_go_on(&self, index: usize) -> bool {
        !(index + 1).is_multiple_of(32) && index + 1 < self.mem.layout.slots
    }

    /// Extends the claim in the hand, with whose message its owner is done, to the next message.
    #[inline]
    pub fn extend(&self, hand: &mut Hand) -> Extended {
        let claim = &mut hand.claim;
        let (number, index) = (claim.offset.page(), claim.offset.index() as usize + 1);
        let cell = self.cell(claim.cell as usize);
        // It was given back, or somebody else ended it.
        if cell.load() != claim.word {
            return Extended::Over;
        }
        let page = self.page(number);
        let at = match page.slot(number, index) {
            SlotState::Committed(at) if !self.has_acked(&page, self.tag(number), index) => at,
            SlotState::Untouched => return Extended::NotYet,
            SlotState::Committed(_) | SlotState::Skipped | SlotState::Damaged => return Extended::Over,
        };
        let Some(extent) = cell.extend(claim.extent) else { return Extended::Over };
        full_fence_after_rmw(); // ORDER[group state]: with the fence in holds_message_in
        if !self.is_current() {
            return Extended::Over;
        }
        (claim.extent, claim.offset, claim.record) = (extent, Offset::new(number, index), Place::unread(at));
        claim.goes_on = self.can_go_on(index);
        if page.verify(self.mem.uuid, claim.offset.as_u64(), &mut claim.record) {
            return Extended::Claimed;
        }
        self.pass_over(claim);
        Extended::Over
    }

    /// Says that the owner is done with the message of a claim that goes on.
    #[inline]
    pub fn say_done(&self, claim: &Claim) {
        let bits = Acks::range(claim.offset.index() as usize, claim.extent.more());
        self.cell(claim.cell as usize).say_done(claim.extent, bits);
    }

    /// Ends a claim that went on. Whether its page may be finished by that; nothing if it was ended before.
    pub fn end(&self, claim: &Claim) -> Option<bool> {
        let is_there = self.cell(claim.cell as usize).load() == claim.word;
        is_there.then(|| self.ack(claim).1)
    }

    /// Ends a claim whose message does not verify.
    #[cold]
    pub(crate) fn pass_over(&self, claim: &Claim) {
        if self.page(claim.offset.page()).number() == claim.offset.page() {
            self.mark_damaged(claim.offset);
        }
        self.ack_before(claim.offset, claim.extent.more());
        self.cell(claim.cell as usize).free(claim.word);
    }

    /// Sets the ack bits of the `more` messages before one.
    pub(crate) fn ack_before(&self, offset: Offset, more: usize) {
        if more > 0 {
            let before = (offset.index() as usize).wrapping_sub(1);
            self.set_all_done(offset.page(), before, Acks::range(before, more - 1));
        }
    }

    /// Sets the ack bits of what the owner of a claim is done with. True if that is all of it.
    pub(crate) fn ack_extent(&self, seen: &Seen) -> bool {
        let offset = seen.offset();
        let index = offset.index() as usize;
        if self.page(offset.page()).number() != offset.page() {
            return seen.is_done(); // it was turned, as all was done
        }
        // In a damaged file it may be of what is still to be sent.
        if index >= self.page(offset.page()).cursor().count {
            return false;
        }
        let done = seen.done();
        if done != 0 {
            self.set_all_done(offset.page(), index, done);
        }
        seen.is_done()
    }

    /// Sets the ack bits of a claim, and ends it if its owner only keeps it to extend it.
    pub(crate) fn settle_extent(&self, cell: ClaimCell<'a>, seen: &Seen) {
        if seen.word.kind() == Kind::Message {
            let sealed = seen.is_done() && cell.seal(seen.extent);
            // Also where it was extended meanwhile: then with what was seen its owner is done.
            let is_all = self.ack_extent(seen);
            // The cell was this group's when it was read, if the group is there still.
            if sealed && is_all && self.is_current() {
                cell.free(seen.word);
            }
        }
    }

    /// What the group is done with and whose ack bits are not set yet.
    pub fn done_and_not_acked(self) -> impl Iterator<Item = Offset> + 'a {
        let held = self.cells().filter_map(|cell| cell.read()).filter(|seen| seen.word.state() == ClaimState::Held);
        let done = held.flat_map(|seen| Acks::bits(seen.done()).map(move |bit| seen.offset_at(bit)));
        done.filter(move |offset| {
            let number = offset.page();
            self.page(number).number() == number && !self.is_done(number, offset.index() as usize)
        })
    }
}
