//! The supervisor: starts the workers, torments them, and asks how the channel stands.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use disk_chan::{Channel, Create, GroupStats, OpenError, Options, Overflow, RemoveGroupError};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::common::{Dir, PATIENCE, Rng, eventually, small};
use crate::history::{Counted, Counts, History};
use crate::log::{Kind, Log};
use crate::worker::{
    LEASE_TIMEOUT, OWN_ROW, Order, Role, drain, group_name, log_path, message, name, other_file, visitor_name,
};

const GROUPS: usize = 3;
/// How long nothing may move, with nobody stopped, before something is stuck.
const STUCK: Duration = Duration::from_secs(5);
/// Rounds that one channel goes through.
const ROUNDS_OF_A_CHANNEL: u64 = 8;
/// A round ends here and is checked; the next one goes on with the same file.
const ROUND: Duration = Duration::from_secs(6);

/// Where the logs and the channel are, as one word for a worker's environment.
fn join_place(logs: &Path, file: &Path) -> OsString {
    let mut place = logs.as_os_str().to_owned();
    place.push(":");
    place.push(file);
    place
}

/// The two paths again.
pub fn split_place(place: &OsStr) -> (String, String) {
    let (logs, file) = place.to_str().unwrap().split_once(':').unwrap();
    (logs.to_owned(), file.to_owned())
}

/// A worker that runs. Dropped, it is killed.
struct Worker {
    id: u32,
    role: Role,
    child: Child,
    logs: Vec<Log>,
    errors: PathBuf,
    /// Until when it is stopped.
    stopped: Option<Instant>,
    /// When it is killed, stopped or not.
    killed_at: Option<Instant>,
    /// Whether it was killed, though it may run for a moment yet.
    dying: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    fn signal(&self, signal: Signal) {
        // Not waited for yet: the number is still this child's, alive or not.
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        (self.stopped, self.killed_at, self.dying) = (None, None, true);
    }

    /// Waits a moment until it is in the midst of something, if it does anything.
    fn aim(&self) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(500) && !self.logs.iter().any(Log::is_in_the_midst) {
            std::hint::spin_loop();
        }
    }

    fn ask_to_quit(&self) {
        self.logs.iter().for_each(Log::ask_to_quit);
    }

    fn is_sender(&self) -> bool {
        matches!(self.role, Role::Sender(_))
    }

    fn progress(&self) -> u64 {
        self.logs.iter().map(Log::progress).sum()
    }

    /// Whether it can still do its work: not if it is through with it, or was killed, and only its process is there.
    fn works(&self) -> bool {
        !self.dying && self.logs[0].last_doing() != "ended"
    }

    /// How it looks from outside, for a report: of each thread the state, and where in the kernel it waits.
    fn describe(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let threads = tasks.into_iter().flatten().flatten().map(|task| {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let (stat, waits) = (read("stat"), read("wchan"));
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('-');
            format!("{} {state} {waits}", read("comm").trim_end())
        });
        let threads: Vec<String> = threads.collect();
        let doing: Vec<String> = self.logs.iter().map(Log::last_doing).collect();
        format!(
            "{} {:?}: moved {}, does {doing:?}, stopped {}, dying {}, threads {threads:?}",
            self.id,
            self.role,
            self.progress(),
            self.stopped.is_some(),
            self.dying
        )
    }
}

/// A place for one worker after the other.
struct Slot {
    role: Role,
    /// Workers that were here.
    started: u64,
    worker: Option<Worker>,
    start_at: Instant,
}

/// What happened in a whole run.
#[derive(Default)]
struct Figures {
    started: u64,
    kills: u64,
    stops: u64,
    turns: u64,
    laps: u64,
    longest_wait: Duration,
    counts: Counts,
}

impl Figures {
    fn add(&mut self, other: &Figures) {
        self.started += other.started;
        self.kills += other.kills;
        self.stops += other.stops;
        self.turns += other.turns;
        self.laps += other.laps;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.counts.add(other.counts);
    }
}

struct Supervisor {
    seed: u64,
    rng: Rng,
    dir: Dir,
    logs: Dir,
    options: Options,
    overflow: Overflow,
    pages: u64,
    leases_end: bool,
    slots: Vec<Slot>,
    visitors: Vec<Worker>,
    /// Groups of visitors that were killed.
    left_behind: Vec<String>,
    next_id: u32,
    history: History,
    figures: Figures,
    /// The first number that each row has not used.
    rows: BTreeMap<u64, u64>,
    /// What workers that ended had sent and received: of the senders, and of each group.
    past: Vec<u64>,
    watch: Watch,
}

