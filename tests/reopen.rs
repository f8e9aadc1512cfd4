//! A clean close and a reopen change nothing: the same offsets, the same messages left for each group, at every state.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::{Dir, Rng, body, drain, drain_numbers, fill, number, seed, small, within, within_tokio};
use disk_chan::{Channel, Offset, Options, Overflow, Receiver, Start, TryRecvError};

type Left = Vec<(Offset, u64, u32)>;

/// What a channel shows to its users.
#[derive(Debug, PartialEq)]
struct Figures {
    first: Offset,
    end: Offset,
    len: u64,
    closed: bool,
    groups: BTreeMap<String, [u64; 6]>,
}

fn figures(channel: &Channel) -> Figures {
    let stats = channel.stats();
    let groups = channel.groups().into_iter();
    Figures {
        first: stats.first_offset,
        end: stats.end_offset,
        len: stats.len,
        closed: stats.closed,
        groups: groups
            .map(|g| (g.name.to_string(), [g.lag, g.held as u64, g.returned as u64, g.lagged, g.gone, g.redelivered]))
            .collect(),
    }
}

/// Closes the channel (the last handle goes) and opens it again; everything it shows must be as before.
fn reopen(channel: Channel, path: &Path) -> Channel {
    let before = figures(&channel);
    drop(channel);
    let channel = Options::new().blocking_open(path).unwrap();
    assert_eq!(figures(&channel), before);
    channel
}

/// What a group has left, without changing it: the leases are given back, so that each attempt counts one more.
fn peek(channel: &Channel, group: &str) -> Left {
    let mut rx = channel.blocking_subscribe(group).unwrap();
    let mut leases = vec![];
    loop {
        match rx.try_lease() {
            Ok(lease) => leases.push(lease),
            Err(TryRecvError::Empty) => break,
            Err(error) => panic!("{error}"),
        }
    }
    leases.iter().map(|lease| (lease.offset(), number(lease), lease.attempts())).collect()
}

/// Drives a channel in a state through a reopen, twice, drains it, and then goes round the ring several times more.
fn survives(options: Options, state: impl FnOnce(&Channel)) {
    let dir = Dir::new();
    let channel = options.blocking_open(dir.file()).unwrap();
    state(&channel);
    let names: Vec<_> = channel.groups().into_iter().map(|g| g.name).collect();
    let mut shadow: BTreeMap<_, Left> = BTreeMap::new();
    // A look at every group, which ends in everything given back.
    for name in &names {
        shadow.insert(name.clone(), peek(&channel, name.as_str()));
    }
    let channel = reopen(reopen(channel, &dir.file()), &dir.file());
    let end = channel.stats().end_offset;
    for name in &names {
        let expected: Left = shadow[name].iter().map(|(offset, n, attempts)| (*offset, *n, attempts + 1)).collect();
        let mut rx = channel.blocking_subscribe(name.as_str()).unwrap();
        assert_eq!(drain(&mut rx), expected, "group {name}");
    }
    let channel = reopen(channel, &dir.file());
    let mut receivers: Vec<_> = names.iter().map(|name| channel.blocking_subscribe(name.as_str()).unwrap()).collect();
    if receivers.is_empty() {
        receivers.push(channel.blocking_subscribe_from("late", Start::Newest).unwrap());
    }
    let tx = channel.sender();
    for n in 0..60 {
        let offset = tx.try_send(body(n, 5000)).unwrap();
        assert!(offset >= end, "{offset} is used again, the end was {end}");
        for rx in &mut receivers {
            let m = rx.try_recv().unwrap();
            assert_eq!((m.offset(), number(&m), m.attempts()), (offset, n, 1));
        }
    }
}

/// How many messages of this length go into one page.
fn page_holds(options: Options, len: usize) -> u64 {
    let dir = Dir::new();
    let channel = options.blocking_open(dir.file()).unwrap();
    let tx = channel.sender();
    let first = tx.try_send(body(0, len)).unwrap().page();
    (1..).take_while(|n| tx.try_send(body(*n, len)).is_ok_and(|offset| offset.page() == first)).count() as u64 + 1
}

fn send(channel: &Channel, numbers: std::ops::Range<u64>, len: usize) {
    for n in numbers {
        channel.sender().try_send(body(n, len)).unwrap();
    }
}

/// Room to hold everything a page or two can have.
fn options() -> Options {
    small().max_held(1500)
}

/// Slots run out before bytes do.
fn tiny() -> (Options, usize) {
    (options().typical_message_len(1024), 8)
}

/// Bytes run out before slots do.
fn large() -> (Options, usize) {
    (options(), 9000)
}

