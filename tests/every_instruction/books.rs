//! What is sent and received around the child's operation, and whether it balances.
//!
//! The second process is this one: [`Eyes`] sends, receives and goes round the ring, and writes down what each group
//! was given. [`Before`] is what was there before the operation, and what each group had not finished.

use crate::child::{FIRST, LEN};
use crate::common::{body, number};
use disk_chan::{
    AckError, Channel, Create, Full, Lease, Offset, Options, Overflow, Receiver, Sender, TryRecvError, TrySendError,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Pages of the ring.
pub const PAGES: u64 = 3;
const MAX_GROUPS: usize = 4;
const MAX_HELD: usize = 4;
/// So many that several go out together.
const MANY_HELD: usize = 64;
/// The number of the first message that the eyes send.
const EYES_FIRST: u64 = 10_000;
/// How long what must be possible within a second may take here, where other work runs beside it.
const LIMIT: Duration = Duration::from_secs(5);
/// Where messages expire: when what is sent after the operation has not.
const MAX_AGE: Duration = Duration::from_secs(10);

/// How long a sleeper sleeps without looking whether it should end; nothing else hangs on it.
const NAP: Duration = Duration::from_secs(1);

/// The channel: small in everything, and so many slots a page that few messages fill it.
pub fn options(overflow: Overflow, several: bool, expires: bool) -> Options {
    let sizes = Options::new().page_size(64 << 10).max_pages(PAGES as usize).typical_message_len(9_000);
    let sizes = if expires { sizes.max_age(MAX_AGE) } else { sizes };
    sizes
        .max_groups(MAX_GROUPS)
        .max_held(if several { MANY_HELD } else { MAX_HELD })
        .max_op_cells(4)
        .max_opens(8)
        .overflow(overflow)
}

/// Opens what is there.
pub fn open(file: &Path) -> Channel {
    Options::new().create(Create::OpenExisting).blocking_open(file).expect("the channel can be opened")
}

/// The messages of the time before the operation.
#[derive(Clone, Default)]
pub struct Before {
    /// Every message and its place.
    pub sent: BTreeMap<u64, Offset>,
    /// For the groups "a" and "b": what they have not finished, and how often they were given it.
    pub unfinished: [BTreeMap<u64, u32>; 2],
    /// Messages that fit in a page.
    pub slots: u64,
}

/// Brings a channel into the state that an operation needs.
pub struct Stage {
    channel: Channel,
    tx: Sender,
    rx: [Receiver; 2],
    /// What was done.
    pub before: Before,
}

impl Stage {
    /// A new channel with the groups "a" and "b"; `several` is whether messages go out together.
    pub fn new(file: &Path, overflow: Overflow, several: bool, expires: bool) -> Self {
        let options = options(overflow, several, expires).create(Create::CreateNew);
        let channel = options.blocking_open(file).expect("a channel is made");
        let rx = ["a", "b"].map(|name| channel.blocking_subscribe(name).expect("a group is made"));
        let tx = channel.sender();
        let mut stage = Self { channel, tx, rx, before: Before::default() };
        // The first page tells how many fit.
        while stage.before.sent.values().all(|offset| offset.page() == 0) {
            stage.send(1);
            stage.finish_all();
        }
        stage.before.slots = stage.before.sent.len() as u64 - 1;
        assert!((6..20).contains(&stage.before.slots), "{} slots a page", stage.before.slots);
        stage
    }

    /// Sends `count` messages that nobody reads yet.
    pub fn send(&mut self, count: u64) {
        for _ in 0..count {
            let number = self.before.sent.len() as u64 + 1;
            let offset = self.tx.try_send(body(number, LEN)).expect("there is room");
            self.before.sent.insert(number, offset);
            for group in &mut self.before.unfinished {
                group.insert(number, 0);
            }
        }
    }

    /// Group `group` receives and finishes one message.
    pub fn finish(&mut self, group: usize) {
        let number = number(&self.rx[group].try_recv().expect("there is a message"));
        self.before.unfinished[group].remove(&number);
    }

    /// Both groups receive and finish everything.
    pub fn finish_all(&mut self) {
        for group in 0..2 {
            while !self.before.unfinished[group].is_empty() {
                self.finish(group);
            }
        }
    }

    /// Group `group` leases a message; it is given back when the lease is dropped.
    pub fn lease(&mut self, group: usize) -> Lease {
        let lease = self.rx[group].try_lease().expect("there is a message");
        *self.before.unfinished[group].get_mut(&number(&lease)).expect("it was not finished") += 1;
        lease
    }

    /// Waits until everything has expired.
    pub fn grow_old(&self) {
        thread::sleep(MAX_AGE + Duration::from_millis(100)); // the clock is coarse
    }

    /// Group `group` receives everything at once, and a receiver that goes gives it back.
    pub fn forget_all(&mut self, group: usize) {
        let mut rx = self.rx[group].clone();
        let all = rx.blocking_recv_many(usize::MAX).expect("there are messages");
        for message in all {
            *self.before.unfinished[group].get_mut(&number(&message)).expect("it was not finished") += 1;
            std::mem::forget(message);
        }
    }

    /// Sends, and finishes, until the next message comes to this place.
    pub fn advance_to(&mut self, page: u64, index: u64) {
        loop {
            let end = self.channel.stats().end_offset;
            let full = end.index() == self.before.slots;
            let next = if full { (end.page() + 1, 0) } else { (end.page(), end.index()) };
            if next == (page, index) {
                return;
            }
            assert!(next < (page, index), "{next:?} is beyond {page}:{index}");
            self.send(1);
            self.finish_all();
        }
    }
}

/// What the child said about its operation, or would have.
#[derive(Clone, Default, Debug)]
pub struct Said {
    /// Messages whose send returned Ok.
    pub sent: u64,
    /// The message it received, and the number of attempts that came with it.
    pub got: Vec<(u64, u32)>,
    /// What it did with each of them.
    pub fates: Vec<String>,
    /// What it heard of losses.
    pub lagged: u64,
}

impl Said {
    /// Reads what the child wrote.
    pub fn parse(text: &str) -> Self {
        let mut said = Self::default();
        let mut words = text.split_whitespace();
        let read = |word: Option<&str>| word.and_then(|w| w.parse::<u64>().ok()).expect("a number follows");
        while let Some(word) = words.next() {
            match word {
                "sent" => said.sent += 1,
                "got" => said.got.push((read(words.next()), read(words.next()) as u32)),
                "lagged" => said.lagged += read(words.next()),
                "unsent" => {}
                fate => said.fates.push(fate.into()),
            }
        }
        said
    }
}

/// What was seen of the operation's result: each part may only grow with the number of instructions that were run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The messages of the child that were there.
    pub sent: usize,
    /// How many of the messages it was to receive it had received: they were given again, or are finished.
    pub received: u64,
    /// How many of them are finished.
    pub finished: u64,
    /// Whether the group "b" was gone.
    pub removed: bool,
    /// Whether the message it was to receive is accounted for by a page that went.
    pub lost: bool,
}

