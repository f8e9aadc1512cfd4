//! `disk-chan groups`: where groups stand, and moving them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Subcommand;
use disk_chan::{Channel, GroupStats, Offset, Start};
use serde_json::{Value, json};

use crate::Outcome;
use crate::face::{self, Face, Place, context};
use crate::unfinished::no_group;

/// List, move, copy, remove, export and import groups
///
/// Who moves a group prints where it stood and where it stands: at the first message that it is not done with. Its
/// receivers go on there. A group of which messages are handed out is left alone (status 5), unless --force says so.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
#[command(
    after_help = "Example:\n  disk-chan groups orders.chan\n  disk-chan groups seek orders.chan billing --to 15m --dry-run"
)]
pub struct Args {
    /// The channel whose groups are listed
    file: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// List the groups, and how they stand
    #[command(after_help = "Example:\n  disk-chan groups list orders.chan --json | jq .lag")]
    List {
        /// The channel
        file: PathBuf,
    },
    /// Move a group forward or back
    #[command(after_help = "Example:\n  disk-chan groups seek orders.chan billing --to oldest")]
    Seek {
        /// The channel
        file: PathBuf,
        /// The group
        group: String,
        #[command(flatten)]
        to: To,
        /// Move it, though messages of it are handed out
        #[arg(long)]
        force: bool,
        /// Only say where it would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a new group that stands where another does
    #[command(after_help = "Example:\n  disk-chan groups copy orders.chan billing billing-test")]
    Copy {
        /// The channel
        file: PathBuf,
        /// The group that is there
        from: String,
        /// The new group
        to: String,
    },
    /// Remove a group: it keeps nothing in the ring any more
    #[command(after_help = "Example:\n  disk-chan groups remove orders.chan billing-test")]
    Remove {
        /// The channel
        file: PathBuf,
        /// The group
        group: String,
        /// Remove it, though messages of it are handed out
        #[arg(long)]
        force: bool,
    },
    /// Write where all groups stand to standard output, as JSON
    #[command(after_help = "Example:\n  disk-chan groups export orders.chan > positions.json")]
    Export {
        /// The channel
        file: PathBuf,
    },
    /// Put groups where they stood when they were exported; those that are not there are made
    #[command(after_help = "Example:\n  disk-chan groups import orders.chan positions.json")]
    Import {
        /// The channel; it has to be the one that they were exported from
        file: PathBuf,
        /// What `export` wrote [default: standard input]
        positions: Option<PathBuf>,
        /// Move groups, though messages of them are handed out
        #[arg(long)]
        force: bool,
    },
}

/// Where a group is moved to.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct To {
    /// oldest, newest, an offset, a time, or how long ago, such as 15m
    #[arg(long, value_name = "PLACE", value_parser = face::place)]
    to: Option<Place>,
    /// Where another group stands
    #[arg(long, value_name = "GROUP")]
    to_group: Option<String>,
    /// Where it stood when this was exported
    #[arg(long, value_name = "EXPORT")]
    to_file: Option<PathBuf>,
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    match (&args.verb, &args.file) {
        (Some(Verb::List { file }), _) | (None, Some(file)) => list(file, face),
        (Some(Verb::Seek { file, group, to, force, dry_run }), _) => {
            let channel = if *dry_run { face::look_at(file) } else { face::open(file) }?;
            seek(&channel, group, to, *force, *dry_run, face)
        }
        (Some(Verb::Copy { file, from, to }), _) => {
            let channel = face::open(file)?;
            known(&channel, from)?;
            channel.copy_group(from, to).map_err(context(format!("cannot copy group {from} to {to}")))?;
            moved(face, to, None, position(&channel, to), false)
        }
        (Some(Verb::Remove { file, group, force }), _) => {
            let channel = face::open(file)?;
            let from = known(&channel, group)?;
            let what = format!("cannot remove group {group} (if it has to be: --force)");
            channel.remove_group(group, *force).map_err(context(what))?;
            moved(face, group, Some(from), None, false)
        }
        (Some(Verb::Export { file }), _) => {
            let text = face::look_at(file)?.export_groups();
            Ok(Face { json: false }.print(|| Value::Null, || text)?)
        }
        (Some(Verb::Import { file, positions, force }), _) => import(file, positions.as_deref(), *force, face),
        (None, None) => Err("it needs the file of a channel".into()),
    }
}

fn positions(channel: &Channel) -> BTreeMap<String, Offset> {
    channel.group_positions().into_iter().map(|(name, at)| (name.as_str().to_owned(), at)).collect()
}

fn position(channel: &Channel, group: &str) -> Option<Offset> {
    positions(channel).remove(group)
}

/// Where a group stands that has to be there.
fn known(channel: &Channel, group: &str) -> Outcome<Offset> {
    Ok(position(channel, group).ok_or_else(|| no_group(channel, group))?)
}

