//! What every channel promises: what is sent is received, once, in order, unaltered, in each form of the calls; and how
//! a channel ends.

mod common;

use std::collections::HashSet;
use std::error::Error;
use std::fmt::Debug;
use std::hash::Hash;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::{
    Dir, PAGE, assert_each_once, body, drain_numbers, number, poll_once, small, small_channel, within, within_tokio,
};
use disk_chan::{
    Channel, GroupName, Lease, Message, Offset, OpenError, Options, OwnedMessage, Receiver, RecvError,
    RecvTimeoutError, Reservation, SendError, SendManyError, SendTimeoutError, Sender, SubscribeError, TryRecvError,
    TrySendError,
};
use futures::StreamExt;

#[test]
fn the_three_lines_of_the_readme() {
    within_tokio(30, || async {
        let dir = Dir::new();
        let tx = disk_chan::new(dir.file(), 1 << 20, 2).await.unwrap();
        let mut rx = tx.subscribe("billing").await.unwrap();
        tx.send(b"hello").await.unwrap();
        assert_eq!(&*rx.recv().await.unwrap(), b"hello");
    });
}

#[test]
fn every_way_to_send_arrives_in_order() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        let mut sent = vec![
            tx.send(body(0, 8)).await.unwrap(),
            tx.send(&body(1, 9)[..]).await.unwrap(),
            tx.blocking_send(body(2, 10)).unwrap(),
            tx.try_send(body(3, 11)).unwrap(),
            tx.send_timeout(body(4, 12), Duration::from_secs(1)).unwrap(),
        ];
        sent.extend(tx.send_many(&[body(5, 13), body(6, 14)]).await.unwrap());
        sent.extend(tx.blocking_send_many(&[body(7, 15), body(8, 16)]).unwrap());
        let mut reserved = tx.reserve(8).unwrap();
        reserved.copy_from_slice(&body(9, 8));
        sent.push(reserved.commit().await.unwrap());

        let mut rx = channel.subscribe("g").await.unwrap();
        let got = common::drain(&mut rx);
        assert_eq!(got.iter().map(|(offset, ..)| *offset).collect::<Vec<_>>(), sent);
        assert_eq!(got.iter().map(|(_, number, _)| *number).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert!(got.iter().all(|(_, _, attempts)| *attempts == 1));
        assert!(sent.is_sorted_by(|a, b| a < b), "offsets rise: {sent:?}");
    });
}

#[test]
fn every_way_to_receive() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        for n in 0..8 {
            tx.blocking_send(body(n, 100)).unwrap();
        }
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let soon = Duration::from_secs(5);
        assert_eq!(number(&rx.recv().await.unwrap()), 0);
        assert_eq!(number(&rx.blocking_recv().unwrap()), 1);
        assert_eq!(number(&rx.try_recv().unwrap()), 2);
        assert_eq!(number(&rx.recv_timeout(soon).unwrap()), 3);
        assert_eq!(number(&rx.recv_deadline(Instant::now() + soon).unwrap()), 4);
        assert_eq!(rx.recv_many(1).await.unwrap().iter().map(|m| number(m)).collect::<Vec<_>>(), [5]);
        assert_eq!(rx.blocking_recv_many(1).unwrap().iter().map(|m| number(m)).collect::<Vec<_>>(), [6]);
        assert_eq!(number(&rx.try_iter().next().unwrap()), 7);
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    });
}

#[test]
fn every_way_to_lease() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        for n in 0..6 {
            tx.blocking_send(body(n, 100)).unwrap();
        }
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let soon = Duration::from_secs(5);
        let mut leases = vec![
            rx.lease().await.unwrap(),
            rx.blocking_lease().unwrap(),
            rx.try_lease().unwrap(),
            rx.lease_for(soon).unwrap(),
            rx.lease_deadline(Instant::now() + soon).unwrap(),
        ];
        leases.extend(rx.lease_many(10).await.unwrap());
        assert_eq!(leases.iter().map(|m| number(m)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        for lease in leases {
            lease.ack().unwrap();
        }
        assert_eq!(rx.try_lease().unwrap_err(), TryRecvError::Empty);
    });
}

#[test]
fn a_message_knows_its_offset_its_time_and_its_attempts() {
    let (_dir, channel) = small_channel();
    let before = SystemTime::now();
    let offset = channel.sender().blocking_send(b"x").unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let m = rx.try_recv().unwrap();
    assert_eq!((m.offset(), m.attempts(), m.as_ref()), (offset, 1, &b"x"[..]));
    let hour = Duration::from_secs(3600);
    assert!(m.sent_at() > before - hour && m.sent_at() < before + hour, "{:?}", m.sent_at());
    assert_eq!(Offset::from_u64(offset.as_u64()), offset);
    assert_eq!(offset.as_u64(), offset.page() << 20 | offset.index());
}

