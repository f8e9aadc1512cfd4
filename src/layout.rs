//! The format of the file: its specification is `guide/format.md`, which is also a page of the public documentation.
//!
#![doc = include_str!("guide/format.md")]
#![forbid(unsafe_code)]

use crate::error::OpenError;
use crate::options::Overflow;

/// "disk_cha" as the first word of a channel.
pub const MAGIC: u64 = u64::from_le_bytes(*b"disk_cha");
/// The version of this format.
pub const VERSION: u64 = 1;
/// Words of a line of 128 bytes; smaller under loom, where padding costs time and shares nothing.
pub const LINE: usize = if cfg!(disk_chan_loom) { 8 } else { 16 };
/// Words of a block of 4096 bytes.
pub const BLOCK: usize = if cfg!(disk_chan_loom) { 6 * LINE } else { 512 };
/// Words of one copy of a group entry.
pub const ENTRY: usize = if cfg!(disk_chan_loom) { LINE } else { 64 };
/// Words of the header of a record.
pub const RECORD_HEADER: usize = 4;
/// The flag of a record that begins with a header block.
pub const HEADERS: u32 = 1;
/// Most messages that one add to the cursor reserves.
pub const MAX_RUN: usize = 64;
/// Claim cells in a row: as many as an ack word has bits.
pub const ROW: usize = if cfg!(disk_chan_loom) { 3 } else { 32 };
/// Bits of an offset that are the index in the page.
pub const INDEX_BITS: u32 = 20;
/// The page number has the remaining bits.
pub const MAX_PAGE_NUMBER: u64 = (1 << (64 - INDEX_BITS)) - 1;
/// Laps after which the tables of a page are cleared before it opens.
pub const CLEAR_EVERY_LAPS: u64 = 1 << 22;
/// How far the synced limit of page numbers is raised.
pub const PAGE_LIMIT_STEP: u64 = 1 << 28;
/// Bytes of a message kept free for what a dead letter adds.
pub const DEAD_LETTER_ROOM: usize = 56 + MAX_GROUP_NAME;
/// Longest lease timeout in milliseconds: the clock that it is measured by wraps at twice that.
pub const MAX_LEASE_TIMEOUT: u32 = 1 << 30;
/// Longest age that a channel can allow its messages in milliseconds: more than a hundred years.
pub const MAX_AGE: u64 = 1 << 42;
/// Most deliveries that a channel can allow; one more has to fit in a claim cell.
pub const MAX_ATTEMPTS: u32 = 4000;
/// Groups that there can have been under one number; more than anybody can create.
pub const MAX_INSTANCE: u64 = 1 << 40;
/// Longest group name in bytes.
pub const MAX_GROUP_NAME: usize = 128;

const PAGE_HEADER: usize = 4 * LINE;

const _: () = assert!(cfg!(target_endian = "little"), "disk_chan needs a little-endian target");
const _: () = assert!(usize::BITS == 64, "disk_chan needs a 64-bit target");
const _: () = assert!(LINE * 8 == 128 || cfg!(disk_chan_loom));
const _: () = assert!(BLOCK * 8 == 4096 || cfg!(disk_chan_loom));
const _: () = assert!(MAX_GROUP_NAME / 8 + 5 <= ENTRY || cfg!(disk_chan_loom));

/// The numbers that a channel is made with; stored in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a page.
    pub page_size: usize,
    /// Pages of the ring.
    pub max_pages: usize,
    /// Bytes of a usual message; sizes the slot table.
    pub typical_message_len: usize,
    /// Groups that fit.
    pub max_groups: usize,
    /// Opens at once.
    pub max_opens: usize,
    /// Sends running at once.
    pub max_op_cells: usize,
    /// Messages of one group handed out at once.
    pub max_held: usize,
    /// What a full ring does.
    pub overflow: Overflow,
    /// Milliseconds after which a message is not delivered any more; 0 is never.
    pub max_age: u64,
    /// Milliseconds after which a lease can be taken away; 0 is never.
    pub lease_timeout: u32,
    /// Deliveries after which a message becomes a dead letter; 0 is never.
    pub max_attempts: u32,
}

