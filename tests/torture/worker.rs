//! What runs in a worker: a sender, a receiver, or a visitor that opens, looks about and goes.

use std::mem::forget;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use disk_chan::{
    AckError, Channel, Create, Lease, Message, Offset, Options, Overflow, Receiver, RecvError, RecvTimeoutError,
    Sender, Start, TryRecvError,
};
use tokio::runtime::Runtime;

use crate::common::{PAGE, Rng, body, number, poll_once, small};
use crate::log::{Kind, Log};

/// Most messages that a receiver takes with one call.
pub const BATCH: usize = 8;

/// How long a lease is its holder's, in those channels that have a limit.
pub const LEASE_TIMEOUT: Duration = Duration::from_millis(20);

/// What the supervisor tells a worker, in its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The worker's own number; its logs are called by it.
    pub id: u32,
    /// What its random choices follow from.
    pub seed: u64,
    /// What it is.
    pub role: Role,
}

/// What a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Threads that share one `Sender`, each with a row of messages and the first number in it.
    Sender(Vec<(u64, u64)>),
    /// A receiver of this group, with as many threads, and one to which leases are moved.
    Receiver { group: usize, threads: usize },
    /// One who comes and goes.
    Visitor,
}

impl Role {
    /// How many logs it writes.
    pub fn logs(&self) -> usize {
        match self {
            Role::Sender(rows) => rows.len(),
            Role::Receiver { threads, .. } => 2 * threads,
            Role::Visitor => 1,
        }
    }
}

impl Order {
    /// As a text.
    pub fn to_text(&self) -> String {
        let role = match &self.role {
            Role::Sender(rows) => rows.iter().fold("s".to_owned(), |text, (row, n)| format!("{text} {row} {n}")),
            Role::Receiver { group, threads } => format!("r {group} {threads}"),
            Role::Visitor => "v".to_owned(),
        };
        format!("{} {} {role}", self.id, self.seed)
    }

    /// From that text.
    pub fn from_text(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
        let role = match words[2] {
            "s" => Role::Sender(numbers[2..].chunks(2).map(|pair| (pair[0], pair[1])).collect()),
            "r" => Role::Receiver { group: numbers[2] as usize, threads: numbers[3] as usize },
            _ => Role::Visitor,
        };
        Self { id: numbers[0] as u32, seed: numbers[1], role }
    }
}

/// The name of a group.
pub fn group_name(group: usize) -> String {
    format!("group {group}")
}

/// The name of the group that a visitor makes.
pub fn visitor_name(id: u32) -> String {
    format!("visitor {id}")
}

/// The path of a log.
pub fn log_path(dir: &Path, id: u32, log: usize) -> PathBuf {
    dir.join(format!("log-{id}-{log}"))
}

/// The number that a message carries.
pub fn name(row: u64, n: u64) -> u64 {
    row << 56 | n
}

/// The row of the messages that the supervisor sends.
pub const OWN_ROW: u64 = 0xff;

/// How long the message of that number is: a receiver knows it from the number alone.
fn length(name: u64) -> usize {
    if name >> 56 == OWN_ROW {
        return PAGE / 20;
    }
    let mut rng = Rng::new(name ^ 0x5eed);
    rng.next();
    8 + match rng.below(40) {
        0 => rng.below(20_000),
        1..8 => rng.below(2_000),
        _ => rng.below(200),
    } as usize
}

/// The message of that number.
pub fn message(name: u64) -> Vec<u8> {
    body(name, length(name))
}

/// The number of a message, after its length and every byte were checked.
pub fn checked(message: &[u8]) -> u64 {
    let name = number(message);
    assert_eq!(message.len(), length(name), "message {name:#x}");
    name
}