#[test]
fn nothing_at_all() {
    survives(options(), |_| {});
}

#[test]
fn empty_with_groups() {
    survives(options(), |channel| {
        channel.blocking_subscribe("a").unwrap();
        channel.blocking_subscribe(7).unwrap();
    });
}

#[test]
fn in_the_middle_of_a_page() {
    survives(options(), |channel| {
        send(channel, 0..10, 100);
        drain(&mut channel.blocking_subscribe("drained").unwrap());
        channel.blocking_subscribe("all").unwrap();
        send(channel, 10..15, 100);
    });
}

#[test]
fn without_a_group_the_messages_stay() {
    let dir = Dir::new();
    let channel = options().blocking_open(dir.file()).unwrap();
    let sent = fill(&channel, 0, 1000);
    let channel = reopen(channel, &dir.file());
    assert!(channel.sender().try_send(vec![0; 1000]).unwrap_err().is_full());
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("g").unwrap()), (0..sent).collect::<Vec<_>>());
}

#[test]
fn the_page_is_exactly_full_or_almost_or_just_over() {
    within(120, || {
        for (options, len) in [tiny(), large(), (options(), 100)] {
            let full = page_holds(options.clone(), len);
            assert!(full >= 6, "{full} of {len}");
            for count in [full - 1, full, full + 1, 2 * full - 1, 2 * full] {
                survives(options.clone(), |channel| {
                    channel.blocking_subscribe("all").unwrap();
                    send(channel, 0..count, len);
                });
                survives(options.clone(), |channel| {
                    let mut rx = channel.blocking_subscribe("drained").unwrap();
                    send(channel, 0..count, len);
                    assert_eq!(drain(&mut rx).len() as u64, count);
                });
                survives(options.clone(), |channel| {
                    let mut rx = channel.blocking_subscribe("last is left").unwrap();
                    send(channel, 0..count, len);
                    for _ in 1..count {
                        drop(rx.try_recv().unwrap());
                    }
                });
            }
        }
    });
}

#[test]
fn slots_and_bytes_run_out() {
    let (options, len) = tiny();
    let slots = page_holds(options.clone(), len);
    assert!((40..100).contains(&slots), "{slots} slots for messages of about 1 KiB in 64 KiB");
    assert_eq!(page_holds(options, 16), slots, "nor do 8 bytes more change that");
    let (options, len) = large();
    assert!((6..8).contains(&page_holds(options, len)));
}

#[test]
fn the_ring_is_full() {
    for (options, len) in [tiny(), large()] {
        survives(options.clone(), |channel| {
            channel.blocking_subscribe("g").unwrap();
            fill(channel, 0, len);
        });
        // Full with one group, free for the other.
        survives(options, |channel| {
            let mut ahead = channel.blocking_subscribe("ahead").unwrap();
            channel.blocking_subscribe("behind").unwrap();
            fill(channel, 0, len);
            drain(&mut ahead);
        });
    }
}

#[test]
fn a_full_ring_is_full_again_and_waiting_senders_get_room() {
    within(60, || {
        let dir = Dir::new();
        let channel = options().blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let sent = fill(&channel, 0, 1000);
        drop(rx.try_recv().unwrap());
        drop(rx);
        let channel = reopen(channel, &dir.file());
        let tx = channel.sender();
        assert!(tx.try_send(vec![0; 1000]).unwrap_err().is_full());
        let waiting = thread::spawn(move || tx.blocking_send(body(sent, 1000)).unwrap());
        thread::sleep(Duration::from_millis(30));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        for n in 1..=sent {
            assert_eq!(number(&rx.blocking_recv().unwrap()), n);
        }
        waiting.join().unwrap();
    });
}

#[test]
fn the_ring_went_round_many_times() {
    for rest in [0, 1, 5] {
        survives(options(), |channel| {
            let mut rx = channel.blocking_subscribe("a").unwrap();
            let mut other = channel.blocking_subscribe("b").unwrap();
            for n in 0..2000 {
                channel.sender().try_send(body(n, 700)).unwrap();
                drop(rx.try_recv().unwrap());
                if n < 2000 - rest {
                    drop(other.try_recv().unwrap());
                }
            }
        });
    }
}

#[test]
fn groups_stand_at_different_places() {
    survives(options(), |channel| {
        send(channel, 0..30, 2000);
        for (name, done) in [("none", 0), ("one", 1), ("some", 17), ("all", 30)] {
            let mut rx = channel.blocking_subscribe(name).unwrap();
            for _ in 0..done {
                drop(rx.try_recv().unwrap());
            }
        }
        channel.blocking_subscribe_from("newest", Start::Newest).unwrap();
        let middle = peek(channel, "none")[12].0;
        channel.blocking_subscribe_from("middle", Start::At(middle)).unwrap();
        send(channel, 30..33, 2000);
    });
}

