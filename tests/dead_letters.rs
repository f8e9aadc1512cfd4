//! `max_attempts`: a message that nobody can finish becomes a dead letter. It does not stop its group, and is not lost.

mod common;

use common::{Dir, body, drain_numbers, number, open_new, send, small, within};
use disk_chan::{
    Channel, DeadLetter, GroupStats, OpenError, Options, Overflow, Receiver, SubscribeError, TryRecvError,
};
use std::time::Duration;

fn options() -> Options {
    small().max_attempts(3)
}

fn stats(channel: &Channel, group: &str) -> GroupStats {
    channel.groups().into_iter().find(|g| g.name.as_str() == group).unwrap()
}

/// What lies among the dead letters, done with: (group, number in the message, attempts).
fn letters(dead: &mut Receiver) -> Vec<(String, u64, u32)> {
    dead.try_iter()
        .map(|message| {
            let letter = DeadLetter::parse(&message).unwrap();
            (letter.group().to_owned(), number(letter.message()), letter.attempts())
        })
        .collect()
}

#[test]
fn a_poison_message_becomes_a_letter_and_the_group_goes_on() {
    within(60, || {
        let (_dir, channel) = open_new(options());
        let mut rx = channel.blocking_subscribe("billing").unwrap();
        let mut other = channel.blocking_subscribe("other").unwrap();
        send(&channel.sender(), 0..10, 64);
        let (mut done, mut offset) = (Vec::new(), None);
        while let Ok(lease) = rx.try_lease() {
            if number(&lease) == 4 {
                offset = Some(lease.offset());
                drop(lease);
            } else {
                done.push(number(&lease));
                lease.ack().unwrap();
            }
        }
        assert_eq!(done, [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        let now = stats(&channel, "billing");
        assert_eq!((now.lag, now.held, now.returned, now.undeliverable), (0, 0, 0, 0));
        assert_eq!((now.dead_lettered, now.redelivered), (1, 2));
        let mut dead = channel.blocking_dead_letters().unwrap();
        let message = dead.try_recv().unwrap();
        let letter = DeadLetter::parse(&message).unwrap();
        assert_eq!((letter.group(), number(letter.message()), letter.attempts()), ("billing", 4, 3));
        assert_eq!(Some(letter.offset()), offset);
        assert!(letter.sent_at().elapsed().unwrap() < Duration::from_secs(3600));
        drop(message);
        assert_eq!(dead.try_recv().unwrap_err(), TryRecvError::Empty);
        assert_eq!(drain_numbers(&mut other), (0..10).collect::<Vec<_>>(), "another group has its own count");
        assert_eq!(stats(&channel, "other").dead_lettered, 0);
    });
}

/// The letters survive the process and the channel they came from.
#[test]
fn letters_stay_and_come_again_until_they_are_done() {
    let dir = Dir::new();
    let channel = options().blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..3, 64);
    while let Ok(lease) = rx.try_lease() {
        drop(lease);
    }
    assert_eq!(stats(&channel, "g").dead_lettered, 3);
    drop((rx, channel));
    let channel = Options::new().blocking_open(dir.file()).unwrap();
    let mut dead = channel.blocking_dead_letters().unwrap();
    for _ in 0..10 {
        drop(dead.try_lease().unwrap());
    }
    let expected: Vec<_> = (0..3).map(|n| ("g".to_owned(), n, 3)).collect();
    assert_eq!(letters(&mut dead), expected);
}

/// Without room among the letters the message waits, and the group goes on with others.
#[test]
fn a_full_letter_box_loses_nothing() {
    within(60, || {
        let (_dir, channel) = open_new(options().max_attempts(1));
        let mut dead = channel.blocking_dead_letters().unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let max = channel.max_message_len();
        let mut sent = 0;
        while stats(&channel, "g").undeliverable == 0 {
            send(&tx, [sent], max);
            sent += 1;
            drop(rx.try_lease().unwrap());
        }
        assert!(sent > 2, "{sent} fitted");
        send(&tx, [1000], 64);
        assert_eq!(drain_numbers(&mut rx), [1000], "the group goes on");
        let waiting = stats(&channel, "g");
        assert_eq!((waiting.lag, waiting.undeliverable), (1, 1));
        let mut got = Vec::new();
        common::eventually("every letter is there", || {
            let _ = rx.try_recv();
            got.extend(letters(&mut dead).into_iter().map(|(_, n, _)| n));
            got.len() as u64 == sent
        });
        assert_eq!(got, (0..sent).collect::<Vec<_>>());
        assert_eq!((stats(&channel, "g").lag, stats(&channel, "g").dead_lettered), (0, sent));
    });
}

/// Messages that wait for room among the letters keep claim cells; the error tells them from held ones.
#[test]
fn too_many_held_tells_what_waits_for_the_letter_box() {
    within(60, || {
        let (_dir, channel) = open_new(options().max_attempts(1).max_held(2));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let max = channel.max_message_len();
        let mut sent = 0;
        while stats(&channel, "g").undeliverable == 0 {
            send(&tx, [sent], max);
            sent += 1;
            drop(rx.try_lease().unwrap());
        }
        send(&tx, [1000, 1001], 64);
        let held = rx.try_lease().unwrap();
        let error = rx.try_lease().unwrap_err();
        assert_eq!(error, TryRecvError::TooManyHeld { held: 1, undeliverable: 1, max: 2 });
        held.ack().unwrap();
        assert_eq!(number(&rx.try_lease().unwrap()), 1001);
    });
}

/// The longest message fits, with the longest group name.
#[test]
fn the_longest_message_fits() {
    let (_dir, channel) = open_new(options().max_attempts(1));
    let name = "g".repeat(128);
    let mut rx = channel.blocking_subscribe(name.as_str()).unwrap();
    let longest = body(7, channel.max_message_len());
    channel.sender().blocking_send(&longest).unwrap();
    drop(rx.try_lease().unwrap());
    let mut dead = channel.blocking_dead_letters().unwrap();
    let message = dead.try_recv().unwrap();
    let letter = DeadLetter::parse(&message).unwrap();
    assert_eq!((letter.group(), letter.message()), (name.as_str(), &longest[..]));
}

/// Overdue leases count as attempts, too, and the letter is written while nobody gives anything back.
#[test]
fn overdue_leases_become_letters() {
    within(60, || {
        let (_dir, channel) = open_new(options().max_attempts(2).lease_timeout(Duration::from_millis(20)));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let mut dead = channel.blocking_dead_letters().unwrap();
        send(&channel.sender(), [5], 64);
        let stuck = [rx.blocking_lease().unwrap(), rx.blocking_lease().unwrap()];
        common::eventually("the message is a letter", || {
            assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
            stats(&channel, "g").dead_lettered == 1
        });
        assert_eq!(letters(&mut dead), [("g".to_owned(), 5, 2)]);
        for lease in stuck {
            assert!(lease.ack().is_err());
        }
        assert_eq!(stats(&channel, "g").lag, 0);
    });
}

/// Under `DropOldest` a page may go with messages that wait; they are counted as gone.
#[test]
fn what_waits_may_go_with_its_page() {
    within(60, || {
        let (_dir, channel) = open_new(options().max_attempts(1).overflow(Overflow::DropOldest));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let max = channel.max_message_len();
        let mut sent = 0;
        while stats(&channel, "g").undeliverable == 0 {
            send(&tx, [sent], max);
            sent += 1;
            drop(rx.try_lease().unwrap());
        }
        while channel.stats().first_offset.page() < sent {
            send(&tx, [0], max);
        }
        assert_eq!((stats(&channel, "g").gone, stats(&channel, "g").undeliverable), (1, 0));
        assert_eq!(letters(&mut channel.blocking_dead_letters().unwrap()).len() as u64, sent - 1);
    });
}

#[test]
fn without_max_attempts_there_are_none() {
    let (dir, channel) = open_new(small());
    assert!(matches!(channel.blocking_dead_letters(), Err(SubscribeError::NoDeadLetters)));
    assert_eq!(dir.entries(), ["test.chan"]);
    let error = options().blocking_open(dir.file()).unwrap_err();
    assert!(matches!(error, OpenError::Mismatch { option: "max_attempts", found: 0, expected: 3, .. }), "{error:?}");
    let error = small().max_attempts(5000).blocking_open(dir.join("other")).unwrap_err();
    assert!(matches!(error, OpenError::InvalidOption { option: "max_attempts", .. }), "{error:?}");
}

#[test]
fn what_is_not_a_letter_is_not_parsed() {
    for bytes in [&b""[..], b"letter", &[0; 200], &[0xff; 56]] {
        assert!(DeadLetter::parse(bytes).is_none());
    }
    let (_dir, channel) = open_new(options().max_attempts(1));
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), [5], 8);
    drop(rx.try_lease().unwrap());
    let letter = channel.blocking_dead_letters().unwrap().try_iter().next().unwrap().into_vec();
    assert!(DeadLetter::parse(&letter).is_some());
    for end in 0..letter.len() - 8 {
        assert!(DeadLetter::parse(&letter[..end]).is_none(), "{end} bytes of it");
    }
}

#[test]
fn the_longest_message_becomes_a_letter() {
    for groups in [1, 2, 8] {
        let (_dir, channel) = open_new(small().max_groups(groups).max_attempts(1));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let longest = vec![7; channel.max_message_len()];
        channel.sender().blocking_send(&longest).unwrap();
        drop(rx.blocking_lease().unwrap());
        let mut dead = channel.blocking_dead_letters().unwrap();
        let message = dead.try_recv().unwrap();
        assert!(DeadLetter::parse(&message).unwrap().message() == longest, "{groups} groups");
    }
}
