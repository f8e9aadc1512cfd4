//! What is in a channel, read through its internals.

use super::rng::mix;
use crate::group::Group;
use crate::layout::{PageState, SlotState};
use crate::page::{Page, Place};
use crate::ring::Ring;
use crate::{Headers, HeadersRef, Offset, Payload, Sender, WithHeaders};
use std::collections::{BTreeMap, BTreeSet};

/// Shortest message of the simulation.
pub const SHORTEST: usize = 16;

/// The bytes of a message: they tell which it is, and every one of them follows from that.
pub fn content(id: u64, len: usize) -> Vec<u8> {
    assert!(len >= SHORTEST);
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&(len as u64).to_le_bytes());
    let mut word = mix(id);
    while bytes.len() < len {
        word = word.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The headers of a message that has some: they follow from which it is, too.
fn headers_of(id: u64) -> Headers {
    let value = content(id, SHORTEST + (mix(id) % 64) as usize);
    Headers::new().key(id.to_le_bytes()).with("content", value)
}

/// A message with headers, both together this long; nothing if it is too short for that.
pub fn content_with_headers(id: u64, len: usize) -> Option<WithHeaders> {
    let headers = headers_of(id);
    let rest = len.checked_sub(block_len(&headers)).filter(|&rest| rest >= SHORTEST)?;
    Some(headers.message(content(id, rest)).unwrap())
}

fn block_len(headers: &Headers) -> usize {
    fn len(message: impl Payload) -> usize {
        message.region().len()
    }
    len(headers.message([]).unwrap())
}

/// Which message these bytes are, if they are one.
pub fn seen(offset: Offset, headers: HeadersRef<'_>, bytes: &[u8]) -> Result<Seen, String> {
    let id = bytes.first_chunk().map(|b| u64::from_le_bytes(*b));
    match id {
        Some(id) if bytes.len() >= SHORTEST && content(id, bytes.len()) == bytes => {
            let (sent, found) = (headers_of(id), Headers::from(headers));
            match found == sent {
                true => Ok(Seen { offset, id, len: bytes.len() + block_len(&sent), headers: true }),
                false if headers.is_empty() => Ok(Seen { offset, id, len: bytes.len(), headers: false }),
                false => Err(format!("message {id} with headers that nobody sent: {headers:?}")),
            }
        }
        _ => Err(format!("{} bytes that nobody sent", bytes.len())),
    }
}

/// A message that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub offset: Offset,
    pub id: u64,
    /// With its headers.
    pub len: usize,
    pub headers: bool,
}

/// A group that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenGroup {
    /// Its number, and which of the groups of that number it is.
    pub id: (usize, u64),
    pub start: Offset,
    /// For each message whether the group is done with it.
    pub done: Vec<bool>,
    /// For each message whether its page was taken away from the group.
    pub lost: Vec<bool>,
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// In the order of their offsets.
    pub messages: Vec<Seen>,
    pub groups: BTreeMap<String, SeenGroup>,
    /// Records that do not verify though their slots say committed.
    pub torn: Vec<Offset>,
    /// Slots that say damaged.
    pub damaged: Vec<Offset>,
    /// Slots of sealed pages that say nothing yet.
    pub open: Vec<Offset>,
    /// The oldest page.
    pub tail: u64,
}

/// Looks at everything in a channel that nobody changes meanwhile.
pub fn look(sender: &Sender) -> Result<Look, String> {
    let ring = sender.ring();
    let mut look = Look { tail: ring.tail().page, ..Look::default() };
    let mut buffer = Vec::new();
    for number in ring.pages() {
        look_at_page(&ring, number, &mut buffer, &mut look)?;
    }
    for group in Group::all(ring.mem) {
        let name = group.name().ok_or_else(|| format!("group {} is active and has no name", group.number()))?;
        let of = |f: &dyn Fn(Offset) -> bool| look.messages.iter().map(|m| f(m.offset)).collect();
        let mut lost_page = (u64::MAX, false);
        let not_acked: BTreeSet<_> = group.done_and_not_acked().collect();
        let done = of(&|o| group.is_done(o.page(), o.index() as usize) || not_acked.contains(&o));
        let lost = look.messages.iter().map(|m| {
            if m.offset.page() != lost_page.0 {
                lost_page = (m.offset.page(), group.has_lost(m.offset.page()));
            }
            lost_page.1
        });
        let id = (group.number(), group.state());
        let seen = SeenGroup { id, start: group.start(), done, lost: lost.collect() };
        if look.groups.insert(name.to_string(), seen).is_some() {
            return Err(format!("there are two groups called {name}"));
        }
    }
    Ok(look)
}

fn look_at_page(ring: &Ring<'_>, number: u64, buffer: &mut Vec<u8>, look: &mut Look) -> Result<(), String> {
    let layout = ring.mem.layout;
    let page = Page::new(ring.mem, layout.place(number));
    let c = page.cursor();
    if page.number() != number || c.lap != layout.cursor_lap(number) {
        return Err(format!("page {number} is {} in lap {} at its place", page.number(), c.lap));
    }
    for index in 0..c.count.min(layout.slots) {
        let offset = Offset::new(number, index);
        match page.slot(number, index) {
            SlotState::Committed(at) => {
                let mut place = Place::unread(at);
                if page.copy(ring.mem.uuid, offset.as_u64(), &mut place, buffer) {
                    let (headers, bytes) = (HeadersRef::new(buffer, place.block()), &buffer[place.block()..]);
                    let seen = seen(offset, headers, bytes).map_err(|e| format!("at {offset} there are {e}"))?;
                    look.messages.push(seen);
                } else {
                    look.torn.push(offset);
                }
            }
            SlotState::Damaged => look.damaged.push(offset),
            SlotState::Untouched if c.state == PageState::Sealed => look.open.push(offset),
            SlotState::Untouched | SlotState::Skipped => {}
        }
    }
    Ok(())
}
