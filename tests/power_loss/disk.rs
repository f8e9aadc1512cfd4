//! What is on a disk when the power goes.
//!
//! The disk has a *base*, and a log of the stores since, sector by sector. Stores, and the beginnings and
//! ends of syncs, are numbered together: a *position* is a moment between two of them. When the power
//! goes at a position, each sector is what some number of its stores have made of it: at least those that
//! came before the beginning of a sync which ended before that position, at most those before that
//! position. Nothing else connects one sector with another.
//!
//! A sync that failed has promised nothing, and what it was to write may count as written from then on
//! though it is not: a block that it gave up is not written by later syncs, unless it was stored to since.

use super::rng::Rng;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// What a drive writes whole, nearly always.
pub const SECTOR: usize = 512;
/// What the kernel writes.
pub const BLOCK: usize = 4096;
const WORDS: usize = SECTOR / 8;
const CHUNK: usize = 64;
/// Longest that a thread is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[derive(Clone, Copy, Debug)]
struct Store {
    seq: u64,
    word: u16,
    value: u64,
}

#[derive(Clone, Debug)]
struct Synced {
    begin: u64,
    end: u64,
    sectors: Range<usize>,
}

/// A sync that was called and has not returned.
#[derive(Clone, Debug)]
struct Flight {
    ticket: u64,
    verdict: Option<Result<(), i32>>,
}

#[derive(Debug)]
struct State {
    base: Vec<u8>,
    sectors: Vec<Vec<Store>>,
    now: u64,
    syncs: Vec<Synced>,
    /// The first sector of the pages, which are the last part of the file.
    pages: usize,
    /// The beginning of the last sync of all pages that is in the base.
    floor: u64,
    flights: Vec<Flight>,
    /// Syncs that failed.
    failed: u64,
    /// Blocks given up by failed syncs, and when.
    lost: Vec<(usize, u64)>,
    /// Whether syncs of other threads wait for the driver.
    gated: bool,
    /// How many syncs still succeed before one fails, and how.
    fail: Option<(u32, i32, Rng)>,
    dead: bool,
}

/// The disk under one file.
#[derive(Debug)]
pub struct Disk {
    /// Device and inode of the file.
    pub id: (u64, u64),
    /// Bytes that are void after a power loss.
    wake: Range<usize>,
    driver: ThreadId,
    state: Mutex<State>,
    changed: Condvar,
}

/// Which versions an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing that was not synced.
    Old,
    /// Everything.
    New,
    /// Everything up to some moment.
    Cut,
    /// Each block, or each sector, as it happens.
    Random,
    /// Neighbours alike.
    Runs,
    /// Each 64 bytes as it happens.
    Torn,
    /// Sectors that were not synced may be zeros.
    Zeros,
}

/// A sector that was stored to and not synced: how many of its stores are on the disk for certain, how
/// many there were, and how many an image has of them.
#[derive(Clone, Copy, Debug)]
pub struct Dirty {
    pub sector: usize,
    pub low: usize,
    pub high: usize,
    pub has: usize,
}

/// What may be on a disk.
#[derive(Debug)]
pub struct Image {
    pub bytes: Vec<u8>,
    pub dirty: Vec<Dirty>,
    /// Whether any was zeroed.
    pub zeroed: bool,
}

