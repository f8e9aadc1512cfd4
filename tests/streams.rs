//! Streams of messages and leases, as the combinators of `futures` use them.

mod common;
#[path = "common/process.rs"]
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use common::{CountingWaker, Dir, Rng, number, open_new, seed, send, small, within, within_tokio};
use disk_chan::{AckError, Channel, Lease, Overflow, Start};
use futures::StreamExt;
use futures::stream::FusedStream;
use process::{Process, open, say, told};
use tokio::task::yield_now;

/// Leases that can be out in [`small`].
const MAX_HELD: usize = 32;

/// What a child of these tests does.
#[test]
fn child() {
    let Some((role, file)) = process::role() else { return };
    match role[0].as_str() {
        "works" => works(&file, role[1].parse().unwrap()),
        other => panic!("no role {other}"),
    }
}

fn is_done(channel: &Channel) {
    let now = channel.groups().pop().unwrap();
    assert_eq!((now.lag, now.held, now.returned), (0, 0, 0), "{now:?}");
}

/// Numbers of leases that were worked on, and how many were out at once.
#[derive(Default)]
struct Work {
    out: AtomicUsize,
    most: AtomicUsize,
}

impl Work {
    async fn on(&self, lease: Lease) -> (u64, Result<(), AckError>) {
        self.most.fetch_max(self.out.fetch_add(1, SeqCst) + 1, SeqCst);
        let n = number(&lease);
        for _ in 0..n % 7 {
            yield_now().await;
        }
        self.out.fetch_sub(1, SeqCst);
        (n, lease.ack())
    }
}

/// Without a limit of its own: as many are out as the channel allows, and the stream goes on when one of them ends.
#[test]
fn leases_go_through_for_each_concurrent() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        let rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), 0..1000, 16);
        channel.close();
        let (work, got) = (Work::default(), Mutex::new(Vec::new()));
        let done = rx.into_lease_stream().for_each_concurrent(None, |lease| async {
            let (n, acked) = work.on(lease).await;
            acked.unwrap();
            got.lock().unwrap().push(n);
        });
        done.await;
        common::assert_each_once(got.into_inner().unwrap(), 1000);
        assert_eq!(work.most.into_inner(), MAX_HELD, "not all cells were used");
        is_done(&channel);
    });
}

#[test]
fn leases_go_through_buffer_unordered() {
    within_tokio(60, || async {
        for limit in [1, 10, 10 * MAX_HELD] {
            let (_dir, channel) = open_new(small());
            let mut rx = channel.blocking_subscribe("g").unwrap();
            let tx = channel.sender();
            send(&tx, 0..500, 16);
            drop((tx, channel.clone()));
            channel.close();
            let work = Work::default();
            let got: Vec<_> = rx.lease_stream().map(|lease| work.on(lease)).buffer_unordered(limit).collect().await;
            assert!(got.iter().all(|(_, acked)| acked.is_ok()));
            common::assert_each_once(got.into_iter().map(|(n, _)| n), 500);
            assert_eq!(work.most.into_inner(), limit.min(MAX_HELD));
            is_done(&channel);
        }
    });
}

/// What is given back comes again in the same stream, until it is done or a dead letter.
#[test]
fn what_is_given_back_comes_again() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small().max_attempts(3));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), 0..100, 16);
        let attempts = Mutex::new(BTreeMap::<u64, Vec<u32>>::new());
        let work = |lease: Lease| async {
            attempts.lock().unwrap().entry(number(&lease)).or_default().push(lease.attempts());
            yield_now().await;
            match number(&lease) % 10 {
                1 => lease.give_back().unwrap(),
                2 => drop(lease),
                3 => lease.reject().unwrap(),
                4 if lease.attempts() == 1 => drop(lease),
                _ => lease.ack().unwrap(),
            }
            // It would also end while leases are out, which nobody is left to get then.
            if channel.groups()[0].lag == 0 {
                channel.close();
            }
        };
        rx.lease_stream().for_each_concurrent(10, work).await;
        for (n, attempts) in attempts.into_inner().unwrap() {
            let expected: &[u32] = match n % 10 {
                1 | 2 => &[1, 2, 3],
                4 => &[1, 2],
                _ => &[1],
            };
            assert_eq!(attempts, expected, "message {n}");
        }
        assert_eq!(channel.groups()[0].dead_lettered, 30);
        is_done(&channel);
    });
}

