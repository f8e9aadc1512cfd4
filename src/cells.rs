//! Op cells and claim cells: what a running operation says about itself, so that others can judge
//! what is left of it if it dies.
//!
//! **Op cell** `{state 3, run or place 16, owner 12, sequence 33}` and an operand. The sequence rises
//! with every change, over all owners, and is never reset. Any open takes any idle cell; the entry
//! of an open is not reused before its cells are idle, so a cell that has not changed names the
//! same open still.
//!
//! - **Invariant (cleaning).** Who cleans a cell of a dead open reads the cell, then sees that the
//!   entry is that open's still, and then swaps from exactly the word read. So any number of cleaners
//!   work at once, and one that was stopped for long takes nothing from the next user of the entry.
//!
//! - A sender says RESERVING(place) before it adds to a cursor and HOLDS(offset, run) before it
//!   writes; IDLE after it committed. Between RESERVING and IDLE there is no wait, allocation or
//!   call into foreign code.
//! - **Invariant (hole).** An index below a page's count whose slot is untouched belongs to a cell
//!   that was RESERVING that place when the count was read and has not changed since, or that HOLDS
//!   it, or to nobody who can still write. [`OpCells::nobody_holds`] proves the last.
//! - Who changes a cursor word by compare-and-swap says TURNING(page number) first.
//!
//! **Claim cell** `{epoch 32, attempts 12, owner 16, kind 1, state 3}`, the offset, the time taken,
//! three counters. FREE -> TAKEN -> INTENT -> HELD -> DONE -> FREE, or HELD -> RETURNED -> HELD, or
//! RETURNED -> GONE -> FREE. Every INTENT and every taking of a RETURNED cell has a new epoch. The
//! offset is stored only by the owner, and only while the cell is TAKEN.
//!
//! - **Invariant (claim).** An INTENT is a claim if and only if the group's cursor in its offset's
//!   page names the cell and stands right behind that index. Whoever moves that cursor on first makes
//!   such an INTENT HELD, so that no claim is ever anonymous. (A cursor may name a cell by a claim
//!   that is over. So an owner looks at the cursor once more after it took the cell: as long as it
//!   has the cell, nobody but itself makes a cursor name it.)
//! - HELD(epoch) of a lease is left by one compare-and-swap, and only one wins: DONE or RETURNED.
//!   That of a message is left by its owner alone, as long as that lives; under `Block` its ack bit is
//!   set and then the cell is free, without DONE. So HELD beside a set ack bit, or of a page that was
//!   turned, is done, too.
//! - The time taken `{epoch 32, milliseconds 32}` counts only for the claim of its epoch.
//! - **Invariant (count).** A counter `{epoch 32, count 32}` was raised for the claim of its epoch. Who
//!   counts reads the counter, sees that the cell is in that claim still, and swaps from what it read;
//!   a cell leaves the claim only after that. So a claim is counted once, whoever dies in between.
#![forbid(unsafe_code)]

use crate::layout::GroupCursor;
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
        (0..cells).find_map(|i| {
            let cell = (first + i) % cells;
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

/// What a claim cell says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum ClaimState {
    /// Nobody's.
    Free = 0,
    /// Somebody's, and it claims nothing.
    Taken = 1,
    /// Its owner is about to move a cursor, or just has.
    Intent = 2,
    /// One message, handed out.
    Held = 3,
    /// Finished; its ack bit may not be set yet.
    Done = 4,
    /// Given back: any receiver of the group may take it.
    Returned = 5,
    /// Given back, and its page has gone; it may not be counted yet.
    Gone = 6,
}

/// Whether a claim can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// Its bytes may be in use where they lie: never, while its owner lives.
    Message = 0,
    /// A copy: its holder can be told that it is too late.
    Lease = 1,
}

/// What is counted in a claim cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// A message that was given back, handed out again.
    Redelivered,
    /// A message given back whose page has gone.
    Gone,
    /// A message that became a dead letter.
    DeadLettered,
}

impl Count {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Redelivered, Self::Gone, Self::DeadLettered];

    /// Which of them.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A claim cell's word: `{epoch 32, attempts 12, owner 16, kind 1, state 3}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimWord(u64);

impl ClaimWord {
    /// Deliveries that the word can count.
    pub const MAX_ATTEMPTS: u64 = (1 << 12) - 1;

    #[inline]
    fn new(state: ClaimState, kind: Kind, owner: usize, attempts: u64, epoch: u64) -> Self {
        let attempts = attempts.min(Self::MAX_ATTEMPTS);
        Self(epoch << 32 | attempts << 20 | (owner as u64) << 4 | (kind as u64) << 3 | state as u64)
    }

