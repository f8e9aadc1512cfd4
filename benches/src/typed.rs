//! What a typed channel costs: beside one of bytes, and the codec by itself.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use disk_chan::{Channel, Codec, Json, Options, Postcard, Receiver, Sender};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::args::Args;
use crate::figures::{Spread, ratio};
use crate::report::Report;

const PAGE: usize = 1 << 20;
const PAGES: usize = 16;
/// Messages of a run that tells how many one of the wanted length has.
const FEW: u64 = 100_000;

/// What is sent: the `n`th differs from the others.
trait Sample: Serialize + DeserializeOwned + Send {
    const NAME: &'static str;

    fn new(n: u64) -> Self;
    fn set(&mut self, n: u64);
    fn number(&self) -> u64;
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Tick {
    id: u64,
    price: u32,
    kind: u8,
}

impl Sample for Tick {
    const NAME: &'static str = "3 numbers";

    fn new(id: u64) -> Self {
        Tick { id, price: 1_234_567, kind: 3 }
    }

    fn set(&mut self, n: u64) {
        self.id = n;
    }

    fn number(&self) -> u64 {
        self.id
    }
}

/// About 100 bytes by postcard.
#[derive(serde::Serialize, serde::Deserialize)]
struct Request {
    id: u64,
    user: String,
    path: String,
    status: u16,
    sizes: [u32; 4],
    referrer: Option<String>,
    cached: bool,
}

impl Sample for Request {
    const NAME: &'static str = "a record with texts";

    fn new(id: u64) -> Self {
        Request {
            id,
            user: "user-0017".into(),
            path: "/api/v2/orders/1234/items".into(),
            status: 200,
            sizes: [123, 45_678, 9, 1_000_000],
            referrer: Some("https://shop.example/basket?step=2".into()),
            cached: false,
        }
    }

    fn set(&mut self, n: u64) {
        self.id = n;
    }

    fn number(&self) -> u64 {
        self.id
    }
}

/// Nanoseconds a message from one thread to another, both blocking.
fn one_to_one(
    channel: &Channel,
    count: u64,
    send: impl FnOnce(Sender, u64) + Send,
    receive: impl FnOnce(Receiver, u64),
) -> f64 {
    let (tx, rx) = (channel.sender(), channel.blocking_subscribe("bench").unwrap());
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || send(tx, count));
        receive(rx, count);
    });
    start.elapsed().as_secs_f64() * 1e9 / count as f64
}

/// Bytes as long as an encoded value, which the receiver looks at.
fn untyped<T: Sample, C: Codec>(channel: &Channel, count: u64) -> f64 {
    let mut bytes = Vec::new();
    C::encode(&T::new(count / 2), &mut bytes).unwrap();
    let send = |tx: Sender, count| (0..count).for_each(|_| _ = tx.blocking_send(&bytes).unwrap());
    let receive = |mut rx: Receiver, count| (0..count).for_each(|_| _ = black_box(rx.blocking_recv().unwrap()[0]));
    one_to_one(channel, count, send, receive)
}

/// The codec alone, in one thread.
fn codec<T: Sample, C: Codec>(_: &Channel, count: u64) -> f64 {
    let (mut value, mut buffer) = (T::new(0), Vec::new());
    let start = Instant::now();
    for n in 0..count {
        value.set(n);
        buffer.clear();
        C::encode(black_box(&value), &mut buffer).unwrap();
        let decoded: T = C::decode(black_box(&buffer)).unwrap();
        assert_eq!(black_box(decoded).number(), n);
    }
    start.elapsed().as_secs_f64() * 1e9 / count as f64
}

/// What a careful user writes without typed channels.
fn by_hand<T: Sample, C: Codec>(channel: &Channel, count: u64) -> f64 {
    let send = |tx: Sender, count| {
        let (mut value, mut buffer) = (T::new(0), Vec::new());
        for n in 0..count {
            value.set(n);
            buffer.clear();
            C::encode(&value, &mut buffer).unwrap();
            tx.blocking_send(&buffer).unwrap();
        }
    };
    let receive = |mut rx: Receiver, count| {
        for n in 0..count {
            let value: T = C::decode(&rx.blocking_recv().unwrap()).unwrap();
            assert_eq!(black_box(value).number(), n);
        }
    };
    one_to_one(channel, count, send, receive)
}

