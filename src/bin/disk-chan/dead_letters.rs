//! `disk-chan dead-letters`: what was handed out as often as the channel allows, and was never done.
//!
//! **Invariants.** A letter is done after what becomes of it: sent again, on stable storage. One that is not chosen is
//! given back as it was. Listing takes nothing.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use disk_chan::{
    Channel, DeadLetter, Full, Headers, Lease, Offset, OpenError, Record, SendTimeoutError, Sender, Start, TryRecvError,
};
use serde_json::{Value, json};

use crate::Outcome;
use crate::face::{self, Face, InUse, NotFound, context};
use crate::groups::table;
use crate::message_json::message_json;
use crate::messages;
use crate::stop::{Stop, TICK};

/// The group of the channel of the dead letters.
const GROUP: &str = "dead";
/// Letters that are sent again, synced and done with together.
const BATCH: usize = 64;
/// How long a letter that is sent again waits for a group to make room, before that is an error.
const PATIENCE: Duration = Duration::from_secs(2);

/// List, show, send again and purge dead letters
///
/// They lie in a channel of their own beside the file, FILE.dead, if FILE was created with --max-attempts.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  disk-chan dead-letters list jobs.chan --payload\n  disk-chan dead-letters retry jobs.chan --all"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List the letters: where each lies, and what it was
    #[command(after_help = "Example:\n  disk-chan dead-letters list jobs.chan --json | jq -r .group | sort | uniq -c")]
    List {
        /// The channel that they come from
        file: PathBuf,
        /// Show the messages, too
        #[arg(long)]
        payload: bool,
    },
    /// Write the message of a letter to standard output, as it is; or all of the letter as JSON
    #[command(after_help = "Example:\n  disk-chan dead-letters show jobs.chan 0:3 | jq .")]
    Show {
        /// The channel that it comes from
        file: PathBuf,
        /// The offset of the letter, as `list` says it
        letter: Offset,
    },
    /// Send the messages of letters to the channel again, with their headers
    ///
    /// They are new messages then: EVERY group gets them, also those that were done with them. Each is on stable
    /// storage before its letter is done; interrupted or killed in between, it may be sent twice, and is never lost.
    #[command(after_help = "Example:\n  disk-chan dead-letters retry jobs.chan -n 10")]
    Retry {
        /// The channel that they come from
        file: PathBuf,
        #[command(flatten)]
        which: Which,
    },
    /// Be done with letters: their messages are gone
    #[command(after_help = "Example:\n  disk-chan dead-letters purge jobs.chan --all --yes")]
    Purge {
        /// The channel that they come from
        file: PathBuf,
        #[command(flatten)]
        which: Which,
        /// Do it; without, it only says how many it would be
        #[arg(long)]
        yes: bool,
    },
}

/// Which letters. Those that come meanwhile are not among them.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// All there are
    #[arg(long)]
    all: bool,
    /// The oldest N
    #[arg(short = 'n', value_name = "N")]
    count: Option<u64>,
    /// The letters at these offsets, as `list` says them. All before them have to be held meanwhile, which may be
    /// no more than the channel's max_held (256 unless it was created otherwise)
    #[arg(value_name = "LETTER")]
    letters: Vec<Offset>,
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    match &args.verb {
        Verb::List { file, payload } => list(file, *payload, face),
        Verb::Show { file, letter } => show(file, *letter, face),
        Verb::Retry { file, which } => {
            let channel = face::open(file)?;
            let sender = channel.sender();
            take(file, &channel, which, "retried", face, |letters, stop| send_again(&sender, letters, stop))
        }
        Verb::Purge { file, which, yes } => {
            if !yes {
                let chosen = choose(&look_at_letters(file)?, which)?;
                return Err(format!("{} letters would be gone: say --yes", chosen.len()).into());
            }
            take(file, &face::open(file)?, which, "purged", face, |_, _| Ok(()))
        }
    }
}

