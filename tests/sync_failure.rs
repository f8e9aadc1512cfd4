//! A sync that fails poisons the channel: everybody is told, in every process; nothing is tried again; opening it,
//! once nobody has it open, recovers it. (Whether recovery brings to the disk what the kernel took for written is
//! tried by the simulator, in tests/power_loss.)

mod common;
#[path = "common/process.rs"]
mod process;
#[path = "common/syncs.rs"]
mod syncs;

use common::{Dir, body, drain_numbers, poll_once, small, within};
use disk_chan::{
    AckError, Cause, Channel, Durability, OpenError, Options, RecvError, RecvTimeoutError, RemoveGroupError, SendError,
    SendTimeoutError, SubscribeError, SyncError, TryRecvError, TrySendError,
};
use process::Process;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};
use syncs::Syncs;

/// Where the word lies that says that a sync has failed.
const POISON: u64 = 2 * 4096 + 4 * 128 + 32;
const SHORT: Duration = Duration::from_millis(1);

#[test]
fn child() {
    if let Some((_, file)) = process::role() {
        process::play(process::open(&file));
    }
}

/// Every operation of an open says that it is poisoned.
fn is_poisoned(channel: &Channel, group: &mut disk_chan::Receiver) {
    let tx = channel.sender();
    assert_eq!(tx.blocking_send("x"), Err(SendError::Poisoned));
    assert_eq!(smol::block_on(tx.send("x")), Err(SendError::Poisoned));
    assert_eq!(tx.try_send("x"), Err(TrySendError::Poisoned));
    assert_eq!(tx.send_timeout("x", SHORT), Err(SendTimeoutError::Poisoned));
    assert_eq!(tx.blocking_send_durable("x"), Err(SendError::Poisoned));
    assert_eq!(smol::block_on(tx.send_durable("x")), Err(SendError::Poisoned));
    let error = tx.blocking_send_many(&["x", "y"]).unwrap_err();
    assert_eq!((error.sent.len(), error.error), (0, SendError::Poisoned));
    assert_eq!(tx.reserve(1).unwrap().blocking_commit(), Err(SendError::Poisoned));
    assert_eq!(tx.blocking_sync(), Err(SyncError::Poisoned));
    assert_eq!(smol::block_on(channel.sync()), Err(SyncError::Poisoned));
    assert!(matches!(group.try_recv(), Err(TryRecvError::Poisoned)));
    assert!(matches!(group.blocking_recv(), Err(RecvError::Poisoned)));
    assert!(matches!(smol::block_on(group.recv()), Err(RecvError::Poisoned)));
    assert!(matches!(group.recv_timeout(SHORT), Err(RecvTimeoutError::Poisoned)));
    assert!(matches!(group.blocking_lease(), Err(RecvError::Poisoned)));
    assert!(matches!(group.try_lease(), Err(TryRecvError::Poisoned)));
    assert!(matches!(channel.blocking_subscribe("g"), Err(SubscribeError::Poisoned)));
    assert!(matches!(channel.blocking_subscribe("new"), Err(SubscribeError::Poisoned)));
    assert!(matches!(channel.remove_group("g", true), Err(RemoveGroupError::Poisoned)));
    // To look does no harm.
    let _ = (channel.len(), channel.groups(), channel.stats(), channel.durable_offset());
}

#[test]
fn everybody_is_told_and_nothing_is_tried_again() {
    for error in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let channel = small().blocking_open(dir.file()).unwrap();
        let other = Options::new().blocking_open(dir.file()).unwrap();
        let mut process = Process::puppet(&dir.file());
        assert_eq!(process.ask("subscribe child"), "subscribed");
        let (mut rx, mut other_rx) = (channel.blocking_subscribe("g").unwrap(), other.blocking_subscribe("g").unwrap());
        let tx = channel.sender();
        let first = tx.blocking_send_durable(body(0, 64)).unwrap();
        let lease = rx.try_lease().unwrap();
        assert_eq!(process.ask("recv child"), "0 1");
        process.tell("recv child"); // and sleeps

        syncs.fail(error, 0);
        let before = syncs.count();
        let failed = tx.blocking_send_durable(body(1, 64)).unwrap_err();
        let SendError::NotDurable { offset } = failed else { panic!("{failed:?}") };
        assert!(offset > first && channel.durable_offset() <= offset);
        assert_eq!(syncs.count(), before + 1, "the sync was seen, and not tried again");
        syncs.mend();
        // It may have had the message before the sync failed.
        let heard = process.hear();
        assert!(heard == "Poisoned" || heard == "1 1" && process.ask("recv child") == "Poisoned", "{heard}");
        is_poisoned(&channel, &mut rx);
        is_poisoned(&other, &mut other_rx);
        assert_eq!(lease.ack(), Err(AckError::Poisoned));
        assert_eq!(process.ask("try_send 2 64"), "Poisoned");

        // Nobody can open it until nobody has it open.
        drop((tx, rx, other_rx, channel));
        let refused = Options::new().blocking_open(dir.file()).unwrap_err();
        assert!(matches!(refused, OpenError::Poisoned { .. }), "{refused}");
        drop(other);
        let refused = Options::new().blocking_open(dir.file()).unwrap_err();
        assert!(matches!(refused, OpenError::Poisoned { .. }), "{refused}");
        process.end();
        assert_eq!(syncs.count(), before + 1, "nothing was synced by those who went");

        // While syncs fail nobody gets through, and what is there stays.
        syncs.fail(error, 0);
        let refused = Options::new().blocking_open(dir.file()).unwrap_err();
        assert!(matches!(&refused, OpenError::Io { source, .. } if source.raw_os_error() == Some(error)), "{refused}");
        syncs.mend();
        let channel = Options::new().blocking_open(dir.file()).unwrap();
        assert_eq!(channel.recovered().unwrap().cause, Cause::Poisoned);
        let mut rx = channel.blocking_subscribe("g").unwrap();
        assert_eq!(drain_numbers(&mut rx), [0, 1]);
        assert!(channel.sender().blocking_send_durable(body(2, 64)).unwrap() > offset);
        assert_eq!(drain_numbers(&mut rx), [2]);
        drop((rx, channel));
        assert!(Options::new().blocking_open(dir.file()).unwrap().recovered().is_none());
    }
}

