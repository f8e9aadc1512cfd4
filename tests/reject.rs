//! `reject`: a message becomes a dead letter at once, whatever its attempts; once, whoever dies or is late.

mod common;
#[path = "common/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use common::{Dir, Rng, drain_numbers, number, open_new, seed, send, small, within};
use disk_chan::{
    Channel, DeadLetter, GroupStats, Lease, Options, Overflow, Receiver, RejectError, Start, TryRecvError,
};
use process::{Process, open, say};

/// What a child of these tests does.
#[test]
fn child() {
    let Some((role, file)) = process::role() else { return };
    match role[0].as_str() {
        "rejects" => rejects(&file),
        other => panic!("no role {other}"),
    }
}

fn options() -> Options {
    small().max_attempts(3)
}

fn stats(channel: &Channel) -> GroupStats {
    channel.groups().into_iter().find(|g| g.name.as_str() == "g").unwrap()
}

/// What lies among the dead letters, done with: (number in the message, attempts).
fn letters(channel: &Channel) -> Vec<(u64, u32)> {
    let mut dead = channel.blocking_dead_letters().unwrap();
    let parsed = dead.try_iter().map(|message| {
        let letter = DeadLetter::parse(&message).unwrap();
        assert_eq!(letter.group(), "g");
        (number(letter.message()), letter.attempts())
    });
    parsed.collect()
}

fn lease(rx: &mut Receiver, number_and_attempts: (u64, u32)) -> Lease {
    let lease = rx.try_lease().unwrap();
    assert_eq!((number(&lease), lease.attempts()), number_and_attempts);
    lease
}

#[test]
fn at_any_attempt_it_becomes_a_letter_and_does_not_come_again() {
    within(60, || {
        for (overflow, before) in [(Overflow::Block, 0), (Overflow::Block, 2), (Overflow::DropOldest, 1)] {
            let (_dir, channel) = open_new(options().overflow(overflow));
            let mut rx = channel.blocking_subscribe("g").unwrap();
            let mut other = channel.blocking_subscribe("other").unwrap();
            send(&channel.sender(), [7, 8], 64);
            for attempt in 1..=before {
                drop(lease(&mut rx, (7, attempt)));
            }
            let rejected = lease(&mut rx, (7, before + 1));
            let offset = rejected.offset();
            assert_eq!(rejected.reject(), Ok(()));
            let now = stats(&channel);
            assert_eq!((now.lag, now.held, now.returned, now.undeliverable), (1, 0, 0, 0), "{overflow:?}: {now:?}");
            assert_eq!((now.dead_lettered, now.redelivered), (1, before.into()));
            assert_eq!(drain_numbers(&mut rx), [8]);
            let mut dead = channel.blocking_dead_letters().unwrap();
            let message = dead.try_recv().unwrap();
            let letter = DeadLetter::parse(&message).unwrap();
            assert_eq!((letter.offset(), number(letter.message()), letter.attempts()), (offset, 7, 3));
            drop(message);
            assert_eq!(dead.try_recv().unwrap_err(), TryRecvError::Empty);
            assert_eq!(drain_numbers(&mut other), [7, 8], "another group is not concerned");
        }
    });
}

#[test]
fn owned_messages_can_be_rejected() {
    let (_dir, channel) = open_new(options());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..100, 64);
    let mut odd = Vec::new();
    for message in rx.try_iter() {
        match number(&message) {
            n if n % 2 == 1 => odd.push((n, message.reject().map(|()| 3).unwrap())),
            _ => drop(message),
        }
    }
    assert_eq!(letters(&channel), odd);
    assert_eq!((stats(&channel).lag, stats(&channel).dead_lettered), (0, 50));
}

#[test]
fn without_dead_letters_it_is_given_back() {
    let (dir, channel) = open_new(small());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), [7], 64);
    let error = lease(&mut rx, (7, 1)).reject().unwrap_err();
    assert_eq!(error, RejectError::NoDeadLetters);
    assert!(error.to_string().contains("max_attempts"), "{error}");
    lease(&mut rx, (7, 2)).ack().unwrap();
    assert_eq!(dir.entries(), ["test.chan"]);
}

/// The holder is late: the message is another's, and stays that.
#[test]
fn a_late_reject_changes_nothing() {
    within(60, || {
        let (_dir, channel) = open_new(options().lease_timeout(Duration::from_millis(400)));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), [7], 64);
        let stuck = rx.blocking_lease().unwrap();
        let again = rx.blocking_lease().unwrap();
        assert_eq!((number(&again), again.attempts()), (7, 2));
        let before = channel.groups();
        assert_eq!(stuck.reject(), Err(RejectError::Taken));
        assert_eq!(channel.groups(), before);
        again.ack().unwrap();
        assert_eq!(letters(&channel), []);
        assert_eq!(stats(&channel).dead_lettered, 0);
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
    });
}

/// Rejects all, now and then late; how often it was too late.
fn reject_all(mut rx: Receiver) -> usize {
    let mut late = 0;
    while let Ok(lease) = rx.blocking_lease() {
        if number(&lease).is_multiple_of(20) && lease.attempts() == 1 {
            thread::sleep(Duration::from_millis(70));
        }
        match lease.reject() {
            Ok(()) => {}
            Err(RejectError::Taken) => late += 1,
            Err(other) => panic!("{other}"),
        }
    }
    late
}

