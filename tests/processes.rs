//! Several processes on one file: a wait in one is ended by another, a death is noticed and its leftovers are handed
//! on, a process that only stands still is waited for, and everything means the same across processes as in one.

mod common;
#[path = "common/process.rs"]
mod process;

use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use common::{Dir, Rng, assert_each_once, body, drain, drain_numbers, eventually, fill, number, seed, small, within};
use disk_chan::{Channel, Full, OpenError, Options, Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError};
use process::{
    LONG, Process, balanced, long, open, play, prompt, say, stamped, stop_in_send, stream, told, until_it_comes_off,
};

/// Held by tests that measure how fast something is, and by those that keep the machine busy.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// What a child of these tests does.
#[test]
fn child() {
    let Some((role, file)) = process::role() else { return };
    let words: Vec<&str> = role.iter().map(String::as_str).collect();
    match words[..] {
        ["puppet"] => play(open(&file)),
        ["echo", way] => echo(&file, way),
        ["stream", ..] => stream(&open(&file), [1, 2, 3].map(|at| words[at].parse().unwrap())),
        ["visitor", n] => visitor(&file, n.parse().unwrap()),
        _ => panic!("no role {words:?}"),
    }
}

/// A new channel, with a receiver of its group "g".
fn new(options: Options) -> (Dir, Channel, Receiver) {
    let (dir, channel) = common::open_new(options);
    let rx = channel.blocking_subscribe("g").unwrap();
    (dir, channel, rx)
}

// ---- waking

/// In the child: sends back what comes.
fn echo(file: &Path, way: &str) {
    let there = open(file);
    let back = open(&file.with_extension("back"));
    let (mut rx, tx) = (there.blocking_subscribe("g").unwrap(), back.sender());
    drop((there, back));
    say("ready");
    loop {
        let message = match way {
            "thread" => rx.blocking_recv().map(|m| m.to_vec()),
            _ => smol::block_on(rx.recv()).map(|m| m.to_vec()),
        };
        match (message, way) {
            (Err(error), _) => return say(format!("{error:?}")),
            (Ok(message), "thread") => drop(tx.blocking_send(message).unwrap()),
            (Ok(message), _) => drop(smol::block_on(tx.send(message)).unwrap()),
        }
    }
}

/// Fails unless most of these were there and back by a wake each way: a look every 50 ms would take longer.
fn woken(what: &str, mut rounds: Vec<Duration>) {
    prompt(what, &rounds);
    rounds.sort();
    assert!(rounds[rounds.len() / 2] < Duration::from_millis(20), "{what}: nobody was woken: {rounds:?}");
}

/// There and back between two processes, each asleep when the message comes: the sender pauses first.
fn there_and_back(way: &'static str, len: impl Fn(&Channel) -> usize + Send + 'static) {
    within(60, move || {
        let _alone = alone();
        let (dir, there) = common::open_new(small());
        let back = small().blocking_open(dir.file().with_extension("back")).unwrap();
        there.blocking_subscribe("g").unwrap();
        let mut rx = back.blocking_subscribe("g").unwrap();
        let echo = Process::start(&format!("echo {way}"), &dir.file()).ready();
        let (tx, len) = (there.sender(), len(&there));
        let mut rounds = vec![];
        for n in 0..60 {
            thread::sleep(Duration::from_millis(3));
            let start = Instant::now();
            if way == "thread" {
                tx.blocking_send(body(n, len)).unwrap();
                assert_eq!(number(&rx.blocking_recv().unwrap()), n);
            } else {
                smol::block_on(tx.send(body(n, len))).unwrap();
                assert_eq!(number(&smol::block_on(rx.recv()).unwrap()), n);
            }
            rounds.push(start.elapsed());
        }
        woken(&format!("messages there and back, {way}s, {len} bytes"), rounds);
        drop((tx, there));
        assert_eq!(echo.hear(), "Disconnected");
    });
}

#[test]
fn a_thread_that_waits_for_a_message_is_woken_by_another_process() {
    there_and_back("thread", |_| 40);
}

#[test]
fn a_task_that_waits_for_a_message_is_woken_by_another_process() {
    there_and_back("task", |_| 40);
}

