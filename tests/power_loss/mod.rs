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
use world::Pool;

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
