//! disk_chan.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use disk_chan::{Channel, Options, Receiver, TryRecvError};

use crate::calls;
use crate::contestants::Contestant;
use crate::run::{self, Caller, LEN, Outcome, Shape};

pub const PAGE: usize = 4 << 20;
const PAGES: usize = 16;
/// More than a message takes in the file.
const ROOM: u64 = 192;

/// How it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    Threads,
    Tasks,
    /// Threads, and a new file for each run.
    New,
}

/// A channel and a group that reads it.
pub struct Ends {
    pub channel: Channel,
    pub receiver: Receiver,
}

impl Ends {
    pub fn open(path: &Path, pages: usize, every: Option<Duration>) -> Self {
        let options = Options::new().page_size(PAGE).max_pages(pages).typical_message_len(LEN);
        let channel = calls::open(options, path, every);
        let receiver = channel.blocking_subscribe("durable").unwrap();
        Ends { channel, receiver }
    }

    /// A ring that no run overfills.
    pub fn pages(sends: u64) -> usize {
        (sends.saturating_mul(ROOM).div_ceil(PAGE as u64) as usize + 2).max(PAGES)
    }

    /// Receives what is there.
    pub fn drain(&mut self) -> u64 {
        let mut messages = 0;
        loop {
            match self.receiver.try_recv() {
                Ok(message) => assert_eq!(message.len(), LEN),
                Err(TryRecvError::Empty) => return messages,
                Err(error) => panic!("{error}"),
            }
            messages += 1;
        }
    }

    /// Sends and receives so many messages, no more than the ring has room for at a time.
    pub fn pass(&mut self, messages: u64) -> u64 {
        let sender = self.channel.sender();
        let (mut left, mut received) = (messages, 0);
        while left > 0 {
            let some = left.min(PAGE as u64 / ROOM);
            for _ in 0..some {
                sender.blocking_send([0; LEN]).unwrap();
            }
            received += self.drain();
            left -= some;
        }
        received
    }

    /// Sends and receives until the ring has gone round once; how many bytes of the file a message takes.
    pub fn go_round(&mut self) -> u64 {
        let mut messages = 0;
        loop {
            messages += self.pass(PAGE as u64 / ROOM);
            let stats = self.channel.stats();
            if stats.page_turns > (stats.pages + stats.free_pages) as u64 {
                return stats.page_turns * PAGE as u64 / messages;
            }
        }
    }

    /// Writes back what was changed, so that it is no part of what comes next.
    pub fn settle(&self) {
        File::open(self.channel.path()).unwrap().sync_data().unwrap();
    }
}

pub struct Ring {
    path: PathBuf,
    pages: usize,
    face: Face,
    ends: Ends,
    received: u64,
    runtime: tokio::runtime::Runtime,
}

impl Ring {
    pub fn new(dir: &Path, sends: u64, face: Face) -> Self {
        let path = dir.join("durable.chan");
        let pages = Ends::pages(sends);
        let mut ends = Ends::open(&path, pages, None);
        if face != Face::New {
            ends.go_round();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        Ring { path, pages, face, ends, received: 0, runtime }
    }

    /// The messages of the run before are received now, so that those of the last are in the file when it is closed.
    fn prepare(&mut self) {
        self.received += self.ends.drain();
        if self.face == Face::New {
            std::fs::remove_file(&self.path).unwrap();
            self.ends = Ends::open(&self.path, self.pages, None);
        }
        self.ends.settle();
    }
}

impl Contestant for Ring {
    fn callers(&mut self, callers: usize) -> Vec<Caller> {
        self.prepare();
        let caller = |_| -> Caller {
            let sender = self.ends.channel.sender();
            Box::new(move |message| {
                calls::blocking_send_durable(&sender, message);
                true
            })
        };
        (0..callers).map(caller).collect()
    }

    fn run(&mut self, shape: Shape) -> Outcome {
        if self.face != Face::Tasks {
            let callers = self.callers(shape.callers);
            return run::threads(shape, callers);
        }
        self.prepare();
        run::tasks(shape, &self.runtime, || {
            let sender = self.ends.channel.sender();
            move |message| {
                let sender = sender.clone();
                async move { calls::send_durable(&sender, &message).await }
            }
        })
    }

    fn count(self: Box<Self>) -> u64 {
        let Ring { path, pages, ends, received, .. } = *self;
        drop(ends);
        received + Ends::open(&path, pages, None).drain()
    }
}
