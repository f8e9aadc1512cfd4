//! `lease_timeout`: a lease is taken from a live but stuck holder, whose late `ack` changes nothing.

mod common;

use common::{Dir, body, drain_numbers, number, open_new, send, small, within};
use disk_chan::{AckError, Create, GroupStats, OpenError, Options, Overflow, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_millis(60);

fn options() -> Options {
    small().lease_timeout(TIMEOUT)
}

fn stats(channel: &disk_chan::Channel) -> GroupStats {
    channel.groups().pop().unwrap()
}

#[test]
fn an_overdue_lease_goes_to_a_receiver_that_waits() {
    within(60, || {
        let (_dir, channel) = open_new(options());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), [1], 64);
        let stuck = rx.blocking_lease().unwrap();
        let began = Instant::now();
        let again = rx.blocking_lease().unwrap();
        assert!(began.elapsed() >= TIMEOUT - Duration::from_millis(10), "taken away after {:?}", began.elapsed());
        assert_eq!((number(&again), again.attempts(), again.offset()), (1, 2, stuck.offset()));
        assert_eq!(stuck.ack(), Err(AckError::Taken));
        let now = stats(&channel);
        assert_eq!((now.held, now.returned, now.lag, now.redelivered), (1, 0, 1, 1), "a late ack changed something");
        again.ack().unwrap();
        assert_eq!(stats(&channel).lag, 0);
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    });
}

#[test]
fn an_overdue_lease_goes_to_a_receiver_that_polls() {
    within(60, || {
        let (_dir, channel) = open_new(options());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), [1, 2], 64);
        let stuck = rx.try_lease().unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            match rx.try_recv() {
                Ok(m) => seen.push((number(&m), m.attempts())),
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(seen, [(2, 1), (1, 2)]);
        assert_eq!(stuck.give_back(), Err(AckError::Taken));
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    });
}

/// The taker is in time and the holder late, over many leases at once; each message is done once.
#[test]
fn every_message_is_done_by_one_of_holder_and_taker() {
    within(120, || {
        let (_dir, channel) = open_new(options().max_held(64).lease_timeout(Duration::from_millis(2)));
        let count = 2000;
        let rx = channel.blocking_subscribe("g").unwrap();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let mut rx = rx.clone();
                thread::spawn(move || {
                    let (mut done, mut late) = (Vec::new(), 0);
                    while let Ok(lease) = rx.blocking_lease() {
                        if number(&lease).is_multiple_of(100) && lease.attempts() < 3 {
                            thread::sleep(Duration::from_millis(70));
                        }
                        let n = number(&lease);
                        match lease.ack() {
                            Ok(()) => done.push(n),
                            Err(AckError::Taken) => late += 1,
                            Err(other) => panic!("{other}"),
                        }
                    }
                    (done, late)
                })
            })
            .collect();
        drop(rx);
        send(&channel.sender(), 0..count, 64);
        while stats(&channel).lag > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        channel.close();
        let (mut done, mut late) = (Vec::new(), 0);
        for worker in workers {
            let (n, l) = worker.join().unwrap();
            done.extend(n);
            late += l;
        }
        common::assert_each_once(done, count);
        assert!(late > 0, "nobody was late");
        assert_eq!(stats(&channel).redelivered, late);
    });
}

/// What is received by reference is never taken away: its bytes are in use where they lie.
#[test]
fn a_message_is_not_taken_away() {
    within(60, || {
        for overflow in [Overflow::Block, Overflow::DropOldest] {
            let (_dir, channel) = open_new(options().overflow(overflow));
            let mut rx = channel.blocking_subscribe("g").unwrap();
            let mut other = rx.clone();
            send(&channel.sender(), [1, 2], 64);
            let message = rx.blocking_recv().unwrap();
            let until = Instant::now() + 3 * TIMEOUT;
            assert_eq!(number(&other.try_recv().unwrap()), 2);
            while Instant::now() < until {
                assert_eq!(other.try_recv().unwrap_err(), TryRecvError::Empty);
            }
            assert_eq!(number(&message), 1);
        }
    });
}

/// A sender that waits for room is let on by the taking: the message is done by another.
#[test]
fn a_stuck_lease_does_not_hold_up_the_ring() {
    within(60, || {
        let (_dir, channel) = open_new(options());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let sent = common::fill(&channel, 0, 1000);
        let stuck = rx.blocking_lease().unwrap();
        let sender = thread::spawn(move || send(&tx, sent..sent + 500, 1000));
        let mut got: Vec<u64> = Vec::new();
        while got.len() < sent as usize + 500 {
            got.push(number(&rx.blocking_recv().unwrap()));
        }
        sender.join().unwrap();
        common::assert_each_once(got, sent + 500);
        assert_eq!(stuck.ack(), Err(AckError::Taken));
    });
}

/// Under `DropOldest` the page of an overdue lease may have gone: then the message is counted as gone.
#[test]
fn an_overdue_lease_of_a_page_that_went_is_gone() {
    within(60, || {
        let (_dir, channel) = open_new(options().overflow(Overflow::DropOldest));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        send(&tx, [0], 1000);
        let stuck = rx.blocking_lease().unwrap();
        send(&tx, 1..300, 1000);
        assert!(channel.stats().first_offset > stuck.offset());
        common::eventually("the lease is taken away", || {
            let _ = rx.try_recv();
            stats(&channel).gone == 1
        });
        assert_eq!(stuck.ack(), Err(AckError::Taken));
        let now = stats(&channel);
        assert_eq!((now.gone, now.held, now.returned), (1, 0, 0));
    });
}

#[test]
fn it_is_stored_in_the_file() {
    let dir = Dir::new();
    drop(options().blocking_open(dir.file()).unwrap());
    let other = small().lease_timeout(Duration::from_secs(1)).blocking_open(dir.file()).unwrap_err();
    match other {
        OpenError::Mismatch { option, found, expected, .. } => {
            assert_eq!((option, found, expected), ("lease_timeout", 60, 1000));
        }
        other => panic!("{other:?}"),
    }
    let channel = Options::new().create(Create::OpenExisting).blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    channel.sender().blocking_send(body(1, 8)).unwrap();
    let _stuck = rx.blocking_lease().unwrap();
    assert_eq!(rx.blocking_recv().unwrap().attempts(), 2);
    assert!(drain_numbers(&mut rx).is_empty());
}

#[test]
fn it_has_limits() {
    for days in [13, 100, 100_000] {
        let dir = Dir::new();
        let timeout = Duration::from_secs(days * 86_400);
        match small().lease_timeout(timeout).blocking_open(dir.file()).unwrap_err() {
            OpenError::InvalidOption { option, .. } => assert_eq!(option, "lease_timeout"),
            other => panic!("{other:?}"),
        }
    }
}
