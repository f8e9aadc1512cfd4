//! A timed run: callers that send one message after another, each when the one before is on stable storage.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a message.
pub const LEN: usize = 100;

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Callers that send at the same time.
    pub callers: usize,
    /// It ends after so many sends, over all callers.
    pub sends: u64,
    /// Or after this time, in milliseconds.
    pub millis: u64,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.callers, self.sends, self.millis)
    }
}

impl FromStr for Shape {
    type Err = std::num::ParseIntError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or("");
        Ok(Shape { callers: word().parse()?, sends: word().parse()?, millis: word().parse()? })
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Sends that returned before the end.
    pub in_time: u64,
    pub time: Duration,
    /// Sends that returned, also those that were under way at the end.
    pub all: u64,
}

/// Sends a message; false if it gave up and nothing was sent.
pub type Caller = Box<dyn FnMut(&[u8]) -> bool + Send>;

/// What the callers of a run share.
struct Race {
    sends: u64,
    limit: Duration,
    start: OnceLock<Instant>,
    over: AtomicBool,
    in_time: AtomicU64,
    all: AtomicU64,
    /// How long it took, in nanoseconds.
    time: AtomicU64,
}

impl Race {
    fn new(shape: Shape) -> Arc<Self> {
        let limit = Duration::from_millis(shape.millis);
        Arc::new(Race {
            sends: shape.sends,
            limit,
            start: OnceLock::new(),
            over: AtomicBool::new(false),
            in_time: AtomicU64::new(0),
            all: AtomicU64::new(0),
            time: AtomicU64::new(limit.as_nanos() as u64),
        })
    }

    fn elapsed(&self) -> Duration {
        self.start.get_or_init(Instant::now).elapsed()
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Relaxed) && self.elapsed() < self.limit
    }

    fn sent(&self) {
        let at = self.elapsed();
        self.all.fetch_add(1, Relaxed);
        if at < self.limit && self.in_time.fetch_add(1, Relaxed) + 1 == self.sends {
            self.time.store(at.as_nanos() as u64, Relaxed);
            self.over.store(true, Relaxed);
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            in_time: self.in_time.load(Relaxed).min(self.sends),
            time: Duration::from_nanos(self.time.load(Relaxed)),
            all: self.all.load(Relaxed),
        }
    }
}

fn message(caller: usize) -> [u8; LEN] {
    [caller as u8; LEN]
}

/// A thread for each caller.
pub fn threads(shape: Shape, callers: Vec<Caller>) -> Outcome {
    let race = Race::new(shape);
    let barrier = Arc::new(Barrier::new(callers.len()));
    let threads: Vec<_> = callers
        .into_iter()
        .enumerate()
        .map(|(number, mut send)| {
            let (race, barrier) = (race.clone(), barrier.clone());
            thread::spawn(move || {
                let message = message(number);
                barrier.wait();
                while race.goes_on() {
                    if send(&message) {
                        race.sent();
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    race.outcome()
}

/// A task for each caller; `send` makes the send of one message.
pub fn tasks<S, F>(shape: Shape, runtime: &tokio::runtime::Runtime, send: impl Fn() -> S) -> Outcome
where
    S: Fn([u8; LEN]) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let race = Race::new(shape);
    runtime.block_on(async {
        let barrier = Arc::new(tokio::sync::Barrier::new(shape.callers));
        let task = |number| {
            let (race, barrier, send) = (race.clone(), barrier.clone(), send());
            tokio::spawn(async move {
                barrier.wait().await;
                while race.goes_on() {
                    send(message(number)).await;
                    race.sent();
                }
            })
        };
        let tasks: Vec<_> = (0..shape.callers).map(task).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    race.outcome()
}
