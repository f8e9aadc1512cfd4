//! What memory allows: messages copied into a mapped ring by one thread, and out of it by another.

use std::fs::File;
use std::hint::spin_loop;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::thread::yield_now;

use memmap2::MmapRaw;
use xxhash_rust::xxh3::xxh3_64;

use super::Contestant;
use crate::grid::cell::Cell;
use crate::grid::messages::Tally;
use crate::grid::threads::{self, Inlet, Outcome, Outlet};

/// Bytes of the ring: those of disk_chan's when nothing is chosen.
const RING: u64 = 256 << 20;
/// Looks, with pauses that double, before a thread that waits lets others go first: as many as a blocking receive of
/// disk_chan makes before it sleeps.
const SPINS: u32 = 7;
/// Parts of the ring in which its room is given back.
const PARTS: u64 = 16;

/// Records of one size: the length word, which publishes the record, the checksum word, the bytes. The length word
/// has the lap in its upper half, so that none has to be cleared.
struct Ring {
    map: MmapRaw,
    /// Bytes of a record.
    stride: u64,
    /// Records.
    capacity: u64,
    checked: bool,
    /// Records that the reader is done with.
    done: AtomicU64,
}

pub struct Limit {
    cell: Cell,
    ring: Arc<Ring>,
    /// Where the next run begins.
    next: u64,
}

impl Limit {
    pub fn new(cell: Cell, dir: &Path, checked: bool) -> Self {
        let file = File::options().read(true).write(true).create_new(true).open(dir.join("limit")).unwrap();
        file.set_len(RING).unwrap();
        let map = MmapRaw::map_raw(&file).unwrap();
        let stride = 16 + cell.size.next_multiple_of(8) as u64;
        let ring = Ring { map, stride, capacity: RING / stride, checked, done: AtomicU64::new(0) };
        Limit { cell, ring: Arc::new(ring), next: 0 }
    }
}

impl Contestant for Limit {
    /// Once round the ring.
    fn warm(&mut self) {
        self.run(self.ring.capacity);
    }

    fn run(&mut self, messages: u64) -> Outcome {
        let (ring, next) = (&self.ring, self.next);
        let writer = Writer { ring: ring.clone(), next, room_until: next + ring.capacity };
        let reader = Reader { ring: ring.clone(), next, buffer: vec![0; self.cell.size] };
        // The messages and the end.
        self.next += messages + 1;
        let outcome = threads::run(&self.cell, messages, vec![writer], vec![reader], || {});
        self.ring.done.store(self.next, Relaxed);
        outcome
    }
}

/// Waits as disk_chan's receiver does, but for the sleep.
fn wait_until(mut ready: impl FnMut() -> bool) {
    let mut looks = 0;
    while !ready() {
        if looks < SPINS {
            (0..1 << looks).for_each(|_| spin_loop());
            looks += 1;
        } else {
            yield_now();
        }
    }
}

impl Ring {
    fn place(&self, record: u64) -> *mut u8 {
        let at = record % self.capacity * self.stride;
        self.map.as_mut_ptr().wrapping_add(at as usize)
    }

    /// What the length word of a published record is.
    fn published(&self, record: u64, len: usize) -> u64 {
        (record / self.capacity + 1) << 32 | len as u64
    }

    fn length_word(&self, record: u64) -> &AtomicU64 {
        // SAFETY: `place` is in the map, at a multiple of 8, with a record's bytes behind it, and the map lives as long
        // as `self`. This word is accessed as an atomic alone.
        unsafe { AtomicU64::from_ptr(self.place(record).cast()) }
    }

    /// Publishes a record. Only for the writer, of a record whose place the reader has given back.
    fn write(&self, record: u64, message: &[u8]) {
        assert!(16 + message.len() as u64 <= self.stride);
        let place = self.place(record);
        let checksum = if self.checked { xxh3_64(message) } else { 0 };
        // SAFETY: the checksum word and the bytes are in the record, by the assertion, and the reader reads them only
        // after the store of the length word below: until then it has given the place back.
        unsafe { place.add(8).cast::<u64>().write(checksum) };
        // SAFETY: as above.
        unsafe { place.add(16).copy_from_nonoverlapping(message.as_ptr(), message.len()) };
        self.length_word(record).store(self.published(record, message.len()), Release);
    }

    /// Copies a published record. Only for the reader, before it gives the place back.
    fn read(&self, record: u64, buffer: &mut [u8]) {
        assert!(16 + buffer.len() as u64 <= self.stride);
        let place = self.place(record);
        // SAFETY: the word and the bytes are in the record, by the assertion, and the writer leaves them alone between
        // publishing the record, which the reader has seen, and the place being given back.
        let checksum = unsafe { place.add(8).cast::<u64>().read() };
        // SAFETY: as above.
        unsafe { place.add(16).copy_to_nonoverlapping(buffer.as_mut_ptr(), buffer.len()) };
        assert!(!self.checked || checksum == xxh3_64(buffer), "record {record} is altered");
    }
}

struct Writer {
    ring: Arc<Ring>,
    next: u64,
    room_until: u64,
}

impl Outlet for Writer {
    fn send(&mut self, message: &[u8]) {
        if self.next == self.room_until {
            wait_until(|| {
                self.room_until = self.ring.done.load(Acquire) + self.ring.capacity;
                self.next < self.room_until
            });
        }
        self.ring.write(self.next, message);
        self.next += 1;
    }
}

struct Reader {
    ring: Arc<Ring>,
    next: u64,
    buffer: Vec<u8>,
}

impl Inlet for Reader {
    fn receive(&mut self, _: usize, tally: &mut Tally) {
        let word = self.ring.length_word(self.next);
        let lap = self.ring.published(self.next, 0) >> 32;
        let mut found = 0;
        wait_until(|| {
            found = word.load(Acquire);
            found >> 32 == lap
        });
        let bytes = &mut self.buffer[..found as u32 as usize];
        self.ring.read(self.next, bytes);
        tally.look(bytes);
        self.next += 1;
        if self.next.is_multiple_of(self.ring.capacity / PARTS) {
            self.ring.done.store(self.next, Release);
        }
    }
}
