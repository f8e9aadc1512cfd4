//! A program that forks: in the child every handle is an error, nothing is changed, and nothing hangs.

mod common;

use common::{Dir, body, drain_numbers, number, open_new, send, small, within};
use disk_chan::{
    AckError, Channel, Offset, Options, PageBytesError, Partitioned, ReadError, RecvError, RecvTimeoutError,
    RemoveGroupError, SendError, Start, SubscribeError, TryReadError, TryRecvError, TrySendError,
};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use std::{panic, thread};

/// Runs `child` in a fork of this process, and returns its process id. The child ends without unwinding into the test.
fn fork(child: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child is a copy of this thread alone. It uses what this library promises for that case, and memory,
    // whose allocator can be used after a fork; then it ends at once.
    match unsafe { libc::fork() } {
        0 => {
            let good = panic::catch_unwind(panic::AssertUnwindSafe(child)).is_ok();
            // SAFETY: ends the process, without handlers that belong to the parent.
            unsafe { libc::_exit(if good { 0 } else { 1 }) }
        }
        pid => {
            assert!(pid > 0, "cannot fork");
            pid
        }
    }
}

/// Whether the child ended well.
fn wait_for(pid: libc::pid_t) {
    let mut status = 0;
    let began = Instant::now();
    loop {
        // SAFETY: the status is written to memory that lives through the call.
        match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
            0 if began.elapsed() < Duration::from_secs(30) => thread::sleep(Duration::from_millis(1)),
            0 => {
                // SAFETY: a child of this process that has not been waited for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                panic!("the child hangs");
            }
            _ => break,
        }
    }
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "the child failed: status {status:#x}");
}

#[test]
fn every_handle_is_an_error_in_the_child() {
    within(60, || {
        let (_dir, channel) = open_new(small().max_attempts(3));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        send(&tx, 0..10, 64);
        let lease = rx.blocking_lease().unwrap();
        let second = rx.blocking_lease().unwrap();
        let mut other = rx.clone();
        // With a watcher: a thread that the child does not have.
        assert!(other.clone().recv_timeout(Duration::from_millis(1)).is_ok());
        let waiting = channel.blocking_subscribe("empty").unwrap();
        let message = other.blocking_recv().unwrap();
        let last = number(&message);
        // The parent keeps its own of each.
        let (mut leases, mut message) = (Some((lease, second)), Some(message));
        let before = channel.groups();
        let (child_channel, child_tx, mut child_rx) = (channel.clone(), tx.clone(), waiting);
        let pid = fork(|| {
            assert_eq!(child_tx.try_send("x"), Err(TrySendError::Forked));
            assert_eq!(child_tx.blocking_send("x"), Err(SendError::Forked));
            assert_eq!(child_tx.blocking_send_many(&["x"]).unwrap_err().error, SendError::Forked);
            assert_eq!(child_tx.reserve(3).unwrap().blocking_commit(), Err(SendError::Forked));
            assert_eq!(child_rx.try_recv().unwrap_err(), TryRecvError::Forked);
            assert_eq!(child_rx.blocking_recv().unwrap_err(), RecvError::Forked);
            assert_eq!(child_rx.recv_timeout(Duration::from_secs(9)).unwrap_err(), RecvTimeoutError::Forked);
            assert_eq!(child_rx.clone().try_lease().unwrap_err(), TryRecvError::Forked);
            assert!(child_rx.iter().next().is_none());
            let mut reader = child_channel.reader();
            reader.seek(Start::Newest);
            assert_eq!(reader.try_read(), Err(TryReadError::Forked));
            assert_eq!(reader.try_read_back(), Err(TryReadError::Forked));
            assert_eq!(reader.blocking_read(), Err(ReadError::Forked));
            assert_eq!((reader.try_iter().count(), child_channel.page(0).count()), (1, 1), "the error, once");
            assert_eq!(child_channel.read_slice(Offset::default(), 1), Err(ReadError::Forked));
            assert!(matches!(child_channel.page_bytes(0), Err(PageBytesError::Forked)));
            assert_eq!((child_channel.pages().len(), child_channel.first_offset()), (0, Offset::default()));
            assert!(matches!(child_channel.blocking_subscribe("g"), Err(SubscribeError::Forked)));
            assert!(matches!(child_channel.blocking_subscribe("new"), Err(SubscribeError::Forked)));
            assert!(matches!(child_channel.blocking_dead_letters(), Err(SubscribeError::Forked)));
            assert!(matches!(child_channel.remove_group("g", true), Err(RemoveGroupError::Forked)));
            assert_eq!((child_channel.len(), child_channel.groups().len()), (0, 0));
            assert!(child_channel.is_closed() && child_channel.is_empty() && child_channel.stats().opens == 0);
            child_channel.close();
            let (lease, second) = leases.take().unwrap();
            assert_eq!(lease.ack(), Err(AckError::Forked));
            assert_eq!(second.give_back(), Err(AckError::Forked));
            drop((message.take(), child_rx, child_tx.channel(), child_channel.sender(), child_channel, child_tx));
        });
        wait_for(pid);
        let after = channel.groups();
        assert_eq!(after, before, "the child changed something");
        assert!(!channel.is_closed());
        let (lease, second) = leases.unwrap();
        lease.ack().unwrap();
        drop((message, second));
        send(&tx, 10..12, 64);
        assert_eq!(drain_numbers(&mut rx), [1].into_iter().chain(last + 1..12).collect::<Vec<_>>());
    });
}

