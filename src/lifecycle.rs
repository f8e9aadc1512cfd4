//! How a group comes and goes.
//!
//! **Invariants.**
//! - A new group becomes ACTIVE before it raises the epoch in `tail`, and starts at the page that
//!   this read-modify-write returned, or later. A turn of that page either came before, or fails at
//!   its CAS on `tail` and looks at the groups again. Its entry, which joiners find it by, is
//!   written last.
//! - An entry has two copies. Copy 0 is on disk before copy 1 is touched, so one of them is whole at any
//!   time; copy 1 counts, and copy 0 only where copy 1 does not verify. What was removed keeps its
//!   instance in its entry, without a name, so that the next group of that number is another one.
//! - Creating and removing happen under the open lock. Joining takes nothing.
//! - A group that is moved becomes another one, of the same name and *origin*, with one move more; then the one
//!   before is removed. Of two that are there the one with more moves counts. Who finds its group removed goes on
//!   in the one of the same origin.
#![forbid(unsafe_code)]

use crate::cells::{ClaimState, Count};
use crate::group::{
    ACTIVE, AT, COUNTED_BEFORE, DAMAGED, EXPIRED, FREE, Group, LAGGED, LAGGED_BEFORE, PAGE_TAG, REMOVED, REPORTED,
    START, STATE, counted, state, total,
};
use crate::layout::{ENTRY, Loss, MAX_GROUP_NAME, MAX_INSTANCE, Tail};
use crate::memory::Memory;
use crate::page::Page;
use crate::read::unix_milliseconds;
use crate::ring::Ring;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::{GroupName, Offset, Start};
use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::collections::HashMap;
use xxhash_rust::xxh3::xxh3_64;

/// Where the name begins in an entry, in bytes.
const NAME: usize = 32;

/// What is written down of a group, or of the last one that had a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which of the groups of the number.
    pub instance: u64,
    /// Its name; none if it was removed.
    pub name: Option<GroupName>,
    /// Where it started.
    pub start: Offset,
    /// What it was before it was first moved: `{instance 48, number 16}`.
    pub origin: u64,
    /// How often it was moved.
    pub moves: u32,
}

impl Entry {
    /// The entry of a number.
    pub fn read(mem: Memory<'_>, number: usize) -> Option<Self> {
        [1, 0].into_iter().find_map(|copy| Self::read_copy(mem, number, copy))
    }

    /// What one copy of the entry says; nothing if it does not verify.
    pub fn read_copy(mem: Memory<'_>, number: usize, copy: usize) -> Option<Self> {
        let words = mem.group_entry(number, copy);
        let words: [u64; ENTRY] = std::array::from_fn(|i| words[i].load(Acquire));
        let bytes: Vec<u8> = words[..ENTRY - 1].iter().flat_map(|w| w.to_le_bytes()).collect();
        let (moves, len) = ((words[1] >> 32) as u32, words[1] as u32 as usize);
        let fits = words[0] < MAX_INSTANCE && len <= MAX_GROUP_NAME;
        if xxh3_64(&bytes) != words[ENTRY - 1] || !fits {
            return None;
        }
        let name = std::str::from_utf8(&bytes[NAME..NAME + len]).ok()?;
        let name = (!name.is_empty()).then(|| GroupName::from(name));
        Some(Self { instance: words[0], name, start: Offset::from_u64(words[2]), origin: words[3], moves })
    }

    fn write(&self, mem: Memory<'_>, number: usize, copy: usize, store: impl Fn(&AtomicU64, u64)) {
        let name = self.name.as_ref().map_or("", |name| name.as_str());
        let mut bytes = [0; ENTRY * 8];
        bytes[..8].copy_from_slice(&self.instance.to_le_bytes());
        bytes[8..12].copy_from_slice(&(name.len() as u32).to_le_bytes());
        bytes[12..16].copy_from_slice(&self.moves.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.start.as_u64().to_le_bytes());
        bytes[24..NAME].copy_from_slice(&self.origin.to_le_bytes());
        bytes[NAME..NAME + name.len()].copy_from_slice(name.as_bytes());
        let check = xxh3_64(&bytes[..ENTRY * 8 - 8]);
        bytes[ENTRY * 8 - 8..].copy_from_slice(&check.to_le_bytes());
        for (word, bytes) in mem.group_entry(number, copy).iter().zip(bytes.as_chunks::<8>().0) {
            store(word, u64::from_le_bytes(*bytes));
        }
    }