/// The ring is full, and a send waits in one process until the other is done with a page.
fn room(way: &'static str, who_waits: &'static str) {
    within(60, move || {
        let _alone = alone();
        let (dir, channel, mut rx) = new(small());
        let tx = channel.sender();
        // One message is a page.
        let len = channel.max_message_len() * 2 / 3;
        let mut puppet = Process::puppet(&dir.file());
        let mut next = fill(&channel, 0, len);
        let mut oldest = 0;
        let mut rounds = vec![];
        for round in 0..40 {
            let send = if way == "thread" { "send" } else { "send_task" };
            let start = if who_waits == "child" {
                puppet.tell(&format!("{send} {next} {len}"));
                if round == 0 {
                    puppet.silent_for(Duration::from_millis(200));
                }
                thread::sleep(Duration::from_millis(5));
                let start = Instant::now();
                assert_eq!(number(&rx.try_recv().unwrap()), oldest);
                let (end, offset) = puppet.hear_when();
                assert!(offset.contains(':'), "{offset}");
                end - start
            } else {
                let (tx, n) = (tx.clone(), next);
                let sender = thread::spawn(move || {
                    match way {
                        "thread" => tx.blocking_send(body(n, len)).unwrap(),
                        _ => smol::block_on(tx.send(body(n, len))).unwrap(),
                    };
                    Instant::now()
                });
                thread::sleep(Duration::from_millis(if round == 0 { 200 } else { 5 }));
                assert!(!sender.is_finished(), "it waits");
                let start = Instant::now();
                assert_eq!(puppet.ask("recv g"), format!("{oldest} 1"));
                sender.join().unwrap() - start
            };
            rounds.push(start);
            (next, oldest) = (next + 1, oldest + 1);
        }
        woken(&format!("room for a {way} of the {who_waits}"), rounds);
    });
}

#[test]
fn a_thread_that_waits_for_room_is_woken_by_another_process() {
    room("thread", "parent");
    room("thread", "child");
}

#[test]
fn a_task_that_waits_for_room_is_woken_by_another_process() {
    room("task", "parent");
    room("task", "child");
}

/// Two opens of one file in one process are as two processes: each wakes the other, neither takes the other for dead,
/// and closing one leaves the other's locks alone.
#[test]
fn two_opens_in_one_process() {
    within(60, || {
        let dir = Dir::new();
        let one = small().blocking_open(dir.file()).unwrap();
        let two = open(&dir.file());
        assert_eq!((one.stats().opens, two.stats().opens), (2, 2));
        let (mut rx, mut other) = (one.blocking_subscribe("g").unwrap(), two.blocking_subscribe("g").unwrap());
        let mut rounds = vec![];
        for n in 0..40 {
            let (channel, rx) = if n % 2 == 0 { (&one, &mut other) } else { (&two, &mut rx) };
            let tx = channel.sender();
            rounds.push(thread::scope(|scope| {
                let receiver = scope.spawn(|| {
                    assert_eq!(number(&rx.blocking_recv().unwrap()), n);
                    Instant::now()
                });
                thread::sleep(Duration::from_millis(5));
                let start = Instant::now();
                tx.blocking_send(body(n, 40)).unwrap();
                receiver.join().unwrap() - start
            }));
        }
        prompt("from one open to the other", &rounds);

        // What one holds is not the other's; when one closes, what it held is.
        one.sender().blocking_send(body(100, 40)).unwrap();
        let lease = other.try_lease().unwrap();
        thread::sleep(Duration::from_millis(200));
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty);
        // Opening and closing the file elsewhere in the process frees no lock byte.
        drop(open(&dir.file()));
        drop(std::fs::File::open(dir.file()).unwrap());
        thread::sleep(Duration::from_millis(200));
        assert_eq!(rx.try_recv().unwrap_err(), TryRecvError::Empty, "the other open is alive");
        lease.ack().unwrap();
        one.sender().blocking_send(body(101, 40)).unwrap();
        std::mem::forget(other.blocking_recv().unwrap());
        drop((other, two));
        let again = rx.blocking_recv().unwrap();
        assert_eq!((number(&again), again.attempts()), (101, 2));
        drop(again);

        // Senders wait for room across opens, too.
        let two = open(&dir.file());
        let sent = fill(&one, 0, 1000);
        let mut other = two.blocking_subscribe("g").unwrap();
        let tx = one.sender();
        let sender = thread::spawn(move || tx.blocking_send(body(sent, 1000)).unwrap());
        thread::sleep(Duration::from_millis(50));
        assert!(!sender.is_finished());
        let mut got = drain_numbers(&mut other);
        sender.join().unwrap();
        got.extend(drain_numbers(&mut rx));
        assert_eq!(got, (0..=sent).collect::<Vec<_>>());
        balanced(&one);
    });
}

// ---- senders that die or stop in the middle

/// A receiver that waits, in one of three forms; what it gets, and when.
enum Waiting {
    Here(thread::JoinHandle<(u64, Instant)>),
    There(Process),
}