#[test]
fn an_empty_message_is_a_message() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    for _ in 0..3 {
        tx.try_send([]).unwrap();
    }
    tx.reserve(0).unwrap().blocking_commit().unwrap();
    assert_eq!(channel.len(), 4);
    for _ in 0..4 {
        assert!(rx.try_recv().unwrap().is_empty());
    }
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
}

#[test]
fn every_length_arrives_unaltered() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let max = channel.max_message_len();
        let lengths = (8..600).chain((600..max).step_by(997)).chain(max - 40..=max);
        for (n, len) in lengths.enumerate() {
            tx.try_send(body(n as u64, len)).unwrap();
            let m = rx.try_recv().unwrap();
            assert_eq!((number(&m), m.len()), (n as u64, len));
        }
    });
}

#[test]
fn the_longest_message_fits_and_one_byte_more_is_refused_before_anything_is_reserved() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        let max = channel.max_message_len();
        assert!(max > PAGE / 4 && max < PAGE, "{max}");
        assert_eq!(tx.max_message_len(), max);
        tx.send(body(0, max)).await.unwrap();

        let before = channel.stats();
        let long = vec![7; max + 1];
        let too_large = SendError::MessageTooLarge { len: max + 1, max };
        assert_eq!(tx.send(&long).await, Err(too_large.clone()));
        assert_eq!(tx.blocking_send(&long), Err(too_large.clone()));
        assert_eq!(tx.try_send(&long), Err(TrySendError::MessageTooLarge { len: max + 1, max }));
        let result = tx.send_timeout(&long, Duration::from_secs(1));
        assert_eq!(result, Err(SendTimeoutError::MessageTooLarge { len: max + 1, max }));
        assert_eq!(tx.reserve(max + 1).unwrap_err(), too_large);
        assert_eq!(tx.reserve(usize::MAX).unwrap_err(), SendError::MessageTooLarge { len: usize::MAX, max });
        assert_eq!(tx.send_many(&[&long]).await.unwrap_err(), SendManyError { sent: vec![], error: too_large });
        let after = channel.stats();
        assert_eq!((after.end_offset, after.len), (before.end_offset, before.len));

        let mut rx = channel.subscribe("g").await.unwrap();
        assert_eq!(rx.recv().await.unwrap().len(), max);
        assert_eq!(tx.send(body(1, max)).await.unwrap(), {
            let m = rx.recv().await.unwrap();
            assert_eq!(number(&m), 1);
            m.offset()
        });
    });
}

#[test]
fn a_batch_with_a_message_too_large_says_what_was_sent() {
    let (_dir, channel) = small_channel();
    let long = vec![7; channel.max_message_len() + 1];
    let error = channel.sender().blocking_send_many(&[body(0, 10), long, body(2, 10)]).unwrap_err();
    assert!(matches!(error.error, SendError::MessageTooLarge { .. }), "{error}");
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let got = common::drain(&mut rx);
    assert_eq!(got.iter().map(|(offset, ..)| *offset).collect::<Vec<_>>(), error.sent);
    assert!(got.len() <= 1, "{got:?}");
}

#[test]
fn a_batch_larger_than_the_ring_goes_through_it() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let batch: Vec<_> = (0..600).map(|n| body(n, 1000)).collect();
        let receiver =
            thread::spawn(move || (0..600).map(|_| number(&rx.blocking_recv().unwrap())).collect::<Vec<_>>());
        let offsets = tx.blocking_send_many(&batch).unwrap();
        assert_eq!(offsets.len(), 600);
        assert!(offsets.is_sorted_by(|a, b| a < b));
        assert_eq!(receiver.join().unwrap(), (0..600).collect::<Vec<_>>());
        assert_eq!(tx.blocking_send_many::<Vec<u8>>(&[]).unwrap(), []);
    });
}

#[test]
fn receive_many_takes_what_is_there_up_to_the_limit() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        let mut rx = channel.subscribe("g").await.unwrap();
        for n in 0..10 {
            tx.send(body(n, 50)).await.unwrap();
        }
        let numbers = |many: Vec<Message<'_>>| many.iter().map(|m| number(m)).collect::<Vec<_>>();
        assert_eq!(numbers(rx.recv_many(4).await.unwrap()), [0, 1, 2, 3]);
        assert_eq!(numbers(rx.blocking_recv_many(3).unwrap()), [4, 5, 6]);
        assert!(numbers(rx.recv_many(0).await.unwrap()).is_empty());
        assert_eq!(numbers(rx.recv_many(usize::MAX).await.unwrap()), [7, 8, 9]);
        // More than one receiver may hold: what there is room for.
        for n in 10..100 {
            tx.send(body(n, 50)).await.unwrap();
        }
        let many = rx.recv_many(90).await.unwrap();
        assert!((1..=32).contains(&many.len()), "{} held, max_held is 32", many.len());
        let first = numbers(many);
        let mut rest = vec![];
        while first.len() + rest.len() < 90 {
            rest.extend(numbers(rx.recv_many(90).await.unwrap()));
        }
        assert_eq!(first.into_iter().chain(rest).collect::<Vec<_>>(), (10..100).collect::<Vec<_>>());
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    });
}