#[test]
fn done_in_another_order() {
    survives(options(), |channel| {
        send(channel, 0..100, 500);
        let mut rx = channel.blocking_subscribe("holes").unwrap();
        let leases: Vec<_> = (0..90).map(|_| rx.try_lease().unwrap()).collect();
        for lease in leases {
            if number(&lease).is_multiple_of(3) {
                lease.ack().unwrap();
            }
        }
    });
}

#[test]
fn a_message_given_back_keeps_its_attempts() {
    let dir = Dir::new();
    let mut channel = options().blocking_open(dir.file()).unwrap();
    send(&channel, 0..4, 100);
    let mut rx = channel.blocking_subscribe("g").unwrap();
    rx.try_lease().unwrap().ack().unwrap();
    rx.try_lease().unwrap().give_back().unwrap();
    rx.try_lease().unwrap().give_back().unwrap();
    drop(rx);
    for attempts in 3..6 {
        channel = reopen(channel, &dir.file());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let lease = rx.try_lease().unwrap();
        assert_eq!((number(&lease), lease.attempts()), (1, attempts));
    }
    let channel = reopen(channel, &dir.file());
    let got = drain(&mut channel.blocking_subscribe("g").unwrap());
    assert_eq!(got.iter().map(|(_, n, attempts)| (*n, *attempts)).collect::<Vec<_>>(), [(1, 6), (2, 1), (3, 1)]);
}

#[test]
fn a_forgotten_message_and_a_dropped_lease_come_again() {
    let dir = Dir::new();
    let channel = options().blocking_open(dir.file()).unwrap();
    send(&channel, 0..3, 100);
    let mut rx = channel.blocking_subscribe("g").unwrap();
    std::mem::forget(rx.try_recv().unwrap());
    let lease = rx.clone().try_lease().unwrap();
    drop((rx, channel));
    // The lease still holds the file open; now the last user goes.
    drop(lease);
    let channel = Options::new().blocking_open(dir.file()).unwrap();
    let got = drain(&mut channel.blocking_subscribe("g").unwrap());
    assert_eq!(got.iter().map(|(_, n, attempts)| (*n, *attempts)).collect::<Vec<_>>(), [(0, 2), (1, 2), (2, 1)]);
}

#[test]
fn a_lease_held_over_a_second_open_is_done_there_too() {
    let dir = Dir::new();
    let channel = options().blocking_open(dir.file()).unwrap();
    send(&channel, 0..3, 100);
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let [done, back] = [rx.try_lease().unwrap(), rx.try_lease().unwrap()];
    drop((rx, channel));
    let channel = Options::new().blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    assert_eq!(number(&rx.try_recv().unwrap()), 2, "the other two are still held");
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    done.ack().unwrap();
    back.give_back().unwrap();
    let got = drain(&mut rx);
    assert_eq!(got.iter().map(|(_, n, attempts)| (*n, *attempts)).collect::<Vec<_>>(), [(1, 2)]);
    drop(rx);
    let channel = reopen(channel, &dir.file());
    assert_eq!(drain(&mut channel.blocking_subscribe("g").unwrap()), []);
}

#[test]
fn closed_stays_closed_until_somebody_wants_to_send() {
    let dir = Dir::new();
    let channel = options().blocking_open(dir.file()).unwrap();
    send(&channel, 0..3, 100);
    channel.close();
    let channel = reopen(channel, &dir.file());
    assert!(channel.is_closed());
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("g").unwrap()), [0, 1, 2]);
    let channel = reopen(channel, &dir.file());
    assert!(channel.is_closed());
    send(&channel, 3..5, 100);
    assert!(!channel.is_closed());
    let channel = reopen(channel, &dir.file());
    assert!(!channel.is_closed());
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("g").unwrap()), [3, 4]);
}

#[test]
fn a_removed_group_stays_removed() {
    let dir = Dir::new();
    let channel = options().max_groups(2).blocking_open(dir.file()).unwrap();
    send(&channel, 0..3, 100);
    channel.blocking_subscribe("kept").unwrap();
    drain(&mut channel.blocking_subscribe("removed").unwrap());
    channel.remove_group("removed", false).unwrap();
    let channel = reopen(channel, &dir.file());
    assert_eq!(channel.groups().len(), 1);
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("removed").unwrap()), [0, 1, 2], "a new one");
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("kept").unwrap()), [0, 1, 2]);
}