impl Geometry {
    /// Whether a message that is handed out keeps its page from being turned. Else a page can be taken away
    /// at any time, and every hand-out is a verified copy.
    #[inline]
    pub fn pins(&self) -> bool {
        self.overflow == Overflow::Block && self.max_age == 0
    }
}

/// Where everything lies: computed from the geometry, never stored.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The geometry it was computed from.
    pub geometry: Geometry,
    /// Slots, and so most messages, of a page.
    pub slots: usize,
    /// Words of the record area of a page.
    pub data_words: usize,
    /// Words of the largest record.
    pub max_record_words: usize,
    /// Words of the control part.
    pub control_words: usize,
    /// Words of a page.
    pub page_words: usize,
    /// 2^64 / max_pages, rounded up: a multiplication divides by it.
    reciprocal: u64,
    unit_bits: u32,
    count_bits: u32,
    lap_bits: u32,
    /// Where this begins in the control part.
    pub opens: usize,
    /// Where this begins in the control part.
    pub op_cells: usize,
    /// Where this begins in the control part.
    pub group_lines: usize,
    /// Where this begins in the control part.
    pub group_entries: usize,
    /// Where this begins in the control part.
    pub claim_cells: usize,
    group_stride: usize,
    slot_table: usize,
    data: usize,
}

fn bad(option: &'static str, value: usize, reason: impl Into<String>) -> OpenError {
    OpenError::InvalidOption { option, value: value as u64, reason: reason.into() }
}

fn between(option: &'static str, value: usize, low: usize, high: usize) -> Result<(), OpenError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(bad(option, value, format!("must be between {low} and {high}")))
}

const fn bits_for(value: usize) -> u32 {
    usize::BITS - value.leading_zeros()
}

impl Layout {
    /// Checks a geometry that a user or a file gave, and lays it out.
    pub fn new(geometry: Geometry) -> Result<Self, OpenError> {
        let g = &geometry;
        between("page_size", g.page_size, 64 << 10, 1 << 30)?;
        if !g.page_size.is_multiple_of(4096) {
            return Err(bad("page_size", g.page_size, "must be a multiple of 4096"));
        }
        between("max_pages", g.max_pages, 2, 1 << 16)?;
        between("typical_message_len", g.typical_message_len, 0, 1 << 30)?;
        between("max_groups", g.max_groups, 1, 4096)?;
        between("max_opens", g.max_opens, 1, 4096)?;
        between("max_op_cells", g.max_op_cells, 1, 1 << 14)?;
        between("max_held", g.max_held, 1, GroupCursor::MAX_CELLS)?;
        between("max_age", g.max_age as usize, 0, MAX_AGE as usize)?;
        between("lease_timeout", g.lease_timeout as usize, 0, MAX_LEASE_TIMEOUT as usize)?;
        between("max_attempts", g.max_attempts as usize, 0, MAX_ATTEMPTS as usize)?;
        let page_words = g.page_size / 8;
        let record = RECORD_HEADER + g.typical_message_len.div_ceil(8);
        let fixed = PAGE_HEADER + g.max_groups * 2 * LINE + LINE;
        // Per slot: its word, its ack bit in every group (32 to a word), its record.
        let slots = page_words.saturating_sub(fixed) * 32 / (32 * (record + 1) + g.max_groups);
        let layout = Self::with_slots(geometry, page_words, slots.min((1 << INDEX_BITS) - 2));
        layout.ok_or_else(|| {
            let reason = "the tables of a page would take more than half of it: \
                          use larger pages, fewer groups or a larger typical message";
            bad("page_size", geometry.page_size, reason)
        })
    }