#[test]
fn receive_many_waits_for_the_first() {
    within(30, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let waiting =
            thread::spawn(move || rx.blocking_recv_many(10).unwrap().iter().map(|m| number(m)).collect::<Vec<_>>());
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        channel.sender().blocking_send(body(5, 20)).unwrap();
        assert_eq!(waiting.join().unwrap(), [5]);
    });
}

#[test]
fn for_m_in_rx_ends_when_the_last_sender_goes() {
    within(30, || {
        let (_dir, channel) = small_channel();
        let rx = channel.blocking_subscribe("g").unwrap();
        let (tx, other) = (channel.sender(), channel.sender());
        drop(channel);
        let sender = thread::spawn(move || {
            for n in 0..50 {
                tx.blocking_send(body(n, 60)).unwrap();
            }
        });
        let last = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            other.blocking_send(body(50, 60)).unwrap();
        });
        let mut got = vec![];
        for m in rx {
            got.push(number(&m));
        }
        assert_each_once(got, 51);
        sender.join().unwrap();
        last.join().unwrap();
    });
}

#[test]
fn a_channel_handle_keeps_an_iterator_waiting() {
    within(30, || {
        let (_dir, channel) = small_channel();
        let rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        tx.blocking_send(body(0, 60)).unwrap();
        drop(tx);
        let receiver = thread::spawn(move || rx.into_iter().map(|m| number(&m)).collect::<Vec<_>>());
        thread::sleep(Duration::from_millis(300));
        assert!(!receiver.is_finished(), "ended though a Channel is alive");
        let tx = channel.sender();
        drop(channel);
        tx.blocking_send(body(1, 60)).unwrap();
        drop(tx);
        assert_eq!(receiver.join().unwrap(), [0, 1]);
    });
}

#[test]
fn iterators_over_what_is_there_and_over_all() {
    within(30, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        for n in 0..6 {
            tx.blocking_send(body(n, 60)).unwrap();
        }
        assert_eq!(rx.try_iter().take(2).map(|m| number(&m)).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(rx.iter().take(2).map(|m| number(&m)).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(rx.try_iter().map(|m| number(&m)).collect::<Vec<_>>(), [4, 5]);
        assert!(rx.try_iter().next().is_none());
        tx.blocking_send(body(6, 60)).unwrap();
        drop((tx, channel));
        let mut iter = rx.iter();
        assert_eq!(iter.next().map(|m| number(&m)), Some(6));
        assert!(iter.next().is_none());
        assert!(iter.next().is_none(), "the end is final for an iterator");
    });
}

#[test]
fn streams_yield_all_and_end() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let mut rx = channel.subscribe("g").await.unwrap();
        let tx = channel.sender();
        for n in 0..6 {
            tx.send(body(n, 60)).await.unwrap();
        }
        let some: Vec<_> = rx.stream().take(3).map(|m| number(&m)).collect().await;
        assert_eq!(some, [0, 1, 2]);
        let rest = tokio::spawn(async move {
            let mut stream = rx.into_stream();
            let mut got = vec![];
            while let Some(m) = stream.next().await {
                got.push(number(&m));
            }
            assert!(stream.next().await.is_none(), "the end is final for a stream");
            got
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        tx.send(body(6, 60)).await.unwrap();
        drop((tx, channel));
        assert_eq!(rest.await.unwrap(), [3, 4, 5, 6]);
    });
}

#[test]
fn an_owned_message_outlives_its_receiver() {
    let (_dir, channel) = small_channel();
    channel.sender().blocking_send(b"first").unwrap();
    channel.sender().blocking_send(b"second").unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let (first, second) = (rx.try_iter().next().unwrap(), rx.try_iter().next().unwrap());
    drop((rx, channel));
    assert_eq!(first.as_ref(), b"first");
    assert_eq!(first.attempts(), 1);
    assert!(second.offset() > first.offset());
    assert_eq!(second.into_vec(), b"second");
}

