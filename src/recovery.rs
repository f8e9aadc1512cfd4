//! Full recovery: after a power loss, a failed sync, or damage to what a clean close left.
//!
//! What is on disk then is, of every few bytes, whichever version since the last sync. So **records
//! decide**: a message is there if its slot says committed and its record verifies, with the offset that
//! belongs to that slot; the offset names the page. Everything else is made anew from that, from the
//! header and from the entries of the groups, which are synced before they count.
//!
//! **Invariants.**
//! - Nobody else has the file open. Opens, op cells, claim cells and flags are void.
//! - A place keeps the page of its newest record, unless a record elsewhere proves that this page was
//!   turned: pages are turned in order, so one that comes up after the next page of that place. A page
//!   that held something durable, and was not turned, is on disk as it was: it is kept.
//! - The pages kept are those from the oldest to the newest, SEALED: nobody writes to them again. One
//!   between them that has no record is kept, too, empty, so that numbers follow each other. In a page
//!   kept every slot is settled, so what was not there once is never there later.
//! - Words of any other lap or group are cleared, in all pages, and everything is synced before the
//!   header says that recovery is over. So at the next power loss nothing of before this one is found.
//! - New pages have numbers from the synced page limit on, above any that was ever used: a new *era*. It
//!   begins at the place behind the newest page, with a lap that is later than that of any page kept in
//!   every tag, so that nothing there passes for a word of the page after it.
//! - An ack word counts in its own lap. One of a later lap proves that the page was turned: all done.
//! - After a failed sync everything is first brought to the disk as it is in memory: nothing is cleared that
//!   belongs to what only memory says has gone.
//! - Every step depends only on what no earlier step changes: a recovery that ended anywhere can be run
//!   again, and one of a recovered channel changes no record, slot, ack, group or start.
#![forbid(unsafe_code)]

use crate::Offset;
use crate::clean;
use crate::found;
use crate::group::Group;
use crate::layout::{
    Acks, BLOCK, Cursor, Head, Layout, MAX_PAGE_NUMBER, PAGE_LIMIT_STEP, PageState, Slot, SlotState, Tail,
};
use crate::lifecycle::{self, Entry};
use crate::memory::Memory;
use crate::page::Page;
use crate::sync::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

// Relaxed, all of them: nobody else has the file open, and the open lock orders its users.

/// Why a channel was recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The machine went down while the channel was in use, or its file was copied then.
    Unclean,
    /// A sync had failed.
    Poisoned,
    /// What it was left with does not verify.
    Damaged,
}

/// What a recovery did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Why it was needed.
    pub cause: Cause,
    /// Messages that are there.
    pub kept: u64,
    /// Messages that were sent and do not verify; receivers pass over them, and count them.
    pub damaged: u64,
    /// The oldest page kept begins here.
    pub first_offset: Offset,
    /// The newest page kept ends here.
    pub end_offset: Offset,
    /// No new message has a lower offset.
    pub next_offset: Offset,
    /// How long it took to look through the ring and make it anew; the syncs come on top.
    pub took: Duration,
}

/// How far a recovery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryProgress {
    /// Pages looked through.
    pub pages: usize,
    /// Pages in all.
    pub of: usize,
    /// Messages found.
    pub messages: u64,
}

/// What the header says, which is synced: what recovery can rely on.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// No page number at or above this was ever used.
    pub page_limit: u64,
    /// The first page number of the last era.
    pub era: u64,
    /// The head word, as it was left or as it is: whether the channel was closed.
    pub head: u64,
    /// Whether it was left clean: then the checks of `clean.rs` tell what was altered since.
    pub clean: bool,
}

/// What was found in a page that has records.
struct Found {
    page: u64,
    /// A bit for each slot whose record verifies.
    good: Vec<u64>,
    messages: u64,
    /// Words of the record area that are used.
    units: usize,
}

impl Found {
    fn is_good(&self, index: usize) -> bool {
        self.good[index / 64] >> (index % 64) & 1 == 1
    }
}

/// What is in the ring, page by page.
struct Survey {
    cause: Cause,
    known: Known,
    found: Vec<Option<Found>>,
}

/// What a recovery has made.
#[derive(Debug)]
pub struct Recovered {
    /// What was done.
    pub report: RecoveryReport,
    /// The first page number of the new era.
    pub era: u64,
    /// The new limit of page numbers.
    pub page_limit: u64,
}

