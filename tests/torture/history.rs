//! The history of a round, and whether it is one that the channel allows.
//!
//! What a killed worker was about to do when it died may have happened or not; everything else is exact.

use std::collections::{HashMap, HashSet};

use disk_chan::{GroupStats, Overflow};

use crate::log::{Kind, Record};
use crate::worker::BATCH;

/// What is known of a message from its sender.
#[derive(Clone, Copy, Debug)]
enum Sent {
    /// The sender was killed between invoking and returning.
    Unknown,
    At(u64),
    Refused,
}

/// What a receiver wrote down of one delivery.
#[derive(Clone, Copy, Debug)]
struct Event {
    number: u64,
    attempt: u32,
    kind: Kind,
    worker: u32,
    offset: u64,
}

/// What one group was told and did.
#[derive(Default)]
struct GroupHistory {
    events: Vec<Event>,
    told_lost: u64,
    /// Threads of receivers that were killed.
    killed: u64,
    /// The newest first delivery so far, where a group has one receiver at a time.
    newest: Option<u64>,
}

/// Everything that the workers of a round wrote down.
pub struct History {
    overflow: Overflow,
    /// Whether leases are taken away when their time is over.
    leases_end: bool,
    sent: Vec<(u64, Sent)>,
    groups: Vec<GroupHistory>,
    killed: HashSet<u32>,
}

/// What a check counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub sent: u64,
    /// Sends of which nobody knows, because the sender was killed.
    pub unknown: u64,
    /// Of those, the ones that were sent.
    pub unknown_sent: u64,
    pub refused: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub lagged: u64,
    pub gone: u64,
}

impl Counts {
    /// Adds another round's.
    pub fn add(&mut self, other: Counts) {
        self.sent += other.sent;
        self.unknown += other.unknown;
        self.unknown_sent += other.unknown_sent;
        self.refused += other.refused;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.lagged += other.lagged;
        self.gone += other.gone;
    }
}

/// What a group's counters rose by in the round.
pub struct Counted {
    pub lagged: u64,
    pub gone: u64,
    pub redelivered: u64,
    pub damaged: u64,
}

impl Counted {
    /// The difference of two looks at a group.
    pub fn between(before: &GroupStats, after: &GroupStats) -> Self {
        Self {
            lagged: after.lagged - before.lagged,
            gone: after.gone - before.gone,
            redelivered: after.redelivered - before.redelivered,
            damaged: after.damaged - before.damaged,
        }
    }
}

/// What one group's deliveries come to.
#[derive(Default)]
struct Tally {
    delivered: u64,
    redelivered: u64,
    /// Deliveries that nobody wrote down: their receivers were killed before they could.
    unlogged: u64,
    /// Messages that were handed out, not done, and not handed out again.
    lost: u64,
    /// The same, but the receiver was killed while it finished, so that it may be done.
    maybe_lost: u64,
}

impl History {
    /// Of a channel with so many groups.
    pub fn new(overflow: Overflow, leases_end: bool, groups: usize) -> Self {
        let groups = (0..groups).map(|_| GroupHistory::default()).collect();
        Self { overflow, leases_end, sent: Vec::new(), groups, killed: HashSet::new() }
    }

    /// Counts a worker that was killed; of a receiver with the group and how many threads it had. Its logs come after
    /// this.
    pub fn killed(&mut self, worker: u32, receiver: Option<(usize, usize)>) {
        self.killed.insert(worker);
        if let Some((group, threads)) = receiver {
            self.groups[group].killed += threads as u64;
        }
    }

    /// The log of one thread of a sender: its numbers ascend, and so do its offsets.
    pub fn add_sender(&mut self, worker: u32, records: &[Record]) {
        let mut open = HashMap::new();
        let (mut last_number, mut last_offset) = (None, None);
        for r in records {
            match r.kind {
                Kind::Invoked => {
                    assert!(last_number < Some(r.number), "{:#x} invoked after {last_number:x?}", r.number);
                    last_number = Some(r.number);
                    open.insert(r.number, self.sent.len());
                    self.sent.push((r.number, Sent::Unknown));
                }
                Kind::Sent => {
                    assert!(
                        last_offset < Some(r.offset),
                        "{:#x} sent at {:#x} after {last_offset:x?}",
                        r.number,
                        r.offset
                    );
                    last_offset = Some(r.offset);
                    self.sent[open.remove(&r.number).unwrap()].1 = Sent::At(r.offset);
                }
                Kind::Refused => self.sent[open.remove(&r.number).unwrap()].1 = Sent::Refused,
                other => panic!("{other:?} by a sender"),
            }
        }
        assert!(open.is_empty() || self.killed.contains(&worker), "sends that never returned: {:x?}", open.keys());
    }