#[test]
fn disconnected_comes_after_the_last_message() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let mut rx = channel.subscribe("g").await.unwrap();
        let tx = channel.sender();
        for n in 0..3 {
            tx.send(body(n, 60)).await.unwrap();
        }
        drop((tx, channel));
        for n in 0..3 {
            assert_eq!(number(&rx.recv().await.unwrap()), n);
        }
        assert_eq!(rx.recv().await.unwrap_err(), RecvError::Disconnected);
        assert_eq!(rx.blocking_recv().unwrap_err(), RecvError::Disconnected);
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Disconnected);
        assert_eq!(rx.recv_timeout(Duration::from_secs(9)).unwrap_err(), RecvTimeoutError::Disconnected);
        assert_eq!(rx.recv_many(4).await.unwrap_err(), RecvError::Disconnected);
        assert_eq!(rx.lease().await.unwrap_err(), RecvError::Disconnected);
        assert_eq!(rx.try_lease().unwrap_err(), TryRecvError::Disconnected);
    });
}

#[test]
fn disconnected_is_not_final_for_a_receiver() {
    within(30, || {
        let dir = Dir::new();
        let channel = small().blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        drop(channel);
        assert_eq!(rx.blocking_recv().unwrap_err(), RecvError::Disconnected);
        let again = small().blocking_open(dir.file()).unwrap();
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
        again.sender().blocking_send(body(1, 60)).unwrap();
        assert_eq!(number(&rx.blocking_recv().unwrap()), 1);
        drop(again);
        assert_eq!(rx.blocking_recv().unwrap_err(), RecvError::Disconnected);
    });
}

#[test]
fn all_waiting_receivers_are_told_of_the_end() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let rx = channel.subscribe("g").await.unwrap();
        let other = channel.subscribe("h").await.unwrap();
        let mut threads = vec![];
        let mut tasks = vec![];
        for mut rx in [rx.clone(), rx, other.clone(), other] {
            let mut too = rx.clone();
            threads.push(thread::spawn(move || rx.blocking_recv().map(|m| number(&m))));
            tasks.push(tokio::spawn(async move { too.recv().await.map(|m| number(&m)) }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(channel);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Err(RecvError::Disconnected));
        }
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Err(RecvError::Disconnected));
        }
    });
}

#[test]
fn the_last_clone_of_a_sender_ends_the_channel() {
    let (_dir, channel) = small_channel();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let tx = channel.sender();
    let clones: Vec<_> = (0..100).map(|_| tx.clone()).collect();
    drop((channel, tx));
    for (left, clone) in (0..100).rev().zip(clones) {
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
        clone.try_send(body(left, 16)).unwrap();
        assert_eq!(number(&rx.try_recv().unwrap()), left);
    }
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Disconnected);
}

#[test]
fn handles_lead_to_each_other() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let again = tx.channel();
    assert!(again.same_channel(&channel) && channel.clone().same_channel(&again));
    let (_other_dir, other) = small_channel();
    assert!(!other.same_channel(&channel));
    let mut rx = tx.blocking_subscribe("g").unwrap();
    drop((channel, tx));
    again.sender().try_send(body(0, 16)).unwrap();
    assert_eq!(number(&rx.try_recv().unwrap()), 0);
    drop(again);
    assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Disconnected);
}

#[test]
fn sending_needs_no_receiver() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    tx.try_send(body(0, 60)).unwrap();
    let rx = channel.blocking_subscribe("g").unwrap();
    tx.try_send(body(1, 60)).unwrap();
    drop(rx);
    tx.try_send(body(2, 60)).unwrap();
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("g").unwrap()), [0, 1, 2]);
    tx.try_send(body(3, 60)).unwrap();
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("g").unwrap()), [3], "the group's place is kept");
}

#[test]
fn close_refuses_sends_and_old_handles_stay_closed() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let mut rx = channel.subscribe("g").await.unwrap();
        let old = channel.sender();
        old.send(body(0, 60)).await.unwrap();
        let reserved = old.reserve(8).unwrap();
        assert!(!channel.is_closed());
        channel.close();
        assert!(channel.is_closed() && channel.stats().closed);
        let refused = |old: &Sender| {
            assert_eq!(poll_once(old.send(b"no")), std::task::Poll::Ready(Err(SendError::Closed)));
            assert_eq!(old.blocking_send(b"no"), Err(SendError::Closed));
            assert_eq!(old.try_send(b"no"), Err(TrySendError::Closed));
            assert!(old.try_send(b"no").unwrap_err().is_closed());
            assert_eq!(old.send_timeout(b"no", Duration::from_secs(9)), Err(SendTimeoutError::Closed));
            let many = old.blocking_send_many(&[b"no", b"no"]).unwrap_err();
            assert_eq!(many, SendManyError { sent: vec![], error: SendError::Closed });
        };
        refused(&old);
        refused(&old.clone());
        assert_eq!(reserved.commit().await, Err(SendError::Closed));

        let new = channel.sender();
        assert!(!channel.is_closed(), "sender() opens it again");
        refused(&old);
        new.send(body(1, 60)).await.unwrap();
        assert_eq!(drain_numbers(&mut rx), [0, 1], "nothing was lost, nothing refused arrived");

        channel.close();
        channel.close();
        refused(&new);
        let newer = old.channel().sender();
        newer.send(body(2, 60)).await.unwrap();
        refused(&old);
        assert_eq!(drain_numbers(&mut rx), [2]);
    });
}

