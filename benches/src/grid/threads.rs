//! A run on threads.

use std::sync::Barrier;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::cell::Cell;
use super::messages::{END, Messages, Tally, check};

/// Longer than a receiver that has what it waits for needs to say so.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a run took.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Until everything was sent and synced, where that comes first.
    pub sending: Option<Duration>,
    /// Until the last receipt: from the first send, or from the first receive where all was sent before.
    pub time: Duration,
}

pub trait Outlet: Send {
    fn send(&mut self, message: &[u8]);

    /// In one call, where there is one.
    fn send_many(&mut self, messages: &[Vec<u8>]) {
        messages.iter().for_each(|message| self.send(message));
    }
}

pub trait Inlet: Send {
    /// Waits for a message and looks at it; at up to `limit` that are there, where there is a call for that.
    fn receive(&mut self, limit: usize, tally: &mut Tally);
}

/// Sends to several channels.
pub struct FanOut<O>(pub Vec<O>);

impl<O: Outlet> Outlet for FanOut<O> {
    fn send(&mut self, message: &[u8]) {
        self.0.iter_mut().for_each(|outlet| outlet.send(message));
    }
}

/// When it began, and with what it ended.
struct Done<T> {
    start: Instant,
    rest: T,
}

/// What a receiver saw, and when it had the last of it.
type Seen = (Tally, Instant);

/// The outlets are one for each sender; the inlets one for each receiver of each group.
pub fn run<O: Outlet, I: Inlet>(
    cell: &Cell,
    messages: u64,
    outlets: Vec<O>,
    inlets: Vec<I>,
    sync: impl FnOnce(),
) -> Outcome {
    let (ended, ends) = channel();
    let (senders, receivers) = (outlets.len(), inlets.len());
    let barrier = Barrier::new(if cell.backlog { senders } else { senders + receivers });
    let receiving_barrier = Barrier::new(receivers);
    thread::scope(|scope| {
        if !cell.backlog {
            let receiving = receive_all(scope, cell, &barrier, inlets, ended);
            let (start, outlet) = join_senders(send_all(scope, cell, messages, &barrier, outlets));
            let end = end_all(cell, messages, outlet, &ends);
            return Outcome { sending: None, time: end - start.min(join(receiving)) };
        }
        let (start, outlet) = join_senders(send_all(scope, cell, messages, &barrier, outlets));
        sync();
        let sending = Some(start.elapsed());
        let receiving = receive_all(scope, cell, &receiving_barrier, inlets, ended);
        let end = end_all(cell, messages, outlet, &ends);
        Outcome { sending, time: end - join(receiving) }
    })
}

fn send_all<'scope, O: Outlet + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    cell: &'scope Cell,
    messages: u64,
    barrier: &'scope Barrier,
    outlets: Vec<O>,
) -> Vec<ScopedJoinHandle<'scope, Done<O>>> {
    let sender = |(number, mut outlet): (usize, O)| {
        scope.spawn(move || {
            let mut messages = Messages::new(cell, number as u64, messages);
            let mut buffers = messages.buffers(if cell.batch > 1 { cell.batch } else { 0 });
            barrier.wait();
            let start = Instant::now();
            while let batch @ [_, ..] = messages.next_batch(&mut buffers) {
                outlet.send_many(batch);
            }
            while let Some(message) = messages.next() {
                outlet.send(message);
            }
            Done { start, rest: outlet }
        })
    };
    outlets.into_iter().enumerate().map(sender).collect()
}

fn receive_all<'scope, I: Inlet + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    cell: &'scope Cell,
    barrier: &'scope Barrier,
    inlets: Vec<I>,
    ended: Sender<Seen>,
) -> Vec<ScopedJoinHandle<'scope, Done<()>>> {
    let receiver = |mut inlet: I| {
        let ended = ended.clone();
        scope.spawn(move || {
            barrier.wait();
            let start = Instant::now();
            let mut tally = Tally::default();
            while !tally.ended {
                inlet.receive(cell.batch, &mut tally);
            }
            let _ = ended.send((tally, Instant::now()));
            Done { start, rest: () }
        })
    };
    inlets.into_iter().map(receiver).collect()
}

/// When the first began, and one of the outlets.
fn join_senders<O>(threads: Vec<ScopedJoinHandle<'_, Done<O>>>) -> (Instant, O) {
    let done = threads.into_iter().map(|thread| thread.join().unwrap());
    let (start, outlet) = done.fold((None::<Instant>, None), |(start, _), done| {
        (Some(start.map_or(done.start, |start| start.min(done.start))), Some(done.rest))
    });
    (start.unwrap(), outlet.unwrap())
}

/// When the first began.
fn join(threads: Vec<ScopedJoinHandle<'_, Done<()>>>) -> Instant {
    threads.into_iter().map(|thread| thread.join().unwrap().start).min().unwrap()
}

/// Ends one receiver of each group after another, as one that takes several messages could take several ends. When
/// the last had its last message.
fn end_all(cell: &Cell, messages: u64, mut outlet: impl Outlet, ends: &Receiver<Seen>) -> Instant {
    let mut tallies = Vec::new();
    let mut last = None;
    for _ in 0..cell.receivers {
        outlet.send(&END);
        for _ in 0..cell.groups {
            let (tally, at) = ends.recv_timeout(PATIENCE).expect("a receiver waits for messages");
            tallies.push(tally);
            last = last.max(Some(at));
        }
    }
    check(cell, messages, tallies);
    last.unwrap()
}
