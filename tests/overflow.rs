//! A full ring: senders wait and are told for whom, or the oldest page goes and each group is told how much it lost.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::{
    PAGE, Rng, assert_each_once, body, drain_numbers, fill, number, open_new, seed, small, small_channel, within,
    within_tokio,
};
use disk_chan::{
    AckError, Channel, Full, Overflow, Receiver, RecvError, SendTimeoutError, Start, TryRecvError, TrySendError,
};

fn dropping() -> (common::Dir, Channel) {
    open_new(small().overflow(Overflow::DropOldest))
}

/// The reason why the channel is full.
fn full(channel: &Channel) -> Full {
    match channel.sender().try_send(vec![0; 1000]) {
        Err(TrySendError::Full(full)) => full,
        other => panic!("not full: {other:?}"),
    }
}

/// Ten times the ring's size through 2 pages, with one group that sleeps.
#[test]
fn senders_wait_for_the_slow_group_and_nothing_is_lost() {
    within(120, || {
        const COUNT: u64 = 1400;
        let (_dir, channel) = small_channel();
        assert!(COUNT * 1000 > 10 * channel.capacity_bytes());
        let fast = channel.blocking_subscribe("fast").unwrap();
        let mut slow = channel.blocking_subscribe("slow").unwrap();
        let fast = thread::spawn(move || fast.into_iter().map(|m| number(&m)).collect::<Vec<_>>());
        let waited = AtomicU64::new(0);
        let named_slow = AtomicU64::new(0);
        let slow_got = thread::scope(|scope| {
            for sender in 0..2 {
                let (tx, waited, named_slow) = (channel.sender(), &waited, &named_slow);
                scope.spawn(move || {
                    for n in (sender..COUNT).step_by(2) {
                        match tx.try_send(body(n, 1000)) {
                            Ok(_) => {}
                            Err(TrySendError::Full(reason)) => {
                                if matches!(reason, Full::Group { name, .. } if name.as_str() == "slow") {
                                    named_slow.fetch_add(1, Ordering::Relaxed);
                                }
                                waited.fetch_add(1, Ordering::Relaxed);
                                tx.blocking_send(body(n, 1000)).unwrap();
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            let mut got = vec![];
            for _ in 0..COUNT {
                got.push(number(&slow.blocking_recv().unwrap()));
                thread::sleep(Duration::from_micros(500));
            }
            got
        });
        drop(channel);
        assert!(waited.into_inner() >= 10, "senders waited");
        assert!(named_slow.into_inner() >= 5, "try_send named the slow group");
        assert_each_once(slow_got, COUNT);
        assert_each_once(fast.join().unwrap(), COUNT);
        assert_eq!(slow.try_recv().unwrap_err(), TryRecvError::Disconnected);
    });
}

#[test]
fn full_names_the_slowest_group_and_how_far_behind_it_is() {
    within(30, || {
        let (_dir, channel) = small_channel();
        let mut fast = channel.blocking_subscribe("fast").unwrap();
        let mut slow = channel.blocking_subscribe("slow").unwrap();
        let sent = fill(&channel, 0, 1000);
        assert!(sent > 90, "{sent}");
        assert_eq!(drain_numbers(&mut fast).len() as u64, sent);
        let behind = match full(&channel) {
            Full::Group { name, behind } if name.as_str() == "slow" => behind,
            other => panic!("{other:?}"),
        };
        assert!((sent..sent + 10).contains(&behind), "{behind}, {sent} sent");
        let text = channel.sender().try_send(vec![0; 1000]).unwrap_err().to_string();
        assert!(text.contains("slow") && text.contains(&behind.to_string()), "{text}");
        let start = std::time::Instant::now();
        let limit = Duration::from_millis(50);
        match channel.sender().send_timeout(vec![0; 1000], limit) {
            Err(SendTimeoutError::Timeout(Full::Group { name, .. })) => assert_eq!(name.as_str(), "slow"),
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() >= limit);

        assert_eq!(number(&slow.try_recv().unwrap()), 0);
        match full(&channel) {
            Full::Group { name, behind: now } if name.as_str() == "slow" => assert_eq!(now, behind - 1),
            other => panic!("{other:?}"),
        }
        assert_eq!(drain_numbers(&mut slow), (1..sent).collect::<Vec<_>>());
        channel.sender().try_send(b"room").unwrap();
    });
}

#[test]
fn a_held_or_given_back_message_counts_as_behind() {
    let (_dir, channel) = small_channel();
    let mut rx = channel.blocking_subscribe("holds").unwrap();
    channel.sender().try_send(body(0, 1000)).unwrap();
    let lease = rx.try_lease().unwrap();
    let sent = 1 + fill(&channel, 1, 1000);
    assert_eq!(drain_numbers(&mut rx), (1..sent).collect::<Vec<_>>());
    let named = |full| matches!(full, Full::Group { name, behind } if name.as_str() == "holds" && behind >= sent);
    assert!(named(full(&channel)), "{:?}", full(&channel));
    lease.give_back().unwrap();
    assert!(named(full(&channel)), "{:?}", full(&channel));
    let held = rx.try_recv().unwrap();
    assert!(named(full(&channel)), "{:?}", full(&channel));
    drop(held);
    channel.sender().try_send(b"room").unwrap();
}

/// A group that has read on and still holds an old message is the one that is named, not one that merely reads later.
#[test]
fn full_names_the_group_that_is_in_the_way() {
    let (_dir, channel) = small_channel();
    let mut holds = channel.blocking_subscribe("holds").unwrap();
    let mut reads = channel.blocking_subscribe("reads").unwrap();
    let first = channel.sender().try_send(body(0, 1000)).unwrap();
    let lease = holds.try_lease().unwrap();
    let sent = 1 + fill(&channel, 1, 1000);
    assert_eq!(drain_numbers(&mut holds).len() as u64, sent - 1);
    while reads.try_recv().unwrap().offset().page() == first.page() {}
    for _ in 0..2 {
        match full(&channel) {
            Full::Group { name, behind } => {
                assert!(name.as_str() == "holds" && behind >= sent, "{name}, {behind} of {sent}")
            }
            other => panic!("{other:?}"),
        }
    }
    lease.ack().unwrap();
    channel.sender().try_send(b"room").unwrap();
}

#[test]
fn with_no_group_nothing_is_given_up() {
    within(30, || {
        let (_dir, channel) = small_channel();
        let sent = fill(&channel, 0, 1000);
        assert!(sent > 90, "{sent}");
        assert_eq!(full(&channel), Full::NoGroup);
        assert_eq!(channel.len(), sent);
        let waiting = channel.sender();
        let waiting = thread::spawn(move || waiting.blocking_send(body(sent, 1000)).unwrap());
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        assert_eq!(drain_numbers(&mut rx)[..sent as usize], (0..sent).collect::<Vec<_>>());
        waiting.join().unwrap();
        channel.remove_group("g", false).unwrap();
        fill(&channel, 0, 1000);
        assert_eq!(full(&channel), Full::NoGroup);
    });
}

#[test]
fn room_is_one_page_at_a_time_and_the_ring_takes_what_it_can_hold() {
    let (_dir, channel) = small_channel();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    for len in [0, 8, 100, 1000, 20_000, channel.max_message_len()] {
        let tx = channel.sender();
        let mut offsets = vec![];
        while let Ok(offset) = tx.try_send(vec![1; len]) {
            offsets.push(offset);
        }
        let first_page = offsets.iter().filter(|offset| offset.page() == offsets[0].page()).count();
        assert!(offsets.len() >= 2, "two pages hold two messages of {len} bytes, got {}", offsets.len());
        for _ in 0..first_page {
            assert!(tx.try_send(vec![1; len]).unwrap_err().is_full());
            drop(rx.try_recv().unwrap());
        }
        tx.try_send(vec![1; len]).unwrap();
        while rx.try_recv().is_ok() {}
    }
}

#[test]
fn an_async_sender_waits_too() {
    within_tokio(60, || async {
        let (_dir, channel) = small_channel();
        let mut rx = channel.subscribe("g").await.unwrap();
        let sent = fill(&channel, 0, 1000);
        let tasks: Vec<_> = (0..10)
            .map(|n| {
                let tx = channel.sender();
                tokio::spawn(async move { tx.send(body(sent + n, 1000)).await.unwrap() })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(tasks.iter().all(|task| !task.is_finished()));
        let mut got = vec![];
        while got.len() < sent as usize + 10 {
            got.push(number(&rx.recv().await.unwrap()));
        }
        assert_each_once(got, sent + 10);
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// What a receiver of a lossy channel got: the numbers, and the sum of what it was told it lost.
#[derive(Default)]
struct Books {
    got: Vec<u64>,
    lagged: u64,
}

impl Books {
    /// Takes what there is; `false` when there is nothing.
    fn take(&mut self, rx: &mut Receiver) -> bool {
        match rx.try_recv() {
            Ok(m) => {
                self.got.push(number(&m));
                true
            }
            Err(TryRecvError::Lagged(n)) => {
                assert!(n > 0);
                self.lagged += n;
                true
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn drop_oldest_never_waits() {
    let (_dir, channel) = dropping();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let tx = channel.sender();
    for n in 0..1400 {
        tx.try_send(body(n, 1000)).unwrap();
    }
    let in_ring = channel.len();
    assert!(in_ring > 40 && in_ring < 140, "{in_ring}");
    assert_eq!(channel.groups()[0].lag, in_ring);
    // Many laps behind: told once, then all that is there.
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Lagged(1400 - in_ring));
    assert_eq!(drain_numbers(&mut rx), (1400 - in_ring..1400).collect::<Vec<_>>());
    assert_eq!(channel.groups()[0].lagged, 1400 - in_ring);
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    tx.try_send(body(1400, 1000)).unwrap();
    assert_eq!(drain_numbers(&mut rx), [1400]);
}

#[test]
fn drop_oldest_with_no_group_goes_on_and_a_new_group_has_lost_nothing() {
    let (_dir, channel) = dropping();
    for n in 0..1400 {
        channel.sender().try_send(body(n, 1000)).unwrap();
    }
    let in_ring = channel.len();
    let mut oldest = channel.blocking_subscribe("oldest").unwrap();
    let mut newest = channel.blocking_subscribe_from("newest", Start::Newest).unwrap();
    assert_eq!(drain_numbers(&mut oldest), (1400 - in_ring..1400).collect::<Vec<_>>());
    assert_eq!(newest.try_recv().unwrap_err(), TryRecvError::Empty);
    for group in channel.groups() {
        assert_eq!(group.lagged, 0, "{}", group.name);
    }
}

/// One sender, one receiver that stops now and then: the losses are told where the gaps are.
#[test]
fn lagged_is_told_where_the_gap_is() {
    within(60, || {
        let seed = seed();
        let mut rng = Rng::new(seed);
        let (_dir, channel) = dropping();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let (mut sent, mut next, mut laggings) = (0, 0, 0);
        for _ in 0..2000 {
            for _ in 0..rng.below(60) {
                tx.try_send(body(sent, 8 + rng.below(3000) as usize)).unwrap();
                sent += 1;
            }
            for _ in 0..rng.below(60) {
                match rx.try_recv() {
                    Ok(m) => assert_eq!(number(&m), next, "after {laggings} laggings"),
                    Err(TryRecvError::Lagged(n)) => {
                        next += n - 1;
                        laggings += 1;
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(error) => panic!("{error}"),
                }
                next += 1;
            }
        }
        assert!(laggings > 20, "{laggings}");
    });
}

/// The same with the sender in another thread.
#[test]
fn lagged_is_told_where_the_gap_is_under_load() {
    within(120, || {
        const COUNT: u64 = 100_000;
        let (_dir, channel) = dropping();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let channel_too = channel.clone();
        let sender = thread::spawn(move || {
            for n in 0..COUNT {
                tx.blocking_send(body(n, 200)).unwrap();
            }
            drop(channel_too);
        });
        drop(channel);
        let mut next = 0;
        loop {
            match rx.blocking_recv() {
                Ok(m) => {
                    assert_eq!(number(&m), next);
                    next += 1;
                }
                Err(RecvError::Lagged(n)) => next += n,
                Err(RecvError::Disconnected) => break,
                Err(error) => panic!("{error}"),
            }
            if next % 1000 < 3 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        assert_eq!(next, COUNT);
        sender.join().unwrap();
    });
}

/// For each group: received + the sum of the losses = sent, exactly, with several of everything at different speeds.
#[test]
fn the_books_of_every_group_balance() {
    within(180, || {
        const EACH: u64 = 8_000;
        const SENDERS: u64 = 3;
        let (_dir, channel) = dropping();
        let sending = AtomicBool::new(true);
        // Group by group: receivers, and microseconds that a receiver rests after a message.
        let groups = [(1, 0), (2, 20), (3, 300), (1, 5_000)];
        let all: Vec<Vec<Books>> = thread::scope(|scope| {
            let receivers: Vec<Vec<_>> = groups
                .iter()
                .enumerate()
                .map(|(group, (count, rest))| {
                    let rx = channel.blocking_subscribe(group).unwrap();
                    let receive = |mut rx: Receiver| {
                        let sending = &sending;
                        move || {
                            let mut books = Books::default();
                            loop {
                                let last = !sending.load(Ordering::SeqCst);
                                if books.take(&mut rx) {
                                    if *rest > 0 && sending.load(Ordering::Relaxed) {
                                        thread::sleep(Duration::from_micros(*rest));
                                    }
                                } else if last {
                                    return books;
                                } else {
                                    thread::yield_now();
                                }
                            }
                        }
                    };
                    (0..*count).map(|_| scope.spawn(receive(rx.clone()))).collect()
                })
                .collect();
            let senders: Vec<_> = (0..SENDERS)
                .map(|s| {
                    let tx = channel.sender();
                    scope.spawn(move || {
                        let mut rng = Rng::new(s);
                        for n in 0..EACH {
                            tx.blocking_send(body(s * EACH + n, 8 + rng.below(400) as usize)).unwrap();
                        }
                    })
                })
                .collect();
            for sender in senders {
                sender.join().unwrap();
            }
            sending.store(false, Ordering::SeqCst);
            let join = |receivers: Vec<thread::ScopedJoinHandle<'_, Books>>| {
                receivers.into_iter().map(|receiver| receiver.join().unwrap()).collect()
            };
            receivers.into_iter().map(join).collect()
        });
        for (group, books) in all.iter().enumerate() {
            let lagged: u64 = books.iter().map(|b| b.lagged).sum();
            let mut got: Vec<u64> = books.iter().flat_map(|b| b.got.clone()).collect();
            let received = got.len() as u64;
            got.sort();
            got.dedup();
            assert_eq!(got.len() as u64, received, "group {group}: some came twice");
            assert_eq!(received + lagged, SENDERS * EACH, "group {group}: received {received} + lagged {lagged}");
            let stats = channel.groups().into_iter().find(|g| g.name == group.into()).unwrap();
            assert_eq!((stats.lagged, stats.lag, stats.gone), (lagged, 0, 0), "group {group}");
        }
        let lagged = all.last().unwrap().iter().map(|b| b.lagged).sum::<u64>();
        assert!(lagged > SENDERS * EACH / 4, "the slowest group lost much: {lagged}");
    });
}

#[test]
fn a_lease_over_a_dropped_page_can_be_done_and_not_given_back() {
    let (_dir, channel) = dropping();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    for n in 0..5 {
        tx.try_send(body(n, 1000)).unwrap();
    }
    let [done, back, dropped] = [(); 3].map(|()| rx.try_lease().unwrap());
    rx.try_lease().unwrap().give_back().unwrap();
    for n in 5..1400 {
        tx.try_send(body(n, 1000)).unwrap();
    }
    assert_eq!([number(&done), number(&back), number(&dropped)], [0, 1, 2], "a lease is a copy");
    assert_eq!(done.ack(), Ok(()));
    assert_eq!(back.give_back(), Err(AckError::Gone));
    drop(dropped);
    // 0, 1, 2 and 3 were handed out; 4 never was.
    let in_ring = channel.len();
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Lagged(1400 - in_ring - 4));
    assert_eq!(drain_numbers(&mut rx), (1400 - in_ring..1400).collect::<Vec<_>>());
    let stats = &channel.groups()[0];
    assert_eq!((stats.lagged, stats.held, stats.returned), (1400 - in_ring - 4, 0, 0));
    assert_eq!(stats.gone, 3, "given back, too late or not, and dropped: they will not come again");
}

#[test]
fn no_reader_holds_up_a_sender_that_drops_the_oldest() {
    let (_dir, channel) = dropping();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let mut other = rx.clone();
    tx.try_send(body(0, 5000)).unwrap();
    tx.try_send(body(1, 5000)).unwrap();
    let message = rx.try_recv().unwrap();
    let lease = other.try_lease().unwrap();
    for n in 2..400 {
        tx.try_send(body(n, 5000)).unwrap();
    }
    assert_eq!((number(&message), number(&lease)), (0, 1));
    assert_eq!(message.len() + lease.len(), 10_000);
    drop(message);
    lease.ack().unwrap();
    assert_eq!(other.try_recv().unwrap_err(), TryRecvError::Lagged(400 - channel.len() - 2));
    assert_eq!(number(&rx.try_recv().unwrap()), 400 - channel.len());
}

/// Held over a lap or longer and then given back: received once, or handed out again, never both lost and counted.
#[test]
fn leases_and_losses_balance() {
    within(120, || {
        let seed = seed();
        let mut rng = Rng::new(seed);
        let (_dir, channel) = dropping();
        let tx = channel.sender();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let (mut sent, mut first, mut lagged, mut gone) = (0, 0, 0, 0);
        let mut held = vec![];
        for _ in 0..3000 {
            for _ in 0..rng.below(8) {
                tx.try_send(body(sent, 8 + rng.below(6000) as usize)).unwrap();
                sent += 1;
            }
            for _ in 0..rng.below(8) {
                match rx.try_lease() {
                    Ok(lease) => {
                        first += u64::from(lease.attempts() == 1);
                        held.push(lease);
                    }
                    Err(TryRecvError::Lagged(n)) => lagged += n,
                    Err(TryRecvError::Empty | TryRecvError::TooManyHeld { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            for _ in 0..rng.below(8).min(held.len() as u64) {
                let lease = held.swap_remove(rng.below(held.len() as u64) as usize);
                if rng.one_in(2) {
                    assert_eq!(lease.ack(), Ok(()));
                } else {
                    match lease.give_back() {
                        Ok(()) => {}
                        Err(AckError::Gone) => gone += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
        for lease in held {
            lease.ack().unwrap();
        }
        loop {
            match rx.try_recv() {
                Ok(m) => first += u64::from(m.attempts() == 1),
                Err(TryRecvError::Lagged(n)) => lagged += n,
                Err(TryRecvError::Empty) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(first + lagged, sent, "handed out {first} + lagged {lagged}");
        let stats = &channel.groups()[0];
        assert_eq!((stats.lagged, stats.lag), (lagged, 0));
        assert!(stats.gone >= gone && gone > 0, "{} gone, {gone} told", stats.gone);
    });
}

/// A group that is created while the oldest pages are dropped starts in the ring, and is told of all that it loses then.
#[test]
fn new_groups_while_pages_are_dropped() {
    within(120, || {
        let (_dir, channel) = dropping();
        let sending = AtomicBool::new(true);
        thread::scope(|scope| {
            scope.spawn(|| {
                let tx = channel.sender();
                let mut n = 0;
                while sending.load(Ordering::Relaxed) {
                    tx.blocking_send(body(n, 2000)).unwrap();
                    n += 1;
                    if n % 64 == 0 {
                        thread::yield_now();
                    }
                }
            });
            let makers = [0, 1].map(|maker| {
                let channel = &channel;
                scope.spawn(move || {
                    let mut losses = 0;
                    for round in 0..300 {
                        let start = if round % 3 == 0 { Start::Newest } else { Start::Oldest };
                        let mut rx = channel.blocking_subscribe_from(maker, start).unwrap();
                        let mut next = None;
                        for _ in 0..round % 100 {
                            match rx.try_recv() {
                                Ok(m) => {
                                    assert!(
                                        next.is_none_or(|next| next == number(&m)),
                                        "{next:?}, then {}",
                                        number(&m)
                                    );
                                    next = Some(number(&m) + 1);
                                }
                                // Before its first message it cannot know how many went before it was there.
                                Err(TryRecvError::Lagged(n)) => {
                                    losses += 1;
                                    next = next.map(|next| next + n);
                                }
                                Err(TryRecvError::Empty) => thread::yield_now(),
                                Err(error) => panic!("{error}"),
                            }
                        }
                        channel.remove_group(maker, false).unwrap();
                    }
                    losses
                })
            });
            let losses = makers.map(|maker| maker.join());
            sending.store(false, Ordering::Relaxed);
            let losses: u64 = losses.into_iter().map(Result::unwrap).sum();
            println!("{losses} times told of a loss");
        });
    });
}

#[test]
fn iterators_pass_over_a_loss() {
    let (_dir, channel) = dropping();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    for n in 0..1400 {
        channel.sender().try_send(body(n, 1000)).unwrap();
    }
    let in_ring = channel.len();
    assert_eq!(rx.try_iter().map(|m| number(&m)).collect::<Vec<_>>(), (1400 - in_ring..1400).collect::<Vec<_>>());
    for n in 1400..2800 {
        channel.sender().try_send(body(n, 1000)).unwrap();
    }
    let in_ring = channel.len();
    drop(channel);
    assert_eq!(rx.into_iter().map(|m| number(&m)).collect::<Vec<_>>(), (2800 - in_ring..2800).collect::<Vec<_>>());
}

/// The file says what happens when it is full; both ways the file keeps its size.
#[test]
fn the_mode_stays_with_the_file() {
    let (dir, channel) = dropping();
    assert_eq!(channel.overflow(), Overflow::DropOldest);
    let size = std::fs::metadata(dir.file()).unwrap().len();
    assert!(size < 8 * PAGE as u64, "{size}");
    drop(channel);
    let channel = disk_chan::Options::new().blocking_open(dir.file()).unwrap();
    assert_eq!(channel.overflow(), Overflow::DropOldest);
    for n in 0..1400 {
        channel.sender().try_send(body(n, 1000)).unwrap();
    }
    assert_eq!(std::fs::metadata(dir.file()).unwrap().len(), size);
}

/// A group that was removed has no say any more: what a later group under its number lost is told to that one.
#[test]
fn a_receiver_of_a_removed_group_is_told_of_no_loss() {
    let (_dir, channel) = dropping();
    let mut removed = channel.blocking_subscribe("g").unwrap();
    let mut too = removed.clone();
    for n in 0..1400 {
        channel.sender().try_send(body(n, 1000)).unwrap();
    }
    channel.remove_group("g", false).unwrap();
    assert_eq!(removed.try_recv().unwrap_err(), TryRecvError::GroupRemoved, "its own loss is past");
    let mut new = channel.blocking_subscribe("g").unwrap();
    let in_ring = channel.len();
    for n in 1400..2800 {
        channel.sender().try_send(body(n, 1000)).unwrap();
    }
    assert_eq!(too.try_recv().unwrap_err(), TryRecvError::GroupRemoved);
    assert_eq!(too.blocking_recv().unwrap_err(), RecvError::GroupRemoved);
    assert_eq!(new.try_recv().unwrap_err(), TryRecvError::Lagged(1400 + in_ring - channel.len()));
    assert_eq!(drain_numbers(&mut new).len() as u64, channel.len());
}
