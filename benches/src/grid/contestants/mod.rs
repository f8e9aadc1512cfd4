//! What is compared. A new one is a `Kind`, its name, and a `Contestant`.

mod limit;
mod logs;
mod memory_tasks;
mod memory_threads;
mod old;
mod ring;

use std::path::Path;
use std::time::Duration;

use super::cell::{Cell, Face};
use super::threads::Outcome;

/// What a channel in memory is bounded at: the better one of these.
pub const CAPACITIES: [usize; 2] = [1024, 65536];

/// Moves messages through a channel of its own.
pub trait Contestant {
    /// Brings it to its steady state.
    fn warm(&mut self) {}
    /// Moves so many messages once.
    fn run(&mut self, messages: u64) -> Outcome;
    /// What it is bounded at, in messages.
    fn capacity(&self) -> Option<usize> {
        None
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This crate, the ring that it makes when nothing is chosen, gone round once.
    DiskChan,
    /// The same, with a new file for each run, which ends before the first lap does.
    DiskChanCold,
    Crossbeam,
    Flume,
    Kanal,
    Std,
    AsyncChannel,
    Tokio,
    Old,
    Yaque,
    Walrus,
    /// What memory allows between two threads.
    Limit,
    LimitChecked,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::DiskChan,
        Kind::DiskChanCold,
        Kind::Crossbeam,
        Kind::Flume,
        Kind::Kanal,
        Kind::Std,
        Kind::AsyncChannel,
        Kind::Tokio,
        Kind::Old,
        Kind::Yaque,
        Kind::Walrus,
        Kind::Limit,
        Kind::LimitChecked,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::DiskChan => "disk_chan",
            Kind::DiskChanCold => "disk_chan, first lap of a new file",
            Kind::Crossbeam => "crossbeam-channel",
            Kind::Flume => "flume",
            Kind::Kanal => "kanal",
            Kind::Std => "std mpsc",
            Kind::AsyncChannel => "async-channel",
            Kind::Tokio => "tokio mpsc",
            Kind::Old => "disk-chan 0.3 (tokio, 2 workers)",
            Kind::Yaque => "yaque",
            Kind::Walrus => "walrus-rust, never synced",
            Kind::Limit => "limit",
            Kind::LimitChecked => "limit, xxh3 checksum",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub fn in_memory(self) -> bool {
        use Kind::*;
        matches!(self, Crossbeam | Flume | Kanal | Std | AsyncChannel | Tokio)
    }

    /// Whether it has a call for a batch.
    pub fn has_batches(self, face: Face) -> bool {
        self == Kind::DiskChan || self == Kind::Tokio && face == Face::Tasks
    }

    /// Those that can do what a cell asks for.
    pub fn of(cell: &Cell, full: bool) -> Vec<Self> {
        let threads = cell.face == Face::Threads;
        let single = cell.batch == 1 && cell.groups == 1;
        let pair = single && threads && (cell.senders, cell.receivers) == (1, 1);
        let can = |kind: &Kind| match kind {
            Kind::DiskChan | Kind::Flume | Kind::Kanal | Kind::AsyncChannel => true,
            Kind::DiskChanCold => single && threads && !cell.backlog && (full || cell.size == 100 && cell.senders != 2),
            Kind::Crossbeam => threads,
            Kind::Std => threads && cell.receivers == 1,
            Kind::Tokio => cell.receivers == 1,
            Kind::Old => cell.batch == 1,
            Kind::Yaque | Kind::Walrus => pair,
            Kind::Limit | Kind::LimitChecked => pair && !cell.backlog,
        };
        Self::ALL.into_iter().filter(can).collect()
    }

    /// The most messages of a run.
    pub fn most(self, cell: &Cell) -> u64 {
        if cell.backlog || self == Kind::DiskChanCold { cell.room() } else { u64::MAX }
    }

    /// Opens it in an empty directory.
    pub fn open(self, cell: Cell, dir: &Path) -> Box<dyn Contestant> {
        match (self, cell.face) {
            (Kind::DiskChan, Face::Threads) => Box::new(ring::OnThreads::new(cell, dir)),
            (Kind::DiskChan, Face::Tasks) => Box::new(ring::OnTasks::new(cell, dir)),
            (Kind::DiskChanCold, _) => Box::new(ring::Cold::new(cell, dir)),
            (Kind::Old, _) => Box::new(old::Old::new(cell, dir)),
            (Kind::Yaque, _) => Box::new(logs::Yaque::new(cell, dir)),
            (Kind::Walrus, _) => Box::new(logs::Walrus::new(cell)),
            (Kind::Limit | Kind::LimitChecked, _) => Box::new(limit::Limit::new(cell, dir, self == Kind::LimitChecked)),
            (kind, Face::Threads) => Box::new(Memory::new(memory_threads::open(kind, cell), &cell)),
            (kind, Face::Tasks) => Box::new(Memory::new(memory_tasks::open(kind, cell), &cell)),
        }
    }
}

/// A run with a channel of a capacity, or an unbounded one.
type Run = Box<dyn Fn(u64, Option<usize>) -> Outcome>;

/// A channel in memory, a `Vec<u8>` allocated for each message. A new one for each run.
struct Memory {
    run: Run,
    capacity: Option<usize>,
}

impl Memory {
    fn new(run: Run, cell: &Cell) -> Self {
        Memory { run, capacity: (!cell.backlog).then_some(CAPACITIES[0]) }
    }
}

impl Contestant for Memory {
    /// Chooses the capacity: the one with the fastest of some runs.
    fn warm(&mut self) {
        if self.capacity.is_none() {
            return;
        }
        let (messages, _) = calibrate(self, u64::MAX);
        let mut best = None::<(Duration, usize)>;
        for capacity in CAPACITIES.repeat(3) {
            let time = (self.run)(messages, Some(capacity)).time;
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, capacity));
            }
        }
        self.capacity = best.map(|(_, capacity)| capacity);
    }

    fn run(&mut self, messages: u64) -> Outcome {
        (self.run)(messages, self.capacity)
    }

    fn capacity(&self) -> Option<usize> {
        self.capacity
    }
}

/// The variables that a contestant reads.
pub fn environment(dir: &Path) -> [(&'static str, &Path); 2] {
    logs::walrus_environment(dir)
}

/// Messages of a run that takes some time, and how long it took.
pub fn calibrate(contestant: &mut (impl Contestant + ?Sized), most: u64) -> (u64, Duration) {
    const SOME: Duration = Duration::from_millis(40);
    let mut messages = 1000.min(most);
    loop {
        let outcome = contestant.run(messages);
        let time = outcome.time + outcome.sending.unwrap_or_default();
        if time >= SOME || messages == most {
            return (messages, time);
        }
        messages = (messages * 4).min(most);
    }
}
