//! `max_age`: what is older is not handed out any more, makes room, and is counted, exactly. Nobody has to run for that.
//!
//! Nothing here expects that something happens fast enough: a message that was not received in time has expired, and
//! the books say so.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{
    CountingWaker, Dir, PAGE, Rng, assert_each_once, body, child_argument, drain_numbers, eventually, number, open_new,
    run_in_child, seed, send, small, within, within_tokio,
};
use disk_chan::{
    AckError, Channel, GroupStats, Lease, OpenError, Options, Overflow, Receiver, RecvError, Start, TryRecvError,
};

const AGE_MS: u64 = 40;
const AGE: Duration = Duration::from_millis(AGE_MS);

fn options() -> Options {
    small().max_age(AGE)
}

fn stats(channel: &Channel, group: &str) -> GroupStats {
    channel.groups().into_iter().find(|g| g.name == group.into()).expect("the group is there")
}

/// The clock that the channel goes by, in milliseconds.
fn clock() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Returns when everything that was sent before is too old.
fn grow_old() {
    let begin = clock();
    while clock() < begin + AGE_MS {
        thread::sleep(Duration::from_millis(1));
    }
}

/// What a group had been given for the first time, what it lost, and what it may still be given: it is not done with
/// that, and with what of the ring is `out`.
fn accounted(stats: &GroupStats, first: u64, out: u64) -> u64 {
    first + stats.expired + stats.lagged + stats.damaged + (stats.lag - out - stats.returned as u64)
}

#[test]
fn what_is_too_old_is_not_handed_out_and_is_counted() {
    let (_dir, channel) = open_new(options().max_pages(4));
    let mut some = channel.blocking_subscribe("some").unwrap();
    let mut none = channel.blocking_subscribe("none").unwrap();
    // Over more than a page.
    send(&channel.sender(), 0..100, 1000);
    let first = (0..30).filter(|_| some.try_recv().is_ok()).count() as u64;
    grow_old();
    assert_eq!(some.try_recv().unwrap_err(), TryRecvError::Empty);
    assert_eq!(none.try_recv().unwrap_err(), TryRecvError::Empty);
    for (group, first) in [("some", first), ("none", 0)] {
        let stats = stats(&channel, group);
        assert_eq!((stats.expired, stats.lag, stats.lagged, stats.gone), (100 - first, 0, 0, 0), "{group}");
    }
    let now = channel.stats();
    assert_eq!((now.len, now.pages, now.free_pages), (0, 1, 3));
    // It goes on behind that.
    send(&channel.sender(), 100..200, 1000);
    let got = drain_numbers(&mut none);
    let expired = stats(&channel, "none").expired;
    assert_eq!(got, (expired..200).collect::<Vec<_>>());
}

/// Nobody receives, and nobody looks: not even a group is there.
#[test]
fn a_full_ring_goes_on_when_its_oldest_page_has_expired() {
    within(120, || {
        let (_dir, channel) = open_new(options());
        let tx = channel.sender();
        send(&tx, 0..400, 1000);
        let _never_reads = channel.blocking_subscribe("never reads").unwrap();
        send(&tx, 0..400, 1000);
    });
    within_tokio(120, || async {
        let (_dir, channel) = open_new(options());
        let _never_reads = channel.subscribe("never reads").await.unwrap();
        let tx = channel.sender();
        for n in 0..400 {
            tx.send(body(n, 1000)).await.unwrap();
        }
    });
}

/// The one who sends and waits is another process, and this one looks on.
#[test]
fn a_sender_of_another_process_goes_on_too() {
    if let Some(file) = child_argument() {
        let channel = Options::new().blocking_open(file).unwrap();
        return send(&channel.sender(), 0..400, 1000);
    }
    within(120, || {
        let (dir, channel) = open_new(options());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        run_in_child("a_sender_of_another_process_goes_on_too", dir.file().to_str().unwrap());
        let lag = stats(&channel, "g").lag;
        let got = drain_numbers(&mut rx);
        assert!(got.len() as u64 <= lag, "{} of {lag}", got.len());
        assert_eq!(accounted(&stats(&channel, "g"), got.len() as u64, 0), 400);
    });
}

