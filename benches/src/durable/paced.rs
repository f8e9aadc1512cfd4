//! What a sync in the background costs those who send: one sender, and a receiver that keeps up.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use disk_chan::{Receiver, Sender};
use rustix::time::{ClockId, clock_gettime};

use crate::ring::{Ends, PAGE};
use crate::run::LEN;

/// Time between two syncs.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// A paced sender sends what is due, and sleeps for this long.
const TICK: Duration = Duration::from_millis(1);
/// Of the ring: more than is sent between two syncs, so that what is sent is also what a sync has to write.
const PAGES: usize = 64;
/// One send in so many is timed.
const TIMED: u64 = 16;

/// When the channel syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Buffered,
    Interval,
}

impl Mode {
    pub const ALL: [Mode; 2] = [Mode::Buffered, Mode::Interval];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Buffered => "Buffered",
            Mode::Interval => "Interval",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// From the first send to the end of the last.
    pub time: Duration,
    /// Of the sender's thread.
    pub sender: Duration,
    /// Of all threads of the process.
    pub process: Duration,
    /// Of the sends that were timed: the median, 99 %, 99.9 %.
    pub sends: [Duration; 3],
    /// The longest time in which the sends of one tick were made.
    pub tick: Duration,
}

/// As they go from process to process, in nanoseconds.
impl From<[u64; 7]> for Figures {
    fn from(numbers: [u64; 7]) -> Self {
        let [time, sender, process, median, most, nearly_all, tick] = numbers.map(Duration::from_nanos);
        Figures { time, sender, process, sends: [median, most, nearly_all], tick }
    }
}

/// A channel, its ring gone round once.
pub struct Paced {
    ends: Ends,
    bytes: u64,
}

fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Paced {
    pub fn new(dir: &Path, mode: Mode) -> Self {
        let every = (mode == Mode::Interval).then_some(INTERVAL);
        let mut ends = Ends::open(&dir.join("paced.chan"), PAGES, every);
        let bytes = ends.go_round();
        ends.settle();
        Paced { ends, bytes }
    }

    /// To `MESSAGES PACE`, where the pace is in messages a second, and 0 is as fast as it goes, the figures; to `0 0`,
    /// how many bytes of the file a message takes.
    pub fn answer(&mut self, order: &str) -> Vec<u64> {
        let mut words = order.split_whitespace().map(|word| word.parse::<u64>().unwrap());
        let (messages, pace) = (words.next().unwrap(), words.next().unwrap());
        if messages == 0 {
            return vec![self.bytes];
        }
        // Once round before: a page of memory that was just written back costs its next writer a fault, and in a channel
        // that does not sync most are not.
        self.ends.pass(PAGES as u64 * PAGE as u64 / self.bytes);
        let sender = self.ends.channel.sender();
        let mut receiver = self.ends.receiver.clone();
        let process = cpu_time(ClockId::ProcessCPUTime);
        let receiving = thread::spawn(move || receive(&mut receiver, messages));
        let sending = thread::spawn(move || send(&sender, messages, pace));
        let sent = sending.join().unwrap();
        receiving.join().unwrap();
        let process = cpu_time(ClockId::ProcessCPUTime) - process;
        self.ends.settle();
        let [median, most, nearly_all] = sent.sends;
        let times = [sent.time, sent.sender, process, median, most, nearly_all, sent.tick];
        times.iter().map(|time| time.as_nanos() as u64).collect()
    }
}

fn send(sender: &Sender, messages: u64, pace: u64) -> Figures {
    let mut message = [0; LEN];
    let mut next = |number: u64| {
        message[..8].copy_from_slice(&number.to_le_bytes());
        sender.blocking_send(message).unwrap();
    };
    let mut times = Vec::with_capacity((messages / TIMED + 1) as usize);
    let mut tick = Duration::ZERO;
    let cpu = cpu_time(ClockId::ThreadCPUTime);
    let start = Instant::now();
    if pace == 0 {
        (0..messages).for_each(&mut next);
    } else {
        let (mut sent, mut due_at) = (0, Duration::ZERO);
        while sent < messages {
            due_at += TICK;
            let due = ((due_at.as_secs_f64() * pace as f64) as u64).min(messages);
            // Who is late does not sleep until it has caught up.
            thread::sleep(due_at.saturating_sub(start.elapsed()));
            let tick_start = Instant::now();
            while sent < due {
                if sent % TIMED == 0 {
                    let send_start = Instant::now();
                    next(sent);
                    times.push(send_start.elapsed());
                } else {
                    next(sent);
                }
                sent += 1;
            }
            tick = tick.max(tick_start.elapsed());
        }
    }
    let time = start.elapsed();
    let cpu = cpu_time(ClockId::ThreadCPUTime) - cpu;
    times.sort();
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or_default();
    Figures { time, sender: cpu, process: Duration::ZERO, sends: [at(0.5), at(0.99), at(0.999)], tick }
}

/// Checks that every message comes once and in its order.
fn receive(receiver: &mut Receiver, messages: u64) {
    for number in 0..messages {
        let message = receiver.blocking_recv().unwrap();
        assert!(message.len() == LEN && message[..8] == number.to_le_bytes(), "not message {number}");
    }
}
