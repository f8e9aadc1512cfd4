//! A sink sends what it is given: in order, once, and durably where that is asked for.

mod common;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use common::{CountingWaker, body, drain_numbers, fill, number, open_new, send, small, within, within_tokio};
use disk_chan::{Durability, Headers, MessageSink, SendError};
use futures::{Sink, SinkExt, StreamExt, stream};
use tokio::task::yield_now;

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
        assert_eq!(from.groups()[0].lag, 0);
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

#[test]
fn it_is_send_and_unpin() {
    fn send<T: Send>() {}
    fn unpin<T: Unpin>() {}
    send::<MessageSink<Vec<u8>>>();
    unpin::<MessageSink<(Vec<u8>, std::marker::PhantomPinned)>>();
}