    /// The layout for a given number of slots, without the limits that users get: for models.
    pub fn with_slots(geometry: Geometry, page_words: usize, slots: usize) -> Option<Self> {
        let g = &geometry;
        let group_stride = LINE + slots.div_ceil(32).next_multiple_of(LINE);
        let slot_table = PAGE_HEADER + g.max_groups * group_stride;
        let data = slot_table + slots.next_multiple_of(LINE);
        let data_words = page_words.checked_sub(data)?;
        if slots == 0 || (data_words < page_words / 2 && !cfg!(disk_chan_loom)) {
            return None;
        }
        // The cursor word has room for one last add of every op cell beyond the end of the page.
        let count_bits = bits_for(slots + g.max_op_cells * MAX_RUN);
        let most = ((1usize << (CURSOR_BITS - 8 - count_bits)) - 1 - data_words) / g.max_op_cells;
        let max_record_words = data_words.min(most);
        let unit_bits = bits_for(data_words + g.max_op_cells * max_record_words);

        let opens = 3 * BLOCK;
        let op_cells = opens + g.max_opens * LINE;
        let group_lines = op_cells + g.max_op_cells * LINE;
        let group_entries = (group_lines + g.max_groups * 2 * LINE).next_multiple_of(BLOCK);
        let claim_cells = group_entries + g.max_groups * 2 * ENTRY;
        let control_words = (claim_cells + g.max_groups * g.max_held * LINE).next_multiple_of(BLOCK);
        Some(Self {
            slots,
            data_words,
            max_record_words,
            control_words,
            page_words,
            reciprocal: (u64::MAX / g.max_pages as u64) + 1,
            unit_bits,
            count_bits,
            lap_bits: CURSOR_BITS - unit_bits - count_bits,
            opens,
            op_cells,
            group_lines,
            group_entries,
            claim_cells,
            group_stride,
            slot_table,
            data,
            geometry,
        })
    }

    /// The first claim cell of the first row (several.rs): the cells before are in none.
    #[inline]
    pub fn rows(&self) -> usize {
        self.geometry.max_held % ROW + ROW
    }

    /// Whether a claim cell is the first of a row.
    pub fn begins_row(&self, cell: usize) -> bool {
        cell >= self.rows() && (cell - self.rows()).is_multiple_of(ROW)
    }

    /// Longest message in bytes. Where it can become a dead letter there is room for what that adds.
    #[inline]
    pub fn max_message_len(&self) -> usize {
        let room = if self.geometry.max_attempts == 0 { 0 } else { DEAD_LETTER_ROOM };
        (self.max_record_words - RECORD_HEADER) * 8 - room
    }

    /// Wake words as 32-bit words, padding included.
    pub fn wake_halves(&self) -> usize {
        (self.geometry.max_opens * LINE).next_multiple_of(BLOCK) * 2
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        let pages = self.page_words as u64 * 8 * self.geometry.max_pages as u64;
        self.control_words as u64 * 8 + self.wake_halves() as u64 * 4 + pages
    }

    /// Where the pages lie in the file, in bytes.
    pub fn bytes_of_pages(&self) -> std::ops::Range<usize> {
        let pages = self.page_words * 8 * self.geometry.max_pages;
        self.file_bytes() as usize - pages..self.file_bytes() as usize
    }

    /// Where words of the record area of the page at a place lie in the file, in bytes.
    pub fn bytes_of_records(&self, place: usize, words: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let at = self.bytes_of_pages().start + (place * self.page_words + self.data) * 8;
        at + words.start * 8..at + words.end * 8
    }

    /// The place of a page in the ring.
    #[inline]
    pub fn place(&self, page: u64) -> usize {
        (page - self.lap(page) * self.geometry.max_pages as u64) as usize
    }

    /// How often the ring had gone round when this page came up.
    #[inline]
    pub fn lap(&self, page: u64) -> u64 {
        // Exact: the reciprocal is less than 1 too large in max_pages, at most 2^16, so the product
        // is less than 2^(45 + 16) too large in 2^64, for any page number, of 44 bits and little more.
        ((u128::from(page) * u128::from(self.reciprocal)) >> 64) as u64
    }

    /// The first page number from `from` on that lies at `place`.
    pub fn first_at(&self, from: u64, place: usize) -> u64 {
        let pages = self.geometry.max_pages;
        from + ((place + pages - self.place(from)) % pages) as u64
    }

    /// The number that comes up at the place of `page` after it. It depends on nothing that changes while
    /// the channel is in use: whoever turns a page turns it to the same number.
    pub fn comes_after(&self, era: u64, page: u64) -> u64 {
        if page >= era { page + self.geometry.max_pages as u64 } else { self.first_at(era, self.place(page)) }
    }

