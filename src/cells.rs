//! Claim cells: what is said of one message that was handed out and is not done.
//!
//! **Claim cell** `{epoch 32, attempts 12, row 1, owner 15, kind 1, state 3}`, the offset, the time taken,
//! three counters, the extent, and what of it is done (extend.rs). FREE -> TAKEN -> INTENT -> HELD ->
//! DONE -> FREE, or HELD -> RETURNED -> HELD, or RETURNED -> GONE -> FREE; of several messages that went out
//! together HELD -> SEVERAL -> FREE (several.rs). Every INTENT, every taking of a RETURNED cell and every
//! change of a SEVERAL one has a new epoch. The offset is stored only by the owner, and only while the cell
//! is TAKEN. HELD -> RETURNED has three forms, which differ in the attempts: one more, if the message was given
//! back; as many, if it could not be moved to the dead letters; as many as the channel allows, if it was rejected.
//!
//! - **Invariant (claim).** An INTENT is a claim if and only if the group's cursor in its offset's
//!   page names the cell and stands right behind that index, or a SEVERAL word names it (several.rs).
//!   Whoever moves that cursor on first makes such an INTENT HELD, so that no claim is ever anonymous.
//!   (A cursor may name a cell by a claim that is over. So an owner looks at the cursor once more after
//!   it took the cell: as long as it has the cell, nobody but itself makes a cursor name it.)
//! - HELD(epoch) of a lease is left by one compare-and-swap, and only one wins: DONE or RETURNED.
//!   That of a message is left by its owner alone, as long as that lives and is not done with it; under
//!   `Block` its ack bit is set and then the cell is free, without DONE. So HELD beside a set ack bit, or
//!   of a page that was turned, is done, too.
//! - The time taken `{epoch 32, milliseconds 32}` counts only for the claim of its epoch.
//! - **Invariant (count).** A counter `{epoch 32, count 32}` was raised for the claim of its epoch. Who
//!   counts reads the counter, sees that the cell is in that claim still, and swaps from what it read;
//!   a cell leaves the claim only after that. So a claim is counted once, whoever dies in between.
#![forbid(unsafe_code)]

use crate::Offset;
use crate::layout::{Acks, GroupCursor};
use crate::memory::Memory;
use crate::sync::{AtomicU64, Ordering};
use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

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
    /// Given back, with several messages: receivers take them out of it, one by one.
    Several = 7,
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

/// A claim cell's word: `{epoch 32, attempts 12, row 1, owner 15, kind 1, state 3}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimWord(u64);

impl ClaimWord {
    /// Deliveries that the word can count.
    pub const MAX_ATTEMPTS: u64 = (1 << 12) - 1;
    const ROW: u64 = 1 << 19;

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
            7 => ClaimState::Several,
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
        (self.0 >> 4 & 0x7fff) as usize
    }

    /// Whether it keeps the row that it begins (several.rs).
    #[inline]
    pub fn keeps_row(self) -> bool {
        self.0 & Self::ROW != 0
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

    /// The same in the next claim.
    #[inline]
    fn next(self) -> Self {
        Self(self.next_epoch() << 32 | self.0 & u64::from(u32::MAX))
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

    /// Given back with several messages; `taken` is the last that was taken out since: by which cell, and
    /// its place in the ack word.
    pub fn several(self, taken: Option<(usize, u32)>) -> Self {
        let (cell, bit) = taken.map_or((0, 0), |(cell, bit)| (cell + 1, bit));
        Self::new(ClaimState::Several, Kind::Message, cell, u64::from(bit), self.next_epoch())
    }

    /// Which message was taken out of one with several last.
    pub fn taken(self) -> Option<(usize, u32)> {
        self.owner().checked_sub(1).map(|cell| (cell, self.attempts() % 32))
    }

    fn put_back(self, attempts: u64) -> Self {
        Self::new(ClaimState::Returned, self.kind(), 0, attempts, self.next_epoch())
    }
}

/// How far a claim was extended: `{epoch 32, sealed 1, messages behind the first 5}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent(u64);

impl Extent {
    const SEALED: u64 = 1 << 5;

    #[inline]
    fn new(epoch: u64, sealed: bool) -> Self {
        Self(epoch << 32 | if sealed { Self::SEALED } else { 0 })
    }

    #[inline]
    fn epoch(self) -> u64 {
        self.0 >> 32
    }

    /// Messages behind the first.
    #[inline]
    pub fn more(self) -> usize {
        (self.0 & (Self::SEALED - 1)) as usize
    }

    /// Whether it is extended no further.
    #[inline]
    pub fn is_sealed(self) -> bool {
        self.0 & Self::SEALED != 0
    }
}

/// A claim cell as it was at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Its word.
    pub word: ClaimWord,
    /// The first message of the claim.
    pub first: Offset,
    /// How far it was extended.
    pub extent: Extent,
    done: u64,
}