/// Makes the channel anew from what is there; `progress` is told of every page looked through. Everything has
/// to be synced after it, and then the header.
pub fn recover(
    mem: Memory<'_>,
    cause: Cause,
    known: Known,
    progress: impl FnMut(RecoveryProgress),
) -> Result<Recovered, &'static str> {
    let began = Instant::now();
    let mut recovered = survey(mem, cause, known, progress).apply(mem)?;
    if !found::fits(mem) {
        return Err("its records contradict each other");
    }
    recovered.report.took = began.elapsed();
    Ok(recovered)
}

/// Looks through the ring, and changes nothing.
fn survey(mem: Memory<'_>, cause: Cause, known: Known, mut progress: impl FnMut(RecoveryProgress)) -> Survey {
    let of = mem.layout.geometry.max_pages;
    let mut messages = 0;
    let mut copy = Vec::new();
    let look = |place: usize| {
        let found = records(mem, place, known, &mut copy);
        messages += found.as_ref().map_or(0, |found| found.messages);
        progress(RecoveryProgress { pages: place + 1, of, messages });
        found
    };
    let mut found: Vec<Option<Found>> = (0..of).map(look).collect();
    let newest = found.iter().flatten().map(|found| found.page).max().unwrap_or(0);
    // The tail only rises: what lies before it had been given up, and counted. (What is damaged may say anything.)
    let tail = Tail::of(mem.tail().load(Relaxed)).page;
    let given_up = if cause != Cause::Damaged && tail < known.page_limit { tail } else { 0 };
    for found in &mut found {
        found.take_if(|found| found.page < given_up);
        found.take_if(|found| mem.layout.comes_after(known.era, found.page) <= newest);
    }
    Survey { cause, known, found }
}

/// The records of the newest page that has any at a place.
fn records(mem: Memory<'_>, place: usize, known: Known, copy: &mut Vec<u8>) -> Option<Found> {
    let (page, layout) = (Page::new(mem, place), mem.layout);
    let mut best: Option<Found> = None;
    let mut looked_at = 0;
    for index in 0..layout.slots {
        let word = page.slot_word(index).load(Relaxed);
        let SlotState::Committed(at) = Slot::of(word, Slot::tag(word)) else { continue };
        // Before the record is read: what it says it is.
        let Some((offset, end)) = page.said(at) else { continue };
        let number = offset.page();
        let right = offset.index() as usize == index
            && number < known.page_limit
            && layout.place(number) == place
            && layout.slot_tag(number) == Slot::tag(word);
        if !right || best.as_ref().is_some_and(|best| best.page > number) {
            continue;
        }
        // Records lie beside each other: more than this there is only where somebody made them overlap.
        looked_at += end - at;
        if looked_at > 4 * layout.data_words || !page.has_record(mem.uuid, at, offset, copy) {
            continue;
        }
        let empty = || Found { page: number, good: vec![0; layout.slots.div_ceil(64)], messages: 0, units: 0 };
        let found = match best.take() {
            Some(best) if best.page == number => best,
            _ => empty(),
        };
        let found = best.insert(found);
        found.good[index / 64] |= 1 << (index % 64);
        found.messages += 1;
        found.units = found.units.max(end);
    }
    best
}

impl Survey {
    /// The numbers of the pages kept, oldest first.
    fn kept(&self, layout: &Layout) -> Vec<u64> {
        let with_records = self.found.iter().flatten().map(|found| found.page);
        let Some(oldest) = with_records.clone().min() else { return Vec::new() };
        let newest = with_records.max().unwrap_or(oldest);
        let next = |&page: &u64| {
            let place = layout.place(page + 1);
            (page < newest).then(|| self.found[place].as_ref().map_or(page + 1, |found| found.page))
        };
        std::iter::successors(Some(oldest), next).collect()
    }

