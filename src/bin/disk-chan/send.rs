//! `disk-chan send`: messages from standard input, or files, into a channel.
//!
//! **Invariants.**
//! - Each message that is read whole is sent before more is read; so what was read and not sent is less than one
//!   message, however the command ends.
//! - What it says was sent was sent, and with `--durable` is on stable storage. Syncs are shared: one is made where
//!   nothing more is there to read, and at least once a second.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use disk_chan::{Full, Headers, Offset, Options, Overflow, Payload, SendTimeoutError, Sender, TrySendError};
use serde_json::json;

use crate::Outcome;
use crate::face::{self, Face, context};
use crate::input::{Framing, Input};
use crate::stop::{Stop, TICK};

/// How long it waits for room before it says so.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest that something stays unsynced under `--durable`, but for the time that the sync takes.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Send each line of standard input as a message, without its newline
///
/// A line may hold any bytes. Each is sent as soon as it is there. When the ring is full it waits for the groups that
/// read it. Interrupted, it ends between two messages and says how many were sent.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  disk-chan send spool.chan --pages 32 --durable < app.log\n  \
                  disk-chan send spool.chan --framing file --key 7 --header type=image/png a.png b.png")]
pub struct Args {
    /// The channel; it is created if it does not exist
    file: PathBuf,
    /// Files to read instead of standard input
    paths: Vec<PathBuf>,
    /// What a message is; `file`: each PATH, or all of standard input
    #[arg(long, value_enum, default_value_t = Framing::Lines)]
    framing: Framing,
    /// Bring every message to stable storage before it ends; meanwhile at least once a second
    #[arg(long)]
    durable: bool,
    /// A key to go with each message
    #[arg(long)]
    key: Option<String>,
    /// A header to go with each message; can be given again
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    #[command(flatten)]
    shape: Shape,
}

/// What is stored in a file that is created; in one that exists it has to be the same.
#[derive(clap::Args)]
#[command(next_help_heading = "The channel, if it is created (else these have to be its own)")]
struct Shape {
    /// Bytes a page, such as 16M
    #[arg(long, value_name = "BYTES", value_parser = crate::bytes)]
    page_size: Option<usize>,
    /// Pages
    #[arg(long, value_name = "N")]
    pages: Option<usize>,
    /// Bytes of a usual message: sizes the table of messages in each page
    #[arg(long, value_name = "BYTES", value_parser = crate::bytes)]
    typical_message_len: Option<usize>,
    /// What a send does when the ring is full
    #[arg(long, value_enum)]
    overflow: Option<WhenFull>,
    /// How long messages are kept for groups that have not read them, such as 7d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,
    /// How long a lease is its holder's, such as 30s
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    lease_timeout: Option<Duration>,
    /// How often a message is handed out before it becomes a dead letter
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum WhenFull {
    /// It waits for the slowest group
    Block,
    /// The oldest page goes
    DropOldest,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("has no `=`")?;
    Ok((name.into(), value.into()))
}

impl Shape {
    fn options(&self) -> Options {
        let mut options = Options::new();
        if let Some(bytes) = self.page_size {
            options = options.page_size(bytes);
        }
        if let Some(pages) = self.pages {
            options = options.max_pages(pages);
        }
        if let Some(bytes) = self.typical_message_len {
            options = options.typical_message_len(bytes);
        }
        match self.overflow {
            Some(WhenFull::Block) => options = options.overflow(Overflow::Block),
            Some(WhenFull::DropOldest) => options = options.overflow(Overflow::DropOldest),
            None => {}
        }
        if let Some(age) = self.max_age {
            options = options.max_age(age);
        }
        if let Some(timeout) = self.lease_timeout {
            options = options.lease_timeout(timeout);
        }
        if let Some(attempts) = self.max_attempts {
            options = options.max_attempts(attempts);
        }
        options
    }
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    let mut headers = Headers::new();
    if let Some(key) = &args.key {
        headers = headers.key(key);
    }
    for (name, value) in &args.headers {
        headers = headers.with(name, value);
    }
    let plain = args.key.is_none() && args.headers.is_empty();
    let stop = Stop::on_signals()?;
    let mut posting = Posting {
        sender: args.shape.options().blocking_open(&args.file)?.sender(),
        stop: &stop,
        headers: (!plain).then_some(headers),
        durable: args.durable,
        count: 0,
        last: None,
        settled: (0, Instant::now()),
        told: false,
    };
    let ended = posting.post_all(args);
    // What was sent before an error counts, too.
    let settled = posting.settle();
    let Posting { count, last, .. } = posting;
    let mut printed = Ok(());
    if settled.is_ok() && face.json {
        let last = last.map(|offset| offset.to_string());
        printed = face.print(|| json!({"sent": count, "last": last, "durable": args.durable}), String::new);
    }
    settled?;
    let so_far = match last {
        Some(last) => format!("{count} messages were sent, the last at {last}; then"),
        None => "nothing was sent".into(),
    };
    ended.map_err(context(so_far))?;
    // Last: that nobody reads it hides no error.
    Ok(printed?)
}

/// Messages on their way.
struct Posting<'a> {
    sender: Sender,
    stop: &'a Stop,
    headers: Option<Headers>,
    durable: bool,
    count: u64,
    last: Option<Offset>,
    /// How many were on stable storage when, if that is asked for.
    settled: (u64, Instant),
    /// Whether it said that it waits for room.
    told: bool,
}