impl Seen {
    /// The message that is claimed: the last one that the claim was extended to. (Only a damaged file
    /// extends a claim beyond an ack word.)
    pub fn offset(&self) -> Offset {
        let bit = self.first.as_u64() & 31;
        let last = (bit + self.extent.more() as u64).min(31);
        Offset::from_u64(self.first.as_u64() - bit + last)
    }

    /// Another message in its ack word.
    pub fn offset_at(&self, bit: u32) -> Offset {
        Offset::from_u64(self.first.as_u64() & !31 | u64::from(bit))
    }

    /// What of its messages its owner is done with, by their bits in the ack word; or what was taken out
    /// of one with several.
    pub fn done(&self) -> u32 {
        if self.done >> 32 == self.extent.epoch() { self.done as u32 & self.range() } else { 0 }
    }

    /// The others.
    pub fn undone(&self) -> u32 {
        self.range() & !self.done()
    }

    fn range(&self) -> u32 {
        Acks::range(self.offset().index() as usize, self.extent.more())
    }

    /// Whether its owner is done with all of them, and keeps the claim only to extend it.
    pub fn is_done(&self) -> bool {
        self.word.state() == ClaimState::Held && self.undone() == 0
    }

    /// Whether it says of a message that it is in somebody's hand.
    pub fn is_in_use(&self) -> bool {
        matches!(self.word.state(), ClaimState::Intent | ClaimState::Held) && !self.is_done()
    }
}

const OFFSET: usize = 1;
const TAKEN_AT: usize = 2;
const COUNTERS: usize = 3;
const EXTENT: usize = 6;
const DONE: usize = 7;

/// One claim cell.
#[derive(Clone, Copy, Debug)]
pub struct ClaimCell<'a> {
    line: &'a [AtomicU64; 8],
}

impl<'a> ClaimCell<'a> {
    /// The cell at this number.
    #[inline]
    pub fn new(mem: Memory<'a>, group: usize, cell: usize) -> Self {
        Self { line: mem.claim_cell(group, cell) }
    }

    /// All its words.
    pub fn words(self) -> &'a [AtomicU64; 8] {
        self.line
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

    /// What it says, and of which messages; nothing if it changed while it was read.
    #[inline]
    pub fn read(self) -> Option<Seen> {
        let word = self.load();
        let [done, first, extent] = [DONE, OFFSET, EXTENT].map(|i| self.line[i].load(Acquire)); // ORDER[operand]
        let seen = Seen { word, first: Offset::from_u64(first), extent: Extent(extent), done };
        (self.load() == word).then_some(seen)
    }

    /// The same, read again until it did not change meanwhile.
    #[inline]
    pub fn seen(self) -> Seen {
        loop {
            if let Some(seen) = self.read() {
                return seen;
            }
        }
    }

    /// One transition; false if somebody else made another first.
    #[inline]
    pub fn change(self, from: ClaimWord, to: ClaimWord) -> bool {
        // ORDER[claim cell] AcqRel: what the holder did before it let go happens before what the
        // next one does. SeqCst: a return against the closing of a cursor, see group.rs.
        self.word().compare_exchange(from.0, to.0, SeqCst, Acquire).is_ok()
    }

    /// Says of none of its messages that it is done. Nobody else has the file open.
    pub fn forget_done(self) {
        self.line[DONE].store(0, Relaxed);
    }

    /// Whether nobody ever used it.
    pub fn is_new(self) -> bool {
        self.line.iter().all(|word| word.load(Acquire) == 0)
    }

    /// FREE -> TAKEN, by `owner`, for a message that was delivered so often.
    #[inline]
    pub fn take(self, owner: usize, kind: Kind, attempts: u64) -> Option<ClaimWord> {
        let free = self.load();
        let taken = ClaimWord::new(ClaimState::Taken, kind, owner, attempts, free.next_epoch());
        (free.state() == ClaimState::Free && self.change(free, taken)).then_some(taken)
    }

