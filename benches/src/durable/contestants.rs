//! What is compared. A new one is a struct with a `Contestant` impl, a `Kind`, and its name.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::databases::{Fjall, Sqlite};
use crate::logs::{OkayWal, Walrus};
use crate::ring::{Face, Ring};
use crate::run::{self, Caller, Outcome, Shape};

/// Makes messages durable in files in a directory of its own, which it keeps over all runs.
pub trait Contestant {
    /// Makes ready for a run. Not timed.
    fn callers(&mut self, callers: usize) -> Vec<Caller>;

    fn run(&mut self, shape: Shape) -> Outcome {
        let callers = self.callers(shape.callers);
        run::threads(shape, callers)
    }

    /// The messages of all runs that are there, counted after closing and opening again where that is possible.
    fn count(self: Box<Self>) -> u64;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The reference: what the disk does for one thread.
    Fdatasync,
    /// This crate, on threads, its ring gone round once.
    DiskChan,
    /// The same, on tasks.
    DiskChanTasks,
    /// The same, on threads, with a new file for each run.
    DiskChanNew,
    /// SQLite, a connection that all callers share.
    Sqlite,
    /// SQLite, a connection for each caller.
    SqliteEach,
    Fjall,
    Walrus,
    OkayWal,
}

impl Kind {
    /// All but the reference.
    pub const COMPARED: [Kind; 8] = [
        Kind::DiskChan,
        Kind::DiskChanTasks,
        Kind::DiskChanNew,
        Kind::Sqlite,
        Kind::SqliteEach,
        Kind::Fjall,
        Kind::Walrus,
        Kind::OkayWal,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Fdatasync => "fdatasync of 4 KiB, one thread (F)",
            Kind::DiskChan => "disk_chan",
            Kind::DiskChanTasks => "disk_chan, tasks (tokio, 2 workers)",
            Kind::DiskChanNew => "disk_chan, first lap of a new file",
            Kind::Sqlite => "SQLite, one connection",
            Kind::SqliteEach => "SQLite, a connection each",
            Kind::Fjall => "fjall",
            Kind::Walrus => "walrus-rust",
            Kind::OkayWal => "okaywal",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Kind::Fdatasync].into_iter().chain(Self::COMPARED).find(|kind| kind.name() == name)
    }

    /// Opens it in an empty directory. No run has more sends than told.
    pub fn open(self, dir: &Path, sends: u64) -> Box<dyn Contestant> {
        match self {
            Kind::Fdatasync => Box::new(Fdatasync::new(dir)),
            Kind::DiskChan => Box::new(Ring::new(dir, sends, Face::Threads)),
            Kind::DiskChanTasks => Box::new(Ring::new(dir, sends, Face::Tasks)),
            Kind::DiskChanNew => Box::new(Ring::new(dir, sends, Face::New)),
            Kind::Sqlite => Box::new(Sqlite::new(dir, false)),
            Kind::SqliteEach => Box::new(Sqlite::new(dir, true)),
            Kind::Fjall => Box::new(Fjall::new(dir)),
            Kind::Walrus => Box::new(Walrus::new()),
            Kind::OkayWal => Box::new(OkayWal::new(dir)),
        }
    }
}

const BLOCK: usize = 4096;
const BLOCKS: u64 = 16 << 10;

/// One thread, however many callers are asked for: a block written, then fdatasync, in a file whose blocks were all
/// written before. Each block holds its number, so that they can be counted.
struct Fdatasync {
    path: PathBuf,
    next: Arc<AtomicU64>,
}

impl Fdatasync {
    fn new(dir: &Path) -> Self {
        let path = dir.join("blocks");
        let file = File::create_new(&path).unwrap();
        for at in 0..BLOCKS {
            file.write_all_at(&[0; BLOCK], at * BLOCK as u64).unwrap();
        }
        file.sync_all().unwrap();
        Fdatasync { path, next: Arc::default() }
    }
}

impl Contestant for Fdatasync {
    fn callers(&mut self, _: usize) -> Vec<Caller> {
        let file = File::options().write(true).open(&self.path).unwrap();
        let next = self.next.clone();
        vec![Box::new(move |message| {
            let number = next.fetch_add(1, Relaxed);
            let mut block = [0; BLOCK];
            block[..8].copy_from_slice(&(number + 1).to_le_bytes());
            block[8..8 + message.len()].copy_from_slice(message);
            file.write_all_at(&block, number % BLOCKS * BLOCK as u64).unwrap();
            file.sync_data().unwrap();
            true
        })]
    }

    /// The highest number in the file.
    fn count(self: Box<Self>) -> u64 {
        let bytes = std::fs::read(&self.path).unwrap();
        bytes.chunks(BLOCK).map(|block| u64::from_le_bytes(block[..8].try_into().unwrap())).max().unwrap()
    }
}
