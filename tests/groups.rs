//! Groups: each sees everything, its receivers compete, it starts where it is told and can be taken away.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    assert_each_once, body, drain_numbers, fill, number, open_new, small, small_channel, within, within_tokio,
};
use disk_chan::{
    AckError, Channel, GroupName, Offset, RecvError, RemoveGroupError, Start, SubscribeError, TryRecvError,
};

#[test]
fn a_group_number_is_a_name() {
    let (_dir, channel) = small_channel();
    for n in 0..7 {
        channel.sender().try_send(body(n, 20)).unwrap();
    }
    let name = String::from("7");
    let mut group = [
        channel.blocking_subscribe(7_i32).unwrap(),
        channel.blocking_subscribe("7").unwrap(),
        channel.blocking_subscribe(7_u32).unwrap(),
        channel.blocking_subscribe(7_u64).unwrap(),
        channel.blocking_subscribe(7_usize).unwrap(),
        channel.blocking_subscribe(String::from("7")).unwrap(),
        channel.blocking_subscribe(&name).unwrap(),
    ];
    for (n, rx) in group.iter_mut().enumerate() {
        assert_eq!(rx.group().as_str(), "7");
        assert_eq!(number(&rx.try_recv().unwrap()), n as u64);
    }
    assert_eq!(channel.groups().len(), 1);
    assert_eq!(GroupName::from(7).to_string(), "7");
}

#[test]
fn each_group_sees_all_in_order() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let receivers: Vec<_> = ["a", "b", "c"]
            .map(|name| channel.blocking_subscribe(name).unwrap())
            .map(|rx| thread::spawn(move || rx.into_iter().map(|m| number(&m)).collect::<Vec<_>>()))
            .into();
        let tx = channel.sender();
        drop(channel);
        for n in 0..3000 {
            tx.blocking_send(body(n, 200)).unwrap();
        }
        drop(tx);
        for receiver in receivers {
            assert_eq!(receiver.join().unwrap(), (0..3000).collect::<Vec<_>>());
        }
    });
}

#[test]
fn groups_do_not_disturb_each_other() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let mut a = channel.blocking_subscribe("a").unwrap();
    let mut b = channel.blocking_subscribe("b").unwrap();
    for n in 0..10 {
        tx.try_send(body(n, 20)).unwrap();
    }
    let held = a.try_lease().unwrap();
    assert_eq!(drain_numbers(&mut b), (0..10).collect::<Vec<_>>());
    held.give_back().unwrap();
    assert_eq!(b.try_recv().unwrap_err(), TryRecvError::Empty);
    assert_eq!(drain_numbers(&mut a), (0..10).collect::<Vec<_>>());
    let stats = channel.groups();
    let mut figures: Vec<_> = stats.iter().map(|g| (g.name.as_str(), g.lag, g.held, g.returned)).collect();
    figures.sort();
    assert_eq!(figures, [("a", 0, 0, 0), ("b", 0, 0, 0)]);
}

#[test]
fn the_figures_of_a_group() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    for n in 0..10 {
        tx.try_send(body(n, 20)).unwrap();
    }
    let leases: Vec<_> = (0..4).map(|_| rx.try_lease().unwrap()).collect();
    let figures = || {
        let g = &channel.groups()[0];
        (g.held, g.returned, g.redelivered)
    };
    assert_eq!(figures(), (4, 0, 0));
    let mut leases = leases.into_iter();
    leases.next().unwrap().ack().unwrap();
    leases.next().unwrap().give_back().unwrap();
    drop(leases.next());
    assert_eq!((figures().0, figures().1), (1, 2));
    drop(leases);
    assert_eq!((figures().0, figures().1), (0, 3));
    assert_eq!(drain_numbers(&mut rx), (1..10).collect::<Vec<_>>());
    assert_eq!(figures(), (0, 0, 3));
}

