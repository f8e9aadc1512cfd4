//! Random sequences of everything a user can do, against a plain model: a list of what was sent, and for each group how
//! far it is and what it has out.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::path::PathBuf;
use std::task::Poll;
use std::time::Duration;

use common::{Dir, body, number, poll_once, small, within};
use disk_chan::{
    AckError, Channel, Full, Lease, Message, Offset, Options, Overflow, Receiver, RecvError, RemoveGroupError,
    SendTimeoutError, Start, SubscribeError, TryRecvError, TrySendError,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const MAX_GROUPS: usize = 3;
/// So few that they are often all in use.
const FEW: usize = 3;
/// So many that several go out together.
const MANY: usize = 64;

#[derive(Clone, Debug)]
enum Op {
    /// A message of so many thousandths of the longest.
    Send {
        thousandths: usize,
        form: u8,
    },
    Recv {
        group: usize,
    },
    /// Received and never dropped.
    Forget {
        group: usize,
    },
    /// The first of them are done, and the others forgotten.
    RecvMany {
        group: usize,
        limit: usize,
        done: usize,
    },
    SendMany {
        count: usize,
    },
    Drain {
        group: usize,
    },
    /// Everything that is out is done, and every group reads all there is.
    DrainAll,
    Lease {
        group: usize,
    },
    Ack {
        pick: usize,
    },
    GiveBack {
        pick: usize,
    },
    DropLease {
        pick: usize,
    },
    Subscribe {
        group: usize,
        start: u8,
        pick: usize,
    },
    Remove {
        group: usize,
        force: bool,
    },
    /// A receiver of a group that was removed tries again.
    TouchRemoved {
        pick: usize,
    },
    Reopen {
        keep_leases: bool,
    },
}

fn ops(max_held: usize) -> impl Strategy<Value = Vec<Op>> {
    let group = 0..NAMES.len();
    let thousandths = prop_oneof![4 => 200_usize..700, 1 => Just(0_usize), 1 => Just(1000_usize)];
    let op = prop_oneof![
        30 => (thousandths, 0..4_u8).prop_map(|(thousandths, form)| Op::Send { thousandths, form }),
        10 => group.clone().prop_map(|group| Op::Recv { group }),
        2 => group.clone().prop_map(|group| Op::Forget { group }),
        3 => (group.clone(), 1..max_held + 2, 0..3 * max_held)
            .prop_map(|(group, limit, done)| Op::RecvMany { group, limit, done }),
        3 => (1..50_usize).prop_map(|count| Op::SendMany { count }),
        6 => group.clone().prop_map(|group| Op::Drain { group }),
        8 => Just(Op::DrainAll),
        8 => group.clone().prop_map(|group| Op::Lease { group }),
        4 => (0..9_usize).prop_map(|pick| Op::Ack { pick }),
        4 => (0..9_usize).prop_map(|pick| Op::GiveBack { pick }),
        2 => (0..9_usize).prop_map(|pick| Op::DropLease { pick }),
        4 => (group.clone(), 0..4_u8, 0..99_usize).prop_map(|(group, start, pick)| Op::Subscribe { group, start, pick }),
        2 => (group, any::<bool>()).prop_map(|(group, force)| Op::Remove { group, force }),
        3 => (0..9_usize).prop_map(|pick| Op::TouchRemoved { pick }),
        2 => any::<bool>().prop_map(|keep_leases| Op::Reopen { keep_leases }),
    ];
    // Two groups from the start, so that most sequences go round the ring.
    let start = [0, 1].map(|group| Op::Subscribe { group, start: 0, pick: 0 }).to_vec();
    prop::collection::vec(op, 30..65).prop_map(move |ops| start.iter().cloned().chain(ops).collect())
}

/// A message that is out: its place in the log, and the attempts it was handed out with.
#[derive(Clone, Copy, Debug)]
struct Out {
    at: usize,
    attempts: u32,
}

struct Group {
    /// Tells a group from an earlier one of the same name.
    id: usize,
    rx: Option<Receiver>,
    /// The next of the log that was never handed out.
    next: usize,
    /// Given back, with the attempts that the next hand-out will have.
    returned: BTreeMap<usize, u32>,
    /// Received and forgotten by `rx`.
    forgotten: Vec<Out>,
    /// Lost, and not told yet.
    untold: u64,
    lost: u64,
    gone: u64,
}

impl Group {
    fn rx(&mut self) -> &mut Receiver {
        self.rx.as_mut().unwrap()
    }
}

struct Held {
    lease: Lease,
    out: Out,
    name: usize,
    id: usize,
    /// Which open it came from.
    open: usize,
}

struct World {
    _dir: Dir,
    path: PathBuf,
    overflow: Overflow,
    max_held: usize,
    channel: Option<Channel>,
    max: usize,
    opens: usize,
    ids: usize,
    /// Everything that was ever sent.
    log: Vec<Offset>,
    /// So many of the log have left the ring.
    base: usize,
    groups: [Option<Group>; NAMES.len()],
    held: Vec<Held>,
    /// Receivers of groups that were removed.
    removed: Vec<Receiver>,
}

impl World {
    fn new(overflow: Overflow, max_held: usize) -> Self {
        let dir = Dir::in_memory();
        let path = dir.file();
        let options = small().max_groups(MAX_GROUPS).max_held(max_held).overflow(overflow);
        let channel = options.blocking_open(&path).unwrap();
        let max = channel.max_message_len();
        World {
            _dir: dir,
            path,
            overflow,
            max_held,
            channel: Some(channel),
            max,
            opens: 1,
            ids: 0,
            log: vec![],
            base: 0,
            groups: [const { None }; NAMES.len()],
            held: vec![],
            removed: vec![],
        }
    }

    fn channel(&self) -> &Channel {
        self.channel.as_ref().unwrap()
    }

    fn run(mut self, ops: &[Op]) {
        for op in ops {
            self.step(op);
            self.look();
        }
        // In the end everything that is out comes back, and everything that is left comes.
        for held in mem::take(&mut self.held) {
            self.give_back(held, true);
        }
        for group in 0..NAMES.len() {
            self.drain(group);
            self.nothing_is_left(group);
        }
        // And the ring goes round twice more, over all that the sequence left in it.
        self.subscribe(0, 1, 0);
        let turns = self.channel().stats().page_turns + 4;
        while self.channel().stats().page_turns < turns {
            self.send(self.max / 2, 0);
            self.drain_all();
            self.look();
        }
        for group in 0..NAMES.len() {
            self.nothing_is_left(group);
        }
    }

    fn nothing_is_left(&self, group: usize) {
        let Some(g) = &self.groups[group] else { return };
        assert_eq!((g.next, g.returned.len(), g.untold), (self.log.len(), 0, 0));
        let all = self.channel().groups();
        let stats = all.iter().find(|s| s.name.as_str() == NAMES[group]).unwrap();
        assert_eq!((stats.lag, stats.held, stats.returned), (0, 0, 0));
        assert_eq!((stats.lagged, stats.gone), (g.lost, g.gone));
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Send { thousandths, form } => self.send((self.max * thousandths / 1000).max(8), form),
            Op::Recv { group } => drop(self.receive(group)),
            Op::Forget { group } => self.forget(group),
            Op::RecvMany { group, limit, done } => self.receive_many(group, limit, done),
            Op::SendMany { count } => (0..count).for_each(|_| self.send(8, 0)),
            Op::Drain { group } => self.drain(group),
            Op::DrainAll => self.drain_all(),
            Op::Lease { group } => self.lease(group),
            Op::Ack { pick } => {
                if let Some(held) = self.pick(pick) {
                    self.ack(held);
                }
            }
            Op::GiveBack { pick } => {
                if let Some(held) = self.pick(pick) {
                    self.give_back(held, false);
                }
            }
            Op::DropLease { pick } => {
                if let Some(held) = self.pick(pick) {
                    self.give_back(held, true);
                }
            }
            Op::Subscribe { group, start, pick } => self.subscribe(group, start, pick),
            Op::Remove { group, force } => self.remove(group, force),
            Op::TouchRemoved { pick } => {
                let count = self.removed.len();
                if let Some(rx) = self.removed.get_mut(pick % count.max(1)) {
                    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::GroupRemoved);
                    assert_eq!(rx.try_lease().unwrap_err(), TryRecvError::GroupRemoved);
                }
            }
            Op::Reopen { keep_leases } => self.reopen(keep_leases),
        }
    }

    /// What the channel shows of itself agrees with the model.
    fn look(&mut self) {
        let stats = self.channel().stats();
        let in_ring = self.channel().len() as usize;
        assert_eq!(stats.len as usize, in_ring);
        assert!(in_ring <= self.log.len(), "{in_ring} of {} sent", self.log.len());
        self.leave_ring(self.log.len() - in_ring);
        if let Some(last) = self.log.last() {
            assert!(stats.end_offset > *last, "the end {} is behind {last}", stats.end_offset);
        }
        if let Some(first) = self.log.get(self.base) {
            assert!(stats.first_offset <= *first);
        }
        if let Some(left) = self.base.checked_sub(1) {
            assert!(stats.first_offset > self.log[left]);
        }
        let shown = self.channel().groups();
        assert_eq!(shown.len(), self.groups.iter().flatten().count());
        for (name, g) in self.groups.iter().enumerate() {
            let Some(g) = g else { continue };
            let stats = shown.iter().find(|s| s.name.as_str() == NAMES[name]).unwrap();
            let outs = self.outs(name);
            let over_a_dropped_page = outs.iter().filter(|out| out.at < self.base).count();
            assert!((outs.len() - over_a_dropped_page..=outs.len()).contains(&stats.held), "{name}: {stats:?}");
            assert_eq!(stats.returned, g.returned.len(), "{name}: {stats:?}");
            let out = outs.len() - over_a_dropped_page;
            assert_eq!(stats.lag as usize, self.log.len() - g.next + g.returned.len() + out, "{name}: {stats:?}");
        }
    }

    /// All messages of the present group of this name that are handed out.
    fn outs(&self, name: usize) -> Vec<Out> {
        let Some(g) = &self.groups[name] else { return vec![] };
        let leased = self.held.iter().filter(|held| held.id == g.id).map(|held| held.out);
        leased.chain(g.forgotten.iter().copied()).collect()
    }

    /// The log up to `base` has left the ring.
    fn leave_ring(&mut self, base: usize) {
        assert!(base >= self.base, "messages come back into the ring");
        for name in 0..NAMES.len() {
            let outs = self.outs(name);
            let Some(g) = &mut self.groups[name] else { continue };
            if self.overflow == Overflow::Block {
                let undone = outs.iter().map(|out| out.at).chain(g.returned.keys().copied()).chain([g.next]).min();
                assert!(undone.unwrap() >= base, "group {name} has not done {undone:?}, and {base} left the ring");
            }
            let lost = base.saturating_sub(g.next) as u64;
            g.untold += lost;
            g.lost += lost;
            g.next = g.next.max(base);
            let kept = g.returned.split_off(&base);
            g.gone += mem::replace(&mut g.returned, kept).len() as u64;
        }
        self.base = base;
    }

    fn send(&mut self, len: usize, form: u8) {
        let tx = self.channel().sender();
        let message = body(self.log.len() as u64, len);
        let result = match form {
            0 => tx.try_send(&message),
            1 => match poll_once(tx.send(&message)) {
                Poll::Ready(result) => Ok(result.unwrap()),
                Poll::Pending => Err(tx.try_send(&message).expect_err("a waiting send means that there is no room")),
            },
            2 => {
                let mut reserved = tx.reserve(len).unwrap();
                reserved.copy_from_slice(&message);
                reserved.try_commit().map_err(|(_, error)| error)
            }
            _ => tx.send_timeout(&message, Duration::ZERO).map_err(|error| match error {
                SendTimeoutError::Timeout(full) => TrySendError::Full(full),
                error => panic!("{error}"),
            }),
        };
        match result {
            Ok(offset) => {
                assert!(self.log.last().is_none_or(|last| offset > *last), "{offset} after {:?}", self.log.last());
                self.log.push(offset);
                let in_ring = self.channel().len() as usize;
                self.leave_ring(self.log.len() - in_ring);
                // The page that is written is never dropped.
                let page = offset.page();
                assert!(self.log[self.base..].first().is_some_and(|first| first.page() <= page));
                let in_page = self.log.iter().rev().take_while(|sent| sent.page() == page).count();
                assert!(in_page <= in_ring);
            }
            Err(TrySendError::Full(full)) => self.may_be_full(full),
            Err(error) => panic!("{error}"),
        }
    }

    /// Full is right only if the other page of the ring holds something that somebody still needs.
    fn may_be_full(&self, full: Full) {
        assert_eq!(self.overflow, Overflow::Block, "{full:?}");
        let writing = self.log.last().expect("an empty ring is never full").page();
        let in_the_way = |at: &usize| self.log[*at].page() < writing;
        let mut needs = vec![];
        for (name, g) in self.groups.iter().enumerate() {
            let Some(g) = g else { continue };
            let outs = self.outs(name);
            let undone = outs.iter().map(|out| out.at).chain(g.returned.keys().copied());
            needs.extend(undone.chain(g.next..self.log.len()).filter(in_the_way).map(|_| NAMES[name]));
        }
        match full {
            Full::NoGroup => {
                assert!(self.groups.iter().flatten().next().is_none());
                assert!((self.base..self.log.len()).any(|at| in_the_way(&at)));
            }
            Full::Group { name, behind } => {
                assert!(needs.contains(&name.as_str()), "{name} is named, {needs:?} are behind");
                assert!(behind > 0);
            }
            other => panic!("{other:?}"),
        }
    }

    /// What was forgotten is given back when its receiver receives again, or goes.
    fn remember(&mut self, group: usize) {
        let base = self.base;
        let Some(g) = &mut self.groups[group] else { return };
        for out in mem::take(&mut g.forgotten) {
            if out.at < base {
                g.gone += 1;
            } else {
                g.returned.insert(out.at, out.attempts + 1);
            }
        }
    }

    /// Checks one hand-out, or the error in its place, against what must come next.
    fn next(&mut self, group: usize, result: Result<(Offset, u64, u32), TryRecvError>) -> Option<Out> {
        let out = self.outs(group).len();
        let log = &self.log;
        let g = self.groups[group].as_mut().unwrap();
        match result {
            Ok((offset, number, attempts)) => {
                let expected = match g.returned.pop_first() {
                    Some((at, attempts)) => Out { at, attempts },
                    None => {
                        assert_eq!(g.untold, 0, "a new message before the loss was told");
                        assert!(out < self.max_held, "more than max_held");
                        g.next += 1;
                        Out { at: g.next - 1, attempts: 1 }
                    }
                };
                assert_eq!((number, attempts), (expected.at as u64, expected.attempts));
                assert_eq!(offset, log[expected.at]);
                Some(expected)
            }
            Err(TryRecvError::Lagged(n)) => {
                assert_eq!(n, mem::take(&mut g.untold));
                assert!(n > 0);
                None
            }
            Err(TryRecvError::TooManyHeld { held, max, .. }) => {
                assert_eq!((held, max), (self.max_held, self.max_held));
                assert_eq!((out, g.returned.len()), (self.max_held, 0));
                assert!(g.next < log.len());
                None
            }
            Err(TryRecvError::Empty) => {
                assert_eq!((g.next, g.returned.len(), g.untold), (log.len(), 0, 0), "empty");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// One `try_recv`, dropped.
    fn receive(&mut self, group: usize) -> Option<Out> {
        self.remember(group);
        let g = self.groups[group].as_mut()?;
        let result = g.rx().try_recv().map(|m| (m.offset(), number(&m), m.attempts()));
        self.next(group, result)
    }

    fn drain(&mut self, group: usize) {
        if self.groups[group].is_none() {
            return;
        }
        loop {
            let told = self.groups[group].as_ref().unwrap().untold;
            if self.receive(group).is_none() && told == self.groups[group].as_ref().unwrap().untold {
                return;
            }
        }
    }

    fn drain_all(&mut self) {
        for held in mem::take(&mut self.held) {
            self.ack(held);
        }
        for group in 0..NAMES.len() {
            self.drain(group);
        }
    }

    fn forget(&mut self, group: usize) {
        self.remember(group);
        let Some(g) = &mut self.groups[group] else { return };
        let result = g.rx().try_recv().map(|m| {
            let seen = (m.offset(), number(&m), m.attempts());
            mem::forget(m);
            seen
        });
        if let Some(out) = self.next(group, result) {
            self.groups[group].as_mut().unwrap().forgotten.push(out);
        }
    }

    fn receive_many(&mut self, group: usize, limit: usize, done: usize) {
        self.remember(group);
        let held = self.outs(group).len();
        let Some(g) = &mut self.groups[group] else { return };
        let seen = |many: Vec<Message<'_>>| {
            let seen = many.iter().map(|m| (m.offset(), number(m), m.attempts())).collect();
            many.into_iter().skip(done).for_each(mem::forget);
            seen
        };
        let result: Poll<Result<Vec<_>, RecvError>> = poll_once(g.rx().recv_many(limit)).map(|result| result.map(seen));
        let Poll::Ready(result) = result else {
            let nothing = g.next == self.log.len() || held == self.max_held;
            assert!(nothing && g.returned.is_empty() && g.untold == 0, "waits though there is something");
            return;
        };
        match result.map_err(TryRecvError::from) {
            Err(error) => drop(self.next(group, Err(error))),
            Ok(many) => {
                assert!((1..=limit).contains(&many.len()));
                // All of them are held together: so as many as there are and may be, up to a loss that is to be told.
                let g = self.groups[group].as_ref().unwrap();
                let there = g.returned.len() + if g.untold == 0 { self.log.len() - g.next } else { 0 };
                assert_eq!(many.len(), limit.min(there).min(self.max_held - held));
                for (n, seen) in many.into_iter().enumerate() {
                    let out = self.next(group, Ok(seen)).expect("it was handed out");
                    if n >= done {
                        self.groups[group].as_mut().unwrap().forgotten.push(out);
                    }
                }
            }
        }
    }

    fn lease(&mut self, group: usize) {
        self.remember(group);
        let Some(g) = &mut self.groups[group] else { return };
        let (id, result) = (g.id, g.rx().try_lease());
        let seen = result.as_ref().map(|lease| (lease.offset(), number(lease), lease.attempts()));
        if let Some(out) = self.next(group, seen.map_err(|error| *error)) {
            self.held.push(Held { lease: result.unwrap(), out, name: group, id, open: self.opens });
        }
    }

    fn pick(&mut self, pick: usize) -> Option<Held> {
        let count = self.held.len();
        (count > 0).then(|| self.held.swap_remove(pick % count))
    }

    fn ack(&mut self, held: Held) {
        let result = held.lease.ack();
        match &self.groups[held.name] {
            Some(g) if g.id == held.id => assert_eq!(result, Ok(())),
            _ => assert_eq!(result, Err(AckError::GroupRemoved)),
        }
    }

    fn give_back(&mut self, held: Held, by_drop: bool) {
        assert_eq!(number(&held.lease), held.out.at as u64, "a lease keeps its bytes");
        let result = if by_drop {
            drop(held.lease);
            Ok(())
        } else {
            held.lease.give_back()
        };
        match &mut self.groups[held.name] {
            Some(g) if g.id == held.id => {
                if held.out.at < self.base {
                    assert!(by_drop || result == Err(AckError::Gone), "{result:?}");
                    g.gone += 1;
                } else {
                    assert_eq!(result, Ok(()));
                    g.returned.insert(held.out.at, held.out.attempts + 1);
                }
            }
            _ => assert!(by_drop || result == Err(AckError::GroupRemoved), "{result:?}"),
        }
    }

    /// Groups, and removed ones of which somebody still holds a lease.
    fn places_taken(&self) -> usize {
        let active: BTreeSet<_> = self.groups.iter().flatten().map(|g| g.id).collect();
        let held: BTreeSet<_> = self.held.iter().map(|held| held.id).collect();
        active.union(&held).count()
    }

    fn subscribe(&mut self, group: usize, start: u8, pick: usize) {
        let some = self.log.get(pick % self.log.len().max(1));
        let start = match (start, some) {
            (0, _) => Start::Oldest,
            (1, _) => Start::Newest,
            (2, Some(offset)) => Start::At(*offset),
            _ => Start::At(self.channel().stats().end_offset),
        };
        let result = self.channel().blocking_subscribe_from(NAMES[group], start);
        if self.groups[group].is_some() {
            // The same group; the receiver before it goes.
            let rx = result.unwrap();
            self.remember(group);
            self.groups[group].as_mut().unwrap().rx = Some(rx);
        } else if self.places_taken() == MAX_GROUPS {
            assert!(matches!(result, Err(SubscribeError::TooManyGroups { max: MAX_GROUPS })), "{result:?}");
        } else {
            let next = match start {
                Start::Oldest => self.base,
                Start::Newest => self.log.len(),
                Start::At(offset) => self.log.partition_point(|sent| *sent < offset).max(self.base),
                Start::Time(_) => unreachable!("the model has no clock"),
            };
            self.ids += 1;
            self.groups[group] = Some(Group {
                id: self.ids,
                rx: Some(result.unwrap()),
                next,
                returned: BTreeMap::new(),
                forgotten: vec![],
                untold: 0,
                lost: 0,
                gone: 0,
            });
        }
    }

    fn remove(&mut self, group: usize, force: bool) {
        let outs = self.outs(group);
        let over_a_dropped_page = outs.iter().filter(|out| out.at < self.base).count();
        let result = self.channel().remove_group(NAMES[group], force);
        match (&mut self.groups[group], result) {
            (None, Err(RemoveGroupError::NotFound)) => {}
            (Some(_), Err(RemoveGroupError::InUse { held })) => {
                assert!(!force);
                assert!(held > 0 && (outs.len() - over_a_dropped_page..=outs.len()).contains(&held), "{held}");
            }
            (Some(g), Ok(())) => {
                assert!(force || outs.len() == over_a_dropped_page, "{} were held", outs.len());
                assert_eq!(g.rx().try_recv().unwrap_err(), TryRecvError::GroupRemoved);
                assert_eq!(g.rx().try_lease().unwrap_err(), TryRecvError::GroupRemoved);
                self.removed.extend(self.groups[group].take().and_then(|g| g.rx));
            }
            (g, result) => panic!("{}: {result:?}", if g.is_some() { "there" } else { "not there" }),
        }
    }

    fn reopen(&mut self, keep_leases: bool) {
        // A lease keeps the open that it came from; there is room for 8.
        let kept: BTreeSet<_> = self.held.iter().map(|held| held.open).collect();
        if !keep_leases || kept.len() > 4 {
            for held in mem::take(&mut self.held) {
                self.give_back(held, true);
            }
        }
        // Every receiver goes, and with it what it forgot.
        self.removed.clear();
        for group in 0..NAMES.len() {
            self.remember(group);
            if let Some(g) = &mut self.groups[group] {
                g.rx = None;
            }
        }
        let before = self.channel().stats();
        // Without leases the last user goes here, and closes the file.
        self.channel = None;
        let channel = Options::new().blocking_open(&self.path).unwrap();
        self.opens += 1;
        let after = channel.stats();
        assert_eq!(
            (after.len, after.first_offset, after.end_offset),
            (before.len, before.first_offset, before.end_offset)
        );
        for (group, g) in self.groups.iter_mut().enumerate() {
            if let Some(g) = g {
                g.rx = Some(channel.blocking_subscribe_from(NAMES[group], Start::Newest).unwrap());
            }
        }
        self.channel = Some(channel);
    }
}

fn check(overflow: Overflow, max_held: usize) {
    within(170, move || {
        let config = Config { cases: 1000, max_shrink_iters: 3000, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(config).run(&ops(max_held), |ops| {
            World::new(overflow, max_held).run(&ops);
            Ok(())
        });
        if let Err(error) = result {
            panic!("{error}");
        }
    });
}

#[test]
fn random_sequences_that_block() {
    check(Overflow::Block, FEW);
}

#[test]
fn random_sequences_that_block_with_many_out() {
    check(Overflow::Block, MANY);
}

#[test]
fn random_sequences_that_drop_the_oldest() {
    check(Overflow::DropOldest, FEW);
}
