//! Receiving: claim the next message, or one that was given back; finish it or give it back.
//!
//! **Invariants.**
//! - A group's cursor in a page moves by one CAS at a time: over a committed message, naming the
//!   claimer's cell, which says INTENT of it since before; or over a slot that needs no claim,
//!   naming no cell. It never passes an unresolved slot.
//! - Nothing is claimed that is not there, and a cell is taken only when there is something to
//!   claim. So a receiver that waits owns nothing.
//! - Under `Block` a claimed message pins its page: its ack bit is unset, and if its group is
//!   removed, its cell is looked for. It is verified after the claim, a lease as a copy. Under
//!   `DropOldest`, or with a `max_age`, it is copied and verified before the claim, as the page may go.
//! - A word is changed only from exactly the value read, after which the page was seen to be the one
//!   worked for and the group to be there: a late receiver of a removed group changes nothing.
//! - What was given back stays in its cell, and is handed out before anything new, the lowest
//!   offset first.
#![forbid(unsafe_code)]

use crate::cells::{ClaimCell, ClaimState, ClaimWord, Extent, Kind, Seen};
use crate::group::Group;
use crate::layout::{Acks, GroupCursor, Layout, PageState, SlotState};
use crate::page::Place;
use crate::ring::{Next, Ring};
use crate::sync::{Ordering, full_fence_after_rmw};
use crate::{AckError, Offset};
use Ordering::{Acquire, Relaxed, SeqCst};

/// A message handed out: the cell that says so, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The number of the group.
    pub group: u32,
    /// The instance of the group.
    pub state: u64,
    /// The claim cell.
    pub cell: u32,
    /// What it says: HELD, with the epoch of this claim.
    pub word: ClaimWord,
    /// The offset of the message.
    pub offset: Offset,
    /// Its record.
    pub record: Place,
    /// How far it was extended.
    pub extent: Extent,
    /// Whether it may be extended: when its message is done (extend.rs), or at once (several.rs).
    pub goes_on: bool,
    /// The messages of this claim that went out together, by their bits in the ack word; none if it is one.
    pub together: u32,
}

/// Why nothing was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// There is nothing behind the cursor.
    Empty,
    /// There is nothing behind the cursor, and the page that senders write is sealed.
    End,
    /// The next place belongs to a send that has begun and not ended.
    Unfinished,
    /// Every claim cell of the group is in use.
    NoCell,
    /// This many messages went before the group had them.
    Lagged(u64),
    /// The group was removed.
    Removed,
}

/// What one receiver keeps between receives. Nothing in it is owed to anybody.
#[derive(Clone, Debug)]
pub struct Hand {
    /// The open it belongs to.
    pub owner: usize,
    /// The page it stands in.
    pub page: u64,
    /// Where it looks for a claim cell first.
    pub cell: usize,
    /// Where it looks for a row first; a row's first cell, or none.
    pub row: usize,
    /// When it takes a lease, in milliseconds of the monotonic clock.
    pub now: u32,
    /// The group's count of returns when it last found none.
    pub seen_returns: Option<u64>,
    /// What it claimed last. It stays in place, as copying it about costs more than the claim.
    pub claim: Claim,
}

impl Hand {
    /// Of an open, for a receiver that begins in `page` and looks for cells at `cell` first.
    pub fn new(owner: usize, page: u64, cell: usize) -> Self {
        let (word, offset, record) = (ClaimWord::default(), Offset::from_u64(0), Place::unread(0));
        let extent = Extent::default();
        let claim = Claim { group: 0, state: 0, cell: 0, word, offset, record, extent, goes_on: false, together: 0 };
        Self { owner, page, cell, row: 0, now: 0, seen_returns: None, claim }
    }
}

/// What one look at the group's cursor in a page found.
enum Step {
    /// It is in the hand; verified already only where it was copied first.
    Claimed,
    Empty,
    Unfinished,
    End,
    Lost,
    NoCell,
    Removed,
}

/// What a receiver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// One message after the other: the next when it is done with this one.
    Message,
    /// Several messages that go out together.
    Several,
    /// A message that is out while others are received.
    Owned,
    /// A copy that can be taken away.
    Lease,
}

impl Want {
    #[inline]
    pub(crate) fn kind(self) -> Kind {
        if self == Self::Lease { Kind::Lease } else { Kind::Message }
    }
}