/// Four receivers whose handlers sleep share 100 messages that are all there from the start.
#[test]
fn competing_threads_share_fairly() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        for n in 0..100 {
            tx.try_send(body(n, 20)).unwrap();
        }
        let rx = channel.blocking_subscribe("g").unwrap();
        drop((tx, channel));
        let start = Instant::now();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let mut rx = rx.clone();
                thread::spawn(move || {
                    let mut got = vec![];
                    while let Ok(m) = rx.blocking_recv() {
                        thread::sleep(Duration::from_millis(8));
                        got.push(number(&m));
                    }
                    got
                })
            })
            .collect();
        fair(threads.into_iter().map(|thread| thread.join().unwrap()).collect(), start);
    });
}

#[test]
fn competing_tasks_share_fairly() {
    within_tokio(60, || async {
        let (_dir, channel) = small_channel();
        let rx = channel.subscribe("g").await.unwrap();
        let start = Instant::now();
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let mut rx = rx.clone();
                tokio::spawn(async move {
                    let mut got = vec![];
                    while let Ok(lease) = rx.lease().await {
                        tokio::time::sleep(Duration::from_millis(8)).await;
                        got.push(number(&lease));
                        lease.ack().unwrap();
                    }
                    got
                })
            })
            .collect();
        let tx = channel.sender();
        drop(channel);
        for n in 0..100 {
            tx.send(body(n, 20)).await.unwrap();
        }
        drop(tx);
        let mut shares = vec![];
        for task in tasks {
            shares.push(task.await.unwrap());
        }
        fair(shares, start);
    });
}

fn fair(shares: Vec<Vec<u64>>, start: Instant) {
    let counts: Vec<_> = shares.iter().map(Vec::len).collect();
    assert!(counts.iter().all(|count| (10..=40).contains(count)), "{counts:?} in {:?}", start.elapsed());
    assert!(shares.iter().all(|share| share.is_sorted()));
    assert_each_once(shares.into_iter().flatten(), 100);
}

/// Whoever holds one message holds no other: the other receivers get all the rest meanwhile.
#[test]
fn a_slow_receiver_keeps_only_the_message_it_handles() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        for n in 0..100 {
            tx.send(body(n, 20)).await.unwrap();
        }
        let mut slow = channel.subscribe("g").await.unwrap();
        let mut fast = slow.clone();
        let mut third = channel.subscribe("g").await.unwrap();
        let held = slow.recv().await.unwrap();
        let leased = third.try_lease().unwrap();
        assert_eq!(drain_numbers(&mut fast), (2..100).collect::<Vec<_>>());
        assert_eq!((number(&held), number(&leased)), (0, 1));
        drop(held);
        leased.ack().unwrap();
        assert_eq!(channel.groups()[0].lag, 0);
    });
}

#[test]
fn one_message_wakes_one_of_many_and_all_get_their_share() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let rx = channel.blocking_subscribe("g").unwrap();
        let done = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..20 {
                let mut rx = rx.clone();
                let done = &done;
                scope.spawn(move || {
                    number(&rx.blocking_recv().unwrap());
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
            thread::sleep(Duration::from_millis(50));
            let tx = channel.sender();
            for n in 0..20 {
                tx.blocking_send(body(n, 20)).unwrap();
                common::eventually("one more is done", || done.load(Ordering::SeqCst) == n + 1);
            }
        });
    });
}

#[test]
fn a_new_group_starts_where_it_is_told() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let offsets: Vec<_> = (0..10).map(|n| tx.try_send(body(n, 20)).unwrap()).collect();
    let from = |name: &str, start| channel.blocking_subscribe_from(name, start).unwrap();
    let mut oldest = from("oldest", Start::Oldest);
    let mut newest = from("newest", Start::Newest);
    let mut fourth = from("fourth", Start::At(offsets[4]));
    let mut last = from("last", Start::At(offsets[9]));
    let mut end = from("end", Start::At(channel.stats().end_offset));
    let mut first = from("first", Start::At(Offset::from_u64(0)));
    let mut plain = channel.blocking_subscribe("plain").unwrap();
    for n in 10..12 {
        tx.try_send(body(n, 20)).unwrap();
    }
    assert_eq!(drain_numbers(&mut oldest), (0..12).collect::<Vec<_>>());
    assert_eq!(drain_numbers(&mut plain), (0..12).collect::<Vec<_>>());
    assert_eq!(drain_numbers(&mut first), (0..12).collect::<Vec<_>>());
    assert_eq!(drain_numbers(&mut fourth), (4..12).collect::<Vec<_>>());
    assert_eq!(drain_numbers(&mut last), [9, 10, 11]);
    assert_eq!(drain_numbers(&mut newest), [10, 11]);
    assert_eq!(drain_numbers(&mut end), [10, 11]);
}

