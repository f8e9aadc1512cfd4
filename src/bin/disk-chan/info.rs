//! `disk-chan info`: everything about a channel at a moment, as text or as one JSON value.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::{env, io};

use anstyle::{AnsiColor, Style};
use disk_chan::Overflow;
use ratatui::crossterm::terminal;
use serde_json::{Value, json};

use crate::Outcome;
use crate::face::{self, Face};
use crate::figures::{brief, count, duration, fit, per_second, printable, size, width};
use crate::relay;
use crate::ring_picture::{Kind, Picture, Symbols};
use crate::snapshot::{GroupNow, Snapshot};

/// Where nobody says how wide the terminal is.
const WIDTH: usize = 80;
/// Columns before the picture.
const LABEL: usize = 12;

/// Show how a channel stands: geometry, state, groups, and a picture of the ring
///
/// It only looks: it holds up nobody, and works on a file that is in use, may only be read, or wants recovery.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  disk-chan info orders.chan\n  disk-chan info --json orders.chan | jq '.groups[].lag'"
)]
pub struct Args {
    /// The channel
    file: PathBuf,
    /// List the pages, too
    #[arg(long)]
    pages: bool,
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    let channel = face::look_at(&args.file)?;
    let snapshot = Snapshot::take(&channel);
    let letters = DeadLetters::look(&args.file, &snapshot);
    face.print_styled(
        || as_json(args, &snapshot, &letters),
        || as_text(args, &snapshot, &letters, columns(), Symbols::of_locale()),
    )?;
    Ok(())
}

/// Columns of the terminal, or what `COLUMNS` says.
fn columns() -> usize {
    let said = env::var("COLUMNS").ok().and_then(|said| said.parse().ok()).filter(|&columns| columns > 0);
    let terminal = || io::stdout().is_terminal().then(|| terminal::size().ok()).flatten();
    said.or_else(|| terminal().map(|(columns, _)| columns.into())).unwrap_or(WIDTH).clamp(40, 1000)
}

/// The channel of the dead letters.
enum DeadLetters {
    /// There is none.
    None,
    /// Messages in it that nobody has dealt with.
    Waiting(u64),
    /// It cannot be looked at.
    Unknown(String),
}