/// The channel of the dead letters of a channel, to look at.
fn look_at_letters(file: &Path) -> Outcome<Channel> {
    face::look_at(file)?;
    let mut letters = file.as_os_str().to_owned();
    letters.push(".dead");
    face::look_at(Path::new(&letters)).map_err(|error| match error.downcast_ref() {
        Some(OpenError::NotFound { .. }) => {
            let why = "it has no dead letters, as it was created without --max-attempts";
            NotFound(format!("{}: {why}", file.display())).into()
        }
        _ => error,
    })
}

/// Where the letters lie that nobody is done with: all, if nobody has received any yet.
fn unfinished(letters: &Channel, most: usize) -> Vec<Offset> {
    letters.unfinished(GROUP, Offset::default(), most).unwrap_or_else(|| {
        letters.reader().try_iter().filter_map(Result::ok).map(|record| record.offset()).take(most).collect()
    })
}

/// Those letters, but for what goes away meanwhile.
fn records(letters: &Channel) -> impl Iterator<Item = Record> {
    let offsets = unfinished(letters, usize::MAX).into_iter();
    offsets.filter_map(|at| letters.get(at).ok().filter(|record| record.offset() == at))
}

/// The offsets of the letters that are meant and are there.
fn choose(letters: &Channel, which: &Which) -> Outcome<BTreeSet<Offset>> {
    let most = which.count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let there: BTreeSet<_> = unfinished(letters, most).into_iter().collect();
    if which.letters.is_empty() {
        return Ok(there);
    }
    match which.letters.iter().find(|letter| !there.contains(letter)) {
        Some(letter) => Err(no_letter(*letter).into()),
        None => Ok(which.letters.iter().copied().collect()),
    }
}

fn no_letter(letter: Offset) -> NotFound {
    NotFound(format!("there is no letter at {letter}, or somebody is done with it"))
}