#[test]
fn new_opens_a_closed_channel_again() {
    within_tokio(30, || async {
        let dir = Dir::new();
        let tx = disk_chan::new(dir.file(), 1 << 20, 2).await.unwrap();
        tx.send(body(0, 60)).await.unwrap();
        tx.channel().close();
        let new = disk_chan::new(dir.file(), 1 << 20, 2).await.unwrap();
        assert_eq!(tx.try_send(b"no"), Err(TrySendError::Closed));
        new.send(body(1, 60)).await.unwrap();
        assert_eq!(drain_numbers(&mut new.subscribe("g").await.unwrap()), [0, 1]);
    });
}

#[test]
fn after_close_receivers_get_the_rest_and_then_the_end() {
    within(30, || {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        for n in 0..5 {
            tx.blocking_send(body(n, 60)).unwrap();
        }
        let rx = channel.blocking_subscribe("g").unwrap();
        let waiting = thread::spawn(move || rx.into_iter().map(|m| number(&m)).collect::<Vec<_>>());
        channel.close();
        drop((tx, channel));
        assert_eq!(waiting.join().unwrap(), [0, 1, 2, 3, 4]);
    });
}

#[test]
fn close_at_any_time_keeps_what_was_sent() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let (mut got, mut sent) = (vec![], vec![]);
        for round in 0..300 {
            let senders: Vec<_> = (0..3)
                .map(|sender| {
                    let tx = channel.sender();
                    let len = if round % 2 == 0 { 100 } else { 6000 };
                    thread::spawn(move || {
                        let numbers = (0..).map(|n| round * 1_000_000 + n * 3 + sender);
                        let sent = numbers.map_while(|n| tx.blocking_send(body(n, len)).map(|offset| (offset, n)).ok());
                        sent.collect::<Vec<_>>()
                    })
                })
                .collect();
            let until = Instant::now() + Duration::from_micros(50 * (round % 20));
            while Instant::now() < until {
                if let Ok(m) = rx.try_recv() {
                    got.push((m.offset(), number(&m)));
                }
            }
            channel.close();
            for sender in senders {
                sent.extend(sender.join().unwrap());
            }
            got.extend(common::drain(&mut rx).into_iter().map(|(offset, n, _)| (offset, n)));
            assert_eq!(got.len(), sent.len(), "round {round}");
        }
        sent.sort();
        assert_eq!(got, sent);
    });
}

/// A sender commits, goes, and the receiver is just looking whether anybody is left.
#[test]
fn the_last_message_of_the_last_sender_is_not_missed() {
    within(60, || {
        let dir = Dir::in_memory();
        let mut rx = small().blocking_open(dir.file()).unwrap().blocking_subscribe("g").unwrap();
        for round in 0..1000 {
            let tx = small().blocking_open(dir.file()).unwrap().sender();
            let sender = thread::spawn(move || {
                for _ in 0..round % 50 * 10 {
                    std::hint::spin_loop();
                }
                tx.blocking_send(body(round, 16)).unwrap();
            });
            if round % 2 == 0 {
                assert_eq!(rx.iter().map(|m| number(&m)).collect::<Vec<_>>(), [round]);
            } else {
                let got = smol::block_on(rx.stream().map(|m| number(&m)).collect::<Vec<_>>());
                assert_eq!(got, [round]);
            }
            sender.join().unwrap();
        }
    });
}

