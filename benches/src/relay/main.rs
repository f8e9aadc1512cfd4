//! A relay to NATS JetStream beside a plain publisher: `cargo run --release -p benches --bin relay -- [COUNT [ROUNDS]]`.
//!
//! A `nats-server` of its own runs on the same machine, with its store in a temporary directory. For each window of
//! unconfirmed messages the contestants take turns: a program that publishes with `async-nats` from memory and waits for
//! the oldest confirmation when the window is full, the same with the headers that a relay has to send (what a message is
//! called, what it follows, when it was sent), and a relay of a channel that has as many messages. A ratio is that of a relay
//! to the mean of the publisher before it and the publisher after it. All of it shares the processors with the server. Last
//! a relay to a work queue, where messages go one by one.
//!
//! Then what a send costs its thread in processor time, of ten times as many: with nothing else running, while somebody
//! publishes to the server who has nothing to do with the channel, and while a relay of the channel runs.

#[path = "../machine.rs"]
mod machine;

use std::collections::VecDeque;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, RetentionPolicy};
use async_nats::jetstream::{self, Context, message::PublishMessage};
use disk_chan::relay::{Nats, Relay};
use disk_chan::{Channel, Options};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

const LEN: usize = 100;
const WINDOWS: [usize; 3] = [64, 256, 1024];

