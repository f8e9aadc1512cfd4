//! What the dead left in a group, and what the living hold for too long: given back, or settled.
//!
//! **Invariants.**
//! - Everything here is a swap from exactly a word that was read, and needs no lock: any number of
//!   threads and processes do it at once, and each may die or be stopped at any point.
//! - A cell of a dead open is changed only after its entry was seen to be that open's still (opens.rs,
//!   cleaning). HELD, and an INTENT that is a claim, becomes RETURNED, unless the message is done or
//!   its page has gone; the rest becomes FREE.
//! - Only a lease is taken from a live holder. It is left by one swap, so a late `ack` fails.
#![forbid(unsafe_code)]

use crate::Offset;
use crate::cells::{ClaimCell, ClaimState, ClaimWord, Count, Kind, is_claim};
use crate::group::Group;
use crate::opens::OpenId;
use crate::sync::{Ordering, full_fence_after_rmw};
use Ordering::{Acquire, SeqCst};

impl<'a> Group<'a> {
    /// Finishes what those who finished a message, or lost one, had begun, and were stopped in between:
    /// DONE cells become ack bits, GONE ones are counted; and so does what claims were extended over.
    pub fn settle(self) {
        for (number, cell) in self.cells().enumerate() {
            let Some(seen) = cell.read() else { continue };
            match seen.word.state() {
                ClaimState::Done => drop(self.settle_done(cell, seen.word, seen.offset())),
                ClaimState::Gone => cell.settle_gone(seen.word),
                ClaimState::Held => self.settle_extent(cell, &seen),
                ClaimState::Several => self.settle_several(number, cell, &seen),
                ClaimState::Free | ClaimState::Taken | ClaimState::Intent | ClaimState::Returned => {}
            }
        }
    }

    /// Sets the ack bit of a DONE cell and frees it. Whether its page may be finished by that.
    pub(crate) fn settle_done(&self, cell: ClaimCell<'a>, done: ClaimWord, offset: Offset) -> bool {
        if self.is_undeliverable(done) {
            cell.count(Count::DeadLettered, done); // nobody else finishes such a message: dead.rs
        }
        let last = self.set_done(offset.page(), offset.index() as usize);
        // The cell was this group's when it was read, if the group is there still.
        if self.is_current() {
            cell.free(done);
        }
        last
    }

    /// Cleans the cells of a dead open, or of one's own that ends. True if there were any.
    pub fn reap(self, open: OpenId) -> bool {
        // ORDER[open entry] A cell was read before the entry, and before the group's state.
        self.reap_if(|owner| owner == open.index && open.is_entered(self.mem) && self.is_here())
    }

    /// Cleans all cells: nobody has the file open.
    pub fn reap_all(self) -> bool {
        self.reap_if(|_| true)
    }

    fn reap_if(self, over: impl Fn(usize) -> bool) -> bool {
        self.settle();
        let (mut changed, mut back) = (false, false);
        for (number, cell) in self.cells().enumerate() {
            if let Some(left) = self.reap_cell(|word| over(word.owner()), number, cell) {
                changed = true;
                back |= matches!(left, ClaimState::Returned | ClaimState::Several);
            }
        }
        if back {
            self.returns().fetch_add(1, SeqCst);
        }
        // Last: who takes the partition then finds in it what the dead had out.
        self.reap_hold(over) || changed
    }

    /// What a cell has become; nothing if it is not `over`.
    fn reap_cell(self, over: impl Fn(ClaimWord) -> bool, number: usize, cell: ClaimCell<'a>) -> Option<ClaimState> {
        loop {
            let Some(seen) = cell.read() else { continue };
            let (word, offset) = (seen.word, seen.offset());
            if !over(word) {
                return None;
            }
            let to = match word.state() {
                ClaimState::Free | ClaimState::Returned | ClaimState::Done | ClaimState::Gone | ClaimState::Several => {
                    return None;
                }
                ClaimState::Intent if self.is_claimed(number, seen.first) => word.to(ClaimState::Held),
                ClaimState::Intent | ClaimState::Taken => word.free(),
                ClaimState::Held => {
                    self.count_redelivery(cell, word);
                    // Under `Block` a page turns only when it is done.
                    self.ack_extent(&seen);
                    let left = self.left(&seen);
                    if left == 0 || self.pins() && self.has_lost(offset.page()) {
                        word.free()
                    } else if left == 1 << (offset.index() % 32) {
                        word.returned()
                    } else {
                        word.several(None)
                    }
                }
            };
            if cell.change(word, to) && to.state() != ClaimState::Held {
                match to.state() {
                    ClaimState::Several => self.free_if_gone(cell, to, offset),
                    ClaimState::Returned => {
                        self.lose_if_gone(cell, to, offset);
                    }
                    _ => {}
                }
                return Some(to.state());
            }
        }
    }

