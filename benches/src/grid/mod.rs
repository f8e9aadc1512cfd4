//! Throughput: the contestants of a cell take turns, so that what else the machine does meets all of them.

pub mod cell;
mod contestants;
mod messages;
mod table;
mod tasks;
mod threads;

use std::path::Path;

use tempfile::TempDir;

use crate::args::Args;
use crate::charts::{self, Group, Scale};
use crate::process::{self, Process};
use crate::report::Report;
use cell::Cell;
use contestants::{Kind, calibrate};
use table::{Row, Summary};

/// The order that brings a contestant to its steady state and asks how fast it is.
const WARM: &str = "warm";

/// Runs that are not counted, at most: the first ones are short, and something may have stopped them.
const TRIALS: usize = 3;

/// A contestant in its process and its directory.
struct Runner {
    process: Process,
    kind: Kind,
    capacity: Option<usize>,
    /// Of a run.
    messages: u64,
    _dir: TempDir,
}

impl Runner {
    fn start(kind: Kind, cell: &Cell, args: &Args) -> Self {
        let dir = args.new_dir();
        let name = format!("{}, {cell}", kind.name());
        let environment = contestants::environment(dir.path());
        let mut process = Process::start(&name, &["grid", kind.name(), &cell.to_string()], dir.path(), &environment);
        let [some, seconds, capacity] = process.ask(WARM).try_into().unwrap();
        let capacity = (capacity > 0.0).then_some(capacity as usize);
        let mut runner = Runner { process, kind, capacity, messages: some as u64, _dir: dir };
        runner.last_for(seconds, args.seconds, cell);
        for _ in 0..TRIALS {
            let (_, rate) = runner.run();
            let seconds = runner.messages as f64 / rate;
            if seconds > args.seconds / 2.0 || runner.messages == kind.most(cell) {
                break;
            }
            runner.last_for(seconds, args.seconds, cell);
        }
        runner
    }

    /// Chooses how many messages a run has, by how long it takes now.
    fn last_for(&mut self, now: f64, seconds: f64, cell: &Cell) {
        self.messages = ((self.messages as f64 * seconds / now) as u64).clamp(1, self.kind.most(cell));
    }

    /// Messages a second: sent and synced, if that comes first, and received.
    fn run(&mut self) -> (Option<f64>, f64) {
        let seconds = self.process.ask(self.messages);
        let rate = |seconds: f64| self.messages as f64 / seconds;
        (seconds.get(1).map(|&sending| rate(sending)), rate(seconds[0]))
    }
}

/// The process of a contestant.
pub fn child(args: &[String]) {
    let [kind, cell, dir] = args else { panic!("arguments: CONTESTANT CELL DIR") };
    let (kind, cell) = (Kind::named(kind).unwrap(), cell.parse::<Cell>().unwrap());
    let mut contestant = kind.open(cell, Path::new(dir));
    process::serve(|order| {
        if order == WARM {
            contestant.warm();
            let (messages, time) = calibrate(&mut *contestant, kind.most(&cell));
            return vec![messages as f64, time.as_secs_f64(), contestant.capacity().unwrap_or(0) as f64];
        }
        let outcome = contestant.run(order.parse().unwrap());
        let times = [Some(outcome.time), outcome.sending];
        times.iter().flatten().map(|time| time.as_secs_f64()).collect()
    });
}

/// The rows of a cell.
fn run(cell: &Cell, args: &Args) -> Vec<Row> {
    let kinds = Kind::of(cell, args.full).into_iter().filter(|kind| args.has_contestant(kind.name()));
    let mut runners: Vec<_> = kinds.map(|kind| Runner::start(kind, cell, args)).collect();
    let mut rows: Vec<_> = runners.iter().map(|r| Row::new(r.kind, cell, r.capacity, r.messages)).collect();
    for round in 0..args.rounds {
        // Each goes first in turn.
        for turn in 0..runners.len() {
            let at = (turn + round) % runners.len();
            let (sending, rate) = runners[at].run();
            rows[at].rates.push(rate);
            rows[at].sending.extend(sending);
        }
    }
    rows
}

/// The cells of 100 bytes, one message in a call.
fn chart(done: &[(Cell, Vec<Row>)], report: &Report) {
    let group =
        |(cell, rows): &(Cell, Vec<Row>)| Group { title: cell.to_string(), bars: rows.iter().map(Row::bar).collect() };
    let plain = done.iter().filter(|(cell, rows)| (cell.size, cell.batch) == (100, 1) && !rows.is_empty());
    let groups: Vec<_> = plain.map(group).collect();
    if !groups.is_empty() {
        let title = "100-byte messages, million/s (senders-receivers)";
        report.write("throughput.svg", &charts::bars(title, Scale::Linear, &groups));
    }
}

pub fn grid(args: &Args, report: &mut Report) {
    println!(
        "\n# Throughput\n\nMillion messages/s sent, from the first send to the last receipt; {} rounds of about {} s.\n\
         ratio: disk_chan by this one within a round, the median of the rounds. Channels in memory carry a \
         Vec<u8>\nallocated for each message, and are bounded at what is faster for them, {}.",
        args.rounds,
        args.seconds,
        contestants::CAPACITIES.map(|capacity| capacity.to_string()).join(" or "),
    );
    let mut cells = Cell::core();
    if args.full {
        cells.extend(Cell::more());
    }
    let mut done = Vec::new();
    for cell in cells.into_iter().filter(|cell| args.has_cell(&cell.to_string())) {
        let rows = run(&cell, args);
        table::print(&cell, &rows);
        done.push((cell, rows));
        report.add("grid", done.iter().map(|(cell, rows)| table::json(cell, rows)).collect());
    }
    chart(&done, report);
    let summaries: Vec<_> = done.iter().filter_map(|(cell, rows)| Summary::of(cell, rows)).collect();
    report.add("grid_mean", table::print_summaries(&summaries));

    let mut backlogs = Vec::new();
    for cell in Cell::backlogs(args.full).into_iter().filter(|cell| args.has_cell(&cell.to_string())) {
        let rows = run(&cell, args);
        table::print_backlog(&cell, &rows);
        backlogs.push(table::json(&cell, &rows));
        report.add("backlog", backlogs.iter().cloned().collect());
    }
}