/// What an operation may change.
#[derive(Clone, Copy, Debug)]
pub struct Effect {
    /// Messages that the child sends.
    pub sends: u64,
    /// The first of the messages that the child receives from the group "a", and how many they are.
    pub receives: Option<(u64, u64)>,
    /// Whether it makes the group "c".
    pub subscribes: bool,
    /// Whether it removes the group "b".
    pub removes: bool,
    /// Whether it moves the group "b" to the end.
    pub moves: bool,
    /// The pages that it takes away from groups that have not read them.
    pub drops: Option<(u64, u64)>,
    /// Whether the child was dead before the others looked.
    pub is_out_of_the_way: bool,
}

impl Effect {
    /// Whether the child receives this message.
    fn receives(&self, number: u64) -> bool {
        self.receives.is_some_and(|(first, count)| (first..first + count).contains(&number))
    }
}

struct Member {
    name: &'static str,
    /// Nothing while it is asleep.
    rx: Option<Receiver>,
    removed: bool,
    got: BTreeMap<u64, Vec<u32>>,
    last_first: Option<Offset>,
    lagged: u64,
}

/// A thread that sleeps until the group "b" has a message, again and again.
struct Asleep {
    /// What it was given.
    got: Arc<Mutex<BTreeMap<u64, Vec<u32>>>>,
    /// It ends with the message of this number.
    last: Arc<AtomicU64>,
    /// Closed if this is dropped before.
    channel: Channel,
    thread: Option<JoinHandle<Receiver>>,
}

