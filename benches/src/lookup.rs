//! How long a reader takes to find a message by its offset and by its time, in a small ring and in a large one.

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use disk_chan::{Channel, Offset, Options, Overflow, Start};
use serde_json::{Value, json};

use crate::args::Args;
use crate::figures::Spread;
use crate::report::Report;

const LEN: usize = 1000;
const PAGE: usize = 16 << 20;
/// Messages of one send.
const BATCH: usize = 64;
/// Look-ups of each kind in a round.
const LOOKUPS: u32 = 5000;
/// Places in all parts of a ring.
const FEW: usize = 32;

/// A full ring, where the messages of each hundredth send are, and when they were sent.
struct Ring {
    bytes: usize,
    channel: Channel,
    offsets: Vec<Offset>,
    times: Vec<SystemTime>,
    _dir: tempfile::TempDir,
}

fn fill(args: &Args, bytes: usize) -> Ring {
    let dir = args.new_dir();
    let options = Options::new().page_size(PAGE).max_pages(bytes / PAGE).typical_message_len(LEN);
    let options = options.overflow(Overflow::DropOldest).trust_file_system(true);
    let channel = options.blocking_open(dir.path().join("lookup.chan")).unwrap();
    let (tx, batch) = (channel.sender(), vec![[1; LEN]; BATCH]);
    let (mut offsets, mut times) = (vec![], vec![]);
    for n in 0.. {
        let first = tx.blocking_send_many(&batch).unwrap()[0];
        if n % 100 == 0 {
            offsets.push(first);
            times.push(channel.get(first).unwrap().sent_at());
        }
        if channel.end_offset().page() as usize == bytes / PAGE - 1 {
            break;
        }
    }
    Ring { bytes, channel, offsets, times, _dir: dir }
}

impl Ring {
    /// Nanoseconds of finding and reading a message: at a random offset and a random time, in all of the ring; the same of
    /// a few, in all parts of it, whose blocks the process has mapped already; and of reading the next one.
    fn round(&self, random: &mut u64) -> [f64; 5] {
        let mut reader = self.channel.reader();
        let all = self.offsets.len();
        let mut any = |of: usize| {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*random >> 33) as usize % of * (all / of)
        };
        let timed = |look: &mut dyn FnMut()| {
            let start = Instant::now();
            (0..LOOKUPS).for_each(|_| look());
            start.elapsed().as_secs_f64() * 1e9 / f64::from(LOOKUPS)
        };
        let mut look = |of: usize| {
            let by_offset = timed(&mut || {
                let at = self.offsets[any(of)];
                reader.seek(Start::At(at));
                assert_eq!(black_box(reader.try_read().unwrap()).offset(), at);
            });
            let by_time = timed(&mut || {
                let time = self.times[any(of)];
                reader.seek(Start::Time(time));
                assert!(black_box(reader.try_read().unwrap()).sent_at() >= time);
            });
            [by_offset, by_time]
        };
        let ([offset, time], [few_offset, few_time]) = (look(all), look(FEW));
        reader.seek(Start::At(self.offsets[0]));
        let next = timed(&mut || drop(black_box(reader.try_read().unwrap())));
        [offset, time, few_offset, few_time, next]
    }
}

pub fn lookup(args: &Args, report: &mut Report) {
    let large = if args.full { 8 << 30 } else { 1 << 30 };
    let sizes = [64 << 20, 256 << 20, large];
    let rings = sizes.map(|bytes| fill(args, bytes));
    println!(
        "\n# Finding a message\n\nNanoseconds, {} rounds of {LOOKUPS}; messages of {LEN} bytes, pages of {PAGE} bytes, the rings \
         taking turns.\n\n{:>12} {:>7} {:>14} {:>14} {:>14} {:>14} {:>14}",
        args.rounds, "ring, bytes", "pages", "any offset", "any time", "of 32 offsets", "of 32 times", "the next one",
    );
    // The first looks at a message after it was written have the kernel map it again.
    let mut random = 1;
    let mut figures = sizes.map(|_| [const { Vec::new() }; 5]);
    for round in 0..=args.rounds {
        for (ring, figures) in rings.iter().zip(&mut figures) {
            let took = ring.round(&mut random);
            if round > 0 {
                figures.iter_mut().zip(took).for_each(|(figures, took)| figures.push(took));
            }
        }
    }
    let mut cells = vec![];
    for (ring, figures) in rings.iter().zip(&figures) {
        let medians = figures.each_ref().map(|figures| Spread::of(figures).median);
        let medians: String = medians.iter().map(|median| format!(" {median:14.0}")).collect();
        println!("{:12} {:7}{medians}", ring.bytes, ring.bytes / PAGE);
        let [offset, time, few_offset, few_time, next] = figures.each_ref().map(|figures| Spread::json(figures));
        let mapped = json!({ "offset_ns": few_offset, "time_ns": few_time });
        cells.push(
            json!({ "bytes": ring.bytes, "offset_ns": offset, "time_ns": time, "mapped": mapped, "next_ns": next }),
        );
    }
    let span = rings.last().map(|ring| ring.times[ring.times.len() - 1].duration_since(ring.times[0]));
    let span = span.and_then(Result::ok).unwrap_or(Duration::ZERO);
    println!("\nThe messages of the largest were sent in {:.1} s.", span.as_secs_f64());
    report.add("lookup", Value::Array(cells));
}
