//! Those who wait: in a list of their process, and who wakes them if it is another process.
//!
//! Most are woken by the watcher of their open, which is a second hop. One blocked thread of each open
//! has the *seat*: it waits on the open's word in the file itself, at most a tick at a time, and looks
//! for itself each time. It is in its list as all others are, so threads of its process wake it as they
//! wake anybody; its waker changes the word.
#![forbid(unsafe_code)]

use crate::park;
use crate::shared::{RECEIVERS, Root, SENDERS, Shared, TICK};
use crate::wait::{self, Place, WaitList};
use rustix::thread::futex;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// One who waits in a list. Dropped, it stands there no more, and a wake that was spent on it goes
/// to the next.
#[derive(Debug)]
pub struct Sleeper {
    /// Set once it has registered.
    root: Option<Arc<Root>>,
    list: List,
    place: Place,
    /// Whether it has the seat, and the watcher need not watch for it.
    seated: bool,
    /// Since when it waits for room.
    since: Option<Instant>,
}

/// Which list it waits in.
#[derive(Clone, Copy, Debug)]
enum List {
    Group(usize),
    Room,
    Moves,
    Readers,
}

impl Sleeper {
    fn new(list: List) -> Self {
        Self { root: None, list, place: None, seated: false, since: None }
    }

    /// A receiver of a group.
    pub fn receiver(group: usize) -> Self {
        Self::new(List::Group(group))
    }

    /// A sender that waits for room.
    pub fn sender() -> Self {
        Self::new(List::Room)
    }

    /// A reader without a group.
    pub fn reader() -> Self {
        Self::new(List::Readers)
    }

    /// A receiver of several partitions, which waits for a change of their holders: in partition 0.
    pub fn of_moves() -> Self {
        Self::new(List::Moves)
    }

    fn kind(&self) -> usize {
        match self.list {
            List::Group(_) | List::Moves | List::Readers => RECEIVERS,
            List::Room => SENDERS,
        }
    }

    fn list<'r>(&self, root: &'r Root) -> &'r WaitList {
        match self.list {
            List::Group(group) => root.group_list(group),
            List::Room => root.room_list(),
            List::Moves => root.moves_list(),
            List::Readers => root.reader_list(),
        }
    }

    /// Waits from now on as a receiver of this group.
    pub fn wait_for_group(&mut self, group: usize) {
        if !matches!(self.list, List::Group(before) if before == group) {
            self.done();
            self.list = List::Group(group);
        }
    }

    /// Registers; the caller looks again before it sleeps.
    pub fn register(&mut self, root: &Arc<Root>, waker: &Waker) {
        if self.root.is_none() {
            root.begin_sleep(self.kind(), self.seated);
            self.root = Some(Arc::clone(root));
            self.since = matches!(self.list, List::Room).then(Instant::now);
        }
        self.list(root).register(&mut self.place, waker);
        if !root.file.read_only {
            wait::announce(root.memory().sleepers()[self.kind()]);
        }
    }

    /// Where it registered. In the child of a fork nowhere, as the list is its parent's.
    fn take_root(&mut self) -> Option<Arc<Root>> {
        self.root.take().filter(|root| !root.is_inherited())
    }

    /// Ends the waiting of one who has what it waited for. True if it ever registered.
    #[inline]
    pub fn done(&mut self) -> bool {
        self.root.is_some() && self.leave()
    }

    #[cold]
    fn leave(&mut self) -> bool {
        let Some(root) = self.take_root() else { return false };
        self.list(&root).remove(&mut self.place);
        self.end(&root);
        true
    }

    #[cold]
    fn give_up(&mut self) {
        let Some(root) = self.take_root() else { return };
        if !self.list(&root).remove(&mut self.place) {
            self.list(&root).wake_one();
        }
        self.end(&root);
    }

    fn end(&mut self, root: &Root) {
        root.end_sleep(self.kind(), self.seated);
        if let Some(since) = self.since.take() {
            let [count, time] = root.memory().waits_for_room();
            count.fetch_add(1, Relaxed); // statistics
            time.fetch_add(since.elapsed().as_micros() as u64, Relaxed);
        }
    }

    /// Polls until ready, the thread asleep in between. With a deadline goes what is returned if it
    /// passes first.
    pub fn block_on<T>(
        mut self,
        root: &Arc<Root>,
        deadline: Option<(Instant, T)>,
        mut poll: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<T>,
    ) -> T {
        let Some(seat) = Seat::take(root) else {
            return park::block_on(deadline, |cx| poll(&mut self, cx));
        };
        self.seated = true;
        let waker = Waker::from(Arc::clone(&seat.0));
        let mut cx = Context::from_waker(&waker);
        loop {
            // Before the look.
            let armed = root.arm();
            if let Poll::Ready(out) = poll(&mut self, &mut cx) {
                return out;
            }
            if seat.0.woken.swap(false, SeqCst) {
                continue;
            }
            let left = deadline.as_ref().map(|(at, _)| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO)
                && let Some((_, late)) = deadline
            {
                return late;
            }
            let wait = left.map_or(TICK, |left| left.min(TICK));
            let wait = futex::Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
            // An error is a reason to look again, and the loop does.
            let _ = futex::wait(root.own_word(), futex::Flags::empty(), armed, Some(&wait));
        }
    }
}

impl Drop for Sleeper {
    #[inline]
    fn drop(&mut self) {
        if self.root.is_some() {
            self.give_up();
        }
    }
}

/// The waker of the one who has the seat.
struct Seated {
    shared: Arc<Shared>,
    woken: AtomicBool,
}

impl Wake for Seated {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the word is looked at: ORDER[arm].
        self.woken.store(true, SeqCst);
        self.shared.poke(self.shared.file.id);
    }
}

/// The seat, taken. Dropped, it is free.
struct Seat(Arc<Seated>);

impl Seat {
    /// The seat of an open, if it is free.
    fn take(root: &Arc<Root>) -> Option<Self> {
        let free = root.usable().is_ok() && !root.seat.swap(true, SeqCst);
        free.then(|| Self(Arc::new(Seated { shared: root.shared(), woken: AtomicBool::new(false) })))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.shared.seat.store(false, SeqCst);
    }
}
