//! Opens: who has the file open, and who died.
//!
//! **Invariants.**
//! - An entry `{incarnation 32, phase 32}` is LIVE from before the first use of the mapping to the
//!   end of the cleanup. It is made and reused under the open lock, by whoever holds its lock byte.
//! - The lock byte belongs to the file description that the mapping was made through. So a free
//!   byte of a LIVE entry proves that no mapping is left: the open is dead, and what it left may be
//!   cleaned, by anybody and by several at once.
//! - **Cleaning.** Who cleans a cell of a dead open reads the cell, then sees that the entry is that
//!   open's still, and then swaps from exactly the word read. So any number of cleaners work at once,
//!   without a lock, and one that was stopped for long takes nothing from the next user of the entry.
//! - An entry is freed under the open lock, after the op cells and claim cells of its open were cleaned.
//!   So while the entry names an open, a cell that names the entry is that open's.
#![forbid(unsafe_code)]

use crate::memory::Memory;
use crate::sync::{AtomicU64, Ordering};
use Ordering::{Acquire, Relaxed, Release, SeqCst};

const STATE: usize = 0;
const HANDLES: usize = 1;
const SLEEPERS: usize = 2;

const LIVE: u64 = 1;

/// How many of those who wait ask about an open in a tick.
const WATCHERS: usize = 8;

/// One open of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenId {
    /// Its entry.
    pub index: usize,
    /// Which of the opens that used this entry.
    pub incarnation: u32,
}

impl OpenId {
    /// An entry that no file has: of who has not entered yet, or only looks.
    pub const NOBODY: Self = Self { index: usize::MAX, incarnation: 0 };

    fn word(self) -> u64 {
        u64::from(self.incarnation) << 32 | LIVE
    }

    /// The open that uses an entry.
    pub fn at(mem: Memory<'_>, index: usize) -> Option<Self> {
        let word = mem.open(index)[STATE].load(SeqCst); // ORDER[open entry]
        (word & LIVE != 0).then_some(Self { index, incarnation: (word >> 32) as u32 })
    }

    /// Whether its entry is still its own: false once somebody has cleaned up after it.
    pub fn is_entered(self, mem: Memory<'_>) -> bool {
        Self::at(mem, self.index) == Some(self)
    }

    /// All opens.
    pub fn all(mem: Memory<'_>) -> impl Iterator<Item = Self> + '_ {
        let used = mem.opens_used().load(Acquire) as usize;
        (0..used.min(mem.layout.geometry.max_opens)).filter_map(move |i| Self::at(mem, i))
    }

    /// Takes the entry `index`, which is free; the caller holds the open lock and its lock byte.
    pub fn attach(mem: Memory<'_>, index: usize) -> Self {
        let line = mem.open(index);
        let incarnation = (line[STATE].load(Acquire) >> 32) as u32;
        let id = Self { index, incarnation: incarnation.wrapping_add(1) };
        for word in [HANDLES, SLEEPERS, SLEEPERS + 1] {
            line[word].store(0, Release);
        }
        mem.opens_used().fetch_max(index as u64 + 1, SeqCst);
        line[STATE].store(id.word(), SeqCst); // ORDER[open entry]
        id
    }

    /// Makes nobody of whoever is or was entered, and their op cells and flags what they are in a new file.
    /// Nobody else has the file open.
    pub fn forget_all(mem: Memory<'_>) {
        // Relaxed: the open lock orders it. Nothing is stored where it is so already.
        let set = |word: &AtomicU64, value: u64| {
            if word.load(Relaxed) != value {
                word.store(value, Relaxed);
            }
        };
        let g = &mem.layout.geometry;
        for line in (0..g.max_opens).map(|index| mem.open(index)) {
            set(&line[STATE], line[STATE].load(Relaxed) >> 32 << 32);
            line[STATE + 1..].iter().for_each(|word| set(word, 0));
        }
        (0..g.max_op_cells).for_each(|cell| set(mem.op_cell(cell).0, 0));
        mem.sleepers().into_iter().chain([mem.opens_used(), mem.op_cells_used()]).for_each(|word| set(word, 0));
    }

    /// Gives the entry back, of an open that ends or that is dead. Its cells are clean, and the caller
    /// holds the open lock, or is the open itself.
    pub fn detach(self, mem: Memory<'_>) {
        let free = self.word() & !LIVE;
        let _ = mem.open(self.index)[STATE].compare_exchange(self.word(), free, SeqCst, Relaxed);
    }

    /// Which opens this one asks about the `turn`th time: all, unless many others wait, too. Those share
    /// them: each is asked about by about [`WATCHERS`] in a tick, and every one asks about all in turn, so
    /// that no death stays unseen though all others who wait are dead or stopped.
    pub fn share(self, mem: Memory<'_>, turn: usize) -> impl Fn(Self) -> bool {
        let waits = |id: &Self| id.sleepers(mem).iter().any(|n| n.load(Relaxed) > 0); // a hint
        let waiting = if waits(&self) { Self::all(mem).filter(waits).count() } else { 1 };
        let parts = (waiting / WATCHERS).max(1);
        move |id| id.index % parts == (self.index + turn) % parts
    }

    /// How many handles that keep receivers waiting it has: senders and channels.
    pub fn handles(self, mem: Memory<'_>) -> &AtomicU64 {
        &mem.open(self.index)[HANDLES]
    }

    /// How many receivers, and how many senders, sleep in it.
    pub fn sleepers(self, mem: Memory<'_>) -> [&AtomicU64; 2] {
        let line = mem.open(self.index);
        [&line[SLEEPERS], &line[SLEEPERS + 1]]
    }
}
