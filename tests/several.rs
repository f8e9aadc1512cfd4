//! Messages that are received together: how many are out, and what becomes of them one by one.

mod common;

use common::{Dir, body, child_argument, drain, drain_numbers, number, open_new, run_in_child, send, small, within};
use disk_chan::{Channel, Lease, Message, Overflow, Receiver, TryRecvError};
use std::mem;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

fn numbers(many: &[Message<'_>]) -> Vec<u64> {
    many.iter().map(|m| number(m)).collect()
}

/// Leases as long as it may.
fn leases(rx: &mut Receiver) -> Vec<Lease> {
    let mut leases = Vec::new();
    loop {
        match rx.try_lease() {
            Ok(lease) => leases.push(lease),
            Err(TryRecvError::TooManyHeld { held, max, .. }) => {
                assert_eq!(held, max);
                return leases;
            }
            Err(error) => panic!("after {}: {error}", leases.len()),
        }
    }
}

fn held(channel: &Channel) -> [usize; 2] {
    let group = &channel.groups()[0];
    [group.held, group.returned]
}

#[test]
fn no_more_are_out_than_may_be_however_they_are_received() {
    within(60, || {
        for max in [3, 31, 32, 63, 64, 65, 95, 96, 130] {
            let (_dir, channel) = open_new(small().max_held(max));
            let (mut rx, mut other) =
                (channel.blocking_subscribe("g").unwrap(), channel.blocking_subscribe("g").unwrap());
            send(&channel.sender(), 0..500, 20);
            for first in [1, 2, 10, 33, 100, max] {
                let many = rx.blocking_recv_many(first).unwrap();
                assert_eq!(many.len(), first.min(max), "of {max}");
                let mut rest = leases(&mut other);
                assert_eq!(many.len() + rest.len(), max);
                drop(many);
                assert_eq!(held(&channel), [rest.len(), 0]);
                // And the other way round.
                drop(rest.split_off(rest.len() / 2));
                let out = rest.len();
                assert_eq!(rx.blocking_recv_many(max + 9).unwrap().len(), max - out);
                rest.into_iter().for_each(|lease| lease.ack().unwrap());
                assert_eq!(held(&channel), [0, 0]);
                drain_numbers(&mut rx);
                send(&channel.sender(), 0..500, 20);
            }
        }
    });
}

#[test]
fn what_is_forgotten_goes_back_one_by_one_the_lowest_first() {
    within(60, || {
        let (dir, channel) = open_new(small().max_held(96));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), 0..70, 20);
        let mut other = rx.clone();
        let mut many = rx.blocking_recv_many(60).unwrap();
        assert_eq!(numbers(&many), (0..60).collect::<Vec<_>>());
        let done = [3, 17, 31, 32, 59];
        done.iter().rev().for_each(|&n| drop(many.remove(n)));
        assert_eq!(held(&channel), [55, 0]);
        many.into_iter().for_each(mem::forget);
        // They are held until this receiver receives again.
        assert_eq!(number(&other.try_recv().unwrap()), 60);
        let one = rx.try_lease().unwrap();
        assert_eq!((number(&one), one.attempts(), held(&channel)), (0, 2, [1, 54]));
        // By turns with another, and with one that gives it back.
        let two = other.try_lease().unwrap();
        assert_eq!((number(&two), two.attempts()), (1, 2));
        drop(two);
        let two = rx.try_recv().unwrap();
        assert_eq!((number(&two), two.attempts()), (1, 3));
        drop(two);
        one.ack().unwrap();
        // Closed and opened, they are there still.
        drop((rx, other, channel));
        let channel = small().max_held(96).blocking_open(dir.file()).unwrap();
        assert!(channel.recovered().is_none());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        assert_eq!(held(&channel), [0, 53]);
        let many = rx.blocking_recv_many(20).unwrap();
        assert!(many.iter().all(|m| m.attempts() == 2));
        let first: Vec<u64> = (2..60).filter(|&n| !done.contains(&(n as usize))).collect();
        assert_eq!(numbers(&many), first[..20]);
        drop(many);
        let rest: Vec<_> = drain(&mut rx).iter().map(|&(_, n, attempts)| (n, attempts)).collect();
        let old = first[20..].iter().map(|&n| (n, 2));
        assert_eq!(rest, old.chain((61..70).map(|n| (n, 1))).collect::<Vec<_>>());
        assert_eq!(held(&channel), [0, 0]);
        assert_eq!(channel.groups()[0].lag, 0);
    });
}

