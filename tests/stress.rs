//! Everything at once over two small pages, for some seconds, with exact books at the end.

mod common;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Rng, body, number, open_new, seed, small, within};
use disk_chan::{AckError, Channel, Lease, Overflow, Receiver, TryRecvError};

const SENDERS: u64 = 3;
const RECEIVERS: u64 = 2;
const GROUPS: [&str; 3] = ["one", "two", "three"];

/// What became of one message in one group.
#[derive(Clone, Copy, Default)]
struct Fate {
    /// Times that it was handed out.
    seen: u32,
    /// Times that it was done.
    done: u32,
    /// Times that it was given back.
    back: u32,
    /// Given back after its page went.
    gone: u32,
}

/// The books of a group.
#[derive(Default)]
struct Books {
    fates: BTreeMap<u64, Fate>,
    lagged: u64,
}

impl Books {
    fn seen(&mut self, number: u64, attempts: u32) -> &mut Fate {
        let fate = self.fates.entry(number).or_default();
        fate.seen += 1;
        assert!(attempts >= 1 && attempts <= fate.back + 1, "{number}: attempt {attempts}, given back {}", fate.back);
        fate
    }
}

/// One message is numbered by its sender and its place in the sender's row.
fn name(sender: u64, n: u64) -> u64 {
    n * SENDERS + sender
}

fn send(channel: &Channel, sender: u64, rng: &mut Rng, stop: &AtomicBool) -> u64 {
    let tx = channel.sender();
    let mut sent = 0;
    let length = |rng: &mut Rng| match rng.below(20) {
        0 => 8 + rng.below(20_000) as usize,
        1..5 => 8 + rng.below(2_000) as usize,
        _ => 8 + rng.below(200) as usize,
    };
    while !stop.load(Ordering::Relaxed) {
        match rng.below(4) {
            0 => {
                let count = rng.below(40);
                let batch: Vec<_> = (sent..sent + count).map(|n| body(name(sender, n), length(rng))).collect();
                assert_eq!(tx.blocking_send_many(&batch).unwrap().len() as u64, count);
                sent += count;
            }
            1 => match tx.try_send(body(name(sender, sent), length(rng))) {
                Ok(_) => sent += 1,
                Err(error) => assert!(error.is_full(), "{error}"),
            },
            2 => {
                let message = body(name(sender, sent), length(rng));
                let mut reserved = tx.reserve(message.len()).unwrap();
                reserved.copy_from_slice(&message);
                reserved.blocking_commit().unwrap();
                sent += 1;
            }
            _ => {
                smol::block_on(tx.send(body(name(sender, sent), length(rng)))).unwrap();
                sent += 1;
            }
        }
    }
    sent
}

/// Gives back under the books' lock, so that nobody sees the next attempt before it is written down.
fn give_back(lease: Lease, books: &Mutex<Books>, by_drop: bool) {
    let mut books = books.lock().unwrap();
    let fate = books.fates.get_mut(&number(&lease)).unwrap();
    fate.back += 1;
    if by_drop {
        return drop(lease);
    }
    match lease.give_back() {
        Ok(()) => {}
        Err(AckError::Gone) => fate.gone += 1,
        Err(error) => panic!("{error}"),
    }
}

fn receive(mut rx: Receiver, books: &Mutex<Books>, rng: &mut Rng, sending: &AtomicBool, last: &AtomicBool) {
    let mut held: Vec<Lease> = vec![];
    loop {
        let ending = last.load(Ordering::SeqCst);
        let mut nothing = false;
        let mut note = |error: TryRecvError| match error {
            TryRecvError::Lagged(n) => books.lock().unwrap().lagged += n,
            TryRecvError::Empty | TryRecvError::TooManyHeld { .. } => nothing = true,
            error => panic!("{error}"),
        };
        match rng.below(4) {
            0 | 1 => match rx.try_recv() {
                Ok(m) => books.lock().unwrap().seen(number(&m), m.attempts()).done += 1,
                Err(error) => note(error),
            },
            2 => match rx.try_lease() {
                Ok(lease) => {
                    books.lock().unwrap().seen(number(&lease), lease.attempts());
                    held.push(lease);
                }
                Err(error) => note(error),
            },
            _ => match rx.recv_timeout(Duration::from_micros(rng.below(300))) {
                Ok(m) => books.lock().unwrap().seen(number(&m), m.attempts()).done += 1,
                Err(disk_chan::RecvTimeoutError::Lagged(n)) => note(TryRecvError::Lagged(n)),
                Err(disk_chan::RecvTimeoutError::Timeout) => nothing = true,
                Err(error) => panic!("{error}"),
            },
        }
        while held.len() > 6 || (!held.is_empty() && (nothing || rng.one_in(3))) {
            let lease = held.swap_remove(rng.below(held.len() as u64) as usize);
            match rng.below(6) {
                0 if sending.load(Ordering::Relaxed) => give_back(lease, books, false),
                1 if sending.load(Ordering::Relaxed) => give_back(lease, books, true),
                _ => {
                    let n = number(&lease);
                    lease.ack().unwrap();
                    books.lock().unwrap().fates.get_mut(&n).unwrap().done += 1;
                }
            }
        }
        if nothing {
            if ending {
                return;
            }
            thread::yield_now();
        }
        if rng.one_in(500) {
            thread::sleep(Duration::from_micros(rng.below(3_000)));
        }
    }
}