    /// What it says.
    #[inline]
    pub fn state(self) -> ClaimState {
        match self.0 & 7 {
            1 => ClaimState::Taken,
            2 => ClaimState::Intent,
            3 => ClaimState::Held,
            4 => ClaimState::Done,
            5 => ClaimState::Returned,
            6 => ClaimState::Gone,
            _ => ClaimState::Free,
        }
    }

    /// Whether it can be taken away.
    #[inline]
    pub fn kind(self) -> Kind {
        if self.0 >> 3 & 1 == 0 { Kind::Message } else { Kind::Lease }
    }

    /// The open that uses it.
    pub fn owner(self) -> usize {
        (self.0 >> 4 & 0xffff) as usize
    }

    /// Deliveries before this one; saturating.
    pub fn attempts(self) -> u32 {
        (self.0 >> 20) as u32 & Self::MAX_ATTEMPTS as u32
    }

    /// The same claim in another state.
    #[inline]
    pub fn to(self, state: ClaimState) -> Self {
        Self(self.0 & !7 | state as u64)
    }

    #[inline]
    fn epoch(self) -> u64 {
        self.0 >> 32
    }

    /// The epoch of the next claim; wraps.
    #[inline]
    fn next_epoch(self) -> u64 {
        (self.epoch() + 1) & u64::from(u32::MAX)
    }

    /// Nobody's.
    #[inline]
    pub fn free(self) -> Self {
        Self::new(ClaimState::Free, Kind::Message, 0, 0, self.epoch())
    }

    /// Given back, after one more delivery.
    pub fn returned(self) -> Self {
        self.put_back(u64::from(self.attempts()) + 1)
    }

    fn put_back(self, attempts: u64) -> Self {
        Self::new(ClaimState::Returned, self.kind(), 0, attempts, self.next_epoch())
    }
}

const OFFSET: usize = 1;
const TAKEN_AT: usize = 2;
const COUNTERS: usize = 3;

/// One claim cell.
#[derive(Clone, Copy, Debug)]
pub struct ClaimCell<'a> {
    line: &'a [AtomicU64; 6],
}

impl<'a> ClaimCell<'a> {
    /// The cell at this number.
    #[inline]
    pub fn new(mem: Memory<'a>, group: usize, cell: usize) -> Self {
        Self { line: mem.claim_cell(group, cell) }
    }

