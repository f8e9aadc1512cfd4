//! Which receiver of a group holds a partition: a channel of several that share one directory.
//!
//! **Holder word** `{epoch 28, wanted 1, member 22, owner 13}`, one for each group, in its live line. Free:
//! the owner is 0. Held: the owner is the open that the holder belongs to, plus one; the member is the
//! receiver: `{its open of partition 0 12, its number there 10}`, the same in all partitions.
//!
//! **Invariants.**
//! - A word is changed only by a CAS from exactly what was read, after which the group was seen to be there.
//!   Every taking has a new epoch. So a holder knows its hold by the word that it took, whoever sets the
//!   wanted bit meanwhile.
//! - A hold is ended by its receiver, or, once its open is dead, by whoever cleans up after that: never by
//!   anybody else while it is alive. So who holds may claim without looking again.
//! - The dead's claim cells are cleaned before their hold is ended (`ORDER[hold]`), and a receiver lets go
//!   only of what it has nothing out of. So whoever takes a partition finds what was handed out and is not
//!   done among what was given back, and hands it out before anything new: it looks for that first.
//! - A receiver that goes while leases of it are out leaves its hold to them: it becomes nobody's, and is
//!   ended by whoever finds that no claim cell is its open's any more. Nothing is claimed by it meanwhile.
//! - A hold of a removed group means nothing; the next group of the number begins with a free word of
//!   another epoch.
#![forbid(unsafe_code)]

use crate::cells::ClaimState;
use crate::claim::Hand;
use crate::group::{Group, HOLDER};
use crate::sync::{Ordering, full_fence_after_rmw};
use Ordering::{Acquire, SeqCst};

/// A receiver, as holder words name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member(u32);

impl Member {
    /// Receivers of one open that can hold at once.
    pub const NUMBERS: usize = (1 << 10) - 1;
    /// Who left leases behind.
    const GONE: Self = Self((1 << 22) - 1);

    /// The receiver of this number in an open of partition 0.
    pub fn new(open: usize, number: usize) -> Self {
        debug_assert!(open < 1 << 12 && number < Self::NUMBERS);
        Self((open as u32) << 10 | number as u32)
    }
}

/// A holder word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HolderWord(u64);

impl HolderWord {
    const WANTED: u64 = 1 << 35;
    const EPOCHS: u64 = (1 << 28) - 1;

    fn new(epoch: u64, wanted: bool, member: u64, owner: u64) -> Self {
        Self((epoch & Self::EPOCHS) << 36 | if wanted { Self::WANTED } else { 0 } | member << 13 | owner)
    }

    fn epoch(self) -> u64 {
        self.0 >> 36
    }

    /// The open that the holder belongs to; none if it is free.
    pub fn owner(self) -> Option<usize> {
        ((self.0 & 0x1fff) as usize).checked_sub(1)
    }

    /// Whether nobody holds it.
    pub fn is_free(self) -> bool {
        self.owner().is_none()
    }

    fn operand(self) -> u32 {
        (self.0 >> 13) as u32 & Member::GONE.0
    }

    /// The receiver that holds it; none if it is free, or its receiver is gone.
    pub fn member(self) -> Option<Member> {
        let member = Member(self.operand());
        (!self.is_free() && member != Member::GONE).then_some(member)
    }

    /// Whether its receiver is gone, and what is left of the hold are leases.
    pub fn is_left(self) -> bool {
        !self.is_free() && self.operand() == Member::GONE.0
    }

    /// Held: whether another receiver, which holds fewer, asks for one.
    pub fn is_wanted(self) -> bool {
        !self.is_free() && self.0 & Self::WANTED != 0
    }

    /// Free: if it was let go for one that holds fewer, what its last holder held then, without it.
    pub fn limit(self) -> Option<usize> {
        (self.is_free() && self.0 & Self::WANTED != 0).then(|| self.operand() as usize)
    }

    /// The same, asked for by nobody.
    fn unwanted(self) -> Self {
        Self(self.0 & !Self::WANTED)
    }

    /// The same, asked for.
    pub(crate) fn wanted(self) -> Self {
        Self(self.0 | Self::WANTED)
    }

    /// Held by a receiver.
    pub(crate) fn held(self, member: Member, owner: usize) -> Self {
        Self::new(self.epoch() + 1, false, member.0.into(), owner as u64 + 1)
    }

    /// Held by leases alone.
    fn left(self) -> Self {
        Self::new(self.epoch(), false, Member::GONE.0.into(), self.0 & 0x1fff)
    }

    /// Free.
    pub(crate) fn free(self, limit: Option<usize>) -> Self {
        let operand = limit.map_or(0, |limit| limit.min(Member::GONE.0 as usize) as u64);
        Self::new(self.epoch(), limit.is_some(), operand, 0)
    }
}

impl<'a> Group<'a> {
    /// Who holds the partition.
    #[inline]
    pub fn holder(&self) -> HolderWord {
        HolderWord(self.live[HOLDER].load(Acquire)) // ORDER[hold]
    }