    /// The log of one thread of a receiver. `alone` is whether no other thread receives for the group.
    pub fn add_receiver(&mut self, worker: u32, group: usize, alone: bool, records: &[Record]) {
        let history = &mut self.groups[group];
        let mut newest = if alone { history.newest } else { None };
        // What this thread gave back and was not handed out again.
        let mut back = HashSet::new();
        for &Record { kind, attempt, number, offset } in records {
            match kind {
                Kind::Lagged => {
                    history.told_lost += number;
                    continue;
                }
                Kind::Got if attempt == 1 => {
                    let order = newest < Some(offset);
                    assert!(order, "group {group}: {number:#x} at {offset:#x} came first after {newest:x?}");
                    newest = Some(offset);
                    // What was given back comes before anything new, where nobody else can have had it meanwhile.
                    let exact = alone && !self.leases_end && self.overflow == Overflow::Block;
                    let again = !exact || back.is_empty();
                    assert!(again, "group {group}: {number:#x} came before {back:x?}, which were given back");
                }
                Kind::Got => drop(back.remove(&number)),
                Kind::Back => drop(back.insert(number)),
                Kind::Finishing | Kind::Done | Kind::Taken => {}
                other => panic!("{other:?} by a receiver"),
            }
            history.events.push(Event { number, attempt, kind, worker, offset });
        }
        if alone {
            history.newest = newest;
        }
    }

    /// Checks everything, for a channel that was drained: what each group got and counted.
    pub fn check(mut self, counted: &[Counted]) -> Counts {
        let mut counts = Counts::default();
        self.sent.sort_by_key(|&(number, _)| number);
        for (_, sent) in &self.sent {
            match sent {
                Sent::At(_) => counts.sent += 1,
                Sent::Refused => counts.refused += 1,
                Sent::Unknown => counts.unknown += 1,
            }
        }
        counts.unknown_sent = self.learn_offsets();
        self.check_offsets();
        for (group, counted) in counted.iter().enumerate() {
            self.check_group(group, counted, &mut counts);
        }
        counts
    }

    /// Learns from the groups where messages are whose send never returned. How many those are.
    fn learn_offsets(&mut self) -> u64 {
        let mut learned = 0;
        for event in self.groups.iter().flat_map(|g| &g.events).filter(|e| e.kind == Kind::Got) {
            if let Ok(at) = self.sent.binary_search_by_key(&event.number, |&(number, _)| number)
                && matches!(self.sent[at].1, Sent::Unknown)
            {
                self.sent[at].1 = Sent::At(event.offset);
                learned += 1;
            }
        }
        learned
    }

    /// Offsets are unique, and those of one row ascend with the numbers, over all its senders.
    fn check_offsets(&self) {
        let mut offsets = Vec::with_capacity(self.sent.len());
        let mut last: Option<(u64, u64)> = None;
        for &(number, sent) in &self.sent {
            if let Sent::At(offset) = sent {
                offsets.push(offset);
                let ascends = last.is_none_or(|(before, at)| before >> 56 != number >> 56 || at < offset);
                assert!(ascends, "{number:#x} is at {offset:#x}, the one before: {last:x?}");
                last = Some((number, offset));
            }
        }
        offsets.sort_unstable();
        let twice = offsets.windows(2).find(|pair| pair[0] == pair[1]);
        assert!(twice.is_none(), "two messages were sent at {twice:x?}");
    }

