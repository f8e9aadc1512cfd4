//! Several channels in one directory: keys choose them, the receivers of a group share them, each is with one receiver
//! at a time, and moves when receivers come, go or die.

mod common;
#[path = "common/process.rs"]
mod process;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use common::{Dir, PAGE, Rng, eventually, poll_once, seed, small, within, within_tokio};
use disk_chan::{
    AckError, Create, Lease, Message, OpenError, Options, Partitioned, PartitionedReceiver, PartitionedSender,
    RecvError, RecvTimeoutError, Start, SubscribeError, TryRecvError,
};
use process::{Process, balanced, say, told};

/// What a child of these tests does.
#[test]
fn child() {
    let Some((role, dir)) = process::role() else { return };
    let words: Vec<&str> = role.iter().map(String::as_str).collect();
    match words[..] {
        ["worker", partitions, window] => worker(&dir, partitions.parse().unwrap(), window.parse().unwrap()),
        _ => panic!("no role {words:?}"),
    }
}

fn options() -> Options {
    small().max_opens(32)
}

fn new(partitions: usize) -> (Dir, Partitioned) {
    let dir = Dir::new();
    let all = Partitioned::blocking_new(dir.join("p"), partitions, options()).unwrap();
    (dir, all)
}

/// A message: the number of its key, and its number among those of that key.
fn stamp(key: u32, n: u32) -> [u8; 8] {
    (u64::from(key) << 32 | u64::from(n)).to_le_bytes()
}

fn stamped(message: &[u8]) -> (u32, u32) {
    let word = u64::from_le_bytes(message.try_into().unwrap());
    ((word >> 32) as u32, word as u32)
}

fn send(tx: &PartitionedSender, key: u32, n: u32) {
    tx.blocking_send(key.to_le_bytes(), stamp(key, n)).unwrap();
}

/// A key for each partition.
fn key_of_each(all: &Partitioned) -> Vec<u32> {
    let key_in = |p: usize| (0..).find(|key: &u32| all.partition_of(key.to_le_bytes()) == p).unwrap();
    (0..all.partitions()).map(key_in).collect()
}

// ---- keys

/// XXH3-64 of these keys, as its reference says: not computed by what is tested.
const HASHES: [(&str, u64); 3] =
    [("", 0x2d06_8005_38d3_94c2), ("a", 0xe6c6_32b6_1e96_4e1f), ("abc", 0x78af_5f94_892f_3950)];

#[test]
fn the_partition_of_a_key_is_always_the_same() {
    for n in [1, 2, 7, 10] {
        let (_dir, all) = new(n);
        for (key, hash) in HASHES {
            let expected = ((u128::from(hash) * n as u128) >> 64) as usize;
            assert_eq!(all.partition_of(key), expected, "of {key:?} among {n}");
            assert_eq!(all.sender().partition_of(key), expected);
        }
        let pinned = ["customer 7", "customer 8", "a key that is longer than sixteen bytes", "\u{1f980}"];
        let pinned = pinned.map(|key| all.partition_of(key));
        let golden = match n {
            1 => [0, 0, 0, 0],
            2 => [0, 1, 0, 0],
            7 => [2, 3, 2, 1],
            _ => [3, 5, 3, 2],
        };
        assert_eq!(pinned, golden, "among {n}");
    }
}

#[test]
fn all_partitions_are_used_and_about_equally() {
    for n in [1, 2, 7, 10] {
        let (_dir, all) = new(n);
        let tx = all.sender();
        let mut sent = vec![0; n];
        for key in 0..200 * n as u32 {
            let at = tx.try_send(key.to_le_bytes(), stamp(key, 0)).unwrap();
            assert_eq!(at.partition, all.partition_of(key.to_le_bytes()));
            sent[at.partition] += 1;
        }
        assert!(sent.iter().all(|&count| (140..260).contains(&count)), "{sent:?}");
        for (p, &count) in sent.iter().enumerate() {
            assert_eq!(all.partition(p).len(), count, "partition {p}");
        }
    }
}

// ---- the directory

#[test]
fn another_number_of_partitions_is_an_error_that_names_both() {
    let (dir, all) = new(7);
    drop(all);
    let error = Partitioned::blocking_new(dir.join("p"), 10, options()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, OpenError::Mismatch { option: "partitions", found: 7, expected: 10, .. }), "{text}");
    assert!(text.contains(dir.join("p").join("partitions").to_str().unwrap()), "{text}");
    assert!(text.contains("partitions = 7, not 10"), "{text}");
    assert_eq!(Partitioned::blocking_new(dir.join("p"), 7, options()).unwrap().partitions(), 7);
    for n in [0, 1025] {
        let error = Partitioned::blocking_new(dir.join("p"), n, options()).unwrap_err();
        assert!(matches!(error, OpenError::InvalidOption { option: "partitions", .. }), "{error}");
    }
}

