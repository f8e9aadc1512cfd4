//! Messages handed out and not done: acknowledged, given back, dropped, forgotten, panicked over.

mod common;

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use common::{body, drain, drain_numbers, fill, number, open_new, small, small_channel, within, within_tokio};
use disk_chan::{Channel, Lease, Receiver, RecvTimeoutError, TryRecvError};

/// A channel with `count` messages and a receiver of its group.
fn with_messages(count: u64) -> (common::Dir, Channel, Receiver) {
    let (dir, channel) = small_channel();
    for n in 0..count {
        channel.sender().try_send(body(n, 20)).unwrap();
    }
    let rx = channel.blocking_subscribe("g").unwrap();
    (dir, channel, rx)
}

/// What is left as (number, attempts).
fn rest(rx: &mut Receiver) -> Vec<(u64, u32)> {
    drain(rx).into_iter().map(|(_, number, attempts)| (number, attempts)).collect()
}

/// Runs what panics.
fn panics(f: impl FnOnce()) {
    let result = catch_unwind(AssertUnwindSafe(f));
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&"as it should"));
}

#[test]
fn acknowledged_is_done() {
    let (_dir, _channel, mut rx) = with_messages(3);
    rx.try_lease().unwrap().ack().unwrap();
    assert_eq!(rest(&mut rx), [(1, 1), (2, 1)]);
}

#[test]
fn given_back_or_dropped_comes_again_at_once() {
    let (_dir, _channel, mut rx) = with_messages(3);
    let lease = rx.try_lease().unwrap();
    let offset = lease.offset();
    assert_eq!(lease.attempts(), 1);
    lease.give_back().unwrap();
    for attempts in 2..10 {
        let lease = rx.try_lease().unwrap();
        assert_eq!((lease.offset(), number(&lease), lease.attempts()), (offset, 0, attempts));
        if attempts % 2 == 0 {
            drop(lease);
        } else {
            lease.give_back().unwrap();
        }
    }
    assert_eq!(rest(&mut rx), [(0, 10), (1, 1), (2, 1)]);
}

#[test]
fn given_back_comes_before_new_and_the_lowest_offset_first() {
    let (_dir, _channel, mut rx) = with_messages(10);
    let mut leases: Vec<_> = (0..8).map(|_| rx.try_lease().unwrap()).collect();
    for n in [5, 3, 6] {
        leases.remove(leases.iter().position(|lease| number(lease) == n).unwrap()).give_back().unwrap();
    }
    let again = rx.try_lease().unwrap();
    assert_eq!((number(&again), again.attempts()), (3, 2));
    again.give_back().unwrap();
    assert_eq!(rest(&mut rx), [(3, 3), (5, 2), (6, 2), (8, 1), (9, 1)]);
    drop(leases);
    assert_eq!(rest(&mut rx), [(0, 2), (1, 2), (2, 2), (4, 2), (7, 2)]);
}

#[test]
fn given_back_wakes_another_receiver() {
    within_tokio(60, || async {
        for round in 0..20 {
            let (_dir, _channel, mut rx) = with_messages(1);
            let lease = rx.try_lease().unwrap();
            let mut other = rx.clone();
            let waiting = if round % 2 == 0 {
                tokio::task::spawn_blocking(move || other.blocking_lease().unwrap())
            } else {
                tokio::spawn(async move { other.lease().await.unwrap() })
            };
            if round % 4 < 2 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            lease.give_back().unwrap();
            let again = waiting.await.unwrap();
            assert_eq!((number(&again), again.attempts()), (0, 2));
            again.ack().unwrap();
        }
    });
}

