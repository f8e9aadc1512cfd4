//! disk_chan.

use std::path::{Path, PathBuf};

use disk_chan::{Channel, Create, Options, Receiver, Sender};
use tokio::runtime::Runtime;

use super::Contestant;
use crate::grid::cell::Cell;
use crate::grid::messages::Tally;
use crate::grid::tasks::{self, AsyncInlet, AsyncOutlet};
use crate::grid::threads::{self, Inlet, Outcome, Outlet};

fn create(path: &Path) -> Channel {
    Options::new().create(Create::CreateNew).trust_file_system(true).blocking_open(path).unwrap()
}

fn senders(channel: &Channel, cell: &Cell) -> Vec<Sender> {
    (0..cell.senders).map(|_| channel.sender()).collect()
}

fn receivers(channel: &Channel, cell: &Cell) -> Vec<Receiver> {
    let group = |group: u64| channel.blocking_subscribe(format!("group {group}")).unwrap();
    let of_group = |group: Receiver| (0..cell.receivers).map(move |_| group.clone());
    (0..cell.groups).map(group).flat_map(of_group).collect()
}

fn run_on_threads(channel: &Channel, cell: &Cell, messages: u64) -> Outcome {
    let outlets = senders(channel, cell).into_iter().map(Out).collect();
    let inlets = receivers(channel, cell).into_iter().map(In).collect();
    threads::run(cell, messages, outlets, inlets, || channel.blocking_sync().unwrap())
}

/// The ring has gone round once when more pages were turned than it has.
fn go_round(channel: &Channel, mut run: impl FnMut()) {
    let stats = channel.stats();
    let pages = (stats.pages + stats.free_pages) as u64;
    while channel.stats().page_turns <= pages {
        run();
    }
}

pub struct OnThreads {
    cell: Cell,
    channel: Channel,
}

impl OnThreads {
    pub fn new(cell: Cell, dir: &Path) -> Self {
        OnThreads { cell, channel: create(&dir.join("grid.chan")) }
    }
}

impl Contestant for OnThreads {
    fn warm(&mut self) {
        let messages = self.cell.room() / 2;
        go_round(&self.channel, || _ = run_on_threads(&self.channel, &self.cell, messages));
    }

    fn run(&mut self, messages: u64) -> Outcome {
        run_on_threads(&self.channel, &self.cell, messages)
    }
}

pub struct Cold {
    cell: Cell,
    path: PathBuf,
}

impl Cold {
    pub fn new(cell: Cell, dir: &Path) -> Self {
        Cold { cell, path: dir.join("cold.chan") }
    }
}

impl Contestant for Cold {
    fn run(&mut self, messages: u64) -> Outcome {
        let channel = create(&self.path);
        let outcome = run_on_threads(&channel, &self.cell, messages);
        // Unlinked first: what nobody can open does not have to be written.
        std::fs::remove_file(&self.path).unwrap();
        outcome
    }
}

pub struct OnTasks {
    cell: Cell,
    channel: Channel,
    runtime: Runtime,
}

impl OnTasks {
    pub fn new(cell: Cell, dir: &Path) -> Self {
        OnTasks { cell, channel: create(&dir.join("grid.chan")), runtime: tasks::runtime() }
    }
}

impl Contestant for OnTasks {
    fn warm(&mut self) {
        let channel = self.channel.clone();
        go_round(&channel, || _ = self.run(self.cell.room() / 2));
    }

    fn run(&mut self, messages: u64) -> Outcome {
        let outlets = senders(&self.channel, &self.cell).into_iter().map(Out).collect();
        let inlets = receivers(&self.channel, &self.cell).into_iter().map(In).collect();
        let sync = || self.channel.blocking_sync().unwrap();
        self.runtime.block_on(tasks::run(self.cell, messages, outlets, inlets, sync))
    }
}

struct Out(Sender);
struct In(Receiver);

impl Outlet for Out {
    fn send(&mut self, message: &[u8]) {
        self.0.blocking_send(message).unwrap();
    }

    fn send_many(&mut self, messages: &[Vec<u8>]) {
        self.0.blocking_send_many(messages).unwrap();
    }
}

impl Inlet for In {
    fn receive(&mut self, limit: usize, tally: &mut Tally) {
        if limit == 1 {
            return tally.look(&self.0.blocking_recv().unwrap());
        }
        let messages = self.0.blocking_recv_many(limit).unwrap();
        messages.iter().for_each(|message| tally.look(message));
    }
}

impl AsyncOutlet for Out {
    async fn send(&mut self, message: &[u8]) {
        self.0.send(message).await.unwrap();
    }

    async fn send_many(&mut self, messages: &[Vec<u8>]) {
        self.0.send_many(messages).await.unwrap();
    }
}

impl AsyncInlet for In {
    async fn receive(&mut self, limit: usize, tally: &mut Tally) {
        if limit == 1 {
            return tally.look(&self.0.recv().await.unwrap());
        }
        let messages = self.0.recv_many(limit).await.unwrap();
        messages.iter().for_each(|message| tally.look(message));
    }
}
