//! To stable storage: `cargo run --release -p benches --bin durable -- [COUNT [ROUNDS]] [--dir DIR]`.
//!
//! First durable sends: each contestant has a process and files of its own in the same directory, and the contestants
//! take turns, so that what else the machine and its disk do meets all of them. Before and after each run the reference
//! runs for a moment, and a run is compared with those two. A run ends after COUNT sends or when its time is over. In
//! the end each contestant opens its files again and counts its messages.
//!
//! Then what it costs a sender that the channel syncs in the background.

mod calls;
mod child;
mod contestants;
mod databases;
mod logs;
#[path = "../machine.rs"]
mod machine;
mod paced;
#[path = "../process.rs"]
mod process;
mod ring;
mod run;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use child::Contestant;
use contestants::Kind;
use paced::{Figures, INTERVAL, Mode};
use run::{LEN, Shape};

const COUNT: u64 = 200_000;
const ROUNDS: usize = 5;
const CALLERS: [usize; 4] = [1, 8, 64, 512];
/// Of a run, and of one of the reference, in milliseconds.
const RUN: u64 = 800;
const REFERENCE: u64 = 200;
/// What is written to see how fast the disk is.
const DISK_BYTES: usize = 256 << 20;
/// Messages of a run that goes as fast as it can: more than the ring has room for.
const FAST: u64 = 4_000_000;
/// Of a paced run.
const PACED: Duration = Duration::from_secs(2);
/// Of the fastest rate of a sender that never syncs: a pace that can be kept.
const SUSTAINED: f64 = 0.7;

struct Args {
    count: u64,
    rounds: usize,
    dir: PathBuf,
}

fn parse(args: &[String]) -> Option<Args> {
    let target = std::env::current_exe().ok()?.parent()?.to_owned();
    let mut parsed = Args { count: COUNT, rounds: ROUNDS, dir: target };
    let (mut args, mut numbers) = (args.iter(), Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--dir" => parsed.dir = args.next()?.into(),
            number => numbers.push(number.parse::<u64>().ok()?),
        }
    }
    if let [count, ..] = numbers[..] {
        parsed.count = count.max(1);
    }
    if let [_, rounds, ..] = numbers[..] {
        parsed.rounds = rounds.max(1) as usize;
    }
    (numbers.len() <= 2).then_some(parsed)
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == process::CHILD) {
        process::prepare();
        child::run(&args[1..]);
        return ExitCode::SUCCESS;
    }
    let Some(Args { count, rounds, dir }) = parse(&args) else {
        eprintln!("usage: durable [COUNT [ROUNDS]] [--dir DIR]");
        return ExitCode::from(2);
    };
    if !dir.is_dir() {
        eprintln!("{} is not a directory", dir.display());
        return ExitCode::from(2);
    }
    let file_system = machine::file_system(&dir);
    if file_system == "tmpfs" || file_system == "ramfs" {
        eprintln!("{} is on {file_system}, which has no stable storage; choose another with --dir", dir.display());
        return ExitCode::from(2);
    }
    machine::print(&dir);
    println!("{LEN}-byte messages, {rounds} rounds");
    durable(&dir, count, rounds);
    background(&dir, rounds);
    ExitCode::SUCCESS
}

/// The median, the least and the most.
fn median(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2], values[0], values[values.len() - 1]]
}

/// Durable sends a second, with more and more callers.
fn durable(dir: &Path, count: u64, rounds: usize) {
    let start = |kind: Kind| Contestant::start(dir, kind.name(), count);
    let mut reference = start(Kind::Fdatasync);
    let mut contestants = Kind::COMPARED.map(start);
    for callers in CALLERS {
        let mut rates = vec![Vec::new(); contestants.len()];
        let mut ratios = rates.clone();
        let mut references = Vec::new();
        for _ in 0..rounds {
            let mut before = rate(&mut reference, 1, count, REFERENCE);
            references.push(before);
            for ((contestant, rates), ratios) in contestants.iter_mut().zip(&mut rates).zip(&mut ratios) {
                rates.push(rate(contestant, callers, count, RUN));
                let after = rate(&mut reference, 1, count, REFERENCE);
                ratios.push(rates[rates.len() - 1] / ((before + after) / 2.0));
                references.push(after);
                before = after;
            }
        }
        println!("\n{callers} caller{}; durable sends/s", if callers == 1 { "" } else { "s" });
        println!("{:36} {:>9} {:>9} {:>9} {:>7} {:>7}", "", "median", "least", "most", "/ F", "/ (c F)");
        let [middle, least, most] = median(references);
        println!("{:36} {middle:9.0} {least:9.0} {most:9.0}", Kind::Fdatasync.name());
        for ((kind, rates), ratios) in Kind::COMPARED.into_iter().zip(rates).zip(ratios) {
            let ([middle, least, most], [ratio, ..]) = (median(rates), median(ratios));
            let each = ratio / callers as f64;
            println!("{:36} {middle:9.0} {least:9.0} {most:9.0} {ratio:7.2} {each:7.3}", kind.name());
        }
    }
    reference.check();
    contestants.into_iter().for_each(Contestant::check);
    println!(
        "\n(/ F: each run's rate by the mean of F just before and just after it, the median of the rounds; / (c F): by so"
    );
    println!("much for each caller. Afterwards each contestant had all its messages.)");
}