impl DeadLetters {
    fn look(file: &Path, of: &Snapshot) -> Self {
        if of.geometry.max_attempts.is_none() {
            return Self::None;
        }
        let mut path = file.to_owned().into_os_string();
        path.push(".dead");
        match face::look_at(Path::new(&path)) {
            // The one group that reads them, once somebody has.
            Ok(letters) => Self::Waiting(letters.groups().first().map_or_else(|| letters.len(), |group| group.lag)),
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}

fn as_json(args: &Args, now: &Snapshot, letters: &DeadLetters) -> Value {
    let (g, stats) = (&now.geometry, &now.stats);
    let time = |time: Option<_>| time.map(face::time);
    let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64());
    let mut value = json!({
        "path": args.file.to_string_lossy(),
        "time": face::time(now.time),
        "geometry": {
            "page_size": g.page_size,
            "max_pages": g.max_pages,
            "file_bytes": g.file_bytes,
            "page_bytes": g.page_bytes,
            "page_messages": g.page_messages,
            "max_message_len": now.max_message_len,
            "typical_message_len": g.typical_message_len,
            "overflow": overflow(g.overflow),
            "max_age": seconds(g.max_age),
            "lease_timeout": seconds(g.lease_timeout),
            "max_attempts": g.max_attempts,
            "max_groups": g.max_groups,
            "max_opens": g.max_opens,
            "max_op_cells": g.max_op_cells,
            "max_held": g.max_held,
        },
        "state": {
            "opens": stats.opens,
            "handles": stats.handles,
            "closed": stats.closed,
            "wants_recovery": now.recovered.as_ref().map(|report| json!({
                "cause": format!("{:?}", report.cause).to_lowercase(),
                "kept": report.kept,
                "damaged": report.damaged,
                "next_offset": report.next_offset.to_string(),
            })),
        },
        "ring": {
            "messages": now.messages(),
            "bytes": now.bytes(),
            "unread": now.unread(),
            "pages": stats.pages,
            "free_pages": stats.free_pages,
            "page_turns": stats.page_turns,
            "first_offset": stats.first_offset.to_string(),
            "end_offset": stats.end_offset.to_string(),
            "oldest": time(now.pages.iter().find_map(|page| page.oldest)),
            "newest": time(now.pages.iter().rev().find_map(|page| page.newest)),
        },
        "rate": {"messages": now.recent, "seconds": now.recent_time.as_secs_f64(), "per_second": now.rate()},
        "durable": {
            "offset": stats.durable_offset.to_string(),
            "syncs": stats.syncs,
            "sync_seconds": stats.sync_time.as_secs_f64(),
            "mean_sync_seconds": seconds(mean_sync(now)),
        },
        "groups": now.groups.iter().map(|group| group_as_json(now, group)).collect::<Vec<_>>(),
        "dead_letters": match letters {
            DeadLetters::None => Value::Null,
            DeadLetters::Waiting(messages) => json!({"messages": messages}),
            DeadLetters::Unknown(error) => json!({"error": error}),
        },
    });
    if args.pages {
        let pages = now.pages.iter().map(|page| {
            json!({
                "number": page.number,
                "messages": page.len,
                "bytes": page.bytes,
                "oldest": time(page.oldest),
                "newest": time(page.newest),
                "sealed": page.sealed,
            })
        });
        value["pages"] = pages.collect();
    }
    value
}

fn group_as_json(now: &Snapshot, GroupNow { stats, position, relay }: &GroupNow) -> Value {
    json!({
        "name": stats.name.as_str(),
        "offset": position.to_string(),
        "lag": stats.lag,
        "lag_bytes": stats.lag_bytes,
        "oldest_unfinished": stats.oldest_unfinished.map(face::time),
        "age": stats.oldest_unfinished.map(|time| now.age(time).as_secs_f64()),
        "held": stats.held,
        "returned": stats.returned,
        "redelivered": stats.redelivered,
        "lagged": stats.lagged,
        "expired": stats.expired,
        "gone": stats.gone,
        "damaged": stats.damaged,
        "undeliverable": stats.undeliverable,
        "dead_lettered": stats.dead_lettered,
        "relay": relay.as_ref().map(|relay| relay::as_json(Some(relay), &relay.to)),
    })
}

fn overflow(overflow: Overflow) -> &'static str {
    match overflow {
        Overflow::Block => "block",
        Overflow::DropOldest => "drop-oldest",
    }
}

fn mean_sync(now: &Snapshot) -> Option<std::time::Duration> {
    let syncs = u32::try_from(now.stats.syncs).ok()?;
    now.stats.sync_time.checked_div(syncs)
}

fn as_text(args: &Args, now: &Snapshot, letters: &DeadLetters, columns: usize, symbols: Symbols) -> String {
    let mut text = printable(&args.file.to_string_lossy()).into_owned();
    facts(&mut text, now, letters, columns);
    draw(&mut text, now, columns, symbols);
    groups(&mut text, now, columns);
    relays(&mut text, now, columns);
    if args.pages {
        pages(&mut text, now);
    }
    text
}

/// Short statements under a label, as many in a line as fit.
struct Facts<'a> {
    text: &'a mut String,
    columns: usize,
    used: usize,
}

impl Facts<'_> {
    fn label(&mut self, label: &str) {
        let _ = write!(self.text, "\n{}", fit(label, LABEL));
        self.used = 0;
    }

    fn fact(&mut self, fact: &str) {
        if self.used > 0 {
            let fits = LABEL + self.used + 2 + width(fact) <= self.columns;
            self.text.push_str(if fits { "; " } else { "\n            " });
            self.used = if fits { self.used + 2 } else { 0 };
        }
        self.text.push_str(fact);
        self.used += width(fact);
    }
}