impl Waiting {
    fn begin(form: usize, dir: &Dir, rx: &Receiver) -> Self {
        let mut rx = rx.clone();
        let waiting = match form % 3 {
            0 => Self::Here(thread::spawn(move || (number(&rx.blocking_recv().unwrap()), Instant::now()))),
            1 => Self::Here(thread::spawn(move || {
                smol::block_on(async { (number(&rx.recv().await.unwrap()), Instant::now()) })
            })),
            _ => {
                let mut puppet = Process::puppet(&dir.file());
                puppet.tell("recv g");
                Self::There(puppet)
            }
        };
        thread::sleep(Duration::from_millis(120));
        match &waiting {
            Self::Here(thread) => assert!(!thread.is_finished(), "there is nothing to be had yet"),
            Self::There(puppet) => puppet.silent_for(Duration::ZERO),
        }
        waiting
    }

    fn end(self) -> (u64, Instant) {
        match self {
            Self::Here(thread) => thread.join().unwrap(),
            Self::There(puppet) => {
                let (when, said) = puppet.hear_when();
                (said.split_once(' ').unwrap().0.parse().unwrap(), when)
            }
        }
    }
}

/// The next message lies behind a hole, and a receiver waits for it when the sender dies.
#[test]
fn the_slot_of_a_sender_killed_before_its_commit_is_skipped() {
    within(60, || {
        let mut waits = vec![];
        until_it_comes_off(6, |round| {
            let (dir, channel, mut rx) = new(long());
            let mut victim = Process::puppet(&dir.file());
            let hole = stop_in_send(&mut victim, &channel, 1)?;
            let next = channel.sender().blocking_send(body(2, 8)).unwrap();
            assert_eq!((next.page(), next.index()), (hole.page(), hole.index() + 1), "behind the hole");
            assert_eq!((channel.len(), rx.try_recv().map(drop)), (1, Err(TryRecvError::Empty)));
            let waiting = Waiting::begin(round, &dir, &rx);
            let death = victim.kill();
            let (got, when) = waiting.end();
            assert_eq!((got, victim.state()), (2, 'Z'));
            waits.push(when - death);
            assert_eq!(drain(&mut rx), []);
            balanced(&channel);
            std::fs::remove_file(dir.file()).unwrap(); // so that nothing is synced
            Some(())
        });
        prompt("a message behind a dead sender's hole", &waits);
    });
}

/// The same without anybody behind it: the sender is killed while it runs, at any moment of its copy, and the next
/// message comes later.
#[test]
fn a_sender_is_killed_at_any_moment_of_its_copy() {
    within(60, || {
        let mut rng = Rng::new(seed());
        let (dir, channel, mut rx) = new(long());
        let (mut holes, mut whole, mut waits) = (0, 0, vec![]);
        for round in 0..12 {
            let mut victim = Process::puppet(&dir.file());
            let before = channel.stats().end_offset;
            victim.tell(&format!("send {round} {LONG}"));
            eventually("the sender has reserved", || channel.stats().end_offset != before);
            thread::sleep(Duration::from_micros(rng.below(4000)));
            let death = victim.kill();
            channel.sender().blocking_send(body(1000 + round, 8)).unwrap();
            // All of it, or nothing.
            let first = number(&rx.blocking_recv().unwrap());
            waits.push(death.elapsed());
            if first == round {
                whole += 1;
                assert_eq!(number(&rx.blocking_recv().unwrap()), 1000 + round);
            } else {
                holes += 1;
                assert_eq!(first, 1000 + round);
            }
            assert_eq!(drain(&mut rx), []);
        }
        println!("{holes} holes, {whole} whole messages");
        prompt("a message after a sender was killed", &waits);
        balanced(&channel);
        std::fs::remove_file(dir.file()).unwrap();
    });
}

/// Its receivers wait, the ring comes round to its page and is full for that reason, and nobody takes its slot.
#[test]
fn a_sender_that_is_only_stopped_is_waited_for() {
    within(60, || {
        let mut waits = vec![];
        until_it_comes_off(2, |round| {
            let (dir, channel, mut rx) = new(long());
            let mut sleeper = Process::puppet(&dir.file());
            let hole = stop_in_send(&mut sleeper, &channel, 0)?;
            let tx = channel.sender();
            tx.blocking_send(body(1, 8)).unwrap();
            let waiting = Waiting::begin(round, &dir, &rx);
            let mut sent = 2;
            let full = loop {
                match tx.try_send(body(sent, LONG)) {
                    Ok(_) => sent += 1,
                    Err(full) => break full,
                }
            };
            assert!(matches!(full, TrySendError::Full(Full::Group { .. } | Full::UnfinishedSend)), "{full}");
            assert!(sent > 4, "the ring is full with {sent}");
            thread::sleep(Duration::from_millis(300));
            assert_eq!(rx.try_recv().map(drop), Err(TryRecvError::Empty), "a stopped sender is alive");
            assert_eq!(sleeper.state(), 'T');
            let start = Instant::now();
            sleeper.go_on();
            let (got, when) = waiting.end();
            assert_eq!(got, 0);
            waits.push(when - start);
            assert_eq!(sleeper.hear(), hole.to_string());
            assert_eq!(drain_numbers(&mut rx), (1..sent).collect::<Vec<_>>());
            balanced(&channel);
            std::fs::remove_file(dir.file()).unwrap();
            Some(())
        });
        prompt("a message of a sender that was stopped", &waits);
    });
}