#[test]
fn losses_told_and_not_yet_told() {
    let dir = Dir::new();
    let channel = options().overflow(Overflow::DropOldest).blocking_open(dir.file()).unwrap();
    channel.blocking_subscribe("asleep").unwrap();
    let mut told = channel.blocking_subscribe("told").unwrap();
    for n in 0..1400 {
        channel.sender().try_send(body(n, 1000)).unwrap();
    }
    let in_ring = channel.len();
    let lost = 1400 - in_ring;
    assert_eq!(told.try_recv().unwrap_err(), TryRecvError::Lagged(lost));
    drop(told);
    let channel = reopen(channel, &dir.file());
    let mut told = channel.blocking_subscribe("told").unwrap();
    assert_eq!(drain_numbers(&mut told), (lost..1400).collect::<Vec<_>>());
    let mut asleep = channel.blocking_subscribe("asleep").unwrap();
    assert_eq!(asleep.try_recv().unwrap_err(), TryRecvError::Lagged(lost));
    assert_eq!(drain_numbers(&mut asleep), (lost..1400).collect::<Vec<_>>());
}

/// One handle after the other goes, in every order: the last one closes the file.
#[test]
fn any_handle_can_be_the_last() {
    let dir = Dir::new();
    for round in 0..8 {
        let channel = options().blocking_open(dir.file()).unwrap();
        let tx = channel.sender();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        tx.try_send(body(round, 100)).unwrap();
        assert_eq!(number(&rx.try_recv().unwrap()), round);
        match round % 4 {
            0 => drop((channel, tx, rx)),
            1 => drop((rx, tx, channel)),
            2 => drop((rx, channel, tx)),
            _ => thread::spawn(move || drop((tx, rx, channel))).join().unwrap(),
        }
    }
}

#[test]
fn ten_thousand_messages_over_fifty_reopens() {
    within(120, || {
        let seed = seed();
        let mut rng = Rng::new(seed);
        let dir = Dir::new();
        let (mut sent, mut got) = (0, 0);
        for _ in 0..50 {
            let channel = options().blocking_open(dir.file()).unwrap();
            let tx = channel.sender();
            let mut rx = channel.blocking_subscribe("g").unwrap();
            for _ in 0..rng.below(400) {
                if rng.one_in(2) {
                    sent += u64::from(tx.try_send(body(sent, 8 + rng.below(4000) as usize)).is_ok());
                } else if got < sent {
                    assert_eq!(number(&rx.try_recv().unwrap()), got);
                    got += 1;
                } else {
                    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
                }
            }
        }
        let channel = options().blocking_open(dir.file()).unwrap();
        assert_eq!(drain_numbers(&mut channel.blocking_subscribe("g").unwrap()), (got..sent).collect::<Vec<_>>());
    });
}

/// Two opens of one file in one process at the same time are two users of one channel.
#[test]
fn two_opens_at_once() {
    within(60, || {
        let dir = Dir::new();
        let here = options().blocking_open(dir.file()).unwrap();
        let there = options().blocking_open(dir.file()).unwrap();
        assert_eq!(here.stats().opens, 2);
        let mut a = here.blocking_subscribe("g").unwrap();
        let mut b = there.blocking_subscribe("g").unwrap();
        for n in 0..500 {
            let tx = if n % 3 == 0 { here.sender() } else { there.sender() };
            tx.try_send(body(n, 1000)).unwrap();
            let rx = if n % 2 == 0 { &mut a } else { &mut b };
            assert_eq!(number(&rx.try_recv().unwrap()), n);
        }
        let lease = {
            here.sender().try_send(body(500, 1000)).unwrap();
            a.try_lease().unwrap()
        };
        assert_eq!(b.try_recv().unwrap_err(), TryRecvError::Empty);
        lease.give_back().unwrap();
        let m = b.try_recv().unwrap();
        assert_eq!((number(&m), m.attempts()), (500, 2));
        drop(m);
        drop((here, a));
        assert_eq!(there.stats().opens, 1);
        there.sender().try_send(body(501, 1000)).unwrap();
        assert_eq!(drain_numbers(&mut b), [501]);
    });
}