    /// Whether an INTENT of `first` in this cell is a claim.
    fn is_claimed(&self, cell: usize, first: Offset) -> bool {
        let number = first.page();
        let (page, word) = self.in_page(number);
        let cursor = self.cursor(number, word.load(Acquire));
        page.number() == number && cursor.cell == Some(cell) && is_claim(first, number, cursor)
            || self.was_taken_out(cell, first)
    }

    /// Whether a message just given back cannot be handed out again; then it is counted, and its cell is
    /// free.
    fn lose_if_gone(&self, cell: ClaimCell<'a>, returned: ClaimWord, offset: Offset) -> bool {
        full_fence_after_rmw(); // against close_in: it sees RETURNED, or the cursor is seen closed
        // If the cell changed before this loses it, it was handed out again, or lost by somebody else.
        (!self.is_current() || self.has_lost(offset.page())) && cell.lose(returned)
    }

    /// Counts the delivery of a message that had been given back: before its cell leaves HELD.
    pub(crate) fn count_redelivery(&self, cell: ClaimCell<'a>, held: ClaimWord) {
        if held.attempts() > 0 && !self.is_undeliverable(held) {
            cell.count(Count::Redelivered, held);
        }
    }

    /// Takes the leases away that were taken longer ago than the channel allows. `now` reads the
    /// monotonic clock, in milliseconds. True if there were any.
    pub fn take_overdue(self, now: impl Fn() -> u32) -> bool {
        let timeout = self.mem.layout.geometry.lease_timeout;
        let overdue = |cell: ClaimCell<'a>| {
            let seen = cell.read()?;
            let word = seen.word;
            let claimed = matches!(word.state(), ClaimState::Held | ClaimState::Intent);
            let overdue = claimed && word.kind() == Kind::Lease && cell.is_overdue(word, &now, timeout);
            // After the cell was read: it is this group's.
            (overdue && self.is_here()).then_some((word, seen.offset()))
        };
        let mut taken = false;
        for (number, cell) in self.cells().enumerate() {
            let Some((word, offset)) = overdue(cell) else { continue };
            if word.state() == ClaimState::Held {
                self.count_redelivery(cell, word);
                taken |= self.return_cell(cell, word, offset).is_some();
            } else if self.is_claimed(number, offset) {
                // Of one stopped right after its claim; it is taken away at the next look.
                cell.change(word, word.to(ClaimState::Held));
            }
        }
        taken
    }

    /// HELD -> RETURNED, or GONE where the page or the group has gone. Whether it was lost; nothing if
    /// the claim was over.
    pub(crate) fn return_cell(&self, cell: ClaimCell<'a>, held: ClaimWord, offset: Offset) -> Option<bool> {
        let returned = cell.give_back(held)?;
        Some(self.after_return(cell, returned, offset))
    }

    /// The same of a message that is handed out no more.
    pub(crate) fn reject_cell(&self, cell: ClaimCell<'a>, held: ClaimWord, offset: Offset) -> Option<bool> {
        let returned = cell.reject(held, self.mem.layout.geometry.max_attempts)?;
        Some(self.after_return(cell, returned, offset))
    }

    /// After a cell became RETURNED. Whether its message was lost.
    fn after_return(&self, cell: ClaimCell<'a>, returned: ClaimWord, offset: Offset) -> bool {
        let lost = self.lose_if_gone(cell, returned, offset);
        // SeqCst: before the look for sleepers, ORDER[sleep].
        self.returns().fetch_add(1, SeqCst);
        lost
    }
}
