//! Durable: what was done before a sync began is on stable storage once that sync has returned.
//!
//! **Invariants.**
//! - A sync covers the pages, all of them: whatever any process has changed there, messages and acks
//!   alike. The kernel knows which blocks changed. Recovery needs nothing else but the header and the
//!   entries of groups, which are synced when they are written.
//! - Who asks takes the number of the sync after the last one that began, after what it wants to be
//!   covered. So who asks while one runs waits for the next, and all who do share that one.
//! - An open runs one sync at a time: on the thread of a blocking caller, or for tasks on the syncer, a
//!   thread of its own. Nobody waits for another open's, and no sync needs a send to end.
//! - Who is about to sync first waits a little for those whom the last sync released, that they join:
//!   for about half of the time that a sync takes, and if they do not come, not again for a while.
//! - When a sync ends, all who waited for it are woken; of the threads that wait for the next, one, which
//!   begins it; and the syncer, which begins it if tasks wait for it. Nobody who waits leaves before a sync
//!   with its number is over, but a task that is dropped. So as long as somebody waits, somebody syncs. Who
//!   finds that the sync it waited for came to nothing takes another number.
//! - A failed sync poisons the channel, in the file, before anybody hears of it. Nothing is tried again:
//!   the kernel takes what it could not write for written. In a poisoned channel a sync fails at once, and
//!   that is how those learn of it who wait.
//! - `durable_end` is where the first place lay that was not settled when a sync began: all below is
//!   covered by it. It only rises.
#![forbid(unsafe_code)]

use crate::Offset;
use crate::error::SyncError;
use crate::group::Group;
use crate::layout::{PageState, SlotState};
use crate::ring::{Next, Ring};
use crate::shared::{Root, Shared};
use crate::wait::wake;
use crossbeam_utils::CachePadded;
use std::future::poll_fn;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// For so long a sync is put off at most, give or take a turn of the scheduler. How soon callers come back
/// is a matter of the processor, not of the disk.
const MOST_PATIENCE: Duration = Duration::from_micros(250);
/// Syncs that are not put off after one was put off in vain.
const AT_ONCE: u32 = 15;
/// From so many bytes of records on, they are let go of before they are synced.
const LET_GO: usize = 64 << 10;

/// The syncs of one open.
#[derive(Debug, Default)]
pub struct Syncs {
    rounds: Mutex<Rounds>,
    /// Callers that wait for the next sync; changed with `rounds` locked.
    waiting: CachePadded<AtomicUsize>,
    /// The number of the last sync that ended well.
    ended: AtomicU64,
    /// What threads sleep on that wait for a sync of an even and of an odd number: it changes when that
    /// sync has ended, or wants to be begun.
    words: [CachePadded<AtomicU32>; 2],
    /// The syncer has something to do.
    work: Condvar,
    /// Whether something was done since the last sync of an interval began.
    changed: CachePadded<AtomicBool>,
    /// Messages sent since then.
    sent: CachePadded<AtomicU64>,
}

#[derive(Debug, Default)]
struct Rounds {
    /// The number of the last sync that began.
    begun: u64,
    stage: Stage,
    /// How long the last one took.
    took: Duration,
    /// So many callers are there, as the last sync saw it.
    expected: usize,
    /// So many syncs are not put off for them.
    at_once: u32,
    /// Where senders were when the last sync began: the page number, and the word of the record area.
    written: Option<(u64, usize)>,
    /// Tasks that wait for a sync of an even and of an odd number.
    tasks: [Vec<Waker>; 2],
    /// Orders for the syncer: to end, and to sync at once.
    stop: bool,
    due: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nobody syncs.
    #[default]
    Idle,
    /// The next sync is about to begin.
    Gathering,
    /// The last that began runs.
    Running,
}

impl Rounds {
    /// The number of a sync that covers what the caller did before.
    fn next(&self) -> u64 {
        self.begun + 1
    }

    /// Whether the sync of that number has begun and runs no more.
    fn is_over(&self, number: u64) -> bool {
        self.begun > number || self.begun == number && self.stage != Stage::Running
    }

    fn tasks(&mut self, number: u64) -> &mut Vec<Waker> {
        &mut self.tasks[(number % 2) as usize]
    }

    /// Whether the syncer has a sync to begin.
    fn is_wanted(&self) -> bool {
        self.stage == Stage::Idle && !self.tasks[(self.next() % 2) as usize].is_empty()
    }
}

impl Syncs {
    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The number of a sync that covers what the caller did before, and that it waits for.
    fn join(&self, rounds: &Rounds) -> u64 {
        self.waiting.fetch_add(1, Relaxed);
        rounds.next()
    }

    fn word(&self, number: u64) -> &AtomicU32 {
        &self.words[(number % 2) as usize]
    }

    fn has_ended(&self, number: u64) -> bool {
        self.ended.load(Acquire) >= number // ORDER[ended]
    }

