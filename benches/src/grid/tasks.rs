//! A run on tasks: tokio, with 2 workers.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Barrier, mpsc};

use super::cell::Cell;
use super::messages::{END, Messages, Tally, check};
use super::threads::{Outcome, PATIENCE};

pub trait AsyncOutlet: Send + 'static {
    fn send(&mut self, message: &[u8]) -> impl Future<Output = ()> + Send;

    /// In one call, where there is one.
    fn send_many(&mut self, messages: &[Vec<u8>]) -> impl Future<Output = ()> + Send {
        async move {
            for message in messages {
                self.send(message).await;
            }
        }
    }
}

pub trait AsyncInlet: Send + 'static {
    /// Waits for a message and looks at it; at up to `limit` that are there, where there is a call for that.
    fn receive(&mut self, limit: usize, tally: &mut Tally) -> impl Future<Output = ()> + Send;
}

/// Sends to several channels.
pub struct FanOut<O>(pub Vec<O>);

impl<O: AsyncOutlet> AsyncOutlet for FanOut<O> {
    async fn send(&mut self, message: &[u8]) {
        for outlet in &mut self.0 {
            outlet.send(message).await;
        }
    }
}

pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

/// The outlets are one for each sender; the inlets one for each receiver of each group.
pub async fn run<O: AsyncOutlet, I: AsyncInlet>(
    cell: Cell,
    messages: u64,
    outlets: Vec<O>,
    inlets: Vec<I>,
    sync: impl FnOnce(),
) -> Outcome {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let barrier = Arc::new(Barrier::new(outlets.len() + inlets.len()));
    let receiving_barrier = if cell.backlog { Arc::new(Barrier::new(inlets.len())) } else { barrier.clone() };
    let barrier = if cell.backlog { Arc::new(Barrier::new(outlets.len())) } else { barrier };
    let mut inlets = Some(inlets);
    if !cell.backlog {
        receive_all(&cell, &receiving_barrier, inlets.take().unwrap(), &ended);
    }
    let mut tasks = Vec::new();
    for (number, mut outlet) in outlets.into_iter().enumerate() {
        let barrier = barrier.clone();
        tasks.push(tokio::spawn(async move {
            let mut messages = Messages::new(&cell, number as u64, messages);
            let mut buffers = messages.buffers(if cell.batch > 1 { cell.batch } else { 0 });
            barrier.wait().await;
            let start = Instant::now();
            while let batch @ [_, ..] = messages.next_batch(&mut buffers) {
                outlet.send_many(batch).await;
            }
            while let Some(message) = messages.next() {
                outlet.send(message).await;
            }
            (start, outlet)
        }));
    }
    let (mut start, mut outlet) = tasks.pop().unwrap().await.unwrap();
    for task in tasks {
        start = start.min(task.await.unwrap().0);
    }
    let mut sending = None;
    if let Some(inlets) = inlets {
        sync();
        sending = Some(start.elapsed());
        start = Instant::now();
        receive_all(&cell, &receiving_barrier, inlets, &ended);
    }

    // One after another, as a receiver that takes several messages could take several ends.
    let (mut tallies, mut last) = (Vec::new(), start);
    for _ in 0..cell.receivers {
        outlet.send(&END).await;
        for _ in 0..cell.groups {
            let seen = tokio::time::timeout(PATIENCE, ends.recv()).await;
            let (tally, at) = seen.ok().flatten().expect("a receiver waits for messages");
            tallies.push(tally);
            last = last.max(at);
        }
    }
    check(&cell, messages, tallies);
    Outcome { sending, time: last - start }
}

fn receive_all<I: AsyncInlet>(
    cell: &Cell,
    barrier: &Arc<Barrier>,
    inlets: Vec<I>,
    ended: &mpsc::UnboundedSender<(Tally, Instant)>,
) {
    for mut inlet in inlets {
        let (barrier, ended, batch) = (barrier.clone(), ended.clone(), cell.batch);
        tokio::spawn(async move {
            barrier.wait().await;
            let mut tally = Tally::default();
            while !tally.ended {
                inlet.receive(batch, &mut tally).await;
            }
            let _ = ended.send((tally, Instant::now()));
        });
    }
}