#[test]
fn a_manifest_that_is_torn_or_altered_is_an_error() {
    let (dir, all) = new(2);
    drop(all);
    let path = dir.join("p").join("partitions");
    let whole = std::fs::read(&path).unwrap();
    let open = || Partitioned::blocking_new(dir.join("p"), 2, options());
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = open().expect_err(what);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{what}: {error}");
        error
    };
    for len in 0..whole.len() {
        let error = refused(&whole[..len], &format!("cut to {len} bytes"));
        assert!(matches!(error, OpenError::CutShort { .. }), "cut to {len} bytes: {error}");
    }
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = refused(&bytes, &format!("bit {bit} flipped"));
        let expected = match bit / 64 {
            0 => matches!(error, OpenError::NotAChannel { .. }),
            1 => matches!(error, OpenError::UnsupportedVersion { supported: 1, .. }),
            _ => matches!(error, OpenError::Damaged { .. }),
        };
        assert!(expected, "bit {bit} flipped: {error}");
    }
    let longer = [&whole[..], &[0]].concat();
    assert!(matches!(refused(&longer, "a byte more"), OpenError::Damaged { .. }));
    assert!(matches!(refused(b"# my notes\n", "a text"), OpenError::NotAChannel { .. }));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(open().unwrap_err(), OpenError::NotAChannel { .. }));
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, &whole).unwrap();
    open().unwrap();
}

#[test]
fn creating_and_opening_can_be_asked_for_alone() {
    let dir = Dir::new();
    let open = |create| Partitioned::blocking_new(dir.join("p"), 2, options().create(create));
    assert!(matches!(open(Create::OpenExisting).unwrap_err(), OpenError::NotFound { .. }));
    let looking = Partitioned::blocking_new(dir.join("p"), 2, options().read_only(true));
    assert!(matches!(looking.unwrap_err(), OpenError::NotFound { .. }));
    assert!(!dir.join("p").exists());
    let bad = Partitioned::blocking_new(dir.join("p"), 2, Options::new().page_size(1));
    assert!(matches!(bad.unwrap_err(), OpenError::InvalidOption { option: "page_size", .. }));
    assert!(!dir.join("p").exists(), "made before the options were looked at");
    let all = open(Create::CreateNew).unwrap();
    assert!(matches!(open(Create::CreateNew).unwrap_err(), OpenError::AlreadyExists { .. }));
    open(Create::OpenExisting).unwrap();
    all.sender().blocking_send("k", "m").unwrap();
    let looking = Partitioned::blocking_new(dir.join("p"), 2, Options::new().read_only(true)).unwrap();
    assert_eq!(looking.partition(looking.partition_of("k")).len(), 1);
    assert!(matches!(looking.blocking_subscribe("g"), Err(SubscribeError::ReadOnly)));
    drop((all, looking));
    std::fs::remove_file(dir.join("p").join("1.chan")).unwrap();
    let error = open(Create::OpenExisting).unwrap_err();
    assert!(matches!(&error, OpenError::NotFound { path } if path.ends_with("1.chan")), "{error}");
}

// ---- sharing

/// What receivers have seen of messages whose order is kept, whoever they are.
struct Seen {
    /// Of each key, the number of the next message that nobody had.
    next: Vec<u32>,
    /// Of each partition, who has how many of its messages out.
    out: Vec<(usize, usize)>,
}

impl Seen {
    fn new(keys: u32, partitions: usize) -> Self {
        Self { next: vec![0; keys as usize], out: vec![(0, 0); partitions] }
    }

    /// A receiver has this message, from now until it lets go.
    fn take(&mut self, who: usize, partition: usize, message: &[u8], attempts: u32) {
        let (key, n) = stamped(message);
        let next = &mut self.next[key as usize];
        assert!(n <= *next, "key {key}: {n} came before {next}");
        assert!(attempts > 1 || n == *next, "key {key}: {n} came again, for the first time");
        *next = (*next).max(n + 1);
        let (whose, count) = &mut self.out[partition];
        assert!(*count == 0 || *whose == who, "partition {partition} is with {whose} and with {who}");
        (*whose, *count) = (who, *count + 1);
    }

    /// Before it is finished.
    fn let_go(&mut self, partition: usize) {
        self.out[partition].1 -= 1;
    }
}

