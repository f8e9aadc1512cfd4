//! One page: reserve, commit, skip, seal, read.
//!
//! **Invariants.**
//! - The state of the cursor word only moves forward within a lap: PREPARED, OPEN, SEALED. Nothing
//!   lowers count or units but the turn {SEALED, L} -> {PREPARED, L + 1, 0, 0}; opening keeps them.
//! - Only an add that came back OPEN may write, and only at the index and place it came back with.
//!   An add that came back PREPARED or SEALED writes nothing; its index is skipped on proof.
//! - The page number is stored before the page opens, and cannot change while a slot below the
//!   count is unresolved. So it is read after the add.
//! - A slot goes untouched -> COMMITTED by its sender's plain store; -> SKIPPED by its sender, or
//!   on proof that no sender can still store (ops.rs); COMMITTED -> DAMAGED.
//! - A record that verified has a header block of a length that can be; page.rs does not look into it.
//! - Record words are stored and loaded only as relaxed 64-bit atomics, except through
//!   [`Place::payload`], for a message whose claim pins the page.

use crate::headers::block_len;
use crate::layout::{Cursor, Layout, PageState, RECORD_HEADER, Slot, SlotState};
use crate::memory::Memory;
use crate::sync::{AtomicU64, Ordering, fence};
use Ordering::{AcqRel, Acquire, Relaxed, Release};
use xxhash_rust::xxh3::xxh3_64;

/// A message on its way into a page.
#[derive(Clone, Copy, Debug)]
pub struct Record<'m> {
    region: &'m [u8],
    /// Length and flags.
    word: u64,
    hash: u64,
}

impl<'m> Record<'m> {
    /// Hashes the region, so that this work is done before anything is reserved.
    #[inline]
    pub fn new(region: &'m [u8], flags: u32) -> Self {
        Self { region, word: region.len() as u64 | u64::from(flags) << 32, hash: xxh3_64(region) }
    }

    /// Words of the record.
    #[inline]
    pub fn words(&self) -> usize {
        record_words(self.region.len())
    }
}

fn record_words(len: usize) -> usize {
    RECORD_HEADER + len.div_ceil(8)
}

/// The checksum of a record: of the channel's number, the words before it, and the hash of the payload.
pub fn checksum(uuid: [u64; 2], head: [u64; 3], payload_hash: u64) -> u64 {
    let mut bytes = [0; 48];
    let words = [uuid[0], uuid[1], head[0], head[1], head[2], payload_hash];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64(&bytes)
}

/// Where an add came to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The first index.
    pub index: usize,
    /// The first word in the record area.
    pub at: usize,
}

/// What is known of the record of a claimed message: where it lies, and once it verified there, its
/// bytes. Only [`Page::verify`] makes one that has bytes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    sent_at: u64,
    /// Where the message lies, behind its header block: a word of the pages.
    bytes: usize,
    len: u32,
    /// Bytes of the header block.
    block: u32,
    /// A word of the record area.
    at: u32,
}

impl Place {
    /// A record that is still to be verified, at a word of the record area; it has no bytes yet.
    #[inline]
    pub fn unread(at: usize) -> Self {
        Self { sent_at: 0, bytes: 0, len: 0, block: 0, at: at as u32 }
    }

    /// The send time in unix milliseconds, once it is known.
    pub fn sent_at(&self) -> u64 {
        self.sent_at
    }

    /// The bytes of the header block that the region begins with, once it is known; 0 is none.
    #[inline]
    pub fn block(&self) -> usize {
        self.block as usize
    }
}

/// One page of the ring.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    layout: &'a Layout,
    words: &'a [AtomicU64],
    /// Where it begins: a word of the pages.
    begin: usize,
}

impl<'a> Page<'a> {
    /// The page at a place.
    #[inline]
    pub fn new(mem: Memory<'a>, place: usize) -> Self {
        let words = mem.page_words(place);
        Self { layout: mem.layout, words: &mem.pages[words.clone()], begin: words.start }
    }

    /// The page number.
    #[inline]
    pub fn number(&self) -> u64 {
        self.number_word().load(Acquire) // ORDER[number]
    }

