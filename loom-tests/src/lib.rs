//! What the models share: a tiny channel on the heap, over the shipped protocol code.
//!
//! The models are in `tests/models/protocols.rs`; `mutants.sh` breaks one rule of the shipped code after the
//! other and expects the model named for it to fail.
#![cfg(disk_chan_loom)]
#![allow(missing_docs)]

use disk_chan::Overflow;
use disk_chan::claim::{Claim, Hand, Nothing, Want};
use disk_chan::group::Group;
use disk_chan::layout::{Geometry, LINE, Layout, ROW};
use disk_chan::map::Heap;
use disk_chan::opens::OpenId;
use disk_chan::ops::Liveness;
use disk_chan::page::Record;
use disk_chan::ring::{Refused, Ring, Sent};
use loom::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// When what was sent at 1 has expired, in a model in which messages do.
pub const LATER: u64 = 11;

/// One channel, with one group and one open.
pub struct Model {
    heap: Heap,
    me: OpenId,
    /// Another open; models hand it cells.
    pub other: OpenId,
    /// Whether that one is dead.
    pub other_is_dead: AtomicBool,
    group: u64,
}

impl Liveness for Model {
    fn is_dead(&self, open: usize) -> bool {
        open == 1 && self.other_is_dead.load(SeqCst)
    }
}

impl Model {
    /// Two pages of `slots` slots, with room for that many small records.
    pub fn new(slots: usize, overflow: Overflow) -> Self {
        Self::with_groups(slots, overflow, 1, 4)
    }

    /// The same with one row of claim cells behind the first three.
    pub fn with_row(slots: usize) -> Self {
        Self::with(slots, Overflow::Block, 1, 4, 2 * ROW, (2, 0))
    }

    pub fn with_groups(slots: usize, overflow: Overflow, max_groups: usize, max_op_cells: usize) -> Self {
        Self::with(slots, overflow, max_groups, max_op_cells, 2, (2, 0))
    }

    /// Messages are sent at 1, and have expired at [`LATER`].
    pub fn with_max_age(slots: usize, overflow: Overflow, max_pages: usize) -> Self {
        Self::with(slots, overflow, 1, 2, 1, (max_pages, LATER - 1))
    }

    fn with(
        slots: usize,
        overflow: Overflow,
        max_groups: usize,
        max_op_cells: usize,
        max_held: usize,
        (max_pages, max_age): (usize, u64),
    ) -> Self {
        let geometry = Geometry {
            page_size: 0,
            max_pages,
            typical_message_len: 0,
            max_groups,
            max_opens: 2,
            max_op_cells,
            max_held,
            overflow,
            max_age,
            lease_timeout: 1,
            max_attempts: 0,
        };
        // Header, one line for the cursor and one for the ack words of each group, slots, records.
        let tables = 4 * LINE + max_groups * 2 * LINE + slots.next_multiple_of(LINE);
        let layout = Layout::with_slots(geometry, tables + slots * 5, slots).unwrap();
        let heap = Heap::new(layout, 0);
        let (me, other) = (OpenId::attach(heap.memory(), 0), OpenId::attach(heap.memory(), 1));
        let mut model = Self { heap, me, other, other_is_dead: AtomicBool::new(false), group: 0 };
        model.group = Group::activate(&model.ring(), 0).state();
        model
    }

    pub fn ring(&self) -> Ring<'_> {
        Ring { mem: self.heap.memory(), live: self, me: self.me }
    }

    pub fn group(&self) -> Group<'_> {
        Group::of(self.heap.memory(), 0, self.group)
    }

    pub fn hand(&self) -> Hand {
        Hand::new(0, 0, 0)
    }

    /// Sends one byte.
    pub fn send(&self, byte: u8) -> Result<Sent, Refused> {
        self.send_at(byte, 1)
    }

    /// The same, at a time.
    pub fn send_at(&self, byte: u8, now: u64) -> Result<Sent, Refused> {
        self.ring().send(0, &[Record::new(&[byte], 0)], now)
    }

    pub fn send_all(&self, bytes: std::ops::Range<u8>) {
        for byte in bytes {
            self.send(byte).unwrap();
        }
    }

    /// One receive: the claim, and the byte.
    pub fn receive(&self, hand: &mut Hand, want: Want) -> Result<(Claim, u8), Nothing> {
        self.receive_at(hand, want, 1)
    }

    /// The same, at a time. Leases are overdue after 1.
    pub fn receive_at(&self, hand: &mut Hand, want: Want, now: u32) -> Result<(Claim, u8), Nothing> {
        let mut copy = Vec::new();
        let group = self.group();
        hand.now = now;
        group.receive(&self.ring(), hand, want, &mut copy, true)?;
        let claim = hand.claim;
        let byte = match self.heap.memory().layout.geometry.pins() && want != Want::Lease {
            true => self.byte(&claim),
            false => copy[0],
        };
        Ok((claim, byte))
    }

    /// The byte of a message where it lies.
    pub fn byte(&self, claim: &Claim) -> u8 {
        claim.record.payload(self.heap.memory())[0]
    }

    /// Whether a record was ever called damaged.
    pub fn damage_seen(&self) -> bool {
        (0..2).any(|page| self.ring().page(page).word(Layout::PAGE_DAMAGE_SEEN).load(SeqCst) != 0)
    }

    /// Everything that is left, finished as it comes. Called when the other threads are through.
    pub fn drain(&self) -> (Vec<u8>, u64) {
        let (mut hand, mut bytes, mut lost) = (self.hand(), Vec::new(), 0);
        loop {
            match self.receive(&mut hand, Want::Message) {
                Ok((claim, byte)) => {
                    self.group().ack(&claim).0.unwrap();
                    bytes.push(byte);
                }
                Err(Nothing::Lagged(n)) => lost += n,
                Err(Nothing::Empty | Nothing::End | Nothing::Unfinished) => return (bytes, lost),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

/// Explores a model with at most `preemptions` forced switches of threads, or as many as
/// `LOOM_MAX_PREEMPTIONS` says, for at most 25 seconds, or as many as `LOOM_MAX_DURATION` says. Two
/// of the models need longer than that to be exhausted; all mutants are found in a few seconds.
pub fn explore(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    builder.checkpoint_interval = 500; // so often it looks at the time
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_duration.get_or_insert(std::time::Duration::from_secs(25));
    builder.check(f);
}