impl Posting<'_> {
    fn post_all(&mut self, args: &Args) -> Outcome<()> {
        if args.paths.is_empty() {
            return self.post_from(io::stdin(), args.framing).map_err(|error| context("standard input")(error).into());
        }
        for path in &args.paths {
            // A pipe with a name is waited for where it is read, so that a signal is noticed.
            let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
            let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path);
            let posted = file.map_err(Into::into).and_then(|file| self.post_from(file, args.framing));
            posted.map_err(context(path.display().to_string()))?;
        }
        Ok(())
    }

    fn post_from(&mut self, from: impl AsFd, framing: Framing) -> Outcome<()> {
        let stop = self.stop;
        let mut input = Input::new(from, framing, self.sender.max_message_len(), stop);
        let mut number = 0_u64;
        loop {
            let more = input.read()?;
            loop {
                let Some(message) = input.next().map_err(context(format!("message {}", number + 1)))? else { break };
                stop.check()?;
                number += 1;
                self.post(message).map_err(|error| context(format!("message {number}"))(error))?;
            }
            if !more {
                return Ok(());
            }
            if self.durable && (self.settled.1.elapsed() > SYNC_EVERY || !input.is_waiting()?) {
                self.settle()?;
            }
        }
    }

    fn post(&mut self, message: &[u8]) -> Outcome<()> {
        let offset = match &self.headers {
            None => self.place(message),
            Some(headers) => self.place(&headers.message(message)?),
        }?;
        self.count += 1;
        self.last = Some(offset);
        Ok(())
    }

    fn place<M: Payload + Copy>(&mut self, message: M) -> Outcome<Offset> {
        match self.sender.try_send(message) {
            Ok(offset) => Ok(offset),
            Err(TrySendError::Full(_)) => self.wait_for_room(message),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for room as long as there is a group that can make some.
    #[cold]
    fn wait_for_room<M: Payload + Copy>(&mut self, message: M) -> Outcome<Offset> {
        self.settle()?;
        let start = Instant::now();
        loop {
            self.stop.check()?;
            match self.sender.send_timeout(message, TICK) {
                Ok(offset) => return Ok(offset),
                Err(SendTimeoutError::Timeout(_)) if start.elapsed() < PATIENCE => {}
                Err(SendTimeoutError::Timeout(Full::NoGroup)) => {
                    return Err("the ring is full and no group reads it: give it more pages, or first make a group \
                         that receives (disk-chan recv FILE --group G -n 0)"
                        .into());
                }
                Err(SendTimeoutError::Timeout(full)) if !self.told => {
                    face::say(format_args!("waiting for room: {full}"));
                    self.told = true;
                }
                Err(SendTimeoutError::Timeout(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Brings what was sent to stable storage, if that is asked for.
    fn settle(&mut self) -> Outcome<()> {
        if self.durable && self.settled.0 < self.count {
            self.sender.blocking_sync()?;
        }
        self.settled = (self.count, Instant::now());
        Ok(())
    }
}