#[test]
fn a_new_group_starts_at_every_place_of_a_full_ring() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        let mut pacer = channel.blocking_subscribe("pacer").unwrap();
        // Gone round several times, then full.
        for n in 0..300 {
            tx.try_send(body(n, 2000)).unwrap();
            assert_eq!(number(&pacer.try_recv().unwrap()), n);
        }
        let offsets: Vec<_> = (300..).map_while(|n| tx.try_send(body(n, 2000)).ok()).collect();
        assert!(offsets.len() > 25, "{}", offsets.len());
        for (skipped, offset) in offsets.iter().enumerate() {
            let mut rx = channel.blocking_subscribe_from("walker", Start::At(*offset)).unwrap();
            let expected: Vec<_> = (300 + skipped as u64..300 + offsets.len() as u64).collect();
            assert_eq!(drain_numbers(&mut rx), expected);
            channel.remove_group("walker", false).unwrap();
        }
        let mut rx = channel.blocking_subscribe_from("walker", Start::Newest).unwrap();
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
        assert_eq!(drain_numbers(&mut pacer).len(), offsets.len());
        tx.try_send(body(999, 2000)).unwrap();
        assert_eq!(drain_numbers(&mut rx), [999]);
    });
}

#[test]
fn a_start_below_the_ring_is_the_oldest_and_beyond_the_end_an_error() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let mut pacer = channel.blocking_subscribe("pacer").unwrap();
    let first = tx.try_send(body(0, 20)).unwrap();
    for n in 1..500 {
        tx.try_send(body(n, 2000)).unwrap();
        drop(pacer.try_recv().unwrap());
    }
    assert!(channel.stats().first_offset > first, "the first page is gone");
    let mut rx = channel.blocking_subscribe_from("g", Start::At(first)).unwrap();
    let got = drain_numbers(&mut rx);
    assert_eq!(got, (500 - channel.len()..500).collect::<Vec<_>>());

    let end = channel.stats().end_offset;
    for beyond in [end.as_u64() + 1, end.as_u64() + (1 << 20), end.as_u64() + (3 << 20), u64::MAX] {
        let start = Offset::from_u64(beyond);
        match channel.blocking_subscribe_from("beyond", Start::At(start)) {
            Err(SubscribeError::StartBeyondEnd { start: named, end: limit }) => {
                assert_eq!((named, limit), (start, end))
            }
            other => panic!("{start}: {other:?}"),
        }
    }
    assert_eq!(channel.groups().len(), 2, "a refused group is not created");
}

#[test]
fn a_start_counts_only_for_a_new_group() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        for n in 0..4 {
            tx.send(body(n, 20)).await.unwrap();
        }
        let mut rx = channel.subscribe_from("g", Start::Oldest).await.unwrap();
        assert_eq!(number(&rx.recv().await.unwrap()), 0);
        let mut same = channel.subscribe_from("g", Start::Newest).await.unwrap();
        assert_eq!(number(&same.recv().await.unwrap()), 1);
        let beyond = Start::At(Offset::from_u64(1 << 60));
        let mut same = channel.subscribe_from("g", beyond).await.unwrap();
        assert_eq!(drain_numbers(&mut same), [2, 3]);
    });
}

#[test]
fn removing_a_group_frees_its_place_and_its_pages() {
    let (_dir, channel) = small_channel();
    let mut rx = channel.blocking_subscribe("reads").unwrap();
    channel.blocking_subscribe("sleeps").unwrap();
    let sent = fill(&channel, 0, 1000);
    assert_eq!(drain_numbers(&mut rx).len() as u64, sent);
    assert!(channel.sender().try_send(b"no").unwrap_err().is_full());
    channel.remove_group("sleeps", false).unwrap();
    channel.sender().try_send(body(0, 1000)).unwrap();
    assert_eq!(channel.groups().len(), 1);
    assert!(matches!(channel.remove_group("sleeps", false), Err(RemoveGroupError::NotFound)));
    assert!(matches!(channel.remove_group("", true), Err(RemoveGroupError::NotFound)));
    assert!(matches!(channel.remove_group("x".repeat(10_000), true), Err(RemoveGroupError::NotFound)));
}