/// Does what the supervisor ordered, in a channel and with logs in `dir`.
pub fn work(dir: &Path, file: &Path, order: &Order) {
    let log = |at: usize| Log::open(&log_path(dir, order.id, at));
    let seed = |at: usize| Rng::new(order.seed ^ (at as u64) << 40);
    let first = log(0);
    first.doing(b"open    ");
    let channel = Options::new().create(Create::OpenExisting).blocking_open(file).unwrap();
    match &order.role {
        Role::Sender(rows) => {
            let tx = channel.sender();
            drop(channel);
            thread::scope(|scope| {
                for (at, &(row, n)) in rows.iter().enumerate() {
                    let (tx, log, mut rng) = (&tx, log(at), seed(at));
                    scope.spawn(move || Sending { tx, log: &log, row, n }.run(&mut rng));
                }
            });
            first.doing(b"close   ");
            drop(tx);
        }
        &Role::Receiver { group, threads } => {
            first.doing(b"subscr  ");
            let rx = channel.blocking_subscribe(group_name(group)).unwrap();
            // Only the receivers stay: they do not keep one another waiting for senders.
            drop(channel);
            thread::scope(|scope| {
                for at in 0..threads {
                    let (rx, log, helpers_log, mut rng) = (rx.clone(), log(2 * at), log(2 * at + 1), seed(at));
                    scope.spawn(move || receive(rx, log, helpers_log, &mut rng));
                }
            });
            first.doing(b"close   ");
            drop(rx);
        }
        Role::Visitor => visit(channel, file, &first, order.id, &mut seed(0)),
    }
    first.doing(b"ended   ");
}

/// One thread of a sender.
struct Sending<'a> {
    tx: &'a Sender,
    log: &'a Log,
    row: u64,
    n: u64,
}

impl Sending<'_> {
    fn invoke(&mut self) -> u64 {
        let name = name(self.row, self.n);
        self.n += 1;
        self.log.note(Kind::Invoked, name);
        name
    }

    fn invoke_many(&mut self, count: u64) -> (Vec<u64>, Vec<Vec<u8>>) {
        let names: Vec<u64> = (0..count).map(|_| self.invoke()).collect();
        let messages = names.iter().map(|&name| message(name)).collect();
        (names, messages)
    }

    fn sent_many(&self, names: &[u64], offsets: &[Offset]) {
        assert_eq!(names.len(), offsets.len());
        for (&name, &offset) in names.iter().zip(offsets) {
            self.log.sent(name, offset);
        }
    }

    /// A send that may have been refused for want of room or time.
    fn may_be_sent<E: std::fmt::Display>(&self, name: u64, sent: Result<Offset, E>, refused: impl Fn(&E) -> bool) {
        match sent {
            Ok(offset) => self.log.sent(name, offset),
            Err(error) if refused(&error) => self.log.note(Kind::Refused, name),
            Err(error) => panic!("{name:#x}: {error}"),
        }
    }

    fn run(mut self, rng: &mut Rng) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Some never pause, so that the ring is full; some do, so that receivers run out of messages.
        let pause_one_in = [2, 8, 40][rng.below(3) as usize];
        // What drops has to be slow for its receivers to see much of it.
        let longest = if self.tx.channel().overflow() == Overflow::Block { 3_000 } else { 10_000 };
        let (tx, log) = (self.tx, self.log);
        while !log.must_quit() {
            if log.is_hushed() {
                log.doing(b"hushed  ");
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            match rng.below(10) {
                0 => {
                    log.doing(b"many    ");
                    let (names, messages) = self.invoke_many(1 + rng.below(20));
                    self.sent_many(&names, &tx.blocking_send_many(&messages).unwrap());
                }
                1 => {
                    log.doing(b"async m ");
                    let (names, messages) = self.invoke_many(1 + rng.below(20));
                    self.sent_many(&names, &runtime.block_on(tx.send_many(&messages)).unwrap());
                }
                2 => {
                    log.doing(b"try     ");
                    let name = self.invoke();
                    self.may_be_sent(name, tx.try_send(message(name)), disk_chan::TrySendError::is_full);
                }
                3 => {
                    log.doing(b"reserve ");
                    let name = self.invoke();
                    let bytes = message(name);
                    let mut reserved = tx.reserve(bytes.len()).unwrap();
                    reserved.copy_from_slice(&bytes);
                    log.sent(name, reserved.blocking_commit().unwrap());
                }
                4 => {
                    log.doing(b"timeout ");
                    let name = self.invoke();
                    let sent = tx.send_timeout(message(name), Duration::from_micros(rng.below(3_000)));
                    self.may_be_sent(name, sent, disk_chan::SendTimeoutError::is_timeout);
                }
                5 => {
                    log.doing(b"async   ");
                    let name = self.invoke();
                    log.sent(name, runtime.block_on(tx.send(message(name))).unwrap());
                }
                6 => {
                    log.doing(b"smol    ");
                    let name = self.invoke();
                    log.sent(name, smol::block_on(tx.send(message(name))).unwrap());
                }
                7 => {
                    log.doing(b"cancel  ");
                    let name = self.invoke();
                    match poll_once(tx.send(message(name))) {
                        Poll::Ready(sent) => log.sent(name, sent.unwrap()),
                        Poll::Pending => log.note(Kind::Refused, name),
                    }
                }
                _ => {
                    log.doing(b"send    ");
                    let name = self.invoke();
                    log.sent(name, tx.blocking_send(message(name)).unwrap());
                }
            }
            if rng.one_in(pause_one_in) {
                log.doing(b"pause   ");
                thread::sleep(Duration::from_micros(rng.below(longest)));
            }
        }
    }
}

