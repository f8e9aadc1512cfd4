//! What all handles of one open share: the file, the sleepers of this process and who wakes them, and the threads
//! that watch and sync for them.
#![forbid(unsafe_code)]

use crate::durability::Syncs;
use crate::error::Unusable;
use crate::file::{OpenFile, now, uptime};
use crate::group::Group;
use crate::holder::Member;
use crate::memory::Memory;
use crate::opens::OpenId;
use crate::ops::Liveness;
use crate::options::Durability;
use crate::ring::{Blocked, Ring};
use crate::wait::{self, WaitList};
use crate::watcher::Watcher;
use crate::{Channel, Full, GroupName, Offset};
use crossbeam_utils::CachePadded;
use rustix::thread::futex;
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const TICK_MS: u32 = 50;
/// The longest that a wait lasts for what another process may tell.
pub const TICK: Duration = Duration::from_millis(TICK_MS as u64);
/// The two kinds of sleepers, as the file's flag words and the opens' counts are ordered.
pub const RECEIVERS: usize = 0;
/// See [`RECEIVERS`].
pub const SENDERS: usize = 1;

/// One open of the file, in this process.
#[derive(Debug)]
pub struct Shared {
    /// The file.
    pub file: OpenFile,
    groups: Box<[CachePadded<WaitList>]>,
    room: WaitList,
    readers: WaitList,
    readers_at: AtomicU64,
    /// Those who receive from several partitions, of which this is the first, and wait for a change of holders.
    moves: WaitList,
    /// The numbers of those, as far as they can hold one.
    members: Mutex<BTreeSet<usize>>,
    /// Looks for what nobody told.
    pub watcher: Watcher,
    /// Whether one thread watches for itself.
    pub seat: AtomicBool,
    /// When the dead and the overdue were last looked for, in milliseconds.
    tended_at: AtomicU32,
    /// How often that was: whose turn it is to be asked about.
    turn: AtomicUsize,
    /// The channel of the dead letters.
    pub dead_letters: Option<Channel>,
    durability: Durability,
    /// The syncs of this open.
    pub syncs: Syncs,
    syncer: Mutex<Option<JoinHandle<()>>>,
}

/// What handles hold. When the last one goes, the open ends before that drop returns.
#[derive(Debug)]
pub struct Root(Arc<Shared>);

impl Deref for Root {
    type Target = Shared;

    #[inline]
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Root {
    /// Shares an open.
    pub fn new(file: OpenFile, dead_letters: Option<Channel>, durability: Durability) -> Arc<Self> {
        let groups = file.map.layout().geometry.max_groups;
        let root = Arc::new(Self(Arc::new(Shared {
            groups: (0..groups).map(|_| CachePadded::default()).collect(),
            room: WaitList::default(),
            readers: WaitList::default(),
            readers_at: AtomicU64::new(u64::MAX),
            moves: WaitList::default(),
            members: Mutex::default(),
            watcher: Watcher::default(),
            seat: AtomicBool::new(false),
            tended_at: AtomicU32::new(uptime().wrapping_sub(TICK_MS)),
            turn: AtomicUsize::new(0),
            dead_letters,
            durability,
            syncs: Syncs::default(),
            syncer: Mutex::new(None),
            file,
        })));
        if matches!(durability, Durability::Interval { .. }) && root.usable().is_ok() {
            root.ensure_syncer();
        }
        root
    }

    /// Starts the thread that syncs for tasks and for an interval; false if it cannot be started.
    pub fn ensure_syncer(&self) -> bool {
        let mut syncer = self.0.syncer.lock().unwrap_or_else(|e| e.into_inner());
        // One whose thread is gone has met a bug.
        if syncer.as_ref().is_none_or(JoinHandle::is_finished) {
            let shared = Arc::clone(&self.0);
            let interval = match self.durability {
                Durability::Interval { every, .. } => Some(every),
                Durability::Buffered | Durability::Always => None,
            };
            let named = thread::Builder::new().name("disk_chan syncer".into());
            match named.spawn(move || shared.run_syncs(interval)) {
                Ok(handle) => *syncer = Some(handle),
                Err(error) => {
                    event!(warn, "no syncer: who asks for a sync waits for it on its own thread", error = error);
                }
            }
        }
        syncer.is_some()
    }

    /// What all threads of this open share.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }

    /// Counts a sleeper, and has the watcher watch if it does not watch for itself.
    pub fn begin_sleep(&self, kind: usize, seated: bool) {
        if self.is_entered() {
            self.file.id.sleepers(self.memory())[kind].fetch_add(1, SeqCst);
        }
        if seated {
            return;
        }
        self.0.ensure_watcher();
        self.watcher.begin();
    }

    /// Ends what `begin_sleep` began.
    pub fn end_sleep(&self, kind: usize, seated: bool) {
        if !seated {
            self.watcher.end();
        }
        if self.is_entered() {
            self.file.id.sleepers(self.memory())[kind].fetch_sub(1, SeqCst);
        }
    }

    /// Has the watcher raise the limit of page numbers, if it is near.
    pub fn mind_page_limit(&self) {
        if self.file.page_limit_is_near() {
            self.0.ensure_watcher();
            self.watcher.nudge();
            self.poke(self.file.id);
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if self.is_inherited() {
            // Nothing in it is this process's: not its thread, its locks, its addresses.
            std::mem::forget(Arc::clone(&self.0));
            return;
        }
        self.watcher.stop();
        if self.is_entered() {
            self.poke(self.file.id);
        }
        self.syncs.stop();
        for thread in [&self.watcher.thread, &self.syncer] {
            let handle = thread.lock().unwrap_or_else(|e| e.into_inner()).take();
            // A waker that the thread woke may have dropped the last handle: it cannot join itself.
            if let Some(handle) = handle.filter(|h| h.thread().id() != thread::current().id()) {
                let _ = handle.join();
            }
        }
        if matches!(self.durability, Durability::Interval { .. }) && self.syncs.take_changed() {
            let _ = self.shared().blocking_sync(); // poisoned, nobody else is told by this one
        }
        if self.is_entered() {
            self.file.close();
        }
    }
}

impl Shared {
    /// The words.
    #[inline]
    pub fn memory(&self) -> Memory<'_> {
        self.file.memory()
    }

    /// The ring.
    #[inline]
    pub fn ring(&self) -> Ring<'_> {
        self.file.ring()
    }