    /// The word of the page number.
    pub fn number_word(&self) -> &'a AtomicU64 {
        &self.words[Layout::PAGE_NUMBER]
    }

    /// The cursor word.
    #[inline]
    pub fn cursor_word(&self) -> &'a AtomicU64 {
        &self.words[Layout::PAGE_CURSOR]
    }

    /// The cursor.
    #[inline]
    pub fn cursor(&self) -> Cursor {
        // ORDER[reserve] Acquire: who sees the count of an add sees the announcement before it;
        // ORDER[seal] who sees SEALED sees every index that came before.
        self.layout.cursor(self.cursor_word().load(Acquire))
    }

    /// A word of the header or the tables.
    #[inline]
    pub fn word(&self, at: usize) -> &'a AtomicU64 {
        &self.words[at]
    }

    /// The word of a slot.
    #[inline]
    pub fn slot_word(&self, index: usize) -> &'a AtomicU64 {
        &self.words[self.layout.slot_at(index)]
    }

    /// A slot, as of the lap of page `number`.
    #[inline]
    pub fn slot(&self, number: u64, index: usize) -> SlotState {
        // ORDER[commit] Acquire: the record was written before its slot was committed.
        Slot::of(self.slot_word(index).load(Acquire), self.layout.slot_tag(number))
    }

    /// Whether no further message fits, for certain.
    #[inline]
    pub fn is_full(&self, c: Cursor) -> bool {
        c.count >= self.layout.slots || c.units >= self.layout.data_words
    }

    /// Takes `run` indexes and `units` words, if the page is open and not full. The caller is
    /// RESERVING this place.
    #[inline]
    pub fn reserve(&self, run: usize, units: usize) -> Option<Reserved> {
        // Relaxed: only bounds the overshoot; the add decides.
        let look = self.layout.cursor(self.cursor_word().load(Relaxed));
        if look.state != PageState::Open || self.is_full(look) {
            return None;
        }
        // ORDER[reserve] Release: the announcement comes before the count. Acquire, with
        // ORDER[open]: the page number, and what its last readers and writers did, come before.
        let c = self.cursor_word().fetch_add(self.layout.cursor_add(run, units), AcqRel);
        let c = self.layout.cursor(c);
        let open = c.state == PageState::Open && c.count < self.layout.slots;
        open.then_some(Reserved { index: c.count, at: c.units })
    }

    /// Writes and commits records at a place of one's own; returns how many fitted. The others'
    /// slots are skipped.
    #[inline]
    pub fn write(&self, uuid: [u64; 2], number: u64, place: Reserved, records: &[Record<'_>], now: u64) -> usize {
        // ORDER[lap] Release: a copying reader that sees a word stored from here on also sees the
        // page number that this sender saw.
        fence(Release);
        let tag = self.layout.slot_tag(number);
        let mut at = place.at;
        let mut written = 0;
        for (i, record) in records.iter().enumerate() {
            let index = place.index + i;
            if index >= self.layout.slots {
                break;
            }
            if at + record.words() <= self.layout.data_words {
                self.write_record(uuid, at, crate::Offset::new(number, index).as_u64(), record, now);
                // ORDER[commit] Release: the record before its slot. A plain store: a slot of a live
                // sender is never changed by anybody else.
                self.slot_word(index).store(Slot::word(tag, SlotState::Committed(at)), Release);
                written += 1;
            } else {
                self.settle(number, index, SlotState::Skipped);
            }
            at += record.words();
        }
        written
    }

    #[inline]
    fn write_record(&self, uuid: [u64; 2], at: usize, offset: u64, record: &Record<'_>, now: u64) {
        let from = self.layout.data_at(at);
        let words = &self.words[from..from + record.words()];
        let head = [record.word, offset, now];
        let check = checksum(uuid, head, record.hash);
        // Relaxed, here and below: ORDER[commit] and ORDER[lap] order them.
        for (word, value) in words.iter().zip([head[0], head[1], head[2], check]) {
            word.store(value, Relaxed);
        }
        let (whole, rest) = record.region.as_chunks::<8>();
        let words = &words[RECORD_HEADER..];
        for (word, bytes) in words.iter().zip(whole) {
            word.store(u64::from_le_bytes(*bytes), Relaxed);
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            words[whole.len()].store(u64::from_le_bytes(last), Relaxed);
        }
    }

    /// Changes an unsettled slot of page `number` to `to`, under the rule for words that outlive a
    /// lap. Nothing happens if it is settled, or the page has gone.
    pub fn settle(&self, number: u64, index: usize, to: SlotState) {
        let tag = self.layout.slot_tag(number);
        let word = self.slot_word(index);
        let seen = word.load(Acquire); // ORDER[commit]
        let from = Slot::of(seen, tag);
        let applies = match to {
            SlotState::Damaged => matches!(from, SlotState::Committed(_)),
            _ => from == SlotState::Untouched,
        };
        if applies && self.number() == number {
            // AcqRel: whoever steps over the slot comes after whoever proved that it may be.
            // A failure means that somebody else settled it.
            let _ = word.compare_exchange(seen, Slot::word(tag, to), AcqRel, Relaxed);
        }
    }

    /// Checks the place of a record against its slot's word: the header words, if in bounds.
    #[inline]
    fn header(&self, at: usize) -> Option<([u64; 4], usize)> {
        let room = self.layout.data_words.checked_sub(at)?;
        if room < RECORD_HEADER {
            return None;
        }
        let from = self.layout.data_at(at);
        // Relaxed: ORDER[commit] for the slot's reader, ORDER[lap] for a copying one.
        let head: [u64; 4] = std::array::from_fn(|i| self.words[from + i].load(Relaxed));
        let len = (head[0] & u64::from(u32::MAX)) as usize;
        (record_words(len) <= room).then_some((head, len))
    }

    /// Verifies the record of `offset` where it lies; then `place` has its bytes.
    ///
    /// The caller holds a claim of this message that pins the page: its slot was read as COMMITTED,
    /// and the page is not turned before the claim is over. Until then no sender stores to these
    /// words (invariants of the ring), and none did later than the commit that the caller has seen.
    /// Who gives up the claim gives up `place`.
    #[inline]
    pub fn verify(&self, uuid: [u64; 2], offset: u64, place: &mut Place) -> bool {
        let Some((head, len)) = self.header(place.at as usize) else { return false };
        let from = self.layout.data_at(place.at as usize + RECORD_HEADER);
        let region = bytes(&self.words[from..from + len.div_ceil(8)], len);
        if head[1] != offset || checksum(uuid, [head[0], head[1], head[2]], xxh3_64(region)) != head[3] {
            return false;
        }
        (place.sent_at, place.bytes, place.len) = (head[2], self.begin + from, len as u32);
        flags(head) == 0 || self.step_over_headers(flags(head), place)
    }

    /// Finds the message behind its header block; false if no record is so.
    #[cold]
    fn step_over_headers(&self, flags: u32, place: &mut Place) -> bool {
        let (from, len) = (place.bytes - self.begin, place.len as usize);
        let region = bytes(&self.words[from..from + len.div_ceil(8)], len);
        let Some(block) = block_len(flags, region) else { return false };
        (place.bytes, place.len, place.block) = (place.bytes + block as usize / 8, place.len - block, block);
        true
    }

    /// Copies and verifies the record of `offset`; `place` then has its send time and the length
    /// of its header block, and no bytes. The
    /// page may turn meanwhile, then the answer is no, as it is for a damaged one: the page number,
    /// read after this, tells which.
    pub fn copy(&self, uuid: [u64; 2], offset: u64, place: &mut Place, into: &mut Vec<u8>) -> bool {
        let copied = self.copy_words(place.at as usize, offset, into);
        // ORDER[lap] Acquire: if a word of a later lap was read, the page number read after this is
        // that of the later lap.
        fence(Acquire);
        let Some(head) = copied else { return false };
        let number = self.number_word().load(Relaxed);
        place.sent_at = head[2];
        number == crate::Offset::from_u64(offset).page()
            && checksum(uuid, [head[0], head[1], head[2]], xxh3_64(into)) == head[3]
            && block_len(flags(head), into).map(|block| place.block = block).is_some()
    }

    /// When the record of `offset` at a word of the record area says that it was sent, in unix milliseconds. It is not
    /// verified.
    pub fn sent_at(&self, at: usize, offset: crate::Offset) -> Option<u64> {
        self.len_and_time(at, offset).map(|(_, time)| time)
    }

    /// The same, behind the length of the message.
    pub fn len_and_time(&self, at: usize, offset: crate::Offset) -> Option<(usize, u64)> {
        self.header(at).filter(|(head, _)| head[1] == offset.as_u64()).map(|(head, len)| (len, head[2]))
    }

    /// The send time that a record at a word of the record area says, whether it verifies or not.
    pub fn said_sent_at(&self, at: usize) -> Option<u64> {
        self.header(at).map(|(head, _)| head[2])
    }

    /// Where a record at a word of the record area would end, and the offset that it says.
    pub fn said(&self, at: usize) -> Option<(crate::Offset, usize)> {
        self.header(at).map(|(head, len)| (crate::Offset::from_u64(head[1]), at + record_words(len)))
    }

    /// Whether the record of `offset` lies at a word of the record area, whichever page is there now. Nobody
    /// else has the file open; `copy` is only room to work in.
    pub fn has_record(&self, uuid: [u64; 2], at: usize, offset: crate::Offset, copy: &mut Vec<u8>) -> bool {
        let head = self.copy_words(at, offset.as_u64(), copy);
        let good = head.filter(|head| checksum(uuid, [head[0], head[1], head[2]], xxh3_64(copy)) == head[3]);
        good.is_some_and(|head| block_len(flags(head), copy).is_some())
    }

    fn copy_words(&self, at: usize, offset: u64, into: &mut Vec<u8>) -> Option<[u64; 4]> {
        // A length is believed, and so much allocated, only beside the right offset.
        let (head, len) = self.header(at).filter(|(head, _)| head[1] == offset)?;
        into.clear();
        into.reserve(len.next_multiple_of(8));
        let from = self.layout.data_at(at + RECORD_HEADER);
        for word in &self.words[from..from + len.div_ceil(8)] {
            into.extend_from_slice(&word.load(Relaxed).to_le_bytes()); // ORDER[lap]
        }
        into.truncate(len);
        Some(head)
    }
}

