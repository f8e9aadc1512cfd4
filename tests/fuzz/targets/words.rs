//! A channel on the heap, with words changed, under the functions that every open works with: as many
//! executions as can be. `changed` does the same to files, through the public face.
#![no_main]

use disk_chan::cells::{ClaimCell, Count, Kind};
use disk_chan::claim::{Claim, Hand, Nothing, Want};
use disk_chan::extend::Extended;
use disk_chan::group::Group;
use disk_chan::layout::{Geometry, HEADERS, Layout, PAGE_LIMIT_STEP, SlotState};
use disk_chan::map::Heap;
use disk_chan::memory::Memory;
use disk_chan::opens::OpenId;
use disk_chan::ops::{Liveness, OpCell};
use disk_chan::page::Record;
use disk_chan::recovery::{self, Known};
use disk_chan::ring::Ring;
use disk_chan::{Cause, GroupName, Offset, Overflow, Start, clean, found};
use disk_chan_fuzz::{Input, Limited, body, with_limit};
use libfuzzer_sys::{Corpus, fuzz_target};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// Bytes of a header block.
const BLOCK: usize = 16;
const SLOTS: usize = 16;
const PAGE_WORDS: usize = 364;
/// More than a page has slots for.
const MOST_SENDS: usize = SLOTS + 5;
const NOBODY: OpenId = OpenId { index: usize::MAX, incarnation: 0 };

/// Only one open lives at a time.
struct Alive<'a>(Memory<'a>, OpenId);

impl Liveness for Alive<'_> {
    fn is_dead(&self, open: usize) -> bool {
        open < self.0.layout.geometry.max_opens && OpenId::at(self.0, open).is_some_and(|id| id != self.1)
    }
}

fn layout(overflow: Overflow, max_pages: usize) -> Layout {
    let geometry = Geometry {
        page_size: PAGE_WORDS * 8,
        max_pages,
        typical_message_len: 0,
        max_groups: 3,
        max_opens: 2,
        max_op_cells: 4,
        max_held: 64,
        overflow,
        max_age: 0,
        lease_timeout: 1000,
        max_attempts: 3,
    };
    Layout::with_slots(geometry, PAGE_WORDS, SLOTS).expect("a layout")
}

/// A header block with a key.
fn block() -> Vec<u8> {
    let mut block = vec![BLOCK as u8, 0, 0, 0, 4, 0];
    block.extend(b"key");
    block.resize(BLOCK, 0);
    block
}

/// One open at work.
struct User<'a> {
    mem: Memory<'a>,
    alive: Alive<'a>,
    me: OpenId,
    sent: u64,
    /// The highest offset of a message received since this was cleared.
    highest: Offset,
    buffer: Vec<u8>,
}

impl<'a> User<'a> {
    fn new(mem: Memory<'a>, me: OpenId) -> Self {
        Self { mem, alive: Alive(mem, me), me, sent: 100, highest: Offset::default(), buffer: Vec::new() }
    }