/// One message, in the page that senders write, which nobody has to fill for that.
#[test]
fn the_page_that_is_written_expires() {
    let (_dir, channel) = open_new(options());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let tx = channel.sender();
    for n in 0..5 {
        let offset = tx.blocking_send(body(n, 100)).unwrap();
        grow_old();
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
        assert_eq!((stats(&channel, "g").expired, channel.len()), (n + 1, 0));
        let next = channel.stats().first_offset;
        assert_eq!((next.page(), next.index()), (offset.page() + 1, 0));
        // An empty page has no age.
        grow_old();
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
        assert_eq!(channel.stats().first_offset, next);
    }
    let turns = channel.stats().page_turns;
    assert_eq!(turns, 5);
}

/// A page is as old as its youngest message: as long as there comes one, the others stay, too.
#[test]
fn a_page_is_given_up_as_a_whole() {
    let age = Duration::from_secs(3600);
    let (_dir, channel) = open_new(small().max_age(age));
    let mut rx = channel.blocking_subscribe("g").unwrap();
    for n in 0..20 {
        channel.sender().try_send(body(n, 100)).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(drain_numbers(&mut rx), (0..20).collect::<Vec<_>>());
    assert_eq!(stats(&channel, "g").expired, 0);
    assert_eq!(channel.stats().page_turns, 0);
}

#[test]
fn a_closed_channel_expires_and_is_opened_for_sending_again() {
    within(60, || {
        let (_dir, channel) = open_new(options());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), 0..10, 100);
        let held = rx.try_lease().ok();
        let [first, out] = [u64::from(held.is_some()); 2];
        channel.close();
        grow_old();
        assert_eq!(rx.blocking_recv().unwrap_err(), RecvError::Disconnected);
        for _ in 0..3 {
            let now = stats(&channel, "g");
            assert_eq!((now.expired, now.lag, now.held as u64), (10 - first, out, out));
        }
        // A group that comes now has them in the ring, and does not get them.
        let mut late = channel.blocking_subscribe("late").unwrap();
        assert_eq!(late.blocking_recv().unwrap_err(), RecvError::Disconnected);
        assert_eq!(stats(&channel, "late").lag, 0);
        drop(late);
        channel.remove_group("late", false).unwrap();

        assert_eq!(held.map_or(Err(AckError::Gone), Lease::give_back), Err(AckError::Gone));
        assert_eq!((stats(&channel, "g").gone, stats(&channel, "g").lag), (out, 0));
        let tx = channel.sender();
        send(&tx, 10..20, 100);
        let again = drain_numbers(&mut rx);
        assert_eq!(accounted(&stats(&channel, "g"), first + again.len() as u64, 0), 20);
        assert!(again.iter().all(|n| *n >= 10), "{again:?}");
        // Its page is used again, and nothing is counted twice.
        send(&tx, 20..300, 1000);
        let more = drain_numbers(&mut rx);
        grow_old();
        let now = stats(&channel, "g");
        assert_eq!(accounted(&now, first + (again.len() + more.len()) as u64, 0), 300);
        assert_eq!(now.lag, 0);
    });
}

/// Closed and left, and opened later by somebody else: the page that was taken away and not turned is as it was.
#[test]
fn a_page_that_was_taken_away_stays_that_over_a_close() {
    let (dir, channel) = open_new(options());
    let rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..10, 100);
    channel.close();
    grow_old();
    assert_eq!(stats(&channel, "g").expired, 10);
    drop((rx, channel));
    for _ in 0..3 {
        let channel = Options::new().blocking_open(dir.file()).unwrap();
        assert!(channel.recovered().is_none());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Disconnected);
        assert_eq!((stats(&channel, "g").expired, stats(&channel, "g").lag), (10, 0));
    }
}

#[test]
fn messages_grow_old_while_nobody_has_the_file_open() {
    let (dir, channel) = open_new(options());
    drop(channel.blocking_subscribe("g").unwrap());
    send(&channel.sender(), 0..80, 1000);
    drop(channel);
    grow_old();
    let channel = Options::new().blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    assert_eq!(stats(&channel, "g").expired, 80);
}