impl Asleep {
    fn new(channel: Channel, mut rx: Receiver) -> Self {
        let (got, last) = (Arc::<Mutex<BTreeMap<u64, Vec<u32>>>>::default(), Arc::new(AtomicU64::new(u64::MAX)));
        let (into, until) = (Arc::clone(&got), Arc::clone(&last));
        let thread = thread::spawn(move || {
            while until.load(SeqCst) > 0 {
                let Ok(message) = rx.recv_timeout(NAP) else { continue };
                let (number, attempts) = (number(&message), message.attempts());
                drop(message);
                into.lock().unwrap().entry(number).or_default().push(attempts);
                if number >= until.load(SeqCst) {
                    break;
                }
            }
            rx
        });
        // Mostly asleep after this. If not, a child takes another way, and is waited for all the same.
        thread::sleep(Duration::from_millis(2));
        Self { got, last, channel, thread: Some(thread) }
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.last.store(0, SeqCst);
            self.channel.close();
            let _ = thread.join();
        }
    }
}

/// A second process: an open of its own, a sender, and receivers of the groups.
pub struct Eyes {
    file: PathBuf,
    channel: Channel,
    tx: Sender,
    members: Vec<Member>,
    lease: Option<(Lease, u64)>,
    asleep: Option<Asleep>,
    next: u64,
    sent: BTreeMap<u64, Offset>,
    complaints: Vec<String>,
    /// The longest that a call took which does not wait.
    pub slowest: Duration,
    slots: u64,
    held_up: Option<Full>,
}

impl Eyes {
    /// Opens the channel.
    pub fn new(file: &Path, slots: u64) -> Self {
        let channel = open(file);
        let tx = channel.sender();
        let mut eyes = Self {
            file: file.to_owned(),
            channel,
            tx,
            members: Vec::new(),
            lease: None,
            asleep: None,
            next: EYES_FIRST,
            sent: BTreeMap::new(),
            complaints: Vec::new(),
            slowest: Duration::ZERO,
            slots,
            held_up: None,
        };
        // Only looking gives nothing up that has expired.
        let look = Options::new().read_only(true).blocking_open(file).expect("the channel can be looked at");
        let there: Vec<_> = look.groups().into_iter().map(|g| g.name).collect();
        for name in ["a", "b"] {
            if there.iter().any(|there| there.as_str() == name) {
                eyes.join(name);
            }
        }
        eyes
    }

    fn join(&mut self, name: &'static str) {
        let start = Instant::now();
        loop {
            match self.channel.blocking_subscribe(name) {
                Ok(rx) => {
                    let (got, last_first) = (BTreeMap::new(), None);
                    return self.members.push(Member {
                        name,
                        rx: Some(rx),
                        removed: false,
                        got,
                        last_first,
                        lagged: 0,
                    });
                }
                Err(error) if start.elapsed() > LIMIT => {
                    return self.complaints.push(format!("group {name} cannot be joined: {error}"));
                }
                Err(_) => thread::yield_now(),
            }
        }
    }

    /// Leases the next message of "a", to be finished after the operation.
    pub fn hold_one(&mut self) {
        let lease = self.members[0].rx.as_mut().expect("it is awake").try_lease().expect("there is a message to lease");
        let number = number(&lease);
        self.lease = Some((lease, number));
    }

    /// Has the receiver of "b" wait in a thread of its own.
    pub fn fall_asleep(&mut self) {
        let rx = self.members[1].rx.take().expect("it is awake");
        self.asleep = Some(Asleep::new(self.channel.clone(), rx));
    }

