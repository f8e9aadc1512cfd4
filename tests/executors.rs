//! The futures run on any executor, and leave their worker to others now and then.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{Dir, assert_each_once, body, number, open_new, small, within};
use disk_chan::{Channel, Options, Receiver, RecvError, Sender};
use futures::StreamExt;

const COUNT: u64 = 3_000;

async fn sends(tx: Sender, from: u64) {
    for n in (from..COUNT).step_by(2) {
        tx.send(body(n, 300)).await.unwrap();
    }
}

async fn receives(mut rx: Receiver) -> Vec<u64> {
    let mut got = vec![];
    loop {
        match rx.recv().await {
            Ok(m) => got.push(number(&m)),
            Err(RecvError::Disconnected) => return got,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn leases(mut rx: Receiver) -> Vec<u64> {
    let mut got = vec![];
    while let Ok(lease) = rx.lease().await {
        if lease.attempts() == 1 && number(&lease).is_multiple_of(10) {
            lease.give_back().unwrap();
        } else {
            got.push(number(&lease));
            lease.ack().unwrap();
        }
    }
    got
}

async fn streams(rx: Receiver) -> Vec<u64> {
    rx.into_stream().map(|m| number(&m)).collect().await
}

/// The same small program for every executor: two senders, one group of two receivers, one of leases, one of a stream.
/// Opening and subscribing are part of it.
macro_rules! program {
    ($dir:expr, $spawn:expr, $join:expr) => {{
        let channel: Channel = small().open($dir.file()).await.unwrap();
        let shared = channel.subscribe("shared").await.unwrap();
        let receivers = [
            $spawn(receives(shared.clone())),
            $spawn(receives(shared)),
            $spawn(leases(channel.subscribe("leased").await.unwrap())),
            $spawn(streams(channel.subscribe_from("streamed", disk_chan::Start::Oldest).await.unwrap())),
        ];
        let senders = [$spawn(sends(channel.sender(), 0)), $spawn(sends(channel.sender(), 1))];
        drop(channel);
        for sender in senders {
            $join(sender.await);
        }
        let mut got = vec![];
        for receiver in receivers {
            got.push($join(receiver.await));
        }
        let [first, second, leased, streamed] = got.try_into().unwrap();
        assert_each_once(first.into_iter().chain(second), COUNT);
        assert_each_once(leased, COUNT);
        assert_each_once(streamed, COUNT);
    }};
}

fn is<T>(value: T) -> T {
    value
}

#[test]
fn tokio_with_several_threads() {
    within(60, || {
        let dir = Dir::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async { program!(dir, tokio::spawn, |joined: Result<_, _>| joined.unwrap()) });
    });
}

#[test]
fn tokio_with_one_thread() {
    within(60, || {
        let dir = Dir::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { program!(dir, tokio::spawn, |joined: Result<_, _>| joined.unwrap()) });
    });
}

#[test]
fn smol_with_its_own_threads() {
    within(60, || {
        let dir = Dir::new();
        smol::block_on(async { program!(dir, smol::spawn, is) });
    });
}

#[test]
fn a_local_executor_in_one_thread() {
    within(60, || {
        let dir = Dir::new();
        let executor = smol::LocalExecutor::new();
        let spawn = |future| executor.spawn(future);
        smol::block_on(executor.run(async {
            let channel = small().open(dir.file()).await.unwrap();
            let rx = channel.subscribe("g").await.unwrap();
            let receiver = spawn(receives(rx));
            let (even, odd) = (channel.sender(), channel.sender());
            drop(channel);
            futures::join!(sends(even, 0), sends(odd, 1));
            assert_each_once(receiver.await, COUNT);
        }));
    });
}

#[test]
fn futures_without_any_executor() {
    within(60, || {
        let dir = Dir::new();
        let channel = futures::executor::block_on(small().open(dir.file())).unwrap();
        let rx = futures::executor::block_on(channel.subscribe("g")).unwrap();
        let (even, odd) = (channel.sender(), channel.sender());
        drop(channel);
        let sending = async {
            futures::join!(sends(even, 0), sends(odd, 1));
        };
        let (got, ()) = futures::executor::block_on(async {
            futures::join!(receives(rx), async {
                sending.await;
            })
        });
        assert_each_once(got, COUNT);
    });
}

#[test]
fn a_sender_on_one_executor_and_a_receiver_on_another() {
    within(60, || {
        let dir = Dir::new();
        let channel = small().blocking_open(dir.file()).unwrap();
        let rx = channel.blocking_subscribe("g").unwrap();
        let (even, odd) = (channel.sender(), channel.sender());
        drop(channel);
        let receiver = std::thread::spawn(|| smol::block_on(receives(rx)));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let sender = runtime.spawn(sends(even, 0));
        smol::block_on(smol::spawn(sends(odd, 1)));
        runtime.block_on(sender).unwrap();
        assert_each_once(receiver.join().unwrap(), COUNT);
    });
}

const READY: u64 = 100_000;

/// A channel with many messages that are all there.
fn with_ready_messages() -> (Dir, Channel) {
    let options = Options::new().page_size(4 << 20).max_pages(3).max_groups(4).max_op_cells(32).max_opens(4);
    let (dir, channel) = open_new(options);
    let tx = channel.sender();
    for n in 0..READY {
        tx.try_send(body(n, 8)).unwrap();
    }
    (dir, channel)
}

/// How often another task of the same thread ran while `busy` did.
fn runs_beside(busy: impl AsyncFnOnce(Sender, Receiver)) -> u64 {
    let (_dir, channel) = with_ready_messages();
    let (tx, rx) = (channel.sender(), channel.blocking_subscribe("g").unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (runs, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let its = (runs.clone(), stop.clone());
    runtime.block_on(async {
        let other = tokio::spawn(async move {
            while !its.1.load(Ordering::Relaxed) {
                its.0.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        tokio::task::yield_now().await;
        let before = runs.load(Ordering::Relaxed);
        busy(tx, rx).await;
        let ran = runs.load(Ordering::Relaxed) - before;
        stop.store(true, Ordering::Relaxed);
        other.await.unwrap();
        ran
    })
}

#[test]
fn a_busy_receiver_lets_other_tasks_run() {
    within(60, || {
        let ran = runs_beside(async |_tx, mut rx| {
            for n in 0..READY {
                assert_eq!(number(&rx.recv().await.unwrap()), n);
            }
        });
        assert!(ran >= READY / 1000, "{ran}");
    });
}

#[test]
fn a_busy_stream_lets_other_tasks_run() {
    within(60, || {
        let ran = runs_beside(async |_tx, rx| {
            let got = rx.into_stream().take(READY as usize).map(|m| number(&m)).collect::<Vec<_>>().await;
            assert_eq!(got, (0..READY).collect::<Vec<_>>());
        });
        assert!(ran >= READY / 1000, "{ran}");
    });
}

#[test]
fn a_busy_lease_taker_lets_other_tasks_run() {
    within(60, || {
        let ran = runs_beside(async |_tx, mut rx| {
            for n in 0..READY {
                let lease = rx.lease().await.unwrap();
                assert_eq!(number(&lease), n);
                lease.ack().unwrap();
            }
        });
        assert!(ran >= READY / 1000, "{ran}");
    });
}

#[test]
fn a_busy_taker_of_many_lets_other_tasks_run() {
    within(60, || {
        let ran = runs_beside(async |_tx, mut rx| {
            let mut got = 0;
            while got < READY {
                got += rx.recv_many(10).await.unwrap().len() as u64;
            }
        });
        assert!(ran >= READY / 10_000, "{ran}");
    });
}

#[test]
fn a_busy_sender_and_receiver_let_other_tasks_run() {
    within(60, || {
        let ran = runs_beside(async |tx, mut rx| {
            assert_eq!(rx.try_iter().count() as u64, READY);
            for n in 0..READY {
                tx.send(body(n, 8)).await.unwrap();
                assert_eq!(number(&rx.recv().await.unwrap()), n);
            }
        });
        assert!(ran >= READY / 1000, "{ran}");
    });
}