/// Both in one page: what lies behind a dead sender's hole does not wait for another one that is stopped while it
/// writes its own message behind; what lies behind that one does.
#[test]
fn a_stopped_sender_holds_up_only_what_is_behind_it() {
    within(60, || {
        let mut waits = vec![];
        until_it_comes_off(3, |round| {
            let (dir, channel, mut rx) = new(long());
            let tx = channel.sender();
            let (mut victim, mut sleeper) = (Process::puppet(&dir.file()), Process::puppet(&dir.file()));
            let hole = stop_in_send(&mut victim, &channel, 1)?;
            tx.blocking_send(body(2, 8)).unwrap();
            let unfinished = stop_in_send(&mut sleeper, &channel, 3)?;
            let last = tx.blocking_send(body(4, 8)).unwrap();
            assert!(hole.page() == unfinished.page() && last.index() == hole.index() + 3);
            let waiting = Waiting::begin(round, &dir, &rx);
            let death = victim.kill();
            let (got, when) = waiting.end();
            assert_eq!(got, 2);
            waits.push(when - death);
            let waiting = Waiting::begin(round + 1, &dir, &rx);
            let start = Instant::now();
            sleeper.go_on();
            let (got, when) = waiting.end();
            assert_eq!(got, 3);
            waits.push(when - start);
            assert_eq!((sleeper.hear(), drain_numbers(&mut rx)), (unfinished.to_string(), vec![4]));
            balanced(&channel);
            std::fs::remove_file(dir.file()).unwrap();
            Some(())
        });
        prompt("two unfinished sends in one page", &waits);
    });
}

/// A last message, of no thread.
const LAST: u64 = u64::MAX;

/// How many messages came of each thread of a stream: all so far, in their order.
struct Books(Vec<u64>);

impl Books {
    fn new(threads: u64) -> Self {
        Self(vec![0; threads as usize])
    }

    /// False if it is the last message.
    fn enter(&mut self, message: &[u8]) -> bool {
        let n = u64::from_le_bytes(message[..8].try_into().unwrap());
        let (t, n) = ((n >> 32) as usize, n & u64::from(u32::MAX));
        if t as u64 == LAST >> 32 {
            return false;
        }
        assert_eq!(n, self.0[t], "of thread {t}");
        assert!(message[8..].iter().all(|byte| usize::from(*byte) == t), "message {n} of thread {t} is altered");
        self.0[t] += 1;
        true
    }

    /// Takes what there is; how many.
    fn take(&mut self, rx: &mut Receiver) -> usize {
        rx.try_iter().map(|m| self.enter(&m)).count()
    }

    /// Waits for the last message, which `tx` sends, and takes what comes before it.
    fn take_all(&mut self, rx: &mut Receiver, tx: &Sender) {
        thread::scope(|scope| {
            // The ring may be full.
            let last = scope.spawn(|| tx.blocking_send(body(LAST, 8)).unwrap());
            while self.enter(&rx.blocking_recv().unwrap()) {}
            last.join().unwrap();
        });
    }

    /// Compares with what the threads said last; so many may have come beyond that.
    fn compare(&self, said: &[String], beyond: u64) {
        let mut sent = vec![0; self.0.len()];
        for line in said {
            let words: Vec<&str> = line.split(' ').collect();
            let (t, n): (usize, u64) = (words[1].parse().unwrap(), words[2].parse().unwrap());
            sent[t] = n;
        }
        for (t, (&came, &sent)) in self.0.iter().zip(&sent).enumerate() {
            assert!((sent..=sent + beyond).contains(&came), "thread {t} sent {sent}, {came} came");
        }
    }
}