    /// Whether this process is the child of a fork that came after this was opened.
    #[inline]
    pub fn is_inherited(&self) -> bool {
        self.file.is_inherited()
    }

    /// Whether the channel can be used by this handle.
    #[inline]
    pub fn usable(&self) -> Result<(), Unusable> {
        if self.is_inherited() {
            return Err(Unusable::Forked);
        }
        if self.file.read_only {
            return Err(Unusable::ReadOnly);
        }
        if self.file.is_poisoned() { Err(Unusable::Poisoned) } else { Ok(()) }
    }

    /// Whether messages can be read by this handle without a group.
    #[inline]
    pub fn readable(&self) -> Result<(), Unusable> {
        match self.usable() {
            Err(Unusable::ReadOnly) => Ok(()),
            other => other,
        }
    }

    /// Whether this open has an entry in the file: it is this process's, and not only to look.
    fn is_entered(&self) -> bool {
        !self.is_inherited() && !self.file.read_only
    }

    /// Whether every send waits until its message is on stable storage.
    #[inline]
    pub fn syncs_always(&self) -> bool {
        self.durability == Durability::Always
    }

    /// Whether every hand-out is a copy.
    #[inline]
    pub fn hands_out_copies(&self) -> bool {
        !self.file.map.layout().geometry.pins()
    }

    /// Gives up what is older than the channel allows. The channel is usable.
    #[inline]
    pub fn expire(&self) {
        if self.file.map.layout().geometry.max_age != 0 {
            let is_room = self.ring().expire(now());
            // Its last step was to free its op cell.
            if is_room && wait::anyone(self.memory().sleepers()[SENDERS]).is_some() {
                self.wake_senders();
            }
        }
    }

    /// Whether anybody alive, in any process, could send or make somebody who can.
    pub fn has_handles(&self) -> bool {
        let mem = self.memory();
        let has = |id: OpenId| id.handles(mem).load(SeqCst) > 0;
        // One's own first, as asking for another's life is a system call.
        self.is_entered() && has(self.file.id) || OpenId::all(mem).any(|id| has(id) && !self.file.is_dead(id.index))
    }

    /// Whether the channel is closed; if so, the page that senders wrote is sealed now.
    #[inline]
    pub fn closed(&self) -> bool {
        let ring = self.ring();
        if ring.only_looks() {
            return ring.head().closed;
        }
        // Who closes it sets the bit and then seals the page, and may have died in between.
        ring.head().closed && ring.close().is_ok()
    }

    /// One handle more that keeps receivers waiting.
    pub fn add_handle(&self) {
        if !self.is_entered() {
            return;
        }
        self.file.id.handles(self.memory()).fetch_add(1, SeqCst);
    }

    /// One handle less; the last one wakes the receivers, who find themselves disconnected.
    pub fn drop_handle(&self) {
        if self.is_entered() && self.file.id.handles(self.memory()).fetch_sub(1, SeqCst) == 1 {
            self.wake_everybody();
        }
    }

