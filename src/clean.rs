//! What a clean close says of the tables, so that the next opener can see whether it is still so.
//!
//! **Invariant.** The checks are computed by the last user, under the open lock, before everything is
//! synced and the clean mark is written; they mean something only beside that mark. Records have
//! checksums of their own, group entries and the header have two copies; everything else that an open
//! channel trusts is under a check:
//! - of each page: its number, cursor, opening and damage, and its slots;
//! - of each group that there ever was, in each page: its cursor and its ack words;
//! - of the control part, in the header: the channel lines, the lines of the groups, their claim cells.
//!
//! Words of earlier laps, too: altered, one could pass for a word of a lap to come. Opens, op cells and
//! wake words are void once nobody has the file open.
#![forbid(unsafe_code)]

use crate::group::Group;
use crate::layout::Layout;
use crate::memory::Memory;
use crate::page::Page;
use crate::sync::{AtomicU64, Ordering::Relaxed};
use xxhash_rust::xxh3::Xxh3;

// Relaxed, all of them: nobody else has the file open, and the open lock orders its users.

fn digest<'w>(uuid: [u64; 2], words: impl IntoIterator<Item = &'w AtomicU64>) -> u64 {
    let mut hash = Xxh3::new();
    let mut buffer: Vec<u8> = uuid.iter().flat_map(|word| word.to_le_bytes()).collect();
    for word in words {
        buffer.extend_from_slice(&word.load(Relaxed).to_le_bytes());
        if buffer.len() >= 4096 {
            hash.update(&buffer);
            buffer.clear();
        }
    }
    hash.update(&buffer);
    hash.digest()
}

fn page_check(mem: Memory<'_>, place: usize) -> u64 {
    let header = [Layout::PAGE_NUMBER, Layout::PAGE_CURSOR, Layout::PAGE_OPENED_AT, Layout::PAGE_DAMAGE_SEEN];
    let page = Page::new(mem, place);
    digest(mem.uuid, header.into_iter().chain(mem.layout.slot_words()).map(|at| page.word(at)))
}

fn group_check(mem: Memory<'_>, place: usize, group: usize) -> u64 {
    let cursor = mem.layout.group_cursor_at(group);
    let page = Page::new(mem, place);
    digest(mem.uuid, std::iter::once(cursor).chain(mem.layout.ack_words(group)).map(|at| page.word(at)))
}

fn control_check(mem: Memory<'_>) -> u64 {
    let groups = (0..mem.layout.geometry.max_groups).flat_map(|group| {
        let (live, counters) = mem.group_lines(group);
        let cells = Group::any(mem, group).cells().flat_map(|cell| cell.words());
        live.iter().chain(counters).chain(cells)
    });
    digest(mem.uuid, mem.channel_words().iter().chain(groups))
}

/// The numbers of the groups that there ever were.
pub fn groups_ever(mem: Memory<'_>) -> impl Iterator<Item = usize> {
    (0..mem.layout.geometry.max_groups).filter(move |&group| Group::any(mem, group).state() != 0)
}

/// Computes the checks of the pages, and returns that of the control part.
pub fn seal(mem: Memory<'_>) -> u64 {
    for place in 0..mem.layout.geometry.max_pages {
        let page = Page::new(mem, place);
        page.word(Layout::PAGE_CHECK).store(page_check(mem, place), Relaxed);
        for group in groups_ever(mem) {
            let check = group_check(mem, place, group);
            page.word(mem.layout.group_check_at(group)).store(check, Relaxed);
        }
    }
    control_check(mem)
}

/// Whether everything is as it was left; `control` is what the header has of the control part.
pub fn is_sound(mem: Memory<'_>, control: u64) -> bool {
    // The control part first: it says which groups there ever were.
    is_control_sound(mem, control)
        && (0..mem.layout.geometry.max_pages)
            .all(|place| is_page_sound(mem, place) && groups_ever(mem).all(|group| is_group_sound(mem, place, group)))
}

/// Whether the control part is as it was left; `control` is what the header has of it.
pub fn is_control_sound(mem: Memory<'_>, control: u64) -> bool {
    control_check(mem) == control
}

/// Whether the header and the slots of a page are as they were left.
pub fn is_page_sound(mem: Memory<'_>, place: usize) -> bool {
    Page::new(mem, place).word(Layout::PAGE_CHECK).load(Relaxed) == page_check(mem, place)
}

/// Whether a group's words in a page are as they were left.
pub fn is_group_sound(mem: Memory<'_>, place: usize, group: usize) -> bool {
    let said = Page::new(mem, place).word(mem.layout.group_check_at(group)).load(Relaxed);
    said == group_check(mem, place, group)
}
