//! Op cells: what a running send says about itself, so that others can judge what is left of it if it
//! dies.
//!
//! **Op cell** `{state 3, run or place 16, owner 12, sequence 33}` and an operand. The sequence rises
//! with every change, over all owners, and is never reset. Any open takes any idle cell; the entry
//! of an open is not reused before its cells are idle, so a cell that has not changed names the
//! same open still.
//!
//! - A sender says RESERVING(place) before it adds to a cursor and HOLDS(offset, run) before it
//!   writes; IDLE after it committed. Between RESERVING and IDLE there is no wait, allocation or
//!   call into foreign code.
//! - **Invariant (hole).** An index below a page's count whose slot is untouched belongs to a cell
//!   that was RESERVING that place when the count was read and has not changed since, or that HOLDS
//!   it, or to nobody who can still write. [`OpCells::nobody_holds`] proves the last.
//! - Who changes a cursor word by compare-and-swap says TURNING(page number) first.
#![forbid(unsafe_code)]

use crate::memory::Memory;
use crate::opens::OpenId;
use crate::sync::{AtomicU64, Ordering, PATIENCE, fence, pause, thread_number};
use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

/// Who is alive. The kernel knows, by the lock bytes; a model decides it itself.
pub trait Liveness: Sync {
    /// Whether an open has ended without cleaning up. Asked of one's own open, or of an entry that
    /// nobody uses, the answer is no.
    fn is_dead(&self, open: usize) -> bool;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Op {
    Idle = 0,
    Reserving = 1,
    Holds = 2,
    Turning = 3,
    Taken = 4,
}

const OP_STATE: u64 = 7;
const OP_DETAIL: u32 = 3;
const OP_OWNER: u32 = 19;
const OP_SEQ: u32 = 31;

/// The next word of a cell. The detail is the place that is RESERVING, the run that HOLDS.
fn op_word(before: u64, state: Op, detail: usize, owner: usize) -> u64 {
    let seq = (before >> OP_SEQ).wrapping_add(1);
    let owner = (owner as u64 & 0xfff) << OP_OWNER;
    seq << OP_SEQ | owner | (detail as u64) << OP_DETAIL | state as u64
}

fn detail(word: u64) -> u64 {
    word >> OP_DETAIL & 0xffff
}

fn owner(word: u64) -> usize {
    (word >> OP_OWNER & 0xfff) as usize
}

fn is(word: u64, state: Op) -> bool {
    word & OP_STATE == state as u64
}

/// An op cell in use. Dropped, it is idle again.
#[derive(Debug)]
pub struct OpCell<'a> {
    word: &'a AtomicU64,
    operand: &'a AtomicU64,
    value: u64,
}

impl<'a> OpCell<'a> {
    /// Takes an idle cell for `me`. Each thread begins its search elsewhere.
    #[inline]
    fn take(mem: Memory<'a>, me: OpenId, state: Op, place: usize) -> Option<Self> {
        let cells = mem.layout.geometry.max_op_cells;
        let first = thread_number() + me.index * 16;
        (first..first + cells).find_map(|cell| {
            // Seldom needed, and a division takes its time.
            let cell = if cell < cells { cell } else { cell % cells };
            if mem.op_cells_used().load(Acquire) <= cell as u64 {
                mem.op_cells_used().fetch_max(cell as u64 + 1, SeqCst);
            }
            let (word, operand) = mem.op_cell(cell);
            let idle = word.load(Relaxed);
            if !is(idle, Op::Idle) {
                return None;
            }
            let value = op_word(idle, state, place, me.index);
            // ORDER[announce] Release, by way of the add to the cursor that follows: who reads a
            // count that the add raised sees this cell RESERVING or later. Acquire: after the owner
            // before.
            word.compare_exchange(idle, value, AcqRel, Relaxed).ok()?;
            Some(Self { word, operand, value })
        })
    }

    /// Says that this sender will add to the cursor of the page at `place`. Nothing if every cell is
    /// in use.
    #[inline]
    pub fn reserving(mem: Memory<'a>, me: OpenId, place: usize) -> Option<Self> {
        Self::take(mem, me, Op::Reserving, place)
    }

    /// Takes a cell for turning pages.
    pub fn taken(mem: Memory<'a>, me: OpenId) -> Option<Self> {
        Self::take(mem, me, Op::Taken, 0)
    }

    /// Makes the cells of an open that is dead, or that has ended, idle.
    pub fn clear(mem: Memory<'a>, open: OpenId) {
        for cell in used(mem) {
            let (word, _) = mem.op_cell(cell);
            let seen = word.load(Acquire); // ORDER[open entry] Acquire: before the look at the entry
            if !is(seen, Op::Idle) && owner(seen) == open.index && open.is_entered(mem) {
                let _ = word.compare_exchange(seen, op_word(seen, Op::Idle, 0, 0), AcqRel, Relaxed);
            }
        }
    }