/// Looks whether everybody gets on.
struct Watch {
    at: Instant,
    /// Of each group and, last, of the senders: how far it was, and how long it has not moved.
    was: Vec<(u64, Duration)>,
    /// Whether somebody was stopped since the last look.
    somebody_stopped: bool,
}

/// Runs it for so many seconds, and prints what happened.
pub fn run(overflow: Overflow, seed: u64, seconds: u64) {
    let start = Instant::now();
    let rounds = (seconds / ROUND.as_secs()).max(1);
    let mut figures = Figures::default();
    let mut left = rounds;
    for channel in 0.. {
        // Of two channels, and of the two kinds, one has leases that end.
        let leases_end = (seed ^ channel ^ u64::from(overflow == Overflow::Block)).is_multiple_of(2);
        let mut supervisor = Supervisor::new(overflow, leases_end, seed.wrapping_add(channel << 32));
        let these = left.min(ROUNDS_OF_A_CHANNEL);
        for round in 0..these {
            supervisor.round(ROUND.min(Duration::from_secs(seconds)), round.is_multiple_of(2));
        }
        figures.add(&supervisor.figures);
        left -= these;
        if left == 0 {
            break;
        }
    }
    let Figures { started, kills, stops, turns, laps, longest_wait, counts } = &figures;
    println!(
        "{overflow:?}: {} s, {rounds} rounds, {started} processes, {kills} kills, {stops} stops, {turns} page turns \
         ({laps} laps)",
        start.elapsed().as_secs(),
    );
    println!("longest wait with nobody stopped: {} ms; {counts:?}", longest_wait.as_millis());
    if seconds >= 10 {
        assert!(*kills >= seconds && *stops >= seconds / 2 && counts.sent > 100 * seconds, "too little happened");
    }
}

impl Supervisor {
    /// A new channel, and nobody who has it open. The seed decides its ring, too.
    fn new(overflow: Overflow, leases_end: bool, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let pages = 2 + rng.below(3);
        let mut options = small().max_pages(pages as usize).max_opens(16).overflow(overflow);
        if leases_end {
            options = options.lease_timeout(LEASE_TIMEOUT);
        }
        println!("{overflow:?}: {pages} pages, leases end: {leases_end}");
        let role = |group| Role::Receiver { group, threads: if group == 2 { 2 } else { 1 } };
        let roles = [
            Role::Sender(vec![(0, 0)]),
            Role::Sender(vec![(1, 0)]),
            Role::Sender(vec![(2, 0), (3, 0)]),
            role(0),
            role(1),
            role(1),
            role(2),
            role(2),
        ];
        let now = Instant::now();
        Self {
            seed,
            rng,
            dir: Dir::new(),
            logs: Dir::in_memory(),
            options,
            overflow,
            pages,
            leases_end,
            slots: roles.map(|role| Slot { role, started: 0, worker: None, start_at: now }).into(),
            visitors: Vec::new(),
            left_behind: Vec::new(),
            next_id: 0,
            history: History::new(overflow, leases_end, GROUPS),
            figures: Figures::default(),
            rows: BTreeMap::new(),
            past: vec![0; GROUPS + 1],
            watch: Watch { at: now, was: vec![(0, Duration::ZERO); GROUPS + 1], somebody_stopped: false },
        }
    }