impl<'a> Group<'a> {
    /// Hands out a message, in `hand.claim`: one that was given back, or the next. The bytes of a
    /// lease, and of every message that does not pin its page, are in `copy`; else they lie in the page,
    /// pinned by the claim.
    ///
    /// `patient` is whether to prove an abandoned slot abandoned, which the caller does before it
    /// sleeps.
    #[inline]
    pub fn receive(
        self,
        ring: &Ring<'a>,
        hand: &mut Hand,
        want: Want,
        copy: &mut Vec<u8>,
        patient: bool,
    ) -> Result<(), Nothing> {
        let copy_first = !self.pins();
        // Without a free cell first what only waits to be extended is settled, then what needs none is taken.
        let (mut settled, mut without_cell) = (false, false);
        loop {
            if copy_first && let Some(n) = self.unreported_loss() {
                return Err(Nothing::Lagged(n));
            }
            let returns = self.returns().load(SeqCst);
            if hand.seen_returns != Some(returns) {
                let Some((cell, seen)) = self.lowest_returned(without_cell) else {
                    if without_cell {
                        return Err(Nothing::NoCell);
                    }
                    hand.seen_returns = Some(returns);
                    continue;
                };
                let taken = match seen.word.state() {
                    ClaimState::Several => self.take_out(cell, hand, want),
                    _ => Some(self.retake(cell, &seen, hand, want, copy, copy_first)),
                };
                if taken.is_none() {
                    without_cell = settled;
                    self.settle();
                    settled = true;
                    continue;
                }
                (settled, without_cell) = (false, false);
                match taken {
                    Some(true) => {}
                    _ if !self.is_current() => return Err(Nothing::Removed),
                    _ => continue,
                }
            } else {
                match self.step(hand, want, copy, copy_first) {
                    Step::Claimed => {}
                    Step::Empty | Step::Unfinished if !self.is_current() => return Err(Nothing::Removed),
                    Step::Unfinished if patient && self.resolve_hole(ring, hand.page) => continue,
                    Step::Unfinished => return Err(Nothing::Unfinished),
                    Step::Empty if patient && self.overlooked_return(hand) => continue,
                    Step::Empty => return Err(Nothing::Empty),
                    Step::End => match ring.next(hand.page) {
                        Next::Page(next) => {
                            hand.page = next;
                            self.raise_page_hint(next);
                            continue;
                        }
                        Next::Gone => {
                            self.leave_lost_page(ring, hand);
                            continue;
                        }
                        Next::None if !self.is_current() => return Err(Nothing::Removed),
                        Next::None if patient && self.overlooked_return(hand) => continue,
                        Next::None => return Err(Nothing::End),
                    },
                    Step::Lost => {
                        if !self.is_current() {
                            return Err(Nothing::Removed);
                        }
                        if self.leave_lost_page(ring, hand) {
                            continue;
                        }
                        // The newest is taken away where nothing more is sent.
                        let sealed = ring.page(hand.page).cursor().state == PageState::Sealed;
                        return Err(if sealed { Nothing::End } else { Nothing::Empty });
                    }
                    Step::NoCell if !settled => {
                        self.settle();
                        settled = true;
                        continue;
                    }
                    Step::NoCell => return Err(Nothing::NoCell),
                    Step::Removed => return Err(Nothing::Removed),
                }
            }
            if copy_first || self.verify(&mut hand.claim, want.kind(), copy) {
                return Ok(());
            }
            self.pass_over(&hand.claim);
        }
    }

