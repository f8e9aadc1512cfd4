//! What the two processes of a contestant do: as they are told, round by round, over a socket.
//!
//! The receiver is told first; the sender when the receiver is ready. Both work through the same order.

use std::fmt;
use std::fs::File;
use std::hint::spin_loop;
use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};

use crate::contestants::*;

/// Where a message has its number, and from a size of 24 on the time of its sending; it ends with the number.
const NUMBER: usize = 8;
const SENT_AT: usize = 16;

/// A round.
#[derive(Clone, Copy)]
pub struct Order {
    pub wait: Wait,
    pub messages: u64,
    /// Nanoseconds from one send to the next; 0 for as fast as it goes.
    pub pace: u64,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", u8::from(self.wait == Wait::Polling), self.messages, self.pace)
    }
}

impl FromStr for Order {
    type Err = std::num::ParseIntError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let mut number = || numbers.next().unwrap_or("".parse());
        let wait = if number()? == 0 { Wait::Sleeping } else { Wait::Polling };
        Ok(Order { wait, messages: number()?, pace: number()? })
    }
}

/// Nanoseconds of a clock that is the same in all processes.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The messages, in their order.
struct Messages {
    bytes: Vec<u8>,
    number: u64,
}

impl Messages {
    fn new(size: usize) -> Self {
        Messages { bytes: (0..size).map(|at| at as u8).collect(), number: 0 }
    }

    fn next(&mut self, sent_at: u64) -> &[u8] {
        self.number += 1;
        self.bytes[..NUMBER].copy_from_slice(&self.number.to_le_bytes());
        let len = self.bytes.len();
        if len >= SENT_AT + NUMBER {
            self.bytes[NUMBER..SENT_AT].copy_from_slice(&sent_at.to_le_bytes());
            self.bytes[len - NUMBER..].copy_from_slice(&self.number.to_le_bytes());
        }
        &self.bytes
    }

    /// Checks every byte; when the message was sent.
    fn check(&mut self, message: &[u8]) -> u64 {
        let sent_at = message.get(NUMBER..SENT_AT).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        if message != self.next(sent_at) {
            let number = message[..NUMBER].try_into().map_or(0, u64::from_le_bytes);
            panic!("message {} was lost, doubled or altered: {number} came, {message:?}", self.number);
        }
        sent_at
    }
}

/// A process's line to who tells it what to do. Its standard output, as that is how a descriptor comes into a process.
struct Line {
    reader: BufReader<File>,
    writer: File,
}

impl Line {
    fn new() -> Self {
        let fd = stdout().as_fd().try_clone_to_owned().unwrap();
        Line { reader: BufReader::new(fd.try_clone().unwrap().into()), writer: fd.into() }
    }

    fn say(&mut self, text: impl fmt::Display) {
        self.writer.write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    fn order(&mut self) -> Option<Order> {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| line.parse().unwrap())
    }
}

/// One of the two processes: `sender` or `receiver`, the contestant, the size of messages, the directory.
pub fn run(args: &[String]) {
    // Whatever ends the process that reads the results, nothing stays behind.
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let [role, kind, size, dir] = args else { panic!("arguments: ROLE KIND SIZE DIR") };
    let (kind, size, place) = (Kind::named(kind).unwrap(), size.parse().unwrap(), Place::new(Path::new(dir)));
    // The descriptor of a contestant that is one comes as standard input.
    let fd = || -> OwnedFd { stdin().as_fd().try_clone_to_owned().unwrap() };
    match (role.as_str(), kind) {
        ("sender", Kind::DiskChan) => send(DiskChanOut::new(&place), size),
        ("sender", Kind::DiskChanMany) => send(DiskChanManyOut::new(&place, size), size),
        ("sender", Kind::SeqPacket | Kind::Stream | Kind::Pipe) => send(FdOut::new(fd()), size),
        ("sender", Kind::BufferedPipe) => send(BufferedOut::new(fd()), size),
        ("sender", Kind::Iceoryx) => match size {
            8 => send(IceoryxOut::<8>::new(&place), size),
            100 => send(IceoryxOut::<100>::new(&place), size),
            1024 => send(IceoryxOut::<1024>::new(&place), size),
            _ => panic!("no type of {size} bytes"),
        },
        ("receiver", Kind::DiskChan | Kind::DiskChanMany) => receive(DiskChanIn::new(&place, kind), size),
        ("receiver", Kind::SeqPacket | Kind::Stream | Kind::Pipe) => receive(FdIn::new(fd(), size), size),
        ("receiver", Kind::BufferedPipe) => receive(BufferedIn::new(fd(), size), size),
        ("receiver", Kind::Iceoryx) => match size {
            8 => receive(IceoryxIn::<8>::new(&place), size),
            100 => receive(IceoryxIn::<100>::new(&place), size),
            1024 => receive(IceoryxIn::<1024>::new(&place), size),
            _ => panic!("no type of {size} bytes"),
        },
        _ => panic!("no role {role}"),
    }
}

/// Says of each round when it began.
fn send(mut outlet: impl Outlet, size: usize) {
    let mut messages = Messages::new(size);
    let mut line = Line::new();
    line.say("ready");
    while let Some(Order { wait, messages: count, pace }) = line.order() {
        outlet.prepare(wait);
        let start = now();
        if pace == 0 {
            (0..count).for_each(|_| outlet.send(messages.next(start)));
        } else {
            let mut before = start;
            for _ in 0..count {
                // A late one moves all that follow: what is asked is the way of one message, not of a queue.
                while now() < before + pace {
                    spin_loop();
                }
                before = now();
                outlet.send(messages.next(before));
            }
        }
        outlet.flush();
        line.say(start);
    }
}

/// Says of each round when it ended and whether the contestant is warm; of a paced one, how long messages took: the
/// median, 99 %, 99.9 %, and the longest.
fn receive(mut inlet: impl Inlet, size: usize) {
    let mut messages = Messages::new(size);
    let mut line = Line::new();
    line.say("ready");
    while let Some(Order { wait, messages: count, pace }) = line.order() {
        inlet.prepare(wait);
        line.say("ready");
        let mut left = count;
        if pace == 0 {
            while left > 0 {
                inlet.receive(wait, |message| {
                    messages.check(message);
                    left -= 1;
                });
            }
            let end = now();
            line.say(format!("{end} {}", u8::from(inlet.is_warm())));
        } else {
            let mut times = Vec::with_capacity(count as usize);
            while left > 0 {
                inlet.receive(wait, |message| {
                    let received_at = now();
                    times.push(received_at - messages.check(message));
                    left -= 1;
                });
            }
            times.sort();
            let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
            line.say(format!("{} {} {} {}", at(0.5), at(0.99), at(0.999), at(1.0)));
        }
    }
}
