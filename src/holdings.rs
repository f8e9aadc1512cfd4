//! The partitions that one receiver holds: what `balance.rs` decides is done here.
//!
//! **Invariants.**
//! - It claims from a partition only while it has the hold of it, which nobody else ends (holder.rs).
//! - It lets a partition go between two receives, after what it kept to go on with was ended, and if no lease of
//!   it is out.
//! - One that is asked for while leases of all are out is claimed from no more, and goes when its leases have ended.
//! - Where the group of a partition was moved, it goes on as one who does not hold it.
#![forbid(unsafe_code)]

use crate::balance::{Share, Step};
use crate::group::Group;
use crate::holder::{HolderWord, Member};
use crate::shared::Root;
use crate::{Receiver, TryRecvError};
use std::iter;
use std::sync::Arc;

/// What a receiver has to do with holders.
pub struct Holdings {
    /// Its number, and what it holds; none as long as there is no number for it.
    share: Option<(usize, Share)>,
    /// One that was asked for and of which leases are out: nothing more is claimed of it, so that they end.
    draining: Option<usize>,
    looked_at: u32,
}

impl Holdings {
    /// Of one that holds nothing.
    pub fn new(now: u32) -> Self {
        Self { share: None, draining: None, looked_at: now }
    }

    /// When it looked last, in milliseconds.
    pub fn looked_at(&self) -> u32 {
        self.looked_at
    }

    /// The partitions that it holds.
    pub fn held(&self) -> impl Iterator<Item = usize> + '_ {
        self.share.iter().flat_map(|(_, share)| share.held())
    }

    /// Those that it claims from.
    pub fn receives_from(&self) -> impl Iterator<Item = usize> + '_ {
        self.held().filter(|&partition| self.draining != Some(partition))
    }

    /// Whether it holds a partition, or nothing can be claimed of it.
    pub fn may_claim(&self, receiver: &Receiver, partition: usize) -> bool {
        if receiver.root.is_inherited() {
            return true;
        }
        let hold = self.share.as_ref().and_then(|(_, share)| share.hold(partition));
        hold.is_some_and(|hold| group_of(receiver).is_held(hold)) || !group_of(receiver).is_current()
    }

    /// Looks at the holders, and does what comes of that.
    pub fn look(&mut self, receivers: &mut [Receiver], now: u32) -> Result<(), TryRecvError> {
        let first = Arc::clone(&receivers[0].root);
        first.usable()?;
        self.looked_at = now;
        if self.share.is_none()
            && let Some(number) = first.join()
        {
            let me = Member::new(first.file.id.index, number);
            self.share = Some((number, Share::new(me, receivers.len())));
        }
        let Some((_, share)) = &mut self.share else { return Ok(()) };
        for (partition, receiver) in receivers.iter_mut().enumerate() {
            receiver.root.usable()?;
            if share.hold(partition).is_none() {
                receiver.root.tend_now_and_then();
            }
            if !group_of(receiver).is_current() {
                if !receiver.at.follow(&receiver.root) {
                    return Err(TryRecvError::GroupRemoved);
                }
                share.lost(partition);
            }
        }
        let mut tell = false;
        self.draining = None;
        while let Some(for_others) = one_look(receivers, share, now, &mut self.draining) {
            tell |= for_others;
        }
        if tell {
            first.tell_of_move();
        }
        Ok(())
    }

    /// Lets all go that it holds, as it goes. Leases that are out keep their partitions.
    pub fn leave(&mut self, receivers: &mut [Receiver]) {
        let first = Arc::clone(&receivers[0].root);
        if first.is_inherited() {
            return;
        }
        let Some((number, share)) = self.share.take() else { return };
        for (partition, Receiver { root, at }) in receivers.iter_mut().enumerate() {
            if let Some(hold) = share.hold(partition) {
                at.rest(root);
                at.group(root).leave_hold(hold);
            }
        }
        first.resign(number);
        first.tell_of_move();
    }
}

fn group_of(Receiver { root, at }: &Receiver) -> Group<'_> {
    at.group(root)
}

/// Does what comes of the words as they are now. Nothing, if nothing was changed; else whether that is something
/// that others wait for.
fn one_look(receivers: &mut [Receiver], share: &mut Share, now: u32, draining: &mut Option<usize>) -> Option<bool> {
    let words: Vec<HolderWord> = receivers.iter().map(|receiver| group_of(receiver).holder()).collect();
    let left = receivers.iter().zip(&words).filter(|(receiver, word)| group_of(receiver).end_left(**word)).count();
    let (mut changed, mut tell) = (left > 0, left > 0);
    for step in share.steps(&words, now) {
        match step {
            Step::Take(partition) => changed |= take(&mut receivers[partition], partition, words[partition], share),
            Step::Refuse(partition) => changed |= refuse(&receivers[partition], share.hold(partition)),
            Step::Withdraw(partition, word) => changed |= group_of(&receivers[partition]).refuse(word),
            Step::Want(partition) => tell |= group_of(&receivers[partition]).want(words[partition]),
            Step::LetGo(partition, limit) if let_go(receivers, partition, limit, share) => return Some(true),
            Step::LetGo(partition, _) => *draining = Some(partition),
        }
    }
    (changed || tell).then_some(tell)
}

fn take(Receiver { root, at }: &mut Receiver, partition: usize, seen: HolderWord, share: &mut Share) -> bool {
    let root: &Root = root;
    let taken = at.group(root).take_hold(seen, &mut at.hand, share.me());
    taken.map(|hold| share.took(partition, hold)).is_some()
}

fn refuse(receiver: &Receiver, hold: Option<HolderWord>) -> bool {
    hold.is_some_and(|hold| group_of(receiver).refuse(hold))
}

/// Lets a partition go that somebody asked for, or another if there are leases of that one out.
fn let_go(receivers: &mut [Receiver], wanted: usize, limit: usize, share: &mut Share) -> bool {
    let others: Vec<usize> = share.held().filter(|&other| other != wanted).collect();
    for partition in iter::once(wanted).chain(others) {
        let Receiver { root, at } = &mut receivers[partition];
        at.rest(root);
        let Some(hold) = share.hold(partition).filter(|_| !at.group(root).has_out(root.file.id.index)) else {
            continue;
        };
        if at.group(root).let_go(hold, Some(limit)) {
            if partition != wanted {
                refuse(&receivers[wanted], share.hold(wanted));
            }
            share.let_go(partition, limit);
            return true;
        }
    }
    false
}
