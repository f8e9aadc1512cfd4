//! The watcher: one thread for each open, started when somebody first sleeps whom it is to watch for.
//!
//! While somebody does it waits on the open's futex word in the file, at most 50 ms at a time, and then looks for
//! what a wake that never came would have told: messages, deaths, room. While nobody does it waits without limit.
//! All other sleepers wait on memory of the process without limit, but for one blocked thread, which watches for
//! itself (sleeper.rs).
#![forbid(unsafe_code)]

use crate::Offset;
use crate::file::now;
use crate::group::Group;
use crate::read::Found;
use crate::shared::{Shared, TICK};
use rustix::thread::futex;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Orders, beside the number of sleepers: to end, and to look at once.
const STOP: u32 = 1 << 31;
const NUDGE: u32 = 1 << 30;

fn tick() -> futex::Timespec {
    futex::Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) }
}

/// The thread, and what it is told.
#[derive(Debug, Default)]
pub struct Watcher {
    /// Sleepers that it watches for, and orders: what it waits on while idle.
    asleep: AtomicU32,
    /// Once it is started.
    pub thread: Mutex<Option<JoinHandle<()>>>,
}

impl Watcher {
    /// Somebody sleeps.
    pub fn begin(&self) {
        if self.asleep.fetch_add(1, SeqCst) == 0 {
            atomic_wait::wake_one(&self.asleep);
        }
    }

    /// Somebody sleeps no more.
    pub fn end(&self) {
        self.asleep.fetch_sub(1, SeqCst);
    }

    /// Has it look at once, if it is not waiting on the open's word.
    pub fn nudge(&self) {
        self.asleep.fetch_or(NUDGE, SeqCst);
        atomic_wait::wake_all(&self.asleep);
    }

    /// Has it end, if it is not waiting on the open's word.
    pub fn stop(&self) {
        self.asleep.fetch_or(STOP, SeqCst);
        atomic_wait::wake_all(&self.asleep);
    }
}

impl Shared {
    /// Starts the watcher, if it is not there.
    pub fn ensure_watcher(self: &Arc<Self>) {
        let mut watcher = self.watcher.thread.lock().unwrap_or_else(|e| e.into_inner());
        if watcher.is_none() {
            let shared = Arc::clone(self);
            let named = thread::Builder::new().name("disk_chan watcher".into());
            match named.spawn(move || shared.watch()) {
                Ok(handle) => *watcher = Some(handle),
                Err(error) => event!(warn, "no watcher: only wakes of this process arrive", error = error),
            }
        }
    }

    fn watch(&self) {
        let (mut groups, mut end) = (vec![None; self.memory().layout.geometry.max_groups], Offset::default());
        loop {
            let asleep = self.watcher.asleep.load(Acquire);
            if asleep & STOP != 0 {
                return;
            }
            if asleep == 0 {
                atomic_wait::wait(&self.watcher.asleep, 0);
                continue;
            }
            if self.file.read_only {
                // Nobody can wake it: it has no word in the file.
                self.look_for_readers(self.has_handles() && !self.ring().head().closed, &mut end);
                let _ = futex::wait(&self.watcher.asleep, futex::Flags::PRIVATE, asleep, Some(&tick()));
                continue;
            }
            self.watcher.asleep.fetch_and(!NUDGE, SeqCst);
            let armed = self.arm();
            self.look(&mut groups, &mut end);
            if self.watcher.asleep.load(SeqCst) & STOP == 0 {
                let _ = futex::wait(self.own_word(), futex::Flags::empty(), armed, Some(&tick()));
            }
        }
    }

    /// Whether the open has ended: a waker that the watcher woke may have dropped the last handle.
    pub fn has_ended(&self) -> bool {
        self.watcher.asleep.load(SeqCst) & STOP != 0
    }

    /// Wakes the readers if the first of them has something to read, or the ring has gone on, or nobody is left who
    /// could send.
    fn look_for_readers(&self, connected: bool, end: &mut Offset) {
        if self.reader_list().is_empty() || self.has_ended() {
            return;
        }
        let at = self.readers_at().load(SeqCst);
        let has_more = || at != u64::MAX && !matches!(self.ring().find(Offset::from_u64(at)), Found::End(_));
        let before = std::mem::replace(end, self.ring().end());
        if !connected || *end != before || has_more() {
            // Before they are woken: who says where it stands after this finds it in the list the next time.
            self.readers_at().store(u64::MAX, SeqCst);
            self.reader_list().wake_all();
        }
    }

    /// What a wake that never came would have told. `groups` is which groups there were last time, `end` where the
    /// ring ended then.
    fn look(&self, groups: &mut [Option<u64>], end: &mut Offset) {
        let ring = self.ring();
        if let Err(error) = self.file.raise_page_limit() {
            event!(warn, "the limit of page numbers could not be raised", error = error);
        }
        self.tend_a_share();
        if !self.file.is_poisoned() {
            self.expire();
        }
        let connected = self.has_handles() && !ring.head().closed && !self.file.is_poisoned();
        for (number, known) in groups.iter_mut().enumerate() {
            let list = self.group_list(number);
            let now = Group::at(ring.mem, number).map(|g| g.state());
            let before = std::mem::replace(known, now);
            if list.is_empty() {
                continue;
            }
            if self.has_ended() {
                return;
            }
            if before != now {
                list.wake_all();
                continue;
            }
            match Group::at(ring.mem, number).filter(|g| connected && !g.is_removed()) {
                None => drop(list.wake_all()),
                Some(group) if group.starved().load(SeqCst) != 0 => drop(list.wake_all()),
                Some(group) if group.has_more(&ring) => drop(list.wake_one()),
                Some(_) => {}
            }
        }
        self.look_for_readers(connected, end);
        if !self.has_ended() {
            // Who waits for a change of holders waits for deaths in other files, too: each looks for itself.
            self.moves_list().wake_all();
        }
        if !self.room_list().is_empty() && !self.has_ended() {
            let head = ring.head();
            if head.closed || self.file.is_poisoned() || ring.advance(head.page, now()).is_ok() {
                self.room_list().wake_all();
            }
        }
    }
}