/// A stream waits when all leases are out, and the end of one of them wakes it.
#[test]
fn a_stream_waits_for_a_lease_to_end() {
    let (_dir, channel) = open_new(small());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..MAX_HELD as u64 + 1, 16);
    let (count, waker) = CountingWaker::new();
    let mut cx = Context::from_waker(&waker);
    let mut leases = rx.lease_stream();
    let mut out = Vec::new();
    while let Poll::Ready(lease) = leases.poll_next_unpin(&mut cx) {
        out.push(lease.unwrap());
    }
    assert_eq!((out.len(), count.count()), (MAX_HELD, 0));
    out.swap_remove(5).ack().unwrap();
    assert_eq!(count.count(), 1);
    let Poll::Ready(Some(last)) = leases.poll_next_unpin(&mut cx) else { panic!("it was woken for nothing") };
    assert_eq!(number(&last), MAX_HELD as u64);
    // The leases are nobody's but ours: the stream may go.
    drop(leases);
    out.into_iter().chain([last]).for_each(|lease| lease.ack().unwrap());
    is_done(&channel);
}

#[test]
fn a_stream_that_waits_holds_nothing() {
    let (_dir, channel) = open_new(small());
    let (mut rx, mut other) = (channel.blocking_subscribe("g").unwrap(), channel.blocking_subscribe("g").unwrap());
    let mut leases = rx.lease_stream();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(leases.poll_next_unpin(&mut cx).is_pending());
    send(&channel.sender(), [7], 16);
    assert_eq!(number(&other.try_recv().unwrap()), 7);
    drop(leases);
    is_done(&channel);
}

/// Streams end when nobody is left to send, say so, and stay ended.
#[test]
fn streams_end_and_stay_ended() {
    within_tokio(60, || async {
        let (dir, channel) = open_new(small());
        let (mut rx, rx2) = (channel.blocking_subscribe("g").unwrap(), channel.blocking_subscribe("h").unwrap());
        let tx = channel.sender();
        send(&tx, 0..3, 16);
        let mut leases = rx.lease_stream();
        let mut messages = rx2.into_stream();
        for n in 0..3 {
            leases.next().await.unwrap().ack().unwrap();
            assert_eq!(number(&messages.next().await.unwrap()), n);
        }
        assert!(futures::poll!(leases.next()).is_pending() && !leases.is_terminated());
        // Also while it waits.
        let end = tokio::spawn(async move { (messages.next().await.is_none(), messages.is_terminated()) });
        yield_now().await;
        drop((tx, channel));
        assert!(leases.next().await.is_none() && leases.is_terminated());
        assert_eq!(end.await.unwrap(), (true, true));
        // Somebody opens it again: this stream is over, another one goes on.
        let again = small().blocking_open(dir.file()).unwrap();
        send(&again.sender(), [9], 16);
        assert!(leases.next().await.is_none());
        drop((leases, again));
        assert_eq!(number(&rx.lease_stream().next().await.unwrap()), 9);
    });
}

#[test]
fn a_stream_ends_with_its_group_and_follows_one_that_moves() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), 0..5, 16);
        let mut leases = rx.lease_stream();
        for _ in 0..5 {
            leases.next().await.unwrap().ack().unwrap();
        }
        assert!(futures::poll!(leases.next()).is_pending());
        channel.seek_group("g", Start::Oldest, false).unwrap();
        assert_eq!(number(&leases.next().await.unwrap()), 0);
        channel.remove_group("g", true).unwrap();
        assert!(leases.next().await.is_none() && leases.is_terminated());
    });
}

