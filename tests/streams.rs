//! Streams of messages and leases, and sinks, as the combinators of `futures` use them.

mod common;
#[path = "common/process.rs"]
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::{
    CountingWaker, Dir, Rng, body, drain_numbers, fill, number, open_new, seed, send, small, within, within_tokio,
};
use disk_chan::{AckError, Channel, Durability, Headers, Lease, MessageSink, Overflow, SendError, Start};
use futures::stream::FusedStream;
use futures::{Sink, SinkExt, StreamExt, stream};
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
        let (work, got) = (Work::default(), std::sync::Mutex::new(Vec::new()));
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
        let attempts = std::sync::Mutex::new(BTreeMap::<u64, Vec<u32>>::new());
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

// Sinks.

/// Through a ring that has room for few: the sink waits for room, and keeps the order.
#[test]
fn a_stream_is_forwarded_into_a_ring_that_fills() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        let rx = channel.blocking_subscribe("g").unwrap();
        let count = 2000;
        let tx = channel.sender();
        let sent = tokio::spawn(stream::iter((0..count).map(|n| Ok(body(n, 1000)))).forward(tx.into_sink()));
        let got: Vec<u64> = rx.into_stream().take(count as usize).map(|message| number(&message)).collect().await;
        assert_eq!(got, (0..count).collect::<Vec<_>>());
        sent.await.unwrap().unwrap();
    });
}

/// From one channel into another: a relay.
#[test]
fn a_channel_is_forwarded_into_another() {
    within_tokio(60, || async {
        let ((_dir, from), (_dir2, to)) = (open_new(small()), open_new(small()));
        let (mut rx, mut end) = (from.blocking_subscribe("relay").unwrap(), to.blocking_subscribe("g").unwrap());
        send(&from.sender(), 0..200, 64);
        from.close();
        rx.stream().map(Ok).forward(to.sender().into_sink()).await.unwrap();
        assert_eq!(drain_numbers(&mut end), (0..200).collect::<Vec<_>>());
        is_done(&from);
    });
}

fn poll<M: disk_chan::Payload, T>(
    sink: &mut MessageSink<M>,
    cx: &mut Context<'_>,
    what: impl FnOnce(Pin<&mut MessageSink<M>>, &mut Context<'_>) -> T,
) -> T {
    what(Pin::new(sink), cx)
}

/// Ready, flushed and closed are what they say.
#[test]
fn a_sink_is_ready_flushed_and_closed_when_it_says_so() {
    let (_dir, channel) = open_new(small());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    let filled = fill(&channel, 0, 1000);
    let (woken, waker) = CountingWaker::new();
    let cx = &mut Context::from_waker(&waker);
    let tx = channel.sender();
    let mut sink = tx.sink::<Vec<u8>>();
    drop(tx);
    assert_eq!(poll(&mut sink, cx, Sink::poll_ready), Poll::Ready(Ok(())), "it has room for one");
    assert_eq!(Pin::new(&mut sink).start_send(body(filled, 1000)), Ok(()));
    assert!(poll(&mut sink, cx, Sink::poll_ready).is_pending());
    assert!(poll(&mut sink, cx, Sink::poll_flush).is_pending());
    assert!(poll(&mut sink, cx, Sink::poll_close).is_pending());
    // Without being ready it keeps what it is given, in order.
    assert_eq!(Pin::new(&mut sink).start_send(body(filled + 1, 1000)), Ok(()));
    assert_eq!(woken.count(), 0);
    let mut got = Vec::new();
    while woken.count() == 0 {
        got.push(number(&rx.try_recv().expect("a page is free before all is read")));
    }
    assert_eq!(Pin::new(&mut sink).start_send(body(filled + 2, 1000)), Ok(()));
    assert_eq!(poll(&mut sink, cx, Sink::poll_flush), Poll::Ready(Ok(())));
    // With room a message is there at once.
    assert_eq!(poll(&mut sink, cx, Sink::poll_ready), Poll::Ready(Ok(())));
    assert_eq!(Pin::new(&mut sink).start_send(body(filled + 3, 1000)), Ok(()));
    got.extend(drain_numbers(&mut rx));
    assert_eq!(got, (0..filled + 4).collect::<Vec<_>>());
    // A message that cannot be sent is an error, and the sink goes on.
    let long = vec![0; channel.max_message_len() + 1];
    let too_long = SendError::MessageTooLarge { len: long.len(), max: long.len() - 1 };
    assert_eq!(Pin::new(&mut sink).start_send(long), Err(too_long));
    assert_eq!(Pin::new(&mut sink).start_send(body(1, 8)), Ok(()));
    assert_eq!(poll(&mut sink, cx, Sink::poll_close), Poll::Ready(Ok(())));
    assert_eq!(drain_numbers(&mut rx), [1]);
    // Closed, its sender is gone, and it says so.
    assert_eq!(poll(&mut sink, cx, Sink::poll_close), Poll::Ready(Ok(())));
    assert_eq!(poll(&mut sink, cx, Sink::poll_ready), Poll::Ready(Err(SendError::Closed)));
    assert_eq!(Pin::new(&mut sink).start_send(body(1, 8)), Err(SendError::Closed));
    assert_eq!(channel.stats().handles, 1);
    assert!(!channel.is_closed());
}

/// A send through the sink that is dropped while it waits: the sink has the message, and sends it first.
#[test]
fn a_dropped_flush_loses_nothing() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let filled = fill(&channel, 0, 1000);
        let mut sink = channel.sender().into_sink::<Vec<u8>>();
        assert!(futures::poll!(sink.send(body(filled, 1000))).is_pending());
        let mut got = drain_numbers(&mut rx);
        sink.send(body(filled + 1, 1000)).await.unwrap();
        got.extend(drain_numbers(&mut rx));
        assert_eq!(got, (0..filled + 2).collect::<Vec<_>>());
        // Dropped with a message for which there is no room, it takes it along.
        fill(&channel, 0, 1000);
        assert!(futures::poll!(sink.send(body(5555, 1000))).is_pending());
        drop(sink);
        assert!(!drain_numbers(&mut rx).contains(&5555));
    });
}

