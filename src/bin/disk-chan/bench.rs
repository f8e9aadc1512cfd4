//! `disk-chan bench`: moves messages through a fresh channel, checks every one, and says how fast that was.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use clap::ValueEnum;
use disk_chan::{Channel, Create, Options, Overflow, Receiver, RecvError, Sender};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::plan::{Check, Maker, Plan, Progress, Sizes, Tally};

/// A run in which nothing arrives for so long has failed.
const STUCK: Duration = Duration::from_secs(60);

/// Measure a channel, and check that every message arrives once and unaltered in every group
#[derive(clap::Args)]
pub struct Args {
    /// Senders
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    senders: u16,
    /// Receivers in each group
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    receivers: u16,
    /// Groups: each gets every message
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    groups: u16,
    /// Bytes a message: a number, or a range such as 0..65536 to choose from at random
    #[arg(long, default_value = "100")]
    size: Sizes,
    /// Messages
    #[arg(long, default_value_t = 5_000_000)]
    count: u64,
    /// Bytes a page
    #[arg(long, default_value = "16M", value_parser = crate::bytes)]
    page_size: usize,
    /// Pages
    #[arg(long, default_value_t = 16)]
    pages: usize,
    /// The file to create; it must not exist and stays [default: a temporary file]
    #[arg(long)]
    path: Option<PathBuf>,
    /// Who sends and receives
    #[arg(long, value_enum, default_value_t = Mode::Blocking)]
    mode: Mode,
    /// What a sender does when the ring is full
    #[arg(long, value_enum, default_value_t = Full::Block)]
    overflow: Full,
    /// Where the contents and random sizes follow from [default: the time]
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// A thread for each
    Blocking,
    /// A tokio task for each
    Async,
}

#[derive(Clone, Copy, ValueEnum)]
enum Full {
    /// Wait for the slowest group
    Block,
    /// Let the oldest page go; the groups count what they lost
    DropOldest,
}

/// What a worker hands back: a sender its tally, a receiver its group and what it saw.
enum Report {
    Sent(Tally),
    Received(usize, Box<Check>),
}

pub fn run(args: &Args) -> Outcome<()> {
    let seed = args.seed.unwrap_or_else(|| {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        since.as_micros() as u64
    });
    let channel = create(args)?;
    println!(
        "{} messages of {}, {} senders, {} receivers in each of {} groups, {}",
        args.count,
        args.size,
        args.senders,
        args.receivers,
        args.groups,
        match args.mode {
            Mode::Blocking => "blocking threads",
            Mode::Async => "async tasks",
        },
    );
    println!("{} pages of {} bytes in {}, seed {seed}", args.pages, args.page_size, channel.path().display());

    let threads = usize::from(args.senders) + usize::from(args.receivers) * usize::from(args.groups);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().max_blocking_threads(threads).build()?;
    let plan = Arc::new(Plan::new(args.count, args.senders, args.size, seed));
    let (workers, progress) = spawn(args, &plan, channel, runtime.handle())?;
    let expected = args.count * u64::from(args.groups);
    let reports = runtime.block_on(watch(workers, &progress, expected));
    // Whoever is stuck after a failure ends with the process.
    runtime.shutdown_background();
    report(args, reports?)
}

/// Starts the receivers, then the senders. The handle ends here, so that the receivers end with the last sender.
fn spawn(
    args: &Args,
    plan: &Arc<Plan>,
    channel: Channel,
    runtime: &Handle,
) -> Outcome<(JoinSet<Outcome<Report>>, Vec<Progress>)> {
    let mut workers = JoinSet::new();
    let mut all_progress = Vec::new();
    for group in 0..usize::from(args.groups) {
        let receiver = channel.blocking_subscribe(group)?;
        for _ in 0..args.receivers {
            let progress = Progress::default();
            all_progress.push(progress.clone());
            let check = Check::new(plan.clone(), progress);
            let receiver = receiver.clone();
            match args.mode {
                Mode::Blocking => workers.spawn_blocking_on(move || receive_blocking(group, receiver, check), runtime),
                Mode::Async => workers.spawn_on(receive(group, receiver, check), runtime),
            };
        }
    }
    for number in 0..args.senders {
        let maker = Maker::new(plan.clone(), number.into());
        let sender = channel.sender();
        match args.mode {
            Mode::Blocking => workers.spawn_blocking_on(|| send_blocking(sender, maker), runtime),
            Mode::Async => workers.spawn_on(send(sender, maker), runtime),
        };
    }
    Ok((workers, all_progress))
}

fn create(args: &Args) -> Outcome<Channel> {
    let options = Options::new()
        .page_size(args.page_size)
        .max_pages(args.pages)
        .max_groups(usize::from(args.groups).max(64))
        .overflow(match args.overflow {
            Full::Block => Overflow::Block,
            Full::DropOldest => Overflow::DropOldest,
        })
        .create(Create::CreateNew);
    let name = format!("disk-chan-bench-{}.chan", std::process::id());
    let temporary = std::env::temp_dir().join(name);
    let path = args.path.as_ref().unwrap_or(&temporary);
    let channel = options.blocking_open(path)?;
    let (most, max) = (args.size.most, channel.max_message_len());
    if args.path.is_none() || most > max {
        // The open file needs no name: without one it goes with this process, however that ends.
        std::fs::remove_file(path)?;
    }
    if most > max {
        let page = args.page_size;
        return Err(
            format!("a message of {most} bytes does not fit: with pages of {page} bytes {max} is the most").into()
        );
    }
    Ok(channel)
}