#[test]
fn whatever_syncs_can_be_what_fails() {
    type Act = fn(&Channel) -> bool;
    let acts: [(&str, Act); 6] = [
        ("sync", |c| c.blocking_sync() == Err(SyncError::Poisoned)),
        ("async sync", |c| smol::block_on(c.sync()) == Err(SyncError::Poisoned)),
        ("async send", |c| matches!(smol::block_on(c.sender().send_durable("x")), Err(SendError::NotDurable { .. }))),
        ("subscribe", |c| matches!(c.blocking_subscribe("new"), Err(SubscribeError::Io(_)))),
        ("remove", |c| matches!(c.remove_group("g", false), Err(RemoveGroupError::Io(_)))),
        ("dropped future", |c| {
            // The sync goes on without the one who asked.
            assert!(poll_once(c.sync()).is_pending());
            let deadline = Instant::now() + common::PATIENCE;
            while c.sender().try_send("x") != Err(TrySendError::Poisoned) {
                assert!(Instant::now() < deadline);
                thread::yield_now();
            }
            true
        }),
    ];
    for (name, act) in acts {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let channel = small().blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        channel.sender().blocking_send(body(0, 64)).unwrap();
        syncs.fail(libc::EIO, 0);
        assert!(act(&channel), "{name}");
        syncs.mend();
        is_poisoned(&channel, &mut rx);
        drop((rx, channel));
        let channel = Options::new().blocking_open(dir.file()).unwrap();
        assert_eq!(channel.recovered().unwrap().cause, Cause::Poisoned, "{name}");
        assert!(!channel.is_empty(), "{name}");
    }
}

/// The last close, the second copy of an entry, the header: wherever it fails, the next open recovers.
#[test]
fn the_first_that_fails_can_be_any() {
    let syncs = Syncs::mine();
    let life = |dir: &Dir| -> Result<(), Box<dyn std::error::Error>> {
        let channel = small().blocking_open(dir.file())?;
        let mut rx = channel.blocking_subscribe("g")?;
        let tx = channel.sender();
        tx.blocking_send_durable(body(0, 64))?;
        rx.blocking_recv()?;
        tx.blocking_send_durable(body(1, 64))?;
        Ok(())
    };
    let before = syncs.count();
    let dir = Dir::new();
    life(&dir).unwrap();
    let all = syncs.count() - before;
    assert!(all >= 10, "{all}");
    for good in 0..all {
        let dir = Dir::new();
        syncs.fail(libc::EIO, good);
        let lived = life(&dir);
        syncs.mend();
        if !dir.file().exists() {
            assert!(lived.is_err());
            continue;
        }
        let channel = Options::new().blocking_open(dir.file()).unwrap_or_else(|e| panic!("{good}: {e}"));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let mut got = drain_numbers(&mut rx);
        got.retain(|&n| n != 0); // done or not, depending on where it stopped
        assert!(got == [1] || lived.is_err(), "{good}: {got:?}");
        channel.sender().blocking_send_durable(body(2, 64)).unwrap();
        assert_eq!(drain_numbers(&mut rx), [2]);
    }
}

#[test]
fn those_who_wait_are_woken() {
    within(60, || {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let channel = small().blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("empty").unwrap();
        channel.blocking_subscribe("slow").map(drop).unwrap();
        common::fill(&channel, 0, 900);
        common::drain(&mut rx);
        let tx = channel.sender();
        thread::scope(|scope| {
            let receiver = scope.spawn(|| rx.blocking_recv().map(drop));
            let sender = scope.spawn(|| tx.blocking_send("more"));
            thread::sleep(Duration::from_millis(100));
            syncs.fail(libc::EIO, 0);
            assert_eq!(channel.blocking_sync(), Err(SyncError::Poisoned));
            assert_eq!(receiver.join().unwrap(), Err(RecvError::Poisoned));
            assert_eq!(sender.join().unwrap(), Err(SendError::Poisoned));
        });
    });
}

