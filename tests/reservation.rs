//! A `Reservation` is a private buffer: held, dropped, forgotten or panicked over, it holds up nobody.

mod common;

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use common::{body, drain_numbers, fill, number, small_channel, within, within_tokio};
use disk_chan::{Channel, Receiver, SendError, TrySendError};

/// Sends and receives ten times what the ring holds: anything that is held up shows.
fn go_round(channel: &Channel, rx: &mut Receiver) {
    let tx = channel.sender();
    let before = channel.stats().page_turns;
    for n in 0..400 {
        tx.try_send(body(n, 3000)).unwrap();
        assert_eq!(number(&rx.try_recv().unwrap()), n);
    }
    assert!(channel.stats().page_turns >= before + 15, "went round");
}

#[test]
fn what_was_written_is_sent() {
    within_tokio(30, || async {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        let mut rx = channel.subscribe("g").await.unwrap();
        for (n, len) in [8, 100, 0, 5000, channel.max_message_len(), 1].into_iter().enumerate() {
            let mut reserved = tx.reserve(len).unwrap();
            assert_eq!(reserved.len(), len);
            assert!(reserved.iter().all(|byte| *byte == 0), "a reused buffer shows nothing of earlier messages");
            reserved.fill(0xe0 + n as u8);
            let offset = match n % 3 {
                0 => reserved.commit().await.unwrap(),
                1 => reserved.blocking_commit().unwrap(),
                _ => reserved.try_commit().unwrap(),
            };
            let m = rx.try_recv().unwrap();
            assert_eq!((m.offset(), m.len()), (offset, len));
            assert!(m.iter().all(|byte| *byte == 0xe0 + n as u8));
        }
    });
}

#[test]
fn uncommitted_is_not_sent() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let before = channel.stats();
    drop(tx.reserve(100).unwrap());
    mem::forget(tx.reserve(100).unwrap());
    let held = tx.reserve(100).unwrap();
    let after = channel.stats();
    assert_eq!((after.end_offset, after.len), (before.end_offset, before.len), "nothing in the ring is taken");
    tx.try_send(body(1, 20)).unwrap();
    drop(held);
    assert_eq!(drain_numbers(&mut rx), [1]);
}

#[test]
fn the_order_is_that_of_the_commits() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let mut reserved: Vec<_> = (0..10)
        .map(|n| {
            let mut reserved = tx.reserve(20).unwrap();
            reserved.copy_from_slice(&body(n, 20));
            reserved
        })
        .collect();
    tx.try_send(body(10, 20)).unwrap();
    while let Some(last) = reserved.pop() {
        last.try_commit().unwrap();
    }
    assert_eq!(drain_numbers(&mut rx), [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
}

#[test]
fn held_holds_up_nobody() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        // More than op cells, more than the ring has room for.
        let mut held: Vec<_> = (0..200).map(|_| tx.reserve(channel.max_message_len()).unwrap()).collect();
        go_round(&channel, &mut rx);
        let mut last = held.pop().unwrap();
        last[..5000].copy_from_slice(&body(7, 5000));
        last.blocking_commit().unwrap();
        let m = rx.try_recv().unwrap();
        assert_eq!((number(&m[..5000]), m.len()), (7, channel.max_message_len()));
        drop(m);
        drop(held);
        go_round(&channel, &mut rx);
    });
}

#[test]
fn dropped_or_forgotten_holds_up_nobody() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        for n in 0..200 {
            let mut reserved = tx.reserve(4000).unwrap();
            reserved.fill(1);
            if n % 2 == 0 {
                drop(reserved);
            } else {
                mem::forget(reserved);
            }
            tx.try_send(body(n, 20)).unwrap();
            assert_eq!(number(&rx.try_recv().unwrap()), n);
        }
        go_round(&channel, &mut rx);
    });
}

#[test]
fn panicked_over_holds_up_nobody() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        for n in 0..20 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                let mut reserved = tx.reserve(4000).unwrap();
                reserved[..10].fill(1);
                panic!("as it should");
            }));
            assert!(result.is_err());
            tx.try_send(body(n, 20)).unwrap();
            assert_eq!(number(&rx.try_recv().unwrap()), n);
        }
        go_round(&channel, &mut rx);
    });
}

#[test]
fn other_threads_go_on_while_one_writes_slowly() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        thread::scope(|scope| {
            let (started, has_started) = std::sync::mpsc::channel();
            let (finish, may_finish) = std::sync::mpsc::channel::<()>();
            let writer = scope.spawn(|| {
                let (started, may_finish) = (started, may_finish);
                let mut reserved = tx.reserve(20).unwrap();
                started.send(()).unwrap();
                may_finish.recv().unwrap();
                reserved.copy_from_slice(&body(99, 20));
                reserved.blocking_commit().unwrap();
            });
            has_started.recv().unwrap();
            go_round(&channel, &mut rx);
            finish.send(()).unwrap();
            writer.join().unwrap();
        });
        assert_eq!(drain_numbers(&mut rx), [99]);
    });
}

#[test]
fn a_commit_waits_for_room() {
    within_tokio(60, || async {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        let mut rx = channel.subscribe("g").await.unwrap();
        let reserve = |n| {
            let mut reserved = tx.reserve(1000).unwrap();
            reserved.copy_from_slice(&body(n, 1000));
            reserved
        };
        let [first, second, third, fourth] = [1000, 1001, 1002, 1003].map(reserve);
        let sent = fill(&channel, 0, 1000);
        let (first, error) = first.try_commit().unwrap_err();
        assert!(matches!(error, TrySendError::Full(_)), "{error}");
        assert_eq!(number(&first), 1000, "it comes back as it was");
        let task = tokio::spawn(second.commit());
        let thread = tokio::task::spawn_blocking(move || third.blocking_commit());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!task.is_finished() && !thread.is_finished());
        assert_eq!(drain_numbers(&mut rx)[..sent as usize], (0..sent).collect::<Vec<_>>());
        let (second, third) = (task.await.unwrap().unwrap(), thread.await.unwrap().unwrap());
        assert_ne!(second, third);
        drain_numbers(&mut rx);
        first.try_commit().unwrap();
        assert_eq!(drain_numbers(&mut rx), [1000]);
        channel.close();
        assert_eq!(fourth.commit().await, Err(SendError::Closed));
    });
}

#[test]
fn several_are_filled_in_and_sent_together() {
    let (_dir, channel) = small_channel();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let tx = channel.sender();
    let mut many = tx.reserve_many((0..100).map(|n| 8 + n)).unwrap();
    tx.try_send(body(1000, 8)).unwrap();
    for (n, message) in many.iter_mut().enumerate() {
        message.copy_from_slice(&body(n as u64, 8 + n));
    }
    assert_eq!((many.len(), number(&many[99])), (100, 99));
    let offsets = many.blocking_commit().unwrap();
    assert!(offsets.len() == 100 && offsets.is_sorted());
    assert_eq!(drain_numbers(&mut rx), [1000].into_iter().chain(0..100).collect::<Vec<_>>());
    let max = tx.max_message_len();
    assert_eq!(tx.reserve_many([3, max + 1]).unwrap_err(), SendError::MessageTooLarge { len: max + 1, max });
    drop(tx.reserve_many([3, 4]).unwrap());
    assert!(tx.reserve_many([]).unwrap().is_empty());
    assert!(drain_numbers(&mut rx).is_empty());
}