#[test]
fn two_opens_wake_each_other() {
    within_tokio(60, || async {
        let dir = Dir::new();
        let here = options().open(dir.file()).await.unwrap();
        let there = options().open(dir.file()).await.unwrap();
        let mut slowest = Duration::ZERO;
        for round in 0..12 {
            let mut rx = there.subscribe("g").await.unwrap();
            let (started, has_started) = std::sync::mpsc::channel();
            let waiting = if round % 2 == 0 {
                thread::spawn(move || {
                    started.send(()).unwrap();
                    let m = number(&rx.blocking_recv().unwrap());
                    (m, Instant::now())
                })
            } else {
                thread::spawn(move || {
                    started.send(()).unwrap();
                    let m = smol::block_on(async { number(&rx.recv().await.unwrap()) });
                    (m, Instant::now())
                })
            };
            has_started.recv().unwrap();
            tokio::time::sleep(Duration::from_millis(30 + 20 * round % 60)).await;
            let sent_at = Instant::now();
            here.sender().send(body(round, 100)).await.unwrap();
            let (got, got_at) = waiting.join().unwrap();
            assert_eq!(got, round);
            slowest = slowest.max(got_at.duration_since(sent_at));
        }
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    });
}

#[test]
fn a_sender_waits_for_room_that_another_open_makes() {
    within(60, || {
        let dir = Dir::new();
        let here = options().blocking_open(dir.file()).unwrap();
        let there = options().blocking_open(dir.file()).unwrap();
        let mut rx = there.blocking_subscribe("g").unwrap();
        let sent = fill(&here, 0, 1000);
        let tx = here.sender();
        let waiting = thread::spawn(move || {
            tx.blocking_send(body(sent, 1000)).unwrap();
            Instant::now()
        });
        thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        for n in 0..sent {
            assert_eq!(number(&rx.try_recv().unwrap()), n);
        }
        let made_room = Instant::now();
        let got_room = waiting.join().unwrap();
        assert!(got_room.saturating_duration_since(made_room) < Duration::from_secs(1));
        assert_eq!(number(&rx.blocking_recv().unwrap()), sent);
    });
}

#[test]
fn the_end_is_seen_over_both_opens() {
    within(60, || {
        let dir = Dir::new();
        let here = options().blocking_open(dir.file()).unwrap();
        let there = options().blocking_open(dir.file()).unwrap();
        let rx = there.blocking_subscribe("g").unwrap();
        drop(there);
        let waiting = thread::spawn(move || rx.into_iter().map(|m| number(&m)).collect::<Vec<_>>());
        let tx = here.sender();
        drop(here);
        for n in 0..200 {
            tx.blocking_send(body(n, 2000)).unwrap();
        }
        assert!(!waiting.is_finished());
        drop(tx);
        assert_eq!(waiting.join().unwrap(), (0..200).collect::<Vec<_>>());
    });
}

#[test]
fn close_in_one_open_refuses_in_the_other() {
    let dir = Dir::new();
    let here = options().blocking_open(dir.file()).unwrap();
    let there = options().blocking_open(dir.file()).unwrap();
    let tx = there.sender();
    here.close();
    assert!(there.is_closed());
    assert!(tx.try_send(b"no").unwrap_err().is_closed());
    let again = here.sender();
    assert!(tx.try_send(b"no").unwrap_err().is_closed());
    again.try_send(body(1, 50)).unwrap();
    here.blocking_subscribe("removed").unwrap();
    let mut rx: Receiver = there.blocking_subscribe("removed").unwrap();
    here.remove_group("removed", false).unwrap();
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::GroupRemoved);
}

#[test]
fn threads_that_open_at_once_get_one_channel() {
    within(60, || {
        for _ in 0..20 {
            let dir = Dir::in_memory();
            let barrier = std::sync::Barrier::new(4);
            let channels: Vec<_> = thread::scope(|scope| {
                let open = || {
                    barrier.wait();
                    let channel = small().blocking_open(dir.file()).unwrap();
                    channel.sender().try_send(body(1, 20)).unwrap();
                    channel
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(channels[0].len(), 4, "nobody's message went to a file of its own");
            assert_eq!(drain_numbers(&mut channels[3].blocking_subscribe("g").unwrap()).len(), 4);
            assert_eq!(dir.entries(), ["test.chan"]);
        }
    });
}

/// Another open while pages are turned finds nothing wrong with them.
#[test]
fn a_channel_can_be_opened_while_others_send() {
    use std::sync::atomic::{AtomicBool, Ordering};
    within(60, || {
        let dir = Dir::in_memory();
        let channel = small().overflow(Overflow::DropOldest).blocking_open(dir.file()).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let tx = channel.sender();
                while !stop.load(Ordering::Relaxed) {
                    tx.blocking_send([7; 4000]).unwrap();
                }
            });
            let opened: Vec<_> = (0..2000).map(|_| Options::new().blocking_open(dir.file()).map(drop)).collect();
            stop.store(true, Ordering::Relaxed);
            opened.into_iter().for_each(|opened| opened.unwrap());
        });
    });
}
