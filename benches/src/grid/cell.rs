//! The cells of the grid. The name of a cell says all of it.

use std::fmt;
use std::str::FromStr;

/// Messages of a batch.
const BATCH: usize = 64;
/// Bytes of the ring that disk_chan makes when nothing is chosen.
const RING: u64 = 256 << 20;

/// What senders and receivers run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    Threads,
    /// Tasks on tokio, with 2 workers.
    Tasks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Bytes of a message.
    pub size: usize,
    pub senders: u64,
    /// Of each group.
    pub receivers: u64,
    /// Each gets every message.
    pub groups: u64,
    pub face: Face,
    /// Messages in a call; 1 is the call for a single one.
    pub batch: usize,
    /// All is sent before anything is received.
    pub backlog: bool,
}

impl Cell {
    const fn new(size: usize, senders: u64, receivers: u64, face: Face) -> Self {
        Cell { size, senders, receivers, groups: 1, face, batch: 1, backlog: false }
    }

    fn batches(self) -> Self {
        Cell { batch: BATCH, ..self }
    }

    /// What always runs.
    pub fn core() -> Vec<Self> {
        let mut cells = Vec::new();
        for size in [8, 100, 1024] {
            for pairs in [1, 2, 4] {
                cells.extend([Face::Threads, Face::Tasks].map(|face| Cell::new(size, pairs, pairs, face)));
            }
        }
        cells.extend([1, 4].map(|pairs| Cell::new(100, pairs, pairs, Face::Threads).batches()));
        cells
    }

    /// The rest of the full grid.
    pub fn more() -> Vec<Self> {
        let faces = [Face::Threads, Face::Tasks];
        let mut cells = Vec::new();
        for (senders, receivers) in [(1, 1), (2, 2), (4, 4), (8, 1), (1, 8)] {
            for size in [8, 100, 1024, 16384] {
                cells.extend(faces.map(|face| Cell::new(size, senders, receivers, face)));
            }
        }
        for size in [8, 100, 1024, 16384] {
            cells.extend([1, 4].map(|pairs| Cell::new(size, pairs, pairs, Face::Threads).batches()));
        }
        cells.extend([1, 4].map(|pairs| Cell::new(100, pairs, pairs, Face::Tasks).batches()));
        for groups in [4, 16] {
            cells.extend(faces.map(|face| Cell { groups, ..Cell::new(100, 1, 1, face) }));
        }
        let core = Cell::core();
        cells.retain(|cell| !core.contains(cell));
        cells
    }

    /// Everything sent, then everything received.
    pub fn backlogs(full: bool) -> Vec<Self> {
        let sizes: &[usize] = if full { &[8, 100, 1024] } else { &[100] };
        let cell = |size, pairs| Cell { backlog: true, ..Cell::new(size, pairs, pairs, Face::Threads) };
        sizes.iter().flat_map(|&size| [1, 4].map(|pairs| cell(size, pairs))).collect()
    }

    /// Messages that are sent by one of the senders.
    pub fn share(&self, sender: u64, messages: u64) -> u64 {
        messages / self.senders + u64::from(sender < messages % self.senders)
    }

    /// Messages that the ring has room for, and some more would fit.
    pub fn room(&self) -> u64 {
        RING * 6 / 10 / (self.size.max(64) as u64 + 48)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let face = if self.face == Face::Threads { "threads" } else { "tasks" };
        write!(f, "{}B {}-{} {face}", self.size, self.senders, self.receivers)?;
        if self.groups > 1 {
            write!(f, " groups={}", self.groups)?;
        }
        if self.batch > 1 {
            write!(f, " batch={}", self.batch)?;
        }
        if self.backlog {
            write!(f, " backlog")?;
        }
        Ok(())
    }
}

#[derive(Debug)]
pub struct NoCell;

impl FromStr for Cell {
    type Err = NoCell;

    /// Reads a name.
    fn from_str(name: &str) -> Result<Self, NoCell> {
        let mut words = name.split(' ');
        let size = words.next().and_then(|word| word.strip_suffix('B')?.parse().ok()).ok_or(NoCell)?;
        let (senders, receivers) = words.next().and_then(|word| word.split_once('-')).ok_or(NoCell)?;
        let (senders, receivers) = (senders.parse().map_err(|_| NoCell)?, receivers.parse().map_err(|_| NoCell)?);
        let face = match words.next() {
            Some("threads") => Face::Threads,
            Some("tasks") => Face::Tasks,
            _ => return Err(NoCell),
        };
        let mut cell = Cell::new(size, senders, receivers, face);
        for word in words {
            match word.split_once('=') {
                Some(("groups", groups)) => cell.groups = groups.parse().map_err(|_| NoCell)?,
                Some(("batch", batch)) => cell.batch = batch.parse().map_err(|_| NoCell)?,
                None if word == "backlog" => cell.backlog = true,
                _ => return Err(NoCell),
            }
        }
        Ok(cell)
    }
}