fn facts(text: &mut String, now: &Snapshot, letters: &DeadLetters, columns: usize) {
    let (g, stats) = (&now.geometry, &now.stats);
    let mut out = Facts { text, columns, used: 0 };
    out.label("state");
    out.fact(&now.state());
    out.fact(&plural(stats.handles, "sender or channel", "senders and channels"));
    if let Some(report) = &now.recovered {
        let cause = format!("{:?}", report.cause).to_lowercase();
        out.fact(&format!("was left {cause}, the next open keeps {} messages", count(report.kept)));
        out.fact(&format!("{} damaged", count(report.damaged)));
    }
    out.label("ring");
    out.fact(&format!("{} pages of {}", count(g.max_pages as u64), size(g.page_size as u64)));
    out.fact(&format!("{} in use, {} free", count(stats.pages as u64), count(stats.free_pages as u64)));
    out.fact(&format!("{:.0}% unread", now.unread() * 100.0));
    out.fact(&format!("{} page turns", count(stats.page_turns)));
    out.fact(&format!("file of {}", size(g.file_bytes)));
    out.label("messages");
    out.fact(&format!("{} in {}", count(now.messages()), size(now.bytes())));
    out.fact(&format!("offsets {} to {}", stats.first_offset, stats.end_offset));
    if let Some(oldest) = now.pages.iter().find_map(|page| page.oldest) {
        out.fact(&format!("the oldest {} ago", duration(now.age(oldest))));
    }
    out.label("rate");
    out.fact(&format!("{} messages/s in the last {}", per_second(now.rate()), duration(now.recent_time)));
    out.label("durable");
    out.fact(&format!("below {}", stats.durable_offset));
    let syncs = plural(stats.syncs, "sync", "syncs");
    out.fact(&mean_sync(now).map_or_else(|| syncs.clone(), |mean| format!("{syncs} of {} each", duration(mean))));
    out.label("limits");
    out.fact(&format!("messages of {}", size(now.max_message_len as u64)));
    out.fact(&format!("{} in a page", count(g.page_messages)));
    out.fact(&format!("{} groups", count(g.max_groups as u64)));
    out.fact(&format!("{} opens", count(g.max_opens as u64)));
    out.fact(&format!("{} held by a group", count(g.max_held as u64)));
    out.label("rules");
    out.fact(match g.overflow {
        Overflow::Block => "a full ring blocks senders",
        Overflow::DropOldest => "a full ring drops its oldest page",
    });
    out.fact(&g.max_age.map_or_else(|| "no age limit".into(), |age| format!("kept for {}", duration(age))));
    if let Some(timeout) = g.lease_timeout {
        out.fact(&format!("leases of {}", duration(timeout)));
    }
    if let Some(attempts) = g.max_attempts {
        out.fact(&format!("dead letters after {attempts} attempts"));
    }
    match letters {
        DeadLetters::None => {}
        DeadLetters::Waiting(messages) => out.fact(&format!("{} there", count(*messages))),
        DeadLetters::Unknown(error) => out.fact(&format!("they cannot be read: {}", printable(error))),
    }
}

fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// The ring, and a line with a marker for the senders and each group.
fn draw(text: &mut String, now: &Snapshot, columns: usize, symbols: Symbols) {
    let picture = Picture::new(now, columns - LABEL);
    let _ = write!(text, "\n\n{}", fit(&picture.unit(), LABEL));
    let mut last = None;
    for (symbol, kind) in picture.ring(symbols) {
        if last != Some(kind) {
            let _ = write!(text, "{}{}", anstyle::Reset, style(kind));
            last = Some(kind);
        }
        text.push(symbol);
    }
    let _ = write!(text, "{}", anstyle::Reset);
    let mut line = |name: &str, at| {
        let marked = picture.marked(at, symbols);
        let _ = write!(text, "\n{} {}", fit(&printable(name), LABEL - 1), marked.trim_end());
    };
    line("senders", now.stats.end_offset);
    now.groups.iter().for_each(|group| line(group.stats.name.as_str(), group.position));
}