/// More threads send than the file has cells for: they take turns.
#[test]
fn more_senders_than_op_cells() {
    for cells in [1, 4] {
        within(120, move || {
            let (_dir, channel) = common::open_new(small().max_op_cells(cells));
            let rx = channel.blocking_subscribe("g").unwrap();
            let senders: Vec<_> = (0..24)
                .map(|sender| {
                    let tx = channel.sender();
                    thread::spawn(move || match sender % 3 {
                        0 => common::send(&tx, sender * 500..(sender + 1) * 500, 200),
                        1 => smol::block_on(async {
                            for n in sender * 500..(sender + 1) * 500 {
                                tx.send(body(n, 200)).await.unwrap();
                            }
                        }),
                        _ => {
                            let batch: Vec<_> = (sender * 500..(sender + 1) * 500).map(|n| body(n, 200)).collect();
                            assert_eq!(tx.blocking_send_many(&batch).unwrap().len(), 500);
                        }
                    })
                })
                .collect();
            drop(channel);
            assert_each_once(rx.into_iter().map(|m| number(&m)), 24 * 500);
            for sender in senders {
                sender.join().unwrap();
            }
        });
    }
}

#[test]
fn waiting_with_a_limit_ends_in_time_out() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let start = Instant::now();
        let limit = Duration::from_millis(60);
        assert_eq!(rx.recv_timeout(limit).unwrap_err(), RecvTimeoutError::Timeout);
        assert!(start.elapsed() >= limit);
        assert_eq!(rx.recv_deadline(Instant::now() + limit).unwrap_err(), RecvTimeoutError::Timeout);
        assert_eq!(rx.lease_for(limit).unwrap_err(), RecvTimeoutError::Timeout);
        assert!(start.elapsed() >= 3 * limit);
        assert_eq!(rx.recv_timeout(Duration::ZERO).unwrap_err(), RecvTimeoutError::Timeout);
        assert_eq!(rx.recv_deadline(start).unwrap_err(), RecvTimeoutError::Timeout);

        // A limit of nothing and one that is over take what is there; one beyond all clocks is no limit.
        for n in 0..3 {
            channel.sender().try_send(body(n, 60)).unwrap();
        }
        assert_eq!(number(&rx.recv_timeout(Duration::ZERO).unwrap()), 0);
        assert_eq!(number(&rx.recv_deadline(start).unwrap()), 1);
        assert_eq!(number(&rx.recv_timeout(Duration::MAX).unwrap()), 2);
        let waiting = thread::spawn(move || number(&rx.recv_timeout(Duration::MAX).unwrap()));
        thread::sleep(Duration::from_millis(50));
        let tx = channel.sender();
        tx.send_timeout(body(3, 60), Duration::MAX).unwrap();
        tx.send_timeout(body(4, 60), Duration::ZERO).unwrap();
        assert_eq!(waiting.join().unwrap(), 3);
    });
}

#[test]
fn waiting_with_a_limit_ends_when_a_message_comes() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let receiver = thread::spawn(move || {
            for n in 0..20 {
                assert_eq!(number(&rx.recv_timeout(common::PATIENCE).unwrap()), n);
            }
        });
        for n in 0..20 {
            thread::sleep(Duration::from_millis(n % 5));
            tx.blocking_send(body(n, 60)).unwrap();
        }
        receiver.join().unwrap();
    });
}

#[test]
fn a_future_that_is_never_polled_does_nothing() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    drop(tx.send(body(0, 60)));
    assert!(channel.is_empty());
    tx.try_send(body(1, 60)).unwrap();
    drop(rx.recv());
    drop(rx.lease());
    drop(rx.recv_many(4));
    assert_eq!(drain_numbers(&mut rx), [1]);
}

#[test]
fn length_and_figures() {
    let (dir, channel) = small_channel();
    assert!(channel.is_empty());
    assert_eq!(channel.len(), 0);
    assert_eq!(channel.path(), dir.file());
    assert_eq!(channel.overflow(), disk_chan::Overflow::Block);
    assert!(channel.capacity_bytes() > PAGE as u64 && channel.capacity_bytes() <= 2 * PAGE as u64);
    let tx = channel.sender();
    let first = tx.try_send(body(0, 60)).unwrap();
    let last = tx.try_send(body(1, 60)).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let stats = channel.stats();
    assert_eq!((stats.len, stats.pages + stats.free_pages, stats.opens, stats.closed), (2, 2, 1, false));
    assert_eq!(stats.first_offset, first);
    assert!(stats.end_offset > last);
    assert_eq!(channel.groups()[0].lag, 2);
    drop(rx.try_recv().unwrap());
    assert_eq!(channel.groups()[0].lag, 1);
    assert_eq!(channel.len(), 2, "done, but still in the ring");
    assert!(!channel.is_empty());
}