    /// Cleans up after the dead, takes overdue leases away, and moves messages to the dead letters.
    pub fn tend(&self) {
        self.tend_to(|_| true);
    }

    /// The same, of the dead only a share: what one of those who wait does in a tick.
    pub fn tend_a_share(&self) {
        let turn = self.turn.fetch_add(1, Relaxed); // counts, and orders nothing
        self.tend_to(self.file.id.share(self.memory(), turn));
    }

    fn tend_to(&self, share: impl Fn(OpenId) -> bool) {
        self.tended_at.store(uptime(), Relaxed); // only compared with clocks
        let mut changed = self.file.reap_the_dead(share);
        let geometry = &self.memory().layout.geometry;
        if geometry.lease_timeout != 0 {
            changed |= Group::all(self.memory()).filter(|group| group.take_overdue(uptime)).count() > 0;
        }
        if geometry.max_attempts != 0 {
            Group::all(self.memory()).for_each(|group| self.bury(group));
        }
        if changed {
            self.wake_everybody();
        }
    }

    /// The same, once a tick: for those who find nothing and do not sleep.
    pub fn tend_now_and_then(&self) {
        // The clock is coarse: who slept a tick may see a little less.
        if uptime().wrapping_sub(self.tended_at.load(Relaxed)) >= TICK_MS - 10 {
            self.tend_a_share();
        }
    }

    /// The list of the receivers of a group.
    pub fn group_list(&self, group: usize) -> &WaitList {
        &self.groups[group]
    }

    /// The list of the readers that wait for a message.
    pub fn reader_list(&self) -> &WaitList {
        &self.readers
    }

    /// Says where a reader stands that has registered; it looks again before it sleeps.
    pub fn reader_waits_at(&self, at: Offset) {
        self.readers_at.fetch_min(at.as_u64(), SeqCst);
    }

    /// Where the first of the sleeping readers stands; `u64::MAX` if none does. It may be too low.
    pub fn readers_at(&self) -> &AtomicU64 {
        &self.readers_at
    }

    /// The list of the senders that wait for room.
    pub fn room_list(&self) -> &WaitList {
        &self.room
    }

    /// The list of those who wait for a change of holders.
    pub fn moves_list(&self) -> &WaitList {
        &self.moves
    }

    /// Has everybody look at the holders who waits for a change of them, in all processes.
    pub fn tell_of_move(&self) {
        self.moves.wake_all();
        self.poke_others(RECEIVERS);
    }