    /// The tag of a page's slots.
    #[inline]
    pub fn slot_tag(&self, page: u64) -> u32 {
        self.lap(page) as u32
    }

    /// The tag of a group's words in a page.
    #[inline]
    pub fn group_tag(&self, page: u64, generation: u8) -> u32 {
        (self.lap(page) as u32) << 8 | u32::from(generation)
    }

    /// Whether a lap comes after another, as far as the tags of groups hold them: 24 bits.
    pub fn is_later_lap(lap: u32, than: u32) -> bool {
        (1..1 << 23).contains(&(lap.wrapping_sub(than) & 0xff_ffff))
    }

    /// The lap as far as the cursor word holds it.
    #[inline]
    pub fn cursor_lap(&self, page: u64) -> u64 {
        self.lap(page) & ((1 << self.lap_bits) - 1)
    }

    /// Whether a turn to this page brings the cursor's lap bits to 0 or half their range, where a
    /// late compare-and-swap from long ago must be ruled out first.
    pub fn cursor_lap_comes_round(&self, page: u64) -> bool {
        self.cursor_lap(page) & ((1 << (self.lap_bits - 1)) - 1) == 0
    }

    /// Reads a cursor word.
    #[inline]
    pub fn cursor(&self, word: u64) -> Cursor {
        Cursor {
            state: PageState::of(word >> CURSOR_BITS),
            lap: (word >> (self.unit_bits + self.count_bits)) & ((1 << self.lap_bits) - 1),
            count: ((word >> self.unit_bits) & ((1 << self.count_bits) - 1)) as usize,
            units: (word & ((1 << self.unit_bits) - 1)) as usize,
        }
    }

    /// Writes a cursor word.
    #[inline]
    pub fn cursor_word(&self, c: Cursor) -> u64 {
        (c.state as u64) << CURSOR_BITS
            | c.lap << (self.unit_bits + self.count_bits)
            | (c.count as u64) << self.unit_bits
            | c.units as u64
    }

    /// What a sender adds to the cursor word for `run` messages of `units` words together.
    #[inline]
    pub fn cursor_add(&self, run: usize, units: usize) -> u64 {
        (run as u64) << self.unit_bits | units as u64
    }
}

const CURSOR_BITS: u32 = 62;

/// The state of a page; it only moves forward within a lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum PageState {
    /// Turned, and not yet to be written: its predecessor may still be open.
    Prepared = 0,
    /// Senders add to it.
    Open = 1,
    /// Full or closed: no add that comes now counts.
    Sealed = 2,
}

impl PageState {
    fn of(bits: u64) -> Self {
        match bits {
            0 => Self::Prepared,
            1 => Self::Open,
            _ => Self::Sealed,
        }
    }
}

/// A page's cursor word: `{state 2, lap, count, units}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Prepared, open or sealed.
    pub state: PageState,
    /// The low bits of the lap.
    pub lap: u64,
    /// Indexes given out; may overshoot the slot table.
    pub count: usize,
    /// Words of the record area given out; may overshoot it.
    pub units: usize,
}

/// The head word: `{closed 1, send epoch 19, page number 44}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Nobody may send.
    pub closed: bool,
    /// Counts the times that a closed channel was opened for sending again.
    pub epoch: u32,
    /// The page that senders write.
    pub page: u64,
}

impl Head {
    const EPOCH: u32 = (1 << 19) - 1;

    /// Reads the word.
    pub fn of(word: u64) -> Self {
        let epoch = (word >> 44) as u32 & Self::EPOCH;
        Self { closed: word >> 63 == 1, epoch, page: word & MAX_PAGE_NUMBER }
    }

    /// Writes the word.
    pub fn word(self) -> u64 {
        u64::from(self.closed) << 63 | u64::from(self.epoch & Self::EPOCH) << 44 | self.page
    }
}

/// The tail word: `{group epoch 20, page number 44}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Raised by every new group, after it published itself.
    pub epoch: u64,
    /// The oldest page.
    pub page: u64,
}

