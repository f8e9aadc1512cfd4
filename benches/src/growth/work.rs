//! A channel of some size and what goes through it, in a process of its own.

use std::path::Path;
use std::sync::Barrier;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use disk_chan::{Channel, Create, Options, Receiver, Sender, Start};
use rustix::time::{ClockId, clock_gettime};

use super::Series;
use crate::process;

pub const LEN: usize = 100;
/// What a message of that length takes in the file.
pub const IN_FILE: u64 = 144;
const PAGE: usize = 16 << 20;
const PAGES: usize = 16;
const SMALL_PAGE: usize = 64 << 10;
/// Messages of which it is sure that the smallest ring has room for them.
const SOME: u64 = 1000;

/// The process of a case: answers a number of messages by the seconds that they took.
pub fn child(args: &[String]) {
    let [series, value, dir] = args else { panic!("arguments: SERIES VALUE DIR") };
    let (series, value) = (Series::named(series).unwrap(), value.parse::<u64>().unwrap());
    let path = Path::new(dir).join("growth.chan");
    if series == Series::FanOut {
        let mut ends = Ends::open(&path, Options::new(), 1);
        ends.go_round();
        ends.channel.remove_group("group 0", false).unwrap();
        let (channel, sender) = (ends.channel, ends.sender);
        return process::serve(|order| vec![fan_out(&channel, &sender, value, order.parse().unwrap())]);
    }
    let mut ends = match series {
        Series::Backlog => {
            let pages = value as usize * 5 / 4 / PAGE + PAGES;
            Ends::open(&path, Options::new().page_size(PAGE).max_pages(pages), 1)
        }
        Series::Pages => Ends::open(&path, Options::new().page_size(SMALL_PAGE).max_pages(value as usize), 1),
        Series::Groups => Ends::open(&path, Options::new(), value),
        Series::Handles | Series::FanOut => Ends::open(&path, Options::new(), 1),
    };
    ends.go_round();
    if series == Series::Backlog {
        ends.send(value / IN_FILE);
    }
    let more = if series == Series::Handles { value } else { 0 };
    let _handles: Vec<_> = (0..more).map(|_| (ends.sender.clone(), ends.receivers[0].clone())).collect();
    process::serve(|order| vec![ends.pass(order.parse().unwrap()).as_secs_f64()]);
}

struct Ends {
    channel: Channel,
    sender: Sender,
    sent: u64,
    receivers: Vec<Receiver>,
    /// By each group.
    received: u64,
}

/// Sends messages with these numbers.
fn send(sender: &Sender, numbers: std::ops::Range<u64>) {
    let mut message = [1; LEN];
    for number in numbers {
        message[..8].copy_from_slice(&number.to_le_bytes());
        sender.blocking_send(message).unwrap();
    }
}

impl Ends {
    fn open(path: &Path, options: Options, groups: u64) -> Self {
        let channel = options.create(Create::CreateNew).trust_file_system(true).blocking_open(path).unwrap();
        let group = |group| channel.blocking_subscribe(format!("group {group}")).unwrap();
        let receivers = (0..groups).map(group).collect();
        let sender = channel.sender();
        Ends { channel, sender, sent: 0, receivers, received: 0 }
    }

    /// Sends and receives until the ring has gone round once.
    fn go_round(&mut self) {
        let stats = self.channel.stats();
        while self.channel.stats().page_turns <= (stats.pages + stats.free_pages) as u64 {
            for _ in 0..100 {
                self.send(SOME / 10);
                self.receive(SOME / 10);
            }
        }
    }

    fn send(&mut self, messages: u64) {
        send(&self.sender, self.sent..self.sent + messages);
        self.sent += messages;
    }

    /// Receives so many messages of each group, the oldest first. The groups take turns.
    fn receive(&mut self, messages: u64) {
        for number in self.received..self.received + messages {
            for receiver in &mut self.receivers {
                let message = receiver.blocking_recv().unwrap();
                assert_eq!(message[..8], number.to_le_bytes(), "messages were lost, doubled or altered");
            }
        }
        self.received += messages;
    }

    /// A thread sends so many messages, and another receives as many.
    fn pass(&mut self, messages: u64) -> Duration {
        let barrier = &Barrier::new(2);
        let (sender, first) = (self.sender.clone(), self.sent);
        self.sent += messages;
        thread::scope(|scope| {
            scope.spawn(move || {
                barrier.wait();
                send(&sender, first..first + messages);
            });
            barrier.wait();
            let start = Instant::now();
            self.receive(messages);
            start.elapsed()
        })
    }
}

/// Seconds of CPU that a sender takes for so many messages while groups do something else. Of each group one receiver
/// has leased a message and is asleep in what it does with it, and nobody is in `recv`: the groups lag, and no send has
/// anybody to wake. Receivers that sleep in `recv` would be woken by the first send and be where the others are.
fn fan_out(channel: &Channel, sender: &Sender, groups: u64, messages: u64) -> f64 {
    let names: Vec<_> = (0..groups).map(|group| format!("fan-out {group}")).collect();
    let subscribe = |name: &String| channel.blocking_subscribe_from(name.as_str(), Start::Newest).unwrap();
    let receivers: Vec<_> = names.iter().map(subscribe).collect();
    let leased = Barrier::new(receivers.len() + 1);
    let time = thread::scope(|scope| {
        let (leased, mut handlers) = (&leased, Vec::new());
        for mut receiver in receivers {
            let (over, handler) = mpsc::channel::<()>();
            handlers.push(over);
            scope.spawn(move || {
                let lease = receiver.blocking_lease().unwrap();
                leased.wait();
                // Until the other end is dropped.
                handler.recv().unwrap_err();
                lease.ack().unwrap();
            });
        }
        send(sender, 0..1);
        leased.wait();
        let cpu = || clock_gettime(ClockId::ThreadCPUTime);
        let before = cpu();
        send(sender, 1..messages);
        let after = cpu();
        (after.tv_sec - before.tv_sec) as f64 + (after.tv_nsec - before.tv_nsec) as f64 / 1e9
    });
    names.iter().for_each(|name| channel.remove_group(name.as_str(), true).unwrap());
    time
}
