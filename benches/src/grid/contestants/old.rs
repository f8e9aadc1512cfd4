//! disk-chan 0.3.

use std::path::{Path, PathBuf};

use tokio::runtime::Runtime;

use super::Contestant;
use crate::grid::cell::Cell;
use crate::grid::messages::Tally;
use crate::grid::tasks::{self, AsyncInlet, AsyncOutlet};
use crate::grid::threads::Outcome;

const PAGE: u32 = 16 << 20;

/// As its own tests use it: tasks on tokio, also where others are on threads, and pages of 16 MiB. It deletes the
/// oldest page when receivers lag, so it gets as many pages as it wants. Every page is a new file: it is always cold.
pub struct Old {
    cell: Cell,
    dir: PathBuf,
    runtime: Runtime,
}

impl Old {
    pub fn new(cell: Cell, dir: &Path) -> Self {
        Old { cell, dir: dir.to_owned(), runtime: tasks::runtime() }
    }
}

impl Contestant for Old {
    fn run(&mut self, messages: u64) -> Outcome {
        let dir = tempfile::tempdir_in(&self.dir).unwrap();
        self.runtime.block_on(async {
            let sender = old::new(dir.path(), PAGE, usize::MAX).await.unwrap();
            let mut inlets = Vec::new();
            for receiver in 0..self.cell.groups * self.cell.receivers {
                let group = (receiver / self.cell.receivers) as usize;
                inlets.push(In(sender.subscribe(group).await.unwrap()));
            }
            let outlets = (0..self.cell.senders).map(|_| Out(sender.clone())).collect();
            tasks::run(self.cell, messages, outlets, inlets, || sync_all(dir.path())).await
        })
    }
}

fn sync_all(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        std::fs::File::open(entry.unwrap().path()).unwrap().sync_all().unwrap();
    }
}

struct Out(old::Producer);
struct In(old::Consumer);

impl AsyncOutlet for Out {
    async fn send(&mut self, message: &[u8]) {
        self.0.send(message).await.unwrap();
    }
}

impl AsyncInlet for In {
    async fn receive(&mut self, _: usize, tally: &mut Tally) {
        loop {
            match self.0.recv().await {
                Some(message) => return tally.look(message),
                None => self.0.next_page().await.unwrap(),
            }
        }
    }
}