    fn ring(&self) -> Ring<'_> {
        Ring { mem: self.mem, live: &self.alive, me: self.me }
    }

    fn send(&mut self, run: usize) -> Option<Offset> {
        let epoch = self.ring().open_for_sending();
        self.sent += run as u64;
        BODIES.with(|bodies| {
            let record = |n: usize| {
                let n = self.sent as usize + n;
                // Some of them with a header block before them.
                match &bodies[n % bodies.len()] {
                    body if n.is_multiple_of(3) => Record::new(body, HEADERS),
                    body => Record::new(&body[BLOCK..], 0),
                }
            };
            let records: [Record<'_>; 3] = std::array::from_fn(record);
            let sent = self.ring().send(epoch, &records[..run], self.sent).ok()?;
            Some(Offset::from_u64(sent.page << 20 | sent.index as u64))
        })
    }

    fn hand(&self, group: Group<'_>) -> Hand {
        Hand::new(self.me.index, group.page_hint().max(self.ring().tail().page), 1)
    }

    fn receive(&mut self, group: Group<'a>, hand: &mut Hand, want: Want) -> Option<Claim> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let live = Alive(self.mem, self.me);
        let ring = Ring { mem: self.mem, live: &live, me: self.me };
        let got = loop {
            match group.receive(&ring, hand, want, &mut buffer, true) {
                Err(Nothing::Lagged(_)) => {}
                Err(_) => break None,
                Ok(()) => break Some(hand.claim),
            }
        };
        if let Some(claim) = &got {
            let copied = want == Want::Lease || self.mem.layout.geometry.overflow == Overflow::DropOldest;
            self.highest = self.highest.max(claim.offset);
            self.expect_sent(
                claim.offset,
                if copied { &buffer[claim.record.block()..] } else { claim.record.payload(self.mem) },
            );
        }
        self.buffer = buffer;
        got
    }

    /// A message was sent as it is; or else its checksum was made for it.
    fn expect_sent(&self, offset: Offset, message: &[u8]) {
        if BODIES.with(|bodies| {
            message.len() >= 8 && bodies.get(message.len() - 8).is_some_and(|body| &body[BLOCK..] == message)
        }) {
            return;
        }
        let page = self.ring().page(offset.page());
        let SlotState::Committed(at) = page.slot(offset.page(), offset.index() as usize) else {
            panic!("{offset} is not committed");
        };
        let checksum = page.word(self.mem.layout.data_at(at) + 3).load(Relaxed);
        let forged = CHANGED.with_borrow(|changed| changed.contains(&checksum));
        assert!(forged, "{offset} was not sent: {message:?}");
    }

    /// The message after one that the claim in the hand is done with.
    fn extend(&mut self, group: Group<'a>, hand: &mut Hand) -> Option<Claim> {
        if group.extend(hand) != Extended::Claimed {
            group.end(&hand.claim);
            return None;
        }
        self.highest = self.highest.max(hand.claim.offset);
        self.expect_sent(hand.claim.offset, hand.claim.record.payload(self.mem));
        Some(hand.claim)
    }

    /// Takes all there is; some of it is given back once, and one message is kept while others are taken.
    fn drain(&mut self, group: Group<'a>, gives_back: bool) -> usize {
        let mut hand = self.hand(group);
        let most = 2 * (SLOTS * self.mem.layout.geometry.max_pages + 4) + 4;
        let mut kept: Option<(Claim, Vec<u8>)> = None;
        let mut is_done = false;
        for n in 0..most {
            let want = [Want::Message, Want::Lease, Want::Several][n % 3];
            let extended = if std::mem::take(&mut is_done) { self.extend(group, &mut hand) } else { None };
            let Some(claim) = extended.or_else(|| self.receive(group, &mut hand, want)) else {
                if let Some((claim, bytes)) = kept {
                    self.expect_unchanged(&claim, &bytes);
                    let _ = group.ack(&claim);
                }
                return n;
            };
            let lies_there = claim.word.kind() == Kind::Message;
            if kept.is_none() && lies_there && group.is_current() && !self.drops_oldest() {
                let bytes = claim.record.payload(self.mem).to_vec();
                kept = Some((claim, bytes));
            } else if gives_back && n % 5 == 0 && claim.word.attempts() == 0 {
                let _ = group.give_back(&claim);
            } else if claim.word.keeps_row() {
                let _ = group.extend_over(&claim, n % 40);
                let several: Vec<Claim> = self.several(group, claim);
                for (i, claim) in several.iter().enumerate() {
                    if !gives_back || i % 3 != 1 {
                        let _ = group.finish_one(claim);
                    }
                }
                if gives_back {
                    group.leave(&claim);
                }
            } else if claim.goes_on {
                group.say_done(&claim);
                is_done = true;
            } else {
                let _ = group.ack(&claim);
            }
        }
        panic!("still messages after {most}");
    }

    /// The messages that a claim was extended over, as they go out.
    fn several(&mut self, group: Group<'a>, first: Claim) -> Vec<Claim> {
        let mut all = vec![first];
        let more = group.cell(first.cell as usize).seen().extent.more();
        for index in first.offset.index() as usize + 1..=first.offset.index() as usize + more {
            let mut claim = Claim { offset: Offset::from_u64(first.offset.page() << 20 | index as u64), ..first };
            if group.look_at(&mut claim) {
                self.highest = self.highest.max(claim.offset);
                self.expect_sent(claim.offset, claim.record.payload(self.mem));
                all.push(claim);
            }
        }
        let together = all.iter().fold(0, |bits, claim| bits | 1 << (claim.offset.index() % 32));
        all.iter_mut().for_each(|claim| claim.together = together);
        all
    }

    fn drops_oldest(&self) -> bool {
        self.mem.layout.geometry.overflow == Overflow::DropOldest
    }

    /// The bytes that somebody reads where they lie are not written.
    fn expect_unchanged(&self, claim: &Claim, bytes: &[u8]) {
        let now = claim.record.payload(self.mem);
        assert_eq!(now, bytes, "{} changed while it was read", claim.offset);
    }

    fn look(&self) -> u64 {
        let ring = self.ring();
        let mut sum = ring.end().as_u64() ^ ring.mem.page_turns().load(Relaxed);
        for page in ring.pages() {
            sum ^= ring.count(page, disk_chan::layout::SlotState::is_committed);
        }
        for group in Group::all(self.mem) {
            sum ^= group.held_and_returned()[0] as u64
                ^ group.lag(&ring).messages
                ^ group.position(&ring).as_u64()
                ^ group.lagged()
                ^ group.damaged();
            sum ^= group.behind(&ring) ^ Count::ALL.iter().map(|c| group.count(*c)).sum::<u64>();
            sum ^= u64::from(group.name().is_some()) ^ u64::from(group.has_more(&ring));
        }
        OpenId::all(self.mem).fold(sum, |sum, id| sum ^ id.handles(self.mem).load(Relaxed))
    }

    /// What an open does once a tick.
    fn tend(&self) {
        for group in Group::all(self.mem) {
            group.take_overdue(|| 5000);
        }
        let head = self.ring().head();
        let _ = self.ring().advance(head.page, 7);
    }
}

