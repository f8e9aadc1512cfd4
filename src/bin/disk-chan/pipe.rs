//! `disk-chan send` and `disk-chan recv`: lines in, lines out.

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use disk_chan::{AckError, Create, Full, Lease, Options, Receiver, RecvError, SendTimeoutError, Sender, TryRecvError};

use crate::Outcome;

const BUFFER: usize = 1 << 20;
/// Messages written, flushed and then acknowledged together.
const BATCH: u64 = 64;
/// How long a sender waits for room before it says so.
const PATIENCE: Duration = Duration::from_secs(2);

/// Send each line of standard input as a message, without its newline
#[derive(clap::Args)]
pub struct SendArgs {
    /// The channel; it is created if it does not exist
    file: PathBuf,
    /// Bytes a page, such as 16M; has to be that of the file if it exists
    #[arg(long, value_parser = crate::bytes)]
    page_size: Option<usize>,
    /// Pages; has to be that of the file if it exists
    #[arg(long)]
    pages: Option<usize>,
}

/// Write messages to standard output, each followed by a newline
///
/// A message is done when it has been written. Ends when no message is left and no sender is alive.
#[derive(clap::Args)]
pub struct RecvArgs {
    /// The channel
    file: PathBuf,
    /// The group to receive for; a new one starts at the oldest message
    #[arg(long)]
    group: String,
    /// Stop after so many messages; with 0 the group is made and nothing received
    #[arg(short = 'n', value_name = "N")]
    count: Option<u64>,
    /// Wait for more instead of ending
    #[arg(long)]
    follow: bool,
}

pub fn send(args: &SendArgs) -> Outcome<()> {
    let mut options = Options::new();
    if let Some(bytes) = args.page_size {
        options = options.page_size(bytes);
    }
    if let Some(pages) = args.pages {
        options = options.max_pages(pages);
    }
    let sender = options.blocking_open(&args.file)?.sender();
    let max = sender.max_message_len();

    let mut input = BufReader::with_capacity(BUFFER, io::stdin().lock());
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        // One more than the longest line and its newline, so that no line fills the memory.
        let read = (&mut input).take(max as u64 + 2).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > max {
            return Err(format!(
                "line {number} is longer than {max} bytes, the most that fits; \
                 the lines before it were sent"
            )
            .into());
        }
        send_line(&sender, &line).map_err(|error| format!("line {number}: {error}; the lines before it were sent"))?;
    }
}

/// Waits for room as long as there is a group that can make some.
fn send_line(sender: &Sender, line: &[u8]) -> Outcome<()> {
    let mut told = false;
    loop {
        match sender.send_timeout(line, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(SendTimeoutError::Timeout(Full::NoGroup)) => {
                return Err("the ring is full and no group reads it: \
                     give it more pages, or first make a group that receives \
                     (disk-chan recv FILE --group G -n 0)"
                    .into());
            }
            Err(SendTimeoutError::Timeout(full)) if !told => {
                eprintln!("disk-chan: waiting for room: {full}");
                told = true;
            }
            Err(SendTimeoutError::Timeout(_)) => (),
            Err(error) => return Err(error.into()),
        }
    }
}

pub fn recv(args: &RecvArgs) -> Outcome<()> {
    let channel = Options::new().create(Create::OpenExisting).blocking_open(&args.file)?;
    let mut receiver = channel.blocking_subscribe(&args.group)?;
    // While this handle is there, receivers wait for senders to come.
    let _open = args.follow.then_some(channel);

    let mut out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let batch = match take(&mut receiver, left.min(BATCH)) {
            Ok(batch) => batch,
            Err(RecvError::Disconnected) => break,
            Err(RecvError::Lagged(count)) => {
                warn_lagged(count);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match write(&mut out, &batch) {
            Ok(()) => (),
            // Whoever read has enough. The batch is given back as it is dropped.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(format!("standard output: {error}").into()),
        }
        left -= batch.len() as u64;
        for lease in batch {
            match lease.ack() {
                // `Gone`: written, and since then dropped to make room.
                Ok(()) | Err(AckError::Gone) => (),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Waits for one message and takes those after it that are there already, up to a buffer full.
fn take(receiver: &mut Receiver, limit: u64) -> Result<Vec<Lease>, RecvError> {
    let mut batch = vec![receiver.blocking_lease()?];
    let mut bytes = batch[0].len();
    while (batch.len() as u64) < limit && bytes < BUFFER {
        match receiver.try_lease() {
            Ok(lease) => {
                bytes += lease.len();
                batch.push(lease);
            }
            Err(TryRecvError::Lagged(count)) => warn_lagged(count),
            // An error that stays comes again at the next wait.
            Err(_) => break,
        }
    }
    Ok(batch)
}

fn warn_lagged(count: u64) {
    eprintln!("disk-chan: {count} messages were dropped before this group received them");
}

fn write(out: &mut impl Write, batch: &[Lease]) -> io::Result<()> {
    for lease in batch {
        out.write_all(lease)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}
