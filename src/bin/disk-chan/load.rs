//! `disk-chan load`: a new channel from what `dump` wrote.
//!
//! **Invariants.** The lines may say anything: each is bounded in length, and what is wrong in one is an error with its
//! number. Only a dump that is whole becomes a file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use disk_chan::{ChannelWriter, GroupProgress, Headers, Offset, Options, Overflow, Written};
use serde_json::{Value, json};

use crate::Outcome;
use crate::dump::{FORMAT, VERSION};
use crate::face::{Face, context};
use crate::figures;
use crate::geometry::Geometry;

/// Longest first line: a channel's.
const FIRST_LINE: u64 = 64 << 10;

/// Make a channel from what `disk-chan dump` wrote
///
/// The same messages with their headers and times, and what each group is done with; offsets are others. The new file is
/// there when it is complete. A dump that is not whole, or is wrong, makes none: the error says in which line.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  disk-chan dump orders.chan | disk-chan load copy.chan\n  \
                        disk-chan load larger.chan orders.json --pages 64")]
pub struct Args {
    /// The new file; nothing of that name may be there
    new: PathBuf,
    /// What dump wrote; standard input if not given
    dump: Option<PathBuf>,
    #[command(flatten)]
    geometry: Geometry,
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    let input: Box<dyn Read> = match &args.dump {
        Some(path) => Box::new(File::open(path).map_err(context(path.display().to_string()))?),
        None => Box::new(io::stdin().lock()),
    };
    let mut lines = Lines { input: BufReader::with_capacity(1 << 20, input), number: 0, most: FIRST_LINE };
    let (messages, written) = load(args, &mut lines)?;
    face.print(|| report_json(messages, &written), || said(messages, &written))?;
    Ok(())
}

/// The lines of a dump.
struct Lines {
    input: BufReader<Box<dyn Read>>,
    number: u64,
    /// Bytes of the longest line that there can be.
    most: u64,
}

impl Lines {
    fn next(&mut self) -> Outcome<Option<Value>> {
        let mut line = Vec::new();
        self.number += 1;
        (&mut self.input).take(self.most + 1).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.len() as u64 > self.most {
            return self.wrong(format!("is longer than {} bytes, the longest that can be right", self.most));
        }
        match serde_json::from_slice(&line) {
            Ok(value) => Ok(Some(value)),
            Err(error) => self.wrong(format!("is no JSON: {error}")),
        }
    }

    fn wrong<T>(&self, what: impl std::fmt::Display) -> Outcome<T> {
        Err(format!("line {}: {what}", self.number).into())
    }
}

fn load(args: &Args, lines: &mut Lines) -> Outcome<(u64, Written)> {
    let first = lines.next()?.unwrap_or_default();
    if first["type"] != "channel" || first["format"] != FORMAT || first["version"] != VERSION {
        return lines.wrong(format!("does not say that this is a dump of a channel ({FORMAT}, version {VERSION})"));
    }
    let options = match options(&first) {
        Ok(options) => args.geometry.over(options),
        Err(what) => return lines.wrong(what),
    };
    let mut writer = ChannelWriter::new(options, &args.new)?;
    if first["closed"] == true {
        writer.close();
    }
    // A byte is 6 in JSON at most, and there are names around it.
    lines.most = 8 * writer.max_message_len() as u64 + FIRST_LINE;
    let (mut messages, mut groups) = (0, Vec::<GroupProgress>::new());
    loop {
        let Some(line) = lines.next()? else {
            return lines.wrong("there should be more: the dump has no end, and is not whole");
        };
        let done = match line["type"].as_str() {
            Some("message") if groups.is_empty() => {
                messages += 1;
                message(&mut writer, &line)
            }
            Some("group") => group(&line).map(|group| groups.push(group)),
            Some("done") => done(&mut groups, &line),
            Some("given") => given(&mut groups, &line),
            Some("end") if line["messages"] != messages => {
                Err(format!("says {} messages, and there were {messages}", line["messages"]))
            }
            Some("end") => break,
            _ => Err("is none that can come here".into()),
        };
        if let Err(what) = done {
            return lines.wrong(what);
        }
    }
    for group in groups {
        let name = group.name.to_string();
        writer.group(group).map_err(|error| format!("group {name}: {error}"))?;
    }
    Ok((messages, writer.finish()?))
}

type Checked<T> = Result<T, String>;

fn field<'v, T: 'v>(line: &'v Value, name: &str, read: impl FnOnce(&'v Value) -> Option<T>) -> Checked<T> {
    read(&line[name]).ok_or_else(|| format!("has no {name} that can be right: {}", short(&line[name])))
}

/// The beginning of a value that may be long.
fn short(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}

fn offset(line: &Value, name: &str) -> Checked<Offset> {
    field(line, name, |value| value.as_str()?.parse().ok())
}