#[test]
fn one_lease_too_many_says_so_and_waits_for_an_ack() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small().max_held(4));
        for n in 0..20 {
            channel.sender().send(body(n, 20)).await.unwrap();
        }
        let mut rx = channel.subscribe("g").await.unwrap();
        let mut leases: Vec<_> = (0..4).map(|_| rx.try_lease().unwrap()).collect();
        let too_many = TryRecvError::TooManyHeld { held: 4, undeliverable: 0, max: 4 };
        assert_eq!(rx.try_lease().unwrap_err(), too_many);
        assert_eq!(rx.clone().try_recv().unwrap_err(), too_many);
        assert!(too_many.to_string().contains('4') && too_many.to_string().contains("max_held"), "{too_many}");
        let limit = Duration::from_millis(30);
        assert_eq!(rx.lease_for(limit).unwrap_err(), RecvTimeoutError::Timeout);
        assert_eq!(rx.recv_timeout(limit).unwrap_err(), RecvTimeoutError::Timeout);

        let mut other = channel.subscribe("other").await.unwrap();
        assert_eq!(number(&other.try_recv().unwrap()), 0, "the limit is each group's own");

        // An ack makes room for a new one, in a thread and in a task.
        for n in 4..12 {
            let mut waiting = rx.clone();
            let waiting = if n % 2 == 0 {
                tokio::task::spawn_blocking(move || waiting.blocking_lease().unwrap())
            } else {
                tokio::spawn(async move { waiting.lease().await.unwrap() })
            };
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!waiting.is_finished());
            leases.remove(0).ack().unwrap();
            leases.push(waiting.await.unwrap());
            assert_eq!(number(leases.last().unwrap()), n);
        }
        // What is given back can be taken again though all the rest is held.
        leases.remove(2).give_back().unwrap();
        let again = rx.try_lease().unwrap();
        assert_eq!((number(&again), again.attempts()), (10, 2));
        assert_eq!(rx.try_lease().unwrap_err(), too_many);
        // Given back ones that wait count too: there is no place to note another.
        again.give_back().unwrap();
        assert_eq!(number(&rx.try_recv().unwrap()), 10);
        assert_eq!(number(&rx.try_recv().unwrap()), 12);
        drop(leases);
        assert_eq!(drain_numbers(&mut rx), [8, 9, 11, 13, 14, 15, 16, 17, 18, 19]);
    });
}

#[test]
fn many_leases_at_once_are_as_many_as_may_be_held() {
    within_tokio(30, || async {
        let (_dir, channel, mut rx) = with_messages(50);
        let leases = rx.lease_many(100).await.unwrap();
        assert_eq!(leases.iter().map(|m| number(m)).collect::<Vec<_>>(), (0..32).collect::<Vec<_>>());
        assert_eq!(channel.groups()[0].held, 32);
        drop(leases);
        let few = rx.lease_many(5).await.unwrap();
        assert_eq!(
            few.iter().map(|m| (number(m), m.attempts())).collect::<Vec<_>>(),
            (0..5).map(|n| (n, 2)).collect::<Vec<_>>()
        );
        for lease in few {
            lease.ack().unwrap();
        }
        assert_eq!(drain_numbers(&mut rx), (5..50).collect::<Vec<_>>());
    });
}