fn send_blocking(sender: Sender, mut maker: Maker) -> Outcome<Report> {
    while let Some(message) = maker.next() {
        sender.blocking_send(message)?;
    }
    Ok(Report::Sent(maker.tally))
}

async fn send(sender: Sender, mut maker: Maker) -> Outcome<Report> {
    while let Some(message) = maker.next() {
        sender.send(message).await?;
    }
    Ok(Report::Sent(maker.tally))
}

fn receive_blocking(group: usize, mut receiver: Receiver, mut check: Check) -> Outcome<Report> {
    loop {
        match receiver.blocking_recv() {
            Ok(message) => check.take(&message),
            Err(RecvError::Lagged(count)) => check.lagged += count,
            Err(RecvError::Disconnected) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Report::Received(group, Box::new(check.finish())))
}

async fn receive(group: usize, mut receiver: Receiver, mut check: Check) -> Outcome<Report> {
    loop {
        match receiver.recv().await {
            Ok(message) => check.take(&message),
            Err(RecvError::Lagged(count)) => check.lagged += count,
            Err(RecvError::Disconnected) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Report::Received(group, Box::new(check.finish())))
}

/// Waits for all workers and shows how far they are. Ends at the first error, panic or long silence.
async fn watch(mut workers: JoinSet<Outcome<Report>>, progress: &[Progress], expected: u64) -> Outcome<Vec<Report>> {
    let style = "{wide_bar} {human_pos}/{human_len} {per_sec} {eta}";
    let bar = ProgressBar::new(expected).with_style(ProgressStyle::with_template(style)?);
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut reports = Vec::new();
    let mut last = (0, Instant::now());
    let outcome = loop {
        tokio::select! {
            done = workers.join_next() => match done {
                None => break Ok(reports),
                Some(Ok(Ok(report))) => reports.push(report),
                Some(Ok(Err(error))) => break Err(error),
                Some(Err(error)) => break Err(format!("a worker did not end well: {error}").into()),
            },
            _ = tick.tick() => {
                // Relaxed: a picture for the eye.
                let now = progress.iter().map(|p| p.load(Ordering::Relaxed)).sum();
                bar.set_position(now);
                if now != last.0 {
                    last = (now, Instant::now());
                } else if last.1.elapsed() > STUCK {
                    let silence = STUCK.as_secs();
                    break Err(format!("stuck: nothing received for {silence} s, at {now} of {expected}").into());
                }
            }
        }
    };
    bar.finish_and_clear();
    outcome
}

fn report(args: &Args, reports: Vec<Report>) -> Outcome<()> {
    let mut sent = Tally::default();
    let mut groups: Vec<Option<Check>> = (0..args.groups).map(|_| None).collect();
    for report in reports {
        match report {
            Report::Sent(tally) => sent.merge(tally),
            Report::Received(group, check) => match &mut groups[group] {
                Some(all) => all.merge(*check),
                none => *none = Some(*check),
            },
        }
    }
    let groups: Vec<Check> = groups.into_iter().flatten().collect();

    let end = groups.iter().map(|group| group.end).max();
    let seconds = end.unwrap_or_default().as_secs_f64();
    let received = |of: fn(&Tally) -> u64| groups.iter().map(|g| of(&g.tally)).sum::<u64>() as f64;
    println!("time      {seconds:.3} s");
    println!(
        "sent      {:.0} messages/s, {:.1} MB/s",
        sent.messages as f64 / seconds,
        sent.bytes as f64 / seconds / 1e6
    );
    println!(
        "received  {:.0} messages/s, {:.1} MB/s",
        received(|t| t.messages) / seconds,
        received(|t| t.bytes) / seconds / 1e6
    );
    let mut latency = groups[0].latency.clone();
    for group in &groups[1..] {
        latency += &group.latency;
    }
    if !latency.is_empty() {
        let at = |part: f64| latency.value_at_quantile(part) as f64 / 1e3;
        println!(
            "latency   p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us \
             (send to receive, time in the ring included; {} samples)",
            at(0.5),
            at(0.99),
            at(0.999),
            latency.max() as f64 / 1e3,
            latency.len()
        );
    }

    let mut lagged = 0;
    for (number, group) in groups.iter().enumerate() {
        if let Err(fault) = group.verdict(&sent) {
            return Err(format!("verification failed in group {number}: {fault}").into());
        }
        if group.lagged > 0 {
            let (received, sent) = (group.tally.messages, sent.messages);
            println!("group {number}: {received} received once + {} counted as lagged = {sent} sent", group.lagged);
        }
        lagged += group.lagged;
    }
    if sent.messages != args.count {
        return Err(format!("{} messages sent instead of {}", sent.messages, args.count).into());
    }
    if lagged == 0 {
        println!("every message arrived once in each of {} groups", groups.len());
    }
    Ok(())
}
