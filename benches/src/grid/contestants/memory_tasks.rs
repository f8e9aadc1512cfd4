//! Channels in memory, on tasks. Always bounded.

use std::future::Future;

use super::{CAPACITIES, Kind, Run};
use crate::grid::cell::Cell;
use crate::grid::messages::Tally;
use crate::grid::tasks::{self, AsyncInlet, AsyncOutlet, FanOut};
use crate::grid::threads::Outcome;

pub fn open(kind: Kind, cell: Cell) -> Run {
    fn run_of<T: Tube>(cell: Cell) -> Run {
        let runtime = tasks::runtime();
        Box::new(move |messages, capacity| {
            runtime.block_on(run::<T>(cell, messages, capacity.unwrap_or(CAPACITIES[0])))
        })
    }
    match kind {
        Kind::Flume => run_of::<Flume>(cell),
        Kind::Kanal => run_of::<Kanal>(cell),
        Kind::AsyncChannel => run_of::<AsyncChannel>(cell),
        Kind::Tokio => run_of::<Tokio>(cell),
        _ => panic!("{} is not for tasks", kind.name()),
    }
}

trait Tube: 'static {
    type Sender: Clone + Send + 'static;
    type Receiver: Send + 'static;
    fn new(capacity: usize) -> (Self::Sender, Self::Receiver);
    fn send(sender: &mut Self::Sender, message: Vec<u8>) -> impl Future<Output = ()> + Send;
    fn receive(receiver: &mut Self::Receiver, limit: usize, tally: &mut Tally) -> impl Future<Output = ()> + Send;
    /// The receiver so many times.
    fn clones(receiver: Self::Receiver, count: u64) -> Vec<Self::Receiver>;
}

struct Out<T: Tube>(T::Sender);
struct In<T: Tube>(T::Receiver);

impl<T: Tube> AsyncOutlet for Out<T> {
    async fn send(&mut self, message: &[u8]) {
        T::send(&mut self.0, message.to_vec()).await;
    }
}

impl<T: Tube> AsyncInlet for In<T> {
    async fn receive(&mut self, limit: usize, tally: &mut Tally) {
        T::receive(&mut self.0, limit, tally).await;
    }
}

/// A channel for each group.
async fn run<T: Tube>(cell: Cell, messages: u64, capacity: usize) -> Outcome {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..cell.groups).map(|_| T::new(capacity)).unzip();
    let inlets = receivers.into_iter().flat_map(|receiver| T::clones(receiver, cell.receivers)).map(In::<T>).collect();
    if let [sender] = &senders[..] {
        let outlets = (0..cell.senders).map(|_| Out::<T>(sender.clone())).collect();
        return tasks::run(cell, messages, outlets, inlets, || {}).await;
    }
    let all = || FanOut(senders.iter().cloned().map(Out::<T>).collect());
    let outlets = (0..cell.senders).map(|_| all()).collect();
    tasks::run(cell, messages, outlets, inlets, || {}).await
}

/// A channel with several receivers: its types and calls.
macro_rules! tube {
    ($name:ident, $channel:ident :: { $sender:ident, $receiver:ident, $bounded:ident }, $send:ident, $recv:ident) => {
        struct $name;

        impl Tube for $name {
            type Sender = $channel::$sender<Vec<u8>>;
            type Receiver = $channel::$receiver<Vec<u8>>;

            fn new(capacity: usize) -> (Self::Sender, Self::Receiver) {
                $channel::$bounded(capacity)
            }

            async fn send(sender: &mut Self::Sender, message: Vec<u8>) {
                sender.$send(message).await.unwrap();
            }

            async fn receive(receiver: &mut Self::Receiver, _: usize, tally: &mut Tally) {
                tally.look(&receiver.$recv().await.unwrap());
            }

            fn clones(receiver: Self::Receiver, count: u64) -> Vec<Self::Receiver> {
                vec![receiver; count as usize]
            }
        }
    };
}

tube!(Flume, flume::{ Sender, Receiver, bounded }, send_async, recv_async);
tube!(Kanal, kanal::{ AsyncSender, AsyncReceiver, bounded_async }, send, recv);
tube!(AsyncChannel, async_channel::{ Sender, Receiver, bounded }, send, recv);

struct Tokio;

impl Tube for Tokio {
    type Sender = tokio::sync::mpsc::Sender<Vec<u8>>;
    type Receiver = tokio::sync::mpsc::Receiver<Vec<u8>>;

    fn new(capacity: usize) -> (Self::Sender, Self::Receiver) {
        tokio::sync::mpsc::channel(capacity)
    }

    async fn send(sender: &mut Self::Sender, message: Vec<u8>) {
        sender.send(message).await.unwrap();
    }

    async fn receive(receiver: &mut Self::Receiver, limit: usize, tally: &mut Tally) {
        if limit == 1 {
            return tally.look(&receiver.recv().await.unwrap());
        }
        let mut messages = Vec::with_capacity(limit);
        receiver.recv_many(&mut messages, limit).await;
        messages.iter().for_each(|message| tally.look(message));
    }

    fn clones(receiver: Self::Receiver, count: u64) -> Vec<Self::Receiver> {
        assert_eq!(count, 1, "it has one receiver");
        vec![receiver]
    }
}