fn typed<T: Sample, C: Codec>(channel: &Channel, count: u64) -> f64 {
    let send = |tx: Sender, count| {
        let (tx, mut value) = (tx.typed_with::<T, C>(), T::new(0));
        for n in 0..count {
            value.set(n);
            tx.blocking_send(&value).unwrap();
        }
    };
    let receive = |rx: Receiver, count| {
        let mut rx = rx.typed_with::<T, C>();
        for n in 0..count {
            assert_eq!(black_box(rx.blocking_recv().unwrap()).number(), n);
        }
    };
    one_to_one(channel, count, send, receive)
}

/// Runs all four in each round, each time beginning with another one.
fn cell<T: Sample, C: Codec>(args: &Args, codec_name: &str) -> Option<Value> {
    let name = format!("{codec_name}, {}", T::NAME);
    if !args.has_cell(&name) {
        return None;
    }
    let dir = args.new_dir();
    let options = Options::new().page_size(PAGE).max_pages(PAGES).trust_file_system(true);
    let channel = options.blocking_open(dir.path().join("typed.chan")).unwrap();
    // What is measured is a ring that has gone round.
    let mut few = f64::NAN;
    while channel.stats().page_turns <= PAGES as u64 {
        few = typed::<T, C>(&channel, FEW);
    }
    let count = (args.seconds * 1e9 / few) as u64;
    let contestants = [untyped::<T, C>, codec::<T, C>, by_hand::<T, C>, typed::<T, C>];
    let mut took = [const { Vec::new() }; 4];
    for round in 0..args.rounds {
        for turn in 0..contestants.len() {
            let who = (round + turn) % contestants.len();
            took[who].push(contestants[who](&channel, count));
        }
    }
    let [untyped, codec, by_hand, typed] = &took;
    let sum: Vec<f64> = untyped.iter().zip(codec).map(|(untyped, codec)| untyped + codec).collect();
    let (to_sum, to_hand) = (ratio(typed, &sum), ratio(typed, by_hand));
    let medians = took.each_ref().map(|took| Spread::of(took).median);
    let medians: String = medians.iter().map(|median| format!(" {median:8.0}")).collect();
    let mut bytes = Vec::new();
    C::encode(&T::new(count / 2), &mut bytes).unwrap();
    println!("{name:30} {:6}{medians} {to_sum:10.2} {to_hand:10.2}", bytes.len());
    let [untyped, codec, by_hand, typed] = took.each_ref().map(|took| Spread::json(took));
    Some(json!({
        "cell": name, "bytes": bytes.len(), "untyped_ns": untyped, "codec_ns": codec, "by_hand_ns": by_hand,
        "typed_ns": typed, "typed_by_untyped_and_codec": to_sum, "typed_by_hand": to_hand,
    }))
}

pub fn typed_channels(args: &Args, report: &mut Report) {
    println!(
        "\n# Typed channels\n\nNanoseconds a message, 1 to 1, blocking, medians of {} rounds of {} s, taking turns: bytes of the \
         same length; encoding and decoding alone;\nboth by hand; the typed channel. Then that by the first two together, and \
         by hand: medians of the rounds.\n\n{:30} {:>6} {:>8} {:>8} {:>8} {:>8} {:>10} {:>10}",
        args.rounds, args.seconds, "", "bytes", "untyped", "codec", "by hand", "typed", "/ both", "/ by hand",
    );
    let cells = [
        cell::<Tick, Postcard>(args, "postcard"),
        cell::<Tick, Json>(args, "json"),
        cell::<Request, Postcard>(args, "postcard"),
        cell::<Request, Json>(args, "json"),
    ];
    report.add("typed", Value::Array(cells.into_iter().flatten().collect()));
}