#[test]
fn the_timer_and_always_poison_too() {
    within(60, || {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let every = Durability::Interval { every: Duration::from_millis(5), max_messages: 1000 };
        let channel = small().durability(every).blocking_open(dir.file()).unwrap();
        syncs.fail(libc::EIO, 0);
        let tx = channel.sender();
        while tx.try_send("x") != Err(TrySendError::Poisoned) {
            thread::sleep(SHORT);
        }
        drop((tx, channel));
        syncs.mend();
        let channel = Options::new().durability(Durability::Always).blocking_open(dir.file()).unwrap();
        syncs.fail(libc::EIO, 0);
        let error = channel.sender().blocking_send_many(&["x", "y"]).unwrap_err();
        assert_eq!((error.sent.len(), error.error), (2, SendError::Poisoned));
        assert_eq!(channel.sender().try_send("x"), Err(TrySendError::Poisoned));
    });
}

/// The kernel tells a failed write to one of those who sync through a description: so one at a time, and what ended
/// well beside one that failed promises nothing.
#[test]
fn a_sync_beside_one_that_failed_counts_for_nothing() {
    within(60, || {
        let syncs = Syncs::mine();
        let dir = Dir::new();
        let channel = small().blocking_open(dir.file()).unwrap();
        let file = std::fs::File::options().write(true).open(dir.file()).unwrap();
        let before = syncs.count();
        syncs.hold();
        thread::scope(|scope| {
            let sender = channel.sender();
            let first = scope.spawn(move || sender.blocking_send_durable("first"));
            syncs.wait_for(before + 1);
            let second = scope.spawn(|| channel.blocking_subscribe("new").map(drop));
            thread::sleep(Duration::from_millis(100));
            assert_eq!(syncs.count(), before + 1, "one at a time");
            // Another process says that its sync has failed; then this one ends well.
            file.write_all_at(&[1; 8], POISON).unwrap();
            syncs.let_go();
            assert!(matches!(first.join().unwrap(), Err(SendError::NotDurable { .. })));
            assert!(second.join().unwrap().is_err());
        });
        assert_eq!(syncs.count(), before + 1, "nothing is tried after it");
    });
}

/// Another process says that its sync has failed, just after one of this process ended well: those who wait for the
/// next hear of it, threads, tasks and the interval's own sync, and the last handle can be dropped.
#[test]
fn a_failure_between_two_syncs_is_heard_by_all_who_wait() {
    within(120, || {
        let every = Duration::from_secs(3600);
        for _ in 0..10 {
            let syncs = Syncs::mine();
            let dir = Dir::new();
            let interval = Durability::Interval { every, max_messages: 6 };
            let channel = small().durability(interval).blocking_open(dir.file()).unwrap();
            let file = std::fs::File::options().write(true).open(dir.file()).unwrap();
            let (before, durable) = (syncs.count(), channel.durable_offset());
            syncs.hold();
            thread::scope(|scope| {
                let (channel, file) = (&channel, &file);
                let blocking = move |n| move || drop(channel.sender().blocking_send_durable(body(n, 50)));
                scope.spawn(blocking(0));
                syncs.wait_for(before + 1);
                (1..4).for_each(|n| drop(scope.spawn(blocking(n))));
                scope.spawn(|| drop(smol::block_on(channel.sender().send_durable(body(4, 50)))));
                while channel.len() < 5 {
                    thread::yield_now();
                }
                thread::sleep(Duration::from_millis(5)); // they wait now
                channel.sender().blocking_send(body(5, 50)).unwrap(); // and so does the interval's
                thread::sleep(Duration::from_millis(5));
                syncs.let_go();
                while channel.durable_offset() == durable {
                    std::hint::spin_loop();
                }
                file.write_all_at(&[1; 8], POISON).unwrap();
            });
            assert_eq!(channel.blocking_sync(), Err(SyncError::Poisoned));
        }
    });
}

/// What was finished is finished also where the channel is poisoned and its receiver killed.
#[test]
fn what_was_done_is_not_handed_out_again() {
    let _syncs = Syncs::mine(); // those of the other tests fail
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    channel.blocking_subscribe("child").unwrap();
    for n in 0..5 {
        channel.sender().blocking_send(body(n, 64)).unwrap();
    }
    drop(channel);
    let mut process = Process::puppet(&dir.file());
    assert_eq!(process.ask("subscribe child"), "subscribed");
    for n in 0..3 {
        assert_eq!(process.ask("recv child"), format!("{n} 1"));
    }
    process.kill();
    drop(process);
    let file = std::fs::File::options().write(true).open(dir.file()).unwrap();
    file.write_all_at(&1u64.to_le_bytes(), POISON).unwrap();
    let channel = Options::new().blocking_open(dir.file()).unwrap();
    assert_eq!(channel.recovered().unwrap().cause, Cause::Poisoned);
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe("child").unwrap()), [3, 4]);
}
