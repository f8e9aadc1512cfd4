//! Between processes: `cargo run --release -p benches --bin processes -- [MESSAGES [ROUNDS]]`.
//!
//! Every contestant moves the same messages in the same run, from one process to another; the contestants take turns,
//! so that what else the machine does meets all of them. The receiver checks every byte.

mod contestants;
#[path = "../machine.rs"]
mod machine;
mod pair;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use contestants::{Kind, Wait};
use pair::Pair;
use work::Order;

const MESSAGES: u64 = 1_000_000;
const ROUNDS: usize = 11;
/// Of a round that is paced.
const PACED: u64 = 10_000;

/// A contestant, and how its receiver waits while messages come as fast as they can.
const FLOWS: [(Kind, Wait); 8] = [
    (Kind::DiskChan, Wait::Sleeping),
    (Kind::SeqPacket, Wait::Sleeping),
    (Kind::Stream, Wait::Sleeping),
    (Kind::Pipe, Wait::Sleeping),
    (Kind::Iceoryx, Wait::Polling),
    (Kind::DiskChan, Wait::Polling),
    (Kind::BufferedPipe, Wait::Sleeping),
    (Kind::DiskChanMany, Wait::Sleeping),
];

const PACES: [Kind; 5] = [Kind::DiskChan, Kind::SeqPacket, Kind::Stream, Kind::Pipe, Kind::Iceoryx];

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == pair::CHILD) {
        work::run(&args[1..]);
        return ExitCode::SUCCESS;
    }
    let mut numbers = args.iter().map(|arg| arg.parse::<u64>());
    let (messages, rounds) = match (numbers.next().transpose(), numbers.next().transpose()) {
        (Ok(messages), Ok(rounds)) => {
            (messages.unwrap_or(MESSAGES).max(1), rounds.map_or(ROUNDS, |rounds| rounds as usize).max(1))
        }
        _ => {
            eprintln!("usage: processes [MESSAGES [ROUNDS]]");
            return ExitCode::from(2);
        }
    };
    machine::print(&std::env::temp_dir());
    println!("one process sends, another receives; {rounds} rounds");
    for size in [100, 8, 1024] {
        flow(size, messages, rounds);
    }
    pace(Wait::Polling, Duration::from_micros(20), rounds);
    pace(Wait::Sleeping, Duration::from_micros(100), rounds);
    ExitCode::SUCCESS
}

fn name(kind: Kind, wait: Wait) -> String {
    let polling = if wait == Wait::Polling { ", polling" } else { "" };
    format!("{}{polling}", kind.name())
}

fn median<T: Copy + PartialOrd>(mut values: Vec<T>) -> (T, T, T) {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

/// Messages as fast as they go, from the first send to the last receipt.
fn flow(size: usize, messages: u64, rounds: usize) {
    println!("\n{messages} messages of {size} bytes a round; million messages/s");
    let mut pairs: Vec<_> = FLOWS.iter().map(|&(kind, wait)| (Pair::new(kind, size), wait)).collect();
    let mut rates = vec![Vec::new(); pairs.len()];
    for (pair, wait) in &mut pairs {
        pair.warm(Order { wait: *wait, messages, pace: 0 });
    }
    for _ in 0..rounds {
        for ((pair, wait), rates) in pairs.iter_mut().zip(&mut rates) {
            let (time, _) = pair.flow(Order { wait: *wait, messages, pace: 0 });
            rates.push(messages as f64 / time.as_secs_f64() / 1e6);
        }
    }
    println!("{:36} {:>7} {:>7} {:>7} {:>7}", "", "median", "least", "most", "ratio");
    let mut first = None;
    for ((kind, wait), rates) in FLOWS.into_iter().zip(rates) {
        let (median, least, most) = median(rates);
        let ratio = *first.get_or_insert(median) / median;
        println!("{:36} {median:7.2} {least:7.2} {most:7.2} {ratio:7.2}", name(kind, wait));
    }
    println!("(ratio: the median of the first line by that of this one; above 1 the first is faster)");
}

/// Messages at a pace, from just before each is sent until it is looked at.
fn pace(wait: Wait, pace: Duration, rounds: usize) {
    const SIZE: usize = 100;
    let how = if wait == Wait::Polling { "polling" } else { "sleeping" };
    println!("\none way, {how} receiver, {PACED} messages of {SIZE} bytes a round, one every {pace:?}; microseconds");
    let mut pairs: Vec<_> = PACES.iter().map(|&kind| Pair::new(kind, SIZE)).collect();
    for pair in &mut pairs {
        pair.warm(Order { wait: Wait::Polling, messages: 10 * PACED, pace: 0 });
    }
    let mut times = vec![Vec::new(); pairs.len()];
    for _ in 0..rounds {
        for (pair, times) in pairs.iter_mut().zip(&mut times) {
            times.push(pair.pace(Order { wait, messages: PACED, pace: pace.as_nanos() as u64 }));
        }
    }
    println!(
        "{:36} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>7}",
        "", "median", "least", "most", "99 %", "99.9 %", "longest", "ratio"
    );
    let mut first = None;
    for (kind, times) in PACES.into_iter().zip(times) {
        let over = |i: usize| median(times.iter().map(|times| times[i] as f64 / 1e3).collect());
        let (middle, least, most) = over(0);
        let ratio = *first.get_or_insert(middle) / middle;
        println!(
            "{:36} {middle:7.2} {least:7.2} {most:7.2} {:7.2} {:7.2} {:8.1} {ratio:7.2}",
            kind.name(),
            over(1).0,
            over(2).0,
            over(3).2
        );
    }
    println!(
        "(median, least and most of the rounds' medians; medians of their 99 % and 99.9 %; ratio: the median of the"
    );
    println!("first line by that of this one; below 1 the first is faster)");
}
