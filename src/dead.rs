//! Dead letters: messages that were handed out as often as the channel allows, or were rejected, in a channel beside
//! it.
//!
//! **Invariants.**
//! - A message that is to become a letter is RETURNED, and no receiver takes it. Who moves it takes its
//!   cell as a MESSAGE: one at a time, and nobody takes the cell from it while it lives. The letter is
//!   sent before the message is done.
//! - A letter is on stable storage before its message is done: else a power loss could take both.
//! - A message that is rejected is RETURNED with exactly as many attempts as the channel allows, whatever it had:
//!   by one swap of the HELD word. So one who dies right after it leaves a message that is to become a letter; and
//!   one whose lease was taken away before it changes nothing.
//! - A mover that died has left the cell with one attempt more than the channel allows. Then, and only
//!   then, there may be a letter already: the next mover looks for it first.
//! - The message is counted as a dead letter while its cell is DONE, which it leaves only for FREE.
//! - Without room among the letters the message goes back as it was, and is tried again later.
//!
//! A letter has the headers of its message, as they are. Behind them it is `{mark and version, uuid 128,
//! group number 16 and instance 48, offset, sent at, attempts 32, length of the group's name 32, its name,
//! the message}`, little-endian.
#![forbid(unsafe_code)]

use crate::cells::{ClaimCell, ClaimState, ClaimWord, Kind};
use crate::group::Group;
use crate::headers::WithHeaders;
use crate::layout::{DEAD_LETTER_ROOM, SlotState};
use crate::memory::Memory;
use crate::page::Place;
use crate::ring::Ring;
use crate::shared::Shared;
use crate::sync::full_fence_after_rmw;
use crate::{Channel, Offset};
use std::fmt;
use std::time::{Duration, SystemTime};

/// The group that reads the dead letters.
pub const GROUP: &str = "dead";

const MARK: u64 = u64::from_le_bytes(*b"letter\0\x01");
/// Mark, uuid, group, offset: what tells one letter from another.
const KEY: usize = 40;
const HEAD: usize = KEY + 16;
const _: () = assert!(HEAD + crate::layout::MAX_GROUP_NAME <= DEAD_LETTER_ROOM);

/// A message that was handed out to a group as often as the channel allows and was never done, or that was
/// [rejected](crate::Lease::reject).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// use disk_chan::{DeadLetter, Options};
/// let channel = Options::new().page_size(1 << 20).max_pages(4).max_attempts(1).blocking_open(&path)?;
/// let mut rx = channel.blocking_subscribe("billing")?;
/// channel.sender().blocking_send(b"poison")?;
/// drop(rx.blocking_lease()?); // given back, as by a consumer that died over it
///
/// let mut dead = channel.blocking_dead_letters()?;
/// let message = dead.blocking_recv()?;
/// let letter = DeadLetter::parse(&message).expect("a letter");
/// assert_eq!((letter.group(), letter.message()), ("billing", &b"poison"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct DeadLetter<'a> {
    group: &'a str,
    offset: Offset,
    sent_at: u64,
    attempts: u32,
    message: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

impl<'a> DeadLetter<'a> {
    /// Reads a message of the channel of the dead letters; nothing if it is something else.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if word(bytes, 0)? != MARK {
            return None;
        }
        let tail = word(bytes, KEY + 8)?;
        let (name, message) = bytes[HEAD..].split_at_checked((tail >> 32) as usize)?;
        Some(Self {
            group: std::str::from_utf8(name).ok()?,
            offset: Offset::from_u64(word(bytes, KEY - 8)?),
            sent_at: word(bytes, KEY)?,
            attempts: tail as u32,
            message,
        })
    }

    /// The name of the group that it was handed out to.
    pub fn group(&self) -> &'a str {
        self.group
    }

    /// Its place in the channel that it comes from.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// When it was sent.
    pub fn sent_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.sent_at)
    }

    /// How often it was handed out; of one that was rejected, as often as the channel allows.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The message.
    pub fn message(&self) -> &'a [u8] {
        self.message
    }
}