#[test]
fn partitions_are_of_no_use_in_the_child_and_stay_with_the_parent() {
    within(60, || {
        let dir = Dir::new();
        let all = Partitioned::blocking_new(dir.join("p"), 3, small()).unwrap();
        let mut rx = all.blocking_subscribe("g").unwrap();
        all.sender().blocking_send("k", "one").unwrap();
        let (_, lease) = rx.blocking_lease().unwrap();
        let mut handles = Some((rx.clone(), all.blocking_subscribe_unordered("u").unwrap(), all.sender(), lease));
        let mut kept = Some(rx);
        let pid = fork(|| {
            let (mut rx, (mut other, mut unordered, tx, lease)) = (kept.take().unwrap(), handles.take().unwrap());
            assert_eq!(tx.try_send("k", "x").unwrap_err(), TrySendError::Forked);
            for rx in [&mut rx.clone(), &mut rx, &mut other, &mut unordered] {
                assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Forked);
                assert_eq!(rx.blocking_recv().unwrap_err(), RecvError::Forked);
                assert_eq!(rx.recv_timeout(Duration::from_secs(9)).unwrap_err(), RecvTimeoutError::Forked);
            }
            assert!(matches!(all.blocking_subscribe("g"), Err(SubscribeError::Forked)));
            assert_eq!(lease.ack(), Err(AckError::Forked));
            drop((rx, other, unordered, tx));
        });
        wait_for(pid);
        let (mut other, _, tx, lease) = handles.unwrap();
        let mut rx = kept.unwrap();
        tx.blocking_send("k", "two").unwrap();
        // The child let nothing go of what the parent has.
        assert_eq!(rx.held_partitions().len(), 3);
        assert_eq!(other.try_recv().unwrap_err(), TryRecvError::Empty);
        lease.ack().unwrap();
        assert_eq!(&*rx.blocking_recv().unwrap().1, b"two");
    });
}

/// Dropping the last handles in the child closes nothing of the parent's, and of nobody else who got the same numbers.
#[test]
fn drops_in_the_child_touch_nothing() {
    within(60, || {
        let (dir, channel) = open_new(small());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        assert!(rx.recv_timeout(Duration::from_millis(1)).is_err());
        send(&tx, 0..3, 64);
        let path = dir.join("unrelated");
        let mut handles = Some((channel, tx, rx));
        let pid = fork(|| {
            // The descriptor was closed, and its number goes to the next file.
            let file = std::fs::File::create(&path).unwrap();
            drop(handles.take());
            file.sync_all().expect("the descriptor of another file was closed");
        });
        wait_for(pid);
        let (channel, tx, mut rx) = handles.unwrap();
        send(&tx, 3..5, 64);
        assert_eq!(drain_numbers(&mut rx), [0, 1, 2, 3, 4]);
        assert_eq!(channel.stats().opens, 1);
    });
}

