//! What it costs to wait, and to have handles.

use std::path::Path;
use std::thread;
use std::time::Duration;

use disk_chan::{Channel, Options};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::args::Args;
use crate::process::{self, Process};
use crate::report::Report;

const TASKS: usize = 1000;
const THREADS: usize = 100;
/// How long the CPU time of those who wait is measured.
const WATCHED: Duration = Duration::from_secs(10);
/// Until everybody waits.
const SETTLED: Duration = Duration::from_millis(500);
const CHANNELS: usize = 64;
const HANDLES: usize = 100_000;

/// CPU time of this process in seconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Percent of a core that this process takes while nothing happens.
fn watch() -> f64 {
    thread::sleep(SETTLED);
    let before = cpu();
    thread::sleep(WATCHED);
    100.0 * (cpu() - before) / WATCHED.as_secs_f64()
}

/// Bytes of memory of this process that are not of a file.
fn anonymous() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}

fn channel(dir: &Path, number: usize) -> Channel {
    let options = Options::new().page_size(64 << 10).max_pages(2).trust_file_system(true);
    options.blocking_open(dir.join(format!("{number}.chan"))).unwrap()
}

/// The process: answers by one number, or several of memory.
pub fn child(args: &[String]) {
    let [what, dir] = args else { panic!("arguments: WHAT DIR") };
    let dir = Path::new(dir);
    process::serve(|_| match what.as_str() {
        "tasks" => vec![tasks(dir)],
        "threads" => vec![threads(dir)],
        "ticks" => vec![ticks()],
        "memory" => memory(dir),
        _ => panic!("nothing called {what}"),
    });
}

fn tasks(dir: &Path) -> f64 {
    let channel = channel(dir, 0);
    let receiver = channel.blocking_subscribe("idle").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for _ in 0..TASKS {
        let mut receiver = receiver.clone();
        runtime.spawn(async move { receiver.recv().await.map(|message| message.len()) });
    }
    watch()
}

/// The threads are ended by the end of the process.
fn threads(dir: &Path) -> f64 {
    let channel = channel(dir, 0);
    let receiver = channel.blocking_subscribe("idle").unwrap();
    for _ in 0..THREADS {
        let mut receiver = receiver.clone();
        thread::spawn(move || receiver.blocking_recv().map(|message| message.len()));
    }
    watch()
}

/// One thread that only wakes up twenty times a second: what a clock costs here.
fn ticks() -> f64 {
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_millis(50));
        }
    });
    watch()
}

/// Bytes of a channel, a sender and a receiver.
fn memory(dir: &Path) -> Vec<f64> {
    // What the first one needs is needed once.
    let first = channel(dir, CHANNELS);
    let (sender, receiver) = (first.sender(), first.blocking_subscribe("idle").unwrap());
    let each = |before: f64, count: usize| (anonymous() - before) / count as f64;
    let before = anonymous();
    let channels: Vec<_> = (0..CHANNELS).map(|number| channel(dir, number)).collect();
    let of_channel = each(before, CHANNELS);
    let before = anonymous();
    let senders: Vec<_> = (0..HANDLES).map(|_| sender.clone()).collect();
    let of_sender = each(before, HANDLES);
    let before = anonymous();
    let receivers: Vec<_> = (0..HANDLES).map(|_| receiver.clone()).collect();
    let of_receiver = each(before, HANDLES);
    drop((channels, senders, receivers));
    vec![of_channel, of_sender, of_receiver]
}

pub fn idle(args: &Args, report: &mut Report) {
    let ask = |what: &str| {
        let dir = args.new_dir();
        Process::start(what, &["idle", what], dir.path(), &[]).ask("")
    };
    println!("\n# Idle\n");
    let (of_tasks, of_threads, of_ticks) = (ask("tasks")[0], ask("threads")[0], ask("ticks")[0]);
    println!("{TASKS} tasks in recv, {WATCHED:?}: {of_tasks:.2} % of a core");
    println!("{THREADS} threads in blocking_recv, {WATCHED:?}: {of_threads:.2} % of a core");
    println!("1 thread that only wakes up twenty times a second: {of_ticks:.2} % of a core");
    let [channel, sender, receiver] = ask("memory").try_into().unwrap();
    println!("memory beside the file: {channel:.0} bytes for a channel ({CHANNELS} open files)");
    println!("    {sender:.0} bytes for a clone of a sender, {receiver:.0} for one of a receiver ({HANDLES} each)");
    let figures = json!({
        "tasks": TASKS, "percent_of_a_core_tasks": of_tasks,
        "threads": THREADS, "percent_of_a_core_threads": of_threads,
        "percent_of_a_core_bare_ticks": of_ticks,
        "bytes_per_channel": channel, "bytes_per_sender": sender, "bytes_per_receiver": receiver,
    });
    report.add("idle", figures);
}