/// Passes some microseconds without sleeping.
fn busy(micros: u64) {
    let end = Instant::now() + Duration::from_micros(micros);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// The senders of a child are stopped at any moment, others go round the ring many times meanwhile, unless the
/// stopped one holds it up, and then it goes on as if nothing had been.
fn stopped_again_and_again(threads: u64) {
    within(60, move || {
        let mut rng = Rng::new(seed());
        let (dir, channel, mut rx) = new(small().max_pages(16));
        let mut child = Process::start(&format!("stream {threads} 1000 1000"), &dir.file()).ready();
        let mut said = vec![];
        // The last one is this process.
        let (tx, mut books, mut own) = (channel.sender(), Books::new(threads + 1), 0);
        let (mut free, mut held_up) = (0, 0);
        for _ in 0..200 {
            // In a ring that was empty a moment ago it does nothing but send.
            while books.take(&mut rx) > 0 {}
            assert!(books.enter(&rx.blocking_recv().unwrap()));
            busy(rng.below(100));
            child.stop();
            let mut until = None;
            loop {
                match tx.try_send(stamped(threads, own, 1000)) {
                    Ok(offset) => {
                        own += 1;
                        if offset.page() > *until.get_or_insert(offset.page() + 5 * 16) {
                            free += 1;
                            break;
                        }
                    }
                    Err(TrySendError::Full(Full::Group { .. } | Full::UnfinishedSend)) => {
                        if books.take(&mut rx) == 0 {
                            held_up += 1;
                            break;
                        }
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            child.go_on();
            said.extend(std::iter::from_fn(|| child.heard()));
        }
        println!("{free} times five laps while it was stopped, {held_up} times it held up the ring");
        assert!(free > 0, "the senders held up the ring each time they were stopped");
        child.tell("end");
        while said.iter().filter(|line| line.starts_with("end")).count() < threads as usize {
            books.take(&mut rx);
            said.extend(child.heard());
        }
        child.end();
        books.take(&mut rx);
        said.push(format!("end {threads} {own}"));
        books.compare(&said, 0);
        balanced(&channel);
    });
}

#[test]
fn a_sender_stopped_at_any_moment_is_right_when_it_wakes_many_laps_later() {
    stopped_again_and_again(1);
}

#[test]
fn two_threads_on_one_sender_are_stopped_at_any_moment() {
    stopped_again_and_again(2);
}

/// Two threads of one process send through one `&Sender`; the process is stopped and let go on, and at the end killed.
#[test]
fn two_threads_on_one_sender_are_killed_at_any_moment() {
    within(60, || {
        let mut rng = Rng::new(seed());
        let (dir, channel, mut rx) = new(small());
        let tx = channel.sender();
        let mut waits = vec![];
        for _ in 0..40 {
            let child = Process::start("stream 2 1000 16", &dir.file()).ready();
            let mut books = Books::new(2);
            for _ in 0..rng.below(4) {
                let until = Instant::now() + Duration::from_micros(rng.below(2000));
                while Instant::now() < until {
                    books.take(&mut rx);
                }
                child.stop();
                books.take(&mut rx);
                child.go_on();
            }
            let until = Instant::now() + Duration::from_micros(rng.below(2000));
            while Instant::now() < until {
                books.take(&mut rx);
            }
            let death = child.kill();
            books.take_all(&mut rx, &tx);
            waits.push(death.elapsed());
            // What returned is reported every 16; one more may have been sent and not have returned.
            books.compare(&child.last_words(), 17);
        }
        prompt("all that two killed threads had sent", &waits);
        balanced(&channel);
    });
}

/// A hole whose sender is dead is skipped at once, unless somebody has announced a send in that page and was stopped
/// before he made it: he may be the one who holds it. Then it is skipped when he goes on, or dies.
#[test]
fn a_hole_waits_only_for_one_who_may_hold_it() {
    within(60, || {
        let mut rng = Rng::new(seed());
        let (mut at_once, mut after) = (vec![], vec![]);
        until_it_comes_off(8, |round| {
            let (dir, channel, mut rx) = new(long());
            let mut victim = Process::puppet(&dir.file());
            stop_in_send(&mut victim, &channel, LAST)?;
            // One who sends all the time is between the announcement and the add often enough.
            let mut stream = Process::start("stream 1 8 1000", &dir.file()).ready();
            let start = Instant::now();
            while channel.is_empty() {
                assert!(start.elapsed() < common::PATIENCE, "the stream sends nothing");
            }
            busy(rng.below(300));
            stream.stop();
            let waiting = {
                let mut rx = rx.clone();
                thread::spawn(move || (number(&rx.blocking_recv().unwrap()), Instant::now()))
            };
            let death = victim.kill();
            let limit = Instant::now() + Duration::from_millis(400);
            while !waiting.is_finished() && Instant::now() < limit {
                thread::sleep(Duration::from_millis(1));
            }
            let announced = !waiting.is_finished();
            let start = Instant::now();
            if round % 2 == 0 {
                stream.go_on();
            } else {
                stream.kill();
            }
            let (got, when) = waiting.join().unwrap();
            assert_eq!(got, 0);
            match announced {
                true => after.push(when - start),
                false => at_once.push(when - death),
            }
            let mut books = Books(vec![1]);
            let mut said = vec![];
            if round % 2 == 0 {
                stream.tell("end");
                while !said.last().is_some_and(|line: &String| line.starts_with("end")) {
                    books.take(&mut rx);
                    said.extend(stream.heard());
                }
            } else {
                said = stream.last_words();
            }
            books.take_all(&mut rx, &channel.sender());
            books.compare(&said, if round % 2 == 0 { 0 } else { 1001 });
            balanced(&channel);
            std::fs::remove_file(dir.file()).unwrap();
            Some(())
        });
        println!("{} holes skipped at once, {} when the stopped one went on or died", at_once.len(), after.len());
        prompt("a hole beside a stopped sender", &[at_once, after].concat());
    });
}

// ---- receivers that die or stop

/// Leases and messages of two groups: each group gets its own back, the oldest first, with one attempt more; what was
/// done stays done.
#[test]
fn what_a_dead_receiver_held_goes_back_to_its_group_oldest_first() {
    within(60, || {
        let mut waits = vec![];
        for _ in 0..4 {
            let dir = Dir::new();
            let channel = small().blocking_open(dir.file()).unwrap();
            let (mut a, mut b) = (channel.blocking_subscribe("a").unwrap(), channel.blocking_subscribe("b").unwrap());
            common::send(&channel.sender(), 0..10, 40);
            let (mut victim, mut other) = (Process::puppet(&dir.file()), Process::puppet(&dir.file()));
            for n in 0..3 {
                assert_eq!(victim.ask("lease a"), format!("{n} 1"));
                assert_eq!(victim.ask("lease_task b"), format!("{n} 1"));
            }
            assert_eq!((victim.ask("ack a 1"), victim.ask("ack b 2")), ("Ok(())".into(), "Ok(())".into()));
            assert_eq!((victim.ask("give_back b 0"), victim.ask("lease b")), ("Ok(())".into(), "0 2".into()));
            assert_eq!(victim.ask("recv a"), "3 1");
            assert_eq!(victim.ask("hold a 3"), "4 5 6");
            // The others get the rest, and then wait: a thread of this process, and another process.
            assert_eq!((drain_numbers(&mut a), drain_numbers(&mut b)), (vec![7, 8, 9], (3..10).collect::<Vec<_>>()));
            other.tell("lease b");
            let waiting = thread::spawn(move || {
                let leases: Vec<_> = (0..5).map(|_| (a.blocking_lease().unwrap(), Instant::now())).collect();
                let got =
                    leases.iter().map(|(lease, when)| (number(lease), lease.attempts(), *when)).collect::<Vec<_>>();
                leases.into_iter().for_each(|(lease, _)| lease.ack().unwrap());
                got
            });
            other.silent_for(Duration::from_millis(150));
            assert!(!waiting.is_finished());

            let death = victim.kill();
            let (when, first) = other.hear_when();
            assert_eq!((first.as_str(), other.ask("lease b").as_str()), ("0 3", "1 2"));
            waits.push(when - death);
            let got = waiting.join().unwrap();
            assert_eq!(got.iter().map(|got| (got.0, got.1)).collect::<Vec<_>>(), [0, 2, 4, 5, 6].map(|n| (n, 2)));
            waits.extend(got.iter().map(|got| got.2 - death));
            assert_eq!(victim.state(), 'Z', "a zombie is dead");
            assert_eq!((other.ask("ack b 0"), other.ask("ack b 1")), ("Ok(())".into(), "Ok(())".into()));
            assert_eq!(other.ask("try_recv a"), "Empty");
            assert_eq!(drain(&mut b), []);
            balanced(&channel);
            assert_eq!(channel.stats().opens, 2);
        }
        prompt("what a dead receiver held", &waits);
    });
}

/// Messages that went out together, to processes that are killed one after the other: they go back one by one, and in
/// the end as many can be out as ever.
#[test]
fn what_the_dead_had_received_together_goes_back_one_by_one() {
    within(60, || {
        let (dir, channel, mut rx) = new(small().max_held(96));
        common::send(&channel.sender(), 0..100, 20);
        let numbers = |all: std::ops::Range<u64>| all.map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let mut all: Vec<_> = (0..3).map(|_| Process::puppet(&dir.file())).collect();
        assert_eq!(all[0].ask("hold g 40"), numbers(0..40));
        assert_eq!(all[1].ask("hold g 10"), numbers(40..50));
        all[0].kill();
        // Some of them go to one that dies, too.
        // Who opens it gives back what the dead held.
        drop(open(&dir.file()));
        assert_eq!(channel.groups()[0].returned, 40);
        assert_eq!(all[2].ask("hold g 15"), numbers(0..15));
        all[2].kill();
        all[1].kill();
        drop(open(&dir.file()));
        assert_eq!(channel.groups()[0].returned, 50);
        let out: Vec<_> = (0..96).map(|_| rx.try_lease().unwrap()).collect();
        let got: Vec<_> = out.iter().map(|lease| (number(lease), lease.attempts())).collect();
        let attempts = |n| {
            if n < 15 {
                3
            } else if n < 50 {
                2
            } else {
                1
            }
        };
        assert_eq!(got, (0..96).map(|n| (n, attempts(n))).collect::<Vec<_>>());
        assert!(matches!(rx.try_lease().unwrap_err(), TryRecvError::TooManyHeld { held: 96, .. }));
        out.into_iter().for_each(|lease| lease.ack().unwrap());
        assert_eq!(drain_numbers(&mut rx), [96, 97, 98, 99]);
        balanced(&channel);
    });
}

/// Those who wait for it are threads and tasks of three processes: each gets some of it.
#[test]
fn what_a_dead_receiver_held_goes_to_all_who_wait() {
    within(60, || {
        let mut waits = vec![];
        for _ in 0..4 {
            let (dir, channel, rx) = new(small());
            common::send(&channel.sender(), 0..6, 40);
            let mut victim = Process::puppet(&dir.file());
            for n in 0..6 {
                assert_eq!(victim.ask("lease g"), format!("{n} 1"));
            }
            let mut others = [Process::puppet(&dir.file()), Process::puppet(&dir.file())];
            others[0].tell("lease g");
            others[1].tell("lease_task g");
            let here: Vec<_> = (0..4)
                .map(|n| {
                    let mut rx = rx.clone();
                    thread::spawn(move || {
                        let lease = match n % 2 {
                            0 => rx.blocking_lease().unwrap(),
                            _ => smol::block_on(rx.lease()).unwrap(),
                        };
                        (Instant::now(), format!("{} {}", number(&lease), lease.attempts()), lease)
                    })
                })
                .collect();
            others[0].silent_for(Duration::from_millis(150));
            others[1].silent_for(Duration::ZERO);
            assert!(here.iter().all(|waiting| !waiting.is_finished()));
            let death = victim.kill();
            let here: Vec<_> = here.into_iter().map(|waiting| waiting.join().unwrap()).collect();
            let mut got: Vec<_> = others.iter().map(Process::hear_when).collect();
            got.extend(here.iter().map(|(when, answer, _)| (*when, answer.clone())));
            waits.extend(got.iter().map(|(when, _)| *when - death));
            let mut got: Vec<_> = got.into_iter().map(|(_, answer)| answer).collect();
            got.sort();
            assert_eq!(got, (0..6).map(|n| format!("{n} 2")).collect::<Vec<_>>());
        }
        prompt("what a dead receiver held, to six who wait", &waits);
    });
}

/// A stopped receiver keeps what it holds, a lease and a message, however long; and finishes it when it goes on.
#[test]
fn a_stopped_receiver_keeps_what_it_holds() {
    within(60, || {
        let (dir, channel, mut rx) = new(small());
        common::send(&channel.sender(), 0..2, 40);
        let mut sleeper = Process::puppet(&dir.file());
        assert_eq!((sleeper.ask("lease g"), sleeper.ask("hold g 1")), ("0 1".into(), "1".into()));
        sleeper.stop();
        assert_eq!(rx.recv_timeout(Duration::from_millis(600)).map(drop), Err(RecvTimeoutError::Timeout));
        assert_eq!((sleeper.state(), channel.stats().opens, channel.groups()[0].held), ('T', 2, 2));
        sleeper.go_on();
        sleeper.tell("done");
        assert_eq!(sleeper.ask("ack g 0"), "Ok(())");
        assert_eq!((rx.try_recv().map(drop), channel.groups()[0].redelivered), (Err(TryRecvError::Empty), 0));
        balanced(&channel);
    });
}

/// Processes that all have the number 1, each in its own name space: one that lives does not stand for one that died,
/// nor the other way round.
#[test]
fn process_numbers_of_other_name_spaces_confuse_nothing() {
    within(60, || {
        let (dir, channel, mut rx) = new(small());
        common::send(&channel.sender(), 0..2, 40);
        let number_1 = || {
            let mut process = Process::start_as_number_1("puppet", &dir.file()).ready();
            assert_eq!(process.ask("number"), "1");
            process
        };
        let (mut holder, mut victim, mut other) = (number_1(), number_1(), number_1());
        assert_eq!((holder.ask("lease g"), victim.ask("lease g")), ("0 1".into(), "1 1".into()));
        other.tell("lease g");
        other.silent_for(Duration::from_millis(150));
        let death = victim.kill();
        let (when, answer) = other.hear_when();
        assert_eq!(answer, "1 2");
        prompt("what one with the same number held", &[when - death]);
        // The one that lives keeps its own; the same number is in use once more.
        let mut another = number_1();
        assert_eq!(another.ask("try_recv g"), "Empty");
        assert_eq!(rx.recv_timeout(Duration::from_millis(300)).map(drop), Err(RecvTimeoutError::Timeout));
        assert_eq!((holder.ask("ack g 0"), other.ask("ack g 1")), ("Ok(())".into(), "Ok(())".into()));
        balanced(&channel);
        assert_eq!(channel.stats().opens, 4);
    });
}

// ---- opening

const VISITORS: u64 = 200;

fn visited() -> Options {
    small().max_pages(4).max_opens(256)
}

/// In the child: opens or creates the channel, sends its message, takes one or not, and closes. One in four dies with
/// a lease in its hand.
fn visitor(file: &Path, n: u64) {
    say("ready");
    told();
    let channel = visited().blocking_open(file).unwrap();
    channel.sender().blocking_send(body(n, 64)).unwrap();
    let mut rx = channel.blocking_subscribe("shared").unwrap();
    let took = match n % 4 {
        0 => None,
        1 => rx.try_recv().ok().map(|m| number(&m)),
        2 => rx.try_lease().ok().map(|lease| {
            let n = number(&lease);
            lease.ack().unwrap();
            n
        }),
        _ => {
            let _held = rx.try_lease();
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
            unreachable!()
        }
    };
    drop((rx, channel));
    say(format!("took {took:?}"));
}

/// Two hundred processes open, create, use and close a channel at once: there is one file, and every message is in it.
#[test]
fn two_hundred_processes_open_and_close_at_once() {
    within(60, || {
        let _alone = alone();
        // On disk, where creating takes long enough for others to create meanwhile.
        let dir = Dir::new();
        let mut visitors: Vec<_> =
            (0..VISITORS).map(|n| Process::start(&format!("visitor {n}"), &dir.file())).collect();
        visitors.iter().for_each(|visitor| assert_eq!(visitor.hear(), "ready"));
        assert_eq!(dir.entries(), [""; 0]);
        let start = Instant::now();
        visitors.iter_mut().for_each(|visitor| visitor.tell("go"));
        let mut took = vec![];
        for (n, visitor) in visitors.into_iter().enumerate() {
            let words = visitor.last_words();
            if n % 4 < 3 {
                let answer = words[0].strip_prefix("took ").unwrap();
                took.extend(answer.strip_prefix("Some(").map(|n| n.trim_end_matches(')').parse::<u64>().unwrap()));
            } else {
                assert_eq!(words, [""; 0]);
            }
        }
        println!("{VISITORS} processes took {:?}", start.elapsed());
        assert_eq!(dir.entries(), ["test.chan"]);
        let channel = open(&dir.file());
        assert_eq!((channel.len(), channel.stats().opens), (VISITORS, 1));
        assert_each_once(drain_numbers(&mut channel.blocking_subscribe("late").unwrap()), VISITORS);
        let mut shared = channel.blocking_subscribe("shared").unwrap();
        println!("{} of them received a message", took.len());
        took.extend(drain_numbers(&mut shared));
        assert_each_once(took, VISITORS);
        balanced(&channel);
    });
}

fn too_many(opened: Result<Channel, OpenError>) {
    let error = opened.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::TooManyOpens { max: 4, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains('4') && text.contains("max_opens"), "{text}");
}

/// One open more than there may be is an error that names the limit; the place of one that ended, or died, is free.
#[test]
fn more_opens_than_there_may_be() {
    within(60, || {
        let dir = Dir::new();
        let channel = small().max_opens(4).blocking_open(dir.file()).unwrap();
        let mut others: Vec<_> = (0..3).map(|_| Process::puppet(&dir.file())).collect();
        too_many(Options::new().blocking_open(dir.file()));
        others.pop().unwrap().end();
        drop(open(&dir.file()));
        others.push(Process::puppet(&dir.file()));
        others[0].stop();
        too_many(Options::new().blocking_open(dir.file()));
        others[0].kill();
        drop(open(&dir.file()));
        assert_eq!(others[0].state(), 'Z');
        drop(channel);
    });
}

/// All of those that may have the file open died at once, so that nobody is there to clean up after them.
#[test]
fn the_places_of_dead_opens_are_free_for_the_next() {
    within(60, || {
        let dir = Dir::new();
        let channel = small().max_opens(4).blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        common::send(&channel.sender(), 0..4, 40);
        drop(channel);
        let mut others: Vec<_> = (0..4).map(|_| Process::puppet(&dir.file())).collect();
        for (n, other) in others.iter_mut().enumerate() {
            assert_eq!(other.ask("lease g"), format!("{n} 1"));
        }
        for other in &others {
            other.kill();
        }
        let channel = open(&dir.file());
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let got: Vec<_> = drain(&mut rx).into_iter().map(|(_, n, attempts)| (n, attempts)).collect();
        assert_eq!(got, [0, 1, 2, 3].map(|n| (n, 2)));
        assert_eq!(channel.stats().opens, 1);
    });
}