/// Receives and leases until it has had so many, or nothing comes for a while. True if it was that.
fn work(rx: &mut PartitionedReceiver, seen: &Mutex<Seen>, who: usize, most: u64, rng: &mut Rng) -> bool {
    let mut leases = VecDeque::<(usize, Lease)>::new();
    let finish = |(p, lease): (usize, Lease), rng: &mut Rng| {
        seen.lock().unwrap().let_go(p);
        if rng.one_in(10) { lease.give_back().unwrap() } else { lease.ack().unwrap() }
    };
    for _ in 0..most {
        let wait = Duration::from_millis(if leases.is_empty() { 200 } else { 1 });
        let got = if rng.one_in(3) {
            rx.lease_for(wait).map(|(p, lease)| {
                seen.lock().unwrap().take(who, p, &lease, lease.attempts());
                leases.push_back((p, lease));
            })
        } else {
            rx.recv_timeout(wait).map(|(p, message)| {
                seen.lock().unwrap().take(who, p, &message, message.attempts());
                if rng.one_in(20) {
                    thread::yield_now();
                }
                seen.lock().unwrap().let_go(p);
            })
        };
        match got {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) if leases.is_empty() => return true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(error) => panic!("{error}"),
        }
        if rng.one_in(40) {
            // Long enough that others ask for what it has.
            thread::sleep(Duration::from_millis(2));
        }
        if leases.len() > rng.below(4) as usize {
            let at = rng.below(leases.len() as u64) as usize;
            finish(leases.remove(at).unwrap(), rng);
        }
    }
    // Some are finished when their receiver is gone.
    if rng.one_in(2) {
        leases.into_iter().for_each(|lease| finish(lease, rng));
    } else {
        let mut rng = Rng::new(rng.next());
        let later = rx.clone();
        drop(std::mem::replace(rx, later));
        thread::yield_now();
        leases.into_iter().for_each(|lease| finish(lease, &mut rng));
    }
    false
}

