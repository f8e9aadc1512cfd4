//! Waiting: for a message, and for room.
//!
//! **Invariants.**
//! - A sleeper registers, says so in the file, and looks again; only then it sleeps. A waker
//!   changes the thing first and looks for sleepers after. So one of the two sees the other
//!   (`ORDER[sleep]`, a full fence on each side).
//! - The word in the file is a flag with a number: `{registrations 63, somebody sleeps 1}`. A waker
//!   that finds nobody lowers the flag only from exactly the word it read before it looked.
//! - The word of an open, which its watcher waits on, is odd while that wants to be woken, and every
//!   wake changes it: `{wakes 31, armed 1}`. Who waits arms it and then looks; who wakes changes the
//!   thing and then looks whether it is armed. So one of the two sees the other (`ORDER[arm]`), and one
//!   call does for all changes until it is armed again. Two may wait on one word: each waits for the
//!   value that it armed, and that never comes again.
//! - Sleepers wait on memory of their process: a list of wakers. A waker that is taken from the
//!   list and dropped unpolled passes the wake on.
//! - The list's lock is held for a few instructions, and only when somebody sleeps.
#![forbid(unsafe_code)]

use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, fence, full_fence_after_rmw};
use Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::collections::BTreeMap;
use std::task::Waker;

/// Says in the file that somebody is about to sleep. The caller looks again afterwards.
pub fn announce(flag: &AtomicU64) {
    let mut seen = flag.load(Relaxed); // the CAS decides
    loop {
        let to = ((seen >> 1).wrapping_add(1)) << 1 | 1;
        match flag.compare_exchange(seen, to, SeqCst, Relaxed) {
            Ok(_) => break,
            Err(other) => seen = other,
        }
    }
    // ORDER[sleep] SeqCst, with `anyone`: the flag is up before the sleeper looks again.
    fence(SeqCst);
}

/// Whether somebody may sleep: the flag word if so. The caller's last change was a `SeqCst`
/// read-modify-write, or came before one.
#[inline]
pub fn anyone(flag: &AtomicU64) -> Option<u64> {
    // ORDER[sleep] SeqCst, with `announce`: what the caller changed comes before this look.
    full_fence_after_rmw();
    let seen = flag.load(Relaxed);
    (seen & 1 == 1).then_some(seen)
}

/// Lowers the flag after finding nobody, unless somebody registered since `seen` was read.
pub fn nobody(flag: &AtomicU64, seen: u64) {
    let _ = flag.compare_exchange(seen, seen & !1, SeqCst, Relaxed);
}

const ARMED: u32 = 1;

/// Arms the word of an open: what it is until the next wake. The caller looks before it waits for that
/// to change.
pub fn arm(word: &AtomicU32) -> u32 {
    let armed = word.fetch_or(ARMED, SeqCst) | ARMED;
    // ORDER[arm] SeqCst, with `disarm`: armed before the look.
    fence(SeqCst);
    armed
}

/// Changes the word of an open if it is armed, after what is to be seen was changed. True if so: then
/// the caller makes the call that wakes who waits on it.
pub fn disarm(word: &AtomicU32) -> bool {
    // ORDER[arm] SeqCst, with `arm`: the change before this look.
    fence(SeqCst);
    let wake = |seen: u32| (seen & ARMED != 0).then(|| seen.wrapping_add(1));
    word.fetch_update(SeqCst, SeqCst, wake).is_ok()
}

/// Wakes. If the waker panics, that was told, and is not to cost the others their wake.
pub fn wake(waker: Waker) {
    #[cfg(not(disk_chan_loom))]
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
    #[cfg(disk_chan_loom)]
    waker.wake(); // a model's own panics come through here
}

/// The place of a waiter in a list; empty while it is not in one.
pub type Place = Option<u64>;

/// The sleepers of one kind in this process, in the order in which they came.
#[derive(Debug)]
pub struct WaitList {
    len: AtomicUsize,
    sleepers: Mutex<Sleepers>,
}

#[derive(Debug, Default)]
struct Sleepers {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Default for WaitList {
    fn default() -> Self {
        Self { len: AtomicUsize::new(0), sleepers: Mutex::new(Sleepers::default()) }
    }
}

impl WaitList {
    fn with<T>(&self, f: impl FnOnce(&mut Sleepers) -> T) -> T {
        // A panic cannot happen with the lock held, short of memory running out.
        let mut sleepers = self.sleepers.lock().unwrap_or_else(|e| e.into_inner());
        let out = f(&mut sleepers);
        self.len.store(sleepers.wakers.len(), Release);
        out
    }

    /// Puts a waiter at the end of the list, or, if it still stands there, renews its waker.
    pub fn register(&self, place: &mut Place, waker: &Waker) {
        let waker = waker.clone();
        let old = self.with(|s| {
            let key = match *place {
                Some(key) if s.wakers.contains_key(&key) => key,
                _ => {
                    s.next += 1;
                    s.next
                }
            };
            *place = Some(key);
            s.wakers.insert(key, waker)
        });
        drop(old); // a waker's drop is foreign code: not under the lock
    }

    /// Takes a waiter out. False if a wake had taken it out before, and so was spent on it.
    pub fn remove(&self, place: &mut Place) -> bool {
        let Some(key) = place.take() else { return true };
        let waker = self.with(|s| s.wakers.remove(&key));
        waker.is_some()
    }

    /// Whether nobody sleeps here.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len.load(Acquire) == 0
    }

    /// Wakes whoever has slept longest. False if there was nobody.
    pub fn wake_one(&self) -> bool {
        let first = self.with(|s| s.wakers.pop_first());
        first.map(|(_, waker)| wake(waker)).is_some()
    }

    /// Wakes all. False if there was nobody.
    pub fn wake_all(&self) -> bool {
        let all = self.with(|s| std::mem::take(&mut s.wakers));
        let any = !all.is_empty();
        all.into_values().for_each(wake);
        any
    }
}