/// A hand-out: what a log says of it.
struct Out {
    name: u64,
    attempt: u32,
}

impl Out {
    /// Writes down that it was handed out.
    fn new(log: &Log, bytes: &[u8], attempt: u32, offset: Offset) -> Self {
        let name = checked(bytes);
        log.got(name, attempt, offset);
        Self { name, attempt }
    }

    fn of(log: &Log, m: &Message<'_>) -> Self {
        Self::new(log, m, m.attempts(), m.offset())
    }

    /// Finishes it by `f`, which may find that it was taken away.
    fn finish(&self, log: &Log, f: impl FnOnce() -> Result<(), AckError>) {
        log.ends(Kind::Finishing, self.name, self.attempt);
        match f() {
            Ok(()) => log.ends(Kind::Done, self.name, self.attempt),
            Err(AckError::Taken) => log.ends(Kind::Taken, self.name, self.attempt),
            Err(error) => panic!("{error}"),
        }
    }

    /// Gives it back by `f`.
    fn back(&self, log: &Log, f: impl FnOnce()) {
        log.ends(Kind::Back, self.name, self.attempt);
        f();
    }

    /// What becomes of a message.
    fn end(&self, log: &Log, m: Message<'_>, rng: &mut Rng) {
        // Nobody may write where it lies, for as long as it is held.
        assert_eq!(checked(&m), self.name);
        match rng.below(60) {
            0 => self.back(log, || forget(m)),
            1 => self.back(log, || unwind_with(m)),
            _ => self.finish(log, || {
                drop(m);
                Ok(())
            }),
        }
    }

    /// What becomes of a lease.
    fn end_lease(&self, log: &Log, lease: Lease, rng: &mut Rng) {
        assert_eq!(checked(&lease), self.name);
        match rng.below(12) {
            0 => self.back(log, || match lease.give_back() {
                // Whether it was its own still, the history tells.
                Ok(()) | Err(AckError::Gone | AckError::Taken) => {}
                Err(error) => panic!("{error}"),
            }),
            1 => self.back(log, || drop(lease)),
            _ => self.finish(log, || lease.ack()),
        }
    }
}

/// Drops it in a panic, which says nothing.
fn unwind_with<M: Deref>(m: M) {
    let unwound = catch_unwind(AssertUnwindSafe(move || {
        let _held = m;
        resume_unwind(Box::new(()));
    }));
    assert!(unwound.is_err());
}

fn within<F: Future>(runtime: &Runtime, time: Duration, f: F) -> Option<F::Output> {
    runtime.block_on(async { tokio::time::timeout(time, f).await }).ok()
}

/// Why nothing came.
fn failed<E: Into<TryRecvError>>(error: E) -> TryRecvError {
    error.into()
}

fn timed_out(error: RecvTimeoutError) -> TryRecvError {
    match error {
        RecvTimeoutError::Timeout => TryRecvError::Empty,
        RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
        RecvTimeoutError::Lagged(n) => TryRecvError::Lagged(n),
        other => panic!("{other}"),
    }
}

