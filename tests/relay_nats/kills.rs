//! Relays and servers that are killed, stopped, and more than one.

use std::future::pending;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Config;
use disk_chan::relay::{Nats, Relay};
use disk_chan::{Channel, Create, Headers, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Dir, PAGE, PATIENCE, body, within};
use crate::in_order;
use crate::server::Server;

const FILE: &str = "DISK_CHAN_RELAY_FILE";
const TO: &str = "DISK_CHAN_RELAY_TO";
const GROUP: &str = "to-nats";

/// In a child: relays until it is killed, and leaves a file when it is the active one.
#[test]
fn child_relays() {
    let (Some(file), Ok(to)) = (std::env::var_os(FILE), std::env::var(TO)) else { return };
    let file = PathBuf::from(file);
    let channel = Options::new().create(Create::OpenExisting).blocking_open(&file).unwrap();
    let sign = file.with_extension(format!("active-{}", std::process::id()));
    let relay = Relay::new(&channel, GROUP).backoff(Duration::from_millis(10), Duration::from_millis(200)).on_status(
        move |status| {
            if status.active {
                std::fs::write(&sign, "").unwrap();
            }
        },
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(relay.run(Nats::new(&to).unwrap(), pending()));
    panic!("the relay ended: {ended:?}");
}

struct Relayer(Child);

impl Relayer {
    fn start(dir: &Dir, to: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kills::child_relays", "--nocapture"])
            .env(FILE, dir.file())
            .env(TO, to)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn is_active(&self, dir: &Dir) -> bool {
        dir.file().with_extension(format!("active-{}", self.0.id())).exists()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    fn kill(&mut self) {
        assert_eq!(self.0.try_wait().unwrap(), None, "the relay ended by itself");
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Relayer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn parameter(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A generator for choices of the test.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = parameter("DISK_CHAN_SEED", now);
        eprintln!("DISK_CHAN_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn channel(dir: &Dir) -> Channel {
    // A death counts as an attempt of what was in flight.
    Options::new().page_size(8 * PAGE).max_pages(4).max_opens(32).max_attempts(4000).blocking_open(dir.file()).unwrap()
}

/// Sends messages of these numbers, some with headers, from four threads.
fn send(channel: &Channel, count: u64) -> Vec<thread::JoinHandle<()>> {
    let sender = |which| {
        let tx = channel.sender();
        thread::spawn(move || {
            for n in (which..count).step_by(4) {
                let message = body(n, 8 + (n % 200) as usize);
                if n.is_multiple_of(10) {
                    let headers = Headers::new().key(format!("key {n}")).with("number", n.to_string());
                    tx.blocking_send(headers.message(message).unwrap()).unwrap();
                } else {
                    tx.blocking_send(message).unwrap();
                }
            }
        })
    };
    (0..4).map(sender).collect()
}

/// How many the group is done with.
fn done(channel: &Channel, sent: u64) -> u64 {
    sent - channel.groups().iter().find(|group| group.name.as_str() == GROUP).map_or(0, |group| group.lag)
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE * 2, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn create_stream(server: &Server, duplicate_window: Duration) {
    let config =
        Config { name: "ORDERS".into(), subjects: vec!["orders".into()], duplicate_window, ..Default::default() };
    block_on(async { server.context().await.create_stream(config).await.unwrap() });
}

/// Everything that was sent is in the stream, and nothing else.
fn check(server: &Server, channel: &Channel, count: u64) {
    let messages = block_on(server.messages("ORDERS", "orders"));
    let numbers = in_order(&messages, channel.uuid());
    assert_eq!(numbers.len() as u64, count, "messages in the stream");
    assert!(numbers.into_iter().eq(0..count));
    for message in &messages {
        let n = crate::common::number(&message.payload);
        let headers = message.headers.as_ref().unwrap();
        let get = |name| headers.get(name).map(|value| value.as_str().to_owned());
        assert!(get("Disk-Chan-Sent").is_some_and(|sent| sent.parse::<u64>().is_ok()));
        let has_headers = n.is_multiple_of(10);
        assert_eq!(get("number"), has_headers.then(|| n.to_string()));
        assert_eq!(get("Disk-Chan-Key"), has_headers.then(|| format!("key%20{n}")));
    }
}

/// The relay is killed again and again, and so is the server; each stays away for a while.
fn killed(duplicate_window: Duration, away: Duration) {
    let count = parameter("DISK_CHAN_RELAY_MESSAGES", 20_000);
    let relay_kills = parameter("DISK_CHAN_RELAY_KILLS", 10);
    let server_kills = parameter("DISK_CHAN_SERVER_KILLS", 3);
    within(600, move || {
        let (dir, mut server, mut chance) = (Dir::new(), Server::start(), Chance::new());
        create_stream(&server, duplicate_window);
        let channel = channel(&dir);
        channel.blocking_subscribe(GROUP).unwrap();
        let to = format!("{}/ORDERS/orders", server.url());
        let mut relay = Relayer::start(&dir, &to);
        let senders = send(&channel, count);
        let kills = relay_kills + server_kills;
        let mut servers: Vec<bool> = (0..kills).map(|n| n < server_kills).collect();
        for n in (1..servers.len()).rev() {
            servers.swap(n, chance.below(n as u64 + 1) as usize);
        }
        for (n, is_server) in servers.into_iter().enumerate() {
            // After some progress, or some time without.
            let (start, limit) = (Instant::now(), Duration::from_millis(20 + chance.below(600)));
            let goal = (n as u64 + 1) * count / (kills + 1);
            while start.elapsed() < limit || channel.stats().len == 0 {
                let relayed = block_on_relayed(&channel);
                if relayed >= goal && start.elapsed() > Duration::from_millis(chance.below(50)) {
                    break;
                }
                thread::sleep(Duration::from_millis(5));
            }
            if is_server {
                server.kill();
                thread::sleep(away + Duration::from_millis(chance.below(200)));
                server.restart();
            } else {
                relay.kill();
                thread::sleep(away);
                relay = Relayer::start(&dir, &to);
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        wait_until("everything is relayed", || done(&channel, count) == count);
        relay.kill();
        check(&server, &channel, count);
    });
}

fn block_on_relayed(channel: &Channel) -> u64 {
    channel.relays().first().map_or(0, |status| status.relayed)
}

#[test]
fn relays_and_servers_that_are_killed_lose_and_double_nothing() {
    killed(Duration::from_secs(120), Duration::ZERO);
}

#[test]
fn nor_do_breaks_that_are_longer_than_the_duplicate_window() {
    killed(Duration::from_secs(1), Duration::from_millis(1200));
}

#[test]
fn a_relay_that_is_stopped_and_goes_on_doubles_and_reorders_nothing() {
    within(300, || {
        let (dir, server) = (Dir::new(), Server::start());
        create_stream(&server, Duration::from_secs(1));
        // Its leases are taken away meanwhile.
        let channel = Options::new()
            .page_size(8 * PAGE)
            .max_pages(4)
            .max_attempts(4000)
            .lease_timeout(Duration::from_millis(300))
            .blocking_open(dir.file())
            .unwrap();
        channel.blocking_subscribe(GROUP).unwrap();
        let to = format!("{}/ORDERS/orders", server.url());
        let relays = [Relayer::start(&dir, &to), Relayer::start(&dir, &to)];
        wait_until("one of them is active", || relays.iter().any(|relay| relay.is_active(&dir)));
        let count = 20_000;
        let senders = send(&channel, count);
        wait_until("it relays", || done(&channel, count) > 1000 || channel.stats().page_turns > 0);
        let active = relays.iter().find(|relay| relay.is_active(&dir)).unwrap();
        active.signal(Signal::SIGSTOP);
        thread::sleep(Duration::from_secs(parameter("DISK_CHAN_STOPPED_SECONDS", 3)));
        active.signal(Signal::SIGCONT);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        wait_until("everything is relayed", || done(&channel, count) == count);
        check(&server, &channel, count);
    });
}

#[test]
fn another_relay_takes_over_from_one_that_dies() {
    within(120, || {
        let (dir, server) = (Dir::new(), Server::start());
        let channel = channel(&dir);
        channel.blocking_subscribe(GROUP).unwrap();
        let to = format!("{}/ORDERS/orders", server.url());
        let mut relays = vec![Relayer::start(&dir, &to), Relayer::start(&dir, &to)];
        let mut count = 0;
        for _ in 0..5 {
            wait_until("one of them is active", || relays.iter().any(|relay| relay.is_active(&dir)));
            let at = relays.iter().position(|relay| relay.is_active(&dir)).unwrap();
            assert!(!relays[1 - at].is_active(&dir), "one at a time");
            relays.remove(at).kill();
            let start = Instant::now();
            channel.sender().blocking_send(body(count, 8)).unwrap();
            count += 1;
            wait_until("the other one relays", || done(&channel, count) == count);
            eprintln!("taken over and relayed after {:?}", start.elapsed());
            relays.push(Relayer::start(&dir, &to));
        }
        let messages = block_on(server.messages("ORDERS", "orders"));
        assert!(in_order(&messages, channel.uuid()).into_iter().eq(0..count));
    });
}

/// As by two relays of one group, neither of which waits for the other: the server keeps them apart.
#[test]
fn two_relays_at_once_double_and_reorder_nothing() {
    within(120, || {
        let (dir, server) = (Dir::new(), Server::start());
        create_stream(&server, Duration::from_millis(100));
        let channel = channel(&dir);
        let to = format!("{}/ORDERS/orders", server.url());
        let count = 20_000;
        for group in ["a", "b"] {
            channel.blocking_subscribe(group).unwrap();
        }
        let senders = send(&channel, count);
        let relay = |group| {
            let pauses = (Duration::from_millis(1), Duration::from_millis(20));
            let (relay, to) = (Relay::new(&channel, group).backoff(pauses.0, pauses.1), to.clone());
            thread::spawn(move || block_on(relay.run(Nats::new(&to).unwrap(), pending())).unwrap())
        };
        let relays = ["a", "b"].map(relay);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        channel.close();
        for relay in relays {
            assert_eq!(relay.join().unwrap().refused, 0);
        }
        check(&server, &channel, count);
    });
}
