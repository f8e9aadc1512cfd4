//! Consumers, as processes, that hang over a message or die of it: it goes to another, and in the end to the dead
//! letters, once.

mod common;
#[path = "common/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use common::{Dir, Rng, number, seed, send, small, within};
use disk_chan::{Channel, DeadLetter, GroupStats, Overflow, TryRecvError};
use process::{Process, open, play, say};

/// What a child of these tests does.
#[test]
fn child() {
    let Some((role, file)) = process::role() else { return };
    match role[0].as_str() {
        "puppet" => play(open(&file)),
        "fails" => fails(&file),
        other => panic!("no role {other}"),
    }
}

fn stats(channel: &Channel) -> GroupStats {
    channel.groups().pop().unwrap()
}

/// A process that is stopped with a lease: another gets the message, and finishes it. When the first goes on its ack
/// is an error, and changes nothing.
#[test]
fn a_late_ack_of_a_stopped_process_is_an_error() {
    within(60, || {
        let dir = Dir::new();
        let channel = small().lease_timeout(Duration::from_millis(100)).blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), [7, 8], 64);
        let mut stuck = Process::puppet(&dir.file());
        assert_eq!(stuck.ask("lease g"), "7 1");
        stuck.stop();
        assert_eq!(number(&rx.blocking_recv().unwrap()), 8);
        let again = rx.blocking_lease().unwrap();
        assert_eq!((number(&again), again.attempts()), (7, 2));
        again.ack().unwrap();
        let before = channel.groups();
        stuck.go_on();
        assert_eq!(stuck.ask("ack g 7"), "Err(Taken)");
        assert_eq!(channel.groups(), before);
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
        stuck.end();
    });
}

/// A message that kills every process that gets it. The others go on, and it is among the dead letters.
#[test]
fn a_message_that_kills_becomes_a_letter() {
    within(60, || {
        let dir = Dir::new();
        let channel = small().max_attempts(3).blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let mut dead = channel.blocking_dead_letters().unwrap();
        send(&channel.sender(), 0..5, 64);
        for attempt in 1..=3 {
            let mut victim = Process::puppet(&dir.file());
            assert_eq!(victim.ask("lease g"), format!("0 {attempt}"));
            victim.kill();
        }
        // Who finds nothing more looks for the dead.
        assert_eq!(common::drain_numbers(&mut rx), [1, 2, 3, 4]);
        let message = dead.blocking_recv().unwrap();
        let letter = DeadLetter::parse(&message).unwrap();
        assert_eq!((number(letter.message()), letter.attempts(), letter.group()), (0, 3, "g"));
        drop(message);
        let now = stats(&channel);
        assert_eq!((now.lag, now.dead_lettered, now.undeliverable, now.redelivered), (0, 1, 0, 2));
        assert_eq!(dead.try_recv().unwrap_err(), TryRecvError::Empty);
    });
}

/// In the child: fails at every message. Each becomes a letter at once, by this process.
fn fails(file: &Path) {
    let channel = open(file);
    let mut rx = channel.blocking_subscribe("g").unwrap();
    say("ready");
    loop {
        match rx.try_lease() {
            Ok(lease) => drop(lease),
            Err(TryRecvError::Empty) => thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
}

/// Processes that make letters, killed at any moment: each message becomes one letter, whoever finished its burial.
#[test]
fn letters_are_written_once_whoever_dies() {
    within(180, || {
        let mut rng = Rng::new(seed());
        for overflow in [Overflow::Block, Overflow::DropOldest] {
            let dir = Dir::in_memory();
            let options = small().page_size(4 << 20).max_pages(4).max_attempts(1).max_opens(64).overflow(overflow);
            let channel = options.blocking_open(dir.file()).unwrap();
            drop(channel.blocking_subscribe("g").unwrap());
            let tx = channel.sender();
            let (mut sent, mut kills) = (0, 0);
            while kills < 200 {
                let children = [0, 1].map(|_| Process::start("fails", &dir.file()).ready());
                send(&tx, sent..sent + 400, 64);
                sent += 400;
                thread::sleep(Duration::from_micros(rng.below(1000)));
                for child in &children {
                    child.kill();
                }
                kills += 2;
            }
            // This process makes the rest.
            let mut rx = channel.blocking_subscribe("g").unwrap();
            common::eventually("every message is a letter", || {
                if let Ok(lease) = rx.try_lease() {
                    drop(lease);
                }
                stats(&channel).lag == 0
            });
            let mut letters = BTreeMap::<u64, u32>::new();
            for message in channel.blocking_dead_letters().unwrap().try_iter() {
                *letters.entry(number(DeadLetter::parse(&message).unwrap().message())).or_default() += 1;
            }
            let doubles: Vec<_> = letters.iter().filter(|(_, times)| **times > 1).collect();
            assert!(doubles.is_empty(), "{overflow:?}: more than one letter of {doubles:?}");
            let now = stats(&channel);
            assert_eq!((letters.len() as u64, now.dead_lettered), (sent, sent), "{overflow:?}: {now:?}");
            assert_eq!((now.held, now.returned, now.undeliverable, now.redelivered, now.gone), (0, 0, 0, 0, 0));
        }
    });
}