/// As `OpenFile::open` does when nobody else has the file open.
fn open(mem: Memory<'_>, known: Known, is_sound: bool) -> Option<User<'_>> {
    if !is_sound || !found::fits(mem) {
        let recovered = recovery::recover(mem, Cause::Damaged, known, |_| {}).ok()?;
        mem.page_limit().fetch_max(recovered.page_limit, Relaxed);
    }
    let nobody = User::new(mem, NOBODY);
    nobody.look();
    free_the_dead(&nobody);
    found::settle(&nobody.ring());
    let me = OpenId::attach(mem, 0);
    Some(User::new(mem, me))
}

fn free_the_dead(user: &User<'_>) {
    let dead: Vec<_> = OpenId::all(user.mem).filter(|&id| id != user.me).collect();
    for &id in &dead {
        OpCell::clear(user.mem, id);
        for number in 0..user.mem.layout.geometry.max_groups {
            Group::any(user.mem, number).reap(id);
        }
    }
    Group::repair(&user.ring(), synced);
    dead.iter().for_each(|id| id.detach(user.mem));
}

/// As `OpenFile::close`.
fn close(user: &User<'_>) {
    OpCell::clear(user.mem, user.me);
    for number in 0..user.mem.layout.geometry.max_groups {
        Group::any(user.mem, number).reap(user.me);
    }
    free_the_dead(user);
    user.me.detach(user.mem);
    user.mem.durable_end().store(user.ring().end().as_u64(), Relaxed);
}

fn synced(_: Range<usize>) -> Result<(), Infallible> {
    Ok(())
}

fn group<'a>(user: &User<'a>, name: &str) -> Option<Group<'a>> {
    let name = GroupName::from(name);
    if let Some(group) = Group::find(user.mem, &name) {
        return Some(group);
    }
    let live = Alive(user.mem, user.me);
    let ring = Ring { mem: user.mem, live: &live, me: user.me };
    let made = Group::create(&ring, &name, Start::Oldest, synced).ok()?;
    Some(Group::of(user.mem, made.number(), made.state()))
}

/// A channel as its last user left it.
struct Found {
    heap: Heap,
    words: Vec<u64>,
    likely: Vec<u32>,
    known: Known,
    /// What the header says of the control part.
    check: u64,
}

fn words<'a>(mem: Memory<'a>) -> impl Iterator<Item = &'a AtomicU64> {
    mem.control.iter().chain(mem.pages)
}