/// The child may open the channel itself, and the handles from before stay errors.
#[test]
fn the_child_opens_the_channel_itself() {
    within(60, || {
        let (dir, channel) = open_new(small());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        let pid = fork(|| {
            let mine = Options::new().blocking_open(dir.file()).unwrap();
            assert_eq!(mine.stats().opens, 2);
            mine.sender().blocking_send(body(7, 64)).unwrap();
            assert_eq!(number(&mine.blocking_subscribe("g").unwrap().blocking_lease().unwrap()), 7);
            assert_eq!(tx.blocking_send("x"), Err(SendError::Forked));
            // And its own child in turn.
            let grandchild = fork(|| {
                assert_eq!(mine.sender().blocking_send("x"), Err(SendError::Forked));
                let own = Options::new().blocking_open(dir.file()).unwrap();
                own.sender().blocking_send(body(8, 64)).unwrap();
            });
            wait_for(grandchild);
        });
        wait_for(pid);
        assert_eq!(drain_numbers(&mut rx), [7, 8]);
        assert_eq!(channel.stats().opens, 1);
    });
}

/// A child that lives on does not keep its dead parent alive: the parent's lock went with it.
#[test]
fn a_child_does_not_keep_its_parent_alive() {
    within(60, || {
        let (dir, channel) = open_new(small());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), [1], 64);
        let mut pipe = [0; 2];
        // SAFETY: two descriptors are written to memory that lives through the call.
        assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        let parent = fork(|| {
            let mine = Options::new().blocking_open(dir.file()).unwrap();
            let lease = mine.blocking_subscribe("g").unwrap().blocking_lease().unwrap();
            let child = fork(|| thread::sleep(Duration::from_secs(20)));
            // SAFETY: a descriptor of this process, and four bytes that live through the call.
            assert_eq!(unsafe { libc::write(pipe[1], child.to_ne_bytes().as_ptr().cast(), 4) }, 4);
            std::mem::forget(lease);
            // SAFETY: ends this process at once, as a kill does.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
        let mut child = [0; 4];
        // SAFETY: a descriptor of this process, and four bytes that live through the call.
        assert_eq!(unsafe { libc::read(pipe[0], child.as_mut_ptr().cast(), 4) }, 4);
        let got = rx.recv_timeout(Duration::from_secs(10)).map(|m| (number(&m), m.attempts()));
        // SAFETY: the grandchild, which sleeps; it is adopted and reaped by the system.
        unsafe { libc::kill(i32::from_ne_bytes(child), libc::SIGKILL) };
        let mut status = 0;
        // SAFETY: the status is written to memory that lives through the call.
        unsafe { libc::waitpid(parent, &mut status, 0) };
        assert!(libc::WIFSIGNALED(status), "the parent was not killed");
        assert_eq!(got, Ok((1, 2)), "what the dead parent held was not handed out again");
    });
}

/// Forks at any moment of opening and closing: no child ever keeps a lock of its parent.
#[test]
fn forks_beside_opens_and_closes() {
    within(120, || {
        let dir = Dir::in_memory();
        let keep: Channel = small().blocking_open(dir.file()).unwrap();
        let stop = AtomicBool::new(false);
        let path = dir.file();
        let mut sleepers = Vec::new();
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    while !stop.load(SeqCst) {
                        drop(Options::new().blocking_open(&path).unwrap().sender());
                    }
                });
            }
            for _ in 0..100 {
                sleepers.push(fork(|| thread::sleep(Duration::from_secs(100))));
            }
            stop.store(true, SeqCst);
        });
        // They live, and every entry can be taken.
        let opens: Vec<_> = (0..7).map(|_| Options::new().blocking_open(&path)).collect();
        for pid in sleepers {
            // SAFETY: children of this process that have not been waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            let mut status = 0;
            // SAFETY: the status is written to memory that lives through the call.
            unsafe { libc::waitpid(pid, &mut status, 0) };
        }
        assert!(opens.iter().all(Result::is_ok), "a child kept an entry: {opens:?}");
        drop(keep);
    });
}
