//! What a killed process leaves: what it held is handed out again, to receivers that wait and to those that poll.

mod common;

use common::{Dir, body, number, small, within};
use disk_chan::{Create, OpenError, Options, Receiver, TryRecvError};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

const FILE: &str = "DISK_CHAN_KILL_FILE";

/// In the child: leases a message, says so, and waits to be killed.
#[test]
fn child_holds_a_lease() {
    let Some(file) = std::env::var_os(FILE) else { return };
    let channel = Options::new().create(Create::OpenExisting).blocking_open(Path::new(&file)).unwrap();
    let _sender = channel.sender();
    let _lease = channel.blocking_subscribe("g").unwrap().blocking_lease().unwrap();
    eprintln!("held");
    thread::sleep(Duration::from_secs(60));
}

/// A child that holds the oldest message of the group "g".
fn holder(dir: &Dir) -> Child {
    start(dir, "child_holds_a_lease", b"held")
}

/// A child that waits for messages.
fn waiter(dir: &Dir) -> Child {
    start(dir, "child_waits", b"wait")
}

fn start(dir: &Dir, role: &str, says: &[u8; 4]) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", role, "--nocapture"])
        .env(FILE, dir.file())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 4];
    child.stderr.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, says, "the child failed");
    child
}

fn again(kill: impl FnOnce(&mut Receiver, Child) -> u64 + Send + 'static) {
    within(60, move || {
        let dir = Dir::new();
        let channel = small().blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        channel.sender().blocking_send(body(7, 8)).unwrap();
        let child = holder(&dir);
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty, "the child holds the only message");
        assert_eq!(kill(&mut rx, child), 7);
        drop(channel);
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Disconnected);
    });
}

#[test]
fn a_receiver_that_waits_gets_what_a_killed_process_held() {
    again(|rx, mut child| {
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            child.kill().unwrap();
            child.wait().unwrap();
        });
        let lease = rx.blocking_lease().unwrap();
        assert_eq!(lease.attempts(), 2);
        let number = number(&lease);
        lease.ack().unwrap();
        number
    });
}

#[test]
fn a_receiver_that_polls_gets_what_a_killed_process_held() {
    again(|rx, mut child| {
        child.kill().unwrap();
        child.wait().unwrap();
        loop {
            match rx.try_recv() {
                Ok(m) => return number(&m),
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(other) => panic!("{other}"),
            }
        }
    });
}

/// The dead process was the only one that could send: what it held comes before the end.
#[test]
fn what_a_killed_process_held_comes_before_the_end() {
    within(60, || {
        let dir = Dir::new();
        let channel = small().blocking_open(dir.file()).unwrap();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        channel.sender().blocking_send(body(7, 8)).unwrap();
        let mut child = holder(&dir);
        drop(channel);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(rx.iter().map(|m| number(&m)).collect::<Vec<_>>(), [7]);
    });
}

/// Everybody who had it open was killed at once: their entries, which are all there are, can be taken again.
#[test]
fn a_file_whose_every_open_died_opens_again() {
    within(60, || {
        let dir = Dir::new();
        let channel = small().max_opens(3).blocking_open(dir.file()).unwrap();
        let sent: Vec<u64> = (0..5).collect();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        common::send(&channel.sender(), sent.clone(), 8);
        drop((rx, channel));
        let mut children: Vec<Child> = (0..3).map(|_| holder(&dir)).collect();
        let full = Options::new().blocking_open(dir.file()).unwrap_err();
        assert!(matches!(full, OpenError::TooManyOpens { max: 3, .. }), "{full:?}");
        children.iter_mut().for_each(|child| child.kill().unwrap());
        children.iter_mut().for_each(|child| assert!(!child.wait().unwrap().success()));
        let channel = Options::new().blocking_open(dir.file()).unwrap();
        assert_eq!(channel.stats().opens, 1);
        rx = channel.blocking_subscribe("g").unwrap();
        assert_eq!(common::drain_numbers(&mut rx), sent);
    });
}

/// So many that each asks about a part of the others only.
const WAITING: u64 = 30;

/// Many wait and share the looking for deaths; one of them dies, too, and its share is looked at by the others.
#[test]
fn a_death_among_many_who_wait_is_seen() {
    within(60, || {
        let dir = Dir::new();
        let opens: Vec<_> = (0..WAITING).map(|_| small().max_opens(64).blocking_open(dir.file()).unwrap()).collect();
        let receivers: Vec<_> = opens.iter().map(|open| open.blocking_subscribe("g").unwrap()).collect();
        for n in 0..5 {
            opens[0].sender().blocking_send(body(n, 8)).unwrap();
            let mut children = [holder(&dir), waiter(&dir), waiter(&dir)];
            thread::sleep(Duration::from_millis(60));
            let (got, next) = channel();
            thread::scope(|scope| {
                for rx in &receivers {
                    let (mut rx, got) = (rx.clone(), got.clone());
                    scope.spawn(move || got.send(number(&rx.blocking_recv().unwrap())).unwrap());
                }
                children.iter_mut().for_each(|child| child.kill().unwrap());
                assert_eq!(next.recv_timeout(Duration::from_secs(20)), Ok(n), "nobody got what the dead one held");
                children.iter_mut().for_each(|child| assert!(!child.wait().unwrap().success()));
                // One for each of the others.
                common::send(&opens[0].sender(), 100..99 + WAITING, 8);
            });
        }
    });
}

/// In the child: says that it is there, takes what comes, and waits for more.
#[test]
fn child_waits() {
    let Some(file) = std::env::var_os(FILE) else { return };
    let channel = Options::new().create(Create::OpenExisting).blocking_open(Path::new(&file)).unwrap();
    let mut rx = channel.blocking_subscribe("other").unwrap();
    eprintln!("wait");
    rx.iter().for_each(drop);
}