    /// Checks one group: its deliveries, and its counters.
    fn check_group(&mut self, group: usize, counted: &Counted, counts: &mut Counts) {
        let mut history = std::mem::take(&mut self.groups[group]);
        history.events.sort_unstable_by_key(|e| (e.number, e.attempt, e.kind));
        let mut events = history.events.chunk_by(|a, b| a.number == b.number).peekable();
        let (mut tally, mut never, mut unknown_never) = (Tally::default(), 0, 0);
        for &(number, sent) in &self.sent {
            if let Some(earlier) = events.next_if(|e| e[0].number < number) {
                panic!("group {group}: never sent: {earlier:x?}");
            }
            let Some(deliveries) = events.next_if(|e| e[0].number == number) else {
                match sent {
                    Sent::At(offset) if self.overflow == Overflow::Block => {
                        panic!("group {group}: {number:#x}, sent at {offset:#x}, never came")
                    }
                    Sent::At(_) => never += 1,
                    Sent::Unknown => unknown_never += 1,
                    Sent::Refused => {}
                }
                continue;
            };
            let offset = deliveries[0].offset;
            match sent {
                Sent::At(at) => assert_eq!(at, offset, "group {group}: sent at {at:#x}: {deliveries:x?}"),
                Sent::Refused => panic!("group {group}: was refused: {deliveries:x?}"),
                Sent::Unknown => unreachable!("it came, so its offset was learned"),
            }
            self.check_deliveries(group, deliveries, &mut tally);
        }
        assert!(events.peek().is_none(), "group {group}: never sent: {:x?}", events.peek());

        // A lease can be taken away from a slow receiver before it even has it.
        let unlogged = if self.leases_end { u64::MAX >> 1 } else { history.killed * BATCH as u64 };
        assert!(tally.unlogged <= unlogged, "group {group}: {} unlogged deliveries", tally.unlogged);
        assert_eq!(counted.damaged, 0, "group {group}");
        let Counted { lagged, gone, redelivered, .. } = *counted;
        let again = tally.redelivered..=tally.redelivered + unlogged;
        assert!(again.contains(&redelivered), "group {group}: redelivered {redelivered}, not in {again:?}");
        if self.overflow == Overflow::Block {
            assert_eq!((lagged, gone, history.told_lost), (0, 0, 0), "group {group}");
        } else {
            // What the group was never done with went with its page before it was handed out, or after.
            let went = never + tally.lost;
            let went = went..=went + unknown_never + tally.maybe_lost;
            let name = format!("group {group}: lagged {lagged}, gone {gone}, never came {never}, lost {}", tally.lost);
            assert!(went.contains(&(lagged + gone)), "{name}: not in {went:?}");
            assert!(lagged <= never + unknown_never, "{name}");
            assert!(lagged + unlogged >= never, "{name}");
            assert!(history.told_lost <= lagged, "{name}: told {}", history.told_lost);
            assert!(history.killed > 0 || history.told_lost == lagged, "{name}: told {}", history.told_lost);
        }
        counts.delivered += tally.delivered;
        counts.redelivered += tally.redelivered;
        counts.lagged += lagged;
        counts.gone += gone;
    }

    /// Checks what one group wrote down of one message.
    fn check_deliveries(&self, group: usize, events: &[Event], tally: &mut Tally) {
        let fail =
            |why: &str| -> ! { panic!("group {group}: {why}: {events:x?}; killed: {:?}", self.killed_of(events)) };
        let mut deliveries = events.chunk_by(|a, b| a.attempt == b.attempt).peekable();
        let mut logged = 0;
        while let Some(delivery) = deliveries.next() {
            let (got, rest) = delivery.split_first().unwrap();
            if got.kind != Kind::Got || rest.iter().any(|e| e.kind == Kind::Got) {
                fail("handed out twice by one attempt, or ended without being handed out");
            }
            if got.offset != events[0].offset || rest.iter().any(|e| e.worker != got.worker) {
                fail("at two places, or ended by another");
            }
            let has = |kind| rest.iter().any(|e| e.kind == kind);
            let killed = self.killed.contains(&got.worker);
            if has(Kind::Back) && has(Kind::Finishing) {
                fail("ended in two ways");
            }
            if !killed && ![Kind::Back, Kind::Done, Kind::Taken].into_iter().any(has) {
                fail("never ended");
            }
            if has(Kind::Taken) && !self.leases_end {
                fail("taken away, where nothing is");
            }
            logged += 1;
            if deliveries.peek().is_some() {
                if has(Kind::Done) {
                    fail("handed out again after it was done");
                }
                continue;
            }
            // The last one. Those that were not written down came before it, and their receivers were killed.
            tally.unlogged += u64::from(got.attempt) - logged;
            if has(Kind::Done) {
                continue;
            }
            match has(Kind::Finishing) && !has(Kind::Taken) {
                true => tally.maybe_lost += 1,
                false if self.overflow == Overflow::Block => fail("not done, and not handed out again"),
                false => tally.lost += 1,
            }
        }
        tally.delivered += 1;
        tally.redelivered += events.iter().filter(|e| e.kind == Kind::Got && e.attempt > 1).count() as u64;
    }

    fn killed_of(&self, events: &[Event]) -> Vec<u32> {
        events.iter().map(|e| e.worker).filter(|w| self.killed.contains(w)).collect()
    }
}