/// Every claim cell is in use by something else: then what can be taken in its place is, and the rest waits.
#[test]
fn what_is_forgotten_waits_for_a_free_claim_cell() {
    within(60, || {
        let (_dir, channel) = open_new(small().max_held(64));
        let (mut rx, mut other) = (channel.blocking_subscribe("g").unwrap(), channel.blocking_subscribe("g").unwrap());
        send(&channel.sender(), 0..200, 20);
        // One cell has those that were forgotten, and the others are leased.
        rx.blocking_recv_many(10).unwrap().into_iter().for_each(mem::forget);
        let mut out: Vec<Lease> = (0..54).map(|_| other.try_lease().unwrap()).collect();
        drop(rx);
        assert_eq!(held(&channel), [54, 10]);
        out.extend((0..9).map(|_| other.try_lease().unwrap()));
        assert_eq!(out[54..].iter().map(|lease| number(lease)).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
        let full = other.try_lease().unwrap_err();
        assert!(matches!(full, TryRecvError::TooManyHeld { held: 63, max: 64, .. }), "{full}");
        // A later one that has its cell can be had nevertheless, and then the last of the others.
        let back = out.remove(20);
        let n = number(&back);
        drop(back);
        let again = other.try_lease().unwrap();
        assert_eq!((number(&again), again.attempts()), (n, 2));
        again.ack().unwrap();
        let last = other.try_lease().unwrap();
        assert_eq!((number(&last), last.attempts()), (9, 2));
        out.push(last);
        out.into_iter().for_each(|lease| lease.ack().unwrap());
        assert_eq!(drain_numbers(&mut other), (64..200).collect::<Vec<_>>());
    });
}

#[test]
fn they_may_be_done_in_any_thread_and_order() {
    within(60, || {
        let (_dir, channel) = open_new(small().max_held(96));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        for round in 0..50 {
            send(&channel.sender(), 0..60, 500);
            let mut many = rx.blocking_recv_many(60).unwrap();
            assert_eq!(numbers(&many), (0..60).collect::<Vec<_>>());
            thread::scope(|scope| {
                while !many.is_empty() {
                    let mut some = many.split_off(many.len() - many.len().min(7));
                    let start = round % some.len();
                    some.rotate_left(start);
                    scope.spawn(move || some.into_iter().rev().for_each(drop));
                }
            });
            assert_eq!((held(&channel), channel.groups()[0].lag), ([0, 0], 0));
        }
        assert!(channel.stats().page_turns > 10);
    });
}

#[test]
fn one_that_a_panic_drops_is_given_back_with_the_next_receive() {
    within(60, || {
        let (_dir, channel) = open_new(small().max_held(96));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), 0..10, 20);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut many = rx.blocking_recv_many(10).unwrap();
            drop(many.remove(0));
            drop(many.pop());
            panic!("a test");
        }));
        assert!(result.is_err());
        assert_eq!(held(&channel), [8, 0]);
        let again: Vec<_> = drain(&mut rx).iter().map(|&(_, n, attempts)| (n, attempts)).collect();
        assert_eq!(again, (1..9).map(|n| (n, 2)).collect::<Vec<_>>());
    });
}

/// What was taken out is not done, and the cell that had it is used again, while a receiver stands before it.
#[test]
fn what_is_taken_out_is_not_handed_out_by_the_cursor_again() {
    within(60, || {
        let (_dir, channel) = open_new(small().max_held(96));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let (mut late, mut leaser, mut next) = (rx.clone(), rx.clone(), rx.clone());
        let tx = channel.sender();
        let (mut sent, mut in_first) = (0, 0);
        while channel.stats().end_offset.page() == 0 || channel.stats().end_offset.index() < 8 {
            in_first += u64::from(tx.blocking_send(body(sent, 20)).unwrap().page() == 0);
            sent += 1;
        }
        // The last messages of the first page go out together, are forgotten, and are taken out one by one.
        let count = (in_first - 1) % 32 + 1;
        assert!(count > 1);
        (count..in_first).for_each(|_| drop(rx.try_recv().unwrap()));
        rx.blocking_recv_many(count as usize).unwrap().into_iter().for_each(mem::forget);
        drop(rx);
        let out: Vec<_> = (0..count).map(|_| leaser.try_lease().unwrap()).collect();
        channel.blocking_sync().unwrap();
        let more = next.blocking_recv_many(4).unwrap();
        assert_eq!(numbers(&more), (in_first..in_first + 4).collect::<Vec<_>>());
        assert_eq!(number(&late.try_recv().unwrap()), in_first + 4);
        drop((more, out));
    });
}

#[test]
fn as_many_are_out_as_may_be_when_some_of_them_are_done() {
    within(60, || {
        let (_dir, channel) = open_new(small().max_held(64));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let mut other = rx.clone();
        send(&channel.sender(), 0..200, 20);
        let mut many = rx.blocking_recv_many(32).unwrap();
        let mut rest = Vec::new();
        while !many.is_empty() {
            many.truncate(many.len() - 1);
            rest.extend(leases(&mut other));
            assert_eq!(many.len() + rest.len(), 64);
        }
    });
}

