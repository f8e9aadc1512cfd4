//! Durable: what was done before a sync began is on stable storage once that sync has returned.
//!
//! **Invariants.**
//! - A sync covers the pages, all of them: whatever any process has changed there, messages, acks and the
//!   places of groups alike. The kernel knows which blocks changed. Recovery needs nothing else but the
//!   header and the entries of groups, which are synced when they are written.
//! - Who asks takes the number of the sync after the last one that began, after what it wants to be
//!   covered. So who asks while one runs waits for the next, and all who do share that one.
//! - An open runs one sync at a time, on the thread of a blocking caller or on one of its own; nobody
//!   waits for another open's, nor for a send that has not ended.
//! - When a sync ends, those who waited for it are woken, and of those who wait for the next one who
//!   begins it; or the thread that ran it goes on, if it is one of the open's own. So as long as somebody
//!   waits, somebody syncs.
//! - A failed sync poisons the channel, in the file, before anybody hears of it. Nothing is tried again:
//!   the kernel takes what it could not write for written.
//! - `durable_end` is where the first place lay that was not settled when a sync began: all below is
//!   covered by it. It only rises.
#![forbid(unsafe_code)]

use crate::Offset;
use crate::error::SyncError;
use crate::layout::{PageState, SlotState};
use crate::off_thread;
use crate::ring::{Next, Ring};
use crate::shared::{Root, Shared};
use crossbeam_utils::CachePadded;
use std::future::poll_fn;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The syncs of one open.
#[derive(Debug, Default)]
pub struct Syncs {
    rounds: Mutex<Rounds>,
    /// The number of the last sync that ended well.
    ended: AtomicU64,
    /// What threads sleep on that wait for a sync of an even and of an odd number: it changes when that
    /// sync has ended, or wants to be begun.
    words: [CachePadded<AtomicU32>; 2],
    /// Nobody runs a sync.
    idle: Condvar,
    /// The timer has something to do.
    timer: Condvar,
    /// Whether something was done since the last sync that the timer ran.
    changed: AtomicBool,
    /// Messages sent since then.
    sent: CachePadded<AtomicU64>,
}

#[derive(Debug, Default)]
struct Rounds {
    /// The number of the last sync that began.
    begun: u64,
    running: bool,
    /// Those who wait for a sync of an even and of an odd number.
    waiting: [Waiting; 2],
    /// Orders for the timer: to end, and to sync at once.
    stop: bool,
    due: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Never more than there are.
    threads: usize,
    tasks: Vec<Waker>,
}

impl Rounds {
    /// The number of a sync that covers what the caller did before.
    fn next(&self) -> u64 {
        self.begun + 1
    }

    fn waiting_for(&mut self, number: u64) -> &mut Waiting {
        &mut self.waiting[(number % 2) as usize]
    }
}

impl Syncs {
    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn word(&self, number: u64) -> &AtomicU32 {
        &self.words[(number % 2) as usize]
    }

    fn has_ended(&self, number: u64) -> bool {
        self.ended.load(Acquire) >= number // ORDER[ended]
    }

    /// Notes that something changed, for the timer: `messages` were sent, or none and something else.
    #[inline]
    pub fn note(&self, messages: u64, max: u64) {
        if !self.changed.load(Relaxed) {
            self.changed.store(true, Relaxed);
        }
        let before = self.sent.fetch_add(messages, Relaxed);
        if before < max && before + messages >= max {
            self.lock().due = true;
            self.timer.notify_one();
        }
    }

    /// Has the timer end.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.timer.notify_one();
    }

    /// Waits until no sync runs.
    pub fn wait_until_idle(&self) {
        let idle = self.idle.wait_while(self.lock(), |rounds| rounds.running);
        drop(idle.unwrap_or_else(|e| e.into_inner()));
    }
}

/// One sync, by whoever has this. Dropped, another one can run, also if this one came to nothing.
struct Round {
    shared: Arc<Shared>,
    number: u64,
}

impl Round {
    /// Begins one, if none runs.
    fn begin(shared: &Arc<Shared>, rounds: &mut Rounds) -> Option<Self> {
        if std::mem::replace(&mut rounds.running, true) {
            return None;
        }
        rounds.begun += 1;
        Some(Self { shared: Arc::clone(shared), number: rounds.begun })
    }

    fn run(&self) {
        let shared = &self.shared;
        let (mem, began) = (shared.memory(), Instant::now());
        let end = settled_end(shared.ring(), Offset::from_u64(mem.durable_end().load(Acquire)));
        if shared.file.sync_pages().is_err() {
            shared.wake_everybody();
            return;
        }
        mem.durable_end().fetch_max(end.as_u64(), AcqRel);
        let [count, time] = mem.syncs();
        count.fetch_add(1, Relaxed); // statistics
        time.fetch_add(began.elapsed().as_micros() as u64, Relaxed);
        shared.syncs.ended.store(self.number, Release); // ORDER[ended]
    }