    /// FREE -> TAKEN, by `owner`, with its row.
    #[inline]
    pub fn take_with_row(self, owner: usize) -> Option<ClaimWord> {
        let free = self.load();
        let taken = ClaimWord::new(ClaimState::Taken, Kind::Message, owner, 0, free.next_epoch());
        let taken = ClaimWord(taken.0 | ClaimWord::ROW);
        (free.state() == ClaimState::Free && self.change(free, taken)).then_some(taken)
    }

    /// TAKEN or an INTENT that came to nothing -> INTENT of `offset`, never to be extended if it is
    /// `sealed`. The owner's own stores.
    #[inline]
    pub fn intend(self, mine: ClaimWord, offset: u64, now: u32, sealed: bool) -> (ClaimWord, Extent) {
        let mut taken = mine;
        if mine.state() == ClaimState::Intent {
            taken = mine.to(ClaimState::Taken).next();
            self.word().store(taken.0, Release);
        }
        let extent = Extent::new(taken.epoch(), sealed);
        self.line[OFFSET].store(offset, Release); // ORDER[operand]: who reads it sees TAKEN before it
        self.line[EXTENT].store(extent.0, Release); // ORDER[operand]
        // Also as that of a claim of long ago might have the same epoch.
        self.line[DONE].store(extent.epoch() << 32, Release); // ORDER[operand]
        self.say_taken_at(taken, now);
        let intent = taken.to(ClaimState::Intent);
        self.word().store(intent.0, Release); // ORDER[claim cell]
        (intent, extent)
    }

    /// One message more, by the owner: nothing if it was sealed.
    #[inline]
    pub fn extend(self, from: Extent) -> Option<Extent> {
        self.swap_extent(from, Extent(from.0 + 1))
    }

    /// So many messages more, and never any again, by the owner: nothing if it was sealed.
    #[inline]
    pub fn extend_and_seal(self, from: Extent, more: usize) -> Option<Extent> {
        let to = Extent((from.0 + more as u64) | Extent::SEALED);
        if from.is_sealed() { None } else { self.swap_extent(from, to) }
    }

    #[inline]
    fn swap_extent(self, from: Extent, to: Extent) -> Option<Extent> {
        // ORDER[extent] Acquire: after whoever sealed it. SeqCst: before the look at the group's state.
        self.line[EXTENT].compare_exchange(from.0, to.0, SeqCst, Acquire).is_ok().then_some(to)
    }

    /// No message more: false if it was extended meanwhile.
    #[inline]
    pub fn seal(self, from: Extent) -> bool {
        // ORDER[extent] AcqRel: what was claimed before this, before what is claimed behind it.
        from.is_sealed() || self.line[EXTENT].compare_exchange(from.0, from.0 | Extent::SEALED, AcqRel, Relaxed).is_ok()
    }

    /// Says that the owner is done with these, all that it ever was done with in this claim.
    #[inline]
    pub fn say_done(self, extent: Extent, bits: u32) {
        // ORDER[ack] Release: the reading of the bytes comes before the turn of whoever sees this and sets
        // the ack bit. The owner's own word.
        self.line[DONE].store(extent.epoch() << 32 | u64::from(bits), Release);
    }

    /// Says that the owner is done with one of several, on any of its threads: all that it is done with.
    #[inline]
    pub fn say_one_done(self, bit: u32) -> u32 {
        (self.line[DONE].fetch_or(u64::from(bit), SeqCst) as u32) | bit // ORDER[ack], as above
    }

    /// Says that a message was taken out of one with several: by whoever took it, or helps.
    pub fn say_taken_out(self, extent: Extent, bit: u32) {
        let mut seen = self.line[DONE].load(Acquire);
        while seen >> 32 == extent.epoch() && seen as u32 & bit == 0 {
            match self.line[DONE].compare_exchange(seen, seen | u64::from(bit), AcqRel, Acquire) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
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

    /// HELD -> RETURNED, as if it had been handed out `attempts` times, and the word that says so: nothing if it
    /// was taken away.
    pub fn reject(self, held: ClaimWord, attempts: u32) -> Option<ClaimWord> {
        let returned = held.put_back(attempts.into());
        self.change(held, returned).then_some(returned)
    }

    /// From exactly `from` -> FREE: false if it had changed. The look for who waits for a cell or for room
    /// comes after it (`ORDER[sleep]`).
    #[inline]
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
            let n = seen.wrapping_add(1) & u64::from(u32::MAX);
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

/// Whether a cell that `cursor` names, and whose first message is `first`, is of the claim that moved the
/// cursor in `page` last.
#[inline]
pub fn is_claim(first: Offset, page: u64, cursor: GroupCursor) -> bool {
    first.page() == page && first.index() as usize + 1 == cursor.index
}