    fn members(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.members.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A number for one who can hold partitions, if there is one left.
    pub fn join(&self) -> Option<usize> {
        let mut members = self.members();
        let number = (0..Member::NUMBERS).find(|number| !members.contains(number))?;
        members.insert(number);
        Some(number)
    }

    /// The number is free.
    pub fn resign(&self, number: usize) {
        self.members().remove(&number);
    }

    /// What this open's watcher waits on, and who has the seat.
    pub fn own_word(&self) -> &AtomicU32 {
        self.memory().wake_word(self.file.id.index)
    }

    /// Has the next poke change this open's word: what it is until then. The caller looks before it waits.
    pub fn arm(&self) -> u32 {
        wait::arm(self.own_word())
    }

    /// Wakes the watcher of an open, and who has the seat there, to look.
    pub fn poke(&self, open: OpenId) {
        let word = self.memory().wake_word(open.index);
        if !wait::disarm(word) || futex::wake(word, futex::Flags::empty(), i32::MAX as u32) == Ok(0) {
            // Awake already, or dead: then what it says of its sleepers costs every send a look.
            self.tend_now_and_then();
        }
    }

    fn poke_others(&self, kind: usize) -> bool {
        let mem = self.memory();
        let others = OpenId::all(mem).filter(|&id| id != self.file.id && id.sleepers(mem)[kind].load(SeqCst) > 0);
        others.fold(false, |_, id| {
            self.poke(id);
            true
        })
    }

    /// After a commit: wakes one sleeper of every group. The send ended with a `SeqCst`
    /// read-modify-write.
    #[inline]
    pub fn after_send(&self, messages: usize) {
        if let Durability::Interval { max_messages, .. } = self.durability {
            self.syncs.note_sent(messages as u64, max_messages);
        }
        let [receivers, senders] = self.memory().sleepers();
        if let Some(seen) = wait::anyone(receivers) {
            self.wake_receivers(seen);
        }
        // An op cell is free again, and a send that a turn may have waited for has ended.
        if wait::anyone(senders).is_some() {
            self.wake_senders();
        }
    }

    #[cold]
    fn wake_receivers(&self, seen: u64) {
        let mut own = false;
        for list in self.groups.iter().filter(|list| !list.is_empty()) {
            own |= list.wake_one();
        }
        own |= !self.readers.is_empty() && self.readers.wake_all();
        let sleeping = self.file.id.sleepers(self.memory())[RECEIVERS].load(SeqCst) > 0;
        if !self.poke_others(RECEIVERS) && !own && !sleeping {
            wait::nobody(self.memory().sleepers()[RECEIVERS], seen);
        }
    }

    /// Wakes everybody who waits for room.
    #[cold]
    pub fn wake_senders(&self) {
        let flag = self.memory().sleepers()[SENDERS];
        let seen = flag.load(SeqCst);
        let own = self.room.wake_all();
        let sleeping = self.file.id.sleepers(self.memory())[SENDERS].load(SeqCst) > 0;
        if !self.poke_others(SENDERS) && !own && !sleeping {
            wait::nobody(flag, seen);
        }
    }

    /// Wakes all sleepers, to look again at everything.
    pub fn wake_everybody(&self) {
        for list in &self.groups {
            list.wake_all();
        }
        self.room.wake_all();
        self.readers.wake_all();
        self.moves.wake_all();
        self.poke_others(RECEIVERS);
        self.poke_others(SENDERS);
    }

    /// After a message of `group` was finished: room, if its page may be finished, and a free cell.
    #[inline]
    pub fn after_ack(&self, group: Group<'_>, offset: Offset, last: bool) {
        if let Durability::Interval { .. } = self.durability {
            self.syncs.note_change();
        }
        let [_, senders] = self.memory().sleepers();
        if last && wait::anyone(senders).is_some() {
            self.after_ack_with_senders(group, offset.page());
        }
        self.after_free(group);
    }

    /// After a message was done whose claim is kept to be extended: whether somebody seems to wait for its
    /// page or its cell. One who begins to wait at this moment may not be seen, and finds it at the next tick.
    #[inline]
    pub fn is_waited_for(&self, group: Group<'_>) -> bool {
        if let Durability::Interval { .. } = self.durability {
            fence(SeqCst); // ORDER[changed]: that it is done was a plain store
            self.syncs.note_change();
        }
        let [_, senders] = self.memory().sleepers();
        senders.load(Relaxed) & 1 == 1 || group.starved().load(Relaxed) != 0
    }

    #[cold]
    fn after_ack_with_senders(&self, group: Group<'_>, page: u64) {
        let done = self.ring().tail().page == page && group.last_unfinished(page).is_none();
        if done || !group.is_current() {
            self.wake_senders();
        }
    }

    /// After a claim cell of `group` was freed.
    #[inline]
    fn after_free(&self, group: Group<'_>) {
        if group.starved().load(SeqCst) != 0 && group.starved().swap(0, SeqCst) != 0 {
            self.groups[group.number()].wake_all();
            self.poke_others(RECEIVERS);
        }
    }

    /// After a message was given back: somebody of its group can have it.
    pub fn after_give_back(&self, group: Group<'_>) {
        self.bury(group);
        self.after_free(group);
        if wait::anyone(self.memory().sleepers()[RECEIVERS]).is_some() && !self.groups[group.number()].wake_one() {
            self.poke_others(RECEIVERS);
        }
    }

    /// Wakes one more of a group's sleepers, by one who took a message and sees more.
    pub fn pass_on(&self, group: Group<'_>) {
        let list = &self.groups[group.number()];
        if !list.is_empty() && group.has_more(&self.ring()) {
            list.wake_one();
        }
    }

    /// A reason in the words of the public error.
    pub fn full(&self, blocked: Blocked) -> Full {
        let ring = self.ring();
        match blocked {
            Blocked::Group(number) => {
                // The slowest of those that stand in the way.
                let oldest = ring.tail().page;
                let blocks = |g: &Group<'_>| {
                    g.settle();
                    g.number() == number || g.last_unfinished(oldest).is_some()
                };
                let groups = Group::all(ring.mem).filter(blocks);
                let groups = groups.filter_map(|g| Some((g.behind(&ring), g.name()?)));
                match groups.max_by_key(|(behind, _)| *behind) {
                    Some((behind, name)) => Full::Group { name, behind },
                    None => Full::Group { name: GroupName::from(number), behind: 0 },
                }
            }
            Blocked::NoGroup => Full::NoGroup,
            Blocked::UnfinishedSend => Full::UnfinishedSend,
            Blocked::HeldMessage => Full::HeldMessage,
            Blocked::TooManySending => Full::TooManySending,
            Blocked::PageLimit => Full::PageLimit,
        }
    }
}
