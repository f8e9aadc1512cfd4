//! Full recovery of a channel whose file was copied while it was in use: as after a power loss that took
//! nothing. What a power loss takes is tried by the simulator, in tests/power_loss.

mod common;

use common::{Dir, body, drain_numbers, number, small};
use disk_chan::{Cause, Channel, OpenError, Options, Overflow, Start, TrySendError};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The channel as the power loss leaves it: the file as it is now, at another place.
fn crash(channel: &Channel, dir: &Dir, name: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::copy(channel.path(), &path).unwrap();
    path
}

fn recover(path: &std::path::Path) -> Channel {
    let channel = Options::new().blocking_open(path).unwrap();
    assert_eq!(channel.recovered().expect("a recovery").cause, Cause::Unclean);
    channel
}

#[test]
fn what_was_there_is_there() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let mut done = channel.blocking_subscribe("done").unwrap();
    let mut held = channel.blocking_subscribe("held").unwrap();
    let tx = channel.sender();
    let offsets: Vec<_> = (0..20).map(|n| tx.blocking_send(body(n, 64)).unwrap()).collect();
    for n in 0..5 {
        assert_eq!(number(&done.try_recv().unwrap()), n);
    }
    let lease = held.try_lease().unwrap();
    channel.blocking_sync().unwrap();
    let path = crash(&channel, &dir, "copy");
    lease.ack().unwrap();

    let copy = recover(&path);
    let report = copy.recovered().unwrap();
    assert_eq!((report.kept, report.damaged), (20, 0));
    assert_eq!(report.first_offset, offsets[0]);
    assert!(report.end_offset > offsets[19] && report.next_offset >= report.end_offset);
    let next = copy.sender().blocking_send(body(20, 64)).unwrap();
    assert!(next >= report.next_offset);
    assert_eq!(drain_numbers(&mut copy.blocking_subscribe("done").unwrap()), (5..21).collect::<Vec<_>>());
    assert_eq!(drain_numbers(&mut copy.blocking_subscribe("held").unwrap()), (0..21).collect::<Vec<_>>());
    assert!(copy.durable_offset() >= report.end_offset);
    // And it is an ordinary channel from here on.
    drop(copy);
    let again = Options::new().blocking_open(&path).unwrap();
    assert!(again.recovered().is_none());
    assert_eq!(again.stats().len, 21);
}

#[test]
fn a_full_ring_is_full_and_goes_on_when_it_was_read() {
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let dir = Dir::new();
        let channel = small().overflow(overflow).blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        // Three laps, and then full.
        let (mut sent, mut got) = (0, 0);
        let pages = channel.stats().free_pages as u64 + 1;
        while channel.stats().page_turns < 3 * pages {
            tx.blocking_send(body(sent, 900)).unwrap();
            sent += 1;
            assert_eq!(number(&rx.try_recv().unwrap()), got);
            got += 1;
        }
        while overflow == Overflow::Block && tx.try_send(body(sent, 900)).is_ok() {
            sent += 1;
        }
        let mut path = crash(&channel, &dir, "copy 0");
        // Again and again, with nothing in between.
        for round in 1..6 {
            let copy = recover(&path);
            let stats = copy.stats();
            assert_eq!(stats.pages + stats.free_pages, pages as usize);
            if overflow == Overflow::Block {
                assert!(matches!(copy.sender().try_send(body(sent, 900)), Err(TrySendError::Full(_))));
            }
            path = crash(&copy, &dir, &format!("copy {round}"));
        }
        let copy = recover(&path);
        let mut rx = copy.blocking_subscribe("g").unwrap();
        assert_eq!(drain_numbers(&mut rx), (got..sent).collect::<Vec<_>>());
        let tx = copy.sender();
        let from = copy.stats().page_turns;
        while copy.stats().page_turns < from + 4 * pages {
            tx.blocking_send(body(sent, 900)).unwrap();
            assert_eq!(number(&rx.try_recv().unwrap()), sent);
            sent += 1;
        }
    }
}

#[test]
fn groups_come_and_go() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let tx = channel.sender();
    tx.blocking_send(body(0, 64)).unwrap();
    drop(channel.blocking_subscribe("gone").unwrap());
    channel.remove_group("gone", false).unwrap();
    let newest = channel.blocking_subscribe_from("newest", Start::Newest).unwrap();
    tx.blocking_send(body(1, 64)).unwrap();
    let path = crash(&channel, &dir, "copy");
    drop(newest);
    let copy = recover(&path);
    let names: Vec<_> = copy.groups().iter().map(|group| group.name.to_string()).collect();
    assert_eq!(names, ["newest"]);
    assert_eq!(drain_numbers(&mut copy.blocking_subscribe("newest").unwrap()), [1]);
    // Nothing of the group that had its number.
    assert_eq!(drain_numbers(&mut copy.blocking_subscribe("gone").unwrap()), [0, 1]);
}

#[test]
fn it_tells_how_far_it_has_come() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let pages = channel.stats().pages + channel.stats().free_pages;
    channel.sender().blocking_send("hello").unwrap();
    let path = crash(&channel, &dir, "copy");
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let told = move |at: disk_chan::RecoveryProgress| {
        assert_eq!((at.pages, at.of), (count.fetch_add(1, Relaxed) + 1, pages));
        assert_eq!(at.messages, 1);
    };
    let copy = Options::new().on_recovery(told).blocking_open(&path).unwrap();
    assert_eq!(calls.load(Relaxed), pages);
    assert!(copy.recovered().unwrap().took.as_secs() < 60);
}

/// A group begins in a page of which nothing is left, between pages that are there.
#[test]
fn a_group_that_began_where_nothing_is_left() {
    const PAGE: usize = 64 << 10;
    let dir = Dir::new();
    let channel = small().max_pages(3).blocking_open(dir.file()).unwrap();
    channel.sender().blocking_send(body(0, 64)).unwrap();
    // Goes on behind the first page; what is sent there is lost.
    let once = recover(&crash(&channel, &dir, "once"));
    once.sender().blocking_send(body(1, 64)).unwrap();
    drop(once.blocking_subscribe_from("late", Start::Newest).unwrap());
    let path = crash(&once, &dir, "twice");
    let mut bytes = std::fs::read(&path).unwrap();
    let second = bytes.len() - 2 * PAGE;
    bytes[second..][..PAGE].fill(0);
    std::fs::write(&path, bytes).unwrap();

    let twice = recover(&path);
    assert_eq!(twice.recovered().unwrap().kept, 1);
    (2..5).for_each(|n| drop(twice.sender().blocking_send(body(n, 64))));
    drop(twice);
    let again = Options::new().blocking_open(&path).unwrap();
    assert_eq!(drain_numbers(&mut again.blocking_subscribe("late").unwrap()), [2, 3, 4]);
}

/// Recovery while somebody has it open would pull the ground from under them: it goes by their locks, whatever
/// memory says of who they are.
#[test]
fn who_has_it_open_is_told_by_locks() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    channel.sender().blocking_send("x").unwrap();
    let file = std::fs::File::options().write(true).open(dir.file()).unwrap();
    let channel_line = 2 * 4096 + 4 * 128;
    file.write_all_at(&[0; 8], channel_line + 8).unwrap(); // no open was ever used
    file.write_all_at(&[1; 8], channel_line + 32).unwrap(); // and a sync has failed
    let error = Options::new().blocking_open(dir.file()).unwrap_err();
    assert!(matches!(error, OpenError::Poisoned { .. }), "{error}");
    drop(channel);
    assert_eq!(Options::new().blocking_open(dir.file()).unwrap().len(), 1);
}