    /// Writes both copies; `sync` brings a range of bytes of the file to the disk.
    pub fn publish<E>(
        &self,
        mem: Memory<'_>,
        number: usize,
        sync: impl Fn(std::ops::Range<usize>) -> Result<(), E>,
    ) -> Result<(), E> {
        (0..2).try_for_each(|copy| {
            self.write(mem, number, copy, |word, value| word.store(value, Release));
            sync(mem.group_entry_bytes(number, copy))
        })
    }
}

/// How often the groups of each origin were moved at last.
pub fn moves(entries: impl Iterator<Item = Entry>) -> HashMap<u64, u32> {
    let mut moves = HashMap::new();
    for entry in entries.filter(|entry| entry.name.is_some()) {
        let most = moves.entry(entry.origin).or_insert(0);
        *most = entry.moves.max(*most);
    }
    moves
}

/// Why a group could not be created.
#[derive(Debug)]
pub enum NotCreated<E> {
    /// It could not be written down.
    NotSynced(E),
    /// All numbers are in use.
    TooMany,
    /// Its start lies beyond this end.
    BeyondEnd {
        /// The start.
        start: Offset,
        /// The end.
        end: Offset,
    },
}

impl<'a> Group<'a> {
    /// Its name.
    pub fn name(&self) -> Option<GroupName> {
        self.entry().and_then(|entry| entry.name)
    }

    /// What it was before it was first moved.
    pub fn origin(&self) -> u64 {
        self.entry().map_or(self.id(), |entry| entry.origin)
    }

    fn id(&self) -> u64 {
        self.instance() << 16 | self.number as u64
    }

    fn entry(&self) -> Option<Entry> {
        Entry::read(self.mem, self.number).filter(|entry| entry.instance == self.instance())
    }

    /// What its entry has to say once it was removed.
    fn entry_of_nobody(&self) -> Entry {
        Entry { instance: self.instance(), name: None, start: self.start(), origin: self.id(), moves: 0 }
    }

    /// The active groups.
    pub fn all(mem: Memory<'a>) -> impl Iterator<Item = Self> {
        (0..mem.layout.geometry.max_groups).filter_map(move |g| Self::at(mem, g)).filter(|g| !g.is_removed())
    }

    /// The active group of that name.
    pub fn find(mem: Memory<'a>, name: &GroupName) -> Option<Self> {
        Self::find_with_origin(mem, name).map(|(group, _)| group)
    }

    /// The same, with what it was before it was first moved.
    pub fn find_with_origin(mem: Memory<'a>, name: &GroupName) -> Option<(Self, u64)> {
        loop {
            let epoch = Tail::of(mem.tail().load(Acquire)).epoch;
            let named = Self::all(mem).filter_map(|group| Some((group, group.entry()?)));
            let found = named.filter(|(group, entry)| entry.name.as_ref() == Some(name) && group.is_current());
            let found = found.max_by_key(|(_, entry)| entry.moves).map(|(group, entry)| (group, entry.origin));
            // One that was moved meanwhile can have gone where this had looked already.
            if found.is_some() || Tail::of(mem.tail().load(Acquire)).epoch == epoch {
                return found;
            }
        }
    }

    /// Creates a group; `sync` brings a range of bytes of the file to the disk.
    pub fn create<E>(
        ring: &Ring<'a>,
        name: &GroupName,
        start: Start,
        sync: impl Fn(std::ops::Range<usize>) -> Result<(), E>,
    ) -> Result<Self, NotCreated<E>> {
        Self::create_after(None, ring, name, start, sync)
    }

