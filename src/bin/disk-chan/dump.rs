//! `disk-chan dump`: a channel as lines of JSON, which `load` reads.
//!
//! The lines: one `channel`; a `message` each, in their order; a `group` each, followed by what it is `done` with
//! beyond its position, from a first to a last message, and what it was `given` before and is not done with; one
//! `end`, without which a dump is not whole.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use disk_chan::{Channel, GroupProgress, Overflow, ReadError, Record, Start};
use serde_json::{Value, json};

use crate::Outcome;
use crate::face::{self, Face, Place};
use crate::message_json::message_json;
use crate::messages::json_shown;

/// What a dump says that it is.
pub const FORMAT: &str = "disk_chan dump";
/// The version of it.
pub const VERSION: u64 = 1;

/// Write every message and group position to standard output, as lines of JSON
///
/// A line for the channel, one for each message, then the groups: where each stands, and what it is done with beyond
/// that. `disk-chan load` makes a channel of it. The channel may be in use: then groups may have done more meanwhile.
/// Dead letters are a channel of their own: dump FILE.dead for them.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  disk-chan dump orders.chan | zstd > orders.zst\n  \
                        disk-chan dump orders.chan --from 15m | jq -r 'select(.type == \"message\").text'")]
pub struct Args {
    /// The channel
    file: PathBuf,
    /// Begin with the message at an offset such as 12:345, or a time such as 2026-11-23T10:00:00Z or 15m (ago)
    #[arg(long, value_parser = face::place, value_name = "PLACE")]
    from: Option<Place>,
    /// No messages, only the channel and its groups
    #[arg(long, conflicts_with = "from")]
    groups: bool,
}

pub fn run(args: &Args, _face: Face) -> Outcome<()> {
    let channel = face::look_at(&args.file)?;
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    line(&mut out, channel_line(&channel))?;
    // Before the messages: what a group is told to be done with is among them, or was before.
    let groups = channel.group_progress();
    let (mut messages, mut damaged) = (0_u64, 0);
    if !args.groups {
        let mut reader = channel.reader();
        reader.seek(args.from.as_ref().map_or(Start::Oldest, Start::from));
        let end = channel.end_offset();
        for record in reader.try_iter() {
            match record {
                // What was sent meanwhile.
                Ok(record) if record.offset() >= end => break,
                Ok(record) => {
                    line(&mut out, message_line(&record))?;
                    messages += 1;
                }
                Err(ReadError::Overwritten(oldest)) => {
                    face::say(format_args!("messages before {oldest} were overwritten meanwhile"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        damaged = reader.damaged();
    }
    groups.iter().try_for_each(|group| group_lines(&mut out, group))?;
    line(&mut out, json!({"type": "end", "messages": messages, "groups": groups.len(), "damaged": damaged}))?;
    out.flush()?;
    if damaged > 0 {
        face::say(format_args!("{damaged} messages that do not verify were left out"));
    }
    Ok(())
}

/// Writes a line; the same JSON drives no terminal.
fn line(out: &mut impl Write, value: Value) -> io::Result<()> {
    writeln!(out, "{}", json_shown(value.to_string(), io::stdout().is_terminal()))
}

fn channel_line(channel: &Channel) -> Value {
    let g = channel.geometry();
    json!({
        "type": "channel",
        "format": FORMAT,
        "version": VERSION,
        "uuid": format!("{:032x}", channel.uuid()),
        "page_size": g.page_size,
        "max_pages": g.max_pages,
        "typical_message_len": g.typical_message_len,
        "max_groups": g.max_groups,
        "max_opens": g.max_opens,
        "max_op_cells": g.max_op_cells,
        "max_held": g.max_held,
        "overflow": if g.overflow == Overflow::Block { "block" } else { "drop-oldest" },
        "max_age": g.max_age.map(|time| time.as_secs_f64()),
        "lease_timeout": g.lease_timeout.map(|time| time.as_secs_f64()),
        "max_attempts": g.max_attempts,
        "closed": channel.is_closed(),
    })
}

fn message_line(record: &Record) -> Value {
    let mut line = message_json(record.offset(), record.sent_at(), record.key(), record.headers(), record);
    line.insert("type".into(), "message".into());
    line.insert("sent_at".into(), sent_at(record.sent_at()));
    line.into()
}

/// A time, or if it is none that can be written so, unix milliseconds.
fn sent_at(time: SystemTime) -> Value {
    // The end of the year 9999.
    const LAST: u64 = 253_402_300_799_000;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    if ms <= LAST { face::time(time).into() } else { ms.into() }
}

fn group_lines(out: &mut impl Write, group: &GroupProgress) -> io::Result<()> {
    let name = group.name.to_string();
    line(out, json!({"type": "group", "name": name, "position": group.position.to_string()}))?;
    for done in &group.done {
        let (first, last) = (done.start().to_string(), done.end().to_string());
        line(out, json!({"type": "done", "group": name, "first": first, "last": last}))?;
    }
    for (offset, attempts) in &group.given {
        let offset = offset.to_string();
        line(out, json!({"type": "given", "group": name, "offset": offset, "attempts": attempts}))?;
    }
    Ok(())
}
