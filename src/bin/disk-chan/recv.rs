//! `disk-chan recv`: the messages of a group, to standard output or to a command.
//!
//! **Invariants.** A message is done after it was written and flushed, or its command ended well. One that was not is
//! given back, however this ends: by an error, by a signal, or by death.

use std::io;
use std::path::PathBuf;

use disk_chan::{Message, Receiver, RecvError, Start};

use crate::Outcome;
use crate::exec;
use crate::face::{self, Face, Place, context};
use crate::output::{Framing, Item, Output};
use crate::stop::Stop;
use crate::unfinished;

/// Messages received at once.
const BATCH: u64 = 1024;

/// Write messages to standard output, each followed by a newline
///
/// A message is done when it was written and flushed; if the output breaks, or it is interrupted, what was not is
/// handed out again. What a pipe had taken before its reader went is done: to take a few, say -n. It ends when no
/// message is left and no sender is alive.
///
/// With --exec a command runs for each message, with the message on its standard input, and DISK_CHAN_OFFSET,
/// DISK_CHAN_ATTEMPTS, DISK_CHAN_GROUP and, if it has a key (without a zero byte), DISK_CHAN_KEY in its environment.
/// If it ends with status 0 the message is done. Else the message is given back after a pause, which doubles with each
/// attempt from 10 ms to a second, and comes again before any other: a channel that was created with --max-attempts
/// makes it a dead letter in the end. Interrupted, it starts no more commands and waits for those that run.
///
/// With --peek nothing is taken, and no group is made or moved. It shows what the group is not done with, also what
/// another receiver holds at the moment, and not how often a message was handed out.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  disk-chan recv spool.chan --group archive | gzip > app.log.gz\n  \
                  disk-chan recv jobs.chan --group work --follow --parallel 4 --exec 'curl -sf --data-binary @- http://localhost/in'")]
pub struct Args {
    /// The channel
    file: PathBuf,
    /// The group to receive for; it is made if it is new
    #[arg(long, short)]
    group: String,
    /// Stop after so many messages; with 0 the group is made and nothing received
    #[arg(short = 'n', value_name = "N")]
    count: Option<u64>,
    /// Be done with each message that was written: the default
    #[arg(long, conflicts_with = "peek")]
    ack: bool,
    /// Show what the group would get next, and take nothing
    #[arg(long, conflicts_with_all = ["exec", "follow", "from"])]
    peek: bool,
    /// Run a command for each message instead, by `sh -c`
    #[arg(long, value_name = "COMMAND", conflicts_with = "framing")]
    exec: Option<String>,
    /// Commands that run at the same time
    #[arg(long, value_name = "N", default_value_t = 1, requires = "exec", value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Wait for more instead of ending
    #[arg(long, short)]
    follow: bool,
    /// Where the group starts if it is new: oldest, newest, an offset, a time, or how long ago, such as 15m
    #[arg(long, value_name = "PLACE", value_parser = face::place, default_value = "oldest")]
    from: Place,
    /// What is written around each message
    #[arg(long, value_enum, default_value_t = Framing::Lines)]
    framing: Framing,
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    let stop = Stop::on_signals()?;
    let framing = (!face.json).then_some(args.framing);
    if args.peek {
        return peek(args, &stop, Output::new(&stop, framing)?);
    }
    let channel = face::open(&args.file)?;
    let mut receiver = channel.blocking_subscribe_from(&args.group, Start::from(&args.from))?;
    // While this handle is there, receivers wait for senders to come.
    let _open = args.follow.then_some(channel);
    let count = args.count.unwrap_or(u64::MAX);
    match &args.exec {
        Some(command) => exec::run(command, receiver, args.parallel, count, &stop),
        None => write_all(&mut receiver, count, &stop, Output::new(&stop, framing)?),
    }
}

fn write_all(receiver: &mut Receiver, mut left: u64, stop: &Stop, mut output: Output) -> Outcome<()> {
    while left > 0 {
        let messages = match stop.wait(receiver.recv_many(left.min(BATCH) as usize))? {
            Ok(messages) => messages,
            Err(RecvError::Disconnected) => break,
            Err(RecvError::Lagged(count)) => {
                warn_lagged(count);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if let Err(error) = write(&mut output, &messages) {
            // Forgotten, not dropped: the receiver gives them back as it goes.
            std::mem::forget(messages);
            return Err(not_written(error, stop));
        }
        left -= messages.len() as u64;
    }
    Ok(())
}

fn write(output: &mut Output, messages: &[Message<'_>]) -> io::Result<()> {
    for message in messages {
        let (offset, sent_at, headers) = (message.offset(), message.sent_at(), message.headers());
        output.put(&Item { offset, sent_at, attempts: Some(message.attempts()), headers, message })?;
    }
    output.flush()
}

/// A closed pipe stays what it is: whoever read has enough.
fn not_written(error: io::Error, stop: &Stop) -> Box<dyn std::error::Error + Send + Sync> {
    match (error.kind(), stop.check()) {
        (io::ErrorKind::BrokenPipe, _) => error.into(),
        (io::ErrorKind::TimedOut, Err(interrupted)) => context("nobody reads standard output")(interrupted).into(),
        _ => context("standard output")(error).into(),
    }
}

fn peek(args: &Args, stop: &Stop, mut output: Output) -> Outcome<()> {
    let channel = face::look_at(&args.file)?;
    unfinished::for_each(&channel, &args.group, args.count.unwrap_or(u64::MAX), |record| {
        stop.check()?;
        let (offset, sent_at, headers) = (record.offset(), record.sent_at(), record.headers());
        let item = Item { offset, sent_at, attempts: None, headers, message: &record };
        output.put(&item).map_err(|error| not_written(error, stop))
    })?;
    output.flush().map_err(|error| not_written(error, stop))
}

/// Says what the group did not get.
pub fn warn_lagged(count: u64) {
    face::say(format_args!("{count} messages were dropped before this group received them"));
}