    /// Moves a group: another one takes its name and its receivers, and this one is removed. If it fails, the
    /// other one may have been made.
    pub fn go_on_at<E>(
        self,
        ring: &Ring<'a>,
        start: Start,
        sync: impl Fn(std::ops::Range<usize>) -> Result<(), E>,
    ) -> Result<(), NotCreated<E>> {
        let Some(Entry { name: Some(name), origin, moves, .. }) = self.entry() else {
            return Ok(()); // it was removed
        };
        Self::create_after(Some((origin, moves)), ring, &name, start, &sync)?;
        self.remove(ring, &sync).map_err(NotCreated::NotSynced)
    }

    fn create_after<E>(
        before: Option<(u64, u32)>,
        ring: &Ring<'a>,
        name: &GroupName,
        start: Start,
        sync: impl Fn(std::ops::Range<usize>) -> Result<(), E>,
    ) -> Result<Self, NotCreated<E>> {
        let mem = ring.mem;
        // Before it is anything: where it can start only moves on.
        let end = ring.end();
        if let Start::At(start) = start
            && start > end
        {
            return Err(NotCreated::BeyondEnd { start, end });
        }
        let number = (0..mem.layout.geometry.max_groups).find(|&g| Self::is_vacant(mem, g));
        let number = number.ok_or(NotCreated::TooMany)?;
        let group = Self::activate(ring, number);
        let oldest = group.start();
        let first = match start {
            Start::Oldest => oldest,
            Start::Newest => ring.end(),
            Start::At(offset) => offset.max(oldest),
            Start::Time(time) => ring.find_time(unix_milliseconds(time)).max(oldest),
        };
        group.settle_start(ring, first);
        let last = Entry::read(mem, number).map_or(0, |entry| entry.instance);
        if group.instance() / 255 != last / 255 {
            // The words were cleared, for this one or for one that nothing came of. On disk, too, nothing of an earlier group of this number may pass for this one's.
            sync(mem.layout.bytes_of_pages()).map_err(NotCreated::NotSynced)?;
        }
        let (origin, moves) = before.map_or((group.id(), 0), |(origin, moves)| (origin, moves.saturating_add(1)));
        let entry = Entry { name: Some(name.clone()), origin, moves, ..group.entry_of_nobody() };
        entry.publish(mem, number, sync).map_err(NotCreated::NotSynced)?;
        Ok(group)
    }

    /// Makes a number that is not in use a group, which starts at the oldest page and has no name.
    pub fn activate(ring: &Ring<'a>, number: usize) -> Self {
        let mem = ring.mem;
        let live = mem.group_lines(number).0;
        let instance = (live[STATE].load(SeqCst) >> 8) + 1;
        if instance.is_multiple_of(255) {
            Self::clear_words(mem, number, instance);
        }
        let group = Self::of(mem, number, state(instance, ACTIVE));
        live[START].store(Offset::new(ring.tail().page, 0).as_u64(), Release);
        live[AT].store(group.hint(ring.tail().page), Release);
        for what in Count::ALL {
            // ORDER[group state] publishes them. Every cell is free: what they count stands still.
            group.counters()[COUNTED_BEFORE + what.index()].store(group.count_all(what), Relaxed);
        }
        group.starved().store(0, Relaxed);
        group.forget_holder();
        live[STATE].store(group.state, SeqCst); // ORDER[group state]
        // ORDER[tail] SeqCst: after ACTIVE, before the start is settled.
        let oldest = Tail::of(mem.tail().fetch_add(Tail::EPOCH_STEP, SeqCst)).page;
        group.settle_start(ring, Offset::new(oldest, 0));
        group
    }