    /// Ends the sleep with a message, as every sleep must.
    fn wake_up(&mut self, deadline: Instant) {
        let Some(mut asleep) = self.asleep.take() else { return };
        asleep.last.store(self.next, SeqCst);
        while let Some(full) = self.try_send() {
            self.drain();
            if Instant::now() > deadline {
                return self.complaints.push(format!("nothing can be sent to a receiver that sleeps: {full}"));
            }
            thread::yield_now();
        }
        while !asleep.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            if Instant::now() > deadline {
                return self.complaints.push("a receiver that sleeps was not woken, or not by all messages".into());
            }
            thread::yield_now();
        }
        let member = &mut self.members[1];
        member.rx = asleep.thread.take().and_then(|thread| thread.join().ok());
        member.got = std::mem::take(&mut asleep.got.lock().unwrap());
    }

    /// Finishes the lease, or gives it back; a message that was given back may come once more.
    fn let_go(&mut self, back: bool, before: &mut Before) {
        let Some((lease, number)) = self.lease.take() else { return };
        let attempts = lease.attempts();
        if back {
            match lease.give_back() {
                Ok(()) => drop(before.unfinished[0].insert(number, attempts)),
                Err(AckError::Gone) => {}
                Err(error) => self.complaints.push(format!("giving back a lease: {error}")),
            }
        } else {
            match lease.ack() {
                Ok(()) => drop(self.members[0].got.insert(number, vec![attempts])),
                Err(error) => self.complaints.push(format!("acknowledging a lease: {error}")),
            }
        }
    }

    fn timed<T>(slowest: &mut Duration, call: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = call();
        *slowest = start.elapsed().max(*slowest);
        out
    }

    /// Receives and finishes what can be had now.
    pub fn drain(&mut self) {
        for member in self.members.iter_mut().filter(|m| !m.removed) {
            while let Some(rx) = &mut member.rx {
                match Self::timed(&mut self.slowest, || rx.try_recv()) {
                    Ok(message) => {
                        let (number, offset, attempts) = (number(&message), message.offset(), message.attempts());
                        drop(message);
                        member.got.entry(number).or_default().push(attempts);
                        if attempts == 1 && member.last_first.replace(offset) >= Some(offset) {
                            self.complaints.push(format!("group {}: {offset} came out of order", member.name));
                        }
                    }
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                    Err(TryRecvError::Lagged(n)) => member.lagged += n,
                    Err(TryRecvError::GroupRemoved) => {
                        member.removed = true;
                        break;
                    }
                    Err(error) => {
                        self.complaints.push(format!("group {} receives: {error}", member.name));
                        break;
                    }
                }
            }
        }
    }

    fn try_send(&mut self) -> Option<Full> {
        loop {
            let message = body(self.next, LEN);
            match Self::timed(&mut self.slowest, || self.tx.try_send(&message)) {
                Ok(offset) => {
                    self.sent.insert(self.next, offset);
                    self.next += 1;
                    return None;
                }
                Err(TrySendError::Closed) => self.tx = self.channel.sender(),
                Err(TrySendError::Full(full)) => return Some(full),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Sends a message, receives, and sends it again while there is no room.
    fn send(&mut self, deadline: Instant) -> bool {
        loop {
            let Some(full) = self.try_send() else {
                self.drain();
                return true;
            };
            self.drain();
            if Instant::now() > deadline {
                self.complaints.push(format!("nothing can be sent: {full}"));
                return false;
            }
            thread::yield_now();
        }
    }

    /// Goes round the ring as far as a stopped child lets it.
    pub fn go_round_if_possible(&mut self) {
        self.drain();
        for _ in 0..(2 * PAGES + 1) * self.slots {
            let mut full = None;
            // Who is asleep may need the CPU first.
            for _ in 0..if self.asleep.is_some() { 100 } else { 3 } {
                full = self.try_send();
                self.drain();
                if full.is_none() {
                    break;
                }
                thread::yield_now();
            }
            if let Some(full) = full {
                if !matches!(full, Full::UnfinishedSend | Full::HeldMessage | Full::Group { .. }) {
                    self.complaints.push(format!("beside a stopped process: {full}"));
                }
                self.held_up = Some(full);
                return;
            }
        }
    }

    /// Receives everything, and sends one message for the next child.
    pub fn prepare_for_another(&mut self) {
        self.drain();
        // A child may have filled the page, and died before it opened the next.
        let _ = self.try_send();
    }

    /// After many children died one after the other: goes round the ring, and says what is wrong.
    pub fn go_round_after_all(mut self) -> Vec<String> {
        let deadline = Instant::now() + LIMIT;
        if self.channel.groups().iter().any(|g| g.name.as_str() == "c") {
            self.join("c");
        }
        for _ in 0..(2 * PAGES + 1) * self.slots {
            if !self.send(deadline) {
                break;
            }
        }
        self.settle(deadline);
        self.complaints
    }

    /// What kept the eyes from going round beside a stopped process.
    pub fn held_up(&self) -> Option<&'static str> {
        self.held_up.as_ref().map(|full| match full {
            Full::UnfinishedSend => "by an unfinished send",
            Full::HeldMessage => "by a held message",
            Full::Group { .. } => "by a group",
            _ => "by something else",
        })
    }

    /// After the child: sends, receives, goes round the ring twice, and checks that nothing is left of the child.
    /// `said` is what the child said, if it lived to say it.
    pub fn verify(
        mut self,
        mut before: Before,
        effect: Effect,
        said: Option<&Said>,
        back: bool,
        since: Instant,
        is_dead: impl FnOnce(),
    ) -> (Seen, Vec<String>, Duration) {
        let deadline = since + LIMIT;
        // Nothing has been turned since the group was made, unless others ran beside it.
        let first = self.channel.stats().first_offset;
        if effect.subscribes {
            self.join("c");
        }
        self.let_go(back, &mut before);
        // Under `DropOldest` a send can take away what nobody has read yet.
        if self.channel.overflow() == Overflow::DropOldest || back {
            self.drain();
        }
        let mut went = self.send(deadline);
        for _ in 0..(2 * PAGES + 1) * self.slots {
            went = went && self.send(deadline);
        }
        self.wake_up(deadline);
        if went {
            self.use_every_claim_cell(deadline);
        }
        self.settle(deadline);
        let elapsed = since.elapsed();
        if elapsed > LIMIT {
            self.complaints.push(format!("it took {elapsed:?}"));
        }
        is_dead();
        self.check_remains(effect);
        let seen = self.balance(&before, effect, said, first);
        (seen, self.complaints, elapsed)
    }

    /// As many messages as may be held are leased at once: no claim cell is in use.
    fn use_every_claim_cell(&mut self, deadline: Instant) {
        self.settle(deadline);
        let first = self.next;
        for _ in 0..MAX_HELD {
            while let Some(full) = self.try_send() {
                self.drain();
                if Instant::now() > deadline {
                    return self.complaints.push(format!("nothing can be sent at last: {full}"));
                }
            }
        }
        for member in self.members.iter_mut().filter(|m| !m.removed) {
            let Some(rx) = &mut member.rx else { continue };
            let mut leases = Vec::new();
            while leases.len() < MAX_HELD {
                match rx.try_lease() {
                    Ok(lease) => leases.push(lease),
                    // That a process is dead is noticed now and then.
                    Err(TryRecvError::TooManyHeld { .. }) if Instant::now() < deadline => thread::yield_now(),
                    Err(error) => {
                        let held = leases.len();
                        self.complaints.push(format!("group {}: {error}, when {held} were leased", member.name));
                        break;
                    }
                }
            }
            for lease in leases {
                let (number, attempts) = (number(&lease), lease.attempts());
                if number < first {
                    self.complaints.push(format!("group {}: message {number} came late", member.name));
                }
                member.got.entry(number).or_default().push(attempts);
                if let Err(error) = lease.ack() {
                    self.complaints.push(format!("group {}: {error}", member.name));
                }
            }
        }
    }

    /// Receives until every group has had everything that these eyes sent.
    fn settle(&mut self, deadline: Instant) {
        loop {
            self.drain();
            let last = self.next - 1;
            if self.members.iter().all(|m| m.removed || m.got.contains_key(&last)) || Instant::now() > deadline {
                return;
            }
            thread::yield_now();
        }
    }

    /// What another open sees, which cleans up after the dead.
    fn check_remains(&mut self, effect: Effect) {
        let fresh = open(&self.file);
        let stats = fresh.stats();
        let mut complain = |what: String| self.complaints.push(what);
        if (stats.opens, stats.handles) != (2, 3) {
            complain(format!("{} opens and {} handles, not 2 and 3", stats.opens, stats.handles));
        }
        if stats.closed || stats.pages as u64 > PAGES || stats.len > PAGES * self.slots {
            complain(format!("{stats:?}"));
        }
        let groups = fresh.groups();
        for g in &groups {
            if (g.lag, g.held, g.returned, g.damaged) != (0, 0, 0, 0) {
                complain(format!("{g:?}"));
            }
            match self.members.iter().find(|m| m.name == g.name.as_str()) {
                Some(member) if member.removed => complain(format!("group {} is there and was not", g.name)),
                Some(_) => {}
                None => complain(format!("group {} should not be there", g.name)),
            }
        }
        for member in &mut self.members {
            member.removed |= !groups.iter().any(|g| g.name.as_str() == member.name);
            if member.removed && !(effect.removes && member.name == "b") {
                complain(format!("group {} is gone", member.name));
            }
        }
        // No number of a group is taken by half of one.
        let spare: Vec<_> = (groups.len()..MAX_GROUPS).map(|n| format!("spare {n}")).collect();
        for name in &spare {
            if let Err(error) = fresh.blocking_subscribe(name) {
                complain(format!("{} groups are there, and no more can be made: {error}", groups.len()));
            }
        }
        for name in &spare {
            if let Err(error) = fresh.remove_group(name, false) {
                complain(format!("{name}: {error}"));
            }
        }
    }

    /// The books.
    fn balance(&mut self, before: &Before, effect: Effect, said: Option<&Said>, first: Offset) -> Seen {
        let removed = !self.members.iter().any(|m| m.name == "b");
        let mut seen = Seen { removed, ..Seen::default() };
        // A group that is moved while it reads may have read beyond its new place.
        self.complaints
            .retain(|what| !effect.moves || !what.starts_with("group b:") || !what.ends_with("out of order"));
        let stats = self.channel.groups();
        let child: Vec<u64> = (FIRST..FIRST + effect.sends).collect();
        for member in &self.members {
            let mut complain = |what: String| self.complaints.push(format!("group {}: {what}", member.name));
            let group = ["a", "b", "c"].iter().position(|&name| name == member.name).expect("a known group");
            // What the child sent: the first so many, and the same ones in every group.
            let came = child.iter().take_while(|n| member.got.contains_key(n)).count();
            if child.iter().filter(|n| member.got.contains_key(n)).count() != came {
                complain("messages that were sent in one go came without the ones before".into());
            }
            match said {
                Some(said) if came as u64 != said.sent => {
                    complain(format!("{} sends returned Ok, and {came} messages came", said.sent));
                }
                _ => {}
            }
            if group == 0 {
                seen.sent = came;
            } else if seen.sent != came && !member.removed && effect.sends > 0 {
                complain(format!("{came} of the child's messages came, {} to the first group", seen.sent));
            }
            // Everything else: what must come, and how often it had been given before.
            let mut due: BTreeMap<u64, u32> = self.sent.keys().chain(&child[..came]).map(|&n| (n, 0)).collect();
            match before.unfinished.get(group) {
                Some(unfinished) => due.extend(unfinished),
                // A new group starts at the oldest message; beside others that go round, anywhere.
                None if said.is_none() => due.extend(before.from(first)),
                None => {
                    let places: BTreeMap<_, _> = before.sent.iter().chain(&self.sent).collect();
                    let start = member.got.keys().filter_map(|n| places.get(n)).min();
                    due = places.iter().filter(|(_, at)| Some(*at) >= start).map(|(&&n, _)| (n, 0)).collect();
                }
            }
            let by_child = said.filter(|_| group == 0);
            for &(number, attempts) in by_child.iter().flat_map(|said| &said.got) {
                match due.get_mut(&number) {
                    Some(given) if *given + 1 == attempts => *given = attempts,
                    other => complain(format!("the child got message {number} as {attempts}., due: {other:?}")),
                }
            }
            let mut missing: BTreeSet<u64> = BTreeSet::new();
            let mut finished = BTreeSet::new();
            if let Some(said) = by_child {
                for ((number, _), fate) in said.got.iter().zip(&said.fates) {
                    match fate.as_str() {
                        "done" => drop(finished.insert(*number)),
                        "back" => {}
                        "gone" => drop(missing.insert(*number)),
                        other => complain(format!("the child got message {number} and then {other}")),
                    }
                }
            }
            let died_with = |number: u64| said.is_none() && group == 0 && effect.receives(number);
            for (&number, &given) in &due {
                let got = member.got.get(&number).map_or(&[][..], |got| got);
                match got {
                    [] if finished.contains(&number) => {}
                    // It was moved beyond that, perhaps.
                    [] if effect.moves && group == 1 => {}
                    // It came before the group was moved, and lies behind the place that it went to.
                    [1, 1] if effect.moves && group == 1 => {}
                    [] => drop(missing.insert(number)),
                    _ if finished.contains(&number) => {
                        complain(format!("message {number} was finished by the child, and came again: {got:?}"));
                    }
                    [attempts] if *attempts == given + 1 => {}
                    [attempts] if *attempts == given + 2 && died_with(number) => seen.received += 1,
                    _ => complain(format!("message {number} had been given {given} times, and came as {got:?}")),
                }
            }
            for (number, got) in member.got.iter().filter(|(number, _)| !due.contains_key(number)) {
                complain(format!("message {number} came as {got:?} and should not have"));
            }
            if member.removed {
                seen.removed = true;
                continue;
            }
            // What did not come is what the dead child finished, or was counted.
            let stats = stats.iter().find(|g| g.name.as_str() == member.name);
            let (lagged, gone) = stats.map_or((0, 0), |g| (g.lagged, g.gone));
            let expired = stats.map_or(0, |g| g.expired);
            let heard = member.lagged + by_child.map_or(0, |said| said.lagged);
            let told_to_the_dead = said.is_none() && effect.receives.is_some();
            if heard != lagged && !(told_to_the_dead && heard < lagged) {
                complain(format!("{lagged} lagged, and receivers heard of {heard}"));
            }
            let counted = lagged + expired + gone;
            let finished = missing.iter().filter(|&&number| died_with(number)).count() as u64;
            match finished {
                1.. if counted + finished == missing.len() as u64 => {
                    seen.received += finished;
                    seen.finished += finished;
                }
                // Before a new group was joined, others went round.
                _ if group == 2 && said.is_some() => {}
                _ if counted != missing.len() as u64 => {
                    complain(format!("{missing:?} did not come; {lagged} lagged, {expired} expired and {gone} gone"));
                }
                _ => seen.lost |= counted > 0,
            }
            // A page is dropped without need only if the child holds up nobody: it is dead, and known to be.
            if !effect.is_out_of_the_way && self.channel.overflow() == Overflow::DropOldest {
                continue;
            }
            let place = |n: &u64| before.sent.get(n).map(|offset| offset.page());
            let others = missing.iter().filter(|&&n| !effect.receives(n) || group != 0);
            let is_dropped = |page: u64| effect.drops.is_some_and(|(first, last)| (first..=last).contains(&page));
            let odd: Vec<_> = others.filter(|n| !place(n).is_some_and(is_dropped)).collect();
            if !odd.is_empty() {
                complain(format!("lost without need: {odd:?}"));
            }
        }
        seen
    }
}

impl Before {
    /// The messages from a place on, as a group sees them that was just made.
    fn from(&self, first: Offset) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.sent.iter().filter(move |(_, offset)| **offset >= first).map(|(&number, _)| (number, 0))
    }
}
