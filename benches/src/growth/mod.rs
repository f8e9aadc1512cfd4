//! What gets slower when something grows: each case by the smallest one of the same round.

mod work;

use serde_json::{Value, json};

use crate::args::Args;
use crate::figures::{Spread, ratio};
use crate::process::Process;
use crate::report::Report;
pub use work::child;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Series {
    Backlog,
    Pages,
    Groups,
    Handles,
    FanOut,
}

impl Series {
    const ALL: [Series; 5] = [Series::Backlog, Series::Pages, Series::Groups, Series::Handles, Series::FanOut];

    fn name(self) -> &'static str {
        match self {
            Series::Backlog => "backlog",
            Series::Pages => "pages",
            Series::Groups => "groups",
            Series::Handles => "handles",
            Series::FanOut => "fan-out",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|series| series.name() == name)
    }

    fn title(self) -> &'static str {
        match self {
            Series::Backlog => "bytes of messages that lie between the sender and the receiver",
            Series::Pages => "pages of 64 KiB of the ring",
            Series::Groups => "groups, received by one thread; hand-outs",
            Series::Handles => "more clones of the sender, and as many of the receiver, that are alive",
            Series::FanOut => {
                "groups whose receivers hold a lease and sleep; sends in a second of the sender's CPU time"
            }
        }
    }

    /// The smallest first.
    fn values(self, full: bool) -> Vec<u64> {
        let (mut values, more) = match self {
            Series::Backlog => (vec![0, 64 << 20, 256 << 20, 1 << 30], 8 << 30),
            Series::Pages => (vec![16, 256, 4096], 65536),
            Series::Groups => (vec![1, 4, 16], 64),
            Series::Handles => (vec![0, 10, 100, 1000], 10_000),
            Series::FanOut => (vec![1, 4, 16], 64),
        };
        values.extend(full.then_some(more));
        values
    }

    /// What is counted, for one message that was sent.
    fn counted(self, value: u64) -> u64 {
        if self == Series::Groups { value } else { 1 }
    }

    /// Messages of a run, by how long some took in the smallest case.
    fn messages(self, rate: f64, args: &Args) -> u64 {
        match self {
            // They stay in the ring.
            Series::FanOut => SOME,
            _ => ((rate * args.seconds) as u64).max(1),
        }
    }
}

/// Messages of the first run, which tells how many a timed one takes.
const SOME: u64 = 200_000;

fn run(series: Series, args: &Args) -> Value {
    let values = series.values(args.full);
    let mut processes = Vec::new();
    for value in &values {
        let dir = args.new_dir();
        let name = format!("{} {value}", series.name());
        let process = Process::start(&name, &["growth", series.name(), &value.to_string()], dir.path(), &[]);
        processes.push((process, dir));
    }
    // All are asked, so that all are ready.
    let some: Vec<_> = processes.iter_mut().map(|(process, _)| process.ask(SOME)[0]).collect();
    let messages = series.messages(SOME as f64 / some[0], args);
    let mut rates = vec![Vec::new(); values.len()];
    for round in 0..args.rounds {
        for turn in 0..values.len() {
            let at = (turn + round) % values.len();
            let seconds = processes[at].0.ask(messages)[0];
            rates[at].push((messages * series.counted(values[at])) as f64 / seconds);
        }
    }
    println!("\n{}: {}", series.name(), series.title());
    println!("{:>16} {:>7} {:>7} {:>7} {:>10}", "", "median", "least", "most", "/ smallest");
    let mut cases = Vec::new();
    for (value, of_value) in values.iter().zip(&rates) {
        let Spread { median, least, most } = Spread::of(of_value);
        let [median, least, most] = [median, least, most].map(|rate| rate / 1e6);
        let by_smallest = ratio(of_value, &rates[0]);
        println!("{value:16} {median:7.2} {least:7.2} {most:7.2} {by_smallest:10.2}");
        cases.push(json!({ "value": value, "per_second": Spread::json(of_value), "by_smallest": by_smallest }));
    }
    json!({ "series": series.name(), "what": series.title(), "messages": messages, "cases": cases })
}

pub fn growth(args: &Args, report: &mut Report) {
    println!(
        "\n# Growth\n\ndisk_chan, one sends and one receives {} bytes, million messages/s; {} rounds of about {} s.\n\
         / smallest: by the first case within a round, the median of the rounds.",
        work::LEN,
        args.rounds,
        args.seconds,
    );
    let mut done = Vec::new();
    for series in Series::ALL.into_iter().filter(|series| args.has_cell(series.name())) {
        done.push(run(series, args));
        report.add("growth", done.iter().cloned().collect());
    }
}
