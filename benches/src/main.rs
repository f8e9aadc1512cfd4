//! The floor: `cargo run --release -p benches [MESSAGES [ROUNDS]]`.
//!
//! Every contestant moves the same messages in the same run, the contestants taking turns, so that what else the
//! machine does meets all of them. The first round of a contestant that keeps its channel is printed apart, as cold.

mod contestants;
mod machine;

use std::process::ExitCode;
use std::time::Duration;

use contestants::{Contestant, Crossbeam, DiskChan, Old, Shape};

const MESSAGES: u64 = 1_000_000;
const ROUNDS: usize = 11;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let (messages, rounds) = match (args.next().transpose(), args.next().transpose()) {
        (Ok(messages), Ok(rounds)) => {
            (messages.unwrap_or(MESSAGES), rounds.map_or(ROUNDS, |rounds| rounds as usize).max(1))
        }
        _ => {
            eprintln!("usage: floor [MESSAGES [ROUNDS]]");
            return ExitCode::from(2);
        }
    };
    machine::print(&std::env::temp_dir());
    println!("{messages} messages of 100 bytes a round, {rounds} rounds; million messages/s");
    for pairs in [1, 4] {
        floor(Shape { pairs, messages }, rounds);
    }
    ExitCode::SUCCESS
}

fn floor(shape: Shape, rounds: usize) {
    println!("\n{0} senders, {0} receivers", shape.pairs);
    let mut contestants: Vec<Box<dyn Contestant>> = vec![
        Box::new(DiskChan::new(shape)),
        Box::new(Crossbeam::new(shape, 1024)),
        Box::new(Crossbeam::new(shape, 65536)),
        Box::new(Old::new(shape)),
    ];
    let cold: Vec<_> = contestants.iter_mut().map(|c| c.cold()).collect();
    let mut warm = vec![Vec::new(); contestants.len()];
    for _ in 0..rounds {
        for (contestant, times) in contestants.iter_mut().zip(&mut warm) {
            times.push(contestant.round());
        }
    }

    println!("{:36} {:>7} {:>7} {:>7} {:>7} {:>7}", "", "median", "least", "most", "cold", "ratio");
    let rate = |time: Duration| shape.messages as f64 / time.as_secs_f64() / 1e6;
    let mut first = None;
    for ((contestant, mut times), cold) in contestants.iter().zip(warm).zip(cold) {
        times.sort();
        let median = rate(times[times.len() / 2]);
        let ratio = *first.get_or_insert(median) / median;
        println!(
            "{:36} {median:7.2} {:7.2} {:7.2} {:>7} {ratio:7.2}",
            contestant.name(),
            rate(times[times.len() - 1]),
            rate(times[0]),
            cold.map_or("-".to_string(), |time| format!("{:.2}", rate(time))),
        );
    }
    println!("(ratio: the median of the first line by that of this one)");
}