/// The time at which a page was opened says something else, far from now: that is seen, and what the messages say counts.
#[test]
fn a_time_that_was_altered_keeps_nothing() {
    let (dir, channel) = open_new(options());
    drop(channel.blocking_subscribe("g").unwrap());
    send(&channel.sender(), 0..10, 100);
    drop(channel);
    let file = File::options().read(true).write(true).open(dir.file()).unwrap();
    let first_page = file.metadata().unwrap().len() - 2 * PAGE as u64;
    file.write_all_at(&u64::MAX.to_le_bytes(), first_page + 256).unwrap();
    let channel = Options::new().blocking_open(dir.file()).unwrap();
    assert_eq!(channel.recovered().map(|report| (report.kept, report.damaged)), Some((10, 0)));
    let mut rx = channel.blocking_subscribe("g").unwrap();
    grow_old();
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    assert_eq!(stats(&channel, "g").expired, 10);
}

#[test]
fn what_was_given_back_or_is_held_is_gone_with_its_page() {
    let (_dir, channel) = open_new(options());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let tx = channel.sender();
    // All three have to be there in time.
    let [done, back, given] = loop {
        let before = stats(&channel, "g").expired;
        send(&tx, 0..4, 100);
        let leases: Vec<Lease> = (0..3).map_while(|_| rx.try_lease().ok()).collect();
        if let Ok(leases) = <[Lease; 3]>::try_from(leases)
            && leases.iter().map(|l| number(l)).eq(0..3)
        {
            assert_eq!(stats(&channel, "g").expired, before);
            break leases;
        }
        while rx.try_recv().is_ok() {}
    };
    let before = stats(&channel, "g");
    given.give_back().unwrap();
    grow_old();
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    assert_eq!((number(&done), number(&back)), (0, 1), "a lease is a copy");
    assert_eq!(done.ack(), Ok(()));
    assert_eq!(back.give_back(), Err(AckError::Gone));
    let now = stats(&channel, "g");
    assert_eq!((now.gone - before.gone, now.expired - before.expired), (2, 1));
    assert_eq!((now.lag, now.held, now.returned), (0, 0, 0));
}

#[test]
fn a_new_group_has_not_lost_what_had_expired() {
    let (_dir, channel) = open_new(options());
    for round in 0..5 {
        send(&channel.sender(), 0..60, 1000);
        grow_old();
        let start = if round % 2 == 0 { Start::Oldest } else { Start::Newest };
        let mut rx = channel.blocking_subscribe_from(round, start).unwrap();
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    }
    for (round, group) in (0..).zip(channel.groups()) {
        assert_eq!((group.expired, group.lag), ((4 - round) * 60, 0), "{}", group.name);
    }
}

/// Receivers wait, and do not come when they are woken for a message. It is given up all the same, and then they are
/// left alone.
#[test]
fn who_waits_is_not_woken_for_what_has_expired() {
    within(120, || {
        let (dir, channel) = open_new(options());
        let mut receivers: Vec<_> = (0..20).map(|_| channel.blocking_subscribe("g").unwrap()).collect();
        let (counter, waker) = CountingWaker::new();
        let mut waiting: Vec<_> = receivers.iter_mut().map(|rx| Box::pin(rx.recv())).collect();
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(waiting.iter_mut().all(|waiting| waiting.as_mut().poll(&mut cx).is_pending()));
        send(&channel.sender(), 0..1, 100);
        // Only looking gives nothing up.
        let look = Options::new().read_only(true).blocking_open(dir.file()).unwrap();
        eventually("it has expired", || stats(&look, "g").expired == 1);
        assert!(counter.count() > 0);
        // A look of the watcher that had begun ends.
        thread::sleep(Duration::from_millis(50));
        let woken = counter.count();
        thread::sleep(Duration::from_millis(300));
        assert_eq!(counter.count(), woken);
    });
}

/// What was sent, as far as the clock tells.
struct Sent {
    page: u64,
    /// The clock before the send.
    before: u64,
}

/// A channel, its groups, what they hold, and what came of everything: one thread does all of it, so that the books
/// balance at every step.
struct History {
    rng: Rng,
    dir: Dir,
    channel: Option<Channel>,
    rx: Vec<Receiver>,
    leases: Vec<(usize, Lease)>,
    sent: Vec<Sent>,
    /// The clock after the last send into a page.
    youngest: BTreeMap<u64, u64>,
    first: [u64; 3],
    lagged: [u64; 3],
    received: u64,
}

const GROUPS: [&str; 3] = ["often", "seldom", "never"];

impl History {
    fn new(overflow: Overflow, seed: u64) -> Self {
        let (dir, channel) = open_new(options().overflow(overflow).max_pages(2 + seed as usize % 3));
        let mut history = Self {
            rng: Rng::new(seed),
            dir,
            channel: Some(channel),
            rx: Vec::new(),
            leases: Vec::new(),
            sent: Vec::new(),
            youngest: BTreeMap::new(),
            first: [0; 3],
            lagged: [0; 3],
            received: 0,
        };
        history.subscribe();
        history
    }

