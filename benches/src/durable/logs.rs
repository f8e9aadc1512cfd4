//! Write-ahead logs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};
use walrus_rust::{FsyncSchedule, ReadConsistency};

use crate::contestants::Contestant;
use crate::run::{Caller, LEN};

const TOPIC: &str = "messages";

/// walrus-rust, told to sync each message: it opens its file with `O_SYNC`, and syncs besides. It takes its directory from the environment.
pub struct Walrus(Arc<walrus_rust::Walrus>);

/// The variables that it reads.
pub fn walrus_environment(dir: &Path) -> [(&'static str, &Path); 2] {
    [("WALRUS_DATA_DIR", dir), ("WALRUS_QUIET", Path::new("1"))]
}

impl Walrus {
    pub fn new() -> Self {
        let reads = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
        let walrus = walrus_rust::Walrus::with_consistency_and_schedule(reads, FsyncSchedule::SyncEach);
        Walrus(Arc::new(walrus.unwrap()))
    }
}

impl Contestant for Walrus {
    fn callers(&mut self, callers: usize) -> Vec<Caller> {
        let caller = |_| -> Caller {
            let walrus = self.0.clone();
            Box::new(move |message| {
                walrus.append_for_topic(TOPIC, message).unwrap();
                true
            })
        };
        (0..callers).map(caller).collect()
    }

    fn count(self: Box<Self>) -> u64 {
        let mut messages = 0;
        while let Some(message) = self.0.read_next(TOPIC, true).unwrap() {
            assert_eq!(message.data.len(), LEN);
            messages += 1;
        }
        messages
    }
}

/// okaywal as it is configured when nothing is chosen. Its segments are used again when they are full.
pub struct OkayWal {
    dir: PathBuf,
    log: WriteAheadLog,
    checkpointed: Counter,
}

/// Counts the messages that go by.
#[derive(Clone, Debug, Default)]
struct Counter {
    recovered: Arc<AtomicU64>,
    checkpointed: Arc<AtomicU64>,
}

/// Whether an entry is a message. Entries that are not read to their end are skipped by okaywal 0.3.1 to a wrong place.
fn is_message(entry: &mut Entry<'_>) -> io::Result<bool> {
    let chunks = entry.read_all_chunks()?;
    Ok(chunks.is_some_and(|chunks| chunks.len() == 1 && chunks[0].len() == LEN))
}

impl LogManager for Counter {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        self.recovered.fetch_add(is_message(entry)?.into(), Relaxed);
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, entries: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        while let Some(mut entry) = entries.read_entry()? {
            self.checkpointed.fetch_add(is_message(&mut entry)?.into(), Relaxed);
        }
        Ok(())
    }
}

impl OkayWal {
    pub fn new(dir: &Path) -> Self {
        let checkpointed = Counter::default();
        let log = Configuration::default_for(dir).open(checkpointed.clone()).unwrap();
        OkayWal { dir: dir.to_owned(), log, checkpointed }
    }
}

impl Contestant for OkayWal {
    fn callers(&mut self, callers: usize) -> Vec<Caller> {
        let caller = |_| -> Caller {
            let log = self.log.clone();
            Box::new(move |message| {
                let mut entry = log.begin_entry().unwrap();
                entry.write_chunk(message).unwrap();
                entry.commit().unwrap();
                true
            })
        };
        (0..callers).map(caller).collect()
    }

    fn count(self: Box<Self>) -> u64 {
        let OkayWal { dir, log, checkpointed } = *self;
        log.shutdown().unwrap();
        let rest = Counter::default();
        let _log = Configuration::default_for(dir).open(rest.clone()).unwrap();
        checkpointed.checkpointed.load(Relaxed) + rest.recovered.load(Relaxed)
    }
}