/// Prints where a group stood and stands.
fn moved(face: Face, group: &str, from: Option<Offset>, to: Option<Offset>, dry_run: bool) -> Outcome<()> {
    let (from, to) = (from.map(|at| at.to_string()), to.map(|at| at.to_string()));
    let json = || json!({"group": group, "from": from, "to": to, "dry_run": dry_run});
    let would = if dry_run { " (not moved)" } else { "" };
    let text = || match (&from, &to) {
        (Some(from), Some(to)) => format!("{group}: {from} -> {to}{would}"),
        (None, Some(to)) => format!("{group}: new at {to}"),
        (Some(from), None) => format!("{group}: removed, it stood at {from}"),
        (None, None) => format!("{group}: not there"),
    };
    Ok(face.print(json, text)?)
}

fn seek(channel: &Channel, group: &str, to: &To, force: bool, dry_run: bool, face: Face) -> Outcome<()> {
    let from = known(channel, group)?;
    let start = match to {
        To { to: Some(place), .. } => Start::from(place),
        To { to_group: Some(other), .. } => Start::At(known(channel, other)?),
        To { to_file: Some(path), .. } => exported(channel, path, group)?,
        _ => return Err("where to?".into()),
    };
    if dry_run {
        let (mut reader, end) = (channel.reader(), channel.end_offset());
        reader.seek(start);
        let to = reader.offset().max(channel.first_offset());
        if to > end {
            return Err(format!("cannot start at {to}: the channel ends at {end}").into());
        }
        return moved(face, group, Some(from), Some(to), true);
    }
    let what = format!("cannot move group {group} (if messages of it are handed out: --force)");
    channel.seek_group(group, start, force).map_err(context(what))?;
    moved(face, group, Some(from), position(channel, group), false)
}

/// Where a group stood when all were exported.
fn exported(channel: &Channel, path: &Path, group: &str) -> Outcome<Start> {
    let what = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(context(what()))?;
    let export: Value = serde_json::from_str(&text).map_err(context(what()))?;
    let here: Value = serde_json::from_str(&channel.export_groups())?;
    for field in ["format", "channel"] {
        if export[field] != here[field] {
            let (is, wanted) = (&export[field], &here[field]);
            return Err(format!("{}: its {field} is {is}, and that of this channel {wanted}", what()).into());
        }
    }
    let groups = export["groups"].as_array().into_iter().flatten();
    let offset = groups.filter(|entry| entry["name"] == group).find_map(|entry| entry["offset"].as_str()?.parse().ok());
    let offset = offset.ok_or_else(|| face::NotFound(format!("{}: it has no group {group}", what())))?;
    Ok(Start::At(Offset::from_u64(offset)))
}

fn import(file: &Path, from: Option<&Path>, force: bool, face: Face) -> Outcome<()> {
    let channel = face::open(file)?;
    let mut text = String::new();
    match from {
        Some(path) => text = std::fs::read_to_string(path).map_err(context(path.display().to_string()))?,
        None => drop(io::stdin().read_to_string(&mut text).map_err(context("standard input"))?),
    }
    let before = positions(&channel);
    let imported = channel.import_groups(&text, force);
    // Those before an error were moved.
    let printed = positions(&channel).into_iter().try_for_each(|(name, to)| match before.get(&name).copied() {
        Some(from) if from == to => Ok(()),
        from => moved(face, &name, from, Some(to), false),
    });
    imported.map_err(context("cannot import (if messages of a group are handed out: --force)"))?;
    printed
}

fn list(file: &Path, face: Face) -> Outcome<()> {
    let channel = face::look_at(file)?;
    let (positions, mut groups) = (positions(&channel), channel.groups());
    groups.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    let at = |group: &GroupStats| positions.get(group.name.as_str()).map(Offset::to_string).unwrap_or_default();
    if face.json {
        for group in &groups {
            face.print(|| as_json(group, &at(group)), String::new)?;
        }
        return Ok(());
    }
    let mut rows =
        vec![["GROUP", "AT", "LAG", "BYTES", "AGE", "HELD", "RETURNED", "REDELIVERED", "DEAD"].map(str::to_owned)];
    rows.extend(groups.iter().map(|group| {
        let age = group.oldest_unfinished.map(|sent| SystemTime::now().duration_since(sent).unwrap_or_default());
        [
            group.name.to_string(),
            at(group),
            group.lag.to_string(),
            group.lag_bytes.to_string(),
            age.map_or("-".into(), |age| format!("{}s", age.as_secs())),
            group.held.to_string(),
            group.returned.to_string(),
            group.redelivered.to_string(),
            group.dead_lettered.to_string(),
        ]
    }));
    Ok(face.print(|| Value::Null, || table(&rows))?)
}

fn as_json(group: &GroupStats, at: &str) -> Value {
    json!({
        "group": group.name.as_str(), "at": at, "lag": group.lag, "lag_bytes": group.lag_bytes,
        "oldest_unfinished": group.oldest_unfinished.map(face::time), "held": group.held, "returned": group.returned,
        "lagged": group.lagged, "expired": group.expired, "damaged": group.damaged, "gone": group.gone,
        "redelivered": group.redelivered, "undeliverable": group.undeliverable, "dead_lettered": group.dead_lettered,
    })
}

/// Rows in columns: the first to the left, the others to the right.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).enumerate();
        let cells =
            cells.map(|(n, (cell, width))| if n == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
