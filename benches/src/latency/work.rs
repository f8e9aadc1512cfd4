//! The timed work of a contestant, in its process.

use std::hint::spin_loop;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::Scenario;
use super::contestants::{Kind, Message, Receive, Send};
use crate::process;

/// Parts of the messages that are faster than the percentiles that are told; the last is the longest of all.
pub const PARTS: [f64; 5] = [0.5, 0.99, 0.999, 0.9999, 1.0];
/// The number of a message that ends an echo.
const END: u64 = u64::MAX;

fn numbered(number: u64, sent_at: u64) -> Message {
    let mut message = [1; size_of::<Message>()];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message[8..16].copy_from_slice(&sent_at.to_le_bytes());
    message
}

fn number_of(message: &Message) -> u64 {
    u64::from_le_bytes(*message.first_chunk().unwrap())
}

fn sent_at(message: &Message) -> u64 {
    u64::from_le_bytes(message[8..16].try_into().unwrap())
}

/// The process: answers seconds by the percentiles, in nanoseconds. Of messages that were due, those from then on come
/// first, and then those from the send on.
pub fn child(args: &[String]) {
    let [kind, scenario, dir] = args else { panic!("arguments: CONTESTANT SCENARIO DIR") };
    let (kind, scenario) = (Kind::named(kind).unwrap(), Scenario::named(scenario).unwrap());
    let dir = Path::new(dir);
    let mut there = kind.pair(dir, "there.chan");
    let mut back = if scenario == Scenario::PingPong { kind.pair(dir, "back.chan") } else { None };
    process::serve(|seconds| {
        let limit = Duration::from_secs_f64(seconds.parse().unwrap());
        let times = match (scenario.pace(), &mut there, &mut back) {
            (None, Some(there), Some(back)) => vec![ping_pong(there, back, limit)],
            (Some(pace), Some(there), _) => one_way(there, pace, limit).into(),
            (Some(pace), None, _) => vec![alone(pace, limit)],
            _ => panic!("{} has no {}", kind.name(), scenario.name()),
        };
        times.into_iter().flat_map(percentiles).collect()
    });
}

fn percentiles(mut times: Vec<u64>) -> [f64; PARTS.len()] {
    times.sort_unstable();
    let at = |part: f64| (times.len() as f64 * part).ceil() as usize;
    PARTS.map(|part| times[at(part).clamp(1, times.len()) - 1] as f64)
}

/// There and back, one message at a time.
fn ping_pong(there: &mut (Send, Receive), back: &mut (Send, Receive), limit: Duration) -> Vec<u64> {
    let ((send, receive_there), (send_back, receive)) = (there, back);
    thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let message = receive_there();
                if number_of(&message) == END {
                    return;
                }
                send_back(&message);
            }
        });
        let start = Instant::now();
        let mut times = Vec::with_capacity(1 << 22);
        let mut before = Duration::ZERO;
        while before < limit {
            let number = times.len() as u64;
            send(&numbered(number, 0));
            assert_eq!(number_of(&receive()), number);
            let now = start.elapsed();
            times.push((now - before).as_nanos() as u64);
            before = now;
        }
        send(&numbered(END, 0));
        times
    })
}

/// Spins until a message is due; how late it is then, in nanoseconds.
fn wait_until(start: Instant, due: u64) -> u64 {
    loop {
        let now = start.elapsed().as_nanos() as u64;
        if now >= due {
            return now - due;
        }
        spin_loop();
    }
}

/// The times when messages are due, in nanoseconds.
fn due(pace: u64, limit: Duration) -> impl Iterator<Item = u64> {
    let interval = 1_000_000_000 / pace;
    (0..(pace as f64 * limit.as_secs_f64()) as u64).map(move |number| number * interval)
}

/// From when each was due, and from when the sender came to it, until it was received.
fn one_way(there: &mut (Send, Receive), pace: u64, limit: Duration) -> [Vec<u64>; 2] {
    let (send, receive) = there;
    // Threads are there when the first message is due.
    let start = Instant::now() + Duration::from_millis(5);
    thread::scope(|scope| {
        let receiving = scope.spawn(move || {
            let mut times = [0, 1].map(|_| vec![0; due(pace, limit).count()]);
            for (number, due) in due(pace, limit).enumerate() {
                let message = receive();
                let now = start.elapsed().as_nanos() as u64;
                assert_eq!(number_of(&message), number as u64, "messages were lost, doubled or altered");
                times[0][number] = now - due;
                times[1][number] = now - sent_at(&message);
            }
            times
        });
        thread::sleep(start.saturating_duration_since(Instant::now()));
        for (number, due) in due(pace, limit).enumerate() {
            let late = wait_until(start, due);
            send(&numbered(number as u64, due + late));
        }
        receiving.join().unwrap()
    })
}

/// How late the thread that paces is without a channel.
fn alone(pace: u64, limit: Duration) -> Vec<u64> {
    let mut times = vec![0; due(pace, limit).count()];
    let start = Instant::now();
    for (due, time) in due(pace, limit).zip(&mut times) {
        *time = wait_until(start, due);
    }
    times
}