    fn change_holder(&self, from: HolderWord, to: HolderWord) -> bool {
        // ORDER[hold] AcqRel: what the last holder, or who cleaned up after it, did before it ended the hold
        // happens before what the next one does. SeqCst: before the look at the group's state.
        self.live[HOLDER].compare_exchange(from.0, to.0, SeqCst, Acquire).is_ok()
    }

    /// Changes the word as long as `next` says to what. Whether it did.
    fn swap_holder(&self, next: impl Fn(HolderWord) -> Option<HolderWord>) -> bool {
        loop {
            let seen = self.holder();
            let Some(to) = next(seen) else { return false };
            if self.change_holder(seen, to) {
                return true;
            }
        }
    }

    /// Takes the partition for the receiver whose hand this is, from exactly `seen`, which is free: the hold.
    pub fn take_hold(&self, seen: HolderWord, hand: &mut Hand, member: Member) -> Option<HolderWord> {
        // After the word was read: it is this group's.
        if !seen.is_free() || !self.is_current() {
            return None;
        }
        let held = seen.held(member, hand.owner);
        if !self.change_holder(seen, held) {
            return None;
        }
        full_fence_after_rmw(); // ORDER[group state]
        if !self.is_current() {
            self.let_go(held, None);
            return None;
        }
        // What was given back comes first, also if nobody has said so yet.
        hand.seen_returns = None;
        Some(held)
    }

    /// Whether the hold still stands.
    pub fn is_held(&self, held: HolderWord) -> bool {
        self.holder().unwanted() == held
    }

    /// Asks the holder that was seen for the partition. False if somebody else changed the word first.
    pub fn want(&self, seen: HolderWord) -> bool {
        seen.member().is_some() && self.is_current() && self.change_holder(seen, seen.wanted())
    }

    /// Takes a request back: its holder, who refuses it, or who asked. False if there is none.
    pub fn refuse(&self, held: HolderWord) -> bool {
        self.change_holder(held.wanted(), held)
    }

    /// Ends a hold, of which nothing is out; with a limit for one that asked for it and holds less than that.
    pub fn let_go(&self, held: HolderWord, limit: Option<usize>) -> bool {
        self.swap_holder(|seen| (seen.unwanted() == held).then(|| seen.free(limit)))
    }

    /// Ends a hold whose receiver goes; as long as leases are out they keep it.
    pub fn leave_hold(&self, held: HolderWord) {
        let left = self.swap_holder(|seen| (seen.unwanted() == held).then(|| seen.left()));
        if left {
            self.end_left(held.left());
        }
    }

    /// Ends a hold that was left to leases, if none is out any more.
    pub fn end_left(&self, seen: HolderWord) -> bool {
        // After the word was read: nothing is claimed by this hold any more.
        let over = seen.is_left() && seen.owner().is_some_and(|owner| !self.has_out(owner));
        over && self.is_here() && self.change_holder(seen, seen.free(None))
    }

    /// Whether an open has anything out of this group.
    pub fn has_out(self, open: usize) -> bool {
        let is_out = |state| matches!(state, ClaimState::Taken | ClaimState::Intent | ClaimState::Held);
        self.cells().map(|cell| cell.load()).any(|word| word.owner() == open && is_out(word.state()))
    }

    /// Ends the hold of a dead open, or of one's own that ends, whose claim cells are clean. True if there was
    /// one.
    pub(crate) fn reap_hold(&self, over: impl Fn(usize) -> bool) -> bool {
        // ORDER[open entry] The word was read before the entry, and before the group's state.
        self.swap_holder(|seen| seen.owner().filter(|&owner| over(owner)).map(|_| seen.free(None)))
    }

    /// Makes the partition of a group that comes or goes free, so that a late CAS fails.
    pub(crate) fn forget_holder(&self) {
        self.swap_holder(|seen| Some(HolderWord::new(seen.epoch() + 1, false, 0, 0)));
    }
}

#[cfg(all(test, not(disk_chan_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_word_survives() {
        let free = HolderWord::default();
        assert!(free.is_free() && !free.is_wanted() && free.limit().is_none() && free.member().is_none());
        for (open, number) in [(0, 0), (4095, Member::NUMBERS - 1), (17, 3)] {
            let member = Member::new(open, number);
            let held = free.held(member, 4095);
            assert_eq!((held.owner(), held.member(), held.is_wanted()), (Some(4095), Some(member), false));
            let wanted = held.wanted();
            assert_eq!((wanted.owner(), wanted.member(), wanted.is_wanted()), (Some(4095), Some(member), true));
            assert_eq!(wanted.unwanted(), held);
            let left = wanted.left();
            assert_eq!(
                (left.owner(), left.member(), left.is_left(), left.is_wanted()),
                (Some(4095), None, true, false)
            );
            let freed = wanted.free(Some(1023));
            assert_eq!((freed.limit(), freed.is_free(), freed.is_wanted()), (Some(1023), true, false));
            assert_ne!(freed.held(member, 4095), held, "a hold is known by its epoch");
        }
        let mut word = HolderWord::new(HolderWord::EPOCHS, true, 0, 1);
        word = word.held(Member::new(0, 0), 0);
        assert_eq!((word.epoch(), word.is_wanted()), (0, false));
    }
}