    fn start(&mut self, role: Role, seed: u64) -> Worker {
        let id = self.next_id;
        self.next_id += 1;
        self.figures.started += 1;
        let logs = self.logs.join("");
        let order = Order { id, seed, role };
        let errors = logs.join(format!("errors-{id}"));
        let log_files = (0..order.role.logs()).map(|at| Log::create(&log_path(&logs, id, at))).collect();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "worker_process", "--nocapture", "--test-threads=1"])
            .env(crate::ORDER, order.to_text())
            .env(crate::PLACE, join_place(&logs, &self.dir.file()))
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors).unwrap());
        // SAFETY: between fork and exec it makes one system call, and allocates nothing.
        unsafe {
            // Whatever becomes of the supervisor's thread, no worker outlives it.
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command.spawn().unwrap();
        Worker { id, role: order.role, child, logs: log_files, errors, stopped: None, killed_at: None, dying: false }
    }

    fn start_slot(&mut self, slot: usize) {
        let mut role = self.slots[slot].role.clone();
        if let Role::Sender(rows) = &mut role {
            for (row, n) in rows {
                *n = self.rows.get(row).copied().unwrap_or(0);
            }
        }
        // The same for the n-th worker of a place, however the plan and the scheduler meet.
        self.slots[slot].started += 1;
        let seed = self.seed ^ (slot as u64) << 48 ^ self.slots[slot].started << 16;
        let worker = self.start(role, seed);
        self.slots[slot].worker = Some(worker);
    }

    /// Takes down what a worker that ended did.
    fn ended(&mut self, mut worker: Worker, status: ExitStatus) {
        let errors = std::fs::read_to_string(&worker.errors).unwrap();
        let killed = status.signal() == Some(Signal::KILL.as_raw());
        assert!(killed == worker.dying || !killed && status.success(), "{}: {status}", worker.describe());
        assert!(killed || status.success(), "{}: {status}\n{errors}\n{}", worker.describe(), self.report(None));
        if killed {
            self.figures.kills += 1;
            let receiver = match worker.role {
                Role::Receiver { group, threads } => Some((group, threads)),
                _ => None,
            };
            self.history.killed(worker.id, receiver);
            if worker.role == Role::Visitor {
                self.left_behind.push(visitor_name(worker.id));
            }
        }
        std::fs::remove_file(&worker.errors).unwrap();
        let progress = worker.progress();
        for log in std::mem::take(&mut worker.logs) {
            let records = log.records();
            match worker.role {
                Role::Sender(_) => {
                    let last = records.iter().rev().find(|r| r.kind == Kind::Invoked);
                    if let Some(last) = last {
                        self.rows.insert(last.number >> 56, (last.number & u64::MAX >> 8) + 1);
                    }
                    self.history.add_sender(worker.id, &records);
                }
                Role::Receiver { group, .. } => {
                    self.history.add_receiver(worker.id, group, group == 0, &records);
                }
                Role::Visitor => {}
            }
            log.remove();
        }
        match worker.role {
            Role::Sender(_) => self.past[GROUPS] += progress,
            Role::Receiver { group, .. } => self.past[group] += progress,
            Role::Visitor => {}
        }
    }

    fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.slots.iter().filter_map(|slot| slot.worker.as_ref()).chain(&self.visitors)
    }

    fn workers_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        self.slots.iter_mut().filter_map(|slot| slot.worker.as_mut()).chain(&mut self.visitors)
    }

    /// Continues who was stopped long enough, and takes down who ended.
    fn tend(&mut self) {
        let now = Instant::now();
        for worker in self.workers_mut() {
            if worker.killed_at.is_some_and(|at| at <= now) {
                worker.kill();
            }
            if worker.stopped.take_if(|until| *until <= now).is_some() {
                worker.signal(Signal::CONT);
            }
        }
        for slot in 0..self.slots.len() {
            let ended = self.slots[slot].worker.take_if(|w| w.child.try_wait().unwrap().is_some());
            if let Some(mut worker) = ended {
                let pause = if self.rng.one_in(10) { 400 } else { 40 };
                self.slots[slot].start_at = now + Duration::from_millis(self.rng.below(pause));
                let status = worker.child.wait().unwrap();
                self.ended(worker, status);
            }
        }
        for at in (0..self.visitors.len()).rev() {
            if let Some(status) = self.visitors[at].child.try_wait().unwrap() {
                let visitor = self.visitors.remove(at);
                self.ended(visitor, status);
            }
        }
    }

    fn somebody_stopped(&self) -> bool {
        self.workers().any(|w| w.stopped.is_some())
    }

    /// Removes the groups of visitors that were killed: nobody reads them, and they would fill the ring.
    fn remove_left_behind(&mut self, channel: &Channel) {
        // Who is stopped may hold the lock that this takes.
        if self.somebody_stopped() {
            return;
        }
        for name in self.left_behind.drain(..) {
            match channel.remove_group(name.as_str(), true) {
                Ok(()) | Err(RemoveGroupError::NotFound) => {}
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }

    /// One act of torment; how long until the next.
    fn act(&mut self) -> Duration {
        let alive: Vec<usize> = (0..self.slots.len()).filter(|&s| self.slots[s].worker.is_some()).collect();
        let now = Instant::now();
        let mut rng = Rng::new(self.rng.next());
        if alive.is_empty() {
            return Duration::from_millis(10);
        }
        let victim = alive[rng.below(alive.len() as u64) as usize];
        match rng.below(100) {
            0..45 => {
                if rng.one_in(2) {
                    self.victim(victim).aim();
                }
                self.victim(victim).kill();
            }
            45..70 => {
                let most = if rng.one_in(4) { 300 } else { 40 };
                let until = now + Duration::from_millis(1 + rng.below(most));
                if rng.one_in(2) {
                    self.victim(victim).aim();
                }
                self.stop(victim, until, rng.one_in(4));
            }
            70..85 if self.visitors.len() < 3 => {
                let mut visitor = self.start(Role::Visitor, rng.next());
                if rng.one_in(2) {
                    // Somewhere in what it does, or before it does anything.
                    visitor.killed_at = Some(now + Duration::from_micros(rng.below(60_000)));
                }
                self.visitors.push(visitor);
            }
            85..94 => self.victim(victim).ask_to_quit(),
            94 => {
                // All who send, all of a group, or everybody.
                let of = rng.below(GROUPS as u64 + 2) as usize;
                for slot in alive {
                    let hit = match self.slots[slot].role {
                        Role::Receiver { group, .. } => group == of,
                        _ => of == GROUPS,
                    };
                    if hit || of > GROUPS {
                        self.victim(slot).kill();
                    }
                }
            }
            95..98 => return Duration::from_millis(200 + rng.below(600)),
            _ => {}
        }
        Duration::from_millis(rng.below(50))
    }

    fn victim(&mut self, slot: usize) -> &mut Worker {
        self.slots[slot].worker.as_mut().unwrap()
    }

    fn stop(&mut self, slot: usize, until: Instant, kill: bool) {
        let worker = self.victim(slot);
        if worker.stopped.is_none() && !worker.dying {
            worker.signal(Signal::STOP);
            worker.stopped = Some(until);
            worker.killed_at = kill.then_some(until);
            self.figures.stops += 1;
        }
    }

    /// How far each group and, last, the senders are.
    fn progress(&self) -> Vec<u64> {
        let mut progress = self.past.clone();
        for worker in self.workers() {
            match worker.role {
                Role::Sender(_) => progress[GROUPS] += worker.progress(),
                Role::Receiver { group, .. } => progress[group] += worker.progress(),
                Role::Visitor => {}
            }
        }
        progress
    }

    /// Fails if somebody who could get on does not. Without a channel only the senders are looked at.
    fn look(&mut self, channel: Option<&Channel>) {
        self.watch.somebody_stopped |= self.somebody_stopped();
        let passed = self.watch.at.elapsed();
        if passed < Duration::from_millis(20) {
            return;
        }
        self.watch.at = Instant::now();
        let stopped = self.watch.somebody_stopped;
        self.watch.somebody_stopped = self.somebody_stopped();
        let groups = channel.map_or(Vec::new(), Channel::groups);
        let progress = self.progress();
        let receives = |group| {
            self.workers().any(|w| w.works() && matches!(w.role, Role::Receiver { group: of, .. } if of == group))
        };
        let all_receive = (0..GROUPS).all(receives);
        for (at, now) in progress.into_iter().enumerate() {
            let is_for_it = |w: &Worker| match w.role {
                Role::Sender(_) => at == GROUPS,
                Role::Receiver { group, .. } => at == group,
                Role::Visitor => false,
            };
            let alive = self.workers().any(|w| w.works() && is_for_it(w));
            // Where a group has no receiver at the moment, senders may wait.
            let waits =
                if at == GROUPS { all_receive } else { stats_of(&groups, at).is_some_and(|stats| stats.lag > 0) };
            let (was, waited) = &mut self.watch.was[at];
            if *was != now || !waits {
                (*was, *waited) = (now, Duration::ZERO);
            } else if alive && !stopped {
                *waited += passed;
                self.figures.longest_wait = self.figures.longest_wait.max(*waited);
                assert!(self.watch.was[at].1 < STUCK, "{at} of 0..{GROUPS} does not get on\n{}", self.report(channel));
            }
        }
    }

    /// Everything that tells who waits for what.
    fn report(&self, channel: Option<&Channel>) -> String {
        let mut text: String = self.workers().map(|w| format!("{}\n", w.describe())).collect();
        if let Some(channel) = channel {
            text += &format!("{:#?}\n", channel.stats());
            channel.groups().iter().for_each(|group| text += &format!("{group:?}\n"));
            text += &format!("a send says: {:?}\n", channel.sender().try_send(message(name(OWN_ROW, 0))));
        }
        text
    }

    /// Waits, tending, until it holds; meanwhile nobody is tormented.
    fn wait_until(&mut self, what: &str, channel: Option<&Channel>, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        loop {
            self.tend();
            if holds(self) {
                return;
            }
            self.look(channel);
            assert!(start.elapsed() < PATIENCE, "waited in vain until {what}\n{}", self.report(channel));
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Some seconds of torment, then the end of all workers, then the books.
    fn round(&mut self, time: Duration, by_close: bool) {
        let channel = self.options.clone().blocking_open(self.dir.file()).unwrap();
        for group in 0..GROUPS {
            drop(channel.blocking_subscribe(group_name(group)).unwrap());
        }
        let before = channel.groups();
        let turns_before = channel.stats().page_turns;
        let end = Instant::now() + time;
        let mut next_act = Instant::now() + Duration::from_millis(100);
        let mut next_quiet = Instant::now() + Duration::from_millis(1_500);
        self.watch.at = Instant::now();
        while Instant::now() < end {
            self.tend();
            self.remove_left_behind(&channel);
            for slot in 0..self.slots.len() {
                if self.slots[slot].worker.is_none() && self.slots[slot].start_at <= Instant::now() {
                    self.start_slot(slot);
                }
            }
            if Instant::now() >= next_act {
                next_act = Instant::now() + self.act();
            }
            self.look(Some(&channel));
            if Instant::now() >= next_quiet {
                self.kill_beside_sleepers(&channel);
                next_quiet = Instant::now() + Duration::from_millis(1_000 + self.rng.below(2_000));
            }
            thread::sleep(Duration::from_millis(1));
        }
        // From here on every group has its receivers.
        self.wait_until("nobody is stopped", Some(&channel), |s| !s.somebody_stopped() && s.visitors.is_empty());
        self.remove_left_behind(&channel);
        self.have_receivers(&channel);
        let channel = self.end_workers(channel, by_close);
        self.settle(&channel, &before);
        let turns = channel.stats().page_turns - turns_before;
        self.figures.turns += turns;
        self.figures.laps += turns / self.pages;
        self.recycle(&channel);
    }

    /// Has the senders send nothing, or go on.
    fn hush(&self, hush: bool) {
        self.workers().filter(|w| w.is_sender()).for_each(|w| w.logs.iter().for_each(|log| log.hush(hush)));
    }

    /// Waits until nothing moves, so that whoever can sleep does.
    fn wait_for_quiet(&mut self) {
        let (start, mut since, mut was) = (Instant::now(), Instant::now(), self.progress());
        while since.elapsed() < Duration::from_millis(150) {
            self.tend();
            let now = self.progress();
            if now != was {
                (since, was) = (Instant::now(), now);
            }
            assert!(start.elapsed() < PATIENCE, "it goes on and on\n{}", self.report(None));
            thread::sleep(Duration::from_millis(1));
        }
        self.watch.at = Instant::now();
    }

    /// Kills, while all others sleep, one sender and one receiver of each group that has another; all of them were
    /// stopped in the midst of something. Nobody sends any more, and nobody is started: what they held, and what lies
    /// behind a send that they had begun, comes only if a sleeper sees that they died.
    fn kill_beside_sleepers(&mut self, channel: &Channel) {
        self.wait_until("nobody is stopped", Some(channel), |s| !s.somebody_stopped() && s.visitors.is_empty());
        self.remove_left_behind(channel);
        let mut victims = Vec::new();
        for kind in 0..=GROUPS {
            let of_kind = |w: &Worker| match w.role {
                Role::Receiver { group, .. } => group == kind,
                _ => kind == GROUPS,
            };
            let alive = |&s: &usize| self.slots[s].worker.as_ref().is_some_and(of_kind);
            let alive: Vec<usize> = (0..self.slots.len()).filter(alive).collect();
            if alive.len() > 1 {
                victims.push(alive[self.rng.below(alive.len() as u64) as usize]);
            }
        }
        for &slot in &victims {
            self.stop(slot, Instant::now() + PATIENCE, true);
        }
        self.hush(true);
        self.wait_for_quiet();
        for slot in victims {
            // If it had ended before it could be stopped, nobody is there.
            if let Some(worker) = &mut self.slots[slot].worker {
                worker.kill();
            }
        }
        self.wait_until("nothing is left to those who sleep", Some(channel), |s| {
            channel.groups().iter().all(|stats| {
                let of = |w: &Worker| matches!(w.role, Role::Receiver { group, .. } if group_name(group) == stats.name.as_str());
                (stats.lag, stats.held, stats.returned) == (0, 0, 0) || !s.workers().any(of)
            })
        });
        self.hush(false);
    }

    /// Replaces the receivers that ended or were asked to, until all are there to the end.
    fn have_receivers(&mut self, channel: &Channel) {
        loop {
            let receivers = (0..self.slots.len()).filter(|&s| matches!(self.slots[s].role, Role::Receiver { .. }));
            let ended: Vec<usize> = receivers.filter(|&s| self.slots[s].worker.is_none()).collect();
            if ended.is_empty() && !self.workers().any(|w| w.dying || w.logs[0].is_asked_to_quit()) {
                return;
            }
            for slot in ended {
                self.start_slot(slot);
            }
            self.tend();
            self.look(Some(channel));
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the senders and sees the receivers drain the channel: because it was closed, or because all who could send
    /// were killed while the receivers slept.
    fn end_workers(&mut self, channel: Channel, by_close: bool) -> Channel {
        let channel = by_close.then_some(channel);
        if !by_close {
            self.hush(true);
            self.wait_for_quiet();
        }
        let kills: Vec<bool> = self.slots.iter().map(|_| self.rng.one_in(2) || !by_close).collect();
        for (slot, kill) in self.slots.iter_mut().zip(kills) {
            match slot.worker.as_mut().filter(|w| w.is_sender()) {
                Some(worker) if kill => worker.kill(),
                Some(worker) => worker.ask_to_quit(),
                None => {}
            }
        }
        self.wait_until("the senders end", channel.as_ref(), |s| !s.workers().any(Worker::is_sender));
        if let Some(channel) = &channel {
            channel.close();
        }
        self.wait_until("the receivers drain the channel", channel.as_ref(), |s| {
            s.slots.iter().all(|slot| slot.worker.is_none())
        });
        channel.unwrap_or_else(|| Options::new().create(Create::OpenExisting).blocking_open(self.dir.file()).unwrap())
    }

    /// Checks what the channel says of itself, and the history.
    fn settle(&mut self, channel: &Channel, before: &[GroupStats]) {
        let after = channel.groups();
        assert_eq!(after.len(), GROUPS, "{after:?}");
        let counted: Vec<Counted> = (0..GROUPS)
            .map(|group| {
                let (before, after) = (stats_of(before, group).unwrap(), stats_of(&after, group).unwrap());
                assert_eq!((after.lag, after.held, after.returned), (0, 0, 0), "not drained: {after:?}");
                Counted::between(before, after)
            })
            .collect();
        let history = std::mem::replace(&mut self.history, History::new(self.overflow, self.leases_end, GROUPS));
        self.figures.counts.add(history.check(&counted));
    }

    /// Every page can be written, read and used again; and the opens of the dead are free.
    fn recycle(&mut self, channel: &Channel) {
        let tx = channel.sender();
        let mut receivers: Vec<_> = (0..GROUPS).map(|g| channel.blocking_subscribe(group_name(g)).unwrap()).collect();
        let until = channel.stats().page_turns + 3 * self.pages;
        let mut n = 0;
        let deadline = Instant::now() + PATIENCE;
        while channel.stats().page_turns < until {
            assert!(Instant::now() < deadline, "the ring does not turn: {:?} {:?}", channel.stats(), channel.groups());
            let sent = tx.try_send(message(name(OWN_ROW, n)));
            n += u64::from(sent.is_ok());
            if sent.is_err() || self.overflow == Overflow::DropOldest {
                receivers.iter_mut().for_each(drain);
            }
        }
        // Who polls cleans up after the dead.
        eventually("only the supervisor has the file open", || {
            receivers.iter_mut().for_each(drain);
            channel.stats().opens == 1
        });
        receivers.iter_mut().for_each(drain);
        match Options::new().create(Create::OpenExisting).blocking_open(other_file(&self.dir.file())) {
            Ok(others) => {
                drain(&mut others.blocking_subscribe("visitors").unwrap());
                assert_eq!(others.stats().opens, 1);
            }
            // No visitor came so far.
            Err(OpenError::NotFound { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn stats_of(groups: &[GroupStats], group: usize) -> Option<&GroupStats> {
    groups.iter().find(|stats| stats.name.as_str() == group_name(group))
}