impl Disk {
    /// A disk that holds these bytes.
    pub fn new(id: (u64, u64), base: Vec<u8>, wake: Range<usize>) -> Self {
        let state = State {
            sectors: vec![Vec::new(); base.len() / SECTOR],
            pages: wake.end / SECTOR,
            base,
            now: 1,
            syncs: Vec::new(),
            floor: 0,
            flights: Vec::new(),
            failed: 0,
            lost: Vec::new(),
            gated: false,
            fail: None,
            dead: false,
        };
        Self { id, wake, driver: thread::current().id(), state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn bytes(&self) -> usize {
        self.state().base.len()
    }

    /// Now: behind everything that has happened.
    pub fn position(&self) -> u64 {
        self.state().now
    }

    /// Nothing that happens from now on is of any matter.
    pub fn kill(&self) {
        self.state().dead = true;
        self.changed.notify_all();
    }

    /// Makes a store and logs it.
    pub fn store<R>(&self, word: usize, op: impl FnOnce() -> (R, Option<u64>)) -> R {
        let mut state = self.state();
        let (result, stored) = op();
        if let Some(value) = stored.filter(|_| !state.dead) {
            let seq = state.tick();
            state.sectors[word / WORDS].push(Store { seq, word: (word % WORDS) as u16, value });
        }
        result
    }

    /// A sync of some bytes, by the shipped code.
    pub fn sync(&self, bytes: Range<usize>) -> Result<(), i32> {
        let mut state = self.state();
        if state.dead {
            return Ok(());
        }
        let begin = state.tick();
        let mut verdict = None;
        if state.gated && thread::current().id() != self.driver {
            state.flights.push(Flight { ticket: begin, verdict: None });
            self.changed.notify_all();
            while !state.dead {
                let flight = state.flights.iter().find(|f| f.ticket == begin);
                verdict = flight.and_then(|f| f.verdict);
                if verdict.is_some() {
                    break;
                }
                state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            }
        }
        let verdict = verdict.unwrap_or_else(|| state.next_verdict());
        let blocks = bytes.start / BLOCK..bytes.end.div_ceil(BLOCK);
        let end = state.tick();
        match verdict {
            Ok(()) => {
                let per_block = BLOCK / SECTOR;
                let sectors = blocks.start * per_block..(blocks.end * per_block).min(state.sectors.len());
                state.syncs.push(Synced { begin, end, sectors });
            }
            Err(_) => {
                state.failed += 1;
                state.give_up(end);
            }
        }
        state.flights.retain(|f| f.ticket != begin);
        self.changed.notify_all();
        verdict
    }

    /// Has syncs of other threads wait until they are let go.
    pub fn gate(&self, gated: bool) {
        self.state().gated = gated;
    }

    /// Syncs that wait to be let go.
    pub fn waiting(&self) -> usize {
        self.state().flights.len()
    }

    /// How many syncs have failed.
    pub fn failed(&self) -> u64 {
        self.state().failed
    }

    /// Lets the oldest sync that waits go on, and waits until it has.
    pub fn let_go(&self, verdict: Result<(), i32>) {
        let mut state = self.state();
        let flight = state.flights.first_mut().expect("a sync waits");
        flight.verdict = Some(verdict);
        let ticket = flight.ticket;
        self.changed.notify_all();
        let deadline = Instant::now() + PATIENCE;
        while state.flights.iter().any(|f| f.ticket == ticket) {
            assert!(Instant::now() < deadline, "a sync does not return");
            state = self.changed.wait_timeout(state, PATIENCE).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Waits for something that other threads do.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            let state = self.state();
            drop(self.changed.wait_timeout(state, Duration::from_micros(200)));
        }
    }

    /// After so many syncs one fails.
    pub fn fail_after(&self, syncs: u32, error: i32, rng: Rng) {
        self.state().fail = Some((syncs, error, rng));
    }

    /// The moments right before a sync ended, and right after.
    pub fn ends_of_syncs(&self, from: u64) -> Vec<u64> {
        let state = self.state();
        let ends = state.syncs.iter().filter(|s| s.end >= from);
        ends.flat_map(|s| [s.end, s.end + 1]).collect()
    }

    /// No sync fails from now on.
    pub fn fail_no_more(&self) {
        self.state().fail = None;
    }

    /// Where the last sync of all pages began that had ended at `at`: what was stored there before is there.
    pub fn synced_before(&self, at: u64) -> u64 {
        self.state().synced_before(at)
    }

    /// Forgets what no image at `from` or later can tell.
    pub fn trim(&self, from: u64) {
        let mut state = self.state();
        let state = &mut *state;
        if !state.lost.is_empty() {
            return;
        }
        let low = state.low(from);
        for (sector, stores) in state.sectors.iter_mut().enumerate() {
            let n = stores.partition_point(|s| s.seq < low[sector]);
            for store in stores.drain(..n) {
                apply(&mut state.base, sector, store);
            }
        }
        state.floor = state.synced_before(from);
        state.syncs.retain(|s| s.end >= from);
    }

    /// The sectors that may be old when the power goes at `at`.
    pub fn dirty(&self, at: u64) -> Vec<Dirty> {
        let state = self.state();
        state.dirty(&state.low(at), at)
    }

    /// What may be there when the power goes at `at`.
    pub fn compose(&self, at: u64, mode: Mode, rng: &mut Rng) -> Image {
        let state = self.state();
        let low = state.low(at);
        let mut image = Image { bytes: state.settled(&low, at), dirty: state.dirty(&low, at), zeroed: false };
        let random = |rng: &mut Rng, d: &Dirty| match rng.below(10) {
            0..4 => d.low,
            4..7 => d.high,
            _ => rng.between(d.low as u64, d.high as u64) as usize,
        };
        let by_time =
            |d: &Dirty, cut: u64| state.sectors[d.sector].partition_point(|s| s.seq < cut).clamp(d.low, d.high);
        let some_time = |rng: &mut Rng, dirty: &[Dirty]| match rng.below(10) {
            0..3 => 0,
            3..6 => at,
            _ => {
                let d = &dirty[rng.index(dirty.len())];
                state.sectors[d.sector][rng.between(d.low as u64, d.high as u64 - 1) as usize].seq + rng.below(2)
            }
        };
        let mut dirty = std::mem::take(&mut image.dirty);
        let all = dirty.clone();
        let (mut block, mut cut) = (usize::MAX, None);
        for (i, d) in dirty.iter_mut().enumerate() {
            d.has = match mode {
                Mode::Old => d.low,
                Mode::New => d.high,
                Mode::Torn => d.low, // and then some
                Mode::Cut => {
                    if i == 0 {
                        cut = Some(some_time(rng, &all));
                    }
                    by_time(d, cut.unwrap_or(at))
                }
                Mode::Random | Mode::Zeros => {
                    if d.sector * SECTOR / BLOCK != block {
                        block = d.sector * SECTOR / BLOCK;
                        let here = all[i..].iter().take_while(|d| d.sector * SECTOR / BLOCK == block).count();
                        cut = rng.percent(70).then(|| some_time(rng, &all[i..i + here]));
                    }
                    cut.map_or_else(|| random(rng, d), |cut| by_time(d, cut))
                }
                Mode::Runs => {
                    if i == 0 || rng.percent(20) {
                        cut = Some(some_time(rng, &all));
                    }
                    by_time(d, cut.unwrap_or(at))
                }
            };
        }
        for d in &dirty {
            let stores = &state.sectors[d.sector];
            for &store in &stores[d.low..d.has] {
                apply(&mut image.bytes, d.sector, store);
            }
            if mode == Mode::Torn {
                let has: [usize; SECTOR / CHUNK] = std::array::from_fn(|_| random(rng, d));
                for (i, &store) in stores.iter().enumerate().take(d.high).skip(d.low) {
                    if i < has[usize::from(store.word) * 8 / CHUNK] {
                        apply(&mut image.bytes, d.sector, store);
                    }
                }
            }
            if mode == Mode::Zeros && rng.percent(15) {
                image.bytes[d.sector * SECTOR..][..SECTOR].fill(0);
                image.zeroed = true;
            }
        }
        image.dirty = dirty;
        self.void_wake_words(&mut image.bytes, rng);
        image
    }

    /// The image in which each dirty sector is new if its bit is set, else old.
    pub fn compose_bits(&self, at: u64, bits: u64, rng: &mut Rng) -> Image {
        let state = self.state();
        let low = state.low(at);
        let mut image = Image { bytes: state.settled(&low, at), dirty: state.dirty(&low, at), zeroed: false };
        for (i, d) in image.dirty.iter_mut().enumerate() {
            d.has = if bits >> i & 1 == 1 { d.high } else { d.low };
            for &store in &state.sectors[d.sector][d.low..d.has] {
                apply(&mut image.bytes, d.sector, store);
            }
        }
        self.void_wake_words(&mut image.bytes, rng);
        image
    }

    fn void_wake_words(&self, bytes: &mut [u8], rng: &mut Rng) {
        let garbage = rng.percent(50);
        for word in bytes[self.wake.clone()].as_chunks_mut::<8>().0 {
            *word = if garbage { rng.next().to_le_bytes() } else { [0; 8] };
        }
    }

    /// Whether the file has what was logged, but for the wake words: that nothing is stored behind the
    /// simulator's back.
    pub fn agrees(&self, file: &[u8]) -> Result<(), String> {
        let state = self.state();
        let mut bytes = state.base.clone();
        for (sector, stores) in state.sectors.iter().enumerate() {
            stores.iter().for_each(|&s| apply(&mut bytes, sector, s));
        }
        let differs = |i: &usize| !self.wake.contains(i) && bytes[*i] != file[*i];
        match (0..bytes.len()).find(differs) {
            None => Ok(()),
            Some(i) => Err(format!("byte {i} was changed and not logged")),
        }
    }
}

fn apply(bytes: &mut [u8], sector: usize, store: Store) {
    let at = sector * SECTOR + usize::from(store.word) * 8;
    bytes[at..at + 8].copy_from_slice(&store.value.to_le_bytes());
}

impl State {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now - 1
    }

    fn next_verdict(&mut self) -> Result<(), i32> {
        match &mut self.fail {
            Some((0, error, _)) => Err(*error),
            Some((left, ..)) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Some blocks that were to be written never will be: of the whole file, as what could not be written in
    /// the background is told by the next sync, of whatever.
    fn give_up(&mut self, at: u64) {
        let mut rng = Rng(at);
        if let Some((_, _, own)) = &mut self.fail {
            rng = own.clone();
            own.next();
        }
        for block in 0..self.base.len() / BLOCK {
            if rng.percent(60) {
                self.lost.push((block, at));
            }
        }
        self.fail = None;
    }

    fn synced_before(&self, at: u64) -> u64 {
        if !self.lost.is_empty() {
            return self.floor;
        }
        let all = self.syncs.iter().filter(|s| s.end < at && self.has_all_pages(s));
        all.map(|s| s.begin).max().unwrap_or(0).max(self.floor)
    }

    fn has_all_pages(&self, sync: &Synced) -> bool {
        sync.sectors.start <= self.pages && sync.sectors.end == self.sectors.len()
    }

    /// For each sector, the position up to which it is on the disk when the power goes at `at`.
    fn low(&self, at: u64) -> Vec<u64> {
        let mut low = vec![0; self.sectors.len()];
        let mut pages = 0;
        for sync in self.syncs.iter().filter(|s| s.end < at) {
            let mut sectors = sync.sectors.clone();
            if self.lost.is_empty() && self.has_all_pages(sync) {
                pages = pages.max(sync.begin);
                sectors.end = self.pages;
            }
            for sector in sectors {
                if self.lost.is_empty() || self.wrote(sector * SECTOR / BLOCK, sync.begin) {
                    low[sector] = low[sector].max(sync.begin);
                }
            }
        }
        low[self.pages..].iter_mut().for_each(|l| *l = pages.max(*l));
        low
    }

    /// Whether a sync that began at `begin` wrote this block: it was not given up, or stored to since.
    fn wrote(&self, block: usize, begin: u64) -> bool {
        let given_up = self.lost.iter().filter(|(b, at)| *b == block && *at < begin).map(|(_, at)| *at).max();
        let Some(given_up) = given_up else { return true };
        let per_block = BLOCK / SECTOR;
        let sectors = &self.sectors[block * per_block..((block + 1) * per_block).min(self.sectors.len())];
        sectors.iter().flatten().any(|s| s.seq >= given_up && s.seq < begin)
    }

    fn dirty(&self, low: &[u64], at: u64) -> Vec<Dirty> {
        let sectors = self.sectors.iter().enumerate().filter(|(_, stores)| !stores.is_empty());
        let dirty = sectors.map(|(sector, stores)| {
            let high = stores.partition_point(|s| s.seq < at);
            let low = stores[..high].partition_point(|s| s.seq < low[sector]);
            Dirty { sector, low, high, has: low }
        });
        dirty.filter(|d| d.high > d.low).collect()
    }

    /// What is on the disk for certain.
    fn settled(&self, low: &[u64], at: u64) -> Vec<u8> {
        let mut bytes = self.base.clone();
        for (sector, stores) in self.sectors.iter().enumerate() {
            stores.iter().take_while(|s| s.seq < low[sector] && s.seq < at).for_each(|&s| apply(&mut bytes, sector, s));
        }
        bytes
    }
}