/// Sends a second of one run.
fn rate(contestant: &mut Contestant, callers: usize, sends: u64, millis: u64) -> f64 {
    let [sends, nanos] = contestant.ask(Shape { callers, sends, millis });
    sends as f64 / Duration::from_nanos(nanos).as_secs_f64()
}

/// Bytes a second that the disk takes, written in sequence and synced.
fn disk(dir: &Path) -> f64 {
    let mut file = tempfile::tempfile_in(dir).unwrap();
    let block = vec![1; 1 << 20];
    let start = Instant::now();
    for _ in 0..DISK_BYTES / block.len() {
        file.write_all(&block).unwrap();
    }
    file.sync_data().unwrap();
    DISK_BYTES as f64 / start.elapsed().as_secs_f64()
}

/// `Interval` beside `Buffered`.
fn background(dir: &Path, rounds: usize) {
    let [rate, least, most] = median((0..rounds).map(|_| disk(dir)));
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!("\na sync every {INTERVAL:?} while one sends and one receives");
    println!(
        "the disk: {:.0} MiB/s written in sequence and synced, {} MiB a time (least {:.0}, most {:.0})",
        mib(rate),
        DISK_BYTES >> 20,
        mib(least),
        mib(most)
    );
    let mut modes = Mode::ALL.map(|mode| Contestant::start(dir, mode.name(), 0));
    let [bytes] = modes[0].ask("0 0");

    let fast = alternate(&mut modes, rounds, FAST, 0);
    let [fastest, ..] = median(fast[0].iter().map(|figures| per_second(FAST, figures)));
    println!("\nas fast as it goes, {FAST} messages a run");
    print(&fast, FAST);

    let half = rate / 2.0 / bytes as f64;
    let pace = half.min(fastest * SUSTAINED);
    let messages = (pace * PACED.as_secs_f64()) as u64;
    let paced = alternate(&mut modes, rounds, messages, pace as u64);
    println!("\npaced at {pace:.0} messages/s, {bytes} bytes of the file each: {:.0} MiB/s", mib(pace * bytes as f64));
    if pace < half {
        println!("(half of what the disk takes is {half:.0}, more than one sender can keep up)");
    }
    print(&paced, messages);
    print_sends(&paced);
}

fn per_second(messages: u64, figures: &Figures) -> f64 {
    messages as f64 / figures.time.as_secs_f64()
}

/// Runs in both modes, each going first in turn.
fn alternate(modes: &mut [Contestant; 2], rounds: usize, messages: u64, pace: u64) -> [Vec<Figures>; 2] {
    let mut figures = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for mode in [round % 2, 1 - round % 2] {
            figures[mode].push(modes[mode].ask(format!("{messages} {pace}")).into());
        }
    }
    figures
}

/// A row for each mode, and one for what the second costs over the first.
fn print(figures: &[Vec<Figures>; 2], messages: u64) {
    let rate = |figures: &Figures| per_second(messages, figures);
    let sender = |figures: &Figures| figures.sender.as_nanos() as f64 / messages as f64;
    let process = |figures: &Figures| figures.process.as_nanos() as f64 / messages as f64;
    println!("{:10} {:^29} {:^23} {:^23}", "", "messages/s", "sender's CPU, ns each", "process' CPU, ns each");
    print!("{:10} {:>9} {:>9} {:>9}", "", "median", "least", "most");
    println!(" {0:>7} {1:>7} {2:>7} {0:>7} {1:>7} {2:>7}", "median", "least", "most");
    for (mode, figures) in Mode::ALL.into_iter().zip(figures) {
        let [median_rate, least, most] = median(figures.iter().map(rate));
        print!("{:10} {median_rate:9.0} {least:9.0} {most:9.0}", mode.name());
        for cpu in [median(figures.iter().map(sender)), median(figures.iter().map(process))] {
            print!(" {:7.0} {:7.0} {:7.0}", cpu[0], cpu[1], cpu[2]);
        }
        println!();
    }
    let [buffered, interval] = figures;
    let rounds = || buffered.iter().zip(interval);
    let [middle, least, most] = median(rounds().map(|(b, i)| 100.0 * (1.0 - rate(i) / rate(b))));
    print!("{:10} {middle:9.1} {least:9.1} {most:9.1}", "cost, %");
    for cpu in [
        median(rounds().map(|(b, i)| 100.0 * (sender(i) / sender(b) - 1.0))),
        median(rounds().map(|(b, i)| 100.0 * (process(i) / process(b) - 1.0))),
    ] {
        print!(" {:7.1} {:7.1} {:7.1}", cpu[0], cpu[1], cpu[2]);
    }
    println!("\n(cost: of Interval over Buffered in the same round; the median, least and most of the rounds)");
}

/// How long a send takes.
fn print_sends(figures: &[Vec<Figures>; 2]) {
    println!("{:10} {:>9} {:>9} {:>9} {:>12}", "a send, µs", "median", "99 %", "99.9 %", "longest, ms");
    for (mode, figures) in Mode::ALL.into_iter().zip(figures) {
        let [middle, most, nearly_all] =
            [0, 1, 2].map(|at| median(figures.iter().map(|f| f.sends[at].as_secs_f64() * 1e6))[0]);
        let [_, _, longest] = median(figures.iter().map(|f| f.tick.as_secs_f64() * 1e3));
        println!("{:10} {middle:9.2} {most:9.2} {nearly_all:9.2} {longest:12.2}", mode.name());
    }
    println!("(medians of the rounds; longest: the most that the sends of one millisecond took in any round)");
}
