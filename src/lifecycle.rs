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
#![forbid(unsafe_code)]

use crate::cells::{ClaimState, Count};
use crate::group::{
    ACTIVE, AT, COUNTED_BEFORE, DAMAGED, EXPIRED, FREE, Group, LAGGED, LAGGED_BEFORE, PAGE_TAG, REMOVED, REPORTED, START, STATE,
    counted, state, total,
};
use crate::layout::{ENTRY, Loss, MAX_GROUP_NAME, MAX_INSTANCE, Tail};
use crate::memory::Memory;
use crate::page::Page;
use crate::ring::Ring;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::{GroupName, Offset, Start};
use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use xxhash_rust::xxh3::xxh3_64;

/// What is written down of a group, or of the last one that had a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which of the groups of the number.
    pub instance: u64,
    /// Its name; none if it was removed.
    pub name: Option<GroupName>,
    /// Where it started.
    pub start: Offset,
}

impl Entry {
    /// The entry of a number.
    pub fn read(mem: Memory<'_>, number: usize) -> Option<Self> {
        [1, 0].into_iter().find_map(|copy| {
            let words = mem.group_entry(number, copy);
            let words: [u64; ENTRY] = std::array::from_fn(|i| words[i].load(Acquire));
            let bytes: Vec<u8> = words[..ENTRY - 1].iter().flat_map(|w| w.to_le_bytes()).collect();
            let fits = words[0] < MAX_INSTANCE && words[1] <= MAX_GROUP_NAME as u64;
            if xxh3_64(&bytes) != words[ENTRY - 1] || !fits {
                return None;
            }
            let name = std::str::from_utf8(&bytes[24..24 + words[1] as usize]).ok()?;
            let name = (!name.is_empty()).then(|| GroupName::from(name));
            Some(Self { instance: words[0], name, start: Offset::from_u64(words[2]) })
        })
    }

    fn write(&self, mem: Memory<'_>, number: usize, copy: usize) {
        let name = self.name.as_ref().map_or("", |name| name.as_str());
        let mut bytes = [0; ENTRY * 8];
        bytes[..8].copy_from_slice(&self.instance.to_le_bytes());
        bytes[8..16].copy_from_slice(&(name.len() as u64).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.start.as_u64().to_le_bytes());
        bytes[24..24 + name.len()].copy_from_slice(name.as_bytes());
        let check = xxh3_64(&bytes[..ENTRY * 8 - 8]);
        bytes[ENTRY * 8 - 8..].copy_from_slice(&check.to_le_bytes());
        for (word, bytes) in mem.group_entry(number, copy).iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes), Release);
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
            self.write(mem, number, copy);
            sync(mem.group_entry_bytes(number, copy))
        })
    }
}

/// Why a group could not be created.
#[derive(Debug)]
pub enum NotCreated<E> {
    /// It could not be written down.
    NotSynced(E),
    /// All numbers are in use.
    TooMany,
    /// Its start lies beyond this end.
    BeyondEnd(Offset),
}

impl<'a> Group<'a> {
    /// Its name.
    pub fn name(&self) -> Option<GroupName> {
        let entry = Entry::read(self.mem, self.number).filter(|entry| entry.instance == self.instance());
        entry.and_then(|entry| entry.name)
    }

    /// What its entry has to say: of one that was removed, that.
    fn entry(&self, name: Option<&GroupName>) -> Entry {
        Entry { instance: self.instance(), name: name.cloned(), start: self.start() }
    }

    /// The active groups.
    pub fn all(mem: Memory<'a>) -> impl Iterator<Item = Self> {
        (0..mem.layout.geometry.max_groups).filter_map(move |g| Self::at(mem, g)).filter(|g| !g.is_removed())
    }

    /// The active group of that name.
    pub fn find(mem: Memory<'a>, name: &GroupName) -> Option<Self> {
        Self::all(mem).find(|g| g.name().as_ref() == Some(name) && g.is_current())
    }

    /// Creates a group; `sync` brings a range of bytes of the file to the disk.
    pub fn create<E>(
        ring: &Ring<'a>,
        name: &GroupName,
        start: Start,
        sync: impl Fn(std::ops::Range<usize>) -> Result<(), E>,
    ) -> Result<Self, NotCreated<E>> {
        let mem = ring.mem;
        let number = (0..mem.layout.geometry.max_groups).find(|&g| Self::is_vacant(mem, g));
        let number = number.ok_or(NotCreated::TooMany)?;
        let group = Self::activate(ring, number);
        let oldest = group.start();
        let first = match start {
            Start::Oldest => oldest,
            Start::Newest => ring.end(),
            Start::At(offset) => offset.max(oldest),
        };
        if first > ring.end() {
            group.live[STATE].store(state(group.instance(), FREE), SeqCst);
            return Err(NotCreated::BeyondEnd(ring.end()));
        }
        group.settle_start(ring, first);
        if group.instance().is_multiple_of(255) {
            // On disk, too, nothing of an earlier group of this number may pass for this one's.
            sync(mem.layout.bytes_of_pages()).map_err(NotCreated::NotSynced)?;
        }
        group.entry(Some(name)).publish(mem, number, sync).map_err(NotCreated::NotSynced)?;
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
    /// its cursors are not, and of what it lost what is known. Nobody else has the file open.
    pub fn recover(
        mem: Memory<'a>,
        number: usize,
        oldest: u64,
        era: u64,
        write: impl Fn(&AtomicU64, u64),
    ) -> Option<Self> {
        let was = Self::any(mem, number);
        let entry = Entry::read(mem, number);
        // What it was is of no matter where it cannot be: no word of any other group is left.
        let known = Some(was.instance()).filter(|&instance| instance < MAX_INSTANCE).unwrap_or(0);
        let instance = entry.as_ref().map_or(known, |entry| entry.instance.max(known));
        let there = entry.filter(|entry| entry.name.is_some());
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
            write(&counters[earlier], total(lost.wrapping_sub(since(lost, counters[earlier].load(Relaxed), total(u64::MAX)))));
        }
        for counter in [LAGGED, DAMAGED, EXPIRED] {
            // Nothing is counted of any page that is there now.
            write(&counters[counter], counted(oldest.wrapping_sub(1), counters[counter].load(Relaxed)));
        }
        live.iter().for_each(|word| write(word, 0));
        write(&live[START], start.as_u64());
        write(&live[AT], group.hint(oldest));
        write(&live[STATE], group.state);
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
    pub fn remove<E>(
        self,
        ring: &Ring<'a>,
        sync: impl Fn(std::ops::Range<usize>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.deactivate(ring);
        self.entry(None).publish(self.mem, self.number, sync)?;
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

    /// Finishes what one began who died while it created or removed a group. `sync` brings a range of bytes of
    /// the file to the disk: the next group of that name may get another number, and there are no two.
    pub fn repair<E>(ring: &Ring<'a>, sync: impl Fn(std::ops::Range<usize>) -> Result<(), E>) {
        for group in (0..ring.mem.layout.geometry.max_groups).filter_map(|g| Self::at(ring.mem, g)) {
            if group.is_removed() || group.name().is_none() {
                group.deactivate(ring);
                if group.entry(None).publish(ring.mem, group.number, &sync).is_ok() {
                    group.vacate();
                }
            }
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
    }
}
