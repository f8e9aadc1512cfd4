//! Every future can be dropped at every poll: nothing is lost, doubled or stuck.

mod common;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    CountingWaker, Rng, assert_each_once, body, drain_numbers, fill, number, small_channel, within, within_tokio,
};
use disk_chan::{Lease, Receiver, RecvError};
use futures::StreamExt;

/// How many futures are dropped before they are ready, for each kind.
const CANCELLED: usize = 10_000;

/// Polls a future up to three times, with a pause before each further one, and drops it.
fn poll_and_drop<F: Future>(future: F, rng: &mut Rng) -> Option<F::Output> {
    let mut future = pin!(future);
    for poll in 0..1 + rng.below(3) {
        if poll > 0 {
            pause(rng);
        }
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(output);
        }
    }
    None
}

/// A short while; now and then the processor is left to others.
fn pause(rng: &mut Rng) {
    for _ in 0..rng.below(300) {
        std::hint::spin_loop();
    }
    if rng.one_in(50) {
        thread::yield_now();
    }
}

/// One receive by futures that may be dropped; puts what is done into `got`. `None`: cancelled; `Some(false)`: the end.
type Attempt = fn(&mut Receiver, &mut Rng, &mut Vec<u64>) -> Option<bool>;

fn over<T>(result: Result<T, RecvError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(RecvError::Disconnected) => None,
        Err(error) => panic!("{error}"),
    }
}

fn recv(rx: &mut Receiver, rng: &mut Rng, got: &mut Vec<u64>) -> Option<bool> {
    let result = poll_and_drop(rx.recv(), rng)?;
    Some(over(result).map(|m| got.push(number(&m))).is_some())
}

fn recv_many(rx: &mut Receiver, rng: &mut Rng, got: &mut Vec<u64>) -> Option<bool> {
    let limit = 1 + rng.below(5) as usize;
    let result = poll_and_drop(rx.recv_many(limit), rng)?;
    Some(over(result).map(|many| got.extend(many.iter().map(|m| number(m)))).is_some())
}

fn stream(rx: &mut Receiver, rng: &mut Rng, got: &mut Vec<u64>) -> Option<bool> {
    let mut stream = rx.stream();
    let next = poll_and_drop(stream.next(), rng)?;
    Some(next.map(|m| got.push(number(&m))).is_some())
}

fn settle(lease: Lease, rng: &mut Rng, got: &mut Vec<u64>) {
    match rng.below(4) {
        0 => lease.give_back().unwrap(),
        1 => drop(lease),
        _ => {
            got.push(number(&lease));
            lease.ack().unwrap();
        }
    }
}

fn lease(rx: &mut Receiver, rng: &mut Rng, got: &mut Vec<u64>) -> Option<bool> {
    let result = poll_and_drop(rx.lease(), rng)?;
    Some(over(result).map(|lease| settle(lease, rng, got)).is_some())
}

fn lease_many(rx: &mut Receiver, rng: &mut Rng, got: &mut Vec<u64>) -> Option<bool> {
    let limit = 1 + rng.below(5) as usize;
    let result = poll_and_drop(rx.lease_many(limit), rng)?;
    Some(over(result).map(|many| many.into_iter().for_each(|lease| settle(lease, rng, got))).is_some())
}

/// Two receivers cancel, two senders send until enough was cancelled; then everything must have come, once.
fn under_load(attempt: Attempt) {
    within(120, move || {
        let (_dir, channel) = small_channel();
        let rx = channel.blocking_subscribe("g").unwrap();
        let cancelled = AtomicUsize::new(0);
        let (got, sent) = thread::scope(|scope| {
            let receivers: Vec<_> = (0..2)
                .map(|seed| {
                    let (mut rx, cancelled) = (rx.clone(), &cancelled);
                    scope.spawn(move || {
                        let (mut rng, mut got) = (Rng::new(seed), vec![]);
                        loop {
                            match attempt(&mut rx, &mut rng, &mut got) {
                                Some(true) => {}
                                Some(false) => return got,
                                None => drop(cancelled.fetch_add(1, Ordering::Relaxed)),
                            }
                        }
                    })
                })
                .collect();
            let senders: Vec<_> = (0..2)
                .map(|sender| {
                    let (tx, cancelled) = (channel.sender(), &cancelled);
                    scope.spawn(move || {
                        let mut rng = Rng::new(9 + sender);
                        let mut sent = 0;
                        while cancelled.load(Ordering::Relaxed) < CANCELLED {
                            for _ in 0..rng.below(4) {
                                tx.blocking_send(body(2 * sent + sender, 8 + rng.below(200) as usize)).unwrap();
                                sent += 1;
                            }
                            pause(&mut rng);
                        }
                        sent
                    })
                })
                .collect();
            drop(channel);
            let sent: Vec<u64> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
            let got: Vec<u64> = receivers.into_iter().flat_map(|receiver| receiver.join().unwrap()).collect();
            (got, sent)
        });
        let mut rest = rx;
        let got: Vec<u64> = got.into_iter().chain(drain_numbers(&mut rest)).collect();
        for (sender, count) in sent.into_iter().enumerate() {
            let its = got.iter().filter(|n| **n % 2 == sender as u64).map(|n| n / 2);
            assert_each_once(its, count);
        }
    });
}