    /// One look at the cursor in the page where the hand stands.
    #[inline]
    fn step(&self, hand: &mut Hand, want: Want, copy: &mut Vec<u8>, copy_first: bool) -> Step {
        let layout = self.mem.layout;
        let number = hand.page;
        let (page, cursor_word) = self.in_page(number);
        let tag = self.tag(number);
        let mut mine: Option<(usize, ClaimWord)> = None;
        let step = loop {
            // ORDER[claim] Acquire: what the claimers before did.
            let seen = cursor_word.load(Acquire);
            let cursor = self.cursor(number, seen);
            // After the word was read: it is this group's, and of this lap.
            if page.number() != number || cursor.closed.is_some() {
                break Step::Lost;
            }
            if !self.is_current() {
                break Step::Removed;
            }
            let Some(frontier) = self.frontier(number, cursor) else { continue };
            let index = frontier.index;
            let slot = if index < layout.slots { page.slot(number, index) } else { SlotState::Untouched };
            let at = match slot {
                SlotState::Untouched => {
                    let c = page.cursor();
                    if c.lap != layout.cursor_lap(number) {
                        break Step::Lost;
                    }
                    let end = index >= c.count.min(layout.slots) && c.state == PageState::Sealed;
                    let hole = index < c.count.min(layout.slots);
                    break if end {
                        Step::End
                    } else if hole {
                        Step::Unfinished
                    } else {
                        Step::Empty
                    };
                }
                SlotState::Committed(at) if !self.has_acked(&page, tag, index) => at,
                SlotState::Committed(_) | SlotState::Skipped | SlotState::Damaged => {
                    if self.end_at(&frontier) {
                        let over = GroupCursor { cell: None, index: index + 1, ..cursor };
                        let _ = cursor_word.compare_exchange(seen, over.word(tag), SeqCst, Relaxed);
                    }
                    continue;
                }
            };
            let offset = Offset::new(number, index);
            let mut place = Place::unread(at);
            if copy_first && !page.copy(self.mem.uuid, offset.as_u64(), &mut place, copy) {
                if page.number() == number {
                    self.mark_damaged(offset);
                }
                continue;
            }
            let Some((number_of_cell, word)) = mine else {
                let once = layout.geometry.max_attempts == 1;
                let with_row = want == Want::Several && !copy_first && !once && self.can_go_on(index);
                let row = if with_row { self.take_row(hand) } else { None };
                let Some(taken) = row.or_else(|| self.take_cell(hand, want.kind(), 0)) else { break Step::NoCell };
                mine = Some(taken);
                // Again, now that it has the cell: the cursor may have come to name it meanwhile, by a
                // claim that is over and went as far as this index (cells.rs); and a removed group keeps
                // its number while it has the cell, so that a late swap meets no other group.
                continue;
            };
            let cell = self.cell(number_of_cell);
            let goes_on = match want {
                // Where others claim, too, they would only have to seal it.
                Want::Message => cursor.cell.is_none_or(|last| last == number_of_cell),
                Want::Several => word.keeps_row(),
                Want::Owned | Want::Lease => false,
            };
            let goes_on = goes_on && !copy_first && self.can_go_on(index);
            let (intent, extent) = cell.intend(word, offset.as_u64(), hand.now, !goes_on);
            // What the cursor names by this cell was over when this receiver took it.
            if cursor.cell != Some(number_of_cell) && !self.end_at(&frontier) {
                mine = Some((number_of_cell, intent));
                continue;
            }
            let claimed = GroupCursor { cell: Some(number_of_cell), index: index + 1, ..cursor };
            // ORDER[claim] Release: the INTENT before the cursor that names its cell. SeqCst: before
            // the look at the group's state.
            if cursor_word.compare_exchange(seen, claimed.word(tag), SeqCst, Relaxed).is_err() {
                mine = Some((number_of_cell, intent));
                continue;
            }
            full_fence_after_rmw(); // ORDER[group state]: with the fence in holds_message_in
            if !self.is_current() {
                mine = Some((number_of_cell, intent));
                break Step::Removed;
            }
            mine = None;
            if !cell.hold(intent) {
                continue; // a lease that was taken away at once
            }
            let held = intent.to(ClaimState::Held);
            let (group, state, cell) = (self.number() as u32, self.state(), number_of_cell as u32);
            hand.claim = Claim { group, state, cell, word: held, offset, record: place, extent, goes_on, together: 0 };
            return Step::Claimed;
        };
        if let Some((cell, word)) = mine {
            // A helper may have made the INTENT of a claim in a removed group HELD.
            let held = word.to(ClaimState::Held);
            let _ = self.cell(cell).free(word) || self.cell(cell).free(held);
        }
        step
    }

    /// Takes a free cell: that of the claim before, or the first behind it.
    #[inline]
    pub(crate) fn take_cell(&self, hand: &mut Hand, kind: Kind, attempts: u64) -> Option<(usize, ClaimWord)> {
        let cells = self.mem.layout.geometry.max_held;
        let mut cell = hand.cell;
        for _ in 0..cells {
            self.use_cell(cell);
            if let Some(word) = self.cell(cell).take(hand.owner, kind, attempts) {
                if self.is_kept(cell) {
                    self.cell(cell).free(word);
                } else {
                    hand.cell = cell;
                    return Some((cell, word));
                }
            }
            cell = if cell + 1 < cells { cell + 1 } else { 0 };
        }
        None
    }