#[test]
fn a_sink_says_that_the_channel_was_closed() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        let mut sink = channel.sender().into_sink::<&str>();
        sink.send("a").await.unwrap();
        channel.close();
        assert_eq!(sink.send("b").await, Err(SendError::Closed));
    });
}

/// One thread, a sync for each flush: the executor goes on meanwhile, and a flush covers all that was sent before it.
#[test]
fn a_durable_sink_flushes_without_blocking_the_executor() {
    within(60, || {
        let (_dir, channel) = open_new(small().durability(Durability::Always));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let turns = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&turns);
            let other = tokio::spawn(async move {
                loop {
                    counted.fetch_add(1, SeqCst);
                    yield_now().await;
                }
            });
            yield_now().await;
            let mut sink = channel.sender().into_sink::<Vec<u8>>();
            for n in 0..20 {
                // Several, of which all but the last need not wait.
                sink.feed(body(2 * n, 64)).await.unwrap();
                let before = (turns.load(SeqCst), channel.stats().syncs);
                sink.send(body(2 * n + 1, 64)).await.unwrap();
                assert!(channel.durable_offset() >= channel.end_offset(), "it is flushed and not durable");
                assert!(turns.load(SeqCst) > before.0, "the executor stood still during a flush");
                assert_eq!(channel.stats().syncs, before.1 + 1, "one sync for both");
            }
            sink.feed(body(40, 64)).await.unwrap();
            sink.close().await.unwrap();
            assert!(channel.durable_offset() >= channel.end_offset());
            other.abort();
        });
        assert_eq!(channel.len(), 41);
    });
}

/// A flush that was begun before a message does not pass for one after it.
#[test]
fn a_flush_covers_what_was_sent_since_it_was_dropped() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small().durability(Durability::Always));
        let mut sink = channel.sender().into_sink::<Vec<u8>>();
        for n in 0..50 {
            sink.feed(body(2 * n, 64)).await.unwrap();
            let _ = futures::poll!(sink.flush());
            tokio::time::sleep(Duration::from_micros(n * 20)).await;
            sink.send(body(2 * n + 1, 64)).await.unwrap();
            assert!(channel.durable_offset() >= channel.end_offset());
        }
    });
}

/// Messages with headers go through, too; and errors of a stream come out at the end.
#[test]
fn headers_and_errors_go_through() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let with_key = |n: u64| Headers::new().key(n.to_le_bytes()).message(body(n, 16));
        let sink = channel.sender().into_sink().sink_map_err(|error: SendError| error.to_string());
        let messages = (0..5).map(|n| with_key(n).map_err(|error| error.to_string()));
        stream::iter(messages)
            .chain(stream::once(async { Err("the source".to_owned()) }))
            .forward(sink)
            .await
            .unwrap_err();
        for n in 0..5u64 {
            let message = rx.try_recv().unwrap();
            assert_eq!((number(&message), message.key()), (n, Some(&n.to_le_bytes()[..])));
        }
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
    check::<MessageSink<Vec<u8>>>();
    fn unpin<T: Unpin>() {}
    unpin::<MessageSink<(Vec<u8>, std::marker::PhantomPinned)>>();
}