    /// Runs this one and those that are waited for when it ends, on a thread that is for that.
    fn run_on(self) {
        let shared = Arc::clone(&self.shared);
        let mut round = Some(self);
        while let Some(this) = round {
            this.run();
            drop(this);
            let mut rounds = shared.syncs.lock();
            let next = rounds.next();
            let waiting = rounds.waiting_for(next);
            let wanted = waiting.threads > 0 || !waiting.tasks.is_empty();
            round = (wanted && shared.usable().is_ok()).then(|| Self::begin(&shared, &mut rounds)).flatten();
        }
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        let syncs = &self.shared.syncs;
        let mut rounds = syncs.lock();
        rounds.running = false;
        let mut tasks = std::mem::take(rounds.waiting_for(self.number)).tasks;
        let next = rounds.waiting_for(self.number + 1);
        let failed = !syncs.has_ended(self.number);
        // A task that was woken may be gone: all of them, or a thread, which is there.
        if next.threads == 0 || failed {
            tasks.append(&mut next.tasks);
        }
        drop(rounds);
        for number in [self.number, self.number + 1] {
            let word = syncs.word(number);
            word.fetch_add(1, Release);
            if number == self.number || failed { atomic_wait::wake_all(word) } else { atomic_wait::wake_one(word) }
        }
        syncs.idle.notify_all();
        tasks.into_iter().for_each(Waker::wake);
    }
}

/// The first place from `from` on that is not settled.
fn settled_end(ring: Ring<'_>, from: Offset) -> Offset {
    let (mut number, mut index) = (from.page(), from.index() as usize);
    loop {
        let page = ring.page(number);
        let c = page.cursor();
        if page.number() == number && c.lap == ring.mem.layout.cursor_lap(number) {
            let end = c.count.min(ring.mem.layout.slots);
            while index < end && page.slot(number, index) != SlotState::Untouched {
                index += 1;
            }
            match ring.next(number) {
                Next::Page(next) if index >= end && c.state == PageState::Sealed => {
                    (number, index) = (next, 0);
                    continue;
                }
                Next::Gone => {}
                Next::Page(_) | Next::None => return Offset::new(number, index),
            }
        }
        // It was turned, or is being turned.
        let tail = ring.tail().page;
        if tail <= number {
            return Offset::new(number, index);
        }
        (number, index) = (tail, 0);
    }
}

impl Shared {
    /// Whether the sync of that number has ended, or never will.
    fn synced(&self, number: u64) -> Option<Result<(), SyncError>> {
        if self.syncs.has_ended(number) {
            return Some(Ok(()));
        }
        self.usable().err().map(|why| Err(why.into()))
    }

    /// Returns when everything done before is on stable storage; blocks the thread.
    pub fn blocking_sync(self: &Arc<Self>) -> Result<(), SyncError> {
        self.usable()?;
        let mut rounds = self.syncs.lock();
        let number = rounds.next();
        loop {
            if let Some(round) = Round::begin(self, &mut rounds) {
                drop(rounds);
                round.run();
                drop(round);
            } else {
                // Changed since, it does not sleep.
                let seen = self.syncs.word(number).load(Acquire);
                rounds.waiting_for(number).threads += 1;
                drop(rounds);
                if !self.syncs.has_ended(number) {
                    atomic_wait::wait(self.syncs.word(number), seen);
                }
            }
            if let Some(done) = self.synced(number) {
                return done;
            }
            rounds = self.syncs.lock();
            // It may be counted no more, or be counted again; too few are counted at worst, and wakes cost little.
            let threads = &mut rounds.waiting_for(number).threads;
            *threads = threads.saturating_sub(1);
        }
    }

    fn poll_sync(self: &Arc<Self>, number: &mut Option<u64>, cx: &Context<'_>) -> Poll<Result<(), SyncError>> {
        let mut rounds = self.syncs.lock();
        let number = *number.get_or_insert_with(|| rounds.next());
        if let Some(done) = self.synced(number) {
            return Poll::Ready(done);
        }
        rounds.waiting_for(number).tasks.push(cx.waker().clone());
        let round = Round::begin(self, &mut rounds);
        drop(rounds);
        if let Some(round) = round {
            off_thread::spawn(move || round.run_on());
        }
        Poll::Pending
    }

    /// Syncs as the durability of this open says, until it is stopped: what its thread does.
    pub fn sync_now_and_then(self: &Arc<Self>, every: Duration) {
        loop {
            let idle = |rounds: &mut Rounds| !rounds.stop && !rounds.due;
            let woken = self.syncs.timer.wait_timeout_while(self.syncs.lock(), every, idle);
            let (mut rounds, _) = woken.unwrap_or_else(|e| e.into_inner());
            let stop = rounds.stop;
            rounds.due = false;
            drop(rounds);
            // Before the sync: what is noted from here on is the next one's.
            self.syncs.sent.store(0, Relaxed);
            if self.syncs.changed.swap(false, AcqRel) && self.blocking_sync().is_err() {
                return; // every operation says why
            }
            if stop {
                return;
            }
        }
    }
}

/// Returns when everything done before is on stable storage.
pub async fn sync(root: &Root) -> Result<(), SyncError> {
    root.usable()?;
    let shared = root.shared();
    let mut number = None;
    tokio::task::coop::cooperative(poll_fn(|cx| shared.poll_sync(&mut number, cx))).await
}