impl Tail {
    /// What a new group adds to the word.
    pub const EPOCH_STEP: u64 = 1 << 44;

    /// Reads the word.
    pub fn of(word: u64) -> Self {
        Self { epoch: word >> 44, page: word & MAX_PAGE_NUMBER }
    }

    /// Writes the word.
    pub fn word(self) -> u64 {
        self.epoch << 44 | self.page
    }
}

/// What a slot of this lap says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Nothing in this lap yet: free, or reserved and still being written.
    Untouched,
    /// A record lies at this word of the record area.
    Committed(usize),
    /// Nothing will come here.
    Skipped,
    /// Its record does not verify.
    Damaged,
}

impl SlotState {
    /// Whether a message is there.
    pub fn is_committed(self) -> bool {
        matches!(self, Self::Committed(_))
    }
}

/// A slot word: `{tag 32, state 3, place in the record area in words 29}`.
#[derive(Clone, Copy, Debug)]
pub struct Slot;

impl Slot {
    /// The tag of a slot that says something.
    pub fn tag(word: u64) -> u32 {
        (word >> 32) as u32
    }

    /// Reads a slot as of the lap that `tag` names.
    pub fn of(word: u64, tag: u32) -> SlotState {
        if (word >> 32) as u32 != tag {
            return SlotState::Untouched;
        }
        match word >> 29 & 7 {
            1 => SlotState::Committed((word & ((1 << 29) - 1)) as usize),
            2 => SlotState::Skipped,
            3 => SlotState::Damaged,
            _ => SlotState::Untouched,
        }
    }

    /// Writes a slot.
    pub fn word(tag: u32, state: SlotState) -> u64 {
        let low = match state {
            SlotState::Untouched => 0,
            SlotState::Committed(at) => 1 << 29 | at as u64,
            SlotState::Skipped => 2 << 29,
            SlotState::Damaged => 3 << 29,
        };
        u64::from(tag) << 32 | low
    }
}

/// Why a group lost a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Loss {
    /// The ring was full, or the group was removed.
    Dropped = 0,
    /// It was older than the channel allows.
    Expired = 1,
}

/// A group's cursor word in a page: `{tag 32, closed 1, cell of the last claimer + 1: 11, index 20}`. In a
/// closed one nobody is named, and the 11 bits say why: [`Loss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupCursor {
    /// The group lost this page: nothing more is claimed in it in this lap.
    pub closed: Option<Loss>,
    /// The claim cell of the last claimer, if the last step was a claim.
    pub cell: Option<usize>,
    /// The next index to be handed out.
    pub index: usize,
}

impl GroupCursor {
    /// Most claim cells that the word can name.
    pub const MAX_CELLS: usize = (1 << 11) - 1;

    /// Reads the word as of `tag`; untouched, it stands at `start`.
    pub fn of(word: u64, tag: u32, start: usize) -> Self {
        if (word >> 32) as u32 != tag {
            return Self { closed: None, cell: None, index: start };
        }
        let (bits, index) = ((word >> 20 & 0x7ff) as usize, (word & 0xf_ffff) as usize);
        if word >> 31 & 1 == 0 {
            return Self { closed: None, cell: bits.checked_sub(1), index };
        }
        let why = if bits == Loss::Expired as usize { Loss::Expired } else { Loss::Dropped };
        Self { closed: Some(why), cell: None, index }
    }

    /// Writes the word.
    pub fn word(self, tag: u32) -> u64 {
        let bits = match self.closed {
            None => self.cell.map_or(0, |c| c as u64 + 1),
            Some(why) => why as u64,
        };
        u64::from(tag) << 32 | u64::from(self.closed.is_some()) << 31 | bits << 20 | self.index as u64
    }
}

/// An ack word: `{tag 32, done bits 32}`.
#[derive(Clone, Copy, Debug)]
pub struct Acks;

impl Acks {
    /// The done bits in a page that nobody writes any more: where the word is of a later lap, the page
    /// was turned, and so all was done.
    pub fn at_rest(word: u64, tag: u32) -> u32 {
        let (lap, generation) = ((word >> 40) as u32, (word >> 32) as u8);
        let later = generation == tag as u8 && Layout::is_later_lap(lap, tag >> 8);
        if later { u32::MAX } else { Self::of(word, tag) }
    }