/// One thread of a receiver, and one to which it moves leases.
fn receive(mut rx: Receiver, log: Log, helpers_log: Log, rng: &mut Rng) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let moved = Arc::new(AtomicUsize::new(0));
    let (to_helper, at_helper) = mpsc::channel::<(Out, Lease)>();
    let helper = thread::spawn({
        let (moved, mut rng) = (moved.clone(), Rng::new(rng.next()));
        move || {
            for (out, lease) in at_helper {
                if rng.one_in(4) {
                    // At times longer than a lease is its holder's, where that has an end.
                    let most = if rng.one_in(50) { 3 * LEASE_TIMEOUT.as_micros() as u64 } else { 5_000 };
                    thread::sleep(Duration::from_micros(rng.below(most)));
                }
                out.end_lease(&helpers_log, lease, &mut rng);
                moved.fetch_sub(1, Ordering::SeqCst);
            }
        }
    });
    let mut held: Vec<(Out, Lease)> = vec![];
    loop {
        // Who holds leases does not wait without limit: the messages may be what makes room for the next ones.
        let may_wait = held.is_empty();
        let idle = may_wait && moved.load(Ordering::SeqCst) == 0;
        let quit = log.must_quit();
        if quit && idle {
            break;
        }
        let time = Duration::from_micros(rng.below(5_000));
        let take_lease = |held: &mut Vec<(Out, Lease)>, lease: Lease| {
            let out = Out::new(&log, &lease, lease.attempts(), lease.offset());
            held.push((out, lease));
        };
        let received: Result<(), TryRecvError> = match rng.below(12) {
            _ if quit => {
                log.doing(b"quit    ");
                thread::sleep(Duration::from_micros(200));
                Err(TryRecvError::Empty)
            }
            0 | 1 if may_wait => {
                log.doing(b"recv    ");
                rx.blocking_recv().map(|m| Out::of(&log, &m).end(&log, m, rng)).map_err(failed)
            }
            2 if may_wait => {
                log.doing(b"many    ");
                let many = rx.blocking_recv_many(1 + rng.below(BATCH as u64) as usize).map_err(failed);
                many.map(|many| {
                    let outs: Vec<Out> = many.iter().map(|m| Out::of(&log, m)).collect();
                    outs.iter().zip(many).for_each(|(out, m)| out.end(&log, m, rng));
                })
            }
            3 if may_wait => {
                log.doing(b"async   ");
                let received: Result<_, RecvError> = runtime.block_on(rx.recv());
                received.map(|m| Out::of(&log, &m).end(&log, m, rng)).map_err(failed)
            }
            4 if may_wait => {
                log.doing(b"lease   ");
                rx.blocking_lease().map(|lease| take_lease(&mut held, lease)).map_err(failed)
            }
            5 => {
                log.doing(b"many as ");
                match within(&runtime, time, rx.recv_many(1 + rng.below(BATCH as u64) as usize)) {
                    None => Err(TryRecvError::Empty),
                    Some(many) => many.map_err(failed).map(|many| {
                        let outs: Vec<Out> = many.iter().map(|m| Out::of(&log, m)).collect();
                        outs.iter().zip(many).for_each(|(out, m)| out.end(&log, m, rng));
                    }),
                }
            }
            6 => {
                log.doing(b"leases  ");
                match within(&runtime, time, rx.lease_many(1 + rng.below(BATCH as u64) as usize)) {
                    None => Err(TryRecvError::Empty),
                    Some(leases) => {
                        leases.map(|many| many.into_iter().for_each(|l| take_lease(&mut held, l))).map_err(failed)
                    }
                }
            }
            7 => {
                log.doing(b"lease t ");
                rx.lease_for(time).map(|lease| take_lease(&mut held, lease)).map_err(timed_out)
            }
            8 => {
                log.doing(b"try     ");
                rx.try_recv().map(|m| Out::of(&log, &m).end(&log, m, rng))
            }
            _ => {
                log.doing(b"timeout ");
                rx.recv_timeout(time).map(|m| Out::of(&log, &m).end(&log, m, rng)).map_err(timed_out)
            }
        };
        let nothing = received.is_err();
        match received {
            Ok(()) | Err(TryRecvError::Empty | TryRecvError::TooManyHeld { .. }) => {}
            Err(TryRecvError::Lagged(n)) => log.note(Kind::Lagged, n),
            // Nothing of one's own was out before the look that found nothing: then nothing is left.
            Err(TryRecvError::Disconnected) if idle => break,
            Err(TryRecvError::Disconnected) => thread::sleep(Duration::from_micros(200)),
            Err(error) => panic!("{error}"),
        }
        while held.len() > 6 || (!held.is_empty() && (nothing || rng.one_in(3))) {
            let (out, lease) = held.swap_remove(rng.below(held.len() as u64) as usize);
            if rng.one_in(3) {
                moved.fetch_add(1, Ordering::SeqCst);
                to_helper.send((out, lease)).unwrap();
            } else {
                log.doing(b"end leas");
                out.end_lease(&log, lease, rng);
            }
        }
        if rng.one_in(300) {
            log.doing(b"pause   ");
            thread::sleep(Duration::from_micros(rng.below(10_000)));
        }
    }
    drop(to_helper);
    log.doing(b"join    ");
    helper.join().unwrap();
    log.doing(b"close   ");
}