/// Holders that are late now and then: each message becomes a letter of one of them, or of the attempts.
#[test]
fn holder_and_taker_make_one_letter() {
    within(120, || {
        let options = options().page_size(1 << 20).max_held(64).lease_timeout(Duration::from_millis(2));
        let (_dir, channel) = open_new(options);
        let (rx, count) = (channel.blocking_subscribe("g").unwrap(), 300);
        send(&channel.sender(), 0..count, 64);
        let late: usize = thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| reject_all(rx.clone()))).collect();
            common::eventually("all are letters", || stats(&channel).lag == 0);
            channel.close();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert!(late > 0, "nobody was late");
        common::assert_each_once(letters(&channel).into_iter().map(|(n, _)| n), count);
        assert_eq!(stats(&channel).dead_lettered, count);
    });
}

#[test]
fn what_lies_in_a_page_that_went_is_gone() {
    let (_dir, channel) = open_new(options().overflow(Overflow::DropOldest));
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), [0], 1000);
    let held = lease(&mut rx, (0, 1));
    send(&channel.sender(), 1..300, 1000);
    assert!(channel.stats().first_offset > held.offset());
    assert_eq!(held.reject(), Err(RejectError::Gone));
    let now = stats(&channel);
    assert_eq!((now.gone, now.dead_lettered, now.held, now.undeliverable), (1, 0, 0, 0));
    assert_eq!(letters(&channel), []);
}

#[test]
fn a_removed_or_moved_group_has_no_letters() {
    let (_dir, channel) = open_new(options());
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), [7, 8], 64);
    let held = lease(&mut rx, (7, 1));
    channel.seek_group("g", Start::Oldest, true).unwrap();
    assert_eq!(held.reject(), Err(RejectError::GroupRemoved));
    assert_eq!(letters(&channel), []);
    let again = lease(&mut rx, (7, 1));
    channel.remove_group("g", true).unwrap();
    assert_eq!(again.reject(), Err(RejectError::GroupRemoved));
    assert_eq!(letters(&channel), []);
}

/// Without room among the letters a rejected message waits; nobody gets it, and it is a letter when there is room.
#[test]
fn without_room_it_waits_and_is_not_handed_out() {
    within(60, || {
        let (_dir, channel) = open_new(options());
        let mut dead = channel.blocking_dead_letters().unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let (tx, max) = (channel.sender(), channel.max_message_len());
        let mut sent = 0;
        while stats(&channel).undeliverable == 0 {
            send(&tx, [sent], max);
            lease(&mut rx, (sent, 1)).reject().unwrap();
            sent += 1;
        }
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
        assert_eq!(stats(&channel).lag, 1);
        let mut got = Vec::new();
        common::eventually("every letter is there", || {
            assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
            let messages = dead.try_iter();
            got.extend(messages.map(|message| number(DeadLetter::parse(&message).unwrap().message())));
            got.len() as u64 == sent
        });
        assert_eq!(got, (0..sent).collect::<Vec<_>>());
    });
}

/// In the child: rejects every message.
fn rejects(file: &Path) {
    let channel = open(file);
    let mut rx = channel.blocking_subscribe("g").unwrap();
    say("ready");
    loop {
        match rx.try_lease() {
            Ok(lease) => lease.reject().unwrap(),
            Err(TryRecvError::Empty) => thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Processes that reject, killed at any moment: each message becomes one letter, whoever finished its burial.
#[test]
fn a_rejected_message_becomes_one_letter_whoever_dies() {
    within(180, || {
        let mut rng = Rng::new(seed());
        let dir = Dir::in_memory();
        let options = options().page_size(4 << 20).max_pages(4).max_opens(64);
        let channel = options.blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let mut sent = 0;
        for _ in 0..60 {
            let children = [0, 1].map(|_| Process::start("rejects", &dir.file()).ready());
            send(&channel.sender(), sent..sent + 400, 64);
            sent += 400;
            thread::sleep(Duration::from_micros(rng.below(1000)));
            for child in &children {
                child.kill();
            }
        }
        // This process rejects the rest.
        common::eventually("every message is a letter", || {
            while let Ok(lease) = rx.try_lease() {
                lease.reject().unwrap();
            }
            stats(&channel).lag == 0
        });
        let mut found = BTreeMap::<u64, u32>::new();
        for (n, attempts) in letters(&channel) {
            assert_eq!(attempts, 3);
            *found.entry(n).or_default() += 1;
        }
        let doubles: Vec<_> = found.iter().filter(|(_, times)| **times > 1).collect();
        assert!(doubles.is_empty(), "more than one letter of {doubles:?}");
        let now = stats(&channel);
        assert_eq!((found.len() as u64, now.dead_lettered), (sent, sent), "{now:?}");
        assert_eq!((now.held, now.returned, now.undeliverable, now.gone), (0, 0, 0, 0));
    });
}
