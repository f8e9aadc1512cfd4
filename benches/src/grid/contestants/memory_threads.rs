//! Channels in memory, on threads.

use std::sync::mpsc;

use super::{Kind, Run};
use crate::grid::cell::Cell;
use crate::grid::messages::Tally;
use crate::grid::threads::{self, FanOut, Inlet, Outcome, Outlet};

pub fn open(kind: Kind, cell: Cell) -> Run {
    fn run_of<T: Tube>(cell: Cell) -> Run {
        Box::new(move |messages, capacity| run::<T>(&cell, messages, capacity))
    }
    match kind {
        Kind::Crossbeam => run_of::<Crossbeam>(cell),
        Kind::Flume => run_of::<Flume>(cell),
        Kind::Kanal => run_of::<Kanal>(cell),
        Kind::Std => run_of::<Std>(cell),
        Kind::AsyncChannel => run_of::<AsyncChannel>(cell),
        Kind::Tokio => run_of::<Tokio>(cell),
        _ => panic!("{} is not in memory", kind.name()),
    }
}

trait Tube {
    type Sender: Clone + Send;
    type Receiver: Send;
    /// Bounded, or not.
    fn new(capacity: Option<usize>) -> (Self::Sender, Self::Receiver);
    fn send(sender: &mut Self::Sender, message: Vec<u8>);
    fn receive(receiver: &mut Self::Receiver) -> Vec<u8>;
    /// The receiver so many times.
    fn clones(receiver: Self::Receiver, count: u64) -> Vec<Self::Receiver>;
}

struct Out<T: Tube>(T::Sender);
struct In<T: Tube>(T::Receiver);

impl<T: Tube> Outlet for Out<T> {
    fn send(&mut self, message: &[u8]) {
        T::send(&mut self.0, message.to_vec());
    }
}

impl<T: Tube> Inlet for In<T> {
    fn receive(&mut self, _: usize, tally: &mut Tally) {
        tally.look(&T::receive(&mut self.0));
    }
}

/// A channel for each group.
fn run<T: Tube>(cell: &Cell, messages: u64, capacity: Option<usize>) -> Outcome {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..cell.groups).map(|_| T::new(capacity)).unzip();
    let inlets = receivers.into_iter().flat_map(|receiver| T::clones(receiver, cell.receivers)).map(In::<T>).collect();
    if let [sender] = &senders[..] {
        let outlets = (0..cell.senders).map(|_| Out::<T>(sender.clone())).collect();
        drop(senders);
        return threads::run(cell, messages, outlets, inlets, || {});
    }
    let all = || FanOut(senders.iter().cloned().map(Out::<T>).collect());
    let outlets = (0..cell.senders).map(|_| all()).collect();
    threads::run(cell, messages, outlets, inlets, || {})
}

fn only<R>(receiver: R, count: u64) -> Vec<R> {
    assert_eq!(count, 1, "it has one receiver");
    vec![receiver]
}

/// A channel whose face is crossbeam's, but for the names of the blocking calls.
macro_rules! tube {
    ($name:ident, $channel:ident, $send:ident, $recv:ident) => {
        struct $name;

        impl Tube for $name {
            type Sender = $channel::Sender<Vec<u8>>;
            type Receiver = $channel::Receiver<Vec<u8>>;

            fn new(capacity: Option<usize>) -> (Self::Sender, Self::Receiver) {
                capacity.map_or_else($channel::unbounded, $channel::bounded)
            }

            fn send(sender: &mut Self::Sender, message: Vec<u8>) {
                sender.$send(message).unwrap();
            }

            fn receive(receiver: &mut Self::Receiver) -> Vec<u8> {
                receiver.$recv().unwrap()
            }

            fn clones(receiver: Self::Receiver, count: u64) -> Vec<Self::Receiver> {
                vec![receiver; count as usize]
            }
        }
    };
}

tube!(Crossbeam, crossbeam_channel, send, recv);
tube!(Flume, flume, send, recv);
tube!(Kanal, kanal, send, recv);
tube!(AsyncChannel, async_channel, send_blocking, recv_blocking);

struct Std;

impl Tube for Std {
    type Sender = StdSender;
    type Receiver = mpsc::Receiver<Vec<u8>>;

    fn new(capacity: Option<usize>) -> (Self::Sender, Self::Receiver) {
        if let Some(capacity) = capacity {
            let (sender, receiver) = mpsc::sync_channel(capacity);
            return (StdSender::Bounded(sender), receiver);
        }
        let (sender, receiver) = mpsc::channel();
        (StdSender::Unbounded(sender), receiver)
    }

    fn send(sender: &mut Self::Sender, message: Vec<u8>) {
        let sent = match sender {
            StdSender::Bounded(sender) => sender.send(message),
            StdSender::Unbounded(sender) => sender.send(message),
        };
        sent.unwrap();
    }

    fn receive(receiver: &mut Self::Receiver) -> Vec<u8> {
        receiver.recv().unwrap()
    }

    fn clones(receiver: Self::Receiver, count: u64) -> Vec<Self::Receiver> {
        only(receiver, count)
    }
}

#[derive(Clone)]
enum StdSender {
    Bounded(mpsc::SyncSender<Vec<u8>>),
    Unbounded(mpsc::Sender<Vec<u8>>),
}

struct Tokio;

impl Tube for Tokio {
    type Sender = TokioSender;
    type Receiver = TokioReceiver;

    fn new(capacity: Option<usize>) -> (Self::Sender, Self::Receiver) {
        if let Some(capacity) = capacity {
            let (sender, receiver) = tokio::sync::mpsc::channel(capacity);
            return (TokioSender::Bounded(sender), TokioReceiver::Bounded(receiver));
        }
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        (TokioSender::Unbounded(sender), TokioReceiver::Unbounded(receiver))
    }

    fn send(sender: &mut Self::Sender, message: Vec<u8>) {
        let sent = match sender {
            TokioSender::Bounded(sender) => sender.blocking_send(message),
            TokioSender::Unbounded(sender) => sender.send(message),
        };
        sent.unwrap();
    }

    fn receive(receiver: &mut Self::Receiver) -> Vec<u8> {
        let message = match receiver {
            TokioReceiver::Bounded(receiver) => receiver.blocking_recv(),
            TokioReceiver::Unbounded(receiver) => receiver.blocking_recv(),
        };
        message.unwrap()
    }

    fn clones(receiver: Self::Receiver, count: u64) -> Vec<Self::Receiver> {
        only(receiver, count)
    }
}

#[derive(Clone)]
enum TokioSender {
    Bounded(tokio::sync::mpsc::Sender<Vec<u8>>),
    Unbounded(tokio::sync::mpsc::UnboundedSender<Vec<u8>>),
}

enum TokioReceiver {
    Bounded(tokio::sync::mpsc::Receiver<Vec<u8>>),
    Unbounded(tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>),
}
