//! Channels that are compared. A new one is a struct with a `Contestant` impl.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use disk_chan::{Channel, Create, Options};
use tempfile::TempDir;

const LEN: usize = 100;
const PAGE: usize = 16 << 20;
const PAGES: usize = 16;

/// What a round moves.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Senders, and as many receivers.
    pub pairs: u64,
    /// Messages, over all senders.
    pub messages: u64,
}

impl Shape {
    fn share(self, sender: u64) -> u64 {
        self.messages / self.pairs + u64::from(sender < self.messages % self.pairs)
    }

    fn check(self, sums: impl Iterator<Item = u64>) {
        let sent: u64 = (0..self.pairs).map(|s| self.share(s) * sum(&message(s))).sum();
        assert_eq!(sums.sum::<u64>(), sent, "messages were lost, doubled or altered");
    }
}

pub trait Contestant {
    fn name(&self) -> &str;
    /// Moves the messages once; the time from the common start until the last receiver has the last message.
    fn round(&mut self) -> Duration;
    /// Brings a channel that is kept between rounds to its steady state; the time of the first round.
    fn cold(&mut self) -> Option<Duration> {
        None
    }
}

fn message(sender: u64) -> [u8; LEN] {
    [sender as u8 + 1; LEN]
}

/// The receiver's work: it looks at every byte.
fn sum(message: &[u8]) -> u64 {
    message.iter().map(|&byte| u64::from(byte)).sum()
}

/// One round on threads. An empty message ends a receiver, so a channel can go on to the next round.
fn threads<S, R>(shape: Shape, mut sender: impl FnMut() -> S, mut receiver: impl FnMut() -> R) -> Duration
where
    S: FnMut(&[u8]) + Send + 'static,
    R: FnMut() -> Option<u64> + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(2 * shape.pairs as usize + 1));
    let receivers: Vec<_> = (0..shape.pairs)
        .map(|_| {
            let (mut receive, barrier) = (receiver(), barrier.clone());
            thread::spawn(move || {
                barrier.wait();
                let mut total = 0;
                while let Some(sum) = receive() {
                    total += sum;
                }
                total
            })
        })
        .collect();
    let senders: Vec<_> = (0..shape.pairs)
        .map(|number| {
            let (mut send, barrier) = (sender(), barrier.clone());
            thread::spawn(move || {
                let message = message(number);
                barrier.wait();
                for _ in 0..shape.share(number) {
                    send(&message);
                }
            })
        })
        .collect();
    barrier.wait();
    let start = Instant::now();
    for sender in senders {
        sender.join().unwrap();
    }
    let mut send = sender();
    for _ in 0..shape.pairs {
        send(&[]);
    }
    let sums: Vec<_> = receivers.into_iter().map(|r| r.join().unwrap()).collect();
    let time = start.elapsed();
    shape.check(sums.into_iter());
    time
}

/// This crate, blocking threads, a ring of 16 pages of 16 MiB that is kept between rounds.
pub struct DiskChan {
    shape: Shape,
    channel: Channel,
    _dir: TempDir,
}

impl DiskChan {
    pub fn new(shape: Shape) -> Self {
        let dir = TempDir::new().unwrap();
        let channel = Options::new()
            .page_size(PAGE)
            .max_pages(PAGES)
            .create(Create::CreateNew)
            .blocking_open(dir.path().join("floor.chan"))
            .unwrap();
        DiskChan { shape, channel, _dir: dir }
    }
}

impl Contestant for DiskChan {
    fn name(&self) -> &str {
        "disk_chan"
    }

    fn round(&mut self) -> Duration {
        let sender = self.channel.sender();
        let receiver = self.channel.blocking_subscribe("floor").unwrap();
        threads(
            self.shape,
            || {
                let sender = sender.clone();
                move |message| {
                    sender.blocking_send(message).unwrap();
                }
            },
            || {
                let mut receiver = receiver.clone();
                move || {
                    let message = receiver.blocking_recv().unwrap();
                    (!message.is_empty()).then(|| sum(&message))
                }
            },
        )
    }

    /// The ring has gone round once when more pages were turned than it has. The first round is cold as far as it
    /// stays in the first lap; at 100 bytes a million messages do.
    fn cold(&mut self) -> Option<Duration> {
        let first = self.round();
        while self.channel.stats().page_turns <= PAGES as u64 {
            self.round();
        }
        Some(first)
    }
}

/// crossbeam-channel, blocking threads, a `Vec` allocated for each message.
pub struct Crossbeam {
    shape: Shape,
    capacity: usize,
    name: String,
}

impl Crossbeam {
    pub fn new(shape: Shape, capacity: usize) -> Self {
        Crossbeam { shape, capacity, name: format!("crossbeam bounded({capacity}) of Vec<u8>") }
    }
}

impl Contestant for Crossbeam {
    fn name(&self) -> &str {
        &self.name
    }

    fn round(&mut self) -> Duration {
        let (sender, receiver) = crossbeam_channel::bounded::<Vec<u8>>(self.capacity);
        threads(
            self.shape,
            || {
                let sender = sender.clone();
                move |message: &[u8]| sender.send(message.to_vec()).unwrap()
            },
            || {
                let receiver = receiver.clone();
                move || {
                    let message = receiver.recv().unwrap();
                    (!message.is_empty()).then(|| sum(&message))
                }
            },
        )
    }
}

/// disk-chan 0.3 as its own tests use it: tasks on tokio, here with 2 workers, and pages of 16 MiB. It deletes the
/// oldest page when receivers lag, so it gets as many pages as it wants. Every page is a new file: it is always cold.
pub struct Old {
    shape: Shape,
    runtime: tokio::runtime::Runtime,
}

impl Old {
    pub fn new(shape: Shape) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        Old { shape, runtime }
    }

    async fn run(shape: Shape, dir: TempDir) -> Duration {
        let sender = old::new(dir.path(), PAGE as u32, usize::MAX).await.unwrap();
        let mut receivers = Vec::new();
        let mut senders = Vec::new();
        let barrier = Arc::new(tokio::sync::Barrier::new(2 * shape.pairs as usize + 1));
        for _ in 0..shape.pairs {
            let (mut receiver, barrier) = (sender.subscribe(0).await.unwrap(), barrier.clone());
            receivers.push(tokio::spawn(async move {
                barrier.wait().await;
                let mut total = 0;
                loop {
                    match receiver.recv().await {
                        Some([]) => return total,
                        Some(message) => total += sum(message),
                        None => receiver.next_page().await.unwrap(),
                    }
                }
            }));
        }
        for number in 0..shape.pairs {
            let (mut sender, barrier) = (sender.clone(), barrier.clone());
            senders.push(tokio::spawn(async move {
                let message = message(number);
                barrier.wait().await;
                for _ in 0..shape.share(number) {
                    sender.send(&message).await.unwrap();
                }
            }));
        }
        barrier.wait().await;
        let start = Instant::now();
        for sender in senders {
            sender.await.unwrap();
        }
        let mut sender = sender;
        for _ in 0..shape.pairs {
            sender.send([]).await.unwrap();
        }
        let mut sums = Vec::new();
        for receiver in receivers {
            sums.push(receiver.await.unwrap());
        }
        let time = start.elapsed();
        shape.check(sums.into_iter());
        time
    }
}

impl Contestant for Old {
    fn name(&self) -> &str {
        "disk-chan 0.3 (tokio, 2 workers)"
    }

    fn round(&mut self) -> Duration {
        self.runtime.block_on(Self::run(self.shape, TempDir::new().unwrap()))
    }
}