#[test]
fn a_group_of_which_a_message_is_held_is_in_use() {
    let (_dir, channel) = small_channel();
    for n in 0..5 {
        channel.sender().try_send(body(n, 20)).unwrap();
    }
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let lease = rx.try_lease().unwrap();
    let mut other = rx.clone();
    let message = other.try_recv().unwrap();
    assert!(matches!(channel.remove_group("g", false), Err(RemoveGroupError::InUse { held: 2 })));
    drop(message);
    assert!(matches!(channel.remove_group("g", false), Err(RemoveGroupError::InUse { held: 1 })));
    assert_eq!(number(&other.try_recv().unwrap()), 2, "a refused removal changes nothing");
    lease.ack().unwrap();
    channel.remove_group("g", false).unwrap();
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::GroupRemoved);
    assert_eq!(other.try_lease().unwrap_err(), TryRecvError::GroupRemoved);
}

#[test]
fn forced_removal_tells_the_groups_receivers() {
    within_tokio(60, || async {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        tx.send(body(0, 20)).await.unwrap();
        tx.send(body(1, 20)).await.unwrap();
        let mut rx = channel.subscribe("g").await.unwrap();
        let leases = [rx.lease().await.unwrap(), rx.lease().await.unwrap()];
        let mut blocked = rx.clone();
        let blocked = thread::spawn(move || blocked.blocking_recv().map(|m| number(&m)));
        let mut awaiting = rx.clone();
        let awaiting = tokio::spawn(async move { awaiting.recv().await.map(|m| number(&m)) });
        let into = rx.clone();
        let into = thread::spawn(move || into.into_iter().count());
        tokio::time::sleep(Duration::from_millis(100)).await;
        channel.remove_group("g", true).unwrap();
        assert_eq!(blocked.join().unwrap(), Err(RecvError::GroupRemoved));
        assert_eq!(awaiting.await.unwrap(), Err(RecvError::GroupRemoved));
        assert_eq!(into.join().unwrap(), 0, "an iterator ends");
        assert_eq!(rx.recv().await.unwrap_err(), RecvError::GroupRemoved);
        let [first, second] = leases;
        assert_eq!((number(&first), number(&second)), (0, 1), "a lease is a copy");
        assert_eq!(first.ack(), Err(AckError::GroupRemoved));
        assert_eq!(second.give_back(), Err(AckError::GroupRemoved));
    });
}

#[test]
fn a_message_of_a_removed_group_keeps_its_bytes() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    tx.try_send(body(0, 5000)).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let mut pacer = channel.blocking_subscribe("pacer").unwrap();
    let message = rx.try_recv().unwrap();
    channel.remove_group("g", true).unwrap();
    // Its page cannot be reused while the bytes are borrowed.
    let sent = fill(&channel, 1, 5000);
    assert_eq!(drain_numbers(&mut pacer).len() as u64, sent + 1);
    assert!(tx.try_send(b"no").unwrap_err().is_full());
    assert_eq!(number(&message), 0);
    drop(message);
    tx.try_send(body(9, 5000)).unwrap();
}

#[test]
fn a_name_can_be_used_again_and_starts_anew() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    for n in 0..10 {
        tx.try_send(body(n, 20)).unwrap();
    }
    let mut old = channel.blocking_subscribe("g").unwrap();
    let lease = old.try_lease().unwrap();
    let given_back = old.try_lease().unwrap();
    given_back.give_back().unwrap();
    drop(old.try_recv().unwrap());
    channel.remove_group("g", true).unwrap();

    let mut new = channel.blocking_subscribe("g").unwrap();
    assert_eq!(old.try_recv().unwrap_err(), TryRecvError::GroupRemoved, "the old handle stays with the old group");
    assert_eq!(old.clone().try_recv().unwrap_err(), TryRecvError::GroupRemoved);
    assert_eq!(lease.ack(), Err(AckError::GroupRemoved));
    let got = common::drain(&mut new);
    assert_eq!(
        got.iter().map(|(_, n, attempts)| (*n, *attempts)).collect::<Vec<_>>(),
        (0..10).map(|n| (n, 1)).collect::<Vec<_>>()
    );
}