    /// Whether it is as its owner left it: for models.
    #[cfg(disk_chan_loom)]
    pub fn is_ours(&self) -> bool {
        self.word.load(Acquire) == self.value
    }

    #[inline]
    fn set(&mut self, state: Op, run: usize) {
        self.value = op_word(self.value, state, run, owner(self.value));
        // ORDER[cell] Release: the operand, and that RESERVING ended here, with judge's Acquire.
        self.word.store(self.value, Release);
    }

    /// Says that this sender writes `run` messages from `offset` on.
    #[inline]
    pub fn holds(&mut self, offset: u64, run: usize) {
        // ORDER[operand] Release: who reads this operand also sees that the state before it ended.
        self.operand.store(offset, Release);
        self.set(Op::Holds, run);
    }

    /// Says that this thread may compare-and-swap the cursor word of this page; the caller reads
    /// the word and the page number again afterwards.
    pub fn turning(&mut self, page: u64) {
        self.set(Op::Taken, 0);
        self.operand.store(page, Release); // ORDER[operand]
        self.set(Op::Turning, 0);
        // ORDER[turning] SeqCst, with turning_before: either it sees this cell, or the words read
        // next are those it left.
        fence(SeqCst);
    }
}

impl Drop for OpCell<'_> {
    fn drop(&mut self) {
        // SeqCst and a read-modify-write, so that the look for sleepers that follows a send comes
        // after its commit: see ORDER[sleep] in wait.rs.
        self.word.swap(op_word(self.value, Op::Idle, 0, 0), SeqCst);
    }
}

/// The op cells of all opens, as their judge sees them.
#[derive(Clone, Copy)]
pub struct OpCells<'a> {
    mem: Memory<'a>,
    live: &'a dyn Liveness,
}

impl std::fmt::Debug for OpCells<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpCells { .. }")
    }
}

fn used(mem: Memory<'_>) -> std::ops::Range<usize> {
    0..(mem.op_cells_used().load(Acquire) as usize).min(mem.layout.geometry.max_op_cells)
}

impl<'a> OpCells<'a> {
    /// The cells of these words.
    pub fn new(mem: Memory<'a>, live: &'a dyn Liveness) -> Self {
        Self { mem, live }
    }

    /// Whether the owner of a cell that says `seen` is dead. True also if the cell changed: then it
    /// was cleaned, or its owner did what it had announced.
    fn is_over(self, cell: usize, seen: u64) -> bool {
        self.live.is_dead(owner(seen)) || self.mem.op_cell(cell).0.load(Acquire) != seen
    }

    /// Whether nobody can still write at `offset`, whose slot was seen untouched below the count
    /// of the page at `place`. False means: not proved yet.
    ///
    /// The order of the steps is the proof. The cells that are RESERVING the place now are the only
    /// ones that can hold the index without saying so; once each of them has changed or is dead,
    /// who holds it says HOLDS. Whether an owner is dead is asked after the hole was seen.
    pub fn nobody_holds(self, place: usize, offset: u64) -> bool {
        for cell in used(self.mem) {
            let (word, _) = self.mem.op_cell(cell);
            // ORDER[announce] Acquire was the caller's load of the count; ORDER[cell] Acquire here.
            let seen = word.load(Acquire);
            if is(seen, Op::Reserving) && detail(seen) as usize == place {
                let changed = (0..PATIENCE).any(|_| {
                    pause();
                    word.load(Acquire) != seen
                });
                if !changed && !self.is_over(cell, seen) {
                    return false;
                }
            }
        }
        !used(self.mem).any(|cell| self.holds(cell, offset))
    }

    /// Whether somebody alive says in this cell that it writes at `offset`.
    fn holds(self, cell: usize, offset: u64) -> bool {
        let (word, operand) = self.mem.op_cell(cell);
        let seen = word.load(Acquire); // ORDER[cell]
        if !is(seen, Op::Holds) {
            return false;
        }
        let first = operand.load(Acquire); // ORDER[operand]
        // A cell that changed meanwhile has committed what it held, or been cleaned after its death:
        // either way the caller's compare-and-swap of the slot decides.
        let held = first..first.saturating_add(detail(seen));
        word.load(Acquire) == seen && held.contains(&offset) && !self.is_over(cell, seen)
    }

    /// Whether somebody alive may still swap the cursor word of an earlier page at this place.
    pub fn turning_before(self, place: usize, page: u64) -> bool {
        fence(SeqCst); // ORDER[turning]
        used(self.mem).any(|cell| {
            let (word, operand) = self.mem.op_cell(cell);
            let seen = word.load(Acquire);
            if !is(seen, Op::Turning) {
                return false;
            }
            let other = operand.load(Acquire);
            word.load(Acquire) == seen
                && other < page
                && self.mem.layout.place(other) == place
                && !self.is_over(cell, seen)
        })
    }
}
