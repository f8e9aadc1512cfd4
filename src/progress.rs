//! What groups are done with, to be made again in another file.
//!
//! **Invariants.**
//! - Everything below a group's position it is done with; behind it, exactly what is said to be done. What was
//!   given back is not done, and comes again before anything new: with as many deliveries as it had.
//! - What is told while the channel is in use was so a moment ago: of a message that is told to be done, it was.
#![forbid(unsafe_code)]

use crate::cells::ClaimState;
use crate::group::Group;
use crate::layout::{Acks, SlotState};
use crate::ring::Ring;
use crate::{Channel, GroupName, Offset};
use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

/// What a group is done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupProgress {
    /// Its name.
    pub name: GroupName,
    /// The first place that it is not done with.
    pub position: Offset,
    /// Messages behind that which it is done with, from a first to a last one, in their order.
    pub done: Vec<RangeInclusive<Offset>>,
    /// Messages that it was given and is not done with, in their order, and how often it was given each.
    pub given: Vec<(Offset, u32)>,
}

impl GroupProgress {
    /// Of a group that stands at a place.
    pub fn new(name: impl Into<GroupName>, position: Offset) -> Self {
        Self { name: name.into(), position, done: Vec::new(), given: Vec::new() }
    }
}

impl Channel {
    /// What each group is done with, also beyond the first message that it is not done with. It looks at every
    /// message in the ring.
    pub fn group_progress(&self) -> Vec<GroupProgress> {
        if self.root.is_inherited() {
            return Vec::new();
        }
        let ring = self.root.ring();
        Group::all(ring.mem).filter_map(|group| group.progress(&ring)).collect()
    }
}

impl<'a> Group<'a> {
    fn progress(self, ring: &Ring<'a>) -> Option<GroupProgress> {
        let given = self.given();
        let mut progress = GroupProgress::new(self.name()?, self.position(ring));
        let position = progress.position;
        let not_acked: HashSet<Offset> = self.done_and_not_acked().collect();
        // The first and the last message that are done behind each other.
        let mut run: Option<(Offset, Offset)> = None;
        for number in ring.pages().filter(|&number| number >= position.page()) {
            let page = self.page(number);
            let (lost, end) = (self.has_lost(number), page.cursor().count.min(self.mem.layout.slots));
            for index in 0..end {
                let at = Offset::new(number, index);
                if at < position || !matches!(page.slot(number, index), SlotState::Committed(_)) {
                    continue;
                }
                if lost || self.is_done(number, index) || not_acked.contains(&at) {
                    run = Some((run.map_or(at, |(first, _)| first), at));
                } else {
                    progress.done.extend(run.take().map(|(first, last)| first..=last));
                }
            }
        }
        progress.done.extend(run.map(|(first, last)| first..=last));
        let is_open = |at: Offset| {
            let (number, index) = (at.page(), at.index() as usize);
            at >= position
                && self.mem.is_live(number)
                && !self.is_done(number, index)
                && matches!(self.page(number).slot(number, index), SlotState::Committed(_))
        };
        progress.given = given.into_iter().filter(|&(at, _)| is_open(at)).collect();
        Some(progress)
    }

    /// What is in claim cells and is not done, and how often it was handed out.
    fn given(&self) -> BTreeMap<Offset, u32> {
        let mut given = BTreeMap::new();
        for seen in self.cells().filter_map(|cell| cell.read()) {
            let (offset, attempts) = (seen.offset(), seen.word.attempts());
            if offset.index() as usize >= self.mem.layout.slots {
                continue;
            }
            match seen.word.state() {
                ClaimState::Returned => drop(given.insert(offset, attempts)),
                ClaimState::Held => {
                    given.extend(Acks::bits(self.left(&seen)).map(|bit| (seen.offset_at(bit), attempts + 1)));
                }
                ClaimState::Several => given.extend(Acks::bits(self.left(&seen)).map(|bit| (seen.offset_at(bit), 1))),
                ClaimState::Free | ClaimState::Taken | ClaimState::Intent | ClaimState::Done | ClaimState::Gone => {}
            }
        }
        given
    }
}