/// The flags of a record.
fn flags(head: [u64; 4]) -> u32 {
    (head[0] >> 32) as u32
}

impl Place {
    /// The bytes of a message that verified where it lies, for as long as its place is kept.
    #[inline]
    pub fn payload<'p>(&'p self, mem: Memory<'p>) -> &'p [u8] {
        let len = self.len as usize;
        bytes(&mem.pages[self.bytes..self.bytes + len.div_ceil(8)], len)
    }

    /// The same with the header block before it.
    pub fn region<'p>(&'p self, mem: Memory<'p>) -> &'p [u8] {
        let (from, len) = (self.bytes - self.block as usize / 8, (self.block + self.len) as usize);
        bytes(&mem.pages[from..from + len.div_ceil(8)], len)
    }
}

/// The first `len` bytes of these words, which nobody writes while the slice lives: they are of a record
/// whose claim pins the page, as the caller of [`Page::verify`] sees to.
#[cfg(not(disk_chan_loom))]
#[inline]
fn bytes(words: &[AtomicU64], len: usize) -> &[u8] {
    assert!(len <= words.len() * 8);
    // SAFETY: the words have `len` initialised bytes or more, alive as long as the slice, and bytes have
    // no alignment. Nobody writes them: the only words that are given to this function, here in this file,
    // are those of a record that is being verified, and of a place that verified, which the slice borrows;
    // as long as either, the page is pinned.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), len) }
}

/// In a model the bytes are a copy, which the model never frees.
#[cfg(disk_chan_loom)]
fn bytes(words: &[AtomicU64], len: usize) -> &[u8] {
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.load(Relaxed).to_le_bytes()).collect();
    bytes.truncate(len);
    bytes.leak()
}