    /// Whoever looks at all cells looks at this one, too, from now on.
    #[inline]
    pub(crate) fn use_cell(&self, cell: usize) {
        let used = self.cells_used();
        if used.load(Acquire) <= cell as u64 {
            used.fetch_max(cell as u64 + 1, SeqCst);
        }
    }

    /// Verifies a claimed message: a message where it lies, as its claim pins the page; a lease as a
    /// copy, as its page goes if the group is removed.
    #[inline]
    fn verify(&self, claim: &mut Claim, kind: Kind, copy: &mut Vec<u8>) -> bool {
        let page = self.page(claim.offset.page());
        match kind {
            Kind::Message => page.verify(self.mem.uuid, claim.offset.as_u64(), &mut claim.record),
            Kind::Lease => page.copy(self.mem.uuid, claim.offset.as_u64(), &mut claim.record, copy),
        }
    }

    pub(crate) fn mark_damaged(&self, offset: Offset) {
        let page = self.page(offset.page());
        // Before the slot, so that whoever folds the page knows that there is something to count.
        page.word(Layout::PAGE_DAMAGE_SEEN).fetch_max(offset.page() + 1, SeqCst);
        page.settle(offset.page(), offset.index() as usize, SlotState::Damaged);
    }

    /// Proves the slot at the cursor abandoned, if it is; true if the cursor can move now.
    pub fn resolve_hole(&self, ring: &Ring<'a>, number: u64) -> bool {
        let page = self.page(number);
        let index = self.next_index(number).1;
        let count = page.cursor().count.min(self.mem.layout.slots);
        index < count && page.number() == number && ring.judge(number, index)
    }

    /// False if there is no other page: the newest was lost.
    fn leave_lost_page(&self, ring: &Ring<'a>, hand: &mut Hand) -> bool {
        // Whoever closed the cursor is counting what the group lost: help, so that this receiver
        // hears of it before it goes on.
        self.count_lost_page(hand.page);
        // It may begin before the group does: there is nothing for it, and the look goes on.
        let next = match ring.next(hand.page) {
            Next::Page(next) => next,
            Next::Gone => ring.tail().page,
            Next::None => return false,
        };
        std::mem::replace(&mut hand.page, next) != next
    }

    /// Whether a message was given back by one who died before it could say so.
    fn overlooked_return(self, hand: &mut Hand) -> bool {
        let overlooked = self.lowest_returned(false).is_some();
        if overlooked {
            hand.seen_returns = None;
        }
        overlooked
    }

    /// `alone` is whether only one that was given back alone will do: it has its cell.
    fn lowest_returned(self, alone: bool) -> Option<(usize, Seen)> {
        let returned = self.cells().enumerate().filter_map(|(i, cell)| {
            // One that changes meanwhile may have more.
            let seen = cell.seen();
            let offset = match seen.word.state() {
                ClaimState::Several if alone => return None,
                ClaimState::Several => self.lowest_left(&seen)?,
                _ => Some(seen.offset()).filter(|_| self.is_deliverable(seen.word))?,
            };
            ((offset.index() as usize) < self.mem.layout.slots).then_some((i, seen, offset))
        });
        returned.min_by_key(|&(_, _, offset)| offset).map(|(cell, seen, _)| (cell, seen))
    }

    /// The group's cursor in page `number`, and the next index to be claimed there.
    fn next_index(&self, number: u64) -> (GroupCursor, usize) {
        let word = self.in_page(number).1;
        loop {
            let cursor = self.cursor(number, word.load(Acquire));
            if let Some(frontier) = self.frontier(number, cursor) {
                return (cursor, frontier.index);
            }
        }
    }

