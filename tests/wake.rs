//! Who waits costs nothing and is woken at once.

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::{
    assert_each_once, body, drain_numbers, fill, number, open_new, small, small_channel, within, within_tokio,
};
use disk_chan::{Channel, Receiver, RecvError, SendError, Sender};

const ROUNDS: u64 = 1_000;

/// Two channels, there and back.
fn there_and_back() -> ([common::Dir; 2], Ends, Ends) {
    let ((one, there), (two, back)) = (small_channel(), small_channel());
    let ends = |out: &Channel, home: &Channel| (out.sender(), home.blocking_subscribe("g").unwrap());
    let (here, far) = (ends(&there, &back), ends(&back, &there));
    ([one, two], here, far)
}

type Ends = (Sender, Receiver);

fn serve_blocking((tx, mut rx): Ends) {
    for n in 0..ROUNDS {
        tx.blocking_send(body(n, 40)).unwrap();
        assert_eq!(number(&rx.blocking_recv().unwrap()), n);
    }
}

fn return_blocking((tx, mut rx): Ends) {
    for _ in 0..ROUNDS {
        let m = rx.blocking_recv().unwrap();
        tx.blocking_send(&*m).unwrap();
    }
}

async fn serve((tx, mut rx): Ends) {
    for n in 0..ROUNDS {
        tx.send(body(n, 40)).await.unwrap();
        assert_eq!(number(&rx.recv().await.unwrap()), n);
    }
}

async fn give_back((tx, mut rx): Ends) {
    for _ in 0..ROUNDS {
        let m = rx.recv().await.unwrap();
        tx.send(&*m).await.unwrap();
    }
}

/// Far less than a timed look every 50 ms would need, far more than a wake does.
fn prompt(start: Instant) {
    assert!(start.elapsed() < Duration::from_millis(5) * ROUNDS as u32, "{ROUNDS} rounds took {:?}", start.elapsed());
}

#[test]
fn ping_pong_between_threads() {
    within(60, || {
        let (_dirs, here, there) = there_and_back();
        let start = Instant::now();
        let other = thread::spawn(move || return_blocking(there));
        serve_blocking(here);
        other.join().unwrap();
        prompt(start);
    });
}

#[test]
fn ping_pong_between_tasks() {
    for workers in [1, 2] {
        within(60, move || {
            let (_dirs, here, there) = there_and_back();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).build().unwrap();
            let start = Instant::now();
            let other = runtime.spawn(give_back(there));
            runtime.block_on(runtime.spawn(serve(here))).unwrap();
            runtime.block_on(other).unwrap();
            prompt(start);
        });
    }
}

#[test]
fn ping_pong_between_a_thread_and_a_task() {
    within(60, || {
        let (_dirs, here, there) = there_and_back();
        let start = Instant::now();
        let other = thread::spawn(move || return_blocking(there));
        smol::block_on(serve(here));
        other.join().unwrap();
        let (_dirs, here, there) = there_and_back();
        let other = thread::spawn(move || smol::block_on(give_back(there)));
        serve_blocking(here);
        other.join().unwrap();
        prompt(start);
    });
}

/// Each message comes after the receiver has gone to sleep.
#[test]
fn a_message_sent_after_the_receiver_parked() {
    within_tokio(60, || async {
        let (_dir, channel) = small_channel();
        for round in 0..40 {
            let mut rx = channel.subscribe("g").await.unwrap();
            let waiting = if round % 2 == 0 {
                tokio::task::spawn_blocking(move || number(&rx.blocking_recv().unwrap()))
            } else {
                tokio::spawn(async move { number(&rx.recv().await.unwrap()) })
            };
            tokio::time::sleep(Duration::from_millis(20)).await;
            channel.sender().send(body(round, 40)).await.unwrap();
            assert_eq!(waiting.await.unwrap(), round);
        }
    });
}

