//! Durable sends and syncs: who shares which sync, and what waits for it. Whether what is durable survives a power
//! loss is tried by the simulator, in tests/power_loss.

mod common;
#[path = "common/syncs.rs"]
mod syncs;

use common::{CountingWaker, Dir, body, drain_numbers, poll_once, small, within, within_tokio};
use disk_chan::{Durability, Offset, OpenError, Options, Overflow};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};
use syncs::Syncs;

#[test]
fn a_durable_send_is_one_sync_and_moves_the_durable_offset() {
    let syncs = Syncs::mine();
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let tx = channel.sender();
    let mut last = channel.durable_offset();
    for n in 0..500 {
        let before = syncs.count();
        let offset = match n % 2 {
            0 => tx.blocking_send_durable(body(n, 700)).unwrap(),
            _ => smol::block_on(tx.send_durable(body(n, 700))).unwrap(),
        };
        assert_eq!(syncs.count(), before + 1);
        let durable = channel.durable_offset();
        assert!(durable > offset && durable > last, "{durable} after {offset}");
        last = durable;
        if channel.stats().free_pages == 0 {
            drain_numbers(&mut channel.blocking_subscribe("g").unwrap());
        }
    }
    assert!(channel.stats().page_turns > 2);
    let stats = channel.stats();
    assert_eq!((stats.syncs, stats.durable_offset), (500, last));
    assert!(stats.sync_time > Duration::ZERO);
    // Without a sync it stands; a sync brings it to the end.
    let offset = tx.blocking_send(body(0, 10)).unwrap();
    assert_eq!(channel.durable_offset(), last);
    channel.blocking_sync().unwrap();
    assert!(channel.durable_offset() > offset);
    drop((tx, channel));
    let channel = Options::new().blocking_open(dir.file()).unwrap();
    assert_eq!(channel.durable_offset(), channel.stats().end_offset);
}

/// Who comes during a sync is not covered by it: its message may have come too late.
#[test]
fn who_comes_during_a_sync_waits_for_the_next() {
    within(60, || {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let channel = small().blocking_open(dir.file()).unwrap();
        let tx = channel.sender();
        let (counter, waker) = CountingWaker::new();
        let mut cx = Context::from_waker(&waker);
        let before = syncs.count();
        syncs.hold();
        let mut first = pin!(tx.send_durable("first"));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        syncs.wait_for(before + 1);
        // Three who come now, of whom one goes away again.
        let (mut second, mut third) = (pin!(tx.send_durable("second")), pin!(channel.sync()));
        assert!(second.as_mut().poll(&mut cx).is_pending() && third.as_mut().poll(&mut cx).is_pending());
        assert!(poll_once(channel.sync()).is_pending());
        assert_eq!(syncs.count(), before + 1, "one at a time");
        assert_eq!(counter.count(), 0);
        syncs.let_one_go();
        let ended = |cx: &mut _, future: &mut std::pin::Pin<&mut dyn Future<Output = _>>| loop {
            match future.as_mut().poll(cx) {
                Poll::Ready(offset) => return Result::unwrap(offset),
                Poll::Pending => thread::yield_now(),
            }
        };
        let offset: Offset = ended(&mut cx, &mut (first as _));
        assert!(offset < channel.durable_offset());
        // The next has begun and is held up; so nobody else is ready.
        assert!(second.as_mut().poll(&mut cx).is_pending() && third.as_mut().poll(&mut cx).is_pending());
        syncs.wait_for(before + 2);
        assert!(second.as_mut().poll(&mut cx).is_pending() && third.as_mut().poll(&mut cx).is_pending());
        syncs.let_one_go();
        let offset: Offset = ended(&mut cx, &mut (second as _));
        assert!(offset < channel.durable_offset());
        assert!(third.as_mut().poll(&mut cx).is_ready(), "the two share one");
        assert_eq!(syncs.count(), before + 2);
        syncs.let_go();
    });
}