/// What was dropped before the group had it is passed over; the rest comes in its order.
#[test]
fn a_stream_that_lags_goes_on() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small().overflow(Overflow::DropOldest));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        send(&tx, 0..10, 1000);
        let mut leases = rx.lease_stream();
        let first = leases.next().await.unwrap();
        send(&tx, 10..500, 1000);
        channel.close();
        let rest: Vec<u64> = leases.map(|lease| (number(&lease), lease.ack().unwrap()).0).collect().await;
        assert_eq!(rest, (rest[0]..500).collect::<Vec<_>>());
        assert_eq!(first.give_back(), Err(AckError::Gone));
        let now = channel.groups().pop().unwrap();
        assert_eq!((now.lagged, now.gone, now.lag), (rest[0] - 1, 1, 0));
    });
}

/// Messages that a child works on before it waits to be killed.
const SHARE: usize = 400;

/// In the child: leases what there is, `limit` at a time; says what is done, and what is acknowledged.
fn works(file: &Path, limit: usize) {
    let channel = open(file);
    let rx = channel.blocking_subscribe("g").unwrap();
    say("ready");
    let count = &AtomicUsize::new(0);
    let work = |lease: Lease| async move {
        let n = number(&lease);
        for _ in 0..n % 7 {
            yield_now().await;
        }
        if count.fetch_add(1, SeqCst) == SHARE {
            told();
        }
        say(format!("done {n}"));
        lease.ack().unwrap();
        say(format!("acked {n}"));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(rx.into_lease_stream().for_each_concurrent(limit, work));
}

/// A process is killed in the middle of `for_each_concurrent` over leases, again and again: every message is done at
/// least once, and none comes again that was acknowledged.
#[test]
fn killed_in_the_middle_nothing_is_lost_and_nothing_done_comes_again() {
    within(120, || {
        let dir = Dir::in_memory();
        let options = small().page_size(1 << 20).max_held(64).max_opens(64);
        let channel = options.blocking_open(dir.file()).unwrap();
        let rx = channel.blocking_subscribe("g").unwrap();
        let count = 5000;
        send(&channel.sender(), 0..count, 16);
        let (mut done, mut acked) = (BTreeSet::new(), BTreeSet::new());
        let (mut again, mut rng) = (0, Rng::new(seed()));
        for limit in [1, 8, 40, 200, 40, 8] {
            let worker = Process::start(&format!("works {limit}"), &dir.file()).ready();
            let mut heard: Vec<_> = (0..rng.below(2 * SHARE as u64)).map(|_| worker.hear()).collect();
            worker.kill();
            heard.extend(worker.last_words());
            let before = acked.clone();
            for said in heard {
                // The last line may have been cut off by the kill.
                let Some((what, n)) = said.split_once(' ') else { continue };
                let n: u64 = n.parse().unwrap();
                match what {
                    "done" => {
                        assert!(!before.contains(&n), "message {n} was acknowledged, and came again");
                        again += u64::from(!done.insert(n));
                    }
                    "acked" => assert!(acked.insert(n), "message {n} was acknowledged twice"),
                    _ => {}
                }
            }
        }
        assert!(!acked.is_empty());
        channel.close();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let rest: Vec<(u64, u32)> = runtime.block_on(
            rx.into_lease_stream()
                .map(|lease| async move {
                    let got = (number(&lease), lease.attempts());
                    lease.ack().map(|()| got).unwrap()
                })
                .buffer_unordered(10)
                .collect(),
        );
        for (n, attempts) in &rest {
            assert!(!acked.contains(n), "message {n} was acknowledged, and came again");
            assert!(*attempts > 1 || !done.contains(n), "message {n} was handed out before");
            assert!(done.insert(*n) || *attempts > 1);
        }
        assert!(rest.iter().any(|(_, attempts)| *attempts > 1), "nobody was killed with a lease");
        println!("{} acknowledged before the kills, {again} done again by a worker, {} left", acked.len(), rest.len());
        common::assert_each_once(done, count);
        is_done(&channel);
    });
}

/// What goes to other tasks and threads.
#[test]
fn they_are_send_and_unpin() {
    fn check<T: Send + Unpin>() {}
    check::<disk_chan::LeaseStream<'static>>();
    check::<disk_chan::IntoLeaseStream>();
    check::<disk_chan::MessageStream<'static>>();
    check::<disk_chan::IntoMessageStream>();
}