#[test]
fn the_file_is_private_allocated_and_never_grows() {
    use std::os::unix::fs::MetadataExt;
    within(60, || {
        let (dir, channel) = small_channel();
        let before = std::fs::metadata(dir.file()).unwrap();
        assert_eq!(before.mode() & 0o7777, 0o600);
        assert!(before.blocks() * 512 >= before.len(), "every byte is allocated");
        assert_eq!(dir.entries(), ["test.chan"], "one file is all there is");
        let tx = channel.sender();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        for n in 0..5000 {
            tx.try_send(body(n, 300)).unwrap();
            assert_eq!(number(&rx.try_recv().unwrap()), n);
        }
        let after = std::fs::metadata(dir.file()).unwrap();
        assert_eq!((after.len(), after.blocks()), (before.len(), before.blocks()));
        assert_eq!(dir.entries(), ["test.chan"]);
    });
}

#[test]
fn handles_print_themselves_and_not_the_messages() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("the-group").unwrap();
    tx.try_send(vec![0xab; 10_000]).unwrap();
    assert_eq!(rx.group(), &GroupName::from("the-group"));
    let m = rx.try_recv().unwrap();
    let texts =
        [format!("{channel:?}"), format!("{tx:?}"), format!("{m:?}"), format!("{:?}", tx.reserve(10_000).unwrap())];
    drop(m);
    for text in texts.into_iter().chain([format!("{rx:?}"), format!("{:?}", small())]) {
        assert!(!text.is_empty() && text.len() < 2000, "{} bytes: {:.200}", text.len(), text);
    }
}

/// One sender, one receiver, in every pair of forms.
#[test]
fn one_sender_one_receiver() {
    const COUNT: u64 = 20_000;
    within_tokio(120, || async {
        for form in 0..4 {
            let (_dir, channel) = small_channel();
            let (tx, mut rx) = (channel.sender(), channel.subscribe("g").await.unwrap());
            drop(channel);
            let sender = if form % 2 == 0 {
                tokio::task::spawn_blocking(move || common::send(&tx, 0..COUNT, 40))
            } else {
                tokio::spawn(async move {
                    for n in 0..COUNT {
                        tx.send(body(n, 40)).await.unwrap();
                    }
                })
            };
            let receiver = if form / 2 == 0 {
                tokio::task::spawn_blocking(move || {
                    (0..COUNT).for_each(|n| assert_eq!(number(&rx.blocking_recv().unwrap()), n));
                    assert_eq!(rx.blocking_recv().unwrap_err(), RecvError::Disconnected);
                })
            } else {
                tokio::spawn(async move {
                    for n in 0..COUNT {
                        assert_eq!(number(&rx.recv().await.unwrap()), n);
                    }
                    assert_eq!(rx.recv().await.unwrap_err(), RecvError::Disconnected);
                })
            };
            sender.await.unwrap();
            receiver.await.unwrap();
        }
    });
}

/// Several senders, several receivers: every message once, each sender's in order at each receiver.
#[test]
fn several_senders_several_receivers() {
    const EACH: u64 = 5_000;
    within_tokio(120, || async {
        for blocking in [true, false] {
            let (_dir, channel) = small_channel();
            let rx = channel.subscribe("g").await.unwrap();
            let receivers: Vec<_> = (0..4)
                .map(|_| {
                    let mut rx = rx.clone();
                    if blocking {
                        tokio::task::spawn_blocking(move || rx.iter().map(|m| number(&m)).collect::<Vec<_>>())
                    } else {
                        tokio::spawn(async move { rx.stream().map(|m| number(&m)).collect::<Vec<_>>().await })
                    }
                })
                .collect();
            let senders: Vec<_> = (0..4)
                .map(|s| {
                    let tx = channel.sender();
                    if blocking {
                        tokio::task::spawn_blocking(move || {
                            common::send(&tx, s * EACH..(s + 1) * EACH, 40);
                        })
                    } else {
                        tokio::spawn(async move {
                            for n in 0..EACH {
                                tx.send(body(s * EACH + n, 40)).await.unwrap();
                            }
                        })
                    }
                })
                .collect();
            drop((rx, channel));
            for sender in senders {
                sender.await.unwrap();
            }
            let mut all = vec![];
            for receiver in receivers {
                let got = receiver.await.unwrap();
                for sender in 0..4 {
                    let its = got.iter().filter(|n| *n / EACH == sender);
                    assert!(its.is_sorted(), "sender {sender}'s messages keep their order");
                }
                all.extend(got);
            }
            assert_each_once(all, 4 * EACH);
        }
    });
}