impl Found {
    /// Of one of the ways to leave it.
    fn new(kind: usize) -> Self {
        let overflow = if kind % 2 == 0 { Overflow::Block } else { Overflow::DropOldest };
        let (killed, turned) = (kind & 2 != 0, kind & 4 != 0);
        let heap = Heap::new(layout(overflow, 2 + kind % 3 / 2), 0);
        let mem = heap.memory();
        let known = Known { page_limit: PAGE_LIMIT_STEP, era: 0, head: 0, clean: false };
        let mut user = open(mem, known, kind & 8 == 0).expect("a new channel");
        user.sent = 0;
        let (a, b, c) = (group(&user, "a").unwrap(), group(&user, "b").unwrap(), group(&user, "c").unwrap());
        for round in 0..if turned { 9 } else { 3 } {
            user.send(3);
            user.send(1);
            user.drain(a, round == 1);
            user.drain(b, false);
            user.drain(c, false);
        }
        let Ok(()) = c.remove(&user.ring(), synced);
        user.send(3);
        user.send(1);
        let mut hand = user.hand(a);
        // Done, given back, and what is behind them.
        let first = user.receive(a, &mut hand, Want::Message).unwrap();
        let second = user.receive(a, &mut hand, Want::Lease).unwrap();
        a.ack(&first).0.unwrap();
        a.give_back(&second).unwrap();
        user.send(2);
        if killed {
            let mut hand = user.hand(b);
            let first = user.receive(b, &mut hand, Want::Message).unwrap();
            b.say_done(&first);
            assert_eq!(b.extend(&mut hand), Extended::Claimed);
            user.receive(b, &mut hand, Want::Lease).unwrap();
            // Several that went out together: one is done, and one was taken out of what is left.
            if !user.drops_oldest() {
                let mut hand = user.hand(a);
                hand.seen_returns = Some(a.returns().load(Relaxed));
                let first = user.receive(a, &mut hand, Want::Several).unwrap();
                a.extend_over(&first, 9).expect("there are others");
                let several = user.several(a, first);
                assert_eq!(a.finish_one(&several[1]), None);
                a.leave(&first);
                user.receive(a, &mut hand, Want::Lease).unwrap();
            }
            let ring = user.ring();
            let head = ring.head().page;
            let place = mem.layout.place(head);
            let mut cell = OpCell::reserving(mem, user.me, place).unwrap();
            if let Some(reserved) = ring.page(head).reserve(2, 10) {
                cell.holds(head << 20 | reserved.index as u64, 2);
            }
            std::mem::forget(cell);
            std::mem::forget(OpCell::reserving(mem, user.me, place));
            let mut turning = OpCell::taken(mem, user.me).unwrap();
            turning.turning(head);
            std::mem::forget(turning);
            let cell = ClaimCell::new(mem, b.number(), 3);
            if let Some(word) = cell.take(user.me.index, Kind::Message, 0) {
                cell.intend(word, head << 20, 5, false);
            }
            mem.sleepers()[0].store(3, Relaxed);
        } else {
            close(&user);
        }
        let check = clean::seal(mem);
        let known = Known {
            page_limit: mem.page_limit().load(Relaxed),
            era: mem.era().load(Relaxed),
            head: mem.head().load(Relaxed),
            clean: !killed,
        };
        let words: Vec<u64> = words(mem).map(|w| w.load(Relaxed)).collect();
        // The first words of each line in use, and the tables of the pages.
        let skip = 2 * 512;
        let in_use = |at: &usize| *at >= skip && (words[*at] != 0 || at % 16 < 2 && *at > skip);
        let likely = (0..words.len()).filter(in_use).map(|at| at as u32).collect();
        Self { heap, words, likely, known, check }
    }

    /// Where a word lies.
    fn said(&self, at: usize) -> String {
        let l = self.heap.memory().layout;
        let control = self.heap.memory().control.len();
        let lines: [(&str, usize); 5] = [
            ("open", l.opens),
            ("op cell", l.op_cells),
            ("group line", l.group_lines),
            ("group entry", l.group_entries),
            ("claim cell", l.claim_cells),
        ];
        match at.checked_sub(control) {
            Some(at) if at % PAGE_WORDS >= l.data_at(0) => {
                format!("place {}, record area {}", at / PAGE_WORDS, at % PAGE_WORDS - l.data_at(0))
            }
            Some(at) if at % PAGE_WORDS >= l.slot_at(0) => {
                format!("place {}, slot {}", at / PAGE_WORDS, at % PAGE_WORDS - l.slot_at(0))
            }
            Some(at) => format!("place {}, line {}, word {}", at / PAGE_WORDS, at % PAGE_WORDS / 16, at % 16),
            None => match lines.iter().rev().find(|(_, from)| at >= *from) {
                Some((what, from)) => format!("{what}s, line {}, word {}", (at - from) / 16, (at - from) % 16),
                None => format!("block {}, line {}, word {}", at / 512, at % 512 / 16, at % 16),
            },
        }
    }

