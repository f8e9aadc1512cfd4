//! Queues in files that grow.

use std::fs::File;
use std::hint::spin_loop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Runtime;
use walrus_rust::{FsyncSchedule, ReadConsistency};

use super::Contestant;
use crate::grid::cell::Cell;
use crate::grid::messages::Tally;
use crate::grid::threads::{self, Inlet, Outcome, Outlet};

/// Brings every file in a directory to the disk.
fn sync_all(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { sync_all(&path) } else { File::open(path).unwrap().sync_all().unwrap() }
    }
}

/// yaque, its receiver in an executor of tokio's.
pub struct Yaque {
    cell: Cell,
    dir: PathBuf,
}

impl Yaque {
    pub fn new(cell: Cell, dir: &Path) -> Self {
        Yaque { cell, dir: dir.to_owned() }
    }
}

impl Contestant for Yaque {
    fn run(&mut self, messages: u64) -> Outcome {
        let dir = tempfile::tempdir_in(&self.dir).unwrap();
        let (sender, receiver) = yaque::channel(dir.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let inlet = YaqueIn { receiver, runtime };
        threads::run(&self.cell, messages, vec![YaqueOut(sender)], vec![inlet], || sync_all(dir.path()))
    }
}

struct YaqueOut(yaque::Sender);

struct YaqueIn {
    receiver: yaque::Receiver,
    runtime: Runtime,
}

impl Outlet for YaqueOut {
    fn send(&mut self, message: &[u8]) {
        self.0.try_send(message).unwrap();
    }
}

impl Inlet for YaqueIn {
    fn receive(&mut self, _: usize, tally: &mut Tally) {
        let message = self.runtime.block_on(self.receiver.recv()).unwrap();
        tally.look(&message);
        message.commit().unwrap();
    }
}

/// walrus-rust, told never to sync, and to remember where a reader is as seldom as it can. It takes its directory from
/// the environment. Nobody can wait for a message of it; its receiver polls.
pub struct Walrus {
    cell: Cell,
    walrus: Arc<walrus_rust::Walrus>,
}

const TOPIC: &str = "messages";

/// The variables that it reads.
pub fn walrus_environment(dir: &Path) -> [(&'static str, &Path); 2] {
    [("WALRUS_DATA_DIR", dir), ("WALRUS_QUIET", Path::new("1"))]
}

impl Walrus {
    pub fn new(cell: Cell) -> Self {
        let reads = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
        let walrus = walrus_rust::Walrus::with_consistency_and_schedule(reads, FsyncSchedule::NoFsync);
        Walrus { cell, walrus: Arc::new(walrus.unwrap()) }
    }
}

impl Contestant for Walrus {
    fn run(&mut self, messages: u64) -> Outcome {
        let (outlets, inlets) = (vec![WalrusEnd(self.walrus.clone())], vec![WalrusEnd(self.walrus.clone())]);
        let dir = std::env::var_os("WALRUS_DATA_DIR").unwrap();
        threads::run(&self.cell, messages, outlets, inlets, || sync_all(Path::new(&dir)))
    }
}

struct WalrusEnd(Arc<walrus_rust::Walrus>);

impl Outlet for WalrusEnd {
    fn send(&mut self, message: &[u8]) {
        self.0.append_for_topic(TOPIC, message).unwrap();
    }
}

impl Inlet for WalrusEnd {
    fn receive(&mut self, _: usize, tally: &mut Tally) {
        loop {
            match self.0.read_next(TOPIC, true).unwrap() {
                Some(message) => return tally.look(&message.data),
                None => spin_loop(),
            }
        }
    }
}