    /// Notes that something changed, for the interval. What changed it ended with a `SeqCst`
    /// read-modify-write or fence.
    #[inline]
    pub fn note_change(&self) {
        // ORDER[changed] SeqCst: after the change. Either the swap in `take_changed` is seen here, or the
        // sync that follows it covers the change.
        if !self.changed.load(SeqCst) {
            self.changed.store(true, SeqCst);
        }
    }

    /// Notes that `messages` were sent; after `max` the syncer does not wait for the interval.
    #[inline]
    pub fn note_sent(&self, messages: u64, max: u64) {
        self.note_change();
        let before = self.sent.fetch_add(messages, Relaxed);
        if before < max && before + messages >= max {
            self.lock().due = true;
            self.work.notify_one();
        }
    }

    /// Whether something changed since this was last asked.
    pub fn take_changed(&self) -> bool {
        self.sent.store(0, Relaxed);
        self.changed.swap(false, SeqCst) // ORDER[changed]
    }

    /// Has the syncer end.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.work.notify_one();
    }
}

/// One sync, by whoever has this. Dropped, somebody else can sync, also if this came to nothing.
struct Round {
    shared: Arc<Shared>,
    number: u64,
    /// Callers that it covers.
    covered: usize,
}

impl Round {
    /// Makes the caller the one who syncs, if nobody does.
    fn claim(shared: &Arc<Shared>, rounds: &mut Rounds) -> Option<Self> {
        if rounds.stage != Stage::Idle {
            return None;
        }
        rounds.stage = Stage::Gathering;
        Some(Self { shared: Arc::clone(shared), number: rounds.next(), covered: 0 })
    }