/// Twenty threads and twenty tasks wait for one message each: each send wakes one of them.
#[test]
fn as_many_wake_as_there_are_messages() {
    within_tokio(60, || async {
        for batch in [false, true] {
            let (_dir, channel) = open_new(small().max_held(64));
            let rx = channel.subscribe("g").await.unwrap();
            let mut waiting = vec![];
            for _ in 0..20 {
                let (mut blocked, mut awaiting) = (rx.clone(), rx.clone());
                waiting.push(tokio::task::spawn_blocking(move || number(&blocked.blocking_recv().unwrap())));
                waiting.push(tokio::spawn(async move { number(&awaiting.recv().await.unwrap()) }));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let tx = channel.sender();
            if batch {
                tx.send_many(&(0..40).map(|n| body(n, 40)).collect::<Vec<_>>()).await.unwrap();
            } else {
                for n in 0..40 {
                    tx.send(body(n, 40)).await.unwrap();
                }
            }
            let mut got = vec![];
            for waiting in waiting {
                got.push(waiting.await.unwrap());
            }
            assert_each_once(got, 40);
        }
    });
}

/// One batch is enough for all who wait: who takes a message and sees more passes the wake on.
#[test]
fn a_batch_wakes_as_many_as_it_has_messages() {
    within_tokio(60, || async {
        const WAITING: u64 = 24;
        let (_dir, channel) = small_channel();
        let rx = channel.subscribe("g").await.unwrap();
        let mut took = Duration::ZERO;
        for _ in 0..10 {
            let wait = |n: u64| {
                let mut rx = rx.clone();
                if n.is_multiple_of(2) {
                    tokio::task::spawn_blocking(move || number(&rx.blocking_recv().unwrap()))
                } else {
                    tokio::spawn(async move { number(&rx.recv().await.unwrap()) })
                }
            };
            let waiting: Vec<_> = (0..WAITING).map(wait).collect();
            tokio::time::sleep(Duration::from_millis(50)).await;
            let start = Instant::now();
            channel.sender().send_many(&(0..WAITING).map(|n| body(n, 40)).collect::<Vec<_>>()).await.unwrap();
            let mut got = vec![];
            for waiting in waiting {
                got.push(waiting.await.unwrap());
            }
            took += start.elapsed();
            assert_each_once(got, WAITING);
        }
        // One more every 50 ms would take 12 s.
        assert!(took < Duration::from_secs(4), "{took:?}");
    });
}

#[test]
fn every_group_wakes() {
    within_tokio(60, || async {
        let (_dir, channel) = small_channel();
        for round in 0..50 {
            let mut waiting = vec![];
            for group in 0..8 {
                let mut rx = channel.subscribe(group).await.unwrap();
                waiting.push(if (group + round) % 2 == 0 {
                    tokio::task::spawn_blocking(move || number(&rx.blocking_recv().unwrap()))
                } else {
                    tokio::spawn(async move { number(&rx.recv().await.unwrap()) })
                });
            }
            if round % 5 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            channel.sender().send(body(round as u64, 40)).await.unwrap();
            for waiting in waiting {
                assert_eq!(waiting.await.unwrap(), round as u64);
            }
        }
    });
}

/// Sending and going to sleep meet at every moment: no wake is missed.
#[test]
fn no_wake_is_missed() {
    within(90, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let start = Instant::now();
        let receiver = thread::spawn(move || {
            for n in 0..20_000 {
                assert_eq!(number(&rx.blocking_recv().unwrap()), n);
            }
        });
        for n in 0..20_000 {
            tx.blocking_send(body(n, 40)).unwrap();
            for _ in 0..n % 300 {
                std::hint::spin_loop();
            }
            if n % 16 == 0 {
                thread::yield_now();
            }
        }
        receiver.join().unwrap();
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    });
}

#[test]
fn one_page_ping_pong_of_a_full_ring() {
    within(90, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        // One message is a page: each send waits until the one before the last is done.
        let len = channel.max_message_len() * 2 / 3;
        let start = Instant::now();
        let sender = thread::spawn(move || common::send(&tx, 0..ROUNDS, len));
        for n in 0..ROUNDS {
            assert_eq!(number(&rx.blocking_recv().unwrap()), n);
        }
        sender.join().unwrap();
        prompt(start);
    });
}

#[test]
fn one_page_ping_pong_of_a_full_ring_with_tasks() {
    within(90, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let len = channel.max_message_len() * 2 / 3;
        let start = Instant::now();
        smol::block_on(async {
            let sender = smol::spawn(async move {
                for n in 0..ROUNDS {
                    tx.send(body(n, len)).await.unwrap();
                }
            });
            for n in 0..ROUNDS {
                let lease = rx.lease().await.unwrap();
                assert_eq!(number(&lease), n);
                lease.ack().unwrap();
            }
            sender.await;
        });
        prompt(start);
    });
}

/// Senders in every form that wait for room in a full ring.
fn waiting_senders(channel: &Channel, from: u64) -> Vec<thread::JoinHandle<Result<(), SendError>>> {
    let senders = (0..6).map(|n| {
        let tx = channel.sender();
        let message = body(from + n, 1000);
        thread::spawn(move || match n % 3 {
            0 => tx.blocking_send(message).map(drop),
            1 => smol::block_on(tx.send(message)).map(drop),
            _ => tx.blocking_send_many(&[message]).map(drop).map_err(|error| error.error),
        })
    });
    let senders: Vec<_> = senders.collect();
    thread::sleep(Duration::from_millis(100));
    assert!(senders.iter().all(|sender| !sender.is_finished()), "they wait");
    senders
}