    /// Takes a RETURNED cell; false if somebody else did, or its page has gone.
    fn retake(
        &self,
        cell: usize,
        seen: &Seen,
        hand: &mut Hand,
        want: Want,
        copy: &mut Vec<u8>,
        copy_first: bool,
    ) -> bool {
        // After the cell was read: it is this group's.
        if !self.is_current() {
            return false;
        }
        let (word, offset) = (seen.word, seen.offset());
        let page = self.page(offset.page());
        // Only what a damaged file says is RETURNED and not committed: then it does not verify.
        let at = match page.slot(offset.page(), offset.index() as usize) {
            SlotState::Committed(at) => at,
            SlotState::Untouched | SlotState::Skipped | SlotState::Damaged => self.mem.layout.data_words,
        };
        let mut place = Place::unread(at);
        if copy_first && !page.copy(self.mem.uuid, offset.as_u64(), &mut place, copy) {
            if self.has_lost(offset.page()) {
                self.cell(cell).lose(word);
            } else {
                self.mark_damaged(offset);
                self.cell(cell).free(word);
            }
            return false;
        }
        let Some(held) = self.cell(cell).retake(word, hand.owner, want.kind(), hand.now) else { return false };
        full_fence_after_rmw(); // ORDER[group state]
        if !self.is_current() {
            self.cell(cell).free(held);
            return false;
        }
        self.count_redelivery(self.cell(cell), held);
        // What was before it in its claim is done.
        let (group, state, cell, extent) = (self.number() as u32, self.state(), cell as u32, Extent::default());
        hand.claim =
            Claim { group, state, cell, word: held, offset, record: place, extent, goes_on: false, together: 0 };
        true
    }

    /// Finishes a message. Also whether its page may be finished by that.
    #[inline]
    pub fn ack(&self, claim: &Claim) -> (Result<(), AckError>, bool) {
        let cell = self.cell(claim.cell as usize);
        let (page, index) = (claim.offset.page(), claim.offset.index() as usize);
        // Without DONE only where the page stays until the bit is set: there a page that was turned
        // tells who finds the cell HELD that the message was done.
        let last = if claim.word.kind() == Kind::Message && self.pins() {
            let last = self.set_all_done(page, index, Acks::range(index, claim.extent.more()));
            // It fails if somebody has settled what its owner had said it was done with.
            cell.free(claim.word);
            last
        } else {
            if !cell.finish(claim.word) {
                return (Err(AckError::Taken), false);
            }
            let last = self.set_done(page, index);
            // It fails if a helper has set the bit and freed the cell.
            cell.free(claim.word.to(ClaimState::Done));
            last
        };
        if self.is_current() { (Ok(()), last) } else { (Err(AckError::GroupRemoved), true) }
    }

    /// Gives a message back.
    pub fn give_back(&self, claim: &Claim) -> Result<(), AckError> {
        self.ack_before(claim.offset, claim.extent.more());
        self.returned(self.return_cell(self.cell(claim.cell as usize), claim.word, claim.offset))
    }

    /// Gives a message back that is to become a dead letter: no receiver takes it (dead.rs).
    pub fn reject(&self, claim: &Claim) -> Result<(), AckError> {
        self.ack_before(claim.offset, claim.extent.more());
        self.returned(self.reject_cell(self.cell(claim.cell as usize), claim.word, claim.offset))
    }

    /// What its holder hears of a message that was lost, or not, when it was given back; nothing if it was not his.
    fn returned(&self, lost: Option<bool>) -> Result<(), AckError> {
        match lost {
            None => Err(AckError::Taken),
            Some(_) if !self.is_current() => Err(AckError::GroupRemoved),
            Some(true) => Err(AckError::Gone),
            Some(false) => Ok(()),
        }
    }

    /// Whether a message could be claimed now: what a sleeper's open looks for.
    pub fn has_more(&self, ring: &Ring<'a>) -> bool {
        let is_back = |cell: ClaimCell<'a>| match cell.load().state() {
            ClaimState::Several => self.lowest_left(&cell.seen()).is_some(),
            _ => self.is_deliverable(cell.load()),
        };
        if self.cells().any(is_back) {
            return true;
        }
        let mut number = self.page_hint().max(ring.tail().page);
        loop {
            let page = self.page(number);
            let (cursor, index) = self.next_index(number);
            let c = page.cursor();
            let end = c.count.min(self.mem.layout.slots);
            if page.number() == number && cursor.closed.is_none() && index < end {
                return page.slot(number, index) != SlotState::Untouched || ring.judge(number, index);
            }
            number = match ring.next(number) {
                Next::Page(next) => next,
                Next::None => return false,
                Next::Gone => ring.tail().page,
            };
        }
    }
}