#[test]
fn messages_of_a_key_come_in_order_to_receivers_that_come_and_go() {
    const KEYS: u32 = 40;
    const EACH: u32 = 250;
    within(240, || {
        let seed = seed();
        let (dir, all) = new(5);
        let seen = &Mutex::new(Seen::new(KEYS, 5));
        let done = &AtomicBool::new(false);
        let (ids, all) = (&AtomicUsize::new(1), &all);
        thread::scope(|scope| {
            for t in 0..2 {
                let tx = all.sender();
                scope.spawn(move || {
                    for n in 0..EACH {
                        for key in (0..KEYS).filter(|key| key % 2 == t) {
                            let a_while = Duration::from_secs(1);
                            while tx.send_timeout(key.to_le_bytes(), stamp(key, n), a_while).is_err() {
                                assert!(!seen.is_poisoned(), "a receiver failed");
                            }
                        }
                    }
                });
            }
            for t in 0..4 {
                let dir = &dir;
                scope.spawn(move || {
                    let mut rng = Rng::new(seed + 10 + t);
                    while !done.load(SeqCst) {
                        // Half of them have the directory open for themselves.
                        let own = (t % 2 == 0).then(|| {
                            Partitioned::blocking_new(dir.join("p"), 5, options().create(Create::OpenExisting)).unwrap()
                        });
                        let mut rx = own.as_ref().unwrap_or(all).blocking_subscribe("g").unwrap();
                        let most = 1 + rng.below(400);
                        let idle = work(&mut rx, seen, ids.fetch_add(1, SeqCst), most, &mut rng);
                        let finished = seen.lock().unwrap().next.iter().all(|&next| next == EACH);
                        let lag = |p| all.partition(p).groups().iter().map(|group| group.lag).sum::<u64>();
                        if idle && finished && (0..5).all(|p| lag(p) == 0) {
                            done.store(true, SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(seen.lock().unwrap().next, [EACH; KEYS as usize]);
        (0..5).for_each(|p| balanced(all.partition(p)));
    });
}

/// A receiver in a thread of its own, which does nothing but receive.
struct Busy {
    stop: Arc<AtomicBool>,
    /// The partitions that it has, and how often that changed.
    has: Arc<Mutex<(Vec<usize>, usize)>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Busy {
    fn new(mut rx: PartitionedReceiver) -> Self {
        let (stop, has) = (Arc::<AtomicBool>::default(), Arc::<Mutex<(Vec<usize>, usize)>>::default());
        let thread = thread::spawn({
            let (stop, has) = (stop.clone(), has.clone());
            move || {
                while !stop.load(SeqCst) {
                    let got = rx.recv_timeout(Duration::from_millis(20)).map(|_| ());
                    assert!(matches!(got, Ok(()) | Err(RecvTimeoutError::Timeout)), "{got:?}");
                    let mut has = has.lock().unwrap();
                    if has.0 != rx.held_partitions() {
                        *has = (rx.held_partitions().to_vec(), has.1 + 1);
                    }
                }
            }
        });
        Self { stop, has, thread: Some(thread) }
    }

    fn count(&self) -> usize {
        self.has.lock().unwrap().0.len()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn are_even(counts: &[usize], partitions: usize) -> bool {
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    counts.iter().sum::<usize>() == partitions && most - least <= 1
}

fn eventually_even(busy: &[Busy], partitions: usize) {
    let counts = || busy.iter().map(Busy::count).collect::<Vec<_>>();
    eventually(&format!("{} receivers share {partitions} evenly", busy.len()), || are_even(&counts(), partitions));
}

#[test]
fn partitions_are_shared_evenly_after_receivers_came_and_went_and_then_stay() {
    within(240, || {
        let mut rng = Rng::new(seed());
        for n in [1, 3, 10] {
            let (dir, all) = new(n);
            let other = Partitioned::blocking_new(dir.join("p"), n, options()).unwrap();
            let mut busy = vec![];
            let (tx, quiet) = (all.sender(), Arc::<AtomicBool>::default());
            let sender = thread::spawn({
                let quiet = quiet.clone();
                move || {
                    for key in 0.. {
                        // As fast as they receive: they are never idle.
                        let _ = tx.send_timeout(u32::to_le_bytes(key), [0; 8], Duration::from_millis(10));
                        if quiet.load(SeqCst) {
                            return;
                        }
                    }
                }
            });
            for round in 0..6 {
                for _ in 0..1 + rng.below(3) {
                    let from = if rng.one_in(2) { &all } else { &other };
                    busy.push(Busy::new(from.blocking_subscribe("g").unwrap()));
                }
                while busy.len() > 1 && round > 2 && rng.one_in(2) {
                    busy.swap_remove(rng.below(busy.len() as u64) as usize);
                }
                eventually_even(&busy, n);
            }
            quiet.store(true, SeqCst);
            sender.join().unwrap();
            // What was asked for before may move still; then nothing does, while messages are received.
            let (tx, mut rounds) = (all.sender(), 0);
            loop {
                let has = || busy.iter().map(|busy| busy.has.lock().unwrap().clone()).collect::<Vec<_>>();
                let before = has();
                for key in 0..20_000u32 {
                    tx.blocking_send(key.to_le_bytes(), stamp(key, 0)).unwrap();
                }
                let lag = |p| all.partition(p).groups().iter().map(|group| group.lag).sum::<u64>();
                eventually("all is received", || (0..n).all(|p| lag(p) == 0));
                if has() == before {
                    break;
                }
                rounds += 1;
                assert!(rounds < 5, "partitions move for nothing: {before:?}, then {:?}", has());
            }
            eventually_even(&busy, n);
        }
    });
}

#[test]
fn a_lease_keeps_its_partition_until_it_is_finished_also_without_its_receiver() {
    within(60, || {
        let (_dir, all) = new(2);
        let (tx, keys) = (all.sender(), key_of_each(&all));
        let send = |p: usize, n| send(&tx, keys[p], n);
        for (finish, goes) in [("ack", false), ("give back", false), ("ack", true), ("give back", true)] {
            let (mut one, mut two) = (all.blocking_subscribe("g").unwrap(), all.blocking_subscribe("g").unwrap());
            (0..2).for_each(|p| send(p, 0));
            let (q, other) = one.blocking_lease().unwrap();
            let (p, lease) = one.blocking_lease().unwrap();
            assert_eq!((p, q), (1, 0));
            other.ack().unwrap();
            send(p, 1);
            // It asks for the last, of which a lease is out, and is given the other.
            if goes {
                drop(one);
                one = two.clone();
            }
            eventually("the other one moves", || {
                assert!(matches!(two.try_recv(), Err(TryRecvError::Empty)), "{finish}: {p} was with another");
                let _ = if goes { Err(TryRecvError::Empty) } else { one.try_lease().map(|(p, l)| (p, l.give_back())) };
                two.held_partitions() == [q]
            });
            if !goes {
                one = all.blocking_subscribe("g").unwrap();
                drop(std::mem::replace(&mut one, two.clone()));
            }
            let mut expected = vec![1];
            match finish {
                "ack" => lease.ack().unwrap(),
                _ => {
                    lease.give_back().unwrap();
                    expected = vec![0, 1];
                }
            }
            let mut got = vec![];
            eventually("the rest is received", || {
                while let Ok((from, message)) = two.try_recv() {
                    assert_eq!(from, p);
                    got.push(stamped(&message).1);
                }
                got.len() == expected.len()
            });
            assert_eq!(got, expected);
        }
    });
}

#[test]
fn a_lease_that_hangs_without_its_receiver_is_handed_to_another() {
    within(60, || {
        let dir = Dir::new();
        let options = options().lease_timeout(Duration::from_millis(30));
        let all = Partitioned::blocking_new(dir.join("p"), 3, options).unwrap();
        all.sender().blocking_send("k", "m").unwrap();
        let mut one = all.blocking_subscribe("g").unwrap();
        let (_, hangs) = one.blocking_lease().unwrap();
        let mut two = one.clone();
        drop(one);
        let (_, lease) = two.blocking_lease().unwrap();
        assert_eq!(lease.attempts(), 2);
        assert_eq!(hangs.ack(), Err(AckError::Taken));
        lease.ack().unwrap();
    });
}

#[test]
fn unordered_receivers_have_messages_of_one_partition_at_once() {
    within(60, || {
        let (_dir, all) = new(3);
        let (tx, keys) = (all.sender(), key_of_each(&all));
        for n in 0..4 {
            keys.iter().for_each(|&key| send(&tx, key, n));
        }
        let mut one = all.blocking_subscribe_unordered("g").unwrap();
        let mut two = one.clone();
        assert_eq!(two.held_partitions(), [0, 1, 2]);
        let mut held = BTreeMap::<usize, Vec<Lease>>::new();
        for n in 0..12 {
            let (p, lease) = if n % 2 == 0 { one.try_lease() } else { two.try_lease() }.unwrap();
            held.entry(p).or_default().push(lease);
        }
        assert!(matches!(one.try_lease(), Err(TryRecvError::Empty)));
        for (p, leases) in held {
            let numbers: Vec<_> = leases.iter().map(|lease| stamped(lease).1).collect();
            assert_eq!(numbers, [0, 1, 2, 3], "of partition {p}");
            leases.into_iter().for_each(|lease| lease.ack().unwrap());
        }
        (0..3).for_each(|p| balanced(all.partition(p)));
    });
}

#[test]
fn the_partitions_of_a_receiver_take_turns() {
    let (_dir, all) = new(3);
    let (tx, keys) = (all.sender(), key_of_each(&all));
    for n in 0..5 {
        keys.iter().for_each(|&key| send(&tx, key, n));
    }
    let mut rx = all.blocking_subscribe("g").unwrap();
    let got: Vec<_> = (0..15).map(|_| rx.try_recv().map(|(p, m)| (p, stamped(&m).1)).unwrap()).collect();
    let expected: Vec<_> = (0..5).flat_map(|n| [0, 1, 2].map(|p| (p, n))).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_message_that_was_forgotten_comes_again() {
    let (_dir, all) = new(2);
    all.sender().blocking_send("k", "m").unwrap();
    let mut rx = all.blocking_subscribe("g").unwrap();
    std::mem::forget(rx.try_recv().unwrap());
    let (_, message) = rx.try_recv().unwrap();
    assert_eq!((&*message, message.attempts()), (&b"m"[..], 2));
}

// ---- waiting

#[test]
fn one_who_sleeps_is_woken_by_a_message_in_any_partition_and_by_a_move() {
    within(60, || {
        let (dir, all) = new(4);
        let (tx, keys) = (all.sender(), key_of_each(&all));
        let rx = all.blocking_subscribe("g").unwrap();
        let far = Partitioned::blocking_new(dir.join("p"), 4, options()).unwrap();
        let got = &Mutex::new(Vec::new());
        thread::scope(|scope| {
            let sleep = |mut rx: PartitionedReceiver| {
                scope.spawn(move || {
                    while let Ok((p, message)) = rx.blocking_recv() {
                        assert_eq!(stamped(&message).1, 0);
                        got.lock().unwrap().push(p);
                    }
                })
            };
            sleep(rx);
            for (p, key) in keys.iter().enumerate() {
                tx.blocking_send(key.to_le_bytes(), stamp(0, 0)).unwrap();
                eventually("the message is received", || got.lock().unwrap().len() == p + 1);
            }
            assert_eq!(*got.lock().unwrap(), [0, 1, 2, 3]);
            // Another takes some, in another open; it never sleeps, and gives back what it had when it goes.
            let mut other = far.blocking_subscribe("g").unwrap();
            let mut had = vec![];
            eventually("two partitions moved", || {
                assert!(matches!(other.try_recv(), Err(TryRecvError::Empty)));
                had = other.held_partitions().to_vec();
                had.len() == 2
            });
            for &p in &had {
                tx.blocking_send(keys[p].to_le_bytes(), stamp(0, 0)).unwrap();
            }
            let before = got.lock().unwrap().len();
            drop(other);
            eventually("what it left is received", || got.lock().unwrap().len() == before + 2);
            drop((tx, far, all));
        });
    });
}

#[test]
fn it_ends_when_all_partitions_have_ended_also_for_one_that_holds_none() {
    within(60, || {
        let (_dir, all) = new(2);
        let tx = all.sender();
        let keys = key_of_each(&all);
        let mut one = all.blocking_subscribe("g").unwrap();
        let mut rest: Vec<_> = (0..3).map(|_| one.clone()).collect();
        tx.blocking_send(keys[1].to_le_bytes(), stamp(keys[1], 0)).unwrap();
        assert_eq!(one.blocking_recv().unwrap().0, 1);
        tx.blocking_send(keys[1].to_le_bytes(), stamp(keys[1], 1)).unwrap();
        drop((tx, all));
        assert!(rest.iter_mut().all(|rx| matches!(rx.try_recv(), Err(TryRecvError::Empty))), "one is not received yet");
        assert_eq!(stamped(&one.blocking_recv().unwrap().1).1, 1);
        let mut ended = false;
        eventually("it says so", || {
            ended |= matches!(one.try_recv(), Err(TryRecvError::Disconnected));
            ended
        });
        drop(one);
        for mut rx in rest {
            assert_eq!(rx.blocking_recv().map(|_| ()), Err(RecvError::Disconnected));
        }
    });
}

#[test]
fn a_group_that_was_removed_in_one_partition_is_an_error() {
    within(60, || {
        let (_dir, all) = new(3);
        let mut rx = all.blocking_subscribe("g").unwrap();
        let mut waits = rx.clone();
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
        let sleeper = thread::spawn(move || waits.blocking_recv().map(|_| ()));
        all.partition(2).remove_group("g", true).unwrap();
        assert_eq!(sleeper.join().unwrap(), Err(RecvError::GroupRemoved));
        assert!(matches!(rx.try_recv(), Err(TryRecvError::GroupRemoved)));
        // The next group of the name is whole, whoever held what of this one.
        let mut next = all.blocking_subscribe("g").unwrap();
        drop(rx);
        all.sender().blocking_send("k", "m").unwrap();
        assert_eq!(&*next.blocking_recv().unwrap().1, b"m");
        eventually("it has all", || next.try_recv().is_err() && next.held_partitions() == [0, 1, 2]);
    });
}

#[test]
fn tasks_share_partitions_and_a_receive_that_is_dropped_costs_nothing() {
    const KEYS: u32 = 20;
    const EACH: u32 = 100;
    within_tokio(120, || async {
        let dir = Dir::new();
        let all = Partitioned::new(dir.join("p"), 4, options()).await.unwrap();
        let seen = Arc::new(Mutex::new(Seen::new(KEYS, 4)));
        let rx = all.subscribe("g").await.unwrap();
        let mut tasks = vec![];
        for who in 0..3 {
            let (mut rx, seen) = (rx.clone(), seen.clone());
            tasks.push(tokio::spawn(async move {
                let handle = async |got: Result<(usize, Message<'_>), RecvError>| {
                    let (p, message) = match got {
                        Ok(got) => got,
                        Err(error) => {
                            assert_eq!(error, RecvError::Disconnected);
                            return false;
                        }
                    };
                    seen.lock().unwrap().take(who, p, &message, message.attempts());
                    tokio::task::yield_now().await;
                    seen.lock().unwrap().let_go(p);
                    true
                };
                loop {
                    // Most of these are dropped, registered and woken or not.
                    let go_on = if let Poll::Ready(got) = poll_once(rx.recv()) {
                        handle(got).await
                    } else {
                        handle(rx.recv().await).await
                    };
                    if !go_on {
                        return;
                    }
                }
            }));
        }
        drop(rx);
        let tx = all.sender();
        drop(all);
        for n in 0..EACH {
            for key in 0..KEYS {
                let send = || tx.send(key.to_le_bytes(), stamp(key, n));
                while tokio::time::timeout(Duration::from_secs(1), send()).await.is_err() {
                    assert!(!seen.is_poisoned(), "a receiver failed");
                }
            }
        }
        drop(tx);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(seen.lock().unwrap().next, [EACH; KEYS as usize]);
    });
}

#[test]
fn dead_letters_are_those_of_a_partition() {
    let dir = Dir::new();
    let all = Partitioned::blocking_new(dir.join("p"), 2, options().max_attempts(1)).unwrap();
    let sent = all.sender().blocking_send("k", "m").unwrap();
    let mut rx = all.blocking_subscribe("g").unwrap();
    rx.try_lease().unwrap().1.give_back().unwrap();
    assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
    let mut letters = all.partition(sent.partition).blocking_dead_letters().unwrap();
    let letter = letters.try_recv().unwrap();
    assert!(letter.ends_with(b"m"));
}

// ---- deaths

/// In the child: receives, keeps `window` leases or none, says what it has, and finishes it when it is told to go on.
fn worker(dir: &Path, partitions: usize, window: usize) {
    let all = Partitioned::blocking_new(dir, partitions, options().create(Create::OpenExisting)).unwrap();
    let mut rx = all.blocking_subscribe("g").unwrap();
    let (mut leases, mut has) = (VecDeque::new(), usize::MAX);
    loop {
        if rx.held_partitions().len() != has {
            has = rx.held_partitions().len();
            say(format!("has {has}"));
        }
        let wait = Duration::from_millis(20);
        if window == 0 {
            let Ok((_, message)) = rx.recv_timeout(wait) else { continue };
            let (key, n) = stamped(&message);
            say(format!("got {key} {n} {}", message.attempts()));
            let _ = told();
            continue;
        }
        let got = rx.lease_for(if leases.is_empty() { wait } else { Duration::from_millis(1) });
        let missed = got.is_err();
        if let Ok((_, lease)) = got {
            let (key, n) = stamped(&lease);
            say(format!("got {key} {n} {}", lease.attempts()));
            let _ = told();
            leases.push_back(lease);
        }
        while leases.len() > window || missed && !leases.is_empty() {
            leases.pop_front().unwrap().ack().unwrap();
        }
    }
}

/// The workers, and what they have.
struct Workers {
    all: HashMap<usize, (Process, usize)>,
    next: Vec<u32>,
}

impl Workers {
    /// Hears what one says next, if it has said something.
    fn hear(&mut self, who: usize, line: &str) {
        let words: Vec<u32> = line.split(' ').skip(1).map(|word| word.parse().unwrap()).collect();
        let (process, has) = self.all.get_mut(&who).unwrap();
        let [key, n, attempts] = words[..] else {
            *has = words[0] as usize;
            return;
        };
        let next = &mut self.next[key as usize];
        assert!(n <= *next, "key {key}: {n} came before {next}");
        assert!(attempts > 1 || n == *next, "key {key}: {n} came again, for the first time");
        *next = (*next).max(n + 1);
        process.tell("go on");
    }

    /// Hears what all have said.
    fn hear_all(&mut self) {
        for who in self.all.keys().copied().collect::<Vec<_>>() {
            while let Some(line) = self.all[&who].0.heard() {
                self.hear(who, &line);
            }
        }
    }

    /// Kills one, and hears what it had said: before anybody else, who then has what it had.
    fn kill(&mut self, who: usize) {
        let (process, _) = &self.all[&who];
        process.kill();
        for line in process.last_words() {
            let words: Vec<u32> = line.split(' ').skip(1).map(|word| word.parse().unwrap()).collect();
            if let [key, n, attempts] = words[..] {
                let next = &mut self.next[key as usize];
                assert!(n <= *next && (attempts > 1 || n == *next), "key {key}: {n} came before {next}");
                *next = (*next).max(n + 1);
            }
        }
        self.all.remove(&who);
    }
}

fn kill_workers(window: usize) {
    const KEYS: u32 = 12;
    const EACH: u32 = 60;
    let mut rng = Rng::new(seed());
    let (dir, all) = new(6);
    all.blocking_subscribe("g").unwrap();
    let tx = all.sender();
    for n in 0..EACH {
        (0..KEYS).for_each(|key| send(&tx, key, n));
    }
    let mut workers = Workers { all: HashMap::new(), next: vec![0; KEYS as usize] };
    let mut started = 0;
    let mut start = |workers: &mut Workers| {
        let process = Process::start(&format!("worker 6 {window}"), &dir.join("p"));
        workers.all.insert(started, (process, 0));
        started += 1;
    };
    (0..3).for_each(|_| start(&mut workers));
    let total = |workers: &Workers| workers.next.iter().sum::<u32>();
    for round in 1..=8 {
        let due = KEYS * EACH * round / 10;
        eventually("a share of the messages is received", || {
            workers.hear_all();
            total(&workers) >= due
        });
        let victims: Vec<_> = workers.all.keys().copied().collect();
        workers.kill(victims[rng.below(victims.len() as u64) as usize]);
        if rng.one_in(3) {
            let victims: Vec<_> = workers.all.keys().copied().collect();
            workers.kill(victims[rng.below(victims.len() as u64) as usize]);
        }
        while workers.all.len() < 2 || workers.all.len() < 4 && rng.one_in(2) {
            start(&mut workers);
        }
    }
    let lag = |p| all.partition(p).groups().iter().map(|group| group.lag).sum::<u64>();
    eventually("all is received", || {
        workers.hear_all();
        total(&workers) == KEYS * EACH && (0..6).all(|p| lag(p) == 0)
    });
    eventually("those who are left share evenly", || {
        workers.hear_all();
        are_even(&workers.all.values().map(|(_, has)| *has).collect::<Vec<_>>(), 6)
    });
    (0..6).for_each(|p| balanced(all.partition(p)));
}

#[test]
fn workers_that_are_killed_with_messages_leave_the_order_of_each_key() {
    within(240, || kill_workers(0));
}

#[test]
fn workers_that_are_killed_with_leases_leave_the_order_of_each_key() {
    within(240, || kill_workers(3));
}

#[test]
fn a_process_that_is_killed_and_a_sleeper_that_holds_nothing() {
    within(120, || {
        let (dir, all) = new(1);
        let tx = all.sender();
        all.blocking_subscribe("g").unwrap();
        (0..3).for_each(|n| send(&tx, 0, n));
        let process = Process::start("worker 1 0", &dir.join("p"));
        loop {
            let line = process.hear();
            if line == "got 0 0 1" {
                break;
            }
            assert!(line.starts_with("has "), "{line}");
        }
        // It holds the one partition, with a message out, and is not asked to let go of it.
        let mut rx = all.blocking_subscribe("g").unwrap();
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Empty)));
        let sleeper = thread::spawn(move || {
            let mut one = || rx.blocking_recv().map(|(_, message)| (stamped(&message).1, message.attempts())).unwrap();
            [one(), one(), one()]
        });
        process.kill();
        assert_eq!(sleeper.join().unwrap(), [(0, 2), (1, 1), (2, 1)]);
    });
}

#[test]
fn full_partitions_hold_up_only_their_keys() {
    let (_dir, all) = new(2);
    let keys = key_of_each(&all);
    all.blocking_subscribe("g").unwrap();
    let tx = all.sender();
    let message = vec![0; PAGE / 4];
    let error = (0..100).find_map(|_| tx.try_send(keys[0].to_le_bytes(), &message).err()).unwrap();
    assert!(error.is_full(), "{error}");
    assert_eq!(tx.try_send(keys[1].to_le_bytes(), &message).unwrap().partition, 1);
    assert!(tx.send_timeout(keys[0].to_le_bytes(), &message, Duration::from_millis(1)).is_err());
}

#[test]
fn a_partition_whose_group_was_moved_is_shared_again_and_read_in_order() {
    within(60, || {
        let (_dir, all) = new(3);
        let (tx, keys) = (all.sender(), key_of_each(&all));
        let mut receivers = [0, 1].map(|_| all.blocking_subscribe("g").unwrap());
        // Everything that is there, in turns: the numbers of each partition.
        let mut drain = |until: usize| {
            let (mut got, mut total) = (vec![vec![]; 3], 0);
            while total < until {
                for rx in &mut receivers {
                    match rx.try_recv() {
                        Ok((partition, message)) => {
                            got[partition].push(stamped(&message).1);
                            total += 1;
                        }
                        Err(TryRecvError::Empty) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            got
        };
        for n in 0..60 {
            send(&tx, keys[n as usize % 3], n);
        }
        let first = drain(60);
        assert!(first.iter().all(|numbers| numbers.is_sorted() && numbers.len() == 20));
        for _ in 0..10 {
            all.partition(1).seek_group("g", Start::Oldest, true).unwrap();
            let again = drain(20);
            assert_eq!(again, [vec![], first[1].clone(), vec![]]);
        }
    });
}

/// A worker that always has some leases out lets a partition go all the same.
#[test]
fn one_who_leases_without_a_pause_shares() {
    within(60, || {
        let (_dir, all) = new(4);
        let [mut busy, mut late] = [0, 1].map(|_| all.blocking_subscribe("g").unwrap());
        let enough = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let tx = all.sender();
                for n in (0..).take_while(|_| !enough.load(SeqCst)) {
                    if tx.try_send(u32::to_le_bytes(n), stamp(n, 0)).is_err() || n % 16 == 0 {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            scope.spawn(|| {
                let mut out = VecDeque::new();
                while !enough.load(SeqCst) {
                    if let Ok((_, lease)) = busy.lease_for(Duration::from_millis(20)) {
                        out.push_back(lease);
                    }
                    while out.len() > 8 {
                        out.pop_front().unwrap().ack().unwrap();
                    }
                }
            });
            let mut got = 0;
            while got < 100 {
                if let Ok((_, lease)) = late.lease_for(Duration::from_millis(50)) {
                    lease.ack().unwrap();
                    got += 1;
                }
            }
            enough.store(true, SeqCst);
        });
    });
}
