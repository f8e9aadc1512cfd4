//! What was done with a channel, when, and what follows from that for what is there after a loss of power.

use super::look::Look;
use crate::{Offset, Overflow};
use std::collections::{BTreeMap, HashMap};

/// When something was done: its stores lie between these positions of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub begin: u64,
    pub end: u64,
}

impl Span {
    /// Before the beginning.
    pub const ALWAYS: Self = Self { begin: 0, end: 0 };
    /// Perhaps, and never for certain.
    pub const PERHAPS: Self = Self { begin: 0, end: u64::MAX };

    /// Whether it had returned.
    pub fn surely(self, at: u64) -> bool {
        self.end <= at
    }

    /// Whether it had begun.
    pub fn maybe(self, at: u64) -> bool {
        self.begin < at || self.begin == 0
    }
}

/// A message that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// With its headers.
    pub len: usize,
    pub headers: bool,
    pub sender: usize,
    pub offset: Offset,
    pub sent: Span,
    /// From when on its sender knows its offset.
    pub told: u64,
    /// From when on its sender knows that it survives.
    pub durable: u64,
}

/// A group that was made.
#[derive(Clone, Debug)]
pub struct GroupModel {
    pub name: String,
    /// Its number, and which of the groups of that number it is, if that is known.
    pub id: Option<(usize, u64)>,
    pub made: Span,
    pub start: Offset,
    pub removed: Option<Span>,
    pub done: HashMap<u64, Span>,
}

/// Everything that was done.
#[derive(Clone, Debug)]
pub struct Model {
    pub overflow: Overflow,
    /// By their ids, which rise.
    pub messages: BTreeMap<u64, Message>,
    pub groups: Vec<GroupModel>,
    /// Syncs of everything that were asked for.
    pub syncs: Vec<Span>,
    /// The oldest page, each time that it changed.
    pub tails: Vec<(Span, u64)>,
    /// No offset up to this one is used again.
    pub floor: Option<Offset>,
}

/// When the power went, and what of the disk was certain then.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub at: u64,
    /// Everything stored before was on the disk.
    pub synced: u64,
    /// Sectors were zeroed, and nothing is promised but that what is there was sent some time.
    pub weak: bool,
}

macro_rules! ensure {
    ($holds:expr, $($words:tt)*) => {
        if !$holds {
            return Err(format!($($words)*));
        }
    };
}

impl Model {
    pub fn new(overflow: Overflow, floor: Option<Offset>) -> Self {
        let (messages, groups) = (BTreeMap::new(), Vec::new());
        Self { overflow, messages, groups, syncs: Vec::new(), tails: Vec::new(), floor }
    }

    /// The group of that name that was not removed.
    pub fn group(&mut self, name: &str) -> Option<&mut GroupModel> {
        self.groups.iter_mut().find(|g| g.name == name && g.removed.is_none())
    }

    /// Everything done before this is promised to be there.
    fn promised(&self, moment: Moment) -> u64 {
        let asked = self.syncs.iter().filter(|s| s.surely(moment.at)).map(|s| s.begin);
        asked.max().unwrap_or(0).max(moment.synced)
    }

    /// No offset up to this one may be used by a send after the power went.
    pub fn floor(&self, at: u64) -> Option<Offset> {
        let told = self.messages.values().filter(|m| m.told <= at).map(|m| m.offset);
        told.max().max(self.floor)
    }

    /// Compares what is there with what was done and promised.
    pub fn check(&self, moment: Moment, look: &Look) -> Result<(), String> {
        let Moment { at, weak, .. } = moment;
        let promised = self.promised(moment);
        let tails = self.tails.iter().filter(|(span, _)| span.maybe(at));
        let perhaps_turned = tails.map(|&(_, page)| page).max().unwrap_or(0);
        let mut seen = HashMap::with_capacity(look.messages.len());
        for (i, m) in look.messages.iter().enumerate() {
            let sent = self.messages.get(&m.id).filter(|sent| sent.sent.maybe(at));
            let Some(sent) = sent else {
                // Where the slots of a page read as zeros, an earlier page of its place can be found.
                if weak && seen.insert(m.id, i).is_none() {
                    continue;
                }
                return Err(format!("message {} at {} was not sent in this life", m.id, m.offset));
            };
            ensure!(sent.len == m.len, "message {} has {} bytes, not {}", m.id, m.len, sent.len);
            ensure!(sent.headers == m.headers, "message {} has headers: {}", m.id, m.headers);
            ensure!(sent.offset == m.offset, "message {} is at {}, not at {}", m.id, m.offset, sent.offset);
            ensure!(seen.insert(m.id, i).is_none(), "message {} is there twice", m.id);
        }
        let groups = self.check_groups(moment, look)?;
        for (&id, m) in &self.messages {
            let durable = m.sent.maybe(at) && (m.durable <= at || m.sent.end <= promised);
            let needed = |g: &GroupModel| m.offset >= g.start && !g.done.get(&id).is_some_and(|d| d.maybe(at));
            let dropped = self.overflow == Overflow::DropOldest && m.offset.page() < perhaps_turned;
            let due = durable && !weak && !dropped;
            let Some(&i) = seen.get(&id) else {
                let nobody = !self.groups.iter().any(|g| g.made.maybe(at));
                let by = groups.iter().find(|(g, certain)| *certain && needed(g));
                ensure!(!due || !nobody, "message {id} at {} is missing", m.offset);
                ensure!(
                    !due || by.is_none(),
                    "message {id} at {} is missing for group {:?}",
                    m.offset,
                    by.map(|b| &b.0.name)
                );
                continue;
            };
            for &(g, certain) in &groups {
                let Some(there) = look.groups.get(&g.name) else { continue };
                let (done, what) = (g.done.get(&id), format!("message {id} at {} for group {}", m.offset, g.name));
                // Of one that was just being made it is not known where it was to start.
                if m.offset < there.start {
                    continue;
                }
                if there.done[i] {
                    // Of a page that was dropped it may be all that is left to say that it was.
                    ensure!(dropped || done.is_some_and(|d| d.maybe(at)), "{what} is done, and nobody finished it");
                } else if there.lost[i] {
                    ensure!(!due || !certain || !needed(g), "{what} was taken away");
                } else {
                    let stays = done.is_some_and(|d| d.end <= promised) && !weak;
                    ensure!(!stays, "{what} is not done any more");
                }
            }
        }
        Ok(())
    }