/// A task that comes while a thread syncs is not forgotten when that thread goes away.
#[test]
fn a_task_that_comes_while_a_thread_syncs() {
    within(60, || {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let channel = small().blocking_open(dir.file()).unwrap();
        let tx = channel.sender();
        let before = syncs.count();
        syncs.hold();
        thread::scope(|scope| {
            scope.spawn(|| tx.blocking_send_durable("thread").unwrap());
            syncs.wait_for(before + 1);
            let task = scope.spawn(|| smol::block_on(tx.send_durable("task")).unwrap());
            while channel.len() < 2 {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(50)); // it waits now
            syncs.let_go();
            task.join().unwrap();
        });
        assert_eq!(syncs.count(), before + 2);
    });
}

/// A waker that panics costs nobody else the wake, nor the syncer its life.
#[test]
fn a_waker_that_panics() {
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: std::sync::Arc<Self>) {
            panic!("as it is meant to");
        }
    }
    within(60, || {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let channel = small().blocking_open(dir.file()).unwrap();
        let before = syncs.count();
        syncs.hold();
        let waker = std::sync::Arc::new(Panics).into();
        let (mut panics, mut other) = (pin!(channel.sync()), pin!(channel.sync()));
        assert!(panics.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        syncs.wait_for(before + 1);
        assert!(panics.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        // Both wait for the next, the one that panics first.
        let mut next = pin!(channel.sync());
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let (counter, waker) = CountingWaker::new();
        assert!(other.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        syncs.let_go();
        while counter.count() == 0 {
            thread::yield_now();
        }
        smol::block_on(channel.sync()).unwrap();
        channel.blocking_sync().unwrap();
    });
}

/// 64 callers at once need far fewer syncs than messages; each message is durable when its call returns.
#[test]
fn callers_share_a_sync() {
    const CALLERS: u64 = 64;
    const EACH: u64 = 20;
    within(120, || {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let channel = small().page_size(1 << 20).blocking_open(dir.file()).unwrap();
        let before = syncs.count();
        thread::scope(|scope| {
            for t in 0..CALLERS {
                let (tx, channel) = (channel.sender(), &channel);
                scope.spawn(move || {
                    for n in 0..EACH {
                        let offset = tx.blocking_send_durable(body(t * EACH + n, 100)).unwrap();
                        // Others' sends that are under way can keep the mark from moving, not the call.
                        assert!(channel.stats().syncs > 0 && offset < channel.stats().end_offset);
                    }
                });
            }
        });
        let used = syncs.count() - before;
        assert!((EACH..=CALLERS * EACH / 4).contains(&used), "{used} syncs");
        channel.blocking_sync().unwrap();
        assert_eq!(channel.durable_offset(), channel.stats().end_offset);
    });
}

/// What was written is unmapped before it is synced: it is still there, byte for byte, for those who write and read at
/// that moment, and in the file.
#[test]
fn what_is_unmapped_for_a_sync_is_not_lost() {
    const MESSAGES: u64 = 20_000;
    within(120, || {
        let _syncs = Syncs::mine();
        let dir = Dir::new();
        let channel = small().page_size(1 << 20).max_pages(8).blocking_open(dir.file()).unwrap();
        let [mut reader, mut later] = ["reader", "later"].map(|group| channel.blocking_subscribe(group).unwrap());
        thread::scope(|scope| {
            let tx = channel.sender();
            scope.spawn(move || common::send(&tx, 0..MESSAGES, 300));
            let reading = scope.spawn(move || {
                for n in 0..MESSAGES {
                    assert_eq!(common::number(&reader.blocking_recv().unwrap()), n);
                }
            });
            while !reading.is_finished() {
                channel.blocking_sync().unwrap();
            }
        });
        assert_eq!(drain_numbers(&mut later), (0..MESSAGES).collect::<Vec<_>>());
    });
}

/// Blocking callers may take every thread that a runtime has for them: tasks' syncs do not need one.
#[test]
fn blocking_callers_do_not_keep_tasks_from_syncing() {
    within(60, || {
        let _syncs = Syncs::mine();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).max_blocking_threads(2).build();
        let runtime = runtime.unwrap();
        let dir = Dir::new();
        let tx = small().page_size(1 << 20).blocking_open(dir.file()).unwrap().sender();
        let blocking = |_| {
            let tx = tx.clone();
            runtime.spawn_blocking(move || (0..50).for_each(|n| assert!(tx.blocking_send_durable(body(n, 50)).is_ok())))
        };
        let blocking: Vec<_> = (0..4).map(blocking).collect();
        runtime.block_on(async {
            for n in 0..50 {
                tx.send_durable(body(n, 50)).await.unwrap();
            }
            for thread in blocking {
                thread.await.unwrap();
            }
        });
    });
}

/// Whoever begins a sync may go away, be it a thread or a task: none of the others is forgotten.
#[test]
fn threads_and_tasks_wait_together_and_some_go_away() {
    within_tokio(120, || async {
        let _syncs = Syncs::mine();
        let dir = Dir::new();
        let channel = small().page_size(1 << 20).overflow(Overflow::DropOldest).open(dir.file()).await.unwrap();
        let tx = channel.sender();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let tx = tx.clone();
                thread::spawn(move || (0..300).for_each(|n| assert!(tx.blocking_send_durable(body(n, 50)).is_ok())))
            })
            .collect();
        let tasks: Vec<_> = (0..16)
            .map(|t| {
                let tx = tx.clone();
                tokio::spawn(async move {
                    for n in 0..200 {
                        if (n + t) % 3 == 0 {
                            let _ =
                                tokio::time::timeout(Duration::from_micros(n * 7 % 400), tx.send_durable("x")).await;
                        } else {
                            tx.send_durable(body(n, 50)).await.unwrap();
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn tasks_share_a_sync_and_leave_the_workers_free() {
    within_tokio(120, || async {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let tx = small().page_size(1 << 20).open(dir.file()).await.unwrap().sender();
        let before = syncs.count();
        let task = |n| {
            let tx = tx.clone();
            tokio::spawn(async move { tx.send_durable(body(n, 100)).await.unwrap() })
        };
        let tasks: Vec<_> = (0..500).map(task).collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!((1..=250).contains(&(syncs.count() - before)), "{} syncs", syncs.count() - before);
        // While a sync hangs, both workers do other things.
        syncs.hold();
        let waiting: Vec<_> = (0..8).map(task).collect();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(waiting.iter().all(|task| !task.is_finished()));
        syncs.let_go();
        for task in waiting {
            task.await.unwrap();
        }
    });
}

#[test]
fn an_interval_syncs_what_changed_and_nothing_else() {
    within(60, || {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let interval = Durability::Interval { every: Duration::from_millis(20), max_messages: 1000 };
        let channel = small().durability(interval).blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let reaches = |offset: Offset| {
            let deadline = Instant::now() + common::PATIENCE;
            while channel.durable_offset() <= offset {
                assert!(Instant::now() < deadline);
                thread::sleep(Duration::from_millis(1));
            }
        };
        reaches(tx.blocking_send("a message").unwrap());
        // An ack alone is reason enough.
        let before = syncs.count();
        drop(rx.try_recv().unwrap());
        syncs.wait_for(before + 1);
        // And then there is none: one that was under way may still end.
        thread::sleep(Duration::from_millis(100));
        let before = syncs.count();
        thread::sleep(Duration::from_millis(200));
        assert_eq!(syncs.count(), before, "nothing had changed");
    });
}

#[test]
fn enough_messages_are_synced_at_once_and_the_last_handle_syncs_the_rest() {
    within(60, || {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let interval = Durability::Interval { every: Duration::from_secs(3600), max_messages: 10 };
        let channel = small().durability(interval).blocking_open(dir.file()).unwrap();
        let other = Options::new().blocking_open(dir.file()).unwrap();
        let tx = channel.sender();
        let before = syncs.count();
        for n in 0..9 {
            tx.blocking_send(body(n, 64)).unwrap();
        }
        thread::sleep(Duration::from_millis(50));
        assert_eq!(syncs.count(), before);
        let tenth = tx.blocking_send(body(9, 64)).unwrap();
        syncs.wait_for(before + 1);
        let deadline = Instant::now() + common::PATIENCE;
        while channel.durable_offset() <= tenth {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        let last = tx.blocking_send(body(10, 64)).unwrap();
        drop((tx, channel));
        assert!(other.durable_offset() > last, "the open that ends leaves nothing unsynced");
    });
}

#[test]
fn always_is_every_send() {
    let syncs = Syncs::mine();
    let dir = Dir::new();
    let channel = small().durability(Durability::Always).blocking_open(dir.file()).unwrap();
    let tx = channel.sender();
    let each: [&dyn Fn() -> Offset; 7] = [
        &|| tx.blocking_send("x").unwrap(),
        &|| smol::block_on(tx.send("x")).unwrap(),
        &|| tx.try_send("x").unwrap(),
        &|| tx.send_timeout("x", Duration::from_secs(9)).unwrap(),
        &|| tx.blocking_send_durable("x").unwrap(),
        &|| smol::block_on(tx.send_durable("x")).unwrap(),
        &|| tx.reserve(1).unwrap().blocking_commit().unwrap(),
    ];
    for send in each {
        let before = syncs.count();
        assert!(send() < channel.durable_offset());
        assert_eq!(syncs.count(), before + 1);
    }
    let before = syncs.count();
    let many = tx.blocking_send_many(&["x"; 100]).unwrap();
    assert!(many[99] < channel.durable_offset());
    smol::block_on(tx.send_many(&["x"; 100])).unwrap();
    assert_eq!(syncs.count(), before + 2, "one for all");
    // Those that were sent, also where the next was not.
    let too_long = vec![0; channel.max_message_len() + 1];
    let error = tx.blocking_send_many(&[b"x".as_slice(), &too_long]).unwrap_err();
    assert!(error.sent[0] < channel.durable_offset());
    let error = smol::block_on(tx.send_many(&[b"x".as_slice(), &too_long])).unwrap_err();
    assert!(error.sent[0] < channel.durable_offset());
    assert_eq!(syncs.count(), before + 4);
    let before = before + 2;
    assert!(tx.blocking_send_many::<&str>(&[]).unwrap().is_empty());
    assert_eq!(syncs.count(), before + 2, "none for none");
}

#[test]
fn a_read_only_open_cannot_sync() {
    let _syncs = Syncs::mine();
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let looking = Options::new().read_only(true).blocking_open(dir.file()).unwrap();
    assert_eq!(looking.blocking_sync(), Err(disk_chan::SyncError::ReadOnly));
    channel.sender().blocking_send_durable("x").unwrap();
    assert_eq!(looking.durable_offset(), channel.durable_offset());
}

/// A message that becomes a dead letter is on stable storage there before it is done here.
#[test]
fn a_letter_is_durable_before_its_message_is_done() {
    let syncs = Syncs::mine();
    let dir = Dir::new();
    let channel = small().max_attempts(1).blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    channel.sender().blocking_send_durable("poison").unwrap();
    let lease = rx.try_lease().unwrap();
    let before = syncs.count();
    drop(lease);
    assert_eq!(channel.groups()[0].dead_lettered, 1);
    assert_eq!(syncs.count(), before + 1);
}

#[test]
fn an_interval_of_nothing_is_refused() {
    let dir = Dir::new();
    for (every, max_messages) in [(Duration::ZERO, 1), (Duration::from_secs(1), 0)] {
        let options = small().durability(Durability::Interval { every, max_messages });
        let error = options.blocking_open(dir.file()).unwrap_err();
        assert!(matches!(error, OpenError::InvalidOption { option: "durability", .. }), "{error}");
    }
}

/// The words of groups in pages are told apart by 255 generations. Before one comes round they are cleared, and that
/// is on disk before the new group is.
#[test]
fn generations_of_groups_come_round_on_disk_too() {
    let syncs = Syncs::mine();
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let made: Vec<u64> = (0..520)
        .map(|n| {
            let before = syncs.count();
            drop(channel.blocking_subscribe(format!("group {n}").as_str()).unwrap());
            let made = syncs.count() - before;
            channel.remove_group(format!("group {n}").as_str(), false).unwrap();
            made
        })
        .collect();
    // Two copies of the entry, and in the 255th and the 510th of that number the pages.
    let with_pages: Vec<usize> = (0..520).filter(|&n| made[n] == 3).collect();
    assert_eq!(with_pages, [254, 509]);
    assert!(made.iter().all(|&n| n == 2 || n == 3));
}