#[test]
fn recv_dropped_at_every_poll_under_load() {
    under_load(recv);
}

#[test]
fn recv_many_dropped_at_every_poll_under_load() {
    under_load(recv_many);
}

#[test]
fn lease_dropped_at_every_poll_under_load() {
    under_load(lease);
}

#[test]
fn lease_many_dropped_at_every_poll_under_load() {
    under_load(lease_many);
}

#[test]
fn stream_dropped_at_every_poll_under_load() {
    under_load(stream);
}

/// Fails when what was done so often relied on somebody looking every 50 ms.
fn without_a_timed_look(start: Instant, times: u32) {
    assert!(start.elapsed() < Duration::from_millis(15) * times, "{times} wakes took {:?}", start.elapsed());
}

/// A wake that went to a future that is then dropped goes on to the next one that waits.
#[test]
fn a_dropped_future_passes_its_wake_on() {
    within(120, || {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        let rx = channel.blocking_subscribe("g").unwrap();
        let mut receivers = [rx.clone(), rx.clone(), rx];
        let start = Instant::now();
        for round in 0..1000 {
            let wakers = [(); 3].map(|()| CountingWaker::new());
            let mut futures: Vec<Option<Pin<Box<_>>>> =
                receivers.iter_mut().map(|rx| Some(Box::pin(rx.recv()))).collect();
            for (future, (_, waker)) in futures.iter_mut().zip(&wakers) {
                assert!(future.as_mut().unwrap().as_mut().poll(&mut Context::from_waker(waker)).is_pending());
            }
            tx.try_send(body(round, 30)).unwrap();
            // Whoever is woken goes away without looking; the last one is left.
            for _ in 0..2 {
                let waiting_and_woken = |i: &usize| futures[*i].is_some() && wakers[*i].0.count() > 0;
                common::eventually("one that waits is woken", || (0..3).any(|i| waiting_and_woken(&i)));
                let woken = (0..3).find(waiting_and_woken).unwrap();
                futures[woken] = None;
            }
            let left = (0..3).find(|i| futures[*i].is_some()).unwrap();
            common::eventually("the last one is woken", || wakers[left].0.count() > 0);
            match futures[left].take().unwrap().as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(m)) => assert_eq!(number(&m), round),
                other => panic!("round {round}: {other:?}"),
            }
        }
        without_a_timed_look(start, 2000);
    });
}

#[test]
fn a_thread_gets_what_a_dropped_future_was_woken_for() {
    within(120, || {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        let rx = channel.blocking_subscribe("g").unwrap();
        let mut blocked = rx.clone();
        let thread =
            thread::spawn(move || (0..500).map(|_| number(&blocked.blocking_recv().unwrap())).collect::<Vec<_>>());
        let mut cancels = rx;
        let start = Instant::now();
        for round in 0..500 {
            {
                let mut future = pin!(cancels.recv());
                assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                if round % 3 == 0 {
                    thread::sleep(Duration::from_micros(200));
                }
                tx.try_send(body(round, 30)).unwrap();
            }
            common::eventually("the thread has it", || channel.groups()[0].lag == 0);
        }
        without_a_timed_look(start, 500);
        assert_eq!(thread.join().unwrap(), (0..500).collect::<Vec<_>>());
    });
}

/// The latest waker is the one that counts, and a future that was moved between tasks is not lost.
#[test]
fn a_future_polled_with_another_waker_wakes_that_one() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        for round in 0..100 {
            let (first, second) = (CountingWaker::new(), CountingWaker::new());
            let mut future = pin!(rx.recv());
            assert!(future.as_mut().poll(&mut Context::from_waker(&first.1)).is_pending());
            assert!(future.as_mut().poll(&mut Context::from_waker(&second.1)).is_pending());
            channel.sender().try_send(body(round, 30)).unwrap();
            common::eventually("the second waker is woken", || second.0.count() > 0);
            assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
        }
    });
}