fn number<T: TryFrom<u64>>(line: &Value, name: &str) -> Checked<T> {
    field(line, name, |value| T::try_from(value.as_u64()?).ok())
}

/// Seconds, or nothing.
fn time(line: &Value, name: &str) -> Checked<Option<Duration>> {
    field(line, name, |value| match value {
        Value::Null => Some(None),
        other => Duration::try_from_secs_f64(other.as_f64()?).ok().map(Some),
    })
}

fn options(line: &Value) -> Checked<Options> {
    let overflow = field(line, "overflow", |value| match value.as_str()? {
        "block" => Some(Overflow::Block),
        "drop-oldest" => Some(Overflow::DropOldest),
        _ => None,
    })?;
    let mut options = Options::new()
        .page_size(number(line, "page_size")?)
        .max_pages(number(line, "max_pages")?)
        .typical_message_len(number(line, "typical_message_len")?)
        .max_groups(number(line, "max_groups")?)
        .max_opens(number(line, "max_opens")?)
        .max_op_cells(number(line, "max_op_cells")?)
        .max_held(number(line, "max_held")?)
        .overflow(overflow);
    if let Some(age) = time(line, "max_age")? {
        options = options.max_age(age);
    }
    if let Some(timeout) = time(line, "lease_timeout")? {
        options = options.lease_timeout(timeout);
    }
    match &line["max_attempts"] {
        Value::Null => Ok(options),
        _ => Ok(options.max_attempts(number(line, "max_attempts")?)),
    }
}

/// A text, or bytes that are none.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        other => BASE64_STANDARD.decode(other["base64"].as_str()?).ok(),
    }
}

fn sent_at(value: &Value) -> Option<SystemTime> {
    match value.as_u64() {
        Some(ms) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)),
        None => humantime::parse_rfc3339(value.as_str()?).ok(),
    }
}

fn message(writer: &mut ChannelWriter, line: &Value) -> Checked<()> {
    let payload = match &line["text"] {
        Value::String(text) => text.clone().into_bytes(),
        _ => field(line, "base64", |value| BASE64_STANDARD.decode(value.as_str()?).ok())?,
    };
    let (at, time) = (offset(line, "offset")?, field(line, "sent_at", sent_at)?);
    let (key, pairs) = (&line["key"], &line["headers"]);
    let appended = if key.is_null() && pairs.is_null() {
        writer.append(at, payload, time)
    } else {
        let mut headers = Headers::new();
        if !key.is_null() {
            headers = headers.key(field(line, "key", bytes)?);
        }
        if !pairs.is_null() {
            for pair in field(line, "headers", Value::as_array)? {
                let name =
                    pair["name"].as_str().ok_or_else(|| format!("has a header without a name: {}", short(pair)))?;
                let value =
                    bytes(&pair["value"]).ok_or_else(|| format!("has a header without a value: {}", short(pair)))?;
                headers = headers.with(name, value);
            }
        }
        writer.append(at, headers.message(payload).map_err(|error| error.to_string())?, time)
    };
    appended.map(drop).map_err(|error| error.to_string())
}

fn group(line: &Value) -> Checked<GroupProgress> {
    let name = field(line, "name", Value::as_str)?;
    Ok(GroupProgress::new(name, offset(line, "position")?))
}

/// The group that a line is of: the last one.
fn of<'g>(groups: &'g mut [GroupProgress], line: &Value) -> Checked<&'g mut GroupProgress> {
    let name = field(line, "group", Value::as_str)?;
    let last = groups.last_mut().filter(|group| group.name.as_str() == name);
    last.ok_or_else(|| format!("is of the group {name:?}, which is not the one before it"))
}

fn done(groups: &mut [GroupProgress], line: &Value) -> Checked<()> {
    let done = offset(line, "first")?..=offset(line, "last")?;
    of(groups, line)?.done.push(done);
    Ok(())
}

fn given(groups: &mut [GroupProgress], line: &Value) -> Checked<()> {
    let given = (offset(line, "offset")?, number(line, "attempts")?);
    of(groups, line)?.given.push(given);
    Ok(())
}

fn report_json(messages: u64, written: &Written) -> Value {
    let group = |group: &disk_chan::GroupMoved| {
        let (name, from, to) = (group.name.to_string(), group.from.to_string(), group.to.to_string());
        json!({"name": name, "from": from, "to": to, "attempts_lost": group.attempts_lost})
    };
    let groups: Vec<Value> = written.groups.iter().map(group).collect();
    json!({"messages": messages, "pages": written.pages, "groups": groups})
}

fn said(messages: u64, written: &Written) -> String {
    let groups = written.groups.iter().map(|group| format!("\ngroup {}: {} -> {}", group.name, group.from, group.to));
    format!("{messages} messages in {}{}", figures::pages(written.pages), groups.collect::<String>())
}