#[test]
fn a_lease_moves_to_another_thread_and_task() {
    within_tokio(60, || async {
        let (_dir, channel, mut rx) = with_messages(30);
        let (to_thread, inbox) = std::sync::mpsc::channel::<Lease>();
        let thread = thread::spawn(move || {
            for lease in inbox {
                match number(&lease) % 3 {
                    0 => lease.ack().unwrap(),
                    1 => lease.give_back().unwrap(),
                    _ => drop(lease),
                }
            }
        });
        let mut tasks = vec![];
        for n in 0..30 {
            let lease = rx.lease().await.unwrap();
            assert_eq!(number(&lease), n);
            tasks.push(tokio::spawn(async move {
                tokio::task::yield_now().await;
                lease.ack().unwrap();
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        for n in 30..60 {
            channel.sender().send(body(n, 20)).await.unwrap();
        }
        for lease in rx.lease_many(30).await.unwrap() {
            to_thread.send(lease).unwrap();
        }
        drop(to_thread);
        thread.join().unwrap();
        assert_eq!(rest(&mut rx), (30..60).filter(|n| n % 3 != 0).map(|n| (n, 2)).collect::<Vec<_>>());
    });
}

#[test]
fn a_lease_outlives_its_receiver_and_its_channel() {
    let (_dir, channel, mut rx) = with_messages(3);
    let [first, second] = [rx.try_lease().unwrap(), rx.try_lease().unwrap()];
    drop(rx);
    first.ack().unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    drop(channel);
    second.give_back().unwrap();
    assert_eq!(rest(&mut rx), [(1, 2), (2, 1)]);
}

#[test]
fn a_cancelled_task_that_holds_a_lease_gives_it_back() {
    within_tokio(30, || async {
        let (_dir, _channel, rx) = with_messages(2);
        let mut its = rx.clone();
        let task = tokio::spawn(async move {
            let _lease = its.lease().await.unwrap();
            std::future::pending::<()>().await;
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(rest(&mut rx.clone()), [(0, 2), (1, 1)]);
    });
}

#[test]
fn a_panic_while_a_message_is_held_gives_it_back() {
    let (_dir, _channel, mut rx) = with_messages(4);
    panics(|| {
        assert_eq!(number(&rx.blocking_recv().unwrap()), 0);
        let _held = rx.blocking_recv().unwrap();
        panic!("as it should");
    });
    assert_eq!(rest(&mut rx), [(1, 2), (2, 1), (3, 1)]);
}

#[test]
fn a_panic_while_many_are_held_gives_all_back() {
    let (_dir, _channel, mut rx) = with_messages(6);
    panics(|| {
        let mut held = rx.blocking_recv_many(4).unwrap();
        drop(held.remove(1));
        panic!("as it should");
    });
    assert_eq!(rest(&mut rx), [(0, 2), (2, 2), (3, 2), (4, 1), (5, 1)]);
}

#[test]
fn a_panic_in_a_thread_hands_its_message_to_another() {
    within(60, || {
        let (_dir, _channel, rx) = with_messages(1);
        let mut its = rx.clone();
        let mut other = rx;
        let (took, taken) = std::sync::mpsc::channel();
        let panicking = thread::spawn(move || {
            let _held = its.blocking_recv().unwrap();
            took.send(()).unwrap();
            thread::sleep(Duration::from_millis(50));
            panic!("as it should");
        });
        taken.recv().unwrap();
        let m = other.blocking_recv().unwrap();
        assert_eq!((number(&m), m.attempts()), (0, 2));
        drop(m);
        assert!(panicking.join().is_err());
    });
}

#[test]
fn a_panic_in_a_task_gives_back_its_message_and_its_lease() {
    within_tokio(60, || async {
        let (_dir, _channel, rx) = with_messages(3);
        let mut its = rx.clone();
        let task = tokio::spawn(async move {
            let _lease = its.lease().await.unwrap();
            let _message = its.recv().await.unwrap();
            tokio::task::yield_now().await;
            panic!("as it should");
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(rest(&mut rx.clone()), [(0, 2), (1, 2), (2, 1)]);
    });
}

#[test]
fn a_message_received_while_unwinding_is_done_when_dropped() {
    struct Receives<'a>(&'a mut Receiver);
    impl Drop for Receives<'_> {
        fn drop(&mut self) {
            assert!(thread::panicking());
            assert_eq!(number(&self.0.try_recv().unwrap()), 0);
            assert_eq!(number(&self.0.try_iter().next().unwrap()), 1);
        }
    }
    let (_dir, _channel, mut rx) = with_messages(3);
    panics(|| {
        let _receives = Receives(&mut rx);
        panic!("as it should");
    });
    assert_eq!(rest(&mut rx), [(2, 1)]);
}

#[test]
fn a_caught_panic_before_the_message_came_does_not_count() {
    let (_dir, _channel, mut rx) = with_messages(2);
    panics(|| panic!("as it should"));
    drop(rx.try_recv().unwrap());
    assert_eq!(rest(&mut rx), [(1, 1)]);
}

#[test]
fn an_owned_message_is_done_when_dropped_and_given_back_by_a_panic() {
    let (_dir, _channel, mut rx) = with_messages(5);
    drop(rx.try_iter().next().unwrap());
    assert_eq!(number(&rx.try_iter().next().unwrap().into_vec()), 1);
    panics(|| {
        let _held = rx.try_iter().next().unwrap();
        panic!("as it should");
    });
    panics(|| {
        for m in rx.try_iter() {
            if number(&m) == 3 {
                panic!("as it should");
            }
        }
    });
    assert_eq!(rest(&mut rx), [(3, 2), (4, 1)]);
}

#[test]
fn a_forgotten_message_is_given_back_at_the_next_receive() {
    within_tokio(30, || async {
        let (_dir, channel, mut rx) = with_messages(3);
        mem::forget(rx.try_recv().unwrap());
        let mut other = rx.clone();
        assert_eq!(number(&other.try_recv().unwrap()), 1, "until then it is held");
        for attempts in 2..7 {
            let m = match attempts % 5 {
                0 => rx.recv().await.unwrap(),
                1 => rx.blocking_recv().unwrap(),
                2 => rx.try_recv().unwrap(),
                3 => rx.recv_timeout(Duration::from_secs(9)).unwrap(),
                _ => rx.recv_many(1).await.unwrap().remove(0),
            };
            assert_eq!((number(&m), m.attempts()), (0, attempts));
            mem::forget(m);
        }
        let lease = rx.try_lease().unwrap();
        assert_eq!((number(&lease), lease.attempts()), (0, 7));
        lease.ack().unwrap();
        mem::forget(rx.recv_many(9).await.unwrap());
        assert_eq!(channel.groups()[0].held, 1);
        assert_eq!(rest(&mut rx), [(2, 2)]);
    });
}

#[test]
fn forgotten_messages_are_given_back_when_the_receiver_is_dropped() {
    within(30, || {
        let (_dir, channel, mut rx) = with_messages(5);
        let mut other = rx.clone();
        mem::forget(rx.try_recv().unwrap());
        drop(rx);
        assert_eq!(rest(&mut other), [(0, 2), (1, 1), (2, 1), (3, 1), (4, 1)]);

        for n in 5..8 {
            channel.sender().try_send(body(n, 20)).unwrap();
        }
        let mut rx = other.clone();
        mem::forget(rx.blocking_recv_many(3).unwrap());
        let waiting = thread::spawn(move || number(&other.blocking_recv().unwrap()));
        thread::sleep(Duration::from_millis(30));
        assert!(!waiting.is_finished());
        drop(rx);
        assert!((5..8).contains(&waiting.join().unwrap()));
        assert_eq!(drain(&mut channel.blocking_subscribe("g").unwrap()).len(), 2);
    });
}

#[test]
fn a_held_message_or_lease_keeps_its_page_under_block() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let mut other = rx.clone();
    for round in 0..6 {
        tx.try_send(body(round, 5000)).unwrap();
        let sent = if round % 2 == 0 {
            let held = rx.try_recv().unwrap();
            let sent = fill(&channel, 100, 5000);
            assert_eq!(drain_numbers(&mut other).len() as u64, sent);
            assert!(tx.try_send(body(0, 5000)).unwrap_err().is_full());
            assert_eq!(number(&held), round);
            sent
        } else {
            let held = rx.try_lease().unwrap();
            let sent = fill(&channel, 100, 5000);
            assert_eq!(drain_numbers(&mut other).len() as u64, sent);
            assert!(tx.try_send(body(0, 5000)).unwrap_err().is_full());
            assert_eq!(number(&held), round);
            held.ack().unwrap();
            sent
        };
        assert!(sent > 12, "{sent}");
        // Done, so the ring takes one more page at least.
        tx.try_send(body(7, 5000)).unwrap();
        assert_eq!(drain_numbers(&mut other), [7]);
    }
}

#[test]
fn a_given_back_message_keeps_its_page_under_block() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    tx.try_send(body(0, 5000)).unwrap();
    let lease = rx.try_lease().unwrap();
    let sent = fill(&channel, 1, 5000);
    for _ in 0..sent {
        rx.try_lease().unwrap().ack().unwrap();
    }
    lease.give_back().unwrap();
    assert!(tx.try_send(body(99, 5000)).unwrap_err().is_full());
    assert_eq!(rest(&mut rx), [(0, 2)]);
    tx.try_send(body(99, 5000)).unwrap();
    assert_eq!(rest(&mut rx), [(99, 1)]);
}