    /// Where the new era begins: above every number that was used, at the place behind the newest page;
    /// and for each page kept, the page after it is of a later lap in every tag.
    fn era(&self, layout: &Layout, kept: &[u64]) -> Option<u64> {
        let behind = kept.last().map_or(self.known.page_limit, |newest| newest + 1);
        let pages = layout.geometry.max_pages as u64;
        // By how many laps too early, if it is.
        let early = |era: u64, &page: &u64| {
            let next = layout.first_at(era, layout.place(page));
            let (lap, than) = (layout.slot_tag(next), layout.slot_tag(page));
            if !Layout::is_later_lap(lap, than) {
                return Some(u64::from(than.wrapping_sub(lap) & 0xff_ffff) + 1);
            }
            (layout.cursor_lap(next) == layout.cursor_lap(page)).then_some(1)
        };
        let mut era = layout.first_at(self.known.page_limit, layout.place(behind));
        // The pages kept are themselves less than half a round of the tags apart: a few steps are enough.
        for _ in 0..1 << 10 {
            match kept.iter().rev().find_map(|page| early(era, page)) {
                None => return Some(era),
                Some(laps) => era += laps * pages,
            }
        }
        None
    }

    /// Makes the channel anew from what was found.
    fn apply(&self, mem: Memory<'_>) -> Result<Recovered, &'static str> {
        let layout = mem.layout;
        let kept = self.kept(layout);
        let pages = layout.geometry.max_pages as u64;
        let era = self.era(layout, &kept).filter(|era| era + pages <= MAX_PAGE_NUMBER);
        let era = era.ok_or("no page number is left to go on with")?;
        let oldest = kept.first().copied().unwrap_or(era);

        // The groups first: what their claim cells counted is void after that.
        let each = 0..layout.geometry.max_groups;
        let moves = lifecycle::moves(each.clone().filter_map(|number| Entry::read(mem, number)));
        let recover = |number| Group::recover(mem, number, &moves, oldest, era, put);
        let groups: Vec<Option<Group<'_>>> = each.map(recover).collect();
        clear_control(mem);
        let mut opened_at = 0;
        let damaged = kept.iter().map(|&page| self.keep(mem, page, &groups, &mut opened_at)).sum();
        let mut free = vec![true; pages as usize];
        kept.iter().for_each(|&page| free[layout.place(page)] = false);
        for place in (0..pages as usize).filter(|&place| free[place]) {
            prepare(mem, layout.first_at(era, place));
        }

        let head = Head::of(self.known.head);
        // Where every place is taken the newest page stays the head: the oldest is turned in its time.
        let newest = kept.last().copied().filter(|_| kept.len() as u64 == pages);
        put(mem.head(), Head { page: newest.unwrap_or(era), ..head }.word());
        put(mem.tail(), Tail { page: oldest, ..Tail::of(mem.tail().load(Relaxed)) }.word());
        let page_limit = (era + pages).saturating_add(PAGE_LIMIT_STEP).min(MAX_PAGE_NUMBER + 1);
        put(mem.page_limit(), page_limit);
        put(mem.era(), era);
        let next_offset = Offset::new(era, 0);
        put(mem.durable_end(), next_offset.as_u64());

        let end = |page: u64| Offset::new(page, Page::new(mem, layout.place(page)).cursor().count);
        let report = RecoveryReport {
            cause: self.cause,
            kept: kept.iter().filter_map(|&page| self.of(layout, page)).map(|found| found.messages).sum(),
            damaged,
            first_offset: Offset::new(oldest, 0),
            end_offset: kept.last().map_or(next_offset, |&page| end(page)),
            next_offset,
            took: Duration::ZERO,
        };
        Ok(Recovered { report, era, page_limit })
    }

    fn of(&self, layout: &Layout, page: u64) -> Option<&Found> {
        self.found[layout.place(page)].as_ref().filter(|found| found.page == page)
    }

    /// Settles a page that is kept; returns how many of its messages do not verify. It was opened when its
    /// first message says, and not before the page before, which was `opened_at`.
    fn keep(&self, mem: Memory<'_>, number: u64, groups: &[Option<Group<'_>>], opened_at: &mut u64) -> u64 {
        let (layout, place) = (mem.layout, mem.layout.place(number));
        let page = Page::new(mem, place);
        let found = self.of(layout, number);
        let tag = layout.slot_tag(number);
        // Before anything is changed that they are of.
        let sound = !self.known.clean || clean::is_page_sound(mem, place);
        let trusted = |group| !self.known.clean || clean::is_group_sound(mem, place, group);
        for (number_of, group) in groups.iter().enumerate() {
            settle(mem, number, number_of, group.filter(|_| trusted(number_of)));
        }
        let is_good = |index| found.is_some_and(|found| found.is_good(index));
        let said = |index| Slot::of(page.slot_word(index).load(Relaxed), tag);
        let unread =
            |index: usize| found.is_some() && matches!(said(index), SlotState::Committed(_) | SlotState::Damaged);
        let count = (0..layout.slots).rev().find(|&index| is_good(index) || unread(index)).map_or(0, |last| last + 1);

        if let Some(first) = (0..count).find(|&index| is_good(index))
            && let SlotState::Committed(at) = said(first)
        {
            *opened_at = page.said_sent_at(at).map_or(*opened_at, |time| time.max(*opened_at));
        }
        put(page.word(Layout::PAGE_OPENED_AT), *opened_at);
        let mut damaged = 0;
        for index in 0..layout.slots {
            let word = page.slot_word(index);
            let to = match said(index) {
                _ if index >= count => 0,
                _ if is_good(index) => word.load(Relaxed),
                SlotState::Committed(_) | SlotState::Damaged => Slot::word(tag, SlotState::Damaged),
                // Of a page in which something was altered, it may have been this.
                SlotState::Untouched if !sound => Slot::word(tag, SlotState::Damaged),
                SlotState::Untouched | SlotState::Skipped => Slot::word(tag, SlotState::Skipped),
            };
            damaged += u64::from(Slot::of(to, tag) == SlotState::Damaged);
            put(word, to);
        }
        put(page.word(Layout::PAGE_DAMAGE_SEEN), if damaged > 0 { number + 1 } else { 0 });
        let units = found.map_or(0, |found| found.units);
        let cursor = Cursor { state: PageState::Sealed, lap: layout.cursor_lap(number), count, units };
        put(page.cursor_word(), layout.cursor_word(cursor));
        put(page.number_word(), number);
        damaged
    }
}