impl fmt::Debug for DeadLetter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("group", &self.group)
            .field("offset", &self.offset)
            .field("len", &self.message.len())
            .finish_non_exhaustive()
    }
}

/// The bytes that tell the letter of a message from all others.
fn key(mem: Memory<'_>, group: Group<'_>, offset: Offset) -> Vec<u8> {
    let instance = (group.number() as u64) << 48 | group.instance() & ((1 << 48) - 1);
    let words = [MARK, mem.uuid[0], mem.uuid[1], instance, offset.as_u64()];
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Whether a message that begins so is in the ring.
fn is_sent(ring: Ring<'_>, key: &[u8]) -> bool {
    let mut copy = Vec::new();
    ring.pages().any(|number| {
        let page = ring.page(number);
        let end = page.cursor().count.min(ring.mem.layout.slots);
        (0..end).any(|index| match page.slot(number, index) {
            SlotState::Committed(at) => {
                let offset = Offset::new(number, index).as_u64();
                let mut place = Place::unread(at);
                page.copy(ring.mem.uuid, offset, &mut place, &mut copy) && copy[place.block()..].starts_with(key)
            }
            _ => false,
        })
    })
}

impl Shared {
    /// Makes letters of the messages of `group` that are not handed out any more.
    pub fn bury(&self, group: Group<'_>) {
        let Some(letters) = &self.dead_letters else { return };
        for cell in group.cells() {
            if let Some(seen) = cell.read()
                && seen.word.state() == ClaimState::Returned
                && group.is_undeliverable(seen.word)
                // After the cell was read: it is this group's.
                && group.is_current()
                && let Some(held) = cell.retake(seen.word, self.file.id.index, Kind::Message, 0)
            {
                self.bury_one(letters, group, cell, held, seen.offset());
            }
        }
    }

    fn bury_one(&self, letters: &Channel, group: Group<'_>, cell: ClaimCell<'_>, held: ClaimWord, offset: Offset) {
        full_fence_after_rmw(); // ORDER[group state], as after any claim
        if !group.is_current() {
            cell.free(held);
            return;
        }
        let page = self.ring().page(offset.page());
        let mut place = match page.slot(offset.page(), offset.index() as usize) {
            SlotState::Committed(at) => Place::unread(at),
            _ => Place::unread(self.memory().layout.data_words),
        };
        let mut message = Vec::new();
        if !page.copy(self.memory().uuid, offset.as_u64(), &mut place, &mut message) {
            if group.has_lost(offset.page()) {
                cell.lose(held);
            } else {
                group.mark_damaged(offset);
                cell.free(held);
            }
            return;
        }
        let (block, message) = message.split_at(place.block());
        let key = key(self.memory(), group, offset);
        let max = self.memory().layout.geometry.max_attempts;
        let may_be_there = held.attempts() > max;
        // A sender made now sends, also if somebody closed that channel.
        let letters = letters.sender();
        if !(may_be_there && is_sent(letters.ring(), &key)) {
            let name = group.name().map_or(String::new(), |name| name.as_str().to_owned());
            let mut letter = [block, &key].concat();
            letter.extend(place.sent_at().to_le_bytes());
            let tail = u64::from(max) | (name.len() as u64) << 32;
            letter.extend(tail.to_le_bytes());
            letter.extend(name.as_bytes());
            letter.extend(message);
            let sent = match block {
                [] => letters.try_send(&letter),
                _ => letters.try_send(WithHeaders::from_region(letter, block.len())),
            };
            if let Err(error) = sent {
                event!(debug, "no room for a dead letter", error = error, offset = offset);
                cell.put_back(held);
                return;
            }
        }
        if letters.blocking_sync().is_err() {
            // It may be there, or not: as after a mover's death.
            group.return_cell(cell, held, offset);
            return;
        }
        if cell.finish(held) {
            let last = group.settle_done(cell, held.to(ClaimState::Done), offset);
            self.after_ack(group, offset, last);
        }
        event!(debug, "a message became a dead letter", offset = offset);
    }
}