    /// The bits of an index and of the `more` before it, as far as they are in one word.
    #[inline]
    pub fn range(index: usize, more: usize) -> u32 {
        let last = 1 << (index % 32);
        let first = 1 << (index % 32).saturating_sub(more);
        last | (last - first)
    }

    /// Which bits are set.
    pub fn bits(word: u32) -> impl Iterator<Item = u32> {
        (0..32).filter(move |bit| word >> bit & 1 == 1)
    }

    /// The done bits as of `tag`.
    pub fn of(word: u64, tag: u32) -> u32 {
        if (word >> 32) as u32 == tag { word as u32 } else { 0 }
    }

    /// Writes the word.
    pub fn word(tag: u32, bits: u32) -> u64 {
        u64::from(tag) << 32 | u64::from(bits)
    }
}

/// Positions inside a page, in words.
impl Layout {
    /// The page number.
    pub const PAGE_NUMBER: usize = 0;
    /// The cursor word.
    pub const PAGE_CURSOR: usize = LINE;
    /// When the page was opened, in unix milliseconds; never less than what the page before said then.
    pub const PAGE_OPENED_AT: usize = 2 * LINE;
    /// Not zero in a lap in which a record did not verify: the page number plus one.
    pub const PAGE_DAMAGE_SEEN: usize = 2 * LINE + 1;
    /// What a clean close computed of the header and the slots.
    pub const PAGE_CHECK: usize = 3 * LINE;

    /// A group's cursor word.
    #[inline]
    pub fn group_cursor_at(&self, group: usize) -> usize {
        PAGE_HEADER + group * self.group_stride
    }

    /// What a clean close computed of a group's words in the page.
    pub fn group_check_at(&self, group: usize) -> usize {
        self.group_cursor_at(group) + 1
    }

    /// The ack word that holds `index`.
    #[inline]
    pub fn ack_word_at(&self, group: usize, index: usize) -> usize {
        PAGE_HEADER + group * self.group_stride + LINE + index / 32
    }

    /// A slot.
    #[inline]
    pub fn slot_at(&self, index: usize) -> usize {
        self.slot_table + index
    }

    /// A word of the record area.
    #[inline]
    pub fn data_at(&self, place: usize) -> usize {
        self.data + place
    }

    /// Where the records begin: the words before are header and tables.
    pub fn tables(&self) -> std::ops::Range<usize> {
        PAGE_HEADER..self.data
    }

    /// The lines and the entries of the groups, in the control part.
    pub fn groups_in_control(&self) -> std::ops::Range<usize> {
        self.group_lines..self.claim_cells
    }

    /// The words of the slots.
    pub fn slot_words(&self) -> std::ops::Range<usize> {
        self.slot_table..self.slot_table + self.slots
    }

    /// The ack words of a group.
    pub fn ack_words(&self, group: usize) -> std::ops::Range<usize> {
        let at = self.ack_word_at(group, 0);
        at..at + self.slots.div_ceil(32)
    }

    /// Whether a word of the tables is among the ack words of a group.
    pub fn is_ack_word(&self, at: usize) -> bool {
        (PAGE_HEADER..self.slot_table).contains(&at) && (at - PAGE_HEADER) % self.group_stride >= LINE
    }

    /// The words of one group in a page: cursor line and ack words.
    pub fn group_words(&self, group: usize) -> std::ops::Range<usize> {
        let at = self.group_cursor_at(group);
        at..at + self.group_stride
    }
}

#[cfg(all(test, not(disk_chan_loom)))]
mod tests {
    use super::*;

    fn geometry() -> Geometry {
        Geometry {
            page_size: 16 << 20,
            max_pages: 16,
            typical_message_len: 64,
            max_groups: 64,
            max_opens: 256,
            max_op_cells: 1024,
            max_held: 256,
            overflow: Overflow::Block,
            max_age: 0,
            lease_timeout: 0,
            max_attempts: 0,
        }
    }

