//! What the tests do with a relay, and what they find in a stream.

use crate::common::{PATIENCE, body, eventually, number, small};
use crate::server::Server;
use disk_chan::relay::{Relay, RelayError, RelayStatus, Sink};
use disk_chan::{Channel, DeadLetter, Headers, Offset, Options, Sender};
use redis::Value;
use std::time::{Duration, UNIX_EPOCH};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Of an entry, as the server says them.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The group that is relayed.
pub const GROUP: &str = "to redis";

/// A small ring with dead letters.
pub fn spool() -> Options {
    small().max_attempts(4000)
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Without long pauses.
pub fn quick(relay: Relay) -> Relay {
    relay.backoff(Duration::from_millis(5), Duration::from_millis(50))
}

/// A relay that runs in this process.
pub struct Running {
    runtime: Runtime,
    task: JoinHandle<Result<RelayStatus, RelayError>>,
    stop: oneshot::Sender<()>,
}

impl Running {
    /// Starts one.
    pub fn start(channel: &Channel, group: &str, sink: impl Sink + Sync + 'static) -> Self {
        let relay = quick(Relay::new(channel, group));
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let runtime = runtime();
        let task = runtime.spawn(async move { relay.run(sink, stopped).await });
        Self { runtime, task, stop }
    }

    /// Tells it to stop, and waits for its end.
    pub fn stop(self) -> Result<RelayStatus, RelayError> {
        let _ = self.stop.send(());
        self.runtime.block_on(self.task).unwrap()
    }

    /// Waits for its end.
    pub fn end(self) -> Result<RelayStatus, RelayError> {
        let Self { runtime, task, stop } = self;
        let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, task).await });
        drop(stop);
        ended.expect("the relay does not end").unwrap()
    }
}

/// How many messages the group is not done with.
pub fn lag(channel: &Channel, group: &str) -> u64 {
    channel.groups().into_iter().find(|stats| stats.name == group.into()).map_or(u64::MAX, |stats| stats.lag)
}

/// Waits until the group is done with all.
pub fn all_done(channel: &Channel, group: &str) {
    eventually("the group is done with all", || lag(channel, group) == 0);
}

/// Fails if there are dead letters.
pub fn no_dead_letters(channel: &Channel) {
    assert_eq!(dead_letters(channel), [0; 0]);
}

/// The numbers of the messages that are dead letters.
pub fn dead_letters(channel: &Channel) -> Vec<u64> {
    let mut letters = channel.blocking_dead_letters().unwrap();
    std::iter::from_fn(|| letters.try_recv().ok().map(|letter| number(DeadLetter::parse(&letter).unwrap().message())))
        .collect()
}

/// What goes with a message of this number.
fn headers(n: u64) -> Headers {
    let mut headers = Headers::new();
    if n.is_multiple_of(3) {
        headers = headers.key(n.to_be_bytes());
    }
    if n.is_multiple_of(2) {
        headers = headers.with("traceparent", format!("00-{n}")).with("ö \n", [0, 255, n as u8]);
        headers = headers.with("traceparent", "");
    }
    headers
}

/// Sends messages of `len` bytes with these numbers, some with headers; says where each is.
pub fn send(tx: &Sender, numbers: impl IntoIterator<Item = u64>, len: usize) -> Vec<(Offset, u64)> {
    let send = |n| match headers(n) {
        none if none == Headers::new() => tx.blocking_send(body(n, len)),
        some => tx.blocking_send(some.message(body(n, len)).unwrap()),
    };
    numbers.into_iter().map(|n| (send(n).unwrap(), n)).collect()
}

/// Sends such messages until the ring is full.
pub fn fill(tx: &Sender, first: u64, len: usize) -> Vec<(Offset, u64)> {
    let sent = (first..).map(|n| match tx.try_send(headers(n).message(body(n, len)).unwrap()) {
        Ok(offset) => Some((offset, n)),
        Err(error) if error.is_full() => None,
        Err(error) => panic!("{error}"),
    });
    sent.map_while(|sent| sent).collect()
}

/// The first part of the ids of a channel.
pub fn created(channel: &Channel) -> u64 {
    channel.created_at().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// An entry of a stream: its id, and its fields.
pub type Entry = ((u64, u64), Vec<(Vec<u8>, Vec<u8>)>);

/// All entries of the key, in their order.
pub fn entries(server: &Server) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let from = entries.last().map_or("-".to_owned(), |((first, second), _)| format!("({first}-{second}"));
        let more: Vec<(String, Fields)> = server.ask(&["XRANGE", "KEY", &from, "+", "COUNT", "1000"]);
        if more.is_empty() {
            return entries;
        }
        entries.extend(more.into_iter().map(|(id, fields)| (parsed(&id), fields)));
    }
}

fn parsed(id: &str) -> (u64, u64) {
    let (first, second) = id.split_once('-').unwrap();
    (first.parse().unwrap(), second.parse().unwrap())
}

/// How many entries the key has.
pub fn len(server: &Server) -> u64 {
    server.ask(&["XLEN", "KEY"])
}

/// Where each message of the channel is, and its number, by the stream; every byte of every entry is checked.
pub fn relayed(server: &Server, channel: &Channel) -> Vec<(Offset, u64)> {
    let ours = entries(server).into_iter().filter(|((first, _), _)| *first == created(channel));
    ours.map(|((_, offset), fields)| (Offset::from_u64(offset), checked(channel, &fields))).collect()
}

fn checked(channel: &Channel, fields: &[(Vec<u8>, Vec<u8>)]) -> u64 {
    let n = number(&fields.last().unwrap().1);
    let sent: u64 = std::str::from_utf8(&fields[1].1).unwrap().parse().unwrap();
    let now = UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    assert!(created(channel) <= sent + 100 && sent <= now, "sent at {sent}, now it is {now}");
    let mut expected: Vec<(Vec<u8>, Vec<u8>)> =
        vec![("channel".into(), format!("{:032x}", channel.uuid()).into()), ("sent".into(), fields[1].1.clone())];
    if n.is_multiple_of(3) {
        expected.push(("key".into(), n.to_be_bytes().into()));
    }
    if n.is_multiple_of(2) {
        expected.push(("header:traceparent".into(), format!("00-{n}").into()));
        expected.push(("header:ö \n".into(), [0, 255, n as u8].into()));
        expected.push(("header:traceparent".into(), "".into()));
    }
    expected.push(("message".into(), fields.last().unwrap().1.clone()));
    assert_eq!(fields, expected, "message {n}");
    n
}

/// Adds an entry as somebody else would.
pub fn add_foreign(server: &Server, id: &str) {
    let _: Value = server.ask(&["XADD", "KEY", id, "what", "else"]);
}

/// The text of an error with its causes.
pub fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