fn join(senders: Vec<thread::JoinHandle<Result<(), SendError>>>, expected: Result<(), SendError>) {
    for sender in senders {
        assert_eq!(sender.join().unwrap(), expected);
    }
}

#[test]
fn waiting_senders_wake_when_messages_are_done() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        for by_lease in [false, true] {
            let sent = fill(&channel, 0, 1000);
            let senders = waiting_senders(&channel, sent);
            for n in 0..sent {
                if by_lease {
                    let lease = rx.blocking_lease().unwrap();
                    assert_eq!(number(&lease), n);
                    lease.ack().unwrap();
                } else {
                    assert_eq!(number(&rx.blocking_recv().unwrap()), n);
                }
            }
            join(senders, Ok(()));
            assert_eq!(drain_numbers(&mut rx).len(), 6);
        }
    });
}

#[test]
fn waiting_senders_wake_when_the_slow_group_is_removed() {
    within(60, || {
        for force in [false, true] {
            let (_dir, channel) = small_channel();
            let mut rx = channel.blocking_subscribe("reads").unwrap();
            let mut slow = channel.blocking_subscribe("slow").unwrap();
            let sent = fill(&channel, 0, 1000);
            assert_eq!(drain_numbers(&mut rx).len() as u64, sent);
            let lease = force.then(|| slow.try_lease().unwrap());
            let senders = waiting_senders(&channel, sent);
            channel.remove_group("slow", force).unwrap();
            join(senders, Ok(()));
            drop(lease);
            assert_eq!(drain_numbers(&mut rx).len(), 6);
        }
    });
}

#[test]
fn waiting_senders_wake_when_the_channel_is_closed() {
    within(60, || {
        for group in [true, false] {
            let (_dir, channel) = small_channel();
            if group {
                channel.blocking_subscribe("g").unwrap();
            }
            let sent = fill(&channel, 0, 1000);
            let senders = waiting_senders(&channel, sent);
            let timed = channel.sender();
            let timed = thread::spawn(move || timed.send_timeout(vec![0; 1000], common::PATIENCE));
            channel.close();
            join(senders, Err(SendError::Closed));
            assert!(!timed.join().unwrap().unwrap_err().is_timeout());
            assert_eq!(drain_numbers(&mut channel.blocking_subscribe("g").unwrap()), (0..sent).collect::<Vec<_>>());
        }
    });
}

#[test]
fn senders_that_wait_for_a_first_group_get_room_when_it_reads() {
    within(60, || {
        let (_dir, channel) = small_channel();
        let sent = fill(&channel, 0, 1000);
        let senders = waiting_senders(&channel, sent);
        let mut rx = channel.blocking_subscribe("g").unwrap();
        for _ in 0..sent + 6 {
            number(&rx.blocking_recv().unwrap());
        }
        join(senders, Ok(()));
    });
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// 50 threads and 200 tasks wait for messages, 10 threads and 50 tasks for room. In a process of its own, so that the
/// time is theirs.
#[test]
fn waiting_costs_no_time() {
    if common::child_argument().is_none() {
        return common::run_in_child("waiting_costs_no_time", "");
    }
    within(60, || {
        let (_dir, channel) = small_channel();
        let (_full_dir, full) = small_channel();
        let mut full_rx = full.blocking_subscribe("g").unwrap();
        let sent = fill(&full, 0, 1000);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let mut threads = vec![];
        let mut tasks = vec![];
        for n in 0..200 {
            let mut rx = channel.blocking_subscribe(n % 7).unwrap();
            let (tx, message) = (full.sender(), body(sent + n, 1000));
            if n % 4 == 0 {
                let mut rx = rx.clone();
                threads.push(thread::spawn(move || assert!(rx.blocking_recv().is_err())));
                tasks.push(runtime.spawn(async move { assert!(tx.send(message).await.is_ok()) }));
            } else if n % 20 == 1 {
                threads.push(thread::spawn(move || assert!(tx.blocking_send(message).is_ok())));
            }
            tasks.push(
                runtime.spawn(async move { assert_eq!(rx.recv().await.map(drop), Err(RecvError::Disconnected)) }),
            );
        }
        assert!(threads.len() == 60 && tasks.len() == 250, "{} {}", threads.len(), tasks.len());
        thread::sleep(Duration::from_millis(500));
        let before = cpu_time();
        let start = Instant::now();
        thread::sleep(Duration::from_secs(1));
        let (used, of) = (cpu_time() - before, start.elapsed());
        println!("{used:?} of {of:?}");
        assert!(used < of / 5, "{used:?} of {of:?}");
        drop(channel);
        for _ in 0..sent + 60 {
            drop(full_rx.blocking_recv().unwrap());
        }
        for thread in threads {
            thread.join().unwrap();
        }
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
    });
}