    /// The groups that are there, and whether they were there for certain: not those that were just being
    /// made or removed.
    fn check_groups<'m>(&'m self, moment: Moment, look: &Look) -> Result<Vec<(&'m GroupModel, bool)>, String> {
        let Moment { at, weak, .. } = moment;
        let mut groups = Vec::new();
        for (name, there) in &look.groups {
            let possible = self.groups.iter().rev().filter(|g| {
                &g.name == name
                    && g.id.is_none_or(|id| id == there.id)
                    && g.made.maybe(at)
                    && !g.removed.is_some_and(|r| r.surely(at) && !weak)
            });
            let is_it = |g: &&GroupModel| g.start == there.start || !g.made.surely(at);
            // One whose number is not known is none of the others.
            let found =
                possible.clone().filter(|g| g.id.is_some()).find(is_it).or_else(|| possible.clone().find(is_it));
            let Some(g) = found else {
                let known = possible.map(|g| g.start).collect::<Vec<_>>();
                return Err(format!("group {name} is there, from {}: known are {known:?}", there.start));
            };
            groups.push((g, g.made.surely(at) && !g.removed.is_some_and(|r| r.maybe(at))));
        }
        for g in &self.groups {
            let certain = g.made.surely(at) && !g.removed.is_some_and(|r| r.maybe(at));
            ensure!(weak || !certain || look.groups.contains_key(&g.name), "group {} is missing", g.name);
            // One that is being moved is in one of the two places.
            let moves =
                g.made.surely(at) && self.groups.iter().any(|to| to.name == g.name && Some(to.made) == g.removed);
            let stays = g.removed.is_some_and(|r| r.maybe(at) && !r.surely(at));
            ensure!(
                weak || !moves || !stays || look.groups.contains_key(&g.name),
                "group {} is missing, which was being moved",
                g.name
            );
        }
        Ok(groups)
    }

    /// What goes on after the power went: what is there is on the disk. If it was recovered, nothing else is.
    /// Else only this is not: what was finished for those who had died, until it was `opened`. What lay in pages
    /// that were turned may be found by a recovery, and until then also groups that were just being made or
    /// removed.
    pub fn after(&self, moment: Moment, look: &Look, opened: Option<u64>) -> Self {
        let (at, promised) = (moment.at, self.promised(moment));
        let while_opening = Span { begin: 0, end: opened.unwrap_or(0) };
        let mut next = Self::new(self.overflow, self.floor(at));
        next.tails.push((Span::ALWAYS, look.tail));
        for m in &look.messages {
            let sender = self.messages.get(&m.id).map_or(0, |m| m.sender);
            let known = Message {
                len: m.len,
                headers: m.headers,
                sender,
                offset: m.offset,
                sent: Span::ALWAYS,
                told: 0,
                durable: 0,
            };
            next.messages.insert(m.id, known);
            next.floor = next.floor.max(Some(m.offset));
        }
        for (name, there) in &look.groups {
            let done = look.messages.iter().enumerate().filter_map(|(i, m)| match (there.done[i], there.lost[i]) {
                (true, _) => Some((m.id, while_opening)),
                (false, true) => Some((m.id, Span::PERHAPS)),
                (false, false) => None,
            });
            let (name, id, start) = (name.clone(), Some(there.id), there.start);
            next.groups.push(GroupModel { name, id, made: Span::ALWAYS, start, removed: None, done: done.collect() });
        }
        if opened.is_some() {
            self.keep_turned(at, promised, look.tail, &mut next);
            let uncertain = |g: &&GroupModel| {
                g.made.maybe(at) && !g.made.surely(at) || g.removed.is_some_and(|r| r.maybe(at) && !r.surely(at))
            };
            let gone = self.groups.iter().filter(uncertain).filter(|g| !look.groups.contains_key(&g.name));
            let perhaps = |g: &GroupModel| {
                let done = g.done.iter().filter(|(_, done)| done.maybe(at)).map(|(&id, _)| (id, Span::PERHAPS));
                let done = done.collect();
                GroupModel { made: Span::PERHAPS, removed: Some(while_opening), done, ..g.clone() }
            };
            next.groups.splice(0..0, gone.map(perhaps));
        }
        next
    }

    fn keep_turned(&self, at: u64, promised: u64, tail: u64, next: &mut Self) {
        let turned = self.messages.iter().filter(|(_, m)| m.offset.page() < tail && m.sent.maybe(at));
        for (&id, m) in turned {
            let known = Message { sent: Span::PERHAPS, told: u64::MAX, durable: u64::MAX, ..*m };
            next.messages.entry(id).or_insert(known);
            for g in &mut next.groups {
                let was = self.groups.iter().rev().find(|was| was.name == g.name && was.start == g.start);
                let done = was.and_then(|was| was.done.get(&id)).filter(|done| done.maybe(at));
                if let Some(done) = done {
                    let stays = done.end <= promised;
                    g.done.entry(id).or_insert(if stays { Span::ALWAYS } else { Span::PERHAPS });
                }
            }
        }
    }
}
