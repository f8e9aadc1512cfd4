//! What a worker did: a mapped file that outlives it, with one writer, and read by the supervisor.
//!
//! A record is written before the count that includes it, so that whatever instruction its writer was killed at, the
//! records that count are whole and in order.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use disk_chan::Offset;
use memmap2::{MmapOptions, MmapRaw};

const RECORDS: usize = 0;
const PROGRESS: usize = 1;
const QUIT: usize = 2;
const DOING: usize = 3;
const HUSHED: usize = 4;
const FIRST: usize = 8;
const RECORD: usize = 3;
/// Bytes of a log: a worker whose log is nearly full ends and is started again with a new one.
const BYTES: u64 = 64 << 20;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum Kind {
    /// A send begins.
    Invoked = 1,
    /// It returned this offset.
    Sent = 2,
    /// It returned an error, or was cancelled: the message was not sent.
    Refused = 3,
    /// A message was handed out.
    Got = 4,
    /// Whoever has it is about to be done with it.
    Finishing = 5,
    /// It is done.
    Done = 6,
    /// Whoever has it is about to give it back.
    Back = 7,
    /// It was taken away before it was done.
    Taken = 8,
    /// The receiver was told that this many messages were lost.
    Lagged = 9,
}

/// One record. A finish or a return names the delivery by the attempt.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub kind: Kind,
    pub attempt: u32,
    pub number: u64,
    pub offset: u64,
}

/// The log of one thread of one worker.
pub struct Log {
    map: MmapRaw,
    path: PathBuf,
}

impl Log {
    /// A new log, by the supervisor.
    pub fn create(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(BYTES).unwrap();
        Self::map(&file, path)
    }

    /// The log that the supervisor made.
    pub fn open(path: &Path) -> Self {
        Self::map(&OpenOptions::new().read(true).write(true).open(path).unwrap(), path)
    }

    fn map(file: &File, path: &Path) -> Self {
        Self { map: MmapOptions::new().map_raw(file).unwrap(), path: path.to_owned() }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page aligned and lives as long as `self`, nobody shortens the file, and every access
        // in any process is by these atomics.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.map.len() / 8) }
    }

    fn push(&self, kind: Kind, attempt: u32, number: u64, offset: u64) {
        let words = self.words();
        let count = words[RECORDS].load(Relaxed); // this thread is the only writer
        let at = FIRST + count as usize * RECORD;
        words[at].store(kind as u64 | u64::from(attempt) << 8, Relaxed);
        words[at + 1].store(number, Relaxed);
        words[at + 2].store(offset, Relaxed);
        words[RECORDS].store(count + 1, Release);
        if matches!(kind, Kind::Sent | Kind::Got | Kind::Lagged) {
            words[PROGRESS].fetch_add(1, Relaxed);
        }
    }

    /// A record about a send, or about what was lost.
    pub fn note(&self, kind: Kind, number: u64) {
        self.push(kind, 0, number, 0);
    }

    /// A send that returned.
    pub fn sent(&self, number: u64, offset: Offset) {
        self.push(Kind::Sent, 0, number, offset.as_u64());
    }

    /// A message that was handed out.
    pub fn got(&self, number: u64, attempt: u32, offset: Offset) {
        self.push(Kind::Got, attempt, number, offset.as_u64());
    }

    /// How a delivery goes on.
    pub fn ends(&self, kind: Kind, number: u64, attempt: u32) {
        self.push(kind, attempt, number, 0);
    }

    /// What the worker does now, for a report of who stands still.
    pub fn doing(&self, what: &[u8; 8]) {
        self.words()[DOING].store(u64::from_le_bytes(*what), Relaxed);
    }

    /// What it was doing.
    pub fn last_doing(&self) -> String {
        String::from_utf8_lossy(&self.words()[DOING].load(Relaxed).to_le_bytes()).trim_end().to_owned()
    }

    /// Asks the worker to end.
    pub fn ask_to_quit(&self) {
        self.words()[QUIT].store(1, Release);
    }

    /// Whether it was asked to.
    pub fn is_asked_to_quit(&self) -> bool {
        self.words()[QUIT].load(Acquire) != 0
    }

    /// Asks a sender to send nothing for a while, or to go on.
    pub fn hush(&self, hush: bool) {
        self.words()[HUSHED].store(hush.into(), Release);
    }

    /// Whether it was asked to send nothing.
    pub fn is_hushed(&self) -> bool {
        self.words()[HUSHED].load(Acquire) != 0
    }

    /// Whether the worker shall end: asked to, or as the log is nearly full.
    pub fn must_quit(&self) -> bool {
        let words = self.words();
        let used = FIRST + words[RECORDS].load(Relaxed) as usize * RECORD;
        self.is_asked_to_quit() || used + words.len() / 8 > words.len()
    }

    /// Messages sent or handed out.
    pub fn progress(&self) -> u64 {
        self.words()[PROGRESS].load(Relaxed)
    }

    /// Whether the last record says that a send, a finish or a return has begun and not ended.
    pub fn is_in_the_midst(&self) -> bool {
        let words = self.words();
        let count = words[RECORDS].load(Acquire) as usize;
        let kind = |at: usize| words[FIRST + (at - 1) * RECORD].load(Relaxed) & 0xff;
        count > 0 && [Kind::Invoked, Kind::Finishing, Kind::Back].iter().any(|&k| k as u64 == kind(count))
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Record> {
        let words = self.words();
        let count = words[RECORDS].load(Acquire) as usize;
        let record = |at: usize| {
            let [head, number, offset] = [0, 1, 2].map(|i| words[FIRST + at * RECORD + i].load(Relaxed));
            let kind = match head & 0xff {
                1 => Kind::Invoked,
                2 => Kind::Sent,
                3 => Kind::Refused,
                4 => Kind::Got,
                5 => Kind::Finishing,
                6 => Kind::Done,
                7 => Kind::Back,
                8 => Kind::Taken,
                9 => Kind::Lagged,
                other => panic!("record {at} of {} has kind {other}", self.path.display()),
            };
            Record { kind, attempt: (head >> 8) as u32, number, offset }
        };
        (0..count).map(record).collect()
    }

    /// Removes the file.
    pub fn remove(self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}
