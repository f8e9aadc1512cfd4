//! `disk-chan tail`: prints messages as a reader sees them, and follows the end. It moves no group.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::path::PathBuf;
use std::time::Duration;

use disk_chan::{Channel, Offset, Reader, Record, Start, TryReadError};
use regex::bytes::Regex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::Outcome;
use crate::face::{self, Face, Place, say};
use crate::figures::count;
use crate::messages::{self, Format};
use crate::snapshot::Watched;

const BUFFER: usize = 1 << 16;
/// Messages printed where nobody says how many.
const LAST: u64 = 10;
/// How often the end is looked at, and how often the file.
const TICK: Duration = Duration::from_millis(50);
const TICKS_A_LOOK: u32 = 20;

/// Print messages without moving any group
///
/// The last ones, or from a place on; with --follow also those to come. It holds up nobody: messages that are
/// overwritten before they were read are said on standard error.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  disk-chan tail -f orders.chan\n  disk-chan tail --from 15m --grep refund --json orders.chan | jq .text"
)]
pub struct Args {
    /// The channel
    file: PathBuf,
    /// Go on with messages as they come, also when the file is opened, recovered or replaced; Ctrl-C ends it
    #[arg(short, long)]
    follow: bool,
    /// Print N messages: the last ones [default: 10], or with --from the first ones from there [default: all]
    #[arg(short = 'n', value_name = "N")]
    count: Option<u64>,
    /// Begin here: an offset, a time, how long ago (15m), oldest or newest
    #[arg(long, value_name = "PLACE", value_parser = face::place)]
    from: Option<Place>,
    /// Only messages in which this regular expression is found
    #[arg(long, value_name = "RE", value_parser = |text: &str| Regex::new(text))]
    grep: Option<Regex>,
    /// Only messages with this key
    #[arg(long)]
    key: Option<String>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Args {
    fn wants(&self, record: &Record) -> bool {
        self.key.as_ref().is_none_or(|key| record.key() == Some(key.as_bytes()))
            && self.grep.as_ref().is_none_or(|re| re.is_match(record))
    }
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    let mut file = Watched::new(&args.file);
    let (channel, _) = file.look()?;
    let channel = channel.clone();
    let format = if face.json { Format::Json } else { args.format };
    let end = channel.end_offset();
    let mut tail = Tail {
        args,
        format,
        reader: channel.reader(),
        channel,
        left: if args.from.is_some() { args.count } else { None },
        damaged: 0,
        to_terminal: io::stdout().is_terminal(),
        out: BufWriter::with_capacity(BUFFER, io::stdout().lock()),
    };
    match &args.from {
        Some(place) => tail.reader.seek(place.into()),
        None => tail.go_back(end, args.count.unwrap_or(LAST))?,
    }
    if args.follow { tail.follow(&mut file) } else { tail.print_to(end) }
}

struct Tail<'a> {
    args: &'a Args,
    format: Format,
    channel: Channel,
    reader: Reader,
    /// Messages that may still be printed, if that is limited.
    left: Option<u64>,
    /// Those that the reader has passed over and that were said.
    damaged: u64,
    to_terminal: bool,
    out: BufWriter<StdoutLock<'static>>,
}

impl Tail<'_> {
    /// Goes to the place from where so many wanted messages come up to the end, or to the oldest.
    fn go_back(&mut self, end: Offset, count: u64) -> Outcome<()> {
        self.reader.seek(Start::At(end));
        let mut found = 0;
        while found < count {
            match self.reader.try_read_back() {
                Ok(record) => found += u64::from(self.args.wants(&record)),
                Err(TryReadError::Empty) => break,
                Err(error) => return Err(error.into()),
            }
        }
        // They are met again on the way forward.
        self.damaged = self.reader.damaged();
        Ok(())
    }

    /// Prints what comes before a place. Nothing more is there when this is done.
    fn print_to(&mut self, end: Offset) -> Outcome<()> {
        while self.left != Some(0) {
            match self.reader.try_read() {
                Ok(record) if record.offset() >= end => break,
                Ok(record) if self.args.wants(&record) => {
                    messages::print(&mut self.out, &record, self.format, self.to_terminal)?;
                    self.left = self.left.map(|left| left - 1);
                }
                Ok(_) => {}
                Err(TryReadError::Overwritten(oldest)) => {
                    self.out.flush()?;
                    say(format_args!(
                        "messages before {oldest} were overwritten before they were read: going on there"
                    ));
                }
                Err(TryReadError::Empty | TryReadError::Disconnected) => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.out.flush()?;
        let damaged = self.reader.damaged();
        if damaged > self.damaged {
            say(format_args!("{} messages passed over that do not verify", count(damaged - self.damaged)));
            self.damaged = damaged;
        }
        Ok(())
    }

    /// Prints what is there and what comes, until nobody reads it any more.
    fn follow(&mut self, file: &mut Watched) -> Outcome<()> {
        let mut is_lost = false;
        for tick in 1.. {
            self.print_to(Offset::from_u64(u64::MAX))?;
            if self.left == Some(0) || !somebody_reads(TICK)? {
                break;
            }
            if tick % TICKS_A_LOOK == 0 {
                match file.look() {
                    Ok((channel, is_new)) => {
                        if is_new {
                            let channel = channel.clone();
                            self.go_on_with(channel);
                        }
                        is_lost = false;
                    }
                    Err(error) if !is_lost => {
                        say(format_args!("{error}: waiting for it"));
                        is_lost = true;
                    }
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// The file was opened once more: recovered by somebody meanwhile, or another one.
    fn go_on_with(&mut self, channel: Channel) {
        let at = self.reader.offset();
        self.reader = channel.reader();
        self.damaged = 0;
        if channel.same_channel(&self.channel) {
            self.reader.seek(Start::At(at));
        } else {
            say("this is another channel now: going on with its oldest message");
        }
        self.channel = channel;
    }
}

/// Waits for so long; false as soon as standard output is a pipe that nobody reads.
fn somebody_reads(time: Duration) -> Outcome<bool> {
    let out = io::stdout();
    let mut out = [PollFd::new(&out, PollFlags::empty())];
    let time = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    match poll(&mut out, Some(&time)) {
        Ok(ready) => Ok(ready == 0),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(io::Error::from(error).into()),
    }
}