fn stress(overflow: Overflow, time: Duration) {
    let seed = seed();
    let (dir, channel) = open_new(small().overflow(overflow));
    // A second open of the file, with watchers and sleepers of its own.
    let second = small().overflow(overflow).blocking_open(dir.file()).unwrap();
    let open = |n: u64| if n.is_multiple_of(2) { &channel } else { &second };
    let books: Vec<Mutex<Books>> = GROUPS.map(|_| Mutex::new(Books::default())).into();
    let (stop, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let sending = AtomicBool::new(true);
    let sent: Vec<u64> = thread::scope(|scope| {
        for (group, books) in GROUPS.iter().zip(&books) {
            for receiver in 0..RECEIVERS {
                let rx = open(receiver).blocking_subscribe(*group).unwrap();
                let mut rng = Rng::new(seed ^ (receiver << 8 | (group.len() as u64) << 16));
                let (sending, ended) = (&sending, &ended);
                scope.spawn(move || receive(rx, books, &mut rng, sending, ended));
            }
        }
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let (channel, stop) = (open(sender), &stop);
                scope.spawn(move || send(channel, sender, &mut Rng::new(seed ^ sender << 32), stop))
            })
            .collect();
        let start = Instant::now();
        while start.elapsed() < time && !senders.iter().any(|sender| sender.is_finished()) {
            thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::SeqCst);
        let sent = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
        sending.store(false, Ordering::SeqCst);
        // Who still gives back does so before this; then nothing that is handed out goes back any more.
        thread::sleep(Duration::from_millis(50));
        ended.store(true, Ordering::SeqCst);
        sent
    });
    let total: u64 = sent.iter().sum();
    println!("{total} messages");
    assert!(total > 1_000, "{total}");
    for (group, books) in GROUPS.iter().zip(books) {
        let books = books.into_inner().unwrap();
        let (mut rest, mut redelivered) = (0, 0);
        // What a receiver gave back as the last of all is still there.
        let mut rx = channel.blocking_subscribe(*group).unwrap();
        let mut books = books;
        loop {
            match rx.try_recv() {
                Ok(m) => {
                    books.seen(number(&m), m.attempts()).done += 1;
                    rest += 1;
                }
                Err(TryRecvError::Empty) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let mut gone = 0;
        for (n, fate) in &books.fates {
            assert!(n / SENDERS < sent[(n % SENDERS) as usize], "{group}: {n} was not sent");
            assert!(fate.done <= 1, "{group}: {n} was done {} times", fate.done);
            if overflow == Overflow::Block {
                assert_eq!((fate.done, fate.gone), (1, 0), "{group}: {n}");
                assert_eq!(fate.seen, fate.back + 1, "{group}: {n}");
            } else {
                assert!(fate.seen <= fate.back + 1, "{group}: {n}");
                assert!(fate.done == 1 || fate.back >= 1, "{group}: {n} was handed out and vanished");
            }
            gone += u64::from(fate.done == 0);
            redelivered += u64::from(fate.seen - 1);
        }
        let handed_out = books.fates.len() as u64;
        assert_eq!(handed_out + books.lagged, total, "{group}: handed out {handed_out}, lagged {}", books.lagged);
        if overflow == Overflow::Block {
            assert_eq!(books.lagged, 0);
        }
        let stats = channel.groups().into_iter().find(|g| g.name.as_str() == *group).unwrap();
        assert_eq!((stats.lag, stats.held, stats.returned, stats.damaged), (0, 0, 0, 0), "{group}");
        assert_eq!((stats.lagged, stats.gone), (books.lagged, gone), "{group}");
        assert_eq!(stats.redelivered, redelivered, "{group}");
        println!(
            "{group}: {handed_out} handed out, {redelivered} again, {gone} gone, {} lagged, {rest} left",
            books.lagged
        );
    }
}

#[test]
fn senders_receivers_leases_and_groups_that_block() {
    within(90, || stress(Overflow::Block, Duration::from_secs(5)));
}

#[test]
fn senders_receivers_leases_and_groups_that_drop() {
    within(90, || stress(Overflow::DropOldest, Duration::from_secs(5)));
}