/// Receivers of a removed group and the group that has its number now, where something is out and something given back.
#[test]
fn an_old_receiver_leaves_the_new_group_alone() {
    for old_read in [0, 3, 10] {
        let (_dir, channel) = open_new(small().max_groups(1));
        common::send(&channel.sender(), 0..10, 20);
        let mut old = channel.blocking_subscribe("g").unwrap();
        for _ in 0..old_read {
            drop(old.try_recv().unwrap());
        }
        channel.remove_group("g", false).unwrap();
        let mut new = channel.blocking_subscribe("h").unwrap();
        let leases: Vec<_> = (0..5).map(|_| new.try_lease().unwrap()).collect();
        let mut others = [old.clone(), old.clone(), old];
        let mut touch = || {
            assert_eq!(others[0].try_recv().unwrap_err(), TryRecvError::GroupRemoved);
            assert_eq!(others[1].try_lease().unwrap_err(), TryRecvError::GroupRemoved);
            assert_eq!(others[2].blocking_recv().unwrap_err(), RecvError::GroupRemoved);
        };
        touch();
        assert_eq!(number(&new.try_recv().unwrap()), 5, "the new group goes on where it was");
        for lease in leases {
            lease.give_back().unwrap();
        }
        touch();
        let got = common::drain(&mut new);
        let got: Vec<_> = got.iter().map(|(_, n, attempts)| (*n, *attempts)).collect();
        assert_eq!(got, [(0, 2), (1, 2), (2, 2), (3, 2), (4, 2), (6, 1), (7, 1), (8, 1), (9, 1)]);
        touch();
        common::send(&channel.sender(), 10..12, 20);
        touch();
        assert_eq!(drain_numbers(&mut new), [10, 11]);
        let stats = &channel.groups()[0];
        assert_eq!((stats.lag, stats.held, stats.returned), (0, 0, 0));
    }
}

/// The generation of a group number has 8 bits; what an earlier group of the number left is never taken for new.
#[test]
fn removing_and_creating_goes_on_when_generations_come_round() {
    within(120, || {
        for max_groups in [1, 4] {
            let (_dir, channel) = open_new(small().max_groups(max_groups));
            let tx = channel.sender();
            let mut kept: Option<disk_chan::Lease> = None;
            for n in 0..10 {
                tx.try_send(body(n, 20)).unwrap();
            }
            for round in 0..600_u64 {
                let mut rx = channel.blocking_subscribe("g").unwrap();
                let depth = round % 10 + 1;
                for n in 0..depth {
                    let m = rx.try_recv().unwrap();
                    assert_eq!((number(&m), m.attempts()), (n, 1), "round {round} of {max_groups}");
                }
                if let Some(lease) = kept.take() {
                    assert_eq!(lease.ack(), Err(AckError::GroupRemoved), "round {round} of {max_groups}");
                }
                if depth < 10 && max_groups > 1 {
                    kept = Some(rx.try_lease().unwrap());
                    assert_eq!(number(kept.as_ref().unwrap()), depth);
                    channel.remove_group("g", true).unwrap();
                } else {
                    assert_eq!(rx.try_recv().is_ok(), depth < 10);
                    channel.remove_group("g", false).unwrap();
                }
            }
        }
    });
}