    fn channel(&self) -> &Channel {
        self.channel.as_ref().unwrap()
    }

    fn subscribe(&mut self) {
        self.rx = GROUPS.map(|group| self.channel().blocking_subscribe(group).unwrap()).into();
    }

    fn send(&mut self) {
        let tx = self.channel().sender();
        for _ in 0..self.rng.below(60) {
            let (n, before) = (self.sent.len() as u64, clock());
            match tx.try_send(body(n, 8 + self.rng.below(3000) as usize)) {
                Ok(offset) => {
                    self.sent.push(Sent { page: offset.page(), before });
                    self.youngest.insert(offset.page(), clock());
                }
                Err(error) => {
                    assert!(error.is_full() && self.channel().overflow() == Overflow::Block, "{error}");
                    return;
                }
            }
        }
    }

    /// Something was handed out, that was asked for at `asked`.
    fn got(&mut self, group: usize, lease: &Lease, asked: u64) {
        let sent = &self.sent[number(lease) as usize];
        assert_eq!(sent.page, lease.offset().page());
        assert!(self.youngest[&sent.page] + AGE_MS > asked, "{} came when its page had expired", lease.offset());
        self.first[group] += u64::from(lease.attempts() == 1);
        self.received += 1;
    }

    fn receive(&mut self, group: usize) {
        for _ in 0..self.rng.below(60) {
            let asked = clock();
            match self.rx[group].try_lease() {
                Ok(lease) => {
                    self.got(group, &lease, asked);
                    match self.rng.below(8) {
                        0 => drop(lease),
                        1 if self.leases.len() < 16 => self.leases.push((group, lease)),
                        _ => assert_eq!(lease.ack(), Ok(())),
                    }
                }
                Err(TryRecvError::Lagged(n)) => self.lagged[group] += n,
                Err(TryRecvError::Empty) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn let_go(&mut self) {
        if !self.leases.is_empty() {
            let (_, lease) = self.leases.swap_remove(self.rng.below(self.leases.len() as u64) as usize);
            match self.rng.one_in(2) {
                true => assert_eq!(lease.ack(), Ok(())),
                false => assert!(matches!(lease.give_back(), Ok(()) | Err(AckError::Gone))),
            }
        }
    }

    fn reopen(&mut self) {
        self.leases.clear();
        self.rx.clear();
        self.channel = None;
        if self.rng.one_in(2) {
            grow_old();
        }
        self.channel = Some(Options::new().blocking_open(self.dir.file()).unwrap());
        assert!(self.channel().recovered().is_none());
        self.subscribe();
    }

    /// The last page is taken away, or not, while nobody can send.
    fn close(&mut self) {
        self.channel().close();
        if self.rng.one_in(2) {
            grow_old();
        }
        self.check();
        self.channel().sender();
    }

    fn check(&mut self) {
        // Whoever looks may find that a page has expired meanwhile.
        let first_offset = || self.channel().stats().first_offset;
        let (oldest, groups) = loop {
            let (oldest, groups) = (first_offset(), self.channel().groups());
            if first_offset() == oldest {
                break (oldest, groups);
            }
        };
        let now = clock();
        let old = self.sent.iter().filter(|sent| sent.before + AGE_MS <= now).count() as u64;
        for (group, name) in GROUPS.into_iter().enumerate() {
            let stats = groups.iter().find(|stats| stats.name == name.into()).unwrap();
            let held = self.leases.iter().filter(|(of, _)| *of == group);
            let out = held.clone().filter(|(_, lease)| lease.offset() >= oldest).count() as u64;
            assert_eq!(accounted(stats, self.first[group], out), self.sent.len() as u64, "{stats:?}, {:?}", self.first);
            assert!(stats.expired <= old, "{} expired, and {old} were old enough", stats.expired);
            assert!(self.lagged[group] <= stats.lagged);
            assert_eq!(stats.held, held.count(), "{stats:?}");
        }
    }
}

fn history_balances(overflow: Overflow, seed: u64) {
    let mut history = History::new(overflow, seed);
    for _ in 0..400 {
        match history.rng.below(24) {
            0..6 => history.send(),
            6..11 => history.receive(0),
            11..13 => history.receive(1),
            13..16 => history.let_go(),
            16..19 => thread::sleep(Duration::from_millis(history.rng.below(AGE_MS))),
            19..22 => history.check(),
            22 if history.rng.one_in(3) => history.reopen(),
            22 => {}
            _ => history.close(),
        }
    }
    history.leases.clear();
    grow_old();
    for group in 0..3 {
        loop {
            match history.rx[group].try_recv() {
                Err(TryRecvError::Lagged(n)) => history.lagged[group] += n,
                other => break assert_eq!(other.unwrap_err(), TryRecvError::Empty),
            }
        }
    }
    history.check();
    for (group, name) in GROUPS.into_iter().enumerate() {
        let stats = stats(history.channel(), name);
        assert_eq!((stats.lag, stats.lagged), (0, history.lagged[group]), "{name}");
        println!("{overflow:?}: {} sent, {} first received, {stats:?}", history.sent.len(), history.first[group]);
    }
    let never = stats(history.channel(), "never");
    assert!(never.expired > 0);
    assert_eq!(never.expired + never.lagged, history.sent.len() as u64);
}

#[test]
fn the_books_of_random_histories_balance() {
    within(300, || {
        let seed = seed();
        for n in 0..3 {
            history_balances(Overflow::Block, seed.wrapping_add(n));
            history_balances(Overflow::DropOldest, seed.wrapping_add(n));
        }
    });
}

/// What the receivers of a group got.
#[derive(Default)]
struct Books {
    first: Vec<u64>,
    lagged: u64,
}

/// Takes what there is until `over` and nothing is there any more; gives some back.
fn read(mut rx: Receiver, rest: Duration, over: &AtomicBool) -> Books {
    let (mut books, mut n) = (Books::default(), 0u64);
    loop {
        let last = over.load(Ordering::SeqCst);
        n += 1;
        match rx.try_lease() {
            Ok(lease) => {
                if lease.attempts() == 1 {
                    books.first.push(number(&lease));
                }
                if !rest.is_zero() && !last {
                    thread::sleep(rest);
                }
                if n.is_multiple_of(5) {
                    drop(lease);
                } else {
                    lease.ack().unwrap();
                }
            }
            Err(TryRecvError::Lagged(n)) => books.lagged += n,
            Err(TryRecvError::Empty) if last => return books,
            Err(TryRecvError::Empty) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Senders, receivers of three groups and those who look, in two opens of the file, and pages that expire all the time.
fn stress(overflow: Overflow) {
    const EACH: u64 = 6_000;
    const SENDERS: u64 = 2;
    let (dir, channel) = open_new(small().max_age(Duration::from_millis(5)).max_pages(3).overflow(overflow));
    let other = Options::new().blocking_open(dir.file()).unwrap();
    let groups = [("fast", 0), ("slow", 1), ("asleep", 20)];
    for (group, _) in groups {
        channel.blocking_subscribe(group).unwrap();
    }
    let over = AtomicBool::new(false);
    let books: Vec<Vec<Books>> = thread::scope(|scope| {
        let readers = groups.map(|(group, rest)| {
            [&channel, &other].map(|open| {
                let rx = open.blocking_subscribe(group).unwrap();
                let over = &over;
                scope.spawn(move || read(rx, Duration::from_millis(rest), over))
            })
        });
        let senders = [&channel, &other].into_iter().zip(0..SENDERS).map(|(open, sender)| {
            scope.spawn(move || {
                let (tx, mut rng) = (open.sender(), Rng::new(sender));
                for n in 0..EACH {
                    tx.blocking_send(body(sender * EACH + n, 8 + rng.below(400) as usize)).unwrap();
                    if rng.one_in(100) {
                        thread::sleep(Duration::from_millis(rng.below(3)));
                        open.groups();
                    }
                }
            })
        });
        let senders: Vec<_> = senders.collect();
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        over.store(true, Ordering::SeqCst);
        readers.map(|readers| readers.map(|reader| reader.join().unwrap()).into()).into()
    });
    grow_old();
    for ((group, _), books) in groups.into_iter().zip(books) {
        let stats = stats(&channel, group);
        let lagged: u64 = books.iter().map(|books| books.lagged).sum();
        let first: Vec<u64> = books.into_iter().flat_map(|books| books.first).collect();
        let unique: BTreeSet<_> = first.iter().collect();
        assert_eq!(unique.len(), first.len(), "{group}: some came first twice");
        assert_eq!(
            accounted(&stats, first.len() as u64, 0),
            SENDERS * EACH,
            "{group}: {} first, {stats:?}",
            first.len()
        );
        assert_eq!((stats.lag, stats.held, stats.returned), (0, 0, 0), "{group}");
        assert!(lagged <= stats.lagged, "{group}: told of {lagged}, {stats:?}");
        println!("{overflow:?}, {group}: {} first received, {stats:?}", first.len());
    }
    assert!(stats(&channel, "asleep").expired > 0);
}

#[test]
fn the_books_balance_under_load() {
    within(300, || stress(Overflow::Block));
    within(300, || stress(Overflow::DropOldest));
}

#[test]
fn with_a_long_age_everything_comes() {
    within(60, || {
        let (_dir, channel) = open_new(small().max_age(Duration::from_secs(100 * 365 * 86_400)));
        let rx = channel.blocking_subscribe("g").unwrap();
        let got = thread::spawn(move || rx.into_iter().map(|m| number(&m)).collect::<Vec<_>>());
        send(&channel.sender(), 0..1000, 1000);
        eventually("all has come", || stats(&channel, "g").lag == 0);
        assert_eq!(stats(&channel, "g").expired, 0);
        drop(channel);
        assert_each_once(got.join().unwrap(), 1000);
    });
}

#[test]
fn it_is_stored_in_the_file() {
    let dir = Dir::new();
    drop(options().blocking_open(dir.file()).unwrap());
    let other = small().max_age(Duration::from_secs(1)).blocking_open(dir.file()).unwrap_err();
    assert!(matches!(other, OpenError::Mismatch { option: "max_age", found: AGE_MS, expected: 1000, .. }), "{other:?}");
    let channel = Options::new().blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..3, 100);
    grow_old();
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    drop((rx, channel));

    let without = Dir::new();
    drop(small().blocking_open(without.file()).unwrap());
    let error = options().blocking_open(without.file()).unwrap_err();
    assert!(matches!(error, OpenError::Mismatch { option: "max_age", found: 0, expected: AGE_MS, .. }), "{error:?}");
}

#[test]
fn it_has_limits() {
    for age in [Duration::from_secs(200 * 365 * 86_400), Duration::MAX] {
        let error = small().max_age(age).blocking_open(Dir::new().file()).unwrap_err();
        assert!(matches!(error, OpenError::InvalidOption { option: "max_age", .. }), "{error:?}");
    }
    // What is set is not nothing.
    let (_dir, channel) = open_new(small().max_age(Duration::ZERO));
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..1, 8);
    grow_old();
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
}

/// What was given up before the power went does not come back to be given up again.
#[test]
fn what_expired_is_counted_once_also_over_a_recovery() {
    let (dir, channel) = open_new(small().max_age(Duration::from_millis(50)));
    let copy = dir.join("copy.chan");
    let _rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..2, 50);
    thread::sleep(Duration::from_millis(100));
    assert_eq!((channel.groups()[0].expired, channel.groups()[0].lag), (2, 0));
    channel.blocking_sync().unwrap();
    std::fs::copy(dir.file(), &copy).unwrap();
    let again = Options::new().blocking_open(&copy).unwrap();
    assert!(again.recovered().is_some());
    assert_eq!((again.groups()[0].expired, again.groups()[0].lag), (2, 0));
}

/// A group can be made also where the last page of a closed channel expires meanwhile.
#[test]
fn groups_are_made_in_a_closed_channel_whose_last_page_expires() {
    within(60, || {
        let (_dir, channel) = open_new(small().max_age(Duration::from_millis(30)));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), 0..2, 50);
        let last = channel.read_slice(channel.first_offset(), 2).unwrap().records[1].offset();
        channel.close();
        thread::sleep(Duration::from_millis(60));
        let enough = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !enough.load(Ordering::SeqCst) {
                    let _ = rx.try_recv();
                }
            });
            let made: Result<(), _> = (0..200).try_for_each(|_| {
                drop(channel.blocking_subscribe_from("h", Start::At(last))?);
                channel.remove_group("h", false).unwrap();
                Ok::<(), disk_chan::SubscribeError>(())
            });
            enough.store(true, Ordering::SeqCst);
            made.unwrap();
        });
    });
}