/// Opens, looks, subscribes a group of its own, reads a little, removes the group, and closes; some times over.
fn visit(channel: Channel, file: &Path, log: &Log, id: u32, rng: &mut Rng) {
    let mut channel = channel;
    for _ in 0..1 + rng.below(4) {
        log.doing(b"look    ");
        let (stats, groups) = (channel.stats(), channel.groups());
        assert!(stats.opens >= 1 && stats.first_offset <= stats.end_offset, "{stats:?}");
        assert!(groups.len() >= 3, "{groups:?}");
        let _ = channel.len();
        log.doing(b"subscr  ");
        let start = if rng.one_in(2) { Start::Newest } else { Start::Oldest };
        let mut rx = channel.blocking_subscribe_from(visitor_name(id), start).unwrap();
        log.doing(b"recv    ");
        let mut kept = vec![];
        for _ in 0..rng.below(20) {
            match rx.lease_for(Duration::from_micros(rng.below(1_000))) {
                Ok(lease) => {
                    checked(&lease);
                    match rng.below(3) {
                        0 => kept.push(lease),
                        1 => drop(lease),
                        _ => assert!(matches!(lease.ack(), Ok(()) | Err(AckError::Taken))),
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Lagged(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        if rng.one_in(2) {
            kept.clear();
        }
        log.doing(b"remove  ");
        channel.remove_group(visitor_name(id), true).unwrap();
        log.doing(b"close   ");
        drop((kept, rx));
        if rng.one_in(2) {
            log.doing(b"other   ");
            visit_other(file);
        }
        log.doing(b"open    ");
        // At times while it is open here.
        let kept = rng.one_in(2).then(|| channel.clone());
        drop(channel);
        channel = Options::new().create(Create::OpenExisting).blocking_open(file).unwrap();
        drop(kept);
    }
    log.doing(b"close   ");
}

/// The path of a channel that only visitors use: mostly nobody has it open, and each may be the one who makes it.
pub fn other_file(file: &Path) -> PathBuf {
    file.with_extension("other")
}

/// Opens or makes the visitors' channel, and sends and receives a little.
fn visit_other(file: &Path) {
    let channel = small().max_opens(4).blocking_open(other_file(file)).unwrap();
    let mut rx = channel.blocking_subscribe("visitors").unwrap();
    drain(&mut rx);
    for n in 0..3 {
        channel.sender().blocking_send(message(name(OWN_ROW, n))).unwrap();
    }
    drain(&mut rx);
}

/// Takes everything that is there, and checks it.
pub fn drain(rx: &mut Receiver) {
    loop {
        match rx.try_recv() {
            Ok(m) => assert_eq!(checked(&m) >> 56, OWN_ROW),
            Err(TryRecvError::Empty) => return,
            Err(error) => panic!("{error}"),
        }
    }
}
