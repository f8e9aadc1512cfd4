//! Durable: what was done before a sync began is on stable storage once that sync has returned.
//!
//! **Invariants.**
//! - A sync is one `fdatasync` of the file: whatever any process has changed, messages, acks and the
//!   places of groups alike. The kernel knows which blocks changed.
//! - Who asks takes the number of the sync after the last one that began, after what it wants to be
//!   covered. So who asks while one runs waits for the next, and all who do share that one.
//! - An open runs one sync at a time, on the thread of a blocking caller or on one of its own; nobody
//!   waits for another open's, nor for a send that has not ended.
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
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The syncs of one open.
#[derive(Debug, Default)]
pub struct Syncs {
    rounds: Mutex<Rounds>,
    /// A round has ended, or nobody runs one.
    ended: Condvar,
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
    /// The number of the last sync that ended well.
    ended: u64,
    running: bool,
    wakers: Vec<Waker>,
    /// Orders for the timer: to end, and to sync at once.
    stop: bool,
    due: bool,
}

impl Syncs {
    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The number of a sync that covers what the caller did before.
    fn ticket(&self) -> u64 {
        self.lock().begun + 1
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
        let idle = self.ended.wait_while(self.lock(), |rounds| rounds.running);
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

    fn run(self) {
        let shared = &self.shared;
        let (mem, began) = (shared.memory(), Instant::now());
        let end = settled_end(shared.ring(), Offset::from_u64(mem.durable_end().load(Acquire)));
        if shared.file.sync().is_err() {
            shared.wake_everybody();
            return;
        }
        mem.durable_end().fetch_max(end.as_u64(), AcqRel);
        let [count, time] = mem.syncs();
        count.fetch_add(1, Relaxed); // statistics
        time.fetch_add(began.elapsed().as_micros() as u64, Relaxed);
        shared.syncs.lock().ended = self.number;
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        let mut rounds = self.shared.syncs.lock();
        rounds.running = false;
        let wakers = std::mem::take(&mut rounds.wakers);
        drop(rounds);
        self.shared.syncs.ended.notify_all();
        wakers.into_iter().for_each(Waker::wake);
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
    fn synced(&self, rounds: &Rounds, ticket: u64) -> Option<Result<(), SyncError>> {
        if rounds.ended >= ticket {
            return Some(Ok(()));
        }
        self.usable().err().map(|why| Err(why.into()))
    }

    /// Returns when everything done before is on stable storage; blocks the thread.
    pub fn blocking_sync(self: &Arc<Self>) -> Result<(), SyncError> {
        self.usable()?;
        let ticket = self.syncs.ticket();
        let mut rounds = self.syncs.lock();
        loop {
            if let Some(done) = self.synced(&rounds, ticket) {
                return done;
            }
            rounds = match Round::begin(self, &mut rounds) {
                Some(round) => {
                    drop(rounds);
                    round.run();
                    self.syncs.lock()
                }
                None => self.syncs.ended.wait(rounds).unwrap_or_else(|e| e.into_inner()),
            };
        }
    }

    fn poll_sync(self: &Arc<Self>, ticket: u64, cx: &Context<'_>) -> Poll<Result<(), SyncError>> {
        let mut rounds = self.syncs.lock();
        if let Some(done) = self.synced(&rounds, ticket) {
            return Poll::Ready(done);
        }
        rounds.wakers.push(cx.waker().clone());
        let round = Round::begin(self, &mut rounds);
        drop(rounds);
        if let Some(round) = round {
            off_thread::spawn(move || round.run());
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
    let ticket = shared.syncs.ticket();
    tokio::task::coop::cooperative(poll_fn(|cx| shared.poll_sync(ticket, cx))).await
}
