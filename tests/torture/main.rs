//! Senders and receivers as processes over a ring that is always full or always turning, killed and stopped at random
//! and started again; and then the books.
//!
//! A supervisor runs 3 sender processes, one of them with two threads on one `&Sender`, and 5 receiver processes in 3
//! groups, on a ring of 2 to 4 pages of 64 KiB. It kills them, stops and continues them, kills them while they are
//! stopped, lets them end, and lets visitors come and go. What each did it finds in logs that outlive their writers. It
//! checks, after each round of some seconds:
//!
//! - Per message and group: at least once, and every byte of it; under `DropOldest` except what the group's counters
//!   say, within the bounds that follow from whose death left what open.
//! - Again only where the one who had it was killed or gave it back, and with a higher attempt; never after it was done.
//! - Offsets are unique, and ascend for each sender, its restarts included. The first deliveries of a group with one
//!   receiver ascend; with several, those of each.
//! - While nobody is stopped, every group with messages and every sender gets on.
//! - At the end the channel drains, by a close or by the death of the last sender; nothing is held or waits to be handed
//!   out again; every page can be filled and drained; and nobody dead counts as an open.
//!
//! `DISK_CHAN_SEED` replays the plan of a run: who is killed and stopped, and what each worker does; not the scheduler.
//! `DISK_CHAN_TORTURE_SECONDS` is how long each of the two tests runs.

#[path = "../common/mod.rs"]
mod common;
mod history;
mod log;
mod supervisor;
mod worker;

use std::path::Path;
use std::sync::Mutex;

use disk_chan::Overflow;

const ORDER: &str = "DISK_CHAN_TORTURE_ORDER";
const PLACE: &str = "DISK_CHAN_TORTURE_PLACE";

/// What a worker process runs; nothing otherwise.
#[test]
fn worker_process() {
    let (Ok(order), Some(place)) = (std::env::var(ORDER), std::env::var_os(PLACE)) else { return };
    let (logs, file) = supervisor::split_place(&place);
    worker::work(Path::new(&logs), Path::new(&file), &worker::Order::from_text(&order));
}

/// Both use the whole machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn torture(overflow: Overflow) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let seconds = std::env::var("DISK_CHAN_TORTURE_SECONDS").map_or(12, |text| text.parse().unwrap());
    let seed = common::seed();
    common::within(120 + 3 * seconds, move || supervisor::run(overflow, seed, seconds));
}

#[test]
fn killed_and_stopped_over_a_ring_that_blocks() {
    torture(Overflow::Block);
}

#[test]
fn killed_and_stopped_over_a_ring_that_drops() {
    torture(Overflow::DropOldest);
}