/// Damages a message in the file.
fn damage(dir: &Dir, n: u64) {
    let (bytes, message) = (std::fs::read(dir.file()).unwrap(), body(n, 100));
    let at = bytes.windows(100).position(|window| window == message).expect("it is in the file") + 50;
    let file = std::fs::OpenOptions::new().write(true).open(dir.file()).unwrap();
    file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
}

fn go_round(channel: &Channel, rx: &mut Receiver) {
    let turns = channel.stats().page_turns;
    while channel.stats().page_turns < turns + 3 {
        channel.sender().try_send(body(1, 2000)).unwrap();
        assert_eq!(channel.groups()[0].returned, 0);
        drain_numbers(rx);
    }
}

/// All but the last are done when their owner dies: a damaged one among them is counted nevertheless.
#[test]
fn a_damaged_one_is_counted_when_the_owner_dies() {
    if let Some(path) = child_argument() {
        let channel = small().max_held(96).blocking_open(path).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let many = rx.blocking_recv_many(10).unwrap();
        assert_eq!(many.len(), 9);
        many.into_iter().enumerate().for_each(|(n, m)| if n < 8 { drop(m) } else { mem::forget(m) });
        return mem::forget((rx, channel));
    }
    within(60, || {
        let (dir, channel) = open_new(small().max_held(96));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), 0..10, 100);
        damage(&dir, 5);
        run_in_child("a_damaged_one_is_counted_when_the_owner_dies", dir.file().to_str().unwrap());
        let last = rx.blocking_recv().unwrap();
        assert_eq!((number(&last), last.attempts()), (9, 2));
        drop(last);
        go_round(&channel, &mut rx);
        assert_eq!(channel.groups()[0].damaged, 1);
    });
}

/// In a file of `DropOldest` that says nevertheless that messages were given back together.
#[test]
fn nothing_goes_out_together_where_the_oldest_is_dropped() {
    let options = || small().overflow(Overflow::DropOldest).max_held(64);
    if let Some(path) = child_argument() {
        let channel = options().blocking_open(path).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), 0..3, 100);
        let lease = rx.blocking_lease().unwrap();
        return mem::forget((lease, rx, channel));
    }
    within(60, move || {
        let dir = Dir::new();
        run_in_child("nothing_goes_out_together_where_the_oldest_is_dropped", dir.file().to_str().unwrap());
        let bytes = std::fs::read(dir.file()).unwrap();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        // The first claim cell of the first group: HELD, a lease, in its first claim; and the first of the row.
        let (line, held) = (128, 1 << 32 | 1 << 3 | 3);
        let cell = (0..bytes.len()).step_by(line).find(|&at| word(at) & !(0x7fff << 4) == held).expect("a claim cell");
        let file = std::fs::OpenOptions::new().write(true).open(dir.file()).unwrap();
        let row = cell + 32 * line;
        for (at, word) in [(0, 1_u64 << 32 | 7), (8, 0), (48, 1 << 32 | 1 << 5 | 2), (56, 1 << 32)] {
            file.write_all_at(&word.to_le_bytes(), (row + at) as u64).unwrap();
        }
        file.write_all_at(&[0; 8], cell as u64).unwrap();
        let channel = options().blocking_open(dir.file()).unwrap();
        assert_eq!(channel.groups()[0].returned, 0);
        drop(drain(&mut channel.blocking_subscribe("g").unwrap()));
    });
}

/// One of them is damaged on disk: the others come, and its page is used again.
#[test]
fn one_that_does_not_verify_is_left_behind() {
    within(60, || {
        let (dir, channel) = open_new(small().max_held(96));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), 0..20, 100);
        [5, 11].into_iter().for_each(|n| damage(&dir, n));
        let mut many = rx.blocking_recv_many(30).unwrap();
        assert_eq!(numbers(&many), (0..20).filter(|n| ![5, 11].contains(n)).collect::<Vec<_>>());
        assert_eq!(held(&channel)[1], 0);
        drop(many.split_off(9));
        many.into_iter().for_each(mem::forget);
        let again: Vec<_> = drain(&mut rx).iter().map(|&(_, n, attempts)| (n, attempts)).collect();
        assert_eq!(again, [0, 1, 2, 3, 4, 6, 7, 8, 9].map(|n| (n, 2)));
        assert_eq!(held(&channel), [0, 0]);
        go_round(&channel, &mut rx);
        assert_eq!(channel.groups()[0].damaged, 2);
    });
}