/// The same, with words that no group in between has touched.
#[test]
fn what_a_group_did_long_ago_does_not_count_for_a_later_one() {
    within(120, || {
        for cycles in 253..=257 {
            let (_dir, channel) = open_new(small().max_groups(1));
            common::send(&channel.sender(), 0..400, 20);
            let mut early = channel.blocking_subscribe("g").unwrap();
            assert_eq!(drain_numbers(&mut early).len(), 400);
            channel.remove_group("g", false).unwrap();
            for _ in 0..cycles {
                channel.blocking_subscribe("g").unwrap();
                channel.remove_group("g", false).unwrap();
            }
            let mut late = channel.blocking_subscribe("g").unwrap();
            assert_eq!(drain_numbers(&mut late.clone()).len(), 400, "after {cycles} others");
            assert_eq!(late.try_recv().unwrap_err(), TryRecvError::Empty);
            common::send(&channel.sender(), 400..410, 20);
            assert_eq!(early.try_recv().unwrap_err(), TryRecvError::GroupRemoved);
            assert_eq!(drain_numbers(&mut late), (400..410).collect::<Vec<_>>(), "after {cycles} others");
        }
    });
}

/// What is held of a removed group keeps the group's place, until it is let go.
#[test]
fn the_place_of_a_removed_group_is_free_when_its_messages_are() {
    let (_dir, channel) = open_new(small().max_groups(1));
    for n in 0..3 {
        channel.sender().try_send(body(n, 20)).unwrap();
    }
    for round in 0..10 {
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let lease = rx.try_lease().unwrap();
        let other = rx.try_lease().unwrap();
        assert_eq!((number(&lease), lease.attempts(), number(&other)), (0, 1, 1));
        channel.remove_group("g", true).unwrap();
        if round % 2 == 0 {
            drop((lease, other));
        } else {
            assert_eq!(lease.ack(), Err(AckError::GroupRemoved));
            assert_eq!(other.give_back(), Err(AckError::GroupRemoved));
        }
    }
}

#[test]
fn removing_and_creating_goes_on_while_the_ring_turns() {
    within(120, || {
        let (_dir, channel) = open_new(small().max_groups(2));
        let mut pacer = channel.blocking_subscribe("pacer").unwrap();
        let tx = channel.sender();
        let mut next = 0;
        for round in 0..600_u64 {
            let mut rx = channel.blocking_subscribe("g").unwrap();
            let in_ring = channel.len();
            assert_eq!(drain_numbers(&mut rx), (next - in_ring..next).collect::<Vec<_>>(), "round {round}");
            for _ in 0..round % 5 {
                tx.try_send(body(next, 9000)).unwrap();
                for rx in [&mut rx, &mut pacer] {
                    assert_eq!(number(&rx.try_recv().unwrap()), next, "round {round}");
                }
                next += 1;
            }
            assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
            channel.remove_group("g", false).unwrap();
        }
    });
}

#[test]
fn groups_are_created_and_removed_while_messages_flow() {
    within(120, || {
        const COUNT: u64 = 20_000;
        let (_dir, channel) = small_channel();
        let rx = channel.blocking_subscribe("steady").unwrap();
        let steady = thread::spawn(move || rx.into_iter().map(|m| number(&m)).collect::<Vec<_>>());
        let tx = channel.sender();
        let sender = thread::spawn(move || common::send(&tx, 0..COUNT, 100));
        let mut rounds = 0;
        while !sender.is_finished() || rounds < 20 {
            let start = if rounds % 2 == 0 { Start::Oldest } else { Start::Newest };
            let mut rx = channel.blocking_subscribe_from("fleeting", start).unwrap();
            let mut last = None;
            for _ in 0..rounds % 50 {
                let Ok(m) = rx.try_recv() else { break };
                let n = number(&m);
                assert!(last.is_none_or(|last| n == last + 1), "{n} after {last:?}: nothing in between was lost");
                last = Some(n);
            }
            channel.remove_group("fleeting", false).unwrap();
            rounds += 1;
        }
        sender.join().unwrap();
        drop(channel);
        assert_eq!(steady.join().unwrap(), (0..COUNT).collect::<Vec<_>>());
    });
}