/// Stores a word that is not what it should be.
fn put(word: &AtomicU64, value: u64) {
    if word.load(Relaxed) != value {
        word.store(value, Relaxed);
    }
}

/// Changes nothing, and has the next sync write everything but the header: a sync that failed has left blocks
/// that are in memory and not on disk, and pass for written.
pub fn write_again(mem: Memory<'_>) {
    mem.control[2 * BLOCK..].iter().chain(mem.pages).for_each(|word| word.store(word.load(Relaxed), Relaxed));
}

/// Makes a place ready for page `number`: nothing is left of what was there.
fn prepare(mem: Memory<'_>, number: u64) {
    let layout = mem.layout;
    let page = Page::new(mem, layout.place(number));
    layout.tables().for_each(|at| put(page.word(at), 0));
    let cursor = Cursor { state: PageState::Prepared, lap: layout.cursor_lap(number), count: 0, units: 0 };
    put(page.cursor_word(), layout.cursor_word(cursor));
    put(page.word(Layout::PAGE_OPENED_AT), 0);
    put(page.word(Layout::PAGE_DAMAGE_SEEN), 0);
    put(page.number_word(), number);
}

/// Makes the control part that of a channel that nobody uses, apart from its groups.
fn clear_control(mem: Memory<'_>) {
    let layout = mem.layout;
    let kept = layout.groups_in_control();
    let void = mem.control.iter().enumerate().skip(3 * BLOCK).filter(|(at, _)| !kept.contains(at));
    void.for_each(|(_, word)| put(word, 0));
    mem.sleepers().iter().for_each(|word| put(word, 0));
    put(mem.opens_used(), 0);
    put(mem.op_cells_used(), 0);
    // Wake words are never told apart: each waits for a change of whatever it was.
}

/// Settles the words of a group in a page that is kept: none, unless there is a group whose words can be
/// trusted. Its cursor begins anew, and steps over what its ack words say is done.
fn settle(mem: Memory<'_>, page: u64, number: usize, group: Option<Group<'_>>) {
    let words = Page::new(mem, mem.layout.place(page));
    let acks = mem.layout.ack_words(number);
    for at in mem.layout.group_words(number) {
        let word = words.word(at);
        let to = match group.filter(|_| acks.contains(&at)) {
            None => 0,
            Some(group) => match Acks::at_rest(word.load(Relaxed), group.tag(page)) {
                0 => 0,
                bits => Acks::word(group.tag(page), bits),
            },
        };
        put(word, to);
    }
}