#[test]
fn a_forgotten_future_does_not_keep_others_from_waking() {
    within_tokio(60, || async {
        let (_dir, channel) = small_channel();
        let rx = channel.subscribe("g").await.unwrap();
        for _ in 0..5 {
            let forgotten: &mut Receiver = Box::leak(Box::new(rx.clone()));
            let mut future = Box::pin(forgotten.recv());
            assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            std::mem::forget(future);
        }
        let mut waits = rx.clone();
        let waits = tokio::spawn(async move { number(&waits.recv().await.unwrap()) });
        tokio::time::sleep(Duration::from_millis(30)).await;
        for n in 0..6 {
            channel.sender().send(body(n, 30)).await.unwrap();
        }
        assert!(waits.await.unwrap() < 6);
    });
}

/// What a task does instead of receiving.
async fn something_else(timer: bool) {
    if timer {
        tokio::time::sleep(Duration::from_micros(50)).await;
    } else {
        tokio::task::yield_now().await;
    }
}

/// Tasks that select between a message and something else, on a runtime, with senders in threads.
#[test]
fn select_against_a_yield_and_a_timer() {
    within_tokio(120, || async {
        const EACH: u64 = 10_000;
        let (_dir, channel) = small_channel();
        let rx = channel.subscribe("g").await.unwrap();
        let tasks: Vec<_> = (0..6)
            .map(|kind| {
                let mut rx = rx.clone();
                tokio::spawn(async move {
                    let (mut got, mut cancelled) = (vec![], 0);
                    loop {
                        let result = match kind % 3 {
                            0 => tokio::select! {
                                m = rx.recv() => m.map(|m| got.push(number(&m))),
                                () = something_else(kind < 3) => {
 cancelled += 1;
 Ok(())
 }
                            },
                            1 => tokio::select! {
                                lease = rx.lease() => lease.map(|lease| {
                                    got.push(number(&lease));
                                    lease.ack().unwrap();
                                }),
                                () = something_else(kind < 3) => {
 cancelled += 1;
 Ok(())
 }
                            },
                            _ => tokio::select! {
                                many = rx.recv_many(3) => many.map(|many| got.extend(many.iter().map(|m| number(m)))),
                                () = something_else(kind < 3) => {
 cancelled += 1;
 Ok(())
 }
                            },
                        };
                        match result {
                            Ok(()) => {}
                            Err(RecvError::Disconnected) => return (got, cancelled),
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let tx = channel.sender();
                thread::spawn(move || {
                    for n in 0..EACH {
                        tx.blocking_send(body(2 * n + sender, 40)).unwrap();
                        if n % 50 == 0 {
                            thread::sleep(Duration::from_micros(300));
                        }
                    }
                })
            })
            .collect();
        drop(channel);
        let (mut all, mut cancelled) = (vec![], 0);
        for task in tasks {
            let (got, its) = task.await.unwrap();
            all.extend(got);
            cancelled += its;
        }
        for sender in senders {
            sender.join().unwrap();
        }
        assert_each_once(all, 2 * EACH);
        assert!(cancelled > 100, "{cancelled}");
    });
}

#[test]
fn a_time_out_loses_nothing() {
    within_tokio(120, || async {
        const COUNT: u64 = 3_000;
        let (_dir, channel) = small_channel();
        let mut rx = channel.subscribe("g").await.unwrap();
        let tx = channel.sender();
        drop(channel);
        let sender = tokio::spawn(async move {
            for n in 0..COUNT {
                tx.send(body(n, 40)).await.unwrap();
                if n % 30 == 0 {
                    tokio::time::sleep(Duration::from_micros(1500)).await;
                }
            }
        });
        let (mut next, mut timeouts) = (0, 0);
        loop {
            match tokio::time::timeout(Duration::from_micros(300), rx.recv()).await {
                Ok(Ok(m)) => {
                    assert_eq!(number(&m), next);
                    next += 1;
                }
                Ok(Err(error)) => {
                    assert_eq!(error, RecvError::Disconnected);
                    break;
                }
                Err(_) => timeouts += 1,
            }
        }
        sender.await.unwrap();
        assert_eq!(next, COUNT);
        assert!(timeouts > 0);
    });
}

/// Sends that are dropped while the ring is full are not sent; all others are, once.
#[test]
fn sends_dropped_at_every_poll_on_a_full_ring() {
    within(120, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let (cancelled, sending) = (AtomicUsize::new(0), AtomicBool::new(true));
        let (sent, got) = thread::scope(|scope| {
            let senders: Vec<_> = (0..3)
                .map(|sender| {
                    let (tx, cancelled) = (channel.sender(), &cancelled);
                    scope.spawn(move || {
                        let mut rng = Rng::new(sender);
                        let mut sent = vec![];
                        let mut next = 0;
                        while cancelled.load(Ordering::Relaxed) < CANCELLED {
                            let n = 3 * next + sender;
                            next += 1;
                            let message = body(n, 8 + rng.below(4000) as usize);
                            let result = if rng.one_in(4) {
                                let mut reserved = tx.reserve(message.len()).unwrap();
                                reserved.copy_from_slice(&message);
                                poll_and_drop(reserved.commit(), &mut rng)
                            } else {
                                poll_and_drop(tx.send(&message), &mut rng)
                            };
                            match result {
                                Some(offset) => sent.push((offset.unwrap(), n)),
                                None => drop(cancelled.fetch_add(1, Ordering::Relaxed)),
                            }
                        }
                        sent
                    })
                })
                .collect();
            let receiver = scope.spawn(|| {
                let (mut rng, mut got) = (Rng::new(77), vec![]);
                loop {
                    let last = !sending.load(Ordering::SeqCst);
                    match rx.try_recv() {
                        Ok(m) => got.push((m.offset(), number(&m))),
                        Err(_) if last => return got,
                        Err(_) => pause(&mut rng),
                    }
                    if rng.one_in(20) {
                        thread::sleep(Duration::from_micros(rng.below(200)));
                    }
                }
            });
            let mut sent: Vec<_> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
            sending.store(false, Ordering::SeqCst);
            sent.sort();
            (sent, receiver.join().unwrap())
        });
        assert!(sent.len() > 500, "{}", sent.len());
        assert_eq!(got.len(), sent.len());
        assert_eq!(got, sent);
        assert_eq!(channel.groups()[0].lag, 0);
    });
}

/// A batch that is dropped half-way was sent up to some message and not behind it.
#[test]
fn a_dropped_batch_is_sent_up_to_a_message() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let tx = channel.sender();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let mut partly = 0;
        for round in 0..100 {
            let batch: Vec<_> = (0..100).map(|n| body(round * 100 + n, 3000)).collect();
            let mut future = Box::pin(tx.send_many(&batch));
            let mut taken = vec![];
            for _ in 0..round % 4 + 1 {
                match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(offsets) => assert_eq!(offsets.unwrap().len(), 100),
                    Poll::Pending => taken.extend((0..7).map_while(|_| rx.try_recv().ok().map(|m| number(&m)))),
                }
            }
            drop(future);
            taken.extend(drain_numbers(&mut rx));
            assert_eq!(taken, (round * 100..round * 100 + taken.len() as u64).collect::<Vec<_>>());
            partly += u64::from((1..100).contains(&taken.len()));
        }
        assert!(partly > 50, "{partly}");
    });
}

