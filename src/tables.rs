//! What is wrong with the tables of a file: what is said of pages, groups, and what was handed out.
//!
//! **Invariant.** Those of `verify.rs`. Nothing is stored, and each function looks at everything of its kind once.
#![forbid(unsafe_code)]

use crate::cells::ClaimState;
use crate::finding::{Finding, Part, Remedy, Verification};
use crate::group::Group;
use crate::layout::{Acks, ENTRY, Head, MAX_PAGE_NUMBER, SlotState, Tail};
use crate::lifecycle::Entry;
use crate::memory::Memory;
use crate::opens::OpenId;
use crate::ops::Liveness;
use crate::page::Page;
use crate::ring::Ring;
use crate::{GroupName, Offset, clean, found};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

/// Who is alive where nobody has the file open.
pub struct Nobody;

impl Liveness for Nobody {
    fn is_dead(&self, _open: usize) -> bool {
        true
    }
}

fn name_of(mem: Memory<'_>, number: usize) -> GroupName {
    let name = Entry::read(mem, number).and_then(|entry| entry.name);
    name.unwrap_or_else(|| GroupName::from(number.to_string()))
}

/// Both copies of every entry.
pub fn entries(found: &mut Verification, mem: Memory<'_>) {
    for number in 0..mem.layout.geometry.max_groups {
        let is_whole = [0, 1].map(|copy| Entry::read_copy(mem, number, copy).is_some());
        for copy in [0, 1] {
            let is_used = mem.group_entry(number, copy)[..ENTRY].iter().any(|word| word.load(Relaxed) != 0);
            if is_used && !is_whole[copy] {
                let remedy = if is_whole[1 - copy] { Remedy::OtherCopy } else { Remedy::GroupGone };
                let finding = Finding::new(Part::Entry, remedy, "does not have its checksum");
                found.add(Finding { copy: Some(copy), group: Some(name_of(mem, number)), ..finding });
            }
        }
    }
}

/// What a clean close computed of the tables.
pub fn checks(found: &mut Verification, mem: Memory<'_>, control: u64) {
    if !clean::is_control_sound(mem, control) {
        let what = "is not as it was left by the last close";
        found.add(Finding::new(Part::Control, Remedy::Rebuilt, what));
    }
    for place in 0..mem.layout.geometry.max_pages {
        let page = Some(Page::new(mem, place).number());
        if !clean::is_page_sound(mem, place) {
            let finding = Finding::new(Part::Page, Remedy::Rebuilt, "its header or slots are not as they were left");
            found.add(Finding { page, place: Some(place), ..finding });
        }
        for number in clean::groups_ever(mem).filter(|&number| !clean::is_group_sound(mem, place, number)) {
            let finding =
                Finding::new(Part::Group, Remedy::Untouched, "its words in the page are not as they were left");
            found.add(Finding { page, place: Some(place), group: Some(name_of(mem, number)), ..finding });
        }
    }
}

/// What does not fit together of the order of the ring, and of where groups stand.
pub fn order(found: &mut Verification, mem: Memory<'_>) {
    if found::pages_fit(mem) {
        for group in Group::all(mem).filter(|group| !group.fits()) {
            let what = "stands where nothing was sent, or is left open or closed in a page where it cannot be";
            let group = Some(name_of(mem, group.number()));
            found.add(Finding { group, ..Finding::new(Part::Group, Remedy::Rebuilt, what) });
        }
        return;
    }
    let (layout, tail, head) = (mem.layout, tail(mem), Head::of(mem.head().load(Acquire)).page);
    let what = format!("does not fit to the pages: it says that the oldest is {tail}, and the newest {head}");
    found.add(Finding::new(Part::Control, Remedy::Rebuilt, what));
    for place in 0..layout.geometry.max_pages {
        let page = Page::new(mem, place);
        let (number, cursor) = (page.number(), page.cursor());
        let what = if number > MAX_PAGE_NUMBER || layout.place(number) != place {
            "its number is of another place"
        } else if (tail..=head).contains(&number) && cursor.lap != layout.cursor_lap(number) {
            "its cursor is of another lap"
        } else {
            continue;
        };
        found.add(Finding {
            place: Some(place),
            page: Some(number),
            ..Finding::new(Part::Page, Remedy::Rebuilt, what)
        });
    }
}

fn tail(mem: Memory<'_>) -> u64 {
    Tail::of(mem.tail().load(Acquire)).page
}