    #[test]
    fn every_word_survives_its_own_parse() {
        let l = Layout::new(geometry()).unwrap();
        for c in [
            Cursor { state: PageState::Open, lap: 7, count: 3, units: 99 },
            Cursor { state: PageState::Sealed, lap: l.cursor_lap(u64::MAX >> 20), count: l.slots, units: l.data_words },
        ] {
            assert_eq!(l.cursor(l.cursor_word(c)), c);
        }
        let h = Head { closed: true, epoch: 5, page: MAX_PAGE_NUMBER };
        assert_eq!(Head::of(h.word()), h);
        let t = Tail { epoch: 9, page: 123 };
        assert_eq!(Tail::of(t.word()), t);
        for (closed, cell) in [(None, Some(2046)), (Some(Loss::Dropped), None), (Some(Loss::Expired), None)] {
            let c = GroupCursor { closed, cell, index: 0xf_ffff };
            assert_eq!(GroupCursor::of(c.word(8), 8, 0), c);
            assert_eq!(GroupCursor::of(c.word(8), 9, 4), GroupCursor { closed: None, cell: None, index: 4 });
        }
        for s in [SlotState::Committed(12345), SlotState::Skipped, SlotState::Damaged] {
            assert_eq!(Slot::of(Slot::word(3, s), 3), s);
            assert_eq!(Slot::of(Slot::word(3, s), 4), SlotState::Untouched);
        }
        assert_eq!(Acks::of(Acks::word(1, 0xffff_0000), 1), 0xffff_0000);
        assert_eq!(Acks::of(Acks::word(1, 0xffff_0000), 2), 0);
    }

    #[test]
    fn the_cursor_holds_the_overshoot_of_every_cell() {
        for page_size in [64 << 10, 1 << 20, 16 << 20, 256 << 20, 1 << 30] {
            for max_op_cells in [1, 1024, 1 << 14] {
                let l = Layout::new(Geometry { page_size, max_op_cells, ..geometry() }).unwrap();
                assert!(l.lap_bits >= 8, "{page_size} {max_op_cells}: {} lap bits", l.lap_bits);
                assert!(l.slots + max_op_cells * MAX_RUN < 1 << l.count_bits);
                assert!(l.data_words + max_op_cells * l.max_record_words < 1 << l.unit_bits);
                assert!(l.max_message_len() > 1000);
            }
        }
    }

    #[test]
    fn laps_and_places_are_exact() {
        for max_pages in [2, 3, 5, 7, 16, 1000, 65_535, 65_536] {
            let l = Layout::new(Geometry { page_size: 64 << 10, max_pages, max_groups: 4, ..geometry() }).unwrap();
            let d = max_pages as u64;
            for lap in [0, 1, 2, (MAX_PAGE_NUMBER / d) - 1, MAX_PAGE_NUMBER / d, MAX_PAGE_NUMBER / d + 1] {
                for page in [lap * d, lap * d + 1, lap * d + d - 1] {
                    assert_eq!((l.lap(page), l.place(page)), (page / d, (page % d) as usize), "{page} / {d}");
                }
            }
        }
    }

    #[test]
    fn tables_over_half_a_page_are_refused() {
        let g = Geometry { page_size: 64 << 10, max_groups: 1000, ..geometry() };
        assert!(matches!(Layout::new(g), Err(OpenError::InvalidOption { option: "page_size", .. })));
    }

    #[test]
    fn the_parts_of_a_file_do_not_overlap() {
        let l = Layout::new(geometry()).unwrap();
        assert!(l.opens >= 3 * BLOCK && l.op_cells > l.opens);
        assert!(l.group_lines > l.op_cells && l.group_entries > l.group_lines && l.claim_cells > l.group_entries);
        assert_eq!(l.group_cursor_at(0), PAGE_HEADER);
        assert!(l.ack_word_at(0, l.slots - 1) < l.group_cursor_at(1));
        assert!(l.ack_word_at(63, l.slots - 1) < l.slot_at(0));
        assert!(l.slot_at(l.slots - 1) < l.data_at(0));
        assert_eq!(l.data_at(l.data_words), l.page_words);
    }
}