    #[inline]
    fn word(self) -> &'a AtomicU64 {
        &self.line[0]
    }

    /// What it says now.
    #[inline]
    pub fn load(self) -> ClaimWord {
        ClaimWord(self.word().load(Acquire)) // ORDER[claim cell]
    }

    /// What it says, and of which offset; nothing if it changed while it was read.
    pub fn read(self) -> Option<(ClaimWord, u64)> {
        let seen = self.load();
        let offset = self.line[OFFSET].load(Acquire); // ORDER[operand]
        (self.load() == seen).then_some((seen, offset))
    }

    /// One transition; false if somebody else made another first.
    #[inline]
    pub fn change(self, from: ClaimWord, to: ClaimWord) -> bool {
        // ORDER[claim cell] AcqRel: what the holder did before it let go happens before what the
        // next one does. SeqCst: a return against the closing of a cursor, see group.rs.
        self.word().compare_exchange(from.0, to.0, SeqCst, Acquire).is_ok()
    }

    /// FREE -> TAKEN, by `owner`.
    #[inline]
    pub fn take(self, owner: usize, kind: Kind) -> Option<ClaimWord> {
        let free = self.load();
        if free.state() != ClaimState::Free {
            return None;
        }
        let taken = ClaimWord::new(ClaimState::Taken, kind, owner, 0, free.next_epoch());
        self.change(free, taken).then_some(taken)
    }

    /// TAKEN or an INTENT that came to nothing -> INTENT of `offset`. The owner's own stores.
    #[inline]
    pub fn intend(self, mine: ClaimWord, offset: u64, now: u32) -> ClaimWord {
        let mut taken = mine;
        if mine.state() == ClaimState::Intent {
            taken = ClaimWord::new(ClaimState::Taken, mine.kind(), mine.owner(), 0, mine.next_epoch());
            self.word().store(taken.0, Release);
        }
        self.line[OFFSET].store(offset, Release); // ORDER[operand]: who reads it sees TAKEN before it
        self.say_taken_at(taken, now);
        let intent = taken.to(ClaimState::Intent);
        self.word().store(intent.0, Release); // ORDER[claim cell]
        intent
    }

    #[inline]
    fn say_taken_at(self, word: ClaimWord, now: u32) {
        if word.kind() == Kind::Lease {
            self.line[TAKEN_AT].store(word.epoch() << 32 | u64::from(now), Relaxed); // a time, with its epoch
        }
    }

    /// INTENT -> HELD, by its owner or by a helper: true if it is held under this epoch now.
    #[inline]
    pub fn hold(self, intent: ClaimWord) -> bool {
        let held = intent.to(ClaimState::Held);
        if intent.kind() == Kind::Message {
            // Nobody takes it away from a live owner, and a helper writes the same word.
            self.word().store(held.0, Release); // ORDER[claim cell]
            return true;
        }
        self.change(intent, held) || self.load() == held
    }

    /// HELD -> DONE: false if it was taken away.
    #[inline]
    pub fn finish(self, held: ClaimWord) -> bool {
        self.change(held, held.to(ClaimState::Done))
    }

    /// HELD -> RETURNED, and the word that says so: nothing if it was taken away.
    pub fn give_back(self, held: ClaimWord) -> Option<ClaimWord> {
        self.change(held, held.returned()).then(|| held.returned())
    }

    /// HELD -> RETURNED, as if it had not been taken.
    pub fn put_back(self, held: ClaimWord) -> bool {
        self.change(held, held.put_back(u64::from(held.attempts())))
    }

    /// HELD -> FREE, for a message that is done, by its owner: nobody takes it away from that.
    #[inline]
    pub fn release(self, held: ClaimWord) {
        // ORDER[claim cell] Release. SeqCst and a read-modify-write, so that the look for who waits
        // for a cell or for room comes after it: ORDER[sleep].
        self.word().swap(held.free().0, SeqCst);
    }

    /// From exactly `from` -> FREE: false if it had changed.
    pub fn free(self, from: ClaimWord) -> bool {
        self.change(from, from.free())
    }

    /// RETURNED -> HELD by `owner`.
    pub fn retake(self, returned: ClaimWord, owner: usize, kind: Kind, now: u32) -> Option<ClaimWord> {
        let attempts = u64::from(returned.attempts());
        let held = ClaimWord::new(ClaimState::Held, kind, owner, attempts, returned.next_epoch());
        let won = self.change(returned, held);
        if won {
            self.say_taken_at(held, now);
        }
        won.then_some(held)
    }

    /// What it says and of which offset, if it is an INTENT.
    #[inline]
    pub fn intent(self) -> Option<(ClaimWord, u64)> {
        if self.load().state() != ClaimState::Intent {
            return None;
        }
        self.read().filter(|(word, _)| word.state() == ClaimState::Intent)
    }

    /// Whether the lease that `word` says was taken more than `timeout` milliseconds ago. Where its
    /// holder has not said since when, the time begins now. `now` reads the clock: after the word was
    /// read, as who looks may be stopped for long.
    pub fn is_overdue(self, word: ClaimWord, now: impl FnOnce() -> u32, timeout: u32) -> bool {
        let said = self.line[TAKEN_AT].load(Acquire);
        let now = now();
        if said >> 32 != word.epoch() {
            // From exactly the value read: its holder, or another who looks, may say it meanwhile.
            let from_now = word.epoch() << 32 | u64::from(now);
            let _ = self.line[TAKEN_AT].compare_exchange(said, from_now, AcqRel, Relaxed);
            return false;
        }
        // The clock wraps; a time just said may lie behind `now`.
        let age = now.wrapping_sub(said as u32);
        age > timeout && age < 1 << 31
    }

    /// Counts something of the claim `word` once, if the cell is in that claim still.
    pub fn count(self, what: Count, word: ClaimWord) {
        let counter = &self.line[COUNTERS + what.index()];
        let mut seen = counter.load(Acquire); // ORDER[count] Acquire: the counter before the cell
        while seen >> 32 != word.epoch() && self.load() == word {
            let n = (seen + 1) & u64::from(u32::MAX);
            // ORDER[count] Release: counted before the cell leaves the claim.
            match counter.compare_exchange(seen, word.epoch() << 32 | n, AcqRel, Acquire) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    /// How often that was counted in this cell.
    pub fn counted(self, what: Count) -> u32 {
        self.line[COUNTERS + what.index()].load(Acquire) as u32
    }

    /// HELD or RETURNED -> GONE, and settles it; false if it had changed.
    pub fn lose(self, from: ClaimWord) -> bool {
        let gone = from.to(ClaimState::Gone);
        let lost = self.change(from, gone);
        if lost {
            self.settle_gone(gone);
        }
        lost
    }

    /// Counts a GONE cell and frees it: by whoever finds it.
    pub fn settle_gone(self, gone: ClaimWord) {
        self.count(Count::Gone, gone);
        self.free(gone);
    }
}

/// Whether an INTENT of `offset` by the cell that `cursor` names is a claim in `page`.
pub fn is_claim(offset: u64, page: u64, cursor: GroupCursor) -> bool {
    let offset = crate::Offset::from_u64(offset);
    offset.page() == page && offset.index() as usize + 1 == cursor.index
}