    /// Puts everything back.
    fn reset(&self) {
        let mem = self.heap.memory();
        for (word, value) in words(mem).zip(&self.words) {
            word.store(*value, Relaxed);
        }
        mem.wake.iter().for_each(|word: &AtomicU32| word.store(0, Relaxed));
    }
}

thread_local! {
    static BODIES: Vec<Vec<u8>> = (0..50).map(|n| [block(), body(n, 8 + n as usize)].concat()).collect();
    static FOUND: Vec<Found> = (0..16).map(Found::new).collect();
    static CHANGED: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn run(found: &Found, input: &mut Input<'_>) -> bool {
    found.reset();
    let mem = found.heap.memory();
    let orders = input.byte();
    let (control, len) = (mem.control.len(), found.words.len());
    let at = |at: usize| if at < control { &mem.control[at] } else { &mem.pages[at - control] };
    CHANGED.with_borrow_mut(Vec::clear);
    while !input.0.is_empty() {
        let place = input.place(&found.likely, len);
        let new = input.change(at(place).load(Relaxed), |other| found.words[other % len]);
        if std::env::var_os("SHOW").is_some() {
            let was = at(place).load(Relaxed);
            eprintln!("word {place} ({}): {was:#x} -> {new:#x}", found.said(place));
        }
        at(place).store(new, Relaxed);
        CHANGED.with_borrow_mut(|changed| changed.push(new));
    }
    // Half of those that were left clean have checks that are right for what was changed.
    let (mut known, mut check) = (found.known, found.check);
    if orders & 0x40 != 0 {
        (check, known.head) = (clean::seal(mem), mem.head().load(Relaxed));
    }
    let is_sound = !known.clean || clean::is_sound(mem, check);
    let Some(mut user) = open(mem, known, is_sound) else { return false };
    use_it(&mut user, orders);
    close(&user);
    // What an open leaves is in order.
    assert!(found::fits(mem), "what was left does not fit");
    let mut user = open(mem, known, true).unwrap();
    if orders & 1 != 0 {
        use_it(&mut user, orders >> 1);
    }
    true
}

fn use_it(user: &mut User<'_>, orders: u8) {
    if orders & 2 != 0 {
        let _ = user.ring().close();
    }
    let names = ["a", "b", "c"];
    let groups = names.map(|name| group(user, name));
    for lap in 0..1 + orders / 0x20 % 2 {
        for (i, group) in groups.into_iter().flatten().enumerate() {
            // One that is kept while the ring goes round.
            let mut hand = user.hand(group);
            let kept = user.receive(group, &mut hand, Want::Message);
            let kept = kept.filter(|_| !user.drops_oldest() && orders & 4 != 0);
            let bytes = kept.map(|claim| claim.record.payload(user.mem).to_vec());
            user.drain(group, lap == 0);
            let run = 1 + (orders as usize >> 3) % 3;
            for _ in 0..MOST_SENDS / run {
                if user.send(run).is_none() {
                    break;
                }
            }
            if let (Some(claim), Some(bytes)) = (kept, bytes) {
                user.expect_unchanged(&claim, &bytes);
                let _ = if orders & 8 != 0 { group.give_back(&claim) } else { group.ack(&claim).0 };
            }
            if i == 0 {
                user.tend();
            }
        }
    }
    std::hint::black_box(user.look());
    // What is sent now comes to every group that has begun and has a cell for it.
    let sent = user.send(1);
    for group in groups.into_iter().flatten().filter(|group| group.is_current()) {
        user.highest = Offset::default();
        user.drain(group, false);
        let is_due = |sent: &Offset| group.start() <= *sent && group.held_and_returned() == [0; 3];
        if let Some(sent) = sent.filter(is_due) {
            assert_eq!(user.highest, sent, "group {} did not get the last message", group.number());
        }
    }
    if let Some(group) = groups[orders as usize % 3]
        && group.is_current()
    {
        let Ok(()) = group.remove(&user.ring(), synced);
    }
    if let Some(group) = group(user, "new") {
        user.send(1);
        user.drain(group, true);
    }
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let mut input = Input(data);
    let kind = usize::from(input.byte());
    FOUND.with(|found| {
        let found = &found[kind % found.len()];
        let file = found.words.len() * 8;
        match with_limit(file, || run(found, &mut input)) {
            true => Corpus::Keep,
            false => Corpus::Reject,
        }
    })
});