/// Two threads share one `&Sender`; the offsets that they are told are those that the messages come with.
#[test]
fn threads_share_one_sender() {
    const EACH: u64 = 10_000;
    within(120, || {
        let (_dir, channel) = small_channel();
        let (tx, mut rx) = (channel.sender(), channel.blocking_subscribe("g").unwrap());
        let receiver = thread::spawn(move || {
            let mut got = vec![];
            for _ in 0..2 * EACH {
                let m = rx.blocking_recv().unwrap();
                got.push((m.offset(), number(&m)));
            }
            got
        });
        let tx = &tx;
        let mut sent: Vec<(Offset, u64)> = thread::scope(|scope| {
            let threads = [0, 1].map(|s| {
                scope.spawn(move || {
                    let numbers = (0..EACH).map(|n| s * EACH + n);
                    numbers.map(|n| (tx.blocking_send(body(n, 30)).unwrap(), n)).collect::<Vec<_>>()
                })
            });
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        sent.sort();
        assert_eq!(receiver.join().unwrap(), sent, "one total order, by offset");
    });
}

/// A short-lived channel after the other: sender, receiver and channel go in every order.
#[test]
fn oneshot_in_every_order_of_dropping() {
    within(60, || {
        let dir = Dir::in_memory();
        for round in 0..60_u64 {
            let channel = small().blocking_open(dir.file()).unwrap();
            let tx = channel.sender();
            let mut rx = channel.blocking_subscribe("g").unwrap();
            let sender = thread::spawn(move || common::send(&tx, [round], 16));
            match round % 3 {
                0 => {
                    assert_eq!(number(&rx.blocking_recv().unwrap()), round);
                    drop(channel);
                }
                1 => {
                    drop(channel);
                    assert_eq!(rx.iter().map(|m| number(&m)).collect::<Vec<_>>(), [round]);
                }
                _ => {
                    drop(rx);
                    sender.join().unwrap();
                    let mut rx = channel.blocking_subscribe("g").unwrap();
                    drop(channel);
                    assert_eq!(rx.iter().map(|m| number(&m)).collect::<Vec<_>>(), [round]);
                    continue;
                }
            }
            sender.join().unwrap();
        }
    });
}

/// Compile-time table of what may cross threads.
#[test]
fn send_sync_unpin() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    fn unpin<T: Unpin>() {}
    fn fixed<T: 'static>() {}
    fn clone<T: Clone + Debug>() {}
    fn plain<T: Copy + Ord + Hash + Debug>() {}
    fn error<T: Error + Send + Sync + Unpin + 'static>() {}
    macro_rules! each { ($check:ident: $($t:ty),*) => { $($check::<$t>();)* } }
    each!(send: Channel, Sender, Receiver, Message<'static>, OwnedMessage, Lease, Reservation, Options, GroupName);
    each!(sync: Channel, Sender, OwnedMessage, Lease, Options, GroupName, Offset);
    each!(unpin: Channel, Sender, Receiver, Message<'static>, OwnedMessage, Lease, Reservation);
    each!(fixed: Channel, Sender, Receiver, OwnedMessage, Lease);
    each!(clone: Channel, Sender, Receiver, Options, GroupName);
    each!(plain: Offset);
    each!(error: OpenError, SubscribeError, SendError, TrySendError, SendTimeoutError, SendManyError, RecvError);
    each!(error: TryRecvError, RecvTimeoutError, disk_chan::AckError, disk_chan::RemoveGroupError);

    fn sends<T: Send>(_: T) {}
    let (dir, channel) = small_channel();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    sends(Options::new().open(dir.file()));
    sends(disk_chan::new(dir.file(), 1, 1));
    sends(channel.subscribe("g"));
    sends(channel.subscribe_from("g", disk_chan::Start::Newest));
    sends(tx.send(b"x"));
    sends(tx.send_many(&[b"x"]));
    sends(tx.reserve(1).unwrap().commit());
    sends(rx.recv());
    sends(rx.recv_many(1));
    sends(rx.lease());
    sends(rx.lease_many(1));
    sends(rx.iter());
    sends(rx.stream());
    sends(rx.into_stream());
    let names: HashSet<GroupName> = [GroupName::from("7"), GroupName::from(7_u32)].into();
    assert_eq!(names.len(), 1);
}

#[test]
fn errors_speak_plainly() {
    let errors: [Box<dyn Error>; 7] = [
        Box::new(SendError::Closed),
        Box::new(SendError::MessageTooLarge { len: 100_001, max: 100_000 }),
        Box::new(TryRecvError::Empty),
        Box::new(RecvError::Lagged(17)),
        Box::new(RecvError::Disconnected),
        Box::new(RecvTimeoutError::Timeout),
        Box::new(disk_chan::AckError::Gone),
    ];
    for error in &errors {
        let text = error.to_string();
        assert!(!text.starts_with(char::is_uppercase) && !text.ends_with('.'), "{text}");
    }
    assert!(errors[1].to_string().contains("100001") && errors[1].to_string().contains("100000"), "{}", errors[1]);
    assert!(errors[3].to_string().contains("17"), "{}", errors[3]);
}