/// Words of the channel that nobody uses without looking.
pub fn control(found: &mut Verification, mem: Memory<'_>) {
    let ring = Ring { mem, live: &Nobody, me: OpenId::NOBODY };
    let end = ring.end().max(Offset::new(mem.era().load(Relaxed), 0));
    let durable = Offset::from_u64(mem.durable_end().load(Relaxed));
    if durable > end {
        let what = format!("says that all before {durable} is on disk, and ends at {end}");
        found.add(Finding::new(Part::Control, Remedy::Forgotten, what));
    }
    let limit = mem.page_limit().load(Relaxed);
    if limit > MAX_PAGE_NUMBER + 1 {
        let what = format!("says that pages go on up to {limit}");
        found.add(Finding::new(Part::Control, Remedy::Forgotten, what));
    }
}

/// What groups are said to have been given, and to be done with, that nobody sent.
pub fn groups(found: &mut Verification, mem: Memory<'_>, in_use: bool) {
    let layout = mem.layout;
    let ring = Ring { mem, live: &Nobody, me: OpenId::NOBODY };
    for group in Group::all(mem) {
        for number in ring.pages().take(layout.geometry.max_pages) {
            let (page, word) = group.in_page(number);
            let cursor = group.cursor(number, word.load(Acquire));
            let mut wrong = Vec::new();
            let end = page.cursor().count.min(layout.slots);
            if cursor.index > end.max(group.start_index(number)) {
                let what = format!("its cursor is at {}, and the page has {end} places", cursor.index);
                wrong.push((None, what));
            }
            for (chunk, at) in layout.ack_words(group.number()).enumerate() {
                let bits = Acks::of(page.word(at).load(Acquire), group.tag(number));
                // The slots after the acks.
                let done = Acks::bits(bits).map(|bit| chunk * 32 + bit as usize);
                let is_there =
                    |&index: &usize| index < layout.slots && page.slot(number, index) != SlotState::Untouched;
                for index in done.filter(|index| !is_there(index)) {
                    wrong.push((Some(Offset::new(number, index)), "is said to be done, and was not sent".into()));
                }
            }
            // After the words were read: they are of this page, and of this group.
            if in_use && (page.number() != number || !group.is_current()) {
                continue;
            }
            for (offset, what) in wrong {
                let (page, place) = (Some(number), Some(layout.place(number)));
                let group = Some(name_of(mem, group.number()));
                let finding = Finding::new(Part::Group, Remedy::Forgotten, what);
                found.add(Finding { page, place, offset, group, ..finding });
            }
        }
    }
}

/// What is said of messages that were handed out, in a file that nobody has open.
pub fn claims(found: &mut Verification, mem: Memory<'_>) {
    let oldest = tail(mem);
    for group in Group::all(mem) {
        let mut back = BTreeSet::new();
        let unused = group.cells().count()..mem.layout.geometry.max_held;
        for number in unused.filter(|&number| !group.cell(number).is_new()) {
            let what = format!("cell {number} says something, and was never used: what is counted in it may be wrong");
            let group = Some(name_of(mem, group.number()));
            found.add(Finding { group, ..Finding::new(Part::Claim, Remedy::Forgotten, what) });
        }
        for (number, cell) in group.cells().enumerate() {
            let Some(seen) = cell.read() else { continue };
            let offset = seen.offset();
            let slot = match offset.index() as usize {
                index if index < mem.layout.slots && mem.is_live(offset.page()) => {
                    group.page(offset.page()).slot(offset.page(), index)
                }
                _ => SlotState::Untouched,
            };
            // The owner of a message may have died before it could say that its page has gone, or that it is damaged.
            let may_be = offset.page() < oldest || slot == SlotState::Damaged;
            let what = match seen.word.state() {
                _ if may_be => continue,
                ClaimState::Returned if !group.was_given(offset) => {
                    "says that a message was given back that was not given"
                }
                ClaimState::Returned if !back.insert(offset) => {
                    "says that a message was given back, as another one does"
                }
                ClaimState::Held if !matches!(slot, SlotState::Committed(_)) => {
                    "says that a message was handed out that is not there"
                }
                _ => continue,
            };
            let what = format!("cell {number} {what}");
            let group = Some(name_of(mem, group.number()));
            found.add(Finding { offset: Some(offset), group, ..Finding::new(Part::Claim, Remedy::Forgotten, what) });
        }
    }
}