#[test]
fn threads_that_subscribe_at_once_share_one_group() {
    within(60, || {
        let (_dir, channel) = small_channel();
        for n in 0..64 {
            channel.sender().try_send(body(n, 20)).unwrap();
        }
        let (tasks, names) = (8, ["a", "b", "c", "d"]);
        let barrier = std::sync::Barrier::new(tasks);
        let subscribe = |channel: &Channel| {
            barrier.wait();
            names.map(|name| channel.blocking_subscribe(name).unwrap())
        };
        let receivers: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..tasks).map(|_| scope.spawn(|| subscribe(&channel))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(channel.groups().len(), names.len());
        for group in 0..names.len() {
            let got = receivers.iter().flat_map(|rx| drain_numbers(&mut rx[group].clone()));
            assert_each_once(got, 64);
        }
    });
}

#[test]
fn one_group_too_many_is_an_error_that_names_the_limit() {
    let (_dir, channel) = open_new(small().max_groups(4));
    let receivers: Vec<_> = (0..4_u32).map(|n| channel.blocking_subscribe(n).unwrap()).collect();
    let error = channel.blocking_subscribe("fifth").unwrap_err();
    assert!(matches!(error, SubscribeError::TooManyGroups { max: 4 }), "{error:?}");
    assert!(error.to_string().contains('4') && error.to_string().contains("max_groups"), "{error}");
    drop(receivers);
    assert!(channel.blocking_subscribe("fifth").is_err(), "a group stays when its receivers go");
    channel.blocking_subscribe(3).unwrap();
    channel.remove_group(3, false).unwrap();
    channel.blocking_subscribe("fifth").unwrap();
}

#[test]
fn names_have_1_to_128_bytes() {
    let (_dir, channel) = small_channel();
    for (name, len) in [(String::new(), 0), ("x".repeat(129), 129), ("ä".repeat(65), 130), ("x".repeat(10_000), 10_000)]
    {
        match channel.blocking_subscribe(name) {
            Err(SubscribeError::InvalidName { len: named, max: 128 }) => assert_eq!(named, len),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(channel.groups().len(), 0);
    let names = ["x".repeat(128), "ä".repeat(64), "a/b\n\0 c".to_owned(), "-1".to_owned(), "x".repeat(127)];
    for name in &names {
        channel.blocking_subscribe(name).unwrap();
    }
    let mut known: Vec<_> = channel.groups().into_iter().map(|g| g.name.to_string()).collect();
    known.sort();
    let mut expected = names.to_vec();
    expected.sort();
    assert_eq!(known, expected);
}

/// A receiver that is done and does not receive again keeps nobody from anything: not from its claim cell, its
/// group's number, or the page of what it is done with.
#[test]
fn who_is_done_and_idle_holds_up_nobody() {
    let (_dir, channel) = open_new(small().max_held(1).max_groups(2));
    let (mut idle, mut other) = (channel.blocking_subscribe("a").unwrap(), channel.blocking_subscribe("b").unwrap());
    let tx = channel.sender();
    for n in 0..3 {
        tx.blocking_send(body(n, 64)).unwrap();
    }
    assert_eq!(number(&idle.try_recv().unwrap()), 0);
    let stats = channel.groups();
    assert_eq!((stats[0].lag, stats[0].held, stats[1].lag), (2, 0, 3));
    // The only cell of the group.
    let mut next = idle.clone();
    assert_eq!(number(&next.try_recv().unwrap()), 1);
    assert_eq!(number(&idle.try_recv().unwrap()), 2);
    assert_eq!(drain_numbers(&mut other), [0, 1, 2]);

    // All pages, while nobody receives any more.
    let turned = channel.stats().page_turns;
    let mut sent = 3;
    while channel.stats().page_turns < turned + 5 {
        tx.try_send(body(sent, 64)).unwrap();
        assert_eq!(number(&idle.try_recv().unwrap()), sent);
        assert_eq!(number(&other.try_recv().unwrap()), sent);
        sent += 1;
    }

    // A number, though the page of the message has gone.
    tx.blocking_send(body(sent, 64)).unwrap();
    let held = idle.try_recv().unwrap();
    channel.remove_group("a", true).unwrap();
    drop(held);
    let turned = channel.stats().page_turns;
    while channel.stats().page_turns < turned + 3 {
        other.try_recv().unwrap();
        tx.try_send(vec![b'x'; channel.sender().max_message_len()]).unwrap();
    }
    channel.blocking_subscribe("c").unwrap();
    drop(idle);
}