    /// Settles where a group starts that nobody has joined yet: at `first`, or at the first page
    /// behind it that is not taken away meanwhile. What was counted as lost so far is not its loss.
    fn settle_start(&self, ring: &Ring<'a>, mut first: Offset) {
        let counters = self.counters();
        loop {
            self.live[START].store(first.as_u64(), Release);
            let [lagged, expired] = [LAGGED, EXPIRED].map(|counter| counters[counter].load(Acquire));
            let is_counted = [lagged, expired].iter().any(|counter| counter >> 40 == first.page() & PAGE_TAG);
            if is_counted && ring.tail().page <= first.page() && self.is_closed_in(first) {
                first = Offset::new(first.page() + 1, 0);
                continue;
            }
            // ORDER[fold] Another word than any before, so that a fold that has not seen the new
            // start fails.
            let lost = total(lagged.wrapping_add(1));
            let before = counted(first.page().wrapping_sub(1), lost);
            // The same of what expired, which begins at 0: the tag makes it another word, the last one less one.
            let below = first.page().wrapping_sub(1);
            let last = expired >> 40;
            let tag = if below.wrapping_sub(last) & PAGE_TAG < PAGE_TAG >> 4 { last.wrapping_sub(1) } else { below };
            if counters[LAGGED].compare_exchange(lagged, before, AcqRel, Relaxed).is_err()
                || counters[EXPIRED].compare_exchange(expired, counted(tag, 0), AcqRel, Relaxed).is_err()
            {
                continue;
            }
            counters[REPORTED].store(lost, Release);
            counters[LAGGED_BEFORE].store(lost, Release);
            counters[DAMAGED].store(counted(first.page().wrapping_sub(1), 0), Release);
            let tail = ring.tail().page;
            if tail <= first.page() {
                break;
            }
            first = Offset::new(tail, 0);
        }
        self.live[AT].store(self.hint(first.page()), Release);
    }

    fn is_closed_in(&self, first: Offset) -> bool {
        let word = self.in_page(first.page()).1;
        self.cursor(first.page(), word.load(Acquire)).closed.is_some()
    }

    /// Makes a number what its entry says, after a power loss: `write` stores a word. Its start is kept,
    /// its cursors are not, and of what it lost what is known. `moves` are those of all that are written down.
    /// Nobody else has the file open.
    pub fn recover(
        mem: Memory<'a>,
        number: usize,
        moves: &HashMap<u64, u32>,
        oldest: u64,
        era: u64,
        write: impl Fn(&AtomicU64, u64),
    ) -> Option<Self> {
        let was = Self::any(mem, number);
        let entry = Entry::read(mem, number);
        // What it was is of no matter where it cannot be: no word of any other group is left.
        let known = Some(was.instance()).filter(|&instance| instance < MAX_INSTANCE).unwrap_or(0);
        let instance = entry.as_ref().map_or(known, |entry| entry.instance.max(known));
        let (there, moved) = match entry.filter(|entry| entry.name.is_some()) {
            Some(entry) if moves.get(&entry.origin) > Some(&entry.moves) => (None, true),
            there => (there, false),
        };
        let (state, start) = match &there {
            Some(entry) => (state(entry.instance, ACTIVE), entry.start.min(Offset::new(era, 0))),
            None => (state(instance, FREE), Offset::new(0, 0)),
        };
        let group = Self::of(mem, number, state);
        let (live, counters) = mem.group_lines(number);
        // In another version than the words they are compared with, they would be behind them.
        let since = |newer: u64, older: u64, most: u64| {
            let n = newer.wrapping_sub(older) & most;
            if n > most / 2 { 0 } else { n }
        };
        for what in Count::ALL {
            let before = &counters[COUNTED_BEFORE + what.index()];
            let n = since(was.count_all(what), before.load(Relaxed), u64::from(u32::MAX));
            write(before, 0u64.wrapping_sub(n)); // the cells begin at 0
        }
        let lost = total(counters[LAGGED].load(Relaxed));
        for earlier in [REPORTED, LAGGED_BEFORE] {
            write(
                &counters[earlier],
                total(lost.wrapping_sub(since(lost, counters[earlier].load(Relaxed), total(u64::MAX)))),
            );
        }
        for counter in [LAGGED, DAMAGED, EXPIRED] {
            // Nothing is counted of any page that is there now.
            write(&counters[counter], counted(oldest.wrapping_sub(1), counters[counter].load(Relaxed)));
        }
        live.iter().for_each(|word| write(word, 0));
        write(&live[START], start.as_u64());
        write(&live[AT], group.hint(oldest));
        write(&live[STATE], group.state);
        if moved {
            // It is not to come back when the one that it became is gone.
            (0..2).for_each(|copy| group.entry_of_nobody().write(mem, number, copy, &write));
        }
        there.map(|_| group)
    }