    /// Waits a little for callers that may still join.
    fn gather(&self) {
        let syncs = &self.shared.syncs;
        let mut rounds = syncs.lock();
        let (expected, patience) = (rounds.expected, (rounds.took / 2).min(MOST_PATIENCE));
        if rounds.at_once > 0 {
            rounds.at_once -= 1;
            return;
        }
        drop(rounds);
        let start = Instant::now();
        while syncs.waiting.load(Relaxed) < expected {
            if start.elapsed() >= patience {
                syncs.lock().at_once = AT_ONCE;
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Begins: who comes from here on is not covered. Where senders were when the one before began.
    fn begin(&mut self) -> Option<(u64, usize)> {
        let syncs = &self.shared.syncs;
        let mut rounds = syncs.lock();
        rounds.stage = Stage::Running;
        rounds.begun = self.number;
        self.covered = syncs.waiting.swap(0, Relaxed);
        rounds.written.replace(self.shared.writing_at())
    }

    fn run(mut self) {
        self.gather();
        let since = self.begin();
        let (shared, began) = (&self.shared, Instant::now());
        let mem = shared.memory();
        // What was done before this sync was asked for.
        Group::all(mem).for_each(Group::settle);
        if let Some(since) = since {
            shared.let_go_of_what_was_written(since);
        }
        let end = settled_end(shared.ring(), Offset::from_u64(mem.durable_end().load(Acquire)));
        if shared.file.sync_pages().is_err() {
            return;
        }
        mem.durable_end().fetch_max(end.as_u64(), AcqRel);
        let [count, time] = mem.syncs();
        count.fetch_add(1, Relaxed); // statistics
        let took = began.elapsed();
        time.fetch_add(took.as_micros() as u64, Relaxed);
        shared.syncs.lock().took = took;
        shared.syncs.ended.store(self.number, Release); // ORDER[ended]
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        let syncs = &self.shared.syncs;
        let failed = !syncs.has_ended(self.number);
        let mut rounds = syncs.lock();
        rounds.stage = Stage::Idle;
        rounds.expected = self.covered + syncs.waiting.load(Relaxed);
        let tasks = std::mem::take(rounds.tasks(self.number));
        drop(rounds);
        let [this, next] = [self.number, self.number + 1].map(|number| syncs.word(number));
        this.fetch_add(1, Release);
        next.fetch_add(1, Release);
        atomic_wait::wake_all(this);
        atomic_wait::wake_one(next);
        syncs.work.notify_one();
        // Foreign code, and so only now: it may drop the last handle.
        tasks.into_iter().for_each(wake);
        if failed && !self.shared.has_ended() {
            self.shared.wake_everybody();
        }
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
    /// The page that senders write, and how far they have come in its record area.
    fn writing_at(&self) -> (u64, usize) {
        let ring = self.ring();
        let head = ring.head().page;
        (head, ring.page(head).cursor().units.min(ring.mem.layout.data_words))
    }

    /// Unmaps the records that were written `since`, by whomever, if they are many.
    ///
    /// Before the kernel writes a block it takes the right to store to it away from everybody who has it
    /// mapped, and has the cores told that may know of it: for each block anew. Of what is unmapped here they
    /// are told once for many; other mappings of the file gain nothing. Who wants the block again has it
    /// mapped anew: who stores to it would have to anyway, who reads it pays for that.
    fn let_go_of_what_was_written(&self, since: (u64, usize)) {
        let layout = self.memory().layout;
        let now = self.writing_at();
        let head = now.0;
        // No more pages than there are.
        let first = since.0.max((head + 1).saturating_sub(layout.geometry.max_pages as u64));
        let ranges = (first..=head).map(|number| {
            let from = if number == since.0 { since.1 } else { 0 };
            let to = if number == head { now.1 } else { layout.data_words };
            layout.bytes_of_records(layout.place(number), from..to.max(from))
        });
        if ranges.clone().map(|range| range.len()).sum::<usize>() >= LET_GO {
            ranges.for_each(|range| self.file.map.let_go(range));
        }
    }

    /// The number of the sync to wait for, by who waited for `number` or comes anew; none once that has ended.
    fn to_wait_for(&self, rounds: &Rounds, number: Option<u64>) -> Result<Option<u64>, SyncError> {
        match number {
            Some(number) if self.syncs.has_ended(number) => Ok(None),
            Some(number) if !rounds.is_over(number) => Ok(Some(number)),
            _ => {
                self.usable()?;
                Ok(Some(self.syncs.join(rounds)))
            }
        }
    }

    /// Returns when everything done before is on stable storage; blocks the thread.
    pub fn blocking_sync(self: &Arc<Self>) -> Result<(), SyncError> {
        // First: in the child of a fork the lock is another process's, and may be held there.
        self.usable()?;
        let mut number = None;
        loop {
            let mut rounds = self.syncs.lock();
            number = self.to_wait_for(&rounds, number)?;
            let Some(number) = number else { return Ok(()) };
            if let Some(round) = Round::claim(self, &mut rounds) {
                drop(rounds);
                round.run();
            } else {
                // Changed since, it does not sleep.
                let seen = self.syncs.word(number).load(Acquire);
                drop(rounds);
                atomic_wait::wait(self.syncs.word(number), seen);
            }
            if self.syncs.has_ended(number) {
                return Ok(());
            }
        }
    }

    /// What the syncer does, until it is stopped: the syncs that tasks wait for, and those of the interval.
    pub fn run_syncs(self: &Arc<Self>, interval: Option<Duration>) {
        let next = || interval.and_then(|every| Instant::now().checked_add(every));
        let mut deadline = next();
        loop {
            let mut rounds = self.syncs.lock();
            let is_late = |at: Option<Instant>| at.is_some_and(|at| Instant::now() >= at);
            while !rounds.stop && !rounds.due && !rounds.is_wanted() && !is_late(deadline) {
                let work = &self.syncs.work;
                rounds = match deadline {
                    None => work.wait(rounds).unwrap_or_else(|e| e.into_inner()),
                    Some(at) => {
                        let left = at.saturating_duration_since(Instant::now());
                        work.wait_timeout(rounds, left).unwrap_or_else(|e| e.into_inner()).0
                    }
                };
            }
            if rounds.stop {
                return;
            }
            if rounds.is_wanted() {
                let round = Round::claim(self, &mut rounds);
                drop(rounds);
                round.into_iter().for_each(Round::run);
                continue;
            }
            rounds.due = false;
            drop(rounds);
            deadline = next();
            // Before the sync: what is noted from here on is the next one's.
            if self.syncs.take_changed() && self.blocking_sync().is_err() {
                deadline = None; // every operation says why
            }
        }
    }
}

/// One task that waits for a sync: of what was done before it was first polled.
#[derive(Debug, Default)]
pub struct Wait {
    number: Option<u64>,
    /// Whom its end wakes.
    registered: Option<Waker>,
}

impl Wait {
    /// Ready when that is on stable storage.
    pub fn poll(&mut self, root: &Root, cx: &Context<'_>) -> Poll<Result<(), SyncError>> {
        // First: in the child of a fork nothing else is this process's. Who waits already hears of a poison
        // from a sync.
        if self.number.is_none() || root.is_inherited() {
            root.usable()?;
        }
        let shared = root.shared();
        // Before it is counted on: who runs a sync now may be the last that does.
        if !root.ensure_syncer() {
            return Poll::Ready(shared.blocking_sync()); // no thread can be had: then it is this one
        }
        // Foreign code: not with the lock held.
        let waker = cx.waker().clone();
        let known = self.registered.as_ref().is_some_and(|registered| registered.will_wake(&waker));
        let registered = if known { None } else { Some(waker.clone()) };
        let mut rounds = shared.syncs.lock();
        let before = self.number;
        self.number = shared.to_wait_for(&rounds, before)?;
        let Some(number) = self.number else { return Poll::Ready(Ok(())) };
        if !known || self.number != before {
            rounds.tasks(number).push(waker);
        }
        // If somebody syncs, its end tells the syncer.
        let is_wanted = rounds.is_wanted();
        drop(rounds);
        if is_wanted {
            shared.syncs.work.notify_one();
        }
        if !known {
            self.registered = registered;
        }
        Poll::Pending
    }
}

/// Returns when everything done before is on stable storage.
pub async fn sync(root: &Root) -> Result<(), SyncError> {
    let mut wait = Wait::default();
    tokio::task::coop::cooperative(poll_fn(|cx| wait.poll(root, cx))).await
}