/// The same for the wake of a sender: room that a dropped send was told of goes to another that waits.
#[test]
fn a_dropped_send_passes_its_wake_on() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let (first, second) = (channel.sender(), channel.sender());
        let mut next = 0;
        let start = Instant::now();
        for round in 0..200 {
            next += fill(&channel, next, 3000);
            let wakers = [CountingWaker::new(), CountingWaker::new()];
            let mut futures = [&first, &second].map(|tx| Some(Box::pin(tx.send(body(next, 3000)))));
            for (future, (_, waker)) in futures.iter_mut().zip(&wakers) {
                assert!(future.as_mut().unwrap().as_mut().poll(&mut Context::from_waker(waker)).is_pending());
            }
            while rx.try_recv().is_ok() {}
            common::eventually("a sender is woken", || wakers.iter().any(|(count, _)| count.count() > 0));
            let woken = usize::from(wakers[0].0.count() == 0);
            futures[woken] = None;
            let other = 1 - woken;
            common::eventually("the other sender is woken", || wakers[other].0.count() > 0);
            let mut left = futures[other].take().unwrap();
            assert!(left.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready(), "round {round}");
            assert_eq!(drain_numbers(&mut rx), [next]);
            next += 1;
        }
        without_a_timed_look(start, 200);
    });
}

#[test]
fn a_dropped_open_or_subscribe_leaves_nothing_half_done() {
    within_tokio(60, || async {
        let dir = common::Dir::new();
        for _ in 0..20 {
            let _ = common::poll_once(common::small().open(dir.file()));
        }
        let channel = common::small().open(dir.file()).await.unwrap();
        for _ in 0..20 {
            let _ = common::poll_once(channel.subscribe("g"));
            let _ = common::poll_once(channel.subscribe_from("h", disk_chan::Start::Newest));
        }
        channel.sender().send(body(0, 30)).await.unwrap();
        let mut rx = channel.subscribe("g").await.unwrap();
        assert_eq!(drain_numbers(&mut rx), [0]);
        drop((rx, channel));
        common::eventually("the opens that nobody waited for are closed", || {
            common::small().blocking_open(dir.file()).unwrap().stats().opens == 1
        });
    });
}
