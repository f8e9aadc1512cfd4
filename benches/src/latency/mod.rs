//! Latency: 40-byte messages from one thread to another.

mod contestants;
mod work;

use serde_json::{Value, json};

use crate::args::Args;
use crate::charts::{self, Bar, Group, Scale};
use crate::figures::{Spread, median};
use crate::process::Process;
use crate::report::Report;
use contestants::Kind;
pub use work::child;

/// A run is so many times as long as one of the grid: rare times are looked for.
const LONGER: f64 = 2.0;
const PERCENTILES: [&str; 5] = ["p50", "p99", "p99.9", "p99.99", "max"];

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    PingPong,
    Slow,
    Fast,
}

impl Scenario {
    const ALL: [Scenario; 3] = [Scenario::PingPong, Scenario::Slow, Scenario::Fast];

    fn name(self) -> &'static str {
        match self {
            Scenario::PingPong => "ping-pong: there and back through two channels",
            Scenario::Slow => "one way, 100 thousand messages/s",
            Scenario::Fast => "one way, 1 million messages/s",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    /// Messages a second.
    fn pace(self) -> Option<u64> {
        match self {
            Scenario::PingPong => None,
            Scenario::Slow => Some(100_000),
            Scenario::Fast => Some(1_000_000),
        }
    }
}

/// A contestant: its percentiles, round by round, in nanoseconds.
struct Row {
    name: &'static str,
    rounds: Vec<Vec<f64>>,
}

impl Row {
    /// Medians of the rounds, in microseconds: from when messages were due or the one before came back; from the send.
    fn percentiles(&self) -> [Option<[f64; 5]>; 2] {
        let count = self.rounds.first().map_or(0, Vec::len);
        let of = |at: usize| median(self.rounds.iter().map(|round| round[at])) / 1e3;
        [0, 5].map(|first| (count > first).then(|| std::array::from_fn(|at| of(first + at))))
    }

    fn json(&self) -> Value {
        let of = |at: usize| Spread::json(&self.rounds.iter().map(|round| round[at]).collect::<Vec<_>>());
        let all = |first: usize| {
            let named = PERCENTILES.iter().enumerate().map(|(at, name)| (name.to_string(), of(first + at)));
            named.collect::<serde_json::Map<_, _>>()
        };
        let from_send = self.percentiles()[1].map(|_| all(5));
        json!({ "contestant": self.name, "nanoseconds": all(0), "nanoseconds_from_send": from_send })
    }
}

fn run(scenario: Scenario, args: &Args) -> Vec<Row> {
    let kinds = Kind::ALL.into_iter().filter(|&kind| scenario != Scenario::PingPong || kind != Kind::Alone);
    let mut runners = Vec::new();
    let mut rows = Vec::new();
    for kind in kinds.filter(|kind| args.has_contestant(kind.name())) {
        let dir = args.new_dir();
        let process = Process::start(kind.name(), &["latency", kind.name(), scenario.name()], dir.path(), &[]);
        runners.push((process, dir));
        rows.push(Row { name: kind.name(), rounds: Vec::new() });
    }
    for round in 0..args.rounds {
        for turn in 0..runners.len() {
            let at = (turn + round) % runners.len();
            let times = runners[at].0.ask(args.seconds * LONGER);
            rows[at].rounds.push(times);
        }
    }
    rows
}

pub fn latency(args: &Args, report: &mut Report) {
    println!(
        "\n# Latency\n\n40-byte messages, threads, µs; exact percentiles of each of {} rounds of {:.1} s, medians of \
         the rounds.\nThe sender of messages that go one way spins on the clock; alone is how late it is by itself.",
        args.rounds,
        args.seconds * LONGER,
    );
    let mut done = Vec::new();
    for scenario in Scenario::ALL.into_iter().filter(|scenario| args.has_cell(scenario.name())) {
        let rows = run(scenario, args);
        print(scenario, &rows);
        done.push((scenario.name(), rows));
        let all = |rows: &[Row]| rows.iter().map(Row::json).collect::<Value>();
        let json = |(name, rows): &(&str, Vec<Row>)| json!({ "scenario": name, "contestants": all(rows) });
        report.add("latency", done.iter().map(json).collect());
    }
    chart(&done, report);
}

/// Medians and rare times of each scenario; of messages that were due, from their send.
fn chart(done: &[(&'static str, Vec<Row>)], report: &Report) {
    let bar = |row: &Row, at: usize| {
        let [due, sent] = row.percentiles();
        let value = sent.or(due)?[at];
        Some(Bar { label: row.name.to_string(), value, ours: row.name.starts_with("disk_chan") })
    };
    let group = |scenario: &str, rows: &[Row], at: usize| Group {
        title: format!("{scenario}, {}", PERCENTILES[at]),
        bars: rows.iter().filter_map(|row| bar(row, at)).collect(),
    };
    let groups: Vec<_> = done.iter().flat_map(|(name, rows)| [0, 1, 2].map(|at| group(name, rows, at))).collect();
    if !groups.is_empty() {
        let title = "latency of 40-byte messages, µs (logarithmic)";
        report.write("latency.svg", &charts::bars(title, Scale::Logarithmic, &groups));
    }
}

fn print(scenario: Scenario, rows: &[Row]) {
    println!("\n{}", scenario.name());
    if scenario.pace().is_some() {
        println!("{:37} {:^41} {:^41}", "", "from when a message was due", "from its send");
    }
    let header = PERCENTILES.map(|name| format!("{name:>7}")).join(" ");
    println!("{:37}   {header}   {}", "", if scenario.pace().is_some() { &header } else { "" });
    for row in rows {
        print!("{:37}", row.name);
        for percentiles in row.percentiles().into_iter().flatten() {
            let [p50, p99, p999, p9999, max] = percentiles;
            print!(" {p50:8.2} {p99:8.2} {p999:7.1} {p9999:7.0} {max:7.0}");
        }
        println!();
    }
}