fn style(kind: Kind) -> Style {
    match kind {
        Kind::Used => AnsiColor::Cyan.on_default(),
        Kind::Written => AnsiColor::Green.on_default(),
        Kind::Free | Kind::Border => Style::new().dimmed(),
    }
}

fn groups(text: &mut String, now: &Snapshot, columns: usize) {
    if now.groups.is_empty() {
        text.push_str("\n\nno groups");
        return;
    }
    let longest = now.groups.iter().map(|group| width(&printable(group.stats.name.as_str()))).max().unwrap_or(0);
    let name_columns = longest.clamp(5, columns.saturating_sub(60).clamp(16, 40));
    let name = |name: &str| fit(&printable(name), name_columns);
    let _ = write!(
        text,
        "\n\n{} {:>12} {:>7} {:>8} {:>8} {:>6} {:>5} {:>6}",
        name("group"),
        "at",
        "lag",
        "bytes",
        "oldest",
        "held",
        "back",
        "again"
    );
    for GroupNow { stats, position, .. } in &now.groups {
        let _ = write!(
            text,
            "\n{} {:>12} {:>7} {:>8} {:>8} {:>6} {:>5} {:>6}",
            name(stats.name.as_str()),
            position.to_string(),
            brief(stats.lag),
            size(stats.lag_bytes),
            stats.oldest_unfinished.map_or_else(|| "-".into(), |time| duration(now.age(time))),
            stats.held,
            stats.returned,
            brief(stats.redelivered),
        );
        let lost = [
            (stats.lagged, "dropped unread"),
            (stats.expired, "expired"),
            (stats.gone, "gone"),
            (stats.damaged, "damaged"),
            (stats.dead_lettered, "dead letters"),
            (stats.undeliverable as u64, "undeliverable"),
        ];
        let lost = lost.iter().filter(|(number, _)| *number > 0).map(|(n, what)| format!("{} {what}", count(*n)));
        let lost: Vec<String> = lost.collect();
        if !lost.is_empty() {
            let _ = write!(text, "\n  not handled: {}", lost.join(", "));
        }
    }
}

fn relays(text: &mut String, now: &Snapshot, columns: usize) {
    for group in &now.groups {
        let Some(relay) = &group.relay else { continue };
        text.push('\n');
        let mut out = Facts { text, columns, used: 0 };
        out.label("relay");
        out.fact(&format!("group {} to {}", printable(group.stats.name.as_str()), printable(&relay.to)));
        out.fact(&relay::state(relay, now.time));
        out.fact(&format!("{} messages/s", per_second(relay.rate)));
        out.fact(&relay.confirmed.map_or_else(|| "nothing confirmed".into(), |at| format!("confirmed {at}")));
        out.fact(&format!("{} relayed", count(relay.relayed)));
        if relay.refused > 0 {
            out.fact(&format!("{} refused", count(relay.refused)));
        }
        if let Some(error) = relay::last_error(relay, now.time) {
            out.fact(&printable(&error));
        }
    }
}

fn pages(text: &mut String, now: &Snapshot) {
    let _ = write!(text, "\n\n{:>12} {:>9} {:>9} {:>5} {:>8}", "page", "messages", "bytes", "full", "oldest");
    for page in &now.pages {
        let _ = write!(
            text,
            "\n{:>12} {:>9} {:>9} {:>4.0}% {:>8} {}",
            page.number,
            count(page.len),
            size(page.bytes),
            now.page_fill(page) * 100.0,
            page.oldest.map_or_else(|| "-".into(), |time| duration(now.age(time))),
            if page.sealed { "sealed" } else { "written" },
        );
    }
}