    fn is_vacant(mem: Memory<'a>, number: usize) -> bool {
        let is_free = Self::at(mem, number).is_none_or(|g| {
            g.is_removed() && {
                // Claims that only wait to be extended hold nothing.
                g.settle();
                g.holds_nothing()
            }
        });
        is_free && Self::any(mem, number).instance() + 1 < MAX_INSTANCE
    }

    fn clear_words(mem: Memory<'a>, number: usize, instance: u64) {
        for place in 0..mem.layout.geometry.max_pages {
            let page = Page::new(mem, place);
            for at in mem.layout.group_words(number) {
                // Nobody works with this number: no group has it. Another value each time, without the tag
                // of any group, so that a swap from before fails.
                page.word(at).store(instance & u64::from(u32::MAX), SeqCst);
            }
        }
    }

    /// Removes the group; `sync` brings a range of bytes of the file to the disk. Its cells are free when
    /// those who hold messages let go of them.
    pub fn remove<E>(self, ring: &Ring<'a>, sync: impl Fn(std::ops::Range<usize>) -> Result<(), E>) -> Result<(), E> {
        self.deactivate(ring);
        self.entry_of_nobody().publish(self.mem, self.number, sync)?;
        self.vacate();
        Ok(())
    }

    /// Frees the number of a removed group that nobody holds anything of.
    fn vacate(self) {
        if self.holds_nothing() {
            self.live[STATE].store(state(self.instance(), FREE), SeqCst);
        }
    }

    fn holds_nothing(self) -> bool {
        self.cells().all(|c| c.load().state() == ClaimState::Free)
    }

    fn free_returned(self) {
        for cell in self.cells() {
            let mut word = cell.load();
            while matches!(word.state(), ClaimState::Returned | ClaimState::Several) && !cell.free(word) {
                word = cell.load();
            }
        }
    }

    /// Finishes what one began who died while it created, moved or removed a group. `sync` brings a range of bytes of
    /// the file to the disk: the next group of that name may get another number, and there are no two.
    pub fn repair<E>(ring: &Ring<'a>, sync: impl Fn(std::ops::Range<usize>) -> Result<(), E>) {
        let named: Vec<(usize, Entry)> =
            Self::all(ring.mem).filter_map(|group| Some((group.number, group.entry()?))).collect();
        let moves = moves(named.iter().map(|(_, entry)| entry.clone()));
        // What a group became is on disk before that is removed.
        let is_on_disk = |(number, entry): &(usize, Entry)| entry.publish(ring.mem, *number, &sync).is_ok();
        let became = |entry: &Entry| {
            named.iter().find(|(_, other)| {
                other.origin == entry.origin
                    && moves.get(&other.origin) == Some(&other.moves)
                    && other.moves > entry.moves
            })
        };
        for group in (0..ring.mem.layout.geometry.max_groups).filter_map(|g| Self::at(ring.mem, g)) {
            let half = match group.entry().filter(|entry| entry.name.is_some()) {
                Some(entry) => became(&entry).is_some_and(is_on_disk),
                None => true,
            };
            if group.is_removed() || half {
                group.deactivate(ring);
                if group.entry_of_nobody().publish(ring.mem, group.number, &sync).is_ok() {
                    group.vacate();
                }
            }
        }
    }

    /// Frees the numbers of removed groups that nobody holds anything of any more.
    pub fn vacate_removed(ring: &Ring<'a>) {
        let groups = (0..ring.mem.layout.geometry.max_groups).filter_map(|number| Self::at(ring.mem, number));
        for group in groups.filter(|group| group.is_removed()) {
            group.deactivate(ring);
            group.vacate();
        }
    }

    /// Takes everything away from the group that nobody holds.
    pub fn deactivate(self, ring: &Ring<'a>) {
        let removed = state(self.instance(), REMOVED);
        // ORDER[group state] SeqCst: before the cursors are closed.
        self.live[STATE].store(removed, SeqCst);
        for number in ring.pages() {
            self.close_in(number, Loss::Dropped);
        }
        fence(SeqCst); // with the fence in `lose_if_gone`
        let removed = Self::of(self.mem, self.number, removed);
        removed.settle();
        removed.free_returned();
        removed.forget_holder();
    }
}
