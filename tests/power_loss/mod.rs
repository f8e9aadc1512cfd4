//! Loss of power, simulated: the shipped code runs on a file whose every store and sync is logged, and
//! what could be on the disk if the power went at some moment is composed from that log, opened by the
//! shipped code, and compared with what was promised.
//!
//! `hook` is where stores and syncs come from, `disk` what can be on the disk, `model` what was promised,
//! `look` what is there, `world` a channel with its disk and its model, `history` what happens to it.
//!
//! - `DISK_CHAN_SEED`: the first history; a failure prints that of its own.
//! - `DISK_CHAN_POWER_IMAGES`: how many images, instead of a time.
//! - `DISK_CHAN_POWER_K`: up to how many sectors all choices of old and new are tried.

mod disk;
mod history;
pub(crate) mod hook;
mod look;
mod model;
mod rng;
mod world;

use history::{History, Tried};
use rng::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};
use world::{Pool, World};

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value}")))
}

fn seed() -> u64 {
    let now = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64 >> 10);
    number("DISK_CHAN_SEED").unwrap_or_else(now)
}

/// Runs a history, and if it fails says which it was and what led there.
fn attempt(what: &str, seed: u64, history: &mut History<'_>, run: impl FnOnce(&mut History<'_>) -> Result<(), String>) {
    let outcome = catch_unwind(AssertUnwindSafe(|| run(history)));
    if !matches!(outcome, Ok(Ok(()))) {
        println!("{what}: DISK_CHAN_SEED={seed}\n{}", history.story());
    }
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(broken)) => panic!("{what}, DISK_CHAN_SEED={seed}: {broken}"),
        Err(panic) => resume_unwind(panic),
    }
}

#[test]
fn random() {
    const USUAL: Duration = Duration::from_secs(25);
    let first = seed();
    let images = number("DISK_CHAN_POWER_IMAGES");
    let started = Instant::now();
    let (tried, next, failed) = (Tried::default(), AtomicU64::new(first), AtomicBool::new(false));
    let enough = || images.is_none() && started.elapsed() > USUAL || failed.load(Relaxed);
    let images = images.unwrap_or(u64::MAX);
    println!("random: DISK_CHAN_SEED={first}");
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let pool = Pool::new();
                let ended = catch_unwind(AssertUnwindSafe(|| {
                    while !enough() && tried.images.load(Relaxed) < images {
                        let seed = next.fetch_add(1, Relaxed);
                        let options = history::options(&mut Rng(seed ^ 0xface));
                        let (mut history, world) = History::new(seed, &tried, &pool, options);
                        attempt("random", seed, &mut history, |h| h.run(world, images, enough));
                    }
                }));
                if let Err(panic) = ended {
                    failed.store(true, Relaxed);
                    resume_unwind(panic);
                }
            });
        }
    });
    tried.print("random", started.elapsed().as_secs_f64());
}

/// Everything that can be on the disk, where few sectors were stored to: each old or new.
#[test]
fn exhaustive() {
    const USUAL: Duration = Duration::from_secs(12);
    let (first, most) = (seed(), number("DISK_CHAN_POWER_K").unwrap_or(11) as usize);
    let started = Instant::now();
    let (tried, next, runs) = (Tried::default(), AtomicU64::new(first), AtomicU64::new(0));
    let enough = || started.elapsed() > USUAL && runs.load(Relaxed) >= if most > 11 { 2 } else { 8 };
    println!("exhaustive: up to {most} sectors, DISK_CHAN_SEED={first}");
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let pool = Pool::new();
                while !enough() {
                    let seed = next.fetch_add(1, Relaxed);
                    let options = history::options(&mut Rng(seed ^ 0xface));
                    let (mut history, world) = History::new(seed, &tried, &pool, options);
                    attempt("exhaustive", seed, &mut history, |h| h.run_exhaustively(world, most));
                    runs.fetch_add(1, Relaxed);
                }
            });
        }
    });
    tried.print("exhaustive", started.elapsed().as_secs_f64());
}

/// The syncs of the standard library, of the mapping and of the shipped code come to the simulator.
#[test]
fn syncs_are_seen() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let map = memmap2::MmapRaw::map_raw(&file).unwrap();
    let syncs: [&dyn Fn(); 4] =
        [&|| file.sync_data().unwrap(), &|| file.sync_all().unwrap(), &|| map.flush().unwrap(), &|| {
            crate::sys::sync(&file).unwrap()
        }];
    for sync in syncs {
        let before = hook::SYNCS.load(Relaxed);
        sync();
        assert!(hook::SYNCS.load(Relaxed) > before);
    }
}

/// Where the power goes around a clean close and an open: what the header calls clean is all there.
#[test]
fn a_clean_close_comes_after_the_data() {
    one_after_the_other("a clean close", 3, |h, world| h.close_and_open(world));
}

/// A durable send that begins while a sync runs is not covered by it.
#[test]
fn who_comes_during_a_sync_waits_for_the_next() {
    let (seed, tried, pool) = (seed(), Tried::default(), Pool::new());
    let options = history::options(&mut Rng(seed)).durability(crate::Durability::Buffered);
    let (mut history, world) = History::new(seed, &tried, &pool, options);
    attempt("who comes during a sync", seed, &mut history, |h| h.two_senders_and_a_sync(world));
}

/// A sync that fails promises nothing, and neither does anything after it until the channel was opened
/// again.
#[test]
fn a_sync_that_fails() {
    one_after_the_other("a sync that fails", 150, |h, world| h.fail_a_sync(world));
}

/// So many histories, or as many as it takes for the images that were asked for.
fn one_after_the_other(what: &str, usual: u64, run: fn(&mut History<'_>, World) -> Result<(), String>) {
    let (first, tried, pool) = (seed(), Tried::default(), Pool::new());
    let images = number("DISK_CHAN_POWER_IMAGES");
    let started = Instant::now();
    println!("{what}: DISK_CHAN_SEED={first}");
    for n in 0.. {
        if images.map_or(n >= usual, |images| tried.images.load(Relaxed) >= images) {
            break;
        }
        let seed = first.wrapping_add(n);
        let (mut history, world) = History::new(seed, &tried, &pool, history::options(&mut Rng(seed)));
        attempt(what, seed, &mut history, |h| run(h, world));
    }
    tried.print(what, started.elapsed().as_secs_f64());
}