struct Server {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let program = if Path::new("/usr/sbin/nats-server").exists() { "/usr/sbin/nats-server" } else { "nats-server" };
        let child = Command::new(program)
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server, of the package of this name");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
        Self { child, port, _dir: dir }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn empty_stream(server: &Server, retention: RetentionPolicy) -> Context {
    let context = jetstream::ContextBuilder::new()
        .max_ack_inflight(1 << 20)
        .build(async_nats::connect(server.url()).await.unwrap());
    let _ = context.delete_stream("BENCH").await;
    let config = Config { name: "BENCH".into(), subjects: vec!["bench".into()], retention, ..Default::default() };
    context.create_stream(config).await.unwrap();
    context
}

async fn count_in_stream(context: &Context) -> u64 {
    context.get_stream("BENCH").await.unwrap().cached_info().state.messages
}

/// Messages a second that a plain publisher gets confirmed.
fn publisher(server: &Server, count: u64, window: usize, with_headers: bool) -> f64 {
    runtime().block_on(async {
        let context = empty_stream(server, RetentionPolicy::Limits).await;
        let publish = {
            let context = context.clone();
            async move {
                let mut acks = VecDeque::new();
                for n in 0..count {
                    if acks.len() == window {
                        let ack: jetstream::context::PublishAckFuture = acks.pop_front().unwrap();
                        ack.await.unwrap();
                    }
                    let message = PublishMessage::build().payload(vec![n as u8; LEN].into());
                    let message = if with_headers { named(message, n) } else { message };
                    acks.push_back(context.send_publish("bench", message).await.unwrap());
                }
                for ack in acks {
                    ack.await.unwrap();
                }
            }
        };
        let start = Instant::now();
        tokio::spawn(publish).await.unwrap();
        let rate = count as f64 / start.elapsed().as_secs_f64();
        assert_eq!(count_in_stream(&context).await, count);
        rate
    })
}

/// With the headers that a relay gives it.
fn named(message: PublishMessage, n: u64) -> PublishMessage {
    let id = |n| format!("{:032x}-{n}", u128::MAX / 3);
    let message = message.message_id(id(n)).header("Disk-Chan-Sent", "1795410442000");
    if n == 0 { message } else { message.expected_last_message_id(id(n - 1)) }
}

fn channel(dir: &TempDir, count: u64) -> Channel {
    let pages = (count as usize * (LEN + 64)).div_ceil(4 << 20) + 2;
    let options = Options::new().page_size(4 << 20).max_pages(pages).max_held(1100);
    options.blocking_open(dir.path().join("bench.chan")).unwrap()
}

/// Messages a second that a relay gets confirmed.
fn relay(server: &Server, count: u64, window: usize, retention: RetentionPolicy) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let channel = channel(&dir, count);
    channel.blocking_subscribe("bench").unwrap();
    let tx = channel.sender();
    for n in 0..count {
        tx.blocking_send(vec![n as u8; LEN]).unwrap();
    }
    channel.close();
    runtime().block_on(async {
        let context = empty_stream(server, retention).await;
        let relay = Relay::new(&channel, "bench").window(window);
        let sink = Nats::new(&format!("{}/BENCH/bench", server.url())).unwrap();
        let start = Instant::now();
        tokio::spawn(async move { relay.run(sink, std::future::pending()).await }).await.unwrap().unwrap();
        let rate = count as f64 / start.elapsed().as_secs_f64();
        assert_eq!(count_in_stream(&context).await, count);
        rate
    })
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Nanoseconds of processor time that a send costs, in a ring whose pages were all written before.
fn sends(channel: &Channel, count: u64) -> f64 {
    let tx = channel.sender();
    let message = [7; LEN];
    let before = processor_time();
    for _ in 0..count {
        tx.blocking_send(message).unwrap();
    }
    (processor_time() - before).as_nanos() as f64 / count as f64
}

fn drain(channel: &Channel) {
    let mut rx = channel.blocking_subscribe("bench").unwrap();
    while rx.try_recv().is_ok() {}
}

/// The same, while a relay runs.
fn sends_beside_a_relay(server: &Server, channel: &Channel, count: u64) -> f64 {
    let runtime = runtime();
    runtime.block_on(empty_stream(server, RetentionPolicy::Limits));
    let relay = Relay::new(channel, "bench");
    let sink = Nats::new(&format!("{}/BENCH/bench", server.url())).unwrap();
    let running = runtime.spawn(async move { relay.run(sink, std::future::pending()).await });
    let is_relayed = |lag| channel.groups()[0].lag <= lag;
    channel.sender().blocking_send([7; LEN]).unwrap();
    while !is_relayed(0) {
        thread::sleep(Duration::from_millis(5));
    }
    let cost = sends(channel, count);
    assert!(!running.is_finished() && !is_relayed(count / 1000), "it relayed beside the sender, and not all of it");
    running.abort();
    let _ = runtime.block_on(running);
    drain(channel);
    cost
}

/// The same, while somebody publishes to the server who has nothing to do with the channel.
fn sends_beside_a_publisher(server: &Server, channel: &Channel, count: u64) -> f64 {
    let (runs, over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(SeqCst) {
                runs.store(true, SeqCst);
                publisher(server, 5000, 256, true);
            }
        });
        while !runs.load(SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(100));
        let cost = sends(channel, count);
        over.store(true, SeqCst);
        cost
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("[COUNT [ROUNDS]]"));
    let (count, rounds) = (args.next().unwrap_or(200_000), args.next().unwrap_or(5));
    machine::print(&std::env::temp_dir());
    let server = Server::start();
    println!("{count} messages of {LEN} bytes, medians of {rounds} rounds, thousand a second");
    println!(
        "{:>8} {:>10} {:>10} {:>8} {:>15} {:>15}",
        "window", "publisher", "headers", "relay", "to publisher", "to headers"
    );
    for window in WINDOWS {
        let (mut plain, mut headed, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            if round > 0 {
                relayed.push(relay(&server, count, window, RetentionPolicy::Limits));
            }
            plain.push(publisher(&server, count, window, false));
            headed.push(publisher(&server, count, window, true));
        }
        let ratio = |to: &[f64]| {
            median(relayed.iter().zip(to.windows(2)).map(|(relay, to)| relay / ((to[0] + to[1]) / 2.0)).collect())
        };
        let (to_plain, to_headed) = (ratio(&plain), ratio(&headed));
        let thousand = |rates| median(rates) / 1e3;
        let (plain, headed, relayed) = (thousand(plain), thousand(headed), thousand(relayed));
        println!("{window:>8} {plain:>10.1} {headed:>10.1} {relayed:>8.1} {to_plain:>15.2} {to_headed:>15.2}");
    }

    let alone = (0..rounds).map(|_| relay(&server, count / 10, 256, RetentionPolicy::WorkQueue)).collect();
    println!("one by one: {:.1}", median(alone) / 1e3);

    let (dir, count) = (tempfile::tempdir().unwrap(), count * 10);
    let channel = channel(&dir, count);
    channel.blocking_subscribe("bench").unwrap();
    // Every page once.
    for _ in 0..3 {
        sends(&channel, count);
        drain(&channel);
    }
    let (mut alone, mut busy, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(sends(&channel, count));
        drain(&channel);
        busy.push(sends_beside_a_publisher(&server, &channel, count));
        drain(&channel);
        beside.push(sends_beside_a_relay(&server, &channel, count));
    }
    let ratio = |to: &[f64]| median(beside.iter().zip(to).map(|(beside, to)| beside / to).collect());
    let (to_alone, to_busy) = (ratio(&alone), ratio(&busy));
    let (alone, busy, beside) = (median(alone), median(busy), median(beside));
    println!(
        "\nprocessor time of a send, in ns: {alone:.0} alone, {busy:.0} beside a publisher, {beside:.0} beside a relay"
    );
    println!("beside a relay to alone {to_alone:.2}, to beside a publisher {to_busy:.2}");
}