/// Takes the chosen letters, does something with them, batch by batch, and is done with them.
fn take(
    file: &Path,
    channel: &Channel,
    which: &Which,
    what: &str,
    face: Face,
    mut work: impl FnMut(&[Lease], &Stop) -> Outcome<()>,
) -> Outcome<()> {
    let stop = Stop::on_signals()?;
    let mut chosen = choose(&look_at_letters(file)?, which)?;
    let wanted = chosen.len();
    let mut receiver = channel.blocking_dead_letters()?;
    let mut count = 0_u64;
    // Those before the chosen ones are held until the end: given back, they would come again first.
    let mut others = Vec::new();
    let ended = (|| -> Outcome<()> {
        while let Some(last) = chosen.last().copied() {
            stop.check()?;
            let mut batch = Vec::new();
            let mut nothing = None;
            while batch.len() < BATCH.min(chosen.len()) && nothing.is_none() {
                match receiver.try_lease() {
                    Ok(lease) if chosen.contains(&lease.offset()) => batch.push(lease),
                    // Behind the last one there are only letters that are newer.
                    Ok(lease) if lease.offset() > last => nothing = Some(TryRecvError::Empty),
                    Ok(lease) => others.push(lease),
                    Err(error) => nothing = Some(error),
                }
            }
            work(&batch, &stop)?;
            for lease in batch {
                chosen.remove(&lease.offset());
                lease.ack()?;
                count += 1;
            }
            match nothing {
                None => {}
                Some(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                Some(error) => return Err(context("too many letters lie before it: begin with those")(error).into()),
            }
        }
        Ok(())
    })();
    drop(others);
    let printed = face.print(|| json!({what: count}), || format!("{count} letters {what}"));
    ended?;
    match chosen.len() {
        0 => Ok(printed?),
        left => Err(InUse(format!("{left} of {wanted} letters are held, or were done, by somebody else")).into()),
    }
}

fn send_again(sender: &Sender, letters: &[Lease], stop: &Stop) -> Outcome<()> {
    for lease in letters {
        let what = || context(format!("letter {}", lease.offset()));
        let Some(letter) = DeadLetter::parse(lease) else {
            return Err(format!("letter {}: it is none: nothing that a channel made", lease.offset()).into());
        };
        let headers = lease.headers();
        if headers.key().is_none() && headers.iter().next().is_none() {
            send_one(sender, letter.message(), stop).map_err(what())?;
        } else {
            let message = Headers::from(headers).message(letter.message());
            send_one(sender, &message?, stop).map_err(what())?;
        }
    }
    if !letters.is_empty() {
        sender.blocking_sync()?;
    }
    Ok(())
}

fn send_one<M: disk_chan::Payload + Copy>(sender: &Sender, message: M, stop: &Stop) -> Outcome<()> {
    let start = std::time::Instant::now();
    loop {
        match sender.send_timeout(message, TICK) {
            Ok(_) => return Ok(()),
            Err(SendTimeoutError::Timeout(Full::NoGroup)) if start.elapsed() > PATIENCE => {
                return Err("the ring is full and no group reads it".into());
            }
            Err(SendTimeoutError::Timeout(_)) => stop.check()?,
            Err(error) => return Err(error.into()),
        }
    }
}

fn list(file: &Path, payload: bool, face: Face) -> Outcome<()> {
    let letters = look_at_letters(file)?;
    if face.json {
        for record in records(&letters) {
            face.print(|| as_json(&record, payload), String::new)?;
        }
        return Ok(());
    }
    let mut rows = vec![["LETTER", "GROUP", "MESSAGE", "SENT", "ATTEMPTS", "LEN"].map(str::to_owned)];
    let mut payloads = vec![String::new()];
    for record in records(&letters) {
        let at = record.offset().to_string();
        let (row, message) = match DeadLetter::parse(&record) {
            Some(letter) => {
                let (sent, len) = (face::time(letter.sent_at()), letter.message().len().to_string());
                let row = [
                    at,
                    letter.group().to_owned(),
                    letter.offset().to_string(),
                    sent,
                    letter.attempts().to_string(),
                    len,
                ];
                (row, String::from_utf8_lossy(letter.message()).escape_debug().to_string())
            }
            None => (
                [at, "?".into(), "-".into(), face::time(record.sent_at()), "-".into(), record.len().to_string()],
                String::new(),
            ),
        };
        rows.push(row);
        payloads.push(message);
    }
    let text = table(&rows);
    let lines = text.lines().zip(&payloads).map(|(line, message)| match payload {
        true => format!("{line}  {message}").trim_end().to_owned(),
        false => line.to_owned(),
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    Ok(face.print(|| Value::Null, || text)?)
}

fn as_json(record: &Record, payload: bool) -> Value {
    let letter = DeadLetter::parse(record);
    let message = letter.map_or(&record[..], |letter| letter.message());
    let mut json = message_json(record.offset(), record.sent_at(), record.key(), record.headers(), message);
    if let Some(letter) = letter {
        json.insert("group".into(), letter.group().into());
        json.insert("message".into(), letter.offset().to_string().into());
        json.insert("sent_at".into(), face::time(letter.sent_at()).into());
        json.insert("attempts".into(), letter.attempts().into());
    }
    if !payload {
        json.remove("text");
        json.remove("base64");
    }
    json.into()
}

fn show(file: &Path, at: Offset, face: Face) -> Outcome<()> {
    let letters = look_at_letters(file)?;
    let mut reader = letters.reader();
    reader.seek(Start::At(at));
    let record = reader.try_read().ok().filter(|record| record.offset() == at).ok_or_else(|| no_letter(at))?;
    if face.json {
        return Ok(face.print(|| as_json(&record, true), String::new)?);
    }
    let letter = DeadLetter::parse(&record);
    let mut out = io::stdout().lock();
    let message = letter.map_or(&record[..], |letter| letter.message());
    if out.is_terminal() {
        messages::shown(&mut out, message)?
    } else {
        out.write_all(message)?
    }
    Ok(out.flush()?)
}
